"""Poisson's equation on a square by over-relaxed Gauss-Seidel sweeps: cells see the new values of their neighbours."""
import numpy as np

SIZES = 6, 20
ACTIVE = 0, 1


def sweep(u, f, h, omega):
    residual = 0.0
    for i in range(1, u.shape[0] - 1):
        for j in range(1, u.shape[1] - 1):
            new = 0.25 * (u[i - 1, j] + u[i + 1, j] + u[i, j - 1] + u[i, j + 1] - h * h * f[i, j])
            change = new - u[i, j]
            u[i, j] += omega * change
            residual += change**2
    return residual


def program(f, edge, sweeps):
    n = f.shape[0]
    u = np.zeros((n, n))
    u[0, :] = edge
    history = []
    for _ in range(sweeps):
        history.append(sweep(u, f, 1.0 / (n - 1), 1.5))
    return np.sum(u[1:-1, 1:-1] ** 2) + 0.1 * np.sqrt(history[-1])


def arguments(n):
    rng = np.random.default_rng(3)
    return rng.normal(size=(n, n)) * 10.0, np.sin(np.linspace(0.0, np.pi, n)), 5
