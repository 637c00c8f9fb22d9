"""What is differentiated: each source once, as a function of the namespace that stands for NumPy.

For cyad, for finite differences and for the plain run that is numpy itself; other libraries put their own in its place,
and where that is not enough, `rewrites` has another source. There are few inputs or many, numbers, small arrays or
large ones, in place or not: a ratio on one of them says little about the others.
"""
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "adbench"


@dataclass(frozen=True)
class Problem:
    """A workload at one size: `source(namespace)` is the function, `x` where, `v` along which direction (hvp)."""
    size: int
    source: Callable[[Any], Callable]
    x: numpy.ndarray
    v: numpy.ndarray | None = None
    data: tuple = ()                     # what the source captures, for derivatives written by hand


@dataclass(frozen=True)
class Workload:
    name: str
    derivative: str                      # the method of a library that computes it
    build: Callable[[int], Problem]
    sizes: dict[int, float | None]       # size: the bar for cyad's ratio, if there is one
    small: int = 12                      # a size at which finite differences are exact enough, and quick
    floats: bool = False                 # plain code gets a list of Python floats, which suits it better than an array
    only: tuple[str, ...] = ()           # the libraries that are asked, if not all


def point(n):
    return numpy.random.default_rng(0).normal(size=n) * 0.5 + 0.8


def direction(n):
    return numpy.random.default_rng(1).normal(size=n)


def rosenbrock_loop(n):
    def source(np):
        def f(x):
            s = 0.0
            for i in range(n - 1):
                s = s + 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
            return s
        return f
    return Problem(n, source, point(n), direction(n))


def rosenbrock(n):
    def source(np):
        def f(x):
            return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
        return f
    return Problem(n, source, point(n), direction(n))


def inplace_loop(n):
    def source(np):
        def f(x):
            y = np.zeros(n)
            y[0] = x[0]
            for i in range(1, n):
                y[i] = 0.5 * y[i - 1] * x[i] + x[i] ** 2
            return np.sum(y)
        return f
    return Problem(n, source, point(n))


def lotka_volterra(steps, h=0.01):
    """Classical Runge-Kutta steps over numbers; four rates."""
    def source(np):
        def f(p):
            a, b, c, d = p[0], p[1], p[2], p[3]
            u, v = 10.0, 5.0
            for _ in range(steps):
                du1, dv1 = a * u - b * u * v, d * u * v - c * v
                u2, v2 = u + 0.5 * h * du1, v + 0.5 * h * dv1
                du2, dv2 = a * u2 - b * u2 * v2, d * u2 * v2 - c * v2
                u3, v3 = u + 0.5 * h * du2, v + 0.5 * h * dv2
                du3, dv3 = a * u3 - b * u3 * v3, d * u3 * v3 - c * v3
                u4, v4 = u + h * du3, v + h * dv3
                du4, dv4 = a * u4 - b * u4 * v4, d * u4 * v4 - c * v4
                u = u + (h / 6.0) * (du1 + 2.0 * du2 + 2.0 * du3 + du4)
                v = v + (h / 6.0) * (dv1 + 2.0 * dv2 + 2.0 * dv3 + dv4)
            return u + v
        return f
    return Problem(steps, source, numpy.array([1.1, 0.4, 0.4, 0.1]))


def chain(n):
    """Operations in a row on three numbers: what a call costs. The map contracts: the gradient of 1000 is 1e-200."""
    def source(np):
        def f(x):
            for _ in range(n):
                x = np.sin(x) * 1.01 + 0.1
            return np.sum(x)
        return f
    return Problem(n, source, numpy.array([0.3, 0.5, 0.7]))


def small_arrays(calls, k=8):
    """Two layers of 8 units, one row at a time."""
    rng = numpy.random.default_rng(2)
    rows = rng.normal(size=(calls, k))

    def source(np):
        inputs = [np.asarray(row) for row in rows]

        def f(t):
            w1, b1 = np.reshape(t[:64], (k, k)), t[64:72]
            w2, b2 = np.reshape(t[72:136], (k, k)), t[136:144]
            s = 0.0
            for row in inputs:
                y = np.matmul(w2, np.tanh(np.matmul(w1, row) + b1)) + b2
                s = s + np.sum(y * y)
            return s
        return f
    return Problem(calls, source, rng.normal(size=144) * 0.3, data=(rows,))


MLP = 20, 64, 10  # features, hidden units, classes
MLP_ENDS = tuple(numpy.cumsum([MLP[0] * MLP[1], MLP[1], MLP[1] * MLP[2], MLP[2]]).tolist())


def mlp(batch):
    """A hidden layer and the cross entropy of a softmax, by all weights."""
    (d, h, k), (e1, e2, e3, e4) = MLP, MLP_ENDS
    rng = numpy.random.default_rng(3)
    features, labels = rng.normal(size=(batch, d)), numpy.eye(k)[rng.integers(0, k, size=batch)]

    def source(np):
        X, Y = np.asarray(features), np.asarray(labels)

        def f(t):
            w1, b1 = np.reshape(t[:e1], (d, h)), t[e1:e2]
            w2, b2 = np.reshape(t[e2:e3], (h, k)), t[e3:e4]
            logits = np.matmul(np.tanh(np.matmul(X, w1) + b1), w2) + b2
            top = np.max(logits, axis=1, keepdims=True)
            scale = np.sum(top, axis=1) + np.log(np.sum(np.exp(logits - top), axis=1))
            return np.mean(scale - np.sum(logits * Y, axis=1))
        return f
    return Problem(batch, source, rng.normal(size=e4) * 0.1, data=(features, labels))


def logistic_regression(n, d=50):
    rng = numpy.random.default_rng(4)
    features = rng.normal(size=(n, d))
    signs = numpy.sign(rng.normal(size=n) + features[:, 0])

    def source(np):
        X, y = np.asarray(features), np.asarray(signs)

        def f(w):
            return np.mean(np.logaddexp(0.0, -y * np.matmul(X, w)))
        return f
    return Problem(n, source, rng.normal(size=d) * 0.1, direction(d), data=(features, signs))


STENCIL_STEPS = 20


def stencil(n):
    """Two buffers that write each other, 40 times in all."""
    def source(np):
        def smooth(a, b):
            b[1:-1, 1:-1] = 0.2 * (a[1:-1, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:] + a[2:, 1:-1] + a[:-2, 1:-1])

        def f(start):
            a = np.copy(start)
            b = np.copy(a)
            for _ in range(STENCIL_STEPS):
                smooth(a, b)
                smooth(b, a)
            return np.sum(a * a)
        return f
    return Problem(n, source, numpy.random.default_rng(5).normal(size=(n, n)))


def dense_map(n):
    matrix = numpy.random.default_rng(6).normal(size=(n, n)) / n**0.5

    def source(np):
        A = np.asarray(matrix)

        def f(x):
            return np.tanh(np.matmul(A, x)) * x + np.sin(x)
        return f
    return Problem(n, source, point(n), data=(matrix,))


def broyden(n):
    """Broyden's tridiagonal function."""
    def source(np):
        zero = np.asarray(numpy.zeros(1))

        def f(x):
            left, right = np.concatenate([zero, x[:-1]]), np.concatenate([x[1:], zero])
            return (3.0 - 2.0 * x) * x - left - 2.0 * right + 1.0
        return f
    return Problem(n, source, point(n))


def of_one_vector(objective, parts, constants):
    """The objective as a function of all its parameters in one vector."""
    shapes, ends = [p.shape for p in parts], numpy.cumsum([p.size for p in parts]).tolist()

    def source(np):
        def f(t):
            starts = [0, *ends[:-1]]
            return objective(*(t[a:b].reshape(s) for a, b, s in zip(starts, ends, shapes, strict=True)), *constants)
        return f
    return source, numpy.concatenate([p.ravel() for p in parts])


def gmm(n, objective="objective"):
    """ADBench's file of 1000 points where there is one, else numbers like it: 25 components in 10 dimensions."""
    from adbench import gmm as of  # not above: it imports cyad, which has no place in the process of another library
    file = DATA / "gmm_1k_d10_K25.txt"
    data = of.read(file) if n == 1000 and file.exists() else of.generate(n)
    return Problem(n, *of_one_vector(getattr(of, objective), data[:3], data[3:]))


def gmm_at_once(n):
    return gmm(n, "objective_at_once")


def lstm(steps):
    """ADBench's file of two layers and 1024 steps where there is one, else numbers like it."""
    from adbench import lstm as of
    file = DATA / "lstm_l2_c1024.txt"
    data = of.read(file) if steps == 1024 and file.exists() else of.generate(2, steps)
    return Problem(steps, *of_one_vector(of.objective, data[:2], data[2:]))


WORKLOADS = {w.name: w for w in (
    Workload("rosen_loop",   "gradient",         rosenbrock_loop,     {1000: 0.6}),
    Workload("inplace_loop", "gradient",         inplace_loop,        {1000: 0.8}),
    Workload("lv_rev",       "gradient",         lotka_volterra,      {1000: 2.2}, floats=True),
    Workload("lv_fwd",       "forward_gradient", lotka_volterra,      {1000: 3.0}, floats=True),
    Workload("chain",        "gradient",         chain,               {1000: 1.0}),
    Workload("small_arrays", "gradient",         small_arrays,        {200: 1.5}),
    Workload("rosen_vec",    "gradient",         rosenbrock,          {10: 2.0, 1000: 2.0, 10**5: 4.0, 10**7: 6.0}),
    Workload("mlp",          "gradient",         mlp,                 {32: 2.0, 512: 3.0}),
    Workload("logreg",       "gradient",         logistic_regression, {100_000: 1.25}),
    Workload("stencil",      "gradient",         stencil,             {32: 2.6, 256: 2.7}),
    Workload("batch_jac",    "jacobian_forward", dense_map,           {50: 30.0}),
    Workload("jac_fwd",      "jacobian_forward", broyden,             {200: 40.0}),
    Workload("jac_rev",      "jacobian_reverse", broyden,             {200: 40.0}),
    Workload("hess",         "hessian",          rosenbrock,          {50: 40.0}),
    Workload("hvp_loop",     "hvp",              rosenbrock_loop,     {100: None}),
    Workload("logreg_hvp",   "hvp",              logistic_regression, {100_000: 2.4}),
    Workload("gmm",          "gradient",         gmm,                 {1000: 3.0}, only=("cyad",)),
    Workload("gmm_at_once",  "gradient",         gmm_at_once,         {1000: 3.0}, only=("cyad",)),
    Workload("lstm",         "gradient",         lstm,                {1024: 4.0}, only=("cyad",)),
)}
