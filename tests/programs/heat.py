"""Heat in a plate: a five-point stencil between two buffers that change places, with a source that moves."""
import numpy as np

SIZES = 6, 24
ACTIVE = 0, 1


def program(u0, diffusivity, steps):
    u = np.array(u0)
    new = np.empty_like(u)
    n = u.shape[0]
    for step in range(steps):
        new[1:-1, 1:-1] = u[1:-1, 1:-1] + diffusivity * (
            u[2:, 1:-1] + u[:-2, 1:-1] + u[1:-1, 2:] + u[1:-1, :-2] - 4.0 * u[1:-1, 1:-1])
        new[0, :] = new[1, :]
        new[-1, :] = new[-2, :]
        new[:, 0] = 0.0
        new[:, -1] = 0.0
        new[n // 2, 1 + step % (n - 2)] += 0.5
        u, new = new, u
    return np.mean(u**2) + u.max()


def arguments(n):
    return np.random.default_rng(5).normal(size=(n, n)), 0.2, 4 * n
