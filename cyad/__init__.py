"""cyad: derivatives of NumPy code that already exists.

`cyad.testing`, `cyad.numpy` and `cyad.interop` are imported when they are first looked up, and `cyad.__version__` is
read then: ``import cyad`` has all of them, and costs none.
"""
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING

if importlib.util.find_spec("cyad._shadow") is None:
    raise ImportError(f"{__path__[0]} is a folder of sources that were not compiled, and comes before an installed "
                      "cyad: run Python from another folder, or compile here with `pip install -e .`")

from cyad import _creation, rules  # noqa: F401  (_creation catches the calls of existing code)
from cyad._adjoint import Adjoint, AdjointArray, Tape
from cyad._dual import Dual, DualArray
from cyad._inactive import ignore_derivatives, inactive
from cyad._primitive import primitive
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
from cyad.drivers import hvp, hvp_and_gradient, jacobian
from cyad.errors import (
    ActiveStoreError,
    ActivityError,
    ADError,
    EscapedValueError,
    LockedArrayError,
    MissingRuleError,
    TapeError,
)
from cyad.operators import hessian_operator, jacobian_operator
from cyad.rules.imported import (
    NoTangent,
    ProjectTo,
    ZeroTangent,
    frule,
    import_frule,
    import_rrule,
    rrule,
    thunk,
    unthunk,
)
from cyad.split import SplitTape, autodiff_thunk
from cyad.structures import chunked_onehot, make_zero, onehot, ravel, set_zero
from cyad.transforms import (
    derivative,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    second_derivative,
    value_and_grad,
    vjp,
)

if TYPE_CHECKING:   # to a type checker, that there is no other attribute
    from cyad import activity as activity
    from cyad import api as api
    from cyad import drivers as drivers
    from cyad import errors as errors
    from cyad import interop as interop
    from cyad import numpy as numpy
    from cyad import operators as operators
    from cyad import split as split
    from cyad import structures as structures
    from cyad import testing as testing
    from cyad import transforms as transforms

    __version__: str
else:
    _LAZY = ("interop", "numpy", "testing")

    def __getattr__(name):
        if name in _LAZY:
            return importlib.import_module(f"cyad.{name}")
        found = _version() if name == "__version__" else None
        if found is None:
            raise AttributeError(f"module 'cyad' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
        return found

    def __dir__():
        return sorted({*globals(), *_LAZY, "__version__"})

    def _version():
        """That of the installed package, or of the sources that were compiled in place; None where neither is known."""
        import tomllib
        from importlib import metadata
        from pathlib import Path

        try:
            return metadata.version("cyad")
        except metadata.PackageNotFoundError:
            project = Path(__path__[0]).parent / "pyproject.toml"
            return tomllib.loads(project.read_text("utf-8"))["project"]["version"] if project.exists() else None

__all__ = [
    "ADError", "Active", "ActiveStoreError", "ActivityError", "Adjoint", "AdjointArray", "BatchDuplicated",
    "BatchDuplicatedNoNeed", "BatchMixedDuplicated", "Const", "Dual", "DualArray", "Duplicated", "DuplicatedNoNeed",
    "EscapedValueError", "Forward", "ForwardWithPrimal", "LockedArrayError", "MissingRuleError", "MixedDuplicated",
    "Mode", "NoTangent", "ProjectTo", "Ref", "Reverse", "ReverseHolomorphic", "ReverseHolomorphicWithPrimal",
    "ReverseSplitNoPrimal", "ReverseSplitWithPrimal", "ReverseWithPrimal", "SplitTape", "Tape", "TapeError",
    "ZeroTangent", "autodiff", "autodiff_thunk", "chunked_onehot", "derivative", "frule", "grad", "gradient", "hessian",
    "hessian_operator", "hvp", "hvp_and_gradient", "ignore_derivatives", "import_frule", "import_rrule", "inactive",
    "jacfwd", "jacobian", "jacobian_operator", "jacrev", "jvp", "linearize", "make_zero", "onehot", "primitive",
    "ravel", "rrule", "rules", "second_derivative", "set_zero", "thunk", "unthunk", "value_and_grad", "vjp",
]
