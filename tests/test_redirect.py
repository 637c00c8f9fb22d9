"""Calls of existing C functions: caught where they should be, untouched everywhere else, put back without a trace.

The handlers here are fakes that say what they were given. Whatever else is redirected in this process is taken out for
the length of a test and put back afterwards.
"""
import copy
import ctypes
import functools
import gc
import importlib
import math
import mmap
import os
import random
import subprocess
import sys
import textwrap
import threading
import tracemalloc
import types
from pathlib import Path

import numpy as np
import pytest
from numpy._core import _multiarray_umath, multiarray, umath
from scipy import special

from cyad import _redirect as rd
from cyad.errors import ADError

CREATORS = {  # name: arguments of a call
    "zeros": ((3,), {}),
    "empty": ((3,), {"dtype": float}),
    "array": (([1.0, 2.0],), {"ndmin": 2}),
    "asarray": (([1.0, 2.0], float), {}),
    "asanyarray": (([1.0, 2.0],), {"dtype": float}),
    "ascontiguousarray": (([1.0, 2.0],), {}),
    "asfortranarray": (([[1.0, 2.0]],), {"dtype": float}),
    "arange": ((1.0, 3.0), {"step": 0.5}),
    "fromiter": (([1.0, 2.0],), {"dtype": float}),
    "empty_like": ((np.zeros((2, 2)),), {"order": "F"}),
    "frombuffer": ((b"\0" * 16,), {"count": 1}),
    "fromstring": (("1 2",), {"sep": " "}),
}

# As in code that nobody can edit: names bound at import, before anything is redirected.
HELPER = types.ModuleType("helper")
exec(textwrap.dedent("""
    import numpy as np
    from numpy import *

    class Solver:
        make = staticmethod(zeros)
        def work(self, n):
            return self.make(n)

    def closure():
        inner = zeros
        def f(n):
            return inner(n)
        return f

    def default(n, make=zeros):
        return make(n)

    def deep(n):
        return [np.zeros(k) for k in range(n, n + 1)][0]

    def generator(n):
        while True:
            yield zeros(n)
"""), HELPER.__dict__)


class Tracked:
    """Stands for a tracked value: refuses what a derivative would be lost by."""

    __array_ufunc__ = None

    def __float__(self):
        raise AssertionError("the original got hold of a tracked value")

    __index__ = __array__ = __float__


class SubTracked(Tracked):
    pass


class Sub(np.ndarray):
    pass


class SubSub(Sub):
    def __new__(cls, n):
        return np.ndarray.__new__(cls, n)


T = Tracked()


@pytest.fixture(autouse=True)
def _alone():
    saved = rd.restore_all()
    rd.register_types((Tracked,))
    rd.set_ufunc_handler(None)
    try:
        yield
        assert rd.current_context() is None
    finally:
        rd.reinstall(saved)


def report(original, *args, **kwargs):
    return "handled", original, args, kwargs


def ufunc_report(ufunc, args, kwargs):
    return ufunc, args, kwargs


def inside(function, *args, **kwargs):
    return rd.run_in_context("a context", function, *args, **kwargs)


def alike(a, b):
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and a.strides == b.strides


# --- The current context ---------------------------------------------------------------------------------------------

def test_contexts_nest_and_go_with_their_call():
    def outer():
        assert rd.current_context() == "outer"
        assert rd.run_in_context("inner", rd.current_context) == "inner"
        assert rd.run_in_context(None, rd.current_context) is None
        with pytest.raises(ZeroDivisionError):
            rd.run_in_context("inner", lambda: 1 / 0)
        return rd.current_context()

    assert rd.run_in_context("outer", outer) == "outer"
    assert rd.current_context() is None


def test_a_context_is_its_threads_own():
    seen = []

    def other():
        seen.append(rd.current_context())
        seen.append(HELPER.zeros(3))
        seen.append(rd.run_in_context("theirs", HELPER.zeros, 3))

    def call():
        t = threading.Thread(target=other)
        t.start()
        t.join()
        return rd.current_context()

    rd.redirect(np, "zeros", "context", lambda original, *args: rd.current_context())
    assert rd.run_in_context("mine", call) == "mine"
    assert seen[0] is None and isinstance(seen[1], np.ndarray) and seen[2] == "theirs"


def test_many_threads_at_once():
    rd.redirect(np, "zeros", "context", lambda original, *args: (rd.current_context(), original(*args)))
    wrong = []

    def work(me):
        for _ in range(2000):
            context, z = rd.run_in_context(me, HELPER.deep, 2)
            if context != me or z.shape != (2,) or not isinstance(HELPER.zeros(2), np.ndarray):
                wrong.append(me)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(f"context {i}",)) for i in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


# --- Creation functions: the context gate ----------------------------------------------------------------------------

@pytest.mark.parametrize("name", CREATORS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_creation_functions(name):
    args, kwargs = CREATORS[name]
    ways = [getattr(np, name), getattr(multiarray, name), getattr(HELPER, name), getattr(HELPER.np, name)]
    plain = ways[0](*args, **kwargs)
    bound = functools.partial(ways[0], *args, **kwargs)
    rd.redirect(np, name, "context", report)
    for f in [*ways, bound]:
        a, k = ((), {}) if f is bound else (args, kwargs)
        word, original, got, keywords = inside(f, *a, **k)
        assert word == "handled" and got == args and keywords == kwargs
        assert original.__name__ == name
        assert alike(original(*got, **keywords), plain) and alike(inside(original, *got, **keywords), plain)
        assert alike(f(*a, **k), plain)
    rd.restore_all()
    assert alike(inside(bound), plain)


@pytest.mark.parametrize("call", [HELPER.Solver().work, HELPER.closure(), HELPER.default, HELPER.deep, np.zeros])
def test_wherever_the_name_was_bound(call):
    rd.redirect(np, "zeros", "context", report)
    for _ in range(100):  # often enough for the interpreter to specialise the call on either result
        assert inside(call, 3)[::2] == ("handled", (3,))
        assert alike(call(3), np.empty(3))


def test_numpys_own_python_code_is_caught():
    made = []

    def handler(original, *args, **kwargs):
        made.append(original.__name__)
        return original(*args, **kwargs)

    rd.redirect(np, "empty", "context", handler)
    rd.redirect(np, "empty_like", "context", handler)
    assert alike(inside(np.ones, 3), np.ones(3)) and inside(np.full, 2, 7.0)[0] == 7.0
    assert inside(np.full_like, np.ones(2), 1.0)[0] == 1.0
    assert made == ["empty", "empty", "empty_like"]


def test_methods_of_arrays():
    a = np.arange(3.0)
    bound = a.copy
    rd.redirect(np.ndarray, "copy", "context", report)
    rd.redirect(np.ndarray, "astype", "context", report)
    for f in (a.copy, bound, functools.partial(np.ndarray.copy, a)):
        word, original, args, kwargs = inside(f, order="F")
        assert word == "handled" and args[0] is a and len(args) == 1 and kwargs == {"order": "F"}
        assert np.array_equal(original(*args, **kwargs), a) and np.array_equal(f(order="F"), a)
        with pytest.raises(TypeError, match="descriptor"):
            original(1.0)  # the receiver is checked as ever
    assert inside(a.astype, int)[2][1] is int
    assert a.astype(int).dtype == int and copy.copy(a) is not a


def test_generator_resumed_outside():
    rd.redirect(np, "zeros", "context", report)
    g = inside(HELPER.generator, 3)
    assert inside(next, g)[0] == "handled"
    assert isinstance(next(g), np.ndarray)
    assert inside(next, g)[0] == "handled"


def test_exceptions_pass_and_leave_nothing():
    def refuse(original, *args):
        raise KeyError(args)

    rd.redirect(np, "zeros", "context", refuse)
    rd.redirect(np, "fromiter", "context", report)
    with pytest.raises(KeyError, match="3"):
        inside(HELPER.deep, 3)
    assert isinstance(HELPER.zeros(3), np.ndarray)
    with pytest.raises(TypeError):
        HELPER.zeros()
    with pytest.raises(TypeError, match="strings"):
        inside(lambda: np.fromiter([1.0], **{1: float}))


def test_reentrancy():
    seen = []

    def handler(original, *args):
        seen.append(rd.current_context())
        if rd.current_context() == "a context":
            return rd.run_in_context("another", HELPER.deep, *args)  # the redirected function, from its handler
        plain = rd.run_in_context(None, HELPER.deep, *args)
        assert alike(plain, original(*args))
        return plain

    rd.redirect(np, "zeros", "context", handler)
    assert alike(inside(HELPER.zeros, 3), np.empty(3)) and seen == ["a context", "another"]


def test_endless_recursion_is_an_exception():
    rd.redirect(np, "zeros", "context", lambda original, *args: HELPER.zeros(*args))
    with pytest.raises(RecursionError):
        inside(HELPER.zeros, 3)


def test_a_handler_may_turn_everything_off():
    def make_handler():
        def handler(original, *args, **kwargs):
            saved = rd.restore_all()
            rd.redirect(np, "zeros", "context", report)  # drops the handler that runs
            del saved
            gc.collect()
            rd.restore_all()
            return original(*args, **kwargs)
        return handler

    rd.redirect(np, "zeros", "context", make_handler())
    assert alike(inside(HELPER.zeros, 3), np.empty(3)) and not rd.installed()


def test_imports_inside_a_call_see_plain_numpy(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("cyad_lazy_one", "cyad_lazy_two"):
        (tmp_path / f"{name}.py").write_text("from numpy import zeros\nTABLE = zeros(3)\n")
    rd.redirect(np, "zeros", "context", report)

    def lazy(name):
        module = importlib.import_module(name)
        return module.TABLE, module.zeros(3)

    assert inside(lazy, "cyad_lazy_one")[0][0] == "handled"  # the trap that the shield is for
    rd.shield_imports()
    rd.shield_imports()
    table, later = inside(lazy, "cyad_lazy_two")
    assert isinstance(table, np.ndarray) and later[0] == "handled"

    def failing():
        with pytest.raises(ModuleNotFoundError) as error:
            import cyad_no_such_module  # noqa: F401
        assert rd.current_context() == "a context" and "importlib" not in str(error.traceback[-1].path)

    inside(failing)
    rd.restore_all()
    assert isinstance(importlib._bootstrap._find_and_load, types.FunctionType)


# --- math: the types gate, and every calling convention --------------------------------------------------------------

def math_call(name):
    """Arguments with which the function works."""
    for args in [(0.5,), (1.5,), (5,), (0.5, 1.5), (5, 3), (0.5, 3), ([1.5, 0.5],), ([1.0], [2.0]), (0.5, 1.5, 2.5)]:
        try:
            getattr(math, name)(*args)
        except (TypeError, ValueError):
            continue
        return args
    raise AssertionError(f"math.{name} is called in a way that this test does not know")


@pytest.mark.parametrize("name", [n for n in dir(math) if callable(getattr(math, n)) and not n.startswith("_")])
def test_math(name):
    f, args = getattr(math, name), math_call(name)
    plain = f(*args)
    rd.redirect(math, name, "types", report)
    assert f(*args) == plain and inside(f, *args) == plain  # no tracked value: nothing happens, in a context or out
    for i in range(len(args)):
        tracked = (*args[:i], T, *args[i + 1:])
        word, original, got, kwargs = f(*tracked)
        assert (word, got, kwargs) == ("handled", tracked, {}) and original(*args) == plain
    rd.restore_all()
    with pytest.raises((AssertionError, TypeError)):
        f(T, *args[1:])


def test_keyword_values_are_seen_and_names_kept():
    rd.redirect(math, "isclose", "types", report)
    assert math.isclose(1.0, 1.0, rel_tol=0.1) is True
    assert math.isclose(1.0, 1.0, abs_tol=0.0, rel_tol=T)[2:] == ((1.0, 1.0), {"abs_tol": 0.0, "rel_tol": T})
    rd.redirect(np, "frombuffer", "types", report)  # its convention takes a dictionary
    assert np.frombuffer(b"\0" * 8, count=T)[2:] == ((b"\0" * 8,), {"count": T})
    assert np.frombuffer(b"\0" * 8, count=1) == [0.0]


def test_types_are_matched_exactly_and_sequences_stay_closed():
    rd.redirect(math, "fsum", "types", report)
    rd.redirect(math, "sin", "types", report)
    with pytest.raises(AssertionError):
        math.fsum([T])
    with pytest.raises(AssertionError):
        math.sin(SubTracked())
    rd.register_types((int, SubTracked, Tracked))
    assert math.sin(SubTracked())[0] == math.sin(T)[0] == math.sin(1)[0] == "handled" and math.sin(0.0) == 0.0
    rd.register_types(())
    assert math.sin(0) == 0.0
    with pytest.raises(AssertionError):
        math.sin(T)


def test_eight_types_and_no_more():
    classes = [type(f"C{i}", (), {}) for i in range(9)]
    rd.redirect(math, "sin", "types", report)
    rd.register_types(tuple(classes[:8]))
    assert all(math.sin(c())[0] == "handled" for c in classes[:8])
    with pytest.raises(TypeError):
        math.sin(classes[8]())
    with pytest.raises(rd.RedirectError, match="9 types"):
        rd.register_types(tuple(classes))
    with pytest.raises(TypeError, match="types"):
        rd.register_types((1,))


def test_noargs_methods_and_the_receiver():
    """No function that matters has METH_NOARGS; those of sets have, and nothing else in this process is hurt."""
    s = {1, 2}
    rd.redirect(set, "copy", "context", report)
    word, original, args, kwargs = inside(s.copy)
    assert word == "handled" and args[0] is s and len(args) == 1 and not kwargs and original(s) == s and s.copy() == s
    rd.restore_all()
    rd.register_types((frozenset,))
    rd.redirect(frozenset, "copy", "types", report)
    assert frozenset([1]).copy()[0] == "handled"


def test_more_arguments_than_the_small_stack():
    rd.redirect(math, "hypot", "types", report)
    args = (*map(float, range(40)), T)
    assert math.hypot(*args)[2] == args


# --- Types called ----------------------------------------------------------------------------------------------------

def test_ndarray_called():
    def calls():
        return [np.ndarray(3), np.ndarray((2, 2), dtype=np.float32, order="F"), HELPER.ndarray(shape=3)]

    rd.redirect_type(np.ndarray, "context", report)
    for _ in range(100):
        assert [c[0] for c in inside(calls)] == ["handled"] * 3
        assert all(type(c) is np.ndarray for c in calls())
    _, original, args, kwargs = inside(calls)[1]
    made = inside(original, *args, **kwargs)
    assert made.dtype == np.float32 and made.flags.f_contiguous and made.shape == (2, 2)
    with pytest.raises(TypeError):
        np.ndarray()
    with pytest.raises(TypeError):
        np.ndarray(3, nonsense=1)
    rd.restore_all()
    assert all(type(c) is np.ndarray for c in inside(calls))


def test_subclasses_of_ndarray_are_left_alone():
    rd.redirect_type(np.ndarray, "context", report)

    class Later(np.ndarray):
        pass

    def check():
        assert [type(cls(3)) for cls in (Sub, SubSub, Later)] == [Sub, SubSub, Later]
        assert type(np.ndarray.__new__(Sub, 3)) is Sub and type(np.recarray(3, dtype=[("a", float)])) is np.recarray
        assert type(np.ones(3).view(np.matrix)) is np.matrix and type(np.ma.zeros(3)) is np.ma.MaskedArray

    inside(check)
    check()
    rd.restore_all()
    inside(check)


def test_array_converter():
    converter = _multiarray_umath._array_converter
    rd.redirect_type(converter, "types", report)
    assert type(converter(1.0, [2.0])) is converter and inside(np.linalg.norm, [3.0, 4.0]) == 5.0
    assert converter(1.0, T)[2] == (1.0, T)


def test_a_type_that_has_a_vectorcall_already():
    rd.redirect_type(range, "types", report)
    assert range(3) == range(0, 3) and range(T)[2] == (T,) and range(T)[1](2) == range(2)
    rd.restore_all()
    with pytest.raises((TypeError, AssertionError)):
        range(T)


# --- ufuncs ----------------------------------------------------------------------------------------------------------

def test_ufuncs():
    def plain():
        return np.sin(a), a + a, np.add(a, 1.0, dtype=float), np.matmul(a, a), np.sin(0.5)

    a = np.arange(3.0)
    before = plain()
    rd.redirect_ufuncs([np.sin, np.add, np.matmul, np.add])
    rd.set_ufunc_handler(ufunc_report)
    assert np.sin(T) == (np.sin, (T,), {}) and umath.sin(T)[0] is np.sin and HELPER.np.sin(T)[0] is np.sin
    ufunc, args, kwargs = np.add(a, T, out=a, where=True)
    assert ufunc is np.add and args[0] is a and args[1] is T and kwargs["out"] is a and kwargs["where"] is True
    assert np.add(1.0, 2.0, where=T)[2] == {"where": T}
    assert all(np.array_equal(x, y) for x, y in zip(before, plain(), strict=True))
    with pytest.raises(TypeError, match="ufunc"):
        np.cos(T)  # not redirected
    with pytest.raises(TypeError):
        np.sin()
    rd.set_ufunc_handler(None)
    with pytest.raises(TypeError, match="ufunc"):
        np.sin(T)
    rd.set_ufunc_handler(ufunc_report)
    rd.restore_all()
    with pytest.raises(TypeError, match="ufunc"):
        np.sin(T)
    assert all(np.array_equal(x, y) for x, y in zip(before, plain(), strict=True))


def test_ufuncs_of_a_module():
    rd.redirect_module_ufuncs(np)
    rd.set_ufunc_handler(ufunc_report)
    once = rd.installed()
    assert {("ufunc sin", "types"), ("ufunc add", "types"), ("ufunc matmul", "types")} <= set(once)
    rd.redirect_module_ufuncs(np)
    assert rd.installed() == once
    for value in vars(np).values():
        if isinstance(value, np.ufunc):
            assert value(*[T] * value.nin)[0] is value
    assert np.ones(3) @ np.ones(3) == 3.0 and np.abs(-1.0) == 1.0


def test_ufuncs_of_scipy():
    rd.redirect_module_ufuncs(special)
    rd.set_ufunc_handler(ufunc_report)
    assert special.erf(T)[0] is special.erf and special.erf(0.0) == 0.0


def test_a_redirected_ufunc_is_kept():
    rd.redirect_ufuncs([np.frompyfunc(lambda x: x, 1, 1)])
    gc.collect()
    assert len(rd.installed()) == 1
    rd.restore_all()


def test_exceptions_of_a_ufunc_handler():
    def refuse(ufunc, args, kwargs):
        raise KeyError(ufunc.__name__)

    rd.redirect_ufuncs([np.sin])
    rd.set_ufunc_handler(refuse)
    with pytest.raises(KeyError, match="sin"):
        np.sin(T)


@pytest.mark.parametrize("name, args", [
    ("at", (np.zeros(3), 0, T)), ("reduce", (T,)), ("accumulate", (T,)), ("reduceat", (T, [0])), ("outer", (1.0, T))])
def test_methods_of_ufuncs(name, args):
    rd.redirect(np.ufunc, name, "types", report)
    word, _, got, _ = getattr(np.add, name)(*args)
    assert word == "handled" and got[0] is np.add and all(x is y for x, y in zip(got[1:], args, strict=True))
    assert np.add.reduce([1.0, 2.0]) == 3.0 and list(np.add.accumulate([1.0, 2.0])) == [1.0, 3.0]
    assert np.add.outer([1.0], [2.0]) == [[3.0]] and np.add.reduceat([1.0, 2.0], [0]) == [3.0]
    y = np.zeros(1)
    np.add.at(y, [0, 0], 1.0)
    assert y == [2.0] and inside(np.sum, [1.0, 2.0]) == 3.0


# --- Refusals --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("owner, name, message", [
    (np, "ones", "not a plain C function"),             # a Python function
    (np, "einsum", "not a plain C function"),           # a dispatcher around one
    (np, "sin", "not a plain C function"),              # a ufunc
    (np, "pi", "not a plain C function"),
    (np, "no_such_thing", "no such function"),
    (random, "random", "not a plain C function"),       # a bound method in a module
    (Sub, "copy", "no such function"),                  # inherited
    (np.ndarray, "__add__", "not a plain C function"),  # a slot
    (dict, "fromkeys", "not a plain C function"),       # a class method
])
def test_what_cannot_be_redirected_is_refused(owner, name, message):
    with pytest.raises(rd.RedirectError, match=message) as error:
        rd.redirect(owner, name, "context", report)
    assert isinstance(error.value, ADError) and not isinstance(error.value, AttributeError)
    assert not rd.installed()


def test_wrong_requests():
    with pytest.raises(TypeError, match="module or a type"):
        rd.redirect([], "append", "context", report)
    with pytest.raises(TypeError, match="callable"):
        rd.redirect(np, "zeros", "context", None)
    with pytest.raises(TypeError, match="callable"):
        rd.redirect_type(np.ndarray, "context", None)
    with pytest.raises(TypeError, match="callable"):
        rd.set_ufunc_handler(1)
    with pytest.raises(ValueError, match="gate"):
        rd.redirect(np, "zeros", "always", report)
    with pytest.raises(ValueError, match="gate"):
        rd.redirect_type(np.ndarray, "always", report)
    with pytest.raises(rd.RedirectError, match="static C type"):
        rd.redirect_type(Sub, "context", report)
    with pytest.raises(TypeError, match="ufuncs"):
        rd.redirect_ufuncs([np.sin, np.zeros])
    assert not rd.installed()
    rd.redirect(np, "zeros", "context", report)
    with pytest.raises(rd.RedirectError, match="already"):
        rd.redirect(multiarray, "zeros", "context", report)
    rd.redirect_type(np.ndarray, "context", report)
    with pytest.raises(rd.RedirectError, match="already"):
        rd.redirect_type(np.ndarray, "context", report)


class MethodDef(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)]


def c_function(definition):
    new = ctypes.pythonapi.PyCFunction_NewEx
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
    return new(ctypes.addressof(definition), None, None)


def address(name):
    return ctypes.cast(getattr(ctypes.pythonapi, name), ctypes.c_void_p).value


def repr_def(name, flags=0x8):
    """A definition of METH_O whose C function, given no module, answers '<NULL>'."""
    return MethodDef(name, address("PyObject_Repr"), flags, None)


# Slots are never given back: what is defined here must outlive even the last garbage collection.
FOREIGN, UNKNOWN, PAGE = repr_def(b"foreign"), repr_def(b"unknown", 0x28), mmap.mmap(-1, mmap.PAGESIZE)
for immortal in (FOREIGN, UNKNOWN, PAGE):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(immortal))


def test_unknown_calling_convention_is_refused():
    module = types.ModuleType("m")
    module.unknown = c_function(UNKNOWN)
    with pytest.raises(rd.RedirectError, match="0x28"):
        rd.redirect(module, "unknown", "context", report)


def test_protected_memory_is_refused_and_not_written():
    definition, source = MethodDef.from_buffer(PAGE), repr_def(b"protected")
    ctypes.memmove(ctypes.addressof(definition), ctypes.addressof(source), ctypes.sizeof(source))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(ctypes.addressof(definition), mmap.PAGESIZE, mmap.PROT_READ) == 0
    module = types.ModuleType("m")
    module.protected = c_function(definition)
    with pytest.raises(rd.RedirectError, match="cannot be written"):
        rd.redirect(module, "protected", "context", report)
    assert inside(module.protected, 1) == "<NULL>"


def test_what_somebody_else_changed_meanwhile_is_theirs():
    module = types.ModuleType("m")
    module.foreign = c_function(FOREIGN)
    plain, theirs = FOREIGN.meth, address("PyObject_Str")
    rd.redirect(module, "foreign", "context", report)
    ours = FOREIGN.meth
    assert inside(module.foreign, 1)[0] == "handled" and module.foreign(1) == "<NULL>" and ours != plain
    try:
        FOREIGN.meth = theirs
        rd.restore_all()
        assert FOREIGN.meth == theirs
        with pytest.raises(rd.RedirectError, match="somebody else"):
            rd.redirect(module, "foreign", "context", report)
        FOREIGN.meth = ours  # as if they took theirs out later
        assert inside(module.foreign, 1) == "<NULL>"
    finally:
        FOREIGN.meth = plain
    rd.redirect(module, "foreign", "context", report)
    assert FOREIGN.meth == ours


def run(code, **env):
    root = Path(rd.__file__).parent.parent
    env = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"} | env
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_slots_run_out_with_an_error():
    assert "96 slots" in run("""
        import ctypes, types
        from cyad import _redirect as rd
        rd.restore_all()
        class MethodDef(ctypes.Structure):
            _fields_ = [("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int),
                        ("doc", ctypes.c_char_p)]
        new = ctypes.pythonapi.PyCFunction_NewEx
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p] * 3
        address = ctypes.cast(ctypes.pythonapi.PyObject_Repr, ctypes.c_void_p).value
        definitions = [MethodDef(b"f", address, 8, None) for _ in range(97)]
        for d in definitions:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(d))
        module = types.ModuleType("m")
        made = []
        try:
            for i, d in enumerate(definitions):
                module.f = new(ctypes.addressof(d), None, None)
                made.append(module.f)
                rd.redirect(module, "f", "context", lambda original, *args, i=i: i)
        except rd.RedirectError as error:
            print(error)
        assert len(made) > 8
        for i, f in enumerate(made[:-1]):
            assert rd.run_in_context(1, f, 0) == i and f(0) == "<NULL>"  # every trampoline has its own slot
        assert rd.run_in_context(1, made[-1], 0) == "<NULL>"
        rd.restore_all()
        assert all(rd.run_in_context(1, f, 0) == "<NULL>" for f in made)
    """)


def test_the_environment_turns_it_off():
    assert run("""
        import numpy as np
        from cyad import _redirect as rd
        for ask in (lambda: rd.redirect(np, "zeros", "context", print), lambda: rd.redirect_ufuncs([np.sin]),
                    lambda: rd.redirect_type(np.ndarray, "context", print), rd.shield_imports):
            try:
                ask()
            except rd.RedirectError as error:
                print("CYAD_REDIRECT=0" in str(error))
        print(rd.installed())
    """, CYAD_REDIRECT="0").split() == ["True"] * 4 + ["[]"]


# --- Off and on, and nothing leaks -----------------------------------------------------------------------------------

def install_all():
    for name in CREATORS:
        rd.redirect(np, name, "context", report)
    for name in ("sin", "pow", "log", "isclose"):
        rd.redirect(math, name, "types", report)
    rd.redirect(np.ndarray, "copy", "context", report)
    rd.redirect(np.ufunc, "reduce", "types", report)
    rd.redirect_type(np.ndarray, "context", report)
    rd.redirect_module_ufuncs(np)
    rd.set_ufunc_handler(ufunc_report)
    rd.shield_imports()


def test_off_and_on():
    install_all()
    names = rd.installed()
    assert {("numpy.zeros", "context"), ("math.sin", "types"), ("numpy.ndarray.copy", "context"),
            ("numpy.ndarray()", "context"), ("ufunc sin", "types"), ("import", "context")} <= set(names)
    for _ in range(3):
        saved = rd.restore_all()
        rd.register_types(())
        rd.set_ufunc_handler(None)
        assert rd.installed() == [] and isinstance(inside(HELPER.zeros, 3), np.ndarray)
        rd.reinstall(saved)
        assert sorted(rd.installed()) == sorted(names)
        assert inside(HELPER.zeros, 3)[0] == math.sin(T)[0] == "handled" and np.sin(T)[0] is np.sin


def test_every_redirection_together_leaves_numpy_working():
    install_all()
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4, 4))
    assert np.allclose(np.linalg.inv(a) @ a, np.eye(4)) and np.allclose(np.fft.ifft(np.fft.fft(a)), a)
    assert np.interp(0.5, [0.0, 1.0], [0.0, 2.0]) == 1.0 and np.vectorize(math.sin)(a).shape == a.shape


def exercise(n):
    a, keywords = np.ones(2), {"rel_tol": T}
    dictionary = functools.partial(np.frombuffer, b"\0" * 8, count=1)

    def create():
        HELPER.zeros(3), HELPER.zeros(shape=3, dtype=float), dictionary(), np.arange(3.0)
        a.copy(), a.copy(order="F"), np.ndarray(3), np.ndarray(shape=3, dtype=float)

    def fail(function, *args):
        try:
            function(*args)
        except (TypeError, ValueError):
            pass

    for _ in range(n):
        create()
        inside(create)
        math.sin(T), math.pow(1.0, T), math.log(T), math.isclose(1.0, 2.0, **keywords), math.sin(1.0), math.log(2.0)
        np.sin(T), np.add(1.0, T, where=True), np.sin(0.5), np.add.reduce(a), np.add.reduce(T)
        fail(math.sin, "a"), fail(np.zeros, -1), fail(np.ndarray, -1), fail(np.sin, "a")


def counts():
    return [sys.getrefcount(x) for x in (T, Tracked, report, ufunc_report, float, np.ndarray, np.zeros, np.sin)]


def test_nothing_leaks():
    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    install_all()
    exercise(500)
    before, size = counts(), resident()
    exercise(10_000)
    assert resident() - size < 1 << 20
    assert max(abs(x - y) for x, y in zip(before, counts(), strict=True)) < 50, (before, counts())
    tracemalloc.start()
    try:
        exercise(50)
        traced = tracemalloc.get_traced_memory()[0]
        exercise(500)
        assert tracemalloc.get_traced_memory()[0] - traced < 4096
    finally:
        tracemalloc.stop()


def test_off_and_on_does_not_leak():
    install_all()
    rd.reinstall(rd.restore_all())
    before = counts()
    for _ in range(200):
        rd.reinstall(rd.restore_all())
    assert counts() == before


# --- What carriers cimport -------------------------------------------------------------------------------------------

NATIVE = """
# cython: language_level=3
from cpython.object cimport PyObject
from cyad._redirect cimport call_ufunc, current, redirect_native, register_ufunc_handler, swap_current

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf)
    object PyObject_Vectorcall(object f, PyObject* const* args, size_t nargsf, PyObject* kwnames)

cdef object report(object callee, PyObject* const* args, size_t nargsf, object kwnames):
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf)
    positional = [<object>args[i] for i in range(n)]
    if positional[-1] == "fail":
        raise KeyError(callee)
    if positional[-1] == "through":
        return PyObject_Vectorcall(callee, args, n - 1, NULL)
    return callee, positional, None if kwnames is None else {k: <object>args[n + i] for i, k in enumerate(kwnames)}

cdef object pass_on(object ufunc, PyObject* const* args, size_t nargsf, object kwnames):
    return "native", call_ufunc(ufunc, args, nargsf, kwnames)

def install(owner, name, gate):
    redirect_native(owner, name, gate, report)

def install_ufuncs():
    register_ufunc_handler(pass_on)

def swapped(context, f):
    cdef PyObject* old = swap_current(<PyObject*>context)
    try:
        assert current() == <PyObject*>context
        return f()
    finally:
        swap_current(old)
"""


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    where = tmp_path_factory.mktemp("native")
    (where / "cyad_native_probe.pyx").write_text(NATIVE)
    env = os.environ | {"PYTHONPATH": str(Path(rd.__file__).parent.parent), "CFLAGS": "-O1"}
    done = subprocess.run([sys.executable, "-m", "Cython.Build.Cythonize", "-i", "-q", "cyad_native_probe.pyx"],
                          cwd=where, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    sys.path.insert(0, str(where))
    try:
        return importlib.import_module("cyad_native_probe")
    finally:
        sys.path.remove(str(where))


def test_native_handlers(native):
    native.install(np, "zeros", "context")
    native.install(math, "isclose", "types")
    native.install(np, "frombuffer", "types")
    native.install(np.ndarray, "copy", "context")
    rd.register_types((Tracked, str))
    assert inside(HELPER.zeros, 3, dtype=int)[1:] == ([3], {"dtype": int})
    assert inside(HELPER.zeros, 3)[1:] == ([3], None) and isinstance(HELPER.zeros(3), np.ndarray)
    assert math.isclose(1.0, T, rel_tol=2.0)[1:] == ([1.0, T], {"rel_tol": 2.0})
    assert np.frombuffer(b"", count=T)[1:] == ([b""], {"count": T})
    a = np.ones(3)
    callee, args, _ = inside(a.copy, "F")
    assert args[0] is a and args[1] == "F" and callee(a).shape == (3,)
    assert inside(a.copy, "through").shape == (3,) and math.isclose(1.0, 1.0, "through") is True
    with pytest.raises(KeyError):
        inside(HELPER.zeros, "fail")
    del args
    before = counts(), sys.getrefcount(a)
    for _ in range(1000):
        inside(a.copy, "F"), math.isclose(1.0, T, rel_tol=2.0), np.frombuffer(b"", count=T)
    assert before == (counts(), sys.getrefcount(a))
    saved = rd.restore_all()
    assert isinstance(inside(HELPER.zeros, 3), np.ndarray)
    rd.reinstall(saved)
    assert inside(HELPER.zeros, 3)[1] == [3]


def test_native_ufunc_handler_and_context(native):
    rd.redirect_ufuncs([np.add])
    native.install_ufuncs()
    rd.register_types((int,))
    assert np.add(1, 2) == ("native", 3) and np.add(1.0, 2.0) == 3.0
    assert np.add(1, 2, dtype=float) == ("native", 3.0)
    with pytest.raises(TypeError):
        np.add(1)
    rd.register_types((Tracked,))
    with pytest.raises(TypeError, match="ufunc"):
        np.add(T, T)
    rd.register_types((np.ndarray,))
    a = np.ones(3)
    before = sys.getrefcount(None), sys.getrefcount(np.add), sys.getrefcount(a)
    for _ in range(1000):
        word, total = np.add(a, a, out=None)
        assert word == "native" and total[0] == 2.0
    after = sys.getrefcount(None), sys.getrefcount(np.add), sys.getrefcount(a)
    assert max(abs(x - y) for x, y in zip(before, after, strict=True)) < 50
    rd.reinstall(rd.restore_all())
    assert np.add(a, a)[0] == "native"
    assert native.swapped("mine", rd.current_context) == "mine" and rd.current_context() is None
