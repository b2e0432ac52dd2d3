"""Progress bars of scans and writes."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    WriteError,
    read_stream,
    read_stream_async,
    scan_stream,
    sink_stream,
    sink_stream_async,
    write_hashes,
    write_hashes_async,
    write_stream,
    write_stream_async,
)
from redfloe._progress import Bar, share_of
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import SLACK, within
from support.versions import needs_batches


def awaited(call: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    """Make a plain function of a coroutine function."""

    def run(*args: Any, **options: Any) -> Any:
        async def awaiting() -> Any:
            return await call(*args, **options)

        return asyncio.run(awaiting())

    return run


readers = pytest.mark.parametrize("read", [read_stream, awaited(read_stream_async)])

NOWHERE = "redis://127.0.0.1:1"
FRAME = pl.DataFrame({"n": range(2_500)})


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Give the last that bars have shown."""
    pytest.importorskip("tqdm")
    return lambda: capsys.readouterr().err.replace("\n", "\r").strip("\r").split("\r")[-1]


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_scan_shows_rows_bytes_and_its_end(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    engine: Any,
    shown: Callable[[], str],
) -> None:
    add_numbers(client, stream, 3_000)
    lf = scan_stream(any_server.url, stream, NUMBER, progress=True)
    df = lf.filter(pl.col("n") % 2 == 0).collect(engine=engine)
    assert df.height == 1_500
    bar = shown()
    assert bar.startswith(f"scan of '{stream}': 100%")
    assert "3.00k/3.00k" in bar
    assert "rows/s" in bar
    assert "0.1 MB" in bar


@needs_batches
def test_a_scan_shows_the_share_of_its_ids(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    shown: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redfloe._reading.scan._BATCH_SIZE", 100)
    add(client, stream, [(f"{number}-0", {"n": number}) for number in [*range(1, 101), 1001]])
    lf = scan_stream(any_server.url, stream, NUMBER, progress=True)
    batches = iter(lf.collect_batches(chunk_size=100, maintain_order=True))
    assert next(batches).height == 100
    assert sum(batch.height for batch in batches) == 1
    assert "101/101" in shown()


@pytest.mark.usefixtures("shown")
def test_the_share_is_that_of_the_time_of_the_entries_not_since_1970() -> None:
    begin = 1704067200000
    frame = pl.DataFrame({"n": range(100)})
    with Bar("x") as bar:
        for n in range(4):
            first, last = begin + 100 * n, begin + 100 * (n + 1)
            bar.add_range(frame, f"{first}-0", f"{last}-0", begin + 400)
            assert bar._bar.total == 400


@readers
@pytest.mark.parametrize(
    "options",
    [
        {"schema": NUMBER},
        {"schema": {"n": pl.Categorical}},
        {},
        {"rescue_column": "rest", "max_columns": 2},
        {"schema_overrides": {"absent": pl.Int8, "m": pl.Int128}},
        {"infer_schema": True},
        {"last": 150},
        {"count": 250},
        {"count": 0},
        {"start_id": "500"},
    ],
    ids=str,
)
def test_a_read_with_a_bar_gives_the_same_frame(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    options: dict[str, Any],
    read: Callable[..., pl.DataFrame],
    shown: Callable[[], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("redfloe._reading.read._BATCH_SIZE", 100)
    add_numbers(client, stream, 250)
    add(client, stream, [(f"{number}-0", {"m": number, "k": 1}) for number in range(251, 301)])
    df = read(any_server.url, stream, progress=True, **options)
    assert_frame_equal(df, read_stream(any_server.url, stream, **options))
    bar = shown()
    assert bar.startswith(f"read of '{stream}': 100%") if df.height else True
    assert df.n_chunks() <= 1


@readers
@pytest.mark.parametrize("options", [{"group": "g", "consumer": "c"}, {"block_ms": 5}])
def test_a_read_that_may_wait_has_no_bar(
    stream: str, options: dict[str, Any], read: Callable[..., pl.DataFrame]
) -> None:
    pytest.importorskip("tqdm")
    with pytest.raises(ValueError, match="progress shows"):
        read(quick(NOWHERE), stream, NUMBER, progress=True, **options)


@pytest.mark.parametrize(
    ("last", "bounds", "share"),
    [
        ("5-0", ((0, 0), (10, 0)), 0.5),
        ("10-3", ((0, 0), (10, 5)), 1.0),
        ("11-0", ((0, 0), (10, 0)), 1.0),
        ("20-0", ((10, 0), (30, 0)), 0.5),
        ("10-7", ((10, 0), (10, 9)), None),
    ],
)
def test_the_share_is_told_by_the_range(last: str, bounds: Any, share: float | None) -> None:
    assert share_of(last, bounds) == share


def test_an_empty_scan_shows_nothing(
    any_server: Server, stream: str, shown: Callable[[], str]
) -> None:
    assert scan_stream(any_server.url, stream, NUMBER, progress=True).collect().is_empty()
    assert shown() == ""


@needs_batches
@pytest.mark.parametrize("sink", [sink_stream, awaited(sink_stream_async)])
def test_a_sink_shows_its_rows(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    shown: Callable[[], str],
    sink: Callable[..., int],
) -> None:
    assert sink(any_server.url, FRAME.lazy(), stream, chunk_size=100, progress=True) == 2_500
    bar = shown()
    assert bar.startswith(f"sink_stream to '{stream}': 100%")
    assert "2.50k/2.50k" in bar


def test_a_bar_that_ends_early_is_left_as_it_stands(
    any_server: Server, client: redis.Redis, stream: str, shown: Callable[[], str]
) -> None:
    client.set(stream, "text")
    with pytest.raises(TypeError, match="not a stream"):
        write_stream(any_server.url, FRAME, stream, progress=True)
    assert "0.00/2.50k" in shown()


def test_a_callable_is_called_as_before(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    seen: list[int] = []
    write_stream(any_server.url, FRAME, stream, progress=seen.append)
    assert seen[-1] == 2_500
    write_stream(any_server.url, FRAME, stream, progress=False)
    write_stream(any_server.url, FRAME, stream, progress=None)
    assert client.xlen(stream) == 7_500


@pytest.mark.parametrize("write", [write_stream, awaited(write_stream_async)])
def test_a_write_shows_its_rows(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    shown: Callable[[], str],
    write: Callable[..., object],
) -> None:
    write(any_server.url, FRAME, stream, progress=True)
    assert client.xlen(stream) == 2_500
    assert shown().startswith(f"write_stream to '{stream}': 100%")


@pytest.mark.parametrize("write", [write_hashes, awaited(write_hashes_async)])
def test_hashes_show_their_rows(
    any_server: Server, shown: Callable[[], str], write: Callable[..., object]
) -> None:
    seen: list[int] = []
    for progress in (True, seen.append):
        write(any_server.url, FRAME, key_column="n", fields=["n"], progress=progress)
    assert seen[-1] == 2_500
    bar = shown()
    assert bar.startswith("write_hashes: 100%")
    assert "2.50k/2.50k" in bar


def test_a_scan_that_is_collected_in_the_background_shows_its_rows(
    any_server: Server, client: redis.Redis, stream: str, shown: Callable[[], str]
) -> None:
    add_numbers(client, stream, 3_000)
    lf = scan_stream(any_server.url, stream, NUMBER, progress=True)
    assert awaited(lf.collect_async)().height == 3_000
    assert shown().startswith(f"scan of '{stream}': 100%")


AsyncWrite = Callable[..., Awaitable[object]]
KEYS = FRAME.with_columns(k="n")
ASYNC_WRITES: dict[str, AsyncWrite] = {
    "write_stream": lambda url, **options: write_stream_async(
        url, KEYS, "s", batch_size=200, **options
    ),
    "sink_stream": lambda url, **options: sink_stream_async(
        url, KEYS.lazy(), "s", chunk_size=1_000, batch_size=200, **options
    ),
    "write_hashes": lambda url, **options: write_hashes_async(
        url, KEYS, key_column="k", if_exists="merge", batch_size=100, **options
    ),
}
async_writes = pytest.mark.parametrize(
    "name",
    ["write_stream", pytest.param("sink_stream", marks=needs_batches), "write_hashes"],
)


def slowly(proxy: Proxy) -> None:
    """Have a write of 2,500 rows take some tenths of a second."""
    for command in (b"XADD", b"HSET"):
        proxy.before(command, lambda number: time.sleep(0 if number % 100 else 0.01))


@async_writes
def test_an_event_loop_is_told_meanwhile(any_server: Server, name: str) -> None:
    seen: list[int] = []
    threads = set()

    def progress(rows: int) -> None:
        seen.append(rows)
        threads.add(threading.get_ident())

    with Proxy(any_server.port) as proxy:
        slowly(proxy)
        awaited(ASYNC_WRITES[name])(proxy.url, progress=progress)
    assert seen == sorted(seen)
    assert seen[-1] == 2_500
    assert any(0 < rows < 2_500 for rows in seen)
    assert threads == {threading.get_ident()}


@async_writes
def test_a_callable_that_raises_in_an_event_loop_stops_the_write(
    any_server: Server, client: redis.Redis, name: str
) -> None:
    def progress(rows: int) -> None:
        if rows > 0:
            raise LookupError(rows)

    with Proxy(any_server.port) as proxy:
        slowly(proxy)
        with pytest.raises(LookupError) as raised:
            awaited(ASYNC_WRITES[name])(proxy.url, progress=progress)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert 0 < error.rows_written < 2_500
    there = client.dbsize() if name == "write_hashes" else client.xlen("s")
    assert error.rows_written == there


def test_a_read_with_a_bar_can_be_cancelled(
    any_server: Server, client: redis.Redis, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr("redfloe._reading.read._BATCH_SIZE", 1_000)
    add_numbers(client, stream, 30_000)

    async def cancelled(url: str) -> None:
        async with asyncio.timeout(0.2 * SLACK):
            await read_stream_async(url, stream, NUMBER, progress=True)

    for command, skip in ((b"XREVRANGE", 0), (b"XRANGE", 2)):
        with Proxy(any_server.port) as proxy:
            proxy.stall_after(0, once_seen=command, skip=skip)
            with within(1), pytest.raises(TimeoutError):
                asyncio.run(cancelled(proxy.url))


CALLS: list[Callable[[Any], object]] = [
    lambda progress: read_stream(quick(NOWHERE), "s", NUMBER, progress=progress),
    lambda progress: scan_stream(quick(NOWHERE), "s", NUMBER, progress=progress),
    lambda progress: write_stream(quick(NOWHERE), FRAME, "s", progress=progress),
    lambda progress: sink_stream(quick(NOWHERE), FRAME.lazy(), "s", progress=progress),
    lambda progress: write_hashes(quick(NOWHERE), FRAME, key_column="n", progress=progress),
    lambda progress: awaited(read_stream_async)(quick(NOWHERE), "s", NUMBER, progress=progress),
    lambda progress: awaited(write_stream_async)(quick(NOWHERE), FRAME, "s", progress=progress),
    lambda progress: awaited(sink_stream_async)(
        quick(NOWHERE), FRAME.lazy(), "s", progress=progress
    ),
    lambda progress: awaited(write_hashes_async)(
        quick(NOWHERE), FRAME, key_column="n", progress=progress
    ),
]


@pytest.mark.parametrize("call", CALLS)
def test_without_tqdm_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, call: Callable[[Any], object]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tqdm"):
        call(True)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [5, "yes"])
def test_what_is_no_progress_is_refused(call: Callable[[Any], object], wrong: Any) -> None:
    with pytest.raises(TypeError, match="progress must be True"):
        call(wrong)
