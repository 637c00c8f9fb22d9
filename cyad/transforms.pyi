"""Types of the function transforms: the derivative of a number by the first argument has the type of that argument."""
from collections.abc import Callable
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, overload

_A = TypeVar("_A")
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Function = Callable[..., Any]
_Numbers = int | tuple[int, ...] | list[int]

@overload
def grad(
    f: Callable[Concatenate[_A, _P], Any], argnums: Literal[0] = 0, *, has_aux: Literal[False] = False,
    holomorphic: bool = False) -> Callable[Concatenate[_A, _P], _A]: ...
@overload
def grad(f: _Function, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False) -> _Function: ...
@overload
def grad(
    f: None = None, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[[_Function], _Function]: ...
@overload
def value_and_grad(
    f: Callable[Concatenate[_A, _P], _R], argnums: Literal[0] = 0, *, has_aux: Literal[False] = False,
    holomorphic: bool = False) -> Callable[Concatenate[_A, _P], tuple[_R, _A]]: ...
@overload
def value_and_grad(
    f: _Function, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False) -> _Function: ...
@overload
def value_and_grad(
    f: None = None, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[[_Function], _Function]: ...
@overload
def jacfwd(
    f: Callable[_P, Any], argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[_P, Any]: ...
@overload
def jacfwd(
    f: None = None, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[[_Function], _Function]: ...
@overload
def jacrev(
    f: Callable[_P, Any], argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[_P, Any]: ...
@overload
def jacrev(
    f: None = None, argnums: _Numbers = 0, *, has_aux: bool = False, holomorphic: bool = False,
) -> Callable[[_Function], _Function]: ...
@overload
def hessian(
    f: Callable[_P, Any], /, *, argnums: _Numbers = 0, has_aux: bool = False) -> Callable[_P, Any]: ...
@overload
def hessian(
    f: None = None, /, *, argnums: _Numbers = 0, has_aux: bool = False) -> Callable[[_Function], _Function]: ...
@overload
def hessian(
    f: _Function, x: Any, /, *args: Any, chunk: int | None = None, out: Any = None, **kwargs: Any) -> Any: ...
@overload
def derivative(f: Callable[Concatenate[float, _P], _R], /) -> Callable[Concatenate[float, _P], _R]: ...
@overload
def derivative(f: None = None, /) -> Callable[[_Function], _Function]: ...
@overload
def derivative(f: Callable[Concatenate[_A, _P], _R], x: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
@overload
def second_derivative(f: Callable[Concatenate[float, _P], _R], /) -> Callable[Concatenate[float, _P], _R]: ...
@overload
def second_derivative(f: None = None, /) -> Callable[[_Function], _Function]: ...
@overload
def second_derivative(f: Callable[Concatenate[_A, _P], _R], x: _A, /, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
@overload
def jvp(
    f: Callable[..., _R], primals: tuple[Any, ...] | list[Any], tangents: tuple[Any, ...] | list[Any],
    *, has_aux: Literal[False] = False) -> tuple[_R, _R]: ...
@overload
def jvp(
    f: _Function, primals: tuple[Any, ...] | list[Any], tangents: tuple[Any, ...] | list[Any], *,
    has_aux: Literal[True],
) -> tuple[Any, Any, Any]: ...
@overload
def vjp(
    f: Callable[..., _R], *primals: Any, has_aux: Literal[False] = False,
) -> tuple[_R, Callable[[_R], tuple[Any, ...]]]: ...
@overload
def vjp(
    f: _Function, *primals: Any, has_aux: Literal[True]) -> tuple[Any, Callable[[Any], tuple[Any, ...]], Any]: ...
def linearize(f: Callable[..., _R], *primals: Any) -> tuple[_R, Callable[..., _R]]: ...
