"""Diffusion by alternating directions: implicit along the rows, then along the columns, through a transposed view."""
import numpy as np

SIZES = 6, 20
ACTIVE = 0, 1


def implicit_rows(u, out, r):
    """Each row of out solves a tridiagonal system; all rows advance together."""
    m, n = u.shape
    p = np.zeros((m, n))
    q = np.zeros((m, n))
    for j in range(1, n - 1):
        explicit = np.zeros(m)
        explicit[1:-1] = r * u[:-2, j] + (1.0 - 2.0 * r) * u[1:-1, j] + r * u[2:, j]
        pivot = 1.0 + 2.0 * r - r * p[:, j - 1]
        p[:, j] = r / pivot
        q[:, j] = (explicit + r * q[:, j - 1]) / pivot
    for j in range(n - 2, 0, -1):
        out[:, j] = p[:, j] * out[:, j + 1] + q[:, j]


def program(u, r, steps):
    v = np.zeros(u.shape)
    for _ in range(steps):
        implicit_rows(u, v, r)
        implicit_rows(v.T, u.T, r)
    return np.sum(np.abs(u) ** 3)


def arguments(n):
    return np.random.default_rng(7).normal(size=(n, n)), 0.7, 8
