"""Loops whose length depends on the data: Kepler's equation by Newton, the perimeter of an orbit by the AGM."""
import numpy as np

SIZES = 5, 200
ACTIVE = 0, 1


def eccentric_anomaly(mean, e):
    E = mean + e * np.sin(mean)
    while True:
        step = (E - e * np.sin(E) - mean) / (1.0 - e * np.cos(E))
        E -= step
        if abs(step) < 1e-14:
            return E


def perimeter(a, b):
    """Of an ellipse with half axes a and b."""
    axis, weight = a, 1.0
    total = 0.5 * (a**2 + b**2)
    while abs(a - b) > 1e-15 * axis:
        a, b, c = 0.5 * (a + b), np.sqrt(a * b), 0.5 * (a - b)
        total -= weight * c**2
        weight *= 2.0
    return 2.0 * np.pi * total / a


def program(mean, e):
    x = np.zeros(len(mean))
    length = 0.0
    for i, m in enumerate(mean):
        E = eccentric_anomaly(m, e[i])
        x[i] = np.cos(E) - e[i]
        length += perimeter(1.0, np.sqrt(1.0 - e[i] ** 2))
    return np.sum(x**3) + length


def arguments(n):
    rng = np.random.default_rng(13)
    return rng.uniform(0.3, 6.0, n), rng.uniform(0.1, 0.8, n)
