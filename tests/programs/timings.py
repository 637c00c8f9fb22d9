"""What derivatives of the programs in this folder cost, as multiples of the plain run: prints a Markdown table.

    python tests/programs/timings.py [NAME ...]
    python tests/programs/timings.py --page docs/programs.md     # the page: loops, large arrays, all programs

A gradient and the plain run are timed in turn in this process, each on fresh copies of the arguments (made outside the
timed part); a ratio is the median over the rounds. A forward gradient costs a tangent for each input, so it is timed up
to 1,000 inputs only.
"""
import copy
import math
import os
import platform
import statistics
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}   # read when NumPy is imported

import numpy as np
from test_programs import NAMES, annotated, load

import cyad

SECONDS, LEAST_ROUNDS, MOST_FORWARD_INPUTS = 1.0, 5, 1000


def seconds(f, args):
    args = copy.deepcopy(args)
    start = time.thread_time()   # which other processes do not add to
    f(*args)
    return time.thread_time() - start


def timed_in_turn(functions, args):
    """Rows of seconds, the functions in turn within a row; the first row is not counted."""
    rows, begin = [], time.perf_counter()
    while len(rows) <= LEAST_ROUNDS or time.perf_counter() - begin < SECONDS and len(rows) <= 200:
        rows.append([seconds(f, args) for f in functions])
    return rows[1:]


def row(name):
    module = load(name)
    args = module.arguments(module.SIZES[1])
    inputs = sum(np.size(args[k]) for k in module.ACTIVE)

    def gradient(mode):
        return lambda *args: cyad.gradient(mode, module.program, *annotated(module, args))

    def ratio(mode):
        rows = timed_in_turn([gradient(mode), module.program], args)
        return statistics.median(t / plain for t, plain in rows), statistics.median(plain for _, plain in rows)

    reverse, plain = ratio(cyad.Reverse)
    forward = f"{ratio(cyad.Forward)[0]:.1f}" if inputs <= MOST_FORWARD_INPUTS else "-"
    return f"| {name} | {inputs} | {plain * 1e3:.2f} ms | {reverse:.2f} | {forward} |"


# ---- loops over elements, and programs of large arrays ---------------------------------------------------------------

N, LARGE = 2000, 10**5
C, CM, CL = (np.random.default_rng(1).uniform(0.1, 1.0, shape) for shape in (N, (50, 40), LARGE))
LOOPS, ARRAYS = {}, {}


def loop(f):
    LOOPS[f.__name__] = f


def arrays(f):
    ARRAYS[f.__name__] = f


@loop
def weighted_sum(x):
    s = 0.0
    for i in range(N):
        s += C[i] * x[i]
    return s


@loop
def rosenbrock(x):
    s = 0.0
    for i in range(N - 1):
        s += 100.0 * (x[i + 1] - x[i] ** 2) ** 2 + (1.0 - x[i]) ** 2
    return s


@loop
def quadratic_form(x):
    s = 0.0
    for i in range(50):
        for j in range(40):
            s += CM[i, j] * x[i] * x[j]
    return s


@loop
def filter_in_place(x):
    y = np.zeros(N)
    for i in range(1, N):
        y[i] = 0.5 * y[i - 1] + C[i] * x[i]
    return y[N - 1]


@loop
def branches(x):
    s = 0.0
    for i in range(N):
        if x[i] > C[i]:
            s += x[i] * C[i]
        else:
            s -= C[i] / x[i]
    return s


def sines_of(library):
    def f(x):
        s = 0.0
        for i in range(N):
            s += library.sin(x[i]) * C[i]
        return s
    return f


LOOPS |= {"sines_of_math": sines_of(math), "sines_of_numpy": sines_of(np)}


@arrays
def weighted_sines(x):
    return np.sum(np.sin(x) * CL + x**2)


@arrays
def smoothing_in_place(x):
    u = x.copy()
    for _ in range(10):
        u[1:-1] = 0.25 * u[:-2] + 0.5 * u[1:-1] + 0.25 * u[2:]
    return np.sum(u * u)


@arrays
def bells_and_a_maximum(x):
    return np.sum(np.exp(-x * x) / (1.0 + x)) + np.max(x)


@arrays
def masked_powers(x):
    return np.sum(np.where(x > 0.5, x**2.5, np.log1p(x))) / np.std(x)


@arrays
def dot_and_norm(x):
    return np.dot(x, CL) + np.linalg.norm(x)


def small_row(name, f, n):
    x = np.random.default_rng(2).uniform(0.1, 1.1, n)
    rows = timed_in_turn([lambda x: cyad.gradient(cyad.Reverse, f, x), f], (x,))
    plain = statistics.median(p for _, p in rows)
    return f"| {name} | {n} | {plain * 1e3:.2f} ms | {statistics.median(t / p for t, p in rows):.2f} |"


# ---- the page --------------------------------------------------------------------------------------------------------

HEAD = """# What gradients cost

Made by `python tests/programs/timings.py --page docs/programs.md`; do not edit. {machine}

Each figure is the time of a gradient over that of the plain run, timed in turn in one process on fresh copies of the
arguments, the median over the rounds. Your figures will differ: run the command.

## Loops over elements

Loops of 2,000 rounds, some over arrays that the function captures. The bound is 1.5 times the plain run.

| loop | inputs | plain run | reverse gradient / plain |
|---|--:|--:|--:|
{loops}

## Programs of large arrays

Of 100,000 elements. The bound is 5 times the plain run.

| program | inputs | plain run | reverse gradient / plain |
|---|--:|--:|--:|
{arrays}

More took here: {large_above}. The plain run of `dot_and_norm` reads two arrays that fit into the cache and writes
nothing, where its gradient makes arrays of that size.

## Whole programs

The programs of [tests/programs](../tests/programs), written as people write them. A forward gradient costs a tangent
for each input; it is timed up to 1,000 inputs.

| program | inputs | plain run | reverse gradient / plain | forward gradient / plain |
|---|--:|--:|--:|--:|
{programs}

More than 5 times the plain run took here: {above}; longest took {longest}. What
takes long is, as a rule, array operations on small blocks and short rows, where the plain run is dispatch and the
gradient makes, sweeps and frees a node for each.
"""


def reverse_ratios(rows):
    """The reverse gradient over the plain run, by name, the longest first."""
    cells = [[cell.strip() for cell in line.split("|")] for line in rows]
    return dict(sorted(((f"`{name}`", float(ratio)) for _, name, _, _, ratio, *_ in cells), key=lambda item: -item[1]))


def text(machine, loops, large, programs):
    """The page, of the lines of its tables."""
    above = lambda ratios: ", ".join(name for name, ratio in ratios.items() if ratio > 5.0) or "none"
    ratios = reverse_ratios(programs)
    return HEAD.format(machine=machine, loops="\n".join(loops), arrays="\n".join(large), programs="\n".join(programs),
                       large_above=above(reverse_ratios(large)), above=above(ratios), longest=", ".join([*ratios][:3]))


def page():
    machine = (f"Here: {platform.machine()},\nCPython {platform.python_version()}, NumPy {np.__version__}, "
               "one thread; a shared machine: trust ratios, not digits.")
    return text(machine, [small_row(name, f, N) for name, f in LOOPS.items()],
                [small_row(name, f, LARGE) for name, f in ARRAYS.items()], [row(name) for name in NAMES])


def main(names):
    print("| program | inputs | plain run | reverse gradient / plain | forward gradient / plain |")
    print("|---|--:|--:|--:|--:|")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--page"]:
        Path(sys.argv[2]).write_text(page())
    else:
        main(sys.argv[1:] or NAMES)
