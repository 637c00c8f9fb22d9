"""Whole-array code: small arrays, where the cost is dispatch, and large ones, where it is memory traffic."""
import numpy as np

from .common import _ReverseGradient


class SmallLayers(_ReverseGradient):
    """A layer of 8 units applied again and again."""

    params = [200]
    param_names = ["calls"]

    def setup(self, calls, k=8):
        rng = np.random.default_rng(4)
        rows = rng.normal(size=(calls, k))

        def f(w, b):
            s = 0.0
            for x in rows:
                y = np.tanh(w @ x + b)
                s += np.sum(y * y)
            return s
        self.f, self.args = f, (rng.normal(size=(k, k)) * 0.3, rng.normal(size=k))


class Chain(_ReverseGradient):
    """A thousand elementwise operations in a row on three numbers."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        def f(x):
            for _ in range(n):
                x = np.sin(x) * 1.01 + 0.1
            return np.sum(x)
        self.f, self.args = f, (np.array([0.3, 0.5, 0.7]),)


class Rosenbrock(_ReverseGradient):
    params = [1000, 100_000, 1_000_000]
    param_names = ["n"]

    def setup(self, n):
        def f(x):
            return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
        self.f, self.args = f, (np.random.default_rng(5).normal(size=n) * 0.5 + 0.8,)


class Transcendental(_ReverseGradient):
    params = [100_000]
    param_names = ["n"]

    def setup(self, n):
        def f(x, y):
            return np.sum(np.exp(-x * x) * np.log1p(y * y) / np.sqrt(1.0 + x * x))
        rng = np.random.default_rng(6)
        self.f, self.args = f, (rng.normal(size=n), rng.normal(size=n))


class Regression(_ReverseGradient):
    """Logistic regression: a matrix product takes most of the time."""

    params = [100_000]
    param_names = ["n"]

    def setup(self, n, d=50):
        rng = np.random.default_rng(7)
        features = rng.normal(size=(n, d))
        sign = np.sign(rng.normal(size=n) + features[:, 0])

        def f(w):
            return np.mean(np.logaddexp(0.0, -sign * (features @ w)))
        self.f, self.args = f, (rng.normal(size=d) * 0.1,)
