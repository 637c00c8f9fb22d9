"""Creation functions that make arrays which can hold active values, and the redirection of existing code to them.

The functions here are handlers of `_redirect`: they get NumPy's original first. `cyad.numpy` publishes them under
NumPy's names.

Compiled modules (Cython's, above all) must go on getting plain arrays: they take what np.empty returns as an ndarray,
often without a check. They call NumPy through their own globals, so `catch_libraries` gives every extension module a
NumPy whose creation functions are the originals. What such code is given (np.asarray of an inactive tracked array) is
plain memory, what it makes is plain.

Thread safety: the current call is thread-local; libraries are caught under the import lock of `sys.modules`' users,
once each.
"""
import _functools
import _operator
import builtins
import importlib.machinery
import itertools
import math
import sys
import types

import numpy as np
from numpy.testing.overrides import get_overridable_numpy_array_functions

from cyad import _dispatch, _redirect
from cyad._arguments import install_fresh, track
from cyad._context import objects_of, stack_nested
from cyad._dispatch import holds_tracked, is_tracked_value, plain_of
from cyad._inactive import install_compiled
from cyad.errors import MissingRuleError
from cyad.rules import classification

CREATORS = {}   # by NumPy's name: functions for `cyad.numpy`
_handlers = {}


def _creator(function):
    """A creation function that takes the original first; published under its name with NumPy's original bound."""
    name = function.__name__.removeprefix("_")
    original = getattr(np, name)

    def creator(*args, **kwargs):
        return function(original, *args, **kwargs)

    creator.__name__ = name
    creator.__doc__ = original.__doc__
    CREATORS[name] = creator
    _handlers[name] = function
    return function


@_creator
def _zeros(original, *args, **kwargs):
    return track(original(*args, **kwargs))


@_creator
def _empty(original, *args, **kwargs):
    return track(original(*args, **kwargs))


@_creator
def _arange(original, *args, **kwargs):
    if any(map(is_tracked_value, args)):
        # Steps of an active size are numbers like any others: start + step * i.
        start, stop, step = (args + (None, None))[:3]
        if stop is None:
            start, stop = 0.0, start
        step = 1.0 if step is None else step
        count = max(0, math.ceil((plain_of(stop) - plain_of(start)) / plain_of(step)))
        return start + step * original(count)
    return track(original(*args, **kwargs))


@_creator
def _fromiter(original, iter, dtype, count=-1, **kwargs):
    items = list(iter if count < 0 else itertools.islice(iter, count))
    if holds_tracked(items) and len(items) >= count:
        return stack_nested(items, np.dtype(dtype))
    return track(original(items, dtype, count, **kwargs))


@_creator
def _empty_like(original, *args, **kwargs):
    return track(original(*args, **kwargs))


_COPY_MODES = {np._CopyMode.ALWAYS: True, np._CopyMode.NEVER: False, np._CopyMode.IF_NEEDED: None}


def _converted(original, obj, dtype, copy, order, ndmin=0, **kwargs):
    """Tracked values, or lists that hold some, as a tracked array; None for anything else."""
    if dtype is not None and np.dtype(dtype).hasobject:
        return objects_of(obj) if is_tracked_value(obj) else None
    copy = _COPY_MODES.get(copy, copy)
    if type(obj) is np.ndarray and obj.dtype.hasobject and dtype is not None and holds_tracked(obj.tolist()):
        obj = obj.tolist()
    if is_tracked_value(obj):
        # A number becomes an array without axes.
        out = stack_nested([obj], None)[0:1].reshape(()) if not isinstance(obj, np.ndarray) else obj
        fresh = out is not obj
        if dtype is not None and np.dtype(dtype) != out.dtype:
            out, fresh = out.astype(dtype), True
        if copy and not fresh:
            out = out.copy(order="K" if order is None else order)
    elif isinstance(obj, (list, tuple)) and holds_tracked(obj):
        try:
            out = stack_nested(obj, dtype)
        except RecursionError:
            return None   # a list that holds itself: NumPy says that it is no array
    elif hasattr(type(obj), "__array__") and not isinstance(obj, (np.ndarray, np.generic)):
        out = obj.__array__()
        return _converted(original, out, dtype, copy, order, ndmin) if is_tracked_value(out) else None
    else:
        return None
    return out[(None,) * (ndmin - out.ndim)] if ndmin > out.ndim else out


@_creator
def _array(original, object, dtype=None, *, copy=True, order="K", ndmin=0, **kwargs):
    # NumPy speaks of subclasses where it makes views by tricks (np.broadcast_to, as_strided, np.ma): of plain memory.
    tricks = "subok" in kwargs and not copy
    if tricks and isinstance(object, np.ndarray) and is_tracked_value(object) and not _dispatch.active(object):
        object = object.__array__()
    in_ma = kwargs.get("subok") and sys._getframe(1).f_globals.get("__name__") == "numpy.ma.core"
    if in_ma and _dispatch.active(object):
        # What follows there is ndarray.view(result, MaskedArray), which takes no other type than its own.
        raise MissingRuleError("np.ma.masked_array of active values: masked arrays have no derivative here; keep the "
                               "values and the mask apart (np.where(mask, 0.0, x), np.sum(x, where=~mask), x[~mask])")
    out = _converted(original, object, dtype, copy, order, ndmin)
    if out is not None:
        return out
    out = original(object, dtype, copy=copy, order=order, ndmin=ndmin, **kwargs)
    return out if out is object or tricks else track(out)


def _as_array(original, a, dtype=None, order=None, **kwargs):
    out = _converted(original, a, dtype, kwargs.get("copy"), order)
    if out is not None:
        if order in ("C", "F") and not out.flags[f"{order}_CONTIGUOUS"]:
            out = out.copy(order=order)
        return out
    out = original(a, dtype, order, **kwargs) if order is not None else original(a, dtype, **kwargs)
    return out if out is a else track(out)


@_creator
def _asarray(original, a, dtype=None, order=None, **kwargs):
    return _as_array(original, a, dtype, order, **kwargs)


@_creator
def _asanyarray(original, a, dtype=None, order=None, **kwargs):
    return _as_array(original, a, dtype, order, **kwargs)


def _contiguous(original, a, dtype, order):
    out = _converted(original, a, dtype, None, order, ndmin=1)
    if out is None:
        plain = original(a, dtype)
        return plain if plain is a else track(plain)
    return out if out.flags[f"{order}_CONTIGUOUS"] else out.copy(order=order)


@_creator
def _ascontiguousarray(original, a, dtype=None, **kwargs):
    return _contiguous(original, a, dtype, "C")


@_creator
def _asfortranarray(original, a, dtype=None, **kwargs):
    return _contiguous(original, a, dtype, "F")


def _copy_method(original, self, *args, **kwargs):
    return track(original(self, *args, **kwargs))


def _astype_method(original, self, dtype, *args, **kwargs):
    if self.dtype.hasobject and type(self) is np.ndarray and holds_tracked(self.tolist()):
        if not np.dtype(dtype).hasobject:
            return stack_nested(self.tolist(), dtype)
    out = original(self, dtype, *args, **kwargs)
    return out if out is self else track(out)


def _array_wrap_method(original, self, array, *args):
    # NumPy's functions give results the type of their arguments; those made of captured arrays may be tracked.
    if is_tracked_value(array):
        return array[()] if args and args[-1] is True and array.ndim == 0 else array
    return original(self, array, *args)


def _method(name):
    """A method of a plain array that was given a tracked one, above all as `out`: NumPy's function of that name."""
    def call(original, self, *args, **kwargs):
        args = (*args[:1], self, *args[1:]) if name == "compress" else (self, *args)
        # Not by a call of it: np.clip of NumPy 2.0 does not look at `out`, and comes back here.
        return _dispatch.dispatch_tracked(getattr(np, name), args, kwargs)

    return call


def _never(original, *args, **kwargs):
    raise AssertionError("the gate for results opened")


_OPERATORS = ("abs", "add", "floordiv", "getitem", "matmul", "mod", "mul", "neg", "pos", "pow", "sub", "truediv")


def _ndarray_call(original, *args, **kwargs):
    return track(original(*args, **kwargs))


def _number_type(dtype):
    """np.float64(x): the number, or the array, as that type."""
    def call(original, value=0.0, *args, **kwargs):
        value = CREATORS["asarray"](value) if isinstance(value, (list, tuple)) else value
        if args or kwargs or not is_tracked_value(value):
            return original(plain_of(value), *args, **kwargs)
        return value.astype(dtype)

    return call


def _nditer(original, op, *args, **kwargs):
    ops = op if isinstance(op, (list, tuple)) else [op]
    if not any(map(_dispatch.active, ops)):
        ops = [o.__array__() if is_tracked_value(o) and isinstance(o, np.ndarray) else plain_of(o) for o in ops]
        return original(ops if isinstance(op, (list, tuple)) else ops[0], *args, **kwargs)
    raise MissingRuleError("np.nditer walks over plain memory, without derivatives; write the loop over x.flat, "
                           "np.ndenumerate(x) or np.ndindex(x.shape), or as array operations")


def _concatenate(original, arrays, *args, **kwargs):
    # np.block and its kin call the C function, past the dispatch that every other caller goes through.
    if isinstance(arrays, (list, tuple)) and any(map(is_tracked_value, arrays)):
        return _dispatch.dispatch_tracked(np.concatenate, (arrays, *args), kwargs)
    return track(original(arrays, *args, **kwargs))


def _where(original, condition, *args, **kwargs):
    if any(map(is_tracked_value, (condition, *args))):
        return _dispatch.dispatch_tracked(np.where, (condition, *args), kwargs)
    return track(original(condition, *args, **kwargs))


def _unique_hash(original, ar, **kwargs):
    # np.unique's table (NumPy 2.3 and later) of a captured array, of which np.unique has made a tracked copy.
    return track(original(ar.__array__(), **kwargs))


class _ArrayConverter:
    """What NumPy's own `_array_converter` does, for arguments of which some are tracked."""

    def __init__(self, original, *arrays):
        self._scalars = tuple(not isinstance(a, np.ndarray) and np.ndim(plain_of(a)) == 0 for a in arrays)
        self._arrays = tuple(CREATORS["asarray"](a) for a in arrays)
        self.scalar_input = self._scalars

    def __len__(self):
        return len(self._arrays)

    def __getitem__(self, index):
        return self._arrays[index]

    def as_arrays(self, *, subok=True, pyscalars="convert_if_no_array"):
        return self._arrays

    def result_type(self, extra_dtype=None, ensure_inexact=False):
        dtype = np.result_type(*[a.dtype for a in self._arrays], *([] if extra_dtype is None else [extra_dtype]))
        return np.result_type(dtype, np.float64) if ensure_inexact and dtype.kind in "biu" else dtype

    def wrap(self, array, /, to_scalar=None):
        scalar = all(self._scalars) if to_scalar is None else to_scalar
        return array[()] if scalar and isinstance(array, np.ndarray) and array.ndim == 0 else array


def _summation(name):
    """math's functions of lists, which have no gate of their own kind: they see lists, not numbers."""
    def fsum(values):
        return sum(values[1:], values[0]) if values else 0.0

    def prod(values, *, start=1):
        for v in values:
            start = start * v
        return start

    def sumprod(p, q):
        return fsum([a * b for a, b in zip(p, q, strict=True)])

    def dist(p, q):
        return math.hypot(*[np.float64(a) - np.float64(b) for a, b in zip(p, q, strict=True)])

    function = {"fsum": fsum, "prod": prod, "sumprod": sumprod, "dist": dist}[name]

    def handler(original, *args, **kwargs):
        args = tuple(list(a) for a in args)
        return function(*args, **kwargs) if any(map(holds_tracked, args)) else original(*args, **kwargs)

    return handler


_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)
# Whose functions are redirected one by one, take no arrays, or have an adapter in `interop`.
_OWN_WAYS = {"numpy", *sys.stdlib_module_names, "torch", "jax", "jaxlib"}
_seen = set()
_plain_functions = {}


class _PlainNumPy(types.ModuleType):
    """NumPy as compiled modules see it: creation functions are the originals."""

    def __getattr__(self, name):
        return getattr(np, name)


_plain_numpy = _PlainNumPy("numpy", np.__doc__)


def _is_of(value, module):
    """Whether an extension module, or its package, made it, and did not import it (functools.reduce, dict)."""
    if isinstance(value, types.BuiltinFunctionType) and value.__self__ is module:
        return True
    home = getattr(value, "__module__", None)
    if home == "builtins" and isinstance(value, type):   # of types whose names in C have no module
        return getattr(builtins, value.__name__, None) is not value
    return type(value).__name__ == "fortran" or \
        isinstance(home, str) and home.partition(".")[0] == module.__name__.partition(".")[0]


def catch_libraries():
    """Looks after the modules imported since the last time: ufuncs are redirected, compiled callers are not."""
    if len(sys.modules) == len(_seen) or not REDIRECTED:
        return
    for name, module in list(sys.modules.items()):
        if name in _seen:
            continue
        _seen.add(name)
        if not str(getattr(module, "__file__", None) or "").endswith(_EXTENSIONS) or name.startswith("cyad."):
            continue
        _redirect.redirect_module_ufuncs(module)
        if name.startswith("numpy._core"):
            continue
        if module.__name__.partition(".")[0] not in _OWN_WAYS:   # math has other names, too, in sys.modules
            own = [value for value in vars(module).values() if _is_of(value, module)]
            _redirect.redirect_compiled(own)
            for cls in filter(lambda value: isinstance(value, type), own):
                _redirect.redirect_compiled([method for key, method in vars(cls).items() if not key.startswith("__")])
        for key, value in list(vars(module).items()):
            if value is np:
                setattr(module, key, _plain_numpy)
            elif isinstance(value, types.BuiltinFunctionType) and value.__name__ in _plain_functions:
                public = getattr(np, value.__name__)
                if value in (public, getattr(public, "_implementation", None)):
                    setattr(module, key, _plain_functions[value.__name__])


def _install():
    from cyad._adjoint import Adjoint, AdjointArray, AdjointBox
    from cyad._dual import Dual, DualArray, DualBox

    _redirect.register_types((Adjoint, Dual, AdjointArray, DualArray, AdjointBox, DualBox))
    _dispatch.install_hooks()
    install_fresh()
    _redirect.redirect_module_ufuncs(np)
    _redirect.redirect_module_ufuncs(np._core.umath)
    # Creation functions have handlers of their own.
    _redirect.redirect_dispatchers([
        f for f in get_overridable_numpy_array_functions()
        if type(f) is type(np.sum) and classification.name_of(f) not in classification.CREATION])
    for method in ("at", "reduce", "accumulate", "reduceat", "outer"):
        def handler(original, ufunc, *args, _method=method, **kwargs):
            return _dispatch.call_ufunc_tracked(ufunc, _method, args, kwargs)
        _redirect.redirect(np.ufunc, method, "fresh", handler)
    for name, function in _handlers.items():
        original = _redirect.redirect(np, name, "context", function)
        _plain_functions[name] = original
    for name, function in (("concatenate", _concatenate), ("where", _where)):
        _plain_functions[name] = _redirect.redirect(np, name, "context", function)
    _redirect.redirect(np.ndarray, "copy", "context", _copy_method)
    _redirect.redirect(np.ndarray, "__copy__", "context", _copy_method)
    _redirect.redirect(np.ndarray, "__deepcopy__", "context", _copy_method)
    _redirect.redirect(np.ndarray, "astype", "context", _astype_method)
    _redirect.redirect(np.ndarray, "__array_wrap__", "types", _array_wrap_method)
    for name in ("argmax", "argmin"):
        _redirect.redirect(np.ndarray, name, "types", _method(name))
    for name in ("choose", "clip", "compress", "conj", "conjugate", "cumprod", "cumsum", "dot", "flatten", "max",
                 "mean", "min", "prod", "ravel", "repeat", "round", "std", "sum", "take", "trace", "var"):
        _redirect.redirect(np.ndarray, name, "fresh", _method(name))
    # They call the operators from compiled code, but return to the user's.
    for owner, names in ((builtins, ("abs", "divmod", "pow", "sum")), (_functools, ("reduce",)),
                         (_operator, _OPERATORS)):
        for name in names:
            _redirect.redirect(owner, name, "result", _never)
    install_compiled()
    for generator in (np.random.Generator, np.random.RandomState):
        _redirect.redirect_compiled([method for name, method in vars(generator).items() if not name.startswith("_")])
    _redirect.redirect_type(np.ndarray, "context", _ndarray_call)
    _redirect.redirect_type(np.nditer, "types", _nditer)
    for dtype in (np.float64, np.float32, np.complex128, np.complex64):
        _redirect.redirect_type(dtype, "types", _number_type(dtype))
    _redirect.redirect_type(np._core._multiarray_umath._array_converter, "types", _ArrayConverter)
    if hasattr(np._core._multiarray_umath, "_unique_hash"):
        _redirect.redirect(np._core._multiarray_umath, "_unique_hash", "types", _unique_hash)
    for name, original in _plain_functions.items():
        setattr(_plain_numpy, name, original)
    for name in _dispatch.MATH_FUNCTIONS:
        if hasattr(math, name):
            _dispatch.install_math_hook(name)
    for name in _dispatch.CMATH_FUNCTIONS:
        _dispatch.install_cmath_hook(name)
    for name in ("fsum", "prod", "sumprod", "dist"):
        if hasattr(math, name):
            _redirect.redirect(math, name, "context", _summation(name))
    _redirect.shield_imports(catch_libraries)


REDIRECTED = True
try:
    _install()
    catch_libraries()
except _redirect.RedirectError:
    # Turned off, or not possible on this interpreter: creation functions are those of this module, and everything that
    # would lose a derivative still raises.
    REDIRECTED = False
