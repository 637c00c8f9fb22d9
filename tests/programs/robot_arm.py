"""Forward kinematics of a robot arm by homogeneous transformations, and how far its tip is from points to reach."""
from functools import reduce

import numpy as np

SIZES = (2, 3), (40, 6)
ACTIVE = 0, 1


def link(angle, length, twist):
    """Denavit and Hartenberg's matrix of one joint."""
    c, s = np.cos(angle), np.sin(angle)
    ct, st = np.cos(twist), np.sin(twist)
    return np.array([
        [c, -s * ct, s * st, length * c],
        [s, c * ct, -c * st, length * s],
        [0.0, st, ct, 0.1],
        [0.0, 0.0, 0.0, 1.0],
    ])


def tip(angles, lengths, twists):
    return reduce(np.matmul, [link(*joint) for joint in zip(angles, lengths, twists, strict=True)])[:3, 3]


def program(poses, lengths, twists, targets):
    cost = 0.0
    for angles, target in zip(poses, targets, strict=True):
        gap = tip(angles, lengths, twists) - target
        cost += np.hypot(np.hypot(gap[0], gap[1]), gap[2])
        cost += 0.01 * np.abs(np.diff(angles)).sum()
    return cost


def arguments(size):
    poses, joints = size
    rng = np.random.default_rng(21)
    return (rng.uniform(-2.0, 2.0, size=(poses, joints)), rng.uniform(0.5, 1.0, joints),
            rng.choice([0.0, np.pi / 2, -np.pi / 2], joints), rng.normal(size=(poses, 3)))
