"""Dynamic time warping between two series: the cheapest path through a table, filled element by element."""
import numpy as np

SIZES = 6, 60
ACTIVE = 0, 1


def program(a, b):
    n, m = len(a), len(b)
    cost = np.full((n + 1, m + 1), np.inf)
    cost[0, 0] = 0.0
    for i in range(1, n + 1):
        for j in range(max(1, i - n // 2), min(m, i + n // 2) + 1):
            gap = (a[i - 1] - b[j - 1]) ** 2
            cost[i, j] = gap + min(cost[i - 1, j], cost[i, j - 1], cost[i - 1, j - 1])
    return np.sqrt(cost[n, m])


def arguments(n):
    rng = np.random.default_rng(24)
    t = np.linspace(0.0, 6.0, n)
    return np.sin(t) + 0.1 * rng.normal(size=n), np.sin(1.1 * t + 0.4) + 0.1 * rng.normal(size=n + 1)[:-1]
