from numpy cimport ndarray

from cyad._context cimport Context, TrackedArray

cdef class Argument:
    cdef TrackedArray tracked
    cdef tuple shadows       # the caller's, one for each lane; None for Const, empty for an Input
    cdef bint private        # whether the call works on a copy of them
    cdef ndarray given       # the caller's array, of which tracked may hold a copy
    cdef object source       # the caller's array as the outer level tracks it, or given

cdef object unwrap(Context ctx, object value)
cdef tuple wrap_all(Context ctx, list named, int width, bint keep)
cdef tuple as_call(object args, dict kwargs, list named, list values)
cdef int write_back(list arguments) except -1
