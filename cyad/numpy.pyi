"""To a type checker, `cyad.numpy` is NumPy."""
from numpy import *  # noqa: F403
