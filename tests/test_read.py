"""`read_stream` on real servers: columns, ranges, pages, waiting. Dtypes are in test_types.py."""

from __future__ import annotations

import datetime as dt
import inspect
import threading
import time
from collections.abc import Callable
from typing import Any, cast
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import RedisConnection, SchemaError, WrongTypeError, _core, _frame, read_stream
from redfloe._arguments import make_request
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, add_raw, numbers, page_sizes
from support.timing import SLACK, Stopwatch, eventually, later, meanwhile, within

CLICKS = (
    ("1704067200000-0", {"user_id": "user_1", "action": "click", "value": "10"}),
    ("1704067200000-1", {"user_id": "user_2", "action": "view"}),
    ("1704067200001-0", {"user_id": "user_1", "action": "größer", "value": "-20", "extra": "x"}),
)
CLICK_SCHEMA = {"user_id": pl.String, "action": pl.String, "value": pl.Int64}
CLICK_FRAME = pl.DataFrame(
    {
        "_id": ["1704067200000-0", "1704067200000-1", "1704067200001-0"],
        "_ts": [1704067200000, 1704067200000, 1704067200001],
        "user_id": ["user_1", "user_2", "user_1"],
        "action": ["click", "view", "größer"],
        "value": [10, None, -20],
    }
)


# Columns


def test_reads_typed_entries(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add(client, stream, CLICKS)
    df = read_stream(server.url + protocol, stream, CLICK_SCHEMA)
    assert_frame_equal(df, CLICK_FRAME)


def test_reads_several_pages(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 30_000)
    df = read_stream(server.url + protocol, stream, NUMBER)
    assert_frame_equal(df, numbers(30_000))


def test_without_a_schema_columns_come_in_order_of_first_appearance(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"b": "1"}), ("2-0", {"c": "2", "a": "3"}), ("3-0", {"b": ""})])
    df = read_stream(server.url, stream)
    expected = pl.DataFrame(
        {
            "_id": ["1-0", "2-0", "3-0"],
            "_ts": [1, 2, 3],
            "b": ["1", None, ""],
            "c": [None, "2", None],
            "a": [None, "3", None],
        }
    )
    assert_frame_equal(df, expected)


def test_a_schema_gives_its_fields_in_its_order_and_nothing_else(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, CLICKS)
    df = read_stream(any_server.url, stream, {"value": pl.Int8, "absent": pl.Date})
    assert df.schema == {"_id": pl.String, "_ts": pl.Int64, "value": pl.Int8, "absent": pl.Date}
    assert df["value"].to_list() == [10, None, -20]
    assert df["absent"].null_count() == 3


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("timestamp", [False, True])
@pytest.mark.parametrize("entry_id", [False, True])
def test_flags_choose_the_metadata_columns(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    entry_id: bool,
    timestamp: bool,
    sequence: bool,
) -> None:
    add(client, stream, CLICKS)
    df = read_stream(
        any_server.url,
        stream,
        {"value": pl.Int64},
        include_id=entry_id,
        include_timestamp=timestamp,
        include_sequence=sequence,
    )
    full = CLICK_FRAME.select("_id", "_ts", pl.Series("_seq", [0, 1, 0], dtype=pl.UInt64), "value")
    wanted = {"_id": entry_id, "_ts": timestamp, "_seq": sequence, "value": True}
    assert_frame_equal(df, full.select(name for name, include in wanted.items() if include))


def test_the_height_survives_without_fields(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, CLICKS)
    df = read_stream(any_server.url, stream, {}, include_timestamp=False)
    assert_frame_equal(df, CLICK_FRAME.select("_id"))


def test_metadata_columns_take_other_names(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_raw(client, stream, "5-7", "_id", "a", "_ts", "b", "_seq", "c")
    df = read_stream(
        any_server.url,
        stream,
        include_sequence=True,
        id_column="id",
        timestamp_column="ms",
        sequence_column="seq",
    )
    assert df.rows(named=True) == [
        {"id": "5-7", "ms": 5, "seq": 7, "_id": "a", "_ts": "b", "_seq": "c"}
    ]


@pytest.mark.parametrize(
    ("field", "parameter"),
    [
        ("_id", "id_column"),
        ("_ts", "timestamp_column"),
        ("_seq", "sequence_column"),
        ("_rescued", "rescue_column"),
    ],
)
def test_a_field_never_overwrites_a_metadata_column(
    any_server: Server, client: redis.Redis, stream: str, field: str, parameter: str
) -> None:
    add(client, stream, [*CLICKS, ("1704067200002-0", {field: "forged"})])
    options: dict[str, Any] = {"include_sequence": True}
    if field == "_rescued":
        options["rescue_column"] = "_rescued"
    with pytest.raises(SchemaError, match=parameter):
        read_stream(any_server.url, stream, **options)
    # A schema skips the field unread.
    assert read_stream(any_server.url, stream, {"action": pl.String}).height == 4


@pytest.mark.parametrize(
    "dtype",
    [
        pl.Int64,
        pl.Int64(),
        pl.Datetime,
        pl.Datetime("ms"),
        pl.Datetime("us"),
        pl.Datetime("ns"),
        pl.Datetime("ms", "UTC"),
        pl.Datetime("us", "America/New_York"),
    ],
    ids=str,
)
def test_timestamp_dtype(any_server: Server, client: redis.Redis, stream: str, dtype: Any) -> None:
    add(client, stream, CLICKS)
    for count in (0, None):
        df = read_stream(any_server.url, stream, CLICK_SCHEMA, count=count, timestamp_dtype=dtype)
        assert df.schema["_ts"] == dtype
        if df.schema["_ts"] != pl.Int64:
            assert isinstance(df.schema["_ts"], pl.Datetime)
            df = df.with_columns(pl.col("_ts").dt.epoch("ms"))
        assert_frame_equal(df, CLICK_FRAME.head(df.height))
    assert df.height == 3


def test_a_timestamp_beyond_its_dtype_raises(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("9223372036854775-0", {"a": "1"}), ("9223372036854776-0", {"a": "2"})])
    us = pl.Datetime("us", "UTC")
    df = read_stream(any_server.url, stream, count=1, timestamp_dtype=us)
    assert df["_ts"].dt.epoch("ms").to_list() == [9223372036854775]
    with pytest.raises(redfloe.DecodeError, match="9223372036854776-0"):
        read_stream(any_server.url, stream, timestamp_dtype=us)
    df = read_stream(any_server.url, stream, timestamp_dtype=us, on_error="null")
    assert df["_ts"].is_null().to_list() == [False, True]


def test_the_stream_may_be_bytes(any_server: Server, client: redis.Redis) -> None:
    name = b"\x00\xff\r\n stream"
    add_numbers(client, name, 3)
    assert_frame_equal(read_stream(any_server.url, name, NUMBER), numbers(3))
    client.rename(name, "größe")
    assert_frame_equal(read_stream(any_server.url, "größe", NUMBER), numbers(3))
    assert_frame_equal(read_stream(any_server.url, "größe".encode(), NUMBER), numbers(3))


# Empty results


@pytest.mark.parametrize("block_ms", [None, 10])
def test_a_missing_or_empty_stream_gives_a_typed_empty_frame(
    server: Server, client: redis.Redis, stream: str, protocol: str, block_ms: int | None
) -> None:
    options: dict[str, Any] = {"schema": CLICK_SCHEMA, "block_ms": block_ms}
    empty = CLICK_FRAME.clear()
    assert_frame_equal(read_stream(server.url + protocol, stream, **options), empty)
    add(client, stream, CLICKS)
    client.xtrim(stream, maxlen=0, approximate=False)
    assert client.exists(stream)
    assert_frame_equal(read_stream(server.url + protocol, stream, **options), empty)


def test_a_missing_stream_without_a_schema_has_the_metadata_columns(
    any_server: Server, stream: str
) -> None:
    df = read_stream(any_server.url, stream, include_sequence=True, rescue_column="rest")
    assert df.is_empty()
    assert df.schema == {"_id": pl.String, "_ts": pl.Int64, "_seq": pl.UInt64, "rest": pl.String}


@pytest.mark.parametrize("block_ms", [None, 10, 0])
def test_a_key_of_another_type_raises(
    server: Server, client: redis.Redis, stream: str, protocol: str, block_ms: int | None
) -> None:
    client.set(stream, "text")
    with within(1), pytest.raises(WrongTypeError, match=stream) as raised:
        read_stream(server.url + protocol, stream, block_ms=block_ms)
    assert raised.value.code == "WRONGTYPE"


# How many


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 500, 2_999, 3_000, 3_001, 2**63 - 1, 2**70])
def test_count_is_exact(any_server: Server, client: redis.Redis, stream: str, count: int) -> None:
    add_numbers(client, stream, 3_000)
    df = read_stream(any_server.url, stream, NUMBER, count=count)
    assert_frame_equal(df, numbers(min(count, 3_000)))


@pytest.mark.parametrize("count", [1, 700])
def test_count_is_exact_within_a_range(
    server: Server, client: redis.Redis, stream: str, count: int
) -> None:
    add_numbers(client, stream, 3_000)
    df = read_stream(server.url, stream, NUMBER, "1001", "2500", count)
    assert_frame_equal(df, numbers(1000 + count, first=1001))


def test_no_more_is_asked_for_than_wanted(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3_000)
    with Proxy(any_server.port) as proxy:
        read_stream(proxy.url, stream, count=510)
        sizes = page_sizes(proxy)
    assert sum(sizes) == 510
    assert len(sizes) > 1


# Ranges

MAX = 2**64 - 1


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("-", "+", ["1-0", "1-1", "2-0", "2-5", "3-0"]),
        ("1-1", "2-5", ["1-1", "2-0", "2-5"]),
        ("(1-1", "2-5", ["2-0", "2-5"]),
        ("1-1", "(2-5", ["1-1", "2-0"]),
        ("(1-1", "(2-0", []),
        ("1", "2", ["1-0", "1-1", "2-0", "2-5"]),
        ("2", "2", ["2-0", "2-5"]),
        ("(1", "2", ["1-1", "2-0", "2-5"]),
        ("1", "(2", ["1-0", "1-1", "2-0", "2-5"]),
        ("2-1", "2-4", []),
        ("2-1", "+", ["2-5", "3-0"]),
        ("-", "2-1", ["1-0", "1-1", "2-0"]),
        ("3-0", "3-0", ["3-0"]),
        ("3", "+", ["3-0"]),
        ("4", "+", []),
        ("$", "+", []),
        ("-", "$", ["1-0", "1-1", "2-0", "2-5", "3-0"]),
        ("2", "$", ["2-0", "2-5", "3-0"]),
        ("+", "+", []),
        ("-", "-", []),
        ("3-0", "1-0", []),
        ("3", "2", []),
        ("+", "-", []),
        ("0", f"{MAX}", ["1-0", "1-1", "2-0", "2-5", "3-0"]),
        (f"({MAX}-{MAX}", "+", []),
        ("-", "(0-0", []),
        ("0002", "00002-0005", ["2-0", "2-5"]),
    ],
)
def test_ranges(
    any_server: Server, client: redis.Redis, stream: str, start: str, end: str, expected: list[str]
) -> None:
    ids = ["1-0", "1-1", "2-0", "2-5", "3-0"]
    add(client, stream, ((entry_id, {"v": "x"}) for entry_id in ids))
    df = read_stream(any_server.url, stream, {"v": pl.String}, start, end)
    assert df["_id"].to_list() == expected
    assert df["v"].to_list() == ["x"] * len(expected)


@pytest.mark.parametrize("bound", ["1-1", "1", "(1-1", "(1", "2-3", "(2-3"])
def test_ranges_are_those_of_xrange(
    server: Server, client: redis.Redis, stream: str, bound: str
) -> None:
    ids = [f"{ms}-{seq}" for ms in (1, 2) for seq in range(4)]
    add(client, stream, ((entry_id, {"v": "x"}) for entry_id in ids))
    for start, end in ((bound, "+"), ("-", bound)):
        entries: Any = client.xrange(stream, start, end)
        expected = [entry_id.decode() for entry_id, _ in entries]
        df = read_stream(server.url, stream, start_id=start, end_id=end)
        assert df["_id"].to_list() == expected


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        # Naive is UTC, whatever the machine's zone.
        ("1970-01-01 00:00:01", "1970-01-01 00:00:02", [1000, 1500, 2000]),
        ("1970-01-01T00:00:01.000+00:00", "1970-01-01T00:00:01.999Z", [1000, 1500]),
        ("1970-01-01T01:00:01.500+01:00", "1969-12-31T19:00:02-05:00", [1500, 2000]),
        # A time between two milliseconds: the entries after it, and before it.
        ("1970-01-01 00:00:01.000001", "1970-01-01 00:00:02", [1500, 2000]),
        ("1970-01-01 00:00:01", "1970-01-01 00:00:01.999999", [1000, 1500]),
        ("1970-01-01 00:00:01", "1970-01-01 00:00:02.000999", [1000, 1500, 2000]),
        ("1970-01-01 00:00:01.499001", "1970-01-01 00:00:01.500", [1500]),
        ("1970-01-01 00:00:02", "1970-01-01 00:00:01", []),
        ("1970-01-01 00:00:00", "9999-12-31 23:59:59.999999", [1000, 1500, 2000]),
    ],
)
def test_bounds_may_be_datetimes(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    monkeypatch: pytest.MonkeyPatch,
    start: str,
    end: str,
    expected: list[int],
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    add(client, stream, ((f"{ms}-3", {"v": "x"}) for ms in (1000, 1500, 2000)))
    df = read_stream(any_server.url, stream, start_id=at(start), end_id=at(end))
    assert df["_ts"].to_list() == expected


def test_a_datetime_far_from_the_epoch_is_exact(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    moment = dt.datetime(2286, 11, 20, 17, 46, 40, 1_000, tzinfo=dt.UTC)
    ms = 10_000_000_000_001
    add(client, stream, ((f"{ms + offset}-0", {"v": "x"}) for offset in (-1, 0, 1)))
    df = read_stream(any_server.url, stream, start_id=moment, end_id=moment)
    assert df["_ts"].to_list() == [ms]


def test_entries_up_to_the_last_id(server: Server, client: redis.Redis, stream: str) -> None:
    ids = [f"{MAX - 1}-{MAX}", f"{MAX}-0", f"{MAX}-{MAX - 1}", f"{MAX}-{MAX}"]
    add(client, stream, ((entry_id, {"v": "x"}) for entry_id in ids))
    df = read_stream(
        server.url, stream, include_timestamp=False, include_sequence=True, start_id=ids[0]
    )
    assert df["_id"].to_list() == ids
    assert df["_seq"].to_list() == [MAX, 0, MAX - 1, MAX]
    df = read_stream(server.url, stream, include_timestamp=False, start_id="$", block_ms=10)
    assert df.is_empty()
    with pytest.raises(redfloe.DecodeError, match=ids[0]):
        read_stream(server.url, stream)


# Streams that change meanwhile


def test_a_read_under_constant_load_ends_and_its_pages_belong_together(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5_000)
    last = 5_000

    def write() -> None:
        nonlocal last
        add_numbers(writer, stream, last + 50, first=last + 1)
        last += 50
        time.sleep(0.001)

    with server.client() as writer, meanwhile(write), Proxy(server.port) as proxy:
        for _ in range(3):
            proxy.commands.clear()
            before = last
            df = read_stream(proxy.url, stream, NUMBER)
            # Entries are without gaps, and no newer than the read's start.
            assert before <= df.height <= last
            assert_frame_equal(df, numbers(df.height))
            # The first page is asked for together with the end.
            pages = [command for command in proxy.commands if command[0] == b"XRANGE"]
            ends = {command[3] for command in pages[1:]}
            assert ends == {f"{df.height}-0".encode()}
    assert last > df.height


def test_entries_added_between_pages_are_left_for_the_next_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1_500)
    with Proxy(any_server.port) as proxy:

        def add_one(page: int) -> None:
            # The end is asked for along with the first page, and known before the second.
            if page > 1:
                add_numbers(client, stream, 1499 + page, first=1499 + page)

        proxy.before(b"XRANGE", add_one)
        df = read_stream(proxy.url, stream, NUMBER)
        pages = proxy.count(b"XRANGE")
    assert_frame_equal(df, numbers(1_500))
    assert pages > 1
    assert_frame_equal(
        read_stream(any_server.url, stream, NUMBER, f"({df['_id'][-1]}"),
        numbers(1499 + pages, first=1501),
    )


def test_entries_trimmed_between_pages_are_missing_and_nothing_else(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 9_000)

    def trim(page: int) -> None:
        if page == 2:  # the first page is read
            client.xtrim(stream, minid="2001-0", approximate=False)

    with Proxy(server.port) as proxy:
        proxy.before(b"XRANGE", trim)
        df = read_stream(proxy.url, stream, NUMBER)
        first = page_sizes(proxy)[0]
    assert_frame_equal(df, pl.concat([numbers(first), numbers(9_000, first=2001)]))


def test_the_pinned_end_may_be_trimmed_or_deleted_meanwhile(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 2_000)

    def delete(page: int) -> None:
        if page == 1:
            client.xdel(stream, "2000-0", "1000-0")
        if page == 2:
            client.xtrim(stream, maxlen=0, approximate=False)

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", delete)
        df = read_stream(proxy.url, stream, NUMBER)
        first = page_sizes(proxy)[0]
    assert_frame_equal(df, numbers(first))


def test_reads_of_a_stream_trimmed_all_the_time_are_in_order_without_duplicates(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 20_000)
    last = 20_000

    def write_and_trim() -> None:
        nonlocal last
        add_numbers(writer, stream, last + 500, first=last + 1)
        last += 500
        writer.xtrim(stream, maxlen=15_000, approximate=False)

    with server.client() as writer, meanwhile(write_and_trim):
        for _ in range(10):
            df = read_stream(server.url, stream, NUMBER)
            assert df.height > 0
            assert (df["n"].diff().drop_nulls() > 0).all()
            assert (df["n"] == df["_ts"]).all()


def test_a_stream_deleted_between_pages_ends_the_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 2_000)
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", lambda page: client.delete(stream) if page == 2 else None)
        df = read_stream(proxy.url, stream, NUMBER)
        first = page_sizes(proxy)[0]
    assert_frame_equal(df, numbers(first))


def test_a_stream_replaced_by_another_type_between_pages_raises(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 2_000)

    def replace(page: int) -> None:
        if page == 2:
            client.delete(stream)
            client.set(stream, "text")

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", replace)
        with pytest.raises(WrongTypeError):
            read_stream(proxy.url, stream, NUMBER)


# Waiting


def test_what_is_there_is_returned_at_once(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 3)
    for block_ms in (0, 5_000):
        with within(1):
            df = read_stream(server.url + protocol, stream, NUMBER, block_ms=block_ms)
        assert_frame_equal(df, numbers(3))


def test_a_wait_ends_with_an_entry(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    watch = Stopwatch()
    with later(0.2, lambda: add_numbers(client, stream, 1)):
        df = read_stream(server.url + protocol, stream, NUMBER, block_ms=10_000)
    assert_frame_equal(df, numbers(1))
    assert 0.15 < watch.seconds < 1.5 * SLACK


def test_a_wait_ends_after_its_time(server: Server, stream: str, protocol: str) -> None:
    watch = Stopwatch()
    df = read_stream(server.url + protocol, stream, NUMBER, block_ms=300)
    assert_frame_equal(df, numbers(0))
    assert 0.29 < watch.seconds < 1.3 * SLACK


def test_a_wait_without_limit_outlasts_the_response_timeout(
    server: Server, client: redis.Redis, stream: str
) -> None:
    connection = RedisConnection(server.url, response_timeout=0.2)
    watch = Stopwatch()
    with later(0.7, lambda: add_numbers(client, stream, 1)):
        df = read_stream(connection, stream, NUMBER, block_ms=0)
    assert_frame_equal(df, numbers(1))
    assert watch.seconds > 0.65


def test_a_wait_with_limit_outlasts_the_response_timeout(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    connection = RedisConnection(any_server.url, response_timeout=0.2)
    watch = Stopwatch()
    assert read_stream(connection, stream, NUMBER, block_ms=600).is_empty()
    assert 0.59 < watch.seconds < 1.6 * SLACK


def test_dollar_waits_for_an_entry_that_is_added_later(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 3)
    with later(0.2, lambda: add_numbers(client, stream, 4, first=4)):
        df = read_stream(server.url + protocol, stream, NUMBER, start_id="$", block_ms=10_000)
    assert_frame_equal(df, numbers(4, first=4))


def test_dollar_of_a_missing_stream_means_its_first_entry(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with later(0.2, lambda: add_numbers(client, stream, 1)):
        df = read_stream(any_server.url, stream, NUMBER, start_id="$", block_ms=10_000)
    assert_frame_equal(df, numbers(1))


def test_a_wait_takes_everything_that_is_there_when_it_ends(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with later(0.2, lambda: add_numbers(client, stream, 700)):  # in one atomic step
        df = read_stream(any_server.url, stream, NUMBER, block_ms=10_000)
    assert_frame_equal(df, numbers(700))


def test_count_bounds_a_wait(any_server: Server, client: redis.Redis, stream: str) -> None:
    with later(0.2, lambda: add_numbers(client, stream, 700)):
        df = read_stream(any_server.url, stream, NUMBER, block_ms=10_000, count=10)
    assert_frame_equal(df, numbers(10))


@pytest.mark.parametrize("start", ["$", "-", "(2-0"])
def test_an_entry_that_comes_just_before_the_wait_is_not_missed(
    server: Server, client: redis.Redis, stream: str, start: str
) -> None:
    client.xadd(stream, {"n": 2}, id="2-0")
    if start == "-":
        client.xdel(stream, "2-0")
    with Proxy(server.port) as proxy:
        proxy.before(b"XREAD", lambda n: add_numbers(client, stream, 3, first=3))
        with within(3):
            df = read_stream(proxy.url, stream, NUMBER, start, block_ms=5_000)
    assert_frame_equal(df, numbers(3, first=3))


def test_an_entry_that_comes_just_after_dollar_is_resolved_is_not_missed(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.xadd(stream, {"n": 2}, id="2-0")
    with Proxy(any_server.port) as proxy:
        # The first asks what "$" is, the second what the newest entry to read is.
        proxy.before(b"XREVRANGE", lambda n: n == 2 and add_numbers(client, stream, 3, first=3))
        df = read_stream(proxy.url, stream, NUMBER, "$", block_ms=5_000)
        assert proxy.count(b"XREAD") == 0
    assert_frame_equal(df, numbers(3, first=3))


@pytest.mark.parametrize("start", ["$", "(2-0"])
def test_a_wait_goes_on_if_its_entry_is_gone_before_it_is_read(
    any_server: Server, client: redis.Redis, stream: str, start: str
) -> None:
    client.xadd(stream, {"n": 2}, id="2-0")
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XREAD", lambda n: add_numbers(client, stream, 2 + n, first=2 + n))
        proxy.before(b"XREVRANGE", lambda n: client.xdel(stream, "3-0"))
        df = read_stream(proxy.url, stream, NUMBER, start, block_ms=5_000)
        assert proxy.count(b"XREAD") == 2
    assert_frame_equal(df, numbers(4, first=4))


def test_an_end_bounds_a_wait(server: Server, client: redis.Redis, stream: str) -> None:
    with later(0.2, lambda: add_numbers(client, stream, 9, first=5)):
        df = read_stream(server.url, stream, NUMBER, start_id="-", end_id="(7-0", block_ms=10_000)
    assert_frame_equal(df, numbers(6, first=5))


def test_a_wait_ends_when_nothing_can_come_before_its_end(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with within(3), later(0.2, lambda: add_numbers(client, stream, 8, first=8)):
        df = read_stream(any_server.url, stream, NUMBER, end_id="7-0", block_ms=0)
    assert_frame_equal(df, numbers(0))


@pytest.mark.parametrize(
    ("start", "end"),
    [("4", "5"), ("9", "8"), ("-", "4-9"), ("(18446744073709551615-18446744073709551615", "+")],
)
def test_nothing_is_waited_for_that_cannot_come(
    any_server: Server, client: redis.Redis, stream: str, start: str, end: str
) -> None:
    client.xadd(stream, {"n": 6}, id="6-0")
    with within(1):
        df = read_stream(any_server.url, stream, NUMBER, start, end, block_ms=0)
    assert_frame_equal(df, numbers(0))


@pytest.mark.parametrize("error", [False, True])
def test_an_unblocked_client_waits_on(
    any_server: Server, client: redis.Redis, stream: str, error: bool
) -> None:
    """CLIENT UNBLOCK looks like a BLOCK that timed out, also where it asks for an error."""
    connection = RedisConnection(any_server.url, client_name="waiting")

    def unblock() -> None:
        def unblocked() -> bool:
            """False as long as it does not wait yet."""
            found = [one for one in client.client_list() if one["name"] == "waiting"]
            return any(client.client_unblock(int(one["id"]), error=error) for one in found)

        eventually(unblocked)
        timer.start()

    timer = threading.Timer(0.2, lambda: add_numbers(client, stream, 1))
    with later(0.2, unblock):
        df = read_stream(connection, stream, NUMBER, block_ms=0)
    timer.join()
    assert_frame_equal(df, numbers(1))


def test_inference_looks_at_the_entries_that_were_waited_for(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [("1-0", {"n": "old"})])
    with later(0.2, lambda: add_numbers(client, stream, 2, first=2)):
        df = read_stream(any_server.url, stream, start_id="$", block_ms=10_000, infer_schema=True)
    assert_frame_equal(df, numbers(2, first=2))


def test_inference_resolves_dollar_once(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """An entry that comes while the sample is taken is neither missed nor read as text."""
    with Proxy(any_server.port) as proxy:
        # After "$" is resolved, the end is pinned.
        proxy.before(b"XREVRANGE", lambda n: n == 2 and add_numbers(client, stream, 1))
        df = read_stream(proxy.url, stream, start_id="$", block_ms=2_000, infer_schema=True)
    assert_frame_equal(df, numbers(1))


# The users' document


def test_parameters_and_defaults_are_those_of_the_document() -> None:
    documented = {
        "url": inspect.Parameter.empty,
        "stream": inspect.Parameter.empty,
        "schema": None,
        "start_id": "-",
        "end_id": "+",
        "count": None,
        "block_ms": None,
        "group": None,
        "consumer": None,
        "auto_ack": False,
        "create_group": True,
    }
    parameters = inspect.signature(read_stream).parameters
    positional = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    }
    assert positional == documented
    assert list(positional) == list(documented)


def test_documented_parameters_may_be_given_by_name_and_by_position(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    by_name = read_stream(
        url=any_server.url,
        stream=stream,
        schema=NUMBER,
        start_id="-",
        end_id="+",
        count=2,
        block_ms=None,
        group=None,
        consumer=None,
        auto_ack=False,
        create_group=True,
    )
    by_position = read_stream(
        any_server.url, stream, NUMBER, "-", "+", 2, None, None, None, False, True
    )
    assert_frame_equal(by_name, numbers(2))
    assert_frame_equal(by_position, numbers(2))
    assert_frame_equal(read_stream(any_server.url, stream, NUMBER, create_group=False), numbers(3))


@pytest.mark.parametrize("options", [{"consumer": "worker-1"}, {"auto_ack": True}], ids=str)
def test_group_options_need_a_group(
    any_server: Server, stream: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match="need a group"):
        read_stream(any_server.url, stream, **options)


# From polars-redis's page on streams; only the import and the address are replaced.
FIRST_SNIPPET = """
import polars as pl
import polars_redis as redis

# Read all entries from a stream
df = redis.read_stream(
    "redis://localhost",
    stream="events",
    schema={"user_id": pl.Utf8, "action": pl.Utf8, "value": pl.Int64},
)

print(df)
"""
ID_SNIPPET = """
df = redis.read_stream(
    "redis://localhost",
    stream="events",
    include_id=True,
    include_timestamp=True,
    include_sequence=True,  # Enable sequence column
)
"""
COUNT_SNIPPET = """
# Read only the first 100 entries
df = redis.read_stream(
    "redis://localhost",
    stream="events",
    count=100,
)
"""
RANGE_SNIPPET = """
# Read entries between specific IDs
df = redis.read_stream(
    "redis://localhost",
    stream="events",
    start_id="1704067200000-0",
    end_id="1704067300000-0",
)
"""
DEFAULT_RANGE_SNIPPET = """
# Read from oldest to newest (default)
df = redis.read_stream(url, stream="events", start_id="-", end_id="+")
"""
BLOCK_SNIPPET = """
# Wait up to 5 seconds for new entries
df = redis.read_stream(
    "redis://localhost",
    stream="events",
    start_id="$",  # Only new entries (after current latest)
    block_ms=5000,
    count=100,
)
"""

EVENTS = pl.DataFrame(
    {
        "_id": [f"{1704067200000 + 1000 * n}-0" for n in range(120)],
        "_ts": [1704067200000 + 1000 * n for n in range(120)],
        "user_id": [f"user_{n}" for n in range(120)],
        "action": ["click", "view"] * 60,
        "value": [*range(120)],
    }
)


@pytest.fixture
def run_snippet(any_server: Server, client: redis.Redis) -> Callable[[str], pl.DataFrame]:
    """Run a snippet of the document against a stream of 120 events; gives its `df`."""
    fields = EVENTS.drop("_id", "_ts").rows(named=True)
    add(client, "events", zip(EVENTS["_id"], fields, strict=True))

    def run(snippet: str) -> pl.DataFrame:
        source = snippet.replace("polars_redis", "redfloe")
        source = source.replace("redis://localhost", any_server.url)
        names: dict[str, Any] = {"redis": redfloe, "url": any_server.url}
        exec(source, names)
        df = names["df"]
        assert isinstance(df, pl.DataFrame)
        return df

    return run


def test_document_reading_stream_entries(run_snippet: Callable[[str], pl.DataFrame]) -> None:
    assert_frame_equal(run_snippet(FIRST_SNIPPET), EVENTS)


def test_document_entry_id_parsing(run_snippet: Callable[[str], pl.DataFrame]) -> None:
    df = run_snippet(ID_SNIPPET)
    assert df.columns == ["_id", "_ts", "_seq", "user_id", "action", "value"]
    assert_frame_equal(df.drop("_seq"), EVENTS.with_columns(pl.col("value").cast(pl.String)))
    assert_frame_equal(
        df.select("_seq"), pl.DataFrame({"_seq": [0] * 120}, schema={"_seq": pl.UInt64})
    )


@pytest.mark.parametrize(
    ("snippet", "rows"), [(COUNT_SNIPPET, 100), (RANGE_SNIPPET, 101), (DEFAULT_RANGE_SNIPPET, 120)]
)
def test_document_count_and_range(
    run_snippet: Callable[[str], pl.DataFrame], snippet: str, rows: int
) -> None:
    expected = EVENTS.with_columns(pl.col("value").cast(pl.String)).head(rows)
    assert_frame_equal(run_snippet(snippet), expected)


def test_document_blocking_read(
    run_snippet: Callable[[str], pl.DataFrame], client: redis.Redis
) -> None:
    with later(0.2, lambda: client.xadd("events", {"action": "late"}, id="1804067200000-0")):
        df = run_snippet(BLOCK_SNIPPET)
    assert df.rows(named=True) == [
        {"_id": "1804067200000-0", "_ts": 1804067200000, "action": "late"}
    ]


def test_arguments_that_are_equal_are_told_apart(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """What was checked is remembered: what is refused is refused in between, too."""
    first = dt.datetime(2023, 10, 29, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    second = first.replace(fold=1)
    for moment in (first, second):
        client.xadd(stream, {"a": 1}, id=f"{int(moment.timestamp() * 1000)}-0")
    url, untyped = any_server.url, cast("Any", read_stream)
    for _ in range(2):
        assert untyped(url, stream, count=1).height == 1
        for count in (True, 1.0):
            with pytest.raises(TypeError, match="count must be int"):
                untyped(url, stream, count=count)
        assert untyped(url, stream.encode(), count=1).height == 1
        assert [untyped(url, stream, start_id=moment).height for moment in (first, second)] == [
            2,
            1,
        ]
        with pytest.raises(ValueError, match="a group needs a consumer"):
            untyped(url, stream, group="g")
    assert untyped(url, stream, count=1, timestamp_dtype=pl.Datetime).schema["_ts"] == pl.Datetime(
        "ms", "UTC"
    )
    assert untyped(url, stream, count=1).schema["_ts"] == pl.Int64


def test_a_frame_is_made_by_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """It uses what is Polars' own business: where a version has not got it, look for its like."""
    request = make_request("s", schema={"a": pl.List(pl.Enum(["x"])), "b": pl.Int128})
    rows = _core.empty_batch(request)
    quick = _frame._frame_of()
    assert quick is not pl.DataFrame
    assert_frame_equal(quick(rows), pl.DataFrame(rows))
    with monkeypatch.context() as patch:
        patch.delattr(pl.DataFrame, "_from_pydf")
        assert _frame._frame_of.__wrapped__() is pl.DataFrame
