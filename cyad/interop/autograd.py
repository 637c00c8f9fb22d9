"""HIPS/autograd and cyad: functions written for autograd in differentiated NumPy code.

The rules of a primitive of autograd (`autograd.extend.primitive`, `defvjp`, `defjvp`) are looked up in autograd's own
tables and called as they are. Any other function of `autograd.numpy` is traced by autograd, and so are all at higher
orders.

autograd's cotangents of complex values are the conjugates of ours: df/dRe - i df/dIm.

Rejected: `to_autograd`; whoever writes a new graph uses `defvjp` with `cyad.vjp`, which takes two lines.
"""
import warnings

import autograd.numpy as anp
import numpy as np
from autograd import core
from autograd.builtins import tuple as boxed_tuple
from autograd.tracer import getval

from cyad._structures import is_leaf
from cyad.errors import MissingRuleError
from cyad.interop._calls import floats_of, walk
from cyad.interop._foreign import SLOT, Flat, Library, named_like, put_aside

__all__ = ["from_autograd"]


def from_autograd(fn):
    """A function of autograd, primitive or not, as one that cyad differentiates in any mode and order: g(x) = fn(x).

    Arrays and NumPy numbers among the arguments, also in tuples, lists and dicts, may be active; anything else stays
    as it is.

    Raises MissingRuleError, in the call, where a primitive has no rule for the mode; what fn and its rules raise passes
    through. One thread at a time may call g: autograd's traces are global.

    >>> import numpy as np
    >>> from autograd.extend import defjvp, defvjp, primitive
    >>> import cyad
    >>> from cyad.interop.autograd import from_autograd
    >>> @primitive
    ... def softplus(x):
    ...     return np.log1p(np.exp(x))
    >>> defvjp(softplus, lambda ans, x: lambda g: g / (1.0 + np.exp(-x)))
    >>> defjvp(softplus, lambda g, ans, x: g / (1.0 + np.exp(-x)))
    >>> cyad.gradient(cyad.Reverse, lambda x: np.sum(from_autograd(softplus)(x)), np.zeros(2))
    (array([0.5, 0.5]),)
    """
    def g(*args, **kwargs):
        values, skeleton = put_aside(args, kwargs, is_value)
        flat = Flat(fn, skeleton, is_result)
        flat.function.own = Primitive.of(fn, skeleton, flat)
        return flat.result(AUTOGRAD.call(flat.function, *values))

    return named_like(g, fn)


def is_value(part):
    # Python's own floats stay what they are, as in a plain call.
    return isinstance(part, np.ndarray) or (is_leaf(part) and type(part) is not float)


def is_result(part):
    return isinstance(part, (np.ndarray, np.generic, float, complex, core.Box))


class Primitive:
    """A call of a primitive, as autograd's tables see it."""

    def __init__(self, fn, skeleton, flat):
        self.fn, (self.args, self.kwargs), self.flat = fn, skeleton, flat
        self.positions = [i for i, part in enumerate(self.args) if part is SLOT]

    @classmethod
    def of(cls, fn, skeleton, flat):
        """None where fn is no primitive, or values stand elsewhere than among its positional arguments."""
        args, kwargs = skeleton
        deeper = []
        walk(([part for part in args if part is not SLOT], kwargs), lambda part: deeper.append(part is SLOT))
        return cls(fn, skeleton, flat) if getattr(fn, "_is_autograd_primitive", False) and not any(deeper) else None

    def rule(self, table, name, values, active):
        """The entry of one of autograd's tables, and what it takes: positions, the result, the arguments."""
        maker = table.get(self.fn)
        if maker is None:
            raise MissingRuleError(f"{self.fn.__name__} has no rule for this mode in autograd: give it one with {name}")
        args = list(self.args)
        for i, v in zip(self.positions, values, strict=True):
            args[i] = v
        return maker, tuple(i for i, on in zip(self.positions, active, strict=True) if on), tuple(args)


class Autograd(Library):
    """Functions of NumPy arrays that autograd can trace; `own` is set on those that are one call of a primitive."""

    name = "autograd"

    def run(self, fn, values):
        return fn(*values)

    def vjp(self, fn, values, wanted):
        if fn.own is None:
            trace = Traced(fn, values, wanted)
            pull, ends = trace.run(core.make_vjp)
            results = trace.merged(ends)
            return results, lambda cotangents: list(map(np.conj, pull(tuple(
                cotangent(g, y) for g, y, on in zip(cotangents, results, trace.floats, strict=True) if on))))
        maker, positions, args = fn.own.rule(core.primitive_vjps, "defvjp", values, wanted)
        results = fn(*values)
        pull = maker(positions, fn.own.flat.result(results), args, fn.own.kwargs)
        return results, lambda cotangents: [np.conj(dense(c)) for c in pull(fn.own.flat.result(
            [cotangent(g, y) for g, y in zip(cotangents, results, strict=True)]))]

    def jvp(self, fn, values, tangents):
        given, mine = [t is not None for t in tangents], [t for t in tangents if t is not None]
        if fn.own is None:
            trace = Traced(fn, values, given)
            ends, pushed = trace.run(core.make_jvp, tuple(mine))
            k = iter(range(len(pushed)))
            return trace.merged(ends), tuple(pushed[next(k)] if on else None for on in trace.floats)
        maker, positions, args = fn.own.rule(core.primitive_jvps, "defjvp", values, given)
        results = fn(*values)
        pushed = iter(floats_of(maker(positions, mine, fn.own.flat.result(results), args, fn.own.kwargs)))
        return results, tuple(next(pushed) if is_leaf(y) else None for y in results)

    def transpose(self, fn, count, wanted, given):
        def transposed(*both):
            trace = Traced(fn, both[:count], wanted)
            pull, _ = trace.run(core.make_vjp)
            gs = iter(both[count:])
            gs = [anp.conj(next(gs)) if on else np.zeros_like(plain(y))
                  for y, on in zip(trace.results, given, strict=True)]
            found = pull(boxed_tuple([g for g, on in zip(gs, trace.floats, strict=True) if on]))
            return tuple(anp.conj(found[k]) for k in range(sum(wanted)))

        transposed.own = None
        return transposed

    def linearise(self, fn, count, given):
        def linearised(*both):
            trace = Traced(fn, both[:count], given)
            _, pushed = trace.run(core.make_jvp, boxed_tuple(both[count:]))
            k = iter(range(sum(trace.floats)))
            return tuple(pushed[next(k)] if on else 0.0 for on in trace.floats)

        linearised.own = None
        return linearised


class Traced:
    """A function between tuples, as autograd traces it: of the active arguments, to the floats of the result.

    After a run `results` has all of the result, and `floats` says which are traced.
    """

    def __init__(self, fn, values, active):
        self.fn, self.values, self.active = fn, values, active
        self.start = boxed_tuple([v for v, on in zip(values, active, strict=True) if on])

    def __call__(self, mine):
        k = iter(range(sum(self.active)))
        self.results = self.fn(*(mine[next(k)] if on else v for v, on in zip(self.values, self.active, strict=True)))
        self.floats = [is_leaf(plain(y)) for y in self.results]
        return boxed_tuple([y for y, on in zip(self.results, self.floats, strict=True) if on])

    def run(self, make, *tangents):
        """What ``make(f, x)`` of autograd gives; results that depend on nothing are no reason to warn."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Output seems independent of input")
            out = make(self, self.start)
            return out(*tangents) if tangents else out

    def merged(self, ends):
        """The results, with what the trace gave in the place of boxes."""
        k = iter(range(len(self.results)))
        return tuple(ends[next(k)] if on else y for y, on in zip(self.results, self.floats, strict=True))


def plain(value):
    """The value in a box, and in the box in that."""
    while isinstance(value, core.Box):
        value = getval(value)
    return value


def cotangent(g, like):
    return np.zeros_like(like) if g is None else np.conj(g)


def dense(c):
    """autograd's cotangents of what was indexed are sums put off."""
    return c.mut_add(c.vs.zeros()) if type(c) in core.sparse_object_types else c


AUTOGRAD = Autograd()
