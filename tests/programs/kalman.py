"""Log likelihood of a tracked target under a Kalman filter with missing measurements."""
import math

import numpy as np

SIZES = 6, 60
ACTIVE = 0, 1, 2


def program(q, r, x0, seen):
    F = np.eye(4)
    F[0, 2] = F[1, 3] = 1.0
    H = np.zeros((2, 4))
    H[0, 0] = H[1, 1] = 1.0
    Q = np.zeros((4, 4))
    for axis in range(2):
        Q[axis, axis] = q / 3.0
        Q[axis, axis + 2] = Q[axis + 2, axis] = q / 2.0
        Q[axis + 2, axis + 2] = q
    x, P = x0.copy(), np.eye(4)
    log_likelihood = 0.0
    for z in seen:
        x = F @ x
        P = F @ P @ F.T + Q
        if np.isnan(z).any():
            continue
        S = H @ P @ H.T
        S[np.diag_indices(2)] += r**2
        det = S[0, 0] * S[1, 1] - S[0, 1] * S[1, 0]
        inverse = np.array([[S[1, 1], -S[0, 1]], [-S[1, 0], S[0, 0]]]) / det
        y = z - H @ x
        K = P @ H.T @ inverse
        x += K @ y
        P -= K @ H @ P
        log_likelihood -= 0.5 * (y @ inverse @ y + math.log(det) + 2.0 * math.log(2.0 * math.pi))
    return log_likelihood


def arguments(n):
    rng = np.random.default_rng(20)
    path = np.cumsum(np.cumsum(0.3 * rng.normal(size=(n, 2)), axis=0), axis=0)
    seen = path + 0.5 * rng.normal(size=(n, 2))
    seen[2::5] = np.nan
    return 0.1, 0.5, np.zeros(4), seen
