"""``redfloe dead``: dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from redfloe._cli.options import (
    End,
    IdColumn,
    Json,
    Letters,
    MaxColumns,
    Names,
    RescueColumn,
    Start,
    Text,
    TimestampColumn,
    Url,
    Yes,
    columns,
    connect,
)
from redfloe._cli.output import confirm, print_frame, print_json, say
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads
from redfloe._cli.shards import refuse_name, streams_of
from redfloe._words import counted

app = typer.Typer(help="Look at dead letters, and replay them.", no_args_is_help=True)


@app.command("list")
def list_(
    dead_letter: Letters,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many letters.")] = 100,
    start: Start = "-",
    end: End = "+",
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
    """List dead letters: the fields of their entries, and why they were put aside."""
    import redfloe

    server = connect(url)
    names = Names(id_column, timestamp_column, rescue_column, max_columns)
    payloads = Payloads(payload, payload_format, payload_compression)
    streams_of(server, dead_letter)
    frame = redfloe.read_dead_letters(
        server,
        dead_letter,
        None,
        start,
        end,
        count,
        **columns(payloads, rows=count, text=text, names=names),
    )
    frame = names.without_empty(frame)
    if json:
        print_json(frame)
    elif frame.is_empty():
        say(f"{dead_letter} has no dead letters")
    else:
        print_frame(frame)


@app.command()
def replay(
    dead_letter: Letters,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Only this letter; may be given again.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="At most.")] = None,
    start: Start = "-",
    end: End = "+",
    yes: Yes = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Move dead letters back into their streams, each exactly once.

    Every group of that stream gets them again, as new entries.
    """
    import redfloe

    server = connect(url)
    if len(shards := streams_of(server, dead_letter)) > 1:
        refuse_name(dead_letter, shards)
    chosen = counted(len(ids), "letter", "letters", ",") if ids else "all of them"
    confirm(f"replay dead letters of {dead_letter} ({chosen}) into their streams", yes=yes)
    replayed = redfloe.replay_dead_letters(
        server, dead_letter, None, start, end, count, ids=ids or None
    )
    if json:
        print_json(replayed)
    streams = replayed["_dead_stream"].unique().drop_nulls().sort().to_list()
    into = f" into {', '.join(streams)}" if streams else ""
    say(f"{counted(replayed.height, 'dead letter', 'dead letters', ',')} replayed{into}")
