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


# ---- overlapping stores ---------------------------------------------------------------------------------------------

STEPS = [(start, n, step) for step in (1, 2, 3, -1, -2) for n in (2, 3, 4) for start in range(10)
         if 0 <= start + (n - 1) * step < 10]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128])
def test_a_store_between_overlapping_views_moves_what_numpy_moves(dtype):
    """NumPy copies one-dimensional views of unlike steps element by element, even where that overwrites the source."""
    positions = np.arange(10)
    for target in STEPS:
        for source in STEPS:
            if target[1] != source[1]:
                continue
            at, came = (np.array([s + k * step for k in range(n)]) for s, n, step in (target, source))
            moved = positions.astype(dtype)
            view(moved, target)[...] = view(moved, source)
            origin = moved.real.astype(int)
            want = np.zeros(10)
            np.add.at(want, origin, W[:10])

            def f(x, target=target, source=source):
                view(x, target)[...] = view(x, source)
                return np.real(np.dot(W[:10].astype(dtype), x))

            x = positions.astype(dtype)
            got = cyad.gradient(cyad.Reverse, f, x)[0]
            np.testing.assert_array_equal(x, moved)
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=f"{at} = {came}")


def view(x, steps):
    start, n, step = steps
    stop = start + n * step
    return x[start:stop if stop >= 0 else None:step]


@pytest.mark.parametrize("source", [np.s_[2:3], np.s_[0:1], np.s_[None, 1:4], np.s_[None, 4:1:-1], np.s_[None, ::2]],
                         ids=str)
def test_a_store_from_a_broadcast_or_leading_axis(source):
    def f(x):
        x[1:4] = x[source]
        return W[:5] @ np.sin(x)
    both(f, V)


@pytest.mark.parametrize("text", [
    "x[1:, :] = x[:-1, :]", "x[:-1] = x[1:]", "x[:] = x.T", "x[...] = x[::-1]", "x.T[:] = x[::-1, ::-1]",
    "x[1] = x[:, 2]", "x[:, 1] = x[2]", "x[0] = x[1, ::-1]", "x[1:, 1:] = x[:-1, :-1].T", "x[:] = x[1]",
    "x[:] = x[:, 1:2]", "x.reshape(-1)[1:] = x.reshape(-1)[:-1]", "x[1:] += x[:-1]", "x *= x.T", "x[1] *= x[:, 2]",
    "x -= x[0]", "x /= x[2, 2] + 9", "np.add(x[:-1], x[1:], out=x[1:])", "np.multiply(x, x.T, out=x)",
    "np.matmul(x, x, out=x)", "np.sin(x[0], out=x[:, 1])", "np.add(x[0], x[:, 0], out=x[:, 0])",
    "np.add(x, x.T, out=x.T, where=x > 3.2)", "np.copyto(x[1], x[:, 2])", "np.copyto(x, x.T, where=x > 3.2)",
    "x[[0, 1, 2]] = x[::-1]", "x[[2, 0]] = x[:2]", "x[x > 3.2] = x[::-1, ::-1][x > 3.2]", "x[[0, 0, 1]] = x",
    "x[:, [1, 2]] = x[:, :2]", "np.add.at(x, [0, 0, 2], x)", "np.add.at(x, ([0, 1], [1, 1]), x[0, :2])",
    "np.subtract.at(x, [1, 1, 0], x[::-1])", "np.multiply.at(x[0], [0, 0, 1], x[1])", "np.fill_diagonal(x, x[0, 1])",
    "np.put(x, [1, 5], x[0, :2])", "x.flat[1::2] = x[0, 0]", "np.place(x, x > 4.0, x[0])",
    "np.putmask(x, x > 4.0, x.T)", "x[:] = np.flip(x)", "x[0], x[1] = x[1], x[0]",
    "x[0], x[1] = x[1].copy(), x[0].copy()", "x[:, 0], x[:, 1] = x[:, 1], x[:, 0]", "x.T[0][1:] = x[0][:-1]",
    "x.ravel()[::2] = 2 * x.ravel()[::2]", "x[1:2] = x[1:2]", "x[...] = x", "x[0, :] *= 2", "x.sort()",
    "x[::-1].sort(axis=0)", "x[:] = x - x",
])
def test_one_statement_that_reads_what_it_writes(text):
    code = compile(text, text, "exec")

    def f(x):
        y = np.sin(x)   # refers to x, so that what is overwritten must come back
        exec(code, {"np": np, "x": x})
        return W[:9] @ np.cos(x).ravel() + np.sum(y * y)
    both(f, np.array([[1.0, 2.5, 3.0], [0.5, 4.5, 6.0], [3.5, 5.0, 2.0]]))
    both(f, np.asfortranarray([[1.0, 2.5, 3.0], [0.5, 4.5, 6.0], [3.5, 5.0, 2.0]]))
    both(f, np.array([[1.0, 2.5, 3.0], [0.5, 4.5, 6.0], [3.5, 5.0, 2.0]])[::-1, ::-1])
