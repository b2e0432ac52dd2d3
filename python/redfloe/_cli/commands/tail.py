"""``redfloe tail``."""

from __future__ import annotations

import datetime as dt
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._cli.options import (
    Consumer,
    IdColumn,
    Json,
    MaxColumns,
    MemberOf,
    Names,
    RescueColumn,
    Stream,
    Text,
    TimestampColumn,
    Url,
    columns,
    connect,
    existing,
)
from redfloe._cli.output import console, print_frame, print_json, printable, say
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads
from redfloe._cli.shards import SHARD, following, shards_of, up_to
from redfloe._words import readable

if TYPE_CHECKING:
    import polars as pl

    from redfloe import RedisConnection


def tail(
    stream: Stream,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", "-n", min=0, help="How many entries: 10, or all with --group, by default."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    group: MemberOf = None,
    consumer: Consumer = None,
    payload: Payload = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    text: Text = False,
    id_column: IdColumn = "_id",
    timestamp_column: TimestampColumn = "_ts",
    rescue_column: RescueColumn = "_rescued",
    max_columns: MaxColumns = 5_000,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the newest entries, and with -f what comes.

    With -f all values are text: nobody knows yet what will come.

    With --group entries are taken from those that the group has not had, as a worker takes them,
    and acknowledged once they are shown.
    """
    names = Names(id_column, timestamp_column, rescue_column, max_columns)
    payloads = Payloads(payload, payload_format, payload_compression)
    if (group is None) != (consumer is None):
        msg = "--group and --consumer go together"
        raise typer.BadParameter(msg)
    if group is not None and consumer is not None:
        if follow and count is not None:
            msg = "with --group, give --count or --follow"
            raise typer.BadParameter(msg)
        server = connect(url)
        shards = shards_of(server, stream)
        member = Member(server, stream, group, consumer, names, shards)
        options = columns(payloads, rows=count or 1_000, text=text or follow, names=names)
        member.show(count, follow=follow, json=json, **options)
        return
    import redfloe

    count = 10 if count is None else count
    # What comes may fit no dtype that was inferred before.
    server = connect(url)
    options = columns(payloads, rows=count, text=text or follow, names=names)
    if shards_of(server, stream):
        tail_shards(server, stream, count, names, options, follow=follow, json=json)
        return
    # What comes after the newest of these is followed: nothing is missed, nothing shown twice.
    start = "-"
    try:
        with existing(stream):
            frame = redfloe.read_stream(
                server, stream, last=max(count, 1), must_exist=True, **options
            )
    except redfloe.NoStreamError:
        if not follow:
            raise
        say(f"there is no stream {stream!r} yet")
    else:
        if frame.height:
            start = f"({frame[names.id][-1]}"
        if count:
            show_rows(frame.tail(count), names, json=json, lines=follow)
    if follow:
        with redfloe.iter_stream(server, stream, start_id=start, **options) as entries:
            for frame in entries:
                show_rows(frame, names, json=json, lines=True)


def tail_shards(
    server: RedisConnection,
    stream: str,
    count: int,
    names: Names,
    options: dict[str, Any],
    *,
    follow: bool,
    json: bool,
) -> None:
    """Show the newest entries of a sharded stream, and what comes to each of its shards."""
    import redfloe

    offsets = redfloe.stream_offsets(server, stream) if follow else None
    if count:
        frame = redfloe.read_stream(
            server,
            stream,
            last=count,
            order="id",
            include_stream=True,
            stream_column=SHARD,
            **options,
        )
        shown = frame.drop(SHARD) if offsets is None else up_to(frame, offsets, names.id)
        show_rows(shown, names, json=json, lines=follow)
    if offsets is not None:
        for frame in following(server, stream, offsets, options):
            show_rows(frame, names, json=json, lines=True)


@dataclass
class Member:
    """A consumer of a group, which shows what it takes."""

    server: RedisConnection
    stream: str
    group: str
    consumer: str
    names: Names
    #: The keys of the shards, where it is a sharded stream.
    shards: list[Any]

    def show(self, count: int | None, *, follow: bool, json: bool, **options: Any) -> None:
        """Take `count` entries, or all there are, or go on with what comes."""
        import redfloe

        if self.shards:
            options |= {"include_stream": True, "stream_column": SHARD}
        where: Any = {"group": self.group, "consumer": self.consumer, "auto_ack": False}
        if count is not None:
            frame = redfloe.read_stream(
                self.server, self.stream, count=count, create_group=False, **where, **options
            )
            self._show(frame, json=json, lines=False)
            return
        with redfloe.iter_stream(
            self.server,
            self.stream,
            create_group=False,
            on_idle="wait" if follow else "stop",
            **where,
            **options,
        ) as entries:
            for frame in entries:
                self._show(frame, json=json, lines=True)

    def _show(self, frame: pl.DataFrame, *, json: bool, lines: bool) -> None:
        """Acknowledge them once they are out, not later: nobody sees them again after Ctrl-C."""
        import redfloe

        shown = frame.drop(SHARD) if self.shards else frame
        show_rows(shown, self.names, json=json, lines=lines)
        parts: list[tuple[Any, pl.DataFrame]] = [(self.stream, frame)]
        if self.shards:
            named = {readable(key): key for key in self.shards}
            parts = [(named[rows[SHARD][0]], rows) for rows in frame.partition_by(SHARD)]
        for key, rows in parts:
            if rows.height:
                redfloe.ack_entries(self.server, key, self.group, rows[self.names.id])


def show_rows(frame: pl.DataFrame, names: Names, *, json: bool, lines: bool) -> None:
    """Show entries: one on a line, or all as a table."""
    frame = names.without_empty(frame)
    if json:
        print_json(frame)
    elif lines:
        _print_lines(frame, names)
    else:
        print_frame(frame)


def _print_lines(frame: pl.DataFrame, names: Names) -> None:
    from rich.text import Text

    lines = console()
    for row in frame.iter_rows(named=True):
        lines.print(Text.assemble(*_line(row, names)), soft_wrap=True)
    sys.stdout.flush()


def _line(row: dict[str, Any], names: Names) -> list[tuple[str, str]]:
    """Give an entry on a line: its time, its ID, and the fields that it has."""
    time, entry_id = row.pop(names.timestamp), row.pop(names.id)
    parts = [(f"{_shown(time)} ", "dim"), (entry_id, "cyan")]
    for name, value in row.items():
        if value is not None:
            parts += [(f"  {printable(name)}", "bold"), ("=", "dim"), (_shown(value), "")]
    return parts


def _shown(value: object) -> str:
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return printable(str(value))
