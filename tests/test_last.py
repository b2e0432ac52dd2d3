"""The newest entries: `last` of `read_stream`, `scan_stream` and `stream_reader`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import read_stream, scan_stream, stream_reader
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, numbers

ts, n = pl.col("_ts"), pl.col("n")
Read = Callable[..., pl.DataFrame]


def of_reader(*args: Any, **options: Any) -> pl.DataFrame:
    # By pyarrow, because Polars 1.33 holds the GIL meanwhile, which a proxy needs.
    df = pl.from_arrow(pa.table(stream_reader(*args, **options)))
    assert isinstance(df, pl.DataFrame)
    return df


READERS: dict[str, Read] = {
    "read": read_stream,
    "scan": lambda *args, **options: scan_stream(*args, **options).collect(),
    "reader": of_reader,
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Read:
    return READERS[request.param]


@pytest.mark.parametrize("last", [0, 1, 2, 99, 100, 101, 899, 900, 1500, 2000, 5000])
def test_the_newest_entries_come_in_stream_order(
    any_server: Server, client: redis.Redis, stream: str, read: Read, last: int
) -> None:
    add_numbers(client, stream, 2000)
    df = read(any_server.url, stream, NUMBER, last=last)
    assert_frame_equal(df, numbers(2000).tail(last))


def test_every_server_gives_them(server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 30)
    assert_frame_equal(read_stream(server.url, stream, NUMBER, last=3), numbers(30, first=28))


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"end_id": "20"}, numbers(20, first=18)),
        ({"end_id": "(20-0"}, numbers(19, first=17)),
        ({"start_id": "29"}, numbers(30, first=29)),
        ({"start_id": "5", "end_id": "6"}, numbers(6, first=5)),
        ({"start_id": "7", "end_id": "6"}, numbers(0)),
        ({"start_id": "$"}, numbers(0)),
        ({"start_id": "99"}, numbers(0)),
        ({"end_id": "$"}, numbers(30, first=28)),
        ({"end_id": "(0-0"}, numbers(0)),
    ],
    ids=str,
)
def test_they_are_the_newest_within_the_bounds(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    read: Read,
    bounds: dict[str, Any],
    expected: pl.DataFrame,
) -> None:
    add_numbers(client, stream, 30)
    assert_frame_equal(read(any_server.url, stream, NUMBER, last=3, **bounds), expected)


def test_a_missing_stream_has_none(any_server: Server, stream: str, read: Read) -> None:
    assert_frame_equal(read(any_server.url, stream, NUMBER, last=3), numbers(0))


def test_without_a_schema_the_columns_are_those_of_the_newest(
    any_server: Server, client: redis.Redis, stream: str, read: Read
) -> None:
    entries: list[dict[str, int | str]] = [{"old": "x"}, {"b": 1, "a": 2}, {"a": 3, "b": 4, "c": 5}]
    add(client, stream, [(f"{number}-0", fields) for number, fields in enumerate(entries, 1)])
    df = read(any_server.url, stream, last=2)
    assert df.columns == ["_id", "_ts", "b", "a", "c"]
    df = read(any_server.url, stream, last=2, infer_schema=True, infer_schema_length=1)
    assert df.schema["a"] == pl.Int64
    assert df["a"].to_list() == [2, 3]


def test_a_read_of_a_page_takes_two_round_trips(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3000)
    with Proxy(any_server.port) as proxy:
        assert read_stream(proxy.url, stream, NUMBER, last=100).height == 100
        sent = [c for c in proxy.commands if c[0] in (b"XREVRANGE", b"XRANGE")]
    assert [command[0] for command in sent] == [b"XREVRANGE", b"XRANGE"]
    newest = b"18446744073709551615-18446744073709551615"
    assert sent[0][2:] == (newest, b"0-0", b"COUNT", b"100")
    assert sent[1][2:4] == (b"2901-0", b"3000-0")


def test_what_is_added_meanwhile_is_not_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 30)
    lf = scan_stream(any_server.url, stream, NUMBER, last=3)
    assert lf.collect()["n"].to_list() == [28, 29, 30]
    add_numbers(client, stream, 33, first=31)
    assert lf.collect()["n"].to_list() == [28, 29, 30]


@pytest.mark.parametrize("after", [10, 1500, 20_000])
def test_a_lost_connection_is_replaced(
    any_server: Server, client: redis.Redis, stream: str, read: Read, after: int
) -> None:
    add_numbers(client, stream, 3000)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(after, times=2)
        df = read(quick(proxy.url), stream, NUMBER, last=1000)
        assert proxy.connections > 1
    assert_frame_equal(df, numbers(3000, first=2001))


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        (lambda lf: lf.filter(n % 2 == 0), [26, 28, 30]),
        (lambda lf: lf.filter(ts > 28), [29, 30]),
        (lambda lf: lf.filter(ts < 28), [25, 26, 27]),
        (lambda lf: lf.filter(ts < 20), []),
        (lambda lf: lf.head(2), [25, 26]),
        (lambda lf: lf.tail(2), [29, 30]),
        (lambda lf: lf.head(4).filter(ts > 26), [27, 28]),
        (lambda lf: lf.filter(ts > 26).head(1), [27]),
        (lambda lf: lf.select("n"), [25, 26, 27, 28, 29, 30]),
    ],
)
@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_queries_are_about_them(
    any_server: Server, client: redis.Redis, stream: str, query: Any, rows: list[int], engine: Any
) -> None:
    """They are chosen before any filter."""
    add_numbers(client, stream, 30)
    lf = scan_stream(any_server.url, stream, NUMBER, last=6)
    assert query(lf).collect(engine=engine)["n"].to_list() == rows


@pytest.mark.parametrize(
    ("read", "others", "named"),
    [
        (read_stream, {"count": 5}, "count"),
        (read_stream, {"block_ms": 5}, "block_ms"),
        (read_stream, {"group": "g", "consumer": "c"}, "group"),
        (scan_stream, {"count": 5}, "count"),
        (stream_reader, {"count": 0}, "count"),
    ],
)
def test_last_goes_with_nothing_that_counts_or_waits(
    stream: str, read: Callable[..., object], others: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=rf"^last .* {named}$"):
        read(quick("redis://127.0.0.1:1"), stream, NUMBER, last=3, **others)


@pytest.mark.parametrize(
    ("last", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError), ("3", TypeError)]
)
def test_a_wrong_number_is_refused(stream: str, read: Read, last: Any, error: type) -> None:
    with pytest.raises(error, match="last"):
        read(quick("redis://127.0.0.1:1"), stream, NUMBER, last=last)
