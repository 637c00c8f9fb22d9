"""Functions of HIPS/autograd inside differentiated NumPy code, against finite differences and autograd itself."""
import autograd
import autograd.numpy as anp
import autograd.scipy.special
import numpy as np
import pytest
from autograd.extend import defjvp, defvjp, primitive

import cyad
from cyad import Active, BatchDuplicated, Const, Duplicated
from cyad.interop.autograd import from_autograd
from cyad.testing import check_forward, check_grads, check_reverse

X = np.array([0.5, 1.0, 1.7, 2.0])
asked = []


@primitive
def wave(x, a, *, shift=0.0):
    return np.sin(a * x + shift)


defvjp(wave, lambda ans, x, a, *, shift=0.0: lambda g: (asked.append("x"), a * g * anp.cos(a * x + shift))[1],
       lambda ans, x, a, *, shift=0.0: lambda g: (asked.append("a"), anp.sum(g * x * anp.cos(a * x + shift)))[1])
defjvp(wave, lambda g, ans, x, a, *, shift=0.0: a * g * anp.cos(a * x + shift),
       lambda g, ans, x, a, *, shift=0.0: g * x * anp.cos(a * x + shift))
from_it = from_autograd(wave)


def test_a_primitive_in_every_mode_and_order():
    check_grads(from_it, X, 0.5, order=3)
    check_grads(lambda x, a: np.sum(from_it(x * a, a, shift=0.3) ** 2) * a, X, 0.5, order=3)


def test_only_the_rules_that_are_wanted_are_asked():
    asked.clear()
    check_reverse(from_it, Duplicated, (X, BatchDuplicated), (0.5, Const))
    assert set(asked) == {"x"}
    check_reverse(from_it, Duplicated, (X, Const), (0.5, Active))
    check_forward(from_it, Duplicated, (X, Const), (0.5, BatchDuplicated))


@pytest.mark.parametrize("name, args", [
    ("gammaln", (X,)), ("erf", (X,)), ("logsumexp", (X,)), ("beta", (X, X[::-1].copy())), ("expit", (X,))])
def test_primitives_from_autograds_own_tables(name, args):
    f = from_autograd(getattr(autograd.scipy.special, name))
    check_reverse(f, Duplicated, *((x, Duplicated) for x in args))
    if getattr(autograd.scipy.special, name) in autograd.core.primitive_jvps:
        check_forward(f, Duplicated, *((x, Duplicated) for x in args))


def layered(p, x, k):
    h = anp.tanh(anp.dot(p["w"], x) + p["b"])
    return {"y": h[k] * anp.cumsum(h), "n": len(h), "best": anp.argmax(h)}, anp.sum(h**2)


def test_traced_functions():
    p, k = {"w": np.outer(X, X)[:3], "b": 0.5}, np.array([2, 0, 0])
    f = from_autograd(layered)
    value, total = f(p, X, k)
    assert value["n"] == 3 and isinstance(value["y"], np.ndarray)
    check_grads(lambda w, x, b: f({"w": w, "b": b}, x, k), p["w"], X, 0.5, order=2)
    got = cyad.gradient(cyad.Reverse, lambda p: f(p, X, k)[1], {"w": p["w"], "b": np.float64(0.5)})[0]
    want = autograd.grad(lambda p: layered(p, X, k)[1])(p)
    np.testing.assert_allclose(got["w"], want["w"], rtol=1e-12)
    np.testing.assert_allclose(got["b"], want["b"], rtol=1e-12)


def test_complex_values():
    z = X * (0.6 + 0.8j)
    f = from_autograd(lambda z, x: anp.exp(z * x) * anp.conj(z) + anp.real(z))
    check_grads(f, z, X)
    check_reverse(from_autograd(anp.sin), Duplicated, (z, Duplicated))
    check_forward(from_autograd(anp.sin), Duplicated, (z, Duplicated))


def test_what_is_overwritten_is_put_back():
    f = from_autograd(wave)

    def program(x):
        y = f(x, 2.0)
        y *= x
        x[:] = f(y[::-1], x[0])
        z = np.sum(f(x[1:], 1.0))
        x[:] = 0.0
        return z

    check_reverse(program, Active, (X, Duplicated))


def test_constant_results_and_unused_arguments():
    f = from_autograd(lambda x, y: (anp.ones(2), x * 1.0))
    check_reverse(f, Duplicated, (X, Duplicated), (X, Duplicated))
    check_forward(f, Duplicated, (X, Duplicated), (X, Duplicated))
    g = from_autograd(lambda x: anp.ones(2))
    check_reverse(g, Duplicated, (X, Duplicated))
    check_forward(g, Duplicated, (X, Duplicated))


def test_rules_that_are_missing():
    @primitive
    def bare(x):
        return x * 2.0

    for mode, name in ((cyad.Reverse, "defvjp"), (cyad.Forward, "defjvp")):
        with pytest.raises(cyad.MissingRuleError, match=f"bare has no rule.*{name}"):
            cyad.gradient(mode, lambda x: np.sum(from_autograd(bare)(x)), X)
