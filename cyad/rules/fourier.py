"""Discrete Fourier transforms. Linear: the transpose of a transform is the inverse one with the other scaling.

The transforms over several axes are Python code on top of these.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import axis_of, conj, kind_of, matched, no_out, zeros_for

SWAPPED = {None: "forward", "backward": "forward", "forward": "backward", "ortho": "ortho"}


def resized(x, n, axis):
    """``x`` cut or filled up with zeros to ``n`` entries along ``axis``, as the transforms do with what they get."""
    have = x.shape[axis]
    before = (slice(None),) * axis
    if have >= n:
        return x if have == n else x[(*before, slice(n))]
    return np.concatenate([x, zeros_for(x, (*x.shape[:axis], n - have, *x.shape[axis + 1:]))], axis=axis)


def half_weights(n, axis, ndim, inner):
    """1 for the frequencies that are their own mirror image among n points, ``inner`` for those that stand for two."""
    weights = np.full(n // 2 + 1, inner)
    weights[0] = 1
    if n % 2 == 0:
        weights[-1] = 1
    return weights.reshape((-1,) + (1,) * (ndim - axis - 1))


def complex_transform(name, transform, inverse, a, n, axis, norm, out):
    no_out(out, name)
    result = transform(a, n, axis, norm)
    axis = axis_of(axis, a.ndim)
    length, norm_back = a.shape[axis], SWAPPED[norm]

    def push(t):
        return transform(t, n, axis, norm)

    def pull(g):
        return resized(inverse(g, None, axis, norm_back), length, axis)

    return result, matched(result, lambda k: (push, pull), a)


@structural(np.fft.fft, operands=("a",))
def fft_rule(a, n=None, axis=-1, norm=None, out=None):
    return complex_transform("np.fft.fft", np.fft.fft, np.fft.ifft, a, n, axis, norm, out)


@structural(np.fft.ifft, operands=("a",))
def ifft_rule(a, n=None, axis=-1, norm=None, out=None):
    return complex_transform("np.fft.ifft", np.fft.ifft, np.fft.fft, a, n, axis, norm, out)


@structural(np.fft.rfft, operands=("a",))
def rfft_rule(a, n=None, axis=-1, norm=None, out=None):
    """A sum over half the frequencies: the real part of it is ``irfft`` with the inner ones halved."""
    no_out(out, "np.fft.rfft")
    result = np.fft.rfft(a, n, axis, norm)
    axis = axis_of(axis, a.ndim)
    length, norm_back = a.shape[axis], SWAPPED[norm]
    points = length if n is None else n
    weights = half_weights(points, axis, a.ndim, 0.5).astype(result.real.dtype)

    def push(t):
        return np.fft.rfft(t, n, axis, norm)

    def pull(g):
        return resized(np.fft.irfft(g * weights, points, axis, norm_back), length, axis)

    return result, matched(result, lambda k: (push, pull), a)


@structural(np.fft.irfft, operands=("a",))
def irfft_rule(a, n=None, axis=-1, norm=None, out=None):
    no_out(out, "np.fft.irfft")
    result = np.fft.irfft(a, n, axis, norm)
    axis = axis_of(axis, a.ndim)
    length, norm_back = a.shape[axis], SWAPPED[norm]
    points = result.shape[axis]
    weights = half_weights(points, axis, a.ndim, 2.0).astype(result.dtype)
    real = kind_of(a) != "c"

    def push(t):
        return np.fft.irfft(t, n, axis, norm)

    def pull(g):
        g = np.fft.rfft(g, None, axis, norm_back) * weights
        return resized(g.real if real else g, length, axis)

    return result, lambda k: (push, pull)


@structural(np.fft.hfft, operands=("a",))
def hfft_rule(a, n=None, axis=-1, norm=None, out=None):
    """``irfft`` of the conjugate, scaled the other way."""
    no_out(out, "np.fft.hfft")
    result, linear = irfft_rule(conj(a), n, axis, SWAPPED[norm])
    push, pull = linear(0)
    return result, lambda k: ((lambda t: push(conj(t))), (lambda g: conj(pull(g))))


@structural(np.fft.ihfft, operands=("a",))
def ihfft_rule(a, n=None, axis=-1, norm=None, out=None):
    """The conjugate of ``rfft``, scaled the other way."""
    no_out(out, "np.fft.ihfft")
    result, linear = rfft_rule(a, n, axis, SWAPPED[norm])
    push, pull = linear(0)
    return np.conj(result), lambda k: ((lambda t: np.conj(push(t))), (lambda g: pull(conj(g))))
