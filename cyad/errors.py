"""What cyad raises. All of it derives from `ADError`, and from the builtin that a user would expect.

None derives from AttributeError: ``hasattr`` and ``getattr`` with a default would swallow it, and a lost
derivative would look like a missing attribute.
"""
import linecache
import sys


class ADError(Exception):
    """Base of everything that cyad raises by itself; each class is a builtin exception as well.

    What the user's function raises passes through unchanged. An error ends the call that it is raised in, and none in
    another thread.

    >>> import cyad
    >>> try:
    ...     cyad.gradient(cyad.Reverse, lambda x: x * x, 3)
    ... except cyad.ADError as error:
    ...     print(type(error).__name__)
    ActivityError
    """


class ActivityError(ADError, TypeError):
    """An annotation, a shadow or a mode that does not fit the value it came with. A TypeError, too.

    >>> import cyad
    >>> cyad.Active(3)
    Traceback (most recent call last):
        ...
    cyad.errors.ActivityError: Active(3): an integer has no derivative; pass a float, e.g. 3.0
    """


class ActiveStoreError(ADError, TypeError):
    """An active value was about to enter memory, or a plain number, that cannot carry its derivative. A TypeError, too.

    >>> import cyad
    >>> cyad.gradient(cyad.Reverse, lambda x: float(x) ** 2, 3.0)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    cyad.errors.ActiveStoreError: float() of an active value...
    """


class MissingRuleError(ADError, NotImplementedError):
    """A function met an active value and no rule says what its derivative is. A NotImplementedError, too.

    Where a function has a rule, but none for these options, it is a `cyad.rules.registry.NotSupported`, a subclass.

    >>> import cyad
    >>> import numpy as np
    >>> cyad.gradient(cyad.Reverse, lambda x: np.packbits(x), np.ones(8))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    cyad.errors.MissingRuleError: np.packbits of an active value: ...
    """


class EscapedValueError(ADError, RuntimeError):
    """A tracked value was used after the call that it belongs to had ended. A RuntimeError, too.

    >>> import cyad
    >>> kept = []
    >>> cyad.gradient(cyad.Reverse, lambda x: kept.append(x) or x * x, 3.0)
    (6.0,)
    >>> kept[0] + 1.0  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    cyad.errors.EscapedValueError: a value of the differentiated call of <lambda> was used after that call had ended...
    """


class LockedArrayError(ADError, ValueError):
    """A captured array that the tape refers to was about to be written. A ValueError, too.

    Captured arrays of up to 1 MiB (1048576 bytes) are copied, and all where the tape outlives the call (`vjp`, split
    mode, `Tape`); others are read-only until the call ends, to all threads.

    >>> import cyad
    >>> import numpy as np
    >>> captured = np.ones(200_000)
    >>> def f(x):
    ...     y = x * captured
    ...     captured[0] = 2.0
    ...     return np.sum(y)
    >>> cyad.gradient(cyad.Reverse, f, np.ones(200_000))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    cyad.errors.LockedArrayError: f wrote an array that it captured and that the tape refers to...
    """


class TapeError(ADError, RuntimeError):
    """A tape was used in a way that its state does not allow: swept by two threads at once, recorded twice. A
    RuntimeError, too.

    >>> import cyad
    >>> with cyad.Tape() as tape:
    ...     x = tape.variable(2.0)
    >>> tape.__enter__()
    Traceback (most recent call last):
        ...
    cyad.errors.TapeError: a tape records once; make a new Tape for another recording
    """


def name_of(f):
    """What messages call a function: by its name, and the user's own where a method of ours acts for it."""
    owner = getattr(f, "__self__", None)
    if hasattr(owner, "acts_for"):
        f = owner
    return getattr(f, "__qualname__", None) or type(f).__qualname__


# Where to get an array that can hold active values.
FRESH = "np.zeros, or a copy of a captured one, U0.copy()"


def lost(call):
    """The error for a call that would turn an active value into a plain number, with the line that made it."""
    return ActiveStoreError(
        f"{call} of an active value, or a store of it into a plain array that cannot carry derivatives, would lose its "
        f"derivative{where()}; keep the value as it is, or allocate the array inside the differentiated function "
        f"({FRESH}), or pass the object that keeps it as an argument with a shadow, Duplicated(obj, make_zero(obj)). "
        "Text: f'{x:.3f}' in place of '%.3f' % x; complex numbers: x + 1j*y in place of complex(x, y)")


def of_sparse():
    """What to do about an error inside scipy.sparse; '' elsewhere."""
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cyad", "numpy"):
        frame = frame.f_back
    if frame is None or not frame.f_globals.get("__name__", "").startswith("scipy.sparse"):
        return ""
    return (". scipy.sparse computes in compiled code: work with the array A.data (for a product: np.add.at with the "
            "indices), with A.toarray(), or give the function that uses it a rule")


def where():
    """` in smooth, line 12 (out[i] = x[i])`: the innermost line that is neither NumPy's nor ours; '' if none is."""
    frame = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("cyad", "numpy"):
        frame = frame.f_back
    if frame is None:
        return ""
    code = frame.f_code
    line = linecache.getline(code.co_filename, frame.f_lineno, frame.f_globals).strip()
    return f" in {code.co_qualname}, line {frame.f_lineno}" + (f" ({line})" if line else "")
