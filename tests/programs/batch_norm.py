"""Batch normalisation with running statistics kept in the layer, between two dense layers."""
import numpy as np

SIZES = (6, 3), (6000, 16)
ACTIVE = 0, 1, 2, 3


class BatchNorm:
    def __init__(self, gamma, beta, momentum=0.9):
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.mean = np.zeros(gamma.shape)
        self.var = np.ones(gamma.shape)

    def __call__(self, x, training):
        if training:
            mean, var = x.mean(axis=0), x.var(axis=0)
            self.mean *= self.momentum
            self.mean += (1.0 - self.momentum) * mean
            self.var *= self.momentum
            self.var += (1.0 - self.momentum) * var
        else:
            mean, var = self.mean, self.var
        return self.gamma * (x - mean) / np.sqrt(var + 1e-5) + self.beta


def program(w1, w2, gamma, beta, x, targets):
    norm = BatchNorm(gamma, beta)
    half = len(x) // 2
    loss = 0.0
    for part, training in ((slice(0, half), True), (slice(half, None), True), (slice(None), False)):
        hidden = norm(x[part] @ w1, training)
        hidden = np.where(hidden > 0.0, hidden, 0.1 * hidden)
        loss += np.mean((hidden @ w2 - targets[part]) ** 2)
    return loss


def arguments(size):
    n, k = size
    rng = np.random.default_rng(16)
    return (rng.normal(size=(k, k)), rng.normal(size=k), rng.uniform(0.5, 1.5, k), rng.normal(size=k),
            rng.normal(size=(n, k)), rng.normal(size=n))
