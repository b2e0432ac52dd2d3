"""Dtypes where there is no schema: samples, overrides, and inference through a group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Timer
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal, assert_series_equal

from redfloe import (
    DecodeError,
    SchemaError,
    StreamConsumer,
    infer_schema,
    iter_stream,
    pending_entries,
    read_stream,
    scan_stream,
    stream_batches,
    stream_reader,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.streams import add
from support.versions import FAILURES

Read = Callable[..., pl.DataFrame]


def drained(url: str, stream: str, **options: Any) -> pl.DataFrame:
    batches = iter_stream(url, stream, start_id="-", on_idle="stop", block_ms=1, **options)
    return pl.concat(batches, how="diagonal")


def worked(url: str, stream: str, **options: Any) -> pl.DataFrame:
    with StreamConsumer(url, stream, on_idle="stop", block_ms=1, **options) as worker:
        return pl.concat([batch.frame for batch in worker], how="diagonal")


def in_group(url: str, stream: str, **options: Any) -> pl.DataFrame:
    return read_stream(url, stream, group="read", consumer="c", **options)


def worked_in_group(url: str, stream: str, **options: Any) -> pl.DataFrame:
    return worked(url, stream, group="work", consumer="c", **options)


async def collected(url: str, stream: str, **options: Any) -> pl.DataFrame:
    batches = stream_batches(url, stream, start_id="-", on_idle="stop", block_ms=1, **options)
    return pl.concat([batch async for batch in batches], how="diagonal")


READERS: dict[str, Read] = {
    "read": read_stream,
    "iter": drained,
    "async": lambda *args, **options: asyncio.run(collected(*args, **options)),
    "consumer": worked,
    "group": in_group,
    "consumer-group": worked_in_group,
}
SAMPLED: dict[str, Read] = {
    "scan": lambda *args, **options: scan_stream(*args, **options).collect(),
    "reader": lambda *args, **options: pl.DataFrame(stream_reader(*args, **options)),
}


@pytest.fixture(params=READERS)
def read(request: pytest.FixtureRequest) -> Read:
    return READERS[request.param]


@pytest.fixture(params=[*READERS, *SAMPLED])
def read_any(request: pytest.FixtureRequest) -> Read:
    return (READERS | SAMPLED)[request.param]


# Overrides


@pytest.mark.parametrize("inferred", [False, True])
def test_overrides_type_fields_in_their_places(
    server: Server, client: redis.Redis, stream: str, inferred: bool
) -> None:
    entries: list[dict[str, str | bytes]] = [
        {"n": "1", "raw": b"\xff", "m": "2"},
        {"m": "3", "late": "4", "n": ""},
    ]
    add(client, stream, [(f"{number}-0", fields) for number, fields in enumerate(entries, 1)])
    overrides = {"raw": pl.Binary, "n": pl.Int8, "late": pl.Float32}
    df = read_stream(
        server.url, stream, infer_schema=inferred, schema_overrides=overrides, include_id=False
    )
    m: pl.DataType = pl.Int64() if inferred else pl.String()
    expected = pl.DataFrame(
        {"_ts": [1, 2], "n": [1, None], "raw": [b"\xff", None], "m": ["2", "3"], "late": [None, 4]},
        schema_overrides={"n": pl.Int8, "late": pl.Float32},
    ).with_columns(pl.col("m").cast(m))
    assert_frame_equal(df, expected)


@pytest.mark.parametrize("inferred", [False, True])
def test_every_reader_has_overrides(
    any_server: Server, client: redis.Redis, stream: str, read_any: Read, inferred: bool
) -> None:
    add(client, stream, [(f"{number}-0", {"a": number, "b": f"{number}.5"}) for number in (1, 2)])
    overrides = {"b": pl.Float32, "absent": pl.List(pl.Int64)}
    df = read_any(any_server.url, stream, infer_schema=inferred, schema_overrides=overrides)
    assert dict(df.schema) == {
        "_id": pl.String,
        "_ts": pl.Int64,
        "a": pl.Int64 if inferred else pl.String,
        "b": pl.Float32,
        "absent": pl.List(pl.Int64),
    }
    assert df["b"].to_list() == [1.5, 2.5]
    assert df["absent"].null_count() == 2


DTYPES: list[tuple[Any, str]] = [
    (pl.Categorical, "x"),
    (pl.Enum(["x", "y"]), "x"),
    (pl.Int128, str(2**100)),
    (pl.Decimal(10, 2), "1.25"),
    (pl.Struct({"a": pl.Int64}), '{"a": 1}'),
    (pl.List(pl.Categorical), '["x"]'),
    (pl.Datetime("ms", "Europe/Berlin"), "2024-01-31T12:00Z"),
    (pl.Boolean, "yes"),
]


@pytest.mark.parametrize(("dtype", "text"), DTYPES, ids=str)
def test_every_dtype_may_override(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any, text: str
) -> None:
    add(client, stream, [("1-0", {"other": "-"}), ("2-0", {"x": text}), ("3-0", {"other": "-"})])
    overrides = {"x": dtype, "absent": dtype}
    df = read_stream(any_server.url, stream, schema_overrides=overrides)
    assert df.columns == ["_id", "_ts", "other", "x", "absent"]
    assert df.schema["x"] == df.schema["absent"] == dtype
    assert df["absent"].null_count() == 3
    assert df["x"].null_count() == 2
    assert_series_equal(df["x"], read_stream(any_server.url, stream, {"x": dtype})["x"])
    # A batch without the field, after one that had it and before one that has it.
    batches = iter_stream(
        any_server.url,
        stream,
        start_id="-",
        on_idle="stop",
        block_ms=1,
        batch_size=1,
        schema_overrides=overrides,
    )
    assert [batch.schema["x"] for batch in batches] == [df.schema["x"]] * 3


def test_an_empty_stream_has_the_columns(any_server: Server, stream: str) -> None:
    for inferred in (False, True):
        df = read_stream(
            any_server.url, stream, schema_overrides={"n": pl.Int8}, infer_schema=inferred
        )
        assert dict(df.schema) == {"_id": pl.String, "_ts": pl.Int64, "n": pl.Int8}
    schema = infer_schema(any_server.url, stream, schema_overrides={"n": pl.Int8})
    assert dict(schema) == {"n": pl.Int8}
    lf = scan_stream(any_server.url, stream, schema_overrides={"n": pl.Int8})
    assert lf.collect_schema() == df.schema


def test_what_does_not_fit_an_override_is_a_misfit(
    any_server: Server, client: redis.Redis, stream: str, read_any: Read
) -> None:
    add(client, stream, [("1-0", {"n": "1"}), ("2-0", {"n": "two"})])
    overrides = {"n": pl.Int64}
    with pytest.raises(FAILURES, match=r"2-0.*dtype: Int64"):
        read_any(any_server.url, stream, schema_overrides=overrides)
    df = read_stream(any_server.url, stream, schema_overrides=overrides, on_error="null")
    assert df["n"].to_list() == [1, None]
    df = read_stream(any_server.url, stream, schema_overrides=overrides, rescue_column="rest")
    assert df.columns == ["_id", "_ts", "n", "rest"]
    assert df["rest"].to_list() == [None, '{"n":"two"}']


def test_overrides_hold_for_the_keys_of_a_payload(
    any_server: Server, client: redis.Redis, stream: str, read_any: Read
) -> None:
    add(client, stream, [("1-0", {"kind": "a", "data": '{"n": 1, "at": "2024-01-31"}'})])
    overrides = {"at": pl.Date, "n": pl.Int8}
    df = read_any(any_server.url, stream, payload="data", schema_overrides=overrides)
    assert dict(df.drop("_id", "_ts").schema) == {
        "kind": pl.String,
        "n": pl.Int8,
        "at": pl.Date,
    }


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"schema": {"a": pl.Int64}, "schema_overrides": {"a": pl.Int8}},
            ValueError,
            "schema=None",
        ),
        ({"schema_overrides": {"a": pl.Object}}, SchemaError, "'a' has the dtype"),
        ({"schema_overrides": {"_id": pl.String}}, SchemaError, "id_column"),
        ({"schema_overrides": [("a", pl.Int8), ("a", pl.Int8)]}, SchemaError, "overrides names"),
        ({"schema_overrides": {"a": 5}}, TypeError, "schema_overrides's field 'a'"),
        ({"schema_overrides": 5}, TypeError, "^schema_overrides must be"),
        ({"schema_overrides": {5: pl.Int8}}, TypeError, "^schema_overrides must be"),
        ({"infer_schema_length": -1}, ValueError, "infer_schema_length"),
        ({"infer_schema_length": "all"}, TypeError, "infer_schema_length"),
    ],
)
def test_wrong_overrides_are_refused_at_once(
    stream: str, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    for read in (read_stream, scan_stream, stream_reader, iter_stream, StreamConsumer):
        with pytest.raises(error, match=match):
            read(quick("redis://127.0.0.1:1"), stream, **options)


# Samples


def growing(client: redis.Redis, stream: str, entries: int, last: dict[str, Any]) -> None:
    """Add entries whose field is an integer, but for the last."""
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(1, entries)])
    add(client, stream, [(f"{entries}-0", last)])


def test_the_newest_entries_are_looked_at_too(
    any_server: Server, client: redis.Redis, stream: str, read_any: Read
) -> None:
    growing(client, stream, 1000, {"n": "1.5", "added": "true"})
    df = read_any(any_server.url, stream, infer_schema=True)
    assert df.columns == ["_id", "_ts", "n", "added"]
    assert df.schema["n"] == pl.Float64
    assert df.schema["added"] == pl.Boolean
    schema = infer_schema(any_server.url, stream)
    assert dict(schema) == {"n": pl.Float64, "added": pl.Boolean}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"infer_schema_length": 1}, pl.Int64),
        ({"infer_schema_length": 2}, pl.Float64),
        ({"end_id": "999"}, pl.Int64),
        ({"start_id": "1000"}, pl.Float64),
        ({"infer_schema_length": 0}, None),
    ],
)
def test_half_of_a_sample_are_the_newest_within_the_bounds(
    any_server: Server, client: redis.Redis, stream: str, options: dict[str, Any], expected: Any
) -> None:
    growing(client, stream, 1000, {"n": "1.5"})
    assert infer_schema(any_server.url, stream, **options).get("n") == expected


def test_a_read_of_the_oldest_is_typed_by_the_oldest(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    growing(client, stream, 1000, {"n": "word"})
    df = read_stream(any_server.url, stream, count=200, infer_schema=True)
    assert df.schema["n"] == pl.Int64
    df = read_stream(any_server.url, stream, last=200, infer_schema=True)
    assert df.schema["n"] == pl.String


def test_without_a_length_all_entries_are_looked_at(
    any_server: Server, client: redis.Redis, stream: str, read_any: Read
) -> None:
    add(client, stream, [(f"{n}-0", {"n": "1.5" if n == 1000 else n}) for n in range(1, 2001)])
    assert infer_schema(any_server.url, stream)["n"] == pl.Int64
    assert infer_schema(any_server.url, stream, infer_schema_length=None)["n"] == pl.Float64
    df = read_any(any_server.url, stream, infer_schema=True, infer_schema_length=None)
    assert df.schema["n"] == pl.Float64


def test_no_entry_is_looked_at_twice(any_server: Server, client: redis.Redis, stream: str) -> None:
    growing(client, stream, 70, {"n": "1.5"})
    with Proxy(any_server.port) as proxy:
        assert infer_schema(proxy.url, stream)["n"] == pl.Float64
        sent = [command[2:4] for command in proxy.commands if command[0] == b"XRANGE"]
        assert sent == [(b"0-0", b"70-0"), (b"51-0", b"70-0")]
        proxy.commands.clear()
        assert infer_schema(proxy.url, stream, infer_schema_length=200)["n"] == pl.Float64
        assert sum(command[0] == b"XRANGE" for command in proxy.commands) == 1


def test_a_sample_survives_a_lost_connection(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    growing(client, stream, 3000, {"n": "1.5"})
    for after in (10, 2000, 30_000):
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(after)
            schema = infer_schema(quick(proxy.url), stream, infer_schema_length=1600)
            assert schema["n"] == pl.Float64
            assert proxy.connections > 1


# Through a group


def test_a_group_infers_from_the_whole_stream_and_delivers_nothing_for_it(
    server: Server, client: redis.Redis, stream: str
) -> None:
    growing(client, stream, 30, {"n": "1.5"})
    client.xgroup_create(stream, "g", id="20-0")
    df = read_stream(server.url, stream, group="g", consumer="c", count=3, infer_schema=True)
    assert df["n"].to_list() == [21.0, 22.0, 23.0]
    assert pending_entries(server.url, stream, "g").height == 3
    # Whoever has read them, they are in the stream.
    df = read_stream(server.url, stream, group="g", consumer="c", infer_schema=True, start_id="0")
    assert df["n"].to_list() == [21.0, 22.0, 23.0]


def test_a_worker_waits_for_something_to_infer_from(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    timer = Timer(0.3, lambda: add(client, stream, [("1-0", {"n": "1"}), ("2-0", {"n": "2"})]))
    options: dict[str, Any] = {"infer_schema": True, "block_ms": 100}
    with StreamConsumer(any_server.url, stream, "g", "c", **options) as worker:
        timer.start()
        frames = [next(iter(worker)).frame]
        if frames[0].height == 1:
            frames.append(next(iter(worker)).frame)
        timer.join()
    assert pl.concat(frames)["n"].to_list() == [1, 2]
    assert all(frame.schema["n"] == pl.Int64 for frame in frames)


@pytest.mark.parametrize("wait", [{}, {"block_ms": 50}])
def test_a_group_read_of_an_empty_stream_gives_nothing(
    any_server: Server, stream: str, wait: dict[str, Any]
) -> None:
    df = read_stream(
        any_server.url, stream, group="g", consumer="c", infer_schema=True, include_id=False, **wait
    )
    assert dict(df.schema) == {"_ts": pl.Int64}


def test_deleted_pending_entries_are_acknowledged_where_nothing_is_left_to_infer_from(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [(f"{number}-0", {"n": number}) for number in (1, 2, 3)])
    read_stream(server.url, stream, group="g", consumer="c")
    client.xdel(stream, "1-0", "2-0", "3-0")
    options: dict[str, Any] = {"infer_schema": True, "on_idle": "stop", "block_ms": 20}
    with StreamConsumer(
        server.url, stream, "g", "c", reclaim_min_idle_ms=0, reclaim_interval_ms=1, **options
    ) as worker:
        assert list(worker) == []
    assert pending_entries(server.url, stream, "g").is_empty()


def test_dead_letters_of_an_inferred_dtype(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(1, 301)])
    add(client, stream, [("301-0", {"n": "word"})])
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(302, 400)])
    letters = f"{stream}:dead"
    df = worked_in_group(
        any_server.url, stream, infer_schema=True, dead_letter=letters, batch_size=50
    )
    assert df.schema["n"] == pl.Int64
    assert df.height == 300 + 98
    dead: Any = client.xrange(letters)
    assert [letter[b"n"] for _, letter in dead] == [b"word"]


def test_a_field_that_is_no_text_is_binary(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    for n, value in enumerate([b"1", b"\xff\xfe", b"2"], 1):
        client.xadd(stream, {"n": value, "m": "1", "empty": ""}, id=f"{n}-0")
    schema = infer_schema(any_server.url, stream)
    assert schema == {"n": pl.Binary, "m": pl.Int64, "empty": pl.String}
    df = read_stream(any_server.url, stream, infer_schema=True)
    assert df["n"].to_list() == [b"1", b"\xff\xfe", b"2"]
    # What means null says nothing of the dtype.
    client.xadd(stream, {"m": "x"}, id="4-0")
    assert infer_schema(any_server.url, stream, null_values=["x"])["m"] == pl.Int64


def test_what_is_no_document_says_nothing_of_its_keys(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    for value in [b'{"n": 1}', b"broken", b'{"n": "\xff"}', b'{"m": "\\ud800"}']:
        client.xadd(stream, {"data": value})
    assert infer_schema(any_server.url, stream, payload="data") == {"n": pl.Int64, "m": pl.String}
    with pytest.raises(DecodeError):
        read_stream(any_server.url, stream, infer_schema=True, payload="data")
    df = read_stream(any_server.url, stream, infer_schema=True, payload="data", on_error="null")
    assert df["n"].to_list() == [1, None, None, None]
    assert df["m"].to_list() == [None] * 4
