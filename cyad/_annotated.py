"""The annotated arguments of a call: named for messages, checked for width, taken apart where they are structures.

A structured argument is differentiated by its leaves (`_structures`): `LeafCall` is the same call as a function of
leaves alone, and puts what comes back where it belongs.
"""
import functools

import numpy as np

from cyad._structures import flatten, is_structure
from cyad.activity import (
    Active,
    Annotation,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    MixedDuplicated,
)
from cyad.errors import ActivityError


def name_of(f):
    return getattr(f, "__qualname__", None) or type(f).__qualname__


def width_of(annotations):
    """The batch width that the annotations agree on, and whether they are batched at all."""
    width, batched, first = 1, False, None
    for name, a in annotations:
        if not hasattr(a, "dval"):
            continue
        own = len(a.dval) if a.batched else 1
        if first is not None and (own != width or a.batched != batched):
            raise ActivityError(f"batch widths differ: {first} has {width}, {name} has {own}; all shadows of a call "
                                "need the same width")
        if first is None:
            width, batched, first = own, a.batched, name
    return width, batched


def annotate(f, args, kwargs):
    """Every argument as (name, annotation), positional ones first, then annotated keywords in call order."""
    named = [(f"argument {i + 1} of {name_of(f)}", a if isinstance(a, Annotation) else Const(a))
             for i, a in enumerate(args)]
    for key, a in kwargs.items():
        if isinstance(a, Annotation):
            named.append((f"argument {key!r} of {name_of(f)}", a))
    return named


def is_structured(annotation):
    return not isinstance(annotation, Const) and is_structure(annotation.val)


def _leaf_annotations(name, mode, a):
    """A structured argument as annotated leaves, what puts them together again, and the leaves of its shadows."""
    leaves, rebuild = flatten(a.val)
    mixed = isinstance(a, (MixedDuplicated, BatchMixedDuplicated))
    shadows = [d.value if mixed else d for d in (a.dval if a.batched else (a.dval,))]
    lanes = [flatten(shadow)[0] for shadow in shadows]
    for lane in lanes:
        if len(lane) != len(leaves):
            raise ActivityError(f"{name}: the shadow has {len(lane)} numbers and arrays, the value {len(leaves)}; "
                                "they must have the same structure (make it by copying the value)")
    annotated = []
    for i, leaf in enumerate(leaves):
        own = tuple(lane[i] for lane in lanes)
        if isinstance(leaf, np.ndarray) or mode.forward:
            annotated.append(BatchDuplicated(leaf, own) if a.batched else Duplicated(leaf, own[0]))
        elif mixed:
            annotated.append(Active(leaf))
        else:
            raise ActivityError(f"{name} holds a number, whose derivative has no place in a shadow that is changed in "
                                "place; use MixedDuplicated with a Ref")
    return annotated, rebuild, lanes


class LeafCall:
    """A call whose arguments may be structures, as a function `f` of the annotated leaves `flat`."""

    def __init__(self, mode, f, args):
        self.flat, self._parts = [], []
        for i, a in enumerate(args):
            a = a if isinstance(a, Annotation) else Const(a)
            if is_structured(a):
                annotated, rebuild, lanes = _leaf_annotations(f"argument {i + 1} of {name_of(f)}", mode, a)
            else:
                annotated, rebuild, lanes = [a], None, None
            self._parts.append((a, len(self.flat), len(annotated), rebuild, lanes))
            self.flat.extend(annotated)
        self.f = f
        if any(rebuild is not None for _, _, _, rebuild, _ in self._parts):
            self.f = self._function_of_leaves(f)

    def _function_of_leaves(self, f):
        @functools.wraps(f)
        def of_leaves(*leaves, **keywords):
            return f(*[leaves[at] if rebuild is None else rebuild(leaves[at:at + count])
                       for _, at, count, rebuild, _ in self._parts], **keywords)
        return of_leaves

    def entries(self, out):
        """One entry for each argument, of one for each leaf; the shadows of mixed structures are replaced."""
        entries, end = [], 0
        for a, at, count, rebuild, lanes in self._parts:
            end = at + count
            if rebuild is None:
                entries.append(out[at])
                continue
            entries.append(None)
            if isinstance(a, (MixedDuplicated, BatchMixedDuplicated)):
                for k, ref in enumerate(a.dval if a.batched else (a.dval,)):
                    derivs = out[at:end]
                    ref.value = flatten(ref.value)[1]([
                        shadow if d is None else shadow + (d[k] if isinstance(d, tuple) else d)
                        for shadow, d in zip(lanes[k], derivs, strict=True)])
        return tuple(entries) + tuple(out[end:])
