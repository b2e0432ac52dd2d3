"""Reads through a consumer group: which entries come to whom, and when they are acknowledged.

Faults are in test_group_faults.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    DecodeError,
    NoGroupError,
    RedisConnectionError,
    WrongTypeError,
    ack_entries,
    iter_stream,
    read_stream,
    stream_batches,
)
from support.groups import DRAIN, ME, deliver, pending
from support.loops import PATIENCE, Follow
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, add_values, numbers
from support.timing import SLACK, Stopwatch, later, meanwhile, within

pytestmark = pytest.mark.timeout(15)


def drained(batches: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Put all batches together."""
    frames = list(batches)
    assert all(frame.height > 0 for frame in frames)
    return pl.concat([numbers(0), *frames])


# Which entries a read gives


@pytest.mark.parametrize("start", ["-", None, ">"])
def test_new_entries_come_once_and_stay_pending(
    server: Server, client: redis.Redis, stream: str, protocol: str, start: str | None
) -> None:
    url = server.url + protocol
    add_numbers(client, stream, 5)
    assert_frame_equal(read_stream(url, stream, NUMBER, start, **ME), numbers(5))
    assert_frame_equal(read_stream(url, stream, NUMBER, start, **ME), numbers(0))
    add_numbers(client, stream, 7, first=6)
    assert_frame_equal(read_stream(url, stream, NUMBER, start, **ME), numbers(7, first=6))
    assert pending(client, stream) == [1, 2, 3, 4, 5, 6, 7]


def test_all_that_is_there_comes_however_many_pages(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 25_000)
    df = read_stream(server.url + protocol, stream, NUMBER, **ME)
    assert_frame_equal(df, numbers(25_000))
    df = read_stream(server.url + protocol, stream, NUMBER, "0", **ME)
    assert_frame_equal(df, numbers(25_000))


@pytest.mark.parametrize("start", ["0", "0-0"])
def test_own_pending_entries_come_as_often_as_they_are_asked_for(
    server: Server, client: redis.Redis, stream: str, protocol: str, start: str
) -> None:
    add_numbers(client, stream, 9)
    deliver(client, stream, 3)
    deliver(client, stream, 2, "other")
    for _ in range(2):
        df = read_stream(server.url + protocol, stream, NUMBER, start, **ME)
        assert_frame_equal(df, numbers(3))
    assert pending(client, stream) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
@pytest.mark.parametrize("start", [">", "0"])
def test_count_is_exact_and_the_rest_is_not_delivered(
    any_server: Server, client: redis.Redis, stream: str, count: int, start: str
) -> None:
    add_numbers(client, stream, 300)
    if start == "0":
        deliver(client, stream, 300)
    df = read_stream(any_server.url, stream, NUMBER, start, count=count, **ME)
    assert_frame_equal(df, numbers(count))
    if start == ">" and count > 0:
        assert pending(client, stream) == [*range(1, count + 1)]


def test_a_read_under_constant_load_ends(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 300)
    last = 300

    def write() -> None:
        nonlocal last
        add_numbers(client, stream, last + 200, first=last + 1)
        last += 200

    with meanwhile(write), within(5):
        df = read_stream(any_server.url, stream, NUMBER, **ME)
    assert_frame_equal(df, numbers(df.height))
    assert df.height >= 300


def test_a_missing_stream_and_group_are_created(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    df = read_stream(server.url + protocol, stream, NUMBER, **ME)
    assert_frame_equal(df, numbers(0))
    assert client.xinfo_groups(stream)[0]["name"] == b"g"
    assert client.xlen(stream) == 0


def test_names_may_be_bytes(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, b"s\xff", 3)
    names: dict[str, Any] = {"group": b"g\xff", "consumer": b"c\0\xff"}
    assert_frame_equal(read_stream(any_server.url, b"s\xff", NUMBER, **names), numbers(3))
    df = read_stream(any_server.url, b"s\xff", NUMBER, "0", **names)
    assert_frame_equal(df, numbers(3))
    assert ack_entries(any_server.url, b"s\xff", b"g\xff", df["_id"]) == 3


def test_an_open_schema_takes_every_field(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"a": "1"}), ("2-0", {"b": "2"})])
    df = read_stream(any_server.url, stream, **ME)
    assert df.rows() == [("1-0", 1, "1", None), ("2-0", 2, None, "2")]


# How a read waits


@pytest.mark.parametrize("block_ms", [0, 5_000])
def test_block_waits_for_the_first_entry(
    server: Server, client: redis.Redis, stream: str, protocol: str, block_ms: int
) -> None:
    with later(0.1, lambda: add_numbers(client, stream, 3)), within(2):
        df = read_stream(server.url + protocol, stream, NUMBER, block_ms=block_ms, **ME)
    assert_frame_equal(df, numbers(3))


def test_block_gives_what_is_there_at_once(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 150)
    with within(1):
        df = read_stream(any_server.url, stream, NUMBER, block_ms=5_000, **ME)
    assert_frame_equal(df, numbers(150))


def test_block_ends_with_an_empty_frame(any_server: Server, stream: str) -> None:
    watch = Stopwatch()
    df = read_stream(any_server.url, stream, NUMBER, block_ms=200, **ME)
    assert_frame_equal(df, numbers(0))
    assert 0.19 < watch.seconds < 1.5 * SLACK


def test_own_pending_entries_are_not_waited_for(any_server: Server, stream: str) -> None:
    with within(1):
        df = read_stream(any_server.url, stream, NUMBER, "0", block_ms=5_000, **ME)
    assert_frame_equal(df, numbers(0))


# What a read acknowledges


@pytest.mark.parametrize("start", [">", "0"])
@pytest.mark.parametrize("entries", [0, 5, 2_500])
def test_auto_ack_acknowledges_the_frame(
    server: Server, client: redis.Redis, stream: str, protocol: str, entries: int, start: str
) -> None:
    add_numbers(client, stream, entries)
    if start == "0":
        deliver(client, stream, max(entries, 1))
    df = read_stream(server.url + protocol, stream, NUMBER, start, auto_ack=True, **ME)
    assert_frame_equal(df, numbers(entries))
    assert pending(client, stream) == []
    assert_frame_equal(read_stream(server.url, stream, NUMBER, "0", **ME), numbers(0))


def test_auto_ack_leaves_others_entries_alone(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 6)
    deliver(client, stream, 3, "other")
    df = read_stream(any_server.url, stream, NUMBER, auto_ack=True, **ME)
    assert_frame_equal(df, numbers(6, first=4))
    assert pending(client, stream) == [1, 2, 3]


def test_noack_leaves_nothing_pending(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 250)
    with Proxy(server.port) as proxy:
        df = read_stream(proxy.url + protocol, stream, NUMBER, noack=True, **ME)
        assert_frame_equal(df, numbers(250))
        assert proxy.count(b"XACK") == 0
    assert pending(client, stream) == []
    assert_frame_equal(read_stream(server.url, stream, NUMBER, noack=True, **ME), numbers(0))


@pytest.mark.parametrize("auto_ack", [False, True])
def test_an_entry_that_cannot_be_decoded_stays_pending(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, auto_ack: bool
) -> None:
    add(client, stream, [("1-0", {"n": 1}), ("2-0", {"n": "x"}), ("3-0", {"n": 3})])
    url = any_server.url + protocol
    with pytest.raises(DecodeError, match="2-0"):
        read_stream(url, stream, NUMBER, auto_ack=auto_ack, **ME)
    assert pending(client, stream) == [1, 2, 3]
    with pytest.raises(DecodeError, match="2-0"):
        read_stream(url, stream, NUMBER, "0", auto_ack=auto_ack, **ME)
    assert pending(client, stream) == [1, 2, 3]
    df = read_stream(url, stream, NUMBER, "0", on_error="null", auto_ack=True, **ME)
    assert df["n"].to_list() == [1, None, 3]
    assert pending(client, stream) == []


# Entries that are deleted while they are pending


@pytest.mark.parametrize("how", ["xdel", "xtrim"])
@pytest.mark.parametrize("auto_ack", [False, True])
def test_deleted_pending_entries_are_acknowledged_and_not_given(
    server: Server, client: redis.Redis, stream: str, protocol: str, how: str, auto_ack: bool
) -> None:
    add_numbers(client, stream, 6)
    deliver(client, stream, 6)
    if how == "xdel":
        client.xdel(stream, "1-0", "2-0", "3-0")
    else:
        client.xtrim(stream, maxlen=3, approximate=False)
    url = server.url + protocol
    df = read_stream(url, stream, NUMBER, "0", auto_ack=auto_ack, **ME)
    assert_frame_equal(df, numbers(6, first=4))
    assert pending(client, stream) == ([] if auto_ack else [4, 5, 6])


def test_deleted_pending_entries_do_not_end_an_iteration(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """More than a page of them, before, between and behind those that are still there."""
    add_numbers(client, stream, 700)
    deliver(client, stream, 650)
    kept = [200, 201, 450, 640]
    client.xdel(stream, *(f"{n}-0" for n in range(1, 651) if n not in kept))
    batches = follow(server.url, stream, NUMBER, batch_size=3, **ME, **DRAIN)
    df = drained(batches)
    assert df["n"].to_list() == [*kept, *range(651, 701)]
    assert pending(client, stream) == df["n"].to_list()


def test_all_pending_entries_are_deleted(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 300)
    deliver(client, stream, 300)
    client.xtrim(stream, maxlen=0, approximate=False)
    assert list(follow(server.url, stream, NUMBER, "0", **ME, **DRAIN)) == []
    assert pending(client, stream) == []
    with later(0.1, lambda: add_numbers(client, stream, 302, first=301)):
        batches = follow(server.url, stream, NUMBER, block_ms=5_000, **ME)
        assert next(batches)["n"][0] == 301


# Which entries an iterator gives


def test_own_pending_entries_come_first_then_new_ones(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 9)
    deliver(client, stream, 3)
    deliver(client, stream, 2, "other")
    deliver(client, stream, 1)
    batches = follow(server.url, stream, NUMBER, **ME)
    assert next(batches)["n"].to_list() == [1, 2, 3, 6]
    assert next(batches)["n"].to_list() == [7, 8, 9]
    with later(0.05, lambda: add_numbers(client, stream, 10, first=10)):
        assert next(batches)["n"].to_list() == [10]
    assert pending(client, stream, "me") == [1, 2, 3, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(("start", "expected"), [(">", [4, 5, 6]), ("0", [1, 2, 3])])
def test_start_id_chooses_new_or_own_pending_ones(
    server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    start: str,
    expected: list[int],
) -> None:
    add_numbers(client, stream, 6)
    deliver(client, stream, 3)
    # Own pending ones come to an end by themselves.
    options = DRAIN if start == ">" else {"block_ms": 0}
    batches = follow(server.url, stream, NUMBER, start, **ME, **options)
    assert drained(batches)["n"].to_list() == expected


def test_one_iterator_gives_no_entry_twice(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 500)
    deliver(client, stream, 200)
    batches = follow(any_server.url, stream, NUMBER, batch_size=7, **ME, **DRAIN)
    assert_frame_equal(drained(batches), numbers(500))
    assert pending(client, stream) == [*range(1, 501)]


@pytest.mark.parametrize("batch_size", [1, 7, 100, 10_000])
def test_batches_are_bounded_by_rows(
    server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    batch_size: int,
) -> None:
    entries = add_numbers(client, stream, 12_345 if batch_size > 7 else 351)
    options: dict[str, Any] = {"batch_size": batch_size, "auto_ack": True, **ME, **DRAIN}
    frames = list(follow(server.url, stream, NUMBER, **options))
    full, rest = divmod(entries, batch_size)
    assert [frame.height for frame in frames] == [batch_size] * full + [rest] * (rest > 0)
    assert_frame_equal(pl.concat(frames), numbers(entries))
    assert pending(client, stream) == []


def test_no_more_is_asked_for_than_the_batch_has_room_for(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """What is delivered is this consumer's: others could not have it."""
    add_numbers(client, stream, 1_000)
    batches = follow(any_server.url, stream, NUMBER, batch_size=10, **ME)
    next(batches)
    assert pending(client, stream) == [*range(1, 11)]


def test_batch_bytes_bound_the_memory_and_lose_no_acknowledgement(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    """A reply is cut into several batches, each acknowledged when its successor is asked for."""
    size, bound = 40_000, 100_000
    add_values(client, stream, [chr(97 + n % 26) * size for n in range(180)])
    batches = follow(
        any_server.url + protocol,
        stream,
        {"x": pl.String},
        batch_bytes=bound,
        batch_size=1_000,
        auto_ack=True,
        **ME,
        **DRAIN,
    )
    given: list[int] = []
    for frame in batches:
        assert frame["x"].str.len_bytes().sum() <= bound + 256 * 1024 + size
        assert not {*given} & {*pending(client, stream)}
        given += frame["_ts"].to_list()
    assert given == [*range(1, 181)]
    assert pending(client, stream) == []


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.parametrize("count", [0, 1, 7, 100, 101])
def test_count_ends_an_iteration(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    count: int,
    batch_size: int,
) -> None:
    add_numbers(client, stream, 120)
    deliver(client, stream, 4)
    options: dict[str, Any] = {"batch_size": batch_size, "auto_ack": True, "block_ms": 5_000}
    with within(2):
        batches = follow(any_server.url, stream, NUMBER, count=count, **options, **ME)
        assert_frame_equal(drained(batches), numbers(count))
    assert pending(client, stream) == [*range(count + 1, 5)]
    assert client.xinfo_groups(stream)[0]["last-delivered-id"] == f"{max(count, 4)}-0".encode()


def test_batch_timeout_collects_until_the_time_is_over(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    options: dict[str, Any] = {"batch_timeout_ms": 400, "block_ms": 5_000}
    batches = follow(any_server.url, stream, NUMBER, **options, **ME)
    first_came = 0.0

    def act() -> None:
        nonlocal first_came
        first_came = time.monotonic()
        for n in range(1, 4):
            add_numbers(client, stream, n, first=n)
            time.sleep(0.05)

    with later(0.1, act):
        df = next(batches)
        took = time.monotonic() - first_came
    assert_frame_equal(df, numbers(3))
    assert 0.39 < took < 1.5


def test_batch_timeout_ends_with_a_full_batch(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 2)
    options: dict[str, Any] = {"batch_timeout_ms": 10_000, "batch_size": 3}
    batches = follow(any_server.url, stream, NUMBER, **options, **ME)
    with later(0.1, lambda: add_numbers(client, stream, 7, first=3)), within(2):
        assert_frame_equal(next(batches), numbers(3))
        assert_frame_equal(next(batches), numbers(6, first=4))


def test_batch_timeout_collects_own_pending_and_new_ones(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    deliver(client, stream, 3)
    batches = follow(any_server.url, stream, NUMBER, batch_timeout_ms=100, **ME, **DRAIN)
    assert_frame_equal(next(batches), numbers(5))


@pytest.mark.parametrize("entries", [0, 5])
def test_on_idle_stop_ends_after_one_empty_poll(
    server: Server, client: redis.Redis, stream: str, follow: Follow, entries: int
) -> None:
    add_numbers(client, stream, entries)
    with Proxy(server.port) as proxy:
        watch = Stopwatch()
        batches = follow(proxy.url, stream, NUMBER, on_idle="stop", block_ms=200, **ME)
        assert_frame_equal(drained(batches), numbers(entries))
        assert 0.19 < watch.seconds < 1.5 * SLACK
        # The own pending entries, the new ones, and perhaps one more that finds nothing.
        assert proxy.count(b"XREADGROUP") == server.refused_reads + 2 + (entries > 0)
        assert list(batches) == []


def test_on_idle_wait_goes_on(
    any_server: Server, client: redis.Redis, stream: str, protocol: str, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        batches = follow(proxy.url + protocol, stream, NUMBER, block_ms=20, **ME)
        with later(0.3, lambda: add_numbers(client, stream, 1)):
            assert_frame_equal(next(batches), numbers(1))
        # Servers look after their clocks ten times a second.
        assert 2 <= proxy.count(b"XREADGROUP") <= 25


def test_a_poll_without_limit(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    with Proxy(any_server.port) as proxy:
        batches = follow(proxy.url, stream, NUMBER, block_ms=0, **ME)
        with later(0.3, lambda: add_numbers(client, stream, 1)):
            assert_frame_equal(next(batches), numbers(1))
        assert proxy.count(b"XREADGROUP") == any_server.refused_reads + 2


# What an iterator acknowledges


def test_a_batch_is_acknowledged_when_the_next_is_asked_for(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 7)
    url = server.url
    batches = follow(url, stream, NUMBER, batch_size=3, auto_ack=True, **ME, **DRAIN)
    seen = []
    for frame in batches:
        seen.append(frame["n"].to_list())
        assert pending(client, stream) == seen[-1]
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]
    assert pending(client, stream) == []


def test_acknowledgements_go_along_with_the_next_read(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5_000)
    with Proxy(any_server.port) as proxy:
        options: dict[str, Any] = {"batch_size": 2_500, "auto_ack": True, **ME, **DRAIN}
        batches = follow(proxy.url, stream, NUMBER, **options)
        assert_frame_equal(drained(batches), numbers(5_000))
        names = [command[0] for command in proxy.commands]
        assert proxy.connections == 1
    # A thousand IDs a command, each but the last batch's right before the read it goes with.
    assert names.count(b"XACK") == 6
    first = names.index(b"XACK")
    assert names[first : first + 4] == [b"XACK"] * 3 + [b"XREADGROUP"]
    assert pending(client, stream) == []


def test_what_is_asked_for_again_after_the_end_is_acknowledged_once(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        batches = iter_stream(proxy.url, stream, NUMBER, auto_ack=True, **ME, **DRAIN)
        assert_frame_equal(drained(batches), numbers(5))
        assert list(batches) == []
        assert proxy.count(b"XACK") == 1


@pytest.mark.parametrize("how", ["break", "exception", "close"])
def test_a_batch_in_hand_stays_pending_and_comes_first(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    add_numbers(client, stream, 9)
    options: dict[str, Any] = {"batch_size": 3, "auto_ack": True, **ME, **DRAIN}
    batches = iter_stream(any_server.url, stream, NUMBER, **options)
    try:
        for frame in batches:
            if frame["n"][0] == 4:
                if how == "exception":
                    raise ZeroDivisionError
                if how == "close":
                    batches.close()
                break
    except ZeroDivisionError:
        pass
    del batches
    assert pending(client, stream) == [4, 5, 6]
    again = iter_stream(any_server.url, stream, NUMBER, **options)
    assert_frame_equal(drained(again), numbers(9, first=4))
    assert pending(client, stream) == []


def test_without_auto_ack_the_caller_acknowledges(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 7)
    url = server.url
    for frame in follow(url, stream, NUMBER, batch_size=3, **ME, **DRAIN):
        assert pending(client, stream) == frame["n"].to_list()
        assert ack_entries(url, stream, "g", frame["_id"]) == frame.height
    assert pending(client, stream) == []


@pytest.mark.parametrize("auto_ack", [False, True])
def test_noack_of_an_iterator(
    server: Server, client: redis.Redis, stream: str, follow: Follow, auto_ack: bool
) -> None:
    """What the server has acknowledged is not pending; what was pending before still is."""
    add_numbers(client, stream, 9)
    deliver(client, stream, 2)
    options: dict[str, Any] = {"batch_size": 3, "noack": True, "auto_ack": auto_ack}
    batches = follow(server.url, stream, NUMBER, **options, **ME, **DRAIN)
    assert_frame_equal(drained(batches), numbers(9))
    assert pending(client, stream) == ([] if auto_ack else [1, 2])


@pytest.mark.parametrize("batch_size", [1, 10, 100])
def test_an_iterator_does_not_skip_what_cannot_be_decoded(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, batch_size: int
) -> None:
    add_numbers(client, stream, 20)
    client.xadd(stream, {"n": "x"}, id="21-0")
    add_numbers(client, stream, 40, first=22)
    options: dict[str, Any] = {"batch_size": batch_size, "auto_ack": True, **ME, **DRAIN}
    batches = follow(any_server.url, stream, NUMBER, **options)
    before = 20
    for first in range(1, before + 1, batch_size):
        last = min(first + batch_size - 1, before)
        assert_frame_equal(next(batches), numbers(last, first=first))
    for _ in range(3):
        with pytest.raises(DecodeError, match="21-0"):
            next(batches)
        assert 21 in pending(client, stream)
        assert not {*pending(client, stream)} & {*range(1, before + 1)}
    # Whoever has seen to it acknowledges it; then it does not come again.
    assert ack_entries(any_server.url, stream, "g", ["21-0"]) == 1
    rest = drained(batches)["n"].to_list()
    assert rest == [n for n in range(before + 1, 41) if n != 21]
    assert pending(client, stream) == []


# Groups


@pytest.mark.parametrize(
    ("start", "first"),
    [
        ("0", 1),
        ("0-0", 1),
        ("$", 11),
        ("4-0", 5),
        ("4", 5),
        ("4-7", 5),
        # A time is that from which on entries are wanted.
        (dt.datetime.fromtimestamp(0, dt.UTC), 1),
        (dt.datetime.fromtimestamp(0.005, dt.UTC), 5),
        (dt.datetime(1970, 1, 1, 0, 0, 0, 4_001), 5),  # noqa: DTZ001
    ],
    ids=str,
)
def test_group_start_id(
    server: Server, client: redis.Redis, stream: str, start: str | dt.datetime, first: int
) -> None:
    add_numbers(client, stream, 10)
    df = read_stream(server.url, stream, NUMBER, group_start_id=start, **ME)
    assert_frame_equal(df, numbers(10, first=first))
    add_numbers(client, stream, 11, first=11)
    df = read_stream(server.url, stream, NUMBER, group_start_id=start, **ME)
    assert_frame_equal(df, numbers(11, first=11))


def test_group_start_id_says_nothing_to_a_group_that_exists(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 10)
    client.xgroup_create(stream, "g", "3")
    batches = follow(any_server.url, stream, NUMBER, group_start_id="$", **ME, **DRAIN)
    assert_frame_equal(drained(batches), numbers(10, first=4))


def test_iter_stream_creates_the_group_when_it_is_called(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    batches = iter_stream(any_server.url, stream, NUMBER, group_start_id="$", **ME)
    add_numbers(client, stream, 5, first=4)
    assert_frame_equal(next(batches), numbers(5, first=4))


@pytest.mark.parametrize("exists", [False, True], ids=["no-stream", "no-group"])
@pytest.mark.parametrize("start", [">", "0"])
def test_a_missing_group_raises(
    server: Server, client: redis.Redis, stream: str, protocol: str, exists: bool, start: str
) -> None:
    if exists:
        add_numbers(client, stream, 3)
    url = server.url + protocol
    for block_ms in (None, 5_000):
        with within(2), pytest.raises(NoGroupError, match=stream) as raised:
            read_stream(url, stream, NUMBER, start, create_group=False, block_ms=block_ms, **ME)
        assert raised.value.code == "NOGROUP"
    assert client.exists(stream) == exists


def test_an_iterator_over_a_missing_group_raises_each_time(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    batches = follow(any_server.url, stream, NUMBER, create_group=False, **ME, **DRAIN)
    for _ in range(2):
        with within(2), pytest.raises(NoGroupError, match=stream):
            next(batches)
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    assert_frame_equal(drained(batches), numbers(3))


@pytest.mark.parametrize("create_group", [False, True])
def test_a_key_of_another_type(
    server: Server, client: redis.Redis, stream: str, protocol: str, create_group: bool
) -> None:
    client.set(stream, "x")
    url = server.url + protocol
    for start in (">", "0"):
        with within(2), pytest.raises(WrongTypeError, match=stream):
            read_stream(url, stream, None, start, create_group=create_group, **ME)
    with pytest.raises(WrongTypeError, match=stream):
        ack_entries(server.url, stream, "g", ["1-0"])


# Arguments


@pytest.mark.parametrize("function", [read_stream, iter_stream, stream_batches])
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"group": "g"}, ValueError),
        ({"consumer": "c"}, ValueError),
        ({"auto_ack": True}, ValueError),
        ({"noack": True}, ValueError),
        ({"group": 5, "consumer": "c"}, TypeError),
        ({**ME, "consumer": 5}, TypeError),
        ({**ME, "start_id": "5-0"}, ValueError),
        ({**ME, "start_id": "$"}, ValueError),
        ({**ME, "start_id": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}, ValueError),
        ({**ME, "end_id": "5-0"}, ValueError),
        ({**ME, "group_start_id": "x"}, ValueError),
        ({**ME, "group_start_id": "-"}, ValueError),
        ({**ME, "group_start_id": "+"}, ValueError),
        ({**ME, "group_start_id": "(5-0"}, ValueError),
        ({**ME, "group_start_id": 5.0}, TypeError),
        ({**ME, "group_start_id": dt.datetime(1969, 1, 1, tzinfo=dt.UTC)}, ValueError),
    ],
    ids=str,
)
def test_bad_arguments_raise_at_once(
    function: Callable[..., object], options: dict[str, Any], error: type[Exception]
) -> None:
    """Before there is a connection, which this address would refuse."""
    with pytest.raises(error) as raised:
        function(**{"url": "redis://127.0.0.1:1", "stream": "s", **options})
    assert not isinstance(raised.value, RedisConnectionError)


# ack_entries


def test_ack_entries_counts_what_was_pending(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 6)
    deliver(client, stream, 4)
    url = server.url + protocol
    assert ack_entries(url, stream, "g", ["1-0", "2-0"]) == 2
    assert ack_entries(url, stream, "g", pl.Series(["2-0", "3-0"])) == 1
    assert ack_entries(url, stream, "g", (str(one) for one in ["3-0", "9-9", "5-0"])) == 0
    assert pending(client, stream) == [4]
    df = read_stream(url, stream, NUMBER, "0", **ME)
    assert ack_entries(url, stream, "g", df["_id"]) == 1
    assert pending(client, stream) == []


@pytest.mark.parametrize(
    "ids", [[], pl.Series([], dtype=pl.String), iter(())], ids=["list", "series", "iterator"]
)
def test_no_ids_send_nothing(ids: Any) -> None:
    """This address would refuse a connection."""
    assert ack_entries("redis://127.0.0.1:1", "s", "g", ids) == 0


def test_ack_entries_of_a_missing_stream_or_group(
    server: Server, client: redis.Redis, stream: str
) -> None:
    assert ack_entries(server.url, stream, "g", ["1-0"]) == 0
    add_numbers(client, stream, 3)
    assert ack_entries(server.url, stream, "g", ["1-0"]) == 0


@pytest.mark.parametrize(
    ("entries", "commands"), [(1, 1), (999, 1), (1_000, 1), (1_001, 2), (2_500, 3)]
)
def test_many_ids_are_split(
    any_server: Server, client: redis.Redis, stream: str, entries: int, commands: int
) -> None:
    add_numbers(client, stream, entries)
    deliver(client, stream, entries)
    with Proxy(any_server.port) as proxy:
        acknowledged = ack_entries(proxy.url, stream, "g", numbers(entries)["_id"])
        assert acknowledged == entries
        assert proxy.count(b"XACK") == commands
    assert pending(client, stream) == []


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ("1-0", TypeError),
        (b"1-0", TypeError),
        ([1], TypeError),
        ([None], TypeError),
        (["1-0", "x"], ValueError),
        (["1"], ValueError),
        ([""], ValueError),
        (5, TypeError),
    ],
    ids=str,
)
def test_bad_ids_raise_before_anything_is_sent(ids: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        ack_entries("redis://127.0.0.1:1", "s", "g", ids)
    assert not isinstance(raised.value, RedisConnectionError)


# Several consumers


@pytest.mark.parametrize("seed", range(4))
def test_consumers_share_a_stream(
    server: Server, client: redis.Redis, stream: str, seed: int
) -> None:
    """In random portions, leaving and coming back: each entry is given, and given once."""
    chance = random.Random(seed)
    last = 2_000
    portions = [[chance.randint(1, 60) for _ in range(400)] for _ in range(3)]

    def consume(number: int) -> list[int]:
        mine: list[int] = []
        for size in portions[number]:
            options: dict[str, Any] = {"batch_size": size, "auto_ack": True, "count": 5 * size}
            name = f"worker-{number}"
            for frame in iter_stream(
                server.url, stream, NUMBER, group="g", consumer=name, **options, **DRAIN
            ):
                mine += frame["n"].to_list()
            if written.is_set() and client.xinfo_groups(stream)[0]["last-delivered-id"] == end:
                break
        return mine

    written = threading.Event()
    end = f"{last}-0".encode()
    client.xgroup_create(stream, "g", "0", mkstream=True)
    with ThreadPoolExecutor(3) as pool:
        consuming = pool.map(consume, range(3))
        with server.client() as writer:
            first = 1
            while first <= last:
                upto = min(last, first + chance.randint(0, 100))
                add_numbers(writer, stream, upto, first=first)
                first = upto + 1
        written.set()
        shares = list(consuming)
    assert sorted(n for share in shares for n in share) == [*range(1, last + 1)]
    assert all(share == sorted(share) for share in shares)
    assert pending(client, stream) == []


def test_tasks_with_consumers_of_their_own_share_a_stream(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1_000)

    async def consume(number: int) -> list[int]:
        mine: list[int] = []
        options: dict[str, Any] = {"batch_size": 7, "auto_ack": True, **DRAIN}
        async for frame in stream_batches(
            any_server.url, stream, NUMBER, group="g", consumer=f"task-{number}", **options
        ):
            mine += frame["n"].to_list()
            await asyncio.sleep(0)
        return mine

    async def main() -> list[list[int]]:
        return await asyncio.wait_for(asyncio.gather(*map(consume, range(10))), PATIENCE)

    shares = asyncio.run(main())
    assert sorted(n for share in shares for n in share) == [*range(1, 1_001)]
    assert pending(client, stream) == []


def test_a_restarted_worker_finds_what_it_had_and_not_what_others_have(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 10)
    first = follow(any_server.url, stream, NUMBER, batch_size=2, group="g", consumer="a")
    other = follow(any_server.url, stream, NUMBER, batch_size=2, group="g", consumer="b")
    assert next(first)["n"].to_list() == [1, 2]
    assert next(other)["n"].to_list() == [3, 4]
    assert next(first)["n"].to_list() == [5, 6]
    del first
    again = follow(any_server.url, stream, NUMBER, group="g", consumer="a", **DRAIN)
    assert drained(again)["n"].to_list() == [1, 2, 5, 6, 7, 8, 9, 10]
