"""Every attribute and method of ndarray and of np.float64, on tracked values: right, or refused with the reason.

The lists are NumPy's own (`dir`): a name that no table here knows fails the test, so that a new NumPy brings its own.
Derivatives are compared with finite differences by the check that all tables share.
"""
import copy
import operator
import pickle

import numpy as np
import pytest
from checks import check

import cyad
from cyad import Active, Duplicated, Forward, Reverse, autodiff

A = np.array([[0.31, -1.22, 0.72, 2.13], [1.41, 0.22, -0.63, -0.94], [0.82, 1.71, -2.23, 0.43]])
V = np.array([0.6, -0.4, 1.3])


def written(method):
    """A method that writes: what it leaves."""
    def f(a, v):
        y = a * 1.0
        method(y, v)
        return y
    return f


# By name: a function of an array of 3 by 4 and one of 3, with a derivative.
ARRAY = {
    "T": lambda a, v: a.T,
    "mT": lambda a, v: a.mT,
    "real": lambda a, v: a.real,
    "imag": lambda a, v: a.imag + a,
    "flat": lambda a, v: a.flat[3:7],
    "clip": lambda a, v: a.clip(-1.0, 1.0),
    "compress": lambda a, v: a.compress([True, False, True], axis=0),
    "conj": lambda a, v: a.conj(),
    "conjugate": lambda a, v: a.conjugate(),
    "copy": lambda a, v: a.copy("F"),
    "cumprod": lambda a, v: a.cumprod(axis=1),
    "cumsum": lambda a, v: a.cumsum(),
    "diagonal": lambda a, v: a.diagonal(1),
    "dot": lambda a, v: v.dot(a),
    "flatten": lambda a, v: a.flatten("F"),
    "item": lambda a, v: a.item(2, 1) * a.item(5),
    "max": lambda a, v: a.max(axis=0),
    "mean": lambda a, v: a.mean(axis=1, keepdims=True),
    "min": lambda a, v: a.min(),
    "prod": lambda a, v: a.prod(axis=0),
    "ravel": lambda a, v: a.ravel(),
    "repeat": lambda a, v: a.repeat(2, axis=1),
    "reshape": lambda a, v: (a.reshape(2, 6), a.reshape((6, -1), order="F")),
    "round": lambda a, v: a.round(1) + a,
    "searchsorted": lambda a, v: v * np.sort(v).searchsorted([0.5, 1.0, 0.0]),
    "squeeze": lambda a, v: a[:, :1].squeeze(1),
    "std": lambda a, v: a.std(axis=1, ddof=1),
    "sum": lambda a, v: a.sum(axis=0),
    "swapaxes": lambda a, v: a.swapaxes(0, 1),
    "take": lambda a, v: a.take([0, 2, 2], axis=1),
    "tolist": lambda a, v: a.tolist()[1],
    "trace": lambda a, v: a.trace(offset=1),
    "transpose": lambda a, v: (a.transpose(), a.transpose(1, 0), a.transpose((0, 1))),
    "var": lambda a, v: a.var(),
    "view": lambda a, v: a.view() * 2.0,
    "astype": lambda a, v: a.astype(np.complex128) * 1j,
    "to_device": lambda a, v: a.to_device("cpu") * 2.0,
    "all": lambda a, v: v * a.all(),
    "any": lambda a, v: v * a.any(axis=0)[:3],
    "argmax": lambda a, v: a[a.argmax(0), np.arange(4)],
    "argmin": lambda a, v: v[a[0].argmin() - 1],
    "argpartition": lambda a, v: a[0][a[0].argpartition(2)[2]],
    "argsort": lambda a, v: v[v.argsort()],
    "choose": lambda a, v: np.choose(a > 0, [a, 2.0 * a]),
    "nonzero": lambda a, v: a[a.nonzero()],
    "fill": written(lambda y, v: y[1].fill(v[2])),
    "put": written(lambda y, v: y.put([1, 4, 7], v)),
    "sort": written(lambda y, v: y.sort(axis=0)),
    "partition": lambda a, v: [(y := v * 1.0).partition(1), y[1]][1],
    "__abs__": lambda a, v: abs(a),
    "__add__": lambda a, v: a + a[0],
    "__radd__": lambda a, v: np.ones(4) + a,
    "__sub__": lambda a, v: a - 2,
    "__rsub__": lambda a, v: [1.0, 2.0, 3.0] - v,
    "__mul__": lambda a, v: a * v[:, None],
    "__rmul__": lambda a, v: 3 * a,
    "__truediv__": lambda a, v: a / v[:, None],
    "__rtruediv__": lambda a, v: 2.0 / a,
    "__floordiv__": lambda a, v: a // 0.25 + a,
    "__rfloordiv__": lambda a, v: 7.0 // a + a,
    "__mod__": lambda a, v: a % 0.35,
    "__rmod__": lambda a, v: 7.3 % a,
    "__divmod__": lambda a, v: divmod(a, 0.35),
    "__rdivmod__": lambda a, v: divmod(7.3, a),
    "__pow__": lambda a, v: (a**2, a**3, abs(a)**v[:, None]),
    "__rpow__": lambda a, v: 2.0**a,
    "__matmul__": lambda a, v: v @ a,
    "__rmatmul__": lambda a, v: np.ones((2, 3)) @ a,
    "__neg__": lambda a, v: -a,
    "__pos__": lambda a, v: +a,
    "__iadd__": written(lambda y, v: operator.iadd(y, y[0])),
    "__isub__": written(lambda y, v: operator.isub(y, v[:, None])),
    "__imul__": written(lambda y, v: operator.imul(y, v[1])),
    "__itruediv__": written(lambda y, v: operator.itruediv(y, v[:, None])),
    "__ifloordiv__": written(lambda y, v: operator.ifloordiv(y[1:], 0.3)),
    "__imod__": written(lambda y, v: operator.imod(y, 0.35)),
    "__ipow__": written(lambda y, v: operator.ipow(y, 3)),
    "__imatmul__": written(lambda y, v: operator.imatmul(y[:, :3], np.arange(9.0).reshape(3, 3))),
    "__getitem__": lambda a, v: a[1:, ::2],
    "__setitem__": written(lambda y, v: operator.setitem(y, (slice(None), 1), v)),
    "__iter__": lambda a, v: [row * 2.0 for row in a][1],
    "__copy__": lambda a, v: copy.copy(a) * a,
    "__deepcopy__": lambda a, v: copy.deepcopy({"a": a})["a"] * a,
    "__array_ufunc__": lambda a, v: np.add.reduce(a, axis=0),
    "__array_function__": lambda a, v: np.sum(a),
    "__array_namespace__": lambda a, v: a.__array_namespace__().sin(a),
}

# Without a derivative: what they give is what a plain array gives.
SAME = {
    "shape": lambda a: a.shape, "ndim": lambda a: a.ndim, "size": lambda a: a.size, "dtype": lambda a: a.dtype,
    "strides": lambda a: a.T.strides, "itemsize": lambda a: a.itemsize, "nbytes": lambda a: a.nbytes,
    "device": lambda a: a.device, "flags": lambda a: (a.flags.c_contiguous, a.T.flags.c_contiguous, a.flags.writeable),
    "__len__": len, "__repr__": lambda a: "0.31" in repr(a), "__str__": str, "__format__": lambda a: f"{a[0, 0]:.3f}",
    "__contains__": lambda a: (0.31 in a, 5.0 in a), "__eq__": lambda a: a == 0.31, "__ne__": lambda a: a != a[0],
    "__lt__": lambda a: a < 0.3, "__le__": lambda a: a <= a[1], "__gt__": lambda a: 0.3 > a, "__ge__": lambda a: a >= 0,
    "__bool__": lambda a: bool(a[:1, :1]), "__int__": lambda a: int(a[:1, 3:].reshape(())),
    "__class__": lambda a: (isinstance(a, np.ndarray), a.__class__ is np.ndarray),
    "__hash__": lambda a: _raised(TypeError, hash, a), "__index__": lambda a: _raised(TypeError, operator.index, a),
    "__delitem__": lambda a: _raised(ValueError, operator.delitem, a, 0),
    "setflags": lambda a: [(y := a * 1.0).setflags(write=False), _raised(ValueError, operator.setitem, y, 0, 1.0)][1],
    **{name: (lambda a, name=name: _raised(TypeError, getattr(operator, name), a, 1)) for name in (
        "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "__ixor__", "__ilshift__",
        "__irshift__")},
    **{f"__r{name}__": (lambda a, name=name: _raised(TypeError, getattr(operator, f"__{name}__"), 1, a))
       for name in ("and", "or", "xor", "lshift", "rshift")},
    "__invert__": lambda a: _raised(TypeError, operator.invert, a),
}

# Would lose the derivative, or go behind its back: an error of ours that says so.
REFUSED = {
    "__float__": lambda a: float(a[:1, :1].reshape(())), "__complex__": lambda a: complex(a[:1, :1].reshape(())),
    "__array__": lambda a: a.__array__(), "__array_interface__": lambda a: a.__array_interface__,
    "__buffer__": memoryview,
    "__reduce__": pickle.dumps, "__reduce_ex__": lambda a: pickle.dumps(a, 5), "data": lambda a: a.data,
    "ctypes": lambda a: a.ctypes.data, "tobytes": lambda a: a.tobytes(), "tofile": lambda a: a.tofile("/dev/null"),
    "dump": lambda a: a.dump("/dev/null"), "dumps": lambda a: a.dumps(), "byteswap": lambda a: a.byteswap(),
    "getfield": lambda a: a.getfield(np.float64), "setfield": lambda a: a.setfield(0.0, np.float64),
    "resize": lambda a: a.resize(12), "view": lambda a: a.view(np.int64), "dtype": lambda a: setattr(a, "dtype", "i8"),
    "shape": lambda a: setattr(a, "shape", (12,)),
}

# Protocols that tracked values do not take part in: hasattr says no, so that others take another way.
ABSENT = {"__array_finalize__", "__array_struct__", "__array_wrap__", "__class_getitem__", "__dlpack__",
          "__dlpack_device__", "__setstate__", "__getformat__", "__getnewargs__"}
if hasattr(np.ndarray, "tostring"):
    REFUSED["tostring"] = lambda a: a.tostring()
else:
    ABSENT.add("tostring")   # which numbers of NumPy 2.3 have, but cannot call

# Of no meaning to derivatives; the last two are how NumPy 2.5 assigns shape and dtype inside.
OTHER = {"base", "__array_priority__", "_set_shape", "_set_dtype"}


def _raised(kind, function, *args):
    try:
        function(*args)
    except kind:
        return kind.__name__
    return "nothing raised"


def names_of(value):
    """Those of its class, but for some that NumPy had taken away and still listed before version 2.4."""
    there = {n for n in dir(value) if hasattr(value, n)}
    return there - set(dir(object)) | {n for n in ("__eq__", "__ne__", "__repr__", "__str__", "__hash__")}


def test_every_name_of_an_array_is_in_a_table():
    known = set(ARRAY) | set(SAME) | set(REFUSED) | ABSENT | OTHER
    assert names_of(A) <= known, sorted(names_of(A) - known)


@pytest.mark.parametrize("name", ARRAY)
def test_arrays(name):
    check(ARRAY[name], [A, V])


def in_both_modes(f, x):
    """What f returns for a tracked argument, in each mode; it has no derivative."""
    seen = []
    for mode, activity in ((Forward, ()), (Reverse, (cyad.Const,))):
        autodiff(mode, lambda x: seen.append(f(x)), *activity, Duplicated(x.copy(), np.ones(x.shape)))
    return seen


@pytest.mark.parametrize("name", SAME)
def test_what_arrays_say_of_themselves(name):
    want = SAME[name](A)
    for got in in_both_modes(SAME[name], A):
        np.testing.assert_array_equal(got, want)
        assert type(got) is type(want)


@pytest.mark.parametrize("name", REFUSED)
def test_what_arrays_refuse(name):
    for mode, activity in ((Forward, ()), (Reverse, (cyad.Const,))):
        with pytest.raises(cyad.ADError, match="derivative|shape|dtype|type"):
            autodiff(mode, lambda x: (REFUSED[name](x), None)[1], *activity, Duplicated(A.copy(), np.ones_like(A)))


def test_protocols_that_arrays_and_numbers_do_not_know():
    in_both_modes(lambda a: [pytest.fail(n) for n in ABSENT if hasattr(a, n) or hasattr(a[0, 0], n)], A)
    for name in ABSENT & (set(dir(np.ndarray)) | set(dir(np.float64))):
        in_both_modes(lambda a, name=name: _raised(AttributeError, getattr, a, name) == "AttributeError", A)


def test_memory_of_inactive_arrays_is_given():
    """Arrays made inside that hold no active value are as plain as any."""
    def f(x):
        z = np.arange(3.0)
        assert z.tobytes() == np.arange(3.0).tobytes() and z.base is None
        assert bytes(memoryview(np.arange(3.0))) == z.tobytes()
        assert np.frombuffer(z.data)[1] == 1.0 and z.ctypes.data and z.__array_interface__["shape"] == (3,)
        assert z.view(np.int64).dtype == np.int64 and float(z[1]) == 1.0
        return x[0, 0] * 1.0

    autodiff(Forward, f, Duplicated(A.copy(), np.ones_like(A)))
    autodiff(Reverse, f, Active, Duplicated(A.copy(), np.ones_like(A)))


def test_a_lock_holds_for_the_program_and_not_for_the_sweep():
    def f(x):
        y = x * x
        x[0] = 0.0
        x.setflags(write=False)
        return np.sum(y * y)

    x, shadow = V.copy(), np.zeros(3)
    autodiff(Reverse, f, Active, Duplicated(x, shadow))
    np.testing.assert_allclose(shadow, 4 * V**3)
    assert not x.flags.writeable and x[0] == 0.0 and x[1] == V[1]


# ---- the shape, assigned ---------------------------------------------------------------------------------------------

# A function of an array of 3 by 4 in which some array gets another shape. NumPy 2.5 would rather not have it assigned.
GIVEN_A_SHAPE = {
    "which the tape refers to": lambda a, y: [np.sum(y * y), setattr(y, "shape", (4, 3)), np.sum(y * a.reshape(4, 3))],
    "of zeros": lambda a, y: [z := np.zeros(12), setattr(z, "shape", (3, -1)), z.__setitem__(..., a * y), z],
    "a view": lambda a, y: [z := y[1:], setattr(z, "shape", 8), z.__setitem__(slice(0, 8, 3), a[0, :3]), y * y],
    "a view of the argument": lambda a, y: [z := a[:], setattr(z, "shape", -1), z[3:7] ** 2, a.shape],
    "viewed before": lambda a, y: [z := y[0], setattr(y, "shape", (2, 6)), y.__imul__(y), z],
    "then written": lambda a, y: [y * y, setattr(y, "shape", (6, 2)), y.__setitem__(([0, 0, 5], 1), a[1, :3]), y**2],
    "twice": lambda a, y: [y.sum(0) * y, setattr(y, "shape", 12), setattr(y, "shape", (2, 2, 3)), y.sum(1) * y[1, 0]],
    "no axes": lambda a, y: [z := np.sum(y, keepdims=True), setattr(z, "shape", ()), z * a],
    "an axis of one": lambda a, y: [z := (a * y).T, setattr(z, "shape", (4, 1, 3)), z * z],
}


def reshaped(name):
    def f(a):
        return [v for v in GIVEN_A_SHAPE[name](a, np.sin(a)) if isinstance(v, (np.ndarray, float))]
    return f


@pytest.mark.filterwarnings("ignore:Setting the shape")
@pytest.mark.parametrize("name", GIVEN_A_SHAPE)
def test_arrays_of_other_shapes(name):
    check(reshaped(name), [A], strict=False)

    def loss(x):
        return sum([np.sum(np.exp(0.3 * v)) for v in reshaped(name)(x)])

    def slope(x, mode):
        return np.sum(cyad.gradient(mode, loss, x)[0] * A)
    want = (slope(A + 1e-5 * A, Reverse) - slope(A - 1e-5 * A, Reverse)) / 2e-5
    for inner in (Forward, Reverse):
        for outer in (Forward, Reverse):
            (got,) = cyad.gradient(outer, lambda x, inner=inner: slope(x, inner), A)
            np.testing.assert_allclose(np.sum(got * A), want, rtol=1e-7)
    np.testing.assert_allclose(np.sum(cyad.hvp(loss, A, A) * A), want, rtol=1e-7)


@pytest.mark.filterwarnings("ignore:Setting the shape")
@pytest.mark.parametrize(("shape", "make"), [
    ((5, 3), lambda a: a * 1.0), ((-1, -1), lambda a: a * 1.0), (12, lambda a: (a * 1.0).T), (9, lambda a: a[:, 1:]),
    ((1,), lambda a: a[0, 0] * 1.0), ("x", lambda a: a * 1.0)],
    ids=["size", "two unknown", "transposed", "with gaps", "of a number", "text"])
def test_shapes_that_numpy_refuses(shape, make):
    with pytest.raises((AttributeError, TypeError, ValueError)) as plain:
        make(A).shape = shape
    in_both_modes(lambda a: pytest.raises(plain.type, setattr, make(a), "shape", shape), A)
    in_both_modes(lambda a: in_both_modes(lambda b: pytest.raises(plain.type, setattr, make(b), "shape", shape), a), A)


def test_arguments_keep_their_shape():
    """Which the caller would see change."""
    def f(*arrays):
        for a in arrays:
            with pytest.raises(cyad.ADError, match="shape of an argument"):
                a.shape = -1
        return sum([np.sum(a * a) for a in arrays])

    whole = A.copy()
    for x in ((A,), (whole, whole[:2]), (whole[::2], A.copy()), (np.asfortranarray(A),)):
        for mode in (Forward, Reverse):
            cyad.gradient(mode, f, *x)
            cyad.gradient(mode, lambda *x: np.sum(cyad.gradient(Reverse, f, *x)[0]), *x)
            cyad.gradient(mode, lambda *x: np.sum(cyad.gradient(Forward, f, *x)[0]), *x)
        cyad.gradient(Reverse, lambda s, x=x: f(*s), list(x))
        cyad.vjp(f, *x)
        cyad.jvp(f, x, x)
    cyad.hessian(f, A)
    cyad.hvp(f, A, A)
    cyad.jacobian(Reverse, f, A)
    autodiff(Reverse, f, Active, Duplicated(A.copy(), np.zeros_like(A)), cyad.Const(A.copy()))
    autodiff(Forward, f, cyad.BatchDuplicated(A.copy(), (A.copy(), A.copy())), cyad.Const(A.copy()))
    forward, reverse = cyad.autodiff_thunk(cyad.ReverseSplitWithPrimal, f, Active)
    forward(Duplicated(A.copy(), np.zeros_like(A)))


# ---- numbers ---------------------------------------------------------------------------------------------------------

# By name: a function of a number (in two kinds: an argument, an element of an array), with a derivative.
NUMBER = {
    "T": lambda s: s.T, "real": lambda s: s.real, "imag": lambda s: s.imag + s, "flat": lambda s: s.flat[0] * s,
    "clip": lambda s: s.clip(-1.0, 1.0), "compress": lambda s: s.compress([True]), "conj": lambda s: s.conj(),
    "conjugate": lambda s: s.conjugate(), "copy": lambda s: s.copy(), "cumprod": lambda s: s.cumprod(),
    "cumsum": lambda s: s.cumsum(), "flatten": lambda s: s.flatten(), "item": lambda s: s.item() * s,
    "max": lambda s: s.max(), "mean": lambda s: s.mean(), "min": lambda s: s.min(), "prod": lambda s: s.prod(),
    "ravel": lambda s: s.ravel(), "repeat": lambda s: s.repeat(3), "reshape": lambda s: s.reshape(1, 1),
    "round": lambda s: s.round(1) + s, "searchsorted": lambda s: s * 2.0, "squeeze": lambda s: s.squeeze(),
    "std": lambda s: s.std() + s, "sum": lambda s: s.sum(), "take": lambda s: s.take([0, 0]),
    "tolist": lambda s: s.tolist() * 2.0, "transpose": lambda s: s.transpose(), "var": lambda s: s.var() + s,
    "view": lambda s: s.view() * s, "astype": lambda s: s.astype(np.complex128) * 1j,
    "to_device": lambda s: s.to_device("cpu") * s, "all": lambda s: s * s.all(), "any": lambda s: s * s.any(),
    "argmax": lambda s: s * s.argmax(), "argmin": lambda s: s + s.argmin(), "argsort": lambda s: s * (1 + s.argsort()),
    "__abs__": abs, "__add__": lambda s: s + 1, "__radd__": lambda s: np.ones(2) + s, "__sub__": lambda s: s - 2.0,
    "__rsub__": lambda s: 1 - s, "__mul__": lambda s: s * s, "__rmul__": lambda s: np.float64(2.0) * s,
    "__truediv__": lambda s: s / 3, "__rtruediv__": lambda s: 3.0 / s, "__floordiv__": lambda s: s // 0.2 + s,
    "__rfloordiv__": lambda s: 2.0 // s + s, "__mod__": lambda s: s % 0.2, "__rmod__": lambda s: 7.3 % s,
    "__divmod__": lambda s: divmod(s, 0.2)[1], "__rdivmod__": lambda s: divmod(7.3, s)[1], "__pow__": lambda s: s**2,
    "__rpow__": lambda s: 2**s, "__neg__": lambda s: -s, "__pos__": lambda s: +s,
    "__copy__": lambda s: copy.copy(s) * s,
    "__deepcopy__": lambda s: copy.deepcopy([s])[0] * s, "__getitem__": lambda s: s[()] * s,
    "__array_namespace__": lambda s: np.sin(s),
}

# np.float64's, but not float's: a Python number that is an argument has not these either, an element of an array has.
NUMBER_SAME = {
    "shape": lambda s: s.shape, "ndim": lambda s: s.ndim, "size": lambda s: s.size, "dtype": lambda s: s.dtype,
    "strides": lambda s: s.strides, "itemsize": lambda s: s.itemsize, "nbytes": lambda s: s.nbytes,
    "base": lambda s: s.base, "device": lambda s: s.device, "flags": lambda s: s.flags.c_contiguous,
    "nonzero": lambda s: _raised(ValueError, s.nonzero), "diagonal": lambda s: _raised(ValueError, s.diagonal),
    "trace": lambda s: _raised(ValueError, s.trace), "swapaxes": lambda s: _raised(ValueError, s.swapaxes, 0, 1),
    "sort": lambda s: _raised(ValueError, s.sort),
    "is_integer": lambda s: s.is_integer(), "fromhex": lambda s: s.fromhex("0x1p0"), "from_number": lambda s: 1.0,
    "__repr__": lambda s: len(repr(s)) > 2, "__str__": str, "__format__": lambda s: f"{s:.3f}",
    "__eq__": lambda s: s == 0.7,
    "__ne__": lambda s: s != 0.7, "__lt__": lambda s: s < 1, "__le__": lambda s: s <= 0.7, "__gt__": lambda s: s > 0.0,
    "__ge__": lambda s: s >= 1, "__bool__": bool, "__int__": int, "__round__": round,
    "__trunc__": lambda s: s.__trunc__(),
    "__floor__": lambda s: s.__floor__(), "__ceil__": lambda s: s.__ceil__(), "__hash__": lambda s: hash(s) == hash(s),
    **{name: (lambda s, name=name: _raised(TypeError, getattr(operator, name), s, 1)) for name in (
        "__and__", "__or__", "__xor__", "__lshift__", "__rshift__")},
    **{f"__r{name}__": (lambda s, name=name: _raised(TypeError, getattr(operator, f"__{name}__"), 1, s))
       for name in ("and", "or", "xor", "lshift", "rshift")},
    "__invert__": lambda s: _raised(TypeError, operator.invert, s),
}

NUMBER_REFUSED = {
    "__float__": float, "__complex__": complex, "__reduce__": pickle.dumps,
    "__reduce_ex__": lambda s: pickle.dumps(s, 5),
    "data": lambda s: s.data, "tobytes": lambda s: s.tobytes(), "tofile": lambda s: s.tofile("/dev/null"),
    "dump": lambda s: s.dump("/dev/null"), "dumps": lambda s: s.dumps(), "byteswap": lambda s: s.byteswap(),
    "getfield": lambda s: s.getfield(np.float64), "setfield": lambda s: s.setfield(0.0, np.float64),
    "resize": lambda s: s.resize(1), "view": lambda s: s.view(np.int64),
    "as_integer_ratio": lambda s: s.as_integer_ratio(),
    "hex": lambda s: s.hex(), "fill": lambda s: s.fill(1.0), "put": lambda s: s.put(0, 1.0),
    "setflags": lambda s: s.setflags(write=False), "choose": lambda s: s.choose([1.0]),
}

if hasattr(np.ndarray, "tostring"):
    NUMBER_REFUSED["tostring"] = lambda s: s.tostring()
# np.float64 has to_device and device from NumPy 2.1 on.
NUMBER = {name: f for name, f in NUMBER.items() if hasattr(np.float64, name)}
NUMBER_SAME = {name: f for name, f in NUMBER_SAME.items() if hasattr(np.float64, name)}

# What numbers must not have: NumPy would turn them into plain ones by these (np.array([s, s], dtype=object)).
NUMBER_ABSENT = ABSENT | {"__array__", "__array_interface__", "__buffer__"}


def test_every_name_of_a_number_is_in_a_table():
    known = set(NUMBER) | set(NUMBER_SAME) | set(NUMBER_REFUSED) | NUMBER_ABSENT | OTHER
    assert names_of(np.float64(0.7)) <= known, sorted(names_of(np.float64(0.7)) - known)


@pytest.mark.parametrize("name", NUMBER)
def test_numbers(name):
    check(lambda v: NUMBER[name](v[0]), [np.array([0.7])])
    check(lambda v: NUMBER[name](np.tanh(v[0]) + v[1]), [np.array([0.7, 0.4])])


@pytest.mark.filterwarnings("ignore:Calling nonzero on 0d")
@pytest.mark.parametrize("name", NUMBER_SAME)
def test_what_numbers_say_of_themselves(name):
    for value in (0.7, -1.3, 2.0):
        want = NUMBER_SAME[name](np.float64(value))
        for got in in_both_modes(lambda v: NUMBER_SAME[name](v[0]), np.array([value])):
            assert got == want and type(got) is type(want)


@pytest.mark.parametrize("name", NUMBER_REFUSED)
def test_what_numbers_refuse(name):
    for mode, activity in ((Forward, ()), (Reverse, (cyad.Const,))):
        with pytest.raises(cyad.ADError, match="derivative|in place"):
            autodiff(mode, lambda v: (NUMBER_REFUSED[name](v[0]), None)[1], *activity,
                     Duplicated(np.array([0.7]), np.ones(1)))


def test_numbers_have_no_way_to_become_plain():
    def look(v):
        for number in (v[0], v[0] + 1j * v[1]):
            assert [name for name in NUMBER_ABSENT if hasattr(number, name)] == []

    in_both_modes(look, V)
    in_both_modes(lambda v: in_both_modes(look, v), V)


@pytest.mark.parametrize("name", ["sin", "exp", "sqrt", "square", "tanh", "log1p", "negative", "absolute"])
def test_ufuncs_of_arrays_of_objects(name):
    """np.sin of an array of objects calls the method sin of each, which plain numbers have not."""
    ufunc = getattr(np, name)

    def of_objects(v):
        objects = np.array([v[0], v[1]], dtype=object)
        out = ufunc(objects)
        return out[0] * out[1] + objects.sum()

    def direct(v):
        return ufunc(v[0]) * ufunc(v[1]) + (v[0] + v[1])

    v = np.array([0.7, 1.4])
    for mode in (Forward, Reverse):
        np.testing.assert_allclose(cyad.gradient(mode, of_objects, v), cyad.gradient(mode, direct, v), rtol=1e-14)


def test_truth_values_are_those_of_numpy():
    """Of elements NumPy's, which `~` inverts; of two Python numbers Python's."""
    def f(v, s):
        assert type(v[0] < 1.0) is type(v[0] < s) is np.bool_ and type(s < 1.0) is bool
        return v[0] if ~(v[0] < s) else 3.0 * v[1] + s

    for mode in (Forward, Reverse):
        assert cyad.gradient(mode, f, V, 1.0)[1] == 1.0


def through_base(x):
    y = x * 2.0
    view = y[1:][1:]
    view.base[2] = 7.0
    view.base[3] *= x[0]
    return np.sum(view) + view.base.size


BASES = {   # what is read and written through .base
    "read": lambda x: np.sum(x[1:].base ** 2), "written": through_base,
    "reshaped": lambda x: np.sum((x * 1.0).reshape(2, 2).T.base[1:] ** 3),
    "real": lambda x: np.sum(((x * (1 + 2j)).real.base.imag) ** 2),
    "of an owner": lambda x: np.sum(x) if (x * 1.0).base is None else x[0],
    "of a number": lambda x: x[0] * 3 if x[0].base is None else x[1],
}


@pytest.mark.parametrize("name", BASES)
def test_base_is_tracked(name):
    check(BASES[name], [np.array([0.3, 1.2, -0.7, 0.4])])


def test_base_of_a_part_of_an_array():
    whole = np.arange(4.0)
    for mode in (Forward, Reverse):
        with pytest.raises(cyad.ADError, match="larger array"):
            cyad.gradient(mode, lambda x: np.sum(x.base), whole[1:])
    seen = []
    autodiff(Forward, lambda x, y: (seen.append(x.base), y)[1], cyad.Const(whole[1:]), Duplicated(1.0, 1.0))
    assert seen[0] is whole
