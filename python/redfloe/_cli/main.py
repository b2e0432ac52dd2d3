"""How a command starts and ends."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Never

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code.

    0: it worked; 1: it failed, and standard error says why; 2: wrong arguments; 128 and the
    signal's number: ended by Ctrl-C (130), SIGTERM (143) or a pipe whose reader has gone (141).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # frames may hold what its encoding does not
    given = list(sys.argv[1:] if arguments is None else arguments)
    previous = signal.signal(signal.SIGTERM, _end)
    try:
        code = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("redfloe: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as in `redfloe demo | head`. Python would complain
        # about it once more when it closes standard output:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
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
