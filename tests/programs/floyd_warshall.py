"""Shortest paths between all pairs by Floyd and Warshall, over floats, in a copy of the table of direct ways."""
import numpy as np

SIZES = 6, 16
ACTIVE = (0,)


def program(direct):
    distance = direct.copy()
    np.fill_diagonal(distance, 0.0)
    n = distance.shape[0]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                through = distance[i, k] + distance[k, j]
                if through < distance[i, j]:
                    distance[i, j] = through
    return np.sum(np.sqrt(distance[~np.eye(n, dtype=bool)]))


def arguments(n):
    return (np.random.default_rng(17).uniform(0.2, 5.0, size=(n, n)),)
