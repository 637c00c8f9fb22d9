"""Memory: aliasing, overwriting, the undo log, and what stays behind after a call.

Random programs (tests/fuzz) find what combinations of ordinary statements break; here are the cases that they hardly
meet. Every function is run by plain NumPy too, and its derivatives are compared with central differences or with
numbers derived by hand.
"""
import numpy as np
import pytest

import cyad
from cyad import Forward

V = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
W = np.cos(np.arange(25.0))


def both(f, *args):
    """The gradient by reverse mode, checked against forward mode, central differences and the plain run."""
    plain, tracked = [copy_of(a) for a in args], [copy_of(a) for a in args]
    value = f(*plain)
    reverse = cyad.gradient(cyad.ReverseWithPrimal, f, *tracked)
    assert reverse.val == pytest.approx(float(value), rel=1e-14, abs=1e-14)
    for p, t in zip(plain, tracked, strict=True):
        np.testing.assert_array_equal(t, p, err_msg="the arguments after the call")
    forward = cyad.gradient(Forward, f, *[copy_of(a) for a in args])
    for k, (r, g) in enumerate(zip(reverse.derivs, forward, strict=True)):
        np.testing.assert_allclose(g, r, rtol=1e-12, atol=1e-12, err_msg=f"forward against reverse, argument {k}")
        np.testing.assert_allclose(r, differences(f, args, k), rtol=1e-6, atol=1e-6, err_msg=f"argument {k}")
    return reverse.derivs if len(args) > 1 else reverse.derivs[0]


def copy_of(a):
    """A copy with the very strides, negative ones and gaps included."""
    if not isinstance(a, np.ndarray) or a.base is None:
        return a.copy(order="K") if isinstance(a, np.ndarray) else a
    low, high = np.lib.array_utils.byte_bounds(a)
    memory = np.zeros(high - low, dtype=np.uint8)
    start = a.__array_interface__["data"][0] - low
    out = np.ndarray(a.shape, a.dtype, memory, start, a.strides)
    out[...] = a
    return out


def differences(f, args, k, h=1e-5):
    def at(index, step):
        moved = [copy_of(a) for a in args]
        if np.ndim(moved[k]):
            moved[k][index] += step
        else:
            moved[k] += step
        return float(f(*moved))
    out = np.zeros(np.shape(args[k]))
    for index in np.ndindex(out.shape):
        out[index] = (at(index, h) - at(index, -h)) / (2 * h)
    return out


# ---- indices --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("index", [np.array(2), (np.array(1),), np.int64(-1), np.uint8(3), (Ellipsis, np.array(4))],
                         ids=str)
def test_an_index_without_axes_reads_the_element(index):
    both(lambda x: x[index] * x[0], V)
    both(lambda x: x[::-1][index] * x[0], V)


@pytest.mark.parametrize("index", [[0, 1, 3], (np.array([2, 2, 1]),)], ids=str)
def test_an_assignment_drops_leading_axes_of_length_one(index):
    def f(x):
        y = np.ones(4)
        y[index] = x[None, :3]
        return W[:4] @ np.sin(y)
    both(f, V)
