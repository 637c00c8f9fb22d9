"""Structured arguments: the numbers and arrays inside tuples, lists, dicts, dataclasses and plain objects.

`flatten` takes a structure apart into its differentiable leaves (floats, complex numbers, arrays of these) and a
function that puts one of the same structure together from other leaves. Anything else (strings, ints, bools, None,
functions, integer arrays) is inactive and stays what it is. An array that appears twice is one leaf, and appears twice
in what is put together; references in a circle are followed once.

A structure is read once, into a tree of `Node`: what becomes of it later (the function that is differentiated may well
assign to its arguments) does not change what is put together. Objects that lead to no leaf are not copied: a logger or
an open file among the attributes stays the one that it is.

Rejected: registering classes, as libraries of pure functions do; existing code does not know of us. Numbering the
leaves by a second walk over the structure: it meets a number twice where references run in a circle through a tuple.
"""
import collections
import copy
import dataclasses
import functools
import types

import numpy as np

_OPAQUE = (str, bytes, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType,
           functools.partial, np.dtype, np.random.Generator, np.ufunc)


_CONTAINERS = (tuple, list, dict, collections.deque)
_HOLDERS = frozenset(_CONTAINERS)


def inactive_type(cls):
    """Decorator or call: objects of a class hold no derivatives, whatever their attributes; they are never taken apart.

    Raises TypeError for what is no class. For the whole process and all its threads; meant to be said once, next to the
    class.

    >>> import numpy as np
    >>> import cyad
    >>> @cyad.rules.inactive_type
    ... class Log:
    ...     def __init__(self):
    ...         self.level = 1.0
    >>> g, = cyad.gradient(cyad.Reverse, lambda p: np.sum(p["x"] ** 2), {"x": np.array([1.0, 2.0]), "log": Log()})
    >>> g["x"], g["log"].level
    (array([2., 4.]), 1.0)
    """
    global _HOLDERS, _OPAQUE
    if not isinstance(cls, type):
        raise TypeError(f"inactive_type takes a class, not a {type(cls).__name__}; functions have cyad.inactive")
    if cls not in _OPAQUE:
        _OPAQUE = (*_OPAQUE, cls)
        _HOLDERS = _HOLDERS - {cls}
    return cls


def is_leaf(value):
    """Whether a value has a derivative of its own: a float, a complex number, or an array of these."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "fc"
    return isinstance(value, (float, complex, np.floating, np.complexfloating))


def is_structure(value):
    """Whether a value may hold leaves without being one."""
    if type(value) in _HOLDERS:
        return True
    if is_leaf(value) or isinstance(value, (np.ndarray, np.generic, bool, int, Rebuild)) or isinstance(value, _OPAQUE) \
            or value is None:
        return False
    if isinstance(value, tuple):
        return not hasattr(value, "n_sequence_fields")   # time.struct_time and its like are records of the system
    return isinstance(value, (list, dict, collections.deque)) or hasattr(value, "__dict__") or bool(_slots(type(value)))


def is_frozen(value):
    return dataclasses.is_dataclass(value) and type(value).__dataclass_params__.frozen


@functools.cache
def _slots(cls):
    """The attributes that instances keep outside their __dict__."""
    names = []
    for base in cls.__mro__:
        own = base.__dict__.get("__slots__", ())
        for name in (own,) if isinstance(own, str) else own:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return tuple(names)


class Leaf:
    """The place of a leaf: its number."""

    __slots__ = ("index",)

    def __init__(self, index):
        self.index = index


class Node:
    """A container or object: ``items`` and ``attributes`` as (key, part), a part being a Leaf, a Node, or Constant."""

    __slots__ = ("attributes", "items", "leads_to_leaf", "parents", "value")

    def __init__(self, value):
        self.value = value
        self.items, self.attributes, self.parents, self.leads_to_leaf = [], [], [], False


class Constant:
    """What is no leaf and holds none."""

    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


def flatten(structure):
    """``(leaves, rebuild)``: the leaves in order of appearance, and ``rebuild(leaves)`` for other ones."""
    leaves, tree, nodes = parse(structure)
    return leaves, Rebuild(leaves, tree, nodes)


class Rebuild:
    """Puts a structure together from other leaves; for the time of a call, whose assignments `settle` carries over."""

    __slots__ = ("leaves", "nodes", "tree")

    def __init__(self, leaves, tree, nodes):
        self.leaves, self.tree, self.nodes = leaves, tree, nodes

    def __call__(self, values):
        return _build(self.tree, list(values), {})

    def build(self, values):
        """The structure, and what it was made of: (values, containers by their node)."""
        made = {}
        return _build(self.tree, list(values), made), (values, made)

    def changes(self, made):
        """What was assigned since: (node, whether an attribute, key, part or None, value) for each place.

        Containers of other lengths are not told entry by entry.
        """
        values, containers = made
        for node in self.nodes:
            out = containers.get(id(node))
            if out is None or isinstance(out, tuple):
                continue
            for now, places, is_attribute in ((items_of(out), node.items, False),
                                              (attributes_of(out), node.attributes, True)):
                before = dict(places)
                for key, value in now:
                    part = before.get(key)
                    if part is None or value is not _part_of(part, values, containers):
                        yield node, is_attribute, key, part, value

    def uses(self, leaf):
        """In how many places a leaf stands."""
        return sum(part is leaf for node in self.nodes for _, part in (*node.items, *node.attributes))

    def holder_of(self, index):
        """Where a leaf can be replaced, (holder, whether by attribute, key); None in tuples and frozen dataclasses."""
        for node in self.nodes:
            for places, is_attribute in ((node.items, False), (node.attributes, True)):
                for key, part in places:
                    if isinstance(part, Leaf) and part.index == index:
                        fixed = isinstance(node.value, tuple) and not is_attribute or is_frozen(node.value)
                        return None if fixed else (node.value, is_attribute, key)
        return None

    def assign(self, index, value):
        """Replaces a leaf in the original."""
        holder, is_attribute, key = self.holder_of(index)
        if is_attribute:
            setattr(holder, key, value)
        else:
            holder[key] = value

    def settle(self, made, plain):
        """Carries over to the original what was assigned to attributes and entries of the structure made of it.

        ``plain`` makes of a leaf what the caller may have.
        """
        values, containers = made
        back = {id(value): leaf for value, leaf in zip(values, self.leaves, strict=True)}
        back.update((id(containers[id(node)]), node.value) for node in self.nodes if id(node) in containers)
        known = {}

        for node in self.nodes:
            out, value = containers.get(id(node)), node.value
            if out is None or isinstance(out, tuple):
                continue
            items, before = list(items_of(out)), [(key, _part_of(p, values, containers)) for key, p in node.items]
            if len(items) != len(before) or any(k != j or v is not u
                                                for (k, v), (j, u) in zip(items, before, strict=True)):
                if isinstance(value, dict):
                    items = {key: _original(v, back, known, plain) for key, v in items}
                    value.clear()
                    value.update(items)
                else:
                    items = [_original(v, back, known, plain) for _, v in items]
                    value.clear()
                    value.extend(items)
            now, places = dict(attributes_of(out)), dict(node.attributes)
            for key, v in now.items():
                if key not in places or v is not _part_of(places[key], values, containers):
                    object.__setattr__(value, key, _original(v, back, known, plain))
            for key in places:
                if key not in now and key in dict(attributes_of(value)):   # not gone in an earlier run
                    object.__delattr__(value, key)


def _original(value, back, known, plain):
    """What the caller may have of a value that was assigned: the caller's own object where it is one."""
    if id(value) in back:
        return back[id(value)]
    if id(value) not in known:   # the value is kept with it, for its id to stay its own
        if is_leaf(value):
            known[id(value)] = value, plain(value)
        elif is_structure(value):
            leaves, rebuild = flatten(value)
            known[id(value)] = value, rebuild([_original(leaf, back, known, plain) for leaf in leaves])
        else:
            return value
    return known[id(value)][1]


def items_of(value):
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, _CONTAINERS) else ()


def _part_of(part, values, containers):
    """What `_build` put in the place of a part."""
    if isinstance(part, Leaf):
        return values[part.index]
    return part.value if isinstance(part, Constant) else containers.get(id(part), part.value)


SEARCHED = 1000   # entries of a container in which `release` looks for tracked values


def release(value, change, seen):
    """`value` with ``change(v)`` for every tracked v in its attributes and entries, replaced in place.

    ``change`` gives back what is not tracked. Containers of more than SEARCHED entries are left alone: whoever calls a
    method of an object with its data in lists should not pay for them in each call.
    """
    held = []   # what is still to be looked into; not by recursion, for the sake of linked lists
    value = _released(value, change, seen, held)
    while held:
        holder = held.pop()
        items = list(items_of(holder)) if isinstance(holder, _CONTAINERS) and len(holder) <= SEARCHED else []
        for key, old in () if isinstance(holder, tuple) else items:
            v = _released(old, change, seen, held)
            if v is not old:
                holder[key] = v
        for key, old in attributes_of(holder):
            v = _released(old, change, seen, held)
            if v is not old:
                object.__setattr__(holder, key, v)
    return value


def _released(value, change, seen, held):
    """What stands in the place of a value: another one for what is tracked, and for tuples that hold such."""
    changed = change(value)
    if changed is not value:
        return changed
    if isinstance(value, types.MethodType):
        value, method = value.__self__, value
    else:
        method = value
    if not is_structure(value) or id(value) in seen:
        return method
    seen.add(id(value))
    if isinstance(value, tuple) and len(value) <= SEARCHED:
        new = [_released(v, change, seen, held) for v in value]
        if method is value and any(v is not u for u, v in zip(value, new, strict=True)):
            return tuple.__new__(type(value), new)
    held.append(value)
    return method


def parse(structure):
    """``(leaves, tree, nodes)``: the leaves, where they stand, and all containers and objects of the tree."""
    leaves, nodes = [], {}
    tree = _read(structure, leaves, {}, nodes)
    marked = [node for node in nodes.values() if node.leads_to_leaf]
    while marked:
        for parent in marked.pop().parents:
            if not parent.leads_to_leaf:
                parent.leads_to_leaf = True
                marked.append(parent)
    return leaves, tree, list(nodes.values())


def attributes_of(value):
    """Name and value of every attribute that an instance keeps, in its __dict__ or in slots."""
    if type(value) in _CONTAINERS:
        return []
    own = getattr(value, "__dict__", None)
    found = [] if own is None or own is value else list(own.items())
    return found + [(name, getattr(value, name)) for name in _slots(type(value)) if hasattr(value, name)]


def _read(value, leaves, arrays, nodes):
    if is_leaf(value):
        if not isinstance(value, np.ndarray):   # a number is itself wherever it stands; an array is one array
            leaves.append(value)
            return Leaf(len(leaves) - 1)
        if id(value) not in arrays:
            arrays[id(value)] = Leaf(len(leaves))
            leaves.append(value)
        return arrays[id(value)]
    if not is_structure(value):
        return Constant(value)
    if id(value) in nodes:
        return nodes[id(value)]
    node = nodes[id(value)] = Node(value)
    for own, found in ((node.items, list(items_of(value))), (node.attributes, attributes_of(value))):
        for key, child in found:
            part = _read(child, leaves, arrays, nodes)
            own.append((key, part))
            if isinstance(part, Leaf):
                node.leads_to_leaf = True
            elif isinstance(part, Node):
                part.parents.append(node)
    return node


# What decides how copy.copy copies an object.
_COPYING = ("__copy__", "__setstate__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__reduce__",
            "__reduce_ex__")


@functools.cache
def _copied_plainly(cls):
    """Whether its objects are their attributes: of a class of Python's, without a say in how they are copied."""
    return cls.__new__ is object.__new__ and all(base.__flags__ & 1 << 9 for base in cls.__mro__[:-1]) and all(
        getattr(cls, name, None) is getattr(object, name, None) for name in _COPYING)


def _build(part, values, built):
    """What stands at a part of the tree, with other leaves."""
    if isinstance(part, Leaf):
        return values[part.index]
    if isinstance(part, Constant):
        return part.value
    value = part.value
    if id(part) in built:
        return built[id(part)]
    if isinstance(value, tuple):
        items = [_build(p, values, built) for _, p in part.items]
        if id(part) in built:   # made on the way, where references run in a circle
            return built[id(part)]
        out = built[id(part)] = tuple.__new__(type(value), items)
    elif isinstance(value, (list, dict, collections.deque)):
        out = built[id(part)] = type(value)() if type(value) in (list, dict) else copy.copy(value)
        if isinstance(value, dict):
            out.clear()   # of what was put in since the structure was read
            for key, p in part.items:
                out[key] = _build(p, values, built)
            if getattr(value, "__dict__", None) is value:   # attributes that are the entries
                out.__dict__ = out
        else:
            items = [_build(p, values, built) for _, p in part.items]
            out.clear()
            out.extend(items)
    elif not part.leads_to_leaf:
        return value
    elif _copied_plainly(type(value)):
        # copy.copy asks the instance about methods, where a __getattr__ that reads __dict__ raises KeyError.
        out = built[id(part)] = object.__new__(type(value))
        for key, p in part.attributes:
            object.__setattr__(out, key, _build(p, values, built))
        return out
    else:
        out = built[id(part)] = copy.copy(value)
    if type(value) in _CONTAINERS:
        return out
    known = dict(part.attributes)
    for key, _ in attributes_of(out):
        if key not in known:   # assigned since the structure was read
            object.__delattr__(out, key)
    for key, p in part.attributes:
        object.__setattr__(out, key, _build(p, values, built))   # frozen dataclasses refuse plain assignment
    return out
