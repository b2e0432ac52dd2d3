"""How a command starts and ends."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Never

from redfloe._cli.streams import ReaderHasGone, drop_output, standard_streams
from redfloe._cli.unread import ends_though_unread

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code.

    0: it worked; 1: it failed, and standard error says why; 2: wrong arguments; 128 and the
    signal's number: ended by Ctrl-C (130), SIGTERM (143) or a pipe whose reader has gone (141).
    """
    with ends_though_unread(), standard_streams():
        return _ended(arguments)


def _ended(arguments: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    previous = signal.signal(signal.SIGTERM, _end)
    code = 0
    try:
        code = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("redfloe: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (ReaderHasGone, BrokenPipeError):  # as in `redfloe demo | head`
        drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:  # standard output is closed, or its disk is full
        drop_output()
        if code == 0:  # else it was said
            print(f"redfloe: standard output: {error.strerror}", file=sys.stderr)
        return code or 1
    finally:
        signal.signal(signal.SIGTERM, previous)
    return code


def _run(arguments: list[str]) -> int:
    try:
        from redfloe._cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich", "click"}:
            raise
        from redfloe._cli.bare import run
    return run(arguments)


def _end(number: int, _frame: object) -> Never:
    """Unwind, so that what is to be removed is removed."""
    sys.exit(128 + number)
