"""One worker of ``redfloe run``: ``python -m redfloe._cli.worker MODULE:APP PIPE [GRACE]``."""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from redfloe._cli.supervisor import CANNOT_LOAD

if TYPE_CHECKING:
    from redfloe.messages import App


#: What a worker ends with one of whose handlers has ended it.
_EXITED = 1


class _LoadError(Exception):
    """There is no such app."""


def load(target: str) -> App:
    """Give the app that a target names, with the working directory on the path."""
    from redfloe.messages import App

    module_name, _, name = target.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109 - as sys.path has it
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        msg = f"there is no module {error.name!r}, neither installed nor in this directory"
        raise _LoadError(msg) from None
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError:
        msg = f"the module {module_name!r} has no {name!r}"
        raise _LoadError(msg) from None
    if not isinstance(found, App):
        msg = f"{target} is no App, but {type(found).__name__}"
        raise _LoadError(msg)
    if not found.handlers:
        msg = f"{target} has no handlers: include a router"
        raise _LoadError(msg)
    return found


def work(target: str, pipe: int, grace: float | None) -> int:
    """Run an app until SIGTERM, or until the supervisor has died; give the exit code."""
    try:
        app = load(target)
    except _LoadError as error:
        print(f"redfloe: {error}", file=sys.stderr)
        return CANNOT_LOAD
    except (Exception, SystemExit):  # noqa: BLE001 - the user's module raised it
        traceback.print_exc()
        return CANNOT_LOAD
    if grace is not None:
        app._assembly.grace = grace
    os.set_inheritable(pipe, False)
    _tell(pipe, {"consumer": app.consumer, "grace": app._assembly.grace})
    threading.Thread(target=_stop_with_supervisor, args=[app], daemon=True).start()
    try:
        app.run()
    except SystemExit as error:  # who wants to end the app calls its stop
        traceback.print_exc()
        print(f"redfloe: a handler has called sys.exit({error.code!r})", file=sys.stderr)
        return _EXITED
    with suppress(BrokenPipeError):  # by a supervisor that has died
        _tell(pipe, "ended")
    return 0


def _tell(pipe: int, what: object) -> None:
    os.write(pipe, json.dumps(what).encode() + b"\n")


def _stop_with_supervisor(app: App) -> None:
    # Not sys.stdin, whose lock the end of the interpreter would wait for.
    while os.read(0, 1):
        pass
    app.stop()


if __name__ == "__main__":
    sys.exit(work(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else None))
