"""gradient, jacobian, hessian, hvp: shapes, chunks, memory, structures, what they refuse. The oracle is differences."""
import functools
import gc
import threading

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import (
    Active,
    ActivityError,
    Const,
    Duplicated,
    Forward,
    ForwardWithPrimal,
    Reverse,
    ReverseHolomorphic,
    ReverseWithPrimal,
    gradient,
    hessian,
    hvp,
    hvp_and_gradient,
    jacobian,
)

BOTH = pytest.mark.parametrize("mode", [Forward, Reverse], ids=lambda m: m.name)
A = np.random.default_rng(3).normal(size=(3, 4))


def differences(f, x, step=1e-6):
    """The Jacobian of f by one array, its axes last."""
    x = np.asarray(x, float)
    columns = []
    for index in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[index] = step
        columns.append((np.asarray(f(x + e)) - np.asarray(f(x - e))) / (2 * step))
    out = np.stack(columns, axis=-1) if columns else np.zeros((*np.shape(f(x)), 0))
    return out.reshape((*np.shape(f(x)), *x.shape))


def looped(x):
    y = np.zeros(3)
    for i in range(3):
        y[i] = x[i] * x[(i + 1) % x.size] if i < 2 else np.sum(x) ** 2
    return y


FUNCTIONS = {
    "product": (lambda x: A @ x, np.arange(4.0)),
    "loop": (looped, np.array([1.0, -2.0, 0.5, 3.0])),
    "matrix": (lambda x: np.linalg.inv(x), np.array([[2.0, 1.0], [0.5, 3.0]])),
    "scalar": (lambda x: np.sum(x**3), np.arange(3.0)),
    "number from matrix": (lambda x: np.linalg.det(x), np.array([[2.0, 1.0], [0.5, 3.0]])),
    "array from 0-d": (lambda x: x * np.arange(3.0), np.array(2.0)),
    "0-d from 0-d": (lambda x: x * x, np.array(2.0)),
    "itself": (lambda x: x, np.arange(3.0)),
    "a view": (lambda x: x[::-2], np.arange(5.0)),
    "transposed": (lambda x: x.T, np.arange(6.0).reshape(2, 3)),
    "broadcast": (lambda x: np.broadcast_to(x, (2, 3)), np.arange(3.0)),
    "constant": (lambda x: np.ones(2), np.arange(3.0)),
    "nothing in": (lambda x: np.ones(2) * np.sum(x), np.zeros((0, 2))),
    "nothing out": (lambda x: x[:0], np.arange(3.0)),
    "wide": (lambda x: np.tanh(np.outer(x, x)), np.linspace(-1, 1, 20)),
}


@BOTH
@pytest.mark.parametrize("chunk", [None, 1, 3, 100])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_jacobians(mode, name, chunk):
    f, x = FUNCTIONS[name]
    want = differences(f, x)
    derivs, val = jacobian(mode.with_primal(), f, x, chunk=chunk)
    (J,) = derivs
    assert np.shape(J) == want.shape and np.result_type(J) == np.float64
    assert_allclose(J, want, rtol=1e-6, atol=1e-7)
    assert_array_equal(val, f(x))
    if want.ndim:
        out = np.full(want.shape, np.nan)
        assert jacobian(mode, f, x, chunk=chunk, out=out)[0] is out
        assert_array_equal(out, J)
        strided = np.full((*want.shape[:-1], 2 * want.shape[-1]), np.nan)[..., ::2]
        jacobian(mode, f, x, chunk=chunk, out=strided)
        assert_array_equal(strided, J)


@BOTH
def test_numbers(mode):
    assert jacobian(mode, lambda x: x**3, 2.0) == (12.0,)
    (J,) = jacobian(mode, lambda x: x**3, 2.0)
    assert type(J) is float
    (J,) = jacobian(mode, lambda t: np.array([t, t * t]), 3.0)
    assert_array_equal(J, [1.0, 6.0])
    (J,) = jacobian(mode, lambda x: x**3, np.float32(2.0))
    assert J == 12.0 and np.result_type(J) == np.float32


@BOTH
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_several_arguments(mode, chunk):
    x, y, M = np.array([1.0, 2.0]), 3.0, np.arange(6.0).reshape(3, 2)
    f = lambda x, y, M, k=1.0: (M * y) @ np.sin(x) * k
    jx, jy, jM = jacobian(mode, f, x, y, M, chunk=chunk, k=2.0)
    assert_allclose(jx, differences(lambda x: f(x, y, M, 2.0), x), rtol=1e-8, atol=1e-8)
    assert_allclose(jy, differences(lambda y: f(x, y, M, 2.0), y), rtol=1e-8)
    assert_allclose(jM, differences(lambda M: f(x, y, M, 2.0), M), rtol=1e-8, atol=1e-8)
    assert jM.shape == (3, 3, 2)
    jx, none, jM = jacobian(mode, f, x, Const(y), M, chunk=chunk)
    assert none is None and jM.shape == (3, 3, 2)
    outs = np.zeros((3, 2)), np.zeros(3), np.zeros((3, 3, 2))
    jacobian(mode, f, x, y, M, chunk=chunk, out=outs, k=2.0)
    assert_allclose(outs[1], jy, rtol=1e-14)
    assert_allclose(outs[0], 2 * jx, rtol=1e-14)


@BOTH
def test_keywords(mode):
    x, w = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    f = lambda x, w=None, k=1.0: k**2 * x * w
    assert_array_equal(jacobian(mode, f, x, w=w)[0], np.diag(w))
    jx, jk = jacobian(mode, f, x, w=Const(w), k=Active(3.0))[0::2]
    assert_array_equal(jx, 9.0 * np.diag(w))
    assert_array_equal(jk, 6.0 * x * w)
    g = gradient(mode, lambda x, k, w: np.sum(k**2 * x * w), x, w=w, k=Active(3.0))
    assert_array_equal(g[0], 9.0 * w)
    assert g[1:] == (66.0,)
    with pytest.raises(ActivityError, match="'w' of f is Duplicated"):
        gradient(mode, named(lambda x, w: np.sum(x * w)), x, w=Duplicated(w, w * 0))


def named(f):
    f.__name__ = f.__qualname__ = "f"
    return f


@BOTH
def test_structures_on_both_sides(mode):
    p = {"a": 2.0, "b": [np.array([1.0, 3.0])], "s": "s"}

    def f(p, c):
        return {"one": p["a"] * p["b"][0], "two": (p["a"] ** 2 * c, 7), "s": p["s"]}

    (J, none), val = jacobian(mode.with_primal(), f, p, Const(5.0))
    assert none is None and val["two"] == (20.0, 7) and val["s"] == "s"
    assert_array_equal(J["one"]["a"], [1.0, 3.0])
    assert_array_equal(J["one"]["b"][0], 2.0 * np.eye(2))
    assert J["one"]["s"] == "s" and J["two"][0]["a"] == 20.0 and J["two"][1] == 7
    assert_array_equal(J["two"][0]["b"][0], [0.0, 0.0])


@BOTH
def test_lists_of_numbers_as_scipy_users_write_them(mode):
    (J,) = jacobian(mode, lambda x: [x[0] * x[1], x[1] - 1.0, 2.0], np.array([2.0, 3.0]))
    assert_array_equal(np.array(J), [[3.0, 2.0], [0.0, 1.0], [0.0, 0.0]])


@BOTH
@pytest.mark.parametrize("chunk", [1, 2, None])
def test_functions_that_overwrite_their_arguments(mode, chunk):
    def f(x, w):
        x *= x
        w += 1.0
        y = x * w
        x[0] = 7.0
        return y

    x, w = np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 2.0])
    (J, none) = jacobian(mode, f, x, Const(w), chunk=chunk)
    assert_array_equal(J, np.diag([4.0, 8.0, 18.0]))
    assert_array_equal(x, [7.0, 4.0, 9.0])       # as one plain call leaves them
    assert_array_equal(w, [2.0, 2.0, 3.0])


@BOTH
def test_read_only_strided_and_overlapping_arguments(mode):
    base = np.arange(6.0)
    frozen = base.copy()
    frozen.setflags(write=False)
    f = lambda x: np.outer(x, x)[0]
    for x in (base[::2], base[::-1], frozen, base.reshape(2, 3).T[1]):
        assert_allclose(jacobian(mode, f, x, chunk=2)[0], differences(f, x), atol=1e-7)
    jx, jy = jacobian(mode, lambda x, y: x * y, base[:-1], base[1:], chunk=2)
    assert_array_equal(jx, np.diag(base[1:]))
    assert_array_equal(jy, np.diag(base[:-1]))
    jx, jy = jacobian(mode, lambda x, y: x * y, base, base)
    assert_array_equal(jx, np.diag(base))


@BOTH
def test_float32_stays(mode):
    x = np.array([1.0, 2.0], np.float32)
    (J,) = jacobian(mode, lambda x: x * x, x)
    assert J.dtype == np.float32
    assert_array_equal(J, np.diag([2.0, 4.0]))
    out = np.zeros((2, 2))
    jacobian(mode, lambda x: x * x, x, out=out)
    assert_array_equal(out, J)


@pytest.mark.parametrize("chunk", [None, 1])
def test_complex(chunk):
    z, x = np.array([1.0 + 2.0j, 3.0 - 1.0j]), np.array([0.5, 2.0])
    for mode in (Forward, Reverse):
        (J,) = jacobian(mode, lambda x: np.exp(1j * x) * x[0], x, chunk=chunk)     # complex by real
        want = np.diag(1j * np.exp(1j * x) * x[0])
        want[:, 0] += np.exp(1j * x)
        assert_allclose(J, want, rtol=1e-14)
        (J,) = jacobian(mode, lambda z: np.abs(z) ** 2, z, chunk=chunk)            # real by complex: d/dRe + i d/dIm
        assert_allclose(J, np.diag(2 * z), rtol=1e-14)
        with pytest.raises(ActivityError, match="ReverseHolomorphic"):
            jacobian(mode, lambda z: z * z, z, chunk=chunk)
    f = lambda z: np.array([z[0] * z[1], z[1] ** 2, np.exp(z[0])])
    (J,) = jacobian(ReverseHolomorphic, f, z, chunk=chunk)
    assert_allclose(J, [[z[1], z[0]], [0, 2 * z[1]], [np.exp(z[0]), 0]], rtol=1e-14)
    jz, jx = jacobian(ReverseHolomorphic, lambda z, x: z * x + 1j * x**2, z, x, chunk=chunk)
    assert_allclose(jz, np.diag(x), rtol=1e-14)
    assert_allclose(jx, np.diag(z + 2j * x), rtol=1e-14)
    (J,) = jacobian(Reverse, lambda x: x * np.complex64(1j), x.astype(np.float32))
    assert J.dtype == np.complex64


# ---- refusals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [0, -3, "a", 1.5, True])
@BOTH
def test_chunks(mode, chunk):
    for driver in (lambda: jacobian(mode, np.sin, np.ones(2), chunk=chunk),
                   lambda: gradient(mode, np.sum, np.ones(2), chunk=chunk),
                   lambda: hessian(np.sum, np.ones(2), chunk=chunk)):
        with pytest.raises(ActivityError, match="chunk"):
            driver()


@BOTH
def test_results_without_a_derivative(mode):
    x = np.ones(2)
    for result, said in ((None, "None"), ("text", "str"), ((x, x), "tuple"), ([1.0], "list"), (x, r"shape \(2,\)"),
                         ({"a": 1.0}, "dict"), (object(), "object")):
        with pytest.raises(ActivityError, match=said):
            gradient(mode, lambda x, result=result: result, x)
    with pytest.raises(ActivityError, match="complex"):
        gradient(mode, lambda x: 1j * x[0], x)
    assert gradient(mode, lambda x: 3, x)[0].tolist() == [0.0, 0.0]
    assert gradient(mode, lambda x: 3.0, x)[0].tolist() == [0.0, 0.0]
    for result in (None, "text", 3, [1, "a"]):
        with pytest.raises(ActivityError, match="no float"):
            jacobian(mode, lambda x, result=result: result, x)


@BOTH
def test_arguments_without_a_derivative(mode):
    for bad in (3, np.arange(3), "text", None, True):
        for driver in (gradient, jacobian):
            with pytest.raises(ActivityError):
                driver(mode, lambda x: 1.0, bad)
    for driver in (gradient, jacobian):
        with pytest.raises(ActivityError, match="argument 2 of f is Duplicated"):
            driver(mode, named(lambda x, y: x), 1.0, Duplicated(np.ones(2), np.ones(2)))
        with pytest.raises(ActivityError, match="mode"):
            driver(np.sin, 1.0, 2.0)
        with pytest.raises(ActivityError, match="split"):
            driver(cyad.ReverseSplitNoPrimal, np.sin, 1.0)
        with pytest.raises(ActivityError, match="function"):
            driver(mode, 3.0, 1.0)


@BOTH
def test_out(mode):
    x, M = np.ones(2), np.ones((2, 2))
    for out in (M[0], np.zeros((2, 2), int), [[0.0, 0.0], [0.0, 0.0]], np.broadcast_to(1.0, (2, 2)), np.zeros((2, 3)),
                (np.zeros((2, 2)), np.zeros((2, 2))), 3.0):
        with pytest.raises(ActivityError, match="out="):
            jacobian(mode, np.sin, x, out=out)
    with pytest.raises(ActivityError, match="float32"):
        jacobian(mode, lambda x: 1j * x, x, out=np.zeros((2, 2), np.float32))
    with pytest.raises(ActivityError, match="shares memory"):
        jacobian(mode, lambda x: M @ x, M[0], out=M)
    with pytest.raises(ActivityError, match="shares memory"):
        jacobian(mode, lambda x, y: x * y, x, x.copy(), out=(M, M))
    with pytest.raises(ActivityError, match="shares memory"):
        gradient(mode, np.sum, x, out=x)
    with pytest.raises(ActivityError, match="Const"):
        jacobian(mode, lambda x, c: x * c, x, Const(2.0), out=np.zeros((2, 2)))
    with pytest.raises(ActivityError, match="n_outs"):
        jacobian(mode, np.sin, x, n_outs=(3,))
    assert_allclose(jacobian(mode, np.sin, x, n_outs=2)[0], np.diag(np.cos(x)))
    dx = np.full(2, np.nan)
    assert gradient(mode, lambda x, c: np.sum(x * c), x, Const(2.0), out=(dx, None))[0] is dx
    assert dx.tolist() == [2.0, 2.0]


@BOTH
def test_the_users_exception_passes_through(mode):
    class Mine(Exception):
        pass

    def f(x):
        x[0] = 5.0
        raise Mine

    for driver in (gradient, jacobian):
        x = np.ones(2)
        with pytest.raises(Mine):
            driver(mode, f, x)
        assert x[0] == 5.0
        assert_array_equal(jacobian(mode, np.sin, np.zeros(2))[0], np.eye(2))   # nothing is left open


@BOTH
def test_gradients_have_the_kind_of_their_arguments(mode):
    single = np.ones(2, np.float32)
    g = gradient(mode, lambda x, y, z: np.sum(x * y) * z, single, np.ones(2), np.float32(2.0))
    assert [a.dtype for a in g] == [np.float32, np.float64, np.float32]
    assert type(gradient(mode, lambda x: x * np.sum(single), 1.0)[0]) is float
    assert type(gradient(mode, lambda x: x * np.sum(single), np.float64(1.0))[0]) is float
    (g,) = gradient(mode, lambda z: np.sum(np.abs(z)), np.ones(2, np.complex64))
    assert g.dtype == np.complex64


@BOTH
def test_gradients_of_0d_arrays(mode):
    (g,) = gradient(mode, lambda x: x**2, np.array(3.0))
    assert type(g) is np.ndarray and g.shape == () and g == 6.0
    g = gradient(mode, lambda x, y: np.sum(x * y), np.array(3.0), np.ones(2))
    assert g[0] == 2.0 and g[0].shape == () and g[1].tolist() == [3.0, 3.0]


@BOTH
def test_active_values_must_not_vanish_in_constants(mode):
    for call in (lambda w: gradient(mode, lambda x, w: store(x, w), np.ones(2), Const(w)),
                 lambda w: gradient(mode, store, np.ones(2), w=w),
                 lambda w: jacobian(mode, store, np.ones(2), Const(w))):
        with pytest.raises(cyad.ActiveStoreError):
            call(np.zeros(2))


def store(x, w):
    w[:] = x
    return np.sum(w)


def test_results_own_their_memory():
    x = np.arange(3.0)
    for mode in (Forward, Reverse):
        one, two = jacobian(mode, lambda x: (x, x[1:]), x)[0]
        assert not np.shares_memory(one, two)
        one[...] = 7.0
        assert_array_equal(two, np.eye(3)[1:])
        assert_array_equal(x, np.arange(3.0))


def test_threads():
    f, x = FUNCTIONS["wide"]
    want, got = jacobian(Forward, f, x)[0], [None] * 8

    def work(k):
        for _ in range(10):
            got[k] = jacobian((Forward, Reverse)[k % 2], f, x, chunk=3)[0]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for J in got:
        assert_allclose(J, want, rtol=1e-13, atol=1e-15)


# ---- second order ---------------------------------------------------------------------------------------------------

def energy(x, k=1.0):
    u = x.copy()
    u[1:] *= u[:-1]
    return k * np.sum(np.sin(u) * x) + np.linalg.norm(x) ** 3


POINT = np.array([0.5, -1.0, 2.0, 0.3])


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_hessian(chunk):
    want = differences(lambda x: gradient(Reverse, energy, x)[0], POINT)
    H = hessian(energy, POINT, chunk=chunk)
    assert_allclose(H, want, rtol=1e-6, atol=1e-7)
    out = np.full((4, 4), np.nan)
    assert hessian(energy, POINT, chunk=chunk, out=out) is out
    assert_array_equal(out, H)
    assert_allclose(hessian(energy, POINT, 2.0), hessian(energy, POINT, k=2.0), rtol=1e-14)
    assert_allclose(hessian(lambda x: np.sum(x**4), np.ones((2, 2))).reshape(4, 4), 12.0 * np.eye(4), rtol=1e-14)


def test_hessians_by_structures():
    H = hessian(lambda p: p["a"] ** 2 * np.sum(p["b"] ** 2), {"a": 3.0, "b": np.array([1.0, 2.0]), "n": 1})
    assert H["a"]["a"] == 10.0 and H["n"] == 1
    assert_array_equal(H["a"]["b"], [12.0, 24.0])
    assert_array_equal(H["b"]["a"], [12.0, 24.0])
    assert_array_equal(H["b"]["b"], 18.0 * np.eye(2))
    assert hessian(lambda x: x**3, 2.0) == 12.0 and type(hessian(lambda x: x**3, 2.0)) is float


def test_hvp_matches_the_hessian():
    H, g = hessian(energy, POINT), gradient(Reverse, energy, POINT)[0]
    for v in np.eye(4):
        assert_allclose(hvp(energy, POINT, v), H @ v, rtol=1e-12, atol=1e-13)
    v = np.array([1.0, 2.0, 3.0, 4.0])
    one, two = np.empty(4), np.empty(4)
    assert hvp(energy, POINT, v, out=one) is one
    hv, grad = hvp_and_gradient(energy, POINT, v, out=(None, two))
    assert grad is two
    assert_allclose(one, H @ v, rtol=1e-12)
    assert_array_equal(hv, one)
    assert_allclose(two, g, rtol=1e-13)
    assert_allclose(hvp(energy, POINT, [1, 2, 3, 4], 2.0), hvp(energy, POINT, v, k=2.0), rtol=1e-14)
    assert hvp(lambda x: x**3, 2.0, 3.0) == 36.0
    hv, grad = hvp_and_gradient(lambda p: p["a"] * np.sum(p["b"] ** 2), {"a": 3.0, "b": np.ones(2)},
                                {"a": 1.0, "b": np.array([1.0, 0.0])})
    assert hv["a"] == 2.0 and hv["b"].tolist() == [8.0, 2.0] and grad["a"] == 2.0 and grad["b"].tolist() == [6.0, 6.0]


def test_second_order_of_functions_that_overwrite():
    def f(x, w):
        w *= 2.0
        x *= x
        return np.sum(w * x * x)

    x, w = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    assert_allclose(hessian(f, x, w, chunk=1), np.diag([24.0, 12 * 6 * 4.0]), rtol=1e-14)
    assert x.tolist() == [1.0, 4.0] and w.tolist() == [2.0, 6.0]
    x = np.array([1.0, 2.0])
    v = np.array([1.0, 1.0])
    assert_allclose(hvp(f, x, v, w), [48.0, 12 * 12 * 4.0], rtol=1e-14)
    assert v.tolist() == [1.0, 1.0] and x.tolist() == [1.0, 4.0]


def test_second_order_refusals():
    for bad in (1j, np.ones(2, complex), 3, np.arange(3), "text"):
        with pytest.raises(ActivityError):
            hessian(lambda x: 1.0, bad)
        with pytest.raises(ActivityError):
            hvp(lambda x: 1.0, bad, bad)
    x = np.ones(2)
    for v in (np.ones(3), 1.0, np.ones((2, 1)), np.ones(2, complex), [x, x]):
        with pytest.raises(ActivityError, match="direction"):
            hvp(np.sum, x, v)
    with pytest.raises(ActivityError, match="structure"):
        hvp(lambda p: p[0], [1.0, x], [1.0])
    for out in (np.ones(3), np.ones(2, int), [0.0, 0.0]):
        with pytest.raises(ActivityError, match="out="):
            hvp(np.sum, x, x, out=out)
    with pytest.raises(ActivityError, match="shares memory"):
        hvp(np.sum, x, np.ones(2), out=x)
    with pytest.raises(ActivityError, match="shares memory"):
        hvp_and_gradient(np.sum, x, np.ones(2), out=(x[:], None))
    with pytest.raises(ActivityError, match="pair"):
        hvp_and_gradient(np.sum, x, np.ones(2), out=np.ones(2))
    for f in (lambda x: x, lambda x: None, lambda x: 1j * x[0]):
        with pytest.raises(ActivityError):
            hessian(f, x)
        with pytest.raises(ActivityError):
            hvp(f, x, x)


def test_partial_objects_and_constant_functions():
    f = functools.partial(energy, k=2.0)
    assert_allclose(jacobian(Forward, f, POINT)[0], jacobian(Reverse, Const(f), POINT)[0], rtol=1e-13)
    r = jacobian(ReverseWithPrimal, f, POINT)
    assert r.val == f(POINT) and type(r.derivs) is tuple
    assert jacobian(ForwardWithPrimal, f, POINT).val == f(POINT)


V = np.ones(4)
OPERATORS = {
    "gradient": lambda: gradient(Reverse, energy, POINT), "forward": lambda: gradient(Forward, energy, POINT),
    "columns": lambda: jacobian(Forward, looped, POINT, chunk=3),
    "rows": lambda: jacobian(Reverse, looped, POINT, chunk=2),
    "hessian": lambda: hessian(energy, POINT), "hvp": lambda: hvp(energy, POINT, V),
    "hvp of a loop": lambda: hvp(lambda x: np.sum(looped(x)), POINT, V),
    "reverse over reverse": lambda: gradient(Reverse, lambda x: np.sum(gradient(Reverse, energy, x)[0]), POINT),
    "forward over forward": lambda: gradient(Forward, lambda x: np.sum(gradient(Forward, energy, x)[0]), POINT),
    "complex": lambda: gradient(Reverse, lambda z: np.sum(np.abs(z) * np.abs(z * z)), POINT + 1j),
    "structure": lambda: gradient(Reverse, lambda p: p.setdefault("y", np.sum(p["x"])), {"x": POINT}),
    "Const": lambda: jacobian(Reverse, lambda x, c: x * c, POINT, Const(V)),
    "vjp": lambda: cyad.vjp(np.sin, POINT)[1](V), "linearize": lambda: cyad.linearize(np.sin, POINT)[1](V),
    "jvp": lambda: cyad.jvp(np.sin, (POINT,), (V,)), "grad": lambda: cyad.grad(energy)(POINT, k=2.0),
    "auxiliary": lambda: cyad.grad(lambda x: (np.sum(x), x * x), has_aux=True)(POINT),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_nothing_is_left_to_the_garbage_collector(name):
    """No reference cycle keeps arrays alive after a call.

    What other tests left goes first. A cycle may be held by an object that is itself collected, or by what is kept
    from the last call of its kind: hence more than one call, and collecting until nothing is found.
    """
    for _ in range(3):
        OPERATORS[name]()
        while gc.collect():
            pass
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        OPERATORS[name]()
        gc.collect()
        left = [type(o).__name__ for o in gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []
