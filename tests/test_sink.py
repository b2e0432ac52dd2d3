"""Queries into streams, batch by batch."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    OutcomeUnknownError,
    SchemaError,
    WriteError,
    _core,
    sink_stream,
    sink_stream_async,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import SLACK, within
from support.versions import needs_batches

pytestmark = needs_batches


def in_loop(*args: Any, **options: Any) -> int:
    return asyncio.run(sink_stream_async(*args, **options))


Sink = Callable[..., int]
sinks = pytest.mark.parametrize("sink", [sink_stream, in_loop])


def numbers(rows: int) -> pl.LazyFrame:
    return pl.LazyFrame().select(n=pl.int_range(rows))


@sinks
def test_a_query_is_written_in_order(
    server: Server, client: redis.Redis, stream: str, sink: Sink
) -> None:
    lf = numbers(2_000).filter(pl.col("n") % 2 == 0)
    assert sink(server.url, lf, stream, chunk_size=100) == 1_000
    read = redfloe.read_stream(server.url, stream, {"n": pl.Int64})
    assert read["n"].to_list() == [*range(0, 2_000, 2)]


@sinks
def test_a_scan_is_copied_with_its_ids(any_server: Server, stream: str, sink: Sink) -> None:
    sink(any_server.url, numbers(500), stream)
    lf = redfloe.scan_stream(any_server.url, stream, {"n": pl.Int64})
    assert sink(any_server.url, lf, f"{stream}-copy", id_column="_id", chunk_size=70) == 500
    assert redfloe.read_stream(any_server.url, f"{stream}-copy").equals(
        redfloe.read_stream(any_server.url, stream)
    )


@sinks
def test_nothing(any_server: Server, client: redis.Redis, stream: str, sink: Sink) -> None:
    assert sink(any_server.url, numbers(0), stream) == 0
    assert not client.exists(stream)


@sinks
def test_rows_are_counted_over_all_chunks(
    any_server: Server, client: redis.Redis, stream: str, sink: Sink
) -> None:
    lf = numbers(100).with_columns(id=pl.format("{}-1", pl.when(n=73).then(0).otherwise("n") + 1))
    with pytest.raises(ValueError, match="does not come after"):
        sink(any_server.url, lf, stream, id_column="id")
    seen: list[int] = []
    with pytest.raises(WriteError) as raised:
        sink(any_server.url, lf, stream, id_column="id", chunk_size=1, progress=seen.append)
    assert client.xlen(stream) == 73 == seen[-1]
    assert "row: 73" in str(raised.value)


@sinks
def test_a_message_counts_rows_as_the_attributes_do(
    any_server: Server, client: redis.Redis, stream: str, sink: Sink
) -> None:
    lf = numbers(100).with_columns(id=pl.format("{}-1", pl.col("n") + 1))

    def overtake(rows: int) -> None:
        if rows == 20:
            client.xadd(stream, {"n": "x"}, id="25-5")

    def refuse(rows: int) -> None:
        if rows == 20:
            proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD", skip=3)

    def lose(rows: int) -> None:
        if rows == 20:
            proxy.cut_after(0, once_seen=b"XADD")

    with pytest.raises(WriteError) as refused:
        sink(any_server.url, lf, stream, id_column="id", chunk_size=10, progress=overtake)
    assert (refused.value.rows_written, refused.value.row) == (20, 20)
    assert "nothing after the first 20 rows has been sent (row: 20, " in str(refused.value)
    client.delete(stream)
    with Proxy(any_server.port) as proxy:
        url = quick(proxy.url, max_retries=0)
        with pytest.raises(WriteError) as refused:
            sink(url, lf, stream, fields=["n"], chunk_size=10, progress=refuse)
        assert (refused.value.rows_written, refused.value.row) == (29, 23)
        assert str(refused.value).startswith("row 23 was refused, 29 of 30 rows are in: ")
        with pytest.raises(OutcomeUnknownError) as lost:
            sink(url, lf, stream, fields=["n"], chunk_size=10, progress=lose)
    error = lost.value
    assert (error.rows_written, error.unknown.start) == (20, 20)
    last = error.unknown.stop - 1
    assert str(error).startswith(f"the answers for rows 20 to {last} were lost")


@sinks
def test_what_ends_a_query_between_its_chunks_has_the_rows_as_its_cause(
    any_server: Server, client: redis.Redis, stream: str, sink: Sink
) -> None:
    def progress(rows: int) -> None:
        if rows == 50:
            raise LookupError

    with pytest.raises(LookupError) as raised:
        sink(any_server.url, numbers(100), stream, chunk_size=10, progress=progress)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.row == error.first_row == error.rows_written == client.xlen(stream) == 50

    lf = numbers(100).with_columns(id=pl.when(pl.col("n") != 30).then(pl.format("{}", "n") + "-1"))
    with pytest.raises(ValueError, match="ID is null") as refused:
        sink(any_server.url, lf, f"{stream}-2", id_column="id", chunk_size=10)
    error = refused.value.__cause__
    assert isinstance(error, WriteError)
    assert error.row == error.rows_written == client.xlen(f"{stream}-2") == 30


@sinks
def test_dtypes_are_refused_before_the_query_runs(stream: str, sink: Sink) -> None:
    def fail(frame: pl.DataFrame) -> pl.DataFrame:
        pytest.fail("it ran")

    lf = numbers(5).with_columns(x=pl.col("n").cast(pl.UInt128)).map_batches(fail)
    with pytest.raises(SchemaError, match="'x' has the dtype"):
        sink("redis://127.0.0.1:1", lf, stream)
    with pytest.raises(TypeError, match="LazyFrame"):
        sink("redis://127.0.0.1:1", pl.DataFrame(), stream)


PEAK = """
    import sys
    from pathlib import Path
    import polars as pl
    import redfloe

    def peak():
        status = Path("/proc/self/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    def sink(rows):
        lf = pl.scan_parquet(sys.argv[2]).head(rows)
        assert redfloe.sink_stream(sys.argv[1], lf, "sunk", maxlen=1000) == rows

    sink(200_000)
    before = peak()
    sink(1_500_000)
    print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_bounded(any_server: Server, tmp_path: Path) -> None:
    """The frame would take 60 MB, and its IDs another 45."""
    path = tmp_path / "numbers.parquet"
    n = pl.col("n")
    frame = numbers(1_500_000).with_columns(a=n * 3, b=n * 0.5, c=n % 7, d=-n).collect()
    frame.write_parquet(path, row_group_size=50_000)
    script = textwrap.dedent(PEAK)
    done = subprocess.run(
        [sys.executable, "-c", script, any_server.url, str(path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < 40_000_000


def test_a_chunk_whose_outcome_nobody_saw_is_unknown(any_server: Server, stream: str) -> None:
    """A signal may be handled after the core is done, and before its outcome is looked at."""
    returned = 0

    def interrupt(frame: FrameType, event: str, called: object) -> None:
        nonlocal returned
        if event == "c_return" and called is _core.write_stream:
            returned += 1
            if returned == 3:
                raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            sink_stream(any_server.url, numbers(100), stream, chunk_size=10)
    finally:
        sys.setprofile(None)
    error = raised.value.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert str(error).startswith("at least 20 rows are in")
    assert (error.rows_written, error.row, error.unknown) == (20, 20, range(20, 30))


@pytest.mark.parametrize("progress", [None, lambda rows: None])
def test_a_cancelled_task_while_the_server_is_silent(
    any_server: Server, stream: str, progress: Any
) -> None:
    async def cancelled() -> None:
        async with asyncio.timeout(0.3 * SLACK):
            await sink_stream_async(
                proxy.url, numbers(100), stream, chunk_size=10, progress=progress
            )

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=25)
        with within(0.3 + 1.3), pytest.raises(TimeoutError) as raised:
            asyncio.run(cancelled())
    assert raised.value.__cause__ is not None
    error = raised.value.__cause__.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert (error.rows_written, error.first_row) == (25, 20)
    assert error.unknown.start == 25


def test_a_cancelled_task_counts_the_rows_of_all_chunks(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    async def cancelled() -> None:
        sink = sink_stream_async(any_server.url, numbers(10**7), stream, chunk_size=1_000)
        task = asyncio.create_task(sink)
        while client.xlen(stream) < 5_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError) as raised:
        asyncio.run(cancelled())
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.rows_written == error.row == client.xlen(stream)
    assert 5_000 <= error.rows_written < 10**7


def test_a_query_that_is_being_computed_holds_up_no_cancelling(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    computing, go_on = threading.Event(), threading.Event()

    def wait(frame: pl.DataFrame) -> pl.DataFrame:
        computing.set()
        go_on.wait(10)
        return frame

    async def cancelled() -> None:
        sink = sink_stream_async(any_server.url, numbers(5).map_batches(wait), stream)
        task = asyncio.create_task(sink)
        await asyncio.to_thread(computing.wait)
        task.cancel()
        try:
            with within(0.5), pytest.raises(asyncio.CancelledError) as raised:
                await task
        finally:
            go_on.set()
        assert isinstance(raised.value.__cause__, WriteError)
        assert raised.value.__cause__.rows_written == 0

    asyncio.run(cancelled())
    assert not client.exists(stream)


def test_the_event_loop_goes_on_meanwhile(any_server: Server, stream: str) -> None:
    def slow(frame: pl.DataFrame) -> pl.DataFrame:
        time.sleep(0.3)
        return frame

    async def count() -> int:
        sink = sink_stream_async(any_server.url, numbers(5).map_batches(slow), stream)
        task = asyncio.create_task(sink)
        turns = 0
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert task.result() == 5
        return turns

    assert asyncio.run(count()) >= 5


def test_a_key_that_is_no_stream_any_more_counts_what_is_in(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def spoil(rows: int) -> None:
        if rows == 20:
            client.set(stream, "x")

    lf = pl.LazyFrame({"n": range(40)})
    match = r"^20 of 40 rows are in, none from row 20 on: "
    with pytest.raises(WriteError, match=match) as raised:
        sink_stream(any_server.url, lf, stream, chunk_size=20, progress=spoil)
    error = raised.value
    assert (error.rows_written, error.row, error.code) == (20, 20, "WRONGTYPE")
    assert "nothing" not in str(error)
