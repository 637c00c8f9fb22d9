"""The linear maps of a function whose partial derivatives are given, as `easy_rule` has them.

A partial derivative has the shape of the result and that of the argument, one after the other. Everything here
works on duck arrays of an outer differentiation too: operators and functions of NumPy that dispatch.
"""
import numpy as np

from cyad.errors import ActivityError


class _Constant:
    """`Constant`: the partial derivative that is zero, for an `easy_rule` to return. Of any shape, in no memory.

    Immutable; threads may share it.

    >>> import numpy as np
    >>> import cyad
    >>> @cyad.primitive
    ... def chosen(x, y):
    ...     return 2.0 * x
    >>> @cyad.rules.easy_rule(chosen)
    ... def chosen_partials(out, x, y):
    ...     return ((2.0 * np.eye(len(x)), cyad.rules.Constant),)
    >>> cyad.jacobian(cyad.Reverse, chosen, np.ones(2), np.ones(3))[1].shape
    (2, 3)
    """

    __slots__ = ()

    def __repr__(self):
        return "Constant"


Constant = _Constant()


def _named(value):
    if isinstance(value, np.ndarray):
        return f"an array of shape {np.shape(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def checked_rows(rows, out, values, given):
    """The partial derivatives that a rule returned: a tuple for each result, of one for each argument. Of these the
    first `given` were not omitted; defaults have no derivative, and need no partial.

    Raises ActivityError where they are too few, too many, or of another shape.
    """
    outs = out if isinstance(out, (tuple, list)) else (out,)
    if not isinstance(rows, (tuple, list)) or len(rows) != len(outs) or not all(
            isinstance(r, (tuple, list)) for r in rows):
        got = f"{len(rows)} entries" if isinstance(rows, (tuple, list)) else _named(rows)
        raise ActivityError("an easy_rule returns a tuple of partial derivatives for each result, ((d1, d2, ...),) for "
                            f"a function of one result; for {len(outs)} it returned {got}")
    if given < len(values):
        rows = [(*row, *(Constant,) * (len(values) - given)) if len(row) == given else row for row in rows]
    for row, o in zip(rows, outs, strict=True):
        if len(row) != len(values):
            raise ActivityError(f"an easy_rule returned {len(row)} partial derivatives for {len(values)} arguments")
        for i, (p, v) in enumerate(zip(row, values, strict=True)):
            if p is Constant:
                continue
            due = np.shape(o) + np.shape(v)
            if not isinstance(p, (int, float, complex, np.ndarray, np.number)) or np.shape(p) != due:
                wanted = f"an array of shape {due}" if due else "a number"
                raise ActivityError(f"an easy_rule returned {_named(p)} as the partial derivative in argument {i + 1}, "
                                    f"not {wanted}: the shape of the result, then that of the argument")
    return rows


class Partials:
    """Pushforward and pullback of one argument, from the partial derivatives of every result in it."""

    __slots__ = ("dims", "ndim", "partials", "product", "several")

    def __init__(self, partials, out, value, product=None):
        """`product`: how a partial is multiplied by a seed where a seed of zero contributes nothing (strong zero)."""
        self.several = isinstance(out, (tuple, list))
        self.partials = partials
        self.dims = [np.ndim(o) for o in (out if self.several else (out,))]
        self.ndim = np.ndim(value)
        self.product = product

    def push(self, t):
        """The tangents of the results; what has none gets a zero that broadcasts."""
        out = tuple(0.0 if p is Constant else self._contract(p, t, dim, False)
                    for p, dim in zip(self.partials, self.dims, strict=True))
        return out if self.several else out[0]

    def pull(self, g):
        """The cotangent of the argument; results without adjoint give None, a single one comes without its tuple."""
        total = None
        for p, dim, own in zip(self.partials, self.dims, g if len(self.partials) > 1 else (g,), strict=True):
            if p is Constant or own is None:
                continue
            c = self._contract(np.conjugate(p) if np.iscomplexobj(p) else p, own, dim, True)
            total = c if total is None else total + c
        return total

    def _contract(self, p, v, out_ndim, back):
        """p, of shape out + in, contracted with v over the axes of out (back) or of in."""
        axes = out_ndim if back else self.ndim
        if self.product is not None:
            # A zero contributes nothing, also where the partial derivative is infinite.
            terms = self.product(p, np.reshape(v, np.shape(v) + (1,) * self.ndim) if back else v)
            over = tuple(range(out_ndim)) if back else tuple(range(out_ndim, out_ndim + self.ndim))
            return np.sum(terms, axis=over) if over else terms
        if axes == 0:
            return p * v
        if out_ndim + self.ndim == axes:
            return np.sum(p * v)
        return np.tensordot(v, p, axes) if back else np.tensordot(p, v, axes)
