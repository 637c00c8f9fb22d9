"""Running sums, products and extrema along an axis."""

import numpy as np

from cyad.rules.registry import structural
from cyad.rules.selection import along
from cyad.rules.shapes import axis_of, conj, matched, no_out, refuse, scatter_add, shape_of


def reverse(x, axis):
    return x[(*(slice(None),) * axis, slice(None, None, -1))]


def running(function, a, axis, dtype, maps):
    """``maps(rows, result, axis)`` of the scan along one axis; without an axis NumPy scans the flattened array."""
    result = function(a, axis=axis, dtype=dtype)
    if axis is not None:
        return result, matched(result, maps(a, result, axis_of(axis, a.ndim)), a)
    shape = shape_of(a)
    flat_maps = maps(np.reshape(a, -1), result, 0)

    def linear(k):
        push, pull = flat_maps(k)
        return (lambda t: push(np.reshape(t, -1))), (lambda g: np.reshape(pull(g), shape))
    return result, matched(result, linear, a)


def sum_maps(a, result, axis):
    def pull(g):
        return reverse(np.cumsum(reverse(g, axis), axis=axis), axis)
    return lambda k: ((lambda t: np.cumsum(t, axis=axis)), pull)


@structural(np.cumsum, operands=("a",))
def cumsum_rule(a, axis=None, dtype=None, out=None):
    no_out(out, "np.cumsum")
    return running(np.cumsum, a, axis, dtype, sum_maps)


@structural((np.add, "accumulate"), operands=("array",))
def add_accumulate_rule(array, axis=0, dtype=None, out=None):
    no_out(out, "np.add.accumulate")
    return running(np.cumsum, array, axis, dtype, sum_maps)


def product_maps(a, result, axis):
    """Dividing by the entries where that is safe, the recurrence itself where a product vanishes or overflows."""
    n = a.shape[axis]
    before = (slice(None),) * axis
    safe = bool(np.all(np.isfinite(result)) and np.all(np.abs(result) > np.finfo(result.dtype).tiny))

    def at(x, i):
        return x[(*before, i)]

    def push(t):
        if safe:
            return result * np.cumsum(t / a, axis=axis)
        rows, tangent, product = [], None, None
        for i in range(n):
            tangent = at(t, i) if i == 0 else tangent * at(a, i) + product * at(t, i)
            product = at(result, i)
            rows.append(tangent)
        return np.stack(rows, axis=axis)

    def pull(g):
        if safe:
            return reverse(np.cumsum(reverse(g * conj(result), axis), axis=axis), axis) / conj(a)
        rows, carried = [], None
        for i in reversed(range(n)):
            carried = at(g, i) if carried is None else at(g, i) + carried * conj(at(a, i + 1))
            rows.append(carried * conj(at(result, i - 1)) if i else carried)
        return np.stack(rows[::-1], axis=axis)
    return lambda k: (push, pull)


@structural(np.cumprod, operands=("a",), reads=("a", "out"))
def cumprod_rule(a, axis=None, dtype=None, out=None):
    no_out(out, "np.cumprod")
    return running(np.cumprod, a, axis, dtype, product_maps)


@structural((np.multiply, "accumulate"), operands=("array",), reads=("array", "out"))
def multiply_accumulate_rule(array, axis=0, dtype=None, out=None):
    no_out(out, "np.multiply.accumulate")
    return running(np.cumprod, array, axis, dtype, product_maps)


def extremum_maps(ufunc):
    """The entry that set the record so far carries the derivative: the first of equal ones."""
    def maps(a, result, axis):
        shape = a.shape
        n = shape[axis]
        before = (slice(None),) * axis
        sets = np.ones(shape, dtype=bool)
        sets[(*before, slice(1, None))] = np.not_equal(
            result[(*before, slice(1, None))], result[(*before, slice(None, -1))])
        steps = np.arange(n).reshape((-1,) + (1,) * (len(shape) - axis - 1))
        index = along(shape, np.maximum.accumulate(np.where(sets, steps, 0), axis=axis), axis)
        return lambda k: ((lambda t: t[index]), (lambda g: scatter_add(g, shape, index)))
    return maps


def register_extremum(ufunc):
    @structural((ufunc, "accumulate"), operands=("array",))
    def accumulate_rule(array, axis=0, dtype=None, out=None):
        no_out(out, f"np.{ufunc.__name__}.accumulate")
        if dtype is not None:
            refuse(f"np.{ufunc.__name__}.accumulate", "dtype=", "convert the argument with astype first")
        return running(ufunc.accumulate, array, axis, dtype, extremum_maps(ufunc))


for _ufunc in (np.maximum, np.minimum, np.fmax, np.fmin):
    register_extremum(_ufunc)
