"""Every structural rule against its own function: one table of calls, one check.

No formula is restated here. Pushing is compared with central differences of the plain function, pulling with pushing
by the inner product; then shapes, dtypes and realness; that nothing is written; that the maps read, and keep alive,
only what the rule says; and that duck arrays pass through every map without being turned into plain arrays.
"""
import importlib
import pkgutil
import types
import warnings
import weakref

import numpy as np
import numpy.fft
import numpy.lib.recfunctions
import pytest
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.testing.overrides import get_overridable_numpy_array_functions

import cyad.rules
from cyad.rules import classification, registry
from cyad.rules.classification import name_of

for module in pkgutil.iter_modules(cyad.rules.__path__):
    if not module.name.startswith("_") and module.name != "generate":
        importlib.import_module(f"cyad.rules.{module.name}")

rng = np.random.default_rng(7)
RECENT = np.lib.NumpyVersion(np.__version__) >= "2.3.0"


def real(*shape):
    return rng.normal(size=shape)


def cplx(*shape):
    return real(*shape) + 1j * real(*shape)


def f32(*shape):
    return real(*shape).astype(np.float32)


def spd(n, complex_=False):
    a = cplx(n, n) if complex_ else real(n, n)
    return a @ a.conj().T + n * np.eye(n)


def regular(*shape):
    """Square matrices that are far from singular."""
    return real(*shape) + 3 * np.eye(shape[-1])


def apart(*shape):
    """Matrices whose eigenvalues are far from each other."""
    return 0.4 * real(*shape) + 3 * np.diag(np.arange(1.0, shape[-1] + 1))


def holed(*shape):
    a = real(*shape)
    a.flat[::3] = 0.0
    return a


A, B, M, T, V, W = real(3, 4), real(4, 3), real(4, 4), real(2, 3, 4), real(4), real(4)
MASK = rng.random((3, 4)) > 0.4
INDEX = np.array([[2, 0], [0, -1], [2, 2]])
ROTATION = np.array([[0, 3, 0], [-3, 0, 0], [0, 0, 5]])
KNOTS = np.array([0.0, 1.0, 2.5, 4.0])


def call(func, *args, observe=None, label="", **kwargs):
    """One row: the call, and what of its result is well defined where the result itself is so up to a choice only."""
    if func is None:
        return None
    name = func.__name__ if not isinstance(func, tuple) else f"{func[0].__name__}.{func[1]}"
    def brief(x):
        if isinstance(x, np.ndarray):
            return f"{x.dtype.kind}{'x'.join(map(str, x.shape))}"
        return str(x)[:14] if not callable(x) else "."
    words = [name, *map(brief, args), *(f"{k}={brief(v)}" for k, v in kwargs.items()), label]
    return pytest.param(func, args, kwargs, observe, id="-".join(w for w in words if w))


def subspace(u, s, vh):
    """What of singular vectors does not depend on their phases."""
    k = s.shape[-1]
    u1, v1 = u[..., :k], vh[..., :k, :]
    rest = u[..., k:] @ u[..., k:].conj().swapaxes(-1, -2), vh[..., k:, :].conj().swapaxes(-1, -2) @ vh[..., k:, :]
    pair = u1[..., :, None, :] * v1.swapaxes(-1, -2)[..., None, :, :]
    return s, pair, np.abs(u1), np.abs(v1), *rest


def projectors(w, v):
    return w, v[..., :, None, :] * v.conj()[..., None, :, :]


REDUCE = [(np.add, "reduce"), (np.multiply, "reduce"), (np.maximum, "reduce"), (np.minimum, "reduce"),
          (np.fmax, "reduce"), (np.fmin, "reduce"), (np.logaddexp, "reduce")]
AXES = [{}, {"axis": 0}, {"axis": -1}, {"axis": (0, 2)}, {"axis": 1, "keepdims": True}, {"keepdims": True},
        {"axis": None}, {"axis": (-1, 0, 1)}]

CASES = [
    *(call(f, T, **axes) for f in (np.sum, np.prod, np.mean, np.var, np.std, np.max, np.min, np.median, np.nanmedian)
      for axes in AXES),
    *(call(f, T, **axes) for f in REDUCE for axes in AXES),
    *(call(f, x) for f in (np.sum, np.prod, np.mean, np.max, np.min, np.median, np.nanmedian)
      for x in (np.float64(1.5), real(), f32(5), real(1), T[:, ::-2, 1:].T)),
    *(call(f, x) for f in (np.var, np.std) for x in (f32(5), T[:, ::-2, 1:].T)),
    *(call(f, A, axis=0, where=MASK) for f in (np.sum, np.prod, np.mean)),
    *(call(f, A, axis=1, where=np.array([True, False, True, True]), ddof=1) for f in (np.var, np.std)),
    *(call(f, A, axis=0, where=MASK, initial=x) for f in (np.max, np.min) for x in (0.1, 9.0, -9.0)),
    *(call(f, A, initial=x, axis=1) for f in (np.sum, np.prod) for x in (2.5, np.float64(0.5))),
    *(call(f, cplx(3, 4), axis=1) for f in (np.sum, np.prod, np.mean, np.var, np.std)),
    *(call(f, np.zeros((0, 3)), axis=0) for f in (np.sum, np.prod)),
    *(call(f, np.zeros((0, 3))) for f in (np.sum, np.prod)),
    *(call(f, A, dtype=np.float32) for f in (np.sum, np.prod, np.mean)),
    *(call(f, A, dtype=complex, axis=0) for f in (np.sum, np.prod, np.mean)),
    *(call(np.prod, holed(3, 4, 2), **axes) for axes in AXES),
    call(np.prod, np.array([0.0, 0.0, 3.0])), call(np.prod, np.array([0.0, 2.0, 3.0])),
    call(np.var, A, ddof=1, axis=0), call(np.std, A, correction=1, axis=0),
    call(np.var, A, axis=0, mean=real(1, 4)), call(np.std, A, axis=1, mean=real(3, 1), keepdims=True),
    call((np.add, "reduceat"), V, [0, 2, 1, 3]), call((np.add, "reduceat"), V, [1, 3]),
    call((np.add, "reduceat"), A, [1, 2], axis=1), call((np.add, "reduceat"), A, [0, 2], axis=1),
    call(np.amax, A, 1), call(np.amin, A, 1),
    call(np.median, real(5, 3), axis=0), call(np.median, T, axis=(0, 2), keepdims=True),
    call(np.nanmedian, np.where(MASK, A, np.nan), axis=1), call(np.nanmedian, np.where(MASK, A, np.nan)),
    *(call(np.trace, x, *args) for x, args in [(A, ()), (A, (1,)), (A, (-2,)), (T, (0, 0, 2)), (T, (1, -1, 1)),
                                               (cplx(3, 3), ()), (A, (9,))]),
    *(call(f, np.where(MASK, A, np.nan), **kw) for f in (np.nanmean, np.nanvar, np.nanstd)
      for kw in ({}, {"axis": 0}, {"axis": 1, "keepdims": True}, {"axis": 1, "where": MASK[:1]})),
    call(np.nanvar, A, ddof=1), call(np.nanmean, cplx(3)), call(np.nanstd, f32(4)),
    call(np.bincount, np.array([0, 2, 2, 5]), V), call(np.bincount, np.array([0, 2, 2, 5]), weights=V, minlength=9),

    *(call(f, T, *axis) for f in (np.cumsum, np.cumprod) for axis in [(), (0,), (-1,), (1,)]),
    *(call((f, "accumulate"), T, *axis) for f in (np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin)
      for axis in [(), (1,), (-1,)]),
    *(call(np.cumprod, x, axis=0) for x in (holed(4, 3), cplx(4, 3), f32(4, 3), np.zeros((3, 2)))),
    call(np.cumsum, f32(4)), call(np.cumsum, A, axis=1, dtype=np.float32), call(np.cumsum, cplx(4)),
    call(np.cumsum, np.zeros((0, 2)), axis=0), call(np.cumsum, np.float64(2.0)),

    *(call(f, x, y) for f in (np.matmul, np.dot) for x, y in [
        (A, B), (V, W), (A, V), (V, M), (cplx(3, 4), B), (A, cplx(4)), (cplx(4), V), (cplx(3, 4), cplx(4, 2)),
        (f32(2, 3), f32(3, 2)), (f32(2, 3), real(3)), (A[::-1], B[:, ::-2]), (T, B), (V, real(2, 4, 3)), (T, V),
        (np.zeros((2, 0)), np.zeros((0, 3))), (real(2, 3, 4), cplx(5, 2, 4, 3) if f is np.dot else cplx(2, 4, 3))]),
    *(call(np.matmul, x, y) for x, y in [(real(5, 1, 3, 4), real(2, 4, 2)), (A, real(2, 4, 5)),
                                         (real(1, 3, 4), real(5, 4, 2)), (real(2, 1, 4), V), (V, cplx(2, 3, 4, 1))]),
    call(np.dot, np.float64(2.0), A), call(np.dot, A, 2.5), call(np.dot, 1.5, np.float64(2.5)),
    *(call(np.inner, x, y) for x, y in [(V, W), (T, V), (T, real(5, 4)), (np.float64(2.0), A), (cplx(2, 4), V)]),
    *(call(np.outer, x, y) for x, y in [(V, real(3)), (A, V), (cplx(2), real(3)), (f32(2), f32(3)), (1.5, V)]),
    *(call(np.vdot, x, y) for x, y in [(V, W), (A, real(3, 4)), (cplx(4), V), (V, cplx(4)), (cplx(4), cplx(4))]),
    *(call(np.tensordot, x, y, axes) for x, y, axes in [
        (A, B, 1), (T, real(3, 4, 2), 2), (T, real(4, 5, 2), ([0, 2], [2, 0])), (A, B, (1, 0)), (V, W, 0),
        (A, real(3, 4), 2), (cplx(2, 3, 4), real(4, 3), ((1, 2), (1, 0))), (T, real(4, 3, 2), ([-1, 1], [0, -2]))]),
    *(call(np.vecdot, x, y) for x, y in [(A, V), (cplx(3, 4), cplx(4)), (T, real(3, 4)), (V, cplx(2, 4))]),
    call(np.vecdot, A, real(3, 4), axis=0), call(np.vecdot, T, A, axis=-2, keepdims=True),
    *(call(getattr(np, "matvec", None), x, y)
      for x, y in [(A, V), (T, V), (cplx(3, 4), cplx(2, 4)), (A, real(5, 4))]),
    *(call(getattr(np, "vecmat", None), x, y)
      for x, y in [(V, B), (cplx(4), B), (cplx(2, 4), cplx(4, 3)), (V, real(2, 4, 3))]),
    *(call(np.cross, x, y) for x, y in [(real(3), real(3)), (real(4, 3), real(3)), (cplx(3), real(2, 3)),
                                        (cplx(3), cplx(3))]),
    call(np.cross, real(3, 4), real(4, 3), axisa=0), call(np.cross, real(3, 4), real(3, 4), axis=0),
    call(np.cross, real(2, 3, 4), real(3, 4), axisa=1, axisb=0, axisc=0),
    *(call(f, x, y, mode) for f in (np.convolve, np.correlate) for mode in ("full", "same", "valid")
      for x, y in [(real(6), real(3)), (real(3), real(6)), (real(6), real(4)), (real(4), real(6)), (real(5), real(2)),
                   (real(2), real(5)), (cplx(5), cplx(3)), (cplx(2), real(4)), (real(4), real(4))]),
    call(np.polymul, V, real(3)), call(np.polymul, V, cplx(3)),
    call(np.convolve, 2.5, real(3)), call(np.correlate, f32(4), f32(2)),
    *(call(np.einsum, s, *xs) for s, xs in [
        ("ij,jk->ik", (A, B)), ("ij,jk", (A, B)), ("ij->", (A,)), ("ij->j", (A,)), ("ii", (M,)), ("ii,i->i", (M, V)),
        ("ij,ij->", (A, real(3, 4))), ("i,j->ij", (V, real(3))), ("ijk,kl->ijl", (T, B)), ("...i,i", (T, V)),
        ("...ij,...jk->...ik", (T, B)), ("ij,k->k", (A, V)), ("iij,j->i", (real(3, 3, 2), real(2))),
        ("ij,jk,kl->il", (A, B, A)), ("i...->...", (T,)), ("ij,ij->ij", (A, real(1, 4))), ("i,i->", (V, real(1))),
        ("a,ab,b->", (cplx(3), A, V)), ("ij,jk->ik", (cplx(3, 4), cplx(4, 2))),
        ("b...,...->b...", (real(2, 4), real(4))),
        ("iii->", (real(3, 3, 3),)), ("ij , jk -> k i", (A, B)), ("ij,ji->i", (f32(2, 3), f32(3, 2))),
    ]),
    call(np.einsum, A, [0, 1], B, [1, 2], [2, 0]), call(np.einsum, A, [0, 1], B, [1, 2]),
    call(np.einsum, T, [..., 0], V, [0], [...]), call(np.einsum, "ij,jk,kl->il", A, B, A, optimize=True),

    *(call(np.concatenate, xs, **axes) for xs, axes in [
        ([A, A], {}), ([A, real(3, 1), real(3, 2)], {"axis": 1}), ([A, V], {"axis": None}), ([V, f32(3)], {}),
        ([V, cplx(2)], {}), ([T, T[:, :, :0]], {"axis": -1}), ((V,), {}), (T, {})]),
    call(np.concatenate, [V, W], dtype=np.float32, casting="unsafe"),
    *(call(np.stack, xs, **axes) for xs, axes in [
        ([A, A], {}), ([V, W, V], {"axis": -1}), ([1.5, np.float64(2.5)], {}), ([V, cplx(4)], {"axis": 1})]),
    call(np.block, [[A, real(3, 1)], [real(1, 5)]]), call(np.block, [V, 2.5, f32(2)]), call(np.block, A),
    call(np.block, [[[T, T]], [[real(1, 3, 8)]]]), call(np.block, [[real(2, 0), cplx(2, 3)]]),
    call(np.roll, A, 1), call(np.roll, A, (1, -2), (0, 1)), call(np.roll, A, 2, axis=1), call(np.roll, V, -1),
    call(np.repeat, A, 3), call(np.repeat, A, 2, axis=0), call(np.repeat, A, [1, 0, 2], 0), call(np.repeat, V, [3]),
    call(np.repeat, A, [2, 1, 0, 1], axis=-1), call(np.repeat, 2.5, 3),
    call(np.copy, T[:, ::2].T), call(np.copy, 2.5),
    *(call(getattr(np, "astype", None), x, dtype)
      for x, dtype in [(A, np.float32), (f32(3), np.float64), (V, complex)]),
    call(np.diag, V), call(np.diag, V, 1), call(np.diag, V, -2), call(np.diagflat, A, 1), call(np.diagflat, V),

    *(call(np.where, c, x, y) for c, x, y in [
        (MASK, A, 2.5), (MASK, V, A), (True, A, V), (MASK[:, :1], np.float64(1.0), real(3, 1)), (MASK, f32(3, 4), 0.0),
        (MASK, cplx(3, 4), A), (MASK * 1.0, A, real(3, 4))]),
    call(np.take, A, INDEX), call(np.take, A, [2, 0, 0], axis=0), call(np.take, A, INDEX, axis=1), call(np.take, A, 1),
    call(np.take, A, -1, axis=-1), call(np.take, V, [5, -7], mode="wrap"), call(np.take, V, [5, -7], mode="clip"),
    call(np.compress, [True, False, True], A, axis=0), call(np.compress, MASK[0], A), call(np.compress, MASK[0], V),
    call(np.take_along_axis, A, INDEX, axis=1),
    call(np.take_along_axis, A, np.array([[1, 1, 2, 0]]), axis=0), call(np.take_along_axis, V, np.array([3, 3]), None),
    *(call(f, T, *kth, **axes) for f, kth in [(np.sort, ()), (np.partition, (1,))]
      for axes in ({}, {"axis": 0}, {"axis": 1}, {"axis": None})),
    call(np.sort, f32(5)), call(np.sort, V[::-1], stable=True), call(np.partition, V, [1, 2]),
    call(np.unique, A), call(np.unique, V, return_counts=True), call(np.unique, A, return_index=True, axis=1),
    call(np.unique, A, axis=1), *([call(np.unique, A, sorted=False)] if RECENT else []),
    call(np.choose, np.array([0, 2, 1, 0]), [V, 2.0, real(2, 4)]),
    call(np.choose, np.array([5, -1, 1, 0]), (V, W), mode="wrap"),
    call(np.choose, np.array([5, -1, 1, 0]), (V, W), mode="clip"),
    *(call(np.clip, *args, **kwargs) for args, kwargs in [
        ((A, -0.5, 0.5), {}), ((A, None, 0.2), {}), ((A, -0.2, None), {}), ((A, real(4), 0.9), {}),
        *([((A,), {"min": -0.1, "max": real(3, 1)})] if RECENT else []), ((f32(5), -0.5, 0.5), {}),
        ((A[0], A, 0.4), {}), ((0.3, -1.0, 1.0), {})]),
    *(call(f, A, -0.5, V) for f in registry.RULES if isinstance(f, np.ufunc) and f.__name__ == "clip"),
    call(np.select, [MASK, A > 0], [A, V], real(3, 4)), call(np.select, [V > 0, V < 0.5], [V, 2.0]),
    call(np.select, [V > 0], [cplx(4)], 1.5),
    call(np.nan_to_num, A), call(np.nan_to_num, cplx(3)),
    *(call(f, x) for f in (np.real, np.imag)
      for x in (cplx(3, 2), cplx(2).astype(np.complex64), np.complex128(1.5 + 2j))),

    *(call(np.interp, x, KNOTS, real(4), *more) for x in (real(5) * 2 + 2, np.float64(1.7), -0.3, 9.9, np.array(2.0))
      for more in [(), (0.5, 1.5)]),
    call(np.interp, real(3, 2) * 2 + 2, KNOTS, cplx(4)),
    call(np.interp, real(7) * 9, KNOTS[::-1] * 1.1, real(4), period=5.0),
    call(np.interp, real(3), KNOTS[:1], real(1)),
    call(np.sinc, A), call(np.sinc, np.array([0.0, 1e-3, 0.2, 0.318, 0.32, 2.5])), call(np.sinc, f32(3)),
    call(np.i0, A), call(np.i0, np.array([0.0, 1e-3, -7.0, 24.999, 25.001, -30.0])),
    call(np.i0, f32(3)), call(np.i0, 0.7),

    *(call(f, x, *args, **kwargs)
      for f in (np.fft.fft, np.fft.ifft, np.fft.rfft, np.fft.irfft, np.fft.hfft, np.fft.ihfft)
      for x in (real(5), real(6), cplx(5), cplx(2, 6), f32(4))
      if not (f in (np.fft.rfft, np.fft.ihfft) and x.dtype.kind == "c")
      for args, kwargs in [((), {}), ((4,), {}), ((9,), {}), ((), {"norm": "ortho"}),
                           ((8,), {"norm": "forward", "axis": 0})]),

    *(call(np.linalg.solve, x, y) for x, y in [
        (regular(4, 4), V), (regular(4, 4), B), (regular(2, 4, 4), B), (regular(2, 4, 4), V),
        (regular(4, 4), real(3, 4, 2)), (cplx(3, 3), real(3)),
        (real(3, 3), cplx(3, 2)), (f32(2, 2), f32(2))]),
    *(call(f, x) for f in (np.linalg.inv, np.linalg.det, np.linalg.slogdet)
      for x in (regular(4, 4), regular(2, 3, 3), cplx(3, 3), regular(2, 2).astype(np.float32), real(1, 1))),
    call(np.linalg.det, np.outer(V, W), label="rank1"), call(np.linalg.det, np.diag([1.0, 2.0, 0.0]), label="rank2"),
    call(np.linalg.det, np.diag([1.0, 2.0, 0.0]) @ np.linalg.qr(cplx(3, 3))[0] * [[1], [1], [0]], label="rank2"),
    call(np.linalg.tensorsolve, real(2, 3, 6), real(2, 3)),
    call(np.linalg.tensorsolve, cplx(4, 2, 2), cplx(2, 2), (0,)),
    *(call(np.linalg.cond, x, o) for o in (None, 2, -2, 1, -1, np.inf, "fro", "nuc")
      for x in (regular(3, 3), cplx(3, 3), regular(2, 3, 3))), call(np.linalg.cond, A),
    *(call(np.linalg.pinv, x) for x in (A, B, cplx(4, 2), real(2, 4, 3))),
    *(call(np.linalg.lstsq, x, y) for x, y in [(real(5, 3), real(5)), (real(5, 3), real(5, 2)), (real(2, 4), real(2)),
                                               (cplx(5, 2), cplx(5))]),
    *(call(np.linalg.cholesky, x, upper=u) for u in (False, True)
      for x in (spd(4), spd(3, True), np.stack([spd(3), spd(3)]))),
    call(np.linalg.cholesky, spd(3).astype(np.float32)),
    *(call(np.linalg.qr, x, *mode) for x in (real(5, 3), M, cplx(4, 2), real(2, 4, 3), real(3, 5), cplx(2, 4))
      for mode in [(), ("r",)]),
    call(np.linalg.qr, A, "complete"),
    *(call(np.linalg.eigh, x, u, observe=projectors) for x in (spd(4), spd(3, True), np.stack([spd(3), spd(3)]))
      for u in "LU"),
    *(call(np.linalg.eigvalsh, x, u) for x in (spd(4), spd(3, True)) for u in "LU"),
    *(call(f, x) for f in (np.linalg.eig, np.linalg.eigvals)
      for x in (apart(4, 4), apart(3, 3) + 0.5j * real(3, 3), 0.4 * real(2, 3, 3) + ROTATION)),
    *(call(np.linalg.svd, x, full, observe=subspace) for full in (False, True)
      for x in (real(4, 3), real(3, 5), M, cplx(4, 2), cplx(2, 4), cplx(3, 3), real(2, 4, 3))),
    call(np.linalg.svd, A, compute_uv=False), call(np.linalg.svdvals, cplx(4, 3)),
    *(call(np.linalg.norm, x, **kw) for x in (A, cplx(3, 4), f32(2, 3)) for kw in (
        {}, {"axis": 0}, {"axis": 1, "ord": 1}, {"axis": 1, "ord": np.inf}, {"axis": -1, "ord": -np.inf},
        {"axis": 0, "ord": 3}, {"axis": 0, "ord": 2, "keepdims": True}, {"axis": 0, "ord": 0}, {"ord": "fro"},
        {"axis": 0, "ord": -1.5}, *({"ord": o} for o in (1, -1, 2, -2, np.inf, -np.inf, "nuc")))),
    *(call(np.linalg.norm, T, axis=(2, 0), ord=o) for o in (None, "fro", 1, -1, 2, "nuc", np.inf)),
    call(np.linalg.norm, V), call(np.linalg.norm, V, 1), call(np.linalg.norm, T),
    call(np.linalg.norm, T, axis=(0, 2), ord=2, keepdims=True),
]
# Functions that this version of NumPy does not have.
CASES = [case for case in CASES if case is not None]


class Duck(NDArrayOperatorsMixin):
    """An array that NumPy's dispatch knows and nothing turns into a plain one."""

    def __init__(self, value):
        self.value = value

    def __array__(self, *args, **kwargs):
        raise AssertionError("a duck array was turned into a plain one")

    def __array_ufunc__(self, ufunc, method, *args, out=None, **kwargs):
        if out is not None:
            assert all(isinstance(x, Duck) for x in out)
            kwargs["out"] = tuple(x.value for x in out)
        if method == "at":
            assert isinstance(args[0], Duck)
        result = getattr(ufunc, method)(*bare(args), **bare(kwargs))
        return dressed(result) if out is None else out[0]

    def __array_function__(self, func, types, args, kwargs):
        return dressed(func(*bare(args), **bare(kwargs)))

    def __getitem__(self, index):
        return dressed(self.value[index])

    def __setitem__(self, index, value):
        self.value[index] = bare(value)

    def __len__(self):
        return len(self.value)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    shape = property(lambda self: np.shape(self.value))
    ndim = property(lambda self: np.ndim(self.value))
    size = property(lambda self: np.size(self.value))
    dtype = property(lambda self: np.asarray(self.value).dtype)
    T = property(lambda self: Duck(self.value.T))
    real = property(lambda self: Duck(self.value.real))
    imag = property(lambda self: Duck(self.value.imag))

    def reshape(self, *shape):
        return Duck(np.reshape(self.value, shape[0] if len(shape) == 1 else shape))

    def transpose(self, *axes):
        return Duck(self.value.transpose(*axes))

    def swapaxes(self, i, j):
        return Duck(self.value.swapaxes(i, j))

    def astype(self, dtype):
        return Duck(np.asarray(self.value).astype(dtype))


def bare(x):
    if isinstance(x, Duck):
        return x.value
    if isinstance(x, (list, tuple)) and not hasattr(x, "_fields"):
        return type(x)(bare(v) for v in x)
    return {k: bare(v) for k, v in x.items()} if isinstance(x, dict) else x


def dressed(x):
    if isinstance(x, tuple):
        values = [dressed(v) for v in x]
        return type(x)(*values) if hasattr(x, "_fields") else tuple(values)
    return Duck(x) if getattr(x, "dtype", None) is not None and x.dtype.kind in "fc" else x


def tuple_of(x):
    return tuple(x) if isinstance(x, tuple) else (x,)


def is_active(x):
    return isinstance(x, (float, complex)) or getattr(getattr(x, "dtype", None), "kind", "") in ("f", "c")


def random_like(x):
    x = np.asarray(x)
    value = rng.normal(size=x.shape) + (1j * rng.normal(size=x.shape) if x.dtype.kind == "c" else 0)
    value = np.array(value, dtype=x.dtype)
    value.flags.writeable = False
    return value[()]


def is_single(x):
    return np.asarray(x).dtype in (np.float32, np.complex64)


def wide(x):
    """The same in double precision, for the differences."""
    return np.asarray(x).astype(complex if np.iscomplexobj(x) else float)[()]


def plain(func):
    return getattr(*func) if isinstance(func, tuple) else func


def inner(xs, ys):
    return sum(float(np.sum((np.conj(x) * y).real)) for x, y in zip(xs, ys, strict=True))


class Call:
    """One call of a rule on its own copies of the arrays."""

    def __init__(self, func, args, kwargs, change=lambda x: x):
        self.func = func
        self.rule = registry.lookup(func)
        leaves = [x.copy(order="K") if isinstance(x, np.ndarray) else x for x in self.rule.locate(args, kwargs)]
        self.leaves = [change(x) if is_active(x) else x for x in leaves]
        self.active = [k for k, x in enumerate(self.leaves) if is_active(x)]
        self.args, self.kwargs = self.rule.replace(args, kwargs, self.leaves)
        self.result, self.linear = self.rule.fn(*self.args, **self.kwargs)
        self.outs = tuple_of(self.result)

    def moved(self, k, tangent, step):
        """The plain function's results with the k-th operand moved along a tangent."""
        leaves = [wide(x) if i in self.active else x for i, x in enumerate(self.leaves)]
        leaves[k] = leaves[k] + step * wide(tangent)
        args, kwargs = self.rule.replace(self.args, self.kwargs, leaves)
        with np.errstate(all="ignore"):
            return [x for x in tuple_of(plain(self.func)(*args, **kwargs)) if is_active(x)]


def frozen(x):
    if isinstance(x, np.ndarray):
        x.flags.writeable = False
    return x


def differences(up, down, step):
    return [(wide(x) - wide(y)) / (2 * step) for x, y in zip(up, down, strict=True)]


@pytest.mark.parametrize(("func", "args", "kwargs", "observe"), CASES)
def test_rule(func, args, kwargs, observe):
    run = Call(func, args, kwargs, change=frozen)
    assert run.active
    for got, want in zip(run.outs, tuple_of(plain(func)(*run.args, **run.kwargs)), strict=True):
        np.testing.assert_array_equal(got, want)
        assert np.asarray(got).dtype == np.asarray(want).dtype
    cotangents = tuple(random_like(x) if is_active(x) else None for x in run.outs)
    for k in run.active:
        tangent = random_like(run.leaves[k])
        push, pull = run.linear(k)
        pushed = tuple_of(push(tangent))
        for p, x in zip(pushed, run.outs, strict=True):
            assert np.shape(p) == np.shape(x)
        check_push(run, k, tangent, pushed, observe)
        check_pull(run, k, tangent, pushed, pull, cotangents)
        if hasattr(run.linear, "push_all"):
            together = run.linear.push_all([tangent if i == k else None for i in range(len(run.leaves))])
            np.testing.assert_array_equal(together, pushed[0])


def check_push(run, k, tangent, pushed, observe):
    """Against central differences, of what is well defined where the result itself is so up to a choice."""
    # A result in single precision is too coarse for a small step.
    coarse = any(x is np.float32 for x in (*run.args, *run.kwargs.values()))
    single = coarse or any(is_single(x) for x in (*run.outs, *(run.leaves[i] for i in run.active)))
    step = 1e-2 if coarse else 1e-5
    up, down = (run.moved(k, tangent, h) for h in (step, -step))
    got = [wide(p) for p, x in zip(pushed, run.outs, strict=True) if is_active(x)]
    if observe is not None:
        at = [wide(x) for x in run.outs if is_active(x)]
        near = [observe(*(x + h * p for x, p in zip(at, got, strict=True))) for h in (step, -step)]
        got, up, down = differences(*near, step), observe(*up), observe(*down)
    for value, want in zip(got, differences(up, down, step), strict=True):
        tolerance = 1e-3 if single else 1e-6
        scale = max(1.0, float(np.max(np.abs(want), initial=0)))
        np.testing.assert_allclose(value, want, rtol=tolerance, atol=tolerance * scale)


def check_pull(run, k, tangent, pushed, pull, cotangents):
    """Against push by the inner product: with all cotangents, and with each of several alone."""
    leaf = run.leaves[k]
    several = isinstance(run.result, tuple)
    masks = [[True] * len(cotangents)]
    if several:
        masks += [[i == j for i in range(len(cotangents))] for j, c in enumerate(cotangents) if c is not None]
    single = any(is_single(x) for x in (*run.outs, leaf))
    for mask in masks:
        g = tuple(c if use else None for c, use in zip(cotangents, mask, strict=True))
        pulled = pull(g if several else g[0])
        assert np.shape(pulled) == np.shape(leaf)
        assert np.iscomplexobj(pulled) == np.iscomplexobj(leaf)
        if hasattr(leaf, "dtype"):
            assert pulled.dtype == leaf.dtype
        pairs = [(c, p) for c, p in zip(g, pushed, strict=True) if c is not None]
        forward = sum(inner([c], [p]) for c, p in pairs)
        size = sum(float(np.sum(np.abs(c * p))) for c, p in pairs)
        assert abs(forward - inner([pulled], [tangent])) <= (1e-4 if single else 1e-9) * (size + 1e-2)


def map_values(run, k, maps, tangent, g):
    push, pull = maps
    return *tuple_of(push(tangent)), pull(g if isinstance(run.result, tuple) else g[0])


def assert_same(got, want, **tolerance):
    for x, y in zip(got, want, strict=True):
        if y is not None:
            np.testing.assert_allclose(bare(x), bare(y), **(tolerance or {"rtol": 0}))


@pytest.mark.parametrize(("func", "args", "kwargs", "observe"), CASES)
def test_the_maps_read_and_keep_only_what_the_rule_says(func, args, kwargs, observe):
    for k in Call(func, args, kwargs).active:
        run = Call(func, args, kwargs)
        tangent = random_like(run.leaves[k])
        g = tuple(random_like(x) if is_active(x) else None for x in run.outs)
        want = map_values(run, k, run.linear(k), tangent, g)
        read, reads_out = run.rule.reads_of(k, run.args, run.kwargs)
        unread = [x for i, x in enumerate(run.leaves) if i not in read and i in run.active]
        unread += [] if reads_out else [x for x in run.outs if is_active(x)]
        unread = [x for x in unread if isinstance(x, np.ndarray)]
        maps = run.linear(k)
        for x in unread:
            x.flags.writeable = x.flags.writeable or x.base is None
            if x.flags.writeable:
                x[...] = np.nan
        assert_same(map_values(run, k, maps, tangent, g), want)
        alive = [weakref.ref(x) for x in unread]
        x = None
        del run, unread, want
        # Without a collection: no cycle may keep arrays alive either.
        assert all(ref() is None for ref in alive)


@pytest.mark.parametrize(("func", "args", "kwargs", "observe"), CASES)
def test_duck_arrays_pass_through(func, args, kwargs, observe):
    base = Call(func, args, kwargs)
    duck = Call(func, args, kwargs, change=Duck)
    assert all(isinstance(x, Duck) for x in duck.outs if is_active(x))
    for k in base.active:
        tangent = random_like(base.leaves[k])
        g = tuple(random_like(x) if is_active(x) else None for x in base.outs)
        want = map_values(base, k, base.linear(k), tangent, g)
        duck_tangent, duck_g = Duck(tangent), tuple(None if c is None else Duck(c) for c in g)
        for run, maps in (base, base.linear(k)), (duck, duck.linear(k)):
            got = map_values(run, k, maps, duck_tangent, duck_g)
            assert all(isinstance(x, Duck) or not np.any(x) for x in got if x is not None)
            assert_same(got, want, rtol=1e-5, atol=1e-6)
        assert_same(map_values(duck, k, duck.linear(k), tangent, g), want, rtol=1e-5, atol=1e-6)


def pulled(func, *args, **kwargs):
    """The pullback of ones, by the first operand."""
    result, linear = registry.lookup(func).fn(*args, **kwargs)
    return linear(0)[1](np.ones_like(result))


def pushed(func, tangent, *args, **kwargs):
    return registry.lookup(func).fn(*args, **kwargs)[1](0)[0](tangent)


TIED = np.array([3.0, 1.0, 3.0, 1.0])
CONVENTIONS = [
    # function, arguments, the cotangent of the first of them for a cotangent of ones
    (np.max, (TIED,), [0.5, 0, 0.5, 0]),
    (np.min, (TIED[:, None], 0), [[0], [0.5], [0], [0.5]]),
    (np.max, (np.ones((2, 2)), 1), [[0.5, 0.5], [0.5, 0.5]]),
    (np.max, (np.array([1.0, np.nan]),), [0, 1]),
    ((np.fmax, "reduce"), (np.array([1.0, np.nan]),), [1, 0]),
    (np.std, (np.ones(3),), [0, 0, 0]),
    (np.var, (np.ones(3),), [0, 0, 0]),
    (np.linalg.norm, (np.zeros(3),), [0, 0, 0]),
    (np.linalg.norm, (np.zeros((2, 2)), "nuc"), np.zeros((2, 2))),
    (np.linalg.norm, (TIED, np.inf), [0.5, 0, 0.5, 0]),
    (np.linalg.norm, (np.zeros(2), 1), [0, 0]),
    (np.linalg.norm, (np.zeros(2), 3), [0, 0]),
    (np.clip, (np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), -1.0, 1.0), [0, 0.5, 1, 0.5, 0]),
    (np.clip, (np.array([0.0, 1.0]), 0.0, None), [0.5, 1]),
    (np.prod, (np.array([0.0, 2.0, 3.0]),), [6, 0, 0]),
    (np.prod, (np.array([0.0, 0.0, 3.0]),), [0, 0, 0]),
    (np.prod, (np.array([1e-200, 1e-200, 1e200]),), [1.0, 1.0, 0]),
    (np.median, (np.array([2.0, np.nan, 1.0]),), [0, 1, 0]),
    (np.nanmedian, (np.array([2.0, np.nan, 1.0]),), [0.5, 0, 0.5]),
    (np.nan_to_num, (np.array([1.0, np.nan, np.inf]),), [1, 0, 0]),
    (np.interp, (np.arange(4.0), np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 5.0])), [1, 2, 2, 2]),
    (np.linalg.eigvalsh, (np.eye(3),), np.eye(3)),
    (np.sinc, (np.zeros(1),), [0]),
    (np.polymul, (np.array([0.0, 0.0, 1.5, 2.0]), np.array([0.0, 1.0, 2.0])), [0, 0, 3, 3]),
    ((np.maximum, "accumulate"), (np.array([1.0, 3.0, 3.0, 2.0]),), [1, 3, 0, 0]),
    ((np.logaddexp, "reduce"), (np.array([-np.inf, -np.inf]),), [0.5, 0.5]),
    ((np.logaddexp, "reduce"), (np.array([np.inf, 1.0]),), [1, 0]),
]


@pytest.mark.parametrize(("func", "args", "want"), CONVENTIONS)
def test_conventions_at_kinks(func, args, want):
    got = pulled(func, *args)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=0)
    tangent = random_like(args[0])
    assert np.sum(pushed(func, tangent, *args)) == pytest.approx(np.sum(got * tangent))


def test_degenerate_eigenvalues_are_right_where_a_derivative_exists_and_loud_where_none_does():
    _, linear = registry.lookup(np.linalg.eigh).fn(np.eye(3))
    _, pull = linear(0)
    np.testing.assert_array_equal(pull((np.ones(3), None)), np.eye(3))
    with np.errstate(all="ignore"):
        assert not np.isfinite(pull((None, real(3, 3)))).all()


def test_a_view_is_reported_as_a_view():
    window = np.lib.stride_tricks.sliding_window_view
    for func, args in [(np.einsum, ("ij->ji", A)), (np.einsum, ("ii->i", M)), (np.diag, (M,)), (window, (V, 2))]:
        rule = registry.lookup(func)
        out, linear = rule.fn(*args)
        assert linear is None
        assert np.shares_memory(out, rule.locate(args, {})[0])


REFUSED = [
    (np.sum, (A,), {"out": np.zeros(())}), (np.var, (A,), {"dtype": np.float32}),
    (np.median, (A,), {"overwrite_input": True}),
    (np.nan_to_num, (A,), {"copy": False}), (np.linalg.svd, (M,), {"hermitian": True}),
    (np.linalg.qr, (real(4, 2), "complete"), {}), (np.cross, (real(2), real(2)), {}),
    (np.einsum, ("ij->j", A), {"dtype": np.float32}), (np.bincount, ([0, 1],), {}),
]


@pytest.mark.parametrize(("func", "args", "kwargs"), REFUSED)
def test_what_is_not_supported_says_so(func, args, kwargs):
    with pytest.raises(registry.NotSupported):
        registry.lookup(func).fn(*args, **kwargs)


def test_arguments_may_change_after_the_call():
    """Indices and masks of the caller are copied."""
    index, mask = np.array([0, 2]), np.array([True, False, True, False])
    rules = [(np.take, (V, index)), (np.where, (mask, V, W)), (np.compress, (mask, V)),
             (np.take_along_axis, (V, index)), (np.repeat, (V, np.array([1, 0, 2, 1]))), (np.roll, (V, index[1:])),
             (np.choose, (np.array([0, 1]), (V[:2], W[:2])))]
    for func, args in rules:
        args = [x.copy() if isinstance(x, np.ndarray) else x for x in args]
        run = Call(func, tuple(args), {})
        push, pull = run.linear(run.active[0])
        tangent, g = random_like(run.leaves[run.active[0]]), random_like(run.outs[0])
        want = push(tangent), pull(g)
        for x in args:
            if isinstance(x, np.ndarray) and x.dtype.kind in "bi":
                x[...] = x[::-1].copy() + 1 if x.dtype.kind == "i" else ~x
        assert_same((push(tangent), pull(g)), want)


def test_every_rule_has_a_case():
    tried = [registry.lookup(case.values[0]) for case in CASES]
    views = [registry.lookup(np.lib.stride_tricks.sliding_window_view)]
    missing = [rule for rule in registry.RULES.values() if rule not in tried and rule not in views]
    assert not missing


def test_every_numpy_function_that_dispatches_is_classified_once():
    numpy_functions = get_overridable_numpy_array_functions()
    unknown = sorted(name_of(f) for f in numpy_functions if classification.classify(f) is None)
    assert not unknown
    listed = [*classification.COMPOSITE, *classification.VIEW, *classification.CREATION, *classification.STORE,
              *classification.REFUSED]
    assert len(listed) == len(set(listed))
    by_rule = {name_of(f) for f in numpy_functions if classification.classify(f) in ("rule", "zero")}
    assert not by_rule.intersection(listed)
    if RECENT:
        assert set(listed) <= {name_of(f) for f in numpy_functions}
    assert not registry.ZERO.intersection(registry.RULES)


def test_composites_are_python_code():
    """A composite is differentiated by running it, so there must be Python code to run."""
    for func in get_overridable_numpy_array_functions():
        if classification.classify(func) == "composite":
            assert isinstance(func._implementation, types.FunctionType), func


def test_pullbacks_do_not_warn_of_infinities():
    """The plain run does not: it takes no difference of two infinities."""
    a = np.array([[np.inf, np.inf, 1.0], [-np.inf, -np.inf, -np.inf]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.logaddexp.reduce(a, axis=1)
        t, = cyad.autodiff(cyad.Forward, lambda x: np.logaddexp.reduce(x, axis=1), cyad.Duplicated,
                           cyad.Duplicated(a, np.ones((2, 3))))
    np.testing.assert_allclose(t, [1.0, 1.0], rtol=1e-14)
