"""Selection: results whose entries are entries of the operands. Linear once the choice is made; the choice is kept."""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import matched, refuse, shape_of, spread, unbroadcast, zeros_for


@structural(np.where, operands=("condition", "x", "y"))
def where_rule(condition, x=None, y=None):
    if x is None or y is None:
        refuse("np.where", "one argument", "use np.nonzero")
    chosen = np.not_equal(condition, 0)
    result = np.where(chosen, x, y)
    shape, shapes = result.shape, [shape_of(condition), shape_of(x), shape_of(y)]

    def linear(k):
        if k == 0:
            return (lambda t: zeros_for(t, shape)), (lambda g: zeros_for(g, shapes[0]))
        if k == 1:
            return (lambda t: spread(np.where(chosen, t, 0), shape)), (
                lambda g: unbroadcast(np.where(chosen, g, 0), shapes[1]))
        return (lambda t: spread(np.where(chosen, 0, t), shape)), (
            lambda g: unbroadcast(np.where(chosen, 0, g), shapes[2]))
    return result, matched(result, linear, None, x, y)
