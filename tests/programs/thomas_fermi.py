"""The Thomas-Fermi atom: y'' = y^(3/2) / sqrt(x) on a stretched grid, by Newton with a tridiagonal solve."""
import numpy as np

SIZES = 10, 100
ACTIVE = 0, 1


def newton_step(y, x):
    n = len(y)
    lower, diagonal, upper, rhs = (np.zeros(n) for _ in range(4))
    diagonal[0] = diagonal[-1] = 1.0
    for i in range(1, n - 1):
        left, right = x[i] - x[i - 1], x[i + 1] - x[i]
        a, c = 2.0 / (left * (left + right)), 2.0 / (right * (left + right))
        lower[i], upper[i] = a, c
        diagonal[i] = -a - c - 1.5 * np.sqrt(y[i] / x[i])
        rhs[i] = -(a * y[i - 1] - (a + c) * y[i] + c * y[i + 1] - y[i] ** 1.5 / np.sqrt(x[i]))
    for i in range(1, n):
        w = lower[i] / diagonal[i - 1]
        diagonal[i] -= w * upper[i - 1]
        rhs[i] -= w * rhs[i - 1]
    step = np.empty(n)
    step[-1] = rhs[-1] / diagonal[-1]
    for i in range(n - 2, -1, -1):
        step[i] = (rhs[i] - upper[i] * step[i + 1]) / diagonal[i]
    return step


def program(radius, outer, n):
    x = radius * np.linspace(0.0, 1.0, n) ** 2
    y = 1.0 + (outer - 1.0) * x / radius
    for _ in range(6):
        y += newton_step(y, x)
    dx = np.diff(x)
    energy = 0.0
    for i in range(1, n - 1):
        energy += 0.5 * (dx[i - 1] + dx[i]) * y[i] ** 2.5 / np.sqrt(x[i])
    return energy + (y[1] - y[0]) / dx[0]


def arguments(n):
    return 8.0, 0.03, n
