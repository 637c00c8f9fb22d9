"""Reductions: sum, prod, mean, var, std, max, min.

Conventions: max and min share equally among ties; std where the variance is zero has derivative 0, as a norm at 0.
A NaN that wins max or min takes part like any other winner.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import (
    NO_VALUE,
    axes_of,
    conj,
    frozen,
    given,
    kept,
    matched,
    no_out,
    real_dtype,
    shape_of,
    spread,
    unbroadcast,
)


class Reduction:
    """The geometry of one reduction, and its two basic maps: summing over the axes and spreading back.

    With ``where``, masked entries take no part: they add nothing and receive nothing.
    """

    __slots__ = ("axis", "keepdims", "kept", "shape", "where")

    def __init__(self, shape, axis, keepdims, where):
        self.shape = shape
        self.axis = axis
        self.keepdims = bool(given(keepdims, False))
        self.kept = None if axis is None else kept(shape, axes_of(axis, len(shape)))
        where = given(where, True)
        self.where = where if where is True else frozen(where)

    def total(self, t):
        if self.where is not True:
            t = np.where(self.where, t, 0)
        return np.add.reduce(t, axis=self.axis, keepdims=self.keepdims)

    def lift(self, g):
        """``g`` with the reduced axes back, of length one, so that it broadcasts against the operand."""
        return g if self.kept is None or self.keepdims else np.reshape(g, self.kept)

    def spread(self, g):
        g = spread(self.lift(g), self.shape)
        return g if self.where is True else np.where(self.where, g, 0)

    def count(self):
        """How many entries enter each result."""
        if self.where is not True:
            return np.add.reduce(np.broadcast_to(self.where, self.shape), axis=self.axis, keepdims=self.keepdims)
        n = 1
        for i in axes_of(self.axis, len(self.shape)):
            n *= self.shape[i]
        return n

    def options(self):
        options = {"axis": self.axis, "keepdims": self.keepdims}
        return options if self.where is True else {**options, "where": self.where}


def started(options, initial):
    """NumPy tells an absent ``initial`` from any value that one could pass."""
    return options if initial is None or initial is NO_VALUE else {**options, "initial": initial}


def initial_maps(initial, shape, weight=1):
    """The maps of ``initial``, which enters every result once, with the given weight."""
    initial_shape = shape_of(initial)

    def push(t):
        return spread(t * weight, shape)

    def pull(g):
        return unbroadcast(g * conj(weight), initial_shape)
    return push, pull


def sum_maps(a, axis, dtype, keepdims, initial, where):
    over = Reduction(shape_of(a), axis, keepdims, where)
    result = np.add.reduce(a, dtype=dtype, **started(over.options(), initial))
    shape = result.shape

    def linear(k):
        return (over.total, over.spread) if k == 0 else initial_maps(initial, shape)
    return result, matched(result, linear, a, initial)


@structural(np.sum, operands=("a", "initial"))
def sum_rule(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.sum")
    return sum_maps(a, axis, dtype, keepdims, initial, where)


@structural((np.add, "reduce"), operands=("array", "initial"))
def add_reduce_rule(array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.add.reduce")
    return sum_maps(array, axis, dtype, keepdims, initial, where)


@structural(np.mean, operands=("a",))
def mean_rule(a, axis=None, dtype=None, out=None, keepdims=False, *, where=True):
    no_out(out, "np.mean")
    over = Reduction(shape_of(a), axis, keepdims, where)
    result = np.mean(a, dtype=dtype, **over.options())
    count = over.count()
    if not isinstance(count, int):
        count = count.astype(real_dtype(result.dtype))

    def push(t):
        return over.total(t) / count

    def pull(g):
        return over.spread(g / count)

    return result, matched(result, lambda k: (push, pull), a)


def others(a, axes):
    """For each entry the product of all others along ``axes``: right with any number of zeros, no division.

    Products of what comes before and of what comes after, each a running product.
    """
    rest = tuple(i for i in range(a.ndim) if i not in axes)
    order = (*rest, *axes)
    moved = a.transpose(order)
    rows = moved.reshape(*(a.shape[i] for i in rest), -1)
    ones = np.ones_like(rows[..., :1])
    before = np.concatenate([ones, np.cumprod(rows[..., :-1], axis=-1)], axis=-1)
    after = np.concatenate([np.cumprod(rows[..., :0:-1], axis=-1)[..., ::-1], ones], axis=-1)
    back = [order.index(i) for i in range(a.ndim)]
    return (before * after).reshape(moved.shape).transpose(back)


def prod_maps(a, axis, dtype, keepdims, initial, where):
    shape = shape_of(a)
    over = Reduction(shape, axis, keepdims, where)
    result = np.multiply.reduce(a, dtype=dtype, **started(over.options(), initial))
    axes = axes_of(axis, len(shape))
    start = 1 if initial is None or initial is NO_VALUE else initial

    def factors():
        if 0 in shape:
            return np.ones_like(a)
        return others(a if over.where is True else np.where(over.where, a, 1), axes) * start

    def linear(k):
        if k == 1:
            return initial_maps(initial, result.shape, np.multiply.reduce(a, **over.options()))
        if shape == ():
            return (lambda t: t * start), (lambda g: g * conj(start))
        return (lambda t: over.total(factors() * t)), (lambda g: over.spread(g) * conj(factors()))
    return result, matched(result, linear, a, initial)


@structural(np.prod, operands=("a", "initial"), reads=("a", "initial"))
def prod_rule(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.prod")
    return prod_maps(a, axis, dtype, keepdims, initial, where)


@structural((np.multiply, "reduce"), operands=("array", "initial"), reads=("array", "initial"))
def multiply_reduce_rule(array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.multiply.reduce")
    return prod_maps(array, axis, dtype, keepdims, initial, where)
