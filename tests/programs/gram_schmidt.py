"""Modified Gram-Schmidt on the columns of a matrix, in place; a least squares fit with the result."""
import numpy as np

SIZES = (7, 3), (40, 24)
ACTIVE = 0, 1


def orthonormalise(A):
    n = A.shape[1]
    R = np.zeros((n, n))
    for k in range(n):
        column = A[:, k]
        R[k, k] = np.sqrt(np.sum(column**2))
        column /= R[k, k]
        for j in range(k + 1, n):
            R[k, j] = column @ A[:, j]
            A[:, j] -= R[k, j] * column
    return R


def program(A, b):
    Q = A.copy()
    R = orthonormalise(Q)
    x = Q.T @ b
    for i in reversed(range(len(x))):
        x[i] -= R[i, i + 1:] @ x[i + 1:]
        x[i] /= R[i, i]
    residual = b - A @ x
    return np.sum(residual**2) + np.sum(np.abs(x))


def arguments(size):
    m, n = size
    rng = np.random.default_rng(8)
    return rng.normal(size=(m, n)), rng.normal(size=m)
