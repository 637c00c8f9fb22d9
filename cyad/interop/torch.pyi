"""Types of the adapters to PyTorch. Its own are not imported: it may not be there."""
from collections.abc import Callable
from typing import Any

__all__ = ["to_torch"]

def to_torch(f: Callable[..., Any]) -> Callable[..., Any]: ...
