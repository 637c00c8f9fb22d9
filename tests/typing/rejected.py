"""What a type checker must refuse, line by line; test_typing.py compares. It is never run."""
import numpy as np

import cyad
import cyad.numpy


def total(x: float) -> float:
    return x * x


x = np.ones(2)

cyad.gradient("Reverse", total, 1.0)  # refused
cyad.gradient(cyad.Reverse, 3.0, 1.0)  # refused
cyad.gradient(cyad.Reverse, total, 1.0, chunk="2")  # refused
value = cyad.gradient(cyad.Reverse, total, 1.0).val  # refused
second = cyad.gradient(cyad.Reverse, total, 1.0)[1]  # refused
first: str = cyad.gradient(cyad.Reverse, total, 1.0)[0]  # refused
value = cyad.gradient(cyad.ReverseWithPrimal, total, 1.0).value  # refused
cyad.autodiff(total, cyad.Active(1.0))  # refused
only, value = cyad.autodiff(cyad.Reverse, total, cyad.Active(1.0))  # refused
cyad.Active()  # refused
cyad.Duplicated(x)  # refused
cyad.BatchDuplicated(1.0, 1.0)  # refused
cyad.MixedDuplicated([1.0], [0.0])  # refused
cyad.Reverse.primal = True  # refused
cyad.Mode()  # refused
cyad.Dual(2.0)  # refused
cyad.Dual("2", 1.0)  # refused
cyad.DualArray([1.0], [1.0])  # refused
cyad.Tape().variable("x")  # refused
cyad.Tape().sweep()  # refused
cyad.Tape().level = 2  # refused
cyad.backward(total)  # refused
cyad.numpy.zeroes(2)  # refused
cyad.gradiant(cyad.Reverse, total, 1.0)  # refused
cyad.testing.check_gradients(total, 1.0)  # refused
cyad.interop.tensorflow()  # refused
number: int = cyad.__version__  # refused
