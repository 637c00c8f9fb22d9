"""Functions that NumPy computes by formulas whose derivative loses its digits, or its value, somewhere."""
import math

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


# The modified Bessel function I1, without SciPy. Below FAR the power series of I1(x)/x in (x/2)^2 (DLMF 10.25.2), of
# which every term and every term of its derivatives is positive; above, the asymptotic one in 1/x (DLMF 10.40.1). Both
# have terms enough for full precision, and for the derivatives of the next orders.
FAR = 25.0
BESSEL_SERIES = [0.5 / (math.factorial(k) * math.factorial(k + 1)) for k in range(44)]
BESSEL_TAIL = [math.prod((2 * j - 1) ** 2 - 4 for j in range(1, k + 1)) / (math.factorial(k) * 8**k) for k in range(31)]


def horner(coefficients, x):
    total = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total


def i0_slope(x):
    """``d/dx np.i0(x)``: np.i0 itself goes through |x|, and its derivatives at 0 would see a kink."""
    size = np.absolute(x)
    small = np.less(size, FAR)
    near = np.where(small, x, 0)
    result = near * horner(BESSEL_SERIES, near * near * 0.25)
    if np.all(small):
        return result
    size = np.where(small, FAR, size)
    far = np.exp(size) / np.sqrt(2 * np.pi * size) * horner(BESSEL_TAIL, 1 / size)
    return np.where(small, result, np.sign(x) * far)


@structural(np.i0, operands=("x",), reads=("x",))
def i0_rule(x):
    return np.i0(x), lambda k: ((lambda t: i0_slope(x) * t), (lambda g: i0_slope(x) * g))
