"""JAX and cyad, on the CPU.

`to_jax`: NumPy functions in JAX programs. Such a function is a `jax.custom_vjp` around `jax.pure_callback`; its
backward is a sweep of cyad, in a callback. The backward of that backward is the same adapter applied to the sweep, so
that `jax.grad` may be nested.

JAX wants the shapes of results before it has values. Outside of `jax.jit` they are those of a call; inside, the caller
says them, or a call outside, with arguments of these shapes, came before.

Rejected: calling f on made-up values in order to see its shapes (simulators loop until they converge); forward mode (a
`custom_vjp` excludes it, and a `custom_jvp` of a callback excludes reverse mode).
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cyad.interop._calls import pullback

__all__ = ["to_jax"]


def to_jax(f, result=None):
    """A NumPy function as one of JAX arrays, g(x) = f(x), for ``jax.grad``, ``jax.jit`` and ``jax.vmap``.

    Arguments are arrays, numbers and pytrees of them; f sees NumPy arrays, copied (it may overwrite them), numbers
    (np.float32, np.float64) where they have no axes. It must be a pure function and return floats, arrays of floats, or
    a tuple, list or dict of these, which come back as JAX arrays, in JAX's default precision. `result` is what it
    returns, as ``jax.ShapeDtypeStruct``s in that structure, or a function that gives this from those of the arguments;
    it may be left out where g is called outside of ``jax.jit`` first. ``vmap`` runs one lane at a time. Forward mode
    (``jax.jvp``) is refused by JAX. Each backward runs f once more, recording.

    Raises TypeError where the shape of the result is needed and not known. Any number of threads may call it, if they
    may call f.

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

    @jax.custom_vjp
    def call(*leaves):
        if not any(isinstance(x, jax.core.Tracer) for x in leaves):
            return [jnp.asarray(x) for x in on_host(*leaves)]
        said = shapes()
        return jax.pure_callback(
            lambda *xs: [np.asarray(x, s.dtype) for x, s in zip(on_host(*xs), said, strict=True)], said, *leaves,
            vmap_method="sequential")

    def forward(*leaves):
        return call(*leaves), leaves

    def backward(leaves, cotangents):
        wanted = [is_float(x) for x in leaves]
        given = [is_float(g) for g in cotangents]
        n = len(leaves)

        def adjoints(*both):
            # JAX's cotangents of complex values are conjugates of ours: df/dRe - i df/dIm.
            gs = (np.conj(g) for g in both[n:])
            derivs = pullback(f, both[:n], [next(gs) for on in given if on], wanted)
            return [np.conj(d) for d in derivs]

        of_floats = [shape_of(x) for x, on in zip(leaves, wanted, strict=True) if on]
        derivs = iter(numpy_call(adjoints, lambda: of_floats)(*leaves, *(g for g, on in zip(
            cotangents, given, strict=True) if on)))
        return tuple(next(derivs) if on else np.zeros(x.shape, jax.dtypes.float0)
                     for x, on in zip(leaves, wanted, strict=True))

    call.defvjp(forward, backward)
    return call


def shape_of(x):
    """As JAX will see it: in single precision, unless it was told otherwise."""
    return jax.ShapeDtypeStruct(np.shape(x), jax.dtypes.canonicalize_dtype(x.dtype if hasattr(x, "dtype") else type(x)))


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.inexact)
