"""The command line without the extra ``cli``: ``redfloe demo``, and how to get the rest."""

from __future__ import annotations

import argparse
import sys

from redfloe._core import RedisConnection, __version__

_MORE = "All other commands need the extra `cli`: pip install 'redfloe[cli]'"


def run(arguments: list[str]) -> int:
    """Run ``demo``, or say what there is."""
    parser = argparse.ArgumentParser(
        prog="redfloe", description="Redis Streams at the command line.", epilog=_MORE
    )
    parser.add_argument("--version", action="version", version=f"redfloe {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command")
    summary = "27,004 real flights into a stream and back"
    demo = commands.add_parser("demo", help=summary, description=f"{summary}.")
    demo.add_argument(
        "--url",
        help="use this server, under a key of the demo's own that is removed again, instead of "
        "one that the demo starts and stops",
    )
    if arguments and not arguments[0].startswith("-") and arguments[0] != "demo":
        parser.error(f"there is no command {arguments[0]!r} here. {_MORE}")
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        check_url(options.url)
    except ValueError as error:
        demo.error(str(error))
    return run_demo(options.url)


def check_url(url: str | None) -> None:
    """Refuse a URL that cannot be one, before anything is done."""
    if url is not None:
        RedisConnection(url)


def run_demo(url: str | None) -> int:
    """Run the demo, and give the exit code."""
    from redfloe import _demo

    try:
        _demo.run_demo(url)
    except _demo.DemoError as error:
        print(f"redfloe demo: {error}", file=sys.stderr)
        return 1
    return 0
