"""A Chebyshev series summed backwards by Clenshaw's recurrence, its coefficients in a table of the module."""
import numpy as np

SIZES = 4, 400
ACTIVE = 0, 1

COEFFICIENTS = np.array([1.2661, 1.1303, 0.2715, 0.0443, 0.0055, 0.0005, -0.0312, 0.0207, 0.0113, -0.0061,
                         0.0042, -0.0017, 0.0009, 0.0003, -0.0002, 0.0001])
WEIGHTS = np.linspace(0.5, 1.5, 512)


def chebyshev(x):
    b1 = b2 = 0.0
    for k in range(len(COEFFICIENTS) - 1, 0, -1):
        b1, b2 = COEFFICIENTS[k] + 2.0 * x * b1 - b2, b1
    return COEFFICIENTS[0] + x * b1 - b2


def program(x, scale):
    total = 0.0
    for i in range(len(x)):
        total += WEIGHTS[i] * chebyshev(np.tanh(scale * x[i])) ** 2
    return total


def arguments(n):
    return np.random.default_rng(26).normal(size=n), 0.6
