"""complex64 and complex128 in both modes: arithmetic, functions, products, reductions, indexing, memory.

The oracle is central differences of plain runs in double precision. Reverse mode is compared by the inner product
Re <w, df> = Re <gradient, dz>, the gradient of a real function being df/dRe + i df/dIm.
"""
import cmath

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

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
    ReverseHolomorphic,
    ReverseHolomorphicWithPrimal,
    autodiff,
    gradient,
    jacobian,
)

Z = np.array([0.6 + 0.8j, -0.5 + 0.3j, 0.9 - 0.4j])
W = np.array([1.2 - 0.7j, 0.4 + 1.1j, -0.8 - 0.6j])
X = np.array([0.7, -1.3, 2.1])
M = (np.array([[1.2, 0.3, -0.5], [0.1, 1.7, 0.4], [-0.6, 0.2, 0.9]])
     + 1j * np.array([[0.2, -0.8, 0.3], [0.5, 0.1, -0.2], [0.7, 0.4, -1.1]]))
DTYPES = pytest.mark.parametrize("dtype", [np.complex128, np.complex64], ids=["complex128", "complex64"])


def stored(z):
    w = np.zeros(4, z.dtype)
    w[1:] = z
    w[0] += z[1] ** 2
    w[[0, 2]] *= w[[2, 0]]
    w[::2] = w[::2][::-1] * 1j
    return w


def parts_stored(z):
    w = z.copy()
    w.real = w.real * z.imag
    w.imag = np.abs(z[::-1])
    return w


def element_loop(z):
    s = 0.0
    for i in range(len(z)):
        s = s + z[i] * z[i - 1].conjugate() + abs(z[i])
    return s


def masked(z):
    w = z * z
    w[z.real > 0] = np.exp(z[z.real > 0])
    return np.where(z.imag > 0, w, z.conj())


FUNCTIONS = {
    "add": (lambda z, w: z + w, Z, W), "subtract": (lambda z, w: z - w, Z, W),
    "multiply": (lambda z, w: z * w, Z, W), "divide": (lambda z, w: z / w, Z, W), "negative": (lambda z: -z, Z),
    "by reals": (lambda z, x: x * z + z / x - x, Z, X), "reals by it": (lambda z, x: x / z, Z, X),
    "by numbers": (lambda z: (2 + 1j) * z + 3.0 - z / 1j + 1j / z, Z),
    "square": (lambda z: z**2, Z), "cube": (lambda z: z**3, Z), "inverse power": (lambda z: z**-2, Z),
    "root": (lambda z: z**0.5, Z), "power": (lambda z, w: z**w, Z, W), "exponent": (lambda z: 2.0**z, Z),
    "broadcast": (lambda z, m: z * m + z[:, None], Z, M),
    "conj": (lambda z: z.conj() * z, Z), "conjugate": (lambda z: np.conjugate(z), Z), "abs": (lambda z: np.abs(z), Z),
    "angle": (lambda z: np.angle(z), Z), "real": (lambda z: np.real(z) * z, Z), "imag": (lambda z: z.imag**2, Z),
    **{name: ((lambda f: lambda z: f(z))(getattr(np, name)), Z) for name in (
        "exp exp2 expm1 log log2 log10 log1p sqrt square reciprocal sin cos tan sinh cosh tanh arcsin arccos arctan "
        "arcsinh arccosh arctanh absolute positive").split()},
    "from reals": (lambda x: np.exp(1j * x), X), "to complex": (lambda x, z: x.astype(z.dtype) * z, X, Z),
    "put together": (lambda x, z: x + 1j * np.abs(z), X, Z),
    "matmul": (lambda a, b: a @ b, M, M.T + 1j), "vector": (lambda m, z: m @ z, M, Z), "dot": (np.dot, Z, W),
    "vdot": (np.vdot, Z, W), "inner": (np.inner, Z, W), "outer": (np.outer, Z, W), "kron": (np.kron, Z, W),
    "tensordot": (lambda a, b: np.tensordot(a, b, 1), M, Z), "einsum": (lambda a, z: np.einsum("ij,j->i", a, z), M, Z),
    "real matrix": (lambda x, m: np.diag(x) @ m, X, M), "adjoint matrix": (lambda m: m.conj().T @ m, M),
    "sum": (lambda m: np.sum(m, axis=0), M), "mean": (lambda m: m.mean(axis=1), M), "prod": (np.prod, Z),
    "cumsum": (np.cumsum, Z), "cumprod": (np.cumprod, Z), "var": (np.var, Z), "std": (lambda z: np.std(z, ddof=1), Z),
    "norm": (np.linalg.norm, Z), "trace": (np.trace, M), "diff": (np.diff, Z),
    "solve": (np.linalg.solve, M, Z), "inv": (np.linalg.inv, M), "det": (np.linalg.det, M),
    "fft": (np.fft.fft, Z), "ifft": (np.fft.ifft, Z), "rfft": (np.fft.rfft, X),
    "irfft": (lambda z: np.fft.irfft(z, 4), Z),
    "slice": (lambda z: z[1:] * z[:-1], Z), "reversed": (lambda z: z[::-1], Z), "picked": (lambda z: z[[0, 0, 2]], Z),
    "element": (lambda m: m[1, 2] * m[0], M), "mask": (masked, Z), "take": (lambda z: np.take(z, [2, 0]), Z),
    "stack": (lambda z, w: np.stack([z, w]), Z, W), "concatenate": (lambda z, x: np.concatenate([z, x]), Z, X),
    "reshape": (lambda m: m.reshape(9)[2:5] * m.T.ravel()[:3], M), "stored": (stored, Z),
    "parts stored": (parts_stored, Z),
    "elements": (element_loop, Z), "transposed": (lambda m: m.T * m, M),
    "norm squared": (lambda z: np.sum(np.abs(z) ** 2), Z),
}


def in_dtype(x, dtype):
    return x.astype(dtype if np.iscomplexobj(x) else np.empty(0, dtype).real.dtype)


def randoms(x, seed):
    rng = np.random.default_rng(seed)
    t = rng.uniform(-1.0, 1.0, np.shape(x))
    return t + 1j * rng.uniform(-1.0, 1.0, np.shape(x)) if np.iscomplexobj(x) else t


def slope(f, inputs, tangents, step=1e-6):
    """The derivative of a plain run in double precision."""
    wide = [np.array(x, np.result_type(x, np.float64)) for x in inputs]
    sides = [np.asarray(f(*[x + h * t for x, t in zip(wide, tangents, strict=True)])) for h in (step, -step)]
    return (sides[0] - sides[1]) / (2 * step)


@DTYPES
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, dtype):
    f, *inputs = FUNCTIONS[name]
    inputs = [in_dtype(x, dtype) for x in inputs]
    want = f(*[x.copy() for x in inputs])
    tolerance = 2e-7 if dtype is np.complex128 else 2e-4

    lanes = [[in_dtype(randoms(x, 10 * k + i), dtype) for i, x in enumerate(inputs)] for k in range(3)]
    slopes = [slope(f, inputs, tangents) for tangents in lanes]
    scale = 1.0 + max(np.max(np.abs(s), initial=0.0) for s in slopes)

    # Forward, one lane and several.
    tangent, got = autodiff(ForwardWithPrimal, f, Duplicated, *[
        Duplicated(x.copy(), t.copy()) for x, t in zip(inputs, lanes[0], strict=True)])
    assert np.result_type(got) == np.result_type(want) and np.result_type(tangent) == np.result_type(want)
    assert_allclose(got, want, rtol=1e-5 if dtype is np.complex64 else 1e-13, atol=1e-7)
    assert_allclose(tangent, slopes[0], rtol=tolerance, atol=tolerance * scale)
    (tangents,) = autodiff(Forward, f, BatchDuplicated, *[
        BatchDuplicated(x.copy(), [lane[i].copy() for lane in lanes]) for i, x in enumerate(inputs)])
    for t, s in zip(tangents, slopes, strict=True):
        assert_allclose(t, s, rtol=tolerance, atol=tolerance * scale)

    # Reverse: a real number of all entries, and the same by vjp.
    weights = in_dtype(randoms(np.asarray(want), 77), dtype)
    real = lambda *args: np.sum(np.real(np.conj(weights) * f(*args)))
    gradients = gradient(Reverse, real, *inputs)
    pulled = cyad.vjp(f, *inputs)[1](weights if np.ndim(want) else weights[()])
    for g, p, x in zip(gradients, pulled, inputs, strict=True):
        assert g.dtype == x.dtype and g.shape == x.shape and p.dtype == x.dtype
        assert_allclose(p, g, rtol=0.0, atol=scale * (1e-12 if dtype is np.complex128 else 1e-4))
    for tangents, s in zip(lanes, slopes, strict=True):
        forward = np.sum(np.conj(weights) * s).real
        backward = sum(np.sum(np.conj(g) * t).real for g, t in zip(gradients, tangents, strict=True))
        assert_allclose(backward, forward, rtol=tolerance * 5, atol=tolerance * 5 * scale)


HOLOMORPHIC = {
    "polynomial": lambda z: z**3 + (1 + 2j) * z - 1 / z, "exp": lambda z: np.exp(z) * np.sin(z),
    "log": lambda z: np.log(z) / np.sqrt(z), "tanh": lambda z: np.tanh(z * 1j), "power": lambda z: z ** (0.5 + 1j),
    "loop": lambda z: sum((z + k) ** k for k in range(1, 4)),
}


@pytest.mark.parametrize("name", HOLOMORPHIC)
def test_holomorphic_functions(name):
    f, z = HOLOMORPHIC[name], 0.7 + 0.4j
    want = (f(z + 1e-6) - f(z - 1e-6)) / 2e-6
    assert_allclose((f(z + 1e-6j) - f(z - 1e-6j)) / 2e-6j, want, rtol=1e-8)   # holomorphic indeed
    (g,) = gradient(ReverseHolomorphic, f, z)
    assert_allclose(g, want, rtol=1e-8)
    assert isinstance(g, complex)
    derivs, val = gradient(ReverseHolomorphicWithPrimal, f, z)
    assert_allclose((derivs[0], val), (g, f(z)), rtol=1e-14)
    assert_allclose(cyad.grad(f, holomorphic=True)(z), want, rtol=1e-8)
    assert_allclose(cyad.jacfwd(f, holomorphic=True)(z), want, rtol=1e-8)
    assert_allclose(cyad.derivative(f)(z), want, rtol=1e-8)
    # By direction: the derivative is complex linear.
    assert_allclose(autodiff(Forward, f, Duplicated(z, 1.0 + 0j)), [g], rtol=1e-13)
    assert_allclose(autodiff(Forward, f, Duplicated(z, 1j)), [1j * g], rtol=1e-13)
    # Of arrays, whose entries do not mix.
    zs = np.array([z, z.conjugate(), 2 * z])
    (gs,) = gradient(ReverseHolomorphic, lambda z: np.sum(f(z)), zs)
    (J,) = jacobian(ReverseHolomorphic, f, zs)
    assert_allclose(J, np.diag(gs), rtol=1e-13, atol=1e-15)
    assert_allclose(gs[0], want, rtol=1e-8)
    second = gradient(ReverseHolomorphic, lambda z: gradient(ReverseHolomorphic, f, z)[0], z)[0]
    assert_allclose(second, (f(z + 1e-4) - 2 * f(z) + f(z - 1e-4)) / 1e-8, rtol=1e-5)


def test_modes_and_activities_that_do_not_fit():
    with pytest.raises(ActivityError, match="ReverseHolomorphic"):
        autodiff(Reverse, lambda z: z**2, Active, Active(1j))
    for mode in (Forward, Reverse):
        with pytest.raises(ActivityError, match="complex"):
            gradient(mode, lambda z: z[0] ** 2, Z)
    with pytest.raises(ActivityError, match="dtype"):
        Duplicated(Z, np.zeros(3))
    with pytest.raises(ActivityError, match="dtype"):
        Duplicated(X, np.zeros(3, complex))


def test_gradients_of_real_functions_in_both_modes():
    for mode in (Forward, Reverse):
        g = gradient(mode, lambda z, x: np.sum(np.abs(z) ** 2 * x), Z, X)
        assert_allclose(g[0], 2 * Z * X, rtol=1e-14)
        assert_allclose(g[1], np.abs(Z) ** 2, rtol=1e-14)
        assert gradient(mode, lambda z: z.real**2 + 3.0 * z.imag, 2.0 + 1j) == (4.0 + 3.0j,)
        g = gradient(mode, lambda z: np.sum(np.abs(z) ** 2), Const(Z))
        assert g == (None,)


def written_through(x):
    z = x + 1j * x[::-1]
    z.real[1:] = x[:-1] ** 2
    z.imag *= 2.0
    np.add.at(z.real, [0, 0], x[:2])
    part = z.imag[::-1]
    z *= 1.0 + 2.0j
    part[0] += x[1]
    return np.sum(np.abs(z * z)) + np.sum(part * x)


def updated_part(x):
    y = np.real(np.fft.ifft(np.fft.fft(x) * np.array([1.0, 0.5, 0.2])))
    y += x[0]
    y[1:] *= y[:-1].copy()
    return np.sum(y**2)


def assigned_parts(x):
    z = np.zeros((2, 3), complex)
    z.real = x
    z.imag[:, ::2] = x[::2] ** 2
    part = z.T.real
    z[1] *= 1.0j
    return np.sum(part[:, 0] * x) + np.sum(part.ravel() ** 3) + z[1, 2].real * z.imag[0, 0]


@pytest.mark.parametrize("f", [written_through, updated_part, assigned_parts])
def test_parts_are_views(f):
    """As in NumPy: written through, read after writes to the whole; to second order."""
    def slope(x):
        return gradient(Reverse, f, x)[0] @ np.array([1.0, -2.0, 0.5])

    for function in (f, slope):
        want = [(function(X + h) - function(X - h)) / 2e-6 for h in 1e-6 * np.eye(3)]
        for mode in (Forward, Reverse):
            assert_allclose(gradient(mode, function, X)[0], want, rtol=1e-7, atol=1e-6)
    lanes, single = np.zeros((3, 3)), np.zeros(3)
    autodiff(Reverse, f, Active, BatchDuplicated(X.copy(), tuple(lanes)))
    autodiff(Reverse, f, Active, Duplicated(X.copy(), single))
    assert_allclose(lanes, [single] * 3, rtol=1e-14)


def test_parts_of_an_argument_are_views():
    """The shadow of z.real is the real part of the shadow of z."""
    def f(z):
        z.real[0] = 2.0
        z.imag[1:] *= 3.0

    z, shadow = Z.copy(), W.copy()
    autodiff(Reverse, f, Const, Duplicated(z, shadow))
    assert_array_equal(z, [2.0 + 0.8j, complex(-0.5, 0.3 * 3), complex(0.9, -0.4 * 3)])
    assert_allclose(shadow, [1j * W[0].imag, complex(W[1].real, 3 * W[1].imag), complex(W[2].real, 3 * W[2].imag)])
    z, shadow = Z.copy(), W.copy()
    autodiff(Forward, f, Duplicated(z, shadow))
    assert_allclose(shadow, [1j * W[0].imag, complex(W[1].real, 3 * W[1].imag), complex(W[2].real, 3 * W[2].imag)])


def test_kinks():
    """abs and angle at zero: as for real numbers."""
    zero = np.zeros(1, complex)
    for mode in (Forward, Reverse):
        assert_array_equal(gradient(mode, lambda z: np.sum(np.abs(z)), zero)[0], [0.0])
        assert_array_equal(gradient(mode, lambda z: np.linalg.norm(z), zero)[0], [0.0])


def test_shadows_of_the_caller():
    z, dz = Z.copy(), np.ones(3, complex)
    w, dw = np.zeros(3, complex), np.array([1.0, 1j, 2.0 - 1j])

    def f(w, z):
        w[:] = z * z

    autodiff(Reverse, f, Const, Duplicated(w, dw), Duplicated(z, dz))
    assert_allclose(dz, 1.0 + np.conj(2 * Z) * np.array([1.0, 1j, 2.0 - 1j]), rtol=1e-14)   # the conjugate transpose
    assert_array_equal(dw, 0.0)
    z, dz = Z.copy(), np.zeros(3, complex)
    w, dw = np.zeros(3, complex), np.array([1.0, 1j, 2.0 - 1j])
    autodiff(ReverseHolomorphic, f, Const, Duplicated(w, dw), Duplicated(z, dz))
    assert_allclose(dz, 2 * Z * np.array([1.0, 1j, 2.0 - 1j]), rtol=1e-14)                  # the transpose


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_signs_turn(mode):
    """NumPy's sign of a complex number is z/|z|; that of a real one is a step."""
    def f(z):
        s = np.sign(z)
        s *= 2.0
        return np.sum((s * W).real * np.array([1.0, -2.0, 0.5]))

    h, found = 1e-6, gradient(mode, f, Z)[0]
    for k in range(3):
        for direction in (1, 1j):
            step = h * direction * np.eye(3)[k]
            assert_allclose((np.conj(found[k]) * direction).real, (f(Z + step) - f(Z - step)) / (2 * h), rtol=1e-8)
    assert_array_equal(gradient(mode, lambda z: np.sum(np.sign(z).real), np.zeros(1, complex))[0], [0.0])
    assert_array_equal(gradient(mode, lambda x: np.sum(np.sign(x)), X)[0], 0.0)
    single = gradient(mode, lambda z: np.sum(np.sign(z).real), Z.astype(np.complex64))[0]
    assert single.dtype == np.complex64


@pytest.mark.parametrize(("matrix", "ord"), [*((False, ord) for ord in (1, 3, 0.5, -1, np.inf, -np.inf)),
                                             *((True, ord) for ord in (1, -1, np.inf, -np.inf))])
def test_second_derivatives_of_complex_norms(matrix, ord):
    def f(v):
        z = v[:4] + 1j * v[4:]
        return np.linalg.norm(z.reshape(2, 2) if matrix else z, ord)

    v = np.array([3.4, 1.2, -0.7, 2.2, 2.7, -1.1, 0.4, 1.9])
    slope = cyad.grad(f)
    expected = [(slope(v + e) - slope(v - e)) / 2e-5 for e in 1e-5 * np.eye(8)]
    for found in (cyad.hessian(f, v), cyad.jacrev(slope)(v), cyad.jacfwd(cyad.jacfwd(f))(v)):
        assert_allclose(found, expected, rtol=1e-7, atol=1e-8)


def test_results_that_nonholomorphic_functions_read_may_be_overwritten():
    def f(z):
        a = np.abs(z)
        a *= 2.0
        return np.sum(a)

    assert_allclose(gradient(Reverse, f, Z)[0], 2 * Z / np.abs(Z), rtol=1e-14)


CMATH = {
    **{name: (lambda z, name=name: getattr(cmath, name)(z)) for name in (
        "acos", "acosh", "asin", "asinh", "atan", "atanh", "cos", "cosh", "exp", "log", "log10", "sin", "sinh", "sqrt",
        "tan", "tanh")},
    "log to a base": lambda z: cmath.log(z, 3.0),
    "phase": lambda z: cmath.phase(z) + 0j,
    "polar": lambda z: cmath.polar(z)[0] * 1j + cmath.polar(z)[1],
    "rect": lambda z: cmath.rect(z.real, z.imag),
    "of a real number": lambda z: cmath.sqrt(z.real - 5.0) * z,
    "branches": lambda z: z * 2.0 if cmath.isfinite(z) and not cmath.isclose(z, 1.0) else z,
}


@pytest.mark.parametrize("name", CMATH)
def test_functions_of_cmath(name):
    def f(x):
        w = CMATH[name](x[0] + 1j * x[1])
        return w.real + 2.0 * w.imag

    x, h = np.array([0.6, 0.8]), 1e-6
    expected = [(f(x + e) - f(x - e)) / (2 * h) for e in h * np.eye(2)]
    for mode in (Forward, Reverse):
        assert_allclose(gradient(mode, f, x)[0], expected, rtol=1e-8, atol=1e-9)
    slope = cyad.grad(f)
    expected = [(slope(x + e) - slope(x - e)) / (2 * h) for e in h * np.eye(2)]
    for found in (cyad.jacfwd(slope)(x), cyad.jacrev(slope)(x)):
        assert_allclose(found, expected, rtol=1e-8, atol=1e-8)
    with_primal = autodiff(ForwardWithPrimal, f, Duplicated(x, np.ones(2)))[1]
    assert with_primal == f(x)


def test_what_cmath_refuses():
    with pytest.raises(TypeError, match="NumPy's function"):
        gradient(Reverse, lambda x: cmath.sin(x), X)
    with pytest.raises(ValueError, match="math domain error"):
        gradient(Reverse, lambda x: cmath.log(x[0] - X[0]).real, X)
    with pytest.raises(cyad.ActiveStoreError, match=r"x \+ 1j\*y"):
        gradient(Reverse, lambda x: abs(complex(x[0], x[1])), X)
