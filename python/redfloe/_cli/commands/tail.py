"""``redfloe tail``."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._cli.options import Json, Payload, Stream, Text, Url, columns, connect, existing
from redfloe._cli.output import console, print_frame, print_json, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    import polars as pl


def tail(
    stream: Stream,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="How many entries.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    group: Annotated[
        str | None,
        typer.Option(help="Read as a member of this group: acknowledges what it has shown."),
    ] = None,
    consumer: Annotated[str | None, typer.Option(help="The member's name.")] = None,
    payload: Payload = None,
    text: Text = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the newest entries, and with -f what comes.

    With -f all values are text: nobody knows yet what will come.

    With --group entries are taken from those that the group has not had, as a worker takes them,
    and acknowledged once they are shown.
    """
    import redfloe

    # What comes may fit no dtype that was inferred before.
    server, options = connect(url), columns(payload, rows=count, text=text or follow)
    if (group is None) != (consumer is None):
        msg = "--group and --consumer go together"
        raise typer.BadParameter(msg)
    if group is not None and consumer is not None:
        with redfloe.iter_stream(
            server,
            stream,
            group=group,
            consumer=consumer,
            auto_ack=True,
            create_group=False,
            on_idle="wait" if follow else "stop",
            **options,
        ) as entries:
            _follow(entries, json=json)
        return
    # What comes after the newest of these is followed: nothing is missed, nothing shown twice.
    newest = None
    if count or follow:
        with existing(stream):
            frame = redfloe.read_stream(
                server, stream, last=max(count, 1), must_exist=not follow, **options
            )
        newest = str(frame["_id"][-1]) if frame.height else None
        frame = frame.tail(count)
        if follow:
            _print_lines(frame, json=json)
        elif json:
            print_json(frame)
        else:
            print_frame(frame)
    if follow:
        start = "-" if newest is None else f"({newest}"
        with redfloe.iter_stream(server, stream, start_id=start, **options) as entries:
            _follow(entries, json=json)


def _follow(frames: Iterable[pl.DataFrame], *, json: bool) -> None:
    for frame in frames:
        _print_lines(frame, json=json)


def _print_lines(frame: pl.DataFrame, *, json: bool) -> None:
    if json:
        print_json(frame)
    else:
        from rich.text import Text

        lines = console()
        for row in frame.iter_rows(named=True):
            lines.print(Text.assemble(*_line(row)), soft_wrap=True)


def _line(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Give an entry on a line: its time, its ID, and the fields that it has."""
    time, entry_id = row.pop("_ts"), row.pop("_id")
    parts = [(f"{_shown(time)} ", "dim"), (entry_id, "cyan")]
    for name, value in row.items():
        if value is not None:
            parts += [(f"  {printable(name)}", "bold"), ("=", "dim"), (_shown(value), "")]
    return parts


def _shown(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return printable(str(value))
