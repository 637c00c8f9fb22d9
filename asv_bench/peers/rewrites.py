"""Other source for libraries that cannot run the common one, and the cells that none of it makes possible.

autograd and JAX know no mutation: the stencil is written with concatenations for one and `.at[].set` for the other. XAD
has numbers only: array code becomes loops over lists.
"""
from peers.workloads import STENCIL_STEPS, rosenbrock_loop


def five_points(a):
    return 0.2 * (a[1:-1, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:] + a[2:, 1:-1] + a[:-2, 1:-1])


def stencil_of(write):
    """`write(np, frame, inner)`: the frame's border around the inner part, a new array."""
    def rewrite(problem, np):
        def f(a):
            b = a
            for _ in range(STENCIL_STEPS):
                b = write(np, b, five_points(a))
                a = write(np, a, five_points(b))
            return np.sum(a * a)
        return f
    return rewrite


def framed(np, frame, inner):
    rows = np.concatenate([frame[1:-1, :1], inner, frame[1:-1, -1:]], axis=1)
    return np.concatenate([frame[:1], rows, frame[-1:]], axis=0)


def rosenbrock_of_scalars(problem, np):
    return rosenbrock_loop(problem.size).source(np)


def chain_of_scalars(problem, np):
    def f(x):
        for _ in range(problem.size):
            x = [np.sin(z) * 1.01 + 0.1 for z in x]
        return sum(x)
    return f


def broyden_of_scalars(problem, np):
    last = problem.size - 1

    def f(x):
        return [(3.0 - 2.0 * z) * z - (x[i - 1] if i else 0.0) - 2.0 * (x[i + 1] if i < last else 0.0) + 1.0
                for i, z in enumerate(x)]
    return f


STENCIL_SET = stencil_of(lambda np, frame, inner: frame.at[1:-1, 1:-1].set(inner))
REWRITES = {
    ("stencil", "autograd"): stencil_of(framed),
    ("stencil", "jax"): STENCIL_SET, ("stencil", "jax jit"): STENCIL_SET,
    ("rosen_vec", "xad"): rosenbrock_of_scalars, ("chain", "xad"): chain_of_scalars,
    ("jac_fwd", "xad"): broyden_of_scalars, ("jac_rev", "xad"): broyden_of_scalars,
}

MUTATION, NUMBERS_ONLY = "the source writes into arrays", "has numbers, no arrays"
UNABLE = {
    **{("inplace_loop", name): MUTATION for name in ("autograd", "jax", "jax jit")},
    **{(name, "xad"): NUMBERS_ONLY for name in (
        "small_arrays", "mlp", "logreg", "stencil", "batch_jac", "hess", "hvp_loop", "logreg_hvp")},
    ("mlp", "casadi"): "does not broadcast", ("stencil", "casadi"): "has no two-dimensional graphs of this size",
}
