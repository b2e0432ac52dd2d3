"""`scan_stream` on real servers: what is pushed down, and that no query's answer depends on it."""

from __future__ import annotations

import datetime as dt
import inspect
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from operator import eq, ge, gt, le, lt, ne
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.exceptions import ColumnNotFoundError, ComputeError
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal

from redfloe import (
    DecodeError,
    RedfloeError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    SchemaError,
    WrongTypeError,
    read_stream,
    scan_stream,
)
from redfloe._arguments import make_request
from redfloe._reading.scan import _Scan
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, add_values, numbers
from support.timing import SLACK, eventually, within
from support.versions import POLARS

Engine = Literal["in-memory", "streaming"]
Query = Callable[[pl.LazyFrame], pl.LazyFrame]

LAST = 2**64 - 1
entry_id, ts, seq, n = pl.col("_id"), pl.col("_ts"), pl.col("_seq"), pl.col("n")


@pytest.fixture(params=["in-memory", "streaming"])
def engine(request: pytest.FixtureRequest) -> Engine:
    name: Engine = request.param
    return name


@pytest.fixture
def proxy(any_server: Server) -> Iterator[Proxy]:
    with Proxy(any_server.port) as proxy:
        yield proxy


@pytest.fixture
def thirty(any_server: Server, client: redis.Redis, stream: str) -> str:
    """A stream of the entries 1-0 to 30-0."""
    add_numbers(client, stream, 30)
    return stream


def ranges(proxy: Proxy) -> list[tuple[str, str, int]]:
    """List the first ID, the last ID and the COUNT of each page that was asked for."""
    return [
        (command[2].decode(), command[3].decode(), int(command[5]))
        for command in proxy.commands
        if command[0] == b"XRANGE"
    ]


@contextmanager
def raises(error: type[RedfloeError], match: str) -> Iterator[None]:
    """Expect an error, which older versions of Polars wrap in their own."""
    expected = (error,) if POLARS >= (2, 1) else (error, ComputeError)
    with pytest.raises(expected, match=match) as raised:
        yield
    if isinstance(raised.value, ComputeError):
        assert error.__name__ in str(raised.value)


# Nothing before its time


def test_nothing_is_read_before_collect(proxy: Proxy, thirty: str) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER).filter(ts > 28).select("n").head(1)
    assert lf.collect_schema() == {"n": pl.Int64}
    lf.explain()
    assert proxy.connections == 0
    assert lf.collect()["n"].to_list() == [29]
    assert proxy.count(b"XREVRANGE") == 1


def test_without_a_schema_nothing_is_read_before_planning(proxy: Proxy, thirty: str) -> None:
    lf = scan_stream(proxy.url, thirty)
    assert proxy.connections == 0
    assert lf.collect_schema() == {"_id": pl.String, "_ts": pl.Int64, "n": pl.String}
    assert proxy.count(b"XRANGE") == 1


@pytest.mark.parametrize("schema", [NUMBER, None], ids=str)
def test_wrong_arguments_raise_at_once(
    proxy: Proxy, stream: str, schema: dict[str, Any] | None
) -> None:
    scan = partial(scan_stream, proxy.url, stream, schema)
    for wrong, error in (
        ({"count": -1}, ValueError),
        ({"start_id": "nonsense"}, ValueError),
        ({"end_id": "5-"}, ValueError),
        ({"id_column": "_ts"}, SchemaError),
        ({"timestamp_dtype": pl.Int32}, SchemaError),
        ({"on_error": "ignore"}, ValueError),
    ):
        options: dict[str, Any] = wrong
        with pytest.raises(error, match=next(iter(options)).replace("id_column", "_ts")):
            scan(**options)
    with pytest.raises(ValueError, match="scheme"):
        scan_stream("nonsense://localhost", stream, schema)
    number: Any = 5
    with pytest.raises(TypeError):
        scan_stream(number, stream, schema)
    assert proxy.connections == 0


def test_a_plan_names_the_source(proxy: Proxy, thirty: str) -> None:
    plan = scan_stream(proxy.url, thirty, NUMBER).filter(ts > 3).select("n").explain()
    if "explain_name" in inspect.signature(register_io_source).parameters:
        assert "PYTHON[redfloe] SCAN" in plan
        assert f"stream '{thirty}'" in plan
    else:
        assert "PYTHON SCAN" in plan
    assert "SELECTION" in plan


def test_a_plan_never_shows_the_password(stream: str) -> None:
    lf = scan_stream("redis://:secret@127.0.0.1:1", stream, NUMBER)
    assert "secret" not in lf.explain()


# Columns


@pytest.mark.parametrize(
    "columns",
    [["_id"], ["_ts"], ["_seq"], ["n"], ["n", "_id"], ["_seq", "n", "_ts"], ["_ts", "_id"], []],
    ids="-".join,
)
def test_a_selection(any_server: Server, thirty: str, columns: list[str], engine: Engine) -> None:
    lf = scan_stream(any_server.url, thirty, NUMBER, include_sequence=True)
    df = read_stream(any_server.url, thirty, NUMBER, include_sequence=True)
    assert_frame_equal(lf.select(columns).collect(engine=engine), df.select(columns))


@pytest.mark.parametrize("metadata", [True, False])
@pytest.mark.parametrize(
    "query",
    [
        lambda lf: lf.select(pl.len()),
        lambda lf: lf.select(pl.lit(1)),
        lambda lf: lf.select(pl.len(), pl.lit(1).alias("x")),
        lambda lf: lf.filter(n > 20).select(pl.len()),
        lambda lf: lf.with_columns(pl.lit(1).alias("x")).select("x"),
        lambda lf: lf.with_row_index().select("index"),
        lambda lf: lf.with_row_index().select("index").head(3),
    ],
)
def test_a_query_of_no_columns_counts_its_rows(
    any_server: Server, thirty: str, query: Query, metadata: bool, engine: Engine
) -> None:
    options: dict[str, Any] = {"include_id": metadata, "include_timestamp": metadata}
    lf = scan_stream(any_server.url, thirty, NUMBER, **options)
    df = read_stream(any_server.url, thirty, NUMBER, **options)
    assert_frame_equal(query(lf).collect(engine=engine), query(df.lazy()).collect())


def test_with_columns_may_be_none_or_empty(any_server: Server, thirty: str) -> None:
    """As Polars may pass them."""
    request = make_request(thirty, schema=NUMBER)
    scan = _Scan(RedisConnection(any_server.url), request, sample=0)
    [everything] = scan.batches(None, None, None, None)
    assert_frame_equal(everything, numbers(30))
    [nothing] = scan.batches([], None, None, None)
    assert nothing.width == 0
    if POLARS >= (1, 41):  # before, no frame without columns has a height, nor is one asked for
        assert nothing.height == 30


@pytest.mark.parametrize("rows", [0, 1, 3, 30, 99])
def test_n_rows_is_a_hard_limit(any_server: Server, thirty: str, rows: int) -> None:
    scan = _Scan(RedisConnection(any_server.url), make_request(thirty, schema=NUMBER), sample=0)
    frames = [*scan.batches(None, None, rows, 7)]
    assert_frame_equal(pl.concat(frames), numbers(min(rows, 30)))


WRONG = {"n": pl.Boolean, "m": pl.Int64}


@pytest.fixture
def wrong(client: redis.Redis, stream: str) -> str:
    add(client, stream, [("1-0", {"n": "1", "m": "1"}), ("2-0", {"n": "five", "m": "2", "o": "x"})])
    return stream


def test_a_field_that_is_not_selected_is_not_parsed(
    any_server: Server, wrong: str, engine: Engine
) -> None:
    lf = scan_stream(any_server.url, wrong, WRONG)
    assert lf.select("m").collect(engine=engine)["m"].to_list() == [1, 2]
    assert lf.filter(pl.col("m") > 1).select("_id").collect(engine=engine).item() == "2-0"
    for query in (lf.select("n"), lf, lf.filter("n").select("m")):
        with raises(DecodeError, r'"five" is none of .*\(entry ID: 2-0, field: n'):
            query.collect(engine=engine)
    # Nor is it where the predicate already says that the entry is out of the range.
    assert lf.filter(ts < 2).collect(engine=engine)["n"].to_list() == [True]


@pytest.mark.parametrize(
    "query",
    [
        lambda lf: lf,
        lambda lf: lf.select("_rescued"),
        lambda lf: lf.select("m"),
        lambda lf: lf.select("n", "m"),
        lambda lf: lf.select("m", "_rescued"),
        lambda lf: lf.filter(pl.col("_rescued").is_not_null()).select("m"),
        lambda lf: lf.filter(pl.col("n").is_null()).select("n"),
        lambda lf: lf.select(pl.len()),
    ],
)
def test_a_rescue_column(any_server: Server, wrong: str, query: Query, engine: Engine) -> None:
    """Selected it has whatever did not fit; what did not fit is null without it, too."""
    lf = scan_stream(any_server.url, wrong, WRONG, rescue_column="_rescued")
    df = read_stream(any_server.url, wrong, WRONG, rescue_column="_rescued")
    assert df["_rescued"].to_list() == [None, '{"n":"five","o":"x"}']
    assert_frame_equal(query(lf).collect(engine=engine), query(df.lazy()).collect())


def test_options_of_fields_that_are_not_selected(
    any_server: Server, wrong: str, engine: Engine
) -> None:
    options: dict[str, Any] = {"null_values": {"n": "five"}, "id_column": "key"}
    lf = scan_stream(any_server.url, wrong, WRONG, **options)
    assert lf.select("m").collect(engine=engine)["m"].to_list() == [1, 2]
    assert lf.select("n", "key").collect(engine=engine).rows() == [(True, "1-0"), (None, "2-0")]


@pytest.mark.parametrize(
    "dtype",
    [
        pl.String,
        pl.Binary,
        pl.Categorical,
        pl.Enum([str(number) for number in range(31)]),
        pl.UInt8,
        pl.Int128,
        pl.Float32,
        pl.Decimal(10, 2),
        pl.Decimal,
        pl.Datetime("us", "Europe/Berlin"),
        pl.Datetime,
        pl.Duration("ns"),
        pl.List(pl.Int64),
        pl.Struct({"a": pl.Int8}),
    ],
    ids=str,
)
def test_dtypes_pass_validation(
    any_server: Server, thirty: str, dtype: Any, engine: Engine
) -> None:
    lf = scan_stream(any_server.url, thirty, {"n": dtype}, on_error="null")
    df = read_stream(any_server.url, thirty, {"n": dtype}, on_error="null")
    assert_frame_equal(lf.collect(engine=engine), df)
    assert lf.collect_schema() == df.schema


def test_batches_are_validated(
    any_server: Server, thirty: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie = pl.Schema({"_id": pl.String(), "_ts": pl.Int64(), "n": pl.Int8()})
    monkeypatch.setattr(_Scan, "schema", lambda self: lie)
    lf = scan_stream(any_server.url, thirty, NUMBER)
    with pytest.raises(pl.exceptions.SchemaError):
        lf.collect(engine=engine)


# The range of IDs


def ms(number: int) -> dt.datetime:
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=number)


@pytest.mark.parametrize(
    ("predicate", "first", "last"),
    [
        (ts > 5, "6-0", "30-0"),
        (ts >= 5, "5-0", "30-0"),
        (ts < 5, "0-0", f"4-{LAST}"),
        (ts <= 5, "0-0", f"5-{LAST}"),
        (pl.lit(5) < ts, "6-0", "30-0"),
        (ts == 5, "5-0", f"5-{LAST}"),
        (ts.is_between(5, 9), "5-0", f"9-{LAST}"),
        (ts.is_between(5, 9, closed="none"), "6-0", f"8-{LAST}"),
        ((ts > 5) & (ts < 9) & (n != 7), "6-0", f"8-{LAST}"),
        ((ts == 5) | (ts == 9), "5-0", f"9-{LAST}"),
        (ts.is_in([9, 5]), "5-0", f"9-{LAST}"),
        (entry_id == "5-0", "5-0", "5-0"),
        (pl.lit("5-0") == entry_id, "5-0", "5-0"),
        (entry_id.is_in(["9-0", "5-0", "nonsense"]), "5-0", "9-0"),
        ((entry_id == "9-0") | (entry_id == "5-0"), "5-0", "9-0"),
        ((entry_id == "5-0") & (n == 5), "5-0", "5-0"),
        # What says nothing about IDs, or not surely.
        (n > 5, "0-0", "30-0"),
        ((n > 5) | (ts > 5), "0-0", "30-0"),
        (entry_id > "5-0", "0-0", "30-0"),
        (entry_id != "5-0", "0-0", "30-0"),
        (ts % 2 == 0, "0-0", "30-0"),
        (~(ts > 5) & (n > 1), "0-0", None),
    ],
    ids=str,
)
def test_a_predicate_narrows_the_range(
    proxy: Proxy, thirty: str, predicate: pl.Expr, first: str, last: str | None, engine: Engine
) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER)
    df = lf.filter(predicate).collect(engine=engine)
    assert_frame_equal(df, numbers(30).filter(predicate))
    [(start, end, _)] = ranges(proxy)
    assert start == first
    assert last is None or end == last


@pytest.mark.parametrize("dtype", [pl.Datetime("ms", "UTC"), pl.Datetime("us", "UTC")], ids=str)
@pytest.mark.parametrize(
    ("predicate", "first", "last"),
    [
        (ts > ms(5), "6-0", "30-0"),
        (ts <= ms(5), "0-0", f"5-{LAST}"),
        (ts.is_between(ms(5), ms(9), closed="left"), "5-0", f"8-{LAST}"),
        ((ts >= ms(5)) & (ts < ms(9)), "5-0", f"8-{LAST}"),
        (ts == pl.lit(ms(5)), "5-0", f"5-{LAST}"),
    ],
    ids=str,
)
def test_a_datetime_narrows_the_range(
    proxy: Proxy,
    thirty: str,
    dtype: pl.DataType,
    predicate: pl.Expr,
    first: str,
    last: str,
    engine: Engine,
) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER, timestamp_dtype=dtype)
    df = lf.filter(predicate).collect(engine=engine)
    eager = read_stream(proxy.url, thirty, NUMBER, timestamp_dtype=dtype)
    assert_frame_equal(df, eager.filter(predicate))
    assert 0 < df.height < 30
    start, end, _ = ranges(proxy)[0]
    assert (start, end) == (first, last)


@pytest.mark.parametrize(
    "predicate", [ts > 30, ts < 0, (ts > 9) & (ts < 5), ts.is_in([]), entry_id == "x"], ids=str
)
def test_what_cannot_match_is_not_asked_for(
    proxy: Proxy, thirty: str, predicate: pl.Expr, engine: Engine
) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER)
    assert_frame_equal(lf.filter(predicate).collect(engine=engine), numbers(0))
    assert ranges(proxy) == []


def test_renamed_columns_narrow_too_and_fields_of_their_names_do_not(
    proxy: Proxy, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [(f"{number}-0", {"_ts": 30 - number}) for number in range(1, 31)])
    lf = scan_stream(proxy.url, stream, {"_ts": pl.Int64}, timestamp_column="at")
    df = lf.filter(pl.col("at") > 28, pl.col("_ts") < 29).collect()
    assert df["_id"].to_list() == ["29-0", "30-0"]
    lf = scan_stream(proxy.url, stream, {"_ts": pl.Int64}, include_timestamp=False)
    assert lf.filter(ts > 28).collect()["_id"].to_list() == ["1-0"]
    assert [(first, last) for first, last, _ in ranges(proxy)] == [
        ("29-0", "30-0"),
        ("0-0", "30-0"),
    ]


def test_a_range_of_its_own_is_only_narrowed(proxy: Proxy, thirty: str, engine: Engine) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER, "10", "(20-0")
    df = lf.filter(ts.is_between(5, 15)).collect(engine=engine)
    assert_frame_equal(df, numbers(15, first=10))
    df = lf.filter(ts.is_between(15, 25)).collect(engine=engine)
    assert_frame_equal(df, numbers(19, first=15))
    bounds = [(first, last) for first, last, _ in ranges(proxy)]
    assert bounds == [("10-0", f"15-{LAST}"), ("15-0", f"19-{LAST}")]


def test_with_a_count_only_the_end_is_narrowed(proxy: Proxy, thirty: str, engine: Engine) -> None:
    """Its entries are the first ones before the filter."""
    lf = scan_stream(proxy.url, thirty, NUMBER, count=10)
    df = lf.filter(ts.is_between(8, 15)).collect(engine=engine)
    assert_frame_equal(df, numbers(10, first=8))
    assert ranges(proxy) == [("0-0", f"15-{LAST}", 10)]
    assert_frame_equal(lf.filter(ts > 10).collect(engine=engine), numbers(0))
    assert_frame_equal(lf.filter(ts < 3).collect(engine=engine), numbers(2))


def test_ids_compare_as_text(
    any_server: Server, client: redis.Redis, stream: str, engine: Engine
) -> None:
    """As in Polars, where "9-0" is more than "10-0"."""
    add_numbers(client, stream, 12, first=8)
    lf = scan_stream(any_server.url, stream, NUMBER)
    found = lf.filter(entry_id > "10-0").collect(engine=engine)["_id"].to_list()
    assert found == ["8-0", "9-0", "11-0", "12-0"]
    found = (
        lf.filter(entry_id.is_between(pl.lit("10-0"), pl.lit("8-0")))
        .collect(engine=engine)["_id"]
        .to_list()
    )
    assert found == ["8-0", "10-0", "11-0", "12-0"]


# The number of rows


def test_head_becomes_a_count(proxy: Proxy, thirty: str, engine: Engine) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER)
    assert_frame_equal(lf.head(3).collect(engine=engine), numbers(3))
    assert ranges(proxy) == [("0-0", "30-0", 3)]


def test_head_over_several_pages_asks_for_no_more(
    proxy: Proxy, client: redis.Redis, stream: str, engine: Engine
) -> None:
    add_numbers(client, stream, 3_000)
    lf = scan_stream(proxy.url, stream, NUMBER)
    assert_frame_equal(lf.head(510).collect(engine=engine), numbers(510))
    assert sum(count for _, _, count in ranges(proxy)) == 510


@pytest.mark.parametrize(
    "query",
    [
        lambda lf: lf.head(0),
        lambda lf: lf.head(99),
        lambda lf: lf.tail(2),
        lambda lf: lf.slice(5, 3),
        lambda lf: lf.filter(n > 20).head(3),
        lambda lf: lf.filter(n > 20).head(0),
        lambda lf: lf.filter(ts > 20).head(3),
        lambda lf: lf.filter(ts > 20).select("n").head(3),
        # Polars passes this filter with the rows of the head, which it must not filter first.
        lambda lf: lf.head(5).filter(n > 2),
        lambda lf: lf.head(5).filter(ts > 2),
        lambda lf: lf.head(5).filter(ts > 20),
        lambda lf: lf.slice(0, 5).filter(ts > 2).head(1),
        lambda lf: lf.filter(ts > 2).head(5).filter(ts > 4),
        lambda lf: lf.head(5).select("n").filter(n > 2),
        lambda lf: lf.slice(2, 5).filter(ts > 4),
        lambda lf: lf.with_row_index().filter(ts > 28),
        lambda lf: lf.filter(n == n.max()),
        lambda lf: lf.filter(n.cum_sum() > 5).filter(ts < 5),
    ],
)
@pytest.mark.parametrize("count", [None, 4, 22])
def test_head_and_filter_in_either_order(
    any_server: Server, thirty: str, query: Query, count: int | None, engine: Engine
) -> None:
    lf = scan_stream(any_server.url, thirty, NUMBER, count=count)
    df = read_stream(any_server.url, thirty, NUMBER, count=count)
    assert_frame_equal(query(lf).collect(engine=engine), query(df.lazy()).collect())


@pytest.mark.parametrize(
    "query",
    [
        lambda lf: lf.sort("n", descending=True).head(2),
        lambda lf: lf.top_k(2, by="n"),
        lambda lf: lf.bottom_k(2, by="n"),
        lambda lf: lf.select("n", "_ts").top_k(3, by="_ts"),
    ],
)
@pytest.mark.parametrize(
    "predicate", [ts > 10, n > 10, (ts > 10) & (n < 20), pl.lit(True)], ids=str
)
def test_top_k_of_a_filter(
    any_server: Server, thirty: str, query: Query, predicate: pl.Expr, engine: Engine
) -> None:
    """Polars 1.39 to 1.43 add a predicate to it that no filter can evaluate."""
    lf = scan_stream(any_server.url, thirty, NUMBER)
    df = query(lf.filter(predicate)).collect(engine=engine)
    expected = query(numbers(30).lazy().filter(predicate)).collect()
    assert_frame_equal(df, expected, check_row_order=False)


# Every predicate


def predicates(dtype: pl.DataType) -> st.SearchStrategy[pl.Expr]:
    numbers = st.integers(-2, 12)
    ids = st.sampled_from(["1-0", "1-1", "2-0", "9-0", "10-0", "10-1", "5", "x", ""])
    compare = st.sampled_from([eq, ne, lt, le, gt, ge])
    closed = st.sampled_from(["both", "left", "right", "none"])

    def instant(number: int) -> int | dt.datetime:
        if dtype == pl.Int64:
            return number
        assert isinstance(dtype, pl.Datetime)
        return ms(number) if dtype.time_zone else ms(number).replace(tzinfo=None)

    instants = numbers.map(instant)
    ts_ms = ts if dtype == pl.Int64 else ts.dt.epoch("ms")
    leaves = st.one_of(
        st.builds(lambda op, value: op(ts, value), compare, instants),
        st.builds(lambda op, value: op(pl.lit(value), ts), compare, instants),
        st.builds(ts.is_between, instants, instants, closed),
        # A series, because some versions compare no list of datetimes with milliseconds.
        st.lists(instants, max_size=3).map(lambda some: ts.is_in(pl.Series(some, dtype=dtype))),
        st.builds(lambda op, value: op(ts_ms, value), compare, numbers),
        st.builds(lambda op, value: op(entry_id, value), compare, ids),
        st.builds(entry_id.is_in, st.lists(ids, max_size=3)),
        st.builds(lambda op, value: op(seq, value), compare, st.integers(0, 3)),
        st.builds(lambda op, value: op(n, value), compare, numbers),
        st.sampled_from([n.is_null(), ts.is_null(), ts.is_not_null(), n + 1 > seq]),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(lambda one, other: one & other, inner, inner),
            st.builds(lambda one, other: one | other, inner, inner),
            inner.map(lambda one: ~one),
        ),
        max_leaves=6,
    )


PREDICATES = {
    dtype: predicates(dtype)
    for dtype in (pl.Int64(), pl.Datetime("ms", "UTC"), pl.Datetime("us"), pl.Datetime("ns", "UTC"))
}
COLUMNS = st.sampled_from([["_id", "_ts", "_seq", "n"], ["_id"], ["n", "_seq"]])
ENTRY_IDS = st.tuples(st.sampled_from([*range(13), 2**63, LAST]), st.integers(0, 2))


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_scan_gives_what_a_filter_of_a_read_gives(
    any_server: Server, client: redis.Redis, stream: str, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(ENTRY_IDS.filter(lambda one: one != (0, 0)), unique=True, max_size=15))
    fields = data.draw(st.lists(st.integers(-2, 12), min_size=len(ids), max_size=len(ids)))
    client.delete(stream)
    add(
        client,
        stream,
        (
            (f"{ms}-{seq}", {"n": value} if value >= 0 else {"other": ""})
            for (ms, seq), value in zip(sorted(ids), fields, strict=True)
        ),
    )
    dtype = data.draw(st.sampled_from([*PREDICATES]))
    # A timestamp beyond its dtype is null.
    options: dict[str, Any] = {
        "schema": NUMBER,
        "include_sequence": True,
        "timestamp_dtype": dtype,
        "on_error": "null",
        "count": data.draw(st.none() | st.integers(0, 15)),
    }
    predicate = data.draw(PREDICATES[dtype])
    rows = data.draw(st.none() | st.integers(0, 15))
    columns = data.draw(COLUMNS)

    def query(lf: pl.LazyFrame) -> pl.LazyFrame:
        limited = lf if rows is None else lf.head(rows)
        return limited.filter(predicate).select(columns)

    df = read_stream(any_server.url, stream, **options)
    expected = query(df.lazy()).collect(optimizations=pl.QueryOptFlags.none())
    lf = query(scan_stream(any_server.url, stream, **options))
    unpushed = pl.QueryOptFlags(predicate_pushdown=False)
    engines: tuple[Engine, ...] = ("in-memory", "streaming")
    for engine in engines:
        assert_frame_equal(lf.collect(engine=engine), expected)
        assert_frame_equal(lf.collect(engine=engine, optimizations=unpushed), expected)


# Predicates that say nothing


@pytest.mark.parametrize(
    "predicate",
    [
        n.hash() % 2 == 0,
        entry_id.str.ends_with("5-0"),
        (ts > 10) & entry_id.str.contains("5"),
        pl.when(n > 5).then(ts > 10).otherwise(False),
        pl.struct("n", "_ts").struct.field("n") > 20,
        pl.concat_list("n", "_ts").list.sum() > 20,
        pl.format("{}", n).str.len_chars() == 2,
        (ts * 2 + n) > 50,
        ts.cast(pl.Datetime("ms")).dt.millisecond() > 20,
        n.is_in(pl.Series([1, 2, 3]).implode()),
    ],
    ids=str,
)
def test_any_other_predicate(
    any_server: Server, thirty: str, predicate: pl.Expr, engine: Engine
) -> None:
    lf = scan_stream(any_server.url, thirty, NUMBER)
    df = lf.filter(predicate).collect(engine=engine)
    assert_frame_equal(df, numbers(30).filter(predicate))


def test_a_predicate_that_cannot_be_read_is_applied_by_polars(
    any_server: Server, thirty: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> pl.Expr:
        raise ValueError

    lf = scan_stream(any_server.url, thirty, NUMBER)
    monkeypatch.setattr(pl.Expr, "deserialize", fail)
    assert_frame_equal(lf.filter(ts > 28).collect(engine=engine), numbers(30, first=29))
    assert_frame_equal(lf.head(5).filter(ts > 3).collect(engine=engine), numbers(5, first=4))


def test_a_python_function_filters(proxy: Proxy, thirty: str, engine: Engine) -> None:
    """Polars needs cloudpickle for it; what stands beside it is pushed down all the same."""

    def ends(number: int) -> bool:
        return next(iter({number % 10})) in (7, 9)

    is_wanted = n.map_elements(ends, return_dtype=pl.Boolean)
    lf = scan_stream(proxy.url, thirty, NUMBER)
    assert lf.filter(is_wanted).collect(engine=engine)["n"].to_list() == [7, 9, 17, 19, 27, 29]
    both = lf.filter(is_wanted & (ts > 10)).collect(engine=engine)
    assert both["n"].to_list() == [17, 19, 27, 29]
    assert [first for first, _, _ in ranges(proxy)] == ["0-0", "11-0"]


def test_a_python_function_that_fails(any_server: Server, thirty: str, engine: Engine) -> None:
    def fail(value: int) -> bool:
        msg = f"not {value}!"
        raise RuntimeError(msg)

    lf = scan_stream(any_server.url, thirty, NUMBER)
    with pytest.raises((RuntimeError, ComputeError), match=r"not \d+!"):
        lf.filter(n.map_elements(fail, return_dtype=pl.Boolean)).collect(engine=engine)


# One snapshot


def grow(server: Server, stream: str) -> Callable[[int], None]:
    """Add an entry after the last for each command that passes a proxy."""
    lock, following = threading.Lock(), itertools.count(100)

    def act(_: int) -> None:
        with lock, server.client() as client:
            number = next(following)
            client.xadd(stream, {"n": number}, id=f"{number}-0")

    return act


@pytest.mark.parametrize("end", ["+", "99999", f"(150-{LAST}"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (lambda lf: lf, numbers(30)),
        (lambda lf: lf.join(lf, on=["_id", "_ts", "n"]), numbers(30)),
        (lambda lf: lf.join(lf.select("_id", "_ts"), on=["_id", "_ts"]), numbers(30)),
        (lambda lf: pl.concat([lf, lf]), pl.concat([numbers(30)] * 2)),
        (
            lambda lf: pl.concat([lf.filter(ts > 20), lf.filter(n > 20)]),
            pl.concat([numbers(30, first=21)] * 2),
        ),
    ],
    ids=["alone", "self-join", "self-join of a part", "union", "union of filters"],
)
def test_one_scan_is_one_snapshot(
    any_server: Server,
    proxy: Proxy,
    thirty: str,
    query: Query,
    expected: pl.DataFrame,
    end: str,
    engine: Engine,
) -> None:
    """Also where its end is yet to come."""
    proxy.before(b"XRANGE", grow(any_server, thirty))
    lf = scan_stream(proxy.url, thirty, NUMBER, end_id=end)
    for _ in range(2):
        df = query(lf).collect(engine=engine)
        assert_frame_equal(df, expected, check_row_order=False)
    proxy.clear()
    assert scan_stream(proxy.url, thirty, NUMBER, end_id=end).collect().height > 31


def test_an_empty_stream_stays_empty(
    any_server: Server, client: redis.Redis, stream: str, engine: Engine
) -> None:
    for end in ("+", "99999"):
        lf = scan_stream(any_server.url, stream, NUMBER, end_id=end)
        assert_frame_equal(lf.collect(engine=engine), numbers(0))
        add_numbers(client, stream, 3)
        assert_frame_equal(lf.collect(engine=engine), numbers(0))
        client.delete(stream)


def test_two_scans_are_not_taken_for_one(any_server: Server, thirty: str, engine: Engine) -> None:
    one, other = (scan_stream(any_server.url, thirty, NUMBER, count=count) for count in (2, 3))
    df = pl.concat([one, other]).collect(engine=engine)
    assert_frame_equal(df, pl.concat([numbers(2), numbers(3)]))


def test_the_sample_is_taken_once(proxy: Proxy, client: redis.Redis, stream: str) -> None:
    add(client, stream, [("1-0", {"a": "1"}), ("2-0", {"b": "x"})])
    lf = scan_stream(proxy.url, stream, infer_schema=True)
    for _ in range(3):
        assert lf.collect_schema() == {
            "_id": pl.String,
            "_ts": pl.Int64,
            "a": pl.Int64,
            "b": pl.String,
        }
        lf.filter(pl.col("a") > 0).select("b").explain()
    assert proxy.count(b"XRANGE") == 1
    add(client, stream, [("3-0", {"c": "1"})])
    for _ in range(3):
        assert lf.collect().rows() == [
            ("1-0", 1, 1, None),
            ("2-0", 2, None, "x"),
            ("3-0", 3, None, None),
        ]
    assert proxy.count(b"XRANGE") == 1 + 3
    assert proxy.count(b"XREVRANGE") == 2  # one for the sample, one for the snapshot


def test_eight_threads_collect_one_frame(
    any_server: Server, proxy: Proxy, thirty: str, engine: Engine
) -> None:
    """They have one sample and one snapshot."""
    act = grow(any_server, thirty)
    proxy.before(b"XREVRANGE", act)
    proxy.before(b"XRANGE", act)
    lf = scan_stream(proxy.url, thirty)
    start = threading.Barrier(8)

    def collect(_: int) -> pl.DataFrame:
        start.wait()
        return lf.collect(engine=engine)

    with ThreadPoolExecutor(8) as pool:
        frames = [*pool.map(collect, range(8))]
    assert all(frame.equals(frames[0]) for frame in frames)
    assert proxy.count(b"XREVRANGE") == 2


def test_collect_all(any_server: Server, thirty: str, engine: Engine) -> None:
    lf = scan_stream(any_server.url, thirty, NUMBER)
    some, count = pl.collect_all([lf.filter(ts > 28), lf.select(pl.len())], engine=engine)
    assert_frame_equal(some, numbers(30, first=29))
    assert count.item() == 30


# Which entries


def test_start_and_end(any_server: Server, thirty: str, engine: Engine) -> None:
    scan = partial(scan_stream, any_server.url, thirty, NUMBER)
    for lf, first, last in (
        (scan("10", "12"), 10, 12),
        (scan("(10-0", "(12-0"), 11, 11),
        (scan(ms(10), ms(12)), 10, 12),
        (scan(end_id=ms(12).replace(tzinfo=None)), 1, 12),
        (scan("29", "$"), 29, 30),
        (scan("12", "10"), 1, 0),
        (scan("31", "+"), 1, 0),
        (scan(count=3), 1, 3),
        (scan(count=0), 1, 0),
        (scan("29", count=5), 29, 30),
        (scan("$"), 1, 0),
        (scan("$", "$"), 1, 0),
    ):
        assert_frame_equal(lf.collect(engine=engine), numbers(last, first=first))


@pytest.mark.parametrize("options", [{}, {"infer_schema": True}])
def test_without_a_schema(
    any_server: Server, client: redis.Redis, stream: str, options: dict[str, Any], engine: Engine
) -> None:
    add(client, stream, [("1-0", {"b": "1"}), ("2-0", {"c": "2", "a": "x"}), ("3-0", {"b": "7"})])
    lf = scan_stream(any_server.url, stream, **options)
    assert_frame_equal(lf.collect(engine=engine), read_stream(any_server.url, stream, **options))
    assert lf.select("a").collect(engine=engine)["a"].to_list() == [None, "x", None]


def test_fields_behind_the_sample_are_not_seen(
    any_server: Server, client: redis.Redis, stream: str, engine: Engine
) -> None:
    add(client, stream, [("1-0", {"a": "1"}), ("2-0", {"b": "x", "a": "y"})])
    lf = scan_stream(any_server.url, stream, infer_schema_length=1)
    assert lf.collect(engine=engine).rows() == [("1-0", 1, "1"), ("2-0", 2, "y")]
    lf = scan_stream(any_server.url, stream, infer_schema=True, infer_schema_length=1)
    with raises(DecodeError, "entry ID: 2-0, field: a"):
        lf.collect(engine=engine)


@pytest.mark.parametrize("schema", [NUMBER, {}, None], ids=str)
def test_a_missing_stream_gives_no_rows(
    any_server: Server, stream: str, schema: dict[str, Any] | None, engine: Engine
) -> None:
    lf = scan_stream(any_server.url, stream, schema)
    expected = {"_id": pl.String, "_ts": pl.Int64, **(schema or {})}
    for query in (lf, lf.head(3), lf.filter(ts > 3), lf.filter(entry_id == "1-0")):
        df = query.collect(engine=engine)
        assert df.schema == expected
        assert df.is_empty()
    assert lf.select(pl.len()).collect(engine=engine).item() == 0


def test_sink_parquet(any_server: Server, client: redis.Redis, stream: str, tmp_path: Path) -> None:
    rows = add_numbers(client, stream, 250_000)
    lf = scan_stream(any_server.url, stream, NUMBER)
    lf.sink_parquet(tmp_path / "numbers.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "numbers.parquet"), numbers(rows))
    lf.filter(n % 1000 == 0).select("n").sink_parquet(tmp_path / "some.parquet")
    expected = numbers(rows).filter(n % 1000 == 0).select("n")
    assert_frame_equal(pl.read_parquet(tmp_path / "some.parquet"), expected)


SINK = """
import resource, sys
import polars as pl
from redfloe import scan_stream

def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

url, stream, path = sys.argv[1:]
lf = scan_stream(url, stream, {"text": pl.String})
lf.head(100).sink_parquet(path)
before = peak()
lf.sink_parquet(path, row_group_size=2_000, compression="uncompressed")
print(peak() - before)
"""


@pytest.mark.slow
def test_sink_parquet_of_more_than_memory_may_take(
    any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    """320 MB, in a process whose peak grows by far less."""
    text = "x" * 8_000
    for first in range(1, 40_001, 1_000):
        texts = [(f"{ms}-0", {"text": f"{ms}{text}"}) for ms in range(first, first + 1_000)]
        add(client, stream, texts)
    path = tmp_path / "texts.parquet"
    command = [sys.executable, "-c", SINK, any_server.url, stream, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert path.stat().st_size > 300_000_000
    client.delete(stream)
    assert int(done.stdout) < 160, "MB"


def test_a_limit_ends_a_streaming_read_early(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 250_000)
    lf = scan_stream(any_server.url, stream, NUMBER)
    found = lf.filter(n % 2 == 0).head(3).collect(engine="streaming")
    assert found["n"].to_list() == [2, 4, 6]


# Faults


def test_an_unknown_column(proxy: Proxy, thirty: str, engine: Engine) -> None:
    lf = scan_stream(proxy.url, thirty, NUMBER)
    for query in (lf.select("absent"), lf.filter(pl.col("absent") > 1), lf.sort("absent")):
        with pytest.raises(ColumnNotFoundError, match="absent"):
            query.collect(engine=engine)
    assert proxy.connections == 0


def test_a_schema_that_does_not_fit(
    any_server: Server, client: redis.Redis, stream: str, engine: Engine
) -> None:
    add_values(client, stream, ["1", None, "x"])
    lf = scan_stream(any_server.url, stream, {"x": pl.Int64})
    with raises(DecodeError, r"entry ID: 3-0, field: x, dtype: Int64, stream: "):
        lf.collect(engine=engine)
    lf = scan_stream(any_server.url, stream, {"x": pl.Int64}, on_error="null")
    assert lf.collect(engine=engine)["x"].to_list() == [1, None, None]


def test_a_key_of_another_type(
    any_server: Server, client: redis.Redis, stream: str, engine: Engine
) -> None:
    client.set(stream, "text")
    with raises(WrongTypeError, stream):
        scan_stream(any_server.url, stream, NUMBER).collect(engine=engine)
    # While it plans, every version of Polars wraps what is raised.
    with pytest.raises(ComputeError, match=f"WrongTypeError: .*{stream}"):
        scan_stream(any_server.url, stream).collect(engine=engine)


def test_a_stream_that_changes_between_planning_and_collecting(
    any_server: Server, client: redis.Redis, thirty: str, engine: Engine
) -> None:
    deleted, trimmed, replaced = (scan_stream(any_server.url, thirty) for _ in range(3))
    for lf in (deleted, trimmed, replaced):
        assert lf.collect_schema().names() == ["_id", "_ts", "n"]
    client.xtrim(thirty, minid="21-0", approximate=False)
    assert trimmed.collect(engine=engine)["_ts"].to_list() == [*range(21, 31)]
    client.delete(thirty)
    assert deleted.collect(engine=engine).shape == (0, 3)
    client.set(thirty, "text")
    with raises(WrongTypeError, thirty):
        replaced.collect(engine=engine)


@pytest.mark.parametrize("command", ["DEL", "XTRIM", "SET"])
def test_a_stream_that_changes_between_two_pages(
    any_server: Server,
    client: redis.Redis,
    proxy: Proxy,
    stream: str,
    command: str,
    engine: Engine,
) -> None:
    add_numbers(client, stream, 3_000)
    words = {
        "DEL": ["DEL", stream],
        "XTRIM": ["XTRIM", stream, "MINID", "1001-0"],
        "SET": ["SET", stream, "text"],
    }

    def act(number: int) -> None:
        if number == 2:
            with any_server.client() as another:
                another.execute_command(*words[command])

    proxy.before(b"XRANGE", act)
    lf = scan_stream(proxy.url, stream, NUMBER)
    if command == "SET":
        with raises(WrongTypeError, stream):
            lf.collect(engine=engine)
        return
    df = lf.collect(engine=engine)
    rest = numbers(3_000, first=1_001) if command == "XTRIM" else numbers(0)
    assert_frame_equal(df, pl.concat([numbers(100), rest]))


@pytest.mark.parametrize("size", [0, 1, 700, 20_000])
def test_a_lost_connection(
    proxy: Proxy, client: redis.Redis, stream: str, size: int, engine: Engine
) -> None:
    add_numbers(client, stream, 3_000)
    proxy.cut_after(0, once_seen=b"XREVRANGE")
    fault = proxy.cut_after(size, once_seen=b"XRANGE", skip=1)
    lf = scan_stream(quick(proxy.url), stream, NUMBER)
    assert_frame_equal(lf.collect(engine=engine), numbers(3_000))
    assert fault.hits == 1
    proxy.cut_after(size, once_seen=b"XRANGE", skip=2)
    with raises(RedisConnectionError, stream):
        hasty = scan_stream(quick(proxy.url, max_retries=0), stream, NUMBER)
        hasty.collect(engine=engine)


def test_a_failed_scan_can_be_collected_again(proxy: Proxy, thirty: str, engine: Engine) -> None:
    lf = scan_stream(quick(proxy.url, max_retries=0), thirty)
    proxy.cut_after(0, once_seen=b"XRANGE")
    with pytest.raises(ComputeError, match="RedisConnectionError"):
        lf.collect_schema()
    assert lf.collect_schema().names() == ["_id", "_ts", "n"]
    for command in (b"XREVRANGE", b"XRANGE"):
        proxy.cut_after(0, once_seen=command)
        with raises(RedisConnectionError, thirty):
            lf.collect(engine=engine)
    assert lf.collect(engine=engine).height == 30


def test_a_server_that_is_gone(stream: str, engine: Engine) -> None:
    connection = quick("redis://:secret@127.0.0.1:1", max_retries=1)
    lf = scan_stream(connection, stream, NUMBER)
    with raises(RedisConnectionError, rf"127\.0\.0\.1:1, .*stream: {stream}"):
        lf.collect(engine=engine)
    with pytest.raises(ComputeError, match=r"RedisConnectionError: .*127\.0\.0\.1:1"):
        scan_stream(connection, stream).collect(engine=engine)


def test_a_server_that_is_silent(proxy: Proxy, thirty: str, engine: Engine) -> None:
    proxy.stall_after(3, once_seen=b"XRANGE", times=None)
    connection = quick(proxy.url, max_retries=0, response_timeout=0.3)
    lf = scan_stream(connection, thirty, NUMBER)
    with within(2), raises(RedisTimeoutError, thirty):
        lf.collect(engine=engine)


INTERRUPTED = """
import sys, polars as pl, redfloe
one, other = (redfloe.scan_stream(sys.argv[1], "s", {"n": pl.Int64}) for _ in range(2))
lf = one.join(other, on="_id") if sys.argv[3] == "join" else one
lf.collect(engine=sys.argv[2])
"""


@pytest.mark.parametrize("query", ["scan", "join"])
@pytest.mark.parametrize("command", [b"XREVRANGE", b"XRANGE"])
def test_ctrl_c_ends_a_collect(
    proxy: Proxy, client: redis.Redis, command: bytes, query: str, engine: Engine
) -> None:
    """Also where Polars reads on other threads, on which Python looks for no signals."""
    add_numbers(client, "s", 30)
    fault = proxy.stall_after(3, once_seen=command, times=None)
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", INTERRUPTED, proxy.url, engine, query],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            eventually(lambda: fault.hits > 0, seconds=20)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=5 * SLACK)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in err
    assert process.returncode != 0
