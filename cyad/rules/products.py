"""Products: matmul and its relatives, dot, inner, outer, tensordot.

Each is linear in either factor: pushing is the product itself, pulling a product with the conjugate of the other one.
The maps of one factor read the other one only.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import conj, matched, no_out, shape_of, unbroadcast

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
    shape = (x1, x2)[k].shape
    row, column = x1.ndim == 1, x2.ndim == 1

    def pull(g):
        if column:
            g = g[..., :, None]
        if row:
            g = g[..., None, :]
        if k == 0:
            wide = np.matmul(g, conj(x2[:, None] if column else x2).swapaxes(-1, -2))
            return unbroadcast(wide, (1, *shape) if row else shape).reshape(shape)
        wide = np.matmul(conj(x1[None, :] if row else x1).swapaxes(-1, -2), g)
        return unbroadcast(wide, (*shape, 1) if column else shape).reshape(shape)
    return pull
