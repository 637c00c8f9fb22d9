"""The annotated arguments of a call: named for messages, checked for width, taken apart where they are structures.

A structured argument is differentiated by its leaves (`_structures`): `LeafCall` is the same call as a function of
leaves alone, and puts what comes back where it belongs.
"""
import functools

import numpy as np

from cyad._arguments import plain_result
from cyad._dual import tangents_of
from cyad._structures import Leaf, flatten, is_structure
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
    holders = [flatten(shadow)[1] for shadow in shadows]
    lanes = [holder.leaves for holder in holders]
    for lane in lanes:
        if len(lane) != len(leaves):
            raise ActivityError(f"{name}: the shadow has {len(lane)} numbers and arrays, the value {len(leaves)}; "
                                "they must have the same structure (make it by copying the value)")
    annotated = []
    for i, leaf in enumerate(leaves):
        own = tuple(lane[i] for lane in lanes)
        if isinstance(leaf, np.ndarray) or mode.forward:
            annotated.append(BatchDuplicated(leaf, own) if a.batched else Duplicated(leaf, own[0]))
        elif mixed or all(shadow.holder_of(i) is not None for shadow in holders):
            annotated.append(Active(leaf))
        else:
            raise ActivityError(f"{name} holds a number in a tuple or a frozen dataclass, where a shadow cannot be "
                                "changed in place; use MixedDuplicated with a Ref")
    return annotated, rebuild, lanes


class LeafCall:
    """A call whose arguments may be structures, as a function `f` of the annotated leaves `flat`."""

    def __init__(self, mode, f, args):
        self.flat, self._parts, self._given, self._forward, self._kept, self._shadows = [], [], f, mode.forward, [], []
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
            args, built = [], []
            for a, at, count, rebuild, lanes in self._parts:
                if rebuild is None:
                    args.append(leaves[at])
                else:
                    value, made = rebuild.build(leaves[at:at + count])
                    args.append(value)
                    built.append((a, rebuild, made, lanes))
            try:
                result = f(*args, **keywords)
                for a, rebuild, made, lanes in built:
                    self._assigned(a, rebuild, made, lanes)
                return result
            finally:
                for _, rebuild, made, _ in built:
                    rebuild.settle(made, plain_result)
        return of_leaves

    def _assigned(self, a, rebuild, made, lanes):
        """Attributes and entries that the function gave another value: the shadow is that of the new value."""
        for node, is_attribute, key, part, value in rebuild.changes(made):
            if self._forward:
                for k, tangent in enumerate(tangents_of(value)):
                    self._shadows.append((a, k, rebuild.nodes.index(node), is_attribute, key, tangent))
                continue
            if not isinstance(part, Leaf):
                continue   # it had no shadow before the call: nobody can have asked for its adjoint
            old = rebuild.leaves[part.index]
            given = [lane[part.index] for lane in lanes]
            if not any(np.any(g) for g in given):
                continue
            leaf = made[0][part.index]
            if not isinstance(old, np.ndarray) or np.shape(value) != old.shape or rebuild.uses(part) > 1 or \
                    np.result_type(value) != old.dtype:
                raise ActivityError(f"{name_of(self._given)} assigned to {key!r}, which has a shadow that is not zero; "
                                    "write into its array instead")
            # The adjoint of what stands there after the call, not of the array that stood there before.
            self._kept.append((old, plain_result(leaf)))
            leaf[...] = value

    def settle(self):
        """After the call: shadows of what was assigned, and the contents of arrays that were only written to tell."""
        for old, before in self._kept:
            old[...] = before
        places = [(flatten(a.dval[k] if a.batched else a.dval)[1].nodes[number].value, is_attribute, key, tangent)
                  for a, k, number, is_attribute, key, tangent in self._shadows]
        for holder, is_attribute, key, tangent in places:
            if is_attribute:
                object.__setattr__(holder, key, tangent)
            elif isinstance(holder, dict) or key < len(holder):
                holder[key] = tangent
            else:
                holder.append(tangent)

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
                continue
            for k, shadow in enumerate(a.dval if a.batched else (a.dval,)):
                holder = None
                for i, d in enumerate(out[at:end]):
                    if d is not None:   # a number: its derivative is added where it stands in the shadow
                        holder = holder or flatten(shadow)[1]
                        holder.assign(i, lanes[k][i] + (d[k] if isinstance(d, tuple) else d))
        return tuple(entries) + tuple(out[end:])
