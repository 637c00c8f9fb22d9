"""Eigenvalues of a symmetric matrix by Jacobi's rotations on rows and columns in place, until it is diagonal."""
import numpy as np

SIZES = 4, 9
ACTIVE = (0,)


def rotate(A, p, q):
    theta = 0.5 * (A[q, q] - A[p, p]) / A[p, q]
    t = np.sign(theta) / (abs(theta) + np.sqrt(theta**2 + 1.0))
    c = 1.0 / np.sqrt(t**2 + 1.0)
    s = t * c
    for M in (A, A.T):
        row = M[p].copy()
        M[p] = c * row - s * M[q]
        M[q] = s * row + c * M[q]


def program(B):
    A = 0.5 * (B + B.T)
    n = A.shape[0]
    while np.sqrt(np.sum(np.tril(A, -1) ** 2)) > 1e-10:
        for p in range(n):
            for q in range(p + 1, n):
                if abs(A[p, q]) > 1e-14:
                    rotate(A, p, q)
    values = np.sort(np.diagonal(A))
    return np.sum(values * np.arange(1, n + 1)) + np.sum(values**2)


def arguments(n):
    return (np.random.default_rng(29).normal(size=(n, n)) + 2.0 * np.diag(np.arange(n)),)
