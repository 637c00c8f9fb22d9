"""Memory: aliasing, overwriting, the undo log, and what stays behind after a call.

Random programs (tests/fuzz) find what combinations of ordinary statements break; here are the cases that they hardly
meet. Every function is run by plain NumPy too, and its derivatives are compared with central differences or with
numbers derived by hand.
"""
import copy
import ctypes
import functools
import gc
import io
import itertools
import math
import os
import resource
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import cyad
from cyad import (
    Active,
    ActivityError,
    BatchDuplicated,
    Const,
    Duplicated,
    Forward,
    ForwardWithPrimal,
    Reverse,
    ReverseWithPrimal,
    autodiff,
)

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


# ---- arguments and their shadows ------------------------------------------------------------------------------------

def product(a, b):
    return np.sum(a * a * b)


def test_one_array_twice_has_one_shadow_or_two():
    x, d, e = V.copy(), np.zeros(5), np.zeros(5)
    autodiff(Reverse, product, Active, Duplicated(x, d), Duplicated(x, d))
    np.testing.assert_allclose(d, 3 * x * x)
    d[:] = 0.0
    autodiff(Reverse, product, Active, Duplicated(x, d), Duplicated(x, e))
    np.testing.assert_allclose([d, e], [2 * x * x, x * x])


def test_one_array_twice_is_written_where_the_shadow_is_one():
    def f(a, b):
        a[1:] *= b[:-1]
        return b @ W[:5]
    want = differences(lambda x: f(x, x), [V], 0)
    for layout in (slice(None), slice(None, None, -1)):
        x, d = V.copy(), np.zeros(5)[layout]
        autodiff(Reverse, f, Active, Duplicated(x, d), Duplicated(x, d))
        np.testing.assert_allclose(d, want, rtol=1e-8)
        x, d = V.copy(), (np.zeros(5), np.zeros(5))
        autodiff(Reverse, f, Active, BatchDuplicated(x, d), BatchDuplicated(x, d))
        np.testing.assert_allclose(d, [want, want], rtol=1e-8)
        x, t = V.copy(), np.array([0.3, -0.2, 0.5, 0.1, 1.0])[layout]
        (slope,) = autodiff(Forward, f, Duplicated(x, t), Duplicated(x, t))
        assert slope == pytest.approx(want @ np.array([0.3, -0.2, 0.5, 0.1, 1.0])[layout])
    with pytest.raises(ActivityError, match="argument 1 of .*f may only be read"):
        autodiff(Reverse, f, Active, Duplicated(x, np.zeros(5)), Duplicated(x, np.zeros(5)))


def test_overlapping_arguments_with_overlapping_shadows():
    def f(a, b):
        b[:] = np.sin(a)
        a[1] *= b[0]
        return a @ W[:4] + b @ W[4:8]
    want = differences(lambda x: f(x[:-1], x[1:]), [V], 0)
    x, d = V.copy(), np.zeros(5)
    autodiff(Reverse, f, Active, Duplicated(x[:-1], d[:-1]), Duplicated(x[1:], d[1:]))
    np.testing.assert_allclose(d, want, rtol=1e-8)


def test_columns_of_a_matrix_do_not_overlap():
    def f(a, b):
        a *= b
        b[1] = a[2] * 3.0
        return a @ b
    m = np.arange(6.0).reshape(3, 2)
    want = cyad.gradient(Forward, f, m[:, 0].copy(), m[:, 1].copy())
    d, e = np.zeros(3), np.zeros(3)
    autodiff(Reverse, f, Active, Duplicated(m[:, 0], d), Duplicated(m[:, 1], e))
    np.testing.assert_allclose([d, e], want)


@pytest.mark.parametrize("layout", [np.s_[:], np.s_[::-1]], ids=str)
@pytest.mark.parametrize("lanes", [1, 2])
def test_arguments_that_share_a_shadow_both_add_to_it(layout, lanes):
    d = tuple(np.ones(5)[layout] for _ in range(lanes))
    x, y = V.copy(), V.copy()
    shadowed = (lambda a: Duplicated(a, d[0])) if lanes == 1 else (lambda a: BatchDuplicated(a, d))
    autodiff(Reverse, product, Active, shadowed(x), shadowed(y))
    np.testing.assert_allclose(d, [1 + 3 * V * V] * lanes)

    def writes(a, b):
        a[0] = 2.0
        return np.sum(a * b)
    with pytest.raises(ActivityError, match="may only be read"):
        autodiff(Reverse, writes, Active, shadowed(x), shadowed(y))
    with pytest.raises(ActivityError, match="may only be read"):
        autodiff(Forward, writes, shadowed(x), shadowed(y))
    slope, = autodiff(Forward, product, shadowed(x), shadowed(y))
    np.testing.assert_allclose(slope, np.sum((1 + 3 * V * V) * 3 * V * V) * (1.0 if lanes == 1 else np.ones(2)))


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["Forward", "Reverse"])
def test_shadows_that_cannot_be_worked_on(mode):
    returned = (Active,) if mode is Reverse else ()
    x, locked = V.copy(), np.zeros(5)
    locked.setflags(write=False)
    for shadow in (locked, np.broadcast_to(0.0, 5)):
        with pytest.raises(ActivityError, match="shadow of argument 1 .* is read-only"):
            autodiff(mode, np.sum, *returned, Duplicated(x, shadow))
    with pytest.raises(ActivityError, match="shadow of argument 1 of sum is memory of argument 1"):
        autodiff(mode, np.sum, *returned, Duplicated(x, x))
    with pytest.raises(ActivityError, match="shadow of argument 2 of .*product is memory of argument 1"):
        autodiff(mode, product, *returned, Duplicated(x, np.zeros(5)), Duplicated(V.copy(), x))
    with pytest.raises(ActivityError, match="lanes 0 and 1 of the shadow of argument 1"):
        autodiff(mode, np.sum, *returned, BatchDuplicated(x, (d := np.zeros(5), d[::-1])))


@pytest.mark.parametrize("make", [
    lambda x: sliding_window_view(x, 3), lambda x: np.broadcast_to(x[:3], (3, 3)),
    lambda x: np.broadcast_to(x[:3, None], (3, 3)),
], ids=["sliding window", "rows", "columns"])
def test_elements_that_share_memory_have_derivatives_of_their_own(make):
    def f(a):
        return np.sum(a * a * W[:9].reshape(3, 3))
    x = V.copy()
    a = make(x)
    for d in (np.zeros((3, 3)), np.zeros((3, 3), order="F")):
        autodiff(Reverse, f, Active, Duplicated(a, d))
        np.testing.assert_allclose(d, 2 * a * W[:9].reshape(3, 3))
        autodiff(Forward, f, Duplicated(a, np.ones((3, 3), order="F")))
    np.testing.assert_allclose(cyad.gradient(Forward, f, a)[0], d)

    def writes(base, a):
        base[1] = 4.0
        return np.sum(a)
    for annotated in (Const(x), Duplicated(x, np.zeros(5))):
        with pytest.raises(ActivityError, match="argument 1 of .*writes may only be read"):
            autodiff(Reverse, writes, Active, annotated, Duplicated(a, d))
        with pytest.raises(ActivityError, match="argument 1 of .*writes may only be read"):
            autodiff(Reverse, writes, Active, annotated, Const(a))


def test_shadows_of_another_layout_are_worked_on_in_private():
    a = np.arange(1.0, 7.0).reshape(2, 3)
    def f(a):
        a[0] *= a[1]
        return np.sum(np.sin(a) * W[:6].reshape(2, 3))
    want = differences(f, [a], 0)
    block = np.zeros((4, 6))
    for shadow in (np.zeros((2, 3), order="F"), block[::2, ::2], block[1::2, 1::2][::-1, ::-1], np.zeros((3, 2)).T):
        autodiff(Reverse, f, Active, Duplicated(a.copy(), shadow))
        np.testing.assert_allclose(shadow, want, rtol=1e-8)


@pytest.mark.parametrize("mode", [ForwardWithPrimal, ReverseWithPrimal], ids=["Forward", "Reverse"])
def test_arguments_that_are_no_plain_memory_are_refused(mode):
    returned = (Active,) if mode is ReverseWithPrimal else ()
    swapped = V.astype(V.dtype.newbyteorder())
    misaligned = np.zeros(41, dtype=np.uint8)[1:].view(np.float64)
    misaligned[:] = V
    for a in (swapped, misaligned):
        with pytest.raises(ActivityError, match="argument 1 of .* is byte-swapped or misaligned"):
            autodiff(mode, product, *returned, Duplicated(a, np.zeros_like(a)), Const(V))
        d = np.ones(5)
        *_, value = autodiff(mode, product, *returned, Duplicated(V.copy(), d), Const(a))
        assert value == np.sum(V**3)
    with pytest.raises(ActivityError, match="overlaps itself"):
        writeable = np.lib.stride_tricks.as_strided(V.copy(), (3, 3), (8, 8))
        autodiff(mode, np.sum, *returned, Duplicated(writeable, np.zeros((3, 3))))


@pytest.mark.parametrize("make", [
    lambda x, d: x.astype(d), lambda x, d: np.array(x, dtype=d),
    lambda x, d: np.array([x[0], x[1], 2.0, x[2]], dtype=d), lambda x, d: np.full_like(x, x[1], dtype=d),
    lambda x, d: np.concatenate([x, x], dtype=d), lambda x, d: np.stack([x[0], x[1]]).astype(d),
    lambda x, d: np.zeros_like(x, dtype=d) + x[1],
])
@pytest.mark.parametrize("name", ["f8", "f4"])
def test_arrays_made_in_the_other_byte_order(make, name):
    swapped = np.dtype(name).newbyteorder()

    def f(x, dtype):
        y = make(x, dtype)
        y[0] += x[2]
        y *= y[1]
        return y[0] * y[1] + np.sum(y)
    x = V.astype(name)
    want = cyad.gradient(Reverse, lambda x: f(x, name), x)
    assert cyad.autodiff(ReverseWithPrimal, f, Active, Const(x), Const(swapped))[1] == f(x, swapped)
    for mode in (Forward, Reverse):
        np.testing.assert_allclose(cyad.gradient(mode, lambda x: f(x, swapped), x), want, rtol=1e-6)


def test_dual_arrays_by_hand_refuse_the_other_byte_order():
    swapped = V.astype(V.dtype.newbyteorder())
    with pytest.raises(ActivityError, match="byte-swapped"):
        cyad.DualArray(swapped, swapped.copy())


def test_lists_of_plain_numbers_are_operands():
    both(lambda x: np.sum(x * [1.0, 2.0, 3.0, 4.0, 5.0] + [2.0] * 5), V)
    both(lambda x: np.sum([1, 2, 3, 4, 5] ** (x / 5)), V)
    both(lambda x: np.sum(np.hypot([1.0, 2.0], x[1])), V)
    both(lambda x: np.sum(x[1] * np.add([1.0, 2.0], x[0])), V)


def test_checksums_catch_what_gets_past_a_lock():
    script = """
import numpy as np, cyad
big = np.ones(200_000)
earlier = big[:]
def f(x):
    s = np.sum(big * x)
    earlier[0] = 5.0
    return s
try:
    cyad.gradient(cyad.Reverse, f, np.ones(200_000))
except cyad.LockedArrayError:
    print("caught", big.flags.writeable)
"""
    out = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True,
                         env=dict(os.environ, CYAD_VERIFY="1"))
    assert out.stdout == "caught True\n"


def test_integers_beyond_64_bits():
    both(lambda x: np.log(np.power(10**30, x[0, ...]) + 2**70 * x[1] + (10**40) ** x[2]), V)
    both(lambda x: math.log(math.pow(10**30, x[0])) + np.maximum(x[1, ...], -10**30), V)


# ---- what the tape refers to and the function overwrites ------------------------------------------------------------

def refer_and_overwrite_by_element(x):
    y = np.exp(x)           # exp reads its result again
    z = x * y
    for i in range(5):
        x[i] = y[i - 1] * 2.0
        y[i] = z[i] + x[i]
    return x @ y + np.sum(z)


def refer_and_overwrite_regions(x):
    total = 0.0
    for k in range(4):
        y = np.sin(x) * x
        x[k:] = y[:5 - k]
        x[:k] *= y[:k]
        x[::2] -= 0.1 * x[0]
        total = total + np.sum(x * x)
    return total


def refer_and_overwrite_by_mask_and_list(x):
    y = x * x
    x[x > 2.5] = y[x > 2.5] * 0.1
    z = np.tanh(x)
    x[[0, 0, 3]] = z[[1, 2, 3]]
    z[np.array([True, False, False, True, True])] *= x[0]
    return x @ z + np.sum(np.cos(x) * y)


def refer_and_overwrite_by_out(x):
    y = np.empty(5)
    np.multiply(x, x, out=y)
    np.sin(y, out=y)
    np.add(x, y, out=x)
    np.exp(x[1:], out=y[:-1])
    np.multiply(x, y, out=x, where=y > 1.0)
    np.cumsum(x, out=y)
    z = np.empty(5)
    np.dot(np.outer(y, x), x, out=z)
    x[...] = z
    return np.sum(np.log(np.abs(x) + 1.0)) + y[4]


def views_made_before_anything_is_active(x):
    scratch = np.zeros((3, 5))
    row, column, diagonal = scratch[1], scratch[:, 2], scratch.T[1:4].T
    flat, back = scratch.reshape(-1), scratch[::-1, ::-1]
    scratch[0] = x
    row[...] = x * x
    column += 1.0
    flat[3::4] *= x[3]
    back[0] = diagonal[0, 0] * row
    return np.sum(scratch * W[:15].reshape(3, 5)) + row @ column[[0, 1, 2, 1, 0]] + np.sum(np.sin(flat))


def diagonals_and_transposes(x):
    a = np.zeros((5, 5))
    a.flat[::6] = x
    a[np.arange(4), np.arange(1, 5)] = x[:-1] * x[1:]
    np.fill_diagonal(a[1:], x[2])
    a.T[3] = np.diagonal(a) * 2.0
    a += a.T
    np.einsum("ii->i", a)[...] *= 0.5
    return np.sum(a @ a * W[:25].reshape(5, 5))


def constants_in_between(x):
    y = x * x
    x[1] = 3.0
    y[2:4] = 7.0
    x[[0, 4]] = 1.5
    y[y > 24.0] = 0.0
    return np.sum(x * y * W[:5])


def zeroed_and_filled_again(x):
    buffer = np.empty(5)
    total = 0.0
    for k in range(3):
        buffer.fill(0.0)
        buffer[k:] += x[k:] * x[k]
        total += np.sum(buffer ** 3)
        buffer[...] = x
        x = buffer[::-1] * 1.1
    return total


def scalars_that_outlive_their_memory(x):
    first, last = x[0], x[4]
    x[...] = x * first
    x[4] = last * x[0]
    first *= x[0]
    x[0] = first
    x[1:3] = first
    return np.prod(x) + first * last


def swapped_names(x):
    old, new = x, np.zeros(5)
    for _ in range(3):
        new[1:-1] = 0.5 * (old[:-2] + old[2:]) * old[1:-1]
        new[0], new[-1] = old[-1], old[0]
        old, new = new, old
    return np.sum(old * W[:5]) + np.sum(new)


@pytest.mark.parametrize("f", [
    refer_and_overwrite_by_element, refer_and_overwrite_regions, refer_and_overwrite_by_mask_and_list,
    refer_and_overwrite_by_out, views_made_before_anything_is_active, diagonals_and_transposes, constants_in_between,
    zeroed_and_filled_again, scalars_that_outlive_their_memory, swapped_names,
])
@pytest.mark.parametrize("layout", [np.s_[:], np.s_[::-1]], ids=["forwards", "backwards"])
def test_what_was_overwritten_comes_back(f, layout):
    both(f, np.array([1.0, 0.4, 3.0, 0.7, 1.9])[layout])


@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_what_was_overwritten_comes_back_in_other_dtypes(dtype):
    def f(x):
        y = np.exp(x)
        x[1] = y[0]
        x[[2, 3]] = y[[3, 2]] * x[1]
        y[x.real > 0.5] *= 0.5
        x[:2] *= y[3:]
        return np.real(np.sum(x * x * y))
    x = np.array([1.0, 0.4, 0.3, 0.7, 0.9])
    got = cyad.gradient(Reverse, f, x.astype(dtype))[0]
    assert got.dtype == dtype
    np.testing.assert_allclose(got.real, differences(f, [x], 0), rtol=2e-5 if dtype == np.float32 else 1e-7)
    for k in range(5):
        d = np.zeros(5, dtype=dtype)
        d[k] = 1.0
        assert autodiff(Forward, f, Duplicated(x.astype(dtype), d))[0] == pytest.approx(got[k].real, rel=1e-5)


# ---- captured and constant arrays -----------------------------------------------------------------------------------

def test_small_captured_arrays_are_copied_when_referred_to():
    captured = V.copy()

    def f(x):
        y = x * captured + captured[2] * x[0]
        captured[...] = 100.0
        captured[2] += 1.0
        return np.sum(y * x)
    got = cyad.gradient(Reverse, f, np.ones(5))[0]
    np.testing.assert_array_equal(captured, [100.0, 100.0, 101.0, 100.0, 100.0])
    want = 2.0 * V
    want += 3.0
    want[0] += 3.0 * 5
    np.testing.assert_allclose(got, want)


def test_large_captured_arrays_are_locked_for_the_length_of_the_call():
    captured = np.ones((1 << 17) + 1)
    window = captured[1:]

    def writes(x, fail=False):
        y = x * captured
        assert not captured.flags.writeable
        z = x[1:] * window
        if fail:
            raise KeyError("the function's own")
        captured[0] = 2.0
        return np.sum(y) + np.sum(z)

    x = np.ones(captured.size)
    with pytest.raises(cyad.LockedArrayError, match="writes wrote an array that it captured"):
        cyad.gradient(Reverse, writes, x)
    assert captured.flags.writeable and window.flags.writeable
    with pytest.raises(KeyError):
        cyad.gradient(Reverse, lambda x: writes(x, fail=True), x)
    assert captured.flags.writeable and window.flags.writeable

    def reads(x):
        return np.sum(x * captured) + np.sum(x[1:] * window) + np.sum(x * captured)
    np.testing.assert_allclose(cyad.gradient(Reverse, reads, x)[0][:3], [2.0, 3.0, 3.0])
    assert captured.flags.writeable and window.flags.writeable
    captured.setflags(write=False)
    cyad.gradient(Reverse, reads, x)
    assert not captured.flags.writeable and window.flags.writeable


def test_constant_arguments_are_written_with_constants_and_read_again():
    def f(x, c):
        y = x * c
        c[1:3] = 5.0
        c[0] += 1.0
        c *= 2.0
        z = y * c
        c.sort()
        return np.sum(z) + c @ x
    c = V.copy()
    value = f(np.ones(5), V.copy())
    d = np.zeros(5)
    _, got = autodiff(ReverseWithPrimal, f, Active, Duplicated(np.ones(5), d), Const(c))
    assert got == value
    np.testing.assert_array_equal(c, [4.0, 8.0, 10.0, 10.0, 10.0])
    np.testing.assert_allclose(d, [8.0, 28.0, 40.0, 42.0, 60.0])
    with pytest.raises(cyad.ActiveStoreError, match="argument 2 of .*, which is Const"):
        autodiff(Reverse, lambda x, c: c.__setitem__(0, x[0]), Duplicated(np.ones(5), d), Const(c))


# ---- exceptions -----------------------------------------------------------------------------------------------------

class Stop(Exception):
    pass


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["Forward", "Reverse"])
def test_an_exception_leaves_arrays_as_the_function_left_them(mode):
    def f(x, fail):
        y = np.exp(x)
        x[:2] = y[:2]
        x[3] *= 2.0
        if fail:
            raise Stop
        return np.sum(x * y)
    returned = (Active,) if mode is Reverse else ()
    x, d = V.copy(), np.ones(5)
    with pytest.raises(Stop):
        autodiff(mode, f, *returned, Duplicated(x, d), True)
    np.testing.assert_array_equal(x, [np.exp(1.0), np.exp(2.0), 3.0, 8.0, 5.0])
    np.testing.assert_allclose(d, np.ones(5) if mode is Reverse else [np.exp(1.0), np.exp(2.0), 1.0, 2.0, 1.0])
    assert type(np.zeros(2)) is np.ndarray
    first, second = np.zeros(5), np.zeros(5)
    for shadow in (first, second):
        autodiff(mode, f, *returned, Duplicated(V.copy(), shadow), False)
    np.testing.assert_array_equal(first, second)


def test_an_exception_in_the_sweep_leaves_arrays_as_the_function_left_them():
    """The factors of a singular matrix have no derivative, which only the sweep finds out."""
    def f(x):
        y = x * x
        z = np.sum(np.linalg.qr(np.outer(y, y)[:2])[1])
        x[0] = 7.0
        x[1:3] = y[1:3]
        return z * x[1]
    x = V.copy()
    x[...] = 0.5
    with pytest.raises(np.linalg.LinAlgError):
        cyad.gradient(Reverse, f, x)
    np.testing.assert_array_equal(x, [7.0, 0.25, 0.25, 0.5, 0.5])


def test_read_only_and_empty_arrays():
    x = V.copy()
    x.setflags(write=False)
    both(lambda x: np.sum(x[1:] * x[:-1]), x)
    for write in (lambda x: x.__setitem__(0, 1.0), lambda x: x.__iadd__(1.0), lambda x: np.add(x, x, out=x),
                  lambda x: x[1:].__setitem__([0], x[0]), lambda x: x.sort(), lambda x: x.fill(0.0),
                  lambda x: np.copyto(x, x[0]), lambda x: np.put(x, 0, 1.0), lambda x: x.flat.__setitem__(0, x[1])):
        for mode, returned in ((Reverse, (Const,)), (Forward, (Const,))):
            with pytest.raises(ValueError, match="read-only"):
                autodiff(mode, write, *returned, Duplicated(x, np.zeros(5)))
    np.testing.assert_array_equal(x, V)

    def empty(x):
        y = np.zeros((0, 3))
        y[...] = x[:0, None] * 2.0
        x[5:] = y.sum()
        x[[]] += 1.0
        x[x > 100.0] = x[0]
        return np.sum(y) + x @ x + np.sum(x[2:2] ** 2) + np.concatenate([x[:0], x]) @ x
    both(empty, V)
    d = np.zeros((0, 4))
    autodiff(Reverse, lambda a: np.sum(np.sin(a * a[:, :1])), Active, Duplicated(np.zeros((0, 4)), d))
    autodiff(Forward, lambda a: np.sum(np.sin(a * a[:, :1])), Duplicated(np.zeros((0, 4)), d))


# ---- plain memory ---------------------------------------------------------------------------------------------------

def inside(f):
    """What f returns inside a differentiated call, in both modes, and in calls inside of calls."""
    results = []

    def run(x):
        result = f()
        results.append(result.__array__() if isinstance(result, np.ndarray) else
                       float(result) if isinstance(result, float) else result)
    for mode in (Forward, Reverse):
        autodiff(mode, run, Const, Duplicated(V.copy(), np.zeros(5)))
        for inner in (Forward, Reverse):
            autodiff(mode, nested(run, inner), Const, Duplicated(V.copy(), np.zeros(5)))
    return results


def nested(f, mode):
    return lambda x: autodiff(mode, f, Const, Duplicated(x, np.zeros(5))) and None


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("f", [
    lambda: np.broadcast_to(2.0, (2, 3)), lambda: np.broadcast_to([1.0, 2.0], (2, 2)),
    lambda: np.broadcast_arrays([1.0, 2.0], 3.0)[1], lambda: np.lib.stride_tricks.as_strided(V + 1.0, (2, 2), (8, 16)),
    lambda: np.lib.stride_tricks.as_strided(np.ones(3), (2, 2), (8, 8)), lambda: sliding_window_view(np.ones(3), 2),
    lambda: np.ones((2, 2)).view(np.matrix).A, lambda: np.ma.masked_array(np.ones(3), [0, 1, 0]).sum(),
    lambda: np.rec.fromarrays([np.ones(2), np.zeros(2)]).f0, lambda: np.frombuffer(np.ones(3).tobytes()),
    lambda: np.frombuffer(np.ones(3).data), lambda: np.ones(3).view(np.int64), lambda: np.ones(3).view(np.recarray),
    lambda: np.ctypeslib.as_array(np.ones(3).ctypes.data_as(ctypes.POINTER(ctypes.c_double)), (3,)),
    lambda: np.random.default_rng(5).normal(np.zeros(3), np.ones(3)), lambda: round_trip(np.ones(3)),
    lambda: np.random.default_rng(5).permutation(np.ones(3)),
])
def test_inactive_arrays_go_where_plain_memory_is_wanted(f):
    want = f()
    for got in inside(f):
        np.testing.assert_array_equal(got, want)


def round_trip(a):
    file = io.BytesIO()
    np.save(file, a)
    np.savez(file2 := io.BytesIO(), a)
    file.seek(0)
    file2.seek(0)
    return np.load(file) + np.load(file2)["arr_0"]


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@pytest.mark.parametrize("hand_out", [
    lambda a: np.lib.stride_tricks.as_strided(a, (2, 2), (8, 8)), lambda a: a.data, lambda a: a.ctypes.data,
    lambda a: a.view(np.matrix), lambda a: memoryview(a), lambda a: a.__array__(), lambda a: a.__array_interface__,
])
def test_memory_that_was_handed_out_takes_no_active_values(hand_out):
    def late(x):
        a = np.zeros(5)
        kept = hand_out(a[:3])
        a[4] = 1.0
        a[0] = x[0]
        return kept

    def active(x):
        hand_out(x * 2.0)

    def late_outside(x):
        """Exposed by the inner call, and written by the outer one."""
        a = np.zeros(5)
        kept = cyad.gradient(Reverse, lambda t: (hand_out(a), t)[1], 1.0)
        a[0] = x[0]
        return kept
    for mode in (Forward, Reverse):
        for f in (late, nested(late, Forward), nested(late, Reverse), late_outside):
            with pytest.raises(cyad.ActiveStoreError, match="plain memory had been handed"):
                autodiff(mode, f, Const, Duplicated(V.copy(), np.zeros(5)))
        for f in (active, nested(active, Forward), nested(active, Reverse)):
            with pytest.raises(cyad.ADError, match="derivative"):
                autodiff(mode, f, Const, Duplicated(V.copy(), np.zeros(5)))


# ---- what stays behind ----------------------------------------------------------------------------------------------

def works(x):
    y = np.exp(x)
    z = np.zeros_like(x)
    for i in range(1, len(x)):
        z[i] = y[i] * x[i - 1]
    x[:2] = z[:2] * np.linalg.norm(y)
    z[z > 1.0] *= y[1]
    return np.sum(np.sin(z) * y) + math.sin(x[0])


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["Forward", "Reverse"])
@pytest.mark.parametrize("fails", [False, True])
def test_no_array_outlives_its_call_by_a_cycle(mode, fails):
    """The collector is off, so that reference counts alone must free everything."""
    alive = []

    def f(x):
        y = x * 2.0
        alive.append(weakref.ref(y.primal))
        result = works(y)
        if fails:
            raise Stop
        return result
    x, d = V.copy(), np.zeros(5)
    returned = (Active,) if mode is Reverse else ()
    gc.collect()
    gc.disable()
    try:
        try:
            autodiff(mode, f, *returned, Duplicated(x, d))
        except Stop:
            pass
        gone = [weakref.ref(x), weakref.ref(d)]
        del x, d
        assert [ref() is None for ref in alive + gone] == [True] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["Forward", "Reverse"])
def test_repeated_calls_do_not_grow(mode):
    def call():
        x, d = np.linspace(0.5, 1.5, 2000), np.ones(2000)
        autodiff(mode, works, *((Active,) if mode is Reverse else ()), Duplicated(x, d))
        with pytest.raises(Stop):
            autodiff(mode, stops, Duplicated(x, d))

    def stops(x):
        works(x)
        raise Stop
    for _ in range(5):
        call()
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            call()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 16_000   # bytes; a single array of the function's has as many


def test_the_process_does_not_grow():
    def most():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss   # KiB
    x, d = np.ones(100_000), np.zeros(100_000)

    def f(x):
        y = np.sin(x)
        for _ in range(5):
            y = y * x + 1.0
        return np.sum(y) + sum(y[i] * y[i + 1] for i in range(20_000))
    for k in range(15):
        autodiff(Reverse, f, Active, Duplicated(x, d))
        if k == 5:
            before = most()
    assert most() - before < 8 << 10


def test_the_memory_of_values_that_nothing_needs_goes_during_the_call():
    """A chain of linear operations reads nothing again: at any time a few arrays exist, not all of them."""
    n = 200_000

    def chain(x):
        for _ in range(50):
            x = x + 1.0
        return np.sum(x)
    x, d = np.ones(n), np.zeros(n)
    autodiff(Reverse, chain, Active, Duplicated(x, d))
    tracemalloc.start()
    try:
        autodiff(Reverse, chain, Active, Duplicated(x, d))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * n * 8


def test_a_value_that_escapes_keeps_no_tape():
    kept = []

    def f(x):
        y = np.exp(x)
        kept.extend([x[0] * 2.0, y[1:], (y[i] for i in range(5)), iter(x), copy.copy(y), lambda: y + 1.0, np.zeros(3)])
        next(kept[2])
        kept.append(weakref.ref(np.sin(y).primal))
        return y @ y
    x = V.copy()
    autodiff(Reverse, f, Active, Duplicated(x, np.zeros(5)))
    assert kept[-1]() is None
    np.testing.assert_array_equal(x, V)
    for use in (lambda: kept[0] + 1.0, lambda: kept[1] * 2.0, lambda: next(kept[2]), lambda: next(kept[3]),
                lambda: kept[4].sum(), kept[5], lambda: kept[1].__setitem__(0, 1.0)):
        with pytest.raises(cyad.EscapedValueError):
            use()


USES_OF_THE_PLAIN = {   # of an array that a call left behind and that never was active
    "operators": lambda w, x: x * w + w / 2.0 - w**2 + (-w) + w @ x,
    "numbers of it": lambda w, x: x * w[1] - w[0] * 2.0,
    "ufuncs": lambda w, x: np.hypot(x, np.exp(w)),
    "reductions": lambda w, x: x * np.sum(w) + w.max() + np.add.reduce(w),
    "views": lambda w, x: x * w.reshape(1, 3)[0] + w[::-1] + w.T,
    "copies": lambda w, x: x * w.copy() + w.astype("f4"),
    "functions": lambda w, x: np.concatenate([w, x])[2:5] * np.interp(0.5, w, w) + np.stack([w, w])[0, 0],
    "lists": lambda w, x: np.array([w[0], 2.0, x[0]]) * np.array([w[1], 1.0, w[2]]) + np.mean([w, w]),
    "stores": lambda w, x: write_and(w, x),
    "into tracked": lambda w, x: stored(w, x),
    "asarray": lambda w, x: np.asarray(w) * x,
    "math": lambda w, x: x * math.sin(w[1]) + math.hypot(w[0], x[1], w[2]),
    "comparisons": lambda w, x: x * (w > 0.3) + np.equal(w, w),
    "out": lambda w, x: x * np.multiply(w, 2.0, out=w.copy()),
    "conversions": lambda w, x: x * float(w[1]) + float(w[1:2].sum()),
    "in place": lambda w, x: in_place(w.copy(), x),
    "where": lambda w, x: np.where(w > 0.5, w, x),
    "take": lambda w, x: x * w[[0, 2, 0]],
    "matmul": lambda w, x: np.outer(w, w) @ x + np.dot(w, x),
    "linalg": lambda w, x: x * np.linalg.norm(w),
}


def write_and(w, x):
    kept = w.copy()
    w[1] += 1.0
    w *= 2.0
    out = x * w
    w[...] = kept
    return out


def stored(w, x):
    y = np.zeros(3)
    y[:] = w
    y[0] = w[1]
    y[1:] += w[1:]
    y[[2]] = w[[1]]
    return y * x


def in_place(v, x):
    v += 1.0
    v **= 2
    v[1:] = 3.0
    np.add.at(v, [0, 0], 1.0)
    return v * x


@pytest.mark.parametrize("mode", [Forward, Reverse])
@pytest.mark.parametrize("name", USES_OF_THE_PLAIN)
def test_a_cache_filled_in_a_call_serves_later_ones(name, mode):
    use, x = USES_OF_THE_PLAIN[name], np.array([0.4, 1.1, 0.7])
    plain = np.hanning(5)[1:4]
    want = use(plain.copy(), x)
    slope = [np.sum(use(plain.copy(), x + e) - use(plain.copy(), x - e)) / 2e-6 for e in 1e-6 * np.eye(3)]
    for filler in (Forward, Reverse):
        window = functools.cache(lambda: np.hanning(5)[1:4] * 1.0)

        def f(x, window=window):
            return np.sum(use(window(), x))
        np.testing.assert_allclose(cyad.gradient(filler, f, x)[0], slope, rtol=1e-6, atol=1e-8)
        kept = window()
        assert type(np.asarray(kept)) is np.ndarray
        np.testing.assert_array_equal(use(kept, x), want)
        np.testing.assert_allclose(cyad.gradient(mode, f, x)[0], slope, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(cyad.gradient(mode, lambda w, f=f: np.sum(w * f(w)), kept)[0].shape, (3,))
        np.testing.assert_array_equal(use(kept, x), want)


def test_numbers_that_a_call_leaves_behind():
    kept, x = [], V.copy()
    cyad.gradient(Reverse, lambda x: (kept.append(np.sum(np.hanning(4))), x[0])[1], x)
    cyad.gradient(Forward, lambda x: (kept.append(np.hanning(4)[1]), x[0])[1], x)
    for k, want in zip(kept, (np.sum(np.hanning(4)), np.hanning(4)[1]), strict=True):
        for got in (k * 1.0, 1.0 * k, np.multiply(k, 1.0), k * k / k, abs(-k), np.array([k])[0], float(k)):
            np.testing.assert_allclose(got, want, rtol=1e-12)
        assert cyad.gradient(Reverse, lambda x, k=k: x[0] * k, x)[0][0] == want


def test_active_values_of_an_ended_call_are_not_stored_as_constants():
    for filler, key in itertools.product((Forward, Reverse), (0, slice(None), [0, 1, 2, 3, 4])):
        kept = []
        cyad.gradient(filler, lambda x, kept=kept: (kept.append(x * 2.0), np.sum(x))[1], V.copy())

        def f(x, kept=kept, key=key):
            y = np.zeros(5)
            y[key] = kept[0] if key != 0 else kept[0][key]
            return np.sum(y * x)
        for mode in (Forward, Reverse):
            with pytest.raises(cyad.EscapedValueError):
                cyad.gradient(mode, f, V.copy())


def test_a_generator_that_is_resumed_after_the_call_meets_plain_numpy():
    def numbers(x):
        yield x[0] * 2.0
        yield type(np.zeros(2))
        yield x[1] * 2.0
    made = []

    def f(x):
        made.append(numbers(x))
        return next(made[0]) ** 2
    assert cyad.gradient(Reverse, f, V.copy())[0][0] == 8.0
    assert next(made[0]) is np.ndarray
    with pytest.raises(cyad.EscapedValueError, match="f"):
        next(made[0])


def test_threads_do_not_meet():
    want = cyad.gradient(Reverse, works, V.copy())[0]
    errors, barrier = [], threading.Barrier(6)

    def run(mode):
        try:
            barrier.wait()
            for _ in range(150):
                np.testing.assert_allclose(cyad.gradient(mode, works, V.copy())[0], want, rtol=1e-12)
        except Exception as error:
            errors.append(error)

    def plain():
        try:
            barrier.wait()
            for _ in range(3000):
                assert type(np.zeros(3)) is np.ndarray and type(np.ones(2) * 2.0) is np.ndarray
                assert type(np.array([1.0])) is np.ndarray and type(V.copy()) is np.ndarray
        except Exception as error:
            errors.append(error)
    threads = [threading.Thread(target=run, args=(mode,)) for mode in (Forward, Reverse) * 2]
    threads += [threading.Thread(target=plain) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]


def test_a_thread_started_by_the_function_sees_plain_numpy():
    seen = []

    def f(x):
        thread = threading.Thread(target=lambda: seen.append(type(np.zeros(2))))
        thread.start()
        thread.join()
        return x[0] ** 2
    cyad.gradient(Reverse, f, V.copy())
    assert seen == [np.ndarray]


@pytest.mark.parametrize("view", [lambda a: a, lambda a: a[:], lambda a: a[1:].reshape(2, -1)])
def test_an_array_that_two_threads_capture_is_locked_until_both_calls_end(view):
    captured, met = np.ones((1 << 17) + 3), []
    first_has_it, second_has_it, first_is_done = threading.Event(), threading.Event(), threading.Event()

    def first(x):
        y = x[0] * captured
        first_has_it.set()
        assert second_has_it.wait(30)
        return np.sum(y)

    def second(x):
        seen = view(captured)
        y = x[0] * seen
        second_has_it.set()
        assert first_is_done.wait(30)
        captured[3] = 9.0
        return np.sum(y)

    def run_second():
        assert first_has_it.wait(30)
        try:
            cyad.gradient(Reverse, second, np.ones(1))
        except cyad.LockedArrayError as error:
            met.append(error)
    thread = threading.Thread(target=run_second)
    thread.start()
    assert cyad.gradient(Reverse, first, np.ones(1))[0][0] == captured.size
    first_is_done.set()
    thread.join()
    assert len(met) == 1 and captured[3] == 1.0 and captured.flags.writeable


def test_views_are_unlocked_before_and_after_what_they_view():
    captured = np.ones((1 << 17) + 2)
    window = captured[1:]
    for parts in ((captured, window), (window, captured), (window[1:], window, captured)):
        def f(x, parts=parts):
            return sum(np.sum(x[0] * p) for p in parts)
        assert cyad.gradient(Reverse, f, np.ones(1))[0][0] == sum(p.size for p in parts)
        assert all(p.flags.writeable for p in parts)


# ---- long recordings ------------------------------------------------------------------------------------------------

def test_a_million_operations_on_scalars_take_constant_room_and_time():
    def record(n):
        start = time.thread_time()
        with cyad.Tape() as tape:
            x = tape.variable(0.5)
            y = x
            for _ in range(n // 2):
                y = 0.5 * y + x
        middle = time.thread_time()
        gradient = tape.gradient(y, x)
        assert tape.nbytes / n < 40
        assert gradient == pytest.approx(2.0)
        return middle - start, time.thread_time() - middle
    record(1000)
    short, long = (min(record(n) for _ in range(3)) for n in (50_000, 1_000_000))
    assert long[0] < 5 * 20 * short[0] and long[1] < 5 * 20 * short[1] + 1e-3


def test_element_loops_log_nothing_and_stay_linear():
    def sweep(x):
        for _ in range(20):
            for i in range(1, len(x)):
                x[i] = 0.5 * x[i] + 0.4 * x[i - 1]
        return x[-1]

    def seconds(n):
        x, start = np.ones(n), time.thread_time()
        cyad.gradient(Reverse, sweep, x)
        return time.thread_time() - start
    seconds(100)
    assert min(seconds(4000) for _ in range(3)) < 5 * 10 * min(seconds(400) for _ in range(3))


def test_deep_recursion_and_long_chains_need_no_stack():
    def deep(x, n):
        return x if n == 0 else deep(np.sin(x) + x, n - 1)
    depth = sys.getrecursionlimit() // 2
    assert np.isfinite(cyad.gradient(Reverse, lambda x: np.sum(deep(x, depth)), V.copy())[0]).all()

    def chain(x):
        for _ in range(100_000):
            x = x * 1.0
        return np.sum(x)
    np.testing.assert_allclose(cyad.gradient(Reverse, chain, V.copy())[0], np.ones(5))

    def views(x):
        for _ in range(100_000):
            x = x[:]
        return np.sum(x * x)
    np.testing.assert_allclose(cyad.gradient(Reverse, views, V.copy())[0], 2 * V)
