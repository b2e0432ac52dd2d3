"""Frames into streams."""

from __future__ import annotations

import asyncio
import datetime as dt
from decimal import Decimal
from typing import Any

import duckdb
import hypothesis.strategies as st
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

import redfloe
from redfloe import (
    RedisConnection,
    SchemaError,
    StreamProducer,
    WrongTypeError,
    read_stream,
    write_stream,
)
from support.server import Server
from support.writes import WRITABLE, entries, ids, read_back

FRAME = pl.DataFrame(
    {"name": ["ada", "grüße", None], "n": [1, None, -3], "ok": [True, False, None]}
)


def test_rows_become_entries(server: Server, client: redis.Redis, stream: str) -> None:
    frame = FRAME.head(2)
    written = write_stream(server.url, frame, stream)
    assert written.name == "_id"
    assert written.dtype == pl.String
    assert written.to_list() == ids(client, stream)
    assert entries(client, stream) == [
        {b"name": b"ada", b"n": b"1", b"ok": b"true"},
        {b"name": "grüße".encode(), b"ok": b"false"},
    ]
    assert_frame_equal(read_back(server.url, stream, frame), frame)


EVERY_TEXT: dict[str, tuple[pl.DataType | type[pl.DataType], Any, bytes]] = {
    "string": (pl.String, "größe", "größe".encode()),
    "empty": (pl.String, "", b""),
    "binary": (pl.Binary, b"\x00\xff\r\n", b"\x00\xff\r\n"),
    "categorical": (pl.Categorical, "x", b"x"),
    "enum": (pl.Enum(["low", "high"]), "high", b"high"),
    "int8": (pl.Int8, -128, b"-128"),
    "int128": (pl.Int128, -(2**127), str(-(2**127)).encode()),
    "uint64": (pl.UInt64, 2**64 - 1, b"18446744073709551615"),
    "float32": (pl.Float32, 0.1, b"0.1"),
    "float64": (pl.Float64, -1.5, b"-1.5"),
    "nan": (pl.Float64, float("nan"), b"NaN"),
    "infinite": (pl.Float64, float("-inf"), b"-inf"),
    "decimal": (pl.Decimal(10, 3), Decimal("-0.050"), b"-0.050"),
    "boolean": (pl.Boolean, False, b"false"),
    "date": (pl.Date, dt.date(2024, 2, 29), b"2024-02-29"),
    "time": (pl.Time, dt.time(1, 2, 3, 500_000), b"01:02:03.500"),
    "datetime": (
        pl.Datetime("us"),
        dt.datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001
        b"2024-01-02T03:04:05.000006",
    ),
    "zoned": (
        pl.Datetime("ms", "Europe/Berlin"),
        dt.datetime(2024, 7, 1, 12, tzinfo=dt.UTC),
        b"2024-07-01T12:00:00Z",
    ),
    "duration": (pl.Duration("ms"), dt.timedelta(seconds=-1.5), b"-1500"),
    "list": (pl.List(pl.Int64), [1, None, 3], b"[1,null,3]"),
    "array": (pl.Array(pl.String, 2), ['"', "\n"], rb'["\"","\n"]'),
    "struct": (
        pl.Struct({"a": pl.Date, "b": pl.Binary, "c": pl.List(pl.Decimal(5, 1))}),
        {"a": dt.date(1999, 12, 31), "b": b"\xff", "c": [Decimal("1.0")]},
        b'{"a":"1999-12-31","b":"/w==","c":[1.0]}',
    ),
}


@pytest.mark.parametrize(("dtype", "value", "text"), EVERY_TEXT.values(), ids=EVERY_TEXT)
def test_the_text_of_each_dtype(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any, value: Any, text: bytes
) -> None:
    frame = pl.DataFrame({"x": pl.Series([value, None], dtype=dtype), "y": ["", ""]})
    write_stream(any_server.url, frame, stream)
    assert entries(client, stream) == [{b"x": text, b"y": b""}, {b"y": b""}]
    assert_frame_equal(read_back(any_server.url, stream, frame), frame)


EXTREMES = {
    "dates": pl.Series([-(2**31), 2**31 - 1, -719529, 2932897], dtype=pl.Int32).cast(pl.Date),
    "datetimes": pl.Series([-(2**63), 2**63 - 1, 0, -1], dtype=pl.Int64).cast(pl.Datetime("us")),
    "nanoseconds": pl.Series([-(2**63), 2**63 - 1, 0, -1], dtype=pl.Int64).cast(
        pl.Datetime("ns", "UTC")
    ),
    "milliseconds": pl.Series([[-(2**63), 2**63 - 1], [0, None, -1]]).cast(
        pl.List(pl.Datetime("ms"))
    ),
    "durations": pl.Series([-(2**63), 2**63 - 1], dtype=pl.Int64).cast(pl.Duration("ns")),
    "floats": pl.Series([5e-324, 1.7976931348623157e308, -0.0, 1e16, 123456789012345680.0]),
    "singles": pl.Series([1e-45, 3.4028235e38, -0.0, 16777216.0], dtype=pl.Float32),
    "floats in json": pl.Series([[float("nan"), float("inf"), None, -0.0]]),
    "decimals": pl.Series([Decimal("9" * 38), Decimal("-" + "9" * 38)], dtype=pl.Decimal(38, 0)),
    "places": pl.Series([Decimal("0." + "0" * 37 + "1")], dtype=pl.Decimal(38, 38)),
    "null": pl.Series([{"a": None}, None], dtype=pl.Struct({"a": pl.Int8})),
    "text null": pl.Series([["null", None, "[]"]]),
    "deep": pl.Series([[[[["x"], []], None], []], None]),
    "names": pl.Series([{'"\\\n': 1, "": 2}]),
}


@pytest.mark.parametrize("values", EXTREMES.values(), ids=EXTREMES)
def test_extreme_values_come_back(any_server: Server, stream: str, values: pl.Series) -> None:
    frame = pl.DataFrame({"x": values, "y": pl.Series([True] * values.len())})
    write_stream(any_server.url, frame, stream)
    assert_frame_equal(read_back(any_server.url, stream, frame), frame)


# Without idempotency, and with it (Redis 8.6).
@pytest.mark.parametrize("server", ["redis-7.0", "redis-8.10"], indirect=True)
@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
@pytest.mark.slow
def test_what_is_written_reads_the_same(server: Server, data: st.DataObject) -> None:
    frame: pl.DataFrame = data.draw(
        dataframes(allowed_dtypes=WRITABLE, min_cols=1, max_cols=6, max_size=8, allow_null=True)
    ).with_columns(_always=pl.lit(value=True))
    large = st.none() | st.integers(-(2**127), 2**127 - 1)
    integers = data.draw(st.lists(large, min_size=frame.height, max_size=frame.height))
    wide = pl.Series("_wide", integers, dtype=pl.Int128)
    frame = frame.with_columns(wide, wide.reshape((-1, 1)).arr.to_list().alias("_wides"))
    size = data.draw(st.integers(1, 10), label="batch_size")
    with server.client() as client:
        client.delete("property")
    # It has no effect where the server knows no producers.
    producer = data.draw(st.sampled_from([None, "me"]), label="idempotent")
    written = write_stream(server.url, frame, "property", batch_size=size, idempotent=producer)
    assert written.len() == frame.height
    assert written.null_count() == 0
    assert_frame_equal(read_back(server.url, "property", frame), frame)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.none() | st.text(min_size=1), max_size=20),
    chunk=st.integers(1, 5),
    dtype=st.sampled_from(["categorical", "enum", "nested"]),
)
def test_categories_read_the_same(
    any_server: Server, values: list[str | None], chunk: int, dtype: str
) -> None:
    known = sorted({value for value in values if value is not None})
    types = {
        "categorical": pl.Categorical(),
        "enum": pl.Enum(["", *known]),
        "nested": pl.List(pl.Categorical()),
    }
    column = pl.Series(values, dtype=pl.String)
    if dtype == "nested":
        column = column.reshape((-1, 1)).arr.to_list()
    frame = pl.DataFrame(
        {"x": column.cast(types[dtype]), "y": pl.Series([1] * len(values), dtype=pl.Int8)}
    )
    parts = [frame.slice(start, chunk) for start in range(0, frame.height, chunk)]
    frame = pl.concat(parts, rechunk=False) if parts else frame
    with any_server.client() as client:
        client.delete("property")
    write_stream(any_server.url, frame, "property")
    assert_frame_equal(read_back(any_server.url, "property", frame), frame, categorical_as_str=True)


# Rows and columns


def test_an_empty_frame_sends_nothing(stream: str) -> None:
    written = write_stream("redis://127.0.0.1:1", FRAME.clear(), stream)
    assert written.to_list() == []
    assert written.dtype == pl.String


@pytest.mark.parametrize("frame", [pl.DataFrame(), pl.DataFrame({"_id": ["1-0"]})])
def test_a_frame_without_columns(stream: str, frame: pl.DataFrame) -> None:
    with pytest.raises(SchemaError, match="no column to write"):
        write_stream("redis://127.0.0.1:1", frame, stream)


def test_empty_rows_are_refused_or_skipped(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"a": [1, None, 3, None], "b": ["x", None, None, None]})
    with pytest.raises(ValueError, match=r"no field has a value.*\(row: 1\)"):
        write_stream(any_server.url, frame, stream)
    assert not client.exists(stream)
    written = write_stream(any_server.url, frame, stream, on_empty_row="skip")
    assert written.is_null().to_list() == [False, True, False, True]
    assert written.drop_nulls().to_list() == ids(client, stream)


def test_nulls_may_have_a_text(any_server: Server, client: redis.Redis, stream: str) -> None:
    frame = pl.DataFrame({"a": [1, None], "b": ["x", None]})
    write_stream(any_server.url, frame, stream, null_values="n/a")
    assert entries(client, stream)[1] == {b"a": b"n/a", b"b": b"n/a"}
    read = read_stream(
        any_server.url,
        stream,
        frame.schema,
        null_values="n/a",
        include_id=False,
        include_timestamp=False,
    )
    assert_frame_equal(read, frame)
    write_stream(any_server.url, frame, stream, null_values={"b": "-"})
    assert entries(client, stream)[3] == {b"b": b"-"}


def test_fields_are_chosen(any_server: Server, client: redis.Redis, stream: str) -> None:
    frame = pl.DataFrame({"a": [1], "b": [2], "_ts": [3]})
    write_stream(any_server.url, frame, stream, fields=["_ts", "a"])
    assert entries(client, stream) == [{b"_ts": b"3", b"a": b"1"}]
    with pytest.raises(SchemaError, match="no column 'c'"):
        write_stream(any_server.url, frame, stream, fields=["c"])
    with pytest.raises(SchemaError, match="twice"):
        write_stream(any_server.url, frame, stream, fields=["a", "a"])


@pytest.mark.parametrize("name", ["^a$", "^n$", "*", ""])
def test_names_that_polars_takes_for_patterns(any_server: Server, stream: str, name: str) -> None:
    frame = pl.DataFrame({name: ["x"], "n": ["y"]})
    write_stream(any_server.url, frame, stream)
    redfloe.write_hashes(any_server.url, frame, key_column="n", key_prefix=f"{stream}:")
    scanned = redfloe.scan_stream(any_server.url, stream, frame.schema).collect()
    assert_frame_equal(scanned[[name, "n"]], frame)
    with any_server.client() as client:
        assert client.hgetall(f"{stream}:y") == {name.encode(): b"x"}


@pytest.mark.parametrize(
    ("columns", "named"),
    [({"_ts": [1], "n": [2]}, "_ts"), ({"_id": ["1-0"], "n": [2], "_dead_reason": ["x"]}, "_dead")],
)
def test_what_would_be_left_out_in_silence_is_refused(
    stream: str, columns: dict[str, Any], named: str
) -> None:
    frame = pl.DataFrame(columns)
    nowhere = RedisConnection("redis://127.0.0.1:1", max_retries=0)
    with pytest.raises(SchemaError, match=f"'{named}"):
        write_stream(nowhere, frame, stream)
    with StreamProducer(nowhere, stream) as producer, pytest.raises(SchemaError, match=f"'{named}"):
        producer.send_frame(frame)
    with pytest.raises(redfloe.RedisConnectionError):
        write_stream(nowhere, frame, stream, fields=["n"])


@pytest.mark.filterwarnings("ignore:.*Object")
def test_dtypes_without_a_text(stream: str) -> None:
    frames = [
        pl.DataFrame({"x": pl.Series([object()], dtype=pl.Object)}),
    ]
    if hasattr(pl, "UInt128"):  # Polars 1.34
        frames.append(pl.DataFrame({"x": pl.Series([[1]], dtype=pl.List(pl.UInt128))}))
    for frame in frames:
        with pytest.raises(SchemaError, match=r"'x' has the dtype .*, which has no text"):
            write_stream("redis://127.0.0.1:1", frame, stream)


def test_an_empty_category_is_refused(any_server: Server, client: redis.Redis, stream: str) -> None:
    """It would be read as null."""
    for dtype in (pl.Categorical(), pl.Enum([""])):
        frame = pl.DataFrame({"x": pl.Series([None, ""], dtype=dtype), "y": [1, 2]})
        with pytest.raises(ValueError, match=r"empty text as a category.*\(row: 1\)"):
            write_stream(any_server.url, frame, stream)
    assert not client.exists(stream)


def test_a_frame_in_chunks(any_server: Server, stream: str) -> None:
    frame = pl.concat([FRAME.head(2)] * 3 + [FRAME.head(0), FRAME.head(1)], rechunk=False)
    assert frame.n_chunks() > 1
    written = write_stream(any_server.url, frame, stream)
    assert written.len() == 7
    assert_frame_equal(read_back(any_server.url, stream, frame), frame)


def test_whatever_speaks_arrow(any_server: Server, client: redis.Redis, stream: str) -> None:
    arrow = pa.table({"a": [1, 2], "b": ["x", None]})
    expected = [{b"a": b"1", b"b": b"x"}, {b"a": b"2"}]
    whatever: list[Any] = [
        arrow,
        duckdb.sql("SELECT * FROM arrow"),
        pd.DataFrame({"a": [1, 2], "b": ["x", None]}),
    ]
    for frame in whatever:
        client.delete(stream)
        write_stream(any_server.url, frame, stream)
        assert entries(client, stream) == expected
    for other in ({"a": [1]}, [1], None, pl.LazyFrame({"a": [1]})):
        with pytest.raises(TypeError, match="df "):
            write_stream(any_server.url, other, stream)  # type: ignore[arg-type]  # wrong on purpose


# Streams and their length


def test_each_row_to_a_stream_of_its_own(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"region": ["eu", "us", "eu"], "n": [1, 2, 3]})
    keys = pl.format(stream + ":{}", "region")
    written = write_stream(any_server.url, frame, keys)
    assert written.null_count() == 0
    assert [entry[b"n"] for entry in entries(client, f"{stream}:eu")] == [b"1", b"3"]
    assert ids(client, f"{stream}:us") == [written[1]]
    with pytest.raises(ValueError, match=r"the stream is null.*\(row: 1\)"):
        write_stream(any_server.url, pl.DataFrame({"k": ["a", None], "n": [1, 2]}), pl.col("k"))
    write_stream(any_server.url, frame, pl.lit(f"{stream}:all"))
    assert client.xlen(f"{stream}:all") == 3


def test_streams_are_trimmed(server: Server, client: redis.Redis, stream: str) -> None:
    frame = pl.DataFrame({"n": range(1_000)})
    write_stream(server.url, frame, stream, maxlen=10, approximate=False)
    assert client.xlen(stream) == 10
    client.delete(stream)
    write_stream(server.url, frame, stream, maxlen=10)
    assert 10 <= client.xlen(stream) < 300
    client.delete(stream)
    numbered = frame.with_columns(id=pl.format("{}-1", "n"))
    write_stream(server.url, numbered, stream, id_column="id", minid="990-1", approximate=False)
    assert client.xlen(stream) == 10


def test_no_stream_is_made(server: Server, client: redis.Redis, stream: str) -> None:
    written = write_stream(server.url, FRAME.head(2), stream, nomkstream=True)
    assert written.to_list() == [None, None]
    assert not client.exists(stream)
    client.xadd(stream, {"a": "b"})
    assert write_stream(server.url, FRAME.head(2), stream, nomkstream=True).null_count() == 0


def test_a_key_of_another_type(server: Server, client: redis.Redis, stream: str) -> None:
    client.set(stream, "x")
    with pytest.raises(WrongTypeError, match="holds a string, not a stream; nothing is in"):
        write_stream(server.url, FRAME.head(2), stream)
    frame = pl.DataFrame({"k": ["a", stream], "n": [1, 2]})
    with pytest.raises(WrongTypeError):
        write_stream(server.url, frame, pl.col("k"))
    assert not client.exists("a")


BAD_ARGUMENTS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"maxlen": 1, "minid": "1-0"}, ValueError, "exclude"),
    ({"maxlen": -1}, ValueError, "maxlen"),
    ({"limit": 1}, ValueError, "limit"),
    ({"maxlen": 1, "limit": 1, "approximate": False}, ValueError, "limit"),
    ({"minid": "x"}, ValueError, "minid must be an entry ID or a time"),
    ({"minid": "$"}, ValueError, "minid"),
    ({"batch_size": 0}, ValueError, "batch_size"),
    ({"id_column": "a", "timestamp_column": "a"}, ValueError, "exclude"),
    ({"id_column": "missing"}, SchemaError, "missing"),
    ({"id_column": "n"}, SchemaError, "id_column"),
    ({"timestamp_column": "name"}, SchemaError, "timestamp_column"),
    ({"id_column": "a", "idempotent": "p"}, ValueError, "idempotent"),
    ({"idempotent": ""}, ValueError, "idempotent must not be empty"),
    ({"minid": "x"}, ValueError, "minid"),
    ({"on_empty_row": "drop"}, ValueError, "on_empty_row"),
    ({"fields": "n"}, TypeError, "fields"),
    ({"fields": []}, SchemaError, "no column"),
    ({"null_values": 1}, TypeError, "null_values"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        write_stream("redis://127.0.0.1:1", FRAME, "s", **arguments)


def test_progress_is_told(any_server: Server, stream: str) -> None:
    seen: list[int] = []
    write_stream(any_server.url, FRAME.head(2), stream, progress=seen.append)
    assert seen[-1] == 2


# In an event loop


def test_in_an_event_loop(server: Server, client: redis.Redis, stream: str) -> None:
    async def write() -> list[pl.Series]:
        writes = (redfloe.write_stream_async(server.url, FRAME.head(2), stream) for _ in range(5))
        return await asyncio.gather(*writes)

    written = pl.concat(asyncio.run(write()))
    assert written.n_unique() == 10
    assert sorted(written) == sorted(ids(client, stream))


def test_an_error_in_an_event_loop(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.set(stream, "x")
    with pytest.raises(WrongTypeError):
        asyncio.run(redfloe.write_stream_async(any_server.url, FRAME.head(2), stream))


async def progress_async(_: int) -> None:
    pytest.fail("was run")


def test_an_async_progress_is_refused_before_anything_is_sent() -> None:
    """Before there is a connection, which this address would refuse."""
    frame = pl.DataFrame({"a": [1]})
    progress: Any = progress_async
    with pytest.raises(TypeError, match="progress must not be async"):
        redfloe.write_stream("redis://127.0.0.1:1", frame, "s", progress=progress)
    with pytest.raises(TypeError, match="progress must not be async"):
        redfloe.sink_stream("redis://127.0.0.1:1", frame.lazy(), "s", progress=progress)


@pytest.mark.parametrize("dtype", [pl.Categorical, pl.Enum(["", "a"])], ids=str)
def test_an_empty_category_inside_json_is_refused(
    any_server: Server, client: redis.Redis, stream: str, dtype: Any
) -> None:
    """It would be read as null, there as outside."""
    frame = pl.DataFrame({"x": [["a", ""]]}, schema={"x": pl.List(dtype)})
    for refused in (frame, frame.select(pl.struct("x"))):
        with pytest.raises(SchemaError, match="empty text as a category"):
            write_stream(any_server.url, refused, stream)
    assert client.exists(stream) == 0
    write_stream(any_server.url, frame.select(pl.col("x").list.head(1)), stream)
    assert read_stream(any_server.url, stream, {"x": pl.List(dtype)})["x"].to_list() == [["a"]]
