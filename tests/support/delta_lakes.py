"""A processor that writes each entry to a Delta table and to a stream, and what must come of it.

Each attempt marks its rows, so that a row of an attempt that was not committed is told from the one
that is in the stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import deltalake
import polars as pl
import redis
from deltalake.exceptions import TableNotFoundError

from redfloe import DeltaSink, StreamProcessor
from support.consumers import World
from support.lakes import OUT, work
from support.processors import processor


def delta(
    url: Any, to: Any, storage_options: Mapping[str, Any] | None = None, **options: Any
) -> tuple[StreamProcessor, DeltaSink]:
    made = processor(url, **options)
    return made, DeltaSink(made, to, partition_by="parity", storage_options=storage_options)


def drain(url: Any, to: Any, storage_options: Any = None, **options: Any) -> None:
    made, sink = delta(url, to, storage_options, **options)
    with made:
        for tx in made:
            work(World(None), sink, tx)


def read(to: Any, storage_options: Any = None) -> pl.DataFrame:
    """Read the table as anybody may at any time."""
    try:
        table = deltalake.DeltaTable(str(to), storage_options=storage_options)
    except TableNotFoundError:
        return pl.DataFrame(schema={"n": pl.Int64, "attempt": pl.Int64})
    frame = pl.read_delta(table).select("n", "attempt")
    assert frame["n"].is_unique().all()
    return frame.sort("n")


def check(client: redis.Redis, to: Any, last: int, storage_options: Any = None) -> None:
    """Compare the table with the stream, row by row."""
    frame = read(to, storage_options)
    assert frame["n"].to_list() == [*range(1, last + 1)]
    found: Any = client.xrange(OUT)
    published = [(int(fields[b"n"]), int(fields[b"attempt"])) for _, fields in found]
    assert frame.rows() == published
