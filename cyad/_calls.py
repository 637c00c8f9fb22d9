"""A call that is to be differentiated, as a function of numbers and arrays alone.

The operators (`drivers.py`, `transforms.py`) take what `gradient` takes: several arguments, Const ones among them,
structures, keywords. `Call` hides all of that from them: they see a function of the differentiable leaves, and hand
back derivatives by leaf.
"""
import numpy as np

from cyad._annotated import name_of
from cyad._structures import flatten, is_structure
from cyad.activity import Active, Annotation, Const, check_number
from cyad.errors import ActivityError


def check_differentiable(a, name):
    """ActivityError unless an argument has a derivative: floats, complex numbers, arrays of these."""
    if isinstance(a, np.ndarray):
        if a.dtype.kind not in "fc":
            raise ActivityError(f"{name} is an array of dtype {a.dtype}, which has no derivative; pass floats, or "
                                "Const(...) if none is wanted")
    elif isinstance(a, Annotation):
        raise ActivityError(f"{name} is {type(a).__name__}, but its shadow would be made here; pass the value itself, "
                            "or use autodiff")
    else:
        check_number(a, name)


class Call:
    """``f(*args, **kwargs)`` as a function of its ``leaves``, in order of appearance.

    Positional arguments are differentiated unless they are Const; keyword arguments if they are Active.
    """

    def __init__(self, who, f, args, kwargs):
        if isinstance(f, Const):
            f = f.val
        if not callable(f):
            raise ActivityError(f"{who} needs a function to differentiate, not {type(f).__name__}")
        self.f, self.leaves, self.names, self._parts = f, [], [], []
        self.__name__ = self.__qualname__ = name_of(f)
        self._keys = [key for key, a in kwargs.items() if isinstance(a, Annotation) and not isinstance(a, Const)]
        self._kwargs = {k: a.val if isinstance(a, Const) else a for k, a in kwargs.items()}
        self._plain = not kwargs
        for i, a in enumerate((*args, *[kwargs[key] for key in self._keys])):
            name = f"argument {i + 1 if i < len(args) else repr(self._keys[i - len(args)])} of {name_of(f)}"
            if isinstance(a, Active):
                a = a.val
            if isinstance(a, Const):
                self._parts.append((a.val, None, None, None))
                self._plain = False
            elif not isinstance(a, (float, np.ndarray, Annotation)) and is_structure(a):
                leaves, rebuild = flatten(a)
                self._parts.append((a, len(self.leaves), len(leaves), rebuild))
                self.leaves.extend(leaves)
                self.names.extend([name] * len(leaves))
                self._plain = False
            else:
                check_differentiable(a, name)
                self._parts.append((a, len(self.leaves), 1, None))
                self.leaves.append(a)
                self.names.append(name)

    def __call__(self, *leaves):
        if self._plain:
            return self.f(*leaves)
        values = [val if at is None else leaves[at] if rebuild is None else rebuild(leaves[at:at + count])
                  for val, at, count, rebuild in self._parts]
        n = len(values) - len(self._keys)
        return self.f(*values[:n], **{**self._kwargs, **dict(zip(self._keys, values[n:], strict=True))})

    @property
    def constants(self):
        """For each argument whether it is Const."""
        return [at is None for _, at, _, _ in self._parts]

    @property
    def only_leaves(self):
        """Whether every argument is a number or an array that is differentiated."""
        return all(at is not None and rebuild is None for _, at, _, rebuild in self._parts)

    @property
    def direct(self):
        """What to run on the leaves: f itself where its arguments are leaves."""
        return self.f if self._plain else self

    def assemble(self, derivs):
        """Derivatives by leaf as one entry for each argument, in its structure; None for Const ones."""
        return tuple([None if at is None else derivs[at] if rebuild is None else rebuild(derivs[at:at + count])
                      for _, at, count, rebuild in self._parts])

    def leaves_of(self, who, values):
        """The leaves of other values of the arguments (tangents, directions), checked to match."""
        if len(values) != len(self._parts):
            raise ActivityError(f"{who}: {len(values)} given for {len(self._parts)} arguments of {self.__name__}")
        out = []
        for i, (value, (val, at, count, rebuild)) in enumerate(zip(values, self._parts, strict=True)):
            if at is None:
                continue
            own = [value] if rebuild is None else flatten(value)[0]
            if len(own) != count:
                raise ActivityError(f"{who} for argument {i + 1} of {self.__name__} has {len(own)} numbers and arrays, "
                                    f"the argument {count}; they must have the same structure")
            for leaf, given in zip([val] if rebuild is None else flatten(val)[0], own, strict=True):
                if np.shape(given) != np.shape(leaf):
                    raise ActivityError(f"{who} for argument {i + 1} of {self.__name__} has shape {np.shape(given)}, "
                                        f"the argument {np.shape(leaf)}; they must be the same")
                if np.iscomplexobj(given) and not np.iscomplexobj(leaf):
                    raise ActivityError(f"{who} for argument {i + 1} of {self.__name__} is complex, the argument real")
                out.append(given)
        return out


class Restored:
    """Puts arrays back between runs of a function that may write into its arguments."""

    def __init__(self, leaves):
        self._kept = [(a, a.copy()) for a in leaves if isinstance(a, np.ndarray) and a.flags.writeable]

    def restore(self):
        for a, before in self._kept:
            a[...] = before
