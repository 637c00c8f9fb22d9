"""NumPy, whose creation functions make arrays that can hold active values inside a differentiated call.

``import cyad.numpy as np`` is NumPy in every other respect. Code that imports NumPy itself gets the same by redirection
of the C functions behind the names (docs/existing-code.md), installed when cyad is imported; ``CYAD_REDIRECT=0`` in the
environment turns that off, and then this module is the way.

Outside a differentiated call every function here is NumPy's own. Float and complex arrays only: integer and boolean
ones stay plain. Thread safety: the current call is thread-local.
"""
import numpy as _numpy
from numpy import *  # noqa: F403

from cyad._creation import CREATORS as _CREATORS

globals().update(_CREATORS)


def __getattr__(name):
    return getattr(_numpy, name)
