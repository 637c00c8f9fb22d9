"""cyad and JAX: each in the programs of the other, against JAX's own derivatives and finite differences."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cyad
from cyad import Active, BatchDuplicated, Const, Duplicated
from cyad.interop.jax import as_jax, from_jax, to_jax
from cyad.testing import check_forward, check_grads, check_reverse


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def simulate(u, rate, steps=4):
    """In place, with a scratch array and a number."""
    new = np.empty_like(u)
    for _ in range(steps):
        new[1:-1] = u[1:-1] + rate * (u[:-2] - 2.0 * u[1:-1] + u[2:])
        new[0], new[-1] = u[0], u[-1] * rate
        u[:] = new
    return {"u": u, "sum": np.sum(u**2), "n": len(u)}


def in_jax(u, rate, steps=4):
    for _ in range(steps):
        inner = u[1:-1] + rate * (u[:-2] - 2.0 * u[1:-1] + u[2:])
        u = jnp.concatenate([u[:1], inner, u[-1:] * rate])
    return {"u": u, "sum": jnp.sum(u**2), "n": len(u)}


U, RATE = np.array([0.5, 1.0, 0.7, 1.4, 0.9]), 0.3
SHAPES = {"u": jax.ShapeDtypeStruct((5,), float), "sum": jax.ShapeDtypeStruct((), float),
          "n": jax.ShapeDtypeStruct((), int)}


def loss(f):
    return lambda u, rate: jnp.sum(f(u, rate)["u"] ** 3) * f(u, rate)["sum"]


def close(got, want, tolerance=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


def test_values():
    kept = U.copy()
    for f in (to_jax(simulate), to_jax(simulate, SHAPES), jax.jit(to_jax(simulate, SHAPES))):
        out = f(U, RATE)
        close(out, in_jax(U, RATE))
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(out))
    np.testing.assert_array_equal(U, kept)


@pytest.mark.parametrize("result", [None, SHAPES, lambda u, rate: {"u": u, "sum": rate, "n": SHAPES["n"]}])
def test_gradients(result):
    f = to_jax(simulate, result)
    close(jax.grad(loss(f), (0, 1))(U, RATE), jax.grad(loss(in_jax), (0, 1))(U, RATE))
    close(jax.jit(jax.grad(loss(f), (0, 1)))(U, RATE), jax.grad(loss(in_jax), (0, 1))(U, RATE))


def test_second_derivatives():
    f, v = to_jax(simulate, SHAPES), np.linspace(-1.0, 1.0, 5)

    def hvp(f):
        return jax.grad(lambda u: jnp.vdot(jax.grad(loss(f))(u, RATE), v))(U)

    close(hvp(f), hvp(in_jax))
    close(jax.jacrev(jax.grad(loss(f)))(U, RATE), jax.hessian(loss(in_jax))(U, RATE))


def test_vmap():
    many = np.stack([U, U[::-1], 2.0 * U])
    f = to_jax(simulate, SHAPES)
    close(jax.vmap(jax.grad(loss(f)), (0, None))(many, RATE), jax.vmap(jax.grad(loss(in_jax)), (0, None))(many, RATE))
    close(jax.jacrev(lambda u: f(u, RATE)["u"])(U), jax.jacrev(lambda u: in_jax(u, RATE)["u"])(U))


def test_pytrees_integers_and_complex_values():
    def f(p, k):
        return np.sum(np.abs(p["z"][k] * p["w"]) ** 2 + np.real(p["z"][k] ** 2)), p["z"] * p["w"][0]

    def g(p, k):
        return jnp.sum(jnp.abs(p["z"][k] * p["w"]) ** 2 + jnp.real(p["z"][k] ** 2)), p["z"] * p["w"][0]

    p = {"z": jnp.array([1.0 + 2.0j, 3.0 - 1.0j, 0.5j]), "w": jnp.array([2.0, 3.0])}
    k = jnp.array([0, 2])
    close(to_jax(f)(p, k), g(p, k))
    for call in (to_jax(f), g):
        (y, z), pull = jax.vjp(lambda p, call=call: call(p, k), p)
        if call is not g:
            got = pull((y, (1.0 - 0.5j) * z))
    close(got, pull((y, (1.0 - 0.5j) * z)))


def test_default_precision():
    with jax.enable_x64(False):
        f = to_jax(lambda x: np.cumsum(x) * np.linspace(1.0, 2.0, 3), jax.ShapeDtypeStruct((3,), np.float32))
        x = jnp.arange(3.0)
        assert x.dtype == np.float32 and f(x).dtype == np.float32
        out = jax.jit(jax.value_and_grad(lambda x: jnp.sum(f(x) ** 2)))(x)
        want = jax.value_and_grad(lambda x: jnp.sum((jnp.cumsum(x) * jnp.linspace(1.0, 2.0, 3)) ** 2))(x)
        close(out, want, 1e-5)


def test_a_simulator_in_a_training_loop():
    f = to_jax(lambda u, rate: simulate(u, rate)["u"], lambda u, rate: u)
    wanted = f(U, 0.2)

    @jax.jit
    def step(logit):
        value, slope = jax.value_and_grad(
            lambda logit: jnp.mean((f(U, jax.nn.sigmoid(logit)) - wanted) ** 2))(logit)
        return value, logit - 5.0 * slope

    logit = 0.5
    for _ in range(40):
        value, logit = step(logit)
    assert abs(jax.nn.sigmoid(logit) - 0.2) < 1e-4


def test_what_is_raised():
    with pytest.raises(TypeError, match="shape of what simulate returns.*jax.ShapeDtypeStruct"):
        jax.jit(to_jax(simulate))(U, RATE)
    with pytest.raises(ZeroDivisionError):
        to_jax(lambda x: 1 / 0)(U)


# ---- JAX inside NumPy code ------------------------------------------------------------------------------------------

def in_both(x, a, name="sin"):
    y = {"sin": jnp.sin, "cos": jnp.cos}[name](a * x[1:]) * x[:-1]
    return {"y": y, "s": (jnp.sum(x) * a, jnp.argmax(x), None)}


from_it = from_jax(in_both)
X = np.array([0.5, 1.0, -0.7, 2.0])


def test_every_mode_and_order_of_a_jax_function():
    value = from_it(X, 0.5)
    assert isinstance(value["y"], np.ndarray) and type(value["s"][0]) is np.float64 and value["s"][1:] == (3, None)
    check_grads(from_it, X, 0.5)
    check_grads(from_jax(jax.jit(in_both, static_argnames="name")), X, 0.5, kwargs={"name": "cos"}, order=1)
    check_grads(lambda x, a: np.sum(from_it(x * a, a, "cos")["y"] ** 2) * from_it(x, a)["s"][0], X, 0.5, order=3)


@pytest.mark.parametrize("kind", [Duplicated, BatchDuplicated])
def test_activities(kind):
    for a, x in ((Const, kind), (kind, Const)):
        check_forward(lambda x, a: from_it(x, a)["y"], None, (X, x), (0.5, a))
    check_reverse(lambda x, a: from_it(x, a)["y"], Duplicated, (X, kind), (0.5, Const))
    check_reverse(lambda x, a: from_it(x, a)["y"], Duplicated, (X, Const), (0.5, Active))


def test_compiled_once():
    traced = []

    def f(x, name):
        traced.append(name)
        return jnp.sum(x**3)

    g = from_jax(f)
    for k in range(5):
        for name in "ab":
            np.testing.assert_allclose(cyad.gradient(cyad.Reverse, lambda x, name=name: g(x, name), X * k)[0],
                                       3 * (X * k) ** 2)
    assert sorted(traced) == ["a", "b"]


def test_structures_that_depend_on_shapes():
    f = from_jax(lambda x: [x[k] * k for k in range(len(x))])
    for n in (2, 4, 3, 2, 4):
        assert len(f(X[:n])) == n
        np.testing.assert_allclose(cyad.gradient(cyad.Reverse, lambda x: sum(f(x)), X[:n].copy())[0], range(n))


def test_constants_of_jax():
    f = from_jax(lambda p, x: p["w"] @ x + p["b"])
    p = {"w": jnp.ones((3, 4)), "b": 2}
    check_grads(lambda x: f(p, x) ** 2, X)


def test_memory_is_shared_and_put_back():
    f = from_jax(lambda x: x * x)
    for size in (5, 1000, 100_000):
        x = np.linspace(0.1, 1.0, size)

        def program(x):
            y = f(x)
            y *= 2.0
            x[:] = y * f(x[::-1])
            z = np.sum(f(x[1:]))
            x[:] = 0.0
            return z

        plain = lambda x: np.sum((2.0 * x**2 * (x**2)[::-1])[1:] ** 2)
        np.testing.assert_allclose(cyad.gradient(cyad.Reverse, program, x.copy())[0],
                                   cyad.gradient(cyad.Reverse, plain, x)[0])
    check_reverse(program, Active, (X, Duplicated))


def test_no_copy_where_memory_is_aligned():
    block = np.zeros(100_000 + 8)
    x = block[-block.ctypes.data // 8 % 8:][:100_000]
    x.flags.writeable = False
    assert as_jax(x).unsafe_buffer_pointer() == x.ctypes.data


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_dtypes(dtype):
    x = X.astype(dtype)
    if np.iscomplexobj(x):
        x = x * dtype(0.6 + 0.8j)
    f = from_jax(lambda x, k, b: x[k] ** 2 * jnp.abs(x) * b)
    rest = (np.array([0, 0, 2, 3]), Const), (np.array([True, True, False, True]), Const)
    check_reverse(f, Duplicated, (x, Duplicated), *rest)
    check_forward(f, Duplicated, (x, Duplicated), *rest)
    check_grads(lambda x: f(x, rest[0][0], rest[1][0]), x, rtol=1e-3 if dtype in (np.float32, np.complex64) else None)


def test_layouts():
    f = from_jax(lambda x: jnp.cos(x) * x.sum(0))
    matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    for x in (matrix, matrix[::-1, ::2], np.broadcast_to(X, (2, 4)), np.zeros((0, 3)), np.array(2.0)[None]):
        check_reverse(f, Duplicated, (x, Duplicated))
        check_forward(f, Duplicated, (x, Duplicated))


def test_single_precision_by_default():
    with jax.enable_x64(False):
        f = from_jax(lambda x: jnp.sum(x**2))
        (g,) = cyad.gradient(cyad.Reverse, f, X)
        assert f(X).dtype == np.float32 and g.dtype == np.float64
        np.testing.assert_allclose(g, 2 * X, rtol=1e-6)


def test_results_without_a_numpy_dtype_are_refused():
    f = from_jax(lambda x: x.astype(jnp.bfloat16))
    with pytest.raises(TypeError, match="bfloat16.*float32"):
        cyad.gradient(cyad.Reverse, lambda x: f(x)[0], X)


def test_creation_functions_are_plain_inside_jax():
    f = from_jax(lambda x: x * jnp.asarray(np.linspace(1.0, 2.0, 4)))
    check_grads(lambda x: f(x) ** 2 + f(np.ones(4)), X)


@pytest.mark.parametrize("result", [
    lambda u: u, lambda u: jax.ShapeDtypeStruct((1,), u.dtype), lambda u: jax.ShapeDtypeStruct((), np.int32),
    lambda u: (u, u), lambda u: jax.ShapeDtypeStruct((), np.complex64)])
def test_a_result_that_is_not_what_was_declared(result):
    f = to_jax(lambda u: np.sum(u**2), result)
    u = jnp.array([1.0, 3.0, -4.0])

    def total(u):
        return sum(jnp.sum(jnp.real(y)) for y in jax.tree.leaves(f(u))).astype(u.dtype)

    for call in (total, jax.grad(total)):
        if call is total or jnp.issubdtype(jax.tree.leaves(result(u))[0].dtype, jnp.inexact):
            with pytest.raises(Exception, match=r"was declared to to_jax as .*; it returned float\d\d\[\]"):
                jax.block_until_ready(jax.jit(call)(u))
    right = to_jax(lambda u: np.sum(u**2), lambda u: jax.ShapeDtypeStruct((), u.dtype))
    np.testing.assert_allclose(jax.jit(jax.grad(lambda u: right(u)))(u), 2 * u)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda u: jnp.sum(jax.grad(lambda u: right(u))(u) ** 2)))(u), 8 * u)
