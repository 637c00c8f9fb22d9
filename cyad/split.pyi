from collections.abc import Callable
from typing import Any, Literal, final

from cyad.activity import Annotation, Const, Mode

@final
class SplitTape:
    @property
    def nbytes(self) -> int: ...

def autodiff_thunk(
    mode: Mode[Literal[False], Any], f: Callable[..., Any] | Const[Callable[..., Any]],
    returned: type[Annotation[Any]] | None = None, *activities: type[Annotation[Any]],
) -> tuple[Callable[..., tuple[SplitTape, Any, Any]], Callable[..., tuple[tuple[Any, ...]]]]: ...
