"""Functions of the user's that give credentials or addresses, asked for each connection.

The core's threads never call Python: a connection that is being opened leaves its question at a
desk, whose socket wakes a thread here, and waits for the answer.
"""

from __future__ import annotations

import os
from itertools import count
from threading import RLock
from typing import TYPE_CHECKING, Any, Protocol, cast

from redfloe import _core
from redfloe._functions import is_async

if TYPE_CHECKING:
    from collections.abc import Callable


class CredentialProvider(Protocol):
    """What redis-py and the libraries around it call a credential provider."""

    def get_credentials(self) -> Any:
        """Give a password, or a user's name and a password."""


#: What the core asks: the number of a function, and the address in place of which it is to give
#: another, or None where it is to give credentials.
Question = tuple[int, tuple[str, int] | None]

#: Functions by the number that the core knows them by, and how many there hold each.
_functions: dict[int, tuple[Callable[..., Any], int]] = {}
_numbers = count(1)
_lock = RLock()
# The child of a fork has a lock of its own: a thread of the parent may hold the one it copied.
os.register_at_fork(after_in_child=lambda: globals().update(_lock=RLock()))
#: The process whose desk is watched; a forked child begins to watch its own.
_watching: int | None = None


def function_of(credentials: Any) -> Callable[[], Any]:
    """Give the function that is called for credentials, or refuse what is none."""
    function: Any = getattr(credentials, "get_credentials", credentials)
    if not callable(function):
        msg = (
            "credentials must be a function that returns a password or (username, password), or an "
            f"object with get_credentials(), not {type(credentials).__name__}"
        )
        raise TypeError(msg)
    if is_async(function):
        msg = "credentials must be a plain function; it is called in a thread, where it may block"
        raise TypeError(msg)
    return cast("Callable[[], Any]", function)


def register(credentials: object) -> int:
    """Keep a function until `release`; give its number, which is the same for equal functions."""
    return _register(function_of(credentials))


def register_address_map(function: Callable[..., Any]) -> int:
    """Keep a function that gives addresses in the same way."""
    if is_async(function):
        msg = "address_map must be a plain function; it is called in a thread, where it may block"
        raise TypeError(msg)
    return _register(function)


def _register(function: Callable[..., Any]) -> int:
    with _lock:
        known = (number for number, (other, _) in _functions.items() if other == function)
        number = next(known, None) or next(_numbers)
        function, holders = _functions.get(number, (function, 0))
        _functions[number] = function, holders + 1
    return number


def release(number: int) -> None:
    """Forget a function, where nobody else holds it."""
    with _lock:
        function, holders = _functions.pop(number)
        if holders > 1:
            _functions[number] = function, holders - 1


def registered(number: int) -> Callable[..., Any]:
    """Give the function back, for pickle."""
    return _functions[number][0]


def watch() -> None:
    """Have a thread of this process answer the core's questions."""
    global _watching  # noqa: PLW0603 - a module is what a process has one of
    if _watching != os.getpid():
        from threading import Thread

        _watching = os.getpid()
        # Blocked in a system call, it is in nobody's way when the interpreter ends.
        Thread(target=_watch, args=(_core.CredentialsDesk(),), daemon=True).start()


def _watch(desk: _core.CredentialsDesk) -> None:
    from socket import socket
    from threading import Thread

    with socket(fileno=os.dup(desk.fileno())) as bell:
        while bell.recv(64):
            due, released = desk.take()
            for question in due:
                # One that hangs holds up no other.
                answer = _give_credentials if question[1] is None else _give_address
                Thread(target=answer, args=(desk, question), daemon=True).start()
            for number in released:
                release(number)


def _call(desk: _core.CredentialsDesk, question: Question, what: str) -> list[Any]:
    """Call the function; the list is empty where it has raised something, which the desk knows."""
    number, announced = question
    try:
        return [registered(number)(*announced or ())]
    except BaseException as error:  # noqa: BLE001 - it is raised where the connection is used
        # What it says may quote a token; it is the cause of what is raised.
        desk.refuse(question, f"the {what} function raised {type(error).__name__}", error)
        return []


def _give_credentials(desk: _core.CredentialsDesk, question: Question) -> None:
    for given in _call(desk, question, "credentials"):
        why = (
            "the credentials function must return a password or (username, password), not "
            f"{type(given).__name__}"
        )
        try:
            match given:
                case str(password) | (str(password),) | (None, str(password)):
                    desk.give(question, None, password)
                case (str(username), str(password)):
                    desk.give(question, username, password)
                case _:
                    desk.refuse(question, why, None)
        except UnicodeEncodeError:
            # The exception holds the secret, and is no cause of anything.
            why = (
                "the credentials function returned text with a lone surrogate, which is not Unicode"
            )
            desk.refuse(question, why, None)


def _give_address(desk: _core.CredentialsDesk, question: Question) -> None:
    for given in _call(desk, question, "address_map"):
        match given:
            case (str(host), int(port)) if _is_address(host, port):
                desk.give_address(question, host, port)
            case _:
                why = f"the address_map function must return (host, port), not {given!r:.100}"
                desk.refuse(question, why, None)


def _is_address(host: str, port: int) -> bool:
    """Whether that may be where a server is."""
    is_port = 0 < port < 1 << 16 and not isinstance(port, bool)
    return is_port and host.isprintable() and host != ""
