"""Other libraries: their functions inside differentiated NumPy code, and differentiated NumPy code inside their graphs.

`cyad.interop.torch`, `cyad.interop.jax` and `cyad.interop.autograd` are imported by name, or when they are first looked
up, and only they import the library that they are about: ImportError where it is not installed. Adjoints are exchanged
by value: each library differentiates its own part.
"""
import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyad.interop import autograd as autograd
    from cyad.interop import jax as jax
    from cyad.interop import torch as torch
else:
    _LAZY = ("autograd", "jax", "torch")

    def __getattr__(name):
        if name in _LAZY:
            return importlib.import_module(f"cyad.interop.{name}")
        raise AttributeError(f"module 'cyad.interop' has no attribute {name!r}", name=name, obj=sys.modules[__name__])
