"""Element loops: one operation of a scalar at a time."""
import numpy as np
from peers.by_hand import rosenbrock_gradient
from peers.workloads import point, rosenbrock_loop

from .common import _ReverseGradient


class Rosenbrock(_ReverseGradient):
    """Reads elements of the argument."""

    params = [100, 1000, 10_000]
    param_names = ["n"]

    def setup(self, n):
        self.take(rosenbrock_loop(n), rosenbrock_gradient)


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
        self.f, self.args, self.by_hand = f, (point(n),), c.copy  # the loop is a dot product


class PlainFloats(_ReverseGradient):
    """No array at all: an ODE by explicit steps over numbers."""

    params = [1000]
    param_names = ["steps"]

    def setup(self, steps):
        rates = a, b, c, d = 1.1, 0.4, 0.4, 0.1

        def f(a, b, c, d):
            x, y = 10.0, 5.0
            for _ in range(steps):
                x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
            return x + y

        def by_hand():
            x, y, past = 10.0, 5.0, []
            for _ in range(steps):
                past.append((x, y))
                x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
            da, db, dc, dd, dx, dy = 0.0, 0.0, 0.0, 0.0, 1.0, 1.0
            for x, y in reversed(past):
                hx, hy = 0.01 * dx, 0.01 * dy
                da, db, dc, dd = da + hx * x, db - hx * x * y, dc - hy * y, dd + hy * x * y
                dx, dy = dx + hx * (a - b * y) + hy * d * y, dy - hx * b * x + hy * (d * x - c)
            return da, db, dc, dd
        self.f, self.args, self.by_hand = f, rates, by_hand
