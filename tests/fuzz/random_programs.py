"""Random NumPy programs, as Python source, for the fuzzer.

A program is a function of a few small arrays and numbers: a list of statements over a growing set of variables, drawn
by hypothesis, so that a failure shrinks to few statements. Shapes are known while a program is drawn, so that the plain
run never raises; products pass through bounded functions, so that values stay moderate and finite differences can be
trusted (the check finds out by two step sizes where they cannot: at a kink, or where a branch changes).

Every statement draws what it needs from the variables there are at that point and writes its lines. To cover something
new, add a function with @statement or @store, or an entry to `ways_to_read` or `all_regions`.
"""
import dataclasses
import itertools
import math
import re

import numpy as np
from hypothesis import strategies as st

# Bounded, or of bounded slope: nothing that a program does can make values grow fast.
UNARY = ("np.sin({})", "np.cos({})", "np.tanh({})", "np.arctan({})", "np.exp(-np.square({}))", "np.sqrt(1.0 + {} ** 2)",
         "np.log(1.5 + np.abs({}))", "np.abs({})", "-{}", "np.clip({}, -0.9, 0.8)", "0.5 * {}", "np.log1p({} ** 2)",
         "1.0 / (1.5 + np.cos({}))", "np.where({} > 0.1, 0.7, -0.4)", "{}.copy()", "np.floor({})")
BINARY = ("{} + {}", "{} - {}", "np.tanh({}) * {}", "{} / (1.5 + np.sin({}))", "np.maximum({}, {})",
          "np.minimum({}, {})", "np.hypot({}, 1.0 + {})", "np.where({0} > {1}, {0}, 0.5 * {1})",
          "np.arctan2({}, 2.0 + np.cos({}))", "(1.2 + np.cos({})) ** np.tanh({})", "np.logaddexp({}, {})")
SCALAR_UNARY = ("math.sin({})", "math.cos({})", "math.exp(-abs({}))", "math.sqrt(1.0 + {} ** 2)", "np.tanh({})",
                "np.sin({})", "abs({})", "0.5 * {}", "-{}", "2 * {}")
SCALAR_BINARY = ("{} + {}", "{} - {}", "math.tanh({}) * {}", "{} / (1.5 + np.cos({}))", "max({}, {})", "min({}, {})",
                 "math.atan2({}, 2.0 + abs({}))", "np.cos({}) * {}")
CONSTANTS = ("0.3", "-0.6", "1.1", "2")
SHAPES = ((2,), (3,), (4,), (5,), (2, 2), (2, 3), (3, 2), (3, 3), (4, 2))
MOST_VARIABLES = 9
SINGLE = ", dtype=np.float32"

# Functions that programs call: they write what they are given, keep views, recurse.
HELPERS = """
def damp(u, c):
    for i in range(len(u)):
        u[i] = u[i] * math.cos(c) if u.ndim == 1 else np.tanh(u[i]) * c
    return u[-1:]


def shifted(u, c=0.3):
    out = np.zeros_like(u)
    out[1:] = u[:-1]
    out[0] = c
    return out


def halves(u, depth=2):
    if depth == 0 or len(u) < 2:
        return np.sum(np.sin(u))
    middle = len(u) // 2
    u[:middle] += 0.1 * u[-1]
    return halves(u[:middle], depth - 1) - 0.5 * halves(u[middle:][::-1], depth - 1)


class Filter:
    def __init__(self, state):
        self.state = state

    def __call__(self, u):
        self.state[...] = 0.6 * self.state + 0.4 * u
        return self.state
"""


@dataclasses.dataclass(frozen=True)
class Variable:
    name: str
    shape: tuple
    writable: bool = True


class Program:
    """What was drawn: the source of `program`, and an expression for each argument."""

    def __init__(self, source, arguments, constant):
        self.source, self.arguments, self.constant = source, arguments, constant

    def function(self):
        namespace = {"np": np, "math": math, "W": WEIGHTS}
        exec(compile(self.source, "<random program>", "exec"), namespace)
        return namespace["program"]

    def values(self, double=False):
        """Fresh arguments; `double` turns those in single precision to double."""
        texts = [text.replace(SINGLE, "") for text in self.arguments] if double else self.arguments
        return [eval(text, {"np": np}) for text in texts]

    def is_double(self):
        return not any(SINGLE in text for text in self.arguments)

    def __repr__(self):
        """A script that can be pasted; hypothesis prints it for a failure."""
        arguments = "".join(f"    cyad.Const({text}),\n" if constant else f"    {text},\n"
                            for text, constant in zip(self.arguments, self.constant, strict=True))
        return ("\n\nimport math\n\nimport numpy as np\n\nimport cyad\n\nW = np.cos(np.arange(64.0))\n\n\n"
                f"{self.source}\n\nargs = (\n{arguments})\nprint(cyad.gradient(cyad.Reverse, program, *args))\n"
                f"print(cyad.gradient(cyad.Forward, program, *args))\n")


WEIGHTS = np.cos(np.arange(64.0))


class Writer:
    """The program so far: its lines, and the variables that the next statement may use."""

    def __init__(self, draw, variables):
        self.draw = draw
        self.variables = variables
        self.lines = []
        self.indent = "    "
        self.names = itertools.count()
        self.helpers = False

    def pick(self, options):
        return self.draw(st.sampled_from(options))

    def chance(self, one_in):
        return self.draw(st.integers(0, one_in - 1)) == one_in - 1

    def line(self, text):
        self.lines.append(self.indent + text)

    def block(self, opening):
        """Lines written until `close` stand under this one."""
        self.line(opening)
        self.indent += "    "

    def close(self):
        self.indent = self.indent[:-4]

    def new(self, shape, text):
        name = f"v{next(self.names)}"
        self.line(f"{name} = {text}")
        frozen = {"diagonal", "broadcast_to", "sliding_window_view"}
        frozen.update(v.name for v in self.variables if not v.writable)
        self.variables.append(Variable(name, shape, not frozen.intersection(re.findall(r"\w+", text))))
        return self.variables[-1]

    def arrays(self, ndim=None, writable=False):
        return [v for v in self.variables if v.shape and (ndim is None or len(v.shape) == ndim)
                and (v.writable or not writable)]

    def numbers(self):
        return [v for v in self.variables if not v.shape]

    def indices(self, length, extent):
        """A list of `length` positions below `extent`, repeats welcome."""
        return self.draw(st.lists(st.integers(0, extent - 1), min_size=length, max_size=length))

    # ---- expressions ----

    def leaf(self, shape):
        """An operand of exactly this shape."""
        ways = [w for v in self.variables for w in ways_to_read(v, shape)]
        if len(shape) == 2:
            by_length = {v.shape[0]: v for v in self.arrays(1)}
            if shape[0] in by_length and shape[1] in by_length:
                ways.append(f"np.outer({by_length[shape[0]].name}, {by_length[shape[1]].name})")
        if len(shape) == 1:
            ways += [f"{a.name} @ {x.name} / {x.shape[0]}" for a in self.arrays(2) for x in self.arrays(1)
                     if a.shape == (shape[0], x.shape[0])]
            ways += [f"np.einsum('ij,j->i', {a.name}, np.cos({x.name}))" for a in self.arrays(2)
                     for x in self.arrays(1) if a.shape == (shape[0], x.shape[0])]
        gather = [v for v in self.arrays() if len(v.shape) == len(shape) and v.shape[1:] == shape[1:]]
        if gather:
            ways.append("gather")
        if not ways:
            return f"np.full({shape}, {self.pick(CONSTANTS[:3])})"  # the integer would make it an array of integers
        way = self.pick(ways)
        if way != "gather":
            return way
        v = self.pick(gather)
        return f"{v.name}[{self.indices(shape[0], v.shape[0])}]"

    def broadcast(self, shape):
        """An operand that NumPy broadcasts to this shape."""
        shapes = [shape, ()]
        if len(shape) == 2:
            shapes.append(shape[1:])
            if any(v.shape == shape[:1] for v in self.variables) and self.chance(4):
                return self.pick([v.name for v in self.variables if v.shape == shape[:1]]) + "[:, np.newaxis]"
        wanted = self.pick(shapes)
        return self.pick(CONSTANTS) if not wanted and self.chance(3) else self.leaf(wanted)

    def expression(self, shape, depth=2):
        """Text of an expression of exactly this shape."""
        kind = self.draw(st.integers(0, 4)) if depth else 0
        if not shape:
            unary, binary = SCALAR_UNARY, SCALAR_BINARY
        else:
            unary, binary = UNARY, BINARY
        if kind == 0:
            return self.leaf(shape)
        if kind <= 2:
            return fill(self.pick(unary), self.expression(shape, depth - 1))
        sides = [self.expression(shape, depth - 1), self.broadcast(shape)]
        return fill(self.pick(binary), *(reversed(sides) if self.chance(2) else sides))

    def region(self, ndim=None):
        """A place to write: (variable, text, shape)."""
        v = self.pick(self.arrays(ndim, writable=True))
        if self.chance(6):
            at = self.indices(self.draw(st.integers(1, 3)), v.shape[0])
            return v, f"{v.name}[{at}]", (len(at), *v.shape[1:])
        return v, *self.pick(regions(v))


def is_atom(text):
    """Whether text keeps its meaning next to an operator: no blank outside of brackets, no sign."""
    depth = 0
    for c in text:
        depth += (c in "([") - (c in ")]")
        if c == " " and not depth:
            return False
    return not text.startswith("-")


def fill(template, *operands):
    return template.format(*(o if is_atom(o) else f"({o})" for o in operands))


def ways_to_read(v, shape):
    """Expressions over one variable that have this shape."""
    name, own = v.name, v.shape
    ways = [name] * 3 if own == shape else []
    if not own:
        return ways
    if not shape:
        ways += [f"{name}[{', '.join(map(str, at))}]" for at in itertools.islice(np.ndindex(own), 6)]
        ways += [f"{name}[-1]" if len(own) == 1 else f"{name}[-1, -1]", f"np.sum({name})", f"{name}.mean()",
                 f"np.max({name})", f"{name}.min()", f"np.var(np.arctan({name}))", f"np.prod(np.cos({name}))",
                 f"np.linalg.norm(1.0 + np.tanh({name}))", f"np.ptp({name})", f"np.sum({name}[:0])",
                 f"({name}[{', '.join('0' * len(own))}, ...] + 0.5)", f"{name}[np.array(-1)].sum()",
                 f"{name}.ravel()[np.argmax({name})]", f"max({name}.ravel())", f"sum({name}.ravel().tolist()) / 4"]
        if len(own) == 1:
            ways += [f"{name} @ np.sin({name})", f"np.dot(W[:{own[0]}], {name})"]
    elif len(shape) == 1 and len(own) == 1:
        n, m = shape[0], own[0]
        ways += [f"{name}[{k}:{k + n}]" for k in range(m - n + 1)]
        if m == n:
            ways += [f"{name}[::-1]", f"np.cumsum({name})", f"np.concatenate([{name}[1:], {name}[:1]])",
                     f"np.flip({name})", f"np.roll({name}, 1)", f"W[:{n}] * {name}", f"np.sort({name})",
                     f"{name}[np.argsort({name})]", f"np.concatenate([{name}[:0], {name}])", f"np.pad({name}, 1)[1:-1]",
                     f"np.convolve({name}, W[:1], 'same')", f"np.maximum.accumulate({name})", f"np.hstack([{name}])",
                     f"np.array([t * 0.5 for t in {name}])", f"np.cumprod(np.cos({name}))",
                     f"np.gradient(np.append({name}, 0.7))[1:]",
                     f"np.real(np.fft.ifft(np.fft.fft({name}) * W[:{n}]))"]
        if (m + 1) // 2 == n:
            ways += [f"{name}[::2]"]
        if m // 2 == n:
            ways += [f"{name}[1::2]"]
        if 2 * m == n:
            ways += [f"np.concatenate([{name}, np.sin({name})])", f"np.repeat({name}, 2)"]
        if m - 1 == n:
            ways += [f"np.diff({name})", f"np.lib.stride_tricks.sliding_window_view({name}, 2) @ W[:2]",
                     f"np.sin(np.lib.stride_tricks.sliding_window_view({name}, 2)).sum(-1)", f"np.delete({name}, 1)"]
        if m - 2 == n:
            ways += [f"{name}[2:] - {name}[:-2]", f"np.lib.stride_tricks.sliding_window_view({name}, 3).max(axis=1)",
                     f"np.lib.stride_tricks.sliding_window_view({name}, 3)[:, 1]"]
    elif len(shape) == 1:
        if own[1] == shape[0]:
            ways += [f"{name}[{i}]" for i in range(own[0])]
            ways += [f"{name}.sum(axis=0)", f"np.max({name}, axis=0)", f"np.mean({name}, 0)"]
        if own[0] == shape[0]:
            ways += [f"{name}[:, {j}]" for j in range(own[1])] + [f"np.sum({name}, axis=-1)", f"{name}.T[-1]"]
        if min(own) == shape[0]:
            ways += [f"np.diagonal({name})"]
        if math.prod(own) == shape[0]:
            ways += [f"{name}.ravel()", f"{name}.T.reshape(-1)", f"{name}.flatten('F')", f"np.vstack([{name}]).flat[:]"]
    elif len(own) == 2:
        p, q = shape
        if own == (q, p):
            ways += [f"{name}.T", f"np.swapaxes({name}, 0, 1)"]
        if own == shape:
            ways += [f"{name}[::-1]", f"{name}[:, ::-1]", f"np.cumsum({name}, axis=1)", f"np.roll({name}, 1, axis=0)"]
            ways += [f"np.sort({name}, axis=0)", f"np.tril({name})",
                     f"np.take_along_axis({name}, np.argsort({name}, 1), 1)", f"np.stack(list({name}))",
                     f"np.einsum('ij->ij', {name})", f"{name}[np.argsort({name}[:, 0])]"]
            if p == q:
                ways += [f"{name} @ np.cos({name}.T)", f"np.linalg.solve(4.0 * np.eye({p}) + np.cos({name}), {name})",
                         f"np.linalg.inv(4.0 * np.eye({p}) + np.sin({name}))"]
        elif math.prod(own) == p * q:
            ways += [f"{name}.reshape({p}, {q})", f"{name}.reshape(({p}, {q}), order='F')"]
        if own[0] > p and own[1] >= q:
            ways += [f"{name}[{own[0] - p}:, :{q}]"]
    else:
        p, q = shape
        if own[0] == q:
            ways += [f"np.broadcast_to({name}, ({p}, {q}))"]
            if p == 2:
                ways += [f"np.stack([{name}, np.sin({name})])", f"np.array([{name}, {name} * 2.0])",
                         f"np.array([list({name}), {name}[::-1].tolist()])"]
        if own[0] == p * q:
            ways += [f"{name}.reshape({p}, {q})"]
    return ways


def regions(v):
    """Places in an array to write to: (text, shape), none of them empty."""
    return [(text, shape) for text, shape in all_regions(v.name, v.shape) if all(shape)]


def all_regions(name, shape):
    n = shape[0]
    if len(shape) == 1:
        out = [(f"{name}[...]", shape), (f"{name}[:]", shape), (f"{name}[::-1]", shape), (f"{name}[1:]", (n - 1,)),
               (f"{name}[:-1]", (n - 1,)), (f"{name}[::2]", ((n + 1) // 2,)), (f"{name}[-1::-2]", ((n + 1) // 2,)),
               (f"{name}[1:][::-1]", (n - 1,))]
        return out + [(f"{name}[{i}]", ()) for i in range(n)]
    m = shape[1]
    out = [(f"{name}[...]", shape), (f"{name}[::-1, :]", shape), (f"{name}.T[:]", (m, n)),
           (f"{name}[1:, :]", (n - 1, m)), (f"{name}[:, :-1]", (n, m - 1)), (f"{name}[:-1][:, 1:]", (n - 1, m - 1)),
           (f"{name}.T[1:]", (m - 1, n)),
           (f"{name}[[0, -1], [-1, 0]]", (2,)), (f"{name}[:, [0, -1]]", (n, 2)), (f"{name}[None, 0]", (1, m)),
           (f"{name}.reshape(-1)[1::2]", (n * m // 2,))]
    out += [(f"{name}[{i}]", (m,)) for i in range(n)] + [(f"{name}[:, {j}]", (n,)) for j in range(m)]
    return out + [(f"{name}[{i}, {m - 1}]", ()) for i in range(n)]


def copies(region):
    """Whether the text of a region indexes by lists: read, it is no view."""
    return "[[" in region or "[0, -1]" in region


# ---- statements -----------------------------------------------------------------------------------

STATEMENTS = []      # may bring variables, so they stand at the top level of the function
STORES = []          # change what is there: they may also stand under a branch


def statement(write):
    STATEMENTS.append(write)
    return write


def store(write):
    STORES.append(write)
    return statement(write)


@statement
def assign(w):
    shape = w.pick(((), *SHAPES))
    w.new(shape, w.expression(shape))


@statement
def assign_like(w):
    v = w.pick(w.variables)
    w.new(v.shape, w.expression(v.shape))


@statement
def take_view(w):
    v = w.pick(w.arrays())
    text, shape = w.pick([(t, s) for t, s in regions(v) if s and not copies(t)])
    w.new(shape, text)


@statement
def take_view_that_may_not_be_written(w):
    v = w.pick(w.arrays(2) or w.arrays())
    if len(v.shape) == 2:
        w.new((min(v.shape),), f"np.diagonal({v.name})")
    else:
        w.new((2, *v.shape), f"np.broadcast_to({v.name}, {(2, *v.shape)})")


@statement
def call_helper(w):
    """Another function writes into what it is given, or keeps it."""
    w.helpers = True
    v = w.pick(w.arrays(writable=True) or w.arrays())
    kind = w.draw(st.integers(0, 3)) if v.writable else 1
    if kind == 0:
        w.new((1, *v.shape[1:]), f"damp({v.name}, {w.leaf(())})")
    elif kind == 1:
        w.new(v.shape, f"shifted({v.name}{w.pick(('', ', c=' + w.leaf(())))})")
    elif kind == 2:
        w.new((), f"halves({v.name})")
    else:
        name = f"h{next(w.names)}"
        w.line(f"{name} = Filter({w.pick(('np.zeros_like({})', '{}.copy()', '{}')).format(v.name)})")
        w.line(f"{name}({w.expression(v.shape)})")
        w.new(v.shape, f"{name}({v.name})")


@statement
def look_at_a_number_as_an_array(w):
    """An array without axes: a view of one element, or scratch."""
    v = w.pick(w.arrays(writable=True) or w.arrays())
    z = f"z{next(w.names)}"
    place = ", ".join(str(w.pick(range(n))) for n in v.shape)
    if v.writable and w.chance(2):
        w.line(f"{z} = {v.name}[{place}, ...]")
    else:
        w.line(f"{z} = np.{w.pick(('zeros(())', 'array(0.25)', 'full((), 0.5)'))}")
    operator, value = augmented(w, ())
    w.line(f"{z}[...] = {value}" if operator == "=" else f"{z} {operator} {value}")
    w.line(f"{z}[()] += 0.5 * {v.name}[{place}]")
    w.new((), f"{z} * 1.0")


@statement
def scratch(w):
    v = w.pick(w.arrays())
    kind = w.draw(st.integers(0, 7))
    if kind < 5:
        text = ("np.zeros({s})", "np.ones({s})", "np.zeros_like({n})", "{n}.copy()", "np.array({n})")[kind]
        w.new(v.shape, text.format(s=v.shape, n=v.name))
    elif kind == 5:
        new = w.new(v.shape, f"np.full({v.shape}, {w.leaf(())})")
        w.line(f"{new.name}[0] = {w.leaf(v.shape[1:])}")
    else:
        text = w.expression(v.shape)  # before the empty array can be read
        new = w.new(v.shape, f"np.empty({v.shape})" if kind == 6 else f"np.empty_like({v.name})")
        w.line(f"{new.name}[...] = {text}")


CAPTURED = ("0.5 * {}", "np.sin({})", "{}.clip(-0.5, 0.5)", "-{}", "np.cumsum({}) * 0.1", "{}.copy()", "{}[{i}]",
            "np.take({}, {i})", "np.sort({})", "np.random.default_rng(1).normal({}, 0.1)")


@statement
def scratch_of_captured_values(w):
    """Computed from an array that the program captured, and from nothing else."""
    shape = w.pick(SHAPES)
    size, start = math.prod(shape), w.draw(st.integers(0, 20))
    index = [w.draw(st.integers(0, size - 1)) for _ in range(size)]
    text = w.pick(CAPTURED).format(f"W[{start}:{start + size}]", i=index)
    w.new(shape, text if len(shape) == 1 else f"({text}).reshape({shape})")


@statement
def compiled_code_writes(w):
    """It overwrites, by the buffer, constants that products refer to."""
    v = w.pick(w.arrays())
    c, m = f"c{next(w.names)}", f"m{next(w.names)}"
    w.line(f"{c} = np.ones({v.shape})")
    if w.chance(2):
        w.line(f"{m} = memoryview({c})")
    new = w.new(v.shape, f"{c} * np.sin({v.name})")
    w.line(f"memoryview({c}).cast('B').cast('d')[0] = float({w.pick(CONSTANTS)})")
    w.line(f"{new.name} = {new.name} + {c} * {v.name}")


@statement
def swap(w):
    a = w.pick(w.arrays())
    others = [v for v in w.arrays() if v.shape == a.shape and v.writable == a.writable and v != a]
    if others:
        b = w.pick(others)
        w.line(f"{a.name}, {b.name} = {b.name}, {a.name}")


@statement
def count_up(w):
    """A loop whose length depends on the data."""
    v = w.pick(w.arrays())
    s = w.new((), w.expression((), 1))
    k = f"k{next(w.names)}"
    w.line(f"{k} = 0")
    w.block(f"while {s.name} < 1.7 and {k} < 6:")
    w.line(f"{s.name} = {s.name} + 0.4 + 0.3 * math.cos({element(w, v, k)})")
    w.line(f"{k} += 1")
    w.close()


@statement
def branch(w):
    w.block(f"if {w.leaf(())} > {w.pick(CONSTANTS)}:")
    w.pick(STORES)(w)
    w.close()
    if w.chance(2):
        w.block("else:")
        w.pick(STORES)(w)
        w.close()


def augmented(w, shape):
    """An operator and a right-hand side that do not let values grow fast."""
    operator = w.pick(("=", "=", "+=", "+=", "-=", "*=", "/="))
    text = w.broadcast(shape) if w.chance(3) else w.expression(shape)
    return operator, {"*=": f"np.cos({text})", "/=": f"(1.5 + 0.4 * np.sin({text}))"}.get(operator, text)


@store
def write_region(w):
    _, text, shape = w.region()
    operator, value = augmented(w, shape)
    w.line(f"{text} {operator} {value}")


@store
def write_nothing(w):
    """Places and values of no elements."""
    v = w.pick(w.arrays(writable=True))
    n = v.shape[0]
    place = w.pick((f"{v.name}[{n}:]", f"{v.name}[1:1]", f"{v.name}[:0]", f"{v.name}[[]]", f"{v.name}[{v.name} > 1e9]",
                    f"{v.name}[np.zeros(0, dtype=int)]", f"{v.name}[1:1][::-1]"))
    w.line(f"{place} {w.pick(('=', '+=', '*='))} {w.leaf(())}")


@store
def write_overlapping(w):
    """The right-hand side is another view of the memory that is written."""
    v = w.pick(w.arrays(writable=True))
    text, shape = w.pick([(t, s) for t, s in regions(v) if s])
    source = w.pick(ways_to_read(v, shape) or [f"np.sum({v.name})"])
    operator = w.pick(("=", "+=", "-=", "*="))
    w.line(f"{text} {operator} {f'np.cos({source})' if operator == '*=' else source}")


@store
def write_whole(w):
    v = w.pick([v for v in w.variables if v.writable])
    operator, value = augmented(w, v.shape)
    if operator == "=":
        operator, value = "+=", f"np.tanh({value})"
    w.line(f"{v.name} {operator} {value}")


@store
def write_mask(w):
    v = w.pick(w.arrays(writable=True))
    u = w.pick([u for u in w.arrays() if u.shape == v.shape])
    mask = w.pick((f"{u.name} > 0.2", f"np.abs({v.name}) < 0.7", f"{u.name} <= {w.leaf(())}"))
    operator = w.pick(("=", "+=", "*="))
    value = w.pick((w.leaf(()), f"np.sin({u.name}[{mask}])", f"0.5 * {v.name}[{mask}]"))
    w.line(f"{v.name}[{mask}] {operator} {f'np.cos({value})' if operator == '*=' else value}")


@store
def write_at_data(w):
    """The place depends on the data."""
    v = w.pick(w.arrays(1, writable=True) or w.arrays(writable=True))
    k = f"k{next(w.names)}"
    w.line(f"{k} = int(3.0 * abs({w.leaf(())})) % {v.shape[0]}")
    operator, value = augmented(w, v.shape[1:])
    w.line(f"{v.name}[{k}] {operator} {value}")


@store
def write_out(w):
    _, text, shape = w.region()
    if not shape or copies(text):  # a number, or a copy whose values would be lost
        w.line(f"{text} = {w.expression(shape)}")
        return
    f = w.pick(("np.add", "np.subtract", "np.maximum", "np.hypot"))
    w.line(f"{f}({w.leaf(shape)}, {w.broadcast(shape)}, out={text})")


@store
def add_at(w):
    v = w.pick(w.arrays(1, writable=True) or w.arrays(writable=True))
    at = w.indices(3, v.shape[0])
    value = w.leaf((3, *v.shape[1:])) if w.draw(st.integers(0, 2)) else w.leaf(())
    kind = w.draw(st.integers(0, 5))
    if kind == 0:
        w.line(f"np.subtract.at({v.name}, {at}, {value})")
    elif kind == 1:
        w.line(f"np.multiply.at({v.name}, {at}, np.cos({value}))")
    else:
        w.line(f"np.add.at({v.name}, {at}, {value})")


@store
def write_by_function(w):
    v = w.pick(w.arrays(writable=True))
    u = w.pick([u for u in w.arrays() if u.shape == v.shape])
    last = math.prod(v.shape) - 1
    w.line(w.pick((
        f"np.copyto({v.name}, {w.expression(v.shape, 1)})", f"np.copyto({v.name}, {w.leaf(())}, where={u.name} > 0.1)",
        f"np.put({v.name}, [0, {last}], {w.leaf(())})", f"{v.name}.fill({w.leaf(())})", f"{v.name}.sort()",
        f"np.putmask({v.name}, {u.name} < 0.3, {u.name}.astype({v.name}.dtype))", f"{v.name}.flat[::2] = {w.leaf(())}",
        f"np.place({v.name}, {u.name} > 0.0, {u.name}.ravel()[:1].astype({v.name}.dtype))",
        f"{v.name}.flat[{last}] *= 0.5",
        f"np.clip({v.name}, -0.7, {w.pick(('1.1', 'np.abs(' + u.name + ') + 0.2'))}, out={v.name})",
        f"np.cumsum({u.name}, axis=0, out={v.name})", f"np.negative({u.name}, out={v.name})",
        f"np.tanh({u.name}, out={v.name}, where=np.cos({u.name}) > 0.2)",
        f"np.fill_diagonal({v.name}, {w.leaf(())})" if len(v.shape) == 2 else f"np.ravel({v.name})[0] = {w.leaf(())}",
        f"{v.name}[{u.name} > 0.0] = np.cos({u.name})[{u.name} > 0.0]",
    )))


def element(w, v, i):
    """A number read inside a loop over i."""
    n = v.shape[0]
    row = w.pick((f"{i} % {n}", f"({i} - 1) % {n}", f"-1 - {i} % {n}"))
    return f"{v.name}[{row}]" if len(v.shape) == 1 else f"{v.name}[{row}, {w.pick(range(v.shape[1]))}]"


def element_expression(w, i):
    def operand():
        return element(w, w.pick(w.arrays()), i) if w.draw(st.integers(0, 3)) or not w.numbers() \
            else w.pick(w.numbers()).name
    if w.chance(3):
        return fill(w.pick(SCALAR_UNARY), operand())
    return fill(w.pick(SCALAR_BINARY), operand(), fill(w.pick(SCALAR_UNARY), operand()))


@store
def loop(w):
    v = w.pick(w.arrays(writable=True))
    i = f"i{next(w.names)}"
    w.block(f"for {i} in range({w.pick(('', '1, '))}{v.shape[0]}):")
    place = f"{v.name}[{i}]" if len(v.shape) == 1 else f"{v.name}[{i}, {w.pick(range(v.shape[1]))}]"
    if w.chance(2):
        t = f"t{next(w.names)}"
        w.line(f"{t} = {element_expression(w, i)}")
        w.line(f"{place} = math.tanh({t}) + 0.5 * {element(w, v, i)}")
    else:
        operator = w.pick(("=", "+=", "*="))
        text = element_expression(w, i)
        w.line(f"{place} {operator} {f'math.cos({text})' if operator == '*=' else text}")
    if w.numbers() and w.chance(2):
        w.line(f"{w.pick(w.numbers()).name} += math.sin({place})")
    w.close()


@store
def double_loop(w):
    if not w.arrays(2, writable=True):
        loop(w)
        return
    v = w.pick(w.arrays(2, writable=True))
    n, m = v.shape
    i, j = f"i{next(w.names)}", f"j{next(w.names)}"
    w.block(f"for {i} in range({n}):")
    w.block(f"for {j} in range({m}):")
    near = w.pick((f"{v.name}[{i} - 1, {j}]", f"{v.name}[{i}, {j} - 1]", f"{v.name}[-1 - {i}, {j}]"))
    w.line(f"{v.name}[{i}, {j}] = 0.6 * {near} + {element_expression(w, i)} * 0.5")
    w.close()
    w.close()


# ---- whole programs -------------------------------------------------------------------------------

LAYOUTS = ("np.array({}{})", "np.array({}{})", "np.array({}{}, order='F')", "np.array({}{})[::-1]",
           "np.repeat(np.array({}{}), 2, axis=0)[::2]", "np.array({}{}).T.copy().T",
           "np.repeat(np.array({}{}), 3, axis=-1)[..., ::-3]")


@st.composite
def one_statement(draw, writer):
    writer.draw = draw
    writer.pick(STATEMENTS if len(writer.variables) < MOST_VARIABLES else STORES)(writer)


@st.composite
def programs(draw):
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=2))
    if draw(st.booleans()):
        shapes.append(())
    # No two values are the same, and none is round: where values tie, the derivative is a convention and differences
    # are no oracle.
    values = iter(np.random.default_rng(draw(st.integers(0, 999))).permutation(np.arange(-149.5, 150.0)) / 100)
    dtypes = st.sampled_from(("",) * 9 + (SINGLE,))
    variables, arguments, constant = [], [], []
    for name, shape in zip("abcd", shapes, strict=False):
        constant.append(bool(shape) and name != "a" and not draw(st.integers(0, 5)))
        variables.append(Variable(name, shape, not constant[-1]))
        own = np.array(list(itertools.islice(values, math.prod(shape)))).reshape(shape).tolist()
        arguments.append(draw(st.sampled_from(LAYOUTS)).format(own, draw(dtypes)) if shape else repr(own))
    names = ", ".join(v.name for v in variables)
    w = Writer(draw, variables)
    while draw(st.integers(0, 9)):
        draw(one_statement(w))
    w.draw = draw
    terms = []
    for k, v in enumerate(w.variables):
        terms.append(f"np.dot(W[{k}:{k + math.prod(v.shape)}], {v.name}.ravel())" if v.shape else f"0.7 * {v.name}")
    w.line("return " + (" + ".join(terms)))
    source = f"def program({names}):\n" + "\n".join(w.lines) + "\n"
    return Program(HELPERS.lstrip() + "\n\n" + source if w.helpers else source, arguments, constant)
