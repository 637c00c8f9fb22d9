"""Helpers for structures of numbers and arrays: zeros like them, unit vectors of their entries, and one vector of all.

A structure is anything that `cyad.gradient` takes as an argument: floats, complex numbers, arrays of these, and tuples,
lists, dicts, dataclasses and plain objects that hold them, however nested. Everything else in it (strings, ints, None,
functions) is left as it is.

Thread safety: nothing is kept between calls; `set_zero` writes into what it is given.
"""
import numpy as np

from cyad._structures import Leaf, Node, flatten, is_frozen, parse
from cyad.errors import ActivityError


def _zero(leaf):
    return np.zeros_like(leaf) if isinstance(leaf, np.ndarray) else leaf * 0 if np.isfinite(leaf) else type(leaf)(0)


def make_zero(x):
    """A structure like `x` whose numbers and arrays are zero: the shadow to begin with.

    Shapes, dtypes and types are those of `x`. An array that appears twice in `x` gives one array that appears twice;
    what is inactive (strings, integers, functions) is that of `x`.

    Raises nothing itself; errors of objects that refuse to be copied pass through. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import make_zero
    >>> make_zero({"w": np.ones(2), "scale": 3.0, "name": "layer"})
    {'w': array([0., 0.]), 'scale': 0.0, 'name': 'layer'}
    """
    leaves, rebuild = flatten(x)
    return rebuild([_zero(leaf) for leaf in leaves])


def set_zero(x):
    """Set the numbers and arrays of a structure to zero, in place.

    Arrays are overwritten; numbers are replaced in the list, dict or object that holds them.

    Raises ActivityError, before anything is changed, for numbers that cannot be replaced (on their own, in a tuple, in
    a frozen dataclass) and for arrays that are read-only; `make_zero` makes a new structure. One thread at a time may
    write into a structure.

    >>> import numpy as np
    >>> from cyad import set_zero
    >>> shadow = {"w": np.ones(2), "scale": 3.0}
    >>> set_zero(shadow)
    >>> shadow
    {'w': array([0., 0.]), 'scale': 0.0}
    """
    leaves, tree, _ = parse(x)
    if isinstance(tree, Leaf) and not isinstance(x, np.ndarray):
        raise ActivityError("set_zero writes in place, which a number does not allow; use make_zero")
    for leaf in leaves:
        if isinstance(leaf, np.ndarray) and not leaf.flags.writeable:
            raise ActivityError(f"set_zero: an array of shape {leaf.shape} is read-only; use make_zero")
    replaced = list(_numbers(tree, leaves, set()))
    for leaf in leaves:
        if isinstance(leaf, np.ndarray):
            leaf[...] = 0
    for holder, key, is_attribute, zero in replaced:
        if is_attribute:
            setattr(holder, key, zero)
        else:
            holder[key] = zero


def _numbers(part, leaves, seen):
    """Where the numbers of a structure stand: (holder, key, whether it is an attribute, the zero of its kind)."""
    if not isinstance(part, Node) or id(part) in seen:
        return
    seen.add(id(part))
    holder = part.value
    frozen = is_frozen(holder)
    for places, is_attribute in ((part.items, False), (part.attributes, True)):
        for key, child in places:
            if not isinstance(child, Leaf):
                yield from _numbers(child, leaves, seen)
            elif not isinstance(leaves[child.index], np.ndarray):
                if frozen or isinstance(holder, tuple):
                    raise ActivityError(f"set_zero: a {type(holder).__name__} holds a number ({key!r}), which cannot "
                                        "be replaced in place; use make_zero")
                yield holder, key, is_attribute, _zero(leaves[child.index])


def _directions(leaves):
    """The real directions of leaves: (leaf, entry, 1.0), and for a complex entry (leaf, entry, 1j) as well."""
    for i, leaf in enumerate(leaves):
        for entry in range(np.size(leaf)):
            yield i, entry, 1.0
            if np.iscomplexobj(leaf):
                yield i, entry, 1j


def onehot(x, start=0, stop=None):
    """The unit vectors of a structure: a tuple of structures like `x`, each with one entry 1 and all others 0.

    They come in the order of the entries of `x` (arrays row by row); a complex entry gives two, 1 and 1j. They are the
    tangents of a BatchDuplicated whose lanes are partial derivatives, and have the shapes and dtypes of `x`. ``start``
    and ``stop`` select some of them, as in a slice.

    Raises TypeError where `start` or `stop` is no integer. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import onehot
    >>> onehot(np.zeros(2))
    (array([1., 0.]), array([0., 1.]))
    >>> onehot([2.0, 3.0], start=1)
    ([0.0, 1.0],)
    """
    leaves, rebuild = flatten(x)
    out = []
    for i, entry, unit in list(_directions(leaves))[start:stop]:
        units = [_zero(leaf) for leaf in leaves]
        if isinstance(units[i], np.ndarray):
            units[i][np.unravel_index(entry, units[i].shape)] = unit
        else:
            units[i] = units[i] + type(units[i])(unit)
        out.append(rebuild(units))
    return tuple(out)


def chunked_onehot(x, chunk):
    """The unit vectors of a structure in tuples of `chunk` (the last may be shorter): one tuple for each batched call.

    All are made at once, and each takes as many bytes as `x`; `onehot` with `start` and `stop` makes those of one call.

    Raises ActivityError for a `chunk`, the number of lanes, that is no positive integer. Any number of threads may call
    it.

    >>> import numpy as np
    >>> from cyad import chunked_onehot
    >>> [len(lanes) for lanes in chunked_onehot(np.zeros(5), 2)]
    [2, 2, 1]
    """
    chunk = check_chunk(chunk)
    total = sum(np.size(leaf) * (2 if np.iscomplexobj(leaf) else 1) for leaf in flatten(x)[0])
    return tuple(onehot(x, first, first + chunk) for first in range(0, total, chunk))


def check_chunk(chunk):
    """`chunk` as an int; ActivityError for what is no positive integer."""
    if isinstance(chunk, (bool, np.bool_)) or not isinstance(chunk, (int, np.integer)):
        raise ActivityError(f"chunk= is the number of derivatives in one sweep, a positive integer; got {chunk!r}")
    if chunk < 1:
        raise ActivityError(f"chunk={chunk}: a sweep needs at least one derivative; leave chunk out to have it chosen")
    return int(chunk)


def ravel(x):
    """``(vector, unravel)``: the entries of a structure in one vector, and what makes such a structure of a vector.

    The vector is a copy, in NumPy's common dtype of all leaves (float64 if there are none); ``unravel(v)`` gives every
    array and number the shape and type it had, and may be differentiated: an optimiser that knows vectors only can have
    the gradient of a function of structures. Arrays of `unravel` are views of `v` where their dtype allows.

    ``unravel`` raises ActivityError where `v` has another length or shape, or is complex although no leaf is. Any
    number of threads may call either.

    >>> import numpy as np
    >>> from cyad import Reverse, gradient, ravel
    >>> vector, unravel = ravel({"a": 2.0, "b": np.array([3.0, 4.0])})
    >>> vector
    array([2., 3., 4.])
    >>> unravel(10.0 * vector)
    {'a': 20.0, 'b': array([30., 40.])}
    >>> gradient(Reverse, lambda v: unravel(v)["a"] * np.sum(unravel(v)["b"]), vector)
    (array([7., 2., 2.]),)
    """
    leaves, rebuild = flatten(x)
    shapes = [np.shape(leaf) for leaf in leaves]
    dtypes = [np.result_type(leaf) for leaf in leaves]
    dtype = np.result_type(*dtypes) if leaves else np.dtype(float)
    ends = np.cumsum([np.size(leaf) for leaf in leaves], dtype=int).tolist()
    total = ends[-1] if ends else 0
    if leaves:
        vector = np.concatenate([np.reshape(leaf, -1) for leaf in leaves], dtype=dtype)
    else:
        vector = np.zeros(0)

    def unravel(v):
        v = v if isinstance(v, np.ndarray) else np.asarray(v)
        if np.shape(v) != (total,):
            raise ActivityError(f"unravel takes a vector of {total} entries, not an array of shape {np.shape(v)}")
        if np.iscomplexobj(v) and dtype.kind != "c":
            raise ActivityError("unravel: the structure is real, the vector complex")
        parts = []
        for leaf, shape, kind, end in zip(leaves, shapes, dtypes, ends, strict=True):
            part = v[end - int(np.prod(shape)):end]
            if kind.kind != "c" and np.iscomplexobj(v):
                part = np.real(part)
            if part.dtype != kind:
                part = part.astype(kind)
            if isinstance(leaf, np.ndarray):
                parts.append(np.reshape(part, shape))
            elif type(part) is np.ndarray and issubclass(type(leaf), (float, complex, np.inexact)):
                parts.append(type(leaf)(part[0]))
            else:
                parts.append(part[0])
        return rebuild(parts)

    return vector, unravel
