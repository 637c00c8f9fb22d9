"""cyad: derivatives of NumPy code that already exists."""
from cyad import _creation, rules  # noqa: F401  (_creation catches the calls of existing code)
from cyad._adjoint import Adjoint, AdjointArray, Tape
from cyad._dual import Dual, DualArray
from cyad.activity import (
    Active,
    BatchDuplicated,
    BatchDuplicatedNoNeed,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    DuplicatedNoNeed,
    Forward,
    ForwardWithPrimal,
    MixedDuplicated,
    Mode,
    Ref,
    Reverse,
    ReverseHolomorphic,
    ReverseHolomorphicWithPrimal,
    ReverseSplitNoPrimal,
    ReverseSplitWithPrimal,
    ReverseWithPrimal,
)
from cyad.api import autodiff, gradient
from cyad.errors import (
    ActiveStoreError,
    ActivityError,
    ADError,
    EscapedValueError,
    LockedArrayError,
    MissingRuleError,
    TapeError,
)
from cyad.split import SplitTape, autodiff_thunk
from cyad.structures import chunked_onehot, make_zero, onehot, ravel, set_zero

__all__ = [
    "ADError", "Active", "ActiveStoreError", "ActivityError", "Adjoint", "AdjointArray", "BatchDuplicated",
    "BatchDuplicatedNoNeed", "BatchMixedDuplicated", "Const", "Dual", "DualArray", "Duplicated", "DuplicatedNoNeed",
    "EscapedValueError", "Forward", "ForwardWithPrimal", "LockedArrayError", "MissingRuleError", "MixedDuplicated",
    "Mode", "Ref", "Reverse", "ReverseHolomorphic", "ReverseHolomorphicWithPrimal", "ReverseSplitNoPrimal",
    "ReverseSplitWithPrimal", "ReverseWithPrimal", "SplitTape", "Tape", "TapeError", "autodiff", "autodiff_thunk",
    "chunked_onehot", "gradient", "make_zero", "onehot", "ravel", "rules", "set_zero",
]
