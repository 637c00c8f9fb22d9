"""Loops that fill and overwrite memory of their own, by elements and by slices."""
import numpy as np
from peers.workloads import inplace_loop

from .common import _ReverseGradient


class Recurrence(_ReverseGradient):
    """Fills a scratch array element by element; each needs the one before it."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        problem = inplace_loop(n)
        self.f, self.args = problem.source(np), (problem.x,)


class Overwriting(_ReverseGradient):
    """Sweeps over one array, every element overwritten each time: what the undo log costs."""

    params = [1000]
    param_names = ["n"]

    def setup(self, n):
        def f(x):
            u = x.copy()
            for _ in range(3):
                for i in range(1, n - 1):
                    u[i] = 0.5 * u[i] + 0.25 * u[i - 1] * u[i + 1]
            return np.sum(u)
        self.f, self.args = f, (np.random.default_rng(2).normal(size=n),)


class Stencil(_ReverseGradient):
    """Slices of two buffers that change places."""

    params = [32, 256]
    param_names = ["n"]

    def setup(self, n):
        def f(a):
            u, new = a.copy(), a.copy()
            for _ in range(20):
                new[1:-1, 1:-1] = 0.2 * (u[1:-1, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] + u[2:, 1:-1] + u[:-2, 1:-1])
                u, new = new, u
            return np.sum(u * u)
        self.f, self.args = f, (np.random.default_rng(3).normal(size=(n, n)),)
