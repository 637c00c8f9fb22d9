"""To a type checker, `cyad.numpy` is NumPy, from version 2.2 on, whose stubs say what `*` is."""
from numpy import *  # noqa: F403
