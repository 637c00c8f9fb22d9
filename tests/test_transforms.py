"""grad, value_and_grad, jacfwd, jacrev, hessian, derivative, jvp, vjp, linearize: as functions, decorators, methods."""
import copy
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import (
    ActivityError,
    Const,
    EscapedValueError,
    derivative,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    second_derivative,
    value_and_grad,
    vjp,
)

X = np.array([1.0, 2.0])


def cost(x, k=2.0, *, power=2):
    """What it costs."""
    return k * np.sum(x**power)


def outputs(x, k=2.0):
    return np.stack([k * x, x**2, x[::-1]])


@grad
def decorated(x):
    return np.sum(x**3)


@grad(argnums=1)
def by_the_second(x, k):
    return k**2 * np.sum(x)


class Model:
    def __init__(self, scale):
        self.scale = scale

    def loss(self, x):
        return self.scale * np.sum(x**2)

    @grad(argnums=1)
    def slope(self, x):
        return self.loss(x)


def test_grad():
    assert_array_equal(grad(cost)(X), [4.0, 8.0])
    assert_array_equal(grad(cost)(X, 3.0), [6.0, 12.0])
    assert_array_equal(grad(cost)(X, k=3.0, power=3), [9.0, 36.0])
    assert grad(cost, 1)(X, 3.0) == 5.0
    assert grad(cost, -1)(X, 3.0) == 5.0
    gx, gk = grad(cost, (0, 1))(X, 3.0)
    assert_array_equal(gx, [6.0, 12.0])
    assert gk == 5.0
    gk, gx = grad(cost, [1, 0])(X, 3.0)
    assert gk == 5.0 and gx.shape == (2,)
    assert type(grad(cost, (0,))(X)) is tuple
    assert_array_equal(grad(lambda x, names, w: np.sum(x * w), 0)(X, ["a"], np.ones(2)), [1.0, 1.0])
    assert_array_equal(grad(lambda x, w: np.sum(x * w["w"]))(X, {"w": X}), X)
    assert grad(lambda p: p["a"] ** 2)({"a": 3.0, "s": "s"}) == {"a": 6.0, "s": "s"}
    assert grad(lambda z: z**2, holomorphic=True)(1.0 + 2.0j) == 2.0 + 4.0j


def test_value_and_grad():
    val, g = value_and_grad(cost)(X, 3.0)
    assert val == 15.0
    assert_array_equal(g, [6.0, 12.0])
    val, (gx, gk) = value_and_grad(cost, argnums=(0, 1))(X, 3.0)
    assert (val, gk) == (15.0, 5.0)


def test_auxiliary_results_are_plain():
    def f(x):
        y = x**2
        return np.sum(y), {"y": y, "first": y[0], "none": None, "list": [y, (x, 3)]}

    g, aux = grad(f, has_aux=True)(X)
    assert_array_equal(g, 2 * X)
    assert type(aux["y"]) is np.ndarray and aux["y"].tolist() == [1.0, 4.0] and aux["list"][0] is aux["y"]
    assert isinstance(aux["first"], float) and aux["first"] + 1.0 == 2.0
    (val, aux), g = value_and_grad(f, has_aux=True)(X)
    assert val == 5.0 and aux["none"] is None and aux["list"][1][1] == 3
    assert hessian(f, has_aux=True)(X)[0].tolist() == [[2.0, 0.0], [0.0, 2.0]]
    for jac in (jacfwd, jacrev):
        J, aux = jac(lambda x: (x**2, x + 1.0), has_aux=True)(X)
        assert_array_equal(J, np.diag(2 * X))
        assert_array_equal(aux, X + 1.0)
    y, dy, aux = jvp(f, (X,), (X,), has_aux=True)
    assert (y, dy, aux["none"]) == (5.0, 10.0, None) and type(aux["y"]) is np.ndarray
    y, pull, aux = vjp(f, X, has_aux=True)
    assert y == 5.0 and type(aux["y"]) is np.ndarray
    for bad in (lambda x: np.sum(x), lambda x: (np.sum(x), 1, 2)):
        with pytest.raises(ActivityError, match="has_aux"):
            grad(bad, has_aux=True)(X)


def test_auxiliary_results_inside_an_outer_call_are_of_that_call():
    def f(x):
        g, aux = grad(lambda y: (np.sum(y**2), y * 3.0), has_aux=True)(x)
        return np.sum(g * aux)

    assert_array_equal(grad(f)(X), 12 * X)


def test_jacobians():
    want = np.stack([2 * np.eye(2), np.diag(2 * X), np.eye(2)[::-1]])
    for jac in (jacfwd, jacrev):
        assert_array_equal(jac(outputs)(X), want)
        assert_array_equal(jac(outputs, 1)(X, 2.0), [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
        jx, jk = jac(outputs, argnums=(0, 1))(X, 2.0)
        assert jx.shape == (3, 2, 2) and jk.shape == (3, 2)
        assert_array_equal(jac(lambda z: z**2, holomorphic=True)(X + 1j), np.diag(2 * (X + 1j)))


def test_hessians():
    f = lambda x, k: k**2 * np.sum(x**3)
    assert_array_equal(hessian(f)(X, 2.0), np.diag(24 * X))
    assert_array_equal(hessian(f, X, 2.0), np.diag(24 * X))
    assert hessian(f, argnums=1)(X, 2.0) == 18.0
    (xx, xk), (kx, kk) = hessian(f, argnums=(0, 1))(X, 2.0)
    assert_array_equal(xk, 12 * X**2)
    assert_array_equal(kx, xk)
    assert kk == 18.0 and xx.shape == (2, 2)
    assert_array_equal(jacfwd(grad(f))(X, 2.0), np.diag(24 * X))
    assert_array_equal(jacrev(grad(f))(X, 2.0), np.diag(24 * X))
    for wrong in (lambda: hessian(f, chunk=2), lambda: hessian(f, X, 2.0, argnums=1), lambda: hessian(f, k=2.0)):
        with pytest.raises(ActivityError, match="hessian"):
            wrong()


def test_derivatives_of_functions_of_one_number():
    assert_allclose(derivative(np.sin)(0.3), np.cos(0.3), rtol=1e-15)
    assert_allclose(second_derivative(np.sin, 0.3), -np.sin(0.3), rtol=1e-15)
    assert derivative(lambda t, k: k * t**2, 3.0, k=2.0) == 12.0
    assert second_derivative(lambda t, k: k * t**3, 3.0, 2.0) == 36.0
    assert_array_equal(second_derivative(lambda t: np.array([t, t**2, t**3]))(2.0), [0.0, 2.0, 12.0])
    assert derivative(lambda t: {"x": t**2, "y": [t]}, 3.0) == {"x": 6.0, "y": [1.0]}
    assert derivative(lambda t: 3, 1.0) == 0.0 and derivative(lambda t: 3.0, 1.0) == 0.0
    assert derivative(derivative(derivative(lambda t: t**4)))(2.0) == 48.0
    assert derivative(lambda t: t**2, np.array(3.0)) == 6.0
    for bad in (X, 3, "a"):
        with pytest.raises(ActivityError):
            derivative(np.sin)(bad)


def test_jvp():
    y, dy = jvp(outputs, (X, 3.0), (np.array([1.0, 0.0]), 2.0))
    assert_array_equal(y, outputs(X, 3.0))
    assert_array_equal(dy, [[5.0, 4.0], [2.0, 0.0], [0.0, 1.0]])
    assert_array_equal(jvp(outputs, (X, Const(3.0)), ([1, 0], None))[1], [[3.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    y, dy = jvp(lambda p: {"z": p["x"] ** 2, "s": p["s"]}, ({"x": 3.0, "s": "s"},), ({"x": 1.0, "s": "s"},))
    assert y == {"z": 9.0, "s": "s"} and dy == {"z": 6.0, "s": "s"}
    y, dy = jvp(lambda z: z * z, (1.0 + 1j,), (1j,))
    assert dy == 2j * (1.0 + 1j)
    x32 = X.astype(np.float32)
    assert jvp(lambda x: x * x, (x32,), (X,))[1].dtype == np.float32
    for primals, tangents in (((X,), (X, X)), ((X,), (np.ones(3),)), ((X,), (X * 1j,)), ((X, Const(1.0)), (X,)),
                              (X, X), ((3,), (1,))):
        with pytest.raises(ActivityError):
            jvp(outputs, primals, tangents)


def test_tangents_are_not_overwritten():
    def f(x):
        x *= x
        return x

    x, v = X.copy(), np.ones(2)
    y, dy = jvp(f, (x,), (v,))
    assert_array_equal(dy, 2 * X)
    assert_array_equal(v, [1.0, 1.0])
    assert_array_equal(x, X**2)


def test_vjp():
    y, pull = vjp(outputs, X, 3.0)
    assert_array_equal(y, outputs(X, 3.0))
    w = np.arange(6.0).reshape(3, 2)
    for scale in (1.0, 2.0):
        gx, gk = pull(scale * w)
        assert_array_equal(gx, scale * (3.0 * w[0] + 2 * X * w[1] + w[2][::-1]))
        assert gk == scale * np.sum(w[0] * X)
    assert vjp(outputs, X, Const(3.0))[1](w)[1] is None
    y, pull = vjp(lambda p: {"z": p["x"] ** 2, "s": p["s"]}, {"x": 3.0, "s": "s"})
    assert pull({"z": 1.0, "s": "s"}) == ({"x": 6.0, "s": "s"},)
    for bad in (np.ones(2), 1.0, np.ones((3, 2)) * 1j):
        with pytest.raises(ActivityError, match="cotangent"):
            vjp(outputs, X)[1](bad)
    with pytest.raises(ActivityError):
        vjp(outputs, 3)


def test_pullbacks_and_linear_maps_keep_their_point():
    w = X.copy()

    def f(x, c):
        c *= 2.0
        x *= x * c
        return x

    x = X.copy()
    y, pull = vjp(f, x, Const(w))
    assert_array_equal(x, 2 * X**3)
    x[:], w[:], y[:] = 7.0, 9.0, 11.0
    for _ in range(2):
        assert_array_equal(pull(np.ones(2))[0], 4 * X * X)
    x, w = X.copy(), X.copy()
    y, push = linearize(f, x, Const(w))
    assert_array_equal(y, 2 * X**3)
    x[:], w[:] = 7.0, 9.0
    for scale in (1.0, 3.0):
        assert_array_equal(push(scale * np.ones(2), None), scale * 4 * X * X)
    assert_array_equal(x, [7.0, 7.0])
    with pytest.raises(ActivityError, match="tangent"):
        push(np.ones(3), None)


def test_names_docstrings_and_representation():
    for transform in (grad, value_and_grad, jacfwd, jacrev, hessian):
        g = transform(cost)
        assert (g.__name__, g.__doc__, g.__wrapped__, g.__module__) == (
            "cost", "What it costs.", cost, __name__)
        assert "cost" in repr(g)
    assert decorated.__name__ == "decorated"


def test_decorators_and_methods():
    assert_array_equal(decorated(X), 3 * X**2)
    assert by_the_second(X, 3.0) == 18.0
    m = Model(5.0)
    assert_array_equal(m.slope(X), 10 * X)
    assert_array_equal(Model.slope(m, X), 10 * X)
    assert_array_equal(grad(m.loss)(X), 10 * X)
    assert grad(m.loss)(X).tolist() == grad(Const(m.loss))(X).tolist()


@pytest.mark.parametrize("transform", [grad, value_and_grad, jacfwd, jacrev, hessian, derivative, second_derivative])
def test_pickling(transform):
    if transform in (derivative, second_derivative):
        f, x = transform(np.sin), 0.5
    else:
        f, x = transform(cost), X
    again = pickle.loads(pickle.dumps(f))
    assert_array_equal(cyad.ravel(again(x))[0], cyad.ravel(f(x))[0])
    assert pickle.loads(pickle.dumps(grad(cost, (1, 0))))(X, 3.0)[0] == 5.0
    assert pickle.loads(pickle.dumps(grad(grad(np.sin))))(0.0) == 0.0
    assert copy.copy(f)(x) is not None


def test_decorated_functions_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(decorated)) is decorated
    assert pickle.loads(pickle.dumps(by_the_second)) is by_the_second


def test_refusals():
    for transform in (grad, value_and_grad, jacfwd, jacrev, hessian):
        with pytest.raises(ActivityError, match="function"):
            transform(3.0)
        for argnums in ("x", 1.5, (0, "x")):
            with pytest.raises(ActivityError, match="argnums"):
                transform(cost, argnums=argnums)
        for argnums in (2, -3, (0, 5)):
            with pytest.raises(ActivityError, match="argnums"):
                transform(cost, argnums=argnums)(X, 1.0)
        with pytest.raises(ActivityError):
            transform(cost)(3)
    with pytest.raises(ActivityError, match="shape"):
        grad(outputs)(X)


def test_quick_and_general_ways_agree():
    """The first argument alone, with numbers beside it, takes a short way; an array beside it the general one."""
    f = lambda x, k, c=None: k * np.sum(x * x * (1.0 if c is None else c))
    quick, general = grad(f)(X, 3.0), grad(f)(X, 3.0, c=np.ones(2))
    assert_array_equal(quick, general)
    assert_array_equal(grad(f)(X[::-1], 3.0), 6 * X[::-1])
    with pytest.raises(cyad.ActiveStoreError):
        grad(lambda x, w: w.__setitem__(0, x[0]) or x[0])(X, np.zeros(2))


def test_what_escapes_says_so():
    kept = []
    grad(lambda x: kept.append(x * 2.0) or np.sum(x))(X)
    with pytest.raises(EscapedValueError):
        kept[0] + 1.0
