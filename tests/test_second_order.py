"""Sweeps of second order over one tape, against differences of first-order gradients and against nested modes.

`plain_curvature` must serve these functions itself (a None would be answered by nesting, and tested elsewhere).
"""
import numpy as np
import pytest
from cyad._second import plain_curvature
from scipy import special

import cyad
from cyad._creation import catch_libraries
from cyad.rules import _kernels, table


def entries(shape, seed=0):
    return np.random.default_rng(seed).uniform(0.5, 1.5, shape)


def gradient_at(f, x):
    return cyad.gradient(cyad.Reverse, f, x)[0]


def nested(f, x, v):
    return cyad.autodiff(cyad.Forward, lambda x: gradient_at(f, x), cyad.Duplicated, cyad.Duplicated(x, v.copy()))[0]


def check(f, x, *, tolerance=1e-11):
    v, w = entries(np.shape(x), 5) - 1.0, entries(np.shape(x), 6) - 1.0
    before = np.copy(x)
    swept = plain_curvature(f, [x.copy()], [[v], [w]])
    assert swept is not None, "the function left the sweeps of second order"
    (hv,), (hw,) = swept[0]
    np.testing.assert_allclose(swept[2], f(x.copy()), rtol=1e-13)
    np.testing.assert_allclose(swept[1][0], gradient_at(f, x.copy()), rtol=1e-13, atol=1e-13)
    h = 1e-5
    slope = (gradient_at(f, before + h * v) - gradient_at(f, before - h * v)) / (2 * h)
    size = max(1.0, np.max(np.abs(slope), initial=0.0))
    np.testing.assert_allclose(hv, slope, rtol=2e-7, atol=2e-7 * size)
    np.testing.assert_allclose(hv, nested(f, before.copy(), v), rtol=tolerance, atol=tolerance * size)
    np.testing.assert_allclose(np.sum(hv * w), np.sum(hw * v), rtol=tolerance, atol=tolerance * size)


def loop(x):
    s = 0.0
    for i in range(len(x) - 1):
        s = s + 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + np.sin(x[i] * x[i + 1]) / x[i] - x[i] ** x[i + 1]
    return s


def recurrence(x):
    y = np.zeros(len(x))
    y[0] = x[0]
    for i in range(1, len(x)):
        y[i] = 0.5 * y[i - 1] * x[i] + x[i] ** 2
    return np.sum(y * y[::-1])


def overwritten_elements(x):
    u = x.copy()
    total = 0.0
    for _ in range(3):
        total = total + np.sum(np.exp(u) * u)
        for i in range(1, len(u) - 1):
            u[i] = 0.5 * u[i] + 0.25 * u[i - 1] * u[i + 1]
        u[0] = 1.5
    return total + np.sum(u**3)


def overwritten_regions(x):
    u, total = x * 1.0, 0.0
    for _ in range(3):
        e = np.exp(u)
        total = total + np.sum(e * np.tanh(u))
        u[1:] *= np.sin(x[:-1])
        u[:2] = u[0] * x[-1]
        e[:] = 3.0
        u[-1] = 0.0
        total = total + np.sum(e * u)
    return total


def overwritten_argument(x):
    s = np.sum(x * x * x)
    x[1:] = x[:-1] * np.cos(s)
    x[0] = 2.0
    x *= x
    return np.sum(x) + s * s


def stencil(a):
    a = a.reshape(3, 4)
    u, new = a.copy(), np.empty_like(a)
    for _ in range(3):
        new[...] = u
        new[1:-1, 1:-1] = u[1:-1, 1:-1] * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] * u[1:-1, 2:])
        u, new = new, u
    return np.sum(u * u * a)


def layers(x):
    w, b = x[:6].reshape(2, 3), x[6:8]
    data = np.arange(12.0).reshape(3, 4) / 5.0
    hidden = np.tanh(w @ data + b[:, None])
    both = hidden.T @ (hidden * x[8])
    m = np.max(both, axis=1, keepdims=True)
    return np.mean(m[:, 0] + np.log(np.sum(np.exp(both - m), axis=1))) + x[:4] @ x[4:8] + (hidden @ hidden.T @ b) @ b


FUNCTIONS = {
    "element loop": loop, "recurrence": recurrence, "overwritten elements": overwritten_elements,
    "overwritten regions": overwritten_regions, "overwritten argument": overwritten_argument, "stencil": stencil,
    "layers": layers,
    "powers": lambda x: np.sum(x**2.5 + x**3 + 2.0**x + x[0]**x + x**x[1]),
    "division": lambda x: np.sum(1.0 / (1.0 + x * x)) / x[0] + np.sum(x[0] / x),
    "output partials": lambda x: np.sum(np.sqrt(x) * np.exp(x) + np.tan(x / 2) / np.expm1(x)) + np.sum(np.cbrt(x) * x),
    "broadcast": lambda x: np.sum((x[:, None] * x[None, :] - x[0]) ** 3 * x[1]),
    "log-sum-exp": lambda x: np.mean(np.logaddexp(0.0, -x * 2.0)) * np.hypot(x[0], x[1]) + np.arctan2(x[2], x[3]),
    "gather": lambda x: np.sum(x[[0, 2, 2, 1]] ** 3 * x[x > 0.9].sum()),
    "scatter": lambda x: scattered(x),
    "joined": lambda x: np.sum(np.concatenate([x, x * x[0], [1.0]]) ** 3) + np.sum(np.stack([x, x**2], axis=1)**3),
    "scanned": lambda x: np.sum(np.cumsum(x * x) ** 2 + np.sort(x) * x + np.roll(x, 1) * np.repeat(x, 2)[:len(x)] ** 3),
    "chosen": lambda x: np.sum(np.where(x > 1.0, x * x, x**3)) * np.min(x) + np.max(x * x) ** 2,
    "sums over axes": lambda x: np.sum(np.sum((x[:, None] * x) ** 2, axis=0, keepdims=True) ** 2) * np.mean(x**3),
    "fourier": lambda x: np.sum(x[:3]) ** 2 * np.sum(np.diff(x) ** 4),
    "linear": lambda x: np.sum(x) * 3.0, "constant": lambda x: 2.0, "number": lambda x: np.sin(x[0]) * x[-1],
}


def scattered(x):
    y = np.ones(len(x) + 2)
    y[[0, 1, 1]] = x[:3] * x[1]
    np.add.at(y, [2, 2, 3], x[2:5] ** 2)
    z = y * y
    y[y > 1.2] = x[0]
    y[[3]] = 0.5
    return np.sum(z * y**2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_products_with_the_hessian(name):
    f = FUNCTIONS[name]
    check(f, entries(12))


def test_the_joined_function_reads_nothing():
    """That it is served says that rules whose maps read nothing are taken as linear."""
    x = entries(4)
    (hv,), = plain_curvature(lambda x: np.sum(np.concatenate([x, x * x]) ** 2), [x], [[np.ones(4)]])[0]
    np.testing.assert_allclose(hv, 2.0 + 12.0 * x * x, rtol=1e-14)


def may_be_curved(row):
    """Has one result, takes every operand as a variable, and is not flat."""
    return row.op >= 0 and row.nout == 1 and not row.refusal and not row.zero


@pytest.mark.parametrize("name", sorted(name for name, row in _kernels.rows_by_name.items() if may_be_curved(row)))
def test_every_elementwise_row(name):
    row = _kernels.rows_by_name[name]
    if name in table.SPECIAL_NAMES:
        _kernels.find(getattr(special, name, None) or getattr(special, f"_{name}"))
        catch_libraries()
    rng = np.random.default_rng(1)
    low = [rng.uniform(*interval[-1], 4) for interval in row.domain]
    if row.nin == 1:
        x = low[0]

        def f(x):
            return np.sum(row.ufunc(x) * x[::-1]) + row.ufunc(x[0]) * x[1]
    else:
        x, n = np.concatenate(low), len(low[0])

        def f(x):
            return (np.sum(row.ufunc(x[:n], x[n:]) * x[n - 1]) + row.ufunc(x[0], x[n]) ** 2
                    + row.ufunc(low[0][0], x[n]) * row.ufunc(x[0], low[1][0])
                    + np.sum(row.ufunc(low[0], x[n:]) * row.ufunc(x[:n], low[1]))
                    + np.sum(row.ufunc(x[:n], x[n]) * row.ufunc(x[0], x[n:])))
    if _kernels.scalar_partials2(row, 0.5, 0.5, 0.5) is None:
        assert plain_curvature(f, [x], [[x]]) is None
    else:
        check(f, x, tolerance=1e-9)


def test_several_leaves_constants_and_directions():
    a, b, c = entries((2, 3)), 0.7, entries(3, 2)

    def f(a, b, c):
        return np.sum(np.exp(a * b) @ c) * b

    directions = [[entries((2, 3), k), 0.3 * k] for k in range(3)]
    products, gradient, value = plain_curvature(f, [a, b], directions, [c])
    assert value == f(a, b, c)
    np.testing.assert_allclose(gradient[0], cyad.gradient(cyad.Reverse, f, a, b, cyad.Const(c))[0], rtol=1e-14)
    for (pa, pb), (da, db) in zip(products, directions, strict=True):
        h = 1e-6
        up, down = (cyad.gradient(cyad.Reverse, f, a + s * da, b + s * db, cyad.Const(c)) for s in (h, -h))
        np.testing.assert_allclose(pa, (up[0] - down[0]) / (2 * h), rtol=1e-7)
        np.testing.assert_allclose(pb, (up[1] - down[1]) / (2 * h), rtol=1e-7)


def test_large_products_in_blocks():
    data, w, v = entries((3000, 60)) - 1.0, entries(60, 2), entries(60, 3)
    (hv,), = plain_curvature(lambda w: np.mean(np.logaddexp(0.0, data @ w)), [w], [[v]])[0]
    s = 1 / (1 + np.exp(-data @ w))
    np.testing.assert_allclose(hv, data.T @ (s * (1 - s) * (data @ v)) / 3000, rtol=1e-10, atol=1e-14)
    (hv,), = plain_curvature(lambda w: np.mean(np.logaddexp(0.0, w @ data.T)), [w], [[v]])[0]
    np.testing.assert_allclose(hv, data.T @ (s * (1 - s) * (data @ v)) / 3000, rtol=1e-10, atol=1e-14)


def test_what_is_not_served_leaves_arguments_as_they_were():
    x = entries(5)
    before, calls = x.copy(), []

    def f(x, scratch):
        calls.append(1)
        x[1] = x[0] * 2.0
        x *= x
        scratch[:] = 7.0
        return np.linalg.norm(x) ** 3

    scratch = np.arange(5.0)
    assert plain_curvature(f, [x], [[np.ones(5)]], [scratch]) is None
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(scratch, np.arange(5.0))
    got = cyad.hvp(lambda x: f(x, np.zeros(5)), x, np.ones(5))
    np.testing.assert_allclose(got, nested(lambda x: f(x, np.zeros(5)), before.copy(), np.ones(5)), rtol=1e-13)
    after = before.copy()
    f(after, np.zeros(5))
    np.testing.assert_array_equal(x, after)


@pytest.mark.parametrize("f", [
    lambda x: np.sum(x.astype(np.float32) ** 2), lambda x: np.sum(np.abs(x * 1j) ** 2), lambda x: np.prod(x),
    lambda x: np.linalg.det(x[:, None] * x + np.eye(4)), lambda x: overlapping(x), lambda x: written_views(x)],
    ids=range(6))
def test_what_is_not_served_is_nested(f):
    x, v = entries(4), entries(4, 1)
    assert plain_curvature(f, [x], [[v]]) is None
    np.testing.assert_allclose(cyad.hvp(f, x, v), nested(f, x, v), rtol=1e-12)


def overlapping(x):
    y = x * x
    y[1:] = y[:-1]
    return np.sum(y * y)


def written_views(x):
    """Memory that the recording first meets through a view that may not be written."""
    y = np.sin(x)
    z = np.einsum("ij,j->i", np.broadcast_to(y, (3, 4)), np.cos(x))
    y[0] = x[1]
    return np.sum(y) * np.sum(z)


def test_arguments_that_are_not_plain_are_not_taken():
    x = entries(6)
    for leaves in ([x[::2]], [x.astype(np.float32)], [x, x[:3]], [x.reshape(2, 3).T]):
        assert plain_curvature(lambda *a: np.sum(a[0] ** 2), leaves, [leaves]) is None


def test_errors_of_the_function_pass_and_active_stores_into_constants_are_named():
    with pytest.raises(ZeroDivisionError):
        cyad.hvp(lambda x: 1 / 0, np.ones(2), np.ones(2))

    def stores(x, c):
        c[0] = x[0]
        return np.sum(x * c)
    with pytest.raises(cyad.ActiveStoreError, match="argument 2 of .*stores"):
        cyad.hvp(stores, np.ones(2), np.ones(2), np.ones(2))


def test_memory_is_what_the_function_left_and_so_is_its_state():
    x, v = entries(5), entries(5, 1)
    plain = x.copy()
    overwritten_argument(plain)
    cyad.hvp(overwritten_argument, x, v)
    np.testing.assert_array_equal(x, plain)


def test_a_hessian_by_sweeps_is_symmetric_and_the_nested_one():
    x = entries(6)
    for f in (loop, overwritten_regions, FUNCTIONS["broadcast"]):
        H = cyad.hessian(f, x.copy())
        np.testing.assert_allclose(H, H.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(H, cyad.hessian(f, x.copy(), chunk=2), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("ufunc, x, limit", [(np.log, 0.0, -np.inf), (np.sqrt, 0.0, -np.inf), (np.arcsin, 1.0, np.inf),
                                             (np.arccos, 1.0, -np.inf)])
def test_second_derivatives_where_the_first_is_infinite(ufunc, x, limit):
    """What docs/existing-code.md says of them."""
    f, x = lambda x: np.sum(ufunc(x)), np.array([x, 0.5])
    with np.errstate(all="ignore"):
        for strong in (False, True):
            forward, reverse = (m.with_strong_zero() if strong else m for m in (cyad.Forward, cyad.Reverse))
            for outer in (forward, reverse):
                for inner in (forward, reverse):
                    rows = cyad.jacobian(outer, lambda x, inner=inner: cyad.gradient(inner, f, x)[0], x)[0]
                    np.testing.assert_array_equal(rows[0], [limit, np.nan if outer is cyad.Forward else 0.0])
        known = ufunc is np.sqrt
        np.testing.assert_array_equal(cyad.hessian(f, x)[0], [limit, 0.0] if known else np.nan)
        np.testing.assert_array_equal(cyad.hvp(f, x, np.array([0.0, 1.0]))[0], 0.0 if known else np.nan)
        np.testing.assert_array_equal(cyad.hessian(f, x, chunk=1)[0], [limit, np.nan])
