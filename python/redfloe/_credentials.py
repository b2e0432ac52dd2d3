"""Functions of the user's that give credentials, asked for each connection.

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


#: Functions by the number that the core knows them by, and how many there hold each.
_functions: dict[int, tuple[Callable[[], Any], int]] = {}
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
    function = function_of(credentials)
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


def registered(number: int) -> Callable[[], Any]:
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
            for number in due:
                # One that hangs holds up no other.
                Thread(target=_answer, args=(desk, number), daemon=True).start()
            for number in released:
                release(number)


def _answer(desk: _core.CredentialsDesk, number: int) -> None:
    try:
        given = registered(number)()
    except BaseException as error:  # noqa: BLE001 - it is raised where the connection is used
        # What it says may quote a token; it is the cause of what is raised.
        desk.refuse(number, f"the credentials function raised {type(error).__name__}", error)
        return
    why = (
        "the credentials function must return a password or (username, password), not "
        f"{type(given).__name__}"
    )
    try:
        match given:
            case str(password) | (str(password),) | (None, str(password)):
                desk.give(number, None, password)
            case (str(username), str(password)):
                desk.give(number, username, password)
            case _:
                desk.refuse(number, why, None)
    except UnicodeEncodeError:
        # The exception holds the secret, and is no cause of anything.
        why = "the credentials function returned text with a lone surrogate, which is not Unicode"
        desk.refuse(number, why, None)
