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
        rates = np.array([1.1, 0.4, 0.4, 0.1])

        def f(p):
            a, b, c, d = p
            x, y = 10.0, 5.0
            for _ in range(steps):
                x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
            return x + y

        def by_hand():  # direction by direction: calls of NumPy on all four at once take six times as long
            (a, b, c, d), g = rates.tolist(), []
            for da, db, dc, dd in np.eye(4).tolist():
                x, y, dx, dy = 10.0, 5.0, 0.0, 0.0
                for _ in range(steps):
                    dx, dy = (dx + 0.01 * (da * x + a * dx - db * x * y - b * (dx * y + x * dy)),
                              dy + 0.01 * (dd * x * y + d * (dx * y + x * dy) - dc * y - c * dy))
                    x, y = x + 0.01 * (a * x - b * x * y), y + 0.01 * (d * x * y - c * y)
                g.append(dx + dy)
            return np.array(g)
        self.f, self.args, self.by_hand = f, (rates,), by_hand


class Field(_Gradient):
    """Three coefficients of a PDE in place."""

    mode = cyad.Forward
    params = [64]
    param_names = ["n"]

    def setup(self, n):
        start, coefficients = np.random.default_rng(8).normal(size=(n, n)), np.array([0.1, 0.15, 0.01])

        def f(p):
            u = start.copy()
            for _ in range(20):
                u[1:-1, 1:-1] += p[0] * (u[2:, 1:-1] + u[:-2, 1:-1] - 2.0 * u[1:-1, 1:-1])
                u[1:-1, 1:-1] += p[1] * (u[1:-1, 2:] + u[1:-1, :-2] - 2.0 * u[1:-1, 1:-1])
                u *= np.exp(-p[2])
            return np.sum(u * u)

        def along_rows(u):
            return u[..., 2:, 1:-1] + u[..., :-2, 1:-1] - 2.0 * u[..., 1:-1, 1:-1]

        def along_columns(u):
            return u[..., 1:-1, 2:] + u[..., 1:-1, :-2] - 2.0 * u[..., 1:-1, 1:-1]

        def by_hand():
            p, u, du = coefficients, start.copy(), np.zeros((3, n, n))
            inside, dinside = u[1:-1, 1:-1], du[:, 1:-1, 1:-1]
            for _ in range(20):
                for i, differences in enumerate((along_rows, along_columns)):
                    change = differences(u)
                    dinside += p[i] * differences(du)
                    dinside[i] += change
                    inside += p[i] * change
                u *= np.exp(-p[2])
                du *= np.exp(-p[2])
                du[2] -= u
            return 2.0 * np.sum(u * du, axis=(1, 2))
        self.f, self.args, self.by_hand = f, (coefficients,), by_hand
