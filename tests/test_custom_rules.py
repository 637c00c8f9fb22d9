"""Custom rules beyond their specification: memory, views, batches, nesting, structures, NumPy's functions, bad rules.

Derivatives are compared with those of the same code without rules, or with finite differences; rules that are
deliberately off by a factor show which path a call took.
"""
import copy
import gc
import inspect
import sys
import threading
import weakref

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import (
    Active,
    BatchDuplicated,
    Const,
    Duplicated,
    DuplicatedNoNeed,
    Forward,
    ForwardWithPrimal,
    MixedDuplicated,
    Reverse,
    ReverseWithPrimal,
    autodiff,
    gradient,
    rules,
)
from cyad.rules import AugmentedReturn, Constant, needs_primal, needs_shadow
from cyad.testing import check_forward, check_reverse


def ruled(function, forward=None, augmented=None, reverse=None, easy=None):
    """A primitive with these rules."""
    p = cyad.primitive(function)
    for register, rule in ((rules.forward, forward), (rules.augmented_primal, augmented), (rules.reverse, reverse),
                           (rules.easy_rule, easy)):
        if rule is not None:
            register(p)(rule)
    return p


def make_scale():
    """y = x * x, a new array, with rules for arrays of any batch in both modes."""
    def forward(config, func, RT, x: Duplicated | BatchDuplicated):
        d = tuple(2 * x.val * t for t in x.dval) if config.width > 1 else 2 * x.val * x.dval
        if not needs_primal(config):
            return d
        return BatchDuplicated(func.val(x.val), d) if config.width > 1 else Duplicated(func.val(x.val), d)

    def augmented(config, func, RT, x: Duplicated | BatchDuplicated):
        return AugmentedReturn(func.val(x.val), None, None)

    def reverse(config, func, dret, tape, x: Duplicated | BatchDuplicated):
        for dx, dy in zip(x.dval, dret.dval, strict=True) if config.width > 1 else ((x.dval, dret.dval),):
            dx += 2 * x.val * dy
        return (None,)

    return ruled(lambda x: x * x, forward, augmented, reverse)


# ---- array results --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_array_results_in_both_modes_and_batches(chunk):
    square = make_scale()

    def f(x):
        y = square(x[::-1])
        y[0] *= x[1]
        return np.sum(square(y) * x)

    x = np.array([1.5, -2.0, 0.5])
    want = gradient(Reverse, lambda x: f.__wrapped__(x) if hasattr(f, "__wrapped__") else plain(x), x)[0]
    assert_allclose(gradient(Reverse, f, x)[0], want, rtol=1e-14)
    assert_allclose(gradient(Forward, f, x, chunk=chunk)[0], want, rtol=1e-14)
    lanes = tuple(np.eye(3)[:chunk])
    out = autodiff(Forward, f, BatchDuplicated(x, lanes))[0]
    assert_allclose(out, want[:chunk], rtol=1e-14)


def plain(x):
    y = x[::-1] * x[::-1]
    y = y.copy()
    y[0] *= x[1]
    return np.sum(y * y * x)


def test_a_shadow_made_by_the_rule_is_the_one_it_gets():
    seen = []

    def augmented(config, func, RT: type[Duplicated], x: Duplicated):
        assert needs_shadow(config)
        y = func.val(x.val)
        dy = np.zeros_like(y)
        return AugmentedReturn(y, dy, dy)

    def reverse(config, func, dret: type[Duplicated], tape, x: Duplicated):
        seen.append(dret)
        x.dval[:] += 3 * tape
        tape[:] = 0.0
        return (None,)

    f = ruled(lambda x: 3 * x, augmented=augmented, reverse=reverse)
    assert_allclose(gradient(Reverse, lambda x: np.sum(f(f(x)) * x), np.array([1.0, 2.0]))[0], [18.0, 36.0])
    assert seen == [Duplicated, Duplicated]


def test_lanes_one_by_one_where_a_rule_takes_no_batches():
    widths = []

    def forward(config, func, RT, y: Duplicated, x: Duplicated):
        widths.append(config.width)
        d = np.sum(y.val * x.dval + x.val * y.dval)
        dx = 2 * x.val * x.dval
        out = func.val(y.val, x.val)     # overwrites x
        x.dval[:] = dx
        return Duplicated(out, d)

    def augmented(config, func, RT, y: Duplicated, x: Duplicated):
        widths.append(config.width)
        old = x.val.copy()
        return AugmentedReturn(func.val(y.val, x.val), None, old)

    def reverse(config, func, dret, tape, y: Duplicated, x: Duplicated):
        widths.append(config.width)
        x.dval *= 2 * tape
        x.dval += dret.val * y.val
        y.dval += dret.val * tape
        return None, None

    def body(y, x):
        out = np.sum(y * x)
        x[:] = x * x
        return out

    f = ruled(body, forward, augmented, reverse)
    check_forward(f, Duplicated, (np.array([1.0, 2.0]), BatchDuplicated), (np.array([3.0, -1.0]), BatchDuplicated))
    check_reverse(f, Active, (np.array([1.0, 2.0]), BatchDuplicated), (np.array([3.0, -1.0]), BatchDuplicated))
    assert set(widths) == {1}


class Counter:
    def __init__(self):
        self.total, self.inner = 0.0, {"seen": [0, set()], "calls": np.zeros(1, int)}


@pytest.mark.parametrize("state, read", [
    (np.zeros(1), lambda s: s[0]), ([0.0], lambda s: s[0]), ({"a": [[0.0]]}, lambda s: s["a"][0][0]),
    (Counter(), lambda s: (s.total, s.inner["seen"], s.inner["calls"][0])),
    (np.random.default_rng(3), lambda s: s.bit_generator.state["state"]["state"]),
    (np.random.RandomState(3), lambda s: s.get_state()[2])])
@pytest.mark.parametrize("captured", [True, False])
def test_lanes_one_by_one_all_find_the_state_that_the_first_one_found(state, read, captured):
    def draw(state):
        if isinstance(state, np.ndarray):
            state += 1.0
            return state[0]
        if isinstance(state, list):
            state.append(state[0])
            state[0] += 1.0
            return state[0]
        if isinstance(state, dict):
            return draw(state["a"][0])
        if isinstance(state, Counter):
            state.total += 1.0
            state.inner["seen"][0] += 1
            state.inner["seen"][1].add(state.total)
            state.inner["calls"] += 1
            state.last = state.total
            return state.inner["calls"][0] + len(state.inner["seen"][1])
        return state.normal()

    def forward(config, func, RT, state: Const, x: Duplicated):
        k = draw(state.val)
        return Duplicated(k * np.sum(x.val), k * np.sum(x.dval))

    f = ruled(lambda state, x: draw(state) * np.sum(x), forward)
    plain, x = copy.deepcopy(state), np.array([1.0, 2.0, 3.0])
    k = f(plain, x) / 6.0
    mine = copy.deepcopy(state)
    if captured:
        got = gradient(Forward, lambda x: f(mine, x), x)[0]
    else:
        lanes = tuple(np.eye(3))
        got = autodiff(Forward, lambda s, x: f(s, x), BatchDuplicated, Const(mine), BatchDuplicated(x, lanes))[0]
    assert_allclose(got, [k, k, k])
    assert read(mine) == read(plain)


def test_lanes_one_by_one_and_the_state_of_the_function_itself():
    class Growing:
        def __init__(self):
            self.calls = 0

        def __call__(self, x):
            self.calls += 1
            return self.calls * np.sum(x)

    for wrap in (lambda g: g, lambda g: g.__call__):
        mine = Growing()
        f = cyad.primitive(wrap(mine))

        @rules.forward(f)
        def forward(config, func, RT, x: Duplicated, mine=mine, f=f):
            return Duplicated(func.val(x.val), mine.calls * np.sum(x.dval))

        assert_allclose(gradient(Forward, lambda x, f=f: f(x), np.ones(3))[0], np.ones(3))
        assert mine.calls == 1


def test_lanes_one_by_one_refuse_what_cannot_be_put_back():
    def forward(config, func, RT, numbers: Const, x: Duplicated):
        k = next(numbers.val)
        return Duplicated(k * np.sum(x.val), k * np.sum(x.dval))

    f = ruled(lambda numbers, x: next(numbers) * np.sum(x), forward)
    with pytest.raises(cyad.ActivityError, match="list_iterator.*BatchDuplicated"):
        gradient(Forward, lambda x: f(iter([1.0, 2.0]), x), np.ones(2))
    assert gradient(Forward, lambda x: f(iter([5.0, 2.0]), x), np.ones(1))[0] == [5.0]


# ---- memory ---------------------------------------------------------------------------------------------------------

def make_square_into():
    """y[:] = x**2, in place, returning nothing."""
    def forward(config, func, RT, y: Duplicated, x: Duplicated):
        y.dval[:] = 2 * x.val * x.dval
        func.val(y.val, x.val)

    def augmented(config, func, RT, y: Duplicated, x: Duplicated):
        func.val(y.val, x.val)
        return AugmentedReturn(None, None, None)

    def reverse(config, func, dret, tape, y: Duplicated, x: Duplicated):
        assert isinstance(dret, Const)
        x.dval += 2 * x.val * y.dval
        y.dval[:] = 0.0
        return None, None

    def square_into(y, x):
        y[:] = x**2

    return ruled(square_into, forward, augmented, reverse)


def test_memory_that_is_made_inside_becomes_active_by_a_rule():
    square_into = make_square_into()

    def f(x):
        work = np.zeros(2)
        square_into(work, x)
        out = work[0] * work[1]
        square_into(work, work.copy())     # twice into the same memory, which the tape refers to
        return out + np.sum(work * x)

    def g(x):
        return (x[0] * x[1]) ** 2 + np.sum(x**5)

    x = np.array([1.5, -0.5])
    want, = gradient(Reverse, g, x)
    assert_allclose(gradient(Reverse, f, x)[0], want, rtol=1e-13)
    assert_allclose(gradient(Forward, f, x)[0], want, rtol=1e-13)


def test_views_as_arguments_and_strided_memory():
    square_into = make_square_into()

    def f(x):
        work = np.zeros((2, 3))
        square_into(work[:, 1], x[::2])
        square_into(work.T[0], x[1:3])
        return np.sum(work * work) + np.sum(x)

    x = np.array([0.5, 1.5, 2.0])
    want = 4 * np.array([x[0]**3, x[1]**3, 2 * x[2]**3]) + 1
    assert_allclose(gradient(Reverse, f, x)[0], want, rtol=1e-13)
    assert_allclose(gradient(Forward, f, x)[0], want, rtol=1e-13)


def test_arguments_that_overlap_each_other():
    def body(dst, src):
        dst[:] = src * src

    def forward(config, func, RT, dst: Duplicated, src: Duplicated):
        d = 2 * src.val * src.dval
        func.val(dst.val, src.val)
        dst.dval[:] = d

    def augmented(config, func, RT, dst: Duplicated, src: Duplicated):
        old = src.val.copy()
        func.val(dst.val, src.val)
        return AugmentedReturn(None, None, old)

    def reverse(config, func, dret, tape, dst: Duplicated, src: Duplicated):
        g = dst.dval.copy()
        dst.dval[:] = 0.0
        src.dval[:] += 2 * tape * g
        return None, None

    def program(step):
        def f(x):
            u = x * 1.5
            s = np.sum(u * u * x)
            step(u[1:], u[:-1])
            s = s + np.sum(u * u)
            step(u, u)
            s = s + np.sum(u * x)
            step(u[::-1], u.copy())
            step(u, x)
            x[0] = u[1]
            step(x, x)
            return s + np.sum(np.sin(u) * x)
        return f

    f, g = program(ruled(body, forward, augmented, reverse)), program(body)
    x = np.array([0.5, -0.7, 1.1, 0.3])
    for mode in (Forward, Reverse):
        ruled_x, plain_x = x.copy(), x.copy()
        assert_allclose(gradient(mode, f, ruled_x)[0], gradient(Reverse, g, plain_x)[0], rtol=1e-12)
        assert_array_equal(ruled_x, plain_x)
    for outer in (Forward, Reverse):
        assert_allclose(hessian_by(outer, Reverse, lambda x: f(x.copy()), x),
                        hessian_by(outer, Reverse, lambda x: g(x.copy()), x), rtol=1e-11)


def test_broadcast_arguments_get_the_sum_over_what_was_repeated():
    def augmented(config, func, RT, x: Duplicated):
        return AugmentedReturn(func.val(x.val), None, None)

    def reverse(config, func, dret, tape, x: Duplicated):
        x.dval[...] += 2 * x.val * dret.val
        return (None,)

    f = ruled(lambda x: np.sum(x * x), augmented=augmented, reverse=reverse)
    x = np.array([1.0, 2.0])
    assert_allclose(gradient(Reverse, lambda x: f(np.broadcast_to(x, (3, 2))), x)[0], 6 * x)


def test_a_rule_may_write_const_memory():
    square_into = make_square_into()
    y, x, dx = np.zeros(2), np.array([3.0, 1.0]), np.zeros(2)

    @rules.augmented_primal(square_into)
    def into_const(config, func, RT, y: Const, x: Duplicated):
        func.val(y.val, x.val)
        return AugmentedReturn()

    @rules.reverse(square_into)
    def into_const_reverse(config, func, dret, tape, y: Const, x: Duplicated):
        return None, None

    def f(y, x):
        s = np.sum(y * x)
        square_into(y, x)
        return s + np.sum(y * x)

    autodiff(Reverse, f, Active, Const(y), Duplicated(x, dx))
    assert_array_equal(y, [9.0, 1.0])
    assert_allclose(dx, [9.0, 1.0])      # y is a constant, before and after


def make_window():
    def forward(config, func, RT, x: Duplicated):
        return Duplicated(x.val[1:], x.dval[1:])

    def augmented(config, func, RT, x: Duplicated):
        return AugmentedReturn(x.val[1:], x.dval[1:], None)

    def reverse(config, func, dret, tape, x: Duplicated):
        return (None,)      # the view's shadow is x's

    return ruled(lambda x: x[1:], forward, augmented, reverse)


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_views_that_rules_return_share_memory_and_shadow(mode):
    window = make_window()

    def f(x):
        w = window(x)
        s = np.sum(w * w)
        w *= 3.0
        return s + x[1] * w[1]

    x = np.array([1.0, 2.0, 5.0])
    dx, = gradient(mode, f, x.copy())
    assert_allclose(dx, [0.0, 4.0 + 9 * 5.0, 10.0 + 9 * 2.0])
    y = x.copy()
    gradient(Reverse, f, y)
    assert_array_equal(y, [1.0, 6.0, 15.0])


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_a_rule_that_returns_its_argument(mode):
    def forward(config, func, RT, x: Duplicated):
        x.val[:] *= 2.0
        x.dval[:] *= 2.0
        return x

    def augmented(config, func, RT, x: Duplicated):
        x.val[:] *= 2.0
        return AugmentedReturn(x.val, x.dval, None)

    def reverse(config, func, dret, tape, x: Duplicated):
        assert dret.dval is x.dval or np.shares_memory(dret.dval, x.dval)
        x.dval[:] *= 2.0
        return (None,)

    def body(x):
        x *= 2.0
        return x

    f = ruled(body, forward, augmented, reverse)
    x = np.array([1.0, 3.0])
    assert_allclose(gradient(mode, lambda x: np.sum(x * x) + np.sum(f(x) * x), x)[0], [10.0, 30.0])


def test_plain_captured_arrays_are_as_they_were_when_reverse_runs():
    a = np.array([1.0, 2.0])
    f = ruled(lambda x, a: np.sum(x * a),
              augmented=lambda config, func, RT, x, a: AugmentedReturn(func.val(x.val, a.val)),
              reverse=lambda config, func, dret, tape, x, a: (x.dval.__iadd__(a.val * dret.val), (None, None))[1])

    def g(x):
        s = f(x, a)
        a[:] = 100.0
        return s

    assert_allclose(gradient(Reverse, g, np.array([5.0, 6.0]))[0], [1.0, 2.0])


def test_overwritten_says_so_of_objects_that_cyad_cannot_put_back():
    seen = []

    def augmented(config, func, RT, x, a, words, box):
        seen.append(rules.overwritten(config))
        return AugmentedReturn(func.val(x.val, a.val, words.val, box.val))

    f = ruled(lambda x, a, words, box: x * 1.0, augmented=augmented,
              reverse=lambda config, func, dret, tape, *args: (dret.val, None, None, None))
    assert gradient(Reverse, lambda x: f(x, np.ones(2), "words", [1]), 2.0) == (1.0,)
    assert seen == [(False, False, False, False, True)]


def test_the_final_state_of_memory_after_an_exception_in_reverse():
    def reverse(config, func, dret, tape, y, x):
        raise KeyError("broken")

    f = ruled(lambda y, x: np.sum(y * x),
              augmented=lambda config, func, RT, y, x: AugmentedReturn(func.val(y.val, x.val)), reverse=reverse)

    def g(y, x):
        y *= 2.0
        s = f(y, x)
        y[:] = x
        x[0] = 7.0
        return s + np.sum(y * x)

    y, x = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    dy, dx = np.zeros(2), np.zeros(2)
    with pytest.raises(KeyError) as caught:
        autodiff(Reverse, g, Active, Duplicated(y, dy), Duplicated(x, dx))
    assert "reverse rule" in caught.value.__notes__[0] and "test_the_final_state" in caught.value.__notes__[0]
    assert_array_equal(y, [3.0, 4.0])
    assert_array_equal(x, [7.0, 4.0])


def test_values_cannot_be_written_in_reverse_nor_shadows_before():
    f = ruled(lambda x: np.sum(x), augmented=lambda config, func, RT, x: AugmentedReturn(func.val(x.val)),
              reverse=lambda config, func, dret, tape, x: (x.val.fill(0.0), (None,))[1])
    with pytest.raises(ValueError, match="read-only") as caught:
        gradient(Reverse, f, np.ones(2))
    assert "work on a copy" in caught.value.__notes__[0]

    def early(config, func, RT, x):
        assert np.isnan(x.dval).all() and x.dval.shape == x.val.shape and x.dval.dtype == x.val.dtype
        x.dval[:] = 0.0

    for dtype in (np.float64, np.float32, np.complex128, np.float16):
        g = ruled(lambda x: np.sum(abs(x)), augmented=early, reverse=lambda *args: (None,))
        with pytest.raises(ValueError, match="read-only"):
            autodiff(Reverse, g, Active, Duplicated(np.ones((2, 3), dtype), np.zeros((2, 3), dtype)))


def test_a_rule_leaves_no_memory_behind():
    square = make_scale()

    class Kept:
        pass

    alive = []

    @rules.augmented_primal(square)
    def keeps(config, func, RT, x: Duplicated):
        kept = Kept()
        alive.append(weakref.ref(kept))
        return AugmentedReturn(func.val(x.val), None, kept)

    x = np.ones(3)
    gc.disable()
    try:
        before = sys.getrefcount(x)
        gradient(Reverse, lambda x: np.sum(square(square(x))), x)
        assert sys.getrefcount(x) == before
        assert all(ref() is None for ref in alive)
    finally:
        gc.enable()


# ---- dispatch -------------------------------------------------------------------------------------------------------

def test_hints_may_be_strings_and_generic():
    def forward(config, func, RT: "type[Duplicated | DuplicatedNoNeed]", x: "Duplicated[float]"):
        return Duplicated(func.val(x.val), 10.0 * x.dval) if needs_primal(config) else 10.0 * x.dval

    f = ruled(lambda x: x, forward)
    assert autodiff(Forward, f, Duplicated(1.0, 1.0)) == (10.0,)
    assert autodiff(ForwardWithPrimal, f, Duplicated(1.0, 1.0)) == (10.0, 1.0)
    with pytest.raises(cyad.ActivityError, match="Nowhere"):
        ruled(lambda x: x, lambda_with_hint("Nowhere"))
    with pytest.raises(cyad.ActivityError, match="no activity"):
        ruled(lambda x: x, lambda_with_hint(int))
    for hint in ("Const|", "cyad.Nothing", "Const | 3", "Const +"):
        with pytest.raises(cyad.ActivityError, match="lambda_with_hint.*cannot be evaluated"):
            ruled(lambda x: x, lambda_with_hint(hint))


def lambda_with_hint(hint):
    def forward(config, func, RT, x):
        return None
    forward.__annotations__["x"] = hint
    return forward


def test_the_most_specific_rule_wins_and_of_equals_the_last():
    f = ruled(lambda x, y: x * y)
    for factor, hint in ((2.0, None), (3.0, Const | Duplicated), (5.0, Duplicated), (7.0, Duplicated)):
        def forward(config, func, RT, x, y, factor=factor):
            return Duplicated(0.0, factor)
        forward.__signature__ = None
        del forward.__signature__
        if hint is not None:
            forward.__annotations__["y"] = hint
        rules.forward(f)(forward)
    assert autodiff(ForwardWithPrimal, f, Duplicated(1.0, 1.0), Duplicated(1.0, 1.0))[0] == 7.0
    assert autodiff(ForwardWithPrimal, f, Duplicated(1.0, 1.0), Const(1.0))[0] == 3.0


def test_a_rule_declines_with_notimplemented():
    f = ruled(lambda x: x * x, easy=lambda out, x: ((100.0,),) if x > 3 else NotImplemented)
    assert gradient(Reverse, f, 2.0) == (4.0,)
    assert gradient(Reverse, f, 4.0) == (100.0,)
    assert gradient(Forward, f, 4.0) == (100.0,)

    @rules.forward(f)
    def only_below_one(config, func, RT, x):
        return Duplicated(0.0, 50.0) if x.val < 1 else NotImplemented

    assert gradient(Forward, lambda x: f(x), 0.5) == (50.0,)
    assert gradient(Forward, lambda x: f(x), 2.0) == (4.0,)
    assert gradient(Forward, lambda x: f(x), 4.0) == (100.0,)


def test_keyword_arguments_reach_rules_as_keywords():
    f = ruled(lambda x, *, scale=1.0, name="": x * scale,
              forward=lambda config, func, RT, x, *, scale, name=None: Duplicated(
                  func.val(x.val, scale=scale.val),
                  x.val * getattr(scale, "dval", 0.0) + (x.dval if isinstance(x, Duplicated) else 0.0) * scale.val),
              augmented=lambda config, func, RT, x, **kw: AugmentedReturn(func.val(x.val, scale=kw["scale"].val)),
              reverse=lambda config, func, dret, tape, x, **kw: tuple(
                  (kw["scale"].val if a is x else x.val) * dret.val if isinstance(a, Active) else None
                  for a in (x, *kw.values())))
    for mode in (Forward, Reverse):
        one = {"chunk": 1} if mode is Forward else {}
        assert gradient(mode, lambda x, s: f(x, scale=s, name="n") + 0.0, 3.0, 5.0, **one) == (5.0, 3.0)
        assert gradient(mode, lambda s: f(3.0, scale=s) + 0.0, 5.0) == (3.0,)


def test_unmatched_activities_are_named_together_with_the_rules():
    square = make_scale()
    with pytest.raises(cyad.MissingRuleError, match=r"\(Active, return.*augmented.*x: Duplicated \| BatchDuplicated"):
        gradient(Reverse, square, 2.0)
    halves = ruled(lambda x: x, augmented=lambda config, func, RT, x: AugmentedReturn(x.val))
    with pytest.raises(cyad.MissingRuleError, match="no reverse rule.*there is none"):
        gradient(Reverse, halves, 2.0)
    arity = ruled(lambda x, y: x, forward=lambda config, func, RT, x: None)
    with pytest.raises(cyad.MissingRuleError):
        gradient(Forward, arity, 1.0, 2.0)


def test_rules_in_one_mode_leave_the_other_alone():
    f = ruled(lambda x: x * x, forward=lambda config, func, RT, x: 100.0 if not needs_primal(config) else None)
    assert gradient(Forward, f, 3.0) == (100.0,)
    assert gradient(Reverse, f, 3.0) == (6.0,)
    assert rules.has_rule(f, Forward) and not rules.has_rule(f, Reverse)


def test_scopes_and_removal():
    f = ruled(lambda x: x * x)
    with rules.scope():
        with rules.scope():
            first = rules.easy_rule(f)(lambda out, x: ((5.0,),))
            assert gradient(Reverse, f, 3.0) == (5.0,)
        assert gradient(Reverse, f, 3.0) == (6.0,)
        rules.easy_rule(np.sin)(lambda out, x: ((50.0,),))
        rules.easy_rule(np.sum)(lambda out, x: ((np.full(np.shape(x), 70.0),),))
        assert gradient(Reverse, lambda x: np.sin(x), 3.0) == (50.0,)
        assert_array_equal(gradient(Reverse, lambda x: x.sum(), np.ones(2))[0], [70.0, 70.0])
    assert gradient(Reverse, np.sin, 0.0) == (1.0,)
    assert_array_equal(gradient(Reverse, lambda x: x.sum(), np.ones(2))[0], [1.0, 1.0])
    rule = rules.easy_rule(f)(lambda out, x: ((8.0,),))
    assert gradient(Forward, f, 3.0) == (8.0,)
    with pytest.raises(KeyError):
        rules.remove(f, first)
    rules.remove(f, rule)
    assert gradient(Forward, f, 3.0) == (6.0,)
    with pytest.raises(KeyError):
        rules.remove(f)


# ---- NumPy's and SciPy's functions ----------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_rules_of_ufuncs_win_everywhere(mode):
    x = np.array([0.5, 1.5])
    with rules.scope():
        @rules.forward(np.multiply)
        def multiply_forward(config, func, RT, x: Duplicated | Const, y: Duplicated | Const):
            out = np.multiply(x.val, y.val)
            return Duplicated(out, 100.0 * x.dval) if np.ndim(out) else NotImplemented

        @rules.augmented_primal(np.multiply)
        def multiply_augmented(config, func, RT, x: Duplicated | Const, y: Duplicated | Const):
            return AugmentedReturn(np.multiply(x.val, y.val))

        @rules.reverse(np.multiply)
        def multiply_reverse(config, func, dret, tape, x: Duplicated | Const, y: Duplicated | Const):
            x.dval += 100.0 * dret.dval
            return None, None

        for f in (lambda x: np.sum(x * 2.0), lambda x: np.sum(np.multiply(x, 2.0)),
                  lambda x: np.sum(np.multiply(x, 2.0, dtype=np.float64)),
                  lambda x: np.sum(np.multiply(x, 2.0, out=np.zeros(2)))):
            assert_allclose(gradient(mode, f, x)[0], [100.0, 100.0])
        # What the rules do not take, cyad's own does.
        assert gradient(mode, lambda x: np.multiply(x, x), 3.0) == (6.0,)
    assert_allclose(gradient(mode, lambda x: np.sum(x * 2.0), x)[0], [2.0, 2.0])


@pytest.mark.parametrize("function, call", [
    (np.sum, lambda x: np.sum(x)), (np.sum, lambda x: x.sum()), (np.mean, lambda x: x.mean()),
    (np.dot, lambda x: np.dot(x, np.ones(2))),
    (np.matmul, lambda x: x @ np.ones(2)), (np.linalg.norm, np.linalg.norm), (np.max, lambda x: x.max()),
    (np.copy, lambda x: np.copy(x)[0]), (scipy.special.erf, lambda x: np.sum(scipy.special.erf(x)))])
@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_rules_of_functions_win_over_fast_paths(function, call, mode):
    seen = []
    with rules.scope():
        @rules.forward(function)
        def forward(config, func, RT, x, *rest):
            seen.append(func.val)
            return NotImplemented

        @rules.augmented_primal(function)
        def augmented(config, func, RT, x, *rest):
            seen.append(func.val)
            return NotImplemented

        @rules.reverse(function)
        def reverse(config, func, dret, tape, x, *rest):
            raise AssertionError("augmented_primal declined")

        got = gradient(mode, call, np.array([0.5, 1.5]))[0]
        assert seen and all(f is function for f in seen)
    assert_allclose(got, gradient(mode, call, np.array([0.5, 1.5]))[0])


def test_functions_without_a_rule_of_cyads_get_one():
    with pytest.raises(cyad.MissingRuleError):
        gradient(Reverse, lambda x: scipy.special.ellipk(x), 0.3)
    with rules.scope():
        rules.easy_rule(scipy.special.ellipk)(
            lambda out, m: (((scipy.special.ellipe(m) - (1 - m) * out) / (2 * m * (1 - m)),),))
        h = 1e-6
        want = (scipy.special.ellipk(0.3 + h) - scipy.special.ellipk(0.3 - h)) / (2 * h)
        for mode in (Forward, Reverse):
            assert_allclose(gradient(mode, lambda x: scipy.special.ellipk(x), 0.3)[0], want, rtol=1e-8)


def test_python_functions_of_scipy_are_visible_while_they_have_rules():
    from scipy.linalg import expm, solve_triangular
    from scipy.special import logsumexp

    code, signature = logsumexp.__code__, inspect.signature(logsumexp)
    x = np.array([0.5, -1.0, 2.0])
    for _ in range(2):
        with rules.scope():
            rules.easy_rule(logsumexp)(lambda out, x: ((10.0 * np.exp(x - out),),))
            for mode in (Forward, Reverse):
                assert_allclose(gradient(mode, lambda x: logsumexp(x), x)[0], 10 * np.exp(x) / np.exp(x).sum())
            assert_allclose(logsumexp(x, axis=0), np.log(np.exp(x).sum()))
            assert inspect.signature(logsumexp) == signature
            assert rules.has_rule(logsumexp, Reverse)

            @rules.augmented_primal(solve_triangular)
            def augmented(config, func, RT, a: Const | Duplicated, b: Duplicated, **kwargs):
                assert func.val is solve_triangular
                return AugmentedReturn(func.val(a.val, b.val, **{k: v.val for k, v in kwargs.items()}))

            @rules.reverse(solve_triangular)
            def reverse(config, func, dret, tape, a: Const | Duplicated, b: Duplicated, **kwargs):
                w = func.val(a.val.T, dret.dval, lower=not kwargs["lower"].val)
                b.dval += w
                if isinstance(a, Duplicated):
                    a.dval -= np.outer(w, dret.val) * np.tri(*a.val.shape)
                return (None,) * (2 + len(kwargs))

            check_reverse(lambda a, b: np.sum(solve_triangular(a, b, lower=True) ** 2), Active,
                          (np.array([[2.0, 0.0], [1.0, 3.0]]), Duplicated), (np.array([1.0, 2.0]), Duplicated))
        assert logsumexp.__code__ is code and inspect.signature(logsumexp) == signature
        assert not rules.has_rule(logsumexp, Reverse)
    assert_allclose(gradient(Reverse, lambda x: logsumexp(x), x)[0], np.exp(x) / np.exp(x).sum())
    with rules.scope():     # a function with free variables
        def made():
            shift = 1.0

            def f(x):
                return x * x + shift
            return f
        f = made()
        f.__module__ = "scipy.anything"
        rules.easy_rule(f)(lambda out, x: ((out,),))
        assert gradient(Reverse, lambda x: f(x), 2.0) == (5.0,)
    assert gradient(Reverse, lambda x: f(x), 2.0) == (4.0,)
    assert expm(np.zeros((1, 1)))[0, 0] == 1.0


def test_invisible_functions_are_refused():
    for f in (len, scipy.linalg.lapack.dgesv, lambda x: x):
        with pytest.raises(TypeError, match="cyad.primitive"):
            rules.forward(f)
    with pytest.raises(TypeError, match="belongs to a function"):
        rules.forward(3)


# ---- functions with state -------------------------------------------------------------------------------------------

class Model:
    def __init__(self, w):
        self.w = w

    @cyad.primitive
    def apply(self, x):
        return np.sum(self.w * x)

    def __call__(self, x):
        return np.sum(self.w * x)


def test_methods_take_self_as_an_argument():
    class Own(Model):
        @cyad.primitive
        def apply(self, x):
            return np.sum(self.w * x)

    @rules.augmented_primal(Own.apply)
    def augmented(config, func, RT, self: Duplicated, x: Duplicated):
        return AugmentedReturn(func.val(self.val, x.val))

    @rules.reverse(Own.apply)
    def reverse(config, func, dret, tape, self: Duplicated, x: Duplicated):
        self.dval.w[:] += 10.0 * x.val * dret.val
        x.dval[:] += self.val.w * dret.val
        return None, None

    @rules.forward(Own.apply)
    def forward(config, func, RT, self: Duplicated, x: Duplicated):
        return Duplicated(func.val(self.val, x.val), np.sum(10.0 * self.dval.w * x.val + self.val.w * x.dval))

    def f(w, x):
        return Own(w).apply(x) * 2.0

    for mode in (Forward, Reverse):
        dw, dx = gradient(mode, f, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
        assert_allclose(dw, [60.0, 80.0])
        assert_allclose(dx, [2.0, 4.0])
    assert Own(np.ones(2)).apply(np.ones(2)) == 2.0


def test_a_bound_method_has_the_rules_of_its_method():
    with rules.scope():
        rules.easy_rule(Model(np.ones(2)).apply)(lambda out, self, x: ((Constant, 10.0 * self.w),))
        assert rules.has_rule(Model.apply, Reverse)
        assert_allclose(gradient(Reverse, lambda x: Model(np.array([1.0, 3.0])).apply(x), np.ones(2))[0], [10.0, 30.0])


@pytest.mark.parametrize("of", [lambda model: model, lambda model: model.__call__])
def test_the_state_of_a_callable_is_the_function_part(of):
    def f(w, x):
        model.w = w
        return p(x) * 2.0

    def weights(part):
        return getattr(part, "__self__", part).w

    model = Model(None)
    p = cyad.primitive(of(model))

    @rules.augmented_primal(p)
    def augmented(config, func: Duplicated, RT, x: Duplicated):
        return AugmentedReturn(func.val(x.val))

    @rules.reverse(p)
    def reverse(config, func: Duplicated, dret, tape, x: Duplicated):
        weights(func.dval)[:] += 10.0 * x.val * dret.val
        x.dval[:] += weights(func.val) * dret.val
        return (None,)

    @rules.forward(p)
    def forward(config, func: Duplicated, RT, x: Duplicated):
        return Duplicated(func.val(x.val), np.sum(10.0 * weights(func.dval) * x.val + weights(func.val) * x.dval))

    for mode in (Forward, Reverse):
        dw, dx = gradient(mode, f, np.array([1.0, 2.0]), np.array([3.0, 4.0]))
        assert_allclose(dw, [60.0, 80.0])
        assert_allclose(dx, [2.0, 4.0])


def test_structures_of_arrays_and_of_numbers():
    def body(p, x):
        return p["a"] * np.sum(p["w"] * x)

    def forward(config, func, RT, p: Duplicated, x: Duplicated):
        return Duplicated(func.val(p.val, x.val), p.dval["a"] * np.sum(p.val["w"] * x.val)
                          + p.val["a"] * np.sum(p.dval["w"] * x.val + p.val["w"] * x.dval))

    def augmented(config, func, RT, p: MixedDuplicated, x: Duplicated):
        return AugmentedReturn(func.val(p.val, x.val))

    def reverse(config, func, dret, tape, p: MixedDuplicated, x: Duplicated):
        shadow = p.dval.value
        shadow["w"] += dret.val * p.val["a"] * x.val
        shadow["a"] += dret.val * np.sum(p.val["w"] * x.val)
        x.dval += dret.val * p.val["a"] * p.val["w"]
        return None, None

    f = ruled(body, forward, augmented, reverse)
    p, x = {"a": 2.0, "w": np.array([1.0, -3.0]), "name": "p"}, np.array([0.5, 4.0])
    want = gradient(Reverse, lambda p, x: body(p, x) ** 2, p, x)
    for mode in (Forward, Reverse):
        got = gradient(mode, lambda p, x: f(p, x) ** 2, p, x)
        assert_allclose(got[0]["a"], want[0]["a"], rtol=1e-13)
        assert_allclose(got[0]["w"], want[0]["w"], rtol=1e-13)
        assert_allclose(got[1], want[1], rtol=1e-13)


def test_results_that_are_structures():
    def body(x, a):
        return {"y": x * a, "s": np.sum(x), "n": 3}

    def forward(config, func, RT, x: Duplicated, a: Duplicated):
        return Duplicated(func.val(x.val, a.val), {"y": x.dval * a.val + x.val * a.dval, "s": np.sum(x.dval), "n": 0})

    def augmented(config, func, RT, x: Duplicated, a: Active):
        return AugmentedReturn(func.val(x.val, a.val))

    def reverse(config, func, dret: MixedDuplicated, tape, x: Duplicated, a: Active):
        g = dret.dval.value
        x.dval += g["y"] * a.val + g["s"]
        return None, np.sum(g["y"] * x.val)

    f = ruled(body, forward, augmented, reverse)

    def g(x, a, f=f):
        out = f(x, a)
        return np.sum(out["y"] ** 2) * out["s"] * out["n"]

    x = np.array([1.0, -2.0, 0.5])
    want = gradient(Reverse, lambda x, a: g(x, a, body), x, 1.5)
    for mode in (Forward, Reverse):
        got = gradient(mode, g, x, 1.5, **({"chunk": 1} if mode is Forward else {}))
        assert_allclose(got[0], want[0], rtol=1e-13)
        assert_allclose(got[1], want[1], rtol=1e-13)


def test_shadows_of_rules_go_by_key():
    def body(p):
        return {"a": p["u"] ** 2, "b": p["v"] ** 3}

    def forward(config, func, RT, p: Duplicated):
        return Duplicated(func.val(p.val), {"b": 3 * p.val["v"] ** 2 * p.dval["v"], "a": 2 * p.val["u"] * p.dval["u"]})

    def augmented(config, func, RT, p: MixedDuplicated):
        return AugmentedReturn(func.val(p.val))

    def reverse(config, func, dret: Active, tape, p: MixedDuplicated):
        g, shadow = dret.val, p.dval.value
        p.dval.value = {"v": shadow["v"] + 3 * p.val["v"] ** 2 * g["b"], "u": shadow["u"] + 2 * p.val["u"] * g["a"]}
        return (None,)

    f = ruled(body, forward, augmented, reverse)

    def total(p):
        out = f(p)
        return 10.0 * out["a"] + out["b"]

    p = {"u": 3.0, "v": 2.0}
    for mode in (Forward, Reverse):
        assert gradient(mode, total, p, **({"chunk": 1} if mode is Forward else {})) == ({"u": 60.0, "v": 12.0},)

    def misspelt(config, func, RT, p: Duplicated):
        return Duplicated(func.val(p.val), {"a": 1.0, "c": 2.0})

    with pytest.raises(cyad.ActivityError, match="the shadow has no entry 'b', which the primal has .but 'c'"):
        gradient(Forward, lambda p: ruled(body, misspelt)(p)["a"], p, chunk=1)


# ---- nesting --------------------------------------------------------------------------------------------------------

def hessian_by(outer, inner, f, x):
    """Rows of the Hessian by an outer mode over an inner one."""
    def gradient_entry(i):
        return lambda x: gradient(inner, f, x)[0][i]
    return np.array([gradient(outer, gradient_entry(i), x)[0] for i in range(x.size)])


@pytest.mark.parametrize("outer", [Forward, Reverse])
@pytest.mark.parametrize("inner", [Forward, Reverse])
def test_rules_are_differentiated_by_outer_calls(outer, inner):
    square = make_scale()

    def f(x):
        return np.sum(square(square(x)) * x)

    x = np.array([0.5, -1.5])
    assert_allclose(hessian_by(outer, inner, f, x), np.diag(20 * x**3), rtol=1e-12)


@pytest.mark.parametrize("outer", [Forward, Reverse])
@pytest.mark.parametrize("inner", [Forward, Reverse])
def test_in_place_rules_are_differentiated_by_outer_calls(outer, inner):
    square_into = make_square_into()

    def f(x):
        work = np.ones(2)
        square_into(work, x)
        s = np.sum(work * x)
        square_into(work, x * s)
        return np.sum(work)

    def g(x):
        return np.sum((x * np.sum(x**3)) ** 2)

    x = np.array([0.5, -1.5])
    assert_allclose(hessian_by(outer, inner, f, x), hessian_by(Reverse, Reverse, g, x), rtol=1e-11)


@pytest.mark.parametrize("outer", [Forward, Reverse])
@pytest.mark.parametrize("inner", [Forward, Reverse])
def test_easy_rules_are_differentiated_by_outer_calls(outer, inner):
    f = ruled(lambda x, a: a * np.sum(x**3), easy=lambda out, x, a: ((3 * a * x**2, np.sum(x**3)),))

    def g(x):
        return f(x, np.sum(x)) * x[0]

    x = np.array([0.5, -1.5])
    want = hessian_by(Reverse, Reverse, lambda x: np.sum(x) * np.sum(x**3) * x[0], x)
    assert_allclose(hessian_by(outer, inner, g, x), want, rtol=1e-12)


@pytest.mark.parametrize("outer", [Forward, Reverse])
@pytest.mark.parametrize("inner", [Forward, Reverse])
def test_scalar_rules_nest(outer, inner):
    f = ruled(lambda x: x**3,
              forward=lambda config, func, RT, x: Duplicated(func.val(x.val), 3 * x.val**2 * x.dval),
              augmented=lambda config, func, RT, x: AugmentedReturn(func.val(x.val), None, x.val),
              reverse=lambda config, func, dret, tape, x: (3 * tape**2 * dret.val,))
    assert_allclose(gradient(outer, lambda x: gradient(inner, lambda x: f(x) * x, x)[0], 2.0)[0], 12 * 4.0)


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_rules_within_rules(mode):
    inner = ruled(lambda x: x * x, easy=lambda out, x: ((20.0 * x,),))
    outer = ruled(lambda x: inner(x),
                  forward=lambda config, func, RT, x: Duplicated(inner(x.val), autodiff(Forward, inner, x)[0]),
                  augmented=lambda config, func, RT, x: AugmentedReturn(inner(x.val)),
                  reverse=lambda config, func, dret, tape, x: (gradient(Reverse, inner, x.val)[0] * dret.val,))
    assert_allclose(gradient(mode, lambda x: outer(x) * 3.0, 2.0)[0], 120.0)


# ---- easy rules -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_easy_rules_for_arrays_in_and_out(dtype):
    def body(A, x):
        return A @ x, np.sum(x * x), 7

    def partials(out, A, x):
        y, s, n = out
        dA = np.einsum("ik,j->ikj", np.eye(len(y), dtype=A.dtype), x)
        return (dA, A), (Constant, 2 * x), (Constant, Constant)

    f = ruled(body, easy=partials)

    def g(A, x, f=f):
        y, s, n = f(A, x)
        A *= 0.0
        x[:] = 1.0
        return np.sum(y * y) * s * n

    rng = np.random.default_rng(0)
    A, x = rng.normal(size=(2, 3)).astype(dtype), rng.normal(size=3).astype(dtype)
    want = gradient(Reverse, lambda A, x: g(A, x, body), A.copy(), x.copy())
    for mode in (Forward, Reverse):
        got = gradient(mode, g, A.copy(), x.copy())
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype
            assert_allclose(a, b, rtol=1e-12 if dtype is np.float64 else 1e-4)


def test_easy_rules_for_complex_functions_and_strong_zero():
    f = ruled(lambda z: z * z * 1j, easy=lambda out, z: ((2j * z,),))
    z = 1.5 - 0.5j
    for mode in (Forward, Reverse):
        assert_allclose(gradient(mode, lambda z: np.real(f(z)) * 2.0, z)[0],
                        gradient(mode, lambda z: np.real(z * z * 1j) * 2.0, z)[0])
    root = ruled(lambda x: np.sqrt(x), easy=lambda out, x: ((np.diag(0.5 / out),),))
    x = np.array([0.0, 4.0])
    for mode in (Forward, Reverse):
        dx, = gradient(mode.with_strong_zero(), lambda x: root(x)[1], x)
        assert_allclose(dx, [0.0, 0.25])


@pytest.mark.parametrize("kind", [float, np.float64, np.float32])
def test_easy_rules_of_numbers(kind):
    """Such calls are records of the tape and lanes of numbers; the function by itself is what they must agree with."""
    def cast(v):   # numbers of an outer differentiation stay
        return kind(v) if type(v) in (float, np.float64, np.float32) else v

    def body(x, y, n):
        return cast(x * y**n / (x + y))

    def partials(out, x, y, n):
        return ((cast(y ** (n + 1) / (x + y)**2), cast(x * y**n * (n * (x + y) - y) / y / (x + y)**2), Constant),)
    f = ruled(body, easy=partials)

    def looped(f):
        def g(x):
            s = 0.0
            for i in range(1, len(x)):
                s += f(x[i - 1] * s + x[i], x[i], 3) * f(x[i], x[i], 2)   # the same number twice, too
            return s
        return g
    plain = looped(lambda x, y, n: x * y**n / (x + y))
    x, v = np.array([0.3, 0.5, 0.7, 1.1], np.float32 if kind is np.float32 else float), np.array([1.0, -2.0, 0.5, 0.3])
    close = {"rtol": 2e-5 if kind is np.float32 else 1e-13}
    want, = gradient(Reverse, plain, x)
    for mode in (Reverse, Forward):
        got, = gradient(mode, looped(f), x)
        assert got.dtype == x.dtype
        assert_allclose(got, want, **close)
    rows, = cyad.jacobian(Reverse, lambda x: np.stack([looped(f)(x), f(x[0], x[1], 1)]), x)
    assert_allclose(rows[0], want, **close)
    if kind is not np.float32:
        assert_allclose(cyad.hvp(looped(f), x, v), cyad.hvp(plain, x, v), **close)


@pytest.mark.parametrize("mode", [Reverse, Forward])
def test_easy_rules_of_numbers_at_the_end_of_their_domain(mode):
    root = ruled(lambda x: np.sqrt(x), easy=lambda out, x: ((np.inf if x == 0 else 0.5 / out,),))

    def f(x):
        return 0.0 * root(x[0]) + root(x[1]) + root(0.0 * x[0])
    with np.errstate(invalid="ignore"):
        assert np.isnan(gradient(mode, f, np.array([0.0, 4.0]))[0][0])
    strong = mode.with_strong_zero()
    if mode is Reverse:
        got, = gradient(strong, lambda x: 0.0 * root(x[0]) + root(x[1]), np.array([0.0, 4.0]))
        assert_allclose(got, [0.0, 0.25])
    got, = gradient(strong, lambda x: root(0.0 * x[0]) + root(x[1]), np.array([0.0, 4.0]))
    assert_allclose(got[1], 0.25)
    count = ruled(lambda x: int(x), easy=lambda out, x: ((1.0,),))   # an int has no derivative
    assert_allclose(gradient(mode, lambda x: count(x[0]) * x[1], np.array([3.0, 4.0]))[0], [0.0, 3.0])
    wrong = ruled(lambda x, y: x * y, easy=lambda out, x, y: ((y,),))
    with pytest.raises(cyad.ActivityError, match="1 partial derivatives for 2 arguments"):
        gradient(mode, lambda x: wrong(x[0], x[1]), np.array([3.0, 4.0]))


def test_easy_rules_survive_writes_into_what_they_returned():
    keep = ruled(lambda x, y: x @ y, easy=lambda out, x, y: ((y, x),))

    def g(x, y):
        s = keep(x, y)
        x[:] = 0.0
        y[:] = 0.0
        return s * s

    x, y = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    dx, dy = gradient(Reverse, g, x.copy(), y.copy())
    assert_allclose(dx, 22 * y)
    assert_allclose(dy, 22 * x)


def test_partials_that_somebody_keeps_are_copied():
    class Model:
        w = np.array([1.0, 2.0])

    work = np.zeros(2)

    def into_work(out, x):
        work[:] = Model.w
        return ((work,),)

    for partials in (lambda out, x: ((Model.w,),), lambda out, x: ((Model.w[:],),), into_work):
        f = ruled(lambda x: x @ Model.w, easy=partials)

        def g(x, f=f):
            y = f(x)
            Model.w *= 50.0
            work[:] = 70.0
            return y

        for mode in (Forward, Reverse):
            Model.w[:] = 1.0, 2.0
            assert_allclose(gradient(mode, g, np.ones(2))[0], [1.0, 2.0])


def test_partials_of_the_row_alone_are_not_copied():
    made = []

    def partials(out, x):
        p = np.full(x.shape, 2.0)
        made.append(weakref.ref(p))
        return ((p,),)

    f = ruled(lambda x: 2.0 * np.sum(x), easy=partials)

    def g(x):
        y = f(x)
        assert made[0]() is not None
        return y

    assert_allclose(gradient(Reverse, g, np.ones(2))[0], [2.0, 2.0])
    assert made[0]() is None


@pytest.mark.parametrize("mode", [Forward, Reverse])
@pytest.mark.parametrize("body", [lambda x: x[:2], lambda x: x, lambda x: (x.sum(), x[1:]), lambda x: x[::-1]])
def test_easy_rules_refuse_functions_that_return_views(mode, body):
    f = ruled(body, easy=lambda out, x: ((Constant,),) * (2 if isinstance(out, tuple) else 1))

    def g(x):
        y = f(x)
        y = y[1] if isinstance(y, tuple) else y
        y *= 2.0
        return np.sum(x * x)

    with pytest.raises(cyad.ActivityError, match=r"returned its argument 1, or a view of it.*y\.copy\(\)"):
        gradient(mode, g, np.ones(3))
    assert g(np.ones(3)) > 3.0


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_easy_rules_refuse_functions_that_write(mode):
    def body(a, x):
        x *= 2.0
        return a * np.sum(x)

    f = ruled(body, easy=lambda out, a, x: ((out / a, np.full(x.shape, 2.0 * a)),))
    with pytest.raises(cyad.ActivityError, match="wrote its argument 2.*easy_rule"):
        gradient(mode, f, 1.0, np.ones(3))
    for x in (np.ones(3), np.ones(6)[::2]):
        with pytest.raises(cyad.ActivityError, match="wrote its argument 2"):
            gradient(mode, lambda a, x=x: f(a, x), 1.0)

    def scales_x(out, x):
        x *= 2.0
        return ((np.ones(x.shape), Constant),)

    def scales_out(out, x):
        out[0][:] = 0.0
        return (np.eye(3),), (Constant,)

    for f in (ruled(lambda x: np.sum(x), easy=scales_x), ruled(lambda x: (x.copy(), 1.0), easy=scales_out)):
        with pytest.raises(ValueError, match="read-only") as caught:
            gradient(mode, f, np.ones(3))
        assert "work on a copy" in caught.value.__notes__[0]


@pytest.mark.parametrize("mode", [Forward, Reverse])
@pytest.mark.parametrize("partials", [
    lambda out, x, a: ((a, x),), lambda out, x, a=9.0: ((a, x),), lambda out, x, *rest: ((rest[0], x),)])
def test_easy_rules_get_arguments_as_the_signature_has_them(mode, partials):
    def scaled(x, a=2.0):
        return a * x

    f = ruled(scaled, easy=partials)
    assert gradient(mode, lambda x: f(x), 3.0) == (2.0,)
    assert gradient(mode, lambda x: f(x=x), 3.0) == (2.0,)
    assert gradient(mode, lambda x, a: f(x, a), 3.0, 5.0) == (5.0, 3.0)
    assert gradient(mode, lambda x, a: f(a=a, x=x), 3.0, 5.0) == (5.0, 3.0)


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_easy_rules_of_fewer_arguments_than_the_signature(mode):
    f = ruled(lambda x, a=2.0, *, b=1.0: a * x, easy=lambda out, x: ((20.0,),))
    assert gradient(mode, lambda x: f(x), 3.0) == (20.0,)
    f = ruled(lambda x, a=2.0, b=1.0: a * x * b, easy=lambda out, x, a, b: ((a * b,),))
    assert gradient(mode, lambda x: f(x), 3.0) == (2.0,)
    f = ruled(lambda x, *, a=2.0, b=1.0: a * x * b, easy=lambda out, x, *, a, b: ((a * b, x * b, x * a),))
    assert gradient(mode, lambda x, b: f(x, b=b), 3.0, 5.0) == (10.0, 6.0)


@pytest.mark.parametrize("partials, what", [
    (lambda out, x: (2 * x,), "a tuple of partial derivatives for each result"),
    (lambda out, x: ((1.0, 2.0),), "2 partial derivatives for 1"),
    (lambda out, x: ((2.0,),), r"not an array of shape \(2,\)"),
    (lambda out, x: ((np.ones((2, 2)),),), r"shape \(2, 2\)"),
    (lambda out, x: None, "None"), (lambda out, x: (("a",),), "a str")])
def test_bad_partials(partials, what):
    f = ruled(lambda x: np.sum(x * x), easy=partials)
    with pytest.raises(TypeError, match=what) as caught:
        gradient(Reverse, f, np.ones(2))
    assert "easy_rule" in caught.value.__notes__[0]


# ---- bad rules ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("forward, what", [
    (lambda config, func, RT, x: 1.0, r"Duplicated\(primal, shadow\) was due"),
    (lambda config, func, RT, x: None, r"returned None where Duplicated\(primal, shadow\) was due"),
    (lambda config, func, RT, x: Active(1.0), "Active where Duplicated"),
    (lambda config, func, RT, x: Duplicated(1.0, "a"), "shadow of a number"),
    (lambda config, func, RT, x: Duplicated((1.0, 2.0), (1.0,)), "the shadow has length 1, the primal 2"),
    (lambda config, func, RT, x: BatchDuplicated(1.0, (1.0,)), "BatchDuplicated where"),
    (lambda config, func, RT, x: setattr(x, "dval", 2.0), "assigned dval of argument 1"),
    (lambda config, func, RT, x: setattr(x, "val", 2.0), "assigned val")])
def test_bad_forward_rules(forward, what):
    f = ruled(lambda x: x, forward)
    with pytest.raises(cyad.ActivityError, match=what) as caught:
        gradient(Forward, lambda x: f(x) * 1.0, 2.0)
    assert "<lambda>" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


@pytest.mark.parametrize("returned, what", [
    (None, "one entry for each of the 2"), ((1.0,), "a tuple of 1"), ((None, 1.0), "None for argument 1"),
    ((1.0, 1.0), "argument 2, which is Duplicated"),
    ((np.ones(2), None), "a number"), (("a", None), "a str"), ([1.0, None], "a list")])
def test_bad_reverse_rules(returned, what):
    f = ruled(lambda x, y: x, augmented=lambda config, func, RT, x, y: AugmentedReturn(x.val),
              reverse=lambda config, func, dret, tape, x, y: returned)
    with pytest.raises(cyad.ActivityError, match=what):
        autodiff(Reverse, lambda x, y: f(x, y) * 1.0, Active, Active(1.0), Duplicated(np.ones(2), np.zeros(2)))


def test_bad_augmented_rules():
    def call(augmented):
        f = ruled(lambda x: x, augmented=augmented, reverse=lambda config, func, dret, tape, x: (None,))
        with pytest.raises(cyad.ActivityError) as caught:
            gradient(Reverse, lambda x: f(x) * 1.0, 2.0)
        return str(caught.value)

    assert "returned no primal" in call(lambda config, func, RT, x: AugmentedReturn(None))
    assert "Active as the primal" in call(lambda config, func, RT, x: AugmentedReturn(Active(1.0)))
    assert "returned an int" in call(lambda config, func, RT, x: AugmentedReturn(4))
    assert "an array of objects" in call(lambda config, func, RT, x: AugmentedReturn(np.array([2.0], object)))
    assert "AugmentedReturn(primal, shadow, tape)" in call(lambda config, func, RT, x: 1.0)
    assert "AugmentedReturn(primal, shadow, tape)" in call(lambda config, func, RT, x: (1.0, None, None))

    def says_active(config, func, RT: type[Active], x):
        return AugmentedReturn(np.ones(2))

    def forgets(config, func, RT: type[Active], x):
        return AugmentedReturn(None)

    assert "hint RT: type[Duplicated]" in call(says_active)
    assert "returned no primal" in call(forgets)

    def counts(config, func, RT: type[Const], x):
        return AugmentedReturn(4)

    f = ruled(lambda x: 4, augmented=counts, reverse=lambda config, func, dret, tape, x: (0.0,))
    assert gradient(Reverse, lambda x: f(x) * x, 2.0) == (4.0,)


def test_captured_active_values_are_noticed():
    def g(x):
        f = ruled(lambda y: y, augmented=lambda config, func, RT, y: AugmentedReturn(y.val * x),
                  reverse=lambda config, func, dret, tape, y: (x.val,),
                  forward=lambda config, func, RT, y: Duplicated(y.val * x, 1.0))
        return f(x)

    for mode in (Forward, Reverse):
        with pytest.raises(cyad.ActivityError, match="captured an active value"):
            gradient(mode, g, 2.0)


def test_an_exception_in_a_rule_names_rule_and_call():
    def forward(config, func, RT, x):
        raise ZeroDivisionError("mine")

    f = ruled(lambda x: x, forward)

    def differentiated(x):
        return f(x)

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        gradient(Forward, differentiated, 1.0)
    note, = caught.value.__notes__
    assert "forward rule test_an_exception_in_a_rule_names_rule_and_call.<locals>.forward" in note
    assert "differentiated was differentiated" in note


# ---- inactive code --------------------------------------------------------------------------------------------------

def test_inactive_functions_see_plain_memory():
    @cyad.inactive
    def fill(work, x):
        work[:] = np.arange(len(work))
        return x.copy()

    def f(x):
        work = np.ones(2)
        s = np.sum(work * x)
        same = fill(work, x)
        assert type(same) is np.ndarray and not np.shares_memory(same, x.primal)
        return s + np.sum(work * x) + np.sum(same * x)

    x = np.array([3.0, 5.0])
    for mode in (Forward, Reverse):
        assert_allclose(gradient(mode, f, x)[0], [1.0 + 0.0 + 3.0, 1.0 + 1.0 + 5.0])

    @cyad.inactive
    def writes(x):
        x[0] = 1.0

    with pytest.raises(ValueError, match="read-only") as caught:
        gradient(Reverse, lambda x: (writes(x), np.sum(x))[1], x)
    assert "inactive" in caught.value.__notes__[0]
    assert fill.__name__ == "fill"
    writes(x)
    assert x[0] == 1.0


@pytest.mark.parametrize("view", [lambda x: x[:2], lambda x: x, lambda x: {"y": x[::-1]}, lambda x: x.view(int)])
def test_views_that_inactive_functions_return(view):
    f = cyad.inactive(view)

    def leaf(y):
        return y["y"] if isinstance(y, dict) else y

    for mode in (Forward, Reverse):
        with pytest.raises(cyad.ActivityError, match="inactive.*y.copy"):
            gradient(mode, lambda x: np.sum(x) + leaf(f(x))[0], np.ones(3))

    def program(x, t, f=f):
        y = leaf(f(t))
        t[0] = 5.0
        y[1] = 7.0
        return x * np.sum(t) * y[0]

    if leaf(view(np.ones(3))).dtype == float:
        want = program(1.0, np.ones(3), view)
        for mode in (Forward, Reverse):
            assert gradient(mode, lambda x: program(x, np.ones(3)), 1.0) == (want,)
            assert gradient(mode, lambda x: gradient(Reverse, lambda y: program(x * y, np.ones(3)), 2.0)[0], 1.0) == (
                want,)
            assert autodiff(Reverse, program, Active, Active(1.0), Const(np.ones(3)))[0][0] == want


def test_inactive_code_is_constant_to_all_levels():
    value = cyad.inactive(lambda p: p["x"] * 2.0)

    def f(x):
        return gradient(Reverse, lambda y: x * y * value({"x": y}) * cyad.ignore_derivatives([y, x])[1], x)[0]

    # d/dy at y = x: x * 2x * x; the outer derivative sees the first x only.
    assert gradient(Forward, f, 3.0)[0] == pytest.approx(18.0)
    assert cyad.ignore_derivatives("text") == "text"


def test_inactive_types_are_left_alone():
    class Box:
        def __init__(self, x):
            self.x = x

    f = ruled(lambda box, x: box.x * x, easy=lambda out, box, x: ((Constant, 100.0),))
    with pytest.raises(cyad.MissingRuleError, match="not structures"):
        gradient(Reverse, lambda x: f(Box(x), x), 2.0)
    assert rules.inactive_type(Box) is Box
    assert gradient(Reverse, lambda x: f(Box(1.0), x), 2.0) == (100.0,)
    with pytest.raises(TypeError):
        rules.inactive_type(3)


# ---- tapes that outlive their call, threads ------------------------------------------------------------------------

def make_in_place_sum():
    """y[:] = x * x, returns their sum."""
    def augmented(config, func, RT, y: Duplicated, x: Duplicated):
        return AugmentedReturn(func.val(y.val, x.val))

    def reverse(config, func, dret, tape, y: Duplicated, x: Duplicated):
        x.dval += 2 * x.val * (dret.val + y.dval)
        y.dval[:] = 0.0
        return None, None

    def forward(config, func, RT, y: Duplicated, x: Duplicated):
        y.dval[:] = 2 * x.val * x.dval
        return Duplicated(func.val(y.val, x.val), np.sum(y.dval))

    def body(y, x):
        y[:] = x * x
        return np.sum(y)

    f = ruled(body, forward, augmented, reverse)

    def call(x, f=f):
        y = np.zeros_like(x)
        s = f(y, x)
        x[0] = 5.0
        return s * y[1]

    return call, lambda x: call(x, body)


def test_rules_on_tapes_that_are_swept_more_than_once():
    f, g = make_in_place_sum()
    x = np.array([1.0, 2.0, 3.0])
    want, = gradient(Reverse, g, x.copy())
    value, pull = cyad.vjp(lambda x: f(x.copy()), x)
    assert value == g(x.copy())
    for seed in (1.0, -2.0):
        assert_allclose(pull(seed)[0], seed * want)
    forward, reverse = cyad.autodiff_thunk(cyad.ReverseSplitWithPrimal, f, Active, Duplicated)
    y, dy = x.copy(), np.zeros(3)
    tape, primal, _ = forward(Duplicated(y, dy))
    y[:] = 17.0
    reverse(Duplicated(y, dy), 1.0, tape)
    assert_allclose(dy, want)
    J, = cyad.jacobian(Reverse, lambda x: np.stack([f(x.copy()), x[0] * f(x.copy())]), x, chunk=2)
    assert_allclose(J, [want, want * x[0] + np.array([g(x.copy()), 0.0, 0.0])])
    assert_allclose(cyad.hessian(lambda x: f(x.copy()))(x), cyad.hessian(lambda x: g(x.copy()))(x))


def test_a_shadow_made_for_one_lane_is_used_for_one_at_a_time():
    def augmented(config, func, RT, x: Duplicated | BatchDuplicated):
        y = func.val(x.val)
        shadow = np.zeros_like(y) if config.width == 1 else tuple(np.zeros_like(y) for _ in range(config.width))
        return AugmentedReturn(y, shadow, shadow)

    def reverse(config, func, dret, tape, x: Duplicated | BatchDuplicated):
        for dx, dy in zip(x.dval, tape, strict=True) if config.width > 1 else ((x.dval, tape),):
            dx += 2 * x.val * dy
        return (None,)

    square = ruled(lambda x: x * x, augmented=augmented, reverse=reverse)
    x = np.array([1.0, 2.0, 3.0])
    J, = cyad.jacobian(Reverse, lambda x: square(x) * x, x, chunk=2)
    assert_allclose(J, np.diag(3 * x**2))
    lanes = (np.zeros(3), np.zeros(3))
    autodiff(Reverse, lambda x: np.sum(square(x) * x), Active, BatchDuplicated(x, lanes))
    assert_allclose(lanes, [3 * x**2] * 2)


def test_objects_with_derivatives_as_functions_reach_rules_of_their_methods():
    class Line:
        def __init__(self, a):
            self.a = a

        @cyad.primitive
        def __call__(self, x):
            return np.sum(self.a * x)

    @rules.augmented_primal(Line.__call__)
    def augmented(config, func, RT, self: Duplicated, x: Active):
        return AugmentedReturn(func.val(self.val, x.val))

    @rules.reverse(Line.__call__)
    def reverse(config, func, dret, tape, self: Duplicated, x: Active):
        self.dval.a += 10.0 * x.val * dret.val
        return None, np.sum(self.val.a) * dret.val

    line, dline = Line(np.array([1.0, 2.0])), Line(np.zeros(2))
    assert autodiff(Reverse, Duplicated(line, dline), Active, Active(3.0)) == ((3.0,),)
    assert_allclose(dline.a, [30.0, 30.0])


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_rules_of_functions_that_take_lists(mode):
    with rules.scope():
        @rules.forward(np.concatenate)
        def forward(config, func, RT, arrays: Duplicated, *rest):
            return Duplicated(func.val(arrays.val), 10.0 * func.val(arrays.dval))

        @rules.augmented_primal(np.concatenate)
        def augmented(config, func, RT, arrays: Duplicated, *rest):
            return AugmentedReturn(func.val(arrays.val))

        @rules.reverse(np.concatenate)
        def reverse(config, func, dret, tape, arrays: Duplicated, *rest):
            at = 0
            for d in arrays.dval:
                d += 10.0 * dret.dval[at:at + d.size]
                at += d.size
            return (None,) * (1 + len(rest))

        def f(x, y):
            return np.sum(np.concatenate([x, np.ones(1), y]) * np.arange(4.0))

        dx, dy = gradient(mode, f, np.ones(2), np.ones(1))
        assert_allclose(dx, [0.0, 10.0])
        assert_allclose(dy, [30.0])


@pytest.mark.parametrize("mode", [Forward, Reverse])
def test_complex_and_single_precision_numbers(mode):
    f = ruled(lambda z: z * z,
              forward=lambda config, func, RT, z: Duplicated(func.val(z.val), 2 * z.val * z.dval),
              augmented=lambda config, func, RT, z: AugmentedReturn(func.val(z.val)),
              reverse=lambda config, func, dret, tape, z: (np.conjugate(2 * z.val) * dret.val,))
    z = 1.5 - 0.5j
    want = gradient(Reverse, lambda z: np.real(z * z * (2 + 1j)), z)[0]
    if mode is Reverse:
        assert_allclose(gradient(mode, lambda z: np.real(f(z) * (2 + 1j)), z)[0], want)
    else:
        assert_allclose(gradient(mode, lambda z: np.real(f(z) * (2 + 1j)), z, chunk=1)[0], want)
    d, = gradient(mode, lambda x: f(x) * 1, np.float32(3.0))
    assert d == 6.0 and type(d) is type(gradient(mode, lambda x: x * x * 1, np.float32(3.0))[0])


def test_threads_share_a_primitive():
    f, g = make_in_place_sum()
    x = np.array([1.0, 2.0, 3.0])
    want, = gradient(Reverse, g, x.copy())
    wrong = []

    def work():
        for _ in range(100):
            got, = gradient(Reverse, f, x.copy())
            if not np.allclose(got, want):
                wrong.append(got)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


# ---- outside differentiation ----------------------------------------------------------------------------------------

def test_a_primitive_is_the_function_outside():
    import pickle

    assert cyad.primitive(np.sin) is np.sin
    assert cyad.primitive(module_level) is module_level
    assert module_level(3) == 4 and module_level.__name__ == "module_level" and module_level.__doc__ == "Adds one."
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    with pytest.raises(TypeError):
        cyad.primitive(3)


@cyad.primitive
def module_level(x):
    """Adds one."""
    return x + 1


def test_nothing_active_runs_the_function_itself():
    seen = []

    def body(y, x):
        seen.append((type(y), type(x)))
        y[:] = x
        return y

    f = ruled(body, easy=lambda out, y, x: NotImplemented)
    y = np.zeros(2)

    def g(y, x, a):
        s = np.sum(y * a)
        return s + np.sum(f(y, x)) * a + np.sum(y * a)

    for mode in (Forward, Reverse):
        y[:] = 5.0
        out = autodiff(ReverseWithPrimal if mode is Reverse else ForwardWithPrimal, g, Const(y), Const(np.ones(2)),
                       Active(3.0) if mode is Reverse else Duplicated(3.0, 1.0))
        assert out[1] == 42.0
        assert (out[0][2] if mode is Reverse else out[0]) == 14.0
    assert set(seen) == {(np.ndarray, np.ndarray)}
