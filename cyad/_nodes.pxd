from libc.math cimport signbit
from libc.stdint cimport uint32_t, uint64_t
from numpy cimport ndarray, npy_intp

from cyad._context cimport Context
from cyad._shadow cimport Buffer, View
from cyad.rules._kernels cimport Row

cdef enum:
    CONSTANT = 0
    ACTIVE = 1      # a view with a shadow
    SLOT = 2        # a scalar

cdef enum:
    NONE = 0xFFFFFFFF   # the slot of a scalar that is a constant
    FREE = -1           # the place of a result without an adjoint

cdef struct Operand:
    int role
    uint32_t slot
    double number   # the value, where the operand is a scalar

cdef struct Matrix:
    char* data
    npy_intp rows
    npy_intp columns
    npy_intp down     # stride from row to row
    npy_intp along    # from column to column

cdef class Recording(Context):
    cdef double* adjoints
    cdef list shadowed
    cdef object quiet

    cdef int give_shadow(self, Buffer buf, bint zero) except -1
    cdef int hush(self) except -1

cdef class Node:
    cdef int pullback(self, Recording tape) except -1
    cdef int swap(self, Recording tape) except -1

cdef class Elementwise(Node):
    cdef Row row
    cdef View out
    cdef View x
    cdef View y
    cdef Operand xo
    cdef Operand yo
    cdef bint inherits(self, Operand* operand, View target) noexcept
    cdef int pull(self, Recording tape, int k, Operand* operand, View target, npy_intp* ts, char* xp, npy_intp* xs,
                  char* yp, npy_intp* ys, char* op) except -1

cdef class Store(Node):
    cdef View target
    cdef View source
    cdef uint32_t slot
    cdef int pull_in_turn(self, Recording tape) noexcept
    cdef int clear_lanes(self, Recording tape) except -1

cdef class Total(Node):
    cdef View x
    cdef View out          # None for a scalar, whose adjoint is in `slot`
    cdef uint32_t slot
    cdef double scale
    cdef uint64_t reduced  # bit i: axis i of x was summed
    cdef bint keepdims

cdef class Extremum(Node):
    cdef View x
    cdef View out          # None for a scalar, whose adjoint is in `slot`
    cdef uint32_t slot
    cdef double value      # that scalar
    cdef uint64_t reduced  # bit i: axis i of x was searched
    cdef bint keepdims
    cdef int share(self, Recording tape, npy_intp* ms, npy_intp* cs, char* m, npy_intp* counts) except -1

cdef class Product(Node):
    cdef View a
    cdef View b
    cdef View out          # None for the product of two vectors, whose adjoint is in `slot`
    cdef uint32_t slot
    cdef bint a_active
    cdef bint b_active
    cdef int pull(self, Recording tape, int k, Matrix* a, Matrix* b, Matrix* g, int first) except -1
    cdef void cotangent(self, Matrix* g, int lane) noexcept

cdef class Link(Node):
    cdef object pushes   # kept for sweeps of second order where the maps read no values, otherwise None
    cdef list operands
    cdef list pulls
    cdef list outs

cdef class Gather(Node):
    cdef View source
    cdef View out
    cdef object key
    cdef bint repeats

cdef class Scatter(Node):
    cdef View target
    cdef object source
    cdef object key
    cdef object lost

cdef class AddAt(Node):
    cdef View target
    cdef object source
    cdef object key

cdef class GeneralStore(Node):
    cdef object lost        # where target names elements twice: what a later entry of source overwrote, or None
    cdef View target
    cdef object source

cdef class Undo(Node):
    cdef View region
    cdef object key
    cdef object saved
    cdef object prim   # the region as tracked by an outer differentiation, None where it is plain memory

cdef object adjoint_of(Recording tape, object place, int lane)
cdef int lend_lanes(Recording tape, View v) except -1
cdef void matrix_of(Matrix* m, View v, char* base, bint row) noexcept
cdef Matrix transposed(Matrix m) noexcept
cdef void multiply(int single, Matrix* x, Matrix* y, Matrix* out) noexcept
cdef void multiply_add(int single, Matrix* x, Matrix* y, Matrix* out, char* scratch) noexcept

cdef inline bint untouched(const double* adjoints, int width) noexcept:
    """Whether nothing was ever added to the adjoints of a scalar: they begin as -0.0, which no sum with a contribution is."""
    cdef int lane
    for lane in range(width):
        if adjoints[lane] != 0.0 or not signbit(adjoints[lane]):
            return False
    return True

cdef inline void add_touched(double* adjoint, double c) noexcept:
    """Adds what a shadow holds; zeros there may never have been touched."""
    if c != 0.0:
        adjoint[0] += c
