"""Results lie in memory as NumPy's do: whether a later reshape is a view, and with it what a write through it changes,
depends on that."""
import re

import numpy as np
import pytest

import cyad
from cyad import Forward, Reverse

C = np.random.default_rng(3).permutation(np.arange(12.0)).reshape(3, 4) - 3.3
CUBE = np.random.default_rng(4).permutation(np.arange(48.0)).reshape(3, 4, 4) - 9.4
OPERANDS = {
    "C": C, "Fortran": np.asfortranarray(C), "backwards": C[::-1], "stepped": np.repeat(C, 2, axis=1)[:, ::2],
    "cube": CUBE, "Fortran cube": np.asfortranarray(CUBE), "planes swapped": CUBE.transpose(1, 0, 2),
    "cube turned": CUBE.transpose(2, 0, 1), "cube turned back": CUBE.transpose(1, 2, 0)[:, ::-1],
}

# Expressions in x, and those in x and an axis k.
PLAIN = """
np.sin(x) | abs(x) | -x | x + 1 | x + x | x * np.ascontiguousarray(x) | np.ascontiguousarray(x) - x | x ** 2 | x ** 3
x % 2.0 | np.divmod(x, 3.0)[1] | np.modf(x)[0] | np.maximum(x, 1.0) | np.hypot(x, x) | np.logaddexp(x, x[..., :1])
np.clip(x, -1, 5) | np.where(x > 1, x, 1.0) | np.where(x > 1, x, 2 * x) | np.where(np.array(x > 1, order="C"), x, 0.0)
np.select([x > 1], [x], 0.0) | np.piecewise(x, [x > 1], [lambda v: 2 * v, lambda v: -v]) | np.nan_to_num(x)
np.choose((x > 1).astype(int), [x, -x]) | np.add(x, 1, out=np.empty_like(x)) | np.sinc(x) | np.i0(x) | np.fix(x)
x.copy() | x.copy(order="K") | x.copy(order="A") | x.copy(order="F") | np.copy(x) | x.astype(np.float32) | np.array(x)
np.asfortranarray(x) | np.ascontiguousarray(x) | np.zeros_like(x) | np.empty_like(x) | np.full_like(x, 2.0)
x.flatten("K") | x.ravel("K") | x.ravel("F") | x.ravel("A") | x.reshape(-1, 2, order="F") | x.reshape(-1, 2, order="A")
x.T + 1 | x.swapaxes(0, 1) * 2 | np.moveaxis(x, 0, -1) | np.rot90(x) | np.flip(x) | np.tril(x)
x[:, None].squeeze() + 1 | x[[0, 2]] | x[:, [0, 1]] | x[..., [0, 1]] | x[np.ix_([0, 1], [1, 0])]
x[np.arange(2), np.arange(2)] | x[x > 1]
x[tuple(np.argwhere(x > 1).T)] | np.extract(x > 1, x) | np.einsum("i...->...i", x)
np.einsum("ij...,kj...->ik...", x, x) | np.tensordot(x, x, (0, 0)) | np.dot(x, x.T) | np.outer(x, x)
np.kron(x, x) | np.inner(x, x) | np.vecdot(x, x)
np.tile(x, 2) | np.pad(x, 1) | np.resize(x, (4, 5)) | np.broadcast_to(x, (2, *x.shape)) | np.add.outer(x, x)
np.vstack([x, x]) | np.hstack([x, x]) | np.dstack([x, x]) | np.vstack([x.T, x.T]) | np.column_stack([x, x])
np.vstack([x, np.ascontiguousarray(x)]) | np.c_[x, x] | np.r_[x, x] | np.hsplit(x, 2)[0] | np.block([[x, x], [x, x]])
np.fft.fft2(x) | (x + 1j * x).real | (x + 1j).conj().T.imag | np.interp(x, [0.0, 10, 20], [1.0, 2, 5])
np.atleast_3d(x) | x @ np.swapaxes(x, -1, -2)
np.linalg.cholesky(np.eye(x.shape[-2]) * 900 + x @ np.swapaxes(x, -1, -2))
np.linalg.solve(3 * np.eye(x.shape[-2]), x) | np.linalg.inv(x[..., :3, :3] + 90 * np.eye(3)) | np.linalg.svd(x)[0]
np.linalg.pinv(x) | np.meshgrid(x[0, ..., 0], x[..., 0, 0])[0] if x.ndim == 3 else x | np.diff(x) | np.trapezoid(x)
"""
ALONG = """
np.sort(x, axis=k) | np.partition(x, 1, axis=k) | sorted_in_place(x, k) | np.cumsum(x, axis=k) | np.cumprod(x, axis=k)
np.sum(x, axis=k) | np.sum(x, axis=k, keepdims=True) | np.prod(x, axis=k) | np.max(x, axis=k) | np.mean(x, axis=k)
np.var(x, axis=k) | np.median(x, axis=k) | np.percentile(x, 30, axis=k) | np.diff(x, axis=k) | np.gradient(x, axis=k)
np.trapezoid(x, axis=k) | np.flip(x, axis=k) | np.roll(x, 1, axis=k) | np.repeat(x, 2, axis=k) | np.expand_dims(x, k)
np.take(x, [0, 1], axis=k) | np.compress([True, False, True], x, axis=k) | np.delete(x, 0, axis=k)
np.insert(x, 0, 1.0, axis=k) | np.append(x, x, axis=k) | np.concatenate([x, x], axis=k) | np.stack([x, x], axis=k)
np.concatenate([x, np.ascontiguousarray(x)], axis=k) | np.unwrap(x, axis=k) | np.nancumsum(x, axis=k)
np.apply_along_axis(lambda v: 2 * v, k, x) | np.take_along_axis(x, np.zeros((1,) * x.ndim, int), k)
np.fft.fft(x, axis=k) | np.fft.rfft(x, axis=k) | np.linalg.norm(x, axis=k) | np.logaddexp.reduce(x, axis=k)
np.add.accumulate(x, axis=k) | np.maximum.accumulate(x, axis=k) | np.logaddexp.accumulate(x, axis=k)
np.add.reduceat(x, [0, 2], axis=k) | np.multiply.reduceat(x, [0, 1], axis=k) | np.hypot.reduceat(x, [2, 0], axis=k)
np.subtract.reduce(x, axis=k, keepdims=True) | np.unique(x, axis=k)
"""


def sorted_in_place(x, k):
    y = x.copy(order="K")
    y.sort(axis=k)
    return y


def split(text):
    """The expressions whose functions this version of NumPy has."""
    found = [e.strip() for line in text.strip().splitlines() for e in line.split(" | ")]
    return [e for e in found if all(hasattr(np, name) for name in re.findall(r"\bnp\.(\w+)", e))]


CASES = [(e, 0) for e in split(PLAIN)] + [(e, k) for e in split(ALONG) for k in (0, 1, -1)]


def layout(value):
    """Shape, dtype and, of axes that have a next entry, the strides."""
    strides = tuple(s if n > 1 else 0 for s, n in zip(value.strides, value.shape, strict=True)) if value.size else ()
    return value.shape, str(value.dtype), strides


@pytest.mark.parametrize("operand", OPERANDS)
def test_results_lie_in_memory_as_in_the_plain_run(operand):
    x, other = OPERANDS[operand], []
    run = 0
    for expression, k in CASES:
        code = compile(expression, expression, "eval")

        def f(x, code=code, k=k):
            return eval(code, {"np": np, "x": x, "k": k, "sorted_in_place": sorted_in_place})
        try:
            want = layout(f(x))
        except (ValueError, IndexError, TypeError):   # of other ranks
            continue
        run += 1
        met = []

        def loss(x, f=f, met=met):
            met.append(layout(f(x)))
            return np.sum(x)
        cyad.gradient(Reverse, loss, x)
        cyad.gradient(Forward, loss, x)
        cyad.gradient(Reverse, lambda x, loss=loss: np.sum(cyad.gradient(Reverse, loss, x)[0]), x)
        if any(m != want for m in met):
            other.append((expression, k, want, met))
    assert other == []
    assert run > 0.9 * len(CASES)


LARGE = np.random.default_rng(7).standard_normal((60, 80)) + 3.0    # kept memory begins at 16 KB
SPREAD = split("""
x + x | 2.0 * x | -x | np.sin(x) | x ** 2 | x - np.ascontiguousarray(x) | np.ascontiguousarray(x) * x | x * x[0]
x[0] - x | x / x[:, :1] | x[:1] / x[:, :1] | np.maximum(x, 1.0) | np.where(x > 0, x, 1.0) | (2.0 * x.T).T
x[None] * x[:2, None] | x[:, 0] * x[:, :1] | x - x.mean(axis=0) | np.exp(x) + x | x.copy(order="K") / 3.0
""")


@pytest.mark.parametrize("operand", ["C", "Fortran", "backwards", "stepped"])
def test_large_results_lie_in_memory_as_in_the_plain_run(operand):
    x = {"C": LARGE, "Fortran": np.asfortranarray(LARGE), "backwards": LARGE[::-1],
         "stepped": np.repeat(LARGE, 2, axis=1)[:, ::2]}[operand]
    for expression in SPREAD:
        code, met = compile(expression, expression, "eval"), []

        def loss(x, code=code, met=met):
            met.append(layout(eval(code, {"np": np, "x": x})))
            return np.sum(x)
        loss(x)
        cyad.gradient(Reverse, loss, x)
        cyad.jvp(loss, (x,), (x,))
        assert met[1:] == met[:1] * 2, expression


# ---- views, and writes through results ------------------------------------------------------------------------------

VIEWS = split("""
np.real(x) | np.asarray(x) | np.array(x, copy=None) | np.array(x, copy=False) | np.require(x)
np.broadcast_arrays(x, x)[0] | np.split(x, 2, axis=1)[0] | np.array_split(x, 2)[1] | np.vsplit(x[:2], 2)[0]
np.rollaxis(x, 1) | np.fliplr(x) | np.flipud(x) | np.rot90(x, 2) | x[None] | x[...] | x[()] | x[0] | x[:, 0] | x[::-1]
x[1:2, 1:2] | x.view() | x.mT | x.diagonal() | np.diagonal(x) | np.diag(x) | x.astype(float, copy=False)
np.einsum("ij...->ji...", x) | np.unstack(x)[0] | np.einsum("ii->i", x[:3, :3]) | np.einsum("i...", x) | x.flat[:]
np.take(x, 0, axis=0) | list(x)[1] | next(iter(x))
np.lib.stride_tricks.sliding_window_view(x, 2, axis=0, writeable=True)[:, 0] | np.broadcast_to(x, x.shape)
np.copy(x) | np.copyto(x, 1.0) or x | np.put(x, [0, 1], 2.0) or x | np.fill_diagonal(x, 3.0) or x
np.putmask(x, x > 1, x * 2) or x | np.place(x, x > 1, [1.0, 2.0]) or x | x.partition(1) or x | x.fill(2.0) or x
np.trim_zeros(x[0]) | np.block([x]) | np.fix(x, out=x) | np.round(x, out=x) | np.round(x, 1, x) | np.isposinf(x, x)
np.floor(x, out=x) | np.clip(x, -1, 3, out=x) | np.cumsum(x, axis=0, out=x) | np.multiply(x, x, out=x)
np.sin(x, out=x) | np.maximum(x, 0, out=x) | np.around(x, 1, out=x)
""")


@pytest.mark.parametrize("mode", [cyad.ReverseWithPrimal, cyad.ForwardWithPrimal], ids=["reverse", "forward"])
@pytest.mark.parametrize("operand", OPERANDS)
def test_writes_through_results_reach_what_they_reach_in_the_plain_run(operand, mode):
    """Each result is squared in place: where it is a view, the array changes."""
    x, run = OPERANDS[operand], 0
    v = np.empty_like(x)
    v[...] = np.random.default_rng(6).standard_normal(x.shape)
    weights = np.cos(np.arange(x.size)).reshape(x.shape)
    for expression, k in [(e, 0) for e in VIEWS] + CASES:
        if "empty" in expression:
            continue
        code = compile(expression, expression, "eval")

        def f(x, code=code, k=k):
            z = 1.0 * x
            y = eval(code, {"np": np, "x": z, "k": k, "sorted_in_place": sorted_in_place})
            if np.ndim(y) and y.flags.writeable:
                y[...] = y * y
            return np.sum(weights * z) + np.sum(np.cos(np.arange(np.size(y))).reshape(np.shape(y)) * np.real(y))
        try:
            value = f(x)
        except (ValueError, IndexError, TypeError):   # of other ranks
            continue
        run += 1
        (derivative,), got = cyad.gradient(mode, f, x)
        assert got == pytest.approx(value, rel=1e-12, abs=1e-12), (expression, k)
        fine, coarse = ((f(x + h * v) - f(x - h * v)) / (2 * h) for h in (1e-6, 3e-6))
        if abs(fine - coarse) < 1e-5 * max(1.0, abs(fine)):
            scale = max(1.0, abs(fine), np.max(np.abs(derivative)))
            assert np.sum(derivative * v) == pytest.approx(fine, abs=1e-5 * scale), (expression, k)
    assert run > 0.85 * (len(VIEWS) + len(CASES))
