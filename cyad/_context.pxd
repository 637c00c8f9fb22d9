from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_AsLongAndOverflow, PyLong_CheckExact
from cpython.ref cimport PyObject, PyTypeObject
from numpy cimport NPY_DOUBLE, NPY_FLOAT, ndarray

from cyad._shadow cimport Buffer, View
from cyad.rules._kernels cimport Row

cdef extern from *:
    """
    #define cyad_is_float64(o) (Py_TYPE(o) == &PyDoubleArrType_Type)
    #define cyad_is_float32(o) (Py_TYPE(o) == &PyFloatArrType_Type)
    #define cyad_float64_value(o) (((PyDoubleScalarObject*)(o))->obval)
    #define cyad_float32_value(o) (((PyFloatScalarObject*)(o))->obval)
    """
    bint is_float64 "cyad_is_float64"(object o)
    bint is_float32 "cyad_is_float32"(object o)
    double float64_value "cyad_float64_value"(object o)
    float float32_value "cyad_float32_value"(object o)

# Kinds of real scalars, ordered by NumPy's promotion: a Python float yields to any NumPy float.
cdef enum:
    WEAK = 0
    SINGLE = 1
    DOUBLE = 2

cdef class Context:
    cdef readonly int level
    cdef int width
    cdef bint alive
    cdef readonly bint strong
    cdef bint backward   # shadows hold adjoints, which are added to
    cdef Context outer
    cdef object title       # the function of the call, or words for it
    cdef bint running       # the function of the call runs, or its sweep: NumPy's arrays may be given kept memory
    cdef bint large         # the call has made large arrays by ordinary NumPy calls
    cdef object refused     # what the last conversion to a plain number was told, which compiled code may pass over
    cdef object allocator   # while NumPy is given kept memory: what allocated before

    cdef TrackedArray new_array(self)
    cdef TrackedArray new_box(self)
    cdef object elementwise(self, Row row, object x, object y, const double* given)
    cdef object link(self, object out, list operands, object pushes, list pulls, object reads)
    cdef object combine(self, object out, list operands, list partials)
    cdef object load(self, TrackedArray a, char* address)
    cdef object total(self, TrackedArray a, object axis, bint keepdims, bint mean)
    cdef object extremum(self, TrackedArray a, object reduce, object axis, bint keepdims)
    cdef object product(self, object a, object b)
    cdef int gather(self, TrackedArray a, object key, TrackedArray out) except -1
    cdef int store(self, TrackedArray target, object value) except -1
    cdef int store_element(self, TrackedArray a, char* address, object value) except -1
    cdef int scatter(self, TrackedArray a, object key, object value) except -1
    cdef int add_at(self, TrackedArray a, object key, object value) except -1
    cdef bint is_active(self, object value) except -1
    cdef int before_overwrite(self, TrackedArray target, object key) except -1
    cdef object variable_scalar(self, object value, tuple lanes)
    cdef object guard(self, object plain)
    cdef int start(self) except -1
    cdef int keep_memory(self) except -1
    cdef int stop(self) except -1
    cdef bint over(self) noexcept

cdef class Scalar:
    # The common head of Adjoint and Dual, which are laid out alike; see _context.pyx.
    cdef Context ctx
    cdef double value
    cdef int kind

cdef class TrackedArray:
    cdef Context ctx
    cdef View place
    cdef ndarray arr
    cdef object prim
    cdef bint plain
    cdef bint boxed
    cdef bint given

cdef PyTypeObject* ADJOINT
cdef PyTypeObject* DUAL
cdef PyTypeObject* ADJOINT_ARRAY
cdef PyTypeObject* DUAL_ARRAY
cdef PyTypeObject* ADJOINT_BOX
cdef PyTypeObject* DUAL_BOX

cdef inline bint is_scalar(object value) noexcept:
    cdef PyTypeObject* t = (<PyObject*>value).ob_type
    return t == ADJOINT or t == DUAL

cdef inline bint is_array(object value) noexcept:
    cdef PyTypeObject* t = (<PyObject*>value).ob_type
    return t == ADJOINT_ARRAY or t == DUAL_ARRAY or t == ADJOINT_BOX or t == DUAL_BOX

cdef inline bint is_tracked(object value) noexcept:
    return is_scalar(value) or is_array(value)

cdef int register_types(object adjoint, object dual, object adjoint_array, object dual_array, object box) except -1
cdef Context context_of(object value)
cdef int escaped(Context ctx) except -1
cdef int check_alive(Context ctx) except -1
cdef object settled(object value, bint strangers=*)
cdef bint unrelated(Context a, Context b)
cdef object usable(TrackedArray a)
cdef int check_storable(TrackedArray target) except -1
cdef object primal_at(Context ctx, object value)
cdef object plain_value(object value)
cdef object wrap_new(Context ctx, ndarray arr)
cdef object wrap_box(Context ctx, object value)
cdef TrackedArray wrap_view(TrackedArray base, object prim)
cdef object lane_of(View v, int lane)
cdef object strided(object base, View v)
cdef int ensure_lanes(Context ctx, Buffer buf, int width) except -1
cdef int add_to_lane(Context ctx, View v, int lane, object c) except -1
cdef ndarray own_copy(ndarray arr)
cdef Buffer buffer_over(ndarray arr)
cdef TrackedArray wrap_over(Context ctx, object prim)
cdef object run_primal(Context ctx, object function, tuple args, dict kwargs)
cdef bint is_active_anywhere(object value) except -1
cdef object unbroadcast(object c, tuple shape)
cdef object number(object value)
cdef int explain(Context ctx, object error) except -1
cdef object run_plain(object function, tuple args)
cdef object object_operand(object value)
cdef object wrap_inactive(Context ctx, object out)
cdef Context higher(Context a, Context b)
cdef Context context_among(object values)
cdef list leaves_of(object args, object kwargs)
cdef object all_plain(object value)
cdef object primals_of(Context ctx, object value)
cdef int check_conflict(Buffer buf) except -1
cdef bint rare_number(object value, double* x, int* kind) except -1
cdef object below(Context ctx, object value)
cdef int write_primal(Context ctx, object prim, object key, object value) except -1
cdef bint scalar_fits(object value, int typenum) except -1
cdef bint is_box(View v) noexcept
cdef object real_part(object c)
cdef bint has_own_operators(object value) except -1
cdef int refuse_own_operators(object value, object name) except -1
cdef bint is_zero_seed(object t) except -1
cdef object finite_only(object c)

cdef extern from "Python.h":
    # Walkers over a user's lists: one that holds itself is a RecursionError, not the end of the C stack.
    int Py_EnterRecursiveCall(const char* where) except 1
    void Py_LeaveRecursiveCall() noexcept

cdef object shape_of(object value)
cdef bint is_complex(object value)
cdef ndarray plain_copy(ndarray arr, object dtype, object order)

cdef inline bint is_real_float(int typenum) noexcept:
    return typenum == NPY_DOUBLE or typenum == NPY_FLOAT

cdef inline bint as_number(object value, double* x, int* kind) except -1:
    """Reads a plain real number; False for anything else."""
    cdef int overflow = 0
    cdef long small
    if PyFloat_CheckExact(value):
        x[0] = PyFloat_AS_DOUBLE(value)
        kind[0] = WEAK
        return True
    if is_float64(value):
        x[0] = float64_value(value)
        kind[0] = DOUBLE
        return True
    if PyLong_CheckExact(value):
        small = PyLong_AsLongAndOverflow(value, &overflow)
        x[0] = <double>small if not overflow else <double>value
        kind[0] = WEAK
        return True
    return rare_number(value, x, kind)
