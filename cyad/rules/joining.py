"""Moving values to other places: concatenate, stack, roll, repeat, copy, astype, diag. The maps read nothing."""
import math

import numpy as np

from cyad.rules.registry import RULES, structural
from cyad.rules.shapes import axis_of, kind_of, matched, no_out, scatter_add, shape_of, zeros_for


def joined(result, operands, offsets, axis, shapes):
    """Maps for operands that fill the slabs ``offsets[k]:offsets[k + 1]`` of the result along ``axis``."""
    shape, dtype = result.shape, result.dtype
    count = len(operands)
    before = (slice(None),) * axis

    def push_all(tangents):
        slabs = [(*shape[:axis], offsets[k + 1] - offsets[k], *shape[axis + 1:]) for k in range(count)]
        return np.concatenate([np.zeros(slab, dtype) if t is None else np.reshape(t, slab)
                               for t, slab in zip(tangents, slabs, strict=True)], axis)

    def linear(k):
        piece, shape_k = (*before, slice(offsets[k], offsets[k + 1])), shapes[k]

        def push(t):
            return push_all([t if i == k else None for i in range(count)])

        def pull(g):
            return g[piece].reshape(shape_k)
        return push, pull

    linear.push_all = push_all
    return result, matched(result, linear, *operands)


@structural(np.concatenate, operands=("*arrays",))
def concatenate_rule(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    no_out(out, "np.concatenate")
    result = np.concatenate(arrays, axis, dtype=dtype, casting=casting)
    shapes = [shape_of(x) for x in arrays]
    offsets = [0]
    if axis is None:
        axis = 0
        lengths = [math.prod(s) for s in shapes]
    else:
        axis = axis_of(axis, result.ndim)
        lengths = [s[axis] for s in shapes]
    for n in lengths:
        offsets.append(offsets[-1] + n)
    return joined(result, arrays, offsets, axis, shapes)


@structural(np.stack, operands=("*arrays",))
def stack_rule(arrays, axis=0, out=None, *, dtype=None, casting="same_kind"):
    no_out(out, "np.stack")
    result = np.stack(arrays, axis, dtype=dtype, casting=casting)
    shapes = [shape_of(x) for x in arrays]
    return joined(result, arrays, range(len(shapes) + 1), axis_of(axis, result.ndim), shapes)


@structural(np.block, operands=("arrays",), nested=True)
def block_rule(arrays):
    """Each leaf fills a box of the result; laying out their numbers instead of the leaves themselves shows which."""
    result = np.block(arrays)
    leaves = RULES[np.block].locate((arrays,), {})
    numbers = (np.full(shape_of(x), k) for k, x in enumerate(leaves))
    layout = np.block(RULES[np.block].replace((arrays,), {}, numbers)[0][0])
    shape, dtype = result.shape, result.dtype
    shapes = [shape_of(x) for x in leaves]

    def box(k):
        return tuple(slice(int(i.min()), int(i.max()) + 1) if i.size else slice(0, 0)
                     for i in np.nonzero(layout == k))

    def linear(k):
        piece, shape_k = box(k), shapes[k]
        size = tuple(s.stop - s.start for s in piece)

        def push(t):
            total = zeros_for(t, shape, dtype)
            total[piece] = np.reshape(t, size)
            return total

        def pull(g):
            return g[piece].reshape(shape_k)
        return push, pull
    return result, matched(result, linear, *leaves)


@structural(np.roll, operands=("a",))
def roll_rule(a, shift, axis=None):
    back = tuple(-s for s in shift) if isinstance(shift, (tuple, list)) else -np.array(shift)
    shift = tuple(shift) if isinstance(shift, (tuple, list)) else np.array(shift)
    return np.roll(a, shift, axis), lambda k: ((lambda t: np.roll(t, shift, axis)), (lambda g: np.roll(g, back, axis)))


@structural(np.repeat, operands=("a",))
def repeat_rule(a, repeats, axis=None):
    result = np.repeat(a, repeats, axis)
    shape = shape_of(a)
    flat = (math.prod(shape),) if axis is None else shape
    place = 0 if axis is None else axis_of(axis, len(shape))
    repeats = np.array(repeats)

    def push(t):
        return np.repeat(t, repeats, axis)

    if repeats.size == 1:
        times = int(repeats.reshape(()))

        def pull(g):
            split = np.reshape(g, (*flat[:place + 1], times, *flat[place + 1:]))
            return np.add.reduce(split, axis=place + 1).reshape(shape)
    else:
        source = (*(slice(None),) * place, np.repeat(np.arange(flat[place]), repeats))

        def pull(g):
            return scatter_add(g, flat, source).reshape(shape)

    return result, lambda k: (push, pull)


@structural(np.copy, operands=("a",))
def copy_rule(a, order="K", subok=False):
    return np.copy(a, order), lambda k: ((lambda t: t), (lambda g: g))


@structural(getattr(np, "astype", None), operands=("x",))
def astype_rule(x, dtype, copy=True, device=None):
    """Without a copy and without a change it is the argument itself, so a view. Integers carry no derivative."""
    dtype = np.dtype(dtype)
    if x.dtype == dtype and not copy:
        return x, None
    result = x.astype(dtype)
    if dtype.kind not in "fc":
        shape = result.shape
        return result, lambda k: ((lambda t: zeros_for(t, shape)), (lambda g: zeros_for(g, shape)))

    def push(t):
        return t.real.astype(dtype) if kind_of(t) == "c" and dtype.kind == "f" else t.astype(dtype)

    return result, matched(result, lambda k: (push, lambda g: g), x)


@structural(np.diag, operands=("v",))
def diag_rule(v, k=0):
    result = np.diag(v, k)
    if v.ndim == 2:
        return result, None
    return result, lambda _: ((lambda t: np.diag(t, k)), (lambda g: np.diagonal(g, k)))


@structural(np.diagflat, operands=("v",))
def diagflat_rule(v, k=0):
    shape = shape_of(v)
    return np.diagflat(v, k), lambda _: (
        (lambda t: np.diagflat(t, k)), (lambda g: np.reshape(np.diagonal(g, k), shape)))
