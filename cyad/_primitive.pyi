"""Types of functions that have rules; a primitive has the type of its function."""
from collections.abc import Callable
from typing import Any, TypeVar

_F = TypeVar("_F", bound=Callable[..., Any])

def primitive(f: _F) -> _F: ...
