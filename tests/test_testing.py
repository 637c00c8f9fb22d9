"""The checks of `cyad.testing`: what they accept, what they reject, and whether their messages say what is wrong."""
import dataclasses

import numpy as np
import pytest

import cyad
from cyad import (
    Active,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    DuplicatedNoNeed,
    MixedDuplicated,
)
from cyad.rules import registry
from cyad.testing import check_forward, check_grads, check_reverse

X = np.array([3.0, 1.0, -0.5])


def square_into(y, x):
    y[:] = x**2
    return np.sum(y) ** 2


def test_mutation_and_return():
    for kind in (Duplicated, BatchDuplicated):
        check_forward(square_into, Duplicated, (np.zeros(3), kind), (X, kind))
        check_reverse(square_into, Active, (np.ones(3), kind), (X, kind))
        check_reverse(square_into, Const, (np.ones(3), kind), (X, kind))


@pytest.mark.parametrize("RT", [Const, DuplicatedNoNeed, Duplicated, None])
def test_returns_in_forward_mode(RT):
    check_forward(lambda x, a: a * x[1:], RT, (X, Duplicated), (2.0, Duplicated))


def test_structures_of_results():
    def f(x, a):
        return {"sum": np.sum(x) * a, "parts": (x[1:] * a, [np.sin(a)]), "n": 3, "name": "s"}

    check_forward(f, Duplicated, (X, Duplicated), (2.0, Duplicated))
    check_reverse(f, Duplicated, (X, Duplicated), (2.0, Active))


@dataclasses.dataclass
class Layer:
    w: np.ndarray
    scale: float
    name: str = "layer"


def test_structured_arguments():
    def f(layer, x):
        layer.w[0] *= layer.scale
        return np.sum(layer.w * x) * layer.scale

    layer = Layer(X.copy(), 2.0)
    check_forward(f, Duplicated, (layer, Duplicated), (X, Duplicated))
    check_reverse(f, Active, (layer, MixedDuplicated), (X, Duplicated))
    check_reverse(f, Active, (layer, BatchMixedDuplicated), (X, BatchDuplicated), width=3)
    np.testing.assert_array_equal(layer.w, X)


def test_complex_arguments_and_results():
    z = np.array([1.0 + 2.0j, 3.0 - 1.0j])
    check_forward(lambda z: z**2 * np.conj(z), Duplicated, (z, Duplicated))
    check_reverse(lambda z: z**2 * np.conj(z), Duplicated, (z, Duplicated))
    check_reverse(lambda z: np.sum(np.abs(z)), Active, (z, Duplicated))
    check_reverse(lambda z: z * 2j, Active, (1.0 + 2.0j, Active))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64])
def test_dtypes(dtype):
    check_forward(lambda x: np.exp(x) * x, Duplicated, (X.astype(dtype), Duplicated))
    check_reverse(lambda x: np.exp(x) * x, Duplicated, (X.astype(dtype), Duplicated))


def test_arguments_that_overlap_are_copied_as_they_lie():
    base = np.arange(1.0, 6.0)

    def f(a, b):
        b *= 2.0
        a[:-1] += a[1:]
        return np.sum(a * b)

    for a, b in ((base[:-1], base[1:]), (base, base), (base[::-1], base)):
        for kind in (Duplicated, BatchDuplicated):
            check_forward(f, Duplicated, (a, kind), (b, kind))
            check_reverse(f, Active, (a, kind), (b, kind))
    np.testing.assert_array_equal(base, np.arange(1.0, 6.0))
    single = base.astype(np.float32)
    check_reverse(f, Active, (single[:-1], Duplicated), (single[1:], Duplicated))


def test_strides_and_read_only_arguments():
    matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    for x in (matrix, matrix[::-1, ::2], np.broadcast_to(X, (2, 3)), np.zeros((0, 3)), np.array(2.0)):
        check_forward(lambda x: np.cos(x.ravel()), Duplicated, (x, Duplicated))
        check_reverse(lambda x: np.cos(x.ravel()), Duplicated, (x, Duplicated))


def test_large_arguments_are_sampled():
    x = np.linspace(0.1, 1.0, 3000)
    calls = []

    def f(x):
        calls.append(None)
        return np.sum(np.sqrt(x) * x)

    check_reverse(f, Active, (x, Duplicated))
    assert len(calls) < 2000


def test_keywords_and_generators():
    def noisy(x, rng, *, scale):
        return np.sum(rng.normal(size=3) * x) * scale

    rng = np.random.default_rng(1)
    check_forward(noisy, Duplicated, (X, Duplicated), (rng, Const), kwargs={"scale": 3.0})
    check_reverse(noisy, Active, (X, Duplicated), (rng, Const), kwargs={"scale": 3.0})


def test_keywords_that_autodiff_has_too():
    x = np.array([1.0, 2.0, 3.0])
    check_grads(np.pad, x, 2, kwargs={"mode": "reflect"})
    check_forward(np.pad, Duplicated, (x, Duplicated), (2, Const), kwargs={"mode": "edge"})
    check_reverse(np.pad, Duplicated, (x, Duplicated), (2, Const), kwargs={"mode": "edge"})


def test_misuse():
    with pytest.raises(TypeError, match="argument 1 is a pair"):
        check_forward(np.sum, Duplicated, X)
    with pytest.raises(TypeError, match="argument 2 is Duplicated but holds no float"):
        check_forward(np.sum, Duplicated, (X, Duplicated), (1, Duplicated))
    with pytest.raises(TypeError, match="no meaning in forward mode"):
        check_forward(np.sum, Duplicated, (2.0, Active))
    with pytest.raises(TypeError, match="DuplicatedNoNeed|return of activity"):
        check_reverse(np.sum, MixedDuplicated, (X, Duplicated))
    with pytest.raises(ValueError, match="sideways"):
        check_grads(np.sum, X, modes=("sideways",))


# ---- orders ---------------------------------------------------------------------------------------------------------

def test_check_grads():
    def f(x, a):
        y = np.zeros(3)
        y[1:] = np.sin(a * x[1:]) * x[:-1]
        x[0] *= a
        return y, np.sum(x**3)

    check_grads(f, X, 0.5)
    check_grads(lambda x, k: np.cumsum(x ** k), np.abs(X), 3, order=3)
    check_grads(lambda p, x: p["w"] @ x * p["b"], {"w": np.outer(X, X), "b": 2.0}, X)


def test_check_grads_of_what_returns_nothing():
    check_grads(lambda y, x: np.multiply(x, x, out=y), np.zeros(3), X)

    def into(y, x):
        y[:] = x**3

    check_grads(into, np.zeros(3), X)


# ---- what is wrong --------------------------------------------------------------------------------------------------

@pytest.fixture
def rule(monkeypatch):
    """Puts another linearisation in the place of the rule of np.cumsum."""
    def put(push, pull):
        def wrong(a, axis=None, dtype=None, out=None):
            return np.cumsum(a), lambda k: (push, pull)

        monkeypatch.setitem(registry.RULES, np.cumsum, registry.Structural(np.cumsum, wrong, ("a",), ()))
    return put


def right_push(v):
    return np.cumsum(v)


def right_pull(g):
    return np.cumsum(g[::-1])[::-1]


def test_the_right_rule_passes(rule):
    rule(right_push, right_pull)
    check_forward(np.cumsum, Duplicated, (X, Duplicated))
    check_reverse(np.cumsum, Duplicated, (X, Duplicated))


def test_a_wrong_tangent(rule):
    rule(lambda v: np.cumsum(v) + np.array([0.0, 0.5, 0.1]), right_pull)
    with pytest.raises(AssertionError, match=r"check_forward of cumsum, ForwardWithPrimal: the tangent of the return, "
                                             r"entry 1: .* by cyad, .* by finite differences .* 2 of 3 entries"):
        check_forward(np.cumsum, Duplicated, (X, Duplicated))
    check_reverse(np.cumsum, Duplicated, (X, Duplicated))


def test_a_wrong_adjoint_is_named_by_argument_and_entry(rule):
    rule(right_push, lambda g: right_pull(g) * np.array([1.0, 1.0, 2.0]))
    with pytest.raises(AssertionError, match=r"check_reverse of .*: the adjoint of argument 2, entry 2: .* 1 of 3"):
        check_reverse(lambda a, x: a * np.cumsum(x), Duplicated, (2.0, Active), (X, Duplicated))
    check_forward(np.cumsum, Duplicated, (X, Duplicated))


def test_a_rule_that_ignores_the_adjoint_of_the_return(rule):
    rule(right_push, lambda g: right_pull(np.ones_like(g)))
    assert cyad.gradient(cyad.Reverse, lambda x: np.sum(np.cumsum(x)), X)[0][0] == 3.0
    with pytest.raises(AssertionError, match="adjoint of argument 1"):
        check_reverse(lambda x: np.sum(np.cumsum(x)), Active, (X, Duplicated))


def test_a_rule_that_changes_the_value(monkeypatch):
    def other(a, axis=None, dtype=None, out=None):
        return np.cumsum(a) * (1.0 + 1e-10), lambda k: (right_push, right_pull)

    monkeypatch.setitem(registry.RULES, np.cumsum, registry.Structural(np.cumsum, other, ("a",), ()))
    for check in (check_forward, check_reverse):
        with pytest.raises(AssertionError, match="the value.* is .*, in a plain run"):
            check(np.cumsum if check is check_forward else lambda x: np.cumsum(x)[0], Duplicated
                  if check is check_forward else Active, (X, Duplicated))


def test_a_rule_that_is_wrong_at_second_order_only(rule):
    def pull(g):
        return right_pull(g if isinstance(g, np.ndarray) and type(g) is np.ndarray else 2.0 * g)

    rule(right_push, pull)

    def f(x):
        return np.sum(np.cumsum(x) ** 2)

    check_grads(f, X, order=1)
    with pytest.raises(AssertionError, match="derivative of"):
        check_grads(f, X, modes=("reverse",))


def test_a_kink_is_met():
    with pytest.raises(AssertionError, match="entry 1: 0.0 by cyad, .*0.38"):
        check_forward(lambda x: np.where(x > 0.0, x, 0.0), Duplicated, (np.array([1.0, 0.0]), Duplicated))


def test_seeds_stand_for_generators_and_bad_options_are_refused():
    drawn = []

    def f(x):
        drawn.append(float(cyad.ignore_derivatives(x)))
        return x * x

    runs = []
    for rng in (3, np.random.default_rng(3), 4):
        drawn.clear()
        check_grads(f, 2.0, rng=rng, order=1)
        runs.append(list(drawn))
    assert runs[0] == runs[1] != runs[2]
    for options, what in (({"rng": "a"}, "an integer that seeds one, not 'a'"), ({"rng": True}, "not True"),
                          ({"step": 0}, "above zero, not 0"), ({"step": -1e-3}, "above zero"),
                          ({"step": float("nan")}, "above zero")):
        with pytest.raises(cyad.ActivityError, match=what):
            check_grads(f, 2.0, **options)
