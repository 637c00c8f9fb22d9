"""cyad and PyTorch: each in the graphs of the other, against torch's own derivatives and finite differences."""
import numpy as np
import pytest
import torch

import cyad
from cyad import Active, BatchDuplicated, Const, Duplicated
from cyad.interop.torch import from_torch, parameters_of, to_torch
from cyad.testing import check_forward, check_grads, check_reverse

D = torch.float64


def tensor(*shape, seed=0, dtype=D):
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.3, 1.5, shape)).to(dtype).requires_grad_()


def simulate(u, rate, steps=4):
    """In place, with a scratch array and a number."""
    new = np.empty_like(u)
    for _ in range(steps):
        new[1:-1] = u[1:-1] + rate * (u[:-2] - 2.0 * u[1:-1] + u[2:])
        new[0], new[-1] = u[0], u[-1] * rate
        u[:] = new
    return {"sum": np.sum(u**2), "u": u, "steps": steps, "pair": (u[::-1], 2.0)}


def in_torch(u, rate, steps=4):
    for _ in range(steps):
        inner = u[1:-1] + rate * (u[:-2] - 2.0 * u[1:-1] + u[2:])
        u = torch.cat([u[:1], inner, u[-1:] * rate])
    return {"sum": torch.sum(u**2), "u": u, "steps": steps, "pair": (u.flip(0), 2.0)}


def test_values_and_gradients_are_those_of_torch():
    u, rate = tensor(6), torch.tensor(0.3, dtype=D, requires_grad=True)
    kept = u.detach().clone()
    results = [f(u, rate, steps=3) for f in (to_torch(simulate), in_torch)]
    for out in results:
        assert out["steps"] == 3 and isinstance(out["pair"], tuple)
    assert torch.equal(u, kept)
    torch.testing.assert_close(results[0]["u"], results[1]["u"])
    torch.testing.assert_close(results[0]["pair"][0], results[1]["pair"][0])
    losses = [torch.sum(out["u"] ** 3) * out["sum"] + out["pair"][0][0] for out in results]
    grads = [torch.autograd.grad(loss, (u, rate)) for loss in losses]
    torch.testing.assert_close(grads[0], grads[1])


def test_gradcheck_in_every_way_torch_has():
    def f(u, rate):
        out = to_torch(simulate)(u, rate)
        return out["sum"], out["u"]

    args = tensor(5), torch.tensor(0.3, dtype=D, requires_grad=True)
    assert torch.autograd.gradcheck(f, args, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, args, check_fwd_over_rev=True)


def test_transforms_of_functions():
    u, rate = tensor(5).detach(), torch.tensor(0.3, dtype=D)
    f = to_torch(lambda u, rate: simulate(u, rate)["sum"])
    g = lambda u, rate: in_torch(u, rate)["sum"]
    for transform in (torch.func.grad, torch.func.jacfwd, torch.func.jacrev, torch.func.hessian):
        torch.testing.assert_close(transform(f)(u, rate), transform(g)(u, rate))
    many = tensor(3, 5).detach()
    lanes = torch.func.vmap(f, in_dims=(0, None))(many, rate)
    torch.testing.assert_close(lanes, torch.stack([g(m, rate) for m in many]))


def test_only_what_is_wanted():
    u, rate = tensor(5), torch.tensor(0.3, dtype=D)
    out = to_torch(simulate)(u, rate)
    out["u"].sum().backward()
    assert rate.grad is None and u.grad.shape == (5,)
    with torch.no_grad():
        assert not to_torch(simulate)(u, rate)["sum"].requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
def test_dtypes(dtype):
    x = tensor(4).detach().to(dtype)
    if dtype.is_complex:
        x = x * torch.tensor(0.6 + 0.8j, dtype=dtype)
    grads = []
    for f in (to_torch(lambda x, n: np.sum(np.abs(x[n] * x) ** 2 + np.real(x * x))),
              lambda x, n: torch.sum(torch.abs(x[n] * x) ** 2 + torch.real(x * x))):
        mine = x.clone().requires_grad_()
        f(mine, torch.tensor([0, 0, 3, 1])).backward()
        assert mine.grad.dtype == dtype
        grads.append(mine.grad)
    torch.testing.assert_close(*grads)
    if dtype == torch.complex128:
        assert torch.autograd.gradcheck(to_torch(lambda x: x * x * np.conj(x)), x.requires_grad_())


def test_structures_and_views():
    x = tensor(2, 3)
    f = to_torch(lambda p, k: [p["w"].T @ p["b"][0] * k, np.float32(2.0), None])
    out = f({"w": x.t(), "b": (tensor(3, seed=1),)}, 2.0)
    assert out[2] is None and out[1].dtype == torch.float32
    torch.testing.assert_close(out[0], x @ tensor(3, seed=1) * 2.0)
    (grad,) = torch.autograd.grad(out[0].sum(), x)
    torch.testing.assert_close(grad, 2.0 * tensor(3, seed=1).expand(2, 3))


def test_results_do_not_share_memory():
    x = tensor(3)
    a, b, c = to_torch(lambda x: (x, x, x[1:]))(x)
    with torch.no_grad():
        a.zero_()
    assert b[0] != 0.0 and c[0] != 0.0 and x[0] != 0.0


def test_a_simulator_in_a_training_loop():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(D)
    f = to_torch(lambda u, rate: simulate(u, rate)["u"])
    u0, wanted = torch.linspace(0.0, 1.0, 6, dtype=D) ** 2, None
    with torch.no_grad():
        wanted = f(u0, torch.tensor(0.2, dtype=D))
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.02), []
    for _ in range(150):
        optimizer.zero_grad()
        rate = torch.sigmoid(net(torch.ones(2, dtype=D)))[0]
        loss = torch.mean((f(u0, rate) - wanted) ** 2)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_results_without_floats():
    assert to_torch(lambda x: (3, "s", None))(tensor(2)) == (3, "s", None)
    assert to_torch(len)(tensor(2)) == 2


def test_what_is_raised():
    with pytest.raises(ZeroDivisionError):
        to_torch(lambda x: 1 / 0)(tensor(2))
    with pytest.raises(TypeError, match="on meta.*cpu"):
        to_torch(np.sum)(torch.ones(2, device="meta"))


# ---- torch inside NumPy code ----------------------------------------------------------------------------------------

def in_both(x, a):
    return torch.sin(a * x[1:]) * x[:-1], torch.sum(x) * a, 3


from_it = from_torch(in_both)
X = np.array([0.5, 1.0, -0.7, 2.0])


def test_every_mode_and_order_of_a_torch_function():
    value = from_it(X, np.float64(0.5))
    assert isinstance(value[0], np.ndarray) and type(value[1]) is np.float64 and value[2] == 3
    check_grads(lambda x, a: from_it(x, a)[:2], X, 0.5, order=2)
    check_grads(lambda x, a: np.sum(from_it(x * a, a)[0] ** 2) * from_it(x, a)[1], X, 0.5, order=3)


@pytest.mark.parametrize("kind", [Duplicated, BatchDuplicated])
def test_activities(kind):
    for a, x in ((Const, kind), (kind, Const)):
        check_forward(lambda x, a: from_it(x, a)[0], None, (X, x), (0.5, a))
    check_reverse(lambda x, a: from_it(x, a)[0], Duplicated, (X, kind), (0.5, Const))
    check_reverse(lambda x, a: from_it(x, a)[0], Duplicated, (X, Const), (0.5, Active))


def test_memory_is_shared_and_put_back():
    seen = []

    def square(x):
        seen.append(x.data_ptr())
        return x * x

    f, x = from_torch(square), np.linspace(0.1, 1.0, 1000)

    def program(x):
        y = f(x)
        y *= 2.0
        x[:] = y * f(x[::-1])
        return np.sum(f(x[1:]))

    (want,) = cyad.gradient(cyad.Reverse, program, x.copy())
    assert len(seen) == 3
    plain = lambda x: np.sum((2.0 * x**2 * (x**2)[::-1])[1:] ** 2)
    np.testing.assert_allclose(want, cyad.gradient(cyad.Reverse, plain, x)[0])
    seen.clear()
    cyad.gradient(cyad.Reverse, lambda x: np.sum(f(x)), x)
    assert seen == [x.ctypes.data]
    check_reverse(lambda x: program(x), Active, (X, Duplicated))


def test_views_that_torch_returns():
    f = from_torch(lambda x: (x.reshape(2, 2).T, x[1:], x))
    check_reverse(f, Duplicated, (X, Duplicated))
    check_forward(f, Duplicated, (X, Duplicated))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_dtypes_of_arrays(dtype):
    x = X.astype(dtype) * dtype(0.6 + 0.8j) if dtype(0).imag.dtype != dtype(0).dtype else X.astype(dtype)
    f = from_torch(lambda x, k: x[k] ** 2 * torch.abs(x))
    k = np.array([0, 0, 2, 3])
    check_reverse(f, Duplicated, (x, Duplicated), (k, Const))
    check_forward(f, Duplicated, (x, Duplicated), (k, Const))
    assert cyad.autodiff(cyad.Forward, f, Duplicated(x, x.copy()), Const(k))[0].dtype == dtype


def test_unused_arguments_and_results_without_gradient():
    f = from_torch(lambda x, y: (x * 1.0, torch.ones(2, dtype=D), torch.argmax(x)))
    check_reverse(lambda x, y: np.sum(f(x, y)[0]) + np.sum(f(x, y)[1]), Active, (X, Duplicated), (X, Duplicated))
    check_forward(f, Duplicated, (X, Duplicated), (X, Duplicated))


def test_networks():
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).to(D)
    g, p = from_torch(net), parameters_of(net)
    assert sorted(p) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    loss = lambda p, x: np.sum(g(p, x) ** 2)
    grads, gx = cyad.gradient(cyad.Reverse, loss, p, X)
    x = torch.from_numpy(X).requires_grad_()
    torch.sum(net(x) ** 2).backward()
    for name, parameter in net.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad, rtol=1e-12)
    np.testing.assert_allclose(gx, x.grad, rtol=1e-12)
    check_grads(lambda w, x: loss({**p, "0.weight": w}, x), p["0.weight"], X)
    before = loss(p, X)
    for name, gradient in grads.items():
        p[name] -= 0.05 * gradient
    assert torch.sum(net(torch.from_numpy(X)) ** 2).item() == pytest.approx(loss(p, X)) and loss(p, X) < before


def test_a_network_inside_an_in_place_loop():
    net = torch.nn.Linear(4, 4).to(D)
    g, p = from_torch(net), parameters_of(net)

    def integrate(p, x):
        for _ in range(3):
            x += 0.1 * np.tanh(g(p, x))
        return np.sum(x**2)

    check_grads(lambda w, b, x: integrate({"weight": w, "bias": b}, x), p["weight"], p["bias"], X, order=1)


def test_creation_functions_are_plain_inside_torch():
    f = from_torch(lambda x: x * torch.from_numpy(np.ones(4)))
    np.testing.assert_allclose(cyad.gradient(cyad.Reverse, lambda x: np.sum(f(x)) + np.sum(f(np.zeros(4))), X)[0], 1.0)
    check_grads(lambda x: f(x) ** 2, X)


def test_errors_name_the_function_and_modules_that_write_their_buffers():
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).double()
    g, p = from_torch(net), parameters_of(net)
    x = np.random.default_rng(0).normal(size=(4, 3))

    def total(x):
        return np.sum(g(p, x) ** 3)

    with pytest.raises(RuntimeError) as caught:
        cyad.gradient(cyad.Forward, total, x)
    notes = "\n".join(caught.value.__notes__)
    assert "eval()" in notes and "Reverse" in notes and "in a call of Sequential, a function of torch" in notes
    assert cyad.gradient(cyad.Reverse, total, x)[0].shape == (4, 3)
    net.eval()
    np.testing.assert_allclose(cyad.gradient(cyad.Forward, total, x)[0], cyad.gradient(cyad.Reverse, total, x)[0])

    def explodes(t):
        return t / {}["x"]

    for mode in (cyad.Forward, cyad.Reverse):
        with pytest.raises(KeyError) as caught:
            cyad.gradient(mode, lambda x: np.sum(from_torch(explodes)(x)), x)
        assert "explodes, a function of torch" in caught.value.__notes__[0]
