"""Ufuncs called in every way NumPy allows: out=, where=, dtype=, casting=, the methods, warnings and np.errstate."""
import math
import warnings

import numpy as np
import pytest
from checks import check

import cyad

rng = np.random.default_rng(3)
V, W, U = rng.uniform(0.3, 0.9, 4), rng.uniform(1.1, 2.0, 4), rng.uniform(0.4, 2.0, 3)
A, B = rng.uniform(0.3, 2.0, (3, 4)), rng.uniform(0.5, 1.5, (3, 4))
X, Y = np.float64(0.7), np.float64(1.9)
MASK = A > 1.0
F32 = A.astype(np.float32)


def out(*shape, dtype=float):
    """An array made inside the call, to be written."""
    return np.full(shape, 0.25, dtype)


def kept(function):
    """Returns the out= array, and whether the call returned that very array."""
    def run(*xs):
        target = np.full((3, 4), 0.25)
        result = function(*xs, target)
        assert result is target
        return target
    return run


BOTH = [getattr(np, name) for name in (
    "add subtract multiply divide power float_power arctan2 hypot logaddexp logaddexp2 maximum minimum fmax fmin fmod "
    "remainder copysign heaviside nextafter floor_divide").split()]
ONE = [getattr(np, name) for name in "exp sqrt sin tanh square reciprocal absolute floor rint sign log cbrt".split()]

CALLS = {
    **{f"{f.__name__} out=": (kept(lambda x, y, t, f=f: f(x, y, out=t)), A, B) for f in BOTH},
    **{f"{f.__name__} out positional": (kept(lambda x, t, f=f: f(x, t)), A) for f in ONE},
    **{f"{f.__name__} where= and out=": (kept(lambda x, y, t, f=f: f(x, y, out=t, where=MASK)), A, V) for f in BOTH},
    **{f"{f.__name__} in place": (lambda x, y, f=f: f(x, y, out=x), A, V) for f in BOTH},
    "out= in a tuple": (kept(lambda x, y, t: np.add(x, y, out=(t,))), A, V),
    "out=None": (lambda x: np.sin(x, out=None), A),
    "out=...": (lambda x, y: np.multiply(x, y, out=...), X, Y),
    "out= is both operands": (lambda x: np.multiply(x, x, out=x), A),
    "out= overlaps an operand": (lambda x: np.add(x[1:], x[:-1], out=x[1:]), V),
    "out= of a strided view": (lambda x, y: np.exp(y, out=x[:, ::2]), A, B[:, ::2].copy()),
    "out= broadcasts": (lambda x, y: np.add(x, 1.0, out=y), V, A),
    "out= in single precision": (lambda x: np.multiply(x, 2.0, out=out(3, 4, dtype=np.float32)), F32),
    "out= of modf": (lambda x: np.modf(x, out=(out(3, 4), out(3, 4))), A),
    "out= of modf, one": (lambda x: np.modf(x, out(3, 4), None), A),
    "out= of divmod": (lambda x, y: np.divmod(x, y, out=(out(3, 4), out(3, 4))), A, V),
    "out= of frexp": (lambda x: np.frexp(x, out=(out(3, 4), np.zeros((3, 4), np.intc))), A),
    "out= a mask": (lambda x: x * np.less(x, 1.0, out=np.zeros((3, 4), bool)), A),
    "out= a mask, where=": (lambda x: x * np.greater(x, 1.0, out=np.zeros((3, 4), bool), where=MASK), A),
    "out= a plain array, of steps": (lambda x: x * np.isfinite(x, np.zeros((3, 4), bool)), A),
    "floor into integers": (lambda x: x * np.floor(x, out=np.zeros((3, 4), int), casting="unsafe"), A),
    "where= a list": (lambda x: np.add(x, 1.0, out=out(4), where=[True, False, True, True]), V),
    "where= a truth value": (lambda x: np.add(x, 1.0, out=out(4), where=False), V),
    "where= broadcasts": (lambda x: np.sqrt(x, out=out(3, 4), where=MASK[:1]), A),
    "where= makes the result wider": (lambda x: np.sqrt(x, out=out(3, 4), where=MASK), V),
    "where= keeps warnings away": (lambda x: np.log(x, out=out(4), where=x > 0), V * [1, -1, 1, -1]),
    "where= all true, no out": (lambda x: np.exp(x, where=np.ones(4, bool)), V),
    "where=True": (lambda x, y: np.add(x, y, where=True), A, B),
    "where= in place": (lambda x: np.divide(x, 2.0, out=x, where=MASK), A),
    "where= of a scalar": (lambda x: np.multiply(x, 3.0, out=out(), where=True), X),
    "dtype=float": (lambda x: np.add(x, 1, dtype=float), A),
    "dtype=float32": (lambda x: np.multiply(x, 3.0, dtype=np.float32), F32),
    "dtype=float64 of float32": (lambda x: np.multiply(x, x, dtype=np.float64), F32),
    "dtype=complex": (lambda x: np.multiply(x, 1j, dtype=complex), A),
    "dtype= by class": (lambda x: np.sin(x, dtype=np.dtypes.Float64DType), A),
    "dtype= by letter": (lambda x: np.sin(x, dtype="d"), A),
    "signature=": (lambda x, y: np.add(x, y, signature="dd->d"), A, B),
    "sig of types": (lambda x, y: np.add(x, y, signature=(None, None, np.float64)), A, B),
    "casting=same_kind": (lambda x: np.add(x, x, casting="same_kind"), A),
    "casting=no": (lambda x: np.add(x, x, casting="no"), A),
    "order=F": (lambda x: np.add(x, x, order="F"), A),
    "subok=False": (lambda x: np.add(x, x, subok=False), A),
    "with a list": (lambda x: np.add(x, [1, 2, 3, 4]), A),
    "with a list of active numbers": (lambda x, y: np.multiply([x, y, x], [1.0, 2.0, y]), X, Y),
    "with an integer array": (lambda x: np.multiply(x, np.arange(4)), A),
    "with a mask": (lambda x: np.multiply(x, MASK), A),
    "with complex numbers": (lambda x: np.multiply(x, 1 + 2j), A),
    "with float32": (lambda x: np.multiply(x, np.float32(1.5)), F32),
    "with another precision": (lambda x, y: np.multiply(x, y), A, np.float64(1.5)),
    # methods
    **{f"{f}.reduce {kw}": (lambda x, f=getattr(np, f), kw=kw: f.reduce(x, **kw), A)
       for f in "add multiply maximum minimum fmax fmin logaddexp".split()
       for kw in ({}, {"axis": 1}, {"axis": None}, {"axis": (0, 1)}, {"axis": -1, "keepdims": True}, {"axis": ()})},
    **{f"{f}.reduce {kw}": (lambda x, f=getattr(np, f), kw=kw: f.reduce(x, **kw), A)
       for f in "subtract divide hypot logaddexp2 fmod copysign nextafter".split()
       for kw in ({}, {"axis": 1}, {"axis": -1, "keepdims": True})},
    # Along contiguous axes NumPy's vectorised loops for these do not go one by one, and return something else.
    **{f"{f}.reduce": (lambda x, f=getattr(np, f): f.reduce(x), A) for f in "arctan2 power float_power".split()},
    **{f"hypot.reduce {kw}": (lambda x, kw=kw: np.hypot.reduce(x, **kw), A)
       for kw in ({"axis": None}, {"axis": (0, 1)}, {"axis": None, "keepdims": True})},
    "hypot.reduce initial=": (lambda x: np.hypot.reduce(x, initial=2.0), A),
    "hypot.reduce where=": (lambda x: np.hypot.reduce(x, axis=1, where=MASK), A),
    "add.reduce initial=": (lambda x: np.add.reduce(x, initial=2.0), A),
    "add.reduce where=": (lambda x: np.add.reduce(x, where=MASK), A),
    "multiply.reduce initial= active": (lambda x, y: np.multiply.reduce(x, axis=1, initial=y), A, X),
    "maximum.reduce initial= where=": (lambda x: np.maximum.reduce(x, initial=0.9, where=MASK), A),
    "minimum.reduce where= initial=": (lambda x: np.minimum.reduce(x, axis=1, initial=9.0, where=MASK), A),
    "add.reduce out=": (lambda x: np.add.reduce(x, out=out(4)), A),
    "add.reduce out positional": (lambda x: np.add.reduce(x, 1, None, out(3)), A),
    "add.reduce out=...": (lambda x: np.add.reduce(x, out=...), V),
    "add.reduce dtype=": (lambda x: np.add.reduce(x, dtype=np.float64), F32),
    "add.reduce of a scalar": (lambda x: np.add.reduce([x, x * x]), X),
    "add.reduce of lists": (lambda x, y: np.add.reduce([[x, y], [y, 2.0]]), X, Y),
    "add.reduce of nothing": (lambda x: np.add.reduce(x[:0]) + x, V),
    "logical_and.reduce": (lambda x: x * np.logical_and.reduce(x > 0), A),
    "add.reduce of steps": (lambda x: x * np.add.reduce(np.floor(x)), A),
    **{f"{f}.accumulate {kw}": (lambda x, f=getattr(np, f), kw=kw: f.accumulate(x, **kw), A)
       for f in "add multiply maximum minimum fmax fmin subtract divide hypot logaddexp".split()
       for kw in ({}, {"axis": 1})},
    "add.accumulate out=": (lambda x: np.add.accumulate(x, out=out(3, 4)), A),
    "add.accumulate into itself": (lambda x: np.add.accumulate(x, out=x), V),
    "multiply.accumulate dtype=": (lambda x: np.multiply.accumulate(x, dtype=np.float64), F32),
    **{f"{f}.reduceat {kw}": (lambda x, f=getattr(np, f), kw=kw: f.reduceat(x, [0, 2, 1], **kw), A.T.copy())
       for f in "add multiply maximum minimum hypot subtract".split() for kw in ({}, {"axis": 0})},
    "add.reduceat axis": (lambda x: np.add.reduceat(x, [0, 3, 1], axis=1), A),
    "multiply.reduceat axis": (lambda x: np.multiply.reduceat(x, [0, 3, 1, 1], axis=-1), A),
    "add.reduceat out=": (lambda x: np.add.reduceat(x, [0, 2], out=out(2)), V),
    **{f"{f}.outer": (lambda x, y, f=getattr(np, f): f.outer(x, y), A, U)
       for f in "add subtract multiply divide power hypot maximum arctan2 less floor_divide".split()},
    "multiply.outer of numbers": (lambda x, y: np.multiply.outer(x, y), V, X),
    "multiply.outer of lists": (lambda x: np.multiply.outer([1.0, 2.0], x), V),
    "multiply.outer of active lists": (lambda x: np.multiply.outer([x, 2.0], [x, x, 1.0]), X),
    "multiply.outer out=": (lambda x, y: np.multiply.outer(x, y, out=out(4, 3)), V, U),
    "multiply.outer plain": (lambda x: np.multiply.outer(np.arange(3), x), V),
    "divmod.outer": (lambda x, y: np.divmod.outer(x, y), V, U),
    **{f"{f}.at": (lambda x, y, f=getattr(np, f): f.at(x, [0, 2, 0], y), V, U)
       for f in "add subtract multiply divide power maximum minimum hypot arctan2 logaddexp".split()},
    **{f"{f}.at": (lambda x, f=getattr(np, f): f.at(x, [0, 2, 0]), V) for f in "negative sqrt exp square sin".split()},
    "add.at one index": (lambda x, y: np.add.at(x, 1, y), V, X),
    "multiply.at one index": (lambda x, y: np.multiply.at(x, 1, y), V, X),
    "multiply.at a row": (lambda x, y: np.multiply.at(x, 1, y), A, V),
    "multiply.at rows": (lambda x, y: np.multiply.at(x, [0, 2, 0], y), A, V),
    "multiply.at two indices": (lambda x, y: np.multiply.at(x, ([0, 2, 0], [1, 1, 1]), y), A, U),
    "multiply.at a slice": (lambda x, y: np.multiply.at(x, slice(1, 3), y), V, X),
    "multiply.at a mask": (lambda x, y: np.multiply.at(x, V > 0.5, y), V, X),
    "add.at mixed": (lambda x, y: np.add.at(x, (slice(None), [0, 0, 1]), y), A, U),
    "add.at negative": (lambda x, y: np.add.at(x, [-1, 3, -1], y), V, U),
    "multiply.at negative": (lambda x, y: np.multiply.at(x, [-1, 3, -1], y), V, U),
    "multiply.at of a view": (lambda x, y: np.multiply.at(x.T[::2], ([0, 0], [1, 1]), y), A, U[:2]),
    # generalised ufuncs
    "matmul out=": (lambda x, y: np.matmul(x, y, out=out(3, 3)), A, A.T.copy()),
    "matmul out positional": (lambda x, y: np.matmul(x, y, out(3, 3)), A, A.T.copy()),
    "matmul dtype=": (lambda x: np.matmul(x, x.T, dtype=np.float64), F32),
    "vecdot axis=": (lambda x, y: np.vecdot(x, y, axis=0), A, B),
    "vecdot out=": (lambda x, y: np.vecdot(x, y, out=out(3)), A, B),
    "vecdot keepdims=": (lambda x, y: np.vecdot(x, y, keepdims=True), A, V),
    "@ of stacks": (lambda x, y: x @ y, rng.uniform(size=(2, 3, 4)), V),
    "@=": (lambda x, y: x.__imatmul__(y), A[:, :3].copy(), B[:, :3].copy()),
}
try:
    np.sin(0.5, out=...)
except TypeError:   # before NumPy 2.3
    CALLS = {name: call for name, call in CALLS.items() if "out=..." not in name}


@pytest.mark.parametrize("name", CALLS)
def test_call(name):
    function, *inputs = CALLS[name]
    single = any(x.dtype == np.float32 for x in inputs)
    check(function, inputs, tolerance=2e-3 if single else 1e-6, step=1e-2 if single else 1e-5)


# ---- warnings and np.errstate ----------------------------------------------------------------------------------------

ODD = np.array([0.0, -1.0, np.inf, np.nan, 800.0, 1.0])
WARNING = {
    "log": np.log, "sqrt": np.sqrt, "exp": np.exp, "reciprocal": np.reciprocal, "arcsin": np.arcsin,
    "log1p": np.log1p, "arctanh": np.arctanh, "sinh": np.sinh, "square": lambda x: (x * 1e17) ** 2,
    "power of six": lambda x: (x * 1e30) ** 6 * x**6, "sin": np.sin, "tan": np.tan, "divide": lambda x: 1.0 / x,
    "divide by itself": lambda x: x / x, "power": lambda x: x**-1.5, "x**x": lambda x: x**x,
    "remainder": lambda x: x % 0.0, "floor_divide": lambda x: x // 0.0, "fmod": lambda x: np.fmod(x, 0.0),
    "divmod": lambda x: np.divmod(x, 0.0), "modf": np.modf, "frexp": np.frexp, "subtract": lambda x: x - x,
    "multiply": lambda x: x * np.inf, "logaddexp": lambda x: np.logaddexp(x, x), "hypot": lambda x: np.hypot(x, 1e30),
    "mean of nothing": lambda x: np.mean(x[x > 1e9][:0]), "nanmean": lambda x: np.nanmean(x * np.nan),
    "maximum": lambda x: np.maximum(x, np.nan), "std": lambda x: np.std(x, ddof=9),
    "float_power": lambda x: np.float_power(x, 0.5), "in place": lambda x: np.divide(x, 0.0, out=x),
    "at": lambda x: np.log(x, out=x, where=x > -2), "underflow": lambda x: np.exp(x * -1.0),
    "cumprod": lambda x: np.cumprod(x * 1e200), "power of ints": lambda x: x**3, "sum": lambda x: np.sum(x - x),
    "dot": lambda x: np.dot(x, x[::-1]), "sinc": np.sinc, "arctan2": lambda x: np.arctan2(x, x),
    "astype": lambda x: x.astype(np.float32) * 1e38, "round": lambda x: np.round(x),
}


def caught(function, *args, **policy):
    """The warnings of a call, or the error that a policy makes of them."""
    with warnings.catch_warnings(record=True) as met, np.errstate(**policy):
        warnings.simplefilter("always")
        try:
            function(*args)
        except ArithmeticError as error:
            return f"{type(error).__name__}: {error}"
    return sorted({(w.category.__name__, str(w.message)) for w in met})


@pytest.mark.parametrize("name", WARNING)
@pytest.mark.parametrize("policy", [{}, {"all": "ignore"}, {"all": "warn"}, {"all": "raise"}], ids=str)
def test_warnings_are_those_of_the_plain_run(name, policy):
    def each(x):
        function(x)
        return np.sum(x)

    function = WARNING[name]
    odd = [ODD.copy(), ODD[:1].copy(), ODD[4:].copy(), ODD.astype(np.float32)]
    for x in odd:
        plain = caught(each, x.copy(), **policy)
        for run in (lambda x: cyad.autodiff(cyad.Forward, each, cyad.Duplicated(x, np.ones_like(x))),
                    lambda x: cyad.autodiff(cyad.Reverse, each, cyad.Duplicated(x, np.zeros_like(x)))):
            assert caught(run, x.copy(), **policy) == plain


ON_NUMBERS = "log sqrt exp reciprocal arcsin log1p arctanh sinh square sin divide power x**x remainder multiply".split()


@pytest.mark.parametrize("name", ON_NUMBERS)
@pytest.mark.parametrize("policy", [{}, {"all": "ignore"}, {"all": "raise"}], ids=str)
def test_warnings_on_numbers(name, policy):
    """Python's floats raise ZeroDivisionError and OverflowError where NumPy's numbers warn."""
    def function(x):
        return np.real(WARNING[name](x))   # roots of negative Python floats are complex
    for number in [*map(float, ODD), *ODD, *ODD.astype(np.float32)]:
        plain = caught(function, number, **policy)
        assert caught(lambda x: cyad.autodiff(cyad.Forward, function, cyad.Duplicated(x, type(x)(1.0))),
                      number, **policy) == plain
        assert caught(lambda x: cyad.autodiff(cyad.Reverse, function, cyad.Active, cyad.Active(x)),
                      number, **policy) == plain


OF_PYTHON_FLOATS = [
    lambda t: 1 / (t - t), lambda t: t / 0, lambda t: t % 0.0, lambda t: t // 0, lambda t: 0.0 ** -t,
    lambda t: (10 * t) ** 1000, lambda t: (-t) ** (1 / 3), lambda t: (-2.0) ** t, lambda t: t * 1e308 * 1e10,
    lambda t: t % 0.5 / (t - t), lambda t: t - np.inf, lambda t: abs(-t) // (t - t),
    lambda t: np.float64(1) / (t - t), lambda t: np.sin(t) / (t - t), lambda t: (t - t) ** -1,
    lambda t: math.sqrt(t) / (t - t), lambda t: t % np.float64(0), lambda t: (t - t) ** 0, lambda t: -t // 0.3,
]


@pytest.mark.parametrize("mode", [cyad.Forward, cyad.Reverse])
@pytest.mark.parametrize("k", range(len(OF_PYTHON_FLOATS)))
def test_python_floats_stay_what_they_are(k, mode):
    """Code that catches ZeroDivisionError takes the branch of the plain run."""
    def outcome(t):
        try:
            return OF_PYTHON_FLOATS[k](t)
        except ArithmeticError as error:
            return f"{type(error).__name__}: {error}"
    met = []
    with np.errstate(all="ignore"):
        want = outcome(1.25)
        cyad.gradient(mode, lambda t: (met.append(cyad.ignore_derivatives(outcome(t))), 2 * t)[1], 1.25)
    assert met[0] == want if isinstance(want, str) else np.allclose(met[0], want, rtol=1e-14, equal_nan=True)


@pytest.mark.parametrize("mode", [cyad.Forward, cyad.Reverse])
def test_fractional_powers_of_negative_python_floats_are_complex(mode):
    def f(t):
        return abs((-t) ** (1 / 3)) ** 2 + ((-t) ** 0.5).imag
    assert cyad.gradient(mode, f, 1.25)[0] == pytest.approx((f(1.25 + 1e-6) - f(1.25 - 1e-6)) / 2e-6)


P, K, I = np.array([[1.0, 2.0], [3.0, 5.0]]), np.arange(4.0), np.array([0, 1, 0, 1])

# Functions of plain arrays into an array made inside: shape of that, and the call. The result has no derivative.
INTO = {
    **{f"{f.__name__}, axis": ((2,), lambda o, f=f: f(P, axis=0, out=o)) for f in (
        np.sum, np.mean, np.std, np.var, np.max, np.min, np.prod, np.median, np.nanmedian, np.nansum, np.nanmean,
        np.nanstd, np.nanmax, np.ptp, np.all, np.any, np.add.reduce, np.hypot.reduce, np.logaddexp.reduce)},
    **{f"method {name}": ((2,), lambda o, name=name: getattr(P, name)(axis=0, out=o)) for name in (
        "sum", "mean", "std", "var", "max", "min", "prod", "all", "any")},
    "sum, by position": ((2,), lambda o: np.sum(P, 0, None, o)),
    "reduce, by position": ((2,), lambda o: np.add.reduce(P, 0, None, o)),
    "percentile": ((2,), lambda o: np.percentile(P, 30.0, axis=0, out=o)),
    "sum where": ((2,), lambda o: np.sum(P, axis=0, out=o, where=P > 1.0)),
    "accumulate": ((2, 2), lambda o: np.add.accumulate(P, 0, out=o)), "cumsum": ((4,), lambda o: np.cumsum(P, out=o)),
    "reduceat": ((2,), lambda o: np.subtract.reduceat(K, [0, 2], out=o)),
    "outer": ((4, 4), lambda o: np.outer(K, K, o)), "ufunc.outer": ((4, 4), lambda o: np.hypot.outer(K, K, out=o)),
    "clip": ((2, 2), lambda o: np.clip(P, 1.5, 4.0, out=o)), "round": ((2, 2), lambda o: np.round(P, 1, out=o)),
    "dot": ((2, 2), lambda o: np.dot(P, P, o)), "matmul": ((2, 2), lambda o: np.matmul(P, P, out=o)),
    "einsum": ((2, 2), lambda o: np.einsum("ij,jk", P, P, out=o)), "trace": ((), lambda o: np.trace(P, out=o)),
    "take": ((2,), lambda o: np.take(K, [1, 2], out=o)), "choose": ((4,), lambda o: np.choose(I, [K, 2 * K], out=o)),
    "compress": ((2,), lambda o: np.compress([0, 1, 1, 0], K, out=o)),
    "concatenate": ((4, 2), lambda o: np.concatenate([P, P], out=o)),
    "concatenate, by position": ((2, 4), lambda o: np.concatenate([P, P], 1, o)),
    "stack": ((2, 2, 2), lambda o: np.stack([P, P], out=o)), "modf": ((2, 2), lambda o: np.modf(P, None, o)[1]),
    "sqrt": ((2, 2), lambda o: np.sqrt(P, o)), "sqrt where": ((2, 2), lambda o: np.sqrt(P, out=o, where=P > 2.0)),
    "divmod": ((2, 2), lambda o: np.divmod(P, 2.0, out=(o, None))[0]),
    "irfft": ((4,), lambda o: np.fft.irfft(np.fft.rfft(K), out=o)), "vecdot": ((2,), lambda o: np.vecdot(P, P, out=o)),
    "method dot": ((2, 2), lambda o: P.dot(P, out=o)), "method cumsum": ((2, 2), lambda o: P.cumsum(0, out=o)),
    "method cumprod": ((4,), lambda o: P.cumprod(out=o)), "method clip": ((2, 2), lambda o: P.clip(1.5, 4.0, out=o)),
    "method take": ((2,), lambda o: K.take([1, 2], out=o)), "method round": ((2, 2), lambda o: P.round(1, o)),
    "method trace": ((), lambda o: P.trace(out=o)), "method choose": ((4,), lambda o: I.choose([K, 2 * K], out=o)),
    "method compress": ((2,), lambda o: K.compress([0, 1, 1, 0], out=o)),
}


@pytest.mark.parametrize("name", INTO)
def test_plain_results_into_arrays_that_carry_derivatives(name):
    shape, call = INTO[name]

    def f(x):
        target = np.empty(shape)
        target[...] = x[0]
        given = target[...]
        assert call(given) is given
        return target * x[1]

    check(f, [U])


def test_what_numpy_refuses_to_store():
    def f(x, call):
        call(np.zeros(2))
        return x

    for call in (lambda o: P.argmax(0, out=o), lambda o: np.sum(P, out=o[0]), lambda o: np.sum(P, out=o),
                 lambda o: np.multiply(P, 1j, out=o), lambda o: np.cumsum(K, out=o)):
        with pytest.raises((TypeError, ValueError)):
            f(1.0, call)
        with pytest.raises((TypeError, ValueError)):
            cyad.autodiff(cyad.Forward, lambda x, call=call: f(x, call), cyad.Duplicated(1.0, 1.0))


# Functions of captured arrays that make arrays inside the call and pass them as `out`, or give them their type.
CAPTURED = {
    **{name: (lambda name=name: np.abs(getattr(np.fft, name)(K)).sum()) for name in (
        "fft", "ifft", "rfft", "irfft", "hfft", "ihfft")},
    "fft2": lambda: np.abs(np.fft.fft2(P)).sum(), "qr": lambda: np.abs(np.linalg.qr(P)[1]).sum(),
    "qr complete": lambda: np.abs(np.linalg.qr(P, mode="complete").Q).sum(),
    "lstsq": lambda: np.linalg.lstsq(P, K[:2], rcond=None)[0].sum(), "svd": lambda: np.linalg.svd(P)[1].sum(),
    "eig": lambda: np.real(np.linalg.eig(P)[0]).sum(), "pinv": lambda: np.linalg.pinv(P).sum(),
    "cond": lambda: np.linalg.cond(P), "matrix_rank": lambda: float(np.linalg.matrix_rank(P)),
    "multi_dot": lambda: np.linalg.multi_dot([P, P, P]).sum(), "unique": lambda: np.unique(P).sum(),
    "ndindex": lambda: sum(P[i] for i in np.ndindex(P.shape)),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_constants_from_captured_arrays(name):
    check(lambda x: x[0] * CAPTURED[name](), [U])
    np.testing.assert_allclose(cyad.hessian(lambda x: x[0] ** 2 * CAPTURED[name](), U)[0, 0], 2 * CAPTURED[name]())
    (nested,) = cyad.gradient(cyad.Reverse, lambda t: cyad.gradient(
        cyad.Reverse, lambda t: t**2 * CAPTURED[name](), t)[0], 0.7)
    np.testing.assert_allclose(nested, 2 * CAPTURED[name]())
