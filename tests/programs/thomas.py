"""Tridiagonal systems by Thomas's algorithm: a cubic spline through points, integrated."""
import numpy as np

SIZES = 8, 900
ACTIVE = 0, 1


def tridiagonal(lower, diagonal, upper, rhs):
    """Overwrites diagonal and rhs; the solution is returned in rhs."""
    n = len(rhs)
    for i in range(1, n):
        w = lower[i - 1] / diagonal[i - 1]
        diagonal[i] -= w * upper[i - 1]
        rhs[i] -= w * rhs[i - 1]
    rhs[n - 1] /= diagonal[n - 1]
    for i in range(n - 2, -1, -1):
        rhs[i] = (rhs[i] - upper[i] * rhs[i + 1]) / diagonal[i]
    return rhs


def program(x, y):
    h = np.diff(x)
    slope = np.diff(y) / h
    diagonal = 2.0 * (h[1:] + h[:-1])
    curvature = np.zeros(len(x))
    curvature[1:-1] = tridiagonal(h[1:-1].copy(), diagonal, h[1:-1].copy(), 6.0 * (slope[1:] - slope[:-1]))
    area = 0.0
    for i in range(len(h)):
        area += h[i] * (y[i] + y[i + 1]) / 2.0 - h[i] ** 3 * (curvature[i] + curvature[i + 1]) / 24.0
    return area


def arguments(n):
    rng = np.random.default_rng(4)
    x = np.cumsum(rng.uniform(0.5, 1.5, n))
    return x, np.cos(x) + 0.1 * rng.normal(size=n)
