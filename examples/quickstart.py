"""Differentiates examples/heat.py, an in-place PDE program that was not written for it, and fits a parameter with it.

    python examples/quickstart.py
"""
import statistics
import sys
import time

import heat
import numpy as np

import cyad

N, STEPS = 64, 100


def check(f, gradient, x, rng, directions=5, h=1e-4):
    """Largest relative difference from central differences (fourth order) along random directions."""
    worst = 0.0
    for _ in range(directions):
        v = rng.normal(size=x.shape)
        slope = (8 * (f(x + h * v) - f(x - h * v)) - (f(x + 2 * h * v) - f(x - 2 * h * v))) / (12 * h)
        worst = max(worst, abs(np.sum(gradient * v) - slope) / abs(slope))
    return worst


def time_ratio(slow, fast, repeats=15):
    """Median of t(slow) / t(fast), the two timed in turn."""
    def seconds(f):
        start = time.perf_counter()
        f()
        return time.perf_counter() - start
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(repeats))


def secant(slope, a, b, tolerance=1e-10, most=30):
    """A zero of the derivative: all that is needed to fit one number."""
    sa, sb = slope(a), slope(b)
    for step in range(1, most + 1):
        a, b, sa = b, b - sb * (b - a) / (sb - sa), sb
        sb = slope(b)
        print(f"    step {step}: scale {b:.10f}   derivative {sb: .1e}")
        if abs(b - a) < tolerance:
            break
    return b


def main():
    rng = np.random.default_rng(0)
    u0 = heat.hot_spot(N)
    truth = 0.8 + 0.2 * np.tanh(rng.normal(size=(N, N)))
    measured = heat.readings(heat.Plate(truth).run(u0, STEPS))

    def misfit(conductivity):
        return heat.misfit(conductivity, u0, measured, STEPS)

    # The derivative of one number with respect to the conductivity of every cell, from one call.
    guess = np.full((N, N), 0.6)
    (gradient,) = cyad.gradient(cyad.Reverse, misfit, guess)
    off = check(misfit, gradient, guess, rng)
    ratio = time_ratio(lambda: cyad.gradient(cyad.Reverse, misfit, guess), lambda: misfit(guess))
    print(f"misfit {misfit(guess):.6f}, its gradient: {gradient.size} derivatives")
    print(f"  finite differences along random directions differ by {off:.1e} at most")
    print(f"  the gradient takes {ratio:.2f} times as long as the plain run")

    # One number to fit: by what factor is the conductivity of the map off? Forward mode suits a single number.
    print("fit of the scale of the conductivity to the sensors, from a start at 0.7:")

    def slope(scale):
        return cyad.gradient(cyad.Forward, lambda s: misfit(s * (truth / 0.8)), scale)[0]

    scale = secant(slope, 0.7, 0.72)
    print(f"  scale {scale:.8f}, the measurement was made with 0.8")
    if not (off < 1e-6 and abs(scale - 0.8) < 1e-6):
        print("this is not what it should be")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
