"""Conjugate gradients with a sparse matrix in compressed rows, multiplied by loops over indptr."""
import numpy as np

SIZES = (6, 3), (150, 6)
ACTIVE = 0, 1


def multiply(data, indices, indptr, x):
    y = np.zeros(len(indptr) - 1)
    for row in range(len(y)):
        for k in range(indptr[row], indptr[row + 1]):
            y[row] += data[k] * x[indices[k]]
    return y


def program(data, b, indices, indptr, iterations):
    x = np.zeros_like(b)
    r = b.copy()
    p = r.copy()
    rr = r @ r
    for _ in range(iterations):
        Ap = multiply(data, indices, indptr, p)
        alpha = rr / (p @ Ap)
        x += alpha * p
        r -= alpha * Ap
        rr, old = r @ r, rr
        p *= rr / old
        p += r
    return b @ x + np.sqrt(rr)


def arguments(size):
    """A chain of springs with a few links between far ends."""
    n, iterations = size
    rng = np.random.default_rng(22)
    A = np.diag(rng.uniform(3.0, 5.0, n))
    for i, j in [(i, i + 1) for i in range(n - 1)] + [(0, n - 1), (1, n // 2)]:
        A[i, j] = A[j, i] = -rng.uniform(0.5, 1.0)
    rows, indices = np.nonzero(A)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    return A[rows, indices], rng.normal(size=n), indices, indptr, iterations
