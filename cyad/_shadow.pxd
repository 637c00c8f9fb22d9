from libc.stdint cimport uint32_t
from numpy cimport ndarray, npy_intp

cdef enum:
    INLINE_DIMS = 4

# From this size on (bytes) memory is kept to be used again.
cdef enum:
    SMALLEST_KEPT = 1 << 14

cdef class Block:
    cdef char* data
    cdef Py_ssize_t nbytes

cdef class Buffer:
    cdef char* data
    cdef Py_ssize_t nbytes
    cdef object owner
    cdef char* shadow
    cdef Py_ssize_t lane_bytes
    cdef object shadow_owner
    cdef list lanes
    cdef char* tangent
    cdef object tangent_owner
    cdef int typenum
    cdef uint32_t number
    cdef bint active
    cdef bint referred
    cdef Py_ssize_t referred_from
    cdef Py_ssize_t referred_to
    cdef bint exposed
    cdef bint written
    cdef bint constant
    cdef bint conflict
    cdef bint borrowed_shadow
    cdef str name

    cdef int make_shadow(self, int width, bint zero) except -1
    cdef void drop_shadow(self) noexcept
    cdef int make_tangent(self, bint zero) except -1

cdef class View:
    cdef Buffer buf
    cdef Py_ssize_t offset
    cdef Py_ssize_t first
    cdef Py_ssize_t last
    cdef Py_ssize_t size
    cdef int ndim
    cdef int typenum
    cdef bint contiguous
    cdef bint overlaps
    cdef npy_intp* shape
    cdef npy_intp* strides
    cdef npy_intp dims[8]

    cdef ndarray array_at(self, char* base, object owner)
    cdef ndarray primal(self)
    cdef bint is_whole(self) noexcept
    cdef tuple shape_tuple(self)

cdef Block new_block(Py_ssize_t nbytes, bint zero)
cdef void trim_blocks() noexcept
cdef object set_handler(object handler)
cdef void release_blocks(Py_ssize_t wanted) noexcept
cdef ndarray new_result(int ndim, npy_intp* dims, int typenum, Py_ssize_t itemsize)
cdef Buffer buffer_of_new(ndarray arr)
cdef View view_of(Buffer buf, ndarray arr)
cdef bint same_geometry(View a, View b) noexcept
cdef bint may_overlap(View a, View b) noexcept
cdef bint broadcast_strides(View v, int ndim, const npy_intp* shape, npy_intp* out) noexcept
cdef tuple extent_of(ndarray arr)
cdef object behind_lane_axis(object lanes, int ndim)
