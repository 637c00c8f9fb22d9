"""Jacobians, Hessians, and products with Hessians.

All of it is linear algebra on directions: forward mode pushes unit vectors of inputs, giving columns of the Jacobian,
reverse mode pulls unit vectors of the outputs, giving rows. A sweep takes `chunk` of them. Columns are kept one after
the other in memory (the Jacobian that is handed out is a transposed view), so that each sweep writes where it ends up.

Rejected: Hessians by symmetry (half of the columns would do, but a sweep costs what its widest array costs, and checks
of the user's lean on columns that were computed apart); sparse seeds, which need the pattern first.
"""
import math

import numpy as np

from cyad._adjoint import Adjoint, AdjointArray
from cyad._calls import Call, Restored
from cyad._creation import catch_libraries
from cyad._dual import Dual, DualArray, push_lanes
from cyad._pullback import Pullback
from cyad._structures import is_leaf
from cyad.activity import Const, Forward, Input, Mode, Reverse
from cyad.api import WithPrimal, gradient
from cyad.errors import ActivityError
from cyad.structures import check_chunk

LANE_BYTES = 1 << 17   # what the lanes of one array may take by default: beyond the fast caches wide sweeps lose
LEAST_CHUNK = 8
TRACKED = (Adjoint, AdjointArray, Dual, DualArray)


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


def check_mode(who, mode):
    if not isinstance(mode, Mode) or mode.is_split:
        raise ActivityError(f"the first argument of {who} is a mode (Forward, Reverse, ...), not {mode!r}")


def jacobian(mode, f, *args, chunk=None, n_outs=None, out=None, **kwargs):
    """The Jacobian of a function of numbers and arrays, one entry for each argument: J_k[i, j] = df_i/dx_k,j.

    The shape of an entry is that of the result followed by that of the argument, its dtype that of the derivative; the
    entry of a Const argument is None. Where the result is a structure of numbers and arrays, the entry is one, too, and
    so is each of its leaves for a structured argument.

    Forward mode costs one run of `f` for each `chunk` of inputs, reverse mode one run and a sweep for each `chunk` of
    outputs; left out, the chunk is chosen by the size of the arrays. ForwardWithPrimal and ReverseWithPrimal return
    ``(derivs, val)``. The entry of a complex argument is, for a real result, df/dRe + i df/dIm as in `gradient`; a
    complex result of complex arguments has a Jacobian in ReverseHolomorphic only.

    ``n_outs``: the shape of the result, if it is to be checked. ``out``: an array, or a tuple with one for each
    argument, that receives the Jacobian. Keyword arguments are passed on; Active ones are differentiated, their entries
    come last.

    Raises ActivityError for integer arguments, for results without a derivative, for a `chunk` that is no positive
    integer, and for an `out` that does not fit or shares memory with an argument. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import Forward, Reverse, jacobian
    >>> f = lambda x: np.array([x[0] * x[1], x[1] ** 2, 1.0])
    >>> jacobian(Forward, f, np.array([2.0, 3.0]))[0]
    array([[3., 2.],
           [0., 6.],
           [0., 0.]])
    >>> jacobian(Reverse, f, np.array([2.0, 3.0]), chunk=2)[0].shape
    (3, 2)
    """
    check_mode("jacobian", mode)
    call = Call("jacobian", f, args, kwargs)
    if chunk is not None:
        chunk = check_chunk(chunk)
    if n_outs is not None:
        n_outs = (n_outs,) if isinstance(n_outs, (int, np.integer)) else tuple(n_outs)
    outs = None if out is None else list(out) if isinstance(out, (tuple, list)) else [out]
    if outs is not None:
        if not call.only_leaves or len(outs) != len(call.leaves):
            raise ActivityError(f"jacobian: out= takes an array for each argument of {call.__name__}, none of which may "
                                f"be Const or a structure; got {len(outs)} for {len(call.leaves)} that are differentiated")
        check_outs("jacobian", outs, call.leaves, call.__name__)
    catch_libraries()
    sweep = columns if mode.forward else rows
    val, rebuild, entries = sweep("jacobian", mode, call, chunk, n_outs, outs)
    if outs is not None:
        derivs = tuple(outs)
    elif rebuild is None:
        derivs = call.assemble(entries[0])
    else:
        by_result = [call.assemble(row) for row in entries]
        derivs = tuple([None if const else rebuild([entry[i] for entry in by_result])
                        for i, const in enumerate(call.constants)])
    return WithPrimal(derivs, val) if mode.primal else derivs


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


def columns(who, mode, call, chunk, n_outs=None, outs=None):
    """``(val, rebuild, entries)`` by forward mode; entries[k][i] is the derivative of result leaf k by leaf i."""
    leaves = call.leaves
    inputs = Directions(leaves, [2 if np.iscomplexobj(leaf) else 1 for leaf in leaves])
    width = choose_chunk(chunk, inputs.total, inputs.widest)
    restored = Restored(leaves) if width < inputs.total else None
    stores = None
    for first in range(0, max(inputs.total, 1), width):
        if first:
            restored.restore()
        count = max(1, min(width, inputs.total - first))
        val, rebuild, primals, tangents = push_lanes(call.direct, leaves, inputs.blocks(first, count), count,
                                                     mode.strong_zero)
        if not first:
            check_result(who, call, primals, n_outs)
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
            for store, block in zip(stores, tangents, strict=True):
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
        self.leaves = call.leaves
        named = [(name, Input(leaf)) for name, leaf in zip(call.names, call.leaves, strict=True)]
        self.pullback = Pullback(call.direct, call.leaves, {}, named, strong, outlives)
        self.val, self.primals = self.pullback.primal, self.pullback.leaves
        self.rebuild = None if is_leaf(self.val) else self.pullback.rebuild

    def pull(self, blocks, width, into=None):
        """The cotangents of the leaves, arrays (width, *leaf.shape), from those of the result's leaves."""
        if into is None:
            into = [np.empty((width, *np.shape(leaf)), np.result_type(leaf)) for leaf in self.leaves]
        done = self.pullback.pull(blocks, width, None, [
            block if isinstance(leaf, np.ndarray) else None for leaf, block in zip(self.leaves, into, strict=True)])
        for leaf, block, lanes in zip(self.leaves, into, done, strict=True):
            if not isinstance(leaf, np.ndarray):
                block[...] = lanes
        return into


def compact(block):
    """A block in memory of its own size: results may be views of larger arrays."""
    return np.ascontiguousarray(block) if type(block) is np.ndarray and block.ndim else block


def hessian_at(f, args, kwargs, chunk=None, out=None):
    """The Hessian by all arguments that are not Const: a tuple of rows, each a tuple with one entry for each argument."""
    call = second_order_call("hessian", f, args, kwargs)
    if chunk is not None:
        chunk = check_chunk(chunk)
    outs = None if out is None else [out]
    if outs is not None:
        if len(call.leaves) != 1 or not isinstance(call.leaves[0], np.ndarray):
            raise ActivityError(f"hessian: out= is for the Hessian by one array; {call.__name__} got something else")
        check_outs("hessian", outs, call.leaves, call.__name__)
    catch_libraries()
    entries = columns("hessian", Forward, Slopes(call), chunk, None, outs)[2] if call.leaves else []
    if outs is not None:
        entries = [[out]]
    by_leaf = [call.assemble(row) for row in entries]
    return tuple([None if const else call.assemble([row[i] for row in by_leaf])
                  for i, const in enumerate(call.constants)])


def direction_block(leaf, d):
    """One direction as a block of one lane: copied, for f may overwrite it, unless an outer call tracks it."""
    return np.reshape(d if type(d) in TRACKED else np.array(d, np.result_type(leaf)), (1, *np.shape(leaf)))


def second_order_call(who, f, args, kwargs):
    call = Call(who, f, args, kwargs)
    for leaf in call.leaves:
        if np.iscomplexobj(leaf):
            raise ActivityError(f"{who} of a complex argument of {call.__name__}: a real function has no complex "
                                "Hessian; make it a function of real and imaginary parts")
    return call


class Slopes:
    """The gradient of a call as a function of its leaves, which returns a list."""

    def __init__(self, call):
        self.leaves, self.__name__ = call.leaves, call.__name__
        f = call.direct
        if len(self.leaves) == 1:
            self.direct = lambda x: gradient(Reverse, f, x)[0]
        else:
            self.direct = lambda *leaves: list(gradient(Reverse, f, *leaves))


def hvp(f, x, v, *args, out=None, **kwargs):
    """The product of the Hessian of a real scalar function with a direction: (H v)_i = sum_j d2f/dx_i dx_j v_j.

    `v` is like `x`: a float, an array, or a structure; so is the product. Further arguments and keywords are passed on
    and not differentiated. Forward over reverse mode: it costs a small multiple of a gradient, whatever the size of
    `x`. ``out`` receives the product of an array.

    Raises ActivityError where `v` does not match `x`, for complex and integer arguments, and for functions that do not
    return a real scalar. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import hvp
    >>> hvp(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0]), np.array([1.0, 10.0]))
    array([24.,  2.])
    """
    return _curvature("hvp", f, x, v, args, kwargs, (out,))[0]


def hvp_and_gradient(f, x, v, *args, out=(None, None), **kwargs):
    """``(H v, gradient)`` of a real scalar function, at the cost of `hvp`.

    ``out`` is a pair of arrays that receive the two. Arguments and errors are those of `hvp`.

    >>> import numpy as np
    >>> from cyad import hvp_and_gradient
    >>> hvp_and_gradient(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0]), np.array([1.0, 10.0]))
    (array([24.,  2.]), array([4., 1.]))
    """
    if not isinstance(out, tuple) or len(out) != 2:
        raise ActivityError("hvp_and_gradient: out= is a pair of arrays, for the product and for the gradient")
    return _curvature("hvp_and_gradient", f, x, v, args, kwargs, out)


def _curvature(who, f, x, v, args, kwargs, outs):
    call = second_order_call(who, f, (x, *[a if isinstance(a, Const) else Const(a) for a in args]), kwargs)
    directions = call.leaves_of(f"the direction of {who}", (v, *[None] * len(args)))
    blocks = [direction_block(leaf, d) for leaf, d in zip(call.leaves, directions, strict=True)]
    if any(o is not None for o in outs):
        if not isinstance(x, np.ndarray):
            raise ActivityError(f"{who}: out= is for derivatives by an array, not by a {type(x).__name__}")
        check_outs(who, outs, (*call.leaves, v), call.__name__)
        for o in outs:
            if o is not None:
                check_fits(who, o, x.shape, x.dtype, "argument 1")
    catch_libraries()
    if not call.leaves:
        return x, x
    _, _, slopes, tangents = push_lanes(Slopes(call).direct, call.leaves, blocks, 1)
    done = []
    for derivs, o in zip(([block[0] for block in tangents], slopes), outs, strict=False):
        if o is not None:
            o[...] = derivs[0]
            done.append(o)
        else:
            done.append(call.assemble([as_number(d) if np.ndim(leaf) == 0 and not isinstance(leaf, np.ndarray) else d
                                       for leaf, d in zip(call.leaves, derivs, strict=True)])[0])
    return tuple(done)
