"""`iter_stream` and `stream_batches`: which entries come, when, and in which batches.

Faults are in test_follow_faults.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import psutil
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    RedisConnection,
    RedisConnectionError,
    SchemaError,
    iter_stream,
    read_stream,
    stream_batches,
)
from support.loops import LOOPS, Follow
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, add_values, numbers
from support.timing import SLACK, Stopwatch, eventually, later, meanwhile, within

pytestmark = pytest.mark.timeout(15)


def drained(batches: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """Put all batches together."""
    frames = list(batches)
    assert all(frame.height > 0 for frame in frames)
    return pl.concat(frames) if frames else numbers(0)


def take(batches: Iterator[pl.DataFrame], rows: int) -> pl.DataFrame:
    """Ask for batches until there are so many rows, and not one more."""
    frames = [numbers(0)]
    while (height := sum(frame.height for frame in frames)) < rows:
        frames.append(next(batches))
        assert frames[-1].height > 0
    assert height == rows
    return pl.concat(frames)


class Writer:
    """Adds numbered entries, `1-0` and on, a few at a time."""

    def __init__(self, client: redis.Redis, stream: str, *, pause: float = 0.0) -> None:
        self.last = 0
        self._client, self._stream, self._pause = client, stream, pause

    def __call__(self) -> None:
        more = self.last % 5 + 1
        add_numbers(self._client, self._stream, self.last + more, first=self.last + 1)
        self.last += more
        time.sleep(self._pause)


# Where it begins


def test_what_is_there_comes_first_and_then_what_is_added(
    server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(server.url + protocol, stream, NUMBER, "-")
    assert_frame_equal(next(batches), numbers(3))
    with later(0.05, lambda: add_numbers(client, stream, 5, first=4)):
        assert_frame_equal(take(batches, 2), numbers(5, first=4))
    add_numbers(client, stream, 10, first=6)
    assert_frame_equal(next(batches), numbers(10, first=6))


@pytest.mark.parametrize("options", [{}, {"start_id": None}, {"start_id": "$"}], ids=str)
def test_by_default_only_what_is_added_comes(
    server: Server, client: redis.Redis, stream: str, follow: Follow, options: dict[str, Any]
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(server.url, stream, NUMBER, **options)
    with later(0.1, lambda: add_numbers(client, stream, 8, first=6)):
        assert_frame_equal(take(batches, 3), numbers(8, first=6))


def test_the_newest_entry_is_the_one_of_the_call(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 5)
    batches = iter_stream(server.url + protocol, stream, NUMBER)
    add_numbers(client, stream, 9, first=6)
    assert_frame_equal(next(batches), numbers(9, first=6))


def test_the_newest_entry_of_stream_batches_is_the_one_of_the_first_batch(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def main() -> pl.DataFrame:
        batches = stream_batches(any_server.url, stream, NUMBER)
        add_numbers(client, stream, 5)
        asking = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0.1)
        add_numbers(client, stream, 7, first=6)
        return await asking

    assert_frame_equal(runner.run(main()), numbers(7, first=6))


def test_the_newest_entry_is_looked_up_once(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        # An entry just before each poll, which a poll behind "$" would not see.
        proxy.before(b"XREAD", lambda n: add_numbers(client, stream, n, first=n))
        batches = follow(proxy.url, stream, NUMBER, block_ms=5)
        assert_frame_equal(take(batches, 20), numbers(20))
        assert proxy.count(b"XREVRANGE") == 1


def test_nothing_is_missed_while_a_writer_adds(
    server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    write = Writer(client, stream)
    write()
    with meanwhile(write):
        before = write.last
        batches = follow(server.url + protocol, stream, NUMBER, block_ms=2, batch_size=7)
        called = write.last
        frames = [next(batches)]
        while sum(frame.height for frame in frames) < 1_500:
            frames.append(next(batches))
            assert 0 < frames[-1].height <= 7
    df = pl.concat(frames)
    first = df["n"][0]
    assert first > before
    if follow is iter_stream:
        # The writer counts entries after it has added them, five at most.
        assert first <= called + 5 + 1
    assert_frame_equal(df, numbers(first + df.height - 1, first=first))


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("-", 1),
        ("0", 1),
        ("0-1", 1),
        ("5-0", 5),
        ("5", 5),
        ("(5-0", 6),
        ("(4-9", 5),
        (dt.datetime.fromtimestamp(0.005, dt.UTC), 5),
        (dt.datetime(1970, 1, 1, 0, 0, 0, 4_001), 5),  # noqa: DTZ001
    ],
    ids=str,
)
def test_start_id(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    start: str | dt.datetime,
    first: int,
) -> None:
    add_numbers(client, stream, 10)
    batches = follow(any_server.url, stream, NUMBER, start)
    assert_frame_equal(next(batches), numbers(10, first=first))
    add_numbers(client, stream, 12, first=11)
    assert_frame_equal(next(batches), numbers(12, first=11))


@pytest.mark.parametrize("start", ["100-0", "(99-7"])
def test_a_start_that_is_yet_to_come(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, start: str
) -> None:
    add_numbers(client, stream, 10)
    batches = follow(any_server.url, stream, NUMBER, start, block_ms=10)

    def act() -> None:
        add_numbers(client, stream, 99, first=11)
        time.sleep(0.1)
        add_numbers(client, stream, 102, first=100)

    with later(0.1, act):
        assert_frame_equal(next(batches), numbers(102, first=100))


def test_a_start_behind_the_greatest_id(any_server: Server, stream: str, follow: Follow) -> None:
    last = f"{2**64 - 1}-{2**64 - 1}"
    batches = follow(any_server.url, stream, NUMBER, f"({last}", on_idle="stop", block_ms=10)
    assert list(batches) == []


def test_a_missing_stream_is_waited_for(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    for start in ("-", "$", "5-0"):
        batches = follow(any_server.url + protocol, stream, NUMBER, start, block_ms=20)
        with later(0.1, lambda: add_numbers(client, stream, 7, first=6)):
            assert_frame_equal(next(batches), numbers(7, first=6))
        client.delete(stream)


# Where it ends


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("7-0", 7),
        ("7", 7),
        ("(7-0", 6),
        (dt.datetime.fromtimestamp(0.007, dt.UTC), 7),
        ("9-999", 9),
    ],
    ids=str,
)
def test_end_id(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    end: str | dt.datetime,
    last: int,
    batch_size: int,
) -> None:
    add_numbers(client, stream, 20)
    batches = follow(
        any_server.url, stream, NUMBER, "-", end, batch_size=batch_size, block_ms=5_000
    )
    with within(1):
        assert_frame_equal(drained(batches), numbers(last))


def test_the_last_entry_before_the_end_comes_late(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url + protocol, stream, NUMBER, "-", "5-0", block_ms=50)
    assert_frame_equal(next(batches), numbers(3))
    with later(0.1, lambda: add_numbers(client, stream, 4, first=4)):
        assert_frame_equal(next(batches), numbers(4, first=4))
    with later(0.1, lambda: add_numbers(client, stream, 5, first=5)), within(1):
        assert_frame_equal(drained(batches), numbers(5, first=5))


def test_an_entry_beyond_the_end_ends_it(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url + protocol, stream, NUMBER, "-", "5-5", block_ms=5_000)
    assert_frame_equal(next(batches), numbers(3))
    with later(0.1, lambda: add_numbers(client, stream, 9, first=9)), within(1):
        assert list(batches) == []


def test_an_end_that_a_writer_runs_past(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """What comes before the end in the instant in which it is passed is not lost."""
    for end in range(10, 90, 10):
        batches = follow(any_server.url, stream, NUMBER, "-", f"{end}-0", block_ms=2)
        with meanwhile(Writer(client, stream, pause=0.001)):
            assert_frame_equal(drained(batches), numbers(end))
        client.delete(stream)


@pytest.mark.parametrize(("start", "end"), [("6-0", "5-0"), ("(5-0", "5-0"), ("-", "-")])
def test_an_end_before_the_start(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, start: str, end: str
) -> None:
    for entries in (0, 10):
        add_numbers(client, stream, entries)
        with within(0.5):
            assert list(follow(any_server.url, stream, NUMBER, start, end, block_ms=5_000)) == []


def test_an_end_whose_entries_were_deleted(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """No entry can come up to the end any more, though none is there to say so."""
    add_numbers(client, stream, 9)
    client.xdel(stream, *(f"{n}-0" for n in range(4, 10)))
    with within(1):
        batches = follow(any_server.url, stream, NUMBER, "-", "5-0", block_ms=20)
        assert_frame_equal(next(batches), numbers(3))
        with later(1.5, lambda: add_numbers(client, stream, 10, first=10)):
            assert list(batches) == []


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("count", [1, 7, 99, 100, 101, 250])
def test_count(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    count: int,
    batch_size: int,
) -> None:
    add_numbers(client, stream, 300)
    batches = follow(
        any_server.url, stream, NUMBER, "-", count=count, batch_size=batch_size, block_ms=5_000
    )
    with within(1):
        assert_frame_equal(drained(batches), numbers(count))


def test_count_of_what_is_yet_to_come(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url + protocol, stream, NUMBER, "-", count=5, block_ms=5_000)
    assert_frame_equal(next(batches), numbers(3))
    with later(0.1, lambda: add_numbers(client, stream, 10, first=4)), within(1):
        assert_frame_equal(drained(batches), numbers(5, first=4))


@pytest.mark.parametrize("start", [None, "-", "5-0"])
def test_a_count_of_zero(follow: Follow, start: str | None) -> None:
    """Not even a connection is needed."""
    with within(0.5):
        assert list(follow("redis://127.0.0.1:1", "s", start_id=start, count=0)) == []


def test_what_has_ended_stays_so(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, "-", on_idle="stop", block_ms=1)
    assert_frame_equal(drained(batches), numbers(3))
    add_numbers(client, stream, 4, first=4)
    assert list(batches) == []


# Batches


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
def test_batches_together_are_the_whole_read(
    server: Server,
    client: redis.Redis,
    stream: str,
    protocol: str,
    follow: Follow,
    batch_size: int,
) -> None:
    entries = add_numbers(client, stream, 25_000 if batch_size > 7 else 701)
    batches = follow(
        server.url + protocol,
        stream,
        NUMBER,
        "-",
        batch_size=batch_size,
        on_idle="stop",
        block_ms=1,
    )
    frames = list(batches)
    full, rest = divmod(entries, batch_size)
    # A batch is what is there: shorter ones come only at the end, all entries being there.
    assert [frame.height for frame in frames] == [batch_size] * full + [rest] * (rest > 0)
    assert_frame_equal(pl.concat(frames), read_stream(server.url, stream, NUMBER))


def test_batch_bytes_bound_the_memory(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    size, bound = 100_000, 250_000
    add_values(client, stream, [chr(97 + n % 26) * size for n in range(60)])
    batches = follow(
        any_server.url, stream, {"x": pl.String}, "-", batch_bytes=bound, count=60, batch_size=60
    )
    frames = list(batches)
    assert pl.concat(frames)["_ts"].to_list() == [*range(1, 61)]
    for frame in frames:
        assert frame["x"].str.len_bytes().sum() <= bound + 256 * 1024 + size
    # Nor are they needlessly small.
    assert all(frame.height >= 2 for frame in frames[:-1])


def test_an_entry_beyond_batch_bytes_comes_alone(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_values(client, stream, ["x" * 1_000_000] * 5)
    batches = follow(any_server.url, stream, None, "-", batch_bytes=1, count=5)
    assert [frame.height for frame in batches] == [1] * 5


def test_a_batch_is_what_is_there(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    """100 entries are a whole page: that there are no more, the reader has to ask."""
    for entries in (1, 5, 99, 100, 101, 900):
        add_numbers(client, stream, entries)
        batches = follow(
            any_server.url + protocol, stream, NUMBER, "-", batch_size=10_000, block_ms=5_000
        )
        with within(0.5):
            assert_frame_equal(next(batches), numbers(entries))
        client.delete(stream)


def test_batch_timeout_collects_until_the_time_is_over(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    batches = follow(any_server.url, stream, NUMBER, "-", batch_timeout_ms=300, block_ms=5_000)
    first_came = 0.0

    def act() -> None:
        nonlocal first_came
        first_came = time.monotonic()
        for n in range(1, 12):
            add_numbers(client, stream, n, first=n)
            time.sleep(0.05)

    with later(0.2, act):
        df = next(batches)
        took = time.monotonic() - first_came
    assert 0.29 < took < 0.5 * SLACK
    assert 4 <= df.height <= 1 + took / 0.05
    assert_frame_equal(df, numbers(df.height))
    with within(0.5):
        rest = next(batches)
    assert_frame_equal(rest, numbers(11, first=df.height + 1))


def test_batch_timeout_counts_from_what_was_there(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, "-", batch_timeout_ms=200, block_ms=10)
    watch = Stopwatch()
    assert_frame_equal(next(batches), numbers(3))
    assert 0.19 < watch.seconds < 0.4 * SLACK


def test_batch_timeout_ends_with_a_full_batch(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 2)
    batches = follow(any_server.url, stream, NUMBER, "-", batch_timeout_ms=10_000, batch_size=3)
    with later(0.1, lambda: add_numbers(client, stream, 7, first=3)), within(1):
        assert_frame_equal(next(batches), numbers(3))
        assert_frame_equal(next(batches), numbers(6, first=4))


@pytest.mark.parametrize("group", [{}, {"group": "g", "consumer": "c"}], ids=["alone", "group"])
def test_batch_timeout_ends_when_a_poll_finds_nothing_and_is_to_stop(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, group: dict[str, Any]
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(
        any_server.url,
        stream,
        NUMBER,
        None if group else "-",
        batch_timeout_ms=2**63,
        block_ms=200,
        on_idle="stop",
        **group,
    )
    # Entries that come before the poll is over are collected.
    with later(0.1, lambda: add_numbers(client, stream, 4, first=4)), within(2):
        assert_frame_equal(next(batches), numbers(4))
        assert next(batches, None) is None


@pytest.mark.parametrize("options", [{"count": 3}, {"end_id": "3-0"}], ids=str)
def test_batch_timeout_ends_where_nothing_can_come(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, options: dict[str, Any]
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, "-", batch_timeout_ms=10_000, **options)
    with within(1):
        assert_frame_equal(drained(batches), numbers(3))


def test_batch_timeout_up_to_an_end(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, "-", "9-0", batch_timeout_ms=300, block_ms=10)
    watch = Stopwatch()
    with later(0.1, lambda: add_numbers(client, stream, 4, first=4)):
        assert_frame_equal(next(batches), numbers(4))
    assert 0.29 < watch.seconds < 0.5 * SLACK


def test_a_batch_timeout_of_zero_is_none(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, "-", batch_timeout_ms=0, block_ms=5_000)
    # Should it wait for more, then not for ever.
    with later(1.5, lambda: add_numbers(client, stream, 200, first=4)), within(1):
        assert_frame_equal(next(batches), numbers(3))


@pytest.mark.parametrize("entries", [0, 5])
def test_on_idle_stop_ends_after_one_empty_poll(
    server: Server, client: redis.Redis, stream: str, follow: Follow, entries: int
) -> None:
    add_numbers(client, stream, entries)
    with Proxy(server.port) as proxy:
        batches = follow(proxy.url, stream, NUMBER, "-", on_idle="stop", block_ms=200)
        watch = Stopwatch()
        assert_frame_equal(drained(batches), numbers(entries))
        assert 0.19 < watch.seconds < 0.5 * SLACK
        assert proxy.count(b"XREAD") == server.refused_reads + 1 + (entries > 0)


def test_on_idle_stop_up_to_an_end(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(any_server.url, stream, NUMBER, "-", "9-0", on_idle="stop", block_ms=200)
    watch = Stopwatch()
    assert_frame_equal(drained(batches), numbers(5))
    assert 0.19 < watch.seconds < 0.5 * SLACK


def test_on_idle_stop_waits_while_entries_come(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    def act() -> None:
        for n in range(1, 6):
            add_numbers(client, stream, n, first=n)
            time.sleep(0.1)

    with later(0.1, act):
        batches = follow(any_server.url, stream, NUMBER, "-", on_idle="stop", block_ms=250)
        assert_frame_equal(drained(batches), numbers(5))


def test_on_idle_wait_goes_on(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        batches = follow(proxy.url + protocol, stream, NUMBER, block_ms=20)
        with later(0.25, lambda: add_numbers(client, stream, 1)):
            assert_frame_equal(next(batches), numbers(1))
        # Servers look after their clocks ten times a second.
        assert 2 <= proxy.count(b"XREAD") <= 15


def test_a_poll_without_limit(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        batches = follow(proxy.url, stream, NUMBER, block_ms=0)
        with later(0.3, lambda: add_numbers(client, stream, 1)):
            assert_frame_equal(next(batches), numbers(1))
        assert proxy.count(b"XREAD") == any_server.refused_reads + 1


# Columns


def test_an_open_schema_keeps_its_columns(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add(client, stream, [("1-0", {"b": "1"}), ("2-0", {"a": "2", "c": ""}), ("3-0", {"b": "3"})])
    batches = follow(any_server.url + protocol, stream, None, "-", batch_size=1, count=4)
    columns = ["_id", "_ts", "b"]
    assert next(batches).rows(named=True) == [{"_id": "1-0", "_ts": 1, "b": "1"}]
    frame = next(batches)
    assert frame.columns == [*columns, "a", "c"]
    assert frame.row(0) == ("2-0", 2, None, "2", "")
    frame = next(batches)
    assert frame.columns == [*columns, "a", "c"]
    assert frame.row(0) == ("3-0", 3, "3", None, None)
    with later(0.05, lambda: add(client, stream, [("4-0", {"d": "4"})])):
        frame = next(batches)
    assert frame.columns == [*columns, "a", "c", "d"]
    assert frame.row(0) == ("4-0", 4, None, None, None, "4")
    assert list(batches) == []


def test_infer_schema_types_by_what_is_there(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    add(client, stream, [(f"{n}-0", {"n": str(n), "x": f"{n}.5"}) for n in range(1, 4)])
    batches = follow(any_server.url + protocol, stream, None, "-", infer_schema=True, batch_size=2)
    expected = numbers(5).with_columns(x=pl.col("n") + 0.5)
    assert_frame_equal(next(batches), expected[:2])
    assert_frame_equal(next(batches), expected[2:3])
    add(client, stream, [("4-0", {"n": "4", "x": "4.5"}), ("5-0", {"x": "5.5", "n": "5"})])
    assert_frame_equal(next(batches), expected[3:])


def test_infer_schema_waits_for_the_first_entry(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    batches = follow(any_server.url, stream, infer_schema=True, block_ms=20)
    with later(0.1, lambda: add_numbers(client, stream, 1)):
        assert_frame_equal(next(batches), numbers(1))


def test_infer_schema_of_nothing_stops_when_idle(
    any_server: Server, stream: str, follow: Follow
) -> None:
    batches = follow(any_server.url, stream, infer_schema=True, block_ms=100, on_idle="stop")
    watch = Stopwatch()
    assert list(batches) == []
    assert 0.09 < watch.seconds < 0.4 * SLACK


def test_options_of_columns_and_values(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add(client, stream, [("5-7", {"n": "-", "_id": "x"}), ("5-8", {"n": "no"})])
    batches = follow(
        any_server.url,
        stream,
        {"n": pl.Int8},
        "-",
        include_sequence=True,
        include_id=False,
        timestamp_column="at",
        sequence_column="nr",
        timestamp_dtype=pl.Datetime("ms", "UTC"),
        null_values="-",
        on_error="null",
        rescue_column="rest",
        count=2,
        batch_size=1,
    )
    at = dt.datetime.fromtimestamp(0.005, dt.UTC)
    assert [frame.row(0, named=True) for frame in batches] == [
        {"at": at, "nr": 7, "n": None, "rest": '{"_id":"x"}'},
        {"at": at, "nr": 8, "n": None, "rest": '{"n":"no"}'},
    ]


# Arguments


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"batch_size": 0}, ValueError),
        ({"batch_size": -1}, ValueError),
        ({"batch_size": 1.5}, TypeError),
        ({"batch_bytes": 0}, ValueError),
        ({"batch_bytes": "1"}, TypeError),
        ({"batch_timeout_ms": -1}, ValueError),
        ({"block_ms": -1}, ValueError),
        ({"count": -1}, ValueError),
        ({"on_idle": "x"}, ValueError),
        ({"on_idle": None}, TypeError),
        ({"on_error": "x"}, ValueError),
        ({"start_id": "x"}, ValueError),
        ({"end_id": "1-2-3"}, ValueError),
        ({"start_id": 5.0}, TypeError),
        ({"group": "g"}, ValueError),
        ({"group": "g", "consumer": "c", "start_id": "5-0"}, ValueError),
        ({"group": "g", "consumer": "c", "end_id": "5-0"}, ValueError),
        ({"group": 5, "consumer": "c"}, TypeError),
        ({"consumer": "c"}, ValueError),
        ({"auto_ack": True}, ValueError),
        ({"schema": {"n": pl.Object}}, SchemaError),
        ({"schema": {"_id": pl.String}}, SchemaError),
        ({"schema": NUMBER, "infer_schema": True}, ValueError),
        ({"url": "http://h"}, ValueError),
        ({"stream": 5}, TypeError),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [iter_stream, stream_batches])
def test_bad_arguments_raise_at_once(
    function: Callable[..., object], options: dict[str, Any], error: type[Exception]
) -> None:
    """Before there is a connection, which this address would refuse."""
    with pytest.raises(error) as raised:
        function(**{"url": "redis://127.0.0.1:1", "stream": "s", **options})
    assert not isinstance(raised.value, RedisConnectionError)


def test_the_twins_take_the_same_arguments() -> None:
    one, other = (inspect.signature(function) for function in (iter_stream, stream_batches))
    assert one.parameters == other.parameters


# Threads and tasks


def threads() -> int:
    return psutil.Process().num_threads()


def test_200_waits_take_no_threads(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    read_stream(any_server.url, stream)

    async def main() -> list[pl.DataFrame]:
        before = threads()
        iterators = [
            stream_batches(any_server.url, stream, NUMBER, "-", block_ms=5_000) for _ in range(200)
        ]
        asking = [asyncio.ensure_future(anext(batches)) for batches in iterators]
        await asyncio.to_thread(
            eventually, lambda: client.info("clients")["blocked_clients"] == 200
        )
        assert threads() <= before + 5
        add_numbers(client, stream, 3)
        frames = await asyncio.wait_for(asyncio.gather(*asking), 5 * SLACK)
        # To be woken up takes some, for a while.
        assert threads() <= before + 50
        return frames

    for frame in runner.run(main()):
        assert_frame_equal(frame, numbers(3))


def test_many_iterators_in_one_loop(
    any_server: Server, client: redis.Redis, runner: asyncio.Runner
) -> None:
    async def follow(number: int) -> pl.DataFrame:
        batches = stream_batches(any_server.url, f"s{number}", NUMBER, "-", count=30, batch_size=4)
        return pl.concat([frame async for frame in batches])

    async def main() -> list[pl.DataFrame]:
        following = [asyncio.ensure_future(follow(number)) for number in range(50)]
        for n in range(1, 31):
            for number in range(50):
                await asyncio.to_thread(client.xadd, f"s{number}", {"n": n}, id=f"{n}-0")
        return await asyncio.gather(*following)

    for df in runner.run(main()):
        assert_frame_equal(df, numbers(30))


def test_the_loop_goes_on_while_one_task_waits(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def main() -> None:
        asking = asyncio.ensure_future(anext(stream_batches(any_server.url, stream, NUMBER)))
        longest = 0.0
        for _ in range(30):
            watch = Stopwatch()
            await asyncio.sleep(0.01)
            longest = max(longest, watch.seconds)
        assert longest < 0.1
        assert not asking.done()
        add_numbers(client, stream, 1)
        assert_frame_equal(await asking, numbers(1))

    runner.run(main())


def test_tasks_share_an_iterator(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, runner: asyncio.Runner
) -> None:
    """Each entry goes to one of them, and all see the end."""
    url = any_server.url + protocol

    async def main() -> list[pl.DataFrame]:
        batches = stream_batches(url, stream, NUMBER, "-", count=1_000, batch_size=3)
        frames = []

        async def work() -> int:
            mine = 0
            async for frame in batches:
                frames.append(frame)
                mine += 1
                await asyncio.sleep(0)
            return mine

        tasks = [asyncio.ensure_future(work()) for _ in range(5)]
        await asyncio.sleep(0.02)
        for n in range(10):
            await asyncio.to_thread(add_numbers, client, stream, 100 * n + 100, first=100 * n + 1)
        shares = await asyncio.wait_for(asyncio.gather(*tasks), 5 * SLACK)
        assert all(share > 0 for share in shares)
        return frames

    assert_frame_equal(pl.concat(runner.run(main())).sort("n"), numbers(1_000))


def test_threads_share_an_iterator(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    batches = iter_stream(server.url + protocol, stream, NUMBER, "-", count=1_000, batch_size=3)

    def work(_: int) -> list[pl.DataFrame]:
        return list(batches)

    with ThreadPoolExecutor(5) as pool:
        working = pool.map(work, range(5))
        for n in range(10):
            add_numbers(client, stream, 100 * n + 100, first=100 * n + 1)
        frames = [frame for part in working for frame in part]
    assert_frame_equal(pl.concat(frames).sort("n"), numbers(1_000))


def test_an_iterator_moves_between_threads(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10)
    batches = iter_stream(any_server.url, stream, NUMBER, "-", batch_size=1)
    frames = []
    for _ in range(10):
        thread = threading.Thread(target=lambda: frames.append(next(batches)))
        thread.start()
        thread.join()
    assert_frame_equal(pl.concat(frames), numbers(10))


def test_an_iterator_moves_between_loops(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 4)
    batches = stream_batches(any_server.url, stream, NUMBER, "-", batch_size=2)

    async def step() -> pl.DataFrame:
        return await anext(batches)

    frames = []
    for make in LOOPS.values():
        with asyncio.Runner(loop_factory=make) as runner:
            frames.append(runner.run(step()))
    assert_frame_equal(pl.concat(frames), numbers(4))


# Closing


def test_with_and_close_end_an_iteration(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10)
    with iter_stream(any_server.url, stream, NUMBER, "-", batch_size=3) as batches:
        assert_frame_equal(next(batches), numbers(3))
    assert list(batches) == []
    batches.close()


def test_async_with_and_aclose_end_an_iteration(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    add_numbers(client, stream, 10)

    async def main() -> None:
        async with stream_batches(any_server.url, stream, NUMBER, "-", batch_size=3) as batches:
            assert_frame_equal(await anext(batches), numbers(3))
        assert [frame async for frame in batches] == []
        await batches.aclose()

    runner.run(main())


def test_aclose_ends_the_wait_of_another_task(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    connection = RedisConnection(any_server.url, client_name="closed")

    async def main() -> None:
        batches = stream_batches(connection, stream, NUMBER, block_ms=0)
        waiting = [asyncio.ensure_future(anext(batches, None)) for _ in range(3)]
        await asyncio.sleep(0.1)
        await batches.aclose()
        assert await asyncio.wait_for(asyncio.gather(*waiting), 1 * SLACK) == [None] * 3

    runner.run(main())
    time.sleep(0.1)
    assert not [one for one in client.client_list() if one["name"] == "closed"]
