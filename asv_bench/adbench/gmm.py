"""The log posterior of a Gaussian mixture, ADBench's objective, written twice: one component after another, in place,
and all of them at once in three-dimensional arrays.

Source of the objective and of the data: Srajer, Kukelova, Fitzgibbon, A benchmark of selected algorithmic
differentiation tools (2018).
"""
import math
from pathlib import Path

import numpy as np

import cyad


def read(path):
    """Weights (K), means (K, d), inverse covariance factors (K, d (d + 1) / 2), points (n, d), the prior (gamma, m)."""
    numbers = np.array(Path(path).read_text().split(), dtype=float)
    d, k, n = (int(v) for v in numbers[:3])
    sizes = [k, k * d, k * d * (d + 1) // 2, n * d]
    alphas, means, icf, x, prior = np.split(numbers[3:], np.cumsum(sizes))
    return alphas, means.reshape(k, d), icf.reshape(k, -1), x.reshape(n, d), (float(prior[0]), int(prior[1]))


def generate(n, d=10, k=25, seed=0):
    """Numbers like those of ADBench's files."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=k), rng.random((k, d)), rng.normal(size=(k, d * (d + 1) // 2)), rng.normal(size=(n, d)),
            (1.0, 0))


def logsumexp(a):
    top = np.max(a, axis=0)
    return top + np.log(np.sum(np.exp(a - top), axis=0))


def posterior(terms, alphas, norm2, log_determinants, d, prior):
    """Of the terms (K, n) of a point's log density, with the Wishart prior on the inverse covariances."""
    gamma, m = prior
    (k, n), dof = terms.shape, d + m + 1
    log_gamma_d = d * (d - 1) / 4 * math.log(math.pi) + sum(math.lgamma((dof + 1 - j) / 2) for j in range(1, d + 1))
    wishart = (0.5 * gamma**2 * norm2 - m * np.sum(log_determinants)
               - k * (dof * d * (math.log(gamma) - math.log(2) / 2) - log_gamma_d))
    return -n * d / 2 * math.log(2 * math.pi) + np.sum(logsumexp(terms)) - n * logsumexp(alphas) + wishart


def objective(alphas, means, icf, x, prior):
    (n, d), k = x.shape, len(alphas)
    log_determinants = np.sum(icf[:, :d], axis=1)
    terms, norm2 = np.zeros((k, n)), 0.0
    for c in range(k):
        factor, at = np.zeros((d, d)), d
        for j in range(d):
            factor[j, j] = np.exp(icf[c, j])
            factor[j + 1:, j] = icf[c, at:at + d - 1 - j]  # the strict lower triangle comes column by column
            at += d - 1 - j
        whitened = (x - means[c]) @ factor.T
        norm2 += np.sum(factor**2)
        terms[c, :] = alphas[c] + log_determinants[c] - 0.5 * np.sum(whitened**2, axis=1)
    return posterior(terms, alphas, norm2, log_determinants, d, prior)


def objective_at_once(alphas, means, icf, x, prior):
    d, k = x.shape[1], len(alphas)
    diagonal = np.arange(d)
    columns, rows = np.triu_indices(d, 1)
    factors = np.zeros((k, d, d))
    factors[:, diagonal, diagonal] = np.exp(icf[:, :d])
    factors[:, rows, columns] = icf[:, d:]
    log_determinants = np.sum(icf[:, :d], axis=1)
    whitened = np.matmul(x - means[:, None], factors.transpose(0, 2, 1))
    terms = (alphas + log_determinants)[:, None] - 0.5 * np.sum(whitened**2, axis=2)
    return posterior(terms, alphas, np.sum(factors**2), log_determinants, d, prior)


def gradient(f, alphas, means, icf, x, prior):
    """Of one of the two, by the parameters (alphas, means, icf), and its value."""
    return cyad.gradient(cyad.ReverseWithPrimal, f, alphas, means, icf, cyad.Const(x), cyad.Const(prior))
