"""Jacobians, Hessians, and products with Hessians: what `_sweeps` computes, in the shapes that users know."""
import itertools
import math

import numpy as np

from cyad._arguments import stands_in
from cyad._calls import Call
from cyad._creation import catch_libraries
from cyad._dual import push_lanes
from cyad._second import plain_curvature
from cyad._sweeps import as_number, check_fits, check_outs, columns, direction_block, rows
from cyad.activity import Const, Forward, Mode, Reverse
from cyad.api import WithPrimal, reverse_gradient
from cyad.errors import ActivityError
from cyad.structures import check_chunk


def check_mode(who, mode):
    if not isinstance(mode, Mode) or mode.is_split:
        raise ActivityError(f"the first argument of {who} is a mode (Forward, Reverse, ...), not {mode!r}")


def jacobian(mode, f, /, *args, chunk=None, n_outs=None, out=None, **kwargs):
    """The Jacobian of a function of numbers and arrays, one entry for each argument: J_k[i, j] = df_i/dx_k,j.

    The shape of an entry is that of the result followed by that of the argument, its dtype that of the derivative; the
    entry of a Const argument is None. Where the result is a structure of numbers and arrays, the entry is one, too, and
    so is each of its leaves for a structured argument.

    Forward mode costs one run of `f` for each `chunk` of inputs, reverse mode one run and a sweep for each `chunk` of
    outputs; a chunk is a number of lanes, chosen by the size of the arrays if left out. ForwardWithPrimal and
    ReverseWithPrimal return ``(derivs, val)``. The entry of a complex argument is, for a real result, df/dRe + i df/dIm
    as in `gradient`; a complex result of complex arguments has a Jacobian in ReverseHolomorphic only.

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
        if not call.only_leaves or len(outs) != len(call.leaves) or any(o is None for o in outs):
            raise ActivityError(f"jacobian: out= takes an array for each argument of {call.__name__}, none of which "
                                f"may be Const or a structure; got {sum(o is not None for o in outs)} for "
                                f"{len(call.constants)} arguments")
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


def hessian_at(f, args, kwargs, chunk=None, out=None):
    """The Hessian by all arguments that are not Const: a tuple of rows, tuples with one entry for each argument."""
    call = second_order_call("hessian", f, args, kwargs)
    if chunk is not None:
        chunk = check_chunk(chunk)
    outs = None if out is None else [out]
    if outs is not None:
        if len(call.leaves) != 1 or not isinstance(call.leaves[0], np.ndarray):
            raise ActivityError(f"hessian: out= is for the Hessian by one array; {call.__name__} got something else")
        check_outs("hessian", outs, call.leaves, call.__name__)
    catch_libraries()
    entries = swept_hessian(call, outs) if chunk is None else None
    if entries is None:
        entries = columns("hessian", Forward, Slopes(call), chunk, None, outs)[2] if call.leaves else []
    if outs is not None:
        entries = [[out]]
    by_leaf = [call.assemble(row) for row in entries]
    return tuple([None if const else call.assemble([row[i] for row in by_leaf])
                  for i, const in enumerate(call.constants)])


def swept_hessian(call, outs):
    """Rows of blocks by one recording and a sweep of second order for each entry; None where that cannot be had."""
    shapes = [np.shape(leaf) for leaf in call.leaves]
    directions = []
    for k, shape in enumerate(shapes):
        for at in np.ndindex(shape):
            directions.append([np.zeros(s) if s or i == k else 0.0 for i, s in enumerate(shapes)])
            directions[-1][k][at] = 1.0
    swept = plain_curvature(call.run, call.leaves, directions, call.fixed, call.fixed_names, len(directions) > 8,
                            gradient=False)
    if swept is None:
        return None
    starts = np.cumsum([0, *[math.prod(shape) for shape in shapes]])
    entries = [[np.stack([product[k] for product in swept[0][low:high]], axis=-1).reshape(row + column)
                if row or column else as_number(swept[0][low][k])
                for column, (low, high) in zip(shapes, itertools.pairwise(starts), strict=True)]
               for k, row in enumerate(shapes)]
    if outs is not None:
        outs[0][...] = entries[0][0]
    return entries


def second_order_call(who, f, args, kwargs):
    call = Call(who, f, args, kwargs)
    for leaf in call.leaves:
        if np.iscomplexobj(leaf):
            raise ActivityError(f"{who} of a complex argument of {call.__name__}: a real function has no complex "
                                "Hessian; make it a function of real and imaginary parts")
    return call


@stands_in
class Slopes:
    """The gradient of a call as another one, which returns a list with an entry for each leaf."""

    def __init__(self, call):
        self.acts_for, self.f = call.acts_for, call.f
        self._call, self.leaves, self.fixed, self.annotated = call, call.leaves, call.fixed, call.annotated
        self.__name__ = self.__qualname__ = call.__name__

    def run(self, *values):
        n = len(self.leaves)
        return reverse_gradient(Reverse, self._call.at(values[:n], values[n:]), [None] * n)[1]


def hvp(f, x, v, /, *args, out=None, **kwargs):
    """The product of the Hessian of a real scalar function with a direction: (H v)_i = sum_j d2f/dx_i dx_j v_j.

    `x` is a float, an array of floats, or a structure of these. `v` is like `x`: shapes and the structure must be the
    same, its numbers are converted to the dtypes of `x`, also from lists. The product has the shapes, dtypes and
    structure of `x`; by a float (np.float64) it is a Python float. Further arguments and keywords are passed on and not
    differentiated.

    It costs one recorded run and one sweep of second order, whatever the size of `x`. Where some operation has none,
    `f` is called again, for forward over reverse mode. ``out``, an array of the shape of `x`, receives the product by
    an array.

    Raises ActivityError where `v` does not match `x`, for complex and integer arguments, for an `out` that does not fit
    or shares memory with an argument, and for functions that do not return a real scalar. Any number of threads may
    call it.

    >>> import numpy as np
    >>> from cyad import hvp
    >>> hvp(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0]), np.array([1.0, 10.0]))
    array([24.,  2.])
    """
    return _curvature("hvp", f, x, v, args, kwargs, (out,))[0]


def hvp_and_gradient(f, x, v, /, *args, out=(None, None), **kwargs):
    """``(H v, gradient)`` of a real scalar function, at the cost of `hvp`.

    ``out`` is a pair of arrays, or None, that receive the two. Arguments, shapes, dtypes and errors are those of `hvp`.
    Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import hvp_and_gradient
    >>> hvp_and_gradient(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0]), np.array([1.0, 10.0]))
    (array([24.,  2.]), array([4., 1.]))
    """
    if not isinstance(out, tuple) or len(out) != 2:
        raise ActivityError("hvp_and_gradient: out= is a pair of arrays, for the product and for the gradient")
    return _curvature("hvp_and_gradient", f, x, v, args, kwargs, out)


def _curvature(who, f, x, v, args, kwargs, outs):
    if isinstance(x, Const):
        raise ActivityError(f"{who} is by the argument after the function, which is Const; pass the value itself")
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
    swept = plain_curvature(call.run, call.leaves, [[block[0] for block in blocks]], call.fixed, call.fixed_names,
                            gradient=len(outs) > 1)
    if swept is None:
        _, _, slopes, tangents = push_lanes(Slopes(call), blocks, 1)
        found = [block[0] for block in tangents], slopes
    else:
        found = (swept[0][0], swept[1])[:len(outs)]
    done = []
    for derivs, o in zip(found, outs, strict=False):
        if o is not None:
            o[...] = derivs[0]
            done.append(o)
        else:
            done.append(call.assemble([as_number(d) if np.ndim(leaf) == 0 and not isinstance(leaf, np.ndarray) else d
                                       for leaf, d in zip(call.leaves, derivs, strict=True)])[0])
    return tuple(done)
