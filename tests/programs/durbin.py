"""Durbin's recursion: the linear predictor of a series from its autocorrelations, with flipped slices in place."""
import numpy as np

SIZES = (20, 4), (900, 300)
ACTIVE = (0,)


def autocorrelations(x, order):
    x = x - x.mean()
    r = np.empty(order + 1)
    for lag in range(order + 1):
        r[lag] = x[lag:] @ x[:len(x) - lag]
    return r / r[0]


def durbin(r):
    y = np.zeros(len(r) - 1)
    error = 1.0
    for k in range(len(y)):
        reflection = -(r[k + 1] + r[k:0:-1] @ y[:k]) / error
        y[:k] += reflection * y[:k][::-1]
        y[k] = reflection
        error *= 1.0 - reflection**2
    return y, error


def program(x, order):
    y, error = durbin(autocorrelations(x, order))
    return np.log(error) + y @ np.cos(np.arange(order))


def arguments(size):
    n, order = size
    rng = np.random.default_rng(9)
    return np.convolve(rng.normal(size=n), [1.0, 0.8, 0.3], mode="same"), order
