"""Products: matmul and its relatives, dot, inner, outer, tensordot, cross, convolve, correlate.

Each is linear in either factor: pushing is the product itself, pulling a product with the conjugate of the other one.
The maps of one factor read the other one only.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import conj, matched, no_out, refuse, shape_of, unbroadcast, zeros_for

OTHER = {"x1": ("x2",), "x2": ("x1",)}


@structural(np.matmul, operands=("x1", "x2"), reads=OTHER)
def matmul_rule(x1, x2, out=None):
    no_out(out, "np.matmul")
    result = np.matmul(x1, x2)
    ndims = len(shape_of(x1)), len(shape_of(x2))

    def linear(k):
        push = (lambda t: np.matmul(t, x2)) if k == 0 else (lambda t: np.matmul(x1, t))
        if ndims == (2, 2):
            pull = (lambda g: np.matmul(g, conj(x2).T)) if k == 0 else (lambda g: np.matmul(conj(x1).T, g))
        elif ndims == (2, 1):
            pull = (lambda g: np.multiply(g[:, None], conj(x2))) if k == 0 else (lambda g: np.matmul(conj(x1).T, g))
        elif ndims == (1, 2):
            pull = (lambda g: np.matmul(conj(x2), g)) if k == 0 else (lambda g: np.multiply(conj(x1)[:, None], g))
        elif ndims == (1, 1):
            pull = (lambda g: g * conj(x2)) if k == 0 else (lambda g: g * conj(x1))
        else:
            pull = batched_pull(x1, x2, k)
        return push, pull
    return result, matched(result, linear, x1, x2)


def batched_pull(x1, x2, k):
    """A 1-d factor is a matrix of one row or column, whose axis the result does not have."""
    row, column = x1.ndim == 1, x2.ndim == 1
    shape = (x1, x2)[k].shape
    thick = shape if len(shape) > 1 else (1, *shape) if k == 0 else (*shape, 1)
    other = x2 if k == 0 else x1

    def pull(g):
        if column:
            g = g[..., :, None]
        if row:
            g = g[..., None, :]
        if k == 0:
            wide = np.matmul(g, conj(other[:, None] if column else other).swapaxes(-1, -2))
        else:
            wide = np.matmul(conj(other[None, :] if row else other).swapaxes(-1, -2), g)
        return unbroadcast(wide, thick).reshape(shape)
    return pull


def contraction(result, a, b, axes_a, axes_b):
    """The maps of ``tensordot(a, b, (axes_a, axes_b))``; the free axes of a, then those of b, are the result's."""
    free_a = [i for i in range(a.ndim) if i not in axes_a]
    free_b = [i for i in range(b.ndim) if i not in axes_b]
    shapes = a.shape, b.shape

    def linear(k):
        if k == 0:
            # The contracted axes of a come out in the order that b keeps them.
            order = [*free_a, *(axes_a[axes_b.index(i)] for i in range(b.ndim) if i in axes_b)]
            back = [order.index(i) for i in range(a.ndim)]
            from_g = list(range(len(free_a), len(free_a) + len(free_b)))
            return ((lambda t: np.tensordot(t, b, (axes_a, axes_b)).reshape(result_shape)),
                    (lambda g: np.tensordot(np.reshape(g, result_shape), conj(b), (from_g, free_b))
                     .transpose(back).reshape(shapes[0])))
        order = [*(axes_b[axes_a.index(i)] for i in range(a.ndim) if i in axes_a), *free_b]
        back = [order.index(i) for i in range(b.ndim)]
        from_g = list(range(len(free_a)))
        return ((lambda t: np.tensordot(a, t, (axes_a, axes_b)).reshape(result_shape)),
                (lambda g: np.tensordot(conj(a), np.reshape(g, result_shape), (free_a, from_g))
                 .transpose(back).reshape(shapes[1])))

    result_shape = result.shape
    return result, matched(result, linear, a, b)


def scaling(result, a, b):
    """The maps of ``a * b`` where one of them is a number."""
    shapes = shape_of(a), shape_of(b)

    def linear(k):
        other = b if k == 0 else a
        return (lambda t: t * other), (lambda g: unbroadcast(g * conj(other), shapes[k]))
    return result, matched(result, linear, a, b)


@structural(np.dot, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def dot_rule(a, b, out=None):
    no_out(out, "np.dot")
    ndims = len(shape_of(a)), len(shape_of(b))
    if 0 in ndims:
        return scaling(np.dot(a, b), a, b)
    if ndims[0] <= 2 and ndims[1] <= 2:
        return matmul_rule(a, b)
    return contraction(np.dot(a, b), a, b, [a.ndim - 1], [max(b.ndim - 2, 0)])


@structural(np.inner, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def inner_rule(a, b):
    if () in (shape_of(a), shape_of(b)):
        return scaling(np.inner(a, b), a, b)
    return contraction(np.inner(a, b), a, b, [a.ndim - 1], [b.ndim - 1])


@structural(np.tensordot, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def tensordot_rule(a, b, axes=2):
    result = np.tensordot(a, b, axes)
    try:
        axes_a, axes_b = axes
    except TypeError:
        axes = int(axes)
        axes_a, axes_b = list(range(a.ndim - axes, a.ndim)), list(range(axes))
    axes_a = [i % a.ndim for i in (axes_a if isinstance(axes_a, (list, tuple)) else [axes_a])]
    axes_b = [i % b.ndim for i in (axes_b if isinstance(axes_b, (list, tuple)) else [axes_b])]
    return contraction(result, a, b, axes_a, axes_b)


@structural(np.outer, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def outer_rule(a, b, out=None):
    no_out(out, "np.outer")
    result = np.outer(a, b)
    shapes = shape_of(a), shape_of(b)

    def linear(k):
        if k == 0:
            return (lambda t: np.outer(t, b)), (
                lambda g: np.reshape(np.matmul(g, np.reshape(conj(b), -1)), shapes[0]))
        return (lambda t: np.outer(a, t)), (lambda g: np.reshape(np.matmul(np.reshape(conj(a), -1), g), shapes[1]))
    return result, matched(result, linear, a, b)


@structural(np.vdot, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def vdot_rule(a, b):
    """Antilinear in ``a``."""
    shapes = shape_of(a), shape_of(b)
    result = np.vdot(a, b)

    def linear(k):
        if k == 0:
            return (lambda t: np.vdot(t, b)), (lambda g: np.reshape(conj(g) * b, shapes[0]))
        return (lambda t: np.vdot(a, t)), (lambda g: np.reshape(g * a, shapes[1]))
    return result, matched(result, linear, a, b)


def no_axes(name, axes):
    if axes is not None:
        refuse(name, "axes=", "move the axes of the arguments instead")


@structural(np.vecdot, operands=("x1", "x2"), reads=OTHER)
def vecdot_rule(x1, x2, out=None, *, axis=-1, keepdims=False, axes=None):
    """Antilinear in ``x1``."""
    no_out(out, "np.vecdot")
    no_axes("np.vecdot", axes)
    result = np.vecdot(x1, x2, axis=axis, keepdims=keepdims)
    shapes = x1.shape, x2.shape
    if axis != -1 and axis >= 0 and x1.ndim != x2.ndim:
        refuse("np.vecdot", "an axis counted from the front and operands of unlike rank", "count it from the end")
    axis = axis - max(x1.ndim, x2.ndim) if axis >= 0 else axis

    def lift(g):
        return g if keepdims else np.expand_dims(g, axis)

    def linear(k):
        if k == 0:
            return (lambda t: np.vecdot(t, x2, axis=axis, keepdims=keepdims)), (
                lambda g: unbroadcast(conj(lift(g)) * x2, shapes[0]))
        return (lambda t: np.vecdot(x1, t, axis=axis, keepdims=keepdims)), (
            lambda g: unbroadcast(lift(g) * x1, shapes[1]))
    return result, matched(result, linear, x1, x2)


@structural(getattr(np, "matvec", None), operands=("x1", "x2"), reads=OTHER)
def matvec_rule(x1, x2, out=None, *, axes=None):
    no_out(out, "np.matvec")
    no_axes("np.matvec", axes)
    result = np.matvec(x1, x2)
    shapes = x1.shape, x2.shape

    def linear(k):
        if k == 0:
            return (lambda t: np.matvec(t, x2)), (
                lambda g: unbroadcast(g[..., :, None] * conj(x2)[..., None, :], shapes[0]))
        return (lambda t: np.matvec(x1, t)), (
            lambda g: unbroadcast(np.matvec(conj(x1).swapaxes(-1, -2), g), shapes[1]))
    return result, matched(result, linear, x1, x2)


@structural(getattr(np, "vecmat", None), operands=("x1", "x2"), reads=OTHER)
def vecmat_rule(x1, x2, out=None, *, axes=None):
    """Antilinear in ``x1``."""
    no_out(out, "np.vecmat")
    no_axes("np.vecmat", axes)
    result = np.vecmat(x1, x2)
    shapes = x1.shape, x2.shape

    def linear(k):
        if k == 0:
            return (lambda t: np.vecmat(t, x2)), (lambda g: unbroadcast(np.matvec(x2, conj(g)), shapes[0]))
        return (lambda t: np.vecmat(x1, t)), (
            lambda g: unbroadcast(x1[..., :, None] * g[..., None, :], shapes[1]))
    return result, matched(result, linear, x1, x2)


@structural(np.cross, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
def cross_rule(a, b, axisa=-1, axisb=-1, axisc=-1, axis=None):
    if axis is not None:
        axisa = axisb = axisc = axis
    if a.shape[axisa] != 3 or b.shape[axisb] != 3:
        refuse("np.cross", "vectors of dimension 2", "write the determinant a[0] * b[1] - a[1] * b[0]")
    result = np.cross(a, b, axisa, axisb, axisc)
    shapes = np.moveaxis(a, axisa, -1).shape, np.moveaxis(b, axisb, -1).shape

    def linear(k):
        if k == 0:
            return (lambda t: np.cross(t, b, axisa, axisb, axisc)), (
                lambda g: np.moveaxis(unbroadcast(
                    np.cross(conj(np.moveaxis(b, axisb, -1)), np.moveaxis(g, axisc, -1)), shapes[0]), -1, axisa))
        return (lambda t: np.cross(a, t, axisa, axisb, axisc)), (
            lambda g: np.moveaxis(unbroadcast(
                np.cross(np.moveaxis(g, axisc, -1), conj(np.moveaxis(a, axisa, -1))), shapes[1]), -1, axisb))
    return result, matched(result, linear, a, b)


MODES = {0: "valid", 1: "same", 2: "full"}


def size_of(x):
    shape = shape_of(x)
    return shape[0] if shape else 1


def whole(g, start, length):
    """``g`` between zeros: the transpose of taking ``length`` apart at ``start``."""
    return np.concatenate([zeros_for(g, (start,)), g, zeros_for(g, (length - start - g.shape[0],))])


@structural(np.convolve, operands=("a", "v"), reads={"a": ("v",), "v": ("a",)})
def convolve_rule(a, v, mode="full"):
    mode = MODES.get(mode, mode)
    result = np.convolve(a, v, mode)
    shapes = shape_of(a), shape_of(v)
    sizes = size_of(a), size_of(v)
    length = sum(sizes) - 1
    start = {"full": 0, "same": (min(sizes) - 1) // 2, "valid": min(sizes) - 1}[mode]

    def linear(k):
        if k == 0:
            return (lambda t: np.convolve(t, v, mode)), (
                lambda g: np.reshape(np.correlate(whole(g, start, length), np.atleast_1d(v), "valid"), shapes[0]))
        return (lambda t: np.convolve(a, t, mode)), (
            lambda g: np.reshape(np.correlate(whole(g, start, length), np.atleast_1d(a), "valid"), shapes[1]))
    return result, matched(result, linear, a, v)


@structural(np.correlate, operands=("a", "v"), reads={"a": ("v",), "v": ("a",)})
def correlate_rule(a, v, mode="valid"):
    """Antilinear in ``v``."""
    mode = MODES.get(mode, mode)
    result = np.correlate(a, v, mode)
    shapes = shape_of(a), shape_of(v)
    sizes = size_of(a), size_of(v)
    length = sum(sizes) - 1
    start = {"full": 0, "same": (min(sizes) - 1) // 2, "valid": min(sizes) - 1}[mode]
    if mode == "same" and sizes[1] > sizes[0]:
        # NumPy exchanges the operands and reverses the result, its centre included.
        start = length - start - max(sizes)

    def pull_v(g):
        back = np.correlate(whole(g, start, length), np.atleast_1d(a), "valid")
        return np.reshape(conj(back)[::-1], shapes[1])

    def linear(k):
        if k == 0:
            return (lambda t: np.correlate(t, v, mode)), (
                lambda g: np.reshape(np.convolve(whole(g, start, length), np.atleast_1d(v), "valid"), shapes[0]))
        return (lambda t: np.correlate(a, t, mode)), pull_v
    return result, matched(result, linear, a, v)


def trimmed(x):
    """How many leading zeros a polynomial has, of which NumPy keeps the last if there is nothing else."""
    nonzero = np.flatnonzero(np.not_equal(x, 0))
    return int(nonzero[0]) if len(nonzero) else max(len(x) - 1, 0)


@structural(np.polymul, operands=("a1", "a2"), reads={"a1": ("a2",), "a2": ("a1",)})
def polymul_rule(a1, a2):
    """The product of what remains without leading zeros; those count as constants, for they decide the length."""
    starts = trimmed(a1), trimmed(a2)
    result, linear = convolve_rule(a1[starts[0]:], a2[starts[1]:])

    def shifted(k):
        push, pull = linear(k)
        start = starts[k]
        return (lambda t: push(t[start:])), (lambda g: np.concatenate([zeros_for(g, (start,)), pull(g)]))
    return result, matched(result, shifted, a1, a2)
