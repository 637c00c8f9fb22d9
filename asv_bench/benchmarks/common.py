"""What the benchmarks share. asv passes over names with an underscore."""
import statistics
import time

import numpy as np

import cyad

BUDGET, MOST_PAIRS = 0.1, 25


def seconds(f):
    start = time.process_time()
    f()
    return time.process_time() - start


def ratio(derivative, plain):
    """Median of t(derivative) / t(plain), the two in turn, of processor time: what other programs do falls on both."""
    derivative(), plain()
    calls = max(1, round(1e-3 / max(seconds(plain), 1e-6)))

    def block(f):
        return seconds(lambda: [f() for _ in range(calls)])

    pairs, begin = [], time.process_time()
    while len(pairs) < 3 or time.process_time() - begin < BUDGET and len(pairs) < MOST_PAIRS:
        pairs.append(block(derivative) / block(plain))
    return statistics.median(pairs)


def tape_bytes(f, args):
    """Of records and constants of one call; what arrays the tape refers to, peak memory shows."""
    with cyad.Tape() as tape:
        tape.call(f, [tape.variable(a) for a in args], {})
        return tape.nbytes


class _Compared:
    """Subclasses have `plain` and `derivative`, functions of no arguments; the latter returns what it computes."""

    def time_plain(self, *params):
        self.plain()

    def time_derivative(self, *params):
        self.derivative()

    def track_ratio(self, *params):
        return ratio(self.derivative, self.plain)
    track_ratio.unit = "times the plain run"

    def peakmem_plain(self, *params):
        self.plain()

    def peakmem_derivative(self, *params):
        self.derivative()


class _ByHand:
    """Beside _Compared, where there is `by_hand`, too, which returns what `derivative` does (tests/test_peers.py)."""

    def time_by_hand(self, *params):
        self.by_hand()

    def track_ratio_by_hand(self, *params):
        return ratio(self.by_hand, self.plain)
    track_ratio_by_hand.unit = "times the plain run"

    def peakmem_by_hand(self, *params):
        self.by_hand()


class _Gradient(_Compared, _ByHand):
    """Subclasses set `f`, `args` and `by_hand` in setup."""

    mode = cyad.Reverse

    def plain(self):
        self.f(*self.args)

    def derivative(self):
        return cyad.gradient(self.mode, self.f, *self.args)


class _Taped:
    """Subclasses set `f` and `args` in setup."""

    def track_tape_bytes(self, *params):
        return tape_bytes(self.f, self.args)
    track_tape_bytes.unit = "bytes"


class _ReverseGradient(_Gradient, _Taped):

    def take(self, problem, by_hand):
        """In setup, instead: function, data and derivative by hand of a workload of `peers`."""
        self.f, self.args, self.by_hand = problem.source(np), (problem.x,), by_hand(problem)
