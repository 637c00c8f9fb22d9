"""Forward mode: dual scalars and arrays, batched.

A value carries W tangents (lanes). A scalar keeps up to eight of them in the object itself; an array keeps them in the shadow of its
buffer, the lane axis in front. An operation computes its result and the tangents of the result at once; nothing is recorded,
so nothing has to be undone: in-place writes write value and tangent alike.

Kernels work lane by lane on strides of the primal, so no lane axis ever meets an array axis in a broadcast.

Values made by hand (`Dual(2.0, 1.0)`) belong to a context of level 0 that never ends, one for each batch width.

Thread safety: a context belongs to the thread of its call. The contexts of hand-made values hold no state.
"""
cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.object cimport PyObject_RichCompare
from cpython.ref cimport Py_INCREF, PyObject, PyTypeObject
from libc.math cimport isfinite
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, NPY_MAXDIMS, PyArray_CHKFLAGS, PyArray_DATA,
    PyArray_DESCR, PyArray_Descr, PyArray_ISBEHAVED_RO, PyArray_NBYTES, PyArray_NDIM, PyArray_TYPE, import_array,
    ndarray, npy_intp,
)

from cyad._arguments cimport as_call, unwrap, wrap_all
from cyad._context cimport (
    DOUBLE, SINGLE, WEAK, Context, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, TrackedArray, as_number, below,
    buffer_over, check_alive, check_storable, context_of, ensure_lanes, explain, finite_only, is_array, is_box,
    is_tracked, is_zero_seed, lane_of, number, own_copy, plain_value, primal_at, register_types, scalar_fits, wrap_box,
    wrap_over, write_primal,
)
from cyad._elementwise cimport (
    PushAll, evaluate_arrays, evaluate_scalar, general_elementwise, matrix_product, real_operand, reduced_axes,
    refuse, warn, warn_operator,
)
from cyad._redirect cimport current, enter, swap_current
from cyad._shadow cimport Buffer, View, broadcast_strides, buffer_of_new, may_overlap, same_geometry, view_of
from cyad._tracked cimport binary, dispatch, modular, power, scalar_attribute, scalar_item
from cyad.rules._kernels cimport (
    CYAD_OP_add, CYAD_OP_divide, CYAD_OP_multiply, CYAD_OP_power, CYAD_OP_subtract, Row, accumulate, copy_add,
    cyad_has_partials, cyad_partials, cyad_strong, partials_at,
)

import math
import operator
from types import FunctionType

import numpy as np

from cyad._arguments import copy_shadows_back, leaves_of_result, release_state
from cyad._structures import flatten
from cyad.activity import BatchDuplicated, Const, Duplicated
from cyad.errors import ActiveStoreError, ActivityError, MissingRuleError, lost
from cyad.rules._kernels import rows_by_name

import_array()

cdef object add_reduce = np.add.reduce, np_matmul = np.matmul
cdef object TRUE = np.True_, FALSE = np.False_

cdef extern from "numpy/arrayobject.h":
    PyTypeObject PyArray_Type
    object PyArray_NewFromDescr(PyTypeObject* subtype, PyArray_Descr* descr, int nd, const npy_intp* dims,
                                const npy_intp* strides, void* data, int flags, PyObject* obj)
    int PyArray_SetBaseObject(ndarray arr, object obj) except -1


cdef Row ADD = rows_by_name["add"]
cdef Row SUBTRACT = rows_by_name["subtract"]
cdef Row MULTIPLY = rows_by_name["multiply"]
cdef Row DIVIDE = rows_by_name["divide"]
cdef Row POWER = rows_by_name["power"]
cdef Row NEGATIVE = rows_by_name["negative"]
cdef Row ABSOLUTE = rows_by_name["absolute"]
cdef Row REMAINDER = rows_by_name["remainder"]
cdef Row FLOOR_DIVIDE = rows_by_name["floor_divide"]


# ---- scalars --------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class Dual:
    """A real number with its tangents.

    ``Dual(primal, tangent)`` with two real floats, or with a tuple (list, vector) of W floats for a batch of W lanes.
    Arithmetic and NumPy's functions follow the chain rule, f(x + t e) = f(x) + f'(x) t e with e^2 = 0:

    >>> import numpy as np
    >>> from cyad import Dual
    >>> y = np.sin(Dual(0.0, 1.0)) * 3
    >>> float(y.primal), y.tangent
    (0.0, 3.0)

    It behaves as np.float64: comparisons and branches on its value, inf and nan instead of ZeroDivisionError. What would lose
    the tangents (`float(x)`, a store into a plain array) raises ActiveStoreError. Batches of different widths do
    not mix (ActivityError).

    Raises ActivityError for a primal that is no real float (integers included) or has no tangent, and for a batch of none;
    TypeError for a tangent that is no real number. Immutable, so threads may share one; those of a differentiated call
    belong to its thread.
    """

    __array_ufunc__ = None
    __array_priority__ = 1000.0

    def __cinit__(self, primal=None, tangent=None):
        cdef double x = 0.0
        cdef int kind = DOUBLE, lane
        if tangent is None:
            if primal is not None:
                raise ActivityError("Dual(primal, tangent) takes both. Code that calls type(x)(...) on an active number would "
                                    "lose its derivative")
            return
        batched = isinstance(tangent, (tuple, list, np.ndarray)) and np.ndim(tangent) == 1
        lanes = tuple(tangent) if batched else (tangent,)
        if isinstance(primal, (int, np.integer)) and not isinstance(primal, bool):
            raise ActivityError(f"Dual({primal!r}, ...): an integer has no derivative; pass a float")
        if not as_number(primal, &x, &kind) or not lanes:
            raise ActivityError(f"Dual takes a real float and its tangents, not {type(primal).__name__} "
                                f"with {len(lanes)} tangents")
        self.ctx = standing_context(len(lanes), batched)
        self.value = x
        self.kind = SINGLE if kind == SINGLE else DOUBLE
        self.width = <int>len(lanes)
        room_for_lanes(self)
        for lane in range(self.width):
            self.lanes[lane] = lanes[lane]

    @property
    def primal(self):
        """The value, a Python float (np.float32 where it came from float32 memory)."""
        return float(self.value) if self.kind != SINGLE else np.float32(self.value)

    @property
    def tangent(self):
        """The tangent, or the tuple of them for a batch."""
        if self.width == 0:
            return (0.0,) * self.ctx.width if (<ForwardContext>self.ctx).batched else 0.0
        lanes = tuple([self.lanes[i] for i in range(self.width)])
        return lanes if (<ForwardContext>self.ctx).batched else lanes[0]

    @property
    def __class__(self):
        return np.float32 if self.kind == SINGLE else np.float64

    def __array_function__(self, func, types, args, kwargs):
        return dispatch(func, args, kwargs)

    def __getattr__(self, name):
        return scalar_attribute(self, name)

    def __add__(left, right):
        return scalar_binary(ADD, CYAD_OP_add, left, right)

    def __sub__(left, right):
        return scalar_binary(SUBTRACT, CYAD_OP_subtract, left, right)

    def __mul__(left, right):
        return scalar_binary(MULTIPLY, CYAD_OP_multiply, left, right)

    def __truediv__(left, right):
        return scalar_binary(DIVIDE, CYAD_OP_divide, left, right)

    def __pow__(left, right, modulus):
        if modulus is not None:
            return NotImplemented
        return scalar_binary(POWER, CYAD_OP_power, left, right)

    def __mod__(left, right):
        if type(left) is str:
            raise ActiveStoreError("'%' formatting of an active value reads it as a float, which loses its derivative; "
                                   "use format() or an f-string")
        return modular(REMAINDER, operator.mod, left, right)

    def __floordiv__(left, right):
        return modular(FLOOR_DIVIDE, operator.floordiv, left, right)

    def __divmod__(left, right):
        whole = modular(FLOOR_DIVIDE, operator.floordiv, left, right)
        return whole if whole is NotImplemented else (whole, modular(REMAINDER, operator.mod, left, right))

    def __matmul__(left, right):
        other = right if type(left) is Dual else left
        return np.matmul(left, right) if isinstance(other, (np.ndarray, float, int)) else NotImplemented

    def __neg__(self):
        return scalar_unary(NEGATIVE, self)

    def __pos__(self):
        return self

    def __abs__(self):
        return scalar_unary(ABSOLUTE, self)

    def __richcmp__(self, other, int op):
        cdef double x = (<Dual>self).value, y
        cdef int kind = (<Dual>self).kind
        cdef bint weak = kind == WEAK, holds
        if type(other) is Dual and kind != SINGLE and (<Dual>other).kind != SINGLE:
            y = (<Dual>other).value
            weak = weak and (<Dual>other).kind == WEAK
        elif PyFloat_CheckExact(other) and kind != SINGLE:
            y = PyFloat_AS_DOUBLE(other)
        else:   # also np.float32, to which NumPy rounds a Python float before it compares
            return PyObject_RichCompare(number(self), plain_value(other), op)
        if op == 0:
            holds = x < y
        elif op == 1:
            holds = x <= y
        elif op == 2:
            holds = x == y
        elif op == 3:
            holds = x != y
        elif op == 4:
            holds = x > y
        else:
            holds = x >= y
        # NumPy's numbers compare to NumPy's truth values: ~ of Python's is -2, which is true.
        return holds if weak else TRUE if holds else FALSE

    def __hash__(self):
        return hash(self.value)

    def __bool__(self):
        return self.value != 0.0

    def __int__(self):
        return int(self.value)

    def __trunc__(self):
        return math.trunc(self.value)

    def __floor__(self):
        return math.floor(self.value)

    def __ceil__(self):
        return math.ceil(self.value)

    def __round__(self, ndigits=None):
        return round(self.value) if ndigits is None else round(self.value, ndigits)

    def __float__(self):
        if self.width:
            check_alive(self.ctx)
            error = lost("float()")
            self.ctx.refused = str(error)
            raise error
        return self.value

    def __complex__(self):
        if self.width:
            raise lost("complex()")
        return complex(self.value)

    def __getitem__(self, key):
        return scalar_item(self, key)

    def __repr__(self):
        return f"Dual({self!s}, {self.tangent!r})"

    def __str__(self):
        return str(self.value) if self.kind != SINGLE else str(np.float32(self.value))

    def __format__(self, str spec not None):
        return format(self.value, spec)

    def __reduce_ex__(self, protocol):
        raise ActivityError("an active value cannot be pickled: its derivative belongs to a call that is running")

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef packed struct DualLayout:
    # What the declaration of Dual comes to; see _scalars.h.
    Py_ssize_t references
    void* type
    void* ctx
    double value
    int kind
    int width
    double* lanes
    double inline_lanes[8]


cdef extern from "_scalars.h":
    """
    typedef struct { cyad_scalar head; double *lanes; double inline_lanes[8]; } cyad_dual;

    static void cyad_release(PyObject *self)
    {
        cyad_dual *dual = (cyad_dual *)self;
        if (dual->lanes != dual->inline_lanes)
            free(dual->lanes);
        dual->lanes = NULL;
    }
    """
    object cyad_new_scalar(object type, object ctx, double value, int kind, unsigned int slot)
    int cyad_install_scalar(object type, size_t size)


cdef inline Dual new_dual(Context ctx, double value, int kind, int width):
    cdef Dual out = <Dual>cyad_new_scalar(Dual, ctx, value, kind, width)
    room_for_lanes(out)
    return out


cdef inline int room_for_lanes(Dual value) except -1:
    if value.width <= INLINE_LANES:
        value.lanes = &value.inline_lanes[0]
        return 0
    value.lanes = <double*>malloc(value.width * sizeof(double))
    if value.lanes is NULL:
        raise MemoryError()
    return 0


cdef inline void push_scalar(double* target, double px, const double* tx, double py, const double* ty, int width,
                             bint guarded) noexcept:
    """target = px tx + py ty; an operand that is NULL is a constant."""
    cdef int lane
    cdef double c, d
    if not guarded:
        if ty is NULL:
            for lane in range(width):
                target[lane] = px * tx[lane]
        elif tx is NULL:
            for lane in range(width):
                target[lane] = py * ty[lane]
        else:
            for lane in range(width):
                target[lane] = px * tx[lane] + py * ty[lane]
        return
    for lane in range(width):
        c = d = 0.0
        if tx is not NULL:
            c = px * tx[lane]
            if c != c and tx[lane] == 0.0:
                c = 0.0
        if ty is not NULL:
            d = py * ty[lane]
            if d != d and ty[lane] == 0.0:
                d = 0.0
        target[lane] = c + d


cdef inline object scalar_binary(Row row, int op, object left, object right):
    cdef ForwardContext ctx
    cdef double x, y, value, px = 0.0, py = 0.0
    cdef int kind, other, width
    cdef const double* tx = NULL
    cdef const double* ty = NULL
    cdef Dual out
    if type(left) is Dual:
        ctx = <ForwardContext>(<Dual>left).ctx
        x = (<Dual>left).value
        kind = (<Dual>left).kind
        if (<Dual>left).width:
            tx = (<Dual>left).lanes
        if type(right) is Dual:
            if (<Dual>right).ctx is not ctx:
                return binary(row, left, right)
            y = (<Dual>right).value
            other = (<Dual>right).kind
            if (<Dual>right).width:
                ty = (<Dual>right).lanes
        elif PyFloat_CheckExact(right):
            y = PyFloat_AS_DOUBLE(right)
            other = WEAK
        elif not as_number(right, &y, &other):
            return power(left, right) if op == CYAD_OP_power else binary(row, left, right)
    else:
        ctx = <ForwardContext>(<Dual>right).ctx
        y = (<Dual>right).value
        kind = (<Dual>right).kind
        if (<Dual>right).width:
            ty = (<Dual>right).lanes
        if PyFloat_CheckExact(left):
            x = PyFloat_AS_DOUBLE(left)
            other = WEAK
        elif not as_number(left, &x, &other):
            return power(left, right) if op == CYAD_OP_power else binary(row, left, right)
    if not ctx.alive:
        return binary(row, left, right)   # what never was active is still a number
    if other > kind:
        kind = other
    if kind == SINGLE:
        x, y = <float>x, <float>y   # NumPy rounds a Python float that meets an np.float32 first
    value = evaluate_scalar(op, x, y, kind)
    if not isfinite(value):
        if type(warn_operator(row, x, y, kind)) is complex:
            return power(left + 0j, right)
    if tx is NULL and ty is NULL:
        return new_dual(ctx, value, kind, 0)
    width = ctx.width
    out = new_dual(ctx, value, kind, width)
    cyad_partials(op, (1 if tx is not NULL else 0) | (2 if ty is not NULL else 0), x, y, value, &px, &py)
    push_scalar(out.lanes, px, tx, py, ty, width, ctx.strong or cyad_strong[op])
    if kind == SINGLE:
        round_lanes(out)
    return out


cdef object scalar_unary(Row row, Dual x):
    """An operator of one number: of a Python float it is one (a function of NumPy's is an np.float64)."""
    out = x.ctx.elementwise(row, x, None, NULL)
    if x.kind == WEAK and type(out) is Dual:
        (<Dual>out).kind = WEAK
    return out


cdef inline void round_lanes(Dual out) noexcept:
    cdef int lane
    for lane in range(out.width):
        out.lanes[lane] = <float>out.lanes[lane]


# ---- arrays ---------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class DualArray(DuckArray):
    """An array with its tangents; an ndarray to the code that uses it.

    ``DualArray(primal, tangent)`` works on the caller's memory: `primal` is an array of floats, `tangent` one of the same
    shape and dtype, or a tuple of W such arrays for a batch (its tangents are then copied into one block and stay there:
    read them with `.tangent`). In-place operations write both.

    Raises ActivityError for shapes or dtypes that do not match, for integers, an empty tuple, and memory that is byte-swapped
    or misaligned. As with an ndarray, any number of threads may read one, and one at a time write; those of a differentiated
    call belong to its thread.

    >>> import numpy as np
    >>> from cyad import DualArray
    >>> x = DualArray(np.array([1.0, 2.0]), np.array([1.0, 0.0]))
    >>> (x * x).tangent
    array([2., 0.])
    """

    def __init__(self, primal, tangent):
        batched = isinstance(tangent, (tuple, list))
        lanes = tuple(tangent) if batched else (tangent,)
        if type(primal) is not np.ndarray or primal.dtype.kind not in "fc":
            raise ActivityError("DualArray takes an array of floats as primal, not "
                                f"{getattr(primal, 'dtype', type(primal).__name__)}")
        for t in lanes:
            if type(t) is not np.ndarray or t.shape != primal.shape or t.dtype != primal.dtype:
                raise ActivityError(f"the tangent of an array of shape {primal.shape} and dtype {primal.dtype} must match; got "
                                    f"{getattr(t, 'shape', type(t).__name__)} of {getattr(t, 'dtype', 'no dtype')}")
        if not lanes:
            raise ActivityError("a batch of width 0 has no meaning")
        if not PyArray_ISBEHAVED_RO(<ndarray>primal):
            raise ActivityError(f"DualArray: the primal is byte-swapped or misaligned; pass primal.astype({primal.dtype.name!r})")
        adopt(self, standing_context(len(lanes), batched), primal, lanes)

    @property
    def tangent(self):
        """The tangent (memory shared with the shadow where there is one), or the tuple of them for a batch."""
        return lanes_of(self)


@cython.final
@cython.no_gc
cdef class DualBox(DuckValue):
    """A scalar with its tangents that does not fit Dual: complex, or of an outer differentiation too."""

    @property
    def tangent(self):
        """The tangent, or the tuple of them for a batch."""
        return lanes_of(self)


cdef object lanes_of(TrackedArray value):
    check_alive(value.ctx)
    lanes = tuple([tangent_of(value, lane) for lane in range(value.ctx.width)])
    return lanes if (<ForwardContext>value.ctx).batched else lanes[0]


cdef int adopt(TrackedArray out, Context ctx, ndarray primal, tuple lanes) except -1:
    """Makes `out` the tracked array over the caller's memory; a single tangent of like strides is used as it is."""
    cdef ndarray tangent = lanes[0]
    cdef Buffer buf = buffer_over(primal)
    cdef int lane
    cdef Py_ssize_t i
    cdef bint alike = True
    out.ctx = ctx
    out.arr = primal
    out.prim = primal
    out.plain = True
    buf.owner = primal
    out.place = view_of(buf, primal)
    for i in range(primal.ndim):
        alike = alike and (primal.strides[i] == tangent.strides[i])
    if len(lanes) == 1 and alike:
        buf.shadow = <char*>PyArray_DATA(tangent) - out.place.offset
        buf.shadow_owner = tangent
        buf.lane_bytes = buf.nbytes
        buf.borrowed_shadow = True
    else:
        buf.make_shadow(ctx.width, True)
        for lane in range(ctx.width):
            lane_of(out.place, lane)[...] = lanes[lane]
    buf.active = True
    return 0


cdef object tangent_of(object value, int lane):
    """The tangent in one lane of a value that the context tracks."""
    if type(value) is Dual:
        if (<Dual>value).width == 0:
            return np.float64(0.0)
        return np.float64((<Dual>value).lanes[lane]) if (<Dual>value).kind != SINGLE else \
            np.float32((<Dual>value).lanes[lane])
    t = lane_of((<TrackedArray>value).place, lane)
    if t is not None:
        return t
    if (<TrackedArray>value).boxed:
        return 0.0
    return np.zeros_like(plain_value(value))


# ---- the context ----------------------------------------------------------------------------------------------------

cdef dict _STANDING = {}


cdef ForwardContext standing_context(int width, bint batched):
    """The context of hand-made values of one batch width."""
    cdef ForwardContext ctx = _STANDING.get((width, batched))
    if ctx is None:
        ctx = ForwardContext(width, batched, "a hand-made dual value", False)
        ctx.level = 0
        ctx.outer = None
        ctx = _STANDING.setdefault((width, batched), ctx)
    return ctx


cdef class ForwardContext(Context):
    """One call in forward mode, W lanes wide."""

    def __cinit__(self, int width, bint batched=False, title=None, bint strong=False):
        cdef PyObject* outer = current()
        self.width = width
        self.batched = batched
        self.title = title
        self.strong = strong
        self.level = 1
        self.alive = True
        if outer is not NULL:
            self.outer = <Context>outer
            self.level = self.outer.level + 1

    def close(self):
        self.alive = False

    cdef TrackedArray new_array(self):
        cdef DualArray out = DualArray.__new__(DualArray)
        out.ctx = self
        return out

    cdef TrackedArray new_box(self):
        cdef DualBox out = DualBox.__new__(DualBox)
        out.ctx = self
        return out

    cdef bint is_active(self, object value) except -1:
        if type(value) is Dual:
            return (<Dual>value).ctx is self and (<Dual>value).width > 0
        if is_array(value):
            return (<TrackedArray>value).ctx is self and (<TrackedArray>value).place.buf.active
        return False

    cdef object variable_scalar(self, object value, tuple lanes):
        return self.result(value, [t if np.iscomplexobj(plain_value(value)) else real_tangent(t) for t in lanes])

    cdef object elementwise(self, Row row, object x, object y, const double* given):
        """One operation; `given` is its value where that is not NumPy's."""
        cdef double a, b = 0.0, value, px = 0.0, py = 0.0
        cdef int kind, other = WEAK, need
        cdef const double* ta = NULL
        cdef const double* tb = NULL
        cdef Dual out
        cdef object result
        if self.outer is not None or not row.scalar or row.zero:
            return general_elementwise(self, row, x, y)
        if row.refusal is not None:
            refuse(self, row, x, y)
        if is_array(x) or isinstance(x, ndarray) or (row.nin == 2 and (is_array(y) or isinstance(y, ndarray))):
            result = self.arrays(row, x, y)
            return general_elementwise(self, row, x, y) if result is None else result
        if type(x) is Dual and (<Dual>x).ctx is self:
            a = (<Dual>x).value
            kind = (<Dual>x).kind
            if (<Dual>x).width:
                ta = (<Dual>x).lanes
        elif not as_number(x, &a, &kind):
            return general_elementwise(self, row, x, y)
        if row.nin == 2:
            if type(y) is Dual and (<Dual>y).ctx is self:
                b = (<Dual>y).value
                other = (<Dual>y).kind
                if (<Dual>y).width:
                    tb = (<Dual>y).lanes
            elif not as_number(y, &b, &other):
                return general_elementwise(self, row, x, y)
            if other > kind:
                kind = other
        if given is NULL:
            if kind == SINGLE and not row.single:
                kind = DOUBLE   # np.float_power has loops for doubles only
            if kind == SINGLE:
                a, b = <float>a, <float>b
            value = evaluate_scalar(row.op, a, b, kind)
            if not isfinite(value):
                warn(row, a, b, kind)
            if kind == WEAK:
                kind = DOUBLE   # np.f of a Python float is an np.float64
        else:
            value = given[0]
            kind = WEAK     # math's functions return Python floats
        if ta is NULL and tb is NULL:
            return new_dual(self, value, kind, 0)
        out = new_dual(self, value, kind, self.width)
        need = (1 if ta is not NULL else 0) | (2 if tb is not NULL else 0)
        if cyad_has_partials[row.op]:
            cyad_partials(row.op, need, a, b, value, &px, &py)
        elif partials_at(row.op, need, a, b, value, &px, &py) < 0:
            raise MissingRuleError(f"{row.name} has no partial derivative that can be evaluated here")
        push_scalar(out.lanes, px, ta, py, tb, self.width, self.strong or row.strong)
        if kind == SINGLE:
            round_lanes(out)
        return out

    cdef object arrays(self, Row row, object x, object y):
        """The fast path: float64 (or float32) memory throughout. None where the operands do not fit it."""
        cdef ndarray xa = None, ya = None, out
        cdef int typenum = -1
        cdef double xn = 0.0, yn = 0.0
        cdef bint x_active = False, y_active = False
        cdef DualArray result
        if not self.operand(x, &xn, &typenum, &x_active):
            return None
        if row.nin == 2 and not self.operand(y, &yn, &typenum, &y_active):
            return None
        if typenum != NPY_DOUBLE and typenum != NPY_FLOAT:
            return None
        if not scalar_fits(x, typenum) or (row.nin == 2 and not scalar_fits(y, typenum)):
            return None
        xa = array_of(x)
        ya = array_of(y) if row.nin == 2 else None
        out = evaluate_arrays(row, typenum, xa, xn, ya, yn)
        if out is None:
            return None
        result = self.own_array(out, x_active or y_active)
        if not x_active and not y_active:
            return result
        if x_active and self.push(row, 0, x, xa, xn, ya, yn, x, result, True) < 0:
            return None
        if y_active and self.push(row, 1, y, xa, xn, ya, yn, y, result, not x_active) < 0:
            return None
        return result

    cdef DualArray own_array(self, ndarray out, bint active):
        """A fresh plain array as a value of this context; an active one gets a shadow, which is to be written."""
        cdef DualArray result = DualArray.__new__(DualArray)
        result.ctx = self
        result.arr = out
        result.prim = out
        result.plain = True
        result.place = view_of(buffer_of_new(out), out)
        if active:
            result.place.buf.make_shadow(self.width, False)
            result.place.buf.active = True
        return result

    cdef object with_tangents(self, object out, object block, int typenum):
        """A fresh result of plain memory, an array or a number, and its tangents (width, *shape)."""
        cdef DualArray result
        cdef Dual number
        cdef int lane
        if isinstance(out, ndarray):
            result = self.own_array(out, True)
            all_lanes(result.place, self.width)[...] = block
            return result
        number = new_dual(self, <double>out, SINGLE if typenum == NPY_FLOAT else DOUBLE, self.width)
        for lane in range(self.width):
            number.lanes[lane] = block[lane]
        return number

    cdef object total(self, TrackedArray a, object axis, bint keepdims, bint mean):
        cdef bint reduced[64]
        cdef View x = a.place
        cdef int i
        if a.boxed or not a.plain or not (x.typenum == NPY_DOUBLE or x.typenum == NPY_FLOAT) or not x.buf.active or \
                x.buf.shadow is NULL or x.size == 0 or x.ndim == 0 or not reduced_axes(axis, x.ndim, reduced):
            return None
        out = a.arr.mean(axis=axis, keepdims=keepdims) if mean else add_reduce(a.arr, axis, None, None, keepdims)
        axes = tuple([i + 1 for i in range(x.ndim) if reduced[i]])
        lanes = all_lanes(x, self.width)
        with silently():
            block = lanes.mean(axis=axes, keepdims=keepdims) if mean else add_reduce(lanes, axes, None, None, keepdims)
        return self.with_tangents(out, block, x.typenum)

    cdef object product(self, object a, object b):
        cdef int typenum = -1
        cdef ndarray x = real_operand(self, a, &typenum), y
        cdef bint x_active = self.is_active(a), y_active = self.is_active(b)
        if x is None or self.strong:
            return None
        y = real_operand(self, b, &typenum)
        if y is None or not 1 <= PyArray_NDIM(x) <= 2 or not 1 <= PyArray_NDIM(y) <= 2 or not (x_active or y_active):
            return None
        if x_active and (<TrackedArray>a).place.buf.shadow is NULL or y_active and (<TrackedArray>b).place.buf.shadow is NULL:
            return None
        out = matrix_product(x, y, typenum)
        block = None
        with silently():
            if x_active:
                block = np_matmul(all_lanes((<TrackedArray>a).place, self.width), y)
            if y_active:
                lanes = all_lanes((<TrackedArray>b).place, self.width)
                by_b = np_matmul(x, lanes) if PyArray_NDIM(y) == 2 else np_matmul(lanes, (<object>x).T)
                block = by_b if block is None else block + by_b
        return self.with_tangents(out, block, typenum)

    cdef int push(self, Row row, int k, object x, ndarray xa, double xn, ndarray ya, double yn, object operand,
                  DualArray result, bint assign) except -2:
        """Adds the tangent that operand k contributes to the result's shadow; -1 where the row has no loop for it."""
        cdef View out = result.place, xv = None, yv = None
        cdef npy_intp xs[64]
        cdef npy_intp ys[64]
        cdef npy_intp zeros[64]
        cdef int ndim = out.ndim, lane, single = out.typenum == NPY_FLOAT, status
        cdef float x32 = <float>xn, y32 = <float>yn
        cdef float* lanes32 = NULL
        cdef char* xp
        cdef char* yp
        cdef char* seed
        cdef npy_intp* seed_strides
        cdef npy_intp seed_lane
        memset(zeros, 0, ndim * sizeof(npy_intp))
        xp = operand_pointer(xa, <char*>&x32 if single else <char*>&xn, ndim, out.shape, xs)
        yp = operand_pointer(ya, <char*>&y32 if single else <char*>&yn, ndim, out.shape, ys)
        if type(operand) is Dual:
            seed_strides = &zeros[0]
            seed = <char*>(<Dual>operand).lanes
            seed_lane = sizeof(double)
            if single:
                lanes32 = <float*>malloc(self.width * sizeof(float))
                if lanes32 is NULL:
                    raise MemoryError()
                for lane in range(self.width):
                    lanes32[lane] = <float>(<Dual>operand).lanes[lane]
                seed = <char*>lanes32
                seed_lane = sizeof(float)
        else:
            xv = (<TrackedArray>operand).place
            seed_strides = &ys[0] if k else &xs[0]
            seed = xv.buf.shadow + xv.offset
            seed_lane = xv.buf.lane_bytes
        status = accumulate(row, k, single, ndim, out.shape, xp, xs, yp, ys, out.buf.data + out.offset, out.strides,
                            seed, seed_strides, seed_lane, out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes,
                            self.width, assign, self.strong)
        free(lanes32)
        return status

    cdef bint operand(self, object value, double* x, int* typenum, bint* active) except -1:
        """Sorts an operand for the fast path; False if it does not belong there."""
        cdef int kind
        cdef ndarray arr
        if is_array(value):
            if (<TrackedArray>value).ctx is not self or not (<TrackedArray>value).plain:
                return False
            arr = (<TrackedArray>value).arr
            active[0] = (<TrackedArray>value).place.buf.active
        elif type(value) is Dual:
            x[0] = (<Dual>value).value
            active[0] = (<Dual>value).width > 0
            return (<Dual>value).ctx is self
        elif type(value) is ndarray:
            arr = value
        else:
            return as_number(value, x, &kind)
        if not PyArray_ISBEHAVED_RO(arr) or (typenum[0] != -1 and PyArray_TYPE(arr) != typenum[0]):
            return False
        typenum[0] = PyArray_TYPE(arr)
        return True

    cdef object load(self, TrackedArray a, char* address):
        cdef View v = a.place
        cdef Buffer buf = v.buf
        cdef Py_ssize_t offset = address - buf.data
        cdef bint single = v.typenum == NPY_FLOAT
        cdef double value = (<float*>address)[0] if single else (<double*>address)[0]
        cdef Dual out = new_dual(self, value, SINGLE if single else DOUBLE, self.width if buf.active else 0)
        cdef int lane
        cdef char* shadow = buf.shadow + offset
        for lane in range(out.width):
            out.lanes[lane] = (<float*>shadow)[0] if single else (<double*>shadow)[0]
            shadow += buf.lane_bytes
        return out

    cdef int store_element(self, TrackedArray a, char* address, object value) except -1:
        cdef Buffer buf = a.place.buf
        cdef Py_ssize_t offset = address - buf.data
        cdef bint single = a.place.typenum == NPY_FLOAT
        cdef double x, t
        cdef int kind, lane
        cdef char* shadow
        cdef double* lanes = NULL
        if type(value) is Dual:
            if (<Dual>value).ctx is not self:
                return 0
            x = (<Dual>value).value
            if (<Dual>value).width:
                lanes = (<Dual>value).lanes
        elif not as_number(value, &x, &kind):
            return 0
        if lanes is not NULL:
            self.activate(a)
        if single:
            (<float*>address)[0] = <float>x
        else:
            (<double*>address)[0] = x
        if not buf.active:
            return 1
        shadow = buf.shadow + offset
        for lane in range(self.width):
            t = 0.0 if lanes is NULL else lanes[lane]
            if single:
                (<float*>shadow)[0] = <float>t
            else:
                (<double*>shadow)[0] = t
            shadow += buf.lane_bytes
        return 1

    cdef int activate(self, TrackedArray a) except -1:
        """Before the first active store: the memory gets its shadow."""
        check_storable(a)
        if not a.place.buf.active:
            ensure_lanes(self, a.place.buf, self.width)
            a.place.buf.active = True
        return 0

    cdef object link(self, object out, list operands, object pushes, list pulls, object reads):
        cdef list lanes = []
        cdef int lane, k
        cdef PyObject* old
        if not operands:
            return self.result(out, None)
        old = swap_current(<PyObject*>self.outer if self.outer is not None else NULL)
        try:
            # The plain run knows no derivatives, so it cannot warn of them.
            with np.errstate(all="ignore"):
                for lane in range(self.width):
                    total = None
                    if type(pushes) is PushAll:
                        seeds = [tangent_of(operand, lane) for operand in operands]
                        total = (<PushAll>pushes).apply(seeds)
                        if self.strong and is_zero_seed(seeds):
                            total = finite_only(total)
                    else:
                        for k in range(len(operands)):
                            seed = tangent_of(operands[k], lane)
                            t = pushes[k](seed)
                            if self.strong and is_zero_seed(seed):
                                t = finite_only(t)
                            total = t if total is None else sum_of(total, t)
                    lanes.append(total)
                return self.result(out, lanes)
        finally:
            swap_current(old)

    cdef object combine(self, object out, list operands, list partials):
        cdef double value, x
        cdef int kind, other, lane
        cdef Py_ssize_t k
        cdef Dual operand, result
        if self.outer is not None or not as_number(out, &value, &kind):
            return None
        for k in range(len(operands)):
            if type(operands[k]) is not Dual or not as_number(partials[k], &x, &other):
                return None
        result = new_dual(self, value, kind, self.width)
        for lane in range(self.width):
            result.lanes[lane] = 0.0
        for k in range(len(operands)):
            operand = operands[k]
            as_number(partials[k], &x, &other)
            for lane in range(self.width):
                if operand.lanes[lane] != 0.0 or not self.strong:
                    result.lanes[lane] += x * operand.lanes[lane]
        return result

    cdef object result(self, object out, list lanes):
        """Wraps the result of an operation with its tangents, one entry for each lane."""
        cdef TrackedArray array
        cdef Dual scalar
        cdef double x
        cdef int kind, lane, i
        if isinstance(out, (tuple, list)):
            parts = [self.result(out[i], None if lanes is None else [t[i] for t in lanes]) for i in range(len(out))]
            return type(out)(parts) if type(out) in (tuple, list) else type(out)(*parts)
        if isinstance(out, np.ndarray):
            if plain_value(out).dtype.kind not in "fc":
                return out
            if not plain_value(out).flags.owndata:
                out = out.copy() if is_array(out) else own_copy(out)
            array = wrap_over(self, out)
            if lanes is not None:
                ensure_lanes(self, array.place.buf, self.width)
                for lane in range(self.width):
                    lane_of(array.place, lane)[...] = lanes[lane] if array.dtype.kind == "c" else real_tangent(lanes[lane])
                array.place.buf.active = True
            return array
        if isinstance(out, (bool, np.bool_, int, np.integer)) or out is None:
            return out
        if self.outer is None and as_number(out, &x, &kind):
            scalar = new_dual(self, x, kind, 0 if lanes is None else self.width)
            for lane in range(scalar.width):
                scalar.lanes[lane] = float(np.real(lanes[lane]))
            return scalar
        array = wrap_box(self, out)
        if lanes is not None:
            array.place.buf.lanes = [scalar_tangent(t) for t in lanes]
            array.place.buf.active = True
        return array

    cdef int gather(self, TrackedArray a, object key, TrackedArray out) except -1:
        cdef int lane
        if not a.place.buf.active:
            return 0
        ensure_lanes(self, out.place.buf, self.width)
        for lane in range(self.width):
            lane_of(out.place, lane)[...] = lane_of(a.place, lane)[key]
        out.place.buf.active = True
        return 0

    cdef int store(self, TrackedArray target, object value) except -1:
        return self.write(target, Ellipsis, value)

    cdef int scatter(self, TrackedArray a, object key, object value) except -1:
        return self.write(a, key, value)

    cdef int write(self, TrackedArray target, object key, object value) except -1:
        """`target[key] = value`, value and tangents."""
        cdef bint active = self.is_active(value)
        cdef int lane
        if key is Ellipsis and is_array(value) and (<TrackedArray>value).ctx is self and not (<TrackedArray>value).boxed \
                and same_geometry((<TrackedArray>value).place, target.place):
            return 0
        value = below(self, value)
        if active:
            self.activate(target)
        if target.plain:
            target.arr[key] = plain_value(value) if is_tracked(value) else value
        else:
            write_primal(self, target.prim, key, primal_at(self, value))
        if not target.place.buf.active:
            return 0
        if key is Ellipsis and target.plain and self.write_lanes(target.place, value, active):
            return 0
        for lane in range(self.width):
            t = tangent_of(value, lane) if active else 0.0
            write_primal(self, lane_of(target.place, lane), key, t if target.dtype.kind == "c" else real_tangent(t))
        return 0

    cdef bint write_lanes(self, View target, object value, bint active) except -1:
        """The tangents of a whole region in all lanes at once; False where that takes ordinary NumPy calls."""
        cdef npy_intp strides[64]
        cdef View source
        cdef double zero = 0.0
        cdef char* begin = <char*>&zero
        cdef Py_ssize_t lane_bytes = 0
        cdef bint single = target.typenum == NPY_FLOAT
        if not (single or target.typenum == NPY_DOUBLE) or target.overlaps or target.buf.shadow is NULL:
            return False
        memset(strides, 0, target.ndim * sizeof(npy_intp))
        if active and type(value) is Dual:
            if single:
                return False
            begin = <char*>(<Dual>value).lanes
            lane_bytes = sizeof(double)
        elif active:
            source = (<TrackedArray>value).place
            if source.typenum != target.typenum or source.ndim > target.ndim or source.buf.shadow is NULL or \
                    may_overlap(target, source):
                return False
            broadcast_strides(source, target.ndim, target.shape, strides)
            begin = source.buf.shadow + source.offset
            lane_bytes = source.buf.lane_bytes
        copy_add(single, target.ndim, target.shape, begin, strides, lane_bytes, target.buf.shadow + target.offset,
                 target.strides, target.buf.lane_bytes, self.width, 1.0, 1)
        return True

    cdef int add_at(self, TrackedArray a, object key, object value) except -1:
        cdef bint active = self.is_active(value)
        cdef int lane
        value = below(self, value)
        if active:
            self.activate(a)
        np.add.at(a.prim, key, plain_value(value) if a.plain and is_tracked(value) else primal_at(self, value))
        if active:
            for lane in range(self.width):
                np.add.at(lane_of(a.place, lane), key, tangent_of(value, lane))
        return 0


cdef object silently():
    """The plain run knows no tangents, and cannot warn of them."""
    return np.errstate(all="ignore")


cdef object real_tangent(object t):
    return t.real if not isinstance(t, (int, float)) and np.iscomplexobj(plain_value(t)) else t


cdef object sum_of(object a, object b):
    """The sum of two tangents; of results that are tuples, entry by entry."""
    return tuple([sum_of(a[i], b[i]) for i in range(len(a))]) if isinstance(a, tuple) else a + b


cdef object scalar_tangent(object t):
    """A tangent of a boxed scalar as a number: linear maps may hand back 0-d arrays."""
    return t[()] if isinstance(t, np.ndarray) else t


cdef inline ndarray array_of(object value):
    if is_array(value):
        return (<TrackedArray>value).arr
    return value if isinstance(value, ndarray) else None


cdef inline char* operand_pointer(ndarray arr, char* scalar, int ndim, npy_intp* shape, npy_intp* strides) noexcept:
    """Where the values of an operand are, and its strides broadcast to `shape`."""
    cdef int i, j
    if arr is None:
        memset(strides, 0, ndim * sizeof(npy_intp))
        return scalar
    for i in range(ndim):
        j = i - (ndim - PyArray_NDIM(arr))
        strides[i] = 0 if j < 0 or (arr.shape[j] == 1 and shape[i] != 1) else arr.strides[j]
    return <char*>PyArray_DATA(arr)


if not cyad_install_scalar(Dual, sizeof(DualLayout)):
    raise ImportError("cyad._dual was built for another layout of extension types")
register_types(None, Dual, None, DualArray, DualBox)


# ---- one call -------------------------------------------------------------------------------------------------------

def run_forward(mode, f, returned, args, kwargs, list named, int width, bint batched):
    """`autodiff` in forward mode, its arguments checked."""
    cdef ForwardContext ctx = ForwardContext(width, batched, f, mode.strong_zero)
    cdef PyObject* old
    cdef list values, arguments
    cdef int lane
    values, arguments = wrap_all(ctx, named, width, False)
    positional, keywords = as_call(args, kwargs, named, values)
    try:
        old = enter(<PyObject*>ctx)
        ctx.start()
        try:
            result = f(*positional, **keywords)
        except (TypeError, ValueError, SystemError) as error:
            explain(ctx, error)
            raise
        finally:
            swap_current(old)
            ctx.stop()
            if type(f) is not FunctionType:
                release_state(ctx, f, False)
            # Also after an exception: the shadows then hold the tangents of the state that was reached.
            copy_shadows_back(arguments)
        if returned is None:
            returned = Const if result is None else Duplicated
        out = ()
        if returned is not Const:
            if not issubclass(returned, (Duplicated, BatchDuplicated)):
                raise ActivityError(f"a return of activity {returned.__name__} has no meaning in forward mode; use Duplicated or Const")
            lanes = tuple([tangents(ctx, result, lane) for lane in range(width)])
            out = (lanes if batched else lanes[0],)
        return out + (primals(ctx, result),) if mode.primal else out
    finally:
        ctx.alive = False


cdef object tangents(ForwardContext ctx, object value, int lane):
    """The derivative of a result in one lane, in the structure of the result."""
    if is_tracked(value) and context_of(value) is ctx:
        t = tangent_of(value, lane)
        return float(t) if type(t) is np.float64 else t
    if type(value) is dict or isinstance(value, (tuple, list)):
        try:
            return tangents_of_entries(ctx, value, lane)
        except RecursionError:
            pass   # it holds itself
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return np.zeros_like(value)
    if value is None or isinstance(value, (int, float, complex, np.number)):
        return None if value is None else 0.0
    leaves, rebuild = leaves_of_result(value)
    # A dataclass, an object, another mapping: like the result, in what is inactive, too.
    return rebuild([tangents(ctx, leaf, lane) for leaf in leaves]) if leaves else None


cdef object tangents_of_entries(ForwardContext ctx, object value, int lane):
    """The same for the usual containers, without a walk that remembers where it was."""
    if is_tracked(value) or not (type(value) is dict or isinstance(value, (tuple, list))):
        return tangents(ctx, value, lane)
    Py_EnterRecursiveCall(" in a result that is nested too deeply")
    try:
        if isinstance(value, (tuple, list)):
            parts = [tangents_of_entries(ctx, v, lane) for v in value]
            return type(value)(parts) if type(value) in (tuple, list) else type(value)(*parts)
        return {k: tangents_of_entries(ctx, v, lane) for k, v in value.items()}
    finally:
        Py_LeaveRecursiveCall()


def tangents_of(value):
    """The derivatives, one for each lane, of a value of the current call, in its structure; what is inactive stays."""
    cdef ForwardContext ctx = <ForwardContext?><object>current()
    leaves, rebuild = flatten(value)
    return [rebuild([tangents(ctx, leaf, lane) for leaf in leaves]) for lane in range(ctx.width)]


cdef object primals(ForwardContext ctx, object value):
    out = unwrap(ctx, value)
    return float(out) if type(out) is np.float64 else out


# ---- many directions at once ----------------------------------------------------------------------------------------

def push_lanes(call, list blocks, int width, bint strong=False):
    """J times each of `width` directions, for a `Call`: ``(result, rebuild, primals, tangents)``.

    `blocks` has the directions by each leaf, an array of shape (width, *leaf.shape), which the call may overwrite: outside any
    other call it is the shadow of a whole array. The result is taken apart: its leaves as the caller gets them, what puts
    it together from other leaves (None for a single one), and the tangents of each leaf as one array, the lane axis in front.
    """
    cdef ForwardContext ctx = ForwardContext(width, True, call, strong)
    cdef PyObject* old
    cdef list values = direct_values(ctx, call.leaves, blocks, call.fixed)
    f = call.run
    if values is None:
        values = wrap_all(ctx, call.annotated([BatchDuplicated(
            leaf, [block[lane, ...] for lane in range(width)] if isinstance(leaf, np.ndarray) else
            tuple(block) if is_array(block) else block.tolist()) for leaf, block in zip(call.leaves, blocks)]), width, False)[0]
    try:
        old = enter(<PyObject*>ctx)
        ctx.start()
        try:
            result = f(*values)
        except (TypeError, ValueError, SystemError) as error:
            explain(ctx, error)
            raise
        finally:
            swap_current(old)
            ctx.stop()
            if type(f) is not FunctionType:
                release_state(ctx, f, False)
        if is_tracked(result):
            return primals(ctx, result), None, [primals(ctx, result)], [block_of(ctx, result)]
        parts, rebuild = leaves_of_result(result)
        out = [primals(ctx, part) for part in parts]
        return rebuild(out), rebuild, out, [block_of(ctx, part) for part in parts]
    finally:
        ctx.alive = False


cdef list direct_values(ForwardContext ctx, list leaves, list blocks, list fixed):
    """Tracked values over plain numbers and whole arrays, their blocks as shadows; None where that is not possible."""
    cdef list values = [], arrays = []
    cdef ndarray arr, block, other
    cdef Py_ssize_t i
    if ctx.outer is not None:
        return None
    for i in range(len(leaves) + len(fixed)):
        leaf = leaves[i] if i < len(leaves) else fixed[i - len(leaves)]
        block = blocks[i] if i < len(leaves) else None
        if type(leaf) is ndarray:
            arr = leaf
            if not PyArray_ISBEHAVED_RO(arr) or not PyArray_CHKFLAGS(arr, NPY_ARRAY_C_CONTIGUOUS):
                return None
            if block is not None and (not PyArray_CHKFLAGS(block, NPY_ARRAY_C_CONTIGUOUS) or
                                      PyArray_TYPE(block) != PyArray_TYPE(arr)):
                return None
            for other in arrays:
                if PyArray_DATA(other) < <void*>(<char*>PyArray_DATA(arr) + PyArray_NBYTES(arr)) and \
                        PyArray_DATA(arr) < <void*>(<char*>PyArray_DATA(other) + PyArray_NBYTES(other)):
                    return None
            arrays.append(arr)
            values.append(direct_array(ctx, arr, block))
        elif is_tracked(leaf):
            return None
        else:
            values.append(ctx.variable_scalar(leaf, tuple(block.tolist())))
    return values


cdef DualArray direct_array(ForwardContext ctx, ndarray arr, ndarray block):
    """A tracked array over the caller's memory; without a block, a constant one."""
    cdef DualArray out = DualArray.__new__(DualArray)
    cdef Buffer buf = buffer_of_new(arr)
    out.ctx = ctx
    out.arr = arr
    out.prim = arr
    out.plain = True
    out.given = True
    buf.owner = arr
    if block is None:
        buf.constant = True
    else:
        buf.active = True
        buf.borrowed_shadow = True
        buf.shadow = <char*>PyArray_DATA(block)
        buf.shadow_owner = block
        buf.lane_bytes = buf.nbytes
    out.place = view_of(buf, arr)
    return out


cdef object block_of(ForwardContext ctx, object value):
    """The tangents of a value in all lanes, as one array with the lane axis in front; a view of the shadow if possible."""
    cdef View v
    cdef int i
    if not is_tracked(value) or context_of(value) is not ctx:
        return np.zeros((ctx.width, *np.shape(value)), np.result_type(value))
    if type(value) is Dual:
        dtype = np.float32 if (<Dual>value).kind == SINGLE else np.float64
        if (<Dual>value).width == 0:
            return np.zeros(ctx.width, dtype)
        return np.array([(<Dual>value).lanes[i] for i in range(ctx.width)], dtype)
    v = (<TrackedArray>value).place
    if not is_box(v) and v.buf.lanes is None and v.buf.shadow is not NULL and v.ndim < NPY_MAXDIMS:
        return all_lanes(v, ctx.width)
    return np.stack([tangent_of(value, i) for i in range(ctx.width)])


cdef ndarray all_lanes(View v, int width):
    """The shadow of a view in all lanes: an array over that memory, the lane axis in front."""
    cdef npy_intp dims[NPY_MAXDIMS]
    cdef npy_intp strides[NPY_MAXDIMS]
    cdef ndarray lane = lane_of(v, 0), out
    dims[0] = width
    strides[0] = v.buf.lane_bytes
    memcpy(dims + 1, v.shape, v.ndim * sizeof(npy_intp))
    memcpy(strides + 1, v.strides, v.ndim * sizeof(npy_intp))
    Py_INCREF(lane.dtype)   # NewFromDescr steals it, and SetBaseObject the base
    out = PyArray_NewFromDescr(&PyArray_Type, PyArray_DESCR(lane), v.ndim + 1, dims, strides, PyArray_DATA(lane), NPY_ARRAY_WRITEABLE,
                               NULL)
    Py_INCREF(lane)
    PyArray_SetBaseObject(out, lane)
    return out
