"""Calls of primitives with rules, beside the same rules called by hand: what finding and serving a rule costs."""
import numpy as np

import cyad
from cyad import Active, Duplicated, Forward, Reverse, autodiff, rules

from .common import _ByHand, _Compared, _Taped, ratio


def _primitive():
    @cyad.primitive
    def f(x):
        return 1.0

    def forward(config, func, RT, x: Duplicated):
        return Duplicated(1.0, 2.0)

    def augmented(config, func, RT, x: Duplicated):
        return rules.AugmentedReturn(1.0, None, None)

    def reverse(config, func, dret, tape, x: Duplicated):
        return (None,)

    rules.forward(f)(forward)
    rules.augmented_primal(f)(augmented)
    rules.reverse(f)(reverse)
    return f, forward, augmented, reverse


class PrimitiveCalls(_Taped):
    """A thousand calls on an array of three numbers."""

    params = [1000]
    param_names = ["calls"]

    def setup(self, calls):
        f, self.forward, self.augmented, self.reverse = _primitive()
        x = np.ones(3)
        self.annotated = Duplicated(x, np.zeros(3))

        def many(x):
            for _ in range(calls):
                s = f(x)
            return s
        self.f, self.args = many, (x,)

    def time_forward(self, calls):
        autodiff(Forward, self.f, self.annotated)

    def time_forward_by_hand(self, calls):
        for _ in range(calls):
            self.forward(None, None, None, self.annotated)

    def track_ratio_forward(self, calls):
        return ratio(lambda: self.time_forward(calls), lambda: self.time_forward_by_hand(calls))
    track_ratio_forward.unit = "times the rules by hand"

    def time_reverse(self, calls):
        autodiff(Reverse, self.f, Active, self.annotated)

    def time_reverse_by_hand(self, calls):
        for _ in range(calls):
            self.augmented(None, None, None, self.annotated)
        for _ in range(calls):
            self.reverse(None, None, None, None, self.annotated)

    def track_ratio_reverse(self, calls):
        return ratio(lambda: self.time_reverse(calls), lambda: self.time_reverse_by_hand(calls))
    track_ratio_reverse.unit = "times the rules by hand"

    def peakmem_reverse(self, calls):
        self.time_reverse(calls)

    def time_plain(self, calls):
        self.f(*self.args)


class ImportedRules(_Compared, _ByHand, _Taped):
    """A rule in the style of ChainRules, imported, beside the plain function."""

    params = [1000]
    param_names = ["calls"]

    def setup(self, calls):
        def energy(x):
            return np.sum(x * x)

        @cyad.rrule(energy)
        def energy_rrule(x):
            return energy(x), lambda dy: (cyad.NoTangent(), 2.0 * dy * x)

        imported, x = cyad.import_rrule(energy), np.ones(3)

        def many(f, x):
            s = 0.0
            for _ in range(calls):
                s += f(x)
            return s

        def by_hand():
            g = np.zeros_like(x)
            for _ in range(calls):
                g += 2.0 * x
            return g
        self.f, self.args, self.by_hand = lambda x: many(imported, x), (x,), by_hand
        self.plain = lambda: many(energy, x)
        self.derivative = lambda: cyad.gradient(Reverse, self.f, x)
