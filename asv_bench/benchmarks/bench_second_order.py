"""Jacobians, Hessians and products with them."""
import numpy as np

import cyad

from .common import _ByHand, _Compared, _Taped


class Jacobians(_Compared, _ByHand, _Taped):
    """Of a dense map: n inputs, n outputs."""

    params = [["Forward", "Reverse"], [10, 100]]
    param_names = ["mode", "n"]

    def setup(self, mode, n):
        rng = np.random.default_rng(16)
        a, x, at = rng.normal(size=(n, n)) / n**0.5, rng.normal(size=n), np.arange(n)
        mode = getattr(cyad, mode)

        def f(x):
            return np.tanh(a @ x) * x

        def by_hand():
            t = np.tanh(a @ x)
            jacobian = ((1.0 - t * t) * x)[:, None] * a
            jacobian[at, at] += t
            return jacobian
        self.by_hand = by_hand
        self.f, self.args = f, (x,)
        self.plain = lambda: f(x)
        self.derivative = lambda: cyad.jacobian(mode, f, x)


class Curvature(_Compared, _Taped):
    """Of the log of a sum of exponentials of linear functions, and of a loop over elements.

    Nested is forward over reverse mode, which sweeps of second order spare.
    """

    params = [["gradient", "hvp", "hvp_and_gradient", "hessian", "nested"], ["arrays", "elements"]]
    param_names = ["product", "program"]

    def setup(self, product, program):
        rng = np.random.default_rng(17)
        a, x, v = rng.normal(size=(80, 40)), rng.normal(size=40), rng.normal(size=40)

        def arrays(x):
            return np.log(np.sum(np.exp(a @ x)))

        def elements(x):
            s = 0.0
            for i in range(1, 40):
                s += x[i] * x[i] * x[i - 1]
            return s
        f = {"arrays": arrays, "elements": elements}[program]
        self.f, self.args = f, (x,)
        self.plain = lambda: f(x)
        self.derivative = {
            "gradient": lambda: cyad.grad(f)(x),
            "hvp": lambda: cyad.hvp(f, x, v),
            "hvp_and_gradient": lambda: cyad.hvp_and_gradient(f, x, v),
            "hessian": lambda: cyad.hessian(f, x),
            "nested": lambda: cyad.jvp(cyad.grad(f), (x,), (v,)),
        }[product]
