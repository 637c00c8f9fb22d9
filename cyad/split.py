"""Split mode: the two halves of reverse mode as functions of their own.

`autodiff_thunk` returns the forward half, which runs the function and hands out a tape, and the reverse half, which
takes the tape and shadows and applies the transpose. Between them the caller may do what it likes with its arrays: the
tape has its own copies (`_pullback`).
"""
from typing import final

import numpy as np

from cyad._annotated import LeafCall, annotate, name_of, width_of
from cyad._creation import catch_libraries
from cyad._matching import check_tangent, shadow_like
from cyad._pullback import Pullback
from cyad.activity import (
    Active,
    Annotation,
    BatchDuplicated,
    BatchDuplicatedNoNeed,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    DuplicatedNoNeed,
    MixedDuplicated,
    Mode,
    Ref,
)
from cyad.errors import ActivityError, TapeError

_SHADOWED = (Duplicated, DuplicatedNoNeed, BatchDuplicated, BatchDuplicatedNoNeed, MixedDuplicated,
             BatchMixedDuplicated)


@final
class SplitTape:
    """What the forward half hands to the reverse half. Opaque; may be swept any number of times, in any order.

    It holds the recording and copies of the arrays that the function was given. Made by the forward half only; a
    TypeError where it is to be pickled. One sweep at a time: from two threads at once, the second raises TapeError.

    >>> import math
    >>> from cyad import Active, ReverseSplitNoPrimal, autodiff_thunk
    >>> forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: math.sin(x) * x, Active)
    >>> tape = forward(Active(0.5))[0]
    >>> tape.nbytes
    60
    """

    __slots__ = ("_activities", "_call", "_pullback", "_returned", "_shadow", "_thunk")

    @property
    def nbytes(self):
        """What records and their constants take, in bytes: 20 for a record, 8 for a constant. Not the arrays."""
        return self._pullback.nbytes

    def __reduce__(self):
        raise TypeError("a tape cannot be pickled: it refers to memory of this process")


def autodiff_thunk(mode, f, returned=None, *activities):
    """Reverse mode in two halves, ``(forward, reverse)``: the value y = f(x), and later shadow(x) += f'(x)^T shadow(y).

    ``forward(*annotated) -> (tape, primal, shadow)`` runs `f`. The primal is None in ReverseSplitNoPrimal. With a
    Duplicated return (BatchDuplicated, MixedDuplicated) the shadow has the structure, shapes and dtypes of the result,
    all zero: arrays to add cotangents to (a tuple of W for `mode.split(width=W)`, a Ref for MixedDuplicated); otherwise
    it is None.

    ``reverse(*annotated, tape)``, or ``reverse(*annotated, seed, tape)`` with an Active return (a tuple of W seeds for
    W lanes), applies the transpose: to the shadows in place, and to the Active arguments in what it returns,
    ``((d_1, ...),)`` as `autodiff` does. The values in its annotations are not read, but have the shapes and dtypes of
    those that went forward; shadows may be others. A seed is a real number (complex for a complex result). A tape can
    be swept again, in any order and with any number of lanes.

    `returned` is the activity of the return: Active for a number, Duplicated for arrays and structures of them, Const
    for nothing; found out by the first half if left out. `activities`, one for each argument, are checked if given.

    Raises ActivityError where annotations, mode and values do not fit, as do the halves; ``reverse`` also TapeError for
    a tape of other halves. Any number of threads may run the halves, one at a time for each tape.

    >>> import numpy as np
    >>> from cyad import Active, Duplicated, ReverseSplitWithPrimal, autodiff_thunk
    >>> forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, lambda x: np.sum(x * x), Active)
    >>> x, dx = np.array([1.0, 2.0]), np.zeros(2)
    >>> tape, primal, shadow = forward(Duplicated(x, dx))
    >>> primal
    np.float64(5.0)
    >>> reverse(Duplicated(x, dx), 10.0, tape)
    ((None,),)
    >>> dx
    array([20., 40.])
    """
    if not isinstance(mode, Mode):
        raise ActivityError(f"the first argument of autodiff_thunk is a mode (ReverseSplitWithPrimal, ...), "
                            f"not {mode!r}")
    if not mode.is_split:
        raise ActivityError(f"autodiff_thunk needs a split mode, not {mode.name}: pass ReverseSplitWithPrimal, "
                            "ReverseSplitNoPrimal or Reverse.split()")
    if isinstance(f, Const):
        f = f.val
    if not callable(f):
        raise ActivityError(f"autodiff_thunk needs a function to differentiate, not {type(f).__name__}")
    for kind in (returned, *activities):
        if kind is not None and not (isinstance(kind, type) and issubclass(kind, Annotation)):
            raise ActivityError(f"autodiff_thunk takes activities (Active, Duplicated, ...) after the function, not "
                                f"{kind!r}; values go to the two halves")
    if returned is not None and returned.__name__.startswith("Batch") != (mode.width > 1) and returned not in (
            Active, Const):
        raise ActivityError(f"a return of activity {returned.__name__} does not fit a mode of width {mode.width}; "
                            "Reverse.split(width=W) and Batch... belong together")
    thunk = _Thunk(mode, f, returned, activities)
    return thunk.forward, thunk.reverse


class _Thunk:
    """The two halves, and what they have in common."""

    def __init__(self, mode, f, returned, activities):
        self.mode, self.f, self.returned, self.activities = mode, f, returned, activities

    def annotated(self, args, kwargs, recorded=None):
        """The call by its leaves (see api), checked; `recorded` is the one that went forward."""
        name = name_of(self.f)
        if self.activities and len(args) != len(self.activities):
            raise ActivityError(f"{name} was given {len(args)} arguments where autodiff_thunk was told of "
                                f"{len(self.activities)}")
        for i, (a, kind) in enumerate(zip(args, self.activities, strict=False)):
            if not isinstance(a, kind):
                raise ActivityError(f"argument {i + 1} of {name} is {type(a).__name__}, autodiff_thunk was told "
                                    f"{kind.__name__}")
        for i, a in enumerate(args):
            if isinstance(a, (Duplicated, BatchDuplicated)) and isinstance(a.val, (float, complex, np.number)):
                raise ActivityError(f"argument {i + 1} of {name} is a number; in reverse mode its derivative is "
                                    "returned: pass Active(value)")
        return LeafCall(self.mode, self.f, args, recorded)

    def forward(self, *args, **kwargs):
        call = self.annotated(args, kwargs)
        named = annotate(self.f, call.flat, kwargs)
        width_of(named)
        catch_libraries()
        try:
            pullback = Pullback(call.f, call.flat, kwargs, named, self.mode.strong_zero)
        finally:
            call.settle()
        returned = self.returned or self.kind_of_return(pullback)
        self.check_return(pullback, returned)
        return_value = pullback.primal if self.mode.primal else None
        shadow = None
        if issubclass(returned, _SHADOWED):
            lanes = [pullback.rebuild_result([leaf * 0 if not isinstance(leaf, np.ndarray) else np.zeros_like(leaf)
                                              for leaf in pullback.leaves]) for _ in range(self.mode.width)]
            if issubclass(returned, (MixedDuplicated, BatchMixedDuplicated)):
                lanes = [Ref(lane) for lane in lanes]
            shadow = tuple(lanes) if returned.__name__.startswith("Batch") else lanes[0]
        kinds = tuple(type(a) for _, a in named)
        tape = SplitTape()
        tape._thunk, tape._pullback, tape._returned = self, pullback, returned
        tape._shadow, tape._activities, tape._call = shadow, kinds, call
        return tape, return_value, shadow

    def kind_of_return(self, pullback):
        if not pullback.leaves:
            return Const
        if isinstance(pullback.primal, (np.ndarray, tuple, list, dict)) or len(pullback.leaves) > 1:
            return BatchDuplicated if self.mode.width > 1 else Duplicated
        return Active

    def check_return(self, pullback, returned):
        name = name_of(self.f)
        if returned is Active:
            if not isinstance(pullback.primal, (float, complex, np.number)):
                raise ActivityError(f"{name} returned {_what(pullback.primal)} where an Active number was asked for; "
                                    "pass Duplicated as the return activity")
            if np.iscomplexobj(pullback.primal) and not self.mode.holomorphic:
                raise ActivityError(f"{name} returned a complex number; the derivative of a complex function needs "
                                    "ReverseHolomorphic.split(), or return a real number")
        elif issubclass(returned, _SHADOWED) and not issubclass(returned, (MixedDuplicated, BatchMixedDuplicated)):
            if any(not isinstance(leaf, np.ndarray) for leaf in pullback.leaves):
                raise ActivityError(f"{name} returned {_what(pullback.primal)}; {returned.__name__} needs arrays: "
                                    "the shadow of a number cannot be added to in place; use Active for a number, "
                                    "MixedDuplicated for a structure with numbers in it")

    def reverse(self, *args, **kwargs):
        tape = args[-1] if args else None
        if not isinstance(tape, SplitTape):
            raise ActivityError("the last argument of the reverse half is the tape that the forward half returned; got "
                                f"{type(tape).__name__}")
        if tape._thunk is not self:
            raise TapeError(f"this tape was recorded by another forward half than that of {name_of(self.f)}")
        args = args[:-1]
        seeds = None
        if tape._returned is Active:
            if not args or isinstance(args[-1], Annotation):
                raise ActivityError(f"{name_of(self.f)} has an Active return: the reverse half takes its seed before "
                                    "the tape, e.g. reverse(*annotated, 1.0, tape)")
            args, seeds = args[:-1], args[-1]
        call = self.annotated(args, kwargs, tape._call)
        named = annotate(self.f, call.flat, kwargs)
        self.check_like(tape, named)
        cotangents, width, batched = self.cotangents(tape, seeds, named)
        entries = [(a.dval if a.batched else (a.dval,)) if hasattr(a, "dval") else None for _, a in named]
        # The complex derivative f' is the conjugate of what pullbacks give.
        turn = np.conjugate if self.mode.holomorphic else np.asarray
        if self.mode.holomorphic:
            cotangents = [None if c is None else [turn(g) for g in c] for c in cotangents]
            entries = [None if e is None else [turn(g) for g in e] for e in entries]
        derivs = tape._pullback.pull(cotangents, width, entries)
        out = []
        for (_, a), lanes in zip(named, derivs, strict=True):
            if hasattr(a, "dval"):
                for shadow, g in zip(a.dval if a.batched else (a.dval,), lanes, strict=True):
                    shadow[...] = turn(g)
            if hasattr(a, "dval") or lanes is None:
                out.append(None)
            else:
                lanes = tuple(turn(g)[()] for g in lanes) if self.mode.holomorphic else lanes
                out.append(lanes if batched else lanes[0])
        return (call.entries(tuple(out)),)

    def cotangents(self, tape, seeds, named):
        """The cotangents of the result by leaf and lane, and the width; from the seeds, or from the returned shadow."""
        width, batched = width_of(named)
        shadowed = any(hasattr(a, "dval") for _, a in named)
        if tape._returned is Active:
            lanes = list(seeds) if isinstance(seeds, (tuple, list)) else [seeds] * width
            if not shadowed and isinstance(seeds, (tuple, list)):
                width, batched = len(lanes), True
            if len(lanes) != width:
                raise ActivityError(f"{len(lanes)} seeds were given for shadows of width {width}")
            return [[self.seed(tape, lane) for lane in lanes]], width, batched
        if tape._shadow is None:
            return [None] * len(tape._pullback.leaves), width, batched
        lanes = tape._shadow if tape._returned.__name__.startswith("Batch") else (tape._shadow,)
        if not shadowed:
            width, batched = len(lanes), tape._returned.__name__.startswith("Batch")
        if len(lanes) != width:
            raise ActivityError(f"the returned shadow has {len(lanes)} lanes, the shadows of the arguments {width}")
        what = f"the returned shadow of {name_of(self.f)}"
        parts = [shadow_like(tape._pullback.rebuild_result, lane.value if isinstance(lane, Ref) else lane, what,
                             "the result", separate=False)[0].leaves for lane in lanes]
        for part in parts:
            for leaf, given in zip(tape._pullback.leaves, part, strict=True):
                check_tangent(what, leaf, given, "the result")
        return [[part[k] for part in parts] for k in range(len(parts[0]))], width, batched

    def seed(self, tape, seed):
        """The seed of an Active return in one lane, checked."""
        if isinstance(seed, np.ndarray) and seed.shape == (1,):
            seed = seed[0]
        for leaf in tape._pullback.leaves:   # none if the result is an integer
            check_tangent(f"the seed of {name_of(self.f)}", leaf, seed, "its result")
        return seed

    def check_like(self, tape, named):
        """The reverse half takes what the forward half took, up to lanes."""
        if len(named) != len(tape._activities):
            raise ActivityError(f"the forward half of {name_of(self.f)} had {len(tape._activities)} arguments, the "
                                f"reverse half {len(named)}")
        for (name, a), kind, val in zip(named, tape._activities, tape._pullback.arrays(), strict=True):
            if hasattr(a, "dval") != (kind in _SHADOWED) or isinstance(a, Active) != issubclass(kind, Active):
                raise ActivityError(f"{name} is {type(a).__name__} in the reverse half, {kind.__name__} in the forward "
                                    "half")
            if val is None or not hasattr(a, "dval"):
                continue
            if np.shape(a.val) != np.shape(val):
                raise ActivityError(f"{name} has shape {np.shape(a.val)} in the reverse half, {np.shape(val)} in the "
                                    "forward half")
            if a.val.dtype != val.dtype:
                raise ActivityError(f"{name} has dtype {a.val.dtype} in the reverse half, {val.dtype} in the forward "
                                    "half; so must its shadow")


def _what(value):
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
