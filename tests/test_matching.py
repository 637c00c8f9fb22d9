"""Second structures (shadows, tangents, directions, cotangents) belong to the first by key, name and position."""
import collections
import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from cyad import (
    Active,
    ActivityError,
    BatchDuplicated,
    Const,
    Duplicated,
    Forward,
    MixedDuplicated,
    Ref,
    Reverse,
    ReverseSplitNoPrimal,
    autodiff,
    autodiff_thunk,
    hvp,
    jvp,
    linearize,
    make_zero,
    vjp,
)

X = np.array([1.0, 2.0, 3.0])


class Point(NamedTuple):
    x: object
    y: object


@dataclasses.dataclass
class Layer:
    w: object
    b: object
    name: str = "layer"


class Free:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def cubic(p):
    return p["p"] ** 2 + p["q"] ** 3


def cubic_of_arrays(p):
    return p["p"][0] ** 2 + p["q"][0] ** 3


def test_tangents_go_by_key():
    y, dy = jvp(cubic, ({"p": 3.0, "q": 2.0},), ({"q": 1.0, "p": 0.0},))
    assert (y, dy) == (17.0, 12.0)
    _, push = linearize(cubic, {"p": 3.0, "q": 2.0})
    assert push({"q": 0.0, "p": 1.0}) == 6.0


def test_directions_go_by_key():
    assert hvp(cubic, {"p": 1.0, "q": 2.0}, {"q": 1.0, "p": 0.0}) == {"p": 0.0, "q": 12.0}


def test_cotangents_go_by_key():
    _, pull = vjp(lambda x: {"p": x**2, "q": [2 * x]}, X)
    assert_array_equal(pull({"q": [np.ones(3)], "p": np.zeros(3)})[0], [2.0, 2.0, 2.0])


def test_attributes_go_by_name():
    f = lambda o: o.p**2 + o.q**3
    _, dy = jvp(f, (Free(p=3.0, q=2.0),), (Free(q=1.0, p=0.0),))
    assert dy == 12.0


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict])
def test_shadows_go_by_key(kind):
    value = kind(p=np.array([3.0]), q=np.array([2.0]))
    shadow = kind(q=np.zeros(1), p=np.zeros(1))
    autodiff(Reverse, cubic_of_arrays, Active, Duplicated(value, shadow))
    assert (shadow["p"][0], shadow["q"][0]) == (6.0, 12.0)
    tangents = kind(q=np.zeros(1), p=np.ones(1)), kind(q=np.ones(1), p=np.zeros(1))
    assert autodiff(Forward, cubic_of_arrays, BatchDuplicated(value, tangents)) == ((6.0, 12.0),)


def test_numbers_of_shadows_go_by_key():
    shadow = {"q": 0.0, "p": 1.0}
    autodiff(Reverse, cubic, Active, Duplicated({"p": 3.0, "q": 2.0}, shadow))
    assert shadow == {"p": 7.0, "q": 12.0}
    ref = Ref({"q": 0.0, "p": 1.0, "note": "kept"})
    autodiff(Reverse, cubic, Active, MixedDuplicated({"p": 3.0, "q": 2.0}, ref))
    assert ref.value == {"q": 12.0, "p": 7.0, "note": "kept"}


def test_tangents_of_what_is_assigned_go_by_name():
    def f(o):
        o.p, o.q = o.q * 2.0, o.p * 5.0

    value, shadow = Free(p=1.0, q=2.0), Free(q=10.0, p=100.0)
    autodiff(Forward, f, Const, Duplicated(value, shadow))
    assert (value.p, value.q, shadow.p, shadow.q) == (4.0, 5.0, 20.0, 500.0)


def test_split_halves_go_by_key():
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, cubic_of_arrays, Active)
    value = {"p": np.array([3.0]), "q": np.array([2.0])}
    tape = forward(Duplicated(value, make_zero(value)))[0]
    shadow = {"q": np.zeros(1), "p": np.zeros(1)}
    # The value of the reverse half is not read: neither is its order.
    reverse(Duplicated({"q": np.zeros(1), "p": np.zeros(1)}, shadow), 1.0, tape)
    assert (shadow["p"][0], shadow["q"][0]) == (6.0, 12.0)


def test_the_returned_shadow_goes_by_key():
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: {"p": x**2, "q": 2 * x}, Duplicated)
    dx = np.zeros(3)
    tape, _, shadow = forward(Duplicated(X, dx))
    shadow["p"] = shadow.pop("p")   # at the end, now
    shadow["q"][:] = 1.0
    reverse(Duplicated(X, dx), tape)
    assert_array_equal(dx, [2.0, 2.0, 2.0])
    del shadow["q"]
    with pytest.raises(ActivityError, match="the returned shadow of .* has no entry 'q'"):
        reverse(Duplicated(X, dx), tape)


WRONG = [
    ({"k": 2.0}, {"misspelt": 5.0}, "no entry 'k', which the argument has .but 'misspelt'"),
    ({"k": 2.0}, {"k": 1.0, "more": 5.0}, "has the entry 'more', which the argument has not"),
    ({"k": 2.0}, [5.0], "is a list, the argument a dict"),
    ({"k": 2.0}, {"k": [5.0]}, r"at \['k'\] is a list, the argument a float"),
    ({"k": [2.0]}, {"k": 5.0}, r"at \['k'\] is a float, the argument a list"),
    ({"k": X}, {"k": [1.0, 2.0, 3.0]}, r"at \['k'\] is a list, the argument an array"),
    ({"k": 2.0, "n": 3}, {"k": 2.0, "n": 1.0}, r"at \['n'\] is a float, which has a derivative"),
    ([1.0, 2.0], [1.0], "has length 1, the argument 2"),
    ([1.0, 2.0], (1.0, 2.0), "is a tuple, the argument a list"),
    (Point(1.0, 2.0), (1.0, 2.0), "is a tuple, the argument a Point"),
    ({"k": 1.0}, collections.OrderedDict(k=1.0), "is an OrderedDict, the argument a dict"),
    (Free(a=1.0), Free(b=1.0), "no attribute 'a', which the argument has .but 'b'"),
    (Free(a=[1.0, {"b": X}]), Free(a=[1.0, {"c": X}]), r"at .a\[1\] has no entry 'b'"),
    (Layer(X, 1.0), Free(w=X, b=1.0), "is a Free, the argument a Layer"),
    ({"k": X}, {"k": np.ones(2)}, r"at \['k'\] has shape \(2,\), the argument there \(3,\)"),
    ({"k": 1.0}, {"k": None}, r"at \['k'\] is None, the argument a float"),
    ({"k": 1.0}, {"k": "1.0"}, r"at \['k'\] is a str, the argument a float"),
    ({"k": 1.0}, {"k": 1j}, r"at \['k'\] is complex"),
]


def total(value):
    """A function of every number of a structure."""
    if isinstance(value, (float, np.ndarray)):
        return np.sum(value)
    if isinstance(value, (str, int)):
        return 0.0
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else \
        vars(value).values()
    return sum(total(v) for v in parts)


@pytest.mark.parametrize(("value", "other", "message"), WRONG)
def test_other_structures_are_refused(value, other, message):
    with pytest.raises(ActivityError, match=message):
        jvp(total, (value,), (other,))
    with pytest.raises(ActivityError, match=message):
        hvp(lambda v: total(v) ** 2, value, other)
    with pytest.raises(ActivityError, match=message.replace("argument", "its result").replace("the its", "its")):
        vjp(lambda x: value, X)[1](other)


@pytest.mark.parametrize(("value", "other"), [(v, o) for v, o, m in WRONG if "complex" not in m and "shape" not in m])
def test_shadows_of_other_structures_are_refused(value, other):
    with pytest.raises(ActivityError, match="the shadow of argument 1 of total"):
        autodiff(Forward, total, Duplicated(value, other))
    with pytest.raises(ActivityError, match="the shadow of argument 1 of total"):
        autodiff(Reverse, total, Active, MixedDuplicated(value, Ref(other)))


@pytest.mark.parametrize("given", [None, "s", np.array(["a", "b", "c"])])
def test_what_is_no_number_is_no_tangent(given):
    for primal in (2.0, X):
        with pytest.raises(ActivityError, match="the tangent for argument 1"):
            jvp(lambda x: x * 2.0, (primal,), (given,))
        with pytest.raises(ActivityError, match="the direction of hvp"):
            hvp(lambda x: np.sum(x**2), primal, given)
        with pytest.raises(ActivityError, match="the cotangent of"):
            vjp(lambda x: x * 2.0, primal)[1](given)


def test_integers_are_tangents_of_floats():
    assert jvp(lambda p: p["a"] ** 2, ({"a": 3.0},), ({"a": 1},))[1] == 6.0
    assert jvp(lambda a: a**2, (3.0,), (1,))[1] == 6.0
    assert_array_equal(jvp(lambda p: p[0] ** 2, ([X],), ([np.array([1, 0, 0])],))[1], [2.0, 0.0, 0.0])


def test_what_is_inactive_may_differ_or_be_left_out():
    value = {"w": 3.0, "name": "layer", "n": 3}
    assert jvp(lambda p: p["w"] ** 2, (value,), ({"w": 1.0},))[1] == 6.0
    assert jvp(lambda p: p["w"] ** 2, (value,), ({"n": 0, "name": None, "w": 1.0},))[1] == 6.0


def test_a_result_in_two_places_takes_two_cotangents():
    y, pull = vjp(lambda x: (x * 2.0,) * 2, X)
    assert y[0] is y[1]
    assert_array_equal(pull((np.ones(3), 2 * np.ones(3)))[0], [6.0, 6.0, 6.0])
    w = np.ones(3)
    assert_array_equal(pull((w, w))[0], [4.0, 4.0, 4.0])
    _, pull = vjp(lambda x: [[x[0] ** 2, x[1]]] * 2, X)   # one list in two places
    assert_array_equal(pull([[1.0, 0.0], [2.0, 5.0]])[0], [6.0, 5.0, 0.0])
    assert_array_equal(pull([[1.0, 1.0]] * 2)[0], [4.0, 2.0, 0.0])


def test_an_array_in_two_places_has_one_tangent():
    f = lambda p: np.sum(p["a"] * p["b"])
    one, same = np.ones(3), {"a": X, "b": X}
    assert jvp(f, (same,), ({"a": one, "b": one},))[1] == 12.0
    assert jvp(f, (same,), ({"a": one, "b": one.copy()},))[1] == 12.0
    with pytest.raises(ActivityError, match=r"different values at \['a'\] and \['b'\], where the argument is one"):
        jvp(f, (same,), ({"a": one, "b": 2 * one},))
    with pytest.raises(ActivityError, match="where the value is one array"):
        autodiff(Reverse, f, Active, Duplicated(same, {"a": np.zeros(3), "b": np.zeros(3)}))
    zero = np.zeros(3)
    with pytest.raises(ActivityError, match=r"one ndarray at \['a'\] and at \['b'\], where the value has two"):
        autodiff(Reverse, f, Active, Duplicated({"a": X, "b": X.copy()}, {"a": zero, "b": zero}))
    assert_allclose(jvp(f, ({"a": X, "b": X.copy()},), ({"a": one, "b": one},))[1], 12.0)


def test_circles_are_followed_once():
    value, tangent = {"a": 3.0}, {"a": 1.0}
    value["self"], tangent["self"] = value, tangent
    assert jvp(lambda p: p["self"]["a"] * p["a"], (value,), (tangent,))[1] == 6.0
