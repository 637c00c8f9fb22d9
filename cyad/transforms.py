"""The operators under the names that users of autograd and JAX know: functions that make functions of derivatives.

`grad(f)` is a function of the arguments of `f`; so are `value_and_grad(f)`, `jacfwd(f)`, `jacrev(f)`. They keep its
name and docstring, can be used as decorators (on methods, too) and pickled when `f` can. `jvp`, `vjp` and `linearize`
evaluate at once, as they do there.

Unlike there, `f` may write into its arguments, arrays need not be converted, and arguments that are not differentiated
can be anything.

Thread safety: the functions hold no state; any number of threads may call one.
"""
import functools
import operator
import sys
import types

import numpy as np

from cyad._annotated import name_of
from cyad._arguments import plain_result
from cyad._calls import Call
from cyad._creation import catch_libraries
from cyad._dual import push_lanes
from cyad._matching import check_tangent, cotangents_like, described
from cyad._reverse import plain_gradient
from cyad._sweeps import Recorded, as_number, direction_block
from cyad.activity import Const, Forward, Reverse, ReverseHolomorphic
from cyad.api import gradient
from cyad.drivers import hessian_at, jacobian
from cyad.errors import ActivityError

SIMPLE = frozenset({bool, int, float, str, bytes, type(None), np.float64, types.FunctionType})


def check_callable(who, f):
    if not callable(f):
        raise ActivityError(f"{who} needs a function to differentiate, not {described(f)}")


def returned(result):
    """A result in an error message: as the function's author thinks of it, tracked or not."""
    if isinstance(result, tuple):
        return f"a tuple of length {len(result)}"
    number = isinstance(result, (float, complex, np.inexact))
    return "a number" if number and not isinstance(result, np.ndarray) else described(result)


def without_auxiliary(who, f, has_aux):
    """f without its auxiliary result, and the list that it is put into; None if there is none."""
    if isinstance(f, Const):
        f = f.val
    check_callable(who, f)
    if not has_aux:
        return f, None
    kept = []

    def first(*args, **kwargs):
        result = f(*args, **kwargs)
        if not isinstance(result, tuple) or len(result) != 2:
            raise ActivityError(f"has_aux: {name_of(f)} is to return a pair, the tuple (value, auxiliary), not "
                                f"{returned(result)}")
        kept[:] = [plain_result(result[1])]
        return result[0]

    first.__name__ = first.__qualname__ = name_of(f)
    return first, kept


class Transform:
    """A function made of `f` and options; subclasses say what it computes."""

    __slots__ = ("__dict__", "__weakref__", "_f", "_first")   # the latter two are read in every call
    title = ""   # the operator's name, for messages

    def __init__(self, f, argnums=0, has_aux=False, holomorphic=False):
        if isinstance(f, Const):
            f = f.val
        check_callable(self.title, f)
        functools.update_wrapper(self, f)
        self.__wrapped__ = self._f = f
        several = isinstance(argnums, (tuple, list))
        try:
            numbers = tuple(map(operator.index, argnums)) if several else (operator.index(argnums),)
        except TypeError:
            raise ActivityError(f"{self.title}(f) is a function, which takes the arguments of f: {self.title}(f)(x). "
                                "What comes after f is argnums, the position of an argument or a tuple of them; got "
                                f"{described(argnums)}") from None
        self._options = (numbers if several else numbers[0], has_aux, holomorphic)
        self._several, self._numbers, self._has_aux, self._holomorphic = several, numbers, has_aux, holomorphic
        self._first = numbers == (0,) and not several and not has_aux and not holomorphic

    def __reduce__(self):
        # What decorates a function is found by the name of the function, as the function itself would be.
        found = sys.modules.get(getattr(self, "__module__", None))
        for part in getattr(self, "__qualname__", "").split("."):
            found = getattr(found, part, None)
        return self.__qualname__ if found is self else (type(self), (self.__wrapped__, *self._options))

    def __get__(self, instance, owner=None):
        return self if instance is None else functools.partial(self, instance)

    def __repr__(self):
        return f"<{self.title} of {name_of(self.__wrapped__)}>"

    def _arguments(self, args):
        """The arguments, Const where they are not to be differentiated, and the entries that are asked for."""
        n = len(args)
        for k in self._numbers:
            if not -n <= k < n:
                raise ActivityError(f"argnums={k}, but {name_of(self.__wrapped__)} was called with {n} positional "
                                    "arguments")
        chosen = [k % n for k in self._numbers]
        return [a if i in chosen or isinstance(a, Const) else Const(a) for i, a in enumerate(args)], chosen

    def _pick(self, derivs, chosen):
        return tuple([derivs[k] for k in chosen]) if self._several else derivs[chosen[0]]

    def _split(self):
        return without_auxiliary(self.title, self.__wrapped__, self._has_aux)

    def _quick(self, args, kwargs):
        """Gradient and value by the short way, where there is one: the first argument alone, all else plain numbers."""
        if not self._first or not args:
            return None
        rest = args[1:]
        for a in (*rest, *kwargs.values()):
            if type(a) not in SIMPLE:
                return None
        f = self._f

        def of_first(x):
            return f(x, *rest, **kwargs)

        of_first.__qualname__ = name_of(f)
        return plain_gradient(of_first, args[:1])

    def _gradient(self, args, kwargs):
        """The derivatives that are asked for, the value, and the auxiliary result in a list, None if there is none."""
        f, kept = self._split()
        arguments, chosen = self._arguments(args)
        mode = (ReverseHolomorphic if self._holomorphic else Reverse).with_primal()
        derivs, val = gradient(mode, f, *arguments, **kwargs)
        return self._pick(derivs, chosen), val, kept


class Grad(Transform):
    __slots__ = ()
    title = "grad"

    def __call__(self, *args, **kwargs):
        catch_libraries()
        done = plain_gradient(self._f, args) if self._first and len(args) == 1 and not kwargs else \
            self._quick(args, kwargs)
        if done is not None:
            return done[0][0]
        derivs, _, kept = self._gradient(args, kwargs)
        return derivs if kept is None else (derivs, kept[0])


class ValueAndGrad(Transform):
    __slots__ = ()
    title = "value_and_grad"

    def __call__(self, *args, **kwargs):
        catch_libraries()
        done = plain_gradient(self._f, args) if self._first and len(args) == 1 and not kwargs else \
            self._quick(args, kwargs)
        if done is not None:
            return done[1], done[0][0]
        derivs, val, kept = self._gradient(args, kwargs)
        return val if kept is None else (val, kept[0]), derivs


class JacFwd(Transform):
    mode, title = Forward, "jacfwd"

    def __call__(self, *args, **kwargs):
        f, kept = self._split()
        arguments, chosen = self._arguments(args)
        mode = ReverseHolomorphic if self._holomorphic else self.mode
        derivs = self._pick(jacobian(mode, f, *arguments, **kwargs), chosen)
        return derivs if kept is None else (derivs, kept[0])


class JacRev(JacFwd):
    mode, title = Reverse, "jacrev"


class Hessian(Transform):
    title = "hessian"

    def __call__(self, *args, **kwargs):
        f, kept = self._split()
        arguments, chosen = self._arguments(args)
        rows = hessian_at(f, arguments, kwargs)
        rows = tuple([self._pick(rows[k], chosen) for k in chosen]) if self._several else \
            rows[chosen[0]][chosen[0]]
        return rows if kept is None else (rows, kept[0])


class Derivative(Transform):
    order, title = 1, "derivative"

    def __call__(self, x, *args, **kwargs):
        f = functools.wraps(self.__wrapped__)(lambda x: self.__wrapped__(x, *args, **kwargs))
        if isinstance(x, np.ndarray) and x.ndim:
            raise ActivityError(f"{self.title} is of functions of one number; {name_of(f)} got an array of shape "
                                f"{x.shape}. Use jacobian; for a function of each entry alone, "
                                "jvp(f, (x,), (np.ones_like(x),))[1]")
        for _ in range(self.order - 1):
            f = functools.wraps(f)(functools.partial(_slope, f))
        return _slope(f, x)


class SecondDerivative(Derivative):
    order, title = 2, "second_derivative"


def _slope(f, x):
    return jvp(f, (x,), (1.0,))[1]


def _transform(kind, f, argnums, has_aux, holomorphic):
    if f is None:
        return lambda f: kind(f, argnums, has_aux, holomorphic)
    return kind(f, argnums, has_aux, holomorphic)


def grad(f=None, argnums=0, *, has_aux=False, holomorphic=False):
    """The function x -> df/dx: the gradient of a real scalar function by its argument `argnums`.

    It takes the arguments of `f`; its result has the shapes, dtypes and structure of the argument, for a tuple
    `argnums` it is a tuple. The other arguments can be anything. With ``has_aux``, `f` returns ``(value, auxiliary)``
    and the result is ``(gradient, auxiliary)``; with ``holomorphic``, it is f'(z) of a holomorphic function. Without
    `f`, a decorator. Reverse mode: see `gradient` for costs.

    Raises ActivityError for what is no function or no position; the function that is made raises what `gradient` does,
    and ActivityError where no argument has that position, or `f` with ``has_aux`` returns no pair. It holds no state:
    any number of threads may call it, if they may call `f`.

    >>> import numpy as np
    >>> from cyad import grad
    >>> grad(lambda x: np.sum(x**3))(np.array([1.0, 2.0]))
    array([ 3., 12.])
    >>> grad(lambda a, b: a * b**2, argnums=(0, 1))(3.0, 2.0)
    (4.0, 12.0)
    >>> @grad(argnums=1)
    ... def slope(a, b):
    ...     return a * b**2
    >>> slope(3.0, 2.0)
    12.0
    """
    return _transform(Grad, f, argnums, has_aux, holomorphic)


def value_and_grad(f=None, argnums=0, *, has_aux=False, holomorphic=False):
    """The function x -> (f(x), df/dx), at the cost of `grad`; ``((value, auxiliary), gradient)`` with ``has_aux``.

    What `scipy.optimize.minimize(value_and_grad(f), x0, jac=True)` takes. Options, shapes, dtypes and errors are those
    of `grad`. Any number of threads may call the function, if they may call `f`.

    >>> from cyad import value_and_grad
    >>> value_and_grad(lambda x: x**3)(2.0)
    (8.0, 12.0)
    """
    return _transform(ValueAndGrad, f, argnums, has_aux, holomorphic)


def jacfwd(f=None, argnums=0, *, has_aux=False, holomorphic=False):
    """The function x -> df/dx, the Jacobian by forward mode: for functions of few numbers.

    Shapes and errors are those of `jacobian`; options those of `grad`. With ``holomorphic``, which one sweep by reverse
    mode for each entry of the result serves best, `jacfwd` and `jacrev` are the same. Any number of threads may call
    the function, if they may call `f`.

    >>> import numpy as np
    >>> from cyad import jacfwd
    >>> jacfwd(lambda t: np.array([t, t**2, t**3]))(2.0)
    array([ 1.,  4., 12.])
    """
    return _transform(JacFwd, f, argnums, has_aux, holomorphic)


def jacrev(f=None, argnums=0, *, has_aux=False, holomorphic=False):
    """The function x -> df/dx, the Jacobian by reverse mode: for functions with few results.

    Shapes and errors are those of `jacobian`; options those of `grad`. Any number of threads may call the function, if
    they may call `f`.

    >>> import numpy as np
    >>> from cyad import jacrev
    >>> jacrev(lambda x: np.array([np.sum(x), np.prod(x)]))(np.array([2.0, 3.0]))
    array([[1., 1.],
           [3., 2.]])
    """
    return _transform(JacRev, f, argnums, has_aux, holomorphic)


def hessian(f=None, /, *args, argnums=0, has_aux=False, chunk=None, out=None, **kwargs):
    """The Hessian of a real scalar function by its first argument: H[i, j] = d2f/dx_i dx_j.

    ``hessian(f, x, ...)`` is the Hessian at `x`; ``hessian(f)``, with ``argnums`` and ``has_aux`` as in `grad`, the
    function x -> H(x). For an array its shape is that of `x` twice, its dtype that of `x`; for a float it is a float,
    for a structure a structure of structures. Further arguments and keywords are passed on and not differentiated.

    Where possible `f` is recorded once, and swept in second order once for each entry of `x`. It is forward over
    reverse mode, one gradient for each `chunk` of columns, with ``chunk=`` (a number of lanes; otherwise chosen by the
    size of `x`), for dtypes other than float64, where an operation has no sweep of second order (linear algebra, rules
    of your own), inside other differentiated calls, and for more than 8 entries if most operations are on arrays.
    ``out`` receives the result.

    Raises ActivityError for complex and integer arguments, for functions that do not return a real scalar, for a
    `chunk` that is no positive integer, and for an `out` that does not fit or shares memory with an argument. Any
    number of threads may call it.

    >>> import numpy as np
    >>> from cyad import hessian
    >>> f = lambda x: x[0] ** 2 * x[1]
    >>> hessian(f, np.array([1.0, 2.0]))
    array([[4., 2.],
           [2., 0.]])
    >>> hessian(f)(np.array([1.0, 3.0]))[0, 0]
    np.float64(6.0)
    """
    if not args:
        if chunk is not None or out is not None or kwargs:
            raise ActivityError("hessian(f) is a function; chunk, out and keywords go to hessian(f, x, ...)")
        return _transform(Hessian, f, argnums, has_aux, False)
    if argnums != 0 or has_aux:
        raise ActivityError("hessian(f, x) is by its first argument; argnums and has_aux go to hessian(f, ...)(x)")
    args = [args[0], *[a if isinstance(a, Const) else Const(a) for a in args[1:]]]
    return hessian_at(f, args, kwargs, chunk, out)[0][0]


def derivative(f=None, /, *args, **kwargs):
    """The derivative f'(x) of a function of one number; the result of `f` may be a number, an array or a structure.

    ``derivative(f)`` is the function x -> f'(x), ``derivative(f, x)`` its value, which has the shapes, dtypes and
    structure of f(x) (a Python float where that is float64, 0.0 where it is an integer). `x` is a float, or a complex
    number where `f` is holomorphic. Further arguments and keywords are passed on and not differentiated. Forward mode.

    Raises ActivityError for what is no function, and where `x` is an integer or an array with axes: use `jacobian`. Any
    number of threads may call it, or the function that it makes, if they may call `f`.

    >>> import numpy as np
    >>> from cyad import derivative
    >>> derivative(np.sin)(0.0)
    1.0
    >>> derivative(lambda t: np.array([t, t**2]), 3.0)
    array([1., 6.])
    """
    return _transform(Derivative, f, 0, False, False) if not args else Derivative(f)(*args, **kwargs)


def second_derivative(f=None, /, *args, **kwargs):
    """The second derivative f''(x) of a function of one number; otherwise, errors and threads too, as `derivative`.

    >>> import numpy as np
    >>> from cyad import second_derivative
    >>> second_derivative(np.exp)(0.0)
    1.0
    """
    return _transform(SecondDerivative, f, 0, False, False) if not args else SecondDerivative(f)(*args, **kwargs)


def jvp(f, primals, tangents, *, has_aux=False):
    """``(y, J v)``: the value of `f` and its derivative along a direction, by forward mode.

    `primals` and `tangents` are tuples with one entry for each argument, a tangent being like its primal: of its shape,
    and real where it is (structures with the same keys, names and types of containers; None for a Const one). It is
    converted to the dtype of its primal. J v has the shapes, dtypes and structure of y: a Python float for a float64
    number, 0.0 for an integer; what has no derivative in a structure stays as it is. With ``has_aux``, `f` returns
    ``(y, auxiliary)``, and the result is ``(y, J v, auxiliary)``.

    Raises ActivityError where tangents do not match, for arguments without a derivative that are not Const, and where
    ``has_aux`` is set and `f` returns no pair. Any number of threads may call it.

    >>> import numpy as np
    >>> from cyad import jvp
    >>> jvp(lambda x: x**2, (np.array([1.0, 3.0]),), (np.array([1.0, 0.5]),))
    (array([1., 9.]), array([2., 3.]))
    """
    if not isinstance(primals, (tuple, list)) or not isinstance(tangents, (tuple, list)):
        raise ActivityError("jvp(f, primals, tangents): both are tuples, with an entry for each argument of f")
    f, kept = without_auxiliary("jvp", f, has_aux)
    y, dy = _push(Call("jvp", f, primals, {}), tangents)
    return (y, dy) if kept is None else (y, dy, kept[0])


def _push(call, tangents):
    directions = call.leaves_of("the tangent", tangents)
    catch_libraries()
    blocks = [direction_block(leaf, d) for leaf, d in zip(call.leaves, directions, strict=True)]
    y, rebuild, parts, out = push_lanes(call, blocks, 1)
    if not parts:   # no number that has a derivative
        return y, None if y is None else 0.0 if isinstance(y, (int, np.number, np.bool_)) else y
    out = [as_number(block[0]) if np.ndim(part) == 0 and not isinstance(part, np.ndarray) else block[0]
           for part, block in zip(parts, out, strict=True)]
    return y, out[0] if rebuild is None else rebuild(out)


def vjp(f, *primals, has_aux=False):
    """``(y, pull)``: the value of `f`, and the function w -> J^T w from cotangents of y to those of the arguments.

    A cotangent is like y, of its shapes and structure (converted to its dtypes), with an entry for each place where y
    has an array twice; ``pull`` returns a tuple with one entry for each argument, of its shape, dtype and structure,
    None for Const ones. It may be called any number of times, also when arguments have been overwritten since. For
    complex arguments J^T is the conjugate transpose, df/dRe + i df/dIm of a real y with cotangent 1. With ``has_aux``,
    `f` returns ``(y, auxiliary)``, and the result is ``(y, pull, auxiliary)``.

    Raises ActivityError for arguments without a derivative that are not Const, and where ``has_aux`` is set and `f`
    returns no pair; ``pull`` where the cotangent does not match y. Any number of threads may call `vjp`. A ``pull``
    may be called in any of them, by one at a time: of two at once, the second raises TapeError.

    >>> import numpy as np
    >>> from cyad import vjp
    >>> y, pull = vjp(lambda x: x**2, np.array([1.0, 3.0]))
    >>> pull(np.array([1.0, 0.5]))
    (array([2., 3.]),)
    """
    f, kept = without_auxiliary("vjp", f, has_aux)
    catch_libraries()
    call = Call("vjp", f, primals, {})
    recorded = Recorded(call, outlives=True)
    pull = Cotangents(call, recorded)
    return (recorded.val, pull) if kept is None else (recorded.val, pull, kept[0])


class Cotangents:
    """The transposed derivative of a recorded call."""

    def __init__(self, call, recorded):
        self._call, self._recorded = call, recorded

    def __repr__(self):
        return f"<pullback of {self._call.__name__}>"

    def __call__(self, cotangent):
        what, recorded = f"the cotangent of {self._call.__name__}", self._recorded
        if recorded.rebuild is None:
            check_tangent(what, recorded.primals[0], cotangent, "its result")
            given = [[cotangent]]
        else:
            given = cotangents_like(recorded.rebuild, cotangent, what, "its result")
        blocks = [functools.reduce(operator.add, [direction_block(p, c) for c in places])
                  for p, places in zip(recorded.primals, given, strict=True)]
        adjoints = self._recorded.pull(blocks, 1)
        return self._call.assemble([block[0] if isinstance(leaf, np.ndarray) else as_number(block[0])
                                    for leaf, block in zip(self._call.leaves, adjoints, strict=True)])


def linearize(f, *primals):
    """``(y, push)``: the value of `f`, and the function v -> J v from tangents of the arguments to that of y.

    `f` runs again in every call of ``push``, in forward mode, on copies of the arguments, and must be a function of
    these alone: where it reads a captured array that has changed since, or draws random numbers, J is that of another
    function than y. Arrays of floats that it reads can be passed as Const arguments: copies are kept of these, too.

    ``push`` takes one tangent for each argument, as `jvp` does, and may be called any number of times, also when
    arguments have been overwritten since.

    Raises ActivityError for arguments without a derivative that are not Const; ``push`` where tangents do not match.
    Any number of threads may call `linearize` and ``push``, if they may call `f`.

    >>> import numpy as np
    >>> from cyad import linearize
    >>> y, push = linearize(lambda x: x**2, np.array([1.0, 3.0]))
    >>> push(np.array([1.0, 0.5]))
    array([2., 3.])
    """
    call = Call("linearize", f, primals, {})
    kept = [[a.copy() if isinstance(a, np.ndarray) else a for a in values] for values in (call.leaves, call.fixed)]
    y = call.run(*call.leaves, *call.fixed)

    def push(*tangents):
        point = [[a.copy() if isinstance(a, np.ndarray) else a for a in values] for values in kept]
        return _push(call.at(*point), tangents)[1]

    return y, push
