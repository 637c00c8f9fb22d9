"""What users call: validate, wrap, sweep, unwrap. No mathematics.

`autodiff` is the contract (docs/design.md): f is a map from its inputs to its return value and its inputs after the
call; forward mode applies its derivative to shadows, reverse mode the transpose. `gradient` and the rest are made of
it.
"""
import functools
from typing import NamedTuple

import numpy as np

from cyad._annotated import LeafCall, annotate, is_structured, name_of, width_of
from cyad._creation import catch_libraries
from cyad._dual import run_forward
from cyad._reverse import plain_gradient, run_reverse
from cyad._structures import flatten, is_leaf, is_structure
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
    check_number,
)
from cyad.errors import ActivityError


class WithPrimal(NamedTuple):
    """Derivatives and the value of the function."""

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
    out = autodiff(mode, call.f, *([] if returned is None else [returned]), *call.flat, **kwargs)
    return out if mode.forward else (call.entries(out[0]), *out[1:])


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
    inputs; in forward mode one call of `f` for each `chunk` of inputs (8 by default). `f` works on the arguments
    themselves: what it overwrites is overwritten, as in a plain call.

    ``out``: an array (or a tuple of them, one for each argument) that receives the gradient. ReverseWithPrimal and
    ForwardWithPrimal return ``(derivs, val)``. Keyword arguments are passed on and not differentiated.

    Raises ActivityError for integer arguments and for functions that do not return a scalar. Any number of threads may
    call it.

    >>> import numpy as np
    >>> from cyad import Reverse, gradient
    >>> gradient(Reverse, lambda x: np.sum(x * x), np.array([1.0, 2.0]))
    (array([2., 4.]),)
    >>> gradient(Reverse, lambda x, a: a * np.sum(x * x), np.array([1.0, 2.0]), 3.0)
    (array([ 6., 12.]), 5.0)
    >>> gradient(Reverse, lambda p: p["scale"] * np.sum(p["w"] ** 2), {"scale": 3.0, "w": np.array([1.0, 2.0])})
    ({'scale': 5.0, 'w': array([ 6., 12.])},)
    """
    if (mode is Reverse or mode is ReverseWithPrimal) and out is None and not kwargs and callable(f):
        catch_libraries()
        done = plain_gradient(f, args)
        if done is not None:
            return WithPrimal(*done) if mode.primal else done[0]
    if not isinstance(mode, Mode) or mode.is_split:
        raise ActivityError(f"the first argument of gradient is a mode (Forward, Reverse, ...), not {mode!r}")
    if not callable(f):
        raise ActivityError(f"gradient needs a function to differentiate, not {type(f).__name__}")
    if any(not isinstance(a, Annotation) and is_structure(a) for a in args):
        return _structured_gradient(mode, f, args, chunk, out, kwargs)
    outs = _outs_of(out, args)
    catch_libraries()
    if mode.forward:
        derivs, val = _forward_gradient(mode, f, args, kwargs, outs, chunk)
    else:
        derivs, val = _reverse_gradient(mode, f, args, kwargs, outs)
    return WithPrimal(derivs, val) if mode.primal else derivs


def _structured_gradient(mode, f, args, chunk, out, kwargs):
    """The gradient by the leaves of structured arguments, put together in the structure of the arguments."""
    if out is not None:
        raise ActivityError("out= takes arrays; the gradient of a structured argument is a new structure")
    parts, flat = [], []
    for a in args:
        leaves, rebuild = flatten(a) if not isinstance(a, Annotation) and is_structure(a) else ([a], None)
        parts.append((len(flat), len(leaves), rebuild))
        flat.extend(leaves)

    def assemble(leaves):
        return tuple(leaves[at] if rebuild is None else rebuild(leaves[at:at + count]) for at, count, rebuild in parts)

    @functools.wraps(f)
    def of_leaves(*leaves, **keywords):
        return f(*assemble(leaves),
                 **keywords)

    done = gradient(mode.with_primal(), of_leaves, *flat, chunk=chunk, **kwargs)
    derivs = assemble(done.derivs)
    return WithPrimal(derivs, done.val) if mode.primal else derivs


def _outs_of(out, args):
    if out is None:
        return (None,) * len(args)
    outs = out if isinstance(out, tuple) else (out,)
    if len(outs) != len(args):
        raise ActivityError(f"out= has {len(outs)} entries for {len(args)} arguments")
    for i, (o, a) in enumerate(zip(outs, args, strict=True)):
        if o is not None and not (isinstance(a, np.ndarray) and isinstance(o, np.ndarray) and o.shape == a.shape
                                  and o.dtype == a.dtype):
            raise ActivityError(f"out= for argument {i + 1} must be an array of its shape and dtype, "
                                f"{getattr(a, 'shape', 'a number')} of {getattr(a, 'dtype', type(a).__name__)}; got "
                                f"{getattr(o, 'shape', type(o).__name__)} of {getattr(o, 'dtype', 'no dtype')}")
    return outs


def _is_number(a):
    return isinstance(a, (float, complex, np.floating, np.complexfloating)) and not isinstance(a, np.ndarray)


def _check_differentiable(a, position, f):
    if isinstance(a, np.ndarray):
        if a.dtype.kind not in "fc":
            raise ActivityError(f"argument {position + 1} of {name_of(f)} is an array of dtype {a.dtype}, which has "
                                "no derivative; pass floats, or Const(...) if none is wanted")
        return
    check_number(a, f"argument {position + 1} of {name_of(f)}")


def _reverse_gradient(mode, f, args, kwargs, outs):
    annotated, derivs = [], []
    for i, (a, o) in enumerate(zip(args, outs, strict=True)):
        if isinstance(a, Const):
            annotated.append(a)
            derivs.append(None)
            continue
        _check_differentiable(a, i, f)
        if isinstance(a, np.ndarray):
            shadow = np.zeros_like(a) if o is None else o
            if o is not None:
                shadow[...] = 0.0
            annotated.append(Duplicated(a, shadow))
            derivs.append(shadow)
        else:
            annotated.append(Active(a))
            derivs.append(a)
    keywords = {k: v if isinstance(v, Annotation) else Const(v) for k, v in kwargs.items()}
    named = annotate(f, annotated, keywords)
    full = mode.with_primal()
    entries, val = run_reverse(full, f, Active, annotated, keywords, named, 1, False)
    return tuple(e if isinstance(a, Active) else d for a, e, d in zip(annotated, entries, derivs, strict=False)), val


def _forward_gradient(mode, f, args, kwargs, outs, chunk):
    """One call of f for each chunk of directions: one direction for a real entry, 1 and 1j for a complex one."""
    sizes = []
    for i, a in enumerate(args):
        if isinstance(a, Const):
            sizes.append(0)
            continue
        _check_differentiable(a, i, f)
        sizes.append(np.size(a) * (2 if np.iscomplexobj(a) else 1))
    total = sum(sizes)
    chunk = max(1, min(8 if chunk is None else chunk, total))
    derivs = [None if isinstance(a, Const) else
              (np.zeros(a.shape, a.dtype) if o is None else o) if isinstance(a, np.ndarray) else a * 0
              for a, o in zip(args, outs, strict=True)]
    before = [a.copy() if isinstance(a, np.ndarray) else None for a in args]
    for d in derivs:
        if isinstance(d, np.ndarray):
            d[...] = 0.0
    val, starts = None, range(0, max(total, 1), chunk)
    for first in starts:
        if first:
            for a, b in zip(args, before, strict=True):
                if b is not None and a.flags.writeable:
                    a[...] = b
        width = max(1, min(chunk, total - first))
        annotated, directions, offset = [], [], 0
        for i, (a, size) in enumerate(zip(args, sizes, strict=True)):
            if isinstance(a, Const):
                annotated.append(a)
                continue
            ways = 2 if np.iscomplexobj(a) else 1
            lanes = [np.zeros(np.shape(a), np.result_type(a)) for _ in range(width)]
            for k in range(max(first - offset, 0), min(first + width - offset, size)):
                seed = 1j if k % ways else 1.0
                lanes[offset + k - first].flat[k // ways] = seed
                directions.append((i, k // ways, offset + k - first, seed))
            annotated.append(_lanes(a, tuple(lanes if isinstance(a, np.ndarray) else [lane[()] for lane in lanes])))
            offset += size
        keywords = {k: v if isinstance(v, Annotation) else Const(v) for k, v in kwargs.items()}
        named = annotate(f, annotated, keywords)
        tangents, val = run_forward(mode.with_primal(), f, Duplicated, annotated, keywords, named, width, True)
        if np.ndim(val) or np.iscomplexobj(val):
            raise ActivityError(f"gradient needs a real scalar function; {name_of(f)} returned "
                                f"{f'an array of shape {np.shape(val)}' if np.ndim(val) else 'a complex number'}: "
                                "use jacobian, or autodiff with a tangent of your own")
        for i, k, lane, seed in directions:
            if isinstance(args[i], np.ndarray):
                derivs[i].flat[k] += tangents[lane] * seed
            else:
                derivs[i] += tangents[lane] * seed
    return tuple(derivs), val


def _lanes(val, lanes):
    return BatchDuplicated(val, lanes)
