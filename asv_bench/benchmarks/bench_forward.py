"""Forward gradients: all inputs of a function that has few."""
import numpy as np

import cyad

from .common import _Gradient


class Floats(_Gradient):
    """Four rates of an ODE over numbers."""

    mode = cyad.Forward
    params = [1000]
    param_names = ["steps"]

    def setup(self, steps):
        def f(p):
            a, b, c, d = p
            x, y = 10.0, 5.0
            for _ in range(steps):
                x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
            return x + y
        self.f, self.args = f, (np.array([1.1, 0.4, 0.4, 0.1]),)


class Field(_Gradient):
    """Three coefficients of a PDE in place."""

    mode = cyad.Forward
    params = [64]
    param_names = ["n"]

    def setup(self, n):
        start = np.random.default_rng(8).normal(size=(n, n))

        def f(p):
            u = start.copy()
            for _ in range(20):
                u[1:-1, 1:-1] += p[0] * (u[2:, 1:-1] + u[:-2, 1:-1] - 2.0 * u[1:-1, 1:-1])
                u[1:-1, 1:-1] += p[1] * (u[1:-1, 2:] + u[1:-1, :-2] - 2.0 * u[1:-1, 1:-1])
                u *= np.exp(-p[2])
            return np.sum(u * u)
        self.f, self.args = f, (np.array([0.1, 0.15, 0.01]),)
