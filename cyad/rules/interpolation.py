"""Interpolation."""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import conj, matched, scatter_add, shape_of, spread


@structural(np.interp, operands=("x", "xp", "fp", "left", "right"), reads=("x", "xp", "fp"))
def interp_rule(x, xp, fp, left=None, right=None, period=None):
    """Piecewise linear. At a knot the slope is that of the interval to its right, at the last that to its left."""
    result = np.interp(x, xp, fp, left, right, period)
    shape = result.shape
    knots = xp.shape[0]
    if period is None:
        source, shift = np.arange(knots), np.zeros(knots)
        place, at = x, xp
    else:
        period = abs(period)
        # NumPy sorts the knots within one period and repeats the last and the first one around it.
        place, at = x % period, xp % period
        source = np.argsort(at)
        source = np.concatenate([source[-1:], source, source[:1]])
        shift = np.zeros(knots + 2)
        shift[0], shift[-1] = -period, period
        at = at[source] + shift
        left = right = None
    lower = np.clip(np.searchsorted(at, place, side="right") - 1, 0, max(len(source) - 2, 0))
    upper = np.minimum(lower + 1, len(source) - 1)
    below, above = np.less(place, at[0]), np.greater(place, at[-1])
    if len(source) == 1:
        # With one knot all that is not below takes its value, and there is no slope.
        above = ~below
    inside = ~(below | above)
    # Outside, the result is the end value unless another was given.
    ends = (below & (left is None), above & (right is None))
    del place, at

    def weights():
        start, stop = xp[source[lower]], xp[source[upper]]
        where = x
        if period is not None:
            start, stop, where = start % period + shift[lower], stop % period + shift[upper], x % period
        width = np.where(inside, stop - start, 1)
        share = np.where(inside, (where - start) / width, 0)
        return share, np.where(inside, (fp[source[upper]] - fp[source[lower]]) / width, 0)

    shapes = [shape_of(v) for v in (x, xp, fp)]

    def linear(k):
        if k == 0:
            return (lambda t: weights()[1] * t), (lambda g: (conj(weights()[1]) * g).real)
        if k == 1:
            def push_xp(t):
                share, slope = weights()
                return -slope * ((1 - share) * t[source[lower]] + share * t[source[upper]])

            def pull_xp(g):
                share, slope = weights()
                g = -(conj(slope) * g).real
                return (scatter_add(np.where(inside, g * (1 - share), 0), shapes[1], source[lower])
                        + scatter_add(g * share, shapes[1], source[upper]))
            return push_xp, pull_xp
        if k == 2:
            def push_fp(t):
                share = weights()[0]
                value = (1 - share) * t[source[lower]] + share * t[source[upper]]
                return np.where(inside, value, np.where(ends[0], t[source[0]], np.where(ends[1], t[source[-1]], 0)))

            def pull_fp(g):
                share = weights()[0]
                g = np.reshape(g, shape)
                inner = np.where(inside, g, 0)
                total = (scatter_add(inner * (1 - share), shapes[2], source[lower])
                         + scatter_add(inner * share, shapes[2], source[upper]))
                outer = np.stack([np.add.reduce(np.where(mask, g, 0), axis=None) for mask in ends])
                return total + scatter_add(outer, shapes[2], source[[0, -1]])
            return push_fp, pull_fp
        mask = below if k == 3 else above
        return (lambda t: np.where(mask, spread(t, shape), 0)), (
            lambda g: np.add.reduce(np.where(mask, g, 0), axis=None))
    return result, matched(result, linear, x, xp, fp, left, right)

