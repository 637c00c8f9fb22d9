"""What the benchmarks share. asv passes over names with an underscore."""
import statistics
import time

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
    """Subclasses set `plain` and `derivative`, functions of no arguments, in setup."""

    def time_plain(self, *params):
        self.plain()

    def time_derivative(self, *params):
        self.derivative()

    def track_ratio(self, *params):
        return ratio(self.derivative, self.plain)
    track_ratio.unit = "times the plain run"

    def peakmem_derivative(self, *params):
        self.derivative()


class _ByHand:
    """Beside _Compared, where setup sets `by_hand` as well."""

    def time_by_hand(self, *params):
        self.by_hand()

    def track_ratio_by_hand(self, *params):
        return ratio(self.by_hand, self.plain)
    track_ratio_by_hand.unit = "times the plain run"


class _Gradient(_Compared):
    """Subclasses set `f` and `args` in setup."""

    mode = cyad.Reverse

    def plain(self):
        self.f(*self.args)

    def derivative(self):
        cyad.gradient(self.mode, self.f, *self.args)


class _Taped:
    """Subclasses set `f` and `args` in setup."""

    def track_tape_bytes(self, *params):
        return tape_bytes(self.f, self.args)
    track_tape_bytes.unit = "bytes"


class _ReverseGradient(_Gradient, _Taped):
    pass
