"""Several derivatives in one call, forward and reverse, against the plain run: what another lane costs."""
import numpy as np

import cyad
from cyad import BatchDuplicated, Forward, Reverse, autodiff

from .common import _ByHand, _Compared, _Taped


def smooth(y, x):
    y[0], y[-1] = x[0], x[-1]
    for _ in range(5):
        y[1:-1] = np.tanh(x[:-2] * x[2:]) + 0.5 * x[1:-1]
        x = y.copy()


def smooth_forward(y, dy, x, dx):
    """A lane is a row of dy and of dx."""
    y[0], y[-1] = x[0], x[-1]
    dy[:, 0], dy[:, -1] = dx[:, 0], dx[:, -1]
    for _ in range(5):
        t = np.tanh(x[:-2] * x[2:])
        y[1:-1] = t + 0.5 * x[1:-1]
        dy[:, 1:-1] = (1.0 - t * t) * (dx[:, :-2] * x[2:] + x[:-2] * dx[:, 2:]) + 0.5 * dx[:, 1:-1]
        x, dx = y.copy(), dy.copy()


def smooth_reverse(y, dy, x, dx):
    y[0], y[-1], kept = x[0], x[-1], []
    for _ in range(5):
        t = np.tanh(x[:-2] * x[2:])
        y[1:-1] = t + 0.5 * x[1:-1]
        kept.append((x, 1.0 - t * t))
        x = y.copy()
    g = np.zeros_like(dx)
    for x, slope in reversed(kept):
        dy += g
        inside = slope * dy[:, 1:-1]
        g[:] = 0.5 * dy
        g[:, 0] = g[:, -1] = dy[:, 1:-1] = 0.0
        g[:, :-2] += inside * x[2:]
        g[:, 2:] += inside * x[:-2]
    dx += g + dy  # of dy only the ends are left
    dy[:] = 0.0


class Lanes(_Compared, _ByHand):

    params = [[1, 4, 16], [100, 10_000]]
    param_names = ["lanes", "n"]
    mode = Forward

    def setup(self, lanes, n):
        rng = np.random.default_rng(14)
        self.x, self.y = rng.normal(size=n), np.zeros(n)
        self.dx, self.dy = rng.normal(size=(2, lanes, n))

    def plain(self):
        smooth(self.y, self.x)

    def derivative(self):
        y, x = BatchDuplicated(self.y, tuple(self.dy)), BatchDuplicated(self.x, tuple(self.dx))
        autodiff(self.mode, smooth, cyad.Const, y, x)
        return self.y, self.dy, self.dx

    def by_hand(self):
        smooth_forward(self.y, self.dy, self.x, self.dx)
        return self.y, self.dy, self.dx


class ReverseLanes(Lanes, _Taped):

    mode = Reverse

    def setup(self, lanes, n):
        super().setup(lanes, n)
        self.f, self.args = smooth, (self.y, self.x)

    def by_hand(self):
        smooth_reverse(self.y, self.dy, self.x, self.dx)
        return self.y, self.dy, self.dx


class Elements(_Compared, _ByHand):
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
        dx = np.eye(lanes, 300)
        self.plain = lambda: f(x)
        self.derivative = lambda: autodiff(Forward, f, BatchDuplicated(x, tuple(dx)))[0]
        self.by_hand = lambda: dx[:, 1:] @ (x[:-1] + np.cos(x[1:])) + dx[:, :-1] @ x[1:]
