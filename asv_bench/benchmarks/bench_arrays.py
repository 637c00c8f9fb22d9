"""Whole-array code: small arrays, where the cost is dispatch, and large ones, where it is memory traffic."""
import numpy as np
from peers.by_hand import chain_gradient, logreg_gradient, rosenbrock_gradient
from peers.workloads import chain, logistic_regression, rosenbrock

from .common import _Compared, _ReverseGradient


class SmallLayers(_ReverseGradient):
    """A layer of 8 units applied again and again."""

    params = [200]
    param_names = ["calls"]

    def setup(self, calls, k=8):
        rng = np.random.default_rng(4)
        rows, w, b = rng.normal(size=(calls, k)), rng.normal(size=(k, k)) * 0.3, rng.normal(size=k)

        def f(w, b):
            s = 0.0
            for x in rows:
                y = np.tanh(w @ x + b)
                s += np.sum(y * y)
            return s

        def by_hand():
            dw, db = np.zeros_like(w), np.zeros_like(b)
            for x in rows:
                y = np.tanh(w @ x + b)
                before = 2.0 * y * (1.0 - y * y)
                db += before
                dw += before[:, None] * x
            return dw, db
        self.f, self.args, self.by_hand = f, (w, b), by_hand


class Chain(_ReverseGradient):
    """A thousand elementwise operations in a row on three numbers."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        self.take(chain(n), chain_gradient)


class Rosenbrock(_ReverseGradient):
    params = [1000, 100_000, 1_000_000]
    param_names = ["n"]

    def setup(self, n):
        self.take(rosenbrock(n), rosenbrock_gradient)


class Transcendental(_ReverseGradient):
    params = [100_000]
    param_names = ["n"]

    def setup(self, n):
        rng = np.random.default_rng(6)
        x, y = rng.normal(size=n), rng.normal(size=n)

        def f(x, y):
            return np.sum(np.exp(-x * x) * np.log1p(y * y) / np.sqrt(1.0 + x * x))

        def by_hand():
            xx, yy = x * x, y * y
            common = np.exp(-xx) / np.sqrt(1.0 + xx)
            return -common * np.log1p(yy) * x * (2.0 + 1.0 / (1.0 + xx)), 2.0 * common * y / (1.0 + yy)
        self.f, self.args, self.by_hand = f, (x, y), by_hand


class Regression(_ReverseGradient):
    """Logistic regression: a matrix product takes most of the time."""

    params = [100_000]
    param_names = ["n"]

    def setup(self, n):
        self.take(logistic_regression(n), logreg_gradient)


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
