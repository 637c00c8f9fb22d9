"""What users call: validate, wrap, sweep, unwrap. No mathematics.

`autodiff` is the contract (docs/design.md): f is a map from its inputs to its return value and its inputs after the
call; forward mode applies its derivative to shadows, reverse mode the transpose. `gradient` and the rest are made of
it.
"""
import types
from typing import NamedTuple

import numpy as np

from cyad._annotated import LeafCall, annotate, is_structured, name_of, width_of
from cyad._calls import Call
from cyad._creation import catch_libraries
from cyad._dual import run_forward
from cyad._matching import described
from cyad._primitive import outermost
from cyad._reverse import plain_gradient, run_reverse
from cyad._structures import is_leaf, is_structure
from cyad._sweeps import TRACKED, as_number, check_outs, columns
from cyad.activity import (
    Active,
    Annotation,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    MixedDuplicated,
    Mode,
    Reverse,
    ReverseWithPrimal,
)
from cyad.errors import ActivityError
from cyad.structures import check_chunk


class WithPrimal(NamedTuple):
    """Derivatives and the value of the function, a named tuple."""

    derivs: object
    val: object


def _split_return(args):
    """The return annotation, if the first of the arguments is one, and the rest."""
    if args and isinstance(args[0], type) and issubclass(args[0], Annotation):
        return args[0], args[1:]
    return None, args


def _of_leaves(mode, f, returned, args, kwargs):
    """`autodiff` where an argument is a structure: of the function of its leaves."""
    call = LeafCall(mode, f, args)
    try:
        out = autodiff(mode, call.f, *([] if returned is None else [returned]), *call.flat, **kwargs)
    finally:
        call.settle()
    return out if mode.forward else (call.entries(out[0]), *out[1:])


def _of_state(mode, f, args, kwargs):
    """`autodiff` of an object that is called, or of a method of one, by the numbers and arrays in it as well."""
    method = f.val
    bound = isinstance(method, types.MethodType)
    if not callable(method):
        raise ActivityError(f"autodiff needs a function to differentiate, not {type(method).__name__}")
    owner = method.__self__ if bound else method
    if not is_structure(owner):
        raise ActivityError(f"{type(f).__name__} of {name_of(method)}, which holds no numbers and arrays; pass the "
                            "function itself")

    def of_owner(owner, *args, **kwargs):
        return method.__func__(owner, *args, **kwargs) if bound else owner(*args, **kwargs)

    of_owner.__qualname__ = name_of(method)
    shadows = [d.__self__ if isinstance(d, types.MethodType) else d for d in (f.dval if f.batched else (f.dval,))]
    returned, args = _split_return(args)
    state = type(f)(owner, shadows if f.batched else shadows[0])
    out = autodiff(mode, of_owner, *([] if returned is None else [returned]), state, *args, **kwargs)
    return out if mode.forward else (out[0][1:], *out[1:])


def autodiff(mode, f, *args, **kwargs):
    """Differentiate one call of `f`.

    ``autodiff(mode, f, [return activity], *annotated arguments, **annotated keywords)``

    With G: (inputs) -> (return value, inputs after the call), forward mode computes G'(inputs) shadows, reverse mode
    G'(inputs)^T (seed 1 of an Active return, shadows). Shadows are written in place.

    Forward returns ``(derivative,)``, or ``((d_1, ..., d_W),)`` for W lanes, ``()`` for a Const return;
    ForwardWithPrimal appends the primal. Reverse returns ``((d_1, d_2, ...),)`` with the derivative of each Active
    argument (a tuple of W for W lanes) and None for all others; ReverseWithPrimal appends the primal. Derivatives have
    the shapes and dtypes of what they belong to; those of Python floats and np.float64 are Python floats.

    Raises ActivityError where annotations, mode and values do not fit; ActiveStoreError where a derivative would be
    lost; MissingRuleError for functions without a rule. The user's own exceptions pass through unchanged. Any number of
    threads may call it.

    >>> from cyad import Active, Reverse, autodiff
    >>> autodiff(Reverse, lambda x, y: x * y, Active(2.0), Active(3.0))
    ((3.0, 2.0),)

    Where the caller owns the memory, the shadow is the caller's, too; here it holds the adjoint of y after the call:

    >>> import numpy as np
    >>> from cyad import Const, Duplicated
    >>> def square(y, x):
    ...     y[:] = x**2
    >>> x, dx = np.array([3.0, 1.0]), np.zeros(2)
    >>> y, dy = np.zeros(2), np.ones(2)
    >>> autodiff(Reverse, square, Const, Duplicated(y, dy), Duplicated(x, dx))
    ((None, None),)
    >>> dx, dy
    (array([6., 2.]), array([0., 0.]))
    """
    if not isinstance(mode, Mode):
        raise ActivityError(f"the first argument of autodiff is a mode (Forward, Reverse, ...), not {mode!r}")
    if mode.is_split:
        raise ActivityError("a split mode needs autodiff_thunk, which returns both halves")
    if isinstance(f, Annotation) and hasattr(f, "dval"):
        return _of_state(mode, f, args, kwargs)
    returned, args = _split_return(args)
    if isinstance(f, Const):
        f = f.val
    if not callable(f):
        raise ActivityError(f"autodiff needs a function to differentiate, not {type(f).__name__}")
    if any(isinstance(a, Annotation) and is_structured(a) for a in args):
        for a in args:
            if mode.forward and isinstance(a, (MixedDuplicated, BatchMixedDuplicated)):
                raise ActivityError(f"{type(a).__name__} has no meaning in forward mode; pass Duplicated(value, "
                                    "tangent)")
        return _of_leaves(mode, f, returned, args, kwargs)
    f = outermost(f, mode, returned)
    named = annotate(f, args, kwargs)
    for name, a in named:
        if mode.forward and isinstance(a, (Active, MixedDuplicated, BatchMixedDuplicated)):
            raise ActivityError(f"{name} is {type(a).__name__}, which has no meaning in forward mode; pass "
                                "Duplicated(value, tangent)")
        if not mode.forward and isinstance(a, (Duplicated, BatchDuplicated)) and is_leaf(a.val) and not isinstance(
                a.val, np.ndarray):
            raise ActivityError(f"{name} is a number; in reverse mode its derivative is returned: pass Active(value)")
    width, batched = width_of(named)
    catch_libraries()
    if mode.forward:
        return run_forward(mode, f, returned, args, kwargs, named, width, batched)
    return run_reverse(mode, f, returned, args, kwargs, named, width, batched)


def gradient(mode, f, *args, chunk=None, out=None, **kwargs):
    """The gradient of a real scalar function, one entry for each argument: g_k = df/dx_k.

    An array argument gives an array of its shape and dtype, a float a float, a Const one None where it stands, a
    structure of these (list, dict, dataclass, ...) one like it. In reverse mode one sweep whatever the number of
    inputs; in forward mode one call of `f` for each `chunk` of inputs, a number of lanes (chosen by their size if left
    out), so there `f` must be a function of its arguments: where it comes to another value in a later call, that is an
    error. `f` works on the arguments themselves: what it overwrites is overwritten, as in a plain call.

    ``out``: an array (or a tuple of them, one for each argument) that receives the gradient. ReverseWithPrimal and
    ForwardWithPrimal return ``(derivs, val)``. Keyword arguments are passed on and not differentiated, except those
    that are Active, whose entries follow those of the positional ones.

    Raises ActivityError for arguments without a derivative (integers, strings, None) that are not Const, for an `out`
    that does not fit or shares memory with an argument, and for functions that return anything but a real number. An
    int, a bool and an array without axes are real numbers here; where a number depends on no argument the gradient is
    zero. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import Reverse, gradient
    >>> gradient(Reverse, lambda x: np.sum(x * x), np.array([1.0, 2.0]))
    (array([2., 4.]),)
    >>> gradient(Reverse, lambda x, a: a * np.sum(x * x), np.array([1.0, 2.0]), 3.0)
    (array([ 6., 12.]), 5.0)
    >>> gradient(Reverse, lambda p: p["scale"] * np.sum(p["w"] ** 2), {"scale": 3.0, "w": np.array([1.0, 2.0])})
    ({'scale': 5.0, 'w': array([ 6., 12.])},)
    """
    if (mode is Reverse or mode is ReverseWithPrimal) and out is None and chunk is None and not kwargs and callable(f):
        catch_libraries()
        f = outermost(f, mode, Active)
        done = plain_gradient(f, args)
        if done is not None:
            return WithPrimal(*done) if mode.primal else done[0]
    if not isinstance(mode, Mode) or mode.is_split:
        raise ActivityError(f"the first argument of gradient is a mode (Forward, Reverse, ...), not {mode!r}")
    f = outermost(f, mode, Active)
    call = Call("gradient", f, args, kwargs)
    outs = [None] * len(call.leaves) if out is None else _outs_of(out, call)
    if chunk is not None:
        chunk = check_chunk(chunk)
    catch_libraries()
    if mode.forward:
        val, derivs = _forward_gradient(mode, call, outs, chunk)
    else:
        val, derivs = reverse_gradient(mode, call, outs)
    derivs = call.assemble(derivs)
    return WithPrimal(derivs, val) if mode.primal else derivs


def _outs_of(out, call):
    """The arrays of out=, one for each leaf, None where there is none."""
    outs = out if isinstance(out, tuple) else (out,)
    if call.is_structured:
        raise ActivityError("out= takes arrays; the gradient of a structured argument is a new structure")
    if len(outs) != len(call.constants):
        raise ActivityError(f"out= has {len(outs)} entries for {len(call.constants)} arguments of {call.__name__}")
    if any(o is not None and const for o, const in zip(outs, call.constants, strict=True)):
        raise ActivityError(f"out= has an array where the argument of {call.__name__} is Const")
    outs = [o for o, const in zip(outs, call.constants, strict=True) if not const]
    for o, a, name in zip(outs, call.leaves, call.names, strict=True):
        if o is not None and not isinstance(a, np.ndarray):
            raise ActivityError(f"out= has {described(o)} for {name}, which is a number, whose derivative is returned: "
                                "pass None in its place")
        if o is not None and not (isinstance(o, np.ndarray) and o.shape == a.shape and o.dtype == a.dtype):
            raise ActivityError(f"out= for {name} must be an array of its shape and dtype, "
                                f"{a.shape} of {a.dtype}; got "
                                f"{getattr(o, 'shape', type(o).__name__)} of {getattr(o, 'dtype', 'no dtype')}")
    check_outs("gradient", outs, (*call.leaves, *call.fixed), call.__name__)
    return outs


def reverse_gradient(mode, call, outs):
    """``(value, derivatives by leaf)`` of a call by one sweep; `outs` are shadows to use, None where there is none."""
    if (mode is Reverse or mode is ReverseWithPrimal) and all(o is None for o in outs):
        done = plain_gradient(call.run, tuple(call.leaves), tuple(call.fixed), tuple(call.fixed_names))
        if done is not None:
            return done[1], list(done[0])
    annotated = []
    for a, o in zip(call.leaves, outs, strict=True):
        if isinstance(a, np.ndarray):
            if o is not None:
                o[...] = 0.0
            annotated.append(Duplicated(a, np.zeros_like(a) if o is None else o))
        else:
            annotated.append(Active(a))
    named = call.annotated(annotated)
    mode = ReverseWithPrimal if mode is Reverse else mode.with_primal()
    entries, val = run_reverse(mode, call.run, Active, [a for _, a in named], {}, named, 1, False)
    return val, [e if isinstance(a, Active) else a.dval for a, e in zip(annotated, entries, strict=False)]


def _forward_gradient(mode, call, outs, chunk):
    """One call of f for each chunk of directions: one direction for a real entry, 1 and 1j for a complex one."""
    val, _, entries = columns("gradient", mode, call, chunk, scalar=True)
    derivs = []
    for a, o, d in zip(call.leaves, outs, entries[0], strict=True):
        if o is not None:
            o[...] = d
            d = o
        elif type(d) not in TRACKED:   # of the kind of its argument, whatever the precision of the result
            d = np.asarray(d, a.dtype) if isinstance(a, np.ndarray) else as_number(np.result_type(a).type(d))
        derivs.append(d)
    return val, derivs
