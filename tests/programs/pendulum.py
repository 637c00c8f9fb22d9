"""A double pendulum whose object keeps its state, advanced by Runge-Kutta."""
import numpy as np

SIZES = 5, 60
ACTIVE = 0, 1, 2


class DoublePendulum:
    gravity = 9.81

    def __init__(self, angles, lengths, masses):
        self.l1, self.l2 = lengths
        self.m1, self.m2 = masses
        self.state = np.concatenate([angles, np.zeros(2)])
        self.time = 0.0

    def rates(self, s):
        a, b, da, db = s
        m, d = self.m1 + self.m2, a - b
        scale = 2.0 * self.m1 + self.m2 - self.m2 * np.cos(2.0 * d)
        ds = np.zeros_like(s)
        ds[:2] = da, db
        ds[2] = (-self.gravity * ((2.0 * self.m1 + self.m2) * np.sin(a) + self.m2 * np.sin(a - 2.0 * b))
                 - 2.0 * np.sin(d) * self.m2 * (db**2 * self.l2 + da**2 * self.l1 * np.cos(d))) / (self.l1 * scale)
        ds[3] = 2.0 * np.sin(d) * (da**2 * self.l1 * m + self.gravity * m * np.cos(a)
                                   + db**2 * self.l2 * self.m2 * np.cos(d)) / (self.l2 * scale)
        return ds

    def step(self, h):
        k1 = self.rates(self.state)
        k2 = self.rates(self.state + 0.5 * h * k1)
        k3 = self.rates(self.state + 0.5 * h * k2)
        k4 = self.rates(self.state + h * k3)
        self.state += h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        self.time += h

    @property
    def tip(self):
        a, b = self.state[:2]
        return np.array([self.l1 * np.sin(a) + self.l2 * np.sin(b), -self.l1 * np.cos(a) - self.l2 * np.cos(b)])


def program(angles, lengths, masses, steps):
    pendulum = DoublePendulum(angles, lengths, masses)
    path = 0.0
    while pendulum.time < steps * 0.01 - 1e-9:
        before = pendulum.tip
        pendulum.step(0.01)
        path += np.linalg.norm(pendulum.tip - before)
    return path


def arguments(steps):
    return np.array([1.2, 0.4]), np.array([1.0, 0.7]), np.array([1.0, 0.5]), steps
