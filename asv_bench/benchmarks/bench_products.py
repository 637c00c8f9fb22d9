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


class Products(_ReverseGradient):

    params = [list(PRODUCTS)]
    param_names = ["product"]

    def setup(self, product):
        rng = np.random.default_rng(10)
        self.f, *shapes = PRODUCTS[product]
        self.args = tuple(rng.normal(size=s) for s in shapes)
