"""k-means: assignments by argmin, centres as means over masks, until the assignments stay."""
import numpy as np

SIZES = (12, 2), (400, 6)
ACTIVE = 0, 1


def program(points, centres):
    labels = np.full(len(points), -1)
    while True:
        distances = np.empty((len(points), len(centres)))
        for k in range(len(centres)):
            distances[:, k] = ((points - centres[k]) ** 2).sum(axis=1)
        new = np.argmin(distances, axis=1)
        if np.array_equal(new, labels):
            break
        labels = new
        for k in range(len(centres)):
            mine = labels == k
            if mine.any():
                centres[k] = 0.9 * points[mine].mean(axis=0) + 0.1 * centres[k]
    spread = np.sqrt(distances[np.arange(len(points)), labels])
    return spread.mean() + 0.1 * np.linalg.norm(centres)


def arguments(size):
    n, k = size
    rng = np.random.default_rng(19)
    points = rng.normal(size=(n, 2)) * 0.4 + 2.0 * rng.normal(size=(k, 2))[np.arange(n) % k]
    return points, points[:k] + 0.1
