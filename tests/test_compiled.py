"""Compiled libraries and arrays that hold no active value: they take them as the plain arrays that they are.

Each call makes its arguments inside the differentiated function, where creation functions and operators make tracked
arrays. The results are those of the plain run, and a write by compiled code into memory that the tape refers to is
undone in the sweep.
"""
import pickle

import numpy as np
import pytest
import scipy.fft
import scipy.integrate
import scipy.interpolate
import scipy.linalg
import scipy.ndimage
import scipy.optimize
import scipy.signal
import scipy.sparse.linalg
import scipy.spatial
import scipy.special
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

import cyad
import cyad.numpy
from cyad import Forward, Reverse, _redirect

CALLS = """
scipy.linalg.solve(A(), b())   scipy.linalg.inv(A())   scipy.linalg.det(A())   scipy.linalg.lu(A())[0]
scipy.linalg.lu_factor(A())[0]   scipy.linalg.cho_factor(A())[0]   scipy.linalg.cholesky(A())
scipy.linalg.solve_triangular(A(), b())   scipy.linalg.expm(A())   scipy.linalg.eigh(A())[0]
scipy.linalg.eig(A())[0]   scipy.linalg.svd(A())[1]   scipy.linalg.qr(A())[0]   scipy.linalg.lstsq(A(), b())[0]
scipy.linalg.pinv(A())   scipy.linalg.solve_toeplitz(np.array([2.0, 0.5, 0.1]), b())   scipy.linalg.sqrtm(A())
scipy.linalg.logm(A())   scipy.linalg.schur(A())[0]   scipy.linalg.norm(A())   scipy.linalg.blas.dgemm(1.0, A(), A())
scipy.linalg.lapack.dgesv(A(), b())[2]   scipy.fft.fft(b())   scipy.fft.rfft(b())   scipy.fft.dct(b())
scipy.fft.fft2(A())   scipy.fft.irfft(np.array([1.0, 2.0, 3.0]))   scipy.sparse.csr_matrix(A()) @ b()
scipy.sparse.diags([b(), b()[:2]], [0, 1]) @ b()   scipy.sparse.kron(A(), A()).toarray()
scipy.sparse.linalg.spsolve(scipy.sparse.csc_matrix(A()), b())
scipy.sparse.linalg.splu(scipy.sparse.csc_matrix(A())).solve(b())   scipy.sparse.linalg.cg(A(), b())[0]
scipy.interpolate.CubicSpline(g(), np.sin(g()))(b())   scipy.interpolate.make_interp_spline(g(), np.sin(g()))(b())
scipy.interpolate.interp1d(g(), np.sin(g()))(b())
scipy.interpolate.RegularGridInterpolator((g(), g()), np.outer(g(), g()))(np.full((2, 2), 0.5))
scipy.interpolate.BSpline(*scipy.interpolate.splrep(g(), np.sin(g())))(b())
scipy.interpolate.PchipInterpolator(g(), np.sin(g()))(b())
scipy.interpolate.RBFInterpolator(g()[:, None], np.sin(g()))(b()[:, None])
scipy.interpolate.UnivariateSpline(g(), np.sin(g()))(b())   scipy.signal.lfilter(b(), [1.0, 0.5], g())
scipy.signal.filtfilt(*scipy.signal.butter(2, 0.3), np.sin(9 * np.linspace(0, 1, 40)))
scipy.signal.sosfilt(scipy.signal.butter(2, 0.3, output="sos"), g())   scipy.signal.fftconvolve(g(), b())
scipy.signal.convolve2d(A(), A())   scipy.signal.savgol_filter(g(), 5, 2)   scipy.signal.resample(g(), 6)
scipy.signal.welch(g(), nperseg=8)[1]   scipy.ndimage.gaussian_filter(g(), 1.0)   scipy.ndimage.zoom(g(), 2)
scipy.ndimage.map_coordinates(A(), np.ones((2, 2)))   scipy.spatial.distance.cdist(A(), A())
scipy.spatial.distance.pdist(A())   scipy.spatial.cKDTree(A()).query(b())[0]
scipy.spatial.ConvexHull(np.random.default_rng(0).random((9, 2))).volume
scipy.spatial.transform.Rotation.from_euler("xyz", b()).as_matrix()   scipy.special.betainc(b(), b(), b())
scipy.special.roots_legendre(5)[0]   scipy.stats.norm.pdf(b())   scipy.stats.kstest(g(), "norm").statistic
scipy.stats.multivariate_normal.logpdf(b(), np.zeros(3), A())   scipy.stats.gaussian_kde(g())(b())
scipy.stats.t.ppf(b(), 4)   scipy.optimize.nnls(A(), b())[0]   scipy.optimize.linear_sum_assignment(A())[0]
scipy.optimize.linprog(b(), A_ub=A(), b_ub=b()).x   scipy.optimize.lsq_linear(A(), b()).x
scipy.optimize.fsolve(lambda x: x - 1.0, b())   scipy.optimize.least_squares(lambda x: x - 1.0, b()).x
scipy.integrate.odeint(lambda y, t: -y, b(), g())
scipy.integrate.solve_ivp(lambda t, y: -y, (0, 1), b(), method="LSODA").y   pickle.loads(pickle.dumps(b()))
np.array(b().tolist())   np.frombuffer(b().tobytes())   np.frombuffer(memoryview(b()))
"""
CALLS = [call for line in CALLS.split("\n") for call in line.split("   ") if call]
MODES = pytest.mark.parametrize("mode", [Forward, Reverse], ids=["forward", "reverse"])
NAMES = {"np": np, "scipy": scipy, "pickle": pickle, "A": lambda: 2 * np.eye(3) + 0.1 * np.ones((3, 3)),
         "b": lambda: 0.5 * np.ones(3), "g": lambda: np.linspace(0.0, 1.0, 12)}


@MODES
@pytest.mark.parametrize("call", CALLS)
def test_constants_made_inside_go_into_compiled_code(call, mode):
    code, met = compile(call, call, "eval"), []

    def f(x):
        met.append(eval(code, NAMES))
        return x * 1.0

    assert cyad.gradient(mode, f, 2.0) == (1.0,)
    assert_allclose(np.asarray(met[0]), eval(code, NAMES), rtol=1e-12, atol=1e-14)


@MODES
def test_nested_calls_give_constants_to_compiled_code(mode):
    def f(x):
        return np.sum(scipy.linalg.solve(2 * np.eye(3), np.ones(3)) * x**3)

    (got,) = cyad.gradient(mode, lambda x: np.sum(cyad.gradient(Reverse, f, x)[0]), np.ones(3))
    assert_allclose(got, 3.0)


def overwrite_by_lapack(c):
    scipy.linalg.cho_solve(scipy.linalg.cho_factor(2 * np.eye(3)), c, overwrite_b=True)


def overwrite_by_blas(c):
    scipy.linalg.blas.daxpy(np.ones(3), c)


def overwrite_by_buffer(c):
    memoryview(c)[0] = 5.0


@pytest.mark.parametrize("overwrite", [overwrite_by_lapack, overwrite_by_blas, overwrite_by_buffer])
def test_a_write_of_compiled_code_comes_after_what_was_read(overwrite):
    def f(x):
        c = 2 * np.ones(3)
        y = x * c
        overwrite(c)
        z = x * c
        overwrite(c)
        return np.sum(y * y) + np.sum(z) * c[0]

    x, h = np.array([1.0, 2.0, 3.0]), 1e-6
    expected = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)]
    for mode in (Forward, Reverse):
        assert_allclose(cyad.gradient(mode, f, x)[0], expected, rtol=1e-8)
    assert_allclose(cyad.hvp(f, x, np.ones(3)), 8.0 * np.ones(3))


def test_a_buffer_that_was_taken_before_is_written_later():
    def f(x):
        c = 2 * np.ones(3)
        window, total = memoryview(c), 0.0
        for k in range(3):
            total = total + np.sum(x * c)
            c *= 1.5
            total = total + np.sum(np.sin(x) * c)
            window[k] = 7.0
            window[k] = 7.0 + k
        return total

    x, h = np.array([1.0, 2.0, 3.0]), 1e-6
    expected = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)]
    assert_allclose(cyad.gradient(Reverse, f, x)[0], expected, rtol=1e-8)


@MODES
def test_active_arrays_are_refused_and_named(mode):
    with pytest.raises(TypeError) as caught:
        cyad.gradient(mode, lambda x: np.sum(scipy.linalg.solve(2 * np.eye(3), x)), np.ones(3))
    assert "b1 carried derivatives" in caught.value.__notes__[0] or "b, b1 carried" in caught.value.__notes__[0]
    with pytest.raises(cyad.errors.ActivityError, match="cannot be pickled"):
        cyad.gradient(mode, lambda x: (pickle.dumps(x), np.sum(x))[1], np.ones(3))


def test_read_only_views_of_constants_in_nested_calls():
    def with_library(x):
        c = np.ones(3)
        t = np.sum(c * x**2)
        scipy.linalg.solve(2 * np.eye(3) + 0.1, c)
        return t + np.sum(c * x**3)

    def with_buffer(x):
        c = np.ones(3)
        t = np.sum(c * x**2)
        v = c.view()
        v.flags.writeable = False
        memoryview(v)
        c[1] = 2.0
        return t + np.sum(c * x**3)

    x, expected = np.array([0.5, 1.0, 2.0]), np.array([[5.0, 8.0, 14.0], [5.0, 14.0, 14.0]])
    for f, want in zip((with_library, with_buffer), expected, strict=True):
        for outer in (Forward, Reverse):
            for inner in (Forward, Reverse):
                got = cyad.gradient(outer, lambda y, f=f, n=inner: np.sum(cyad.gradient(n, f, y)[0]), x)[0]
                assert_allclose(got, want)


def test_results_in_the_memory_of_two_arguments():
    def f(x):
        b = np.ones(5)
        y = x * b[:3]
        scipy.linalg.blas.drot(b[:3], b[2:], 0.6, 0.8, overwrite_x=1, overwrite_y=1)
        return np.sum(y * b[:3] * b[2:])

    x, h = np.array([1.0, 2.0, 3.0]), 1e-6
    expected = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)]
    for mode in (Forward, Reverse):
        assert_allclose(cyad.gradient(mode, f, x)[0], expected, rtol=1e-8)


DRAWS = """
rng.normal(m, s)   rng.normal(m, s, 5)   rng.normal(v, s)   rng.normal(v, v, (4, 3))   rng.uniform(m, 3.0, 4)
rng.uniform(-v, v)   rng.exponential(s, 3)   rng.exponential(v)   rng.permutation(v)   rng.permutation(np.outer(v, v))
rng.choice(v, 7)   rng.choice(v, 2, replace=False)   rng.choice(v, 4, p=[0.2, 0.5, 0.3])   rng.choice(v)
"""
DRAWS = [call for line in DRAWS.split("\n") for call in line.split("   ") if call]


@MODES
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_those_of_the_plain_run(draw, make, mode):
    code = compile(draw, draw, "eval")

    def f(x):
        rng = make(4)
        rng.normal()
        u = eval(code, {"rng": rng, "m": x[0], "s": x[1], "v": x, "np": np})
        return np.sum(u * u) + rng.normal()

    x, h = np.array([0.4, 0.8, 1.3]), 1e-6
    assert_allclose(cyad.value_and_grad(f)(x)[0], f(x), rtol=1e-15)
    expected = [(f(x + h * e) - f(x - h * e)) / (2 * h) for e in np.eye(3)]
    assert_allclose(cyad.gradient(mode, f, x)[0], expected, rtol=1e-7, atol=1e-8)


@MODES
@pytest.mark.parametrize("make", [np.random.default_rng, np.random.RandomState])
@pytest.mark.parametrize("shape", [(6,), (4, 2), (3, 2, 2)])
def test_shuffles_are_those_of_the_plain_run(shape, make, mode):
    weights = np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape)

    def f(x):
        rng = make(3)
        data = weights.copy()
        rng.shuffle(data)
        moved = np.reshape(x[0] * weights, shape)
        rng.shuffle(moved)
        return np.sum(moved**2 * data) + rng.normal()

    x, h = np.array([0.7]), 1e-6
    assert_allclose(cyad.gradient(mode, f, x)[0], [(f(x + h) - f(x - h)) / (2 * h)], rtol=1e-7)
    got = cyad.value_and_grad(f)(x)[0]
    assert_allclose(got, f(x), rtol=1e-15)


def test_generators_fill_what_was_made_inside():
    def f(x):
        rng, buffer, other = np.random.default_rng(3), np.empty(4), np.empty((2, 3), np.float32)
        rng.standard_normal(out=buffer)
        rng.random(out=other, dtype=np.float32)
        buffer[1:] *= x
        return np.sum(buffer**2) + np.sum(other)

    x, h = 0.7, 1e-6
    assert_allclose(cyad.gradient(Reverse, f, x)[0], (f(x + h) - f(x - h)) / (2 * h), rtol=1e-7)


def test_shuffles_along_other_axes():
    def plain(a):
        rng = np.random.default_rng(1)
        rng.shuffle(a, axis=1)
        return rng.permutation(a, axis=1)

    a = np.arange(12.0).reshape(3, 4)
    met = []
    cyad.gradient(Reverse, lambda x: (met.append(np.array(cyad.ignore_derivatives(plain(x * 1.0)))), np.sum(x))[1], a)
    assert_array_equal(met[0], plain(a.copy()))


def test_the_switch_turns_libraries_off_and_on():
    """Functions of Cython's, methods, subscripts: what is called inside while all is off is the original."""
    rng = np.random.default_rng(0)
    before, plain = sorted(_redirect.installed()), np.linspace(0.0, 1.0, 5)
    assert len(before) > 500
    met = []

    def f(x):
        met.append([type(2 * plain), type(rng.normal(size=3)), type(plain.cumsum()), type(plain[[0, 1]])])
        return x * 2.0

    saved = _redirect.restore_all()
    try:
        assert not _redirect.installed()
        assert cyad.gradient(Reverse, f, 2.0) == (2.0,)
    finally:
        _redirect.reinstall(saved)
    assert sorted(_redirect.installed()) == before
    assert cyad.gradient(Reverse, f, 2.0) == (2.0,)
    assert met[0] == [np.ndarray] * 4 and np.ndarray not in met[1]
