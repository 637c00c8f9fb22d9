"""Contexts, and what a tracked value is: what every other module of the carriers stands on.

A tracked array is a duck array, not a subclass of ndarray: `np.asarray` would strip a subclass without a word, and
the derivative with it. It wraps `prim` (a plain ndarray, or a tracked array of an outer differentiation); `arr` is the ndarray at the
bottom, whose geometry and memory are the real ones; `place` is its view of its buffer (`_shadow`). `plain` says that prim is arr.
Scalars that do not fit a C double (complex, or tracked by an outer differentiation) are `boxed`: `prim` is the number
itself, there is no memory, and their shadow is a list of numbers, one for each lane. `given` marks arguments of the call, which stand
for arrays of the caller's.

Everything that differs between the modes is a method of the context (`elementwise`, `link`, `load`, `gather`, `store`, `scatter`,
`add_at`); an array asks its context. `link` is the general one: an operation is its result and, for each active operand, a
linear map (push) and its transpose (pull). The others are there because they are hot or because they write memory.

Adjoint and Dual cannot inherit from `Scalar`: Cython gives a freelist only to types without a base. They declare the same
leading fields instead, and `Scalar` is the name under which shared code reads those (checked at registration).

Thread safety: a tracked value belongs to the thread that runs its call; there is no global state but the types registered below.
"""
from cpython.ref cimport PyObject, PyTypeObject
from libc.string cimport memcpy
from numpy cimport (
    NPY_DOUBLE, PyArray_DATA, PyArray_DescrFromType, PyArray_DIMS, PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS,
    PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE, PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, PyTypeNum_ISCOMPLEX,
    import_array, ndarray, npy_intp,
)

from cyad._redirect cimport current, swap_current
from cyad._shadow cimport SMALLEST_KEPT, Buffer, View, buffer_of_new, extent_of, new_result, set_handler, view_of
from cyad.rules._kernels cimport Row

import opcode

import numpy as np

from cyad.errors import ActiveStoreError, ActivityError, ADError, EscapedValueError, name_of

cdef extern from "numpy/arrayobject.h":
    ctypedef int NPY_ORDER
    NPY_ORDER NPY_KEEPORDER
    ndarray PyArray_NewCopy(ndarray arr, NPY_ORDER order)
    ndarray PyArray_ZEROS(int nd, npy_intp* dims, int typenum, int fortran)

import_array()

cdef object f64 = np.float64
cdef object f32 = np.float32


# ---- contexts -------------------------------------------------------------------------------------------------------

cdef class Context:
    """One differentiating call: its level, its number of lanes, whether it still runs.

    `outer` is the context that was current when this one was made; where there is one, primals and shadows may be tracked by it,
    so all work goes through ordinary NumPy calls on them.
    """

    cdef TrackedArray new_array(self):
        raise NotImplementedError("a context of no mode")

    cdef TrackedArray new_box(self):
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

    # Fresh pages for every large array cost more than what is computed on it. Most calls work on large arrays by their own
    # loops, in kept memory, or have none: NumPy's allocator is changed only where an ordinary call made one.

    cdef int start(self) except -1:
        self.running = True
        if self.large:
            self.keep_memory()
        return 0

    cdef int keep_memory(self) except -1:
        self.large = True
        if self.running and self.allocator is None:
            self.allocator = set_handler(None)
        return 0

    cdef int stop(self) except -1:
        self.running = False
        if self.allocator is not None:
            set_handler(self.allocator)
            self.allocator = None
        return 0

    cdef object variable_scalar(self, object value, tuple lanes):
        raise NotImplementedError("a context of no mode")

    cdef bint over(self) noexcept:
        """Whether the call has ended for good: no sweep will read memory or write into it."""
        return not self.alive


cdef extern from *:
    """
    static void cyad_no_sequence(PyObject *type) { ((PyTypeObject *)type)->tp_as_sequence->sq_item = NULL; }
    """
    void cyad_no_sequence(object type)


cdef int register_types(object adjoint, object dual, object adjoint_array, object dual_array, object box) except -1:
    """Told once, by the carriers' package, which types carry derivatives."""
    global ADJOINT, DUAL, ADJOINT_ARRAY, DUAL_ARRAY, ADJOINT_BOX, DUAL_BOX
    for scalar in (adjoint, dual, box):
        if scalar is not None:
            # A type with sq_item looks like a sequence to NumPy, which then hides our error behind one of its own, and
            # can be iterated over.
            cyad_no_sequence(scalar)
    if adjoint is not None:
        ADJOINT = <PyTypeObject*>adjoint
        ADJOINT_ARRAY = <PyTypeObject*>adjoint_array
        ADJOINT_BOX = <PyTypeObject*>box
    if dual is not None:
        DUAL = <PyTypeObject*>dual
        DUAL_ARRAY = <PyTypeObject*>dual_array
        DUAL_BOX = <PyTypeObject*>box
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


class UnrelatedCallsError(ADError, RuntimeError):
    """Values of two differentiated calls of which none is inside the other, both active, meet in one operation."""


cdef bint is_strange(Context ctx):
    """Whether a context is none of this thread's: neither the current one nor around it."""
    cdef PyObject* pointer = current()
    cdef Context own = None if pointer is NULL else <Context>pointer
    while own is not None and own is not ctx:
        own = own.outer
    return own is None


cdef object settled(object value, bint strangers=False):
    """What a value is once its call is over: the plain array or number inside, where it never was active; else itself.

    Caches that a function fills hold such values (functools.lru_cache on a window, a grid): in the plain run they are plain. With
    `strangers` the same for values of calls that run in other threads, which may have filled the cache.
    """
    cdef Context ctx = context_of(value)
    if ctx is not None:
        if not (ctx.over() or strangers and is_strange(ctx)) or ctx.is_active(value):
            return value
        return number(value) if is_scalar(value) else settled((<TrackedArray>value).prim, strangers)
    if type(value) is list or type(value) is tuple:
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            new = [settled(v, strangers) for v in value]
        finally:
            Py_LeaveRecursiveCall()
        for v, old in zip(new, value):
            if v is not old:
                return type(value)(new)
    return value


cdef object usable(TrackedArray a):
    """An array of a call that has ended as what it still is; EscapedValueError where that would lose a derivative."""
    cdef object plain = settled(a)
    if plain is a:
        escaped(a.ctx)
    return plain


cdef bint unrelated(Context a, Context b):
    """Whether neither of two contexts is inside the other. Those of dual numbers made by hand (level 0) are inside all."""
    if a is None or b is None or a is b:
        return False
    if a.level < b.level:
        a, b = b, a
    if b.level == 0:
        return False
    while a is not None and a.level > b.level:
        a = a.outer
    return a is not b


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
    if unrelated(a, b):
        raise UnrelatedCallsError("values of two unrelated differentiated calls meet in one operation")
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


cdef class TrackedArray:
    """The fields of a tracked array, all that most code needs of one; `_tracked.DuckArray` has its methods."""


# ---- what is tracked, and what is inside ----------------------------------------------------------------------------


cdef bint is_active_anywhere(object value) except -1:
    """Whether a value, or something in a list of values, is active at any level."""
    cdef Context ctx
    if isinstance(value, (list, tuple)):
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            for v in value:
                if is_active_anywhere(v):
                    return True
            return False
        finally:
            Py_LeaveRecursiveCall()
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
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            for v in value:
                _collect(v, out)
        finally:
            Py_LeaveRecursiveCall()
    elif is_tracked(value):
        out.append(value)
    return 0


cdef object all_plain(object value):
    if type(value) in (list, tuple):
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            return type(value)([all_plain(v) for v in value])
        finally:
            Py_LeaveRecursiveCall()
    return plain_value(value)


cdef object primals_of(Context ctx, object value):
    if type(value) in (list, tuple):
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            return type(value)([primals_of(ctx, v) for v in value])
        finally:
            Py_LeaveRecursiveCall()
    return primal_at(ctx, value)


# ---- plain numbers and plain runs -----------------------------------------------------------------------------------

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
    return a.copy(order="K")


cdef dict _OPCODES = opcode.opmap


cdef int explain(Context ctx, object error) except -1:
    """Adds to an error of compiled code, which knows nothing of tracked values, that it was given some."""
    cdef object trace = error.__traceback__, frame
    if isinstance(error, SystemError):
        if isinstance(error.__cause__, ADError):
            raise error.__cause__ from None   # compiled code went on after an error of ours (scipy's root finders)
        return 0
    while trace.tb_next is not None and trace.tb_next.tb_frame.f_globals.get("__name__") != "cyad._inactive":
        trace = trace.tb_next
    frame = trace.tb_frame
    code = frame.f_code
    if isinstance(error, ADError) or not 0 <= trace.tb_lasti < len(code.co_code) \
            or code.co_code[trace.tb_lasti] == _OPCODES["RAISE_VARARGS"]:
        return 0   # cyad's own, or raised by Python code that knows why
    if ctx.refused is not None:
        error.add_note(f"cyad: before that, it went on after another error: {ctx.refused}")
        return 0
    tracked = sorted([name for name, value in frame.f_locals.items() if is_tracked(value) and is_active_anywhere(value)])
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
    cdef TrackedArray out = ctx.new_box()
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
    if out.place.buf.nbytes >= SMALLEST_KEPT and ctx.allocator is None:
        ctx.keep_memory()
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
    if ctx is not None and not ctx.alive and ctx is not own:
        value = usable(value) if is_array(value) else settled(value)
        if is_scalar(value):
            check_alive(context_of(value))
        ctx = context_of(value)
    while ctx is not None and ctx is not own and ctx.level > own.level:
        if ctx.is_active(value):
            raise ActiveStoreError("a value that is active in an inner differentiated call was stored into an array that was "
                                   "made outside it; allocate the array inside")
        value = primal_at(ctx, value)
        ctx = context_of(value)
    return value if ctx is None or ctx is own else among_own(own, ctx, value)


cdef object among_own(Context own, Context ctx, object value):
    """A value of an outer call as it is; one of a call in another thread as plain, where it is not active."""
    cdef Context outer = own
    while outer is not None and outer is not ctx:
        outer = outer.outer
    if outer is None and ctx.is_active(value):
        higher(own, ctx)
    return value if outer is not None else plain_value(value)


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


cdef bint is_zero_seed(object t) except -1:
    """Whether a seed, or each of a tuple of them, is zero throughout; None is zero."""
    if t is None:
        return True
    if type(t) is tuple or type(t) is list:
        return all([is_zero_seed(part) for part in t])
    return not np.any(plain_value(t))


cdef object finite_only(object c):
    """What a linear map makes of a seed of zero under strong zero. Where the map holds inf or nan, that is a plain 0; else it
    is 0 to its own context only, and keeps what it is to outer ones."""
    if type(c) is tuple or type(c) is list:
        return type(c)([finite_only(part) for part in c])
    if c is None or np.all(np.isfinite(plain_value(c))):
        return c
    return np.zeros_like(plain_value(c)) if np.ndim(c) else 0.0


cdef object real_part(object c):
    return c.real if not isinstance(c, (int, float)) and is_complex(plain_value(c)) else c


cdef int add_to_lane(Context ctx, View v, int lane, object c) except -1:
    """Adds a cotangent to the shadow of a view in one lane, through ordinary NumPy calls."""
    cdef bint fresh = False
    if is_box(v):
        if v.buf.lanes is None:
            v.buf.lanes = [None] * ctx.width
        old = v.buf.lanes[lane]
        c = unbroadcast(c, ())   # the number may have been stored into several elements
        v.buf.lanes[lane] = c if old is None else old + c
        return 0
    if v.buf.shadow is NULL and v.buf.lanes is None and ctx.outer is None and ctx.width == 1 and v.is_whole():
        # The first to add need not add to zeros.
        v.buf.make_shadow(1, False)
        fresh = True
    else:
        ensure_lanes(ctx, v.buf, ctx.width)
    target = lane_of(v, lane)
    if target.dtype.kind != "c":
        c = real_part(c)
    c = unbroadcast(c, v.shape_tuple())
    if fresh:
        target[...] = c
    elif v.overlaps:
        np.add.at(target, Ellipsis, c)
    elif is_array(target):
        target[...] = target + c
    else:
        np.add(target, c, out=target, casting="unsafe")
    return 0


# ---- arrays from lists ----------------------------------------------------------------------------------------------

def stack_nested(value, dtype):
    """`np.array(value, dtype)` for nested lists in which some entries may be tracked; a plain array if none is."""
    try:
        return _stack(value, dtype)
    except EscapedValueError:
        plain = settled(value)
        if plain is value:
            raise
    return _stack(plain, dtype)


cdef object _stack(object value, object dtype):
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


cdef object object_operand(object value):
    """A plain array of tracked scalars is a tracked array in disguise; a list is an array, of a subclass the memory counts."""
    if isinstance(value, (list, tuple)):
        return stack_nested(value, None) if leaves_of((value,), {}) else run_plain(np.array, (value,))
    if isinstance(value, ndarray) and type(value) is not ndarray:
        value = value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.dtype.hasobject and any(is_tracked(v) for v in value.flat):
        return stack_nested(value.tolist(), None)
    return value


# Where a subclass of ndarray means something else than ndarray, results that are plain arrays would be other programs.
cdef tuple _OPERATORS = ("__array_ufunc__", "__array_function__", *[
    f"__{side}{name}__" for side in ("", "r") for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")])
cdef dict _own_operators = {}   # by class


cdef bint has_own_operators(object value) except -1:
    """Whether a plain value is of a subclass of ndarray with operators of its own: np.matrix, masked arrays, units."""
    if type(value) is ndarray or not isinstance(value, ndarray):
        return False
    cls = type(value)
    if cls not in _own_operators:
        _own_operators[cls] = any([getattr(cls, name) is not getattr(np.ndarray, name) for name in _OPERATORS])
    return _own_operators[cls]


cdef int refuse_own_operators(object value, object name) except -1:
    cls = type(value)
    raise ActivityError(f"{name} met active values and an array of {cls.__module__}.{cls.__qualname__}, a subclass with "
                        "operators of its own, which results that carry derivatives do not have; pass its values, "
                        "np.asarray(a)")
