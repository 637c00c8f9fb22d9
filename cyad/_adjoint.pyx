"""Reverse mode: adjoint scalars and arrays over one flat tape.

The tape is an array of 20-byte records: an operation, two operand slots, the value. A record's index is the slot of its
result. Values, not ready-made partials: such a tape can be swept again, at second order, or replayed. Constants
live in a table of their own (a loop's few constants are found again through `recent`). An operation on arrays is a node
(`_nodes`), an object behind one record; the sweep meets records and nodes in the order of recording, backwards.

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
from cpython.object cimport PyObject_RichCompare
from cpython.ref cimport PyObject
from libc.math cimport isfinite
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset
from numpy cimport (
    NPY_ARRAY_WRITEABLE, NPY_DOUBLE, NPY_FLOAT, PyArray_CHKFLAGS, PyArray_DATA, PyArray_ISBEHAVED_RO, PyArray_NDIM, PyArray_TYPE,
    import_array, ndarray,
)

from cyad._context cimport (
    DOUBLE, SINGLE, WEAK, Context, TrackedArray, add_to_lane, as_number, below, buffer_over, check_alive,
    check_storable, context_of, ensure_lanes, escaped, explain, is_array, is_tracked, lane_of, number, own_copy,
    plain_value, primal_at, register_types, run_plain, scalar_fits, wrap_box, wrap_new, wrap_over, write_primal,
)
from cyad._elementwise cimport (
    apply, evaluate_arrays, evaluate_scalar, general_elementwise, matrix_product, real_operand, reduced_axes, refuse, warn,
    warn_operator,
)
from cyad._nodes cimport (
    ACTIVE, CONSTANT, FREE, NONE, SLOT, AddAt, Elementwise, Extremum, Gather, GeneralStore, Link, Node, Operand, Product,
    Recording, Scatter, Store, Total, Undo, add_touched, lend_lanes, untouched,
)
from cyad._redirect cimport current, enter, swap_current
from cyad._shadow cimport Buffer, View, buffer_of_new, same_geometry, trim_blocks, view_of
from cyad._tracked cimport binary, dispatch, modular, power, scalar_attribute, scalar_item
from cyad.rules._kernels cimport (
    CYAD_OP_add, CYAD_OP_divide, CYAD_OP_multiply, CYAD_OP_power, CYAD_OP_subtract, Row, cyad_has_partials,
    cyad_partials, cyad_strong, partials_at,
)

import math
import operator
import os
import zlib
from types import FunctionType

import numpy as np

from cyad import errors
from cyad._arguments import release_state
from cyad._repeats import may_repeat, overwritten
from cyad.activity import Reverse
from cyad.errors import ActiveStoreError, ActivityError, LockedArrayError, MissingRuleError, TapeError, lost
from cyad.rules._kernels import rows_by_name

import_array()

cdef object TRUE = np.True_, FALSE = np.False_

cdef uint32_t MOST = 0xFFFFFFF0

cdef Row ADD = rows_by_name["add"]
cdef Row SUBTRACT = rows_by_name["subtract"]
cdef Row MULTIPLY = rows_by_name["multiply"]
cdef Row DIVIDE = rows_by_name["divide"]
cdef Row POWER = rows_by_name["power"]
cdef Row NEGATIVE = rows_by_name["negative"]
cdef Row ABSOLUTE = rows_by_name["absolute"]
cdef Row REMAINDER = rows_by_name["remainder"]
cdef Row FLOOR_DIVIDE = rows_by_name["floor_divide"]

cdef object add_reduce = np.add.reduce

# CYAD_VERIFY=1 in the environment has captured arrays that are locked, not copied, compared by checksum before a sweep.
cdef bint VERIFY = os.environ.get("CYAD_VERIFY", "0") not in ("", "0")


cdef object checksum(object arr):
    return zlib.crc32(own_copy(arr))


cdef Py_ssize_t COPY_LIMIT = 1 << 20   # bytes: captured arrays up to this are copied, larger ones locked

# Captured arrays that the tapes of all threads have locked: id -> [array, tapes]. The flag comes off with the last tape. Changed
# under the GIL.
cdef dict _locks = {}


cdef bint lock(ndarray arr) except -1:
    """Takes the write flag off, or counts one tape more where another has done so; False for what is read-only by itself."""
    cdef list entry = _locks.get(id(arr))
    if entry is not None:
        entry[1] += 1
        return True
    if not PyArray_CHKFLAGS(arr, NPY_ARRAY_WRITEABLE):
        return False
    arr.setflags(write=False)
    _locks[id(arr)] = [arr, 1]
    return True


cdef int unlock_all(object arrays) except -1:
    """A tape ends. An array of which the base is still locked cannot have its flag back: it waits for that."""
    cdef bint found = True
    for arr in arrays:
        _locks[id(arr)][1] -= 1
    while found:
        found = False
        for key, (arr, tapes) in list(_locks.items()):
            if not tapes and not any([id(base) in _locks for base in bases_of(arr)]):
                arr.setflags(write=True)
                del _locks[key]
                found = True
    return 0


cdef list bases_of(object arr):
    """The arrays that an array is a view of, one through another."""
    cdef list out = []
    while type(arr.base) is ndarray:
        arr = arr.base
        out.append(arr)
    return out


# ---- scalars --------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class Adjoint:
    """A real scalar on a tape: a C double (8 bytes), and the slot of its adjoint (none for a constant).

    `Tape.variable` and differentiated calls make them; ``Adjoint(...)`` raises ActivityError.

    It behaves as np.float64 (np.float32 where it came from float32 memory): inf and nan instead of ZeroDivisionError,
    comparisons and branches on its value. What would lose the derivative (`float(x)`, a store into a plain array) raises
    ActiveStoreError, use after the recording EscapedValueError. It belongs to the thread that records.

    >>> import numpy as np
    >>> from cyad import Adjoint, Tape
    >>> with Tape() as tape:
    ...     x = tape.variable(3.0)
    ...     y = np.log(x) * x
    >>> type(y) is Adjoint, isinstance(y, np.float64), round(y.primal, 4)
    (True, True, 3.2958)
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
        whole = modular(FLOOR_DIVIDE, operator.floordiv, left, right)
        return whole if whole is NotImplemented else (whole, modular(REMAINDER, operator.mod, left, right))

    def __matmul__(left, right):
        other = right if type(left) is Adjoint else left
        return np.matmul(left, right) if isinstance(other, (np.ndarray, float, int)) else NotImplemented

    def __neg__(self):
        return scalar_unary(NEGATIVE, self)

    def __pos__(self):
        return self

    def __abs__(self):
        return scalar_unary(ABSOLUTE, self)

    def __richcmp__(self, other, int op):
        cdef double x = (<Adjoint>self).value, y
        cdef int kind = (<Adjoint>self).kind
        cdef bint weak = kind == WEAK, holds
        if type(other) is Adjoint and kind != SINGLE and (<Adjoint>other).kind != SINGLE:
            y = (<Adjoint>other).value
            weak = weak and (<Adjoint>other).kind == WEAK
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
        if self.slot != NONE:
            check_alive(self.ctx)
            error = lost("float()")
            self.ctx.refused = str(error)
            raise error
        return self.value

    def __complex__(self):
        if self.slot != NONE:
            raise lost("complex()")
        return complex(self.value)

    def __getitem__(self, key):
        return scalar_item(self, key)

    def __repr__(self):
        return f"Adjoint({self!s})"

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
        return binary(row, left, right)   # what never was active is still a number
    if other > kind:
        kind = other
    if kind == SINGLE:
        x, y = <float>x, <float>y   # NumPy rounds a Python float that meets an np.float32 first
    value = evaluate_scalar(op, x, y, kind)
    if not isfinite(value):
        if type(warn_operator(row, x, y, kind)) is complex:
            return power(left + 0j, right)
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
        return apply(row, x, None)
    value = evaluate_scalar(row.op, x.value, 0.0, x.kind)
    if not isfinite(value):
        warn(row, x.value, 0.0, x.kind)
    if x.slot == NONE:
        return new_adjoint(tape, NONE, value, x.kind)
    return new_adjoint(tape, push(tape, row.op | SLOT_A, x.slot, 0, value), value, x.kind)


# ---- arrays ---------------------------------------------------------------------------------------------------------

@cython.final
@cython.no_gc
cdef class AdjointArray(DuckArray):
    """An array on a tape; an ndarray to the code that uses it.

    `Tape.variable`, differentiated calls and, inside these, NumPy's creation functions make them. It cannot be
    constructed: whatever the arguments, ``AdjointArray(...)`` raises ActivityError.

    It has the attributes and methods of an ndarray of its shape and dtype (floats or complex numbers); views share memory
    and derivatives. What would lose a derivative raises ActiveStoreError, use after the recording EscapedValueError. It
    belongs to the thread that records.

    >>> import numpy as np
    >>> from cyad import AdjointArray, Tape
    >>> with Tape() as tape:
    ...     x = tape.variable(np.array([1.0, 2.0]))
    ...     y = np.zeros(2)
    ...     y[:] = x * x
    >>> type(y) is AdjointArray, isinstance(y, np.ndarray), y.primal
    (True, True, array([1., 4.]))
    """

    @cython.embedsignature(False)
    def __init__(self, *args, **kwargs):
        raise ActivityError("AdjointArray(...) cannot make an array; Tape.variable(x) and NumPy's creation functions do")


@cython.final
@cython.no_gc
cdef class AdjointBox(DuckValue):
    """A scalar on a tape that does not fit Adjoint: complex, or of an outer differentiation too."""


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

cdef class Tape(Recording):
    """A recording of operations, to be swept backwards.

    Used by `autodiff`, and on its own::

        with Tape() as tape:
            x = tape.variable(np.array([1.0, 2.0]))
            y = np.sum(x * x)
        tape.gradient(y, x)

    Inside `with`, NumPy's creation functions make arrays that can hold active values. After it the tape can be swept as often as
    needed; its values can no longer be computed with (EscapedValueError). A record takes 20 bytes, and 8 more for
    each lane during a sweep; an operation on arrays takes one record and one object.

    Raises TapeError where it is recorded twice, swept by two threads at once, or has more than 2**32 - 16 records; otherwise
    errors are those of `autodiff`. A tape belongs to the thread that records it; afterwards any may sweep, one at a time.

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
        enter(<PyObject*>self)
        self.entered = True
        self.outlives = True
        return self

    def __exit__(self, *exception):
        enter(<PyObject*>self.outer if self.outer is not None else NULL)
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
        if buf.exposed and self.outer is None:
            self.watch(v)
        return 0

    cdef int refer_tracked(self, TrackedArray a) except -1:
        """The same for values of an outer differentiation, too."""
        self.refer(a.place, a.arr)
        if a.place.buf.exposed and self.outer is not None:
            self.watch(a)
        return 0

    cdef int watch(self, object place) except -1:
        if self.unsafe is None:
            self.unsafe = []
        self.unsafe.append(place)
        return 0

    cdef int add_node(self, Node node) except -1:
        cdef uint32_t index = <uint32_t>len(self.nodes)
        self.nodes.append(node)
        push(self, NODE, index, 0, 0.0)
        if self.unsafe is not None:
            self.save_unsafe()
        return 0

    cdef int save_unsafe(self) except -1:
        """What the last node reads may be written by compiled code at any moment from now on: it is saved as before a write."""
        cdef list places = self.unsafe
        cdef View v
        cdef Undo node, last
        self.unsafe = None
        if self.exposed is None:
            self.exposed = {}
        for place in places:
            node = Undo.__new__(Undo)
            node.region = v = (<TrackedArray>place).place if is_array(place) else place
            last = self.exposed.get(v.buf)
            if is_array(place):
                node.prim = (<TrackedArray>place).prim
                node.saved = node.prim.copy()
            elif last is not None and last.region.contiguous and same_geometry(last.region, v) and \
                    memcmp(PyArray_DATA(<ndarray>last.saved), v.buf.data + v.offset, v.last - v.first) == 0:
                node.saved, last.saved = last.saved, None   # nothing was written since: one copy serves both
            else:
                node.saved = own_copy(v.primal())
            if not is_array(place):
                self.exposed[v.buf] = node
            self.undo.append(self.count)
            self.add_node(node)
        return 0

    cdef object guard(self, object plain):
        """A captured plain array as the tape may refer to it: a copy, or the array itself, locked until the tape closes."""
        cdef ndarray arr
        if type(plain) is not np.ndarray:
            return plain
        arr = plain
        if arr.nbytes <= COPY_LIMIT or self.outlives:
            return own_copy(arr)
        if self.locked is None:
            self.locked = {}
        if id(arr) not in self.locked:
            # A view of what another tape has locked is read-only for as long as that tape lives: this one locks both.
            held = [a for a in (arr, *bases_of(arr)) if (a is arr or id(a) in _locks) and lock(a)]
            if held or VERIFY:
                self.locked[id(arr)] = (arr, held, checksum(arr) if VERIFY else 0)
        return arr

    cdef int verify(self) except -1:
        """Whether locked arrays are what they were: a write through a view made earlier gets past the lock."""
        if VERIFY and self.locked is not None:
            for arr, _, before in self.locked.values():
                if checksum(arr) != before:
                    raise LockedArrayError(
                        f"an array of shape {arr.shape} that {name_of(self.title)} captured was written during the call, through a "
                        "view made earlier, after the tape had come to refer to it: its derivative would be wrong. "
                        "Pass the array as an argument")
        return 0

    def call(self, f, args, kwargs):
        """Runs the function under this tape: creation functions make its arrays, for this thread only."""
        cdef PyObject* old = enter(<PyObject*>self)
        self.start()
        try:
            return f(*args, **kwargs)
        except (TypeError, ValueError, SystemError) as error:
            if self.locked and "read-only" in str(error):
                raise LockedArrayError(
                    f"{name_of(f)} wrote an array that it captured and that the tape refers to (over a mebibyte it is not copied but "
                    "locked for the length of the call): pass the array as an argument, or write into a copy") from error
            explain(self, error)
            raise
        finally:
            swap_current(old)
            self.stop()
            if type(f) is not FunctionType:
                release_state(self, f, self.outlives)

    cdef TrackedArray new_array(self):
        cdef AdjointArray out = AdjointArray.__new__(AdjointArray)
        out.ctx = self
        return out

    cdef TrackedArray new_box(self):
        cdef AdjointBox out = AdjointBox.__new__(AdjointBox)
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

    cdef object elementwise(self, Row row, object x, object y, const double* given):
        """One operation; `given` is its value where that is not NumPy's."""
        cdef double a, b = 0.0, value
        cdef int kind, other = WEAK
        cdef uint32_t slot_a = NONE, slot_b = NONE
        if self.outer is not None or not row.scalar or row.zero:
            return general_elementwise(self, row, x, y)
        if row.refusal is not None:
            refuse(self, row, x, y)
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
        if self.second and reads:
            reads |= (xo.role != CONSTANT) | (yo.role != CONSTANT) << 1   # at second order also where the partial takes the output
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

    cdef object extremum(self, TrackedArray a, object reduce, object axis, bint keepdims):
        cdef Extremum node
        cdef bint reduced[64]
        cdef View x = a.place
        cdef int i
        cdef AdjointArray result
        if a.boxed or not a.plain or not (x.typenum == NPY_DOUBLE or x.typenum == NPY_FLOAT) or not x.buf.active \
                or x.size == 0 or x.ndim == 0 or not reduced_axes(axis, x.ndim, reduced):
            return None
        out = reduce(a.arr, axis, None, None, keepdims)
        node = Extremum.__new__(Extremum)
        node.x = x
        node.keepdims = keepdims
        for i in range(x.ndim):
            if reduced[i]:
                node.reduced |= <uint64_t>1 << i
        self.refer(x, a.arr)
        if not isinstance(out, ndarray):
            node.slot = self.count
            node.value = <double>out
            self.add_node(node)
            self.records[node.slot].value = <double>out   # the record stands for the result, too
            return new_adjoint(self, node.slot, <double>out, SINGLE if x.typenum == NPY_FLOAT else DOUBLE)
        result = self.own_array(out)
        node.out = result.place
        result.place.buf.active = True
        self.refer(result.place, out)
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
        if self.strong and not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None   # the node multiplies by what it holds, also where the seed is zero
        out = matrix_product(x, y, typenum)
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
        if not buf.written:
            self.first_write(buf)
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
        if self.second and not reads[0] and not reads[1] and is_linear(pulls):
            node.pushes = pushes
        for v in reads[0]:
            if is_array(v) and (<TrackedArray>v).ctx is self and not (<TrackedArray>v).boxed:
                self.refer_tracked(v)
        self.add_node(node)
        return result

    cdef object combine(self, object out, list operands, list partials):
        """Records: each partial times its operand, and their sums; the last one has the value."""
        cdef double value, x
        cdef int kind, other
        cdef uint32_t slot, total = NONE
        cdef Py_ssize_t k
        cdef Adjoint operand
        if self.second or self.outer is not None or not as_number(out, &value, &kind):
            return None
        for k in range(len(operands)):
            if type(operands[k]) is not Adjoint or not as_number(partials[k], &x, &other):
                return None
        for k in range(len(operands)):
            operand = operands[k]
            as_number(partials[k], &x, &other)
            slot = push(self, CYAD_OP_multiply | SLOT_A, operand.slot, self.constant(x), x * operand.value)
            total = slot if k == 0 else push(self, CYAD_OP_add | SLOT_A | SLOT_B, total, slot, value)
        self.records[total].value = value
        return new_adjoint(self, total, value, kind)

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

    cdef int first_write(self, Buffer buf) except -1:
        buf.written = True
        if self.originals is not None and buf in self.originals:
            self.originals[buf] = own_copy(buf.owner)
        return 0

    cdef int before_overwrite(self, TrackedArray target, object key) except -1:
        cdef Undo node
        cdef Buffer buf = target.place.buf
        if not PyArray_CHKFLAGS(target.arr, NPY_ARRAY_WRITEABLE):
            return 0   # nobody writes through it
        if not buf.written:
            self.first_write(buf)
        if buf.exposed and self.exposed is not None:
            self.exposed.pop(buf, None)
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
        if target.plain and (target.place.typenum == NPY_DOUBLE or target.place.typenum == NPY_FLOAT) and \
                not (active and target.place.overlaps) and (
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
            if target.place.overlaps:
                general.lost = run_plain(written_over, (target.place,))
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
            node.lost = run_plain(overwritten, (a.place.shape_tuple(), key, plain_value(value)))
        return self.add_node(node)

    cdef int add_at(self, TrackedArray a, object key, object value) except -1:
        cdef AddAt node
        cdef bint active = self.is_active(value)
        value = below(self, value)
        if not PyArray_CHKFLAGS(a.arr, NPY_ARRAY_WRITEABLE):
            raise ValueError("output array is read-only")
        if active:
            check_storable(a)
        self.before_overwrite(a, key)
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

    cdef int start_sweep(self, int width) except -1:
        cdef size_t i, wanted = <size_t>self.count * width + 1
        if self.closed:
            raise TapeError("this tape has been closed; its memory is gone")
        if self.sweeping:
            raise TapeError("this tape is being swept already")
        self.verify()
        free(self.adjoints)
        self.adjoints = <double*>malloc(wanted * sizeof(double))
        if self.adjoints is NULL:
            raise MemoryError(f"cannot allocate {wanted * 8} bytes of adjoints")
        for i in range(wanted):
            self.adjoints[i] = -0.0   # see `untouched`
        self.width = width
        self.sweeping = True
        self.start()
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
                    if untouched(g, width):
                        continue   # a value that nothing came of may have any partial, infinite ones included
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
                            add_touched(adjoints + <size_t>r.a * width + lane,
                                        (<double*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b])
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
                            add_touched(adjoints + <size_t>r.a * width + lane,
                                        (<float*>(shadow + lane * self.lane_bytes(stored_buffer(r))))[r.b])
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
        self.stop()
        for buf in self.shadowed:
            buf.drop_shadow()
        self.shadowed = []
        trim_blocks()
        free(self.adjoints)
        self.adjoints = NULL
        self.sweeping = False
        return 0

    cdef bint over(self) noexcept:
        return self.closed

    cdef int unlock(self) except -1:
        if self.locked is not None:
            unlock_all([a for _, held, _ in self.locked.values() for a in held])
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
            out = tuple([self.adjoints[(<Adjoint>v).slot] + 0.0 if type(v) is Adjoint and (<Adjoint>v).slot != NONE else
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


# Rules in these files read nothing only if they are linear, given the indices and masks that they keep; a user's may keep values.
cdef frozenset _LINEAR = frozenset({f"cyad.rules.{name}" for name in (
    "joining", "shapes", "selection", "scans", "reductions", "fourier")})


cdef bint is_linear(list pulls) except -1:
    for pull in pulls:
        if getattr(pull, "__module__", None) not in _LINEAR:
            return False
    return True


cdef inline double pulled(double g, double partial, unsigned char guarded) noexcept:
    """g times a partial; for a guarded operation a zero adjoint contributes nothing, whatever the partial. Never -0.0."""
    cdef double c = g * partial
    return 0.0 if c != c and guarded and g == 0.0 else c + 0.0


cdef inline void pull_lanes(double* g, double* target, double partial, int width, unsigned char guarded) noexcept:
    cdef int lane
    for lane in range(width):
        target[lane] += pulled(g[lane], partial, guarded)


cdef uint32_t stored_buffer(Record* r) noexcept:
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


def written_over(View v):
    """Of a store into a view that names elements more than once: which entries did not last."""
    cdef ndarray memory = np.zeros(v.buf.nbytes // 8 + 2)
    marks = v.array_at(<char*>PyArray_DATA(memory), memory)
    entries, lost = np.arange(v.size).reshape(v.shape_tuple()), False
    for digits in (entries % (1 << 20), entries >> 20):   # which single precision, too, holds exactly
        marks[...] = digits
        lost = lost | (marks != digits)
    return lost


cdef object place_of(object value):
    """Where the adjoint of a value is: a slot for a scalar, else a view."""
    return (<Adjoint>value).slot if type(value) is Adjoint else (<TrackedArray>value).place


cdef View view_of_new(ndarray arr):
    return view_of(buffer_of_new(arr), arr)


cdef object name_of(object f):
    return errors.name_of(f)


if not cyad_install_scalar(Adjoint, sizeof(AdjointLayout)):
    raise ImportError("cyad._adjoint was built for another layout of extension types")
register_types(Adjoint, None, AdjointArray, None, AdjointBox)
