"""Types of the carriers of forward mode."""
from collections.abc import Sequence
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from cyad._tracked import DuckArray, TrackedScalar

@final
class Dual(TrackedScalar):
    def __new__(cls, primal: float | np.floating[Any], tangent: float | Sequence[float] | NDArray[Any]) -> Self: ...
    @property
    def tangent(self) -> Any: ...

@final
class DualArray(DuckArray):
    def __init__(self, primal: NDArray[Any], tangent: NDArray[Any] | Sequence[NDArray[Any]]) -> None: ...
    @property
    def tangent(self) -> Any: ...
