"""A user's script with everything public in it, which test_typing.py gives to a type checker and to the interpreter."""
from importlib.util import find_spec
from typing import Any, Literal, assert_type

import numpy
from numpy.typing import NDArray

import cyad
from cyad.api import WithPrimal
from cyad.testing import check_forward, check_grads, check_reverse

Array = NDArray[numpy.float64]


def total(x: Array) -> float:
    return float_of(numpy.sum(x * x))


def float_of(x: float) -> float:
    return x


def scaled(x: Array, scale: float) -> float:
    return scale * total(x)


def weighted(a: float, x: Array, b: float) -> float:
    return a * b * total(x)


def write_square(y: Array, x: Array) -> None:
    y[:] = x**2


def double(x: Array) -> Array:
    return 2.0 * x


x: Array = numpy.array([1.0, 2.0])

# ---- gradient: what comes back follows from the mode and the arguments

assert_type(cyad.gradient(cyad.Reverse, total, x), tuple[Array])
assert_type(cyad.gradient(cyad.Forward, total, x, chunk=1), tuple[Array])
assert_type(cyad.gradient(cyad.Reverse, scaled, x, 3.0), tuple[Array, float])
assert_type(cyad.gradient(cyad.Reverse, scaled, x, cyad.Const(3.0)), tuple[Array, None])
assert_type(cyad.gradient(cyad.Forward, scaled, cyad.Const(x), 3.0), tuple[None, float])
assert_type(cyad.gradient(cyad.Reverse, weighted, 1.0, x, 2.0), tuple[float, Array, float])
da, dx, nothing = cyad.gradient(cyad.Reverse, weighted, 1.0, x, cyad.Const(2.0))
(dx,) = cyad.gradient(cyad.Reverse, total, x, out=numpy.empty(2))
(params,) = cyad.gradient(cyad.Reverse, lambda p: p[0] * total(p[1]), (2.0, x))
assert_type(params, tuple[float, Array])
(slope,) = cyad.gradient(cyad.Reverse, lambda t: t * t, 3.0)
assert_type(slope, float)

both = cyad.gradient(cyad.ReverseWithPrimal, total, x)
assert_type(both, WithPrimal[tuple[Array], float])
assert_type(both.derivs, tuple[Array])
assert_type(both.val, float)
(dx,), value = cyad.gradient(cyad.ForwardWithPrimal, total, x)
assert_type(value, float)
assert_type(cyad.gradient(cyad.ReverseWithPrimal, scaled, x, cyad.Const(3.0)).derivs, tuple[Array, None])


def gradient_in(mode: cyad.Mode) -> Any:
    return cyad.gradient(mode, total, x)


assert len(gradient_in(cyad.Forward)) == 1

# ---- modes

assert_type(cyad.Reverse.with_primal(), cyad.Mode[Literal[False], Literal[True]])
assert_type(cyad.gradient(cyad.Forward.with_primal(), total, x).val, float)
assert_type(cyad.gradient(cyad.ReverseWithPrimal.no_primal(), total, x), tuple[Array])
assert_type(cyad.gradient(cyad.Reverse.with_strong_zero().with_runtime_activity(), total, x), tuple[Array])
modes: list[cyad.Mode] = [
    cyad.Forward, cyad.ForwardWithPrimal, cyad.Reverse, cyad.ReverseWithPrimal, cyad.ReverseHolomorphic,
    cyad.ReverseHolomorphicWithPrimal, cyad.ReverseSplitNoPrimal, cyad.ReverseSplitWithPrimal, cyad.Mode(True),
]
names: list[str] = [mode.name for mode in modes]
widths: list[int] = [mode.width for mode in modes]
flags: list[tuple[bool, bool, bool, bool]] = [
    (mode.forward, mode.primal, mode.holomorphic, mode.is_split) for mode in modes]
assert cyad.ReverseSplitNoPrimal.combined() == cyad.Reverse and cyad.Reverse.split(2).width == 2

# ---- annotations and autodiff

shadowed = cyad.Duplicated(x, numpy.zeros_like(x))
assert_type(shadowed, cyad.Duplicated[Array])
assert_type(shadowed.val, Array)
assert_type(shadowed.dval, Array)
target = cyad.Duplicated(numpy.zeros(2), numpy.ones(2))
batch = cyad.BatchDuplicated(x, (numpy.ones(2), numpy.zeros(2)))
assert_type(batch.dval[0], Array)

((da, none),) = cyad.autodiff(cyad.Reverse, lambda a, x: a * total(x), cyad.Active, cyad.Active(3.0), shadowed)
entries, value = cyad.autodiff(cyad.ReverseWithPrimal, scaled, cyad.Active, shadowed, cyad.Active(2.0))
assert_type(entries, tuple[Any, ...])
assert_type(value, float)
assert_type(cyad.autodiff(cyad.Forward, write_square, cyad.Const, target, shadowed), tuple[()])
assert_type(cyad.autodiff(cyad.ForwardWithPrimal, total, cyad.Const, shadowed), tuple[float])
(derivative,) = cyad.autodiff(cyad.Forward, total, cyad.Duplicated, shadowed)
tangent, result = cyad.autodiff(cyad.ForwardWithPrimal, double, cyad.DuplicatedNoNeed(x, numpy.ones(2)))
assert_type(result, Array)
((d1, d2),) = cyad.autodiff(cyad.Forward, cyad.Const(total), batch)
((d1, d2),) = cyad.autodiff(cyad.Forward, total, cyad.BatchDuplicatedNoNeed(x, (numpy.ones(2), numpy.zeros(2))))
cyad.autodiff(cyad.Reverse, scaled, cyad.Active, shadowed, scale=cyad.Const(2.0))

place = cyad.Ref([0.0, numpy.zeros(2)])
mixed = cyad.MixedDuplicated([2.0, x], place)
lanes = cyad.BatchMixedDuplicated([2.0, x], (place, cyad.Ref([0.0, numpy.zeros(2)])))
cyad.autodiff(cyad.Reverse, lambda p: p[0] * total(p[1]), cyad.Active, mixed)
references: list[cyad.Ref[Any]] = [mixed.dval, *lanes.dval]
annotated: cyad.Const[Array] = cyad.Const(x)

# ---- carriers on their own

dual = cyad.Dual(2.0, 1.0)
assert_type(dual * 2.0 + 1.0, cyad.Dual)
assert_type(1.0 / -dual, cyad.Dual)
assert_type(dual.primal, float)
assert float_of(dual) > 1.0
slope = numpy.sin(dual).tangent
pair: tuple[float, float] = cyad.Dual(2.0, (1.0, 0.0)).tangent

tracked = cyad.DualArray(x, numpy.ones(2))
assert_type(2.0 * tracked, cyad.DualArray)
assert_type(tracked.reshape(2, 1).T, cyad.DualArray)
assert_type(tracked.primal, NDArray[Any])
assert total(tracked) == 5.0
tracked *= 0.5
tracked[0] = tracked[1]
tangents: Array = tracked.tangent
both_tangents: tuple[Array, Array] = cyad.DualArray(x, (numpy.ones(2), numpy.zeros(2))).tangent

with cyad.Tape() as tape:
    u = tape.variable(numpy.array([1.0, 2.0]))
    s = tape.variable(3.0)
    assert_type(u, cyad.AdjointArray)
    assert_type(s, cyad.Adjoint)
    assert_type(s**2, cyad.Adjoint)
    assert_type(u + s, cyad.AdjointArray)
    y = s * total(u)
assert_type(tape.gradient(y, u), NDArray[Any])
assert_type(tape.gradient(y, s), float)
du, ds = tape.gradient(y, (u, s))
assert len(tape) > 0 and tape.nbytes > 0

# ---- operators


def energy(x: Array, k: float = 1.0) -> float:
    return k * total(x * x)


def forces(x: Array) -> Array:
    return -2.0 * x


assert_type(cyad.jacobian(cyad.Forward, forces, x), tuple[Any, ...])
assert_type(cyad.jacobian(cyad.ReverseWithPrimal, forces, x).val, Array)
assert_type(cyad.hvp(energy, x, x), Array)
assert_type(cyad.hvp_and_gradient(energy, x, x), tuple[Array, Array])
assert_type(cyad.grad(energy)(x, k=2.0), Array)
assert_type(cyad.value_and_grad(energy)(x), tuple[float, Array])
by_both: Any = cyad.grad(energy, argnums=(0, 1))(x, 2.0)
curvature: Array = cyad.hessian(energy, x)
same_curvature: Array = cyad.hessian(energy)(x)
rows: Array = cyad.jacrev(forces)(x)
columns: Array = cyad.jacfwd(forces)(x)
assert_type(cyad.jvp(forces, (x,), (x,)), tuple[Array, Array])
force, pull = cyad.vjp(forces, x)
assert_type(force, Array)
pulled: Array = pull(force)[0]
force, push = cyad.linearize(forces, x)
assert_type(push(x), Array)


@cyad.grad(argnums=1)
def by_scale(x: Array, k: float) -> float:
    return energy(x, k)


def parabola(t: float) -> float:
    return t * t


assert_type(cyad.derivative(parabola)(2.0), float)
assert_type(cyad.derivative(parabola, 2.0), float)
assert_type(cyad.second_derivative(parabola, 2.0), float)
product: Array = cyad.jacobian_operator(forces, x) @ x
product = cyad.hessian_operator(energy, x) @ x

# ---- structures

layer = {"w": x}
assert_type(cyad.make_zero(layer), dict[str, Array])
cyad.set_zero(cyad.make_zero(layer))
assert_type(cyad.onehot(x), tuple[Array, ...])
assert_type(cyad.chunked_onehot(layer, 2), tuple[tuple[dict[str, Array], ...], ...])
vector, unravel = cyad.ravel(layer)
assert_type(unravel(vector), dict[str, Array])

# ---- imported rules


def square_rrule(x: Array) -> tuple[Array, Any]:
    project = cyad.ProjectTo(x)
    return x * x, lambda g: (cyad.NoTangent(), cyad.thunk(lambda: project(2.0 * x * g)))


@cyad.rrule(write_square)
def declines(y: Array, x: Array) -> None:
    return None


@cyad.frule(total)
def total_frule(tangents: tuple[Any, Array], x: Array) -> tuple[float, Any]:
    return total(x), cyad.ZeroTangent() + 2.0 * numpy.sum(x * tangents[1])


assert_type(cyad.import_frule(total)(x), float)
assert cyad.gradient(cyad.Forward, cyad.import_frule(total), x)[0].tolist() == (2.0 * x).tolist()
squared = cyad.import_rrule(numpy.square, numpy.ndarray, rrule=square_rrule)
assert cyad.unthunk(cyad.thunk(lambda: 3.0)) == 3.0
adapted: list[Any] = []
if find_spec("torch") is not None:
    from cyad.interop.torch import from_torch, parameters_of, to_torch
    adapted += [from_torch(total), to_torch(total), parameters_of]
if find_spec("jax") is not None:
    from cyad.interop.jax import from_jax, to_jax
    adapted += [from_jax(total), to_jax(total)]
if find_spec("autograd") is not None:
    from cyad.interop.autograd import from_autograd
    adapted += [from_autograd(total)]

# ---- split mode


def weighed(x: Array, a: float) -> float:
    return a * float_of(numpy.sum(x).item())


forward, reverse = cyad.autodiff_thunk(cyad.ReverseSplitWithPrimal, weighed, cyad.Active)
split_tape, split_primal, split_shadow = forward(cyad.Duplicated(x, numpy.zeros(2)), cyad.Active(2.0))
kept: cyad.SplitTape = split_tape
assert_type(kept.nbytes, int)
assert_type(reverse(cyad.Duplicated(x, numpy.zeros(2)), cyad.Active(2.0), 1.0, split_tape), tuple[tuple[Any, ...]])

# ---- rules


@cyad.primitive
def cubed(x: float) -> float:
    return x**3


@cyad.rules.forward(cubed)
def cubed_forward(config: Any, func: Any, RT: Any, x: cyad.Duplicated[float]) -> Any:
    shadow = 3 * x.val**2 * x.dval
    both = cyad.rules.needs_primal(config) and cyad.rules.needs_shadow(config)
    return cyad.Duplicated(func.val(x.val), shadow) if both else shadow


@cyad.rules.augmented_primal(cubed)
def cubed_augmented(config: Any, func: Any, RT: Any, x: cyad.Active[float]) -> cyad.rules.AugmentedReturn:
    assert_type(cyad.rules.overwritten(config), tuple[bool, ...])
    return cyad.rules.AugmentedReturn(func.val(x.val), None, x.val)


@cyad.rules.reverse(cubed)
def cubed_reverse(config: Any, func: Any, dret: cyad.Active[float], tape: float, x: object) -> tuple[float]:
    return (3 * tape**2 * dret.val,)


@cyad.inactive
def noted(x: float) -> None:
    print(x, end="")


assert_type(cubed(2.0), float)
assert_type(cyad.ignore_derivatives(2.0), float)
assert_type(cyad.rules.has_rule(cubed, cyad.Forward), bool)
with cyad.rules.scope():
    @cyad.rules.easy_rule(numpy.cbrt)
    def cbrt_partials(out: Any, x: Any) -> Any:
        return ((1 / (3 * out**2),), ) if x else ((cyad.rules.Constant,),)
cyad.rules.remove(cubed, cubed_forward)
cyad.rules.inactive_type(type("Log", (), {}))

# ---- checks

check_forward(total, cyad.Duplicated, (x, cyad.Duplicated), rtol=1e-6)
check_reverse(scaled, cyad.Active, (x, cyad.BatchDuplicated), (2.0, cyad.Const), width=3)
check_grads(scaled, x, 2.0, order=1, modes=["reverse"], rng=numpy.random.default_rng(2))
check_grads(scaled, x, 2.0, order=1, rng=3)

# ---- errors


def kind_of(error: cyad.ADError) -> str:
    return type(error).__name__


try:
    cyad.Duplicated(x, numpy.zeros(3))
except cyad.ActivityError as error:
    assert isinstance(error, TypeError) and kind_of(error) == "ActivityError"
kinds: list[type[cyad.ADError]] = [
    cyad.ActiveStoreError, cyad.ActivityError, cyad.EscapedValueError, cyad.LockedArrayError, cyad.MissingRuleError,
    cyad.TapeError,
]

# ---- submodules, imported or not, and the version

assert_type(cyad.__version__, str)
modules = [cyad.rules, cyad.errors, cyad.operators, cyad.interop]
cyad.testing.check_grads(scaled, x, 2.0, order=1, modes=["forward"])
modules.append(cyad.numpy)
assert cyad.split.SplitTape is cyad.SplitTape
if find_spec("torch") is not None:
    adapted.append(cyad.interop.torch.to_torch)
