"""Rates of a predator-prey model from noisy counts: an ODE solver in plain Python floats, fitted by its gradient.

    python examples/lotka_volterra.py
"""
import sys

import bfgs
import numpy as np

import cyad

TRUTH = np.array([1.1, 0.4, 0.4, 0.1])  # growth, predation, death, reproduction
H, STEPS, EVERY = 0.02, 800, 40


def derivative(x, y, a, b, c, d):
    return a * x - b * x * y, d * x * y - c * y


def simulate(rates, start=(10.0, 5.0)):
    """Prey and predators at every EVERY-th step, by classical Runge-Kutta."""
    a, b, c, d = rates
    x, y = start
    seen = np.empty((STEPS // EVERY, 2))
    for step in range(1, STEPS + 1):
        k1, l1 = derivative(x, y, a, b, c, d)
        k2, l2 = derivative(x + 0.5 * H * k1, y + 0.5 * H * l1, a, b, c, d)
        k3, l3 = derivative(x + 0.5 * H * k2, y + 0.5 * H * l2, a, b, c, d)
        k4, l4 = derivative(x + H * k3, y + H * l3, a, b, c, d)
        x += H / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        y += H / 6.0 * (l1 + 2.0 * l2 + 2.0 * l3 + l4)
        if step % EVERY == 0:
            seen[step // EVERY - 1] = x, y
    return seen


def main():
    rng = np.random.default_rng(0)
    counts = simulate(TRUTH) * np.exp(0.05 * rng.normal(size=(STEPS // EVERY, 2)))

    def misfit(log_rates):
        return np.sum((np.log(simulate(np.exp(log_rates))) - np.log(counts)) ** 2)

    def gradient(log_rates):
        return cyad.gradient(cyad.Reverse, misfit, log_rates)[0]

    start = np.log(TRUTH * np.array([1.1, 0.9, 1.1, 0.9]))
    best, value, iterations = bfgs.minimise(misfit, gradient, start, tolerance=1e-6)
    print(f"misfit {misfit(start):.4f} -> {value:.4f} in {iterations} iterations")
    for name, fitted, true in zip(("growth", "predation", "death", "reproduction"), np.exp(best), TRUTH, strict=True):
        print(f"  {name:13s} {fitted:.4f}   (the counts were made with {true})")
    return 0 if np.max(np.abs(np.exp(best) / TRUTH - 1.0)) < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
