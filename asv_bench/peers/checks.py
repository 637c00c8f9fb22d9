"""Whether a derivative is right: by finite differences at a small size, by the other libraries at the timed one.

Differences of a loop of a thousand contractions, or of 10^7 terms, show nothing; so the timed result is compared by a
fingerprint, relative to its own norm.
"""
import numpy as np

SECOND_ORDER = ("hessian", "hvp")
TOLERANCE = {1: 1e-6, 2: 1e-4}   # of differences of first and of second order, relative
AGREEMENT = 1e-8                 # between libraries, relative to the norm


def difference_error(workload, problem, derivative):
    """|derivative along a random direction - central differences of the plain function| over the larger of the two's
    magnitude and a tenth of the derivative's norm."""
    f, x, derivative = problem.source(np), problem.x, np.asarray(derivative, dtype=float)
    rng = np.random.default_rng(7)
    u = rng.normal(size=x.shape)
    if workload.derivative in SECOND_ORDER:
        v, h = problem.v, 1e-3
        got = u @ (derivative @ v if workload.derivative == "hessian" else derivative)
        want = (f(x + h * (u + v)) - f(x + h * (u - v)) - f(x - h * (u - v)) + f(x - h * (u + v))) / (4.0 * h * h)
    else:
        weights, h = rng.normal(size=np.shape(f(x))) if derivative.ndim > x.ndim else 1.0, 1e-4
        along = weights @ derivative if workload.derivative.startswith("jacobian") else derivative.reshape(x.shape)
        got = np.sum(along * u)
        at = [np.sum(weights * f(x + k * h * u)) for k in (-2, -1, 1, 2)]
        want = (at[0] - 8.0 * at[1] + 8.0 * at[2] - at[3]) / (12.0 * h)
    return float(abs(got - want) / max(abs(got), abs(want), 0.1 * np.linalg.norm(derivative)))


def tolerance(workload):
    return TOLERANCE[2 if workload.derivative in SECOND_ORDER else 1]


def fingerprint(derivative):
    """The largest entry, and the norm and products with two waves relative to it: permutations and signs show, and what
    is small does not underflow when it is squared."""
    flat = np.asarray(derivative, dtype=float).ravel()
    largest, k = float(np.max(np.abs(flat))), np.arange(flat.size)
    flat = flat / largest
    return [largest, float(np.linalg.norm(flat)), float(flat @ np.cos(k)), float(flat @ np.sin(0.37 * k + 1.0))]


def agree(one, other):
    (largest, norm, *waves), (other_largest, other_norm, *other_waves) = one, other
    differences = [abs(largest / other_largest - 1.0),
                   *(abs(a - b) / norm for a, b in zip([norm, *waves], [other_norm, *other_waves], strict=True))]
    return all(d <= AGREEMENT for d in differences)  # False for nan, too
