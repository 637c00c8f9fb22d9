"""Split mode: tapes that are swept later, again, in any order and width; what misuse is told."""
import dataclasses
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import cyad
from cyad import (
    Active,
    ActivityError,
    BatchDuplicated,
    BatchMixedDuplicated,
    Const,
    Duplicated,
    Forward,
    MixedDuplicated,
    Ref,
    Reverse,
    ReverseHolomorphic,
    ReverseSplitNoPrimal,
    ReverseSplitWithPrimal,
    autodiff,
    autodiff_thunk,
)

W = np.cos(np.arange(12.0))


def heat(u, steps=3):
    """In place, with a scratch array, an element loop and a structural rule."""
    new = np.empty_like(u)
    for _ in range(steps):
        new[1:-1] = u[1:-1] + 0.1 * (u[2:] - 2 * u[1:-1] + u[:-2])
        new[0], new[-1] = u[0] * np.sin(u[1]), u[-1]
        u[:] = new
        u *= np.exp(-u**2)
    for i in range(1, len(u)):
        u[i] += 0.3 * u[i - 1] ** 2
    return np.sort(u)[::-1] * u[0]


def rev_by_autodiff(f, x, weights, dx):
    """What combined mode makes of a weighted sum of the result, and of a shadow of the argument."""
    x, dx = x.copy(), dx.copy()
    autodiff(Reverse, lambda x: np.sum(weights * f(x)), Active, Duplicated(x, dx))
    return dx


@pytest.mark.parametrize("dtype, rtol", [(np.float64, 1e-13), (np.float32, 1e-5)])
@pytest.mark.parametrize("layout", [lambda x: x, lambda x: np.repeat(x, 2)[::2], lambda x: x[::-1].copy()[::-1]])
def test_sweeps_in_any_order_are_those_of_combined_mode(dtype, rtol, layout):
    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, heat)
    points = [layout(np.linspace(0.2, 0.2 + k, 6).astype(dtype)) for k in (1, 2)]
    plain = [p.copy() for p in points]
    tapes = []
    for x, p in zip(points, plain, strict=True):
        before = x.copy()
        tape, primal, shadow = forward(Duplicated(x, np.zeros_like(x)))
        assert_allclose(primal, heat(p), rtol=rtol)
        assert primal.dtype == dtype and shadow.dtype == dtype and not shadow.any()
        assert_allclose(x, p, rtol=rtol)   # what the function wrote reaches the caller
        tapes.append((tape, shadow, before))
        x[:] = np.nan                      # and what the caller writes does not reach the tape
        primal[:] = np.nan
    for k, scale in [(1, 1.0), (0, 2.0), (1, -3.0)]:
        tape, shadow, before = tapes[k]
        shadow[:] = scale * W[:6]
        dx = layout(W[6:].astype(dtype))
        want = rev_by_autodiff(heat, before, scale * W[:6].astype(dtype), dx)
        reverse(Duplicated(points[k], dx), tape)
        assert dx.dtype == dtype
        assert_allclose(dx, want, rtol=rtol, atol=rtol)


def test_other_widths_and_shadows_than_those_that_went_forward():
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x, a: a * np.sum(x**3), Active)
    x = np.array([1.0, 2.0])
    tape, primal, shadow = forward(Duplicated(x, np.zeros(2)), Active(2.0))
    assert primal is None and shadow is None
    lanes = np.zeros((3, 2))
    ((none, da),) = reverse(BatchDuplicated(x, tuple(lanes)), Active(2.0), (1.0, 10.0, 100.0), tape)
    assert none is None
    assert_allclose(lanes, [[6, 24], [60, 240], [600, 2400]])
    assert_allclose(da, [9, 90, 900])
    dx = np.zeros(2)
    assert reverse(Duplicated(x, dx), Active(2.0), 1.0, tape) == ((None, 9.0),)
    assert_allclose(dx, [6, 24])
    with pytest.raises(cyad.ActivityError, match="2 seeds"):
        reverse(BatchDuplicated(x, tuple(lanes)), Active(2.0), (1.0, 2.0), tape)


def test_batched_return():
    forward, reverse = autodiff_thunk(Reverse.split(width=2), lambda x: np.outer(x, x), BatchDuplicated)
    x, lanes = np.array([1.0, 2.0]), (np.zeros(2), np.zeros(2))
    tape, _, shadows = forward(BatchDuplicated(x, lanes))
    assert len(shadows) == 2 and shadows[0].shape == (2, 2)
    shadows[0][0, 1], shadows[1][1, 1] = 1.0, 1.0
    reverse(BatchDuplicated(x, lanes), tape)
    assert_allclose(lanes, [[2, 1], [0, 4]])


def test_structures_in_and_out():
    @dataclasses.dataclass
    class State:
        pos: np.ndarray
        mass: float
        name: str

    def step(s, dt):
        return {"pos": s.pos + dt * s.mass, "energy": s.mass * np.sum(s.pos**2), "name": s.name}

    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, step, MixedDuplicated)
    state, ref = State(np.array([1.0, 2.0]), 3.0, "a"), Ref(State(np.zeros(2), 0.0, "a"))
    tape, out, shadow = forward(MixedDuplicated(state, ref), Active(0.1))
    assert out["name"] == "a" and out["energy"] == 15.0
    shadow.value["pos"][0] = 1.0
    shadow.value["energy"] = 10.0
    ((none, ddt),) = reverse(MixedDuplicated(state, ref), Active(0.1), tape)
    assert none is None and ddt == 3.0
    assert_allclose(ref.value.pos, [61.0, 120.0])
    assert_allclose(ref.value.mass, 0.1 + 50.0)
    lanes = tuple(Ref(State(np.zeros(2), 0.0, "a")) for _ in range(2))
    forward, reverse = autodiff_thunk(Reverse.split(width=2), lambda s: s.mass * np.sum(s.pos), Active)
    tape = forward(BatchMixedDuplicated(state, lanes))[0]
    reverse(BatchMixedDuplicated(state, lanes), (1.0, 2.0), tape)
    assert_allclose([lane.value.mass for lane in lanes], [3.0, 6.0])


def test_arguments_that_share_memory():
    def f(a, b):
        a[0] = b[1] * b[2]
        return np.sum(a * b[:2])

    base, shadow = np.array([2.0, 3.0, 5.0]), np.zeros(3)
    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, f, Active)
    for _ in range(2):
        base[:] = [2.0, 3.0, 5.0]
        tape, primal, _ = forward(Duplicated(base[:2], shadow[:2]), Duplicated(base, shadow))
        assert base[0] == 15.0 and primal == 15.0**2 + 9.0
        shadow[:] = 0.0
        reverse(Duplicated(base[:2], shadow[:2]), Duplicated(base, shadow), 1.0, tape)
        assert_allclose(shadow, [0.0, 30.0 * 5 + 6.0, 30.0 * 3])
    # Other shadows for the same memory: it may be read, each shadow gets its own.
    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, lambda a, b: np.sum(a * b), Active)
    da, db = np.zeros(3), np.ones(3)
    tape = forward(Duplicated(base, da), Duplicated(base, db))[0]
    reverse(Duplicated(base, da), Duplicated(base, db), 1.0, tape)
    assert_allclose(da, base)
    assert_allclose(db, base + 1.0)
    forward, _ = autodiff_thunk(ReverseSplitWithPrimal, f, Active)
    with pytest.raises(cyad.ActivityError, match="may only be read"):
        forward(Duplicated(base[:2], da[:2]), Duplicated(base, db))


def test_const_arrays_are_copied_and_written_back():
    def f(x, log):
        log[0] = 7.0
        return np.sum(x * log)

    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, f, Active)
    x, dx, log = np.array([1.0, 2.0]), np.zeros(2), np.array([0.0, 3.0])
    tape = forward(Duplicated(x, dx), Const(log))[0]
    assert_allclose(log, [7.0, 3.0])
    log[:] = -1.0
    reverse(Duplicated(x, dx), Const(log), 1.0, tape)
    assert_allclose(dx, [7.0, 3.0])
    forward, _ = autodiff_thunk(ReverseSplitWithPrimal, lambda x, log: log.__setitem__(0, x[0]), Const)
    with pytest.raises(cyad.ActiveStoreError, match="argument 2 of"):
        forward(Duplicated(x, dx), Const(log))


def test_captured_arrays_and_indices_may_change_between_the_halves():
    c, k = np.array([2.0, 3.0, 4.0]), np.array([0, 2, 2])
    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, lambda x: np.sum(c * x[k] ** 2), Active)
    x, dx = np.array([1.0, 10.0, 100.0]), np.zeros(3)
    tape = forward(Duplicated(x, dx))[0]
    c[:], k[:] = 0.0, 1
    reverse(Duplicated(x, dx), 1.0, tape)
    assert_allclose(dx, [4.0, 0.0, 1400.0])


def test_an_exception_leaves_what_was_written_and_nothing_locked():
    def f(x):
        x[0] = 9.0
        raise RuntimeError("mine")

    x, dx = np.ones(2), np.zeros(2)
    with pytest.raises(RuntimeError, match="mine"):
        autodiff_thunk(ReverseSplitWithPrimal, f)[0](Duplicated(x, dx))
    assert_allclose(x, [9.0, 1.0])
    assert x.flags.writeable and not dx.any()


def test_keyword_arguments_and_const_returns():
    def f(y, x, scale=1.0):
        y[:] = scale * x**2

    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, f, Const)
    x, dx, y, dy = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.array([1.0, 10.0])
    tape, primal, shadow = forward(Duplicated(y, dy), Duplicated(x, dx), scale=Active(3.0))
    assert primal is None and shadow is None
    assert_allclose(y, [3.0, 12.0])
    assert reverse(Duplicated(y, dy), Duplicated(x, dx), tape, scale=Active(3.0)) == ((None, None, 41.0),)
    assert_allclose(dx, [6.0, 120.0])
    assert not dy.any()


def test_holomorphic():
    z, dz = np.array([1.0 + 2.0j, 3.0 - 1.0j]), np.zeros(2, complex)
    forward, reverse = autodiff_thunk(ReverseHolomorphic.split(), lambda z: np.sum(z**3), Active)
    tape = forward(Duplicated(z, dz))[0]
    reverse(Duplicated(z, dz), 1.0, tape)
    assert_allclose(dz, 3 * z**2)
    forward, reverse = autodiff_thunk(ReverseHolomorphic.split(), lambda z: z**3)
    tape = forward(Active(1.0 + 2.0j))[0]
    assert_allclose(reverse(Active(1.0 + 2.0j), 1.0 + 0j, tape)[0][0], 3 * (1.0 + 2.0j) ** 2)
    with pytest.raises(cyad.ActivityError, match="complex"):
        autodiff_thunk(Reverse.split(), lambda z: z**2, Active)[0](Active(1j))


def test_inside_another_differentiation():
    def outer(a):
        def inner(x, y):
            y[:] = x * a**2
            return np.sum(y * x)
        forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, inner, Active)
        x, dx, y, dy = np.ones(2) * a, np.zeros(2), np.zeros(2), np.zeros(2)
        tape, primal, _ = forward(Duplicated(x, dx), Duplicated(y, dy))   # 2 a^4
        reverse(Duplicated(x, dx), Duplicated(y, dy), 1.0, tape)          # d/dx_i = 2 x_i a^2 = 2 a^3
        return primal + dx[0] + y[1]                                      # 2 a^4 + 3 a^3

    a = 1.3
    want = 8 * a**3 + 9 * a**2
    assert_allclose(cyad.gradient(Reverse, outer, a), [want])
    assert_allclose(cyad.gradient(Forward, outer, a), [want])


def test_misuse_is_refused():
    x, dx = np.ones(2), np.zeros(2)
    forward, reverse = autodiff_thunk(ReverseSplitWithPrimal, lambda x: np.sum(x), Active)
    tape = forward(Duplicated(x, dx))[0]
    with pytest.raises(cyad.ActivityError, match="needs a split mode"):
        autodiff_thunk(Reverse, np.sum)
    with pytest.raises(cyad.ActivityError, match="needs autodiff_thunk"):
        autodiff(ReverseSplitWithPrimal, np.sum, Duplicated(x, dx))
    with pytest.raises(cyad.ActivityError, match="takes its seed before"):
        reverse(Duplicated(x, dx), tape)
    with pytest.raises(cyad.ActivityError, match="the tape"):
        reverse(Duplicated(x, dx), 1.0)
    with pytest.raises(cyad.TapeError, match="another forward half"):
        autodiff_thunk(ReverseSplitWithPrimal, np.sum, Active)[1](Duplicated(x, dx), 1.0, tape)
    with pytest.raises(cyad.ActivityError, match="1 arguments, the"):
        reverse(Duplicated(x, dx), Active(1.0), 1.0, tape)
    with pytest.raises(cyad.ActivityError, match=r"shape \(3,\) in the reverse half"):
        reverse(Duplicated(np.ones(3), np.zeros(3)), 1.0, tape)
    with pytest.raises(cyad.ActivityError, match="Const in the reverse half"):
        reverse(Const(x), 1.0, tape)
    with pytest.raises(cyad.ActivityError, match="array of shape"):
        autodiff_thunk(ReverseSplitWithPrimal, lambda x: x * 2, Active)[0](Duplicated(x, dx))
    with pytest.raises(cyad.ActivityError, match="needs arrays"):
        autodiff_thunk(ReverseSplitWithPrimal, lambda x: (x[0], x), Duplicated)[0](Duplicated(x, dx))
    with pytest.raises(cyad.ActivityError, match="pass Active"):
        forward(Duplicated(1.0, 0.0))
    with pytest.raises(cyad.ActivityError, match="does not fit a mode of width"):
        autodiff_thunk(Reverse.split(width=2), np.sum, Duplicated)
    with pytest.raises(cyad.ActivityError, match="was told Duplicated"):
        autodiff_thunk(ReverseSplitWithPrimal, np.sum, Active, Duplicated)[0](Const(x))
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(tape)
    assert not dx.any()
    reverse(Duplicated(x, dx), 2.0, tape)   # and the tape is none the worse
    assert_allclose(dx, 2.0)


@pytest.mark.parametrize("seed", [None, "s", 1j, (1.0, "a"), (None,), np.ones(3), {"y": 1.0}])
def test_seeds_are_numbers(seed):
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: x**2, Active)
    tape = forward(Active(3.0))[0]
    with pytest.raises(ActivityError, match="the seed of "):
        reverse(Active(3.0), seed, tape)
    assert reverse(Active(3.0), np.ones(1), tape) == ((6.0,),)


@pytest.mark.parametrize("dtype", [np.float32, complex])
def test_shadows_have_the_dtype_of_the_recording(dtype):
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: np.sum(x**2), Active)
    tape = forward(Duplicated(np.ones(2), np.zeros(2)))[0]
    with pytest.raises(ActivityError, match="dtype .* in the reverse half, float64 in the forward half"):
        reverse(Duplicated(np.ones(2, dtype), np.zeros(2, dtype)), 1.0, tape)
    value = [np.ones(2)]
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: np.sum(x[0] ** 2), Active)
    tape = forward(Duplicated(value, [np.zeros(2)]))[0]
    with pytest.raises(ActivityError, match="dtype"):
        reverse(Duplicated([np.ones(2, dtype)], [np.zeros(2, dtype)]), 1.0, tape)


def test_an_integer_of_numpy_is_an_active_return_without_derivative():
    forward, reverse = autodiff_thunk(ReverseSplitNoPrimal, lambda x: np.sum(x > 0.0), Active)
    tape = forward(Duplicated(np.ones(2), np.zeros(2)))[0]
    dx = np.zeros(2)
    assert reverse(Duplicated(np.ones(2), dx), 1.0, tape) == ((None,),)
    assert_array_equal(dx, [0.0, 0.0])
