"""Reverse mode: adjoint scalars and arrays over one flat tape.

The tape is an array of 20-byte records: an operation, two operand slots, the value. A record's index is the slot of its
result. Values, not ready-made partials: such a tape can be swept again, at second order, or replayed. Constants
live in a table of their own (a loop's few constants are found again through `recent`). An operation on arrays is a node,
an object behind one record; the sweep meets records and nodes in the order of recording, backwards.

Memory. Records say where the adjoint of a scalar goes: into the table of adjoints (one entry a record and lane), or, for a load, into the
shadow of the array that was read. Nodes hold views (`_shadow`), so a node knows where shadows are without keeping the
primal memory alive; what a partial reads is kept by `refer`. A write into memory that is referred to first saves what it overwrites (UNDO
records for elements, `Undo` nodes for regions). The sweep swaps those bytes in as it walks back, and swaps them out again at the end,
so that the caller finds its arrays as plain NumPy leaves them.

The shadow of a temporary is made by the first pullback that adds to it, and dropped by the node that defined it.

Rejected: a Python object per scalar operation (10 times the time); slots of 8 bytes (a third more memory, and 2^32 records are 80 GB);
a copy of every operand (twice the memory of the forward run).

Thread safety: a tape belongs to the thread that records it. Different threads use different tapes freely.
"""
cimport cython
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.list cimport PyList_GET_ITEM
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject_RichCompare
from cpython.ref cimport PyObject, PyTypeObject
from libc.math cimport fabs, isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED_RO,
    PyArray_ISCONTIGUOUS, PyArray_NDIM, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._arguments cimport as_call, unwrap, wrap_all
from cyad._redirect cimport current, swap_current
from cyad._shadow cimport Buffer, View, broadcast_strides, buffer_of_new, may_overlap, same_geometry, trim_blocks, view_of
from cyad._tracked cimport (
    DOUBLE, SINGLE, WEAK, Context, TrackedArray, add_to_lane, as_number, below, binary, buffer_over, check_alive,
    check_storable, context_of, dispatch, ensure_lanes, escaped, evaluate_arrays, evaluate_scalar, general_elementwise,
    is_array, is_float64, is_tracked, lane_of, number, own_copy, plain_value, power, primal_at, real_operand, real_part,
    reduced_axes, register_types,
    scalar_attribute, scalar_fits, warn, wrap_box, wrap_new, wrap_over, write_primal,
    modular, warn_operator,
)
from cyad.rules._kernels cimport (
    CYAD_OP_add, CYAD_OP_divide, CYAD_OP_multiply, CYAD_OP_power, CYAD_OP_subtract, Row, accumulate, copy_add,
    cyad_has_partials, cyad_partials, cyad_strong, partials_at,
)

import math
import operator
import os
import zlib

import numpy as np

from cyad._arguments import copy_shadows_back
from cyad._tracked import Into
from cyad.activity import Active, Const, Reverse
from cyad.errors import ActiveStoreError, ActivityError, LockedArrayError, MissingRuleError, TapeError
from cyad.rules._kernels import rows_by_name

import_array()

cdef extern from "numpy/arrayobject.h":
    int PyArray_FillWithScalar(ndarray arr, object value) except -1
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)
    Py_ssize_t PyArray_NBYTES(ndarray arr)

# Operation codes above those of the elementwise table.
cdef enum:
    VARIABLE = 0x8000   # an input, or the result of a node
    LOAD = 0x8001       # a: buffer, b: element      value of memory
    LOAD32 = 0x8002
    STORE = 0x8003      # a: slot, b: element, value's bytes: buffer
    STORE32 = 0x8004
    CLEAR = 0x8005      # a: buffer, b: element      a constant entered active memory
    CLEAR32 = 0x8006
    UNDO = 0x8007       # a: buffer, b: element      value: what memory held
    UNDO32 = 0x8008
    NODE = 0x8009       # a: node
    OP_MASK = 0xFFFF
    SLOT_A = 1 << 16    # operand a is a slot; otherwise an entry of the table of constants
    SLOT_B = 1 << 17
    NEED_SHIFT = 16     # shifted down, the two flags are the `need` of cyad_partials

cdef uint32_t NONE = 0xFFFFFFFF
cdef uint32_t MOST = 0xFFFFFFF0

cdef Row ADD = rows_by_name["add"]
cdef Row SUBTRACT = rows_by_name["subtract"]
cdef Row MULTIPLY = rows_by_name["multiply"]
cdef Row DIVIDE = rows_by_name["divide"]
cdef Row POWER = rows_by_name["power"]
cdef Row NEGATIVE = rows_by_name["negative"]
cdef Row POSITIVE = rows_by_name["positive"]
cdef Row ABSOLUTE = rows_by_name["absolute"]
cdef Row REMAINDER = rows_by_name["remainder"]
cdef Row FLOOR_DIVIDE = rows_by_name["floor_divide"]

cdef object add_reduce = np.add.reduce, np_add = np.add, np_multiply = np.multiply, np_matmul = np.matmul

# CYAD_VERIFY=1 in the environment has captured arrays that are locked, not copied, compared by checksum before a sweep.
cdef bint VERIFY = os.environ.get("CYAD_VERIFY", "0") not in ("", "0")


cdef object checksum(object arr):
    return zlib.crc32(own_copy(arr))


cdef Py_ssize_t COPY_LIMIT = 1 << 20   # bytes: captured arrays up to this are copied, larger ones locked


# ---- scalars --------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class Adjoint:
    """A real scalar on a tape: a C double, and the slot of its adjoint (none for a constant).

    It behaves as np.float64 (np.float32 where it came from float32 memory): inf and nan instead of ZeroDivisionError,
    comparisons and branches on its value. What would lose the derivative (`float(x)`, a store into a plain array) raises
    ActiveStoreError.
    """

    __array_ufunc__ = None
    __array_priority__ = 1000.0

    def __cinit__(self, *args, **kwargs):
        # Also what code meets that converts by `type(x)(...)`: a number without a place on a tape has no derivative.
        raise ActivityError("Adjoint(...) cannot make a value; Tape.variable(x) does. Code that calls type(x)(...) on an active "
                            "number would lose its derivative")

    @property
    def primal(self):
        """The value, a Python float or np.float32."""
        return float(self.value) if self.kind != SINGLE else np.float32(self.value)

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
        return modular(FLOOR_DIVIDE, operator.floordiv, left, right), modular(REMAINDER, operator.mod, left, right)

    def __matmul__(left, right):
        return np.matmul(left, right)

    def __neg__(self):
        return scalar_unary(NEGATIVE, self)

    def __pos__(self):
        return self

    def __abs__(self):
        return scalar_unary(ABSOLUTE, self)

    def __richcmp__(self, other, int op):
        cdef double x = (<Adjoint>self).value, y
        if type(other) is Adjoint:
            y = (<Adjoint>other).value
        elif PyFloat_CheckExact(other):
            y = PyFloat_AS_DOUBLE(other)
        else:
            return PyObject_RichCompare(number(self), plain_value(other), op)
        if op == 0:
            return x < y
        if op == 1:
            return x <= y
        if op == 2:
            return x == y
        if op == 3:
            return x != y
        if op == 4:
            return x > y
        return x >= y

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
        if self.slot != NONE:
            check_alive(self.ctx)
            raise ActiveStoreError(
                "float() of an active value, or a store of it into a plain array that cannot carry derivatives, would lose its "
                "derivative; keep the value as it is, or allocate the array inside the differentiated function")
        return self.value

    def __complex__(self):
        if self.slot != NONE:
            raise ActiveStoreError("complex() of an active value would lose its derivative; keep the value as it is")
        return complex(self.value)

    def __getitem__(self, key):
        if key == () or key is Ellipsis:
            return self
        raise IndexError("invalid index to scalar variable.")

    def __repr__(self):
        return f"Adjoint({self.value!r})"

    def __str__(self):
        return str(self.value)

    def __format__(self, str spec not None):
        return format(self.value, spec)

    def __reduce_ex__(self, protocol):
        raise ActivityError("an active value cannot be pickled: its derivative belongs to a call that is running")

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


cdef extern from "_scalars.h":
    """
    static void cyad_release(PyObject *self) { (void)self; }
    """
    object cyad_new_scalar(object type, object ctx, double value, int kind, uint32_t slot)
    int cyad_install_scalar(object type, size_t size)


cdef packed struct AdjointLayout:
    # What the declaration of Adjoint comes to; see _scalars.h.
    Py_ssize_t references
    void* type
    void* ctx
    double value
    int kind
    uint32_t slot


cdef inline object new_adjoint(Tape tape, uint32_t slot, double value, int kind):
    return cyad_new_scalar(Adjoint, tape, value, kind, slot)


cdef inline uint32_t push(Tape tape, uint32_t op, uint32_t a, uint32_t b, double value) except? 0xFFFFFFFF:
    cdef Record* r
    cdef uint32_t slot = tape.count
    if slot == tape.capacity:
        tape.grow()
    r = tape.records + slot
    r.value = value
    r.a = a
    r.b = b
    r.op = op
    tape.count = slot + 1
    return slot


cdef inline object scalar_binary(Row row, int op, object left, object right):
    cdef Tape tape
    cdef double x, y, value
    cdef int kind, other
    cdef uint32_t a = NONE, b = NONE
    if type(left) is Adjoint:
        tape = <Tape>(<Adjoint>left).ctx
        x = (<Adjoint>left).value
        kind = (<Adjoint>left).kind
        a = (<Adjoint>left).slot
        if type(right) is Adjoint:
            if (<Adjoint>right).ctx is not tape:
                return binary(row, left, right)
            y = (<Adjoint>right).value
            other = (<Adjoint>right).kind
            b = (<Adjoint>right).slot
        elif PyFloat_CheckExact(right):
            y = PyFloat_AS_DOUBLE(right)
            other = WEAK
        elif not as_number(right, &y, &other):
            return power(left, right) if op == CYAD_OP_power else binary(row, left, right)
    else:
        tape = <Tape>(<Adjoint>right).ctx
        y = (<Adjoint>right).value
        kind = (<Adjoint>right).kind
        b = (<Adjoint>right).slot
        if PyFloat_CheckExact(left):
            x = PyFloat_AS_DOUBLE(left)
            other = WEAK
        elif not as_number(left, &x, &other):
            return power(left, right) if op == CYAD_OP_power else binary(row, left, right)
    if not tape.alive:
        escaped(tape)
    if other > kind:
        kind = other
    value = evaluate_scalar(op, x, y, kind)
    if not isfinite(value):
        warn_operator(row, x, y, kind)
    if a == NONE:
        if b == NONE:
            return new_adjoint(tape, NONE, value, kind)
        return new_adjoint(tape, push(tape, op | SLOT_B, tape.constant(x), b, value), value, kind)
    if b == NONE:
        return new_adjoint(tape, push(tape, op | SLOT_A, a, tape.constant(y), value), value, kind)
    return new_adjoint(tape, push(tape, op | SLOT_A | SLOT_B, a, b, value), value, kind)


cdef object scalar_unary(Row row, Adjoint x):
    cdef Tape tape = <Tape>x.ctx
    cdef double value
    if not tape.alive:
        escaped(tape)
    value = evaluate_scalar(row.op, x.value, 0.0, x.kind)
    if not isfinite(value):
        warn(row, x.value, 0.0, x.kind)
    if x.slot == NONE:
        return new_adjoint(tape, NONE, value, x.kind)
    return new_adjoint(tape, push(tape, row.op | SLOT_A, x.slot, 0, value), value, x.kind)


# ---- arrays ---------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class AdjointArray(TrackedArray):
    """An array on a tape; an ndarray to the code that uses it. Made by `Tape.variable` and by differentiated calls."""

    def __init__(self, *args, **kwargs):
        raise ActivityError("AdjointArray(...) cannot make an array; Tape.variable(x) and NumPy's creation functions do")


# ---- nodes ----------------------------------------------------------------------------------------------------------

cdef class Node:
    """An operation on arrays, behind one record."""

    cdef int pullback(self, Tape tape) except -1:
        raise NotImplementedError("a node of no operation")

    cdef int swap(self, Tape tape) except -1:
        return 0


@cython.final
@cython.no_gc
cdef class Elementwise(Node):
    """A row of the table over float64 or float32 memory, one dtype throughout."""

    cdef Row row
    cdef View out
    cdef View x
    cdef View y
    cdef Operand xo
    cdef Operand yo

    cdef int pullback(self, Tape tape) except -1:
        cdef npy_intp xs[64]
        cdef npy_intp ys[64]
        cdef View out = self.out
        cdef int ndim = out.ndim, single = out.typenum == NPY_FLOAT
        cdef float x32, y32
        cdef char* xp
        cdef char* yp = NULL
        cdef char* op = out.buf.data + out.offset
        cdef int heir = -1
        cdef View heiress
        if out.buf.shadow is NULL:
            return 0
        if self.x is not None:
            broadcast_strides(self.x, ndim, out.shape, xs)
            xp = self.x.buf.data + self.x.offset
        else:
            memset(xs, 0, ndim * sizeof(npy_intp))
            x32 = <float>self.xo.number
            xp = <char*>&x32 if single else <char*>&self.xo.number
        if self.row.nin == 2:
            if self.y is not None:
                broadcast_strides(self.y, ndim, out.shape, ys)
                yp = self.y.buf.data + self.y.offset
            else:
                memset(ys, 0, ndim * sizeof(npy_intp))
                y32 = <float>self.yo.number
                yp = <char*>&y32 if single else <char*>&self.yo.number
        # An operand that has no shadow yet can take over the memory of out's, if it comes last.
        if self.inherits(&self.xo, self.x):
            heir = 0
        elif self.row.nin == 2 and self.inherits(&self.yo, self.y):
            heir = 1
        if self.xo.role != CONSTANT and heir != 0:
            self.pull(tape, 0, &self.xo, self.x, xs, xp, xs, yp, ys, op)
        if self.row.nin == 2 and self.yo.role != CONSTANT and heir != 1:
            self.pull(tape, 1, &self.yo, self.y, ys, xp, xs, yp, ys, op)
        if heir >= 0:
            heiress = self.y if heir else self.x
            if heiress.buf.shadow is not NULL:
                # The other operand shares the buffer, and gave it a shadow just now.
                self.pull(tape, heir, &self.yo if heir else &self.xo, heiress, &ys[0] if heir else &xs[0], xp, xs, yp, ys, op)
            else:
                if not (self.row.identity >> heir) & 1:
                    accumulate(self.row, heir, single, ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                               out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes,
                               out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes, tape.width, 1, tape.strong)
                hand_over(tape, out.buf, heiress.buf)
        out.buf.drop_shadow()
        return 0

    cdef bint inherits(self, Operand* operand, View target) noexcept:
        """Whether the shadow of out can become that of the operand: both whole, of one shape, and the latter not there yet."""
        cdef View out = self.out
        cdef int i
        if operand.role != ACTIVE or target.buf.shadow is not NULL or target.ndim != out.ndim or not target.is_whole() \
                or not out.is_whole() or out.buf.borrowed_shadow or target.buf.borrowed_shadow:
            return False
        for i in range(out.ndim):
            if out.shape[i] != target.shape[i]:
                return False
        return True

    cdef int pull(self, Tape tape, int k, Operand* operand, View target, npy_intp* ts, char* xp, npy_intp* xs,
                  char* yp, npy_intp* ys, char* op) except -1:
        """Adds the cotangent of operand k: from the shadow of out, to that of the operand or to its adjoint."""
        cdef View out = self.out
        cdef Buffer buf
        cdef bint assign = False
        cdef int i, lane, single = out.typenum == NPY_FLOAT
        cdef float sum32
        if operand.role == SLOT:
            for lane in range(tape.width):
                if not single:
                    accumulate(self.row, k, 0, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                               out.buf.shadow + lane * out.buf.lane_bytes + out.offset, out.strides, 0,
                               <char*>(tape.adjoints + <size_t>operand.slot * tape.width + lane), ts, 0, 1, 0, tape.strong)
                    continue
                sum32 = 0.0
                accumulate(self.row, k, 1, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                           out.buf.shadow + lane * out.buf.lane_bytes + out.offset, out.strides, 0,
                           <char*>&sum32, ts, 0, 1, 0, tape.strong)
                tape.adjoints[<size_t>operand.slot * tape.width + lane] += sum32
            return 0
        buf = target.buf
        if buf.shadow is NULL:
            assign = target.is_whole() and target.size == out.size and target.ndim == out.ndim
            tape.give_shadow(buf, not assign)
        accumulate(self.row, k, single, out.ndim, out.shape, xp, xs, yp, ys, op, out.strides,
                   out.buf.shadow + out.offset, out.strides, out.buf.lane_bytes,
                   buf.shadow + target.offset, ts, buf.lane_bytes, tape.width, assign, tape.strong)
        return 0


@cython.final
@cython.no_gc
cdef class Store(Node):
    """`target[...] = source` within float memory of one dtype: the shadow moves from target to source (None: a constant)."""

    cdef View target
    cdef View source
    cdef uint32_t slot

    cdef int pullback(self, Tape tape) except -1:
        cdef View target = self.target, source = self.source
        cdef npy_intp ts[64]
        cdef npy_intp gs[64]
        cdef int lane, i, single = target.typenum == NPY_FLOAT
        cdef bint assign = False
        cdef char* g
        cdef char* copied = NULL
        cdef Py_ssize_t lane_bytes = target.buf.lane_bytes, step
        cdef float sum32
        cdef Buffer buf
        if target.buf.shadow is NULL:
            return 0
        if source is not None:
            buf = source.buf
            if buf.shadow is NULL and target.is_whole() and source.is_whole() and target.size == source.size \
                    and not target.buf.borrowed_shadow and not buf.borrowed_shadow:
                hand_over(tape, target.buf, buf)
                return 0
            g = target.buf.shadow + target.offset
            memcpy(gs, target.strides, target.ndim * sizeof(npy_intp))
            if copied_in_turn(target, source):
                self.pull_in_turn(tape)
                return 0
            if may_overlap(target, source):
                # What is taken out must not see what is put in.
                step = single * 4 + (1 - single) * 8
                lane_bytes = target.size * step
                copied = <char*>malloc(lane_bytes * tape.width + 8)
                if copied is NULL:
                    raise MemoryError()
                for i in range(target.ndim - 1, -1, -1):
                    gs[i] = step
                    step *= target.shape[i]
                copy_add(single, target.ndim, target.shape, g, target.strides, target.buf.lane_bytes, copied, gs,
                         lane_bytes, tape.width, 1.0, 1)
                g = copied
                self.clear_lanes(tape)
            if buf.shadow is NULL:
                assign = source.is_whole() and source.size == target.size
                tape.give_shadow(buf, not assign)
            # The source was broadcast to the target: broadcasting is transposed by summation.
            if source.ndim <= target.ndim:
                broadcast_strides(source, target.ndim, target.shape, ts)
                copy_add(single, target.ndim, target.shape, g, gs, lane_bytes, buf.shadow + source.offset, ts,
                         buf.lane_bytes, tape.width, 1.0, assign and source.size == target.size)
            else:
                # NumPy drops leading axes of length one in an assignment.
                copy_add(single, target.ndim, target.shape, g, gs, lane_bytes, buf.shadow + source.offset,
                         source.strides + (source.ndim - target.ndim), buf.lane_bytes, tape.width, 1.0, assign)
            if copied is not NULL:
                free(copied)
                return 0
        elif self.slot != NONE:
            memset(ts, 0, target.ndim * sizeof(npy_intp))
            for lane in range(tape.width):
                g = target.buf.shadow + lane * lane_bytes + target.offset
                if single:
                    sum32 = 0.0
                    copy_add(1, target.ndim, target.shape, g, target.strides, 0, <char*>&sum32, ts, 0, 1, 1.0, 0)
                    tape.adjoints[<size_t>self.slot * tape.width + lane] += sum32
                else:
                    copy_add(0, target.ndim, target.shape, g, target.strides, 0,
                             <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane), ts, 0, 1, 1.0, 0)
        if target.is_whole() and not target.buf.borrowed_shadow:
            target.buf.drop_shadow()
        else:
            self.clear_lanes(tape)
        return 0

    cdef int pull_in_turn(self, Tape tape) noexcept:
        """The transpose of a copy element by element: the same moves backwards."""
        cdef View target = self.target, source = self.source
        cdef npy_intp n = target.shape[0], step = source_step(source), i, k
        cdef int lane
        cdef bint back = copied_backwards(target, source)
        cdef char* base
        cdef char* t
        cdef char* s
        for lane in range(tape.width):
            base = target.buf.shadow + lane * target.buf.lane_bytes
            for k in range(n):
                i = k if back else n - 1 - k
                t = base + target.offset + i * target.strides[0]
                s = base + source.offset + i * step
                if t == s:
                    continue
                if target.typenum == NPY_FLOAT:
                    (<float*>s)[0] += (<float*>t)[0]
                    (<float*>t)[0] = 0.0
                else:
                    (<double*>s)[0] += (<double*>t)[0]
                    (<double*>t)[0] = 0.0
        return 0

    cdef int clear_lanes(self, Tape tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            clear_region(self.target, self.target.buf.shadow + lane * self.target.buf.lane_bytes, self.target.buf.shadow_owner)
        return 0


cdef int hand_over(Tape tape, Buffer giver, Buffer taker) except -1:
    """The shadow of one buffer becomes that of another of the same size; the first has none then."""
    taker.shadow = giver.shadow
    taker.shadow_owner = giver.shadow_owner
    taker.lane_bytes = giver.lane_bytes
    tape.shadowed.append(taker)
    giver.drop_shadow()
    return 0


cdef bint copied_in_turn(View target, View source) noexcept:
    """Whether NumPy's assignment copies element by element although the views overlap.

    It does where the target has one axis and both step in one direction, and trusts that an order exists in which nothing is
    overwritten before it is read. With different steps there may be none: values then move twice, and so must adjoints.
    """
    return target.ndim == 1 and source.ndim > 0 and target.shape[0] > 1 and may_overlap(target, source) and \
        source_step(source) != target.strides[0] and (source_step(source) >= 0) == (target.strides[0] >= 0)


cdef inline npy_intp source_step(View source) noexcept:
    return source.strides[source.ndim - 1] if source.shape[source.ndim - 1] > 1 else 0


cdef inline bint copied_backwards(View target, View source) noexcept:
    """The order of that copy. NumPy flips both views to make the target's step positive, then asks which one begins first."""
    cdef npy_intp n = target.shape[0], step = source_step(source), begin = source.offset, first = target.offset
    cdef bint flipped = target.strides[0] < 0
    if flipped:
        first += (n - 1) * target.strides[0]
        begin += (n - 1) * step
        step = -step
    return flipped != (begin < first and begin + n * step > first)


cdef int clear_region(View v, char* base, object owner) except -1:
    if v.contiguous:
        memset(base + v.offset, 0, v.last - v.first)
        return 0
    return PyArray_FillWithScalar(v.array_at(base, owner), 0.0)


@cython.final
@cython.no_gc
cdef class Total(Node):
    """A sum over axes, or a mean: the transpose spreads the cotangent over what was summed."""

    cdef View x
    cdef View out          # None for a scalar, whose adjoint is in `slot`
    cdef uint32_t slot
    cdef double scale
    cdef uint64_t reduced  # bit i: axis i of x was summed
    cdef bint keepdims

    cdef int pullback(self, Tape tape) except -1:
        cdef npy_intp gs[64]
        cdef int i, j = 0, lane, single = self.x.typenum == NPY_FLOAT
        cdef View x = self.x
        cdef bint assign = False
        cdef float g32
        cdef char* g
        if self.out is not None and self.out.buf.shadow is NULL:
            return 0
        for i in range(x.ndim):
            if (self.reduced >> i) & 1:
                gs[i] = 0
                j += self.keepdims
            else:
                gs[i] = self.out.strides[j]
                j += 1
        if x.buf.shadow is NULL:
            assign = x.is_whole()
            tape.give_shadow(x.buf, not assign)
        for lane in range(tape.width):
            if self.out is not None:
                g = self.out.buf.shadow + lane * self.out.buf.lane_bytes + self.out.offset
            elif single:
                g32 = <float>tape.adjoints[<size_t>self.slot * tape.width + lane]
                g = <char*>&g32
            else:
                g = <char*>(tape.adjoints + <size_t>self.slot * tape.width + lane)
            copy_add(single, x.ndim, x.shape, g, gs, 0, x.buf.shadow + lane * x.buf.lane_bytes + x.offset, x.strides, 0, 1,
                     self.scale, assign)
        if self.out is not None:
            self.out.buf.drop_shadow()
        return 0


@cython.final
cdef class Product(Node):
    """`a @ b` of vectors and matrices: the cotangent of a is g @ b^T, that of b is a^T @ g, and of vectors the same with the missing
    axis put in and taken out again."""

    cdef View a
    cdef View b
    cdef View out          # None for the product of two vectors, whose adjoint is in `slot`
    cdef uint32_t slot
    cdef bint a_active
    cdef bint b_active

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane
        if self.out is not None and self.out.buf.shadow is NULL:
            return 0
        tape.hush()
        for lane in range(tape.width):
            if self.out is None:
                g = np.float64(tape.adjoints[<size_t>self.slot * tape.width + lane])
            else:
                g = lane_of(self.out, lane)
            if self.a_active:
                b = self.b.primal()
                if self.out is None:
                    self.put(tape, self.a, lane, np_multiply, g, b)
                elif self.a.ndim == 2 and self.b.ndim == 1:
                    self.put(tape, self.a, lane, np_multiply, g[:, None], b)
                elif self.b.ndim == 1:
                    self.put(tape, self.a, lane, np_multiply, g, b)
                else:
                    self.put(tape, self.a, lane, np_matmul, g, b.T) if self.a.ndim == 2 else \
                        self.put(tape, self.a, lane, np_matmul, b, g)
            if self.b_active:
                a = self.a.primal()
                if self.out is None:
                    self.put(tape, self.b, lane, np_multiply, g, a)
                elif self.a.ndim == 1:
                    self.put(tape, self.b, lane, np_multiply, a[:, None], g)
                else:
                    self.put(tape, self.b, lane, np_matmul, a.T, g)
        if self.out is not None:
            self.out.buf.drop_shadow()
        return 0

    cdef int put(self, Tape tape, View target, int lane, object function, object x, object y) except -1:
        """Adds function(x, y) to the shadow of target: straight into it where nothing is there yet."""
        cdef Buffer buf = target.buf
        if buf.shadow is NULL:
            tape.give_shadow(buf, not target.is_whole() or tape.width > 1)
            if target.is_whole() and tape.width == 1:
                function(x, y, out=lane_of(target, lane))
                return 0
        shadow = lane_of(target, lane)
        if target.overlaps:
            np.add.at(shadow, Ellipsis, function(x, y))
        else:
            np_add(shadow, function(x, y), out=shadow)
        return 0


@cython.final
cdef class Link(Node):
    """Any operation that is linear once linearised: pullbacks of one lane, from the shadows of outs to those of operands.

    Operands and outs are views, or slots (ints) for scalars.
    """

    cdef list operands
    cdef list pulls
    cdef list outs

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane, k
        cdef object g, c, operand
        tape.hush()
        for lane in range(tape.width):
            gs = [adjoint_of(tape, out, lane) for out in self.outs]
            if all([g is None for g in gs]):
                continue
            g = gs[0] if len(gs) == 1 else tuple(gs)
            for k in range(len(self.operands)):
                operand = self.operands[k]
                pull = self.pulls[k]
                if type(pull) is Into:
                    key, c = pull.pull(g)
                    add_into(tape, <View>operand, lane, key, c)
                    continue
                c = pull(g)
                if c is None:
                    continue
                if type(operand) is int:
                    tape.adjoints[<size_t>operand * tape.width + lane] += float(np.sum(np.real(c)))
                else:
                    lend_lanes(tape, <View>operand)
                    add_to_lane(tape, <View>operand, lane, c)
        for operand in self.outs:
            if type(operand) is not int:
                (<View>operand).buf.drop_shadow()
        return 0


cdef object adjoint_of(Tape tape, object place, int lane):
    """The cotangent of a view or slot in one lane; None where nothing has been added."""
    if type(place) is int:
        if place == FREE:
            return None
        return np.float64(tape.adjoints[<size_t>place * tape.width + lane])
    return lane_of(<View>place, lane)


cdef int lend_lanes(Tape tape, View v) except -1:
    """Makes sure that a view has a shadow, and that the sweep knows to drop it."""
    if v.buf.shadow is NULL and v.buf.lanes is None:
        tape.shadowed.append(v.buf)
        if v.buf.data is not NULL:
            ensure_lanes(tape, v.buf, tape.width)
    return 0


cdef int add_into(Tape tape, View v, int lane, object key, object c) except -1:
    lend_lanes(tape, v)
    target = lane_of(v, lane)
    if target.dtype.kind != "c":
        c = c.real if np.iscomplexobj(plain_value(c)) else c
    target[key] = target[key] + c
    return 0


@cython.final
cdef class Gather(Node):
    """`out = source[key]` with an index that copies: repeats count each time."""

    cdef View source
    cdef View out
    cdef object key
    cdef bint repeats

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            g = lane_of(self.out, lane)
            if g is None:
                return 0
            lend_lanes(tape, self.source)
            target = lane_of(self.source, lane)
            if self.repeats or self.source.overlaps:
                np.add.at(target, self.key, g)
            else:
                target[self.key] = target[self.key] + g
        self.out.buf.drop_shadow()
        return 0


@cython.final
cdef class Scatter(Node):
    """`target[key] = source` with an index that copies; of repeats only the last one was stored."""

    cdef View target
    cdef object source
    cdef object key
    cdef object lost

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            g = shadow[self.key]
            shadow[self.key] = 0.0
            if self.source is None:
                continue
            if self.lost is not None:
                g[self.lost] = 0.0
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, squeeze_leading(g, (<View>self.source).ndim))
        return 0


@cython.final
cdef class AddAt(Node):
    """`np.add.at(target, key, source)`: the shadow of target stays, source gets what was there."""

    cdef View target
    cdef object source
    cdef object key

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            g = shadow[self.key]
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, g)
        return 0


@cython.final
cdef class GeneralStore(Node):
    """`target[...] = source` where dtypes differ, or shadows are tracked by an outer differentiation."""

    cdef View target
    cdef object source

    cdef int pullback(self, Tape tape) except -1:
        cdef int lane
        for lane in range(tape.width):
            shadow = lane_of(self.target, lane)
            if shadow is None:
                return 0
            if type(self.source) is View and copied_in_turn(self.target, <View>self.source):
                pull_in_turn_general(self.target, <View>self.source, shadow, lane_of(<View>self.source, lane))
                continue
            g = shadow.copy()
            shadow[...] = 0.0
            if self.source is None:
                continue
            if type(self.source) is int:
                tape.adjoints[<size_t>self.source * tape.width + lane] += float(np.sum(np.real(g)))
            else:
                lend_lanes(tape, <View>self.source)
                add_to_lane(tape, <View>self.source, lane, squeeze_leading(g, (<View>self.source).ndim))
        return 0


cdef int pull_in_turn_general(View target, View source, object t, object s) except -1:
    """`Store.pull_in_turn` by ordinary NumPy calls."""
    cdef npy_intp i, n = target.shape[0], size = source.size
    s = s[(0,) * (source.ndim - 1)]   # leading axes have length one
    for i in (range(n) if copied_backwards(target, source) else range(n - 1, -1, -1)):
        if target.offset + i * target.strides[0] == source.offset + i * source_step(source):
            continue
        k = i if size > 1 else 0
        s[k] = s[k] + t[i]
        t[i] = 0.0
    return 0


cdef object squeeze_leading(object g, int ndim):
    """An assignment drops leading axes of length one of its source; puts them back."""
    return g.reshape((1,) * (ndim - g.ndim) + g.shape) if g.ndim < ndim else g


@cython.final
cdef class Undo(Node):
    """The values that a region (or the elements under `key`) held before a write; trades them with memory."""

    cdef View region
    cdef object key
    cdef object saved
    cdef object prim   # the region as tracked by an outer differentiation, None where it is plain memory

    cdef int swap(self, Tape tape) except -1:
        memory = self.prim if self.prim is not None else self.region.primal()
        if self.key is None:
            now = memory.copy()
            memory[...] = self.saved
        else:
            now = memory[self.key]
            memory[self.key] = self.saved
        self.saved = now
        return 0

    cdef int pullback(self, Tape tape) except -1:
        return self.swap(tape)


# The records of a closed tape, up to four megabytes, wait here for the next one: fresh memory costs a page fault for every 200
# records. Taken and given under the GIL.
cdef Record* spare = NULL
cdef uint32_t spare_capacity = 0


cdef void take_spare(Tape tape) noexcept:
    global spare, spare_capacity
    tape.records = spare
    tape.capacity = spare_capacity
    spare = NULL
    spare_capacity = 0


cdef void give_spare(Tape tape) noexcept:
    global spare, spare_capacity
    if tape.records is not NULL and tape.capacity * sizeof(Record) <= 4 << 20 and spare_capacity < tape.capacity:
        free(spare)
        spare = tape.records
        spare_capacity = tape.capacity
    else:
        free(tape.records)
    tape.records = NULL
    tape.capacity = 0


# ---- the tape -------------------------------------------------------------------------------------------------------

cdef class Tape(Context):
    """A recording of operations, to be swept backwards.

    Used by `autodiff`, and on its own::

        with Tape() as tape:
            x = tape.variable(np.array([1.0, 2.0]))
            y = np.sum(x * x)
        tape.gradient(y, x)

    Inside `with`, NumPy's creation functions make arrays that can hold active values. After it the tape can be swept as often as
    needed; its values can no longer be computed with (EscapedValueError). A record takes 20 bytes, and 8 more for
    each lane during a sweep; an operation on arrays takes one record and one object. At most 2**32 - 16 records (TapeError).

    A tape belongs to the thread that records it.

    >>> import numpy as np
    >>> from cyad import Tape
    >>> with Tape() as tape:
    ...     x = tape.variable(np.array([1.0, 2.0]))
    ...     y = np.sum(x * x)
    >>> tape.gradient(y, x)
    array([2., 4.])
    """

    def __cinit__(self, title=None, bint strong=False):
        cdef PyObject* outer = current()
        self.title = title
        self.strong = strong
        self.backward = True
        self.width = 1
        self.level = 1
        if outer is not NULL:
            self.outer = <Context>outer
            self.level = self.outer.level + 1
        self.alive = True
        take_spare(self)
        self.nodes = []
        self.buffers = []
        self.undo = []
        self.shadowed = []

    def __dealloc__(self):
        give_spare(self)
        free(self.constants)
        free(self.adjoints)

    def __enter__(self):
        if self.entered or not self.alive:
            raise TapeError("a tape records once; make a new Tape for another recording")
        swap_current(<PyObject*>self)
        self.entered = True
        self.outlives = True
        return self

    def __exit__(self, *exception):
        swap_current(<PyObject*>self.outer if self.outer is not None else NULL)
        self.alive = False
        self.unlock()

    def __len__(self):
        """Number of records."""
        return self.count

    @property
    def nbytes(self):
        """Bytes of records and constants (not of arrays that nodes keep)."""
        return self.count * sizeof(Record) + self.constant_count * sizeof(double)

    # -- recording ---------------------------------------------------------------------------------------------------

    cdef int grow(self) except -1:
        cdef size_t capacity = self.capacity + (self.capacity >> 1) if self.capacity else 512
        cdef Record* moved
        if self.capacity >= MOST:
            raise TapeError(f"a tape holds at most {MOST} records; differentiate in pieces, or in forward mode")
        if capacity > MOST:
            capacity = MOST
        moved = <Record*>realloc(self.records, capacity * sizeof(Record))
        if moved is NULL:
            raise MemoryError(f"cannot grow the tape to {capacity * sizeof(Record)} bytes")
        self.records = moved
        self.capacity = <uint32_t>capacity
        return 0

    cdef int grow_constants(self) except -1:
        cdef size_t capacity = 2 * <size_t>self.constant_capacity if self.constant_capacity else 64
        cdef double* moved = <double*>realloc(self.constants, capacity * sizeof(double))
        if moved is NULL:
            raise MemoryError(f"cannot grow the tape's constants to {capacity * sizeof(double)} bytes")
        self.constants = moved
        self.constant_capacity = <uint32_t>capacity
        return 0

    cdef inline uint32_t constant(self, double value) except? 0xFFFFFFFF:
        """The entry of a constant: an old one where a loop uses the same again."""
        cdef uint64_t bits
        cdef uint32_t bucket, entry
        memcpy(&bits, &value, 8)
        bucket = <uint32_t>((bits * <uint64_t>0x9E3779B97F4A7C15) >> 56)
        entry = self.recent[bucket]
        if entry < self.constant_count and (<uint64_t*>self.constants)[entry] == bits:
            return entry
        if self.constant_count == self.constant_capacity:
            self.grow_constants()
        entry = self.constant_count
        self.constants[entry] = value
        self.constant_count = entry + 1
        self.recent[bucket] = entry
        return entry

    cdef int number_of(self, Buffer buf) except -1:
        """The index of a buffer in this tape's table."""
        if buf.number == 0:
            self.buffers.append(buf)
            buf.number = <uint32_t>len(self.buffers)
        return buf.number - 1

    cdef int refer(self, View v, object arr) except -1:
        """Says that the sweep will read these values: keeps the memory, and has later writes into it logged."""
        cdef Buffer buf = v.buf
        if buf.owner is None:
            buf.owner = arr
        if not buf.referred:
            buf.referred = True
            buf.referred_from = v.first
            buf.referred_to = v.last
        else:
            buf.referred_from = min(buf.referred_from, v.first)
            buf.referred_to = max(buf.referred_to, v.last)
        return 0

    cdef int add_node(self, Node node) except -1:
        cdef uint32_t index = <uint32_t>len(self.nodes)
        self.nodes.append(node)
        push(self, NODE, index, 0, 0.0)
        return 0

    cdef object guard(self, object plain):
        """A captured plain array as the tape may refer to it: a copy, or the array itself, locked until the tape closes."""
        cdef ndarray arr
        if type(plain) is not np.ndarray:
            return plain
        arr = plain
        if arr.nbytes <= COPY_LIMIT or self.outlives:
            return own_copy(arr)
        if PyArray_CHKFLAGS(arr, NPY_ARRAY_WRITEABLE):
            arr.setflags(write=False)
            if self.locked is None:
                self.locked = []
            self.locked.append((arr, checksum(arr) if VERIFY else 0))
        return arr

    cdef int verify(self) except -1:
        """Whether locked arrays are what they were: a write through a view made earlier gets past the lock."""
        if VERIFY and self.locked is not None:
            for arr, before in self.locked:
                if checksum(arr) != before:
                    raise LockedArrayError(
                        f"an array of shape {arr.shape} that {name_of(self.title)} captured was written during the call, through a "
                        "view made earlier, after the tape had come to refer to it: its derivative would be wrong. "
                        "Pass the array as an argument")
        return 0

    def call(self, f, args, kwargs):
        """Runs the function under this tape: creation functions make its arrays, for this thread only."""
        cdef PyObject* old = swap_current(<PyObject*>self)
        try:
            return f(*args, **kwargs)
        except ValueError as error:
            if self.locked and "read-only" in str(error):
                raise LockedArrayError(
                    f"{name_of(f)} wrote an array that it captured and that the tape refers to (over a mebibyte it is not copied but "
                    "locked for the length of the call): pass the array as an argument, or write into a copy") from error
            raise
        finally:
            swap_current(old)

    cdef TrackedArray new_array(self):
        cdef AdjointArray out = AdjointArray.__new__(AdjointArray)
        out.ctx = self
        return out

    cdef bint is_active(self, object value) except -1:
        if type(value) is Adjoint:
            return (<Adjoint>value).ctx is self and (<Adjoint>value).slot != NONE
        if is_array(value):
            return (<TrackedArray>value).ctx is self and (<TrackedArray>value).place.buf.active
        return False

    cdef object scalar(self, object value, bint active):
        """A scalar result of this tape, with a slot of its own if active."""
        cdef double x
        cdef int kind
        if self.outer is None and as_number(value, &x, &kind):
            return new_adjoint(self, push(self, VARIABLE, 0, 0, x) if active else NONE, x, kind)
        out = wrap_box(self, value)
        (<TrackedArray>out).place.buf.active = active
        return out

    cdef object variable_scalar(self, object value, tuple lanes):
        return self.scalar(value, True)

    cdef object elementwise(self, Row row, object x, object y):
        cdef double a, b = 0.0, value
        cdef int kind, other = WEAK
        cdef uint32_t slot_a = NONE, slot_b = NONE
        if self.outer is not None or not row.scalar or row.zero:
            return general_elementwise(self, row, x, y)
        if is_array(x) or isinstance(x, ndarray) or (row.nin == 2 and (is_array(y) or isinstance(y, ndarray))):
            out = self.arrays(row, x, y)
            return general_elementwise(self, row, x, y) if out is None else out
        if type(x) is Adjoint and (<Adjoint>x).ctx is self:
            a = (<Adjoint>x).value
            kind = (<Adjoint>x).kind
            slot_a = (<Adjoint>x).slot
        elif not as_number(x, &a, &kind):
            return general_elementwise(self, row, x, y)
        if row.nin == 2:
            if type(y) is Adjoint and (<Adjoint>y).ctx is self:
                b = (<Adjoint>y).value
                other = (<Adjoint>y).kind
                slot_b = (<Adjoint>y).slot
            elif not as_number(y, &b, &other):
                return general_elementwise(self, row, x, y)
            if other > kind:
                kind = other
        value = evaluate_scalar(row.op, a, b, kind)
        if not isfinite(value):
            warn(row, a, b, kind)
        if kind == WEAK:
            kind = DOUBLE   # np.f of a Python float is an np.float64
        if slot_a == NONE and slot_b == NONE:
            return new_adjoint(self, NONE, value, kind)
        if row.nin == 1:
            return new_adjoint(self, push(self, row.op | SLOT_A, slot_a, 0, value), value, kind)
        if slot_a == NONE:
            return new_adjoint(self, push(self, row.op | SLOT_B, self.constant(a), slot_b, value), value, kind)
        if slot_b == NONE:
            return new_adjoint(self, push(self, row.op | SLOT_A, slot_a, self.constant(b), value), value, kind)
        return new_adjoint(self, push(self, row.op | SLOT_A | SLOT_B, slot_a, slot_b, value), value, kind)

    cdef object arrays(self, Row row, object x, object y):
        """The fast path: float64 (or float32) memory throughout. None where the operands do not fit it."""
        cdef Elementwise node
        cdef AdjointArray result
        cdef ndarray xa = None, ya = None, out
        cdef Operand xo, yo
        cdef int typenum = -1, reads = 0
        memset(&xo, 0, sizeof(Operand))
        memset(&yo, 0, sizeof(Operand))
        if not self.operand(x, &xo, &typenum) or (row.nin == 2 and not self.operand(y, &yo, &typenum)):
            return None
        if typenum != NPY_DOUBLE and typenum != NPY_FLOAT:
            return None
        if not scalar_fits(x, typenum) or (row.nin == 2 and not scalar_fits(y, typenum)):
            return None
        if is_array(x):
            xa = (<TrackedArray>x).arr
        elif isinstance(x, ndarray):
            xa = x
        if row.nin == 2:
            if is_array(y):
                ya = (<TrackedArray>y).arr
            elif isinstance(y, ndarray):
                ya = y
        out = evaluate_arrays(row, typenum, xa, xo.number, ya, yo.number)
        if out is None:
            return None
        result = self.own_array(out)
        if xo.role == CONSTANT and yo.role == CONSTANT:
            return result
        if xo.role != CONSTANT:
            reads = row.reads & 7
        if yo.role != CONSTANT:
            reads |= (row.reads >> 3) & 7
        node = Elementwise.__new__(Elementwise)
        node.row = row
        node.out = result.place
        node.xo = xo
        node.yo = yo
        if xa is not None:
            node.x = self.recorded(x, xa, reads & 1)
        if ya is not None:
            node.y = self.recorded(y, ya, reads & 2)
        if reads & 4:
            self.refer(result.place, out)
        result.place.buf.active = True
        self.add_node(node)
        return result

    cdef View recorded(self, object operand, ndarray arr, bint read):
        """The view of an array operand, for a node; a plain one is guarded first if its values are needed."""
        cdef View v
        if is_array(operand):
            if read:
                self.refer((<TrackedArray>operand).place, arr)
            return (<TrackedArray>operand).place
        if read:
            arr = self.guard(arr)
        v = view_of(buffer_over(arr), arr)
        if read:
            v.buf.owner = arr
        return v

    cdef bint operand(self, object value, Operand* operand, int* typenum) except -1:
        """Sorts an operand for the fast path; False if it does not belong there."""
        cdef int kind, own
        cdef ndarray arr
        if is_array(value):
            if (<TrackedArray>value).ctx is not self or not (<TrackedArray>value).plain:
                return False
            arr = (<TrackedArray>value).arr
            operand.role = ACTIVE if (<TrackedArray>value).place.buf.active else CONSTANT
        elif type(value) is Adjoint:
            if (<Adjoint>value).ctx is not self:
                return False
            operand.slot = (<Adjoint>value).slot
            operand.number = (<Adjoint>value).value
            operand.role = CONSTANT if operand.slot == NONE else SLOT
            return True
        elif type(value) is ndarray:
            arr = value
        else:
            return as_number(value, &operand.number, &kind)
        own = PyArray_TYPE(arr)
        if not PyArray_ISBEHAVED_RO(arr) or (typenum[0] != -1 and own != typenum[0]):
            return False
        typenum[0] = own
        return True

    cdef object load(self, TrackedArray a, char* address):
        cdef Buffer buf = a.place.buf
        cdef Py_ssize_t offset = address - buf.data
        cdef double value
        if a.place.typenum == NPY_DOUBLE:
            value = (<double*>address)[0]
            if not buf.active:
                return new_adjoint(self, NONE, value, DOUBLE)
            if buf.number == 0:
                self.number_of(buf)
            if offset & 7 or offset >> 3 >= MOST:
                unnameable()
            return new_adjoint(self, push(self, LOAD, buf.number - 1, <uint32_t>(offset >> 3), value), value, DOUBLE)
        value = (<float*>address)[0]
        if not buf.active:
            return new_adjoint(self, NONE, value, SINGLE)
        return new_adjoint(self, push(self, LOAD32, self.number_of(buf), element_number(offset, 4), value), value, SINGLE)

    cdef object total(self, TrackedArray a, object axis, bint keepdims, bint mean):
        cdef Total node
        cdef bint reduced[64]
        cdef View x = a.place
        cdef int i
        cdef double count = 1.0
        cdef AdjointArray result
        if a.boxed or not a.plain or not (x.typenum == NPY_DOUBLE or x.typenum == NPY_FLOAT) or not x.buf.active \
                or x.size == 0 or x.ndim == 0 or not reduced_axes(axis, x.ndim, reduced):
            return None
        out = a.arr.mean(axis=axis, keepdims=keepdims) if mean else add_reduce(a.arr, axis, None, None, keepdims)
        node = Total.__new__(Total)
        node.x = x
        node.keepdims = keepdims
        for i in range(x.ndim):
            if reduced[i]:
                node.reduced |= <uint64_t>1 << i
                count *= x.shape[i]
        node.scale = 1.0 / count if mean else 1.0
        if not isinstance(out, ndarray):
            node.slot = self.count
            self.add_node(node)
            self.records[node.slot].value = <double>out   # the record stands for the result, too
            return new_adjoint(self, node.slot, <double>out, SINGLE if x.typenum == NPY_FLOAT else DOUBLE)
        result = self.own_array(out)
        node.out = result.place
        result.place.buf.active = True
        self.add_node(node)
        return result

    cdef AdjointArray own_array(self, ndarray out):
        """A fresh plain array as a value of this tape."""
        cdef AdjointArray result = AdjointArray.__new__(AdjointArray)
        result.ctx = self
        result.arr = out
        result.prim = out
        result.plain = True
        result.place = view_of_new(out)
        return result

    cdef object product(self, object a, object b):
        cdef int typenum = -1
        cdef ndarray x = real_operand(self, a, &typenum), y
        cdef Product node
        cdef bint x_active = self.is_active(a), y_active = self.is_active(b)
        cdef AdjointArray result
        if x is None:
            return None
        y = real_operand(self, b, &typenum)
        if y is None or not 1 <= PyArray_NDIM(x) <= 2 or not 1 <= PyArray_NDIM(y) <= 2:
            return None
        if not x_active and not y_active:
            return None
        out = np_matmul(x, y)
        node = Product.__new__(Product)
        node.a = self.recorded(a, x, y_active)
        node.b = self.recorded(b, y, x_active)
        node.a_active = x_active
        node.b_active = y_active
        if not isinstance(out, ndarray):
            node.slot = self.count
            self.add_node(node)
            self.records[node.slot].value = <double>out   # the record stands for the result, too
            return new_adjoint(self, node.slot, <double>out, SINGLE if typenum == NPY_FLOAT else DOUBLE)
        result = self.own_array(out)
        node.out = result.place
        result.place.buf.active = True
        self.add_node(node)
        return result

    cdef int store_element(self, TrackedArray a, char* address, object value) except -1:
        """`a[i] = value` for a number or a scalar of this tape, into float64 or float32 memory."""
        cdef Buffer buf = a.place.buf
        cdef Py_ssize_t offset = address - buf.data
        cdef bint single = a.place.typenum == NPY_FLOAT
        cdef double x
        cdef int kind
        cdef uint32_t slot = NONE, number, where
        cdef uint64_t packed
        if type(value) is Adjoint:
            if (<Adjoint>value).ctx is not self:
                return 0
            slot = (<Adjoint>value).slot
            x = (<Adjoint>value).value
        elif not as_number(value, &x, &kind):
            return 0
        if slot != NONE:
            check_storable(a)
        where = element_number(offset, 4 if single else 8)
        if buf.referred and buf.referred_from <= offset < buf.referred_to:
            number = self.number_of(buf)
            self.undo.append(self.count)
            push(self, UNDO32 if single else UNDO, number, where,
                 (<float*>address)[0] if single else (<double*>address)[0])
        if single:
            (<float*>address)[0] = <float>x
        else:
            (<double*>address)[0] = x
        if slot != NONE:
            buf.active = True
            packed = self.number_of(buf)
            x = 0.0
            memcpy(&x, &packed, 8)
            push(self, STORE32 if single else STORE, slot, where, x)
        elif buf.active:
            number = self.number_of(buf)
            push(self, CLEAR32 if single else CLEAR, number, where, 0.0)
        return 1

    cdef object link(self, object out, list operands, object pushes, list pulls, object reads):
        cdef Link node
        cdef list places = []
        cdef bint active = len(operands) > 0
        if not active:
            return self.result(out, False, places, False)
        node = Link.__new__(Link)
        result = self.result(out, True, places, reads[1])
        node.outs = places
        node.operands = [place_of(v) for v in operands]
        node.pulls = pulls
        for v in reads[0]:
            if is_array(v) and (<TrackedArray>v).ctx is self and not (<TrackedArray>v).boxed:
                self.refer((<TrackedArray>v).place, (<TrackedArray>v).arr)
        self.add_node(node)
        return result

    cdef object result(self, object out, bint active, list places, bint read):
        """Wraps the result of an operation; `places` collects where its adjoints are."""
        cdef TrackedArray array
        if type(out) is tuple or type(out) is list:
            return type(out)([self.result(o, active, places, read) for o in out])
        if isinstance(out, tuple):   # a named tuple of results
            return type(out)(*[self.result(o, active, places, read) for o in out])
        if isinstance(out, np.ndarray):
            if plain_value(out).dtype.kind not in "fc":
                places.append(FREE)
                return out
            if not plain_value(out).flags.owndata:
                out = out.copy() if is_array(out) else own_copy(out)
            array = wrap_over(self, out)
            array.place.buf.active = active
            if read:
                self.refer(array.place, array.arr)
            places.append(array.place)
            return array
        if isinstance(out, (bool, np.bool_, int, np.integer)) or out is None:
            places.append(FREE)
            return out
        value = self.scalar(out, active)
        places.append(place_of(value) if active else FREE)
        return value

    cdef int gather(self, TrackedArray a, object key, TrackedArray out) except -1:
        cdef Gather node
        if not a.place.buf.active:
            return 0
        node = Gather.__new__(Gather)
        node.source = a.place
        node.out = out.place
        node.key = key
        node.repeats = may_repeat(key)
        out.place.buf.active = True
        return self.add_node(node)

    cdef int before_overwrite(self, TrackedArray target, object key) except -1:
        cdef Undo node
        cdef Buffer buf = target.place.buf
        if not buf.referred or target.place.last <= buf.referred_from or buf.referred_to <= target.place.first:
            return 0
        node = Undo.__new__(Undo)
        node.region = target.place
        node.key = key
        if not target.plain:
            node.prim = target.prim
            node.saved = target.prim.copy() if key is None else target.prim[key]
        else:
            node.saved = own_copy(target.arr) if key is None else target.arr[key]
        self.undo.append(self.count)
        return self.add_node(node)

    cdef int store(self, TrackedArray target, object value) except -1:
        cdef Store node
        cdef GeneralStore general
        cdef bint active = self.is_active(value)
        cdef Buffer buf = target.place.buf
        if is_array(value) and (<TrackedArray>value).ctx is self and not (<TrackedArray>value).boxed \
                and same_geometry((<TrackedArray>value).place, target.place):
            return 0
        value = below(self, value)
        if active:
            check_storable(target)
        self.before_overwrite(target, None)
        if target.plain:
            target.arr[...] = plain_value(value) if is_tracked(value) else value
        else:
            write_primal(self, target.prim, Ellipsis, primal_at(self, value))
        if not active and not buf.active:
            return 0
        if active:
            buf.active = True
        if target.plain and (target.place.typenum == NPY_DOUBLE or target.place.typenum == NPY_FLOAT) and (
                not active or type(value) is Adjoint or (<TrackedArray>value).place.typenum == target.place.typenum):
            node = Store.__new__(Store)
            node.target = target.place
            node.slot = NONE
            if active and type(value) is Adjoint:
                node.slot = (<Adjoint>value).slot
            elif active:
                node.source = (<TrackedArray>value).place
            return self.add_node(node)
        general = GeneralStore.__new__(GeneralStore)
        general.target = target.place
        if active:
            general.source = place_of(value)
        return self.add_node(general)

    cdef int scatter(self, TrackedArray a, object key, object value) except -1:
        cdef Scatter node
        cdef bint active = self.is_active(value)
        value = below(self, value)
        if active:
            check_storable(a)
        self.before_overwrite(a, key)
        if a.plain:
            a.arr[key] = plain_value(value) if is_tracked(value) else value
        else:
            write_primal(self, a.prim, key, primal_at(self, value))
        if not active and not a.place.buf.active:
            return 0
        node = Scatter.__new__(Scatter)
        node.target = a.place
        node.key = key
        if active:
            a.place.buf.active = True
            node.source = place_of(value)
            node.lost = overwritten_repeats(a.arr, key)
        return self.add_node(node)

    cdef int add_at(self, TrackedArray a, object key, object value) except -1:
        cdef AddAt node
        cdef bint active = self.is_active(value)
        value = below(self, value)
        if not PyArray_CHKFLAGS(a.arr, NPY_ARRAY_WRITEABLE):
            raise ValueError("output array is read-only")
        if active:
            check_storable(a)
        self.before_overwrite(a, None)
        if a.plain:
            np.add.at(a.arr, key, plain_value(value) if is_tracked(value) else value)
        else:
            np.add.at(a.prim, key, primal_at(self, value))
        if not active:
            return 0
        a.place.buf.active = True
        node = AddAt.__new__(AddAt)
        node.target = a.place
        node.source = place_of(value)
        node.key = key
        return self.add_node(node)

    # -- sweeping ----------------------------------------------------------------------------------------------------

    cdef int give_shadow(self, Buffer buf, bint zero) except -1:
        buf.make_shadow(self.width, zero)
        self.shadowed.append(buf)
        return 0

    cdef int start_sweep(self, int width) except -1:
        if self.closed:
            raise TapeError("this tape has been closed; its memory is gone")
        if self.sweeping:
            raise TapeError("this tape is being swept already")
        self.verify()
        free(self.adjoints)
        self.adjoints = <double*>calloc(<size_t>self.count * width + 1, sizeof(double))
        if self.adjoints is NULL:
            raise MemoryError(f"cannot allocate {self.count * width * 8} bytes of adjoints")
        self.width = width
        self.sweeping = True
        return 0

    cdef int run_sweep(self) except -1:
        """One pass over the tape, backwards. Seeds and the shadows of arguments are in place."""
        cdef uint32_t i = self.count, op
        cdef int lane, width = self.width
        cdef Record* r
        cdef Record* records = self.records
        cdef double* adjoints = self.adjoints
        cdef double* g
        cdef double* constants = self.constants
        cdef double x, y, px = 0.0, py = 0.0
        cdef int need
        cdef Node node
        cdef double no_constant = 0.0
        cdef char* shadow = NULL
        cdef uint32_t cached = NONE     # the buffer that `shadow` belongs to, while no other record may have changed it
        cdef bint single = width == 1
        cdef unsigned char strong = self.strong
        cdef PyObject* old = swap_current(<PyObject*>self.outer if self.outer is not None else NULL)
        if constants is NULL:
            constants = &no_constant   # a unary record names constant 0 as its second operand, and ignores it
        try:
            while i > 0:
                i -= 1
                r = records + i
                op = r.op & OP_MASK
                g = adjoints + <size_t>i * width
                if op < VARIABLE:
                    need = r.op >> NEED_SHIFT
                    x = records[r.a].value if need & 1 else constants[r.a]
                    y = records[r.b].value if need & 2 else constants[r.b]
                    if cyad_has_partials[op]:
                        cyad_partials(op, need, x, y, r.value, &px, &py)
                    elif partials_at(op, need, x, y, r.value, &px, &py) < 0:
                        raise MissingRuleError("a recorded operation has no partial derivative that can be evaluated here")
                    if single:
                        if need & 1:
                            adjoints[r.a] += pulled(g[0], px, strong | cyad_strong[op])
                        if need & 2:
                            adjoints[r.b] += pulled(g[0], py, strong | cyad_strong[op])
                        continue
                    if need & 1:
                        pull_lanes(g, adjoints + <size_t>r.a * width, px, width, strong | cyad_strong[op])
                    if need & 2:
                        pull_lanes(g, adjoints + <size_t>r.b * width, py, width, strong | cyad_strong[op])
                elif op == LOAD and single:
                    if r.a != cached:
                        shadow = self.element_shadow(r.a, g)
                        cached = r.a
                    (<double*>shadow)[r.b] += g[0]
                elif op == LOAD:
                    cached = NONE
                    shadow = self.element_shadow(r.a, g)
                    if shadow is not NULL:
                        for lane in range(width):
                            (<double*>(shadow + lane * self.lane_bytes(r.a)))[r.b] += g[lane]
                elif op == STORE:
                    cached = NONE
                    shadow = self.element_shadow(stored_buffer(r), NULL)
                    if shadow is not NULL:
                        for lane in range(width):
                            adjoints[<size_t>r.a * width + lane] += \
                                (<double*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b]
                            (<double*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b] = 0.0
                elif op == CLEAR:
                    cached = NONE
                    shadow = self.element_shadow(r.a, NULL)
                    if shadow is not NULL:
                        for lane in range(width):
                            (<double*>(shadow + lane * self.lane_bytes(r.a)))[r.b] = 0.0
                elif op == NODE:
                    cached = NONE
                    node = <Node>PyList_GET_ITEM(self.nodes, r.a)
                    node.pullback(self)
                elif op == LOAD32:
                    cached = NONE
                    shadow = self.element_shadow(r.a, g)
                    if shadow is not NULL:
                        for lane in range(width):
                            (<float*>(shadow + lane * self.lane_bytes(r.a)))[r.b] += <float>g[lane]
                elif op == STORE32:
                    cached = NONE
                    shadow = self.element_shadow(stored_buffer(r), NULL)
                    if shadow is not NULL:
                        for lane in range(width):
                            adjoints[<size_t>r.a * width + lane] += \
                                (<float*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b]
                            (<float*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b] = 0.0
                elif op == CLEAR32:
                    cached = NONE
                    shadow = self.element_shadow(r.a, NULL)
                    if shadow is not NULL:
                        for lane in range(width):
                            (<float*>(shadow + lane * self.lane_bytes(r.a)))[r.b] = 0.0
                elif op != VARIABLE:
                    self.swap_element(r, op)
        finally:
            if self.quiet is not None:
                self.quiet.__exit__(None, None, None)
                self.quiet = None
            self.restore(i)
            swap_current(old)
        return 0

    cdef int hush(self) except -1:
        """For the rest of the sweep NumPy warns of nothing: the plain run knows no derivatives, and cannot warn of them."""
        if self.quiet is None:
            quiet = np.errstate(all="ignore")
            quiet.__enter__()
            self.quiet = quiet
        return 0

    cdef inline char* element_shadow(self, uint32_t number, double* g) except? NULL:
        """The shadow of a buffer; made where an adjoint (g) is to be added, NULL where nothing was ever added."""
        cdef Buffer buf = <Buffer>PyList_GET_ITEM(self.buffers, number)
        if buf.shadow is NULL and g is not NULL:
            self.give_shadow(buf, True)
        return buf.shadow

    cdef inline Py_ssize_t lane_bytes(self, uint32_t number) noexcept:
        return (<Buffer>PyList_GET_ITEM(self.buffers, number)).lane_bytes

    cdef int swap_element(self, Record* r, uint32_t op) except -1:
        cdef Buffer buf = <Buffer>PyList_GET_ITEM(self.buffers, r.a)
        cdef double now
        if op == UNDO:
            now = (<double*>buf.data)[r.b]
            (<double*>buf.data)[r.b] = r.value
        else:
            now = (<float*>buf.data)[r.b]
            (<float*>buf.data)[r.b] = <float>r.value
        r.value = now
        return 0

    cdef int restore(self, uint32_t reached) except -1:
        """Trades memory back, from the record that the sweep reached to the end: the state that the function left."""
        cdef Record* r
        cdef uint32_t op
        for index in self.undo:
            if index < reached:
                continue
            r = self.records + <uint32_t>index
            op = r.op & OP_MASK
            if op == NODE:
                (<Node>PyList_GET_ITEM(self.nodes, r.a)).swap(self)
            else:
                self.swap_element(r, op)
        return 0

    cdef int end_sweep(self) except -1:
        cdef Buffer buf
        for buf in self.shadowed:
            buf.drop_shadow()
        self.shadowed = []
        trim_blocks()
        free(self.adjoints)
        self.adjoints = NULL
        self.sweeping = False
        return 0

    cdef int unlock(self) except -1:
        if self.locked is not None:
            for arr, _ in self.locked:
                arr.setflags(write=True)
            self.locked = None
        return 0

    cdef int close(self) except -1:
        """Ends the recording and drops what it keeps."""
        self.alive = False
        self.unlock()
        self.closed = True
        self.nodes = []
        self.buffers = []
        self.undo = []
        give_spare(self)
        free(self.constants)
        self.constants = NULL
        self.capacity = self.constant_capacity = 0
        return 0

    # -- on its own --------------------------------------------------------------------------------------------------

    def variable(self, value):
        """An active input with the value of `value`: a float, or an array of floats (copied).

        Raises ActivityError for anything else, integers included: they have no derivative.
        """
        cdef TrackedArray array
        if not self.alive:
            escaped(self)
        value = primal_at(self, value)
        if isinstance(value, np.ndarray):
            if value.dtype.kind not in "fc":
                raise ActivityError(f"a variable of dtype {value.dtype} has no derivative; pass floats")
            array = wrap_new(self, own_copy(plain_value(value))) if not is_tracked(value) else \
                wrap_over(self, value.copy())
            array.place.buf.active = True
            return array
        if isinstance(value, (bool, int, np.integer, np.bool_)) or not (
                isinstance(value, (float, complex, np.floating, np.complexfloating))):
            raise ActivityError(f"a variable of type {type(value).__name__} has no derivative; pass a float")
        return self.scalar(value, True)

    def gradient(self, of, with_respect_to):
        """The gradient of a real scalar on this tape.

        `with_respect_to` is a value of this tape, or a tuple of them (then a tuple comes back): arrays of the same shape, floats
        for scalars. One backward sweep; may be called any number of times, also after the `with` block.

        Raises ActivityError if `of` is not a scalar of this tape.
        """
        cdef uint32_t slot
        wanted = with_respect_to if isinstance(with_respect_to, tuple) else (with_respect_to,)
        if context_of(of) is not self or (is_array(of) and not (<TrackedArray>of).boxed):
            raise ActivityError("gradient of something that is no scalar of this tape")
        for v in wanted:
            if context_of(v) is not self:
                raise ActivityError("gradient with respect to something that is no value of this tape")
        self.start_sweep(1)
        try:
            if self.is_active(of):
                seed(self, of, 0, 1.0)
            shadows = [None if type(v) is Adjoint else hold_shadow(self, v) for v in wanted]
            self.run_sweep()
            out = tuple([self.adjoints[(<Adjoint>v).slot] if type(v) is Adjoint and (<Adjoint>v).slot != NONE else
                         0.0 if type(v) is Adjoint else adjoint_copy(self, v)
                         for v in wanted])
        finally:
            for v in wanted:
                if is_array(v):
                    (<TrackedArray>v).place.buf.borrowed_shadow = False
                    (<TrackedArray>v).place.buf.drop_shadow()
            self.end_sweep()
        return out if isinstance(with_respect_to, tuple) else out[0]


cdef int hold_shadow(Tape tape, TrackedArray v) except -1:
    """Gives a value a shadow that the sweep does not drop."""
    if v.place.buf.data is not NULL:
        ensure_lanes(tape, v.place.buf, tape.width)
    v.place.buf.borrowed_shadow = True
    return 0


cdef object adjoint_copy(Tape tape, TrackedArray v):
    g = lane_of(v.place, 0)
    if g is None:
        return 0.0
    return g if v.boxed else g.copy()


cdef int seed(Tape tape, object value, int lane, object cotangent) except -1:
    """Adds to the adjoint of a result, before the sweep."""
    if type(value) is Adjoint:
        tape.adjoints[<size_t>(<Adjoint>value).slot * tape.width + lane] += cotangent
        return 0
    lend_lanes(tape, (<TrackedArray>value).place)
    return add_to_lane(tape, (<TrackedArray>value).place, lane, cotangent)


cdef inline double pulled(double g, double partial, unsigned char guarded) noexcept:
    """g times a partial; for a guarded operation a zero adjoint contributes nothing, whatever the partial."""
    cdef double c = g * partial
    return 0.0 if c != c and guarded and g == 0.0 else c


cdef inline void pull_lanes(double* g, double* target, double partial, int width, unsigned char guarded) noexcept:
    cdef int lane
    for lane in range(width):
        target[lane] += pulled(g[lane], partial, guarded)


cdef inline uint32_t stored_buffer(Record* r) noexcept:
    cdef uint64_t packed
    memcpy(&packed, &r.value, 8)
    return <uint32_t>packed


cdef inline uint32_t element_number(Py_ssize_t offset, int itemsize) except? 0xFFFFFFFF:
    cdef Py_ssize_t n = offset // itemsize
    if n >= MOST or offset != n * itemsize:
        unnameable()
    return <uint32_t>n


cdef int unnameable() except -1:
    raise TapeError("an element lies outside what a tape can name (2**32 elements, whole multiples of the item size)")


FREE = -1   # a result without an adjoint


cdef object place_of(object value):
    """Where the adjoint of a value is: a slot for a scalar, else a view."""
    return (<Adjoint>value).slot if type(value) is Adjoint else (<TrackedArray>value).place


cdef bint may_repeat(object key):
    """Whether an index can name an element twice: integer arrays can, masks cannot."""
    if type(key) is tuple:
        return any([may_repeat(k) for k in key])
    if isinstance(key, np.ndarray):
        return key.dtype.kind != "b"
    return type(key) is list and not all([isinstance(k, (bool, np.bool_)) for k in key])


cdef object overwritten_repeats(ndarray arr, object key):
    """The positions of an assignment `arr[key] = ...` whose value did not stay, as a mask; None if all did."""
    if not may_repeat(key):
        return None
    positions = np.arange(arr.size).reshape(PyArray_NDIM(arr) * (0,) if arr.size == 0 else
                                            tuple([PyArray_DIMS(arr)[i] for i in range(PyArray_NDIM(arr))]))[key]
    order = np.arange(positions.size).reshape(positions.shape)
    last = np.empty(arr.size, dtype=np.intp)
    last[positions] = order
    lost = last[positions] != order
    return lost if lost.any() else None


cdef View view_of_new(ndarray arr):
    return view_of(buffer_of_new(arr), arr)


if not cyad_install_scalar(Adjoint, sizeof(AdjointLayout)):
    raise ImportError("cyad._adjoint was built for another layout of extension types")
register_types(Adjoint, None, AdjointArray, None)


# ---- one call -------------------------------------------------------------------------------------------------------

cdef object name_of(object f):
    return getattr(f, "__qualname__", None) or type(f).__qualname__


def run_reverse(mode, f, returned, args, kwargs, list named, int width, bint batched):
    """`autodiff` in reverse mode, its arguments checked: record the call, sweep, hand out."""
    cdef Tape tape = Tape(f, mode.strong_zero)
    cdef list values, arguments
    cdef int lane
    cdef object result, primal, name, a
    cdef bint seeded
    turn_shadows(mode, named)
    values, arguments = wrap_all(tape, named, width)
    positional, keywords = as_call(args, kwargs, named, values)
    try:
        result = tape.call(f, positional, keywords)
        tape.alive = False
        seeded = check_return(tape, mode, f, returned, result)
        if is_array(result) and (<TrackedArray>result).plain and (<TrackedArray>result).arr.ndim == 0:
            tape.alive = True
            result = result[()]
            tape.alive = False
        primal = unwrap(tape, result) if mode.primal else None
        tape.start_sweep(width)
        try:
            if seeded and tape.is_active(result):
                for lane in range(width):
                    seed(tape, result, lane, 1.0)
            tape.run_sweep()
            entries = []
            for (name, a), value in zip(named, values):
                if isinstance(a, Active):
                    derivs = tuple([adjoint_value(tape, value, lane, a.val) for lane in range(width)])
                    if mode.holomorphic:
                        derivs = tuple([np.conjugate(d) for d in derivs])
                    entries.append(derivs if batched else derivs[0])
                else:
                    entries.append(None)
        finally:
            tape.end_sweep()
        copy_shadows_back(arguments)
    finally:
        turn_shadows(mode, named)
        tape.close()
    entries = tuple(entries)
    return (entries, primal) if mode.primal else (entries,)


cdef int turn_shadows(object mode, list named) except -1:
    """The complex derivative f' is the conjugate of what pullbacks give (df/dRe + i df/dIm): in holomorphic mode shadows are
    conjugated before and after."""
    if not mode.holomorphic:
        return 0
    for _, a in named:
        for shadow in (a.dval if getattr(a, "batched", False) else (getattr(a, "dval", None),)):
            if isinstance(shadow, np.ndarray) and np.iscomplexobj(shadow):
                np.conjugate(shadow, out=shadow)
    return 0


cdef object adjoint_value(Tape tape, object value, int lane, object primal):
    """The derivative with respect to an Active argument, as the kind of number that the argument is."""
    if type(value) is Adjoint:
        g = tape.adjoints[<size_t>(<Adjoint>value).slot * tape.width + lane]
        return np.float32(g) if (<Adjoint>value).kind == SINGLE else g
    g = lane_of((<TrackedArray>value).place, lane)
    if g is None:
        return 0.0
    return g if np.iscomplexobj(plain_value(primal)) else real_part(g)


cdef object check_return(Tape tape, object mode, object f, object returned, object result):
    """Whether the return value is to be seeded; ActivityError where its activity makes no sense."""
    kind = returned
    if kind is None:
        kind = Const if result is None else Active
    if kind is Const:
        return False
    if kind is not Active:
        raise ActivityError(f"a return of activity {kind.__name__} has no meaning in combined reverse mode; use Active for a number, "
                            "Const for anything that is returned by reference, or autodiff_thunk")
    if isinstance(result, (tuple, list, dict)) or np.ndim(plain_value(result)) > 0:
        what = f"an array of shape {np.shape(plain_value(result))}" if np.ndim(plain_value(result)) else \
            f"a {type(result).__name__}"
        raise ActivityError(f"{name_of(f)} returned {what}; reverse mode needs a scalar. Return a scalar, return by reference "
                            "(write into a Duplicated argument), use jacobian, or autodiff_thunk")
    if result is None:
        raise ActivityError(f"{name_of(f)} returned None where an Active number was asked for; pass Const as the return activity")
    if np.iscomplexobj(plain_value(result)) and not mode.holomorphic:
        raise ActivityError(f"{name_of(f)} returned a complex number; the derivative of a complex function needs ReverseHolomorphic, "
                            "or return a real number")
    return tape.is_active(result)


def plain_gradient(f, tuple args):
    """The gradient in reverse mode and the value, for floats and whole float arrays outside any other call.

    It does what run_reverse does without its generality, in a third of the time; None where that is needed.
    """
    cdef Py_ssize_t i, j, n = len(args)
    cdef Tape tape
    cdef AdjointArray array
    cdef Buffer buf
    cdef ndarray arr, other, shadow
    cdef uint32_t slot
    cdef object a, result, value
    cdef list inputs, derivs
    if current() is not NULL:
        return None
    for i in range(n):
        a = args[i]
        if isinstance(a, ndarray):
            arr = a
            if type(a) is not ndarray or not (PyArray_TYPE(arr) == NPY_DOUBLE or PyArray_TYPE(arr) == NPY_FLOAT) or \
                    not PyArray_ISBEHAVED_RO(arr) or not PyArray_ISCONTIGUOUS(arr):
                return None
            for j in range(i):
                if isinstance(args[j], ndarray):
                    other = args[j]
                    if PyArray_DATA(other) < <void*>(<char*>PyArray_DATA(arr) + PyArray_NBYTES(arr)) and \
                            PyArray_DATA(arr) < <void*>(<char*>PyArray_DATA(other) + PyArray_NBYTES(other)):
                        return None
        elif not PyFloat_CheckExact(a) and not is_float64(a):
            return None
    tape = Tape.__new__(Tape, f)
    inputs, derivs = [], []
    for i in range(n):
        a = args[i]
        if not isinstance(a, ndarray):
            inputs.append(tape.scalar(a, True))
            derivs.append(inputs[i])
            continue
        arr = a
        shadow = PyArray_ZEROS(PyArray_NDIM(arr), PyArray_DIMS(arr), PyArray_TYPE(arr), 0)
        array = tape.own_array(arr)
        buf = array.place.buf
        buf.owner = arr
        buf.caller_owned = True
        buf.active = True
        buf.borrowed_shadow = True
        buf.shadow = <char*>PyArray_DATA(shadow)
        buf.shadow_owner = shadow
        buf.lane_bytes = buf.nbytes
        inputs.append(array)
        derivs.append(shadow)
    try:
        result = tape.call(f, tuple(inputs), {})
        tape.alive = False
        if type(result) is not Adjoint or (<Adjoint>result).ctx is not tape:
            result = scalar_result(tape, f, result)
        value = number(result) if type(result) is Adjoint else result
        tape.start_sweep(1)
        try:
            if type(result) is Adjoint and (<Adjoint>result).slot != NONE:
                tape.adjoints[(<Adjoint>result).slot] += 1.0
                tape.run_sweep()
            for i in range(n):
                if type(derivs[i]) is Adjoint:
                    derivs[i] = tape.adjoints[(<Adjoint>derivs[i]).slot]
        finally:
            tape.end_sweep()
    finally:
        tape.close()
    return tuple(derivs), value


cdef object scalar_result(Tape tape, object f, object result):
    """A result that is not an Adjoint of this tape, checked to be a scalar nevertheless."""
    check_return(tape, Reverse, f, Active, result)
    if is_array(result):
        tape.alive = True
        result = result[()]
        tape.alive = False
    return result
