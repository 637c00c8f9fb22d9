"""Functions that NumPy computes by formulas whose derivative loses its digits, or its value, somewhere."""
import numpy as np

from cyad.rules.registry import structural
from cyad.rules.shapes import conj

# The series of d/dy (sin y / y) / y in powers of y^2: enough of it for full precision, and for four derivatives, below.
SERIES = [-1 / 3, 1 / 30, -1 / 840, 1 / 45360, -1 / 3991680, 1 / 518918400, -1 / 93405312000, 1 / 22230464256000]
SMALL = 1.0


def sinc_slope(x):
    """``d/dx sinc(x)``; the difference ``cos y - sin y / y`` cancels near 0, so there the series is summed."""
    y = np.pi * x
    small = np.less(np.abs(y), SMALL)
    far = np.where(small, 1, y)
    near = np.where(small, y, 0)
    square = near * near
    series = SERIES[-1]
    for c in SERIES[-2::-1]:
        series = series * square + c
    return np.pi * np.where(small, near * series, (np.cos(far) - np.sin(far) / far) / far)


@structural(np.sinc, operands=("x",), reads=("x",))
def sinc_rule(x):
    return np.sinc(x), lambda k: ((lambda t: sinc_slope(x) * t), (lambda g: conj(sinc_slope(x)) * g))
