"""Stores of numbers and small arrays into larger regions, on the general path: a store broadcasts, its transpose sums.

Nested calls, complex numbers, half and extended precision take that path. Reverse is compared with forward mode, which
shares no code with it there, and forward mode with differences.
"""
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad

W = np.array([1.0, 2.0, 3.0])
X = np.array([0.5, -1.2, 2.0])

NUMBERS = {
    "sum": np.sum, "mean": np.mean, "dot": lambda x: np.dot(x, x), "matmul": lambda x: x @ x, "prod": np.prod,
    "var": np.var, "element": lambda x: x[0], "last": lambda x: x[-1] * 1.0, "product": lambda x: x[0] * x[1],
    "max": np.max, "median": np.median, "norm": np.linalg.norm, "vdot": lambda x: np.vdot(x, W),
    "average": lambda x: np.average(x, weights=W), "trace": lambda x: np.trace(np.outer(x, x)),
    "0-d": lambda x: x[1, ...],
    "one entry": lambda x: x[:1], "std": np.std,
}
MASK = np.array([True, False, True])


def slab(y, s):
    y[:] = s


def part(y, s):
    y[1:] = s


def mask(y, s):
    y[MASK] = s


def places(y, s):
    y[[0, 2]] = s


def repeated(y, s):
    y[[0, 0, 2]] = s


def filled(y, s):
    y.fill(s if np.ndim(s) == 0 else s[0])


def copied(y, s):
    np.copyto(y, s)


def strided(y, s):
    y[::2] = s
    y[1] = y[0] * y[2]


def added(y, s):
    y += s
    np.add.at(y, [0, 0, 1], s)


def put(y, s):
    np.put(y, [0, 1], s)


def flat(y, s):
    y.flat[1:] = s


def rows(y, s):
    m = np.ones((2, 3), y.dtype)
    m[1] = s
    m[:, 0] = s if np.ndim(s) == 0 else s[0]
    y[:] = m[0] * m[1]


def full(y, s):
    y[:] = np.full_like(y, s) + np.broadcast_to(s, (3,))


WRITES = [slab, part, mask, places, repeated, filled, copied, strided, added, put, flat, rows, full]
REAL_ONLY = {"max", "median"}


def program(write, number, dtype=float):
    def f(x):
        y = np.ones(3, dtype)
        write(y, NUMBERS[number](x))
        return np.sum(np.abs(y) ** 2 * W) if np.dtype(dtype).kind == "c" else y**3 @ W.astype(dtype)
    return f


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("write", WRITES)
def test_second_order(write, number):
    f = program(write, number)
    want = cyad.jacfwd(cyad.jacfwd(f))(X)
    slope, h = np.array([0.3, -0.7, 0.4]), 1e-5
    differences = (cyad.jacfwd(f)(X + h * slope) - cyad.jacfwd(f)(X - h * slope)) / (2 * h)
    assert_allclose(want @ slope, differences, rtol=1e-6, atol=1e-6)
    for got in (cyad.hessian(f, X), cyad.jacrev(cyad.grad(f))(X), cyad.jacrev(cyad.jacfwd(f))(X)):
        assert_allclose(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("number", sorted(set(NUMBERS) - REAL_ONLY))
@pytest.mark.parametrize("write", WRITES)
def test_complex(write, number):
    f, z = program(write, number, complex), X + 1j * X[::-1] * 0.3
    got = cyad.grad(f)(z)
    for direction in (np.array([1.0, 0.2j, -0.4]), np.array([0.3 - 1j, 1.0, 0.5j])):
        h = 1e-6
        slope = (f(z + h * direction) - f(z - h * direction)) / (2 * h)
        assert_allclose(np.sum(np.real(np.conj(got) * direction)), slope, rtol=1e-6, atol=1e-6)
        assert_allclose(cyad.jvp(f, (z,), (direction,))[1], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
@pytest.mark.parametrize("number", ["sum", "element", "mean", "dot"])
@pytest.mark.parametrize("write", WRITES)
def test_other_precisions(write, number, dtype):
    tolerance = 3e-2 if dtype is np.float16 else 1e-12
    x = X.astype(dtype) / 4
    got = cyad.grad(program(write, number, dtype))(x)
    assert got.dtype == dtype
    want = cyad.grad(program(write, number))(x.astype(float))
    assert_allclose(got.astype(float), want, rtol=tolerance, atol=tolerance)


# ---- values that nothing came of -------------------------------------------------------------------------------------

def replaced(x):
    q = 1.0 / x[0]
    return (q if np.isfinite(q) else 0.0) + x[1]


def overwritten_element(x):
    y = np.zeros(2)
    y[0] = 1.0 / x[0]
    y[0] = x[1]
    return np.sum(y)


def dropped(x):
    ratio = x / x[0]
    unused = np.sum(ratio), x @ ratio, np.max(ratio), np.hypot(x[0], x[0]), x[0] * math.inf
    return x[1] * 1.0 if len(unused) == 5 else x[0]


@pytest.mark.parametrize("mode", [cyad.Reverse, cyad.Forward])
@pytest.mark.parametrize("f", [replaced, overwritten_element, dropped])
def test_values_that_nothing_came_of_may_have_any_partial(f, mode):
    x = np.array([0.0, 3.0])
    with np.errstate(all="ignore"):
        assert_array_equal(cyad.gradient(mode, f, x)[0], [0.0, 1.0])
        assert_array_equal(cyad.hvp(f, x, np.ones(2)), [0.0, 0.0])
        both, = cyad.jacobian(mode, lambda x: np.stack([f(x), 2.0 * f(x)]), x)
        assert_array_equal(both, [[0.0, 1.0], [0.0, 2.0]])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_zero_that_was_added_is_no_absence(sign):
    with np.errstate(all="ignore"):
        assert np.isnan(cyad.gradient(cyad.Reverse, lambda x: sign * np.minimum(1.0, 1.0 / x[0]), np.zeros(1))[0][0])


def test_absent_adjoints_are_zeros_without_sign():
    assert not np.signbit(cyad.gradient(cyad.Reverse, lambda x, y: 2.0 * x, 1.0, 2.0)).any()
    assert not np.signbit(cyad.grad(lambda x, y: x * 1.0, 1)(1.0, 2.0))
