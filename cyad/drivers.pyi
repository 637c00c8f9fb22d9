"""Types of the drivers. What a Jacobian looks like depends on result and arguments, so its entries are Any."""
from collections.abc import Callable
from typing import Any, Literal, TypeVar, overload

from cyad.activity import Const, Mode
from cyad.api import WithPrimal

_A = TypeVar("_A")
_R = TypeVar("_R")
_Function = Callable[..., Any]

@overload
def jacobian(
    mode: Mode[Any, Literal[False]], f: _Function | Const[_Function], /, *args: Any,
    chunk: int | None = None, n_outs: int | tuple[int, ...] | None = None, out: Any = None, **kwargs: Any,
) -> tuple[Any, ...]: ...
@overload
def jacobian(
    mode: Mode[Any, Literal[True]], f: Callable[..., _R] | Const[Callable[..., _R]], /, *args: Any,
    chunk: int | None = None, n_outs: int | tuple[int, ...] | None = None, out: Any = None, **kwargs: Any,
) -> WithPrimal[tuple[Any, ...], _R]: ...
@overload
def jacobian(
    mode: Mode, f: _Function | Const[_Function], /, *args: Any,
    chunk: int | None = None, n_outs: int | tuple[int, ...] | None = None, out: Any = None, **kwargs: Any,
) -> Any: ...
def hvp(f: _Function | Const[_Function], x: _A, v: _A, /, *args: Any, out: Any = None, **kwargs: Any) -> _A: ...
def hvp_and_gradient(
    f: _Function | Const[_Function], x: _A, v: _A, /, *args: Any, out: tuple[Any, Any] = (None, None), **kwargs: Any,
) -> tuple[_A, _A]: ...
def hessian_at(
    f: _Function | Const[_Function], args: Any, kwargs: dict[str, Any], chunk: int | None = None, out: Any = None,
) -> tuple[Any, ...]: ...
