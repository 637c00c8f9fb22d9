"""Gradient of a Gaussian mixture's log posterior, the benchmark of ADBench, on a file of its data.

    python examples/gmm.py DATAFILE

The objective is plain NumPy as one would write it to evaluate it. Where the file's folder has ADBench's own results
(reference.json), value and gradient are compared with them; the exit status is 1 when they disagree.
"""
import json
import math
import statistics
import sys
import time
from pathlib import Path

import numpy as np

import cyad

TOLERANCE = 1e-10  # relative to the value, and to the gradient's norm


def read(path):
    """Weights, means, inverse covariance factors, points, and the Wishart prior's (gamma, m)."""
    numbers = np.array(Path(path).read_text().split(), dtype=float)
    d, k, n = (int(v) for v in numbers[:3])
    sizes = [k, k * d, k * d * (d + 1) // 2, n * d]
    alphas, means, icf, x, prior = np.split(numbers[3:], np.cumsum(sizes))
    return alphas, means.reshape(k, d), icf.reshape(k, -1), x.reshape(n, d), (prior[0], int(prior[1]))


def logsumexp(a):
    top = np.max(a, axis=0)
    return top + np.log(np.sum(np.exp(a - top), axis=0))


def log_prior(icf_norms2, sum_log_diagonals, d, gamma, m):
    """Log density of a Wishart prior on the inverse covariances, from |L|^2 and the logarithm of det L."""
    k, dof = len(sum_log_diagonals), d + m + 1
    log_gamma_d = d * (d - 1) / 4 * math.log(math.pi) + sum(math.lgamma(dof / 2 + (1 - j) / 2) for j in range(1, d + 1))
    constant = dof * d * (math.log(gamma) - math.log(2) / 2) - log_gamma_d
    return 0.5 * gamma**2 * np.sum(icf_norms2) - m * np.sum(sum_log_diagonals) - k * constant


def gmm(alphas, means, icf, x, gamma, m):
    n, d = x.shape
    k = len(alphas)
    sum_log_diagonals = np.sum(icf[:, :d], axis=1)
    norms2 = np.zeros(k)
    terms = np.zeros((k, n))
    for c in range(k):
        factor = np.zeros((d, d))
        at = d
        for j in range(d):
            factor[j, j] = np.exp(icf[c, j])
            factor[j + 1:, j] = icf[c, at:at + d - 1 - j]  # the strict lower triangle comes column by column
            at += d - 1 - j
        whitened = (x - means[c]) @ factor.T
        norms2[c] = np.sum(factor**2)
        terms[c, :] = alphas[c] + sum_log_diagonals[c] - 0.5 * np.sum(whitened**2, axis=1)
    return (-n * d * 0.5 * math.log(2 * math.pi) + np.sum(logsumexp(terms)) - n * logsumexp(alphas)
            + log_prior(norms2, sum_log_diagonals, d, gamma, m))


def summary(array):
    """What reference.json keeps of an array; dot_cos tells permutations apart."""
    return {"sum": np.sum(array), "norm": np.linalg.norm(array),
            "dot_cos": np.dot(array, np.cos(np.arange(array.size))), "first": array[:10]}


def disagreement(value, gradient, reference):
    """The largest of the relative differences: of the value, and of each entry of the gradient's summary."""
    want = reference["derivative"]
    if gradient.size != want["size"]:
        raise SystemExit(f"the gradient has {gradient.size} entries, the reference {want['size']}")
    differences = [np.max(np.abs(got - np.asarray(want[name]))) for name, got in summary(gradient).items()]
    return max(abs(value - reference["value"]) / abs(reference["value"]), max(differences) / want["norm"])


def time_ratio(slow, fast, repeats=7):
    """Median of t(slow) / t(fast), the two timed in turn."""
    def seconds(f):
        start = time.perf_counter()
        f()
        return time.perf_counter() - start
    return statistics.median(seconds(slow) / seconds(fast) for _ in range(repeats))


def main(path):
    alphas, means, icf, x, (gamma, m) = read(path)

    def objective(alphas, means, icf):
        return gmm(alphas, means, icf, x, gamma, m)

    def gradient():
        return cyad.gradient(cyad.Reverse, objective, alphas, means, icf)

    def plain():
        return objective(alphas, means, icf)

    value, derivative = float(plain()), np.concatenate([g.ravel() for g in gradient()])
    print(f"value                        {value:.12g}")
    print(f"norm of the gradient         {np.linalg.norm(derivative):.12g}   ({derivative.size} entries)")
    print(f"time of gradient / of value  {time_ratio(gradient, plain):.2f}")

    references = Path(path).with_name("reference.json")
    if not references.exists():
        print("no reference.json beside the file: nothing to compare with")
        return 0
    off = disagreement(value, derivative, json.loads(references.read_text())[Path(path).stem])
    agrees = bool(off <= TOLERANCE)  # False for NaN too
    print(f"largest relative difference  {off:.1e}   ({'agrees' if agrees else 'DISAGREES'} with the reference)")
    return 0 if agrees else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
