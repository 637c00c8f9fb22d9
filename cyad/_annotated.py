"""The annotated arguments of a call: named for messages, checked for width, taken apart where they are structures.

A structured argument is differentiated by its leaves (`_structures`): `LeafCall` is the same call as a function of
leaves alone, and puts what comes back where it belongs.
"""
import functools

import numpy as np

from cyad._arguments import plain_result
from cyad._dual import tangents_of
from cyad._matching import shadow_like
from cyad._structures import Leaf, flatten, is_structure
from cyad.activity import (
    Active,
    Annotation,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    MixedDuplicated,
    check_shadow,
)
from cyad.errors import ActivityError, name_of


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
    """Whether it goes by its leaves; a number or an array whose shadow is in a Ref is a structure of one."""
    return isinstance(annotation, (MixedDuplicated, BatchMixedDuplicated)) or \
        not isinstance(annotation, Const) and is_structure(annotation.val)


def _leaf_annotations(name, mode, a, rebuild):
    """A structured argument as annotated leaves, and its shadows with their containers (see `shadow_like`)."""
    mixed = isinstance(a, (MixedDuplicated, BatchMixedDuplicated))
    shadows = [shadow_like(rebuild, d.value if mixed else d, f"the shadow of {name}", "the value")
               for d in (a.dval if a.batched else (a.dval,))]
    annotated = []
    for i, leaf in enumerate(rebuild.leaves):
        own = tuple(shadow.leaves[i] for shadow, _ in shadows)
        if isinstance(leaf, np.ndarray) or mode.forward:
            annotated.append(BatchDuplicated(leaf, own) if a.batched else Duplicated(leaf, own[0]))
            continue
        for g in own:
            check_shadow(type(a).__name__, leaf, g)
        if not mixed and any(shadow.holder_of(i) is None for shadow, _ in shadows):
            raise ActivityError(f"{name} holds a number in a tuple or a frozen dataclass, where a shadow cannot be "
                                "changed in place; use MixedDuplicated with a Ref")
        annotated.append(Active(leaf))
    return annotated, shadows


class LeafCall:
    """A call whose arguments may be structures, as a function `f` of the annotated leaves `flat`.

    `recorded` is the call whose tape is swept, if this one only brings shadows: theirs are the structures.
    """

    def __init__(self, mode, f, args, recorded=None):
        self.flat, self._parts, self._given, self._forward, self._kept, self._shadows = [], [], f, mode.forward, [], []
        for i, a in enumerate(args):
            a = a if isinstance(a, Annotation) else Const(a)
            annotated, rebuild, shadows = [a], None, None
            if is_structured(a):
                rebuild = recorded.rebuild_of(i) if recorded is not None else None
                rebuild = flatten(a.val)[1] if rebuild is None else rebuild
                annotated, shadows = _leaf_annotations(f"argument {i + 1} of {name_of(f)}", mode, a, rebuild)
            self._parts.append((a, len(self.flat), len(annotated), rebuild, shadows))
            self.flat.extend(annotated)
        self.f = f
        if any(rebuild is not None for _, _, _, rebuild, _ in self._parts):
            self.f = self._function_of_leaves(f)

    def rebuild_of(self, i):
        """What puts an argument together; None where it is no structure."""
        return self._parts[i][3] if i < len(self._parts) else None

    def _function_of_leaves(self, f):
        @functools.wraps(f)
        def of_leaves(*leaves, **keywords):
            args, built = [], []
            for _, at, count, rebuild, shadows in self._parts:
                if rebuild is None:
                    args.append(leaves[at])
                else:
                    value, made = rebuild.build(leaves[at:at + count])
                    args.append(value)
                    built.append((rebuild, made, shadows))
            try:
                result = f(*args, **keywords)
                for rebuild, made, shadows in built:
                    self._assigned(rebuild, made, shadows)
                return result
            finally:
                for rebuild, made, _ in built:
                    rebuild.settle(made, plain_result)
        return of_leaves

    def _assigned(self, rebuild, made, shadows):
        """Attributes and entries that the function gave another value: the shadow is that of the new value."""
        for node, is_attribute, key, part, value in rebuild.changes(made):
            if self._forward:
                for (_, twins), tangent in zip(shadows, tangents_of(value), strict=True):
                    if id(node) in twins:   # an object that held no number may be the same one in the shadow
                        self._shadows.append((twins[id(node)], is_attribute, key, tangent))
                continue
            if not isinstance(part, Leaf):
                continue   # it had no shadow before the call: nobody can have asked for its adjoint
            old = rebuild.leaves[part.index]
            given = [shadow.leaves[part.index] for shadow, _ in shadows]
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
        for holder, is_attribute, key, tangent in self._shadows:
            if is_attribute:
                object.__setattr__(holder, key, tangent)
            elif isinstance(holder, dict) or key < len(holder):
                holder[key] = tangent
            else:
                holder.append(tangent)

    def entries(self, out):
        """One entry for each argument, of one for each leaf; the shadows of mixed structures are replaced."""
        entries, end = [], 0
        for a, at, count, rebuild, shadows in self._parts:
            end = at + count
            if rebuild is None:
                entries.append(out[at])
                continue
            entries.append(None)
            for k, (shadow, _) in enumerate(shadows):
                sums = [d if d is None else shadow.leaves[j] + (d[k] if isinstance(d, tuple) else d)
                        for j, d in enumerate(out[at:end])]
                if isinstance(a, (MixedDuplicated, BatchMixedDuplicated)):
                    ref = a.dval[k] if a.batched else a.dval
                    ref.value = shadow([g if s is None else s for g, s in zip(shadow.leaves, sums, strict=True)])
                    continue
                for j, s in enumerate(sums):
                    if s is not None:   # a number: its derivative is added where it stands in the shadow
                        shadow.assign(j, s)
        return tuple(entries) + tuple(out[end:])
