"""The wave equation in two dimensions: three time levels in one array, used in turn, and a damped rim."""
import numpy as np

SIZES = 7, 30
ACTIVE = 0, 1


def laplacian(u, out):
    out[...] = -4.0 * u
    out[1:, :] += u[:-1, :]
    out[:-1, :] += u[1:, :]
    out[:, 1:] += u[:, :-1]
    out[:, :-1] += u[:, 1:]
    return out


def program(speed, pulse, steps):
    n = speed.shape[0]
    field = np.zeros((3, n, n))
    scratch = np.empty((n, n))
    c2 = 0.25 * speed**2
    damping = np.ones((n, n))
    damping[[0, -1], :] *= 0.9
    damping[:, [0, -1]] *= 0.9
    trace = np.zeros(steps)
    for t in range(steps):
        old, now, new = field[(t - 1) % 3], field[t % 3], field[(t + 1) % 3]
        np.multiply(c2, laplacian(now, scratch), out=new)
        new += 2.0 * now
        new -= old
        new *= damping
        if t < len(pulse):
            new[n // 2, n // 2] += pulse[t]
        trace[t] = new[1, n // 3]
    return np.sum(trace**2) + np.sum(field[steps % 3] ** 2)


def arguments(n):
    rng = np.random.default_rng(6)
    return 1.0 + 0.2 * rng.uniform(size=(n, n)), np.array([0.2, 1.0, -0.7, 0.1]), 3 * n
