"""PyTorch and cyad, on the CPU.

`to_torch`: NumPy functions in torch graphs. Such a function is a `torch.autograd.Function` whose backward is a sweep of
cyad. The backward of that backward is the same adapter applied to the sweep, so that torch differentiates as often as
it likes.

`from_torch`: torch functions and networks in differentiated NumPy code.

Rejected: sharing memory with the NumPy function of `to_torch`, which may write into it without torch's noticing.
"""
import functools

import numpy as np
import torch

from cyad._structures import is_leaf
from cyad.interop._calls import floats_of, pullback, pushforward, walk, with_floats
from cyad.interop._foreign import SLOT, Flat, Library, named_like, put_aside, writeable
from cyad.rules.imported import ZeroTangent

__all__ = ["from_torch", "parameters_of", "to_torch"]


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
        tensors, skeleton = put_aside(args, kwargs, lambda part: isinstance(part, torch.Tensor))

        def of_leaves(*leaves):
            leaves = iter(leaves)
            mine, keywords = walk(skeleton, lambda value: next(leaves) if value is SLOT else value)
            return f(*mine, **keywords)

        seen = Seen()
        out = NumPyCall.apply(of_leaves, seen, *tensors)
        return with_floats(seen.result, out)

    return g


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
    return tensor.detach().numpy(force=True)[()]


def tensors_of(floats):
    """Results in memory of their own, as torch believes them to be: f may return what it keeps, or one array twice."""
    for value in floats:
        yield torch.from_numpy(np.array(value, order="C"))


# ---- torch functions in NumPy code ----------------------------------------------------------------------------------

def from_torch(fn):
    """A function of torch tensors, or a network, as one of NumPy arrays that cyad differentiates in any mode and order.

    Of a function: g(arrays) = fn(tensors). Arrays and NumPy numbers among the arguments, also in tuples, lists and
    dicts, become tensors that share their memory (and must not be written); anything else stays as it is. Tensors in
    the result become arrays.

    Of a `torch.nn.Module`: ``g(parameters, *inputs)``, where `parameters` is a dict of arrays by name, such as
    `parameters_of` gives; its gradient is a dict as well. Buffers are the module's own.

    torch differentiates what is inside, reverse mode by ``torch.autograd.grad``, forward mode and higher orders by
    ``torch.func``. Raises what fn and torch raise. Any number of threads may call g, if they may call fn.

    >>> import numpy as np
    >>> import torch
    >>> import cyad
    >>> from cyad.interop.torch import from_torch
    >>> g = from_torch(lambda x: torch.sum(torch.special.gammaln(x)))
    >>> cyad.gradient(cyad.Reverse, lambda x: g(x) * x[0], np.array([1.0, 2.0]))[0].round(4)
    array([-0.5772,  0.4228])
    """
    target = fn
    if isinstance(fn, torch.nn.Module):
        def target(parameters, *args, **kwargs):
            return torch.func.functional_call(fn, parameters, args, kwargs)
        target.__qualname__ = type(fn).__qualname__

    def g(*args, **kwargs):
        values, skeleton = put_aside(args, kwargs, is_value)
        flat = Flat(target, skeleton, lambda part: isinstance(part, torch.Tensor))
        return flat.result(TORCH.call(flat.function, *values))

    return named_like(g, fn)


def parameters_of(module):
    """The parameters of a network as a dict of arrays by name, in the memory of the network.

    Of the parameters' shapes and dtypes. A step of an optimiser that is written in NumPy, ``p[...] -= rate * g``,
    therefore trains the network.

    Raises AttributeError for what is no `torch.nn.Module`, TypeError for parameters that are not on the CPU or of a
    dtype that NumPy has not (bfloat16). Any number of threads may call it; who writes an array writes the network.

    >>> import torch
    >>> from cyad.interop.torch import parameters_of
    >>> {name: p.shape for name, p in parameters_of(torch.nn.Linear(3, 2)).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def is_value(part):
    # Python's own floats stay what they are: many functions take nothing else where they want a number.
    return isinstance(part, np.ndarray) or (is_leaf(part) and type(part) is not float)


def as_tensor(value, like=None):
    """A tensor over the memory of an array; for cotangents in the dtype and shape of what they belong to."""
    array = np.asarray(value)
    if any(s < 0 for s in array.strides):
        array = array.copy()   # torch has no negative strides
    tensor = torch.from_numpy(writeable(array))
    return tensor if like is None else tensor.to(like.dtype).reshape(like.shape)


class Torch(Library):
    """Functions of tensors. Shared memory changes under torch's eyes only between sweeps, and back before they look."""

    name = "torch"

    def run(self, fn, values):
        with torch.no_grad():
            return tuple(map(to_numpy, fn(*map(as_tensor, values))))

    def vjp(self, fn, values, wanted):
        with torch.enable_grad():
            tensors = [as_tensor(v).requires_grad_(on) for v, on in zip(values, wanted, strict=True)]
            results = fn(*tensors)
        active = [t for t, on in zip(tensors, wanted, strict=True) if on]

        def pull(cotangents):
            pairs = [(y, as_tensor(g, y)) for y, g in zip(results, cotangents, strict=True)
                     if g is not None and y.requires_grad]
            if not pairs:
                return [ZeroTangent()] * len(active)
            found = torch.autograd.grad([y for y, _ in pairs], active, [g for _, g in pairs], retain_graph=True,
                                        allow_unused=True)
            return [ZeroTangent() if c is None else to_numpy(c) for c in found]

        return tuple(map(to_numpy, results)), pull

    def jvp(self, fn, values, tangents):
        given = [t is not None for t in tangents]
        tensors = [as_tensor(v) for v in values]
        pushed = self.linearise(fn, len(values), tuple(given), values_too=True)
        try:
            results, derivatives = pushed(*tensors, *(as_tensor(t, x) for t, x in zip(tangents, tensors, strict=True)
                                                      if t is not None))
        except RuntimeError as error:
            if "mutate a captured Tensor" in str(error):
                error.add_note("it writes tensors of its own, as a module in training mode does its buffers (BatchNorm "
                               "its running statistics), which torch cannot push tangents through: call module.eval() "
                               "first, or use Reverse")
            raise
        return tuple(map(to_numpy, results)), tuple(map(to_numpy, derivatives))

    def transpose(self, fn, count, wanted, given):
        def transposed(*both):
            mine, of_active = split(fn, both[:count], wanted)
            results, pull = torch.func.vjp(of_active, *mine)
            gs = iter(both[count:])
            return pull(tuple(next(gs) if on else torch.zeros_like(y) for y, on in zip(results, given, strict=True)))
        return transposed

    def linearise(self, fn, count, given, values_too=False):
        def linearised(*both):
            mine, of_active = split(fn, both[:count], given)
            results, tangents = torch.func.jvp(of_active, mine, tuple(both[count:]))
            return (results, tangents) if values_too else tangents
        return linearised


def split(fn, tensors, active):
    """The active ones of the arguments, and the function of these."""
    def of_active(*mine):
        mine = iter(mine)
        return fn(*(next(mine) if on else t for t, on in zip(tensors, active, strict=True)))

    return tuple(t for t, on in zip(tensors, active, strict=True) if on), of_active


TORCH = Torch()
