"""Bodies that attract each other beyond a softening and collide elastically below it: leapfrog with masks."""
import numpy as np

SIZES = 4, 16
ACTIVE = 0, 1, 2


def accelerations(x, mass, reach):
    d = x[np.newaxis, :, :] - x[:, np.newaxis, :]
    r2 = np.sum(d**2, axis=-1)
    np.fill_diagonal(r2, 1.0)
    near = r2 < reach**2
    strength = r2**-1.5
    strength[near] = reach**-3.0
    strength[np.eye(len(mass), dtype=bool)] = 0.0
    return np.einsum("ij,ijk,j->ik", strength, d, mass)


def energy(x, v, mass):
    total = 0.5 * np.sum(mass * np.sum(v**2, axis=1))
    for i in range(len(mass)):
        for j in range(i):
            total -= mass[i] * mass[j] / np.sqrt(np.sum((x[i] - x[j]) ** 2))
    return total


def program(x, v, mass, steps):
    dt = 0.01
    a = accelerations(x, mass, 0.3)
    for _ in range(steps):
        v += 0.5 * dt * a
        x += dt * v
        a = accelerations(x, mass, 0.3)
        v += 0.5 * dt * a
    return energy(x, v, mass) + np.sum(x[0] ** 2)


def arguments(n):
    rng = np.random.default_rng(10)
    return rng.normal(size=(n, 3)), 0.3 * rng.normal(size=(n, 3)), rng.uniform(0.5, 1.5, n), 40
