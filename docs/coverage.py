"""Writes coverage.md: what becomes of every NumPy function and ufunc that dispatches, from the tables cyad runs on."""
from pathlib import Path

import numpy.char
import numpy.polynomial
import numpy.strings  # noqa: F401
from numpy.testing.overrides import get_overridable_numpy_array_functions, get_overridable_numpy_ufuncs

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
- *refused*: raises MissingRuleError with the reason

An integer, a truth value or text in the result of any of them carries no derivative either.
"""


def note_of(func, kind):
    """What the row adds: where the rule is, the convention at kinks, why a function is refused."""
    if kind == "rule":
        return f"`{registry.lookup(func).fn.__module__.rpartition('.')[2]}.py`"
    if kind == "elementwise":
        names = [func.__name__] if func.__name__ in table.BY_NAME else table.OUTPUTS[func.__name__]
        return "; ".join(note for note in (table.BY_NAME[name].note for name in names) if note)
    return classification.reason_of(func) or ""


def rows(funcs, name_of):
    """Table lines, sorted by name; functions that dispatch twice under one name appear once."""
    kinds = {name_of(f): (f, classification.classify(f)) for f in funcs}
    return [f"| {name} | {kind} | {note_of(f, kind)} |" for name, (f, kind) in sorted(kinds.items())]


def page():
    """The text of coverage.md."""
    functions = rows(get_overridable_numpy_array_functions(), classification.name_of)
    ufuncs = rows([u for u in get_overridable_numpy_ufuncs() if u.types], lambda u: u.__name__)
    head = ["| name | kind | note |", "|---|---|---|"]
    return "\n".join([HEAD, "## Functions", "", *head, *functions, "", "## Ufuncs", "", *head, *ufuncs]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page())
