"""Partials: from the text in the table to C, to block programs, to Python, and to their own derivatives.

The grammar is Python's: ``x``, ``y`` (operands), ``o`` (output), numbers, ``pi``, ``+ - * / **``, comparisons, ``|``
and ``&`` between conditions, ``where(condition, a, b)``, the functions of the table by name, and ``hypot1(x)`` for
sqrt(1 + x*x) without overflow, ``leg1(x)`` for sqrt(1 - x*x) without cancellation. An expression becomes a graph of
:class:`Node`; equal nodes are one object, so that common subexpressions are shared by construction.

Three back-ends read the graph:

- :func:`c_function` gives the body of a C function of doubles;
- :func:`block_program` gives steps that evaluate whole blocks of an array: arithmetic becomes one generated C loop (a
  *segment*), whatever else appears (sin, exp, ...) is a call of NumPy's own inner loop between segments. An
  interpreter of single operations was rejected: it writes every intermediate to memory;
- :func:`python_function` gives a Python callable over NumPy's namespace, for whatever NumPy dispatches on: complex
  arrays, mixed precision, tracked values of an outer level.

:func:`derivative` differentiates an expression by the table itself, for sweeps of second order; :class:`Partial` holds
a partial with its own partials, for nested differentiation of any order.
"""
import ast
import math
from functools import cache

from . import table

LEAVES = ("x", "y", "o")

_BINARY = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply", ast.Div: "divide", ast.Pow: "power",
           ast.BitOr: "logical_or", ast.BitAnd: "logical_and"}
_COMPARE = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal",
            ast.Eq: "equal", ast.NotEq: "not_equal"}
_CONDITIONS = frozenset(_COMPARE.values()) | {"logical_or", "logical_and", "isnan"}


class Node:
    """A node of an expression: ``op`` is a leaf's name, ``const``, ``where`` or a ufunc's name."""

    __slots__ = ("op", "args", "value")
    _all: dict = {}

    def __new__(cls, op, *args, value=None):
        key = (op, value, *map(id, args))
        node = cls._all.get(key)
        if node is None:
            node = object.__new__(cls)
            node.op, node.args, node.value = op, args, value
            cls._all[key] = node
        return node

    def __repr__(self):
        return python_text(self)


def const(value):
    return Node("const", value=float(value))


ZERO, ONE = const(0), const(1)

_FOLD = {"add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
         "divide": lambda a, b: a / b, "negative": lambda a: -a, "sqrt": math.sqrt, "log": math.log,
         "square": lambda a: a * a}


def node(op, *args):
    """The node ``op(*args)``, folded where all arguments are constants, or where it is exact for every value.

    ``0*a`` is not folded here: that would hide an infinite or nan ``a``.
    """
    if op in _FOLD and all(a.op == "const" for a in args):
        return const(_FOLD[op](*(a.value for a in args)))
    if op == "add" and ZERO in args:
        return args[0] if args[1] is ZERO else args[1]
    if op == "subtract" and args[1] is ZERO:
        return args[0]
    if op == "multiply" and ONE in args:
        return args[0] if args[1] is ONE else args[1]
    if op == "negative" and args[0].op == "negative":
        return args[0].args[0]
    return Node(op, *args)


@cache
def parse(text):
    """The graph of the expression ``text``."""
    def build(t):
        if isinstance(t, ast.Constant):
            return const(t.value)
        if isinstance(t, ast.Name):
            return const(math.pi) if t.id == "pi" else Node(LEAVES[LEAVES.index(t.id)])
        if isinstance(t, ast.UnaryOp) and isinstance(t.op, ast.USub):
            return node("negative", build(t.operand))
        if isinstance(t, ast.BinOp):
            return node(_BINARY[type(t.op)], build(t.left), build(t.right))
        if isinstance(t, ast.Compare) and len(t.ops) == 1:
            return node(_COMPARE[type(t.ops[0])], build(t.left), build(t.comparators[0]))
        if isinstance(t, ast.Call) and (t.func.id in table.BY_NAME or t.func.id in ("where", "hypot1", "leg1")):
            return node(t.func.id, *map(build, t.args))
        raise SyntaxError(f"{text!r}: {ast.unparse(t)!r} has no meaning in a partial")
    return build(ast.parse(text, mode="eval").body)


def walk(root):
    """Every node below ``root`` once, arguments before the nodes that take them."""
    seen, order = set(), []

    def visit(n):
        if n not in seen:
            seen.add(n)
            for a in n.args:
                visit(a)
            order.append(n)
    visit(root)
    return order


def reads(root):
    """Which of x, y, o the expression reads, as bits 0, 1, 2."""
    return sum(1 << LEAVES.index(n.op) for n in walk(root) if n.op in LEAVES)


def is_condition(n):
    return n.op in _CONDITIONS


# ---- derivatives of expressions --------------------------------------------------------------------------------------

def _substitute(root, leaves):
    """``root`` with its leaves replaced; its own arithmetic is folded again."""
    done = {}
    for n in walk(root):
        done[n] = leaves[n.op] if n.op in LEAVES else n if n.op == "const" else node(n.op, *(done[a] for a in n.args))
    return done[root]


def _times(a, b):
    """A product in a derivative, where a factor 0 means that there is no dependence at all."""
    return ZERO if ZERO in (a, b) else node("multiply", a, b)


def derivative(root, seeds):
    """The derivative of ``root`` along ``seeds``: the derivative of each leaf, by name.

    The chain rule through the table itself: the derivative of sin inside a partial is the partial of the row "sin". A
    condition has derivative zero, so a jump between the branches of ``where`` is not seen: as everywhere at kinks.
    """
    done = {}
    for n in walk(root):
        if n.op in LEAVES:
            d = seeds.get(n.op, ZERO)
        elif n.op == "const" or is_condition(n):
            d = ZERO
        elif n.op == "where":
            condition, a, b = n.args
            d = done[a] if done[a] is done[b] else node("where", condition, done[a], done[b])
        elif n.op == "hypot1":
            d = _times(node("divide", n.args[0], n), done[n.args[0]])
        elif n.op == "leg1":
            d = _times(node("negative", node("divide", n.args[0], n)), done[n.args[0]])
        else:
            d = ZERO
            leaves = dict(zip(LEAVES, n.args, strict=False), o=n)
            for text, a in zip(table.BY_NAME[n.op].partials, n.args, strict=True):
                if done[a] is ZERO:
                    continue
                if text is None:
                    return None
                d = node("add", d, _times(_substitute(parse(text), leaves), done[a]))
        done[n] = d
    return done[root]


class Partial:
    """A partial derivative of a row: called, it evaluates; `derivative(k)` is its own partial in the k-th operand.

    Nested differentiation could also run through the NumPy calls of the function, and does where they are few. Where
    they are `composed`, a reverse sweep through them meets the branch that ``where`` did not take, or the operand of
    ``rint``, with a cotangent of zero, and a partial there that may be infinite: their product is nan, and wrong.
    """

    __slots__ = ("_derivatives", "composed", "function", "holomorphic", "name", "parents", "reads", "root")

    def __init__(self, root, parents, name):
        """``parents`` are the graphs of the row's partials: by them the output depends on the operands."""
        nodes = walk(root)
        self.root, self.parents, self.name = root, parents, name
        self.reads = reads(root)
        self.function = python_function(root, name)
        self.composed = any(n.op in ("where", "rint", "leg1") for n in nodes) or sum(bool(n.args) for n in nodes) > 3
        self.holomorphic = all(n.op in LEAVES or n.op in ("const", "where", "hypot1", "leg1") or is_condition(n)
                               or table.BY_NAME[n.op].flags & table.HOLOMORPHIC for n in nodes)
        self._derivatives = {}

    def __call__(self, x, y, o):
        return self.function(x, y, o)

    def derivative(self, k):
        """The Partial of this one in operand ``k``; None where it is zero, NotImplemented where the table has none."""
        if k not in self._derivatives:
            seeds = {"xy"[k]: ONE}
            if self.reads & 4:
                if self.parents[k] is None:
                    return NotImplemented
                seeds["o"] = self.parents[k]
            root = derivative(self.root, seeds)
            self._derivatives[k] = (NotImplemented if root is None else None if root is ZERO else
                                    Partial(root, self.parents, f"{self.name}_d{'xy'[k]}"))
        return self._derivatives[k]


def partials_of(rule):
    """The partials of a row of the table; None for an operand that has none."""
    roots = tuple(text and parse(text) for text in rule.partials)
    return tuple(root and Partial(root, roots, f"d_{rule.name}_d{'xy'[k]}") for k, root in enumerate(roots))


# ---- C ---------------------------------------------------------------------------------------------------------------

_INFIX = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "less": "<", "less_equal": "<=", "greater": ">",
          "greater_equal": ">=", "equal": "==", "not_equal": "!=", "logical_or": "|", "logical_and": "&"}
# What a segment may contain: gcc turns each of these into vector code or at least into a cheap call.
_SEGMENT = frozenset(_INFIX) | {"negative", "where", "isnan", "sqrt", "absolute", "square", "sign", "copysign", "rint",
                                "hypot1", "leg1"}
# Scalar C: what math.h has under another name than NumPy, or what _partials.h defines itself.
_C_NAMES = {"absolute": "fabs", "arcsin": "asin", "arccos": "acos", "arctan": "atan", "arcsinh": "asinh",
            "arccosh": "acosh", "arctanh": "atanh", "arctan2": "atan2", "power": "cyad_power", "square": "cyad_square",
            "sign": "cyad_sign", "hypot1": "cyad_hypot1", "leg1": "cyad_leg1", "psi": "cyad_digamma", "gamma": "tgamma",
            "maximum": "fmax", "minimum": "fmin", "gammaln": "lgamma"}
_C_SAME = frozenset("sqrt cbrt exp exp2 expm1 log log2 log10 log1p sin cos tan sinh cosh tanh hypot floor ceil trunc "
                    "rint copysign fmod erf erfc j0 j1 y0 y1".split())


def c_available(root):
    """Whether C alone can evaluate the expression (some functions exist in scipy only)."""
    return all(n.op in LEAVES or n.op == "const" or n.op in _SEGMENT or n.op in _C_NAMES or n.op in _C_SAME
               for n in walk(root))


def _number(value):
    return f"T({value.hex() if value % 1 else repr(value)})"


def _c_text(n, names):
    """C for ``n``, given C for its arguments. T() and the M_ names are macros, so that one text serves both types."""
    if n.op == "const":
        return _number(n.value)
    args = [names[a] for a in n.args]
    if n.op in _INFIX:
        return f"({args[0]} {_INFIX[n.op]} {args[1]})"
    if n.op == "negative":
        return f"(-{args[0]})"
    if n.op == "where":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if n.op == "isnan":
        return f"({args[0]} != {args[0]})"
    if n.op in _SEGMENT:
        return f"M_{n.op}({args[0]})" if len(args) == 1 else f"M_{n.op}({args[0]}, {args[1]})"
    return f"{_C_NAMES.get(n.op, n.op)}({', '.join(args)})"


def c_lines(root, leaves, share=2):
    """Statements and a final C expression that compute ``root``; ``leaves`` maps nodes to the C text of their values.

    A node used ``share`` times or more gets a name of its own. Segments name every node (share = 1): a loop is
    vectorised when nothing in it is conditional, so both branches of a ``where`` are computed and one is chosen.
    """
    uses = {}
    order = []

    def visit(n):
        if n in leaves:
            return
        uses[n] = uses.get(n, 0) + 1
        if uses[n] == 1:
            for a in n.args:
                visit(a)
            order.append(n)
    visit(root)
    names, lines = dict(leaves), []
    for n in order:
        text = _c_text(n, names)
        if n is not root and n.op != "const" and not is_condition(n) and uses[n] >= share:
            name = f"t{len(lines)}"
            lines.append(f"const T_ {name} = {text};")
            text = name
        names[n] = text
    return lines, names[root]


# ---- block programs --------------------------------------------------------------------------------------------------

def block_program(root):
    """``(steps, register)``: how blocks of an array evaluate ``root``, and where its value is then.

    Registers 0, 1, 2 are x, y, o; each step writes the next free one, from 3 on. A step is
    ``("segment", node, inputs)``, where inputs maps nodes to registers, or ``("call", name, registers)``.
    """
    steps, register = [], {Node(leaf): i for i, leaf in enumerate(LEAVES)}

    def value(n):
        """The register that holds ``n``, after the steps that it takes."""
        if n not in register:
            if n.op in _SEGMENT or n.op == "const":
                for inner in walk(n):
                    if inner.op not in _SEGMENT and inner.op != "const" and inner not in register:
                        value(inner)
                inputs = _frontier(n, register)
                steps.append(("segment", n, inputs))
            else:
                steps.append(("call", n.op, tuple(value(a) for a in n.args)))
            register[n] = 2 + len(steps)
        return register[n]
    return steps, value(root)


def _frontier(root, register):
    """The registers that a segment for ``root`` reads: it stops at whatever is already computed."""
    inputs = {}

    def visit(n):
        if n in register:
            inputs[n] = register[n]
        else:
            for a in n.args:
                visit(a)
    visit(root)
    return inputs


# ---- Python ----------------------------------------------------------------------------------------------------------

# Python's own operators for what cannot raise on plain floats; np.divide and np.power, because 1/0.0 must be inf.
_OPERATORS = _INFIX.keys() - {"divide"}
_QUIET = _OPERATORS - {"multiply", "add", "subtract"} | {"negative", "where", "const", "isnan", "sign", *LEAVES}


def python_text(root):
    """``root`` as a Python expression, for people."""
    return _python_text(root, {n: n.op for n in walk(root) if n.op in LEAVES}, "")


def _python_text(n, names, module="np."):
    if n in names:
        return names[n]
    if n.op == "const":
        return repr(n.value)
    args = [_python_text(a, names, module) for a in n.args]
    if n.op in _OPERATORS:
        return f"({args[0]} {_INFIX[n.op]} {args[1]})"
    if n.op == "negative":
        return f"(-{args[0]})"
    if n.op == "where":
        if module and all(a.op == "const" for a in n.args[1:]):
            args += [a.op for a in walk(n) if a.op in LEAVES]
        return f"where({', '.join(args)})"
    if n.op in ("hypot1", "leg1"):
        return f"{n.op}({args[0]})"
    return f"{'special.' if module and n.op in table.SPECIAL_NAMES else module}{n.op}({', '.join(args)})"


def python_source(root, name):
    """The text of a Python function ``name(x, y, o)`` that evaluates ``root``."""
    order = walk(root)
    uses = {}
    for n in order:
        for a in n.args:
            uses[a] = uses.get(a, 0) + 1
    names, lines = {n: n.op for n in order if n.op in LEAVES}, []
    for n in order:
        if n.args and n is not root and uses[n] > 1:
            lines.append(f"t{len(lines)} = {_python_text(n, names)}")
            names[n] = f"t{len(lines) - 1}"
    lines.append(f"return {_python_text(root, names)}")
    if not all(n.op in _QUIET for n in order):
        lines = ["with np.errstate(all='ignore'):", *("    " + line for line in lines)]
    if any(n.op in table.SPECIAL_NAMES for n in order):
        lines.insert(0, "from scipy import special")
    return "\n    ".join([f"def {name}(x, y, o):", *lines]) + "\n"


def composite_function(text, name):
    """The callable ``name(x, y, z)`` for a composite row: NumPy functions of the operands."""
    import numpy as np

    namespace = {function: getattr(np, function) for function in table.BY_NAME if hasattr(np, function)}
    exec(compile(f"def {name}(x, y, z):\n    return {text}\n", f"<cyad rule {name}: {text}>", "exec"), namespace)
    return namespace[name]


def python_function(root, name):
    """The callable ``f(x, y, o)`` for a graph: operators and NumPy functions only, no warnings.

    A constant partial gives a Python float, which promotes no dtype.
    """
    import numpy as np

    def where(condition, a, b, *like):
        if isinstance(condition, bool | np.bool_):
            return a if condition else b
        dtypes = [v.dtype for v in like if hasattr(v, "dtype")]
        if dtypes:      # two constants: the dtype is that of the operands, not of Python's float
            number = np.result_type(*dtypes).type
            a, b = number(a), number(b)
        return np.where(condition, a, b)

    def is_complex(x):
        dtype = getattr(x, "dtype", None)
        return isinstance(x, complex) if dtype is None else dtype.kind == "c"

    def hypot1(x):
        return np.sqrt(1 + x*x) if is_complex(x) else np.hypot(1.0, x)

    def leg1(x):
        # Of a complex x, 1 - x and 1 + x would lose the sign of a zero imaginary part: the side of the cut.
        return np.sqrt(-(x - 1)*(x - -1)) if is_complex(x) else np.sqrt((1 - x)*(1 + x))

    source = python_source(root, name)
    namespace = {"np": np, "where": where, "hypot1": hypot1, "leg1": leg1}
    exec(compile(source, f"<cyad rule {name}>", "exec"), namespace)
    return namespace[name]
