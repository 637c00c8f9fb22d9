"""A call that is to be differentiated, as a function of numbers and arrays alone.

The operators (`drivers.py`, `transforms.py`) take what `gradient` takes: several arguments, Const ones among them,
structures, keywords. `Call` hides all of that from them: they see a function of the differentiable leaves, and hand
back derivatives by leaf.
"""
from types import FunctionType, ModuleType

import numpy as np

from cyad._annotated import name_of
from cyad._arguments import plain_result, stands_in
from cyad._matching import check_tangent, tangents_like
from cyad._structures import flatten, is_structure
from cyad.activity import Active, Annotation, Const, check_number
from cyad.errors import ActivityError


def check_differentiable(a, name):
    """ActivityError unless an argument has a derivative: floats, complex numbers, arrays of these."""
    if isinstance(a, np.ndarray):
        if a.dtype.kind not in "fc":
            raise ActivityError(f"{name} is an array of dtype {a.dtype}, which has no derivative; pass floats, or "
                                "Const(...) if none is wanted")
    elif isinstance(a, (set, frozenset)):
        raise ActivityError(f"{name} is a {type(a).__name__}, whose entries have no order for derivatives to follow; "
                            "pass a list, a tuple or a dict")
    elif isinstance(a, Annotation):
        raise ActivityError(f"{name} is {type(a).__name__}, but its shadow would be made here; pass the value itself, "
                            "or use autodiff")
    else:
        check_number(a, name)


@stands_in
class Call:
    """``f(*args, **kwargs)`` as a function of ``leaves`` and ``fixed`` arrays, ``run(*leaves, *fixed)``.

    Positional arguments are differentiated unless they are Const; keyword arguments if they are Active, whose entries
    follow those of positional ones. Const arrays of floats come after the leaves, for the function to see them tracked:
    a derivative that would be stored into one must not be lost.
    """

    def __init__(self, who, f, args, kwargs):
        if isinstance(f, Const):
            f = f.val
        if not callable(f):
            raise ActivityError(f"{who} needs a function to differentiate, not {type(f).__name__}")
        self.f = f
        self.leaves, self.names, self.fixed, self.fixed_names = [], [], [], []
        self.__name__ = self.__qualname__ = name_of(f)
        self._parts, self._keys = [], []
        for i, a in enumerate(args):
            self._add(f"argument {i + 1} of {self.__name__}", a)
        for annotated in (True, False):
            for key, a in kwargs.items():
                if isinstance(a, Annotation) == annotated and (annotated or isinstance(a, np.ndarray)):
                    self._keys.append(key)
                    self._add(f"argument {key!r} of {self.__name__}", a if annotated else Const(a))
            if annotated:
                self._entries = len(self._parts)
        if not self.leaves and self.is_structured:
            raise ActivityError(f"{who}: there is no float and no array of floats in the arguments of {self.__name__} "
                                "that are to be differentiated; integers have no derivative: pass floats")
        self._kwargs = {key: a for key, a in kwargs.items() if key not in self._keys}
        self._parts = [(val, len(self.leaves) + ~at if at is not None and at < 0 else at, count, rebuild)
                       for val, at, count, rebuild in self._parts]
        self._bare = not kwargs and self.only_leaves
        given = [val for val, *_ in self._parts if is_structure(val)]
        given.extend(a for a in self._kwargs.values() if is_structure(a))
        self.acts_for = (f, *given) if given else f

    def _add(self, name, a):
        """One more argument, as (value, number of its first leaf or None, number of leaves, how to rebuild it).

        Fixed arrays are numbered by complements: -1 is the first, -2 the second.
        """
        if isinstance(a, Const):
            a = a.val
            if isinstance(a, np.ndarray) and a.dtype.kind in "fc":
                self._parts.append((a, ~len(self.fixed), 0, None))
                self.fixed.append(a)
                self.fixed_names.append(name)
            else:
                self._parts.append((a, None, 0, None))
            return
        if isinstance(a, Active):
            a = a.val
        if not isinstance(a, (float, np.ndarray, Annotation)) and is_structure(a):
            leaves, rebuild = flatten(a)
        else:
            check_differentiable(a, name)
            leaves, rebuild = [a], None
        self._parts.append((a, len(self.leaves), len(leaves), rebuild))
        self.leaves.extend(leaves)
        self.names.extend([name] * len(leaves))

    def at(self, leaves, fixed):
        """The same call at other values."""
        other = object.__new__(Call)
        other.__dict__.update(self.__dict__)
        other.leaves, other.fixed = list(leaves), list(fixed)
        return other

    @property
    def run(self):
        return self.f if self._bare else self._with_leaves

    def _with_leaves(self, *leaves):
        values, built = [], []
        for val, at, count, rebuild in self._parts:
            if rebuild is None:
                values.append(val if at is None else leaves[at])
            else:
                value, made = rebuild.build(leaves[at:at + count])
                values.append(value)
                built.append((rebuild, made))
        n = len(values) - len(self._keys)
        try:
            return self.f(*values[:n], **self._kwargs, **dict(zip(self._keys, values[n:], strict=True)))
        finally:
            for rebuild, made in built:
                rebuild.settle(made, plain_result)

    def annotated(self, annotations):
        """(name, annotation) of what `run` takes, given those of the leaves."""
        return [*zip(self.names, annotations, strict=True),
                *[(name, Const(a)) for name, a in zip(self.fixed_names, self.fixed, strict=True)]]

    @property
    def constants(self):
        """For each argument whether it is Const."""
        return [count == 0 and rebuild is None for _, _, count, rebuild in self._parts[:self._entries]]

    @property
    def is_structured(self):
        """Whether an argument that is differentiated is a structure."""
        return any(rebuild is not None for _, _, _, rebuild in self._parts)

    @property
    def only_leaves(self):
        """Whether every argument is a number or an array that is differentiated."""
        return all(count == 1 and rebuild is None for _, _, count, rebuild in self._parts[:self._entries])

    def assemble(self, derivs):
        """Derivatives by leaf as one entry for each argument, in its structure; None for Const ones."""
        if self._bare:
            return tuple(derivs)
        return tuple([rebuild(derivs[at:at + count]) if rebuild is not None else derivs[at] if count else None
                      for _, at, count, rebuild in self._parts[:self._entries]])

    def leaves_of(self, who, values):
        """The leaves of other values of the arguments (tangents, directions), checked to match."""
        if len(values) != self._entries:
            raise ActivityError(f"{who}: {len(values)} given for {self._entries} arguments of {self.__name__}")
        out = []
        for i, (value, (_, at, count, rebuild)) in enumerate(zip(values, self._parts, strict=False)):
            if count == 0 and rebuild is None:
                continue
            what = f"{who} for argument {i + 1} of {self.__name__}"
            if rebuild is not None:
                out.extend(tangents_like(rebuild, value, what, "the argument"))
            else:
                check_tangent(what, self.leaves[at], value, "the argument")
                out.append(value)
        return out


class Restored:
    """Puts arrays back between runs of a function that may write into its arguments; of a method, also the attributes
    of its object."""

    def __init__(self, leaves, f=None):
        self._kept = [(a, a.copy()) for a in leaves if isinstance(a, np.ndarray) and a.flags.writeable]
        owner = getattr(f, "__self__", f)
        self._attributes = None
        if not isinstance(owner, (type, ModuleType, FunctionType)) and type(getattr(owner, "__dict__", None)) is dict:
            self._attributes = vars(owner)
            self._before = dict(self._attributes)
            self._kept += [(a, a.copy()) for a in self._before.values() if type(a) is np.ndarray and a.flags.writeable]

    def restore(self):
        if self._attributes is not None:
            self._attributes.clear()
            self._attributes.update(self._before)
        for a, before in self._kept:
            a[...] = before
