"""Structured arguments: the numbers and arrays inside tuples, lists, dicts, dataclasses and plain objects.

`flatten` takes a structure apart into its differentiable leaves (floats, complex numbers, arrays of these) and a
function that puts one of the same structure together from other leaves. Anything else (strings, ints, bools, None,
functions, integer arrays) is inactive and stays what it is. An array that appears twice is one leaf, and appears twice
in what is put together; references in a circle are followed once.

Rejected: registering classes, as libraries of pure functions do; existing code does not know of us.
"""
import copy
import types

import numpy as np

_OPAQUE = (str, bytes, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
           np.dtype, np.random.Generator, np.ufunc)


def is_leaf(value):
    """Whether a value has a derivative of its own: a float, a complex number, or an array of these."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fc"
    return isinstance(value, (float, complex, np.floating, np.complexfloating))


def is_structure(value):
    """Whether a value may hold leaves without being one."""
    if is_leaf(value) or isinstance(value, (np.ndarray, np.generic, bool, int, *_OPAQUE)) or value is None:
        return False
    return isinstance(value, (tuple, list, dict)) or hasattr(value, "__dict__")


def flatten(structure):
    """``(leaves, rebuild)``: the leaves in order of appearance, and ``rebuild(leaves)`` for other ones."""
    leaves, numbers, seen = [], {}, set()
    _collect(structure, leaves, numbers, seen)

    def rebuild(values):
        return _build(structure, list(values), numbers, iter([i for k, i in numbers.items() if type(k) is tuple]), {})

    return leaves, rebuild


def _children(value):
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, (tuple, list)):
        return value
    return vars(value).values()


def _collect(value, leaves, numbers, seen):
    if is_leaf(value):
        # A number is itself wherever it stands; an array is one array.
        if isinstance(value, np.ndarray):
            if id(value) in numbers:
                return
            numbers[id(value)] = len(leaves)
        else:
            numbers[("number", len(leaves))] = len(leaves)
        leaves.append(value)
    elif is_structure(value) and id(value) not in seen:
        seen.add(id(value))
        for child in _children(value):
            _collect(child, leaves, numbers, seen)


def _build(value, values, numbers, scalars, built):
    """`value` with other leaves; `scalars` yields the indices of the numbers, in the order in which they were met."""
    if is_leaf(value):
        return values[numbers[id(value)] if isinstance(value, np.ndarray) else next(scalars)]
    if not is_structure(value):
        return value
    if id(value) in built:
        return built[id(value)]
    if isinstance(value, tuple):
        parts = [_build(v, values, numbers, scalars, built) for v in value]
        out = built[id(value)] = type(value)(parts) if type(value) is tuple else type(value)(*parts)
        return out
    if isinstance(value, list):
        out = built[id(value)] = copy.copy(value)
        out[:] = [_build(v, values, numbers, scalars, built) for v in value]
    elif isinstance(value, dict):
        out = built[id(value)] = copy.copy(value)
        for key, v in value.items():
            out[key] = _build(v, values, numbers, scalars, built)
    else:
        out = built[id(value)] = copy.copy(value)
        for key, v in vars(value).items():
            # Frozen dataclasses refuse plain assignment.
            object.__setattr__(out, key, _build(v, values, numbers, scalars, built))
    return out
