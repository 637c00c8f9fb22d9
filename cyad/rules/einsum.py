"""``einsum``: the transpose of a contraction with respect to one operand is the contraction with the others.

Subscripts are read into lists of labels (integers), one for each axis, with the axes of an ellipsis as labels of their
own. Then a label of the operand that repeats is a diagonal, one that occurs nowhere else was summed, and an axis of
length one was broadcast: each is undone by itself.
"""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import conj, matched, no_out, refuse, scatter, shape_of, spread


def operand_slots(args):
    """Where the operands are among the arguments, in either form of the call."""
    return range(1, len(args)) if isinstance(args[0], str) else range(0, len(args) - 1, 2)


def parse(args, ndims):
    """``(labels of each operand, labels of the result)``."""
    if isinstance(args[0], str):
        inputs, arrow, output = args[0].replace(" ", "").partition("->")
        terms = [term.replace("...", ".") for term in inputs.split(",")]
        output = output.replace("...", ".") if arrow else None
    else:
        terms = [["." if label is Ellipsis else int(label) for label in args[i + 1]] for i in operand_slots(args)]
        output = ["." if label is Ellipsis else int(label) for label in args[-1]] if len(args) % 2 else None
    wide = max([ndim - len(term) + 1 for term, ndim in zip(terms, ndims, strict=True) if "." in term], default=0)
    if output is None:
        named = [label for term in terms for label in term if label != "."]
        output = ["."] * any("." in term for term in terms) + sorted(x for x in set(named) if named.count(x) == 1)
    numbers = {}

    def number(label):
        return numbers.setdefault(label, len(numbers))

    rest = [number((".", i)) for i in range(wide)]

    def expand(term, count):
        labels = []
        for label in term:
            labels.extend(rest[wide - count:] if label == "." else [number(label)])
        return labels

    labels = [expand(term, ndim - len(term) + 1) for term, ndim in zip(terms, ndims, strict=True)]
    return labels, expand(output, wide)


@structural(np.einsum, operands=("operands",), reads=("operands",), slots=operand_slots)
def einsum_rule(*operands, out=None, dtype=None, order="K", casting="safe", optimize=False):
    """One operand and no sum: NumPy returns a view, so does the rule."""
    no_out(out, "np.einsum")
    if dtype is not None:
        refuse("np.einsum", "dtype=", "convert the operands with astype first")
    result = np.einsum(*operands, order=order, optimize=optimize)
    arrays = [operands[i] for i in operand_slots(operands)]
    shapes = [shape_of(x) for x in arrays]
    labels, output = parse(operands, [len(shape) for shape in shapes])
    if len(arrays) == 1 and set(labels[0]) <= set(output):
        return result, None

    def linear(k):
        mine, shape = labels[k], shapes[k]
        others = [(x, labels[i]) for i, x in enumerate(arrays) if i != k]
        distinct = list(dict.fromkeys(mine))
        elsewhere = set(output).union(*(found for _, found in others))
        found = [label for label in distinct if label in elsewhere]

        def push(t):
            flat = [part for x, its in [*others[:k], (t, mine), *others[k:]] for part in (x, its)]
            return np.einsum(*flat, output, optimize=optimize)

        def pull(g):
            flat = [part for x, its in others for part in (conj(x), its)]
            g = np.einsum(g, output, *flat, found, optimize=optimize)
            if np.shape(g) == shape and len(found) == len(mine):
                return g
            lengths = [shape[mine.index(label)] for label in distinct]
            # Axes that are one long here and longer elsewhere were broadcast; those met nowhere else were summed.
            many = tuple(i for i, label in enumerate(found) if shape[mine.index(label)] == 1 and g.shape[i] != 1)
            if many:
                g = np.add.reduce(g, axis=many, keepdims=True)
            it = iter(np.shape(g))
            g = np.reshape(g, [next(it) if label in elsewhere else 1 for label in distinct])
            g = spread(g, tuple(lengths))
            if len(distinct) == len(mine):
                return g
            grid = np.ogrid[tuple(slice(n) for n in lengths)]
            return scatter(g, shape, tuple(grid[distinct.index(label)] for label in mine))
        return push, pull
    return result, matched(result, linear, *arrays)
