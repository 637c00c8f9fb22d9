"""Types of code without derivatives."""
from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")

def inactive(f: _F) -> _F: ...
def ignore_derivatives(x: _T) -> _T: ...
