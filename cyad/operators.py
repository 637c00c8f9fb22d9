"""Jacobians and Hessians as linear operators: products with vectors, without the matrix.

SciPy's iterative solvers and optimisers take a `LinearOperator`; these make one of a function and a point. A product
with a Jacobian costs one forward run, one with its transpose a sweep of a recording that is made once, one with a
Hessian a forward run of the gradient. SciPy is imported when they are called, not before.

Thread safety: an operator belongs to one thread at a time; different ones to any.
"""
import numpy as np

from cyad._arguments import stands_in
from cyad._calls import Call, Restored
from cyad._creation import catch_libraries
from cyad._dual import push_lanes
from cyad._second import plain_curvature
from cyad._sweeps import Recorded
from cyad.activity import Const
from cyad.drivers import Slopes
from cyad.errors import ActivityError


def jacobian_operator(f, x, /, *args, **kwargs):
    """The Jacobian of `f` at the array `x` as a ``scipy.sparse.linalg.LinearOperator`` of shape (f(x).size, x.size).

    J[i, j] = df_i/dx_j, in the dtype of `x`. Products: ``J @ v`` and ``J @ V`` by forward mode, all columns of V in one
    run; ``J.T @ w`` and ``J.T @ W`` by sweeps of one recording. Arrays with several axes count row by row. ``J.value``
    is f(x). `x` may change afterwards: the operator has a copy. Further arguments and keywords are passed on and not
    differentiated.

    Raises ActivityError where `x` is no array of real floats or the result no array (or list) of such numbers;
    ImportError where SciPy is missing. Any number of threads may call it; an operator belongs to one at a time.

    >>> import numpy as np
    >>> from cyad import jacobian_operator
    >>> J = jacobian_operator(lambda x: np.array([x[0] * x[1], x[1] ** 2, x[0]]), np.array([2.0, 3.0]))
    >>> J.shape
    (3, 2)
    >>> J @ np.array([1.0, 0.0])
    array([3., 0., 1.])
    >>> J.T @ np.array([1.0, 0.0, 0.0])
    array([3., 2.])
    """
    call = _call("jacobian_operator", f, x, args, kwargs)
    restored = Restored(call.leaves + call.fixed)
    y = np.asarray(call.run(*call.leaves, *call.fixed))
    restored.restore()
    if y.dtype.kind != "f":
        raise ActivityError(f"jacobian_operator: {call.__name__} returned an array of dtype {y.dtype}; it takes real "
                            "functions")
    of_array = ArrayResult(call)
    shape = call.leaves[0].shape
    recorded = []

    def push(V):
        block = np.array(V.T.reshape(-1, *shape), call.leaves[0].dtype, order="C")
        tangents = push_lanes(of_array, [block], len(block))[3][0]
        restored.restore()
        return tangents.reshape(len(block), y.size).T

    def pull(W):
        if not recorded:
            recorded.append(Recorded(of_array, outlives=True))
            restored.restore()
        block = np.array(W.T.reshape(-1, *y.shape), y.dtype, order="C")
        return recorded[0].pull([block], len(block))[0].reshape(len(block), -1).T

    operator = _operator((y.size, call.leaves[0].size), call.leaves[0].dtype, push, pull)
    operator.value = y
    return operator


def hessian_operator(f, x, /, *args, **kwargs):
    """The Hessian of `f` at the array `x` as a ``scipy.sparse.linalg.LinearOperator`` of shape (x.size, x.size).

    H[i, j] = d2f/dx_i dx_j, in the dtype of `x`. A product ``H @ v`` is that of `hvp`, one with the columns of a matrix
    one recording and a sweep for each, where they can be swept; otherwise forward over reverse mode, all columns in one
    run. Arrays with several axes count row by row. `x` may change afterwards: the operator has a copy. Further
    arguments and keywords are passed on and not differentiated.

    Raises ActivityError where `x` is no array of real floats and, at the first product, where `f` does not return a
    real scalar; ImportError where SciPy is missing. Any number of threads may call it; an operator belongs to one at a
    time.

    >>> import numpy as np
    >>> from cyad import hessian_operator
    >>> H = hessian_operator(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0]))
    >>> H @ np.array([1.0, 10.0])
    array([24.,  2.])
    """
    call = _call("hessian_operator", f, x, args, kwargs)
    restored = Restored(call.leaves + call.fixed)
    slopes, shape, n = Slopes(call), call.leaves[0].shape, call.leaves[0].size
    nests = []   # what has shown that it cannot be swept

    def push(V):
        block = np.array(V.T.reshape(-1, *shape), call.leaves[0].dtype, order="C")
        swept = None if nests else plain_curvature(
            call.run, call.leaves, [[direction] for direction in block], call.fixed, call.fixed_names, gradient=False)
        restored.restore()
        if swept is not None:
            return np.reshape(swept[0], (len(block), n)).T
        nests.append(True)
        tangents = push_lanes(slopes, [block], len(block))[3][0]
        restored.restore()
        return tangents.reshape(len(block), n).T

    return _operator((n, n), call.leaves[0].dtype, push, push)


def _call(who, f, x, args, kwargs):
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f":
        raise ActivityError(f"{who} takes an array of real floats, not "
                            f"{f'an array of dtype {x.dtype}' if isinstance(x, np.ndarray) else type(x).__name__}; "
                            "cyad.ravel makes a vector of a structure")
    catch_libraries()
    args = [Const(a.val if isinstance(a, Const) else a) for a in args]
    args = [Const(a.val.copy()) if isinstance(a.val, np.ndarray) else a for a in args]
    return Call(who, f, (x.copy(), *args), kwargs)


@stands_in
class ArrayResult:
    """A call whose result, lists of numbers too, is an array."""

    def __init__(self, call):
        self.acts_for = call.acts_for
        self._run, self.leaves, self.fixed, self.annotated = call.run, call.leaves, call.fixed, call.annotated
        self.names, self.__name__, self.__qualname__ = call.names, call.__name__, call.__name__

    def run(self, *values):
        result = self._run(*values)
        return result if isinstance(result, np.ndarray) else np.array(result)


def _operator(shape, dtype, push, pull):
    try:
        from scipy.sparse.linalg import LinearOperator
    except ImportError as error:
        raise ImportError("linear operators are SciPy's: pip install scipy") from error
    column = lambda product: lambda v: product(v.reshape(-1, 1))[:, 0]
    return LinearOperator(shape, column(push), column(pull), push, dtype, pull)
