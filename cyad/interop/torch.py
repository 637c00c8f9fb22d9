"""PyTorch and cyad, on the CPU.

`to_torch`: NumPy functions in torch graphs. Such a function is a `torch.autograd.Function` whose backward is a sweep of
cyad. The backward of that backward is the same adapter applied to the sweep, so that torch differentiates as often as
it likes.

Rejected: sharing memory with the NumPy function, which may write into its arguments without torch's noticing.
"""
import functools

import numpy as np
import torch

from cyad.interop._calls import floats_of, pullback, pushforward, walk, with_floats

__all__ = ["to_torch"]


def to_torch(f):
    """A NumPy function as one of torch tensors, g(tensors) = f(arrays), that torch differentiates as often as it likes.

    Arguments may be tensors on the CPU, and tuples, lists and dicts of them; f sees NumPy arrays of their shapes and
    dtypes, copied (it may overwrite them), numbers (np.float64, np.float32) where tensors have no axes, and anything
    else as it is. What f returns comes back in the same structure, arrays and floats as tensors. Reverse mode
    (``backward``, ``torch.func.vjp``), forward mode (``torch.func.jvp``), ``vmap`` (one lane at a time) and their
    compositions work. Each backward runs f once more, recording: what torch keeps of a call are its tensors.

    Raises TypeError for tensors that are not on the CPU; what f and cyad raise passes through. Any number of threads
    may call it, if they may call f.

    >>> import numpy as np
    >>> import torch
    >>> from cyad.interop.torch import to_torch
    >>> def simulate(u, rate):
    ...     for i in range(1, len(u)):
    ...         u[i] += rate * u[i - 1]
    ...     return np.sum(u**2)
    >>> u, rate = torch.ones(3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    >>> to_torch(simulate)(u, rate).backward()
    >>> rate.grad.item()
    10.0
    """
    @functools.wraps(f)
    def g(*args, **kwargs):
        tensors = []

        def put_aside(value):
            if isinstance(value, torch.Tensor):
                tensors.append(value)
                return SLOT
            return value

        skeleton = walk((args, kwargs), put_aside)

        def of_leaves(*leaves):
            leaves = iter(leaves)
            mine, keywords = walk(skeleton, lambda value: next(leaves) if value is SLOT else value)
            return f(*mine, **keywords)

        seen = Seen()
        out = NumPyCall.apply(of_leaves, seen, *tensors)
        return with_floats(seen.result, out)

    return g


SLOT = object()   # where a tensor stood among the arguments


class Seen:
    """What a NumPy function returned. Not a list: torch's transforms would copy that, for a structure of tensors."""

    result = None


class NumPyCall(torch.autograd.Function):
    """``f(*leaves)``: its floats as a tuple of tensors; what it returned is left in `seen`."""

    @staticmethod
    def forward(f, seen, *tensors):
        seen.result = f(*[to_numpy(t).copy() for t in tensors])
        return tuple(tensors_of(floats_of(seen.result)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        f, _, *tensors = inputs
        ctx.f = f
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents):
        tensors, f, n = ctx.saved_tensors, ctx.f, len(ctx.saved_tensors)
        wanted = ctx.needs_input_grad[2:]
        given = [g is not None for g in cotangents]

        def adjoints(*leaves):
            gs = iter(leaves[n:])
            return pullback(f, leaves[:n], [next(gs) if on else None for on in given], wanted)

        derivs = iter(NumPyCall.apply(adjoints, Seen(), *tensors, *(g for g in cotangents if g is not None)))
        return None, None, *(next(derivs) if on else None for on in wanted)

    @staticmethod
    def jvp(ctx, _f, _seen, *tangents):
        tensors, f, n = ctx.saved_tensors, ctx.f, len(ctx.saved_tensors)
        given = [v is not None for v in tangents]

        def pushed(*leaves):
            vs = iter(leaves[n:])
            return pushforward(f, leaves[:n], [next(vs) if on else None for on in given])

        return NumPyCall.apply(pushed, Seen(), *tensors, *(v for v in tangents if v is not None))

    @staticmethod
    def vmap(info, in_dims, f, seen, *tensors):
        lanes = [NumPyCall.apply(f, seen, *(t if d is None else t.select(d, k)
                                            for t, d in zip(tensors, in_dims[2:], strict=True)))
                 for k in range(info.batch_size)]
        out = tuple(torch.stack(parts) for parts in zip(*lanes, strict=True))
        return out, (0,) * len(out)


def to_numpy(tensor):
    """The memory of a tensor, as an array; a number where it has no axes."""
    if tensor.device.type != "cpu":
        raise TypeError(f"a tensor on {tensor.device} is not in the memory that NumPy sees; pass tensor.cpu()")
    return tensor.detach().resolve_conj().resolve_neg().numpy()[()]


def tensors_of(floats):
    """Results in memory of their own, as torch believes them to be: f may return what it keeps, or one array twice."""
    for value in floats:
        yield torch.from_numpy(np.array(value, order="C"))
