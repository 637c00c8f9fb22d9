from numpy cimport ndarray

from cyad._context cimport Context, TrackedArray
from cyad._shadow cimport View
from cyad._tracked cimport DuckArray, DuckValue
from cyad.rules._kernels cimport Row

cdef enum:
    INLINE_LANES = 8

cdef class ForwardContext(Context):
    cdef readonly bint batched
    cdef object arrays(self, Row row, object x, object y)
    cdef int push(self, Row row, int k, object x, ndarray xa, double xn, ndarray ya, double yn, object operand,
                  DualArray result, bint assign) except -2
    cdef bint operand(self, object value, double* x, int* typenum, bint* active) except -1
    cdef DualArray own_array(self, ndarray out, bint active)
    cdef object with_tangents(self, object out, object block, int typenum)
    cdef int activate(self, TrackedArray a) except -1
    cdef object result(self, object out, list lanes)
    cdef int write(self, TrackedArray target, object key, object value) except -1
    cdef bint write_lanes(self, View target, object value, bint active) except -1

cdef class Dual:
    # The leading fields are those of _tracked.Scalar.
    cdef Context ctx
    cdef double value
    cdef int kind
    cdef int width             # 0: a constant
    cdef double* lanes
    cdef double inline_lanes[8]

cdef class DualArray(DuckArray):
    pass

cdef class DualBox(DuckValue):
    pass
