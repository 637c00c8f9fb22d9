"""Log likelihood of a Gaussian process: kernel matrix and Cholesky factor by element loops."""
import math

import numpy as np

SIZES = 5, 30
ACTIVE = 0, 1, 2


def kernel(x, length, noise):
    n = len(x)
    K = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            K[i, j] = math.exp(-0.5 * ((x[i] - x[j]) / length) ** 2)
            K[j, i] = K[i, j]
        K[i, i] += noise**2
    return K


def cholesky(A):
    n = A.shape[0]
    L = np.zeros_like(A)
    for j in range(n):
        s = A[j, j]
        for k in range(j):
            s -= L[j, k] ** 2
        L[j, j] = np.sqrt(s)
        for i in range(j + 1, n):
            s = A[i, j]
            for k in range(j):
                s -= L[i, k] * L[j, k]
            L[i, j] = s / L[j, j]
    return L


def program(y, length, noise, x):
    L = cholesky(kernel(x, length, noise))
    z = np.zeros(len(y))
    log_det = 0.0
    for i in range(len(y)):
        z[i] = (y[i] - L[i, :i] @ z[:i]) / L[i, i]
        log_det += 2.0 * math.log(L[i, i])
    return -0.5 * (z @ z) - 0.5 * log_det


def arguments(n):
    rng = np.random.default_rng(2)
    x = np.sort(rng.uniform(0.0, 4.0, n))
    return np.sin(x) + 0.1 * rng.normal(size=n), 0.8, 0.3, x
