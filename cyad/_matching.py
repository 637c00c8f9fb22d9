"""A second structure held against the first: shadows, tangents and cotangents, entry by entry.

Entries belong together that have the same key, attribute name or position, in containers of the same type. The order
of keys and attributes means nothing. What is inactive in the first (strings, integers, ...) may be anything in the
second that has no derivative either, or may be left out of dicts and objects; a number or an array that the first does
not have is an error, as is one that is missing.

Where one array, or one container, stands in several places of the first, the second has something in each of them:
tangents must be equal there, shadows must be one array, too, and cotangents add up.

Rejected: matching by the numbers of the leaves, which takes {"q": dq, "p": dp} for the shadow of {"p": p, "q": q};
lists in the place of tuples, which JAX refuses as well.
"""
import numpy as np

from cyad._structures import Constant, Leaf, Node, Rebuild, attributes_of, is_leaf, is_structure, items_of, parse
from cyad.errors import ActivityError

NUMBERS = (int, float, complex, np.number, np.bool_)


def check_tangent(what, leaf, given, whose):
    """ActivityError unless a tangent or cotangent is a number or an array of its leaf's shape, and real where it is."""
    if isinstance(given, (list, tuple)) and isinstance(leaf, np.ndarray):
        try:
            given = np.asarray(given)
        except ValueError:
            raise ActivityError(f"{what} is a {type(given).__name__} of unequal parts; pass an array of shape "
                                f"{np.shape(leaf)}") from None
    if not (given.dtype.kind in "biufc" if isinstance(given, np.ndarray) else isinstance(given, NUMBERS)):
        raise ActivityError(f"{what} is {described(given)}, {whose} {described(leaf)}; pass "
                            f"{'an array of its shape' if isinstance(leaf, np.ndarray) else 'a float'}, of zeros where "
                            "nothing changes")
    if np.shape(given) != np.shape(leaf):
        raise ActivityError(f"{what} has shape {np.shape(given)}, {whose} {np.shape(leaf)}; they must be the same")
    if np.iscomplexobj(given) and not np.iscomplexobj(leaf):
        raise ActivityError(f"{what} is complex, {whose} real")


def tangents_like(rebuild, other, what, whose):
    """The tangents of the leaves of a structure, in their order; equal ones where a leaf stands in several places."""
    match = Match(rebuild, other, what, whose)
    out = []
    for leaf, places in zip(rebuild.leaves, match.places, strict=True):
        (path, first), *more = places
        check_tangent(f"{what}{at(path)}", leaf, first, f"{whose} there")
        for elsewhere, value in more:
            if value is not first and not (type(value) is type(first) and isinstance(value, (np.ndarray, *NUMBERS)) and
                                           is_plain(value) and np.array_equal(value, first)):
                raise ActivityError(f"{what} has different values at {path} and {elsewhere}, where {whose} is one "
                                    "array; it has one derivative")
        out.append(first)
    return out


def cotangents_like(rebuild, other, what, whose):
    """The cotangents of the leaves of a structure, in their order: for each a list with one for every place."""
    match = Match(rebuild, other, what, whose, every=True)
    for leaf, places in zip(rebuild.leaves, match.places, strict=True):
        for path, value in places:
            check_tangent(f"{what}{at(path)}", leaf, value, f"{whose} there")
    return [[value for _, value in places] for places in match.places]


def shadow_like(rebuild, shadow, what, whose, separate=True):
    """The shadow of a structure, numbered like it: a `Rebuild` with the same leaf numbers, and its `twins`.

    `separate`: what is two arrays or containers in the structure must not be one in the shadow.
    """
    match = Match(rebuild, shadow, what, whose, separate=separate)
    for places in match.places:
        (path, first), *more = places
        for elsewhere, value in more:
            if value is not first:
                raise ActivityError(f"{what} has two values, at {path} and at {elsewhere}, where {whose} is one array; "
                                    "make it with make_zero")
    return Rebuild([places[0][1] for places in match.places], match.tree, match.nodes), match.twins


def is_plain(value):
    return type(value) is np.ndarray or type(value).__module__ in ("builtins", "numpy")


def at(path):
    return f" at {path}" if path else ""


def described(value):
    """A value in an error message."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


class Match:
    """Where the parts of a structure are in another one.

    `places` has a list of (path, value) for each leaf, `twins` the other's container by the id of the node; `tree` and
    `nodes` are those of the other, its leaves numbered as in the structure. With `every`, a container that stands in
    several places is looked at in each.
    """

    def __init__(self, rebuild, other, what, whose, every=False, separate=False):
        self.what, self.whose, self.every, self.separate = what, whose, every, separate
        self.leaves = rebuild.leaves
        self.places, self.twins, self.nodes = [[] for _ in rebuild.leaves], {}, []
        self._seen, self._owners = {}, {}
        self.tree = self._walk(rebuild.tree, other, "")

    def _fail(self, path, message):
        raise ActivityError(f"{self.what}{at(path)} {message}; the two must have the same structure: keys, attributes, "
                            "lengths and types of containers")

    def _walk(self, part, other, path):
        if isinstance(part, Leaf):
            leaf = self.leaves[part.index]
            if not (is_leaf(other) or isinstance(other, NUMBERS) or
                    isinstance(other, np.ndarray) and other.dtype.kind in "biu"):
                self._fail(path, f"is {described(other)}, {self.whose} {described(leaf)} there")
            if isinstance(other, np.ndarray):
                self._own(part, other, path)
            self.places[part.index].append((path, other))
            return part
        if isinstance(part, Constant) or not part.leads_to_leaf and (
                other is part.value or type(other) is not type(part.value)):
            # An object without leaves may be the structure's own: it has no twin, for that would be the object itself.
            if other is not part.value and (is_leaf(other) or is_structure(other) and parse(other)[0]):
                self._fail(path, f"is {described(other)}, which has a derivative, {self.whose} "
                                 f"{described(part.value)} there, which has none")
            return Constant(other)
        if type(other) is not type(part.value):
            self._fail(path, f"is {described(other)}, {self.whose} {described(part.value)} there")
        if (id(part), id(other)) in self._seen:
            return self._seen[id(part), id(other)]
        if part.leads_to_leaf:
            self._own(part, other, path)
        twin = self._seen[id(part), id(other)] = Node(other)
        twin.leads_to_leaf = part.leads_to_leaf
        self.nodes.append(twin)
        self.twins[id(part)] = other
        self._walk_all(part.items, list(items_of(other)), twin.items, path, "[{!r}]", isinstance(other, dict))
        self._walk_all(part.attributes, attributes_of(other), twin.attributes, path, ".{}", True)
        if self.every:
            del self._seen[id(part), id(other)]
        return twin

    def _walk_all(self, own, found, out, path, form, named):
        """The entries, or the attributes, of a container."""
        parts, there = dict(own), dict(found)
        kind = "attribute" if form[0] == "." else "entry"
        if not named and len(parts) != len(there):
            self._fail(path, f"has length {len(there)}, {self.whose} {len(parts)}")
        for key, part in own:
            if key not in there and (isinstance(part, Leaf) or isinstance(part, Node) and part.leads_to_leaf):
                others = ", ".join(repr(k) for k in there if k not in parts)
                self._fail(path, f"has no {kind} {key!r}, which {self.whose} has" +
                           (f" (but {others})" if others else ""))
        for key, value in found:
            where = path + form.format(key)
            if key in parts:
                out.append((key, self._walk(parts[key], value, where)))
                continue
            if is_leaf(value) or is_structure(value) and parse(value)[0]:
                self._fail(path, f"has the {kind} {key!r}, which {self.whose} has not")
            out.append((key, Constant(value)))

    def _own(self, part, other, path):
        """In a shadow, what is two in the structure must be two: a derivative is written into each."""
        if not self.separate:
            return
        first, place = self._owners.setdefault(id(other), (part, path))
        if first is not part:
            raise ActivityError(f"{self.what} has one {type(other).__name__} at {place or 'the top'} and at {path}, "
                                f"where {self.whose} has two; each needs memory of its own (make it with make_zero)")
