"""Selection: results whose entries are entries of the operands. Linear once the choice is made; the choice is kept."""
import math

import numpy as np
from numpy.testing.overrides import get_overridable_numpy_ufuncs

from cyad.rules.registry import structural
from cyad.rules.shapes import (
    axis_of,
    given,
    kind_of,
    matched,
    no_out,
    real_dtype,
    refuse,
    scatter,
    scatter_add,
    shape_of,
    spread,
    unbroadcast,
    zeros_for,
)


@structural(np.where, operands=("condition", "x", "y"))
def where_rule(condition, x=None, y=None):
    if x is None or y is None:
        refuse("np.where", "one argument", "use np.nonzero")
    plain = type(condition) is np.ndarray and condition.dtype == bool
    chosen = condition.copy(order="K") if plain else np.not_equal(condition, 0)
    result = np.where(chosen, x, y)
    shape, shapes = result.shape, (shape_of(condition), shape_of(x), shape_of(y))

    def linear(k):
        if k == 0:
            return (lambda t: zeros_for(t, shape)), (lambda g: zeros_for(g, shapes[0]))
        if k == 1:
            return (lambda t: spread(np.where(chosen, t, 0), shape)), (
                lambda g: unbroadcast(np.where(chosen, g, 0), shapes[1]))
        return (lambda t: spread(np.where(chosen, 0, t), shape)), (
            lambda g: unbroadcast(np.where(chosen, 0, g), shapes[2]))
    return result, matched(result, linear, None, x, y)


def gather(a, index, unique, shape_out):
    """Maps of ``a[index].reshape(shape_out)``; ``unique`` says that no entry is taken twice."""
    shape = a.shape
    back = scatter if unique else scatter_add
    shape_taken = np.broadcast_shapes(*(np.shape(i) for i in index)) if len(index) == len(shape) else None

    def push(t):
        return np.reshape(t[index], shape_out)

    def pull(g):
        return back(g if shape_taken is None else np.reshape(g, shape_taken), shape, index)
    return push, pull


def flattened(a, index, unique, shape_out):
    """Maps of ``a.ravel()[index]``."""
    shape = shape_of(a)
    size = math.prod(shape)
    back = scatter if unique else scatter_add

    def push(t):
        return np.reshape(np.reshape(t, -1)[index], shape_out)

    def pull(g):
        return np.reshape(back(g, (size,), index), shape)
    return push, pull


def taken(a, indices, axis, mode, unique):
    """Maps of ``np.take``: ``indices`` is a private array by now."""
    shape = shape_of(a)
    n = math.prod(shape) if axis is None else shape[axis]
    if mode == "wrap":
        indices = indices % n
    elif mode == "clip":
        indices = np.clip(indices, 0, n - 1)
    back = scatter if unique else scatter_add
    flat = shape if axis is not None else (n,)
    index = indices if axis is None else (*(slice(None),) * axis_of(axis, len(shape)), indices)

    def pull(g):
        return np.reshape(back(g, flat, index), shape)
    return (lambda t: np.take(t, indices, axis)), pull


@structural(np.take, operands=("a",))
def take_rule(a, indices, axis=None, out=None, mode="raise"):
    no_out(out, "np.take")
    indices = np.array(indices, dtype=np.intp)
    result = np.take(a, indices, axis, mode=mode)
    maps = taken(a, indices, axis, mode, indices.size == 1)
    return result, lambda k: maps


@structural(np.compress, operands=("a",))
def compress_rule(condition, a, axis=None, out=None):
    no_out(out, "np.compress")
    indices = np.flatnonzero(condition)
    maps = taken(a, indices, axis, "raise", True)
    return np.take(a, indices, axis), lambda k: maps


def along(shape, indices, axis):
    """The index that ``take_along_axis`` stands for."""
    grid = [np.arange(n).reshape((-1,) + (1,) * (len(shape) - i - 1)) for i, n in enumerate(shape)]
    grid[axis] = indices
    return tuple(grid)


@structural(np.take_along_axis, operands=("arr",))
def take_along_axis_rule(arr, indices, axis=-1):
    indices = np.array(indices)
    result = np.take_along_axis(arr, indices, axis)
    if axis is None:
        maps = flattened(arr, indices, False, result.shape)
    else:
        maps = gather(arr, along(arr.shape, indices, axis_of(axis, arr.ndim)), False, result.shape)
    return result, lambda k: maps


def permuted(a, axis, ranks):
    """Maps of sorting and its like: ``ranks(rows, axis)`` says which entry goes where."""
    if axis is None:
        a = np.reshape(a, -1)
        axis = 0
    axis = axis_of(axis, a.ndim)
    order = ranks(a, axis)
    index = along(a.shape, order, axis)
    result = a[index]
    if a.ndim > 1:
        # NumPy sorts a copy, which lies in memory as the array does.
        result, entries = np.empty_like(a), result
        result[...] = entries
    return result, gather(a, index, True, a.shape)


@structural(np.sort, operands=("a",))
def sort_rule(a, axis=-1, kind=None, order=None, *, stable=None):
    """Which of equal entries comes first is open; their values do not depend on it, so ``kind`` does not matter."""
    if order is not None:
        refuse("np.sort", "order=", "structured arrays carry no derivative")
    shape = shape_of(a)
    result, (push, pull) = permuted(a, axis, lambda x, i: np.argsort(x, axis=i))
    if axis is None:
        return result, lambda k: ((lambda t: push(np.reshape(t, -1))), (lambda g: np.reshape(pull(g), shape)))
    return result, lambda k: (push, pull)


@structural(np.partition, operands=("a",))
def partition_rule(a, kth, axis=-1, kind="introselect", order=None):
    if order is not None:
        refuse("np.partition", "order=", "structured arrays carry no derivative")
    shape = shape_of(a)
    result, (push, pull) = permuted(a, axis, lambda x, i: np.argpartition(x, kth, axis=i, kind=kind))
    if axis is None:
        return result, lambda k: ((lambda t: push(np.reshape(t, -1))), (lambda g: np.reshape(pull(g), shape)))
    return result, lambda k: (push, pull)


@structural(np.unique, operands=("ar",))
def unique_rule(ar, return_index=False, return_inverse=False, return_counts=False, axis=None, *, equal_nan=True,
                sorted=True):
    """Of equal entries the first carries the derivative; what is asked for besides the values carries none."""
    if return_index or return_inverse or return_counts or axis is not None:
        result = np.unique(ar, True, return_inverse, return_counts, axis, equal_nan=equal_nan)
        index = result[1]
        if not return_index:
            result = result[0], *result[2:]
        push, pull = flattened(ar, index, True, index.shape) if axis is None else taken(ar, index, axis, "raise", True)
        if len(result) == 1:
            return result[0], lambda k: (push, pull)
        rest = [np.shape(whole) for whole in result[1:]]
        return result, lambda k: ((lambda t: (push(t), *map(np.zeros, rest))), (lambda g: pull(g[0])))
    # Before version 2.3 NumPy always sorted.
    result = np.unique(ar, equal_nan=equal_nan, **({} if sorted else {"sorted": False}))
    first = np.unique(ar, return_index=True, equal_nan=equal_nan)[1]
    index = np.empty_like(first)
    index[np.argsort(result, kind="stable")] = first
    maps = flattened(ar, index, True, result.shape)
    return result, lambda k: maps


@structural(np.choose, operands=("*choices",))
def choose_rule(a, choices, out=None, mode="raise"):
    no_out(out, "np.choose")
    result = np.choose(a, choices, mode=mode)
    selector = np.array(a)
    if mode == "wrap":
        selector = selector % len(choices)
    elif mode == "clip":
        selector = np.clip(selector, 0, len(choices) - 1)
    shape = result.shape
    shapes = [shape_of(c) for c in choices]

    def linear(k):
        chosen = np.equal(selector, k)
        return (lambda t: spread(np.where(chosen, t, 0), shape)), (
            lambda g: unbroadcast(np.where(chosen, g, 0), shapes[k]))
    return result, matched(result, linear, *choices)


@structural(np.select, operands=("*choicelist", "default"))
def select_rule(condlist, choicelist, default=0):
    """The first condition that holds decides; the default is the last choice, and always holds."""
    result = np.select(condlist, choicelist, default)
    shape = result.shape
    conditions = [np.array(c) for c in condlist]
    operands = [*choicelist, default]
    shapes = [shape_of(x) for x in operands]

    def linear(k):
        chosen = np.ones((), dtype=bool) if k == len(conditions) else conditions[k]
        for earlier in conditions[:k]:
            chosen = chosen & ~earlier
        return (lambda t: spread(np.where(chosen, t, 0), shape)), (
            lambda g: unbroadcast(np.where(chosen, spread(g, shape), 0), shapes[k]))
    return result, matched(result, linear, *operands)


@structural(np.lib.stride_tricks.sliding_window_view, operands=("x",))
def sliding_window_view_rule(x, window_shape, axis=None, *, subok=False, writeable=False):
    """A view."""
    return np.lib.stride_tricks.sliding_window_view(x, window_shape, axis, writeable=writeable), None


def clip_maps(a, low, high):
    """``minimum(maximum(a, low), high)`` with its kinks: where two of them tie, each has half.

    The weights are settled when the rule runs, so that the maps read nothing.
    """
    result = np.clip(a, low, high)
    shape = result.shape
    shapes = [None if x is None else shape_of(x) for x in (a, low, high)]
    dtype = real_dtype(result.dtype)

    def weights():
        lifted = a if low is None else np.maximum(a, low)
        below = 1.0 if high is None else np.less(lifted, high) + np.equal(lifted, high) * 0.5
        above = 1.0 if low is None else np.greater(a, low) + np.equal(a, low) * 0.5
        return below * above, below * (1 - above), 1 - below

    def weight(k):
        if k == 0:
            # Mostly nothing is at a bound, or nothing ties with it: then no more is asked. NaN is not at a bound.
            hits = [np.equal(result, bound) for bound in (low, high) if bound is not None]
            if not any(hit.any() for hit in hits):
                return None
            if not any(np.equal(a, bound).any() for bound in (low, high) if bound is not None):
                return ~(hits[0] | hits[-1])
        return np.asarray(weights()[k], dtype=dtype)

    def linear(k):
        chosen, operand_shape = weight(k), shapes[k]
        if chosen is None:
            return (lambda t: spread(t, shape)), (lambda g: unbroadcast(g, operand_shape))
        return (lambda t: spread(t * chosen, shape)), (lambda g: unbroadcast(g * chosen, operand_shape))
    return result, matched(result, linear, a, low, high)


@structural(np.clip, operands=("a", "a_min", "a_max", "min", "max"))
def clip_rule(a, a_min=None, a_max=None, out=None, *, min=None, max=None, dtype=None, where=True):
    no_out(out, "np.clip")
    if dtype is not None or where is not True:
        refuse("np.clip", "dtype= or where=", "convert or select before the call")
    low, high = (given(old, given(new, None)) for old, new in ((a_min, min), (a_max, max)))
    result, linear = clip_maps(a, low, high)
    return result, lambda k: linear(k if k < 3 else k - 2)


@structural(next(u for u in get_overridable_numpy_ufuncs() if u.__name__ == "clip"), operands=("a", "a_min", "a_max"))
def clip_ufunc_rule(a, a_min, a_max, out=None):
    """The ufunc behind the method ``clip``; NumPy gives it no public name."""
    no_out(out, "clip")
    return clip_maps(a, a_min, a_max)


@structural(np.nan_to_num, operands=("x",))
def nan_to_num_rule(x, copy=True, nan=0.0, posinf=None, neginf=None):
    """What is replaced carries no derivative; the parts of a complex number are replaced apart."""
    if not copy:
        refuse("np.nan_to_num", "copy=False", "assign its result instead")
    result = np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)
    if kind_of(x) == "c":
        re, im = np.isfinite(x.real), np.isfinite(x.imag)

        def keep(t):
            return np.where(re, t.real, 0) + 1j * np.where(im, t.imag, 0)
    else:
        finite = np.isfinite(x)

        def keep(t):
            return np.where(finite, t, 0)
    return result, lambda k: (keep, keep)


def read_only(part):
    """Real or imaginary part of a complex array: a copy, so writing to it would not reach the array; it is locked."""
    if type(part) is np.ndarray:
        part = part.copy()
        part.flags.writeable = False
    return part


@structural(np.real, operands=("val",))
def real_rule(val):
    result = np.real(val)
    if kind_of(val) != "c":
        return (result, None) if shape_of(val) else (result, lambda k: ((lambda t: t), (lambda g: g)))
    return read_only(result), lambda k: (np.real, lambda g: np.add(g, 0j))


@structural(np.imag, operands=("val",))
def imag_rule(val):
    result = np.imag(val)
    if kind_of(val) != "c":
        shape = shape_of(val)
        return result, lambda k: ((lambda t: zeros_for(t, shape)), (lambda g: zeros_for(g, shape)))
    return read_only(result), lambda k: (np.imag, lambda g: np.multiply(g, 1j))
