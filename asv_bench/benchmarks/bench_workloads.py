"""The workloads of `peers/`, whose bars docs/performance.md has, with derivatives written by hand."""
import numpy as np
from peers.by_hand import BY_HAND
from peers.libraries import Cyad, Hand
from peers.workloads import WORKLOADS

from .common import _ByHand, _Compared, _Taped

LARGEST = 1_000_000  # beyond it only memory is of interest here
CELLS = [(w.name, size) for w in WORKLOADS.values() for size in w.sizes]


class _Workload:

    param_names = ["workload"]

    def setup(self, cell):
        name, size = cell.split(":")
        workload = WORKLOADS[name]
        problem = workload.build(int(size))
        f, argument = problem.source(np), problem.x.tolist() if workload.floats else problem.x
        self.plain = lambda: f(argument)
        if workload.floats:
            self.f, self.args = lambda *x: f(list(x)), argument
        else:
            self.f, self.args = f, (argument,)
        self.derivative = Cyad().prepare(workload, problem)
        self.by_hand = Hand().prepare(workload, problem) if name in BY_HAND else None


class Workloads(_Workload, _Compared, _Taped):
    params = [[f"{name}:{size}" for name, size in CELLS if size <= LARGEST]]


class WorkloadsByHand(_Workload, _ByHand):
    params = [[f"{name}:{size}" for name, size in CELLS if size <= LARGEST and name in BY_HAND]]


class LargeMemory(_Workload):
    """Ten million numbers: the gradient may need one array of them more than the one written by hand."""
    params = [["rosen_vec:10000000"]]

    def peakmem_derivative(self, cell):
        self.derivative()

    def peakmem_by_hand(self, cell):
        self.by_hand()

    def peakmem_plain(self, cell):
        self.plain()
