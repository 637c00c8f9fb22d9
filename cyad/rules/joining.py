"""Joining: concatenate and stack. Linear; the maps read nothing."""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import axis_of, matched, no_out, shape_of, zeros_for


def joined(result, operands, offsets, axis, shapes):
    """Maps for operands that fill the slabs ``offsets[k]:offsets[k + 1]`` of the result along ``axis``."""
    shape = result.shape
    dtype = result.dtype
    before = (slice(None),) * axis

    def slab(k):
        return (*before, slice(offsets[k], offsets[k + 1]))

    def push_all(tangents):
        like = next(t for t in tangents if t is not None)
        total = zeros_for(like, shape, dtype)
        for k, t in enumerate(tangents):
            if t is not None:
                piece = slab(k)
                total[piece] = np.reshape(t, shape[:axis] + (offsets[k + 1] - offsets[k],) + shape[axis + 1:])
        return total

    def linear(k):
        piece = slab(k)

        def push(t):
            return push_all([None] * k + [t] + [None] * (len(operands) - k - 1))

        def pull(g):
            return g[piece].reshape(shapes[k])
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
        lengths = [int(np.prod(s)) for s in shapes]
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
