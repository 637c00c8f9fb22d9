"""Single precision, mixed precision, strong zeros.

Of every call: the value has NumPy's dtype and its bits but for the last few; tangents of results have the dtype of the
result, shadows of arguments that of the argument; and derivatives are those of the same program in double precision,
which the other tests compare with finite differences.
"""
import math
import operator

import numpy as np
import pytest

import cyad
from cyad import Active, BatchDuplicated, Duplicated, Forward, ForwardWithPrimal, Reverse, ReverseWithPrimal, autodiff
from cyad import gradient as gradient_of

f32, f64 = np.float32, np.float64
X = np.array([0.31, 1.22, 0.72, 0.15])
Y = np.array([0.8, 0.4, 1.9, 2.3])
C32, C64 = np.array([0.5, 1.5, 2.5, 0.25], f32), np.array([0.5, 1.5, 2.5, 0.25])


def written(x, y):
    out = np.zeros_like(x)
    out[1:] = x[:-1] * 2
    out[0] = y[0]
    out += y
    np.add.at(out, [0, 0, 2], y[:3])
    return out


def loop(x, y):
    s = x[0] * 0
    for i in range(len(x)):
        s = s + x[i] * y[i] + math.sin(x[i]) - x[i] / 3
    return s


CASES = {
    "operators": lambda x, y: (x + y, x - y, x * y, x / y, x**y, -x, x % y, x // y + x),
    "python numbers": lambda x, y: (x + 1, 2.5 * x, 1 / x, x**2, x**2.5, 2**x, x - True, 3.0 ** y),
    "numpy numbers": lambda x, y: (x + f64(1), f32(2) * x, x / np.int64(3), x * np.int8(2), x**f32(2), f64(2) - x),
    "integer arrays": lambda x, y: (x * np.arange(4), x + np.arange(4, dtype=np.int8), x * (y > 1), x**np.arange(4)),
    "captured arrays": lambda x, y: (x * C32, C64 * x, C32 + y, np.dot(x, C64), C32 @ x),
    "elements": lambda x, y: (x[0] * y[1], x[0] + 1.0, x[1] * f64(2), x[2] ** y[0], 2 * x[0] + y[3] * C32[0], -x[1]),
    "element and array": lambda x, y: (x[0] * y, x * y[0], C32 * x[1], C64 * x[1], np.maximum(x[0], y)),
    "functions": lambda x, y: (np.sin(x), np.exp(x) * np.sqrt(y), np.arctan2(x, y), np.hypot(x, 1.0), np.log1p(x)),
    "functions of elements": lambda x, y: (np.sin(x[0]), np.exp(x[0]) * np.sqrt(y[0]), np.arctan2(x[1], y[2]),
                                           abs(x[0])),
    "math": lambda x, y: (math.sin(x[0]), math.exp(x[1]) * y[0], math.hypot(x[0], y[0])),
    "dtype=": lambda x, y: (np.add(x, y, dtype=f64), np.sum(x, dtype=f64), x.mean(dtype=f32), np.cumsum(y, dtype=f64)),
    "astype": lambda x, y: (x.astype(f32) * 2, x.astype(f64) * y, f32(x[0]) * f32(2), f64(y[0]), x[0].astype(f32)),
    "reductions": lambda x, y: (x.sum(), x.mean(), x.var(), x.std(), x.max(), np.prod(y), np.linalg.norm(x),
                                np.median(x)),
    "products": lambda x, y: (x @ y, np.outer(x, y), x.reshape(2, 2) @ y.reshape(2, 2), np.einsum("i,i", x, y)),
    "linear algebra": lambda x, y: (np.linalg.inv(x.reshape(2, 2)), np.linalg.solve(x.reshape(2, 2), y[:2]),
                                    np.linalg.det(y.reshape(2, 2))),
    "selection": lambda x, y: (np.where(x > 0.5, x, y), np.clip(x, 0.2, 1.0), np.clip(x, 0.2, y), np.sort(x), x[[0,
                               0, 2]],
                               np.where(x > 0.5, x, 0), np.choose([0, 1, 0, 1], [x, y]), np.maximum(x, y),
                               np.take(x, [1, 1])),
    "shapes": lambda x, y: (x.reshape(2, 2).T, np.concatenate([x, y]), np.stack([x, x]), np.pad(x, 1), np.roll(x, 1)),
    "writes": written, "loop": loop,
    "scratch": lambda x, y: [out := np.zeros(4, x.dtype), out.__setitem__(slice(None), x * y), out * 2][2],
    "scratch of double": lambda x, y: [out := np.zeros(4), out.__setitem__(slice(0, 2), (x * y)[:2]), out * x][2],
    "scratch of single": lambda x, y: [out := np.zeros(4, f32), out.__setitem__(0, x[0] * y[0]),
                                       out.__setitem__(slice(1, 3), y[1:3]), out + 1][3],
    "out=": lambda x, y: np.multiply(x, y, out=np.empty(4, np.result_type(x, y))),
    "in place": lambda x, y: [t := y * 1, t.__iadd__(y), t.__imul__(2.0), t.__itruediv__(3), t][4],
    "lists": lambda x, y: (np.array([x[0], x[1]]), np.array([x[0], y[0]], dtype=f32), np.mean([x[0], x[2]])),
    "complex": lambda x, y: (abs(x * 1j + y), (x + 1j * y).real, np.abs(np.fft.fft(x))),
    "constants": lambda x, y: (x * np.pi, np.float32(3) * x[0], x * 1e-3, np.ones_like(x) * x, np.linspace(x[0],
                               y[0], 3)),
}
DTYPES = [(f32, f32), (f32, f64), (f64, f32)]
by_dtype = pytest.mark.parametrize("dtypes", DTYPES, ids=lambda d: f"{d[0].__name__}-{d[1].__name__}")


def flat(result):
    return [r for part in result for r in flat(part)] if isinstance(result, (tuple, list)) else [result]


def contraction(function):
    """A number with every entry in it, of the dtype that NumPy makes of them."""
    def f(x, y):
        total = 0.0
        for k, part in enumerate(flat(function(x, y))):
            part = np.abs(part) if np.iscomplexobj(part) else part
            weights = np.cos(np.arange(np.size(part)) + k).reshape(np.shape(part))
            total = total + np.sum(part * weights.astype(getattr(part, "dtype", f64)))
        return total
    return f


@by_dtype
@pytest.mark.parametrize("name", CASES)
def test_forward(name, dtypes):
    x, y = X.astype(dtypes[0]), Y.astype(dtypes[1])
    tangents = [np.array([0.3, -0.2, 0.5, 0.1]), np.array([0.7, 0.2, -0.4, 0.6])]
    want = flat(CASES[name](x.copy(), y.copy()))
    args = [Duplicated(x.copy(), tangents[0].astype(x.dtype)), Duplicated(y.copy(), tangents[1].astype(y.dtype))]
    derivative, got = autodiff(ForwardWithPrimal, CASES[name], Duplicated, *args)
    exact, _ = autodiff(ForwardWithPrimal, CASES[name], Duplicated, *map(Duplicated, (X.copy(), Y.copy()), tangents))
    for k, (a, b, d, e) in enumerate(zip(flat(got), want, flat(derivative), flat(exact), strict=True)):
        assert np.asarray(a).dtype == np.asarray(b).dtype, f"value {k}: {a!r}, not {b!r}"
        np.testing.assert_allclose(a, b, rtol=3e-6, err_msg=f"value {k}")
        assert np.asarray(d).dtype == np.asarray(b).dtype, f"tangent {k}: {np.asarray(d).dtype}, value {b!r}"
        np.testing.assert_allclose(d, e, rtol=2e-4, atol=2e-5, err_msg=f"tangent {k}")
    batched = autodiff(Forward, CASES[name], BatchDuplicated, *(
        BatchDuplicated(a.copy(), tuple(s.astype(a.dtype) for s in (t, 2 * t, 0 * t, -t)))
        for a, t in zip((x, y), tangents, strict=True)))[0]
    for factor, lane in zip((1, 2, 0, -1), batched, strict=True):
        for k, (d, e) in enumerate(zip(flat(lane), flat(derivative), strict=True)):
            assert np.asarray(d).dtype == np.asarray(e).dtype
            np.testing.assert_allclose(d, factor * e, rtol=1e-5, atol=1e-6, err_msg=f"tangent {k}, lane of {factor}")


@by_dtype
@pytest.mark.parametrize("name", CASES)
def test_reverse(name, dtypes):
    x, y = X.astype(dtypes[0]), Y.astype(dtypes[1])
    f = contraction(CASES[name])
    plain = f(x.copy(), y.copy())
    shadows = [np.zeros_like(x), np.zeros_like(y)]
    _, value = autodiff(ReverseWithPrimal, f, Active, *map(Duplicated, (x.copy(), y.copy()), shadows))
    assert np.asarray(value).dtype == np.asarray(plain).dtype
    assert value == pytest.approx(plain, rel=1e-5)
    exact = gradient_of(Reverse, f, X, Y)
    for shadow, e, a in zip(shadows, exact, (x, y), strict=True):
        assert shadow.dtype == a.dtype
        np.testing.assert_allclose(shadow, e, rtol=5e-4, atol=1e-4)
    for part, a, e in zip(gradient_of(Reverse, f, x, y), (x, y), exact, strict=True):
        assert part.dtype == a.dtype
        np.testing.assert_allclose(part, e, rtol=5e-4, atol=1e-4)
    for part, a, e in zip(gradient_of(Forward, f, x, y), (x, y), exact, strict=True):
        assert part.dtype == a.dtype
        np.testing.assert_allclose(part, e, rtol=5e-4, atol=1e-4)


def test_scalars_round_as_numpy_does():
    """Each operation on single-precision numbers rounds: the loop gives the plain run's value to the last bit."""
    x = np.random.default_rng(0).uniform(-1, 1, 200).astype(f32)

    def f(x):
        s = x[0]
        for i in range(1, len(x)):
            s = s * x[i] + x[i - 1] / 3 - f32(0.1) * s
        return s

    plain = f(x)
    for mode, activity in ((ForwardWithPrimal, Duplicated), (ReverseWithPrimal, Active)):
        value = autodiff(mode, f, activity, Duplicated(x.copy(), np.zeros_like(x)))[-1]
        assert type(value) is f32 and value == plain


def test_numbers_as_arguments():
    """Python floats are weak: with them single precision stays; np.float64 numbers are not."""
    def f(x, s):
        return np.sum(x * s)

    x = X.astype(f32)
    for s, dtype in ((2.0, f32), (f32(2), f32), (f64(2), f64)):
        plain = f(x, s)
        assert plain.dtype == dtype
        for mode, activity in ((ForwardWithPrimal, (Duplicated,)), (ReverseWithPrimal, (Active,))):
            second = Active(s) if mode is ReverseWithPrimal else Duplicated(s, type(s)(1))
            *_, value = autodiff(mode, f, *activity, Duplicated(x.copy(), np.zeros_like(x)), second)
            assert np.asarray(value).dtype == dtype
        for mode in (Forward, Reverse):
            part = gradient_of(mode, f, x, s)[1]
            assert part == pytest.approx(np.sum(x), rel=1e-6)
            assert np.asarray(part).dtype == np.asarray(s).dtype, f"{mode}: {type(part)} for {type(s)}"


def test_shadows_of_another_precision_are_refused():
    for mode, activity in ((Forward, ()), (Reverse, (Active,))):
        with pytest.raises(cyad.ActivityError, match="float32.*float64|float64.*float32"):
            autodiff(mode, np.sum, *activity, Duplicated(X.astype(f32), np.zeros(4)))


def test_long_chains_in_single_precision():
    def f(x):
        u = x.copy()
        for _ in range(50):
            u[1:-1] = 0.25 * u[:-2] + 0.5 * u[1:-1] + 0.25 * u[2:]
        return np.sum(u**2)

    x = np.linspace(0, 1, 40) ** 2
    single, double = (gradient_of(Reverse, f, x.astype(d))[0] for d in (f32, f64))
    assert single.dtype == f32
    np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-5)


# ---- strong zeros ----------------------------------------------------------------------------------------------------

STRONG = {
    # By name: function of x at which, in one entry, the partial is infinite or nan and what it meets is zero.
    "where log": (lambda x: np.sum(np.where(x > 0, np.log(np.maximum(x, 0.0)), 0.0)), [0.0, 2.0], [0.0, 0.5]),
    "where division": (lambda x: np.sum(np.where(x != 0, 1.0 / x, x)), [0.0, 2.0], [1.0, -0.25]),
    "index": (lambda x: np.sum(np.log(x)[1:]), [0.0, 2.0], [0.0, 0.5]),
    "mask": (lambda x: np.sum(np.log(x)[x > 0]), [0.0, 2.0], [0.0, 0.5]),
    "element": (lambda x: np.log(x)[1], [0.0, 2.0], [0.0, 0.5]),
    "times zero": (lambda x: np.sum(np.log(x) * np.array([0.0, 1.0])), [0.0, 2.0], [0.0, 0.5]),
    "minimum": (lambda x: np.minimum(1.0, 1.0 / x[0]) + x[1], [0.0, 2.0], [0.0, 1.0]),
    "power": (lambda x: np.sum((x**0.5)[1:]), [0.0, 4.0], [0.0, 0.25]),
    "written over": (lambda x: [y := np.log(x), y.__setitem__(0, 1.0), np.sum(y)][2], [0.0, 2.0], [0.0, 0.5]),
}


@pytest.mark.parametrize("dtype", [f64, f32])
@pytest.mark.parametrize("name", STRONG)
def test_strong_zeros_in_reverse(name, dtype):
    f, at, want = STRONG[name]
    x, shadow = np.array(at, dtype), np.zeros(2, dtype)
    with np.errstate(all="ignore"):
        autodiff(Reverse.with_strong_zero(), f, Active, Duplicated(x, shadow))
        np.testing.assert_allclose(shadow, want, rtol=1e-6)
        lanes = np.zeros((2, 2), dtype)
        autodiff(Reverse.with_strong_zero(), f, Active, BatchDuplicated(x, tuple(lanes)))
    np.testing.assert_allclose(lanes, [want, want], rtol=1e-6)


@pytest.mark.parametrize("dtype", [f64, f32])
@pytest.mark.parametrize("name", [n for n in STRONG if n not in ("times zero", "minimum")])
def test_strong_zeros_in_forward(name, dtype):
    """A tangent of zero contributes nothing; where a partial of zero meets an infinite tangent, nothing is known."""
    f, at, want = STRONG[name]
    with np.errstate(all="ignore"):
        for k in range(2):
            tangent = np.eye(2, dtype=dtype)[k]
            (slope,) = autodiff(Forward.with_strong_zero(), f, Duplicated(np.array(at, dtype), tangent))
            assert slope == pytest.approx(want[k], rel=1e-6)


def test_without_strong_zeros_the_product_counts():
    """What docs/existing-code.md says: reverse multiplies zero with infinity, forward drops an infinite tangent."""
    def f(v):
        return np.sum(np.where(v > 0, np.log(v), 0.0))

    with np.errstate(all="ignore"):
        (reverse,), (forward,) = gradient_of(Reverse, f, np.zeros(1)), gradient_of(Forward, f, np.zeros(1))
        assert np.isnan(reverse[0]) and forward[0] == 0.0
        shadow = np.zeros(1)
        autodiff(Reverse.with_strong_zero(), f, Active, Duplicated(np.zeros(1), shadow))
        assert shadow[0] == 0.0


# ---- results that are no C doubles ----------------------------------------------------------------------------------

LONG = np.longdouble
ODD_RESULTS = {   # of x, and the gradient at ones
    "half": (lambda x: np.sum(x.astype("f2") ** 2), [2, 2]),
    "half number": (lambda x: np.float16(3) * x[0].astype("f2"), [3, 0]),
    "long": (lambda x: LONG(2) * x[0], [2, 0]),
    "long sum": (lambda x: np.sum(x, dtype=LONG), [1, 1]),
    "long capture": (lambda x, c=np.array([2, 3], LONG): np.sum(x * c), [2, 3]),
    "long without axes": (lambda x: (x[:1] * LONG(2)).reshape(()), [2, 0]),
    "long array of one": (lambda x: np.array(x[0] * x[1], dtype=LONG), [1, 1]),
    "long complex": (lambda x: np.abs(np.clongdouble(3 + 4j) * x[1]), [0, 5]),
    "complex64": (lambda x: np.real(x[0].astype(np.complex64) * np.complex64(2j - 1)), [-1, 0]),
    "long constant": (lambda x: LONG(2) * np.sum(np.ones(2)), [0, 0]),
}


@pytest.mark.parametrize("name", ODD_RESULTS)
def test_results_of_other_precisions_have_gradients(name):
    f, want = ODD_RESULTS[name]
    x, plain = np.ones(2), f(np.ones(2))
    for g in (*gradient_of(Reverse, f, x), *gradient_of(Forward, f, x), cyad.grad(f)(x), cyad.jvp(f, (x,), (x,))[1]):
        np.testing.assert_allclose(g, want if np.ndim(g) else np.sum(want), rtol=1e-6)
    for value, g in (cyad.value_and_grad(f)(x), (cyad.gradient(ReverseWithPrimal, f, x).val, want)):
        assert not isinstance(value, (cyad.Adjoint, cyad.AdjointArray)) and type(value) is type(plain[()])
        assert value == plain
        np.testing.assert_allclose(g, want, rtol=1e-6)


FLOAT_POWERS = [lambda x: np.float_power(x[0], 2), lambda x: np.float_power(x[0], 0.1),
                lambda x: np.float_power(x[0], x[1]), lambda x: np.float_power(1.7, x[1]),
                lambda x: np.float_power(x, x[1])[0]]


@pytest.mark.parametrize("mode", [Reverse, Forward])
def test_float_power_of_float32_gives_doubles(mode):
    x = np.array([1.3, 0.7], f32)
    for f in FLOAT_POWERS:
        met = []
        g, = gradient_of(mode, lambda x, f=f, met=met: met.append(cyad.ignore_derivatives(f(x))) or f(x), x)
        assert type(met[0]) is f64 and met[0] == f(x)
        np.testing.assert_allclose(g, gradient_of(Forward, f, x.astype(f64))[0], rtol=1e-6)


@pytest.mark.parametrize("mode", [Reverse, Forward])
def test_numbers_print_as_those_of_numpy(mode):
    def texts(x):
        return [str(x[0]), f"{x[0]}", f"{x[0]:.12f}", format(x[0], "g"), str(x[1])]
    for dtype in (f32, f64):
        x, met = np.array([1.3, 1e20], dtype), []
        gradient_of(mode, lambda x, met=met: met.extend(texts(x)) or x[0], x)
        assert met == texts(x)


@pytest.mark.parametrize("mode", [Reverse, Forward])
def test_distances_round_once(mode):
    def f(x):
        return [math.hypot(x[0], x[1], x[2]), math.hypot(*x), math.hypot(0.1, x[1], 3, x[2]),
                math.hypot(x[0], 0.3, 0.4), math.dist(x, [0.1, 0.2, 0.7, 3.0]), math.hypot(x[0]),
                math.dist((x[0], 1.0, 2), (0.3, x[1], x[2]))]
    rng = np.random.default_rng(3)
    for dtype in (f64, f32):
        for _ in range(30):
            x, met = rng.normal(size=4).astype(dtype), []
            g, = gradient_of(mode, lambda x, met=met: met.extend(map(cyad.ignore_derivatives, f(x))) or sum(f(x)), x)
            assert met == f(x)
            h = 1e-6 * np.eye(4)
            want = [(sum(f(x.astype(f64) + e)) - sum(f(x.astype(f64) - e))) / 2e-6 for e in h]
            np.testing.assert_allclose(g, want, rtol=1e-5, atol=1e-7)
    assert not gradient_of(mode, lambda x: math.hypot(x[0], x[1], x[2]), np.zeros(3))[0].any()
    hessian = cyad.hessian(lambda x: math.hypot(*x), np.array([3.0, 4.0, 12.0]))
    np.testing.assert_allclose(hessian, (np.eye(3) * 169 - np.outer([3, 4, 12], [3, 4, 12])) / 13**3)


# ---- float32 meets Python's numbers ---------------------------------------------------------------------------------

MEETING = [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.mod, operator.floordiv,
           operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne, np.maximum, np.hypot,
           np.arctan2, np.logaddexp, np.copysign, np.fmod, np.less, np.equal]


@pytest.mark.parametrize("mode", [Reverse, Forward])
@pytest.mark.parametrize("op", MEETING, ids=lambda op: op.__name__)
def test_float32_rounds_what_it_meets_as_numpy_does(op, mode):
    """0.6 is not np.float32(0.6), and a comparison that says so takes another branch than the plain run."""
    rng = np.random.default_rng(5)
    for _ in range(100):
        c = float(np.round(rng.uniform(0.1, 3.0), int(rng.integers(1, 4))))
        x = rng.uniform(0.1, 3.0, 2).astype(np.float32)
        x[0] = rng.choice([x[0], np.float32(c)])
        x[1] = rng.choice(x)

        def results(x, c=c):
            return [op(x[0], c), op(c, x[0]), op(x[0], x[1]), op(x[0], f64(c)), op(x[0], f32(c)), op(x[:1], c),
                    op(c, x[:1]), op(x[0], 2), op(True, x[0]), op(x[0], c * x[1]), op(x[..., 0], c)]
        met = []

        def f(x, met=met):
            met.extend(cyad.ignore_derivatives(v) for v in results(x))
            return np.sum(x)
        cyad.gradient(mode, f, x)
        for k, (got, want) in enumerate(zip(met, results(x), strict=False)):
            assert np.array_equal(got, want) and np.result_type(got) == np.result_type(want), (k, x, c, got, want)
