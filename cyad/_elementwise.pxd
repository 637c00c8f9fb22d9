from numpy cimport ndarray

from cyad._context cimport SINGLE, Context
from cyad.rules._kernels cimport (
    CYAD_OP_add, CYAD_OP_divide, CYAD_OP_multiply, CYAD_OP_power, CYAD_OP_subtract, Row, evaluate, evaluate_f32, scalar_pow,
    scalar_pow_f32,
)

cdef class PushAll:
    # Tangents of all operands at once, where a rule offers it; operands that are constants get None.
    cdef object function
    cdef list active
    cdef int count

    cdef object apply(self, list tangents)

cdef object within_64_bits(object value)
cdef ndarray evaluate_arrays(Row row, int typenum, ndarray x, double xn, ndarray y, double yn)
cdef int strength(Row row, Context ctx) noexcept
cdef tuple partial_maps(Row row, int k, object x, object y, object out, object shape, int strong)
cdef object float_warning(Row row, object x, object y)
cdef object apply(Row row, object x, object y)
cdef object general_elementwise(Context ctx, Row row, object x, object y)
cdef int refuse(Context ctx, Row row, object x, object y) except -1
cdef object link_row(Context ctx, Row row, object x, object y, object xp, object yp, object out)
cdef object warn(Row row, double x, double y, int kind)
cdef object warn_operator(Row row, double x, double y, int kind)
cdef int reduced_axes(object axis, int ndim, bint* reduced) except -1
cdef ndarray real_operand(Context ctx, object value, int* typenum)
cdef object matrix_product(ndarray x, ndarray y, int typenum)

cdef inline double evaluate_scalar(int op, double x, double y, int kind) noexcept:
    """One number, with NumPy's own value; of float32 operands + - * / in double round to the float32 result."""
    if kind == SINGLE:
        if op == CYAD_OP_add:
            return <float>(x + y)
        if op == CYAD_OP_subtract:
            return <float>(x - y)
        if op == CYAD_OP_multiply:
            return <float>(x * y)
        if op == CYAD_OP_divide:
            return <float>(x / y)
        if op == CYAD_OP_power:
            return scalar_pow_f32(x, y)
        return evaluate_f32(op, x, y)
    if op == CYAD_OP_add:
        return x + y
    if op == CYAD_OP_subtract:
        return x - y
    if op == CYAD_OP_multiply:
        return x * y
    if op == CYAD_OP_divide:
        return x / y
    if op == CYAD_OP_power:
        return scalar_pow(x, y)
    return evaluate(op, x, y)

# Products of fewer multiplications keep the GIL: to give it back and take it again costs as much.
cdef enum:
    NO_GIL_FROM = 1 << 16
