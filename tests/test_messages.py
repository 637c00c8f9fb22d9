"""What errors say: the user's function, what was met, what to do."""
import numpy as np
import pytest
from numpy.testing import assert_allclose

import cyad
from cyad import (
    ActiveStoreError,
    ActivityError,
    Const,
    Duplicated,
    Forward,
    Reverse,
    autodiff,
    grad,
    gradient,
    hessian,
    hvp,
    jacobian,
    jvp,
    make_zero,
    vjp,
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


TRANSFORMS = ["grad", "value_and_grad", "jacfwd", "jacrev", "derivative", "second_derivative", "hessian"]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_have_the_names_that_users_know(name):
    transform = getattr(cyad, name)

    def f(x):
        return x**2

    assert repr(transform(f)) == f"<{name} of {f.__qualname__}>"
    with pytest.raises(ActivityError, match=f"^{name} needs a function to differentiate, not an int"):
        transform(3)


@pytest.mark.parametrize("who", [jvp, vjp])
def test_operators_without_a_function(who):
    with pytest.raises(ActivityError, match=f"^{who.__name__} needs a function"):
        who(3, (1.0,), (1.0,))


def test_an_array_after_the_function_is_no_argnums():
    with pytest.raises(ActivityError, match=r"^grad\(f\) is a function, .* grad\(f\)\(x\)"):
        grad(np.sum, X)
    with pytest.raises(ActivityError, match="got a float"):
        grad(np.sum, 2.0)


def test_sets_have_no_order():
    with pytest.raises(ActivityError, match="is a set, whose entries have no order"):
        grad(sum)({1.0, 2.0})


def test_out_for_a_number_is_none():
    f = lambda a, x: a * np.sum(x)
    out = np.zeros(3)
    with pytest.raises(ActivityError, match="out= has an array .* for argument 1 of .* a number, .*pass None"):
        gradient(Reverse, f, 2.0, X, out=(np.zeros(1), out))
    assert gradient(Reverse, f, 2.0, X, out=(None, out))[0] == 6.0
    assert_allclose(out, 2.0)
    with pytest.raises(ActivityError, match="out= takes an array for each argument .* got 1 for 2 arguments"):
        jacobian(Reverse, f, 2.0, X, out=(None, out))


@pytest.mark.parametrize("call", [
    lambda s: gradient(Reverse, lambda s: 1.0, s),
    lambda s: gradient(Forward, lambda s: 1.0, s),
    lambda s: grad(lambda s: 1.0)(s),
    lambda s: jacobian(Forward, lambda s: X, s),
    lambda s: hessian(lambda s: 1.0, s),
    lambda s: hvp(lambda s: 1.0, s, s),
    lambda s: vjp(lambda s: X, s),
    lambda s: jvp(lambda s: X, (s,), (s,)),
])
@pytest.mark.parametrize("structure", [{"n": 3}, [np.arange(3), "name"], []], ids=["dict", "list", "empty"])
def test_structures_without_floats_have_no_gradient(call, structure):
    with pytest.raises(ActivityError, match="there is no float and no array of floats in the arguments"):
        call(structure)


def test_a_structure_without_floats_next_to_a_float():
    derivs = gradient(Reverse, lambda s, x: s["n"] * x, {"n": 3}, 2.0)
    assert derivs == ({"n": 3}, 3.0)
    assert gradient(Reverse, lambda x: 1.0, Const({"n": 3})) == (None,)
    with pytest.raises(ActivityError, match="hvp is by the argument after the function, which is Const"):
        hvp(lambda x: x**2, Const(2.0), 1.0)


def test_the_gradient_at_a_complex_number_has_its_precision():
    f = lambda z: (z * z.conjugate()).real
    for number, kind in ((np.complex64(1 + 2j), np.complex64), (1 + 2j, complex)):
        for mode in (Reverse, Forward):
            (g,) = gradient(mode, f, number)
            assert g == 2 + 4j and isinstance(g, kind)
    assert type(grad(f)(np.complex64(1 + 2j))) is np.complex64
