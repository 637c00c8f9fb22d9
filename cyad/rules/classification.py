"""What becomes of each NumPy function and ufunc that dispatches when an active array meets it.

  rule         a structural rule, in the modules next to this one
  elementwise  a row in ``table.py``
  zero         the result carries no derivative (``zero.py``, or a row of zeros)
  composite    Python code in terms of others: its own ``_implementation`` runs on the tracked arrays
  view         the result shares memory with the argument: so does its shadow
  creation     makes an array; the carriers make a tracked one
  constant     reads a plain array from elsewhere; only a copy of it can take active values
  store        writes into an argument: a matter of memory, so of the carriers
  refused      no derivative, with the reason

Names are the key, not functions: the creation functions dispatch twice (on ``like=`` too) under one name. Of the ufuncs
only those are here that have no derivative: the others have a row in ``table.py`` or a rule.
"""
import numpy as np

from cyad.rules import registry, table

COMPOSITE = """
    angle append apply_along_axis apply_over_axes array_split atleast_1d atleast_2d atleast_3d average
    broadcast_arrays column_stack corrcoef cov cumulative_prod cumulative_sum delete diff dsplit dstack ediff1d extract
    fix fliplr flipud geomspace gradient histogram histogram2d histogram_bin_edges histogramdd hsplit hstack insert
    intersect1d ix_ kron linspace logspace meshgrid nancumprod nancumsum nanmax nanmin nanpercentile nanprod
    nanquantile nansum pad percentile piecewise poly polyadd polyder polydiv polyfit polyint
    polysub polyval ptp quantile real_if_close resize roots rot90 rollaxis setdiff1d setxor1d sort_complex split
    tile trapezoid tril trim_zeros triu union1d unique_all unique_counts unique_inverse unique_values unstack unwrap
    vander vsplit vstack
    fft.fft2 fft.fftn fft.fftshift fft.ifft2 fft.ifftn fft.ifftshift fft.irfft2 fft.irfftn fft.rfft2
    fft.rfftn
    lib.scimath.arccos lib.scimath.arcsin lib.scimath.arctanh lib.scimath.log lib.scimath.log10 lib.scimath.log2
    lib.scimath.logn lib.scimath.power lib.scimath.sqrt
    linalg.cross linalg.matmul linalg.matrix_norm linalg.matrix_power linalg.multi_dot linalg.outer
    linalg.tensordot linalg.tensorinv linalg.trace linalg.vecdot linalg.vector_norm
""".split()

VIEW = """
    broadcast_to diagonal expand_dims flip matrix_transpose moveaxis ravel reshape squeeze swapaxes transpose
    linalg.diagonal linalg.matrix_transpose
""".split()

CREATION = """
    arange array asanyarray asarray ascontiguousarray asfortranarray empty empty_like eye fromfunction fromiter full
    full_like identity ones ones_like require tri zeros zeros_like
""".split()

CONSTANT = "frombuffer fromfile fromstring genfromtxt loadtxt".split()

STORE = "copyto fill_diagonal place put put_along_axis putmask".split()

_REASONS = {
    "it works on structured arrays, which carry no derivative: keep the fields as separate arrays": """
        lib.recfunctions.append_fields lib.recfunctions.apply_along_fields lib.recfunctions.assign_fields_by_name
        lib.recfunctions.drop_fields lib.recfunctions.find_duplicates lib.recfunctions.join_by
        lib.recfunctions.merge_arrays lib.recfunctions.rec_append_fields lib.recfunctions.rec_drop_fields
        lib.recfunctions.rec_join lib.recfunctions.recursive_fill_fields lib.recfunctions.rename_fields
        lib.recfunctions.repack_fields lib.recfunctions.require_fields lib.recfunctions.stack_arrays
        lib.recfunctions.structured_to_unstructured lib.recfunctions.unstructured_to_structured""",
    "it writes plain numbers to a file, which would lose the derivative": "save savetxt savez savez_compressed",
    "it works on dates, bits or integers, not on floating point numbers": """
        busday_count busday_offset datetime_as_string is_busday packbits ravel_multi_index unpackbits unravel_index""",
}

_TEXT = "it works on text, not on numbers"
_UFUNC_REASONS = {
    "it works on bits or integers, not on floating point numbers": """
        bitwise_and bitwise_count bitwise_or bitwise_xor gcd invert lcm left_shift right_shift""",
    "it works on dates, not on floating point numbers": "isnat",
    _TEXT: """
        _center _expandtabs _expandtabs_length _ljust _lstrip_chars _lstrip_whitespace _partition _partition_index
        _replace _rjust _rpartition _rpartition_index _rstrip_chars _rstrip_whitespace _slice _strip_chars
        _strip_whitespace _zfill count endswith find index isalnum isalpha isdecimal isdigit islower isnumeric isspace
        istitle isupper rfind rindex startswith str_len""",
}

REFUSED_UFUNCS = {name: reason for reason, names in _UFUNC_REASONS.items() for name in names.split()}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}

_KINDS = {**dict.fromkeys(COMPOSITE, "composite"), **dict.fromkeys(VIEW, "view"),
          **dict.fromkeys(CREATION, "creation"), **dict.fromkeys(CONSTANT, "constant"),
          **dict.fromkeys(STORE, "store"), **dict.fromkeys(REFUSED, "refused")}


def name_of(func):
    """``"linalg.norm"`` for ``np.linalg.norm``: the name by which this table knows a function."""
    module = func.__module__.replace("._scimath_impl", ".scimath").replace("._stride_tricks_impl", ".stride_tricks")
    return f"{module}.{func.__name__}".removeprefix("numpy.")


def reason_of(func):
    """Why a function or ufunc is refused; None for those that are not."""
    if isinstance(func, np.ufunc):
        return REFUSED_UFUNCS.get(func.__name__)
    # These two modules are loaded only when somebody asks for them.
    return _TEXT if func.__module__ in ("numpy.char", "numpy.strings") else REFUSED.get(name_of(func))


def classify(func):
    """The kind of a NumPy function that dispatches, or None for one that no list knows."""
    if registry.lookup(func) is not None:
        return "rule"
    if registry.is_zero(func):
        return "zero"
    if isinstance(func, np.ufunc):
        row = table.BY_NAME.get(func.__name__)
        if row is not None:
            return "zero" if set(row.partials) == {"0"} else "elementwise"
        if func.__name__ in table.OUTPUTS:
            return "elementwise"
        return None if reason_of(func) is None else "refused"
    if reason_of(func) is not None:
        return "refused"
    if func.__module__.startswith("numpy.polynomial"):
        return "composite"
    return _KINDS.get(name_of(func))
