"""Example calls of every NumPy function and ufunc that dispatches: name, function of the float arrays, the arrays.

Whatever else a call takes (axes, masks, options) is closed over. Values lie away from kinks. `test_completeness.py`
runs every example in both modes; a function without an example fails there.
"""
import inspect
import io
import tempfile

import numpy as np
import numpy.char
import numpy.strings
from numpy.lib import recfunctions, scimath
from numpy.lib.stride_tricks import sliding_window_view
from numpy.polynomial import polynomial
from numpy.testing.overrides import get_overridable_numpy_array_functions

_random = np.random.default_rng(7)


def real(*shape):
    return _random.uniform(0.3, 0.9, shape) * _random.choice([-1.0, 1.0], shape)


def positive(*shape):
    return _random.uniform(0.3, 0.9, shape)


V, W, U = real(4), real(4), real(3)
A, B, M, T = real(3, 4), real(4, 2), real(3, 3) + 2 * np.eye(3), real(2, 3, 4)
C = real(3, 4)
P, Q = positive(4), positive(3, 4)
S = np.sort(positive(5)) + np.arange(5.0)           # increasing, for knots and bins
MASK = A > 0
SPD = M @ M.T + np.eye(3)
HOLES = _random.uniform(size=(3, 4)) < 0.3
X = np.float64(0.7)
STRUCTURED = np.array([(1.0, 2.0)], dtype=[("a", float), ("b", float)])


def stored(function):
    """A call that writes into its first argument, which is then the result."""
    def run(target, *values):
        target = target * 1.0
        function(target, *values)
        return target
    return run


def complexed(function):
    return lambda x, y: function(x + 1j * y)


def holed(x):
    return np.where(HOLES, np.nan, x)


def hermitian(x):
    return x + x.T


def symmetric_values(function):
    """Of eigenvectors, what does not depend on their signs."""
    def run(*args):
        w, v = function(*args)
        return w, v[..., :, None, :] * v[..., None, :, :]
    return run


EXAMPLES = []


def example(name, function, *inputs):
    EXAMPLES.append((name, function, inputs))


def examples(names, *inputs, **kwargs):
    """Of each function that this version of NumPy has."""
    for name in names.split():
        function = np
        for part in name.split("."):
            function = getattr(function, part, None)
        if function is not None:
            example(name, lambda *xs, f=function: f(*xs, **kwargs), *inputs)


# ---- reductions, scans, order ----------------------------------------------------------------------------------------

REDUCTIONS = ("amax amin max mean median min nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar prod ptp std "
              "sum var")
examples(REDUCTIONS, A)
examples(REDUCTIONS, T, axis=1)
examples(REDUCTIONS, A, axis=0, keepdims=True)
examples(REDUCTIONS, X)
for name in "nanmax nanmean nanmedian nanmin nanprod nanstd nansum nanvar nancumsum nancumprod".split():
    example(name, lambda x, f=getattr(np, name): f(holed(x), axis=1), A)
examples("nanmean nanprod nanstd nansum nanvar sum prod mean std var", A, axis=1, where=MASK | (A > -0.5))
examples("cumprod cumsum cumulative_prod cumulative_sum nancumprod nancumsum", V)
examples("cumprod cumsum cumulative_prod cumulative_sum nancumprod nancumsum", A, axis=1)
examples("cumulative_sum cumulative_prod", A, axis=0, include_initial=True)
for name in "percentile nanpercentile quantile nanquantile".split():
    f, scale = getattr(np, name), 100 if "perc" in name else 1
    example(name, lambda x, f=f, s=scale: f(x, 0.3 * s), A)
    example(name, lambda x, f=f, s=scale: f(x, [0.3 * s, 0.85 * s], axis=1), A)
    example(name, lambda x, f=f, s=scale: f(x, [0.3 * s, 0.85 * s], axis=0, keepdims=True, method="lower"), A)
    example(name, lambda x, f=f, s=scale: f(x, 0.41 * s, axis=0, method="hazen"), A)
    example(name, lambda x, q, f=f, s=scale: f(x, q * s), V, np.array([0.21, 0.77]))
example("nanpercentile", lambda x: np.nanpercentile(holed(x), 40, axis=1), A)
example("nanquantile", lambda x: np.nanquantile(holed(x), 0.4, axis=0), A)
example("quantile", lambda x, w: np.quantile(x, 0.4, weights=w, method="inverted_cdf"), V, P)
example("sort", np.sort, A)
example("sort", lambda x: np.sort(x, axis=0), A)
example("partition", lambda x: np.partition(x, 2), A)
example("partition", lambda x: np.partition(x, (1, 2), axis=0), A)
example("sort_complex", lambda x: np.sort_complex(x), V)
example("sort_complex", complexed(np.sort_complex), V, W)
example("unique", np.unique, A)
example("unique", lambda x: np.unique(x, return_index=True, return_inverse=True, return_counts=True), V)
example("unique", lambda x: np.unique(x, axis=0), A)
example("unique_values", np.unique_values, A)
example("unique_counts", np.unique_counts, A)
example("unique_inverse", np.unique_inverse, A)
example("unique_all", np.unique_all, A)
example("union1d", np.union1d, V, U)
example("setdiff1d", np.setdiff1d, V, U)
example("setdiff1d", lambda x: np.setdiff1d(x, [9.0]), V)
example("setxor1d", np.setxor1d, V, U)
example("intersect1d", lambda x: np.intersect1d(x, x[:2]), V)
example("intersect1d", lambda x: np.intersect1d(x, x[:2], return_indices=True), V)
example("average", np.average, A)
example("average", lambda x, w: np.average(x, axis=1, weights=w), A, P)
example("average", lambda x, w: np.average(x, weights=w, returned=True), Q, Q)
example("trace", np.trace, A)
example("bincount", lambda w: np.bincount([0, 2, 2, 1], weights=w), V)
example("histogram", lambda x: np.histogram(x, bins=3), V)
example("histogram", lambda w: np.histogram([0.1, 0.5, 0.7, 0.3], bins=2, range=(0, 1), weights=w), V)
example("histogram", lambda w: np.histogram([0.1, 0.5, 0.7, 0.3], bins=[0, 0.2, 0.6, 1], weights=w, density=True), P)
example("histogram", lambda x, b: np.histogram(x, bins=b), V, S)
example("histogram2d", lambda x, y: np.histogram2d(x, y, bins=3), V, W)
example("histogram2d", lambda w: np.histogram2d([0.1, 0.5, 0.7, 0.3], [0.3, 0.1, 0.9, 0.2], bins=2, weights=w), V)
example("histogramdd", lambda x: np.histogramdd(x, bins=2), T[0])
example("histogram_bin_edges", lambda x: np.histogram_bin_edges(x, bins=4), V)
example("histogram_bin_edges", lambda x: np.histogram_bin_edges(x, bins="fd"), np.arange(20) * 0.3 + real(20) * 0.1)
example("digitize", lambda x, b: np.digitize(x, b), V, S)

# ---- shapes and joining ----------------------------------------------------------------------------------------------

examples("copy ravel squeeze transpose flip fliplr flipud rot90 atleast_1d atleast_2d atleast_3d tril triu", A)
examples("atleast_1d atleast_2d atleast_3d", X)
example("atleast_2d", lambda x, y: np.atleast_2d(x, y), V, X)
example("flip", lambda x: np.flip(x, (0, 2)), T)
example("rot90", lambda x: np.rot90(x, 3, axes=(1, 2)), T)
example("tril", lambda x: np.tril(x, -1), T)
example("triu", lambda x: np.triu(x, 1), T)
example("reshape", lambda x: np.reshape(x, (2, 6)), A)
example("reshape", lambda x: np.reshape(x, -1, order="F"), A)
if "copy" in inspect.signature(np.reshape).parameters:
    example("reshape", lambda x: np.reshape(x, (6, -1), copy=True), A)
example("broadcast_to", lambda x: np.broadcast_to(x, (2, 4)), V)
example("broadcast_arrays", lambda x, y: np.broadcast_arrays(x, y), V, A)
example("diagonal", lambda x: np.diagonal(x, 1), A)
example("expand_dims", lambda x: np.expand_dims(x, (0, 2)), V)
example("matrix_transpose", np.matrix_transpose, T)
example("moveaxis", lambda x: np.moveaxis(x, 0, -1), T)
example("rollaxis", lambda x: np.rollaxis(x, 2), T)
example("swapaxes", lambda x: np.swapaxes(x, 0, 2), T)
example("transpose", lambda x: np.transpose(x, (1, 0, 2)), T)
example("lib.stride_tricks.sliding_window_view", lambda x: sliding_window_view(x, 2, axis=1), A)
example("append", np.append, V, U)
example("append", lambda x, y: np.append(x, y, axis=0), A, C)
example("array_split", lambda x: np.array_split(x, 3), V)
example("split", lambda x: np.split(x, [1, 3]), V)
example("hsplit", lambda x: np.hsplit(x, 2), A)
example("vsplit", lambda x: np.vsplit(x, 3), A)
example("dsplit", lambda x: np.dsplit(x, 2), T)
example("unstack", lambda x: np.unstack(x, axis=1), A)
for name in "column_stack concatenate dstack hstack stack vstack".split():
    example(name, lambda x, y, f=getattr(np, name): f((x, y)), V, W)
    example(name, lambda x, y, f=getattr(np, name): f([x, y]), A, C)
example("concatenate", lambda x, y: np.concatenate((x, [[1], [2], [3]], y), axis=1), A, C)
example("concatenate", lambda x, y: np.concatenate((x, y), axis=None), A, V)
example("concatenate", lambda x, y: np.concatenate((x, y), out=np.zeros(8)), V, W)
example("stack", lambda x, y: np.stack((x, y), axis=1), A, C)
example("block", lambda x, y: np.block([[x, y], [y, x]]), A, C)
example("block", lambda x, y: np.block([x, 1.0, y]), V, U)
example("delete", lambda x: np.delete(x, 1), V)
example("delete", lambda x: np.delete(x, [0, 2], axis=1), A)
example("insert", lambda x, v: np.insert(x, 1, v), V, X)
example("insert", lambda x, v: np.insert(x, [0, 2], v, axis=0), A, V)
example("insert", lambda x, v: np.insert(x, [0, 2, 2], v), V, U)
example("kron", np.kron, V, U)
example("kron", np.kron, A, B)
example("meshgrid", lambda x, y: np.meshgrid(x, y), V, U)
example("meshgrid", lambda x, y: np.meshgrid(x, y, indexing="ij", sparse=True), V, U)
example("ix_", lambda x, y: np.ix_(x, y), V, U)
example("pad", lambda x: np.pad(x, 2), A)
for mode in "edge linear_ramp maximum mean median minimum reflect symmetric wrap".split():
    example("pad", lambda x, mode=mode: np.pad(x, ((1, 2), (2, 1)), mode), A)
example("pad", lambda x, c: np.pad(x, 1, constant_values=c), V, X)
example("pad", lambda x: np.pad(x, 1, "mean", stat_length=2), V)
example("pad", lambda x: np.pad(x, 1, "reflect", reflect_type="odd"), V)
example("repeat", lambda x: np.repeat(x, [1, 0, 2], axis=0), A)
example("resize", lambda x: np.resize(x, (3, 3)), V)
example("roll", lambda x: np.roll(x, 1), A)
example("tile", lambda x: np.tile(x, (2, 1, 2)), A)
example("trim_zeros", lambda x: np.trim_zeros(np.concatenate((np.zeros(2), x, np.zeros(1)))), V)
example("apply_along_axis", lambda x: np.apply_along_axis(lambda v: v * v[0], 1, x), A)
example("apply_along_axis", lambda x: np.apply_along_axis(np.sum, 0, x), A)
example("apply_over_axes", lambda x: np.apply_over_axes(np.sum, x, [0, 2]), T)
example("astype", lambda x: np.astype(x, np.float64), A)
example("astype", lambda x: np.astype(x, complex), A)
example("astype", lambda x: np.astype(x, int), A)

# ---- selection and stores --------------------------------------------------------------------------------------------

example("where", lambda x, y: np.where(MASK, x, y), A, C)
example("where", lambda x: np.where(x > 0), A)
example("where", lambda x: np.where(x > 0, x, 0.0), A)
example("choose", lambda x, y: np.choose([0, 1, 1, 0], [x, y]), V, W)
example("clip", lambda x: np.clip(x, -0.1, 0.1), A)
example("clip", lambda x, lo, hi: np.clip(x, lo, hi), A, -P, P * 0.7)
example("compress", lambda x: np.compress([True, False, True], x, axis=0), A)
example("diag", np.diag, V)
example("diag", lambda x: np.diag(x, -1), A)
example("diagflat", np.diagflat, A)
example("extract", lambda x: np.extract(MASK, x), A)
example("extract", lambda x: np.extract(x, x), A)
example("nan_to_num", lambda x: np.nan_to_num(holed(x)), A)
example("nan_to_num", lambda x: np.nan_to_num(holed(x), nan=2.5), A)
example("piecewise", lambda x: np.piecewise(x, [x < 0, x >= 0], [lambda v: v * v, lambda v: np.sin(v)]), A)
example("piecewise", lambda x: np.piecewise(x, [x < 0], [1.5, lambda v: 2 * v]), V)
example("select", lambda x, y: np.select([x > 0.5, x > 0], [x * x, y], -x), A, C)
example("take", lambda x: np.take(x, [0, 2, 2]), A)
example("take", lambda x: np.take(x, [[0, 2], [1, 1]], axis=1), A)
example("take", lambda x: np.take(x, [5, -7], mode="wrap"), A)
example("take_along_axis", lambda x: np.take_along_axis(x, np.argsort(x, axis=1), axis=1), A)
example("copyto", stored(lambda t, x: np.copyto(t, x)), A, V)
example("copyto", stored(lambda t, x: np.copyto(t, x, where=MASK)), A, V)
example("fill_diagonal", stored(lambda t, x: np.fill_diagonal(t, x)), M, U)
example("fill_diagonal", stored(lambda t, x: np.fill_diagonal(t, x, wrap=True)), B, X)
example("fill_diagonal", stored(lambda t, x: np.fill_diagonal(t, x)), real(3, 3, 3), X)
example("place", stored(lambda t, x: np.place(t, MASK, x)), A, U)
example("put", stored(lambda t, x: np.put(t, [0, 5, 0], x)), A, U)
example("put", stored(lambda t, x: np.put(t, [0, 13, -14], x, mode="wrap")), A, U)
example("put", stored(lambda t, x: np.put(t, [0, 13, -14], x, mode="clip")), A, U)
example("put_along_axis", stored(lambda t, x: np.put_along_axis(t, np.array([[0], [2], [1]]), x, 1)), A, U[:, None])
example("put_along_axis", stored(lambda t, x: np.put_along_axis(t, np.array([0, 2]), x, axis=None)), A, X)
example("putmask", stored(lambda t, x: np.putmask(t, MASK, x)), A, U)

# ---- creation --------------------------------------------------------------------------------------------------------

for name in "array asanyarray asarray ascontiguousarray asfortranarray require".split():
    f = getattr(np, name)
    example(name, lambda x, f=f: f(x), A)
    example(name, lambda x, y, f=f: f([x, y]), V, W)
    example(name, lambda x, f=f: f([[x, 1.0], [2, x * x]]), X)
example("array", lambda x: np.array(x, copy=True, ndmin=3), A)
example("require", lambda x: np.require(x, requirements=["F", "O", "W"]), A)
for name in "empty_like zeros_like ones_like".split():
    f = getattr(np, name)

    def filled(x, f=f):
        out = f(x)
        out[...] = x * x
        return out
    example(name, filled, A)
example("ones_like", lambda x: x * np.ones_like(x), A)
example("full_like", lambda x, v: np.full_like(x, v), A, X)
example("full", lambda v: np.full((2, 3), v), X)
example("full", lambda v: np.full((2, 4), v), V)
example("arange", lambda x: np.arange(x, 3.0, 0.5), X)
example("arange", lambda x: np.arange(0.0, 3.0, x), X)
example("fromiter", lambda x: np.fromiter((v * v for v in x), float), V)
example("fromiter", lambda x: np.fromiter((v * v for v in x), dtype=float, count=3), V)
example("fromfunction", lambda x: np.fromfunction(lambda i, j: x * (i + j), (2, 3)), X)


def written(make):
    """A function that makes an array which then takes active values."""
    def run(x):
        out = make()
        out[0] = out[0] + x
        return out
    return run



def emptied(x):
    out = np.empty(2)
    out[0], out[1] = x, x * x
    return out


example("empty", emptied, X)
example("zeros", written(lambda: np.zeros((2, 2))), X)
example("ones", written(lambda: np.ones((2, 2))), X)
example("eye", written(lambda: np.eye(3)), X)
example("identity", written(lambda: np.identity(3)), X)
example("tri", written(lambda: np.tri(3)), X)
example("fromstring", lambda x: x * np.fromstring("1 2 3 4", sep=" "), V)
example("frombuffer", lambda x: x * np.frombuffer(V.tobytes()), V)
example("loadtxt", lambda x: x * np.loadtxt(io.StringIO("1 2 3 4")), V)
example("genfromtxt", lambda x: x * np.genfromtxt(io.StringIO("1 2 3 4")), V)


def read_from_file(x):
    with tempfile.TemporaryFile() as file:
        file.write(V.tobytes())
        file.seek(0)
        return x * np.fromfile(file)


example("fromfile", read_from_file, V)
example("linspace", lambda x, y: np.linspace(x, y, 5), X, np.float64(2.5))
example("linspace", lambda x, y: np.linspace(x, y, 3, endpoint=False, retstep=True), V, W)
example("logspace", lambda x, y: np.logspace(x, y, 4), X, np.float64(1.5))
example("logspace", lambda x, b: np.logspace(0.0, x, 4, base=b), X, np.float64(2.5))
example("geomspace", lambda x, y: np.geomspace(x, y, 5), X, np.float64(8.0))
example("geomspace", lambda x, y: np.geomspace(x, y, 3), P, P + 2)
example("vander", np.vander, V)
example("vander", lambda x: np.vander(x, 3, increasing=True), V)

# ---- numerical functions ---------------------------------------------------------------------------------------------

example("angle", complexed(np.angle), V, W)
example("angle", np.angle, V)
example("real", complexed(np.real), V, W)
example("imag", complexed(np.imag), V, W)
example("real", np.real, V)
example("imag", np.imag, V)
example("real_if_close", np.real_if_close, V)
example("real_if_close", lambda x: np.real_if_close(x + 0j), V)
example("real_if_close", complexed(np.real_if_close), V, W)
example("convolve", np.convolve, V, U)
example("convolve", lambda x, y: np.convolve(x, y, "same"), V, U)
example("correlate", lambda x, y: np.correlate(x, y, "full"), V, U)
example("corrcoef", np.corrcoef, A)
example("corrcoef", np.corrcoef, V, W)
example("cov", np.cov, A)
example("cov", lambda x, y: np.cov(x, y, rowvar=False, bias=True), A, C)
example("cov", lambda x, w: np.cov(x, aweights=w), A, P)
example("cov", lambda x: np.cov(x, fweights=[1, 2, 1, 3], ddof=0), A)
example("cross", np.cross, U, real(3))
example("diff", np.diff, V)
example("diff", lambda x: np.diff(x, 2, axis=0), A)
example("diff", lambda x, p: np.diff(x, prepend=p, append=1.0), V, X)
example("ediff1d", np.ediff1d, V)
example("ediff1d", lambda x: np.ediff1d(x, to_begin=x[0], to_end=x[:2]), V)
example("polynomial.polynomial.polyval2d", polynomial.polyval2d, V, W, A)
if hasattr(polynomial, "polyvalnd"):
    example("polynomial.polynomial.polyvalnd", lambda x, y, c: polynomial.polyvalnd((x, y), c), V, W, A)
example("polynomial.polynomial.polygrid2d", polynomial.polygrid2d, V, U, A)
example("gradient", np.gradient, V)
example("gradient", np.gradient, A)
example("gradient", lambda x, h: np.gradient(x, h), V, X)
example("gradient", lambda x, s: np.gradient(x, s, edge_order=2), V, S[:4])
example("gradient", lambda x: np.gradient(x, 0.5, axis=1), A)
example("i0", np.i0, V)
example("i0", np.i0, real(3) * 20)
example("sinc", np.sinc, V)
example("interp", lambda x, f: np.interp(x, [0, 1, 2, 3], f), P * 2, V)
example("interp", lambda x, p, f: np.interp(x, p, f, period=9.0), P * 3, S[:4], V)
example("trapezoid", np.trapezoid, V)
example("trapezoid", lambda y, x: np.trapezoid(y, x), V, S[:4])
example("trapezoid", lambda y, h: np.trapezoid(y, dx=h, axis=0), A, X)
example("unwrap", np.unwrap, V * 9)
example("unwrap", lambda x: np.unwrap(x, period=1.7, axis=0), A * 5)
example("poly", np.poly, U)
example("poly", np.poly, SPD)
example("polyadd", np.polyadd, V, U)
example("polysub", np.polysub, V, U)
example("polymul", np.polymul, V, U)
example("polydiv", np.polydiv, V, U)
example("polyder", np.polyder, V)
example("polyint", np.polyint, V)
example("polyint", lambda p, k: np.polyint(p, 2, k), V, W[:2])
example("polyval", np.polyval, V, U)
example("polyval", np.polyval, V, X)
example("polyfit", lambda x, y: np.polyfit(x, y, 2), S, real(5))
example("polyfit", lambda x, y, w: np.polyfit(x, y, 1, w=w), S, real(5), positive(5))
example("polyfit", lambda x, y: np.polyfit(x, y, 1, full=True)[:2], S, real(5))
example("polyfit", lambda x, y: np.polyfit(x, y, 1, cov=True), S, real(5))
example("roots", lambda x: np.abs(np.roots(x)), np.array([1.0, -6.0, 11.0, -6.0]))
example("roots", lambda x: np.sort(np.roots(x).real), np.array([2.0, -6.0, 3.0]))

# ---- products and linear algebra -------------------------------------------------------------------------------------

examples("dot inner outer vdot linalg.outer linalg.vecdot", V, W)
examples("dot linalg.matmul", A, B)
example("tensordot", lambda x, y: np.tensordot(x, y, 1), A, B)
example("linalg.tensordot", lambda x, y: np.linalg.tensordot(x, y, axes=1), A, B)
example("einsum", lambda x, y: np.einsum("ij,jk->ik", x, y), A, B)
example("einsum", lambda x: np.einsum("ii->i", x), M)
example("linalg.cross", np.linalg.cross, A.T[:, :3], C.T[:, :3])
example("linalg.diagonal", np.linalg.diagonal, T)
example("linalg.matrix_transpose", np.linalg.matrix_transpose, T)
example("linalg.trace", np.linalg.trace, T)
example("linalg.cholesky", lambda x: np.linalg.cholesky(hermitian(x)), SPD)
for p in (None, 1, -1, 2, -2, np.inf, -np.inf, "fro"):
    example("linalg.cond", lambda x, p=p: np.linalg.cond(x, p), M)
examples("linalg.det linalg.inv linalg.pinv linalg.slogdet linalg.svdvals linalg.norm linalg.matrix_norm", M)
example("linalg.eig", lambda x: np.linalg.eig(x)[0], M)
example("linalg.eig", symmetric_values(np.linalg.eig), np.diag([1.0, 2.0, 4.0]) + 0.1 * real(3, 3))
example("linalg.eigvals", np.linalg.eigvals, np.diag([1.0, 2.0, 4.0]) + 0.1 * real(3, 3))
example("linalg.eigh", symmetric_values(lambda x: np.linalg.eigh(hermitian(x))), SPD)
example("linalg.eigvalsh", lambda x: np.linalg.eigvalsh(hermitian(x)), SPD)
example("linalg.lstsq", lambda a, b: np.linalg.lstsq(a, b), real(5, 3), real(5))
example("linalg.matrix_power", lambda x: np.linalg.matrix_power(x, 5), M)
example("linalg.matrix_power", lambda x: np.linalg.matrix_power(x, -2), M)
example("linalg.matrix_power", lambda x: np.linalg.matrix_power(x, 0), M)
example("linalg.multi_dot", lambda x, y, z: np.linalg.multi_dot([x, y, z]), A, B, real(2, 3))
example("linalg.multi_dot", lambda x, y, z, u: np.linalg.multi_dot([x, y, z, u]), U, M, A, V)
example("linalg.norm", lambda x: np.linalg.norm(x, axis=1), A)
example("linalg.norm", lambda x: np.linalg.norm(x, 2), A)
example("linalg.matrix_norm", lambda x: np.linalg.matrix_norm(x, ord="nuc"), T)
example("linalg.vector_norm", np.linalg.vector_norm, A)
example("linalg.vector_norm", lambda x: np.linalg.vector_norm(x, axis=0, ord=3, keepdims=True), A)
example("linalg.qr", lambda x: np.linalg.qr(x), real(4, 3))
example("linalg.solve", np.linalg.solve, M, U)
example("linalg.solve", np.linalg.solve, M, real(3, 2))
example("linalg.svd", lambda x: np.linalg.svd(x, compute_uv=False), A)


def low_rank(x):
    u, s, v = np.linalg.svd(x, full_matrices=False)
    return (u[:, :2] * s[:2]) @ v[:2]


example("linalg.svd", low_rank, A)
example("linalg.tensorinv", lambda x: np.linalg.tensorinv(x, 1), real(4, 2, 2) + np.eye(4).reshape(4, 2, 2))
example("linalg.tensorsolve", np.linalg.tensorsolve, real(2, 2, 4) + np.eye(4).reshape(2, 2, 4), real(2, 2))

FOURIER = "fft.fft fft.ifft fft.rfft fft.fft2 fft.fftn fft.ifft2 fft.ifftn fft.rfft2 fft.rfftn fft.ihfft"
examples(FOURIER + " fft.fftshift fft.ifftshift", A)
examples(FOURIER.replace("fft.fft2", "").replace("fft.ifft2", "").replace("fft.rfft2", ""), V)
for name in "fft.fft fft.ifft fft.irfft fft.hfft fft.fftn fft.ifft2 fft.ifftn fft.irfft2 fft.irfftn".split():
    example(name, complexed(lambda z, f=getattr(np.fft, name[4:]): f(z)), A, C)
example("fft.fft", lambda x: np.fft.fft(x, 6, axis=0, norm="ortho"), A)
example("fft.irfftn", lambda x: np.fft.irfftn(x, s=(3, 5), axes=(0, 1)), A)

for name in "arccos arcsin arctanh log log10 log2 sqrt".split():
    example(f"lib.scimath.{name}", getattr(scimath, name), P)
    example(f"lib.scimath.{name}", getattr(scimath, name), V * 2.5)
example("lib.scimath.logn", lambda x: scimath.logn(2, x), V)
example("lib.scimath.logn", scimath.logn, P, P + 0.2)
example("lib.scimath.power", lambda x: scimath.power(x, 2), V)
example("lib.scimath.power", scimath.power, V, W)

# ---- without a derivative --------------------------------------------------------------------------------------------

examples("all any argmax argmin argsort argwhere around array2string array_repr array_str common_type count_nonzero "
         "fix flatnonzero iscomplex iscomplexobj isneginf isposinf isreal isrealobj nanargmax nanargmin ndim nonzero "
         "round shape size", A)
examples("allclose array_equal array_equiv in1d isclose isin may_share_memory shares_memory result_type", A, C)
examples("linalg.matrix_rank diag_indices_from tril_indices_from triu_indices_from", M)
example("argpartition", lambda x: np.argpartition(x, 2), V)
example("can_cast", lambda x: np.can_cast(x.dtype, np.float32), A)
example("einsum_path", lambda x, y: np.einsum_path("ij,jk->ik", x, y)[0], A, B)
example("lexsort", lambda x, y: np.lexsort((x, y)), V, W)
example("min_scalar_type", lambda x: np.min_scalar_type(x), A)
example("searchsorted", np.searchsorted, S, V)
example("round", lambda x: np.round(x, 1), X)
example("round", lambda x: x * np.round(x * 5), A)

# ---- refused ---------------------------------------------------------------------------------------------------------

examples("busday_count", V, W)
examples("busday_offset", V, W)
examples("datetime_as_string is_busday packbits unpackbits", V)
example("ravel_multi_index", lambda x: np.ravel_multi_index((x, x), (3, 3)), V)
example("unravel_index", lambda x: np.unravel_index(x, (3, 3)), V)
example("save", lambda x: np.save(io.BytesIO(), x), V)
example("savez", lambda x: np.savez(io.BytesIO(), x), V)
example("savez_compressed", lambda x: np.savez_compressed(io.BytesIO(), x), V)
example("savetxt", lambda x: np.savetxt(io.StringIO(), x), V)
example("lib.recfunctions.append_fields", lambda x: recfunctions.append_fields(STRUCTURED, "c", x), V[:1])
example("lib.recfunctions.apply_along_fields", lambda x: recfunctions.apply_along_fields(np.mean, x), V)
example("lib.recfunctions.assign_fields_by_name", lambda x: recfunctions.assign_fields_by_name(STRUCTURED, x), V)
example("lib.recfunctions.drop_fields", lambda x: recfunctions.drop_fields(x, "a"), V)
example("lib.recfunctions.find_duplicates", lambda x: recfunctions.find_duplicates(x), V)
example("lib.recfunctions.join_by", lambda x: recfunctions.join_by("a", x, STRUCTURED), V)
example("lib.recfunctions.merge_arrays", lambda x, y: recfunctions.merge_arrays((x, y)), V, W)
example("lib.recfunctions.rec_append_fields", lambda x: recfunctions.rec_append_fields(STRUCTURED, "c", x), V[:1])
example("lib.recfunctions.rec_drop_fields", lambda x: recfunctions.rec_drop_fields(x, "a"), V)
example("lib.recfunctions.rec_join", lambda x: recfunctions.rec_join("a", x, STRUCTURED), V)
example("lib.recfunctions.recursive_fill_fields", lambda x: recfunctions.recursive_fill_fields(x, STRUCTURED), V)
example("lib.recfunctions.rename_fields", lambda x: recfunctions.rename_fields(x, {"a": "b"}), V)
example("lib.recfunctions.repack_fields", lambda x: recfunctions.repack_fields(x), V)
example("lib.recfunctions.require_fields", lambda x: recfunctions.require_fields(x, STRUCTURED.dtype), V)
example("lib.recfunctions.stack_arrays", lambda x, y: recfunctions.stack_arrays((x, y)), V, W)
example("lib.recfunctions.structured_to_unstructured", lambda x: recfunctions.structured_to_unstructured(x), V)
example("lib.recfunctions.unstructured_to_structured", lambda x: recfunctions.unstructured_to_structured(x), A)

for text in get_overridable_numpy_array_functions():
    if text.__module__ in ("numpy.char", "numpy.strings"):
        parameters = inspect.signature(text).parameters.values()
        count = sum(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in parameters)
        example(f"{text.__module__}.{text.__name__}".removeprefix("numpy."),
                lambda x, f=text, n=count: f(*[x] * n), V)
