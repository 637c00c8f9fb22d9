"""Arguments that are dictionaries, lists and objects of numbers and arrays, beside the same numbers in one array."""
from dataclasses import dataclass

import numpy as np

import cyad

from .common import _ByHand, _Compared, _Taped


@dataclass
class Layer:
    w: np.ndarray
    b: np.ndarray
    scale: float


def network(layers, x):
    for layer in layers:
        x = layer["scale"] * np.tanh(layer["w"] @ x + layer["b"])
    return np.sum(x * x)


def network_of_objects(layers, x):
    for layer in layers:
        x = layer.scale * np.tanh(layer.w @ x + layer.b)
    return np.sum(x * x)


def gradient_by_hand(values, x):
    """Of both, by the numbers of the layers one after another."""
    layers, kept, g = [values[i:i + 3] for i in range(0, len(values), 3)], [], []
    for w, b, scale in layers:
        t = np.tanh(w @ x + b)
        kept.append((x, t))
        x = scale * t
    dx = 2.0 * x
    for (w, _, scale), (x, t) in zip(reversed(layers), reversed(kept), strict=True):
        db = scale * dx * (1.0 - t * t)
        g.append((db[:, None] * x, db, dx @ t))
        dx = db @ w
    return g[::-1]


class Structures(_Compared, _ByHand, _Taped):

    params = [["dictionaries", "dataclasses"], [2, 50]]
    param_names = ["kind", "layers"]

    def setup(self, kind, layers, k=16):
        rng = np.random.default_rng(18)
        make = dict if kind == "dictionaries" else Layer
        f = network if kind == "dictionaries" else network_of_objects
        net = [make(w=rng.normal(size=(k, k)) * 0.3, b=rng.normal(size=k), scale=0.9) for _ in range(layers)]
        x = rng.normal(size=k)
        self.net = net
        self.f = lambda *v: f([make(w=v[i], b=v[i + 1], scale=v[i + 2]) for i in range(0, len(v), 3)], x)
        self.args = [value for layer in net for value in (layer if make is dict else vars(layer)).values()]
        self.plain = lambda: f(net, x)
        self.derivative = lambda: cyad.gradient(cyad.Reverse, f, net, cyad.Const(x))[0]
        self.by_hand = lambda: gradient_by_hand(self.args, x)

    def time_make_zero(self, kind, layers):
        cyad.make_zero(self.net)

    def time_ravel(self, kind, layers):
        cyad.ravel(self.net)
