"""Other libraries: their functions inside differentiated NumPy code, and differentiated NumPy code inside their graphs.

`cyad.interop.torch`, `cyad.interop.jax` and `cyad.interop.autograd` are imported by name, and only they import the
library that they are about. Adjoints are exchanged by value: each library differentiates its own part.
"""
