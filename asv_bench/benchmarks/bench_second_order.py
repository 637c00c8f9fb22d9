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


class Curvature(_Compared, _ByHand, _Taped):
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

        def arrays_by_hand():
            p = np.exp(a @ x)
            p /= p.sum()
            g = p @ a
            if product == "hessian":
                return (p * a.T) @ a - g[:, None] * g
            if product == "gradient":
                return g
            out = (p * (a @ v)) @ a - (g @ v) * g
            return (out, g) if product == "hvp_and_gradient" else out

        def elements_by_hand():
            head, tail, at = x[:-1], x[1:], np.arange(1, 40)
            if product == "hessian":
                out = np.zeros((40, 40))
                out[at, at] = 2.0 * head
                out[at, at - 1] = out[at - 1, at] = 2.0 * tail
                return out
            out, g = np.zeros(40), np.zeros(40)
            if product in ("gradient", "hvp_and_gradient"):
                g[1:] = 2.0 * tail * head
                g[:-1] += tail * tail
            out[1:] = 2.0 * (head * v[1:] + tail * v[:-1])
            out[:-1] += 2.0 * tail * v[1:]
            return g if product == "gradient" else (out, g) if product == "hvp_and_gradient" else out
        programs = {"arrays": (arrays, arrays_by_hand), "elements": (elements, elements_by_hand)}
        f, self.by_hand = programs[program]
        self.f, self.args = f, (x,)
        self.plain = lambda: f(x)
        self.derivative = {
            "gradient": lambda: cyad.grad(f)(x),
            "hvp": lambda: cyad.hvp(f, x, v),
            "hvp_and_gradient": lambda: cyad.hvp_and_gradient(f, x, v),
            "hessian": lambda: cyad.hessian(f, x),
            "nested": lambda: cyad.jvp(cyad.grad(f), (x,), (v,))[1],
        }[product]
