"""NumPy functions as other libraries call them: a flat list of arguments, a flat list of float results.

`pullback` and `pushforward` of such a function are NumPy functions again, written with `autodiff`: a library that
differentiates twice gets its second derivative by the adapter that gave it the first.
"""
import numpy as np

from cyad._structures import is_leaf
from cyad.activity import Active, Const, Duplicated, Forward, Reverse
from cyad.api import autodiff


def walk(value, seen):
    """The structure with `seen` applied to everything in it that is no tuple, list or dict."""
    if isinstance(value, dict):
        return type(value)((key, walk(part, seen)) for key, part in value.items())
    if isinstance(value, tuple):
        parts = [walk(part, seen) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [walk(part, seen) for part in value]
    return seen(value)


def floats_of(value):
    """The floats and float arrays of a result, in order."""
    found = []
    walk(value, lambda part: found.append(part) if is_leaf(part) else None)
    return found


def with_floats(value, floats):
    """The same result with other floats."""
    floats = iter(floats)
    return walk(value, lambda part: next(floats) if is_leaf(part) else part)


def contracted(result, cotangents):
    """Re <cotangents, floats of the result>; None is zero."""
    total = 0.0
    for leaf, g in zip(floats_of(result), cotangents, strict=True):
        if g is None:
            continue
        if np.iscomplexobj(g):
            total = total + np.sum(np.real(leaf) * np.real(g)) + np.sum(np.imag(leaf) * np.imag(g))
        else:
            total = total + np.sum(np.real(leaf) * g)
    return total


def pullback(f, args, cotangents, wanted):
    """The adjoints of the wanted ones of the arguments of ``f(*args)``, in order, from those of its results.

    f gets copies: what it overwrites belongs to another library, which would not know. Every float array has a shadow,
    wanted or not, because f may store active values into it.
    """
    annotated = []
    for x, wants in zip(args, wanted, strict=True):
        if isinstance(x, np.ndarray):
            annotated.append(Duplicated(x.copy(), np.zeros_like(x)) if is_leaf(x) else Const(x.copy()))
        else:
            annotated.append(Active(x) if wants else Const(x))
    (entries,) = autodiff(Reverse, lambda *xs: contracted(f(*xs), cotangents), Active, *annotated)
    return [a.dval if isinstance(a, Duplicated) else e
            for a, e, wants in zip(annotated, entries, wanted, strict=True) if wants]


def pushforward(f, args, tangents):
    """The tangents of the floats of ``f(*args)``, in order, from those of the arguments; None is zero."""
    annotated = []
    for x, v in zip(args, tangents, strict=True):
        if isinstance(x, np.ndarray):
            annotated.append(Duplicated(x.copy(), np.zeros_like(x) if v is None else v.copy()) if is_leaf(x) else
                             Const(x.copy()))
        else:
            annotated.append(Const(x) if v is None else Duplicated(x, v))
    (derivatives,) = autodiff(Forward, lambda *xs: floats_of(f(*xs)), Duplicated, *annotated)
    return derivatives
