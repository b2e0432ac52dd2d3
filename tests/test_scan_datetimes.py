"""Datetimes in the filters of a scan: compared as they are meant, or refused."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
import redis
from polars.exceptions import ComputeError
from polars.testing import assert_frame_equal

from redfloe import SchemaError, read_stream, scan_stream
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add
from support.versions import POLARS

ts, n = pl.col("_ts"), pl.col("n")
#: 2020-01-01 in milliseconds.
START = 1_577_836_800_000
#: Its third day.
DAY3 = dt.datetime(2020, 1, 3)  # noqa: DTZ001  # that it is naive is what is tested
DAY3_UTC = DAY3.replace(tzinfo=dt.UTC)


@pytest.fixture
def days(client: redis.Redis, stream: str) -> str:
    """A stream with an entry at the begin of each of the first four days of 2020."""
    add(client, stream, [(f"{START + day * 86_400_000}-0", {"n": day + 1}) for day in range(4)])
    return stream


@pytest.mark.parametrize(
    "predicate",
    [
        ts >= DAY3,
        ts >= DAY3_UTC,
        pl.lit(DAY3) > ts,
        ts == DAY3,
        ts != DAY3,
        ~(ts < DAY3),
        ts.is_between(DAY3, DAY3 + dt.timedelta(1)),
        (n > 1.5) & (ts >= DAY3),
        (n == 1) | (ts >= DAY3),
        ts >= pl.datetime(2020, 1, 3),
        ts >= pl.lit(DAY3).cast(pl.Datetime("ns")),
        ts.cast(pl.Float64) >= pl.lit(DAY3).cast(pl.Int64),
        ts.is_in([1, 1_577_836_800_000_000]),
        ts < dt.datetime(1950, 1, 1, tzinfo=dt.UTC),
        pl.when(n > 1).then(ts >= DAY3).otherwise(False),
    ],
    ids=str,
)
def test_microseconds_are_not_compared_with_milliseconds(
    any_server: Server, days: str, predicate: pl.Expr
) -> None:
    """No row would match, or all, and nobody would know why."""
    lf = scan_stream(any_server.url, days, NUMBER)
    with pytest.raises((SchemaError, ComputeError), match=r"SchemaError|_ts.*timestamp_dtype") as e:
        lf.filter(predicate).collect()
    assert "timestamp_dtype=pl.Datetime" in str(e.value)
    if POLARS >= (2, 1):
        assert isinstance(e.value, SchemaError)


@pytest.mark.parametrize(
    ("predicate", "rows"),
    [
        (ts >= START + 2 * 86_400_000, [3, 4]),
        (ts * 1000 >= DAY3, [3, 4]),
        (ts >= pl.lit(DAY3).dt.epoch("ms"), [3, 4]),
        (pl.from_epoch("_ts", time_unit="ms") >= DAY3, [3, 4]),
        (ts.cast(pl.Datetime("ms")) >= DAY3, [3, 4]),
        (n < 10**15, [1, 2, 3, 4]),
    ],
    ids=str,
)
def test_what_counts_in_the_right_unit_is_compared(
    any_server: Server, days: str, predicate: pl.Expr, rows: list[int]
) -> None:
    lf = scan_stream(any_server.url, days, NUMBER)
    assert lf.filter(predicate).collect()["n"].to_list() == rows


def test_ids_that_count_microseconds_are_compared_with_them(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    micros = START * 1_000
    add(client, stream, [(f"{micros}-0", {"n": 1}), (f"{micros + 1}-0", {"n": 2})])
    lf = scan_stream(any_server.url, stream, NUMBER)
    assert lf.filter(ts > dt.datetime(2020, 1, 1)).collect()["n"].to_list() == [2]  # noqa: DTZ001
    # What counts is the stream, not the part of it that the scan is of.
    lf = scan_stream(any_server.url, stream, NUMBER, end_id="5")
    assert lf.filter(ts > micros).collect().is_empty()


def test_a_renamed_timestamp_is_named(any_server: Server, days: str) -> None:
    lf = scan_stream(any_server.url, days, {"_ts": pl.Int64}, timestamp_column="at")
    assert lf.filter(ts.is_null() | (ts >= 10**15)).collect().height == 4  # a field of the entries
    with pytest.raises((SchemaError, ComputeError), match="compares at, which"):
        lf.filter(pl.col("at") >= DAY3).collect()


@pytest.mark.parametrize("dtype", [pl.Datetime, dt.datetime, pl.Datetime("ms", "UTC")], ids=str)
def test_the_short_way_to_a_datetime_is_that_of_the_id(
    any_server: Server, days: str, dtype: Any
) -> None:
    df = read_stream(any_server.url, days, NUMBER, timestamp_dtype=dtype)
    assert df.schema["_ts"] == pl.Datetime("ms", "UTC")
    lf = scan_stream(any_server.url, days, NUMBER, timestamp_dtype=dtype)
    assert_frame_equal(lf.collect(), df)
    grouped = lf.group_by_dynamic("_ts", every="2d").agg(pl.sum("n")).collect()
    assert grouped.rows() == [
        (dt.datetime(2020, 1, 1, tzinfo=dt.UTC), 3),
        (dt.datetime(2020, 1, 3, tzinfo=dt.UTC), 7),
    ]


NAIVE = [
    (ts >= DAY3, [3, 4]),
    (pl.lit(DAY3) > ts, [1, 2]),
    (ts == DAY3, [3]),
    (ts != DAY3, [1, 2, 4]),
    (~(ts < DAY3), [3, 4]),
    ((ts >= DAY3) & (n > 3.5), [4]),
    ((n < 1.5) | (ts > DAY3), [1, 4]),
    ((ts >= DAY3) & ts.is_not_null(), [3, 4]),
    (ts.dt.replace_time_zone(None) >= dt.datetime(2020, 1, 4), []),  # noqa: DTZ001
    (n.is_in([1, 2]) & (ts >= dt.datetime(2020, 1, 1, 12)), [2]),  # noqa: DTZ001
]


@pytest.mark.parametrize("dtype", [pl.Datetime("ms", "UTC"), pl.Datetime("us", "America/Bogota")])
@pytest.mark.parametrize(("predicate", "rows"), NAIVE, ids=str)
def test_a_naive_datetime_in_a_filter_is_utc(
    any_server: Server, days: str, dtype: pl.DataType, predicate: pl.Expr, rows: list[int]
) -> None:
    """As that of `start_id` is."""
    lf = scan_stream(any_server.url, days, NUMBER, timestamp_dtype=dtype)
    if not rows:  # in the column's own time zone
        rows = [4] if dtype == pl.Datetime("ms", "UTC") else []
    assert lf.filter(predicate).collect()["n"].to_list() == rows


@pytest.mark.skipif(POLARS < (2, 0), reason="refused by Polars itself")
def test_naive_bounds_of_is_between_are_utc(any_server: Server, days: str) -> None:
    lf = scan_stream(any_server.url, days, NUMBER, timestamp_dtype=pl.Datetime)
    df = lf.filter(ts.is_between(DAY3, DAY3 + dt.timedelta(1), closed="left")).collect()
    assert df["n"].to_list() == [3]


@pytest.mark.parametrize("start", [DAY3, DAY3_UTC], ids=str)
def test_a_filter_by_a_naive_datetime_reads_what_start_id_reads(
    any_server: Server, days: str, start: dt.datetime
) -> None:
    df = read_stream(any_server.url, days, NUMBER, start_id=start, timestamp_dtype=pl.Datetime)
    assert df["n"].to_list() == [3, 4]
    with Proxy(any_server.port) as proxy:
        lf = scan_stream(proxy.url, days, NUMBER, timestamp_dtype=pl.Datetime)
        assert_frame_equal(lf.filter(ts >= start).collect(), df)
        assert [command[2] for command in proxy.commands if command[0] == b"XRANGE"] == [
            f"{START + 2 * 86_400_000}-0".encode()
        ]
