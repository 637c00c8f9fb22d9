"""Several derivatives in one call, forward and reverse, against the plain run: what another lane costs."""
import numpy as np

import cyad
from cyad import BatchDuplicated, Forward, Reverse, autodiff

from .common import _Compared


def smooth(y, x):
    y[0], y[-1] = x[0], x[-1]
    for _ in range(5):
        y[1:-1] = np.tanh(x[:-2] * x[2:]) + 0.5 * x[1:-1]
        x = y.copy()


class Lanes(_Compared):

    params = [[1, 4, 16], [100, 10_000]]
    param_names = ["lanes", "n"]
    mode = Forward

    def setup(self, lanes, n):
        rng = np.random.default_rng(14)
        self.x, self.y = rng.normal(size=n), np.zeros(n)
        self.dx, self.dy = (tuple(rng.normal(size=n) for _ in range(lanes)) for _ in range(2))

    def plain(self):
        smooth(self.y, self.x)

    def derivative(self):
        autodiff(self.mode, smooth, cyad.Const, BatchDuplicated(self.y, self.dy), BatchDuplicated(self.x, self.dx))


class ReverseLanes(Lanes):

    mode = Reverse


class Elements(_Compared):
    """A loop over numbers with as many lanes."""

    params = [[1, 4, 16]]
    param_names = ["lanes"]

    def setup(self, lanes):
        x = np.random.default_rng(15).normal(size=300)

        def f(x):
            s = 0.0
            for i in range(1, 300):
                s += x[i] * x[i - 1] + np.sin(x[i])
            return s
        shadows = tuple(np.zeros(300) for _ in range(lanes))
        for i, shadow in enumerate(shadows):
            shadow[i] = 1.0
        self.plain = lambda: f(x)
        self.derivative = lambda: autodiff(Forward, f, BatchDuplicated(x, shadows))
