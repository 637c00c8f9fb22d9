"""Heat in a plate, by explicit finite differences in place. A program of its own: it knows nothing of derivatives."""
import numpy as np


class Plate:
    """A square plate of n x n cells whose conductivity differs from cell to cell; its rim is held at 0."""

    def __init__(self, conductivity, dt=0.2):
        self.c = conductivity
        self.dt = dt

    def advance(self, u, new):
        """One time step from u into new: the flux through a face takes the mean conductivity of its two cells."""
        c = self.c
        down = 0.5 * (c[1:, 1:-1] + c[:-1, 1:-1]) * (u[1:, 1:-1] - u[:-1, 1:-1])
        right = 0.5 * (c[1:-1, 1:] + c[1:-1, :-1]) * (u[1:-1, 1:] - u[1:-1, :-1])
        new[1:-1, 1:-1] = u[1:-1, 1:-1]
        new[1:-1, 1:-1] += self.dt * (down[1:] - down[:-1])
        new[1:-1, 1:-1] += self.dt * (right[:, 1:] - right[:, :-1])

    def run(self, u0, steps):
        u = u0.copy()
        new = np.zeros_like(u)
        u[0, :] = u[-1, :] = 0.0
        u[:, 0] = u[:, -1] = 0.0
        for _ in range(steps):
            self.advance(u, new)
            u, new = new, u
        return u


def hot_spot(n):
    """A hot disc off the centre, 100 degrees at most."""
    y, x = np.mgrid[0:n, 0:n] / (n - 1)
    return 100.0 * np.exp(-60.0 * ((x - 0.4) ** 2 + (y - 0.6) ** 2))


def readings(u):
    """What a few sensors see: the mean over patches of 4 x 4 cells along the diagonal."""
    out = np.empty(u.shape[0] // 8)
    for k in range(out.shape[0]):
        i = 8 * k + 2
        out[k] = np.mean(u[i:i + 4, i:i + 4])
    return out


def misfit(conductivity, u0, measured, steps):
    """Half the squared distance between what the sensors would see and what they saw."""
    u = Plate(conductivity).run(u0, steps)
    return 0.5 * np.sum((readings(u) - measured) ** 2)
