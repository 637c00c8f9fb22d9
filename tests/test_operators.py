"""Linear operators for SciPy, and SciPy's solvers with them."""
import re
import runpy
import threading
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse.linalg as sparse
from numpy.testing import assert_allclose, assert_array_equal
from scipy import optimize

import cyad
from cyad import ActivityError, Const, hessian, hessian_operator, jacobian, jacobian_operator

EXAMPLES = Path(__file__).parent.parent / "examples"
X = np.array([0.5, -1.0, 2.0])


def f(x, k=2.0):
    y = np.zeros(4)
    for i in range(3):
        y[i] = k * x[i] * x[i - 1]
    y[3] = np.sum(np.sin(x))
    return y


def energy(x, k=1.0):
    return k * np.sum(x**4) + np.prod(np.cos(x))


def overwriting(x, w):
    x *= w
    w += 1.0
    return x * x


@pytest.mark.parametrize("args", [(f, X), (f, X, 3.0), (lambda x: list(f(x)), X), (overwriting, X, np.arange(3.0)),
                                  (lambda x: x * np.sum(x), np.arange(4.0).reshape(2, 2)),
                                  (lambda x: x[::2], X), (lambda x: np.sum(x), X)])
def test_jacobian_operator(args):
    g, x, *rest = args
    kept = [np.copy(a) for a in (x, *rest)]
    fresh = lambda: [np.copy(a) if isinstance(a, np.ndarray) else a for a in (x, *rest)]
    point, *others = fresh()
    y = np.asarray(g(*fresh()))
    J = np.array(jacobian(cyad.Forward, g, point, *map(Const, others))[0]).reshape(y.size, x.size)
    op = jacobian_operator(g, x, *rest)
    assert isinstance(op, sparse.LinearOperator) and op.shape == J.shape and op.dtype == np.float64
    assert_array_equal(op.value, y)
    V, W = np.random.default_rng(0).normal(size=(J.shape[1], 5)), np.random.default_rng(1).normal(size=(J.shape[0], 5))
    for _ in range(2):
        assert_allclose(op @ V[:, 0], J @ V[:, 0], rtol=1e-13, atol=1e-14)
        assert_allclose(op @ V, J @ V, rtol=1e-13, atol=1e-14)
        assert_allclose(op.T @ W[:, 0], J.T @ W[:, 0], rtol=1e-13, atol=1e-14)
        assert_allclose(op.H @ W, J.T @ W, rtol=1e-13, atol=1e-14)
    assert_allclose(op @ np.eye(x.size), J, rtol=1e-13, atol=1e-14)
    for a, b in zip((x, *rest), kept, strict=True):
        assert_array_equal(a, b)


def test_operators_keep_their_point():
    x, w = X.copy(), np.arange(3.0)
    op = jacobian_operator(lambda x, w: w * x**2, x, w)
    x[:], w[:] = 100.0, 100.0
    assert_array_equal(op @ np.ones(3), 2 * X * np.arange(3.0))
    assert_array_equal(op.T @ np.ones(3), 2 * X * np.arange(3.0))
    x = X.copy()
    op = hessian_operator(lambda x: np.sum(x**3), x)
    x[:] = 100.0
    assert_array_equal(op @ np.ones(3), 6 * X)


def test_hessian_operator():
    for args in ((energy, X), (energy, X, 3.0), (lambda x: np.linalg.det(x), np.array([[2.0, 1.0], [0.5, 3.0]])),
                 (lambda x, w: np.sum(overwriting(x, w)), X, np.arange(3.0))):
        g, x, *rest = args
        fresh = [np.copy(a) if isinstance(a, np.ndarray) else a for a in (x, *rest)]
        H = hessian(g, *fresh).reshape(x.size, x.size)
        op = hessian_operator(g, x, *rest)
        V = np.random.default_rng(0).normal(size=(x.size, 5))
        assert op.shape == H.shape
        for _ in range(2):
            assert_allclose(op @ V, H @ V, rtol=1e-12, atol=1e-13)
            assert_allclose(op.T @ V[:, 1], H @ V[:, 1], rtol=1e-12, atol=1e-13)


def test_single_precision():
    op = jacobian_operator(lambda x: x * x, X.astype(np.float32))
    assert op.dtype == np.float32 and (op @ np.ones(3)).dtype == np.float32


def test_refusals():
    for bad in (3.0, np.arange(3), X * 1j, [1.0, 2.0], None):
        for make in (jacobian_operator, hessian_operator):
            with pytest.raises(ActivityError, match="array of real floats"):
                make(f, bad)
    with pytest.raises(ActivityError, match="real functions"):
        jacobian_operator(lambda x: 1j * x, X)
    with pytest.raises(ActivityError, match="real functions"):
        jacobian_operator(lambda x: "text", X)
    with pytest.raises(ActivityError):
        hessian_operator(f, X) @ X
    with pytest.raises(ActivityError, match="function"):
        jacobian_operator(3.0, X)


def test_operators_inside_a_differentiated_call():
    g = cyad.grad(lambda k: np.sum(jacobian_operator(f, X, 2.0) @ X) * k)
    assert_allclose(g(3.0), np.sum(jacobian(cyad.Forward, f, X)[0] @ X), rtol=1e-14)


def test_scipy_takes_them():
    x, info = sparse.cg(hessian_operator(energy, np.ones(3)), np.arange(3.0), rtol=1e-12)
    assert info == 0
    assert_allclose(hessian(energy, np.ones(3)) @ x, np.arange(3.0), atol=1e-10)
    singular = sparse.svds(jacobian_operator(f, X), k=2, return_singular_vectors=False)
    want = np.linalg.svd(jacobian(cyad.Reverse, f, X)[0], compute_uv=False)[:2]
    assert_allclose(sorted(singular), sorted(want), rtol=1e-9)
    r = optimize.least_squares(f, X, jac=lambda x: jacobian_operator(f, x), tr_solver="lsmr")
    s = optimize.least_squares(f, X, jac=cyad.jacfwd(f))
    assert_allclose(r.fun, s.fun, atol=1e-6)


def test_threads_have_operators_of_their_own():
    got = [None] * 4

    def work(k):
        op = jacobian_operator(f, X)
        got[k] = [(op @ X, op.T @ np.ones(4)) for _ in range(20)][-1]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for a, b in got:
        assert_array_equal(a, got[0][0])
        assert_array_equal(b, got[0][1])


def test_the_example_of_all_solvers(capsys):
    """It asserts that every solver finds the same shape, and has all that the table of operators.md names."""
    runpy.run_path(str(EXAMPLES / "solvers.py"), run_name="__main__")
    said = set(re.findall(r"[\w-]+", capsys.readouterr().out))
    table = (EXAMPLES.parent / "docs" / "operators.md").read_text().partition("| solver | what it takes |")[2]
    named = re.findall(r'(?<=[`"])[\w.-]+(?=["`(])', "".join(re.findall(r"^\|([^|]*)\|", table, re.MULTILINE)))
    solvers = {name.rpartition(".")[2] for name in named} - {"minimize", "solve_ivp"}
    assert len(solvers) > 18
    assert solvers - said == set()
