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
from cpython.object cimport PyObject_RichCompare, Py_EQ, Py_GE, Py_GT, Py_LE, Py_LT, Py_NE
from cpython.ref cimport PyObject, PyTypeObject
from libc.math cimport isfinite
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DescrFromType, PyArray_DIMS,
    PyArray_ISBEHAVED, PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS, PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._redirect cimport current, redirect_native, register_ufunc_handler, swap_current
from cyad._shadow cimport Buffer, View, buffer_of_new, extent_of, view_of
from cyad.rules._kernels cimport Row, evaluate_array, lookup

import functools
import math
import operator
import types

import numpy as np

from cyad.activity import Active, Annotation
from cyad.errors import (
    ActiveStoreError, ActivityError, ADError, EscapedValueError, MissingRuleError,
)
from cyad.rules import registry
from cyad.rules._kernels import rows_by_name

cdef extern from "numpy/arrayobject.h":
    ctypedef int NPY_ORDER
    NPY_ORDER NPY_KEEPORDER
    NPY_ORDER NPY_CORDER
    ndarray PyArray_NewCopy(ndarray arr, NPY_ORDER order)
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)
    ndarray new_array "PyArray_SimpleNew"(int nd, npy_intp* dims, int typenum)

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept

import_array()

cdef object f64 = np.float64
cdef object f32 = np.float32
cdef object ufunc_type = np.ufunc
cdef object generic = np.generic
cdef object empty_key = Ellipsis

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

    cdef object elementwise(self, Row row, object x, object y):
        raise NotImplementedError("a context of no mode")

    cdef object link(self, object out, list operands, object pushes, list pulls, object reads):
        raise NotImplementedError("a context of no mode")

    cdef object load(self, TrackedArray a, char* address):
        raise NotImplementedError("a context of no mode")

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


cdef int escaped(Context ctx) except -1:
    raise EscapedValueError(
        f"a value of the differentiated call of {ctx.title or 'a function'} was used after that call had ended; "
        "return it from the function, or copy its number out while the function runs (cyad.ignore_derivatives)")


cdef int check_alive(Context ctx) except -1:
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


# ---- wrapping -------------------------------------------------------------------------------------------------------

cdef Buffer buffer_over(ndarray arr):
    """A buffer for the bytes that `arr` touches, whatever its layout."""
    cdef Buffer buf = buffer_of_new(arr)
    cdef Py_ssize_t low, high
    low, high = extent_of(arr)
    buf.data = <char*>low
    buf.nbytes = high - low
    return buf


cdef object wrap_new(Context ctx, ndarray arr):
    """An inactive tracked array over memory that nobody else sees."""
    cdef TrackedArray out = ctx.new_array()
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
    out.prim = prim
    if is_array(prim):
        out.arr = (<TrackedArray>prim).arr
    else:
        out.arr = prim
        out.plain = True
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
    if np.shape(c) == shape:
        return c
    extra = np.ndim(c) - len(shape)
    if extra > 0:
        c = np.sum(c, axis=tuple(range(extra)))
    axes = tuple([i for i in range(len(shape)) if shape[i] == 1 and np.shape(c)[i] != 1])
    return np.sum(c, axis=axes, keepdims=True) if axes else c


cdef object real_part(object c):
    return c.real if not isinstance(c, (int, float)) and np.iscomplexobj(plain_value(c)) else c


cdef int add_to_lane(Context ctx, View v, int lane, object c) except -1:
    """Adds a cotangent to the shadow of a view in one lane, through ordinary NumPy calls."""
    if is_box(v):
        if v.buf.lanes is None:
            v.buf.lanes = [None] * ctx.width
        old = v.buf.lanes[lane]
        v.buf.lanes[lane] = c if old is None else old + c
        return 0
    ensure_lanes(ctx, v.buf, ctx.width)
    target = lane_of(v, lane)
    if target.dtype.kind != "c":
        c = real_part(c)
    c = unbroadcast(c, v.shape_tuple())
    if is_array(target):
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
    cdef int i, ndim = PyArray_NDIM(shaped), single = typenum == NPY_FLOAT
    cdef npy_intp itemsize = 4 if single else 8
    cdef bint direct = True
    cdef float x32, y32
    if ndim == 0 or (x is not None and y is not None and PyArray_NDIM(y) == 0):
        return None
    if x is not None and y is not None:
        direct = PyArray_NDIM(y) == ndim
        for i in range(ndim if direct else 0):
            direct = direct and PyArray_DIMS(x)[i] == PyArray_DIMS(y)[i]
    if direct and x is not None:
        direct = ndim == 1 or PyArray_ISCONTIGUOUS(x)
    if direct and y is not None:
        direct = ndim == 1 or PyArray_ISCONTIGUOUS(y)
    if direct:
        out = new_array(ndim, PyArray_DIMS(shaped), typenum)
        x32, y32 = <float>xn, <float>yn
        if not evaluate_array(
                row, single, PyArray_SIZE(shaped),
                <char*>PyArray_DATA(x) if x is not None else <char*>&x32 if single else <char*>&xn,
                0 if x is None else PyArray_STRIDES(x)[0] if ndim == 1 else itemsize,
                <char*>PyArray_DATA(y) if y is not None else <char*>&y32 if single else <char*>&yn,
                0 if y is None else PyArray_STRIDES(y)[0] if ndim == 1 else itemsize,
                <char*>PyArray_DATA(out), itemsize):
            return out
    if row.nin == 1:
        result = row.ufunc(x)
    else:
        result = row.ufunc(xn if x is None else x, yn if y is None else y)
    return result if type(result) is np.ndarray and PyArray_TYPE(<ndarray>result) == typenum else None


cdef object warn(Row row, double x, double y, int kind):
    """NumPy's own floating-point warning for a scalar operation whose result is not finite."""
    scalar_type = f32 if kind == SINGLE else f64
    return float_warning(row, scalar_type(x), scalar_type(y) if row.nin == 2 else None)


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
    if not ctx.alive:
        escaped(ctx)
    return ctx.elementwise(row, x, y)


cdef object object_operand(object value):
    """A plain array of tracked scalars is a tracked array in disguise; a list is an array."""
    if isinstance(value, (list, tuple)):
        return stack_nested(value, None)
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
    cdef list operands = [], pushes = [], pulls = [], reads = []
    cdef int k
    cdef object xp, yp = None, out
    if row.refusal is not None:
        raise MissingRuleError(f"{row.name} of an active value: {row.refusal}")
    x = object_operand(x)
    xp = primal_at(ctx, x)
    if row.nin == 2:
        y = object_operand(y)
        yp = primal_at(ctx, y)
        if not row.zero:
            xp, yp = ctx.guard(xp), ctx.guard(yp)
        out = run_primal(ctx, row.ufunc, (xp, yp), {})
    else:
        out = run_primal(ctx, row.ufunc, (xp,), {})
    if row.zero or not (ctx.is_active(x) or (row.nin == 2 and ctx.is_active(y))):
        return wrap_inactive(ctx, out)
    if type(out) is not tuple and _object_dtype(out):
        raise ActivityError(f"{row.name} met operands that make an array of objects; give arrays of floats")
    strong = row.strong or ctx.strong
    if type(out) is tuple:
        raise MissingRuleError(f"{row.name} has several results; its derivative is that of their formulas")
    shape = np.shape(out)
    reads_mask = 0
    for k in range(row.nin):
        operand = y if k else x
        if ctx.is_active(operand):
            push, pull = partial_maps(row, k, xp, yp, out, shape, strong)
            operands.append(operand)
            pushes.append(push)
            pulls.append(pull)
            reads_mask |= (row.reads >> (3 * k)) & 7
    if reads_mask & 1:
        reads.append(x)
    if reads_mask & 2:
        reads.append(y)
    return ctx.link(out, operands, pushes, pulls, (reads, bool(reads_mask & 4)))


cdef bint _object_dtype(object out):
    return isinstance(out, np.ndarray) and out.dtype.hasobject


cdef tuple partial_maps(Row row, int k, object x, object y, object out, object shape, bint strong):
    """The pushforward and pullback of an elementwise operation in its k-th operand, from its row."""
    partial = row.partials[k]
    operand_shape = np.shape(y if k else x)
    real_operand = not np.iscomplexobj(plain_value(y if k else x))
    cached = []

    def coefficient():
        # Evaluated when first needed (a reverse sweep may never get here), once for all lanes.
        if not cached:
            cached.append(partial(x, y, out))
        return cached[0]

    def weigh(c, t):
        if not strong:
            return c * t
        with np.errstate(all="ignore"):
            return _strong_product(c, t)

    def push(t):
        c = weigh(coefficient(), t)
        return c if np.shape(c) == shape else np.broadcast_to(c, shape)

    def pull(g):
        c = coefficient()
        c = weigh(np.conjugate(c) if np.iscomplexobj(plain_value(c)) else c, g)
        return unbroadcast(real_part(c) if real_operand else c, operand_shape)

    return push, pull


cdef object _strong_product(object c, object t):
    """c * t with 0 wherever t is 0, also where c is inf or nan."""
    zero = np.equal(plain_value(t), 0)
    if np.ndim(t) == 0 and np.ndim(c) == 0:
        return t if zero else c * t
    return np.where(zero, 0.0, c * t) if np.any(zero) else c * t


cdef dict _MULTIPLE_OUTPUTS = {}


def _modf(x):
    whole = np.trunc(x)
    return x - whole, whole


def _divmod(x, y):
    return np.floor_divide(x, y), np.remainder(x, y)


def _frexp(x):
    mantissa, exponent = np.frexp(plain_value(x))
    return np.ldexp(x, -exponent), exponent


_MULTIPLE_OUTPUTS[np.modf] = _modf
_MULTIPLE_OUTPUTS[np.divmod] = _divmod
_MULTIPLE_OUTPUTS[np.frexp] = _frexp


cdef object apply_ufunc(object ufunc, object method, tuple inputs, dict kwargs):
    """A ufunc of which some argument is tracked, with all that a ufunc call may have."""
    cdef Row row
    cdef object out = kwargs.get("out")
    if method == "at":
        return _ufunc_at(ufunc, *inputs)
    if method == "reduce" and inputs and is_scalar(inputs[0]):
        inputs = (stack_nested([inputs[0]], None)[0:1],) + inputs[1:]
    if method != "__call__":
        return _ufunc_method(ufunc, method, inputs, kwargs)
    if len(inputs) > ufunc.nin:
        out = inputs[ufunc.nin:]
        inputs = inputs[:ufunc.nin]
        kwargs = dict(kwargs, out=out)
    if out is not None and type(out) is not tuple:
        out = (out,)
    if out is not None and any([o is not None for o in out]):
        return _ufunc_into(ufunc, inputs, kwargs, out)
    row = lookup(ufunc)
    if row is None:
        rule = registry.lookup(ufunc)
        if rule is not None:
            kwargs = {k: v for k, v in kwargs.items() if k != "out"}
            return structural(rule, ufunc, inputs, kwargs)
        if not any([is_active_anywhere(v) for v in inputs]):
            ctx = context_among(inputs)
            return wrap_inactive(ctx, run_primal(ctx, ufunc, tuple([primal_at(ctx, v) for v in inputs]), kwargs))
        raise MissingRuleError(
            f"no rule says what the derivative of {ufunc.__name__} is; register one (cyad.rules), "
            "or call it through cyad.inactive if none is wanted")
    if kwargs:
        return _ufunc_with_options(ufunc, row, inputs, kwargs)
    if ufunc in _MULTIPLE_OUTPUTS:
        return _MULTIPLE_OUTPUTS[ufunc](*inputs)
    if row.nin == 2:
        return apply(row, inputs[0], inputs[1])
    if row.nin == 1:
        return apply(row, inputs[0], None)
    raise MissingRuleError(f"{ufunc.__name__} has {row.nin} operands; write it in terms of binary functions")


cdef object _ufunc_with_options(object ufunc, Row row, tuple inputs, dict kwargs):
    """dtype=, casting=, where= and the like."""
    kwargs = dict(kwargs)
    kwargs.pop("out", None)
    where = kwargs.pop("where", True)
    target = kwargs.pop("dtype", None)
    casting = kwargs.pop("casting", "same_kind")
    kwargs.pop("order", None)
    kwargs.pop("subok", None)
    if kwargs:
        raise ActivityError(f"{ufunc.__name__} of a tracked value does not take {', '.join(kwargs)}")
    if where is not True:
        raise ActivityError(f"{ufunc.__name__}(where=...) leaves the rest of a new array undefined; give out= as well")
    if target is not None:
        target = np.dtype(target)
        for v in inputs:
            if not np.can_cast(getattr(v, "dtype", type(v)), target, casting):
                raise TypeError(f"{ufunc.__name__}: cannot cast {getattr(v, 'dtype', type(v))} to {target} "
                                f"with casting={casting!r}")
        inputs = tuple([cast(v, target) for v in inputs])
    return apply_ufunc(ufunc, "__call__", inputs, {})


cdef object cast(object value, object dtype):
    return value.astype(dtype) if hasattr(value, "astype") else dtype.type(value)


cdef object _ufunc_into(object ufunc, tuple inputs, dict kwargs, tuple out):
    """out=, also with where=: the result is computed, then stored as `target[where] = result`."""
    kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    where = kwargs.pop("where", True)
    casting = kwargs.get("casting", "same_kind")
    for target in out:
        if target is not None and not is_array(target):
            if any([is_active_anywhere(v) for v in inputs]):
                raise ActiveStoreError(
                    f"{ufunc.__name__}(out=...) would store active values into a plain array, which cannot carry their "
                    "derivative; allocate it inside the differentiated function")
    if where is not True:
        # NumPy computes nothing where the mask is off; neither may we, or the plain run's silence turns into warnings.
        mask = np.broadcast_to(plain_value(where), np.broadcast_shapes(
            *[np.shape(v) for v in inputs], np.shape(plain_value(where)), *[np.shape(o) for o in out if o is not None]))
        picked = tuple([np.broadcast_to(v, mask.shape)[mask] if np.ndim(v) else v for v in inputs])
        results = apply_ufunc(ufunc, "__call__", picked, kwargs)
    else:
        mask = None
        results = apply_ufunc(ufunc, "__call__", inputs, kwargs) if any(map(is_tracked, inputs)) \
            else ufunc(*inputs, **kwargs)
    if type(results) is not tuple:
        results = (results,)
    returned = []
    for target, result in zip(out, results):
        if target is None:
            returned.append(result)
            continue
        if not np.can_cast(getattr(result, "dtype", np.float64), target.dtype, casting):
            raise TypeError(f"Cannot cast ufunc '{ufunc.__name__}' output from {result.dtype} to {target.dtype} "
                            f"with casting rule '{casting}'")
        if mask is None:
            if np.shape(result) != np.shape(target) and np.broadcast_shapes(np.shape(result), np.shape(target)) \
                    != np.shape(target):
                raise ValueError(f"non-broadcastable output operand with shape {np.shape(target)} doesn't match the "
                                 f"broadcast shape {np.shape(result)}")
            target[...] = result if is_array(target) else plain_value(result)
        else:
            target[mask] = result if is_array(target) else plain_value(result)
        returned.append(target)
    return returned[0] if len(returned) == 1 else tuple(returned)


def _ufunc_at(ufunc, a, indices, *values):
    """ufunc.at: unbuffered, so repeated indices count each time."""
    if not is_array(a):
        if any([is_active_anywhere(v) for v in values]):
            raise ActiveStoreError(f"{ufunc.__name__}.at would store active values into a plain array; "
                                   "allocate it inside the differentiated function")
        return ufunc.at(a, indices, *[plain_value(v) for v in values])
    cdef TrackedArray t = <TrackedArray>a
    check_alive(t.ctx)
    check_conflict(t.place.buf)
    if ufunc is np.add:
        t.ctx.add_at(t, indices, values[0])
        return
    if ufunc is np.subtract:
        t.ctx.add_at(t, indices, -values[0] if is_tracked(values[0]) else np.negative(values[0]))
        return
    positions = np.arange(t.arr.size).reshape(t.place.shape_tuple())[indices]
    if np.unique(positions).size == np.size(positions):
        a[indices] = ufunc(a[indices], *values)
        return
    flat = np.broadcast_to(values[0], np.shape(positions)).reshape(-1) if values else None
    target = a.reshape(-1) if t.arr.flags.c_contiguous else a.flat
    for i, p in enumerate(np.ravel(positions).tolist()):
        target[p] = ufunc(target[p], flat[i]) if values else ufunc(target[p])


cdef object _ufunc_method(object ufunc, object method, tuple inputs, dict kwargs):
    """reduce, accumulate, reduceat, outer."""
    rule = registry.lookup((ufunc, method))
    if rule is not None:
        return dispatch_rule(rule, ufunc, inputs, kwargs)
    if method == "outer":
        x, y = inputs
        x = x[(...,) + (None,) * np.ndim(y)] if np.ndim(x) and np.ndim(y) else x
        return ufunc(x, y, **kwargs)
    if not any([is_active_anywhere(v) for v in inputs]):
        ctx = context_among(inputs)
        return wrap_inactive(ctx, run_primal(ctx, getattr(ufunc, method),
                                             tuple([primal_at(ctx, v) for v in inputs]), kwargs))
    if lookup(ufunc) is not None and (<Row>lookup(ufunc)).zero:
        return getattr(ufunc, method)(*[plain_value(v) for v in inputs], **kwargs)
    if method in ("reduce", "accumulate") and lookup(ufunc) is not None and not kwargs.get("out"):
        return _fold(ufunc, method, *inputs, **kwargs)
    raise MissingRuleError(f"no rule says what the derivative of {ufunc.__name__}.{method} is; "
                           "write the loop out, or register a rule (cyad.rules)")


def _fold(ufunc, method, a, axis=0, dtype=None, out=None, keepdims=False, initial=None, where=True):
    """reduce and accumulate of any binary ufunc that has a row, one slice after the other."""
    if where is not True or axis is None and np.ndim(a) > 1 or isinstance(axis, tuple):
        raise MissingRuleError(f"{ufunc.__name__}.{method} of an active array over several axes or with where=: "
                               "reduce one axis at a time")
    a = a if dtype is None else a.astype(dtype)
    rows = np.moveaxis(a, axis or 0, 0)
    if method == "accumulate":
        done = [rows[0]]
        for i in range(1, len(rows)):
            done.append(ufunc(done[-1], rows[i]))
        return np.moveaxis(np.stack(done), 0, axis or 0)
    if len(rows) == 0 and initial is None:
        return ufunc.reduce(plain_value(a), axis=axis, keepdims=keepdims)
    total = initial
    for i in range(len(rows)):
        total = rows[i] if total is None else ufunc(total, rows[i])
    return np.expand_dims(total, axis or 0) if keepdims else total


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


# ---- structural operations -------------------------------------------------------------------------------------------

cdef object structural(object rule, object func, object args, dict kwargs):
    """An operation with a structural rule: primals in, result and linear maps out."""
    cdef list leaves = rule.locate(args, kwargs)
    cdef list prims, operands = [], pushes = [], pulls = [], active = [], read = []
    cdef Context ctx
    cdef PushAll everything
    cdef int k
    cdef bint reads_out = False
    cdef object leaf
    leaves = [leaf if is_tracked(leaf) else object_operand(leaf) for leaf in leaves]
    ctx = context_among(leaves)
    if ctx is None:
        ctx = context_among(list(args) + list(kwargs.values()))
    check_alive(ctx)
    prims = [primal_at(ctx, leaf) for leaf in leaves]
    for k in range(len(leaves)):
        if ctx.is_active(leaves[k]):
            active.append(k)
            wanted, of_out = rule.reads_of(k, args, kwargs)
            reads_out = reads_out or of_out
            read.extend(wanted)
    for k in set(read):
        if not is_tracked(leaves[k]):
            prims[k] = ctx.guard(prims[k])
    args, kwargs = rule.replace(args, kwargs, prims)
    args = tuple([_non_operand(ctx, func, a) for a in args])
    kwargs = {key: _non_operand(ctx, func, v) for key, v in kwargs.items()}
    out, linear = run_primal(ctx, rule.fn, args, kwargs)
    if linear is None:
        # A view of the first operand: the same view of the shadow.
        if is_array(leaves[0]) and shares(plain_value(out), (<TrackedArray>leaves[0]).arr):
            return wrap_view(<TrackedArray>leaves[0], out)
        raise MissingRuleError(f"the rule of {_name_of(func)} gave no derivative for this call")
    if not active:
        return wrap_inactive(ctx, out)
    together = getattr(linear, "push_all", None)
    for k in active:
        push, pull = linear(k)
        operands.append(leaves[k])
        pushes.append(push)
        pulls.append(pull)
    if together is not None:
        everything = PushAll.__new__(PushAll)
        everything.function = together
        everything.active = active
        everything.count = <int>len(leaves)
    return ctx.link(out, operands, pushes if together is None else everything, pulls,
                    ([leaves[k] for k in set(read)], reads_out))


cdef object _non_operand(Context ctx, object func, object value):
    """A tracked value where the rule has no derivative to offer may pass only if none would be lost."""
    if not is_tracked(value) or context_of(value) is not ctx:
        if isinstance(value, np.ndarray) and value.dtype.kind in "biu":
            return ctx.guard(value)
        return value
    if ctx.is_active(value):
        raise MissingRuleError(f"the rule of {_name_of(func)} has no derivative in one of the active arguments; "
                               "pass a plain number there (cyad.ignore_derivatives) if none is wanted")
    return primal_at(ctx, value)


cdef object _name_of(object func):
    return getattr(func, "__name__", repr(func))


cdef object dispatch_rule(object rule, object func, object args, dict kwargs):
    """A structural rule, with NumPy's out= on top."""
    out = kwargs.get("out")
    if out is None:
        if "out" in kwargs:
            kwargs = {k: v for k, v in kwargs.items() if k != "out"}
        return structural(rule, func, args, kwargs)
    if type(out) is tuple:
        out = out[0]
    kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    result = structural(rule, func, args, kwargs)
    if not is_array(out):
        raise ActiveStoreError(f"{_name_of(func)}(out=...) would store tracked values into a plain array; "
                               "allocate it inside the differentiated function")
    if np.shape(result) != np.shape(out):
        raise ValueError(f"output array of shape {np.shape(out)} does not match the result's {np.shape(result)}")
    out[...] = result
    return out


cdef object dispatch(object func, object args, object kwargs):
    """A NumPy function of which some argument is tracked: special, by rule, of zero derivative, or composite."""
    cdef Context ctx
    cdef PyObject* old
    special = _SPECIAL.get(func)
    if special is not None:
        return special(*args, **kwargs)
    rule = registry.lookup(func)
    if rule is not None:
        return dispatch_rule(rule, func, args, kwargs)
    if registry.is_zero(func):
        return func(*_all_plain(args), **{k: _all_plain(v) for k, v in kwargs.items()})
    implementation = getattr(func, "_implementation", None)
    ctx = context_among(_leaves(args, kwargs))
    check_alive(ctx)
    if implementation is None or isinstance(implementation, types.BuiltinFunctionType):
        if any([is_active_anywhere(v) for v in _leaves(args, kwargs)]):
            raise MissingRuleError(
                f"no rule says what the derivative of {_name_of(func)} is; register one (cyad.rules), "
                "or call it through cyad.inactive if none is wanted")
        return wrap_inactive(ctx, run_primal(ctx, func, _primals_at(ctx, args),
                                             {k: _primals_at(ctx, v) for k, v in kwargs.items()}))
    old = swap_current(<PyObject*>ctx)
    try:
        return implementation(*args, **kwargs)
    finally:
        swap_current(old)


cdef list _leaves(object args, object kwargs):
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


cdef object _all_plain(object value):
    if type(value) in (list, tuple):
        return type(value)([_all_plain(v) for v in value])
    return plain_value(value)


cdef object _primals_at(Context ctx, object value):
    if type(value) in (list, tuple):
        return type(value)([_primals_at(ctx, v) for v in value])
    return primal_at(ctx, value)


# ---- arrays from lists ----------------------------------------------------------------------------------------------

def stack_nested(value, dtype):
    """`np.array(value, dtype)` for nested lists in which some entries are tracked."""
    cdef Context ctx = context_among(_leaves((value,), {}))
    cdef PyObject* old
    check_alive(ctx)
    old = swap_current(NULL)
    try:
        skeleton = np.array(_all_plain(value), dtype)
    finally:
        swap_current(old)
    if skeleton.dtype.kind not in "fc":
        if skeleton.dtype.hasobject or dtype is None:
            raise ActivityError(f"an array of {skeleton.dtype} cannot hold active values; lists must be rectangular "
                                "and of numbers")
        if any([is_active_anywhere(v) for v in _leaves((value,), {})]):
            raise ActiveStoreError(f"an array of dtype {skeleton.dtype} cannot hold active values; use a float dtype")
        return skeleton
    out = wrap_new(ctx, skeleton)
    _store_nested(out, value)
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
        raise ActivityError(f"{buf.name or 'an argument'} overlaps another argument in memory but their shadows do "
                            "not; such memory may only be read")
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
        raise ADError("the shape of a tracked array cannot be assigned; use x = x.reshape(...)")

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
        return _SPECIAL[np.real](self)

    @real.setter
    def real(self, value):
        if np.iscomplexobj(plain_value(self)):
            self[...] = value + 1j * self.imag
        else:
            self[...] = value

    @property
    def imag(self):
        return _SPECIAL[np.imag](self)

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

    def __format__(self, spec):
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
            raise ActiveStoreError("float() of an active value, or a store of it into a plain array, would lose its "
                                   "derivative; keep the value as it is, or allocate the array inside the differentiated function")
        return float(plain_value(self))

    def __complex__(self):
        if is_active_anywhere(self):
            raise ActiveStoreError("complex() of an active value would lose its derivative; keep the value as it is")
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
                "an active array would become a plain array here (np.asarray, a store into a plain array, a function of "
                "compiled code) and lose its derivative; allocate the target inside the differentiated function, or give the "
                "compiled function a rule (cyad.rules)")
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
        return apply_ufunc(ufunc, method, inputs, kwargs)

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
        return binary(FLOOR_DIVIDE, left, right), binary(REMAINDER, left, right)

    def __pow__(left, right, modulus):
        if modulus is not None:
            return NotImplemented
        return power(left, right)

    def __matmul__(left, right):
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
        raise ADError("a view of a tracked array as another type would lose the derivative; use astype")

    # -- copies and fills --------------------------------------------------------------------------------------------

    def copy(self, order="C"):
        return copy_of(self, order, None)

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
                raise ActivityError("astype(object) of a tracked array: build np.array(list(x), dtype=object) instead")
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
        _SPECIAL[np.put](self, indices, values, mode)

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
    plain = method(a.arr, *args)
    if a.place.size and not shares(plain, a.arr):
        # NumPy had to copy: copy in the order that it reads, and view that.
        order = args[-1] if args and type(args[-1]) is str else "C"
        return derived_view(copy_of(a, "F" if order == "F" or (order == "A" and a.arr.flags.fnc) else
                                    ("K" if order == "K" else "C"), None), method, args)
    if a.plain:
        return wrap_view(a, plain)
    return wrap_view(a, method(a.prim, *args) if not isinstance(method, types.MethodDescriptorType)
                     else getattr(a.prim, method.__name__)(*args))


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
    if dtype.kind == "c" or not np.iscomplexobj(plain_value(a)):
        return a if a.dtype == dtype else a * dtype.type(1)
    return np.real(a)


cdef object element(TrackedArray a, object key, object prim):
    """A single element that is no plain double load: as a scalar of a's context."""
    cdef Context ctx = a.ctx
    cdef TrackedArray out
    cdef TrackedArray place
    if a.plain and PyArray_TYPE(a.arr) in (NPY_DOUBLE, NPY_FLOAT):
        place = wrap_view(a, a.arr[(key if type(key) is tuple else (key,)) + (Ellipsis,)])
        return ctx.load(place, <char*>PyArray_DATA(place.arr))
    if not ctx.is_active(a):
        return wrap_inactive(ctx, prim)
    full = (key if type(key) is tuple else (key,)) + (Ellipsis,)

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
    """x.flat: the elements in C order; indexing reads copies and writes through."""

    def __init__(self, array):
        self.array = array
        self.base = array

    def __len__(self):
        return self.array.size

    def __iter__(self):
        return iter(self.array.reshape(-1))

    def _key(self, key):
        return np.unravel_index(np.arange(self.array.size)[key], self.array.shape)

    def __getitem__(self, key):
        if isinstance(key, (int, np.integer)):
            return self.array[tuple([int(i) for i in self._key(key)])]
        return self.array[self._key(key)]

    def __setitem__(self, key, value):
        if isinstance(key, (int, np.integer)):
            self.array[tuple([int(i) for i in self._key(key)])] = value
            return
        where = self._key(key)
        count = where[0].size if where else 1
        if np.ndim(value) and np.size(value) != count:
            value = np.resize(value, count)
        self.array[where] = np.reshape(value, where[0].shape) if np.ndim(value) else value

    def copy(self):
        return self.array.flatten()


# ---- operators ------------------------------------------------------------------------------------------------------

cdef bint is_foreign(object value) noexcept:
    """An operand that gets to decide by itself (NumPy's rule: a type that sets __array_ufunc__ to None)."""
    return not is_scalar(value) and getattr(type(value), "__array_ufunc__", True) is None


cdef object binary(Row row, object left, object right):
    if isinstance(left, str) or isinstance(right, str) or left is None or right is None \
            or is_foreign(left) or is_foreign(right):
        return NotImplemented
    return apply(row, left, right)


cdef object power(object left, object right):
    """`**` with NumPy's own short cuts for common exponents, so that values agree to the last bit."""
    if left is None or right is None or is_foreign(left) or is_foreign(right):
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
    if name in _SCALAR_VALUES:
        return _SCALAR_VALUES[name](value)
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
        return value if dtype == _scalar_dtype(value) else value * dtype.type(1)
    return dtype.type(plain_value(value))


cdef set _SCALAR_SAME = {"item", "copy", "transpose", "conj", "conjugate", "squeeze", "__copy__", "tolist"}
cdef dict _SCALAR_VALUES = {
    "shape": lambda v: (), "ndim": lambda v: 0, "size": lambda v: 1, "dtype": _scalar_dtype,
    "T": lambda v: v, "real": lambda v: v, "imag": lambda v: 0.0, "strides": lambda v: (),
    "itemsize": lambda v: _scalar_dtype(v).itemsize, "nbytes": lambda v: _scalar_dtype(v).itemsize,
    "astype": lambda v: functools.partial(_scalar_astype, v),
    "reshape": lambda v: stack_nested([v], None).reshape,
    "ravel": lambda v: stack_nested([v], None).ravel, "flatten": lambda v: stack_nested([v], None).flatten,
    "is_integer": lambda v: float(plain_value(v)).is_integer,
    "as_integer_ratio": lambda v: float(plain_value(v)).as_integer_ratio,
    "hex": lambda v: float(plain_value(v)).hex,
}

# Methods of ndarray that are functions of NumPy's under the same name; those have the rule.
cdef dict _METHODS = {
    name: getattr(np, name) for name in (
        "all", "any", "argmax", "argmin", "argpartition", "argsort", "choose", "clip", "compress", "cumprod", "cumsum", "max",
        "mean", "min", "nonzero", "prod", "repeat", "round", "searchsorted", "std", "sum", "take", "trace", "var")
}

_ATTRIBUTES = frozenset({"strides", "itemsize", "nbytes", "flags", "device", "base"})

_REFUSED = {
    "data": "would hand out its memory without the derivative",
    "ctypes": "would hand out its memory without the derivative",
    "tobytes": "would lose the derivative; use the values' own (cyad.ignore_derivatives(x))",
    "tofile": "would lose the derivative; write the values' own (cyad.ignore_derivatives(x))",
    "dump": "would lose the derivative",
    "dumps": "would lose the derivative",
    "resize": "cannot be done in place: views of it share its shadow; use np.resize",
    "setfield": "would bypass the derivative",
    "getfield": "would lose the derivative",
    "byteswap": "would lose the derivative",
    "setflags": "is not available; work on a copy",
}


# ---- functions that are neither rules nor composites -------------------------------------------------------------------

_SPECIAL = {}


def special(*functions):
    def register(implementation):
        for f in functions:
            _SPECIAL[f] = implementation
        return implementation
    return register


@special(np.broadcast_to)
def _broadcast_to(array, shape, subok=False):
    if not is_array(array) or (<TrackedArray>array).boxed:
        array = stack_nested([array], None)[0:1].reshape(())
    return derived_view(array, np.broadcast_to, (shape,))


@special(np.shape)
def _shape(a):
    return plain_value(a).shape if is_tracked(a) and hasattr(plain_value(a), "shape") else np.shape(_all_plain(a))


@special(np.ndim)
def _ndim(a):
    return len(_shape(a))


@special(np.size)
def _size(a, axis=None):
    return np.size(_all_plain(a), axis)


@special(np.copyto)
def _copyto(dst, src, casting="same_kind", where=True):
    if not is_array(dst):
        if is_active_anywhere(src):
            raise ActiveStoreError("np.copyto would store active values into a plain array; allocate it inside the "
                                   "differentiated function")
        np.copyto(dst, plain_value(src), casting=casting, where=plain_value(where))
        return
    if not np.can_cast(getattr(src, "dtype", np.float64), dst.dtype, casting):
        raise TypeError(f"Cannot cast array data from {src.dtype!r} to {dst.dtype!r} according to the rule '{casting}'")
    if where is True:
        dst[...] = src
        return
    mask = np.broadcast_to(plain_value(where), dst.shape)
    dst[mask] = src if np.ndim(src) == 0 else np.broadcast_to(src, dst.shape)[mask]


@special(np.putmask)
def _putmask(a, mask, values):
    mask = np.asarray(plain_value(mask))
    where = np.flatnonzero(mask)
    if np.ndim(values):
        values = np.ravel(values)
        values = values[where % np.size(values)]
    _put(a, where, values)


@special(np.place)
def _place(arr, mask, vals):
    where = np.flatnonzero(np.asarray(plain_value(mask)))
    vals = np.ravel(vals)
    _put(arr, where, vals[np.arange(where.size) % np.size(vals)] if np.size(vals) > 1 else vals[0])


@special(np.put)
def _put(a, ind, v, mode="raise"):
    if not is_array(a):
        raise ActiveStoreError("np.put would store active values into a plain array; allocate it inside the "
                               "differentiated function")
    ind = np.ravel(plain_value(ind))
    if mode == "wrap":
        ind = ind % a.size
    elif mode == "clip":
        ind = np.clip(ind, 0, a.size - 1)
    if np.ndim(v):
        v = np.ravel(v)
        if np.size(v) != ind.size:
            v = v[np.arange(ind.size) % np.size(v)]
    a[np.unravel_index(ind, a.shape)] = v


@special(np.real)
def _real(val):
    if not np.iscomplexobj(plain_value(val)):
        return val
    return dispatch_rule(registry.lookup(np.real), np.real, (val,), {})


@special(np.imag)
def _imag(val):
    if not np.iscomplexobj(plain_value(val)):
        return val * 0.0 if not is_array(val) else np.zeros_like(val)
    return dispatch_rule(registry.lookup(np.imag), np.imag, (val,), {})


@special(np.iscomplexobj)
def _iscomplexobj(x):
    return np.iscomplexobj(_all_plain(x))


@special(np.isrealobj)
def _isrealobj(x):
    return not np.iscomplexobj(_all_plain(x))


@special(np.empty_like, np.zeros_like)
def _zeros_like(prototype=None, dtype=None, order="K", subok=True, shape=None, *, a=None, device=None):
    source = prototype if prototype is not None else a
    return new_like(source, dtype, order, shape, 0.0)


@special(np.ones_like)
def _ones_like(a, dtype=None, order="K", subok=True, shape=None, *, device=None):
    return new_like(a, dtype, order, shape, 1.0)


@special(np.full_like)
def _full_like(a, fill_value, dtype=None, order="K", subok=True, shape=None, *, device=None):
    if dtype is None and is_active_anywhere(fill_value) and plain_value(a).dtype.kind not in "fc":
        dtype = np.float64
    out = new_like(a, dtype, order, shape, 0.0)
    out[...] = fill_value
    return out


cdef object new_like(object a, object dtype, object order, object shape, double value):
    cdef Context ctx = context_of(a)
    cdef PyObject* old
    old = swap_current(NULL)
    try:
        plain = np.full_like(plain_value(a), value, dtype=dtype, order=order, shape=shape)
    finally:
        swap_current(old)
    if ctx is None or plain.dtype.kind not in "fc":
        return plain
    check_alive(ctx)
    return wrap_new(ctx, plain)


# ---- arguments of a call --------------------------------------------------------------------------------------------

cdef bint overlaps_itself(ndarray arr) except -1:
    cdef int i
    for i in range(PyArray_NDIM(arr)):
        if PyArray_STRIDES(arr)[i] == 0 and PyArray_DIMS(arr)[i] > 1:
            return True
    return False


cdef class Argument:
    """An array argument while its call runs: the tracked array, and the caller's shadows if they must be copied back."""

    cdef TrackedArray tracked
    cdef tuple shadows       # the caller's, one for each lane; None for Const
    cdef bint private        # whether the call works on a copy of them
    cdef Py_ssize_t low, high

    @property
    def array(self):
        return self.tracked


def wrap_arguments(Context ctx, list arrays, list shadows, list names):
    """Tracked arrays over the caller's arrays, as a list of `Argument`.

    `shadows` has a tuple of W arrays for each array, None for a Const one. Arrays that overlap in memory become views of one buffer
    if their shadows overlap likewise; otherwise such memory may only be read.
    """
    cdef list out = []
    cdef Argument argument, other
    cdef ndarray arr
    cdef Py_ssize_t i
    cdef list group
    for i in range(len(arrays)):
        source = arrays[i]
        arr = (<TrackedArray>source).arr if is_array(source) else source
        argument = Argument.__new__(Argument)
        argument.shadows = shadows[i]
        if argument.shadows is not None and not PyArray_ISBEHAVED_RO(arr):
            raise ActivityError(f"{names[i]} is byte-swapped or misaligned; pass {names[i]}.astype({arr.dtype.type.__name__})")
        if overlaps_itself(arr):
            # Elements share memory, but each has a derivative of its own.
            if PyArray_CHKFLAGS(arr, NPY_ARRAY_WRITEABLE):
                raise ActivityError(f"{names[i]} overlaps itself in memory; pass a copy")
            arr = PyArray_NewCopy(arr, NPY_CORDER)
            arr.setflags(write=False)
        argument.low, argument.high = extent_of(arr)
        argument.tracked = ctx.new_array()
        argument.tracked.arr = arr
        argument.tracked.plain = ctx.outer is None
        argument.tracked.prim = arr if ctx.outer is None else source if is_array(source) else wrap_captured(ctx.outer, arr)
        out.append(argument)
    for i in range(len(out)):
        argument = out[i]
        if argument.tracked.place is not None:
            continue
        group = reachable(out, i)
        if len(group) == 1 or all([(<Argument>other).shadows is None for other in group]) or (
                ctx.outer is None and map_alike(group)):
            share_buffer(ctx, group, names[i])
            continue
        for other in group:
            share_buffer(ctx, [other], names[out.index(other)])
            other.tracked.place.buf.conflict = True
    return out


cdef object wrap_captured(Context ctx, ndarray arr):
    """A plain array as the outer differentiation sees it: memory of the caller's, inactive."""
    return wrap_over(ctx, arr if ctx.outer is None else wrap_captured(ctx.outer, arr))


cdef list reachable(list arguments, Py_ssize_t first):
    """The arguments whose memory overlaps, directly or through others, that of the first."""
    cdef list group = [arguments[first]]
    cdef Argument a, b
    cdef bint grown = True
    while grown:
        grown = False
        for b in arguments:
            if b in group:
                continue
            for a in group:
                if a.low < b.high and b.low < a.high:
                    group.append(b)
                    grown = True
                    break
    return group


cdef bint map_alike(list group) except -1:
    """Whether the shadows of overlapping arrays overlap as the arrays do."""
    cdef Argument first = group[0], a
    for a in group:
        if a.shadows is None or first.shadows is None or len(a.shadows) != len(first.shadows):
            return False
        for lane in range(len(a.shadows)):
            if not same_strides(a.tracked.arr, a.shadows[lane]):
                return False
            if distance(a, lane) != distance(first, lane):
                return False
    return True


cdef bint same_strides(ndarray a, ndarray b) noexcept:
    cdef int i
    if PyArray_NDIM(a) != PyArray_NDIM(b):
        return False
    for i in range(PyArray_NDIM(a)):
        if PyArray_STRIDES(a)[i] != PyArray_STRIDES(b)[i] and PyArray_DIMS(a)[i] > 1:
            return False
    return True


cdef Py_ssize_t distance(Argument a, Py_ssize_t lane) except? -1:
    cdef ndarray shadow = a.shadows[lane]
    cdef ndarray arr = a.tracked.arr
    return <char*>PyArray_DATA(shadow) - <char*>PyArray_DATA(arr)


cdef int share_buffer(Context ctx, list group, str name) except -1:
    """One buffer for a group of arguments; the caller's own shadow where its geometry allows, a private one otherwise."""
    cdef Buffer buf = Buffer.__new__(Buffer)
    cdef Argument a, first = group[0]
    cdef Py_ssize_t low = first.low, high = first.high, offset
    cdef int lane
    cdef ndarray shadow
    for a in group:
        low, high = min(low, a.low), max(high, a.high)
    buf.data = <char*>low
    buf.nbytes = high - low
    buf.typenum = PyArray_TYPE(first.tracked.arr)
    buf.owner = first.tracked.arr if len(group) == 1 else [(<Argument>a).tracked.arr for a in group]
    buf.name = name
    buf.caller_owned = True
    for a in group:
        a.tracked.place = view_of(buf, a.tracked.arr)
    if first.shadows is None:
        buf.constant = True
        return 0
    buf.active = True
    buf.borrowed_shadow = True
    if ctx.outer is None and len(first.shadows) == 1 and same_strides(first.tracked.arr, first.shadows[0]) and (
            PyArray_ISBEHAVED(<ndarray>first.shadows[0])) and first.tracked.place.size:
        shadow = first.shadows[0]
        offset = first.tracked.place.offset
        buf.shadow = <char*>PyArray_DATA(shadow) - offset
        buf.shadow_owner = [(<Argument>a).shadows[0] for a in group]
        buf.lane_bytes = buf.nbytes
        return 0
    ensure_lanes(ctx, buf, ctx.width)
    for a in group:
        a.private = True
        for lane in range(ctx.width):
            lane_of(a.tracked.place, lane)[...] = a.shadows[lane]
    return 0


cdef tuple wrap_all(Context ctx, list named, int width):
    """The values to call a function with, for its annotated arguments; and the `Argument`s among them."""
    cdef list values = [], arrays = [], shadows = [], names = [], places = []
    cdef Context own
    for i, (name, a) in enumerate(named):
        val = a.val
        own = context_of(val)
        if own is not None and ctx.outer is None:
            # A value made by hand, outside any call: its context is the outer one of this call.
            ctx.outer = own
            ctx.level = own.level + 1
    ctx.width = width
    for i, (name, a) in enumerate(named):
        val = a.val
        dval = getattr(a, "dval", None)
        values.append(val)
        if is_array(val) and not (<TrackedArray>val).boxed or type(val) is ndarray:
            if dval is None and (val.dtype.kind not in "fc" or (type(val) is ndarray and not PyArray_ISBEHAVED_RO(val))):
                continue
            arrays.append(val)
            shadows.append(None if dval is None else dval if a.batched else (dval,))
            names.append(name)
            places.append(i)
        elif isinstance(a, Active):
            values[i] = ctx.variable_scalar(val, None)
        elif dval is not None:
            if not isinstance(val, (float, complex, np.number)):
                raise ActivityError(f"{name}: a {type(val).__name__} is no array and no float; annotate its parts")
            values[i] = ctx.variable_scalar(val, dval if a.batched else (dval,))
    arguments = wrap_arguments(ctx, arrays, shadows, names) if arrays else []
    for i, argument in zip(places, arguments):
        values[i] = (<Argument>argument).tracked
    return values, arguments


cdef tuple as_call(object args, dict kwargs, list named, list values):
    """Positional and keyword arguments, with wrapped values in the place of annotations."""
    cdef Py_ssize_t n = len(args)
    keywords = kwargs
    if kwargs:
        keywords = dict(kwargs)
        annotated = [key for key, v in kwargs.items() if isinstance(v, Annotation)]
        for key, value in zip(annotated, values[n:]):
            keywords[key] = value
    return tuple(values[:n]), keywords


cdef object unwrap(Context ctx, object value):
    """A result of the function as the caller gets it: plain numbers and arrays, in the same structure."""
    if is_tracked(value):
        if context_of(value) is ctx:
            return primal_at(ctx, value)
        return value
    if type(value) is tuple or type(value) is list:
        return type(value)([unwrap(ctx, v) for v in value])
    if isinstance(value, tuple):
        return type(value)(*[unwrap(ctx, v) for v in value])
    if type(value) is dict:
        return {k: unwrap(ctx, v) for k, v in value.items()}
    return value


def copy_shadows_back(list arguments):
    """Private shadows into the caller's."""
    cdef Argument a
    cdef int lane
    for a in arguments:
        if a.private:
            for lane in range(len(a.shadows)):
                a.shadows[lane][...] = lane_of(a.tracked.place, lane)


def track(plain):
    """A fresh float array as a tracked one of the current context, if there is one; anything else as it is.

    Only memory that nobody else sees may be tracked: views of existing arrays stay plain.
    """
    cdef PyObject* ctx = current()
    if ctx is NULL or type(plain) is not ndarray or plain.base is not None:
        return plain
    if (<ndarray>plain).dtype.kind not in "fc" or not PyArray_ISBEHAVED(<ndarray>plain) or not plain.flags.owndata:
        return plain
    return wrap_new(<Context>ctx, plain)


def is_tracked_value(value):
    """Whether a value is a dual or adjoint number or array."""
    return is_tracked(value)


def holds_tracked(value):
    """Whether a nested list holds tracked values."""
    if isinstance(value, (list, tuple)):
        for v in value:
            if is_tracked(v) or isinstance(v, (list, tuple)) and holds_tracked(v):
                return True
        return False
    return is_tracked(value)


def plain_of(value):
    """The plain number or array at the bottom of a value (memory shared)."""
    return plain_value(value)


def active(value):
    """Whether a value carries a derivative at some level."""
    return is_active_anywhere(value)


def call_ufunc_tracked(ufunc, method, inputs, kwargs):
    """What a ufunc, or one of its methods, does when some argument is tracked."""
    return apply_ufunc(ufunc, method, inputs, kwargs)


cdef object ufunc_call(object ufunc, PyObject* const* args, size_t nargsf, object kwnames):
    """The hook behind every ufunc: some argument is tracked."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), i
    cdef Row row
    cdef Context a, b
    if kwnames is None:
        row = lookup(ufunc)
        if row is not None and row.nin == n and row.nout == 1:
            if n == 1:
                return apply(row, <object>args[0], None)
            if n == 2:
                return apply(row, <object>args[0], <object>args[1])
    inputs = tuple([<object>args[i] for i in range(n)])
    kwargs = {} if kwnames is None else {key: <object>args[n + i] for i, key in enumerate(<tuple>kwnames)}
    return apply_ufunc(ufunc, "__call__", inputs, kwargs)


def install_ufunc_hook():
    register_ufunc_handler(ufunc_call)


cdef object math_call(object original, PyObject* const* args, size_t nargsf, object kwnames):
    """`math.f` of a tracked number: the value is libm's, the partial that of the row."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), i
    name = original.__name__
    if n == 0 or kwnames is not None:
        raise TypeError(f"math.{name} takes positional arguments only")
    row = _MATH_ROWS.get(name)
    values = tuple([<object>args[i] for i in range(n)])
    for v in values:
        if is_array(v) and v.ndim > 0:
            raise TypeError(f"math.{name} takes numbers, not arrays; use NumPy's function")
    values = tuple([v[()] if is_array(v) else v for v in values])
    if row is not None and (<Row>row).nin == n:
        value = original(*[float(plain_value(v)) for v in values])
        return math_value(<Row>row, values[0], values[1] if n == 2 else None, value)
    composite = _MATH_COMPOSITES.get(name)
    if composite is None:
        if any([is_active_anywhere(v) for v in values]) and name not in _MATH_STEPS:
            raise MissingRuleError(f"no rule says what the derivative of math.{name} is")
        return original(*[plain_value(v) for v in values])
    return composite(*values)


cdef object math_value(Row row, object x, object y, double value):
    """An elementwise operation on scalars whose value is given."""
    cdef Context ctx = higher(context_of(x), context_of(y))
    check_alive(ctx)
    if row.refusal is not None:
        raise MissingRuleError(f"math.{row.name} of an active value: {row.refusal}")
    xp, yp = primal_at(ctx, x), primal_at(ctx, y)
    if ctx.outer is not None:
        out = math_value(row, xp, yp, value) if is_tracked(xp) or is_tracked(yp) else value
    else:
        out = value
    operands, pushes, pulls = [], [], []
    for k in range(row.nin):
        operand = y if k else x
        if not row.zero and ctx.is_active(operand):
            push, pull = partial_maps(row, k, xp, yp, out, (), row.strong or ctx.strong)
            operands.append(operand)
            pushes.append(push)
            pulls.append(pull)
    return ctx.link(out, operands, pushes, pulls, ((), False))


def _math_log(x, base=None):
    return math.log(x) if base is None else math.log(x) / math.log(base)


def _math_hypot(*coordinates):
    total = coordinates[0]
    for c in coordinates[1:]:
        total = np.hypot(total, c)
    return abs(total)


def _math_remainder(x, y):
    return x - y * round(plain_value(x) / plain_value(y))


cdef dict _MATH_ROWS = {
    name: rows_by_name[row] for name, row in {
        "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2",
        "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh",
        "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log10": "log10", "log1p": "log1p",
        "sqrt": "sqrt", "cbrt": "cbrt", "pow": "power", "fabs": "fabs", "fmod": "fmod", "copysign": "copysign",
        "degrees": "degrees", "radians": "radians", "hypot": "hypot", "erf": "erf", "erfc": "erfc", "gamma": "gamma",
        "lgamma": "gammaln",
    }.items() if row in rows_by_name
}
cdef dict _MATH_COMPOSITES = {
    "log": _math_log, "hypot": _math_hypot, "remainder": _math_remainder,
    "modf": lambda x: _modf(x), "frexp": lambda x: _frexp(x), "ldexp": lambda x, e: x * 2.0**e,
}
_MATH_STEPS = frozenset({"floor", "ceil", "trunc", "isnan", "isinf", "isfinite", "isclose", "ulp"})

MATH_FUNCTIONS = tuple(sorted({*_MATH_ROWS, *_MATH_COMPOSITES, *_MATH_STEPS}))


def install_math_hook(name):
    redirect_native(math, name, "types", math_call)
