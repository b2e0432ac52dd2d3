"""``redfloe streams``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import show
from redfloe._cli.shards import pattern_of

if TYPE_CHECKING:
    import polars as pl


def streams(pattern: Pattern = "*", url: Url = None, json: Json = False) -> None:
    """List streams: length, memory, rate, groups, lag.

    The rate is that of the entries that are there: their number by the time between the oldest
    and the newest. The lag is that of the group which is furthest behind.
    """
    import redfloe

    server = connect(url)
    asked = pattern_of(server, pattern)
    found, groups = redfloe.list_streams(server, asked), redfloe.list_groups(server, asked)
    show(overview(found, groups), json=json, empty=f"no stream matches {pattern!r}")


def overview(found: pl.DataFrame, groups: pl.DataFrame) -> pl.DataFrame:
    """Put streams beside the lag of their groups."""
    import polars as pl

    behind = groups.group_by("stream").agg(
        pl.max("lag"), pl.max("lag_time"), pl.sum("pending"), pl.sum("consumers")
    )
    span = pl.col("last_entry_time") - pl.col("first_entry_time")
    seconds = span.dt.total_milliseconds() / 1000
    rate = pl.when(seconds > 0).then((pl.col("length") - 1) / seconds)
    return found.join(behind, on="stream", how="left", maintain_order="left").select(
        "stream",
        "length",
        "memory",
        rate.round(3).alias("entries_per_second"),
        "groups",
        "lag",
        "lag_time",
        "pending",
        newest=pl.col("last_entry_time"),
    )
