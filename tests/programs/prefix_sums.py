"""Prefix sums by doubling, as overlapping in-place adds; then a summed-area table and box means from it."""
import numpy as np

SIZES = 8, 256
ACTIVE = (0,)


def prefix(x):
    shift = 1
    while shift < x.shape[0]:
        x[shift:] += x[:-shift]
        shift *= 2


def program(image, radius):
    weight = np.exp(-image)
    table = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    table[1:, 1:] = weight
    prefix(table[1:, 1:])
    prefix(table[1:, 1:].T)
    w = 2 * radius + 1
    box = table[w:, w:] - table[:-w, w:] - table[w:, :-w] + table[:-w, :-w]
    centre = image[radius:-radius, radius:-radius]
    prefix(image.reshape(-1))
    return np.sum((centre - box / w**2) ** 2) / image.size**2


def arguments(n):
    return np.random.default_rng(12).uniform(0.0, 1.0, size=(n, n)), 1
