"""Element loops: one operation of a scalar at a time."""
import numpy as np

from .common import _ReverseGradient


def point(n):
    return np.random.default_rng(0).normal(size=n) * 0.5 + 0.8


class Rosenbrock(_ReverseGradient):
    """Reads elements of the argument."""

    params = [100, 1000, 10_000]
    param_names = ["n"]

    def setup(self, n):
        def f(x):
            s = 0.0
            for i in range(n - 1):
                s += 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
            return s
        self.f, self.args = f, (point(n),)


class CapturedCoefficients(_ReverseGradient):
    """Each element is multiplied by one of a plain array that the function merely captured."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        c = np.linspace(0.5, 1.5, n)

        def f(x):
            s = 0.0
            for i in range(n):
                s += c[i] * x[i]
            return s
        self.f, self.args = f, (point(n),)


class PlainFloats(_ReverseGradient):
    """No array at all: an ODE by explicit steps over numbers."""

    params = [1000]
    param_names = ["steps"]

    def setup(self, steps):
        def f(a, b, c, d):
            x, y = 10.0, 5.0
            for _ in range(steps):
                x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
            return x + y
        self.f, self.args = f, (1.1, 0.4, 0.4, 0.1)
