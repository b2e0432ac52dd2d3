"""A processor that writes each entry to a Parquet sink and to a stream, and what must come of it.

Each attempt marks its rows with a number of its own. So a row that is in the directory, of an
attempt that was not committed, is told from the one that is in the stream.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import redis

from redfloe import DeltaSink, ParquetSink, StreamProcessor
from support.consumers import World
from support.processors import processor

OUT = "{numbers}:out"


def lake(url: Any, path: Path, **options: Any) -> tuple[StreamProcessor, ParquetSink]:
    made = processor(url, **options)
    return made, ParquetSink(made, path, partition_by="parity")


def rows(tx: Any) -> pl.DataFrame:
    attempt = random.getrandbits(40)
    return tx.frame.select("n", parity=pl.col("n") % 2, attempt=pl.lit(attempt, pl.Int64))  # type: ignore[no-any-return]


def work(world: World, sink: ParquetSink | DeltaSink, tx: Any) -> None:
    made = rows(tx)
    tx.publish(OUT, made)
    world.do(sink.write(tx, made))


def drain(url: Any, path: Path, **options: Any) -> None:
    made, sink = lake(url, path, **options)
    with made:
        for tx in made:
            work(World(None), sink, tx)


def read(path: Path) -> pl.DataFrame:
    """Read the directory as anybody may at any time."""
    files = sorted(path.glob("**/*.parquet"))
    parts = [pl.read_parquet(file, hive_partitioning=True).select("n", "attempt") for file in files]
    frame = pl.concat(parts) if parts else pl.DataFrame(schema={"n": pl.Int64, "attempt": pl.Int64})
    assert frame["n"].is_unique().all()
    return frame.sort("n")


def check(client: redis.Redis, path: Path, last: int) -> None:
    """Compare the directory with the stream, row by row; nothing else is left."""
    frame = read(path)
    assert frame["n"].to_list() == [*range(1, last + 1)]
    found: Any = client.xrange(OUT)
    published = [(int(fields[b"n"]), int(fields[b"attempt"])) for _, fields in found]
    assert frame.rows() == published
    own = sorted(entry.name for entry in (path / "_redfloe").iterdir())
    assert len(own) == 2, own
    assert own[0].endswith(".done")
    assert own[1] == "sink.json"
