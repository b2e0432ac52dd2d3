"""Entry IDs as a caller may write them, and durations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

import redfloe
from redfloe import (
    RedisConnection,
    StreamConsumer,
    StreamProducer,
    create_group,
    iter_stream,
    pending_entries,
    read_stream,
    stream_batches,
    trim_stream,
)
from redfloe._ids import entry_id, group_start
from support.clients import quick
from support.server import Server
from support.streams import NUMBER, add
from support.timing import within

MS = dt.timedelta(milliseconds=1)
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: 2024-01-31 at midnight, in UTC.
DAY = 1_706_659_200_000
NEXT_DAY = DAY + 86_400_000


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ("5-3", "5-3", "5-3"),
        ("(5-3", "(5-3", "(5-3"),
        ("-", "-", "-"),
        ("$", "$", "$"),
        ("20240131", "20240131", "20240131"),  # which are milliseconds, as ever
        ("2024-01", "2024-01", "2024-01"),  # an ID
        (0, "0", "0"),
        (DAY, str(DAY), str(DAY)),
        (2**64 - 1, str(2**64 - 1), str(2**64 - 1)),
        (dt.datetime(2024, 1, 31, tzinfo=dt.UTC), str(DAY), str(DAY)),
        (dt.datetime(2024, 1, 31, 0, 0, 0, 500), str(DAY + 1), str(DAY)),  # noqa: DTZ001
        (dt.date(2024, 1, 31), str(DAY), str(NEXT_DAY - 1)),
        ("2024-01-31", str(DAY), str(NEXT_DAY - 1)),
        ("2024-01-31T00:00", str(DAY), str(DAY)),
        ("2024-01-31 00:00:00", str(DAY), str(DAY)),
        ("2024-01-31T01:00:00+01:00", str(DAY), str(DAY)),
        ("2024-01-31T00:00:00.001Z", str(DAY + 1), str(DAY + 1)),
        ("2024-01-31T00:00:00.000001Z", str(DAY + 1), str(DAY)),
    ],
)
def test_what_stands_for_an_id(value: Any, first: str, last: str) -> None:
    assert entry_id(value, "start_id", round_up=True) == first
    assert entry_id(value, "end_id", round_up=False) == last


@given(st.datetimes(min_value=dt.datetime(1970, 1, 2), timezones=st.just(dt.UTC)))  # noqa: DTZ001
def test_the_iso_text_of_a_datetime_means_the_same(time: dt.datetime) -> None:
    local = time.astimezone(ZoneInfo("Europe/Berlin"))
    for round_up in (False, True):
        expected = entry_id(time, "start_id", round_up=round_up)
        for same in (time.isoformat(), str(time), time.replace(tzinfo=None), local.isoformat()):
            assert entry_id(same, "start_id", round_up=round_up) == expected
        ms = int(expected)
        assert abs((time - EPOCH) - ms * MS) < MS


@given(st.dates(min_value=dt.date(1970, 1, 1), max_value=dt.date(9999, 12, 30)))
def test_days_lie_side_by_side(day: dt.date) -> None:
    tomorrow = day + dt.timedelta(1)
    for today, next_day in ((day, tomorrow), (day.isoformat(), tomorrow.isoformat())):
        end = int(entry_id(today, "end_id", round_up=False))
        assert int(entry_id(next_day, "start_id", round_up=True)) == end + 1


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, "start_id must be milliseconds"),
        (2**64, ValueError, "start_id must be milliseconds"),
        (True, TypeError, "start_id must be str, int, date or datetime, not bool"),
        (1.5, TypeError, "not float"),
        (None, TypeError, "not NoneType"),
        (dt.time(1), TypeError, "not time"),
        (dt.date(1969, 12, 31), ValueError, "before 1970"),
        ("1969-12-31", ValueError, "before 1970"),
        ("2024-02-30", ValueError, 'start_id .2024-02-30. begins like a date.*"?2024-01-31'),
        ("2024-01-31T25:00", ValueError, "begins like a date"),
        ("2024-01-31 noon", ValueError, "begins like a date"),
    ],
)
def test_what_is_no_id_is_refused(value: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        entry_id(value, "start_id", round_up=True)


@pytest.mark.parametrize(
    ("value", "behind"),
    [
        ("0", "0"),
        ("$", "$"),
        (0, "0"),
        (DAY, str(DAY)),
        ("2024-01-31", f"{DAY - 1}-{2**64 - 1}"),
        (dt.date(2024, 1, 31), f"{DAY - 1}-{2**64 - 1}"),
        (dt.datetime(2024, 1, 31, tzinfo=dt.UTC), f"{DAY - 1}-{2**64 - 1}"),
        (dt.date(1970, 1, 1), "0"),
    ],
)
def test_a_group_begins_before_the_first_entry_of_a_time(value: Any, behind: str) -> None:
    assert group_start(value, "start_id") == behind


@pytest.fixture
def days(client: redis.Redis, stream: str) -> str:
    """A stream with an entry in the middle of each of the last three days of January 2024."""
    noon = DAY + 43_200_000
    add(client, stream, [(f"{noon - n * 86_400_000}-0", {"n": 31 - n}) for n in (2, 1, 0)])
    return stream


@pytest.mark.parametrize(
    ("bounds", "rows"),
    [
        ({"start_id": dt.date(2024, 1, 30)}, [30, 31]),
        ({"end_id": dt.date(2024, 1, 30)}, [29, 30]),
        ({"start_id": "2024-01-30", "end_id": "2024-01-30"}, [30]),
        ({"start_id": "2024-01-30T12:00:00.001Z"}, [31]),
        ({"end_id": DAY + 43_200_000 - 1}, [29, 30]),
        ({"start_id": DAY, "end_id": DAY + 43_200_000}, [31]),
    ],
)
def test_reads_between_days(
    any_server: Server, days: str, bounds: dict[str, Any], rows: list[int]
) -> None:
    assert read_stream(any_server.url, days, NUMBER, **bounds)["n"].to_list() == rows
    lf = redfloe.scan_stream(any_server.url, days, NUMBER, **bounds)
    assert lf.collect()["n"].to_list() == rows


def test_every_function_that_takes_an_id_takes_a_day(
    any_server: Server, client: redis.Redis, days: str
) -> None:
    url, day = any_server.url, dt.date(2024, 1, 31)
    with iter_stream(url, days, NUMBER, start_id=day, end_id=day) as batches:
        assert next(batches)["n"].to_list() == [31]
    with StreamConsumer(url, days, schema=NUMBER, start_id="2024-01-31", on_idle="stop") as worker:
        assert next(iter(worker)).frame["n"].to_list() == [31]
    create_group(url, days, "since", start_id=day)
    df = read_stream(url, days, NUMBER, group="since", consumer="c")
    assert df["n"].to_list() == [31]
    assert pending_entries(url, days, "since", start_id=day, end_id=day).height == 1
    assert pending_entries(url, days, "since", end_id="2024-01-30").height == 0
    assert read_stream(url, days, NUMBER, start_id=0, group="since", consumer="c").height == 1
    with pytest.raises(ValueError, match="start_id must be None"):
        read_stream(url, days, NUMBER, start_id=False, group="since", consumer="c")
    options: dict[str, Any] = {"group": "fresh", "consumer": "c", "group_start_id": "2024-01-30"}
    assert read_stream(url, days, NUMBER, **options)["n"].to_list() == [30, 31]
    assert trim_stream(url, days, minid=day, approximate=False) == 2
    redfloe.write_stream(url, pl.DataFrame({"n": [5]}), days, minid=DAY * 2, approximate=False)
    assert client.xlen(days) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda url, stream, ms: read_stream(url, stream, block_ms=ms),
        lambda url, stream, ms: iter_stream(url, stream, block_ms=ms, start_id="-"),
        lambda url, stream, ms: iter_stream(url, stream, batch_timeout_ms=ms, start_id="-"),
        lambda url, stream, ms: stream_batches(url, stream, block_ms=ms),
        lambda url, stream, ms: stream_batches(url, stream, batch_timeout_ms=ms),
        lambda url, stream, ms: StreamConsumer(url, stream, block_ms=ms),
        lambda url, stream, ms: StreamConsumer(url, stream, batch_timeout_ms=ms),
        lambda url, stream, ms: StreamConsumer(url, stream, "g", "c", reclaim_min_idle_ms=ms),
        lambda url, stream, ms: StreamConsumer(url, stream, "g", "c", reclaim_interval_ms=ms),
        lambda url, stream, ms: StreamConsumer(url, stream, "g", "c", remove_idle_consumers_ms=ms),
        lambda url, stream, ms: StreamProducer(url, stream, linger_ms=ms),
        lambda url, stream, ms: pending_entries(url, stream, "g", min_idle_ms=ms),
    ],
)
def test_milliseconds_may_be_a_timedelta(
    any_server: Server, client: redis.Redis, stream: str, call: Callable[..., Any]
) -> None:
    client.xgroup_create(stream, "g", mkstream=True)
    url = RedisConnection(any_server.url)
    call(url, stream, dt.timedelta(milliseconds=1))
    unreachable = quick("redis://127.0.0.1:1")
    for wrong, error in ((-MS, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError)):
        with pytest.raises(error, match=r"^\w+_ms must"):
            call(unreachable, stream, wrong)


def test_a_timedelta_is_that_long(any_server: Server, client: redis.Redis, stream: str) -> None:
    with within(5):
        assert read_stream(
            any_server.url, stream, NUMBER, block_ms=dt.timedelta(0, 0, 1)
        ).is_empty()
    add(client, stream, [("1-0", {"n": 1})])
    read_stream(any_server.url, stream, NUMBER, group="g", consumer="c")
    hour = dt.timedelta(hours=1)
    assert pending_entries(any_server.url, stream, "g", min_idle_ms=hour).is_empty()
    assert pending_entries(any_server.url, stream, "g", min_idle_ms=0 * hour).height == 1


@pytest.mark.parametrize("text", ["1", "+", "(1-0", "2024-01-01", ""])
def test_where_whole_ids_are_wanted_nothing_else_is_recommended(
    any_server: Server, stream: str, text: str
) -> None:
    url = any_server.url
    for act in (
        lambda: redfloe.delete_entries(url, stream, [text]),
        lambda: redfloe.ack_entries(url, stream, "g", [text]),
        lambda: redfloe.claim_entries(url, stream, "g", "c", [text]),
    ):
        with pytest.raises(ValueError, match='"ms-seq"') as caught:
            act()
        assert "exclusive" not in str(caught.value)
        assert '"$"' not in str(caught.value)


def test_a_start_that_is_no_id_names_dates(any_server: Server, stream: str) -> None:
    url, wrong = any_server.url, "26.11.2026"
    for act in (
        lambda: redfloe.read_stream(url, stream, start_id=wrong),
        lambda: redfloe.read_stream(url, stream, end_id=wrong),
        lambda: redfloe.create_group(url, stream, "g", start_id=wrong),
        lambda: redfloe.trim_stream(url, stream, minid=wrong),
        lambda: redfloe.pending_entries(url, stream, "g", start_id=wrong),
    ):
        with pytest.raises(ValueError, match=r'26\.11\.2026.*ISO 8601, such as "2026-11-26"'):
            act()
