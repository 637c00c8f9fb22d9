"""Operations that reverse mode records as nodes of their own: products, extrema, copies, in every layout and dtype.

Forward mode takes these through the structural rules, so the two modes share no formula; `check` compares both with
finite differences as well.
"""
import numpy as np
import pytest
from checks import check

import cyad


def entries(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


LAYOUTS = {
    "c": lambda a: a,
    "fortran": np.asfortranarray,
    "every second": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "backwards": lambda a: np.flip(a).copy()[(slice(None, None, -1),) * a.ndim],
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
}
SHAPES = [((3,), (3,)), ((1,), (1,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((1, 3), (3, 1)),
          ((4, 1), (1, 2)), ((4, 1), (1,))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products(shapes, layout):
    a, b = entries(shapes[0]), entries(shapes[1], 2)

    def f(a, b):
        a, b = LAYOUTS[layout](a), LAYOUTS[layout](b)
        return np.matmul(a * 1.0, b) + a @ (b * 1.0)
    check(f, [a, b])


@pytest.mark.parametrize("k", [0, 1])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_products_with_a_constant(shapes, k):
    operands = [entries(shapes[0]), entries(shapes[1], 2)]
    constant = operands[1 - k]
    check((lambda x: constant @ x) if k else (lambda x: x @ constant), [operands[k]])


@pytest.mark.parametrize("product", [
    lambda x: x[0] @ x[:, 1:], lambda x: x[1:] @ x[0], lambda x: x[:2] @ x[:, 1:], lambda x: x @ x, lambda x: x.T @ x,
    lambda x: x[0] @ x[0], lambda x: np.dot(x[:, 0], x[1]), lambda x: np.broadcast_to(x[0], (3, 3)) @ x], ids=range(8))
def test_both_factors_from_one_array(product):
    check(product, [entries((3, 3))])


@pytest.mark.parametrize("n", [40, 300])
def test_products_large_enough_to_release_the_lock(n):
    a, b, w = entries((n, n)), entries((n, n), 2), entries((n, n), 4)
    da, db = cyad.gradient(cyad.Reverse, lambda a, b: np.sum(a @ b * w), a, b)
    np.testing.assert_allclose(da, np.einsum("ik,jk->ij", w, b), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(db, np.einsum("ki,kj->ij", a, w), rtol=1e-10, atol=1e-10)


def test_a_product_adds_to_what_is_there_in_each_lane():
    a, b = entries((3, 4)), entries((4, 2), 2)
    shadows = tuple(entries((3, 4), 10 + i) for i in range(3))
    before = [s.copy() for s in shadows]
    cyad.autodiff(cyad.Reverse, lambda a: np.sum((a @ b) ** 2), cyad.Active, cyad.BatchDuplicated(a, shadows))
    for shadow, old in zip(shadows, before, strict=True):
        np.testing.assert_allclose(shadow - old, 2 * (a @ b) @ b.T, rtol=1e-12)


def test_products_of_no_and_of_wrong_sizes():
    none, = cyad.gradient(cyad.Reverse, lambda a: np.sum(a @ np.zeros((0, 2))) + np.sum(a), np.ones((3, 0)))
    assert none.shape == (3, 0)
    for f in (lambda a: a @ np.ones(2), lambda a: np.ones((2, 2)) @ a, lambda a: np.matmul(a, np.ones((2, 2)))):
        with pytest.raises(ValueError, match="mismatch in its core dimension"):
            cyad.gradient(cyad.Reverse, lambda a, f=f: np.sum(f(a)), np.ones(3))


def test_a_product_warns_as_numpy_does():
    big = np.full((2, 2), 1e200)
    with pytest.warns(RuntimeWarning, match="overflow encountered in matmul"):
        cyad.gradient(cyad.Reverse, lambda a: np.sum(a @ big), big)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        cyad.gradient(cyad.Reverse, lambda a: np.sum(a @ big), big)


def test_factors_overwritten_after_the_product():
    def f(a, b):
        c = a @ b
        a[...] = 0.0
        b[0] = c[0] * 2.0
        return np.sum(c * c) + np.sum(b)
    a, b = entries((2, 2)), entries((2, 2), 2)
    check(lambda a, b: f(a.copy(), b.copy()), [a, b])


@pytest.mark.parametrize("function", [np.max, np.min, np.amax, np.amin])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1, (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("layout", ["c", "fortran", "every second", "backwards"])
def test_extrema(function, axis, layout):
    x = LAYOUTS[layout](np.random.default_rng(3).permutation(24).reshape(2, 3, 4) / 7.0)
    for keepdims in (False, True):
        check(lambda x, keepdims=keepdims: function(x, axis=axis, keepdims=keepdims), [x])
    check(lambda x: function(LAYOUTS[layout](x * 1.0), axis), [x])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_ties_share_and_a_nan_that_wins_takes_part(dtype):
    x = np.array([[1, 3, 3], [2, 2, 2], [0, np.nan, np.nan]], dtype)
    want = np.array([[0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3], [0, 0.5, 0.5]], dtype)
    with np.errstate(invalid="ignore"):
        got, = cyad.gradient(cyad.Reverse, lambda x: np.sum(np.max(x, axis=1)[:2]) + np.max(x, axis=1)[2], x)
        assert got.dtype == dtype
        np.testing.assert_allclose(got, want, rtol=1e-6)
        for whole, share in ((x[:2], np.array([[0, 0.5, 0.5], [0, 0, 0]])), (x, np.where(np.isnan(x), 0.5, 0))):
            got, = cyad.gradient(cyad.Reverse, lambda x: np.max(x), whole)
            np.testing.assert_array_equal(got, share.astype(dtype))
    same, = cyad.gradient(cyad.Reverse, lambda x: np.min(np.broadcast_to(x, (4, 3))), np.array([2, 1, 1], dtype))
    np.testing.assert_array_equal(same, [0, 0.5, 0.5])


def test_an_extremum_of_memory_that_is_overwritten_afterwards():
    def f(x):
        m = np.max(x, axis=1)
        s = np.min(x)
        x *= m[:, None]
        m *= s
        return np.sum(x) + np.sum(m)
    check(lambda x: f(x.copy()), [entries((3, 4))])


def test_an_extremum_in_lanes():
    x = entries((3, 4))
    shadows = tuple(np.zeros((3, 4)) for _ in range(2))
    cyad.autodiff(cyad.Reverse, lambda x: np.sum(np.max(x, axis=0) * [1.0, 2.0, 3.0, 4.0]) + np.min(x), cyad.Active,
                  cyad.BatchDuplicated(x, shadows))
    want = np.zeros((3, 4))
    want[np.argmax(x, axis=0), range(4)] += [1.0, 2.0, 3.0, 4.0]
    want[np.unravel_index(np.argmin(x), x.shape)] += 1.0
    for shadow in shadows:
        np.testing.assert_array_equal(shadow, want)


def test_reshapes_of_whole_arrays_are_views():
    def f(x):
        y = np.reshape(x * 1.0, (3, -1))
        z = y.reshape(2, 2, 3)
        z[0, 0] = 7.0
        y.reshape(12)[-1:] *= x[0, 0]
        return np.sum(y * y)
    check(f, [entries((4, 3))])
    with pytest.raises(ValueError, match="cannot reshape"):
        cyad.gradient(cyad.Reverse, lambda x: np.sum(np.reshape(x, (5, 2))), np.ones((4, 3)))
