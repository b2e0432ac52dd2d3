"""Functions that callers pass: whether they are async."""

import inspect
from functools import partial
from typing import Any


def unwrapped(function: Any) -> Any:
    """Give the function that a partial, or an object with ``__call__``, calls."""
    while isinstance(function, partial):
        function = function.func
    if inspect.isroutine(function) or isinstance(function, type):
        return function
    return type(function).__call__ if callable(function) else function


def is_async(function: object) -> bool:
    """Say whether a call of it gives a coroutine, as far as can be told before."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(unwrapped(function))


def refuse_async(function: object, parameter: str, instead: str) -> None:
    """Refuse an async function where nobody would await it."""
    if is_async(function):
        msg = f"{parameter} must not be async: {instead}"
        raise TypeError(msg)
