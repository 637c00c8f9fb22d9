from numpy cimport ndarray

from cyad._context cimport TrackedArray
from cyad.rules._kernels cimport Row

cdef class DuckValue(TrackedArray):
    pass

cdef class DuckArray(DuckValue):
    pass

cdef object binary(Row row, object left, object right)
cdef object power(object left, object right)
cdef bint is_basic(object key) noexcept
cdef object own_key(object key)
cdef object plain_key(object key)
cdef object scalar_attribute(object value, str name)
cdef object scalar_item(object value, object key)
cdef object dispatch(object func, object args, object kwargs)
cdef object derived_view(TrackedArray a, object method, tuple args)
cdef bint shares(ndarray view, ndarray base) except -1
cdef object modular(Row row, object function, object left, object right)
