"""Linear algebra: solving, determinants, factorisations, eigenvalues, norms.

What NumPy reads is what has a derivative: ``cholesky`` and ``eigh`` read one triangle, so the other has none.

Where eigenvalues or singular values coincide, their vectors have no derivative; a share of it that is not zero comes
out infinite, rather than wrong. Values, and functions that do not depend on the choice of vectors, are right in
reverse as long as what multiplies the gap is exactly zero. Complex eigenvectors and singular vectors are defined up to
a phase; ``eig`` has the one that LAPACK chooses, the others a derivative that is right for any function that does not
depend on it.

Formulas: M. B. Giles, "Collected matrix derivative results for forward and reverse mode algorithmic differentiation"
(2008); for the complex SVD, Z.-Q. Wan and S.-X. Zhang, arXiv:1909.02659.
"""
import math

import numpy as np

from cyad.errors import MissingRuleError
from cyad.rules import registry
from cyad.rules.reductions import others
from cyad.rules.registry import structural
from cyad.rules.shapes import (
    axes_of,
    conj,
    kept,
    kind_of,
    matched,
    real_dtype,
    refuse,
    shape_of,
    unbroadcast,
)


def adjoint(x):
    return conj(x).swapaxes(-1, -2)


def outer(x, y):
    """``x y^H`` over the last axes."""
    return x[..., :, None] * conj(y)[..., None, :]


def diagonal(x):
    return np.diagonal(x, 0, -2, -1)


def identity(x, n):
    """The identity matrix in the precision of ``x``: in double it would make a single matrix double."""
    return np.eye(n, dtype=real_dtype(x.dtype))


def diagonal_matrix(x):
    return x[..., :, None] * identity(x, x.shape[-1])


def lower_half(x):
    """The lower triangle with half the diagonal: what to add to its adjoint to get a hermitian matrix back."""
    return np.tril(x, -1) + diagonal_matrix(diagonal(x).real * 0.5)


def apart(a, values, name):
    """MissingRuleError where derivatives of derivatives of values that coincide are about to be taken.

    The first derivative needs some vectors of a degenerate space; how they turn is not determined, and what smooth
    functions of all the values need of it, the limit of a quotient, cannot be had from one matrix.
    """
    if registry.plain(a) is a:
        return
    values = np.sort(registry.plain(values))
    gaps = np.diff(values)
    if np.any(gaps <= 8 * np.finfo(values.dtype).eps * np.max(np.abs(values), initial=0.0)):
        raise MissingRuleError(f"second derivatives of {name} where values coincide: the vectors that belong to them "
                               "are not determined. Take another point, or write the function without them (traces, "
                               "powers, determinants)")


def ratio(x, gap):
    """``x / gap``, 0 where both vanish."""
    both = np.equal(gap, 0) & np.equal(x, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(both, 0, x) / np.where(both, 1, gap)


def from_triangle(t, upper):
    """The hermitian matrix that a routine sees which reads one triangle."""
    t = adjoint(t) if upper else t
    return np.tril(t, -1) + adjoint(np.tril(t, -1)) + diagonal_matrix(diagonal(t).real)


def to_triangle(h, upper):
    """The transpose of :func:`from_triangle`; ``h`` need not be hermitian."""
    h = h + adjoint(h)
    back = np.tril(h, -1) + diagonal_matrix(diagonal(h).real * 0.5)
    return adjoint(back) if upper else back


# ----------------------------------------------------------------------------------------------------------------------
# Systems, inverses, determinants

@structural(np.linalg.solve, operands=("a", "b"), reads={"a": ("a", "out"), "b": ("a",)})
def solve_rule(a, b):
    x = np.linalg.solve(a, b)
    vector = b.ndim == 1
    shapes = a.shape, b.shape

    def linear(k):
        if k == 1:
            def pull_b(g):
                if vector and g.ndim > 1:
                    return unbroadcast(np.linalg.solve(adjoint(a), g[..., None])[..., 0], shapes[1])
                return unbroadcast(np.linalg.solve(adjoint(a), g), shapes[1])
            return (lambda t: np.linalg.solve(a, t)), pull_b

        def push_a(t):
            if vector:
                return -np.linalg.solve(a, np.matmul(t, x[..., None]))[..., 0]
            return -np.linalg.solve(a, np.matmul(t, x))

        def pull_a(g):
            if vector:
                return unbroadcast(-outer(np.linalg.solve(adjoint(a), g[..., None])[..., 0], x), shapes[0])
            return unbroadcast(-np.matmul(np.linalg.solve(adjoint(a), g), adjoint(x)), shapes[0])
        return push_a, pull_a
    return x, matched(x, linear, a, b)


@structural(np.linalg.tensorsolve, operands=("a", "b"), reads={"a": ("a", "out"), "b": ("a",)})
def tensorsolve_rule(a, b, axes=None):
    result = np.linalg.tensorsolve(a, b, axes)
    order = [i for i in range(a.ndim) if i not in (axes or ())] + list(axes or ())
    back = [order.index(i) for i in range(a.ndim)]
    shapes, shape_x = (a.shape, b.shape), result.shape
    moved = tuple(a.shape[i] for i in order)
    n = math.prod(b.shape)

    def matrix(x):
        return np.reshape(np.transpose(x, order), (n, n))

    def linear(k):
        if k == 1:
            return (lambda t: np.reshape(np.linalg.solve(matrix(a), np.reshape(t, n)), shape_x)), (
                lambda g: np.reshape(np.linalg.solve(adjoint(matrix(a)), np.reshape(g, n)), shapes[1]))

        def push(t):
            return np.reshape(-np.linalg.solve(matrix(a), matrix(t) @ np.reshape(result, n)), shape_x)

        def pull(g):
            left = np.linalg.solve(adjoint(matrix(a)), np.reshape(g, n))
            return np.transpose(np.reshape(-outer(left, np.reshape(result, n)), moved), back)
        return push, pull
    return result, matched(result, linear, a, b)


@structural(np.linalg.inv, operands=("a",), reads=("out",))
def inv_rule(a):
    inverse = np.linalg.inv(a)

    def push(t):
        return -inverse @ t @ inverse

    def pull(g):
        return -adjoint(inverse) @ g @ adjoint(inverse)

    return inverse, lambda k: (push, pull)


# Singular values that are smaller than this share of the largest are kept from being divided by.
SEPARATE = 1e-4
MINORS = 6    # up to this size cofactors by their definition are worth what they cost


def cofactors(a, det):
    """``d det / d a``: also of singular matrices."""
    n = shape_of(a)[-1]
    if 0 < n <= 2:
        return a[..., ::-1, ::-1] * np.array([[1, -1], [-1, 1]], a.dtype) if n == 2 else np.ones_like(a)
    if type(a) is not np.ndarray and type(values := registry.plain(a)) is np.ndarray:
        return smooth_cofactors(a, det, values)
    if np.all(np.not_equal(det, 0)):
        return np.reshape(det, (*shape_of(det), 1, 1)) * np.linalg.inv(a).swapaxes(-1, -2)
    # The product of the other singular values.
    u, s, vh = np.linalg.svd(a)
    phase = np.reshape(np.linalg.det(u) * np.linalg.det(vh), (*shape_of(det), 1, 1))
    return phase * np.matmul(conj(u) * others(s, (s.ndim - 1,))[..., None, :], conj(vh))


def smooth_cofactors(a, det, values):
    """The same for a duck array over `values`. Cofactors are polynomials, and so must be what an outer differentiation
    meets: inverses only of what is well conditioned, no singular vectors.
    """
    if values.size == 0 or not np.isfinite(values).all():
        return np.reshape(det, (*shape_of(det), 1, 1)) * np.linalg.inv(a).swapaxes(-1, -2)
    u, s, vh = np.linalg.svd(values)
    if np.all(s[..., -1] > SEPARATE * s[..., 0]):
        return np.reshape(det, (*shape_of(det), 1, 1)) * np.linalg.inv(a).swapaxes(-1, -2)
    if values.ndim == 2:
        return separated_cofactors(a, u, s, vh)
    shape = values.shape
    a, u, s, vh = (np.reshape(v, (-1, *v.shape[len(shape) - 2:])) for v in (a, u, s, vh))
    return np.reshape(np.stack([separated_cofactors(a[i], u[i], s[i], vh[i]) for i in range(len(s))]), shape)


def separated_cofactors(a, u, s, vh):
    """With a = u b vh for constant u and vh, and b in blocks p, q, l, t with p well conditioned and the rest small,
    det b = det p det c for c = t - l p^-1 q; a gradient of that divides by nothing small.
    """
    r = np.count_nonzero(s > SEPARATE * s[0])
    if r == 0:
        return minors(a)
    b = adjoint(u) @ a @ adjoint(vh)
    inverse = np.linalg.inv(b[:r, :r])
    if r == len(s):
        adjugate = np.linalg.det(b) * inverse
    else:
        right = inverse @ b[:r, r:]
        left = b[r:, :r] @ inverse
        c = b[r:, r:] - b[r:, :r] @ right
        small = (minors(c) if len(s) - r <= MINORS else cofactors(c, np.linalg.det(c))).T
        det = np.add.reduce(c[0] * small[:, 0])
        adjugate = np.linalg.det(b[:r, :r]) * np.concatenate([
            np.concatenate([det * inverse + right @ small @ left, -right @ small], axis=1),
            np.concatenate([-small @ left, small], axis=1)])
    phase = np.linalg.det(u) * np.linalg.det(vh)
    return phase * (conj(u) @ adjugate.T @ conj(vh))


def minors(a):
    """Cofactors by their definition."""
    n = a.shape[-1]
    if n <= 2:
        return cofactors(a, None)
    keep = np.array([[j for j in range(n) if j != i] for i in range(n)])
    sign = np.where(np.add.outer(np.arange(n), np.arange(n)) % 2, -1, 1).astype(a.dtype)
    return np.linalg.det(a[keep[:, None, :, None], keep[None, :, None, :]]) * sign


@structural(np.linalg.det, operands=("a",), reads=("a", "out"))
def det_rule(a):
    det = np.linalg.det(a)

    def push(t):
        return np.add.reduce(cofactors(a, det) * t, axis=(-2, -1))

    def pull(g):
        return np.reshape(g, (*shape_of(g), 1, 1)) * conj(cofactors(a, det))

    return det, lambda k: (push, pull)


@structural(np.linalg.slogdet, operands=("a",), reads=("a", "out"))
def slogdet_rule(a):
    """The sign of a complex determinant turns, that of a real one does not."""
    result = np.linalg.slogdet(a)
    sign = result.sign
    is_complex = kind_of(a) == "c"

    def push(t):
        rate = np.add.reduce(np.linalg.inv(a).swapaxes(-1, -2) * t, axis=(-2, -1))
        return (sign * 1j * rate.imag, rate.real) if is_complex else (rate * 0, rate)

    def pull(g):
        g_sign, g_log = g
        total = result.logabsdet * 0 if g_log is None else g_log
        if is_complex and g_sign is not None:
            total = total + 1j * (conj(g_sign) * 1j * sign).real
        back = adjoint(np.linalg.inv(a))
        return np.reshape(total, (*shape_of(total), 1, 1)) * back

    return result, lambda k: (push, pull)


@structural(np.linalg.pinv, operands=("a",), reads=("a", "out"))
def pinv_rule(a, rcond=None, hermitian=False, *, rtol=None):
    """At constant rank."""
    if hermitian:
        refuse("np.linalg.pinv", "hermitian=True", "leave it out")
    cutoff = {} if rtol is None or rtol is np._NoValue else {"rtol": rtol}
    p = np.linalg.pinv(a, rcond, **cutoff)

    def outside():
        """Projections: off the range of a, and onto its null space."""
        return identity(a, a.shape[-2]) - a @ p, identity(a, a.shape[-1]) - p @ a

    def push(t):
        off, null = outside()
        return -p @ t @ p + p @ adjoint(p) @ adjoint(t) @ off + null @ adjoint(t) @ adjoint(p) @ p

    def pull(g):
        off, null = outside()
        ph = adjoint(p)
        return -ph @ g @ ph + off @ adjoint(g) @ p @ ph + ph @ p @ adjoint(g) @ null

    return p, lambda k: (push, pull)


@structural(np.linalg.lstsq, operands=("a", "b"), reads=("a", "b", "out"))
def lstsq_rule(a, b, rcond=None):
    """At constant rank. Four results: the solution, residuals, the rank (no derivative) and singular values."""
    result = np.linalg.lstsq(a, b, rcond)
    x, residuals, _, s = result
    vector = b.ndim == 1
    cutoff = np.finfo(x.dtype).eps * (max(a.shape) if rcond is None else 1) if rcond is None or rcond < 0 else rcond
    shape_b = b.shape
    with_residuals = residuals.shape != (0,)

    def columns(v):
        return v[:, None] if vector else v

    def parts():
        p = np.linalg.pinv(a, cutoff)
        xs = columns(x)
        return p, xs, columns(b) - a @ xs, adjoint(p) @ xs, identity(a, a.shape[1]) - p @ a

    def push_from(ta, tb):
        p, xs, rest, y, null = parts()
        change = p @ tb
        off = tb
        rate = s * 0
        if ta is not None:
            change = change - p @ ta @ xs + p @ adjoint(p) @ adjoint(ta) @ rest + null @ adjoint(ta) @ y
            off = off - ta @ xs
            u, _, vh = np.linalg.svd(a, full_matrices=False)
            rate = diagonal(adjoint(u) @ ta @ adjoint(vh)).real
        loss = 2 * np.add.reduce((conj(rest) * off).real, axis=0) if with_residuals else residuals * 0
        return np.reshape(change, x.shape), np.reshape(loss, residuals.shape), 0.0, rate

    def pulls(g):
        """Cotangents of a and of b."""
        gx, g_loss, _, gs = g
        p, xs, rest, y, null = parts()
        ga, gb = None, None

        def plus(total, term):
            return term if total is None else total + term

        if gx is not None:
            gx = columns(gx)
            u = adjoint(p) @ gx
            gb = u
            ga = -u @ adjoint(xs) + rest @ adjoint(p @ adjoint(p) @ gx) + y @ adjoint(null @ gx)
        if g_loss is not None and with_residuals:
            w = 2 * rest * g_loss
            gb = plus(gb, w)
            ga = plus(ga, -w @ adjoint(xs))
        if gs is not None:
            u, _, vh = np.linalg.svd(a, full_matrices=False)
            ga = plus(ga, (u * gs) @ vh)
        return (a * 0 if ga is None else ga), (b * 0 if gb is None else np.reshape(gb, shape_b))

    def linear(k):
        if k == 0:
            return (lambda t: push_from(t, columns(b) * 0)), (lambda g: pulls(g)[0])
        return (lambda t: push_from(None, columns(t))), (lambda g: pulls(g)[1])
    return result, matched(x, linear, a, b)


# ----------------------------------------------------------------------------------------------------------------------
# Factorisations

@structural(np.linalg.cholesky, operands=("a",), reads=("out",))
def cholesky_rule(a, *, upper=False):
    factor = np.linalg.cholesky(a, upper=upper)

    def lower():
        return adjoint(factor) if upper else factor

    def push(t):
        low = lower()
        inverse = np.linalg.inv(low)
        change = low @ lower_half(inverse @ from_triangle(t, upper) @ adjoint(inverse))
        return adjoint(change) if upper else change

    def pull(g):
        low = lower()
        inverse = np.linalg.inv(low)
        g = np.tril(adjoint(g) if upper else g)
        return to_triangle(adjoint(inverse) @ lower_half(adjoint(low) @ g) @ inverse, upper)

    return factor, lambda k: (push, pull)


def skew(x):
    """How Q turns: the skew part that keeps R upper triangular with a real diagonal."""
    low = np.tril(x, -1)
    turned = low - adjoint(low)
    return turned + 1j * diagonal_matrix(diagonal(x).imag) if kind_of(x) == "c" else turned


def skew_transposed(g):
    low = np.tril(g - adjoint(g), -1)
    return low + 1j * diagonal_matrix(diagonal(g).imag) if kind_of(g) == "c" else low


def qr_push(q, r, t):
    k = q.shape[-1]
    first, square = t[..., :k], r[..., :, :k]
    x = first @ np.linalg.inv(square)
    p = adjoint(q) @ x
    turn = skew(p)
    change_q = x - q @ (p - turn)
    change_r = (p - turn) @ square
    if r.shape[-1] > k:
        # The columns that did not take part in making q: r holds their coordinates.
        more = adjoint(change_q) @ q @ r[..., :, k:] + adjoint(q) @ t[..., k:]
        change_r = np.concatenate([change_r, more], axis=-1)
    return change_q, change_r


def qr_pull(q, r, g):
    gq, gr = g
    gq = q * 0 if gq is None else gq
    gr = r * 0 if gr is None else gr
    k = q.shape[-1]
    square = r[..., :, :k]
    if r.shape[-1] > k:
        gq = gq + q @ r[..., :, k:] @ adjoint(gr[..., :, k:])
    back = gr[..., :, :k] @ adjoint(square) - adjoint(q) @ gq
    back = back - skew_transposed(back)
    total = (gq + q @ back) @ adjoint(np.linalg.inv(square))
    return np.concatenate([total, q @ gr[..., :, k:]], axis=-1) if r.shape[-1] > k else total


@structural(np.linalg.qr, operands=("a",), reads=("a", "out"))
def qr_rule(a, mode="reduced"):
    """At full rank of the leading columns."""
    rows, columns = a.shape[-2:]
    if mode == "r":
        r = np.linalg.qr(a, "r")

        def push(t):
            return qr_push(*np.linalg.qr(a), t)[1]

        def pull(g):
            return qr_pull(*np.linalg.qr(a), (None, g))
        return r, lambda k: (push, pull)
    if mode not in ("reduced", "complete") or (mode == "complete" and rows > columns):
        refuse("np.linalg.qr", f"mode={mode!r}", "use mode='reduced'")
    result = np.linalg.qr(a, mode)
    q, r = result
    return result, lambda k: ((lambda t: qr_push(q, r, t)), (lambda g: qr_pull(q, r, g)))


# ----------------------------------------------------------------------------------------------------------------------
# Eigenvalues and singular values

@structural(np.linalg.eigh, operands=("a",), reads=("out",))
def eigh_rule(a, UPLO="L"):
    result = np.linalg.eigh(a, UPLO)
    w, v = result
    upper = UPLO.upper() == "U"

    def gaps():
        gap = w[..., None, :] - w[..., :, None]
        return gap + identity(w, w.shape[-1])

    off = 1 - identity(w, w.shape[-1])

    def push(t):
        rate = adjoint(v) @ from_triangle(t, upper) @ v
        return diagonal(rate).real, v @ ratio(rate * off, gaps())

    def pull(g):
        gw, gv = g
        total = None if gw is None else (v * gw[..., None, :]) @ adjoint(v)
        if gv is not None:
            # Only the part that turns one vector into another: the rest is the choice of phase.
            turn = adjoint(v) @ gv
            turn = (turn - adjoint(turn)) * 0.5 * off
            more = v @ ratio(turn, gaps()) @ adjoint(v)
            total = more if total is None else total + more
        return to_triangle(total, upper)

    return result, lambda k: (push, pull)


@structural(np.linalg.eigvalsh, operands=("a",), reads=("a",))
def eigvalsh_rule(a, UPLO="L"):
    upper = UPLO.upper() == "U"

    def vectors():
        w, v = np.linalg.eigh(a, UPLO)
        apart(a, w, "np.linalg.eigvalsh")
        return v

    def push(t):
        v = vectors()
        return diagonal(adjoint(v) @ from_triangle(t, upper) @ v).real

    def pull(g):
        v = vectors()
        return to_triangle((v * g[..., None, :]) @ adjoint(v), upper)

    return np.linalg.eigvalsh(a, UPLO), lambda k: (push, pull)


def phase_rows(v):
    """Which entry of each complex eigenvector LAPACK makes real: the largest."""
    rows = np.argmax(np.abs(v), axis=-2)[..., None, :]
    return np.equal(np.arange(v.shape[-2])[:, None], rows)


@structural(np.linalg.eig, operands=("a",), reads=("out",))
def eig_rule(a):
    """Vectors have norm one; the largest entry of a complex one is real."""
    result = np.linalg.eig(a)
    w, v = result
    off = 1 - identity(w, w.shape[-1])

    def gaps():
        return w[..., None, :] - w[..., :, None] + identity(w, w.shape[-1])

    def push(t):
        rate = np.linalg.inv(v) @ t @ v
        change = v @ ratio(rate * off, gaps())
        scale = np.add.reduce(conj(v) * change, axis=-2, keepdims=True).real
        if kind_of(v) == "c":
            largest = phase_rows(v)
            scale = scale + 1j * (np.add.reduce(np.where(largest, change, 0), axis=-2, keepdims=True).imag
                                  / np.add.reduce(np.where(largest, v, 0), axis=-2, keepdims=True).real)
        return diagonal(rate), change - v * scale

    def pull(g):
        gw, gv = g
        inner = None if gw is None else diagonal_matrix(gw)
        if gv is not None:
            along = np.add.reduce(conj(v) * gv, axis=-2, keepdims=True)
            back = gv - v * along.real
            if kind_of(v) == "c":
                largest = phase_rows(v)
                height = np.add.reduce(np.where(largest, v, 0), axis=-2, keepdims=True).real
                back = back - np.where(largest, 1j * along.imag / height, 0)
            turn = ratio(adjoint(v) @ back * off, conj(gaps()))
            inner = turn if inner is None else inner + turn
        return adjoint(np.linalg.inv(v)) @ inner @ adjoint(v)

    return result, matched(w, lambda k: (push, pull), a)


@structural(np.linalg.eigvals, operands=("a",), reads=("a",))
def eigvals_rule(a):
    values = np.linalg.eigvals(a)

    def push(t):
        v = np.linalg.eig(a)[1]
        return diagonal(np.linalg.inv(v) @ t @ v)

    def pull(g):
        v = np.linalg.eig(a)[1]
        return adjoint(np.linalg.inv(v)) @ diagonal_matrix(g) @ adjoint(v)

    return values, matched(values, lambda k: (push, pull), a)


class SVD:
    """The maps of a singular value decomposition, in blocks: the first k vectors, and those that fill up a full basis.

    The choice of basis in the fill-up, and of the phase that a pair of vectors shares, is left alone: the former does
    not turn within itself, the latter turns with the left vector.
    """

    def __init__(self, u, s, vh):
        k = s.shape[-1]
        v = adjoint(vh)
        self.s, self.k = s, k
        self.u, self.u_rest = u[..., :k], u[..., k:]
        self.v, self.v_rest = v[..., :k], v[..., k:]
        self.row, self.column = s[..., None, :], s[..., :, None]
        self.eye = identity(s, k)

    def turn(self, x):
        gap = (self.row + self.column) * (self.row - self.column)
        return ratio(x * (1 - self.eye), gap + self.eye)

    def push(self, t):
        uh, vh = adjoint(self.u), adjoint(self.v)
        d = uh @ t @ self.v
        x = self.turn(d * self.row + adjoint(d * self.row))
        if kind_of(d) == "c":
            x = x + ratio(1j * diagonal_matrix(diagonal(d).imag), self.row)
        y = self.turn(d * self.column + adjoint(d * self.column))
        left = t @ self.v
        right = adjoint(t) @ self.u
        du = self.u @ x + ratio(left - self.u @ (uh @ left), self.row)
        dv = self.v @ y + ratio(right - self.v @ (vh @ right), self.row)
        if self.u_rest.shape[-1]:
            du = np.concatenate([du, -self.u @ (adjoint(du) @ self.u_rest)], axis=-1)
        if self.v_rest.shape[-1]:
            dv = np.concatenate([dv, -self.v @ (adjoint(dv) @ self.v_rest)], axis=-1)
        return du, diagonal(d).real, adjoint(dv)

    def pull(self, g):
        gu, gs, gvh = g
        total = None if gs is None else self.u @ diagonal_matrix(gs) @ adjoint(self.v)
        for term in (None if gu is None else self.pull_left(gu),
                     None if gvh is None else self.pull_right(adjoint(gvh))):
            if term is not None:
                total = term if total is None else total + term
        return total

    def pull_left(self, g):
        g, g_rest = g[..., :self.k], g[..., self.k:]
        if g_rest.shape[-1]:
            g = g - self.u_rest @ (adjoint(g_rest) @ self.u)
        inner = adjoint(self.u) @ g
        # The gap is antisymmetric: what counts is the antisymmetric part, and that vanishes exactly with it.
        turn = self.turn(inner - adjoint(inner))
        core = turn * self.row
        if kind_of(inner) == "c":
            core = core + ratio(1j * diagonal_matrix(diagonal(inner).imag), self.row)
        return (self.u @ core + ratio(g - self.u @ inner, self.row)) @ adjoint(self.v)

    def pull_right(self, g):
        g, g_rest = g[..., :self.k], g[..., self.k:]
        if g_rest.shape[-1]:
            g = g - self.v_rest @ (adjoint(g_rest) @ self.v)
        inner = adjoint(self.v) @ g
        turn = self.turn(inner - adjoint(inner))
        off = ratio(g - self.v @ inner, self.row)
        return self.u @ (self.column * turn @ adjoint(self.v) + adjoint(off))


@structural(np.linalg.svd, operands=("a",), reads=("a", "out"))
def svd_rule(a, full_matrices=True, compute_uv=True, hermitian=False):
    if hermitian:
        refuse("np.linalg.svd", "hermitian=True", "leave it out, or use np.linalg.eigh")
    if not compute_uv:
        return singular_values(a)
    result = np.linalg.svd(a, full_matrices)
    u, s, vh = result
    return result, lambda k: ((lambda t: SVD(u, s, vh).push(t)), (lambda g: SVD(u, s, vh).pull(g)))


@structural(np.linalg.svdvals, operands=("x",), reads=("x",))
def svdvals_rule(x):
    return singular_values(x)


def singular_values(a):
    def vectors():
        u, s, vh = np.linalg.svd(a, full_matrices=False)
        apart(a, s, "np.linalg.svd")
        return u, vh

    def push(t):
        u, vh = vectors()
        return diagonal(adjoint(u) @ t @ adjoint(vh)).real

    def pull(g):
        u, vh = vectors()
        return (u * g[..., None, :]) @ vh

    return np.linalg.svd(a, compute_uv=False), lambda k: (push, pull)


# ----------------------------------------------------------------------------------------------------------------------
# Norms

def shared(x, best, axes):
    """1 over the number of ties where ``x`` is the best along ``axes``, 0 elsewhere."""
    wins = np.equal(x, best)
    return wins / np.maximum(np.add.reduce(wins, axis=axes, keepdims=True), 1).astype(real_dtype(best.dtype))


def euclidean(ord, axes):
    return ord is None or ord == "fro" or (ord == 2 and len(axes) == 1)


def norm_weights(x, norm, ord, axes):
    """The direction in which the norm grows: ``d norm = Re sum(conj(weights) dx)``. 0 where the norm is 0."""
    if euclidean(ord, axes):
        flat = np.equal(norm, 0)
        return np.where(flat, 0, x) / np.where(flat, 1, norm) if flat.any() else x / norm
    if len(axes) == 1:
        size = np.abs(x)
        if ord == 0:
            return x * 0
        if ord in (np.inf, -np.inf):
            return np.sign(x) * shared(size, norm, axes)
        if ord == 1:
            return np.sign(x)
        flat = np.equal(norm, 0) | np.equal(size, 0)
        return np.sign(x) * np.where(flat, 0, np.where(flat, 1, size) / np.where(flat, 1, norm)) ** (ord - 1)
    row, column = axes
    if ord in (1, -1, np.inf, -np.inf):
        along, across = (row, column) if abs(ord) == 1 else (column, row)
        sums = np.add.reduce(np.abs(x), axis=along, keepdims=True)
        return np.sign(x) * shared(sums, norm, across)
    u, s, vh = np.linalg.svd(np.moveaxis(x, axes, (-2, -1)), full_matrices=False)
    if ord == "nuc":
        chosen = np.greater(s, 0).astype(s.dtype)
    else:
        chosen = shared(s, (np.max if ord == 2 else np.min)(s, axis=-1, keepdims=True), -1)
        chosen = np.where(np.equal(s, 0), 0, chosen)
    return np.moveaxis((u * chosen[..., None, :]) @ vh, (-2, -1), axes)


@structural(np.linalg.norm, operands=("x",), reads=("x", "out"))
def norm_rule(x, ord=None, axis=None, keepdims=False):
    result = np.linalg.norm(x, ord, axis, keepdims)
    shape = shape_of(x)
    ndim = len(shape)
    whole = axis is None and (ord is None or ndim == 0)
    axes = axes_of(axis, ndim)
    if axis is not None and not isinstance(axis, tuple) and not hasattr(axis, "__index__"):
        axes = axes_of(tuple(axis), ndim)
    shape_kept = kept(shape, axes)
    used = None if whole else ord
    shape_out = result.shape

    def weights():
        return norm_weights(x, np.reshape(result, shape_kept), used, axes)

    def push(t):
        return np.reshape(np.add.reduce((conj(weights()) * t).real, axis=axes), shape_out)

    def pull(g):
        value, g = np.reshape(result, shape_kept), np.reshape(g, shape_kept)
        if euclidean(used, axes):
            # One array of the size of x instead of two; not where 1/norm is too large for a number.
            scale = g / np.where(np.equal(value, 0), 1, value)
            if np.all(np.isfinite(scale)):
                return x * np.where(np.equal(value, 0), 0, scale)
        return weights() * g

    return result, lambda k: (push, pull)


@structural(np.linalg.cond, operands=("x",), reads=("x", "out"))
def cond_rule(x, p=None):
    """``norm(x, p) * norm(inv(x), p)``; for p of None, 2 and -2 the ratio of the outer singular values."""
    result = np.linalg.cond(x, p)
    shape = result.shape
    axes = (x.ndim - 2, x.ndim - 1)

    def weights():
        value = np.reshape(result, (*shape, 1, 1))
        if p in (None, 2, -2):
            u, s, vh = np.linalg.svd(x, full_matrices=False)
            largest, smallest = (0, -1) if p != -2 else (-1, 0)
            top, bottom = (u[..., :, i, None] * vh[..., i, None, :] for i in (largest, smallest))
            return (top - value * bottom) / s[..., smallest, None, None]
        inverse = np.linalg.inv(x)
        norms = [np.linalg.norm(m, p, axes, True) for m in (x, inverse)]
        growth = adjoint(inverse) @ norm_weights(inverse, norms[1], p, axes) @ adjoint(inverse)
        return norms[1] * norm_weights(x, norms[0], p, axes) - norms[0] * growth

    def push(t):
        return np.add.reduce((conj(weights()) * t).real, axis=axes)

    def pull(g):
        # Some versions of NumPy give the condition of a complex matrix a complex type.
        return weights() * np.reshape(g.real, (*shape, 1, 1))

    return result, lambda k: (push, pull)
