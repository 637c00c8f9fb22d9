"""Types of what users call: by the mode, whether the value comes too; by the arguments, what their derivatives are."""
from collections.abc import Callable
from typing import Any, Generic, Literal, NamedTuple, TypeVar, TypeVarTuple, overload

from cyad.activity import Const, Mode

_D = TypeVar("_D")
_A = TypeVar("_A")
_B = TypeVar("_B")
_R = TypeVar("_R")
_Args = TypeVarTuple("_Args")
_Function = Callable[..., Any]

class WithPrimal(NamedTuple, Generic[_D, _R]):
    derivs: _D
    val: _R

@overload
def autodiff(  # a return that is Const
    mode: Mode[Literal[True], Literal[False]], f: _Function | Const[_Function],
    returned: type[Const[Any]], /, *args: Any, **kwargs: Any) -> tuple[()]: ...
@overload
def autodiff(
    mode: Mode[Literal[True], Literal[True]], f: Callable[..., _R] | Const[Callable[..., _R]],
    returned: type[Const[Any]], /, *args: Any, **kwargs: Any) -> tuple[_R]: ...
@overload
def autodiff(
    mode: Mode[Literal[True], Literal[False]], f: _Function | Const[_Function],
    *args: Any, **kwargs: Any) -> tuple[Any, ...]: ...
@overload
def autodiff(
    mode: Mode[Literal[True], Literal[True]], f: Callable[..., _R] | Const[Callable[..., _R]],
    *args: Any, **kwargs: Any) -> tuple[Any, _R]: ...
@overload
def autodiff(
    mode: Mode[Literal[False], Literal[False]], f: _Function | Const[_Function],
    *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...]]: ...
@overload
def autodiff(
    mode: Mode[Literal[False], Literal[True]], f: Callable[..., _R] | Const[Callable[..., _R]],
    *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], _R]: ...
@overload
def autodiff(
    mode: Mode, f: _Function | Const[_Function], *args: Any, **kwargs: Any) -> tuple[Any, ...]: ...

@overload
def gradient(  # None stands where an argument is Const
    mode: Mode[Any, Literal[False]], f: _Function, x: Const[Any], y: _B, /,
    *, chunk: int | None = None, out: Any = None, **kwargs: Any) -> tuple[None, _B]: ...
@overload
def gradient(
    mode: Mode[Any, Literal[False]], f: _Function, x: _A, y: Const[Any], /,
    *, chunk: int | None = None, out: Any = None, **kwargs: Any) -> tuple[_A, None]: ...
@overload
def gradient(
    mode: Mode[Any, Literal[True]], f: Callable[..., _R], x: Const[Any], y: _B, /,
    *, chunk: int | None = None, out: Any = None, **kwargs: Any) -> WithPrimal[tuple[None, _B], _R]: ...
@overload
def gradient(
    mode: Mode[Any, Literal[True]], f: Callable[..., _R], x: _A, y: Const[Any], /,
    *, chunk: int | None = None, out: Any = None, **kwargs: Any) -> WithPrimal[tuple[_A, None], _R]: ...
@overload
def gradient(  # with three arguments and more there are too many cases to tell
    mode: Mode, f: _Function, x: Const[Any], y: Any, z: Any, /, *args: Any,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> Any: ...
@overload
def gradient(
    mode: Mode, f: _Function, x: Any, y: Const[Any], z: Any, /, *args: Any,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> Any: ...
@overload
def gradient(
    mode: Mode, f: _Function, x: Any, y: Any, z: Const[Any], /, *args: Any,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> Any: ...
@overload
def gradient(
    mode: Mode[Any, Literal[False]], f: _Function, *args: *_Args,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> tuple[*_Args]: ...
@overload
def gradient(
    mode: Mode[Any, Literal[True]], f: Callable[..., _R], *args: *_Args,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> WithPrimal[tuple[*_Args], _R]: ...
@overload
def gradient(  # a mode that is known at run time only
    mode: Mode, f: _Function, *args: Any,
    chunk: int | None = None, out: Any = None, **kwargs: Any) -> Any: ...
