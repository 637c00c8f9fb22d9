"""Types of the adapter to HIPS/autograd. Its own are not imported: it may not be there."""
from collections.abc import Callable
from typing import Any

__all__ = ["from_autograd"]

def from_autograd(fn: Callable[..., Any]) -> Callable[..., Any]: ...
