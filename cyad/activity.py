"""Annotations of arguments and modes of differentiation. No dependencies but NumPy.

An annotation says what part an argument plays: whether it has a derivative, and where that is kept. It holds on to
what it was given, and copies nothing.

Thread safety: modes are immutable. Calls in several threads at once need shadows of their own.
"""
import dataclasses
import types

import numpy as np

from cyad.errors import ActivityError


class Annotation:
    """Base of all annotations: ``val`` is the primal. They hold references; nothing in them changes by itself."""

    __slots__ = ("val",)
    __class_getitem__ = classmethod(types.GenericAlias)  # activity.pyi is generic over the type of val

    def __init__(self, val):
        self.val = val

    def __repr__(self):
        return f"{type(self).__name__}({self.val!r})"


class Const(Annotation):
    """An argument (or return) without a derivative: any object. Its entry among the derivatives is None.

    Raises nothing itself; in the call, storing active values into a Const array is an ActiveStoreError. Threads may
    share one.

    >>> from cyad import Active, Const, Reverse, autodiff
    >>> autodiff(Reverse, lambda x, y: x * y, Active(2.0), Const(3.0))
    ((3.0, None),)
    """

    __slots__ = ()


class Active(Annotation):
    """A number whose derivative `autodiff` returns. Reverse mode only; arrays take Duplicated.

    ``Active(val)``: a Python or NumPy float or complex number. The derivative has its dtype; that of np.float64 is a
    Python float. As the activity of a return: its adjoint is 1.

    Raises ActivityError for arrays, integers, and what is no number. Threads may share one.

    >>> from cyad import Active, Reverse, autodiff
    >>> autodiff(Reverse, lambda x: x**3, Active, Active(2.0))
    ((12.0,),)
    """

    __slots__ = ()

    def __init__(self, val):
        if isinstance(val, np.ndarray):
            raise ActivityError("Active is for numbers, whose derivative is returned; an array keeps it in a shadow: "
                                "Duplicated(x, np.zeros_like(x))")
        check_number(val, "Active")
        super().__init__(val)


class _Shadowed(Annotation):
    __slots__ = ("dval",)
    batched = False
    needs_primal = True

    def __init__(self, val, dval):
        super().__init__(val)
        check_shadow(type(self).__name__, val, dval)
        self.dval = dval

    def __repr__(self):
        return f"{type(self).__name__}({self.val!r}, {self.dval!r})"


class Duplicated(_Shadowed):
    """An argument and its shadow, of the same shape and dtype.

    Forward: the shadow holds the tangent, of the argument on entry and of its value after the call on exit. Reverse:
    on entry the adjoint of the value after the call, on exit that of the argument; what was not overwritten is added
    to.

    Numbers are Duplicated in forward mode only; in reverse mode they are Active. The shadow of a structure has its
    keys, attribute names and types of containers, in any order (`make_zero` makes one).

    Raises ActivityError where the shadow does not match (that of a structure when it is used), and for integers. Calls
    in several threads at once need shadows of their own.

    >>> import numpy as np
    >>> from cyad import Duplicated, Forward, Reverse, autodiff
    >>> autodiff(Forward, lambda x: x**3, Duplicated(2.0, 1.0))
    (12.0,)
    >>> x, dx = np.array([1.0, 2.0]), np.zeros(2)
    >>> autodiff(Reverse, lambda x: np.sum(x**3), Duplicated(x, dx))
    ((None,),)
    >>> dx
    array([ 3., 12.])
    """

    __slots__ = ()


class DuplicatedNoNeed(Duplicated):
    """Duplicated, whose primal the caller does not look at after the call.

    As the return of a rule it says that the shadow is enough (docs/rules.md). An argument is treated as Duplicated is,
    its primal computed all the same; so are errors and threads.

    >>> from cyad import DuplicatedNoNeed, Forward, autodiff
    >>> autodiff(Forward, lambda x: x**3, DuplicatedNoNeed(2.0, 1.0))
    (12.0,)
    """

    __slots__ = ()
    needs_primal = False


class _Batch(_Shadowed):
    __slots__ = ()
    batched = True

    def __init__(self, val, dval):
        if not isinstance(dval, (tuple, list)):
            raise ActivityError(f"{type(self).__name__} takes a tuple of shadows, one for each lane, not "
                                f"{type(dval).__name__}")
        if not dval:
            raise ActivityError(f"{type(self).__name__}: a batch of width 0 has no meaning")
        Annotation.__init__(self, val)
        for lane in dval:
            check_shadow(type(self).__name__, val, lane)
        self.dval = tuple(dval)


class BatchDuplicated(_Batch):
    """An argument and a tuple of W shadows, each as in `Duplicated`: W derivatives in one call.

    Raises ActivityError as Duplicated does, for an empty tuple, and, in the call, where widths differ. Calls in several
    threads at once need shadows of their own.

    >>> from cyad import BatchDuplicated, Forward, autodiff
    >>> autodiff(Forward, lambda x, y: x * y, BatchDuplicated(2.0, (1.0, 0.0)), BatchDuplicated(3.0, (0.0, 1.0)))
    ((3.0, 2.0),)
    """

    __slots__ = ()


class BatchDuplicatedNoNeed(BatchDuplicated):
    """BatchDuplicated, whose primal the caller does not look at after the call: see `DuplicatedNoNeed`.

    Errors and threads are as for `BatchDuplicated`.

    >>> from cyad import BatchDuplicatedNoNeed, Forward, autodiff
    >>> autodiff(Forward, lambda x: x**3, BatchDuplicatedNoNeed(2.0, (1.0, 10.0)))
    ((12.0, 120.0),)
    """

    __slots__ = ()
    needs_primal = False


class Ref:
    """A place for the shadow of a value that cannot change in place: ``ref.value`` is replaced by the derivative.

    What `MixedDuplicated` takes. Any object can be in it, and nothing is raised here: a value that does not match is an
    ActivityError in the call. Calls in several threads at once need one each.

    >>> from cyad import MixedDuplicated, Ref, Reverse, autodiff
    >>> shadow = Ref((0.0, 0.0))
    >>> autodiff(Reverse, lambda p: p[0] * p[1], MixedDuplicated((2.0, 3.0), shadow))
    ((None,),)
    >>> shadow
    Ref((3.0, 2.0))
    """

    __slots__ = ("value",)
    __class_getitem__ = classmethod(types.GenericAlias)

    def __init__(self, value):
        self.value = value

    def __repr__(self):
        return f"Ref({self.value!r})"


class MixedDuplicated(Annotation):
    """A structure of numbers and arrays with its shadow, of the same structure, in a `Ref`. Reverse mode only.

    Derivatives by arrays are added to the arrays of the shadow; as numbers cannot change in place, the shadow is
    replaced by one that shares its arrays.

    Raises ActivityError where the shadow is in no Ref; in the call, where it does not match and in forward mode. Calls
    in several threads at once need shadows of their own.

    >>> import numpy as np
    >>> from cyad import MixedDuplicated, Ref, Reverse, autodiff
    >>> shadow = Ref([0.0, np.zeros(2)])
    >>> autodiff(Reverse, lambda p: p[0] * np.sum(p[1]), MixedDuplicated([2.0, np.array([1.0, 3.0])], shadow))
    ((None,),)
    >>> shadow.value
    [4.0, array([2., 2.])]
    """

    __slots__ = ("dval",)
    batched = False

    def __init__(self, val, dval):
        super().__init__(val)
        if not isinstance(dval, Ref):
            raise ActivityError(f"{type(self).__name__} takes its shadow in a Ref, whose value is replaced; got "
                                f"{type(dval).__name__}")
        self.dval = dval


class BatchMixedDuplicated(Annotation):
    """MixedDuplicated with a tuple of W Refs, each with a shadow of its own: W lanes. Reverse mode only.

    Raises ActivityError for what is no tuple of Refs, and for an empty one; otherwise errors and threads are as for
    `MixedDuplicated`.

    >>> from cyad import BatchMixedDuplicated, Ref, Reverse, autodiff
    >>> shadows = Ref([0.0]), Ref([1.0])
    >>> autodiff(Reverse, lambda p: p[0] ** 2, BatchMixedDuplicated([3.0], shadows))
    ((None,),)
    >>> shadows
    (Ref([6.0]), Ref([7.0]))
    """

    __slots__ = ("dval",)
    batched = True

    def __init__(self, val, dval):
        super().__init__(val)
        if not isinstance(dval, (tuple, list)) or not dval or not all(isinstance(d, Ref) for d in dval):
            raise ActivityError("BatchMixedDuplicated takes a tuple of Refs, one for each lane")
        self.dval = tuple(dval)


class Input(Annotation):
    """An input whose shadow cyad keeps for itself (`_pullback`). Not public."""

    __slots__ = ()


def check_number(val, who):
    """Active and scalar shadows are for floats: integers have no derivative."""
    if isinstance(val, (bool, int, np.integer, np.bool_)):
        raise ActivityError(f"{who}({val!r}): an integer has no derivative; pass a float, e.g. {float(val)!r}")
    if not isinstance(val, (float, complex, np.floating, np.complexfloating)):
        raise ActivityError(f"{who} takes a float or complex number, not {type(val).__name__}; pass Const(value) where "
                            "no derivative is wanted")


def check_shadow(who, val, dval):
    if isinstance(val, np.ndarray):
        if val.dtype.kind not in "fc":
            raise ActivityError(f"{who}: an array of dtype {val.dtype} has no derivative; pass an array of floats")
        if not isinstance(dval, np.ndarray):
            raise ActivityError(f"{who}: the shadow of an array is an array, not {type(dval).__name__}")
        if dval.shape != val.shape:
            raise ActivityError(f"{who}: the shadow has shape {dval.shape}, the array {val.shape}; they must be the "
                                "same")
        if dval.dtype != val.dtype:
            if not val.dtype.isnative:
                raise ActivityError(f"{who}: the array is byte-swapped ({val.dtype}); pass a copy: "
                                    f".astype(np.{val.dtype.type.__name__})")
            raise ActivityError(f"{who}: the shadow has dtype {dval.dtype}, the array {val.dtype}; they must be the "
                                "same")
    elif isinstance(val, (bool, int, float, complex, np.number, np.bool_)):
        check_number(val, who)
        if isinstance(dval, np.ndarray) or not isinstance(dval, (int, float, complex, np.number)):
            raise ActivityError(f"{who}: the shadow of a number is a number, not {type(dval).__name__}")


@dataclasses.dataclass(frozen=True)
class Mode:
    """How to differentiate. The package has the usual ones, whose methods derive others:

    - `Forward`: tangents, from arguments to results. `ForwardWithPrimal` returns the value as well.
    - `Reverse`: adjoints, from results to arguments. `ReverseWithPrimal` returns the value as well.
    - `ReverseHolomorphic`, `ReverseHolomorphicWithPrimal`: f'(z) of a complex result of complex arguments; that f is
      holomorphic is not checked. In the other modes the derivative by a complex argument is df/dRe + i df/dIm.
    - `ReverseSplitNoPrimal`, `ReverseSplitWithPrimal`: the two halves of `autodiff_thunk`.

    Fields, all bool but one: `forward`, or reverse; `primal`, whether the value is returned, too; `holomorphic`;
    `is_split`; `width`, the lanes of the shadow that a split mode makes for a result, an int; `strong_zero` and
    `runtime_activity`: see `with_strong_zero`, `with_runtime_activity`.

    Frozen and hashable, so threads may share one. `split` and the functions that take modes raise ActivityError where
    one does not fit.

    >>> from cyad import Mode, Reverse, ReverseWithPrimal
    >>> Reverse.with_primal() == ReverseWithPrimal == Mode(forward=False, primal=True)
    True
    """

    forward: bool
    primal: bool = False
    holomorphic: bool = False
    is_split: bool = False
    width: int = 1
    strong_zero: bool = False
    runtime_activity: bool = False
    __class_getitem__ = classmethod(types.GenericAlias)  # and over those of forward and primal

    def with_primal(self):
        """The same mode, returning the primal as well."""
        return dataclasses.replace(self, primal=True)

    def no_primal(self):
        """The same mode, without the primal."""
        return dataclasses.replace(self, primal=False)

    def split(self, width=1):
        """Reverse in two halves (`autodiff_thunk`), with `width` lanes. ActivityError for forward modes and a width
        below 1."""
        if self.forward:
            raise ActivityError("forward mode has no halves to split into")
        if width < 1:
            raise ActivityError(f"a batch of width {width} has no meaning")
        return dataclasses.replace(self, is_split=True, width=width)

    def combined(self):
        """Reverse in one go."""
        return dataclasses.replace(self, is_split=False, width=1)

    def with_strong_zero(self):
        """A zero adjoint (tangent) contributes nothing, even where the partial derivative is infinite or nan.

        This holds entry by entry in elementwise operations, in rules by partial derivatives and in products of arrays
        (dot, matmul, inner, outer, tensordot, einsum, vecdot, convolve, correlate). Of other functions (prod, cumprod,
        std, norm, det, solve, ...) it holds as a whole: where the tangent of an argument (the adjoint of the result) is
        zero throughout. To outer differentiations, too, what is left out is 0.
        """
        return dataclasses.replace(self, strong_zero=True)

    def with_runtime_activity(self):
        """Accepted for code that comes from Enzyme; activity is always decided at run time here."""
        return dataclasses.replace(self, runtime_activity=True)

    @property
    def name(self):
        """What kind of mode it is, for messages: "ReverseHolomorphicWithPrimal"; without width and zeros."""
        return ("Forward" if self.forward else "Reverse") + ("Holomorphic" if self.holomorphic else "") + \
            ("Split" if self.is_split else "") + ("WithPrimal" if self.primal else "")


Forward = Mode(True)
ForwardWithPrimal = Mode(True, primal=True)
Reverse = Mode(False)
ReverseWithPrimal = Mode(False, primal=True)
ReverseHolomorphic = Mode(False, holomorphic=True)
ReverseHolomorphicWithPrimal = Mode(False, primal=True, holomorphic=True)
ReverseSplitNoPrimal = Mode(False, is_split=True)
ReverseSplitWithPrimal = Mode(False, primal=True, is_split=True)
