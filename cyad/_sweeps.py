"""Sweeps with many directions: columns of a Jacobian by forward mode, rows by reverse mode.

Forward mode pushes unit vectors of the inputs, reverse mode pulls unit vectors of the outputs, `chunk` of them in a
sweep. Columns are kept one after the other in memory (the Jacobian that is handed out is a transposed view), so that
each sweep writes where it ends up.

Rejected: Hessians by symmetry (half of the columns would do, but a sweep costs what its widest array costs, and users
check a Hessian by its symmetry); sparse seeds, which need the pattern first.
"""
import math

import numpy as np

from cyad._adjoint import Adjoint, AdjointArray, AdjointBox
from cyad._calls import Restored
from cyad._dual import Dual, DualArray, DualBox, push_lanes
from cyad._pullback import Pullback
from cyad._structures import is_leaf
from cyad.activity import Input
from cyad.errors import ActivityError
from cyad.structures import check_chunk

LANE_BYTES = 1 << 17   # what the lanes of one array may take by default: beyond the fast caches wide sweeps lose
LEAST_CHUNK = 8         # as many tangents as a tracked number holds in itself
TRACKED = (Adjoint, AdjointArray, AdjointBox, Dual, DualArray, DualBox)


def choose_chunk(chunk, total, widest):
    """The width of a sweep: as asked for, or so that the lanes of the widest array stay in cache, in even chunks."""
    if chunk is not None:
        return max(1, min(check_chunk(chunk), total))
    if total <= LEAST_CHUNK:
        return max(1, total)
    width = min(total, max(LEAST_CHUNK, LANE_BYTES // max(1, widest)))
    return math.ceil(total / math.ceil(total / width))


class Directions:
    """Unit vectors of a list of leaves, numbered through: for each entry 1, or 1 and 1j where `ways` says 2."""

    def __init__(self, leaves, ways):
        self.shapes = [np.shape(leaf) for leaf in leaves]
        self.dtypes = [np.result_type(leaf) for leaf in leaves]
        self.sizes = [math.prod(shape) for shape in self.shapes]
        self.ways = ways
        self.starts, self.total = [], 0
        for size, way in zip(self.sizes, ways, strict=True):
            self.starts.append(self.total)
            self.total += size * way
        self.widest = max((size * dtype.itemsize for size, dtype in zip(self.sizes, self.dtypes, strict=True)),
                          default=0)

    def blocks(self, first, width):
        """Directions `first` to `first + width`, as one array (width, *shape) for each leaf."""
        out = []
        for shape, dtype, size, way, start in zip(self.shapes, self.dtypes, self.sizes, self.ways, self.starts,
                                                  strict=True):
            block = np.zeros((width, size), dtype)
            low, high = max(first - start, 0), min(first + width - start, size * way)
            if low < high and way == 1:
                at = low + start - first
                block.reshape(-1)[at * size + low:(at + high - low) * size:size + 1] = 1.0
            elif low < high:
                number = np.arange(low, high)
                block[number + start - first, number // 2] = np.where(number % 2, 1j, 1.0)
            out.append(block.reshape((width, *shape)))
        return out

    def of_leaf(self, columns, i):
        """From one entry for each direction (axis 0) those of leaf i, its shape in front; 1 and 1j put together."""
        own = columns[self.starts[i]:self.starts[i] + self.sizes[i] * self.ways[i]]
        if self.ways[i] == 2:
            own = own[0::2] + 1j * own[1::2]
            if self.dtypes[i].itemsize <= 8:
                own = own.astype(np.complex64)
        return own.reshape(self.shapes[i] + columns.shape[1:])


def as_number(value):
    """A derivative without axes as a number: a Python float where it is one of 64 bits, as in `gradient`."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return float(value) if type(value) is np.float64 else complex(value) if type(value) is np.complex128 else value


def inputs_last(block, ndim):
    """(inputs, outputs) as (outputs, inputs): a view; `ndim` is that of the inputs."""
    return as_number(block.transpose((*range(ndim, block.ndim), *range(ndim))))


def inputs_first(block, ndim):
    return block.transpose((*range(block.ndim - ndim, block.ndim), *range(block.ndim - ndim)))


def check_outs(who, outs, leaves, title):
    """ActivityError unless the arrays of out= can be written and share no memory with arguments or each other."""
    for i, o in enumerate(outs):
        if o is None:
            continue
        if not isinstance(o, np.ndarray) or o.dtype.kind not in "fc" or not o.flags.writeable:
            raise ActivityError(f"{who}: out= takes arrays of floats that can be written, not "
                                f"{getattr(o, 'dtype', type(o).__name__)}")
        for other in (*leaves, *outs[:i]):
            if isinstance(other, np.ndarray) and np.shares_memory(o, other):
                raise ActivityError(f"{who}: out= shares memory with an argument of {title} or with another out=; it "
                                    "needs memory of its own")


def check_fits(who, o, shape, dtype, what):
    if o.shape != shape or not np.can_cast(dtype, o.dtype, "same_kind"):
        raise ActivityError(f"{who}: the out= for {what} has shape {o.shape} and dtype {o.dtype}; what goes there has "
                            f"shape {shape} and dtype {dtype}")


def check_result(who, call, primals, n_outs):
    """ActivityError for a result without a derivative, or of another shape than the caller said."""
    if not primals:
        raise ActivityError(f"{call.__name__} returned no float and no array of floats; {who} has nothing to "
                            "differentiate")
    if n_outs is not None and (len(primals) != 1 or np.shape(primals[0]) != n_outs):
        raise ActivityError(f"{who}: n_outs={n_outs}, but {call.__name__} returned "
                            f"{' and '.join(f'shape {np.shape(p)}' for p in primals)}")


def check_scalar(call, val):
    """ActivityError for what is not a real number."""
    if isinstance(val, (tuple, list, dict)) or not isinstance(val, (int, float, complex, np.generic, np.ndarray)):
        what = "None" if val is None else f"a {type(val).__name__}"
    elif np.ndim(val):
        what = f"an array of shape {np.shape(val)}"
    elif np.iscomplexobj(val):
        what = "a complex number"
    else:
        return
    raise ActivityError(f"gradient needs a function that returns a real number; {call.__name__} returned {what}: use "
                        "jacobian, or autodiff with a tangent of your own")


def check_repeated(who, call, before, primals, width, total):
    """ActivityError where a call for further directions came to other values: their derivatives are those of another
    function. What merely rounds differently passes."""
    for a, b in zip(before, primals, strict=False):
        if type(a) is type(b) is np.ndarray and a.shape == b.shape and (a == b).all():
            continue    # as a rule; np.allclose takes thirty times as long
        if type(a) is type(b) and isinstance(a, (float, np.ndarray, np.number)) and np.shape(a) == np.shape(b):
            close = 1e-3 if np.result_type(a).itemsize <= 4 else 1e-6
            size = np.max(np.abs(a), initial=0.0, where=np.isfinite(a))
            if np.allclose(a, b, rtol=close, atol=close * size, equal_nan=True):
                continue
        elif type(a) is type(b) and not isinstance(a, (float, np.ndarray, np.number)):
            continue    # of an outer differentiation
        raise ActivityError(f"{who}: forward mode called {call.__name__} once for every {width} of {total} inputs, and "
                            "it returned different values: it keeps state, draws random numbers or uses up an "
                            f"iterator. Pass chunk={total} for one call, or use Reverse")


def columns(who, mode, call, chunk, n_outs=None, outs=None, scalar=False):
    """``(val, rebuild, entries)`` by forward mode; entries[k][i] is the derivative of result leaf k by leaf i.

    `outs`, an array for each leaf, may receive it instead. `scalar` says that the result is to be a real number.
    """
    leaves = call.leaves
    inputs = Directions(leaves, [2 if np.iscomplexobj(leaf) else 1 for leaf in leaves])
    width = choose_chunk(chunk, inputs.total, inputs.widest)
    restored = Restored(leaves + call.fixed, call.f) if width < inputs.total else None
    stores = at_first = None
    for first in range(0, max(inputs.total, 1), width):
        if first:
            restored.restore()
        count = max(1, min(width, inputs.total - first))
        val, rebuild, primals, tangents = push_lanes(call, inputs.blocks(first, count), count, mode.strong_zero)
        if not first and scalar:
            check_scalar(call, val)
            if not primals:   # an integer, which depends on nothing
                primals, tangents = [0.0], [np.zeros(count)]
        elif not first:
            check_result(who, call, primals, n_outs)
        else:
            check_repeated(who, call, at_first, primals, width, inputs.total)
        if not first:
            at_first = primals
            if 2 in inputs.ways and any(np.iscomplexobj(p) for p in primals):
                raise ActivityError(f"{call.__name__} is a complex function of complex arguments; its Jacobian is one "
                                    "matrix only if it is holomorphic: use ReverseHolomorphic, or a function of real "
                                    "and imaginary parts")
            direct = outs is not None and len(primals) == 1 and 2 not in inputs.ways
            if outs is not None:
                if len(primals) != 1:
                    raise ActivityError(f"{who}: out= takes arrays, but {call.__name__} returned a structure")
                for i, shape in enumerate(inputs.shapes):
                    dtype = np.result_type(tangents[0], 1j) if inputs.ways[i] == 2 else tangents[0].dtype
                    check_fits(who, outs[i], np.shape(primals[0]) + shape, dtype, f"argument {i + 1}")
            if direct:
                views = [inputs_first(o, len(shape)) for o, shape in zip(outs, inputs.shapes, strict=True)]
            elif count == inputs.total:
                stores = [compact(block) for block in tangents]
            else:
                stores = [np.empty((inputs.total, *block.shape[1:]), block.dtype) for block in tangents]
        if direct:
            for view, shape, size, start in zip(views, inputs.shapes, inputs.sizes, inputs.starts, strict=True):
                low, high = max(first - start, 0), min(first + count - start, size)
                if low < high:
                    at = np.unravel_index(np.arange(low, high), shape) if shape else ()
                    view[at] = tangents[0][low + start - first:high + start - first] if shape else \
                        tangents[0][start - first]
        elif count < inputs.total:
            for store, block in zip(stores, tangents, strict=not scalar):
                store[first:first + count] = block
    if direct:
        return val, rebuild, None
    entries = [[inputs_last(inputs.of_leaf(store, i), len(shape)) for i, shape in enumerate(inputs.shapes)]
               for store in stores]
    if outs is not None:
        for o, entry in zip(outs, entries[0], strict=True):
            o[...] = entry
    return val, rebuild, entries


def rows(who, mode, call, chunk, n_outs=None, outs=None):
    """``(val, rebuild, entries)`` by reverse mode; entries[k][i] is the derivative of result leaf k by leaf i."""
    leaves = call.leaves
    recorded = Recorded(call, mode.strong_zero)
    check_result(who, call, recorded.primals, n_outs)
    of_complex = [np.iscomplexobj(leaf) for leaf in leaves]
    result_complex = [np.iscomplexobj(p) for p in recorded.primals]
    if any(of_complex) and any(result_complex) and not mode.holomorphic:
        raise ActivityError(f"{call.__name__} is a complex function of complex arguments; its Jacobian is one matrix "
                            "only if it is holomorphic: use ReverseHolomorphic, or a function of real and imaginary "
                            "parts")
    # By a real argument a complex result has two rows, one of its real part and one of its imaginary part.
    outputs = Directions(recorded.primals, [2 if c and not all(of_complex) else 1 for c in result_complex])
    total = outputs.total
    width = choose_chunk(chunk, total, max(outputs.widest, *[np.size(a) * np.result_type(a).itemsize for a in leaves],
                                           0))
    if outs is not None:
        if len(recorded.primals) != 1:
            raise ActivityError(f"{who}: out= takes arrays, but {call.__name__} returned a structure")
        for i, leaf in enumerate(leaves):
            dtype = np.result_type(leaf, 1j) if 2 in outputs.ways else np.result_type(leaf)
            check_fits(who, outs[i], outputs.shapes[0] + np.shape(leaf), dtype, f"argument {i + 1}")
    whole = [np.empty((total, *np.shape(leaf)), np.result_type(leaf)) for leaf in leaves]
    for first in range(0, total, width):
        count = min(width, total - first)
        recorded.pull(outputs.blocks(first, count), count, [store[first:first + count] for store in whole])
    if mode.holomorphic:   # f' is the conjugate of what pullbacks give
        whole = [np.conjugate(store) if c else store for store, c in zip(whole, of_complex, strict=True)]
    entries = []
    for shape, size, way, start in zip(outputs.shapes, outputs.sizes, outputs.ways, outputs.starts, strict=True):
        row = []
        for store, is_complex in zip(whole, of_complex, strict=True):
            own = store[start:start + size * way]
            if way == 2:
                own = own[0::2] if is_complex else own[0::2] + np.asarray(1j, np.result_type(own, np.complex64)) * \
                    own[1::2]
            row.append(as_number(own.reshape(shape + store.shape[1:])))
        entries.append(row)
    if outs is not None:
        for o, entry in zip(outs, entries[0], strict=True):
            o[...] = entry
    return recorded.val, recorded.rebuild, entries


class Recorded:
    """A call of leaves, to be pulled back any number of times; on copies of the arrays, as `Pullback` says."""

    def __init__(self, call, strong=False, outlives=False):
        self.leaves, self.fixed = call.leaves, len(call.fixed)
        named = call.annotated([Input(leaf) for leaf in call.leaves])
        self.pullback = Pullback(call.run, [a.val for _, a in named], {}, named, strong, outlives)
        self.val, self.primals = self.pullback.primal, self.pullback.leaves
        self.rebuild = None if is_leaf(self.val) else self.pullback.rebuild_result

    def pull(self, blocks, width, into=None):
        """The cotangents of the leaves, arrays (width, *leaf.shape), from those of the result's leaves."""
        if into is None:
            into = [np.empty((width, *np.shape(leaf)), np.result_type(leaf)) for leaf in self.leaves]
        targets = [block if isinstance(leaf, np.ndarray) else None
                   for leaf, block in zip(self.leaves, into, strict=True)]
        done = self.pullback.pull(blocks, width, None, targets + [None] * self.fixed)
        for leaf, block, lanes in zip(self.leaves, into, done, strict=False):
            if not isinstance(leaf, np.ndarray):
                block[...] = lanes
        return into


def compact(block):
    """A block in memory of its own size: results may be views of larger arrays."""
    return np.ascontiguousarray(block) if type(block) is np.ndarray and block.ndim else block


def direction_block(leaf, d):
    """One direction as a block of one lane: copied, for f may overwrite it, unless an outer call tracks it."""
    return np.reshape(d if type(d) in TRACKED else np.array(d, np.result_type(leaf)), (1, *np.shape(leaf)))
