"""``redfloe pending``."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._cli.options import Consumer, Group, Json, Stream, Url, connect
from redfloe._cli.output import show
from redfloe._cli.shards import shards_of
from redfloe._words import readable

if TYPE_CHECKING:
    import polars as pl


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

    server = connect(url)

    def look(key: Any) -> pl.DataFrame:
        return redfloe.pending_entries(
            server,
            key,
            group,
            consumer=consumer,
            min_idle_ms=round(min_idle * 1000) or None,
            count=count,
        )

    shards = shards_of(server, stream)
    if not shards:
        found = look(stream)
    else:
        looks = []
        for key in shards:
            with suppress(redfloe.NoGroupError):  # where nothing was written yet
                looks.append((key, look(key)))
        found = by_age(looks).head(count) if looks else look(shards[0])
    show(found, json=json, empty="nothing is pending")


def by_age(looks: list[tuple[bytes, pl.DataFrame]]) -> pl.DataFrame:
    """Give what is pending in several streams, the oldest first."""
    import polars as pl

    found = pl.concat(
        frame.select(pl.lit(readable(key)).alias("stream"), pl.all()) for key, frame in looks
    )
    numbers = pl.col("id").str.split_exact("-", 1).struct.field("*").cast(pl.UInt64)
    return found.sort(numbers, maintain_order=True)
