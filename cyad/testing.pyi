"""Types of the checks of derivatives."""
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cyad.activity import Annotation

__all__ = ["check_forward", "check_grads", "check_reverse"]

def check_forward(
    f: Callable[..., Any], RT: type[Annotation[Any]] | None, *pairs: tuple[Any, type[Annotation[Any]]],
    rtol: float | None = None, atol: float | None = None, step: float | None = None,
    rng: np.random.Generator | int | None = None, kwargs: dict[str, Any] | None = None, width: int = 2) -> None: ...
def check_reverse(
    f: Callable[..., Any], RT: type[Annotation[Any]] | None, *pairs: tuple[Any, type[Annotation[Any]]],
    rtol: float | None = None, atol: float | None = None, step: float | None = None,
    rng: np.random.Generator | int | None = None, kwargs: dict[str, Any] | None = None, width: int = 2) -> None: ...
def check_grads(
    f: Callable[..., Any], *args: Any, order: int = 2, modes: Sequence[Literal["forward", "reverse"]] = ...,
    widths: Sequence[int] = ..., rtol: float | None = None, atol: float | None = None, step: float | None = None,
    rng: np.random.Generator | int | None = None, kwargs: dict[str, Any] | None = None) -> None: ...
