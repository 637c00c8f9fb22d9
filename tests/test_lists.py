"""Lists of tracked numbers as arrays, Python functions over arrays, and other calls that NumPy's dispatch never sees.

`np.mean([x[0], x[1]])` looks for __array_function__ on the list, not in it. The oracle is the plain call, differenced.
"""
import math
import statistics

import numpy as np
import pytest
from checks import check
from scipy import linalg

import cyad
from cyad import Forward, Reverse, gradient

X = np.array([0.31, -1.22, 0.72, 1.4])
M = np.array([[0.3, 1.2], [2.2, 0.4]])

LISTS = {
    "mean": lambda x: np.mean([x[0], x[1]]), "mean of rows": lambda x: np.mean([[x[0], x[1]], [x[2], 1.0]], axis=0),
    "sum": lambda x: np.sum([x[0], x[1], 3]), "sum of a tuple": lambda x: np.sum((x[0], x[1])),
    "max": lambda x: np.max([x[0], x[1]]), "min": lambda x: np.min([[x[0]], [x[3]]], axis=0, keepdims=True),
    "prod": lambda x: np.prod([x[0], x[1], 2.0]), "var": lambda x: np.var([x[0], x[1], 3.0], ddof=1),
    "std": lambda x: np.std([x[0], x[1], 3.0]), "median": lambda x: np.median([x[0], x[1], x[2]]),
    "percentile": lambda x: np.percentile([x[0], x[1], x[2]], 30.0), "average": lambda x: np.average(
        [x[0], x[1]], weights=[x[3], 2.0]), "cumsum": lambda x: np.cumsum([x[0], x[1]]),
    "diff": lambda x: np.diff([x[0], x[1], x[2]]), "sort": lambda x: np.sort([x[0], x[1], x[2]]),
    "dot": lambda x: np.dot([x[0], x[1]], [x[2], 2.0]), "inner": lambda x: np.inner([x[0], x[1]], [1, 2]),
    "outer": lambda x: np.outer([x[0], x[1]], [1.0, x[2]]), "vdot": lambda x: np.vdot([x[0], x[1]], [x[1], x[0]]),
    "cross": lambda x: np.cross([x[0], x[1], 0.0], [1.0, x[2], 2.0]), "kron": lambda x: np.kron([x[0], x[1]], [1, 2]),
    "matmul": lambda x: np.matmul([[x[0], x[1]], [1.0, 2.0]], [1.0, x[2]]), "trace": lambda x: np.trace(
        [[x[0], 1.0], [2.0, x[1]]]), "tensordot": lambda x: np.tensordot([x[0], x[1]], [1.0, 2.0], 1),
    "einsum": lambda x: np.einsum("i,j->ij", [x[0], x[1]], [1, x[2]]), "clip": lambda x: np.clip([x[0], x[1]], -1, 1),
    "where": lambda x: np.where([True, False], [x[0], x[1]], x[2]), "interp": lambda x: np.interp(
        0.5, [0.0, 1.0], [x[0], x[1]]), "polyval": lambda x: np.polyval([x[0], x[1]], x[2]),
    "trapezoid": lambda x: np.trapezoid([x[0], x[1]], [0.0, x[3]]), "stack": lambda x: np.stack([x[0], x[1]]),
    "concatenate": lambda x: np.concatenate([[x[0]], [x[1], 2.0]]), "vstack": lambda x: np.vstack([[x[0]], [x[1]]]),
    "append": lambda x: np.append([1.0], [x[0], x[1]]), "insert": lambda x: np.insert([1.0, 2.0], 1, x[0]),
    "reshape": lambda x: np.reshape([x[0], x[1]], (2, 1)), "transpose": lambda x: np.transpose([[x[0], x[1]]]),
    "roll": lambda x: np.roll([x[0], x[1], 3.0], 1), "repeat": lambda x: np.repeat([x[0], x[1]], 2),
    "tile": lambda x: np.tile([x[0], x[1]], 2), "pad": lambda x: np.pad([x[0], x[1]], 1, mode="edge"),
    "diag": lambda x: np.diag([x[0], x[1]]), "full": lambda x: np.full((2, 2), [x[0], x[1]]),
    "take": lambda x: np.take([x[0], x[1]], [1, 1, 0]),
    "select": lambda x: np.select([[True, False]], [[x[0], x[1]]], x[2]),
    "nan_to_num": lambda x: np.nan_to_num([x[0], x[1]]), "cov": lambda x: np.cov([x[0], x[1], x[2]]),
    "convolve": lambda x: np.convolve([x[0], x[1]], [1.0, x[2]]), "gradient": lambda x: np.gradient([x[0], x[1], x[2]]),
    "norm": lambda x: np.linalg.norm([x[0], x[1]]), "det": lambda x: np.linalg.det([[x[0], x[1]], [1.0, x[2]]]),
    "inv": lambda x: np.linalg.inv([[x[0], x[1]], [1.0, x[2]]]), "solve": lambda x: np.linalg.solve(
        [[x[0], x[1]], [1.0, x[2]]], [1.0, x[3]]), "fft": lambda x: np.abs(np.fft.fft([x[0], x[1], 1.0])),
    "exp": lambda x: np.exp([x[0], x[1]]), "add": lambda x: np.add([x[0], x[1]], [1, x[2]]),
    "add.reduce": lambda x: np.add.reduce([x[0], x[1]]), "maximum.reduce": lambda x: np.maximum.reduce([x[0], x[1]]),
    "an operator": lambda x: np.ones(2) * [x[0], x[1]], "of arrays": lambda x: np.mean([x, 2.0 * x], axis=0),
    "as a keyword": lambda x: np.sum(a=[x[0], x[1]], axis=0), "out": lambda x: np.cumsum([x[0], x[1]], out=np.zeros(2)),
    "argmax": lambda x: x[np.argmax([x[0], x[1], x[2]])], "argsort": lambda x: x[np.argsort([x[0], x[1]])],
    "allclose": lambda x: x[0] * np.allclose([x[0]], [x[0]]), "shape": lambda x: x[0] * np.shape([x[0], x[1]])[0],
    "fsum": lambda x: math.fsum([x[0], x[1]]), "math.prod": lambda x: math.prod([x[0], x[1]]),
    "statistics.median": lambda x: statistics.median([x[0], x[1], x[2]]), "sorted": lambda x: sorted(x)[1],
    "of lists of lists": lambda x: np.sum([[[x[0]], [x[1]]], [[x[2]], [0.0]]], axis=(0, 2)),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_arrays(name):
    check(LISTS[name], [X])


@pytest.mark.parametrize("name", ["mean", "dot", "det", "interp", "cumsum", "sort"])
def test_lists_nested(name):
    check_nested(LISTS[name])


def check_nested(function):
    """Second derivatives: the gradient of a gradient against differences of the gradient."""
    def f(x):
        out = function(1.0 * x)
        return sum([np.sum(part) for part in (out if isinstance(out, (tuple, list)) else [out])]) ** 2

    step = np.array([0.3, -0.2, 0.5, 0.1]) * 1e-5
    for inner in (Forward, Reverse):
        def slope(x, inner=inner):
            return gradient(inner, f, x)[0] @ np.arange(1.0, 5.0)
        for mode in (Forward, Reverse):
            (g,) = gradient(mode, slope, X)
            assert g @ step == pytest.approx(0.5 * (slope(X + step) - slope(X - step)), rel=1e-6, abs=1e-10)


def of_objects(x):
    """Numbers that carry derivatives in arrays of objects, which np.array, a store and NumPy's own code make."""
    a, b = np.array([x[0], x[1]], dtype=object), np.empty((2, 2), dtype=object)
    b[0, 0], b[0, 1], b[1] = x[2], 1.0, (x[0] * x[3], 2.0)
    return (b @ a).sum() * (a * a)[0] + np.add.reduce(b.astype(float), axis=None)


CALLS = {
    "vectorize": lambda x: np.vectorize(lambda t, s: t * t + s)(x, 2.0),
    "vectorize, a branch": lambda x: np.vectorize(lambda t: math.sin(t) if t > 0 else 3.0 * t)(x.reshape(2, 2)),
    "vectorize, types": lambda x: np.vectorize(lambda t: (t * t, -t), otypes=[float, float])(x),
    "frompyfunc": lambda x: np.frompyfunc(lambda t, s: t * s, 2, 1)(x, x[::-1]).astype(float),
    "frompyfunc.reduce": lambda x: np.frompyfunc(lambda t, s: t * s, 2, 1)(x, 2.0).sum(),
    "piecewise": lambda x: np.piecewise(x, [x < 0, x >= 0.5], [lambda t: t * t, lambda t: 3.0 * t, 0.25]),
    "apply_along_axis": lambda x: np.apply_along_axis(lambda row: row * row.sum(), 1, x.reshape(2, 2)),
    "apply_over_axes": lambda x: np.apply_over_axes(np.sum, x.reshape(2, 2), [0, 1]),
    "fromfunction": lambda x: np.fromfunction(lambda i, j: x[0] * i + x[1] * j, (2, 3)),
    "fromiter": lambda x: np.fromiter((v * v for v in x), float),
    "ndenumerate": lambda x: sum([(i + 2 * j) * v * v for (i, j), v in np.ndenumerate(x.reshape(2, 2))]),
    "ndindex": lambda x: sum([x[i] ** 2 for i in np.ndindex(x.shape)]),
    "flat, next": lambda x: [f := x.flat, next(f), f.coords[0] * next(f)][2],
    "flat, coords": lambda x: [(f.coords[0] + 2 * f.coords[1]) * v for f in [x.reshape(2, 2).T.flat] for v in f],
    "arrays of objects": of_objects,
    "an array of complex objects": lambda x: np.array([x[0] + 1j * x[1], x[2]], dtype=object).prod().imag,
    "objects": lambda x: x.astype(object)[::2].sum() + np.asarray(x, dtype=object)[1] ** 2,
    "objects to floats": lambda x: np.array(x.astype(object) * 2.0, dtype=float),
    "float64": lambda x: np.float64(x[0]) * np.float64(x)[1:],
    "complex128": lambda x: np.abs(np.complex128(x[0]) * 1j + x),
    "copy modes": lambda x: (np.array(x, copy=np._CopyMode.IF_NEEDED), np.array(x, copy=np._CopyMode.ALWAYS) * x,
                             np.array(x, copy=np._CopyMode.NEVER)),
}


@pytest.mark.parametrize("name", CALLS)
def test_python_functions_over_arrays(name):
    def f(x):
        out = CALLS[name](x)
        return np.sum(out) if isinstance(out, np.ndarray) and out.dtype == object else out
    check(f, [X])


@pytest.mark.parametrize("name", CALLS)
def test_python_functions_over_arrays_nested(name):
    check_nested(CALLS[name])


def test_float32_of_a_number():
    def f(x):
        y = np.float32(x[0]) * np.float32(2.0)
        assert y.dtype == np.float32
        return y
    assert [gradient(mode, f, X)[0][0] for mode in (Forward, Reverse)] == [2.0, 2.0]


STORE = np.zeros(4)


def keep(value):
    STORE[0] = value


REFUSED = {
    "nditer": (lambda x: sum(np.nditer(x)), "np.nditer .* x.flat"),
    "nditer of a list": (lambda x: sum(a * b for a, b in np.nditer([x, X])), "np.nditer .* x.flat"),
    "as_strided": (lambda x: np.lib.stride_tricks.as_strided(x, (2, 2), (8, 8)).sum(), "as_strided"),
    "masked_array": (lambda x: np.ma.masked_array(x, [True, False, False]).sum(), "np.ma.masked_array .*np\\.where"),
    "a copy in np.ma": (lambda x: np.ma.array(x, copy=True).sum(), "np.ma.masked_array .*np\\.where"),
    "type(x)(x)": (lambda x: type(x[0])(x[1]), r"type\(x\)\(\.\.\.\)"),
    "statistics.mean": (lambda x: statistics.mean([x[0], x[1]]), "as_integer_ratio .* lose"),
    "statistics.pstdev": (lambda x: statistics.pstdev([x[0], x[1]]), "as_integer_ratio .* lose"),
    "a store of a number": (lambda x: keep(x[0]), r"in keep, line \d+ \(STORE\[0\] = value\)"),
    "a store of an array": (lambda x: STORE.__setitem__(slice(None), x), r"in .*lambda.*, line \d+ \(.*STORE"),
    "a store of a list": (lambda x: STORE.__setitem__(slice(2), [x[0], x[1]]), r"line \d+ \(.*STORE"),
    "float": (lambda x: float(x[0]), r"float\(\).* in .*lambda"), "complex": (lambda x: complex(x[0]), r"complex\(\)"),
    "complex of two": (lambda x: complex(x[0], x[1]), r"x \+ 1j\*y"),
    "%": (lambda x: "%.3f".__mod__(x[0]), r"f'\{x:.3f\}'"),
}


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_where(name, mode):
    function, message = REFUSED[name]
    with pytest.raises(cyad.ADError, match=message):
        gradient(mode, function, X)
    assert not STORE.any()


@pytest.mark.parametrize("mode", [Forward, Reverse], ids=["forward", "reverse"])
def test_errors_of_compiled_code_get_a_note(mode):
    """Which knows nothing of tracked arrays, and says so in its own words. Errors that Python code raises get none."""
    with pytest.raises(TypeError) as caught:
        gradient(mode, lambda x: np.sum(linalg.inv(x.reshape(2, 2))), X)
    (note,) = caught.value.__notes__
    assert note.startswith("cyad: compiled code that takes plain arrays only was called in inv, line")

    def refuses(x):
        raise TypeError("no")
    with pytest.raises(TypeError) as caught:
        gradient(mode, refuses, X)
    assert not hasattr(caught.value, "__notes__")


def test_plain_calls_are_numpys_own():
    """Inside a call, with lists of plain numbers; and outside, with anything."""
    def f(x):
        assert np.sort([3.0, 1.0])[0] == 1.0 and np.argmax([1.0, 2.0]) == 1
        return x[0] * 1.0
    gradient(Reverse, f, X)
    kept = []
    gradient(Reverse, lambda x: (kept.append(x[0]), x[0] * 1.0)[1], X)
    with pytest.raises(cyad.EscapedValueError):
        np.mean([kept[0], 1.0])
    for value in (kept, kept[0], [kept]):
        with pytest.raises(cyad.EscapedValueError):
            np.array(value)
