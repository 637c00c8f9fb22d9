"""JAX and cyad, on the CPU.

`to_jax`: NumPy functions in JAX programs. Such a function is a `jax.custom_vjp` around `jax.pure_callback`; its
backward is a sweep of cyad, in a callback. The backward of that backward is the same adapter applied to the sweep, so
that `jax.grad` may be nested. JAX wants the shapes of results before it has values. Outside of `jax.jit` they are those
of a call; inside, the caller says them, or a call outside, with arguments of these shapes, came before.

`from_jax`: JAX functions in differentiated NumPy code, compiled together with their transposes.

JAX's cotangents of complex values are the conjugates of ours: df/dRe - i df/dIm.

Rejected: calling f on made-up values in order to see its shapes (simulators loop until they converge); forward mode of
`to_jax` (a `custom_vjp` excludes it, and a `custom_jvp` of a callback excludes reverse mode).
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cyad._structures import is_leaf
from cyad.interop._calls import pullback
from cyad.interop._foreign import Flat, Library, derived, named_like, put_aside, writeable

__all__ = ["from_jax", "to_jax"]


def to_jax(f, result=None):
    """A NumPy function as one of JAX arrays, g(x) = f(x), for ``jax.grad``, ``jax.jit`` and ``jax.vmap``.

    Arguments are arrays, numbers and pytrees of them; f sees NumPy arrays, copied (it may overwrite them), numbers
    (np.float32, np.float64) where they have no axes. It must be a pure function and return floats, arrays of floats, or
    a tuple, list or dict of these, which come back as JAX arrays, in JAX's default precision. `result` is what it
    returns, as ``jax.ShapeDtypeStruct``s in that structure, or a function that gives this from those of the arguments;
    it may be left out where g is called outside of ``jax.jit`` first. ``vmap`` runs one lane at a time. Forward mode
    (``jax.jvp``) is refused by JAX. Each backward runs f once more, recording.

    Raises TypeError where the shape of the result is needed and not known, and where it, or whether it is float, is not
    what was declared (in compiled code the error is JAX's own, with this message). Any number of threads may call it,
    if they may call f.

    >>> import jax
    >>> import numpy as np
    >>> from cyad.interop.jax import to_jax
    >>> def simulate(u, rate):
    ...     for i in range(1, len(u)):
    ...         u[i] += rate * u[i - 1]
    ...     return np.sum(u**2)
    >>> g = to_jax(simulate, jax.ShapeDtypeStruct((), np.float32))
    >>> float(jax.jit(jax.grad(g, argnums=1))(np.ones(3, np.float32), 0.5))
    10.0
    """
    known = {}   # the structure and shapes of results, by those of arguments

    @functools.wraps(f)
    def g(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        leaves = [jnp.asarray(x) for x in leaves]
        key = tree, *((x.shape, x.dtype) for x in leaves)

        def of_leaves(*mine):
            args, kwargs = jax.tree.unflatten(tree, mine)
            out, structure = jax.tree.flatten(f(*args, **kwargs))
            known.setdefault(key, (structure, [shape_of(x) for x in out]))
            return out

        of_leaves.__qualname__ = getattr(f, "__qualname__", type(f).__qualname__)

        def shapes():
            if key not in known and result is not None:
                said = result
                if callable(result) and not isinstance(result, jax.ShapeDtypeStruct):
                    args, kwargs = jax.tree.unflatten(tree, [shape_of(x) for x in leaves])
                    said = result(*args, **kwargs)
                out, structure = jax.tree.flatten(said)
                known[key] = structure, [shape_of(x) for x in out]
            if key not in known:
                raise TypeError(
                    f"JAX asks for the shape of what {f.__qualname__} returns before it has values to call it with: "
                    "give it to to_jax as result=jax.ShapeDtypeStruct(shape, dtype), or call the function once outside "
                    "of jax.jit with arguments of these shapes")
            return known[key][1]

        out = numpy_call(of_leaves, shapes)(*leaves)
        return jax.tree.unflatten(known[key][0], out)

    return g


def numpy_call(f, shapes):
    """The JAX function of a NumPy function from arrays to a list of arrays, whose shapes `shapes` gives when asked."""
    def on_host(*leaves):
        return f(*[np.array(x)[()] for x in leaves])

    def as_declared(*leaves):
        said = shapes()
        return [np.asarray(x, s.dtype) for x, s in zip(agreeing(f, on_host(*leaves), said), said, strict=True)]

    @jax.custom_vjp
    def call(*leaves):
        if not any(isinstance(x, jax.core.Tracer) for x in leaves):
            return [jnp.asarray(x) for x in on_host(*leaves)]
        return jax.pure_callback(as_declared, shapes(), *leaves, vmap_method="sequential")

    def forward(*leaves):
        return call(*leaves), leaves

    def backward(leaves, cotangents):
        wanted = [is_float(x) for x in leaves]
        given = [is_float(g) for g in cotangents]
        n = len(leaves)
        # What was declared, if anything was: the compiler may have dropped the forward half, and its check with it.
        said = [jax.ShapeDtypeStruct(g.shape, g.dtype) for g in cotangents]

        def checked(*xs):
            return agreeing(f, f(*xs), said)

        def adjoints(*both):
            gs = (np.conj(g) for g in both[n:])
            derivs = pullback(checked, both[:n], [next(gs) for on in given if on], wanted)
            return [np.conj(d) for d in derivs]

        of_floats = [shape_of(x) for x, on in zip(leaves, wanted, strict=True) if on]
        derivs = iter(numpy_call(adjoints, lambda: of_floats)(*leaves, *(g for g, on in zip(
            cotangents, given, strict=True) if on)))
        return tuple(next(derivs) if on else np.zeros(x.shape, jax.dtypes.float0)
                     for x, on in zip(leaves, wanted, strict=True))

    call.defvjp(forward, backward)
    return call


def agreeing(f, out, said):
    """The leaves of a result, if they have the shapes and kinds of dtype that were declared; TypeError if not. Of the
    precision JAX decides; float0 stands for everything without derivative."""
    def kind(x):
        return "f" if jnp.issubdtype(x.dtype, jnp.floating) else "c" if is_float(x) else "without derivative"

    came = [jax.ShapeDtypeStruct(np.shape(x), x.dtype if hasattr(x, "dtype") else np.result_type(x)) for x in out]
    if [(x.shape, kind(x)) for x in came] != [(s.shape, kind(s)) for s in said]:
        raise TypeError(f"the result of {f.__qualname__} was declared to to_jax as {shown(said)}, or that is what an "
                        f"earlier call with arguments of these shapes returned; it returned {shown(came)}. Declare "
                        "what it returns: result=jax.ShapeDtypeStruct(shape, dtype)")
    return out


def shown(shapes):
    parts = [f"{'no float' if s.dtype == jax.dtypes.float0 else s.dtype}{list(s.shape)}" for s in shapes]
    return ", ".join(parts) or "nothing"


def shape_of(x):
    """As JAX will see it: in single precision, unless it was told otherwise."""
    return jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(x.dtype if hasattr(x, "dtype") else type(x)))


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.inexact)


# ---- JAX functions in NumPy code ------------------------------------------------------------------------------------

def from_jax(fn):
    """A function of JAX arrays as one of NumPy arrays that cyad differentiates in any mode and order: g(x) = fn(x).

    Arrays and numbers among the arguments, also in tuples, lists and dicts, become JAX arrays, without a copy where
    JAX takes memory as it is (aligned, contiguous, of a dtype that it has); other parts (strings, None, functions) stay
    what they are, and have to be hashable. Arrays in the result become NumPy arrays. fn is compiled by ``jax.jit``, as
    are its transpose and its linearisation, for each combination of shapes; it must be pure.

    JAX computes in single precision unless ``jax.config.update("jax_enable_x64", True)`` was called; the results then
    are float32. Raises TypeError for results that NumPy has no dtype for (bfloat16), and what fn and JAX raise. Any
    number of threads may call g.

    >>> import jax
    >>> import numpy as np
    >>> import cyad
    >>> from cyad.interop.jax import from_jax
    >>> g = from_jax(lambda x: jax.scipy.special.logsumexp(x))
    >>> cyad.gradient(cyad.Reverse, lambda x: g(x) + x[0], np.zeros(2, np.float32))
    (array([1.5, 0.5], dtype=float32),)
    """
    known = {}

    def g(*args, **kwargs):
        values, skeleton = put_aside(args, kwargs, is_value)
        # Compiled code does not say again how its results are put together: that is known for each set of shapes.
        key = (repr(jax.tree.structure(skeleton)), *map(identity, jax.tree.leaves(skeleton)),
               *((np.shape(v), getattr(v, "dtype", type(v))) for v in values))
        flat = known.get(key)
        if flat is None:
            flat = known[key] = Flat(fn, skeleton, lambda part: isinstance(part, jax.Array))
        return flat.result(JAX.call(flat.function, *values))

    return named_like(g, fn)


def identity(part):
    return type(part), part


def is_value(part):
    return isinstance(part, (np.ndarray, jax.Array)) or is_leaf(part) or (
        isinstance(part, (int, np.integer, np.bool_)) and type(part) is not bool)


def as_jax(value):
    """A JAX array over the memory of an array, where JAX can; a copy where it cannot."""
    if isinstance(value, jax.Array):
        return value
    if not isinstance(value, np.ndarray) or not value.flags.c_contiguous or not value.size or value.dtype.kind == "b" \
            or jax.dtypes.canonicalize_dtype(value.dtype) != value.dtype:
        return jnp.array(value)
    return jax.dlpack.from_dlpack(writeable(value))


def as_cotangent(value, like):
    return jnp.asarray(np.conj(value), like.dtype).reshape(like.shape)


def as_numpy(array):
    array = np.asarray(array)
    if array.dtype.kind not in "fciub":
        raise TypeError(f"JAX returned an array of dtype {array.dtype}, which NumPy does not have: its derivative "
                        "would be lost; convert it inside the function, y.astype(jax.numpy.float32)")
    return array[()]


class Jax(Library):
    """Functions of JAX arrays, compiled. JAX holds arrays for immutable: what shares memory with ours is used up, or
    put back by the sweep, before it looks again."""

    name = "JAX"

    def run(self, fn, values):
        # NumPy code writes into its results; JAX's own memory is read-only.
        return tuple(np.array(as_numpy(y))[()] for y in derived(fn, compiled)(*map(as_jax, values)))

    def vjp(self, fn, values, wanted):
        results, transpose = jax.block_until_ready(derived(fn, recorded, tuple(wanted))(*map(as_jax, values)))

        def pull(cotangents):
            given = tuple(jnp.zeros_like(y) if g is None and is_float(y) else np.zeros(y.shape, jax.dtypes.float0)
                          if g is None else as_cotangent(g, y) for y, g in zip(results, cotangents, strict=True))
            return [np.conj(as_numpy(c)) for c in pulled_back(transpose, given)]

        return tuple(map(as_numpy, results)), pull

    def jvp(self, fn, values, tangents):
        arrays = [as_jax(v) for v in values]
        given = tuple(t is not None for t in tangents)
        results, pushed = derived(fn, pushed_forward, given)(
            *arrays, *(jnp.asarray(t, x.dtype) for t, x in zip(tangents, arrays, strict=True) if t is not None))
        return tuple(map(as_numpy, results)), tuple(as_numpy(t) if is_float(t) else None for t in pushed)

    def transpose(self, fn, count, wanted, given):
        def transposed(*both):
            of_active, mine = split(fn, both[:count], wanted)
            results, pull = jax.vjp(of_active, *mine)
            gs = iter(both[count:])
            return tuple(map(jnp.conj, pull(tuple(
                jnp.conj(next(gs)).astype(y.dtype).reshape(y.shape) if on else jnp.zeros_like(y) if is_float(y) else
                np.zeros(y.shape, jax.dtypes.float0) for y, on in zip(results, given, strict=True)))))
        return transposed

    def linearise(self, fn, count, given):
        linear = pushed_forward(fn, given)

        def linearised(*both):
            results, tangents = linear(*both)
            return tuple(t if is_float(t) else jnp.zeros(y.shape) for y, t in zip(results, tangents, strict=True))
        return linearised


def compiled(fn):
    return jax.jit(fn)


def recorded(fn, wanted):
    """The results and the transpose, a pytree of what it keeps, in one compiled function."""
    def record(*values):
        of_active, mine = split(fn, values, wanted)
        return jax.vjp(of_active, *mine)
    return jax.jit(record)


def pushed_forward(fn, given):
    def push(*both):
        of_active, mine = split(fn, both[:len(given)], given)
        return jax.jvp(of_active, mine, tuple(t.astype(x.dtype) for t, x in zip(both[len(given):], mine, strict=True)))
    return jax.jit(push)


@jax.jit
def pulled_back(transpose, cotangents):
    return transpose(cotangents)


def split(fn, values, active):
    """The function of the active ones of the arguments, and these."""
    def of_active(*mine):
        mine = iter(mine)
        return fn(*(next(mine) if on else v for v, on in zip(values, active, strict=True)))

    return of_active, tuple(v for v, on in zip(values, active, strict=True) if on)


JAX = Jax()
