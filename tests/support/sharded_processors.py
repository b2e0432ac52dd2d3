"""Processors of sharded streams for tests: totals of users, and an output for each entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

import redfloe
from redfloe import StreamProcessor
from support.shards import SCHEMA

NAME = "totals"
TABLE: Any = {"key": "user", "schema": {"n": pl.Int64}}


def processor(url: Any, stream: str, **options: Any) -> StreamProcessor:
    """Make one that drains the stream, unless told otherwise."""
    given: Any = {"on_idle": "stop", "block_ms": 1, "lease_ms": 300, "batch_size": 20} | options
    return StreamProcessor(url, stream, name=NAME, schema=SCHEMA, **given)


def work(tx: Any, out: str) -> None:
    """Add to the totals, and publish what has come."""
    table = tx.table("totals", **TABLE)
    new = tx.frame.group_by("user").agg(pl.col("n").sum())
    old = table.lookup(new["user"])["n"].fill_null(0)
    table.upsert(new.with_columns(pl.col("n") + old))
    tx.state["seen"] = tx.state.get("seen", 0) + len(tx)
    tx.publish(out, tx.frame.select("user", "n"), shard_by="user")


def drain(url: Any, stream: str, out: str, **options: Any) -> StreamProcessor:
    """Process all there is."""
    made = processor(url, stream, **options)
    with made:
        for tx in made:
            work(tx, out)
    return made


def totals(url: Any, stream: str) -> pl.DataFrame:
    """Read the totals of all lanes."""
    return redfloe.read_table(url, stream, NAME, "totals", **TABLE).sort("user")


def check(url: Any, stream: str, out: str, rows: Sequence[pl.DataFrame]) -> None:
    """Compare state and outputs with what an undisturbed run leaves."""
    all_rows = pl.concat(rows)
    wanted = all_rows.group_by("user").agg(pl.col("n").sum()).sort("user")
    assert totals(url, stream).equals(wanted)
    written = redfloe.read_stream(url, out, SCHEMA, include_stream=True)
    assert written.select("user", "n").sort("n", "user").equals(all_rows.sort("n", "user"))
    # Each is in the shard that has the tag of its input's.
    entries = redfloe.read_stream(url, stream, SCHEMA, include_stream=True)
    tag = pl.col("_stream").str.extract(r"(\{.*\})$")
    assert set(written.select("user", tag).rows()) == set(entries.select("user", tag).rows())


def held(processors: Sequence[StreamProcessor]) -> list[int]:
    """Count the lanes that each of them has."""
    sessions = [one._session for one in processors]
    return [
        len(one.lanes._held) if one is not None and one.lanes is not None else 0 for one in sessions
    ]
