"""Functions whose result carries no derivative: they run on plain primal values.

Three kinds: results that are no floating point values at all (indices, shapes, truth values, text), results that are
piecewise constant (rounding, ranks), and questions about the memory. A function that is not listed here is *not* taken
to have derivative zero.
"""
import numpy as np
from numpy.testing.overrides import get_overridable_numpy_ufuncs

from cyad.rules.registry import ZERO

ZERO |= {
    # truth values
    np.all, np.allclose, np.any, np.array_equal, np.array_equiv, np.isclose, np.iscomplex, np.iscomplexobj, np.isin,
    np.isneginf, np.isposinf, np.isreal, np.isrealobj,
    # indices, counts and ranks
    np.argmax, np.argmin, np.argpartition, np.argsort, np.argwhere, np.count_nonzero, np.digitize, np.flatnonzero,
    np.lexsort, np.nanargmax, np.nanargmin, np.nonzero, np.searchsorted, np.linalg.matrix_rank,
    *((np.in1d,) if hasattr(np, "in1d") else ()), np.diag_indices_from, np.tril_indices_from, np.triu_indices_from,
    # shapes, types and memory
    np.can_cast, np.common_type, np.may_share_memory, np.min_scalar_type, np.ndim, np.result_type, np.shape,
    np.shares_memory, np.size, np.einsum_path,
    # piecewise constant
    np.around, np.round,
    # text
    np.array2string, np.array_repr, np.array_str,
    # a ufunc without a public name
    *(u for u in get_overridable_numpy_ufuncs() if u.__name__ == "_ones_like"),
}

