"""Noise levels of a drifting signal by maximum likelihood: a Kalman filter that updates its state in place.

    python examples/kalman.py
"""
import math
import sys

import bfgs
import numpy as np

import cyad

N = 400
TRUTH = np.array([0.3, 0.02, 1.0])  # standard deviations: level, slope, measurement


class LocalTrend:
    """A level that moves by a slope that itself wanders; what is seen is the level with noise."""

    transition = np.array([[1.0, 1.0], [0.0, 1.0]])

    def __init__(self, level, slope, noise):
        self.q = np.zeros((2, 2))
        self.q[0, 0] = level**2
        self.q[1, 1] = slope**2
        self.r = noise**2
        self.state = np.zeros(2)
        self.covariance = np.eye(2) * 100.0

    def update(self, seen):
        """Minus the log density of what is seen, given all before it; the state moves on."""
        F = self.transition
        self.state[:] = F @ self.state
        self.covariance[...] = F @ self.covariance @ F.T
        self.covariance += self.q
        s = self.covariance[0, 0] + self.r
        gain = self.covariance[:, 0] / s
        residual = seen - self.state[0]
        self.state += gain * residual
        self.covariance -= np.outer(gain, self.covariance[0, :])
        return 0.5 * (np.log(2.0 * math.pi * s) + residual**2 / s)


def minus_log_likelihood(log_deviations, series):
    model = LocalTrend(*np.exp(log_deviations))
    total = 0.0
    for seen in series:
        total += model.update(seen)
    return total


def simulate(rng):
    level, slope, noise = TRUTH
    drift = np.cumsum(slope * rng.normal(size=N))
    return np.cumsum(drift + level * rng.normal(size=N)) + noise * rng.normal(size=N)


def main():
    series = simulate(np.random.default_rng(2))

    def objective(t):
        return minus_log_likelihood(t, series)

    def gradient(t):
        return cyad.gradient(cyad.Reverse, objective, t)[0]

    start = np.log(np.array([1.0, 0.1, 0.3]))
    best, value, iterations = bfgs.minimise(objective, gradient, start, tolerance=1e-4)
    print(f"minus log likelihood {objective(start):.3f} -> {value:.3f} in {iterations} iterations")
    for name, fitted, true in zip(("level", "slope", "measurement"), np.exp(best), TRUTH, strict=True):
        print(f"  {name:12s} {fitted:.4f}   (the series was made with {true})")
    return 0 if value <= objective(np.log(TRUTH)) and np.max(np.abs(gradient(best))) < 1e-3 else 1


if __name__ == "__main__":
    sys.exit(main())
