"""One call in reverse mode: record it, sweep, hand out derivatives."""
from cpython.float cimport PyFloat_CheckExact
from libc.stdint cimport uint32_t
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS, PyArray_NDIM,
    PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._adjoint cimport Adjoint, AdjointArray, Tape, name_of, seed
from cyad._arguments cimport as_call, unwrap, wrap_all
from cyad._context cimport (
    SINGLE, TrackedArray, is_array, is_float64, is_tracked, lane_of, number, plain_value, real_part,
)
from cyad._redirect cimport current
from cyad._shadow cimport Buffer, release_blocks

import numpy as np

from cyad._arguments import copy_shadows_back
from cyad.activity import Active, Const, Reverse
from cyad.errors import ActivityError

import_array()

cdef extern from "numpy/arrayobject.h":
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)
    Py_ssize_t PyArray_NBYTES(ndarray arr)


def run_reverse(mode, f, returned, args, kwargs, list named, int width, bint batched):
    """`autodiff` in reverse mode, its arguments checked: record the call, sweep, hand out."""
    cdef Tape tape = Tape(f, mode.strong_zero)
    cdef list values, arguments
    cdef int lane
    cdef object result, primal, name, a
    cdef bint seeded
    turn_shadows(mode, named)
    values, arguments = wrap_all(tape, named, width, False)
    positional, keywords = as_call(args, kwargs, named, values)
    try:
        result = tape.call(f, positional, keywords)
        tape.alive = False
        seeded = check_return(tape, mode, f, returned, result)
        if is_array(result) and (<TrackedArray>result).plain and (<TrackedArray>result).arr.ndim == 0:
            tape.alive = True
            result = result[()]
            tape.alive = False
        primal = unwrap(tape, result) if mode.primal else None
        tape.start_sweep(width)
        try:
            if seeded and tape.is_active(result):
                for lane in range(width):
                    seed(tape, result, lane, 1.0)
            tape.run_sweep()
            entries = []
            for (name, a), value in zip(named, values):
                if isinstance(a, Active):
                    derivs = tuple([adjoint_value(tape, value, lane, a.val) for lane in range(width)])
                    if mode.holomorphic:
                        derivs = tuple([np.conjugate(d) for d in derivs])
                    entries.append(derivs if batched else derivs[0])
                else:
                    entries.append(None)
        finally:
            tape.end_sweep()
        copy_shadows_back(arguments)
    finally:
        turn_shadows(mode, named)
        tape.close()
    entries = tuple(entries)
    return (entries, primal) if mode.primal else (entries,)


cdef int turn_shadows(object mode, list named) except -1:
    """The complex derivative f' is the conjugate of what pullbacks give (df/dRe + i df/dIm): in holomorphic mode shadows are
    conjugated before and after."""
    if not mode.holomorphic:
        return 0
    for _, a in named:
        for shadow in (a.dval if getattr(a, "batched", False) else (getattr(a, "dval", None),)):
            if isinstance(shadow, np.ndarray) and np.iscomplexobj(shadow):
                np.conjugate(shadow, out=shadow)
    return 0


cdef object adjoint_value(Tape tape, object value, int lane, object primal):
    """The derivative with respect to an Active argument, as the kind of number that the argument is."""
    if type(value) is Adjoint:
        g = tape.adjoints[<size_t>(<Adjoint>value).slot * tape.width + lane] + 0.0
        return np.float32(g) if (<Adjoint>value).kind == SINGLE else g
    g = lane_of((<TrackedArray>value).place, lane)
    if g is None:
        return 0.0
    if np.iscomplexobj(plain_value(primal)):
        return np.complex64(g) if type(primal) is np.complex64 and not is_tracked(g) else g
    return real_part(g)


cdef object check_return(Tape tape, object mode, object f, object returned, object result):
    """Whether the return value is to be seeded; ActivityError where its activity makes no sense."""
    kind = returned
    if kind is None:
        kind = Const if result is None else Active
    if kind is Const:
        return False
    if kind is not Active:
        raise ActivityError(f"a return of activity {kind.__name__} has no meaning in combined reverse mode; use Active for a number, "
                            "Const for anything that is returned by reference, or autodiff_thunk")
    if result is None:
        raise ActivityError(f"{name_of(f)} returned None where an Active number was asked for; return a number, or pass Const as the "
                            "return activity of autodiff")
    if isinstance(result, (tuple, list, dict)) or not isinstance(plain_value(result), (int, float, complex, np.generic, ndarray)) or \
            isinstance(result, (str, bytes)) or np.ndim(plain_value(result)) > 0:
        what = f"an array of shape {np.shape(plain_value(result))}" if isinstance(result, np.ndarray) else \
            f"a {type(result).__name__}"
        raise ActivityError(f"{name_of(f)} returned {what}; reverse mode needs a scalar. Return a number, return by reference "
                            "(write into a Duplicated argument), use jacobian, or autodiff_thunk")
    if np.iscomplexobj(plain_value(result)) and not mode.holomorphic:
        raise ActivityError(f"{name_of(f)} returned a complex number; the derivative of a complex function needs ReverseHolomorphic, "
                            "or return a real number")
    return tape.is_active(result)


def plain_gradient(f, tuple leaves, tuple constants=(), tuple names=()):
    """The gradient in reverse mode and the value, for floats and whole float arrays outside any other call.

    `constants` are arrays that follow the leaves and have no derivative, `names` what messages call them. It does what run_reverse
    does without its generality, in a third of the time; None where that is needed.
    """
    cdef tuple args = leaves + constants if constants else leaves
    cdef Py_ssize_t i, j, n = len(args), n_leaves = len(leaves), touched = 0
    cdef Tape tape
    cdef AdjointArray array
    cdef Buffer buf
    cdef ndarray arr, other, shadow
    cdef uint32_t slot
    cdef object a, result, value
    cdef list inputs, derivs
    if current() is not NULL:
        return None
    for i in range(n):
        a = args[i]
        if isinstance(a, ndarray):
            arr = a
            if type(a) is not ndarray or not (PyArray_TYPE(arr) == NPY_DOUBLE or PyArray_TYPE(arr) == NPY_FLOAT) or \
                    not PyArray_ISBEHAVED_RO(arr) or not PyArray_ISCONTIGUOUS(arr):
                return None
            for j in range(i):
                if isinstance(args[j], ndarray):
                    other = args[j]
                    if PyArray_DATA(other) < <void*>(<char*>PyArray_DATA(arr) + PyArray_NBYTES(arr)) and \
                            PyArray_DATA(arr) < <void*>(<char*>PyArray_DATA(other) + PyArray_NBYTES(other)):
                        return None
        elif not PyFloat_CheckExact(a) and not is_float64(a):
            return None
    tape = Tape.__new__(Tape, f)
    inputs, derivs = [], []
    for i in range(n):
        a = args[i]
        if not isinstance(a, ndarray):
            inputs.append(tape.scalar(a, True))
            derivs.append(inputs[i])
            continue
        arr = a
        array = tape.own_array(arr)
        array.given = True
        inputs.append(array)
        buf = array.place.buf
        buf.owner = arr
        if i >= n_leaves:
            buf.constant = True
            buf.name = names[i - n_leaves]
            continue
        shadow = PyArray_ZEROS(PyArray_NDIM(arr), PyArray_DIMS(arr), PyArray_TYPE(arr), 0)
        buf.active = True
        buf.borrowed_shadow = True
        buf.shadow = <char*>PyArray_DATA(shadow)
        buf.shadow_owner = shadow
        buf.lane_bytes = buf.nbytes
        touched += buf.nbytes
        derivs.append(shadow)
    try:
        result = tape.call(f, tuple(inputs), {})
        tape.alive = False
        if type(result) is not Adjoint or (<Adjoint>result).ctx is not tape:
            result = scalar_result(tape, f, result)
        value = number(result) if type(result) is Adjoint else unwrap(tape, result)
        release_blocks(touched)   # shadows of arguments take up no memory before the sweep writes into them
        tape.start_sweep(1)
        try:
            if tape.is_active(result):   # also half and long double numbers, which are no C doubles
                seed(tape, result, 0, 1.0)
                tape.run_sweep()
            for i in range(n_leaves):
                if type(derivs[i]) is Adjoint:
                    derivs[i] = tape.adjoints[(<Adjoint>derivs[i]).slot] + 0.0
        finally:
            tape.end_sweep()
    finally:
        tape.close()
    return tuple(derivs), value


cdef object scalar_result(Tape tape, object f, object result):
    """A result that is not an Adjoint of this tape, checked to be a scalar nevertheless."""
    check_return(tape, Reverse, f, Active, result)
    if is_array(result):
        tape.alive = True
        result = result[()]
        tape.alive = False
    return result
