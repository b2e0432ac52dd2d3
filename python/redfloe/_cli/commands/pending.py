"""``redfloe pending``."""

from __future__ import annotations

from typing import Annotated

import typer

from redfloe._cli.options import Consumer, Group, Json, Stream, Url, connect
from redfloe._cli.output import show


def pending(
    stream: Stream,
    group: Group,
    consumer: Consumer = None,
    min_idle: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="Only those delivered at least this long ago."),
    ] = 0,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="At most this many, the oldest.")
    ] = 100,
    url: Url = None,
    json: Json = False,
) -> None:
    """List entries that were delivered and not acknowledged."""
    import redfloe

    found = redfloe.pending_entries(
        connect(url),
        stream,
        group,
        consumer=consumer,
        min_idle_ms=round(min_idle * 1000) or None,
        count=count,
    )
    show(found, json=json, empty="nothing is pending")
