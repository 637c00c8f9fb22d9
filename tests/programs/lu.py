"""Solves a linear system by LU factorisation with partial pivoting, in place, element by element."""
import numpy as np

SIZES = 5, 22
ACTIVE = 0, 1


def factorise(A):
    n = A.shape[0]
    pivots = np.arange(n)
    for k in range(n):
        best = k
        for i in range(k + 1, n):
            if abs(A[i, k]) > abs(A[best, k]):
                best = i
        if best != k:
            A[[k, best], :] = A[[best, k], :]
            pivots[[k, best]] = pivots[[best, k]]
        for i in range(k + 1, n):
            A[i, k] /= A[k, k]
            for j in range(k + 1, n):
                A[i, j] -= A[i, k] * A[k, j]
    return pivots


def solve(LU, pivots, b):
    n = LU.shape[0]
    x = b[pivots]
    for i in range(n):
        for j in range(i):
            x[i] -= LU[i, j] * x[j]
    for i in reversed(range(n)):
        for j in range(i + 1, n):
            x[i] -= LU[i, j] * x[j]
        x[i] /= LU[i, i]
    return x


def program(A, b):
    pivots = factorise(A)
    log_det = np.sum(np.log(np.abs(np.diag(A))))
    x = solve(A, pivots, b)
    return log_det + np.dot(x, x)


def arguments(n):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, n)) + 2.0 * np.eye(n), rng.normal(size=n)
