"""Functions whose calls cyad sees: `cyad.primitive`, and NumPy functions that users gave rules.

Here a call finds its context and its rules; `_rulecall` sorts its arguments, `_ruled` runs the rule. Outside
differentiation a primitive is the function, at the price of one call.

Rejected: a wrapper in Python (three times the overhead); looking for tracked values in structures outside
differentiated calls.

Thread safety: any number of threads may call a primitive; it holds no state but its rules.
"""
cimport cython
from numpy cimport import_array, ndarray

from cyad._context cimport Context, check_alive, context_of, higher, is_tracked, object_operand
from cyad._redirect cimport current
from cyad._rulecall cimport Call, annotation, is_simple, opened, part_of
from cyad._ruled cimport serve

import types

import numpy as np

from cyad._dispatch import register_custom
from cyad._rulecall import THROUGH as _THROUGH
from cyad._structures import is_structure
from cyad.activity import Const
from cyad.rules.custom import OVERRIDES as _OVERRIDES
from cyad.rules.custom import RuleSet, described, register_primitive, wrap_like

import_array()

cdef object THROUGH = _THROUGH
cdef dict OVERRIDES = _OVERRIDES


cdef Call found_call(object state, tuple args, dict kwargs, bint reads_only):
    """The arguments of a call, sorted; None where none of them is tracked."""
    cdef Call call
    cdef Context ctx = None
    cdef list values = list(args), structures = None
    cdef Py_ssize_t i
    if kwargs:
        values.extend(kwargs.values())
    for i in range(len(values)):
        v = values[i]
        if is_tracked(v):
            ctx = higher(ctx, context_of(v))
        elif is_simple(v):
            continue
        elif isinstance(v, ndarray):
            if (<ndarray>v).dtype.hasobject:
                values[i] = object_operand(v)
                ctx = higher(ctx, context_of(values[i]))
        else:
            structure = opened(v)
            if structure is not None:
                if structures is None:
                    structures = [None] * len(values)
                structures[i] = structure
                for leaf in structure[0]:
                    ctx = higher(ctx, context_of(leaf))
    owned = opened(state) if state is not None else None
    if owned is not None:
        for leaf in owned[0]:
            ctx = higher(ctx, context_of(leaf))
    if ctx is None:
        return None
    check_alive(ctx)
    call = Call.__new__(Call)
    call.ctx = ctx
    call.names = tuple(kwargs) if kwargs else ()
    call.reads_only = reads_only
    if owned is not None:
        call.own = part_of(ctx, state, owned, reads_only)
    call.sort(values, structures)
    return call


# ---- NumPy functions ------------------------------------------------------------------------------------------------

def overridden(func, args, kwargs):
    """The hook of `_dispatch`, for functions with an entry in OVERRIDES; NotImplemented lets cyad's own rule serve."""
    return call_overridden(func, args, kwargs, True, None)


cdef object call_overridden(object func, object args, dict kwargs, bint needs_primal, object returned):
    cdef Call call
    rules = OVERRIDES.get(func)
    if rules is None:
        return NotImplemented
    call = found_call(None, tuple(args), kwargs, rules.reads_only)
    if call is None or not rules.has(not call.ctx.backward):
        return NotImplemented
    call.function = func
    call.constant = annotation(Const, func, None)
    call.rules = rules
    call.needs_primal = needs_primal
    call.returned = returned
    call.built_in = True
    out = serve(call)
    return NotImplemented if out is THROUGH else out


# ---- primitives -----------------------------------------------------------------------------------------------------

@cython.final
cdef class Primitive:
    """A function whose calls cyad sees, so that it can have rules."""

    cdef object function
    cdef object constant   # Const(self), which rules get as func
    cdef object rules
    cdef object state      # the object behind a bound method; a callable object
    cdef dict __dict__

    @property
    def __cyad_rules__(self):
        return self.rules

    def __call__(self, *args, **kwargs):
        cdef bint tracked = current() is not NULL
        if not tracked:
            for v in args:
                tracked = tracked or is_tracked(v)
            for v in kwargs.values():
                tracked = tracked or is_tracked(v)
        if not tracked or not self.rules.filled:
            return self.function(*args, **kwargs)
        out = call_primitive(self, args, kwargs, True, None)
        return self.function(*args, **kwargs) if out is THROUGH else out

    def __get__(self, instance, owner):
        return self if instance is None else types.MethodType(self, instance)

    def __repr__(self):
        return f"<primitive {described(self.function)}>"

    def __reduce__(self):
        return described(self.function)


cdef object call_primitive(Primitive f, tuple args, dict kwargs, bint needs_primal, object returned):
    cdef Call call = found_call(f.state, args, kwargs, f.rules.reads_only)
    if call is None:
        return THROUGH
    call.function = f
    call.constant = f.constant
    call.rules = f.rules
    call.needs_primal = needs_primal
    call.returned = returned
    if call.own is not None:
        call.own.method = getattr(f.function, "__func__", None)
    return serve(call)


def primitive(f):
    """Makes the calls of a function visible, so that rules can say what its derivative is.

    Without rules the function is differentiated through, as if it had not been decorated; outside differentiated calls
    the primitive is the function. Methods and callable objects may be decorated as well. NumPy functions and ufuncs are
    visible as they are, and returned unchanged. See `cyad.rules`.

    Raises TypeError for what cannot be called. Any number of threads may call a primitive.

    >>> import math
    >>> import cyad
    >>> @cyad.primitive
    ... def log_gamma(x):
    ...     return math.lgamma(x)
    >>> @cyad.rules.easy_rule(log_gamma)
    ... def log_gamma_partials(out, x):
    ...     h = 1e-6
    ...     return (((log_gamma(x + h) - log_gamma(x - h)) / (2 * h),),)
    >>> round(cyad.gradient(cyad.Reverse, log_gamma, 3.0)[0], 6)
    0.922784
    """
    cdef Primitive out
    if not callable(f):
        raise TypeError(f"primitive takes a function, not a {type(f).__name__}")
    if type(f) is Primitive or isinstance(f, np.ufunc) or hasattr(f, "_implementation"):
        return f
    out = Primitive.__new__(Primitive)
    out.function = f
    out.constant = annotation(Const, out, None)
    out.rules = RuleSet(described(f))
    state = getattr(f, "__self__", None) if isinstance(f, types.MethodType) else f
    if is_structure(state):
        out.state = state
    return wrap_like(out, f)


def primitive_of(f, public):
    """A primitive of `f` that rules know as `public`, whose calls it gets."""
    cdef Primitive out = primitive(f)
    out.constant = annotation(Const, public, None)
    return out


class Outermost:
    """What `autodiff` was given, where that has rules: they are told whether anybody looks at the value."""

    def __init__(self, f, needs_primal, returned):
        self.f, self.needs_primal, self.returned = f, needs_primal, returned
        self.__qualname__ = described(f)

    def __call__(self, *args, **kwargs):
        f = self.f
        if type(f) is Primitive:
            out = call_primitive(f, args, kwargs, self.needs_primal, self.returned)
            return (<Primitive>f).function(*args, **kwargs) if out is THROUGH else out
        out = call_overridden(f, args, kwargs, self.needs_primal, self.returned)
        return f(*args, **kwargs) if out is NotImplemented else out


def outermost(f, mode, returned):
    """`f` as `autodiff` calls it: itself, unless it has rules."""
    if type(f) is Primitive:
        if not (<Primitive>f).rules.filled:
            return f
    elif not OVERRIDES or not (isinstance(f, np.ufunc) or hasattr(f, "_implementation")) or f not in OVERRIDES:
        return f
    # Without an activity asked for, reverse mode must see the value to know what it is.
    return Outermost(f, mode.primal or (returned is None and not mode.forward), returned)


register_custom(overridden)
register_primitive(primitive_of)
