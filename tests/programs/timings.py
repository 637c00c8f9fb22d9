"""What derivatives of the programs in this folder cost, as multiples of the plain run: prints a Markdown table.

    python tests/programs/timings.py [NAME ...]

A gradient and the plain run are timed in turn in this process, each on fresh copies of the arguments (made outside the
timed part); a ratio is the median over the rounds. A forward gradient costs a tangent for each input, so it is timed up
to 1,000 inputs only.
"""
import copy
import statistics
import sys
import time

import numpy as np
from test_programs import NAMES, annotated, load

import cyad

SECONDS, LEAST_ROUNDS, MOST_FORWARD_INPUTS = 1.0, 5, 1000


def seconds(f, args):
    args = copy.deepcopy(args)
    start = time.perf_counter()
    f(*args)
    return time.perf_counter() - start


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


def main(names):
    print("| program | inputs | plain run | reverse gradient / plain | forward gradient / plain |")
    print("|---|--:|--:|--:|--:|")
    for name in names:
        print(row(name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or NAMES)
