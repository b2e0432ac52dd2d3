"""A processor that counts in windows, in each of the worlds, and what comes of its runs."""

from __future__ import annotations

from typing import Any

import polars as pl
import redis

from redfloe import StreamProcessor, read_stream
from support.consumers import World
from support.processors import DRAIN

STREAM = "clicks"
NAME = "minutes"
OUT = "{clicks}:out"
LANE = f"{{{STREAM}}}:redfloe:{STREAM}:{NAME}"
OPEN = f"{LANE}:table:window%3Aminutes"
SCHEMA = {"who": pl.String, "n": pl.Int64}


def add(client: redis.Redis, seconds: int, who: str | None = "a", n: int = 1) -> None:
    """Add a click at that many seconds after the epoch."""
    fields: dict[Any, Any] = {"n": n} if who is None else {"n": n, "who": who}
    # After what is there, at the same time too.
    client.xadd(STREAM, fields, id=f"{seconds * 1_000 + 1}-{client.xlen(STREAM)}")


def processor(url: Any, **options: Any) -> StreamProcessor:
    """Make a processor of clicks, which drains the stream."""
    return StreamProcessor(url, STREAM, **{"name": NAME, "schema": SCHEMA, **DRAIN, **options})


def count(world: World, tx: Any, **options: Any) -> Any:
    """Count in minutes; publish those that are closed, and late rows."""
    wanted: dict[str, Any] = {"every": "1m", "by": "who", "lateness": "10s", **options}
    aggs = {"total": pl.col("n").sum(), "clicks": pl.len()}
    window = world.do(tx.window("minutes", **{"aggs": aggs, **wanted}))
    tx.publish(OUT, window.closed.with_columns(pl.col("_lower_boundary").dt.epoch("s")))
    tx.publish(f"{OUT}:late", window.late.select("who", "n"))
    return window


def closed(url: Any) -> list[tuple[Any, ...]]:
    """List what was published: the second at which a window begins, who, clicks and their total."""
    schema = {"_lower_boundary": pl.Int64, "who": pl.String, "clicks": pl.Int64, "total": pl.Int64}
    return read_stream(url, OUT, schema=schema).select(*schema).rows()
