"""The command line: ``redfloe``, or ``python -m redfloe``."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Never

import redfloe

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the process's exit code.

    0: it worked; 1: it failed, and standard error says why; 2: wrong arguments; 128 and the
    signal's number: ended by Ctrl-C (130) or SIGTERM (143).
    """
    parser = argparse.ArgumentParser(prog="redfloe", description=redfloe.__doc__)
    parser.add_argument("--version", action="version", version=f"redfloe {redfloe.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser(
        "demo",
        help="27,004 real flights into a stream and back",
        description="Publish 27,004 real flights as stream entries, read them back into a typed "
        "DataFrame, check that nothing was lost, and aggregate.",
    )
    demo.add_argument(
        "--url",
        help="use this server, under a key of the demo's own that is removed again, instead of "
        "one that the demo starts and stops",
    )
    options = parser.parse_args(arguments)
    if options.url is not None:
        try:
            redfloe.RedisConnection(options.url)
        except ValueError as error:
            demo.error(str(error))

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # frames may hold what its encoding does not
    signal.signal(signal.SIGTERM, _end)
    try:
        return _demo(options.url)
    except KeyboardInterrupt:
        print("redfloe: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone, as in `redfloe demo | head`. Python would complain
        # about it once more when it closes standard output:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _demo(url: str | None) -> int:
    from redfloe._demo import DemoError, run_demo

    try:
        run_demo(url)
    except DemoError as error:
        print(f"redfloe demo: {error}", file=sys.stderr)
        return 1
    return 0


def _end(number: int, _frame: object) -> Never:
    """Unwind, so that what is to be removed is removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
