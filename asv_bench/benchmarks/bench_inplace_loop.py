"""Loops that fill and overwrite memory of their own, by elements and by slices."""
import numpy as np
from peers.by_hand import inplace_loop_gradient, stencil_gradient
from peers.workloads import inplace_loop, stencil

from .common import _ReverseGradient


class Recurrence(_ReverseGradient):
    """Fills a scratch array element by element; each needs the one before it."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        self.take(inplace_loop(n), inplace_loop_gradient)


class Overwriting(_ReverseGradient):
    """Sweeps over one array, every element overwritten each time: what the undo log costs."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        x = np.random.default_rng(2).normal(size=n)

        def f(x):
            u = x.copy()
            for _ in range(3):
                for i in range(1, n - 1):
                    u[i] = 0.5 * u[i] + 0.25 * u[i - 1] * u[i + 1]
            return np.sum(u)

        def by_hand():
            sweeps, g = [x.tolist()], [1.0] * n
            for _ in range(3):
                u = sweeps[-1].copy()
                for i in range(1, n - 1):
                    u[i] = 0.5 * u[i] + 0.25 * u[i - 1] * u[i + 1]
                sweeps.append(u)
            for old, new in zip(sweeps[-2::-1], sweeps[:0:-1], strict=True):
                for i in range(n - 2, 0, -1):
                    quarter = 0.25 * g[i]
                    g[i] = 2.0 * quarter
                    g[i - 1] += quarter * old[i + 1]
                    g[i + 1] += quarter * new[i - 1]
            return np.array(g)
        self.f, self.args, self.by_hand = f, (x,), by_hand


class Stencil(_ReverseGradient):
    """Slices of two buffers that write each other."""

    params = [32, 256]
    param_names = ["n"]

    def setup(self, n):
        self.take(stencil(n), stencil_gradient)
