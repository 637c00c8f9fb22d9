"""Derivatives written by hand in NumPy: what a person who knows the formulas gets, and the measure of what is possible.

Each takes a problem and returns a function of no arguments. Those of loops over elements are written without the loop
where the formulas allow it: hand-written code would be.
"""
import numpy as np

from peers.workloads import MLP, MLP_ENDS, STENCIL_STEPS


def rosenbrock_gradient(problem):
    x = problem.x

    def run():
        head = x[:-1]
        residual = x[1:] - head * head
        g = np.empty_like(x)
        g[0] = 0.0
        g[1:] = 200.0 * residual
        g[:-1] -= 400.0 * residual * head + 2.0 * (1.0 - head)
        return g
    return run


def rosenbrock_hvp(problem):
    x, v = problem.x, problem.v

    def run():
        head, off = x[:-1], -400.0 * x[:-1]
        out = np.zeros_like(x)
        out[:-1] = (1200.0 * head * head - 400.0 * x[1:] + 2.0) * v[:-1] + off * v[1:]
        out[1:] += 200.0 * v[1:] + off * v[:-1]
        return out
    return run


def rosenbrock_hessian(problem):
    x, at = problem.x, np.arange(problem.size - 1)

    def run():
        head, out = x[:-1], np.zeros((x.size, x.size))
        out[at, at] = 1200.0 * head * head - 400.0 * x[1:] + 2.0
        out[at + 1, at + 1] += 200.0
        out[at, at + 1] = out[at + 1, at] = -400.0 * head
        return out
    return run


def inplace_loop_gradient(problem):
    def run():
        x = problem.x.tolist()
        y = [x[0]]
        for i in range(1, len(x)):
            y.append(0.5 * y[-1] * x[i] + x[i] ** 2)
        g, adjoint = [0.0] * len(x), 1.0
        for i in range(len(x) - 1, 0, -1):
            g[i] = adjoint * (0.5 * y[i - 1] + 2.0 * x[i])
            adjoint = 1.0 + 0.5 * x[i] * adjoint
        g[0] = adjoint
        return np.array(g)
    return run


def chain_gradient(problem):
    def run():
        x, slopes = problem.x, []
        for _ in range(problem.size):
            slopes.append(np.cos(x) * 1.01)
            x = np.sin(x) * 1.01 + 0.1
        g = np.ones_like(x)
        for slope in reversed(slopes):
            g *= slope
        return g
    return run


def small_arrays_gradient(problem):
    (rows,), t = problem.data, problem.x

    def run():
        w1, b1, w2, b2 = t[:64].reshape(8, 8), t[64:72], t[72:136].reshape(8, 8), t[136:]
        g = np.zeros_like(t)
        dw1, db1, dw2, db2 = g[:64].reshape(8, 8), g[64:72], g[72:136].reshape(8, 8), g[136:]
        for row in rows:
            hidden = np.tanh(w1 @ row + b1)
            dy = 2.0 * (w2 @ hidden + b2)
            db2 += dy
            dw2 += dy[:, None] * hidden
            before = (dy @ w2) * (1.0 - hidden * hidden)
            db1 += before
            dw1 += before[:, None] * row
        return g
    return run


def mlp_gradient(problem):
    (X, Y), t, (d, h, k), (e1, e2, e3, e4) = problem.data, problem.x, MLP, MLP_ENDS

    def run():
        w1, b1, w2, b2 = t[:e1].reshape(d, h), t[e1:e2], t[e2:e3].reshape(h, k), t[e3:e4]
        hidden = np.tanh(X @ w1 + b1)
        logits = hidden @ w2 + b2
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        dlogits = (p - Y) / len(X)
        before = (dlogits @ w2.T) * (1.0 - hidden * hidden)
        return np.concatenate([(X.T @ before).ravel(), before.sum(axis=0), (hidden.T @ dlogits).ravel(),
                               dlogits.sum(axis=0)])
    return run


def logreg_gradient(problem):
    (X, y), w = problem.data, problem.x
    return lambda: (-y / (1.0 + np.exp(y * (X @ w)))) @ X / len(y)


def logreg_hvp(problem):
    (X, _), w, v = problem.data, problem.x, problem.v

    def run():
        p = 1.0 / (1.0 + np.exp(-(X @ w)))
        return (p * (1.0 - p) * (X @ v)) @ X / len(X)
    return run


def stencil_gradient(problem):
    def parts(a):
        return a[1:-1, 1:-1], a[1:-1, :-2], a[1:-1, 2:], a[2:, 1:-1], a[:-2, 1:-1]

    def smooth(a, b):
        centre, left, right, below, above = parts(a)
        b[1:-1, 1:-1] = 0.2 * (centre + left + right + below + above)

    def pull(da, db):
        weight = 0.2 * db[1:-1, 1:-1]
        db[1:-1, 1:-1] = 0.0
        for part in parts(da):
            part += weight

    def run():
        a, b = problem.x.copy(), problem.x.copy()
        for _ in range(STENCIL_STEPS):
            smooth(a, b)
            smooth(b, a)
        da, db = 2.0 * a, np.zeros_like(a)
        for _ in range(STENCIL_STEPS):
            pull(db, da)
            pull(da, db)
        return da + db
    return run


def dense_map_jacobian(problem):
    (A,), x, at = problem.data, problem.x, np.arange(problem.size)

    def run():
        t = np.tanh(A @ x)
        out = ((1.0 - t * t) * x)[:, None] * A
        out[at, at] += t + np.cos(x)
        return out
    return run


def broyden_jacobian(problem):
    x, at = problem.x, np.arange(problem.size)

    def run():
        out = np.zeros((x.size, x.size))
        out[at, at] = 3.0 - 4.0 * x
        out[at[1:], at[:-1]] = -1.0
        out[at[:-1], at[1:]] = -2.0
        return out
    return run


BY_HAND = {
    "rosen_loop": rosenbrock_gradient, "rosen_vec": rosenbrock_gradient, "hvp_loop": rosenbrock_hvp,
    "hess": rosenbrock_hessian, "inplace_loop": inplace_loop_gradient, "chain": chain_gradient,
    "small_arrays": small_arrays_gradient, "mlp": mlp_gradient, "logreg": logreg_gradient, "logreg_hvp": logreg_hvp,
    "stencil": stencil_gradient, "batch_jac": dense_map_jacobian, "jac_fwd": broyden_jacobian,
    "jac_rev": broyden_jacobian,
}
