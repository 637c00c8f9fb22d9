"""Types of the adapters to JAX. Its own are not imported: it may not be there."""
from collections.abc import Callable
from typing import Any

__all__ = ["from_jax", "to_jax"]

def from_jax(fn: Callable[..., Any]) -> Callable[..., Any]: ...
def to_jax(f: Callable[..., Any], result: Any = None) -> Callable[..., Any]: ...
