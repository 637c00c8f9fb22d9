"""What existing code pays for being redirected: outside differentiated calls, and on plain arrays inside."""
import statistics

import numpy as np

import cyad
from cyad import _redirect

from .common import _Compared, seconds

OUTSIDE = ["math.sin(0.5)", "np.zeros(3)", "np.sin(a)", "np.ndarray(3)", "0.5 * a", "a[1]", "a[[1, 2]]", "a.sum()"]
TRACKED = ["0.5 * X", "np.sin(X)", "X[PICK]", "X.sum(axis=0)", "rng.normal(size=3)", "np.sin(0.5 * X) + 1.0"]
PLAIN = ["X[0]", "np.dot(Y, Y)", "PICK + PICK"]


def _loop(statement, names):
    exec("import math\nimport numpy as np\ndef f(x):\n    for _ in range(1000):\n"
         f"        {statement}\n    return x * x", names)
    return names["f"]


class Outside:
    """A statement with cyad imported, over the same with the redirections taken out, in turn."""

    params = [OUTSIDE]
    param_names = ["statement"]

    def setup(self, statement):
        self.f = _loop(statement, {"a": np.ones(3)})
        self.f(1.0)

    def track_ratio(self, statement, pairs=51):
        def off():
            saved = _redirect.restore_all()
            try:
                return self.seconds()
            finally:
                _redirect.reinstall(saved)
        return statistics.median(self.seconds() / off() for _ in range(pairs))
    track_ratio.unit = "times the statement without"

    def seconds(self):
        return min(seconds(lambda: self.f(1.0)) for _ in range(5))


class Captured(_Compared):
    """A statement on plain arrays a thousand times inside a call; no array of these is differentiated."""

    params = [TRACKED + PLAIN, [3, 1000]]
    param_names = ["statement", "n"]

    def setup(self, statement, n):
        f = _loop(statement, {"X": np.linspace(0.0, 1.0, 4 * n).reshape(n, 4), "Y": np.ones(n),
                              "PICK": np.arange(n) // 2, "rng": np.random.default_rng(0)})
        self.plain = lambda: f(2.0)
        self.derivative = lambda: cyad.gradient(cyad.Reverse, f, 2.0)
