"""The derivatives, each stated once: `table` (elementwise) and the structural rules by family.

To find the rule of a function: elementwise ones by their name in `table.py`, others by ``grep "@structural(np.NAME"``.

Rules of your own: `forward`, `augmented_primal` and `reverse`, or `easy_rule`; see `custom` and docs/rules.md.
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
