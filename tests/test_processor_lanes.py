"""Processors of a sharded stream: a lane for each shard, shared by their leases."""

from __future__ import annotations

import threading
import time
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import StreamProcessor
from support.server import Server
from support.shards import SCHEMA, TAGS, frame
from support.timing import eventually


@pytest.fixture
def events(any_server: Server, stream: str) -> str:
    redfloe.write_stream(any_server.url, frame(), stream, shards=8, shard_by="user")
    return stream


def total(tx: Any) -> None:
    table = tx.table("totals", key="user", schema={"n": pl.Int64})
    new = tx.frame.group_by("user").agg(pl.col("n").sum())
    old = table.lookup(new["user"])["n"].fill_null(0)
    table.upsert(new.with_columns(pl.col("n") + old))
    tx.publish(f"{tx.test_out}", tx.frame.select("user", "n"), shard_by="user")


def totals(url: str, stream: str) -> pl.DataFrame:
    tables = [
        redfloe.read_table(
            url, f"{stream}:{{{tag}}}", "p", "totals", key="user", schema={"n": pl.Int64}
        )
        for tag in TAGS
    ]
    return pl.concat(tables).sort("user")


def expected(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.group_by("user").agg(pl.col("n").sum()).sort("user")


def processor(url: str, stream: str, **options: Any) -> StreamProcessor:
    given: Any = {"on_idle": "stop", "block_ms": 1, "lease_ms": 300, "batch_size": 20} | options
    return StreamProcessor(url, stream, name="p", schema=SCHEMA, **given)


def work(url: str, stream: str, out: str, **options: Any) -> StreamProcessor:
    p = processor(url, stream, **options)
    with p:
        for tx in p:
            tx.test_out = out
            total(tx)
    return p


def test_one_processor_has_all_lanes(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"
    work(url, events, out)
    assert_frame_equal(totals(url, events), expected(frame()))
    written = redfloe.read_stream(url, out, SCHEMA, include_stream=True)
    assert_frame_equal(written.select("user", "n").sort("n"), frame())
    # Each is in the shard of its own.
    there = redfloe.read_stream(url, events, SCHEMA, include_stream=True)
    shards = {row["n"]: row["_stream"].rpartition(":")[2] for row in there.iter_rows(named=True)}
    assert {row["n"]: row["_stream"].rpartition(":")[2] for row in written.iter_rows(named=True)} == shards
    work(url, events, out)
    assert redfloe.read_stream(url, out).height == 500


def test_several_share_the_lanes(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"
    processors = [processor(url, events, on_idle="wait", block_ms=50) for _ in range(3)]

    def run(p: StreamProcessor) -> None:
        with p:
            for tx in p:
                tx.test_out = out
                total(tx)

    def held() -> list[int]:
        return [len(p._session.lanes._held) if p._session and p._session.lanes else 0 for p in processors]

    threads = [threading.Thread(target=run, args=(p,), daemon=True) for p in processors]
    threads[0].start()
    eventually(lambda: held() == [8, 0, 0])
    threads[1].start()
    eventually(lambda: held() == [4, 4, 0])
    threads[2].start()
    eventually(lambda: sorted(held()) == [2, 3, 3])
    redfloe.write_stream(url, frame().with_columns(pl.col("n") + 500), events)
    both = pl.concat([frame(), frame().with_columns(pl.col("n") + 500)])
    eventually(lambda: totals(url, events).equals(expected(both)))
    processors[0].stop()
    threads[0].join(5)
    eventually(lambda: held()[1:] == [4, 4])
    for p in processors[1:]:
        p.stop()
    for thread in threads[1:]:
        thread.join(5)
    assert sorted(redfloe.read_stream(url, out, SCHEMA)["n"]) == sorted(both["n"])
    assert time.monotonic() > 0


def test_tables_are_by_what_divides_the_stream(any_server: Server, events: str) -> None:
    with processor(any_server.url, events) as p:
        tx = next(p)
        with pytest.raises(ValueError, match="user"):
            tx.table("t", key="n", schema={"user": pl.String})
