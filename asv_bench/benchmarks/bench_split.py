"""Split mode: the recorded half, a sweep of it, and what the tape takes."""
import numpy as np

from cyad import Active, Duplicated, ReverseSplitNoPrimal, autodiff_thunk

from .common import _ByHand, _Compared, ratio


def elements(x):
    s = 0.0
    for i in range(1, 1000):
        s += x[i] * x[i - 1] ** 2
    return s


def arrays(x):
    return np.sum(np.exp(-x * x) * np.sin(x))


def elements_by_hand(x):
    g, head, tail = np.zeros_like(x), x[:999], x[1:1000]
    g[1:1000] = head * head
    g[:999] += 2.0 * tail * head
    return g


def arrays_by_hand(x):
    return np.exp(-x * x) * (np.cos(x) - 2.0 * x * np.sin(x))


PROGRAMS = {"elements": (elements, elements_by_hand), "arrays": (arrays, arrays_by_hand)}


class Split(_Compared, _ByHand):
    """Both halves are the derivative; each beside the plain run, too."""

    params = [list(PROGRAMS)]
    param_names = ["program"]

    def setup(self, program):
        f, by_hand = PROGRAMS[program]
        x = np.random.default_rng(19).normal(size=2000)
        forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, f, Active, Duplicated)
        annotated = Duplicated(x, np.zeros_like(x))
        self.plain, self.by_hand = lambda: f(x), lambda: by_hand(x)
        self.forward = lambda: forward(annotated)[0]
        self.tape = self.forward()
        self.reverse = lambda tape: reverse(annotated, 1.0, tape)
        self.shadow = annotated.dval

    def derivative(self):
        self.reverse(self.forward())
        return self.shadow

    def time_forward(self, program):
        self.forward()

    def time_reverse(self, program):
        self.reverse(self.tape)

    def track_ratio_forward(self, program):
        return ratio(self.forward, self.plain)
    track_ratio_forward.unit = "times the plain run"

    def track_ratio_reverse(self, program):
        return ratio(lambda: self.reverse(self.tape), self.plain)
    track_ratio_reverse.unit = "times the plain run"

    def track_tape_bytes(self, program):
        return self.tape.nbytes
    track_tape_bytes.unit = "bytes"
