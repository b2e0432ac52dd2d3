"""What a handler's parameters are, and how it is called."""

from __future__ import annotations

import inspect
import types
import typing
from typing import Any, Literal, TypeAlias

from redfloe._functions import unwrapped
from redfloe.messages._message import Message
from redfloe.messages._schema_of import is_model
from redfloe.messages._transaction import Transaction

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Argument: TypeAlias = Literal["event", "message", "frame", "tx"]
Arguments: TypeAlias = tuple[Argument, ...]

_MESSAGE_NAMES = ("message", "msg")
_OURS = {"Message": Message, "Transaction": Transaction}


def arguments_of(function: Callable[..., Any], *, has_model: bool, takes_frames: bool) -> Arguments:
    """Say what each parameter of a handler gets."""
    event: Argument = "frame" if takes_frames else "event"
    only: Argument = event if has_model else "message"
    try:
        signature = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        return (only,)
    parameters = [*signature.values()]
    needed = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if by_name := [
        one.name for one in parameters if one.kind is one.KEYWORD_ONLY and one.default is one.empty
    ]:
        msg = (
            f"the handler {getattr(function, '__qualname__', function)!r} takes {by_name[0]!r} by "
            "keyword only, and handlers are called by position: leave out the *"
        )
        raise TypeError(msg)
    if not needed and any(one.kind is one.VAR_POSITIONAL for one in parameters):
        return (only,)  # which takes whatever it is given
    hints = _hints(function)
    if len(needed) <= 1 and takes_frames:
        return ("frame",)
    if len(needed) == 1 and needed[0].name not in hints:
        return ("message" if needed[0].name in _MESSAGE_NAMES else only,)
    arguments = tuple(_argument(one.name, hints.get(one.name), event) for one in needed)
    if not {*arguments} - {"tx"} or len({*arguments}) < len(arguments):
        msg = (
            f"the handler {getattr(function, '__qualname__', function)!r} must take the event, the "
            "message, or both: a parameter annotated Message, or called message, gets the message, "
            "and one annotated Transaction, or called tx, what it is committed with"
        )
        raise TypeError(msg)
    return arguments


def models_of(function: Callable[..., Any]) -> Iterator[type]:
    """Give the models that a handler's parameter is annotated with."""
    hints = _hints(function)
    for name in _parameters(function):
        hint = hints.get(name)
        is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
        members = typing.get_args(hint) if is_union else (hint,)
        if all(map(is_model, members)):
            yield from members
            return
    msg = (
        f"annotate the parameter of {getattr(function, '__qualname__', function)!r} with the model "
        "that it handles: def handle(command: CreateUser)"
    )
    raise TypeError(msg)


def _parameters(function: Callable[..., Any]) -> Iterable[str]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin, or nothing that can be called
        return ()


class WrongHandlerError(TypeError):
    """What is called cannot be a handler: no retry mends it."""


def check_result(name: str, result: Any) -> None:
    """Refuse what a handler has returned from a thread, where nobody would await it."""
    if inspect.iscoroutine(result):
        result.close()  # which was never awaited, and would warn of it
    if inspect.isawaitable(result):
        msg = f"the handler {name} is not async, and returned something to be awaited"
        raise WrongHandlerError(msg)


def _argument(name: str, hint: object, event: Argument) -> Argument:
    if hint is Transaction or (name == "tx" and not is_model(hint)):
        return "tx"
    if event == "frame":
        return "frame"
    if hint is Message or (name in _MESSAGE_NAMES and not is_model(hint)):
        return "message"
    return "event"


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(unwrapped(function))
    except Exception:  # noqa: BLE001 - annotations that name what is not there yet
        given = getattr(unwrapped(function), "__annotations__", {})
        return {
            name: _OURS.get(str(hint).removeprefix("messages."), hint)
            for name, hint in given.items()
        }
