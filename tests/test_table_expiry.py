"""Rows of tables that expire by their own time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import SchemaError
from redfloe._processing.table import Table, table_request
from support.processing import load_state, load_table, save
from support.server import Server


def load(url: Any, key: Any, schema: Any, newest_ms: int | None = None, **options: Any) -> Table:
    return load_table(url, b"table", table_request(key, schema, **options), newest_ms)


def at(minute: int) -> datetime:
    return datetime(2024, 1, 1, 12, minute, tzinfo=UTC)


@pytest.mark.parametrize("unit", ["ms", "us", "ns", None])
def test_rows_expire_by_their_own_time(any_server: Server, client: redis.Redis, unit: Any) -> None:
    dtype = pl.Int64 if unit is None else pl.Datetime(unit, "UTC")
    options: Any = {"event_time": "at", "expire_after": timedelta(minutes=10)}
    table = load(any_server.url, "k", {"at": dtype}, **options)

    def upsert(**minutes: int | None) -> None:
        times = [None if minute is None else at(minute) for minute in minutes.values()]
        frame = pl.DataFrame(
            {"k": [*minutes], "at": pl.Series(times, dtype=pl.Datetime("ms", "UTC"))}
        )
        table.upsert(frame.cast({"at": dtype}) if unit is None else frame)

    upsert(a=0, b=5, c=10, never=None)
    assert save(client, table) == (4, 0)
    # Exactly ten minutes old is not older.
    upsert(d=15, late=4)
    assert sorted(key for key, _ in table.changes()[0]) == [b"d", b"late"]
    assert save(client, table) == (1, 1)
    assert sorted(client.hkeys("table")) == [b"b", b"c", b"d", b"never"]
    # A row with a newer time lives on, and the watermark is known to whoever loads the table.
    table = load(any_server.url, "k", {"at": dtype}, **options)
    upsert(b=16)
    assert save(client, table) == (1, 0)
    assert table.expire(int(at(26).timestamp() * 1000)) == 2
    table.rollback()
    assert len(table) == 4
    assert save(client, table) == (0, 0)
    assert table.expire(int(at(26).timestamp() * 1000)) == 2
    assert save(client, table) == (0, 2)
    assert sorted(client.hkeys("table")) == [b"b", b"never"]


@pytest.mark.parametrize("unit", ["ms", "us"])
def test_what_expires_does_not_depend_on_restarts(
    any_server: Server, client: redis.Redis, unit: Any
) -> None:
    options: Any = {"event_time": "at", "expire_after": timedelta(minutes=10)}
    schema = {"at": pl.Datetime(unit, "UTC")}
    late = pl.DataFrame({"k": ["late"], "at": [at(9)]}, schema={"k": pl.String, **schema})
    state = load_state(any_server.url, b"state")
    assert state.newest_ms("stock") is None
    table = load(any_server.url, "k", schema, **options)
    newest = at(20) + timedelta(microseconds=1_999 if unit == "us" else 1_000)
    table.upsert(late.with_columns(k=pl.lit("new"), at=pl.lit(newest, schema["at"])))
    table.rollback()
    assert table.newest_ms() is None
    table.upsert(late.with_columns(k=pl.lit("new"), at=pl.lit(newest, schema["at"])))
    table.delete(["new"])
    state.keep_newest("stock", table.newest_ms())
    sets, _ = state.changes()
    assert sets == [(b"\0newest:stock", b"%d" % (at(20).timestamp() * 1000 + 1))]
    client.hset("state", mapping=dict(sets))
    state.commit()
    save(client, table)
    assert state.changes() == ([], [])
    state = load_state(any_server.url, b"state")
    assert ([*state], state.newest_ms("stock")) == ([], table.newest_ms())
    again = load(any_server.url, "k", schema, state.newest_ms("stock"), **options)
    for one in (table, again):
        one.upsert(late)
        assert one.expire() == 1
        one.rollback()
        one.upsert(late.with_columns(at=pl.lit(at(10), schema["at"]) + timedelta(milliseconds=1)))
        assert one.expire() == 0
        one.rollback()
    state.keep_newest("stock", 5)
    state.rollback()
    assert state.newest_ms("stock") == table.newest_ms()
    state.keep_newest("stock", None)
    assert state.changes() == ([], [b"\0newest:stock"])


def test_expiry_needs_a_time() -> None:
    refused: list[tuple[Any, type[Exception], str]] = [
        ({"event_time": "v"}, ValueError, "belong together"),
        ({"expire_after": 5}, ValueError, "belong together"),
        ({"event_time": "v", "expire_after": 5}, SchemaError, "must name a Datetime"),
        ({"event_time": "w", "expire_after": 5}, SchemaError, "names no column"),
    ]
    for options, error, match in refused:
        with pytest.raises(error, match=match):
            table_request("k", {"v": pl.String}, **options)
