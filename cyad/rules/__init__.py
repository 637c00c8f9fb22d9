"""The derivatives, each stated once: `table` (elementwise) and the structural rules by family.

To find the rule of a function: elementwise ones by their name in `table.py`, others by ``grep "@structural(np.NAME"``.
"""
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
