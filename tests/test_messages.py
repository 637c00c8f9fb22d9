"""What errors say: the user's function, what was met, what to do."""
import numpy as np
import pytest
from numpy.testing import assert_allclose

from cyad import (
    ActiveStoreError,
    ActivityError,
    Duplicated,
    Reverse,
    autodiff,
    gradient,
    hessian,
    make_zero,
)

X = np.array([1.0, 2.0, 3.0])


class Scaled:
    def __init__(self):
        self.kept = np.zeros(3)

    def __call__(self, x):
        self.kept[:] = 2 * x
        return np.sum(self.kept**2)


def test_messages_name_the_remedy_for_an_object_with_a_buffer():
    for f in (Scaled(), Scaled().__call__):
        with pytest.raises(ActiveStoreError, match=r"Duplicated\(obj, make_zero\(obj\)\)"):
            gradient(Reverse, f, X)
    scaled, dx = Scaled(), np.zeros(3)
    autodiff(Reverse, Duplicated(scaled, make_zero(scaled)), Duplicated(X, dx))
    assert_allclose(dx, 8 * X)


def test_messages_name_the_function_of_the_user():
    def vector(p):
        return p["x"] * 2.0

    for wrong in (lambda: gradient(Reverse, vector, {"x": X}), lambda: hessian(vector, {"x": X})):
        with pytest.raises(ActivityError) as caught:
            wrong()
        assert "vector returned" in str(caught.value) and "Call" not in str(caught.value)
