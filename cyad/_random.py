"""Random generators' methods of tracked values, for a given stream of numbers.

What a location and a scale make of draws is differentiated along the draws: `normal(m, s)` is `m + s z`, with the z
that the plain run draws. Orders and choices are drawn as indices. All else of an active value is refused, by NumPy.

Thread safety: that of the generator.
"""
import numpy as np

from cyad._dispatch import is_tracked_value, plain_of

HANDLERS = {}   # by the function: handler(original, generator, *args, **kwargs), called where an argument is tracked


def _handler(*owners):
    def register(handler):
        for owner in owners:
            function = vars(owner).get(handler.__name__)
            if function is not None:
                HANDLERS[function] = handler
        return handler
    return register


_both = _handler(np.random.Generator, np.random.RandomState)


def _drawn(original, generator, size, shapes, standard):
    if size is None:
        shape = np.broadcast_shapes(*map(np.shape, shapes))
        size = shape if shape or any(isinstance(s, np.ndarray) for s in shapes) else None
    return original(generator, *standard, size)


def _check_scale(scale):
    if np.any(np.signbit(plain_of(scale))):
        raise ValueError("scale < 0")


@_both
def normal(original, generator, loc=0.0, scale=1.0, size=None):
    _check_scale(scale)
    return loc + scale * _drawn(original, generator, size, (loc, scale), (0.0, 1.0))


@_both
def uniform(original, generator, low=0.0, high=1.0, size=None):
    if not np.all(np.isfinite(plain_of(high) - plain_of(low))):
        raise OverflowError("high - low range exceeds valid bounds")
    return low + (high - low) * _drawn(original, generator, size, (low, high), (0.0, 1.0))


@_both
def exponential(original, generator, scale=1.0, size=None):
    _check_scale(scale)
    return scale * _drawn(original, generator, size, (scale,), (1.0,))


@_both
def shuffle(original, generator, x, axis=0):
    # Vectors and arrays of more axes are shuffled by different code.
    order = np.arange(x.shape[axis]).reshape((-1,) + (1,) * (x.ndim - 1))
    original(generator, order)
    x[...] = np.take(x, order.ravel(), axis=axis)


@_both
def permutation(original, generator, x, axis=0):
    return np.take(x, original(generator, x.shape[axis]), axis=axis)


@_both
def choice(original, generator, a, size=None, replace=True, p=None, axis=0, **kwargs):
    if not is_tracked_value(a):
        return original(generator, a, size, replace, plain_of(p), axis, **kwargs) if axis else \
            original(generator, a, size, replace, plain_of(p), **kwargs)
    return np.take(a, original(generator, a.shape[axis], size, replace, plain_of(p), **kwargs), axis=axis)


def _into(original, generator, *args, out=None, **kwargs):
    plain = np.ndarray.__new__(np.ndarray, out.shape, out.dtype, order="F" if out.flags.f_contiguous else "C")
    original(generator, *args, out=plain, **kwargs)
    out[...] = plain
    return out


for _name in ("random", "standard_normal", "standard_exponential"):
    HANDLERS[vars(np.random.Generator)[_name]] = _into
