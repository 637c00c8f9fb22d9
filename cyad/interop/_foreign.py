"""Functions of another library inside differentiated NumPy code.

A `Library` says how to call, transpose and linearise a function of its own, from NumPy values to NumPy values; and what
the transpose and the linearisation are as functions of that library. There is one primitive for each library; what is
called is its first argument.

Where nothing outside differentiates, `vjp` and `jvp` do the work. Where an outer differentiation looks on, values are
tracked, which the library cannot take: the call becomes one of the same primitive, one level further out, and its
pullback one of the transpose. So a library differentiates its own functions, at every order.

Other libraries see plain NumPy: no context is current while they run.
"""
import numpy as np

from cyad._redirect import run_in_context
from cyad._structures import is_leaf
from cyad.interop._calls import walk
from cyad.rules.imported import NoTangent, ZeroTangent, import_frule, import_rrule

SLOT = object()   # where a value stood in a structure


class Library:
    """What an adapter provides. Functions are flat, from values to a tuple of values, made by `flat`."""

    name = "another library"

    def __init__(self):
        self.call = primitive_of(self)

    def run(self, fn, values):
        """The results."""
        raise NotImplementedError

    def vjp(self, fn, values, wanted):
        """``(results, pull)``: ``pull(cotangents)``, called as often as you like, gives those of the wanted arguments.
        """
        raise NotImplementedError

    def jvp(self, fn, values, tangents):
        """``(results, tangents)``; None is a zero tangent."""
        raise NotImplementedError

    def transpose(self, fn, count, wanted, given):
        """The function from `count` arguments and the given cotangents to those of the wanted arguments."""
        raise NotImplementedError

    def linearise(self, fn, count, given):
        """The function from `count` arguments and tangents of the given ones to the tangents of the results."""
        raise NotImplementedError


def derived(fn, make, *key):
    """``make(fn, *key)``, made once for each function."""
    known = fn.__dict__.setdefault("derived", {})
    if (make.__name__, *key) not in known:
        known[make.__name__, *key] = make(fn, *key)
    return known[make.__name__, *key]


def is_outer(value):
    """Whether an outer differentiation tracks a value."""
    return is_leaf(value) and not issubclass(type(value), (np.ndarray, np.generic, float, complex))


def primitive_of(library):
    def plain(method, *args):
        return run_in_context(None, method, *args)

    def plain_call(method, fn, *args):
        try:
            return plain(method, fn, *args)
        except Exception as error:
            error.add_note(f"in a call of {fn.__qualname__}, a function of {library.name}")
            raise

    def call(fn, *values):
        return plain_call(library.run, fn, values)

    def rrule(wanted, fn, *values):
        wanted = tuple(on and is_leaf(v) for on, v in zip(wanted[1:], values, strict=True))

        def full(found):
            found = iter(found)
            return NoTangent(), NoTangent(), *(next(found) if on else NoTangent() for on in wanted)

        def outer_pullback(cotangents):
            given = tuple(not isinstance(g, NoTangent) for g in cotangents)
            transpose = derived(fn, library.transpose, len(values), wanted, given)
            return full(out(transpose, *values, *(g for g, on in zip(cotangents, given, strict=True) if on)))

        if any(map(is_outer, values)):
            return out(fn, *values), outer_pullback
        results, pull = plain_call(library.vjp, fn, values, wanted)

        def backward(_, given):
            return pull(given)

        def pullback(cotangents):
            if any(map(is_outer, cotangents)):
                return outer_pullback(cotangents)
            return full(plain_call(backward, fn, [None if isinstance(g, NoTangent) else g for g in cotangents]))

        return results, pullback

    def frule(tangents, fn, *values):
        tangents = [t if is_leaf(t) else None for t in tangents[2:]]
        if any(map(is_outer, (*values, *tangents))):
            linear = derived(fn, library.linearise, len(values), tuple(t is not None for t in tangents))
            return out(fn, *values), out(linear, *values, *(t for t in tangents if t is not None))
        results, pushed = plain_call(library.jvp, fn, values, tangents)
        return results, tuple(ZeroTangent() if t is None else t for t in pushed)

    rrule.wants_activity = True
    call.__name__ = call.__qualname__ = rrule.__qualname__ = frule.__qualname__ = f"a call of {library.name}"
    out = import_frule(import_rrule(call, rrule=rrule), frule=frule)
    return out


class Flat:
    """The flat function of a call ``fn(*args, **kwargs)``, its values put aside, and how its result is put together."""

    def __init__(self, fn, skeleton, is_result):
        self.structure = None
        name = getattr(fn, "__qualname__", type(fn).__qualname__)

        def flat(*values):
            values, results = iter(values), []

            def put_aside(part):
                if is_result(part):
                    results.append(part)
                    return SLOT
                return part

            args, kwargs = walk(skeleton, lambda part: next(values) if part is SLOT else part)
            self.structure = walk(fn(*args, **kwargs), put_aside)
            return tuple(results)

        flat.__qualname__ = name
        self.function = flat

    def result(self, values):
        values = iter(values)
        return walk(self.structure, lambda part: next(values) if part is SLOT else part)


def put_aside(args, kwargs, is_value):
    """``(values, skeleton)`` of the arguments of a call."""
    values = []

    def aside(part):
        if is_value(part):
            values.append(part)
            return SLOT
        return part

    return values, walk((args, kwargs), aside)


class Alias:
    """Memory that is handed out read-only, for libraries that know no such arrays and are trusted not to write."""

    def __init__(self, array):
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self.array = array


def writeable(array):
    return array if array.flags.writeable else np.asarray(Alias(array))


def named_like(g, fn):
    """Gives a wrapper the name of what it wraps; not its attributes, which for a network are its parameters."""
    g.__name__ = g.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)
    g.__doc__, g.__wrapped__ = getattr(fn, "__doc__", None), fn
    return g
