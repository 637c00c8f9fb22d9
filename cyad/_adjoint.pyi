"""Types of the carriers of reverse mode, and of the tape."""
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray

from cyad._context import Context
from cyad._tracked import DuckArray, TrackedScalar

_R = TypeVar("_R")

@final
class Adjoint(TrackedScalar): ...

@final
class AdjointArray(DuckArray):
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

class Tape(Context):
    def __new__(cls, title: object = None, strong: bool = False) -> Self: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __len__(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def call(self, f: Callable[..., _R], args: Sequence[Any], kwargs: Mapping[str, Any]) -> _R: ...
    @overload
    def variable(self, value: float | np.floating[Any]) -> Adjoint: ...  # type: ignore[overload-overlap,unused-ignore]
    @overload
    def variable(self, value: complex | np.inexact[Any] | NDArray[Any]) -> AdjointArray: ...
    @overload
    def gradient(self, of: object, with_respect_to: Adjoint) -> float: ...
    @overload
    def gradient(self, of: object, with_respect_to: AdjointArray) -> NDArray[Any]: ...
    @overload
    def gradient(self, of: object, with_respect_to: tuple[Any, ...]) -> tuple[Any, ...]: ...
