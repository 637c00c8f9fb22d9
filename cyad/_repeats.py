"""Which values stay where an index names an element more than once: `x[[1, 1]] = v` keeps the last.

The last one is that of C order, unless index arrays or values of several axes lie in memory in another order, which
NumPy may follow: what it does then is not documented, so it is tried out, on an array of the same shape. Otherwise the
work is in proportion to what is picked, not to the array.

Rejected: an array of positions, indexed by the key, for all keys: storing two elements of 10^7 read them all.
Sorting what is picked, for all keys: 10^5 of 10^6 elements took 50 times as long as the store.
"""
import math
import operator

import numpy as np

MOST_MARKS = 64   # times what is picked: up to here every element of the axes may have a mark


def may_repeat(key):
    """Whether an index can name an element twice: integer arrays can, masks cannot."""
    if type(key) is tuple:
        return any([may_repeat(k) for k in key])
    if isinstance(key, np.ndarray):
        return key.dtype.kind != "b"
    return type(key) is list and not all([isinstance(k, (bool, np.bool_)) for k in key])


def overwritten(shape, key, value):
    """An index of the entries of `arr[key] = value` that did not stay, for `arr[key]`; None if all did."""
    if not may_repeat(key):
        return None
    before, arrays = advanced(shape, key)
    if arrays is None or not in_c_order(arrays, value):
        return tried_out(shape, key, value)
    codes = 0
    for index, n in arrays:
        codes = codes * n + np.where(index < 0, index + n, index)
    lost = not_last(np.ravel(codes), math.prod([n for _, n in arrays]))
    return (slice(None),) * before + (lost.reshape(np.shape(codes)),) if lost.any() else None


def not_last(codes, n):
    """Of numbers below n: which come again."""
    if n <= MOST_MARKS * codes.size:
        # Each writes its position, and finds that of the last; of the marks, only what is written is touched.
        positions = np.arange(codes.size, dtype=np.int32 if codes.size < 2**31 else np.int64)
        last = np.empty(n, dtype=positions.dtype)
        last[codes] = positions
        return last[codes] != positions
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    lost = np.zeros(order.size, dtype=bool)
    lost[order[:-1][ordered[1:] == ordered[:-1]]] = True
    return lost


def advanced(shape, key):
    """How many axes of the result come before those of index arrays, and these arrays with the length of their axes.

    (0, None) where there is something in the key that this does not know.
    """
    key = key if type(key) is tuple else (key,)
    key = [k if k is None or k is Ellipsis or isinstance(k, (slice, int, np.integer)) else
           np.asarray(k, None if np.size(k) else np.intp) for k in key]
    if any([k is True or k is False or isinstance(k, np.ndarray) and k.ndim == 0 and k.dtype.kind == "b"
            for k in key]):
        return 0, None
    taken = sum([0 if k is None or k is Ellipsis else k.ndim if isinstance(k, np.ndarray) and k.dtype.kind == "b" else 1
                 for k in key])
    axis = before = 0
    arrays, runs, adjacent = [], 0, False
    for k in key:
        if k is None or k is Ellipsis or isinstance(k, slice):
            passed = len(shape) - taken if k is Ellipsis else 1
            before += passed if not runs else 0
            axis += passed if k is not None else 0
            adjacent = False
            continue
        runs, adjacent = runs + (not adjacent), True
        if isinstance(k, np.ndarray) and k.dtype == bool:
            arrays += zip(np.nonzero(k), k.shape, strict=True)
            axis += k.ndim
        else:
            arrays.append((k if isinstance(k, np.ndarray) else operator.index(k), shape[axis]))
            axis += 1
    # Arrays that something stands between: NumPy puts their axes first.
    return before if runs == 1 else 0, arrays


def in_c_order(arrays, value):
    if max([np.ndim(index) for index, _ in arrays]) <= 1:
        return True
    return all([a.flags.c_contiguous for a in (value, *[index for index, _ in arrays]) if isinstance(a, np.ndarray)])


def tried_out(shape, key, value):
    """The same by an assignment of labels that lie in memory as the values do."""
    value = np.asarray(value)
    labels = np.empty_like(value, dtype=np.float64)
    labels[...] = np.arange(labels.size).reshape(labels.shape)
    kept = np.empty(shape)
    kept[key] = labels
    kept = kept[key]
    labels = np.broadcast_to(labels.reshape(labels.shape[max(0, labels.ndim - kept.ndim):]), kept.shape)
    positions = np.ravel(np.arange(np.prod(shape, dtype=np.intp)).reshape(shape)[key])
    # Where one value was stored several times in one place, any one of them will do.
    entries = np.flatnonzero(kept == labels)
    last = np.empty(np.prod(shape, dtype=np.intp), dtype=np.intp)
    last[positions[entries]] = entries
    lost = last[positions] != np.arange(positions.size)
    return lost.reshape(kept.shape) if lost.any() else None
