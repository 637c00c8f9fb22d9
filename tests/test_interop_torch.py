"""cyad and PyTorch: each in the graphs of the other, against torch's own derivatives and finite differences."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cyad.interop.torch import to_torch  # noqa: E402

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


def test_what_is_raised():
    with pytest.raises(ZeroDivisionError):
        to_torch(lambda x: 1 / 0)(tensor(2))
    with pytest.raises(TypeError, match="on meta.*cpu"):
        to_torch(np.sum)(torch.ones(2, device="meta"))
