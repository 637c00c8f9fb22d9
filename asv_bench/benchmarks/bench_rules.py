"""Calls of primitives with rules, beside the same rules called by hand: what finding and serving a rule costs."""
import numpy as np

import cyad
from cyad import Active, Duplicated, Forward, Reverse, autodiff, rules

from .common import _Compared


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


class PrimitiveCalls:
    """A thousand calls on an array of three numbers."""

    params = [1000]
    param_names = ["calls"]

    def setup(self, calls):
        self.f, self.forward, self.augmented, self.reverse = _primitive()
        self.x, self.dx = np.ones(3), np.zeros(3)
        self.annotated = Duplicated(self.x, self.dx)

        def many(x):
            for _ in range(calls):
                s = self.f(x)
            return s
        self.many = many

    def time_forward(self, calls):
        autodiff(Forward, self.many, self.annotated)

    def time_forward_by_hand(self, calls):
        for _ in range(calls):
            self.forward(None, None, None, self.annotated)

    def time_reverse(self, calls):
        autodiff(Reverse, self.many, Active, self.annotated)

    def time_reverse_by_hand(self, calls):
        for _ in range(calls):
            self.augmented(None, None, None, self.annotated)
        for _ in range(calls):
            self.reverse(None, None, None, None, self.annotated)

    def time_plain(self, calls):
        self.many(self.x)


class ImportedRules(_Compared):
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
        self.plain = lambda: many(energy, x)
        self.derivative = lambda: cyad.gradient(Reverse, lambda x: many(imported, x), x)
