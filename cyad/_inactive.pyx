"""Code without derivatives inside differentiated code: `cyad.inactive`, `cyad.ignore_derivatives`.

An inactive function sees plain numbers and arrays, and what it returns is a constant to all levels of
differentiation. Arrays that hold active values are shown read-only: what it wrote there would keep the derivative
of what was there before. Other arrays it may write, and the tape restores them as it does after any write. A result that
lies in the memory of an argument stays a view of it: where that has no derivative; where it has one, it is an error.

Rejected: showing copies (a function that fills a buffer would fill nothing), views of active memory as results (a
constant that changes with a variable), and copies of these (a later write would show in the one, and not in the other).

Thread safety: as the contexts; no state.
"""
from cpython.ref cimport PyObject
from numpy cimport NPY_ARRAY_WRITEABLE, PyArray_CLEARFLAGS, ndarray

from cyad._context cimport (
    TrackedArray, check_alive, context_of, is_active_anywhere, is_array, is_tracked, own_copy, plain_value, primal_at,
    settled, wrap_view,
)
from cyad._redirect cimport call_compiled, current, register_compiled_handler, swap_current
from cyad._shadow cimport extent_of

import functools

import numpy as np

from cyad._random import HANDLERS
from cyad._structures import flatten, is_structure
from cyad.errors import ActivityError, name_of

cdef enum: MANY = 64   # arguments of a compiled function

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept
    PyObject** PySequence_Fast_ITEMS(object sequence) noexcept


cdef object shown(object value, list arrays):
    """A value as an inactive function sees it; `arrays` collects (tracked array, its memory) of what it is shown."""
    cdef ndarray arr
    value = settled(value) if is_tracked(value) else value
    if is_tracked(value):
        check_alive(context_of(value))
        plain = plain_value(value)
        if not isinstance(plain, ndarray):
            return plain
        arr = plain
        arrays.append((value, arr))
        if is_active_anywhere(value) or (<TrackedArray>value).place.buf.conflict:
            arr = arr.view()
            PyArray_CLEARFLAGS(arr, NPY_ARRAY_WRITEABLE)
            return arr
        while is_array(value):
            (<TrackedArray>value).ctx.before_overwrite(<TrackedArray>value, None)
            value = primal_at((<TrackedArray>value).ctx, value)
        return arr
    if is_structure(value):
        leaves, rebuild = flatten(value)
        for leaf in leaves:
            if is_tracked(leaf):
                return rebuild([shown(v, arrays) for v in leaves])
    return value


cdef object apart(object value, list arrays, object f):
    """A result, where it lies in the memory of an argument as a view of that; ActivityError where that is active."""
    cdef Py_ssize_t low, high, first, last
    cdef TrackedArray whole = None
    cdef bint astride = False
    if isinstance(value, ndarray):
        low, high = extent_of(value)
        for tracked, arr in arrays:
            first, last = extent_of(arr)
            if not (low < last and first < high):
                continue
            if is_active_anywhere(tracked) or (<TrackedArray>tracked).place.buf.conflict:
                whole, astride = None, True
                break
            if first <= low and high <= last and (<ndarray>value).dtype == (<ndarray>arr).dtype:
                whole = tracked
            else:
                astride = True
        if whole is not None:
            return aliased(whole, value)
        if astride:
            raise ActivityError(
                f"{name_of(f)} is inactive, and returned an array that it was given, or a view of it, whose "
                "values have derivatives: the result would be a constant that changes with them. Return a copy, "
                "y.copy(), or call the function without cyad.inactive")
        return value
    if type(value) is tuple:
        return tuple([apart(v, arrays, f) for v in <tuple>value])
    if arrays and is_structure(value):
        leaves, rebuild = flatten(value)
        return rebuild([apart(v, arrays, f) for v in leaves])
    return value


cdef object aliased(TrackedArray whole, object view):
    """A view of plain memory as one of the tracked array over it, at all levels."""
    return wrap_view(whole, aliased(whole.prim, view) if is_array(whole.prim) else view)


def inactive(f):
    """Decorator: a function without derivatives, for printing, logging, counting, choosing.

    Inside differentiated code it is called with plain numbers and arrays, and its result is a constant. Arrays that
    hold active values are read-only to it; others it may write. Outside it is the function. Compare
    `cyad.rules.inactive_type`.

    Raises TypeError for what cannot be called; ActivityError, in the call, where the result is an array that holds
    active values, or a view of one: return a copy. Any number of threads may call it, if they may call f.

    >>> import cyad
    >>> seen = []
    >>> @cyad.inactive
    ... def note(x):
    ...     seen.append(float(x))
    ...     return x
    >>> cyad.autodiff(cyad.Reverse, lambda x: x * x + note(x), cyad.Active, cyad.Active(3.0))
    ((6.0,),)
    >>> seen
    [3.0]
    """
    if not callable(f):
        raise TypeError(f"inactive takes a function, not a {type(f).__name__}")

    @functools.wraps(f, updated=())
    def called(*args, **kwargs):
        cdef list arrays = []
        cdef PyObject* old
        if current() is NULL and not any([is_tracked(v) for v in (*args, *kwargs.values())]):
            return f(*args, **kwargs)
        args = [shown(v, arrays) for v in args]
        kwargs = {key: shown(v, arrays) for key, v in kwargs.items()}
        old = swap_current(NULL)
        try:
            return apart(f(*args, **kwargs), arrays, called)
        except ValueError as error:
            if "read-only" in str(error):
                error.add_note(f"{called.__qualname__} is inactive: it cannot write arrays that hold active values, "
                               "whose derivative would be wrong; give it a rule (cyad.primitive), or work on a copy")
            raise
        finally:
            swap_current(old)

    if not hasattr(called, "__qualname__"):
        called.__qualname__ = type(f).__qualname__
    return called


cdef object compiled_call(object function, PyObject* const* args, size_t nargsf, object kwnames):
    """The hook behind functions of compiled libraries: some argument is tracked.

    Without an active value they are called as inactive functions are. With one the arguments are as they are: what takes no other
    types than its own says so, and no derivative is lost.
    """
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), k
    cdef list given = [<object>args[k] for k in range(n + (0 if kwnames is None else len(kwnames)))], arrays = []
    cdef PyObject* pointers[MANY]
    cdef PyObject* old
    handler = HANDLERS.get(function)
    if handler is not None:
        def original(*args, **kwargs):
            call = [*args, *kwargs.values()]
            return call_compiled(function, PySequence_Fast_ITEMS(call), len(args), tuple(kwargs) or None)
        keywords = {} if kwnames is None else dict(zip(kwnames, given[n:]))
        return handler(original, *given[:n], **keywords)
    if len(given) > MANY or any([is_active_anywhere(v) for v in given]):
        return call_compiled(function, args, nargsf, kwnames)
    given = [shown(v, arrays) if is_tracked(v) else v for v in given]
    for k in range(len(given)):
        pointers[k] = <PyObject*>given[k]
    old = swap_current(NULL)
    try:
        return apart(call_compiled(function, pointers, n, kwnames), arrays, function)
    finally:
        swap_current(old)


def install_compiled():
    register_compiled_handler(compiled_call)


def ignore_derivatives(x):
    """The value of x as a constant: numbers, arrays, or structures of these, of the shapes and dtypes of x. Arrays are
    copied, so that they stay what they are.

    Raises nothing itself: outside of differentiated calls, and of what has no derivative, it is x or its copy; of a value
    whose call has ended, it is the number. Any number of threads may call it.

    >>> from cyad import Active, Reverse, autodiff, ignore_derivatives
    >>> autodiff(Reverse, lambda x: x * ignore_derivatives(x), Active, Active(3.0))
    ((3.0,),)
    """
    if isinstance(x, np.ndarray):
        plain = plain_value(x)
        return own_copy(plain) if isinstance(plain, ndarray) else plain
    if is_tracked(x):
        return plain_value(x)
    if is_structure(x):
        leaves, rebuild = flatten(x)
        return rebuild([ignore_derivatives(v) for v in leaves])
    return x
