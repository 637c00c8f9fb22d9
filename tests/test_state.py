"""Callable objects and bound methods whose attributes are differentiated, or assigned to during the call."""
import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad
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
    ReverseWithPrimal,
    autodiff,
    gradient,
    jacobian,
    make_zero,
)

BOTH = pytest.mark.parametrize("mode", [Forward, Reverse], ids=lambda m: m.name)
X = np.array([1.0, 2.0])


class Layer:
    def __init__(self, w, scale=2.0):
        self.w, self.scale, self.name = w, scale, "layer"

    def __call__(self, x):
        return self.scale * np.sum(self.w * x)

    def loss(self, x, k=1.0):
        self.last = self.w * x
        self.history = [self.last, {"k": k, "sum": np.sum(self.last)}, (x, "x")]
        return k * self.scale * np.sum(self.last**2)

    def fails(self, x):
        self.last = x * 2.0
        raise KeyError("mine")


@dataclasses.dataclass(frozen=True)
class Frozen:
    w: np.ndarray
    scale: float

    def __call__(self, x):
        return self.scale * np.sum(self.w * x)


# ---- objects as constants -------------------------------------------------------------------------------------------

def is_plain(m):
    assert type(m.last) is np.ndarray
    assert_array_equal(m.last + 0.0, [3.0, 8.0])
    assert m.history[0] is m.last or np.array_equal(m.history[0], m.last)
    assert m.history[1]["sum"] + 1.0 == 12.0 and isinstance(m.history[1]["sum"], float)
    assert type(m.history[2]) is tuple and type(m.history[2][0]) is np.ndarray and m.history[2][1] == "x"


CALLS = {
    "gradient, reverse": lambda m: gradient(Reverse, m.loss, X),
    "gradient, forward": lambda m: gradient(Forward, m.loss, X),
    "gradient in chunks": lambda m: gradient(Forward, m.loss, X, chunk=1),
    "general gradient": lambda m: gradient(Reverse, m.loss, X, k=1.0),
    "two arguments": lambda m: gradient(Reverse, m.loss, X, Const(1.0)),
    "jacobian": lambda m: jacobian(Reverse, m.loss, X),
    "grad": lambda m: cyad.grad(m.loss)(X),
    "hvp": lambda m: cyad.hvp(m.loss, X, X),
    "hessian": lambda m: cyad.hessian(m.loss, X),
    "jvp": lambda m: cyad.jvp(m.loss, (X,), (X,)),
    "vjp": lambda m: cyad.vjp(m.loss, X)[1](1.0),
    "autodiff": lambda m: autodiff(Reverse, m.loss, Active, Duplicated(X, np.zeros(2))),
    "autodiff forward": lambda m: autodiff(Forward, m.loss, Duplicated(X, np.zeros(2))),
    "Const method": lambda m: autodiff(Reverse, Const(m.loss), Active, Duplicated(X, np.zeros(2))),
    "object as a Const argument": lambda m: gradient(Reverse, lambda m, x: m.loss(x), Const(m), X),
}


@pytest.mark.parametrize("call", CALLS)
def test_attributes_assigned_during_a_call_are_plain_after_it(call):
    m = Layer(np.array([3.0, 4.0]))
    CALLS[call](m)
    is_plain(m)


@BOTH
def test_also_after_an_exception(mode):
    m = Layer(np.array([3.0, 4.0]))
    for call in (lambda: gradient(mode, m.fails, X), lambda: gradient(mode, lambda m, x: m.fails(x), m, X),
                 lambda: jacobian(mode, m.fails, X)):
        with pytest.raises(KeyError, match="mine"):
            call()
        assert type(m.last) is np.ndarray
        assert_array_equal(m.last, [2.0, 4.0])
        del m.last


def test_state_that_a_pullback_refers_to_may_be_changed():
    m = Layer(np.array([3.0, 4.0]))
    y, pull = cyad.vjp(m.loss, X)
    m.last[:] = 100.0
    m.history[0][:] = 100.0
    m.history[2][0][:] = 100.0
    assert_array_equal(pull(1.0)[0], 4 * m.w**2 * X)


def test_state_of_an_inner_call_belongs_to_the_outer_one():
    m = Layer(np.array([3.0, 4.0]))

    def f(x):
        g, = gradient(Reverse, m.loss, x)
        return np.sum(m.last) + np.sum(g)

    assert_array_equal(gradient(Reverse, lambda x, m: f(x), X, Const(m))[0], m.w + 4 * m.w**2)
    assert type(m.last) is np.ndarray


def test_large_containers_are_not_searched():
    m = Layer(np.array([3.0, 4.0]))
    m.data = [1.0] * 2000
    gradient(Reverse, m.loss, X)
    is_plain(m)
    assert m.data == [1.0] * 2000


# ---- objects with derivatives ---------------------------------------------------------------------------------------

def test_objects_with_shadows_in_reverse():
    m = Layer(np.array([3.0, 4.0]))
    dm = make_zero(m)
    dx = np.zeros(2)
    out, val = autodiff(ReverseWithPrimal, Duplicated(m, dm), Active, Duplicated(X, dx))
    assert out == (None,) and val == m(X)
    assert_array_equal(dm.w, 2.0 * X)
    assert dm.scale == 11.0 and dm.name == "layer"
    assert_array_equal(dx, 2.0 * m.w)
    autodiff(Reverse, Duplicated(m, dm), Active, Const(X))   # adds
    assert_array_equal(dm.w, 4.0 * X)
    assert dm.scale == 22.0
    assert autodiff(Reverse, Const(m), Active, Active(3.0)) == ((2.0 * 7.0,),)


def test_objects_with_shadows_in_forward():
    m, dm = Layer(np.array([3.0, 4.0])), Layer(np.array([1.0, 0.0]), 0.5)
    assert_allclose(autodiff(Forward, Duplicated(m, dm), Const(X)), (2.0 * 1.0 + 0.5 * 11.0,))
    lanes = (dm, Layer(np.array([0.0, 1.0]), 0.0))
    assert_allclose(autodiff(Forward, BatchDuplicated(m, lanes), Const(X)), ((7.5, 4.0),))


def test_bound_methods_with_shadows():
    m = Layer(np.array([3.0, 4.0]))
    for shadow in (lambda dm: dm, lambda dm: dm.loss):
        dm = make_zero(Layer(m.w))
        autodiff(Reverse, Duplicated(m.loss, shadow(dm)), Active, Const(X), Const(2.0))
        assert_array_equal(dm.w, 8.0 * m.w * X**2)
        assert dm.scale == 2 * (9.0 + 64.0)
        assert_array_equal(m.last, [3.0, 8.0])
        m = Layer(np.array([3.0, 4.0]))


def test_batches_and_references():
    m = Layer(np.array([3.0, 4.0]))
    lanes = make_zero(m), make_zero(m)
    dx = np.zeros(2), np.zeros(2)
    autodiff(Reverse, BatchDuplicated(m, lanes), Active, BatchDuplicated(X, dx))
    for dm in lanes:
        assert_array_equal(dm.w, 2.0 * X)
        assert dm.scale == 11.0
    m = Frozen(np.array([3.0, 4.0]), 2.0)
    ref = Ref(make_zero(m))
    autodiff(Reverse, MixedDuplicated(m, ref), Active, Const(X))
    assert ref.value.scale == 11.0
    assert_array_equal(ref.value.w, 2.0 * X)
    with pytest.raises(ActivityError, match="frozen"):
        autodiff(Reverse, Duplicated(m, make_zero(m)), Active, Const(X))


@dataclasses.dataclass
class Filter:
    """State that a step replaces, or overwrites."""

    state: object
    gain: float

    def step(self, u):
        self.state = self.state * self.gain + u
        return np.sum(self.state)

    def step_in_place(self, u):
        self.state *= self.gain
        self.state += u
        return np.sum(self.state)


def test_replaced_state_has_its_tangent():
    for step in (Filter.step, Filter.step_in_place):
        f, df = Filter(np.array([1.0, 2.0]), 3.0), Filter(np.array([1.0, 0.0]), 0.5)
        (dy,) = autodiff(Forward, step, Duplicated(f, df), Const(X))
        assert dy == 3.0 + 0.5 * 3.0
        assert_array_equal(f.state, [4.0, 8.0])
        assert_array_equal(df.state, [3.5, 1.0])

    def grow(f):
        f.gain = f.gain**2
        f.new = {"twice": 2.0 * f.state}
        return f.gain

    f, df = Filter(np.array([1.0, 2.0]), 3.0), Filter(np.array([1.0, 0.0]), 0.5)
    assert autodiff(Forward, grow, Duplicated(f, df)) == (3.0,)
    assert (f.gain, df.gain) == (9.0, 3.0)
    assert_array_equal(f.new["twice"], [2.0, 4.0])
    assert_array_equal(df.new["twice"], [2.0, 0.0])


def test_replaced_state_has_the_adjoint_of_what_it_was():
    """The shadow on entry is the adjoint of the state after the call, whether that is another array or the same."""
    for step in (Filter.step, Filter.step_in_place):
        f, df = Filter(np.array([1.0, 2.0]), 3.0), Filter(np.array([10.0, 100.0]), 0.0)
        before, du = f.state, np.zeros(2)
        autodiff(Reverse, step, Active, Duplicated(f, df), Duplicated(X, du))
        assert_array_equal(f.state, [4.0, 8.0])
        assert_array_equal(df.state, [33.0, 303.0])
        assert df.gain == 11.0 + 202.0
        assert_array_equal(du, [11.0, 101.0])
        assert_array_equal(before, [1.0, 2.0] if step is Filter.step else [4.0, 8.0])


def test_replaced_state_that_cannot_have_one():
    def other_shape(f):
        f.state = f.state[:1]
        return f.gain

    def number(f):
        f.gain = f.gain**2
        return f.gain

    def shared(f):
        f.state = f.state * 2.0
        return f.gain

    for change in (other_shape, number, shared):
        f, df = Filter(np.array([1.0, 2.0]), 3.0), Filter(np.ones(2), 1.0)
        f.also, df.also = f.state, df.state
        with pytest.raises(ActivityError, match="assigned to"):
            autodiff(Reverse, change, Active, Duplicated(f, df))
    f, df = Filter(np.array([1.0, 2.0]), 3.0), Filter(np.zeros(2), 0.0)
    autodiff(Reverse, number, Active, Duplicated(f, df))
    assert (f.gain, df.gain) == (9.0, 6.0)


def test_steps_by_jacobian_and_gradient():
    f = lambda p, u: p.step(u) + p.step(u)
    p = Filter(np.array([1.0, 2.0]), 3.0)
    g, gu = gradient(Reverse, f, p, X)
    assert_array_equal(g.state, [12.0, 12.0])
    assert g.gain == 3.0 + 2 * 3.0 * 3.0 + 3.0    # (s g + u) + (s g^2 + u g + u), summed over two entries
    assert_array_equal(gu, [5.0, 5.0])
    assert_array_equal(p.state, [13.0, 26.0])


def test_refusals():
    for f, said in ((Duplicated(np.sin, np.cos), "function itself"), (Duplicated("text", "text"), "function")):
        with pytest.raises(ActivityError, match=said):
            autodiff(Reverse, f, Active, Active(1.0))
    m = Layer(np.ones(2))
    with pytest.raises(ActivityError, match="same structure"):
        autodiff(Reverse, Duplicated(m, [m.w * 0.0]), Active, Const(X))


# ---- functions that keep state, called once for every chunk of inputs ----------------------------------------------

class Counter:
    def __init__(self):
        self.calls, self.memory = 0, np.ones(2)

    def run(self, x):
        self.calls += 1
        self.memory *= 2.0
        self.last = self.calls * np.sum(x * x) + np.sum(self.memory)
        return self.last


def test_a_method_finds_its_object_as_it_was_for_every_chunk():
    counter, x = Counter(), np.arange(5.0)
    assert_array_equal(cyad.gradient(cyad.Forward, counter.run, x, chunk=2)[0], 2 * x)
    assert counter.calls == 1 and counter.last == 34.0
    assert_array_equal(counter.memory, [2.0, 2.0])


def drawing():
    rng = np.random.default_rng(0)
    return lambda x: np.sum(x * rng.standard_normal(x.shape))


def counting():
    calls = []
    return lambda x: (calls.append(1), len(calls) * np.sum(x))[1]


@pytest.mark.parametrize("make", [drawing, counting])
def test_a_function_that_comes_to_another_value_is_told_so(make):
    x = np.ones(5)
    for run in (lambda f, **chunk: cyad.gradient(cyad.Forward, f, x, **chunk),
                lambda f, **chunk: cyad.jacobian(cyad.Forward, lambda x: np.stack([f(x)] * 2), x, **chunk),
                lambda f, **chunk: cyad.hessian(lambda x: f(x) ** 2, x, **chunk)):
        with pytest.raises(cyad.ActivityError, match="different values.*chunk=5"):
            run(make(), chunk=2)
        run(make(), chunk=5)


def test_values_that_are_no_numbers_are_no_difference():
    def f(x):
        return np.sum(x) * np.inf * 0.0
    with np.errstate(invalid="ignore"):
        assert np.isnan(cyad.gradient(cyad.Forward, f, np.ones(3), chunk=1)[0]).all()
