"""Rules in the style of ChainRules: memory, structures, batches, orders, and what is said of rules that are wrong."""
import tracemalloc

import numpy as np
import pytest
from numpy.testing import assert_allclose

import cyad
from cyad import (
    Active,
    BatchDuplicated,
    Const,
    Duplicated,
    Forward,
    NoTangent,
    ProjectTo,
    Reverse,
    ReverseSplitNoPrimal,
    ZeroTangent,
    autodiff,
    autodiff_thunk,
    gradient,
    import_frule,
    import_rrule,
    thunk,
    unthunk,
)
from cyad.testing import check_forward, check_grads, check_reverse

X = np.array([2.0, 3.0, -1.0])


def sumsq(x):
    return np.sum(x * x)


def sumsq_rrule(x):
    """Keeps x in its closure."""
    return np.sum(x * x), lambda ybar: (NoTangent(), 2 * x * ybar)


def scaled_rrule(a, x):
    return a * x, lambda g: (NoTangent(), np.sum(g * x), a * g)


def scaled_frule(tangents, a, x):
    return a * x, tangents[1] * x + a * tangents[2]


def both(f, rrule, frule):
    return import_frule(import_rrule(f, rrule=rrule), frule=frule)


scaled = both(lambda a, x: a * x, scaled_rrule, scaled_frule)


# ---- against differences --------------------------------------------------------------------------------------------

def test_every_mode_order_and_width():
    check_grads(scaled, 2.0, X, order=1)
    check_grads(lambda a, x: np.sum(scaled(a, x) ** 2) * a, 2.0, X, order=3)


def test_forward_through_a_reverse_rule_and_back():
    f = import_rrule(sumsq, rrule=sumsq_rrule)
    check_grads(lambda x: f(x) ** 2 * x[0], X)


@pytest.mark.parametrize("kind", [Duplicated, BatchDuplicated])
def test_activities(kind):
    for a, x in ((Const, kind), (Const, Const)):
        check_forward(scaled, None, (2.0, a), (X, x), width=3)
        check_reverse(scaled, Duplicated, (2.0, a), (X, x), width=3)
    check_reverse(scaled, Duplicated, (2.0, Active), (X, Const))
    check_forward(scaled, Duplicated, (2.0, kind), (X, Const))
    check_forward(scaled, Duplicated, (2.0, kind), (X, kind), width=3)


def test_results_in_structures():
    def f(x, a):
        return {"y": x * a, "s": (np.sum(x), a), "n": 3}

    def f_rrule(x, a):
        def pullback(g):
            assert g["n"] == NoTangent() and isinstance(g["s"], tuple)
            return NoTangent(), g["y"] * a + g["s"][0], np.sum(g["y"] * x) + g["s"][1]
        return f(x, a), pullback

    def f_frule(tangents, x, a):
        _, dx, da = tangents
        return f(x, a), {"y": dx * a + x * da, "s": (np.sum(dx), da), "n": NoTangent()}

    imported = both(f, f_rrule, f_frule)
    check_forward(imported, Duplicated, (X, Duplicated), (2.0, Duplicated))
    check_reverse(imported, Duplicated, (X, Duplicated), (2.0, Active))
    (gx, ga) = gradient(Reverse, lambda x, a: imported(x, a)["s"][0] * a, X, 2.0)
    assert_allclose(gx, 2.0)
    assert ga == pytest.approx(np.sum(X))


def test_results_without_derivatives():
    def refuse(g):
        raise AssertionError("there is nothing to pull back")

    f = import_rrule(np.argsort, rrule=lambda x: (np.argsort(x), refuse))
    assert_allclose(gradient(Reverse, lambda x: np.sum(x[f(x)] * np.arange(3.0)), X)[0], [1.0, 2.0, 0.0])
    g = both(lambda a: (int(a), "s"), lambda a: ((int(a), "s"), refuse), lambda t, a: ((int(a), "s"), NoTangent()))
    assert gradient(Reverse, lambda a: g(a)[0] * a, 3.0) == (3.0,)
    assert gradient(Forward, lambda a: g(a)[0] * a, 3.0) == (3.0,)


def test_structured_arguments():
    def f(p, x):
        return p["w"][0] @ x * p["b"]

    def f_rrule(p, x):
        def pullback(g):
            return NoTangent(), {"w": (np.outer(g, x) * p["b"],), "b": g @ (p["w"][0] @ x), "name": None}, \
                p["w"][0].T @ g * p["b"]
        return f(p, x), pullback

    imported, p = import_rrule(f, rrule=f_rrule), {"w": (np.arange(6.0).reshape(2, 3),), "b": 3.0, "name": "layer"}
    for through in (f, imported):
        got = gradient(Reverse, lambda p, x, through=through: np.sum(through(p, x) ** 2), p, X)
        if through is f:
            want = got
    assert_allclose(got[0]["w"][0], want[0]["w"][0])
    assert_allclose([got[0]["b"], *got[1]], [want[0]["b"], *want[1]])
    assert got[0]["name"] == "layer"


def test_complex_values():
    def f_rrule(z, x):
        def pullback(g):
            gz = g * np.conj(x)
            return NoTangent(), np.sum(gz) if np.ndim(z) == 0 else gz, g * np.conj(z)
        return z * x, pullback

    f = import_rrule(lambda z, x: z * x, rrule=f_rrule)
    z = np.array([1.0 + 2.0j, -0.5j, 2.0])
    check_reverse(f, Duplicated, (z, Duplicated), (X, Duplicated))
    check_reverse(lambda z, x: f(z, x), Duplicated, (1.0 + 2.0j, Active), (X, Duplicated))


def test_keyword_arguments():
    def f_rrule(x, *, power, name="f"):
        return x**power, lambda g: (NoTangent(), power * x ** (power - 1) * g)

    f = import_rrule(lambda x, *, power, name="f": x**power, rrule=f_rrule)
    check_reverse(f, Duplicated, (np.abs(X), Duplicated), kwargs={"power": 3, "name": "g"})
    with pytest.raises(cyad.MissingRuleError, match="power"):
        gradient(Reverse, lambda x, p: np.sum(f(x, power=p)), np.abs(X), 3.0)


# ---- memory ---------------------------------------------------------------------------------------------------------

def test_nothing_is_copied_and_nothing_can_be_written():
    seen = []

    def f_rrule(x):
        seen.append(x)
        with pytest.raises(ValueError, match="read-only"):
            x[0] = 1.0
        return np.sum(x * x), lambda g: (NoTangent(), 2 * x * g)

    f = import_rrule(sumsq, rrule=f_rrule)
    x = np.linspace(0.0, 1.0, 1_000_000)

    def program(x):
        s = np.sum(x * x)      # the tape refers to x already
        return s * f(x) * f(x[::2])

    (g,) = gradient(Reverse, program, x)
    assert seen[0].ctypes.data == x.ctypes.data and np.shares_memory(seen[1], x)
    s = np.sum(x * x)
    e = np.sum(x[::2] ** 2)
    want = 4 * x * s * e
    want[::2] += 2 * x[::2] * s * s
    assert_allclose(g, want)


def test_memory_of_a_gradient_is_its_shadow_and_what_the_pullback_makes():
    f, x = import_rrule(sumsq, rrule=lambda x: (np.vdot(x, x), sumsq_rrule(x)[1])), np.linspace(0.0, 1.0, 1_000_000)
    gradient(Reverse, f, x)
    tracemalloc.start()
    try:
        gradient(Reverse, f, x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.1 * x.nbytes


def overwriting(x, f):
    """Every way of overwriting what a pullback has in its closure."""
    y = x * 2.0
    s = f(y)
    y[1] = s
    s = s * f(y)
    y[:2] *= 3.0
    s = s + f(y[::-1]) * f(x)
    x[...] = 0.0
    y.fill(7.0)
    return s + f(y[1:])


def test_what_is_overwritten_is_put_back():
    f = import_rrule(sumsq, rrule=sumsq_rrule)
    (want,) = gradient(Reverse, lambda x: overwriting(x, sumsq), X.copy())
    x = X.copy()
    (got,) = gradient(Reverse, lambda x: overwriting(x, f), x)
    assert_allclose(got, want, rtol=1e-13)
    assert_allclose(x, 0.0)
    base = np.zeros(7)
    base[::2][:3] = X
    view, shadow = base[::2][:3], np.zeros(3)
    autodiff(Reverse, lambda x: overwriting(x, f), Active, Duplicated(view, shadow))
    assert_allclose(shadow, want, rtol=1e-13)
    check_grads(lambda x: overwriting(x, f), X)


def test_the_result_is_put_back_too():
    def exp_rrule(x):
        y = np.exp(x)
        return y, lambda g: (NoTangent(), y * g)

    f = import_rrule(np.exp, rrule=exp_rrule)

    def program(x):
        y = f(x)
        y *= y[0]
        y[1:] = f(y[:-1])
        return y

    check_reverse(program, Duplicated, (0.1 * X, Duplicated))


def test_tapes_that_outlive_the_call():
    f = import_rrule(sumsq, rrule=sumsq_rrule)
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: overwriting(x, f), Active)
    (want,) = gradient(Reverse, lambda x: overwriting(x, sumsq), X.copy())
    x = X.copy()
    tape = forward(Duplicated(x, np.zeros(3)))[0]
    for _ in range(3):
        x[:] = 99.0
        shadow = np.zeros(3)
        reverse(Duplicated(x, shadow), 1.0, tape)
        assert_allclose(shadow, want, rtol=1e-13)
        assert_allclose(x, 99.0)


@pytest.mark.parametrize("size", [3, 400_000])
def test_captured_arrays(size):
    """Those up to a mebibyte are copied for the pullback, larger ones locked."""
    c = np.ones(size)

    def f_rrule(x, c):
        return np.sum(c) * x, lambda g: (NoTangent(), np.sum(c) * g, np.full(size, x * g))

    f = import_rrule(lambda x, c: np.sum(c) * x, rrule=f_rrule)

    def program(x):
        y = f(x, c)
        c[:] = 0.0
        return y

    if size > 3:
        with pytest.raises(cyad.LockedArrayError):
            gradient(Reverse, program, 2.0)
        assert c.flags.writeable
    else:
        assert gradient(Reverse, program, 2.0) == (3.0,)


def test_containers_that_cyad_does_not_track_are_copied():
    def f_rrule(x, options):
        return x * options["scale"][0], lambda g: (NoTangent(), g * options["scale"][0], NoTangent())

    f = import_rrule(lambda x, options: x * options["scale"][0], rrule=f_rrule)

    def program(x):
        options = {"scale": [2]}
        y = f(x, options)
        options["scale"][0] = 100
        return y

    assert gradient(Reverse, program, 3.0) == (2.0,)


def test_one_array_in_two_arguments():
    f = both(lambda x, y: x * y, lambda x, y: (x * y, lambda g: (NoTangent(), g * y, g * x)),
             lambda t, x, y: (x * y, t[1] * y + x * t[2]))
    check_grads(lambda x: f(x, x) + f(x[::-1], x), X)
    check_grads(lambda x: f(x[1:], x[:-1]), X)


def test_results_are_no_views_of_arguments():
    """A cotangent of a view is one of the argument; a pullback that hands it on would add it twice."""
    def views_rrule(x):
        return (x, x[1:]), lambda g: (NoTangent(), g[0] + np.concatenate([[0.0], g[1]]))

    f = both(lambda x: (x, x[1:]), views_rrule, lambda t, x: ((x, x[1:]), (t[1], t[1][1:])))
    check_forward(f, Duplicated, (X, Duplicated))
    check_reverse(f, Duplicated, (X, Duplicated))

    def program(x):
        y, z = f(x)
        y[0] = 7.0
        z *= y[1:]
        return np.sum(x * y) + np.sum(z)

    check_reverse(program, Active, (X, Duplicated))
    x = X.copy()
    f(x)[0][:] = 0.0
    assert_allclose(x, X)


def test_inactive_arrays_stay_inactive():
    seen = []

    def f_rrule(x, w):
        return x * np.sum(w), lambda g: (NoTangent(), g * np.sum(w), thunk(lambda: seen.append("computed")))

    f = import_rrule(lambda x, w: x * np.sum(w), rrule=f_rrule)
    assert gradient(Reverse, lambda x: f(x, np.ones(3)), 2.0) == (3.0,)
    assert seen == []


def test_strong_zero():
    """A cotangent of zero contributes nothing, whatever the pullback makes of it."""
    f = import_rrule(np.sqrt, rrule=lambda x: (np.sqrt(x), lambda g: (NoTangent(), g / (2.0 * np.sqrt(x)))))

    def program(x):
        return np.sum(x) + 0.0 * np.sum(f(x))

    with np.errstate(all="ignore"):
        assert np.isnan(gradient(Reverse, program, np.zeros(1))[0][0])
        assert_allclose(gradient(Reverse.with_strong_zero(), program, np.zeros(1))[0], 1.0)


# ---- declining ------------------------------------------------------------------------------------------------------

def told_apart(x):
    return 2.0 * x, lambda g: (NoTangent(), 5.0 * g)


def test_restriction_by_type():
    f = lambda x: 2.0 * x
    for types, plain, single, array in [
            ((), 5.0, 5.0, 5.0), ((None,), 5.0, 5.0, 5.0), ((np.float32,), 2.0, 5.0, 2.0), ((float,), 5.0, 2.0, 2.0),
            ((np.ndarray,), 2.0, 2.0, 5.0), (((np.float32, np.ndarray),), 2.0, 5.0, 5.0),
            ((np.dtype(float),), 2.0, 2.0, 5.0)]:
        g = import_rrule(f, *types, rrule=told_apart)
        assert gradient(Reverse, g, 3.0) == (plain,)
        assert gradient(Reverse, g, np.float32(3.0)) == (single,)
        assert_allclose(gradient(Reverse, lambda x, g=g: np.sum(g(x)), X)[0], array)


def test_rules_that_decline():
    f = import_rrule(lambda x: 2.0 * x, rrule=lambda x: told_apart(x) if x > 0 else None)
    assert gradient(Reverse, f, 1.0) == (5.0,) and gradient(Reverse, f, -1.0) == (2.0,)
    g = import_frule(lambda x: 2.0 * x, frule=lambda t, x: (2.0 * x, 7.0 * t[1]) if x > 0 else None)
    assert autodiff(Forward, g, Duplicated(1.0, 1.0)) == (7.0,)
    assert autodiff(Forward, g, Duplicated(-1.0, 1.0)) == (2.0,)
    assert autodiff(Forward, g, BatchDuplicated(-1.0, (1.0, 2.0))) == ((2.0, 4.0),)
    assert gradient(Reverse, g, 1.0) == (2.0,)


def test_several_rules_for_one_function():
    f = import_rrule(lambda x: 2.0 * x, rrule=told_apart)
    assert import_rrule(f, np.float32, rrule=lambda x: (2.0 * x, lambda g: (NoTangent(), 8.0 * g))) is f
    assert gradient(Reverse, f, np.float32(3.0)) == (8.0,) and gradient(Reverse, f, 3.0) == (5.0,)


def test_a_numpy_function_is_imported_under_a_name_of_its_own():
    f = import_rrule(np.sin, rrule=lambda x: (np.sin(x), lambda g: (NoTangent(), 100.0 * g)))
    assert gradient(Reverse, f, 0.0) == (100.0,) and gradient(Reverse, np.sin, 0.0) == (1.0,)
    assert f(0.0) == 0.0


# ---- pieces ---------------------------------------------------------------------------------------------------------

def test_zeros():
    for zero in (NoTangent(), ZeroTangent()):
        assert zero * X is zero and X * zero is zero and -zero is zero and X @ zero is zero
        assert (X + zero) is X and (zero + 2.0) == 2.0 and (X - zero) is X
        assert_allclose(zero - X, -X)
    assert NoTangent() != ZeroTangent()
    f = import_rrule(lambda x, y: x * 1.0, rrule=lambda x, y: (x, lambda g: (NoTangent(), g, ZeroTangent())))
    assert gradient(Reverse, f, 2.0, 3.0) == (1.0, 0.0)
    h = import_frule(lambda x: x[0] * 1.0, frule=lambda t, x: (x[0], ZeroTangent()))
    assert_allclose(gradient(Forward, h, X)[0], 0.0)


def test_thunks_run_once_and_only_where_wanted():
    runs = []

    def compute():
        runs.append(None)
        return 3.0

    later = thunk(compute)
    assert unthunk(later) == unthunk(later) == 3.0 and len(runs) == 1
    assert unthunk(thunk(lambda: later)) == 3.0
    with pytest.raises(cyad.ActivityError, match="function"):
        thunk(3.0)


def test_project_to():
    assert ProjectTo(X)(X) is X
    single = ProjectTo(X.astype(np.float32))(X * 1j + X)
    assert single.dtype == np.float32 and single.shape == (3,)
    assert ProjectTo(np.complex64(1.0))(2.0).dtype == np.complex64
    assert ProjectTo(X)(ZeroTangent()) == ZeroTangent() and ProjectTo("s")(3.0) == NoTangent()
    assert ProjectTo(np.arange(3))(X) == NoTangent()
    assert_allclose(unthunk(ProjectTo(X)(thunk(lambda: X[:, None]))), X)
    both = ProjectTo({"a": X, "b": (1.0, 2)})({"a": X + 0j, "b": (1 + 1j, 5.0)})
    assert both["a"].dtype == float and both["b"] == (1.0, NoTangent())
    with pytest.raises(cyad.ActivityError, match=r"\(2, 3\).*\(3,\)"):
        ProjectTo(X)(np.zeros((2, 3)))

    def f_rrule(x):
        project = ProjectTo(x)
        return x * x, lambda g: (NoTangent(), project(2.0 * x * g))

    check_grads(import_rrule(lambda x: x * x, rrule=f_rrule), X)
    check_grads(import_rrule(lambda x: x * x, rrule=f_rrule), 2.0)


# ---- what is wrong --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rrule, message", [
    (lambda x: np.sum(x), "must return .y, pullback."),
    (lambda x: (np.sum(x), 3.0), "must return .y, pullback."),
    (lambda x: (np.sum(x), lambda g: g * x), "must return .NoTangent.., and one cotangent for each of the 1 arguments"),
    (lambda x: (np.sum(x), lambda g: (g * x,)), "a tuple of 1"),
    (lambda x: (np.sum(x), lambda g: (NoTangent(), g)), r"argument 1 has shape \(3,\), its cotangent is"),
    (lambda x: (np.sum(x), lambda g: (NoTangent(), np.ones((1, 3)))), r"shape \(1, 3\)"),
])
def test_wrong_reverse_rules(rrule, message):
    with pytest.raises(cyad.ActivityError, match=message):
        gradient(Reverse, import_rrule(np.sum, rrule=rrule), X)


@pytest.mark.parametrize("frule, message", [
    (lambda t, x: np.sum(x), "must return .y, ydot."),
    (lambda t, x: (np.sum(x), t[1]), r"an array of shape \(3,\) as the tangent of"),
])
def test_wrong_forward_rules(frule, message):
    with pytest.raises(cyad.ActivityError, match=message):
        gradient(Forward, import_frule(np.sum, frule=frule), X)


def test_missing_rules():
    def unknown(x):
        return x

    with pytest.raises(cyad.MissingRuleError, match="unknown.*has no rrule.*@cyad.rrule"):
        import_rrule(unknown)
    with pytest.raises(cyad.MissingRuleError, match="@cyad.frule"):
        import_frule(unknown)
    for call in (cyad.rrule, cyad.frule, import_rrule, import_frule):
        with pytest.raises(cyad.ActivityError, match="function"):
            call(3.0)


def test_exceptions_say_where_they_come_from():
    def pullback(g):
        raise KeyError("lost")

    f = import_rrule(sumsq, rrule=lambda x: (np.sum(x), pullback))
    with pytest.raises(KeyError) as error:
        gradient(Reverse, f, X)
    assert any("the rrule of sumsq" in note for note in error.value.__notes__)


def test_none_is_no_cotangent_of_an_active_argument():
    for x, second in ((2.0, None), (np.ones(2), None), ([np.ones(2), 1.0], [np.ones(2), None])):
        f = import_rrule(lambda x: 1.0, rrule=lambda x, second=second: (1.0, lambda g: (NoTangent(), second)))
        with pytest.raises(cyad.ActivityError, match=r"argument 1.* is active, its cotangent is None.*ZeroTangent\(\)"):
            cyad.gradient(Reverse, lambda x, f=f: f(x), x)
    f = import_rrule(lambda x, y: x, rrule=lambda x, y: (x, lambda g: (NoTangent(), g, None)))
    assert cyad.gradient(Reverse, lambda x: f(x, 3.0), 2.0) == (1.0,)


def test_integers_are_no_primals():
    f = import_rrule(lambda x: x * x, rrule=lambda x: (4, lambda g: (NoTangent(), 2 * x * g)))
    with pytest.raises(cyad.ActivityError, match="returned an int as the primal"):
        cyad.gradient(Reverse, lambda x: f(x), 2.0)


@pytest.mark.parametrize("types", ["abc", 3, (np.float64, "abc"), np.ones(2)])
def test_what_is_no_type_is_refused_at_once(types):
    for make, kind in ((import_rrule, "rrule"), (import_frule, "frule")):
        with pytest.raises(cyad.ActivityError, match=f"import_{kind} takes the types of the arguments"):
            make(np.sin, types, **{kind: lambda *args: None})
