"""Results that are structures: tangents and primals like them, without tracked values, in forward mode."""
import collections
import dataclasses
from typing import NamedTuple

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cyad import (
    ActivityError,
    Adjoint,
    BatchDuplicated,
    Const,
    Dual,
    DualArray,
    Duplicated,
    Forward,
    ForwardWithPrimal,
    Reverse,
    autodiff,
    gradient,
    jvp,
    vjp,
)
from cyad._structures import flatten

X = np.array([1.0, 2.0, 3.0])


@dataclasses.dataclass(frozen=True)
class Frozen:
    y: object
    name: str = "result"


class Plain:
    def __init__(self, y, name="result"):
        self.y, self.name = y, name


class Pair(NamedTuple):
    y: object
    name: object


KINDS = {
    "dataclass": lambda y: Frozen(y),
    "object": lambda y: Plain(y),
    "in a tuple": lambda y: (Plain(y), 1.0),
    "in a dict": lambda y: {"r": Frozen([y])},
    "ordered": lambda y: collections.OrderedDict(y=y),
    "default": lambda y: collections.defaultdict(list, y=y),
    "deque": lambda y: collections.deque([y]),
    "named": lambda y: Pair(Plain(y), "x"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_tangents_have_the_structure_of_the_result(kind):
    make = KINDS[kind]
    for f, x, dx, want in ((lambda x: make(x**2), X, np.ones(3), 2 * X), (lambda x: make(x**3), 2.0, 1.0, 12.0)):
        dy, y = autodiff(ForwardWithPrimal, f, Duplicated(x, dx))
        assert type(dy) is type(y) is type(make(0.0))
        for part in (*flatten(dy)[0], *flatten(y)[0]):
            assert type(part) not in (Dual, DualArray, Adjoint)
        assert_allclose(flatten(dy)[0][0], want)
        assert_allclose(flatten(y)[0][0], flatten(f(x))[0][0])
        lanes = autodiff(Forward, f, BatchDuplicated(x, (dx, 2 * dx)))[0]
        assert_allclose(flatten(lanes[1])[0][0], 2 * want)
    assert autodiff(Forward, f, Const, Duplicated(2.0, 1.0)) == ()


def test_what_is_inactive_in_a_result_object_stays():
    dy, y = autodiff(ForwardWithPrimal, lambda x: Plain(x * 2.0), Duplicated(X, np.ones(3)))
    assert dy.name == y.name == "result"


def test_derivatives_of_results_inside_objects_nest():
    def slope(x):
        return autodiff(Forward, lambda t: Frozen(t**3), Duplicated(x, 1.0))[0].y

    assert autodiff(Forward, slope, Duplicated(2.0, 1.0))[0] == 12.0
    assert gradient(Reverse, slope, 2.0) == (12.0,)


HIDDEN = {   # results from which tracked values would come out later, and what to return instead
    "objects": (lambda x: np.array([x[0] * 2, x[1]], dtype=object), "floats"),
    "objects in a list": (lambda x: [np.array([x[0] * 2, None], dtype=object)], "floats"),
    "set": (lambda x: {x[0], x[1]}, "list"), "frozenset": (lambda x: (frozenset({x[0]}),), "list"),
    "values": (lambda x: {"a": x[0]}.values(), "list"), "items": (lambda x: {"a": x[0]}.items(), "list"),
    "zip": (lambda x: zip(x, x, strict=True), "list"), "map": (lambda x: map(abs, x), "list"),
    "generator": (lambda x: (v for v in x), "list"), "flat": (lambda x: x.flat, "ravel"),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_results_that_keep_tracked_values_out_of_sight_are_refused(name):
    f, remedy = HIDDEN[name]
    for call in (lambda: autodiff(Forward, f, Duplicated, Duplicated(X, np.ones(3))),
                 lambda: autodiff(ForwardWithPrimal, f, Const, Duplicated(X, np.ones(3))),
                 lambda: jvp(f, (X,), (np.ones(3),)), lambda: vjp(f, X)):
        with pytest.raises(ActivityError, match=remedy):
            call()


def test_plain_sets_and_views_are_results():
    f = (lambda x: ({1.0, 2.0}, {"a": 1.0}.keys(), np.array([None, 1.0], dtype=object), x[0]))
    dy, y = autodiff(ForwardWithPrimal, f, Duplicated, Duplicated(X, np.ones(3)))
    assert dy[3] == 1.0 and y[0] == {1.0, 2.0} and list(y[1]) == ["a"] and y[2][1] == 1.0
