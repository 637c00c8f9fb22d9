"""Operands that are neither numbers nor plain arrays: objects that decide, subclasses of ndarray, sparse matrices.

Who decides is NumPy's rule (__array_ufunc__, __array_priority__, else the object itself). The oracle is the plain call,
differenced; where results that carry derivatives would be another program than the plain one, a refusal says so.
"""
import datetime
import fractions
import warnings

import numpy as np
import pytest
from checks import check
from numpy.testing import assert_allclose
from scipy import sparse

from cyad import ADError, Forward, Reverse, gradient, hessian

X = np.array([1.5, 0.3])
K = np.array([2.0, 3.0])
BOTH = pytest.mark.parametrize("mode", [Forward, Reverse], ids=lambda m: m.name)


class Vector:
    """A number in a box: + - * / ** // % @ with numbers, from either side."""

    def __init__(self, c):
        self.c = c

    def __mul__(self, other):
        return Vector(self.c * other)

    def __add__(self, other):
        return Vector(self.c + other)

    __rmul__, __radd__, __rmatmul__ = __mul__, __add__, __mul__

    def __rsub__(self, other):
        return Vector(other - self.c)

    def __rtruediv__(self, other):
        return Vector(other / self.c)

    def __rpow__(self, other):
        return Vector(other**self.c)

    def __rmod__(self, other):
        return Vector(other % self.c)

    def __rfloordiv__(self, other):
        return Vector(other // self.c + other)


class Valued:
    """Its value as an array is all that NumPy needs."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.value, dtype)


class Prior(Valued):
    __array_priority__ = 10.0

    def __rmul__(self, other):
        return 7 * (other * self.value)

    def __rmatmul__(self, other):
        return 11 * (other @ self.value)


class Declines:
    __array_ufunc__ = None

    def __radd__(self, other):
        return other * 5.0

    def __rmatmul__(self, other):
        return other * 3.0


class Implements(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, value):
        self.value = value

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        inputs = [v.value if isinstance(v, Implements) else v for v in inputs]
        return Implements(getattr(ufunc, method)(*inputs, **kwargs))


class Labelled(np.ndarray):
    """A subclass with attributes, not with operators."""


class Units(np.ndarray):
    def __mul__(self, other):
        return 100 * np.multiply(np.asarray(self), other)


LABELLED = K.view(Labelled)
V = Vector(2.0)

DECIDED = {
    "number * object": lambda x: (x[0] * V).c, "object * number": lambda x: (V * x[0]).c,
    "+": lambda x: (x[0] + V).c * x[0], "-": lambda x: (x[0] - V).c, "/": lambda x: (x[0] / V).c,
    "**": lambda x: (x[0]**V).c,
    "%": lambda x: (x[0] % V).c, "//": lambda x: (x[0] // V).c, "@": lambda x: (x[0] @ V).c,
    "array * object": lambda x: (x * V)[1].c, "array + object": lambda x: (x[0] * (x + V))[1].c,
    "np.multiply": lambda x: np.multiply(x[0], V).c, "np.multiply of an array": lambda x: np.multiply(x, V)[1].c,
    "of the value's": lambda x: (x * Valued(K), x[0] * Valued(K)),
    "of an active value's": lambda x: x * Valued(x**2),
    "of priority": lambda x: (x * Prior(K), x[0] * Prior(K), x @ Prior(K)),
    "of priority, called by name": lambda x: np.multiply(x, Prior(K)),
    "that declines": lambda x: (x + Declines(), x[0] + Declines(), x @ Declines()),
    "that implements ufuncs": lambda x: ((x * Implements(K)).value, (x[0] - Implements(2.0)).value,
                                         np.sin(Implements(x[0])).value, np.multiply(x, Implements(K)).value),
    "fraction": lambda x: (x[0] * fractions.Fraction(1, 2), fractions.Fraction(1, 2) * x[0]),
    "subclass * array": lambda x: (LABELLED * x, x / LABELLED, x[0] * LABELLED, np.hypot(LABELLED, x)),
    "subclass in functions": lambda x: (np.dot(LABELLED, x), np.concatenate([LABELLED, x])),
    "subclass, chosen from": lambda x: np.where(LABELLED > 2.5, LABELLED, x),
    "operators of a subclass": lambda x: Units((2,), buffer=K) * x,
}


@pytest.mark.parametrize("name", DECIDED)
def test_operands_that_decide(name):
    check(DECIDED[name], [X])


def test_subclasses_at_second_order():
    assert_allclose(hessian(lambda x: np.sum(LABELLED * x**2) + np.dot(LABELLED, x**2), X), np.diag(4 * K))


with warnings.catch_warnings():
    warnings.simplefilter("ignore", PendingDeprecationWarning)
    MATRIX = np.matrix([[1.0, 2.0], [3.0, 4.0]])

OTHER_OPERATORS = {
    "matrix * number": lambda x: np.sum(np.asarray(MATRIX * x[0])**2),
    "number * matrix": lambda x: np.sum(x[0] * MATRIX),
    "matrix * array": lambda x: np.sum(MATRIX * x[:, None]), "array * matrix": lambda x: np.sum(x * MATRIX),
    "matrix @ array": lambda x: np.sum(MATRIX @ x), "np.dot": lambda x: np.sum(np.dot(MATRIX, x)),
    "array ** matrix": lambda x: np.sum(x**MATRIX),
    "inverse": lambda x: np.sum(np.asarray(np.linalg.inv(MATRIX) * x[0])**2),
    "np.multiply": lambda x: np.sum(np.multiply(Units((2,), buffer=K), x)),
    "array * units": lambda x: np.sum(x * Units((2,), buffer=K)),
}


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@BOTH
@pytest.mark.parametrize("name", OTHER_OPERATORS)
def test_subclasses_with_other_operators_are_refused(name, mode):
    with pytest.raises(ADError, match=r"operators of its own.*np\.asarray"):
        gradient(mode, OTHER_OPERATORS[name], X)


@pytest.mark.filterwarnings("ignore:the matrix subclass")
@BOTH
def test_what_carries_no_derivative_meets_other_operators_as_in_the_plain_run(mode):
    def f(x):
        a = np.ones((2, 2))
        b, c, d = a * MATRIX, MATRIX * a, a**2 @ MATRIX
        return x[0] * np.sum(np.asarray(b * c) + np.asarray(d * (a + MATRIX)))

    assert_allclose(gradient(mode, f, X)[0], [f(np.array([1.0, 0.0])), 0.0])


S = sparse.csr_matrix(np.eye(2) * 3)

SPARSE = {
    "sum": lambda x: (x[0] * S).sum(), "element": lambda x: (x[0] * S)[0, 0],
    "matvec": lambda x: ((x[0] * S) @ K).sum(), "sum of two": lambda x: (sparse.eye(2) + x[0] * S).sum(),
    "left": lambda x: (x @ S).sum(), "right": lambda x: (S @ x).sum(),
    "array": lambda x: (x * S).sum(), "dense": lambda x: (x + S).sum(), "np.dot": lambda x: np.dot(S, x).sum(),
    "by name": lambda x: np.sum(np.multiply(x[0], S)), "multiply": lambda x: S.multiply(x).sum(),
    "built": lambda x: sparse.csr_matrix(np.eye(2) * x[0]).sum(), "toarray": lambda x: (S / x[0]).toarray().sum(),
}


@BOTH
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_matrices_are_refused_in_words(name, mode):
    with pytest.raises(ADError, match=r"scipy\.sparse.*A\.toarray\(\)"):
        gradient(mode, SPARSE[name], X)


def test_the_data_of_sparse_matrices_carry_derivatives():
    check(lambda x: ((x[0] * S).data, np.sum((S * x[0]).data**2), S.toarray() @ x), [X])


def test_numbers_that_a_class_does_not_take():
    with pytest.raises(TypeError, match="timedelta"):
        gradient(Reverse, lambda x: (x[0] * datetime.timedelta(1)).total_seconds(), X)
