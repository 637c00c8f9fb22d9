"""Products of vectors and matrices, in stacks and by subscripts, and what is solved with them."""
import numpy as np

from .common import _ReverseGradient

PRODUCTS = {
    "dot":            (lambda a, b: np.dot(a[0], b[0]), (200, 200), (200, 200)),
    "matrix vector":  (lambda a, b: np.sum(a @ b[0]), (200, 200), (200, 200)),
    "matrix matrix":  (lambda a, b: np.sum(a @ b), (200, 200), (200, 200)),
    "small stack":    (lambda a, b: np.sum(a @ b), (500, 4, 4), (500, 4, 4)),
    "einsum":         (lambda a, b: np.sum(np.einsum("bij,bkj->bik", a, b)), (50, 20, 20), (50, 20, 20)),
    "outer":          (lambda a, b: np.sum(np.outer(a[0], b[0])), (200, 200), (200, 200)),
    "solve":          (lambda a, b: np.sum(np.linalg.solve(a + 50.0 * np.eye(200), b)), (200, 200), (200, 200)),
    "inv and det":    (lambda a, b: np.linalg.slogdet(a @ b)[1] + np.sum(np.linalg.inv(b)), (50, 50), (50, 50)),
}


def first_row(shape, row):
    out = np.zeros(shape)
    out[0] = row
    return out


def solved(a, b):
    a = a + 50.0 * np.eye(200)
    x, y = np.linalg.solve(a, b), np.linalg.solve(a.T, np.ones_like(b))
    return -y @ x.T, y


def inverted(a, b):
    inverse = np.linalg.inv(b).T
    return np.linalg.inv(a).T, inverse - np.outer(inverse.sum(axis=1), inverse.sum(axis=0))


BY_HAND = {
    "dot":            lambda a, b: (first_row(a.shape, b[0]), first_row(b.shape, a[0])),
    "matrix vector":  lambda a, b: (np.tile(b[0], (len(a), 1)), first_row(b.shape, a.sum(axis=0))),
    "matrix matrix":  lambda a, b: (np.ones_like(a) * b.sum(axis=1), np.ones_like(b) * a.sum(axis=0)[:, None]),
    "small stack":    lambda a, b: (np.ones_like(a) * b.sum(axis=2)[:, None],
                                    np.ones_like(b) * a.sum(axis=1)[:, :, None]),
    "einsum":         lambda a, b: (np.ones_like(a) * b.sum(axis=1)[:, None], np.ones_like(b) * a.sum(axis=1)[:, None]),
    "outer":          lambda a, b: (first_row(a.shape, b[0].sum()), first_row(b.shape, a[0].sum())),
    "solve":          solved,
    "inv and det":    inverted,
}


class Products(_ReverseGradient):

    params = [list(PRODUCTS)]
    param_names = ["product"]

    def setup(self, product):
        rng = np.random.default_rng(10)
        self.f, *shapes = PRODUCTS[product]
        self.args = tuple(rng.normal(size=s) for s in shapes)
        self.by_hand = lambda: BY_HAND[product](*self.args)
