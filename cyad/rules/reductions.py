"""Reductions: sum, prod, mean, var, std, max, min, median, trace, bincount.

Conventions: max and min share equally among ties; std where the variance is zero has derivative 0, as a norm at 0.
A NaN that wins max or min takes part like any other winner.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import (
    NO_VALUE,
    axes_of,
    axis_of,
    conj,
    frozen,
    given,
    kept,
    matched,
    no_out,
    real_dtype,
    refuse,
    scatter,
    scatter_add,
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


def sum_all(t):
    """What an outer call tracks goes by np.sum, which that call does for all of its lanes at once."""
    return np.add.reduce(t, axis=None) if type(t) is np.ndarray else np.sum(t)


def sum_maps(a, axis, dtype, keepdims, initial, where):
    if axis is None and dtype is None and where is True and initial is None and not given(keepdims, False):
        shape = shape_of(a)
        return sum_all(a), lambda k: (sum_all, lambda g: spread(g, shape))
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
    order = (*(i for i in range(a.ndim) if i not in axes), *axes)
    moved = a.transpose(order)
    rows = moved.reshape(*moved.shape[:a.ndim - len(axes)], -1)
    ones = np.ones_like(rows[..., :1])
    before = np.concatenate([ones, np.cumprod(rows[..., :-1], axis=-1)], axis=-1)
    after = np.concatenate([np.cumprod(rows[..., :0:-1], axis=-1)[..., ::-1], ones], axis=-1)
    return (before * after).reshape(moved.shape).transpose([order.index(i) for i in range(a.ndim)])


def is_normal(x):
    """Whether all of it can be divided by, and divided, without leaving the range of full precision."""
    size = np.abs(x)
    info = np.finfo(x.dtype)
    return bool((np.greater(size, info.tiny) & np.less(size, info.max)).all())


def prod_maps(a, axis, dtype, keepdims, initial, where):
    shape = shape_of(a)
    over = Reduction(shape, axis, keepdims, where)
    result = np.multiply.reduce(a, dtype=dtype, **started(over.options(), initial))
    shape_out = result.shape
    axes = axes_of(axis, len(shape))
    start = 1 if initial is None or initial is NO_VALUE else initial
    # Where no product vanishes and none overflows, its factors do neither.
    divides = over.where is True and is_normal(result)

    def factors():
        if divides:
            return over.lift(result) / a
        if 0 in shape:
            return np.ones_like(a)
        return others(a if over.where is True else np.where(over.where, a, 1), axes) * start

    def linear(k):
        if k == 1:
            return initial_maps(initial, shape_out, np.multiply.reduce(a, **over.options()))
        if shape == ():
            return (lambda t: t * start), (lambda g: g * conj(start))
        return (lambda t: over.total(factors() * t)), (lambda g: over.spread(g) * conj(factors()))
    return result, matched(result, linear, a, initial)


@structural(np.prod, operands=("a", "initial"), reads=("a", "initial", "out"))
def prod_rule(a, axis=None, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.prod")
    return prod_maps(a, axis, dtype, keepdims, initial, where)


@structural((np.multiply, "reduce"), operands=("array", "initial"), reads=("array", "initial", "out"))
def multiply_reduce_rule(array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.multiply.reduce")
    return prod_maps(array, axis, dtype, keepdims, initial, where)


def spread_of(a, mean, over):
    """Deviations from the mean; masked entries do not deviate."""
    if mean is None:
        count = over.count()
        if not isinstance(count, int):
            count = over.lift(np.asarray(count, dtype=real_dtype(getattr(a, "dtype", np.dtype(float)))))
        mean = over.lift(over.total(a)) / count
    deviation = a - mean
    return deviation if over.where is True else np.where(over.where, deviation, 0)


def real_product(x, y):
    """``Re(conj(x) y)``: how a real function of complex values varies."""
    return (conj(x) * y).real


def over_root(value, root):
    """Divided by twice the standard deviation; 0 where that is 0."""
    flat = np.equal(root, 0)
    return np.where(flat, 0, value) / (2 * np.where(flat, 1, root))


def var_maps(name, function, a, axis, dtype, out, ddof, keepdims, where, mean, correction, mask=None):
    """``mask`` tells which entries take part, where that is not what ``where`` says."""
    no_out(out, name)
    if dtype is not None:
        refuse(name, "dtype=", "convert the argument with astype first")
    mean = given(mean, None)
    ddof = given(correction, ddof)
    over = Reduction(shape_of(a), axis, keepdims, where)
    options = over.options() if mean is None else {**over.options(), "mean": mean}
    if mask is not None:
        over = Reduction(shape_of(a), axis, keepdims, mask)
    result = function(a, ddof=ddof, **options)
    root = result if function in (np.std, np.nanstd) else None
    count = over.count()
    freedom = count - ddof if isinstance(count, int) else (count - ddof).astype(result.dtype)
    sign = 1, -1
    shapes = shape_of(a), None if mean is None else shape_of(mean)

    def linear(k):
        def push(t):
            rate = sign[k] * 2 * over.total(real_product(spread_of(a, mean, over), t)) / freedom
            return rate if root is None else over_root(rate, root)

        def pull(g):
            rate = sign[k] * 2 * g / freedom
            rate = rate if root is None else over_root(rate, root)
            return unbroadcast(over.lift(rate) * spread_of(a, mean, over), shapes[k])
        return push, pull
    return result, matched(result, linear, a, mean)


@structural(np.var, operands=("a", "mean"), reads=("a", "mean"))
def var_rule(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    return var_maps("np.var", np.var, a, axis, dtype, out, ddof, keepdims, where, mean, correction)


@structural(np.std, operands=("a", "mean"), reads=("a", "mean", "out"))
def std_rule(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    return var_maps("np.std", np.std, a, axis, dtype, out, ddof, keepdims, where, mean, correction)


def extremum_maps(ufunc, a, axis, out, keepdims, initial, where):
    """Which entries win is settled when the rule runs: the maps keep an index, or a mask, and read nothing."""
    no_out(out, f"np.{ufunc.__name__}.reduce")
    over = Reduction(shape_of(a), axis, keepdims, where)
    initial = given(initial, None)
    result = ufunc.reduce(a, **started(over.options(), initial))
    shape = over.shape

    best = over.lift(result)
    undefined = np.not_equal(best, best)
    undefined = undefined if undefined.any() else None

    def is_winner(x):
        wins = np.equal(x, best)
        return wins if undefined is None else wins | (undefined & np.not_equal(x, x))

    winners = is_winner(a)
    if over.where is not True:
        winners = winners & over.where
    if axis is None and initial is None and not over.keepdims:
        index = winners.nonzero() if shape else ()
        if not shape or len(index[0]) == 1:
            index = tuple(int(i[0]) for i in index)
            return result, lambda k: ((lambda t: t[index] if shape else t), lambda g: scatter(g, shape, index))
    initial_wins = None if initial is None else is_winner(initial)
    if initial is None and np.count_nonzero(winners) == result.size:
        share = share_out = 1
    else:
        ties = np.add.reduce(winners, axis=over.axis, keepdims=True)
        ties = np.reshape(ties if initial is None else ties + initial_wins, np.shape(best))
        share = np.asarray(1 / ties, dtype=real_dtype(result.dtype))
        share_out = np.reshape(share, result.shape)
    shape_out = result.shape

    def linear(k):
        if k == 1:
            return initial_maps(initial, shape_out, np.reshape(share * initial_wins, shape_out))
        return ((lambda t: np.add.reduce(np.where(winners, t, 0), axis=over.axis, keepdims=over.keepdims) * share_out),
                (lambda g: np.where(winners, over.lift(g) * share, 0)))
    return result, matched(result, linear, a, initial)


@structural(np.max, np.amax, operands=("a", "initial"))
def max_rule(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    return extremum_maps(np.maximum, a, axis, out, keepdims, initial, where)


@structural(np.min, np.amin, operands=("a", "initial"))
def min_rule(a, axis=None, out=None, keepdims=False, initial=None, where=True):
    return extremum_maps(np.minimum, a, axis, out, keepdims, initial, where)


def register_extremum(ufunc):
    @structural((ufunc, "reduce"), operands=("array", "initial"))
    def reduce_rule(array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
        if dtype is not None:
            refuse(f"np.{ufunc.__name__}.reduce", "dtype=", "convert the argument with astype first")
        return extremum_maps(ufunc, array, axis, out, keepdims, initial, where)


for _ufunc in (np.maximum, np.minimum, np.fmax, np.fmin):
    register_extremum(_ufunc)


@structural((np.logaddexp, "reduce"), operands=("array",), reads=("array", "out"))
def logaddexp_reduce_rule(array, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    no_out(out, "np.logaddexp.reduce")
    if dtype is not None or given(initial, None) is not None:
        refuse("np.logaddexp.reduce", "dtype= or initial=", "take it into the array instead")
    over = Reduction(shape_of(array), axis, keepdims, where)
    result = np.logaddexp.reduce(array, **over.options())

    def weights():
        best = over.lift(result)
        # Infinite entries that equal the result weigh like finite ones that do.
        with np.errstate(invalid="ignore"):    # of two infinities; NumPy's own run takes no difference of them
            gap = array - best
        raw = np.exp(np.where(np.equal(array, best), 0, gap))
        return raw / over.lift(over.total(raw))

    return result, lambda k: ((lambda t: over.total(weights() * t)), (lambda g: over.spread(g) * weights()))


def median_maps(name, function, a, axis, out, overwrite_input, keepdims, skip_nan):
    """The mean of one or two entries, chosen by rank; where the result is NaN for want of a middle, so is all."""
    no_out(out, name)
    if overwrite_input:
        refuse(name, "overwrite_input=True", "leave it out")
    shape = shape_of(a)
    over = Reduction(shape, axis, keepdims, True)
    result = function(a, axis=axis, keepdims=over.keepdims)
    if not shape or 0 in shape:
        return result, lambda k: ((lambda t: over.total(t)), over.spread)
    axes = axes_of(axis, len(shape))
    order = (*(i for i in range(len(shape)) if i not in axes), *axes)
    back = [order.index(i) for i in range(len(shape))]
    rest = tuple(shape[i] for i in order[:len(shape) - len(axes)])
    moved = tuple(shape[i] for i in order)
    rows = np.reshape(np.transpose(a, order), (*rest, -1))
    ranks = np.argsort(rows, axis=-1)
    missing = np.isnan(rows)
    if skip_nan or not np.any(missing):
        count = np.add.reduce(~missing, axis=-1, keepdims=True)
        positions = np.concatenate([np.maximum(count - 1, 0) // 2, count // 2], axis=-1)
        positions = np.minimum(positions, rows.shape[-1] - 1)
    else:
        # A NaN anywhere is the median; it is sorted last.
        last = np.add.reduce(~missing, axis=-1, keepdims=True)
        count = rows.shape[-1]
        full = last == count
        positions = np.concatenate([np.where(full, (count - 1) // 2, count - 1),
                                    np.where(full, count // 2, count - 1)], axis=-1)
    chosen = np.take_along_axis(ranks, positions, axis=-1)
    index = (*np.ogrid[tuple(slice(n) for n in (*rest, 1))][:-1], chosen)

    halves = np.full(2, 0.5, dtype=real_dtype(result.dtype))
    shape_rows, shape_out = (*rest, rows.shape[-1]), result.shape

    def push(t):
        picked = np.reshape(np.transpose(t, order), shape_rows)[index]
        return np.reshape((picked[..., 0] + picked[..., 1]) / 2, shape_out)

    def pull(g):
        return scatter_add(np.reshape(g, (*rest, 1)) * halves, shape_rows, index).reshape(moved).transpose(back)

    return result, lambda k: (push, pull)


@structural(np.median, operands=("a",))
def median_rule(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    return median_maps("np.median", np.median, a, axis, out, overwrite_input, keepdims, False)


@structural(np.nanmedian, operands=("a",))
def nanmedian_rule(a, axis=None, out=None, overwrite_input=False, keepdims=False):
    return median_maps("np.nanmedian", np.nanmedian, a, axis, out, overwrite_input, keepdims, True)


def present(a, where):
    """Where an entry takes part in the functions that skip NaN."""
    return ~np.isnan(a) & given(where, True)


@structural(np.nanmean, operands=("a",))
def nanmean_rule(a, axis=None, dtype=None, out=None, keepdims=False, *, where=True):
    no_out(out, "np.nanmean")
    result = np.nanmean(a, axis, dtype, keepdims=given(keepdims, False), where=given(where, True))
    over = Reduction(shape_of(a), axis, keepdims, present(a, where))
    count = np.asarray(over.count(), dtype=real_dtype(result.dtype))

    def push(t):
        return over.total(t) / count

    def pull(g):
        return over.spread(g / count)

    return result, matched(result, lambda k: (push, pull), a)


@structural(np.nanvar, operands=("a", "mean"), reads=("a", "mean"))
def nanvar_rule(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    mask = present(a, where)
    return var_maps("np.nanvar", np.nanvar, a, axis, dtype, out, ddof, keepdims, where, mean, correction, mask)


@structural(np.nanstd, operands=("a", "mean"), reads=("a", "mean", "out"))
def nanstd_rule(a, axis=None, dtype=None, out=None, ddof=0, keepdims=False, *, where=True, mean=None, correction=None):
    mask = present(a, where)
    return var_maps("np.nanstd", np.nanstd, a, axis, dtype, out, ddof, keepdims, where, mean, correction, mask)


@structural((np.add, "reduceat"), operands=("array",))
def add_reduceat_rule(array, indices, axis=0, dtype=None, out=None):
    no_out(out, "np.add.reduceat")
    indices = np.array(indices)
    result = np.add.reduceat(array, indices, axis=axis, dtype=dtype)
    shape = array.shape
    axis = axis_of(axis, len(shape))
    # A bin that does not end after its start holds its first entry alone.
    ends = np.append(indices[1:], shape[axis])
    lengths = np.where(ends > indices, ends - indices, 1)
    in_turn = bool(np.all(ends > indices))

    def push(t):
        return np.add.reduceat(t, indices, axis=axis, dtype=dtype)

    def pull(g):
        spread = np.repeat(g, lengths, axis=axis)
        if in_turn and indices[0] == 0:
            return spread
        if in_turn:   # what comes before the first bin is in none
            skipped = np.zeros((*shape[:axis], int(indices[0]), *shape[axis + 1:]), g.dtype)
            return np.concatenate([skipped, spread], axis=axis)
        target = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - indices, lengths)
        return scatter_add(spread, shape, (*(slice(None),) * axis, target))

    return result, matched(result, lambda k: (push, pull), array)


@structural(np.trace, operands=("a",))
def trace_rule(a, offset=0, axis1=0, axis2=1, dtype=None, out=None):
    no_out(out, "np.trace")
    result = np.trace(a, offset, axis1, axis2, dtype)
    shape = a.shape
    ndim = len(shape)
    axis1, axis2 = axis_of(axis1, ndim), axis_of(axis2, ndim)
    length = max(0, min(shape[axis1] + min(offset, 0), shape[axis2] - max(offset, 0)))
    index = (np.arange(length) - min(offset, 0), np.arange(length) + max(offset, 0))
    order = (axis1, axis2, *(i for i in range(ndim) if i not in (axis1, axis2)))
    back = [order.index(i) for i in range(ndim)]
    moved = tuple(shape[i] for i in order)

    def push(t):
        return np.trace(t, offset, axis1, axis2, dtype)

    def pull(g):
        return scatter(g, moved, index).transpose(back)

    return result, matched(result, lambda k: (push, pull), a)


@structural(np.bincount, operands=("weights",))
def bincount_rule(x, weights=None, minlength=0):
    if weights is None:
        refuse("np.bincount", "no weights", "its counts carry no derivative")
    bins = np.array(x)
    result = np.bincount(bins, weights, minlength)

    def push(t):
        return np.bincount(bins, t, minlength)

    def pull(g):
        return g[bins]

    return result, matched(result, lambda k: (push, pull), weights)
