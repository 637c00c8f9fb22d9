"""Split mode: the recorded half, a sweep of it, and what the tape takes."""
import numpy as np

from cyad import Active, Duplicated, ReverseSplitNoPrimal, autodiff_thunk

from .common import ratio


class Split:

    params = [["elements", "arrays"]]
    param_names = ["program"]

    def setup(self, program):
        self.x = np.random.default_rng(19).normal(size=2000)

        def elements(x):
            s = 0.0
            for i in range(1, 1000):
                s += x[i] * x[i - 1] ** 2
            return s

        def arrays(x):
            return np.sum(np.exp(-x * x) * np.sin(x))
        self.f = {"elements": elements, "arrays": arrays}[program]
        self.forward, self.reverse = autodiff_thunk(ReverseSplitNoPrimal, self.f, Active, Duplicated)
        self.annotated = Duplicated(self.x, np.zeros_like(self.x))
        self.tape = self.forward(self.annotated)[0]

    def both(self):
        tape = self.forward(self.annotated)[0]
        self.reverse(self.annotated, 1.0, tape)

    def time_plain(self, program):
        self.f(self.x)

    def time_forward(self, program):
        self.forward(self.annotated)

    def time_reverse(self, program):
        self.reverse(self.annotated, 1.0, self.tape)

    def track_ratio(self, program):
        return ratio(self.both, lambda: self.f(self.x))
    track_ratio.unit = "times the plain run"

    def peakmem_both(self, program):
        self.both()

    def track_tape_bytes(self, program):
        return self.tape.nbytes
    track_tape_bytes.unit = "bytes"
