"""The derivatives, each stated once: `table` (elementwise) and the structural rules by family.

To find the rule of a function: elementwise ones by their name in `table.py`, others by ``grep "@structural(np.NAME"``.

Rules of your own: `forward`, `augmented_primal` and `reverse`, or `easy_rule`; see `custom` and docs/rules.md.

Thread safety: a rule belongs to the process: all threads see it from then on, also one registered in a `scope`. It may
be registered and removed while others differentiate, by one thread at a time for each function; their calls see the
change or not. What a rule itself may do in several threads at once is its author's matter.
"""
from cyad._structures import inactive_type
from cyad.rules import (  # noqa: F401  (imported for what they register)
    einsum,
    fourier,
    interpolation,
    joining,
    linalg,
    products,
    reductions,
    scans,
    selection,
    shapes,
    special,
    zero,
)
from cyad.rules.custom import (
    AugmentedReturn,
    augmented_primal,
    easy_rule,
    forward,
    has_rule,
    needs_primal,
    needs_shadow,
    overwritten,
    remove,
    reverse,
    scope,
)
from cyad.rules.partials import Constant

__all__ = [
    "AugmentedReturn", "Constant", "augmented_primal", "easy_rule", "forward", "has_rule", "inactive_type",
    "needs_primal", "needs_shadow", "overwritten", "remove", "reverse", "scope",
]
