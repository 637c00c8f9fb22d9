"""Derivatives of any order by nesting, in any mix of modes, through in-place code, without perturbation confusion.

Oracles share no formula with cyad: derivatives of one number by Cauchy's integral over plain runs on complex numbers,
everything else by central differences of plain runs, or by hand.
"""
import collections.abc
import functools
import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import special

import cyad
from cyad import Const, Duplicated, Forward, Reverse, autodiff, gradient

MODES = (Forward, Reverse)


def mixes(*orders):
    return [pytest.param(mix, id="-".join(m.name for m in mix))
            for n in orders for mix in itertools.product(MODES, repeat=n)]


def differentiated(f, mix):
    """f differentiated once for each mode, the last one innermost."""
    for mode in reversed(mix):
        f = slope(f, mode)
    return f


def slope(f, mode):
    return lambda x: gradient(mode, f, x)[0]


def by_cauchy(f, x, order, radius=0.25, points=64):
    """The derivative of an analytic function: n!/(2 pi i) times the integral of f(z) / (z - x)^(n+1) around x."""
    angles = 2 * np.pi * np.arange(points) / points
    values = np.array([f(complex(x + radius * np.exp(1j * a))) for a in angles])
    return math.factorial(order) * np.mean(values * np.exp(-1j * order * angles)).real / radius**order


# ---- functions of one number, analytic, that also run on complex ones -----------------------------------------------

def formula(x):
    return np.exp(x * np.sin(x)) / (1.0 + x * x)


def scalar_loop(x):
    s = 1.0
    for i in range(1, 6):
        s = s * x / i + 0.5
    return s * s


def memory(x):
    y = np.zeros(3, np.result_type(x))
    y[0] = x
    y[1] = y[0] * x
    y[0] += 1.0
    y[2] = y[1] * y[0] ** 3
    y[1:] *= y[0]
    y[0] = 0.0
    return y[2] * y[1] + y[0]


def arrays(x):
    t = x * np.array([1.0, 2.0, 3.0])
    work = np.empty_like(t)
    np.sin(t, out=work)
    work[1:] += work[:-1] * t[1:]
    u = work[::-1].copy()
    u[0] = x
    return np.sum(u * work) + np.prod(t)


def linear_algebra(x):
    A = np.array([[2.0, 0.5], [0.3, 1.5]]) + x * np.array([[0.1, 0.2], [0.0, 0.4]])
    b = np.stack([x * x, np.cos(x)])
    return np.sum(np.linalg.solve(A, b) * (A @ b))


def reuse(x):
    """A buffer that is overwritten after it was read, and read again."""
    w = np.full(2, 1.0, np.result_type(x))
    total = 0.0
    for _ in range(3):
        w *= x
        total = total + np.dot(w, w[::-1])
        w[0] = total * 0.1
    return total


def broadcasts(x):
    """Views that name one element many times: what is added to them is added that often."""
    a = np.broadcast_to(x * x, (2, 3)) * np.array([1.0, 2.0, 3.0])
    return np.sum(a[:, 1:] ** 2) + np.prod(np.broadcast_to(np.sin(x), (3,)))


def picked(x):
    """One number stored into many places at once, by masks and by index arrays."""
    y = np.full(4, 1.5, np.result_type(x))
    y[np.array([True, False, True, False])] = x * x
    np.add.at(y, [0, 3, 3], np.sin(x))
    y[[1, 1, 3]] *= x
    return np.sum(y ** 3)


ONE_NUMBER = [formula, scalar_loop, memory, arrays, linear_algebra, reuse, broadcasts, picked]


@pytest.mark.parametrize("mix", mixes(1, 2, 3, 4))
@pytest.mark.parametrize("f", ONE_NUMBER)
def test_every_order_in_every_mix(f, mix):
    x = 0.7
    assert_allclose(differentiated(f, mix)(x), by_cauchy(f, x, len(mix)), rtol=1e-8)


@pytest.mark.parametrize("mix", mixes(4))
def test_order_four_by_hand(mix):
    assert_allclose(differentiated(np.sin, mix)(0.7), np.sin(0.7), rtol=1e-14)
    assert_allclose(differentiated(lambda x: x**6, mix)(1.5), 360 * 1.5**2, rtol=1e-14)
    assert_allclose(differentiated(lambda x: x**3, mix)(1.5), 0.0, atol=1e-13)
    assert_allclose(differentiated(lambda x: 1.0 / x, mix)(2.0), 24 / 2.0**5, rtol=1e-14)
    assert_allclose(differentiated(np.log, mix)(2.0), -6 / 2.0**4, rtol=1e-14)


@pytest.mark.parametrize("mix", mixes(2, 3))
def test_batched_levels(mix):
    """Each level as a batch of two lanes, the directions 1 and 3: the derivative is 3^k of the unit one in each mix."""
    def level(f, mode):
        if mode.forward:
            return lambda x: autodiff(Forward, f, cyad.BatchDuplicated(x, (1.0, 3.0)))[0][1]
        return lambda x: 3.0 * gradient(Reverse, f, x)[0]

    f = memory
    for mode in reversed(mix):
        f = level(f, mode)
    assert_allclose(f(0.7), 3.0 ** len(mix) * by_cauchy(memory, 0.7, len(mix)), rtol=1e-8)


# ---- functions of arrays --------------------------------------------------------------------------------------------

def smooth(x):
    u = x.copy()
    for _ in range(2):
        u[1:-1] = 0.25 * u[:-2] * x[1:-1] + 0.5 * u[1:-1] + np.sin(u[2:])
        u[0] *= u[-1]
    return np.sum(u**2) + np.linalg.norm(x) ** 3


def elementwise_loop(x):
    s = 0.0
    y = np.zeros(len(x))
    for i in range(len(x)):
        y[i] = x[i] * (y[i - 1] if i else 1.0)
        s += math.exp(-y[i]) * x[i] ** 2
    return s


OF_ARRAYS = [smooth, elementwise_loop]
POINT = np.array([0.9, -0.4, 1.2, 0.3])


def gradient_by_differences(f, x, step=1e-6):
    return np.array([(f(x + step * e) - f(x - step * e)) / (2 * step) for e in np.eye(x.size)])


@pytest.mark.parametrize("mix", mixes(2))
@pytest.mark.parametrize("f", OF_ARRAYS)
def test_hessians_in_every_mix(f, mix):
    outer, inner = mix
    H = cyad.jacobian(outer, lambda x: gradient(inner, f, x)[0], POINT)[0]
    want = gradient_by_differences(lambda x: gradient(inner, f, x)[0], POINT)
    assert_allclose(H, want, rtol=1e-6, atol=1e-7)
    assert_allclose(H, H.T, rtol=1e-12, atol=1e-12)
    assert_allclose(H, cyad.hessian(f, POINT), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mix", mixes(3))
@pytest.mark.parametrize("f", OF_ARRAYS)
def test_third_derivatives_in_every_mix(f, mix):
    T = cyad.jacobian(mix[0], lambda x: cyad.jacobian(mix[1], lambda x: gradient(mix[2], f, x)[0], x)[0], POINT)[0]
    want = np.moveaxis(gradient_by_differences(lambda x: cyad.hessian(f, x), POINT), 0, -1)
    assert_allclose(T, want, rtol=1e-6, atol=1e-6)
    for axes in itertools.permutations(range(3)):
        assert_allclose(T.transpose(axes), T, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("f", OF_ARRAYS)
def test_operators_inside_a_gradient(f, mode):
    v = np.array([0.3, -1.0, 0.5, 2.0])

    def check(g):
        got = gradient(mode, g, POINT)[0]
        assert_allclose(got, gradient_by_differences(g, POINT), rtol=2e-6, atol=1e-6)

    check(lambda x: np.sum(cyad.hvp(f, x, v) * v))
    check(lambda x: np.sum(cyad.hvp_and_gradient(f, x, v)[1] ** 2))
    check(lambda x: cyad.jvp(f, (x,), (v,))[1])
    check(lambda x: np.sum(cyad.vjp(f, x)[1](2.0)[0] ** 2))
    check(lambda x: np.sum(cyad.linearize(f, x)[1](v * x) * x))
    check(lambda x: np.linalg.det(cyad.hessian(f, x)))
    check(lambda x: np.sum(cyad.jacrev(lambda x: x * f(x))(x) @ v))
    check(lambda x: np.sum(cyad.jacfwd(lambda x: x * f(x))(x) @ v))
    check(lambda x: np.sum(cyad.grad(f)(x) ** 2) + cyad.value_and_grad(f)(x)[0])


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
def test_directions_and_cotangents_are_differentiated(mode):
    H = cyad.hessian(smooth, POINT)
    w = np.array([1.0, 2.0, -1.0, 0.5])
    assert_allclose(gradient(mode, lambda v: np.sum(cyad.hvp(smooth, POINT, v) * w), w)[0], H @ w, rtol=1e-12)
    slopes = gradient(mode, lambda v: cyad.jvp(smooth, (POINT,), (v,))[1], w)[0]
    assert_allclose(slopes, gradient_by_differences(smooth, POINT), rtol=1e-7)
    pull = lambda c: np.sum(cyad.vjp(lambda x: x**2, POINT)[1](c)[0] * w)
    assert_allclose(gradient(mode, pull, w)[0], 2 * POINT * w, rtol=1e-13)
    assert_allclose(cyad.jvp(lambda x: np.sum(x**3), (POINT,), (w,))[1], np.sum(3 * POINT**2 * w), rtol=1e-13)


# ---- perturbation confusion -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("mix", mixes(2))
def test_inner_derivatives_see_outer_values_as_constants(mix):
    outer, inner = mix
    assert gradient(outer, lambda x: x * gradient(inner, lambda y: x + y, 1.0)[0], 1.0) == (1.0,)
    assert gradient(outer, lambda x: x * gradient(inner, lambda y: x * y, 1.0)[0], 3.0) == (6.0,)
    assert gradient(outer, lambda x: gradient(inner, lambda y: x * x * y, x)[0], 3.0) == (6.0,)
    assert gradient(outer, lambda x: gradient(inner, lambda y: y * y * y, x)[0] * x, 2.0) == (36.0,)
    assert gradient(outer, lambda x: gradient(inner, lambda y: x, 1.0)[0] + x, 2.0) == (1.0,)


@pytest.mark.parametrize("mix", mixes(2))
def test_nor_through_memory(mix):
    outer, inner = mix

    def of_scratch(x):
        def h(y):
            w = np.zeros(2)
            w[0] = x
            w[1] = w[0] * y
            w[0] += 1.0
            return w[1] + w[0] * y
        return x * gradient(inner, h, 2.0)[0]

    assert gradient(outer, of_scratch, 3.0) == (13.0,)

    def of_outer_memory(x):
        w = np.zeros(2)
        w[:] = x                            # allocated and written outside the inner call, read inside
        return gradient(inner, lambda y: np.sum(w * w) * y + w[0] * y**2, 2.0)[0]

    assert gradient(outer, of_outer_memory, 3.0) == (4 * 3.0 + 4.0,)

    def of_arguments(x):
        a = np.array([1.0, 2.0]) * x
        g, none = gradient(inner, lambda u, c: np.sum(u * u * c), a, Const(a))
        assert none is None
        return np.sum(g)                    # 2 a^2 summed: 2 x^2 (1 + 4)

    assert_allclose(gradient(outer, of_arguments, 3.0), (20 * 3.0,))


@pytest.mark.parametrize("mix", mixes(3))
def test_three_levels_of_captured_values(mix):
    a, b, c = mix

    def f(x):
        def g(y):
            def h(z):
                w = np.array([x, y, z])
                w[2] *= w[0] * w[1]
                return np.sum(w) * w[2] + x * y**2 * z**3
            return gradient(c, h, y)[0] * x
        return gradient(b, g, x * x)[0]

    # By hand: h = (x + y + xyz) xyz + x y^2 z^3, with z = y after d/dz, then y = x^2 after d/dy.
    def plain(x):
        def slope(y):                       # x dh/dz at z = y
            return x * (x * y * (x + y) + 2 * x * x * y * y * y + 3 * x * y**2 * y**2)
        return by_cauchy(slope, x * x, 1, radius=0.1)

    want = (plain(1.3 + 1e-5) - plain(1.3 - 1e-5)) / 2e-5
    assert_allclose(gradient(a, f, 1.3), (want,), rtol=1e-8)


@pytest.mark.parametrize("mix", mixes(2))
def test_overwritten_arguments_of_an_inner_call(mix):
    outer, inner = mix

    def f(x):
        def g(u):
            u *= u
            return np.sum(u * u)            # sum u^4
        v = x.copy()
        slope, = gradient(inner, g, v)
        return np.sum(slope * x) + np.sum(v)   # v has been squared by g

    x = np.array([1.5, -0.5])
    assert_allclose(gradient(outer, f, x)[0], 16 * x**3 + 2 * x, rtol=1e-13)


@pytest.mark.parametrize("mix", mixes(2))
def test_autodiff_inside_autodiff_with_shadows_of_the_outer_call(mix):
    outer, inner = mix

    def f(x):
        y, dy = x * 2.0, np.zeros(2)
        if inner.forward:
            dy[:] = x
            return autodiff(inner, lambda y: np.sum(y**3), Duplicated(y, dy))[0]
        autodiff(inner, lambda y: np.sum(y**3), Duplicated(y, dy))
        return np.sum(dy * x)

    x = np.array([1.0, 2.0])                # sum 3 (2x)^2 x = 12 x^3
    assert_allclose(gradient(outer, f, x)[0], 36 * x**2, rtol=1e-13)


def logistic(t):
    """The first to third derivatives of log(1 + exp(t)), with relative precision on both sides."""
    e = math.exp(-abs(t))
    first = (1.0 if t >= 0 else e) / (1.0 + e)
    second = e / (1.0 + e) ** 2
    return first, second, second * (math.copysign(1.0, -t) * -math.expm1(-abs(t)) / (1.0 + e))


def in_base_2(x):
    return np.logaddexp2(x / math.log(2.0), 0.0) * math.log(2.0)


SOFT = (lambda x: np.logaddexp(0.0, x), lambda x: np.logaddexp(x, 0.0), lambda x: np.logaddexp(x, x * 0.0))
GAPS = (0.0, 1e-9, 0.3, 5.0, 40.0, 300.0, 700.0, 740.0, 750.0, 1e4, 1e200)


@pytest.mark.parametrize("mix", mixes(1, 2, 3))
def test_soft_maxima_over_all_gaps(mix):
    for t in (sign * gap for gap in GAPS for sign in (1, -1)):
        expected = logistic(t)[len(mix) - 1]
        tiny = 1e-16 if abs(t) < 1.0 else 1e-300    # the third derivative changes its sign at 0
        for f in SOFT:
            assert_allclose(differentiated(f, mix)(t), expected, rtol=1e-13, atol=tiny)
        assert_allclose(differentiated(in_base_2, mix)(t), expected, rtol=1e-11, atol=tiny)
        assert_allclose(differentiated(lambda x, f=special.log_expit: -f(-x), mix)(t), expected, rtol=1e-13, atol=tiny)
        if len(mix) < 3:
            assert_allclose(differentiated(special.expit, mix)(t), logistic(t)[len(mix)], rtol=1e-13, atol=tiny)


@pytest.mark.parametrize("mix", mixes(2))
def test_soft_maxima_of_infinities(mix):
    for a, b in ((np.inf, np.inf), (-np.inf, -np.inf), (np.inf, 1.0), (-np.inf, 1.0), (np.inf, -np.inf)):
        for f in (np.logaddexp, np.logaddexp2):
            for g, t in ((lambda x, f=f, b=b: f(x, b), a), (lambda x, f=f, a=a: f(a, x), b)):
                assert differentiated(g, mix)(t) == 0.0


# Second derivatives where a branch not taken, or what is rounded, has an infinite derivative. By hand.
EDGES = {
    "arctan2 on axes": (lambda x: np.arctan2(x[0], x[1]), (1.0, 0.0), [[0.0, 1.0], [1.0, 0.0]]),
    "arctan2 on the other": (lambda x: np.arctan2(x[0], x[1]), (0.0, -1.0), [[0.0, -1.0], [-1.0, 0.0]]),
    "arctan2 of arrays": (lambda x: np.sum(np.arctan2(x[::2], x[1::2])), (1.0, 0.0, 0.0, 2.0),
                          [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -0.25], [0, 0, -0.25, 0]]),
    "hypot at the origin": (lambda x: np.hypot(x[0], x[1]), (0.0, 0.0), [[0.0, 0.0], [0.0, 0.0]]),
    "hypot of arrays": (lambda x: np.sum(np.hypot(x[::2], x[1::2])), (0.0, 0.0, 0.0, 2.0),
                        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0]]),
    "power of zero": (lambda x: np.power(x[0], x[1]), (0.0, 3.0), [[0.0, 0.0], [0.0, 0.0]]),
    "power of arrays": (lambda x: np.sum(np.power(x[::2], x[1::2])), (0.0, 3.0, 1.0, 2.0),
                        [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 1], [0, 0, 1, 0]]),
    "remainder": (lambda x: np.remainder(x[0], x[1]), (1.0, 1e-200), [[0.0, 0.0], [0.0, 0.0]]),
    "fmod": (lambda x: np.fmod(x[0], x[1]), (1.0, 1e-200), [[0.0, 0.0], [0.0, 0.0]]),
}


@pytest.mark.parametrize("mix", mixes(2))
@pytest.mark.parametrize("name", EDGES)
def test_branches_not_taken(name, mix):
    f, x, expected = EDGES[name]
    outer, inner = (cyad.jacfwd if mode.forward else cyad.jacrev for mode in mix)
    assert_allclose(outer(inner(f))(np.array(x)), expected, rtol=1e-14, atol=0)


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("f, x, expected", [
    (np.arcsin, 1.0, np.inf), (np.arcsin, -1.0, -np.inf), (np.arccos, 1.0, -np.inf), (np.arccos, -1.0, np.inf),
    (np.arccosh, 1.0, -np.inf), (np.arctanh, 1.0, np.inf), (np.log, 0.0, -np.inf), (np.sqrt, 0.0, -np.inf)])
def test_ends_of_domains(f, x, expected):
    """The limits. In an outer reverse sweep the function itself has cotangent 0: nan, but for strong zeros."""
    strong = Reverse.with_strong_zero()
    for mix in ((Forward, Forward), (Forward, Reverse), (strong, Forward), (strong, Reverse), (strong, strong)):
        assert differentiated(f, mix)(x) == expected


@pytest.mark.parametrize("mix", mixes(2))
def test_operands_of_partials_may_be_overwritten(mix):
    """What a partial of a partial reads is restored before it is read."""
    def f(x):
        a, b = np.array([x, 2.0 * x]), np.array([1.0 + x, x * x])
        c = np.hypot(a, b)
        d = np.arctan2(a, b)
        p = np.power(a, b)
        total = np.sum(c * d * p)
        a *= 0.0
        b[:] = 7.0
        c += a + d
        p[:] = 0.0
        return total + np.sum(c)

    def plain(x):
        a, b = np.array([x, 2.0 * x]), np.array([1.0 + x, x * x])
        c, d, p = np.hypot(a, b), np.arctan2(a, b), a**b
        return np.sum(c * d * p) + np.sum(c + d)

    h = 1e-3
    expected = sum(w * plain(0.7 + k * h) for k, w in ((-2, -1), (-1, 16), (0, -30), (1, 16), (2, -1))) / (12 * h * h)
    assert_allclose(differentiated(f, mix)(0.7), expected, rtol=1e-7)


def test_an_active_exponent_of_zero_over_an_array():
    x = np.array([-1.135, 1.415])

    def f(a):
        return np.sum((1.2 + np.cos(a)) ** np.tanh(a[0] + 1.135) * a)

    want = cyad.jacfwd(cyad.jacfwd(f))(x + 1e-9)
    for got in (cyad.jacfwd(cyad.jacfwd(f))(x), cyad.jacfwd(cyad.grad(f))(x), cyad.jacrev(cyad.grad(f))(x),
                cyad.hessian(f, x)):
        assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_a_power_with_an_exponent_that_is_one_number():
    """Where the exponent is 0 the partial is one number for the whole array."""
    x, v = np.array([-1.1, 1.4]), np.array([0.3, -0.7])
    for exponent in (0.0, 1.0, 2.0):
        def energy(x, exponent=exponent):
            nought = np.zeros(1)[0]
            return np.sum((1.2 + np.cos(x)) ** nought * x ** 2 + (1.2 + np.cos(x)) ** (nought + exponent))

        def slopes(x, energy=energy):
            return cyad.gradient(cyad.Reverse, energy, x)[0]
        got, = cyad.autodiff(cyad.Forward, slopes, cyad.Duplicated(x, v))
        h = 1e-5
        np.testing.assert_allclose(got, (slopes(x + h * v) - slopes(x - h * v)) / (2 * h), rtol=1e-7, atol=1e-8)


# ---- where an inner tangent or adjoint is zero -----------------------------------------------------------------------

def complex_residual(x):
    return np.sum((np.sqrt(x + 1j).real - np.sqrt(np.array([0.4, 1.0]) + 1j).real) ** 2)


# At a stationary point, or with residuals of zero, what an inner derivative multiplies is 0, and its derivative is not.
STATIONARY = {
    "square": (lambda x: np.sum((x**2 - np.array([4.0, 1.0])) ** 2), [2.0, 1.0]),
    "power": (lambda x: np.sum((x**1.5 - np.array([4.0, 1.0]) ** 0.75) ** 2), [2.0, 1.0]),
    "exponent": (lambda x: np.sum((2.0**x - np.array([4.0, 1.0])) ** 2), [2.0, 0.0]),
    "both": (lambda x: (x[0] ** x[1] - 8.0) ** 2 * x[1], [2.0, 3.0]),
    "float_power": (lambda x: np.sum((np.float_power(x, 2.5) - 1.0) ** 2 * x[0]), [1.0, 1.0]),
    "sqrt": (lambda x: np.sum(np.sqrt(1.0 + x**2)), [0.0, 1.0]),
    "cbrt": (lambda x: np.sum(np.cbrt(1.0 + x**2) * (x - x[1])), [0.0, 1.0]),
    "norm": (lambda x: np.linalg.norm(1.0 + (x - 1.0) ** 2), [1.0, 1.0]),
    "numbers": (lambda x: math.sqrt(1.0 + x[0] * x[0]) + math.pow(1.0 + x[1] * x[1], 1.5) * x[0], [0.0, 0.0]),
    "least squares": (lambda x: np.sum((np.sqrt(np.outer(x, [1.0, 2.0]) ** 3) - np.sqrt([[1.0, 8.0]] * 2)) ** 2),
                      [1.0, 1.0]),
    "chosen": (lambda x: np.sum(np.where(x > 0.5, np.sqrt(x) * (x - 1.0), 0.0) ** 2), [1.0, 0.25]),
    "complex": (complex_residual, [0.4, 1.0]),
}


@pytest.mark.parametrize("strong", [False, True], ids=["weak", "strong"])
@pytest.mark.parametrize("name", STATIONARY)
def test_second_derivatives_where_the_first_is_zero(name, strong):
    f, x = STATIONARY[name][0], np.array(STATIONARY[name][1])
    modes = [m.with_strong_zero() if strong else m for m in MODES]
    want = gradient_by_differences(lambda x: gradient(Reverse, f, x)[0], x)
    for outer, inner in itertools.product(modes, repeat=2):
        assert_allclose(cyad.jacobian(outer, slope(f, inner), x)[0], want, rtol=1e-7, atol=1e-7)
    assert_allclose(cyad.hessian(f, x), want, rtol=1e-7, atol=1e-7)
    assert_allclose([cyad.hvp(f, x, v) for v in np.eye(2)], want, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("strong", [False, True], ids=["weak", "strong"])
@pytest.mark.parametrize("name", STATIONARY)
def test_third_derivatives_where_the_first_is_zero(name, strong):
    f, x = STATIONARY[name][0], np.array(STATIONARY[name][1])
    modes = [m.with_strong_zero() if strong else m for m in MODES]

    def hessian(x, outer=Reverse, inner=Reverse):
        return cyad.jacobian(outer, lambda x: gradient(inner, f, x)[0], x)[0]

    want = np.moveaxis(gradient_by_differences(hessian, x), 0, -1)
    for outer, middle, inner in itertools.product(modes, repeat=3):
        T = cyad.jacobian(outer, functools.partial(hessian, outer=middle, inner=inner), x)[0]
        assert_allclose(T, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mix", mixes(2, 3))
def test_where_the_partial_is_infinite_a_zero_contributes_nothing_at_any_order(mix):
    def chosen(x):
        return np.where(x > 0.5, np.sqrt(x) * 4.0, x[0]).sum()

    H = chosen
    for mode in reversed(mix):
        H = functools.partial(lambda mode, f, x: cyad.jacobian(mode.with_strong_zero(), f, x)[0], mode, H)
    want = np.zeros((2,) * len(mix))
    want[(0,) * len(mix)] = (-1.0, 1.5)[len(mix) - 2]
    assert_allclose(H(np.array([1.0, 0.0])), want, atol=1e-14)


@pytest.mark.parametrize("mix", mixes(2))
def test_easy_rules_where_the_seed_is_zero(mix):
    cube_root = cyad.primitive(lambda x: np.cbrt(x))
    cyad.rules.easy_rule(cube_root)(lambda out, x: ((np.diag(1.0 / (3.0 * out * out)),),))
    outer, inner = (mode.with_strong_zero() for mode in mix)
    H, = cyad.jacobian(outer, slope(lambda x: np.sum((cube_root(x) - 2.0) ** 2), inner), np.full(2, 8.0))
    assert_allclose(H, np.eye(2) / 72.0, rtol=1e-12)


@pytest.mark.parametrize("mix", mixes(2, 3, 4))
def test_functions_at_zero_that_are_smooth_there(mix):
    """Formulas for their partials divide by x, or go through its absolute value."""
    n = len(mix)
    for f, orders in ((np.i0, (0.5, 0.0, 0.375)), (special.i0, (0.5, 0.0, 0.375)), (special.i1, (0.0, 0.375, 0.0)),
                      (special.j0, (-0.5, 0.0, 0.375)), (special.j1, (0.0, -0.375, 0.0)),
                      (np.sinc, (-np.pi**2 / 3, 0.0, np.pi**4 / 5)),
                      (lambda x: np.kaiser(5, x)[1], (-0.125, 0.0, 0.2109375))):
        assert_allclose(differentiated(f, mix)(0.0), orders[n - 2], atol=1e-12)
    for f in (special.xlogy, lambda x, y: special.xlog1py(x, y - 1.0)):
        assert_allclose(differentiated(lambda t: f(t, 2.0 + t), mix)(0.0), (1.0, -0.75, 1.0)[n - 2], atol=1e-13)  # noqa: B023


# ---- determinants of singular matrices -------------------------------------------------------------------------------

def expanded(a):
    """The determinant as a polynomial."""
    if a.ndim > 2:
        return np.stack([expanded(m) for m in a])
    if len(a) == 1:
        return a[0, 0]
    rest = [np.concatenate([a[1:, :j], a[1:, j + 1:]], axis=1) for j in range(len(a))]
    return sum((-1) ** j * a[0, j] * expanded(rest[j]) for j in range(len(a)))


def of_rank(n, rank, *, small=0.0, seed=0):
    """An n by n matrix whose singular values are 1, 2, ... and then `small`."""
    rng = np.random.default_rng(seed + n)
    u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
    return (u * np.where(np.arange(n) < rank, np.arange(1.0, n + 1), small)) @ v


SINGULAR = {
    "ones": np.ones((2, 2)), "zero": np.zeros((3, 3)), "regular": of_rank(3, 3),
    "integers": np.arange(9.0).reshape(3, 3),
    **{f"rank {r} of {n}": of_rank(n, r) for n in (3, 4) for r in range(n)},
    **{f"nearly {r}, {small:g}": of_rank(4, r, small=small) for r in (2, 3) for small in (1e-3, 1e-6, 1e-12, 1e-200)},
    "stacked": np.stack([of_rank(3, r) for r in range(4)]), "one": np.zeros((1, 1)),
}


@pytest.mark.parametrize("mix", [*mixes(2), (Forward, Reverse, Reverse), (Reverse, Forward, Forward)])
@pytest.mark.parametrize("name", SINGULAR)
def test_determinants_of_singular_matrices(name, mix):
    a = SINGULAR[name]
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((2, *a.shape))

    def along(det):
        def line(t):
            return np.sum(np.sin(1.0 + det(a + t * directions[0] + t * t * directions[1])))
        return differentiated(line, mix)(0.0)

    assert_allclose(along(np.linalg.det), along(expanded), rtol=1e-9, atol=1e-9)


def test_the_hessian_of_a_determinant():
    H = cyad.hessian(lambda x: np.linalg.det(np.array([[x[0], x[1]], [x[1], x[0]]])), np.ones(2))
    assert_allclose(H, np.diag([2.0, -2.0]), atol=1e-14)
    a = of_rank(8, 6)
    H = cyad.hessian(np.linalg.det, a)
    assert_allclose(np.einsum("ijij->ij", H), 0.0, atol=1e-9)
    minor = np.linalg.det(a[2:, 2:])
    assert_allclose([H[0, 0, 1, 1], H[0, 1, 1, 0]], [minor, -minor], rtol=1e-9)
    z = of_rank(3, 1) + 1j * np.outer([1.0, 2.0, 0.5], of_rank(3, 1)[0])
    got, want = (cyad.hessian(lambda x: det(z * x[0] + x[1] * np.diag([1j, 2.0, 0.5])).real, np.array([1.0, 0.0]))  # noqa: B023
                 for det in (np.linalg.det, expanded))
    assert_allclose(got, want, atol=1e-10)


@pytest.mark.parametrize("mix", mixes(2))
@pytest.mark.parametrize("size", [
    lambda x: np.abs(x[0] + 1j * x[1]), lambda x: np.sum(np.abs(x + 0j)), lambda x: np.hypot(x[0], x[1]),
    np.linalg.norm, lambda x: abs(x[0]) + abs(x[1])], ids=["complex", "array", "hypot", "norm", "real"])
def test_the_convention_at_the_tip_of_a_cone_holds_for_every_order(size, mix):
    outer, inner = mix
    for f in (lambda x: size(x) ** 2, lambda x: size(x) * size(x), lambda x: size(x) * (1.0 + x[0]), size):
        H, = cyad.jacobian(outer, slope(f, inner), np.zeros(2))
        assert_allclose(H, np.zeros((2, 2)), atol=0.0)
        assert_allclose(cyad.hessian(f, np.zeros(2)), H)


# ---- scalars are numbers at every order ------------------------------------------------------------------------------

ASKED = {
    "iterable": np.iterable, "Iterable": lambda v: isinstance(v, collections.abc.Iterable),
    "Sized": lambda v: isinstance(v, collections.abc.Sized),
    "Container": lambda v: isinstance(v, collections.abc.Container),
    "Hashable": lambda v: isinstance(v, collections.abc.Hashable), "len": lambda v: hasattr(v, "__len__"),
    "iter": lambda v: hasattr(v, "__iter__"), "contains": lambda v: hasattr(v, "__contains__"), "scalar": np.isscalar,
    "sequence": lambda v: isinstance(v, collections.abc.Sequence), "float64": lambda v: isinstance(v, np.float64),
    "array": lambda v: isinstance(v, np.ndarray),
}


@pytest.mark.parametrize("mix", mixes(1, 2, 3))
@pytest.mark.parametrize("question", ASKED)
def test_scalars_and_arrays_answer_as_numpys_at_every_order(question, mix):
    ask = ASKED[question]
    want = ask(np.float64(1.0)), ask(np.ones(2)), ask(np.array(1.0))
    answers = []

    def f(x):
        line = x * np.ones(2)
        answers.append((ask(line[0]), ask(line), ask(line[0:1].reshape(()))))
        return line[0]

    differentiated(f, mix)(1.0)
    assert set(answers) == {want}


@pytest.mark.parametrize("mix", mixes(2))
def test_scalars_are_keys_and_no_sequences_at_every_order(mix):
    @functools.lru_cache
    def cube(v):
        return v ** 3

    def f(x):
        found = {x[0]: 2.0, **dict.fromkeys(set(x), 3.0)}
        for wrong in (iter, len, lambda v: 1.0 in v, list, lambda v: v[0]):
            with pytest.raises((TypeError, IndexError)):
                wrong(x[0])
        with pytest.raises(TypeError, match="unhashable"):
            hash(x)
        assert x[1] in x and len(x) == 2 and x[0] in {1.0: None}
        return cube(x[0]) * found[x[0]] + (x[1] ** 3 if np.iterable(x[1]) else x[1] ** 2)

    outer, inner = mix
    assert_allclose(cyad.jacobian(outer, slope(f, inner), np.array([1.0, 5.0]))[0], np.diag([18.0, 2.0]))


@pytest.mark.parametrize("mode", MODES)
def test_complex_scalars_are_no_sequences(mode):
    def f(x):
        z = np.exp(1j * x)
        assert not np.iterable(z) and not hasattr(z, "__len__") and hash(z) == hash(complex(np.exp(0.5j)))
        return z.real

    assert_allclose(gradient(mode, f, 0.5)[0], -np.sin(0.5))


# ---- strong zeros in functions of whole arrays -----------------------------------------------------------------------

# Each computes from 1/x what is not finite at x[0] = 0, and takes none of it.
DEAD = {
    "dot": lambda x: np.dot(1 / x, x), "norm": lambda x: np.linalg.norm(1 / x), "std": lambda x: np.std(1 / x),
    "var": lambda x: np.var(1 / x), "prod": lambda x: np.prod(1 / x), "cumprod": lambda x: np.cumprod(1 / x)[1],
    "det": lambda x: np.linalg.det(np.stack([1 / x, 2.0 / x])), "matmul": lambda x: ((1 / x) @ np.ones((2, 2)) @ x),
    "outer": lambda x: np.outer(1 / x, x).sum(), "einsum": lambda x: np.einsum("i,i,j->", 1 / x, x, x),
    "tensordot": lambda x: np.tensordot(1 / x, x, 1), "convolve": lambda x: np.convolve(1 / x, x)[1],
    "solve": lambda x: np.linalg.solve(np.diag(3.0 + x), 1 / x)[0], "median": lambda x: np.median(1 / x),
    "complex": lambda x: np.vdot(1 / x + 1j, x).real,
}


@pytest.mark.parametrize("mix", mixes(1, 2))
@pytest.mark.parametrize("name", DEAD)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_strong_zeros_of_what_is_not_taken(name, mix):
    def f(x):
        return np.sum(np.where(x > 0, DEAD[name](x), x * x))

    H = f
    for mode in reversed(mix):
        H = functools.partial(lambda mode, f, x: cyad.jacobian(mode.with_strong_zero(), f, x)[0], mode, H)
    assert_allclose(H(np.array([0.0, -1.0])), [0.0, -2.0] if len(mix) == 1 else np.diag([2.0, 2.0]))


BIG = np.array([[np.inf, 1.0, np.nan], [2.0, -np.inf, 3.0], [4.0, 5.0, 6.0]])
# Of a vector, by a matrix in which something is not finite; and the same by elementwise products.
PRODUCTS = {
    "matmul": (lambda x: BIG @ x, lambda x: np.sum(BIG * x, axis=1)),
    "vector first": (lambda x: x @ BIG, lambda x: np.sum(BIG * x[:, None], axis=0)),
    "matrices": (lambda x: BIG @ (x[:, None] * np.ones(2)),
                 lambda x: np.stack([np.sum(BIG * x, axis=1) for _ in range(2)], axis=1)),
    "batched": (lambda x: np.stack([BIG, BIG]) @ x, lambda x: np.sum(np.stack([BIG, BIG]) * x, axis=2)),
    "dot": (lambda x: np.dot(BIG[1], x), lambda x: np.sum(BIG[1] * x)),
    "dot of a number": (lambda x: np.dot(np.inf, x), lambda x: np.inf * x),
    "inner": (lambda x: np.inner(BIG, x), lambda x: np.sum(BIG * x, axis=1)),
    "outer": (lambda x: np.outer(BIG[1], x), lambda x: BIG[1][:, None] * x),
    "tensordot": (lambda x: np.tensordot(BIG, x, 1), lambda x: np.sum(BIG * x, axis=1)),
    "vdot": (lambda x: np.vdot(BIG[0], x), lambda x: np.sum(BIG[0] * x)),
    "vecdot": (lambda x: np.vecdot(BIG, x), lambda x: np.sum(BIG * x, axis=1)),
    "einsum": (lambda x: np.einsum("ij,j->i", BIG, x), lambda x: np.sum(BIG * x, axis=1)),
    "convolve": (lambda x: np.convolve(BIG[1], x), lambda x: np.stack([
        np.sum(np.stack([BIG[1, i] * x[k - i] for i in range(3) if 0 <= k - i < 3])) for k in range(5)])),
    "correlate": (lambda x: np.correlate(x, BIG[1]), lambda x: np.reshape(np.sum(x * BIG[1]), 1)),
    "single": (lambda x: BIG.astype(np.float32) @ x.astype(np.float32),
               lambda x: np.sum(BIG.astype(np.float32) * x.astype(np.float32), axis=1)),
}


@pytest.mark.parametrize("mode", MODES, ids=lambda m: m.name)
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_strong_zeros_count_entry_by_entry_in_products(name, mode):
    own, plain = PRODUCTS[name]
    mode = mode.with_strong_zero()
    x = np.ones(3)
    if mode.forward:
        for direction in itertools.product((0.0, 2.0, -1.0), repeat=3):
            got, want = (autodiff(mode, f, Duplicated(x, np.array(direction)))[0] for f in (own, plain))
            assert_allclose(got, want)
            assert np.result_type(got) == np.result_type(want)
        return
    count = np.size(own(x))
    for seed in itertools.islice(itertools.product((0.0, 2.0, -1.0), repeat=count), 0, 700, 7):
        got, want = (gradient(mode, lambda x: np.sum(np.ravel(f(x)) * np.array(seed)), x)[0]  # noqa: B023
                     for f in (own, plain))
        assert_allclose(got, want)


@pytest.mark.parametrize("mix", mixes(2))
def test_strong_zeros_in_products_keep_second_derivatives(mix):
    """The cotangent of the product is zero, its derivative is not."""
    outer, inner = (mode.with_strong_zero() for mode in mix)
    weights = np.array([2.0, 3.0])
    H, = cyad.jacobian(outer, slope(lambda x: (np.dot(weights, x) - 8.0) ** 2, inner), np.array([1.0, 2.0]))
    assert_allclose(H, 2.0 * np.outer(weights, weights))
    H, = cyad.jacobian(outer, slope(lambda x: np.sum((np.cumprod(x) - [1.0, 2.0]) ** 2), inner), np.array([1.0, 2.0]))
    assert_allclose(H, [[10.0, 4.0], [4.0, 2.0]])


VALUES = {"eigvalsh": np.linalg.eigvalsh, "eigvalsh of the upper": lambda a: np.linalg.eigvalsh(a, "U"),
          "svdvals": lambda a: np.linalg.svd(a, compute_uv=False)}


@pytest.mark.parametrize("name", VALUES)
def test_second_derivatives_of_values_that_coincide_are_refused(name):
    def f(x):
        return np.sum(VALUES[name](np.stack([np.stack([x[0], x[1]]), np.stack([x[1], x[2]])])) ** 2)
    for outer in (cyad.jacfwd, cyad.jacrev):
        with pytest.raises(cyad.MissingRuleError, match="where values coincide"):
            outer(cyad.grad(f))(np.array([1.0, 0.0, 1.0]))
        x, h = np.array([1.0, 0.3, 2.0]), 1e-6
        want = np.stack([(cyad.grad(f)(x + h * e) - cyad.grad(f)(x - h * e)) / (2 * h) for e in np.eye(3)], axis=1)
        assert_allclose(outer(cyad.grad(f))(x), want, atol=1e-7)
    assert_allclose(cyad.grad(f)(np.array([1.0, 0.0, 1.0])), [2.0, 0.0, 2.0], atol=1e-12)


def test_constants_that_a_second_derivative_reads_may_be_overwritten():
    """The partial x/o of hypot reads no y, its derivative y**2/o**3 does."""
    x, v = np.array([-1.1, 1.4, -0.2]), np.array([1.0, -2.0, 0.5])

    def into_operand(x):
        y = np.full(3, 0.3)
        np.hypot(x, y, out=y)
        return np.sum(y)

    def later(x):
        y = np.full(3, 0.3)
        z = np.hypot(x, y)
        y[...] = 7.0
        return np.sum(z) + np.sum(y)
    for f in (into_operand, later):
        def slopes(x, f=f):
            return cyad.gradient(cyad.Reverse, f, x)[0]
        want = 0.09 / np.hypot(x, 0.3) ** 3 * v
        assert_allclose(cyad.jvp(slopes, (x,), (v,))[1], want, rtol=1e-12)
        assert_allclose(cyad.jacrev(slopes)(x) @ v, want, rtol=1e-12)
        assert_allclose(cyad.hvp(f, x, v), want, rtol=1e-12)
