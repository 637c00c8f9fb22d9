"""What both modes share: contexts, tracked arrays, indexing, views, and how calls find their rule.

A tracked array is a duck array, not a subclass of ndarray: `np.asarray` would strip a subclass without a word, and
the derivative with it. It wraps `prim` (a plain ndarray, or a tracked array of an outer differentiation); `arr` is the ndarray at the
bottom, whose geometry and memory are the real ones; `view` places it in its buffer (`_shadow`). `plain` says that prim is arr.
Scalars that do not fit a C double (complex, or tracked by an outer differentiation) are `boxed`: `prim` is the number
itself, there is no memory, and their shadow is a list of numbers, one for each lane.

Everything that differs between the modes is a method of the context (`elementwise`, `link`, `load`, `gather`, `store`, `scatter`,
`add_at`); an array asks its context. `link` is the general one: an operation is its result and, for each active operand, a
linear map (push) and its transpose (pull). The others are there because they are hot or because they write memory.

Adjoint and Dual cannot inherit from `Scalar`: Cython gives a freelist only to types without a base. They declare the same
leading fields instead, and `Scalar` is the name under which shared code reads those (checked at registration).

Thread safety: a tracked value belongs to the thread that runs its call; there is no global state but the types registered below.
"""
cimport cython
from cpython.buffer cimport PyObject_GetBuffer
from cpython.object cimport PyObject_RichCompare
from cpython.ref cimport PyObject, PyTypeObject
from libc.math cimport isfinite
from libc.string cimport memcpy
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DescrFromType, PyArray_DIMS,
    PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS, PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES,
    PyArray_TYPE, PyTypeNum_ISCOMPLEX, import_array, ndarray, npy_intp,
)

from cyad._redirect cimport swap_current
from cyad._shadow cimport Buffer, View, buffer_of_new, extent_of, new_result, view_of
from cyad.rules._kernels cimport Row, evaluate_array, multiply_matrices

import functools
import opcode
import operator
import types

import numpy as np

from cyad.errors import ActiveStoreError, ActivityError, ADError, EscapedValueError, MissingRuleError, lost, name_of, where
from cyad.rules._kernels import rows_by_name
from cyad.rules.custom import OVERRIDES as _OVERRIDES

cdef extern from "numpy/arrayobject.h":
    ctypedef int NPY_ORDER
    NPY_ORDER NPY_KEEPORDER
    NPY_ORDER NPY_CORDER
    ndarray PyArray_NewCopy(ndarray arr, NPY_ORDER order)
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)

import_array()

cdef object f64 = np.float64
cdef object np_matmul = np.matmul
cdef object f32 = np.float32

cdef Row ADD = rows_by_name["add"]
cdef Row SUBTRACT = rows_by_name["subtract"]
cdef Row MULTIPLY = rows_by_name["multiply"]
cdef Row DIVIDE = rows_by_name["divide"]
cdef Row NEGATIVE = rows_by_name["negative"]
cdef Row POSITIVE = rows_by_name["positive"]
cdef Row POWER = rows_by_name["power"]
cdef Row SQUARE = rows_by_name["square"]
cdef Row SQRT = rows_by_name["sqrt"]
cdef Row RECIPROCAL = rows_by_name["reciprocal"]
cdef Row ABSOLUTE = rows_by_name["absolute"]
cdef Row SIGN = rows_by_name["sign"]
cdef Row REMAINDER = rows_by_name["remainder"]
cdef Row FLOOR_DIVIDE = rows_by_name["floor_divide"]


# ---- contexts -------------------------------------------------------------------------------------------------------

cdef class Context:
    """One differentiating call: its level, its number of lanes, whether it still runs.

    `outer` is the context that was current when this one was made; where there is one, primals and shadows may be tracked by it,
    so all work goes through ordinary NumPy calls on them.
    """

    cdef TrackedArray new_array(self):
        raise NotImplementedError("a context of no mode")

    cdef object elementwise(self, Row row, object x, object y, const double* given):
        raise NotImplementedError("a context of no mode")

    cdef object link(self, object out, list operands, object pushes, list pulls, object reads):
        raise NotImplementedError("a context of no mode")

    cdef object combine(self, object out, list operands, list partials):
        """The number `out`, linearised by numbers: one partial derivative for each operand. None where `link` must do it."""
        return None

    cdef object load(self, TrackedArray a, char* address):
        raise NotImplementedError("a context of no mode")

    cdef object total(self, TrackedArray a, object axis, bint keepdims, bint mean):
        """np.sum (np.mean) of plain float memory; None where the general path must do it."""
        return None

    cdef object extremum(self, TrackedArray a, object reduce, object axis, bint keepdims):
        """np.max or np.min of plain float memory, of which `reduce` gives the value; None where the general path must do it."""
        return None

    cdef object product(self, object a, object b):
        """np.matmul of vectors and matrices in plain float memory; None where the general path must do it."""
        return None

    cdef int gather(self, TrackedArray a, object key, TrackedArray out) except -1:
        raise NotImplementedError("a context of no mode")

    cdef int store(self, TrackedArray target, object value) except -1:
        raise NotImplementedError("a context of no mode")

    cdef int store_element(self, TrackedArray a, char* address, object value) except -1:
        raise NotImplementedError("a context of no mode")

    cdef int scatter(self, TrackedArray a, object key, object value) except -1:
        raise NotImplementedError("a context of no mode")

    cdef int add_at(self, TrackedArray a, object key, object value) except -1:
        raise NotImplementedError("a context of no mode")

    cdef bint is_active(self, object value) except -1:
        raise NotImplementedError("a context of no mode")

    cdef int before_overwrite(self, TrackedArray target, object key) except -1:
        return 0

    cdef object guard(self, object plain):
        return plain

    cdef object variable_scalar(self, object value, tuple lanes):
        raise NotImplementedError("a context of no mode")


cdef extern from *:
    """
    static void cyad_no_sequence(PyObject *type) { ((PyTypeObject *)type)->tp_as_sequence->sq_item = NULL; }
    """
    void cyad_no_sequence(object type)


cdef int register_types(object adjoint, object dual, object adjoint_array, object dual_array) except -1:
    """Told once, by the carriers' package, which types carry derivatives."""
    global ADJOINT, DUAL, ADJOINT_ARRAY, DUAL_ARRAY
    for scalar in (adjoint, dual):
        if scalar is not None:
            # A type with sq_item looks like a sequence to NumPy, which then hides our error behind one of its own.
            cyad_no_sequence(scalar)
    if adjoint is not None:
        ADJOINT = <PyTypeObject*>adjoint
        ADJOINT_ARRAY = <PyTypeObject*>adjoint_array
    if dual is not None:
        DUAL = <PyTypeObject*>dual
        DUAL_ARRAY = <PyTypeObject*>dual_array
    return 0


cdef Context context_of(object value):
    """The context of a tracked value, None for anything else."""
    if is_scalar(value):
        return (<Scalar>value).ctx
    if is_array(value):
        return (<TrackedArray>value).ctx
    return None


cdef object title_of(Context ctx):
    if ctx.title is None or isinstance(ctx.title, str):
        return ctx.title or "a function"
    return name_of(ctx.title)


cdef int escaped(Context ctx) except -1:
    raise EscapedValueError(
        f"a value of the differentiated call of {title_of(ctx)} was used after that call had ended; "
        "return it from the function, or copy its number out while the function runs (cyad.ignore_derivatives)")


cdef int check_alive(Context ctx) except -1:
    if ctx is None:
        raise ADError("none of the operands is tracked")
    if not ctx.alive:
        escaped(ctx)
    return 0


cdef Context higher(Context a, Context b):
    """The inner of two contexts; the values of the other one are constants to it."""
    if a is None or a is b:
        return b
    if b is None:
        return a
    check_alive(a)
    check_alive(b)
    if a.level == 0 and b.level == 0:
        raise ActivityError(f"values of batch width {a.width} and {b.width} meet in one operation; a batch has one width")
    if a.level == b.level:
        raise ADError("values of two unrelated differentiated calls meet in one operation")
    return a if a.level > b.level else b


cdef Context context_among(object values):
    cdef Context ctx = None
    for v in values:
        ctx = higher(ctx, context_of(v))
    return ctx


cdef object number(object value):
    """A scalar's primal with NumPy's type: weak ones are Python floats."""
    cdef Scalar s = <Scalar>value
    if s.kind == WEAK:
        return s.value
    return f64(s.value) if s.kind == DOUBLE else f32(s.value)


cdef object primal_at(Context ctx, object value):
    """What `value` is to the operations of the next level out: its primal if ctx tracks it, itself otherwise."""
    if is_scalar(value):
        return number(value) if (<Scalar>value).ctx is ctx else value
    if is_array(value) and (<TrackedArray>value).ctx is ctx:
        return (<TrackedArray>value).prim
    return value


cdef object plain_value(object value):
    """The number or ndarray at the bottom."""
    while True:
        if is_scalar(value):
            return number(value)
        if not is_array(value):
            return value
        if (<TrackedArray>value).arr is not None:
            return (<TrackedArray>value).arr
        value = (<TrackedArray>value).prim


# ---- hooks: what stands on the floors above --------------------------------------------------------------------------

cdef object _apply_ufunc = None
cdef object _dispatch = None
cdef dict OVERRIDES = _OVERRIDES   # NumPy functions that users gave rules
cdef object _overridden = None


def register_dispatch(apply_ufunc, dispatch):
    """Told once, by `_dispatch`: how calls of ufuncs and of other functions find their rule."""
    global _apply_ufunc, _dispatch
    _apply_ufunc, _dispatch = apply_ufunc, dispatch


def register_overridden(overridden):
    """Told once, by `_primitive`: how a function with an entry in OVERRIDES is called; NotImplemented where no rule applies."""
    global _overridden
    _overridden = overridden


cdef object dispatch(object func, object args, object kwargs):
    return _dispatch(func, args, kwargs)


cdef dict _OPCODES = opcode.opmap


cdef int explain(object error) except -1:
    """Adds to an error of compiled code, which knows nothing of tracked values, that it was given some."""
    cdef object trace = error.__traceback__, frame
    while trace.tb_next is not None:
        trace = trace.tb_next
    frame = trace.tb_frame
    code = frame.f_code
    if isinstance(error, ADError) or not 0 <= trace.tb_lasti < len(code.co_code) \
            or code.co_code[trace.tb_lasti] == _OPCODES["RAISE_VARARGS"]:
        return 0   # cyad's own, or raised by Python code that knows why
    tracked = sorted([name for name, value in frame.f_locals.items() if is_tracked(value)])
    if tracked:
        error.add_note(f"cyad: compiled code that takes plain arrays only was called in {code.co_qualname}, line {trace.tb_lineno}, where "
                       f"{', '.join(tracked)} carried derivatives; give the function a rule (cyad.rules), or compute "
                       "with NumPy's functions")
    return 0


# ---- wrapping -------------------------------------------------------------------------------------------------------

cdef Buffer buffer_over(ndarray arr):
    """A buffer for the bytes that `arr` touches, whatever its layout."""
    cdef Buffer buf = buffer_of_new(arr)
    cdef Py_ssize_t low, high
    low, high = extent_of(arr)
    buf.data = <char*>low
    buf.nbytes = high - low
    return buf


cdef ndarray native(ndarray arr):
    """Who asks for the other byte order gets the values in this machine's, because elements are read straight from memory."""
    return arr if PyArray_ISNOTSWAPPED(arr) else plain_copy(arr, arr.dtype.newbyteorder("="), "K")


cdef object wrap_new(Context ctx, ndarray arr):
    """An inactive tracked array over memory that nobody else sees."""
    cdef TrackedArray out = ctx.new_array()
    arr = native(arr)
    out.arr = arr
    out.plain = ctx.outer is None
    out.prim = arr if out.plain else wrap_new(ctx.outer, arr)
    out.place = view_of(buffer_over(arr), arr)
    return out


cdef object wrap_box(Context ctx, object value):
    """A scalar that does not fit a C double."""
    cdef TrackedArray out = ctx.new_array()
    cdef Buffer buf = Buffer.__new__(Buffer)
    out.boxed = True
    out.prim = value
    out.place = View.__new__(View)
    out.place.buf = buf
    out.place.shape = out.place.dims
    out.place.strides = out.place.dims
    out.place.size = 1
    return out


cdef TrackedArray wrap_over(Context ctx, object prim):
    """A tracked array over the memory of `prim`, a fresh result of the next level out."""
    cdef TrackedArray out = ctx.new_array()
    if is_array(prim):
        out.arr = (<TrackedArray>prim).arr
    else:
        prim = native(prim)
        out.arr = prim
        out.plain = True
    out.prim = prim
    out.place = view_of(buffer_over(out.arr), out.arr)
    return out


cdef TrackedArray wrap_view(TrackedArray base, object prim):
    """A view of `base` whose primal is `prim`: same buffer, so same shadow and same log."""
    cdef TrackedArray out = base.ctx.new_array()
    out.prim = prim
    out.plain = base.plain
    out.arr = prim if base.plain else (<TrackedArray>prim).arr
    out.place = view_of(base.place.buf, out.arr)
    return out


cdef object strided(object base, View v):
    """The geometry `v` over a one-dimensional array whose first byte is that of v's buffer."""
    cdef TrackedArray t
    cdef TrackedArray out
    if not is_array(base):
        return v.array_at(<char*>PyArray_DATA(<ndarray>base), base)
    t = <TrackedArray>base
    out = t.ctx.new_array()
    out.plain = t.plain
    out.arr = v.array_at(<char*>PyArray_DATA(t.arr), t.arr)
    out.prim = out.arr if t.plain else strided(t.prim, v)
    out.place = view_of(t.place.buf, out.arr)
    return out


cdef object below(Context own, object value):
    """A value about to enter memory of `own`; one that an inner call tracks must not be active there."""
    cdef Context ctx = context_of(value)
    while ctx is not None and ctx is not own and ctx.level > own.level:
        if ctx.is_active(value):
            raise ActiveStoreError("a value that is active in an inner differentiated call was stored into an array that was "
                                   "made outside it; allocate the array inside")
        value = primal_at(ctx, value)
        ctx = context_of(value)
    return value


cdef int write_primal(Context ctx, object prim, object key, object value) except -1:
    cdef PyObject* old = swap_current(<PyObject*>ctx.outer if ctx.outer is not None else NULL)
    try:
        prim[key] = value
    finally:
        swap_current(old)
    return 0


cdef ndarray own_copy(ndarray arr):
    """A plain copy with the memory layout of `arr`, whatever creation functions mean at the moment."""
    cdef ndarray out
    if is_real_float(PyArray_TYPE(arr)) and PyArray_ISCONTIGUOUS(arr) and PyArray_ISBEHAVED_RO(arr) and type(arr) is ndarray:
        out = new_result(PyArray_NDIM(arr), PyArray_DIMS(arr), PyArray_TYPE(arr), PyArray_ITEMSIZE(arr))
        memcpy(PyArray_DATA(out), PyArray_DATA(arr), PyArray_SIZE(arr) * PyArray_ITEMSIZE(arr))
        return out
    return PyArray_NewCopy(arr, NPY_KEEPORDER)


cdef ndarray plain_copy(ndarray arr, object dtype, object order):
    cdef PyObject* old = swap_current(NULL)
    try:
        return arr.astype(dtype, order=order)
    finally:
        swap_current(old)


# ---- shadows by lane (the general path) ------------------------------------------------------------------------------

cdef bint is_box(View v) noexcept:
    return v.buf.data is NULL and v.ndim == 0


cdef int ensure_lanes(Context ctx, Buffer buf, int width) except -1:
    """Gives a buffer its shadow, all zero; through the outer level where there is one, which may have to differentiate it."""
    cdef npy_intp count
    if buf.shadow is not NULL or buf.lanes is not None:
        return 0
    if ctx.outer is None:
        return buf.make_shadow(width, True)
    count = max(1, buf.nbytes // PyArray_DescrFromType(buf.typenum).itemsize)
    buf.lanes = [wrap_new(ctx.outer, PyArray_ZEROS(1, &count, buf.typenum, 0)) for _ in range(width)]
    return 0


cdef object lane_of(View v, int lane):
    """The shadow of a view in one lane, None where there is none yet."""
    if is_box(v):
        return None if v.buf.lanes is None else v.buf.lanes[lane]
    if v.buf.lanes is not None:
        return strided(v.buf.lanes[lane], v)
    if v.buf.shadow is NULL:
        return None
    return v.array_at(v.buf.shadow + lane * v.buf.lane_bytes, v.buf.shadow_owner)


cdef object unbroadcast(object c, tuple shape):
    """The transpose of broadcasting to the shape of `c`: sums over the axes that were repeated."""
    cdef int extra
    if shape_of(c) == shape:
        return c
    extra = np.ndim(c) - len(shape)
    if extra > 0:
        c = np.sum(c, axis=tuple(range(extra)))
    axes = tuple([i for i in range(len(shape)) if shape[i] == 1 and np.shape(c)[i] != 1])
    return np.sum(c, axis=axes, keepdims=True) if axes else c


cdef object shape_of(object value):
    """np.shape, which makes an array of a number to ask it."""
    if isinstance(value, (float, int)) or is_scalar(value):
        return ()
    if isinstance(value, ndarray) or is_array(value):
        return value.shape
    return np.shape(value)


cdef bint is_complex(object value):
    """Whether a plain number or array is complex; np.iscomplexobj takes as long as an operation on a small array."""
    if isinstance(value, ndarray):
        return PyTypeNum_ISCOMPLEX(PyArray_TYPE(<ndarray>value))
    return isinstance(value, (complex, np.complexfloating))


cdef object real_part(object c):
    return c.real if not isinstance(c, (int, float)) and is_complex(plain_value(c)) else c


cdef int add_to_lane(Context ctx, View v, int lane, object c) except -1:
    """Adds a cotangent to the shadow of a view in one lane, through ordinary NumPy calls."""
    if is_box(v):
        if v.buf.lanes is None:
            v.buf.lanes = [None] * ctx.width
        old = v.buf.lanes[lane]
        c = unbroadcast(c, ())   # the number may have been stored into several elements
        v.buf.lanes[lane] = c if old is None else old + c
        return 0
    ensure_lanes(ctx, v.buf, ctx.width)
    target = lane_of(v, lane)
    if target.dtype.kind != "c":
        c = real_part(c)
    c = unbroadcast(c, v.shape_tuple())
    if v.overlaps:
        np.add.at(target, Ellipsis, c)
    elif is_array(target):
        target[...] = target + c
    else:
        np.add(target, c, out=target, casting="unsafe")
    return 0


# ---- elementwise operations ------------------------------------------------------------------------------------------

cdef object float_warning(Row row, object x, object y):
    """Runs the operation on NumPy scalars for the sake of its warnings: NumPy's own, under the user's np.errstate."""
    if row.nin == 1:
        return row.ufunc(x)
    return row.ufunc(x, y)


cdef ndarray evaluate_arrays(Row row, int typenum, ndarray x, double xn, ndarray y, double yn):
    """The primal of an elementwise operation on float64 (float32) memory; an operand that is None is the number instead.

    Small arrays go straight to NumPy's inner loop: dispatch is what their operations cost. None where there is no such loop.
    """
    cdef ndarray shaped = x if x is not None else y
    cdef ndarray out
    cdef int ndim = PyArray_NDIM(shaped), single = typenum == NPY_FLOAT
    cdef npy_intp itemsize = 4 if single else 8
    cdef bint direct = True
    cdef float x32, y32
    if ndim == 0 or (x is not None and y is not None and PyArray_NDIM(y) == 0):
        return None
    if x is not None and y is not None:
        direct = direct_shapes(x, y)
    if direct and x is not None:
        direct = ndim == 1 or PyArray_ISCONTIGUOUS(x)
    if direct and y is not None:
        direct = ndim == 1 or PyArray_ISCONTIGUOUS(y)
    if direct:
        out = new_result(ndim, PyArray_DIMS(shaped), typenum, itemsize)
        x32, y32 = <float>xn, <float>yn
        if not evaluate_array(
                row, single, PyArray_SIZE(shaped),
                <char*>PyArray_DATA(x) if x is not None else <char*>&x32 if single else <char*>&xn,
                0 if x is None else PyArray_STRIDES(x)[0] if ndim == 1 else itemsize,
                <char*>PyArray_DATA(y) if y is not None else <char*>&y32 if single else <char*>&yn,
                0 if y is None else PyArray_STRIDES(y)[0] if ndim == 1 else itemsize,
                <char*>PyArray_DATA(out), itemsize):
            return out
    result = None
    if PyArray_SIZE(shaped) * itemsize >= 1 << 14 and row.nin == 2 and (x is None or y is None or direct_shapes(x, y)):
        # The result has this shape: in kept memory, NumPy need not ask for fresh pages.
        result = new_result(ndim, PyArray_DIMS(shaped), typenum, itemsize)
        row.ufunc(xn if x is None else x, yn if y is None else y, result)
    elif row.nin == 1:
        result = row.ufunc(x)
    else:
        result = row.ufunc(xn if x is None else x, yn if y is None else y)
    return result if type(result) is np.ndarray and PyArray_TYPE(<ndarray>result) == typenum else None


cdef bint direct_shapes(ndarray x, ndarray y) noexcept:
    cdef int i
    if PyArray_NDIM(x) != PyArray_NDIM(y):
        return False
    for i in range(PyArray_NDIM(x)):
        if PyArray_DIMS(x)[i] != PyArray_DIMS(y)[i]:
            return False
    return True


cdef object warn(Row row, double x, double y, int kind):
    """NumPy's own floating-point warning for a scalar operation whose result is not finite."""
    scalar_type = f32 if kind == SINGLE else f64
    return float_warning(row, scalar_type(x), scalar_type(y) if row.nin == 2 else None)


cdef dict _OPERATORS = {
    "add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv, "power": operator.pow,
}


cdef object warn_operator(Row row, double x, double y, int kind):
    """The same for an operator, of which NumPy says so ("divide by zero encountered in scalar divide")."""
    scalar_type = f32 if kind == SINGLE else f64
    return _OPERATORS[row.name](scalar_type(x), scalar_type(y))


cdef object modular(Row row, object function, object left, object right):
    """`//` and `%` of numbers, with the warnings of NumPy's numbers where there may be some."""
    cdef double x, y
    cdef int kind
    if not is_array(left) and not is_array(right):
        a, b = plain_value(left), plain_value(right)
        if as_number(a, &x, &kind) and as_number(b, &y, &kind) and (y == 0.0 or not isfinite(x) or not isfinite(y)):
            function(np.float64(a) if type(a) is float else a, np.float64(b) if type(b) is float else b)
            with np.errstate(all="ignore"):
                return binary(row, left, right)
    return binary(row, left, right)


cdef bint rare_number(object value, double* x, int* kind) except -1:
    if is_float32(value):
        x[0] = float32_value(value)
        kind[0] = SINGLE
        return True
    if isinstance(value, bool):
        x[0] = <double>value
        kind[0] = WEAK
        return True
    if isinstance(value, np.integer) and not is_tracked(value) and value.dtype.itemsize >= 4:
        x[0] = <double>int(value)
        kind[0] = DOUBLE
        return True
    return False


cdef bint scalar_fits(object value, int typenum) except -1:
    """Whether a scalar leaves the dtype of a float32 array alone (NumPy: Python floats and float32 do)."""
    if typenum == NPY_DOUBLE or is_array(value) or isinstance(value, ndarray):
        return True
    if is_scalar(value):
        return (<Scalar>value).kind != DOUBLE
    return not is_float64(value) and not isinstance(value, np.integer)


@cython.final
cdef class PushAll:
    """The pushforward of an operation in all its operands at once."""

    cdef object apply(self, list tangents):
        cdef list full = [None] * self.count
        cdef int i
        for i in range(len(tangents)):
            full[self.active[i]] = tangents[i]
        return self.function(full)


cdef object apply(Row row, object x, object y):
    """An elementwise operation of which at least one operand is tracked (`y` is None for unary ones)."""
    cdef Context ctx = context_of(x)
    if row.nin == 2:
        ctx = higher(ctx, context_of(y))
    check_alive(ctx)
    if OVERRIDES and row.ufunc in OVERRIDES:
        own = _overridden(row.ufunc, (x,) if row.nin == 1 else (x, y), {})
        if own is not NotImplemented:
            return own
    return ctx.elementwise(row, x, y, NULL)


cdef object object_operand(object value):
    """A plain array of tracked scalars is a tracked array in disguise; a list is an array."""
    if isinstance(value, (list, tuple)):
        return stack_nested(value, None) if leaves_of((value,), {}) else run_plain(np.array, (value,))
    if isinstance(value, np.ndarray) and value.dtype.hasobject and any(is_tracked(v) for v in value.flat):
        return stack_nested(value.tolist(), None)
    return value


cdef object run_primal(Context ctx, object function, tuple args, dict kwargs):
    """Calls a NumPy function on primals: creation functions inside belong to the next level out."""
    cdef PyObject* old = swap_current(<PyObject*>ctx.outer if ctx.outer is not None else NULL)
    try:
        return function(*args, **kwargs)
    finally:
        swap_current(old)


cdef object run_plain(object function, tuple args):
    """Calls a NumPy function on plain arrays, with plain creation inside."""
    cdef PyObject* old = swap_current(NULL)
    try:
        return function(*args)
    finally:
        swap_current(old)


cdef object wrap_inactive(Context ctx, object out):
    """Results that carry no derivative: floats stay tracked so that active values may be stored into them later."""
    if type(out) is tuple:
        return tuple([wrap_inactive(ctx, o) for o in out])
    plain = plain_value(out)
    if isinstance(plain, np.ndarray):
        if plain.dtype.kind not in "fc":
            return out
        if not (<ndarray>plain).flags.owndata:
            out = run_primal(ctx, _copy, (out,), {})
        return wrap_over(ctx, out)
    if isinstance(plain, (float, np.floating, complex, np.complexfloating)):
        return ctx.link(out, [], [], [], ())
    return out


def _copy(a):
    return a.copy()


cdef object general_elementwise(Context ctx, Row row, object x, object y):
    """Any operands, by ordinary NumPy calls on their primals."""
    cdef object xp, yp = None, out
    x = object_operand(x)
    xp = within_64_bits(primal_at(ctx, x))
    if row.nin == 2:
        y = object_operand(y)
        yp = within_64_bits(primal_at(ctx, y))
        if not row.zero:
            xp, yp = ctx.guard(xp), ctx.guard(yp)
        out = run_primal(ctx, row.ufunc, (xp, yp), {})
    else:
        out = run_primal(ctx, row.ufunc, (xp,), {})
    return link_row(ctx, row, x, y, xp, yp, out)


cdef object link_row(Context ctx, Row row, object x, object y, object xp, object yp, object out):
    """A result that follows a row of the table, given the operands and their primals."""
    cdef list operands = [], pushes = [], pulls = [], reads = []
    cdef int k
    # Of a real number the sign is a step; of a complex one it is z/|z|, which turns with z.
    if row.zero and not (row is SIGN and is_complex(plain_value(xp))) or \
            not (ctx.is_active(x) or (row.nin == 2 and ctx.is_active(y))):
        return wrap_inactive(ctx, out)
    if _object_dtype(out):
        raise ActivityError(f"{row.name} met operands that make an array of objects; give arrays of floats")
    strong = row.strong or ctx.strong
    shape = shape_of(out)
    reads_mask = 0
    for k in range(row.nin):
        operand = y if k else x
        if ctx.is_active(operand):
            if row.partials[k] is None:
                raise MissingRuleError(f"{row.name} of an active value: {row.refusal}")
            push, pull = partial_maps(row, k, xp, yp, out, shape, strong)
            operands.append(operand)
            pushes.append(push)
            pulls.append(pull)
            reads_mask |= (row.reads >> (3 * k)) & 7 if row.holomorphic or not is_complex(plain_value(xp)) else READS_X_AND_OUT
    if reads_mask & 1:
        reads.append(x)
    if reads_mask & 2:
        reads.append(y)
    return ctx.link(out, operands, pushes, pulls, (reads, bool(reads_mask & 4)))


cdef object within_64_bits(object value):
    """With a larger int NumPy computes on Python objects, which its functions for partials do not take."""
    return float(value) if type(value) is int and not -2**63 <= value < 2**63 else value


cdef bint _object_dtype(object out):
    return isinstance(out, np.ndarray) and out.dtype.hasobject


cdef tuple partial_maps(Row row, int k, object x, object y, object out, object shape, bint strong):
    """The pushforward and pullback of an elementwise operation in its k-th operand, from its row."""
    cdef PartialMaps maps
    operand_shape = shape_of(y if k else x)
    real_operand = not is_complex(plain_value(y if k else x))
    if not real_operand and not row.holomorphic:
        return nonholomorphic_maps(row, x, out, shape)
    maps = PartialMaps.__new__(PartialMaps)
    maps.partial = row.partials[k]
    maps.x, maps.y, maps.out = x, y, out
    maps.shape, maps.operand_shape = shape, operand_shape
    maps.strong, maps.real_operand = strong, real_operand
    return maps.push, maps.pull


@cython.final
cdef class PartialMaps:
    """Multiplication by a partial derivative, and its transpose. A class: closures that share one make reference cycles."""

    cdef object partial, x, y, out, shape, operand_shape, value
    cdef bint strong, real_operand

    cdef object coefficient(self):
        # Evaluated when first needed (a reverse sweep may never get here), once for all lanes.
        if self.value is None:
            self.value = nested_partial(self.partial, self.x, self.y, self.out, self.strong) if self.partial.composed else \
                self.partial.function(self.x, self.y, self.out)
        return self.value

    cdef object weigh(self, object c, object t):
        if not self.strong:
            return c * t
        with np.errstate(all="ignore"):
            return _strong_product(c, t)

    def push(self, t):
        c = self.weigh(self.coefficient(), t)
        return c if shape_of(c) == self.shape else np.broadcast_to(c, self.shape)

    def pull(self, g):
        c = self.coefficient()
        c = self.weigh(np.conjugate(c) if is_complex(plain_value(c)) else c, g)
        return unbroadcast(real_part(c) if self.real_operand else c, self.operand_shape)


# What the maps below read, whatever the partial of the row does; as bits of row.reads.
cdef enum: READS_X_AND_OUT = 5


cdef object nested_partial(object partial, object x, object y, object out, bint strong):
    """A partial derivative of operands that outer calls may track: there, one operation with partials of its own."""
    cdef Context ctx = higher(higher(context_of(x), context_of(y)), context_of(out))
    cdef PartialMaps maps
    cdef PyObject* old
    cdef list operands = [], pushes = [], pulls = [], reads = []
    cdef int k, mask = 0
    if ctx is None:
        return partial.function(x, y, out)
    check_alive(ctx)
    derivatives = [(k, v, partial.derivative(k)) for k, v in enumerate((x, y)) if v is not None and ctx.is_active(v)]
    for k, v, d in derivatives:
        if d is NotImplemented or is_complex(plain_value(v)) and not (partial.holomorphic and (d is None or d.holomorphic)):
            return partial.function(x, y, out)    # by NumPy's functions, which have the rule, or say that there is none
    # Memory of this context is restored by the sweep before it is read; what it does not know may change.
    xp = primal_at(ctx, x) if context_of(x) is ctx else ctx.guard(x)
    yp = primal_at(ctx, y) if context_of(y) is ctx else ctx.guard(y)
    op = primal_at(ctx, out) if context_of(out) is ctx else ctx.guard(out)
    old = swap_current(<PyObject*>ctx.outer if ctx.outer is not None else NULL)
    try:
        value = nested_partial(partial, xp, yp, op, strong)
        shape = np.broadcast_shapes(shape_of(xp), () if yp is None else shape_of(yp))
        if shape_of(value) != shape:
            value = np.broadcast_to(value, shape)   # a number, where all that it depends on here is one
    finally:
        swap_current(old)
    for k, v, d in derivatives:
        if d is not None:
            maps = PartialMaps.__new__(PartialMaps)
            maps.partial = d
            maps.x, maps.y, maps.out = xp, yp, op
            maps.shape, maps.operand_shape = shape, shape_of(v)
            maps.strong, maps.real_operand = strong or ctx.strong, not is_complex(plain_value(v))
            operands.append(v)
            pushes.append(maps.push)
            pulls.append(maps.pull)
            mask |= d.reads
    if not operands:
        return wrap_inactive(ctx, value)
    for k, v in enumerate((x, y, out)):
        if mask >> k & 1:
            reads.append(v)
    return ctx.link(value, operands, pushes, pulls, (reads, False))


cdef tuple nonholomorphic_maps(Row row, object x, object out, object shape):
    """Complex operands of functions that are not holomorphic: those of which the real derivative says something."""
    if row.anti:
        return np.conjugate, np.conjugate
    if row is SIGN:
        # s = z/|z|: ds = i s Im(conj(s) dz)/|z|, the part of dz across s. As a map of real vectors it is symmetric.
        return (lambda t: _across(x, out, t)), (lambda g: _across(x, out, g))
    if row.name == "absolute":
        return (lambda t: np.real(np.conjugate(_direction(x, out)) * t)), (lambda g: np.real(g) * _direction(x, out))
    raise MissingRuleError(f"{row.name} of a complex active value is not holomorphic; write it in terms of real and imaginary parts")


cdef object _across(object x, object s, object t):
    """The part of t across the direction s = x/|x|, over |x|; 0 at 0."""
    size = np.absolute(x)
    return 1j * s * (np.imag(np.conjugate(s) * t) / np.where(plain_value(size) == 0, 1.0, size))


cdef object _direction(object x, object size):
    """x / |x|, and 0 at 0."""
    return x / np.where(plain_value(size) == 0, 1.0, size)


cdef object _strong_product(object c, object t):
    """c * t with 0 wherever t is 0, also where c is inf or nan."""
    zero = np.equal(plain_value(t), 0)
    if np.ndim(t) == 0 and np.ndim(c) == 0:
        return t if zero else c * t
    return np.where(zero, 0.0, c * t) if np.any(zero) else c * t


cdef bint is_active_anywhere(object value) except -1:
    """Whether a value, or something in a list of values, is active at any level."""
    cdef Context ctx
    if isinstance(value, (list, tuple)):
        for v in value:
            if is_active_anywhere(v):
                return True
        return False
    while is_tracked(value):
        ctx = context_of(value)
        if ctx.is_active(value):
            return True
        value = primal_at(ctx, value)
    return False


cdef list leaves_of(object args, object kwargs):
    cdef list out = []
    _collect(args, out)
    _collect(tuple(kwargs.values()), out)
    return out


cdef int _collect(object value, list out) except -1:
    if isinstance(value, (list, tuple)):
        for v in value:
            _collect(v, out)
    elif is_tracked(value):
        out.append(value)
    return 0


cdef object all_plain(object value):
    if type(value) in (list, tuple):
        return type(value)([all_plain(v) for v in value])
    return plain_value(value)


cdef object primals_of(Context ctx, object value):
    if type(value) in (list, tuple):
        return type(value)([primals_of(ctx, v) for v in value])
    return primal_at(ctx, value)


# ---- what the hot reductions and products share -----------------------------------------------------------------------

cdef int reduced_axes(object axis, int ndim, bint* reduced) except -1:
    """Marks the axes that a reduction takes away; 0 where the argument is no axis, or out of range."""
    cdef int i
    cdef Py_ssize_t a
    for i in range(ndim):
        reduced[i] = axis is None
    if axis is None:
        return 1
    for entry in (axis if type(axis) is tuple else (axis,)):
        if type(entry) is not int:
            return 0
        a = entry
        if a < 0:
            a += ndim
        if a < 0 or a >= ndim or reduced[a]:
            return 0
        reduced[a] = True
    return 1


cdef ndarray real_operand(Context ctx, object value, int* typenum):
    """The memory of an operand of a fast product: float64 or float32, of one dtype with the other; None if it is neither."""
    cdef ndarray arr
    if is_array(value):
        if (<TrackedArray>value).ctx is not ctx or not (<TrackedArray>value).plain:
            return None
        arr = (<TrackedArray>value).arr
    elif type(value) is ndarray:
        arr = value
    else:
        return None
    if not PyArray_ISBEHAVED_RO(arr) or not is_real_float(PyArray_TYPE(arr)) or (
            typenum[0] != -1 and typenum[0] != PyArray_TYPE(arr)):
        return None
    typenum[0] = PyArray_TYPE(arr)
    return arr


cdef object matrix_product(ndarray x, ndarray y, int typenum):
    """np.matmul of vectors and matrices of one float dtype, without its dispatch; a Python float for two vectors."""
    cdef int xd = PyArray_NDIM(x), yd = PyArray_NDIM(y), single = typenum == NPY_FLOAT
    cdef npy_intp item = 4 if single else 8
    cdef npy_intp m = PyArray_DIMS(x)[0] if xd == 2 else 1, n = PyArray_DIMS(x)[xd - 1], p = PyArray_DIMS(y)[1] if yd == 2 else 1
    cdef npy_intp x_m = PyArray_STRIDES(x)[0] if xd == 2 else item * n, x_n = PyArray_STRIDES(x)[xd - 1]
    cdef npy_intp y_n = PyArray_STRIDES(y)[0], y_p = PyArray_STRIDES(y)[1] if yd == 2 else item
    cdef npy_intp dims[2]
    cdef ndarray out = None
    cdef double number = 0.0
    cdef float number32 = 0.0
    cdef char* target = <char*>&number32 if single else <char*>&number
    cdef char* xp = <char*>PyArray_DATA(x)
    cdef char* yp = <char*>PyArray_DATA(y)
    cdef int status
    if n != PyArray_DIMS(y)[0] or m == 0 or n == 0 or p == 0:
        return np_matmul(x, y)
    if xd + yd > 2:
        dims[0] = m if xd == 2 else p
        dims[1] = p
        out = new_result(xd + yd - 2, dims, typenum, item)
        target = <char*>PyArray_DATA(out)
    if m * n * p < NO_GIL_FROM:
        status = multiply_matrices(single, m, n, p, xp, x_m, x_n, yp, y_n, y_p, target, item * p, item)
    else:
        with nogil:
            status = multiply_matrices(single, m, n, p, xp, x_m, x_n, yp, y_n, y_p, target, item * p, item)
    if status:
        return np_matmul(x, y)   # once more, for the warning
    if out is None:
        return <double>number32 if single else number
    return out


# ---- arrays from lists ----------------------------------------------------------------------------------------------

def stack_nested(value, dtype):
    """`np.array(value, dtype)` for nested lists in which some entries may be tracked; a plain array if none is."""
    cdef Context ctx = context_among(leaves_of((value,), {}))
    cdef PyObject* old
    if ctx is not None:
        check_alive(ctx)
    old = swap_current(NULL)
    try:
        skeleton = np.array(all_plain(value), dtype)
    finally:
        swap_current(old)
    if ctx is None:
        return skeleton
    if skeleton.dtype.kind not in "fc":
        if skeleton.dtype.hasobject or dtype is None:
            raise ActivityError(f"an array of {skeleton.dtype} cannot hold active values; lists must be rectangular "
                                "and of numbers")
        if any([is_active_anywhere(v) for v in leaves_of((value,), {})]):
            raise ActiveStoreError(f"an array of dtype {skeleton.dtype} cannot hold active values; use a float dtype")
        return skeleton
    out = wrap_new(ctx, skeleton)
    _store_nested(out, value)
    return out


def objects_of(value):
    """A tracked array as a plain one of objects, which are its numbers."""
    cdef PyObject* old = swap_current(NULL)
    try:
        out = np.empty(np.shape(value), dtype=object)
    finally:
        swap_current(old)
    if not out.ndim:
        out[()] = value[()] if is_array(value) else value
        return out
    for index in np.ndindex(out.shape):
        out[index] = value[index]
    return out


cdef int _store_nested(object out, object value) except -1:
    if is_tracked(value):
        out[...] = value
        return 0
    if not isinstance(value, (list, tuple)):
        return 0
    for i, v in enumerate(value):
        if is_scalar(v):
            out[i] = v
        elif is_tracked(v) or isinstance(v, (list, tuple)):
            _store_nested(out[i] if out.ndim > 1 else out[i:i + 1].reshape(()), v)
    return 0


# ---- indexing -------------------------------------------------------------------------------------------------------

cdef object plain_key(object key):
    """An index in which tracked values are replaced by what they are."""
    if is_tracked(key):
        return plain_value(key)
    if type(key) is tuple:
        for k in key:
            if is_tracked(k):
                return tuple([plain_key(k) for k in key])
    return key


cdef bint is_basic(object key) noexcept:
    """Whether an index makes a view (or an element), not a copy."""
    if type(key) is tuple:
        for k in key:
            if not (type(k) is int or type(k) is slice or k is None or k is Ellipsis or isinstance(k, np.integer)):
                return False
        return True
    return type(key) is int or type(key) is slice or key is None or key is Ellipsis or isinstance(key, np.integer)


cdef inline bint is_real_float(int typenum) noexcept:
    return typenum == NPY_DOUBLE or typenum == NPY_FLOAT


cdef char* element_address(ndarray arr, object key) except? NULL:
    """Address of a single element for an index of exactly as many ints as axes, NULL for any other index."""
    cdef int i, ndim = PyArray_NDIM(arr)
    cdef Py_ssize_t j, n
    cdef char* p = <char*>PyArray_DATA(arr)
    if type(key) is int:
        if ndim != 1:
            return NULL
        j = key
        n = PyArray_DIMS(arr)[0]
        if j < 0:
            j += n
        if j < 0 or j >= n:
            raise IndexError(f"index {key} is out of bounds for axis 0 with size {n}")
        return p + j * PyArray_STRIDES(arr)[0]
    if type(key) is not tuple or len(<tuple>key) != ndim:
        return NULL
    for i in range(ndim):
        k = (<tuple>key)[i]
        if type(k) is not int:
            return NULL
        j = k
        n = PyArray_DIMS(arr)[i]
        if j < 0:
            j += n
        if j < 0 or j >= n:
            raise IndexError(f"index {k} is out of bounds for axis {i} with size {n}")
        p += j * PyArray_STRIDES(arr)[i]
    return p


cdef int check_conflict(Buffer buf) except -1:
    if buf.conflict:
        raise ActivityError(f"{buf.name or 'an argument'} may only be read, because it shares memory with another argument "
                            "and their shadows do not, or they share a shadow; pass copies")
    return 0


cdef int check_storable(TrackedArray target) except -1:
    """Whether active values may enter this memory."""
    cdef Buffer buf = target.place.buf
    if buf.active:
        return 0
    if buf.constant:
        raise ActiveStoreError(f"an active value was stored into {buf.name or 'an argument'}, which is Const: its derivative "
                               "would be lost; pass it as Duplicated with a shadow")
    if buf.exposed:
        raise ActiveStoreError("an active value was stored into an array whose plain memory had been handed to compiled "
                               "code (np.asarray, the buffer protocol): copy the array before handing it out")
    if target.arr.dtype.kind not in "fc":
        raise ActiveStoreError(f"an active value was stored into an array of dtype {target.arr.dtype}")
    return 0


# ---- the array type -------------------------------------------------------------------------------------------------

cdef class TrackedArray:
    """Base of DualArray and AdjointArray: an ndarray to the code that uses it."""

    __hash__ = None
    __array_priority__ = 1000.0

    # -- what it looks like ------------------------------------------------------------------------------------------

    @property
    def __class__(self):
        # Code that asks isinstance(x, np.ndarray) wants to know whether x can be indexed, reshaped and the like: it can.
        if self.boxed:
            return type(plain_value(self))
        return np.ndarray

    @property
    def shape(self):
        return () if self.boxed else self.place.shape_tuple()

    @shape.setter
    def shape(self, value):
        cdef TrackedArray other
        owner = self.place.buf.owner
        if self.boxed or self.arr is owner or (type(owner) is list and any([self.arr is a for a in owner])):
            raise ADError("the shape of an argument cannot be assigned; use x = x.reshape(...)")
        other = derived_view(self, _reshape, (value, "C"))
        if other.place.buf is not self.place.buf:
            raise AttributeError("Incompatible shape for in-place modification. Use `.reshape()` to make a copy with the "
                                 "desired shape.")
        self.arr, self.prim, self.place = other.arr, other.prim, other.place

    @property
    def ndim(self):
        return 0 if self.boxed else PyArray_NDIM(self.arr)

    @property
    def size(self):
        return 1 if self.boxed else self.place.size

    @property
    def dtype(self):
        return np.result_type(plain_value(self)) if self.boxed else self.arr.dtype

    @dtype.setter
    def dtype(self, value):
        raise ADError("the dtype of a tracked array cannot be assigned; use x.astype(...)")

    @property
    def primal(self):
        """The values: a plain array (shared memory, not a copy), or a tracked array of the outer differentiation."""
        return self.prim

    @property
    def T(self):
        return self.transpose()

    @property
    def mT(self):
        return self.swapaxes(-1, -2)

    @property
    def real(self):
        return np.real(self)

    @real.setter
    def real(self, value):
        if is_complex(plain_value(self)):
            self[...] = value + 1j * self.imag
        else:
            self[...] = value

    @property
    def imag(self):
        return np.imag(self)

    @imag.setter
    def imag(self, value):
        self[...] = self.real + 1j * value

    @property
    def flat(self):
        return Flat(self)

    @flat.setter
    def flat(self, value):
        Flat(self)[:] = value

    def __len__(self):
        if self.ndim == 0:
            raise TypeError("len() of unsized object")
        return PyArray_DIMS(self.arr)[0]

    def __repr__(self):
        return f"{type(self).__name__}({plain_value(self)!r})"

    def __str__(self):
        return str(plain_value(self))

    def __format__(self, str spec not None):
        return format(plain_value(self), spec)

    def __bool__(self):
        return bool(plain_value(self))

    def __int__(self):
        return int(plain_value(self))

    def __index__(self):
        return operator.index(plain_value(self))

    def __float__(self):
        check_alive(self.ctx)
        if is_active_anywhere(self):
            raise lost("float()")
        return float(plain_value(self))

    def __complex__(self):
        if is_active_anywhere(self):
            raise lost("complex()")
        return complex(plain_value(self))

    def __round__(self, ndigits=None):
        return round(plain_value(self), ndigits) if ndigits is not None else round(plain_value(self))

    def __contains__(self, item):
        return plain_value(item) in plain_value(self)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        for i in range(len(self)):
            yield self[i]

    def __getattr__(self, name):
        function = _METHODS.get(name)
        if function is not None:
            return functools.partial(function, self)
        if name in _ATTRIBUTES:
            return getattr(plain_value(self), name)
        if name in _HANDED_OUT and (name not in _REFUSED or not is_active_anywhere(self)):
            return getattr(self.__array__(), name)
        if name in _REFUSED:
            raise ADError(f".{name} of a tracked array {_REFUSED[name]}")
        if self.boxed:
            return scalar_attribute(self, name)
        raise AttributeError(f"'numpy.ndarray' object has no attribute {name!r}")

    # -- what must not happen silently -------------------------------------------------------------------------------

    def __array__(self, dtype=None, copy=None):
        check_alive(self.ctx)
        if is_active_anywhere(self) or self.ctx.outer is not None or self.boxed:
            raise ActiveStoreError(
                f"an active array would become a plain array{where()} and lose its derivative: by a store into a plain array, "
                "by what asks for its memory (as_strided, np.asarray in compiled code), or by a compiled function. Allocate the "
                "target inside the differentiated function; pass an object that keeps it as an argument with a shadow, "
                "Duplicated(obj, make_zero(obj)); or give the compiled function a rule (cyad.rules)")
        if copy or (dtype is not None and np.dtype(dtype) != self.arr.dtype):
            return plain_copy(self.arr, dtype or self.arr.dtype, "K")
        self.place.buf.exposed = True
        return self.arr

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyObject_GetBuffer(self.__array__(), buffer, flags)

    def __reduce_ex__(self, protocol):
        raise ActivityError("a tracked array cannot be pickled: its derivative belongs to a call that is running")

    def __copy__(self):
        return self.copy()

    def __deepcopy__(self, memo):
        return self.copy()

    # -- NumPy's protocols -------------------------------------------------------------------------------------------

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return _apply_ufunc(ufunc, method, inputs, kwargs)

    def __array_function__(self, func, types, args, kwargs):
        return dispatch(func, args, kwargs)

    def __array_namespace__(self, api_version=None):
        return np

    # -- operators ---------------------------------------------------------------------------------------------------

    def __add__(left, right):
        return binary(ADD, left, right)

    def __sub__(left, right):
        return binary(SUBTRACT, left, right)

    def __mul__(left, right):
        return binary(MULTIPLY, left, right)

    def __truediv__(left, right):
        return binary(DIVIDE, left, right)

    def __floordiv__(left, right):
        return binary(FLOOR_DIVIDE, left, right)

    def __mod__(left, right):
        return binary(REMAINDER, left, right)

    def __divmod__(left, right):
        return np.divmod(left, right)

    def __pow__(left, right, modulus):
        if modulus is not None:
            return NotImplemented
        return power(left, right)

    def __matmul__(left, right):
        if may_decline(left) or may_decline(right):
            return NotImplemented
        return np.matmul(left, right)

    def __neg__(self):
        return apply(NEGATIVE, self, None)

    def __pos__(self):
        return apply(POSITIVE, self, None)

    def __abs__(self):
        return apply(ABSOLUTE, self, None)

    def __iadd__(self, other):
        return in_place(self, ADD, other)

    def __isub__(self, other):
        return in_place(self, SUBTRACT, other)

    def __imul__(self, other):
        return in_place(self, MULTIPLY, other)

    def __itruediv__(self, other):
        return in_place(self, DIVIDE, other)

    def __ifloordiv__(self, other):
        return in_place(self, FLOOR_DIVIDE, other)

    def __imod__(self, other):
        return in_place(self, REMAINDER, other)

    def __ipow__(self, other, modulus):
        result = power(self, other)
        if (<TrackedArray>self).boxed:
            return result
        store_result(self, result, "power")
        return self

    def __imatmul__(self, other):
        result = np.matmul(self, other)
        if (<TrackedArray>self).boxed:
            return result
        store_result(self, result, "matmul")
        return self

    def __richcmp__(self, other, int op):
        check_alive((<TrackedArray>self).ctx)
        return PyObject_RichCompare(plain_value(self), plain_value(object_operand(other)), op)

    # -- indexing ----------------------------------------------------------------------------------------------------

    def __getitem__(self, key):
        cdef char* address
        cdef TrackedArray out
        cdef Context ctx = self.ctx
        if not ctx.alive:
            escaped(ctx)
        if self.boxed:
            return self if key == () or key is Ellipsis else plain_value(self)[key]
        if self.plain and is_real_float(self.place.typenum):
            address = element_address(self.arr, key)
            if address is not NULL:
                return ctx.load(self, address)
        key = plain_key(key)
        if is_basic(key):
            prim = self.arr[key] if self.plain else run_primal(ctx, operator.getitem, (self.prim, key), {})
            if isinstance(prim, np.ndarray):
                return wrap_view(self, prim)
            return element(self, key, prim)
        key = own_key(key)
        prim = self.arr[key] if self.plain else run_primal(ctx, operator.getitem, (self.prim, key), {})
        if not isinstance(prim, np.ndarray):
            return element(self, key, prim)
        out = wrap_over(ctx, prim)
        ctx.gather(self, key, out)
        return out

    def __setitem__(self, key, value):
        cdef Context ctx = self.ctx
        cdef TrackedArray target
        cdef char* address
        if not ctx.alive:
            escaped(ctx)
        if self.boxed:
            raise TypeError("'numpy.float64' object does not support item assignment")
        if self.plain and is_real_float(self.place.typenum) and not isinstance(value, np.ndarray):
            address = element_address(self.arr, key)
            if address is not NULL:
                if not PyArray_CHKFLAGS(self.arr, NPY_ARRAY_WRITEABLE):
                    raise ValueError("assignment destination is read-only")
                if self.place.buf.conflict:
                    check_conflict(self.place.buf)
                if ctx.store_element(self, address, value):
                    return
        check_conflict(self.place.buf)
        key = plain_key(key)
        value = object_operand(value) if not is_tracked(value) else value
        if is_basic(key):
            if key is Ellipsis:
                target = self
            else:
                # An Ellipsis more makes a view of an element, too.
                target = wrap_view(self, run_primal(ctx, operator.getitem, (
                    self.prim, (key if type(key) is tuple and Ellipsis in key else
                                (key if type(key) is tuple else (key,)) + (Ellipsis,))), {}))
            if not PyArray_CHKFLAGS(target.arr, NPY_ARRAY_WRITEABLE):
                raise ValueError("assignment destination is read-only")
            ctx.store(target, value)
            return
        if not PyArray_CHKFLAGS(self.arr, NPY_ARRAY_WRITEABLE):
            raise ValueError("assignment destination is read-only")
        ctx.scatter(self, own_key(key), value)

    def __delitem__(self, key):
        raise ValueError("cannot delete array elements")

    # -- views -------------------------------------------------------------------------------------------------------

    def reshape(self, *shape, order="C", copy=None):
        shape = shape[0] if len(shape) == 1 else shape
        if self.boxed:
            return stack_nested([self], None).reshape(shape)
        if copy:
            return self.copy(order=order).reshape(shape, order=order)
        if self.plain and PyArray_ISCONTIGUOUS(self.arr) and order == "C" and self.ctx.alive:
            return wrap_view(self, self.arr.reshape(shape))   # a view, whatever the shape
        return derived_view(self, _reshape, (shape, order))

    def ravel(self, order="C"):
        return derived_view(self, _ravel, (order,))

    def flatten(self, order="C"):
        return self.copy(order=order).ravel(order)

    def transpose(self, *axes):
        return self if self.boxed else derived_view(self, np.ndarray.transpose, axes)

    def swapaxes(self, a, b):
        return derived_view(self, np.ndarray.swapaxes, (a, b))

    def squeeze(self, axis=None):
        return self if self.boxed else derived_view(self, np.ndarray.squeeze, (axis,))

    def diagonal(self, offset=0, axis1=0, axis2=1):
        return derived_view(self, np.ndarray.diagonal, (offset, axis1, axis2))

    def view(self, dtype=None, type=None):
        if (dtype is None or dtype is np.ndarray or np.dtype(dtype) == self.dtype) and type in (None, np.ndarray):
            return self[...]
        if not is_active_anywhere(self) and not self.boxed:
            plain = self.__array__()
            return plain.view(type=type) if dtype is None else plain.view(dtype) if type is None else plain.view(dtype, type)
        raise ADError("a view of a tracked array as another type would lose the derivative; use astype")

    def setflags(self, write=None, align=None, uic=None):
        # The bottom's flags: what is there is not written by a sweep through this array.
        if self.boxed:
            return scalar_attribute(self, "setflags")
        self.arr.setflags(write, align, uic)

    def to_device(self, device, /, *, stream=None):
        f64(0.0).to_device(device, stream=stream)
        return self[...]

    # -- copies and fills --------------------------------------------------------------------------------------------

    def copy(self, order="C"):
        return copy_of(self, order, None)

    def sum(self, *args, **kwargs):
        return _dispatch(np.sum, (self, *args), kwargs)

    def mean(self, *args, **kwargs):
        return _dispatch(np.mean, (self, *args), kwargs)

    def astype(self, dtype, order="K", casting="unsafe", subok=True, copy=True):
        dtype = np.dtype(dtype)
        if not np.can_cast(self.dtype, dtype, casting):
            raise TypeError(f"Cannot cast array data from {self.dtype!r} to {dtype!r} according to the rule '{casting}'")
        if not copy and dtype == self.dtype:
            return self
        if self.boxed:
            return cast_box(self, dtype)
        if dtype.kind not in "fc":
            if dtype.hasobject:
                return objects_of(self)
            # Whole numbers and truth values are steps: their derivative is zero.
            return plain_copy(self.arr, dtype, order)
        return copy_of(self, order, dtype)

    def fill(self, value):
        self[...] = value

    def item(self, *args):
        if not args:
            if self.size != 1:
                raise ValueError("can only convert an array of size 1 to a Python scalar")
            return self if self.boxed else self.reshape(-1)[0]
        if len(args) == 1 and not isinstance(args[0], tuple):
            return self.flat[args[0]]
        return self[args if len(args) > 1 else args[0]]

    def tolist(self):
        return self.item() if self.ndim == 0 else [self[i] if self.ndim == 1 else self[i].tolist() for i in range(len(self))]

    def sort(self, axis=-1, kind=None, order=None, stable=None):
        self[...] = np.sort(self, axis=axis)

    def partition(self, kth, axis=-1, kind="introselect", order=None):
        self[...] = np.partition(self, kth, axis=axis)

    def put(self, indices, values, mode="raise"):
        np.put(self, indices, values, mode)

    def dot(self, b, out=None):
        return np.dot(self, b, out=out) if out is not None else np.dot(self, b)

    def conj(self):
        return np.conjugate(self)

    conjugate = conj


def _reshape(a, shape, order):
    return a.reshape(shape, order=order)


def _ravel(a, order):
    return a.ravel(order)


cdef object derived_view(TrackedArray a, object method, tuple args):
    """A method of ndarray that returns a view where it can: applied to the primal, or to a copy that can be viewed."""
    cdef ndarray plain
    check_alive(a.ctx)
    if a.boxed:
        return derived_view(stack_nested([a], None)[0:1].reshape(()), method, args)
    plain = run_plain(method, (a.arr,) + args)
    if a.place.size and not shares(plain, a.arr):
        # NumPy had to copy: copy in the order that it reads, and view that.
        order = args[-1] if args and type(args[-1]) is str else "C"
        return derived_view(copy_of(a, "F" if order == "F" or (order == "A" and a.arr.flags.fnc) else
                                    ("K" if order == "K" else "C"), None), method, args)
    if a.plain:
        return wrap_view(a, plain)
    if isinstance(method, types.MethodDescriptorType):
        return wrap_view(a, run_primal(a.ctx, getattr(a.prim, method.__name__), args, {}))
    return wrap_view(a, run_primal(a.ctx, method, (a.prim,) + args, {}))


cdef bint shares(ndarray view, ndarray base) except -1:
    cdef Py_ssize_t low, high, first, last
    low, high = extent_of(base)
    first, last = extent_of(view)
    return low <= first and last <= high


cdef object copy_of(TrackedArray a, object order, object dtype):
    """A copy in fresh memory, with its derivative, whatever the dtype."""
    cdef Context ctx = a.ctx
    cdef TrackedArray out
    check_alive(ctx)
    if a.boxed:
        return a
    out = wrap_new(ctx, plain_copy(a.arr, dtype or a.arr.dtype, order))
    if ctx.is_active(a) or not a.plain:
        ctx.store(out, a)
    return out


cdef object cast_box(TrackedArray a, object dtype):
    if dtype.kind not in "fc":
        return dtype.type(plain_value(a))
    if dtype.kind == "f" and is_complex(plain_value(a)):
        return np.real(a).astype(dtype)
    return a if a.dtype == dtype else _axisless(a).astype(dtype)[()]


cdef object element(TrackedArray a, object key, object prim):
    """A single element that is no plain double load: as a scalar of a's context."""
    cdef Context ctx = a.ctx
    cdef TrackedArray out
    cdef TrackedArray place
    # With an Ellipsis an index makes a view; not so with an array of no axes in it (x[np.array(2)]), for which NumPy copies.
    full = tuple([operator.index(k) for k in (key if type(key) is tuple else (key,)) if k is not Ellipsis]) + (Ellipsis,)
    if a.plain and PyArray_TYPE(a.arr) in (NPY_DOUBLE, NPY_FLOAT):
        place = wrap_view(a, a.arr[full])
        return ctx.load(place, <char*>PyArray_DATA(place.arr))
    if not ctx.is_active(a):
        return wrap_inactive(ctx, prim)

    def push(t):
        return t[full][()]

    def pull(g):
        return (full, g)

    return ctx.link(prim, [a], [push], [Into(pull)], ([], False))


class Into:
    """A pullback that touches a few elements only: returns (key, cotangent), to be added at that key."""

    __slots__ = ("pull",)

    def __init__(self, pull):
        self.pull = pull


cdef object own_key(object key):
    """An index that nobody can change until the tape has used it."""
    if type(key) is tuple:
        return tuple([own_key(k) for k in key])
    if isinstance(key, np.ndarray):
        return own_copy(key)
    return list(key) if type(key) is list else key


class Flat:
    """x.flat: the elements in C order; indexing reads copies and writes through. Like NumPy's it is its own iterator."""

    def __init__(self, array):
        self.array = array
        self.base = array
        self.index = 0

    def __len__(self):
        return self.array.size

    def __iter__(self):
        return self

    def __next__(self):
        if self.index >= self.array.size:
            raise StopIteration
        element = self.array[self.coords]
        self.index += 1
        return element

    @property
    def coords(self):
        """The index of the next element."""
        rest, backwards = self.index, []
        for n in self.array.shape[:0:-1]:
            rest, k = divmod(rest, max(1, n))
            backwards.append(k)
        return (rest, *backwards[::-1]) if self.array.ndim else ()

    def _key(self, key):
        """The index of the array for one of the flat sequence; work in proportion to what is picked."""
        size, shape = self.array.size, self.array.shape
        if type(key) is tuple and len(key) == 1:
            key = key[0]
        key = plain_value(key)
        if key is Ellipsis:
            key = slice(None)
        if isinstance(key, slice):
            return np.unravel_index(np.arange(*key.indices(size)), shape)
        if isinstance(key, (int, np.integer)) and not isinstance(key, (bool, np.bool_)):
            if not -size <= key < size:
                raise IndexError(f"index {key} is out of bounds for axis 0 with size {size}")
            return tuple([int(i) for i in np.unravel_index(int(key) % size, shape)])
        key = np.asarray(key, None if np.size(key) else np.intp)
        if key.dtype == bool:
            if key.shape != (size,):
                raise IndexError(f"a mask of shape {key.shape} does not match the {size} elements of x.flat")
            key = np.flatnonzero(key)
        if key.dtype.kind not in "iu":
            raise IndexError("unsupported iterator index")
        bad = key[(key < -size) | (key >= size)]
        if bad.size:
            raise IndexError(f"index {bad.flat[0]} is out of bounds for axis 0 with size {size}")
        return np.unravel_index(np.where(key < 0, key + size, key), shape)

    def __getitem__(self, key):
        return self.array[self._key(key)]

    def __setitem__(self, key, value):
        where = self._key(key)
        if where and isinstance(where[0], np.ndarray):
            if np.size(value) == 0:
                return    # so does NumPy
            if np.ndim(value):
                # NumPy repeats what is too short and leaves out what is too much.
                value = np.reshape(np.resize(value, where[0].size), where[0].shape)
        elif np.ndim(value):
            raise ValueError("Error setting single item of array.")
        self.array[where] = value

    def copy(self):
        return self.array.flatten()


# ---- operators ------------------------------------------------------------------------------------------------------

cdef bint is_foreign(object value) noexcept:
    """An operand that gets to decide by itself (NumPy's rule: a type that sets __array_ufunc__ to None)."""
    return not is_scalar(value) and getattr(type(value), "__array_ufunc__", True) is None


cdef object binary(Row row, object left, object right):
    if may_decline(left) or may_decline(right):
        return NotImplemented
    return apply(row, left, right)


cdef inline bint may_decline(object value) except -1:
    """An operand that is no number and no array of ours: Python shall ask it, too."""
    if is_tracked(value) or PyFloat_CheckExact(value) or PyLong_CheckExact(value) or isinstance(value, ndarray):
        return False
    return value is None or isinstance(value, str) or is_foreign(value)


cdef object power(object left, object right):
    """`**` with NumPy's own short cuts for common exponents, so that values agree to the last bit."""
    if may_decline(left) or may_decline(right):
        return NotImplemented
    if is_array(left) and not (<TrackedArray>left).boxed and (type(right) is int or type(right) is float):
        if right == 2:
            return apply(SQUARE, left, None)
        if right == 1:
            return apply(POSITIVE, left, None)
        if right == 0.5:
            return apply(SQRT, left, None)
        if right == -1:
            return apply(RECIPROCAL, left, None)
    return apply(POWER, left, right)


cdef object in_place(TrackedArray target, Row row, object other):
    """`y op= z` is `t = y op z; y[...] = t`."""
    cdef object result
    result = binary(row, target, other)
    if result is NotImplemented or target.boxed:
        return result
    store_result(target, result, row.name)
    return target


cdef int store_result(TrackedArray target, object result, str name) except -1:
    shape = np.shape(result)
    if shape != target.shape and np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"non-broadcastable output operand with shape {target.shape} doesn't match the broadcast shape {shape}")
    if not np.can_cast(result.dtype, target.dtype, "same_kind"):
        raise TypeError(f"Cannot cast ufunc '{name}' output from {result.dtype} to {target.dtype} "
                        "with casting rule 'same_kind'")
    if not PyArray_CHKFLAGS(target.arr, NPY_ARRAY_WRITEABLE):
        raise ValueError("output array is read-only")
    check_conflict(target.place.buf)
    target.ctx.store(target, result)
    return 0


# ---- scalars' attributes --------------------------------------------------------------------------------------------

cdef object scalar_attribute(object value, str name):
    """What np.float64 offers beyond operators: array-like attributes, and ufuncs as methods for object arrays."""
    if name in _SCALAR_SAME:
        return lambda *args, **kwargs: value
    if name in _ARRAY_PROTOCOLS:
        # np.array asks for these before it makes objects of what has none. Objects of an ended call would look like numbers.
        check_alive(context_of(value))
    if name in _SCALAR_VALUES:
        return _SCALAR_VALUES[name](value)
    if name in _IN_PLACE:
        raise ADError(f".{name} of a number: numbers cannot be changed in place, and with them their derivative")
    if name in _REFUSED and name != "ctypes" or name in ("as_integer_ratio", "hex"):
        if is_active_anywhere(value):
            raise ADError(f".{name} of a number {_REFUSED.get(name, 'would lose the derivative')}")
        return getattr(_scalar_dtype(value).type(plain_value(value)), name)
    if name in rows_by_name:
        ufunc = (<Row>rows_by_name[name]).ufunc
        if ufunc is not None:
            return functools.partial(ufunc, value)
    function = _METHODS.get(name)
    if function is not None:
        return functools.partial(function, value)
    raise AttributeError(f"'numpy.float64' object has no attribute {name!r}")


cdef object _scalar_dtype(object value):
    return np.dtype(f32) if is_scalar(value) and (<Scalar>value).kind == SINGLE else np.result_type(plain_value(value))


def _scalar_astype(value, dtype, **kwargs):
    dtype = np.dtype(dtype)
    if dtype.kind in "fc":
        return value if dtype == _scalar_dtype(value) else _axisless(value).astype(dtype)[()]
    if dtype.hasobject:
        return objects_of(value)
    return dtype.type(plain_value(value))


def _axisless(value):
    return stack_nested([value], None)[0:1].reshape(())


def _scalar_view(value, dtype=None):
    if dtype is None or np.dtype(dtype) == _scalar_dtype(value):
        return value
    raise ADError("a view of a tracked number as another type would lose the derivative; use astype")


def _scalar_to_device(value, device, *, stream=None):
    f64(0.0).to_device(device, stream=stream)
    return value


# Methods of np.float64 that could only change a number.
cdef frozenset _IN_PLACE = frozenset({"fill", "put", "resize", "setfield", "setflags"})

cdef frozenset _ARRAY_PROTOCOLS = frozenset({"__array__", "__array_interface__", "__array_struct__"})

cdef set _SCALAR_SAME = {"item", "copy", "transpose", "conj", "conjugate", "squeeze", "__copy__", "tolist"}
cdef dict _SCALAR_VALUES = {
    "shape": lambda v: (), "ndim": lambda v: 0, "size": lambda v: 1, "dtype": _scalar_dtype,
    "T": lambda v: v, "real": lambda v: v, "imag": lambda v: 0.0, "strides": lambda v: (),
    "itemsize": lambda v: _scalar_dtype(v).itemsize, "nbytes": lambda v: _scalar_dtype(v).itemsize,
    "astype": lambda v: functools.partial(_scalar_astype, v),
    "reshape": lambda v: stack_nested([v], None).reshape,
    "ravel": lambda v: stack_nested([v], None).ravel, "flatten": lambda v: stack_nested([v], None).flatten,
    "is_integer": lambda v: float(plain_value(v)).is_integer, "fromhex": lambda v: f64.fromhex,
    "base": lambda v: None, "device": lambda v: "cpu", "flags": lambda v: f64(0.0).flags,
    "flat": lambda v: _axisless(v).flat, "view": lambda v: functools.partial(_scalar_view, v),
    "to_device": lambda v: functools.partial(_scalar_to_device, v),
    **{name: (lambda v, name=name: getattr(_axisless(v), name)) for name in ("diagonal", "swapaxes", "sort", "trace")},
}

def _compress(a, condition, axis=None, out=None):
    return np.compress(condition, a, axis, out)


# Methods of ndarray that are functions of NumPy's under the same name; those have the rule.
cdef dict _METHODS = {"compress": _compress, **{
    name: getattr(np, name) for name in (
        "all", "any", "argmax", "argmin", "argpartition", "argsort", "choose", "clip", "cumprod", "cumsum", "max",
        "mean", "min", "nonzero", "prod", "repeat", "round", "searchsorted", "std", "sum", "take", "trace", "var")
}}

_ATTRIBUTES = frozenset({"strides", "itemsize", "nbytes", "flags", "device", "base"})

# Given out by arrays that hold no active value; their memory counts as exposed from then on.
_HANDED_OUT = frozenset({"data", "ctypes", "tobytes", "tofile", "dump", "dumps", "__array_interface__"})

_REFUSED = {
    "data": "would hand out its memory without the derivative",
    "ctypes": "would hand out its memory without the derivative",
    "tobytes": "would lose the derivative; use the values' own (cyad.ignore_derivatives(x))",
    "tofile": "would lose the derivative; write the values' own (cyad.ignore_derivatives(x))",
    "dump": "would lose the derivative",
    "dumps": "would lose the derivative",
    "resize": "cannot be done in place: views of it share the memory of its derivative; use np.resize",
    "setfield": "would bypass the derivative",
    "getfield": "would lose the derivative",
    "byteswap": "would lose the derivative",
}
