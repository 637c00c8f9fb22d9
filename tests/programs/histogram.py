"""Histogram equalisation: grey levels counted by loops, then mapped through the cumulated histogram."""
import numpy as np

SIZES = 5, 32
ACTIVE = (0,)


def program(image, bins):
    low, high = image.min(), image.max()
    position = (image - low) / (high - low) * bins
    counts = np.zeros(bins)
    mass = np.zeros(bins)
    for p in position.ravel():
        k = min(int(p), bins - 1)
        counts[k] += 1
        mass[k] += p - k  # how full the bin is, beside how many
    cumulated = np.zeros(bins + 1)
    cumulated[1:] = np.cumsum(counts + 0.1 * mass)
    cumulated /= cumulated[-1]
    out = np.empty(image.shape)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            k = min(int(position[i, j]), bins - 1)
            share = position[i, j] - k
            out[i, j] = (1.0 - share) * cumulated[k] + share * cumulated[k + 1]
    return np.sum(np.diff(out, axis=0) ** 2) + np.sum(np.diff(out, axis=1) ** 2)


def arguments(n):
    return np.random.default_rng(23).gamma(2.0, 1.0, size=(n, n)), 8
