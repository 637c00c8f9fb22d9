"""How a call of a NumPy function on tracked values finds its rule.

A ufunc: by its row in the elementwise table, with `out=`, `where=`, `dtype=` and the methods (`reduce`, `at` ...) on top. Any other
function: one of the special ones at the end of this file (functions about memory rather than values), a structural
rule, a zero derivative, or else it is a composite: its own Python implementation runs on tracked values, with tracked creation
inside. What none of these serves raises MissingRuleError; absence never means zero.
"""
from cpython.ref cimport PyObject
from numpy cimport (
    NPY_DOUBLE, NPY_FLOAT, PyArray_DIMS, PyArray_ISCONTIGUOUS, PyArray_ISNOTSWAPPED, PyArray_ITEMSIZE, PyArray_NDIM,
    PyArray_TYPE, import_array, ndarray, npy_intp,
)

from cyad._context cimport (
    Context, Py_EnterRecursiveCall, Py_LeaveRecursiveCall, Scalar, TrackedArray, all_plain, as_number, check_alive,
    check_conflict, context_among, context_of, has_own_operators, higher, is_active_anywhere, is_array, is_scalar,
    is_tracked, leaves_of, object_operand, own_copy, plain_value, primal_at, primals_of, refuse_own_operators,
    run_plain, run_primal, settled, wrap_inactive, wrap_new, wrap_view, unrelated,
)
from cyad._elementwise cimport PushAll, apply, link_row, partial_maps, strength, within_64_bits
from cyad._redirect cimport enter, leave, redirect_native, register_dispatcher_handler, register_ufunc_handler, swap_current
from cyad._shadow cimport new_result
from cyad._tracked cimport derived_view, is_basic, own_key, plain_key, shares
from cyad.rules._kernels cimport Row, lookup

import cmath
import functools
import inspect
import math
import operator
import types

import numpy as np

from cyad._context import UnrelatedCallsError, objects_of, stack_nested
from cyad._elementwise import register_overridden
from cyad._tracked import register_dispatch
from cyad.errors import ActiveStoreError, ActivityError, EscapedValueError, MissingRuleError
from cyad.rules import classification, registry
from cyad.rules.custom import OVERRIDES as _OVERRIDES
from cyad.rules.shapes import kind_of
from cyad.rules._kernels import rows_by_name

import_array()

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept


# ---- rules of users --------------------------------------------------------------------------------------------------

# NumPy functions that users gave rules (`_primitive`); these come before all that follows.
cdef dict OVERRIDES = _OVERRIDES
cdef object _overridden = None


def register_custom(overridden):
    """Told once, by `_primitive`: how a function with an entry in OVERRIDES is called; NotImplemented where no rule applies."""
    global _overridden
    _overridden = overridden
    register_overridden(overridden)


def bottom(value):
    """What rules see of a duck array when they choose their method."""
    return plain_value(value)


registry.plain = bottom


# ---- ufuncs ----------------------------------------------------------------------------------------------------------

cdef object multiple_outputs(object ufunc, Row row, object x, object y):
    """A ufunc of several results: each follows the row that the table names for it."""
    cdef Context ctx = context_among((x, y))
    cdef Row follows
    check_alive(ctx)
    xp, yp = primal_at(ctx, x), primal_at(ctx, y)
    if row.nin == 2:
        xp, yp = ctx.guard(xp), ctx.guard(yp)
    results = run_primal(ctx, ufunc, (xp, yp) if row.nin == 2 else (xp,), {})
    return tuple([link_row(ctx, follows, x, y, xp, yp, out) for follows, out in zip(row.outputs, results)])


cdef object apply_ufunc(object ufunc, object method, tuple inputs, dict kwargs):
    """A ufunc of which some argument is tracked, with all that a ufunc call may have."""
    cdef PyObject* users = leave()
    try:
        return _apply_ufunc(ufunc, method, inputs, kwargs)
    except (EscapedValueError, UnrelatedCallsError):
        again = of_now(inputs, kwargs)
        if again is None:
            raise
    finally:
        swap_current(users)
    return getattr(ufunc, method)(*again[0], **again[1])


cdef tuple of_now(object args, dict kwargs):
    """Arguments in which values of ended calls, and of other threads', that never were active are plain; None where there are none."""
    plain, keywords = settled(args, True), {k: settled(v, True) for k, v in kwargs.items()}
    return (plain, keywords) if plain is not args or any([keywords[k] is not kwargs[k] for k in kwargs]) else None


cdef object _apply_ufunc(object ufunc, object method, tuple inputs, dict kwargs):
    cdef Row row
    cdef object out = kwargs.get("out")
    if method == "at":
        return _ufunc_at(ufunc, *inputs)
    if method != "__call__":
        return _ufunc_method(ufunc, method, inputs, kwargs)
    inputs = tuple([object_operand(v) if type(v) is list or type(v) is tuple and leaves_of(v, {}) else v for v in inputs])
    if len(inputs) > ufunc.nin:
        out = inputs[ufunc.nin:]
        inputs = inputs[:ufunc.nin]
        kwargs = dict(kwargs, out=out)
    if out is not None and type(out) is not tuple:
        out = (out,)
    if out is not None and out[0] is Ellipsis:
        # NumPy: the result as an array, also where it would be a number.
        return as_array(apply_ufunc(ufunc, "__call__", inputs, {k: v for k, v in kwargs.items() if k != "out"}))
    if out is not None and any([o is not None for o in out]):
        return _ufunc_into(ufunc, inputs, kwargs, out)
    row = lookup(ufunc)
    if kwargs and (row is not None or registry.lookup(ufunc) is not None):
        return _ufunc_with_options(ufunc, inputs, kwargs)
    if OVERRIDES and ufunc in OVERRIDES:
        own = _overridden(ufunc, inputs, kwargs)
        if own is not NotImplemented:
            return own
    if row is None or row.nin > 2:
        rule = registry.lookup(ufunc)
        if rule is MATMUL_RULE and rule is not None and not kwargs:
            fast = fast_product(inputs[0], inputs[1])
            if fast is not None:
                return fast
        if rule is not None:
            return structural(rule, ufunc, inputs, kwargs)
        if registry.is_zero(ufunc) or not any([is_active_anywhere(v) for v in inputs]):
            ctx = context_among(inputs)
            return wrap_inactive(ctx, run_primal(ctx, ufunc, tuple([primal_at(ctx, v) for v in inputs]), kwargs))
        if ufunc.types == ["O" * ufunc.nin + "->" + "O" * ufunc.nout]:
            # np.frompyfunc: Python code on each number, and an array of what it returns.
            return run_plain(ufunc, tuple([objects_of(v) if is_tracked(v) else v for v in inputs]))
        reason = classification.reason_of(ufunc)
        if reason is not None:
            raise MissingRuleError(f"{ufunc.__name__} of an active value: {reason}")
        raise MissingRuleError(
            f"no rule says what the derivative of {ufunc.__name__} is; register one (cyad.rules), "
            "or call it through cyad.inactive if none is wanted")
    if len(inputs) != row.nin:
        raise TypeError(f"{ufunc.__name__}() takes from {ufunc.nin} to {ufunc.nargs} positional arguments but "
                        f"{len(inputs)} were given")
    y = inputs[1] if row.nin == 2 else None
    return apply(row, inputs[0], y) if row.nout == 1 else multiple_outputs(ufunc, row, inputs[0], y)


# What ndarray.__imatmul__ says of the axes, which is what they are anyway.
_OWN_AXES = ([(-2, -1), (-2, -1), (-2, -1)], [(-1,), (-2, -1), (-1,)])


cdef object _ufunc_with_options(object ufunc, tuple inputs, dict kwargs):
    """dtype=, casting=, where= and the like."""
    kwargs = dict(kwargs)
    kwargs.pop("out", None)
    where = kwargs.pop("where", True)
    target = kwargs.pop("dtype", None)
    signature = kwargs.pop("signature", kwargs.pop("sig", None))
    casting = kwargs.pop("casting", "same_kind")
    kwargs.pop("order", None)
    kwargs.pop("subok", None)
    if where is not True:
        # NumPy warns of this, too.
        run_plain(functools.partial(ufunc, where=plain_value(where)), tuple([plain_value(v) for v in inputs]))
        if not np.all(plain_value(where)):
            raise ActivityError(f"{ufunc.__name__}(where=...) leaves the rest of a new array undefined; give out= as well")
    if signature is not None:
        types = signature.replace("->", "") if isinstance(signature, str) else signature
        if isinstance(types, str) or len(types) != 1:
            types = [None if t is None else dtype_of(t) for t in types] + [None] * (ufunc.nargs - len(types))
            if all([t is None for t in types[:ufunc.nin]]):
                target = types[ufunc.nin]
            inputs = tuple([v if t is None else checked_cast(ufunc, v, t, casting) for v, t in zip(inputs, types)])
        else:
            target = types[0]
    if target is not None:
        target = dtype_of(target)
        inputs = tuple([checked_cast(ufunc, v, target, casting) for v in inputs])
    if ufunc is np_matmul and kwargs.get("axes") in _OWN_AXES:
        kwargs.pop("axes")
    if kwargs and not any([is_active_anywhere(v) for v in inputs]):
        ctx = context_among(inputs)
        return wrap_inactive(ctx, run_primal(ctx, ufunc, tuple([primal_at(ctx, v) for v in inputs]), kwargs))
    rule = registry.lookup(ufunc)
    if kwargs and rule is not None and set(kwargs) <= rule.parameters:
        return structural(rule, ufunc, inputs, kwargs)
    if kwargs:
        raise MissingRuleError(f"{ufunc.__name__} of an active value has no derivative with {', '.join(kwargs)}=; move the "
                               "axes of the operands before the call (np.moveaxis)")
    return apply_ufunc(ufunc, "__call__", inputs, {})


cdef object dtype_of(object given):
    """NumPy's own code asks by the class of a dtype, which np.dtype would take for a Python object's."""
    return given() if isinstance(given, type) and issubclass(given, np.dtype) else np.dtype(given)


cdef object checked_cast(object ufunc, object value, object dtype, object casting):
    own = getattr(value, "dtype", None)
    if own is not None and not np.can_cast(own, dtype, casting):
        raise TypeError(f"Cannot cast ufunc '{ufunc.__name__}' input from {own!r} to {dtype!r} with casting rule "
                        f"'{casting}'")
    return cast(value, dtype)


cdef object as_array(object value):
    """A number as an array without axes."""
    if isinstance(value, np.ndarray):
        return value
    return stack_nested([value], None)[0:1].reshape(()) if is_tracked(value) else np.asarray(value)


cdef object cast(object value, object dtype):
    return value.astype(dtype) if hasattr(value, "astype") else dtype.type(value)


cdef object _ufunc_into(object ufunc, tuple inputs, dict kwargs, tuple out):
    """out=, also with where=: the result is computed, then stored as `target[where] = result`."""
    kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    where = kwargs.pop("where", True)
    casting = kwargs.get("casting", "same_kind")
    if not leaves_of(inputs, {}):
        where = where if where is True else plain_value(where)
        return into_tracked(ufunc, inputs, {**kwargs, "out": out, **({} if where is True else {"where": where})}, -1, where)
    if where is not True:
        # NumPy computes nothing where the mask is off; neither may we, or the plain run's silence turns into warnings.
        mask = np.broadcast_to(plain_value(where), np.broadcast_shapes(
            *[np.shape(v) for v in inputs], np.shape(plain_value(where)), *[np.shape(o) for o in out if o is not None]))
        picked = tuple([np.broadcast_to(v, mask.shape)[mask] if np.ndim(v) else v for v in inputs])
        results = apply_ufunc(ufunc, "__call__", picked, kwargs)
    else:
        mask = None
        results = apply_ufunc(ufunc, "__call__", inputs, kwargs)
    if type(results) is not tuple:
        results = (results,)
    returned = []
    for target, result in zip(out, results):
        if target is None:
            returned.append(result)
            continue
        if not is_array(target) and is_active_anywhere(result):
            raise ActiveStoreError(
                f"{ufunc.__name__}(out=...) would store active values into a plain array, which cannot carry their "
                "derivative; allocate it inside the differentiated function")
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
    if is_scalar(a):
        raise TypeError("first operand must be array")
    if not is_array(a):
        if any([is_active_anywhere(v) for v in values]):
            raise ActiveStoreError(f"{ufunc.__name__}.at would store active values into a plain array; "
                                   "allocate it inside the differentiated function")
        return ufunc.at(a, indices, *[plain_value(v) for v in values])
    cdef TrackedArray t = <TrackedArray>a
    check_alive(t.ctx)
    check_conflict(t.place.buf)
    indices = own_key(plain_key(indices))
    # A view that names an element twice (a broadcast one) adds to it twice; basic indices alone do not repeat.
    if is_basic(indices) and not (t.place.overlaps and (ufunc is np.add or ufunc is np.subtract)):
        a[indices] = ufunc(a[indices], *values)
        return
    if ufunc is np.add:
        t.ctx.add_at(t, indices, values[0])
        return
    if ufunc is np.subtract:
        t.ctx.add_at(t, indices, -values[0] if is_tracked(values[0]) else np.negative(values[0]))
        return
    # Rounds in which no element comes twice: as many as the most frequent one has turns.
    positions = positions_of(t.arr, indices)
    turns = turns_of(positions.reshape(-1)).reshape(positions.shape)
    value = np.broadcast_to(values[0], positions.shape) if values else None
    for turn in range(turns.max(initial=-1) + 1):
        chosen = turns == turn
        where = np.unravel_index(positions[chosen], t.place.shape_tuple())
        a[where] = ufunc(a[where], value[chosen]) if values else ufunc(a[where])


cdef object positions_of(object arr, object indices):
    """Where the elements that an index picks are, counted in C order; work in proportion to what is picked."""
    cdef object key = indices if type(indices) is tuple else (indices,)
    if len(key) == arr.ndim and all([type(k) is list or isinstance(k, (int, np.ndarray, np.integer)) for k in key]):
        axes = run_plain(np.broadcast_arrays, tuple(key))
        if all([k.dtype.kind in "iu" for k in axes]):
            arr[indices]    # NumPy's error for an index out of bounds
            return np.ravel_multi_index([np.where(k < 0, k + n, k) for k, n in zip(axes, arr.shape)], arr.shape)
    return np.arange(arr.size).reshape(arr.shape)[indices]


cdef object turns_of(object positions):
    """For each entry, how often its value has come before."""
    order = np.argsort(positions, kind="stable")
    ordered = positions[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1]))) if ordered.size else ordered
    turns = np.empty_like(positions)
    turns[order] = np.arange(ordered.size) - np.repeat(starts, np.diff(np.append(starts, ordered.size)))
    return turns


cdef dict _METHOD_PARAMETERS = {
    "reduce": ("axis", "dtype", "out", "keepdims", "initial", "where"),
    "accumulate": ("axis", "dtype", "out"),
    "reduceat": ("axis", "dtype", "out"),
}


cdef object _ufunc_method(object ufunc, object method, tuple inputs, dict kwargs):
    """reduce, accumulate, reduceat, outer."""
    cdef Row row = lookup(ufunc)
    cdef int lead = 2 if method == "reduceat" else 1
    cdef object own
    if method == "outer":
        return _outer(ufunc, *inputs, **kwargs)
    if method == "reduce" and len(inputs) == 1 and is_array(inputs[0]):
        own = _REDUCES.get(ufunc)
        if own is not None and registry.lookup((ufunc, method)) is own[0]:
            fast = fast_reduction(own[1], own[2], (inputs[0],), kwargs if "axis" in kwargs else {**kwargs, "axis": 0})
            if fast is not None:
                return fast
    kwargs = dict(kwargs)
    if "array" in kwargs:
        inputs = (kwargs.pop("array"), *inputs)
    if "indices" in kwargs:
        inputs = (inputs[0], kwargs.pop("indices"), *inputs[1:])
    kwargs.update(zip(_METHOD_PARAMETERS[method], inputs[lead:]))
    if is_only_tracked(inputs[:lead], kwargs, -1):
        return into_tracked(getattr(ufunc, method), inputs[:lead], kwargs, -1)
    inputs = (as_array(object_operand(inputs[0])), *inputs[1:lead])
    if kwargs.get("dtype") is not None:
        kwargs["dtype"] = dtype_of(kwargs["dtype"])
    rule = registry.lookup((ufunc, method))
    if rule is not None:
        return dispatch_rule(rule, ufunc, inputs, kwargs)
    out = kwargs.pop("out", None)
    if out is not None:
        out = out[0] if type(out) is tuple else out
        result = _ufunc_method(ufunc, method, inputs, kwargs)
        return as_array(result) if out is Ellipsis else store_out(ufunc, result, out)
    if not any([is_active_anywhere(v) for v in leaves_of(inputs, kwargs)]) or row is not None and row.zero:
        ctx = context_among(leaves_of(inputs, kwargs))
        return wrap_inactive(ctx, run_primal(ctx, getattr(ufunc, method), primals_of(ctx, inputs),
                                             {k: primals_of(ctx, v) for k, v in kwargs.items()}))
    if row is None or row.nin != 2 or row.nout != 1:
        raise MissingRuleError(f"no rule says what the derivative of {ufunc.__name__}.{method} is; "
                               "write the loop out, or register a rule (cyad.rules)")
    # NumPy's own errors: axes, dtypes, and ufuncs that allow no other order.
    getattr(ufunc, method)(*all_plain(inputs), **{k: all_plain(v) for k, v in kwargs.items()})
    return _FOLDS[method](ufunc, *inputs, **kwargs)


def _outer(ufunc, x, y, **kwargs):
    x, y = object_operand(x), object_operand(y)
    if np.ndim(x) and np.ndim(y):
        x = np.reshape(x, np.shape(x) + (1,) * np.ndim(y))
    return ufunc(x, y, **kwargs)


def _reduce(ufunc, a, axis=0, dtype=None, keepdims=False, initial=np._NoValue, where=True):
    """Any binary ufunc that has a row, one slice after the other."""
    a = a if dtype is None else a.astype(dtype)
    axes = tuple(range(a.ndim)) if axis is None else axis if type(axis) is tuple else (axis,)
    axes = tuple([operator.index(k) % a.ndim for k in axes])
    kept = [k for k in range(a.ndim) if k not in axes]
    rows = np.transpose(a, (*axes, *kept)).reshape(-1, *[a.shape[k] for k in kept])
    if initial is np._NoValue or initial is None:
        initial = None if where is True else ufunc.identity
    if where is not True:
        where = np.transpose(np.broadcast_to(plain_value(where), a.shape), (*axes, *kept)).reshape(rows.shape)
        total = np.full_like(rows[0], initial) if kept else initial
        for i in range(len(rows)):
            if kept:
                ufunc(total, rows[i], out=total, where=where[i])
            elif where[i]:
                total = ufunc(total, rows[i])
    else:
        total = initial
        for i in range(len(rows)):
            total = rows[i] if total is None else ufunc(total, rows[i])
    return np.expand_dims(total, axes) if keepdims else total


def _accumulate(ufunc, a, axis=0, dtype=None):
    a = a if dtype is None else a.astype(dtype)
    out = np.empty_like(a)
    rows, done = np.moveaxis(a, axis, 0), np.moveaxis(out, axis, 0)
    total = None
    for i in range(len(rows)):
        total = rows[i] if total is None else ufunc(total, rows[i])
        done[i] = total
    return out


def _reduceat(ufunc, a, indices, axis=0, dtype=None):
    """NumPy: from each index to the next, or the element there if the next is not larger."""
    a = a if dtype is None else a.astype(dtype)
    indices = [int(i) for i in np.asarray(plain_value(indices))]
    like = run_plain(np.logical_or.reduceat, (plain_value(a), indices, axis))   # how NumPy would lay out the result
    axes = sorted(range(like.ndim), key=lambda i: -like.strides[i])
    out = np.empty_like(a, order="C", shape=[like.shape[i] for i in axes]).transpose(np.argsort(axes))
    rows, done = np.moveaxis(a, axis, 0), np.moveaxis(out, axis, 0)
    for k, (i, j) in enumerate(zip(indices, [*indices[1:], len(rows)])):
        done[k] = ufunc.reduce(rows[i:j]) if i < j else rows[i]
    return out


cdef dict _FOLDS = {"reduce": _reduce, "accumulate": _accumulate, "reduceat": _reduceat}


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
    for leaf in leaves:
        if not (is_tracked(leaf) or type(leaf) is ndarray or leaf is None or isinstance(leaf, (float, int))) and is_foreign(leaf):
            if any([is_active_anywhere(v) for v in leaves]):
                refuse_foreign(leaf, _name_of(func))
            return run_plain(functools.partial(func, **{k: all_plain(v) for k, v in kwargs.items()}), all_plain(tuple(args)))
    leaves = [leaf if is_tracked(leaf) else object_operand(leaf) for leaf in leaves]
    ctx = context_among(leaves)
    if ctx is None:
        ctx = context_among(leaves_of(args, kwargs))
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
        # Maps may compute weights right away: values of the next level out, like the result.
        push, pull = run_primal(ctx, linear, (k,), {})
        if ctx.strong and func in PRODUCTS:
            push, pull = run_primal(ctx, strong_product_maps, (rule, args, kwargs, k, push, pull), {})
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


cdef bint is_foreign(object value) except -1:
    """Whether an operand means something else to NumPy than the array of its values."""
    if has_own_operators(value):
        return True
    if value is np._NoValue or isinstance(value, (ndarray, list, tuple, complex, np.generic)) or hasattr(type(value), "__array__"):
        return False
    plain = run_plain(np.asarray, (value,))
    return plain.ndim == 0 and plain.dtype.hasobject


cdef int refuse_foreign(object value, object name) except -1:
    if has_own_operators(value):
        refuse_own_operators(value, name)
    if type(value).__module__.startswith("scipy.sparse"):
        raise MissingRuleError(f"{name} of active values and a matrix of scipy.sparse, which is no array to NumPy; use its "
                               "array of values (A.data), A.toarray(), or give the function that uses it a rule")
    raise MissingRuleError(f"{name} of active values and a {type(value).__name__}, which is no array and no number")


# Sums of products of entries of their operands: in these, strong zeros count entry by entry.
cdef frozenset PRODUCTS = frozenset([f for f in (
    np.matmul, np.dot, np.inner, np.outer, np.tensordot, np.vdot, np.convolve, np.correlate, np.einsum, np.vecdot,
    getattr(np, "matvec", None), getattr(np, "vecmat", None)) if f is not None])


def strong_product_maps(rule, args, kwargs, k, push, pull):
    """The maps of a product in its k-th operand in which a seed of zero contributes nothing, whatever it is multiplied by.

    Where other operands hold inf or nan, these are taken out; what they contribute is found by products of masks, which
    tell where one of them meets a seed that is not zero.
    """
    leaves = rule.locate(args, kwargs)
    good = [np.isfinite(plain_value(v)) if i != k and kind_of(plain_value(v)) in "fc" else None for i, v in enumerate(leaves)]
    wrong = [i for i in range(len(leaves)) if good[i] is not None and not np.all(good[i])]
    if not wrong:
        return push, pull
    signed = len(leaves) == 2 and not any([np.iscomplexobj(plain_value(v)) for v in leaves])

    def maps(values):
        changed, named = rule.replace(args, kwargs, values)
        return rule.fn(*changed, **named)[1](k)

    def number(mask, v):
        """The mask in the dtype of v, so that the maps meet what they expect."""
        mask = np.asarray(mask, getattr(plain_value(v), "dtype", np.float64))
        return mask if mask.ndim else mask[()]

    finite = maps([v if i not in wrong else np.where(good[i], v, 0) if np.ndim(v) else number(False, v)
                   for i, v in enumerate(leaves)])
    masked = []      # (maps of a mask, the sign of what it stands for; 0 for nan)
    for i in wrong:
        value = plain_value(leaves[i])
        kinds = ((value == np.inf, 1), (value == -np.inf, -1), (value != value, 0)) if signed else ((~good[i], 0),)
        for mask, sign in kinds:
            if np.any(mask):
                masked.append((maps([plain_value(v) if j == k else number(mask if j == i else plain_value(v) != 0, v)
                                     for j, v in enumerate(leaves)]), sign))

    def counted(which):
        def strong(seed):
            plain = plain_value(seed)
            total = finite[which](seed)
            for both, sign in masked:
                for part, way in ((plain > 0, sign), (plain < 0, -sign)) if sign else ((plain != 0, 0),):
                    if np.any(part):
                        met = np.real(both[which](number(part, seed))) > 0
                        if np.any(met):
                            total = total + number(np.where(met, way * np.inf if way else np.nan, 0.0), total)
            return total
        return strong
    return counted(0), counted(1)


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
    position = rule.out_position
    if position is not None and position < len(args):
        out = args[position]
        args = (*args[:position], None, *args[position + 1:])
    if "out" in kwargs:
        kwargs = {k: v for k, v in kwargs.items() if k != "out"}
    for name in kwargs:
        if name not in rule.parameters:
            raise MissingRuleError(f"the rule of {_name_of(func)} takes no {name}=")
    if type(out) is tuple:
        out = out[0]
    result = structural(rule, func, args, kwargs)
    if out is None:
        return result
    return as_array(result) if out is Ellipsis else store_out(func, result, out)


cdef object store_out(object func, object result, object out):
    """Stores a result into the array that was given for it."""
    if not is_array(out):
        if is_active_anywhere(result):
            raise ActiveStoreError(f"{_name_of(func)}(out=...) would store active values into a plain array; "
                                   "allocate it inside the differentiated function")
        result = plain_value(result)
    if np.shape(result) != np.shape(out):
        raise ValueError(f"output array of shape {np.shape(out)} does not match the result's {np.shape(result)}")
    dtype = getattr(result, "dtype", np.dtype(type(result)))
    if not np.can_cast(dtype, out.dtype, "same_kind"):
        raise TypeError(f"Cannot cast the result of {_name_of(func)} from {dtype!r} to {out.dtype!r} with casting rule "
                        "'same_kind'")
    out[...] = result
    return out


# Rules that a context serves by itself on plain memory; a rule that a user puts in their place is found instead.
cdef object np_mean = np.mean, np_dot = np.dot, np_matmul = np.matmul, np_reshape = np.reshape
cdef object np_take = np.take, TAKE_RULE = registry.lookup(np.take)
cdef object np_concatenate = np.concatenate, CONCATENATE_RULE = registry.lookup(np.concatenate)
cdef object DOT_RULE = registry.lookup(np.dot), MATMUL_RULE = registry.lookup(np.matmul)
cdef dict _REDUCTIONS = {   # function -> its rule, and the reduction that NumPy itself does (None for sum and mean)
    np.sum: (registry.lookup(np.sum), None), np.mean: (registry.lookup(np.mean), None),
    np.max: (registry.lookup(np.max), np.maximum.reduce), np.amax: (registry.lookup(np.amax), np.maximum.reduce),
    np.min: (registry.lookup(np.min), np.minimum.reduce), np.amin: (registry.lookup(np.amin), np.minimum.reduce),
}

cdef dict _REDUCES = {   # ufunc -> the rule of its reduction, the function that does the same, and as above
    np.add: (registry.lookup((np.add, "reduce")), np.sum, None),
    np.maximum: (registry.lookup((np.maximum, "reduce")), np.max, np.maximum.reduce),
    np.minimum: (registry.lookup((np.minimum, "reduce")), np.min, np.minimum.reduce),
}


cdef object fast_reduction(object func, object reduce, object args, object kwargs):
    """A reduction over axes, with nothing else asked for; None for the general path."""
    cdef TrackedArray a = <TrackedArray>args[0]
    cdef bint keepdims = False
    axis = args[1] if len(args) == 2 else None
    for key, value in kwargs.items():
        if key == "axis" and len(args) == 1:
            axis = value
        elif key == "keepdims" and type(value) is bool:
            keepdims = value
        elif not (key == "out" and value is None) and not (key == "dtype" and value is None):
            return None
    if not a.ctx.alive:
        return None
    if reduce is None:
        return a.ctx.total(a, axis, keepdims, func is np_mean)
    return a.ctx.extremum(a, reduce, axis, keepdims)


cdef object fast_product(object a, object b):
    cdef Context ctx, other
    if is_array(a) and not (<TrackedArray>a).ctx.alive or is_array(b) and not (<TrackedArray>b).ctx.alive:
        return None
    ctx, other = context_of(a), context_of(b)
    if unrelated(ctx, other):
        return None
    ctx = higher(ctx, other)
    return None if ctx is None else ctx.product(a, b)   # None: lists that hold tracked numbers


cdef object fast_concatenate(object parts, object axis):
    """Part after part into fresh memory: a store knows what to do, all lanes at once. None for the general path."""
    cdef Context ctx = None
    cdef TrackedArray a, out
    cdef ndarray arr, first = None
    cdef npy_intp dims[64]
    cdef npy_intp length = 0, start = 0
    cdef int i, k = 0
    if (type(parts) is not list and type(parts) is not tuple) or type(axis) is not int:
        return None
    for part in parts:
        if is_array(part):
            a = <TrackedArray>part
            if not a.plain or a.boxed or (ctx is not None and a.ctx is not ctx):
                return None
            ctx = a.ctx
            arr = a.arr
        elif type(part) is ndarray:
            arr = part
        else:
            return None
        if first is None:
            first = arr
            if not (PyArray_TYPE(first) == NPY_DOUBLE or PyArray_TYPE(first) == NPY_FLOAT) or PyArray_NDIM(first) == 0:
                return None
            k = axis + PyArray_NDIM(first) if axis < 0 else axis
            if not 0 <= k < PyArray_NDIM(first):
                return None
            for i in range(PyArray_NDIM(first)):
                dims[i] = PyArray_DIMS(first)[i]
        if PyArray_TYPE(arr) != PyArray_TYPE(first) or PyArray_NDIM(arr) != PyArray_NDIM(first) or not PyArray_ISNOTSWAPPED(arr):
            return None
        if PyArray_NDIM(arr) > 1 and not PyArray_ISCONTIGUOUS(arr):
            return None   # then the result need not lie in C order
        for i in range(PyArray_NDIM(first)):
            if i != k and PyArray_DIMS(arr)[i] != dims[i]:
                return None
        length += PyArray_DIMS(arr)[k]
    if ctx is None or not ctx.alive:
        return None
    dims[k] = length
    out = wrap_new(ctx, new_result(PyArray_NDIM(first), dims, PyArray_TYPE(first), PyArray_ITEMSIZE(first)))
    before = (slice(None),) * k
    for part in parts:
        arr = (<TrackedArray>part).arr if is_array(part) else part
        piece = (<object>out.arr)[(*before, slice(start, start + PyArray_DIMS(arr)[k]))]
        start += PyArray_DIMS(arr)[k]
        if is_array(part) and (<TrackedArray>part).place.buf.active:
            ctx.store(wrap_view(out, piece), part)
        else:
            piece[...] = arr
    return out


def take_few(a, indices, axis=None, out=None, mode="raise"):
    """np.take of a small part as an index: its transpose touches no more than that. None where the rule shall do it."""
    cdef TrackedArray t = <TrackedArray>a
    if t.boxed or out is not None or mode != "raise":
        return None
    where = run_plain(np.asarray, (plain_value(indices),))
    if where.dtype.kind not in "iu" or not 2 * where.size < (t.size if axis is None else t.shape[axis]):
        return None
    if axis is None:
        return a[where] if t.ndim == 1 else a.flat[where]
    return a[(slice(None),) * (axis % t.ndim) + (where,)]


cdef object dispatch(object func, object args, object kwargs):
    """A NumPy function of which some argument is tracked: special, by rule, of zero derivative, or composite."""
    cdef PyObject* users = leave()
    try:
        return dispatch_ours(func, args, kwargs)
    finally:
        swap_current(users)


cdef object dispatch_ours(object func, object args, object kwargs):
    cdef object fast = None
    cdef object own
    if OVERRIDES and func in OVERRIDES:
        fast = _overridden(func, args, kwargs)
        if fast is not NotImplemented:
            return fast
        fast = None
    own = _REDUCTIONS.get(func)
    if own is not None:
        if 1 <= len(args) <= 2 and is_array(args[0]) and registry.lookup(func) is own[0]:
            fast = fast_reduction(func, own[1], args, kwargs)
    elif func is np_reshape and len(args) == 2 and not kwargs and is_array(args[0]) and registry.lookup(func) is None:
        return args[0].reshape(args[1])
    elif func is np_dot and len(args) == 2 and not kwargs and registry.lookup(func) is DOT_RULE:
        fast = fast_product(args[0], args[1])
    elif func is np_concatenate and registry.lookup(func) is CONCATENATE_RULE:
        if len(args) == 1 and not kwargs:
            fast = fast_concatenate(args[0], 0)
        elif len(args) == 2 and not kwargs or len(args) == 1 and len(kwargs) == 1 and "axis" in kwargs:
            fast = fast_concatenate(args[0], args[1] if len(args) == 2 else kwargs["axis"])
    elif func is np_take and len(args) >= 2 and is_array(args[0]) and registry.lookup(func) is TAKE_RULE:
        fast = take_few(*args, **kwargs)
    if fast is not None:
        return fast
    try:
        return dispatch_in_full(func, args, kwargs)
    except (EscapedValueError, UnrelatedCallsError):
        again = of_now(args, kwargs)
        if again is None:
            raise
    return func(*again[0], **again[1])


cdef object dispatch_in_full(object func, object args, object kwargs):
    cdef Context ctx
    cdef PyObject* old
    cdef Py_ssize_t place
    if not (args and is_tracked(args[0])) and (kwargs.get("out") is not None or len(args) > 1):
        place = -1 if kwargs.get("out") is not None else place_of_out(func)
        if is_only_tracked(args, kwargs, place):
            return into_tracked(func, tuple(args), kwargs, place)
    special = _SPECIAL.get(func)
    if special is not None:
        return special(*args, **kwargs)
    rule = registry.lookup(func)
    if rule is not None:
        return dispatch_rule(rule, func, args, kwargs)
    implementation = getattr(func, "_implementation", None)
    ctx = context_among(leaves_of(args, kwargs))
    if ctx is None and getattr(func, "__name__", None) in classification.CREATION:
        return func(*args, **kwargs)   # like=x, which NumPy has taken out: what is made here is like x
    check_alive(ctx)
    if registry.is_zero(func):
        return without_derivative(ctx, func, args, kwargs)
    reason = classification.reason_of(func) if implementation is not None else None
    if reason is not None and any([is_active_anywhere(v) for v in leaves_of(args, kwargs)]):
        raise MissingRuleError(f"np.{classification.name_of(func)} of an active value: {reason}")
    if implementation is None or isinstance(implementation, types.BuiltinFunctionType):
        if any([is_active_anywhere(v) for v in leaves_of(args, kwargs)]):
            raise MissingRuleError(
                f"no rule says what the derivative of {_name_of(func)} is; register one (cyad.rules), "
                "or call it through cyad.inactive if none is wanted")
        return without_derivative(ctx, func, args, kwargs)
    old = enter(<PyObject*>ctx)
    try:
        return implementation(*args, **kwargs)
    finally:
        swap_current(old)


cdef bint is_only_tracked(object args, dict kwargs, Py_ssize_t place) except -1:
    """Whether `out` is the one tracked argument of a call; it is args[place], or a keyword where `place` is negative."""
    if place >= len(args):
        return False
    out = args[place] if place >= 0 else kwargs.get("out")
    if type(out) is not tuple:
        out = (out,)
    if not any([is_tracked(o) for o in out]):
        return False
    args = (*args[:place], *args[place + 1:]) if place >= 0 else args
    return not leaves_of(args, kwargs if place >= 0 else {k: v for k, v in kwargs.items() if k != "out"})


cdef object into_tracked(object func, tuple args, dict kwargs, Py_ssize_t place, object mask=True):
    """A call of which `out` alone is tracked: NumPy's own, into plain memory, which is then stored; no derivative is left."""
    out = args[place] if place >= 0 else kwargs["out"]
    targets = out if type(out) is tuple else (out,)
    plain = tuple([own_copy((<TrackedArray>t).arr) if is_array(t) and not (<TrackedArray>t).boxed else plain_value(t)
                   for t in targets])
    given = plain if type(out) is tuple else plain[0]
    result = run_plain(functools.partial(func, **(kwargs if place >= 0 else {**kwargs, "out": given})),
                       args if place < 0 else (*args[:place], given, *args[place + 1:]))
    for target, values in zip(targets, plain):
        if values is target:
            continue
        if mask is True:
            target[...] = values
        else:
            where = np.broadcast_to(mask, target.shape)
            target[where] = values[where]
    back = {id(values): target for target, values in zip(targets, plain)}
    return tuple([back.get(id(r), r) for r in result]) if type(result) is tuple else back.get(id(result), result)


cdef object without_derivative(Context ctx, object func, object args, object kwargs):
    """A call on primals. What it is to write into a tracked array is stored there: the derivative of what was there goes."""
    cdef Py_ssize_t place
    target = None
    if is_array(kwargs.get("out")):
        target, kwargs = kwargs["out"], {**kwargs, "out": None}
    elif len(args) > 1:
        place = place_of_out(func)
        if 0 < place < len(args) and is_array(args[place]):
            target, args = args[place], (*args[:place], None, *args[place + 1:])
    out = wrap_inactive(ctx, run_primal(ctx, func, primals_of(ctx, args), {k: primals_of(ctx, v) for k, v in kwargs.items()}))
    if target is None:
        return out
    if target.shape != np.shape(out):
        raise ValueError(f"output array of shape {target.shape} does not match the result, of shape {np.shape(out)}")
    np.copyto(target, out)
    return target


@functools.cache
def place_of_out(func):
    """Which positional argument `out` is; -1 where there is none."""
    try:
        parameters = inspect.signature(func).parameters
    except (TypeError, ValueError):
        # np.dot and np.concatenate before NumPy 2.4: C functions that do not say.
        position = getattr(registry.lookup(func), "out_position", None)
        return -1 if position is None else position
    positional = "out" in parameters and parameters["out"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return list(parameters).index("out") if positional else -1


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
    if isinstance(array, (list, tuple)):
        array = stack_nested(array, None)
    if not is_array(array) or (<TrackedArray>array).boxed:
        array = stack_nested([array], None)[0:1].reshape(())
    return derived_view(array, np.broadcast_to, (shape,))


@special(np.broadcast_arrays)
def _broadcast_arrays(*args, subok=False):
    args = [object_operand(a) if isinstance(a, (list, tuple)) and leaves_of(a, {}) else
            as_array(a) if is_tracked(a) else np.array(a, copy=None) for a in args]
    shape = np.broadcast_shapes(*[np.shape(a) for a in args])
    return tuple([a if a.shape == shape else np.broadcast_to(a, shape) for a in args])


@special(np.shape)
def _shape(a):
    return plain_value(a).shape if is_tracked(a) and hasattr(plain_value(a), "shape") else np.shape(all_plain(a))


@special(np.ndim)
def _ndim(a):
    return len(_shape(a))


@special(np.size)
def _size(a, axis=None):
    return np.size(all_plain(a), axis)


@special(np.copyto)
def _copyto(dst, src, casting="same_kind", where=True):
    if is_scalar(dst):
        raise TypeError("copyto() argument 1 must be numpy.ndarray, not numpy.float64")
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
    if not is_array(a) and not is_active_anywhere(values):
        return run_plain(np.putmask, (a, plain_value(mask), all_plain(values)))
    mask = np.asarray(plain_value(mask))
    where = np.flatnonzero(mask)
    if np.ndim(values):
        values = np.ravel(values)
        values = values[where % np.size(values)]
    _put(a, where, values)


@special(np.place)
def _place(arr, mask, vals):
    if not is_array(arr) and not is_active_anywhere(vals):
        return run_plain(np.place, (arr, plain_value(mask), all_plain(vals)))
    where = np.flatnonzero(np.asarray(plain_value(mask)))
    vals = np.ravel(vals)
    _put(arr, where, vals[np.arange(where.size) % np.size(vals)] if np.size(vals) > 1 else vals[0])


@special(np.put_along_axis)
def _put_along_axis(arr, indices, values, axis):
    if axis is not None:
        return np.put_along_axis._implementation(arr, indices, values, axis)
    # NumPy writes through `arr.flat` and relies on that being memory.
    if np.ndim(indices) != 1:
        raise ValueError("when axis=None, `indices` must have a single dimension.")
    _put(arr, indices, np.broadcast_to(values, np.shape(indices)))


@special(np.put)
def _put(a, ind, v, mode="raise"):
    if not is_array(a) and not is_active_anywhere(v):
        return run_plain(np.put, (a, all_plain(ind), all_plain(v), mode))
    if not is_array(a):
        raise ActiveStoreError("np.put would store active values into a plain array; allocate it inside the "
                               "differentiated function")
    ind = np.ravel(plain_value(ind)).astype(np.intp)
    if mode == "wrap":
        ind = ind % a.size
    elif mode == "clip":
        ind = np.clip(ind, 0, a.size - 1)
    if np.ndim(v):
        v = np.ravel(v)
        if np.size(v) > ind.size:
            v = v[:ind.size]
        if is_array(v) and np.may_share_memory(plain_value(v), plain_value(a)):
            v = v.copy()    # np.put reads all before it writes, x.flat does not
    a.flat[ind] = v


cdef object part_of(TrackedArray z, object function):
    """The real or imaginary part of a complex array: a view, whose shadow is that part of the shadow."""
    check_alive(z.ctx)
    return wrap_view(z, run_primal(z.ctx, function, (z.prim,), {}))


@special(np.real)
def _real(val):
    if is_array(val) and not (<TrackedArray>val).boxed and val.dtype.kind == "c":
        return part_of(<TrackedArray>val, np.real)
    if not np.iscomplexobj(plain_value(val)):
        return val
    return dispatch_rule(registry.lookup(np.real), np.real, (val,), {})


@special(np.imag)
def _imag(val):
    if is_array(val) and not (<TrackedArray>val).boxed and val.dtype.kind == "c":
        return part_of(<TrackedArray>val, np.imag)
    if not np.iscomplexobj(plain_value(val)):
        return val * 0.0 if not is_array(val) else np.zeros_like(val)
    return dispatch_rule(registry.lookup(np.imag), np.imag, (val,), {})


@special(np.iscomplexobj)
def _iscomplexobj(x):
    return np.iscomplexobj(all_plain(x))


@special(np.isrealobj)
def _isrealobj(x):
    return not np.iscomplexobj(all_plain(x))


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


# ---- the hooks behind ufuncs and math ------------------------------------------------------------------------------

def is_tracked_value(value):
    """Whether a value is a dual or adjoint number or array."""
    return is_tracked(value)


def holds_tracked(value):
    """Whether a nested list holds tracked values."""
    if isinstance(value, (list, tuple)):
        Py_EnterRecursiveCall(" in a list that is nested too deeply")
        try:
            for v in value:
                if is_tracked(v) or isinstance(v, (list, tuple)) and holds_tracked(v):
                    return True
            return False
        finally:
            Py_LeaveRecursiveCall()
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
    if kwnames is None and not OVERRIDES:
        row = lookup(ufunc) if ufunc is not np_matmul else None
        if row is not None and row.nin == n and row.nout == 1:
            if n == 1 and is_tracked(<object>args[0]):
                return apply(row, <object>args[0], None)
            if n == 2 and (is_tracked(<object>args[0]) or is_tracked(<object>args[1])):
                return apply(row, <object>args[0], <object>args[1])
        elif ufunc is np_matmul and n == 2 and registry.lookup(np_matmul) is MATMUL_RULE:
            fast = fast_product(<object>args[0], <object>args[1])
            if fast is not None:
                return fast
    inputs = tuple([<object>args[i] for i in range(n)])
    kwargs = {} if kwnames is None else {key: <object>args[n + i] for i, key in enumerate(<tuple>kwnames)}
    return apply_ufunc(ufunc, "__call__", inputs, kwargs)


cdef object dispatcher_call(object function, PyObject* const* args, size_t nargsf, object kwnames):
    """The hook behind NumPy's functions: a list among the arguments holds tracked numbers."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), i
    return dispatch(function, tuple([<object>args[i] for i in range(n)]),
                    {} if kwnames is None else {key: <object>args[n + i] for i, key in enumerate(<tuple>kwnames)})


def install_hooks():
    register_ufunc_handler(ufunc_call)
    register_dispatcher_handler(dispatcher_call)


cdef object math_call(object original, PyObject* const* args, size_t nargsf, object kwnames):
    """`math.f` of a tracked number: the value is libm's, the partial that of the row."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), i
    cdef Context ctx
    cdef double value
    if n == 1 and kwnames is None and is_scalar(<object>args[0]):
        ctx = (<Scalar>args[0]).ctx
        row = _ROWS_BY_ORIGINAL.get(original)
        if row is not None and ctx.outer is None and ctx.alive:
            value = original((<Scalar>args[0]).value)
            return ctx.elementwise(<Row>row, <object>args[0], None, &value)
    name = original.__name__
    if n == 0 or kwnames is not None:
        raise TypeError(f"math.{name} takes positional arguments only")
    row = _MATH_ROWS.get(name)
    values = settled(tuple([<object>args[i] for i in range(n)]))
    if not any([is_tracked(v) for v in values]) and not any([isinstance(v, (list, tuple)) for v in values]):
        return original(*values)
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


cdef bint fits_double(object v) except -1:
    cdef double value
    cdef int kind
    return is_scalar(v) or as_number(v, &value, &kind)


cdef object math_value(Row row, object x, object y, double value):
    """An elementwise operation on scalars whose value is given."""
    cdef Context ctx = higher(context_of(x), context_of(y))
    check_alive(ctx)
    if row.refusal is not None:
        raise MissingRuleError(f"math.{row.name} of an active value: {row.refusal}")
    if ctx.outer is None and row.scalar and not row.zero and fits_double(x) and (row.nin == 1 or fits_double(y)):
        return ctx.elementwise(row, x, y, &value)
    xp, yp = within_64_bits(primal_at(ctx, x)), within_64_bits(primal_at(ctx, y))
    if ctx.outer is not None:
        out = math_value(row, xp, yp, value) if is_tracked(xp) or is_tracked(yp) else value
    else:
        out = value
    operands, pushes, pulls = [], [], []
    for k in range(row.nin):
        operand = y if k else x
        if not row.zero and ctx.is_active(operand):
            push, pull = partial_maps(row, k, xp, yp, out, (), strength(row, ctx))
            operands.append(operand)
            pushes.append(push)
            pulls.append(pull)
    return ctx.link(out, operands, pushes, pulls, ((), False))


cdef Row _HYPOT = rows_by_name["hypot"]


def _math_log(x, base=None):
    return math.log(x) if base is None else math.log(x) / math.log(base)


def _math_hypot(*coordinates):
    """Two at a time, with the value of them all in the end: math.hypot rounds once."""
    total = abs(coordinates[0])
    plain = [float(plain_value(c)) for c in coordinates]
    for k in range(1, len(plain)):
        value = math.hypot(float(plain_value(total)), plain[k]) if k < len(plain) - 1 else math.hypot(*plain)
        total = math_value(_HYPOT, total, coordinates[k], value) if is_tracked(total) or is_tracked(coordinates[k]) else value
    return total


def _math_frexp(x):
    mantissa, exponent = np.frexp(x)
    return mantissa, int(exponent)


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
    "modf": lambda x: np.modf(x), "frexp": lambda x: _math_frexp(x), "ldexp": lambda x, e: x * 2.0**e,
}
_MATH_STEPS = frozenset({"floor", "ceil", "trunc", "isnan", "isinf", "isfinite", "isclose", "ulp"})

cdef dict _ROWS_BY_ORIGINAL = {}   # of one operand, with partials

MATH_FUNCTIONS = tuple(sorted({*_MATH_ROWS, *_MATH_COMPOSITES, *_MATH_STEPS}))


def install_math_hook(name):
    original = redirect_native(math, name, "types", math_call)
    cdef Row row = _MATH_ROWS.get(name)
    if row is not None and row.nin == 1 and row.scalar and not row.zero and row.refusal is None:
        _ROWS_BY_ORIGINAL[original] = row


# ---- cmath: the value is that of the function, the partial that of the row -----------------------------------------------

cdef object complex_of(object value):
    """A number as cmath takes it: complex."""
    if not is_tracked(value):
        return complex(value)
    return value if plain_value(value).dtype.kind == "c" else value.astype(np.complex128)


cdef object cmath_value(Row row, object original, object z):
    cdef Context ctx = context_of(z)
    if ctx is None:
        return original(z)
    check_alive(ctx)
    primal = primal_at(ctx, z)
    return link_row(ctx, row, z, None, primal, None, cmath_value(row, original, primal))


cdef object cmath_call(object original, PyObject* const* args, size_t nargsf, object kwnames):
    """`cmath.f` of a tracked number."""
    cdef Py_ssize_t n = PyVectorcall_NARGS(nargsf), i
    name = original.__name__
    if name in _CMATH_STEPS:
        return original(*[plain_value(<object>args[i]) for i in range(n)],
                        **({} if kwnames is None else {key: plain_value(<object>args[n + i]) for i, key in enumerate(<tuple>kwnames)}))
    if n == 0 or kwnames is not None:
        raise TypeError(f"cmath.{name} takes positional arguments only")
    values = []
    for i in range(n):
        v = <object>args[i]
        if is_array(v) and v.ndim > 0:
            raise TypeError(f"cmath.{name} takes numbers, not arrays; use NumPy's function")
        values.append(v[()] if is_array(v) else v)
    row = _CMATH_ROWS.get(name)
    if row is not None and n == 1:
        return cmath_value(<Row>row, original, complex_of(values[0]))
    return _CMATH_COMPOSITES[name](*values)


def _cmath_log(z, base):
    return cmath.log(z) / cmath.log(base)


def _cmath_phase(z):
    z = complex_of(z)
    return math.atan2(z.imag, z.real)


def _cmath_polar(z):
    return abs(complex_of(z)), _cmath_phase(z)


def _cmath_rect(r, phi):
    return r * (math.cos(phi) + 1j * math.sin(phi))


cdef dict _CMATH_ROWS = {
    name: rows_by_name[row] for name, row in {
        "sin": "sin", "cos": "cos", "tan": "tan", "asin": "arcsin", "acos": "arccos", "atan": "arctan", "sinh": "sinh",
        "cosh": "cosh", "tanh": "tanh", "asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh", "exp": "exp",
        "log": "log", "log10": "log10", "sqrt": "sqrt",
    }.items()
}
cdef dict _CMATH_COMPOSITES = {"log": _cmath_log, "phase": _cmath_phase, "polar": _cmath_polar, "rect": _cmath_rect}
_CMATH_STEPS = frozenset({"isnan", "isinf", "isfinite", "isclose"})

CMATH_FUNCTIONS = tuple(sorted({*_CMATH_ROWS, *_CMATH_COMPOSITES, *_CMATH_STEPS}))


def install_cmath_hook(name):
    redirect_native(cmath, name, "types", cmath_call)


def dispatch_tracked(func, args, kwargs):
    """What a NumPy function does when some argument is tracked."""
    return dispatch(func, args, kwargs)


register_dispatch(call_ufunc_tracked, dispatch_tracked)
