"""How calls of existing code reach cyad: by the C functions behind the names, not by the names.

``np.zeros`` may have been imported as ``from numpy import zeros`` by a helper three modules away, so it is no use to
change an attribute of ``numpy``. But however it is named, it is one ``PyMethodDef`` that the interpreter reads at every
call. Its function pointer is replaced by a *trampoline* of the same calling convention, which asks a *gate*:

- ``"context"``: is a context current in this thread? (creation functions)
- ``"types"``: is an argument, a keyword's value or the receiver of a registered type, exactly, or (inside a call) a list
  that holds such? (``math``, ufuncs)
- ``"fresh"``: the same; and what the original returns is looked at (methods of arrays)
- ``"result"``: never; what it returns is looked at (Python's ``abs``, ``sum``)

Closed, the original gets the call as it came. Open, ``handler(original, *args, **kwargs)`` does; for a method the first
of the arguments is the receiver; ``original`` always calls the original. Ufuncs have a pointer of their own in their
public struct, types one too (``tp_vectorcall``), and so have NumPy's dispatchers (``np.mean``), whose type says where;
they are treated alike. What is redirected, and what the handlers do,
is not known here. docs/existing-code.md says what all of this can and cannot do.

Rejected: swapping attributes (misses names imported before); adapting the globals of the function (misses methods and
helpers); ``tp_new`` for types called (subclasses inherit it, and ``ndarray.__new__(Sub)`` compares it: TypeError).

Thread safety: the context is thread-local; installing and restoring happen under the GIL, with slots filled before
they are published. A slot is never given to another function.
"""
import importlib._bootstrap
import opcode
import os
import types

import numpy as np

from cpython.object cimport PyObject
from libc.stdint cimport uintptr_t
from libc.string cimport memset

from cyad.errors import ADError


cdef extern from "_redirect.h":
    """
    static PyObject *cyad_self_of(PyObject *f)
    {
        PyObject *self = PyCFunction_GET_SELF(f);
        return Py_NewRef(self ? self : Py_None);
    }
    static vectorcallfunc cyad_get_type(PyObject *type) { return ((PyTypeObject *)type)->tp_vectorcall; }
    static void cyad_set_type(PyObject *type, vectorcallfunc f) { ((PyTypeObject *)type)->tp_vectorcall = f; }
    """
    ctypedef PyObject* (*vectorcallfunc)(PyObject*, PyObject* const*, size_t, PyObject*) except NULL
    ctypedef void* PyCFunction
    ctypedef struct PyTypeObject:
        pass
    ctypedef struct PyMethodDef:
        PyCFunction ml_meth
        int ml_flags
    ctypedef struct cyad_slot:
        PyMethodDef copy
        PyMethodDef* live
        PyObject* function
        PyObject* original
        PyObject* handler
        call_handler native
        int gate
        bint is_method
    ctypedef struct cyad_type_slot:
        PyTypeObject* type
        vectorcallfunc previous
        PyObject* original
        PyObject* handler
        int gate

    enum: CYAD_FREE_THREADED, CYAD_CLOSED, CYAD_CONTEXT, CYAD_TYPES, CYAD_FRESH
    enum: CYAD_MAX_TYPES, CYAD_N_CONVENTIONS, CYAD_N_SLOTS, CYAD_N_TYPE_SLOTS, CYAD_FASTCALL_KEYWORDS, CYAD_VARARGS
    cyad_slot (*cyad_slots)[CYAD_N_SLOTS]
    const PyCFunction (*cyad_trampolines)[CYAD_N_SLOTS]
    cyad_type_slot* cyad_type_slots
    vectorcallfunc cyad_ufunc_original
    call_handler cyad_ufunc_handler
    vectorcallfunc cyad_dispatcher_original
    call_handler cyad_dispatcher_handler
    PyObject* cyad_after_import
    PyTypeObject* cyad_ndarray
    fresh_handler cyad_fresh_handler
    unsigned char* cyad_opcodes
    enum: CYAD_OPERATOR, CYAD_CALL
    bint cyad_set_subscript(PyTypeObject* ndarray, bint on) noexcept
    call_handler cyad_compiled_handler
    enum: CYAD_BY_POINTER, CYAD_BY_TYPE, CYAD_BY_SELF
    int cyad_watch(object callable, int by) except 0
    void cyad_unwatch(object callable) noexcept
    PyObject* cyad_call_compiled(object, PyObject* const*, size_t, PyObject*) except NULL

    PyObject* cyad_current() noexcept nogil
    PyObject* cyad_swap_current(PyObject* context) noexcept nogil
    PyObject* cyad_enter(PyObject* context) noexcept nogil
    PyObject* cyad_leave() noexcept nogil
    void cyad_set_types(PyTypeObject** classes, int n) noexcept
    int cyad_convention(int flags) noexcept
    PyMethodDef* cyad_function_def(object f) noexcept
    PyMethodDef* cyad_method_def(object f) noexcept
    bint cyad_can_store(void* p) noexcept
    PyObject* cyad_make_original(cyad_slot* slot) except NULL
    PyObject* cyad_make_type_original(cyad_type_slot* slot) except NULL
    PyObject* cyad_type_call(PyObject*, PyObject* const*, size_t, PyObject*) except NULL
    PyObject* cyad_ufunc_call(PyObject*, PyObject* const*, size_t, PyObject*) except NULL
    vectorcallfunc cyad_get_ufunc(object ufunc) noexcept
    void cyad_set_ufunc(object ufunc, vectorcallfunc f) noexcept
    PyObject* cyad_dispatcher_call(PyObject*, PyObject* const*, size_t, PyObject*) except NULL
    vectorcallfunc cyad_get_vectorcall(object function) noexcept
    void cyad_set_vectorcall(object function, vectorcallfunc f) noexcept
    vectorcallfunc cyad_get_type(object type) noexcept
    void cyad_set_type(object type, vectorcallfunc f) noexcept
    object cyad_self_of(object function)
    object cyad_make_import(object find_and_load)


cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept
    PyObject* Py_NewRef(object o) noexcept
    void Py_XDECREF(PyObject* o) noexcept


class RedirectError(ADError, RuntimeError):
    """A call cannot be redirected: by its nature, on this interpreter, or because somebody turned it off."""


cdef list _GATES = ["closed", "context", "types", "fresh", "result"]  # by the values of the C enum
cdef tuple _types = ()
cdef list _ufuncs = []
cdef list _dispatchers = []
cdef list _compiled = []
cdef object _ufunc_callable = None
cdef object _plain_import = None
cdef object _shielded_import = None
cdef object _after_import = None
cdef int _BINARY_OP = opcode.opmap["BINARY_OP"]


# ---------------------------------------------------------------------------------------------------------------------
# The current context
# ---------------------------------------------------------------------------------------------------------------------

cdef PyObject* current() noexcept nogil:
    return cyad_current()


cdef PyObject* swap_current(PyObject* context) noexcept nogil:
    return cyad_swap_current(context)


cdef PyObject* enter(PyObject* context) noexcept nogil:
    return cyad_enter(context)


cdef PyObject* leave() noexcept nogil:
    return cyad_leave()


def current_context():
    """The context that is current in this thread, or None."""
    cdef PyObject* context = cyad_current()
    return None if context is NULL else <object>context


def run_in_context(context, function, /, *args, **kwargs):
    """``function(*args, **kwargs)`` with `context` (None: with none) current in this thread.

    >>> run_in_context("a context", current_context), current_context()
    ('a context', None)
    """
    cdef PyObject* outer = cyad_enter(NULL if context is None else <PyObject*>context)
    try:
        return function(*args, **kwargs)
    finally:
        cyad_swap_current(outer)


def register_types(tuple classes not None):
    """Replace the types for which the types gate opens: at most 8, compared exactly (they should be final)."""
    global _types
    cdef PyTypeObject* pointers[CYAD_MAX_TYPES]
    cdef int n = 0
    if len(classes) > CYAD_MAX_TYPES:
        raise RedirectError(f"{len(classes)} types to register, and room for {CYAD_MAX_TYPES}")
    for cls in classes:
        if not isinstance(cls, type):
            raise TypeError(f"register_types takes a tuple of types, not one with {cls!r}")
        pointers[n] = <PyTypeObject*>cls
        n += 1
    kept, _types = _types, classes  # the old types live on until no gate compares with their addresses
    cyad_set_types(pointers, n)


# ---------------------------------------------------------------------------------------------------------------------
# Functions and methods
# ---------------------------------------------------------------------------------------------------------------------

def redirect(owner, str name not None, str gate not None, handler):
    """Give calls of a C function to `handler` when `gate` opens.

    Parameters
    ----------
    owner : a module, or a type whose own method it is. Where the attribute of a module is one of NumPy's dispatchers
        (``np.empty_like``), the C function behind it is redirected.
    gate : ``"context"``, ``"types"``, ``"fresh"`` or ``"result"``.
    handler : called as ``handler(original, *args, **kwargs)``, for a method as ``handler(original, self, *args,
        **kwargs)``. The context is as the caller had it: a handler that uses redirected functions itself calls their
        `original`, or runs without context.

    Returns
    -------
    The object that always calls the original.

    Raises
    ------
    RedirectError
        What it met is not a C function, has an unknown calling convention, is protected or is redirected already.
    """
    if not callable(handler):
        raise TypeError(f"the handler for {name!r} must be callable, not {handler!r}")
    return _redirect(owner, name, gate, handler, NULL)


cdef object redirect_native(owner, str name, str gate, call_handler handler):
    """`redirect` for a C function: saves the cost of a Python call, some 30 ns."""
    return _redirect(owner, name, gate, None, handler)


cdef object _redirect(owner, str name, str gate, handler, call_handler native):
    cdef bint is_method = isinstance(owner, type)
    cdef PyMethodDef* definition
    cdef cyad_slot* slot
    cdef int convention
    _check_allowed()
    if is_method:
        function = owner.__dict__.get(name)
    elif isinstance(owner, types.ModuleType):
        function = getattr(owner, name, None)
        function = getattr(function, "_implementation", function)
    else:
        raise TypeError(f"redirect: the owner of {name!r} must be a module or a type, not {owner!r}")
    asked = f"cannot redirect {owner.__name__}.{name}: "
    if function is None:
        raise RedirectError(asked + "there is no such function (a method must be the type's own, not inherited)")

    definition = cyad_method_def(function) if is_method else cyad_function_def(function)
    # A bound method in a module's namespace (random.random) shares its definition with every other receiver.
    if definition is NULL or not is_method and not isinstance(cyad_self_of(function), (types.ModuleType, type(None))):
        raise RedirectError(asked + f"it is not a plain C function but {function!r}; redirect what it calls instead")
    convention = cyad_convention(definition.ml_flags)
    if convention < 0:
        raise RedirectError(asked + f"its calling convention (flags {definition.ml_flags:#x}) is not known here")
    slot = _slot_of(function, definition, convention, is_method, asked)
    if slot.gate != CYAD_CLOSED:
        raise RedirectError(asked + "it is redirected already (maybe under another name of the same function)")
    _open_slot(slot, convention, _gate_of(gate), handler, native, asked)
    return <object>slot.original


cdef cyad_slot* _slot_of(function, PyMethodDef* definition, int convention, bint is_method, str asked) except NULL:
    """The slot that the function had before, or a new one."""
    cdef cyad_slot* slot
    cdef int i
    for i in range(CYAD_N_SLOTS):
        slot = &cyad_slots[convention][i]
        if slot.live is definition:
            return slot
        if slot.live is NULL:
            if not cyad_can_store(&definition.ml_meth):
                raise RedirectError(asked + "its method table lies in memory that cannot be written on this system")
            slot.copy = definition[0]
            slot.is_method = is_method
            slot.function = <PyObject*>function
            slot.original = cyad_make_original(slot)
            Py_NewRef(function)
            slot.live = definition  # last: from here on the slot is taken
            return slot
    raise RedirectError(asked + f"all {CYAD_N_SLOTS} slots of its calling convention are taken")


cdef int _open_slot(cyad_slot* slot, int convention, int gate, handler, call_handler native, str asked) except -1:
    if slot.live.ml_meth != slot.copy.ml_meth:
        raise RedirectError(asked + "its method table was changed by somebody else")
    # The handler of before may be in use, or die and run code: it goes last. For that reason a closed slot keeps one.
    cdef PyObject* before = slot.handler
    slot.handler = Py_NewRef(handler)
    slot.native = native
    slot.gate = gate
    slot.live.ml_meth = cyad_trampolines[convention][slot - cyad_slots[convention]]
    Py_XDECREF(before)
    return 0


cdef void _close_slot(cyad_slot* slot, int convention) noexcept:
    # Where somebody has put something else on top, the closed gate is all that can be done, and enough.
    if slot.live.ml_meth == cyad_trampolines[convention][slot - cyad_slots[convention]]:
        slot.live.ml_meth = slot.copy.ml_meth
    slot.gate = CYAD_CLOSED


cdef int _gate_of(str gate) except -1:
    if gate in _GATES[1:]:
        return _GATES.index(gate)
    raise ValueError(f"the gate must be 'context', 'types', 'fresh' or 'result', not {gate!r}")


cdef int _check_allowed() except -1:
    if os.environ.get("CYAD_REDIRECT") == "0":
        raise RedirectError("calls of existing code are not redirected because CYAD_REDIRECT=0 is in the environment")
    if CYAD_FREE_THREADED:
        raise RedirectError("calls of existing code cannot be redirected on a free-threaded interpreter")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Types called
# ---------------------------------------------------------------------------------------------------------------------

def redirect_type(cls, str gate not None, handler):
    """Give calls of exactly the C type `cls` (not of subclasses) to ``handler(original, *args, **kwargs)``.

    ``cls.__new__(cls, ...)`` is not a call of the type and is not redirected. Raises RedirectError for Python classes.
    """
    cdef cyad_type_slot* slot = NULL
    cdef int i
    if not callable(handler):
        raise TypeError(f"the handler for {cls!r} must be callable, not {handler!r}")
    _check_allowed()
    if not isinstance(cls, type) or cls.__flags__ & (1 << 9):  # Py_TPFLAGS_HEAPTYPE
        raise RedirectError(f"cannot redirect calls of {cls!r}: it is not a static C type")
    for i in range(CYAD_N_TYPE_SLOTS):
        slot = &cyad_type_slots[i]
        if slot.type is NULL or slot.type is <PyTypeObject*>cls:
            break
    else:
        raise RedirectError(f"cannot redirect calls of {cls!r}: all {CYAD_N_TYPE_SLOTS} slots are taken")
    if slot.gate != CYAD_CLOSED:
        raise RedirectError(f"cannot redirect calls of {cls!r}: they are redirected already")
    if slot.type is NULL:
        slot.type = <PyTypeObject*>cls
        slot.previous = cyad_get_type(cls)
        slot.original = cyad_make_type_original(slot)
    elif cyad_get_type(cls) != slot.previous:
        raise RedirectError(f"cannot redirect calls of {cls!r}: its tp_vectorcall was changed by somebody else")
    i = _gate_of(gate)
    cdef PyObject* before = slot.handler
    slot.handler = Py_NewRef(handler)
    slot.gate = i
    cyad_set_type(cls, <vectorcallfunc>cyad_type_call)
    Py_XDECREF(before)


# ---------------------------------------------------------------------------------------------------------------------
# ufuncs
# ---------------------------------------------------------------------------------------------------------------------

cdef void register_ufunc_handler(call_handler handler) noexcept:
    """What calls of redirected ufuncs with an argument of a registered type go to; NULL for nothing."""
    global cyad_ufunc_handler
    cyad_ufunc_handler = handler


def set_ufunc_handler(handler):
    """The same for a Python callable, ``handler(ufunc, args, kwargs)``, or None."""
    global _ufunc_callable
    if handler is not None and not callable(handler):
        raise TypeError(f"the handler of ufuncs must be callable or None, not {handler!r}")
    _ufunc_callable = handler
    if handler is None:
        register_ufunc_handler(NULL)
    else:
        register_ufunc_handler(_call_ufunc_callable)


cdef object _call_ufunc_callable(object ufunc, PyObject* const* args, size_t nargsf, object kwnames):
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf)
    cdef Py_ssize_t i
    positional = tuple([<object>args[i] for i in range(n)])
    keywords = {} if kwnames is None else {key: <object>args[n + i] for i, key in enumerate(<tuple>kwnames)}
    return _ufunc_callable(ufunc, positional, keywords)


cdef object call_ufunc(ufunc, PyObject* const* args, size_t nargsf, kwnames):
    """The ufunc's own call, whatever the types of the arguments."""
    cdef vectorcallfunc call = cyad_get_ufunc(ufunc)
    if call == <vectorcallfunc>cyad_ufunc_call:
        call = cyad_ufunc_original
    cdef PyObject* result = call(<PyObject*>ufunc, args, nargsf, NULL if kwnames is None else <PyObject*>kwnames)
    out = <object>result
    Py_XDECREF(result)
    return out


def redirect_ufuncs(ufuncs):
    """Give calls of these ufuncs to the registered handler when an argument has a registered type.

    Those that are redirected already stay so. Raises RedirectError, and changes nothing, where a ufunc is not called
    by NumPy's one C function.
    """
    global cyad_ufunc_original
    cdef vectorcallfunc common = cyad_get_ufunc(np.add)
    if common == <vectorcallfunc>cyad_ufunc_call:
        common = cyad_ufunc_original
    _check_allowed()
    new = []
    for ufunc in ufuncs:
        if not isinstance(ufunc, np.ufunc):
            raise TypeError(f"redirect_ufuncs takes ufuncs, not {ufunc!r}")
        if cyad_get_ufunc(ufunc) == <vectorcallfunc>cyad_ufunc_call:
            continue
        if cyad_get_ufunc(ufunc) != common or common is NULL:
            raise RedirectError(f"cannot redirect {ufunc!r}: its call was changed by somebody else")
        new.append(ufunc)
    cyad_ufunc_original = common
    for ufunc in new:
        if cyad_get_ufunc(ufunc) == common:  # the same one may come twice
            _ufuncs.append(ufunc)
            cyad_set_ufunc(ufunc, <vectorcallfunc>cyad_ufunc_call)


def redirect_module_ufuncs(module):
    """`redirect_ufuncs` for every ufunc in the module's namespace."""
    redirect_ufuncs([value for value in vars(module).values() if isinstance(value, np.ufunc)])


# ---------------------------------------------------------------------------------------------------------------------
# NumPy's dispatchers
# ---------------------------------------------------------------------------------------------------------------------

cdef void register_dispatcher_handler(call_handler handler) noexcept:
    """What calls of redirected dispatchers with a list of registered types go to; NULL for nothing."""
    global cyad_dispatcher_handler
    cyad_dispatcher_handler = handler


def redirect_dispatchers(functions):
    """Give calls of these functions of NumPy's to the registered handler when a list among the arguments holds a value of a
    registered type and a context is current: ``np.mean([x[0], x[1]])``.

    Those that are redirected already stay so. Raises RedirectError, and changes nothing, for anything but
    NumPy's dispatchers as NumPy left them.
    """
    global cyad_dispatcher_original
    cdef vectorcallfunc common = cyad_get_vectorcall(np.sum)
    if common == <vectorcallfunc>cyad_dispatcher_call:
        common = cyad_dispatcher_original
    _check_allowed()
    new = []
    for function in functions:
        if type(function) is not type(np.sum) or common is NULL:
            raise RedirectError(f"cannot redirect {function!r}: it is not one of NumPy's dispatchers")
        if cyad_get_vectorcall(function) == <vectorcallfunc>cyad_dispatcher_call:
            continue
        if cyad_get_vectorcall(function) != common:
            raise RedirectError(f"cannot redirect {function!r}: its call was changed by somebody else")
        new.append(function)
    cyad_dispatcher_original = common
    for function in new:
        if cyad_get_vectorcall(function) == common:  # the same one may come twice
            _dispatchers.append(function)
            cyad_set_vectorcall(function, <vectorcallfunc>cyad_dispatcher_call)


# ---------------------------------------------------------------------------------------------------------------------
# Fresh results
# ---------------------------------------------------------------------------------------------------------------------

cdef void register_fresh_handler(fresh_handler handler) noexcept:
    """What makes a fresh float array that the user's code computed from plain ones a tracked one; NULL for nothing."""
    global cyad_fresh_handler
    cyad_fresh_handler = handler


def redirect_operators():
    """Give fresh results of operators and subscripts of plain arrays to the registered handler, in the user's code.

    Ufuncs and dispatchers that are redirected do so when they are called by name. Raises RedirectError where somebody else
    has changed how arrays are subscripted.
    """
    global cyad_ndarray
    _check_allowed()
    cyad_ndarray = <PyTypeObject*>np.ndarray
    # `+x` is an operation of its own up to CPython 3.11, and one of several intrinsics from then on.
    for kind, names in ((CYAD_OPERATOR, ("BINARY_OP", "BINARY_SUBSCR", "UNARY_NEGATIVE", "UNARY_POSITIVE", "CALL_INTRINSIC_1")),
                        (CYAD_CALL, ("CALL", "CALL_KW", "CALL_FUNCTION_EX", "PRECALL"))):
        for name in names:
            if name in opcode.opmap:
                cyad_opcodes[opcode.opmap[name]] = kind
    if not cyad_set_subscript(cyad_ndarray, True):
        raise RedirectError("cannot redirect subscripts of arrays: they were changed by somebody else")


cdef bint _operators_on() noexcept:
    return cyad_ndarray is not NULL and cyad_opcodes[<int>_BINARY_OP] == CYAD_OPERATOR


# ---------------------------------------------------------------------------------------------------------------------
# Functions of compiled libraries
# ---------------------------------------------------------------------------------------------------------------------

cdef void register_compiled_handler(call_handler handler) noexcept:
    """What calls of redirected compiled functions with an argument of a registered type go to; NULL for nothing."""
    global cyad_compiled_handler
    cyad_compiled_handler = handler


cdef object call_compiled(callable, PyObject* const* args, size_t nargsf, kwnames):
    """The function's own call, whatever the types of the arguments."""
    cdef PyObject* result = cyad_call_compiled(callable, args, nargsf, NULL if kwnames is None else <PyObject*>kwnames)
    out = <object>result
    Py_XDECREF(result)
    return out


def redirect_compiled(functions):
    """Give calls of compiled functions to the registered handler when an argument has a registered type.

    Functions that Python's C interface calls with a tuple, methods of that kind, and Cython's functions have pointers of their own.
    Of f2py's, and of Cython's functions of fused types, it is all that have the type. pybind11's are bound to an object each.
    Anything else stays as it is: there the interpreter calls the C function itself. Fresh results are looked at as those of
    ufuncs are.
    """
    cdef int by
    _check_allowed()
    for function in functions:
        by = _way_of(function)
        if by == CYAD_BY_TYPE:
            function = type(function)
        if by and cyad_watch(function, by) == 1:
            _compiled.append((function, by))


cdef int _way_of(object function) except -1:
    kind = type(function).__name__
    if isinstance(function, (types.BuiltinFunctionType, types.MethodDescriptorType)):
        definition = cyad_function_def(function) if type(function) is types.BuiltinFunctionType else cyad_method_def(function)
        convention = -1 if definition is NULL else cyad_convention(definition.ml_flags)
        if convention >= CYAD_VARARGS:
            return CYAD_BY_POINTER
        if convention == CYAD_FASTCALL_KEYWORDS and kind == "builtin_function_or_method" and \
                not isinstance(function.__self__, (types.ModuleType, type(None))):
            return CYAD_BY_SELF
        return 0
    if kind in ("fortran", "fused_cython_function"):
        return CYAD_BY_TYPE
    return CYAD_BY_POINTER if kind == "cython_function_or_method" else 0


# ---------------------------------------------------------------------------------------------------------------------
# Imports
# ---------------------------------------------------------------------------------------------------------------------

def shield_imports(after=None):
    """Run modules that are first imported inside a call without context, and then call `after`.

    Else what they make at their top level (tables of coefficients) would be tracked by a call that ends, and the
    module would be unusable afterwards. Imports that find their module loaded do not come here.
    """
    global _plain_import, _shielded_import, _after_import
    _check_allowed()
    if after is not None:
        _after_import = after
        cyad_after_import = <PyObject*>_after_import
    if importlib._bootstrap._find_and_load is _shielded_import:
        return
    plain = getattr(importlib._bootstrap, "_find_and_load", None)
    if not isinstance(plain, types.FunctionType):
        raise RedirectError(f"cannot shield imports: importlib._bootstrap._find_and_load is {plain!r}")
    _plain_import, _shielded_import = plain, cyad_make_import(plain)
    importlib._bootstrap._find_and_load = _shielded_import


# ---------------------------------------------------------------------------------------------------------------------
# Off and on
# ---------------------------------------------------------------------------------------------------------------------

def installed():
    """What is redirected: a list of (name, gate)."""
    cdef int c, i
    found = []
    for c in range(CYAD_N_CONVENTIONS):
        for i in range(CYAD_N_SLOTS):
            if cyad_slots[c][i].gate != CYAD_CLOSED:
                function = <object>cyad_slots[c][i].function
                owner = function.__objclass__ if cyad_slots[c][i].is_method else function
                found.append((f"{owner.__module__}.{function.__qualname__}", _GATES[cyad_slots[c][i].gate]))
    for i in range(CYAD_N_TYPE_SLOTS):
        if cyad_type_slots[i].gate != CYAD_CLOSED:
            cls = <object>cyad_type_slots[i].type
            found.append((f"{cls.__module__}.{cls.__qualname__}()", _GATES[cyad_type_slots[i].gate]))
    found += [(f"ufunc {ufunc.__name__}", "types") for ufunc in _ufuncs]
    found += [(f"dispatcher {function.__module__}.{function.__name__}", "context") for function in _dispatchers]
    found += [(f"compiled {getattr(f, '__module__', '')}.{f.__qualname__}", "types") for f, _ in _compiled]
    if _operators_on():
        found.append(("operators and subscripts", "context"))
    if importlib._bootstrap._find_and_load is _shielded_import:
        found.append(("import", "context"))
    return found


def restore_all():
    """Turn everything off: functions, types, ufuncs and imports as they were. Returns what `reinstall` takes."""
    cdef int c, i
    cdef cyad_slot* slot
    cdef cyad_type_slot* type_slot
    functions, classes, ufuncs, dispatchers, compiled = [], [], list(_ufuncs), list(_dispatchers), list(_compiled)
    for c in range(CYAD_N_CONVENTIONS):
        for i in range(CYAD_N_SLOTS):
            slot = &cyad_slots[c][i]
            if slot.gate != CYAD_CLOSED:
                functions.append((c, i, slot.gate, <object>slot.handler, <uintptr_t>slot.native))
                _close_slot(slot, c)
    for i in range(CYAD_N_TYPE_SLOTS):
        type_slot = &cyad_type_slots[i]
        if type_slot.gate != CYAD_CLOSED:
            cls = <object>type_slot.type
            classes.append((cls, _GATES[type_slot.gate], <object>type_slot.handler))
            if cyad_get_type(cls) == <vectorcallfunc>cyad_type_call:
                cyad_set_type(cls, type_slot.previous)
            type_slot.gate = CYAD_CLOSED
    for ufunc in ufuncs:
        if cyad_get_ufunc(ufunc) == <vectorcallfunc>cyad_ufunc_call:
            cyad_set_ufunc(ufunc, cyad_ufunc_original)
    for function in dispatchers:
        if cyad_get_vectorcall(function) == <vectorcallfunc>cyad_dispatcher_call:
            cyad_set_vectorcall(function, cyad_dispatcher_original)
    for function, _ in compiled:
        cyad_unwatch(function)
    _ufuncs.clear()
    _dispatchers.clear()
    _compiled.clear()
    operators = _operators_on()
    if operators:
        memset(cyad_opcodes, 0, 256)
        cyad_set_subscript(cyad_ndarray, False)
    shielded = importlib._bootstrap._find_and_load is _shielded_import
    if shielded:
        importlib._bootstrap._find_and_load = _plain_import
    return functions, classes, ufuncs, dispatchers, compiled, operators, shielded, _types, _ufunc_callable, <uintptr_t>cyad_ufunc_handler


def reinstall(tuple saved not None):
    """Turn on again, and nothing but, what `restore_all` returned."""
    global _ufunc_callable
    cdef cyad_slot* slot
    cdef int c, i
    cdef uintptr_t native
    functions, classes, ufuncs, dispatchers, compiled, operators, shielded, registered, _callable, ufunc_native = saved
    restore_all()
    for c, i, gate, handler, native in functions:
        slot = &cyad_slots[c][i]
        _open_slot(slot, c, gate, handler, <call_handler>native, f"cannot redirect {<object>slot.function} again: ")
    for cls, name, handler in classes:
        redirect_type(cls, name, handler)
    register_types(registered)
    redirect_ufuncs(ufuncs)
    redirect_dispatchers(dispatchers)
    for function, i in compiled:
        if cyad_watch(function, i) == 1:
            _compiled.append((function, i))
    if operators:
        redirect_operators()
    if shielded:
        shield_imports()
    native = ufunc_native
    _ufunc_callable = _callable
    register_ufunc_handler(<call_handler>native)
