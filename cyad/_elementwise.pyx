"""Elementwise operations from their rows: values, warnings, and on the general path the maps that link them.

The fast paths of the modes take a row's C functions (`rules._kernels`). What they do not take (complex numbers, other
dtypes, values of outer differentiations) comes to `general_elementwise`: ordinary NumPy calls on the primals, and for each
active operand the two maps that `PartialMaps` makes of the same row. Beside it stands what hot reductions and products
of both modes share.

Rejected: evaluating a nested partial by NumPy calls one after the other, each recorded by the outer call; as one operation
with partials of its own it takes a fraction of that, and is exact where the pieces are not (`nested_partial`).
"""
cimport cython
from cpython.ref cimport PyObject
from numpy cimport (
    NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_ISBEHAVED_RO, PyArray_ISCONTIGUOUS, PyArray_NDIM, PyArray_SIZE,
    PyArray_STRIDES, PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._context cimport (
    SINGLE, WEAK, Context, Scalar, TrackedArray, check_alive, context_of, has_own_operators, higher, is_active_anywhere,
    is_array, is_complex, is_real_float, is_scalar, is_tracked, object_operand, plain_value, primal_at, real_part,
    refuse_own_operators, run_plain, run_primal, settled, shape_of, unbroadcast, wrap_inactive, unrelated,
)
from cyad._redirect cimport leave, swap_current
from cyad._shadow cimport SMALLEST_KEPT, new_result
from cyad.rules._kernels cimport Row, evaluate_array, multiply_matrices

import numbers
import operator

import numpy as np

from cyad._context import objects_of
from cyad.errors import ActivityError, MissingRuleError
from cyad.rules._kernels import rows_by_name
from cyad.rules.custom import OVERRIDES as _OVERRIDES

import_array()

cdef object f64 = np.float64
cdef object np_matmul = np.matmul
cdef object f32 = np.float32
cdef object _ndarray_ufunc = np.ndarray.__array_ufunc__

cdef Row SIGN = rows_by_name["sign"]


# ---- hooks: what stands on the floors above -------------------------------------------------------------------------

cdef dict OVERRIDES = _OVERRIDES   # NumPy functions that users gave rules
cdef object _overridden = None


def register_overridden(overridden):
    """Told once, by `_primitive`: how a function with an entry in OVERRIDES is called; NotImplemented where no rule applies."""
    global _overridden
    _overridden = overridden


# What a seed of zero contributes: its product with the partial; nothing, even where that is infinite, because the row says so;
# because the user does. The difference is what outer differentiations see (`seed_product`).
cdef enum: WEAK_ZERO, ROW_STRONG, MODE_STRONG

# Which zeros of a strong product count: of a seed that meets the partial of a row with the flag, whose derivatives are finite
# where it is finite and not 0 itself; of any seed; of either factor.
cdef enum: ROW_SEED, ANY_SEED, EITHER


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
    cdef npy_intp dims[64]
    cdef npy_intp nbytes
    cdef int i
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
    ndim = broadcast_dims(x, y, dims)
    nbytes = itemsize
    for i in range(ndim):
        nbytes *= dims[i]
    if row.nin == 2 and nbytes >= SMALLEST_KEPT and ndim >= 0:
        # In kept memory: NumPy need not ask for fresh pages.
        result = new_result(ndim, dims, typenum, itemsize)
        row.ufunc(xn if x is None else x, yn if y is None else y, result)
    elif row.nin == 1:
        result = row.ufunc(x)
    else:
        result = row.ufunc(xn if x is None else x, yn if y is None else y)
    return result if type(result) is np.ndarray and PyArray_TYPE(<ndarray>result) == typenum else None


cdef int broadcast_dims(ndarray x, ndarray y, npy_intp* dims) noexcept:
    """The shape of a result that lies in C order; -1 where it may lie otherwise (as the operands do), or is an error."""
    cdef ndarray a = x if x is not None else y, b = y if y is not None else x
    cdef int i, j, ndim
    if not PyArray_ISCONTIGUOUS(a) or not PyArray_ISCONTIGUOUS(b):
        return -1
    if PyArray_NDIM(a) < PyArray_NDIM(b):
        a, b = b, a
    ndim = PyArray_NDIM(a)
    for i in range(ndim):
        dims[i] = PyArray_DIMS(a)[i]
        j = i - (ndim - PyArray_NDIM(b))
        if j >= 0 and PyArray_DIMS(b)[j] != dims[i]:
            if dims[i] != 1 and PyArray_DIMS(b)[j] != 1:
                return -1
            dims[i] = PyArray_DIMS(b)[j] if dims[i] == 1 else dims[i]
    return ndim


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
    """The same for an operator, of which NumPy says so ("divide by zero encountered in scalar divide").

    Python's own floats raise ZeroDivisionError and OverflowError where NumPy's warn, and negative ones have complex powers.
    """
    if kind == WEAK:
        return _OPERATORS[row.name](x, y)
    scalar_type = f32 if kind == SINGLE else f64
    return _OPERATORS[row.name](scalar_type(x), scalar_type(y))


@cython.final
cdef class PushAll:
    """The pushforward of an operation in all its operands at once."""

    cdef object apply(self, list tangents):
        cdef list full = [None] * self.count
        cdef int i
        for i in range(len(tangents)):
            full[self.active[i]] = tangents[i]
        return self.function(full)


cdef inline bint has_ended(object value) noexcept:
    if is_array(value):
        return not (<TrackedArray>value).ctx.alive
    return is_scalar(value) and not (<Scalar>value).ctx.alive


def after_the_end(Row row, x, y):
    """An operation on values of which some belong to a call that has ended. No C function, which would be inlined."""
    a, b = settled(x), settled(y)
    if a is x and b is y:
        check_alive(higher(context_of(x), context_of(y)))
    return row.ufunc(a) if row.nin == 1 else row.ufunc(a, b)


def between_strangers(Row row, x, y):
    """An operation on values of two calls in two threads, of which one may have filled a cache that the other reads."""
    a, b = settled(x, True), settled(y, True)
    if a is x and b is y:
        higher(context_of(x), context_of(y))
    return row.ufunc(a, b)


cdef object apply(Row row, object x, object y):
    """An elementwise operation of which at least one operand is tracked (`y` is None for unary ones)."""
    cdef Context ctx, other
    cdef PyObject* users
    if has_ended(x) or row.nin == 2 and has_ended(y):
        return after_the_end(row, x, y)
    ctx = context_of(x)
    if row.nin == 2:
        other = context_of(y)
        if other is not ctx and unrelated(ctx, other):
            return between_strangers(row, x, y)
        ctx = higher(ctx, other)
    check_alive(ctx)
    if OVERRIDES and row.ufunc in OVERRIDES:
        own = _overridden(row.ufunc, (x,) if row.nin == 1 else (x, y), {})
        if own is not NotImplemented:
            return own
    users = leave()
    try:
        return ctx.elementwise(row, x, y, NULL)
    finally:
        swap_current(users)


cdef object general_elementwise(Context ctx, Row row, object x, object y):
    """Any operands, by ordinary NumPy calls on their primals."""
    cdef object xp, yp = None, out
    if not is_known(x) or (row.nin == 2 and not is_known(y)):
        return foreign_elementwise(ctx, row, x, y)
    xp = within_64_bits(primal_at(ctx, x))
    if row.nin == 2:
        yp = within_64_bits(primal_at(ctx, y))
        if not row.zero:
            xp, yp = ctx.guard(xp), ctx.guard(yp)
        out = run_primal(ctx, row.ufunc, (xp, yp), {})
    else:
        out = run_primal(ctx, row.ufunc, (xp,), {})
    return link_row(ctx, row, x, y, xp, yp, out)


cdef int refuse(Context ctx, Row row, object x, object y) except -1:
    """MissingRuleError where an operand without a partial (an order, an exponent of two) is active; for rows with a refusal."""
    cdef int k
    for k in range(row.nin):
        if row.partials[k] is None and ctx.is_active(y if k else x):
            raise MissingRuleError(f"{row.name} of an active value: {row.refusal}")
    return 0


cdef bint is_known(object value) except -1:
    """Whether an operand is a number or an array as they are: tracked, NumPy's, Python's."""
    if is_tracked(value) or isinstance(value, (float, int, complex, np.generic)):
        return True
    return type(value) is ndarray and not value.dtype.hasobject


cdef object foreign_elementwise(Context ctx, Row row, object x, object y):
    """Operands of which some is neither a number nor a plain array: what NumPy makes of them, in its order.

    Who implements ufuncs does it; of a subclass of ndarray the memory counts, unless its operators do; what has a number's or an
    array's value is that; any other object decides itself, element by element.
    """
    cdef list given = [x] if row.nin == 1 else [x, y], operands = []
    cdef bint as_objects = False
    for v in given:
        own = None if is_known(v) else getattr(type(v), "__array_ufunc__", _ndarray_ufunc)
        if own is None and not is_known(v):
            raise TypeError(f"operand '{type(v).__name__}' does not support ufuncs (__array_ufunc__=None)")
        if own is not None and own is not _ndarray_ufunc:
            result = own(v, row.ufunc, "__call__", *given)
            if result is not NotImplemented:
                return result
            raise ActivityError(f"{row.name} met tracked values and a {type(v).__name__}, whose __array_ufunc__ does not take "
                                "them; pass its values as an array")
    for v in given:
        if has_own_operators(v):
            if any([is_active_anywhere(u) for u in given]):
                refuse_own_operators(v, row.name)
            return run_plain(row.ufunc, tuple([plain_value(u) for u in given]))
    for v in given:
        if not is_known(v):
            v = valued(v)
        if not is_tracked(v) and not isinstance(v, ndarray) and not is_known(v):
            as_objects = True
        operands.append(v)
    if as_objects:
        return row.ufunc(*[objects_of(v) if is_tracked(v) else v for v in operands])   # in the user's context: his operators run
    return general_elementwise(ctx, row, operands[0], operands[1] if row.nin == 2 else None) if all(map(is_known, operands)) \
        else general_objects(ctx, row, operands)


cdef object general_objects(Context ctx, Row row, list operands):
    """Plain arrays of objects: NumPy's result, where no active value meets them, or by their own operators."""
    if any([isinstance(v, ndarray) and v.dtype.hasobject and not all([isinstance(e, numbers.Number) for e in v.flat])
            for v in operands]):
        return row.ufunc(*[objects_of(v) if is_tracked(v) else v for v in operands])
    out = run_primal(ctx, row.ufunc, tuple([primal_at(ctx, v) for v in operands]), {})
    if any([ctx.is_active(v) for v in operands]) and not row.zero:
        raise ActivityError(f"{row.name} met operands that make an array of objects; give arrays of floats")
    return wrap_inactive(ctx, out)


cdef object valued(object value):
    """A number or an array for what has the value of one; any other object is itself."""
    if isinstance(value, (list, tuple, ndarray)):
        return object_operand(value)
    if isinstance(value, numbers.Real):
        return float(value)
    arr = value.__array__() if hasattr(type(value), "__array__") else run_plain(np.asarray, (value,))
    return arr if is_tracked(arr) or arr.ndim or not arr.dtype.hasobject else value


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
    if row.refusal is not None:
        refuse(ctx, row, x, y)
    strong = strength(row, ctx)
    shape = shape_of(out)
    reads_mask = 0
    for k in range(row.nin):
        operand = y if k else x
        if ctx.is_active(operand):
            push, pull = partial_maps(row, k, xp, yp, out, shape, strong)
            operands.append(operand)
            pushes.append(push)
            pulls.append(pull)
            reads_mask |= (row.reads >> (3 * k)) & 7 if row.holomorphic or not is_complex(plain_value(xp)) else READS_X_AND_OUT
    if reads_mask and ctx.outer is not None:
        reads_mask = 7   # derivatives of a partial may read what the partial does not: of x/o they read y
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


cdef int strength(Row row, Context ctx) noexcept:
    return MODE_STRONG if ctx.strong else ROW_STRONG if row.strong else WEAK_ZERO


cdef tuple partial_maps(Row row, int k, object x, object y, object out, object shape, int strong):
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
    cdef int strong
    cdef bint real_operand
    cdef int zeros   # strong: which zeros count

    cdef object coefficient(self):
        # Evaluated when first needed (a reverse sweep may never get here), once for all lanes.
        if self.value is None:
            self.value = nested_partial(self.partial, self.x, self.y, self.out, self.strong) if self.partial.composed else \
                self.partial.function(self.x, self.y, self.out)
        return self.value

    cdef object weigh(self, object c, object t):
        if type(c) is float and <double>c == 1.0:
            return t
        if self.strong == WEAK_ZERO:
            return c * t
        return strong_product(c, t, self.zeros) if self.strong == ROW_STRONG else seed_product(c, t)

    def push(self, t):
        c = self.weigh(self.coefficient(), t)
        return c if shape_of(c) == self.shape else np.broadcast_to(c, self.shape)

    def pull(self, g):
        c = self.coefficient()
        c = self.weigh(np.conjugate(c) if is_complex(plain_value(c)) else c, g)
        return unbroadcast(real_part(c) if self.real_operand else c, self.operand_shape)


# What the maps below read, whatever the partial of the row does; as bits of row.reads.
cdef enum: READS_X_AND_OUT = 5


cdef object nested_partial(object partial, object x, object y, object out, int strong):
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
            maps.strong, maps.real_operand = MODE_STRONG if ctx.strong else strong, not is_complex(plain_value(v))
            operands.append(v)
            pushes.append(maps.push)
            pulls.append(maps.pull)
            mask |= d.reads
    if not operands:
        return wrap_inactive(ctx, value)
    if mask and ctx.outer is not None:
        mask = 7
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
    flat = plain_value(size) == 0
    return 1j * s * np.where(flat, 0, np.imag(np.conjugate(s) * t) / np.where(flat, 1.0, size))


cdef object _direction(object x, object size):
    """x / |x|, and 0 at 0: also to outer differentiations, as the derivatives of every order of |x| are there."""
    flat = plain_value(size) == 0
    return np.where(flat, 0, x) / np.where(flat, 1.0, size)


cdef object strong_product(object c, object t, int zeros):
    """c * t with 0 wherever t is 0 (EITHER: or c is), whatever the other is: inf or nan.

    What outer differentiations see is a product like any other, also where t happens to be 0. Where a factor or its
    derivatives may not be finite it is an operation of its own: c' t and c t' are products of this kind again.
    """
    cdef Context ctx = higher(context_of(c), context_of(t))
    cdef PyObject* old
    cdef list pushes = [], pulls = [], operands = [], reads = []
    cdef tuple maps
    cdef bint seed
    with np.errstate(all="ignore"):
        if ctx is None:
            return _plain_strong_product(c, t, zeros == EITHER)
        if np.all(np.isfinite(plain_value(c))) and (zeros != EITHER or np.all(np.isfinite(plain_value(t)))):
            dead = np.equal(plain_value(t), 0)
            if zeros == ROW_SEED and np.any(dead):
                dead = dead & np.equal(plain_value(c), 0)
            if not np.any(dead):
                return c * t
    check_alive(ctx)
    # As in nested_partial: memory of this context is restored before it is read.
    cp = primal_at(ctx, c) if context_of(c) is ctx else ctx.guard(c)
    tp = primal_at(ctx, t) if context_of(t) is ctx else ctx.guard(t)
    old = swap_current(<PyObject*>ctx.outer if ctx.outer is not None else NULL)
    try:
        out = strong_product(cp, tp, zeros)
    finally:
        swap_current(old)
    for seed, v, own, other in ((False, c, cp, tp), (True, t, tp, cp)):
        if ctx.is_active(v):
            maps = factor_maps(other, own, shape_of(out), zeros if seed else EITHER)
            operands.append(v)
            pushes.append(maps[0])
            pulls.append(maps[1])
            reads.append(c if seed else t)
    return ctx.link(out, operands, pushes, pulls, (reads, False)) if operands else wrap_inactive(ctx, out)


cpdef object seed_product(object c, object t):
    """The product where the user asks for strong zeros: a seed t of zero that meets an infinite c is cut off. Nothing of it
    has a derivative to outer differentiations either: what they would multiply by c leads into branches not taken.
    """
    dead = np.equal(plain_value(t), 0) & ~np.isfinite(plain_value(c))
    if not np.any(dead) or context_of(c) is None and context_of(t) is None:
        return strong_product(c, t, ANY_SEED)
    if np.ndim(dead) == 0:
        return strong_product(plain_value(c), plain_value(t), ANY_SEED)
    return np.where(dead, 0.0, strong_product(np.where(dead, 0.0, c), t, ANY_SEED))


cdef tuple factor_maps(object factor, object operand, object shape, int zeros):
    """The maps of a strong product in one factor, given the other."""
    cdef PartialMaps maps = PartialMaps.__new__(PartialMaps)
    maps.value, maps.shape, maps.operand_shape = factor, shape, shape_of(operand)
    maps.strong, maps.zeros, maps.real_operand = ROW_STRONG, zeros, not is_complex(plain_value(operand))
    return maps.push, maps.pull


cdef object _plain_strong_product(object c, object t, bint both):
    out = c * t
    zero = np.equal(t, 0) | np.equal(c, 0) if both else np.equal(t, 0)
    if np.ndim(out) == 0:
        return out if out == out or not zero else t if t == 0 else c
    return np.where(zero, 0.0, out) if np.any(zero) else out


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
