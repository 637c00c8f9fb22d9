"""Reading and writing parts of an array: elements, slices, lists of indices, masks; views and copies."""
import numpy as np

from .common import _ReverseGradient

N = 10_000
AT = np.random.default_rng(11).integers(0, N, size=N)
MASK = np.random.default_rng(12).random(N) < 0.5


def elements(x):
    s = 0.0
    for i in range(0, N, 10):
        s += x[i] * x[i - 1]
    return s


def slices(x):
    s = 0.0
    for i in range(0, N, 100):
        s += np.sum(x[i:i + 100] * x[i:i + 100])
    return s


def stores(x):
    y = np.zeros(N)
    y[AT] = x * x
    y[MASK] *= 2.0
    y[::2] += x[1::2]
    return np.sum(y)


def scattered(x):
    y = np.zeros(N)
    np.add.at(y, AT, x * x)
    return np.sum(y * y)


ACCESSES = {
    "elements": elements, "slices": slices, "stores": stores, "add.at": scattered,
    "list": lambda x: np.sum(x[AT] * x),
    "mask": lambda x: np.sum(x[MASK] ** 2),
    "where": lambda x: np.sum(np.where(MASK, x, x * x)),
    "strides": lambda x: np.sum(x[::3] * x[::-3][:x[::3].size]),
    "transposed": lambda x: np.sum(x.reshape(100, 100).T * x.reshape(100, 100)),
}


class Indexing(_ReverseGradient):

    params = [list(ACCESSES)]
    param_names = ["access"]

    def setup(self, access):
        self.f, self.args = ACCESSES[access], (np.random.default_rng(13).normal(size=N),)
