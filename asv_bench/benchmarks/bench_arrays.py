"""Whole-array code: small arrays, where the cost is dispatch, and large ones, where it is memory traffic."""
import numpy as np
from peers.workloads import chain, logistic_regression, rosenbrock

from .common import _Compared, _ReverseGradient


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
        problem = chain(n)
        self.f, self.args = problem.source(np), (problem.x,)


class Rosenbrock(_ReverseGradient):
    params = [1000, 100_000, 1_000_000]
    param_names = ["n"]

    def setup(self, n):
        problem = rosenbrock(n)
        self.f, self.args = problem.source(np), (problem.x,)


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


class RegressionParts(_Compared):
    """What logistic regression and its gradient are made of, each part beside the plain run."""

    params = [["X @ w", "logaddexp", "X.T @ g", "exp"]]
    param_names = ["part"]

    def setup(self, part):
        problem = logistic_regression(100_000)
        X, w, f = problem.data[0], problem.x, problem.source(np)
        z, g = X @ w, np.ones(100_000)
        self.plain = lambda: f(w)
        self.derivative = {"X @ w": lambda: X @ w, "logaddexp": lambda: np.logaddexp(0.0, z),
                           "X.T @ g": lambda: X.T @ g, "exp": lambda: np.exp(z)}[part]
