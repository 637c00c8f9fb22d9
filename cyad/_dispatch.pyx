"""How a call of a NumPy function on tracked values finds its rule.

A ufunc: by its row in the elementwise table, with `out=`, `where=`, `dtype=` and the methods (`reduce`, `at` ...) on top. Any other
function: one of the special ones at the end of this file (functions about memory rather than values), a structural
rule, a zero derivative, or else it is a composite: its own Python implementation runs on tracked values, with tracked creation
inside. What none of these serves raises MissingRuleError; absence never means zero.
"""
from cpython.ref cimport PyObject
from numpy cimport ndarray

from cyad._redirect cimport redirect_native, register_ufunc_handler, swap_current
from cyad._tracked cimport (
    Context, PushAll, TrackedArray, all_plain, apply, check_alive, check_conflict, context_among, context_of, derived_view,
    higher, is_active_anywhere, is_array, is_scalar, is_tracked, leaves_of, object_operand, partial_maps, plain_value, primal_at,
    primals_of, run_primal, shares, within_64_bits, wrap_inactive, wrap_new, wrap_view,
)
from cyad.rules._kernels cimport Row, lookup

import functools
import math
import types

import numpy as np

from cyad._tracked import register_dispatch, stack_nested
from cyad.errors import ActiveStoreError, ActivityError, MissingRuleError
from cyad.rules import classification, registry
from cyad.rules._kernels import rows_by_name

cdef extern from "Python.h":
    Py_ssize_t PyVectorcall_NARGS(size_t nargsf) noexcept


# ---- ufuncs ----------------------------------------------------------------------------------------------------------

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
    if out is not None and out[0] is Ellipsis:
        # NumPy: the result as an array, also where it would be a number.
        return as_array(apply_ufunc(ufunc, "__call__", inputs, {k: v for k, v in kwargs.items() if k != "out"}))
    if out is not None and any([o is not None for o in out]):
        return _ufunc_into(ufunc, inputs, kwargs, out)
    row = lookup(ufunc)
    if row is None or row.nin > 2:
        rule = registry.lookup(ufunc)
        if rule is MATMUL_RULE and rule is not None and not kwargs:
            fast = fast_product(inputs[0], inputs[1])
            if fast is not None:
                return fast
        if rule is not None:
            kwargs = {k: v for k, v in kwargs.items() if k != "out"}
            return structural(rule, ufunc, inputs, kwargs)
        if registry.is_zero(ufunc) or not any([is_active_anywhere(v) for v in inputs]):
            ctx = context_among(inputs)
            return wrap_inactive(ctx, run_primal(ctx, ufunc, tuple([primal_at(ctx, v) for v in inputs]), kwargs))
        reason = classification.reason_of(ufunc)
        if reason is not None:
            raise MissingRuleError(f"{ufunc.__name__} of an active value: {reason}")
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
        # NumPy's own code asks by the class of a dtype, which np.dtype would take for a Python object's.
        target = target() if isinstance(target, type) and issubclass(target, np.dtype) else np.dtype(target)
        for v in inputs:
            if not np.can_cast(getattr(v, "dtype", type(v)), target, casting):
                raise TypeError(f"{ufunc.__name__}: cannot cast {getattr(v, 'dtype', type(v))} to {target} "
                                f"with casting={casting!r}")
        inputs = tuple([cast(v, target) for v in inputs])
    return apply_ufunc(ufunc, "__call__", inputs, {})


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
    if out is Ellipsis:
        return as_array(result)
    if not is_array(out):
        if is_active_anywhere(result):
            raise ActiveStoreError(f"{_name_of(func)}(out=...) would store active values into a plain array; "
                                   "allocate it inside the differentiated function")
        result = plain_value(result)
    if np.shape(result) != np.shape(out):
        raise ValueError(f"output array of shape {np.shape(out)} does not match the result's {np.shape(result)}")
    out[...] = result
    return out


# Rules that a context serves by itself on plain memory; a rule that a user puts in their place is found instead.
cdef object np_sum = np.sum, np_mean = np.mean, np_dot = np.dot, np_matmul = np.matmul
cdef object SUM_RULE = registry.lookup(np.sum), MEAN_RULE = registry.lookup(np.mean)
cdef object DOT_RULE = registry.lookup(np.dot), MATMUL_RULE = registry.lookup(np.matmul)


cdef object fast_total(object a, object kwargs, bint mean):
    axis, keepdims = None, False
    for key, value in kwargs.items():
        if key == "axis":
            axis = value
        elif key == "keepdims" and type(value) is bool:
            keepdims = value
        elif not (key == "out" and value is None) and not (key == "dtype" and value is None):
            return None
    check_alive((<TrackedArray>a).ctx)
    return (<TrackedArray>a).ctx.total(<TrackedArray>a, axis, keepdims, mean)


cdef object fast_product(object a, object b):
    cdef Context ctx = higher(context_of(a), context_of(b))
    check_alive(ctx)
    return ctx.product(a, b)


cdef object dispatch(object func, object args, object kwargs):
    """A NumPy function of which some argument is tracked: special, by rule, of zero derivative, or composite."""
    cdef Context ctx
    cdef PyObject* old
    cdef object fast = None
    if (func is np_sum or func is np_mean) and len(args) == 1 and is_array(args[0]):
        if registry.lookup(func) is (SUM_RULE if func is np_sum else MEAN_RULE):
            fast = fast_total(args[0], kwargs, func is np_mean)
    elif func is np_dot and len(args) == 2 and not kwargs and registry.lookup(func) is DOT_RULE:
        fast = fast_product(args[0], args[1])
    if fast is not None:
        return fast
    special = _SPECIAL.get(func)
    if special is not None:
        return special(*args, **kwargs)
    rule = registry.lookup(func)
    if rule is not None:
        return dispatch_rule(rule, func, args, kwargs)
    implementation = getattr(func, "_implementation", None)
    ctx = context_among(leaves_of(args, kwargs))
    check_alive(ctx)
    if registry.is_zero(func):
        return wrap_inactive(ctx, run_primal(ctx, func, primals_of(ctx, args),
                                             {k: primals_of(ctx, v) for k, v in kwargs.items()}))
    reason = classification.reason_of(func) if implementation is not None else None
    if reason is not None and any([is_active_anywhere(v) for v in leaves_of(args, kwargs)]):
        raise MissingRuleError(f"np.{classification.name_of(func)} of an active value: {reason}")
    if implementation is None or isinstance(implementation, types.BuiltinFunctionType):
        if any([is_active_anywhere(v) for v in leaves_of(args, kwargs)]):
            raise MissingRuleError(
                f"no rule says what the derivative of {_name_of(func)} is; register one (cyad.rules), "
                "or call it through cyad.inactive if none is wanted")
        return wrap_inactive(ctx, run_primal(ctx, func, primals_of(ctx, args),
                                             {k: primals_of(ctx, v) for k, v in kwargs.items()}))
    old = swap_current(<PyObject*>ctx)
    try:
        return implementation(*args, **kwargs)
    finally:
        swap_current(old)


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
    a.flat[ind] = v


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
    xp, yp = within_64_bits(primal_at(ctx, x)), within_64_bits(primal_at(ctx, y))
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


def dispatch_tracked(func, args, kwargs):
    """What a NumPy function does when some argument is tracked."""
    return dispatch(func, args, kwargs)


register_dispatch(call_ufunc_tracked, dispatch_tracked)
