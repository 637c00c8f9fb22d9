"""Arrays that the function computes from arrays it captured are its own: they can hold active values.

Each expression makes such an array by other means (operators, ufuncs, functions, methods, subscripts, random
generators). It is then written with active values; derivatives are compared with differences of the plain run, and the
captured arrays must come out as they went in.
"""
import concurrent.futures
import functools
import itertools
import math
import operator
import threading

import numpy as np
import pytest
import scipy.fft
import scipy.interpolate
import scipy.linalg
import scipy.ndimage
import scipy.signal
import scipy.sparse
import scipy.special  # noqa: F401  (the table of expressions calls it)
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import Const, Forward, Reverse, rules

X = np.linspace(0.2, 1.4, 12)
M = X.reshape(3, 4)
PICK = np.array([3, 1, 2, 0, 5, 4])

EXPRESSIONS = """
0.5*X   X+0.0   -X   +X   X**2   X/3   X@np.eye(12)   X % 0.7   X//0.1   X-X[::-1]   M.T*2.0   X[2:-2]*1.0
(X > 0.5)*X   1.0*X.astype(int)   np.sin(X)   np.exp(-X)   np.multiply(X,2.0)   np.hypot(X,X)   np.arctan2(X,1.0)
np.clip(X,0.3,1.0)   np.negative(X,where=X>0,out=None)   np.modf(X)[0]   np.frexp(X)[0]   np.divmod(X,0.3)[1]
np.sin(X,dtype=np.float64)   np.sqrt(X+0j)   X[PICK]   X[X>0.5]   M[:,[0,2]]   M[[0,2]]   M[np.ix_([0,1],[1,2])]
X[[1,2,3]]   np.cumsum(X)   np.outer(X,X)   np.einsum("ij->j",M)   np.einsum("ij->ji",M)+0.0   np.tile(X,2)
np.sort(X)   np.interp(X,X,X)   np.dot(M.T,M)   np.kron(X,X)   np.roll(X,1)   np.concatenate([X,X])
np.where(X>0.5,X,0.0)   np.diff(X)   np.gradient(X)   np.mean(M,axis=0)   np.sum(M,axis=1)   np.std(M,axis=0)
np.pad(X,2)   np.full_like(X,3.0)   np.linalg.inv(M@M.T+np.eye(3))   np.linalg.solve(np.eye(12),X)
np.fft.ifft(np.fft.fft(X)).real+0.0   np.linalg.svd(M)[1]   np.linalg.eigh(M@M.T)[1]   np.take(X,PICK)
np.repeat(X,2)   np.convolve(X,X)   np.meshgrid(X,X)[0]   np.stack([X,X])   np.vstack([X,X])   np.flip(X)*1
np.polyval([1.0,2.0],X)*1   np.nan_to_num(X)   np.maximum(X,0.5)   np.round(X,1)   np.corrcoef(M)   X.cumsum()
X.clip(0.3,1.0)   X.copy()   X.flatten()   M.T.ravel()   X.repeat(2)   X.take(PICK)   X.round(1)   M.sum(axis=0)
M.mean(axis=1)   M.max(axis=0)   M.min(axis=1)   M.prod(axis=0)   M.std(axis=0)   M.var(axis=1)   M.dot(X[:4])
X.cumprod()   X.conj()*1   X.compress(X>0.5)   M.trace(offset=0)*X   np.random.default_rng(3).normal(size=12)
np.random.default_rng(3).random(12)   np.random.RandomState(3).rand(12)   np.random.RandomState(3).normal(0.0,1.0,12)
np.random.default_rng(3).standard_normal(12)   np.random.default_rng(3).permutation(X)
np.random.default_rng(3).choice(X,5)   np.random.default_rng(3).uniform(X,X+1)   np.array([0.5*x for x in X])
np.array(list(map(float,X)))   np.asarray([X,X])   np.linspace(0.0,1.0,5)   np.loadtxt(["1 2","3 4"])*1.0
np.unique(X)   np.unique([2.0,1.0,2.0])   np.setdiff1d(X,[0.2])
scipy.linalg.solve(2*np.eye(12),X)   scipy.linalg.cholesky(M@M.T+np.eye(3))   scipy.fft.dct(X)
scipy.ndimage.gaussian_filter(X,1.0)
scipy.special.erf(X)   scipy.signal.lfilter([0.5],[1.0,0.2],X)   scipy.interpolate.CubicSpline(X,X)(X)
scipy.sparse.eye(12)@X
abs(X)   divmod(X,0.3)[1]   pow(X,2)   sum([X,X])   functools.reduce(operator.add,[X,X])   operator.mul(X,2.0)
np.add.outer(X,X)   np.add.accumulate(X)   np.multiply.reduce(np.outer(X,X))   operator.getitem(X,PICK)
""".split("\n")
EXPRESSIONS = [e for line in EXPRESSIONS for e in line.split("   ") if e]
MODES = pytest.mark.parametrize("mode", [Forward, Reverse], ids=["forward", "reverse"])


@MODES
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_computed_from_captured_arrays_takes_active_values(expression, mode):
    code = compile(expression, expression, "eval")
    before = X.copy()

    def f(a):
        u = eval(code, globals())
        u[0] = a * np.ravel(u)[0]
        u *= 1.0 + a * a
        u[1:] -= np.sin(a) * u[:-1]
        return np.sum(np.abs(u * u))

    (got,), h = cyad.gradient(mode, f, 0.6), 1e-6
    assert_allclose(got, (f(0.6 + h) - f(0.6 - h)) / (2 * h), rtol=1e-6, atol=1e-7)
    assert_array_equal(X, before)


def test_nested_calls_compute_with_captured_arrays():
    def f(a):
        u = np.sin(X) * 2.0
        u[1:] *= a * u[:-1]
        return np.sum(u**3)

    h = 1e-4
    expected = (f(0.6 + h) - 2 * f(0.6) + f(0.6 - h)) / h**2
    for outer in (Forward, Reverse):
        for inner in (Forward, Reverse):
            (got,) = cyad.gradient(outer, lambda a, inner=inner: cyad.gradient(inner, f, a)[0], 0.6)
            assert_allclose(got, expected, rtol=1e-5)


def kinds(*makers):
    """The types that expressions over captured arrays have inside a call."""
    met = []

    def f(x):
        met.extend(type(make()) for make in makers)
        return x * 1.0

    cyad.gradient(Reverse, f, 1.0)
    return met


def test_compiled_callers_get_plain_arrays():
    # They take what NumPy returns for an ndarray, often without a check: here C code of Python's asks, and no bytecode.
    assert kinds(lambda: next(map(np.sin, [X])), lambda: functools.partial(np.multiply, 2.0)(X),
                 lambda: next(itertools.accumulate([X, X], np.add)), lambda: np.add(*[X, X])) == [np.ndarray] * 4


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_views_and_subclasses_stay_what_they_are():
    matrix, masked = np.asmatrix(M[:, :3]), np.ma.masked_array(X, X > 1)
    assert kinds(lambda: X[1:], lambda: np.reshape(X, (3, 4)), lambda: M.T, lambda: X.ravel(), lambda: X[None],
                 lambda: np.broadcast_to(X, (2, 12)),
                 lambda: np.add(X, 1.0, out=np.ndarray.__new__(np.ndarray, 12))) == [np.ndarray] * 7
    assert kinds(lambda: matrix * matrix, lambda: np.linalg.pinv(matrix),
                 lambda: matrix.mean(axis=0)) == [np.matrix] * 3
    assert kinds(lambda: masked + 1, lambda: np.ma.cumsum(masked),
                 lambda: masked.mean(keepdims=True)) == [np.ma.MaskedArray] * 3
    assert kinds(lambda: X > 0.5, lambda: PICK * 2, lambda: X.sum(), lambda: np.sin(0.5), lambda: X.argsort()) == [
        np.ndarray, np.ndarray, np.float64, np.float64, np.ndarray]


def test_a_captured_array_itself_is_refused():
    for store in (lambda a: operator.setitem(X, 0, a), lambda a: np.add(X, a, out=X), lambda a: X[1:].__iadd__(a)):
        before = X.copy()
        with pytest.raises(cyad.errors.ActiveStoreError):
            cyad.gradient(Reverse, lambda a, store=store: (store(a), a)[1], 1.0)
        assert_array_equal(X, before)


def test_what_was_computed_inside_is_plain_outside():
    kept = []

    def f(a):
        kept.append(np.cos(X))
        return a * kept[-1][0]

    cyad.gradient(Reverse, f, 0.5)
    assert_array_equal(np.asarray(kept[0] + 1.0), np.cos(X) + 1.0)
    assert type(np.sin(X)) is np.ndarray and type(X[PICK]) is np.ndarray and type(2 * X) is np.ndarray


def test_rules_of_users_compute_with_captured_arrays_too():
    @cyad.primitive
    def scaled(a):
        return a * X.sum()

    @rules.easy_rule(scaled)
    def scaled_partial(out, a):
        u = 0.5 * X
        u[0] = a
        return ((X.sum() + 0.0 * u[0],),)

    got, = cyad.gradient(Reverse, lambda a: scaled(a) ** 2, 0.5)
    assert_allclose(got, 2 * 0.5 * X.sum() ** 2)


def test_arguments_without_derivative_are_no_different():
    def f(a, data):
        u = np.sin(data) * 2.0
        u[0] = a
        return np.sum(u * data)

    got = cyad.autodiff(Forward, f, cyad.Duplicated(0.5, 1.0), Const(X))
    assert_allclose(got[0], X[0])


@MODES
def test_a_cache_that_a_call_in_another_thread_has_filled(mode):
    kept, filled, done = {}, threading.Event(), threading.Event()

    def basis():
        if "u" not in kept:
            kept["u"] = np.cos(X) * 2.0
        return kept["u"]

    def first(x):
        u = basis()
        filled.set()
        assert done.wait(60)
        return np.sum(u * x)

    def second(x):
        u, y = basis(), x * 1.0
        y[0] = u[0] * x[1]
        y[1:3] = u[1:3]
        y[[4, 5]] = u[[4, 5]] * x[:2]
        y *= u
        s = np.sum(np.where(u > 1.5, x, u)) + np.dot(u, x) + np.max(np.concatenate([x, u])) + u[2] * x[3]
        return s + np.sum(np.outer(u, x)) + np.sum(y * np.hypot(u, x)) + math.sin(u[1]) * x[0] + np.linalg.norm(x - u)

    got = []
    thread = threading.Thread(target=lambda: got.append(cyad.gradient(Reverse, first, X)[0]))
    thread.start()
    assert filled.wait(60)
    try:
        found = cyad.gradient(mode, second, X + 1.0)[0]
        curved = cyad.hvp(second, X + 1.0, np.ones(12))
        with pytest.raises(cyad.ADError, match="two unrelated"):   # what is active there is no constant here
            cyad.gradient(mode, lambda x: run_there(lambda: cyad.gradient(Reverse, lambda z: np.sum(z * x), X)), X)
    finally:
        done.set()
        thread.join()
    assert_allclose(got[0], 2 * np.cos(X))
    step = 1e-6 * np.eye(12)
    assert_allclose(found, [(second(X + 1.0 + e) - second(X + 1.0 - e)) / 2e-6 for e in step], rtol=1e-6, atol=1e-6)
    ahead, behind = (cyad.gradient(Reverse, second, X + 1.0 + s)[0] for s in (1e-6, -1e-6))
    assert_allclose(curved, (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-5)


def run_there(f):
    """f in another thread, whose exception comes here."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(f).result()
