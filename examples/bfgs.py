"""A small BFGS with backtracking, so that the examples need nothing but NumPy."""
import numpy as np


def minimise(value, gradient, x, *, tolerance=1e-8, most=200):
    """The point where the largest entry of gradient(x) is below the tolerance; (point, value, iterations)."""
    f, g = value(x), gradient(x)
    inverse = np.eye(x.size)
    for iteration in range(most):
        if np.max(np.abs(g)) < tolerance:
            break
        p = -inverse @ g
        if g @ p >= 0.0:  # rounding has spoilt the curvature: start it afresh
            inverse = np.eye(x.size)
            p = -g
        t = min(1.0, 1.0 / np.linalg.norm(p)) if iteration == 0 else 1.0
        while not value(x + t * p) <= f + 1e-4 * t * (g @ p):  # NaN counts as too far
            t *= 0.5
            if t < 1e-14:
                return x, f, iteration
        s = t * p
        x = x + s
        f, new = value(x), gradient(x)
        y, g = new - g, new
        if s @ y > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y):
            inverse = inverse if iteration else inverse * ((s @ y) / (y @ y))
            left = np.eye(x.size) - np.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + np.outer(s, s) / (s @ y)
    return x, f, iteration
