"""``redfloe processors``, and what may be done to one."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from redfloe._cli.options import (
    Consumer,
    Json,
    LanesOf,
    Pattern,
    Processor,
    Stream,
    Url,
    Yes,
    bound,
    connect,
)
from redfloe._cli.output import confirm, print_json, say, show
from redfloe._cli.shards import pattern_of
from redfloe._words import counted

Takeover = Annotated[
    bool, typer.Option("--takeover", help="Also while it runs: it is fenced, and writes no more.")
]


class State(StrEnum):
    """What becomes of a processor's state and tables."""

    keep = "keep"
    drop = "drop"


def processors(pattern: Pattern = "*", url: Url = None, json: Json = False) -> None:
    """List processors: who runs them, their position, lag, commits.

    The owner is "-" where nobody runs it. Entries of the lag are "-" where counting them would take
    long.
    """
    import polars as pl

    import redfloe

    server = connect(url)
    found = redfloe.processor_info(server, pattern=pattern_of(server, pattern))
    shown = found
    if not json:
        columns = ["stream", "processor", "group", "consumer", "owner", "epoch", "position"]
        columns += ["lag", "lag_time", "commits", "committed_at"]
        owner = pl.when("held").then("owner").alias("owner")
        shown = found.with_columns(owner).select(columns)
        if shown["group"].null_count() == shown.height:
            shown = shown.drop("group", "consumer")
    show(shown, json=json, empty=f"no stream that matches {pattern!r} has a processor")


def reset_processor(
    stream: Stream,
    processor: Processor,
    to: Annotated[
        str,
        typer.Option(
            help="Go on after this ID, from this time on, 0 for all entries, $ for those to come.",
            callback=bound,
        ),
    ],
    state: Annotated[State, typer.Option(help="What becomes of its state and tables.")],
    takeover: Takeover = False,
    yes: Yes = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Have a processor go on elsewhere, with its state or without it."""
    import redfloe

    server = connect(url)
    lanes = redfloe.processor_info(server, stream, name=processor)
    position = lanes["position"].drop_nulls().to_list()
    at = f" is at {position[0]}" if position else ""
    lost = "keep its state and tables" if state is State.keep else "delete its state and tables"
    confirm(f"{processor} on {stream}{at}; have it go on at {to}, and {lost}", yes=yes)
    done = redfloe.reset_processor(
        server, stream, processor, to=to, state=state.value, takeover=takeover
    )
    if json:
        print_json(done)
        return
    row = done.row(0, named=True)
    gone = ""
    if state is State.drop:
        values = counted(row["state_dropped"], "value", "values", ",")
        rows = counted(row["rows_dropped"], "row", "rows", ",")
        tables = counted(len(row["tables_dropped"]), "table", "tables", ",")
        gone = f"; {values} of its state and {tables} ({rows}) deleted"
    say(f"{processor} on {stream} goes on after {row['position']} (epoch {row['epoch']}){gone}")


def delete_processor(
    stream: Stream,
    processor: Processor,
    group: LanesOf = None,
    consumer: Consumer = None,
    takeover: Takeover = False,
    yes: Yes = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Delete a processor: its position, its state and its tables."""
    import redfloe

    server = connect(url)
    what = "its position, its state and its tables" if group is None else f"what {group} has of it"
    confirm(f"delete {processor} on {stream}: {what}", yes=yes)
    deleted = redfloe.delete_processor(
        server, stream, processor, group=group, consumer=consumer, takeover=takeover
    )
    if json:
        print(f'{{"deleted": {str(deleted).lower()}}}')
    else:
        say(f"{processor} on {stream} deleted" if deleted else f"{stream} has no {processor}")
