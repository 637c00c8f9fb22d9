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


def elements_by_hand(x):
    i, g = np.arange(0, N, 10), np.zeros(N)
    g[i], g[i - 1] = x[i - 1], x[i]
    return g


def stores_by_hand(x):
    last, g = np.full(N, -1), np.zeros(N)
    last[AT] = np.arange(N)
    last, weights = last[last >= 0], np.where(MASK, 2.0, 1.0)[last >= 0]
    g[last] = 2.0 * weights * x[last]
    g[1::2] += 1.0
    return g


def scattered_by_hand(x):
    y = np.zeros(N)
    np.add.at(y, AT, x * x)
    return 4.0 * x * y[AT]


def list_by_hand(x):
    g = x[AT]
    np.add.at(g, AT, x)
    return g


def strides_by_hand(x):
    g, n = np.zeros(N), x[::3].size
    g[::3] += x[::-3][:n]
    g[::-3][:n] += x[::3]
    return g


BY_HAND = {
    "elements": elements_by_hand, "slices": lambda x: 2.0 * x, "stores": stores_by_hand, "add.at": scattered_by_hand,
    "list": list_by_hand, "mask": lambda x: np.where(MASK, 2.0 * x, 0.0),
    "where": lambda x: np.where(MASK, 1.0, 2.0 * x), "strides": strides_by_hand,
    "transposed": lambda x: 2.0 * x.reshape(100, 100).T.ravel(),
}


class Indexing(_ReverseGradient):

    params = [list(ACCESSES)]
    param_names = ["access"]

    def setup(self, access):
        self.f, self.args = ACCESSES[access], (np.random.default_rng(13).normal(size=N),)
        self.by_hand = lambda: BY_HAND[access](*self.args)
