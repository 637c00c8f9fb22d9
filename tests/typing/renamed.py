"""NumPy by another name, which test_typing.py gives to a type checker and to the interpreter."""
from typing import assert_type

import numpy

import cyad
import cyad.numpy as np

x: np.typing.NDArray[numpy.float64] = numpy.array([1.0, 2.0])


def through_scratch(x: np.typing.NDArray[np.float64]) -> float:
    work = np.zeros_like(x)
    work[:] = np.exp(x)
    norm: float = np.linalg.norm(work).item()
    return norm


assert_type(np.zeros(2).dtype, numpy.dtype[numpy.float64])
assert_type(cyad.numpy.zeros(2).dtype, numpy.dtype[numpy.float64])
assert_type(cyad.gradient(cyad.Reverse, through_scratch, x), tuple[numpy.typing.NDArray[numpy.float64]])
