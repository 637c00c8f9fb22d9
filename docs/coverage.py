"""Writes coverage.md: what becomes of every NumPy function and ufunc that dispatches, from the tables cyad runs on.

Also the functions of scipy.special that have a row, and the options of functions that are refused, by calling each.
"""
from pathlib import Path

import numpy as np
import numpy.char
import numpy.polynomial
import numpy.strings
from numpy.testing.overrides import get_overridable_numpy_array_functions, get_overridable_numpy_ufuncs

import cyad
from cyad.rules import classification, registry, table

HEAD = """\
# What is differentiated

Every NumPy function and ufunc that dispatches, and what becomes of it when an active array comes in. Written by
`python docs/coverage.py` from the tables that cyad itself uses; `tests/test_completeness.py` calls each of them in both
modes and compares with finite differences.

- *rule*: its derivative is stated, in the module named (`cyad/rules/`)
- *elementwise*: a row of `cyad/rules/table.py`
- *composite*: NumPy's own implementation runs on tracked arrays
- *view*: the result is a view, and so is its shadow
- *creation*: the array that is made can take active values
- *constant*: reads a plain array from elsewhere; only a copy of it can take active values
- *store*: writes values and their derivatives into an argument
- *zero*: the result carries no derivative
- *refused*: raises MissingRuleError with the reason; its subclass NotSupported (`cyad.rules.registry`) where there is
  a rule, but not [for these arguments](#refused-options)

An integer, a truth value or text in the result of any of them carries no derivative either.
"""

SPECIAL = """\
## scipy.special

The ufuncs of `scipy.special` with a row in `cyad/rules/table.py`; the others raise MissingRuleError (`log1p`, `expm1`,
`exp2` and `cbrt` among them: NumPy's have rows). Functions in Python on top of them (`logsumexp`, `softmax`,
`polygamma`) run on tracked arrays. cyad does not import SciPy.
"""

OPTIONS = """\
## Refused options

Calls that raise NotSupported on active values, though the function has a rule, and what to do instead. `x` is a vector,
`A` a matrix of more rows than columns, `S` a square one. `nanmedian` is like `median`, `std` like `var`, `fmax`,
`fmin` and `minimum` like `maximum`. Two refusals are of another kind: a ufunc with `where=` and without `out=` raises
ActivityError, because it leaves the rest of the result undefined; `np.matmul` with `axes=` raises MissingRuleError.
"""

# tests/test_completeness.py sees to it that these meet all refusals of cyad/rules.
REFUSED = """
np.clip(x, 0.0, 1.0, dtype=np.float32)
np.clip(x, 0.0, 1.0, where=[True, False, True])
np.cross(A, A)
np.einsum("i,i", x, x, dtype=np.float32)
np.linalg.pinv(S, hermitian=True)
np.linalg.qr(A, mode="complete")
np.linalg.qr(A, mode="raw")
np.linalg.svd(S, hermitian=True)
np.logaddexp.reduce(x, initial=0.0)
np.maximum.accumulate(x, dtype=np.float32)
np.maximum.reduce(x, dtype=np.float32)
np.median(x, overwrite_input=True)
np.nan_to_num(x, copy=False)
np.partition(x, 1, order="f")
np.sort(x, order="f")
np.var(x, dtype=np.float32)
np.vecdot(S, x, axis=0)
np.vecdot(x, x, axes=[0, 0, ()])
np.where(x)
""".split("\n")[1:-1]


def refusal(call):
    """The NotSupported that a call raises on active arrays."""
    point = np.array([0.3, 0.5, 0.8]), np.arange(6.0).reshape(3, 2) ** 2, np.eye(3) + 0.1
    code = compile(call, call, "eval")

    def f(x, A, S):
        eval(code, {"np": np, "x": x, "A": A, "S": S})
        return x[0]

    try:
        cyad.gradient(cyad.Reverse, f, *point)
    except registry.NotSupported as error:
        return error
    raise AssertionError(f"{call} is not refused")


def note_of(func, kind):
    """What the row adds: where the rule is, the convention at kinks, why a function is refused."""
    if kind == "rule":
        return f"`{registry.lookup(func).fn.__module__.rpartition('.')[2]}.py`"
    if kind == "elementwise":
        names = [func.__name__] if func.__name__ in table.BY_NAME else table.OUTPUTS[func.__name__]
        return "; ".join(note for note in (table.BY_NAME[name].note for name in names) if note)
    return classification.reason_of(func) or ""


# Functions that the newest NumPy has not, but an older one that cyad works with.
GONE = {"in1d": ("zero", "until NumPy 2.3")}


def rows(funcs, name_of, gone=()):
    """Table lines, sorted by name; functions that dispatch twice under one name appear once."""
    kinds = {name_of(f): (f, classification.classify(f)) for f in funcs}
    columns = {name: (kind, note_of(f, kind)) for name, (f, kind) in kinds.items()} | dict(gone)
    return [f"| {name} | {kind} | {note} |" for name, (kind, note) in sorted(columns.items())]


def page():
    """The text of coverage.md."""
    functions = rows(get_overridable_numpy_array_functions(), classification.name_of, GONE)
    ufuncs = rows([u for u in get_overridable_numpy_ufuncs() if u.types], lambda u: u.__name__)
    head = ["| name | kind | note |", "|---|---|---|"]
    special = [f"| {row.name} | {row.note} |" for row in sorted(table.SPECIAL, key=lambda row: row.name)]
    options = [f"| `{call}` | {str(refusal(call)).rpartition('; ')[2]} |" for call in REFUSED]
    return "\n".join([HEAD, "## Functions", "", *head, *functions, "", "## Ufuncs", "", *head, *ufuncs, "",
                      SPECIAL, "| name | note |", "|---|---|", *special, "",
                      OPTIONS, "| call | instead |", "|---|---|", *options]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
