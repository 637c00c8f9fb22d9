"""Types of the adapters to JAX. Its own are not imported: it may not be there."""
from collections.abc import Callable
from typing import Any

__all__ = ["to_jax"]

def to_jax(f: Callable[..., Any], result: Any = None) -> Callable[..., Any]: ...
