"""The structural rules: derivatives of functions that are more than one elementwise operation.

A rule is a Python function that computes ``out`` from primals and hands back its linearisation there::

    @structural(np.outer, operands=("a", "b"), reads={"a": ("b",), "b": ("a",)})
    def outer_rule(a, b, out=None):
        ...
        return result, linear          # linear(k) -> (push, pull) of the k-th operand

``push`` maps a tangent of the operand to the tangent of the result, ``pull`` a cotangent of the result to the
cotangent of the operand: of exactly its shape, and real where it is real. Both see one lane. They may be called often
and late; they never write into what they are given, and ``pull`` may return a view of it. For a function of several
results ``push`` returns a tuple, and ``pull`` takes a tuple whose entries may be None, for zero.

``reads`` says whose memory the maps look at *when they are called*; the carriers keep those values as they were. A map
that reads nothing closes over shapes and indices only, so that a recorded call keeps no array alive.

A rule serves nested differentiation too: its primals, tangents and cotangents may be duck arrays of an outer
differentiation. So maps are written with operators, indexing and the functions of NumPy that dispatch.

Two extras, both optional for the carriers:
  - ``linear.push_all(tangents)``, where a rule defines it: the tangent of the result from the tangents of all operands
    at once (None is zero). Joining m arrays one tangent at a time would cost m times the result.
  - ``linear`` may be None: the result is a view of the first operand, and its derivative the same view of the shadow.

The table is a plain dict; registering again replaces. ``ZERO`` holds the functions whose result carries no derivative.
"""
import inspect

from cyad.errors import MissingRuleError

RULES = {}
ZERO = set()


class NotSupported(MissingRuleError):
    """A function has a rule, but not for these options; the message says for which, and what to do instead.

    A `cyad.MissingRuleError`, and with it a NotImplementedError: ``copy=False`` of np.nan_to_num, ``mode="raw"`` of
    np.linalg.qr, ``dtype=`` of np.einsum. As with all errors, calls of other threads go on.

    >>> import numpy as np
    >>> import cyad
    >>> cyad.gradient(cyad.Reverse, lambda x: np.sum(np.nan_to_num(x, copy=False)), np.ones(2))
    Traceback (most recent call last):
        ...
    cyad.rules.registry.NotSupported: np.nan_to_num with copy=False has no derivative rule; assign its result instead
    """


class Structural:
    """A structural rule with what the carriers need in order to apply it.

    ``operands`` names the parameters that carry derivatives. One that holds a sequence of arrays contributes one leaf
    for each element; leaves are numbered through in order, and ``linear(k)`` means the k-th leaf. An operand that is
    absent, or None, is one leaf None.
    """

    __slots__ = ("_plan", "_reads", "_single", "fn", "func", "name", "operands", "out_position", "parameters",
                 "positions", "reads", "sequences")

    def __init__(self, func, fn, operands, reads):
        self.func = func
        self.fn = fn
        self.name = fn.__name__.removesuffix("_rule")
        self.sequences = frozenset(name[1:] for name in operands if name.startswith("*"))
        self.operands = tuple(name.removeprefix("*") for name in operands)
        signature = inspect.signature(fn).parameters
        parameters = list(signature)
        self.positions = tuple(parameters.index(name) for name in self.operands)
        positional = "out" in signature and signature["out"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        self.out_position = parameters.index("out") if positional else None
        self.parameters = frozenset(parameters)
        if isinstance(reads, dict):
            self._reads = {name: tuple(reads.get(name, ())) for name in self.operands}
        else:
            self._reads = dict.fromkeys(self.operands, tuple(reads))
        self.reads = tuple(dict.fromkeys(name for names in self._reads.values() for name in names))
        if not set(self.reads) <= {*self.operands, "out"}:
            raise ValueError(f"rule {fn.__name__} reads {self.reads}, which are not all operands or 'out'")
        self._plan = tuple(zip(self.positions, self.operands, (n in self.sequences for n in self.operands),
                               strict=True))
        self._single = self.positions[0] if len(operands) == 1 and not self.sequences else None

    def __repr__(self):
        return f"<structural rule {self.name}({', '.join(self.operands)})>"

    def locate(self, args, kwargs):
        """The operand leaves of a call, in order."""
        count = len(args)
        if self._single is not None and self._single < count:
            return [args[self._single]]
        leaves = []
        for position, name, sequence in self._plan:
            value = args[position] if position < count else kwargs.get(name)
            if sequence and value is not None:
                leaves.extend(value)
            else:
                leaves.append(value)
        return leaves

    def replace(self, args, kwargs, leaves):
        """``(args, kwargs)`` of the same call with other leaves; neither argument is changed."""
        args = list(args)
        count = len(args)
        taken = 0
        for position, name, sequence in self._plan:
            value = args[position] if position < count else kwargs.get(name)
            if sequence and value is not None:
                size = len(value)
                new = list(leaves[taken:taken + size])
            else:
                size = 1
                new = leaves[taken]
            taken += size
            if position < count:
                args[position] = new
            elif name in kwargs:
                kwargs = {**kwargs, name: new}
        return tuple(args), kwargs

    def reads_of(self, k, args, kwargs):
        """What the maps of the k-th leaf read: ``(indices of leaves, whether they read the result)``."""
        spans = {}
        count = len(args)
        taken = 0
        owner = None
        for position, name, sequence in self._plan:
            value = args[position] if position < count else kwargs.get(name)
            size = len(value) if sequence and value is not None else 1
            spans[name] = range(taken, taken + size)
            if k in spans[name]:
                owner = name
            taken += size
        names = self._reads[owner]
        return tuple(i for name in names if name != "out" for i in spans[name]), "out" in names


class StructuralVariadic(Structural):
    """A rule whose operands are found by looking at the call: ``slots(args)`` gives their positions in ``args``."""

    __slots__ = ("_slots",)

    def __init__(self, func, fn, operands, reads, slots):
        super().__init__(func, fn, operands, reads)
        self._slots = slots

    def locate(self, args, kwargs):
        return [args[i] for i in self._slots(args)]

    def replace(self, args, kwargs, leaves):
        args = list(args)
        for i, leaf in zip(self._slots(args), leaves, strict=True):
            args[i] = leaf
        return tuple(args), kwargs

    def reads_of(self, k, args, kwargs):
        """Every operand but the k-th: the maps of a product read the other factors."""
        return tuple(i for i in range(len(self._slots(args))) if i != k), False


def refilled(nested, leaves):
    """The nested list with other leaves. No closure: one that calls itself is a cycle, and keeps arrays alive."""
    return [refilled(v, leaves) for v in nested] if isinstance(nested, list) else next(leaves)


class StructuralNested(Structural):
    """A rule with one operand, a nested list of arrays: its leaves are those of the list, in order."""

    __slots__ = ()

    def locate(self, args, kwargs):
        leaves = []
        pending = [args[0] if args else kwargs[self.operands[0]]]
        while pending:
            value = pending.pop()
            if isinstance(value, list):
                pending.extend(reversed(value))
            else:
                leaves.append(value)
        return leaves

    def replace(self, args, kwargs, leaves):
        if args:
            return (refilled(args[0], iter(leaves)), *args[1:]), kwargs
        name = self.operands[0]
        return args, {**kwargs, name: refilled(kwargs[name], iter(leaves))}

    def reads_of(self, k, args, kwargs):
        """Joining reads nothing."""
        return (), False


def structural(*funcs, operands, reads=(), slots=None, nested=False):
    """Register the decorated function as the rule of each of ``funcs``.

    ``funcs`` are NumPy functions, ufuncs that are no elementwise operation, or pairs like ``(np.add, "reduce")``.
    ``operands`` names the parameters that carry derivatives, with a star before the name of one that holds a sequence
    of arrays; ``slots`` and ``nested`` are for operands that no parameter names. ``reads`` names the operands, or
    "out", that the maps read when they are called: one tuple for all, or a dict with one for each operand. A function
    that this version of NumPy does not have is given as None.
    """
    def register(fn):
        for func in funcs:
            if func is None:
                continue
            if nested:
                RULES[func] = StructuralNested(func, fn, operands, reads)
            elif slots is None:
                RULES[func] = Structural(func, fn, operands, reads)
            else:
                RULES[func] = StructuralVariadic(func, fn, operands, reads, slots)
        return fn
    return register


def lookup(func):
    """The :class:`Structural` of a function, or None."""
    return RULES.get(func)


def plain(value):
    """The number or array at the bottom of a duck array, for rules whose *method* depends on values. The carriers, who
    know their duck arrays, put their own function in its place.
    """
    return value


def is_zero(func):
    """Whether the result of ``func`` carries no derivative, whatever its arguments."""
    return func in ZERO
