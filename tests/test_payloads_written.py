"""Every writer puts a frame's columns into one JSON document, which reads the same."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

import redfloe
from redfloe import read_stream, sink_stream, write_stream, write_stream_async
from support.payloads import BARE, FORMATS, FRAME, PACKED, PAYLOAD, SCHEMA, from_msgpack, to_msgpack
from support.server import Server
from support.versions import needs_batches
from support.writes import WRITABLE, entries


def write_blocking(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    write_stream(url, frame, stream, **options)


def write_atomic(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    write_stream(url, frame, stream, atomic=True, **options)


def write_async(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    asyncio.run(write_stream_async(url, frame, stream, **options))


def sink(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    sink_stream(url, frame.lazy(), stream, **options)


def produce_frame(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    with redfloe.StreamProducer(url, stream, **options) as producer:
        producer.send_frame(frame)


def produce_rows(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    with redfloe.StreamProducer(url, stream, **options) as producer:
        for row in frame.iter_rows(named=True):
            producer.send(row)


def produce_rows_async(url: Any, frame: pl.DataFrame, stream: str, **options: Any) -> None:
    async def send() -> None:
        async with redfloe.StreamProducer(url, stream, **options) as producer:
            for row in frame.iter_rows(named=True):
                await producer.send(row)

    asyncio.run(send())


WRITERS = [
    write_blocking,
    write_atomic,
    write_async,
    pytest.param(sink, marks=needs_batches),
    produce_frame,
    produce_rows,
    produce_rows_async,
]


@pytest.mark.parametrize(("options", "_", "load"), FORMATS)
@pytest.mark.parametrize("writer", WRITERS)
def test_columns_are_keys(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    writer: Callable[..., None],
    options: dict[str, Any],
    _: object,
    load: Callable[[bytes], Any],
) -> None:
    writer(any_server.url, FRAME, stream, **options)
    written = entries(client, stream)
    assert [list(fields) for fields in written] == [[b"data"]] * 3
    assert load(written[1][b"data"]) == {
        "src": "web",
        "sku": "a-2",
        "total": 3.0,
        "qty": 1,
        "tags": [],
        "gift": True,
    }
    assert_frame_equal(read_stream(any_server.url, stream, SCHEMA, **options, **BARE), FRAME)


@pytest.mark.parametrize("options", [PAYLOAD, PACKED])
@settings(
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_what_is_written_reads_the_same(
    any_server: Server, options: dict[str, Any], data: st.DataObject
) -> None:
    frame: pl.DataFrame = data.draw(
        dataframes(allowed_dtypes=WRITABLE, min_cols=1, max_cols=6, max_size=8, allow_null=True)
    )
    large = st.none() | st.integers(-(2**127), 2**127 - 1)
    integers = data.draw(st.lists(large, min_size=frame.height, max_size=frame.height))
    words = data.draw(
        st.lists(st.none() | st.text(min_size=1), min_size=frame.height, max_size=frame.height)
    )
    wide = pl.Series("_wide", integers, dtype=pl.Int128)
    text = pl.Series('odd "name"\n', words, dtype=pl.String)
    known = sorted({word for word in words if word is not None})
    frame = frame.with_columns(
        wide,
        text,
        text.cast(pl.Categorical).alias("_category"),
        text.cast(pl.Enum(known)).alias("_enum"),
    )
    with any_server.client() as client:
        client.delete("property")
    write_stream(any_server.url, frame, "property", **options)
    back = read_stream(any_server.url, "property", dict(frame.schema), **options, **BARE)
    assert_frame_equal(back, frame, categorical_as_str=True)


def test_ids_fields_and_nulls_of_a_written_payload(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"id": ["1-0", "2-0"], "a": [1, None], "b": ["x", None], "c": [1, 2]})
    options: dict[str, Any] = {"id_column": "id", "fields": ["b", "a"], **PAYLOAD}
    write_stream(any_server.url, frame, stream, **options)
    assert [fields[b"data"] for fields in entries(client, stream)] == [b'{"b":"x","a":1}', b"{}"]
    other = f"{stream}-other"
    write_stream(any_server.url, frame, other, null_values={"a": 'n/"a"'}, **options)
    assert [fields[b"data"] for fields in entries(client, other)][1] == b'{"a":"n/\\"a\\""}'
    # What was read, metadata included, is written back without it.
    df = read_stream(any_server.url, stream, {"a": pl.Int64}, **PAYLOAD)
    write_stream(any_server.url, df, f"{stream}-copy", id_column="_id", **PAYLOAD)
    assert entries(client, f"{stream}-copy")[0] == {b"data": b'{"a":1}'}


@pytest.mark.parametrize(("options", "_", "load"), FORMATS)
def test_a_producer_writes_values_by_the_table_of_texts(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    options: dict[str, Any],
    _: object,
    load: Callable[[bytes], Any],
) -> None:
    row: dict[str, Any] = {
        "text": 'ä"\n',
        "raw": b"\xff\x00",
        "flag": False,
        "n": 2**70,
        "x": 0.1,
        "odd": float("nan"),
        "price": Decimal("12.50"),
        "day": dt.date(2024, 1, 31),
        "at": dt.datetime(2024, 1, 31, 12, tzinfo=dt.UTC),
        "nested": {"list": [1, None, ("a", {})]},
        "none": None,
    }
    with redfloe.StreamProducer(any_server.url, stream, **options) as producer:
        producer.send(row)
        producer.send({"none": None})
        for wrong, match in [
            ({"a": {1}}, r"the payload\['a'\] has a set"),
            ({"a": [{2: 1}]}, r"keys of the payload\['a'\]\[0\] must be str"),
            ([("a", 1)], "must be a mapping"),
        ]:
            with pytest.raises(TypeError, match=match):
                producer.send(wrong)  # type: ignore[arg-type]
    assert load(entries(client, stream)[1][b"data"]) == {}
    schema: dict[str, Any] = {
        "text": pl.String,
        "raw": pl.Binary,
        "flag": pl.Boolean,
        "n": pl.Int128,
        "x": pl.Float64,
        "odd": pl.Float64,
        "price": pl.Decimal(10, 2),
        "day": pl.Date,
        "at": pl.Datetime("us", "UTC"),
        "nested": pl.Struct({"list": pl.List(pl.String)}),
        "none": pl.String,
    }
    df = read_stream(any_server.url, stream, schema, **options, **BARE)
    expected = row | {"nested": {"list": ["1", None, '["a",{}]']}, "odd": "NaN"}
    seen = df.row(0, named=True)
    assert seen | {"odd": str(seen["odd"]).replace("nan", "NaN")} == expected


@pytest.mark.parametrize("writer", [write_blocking, write_async, sink, produce_frame])
def test_a_payload_to_write_is_a_name(writer: Callable[..., None]) -> None:
    with pytest.raises(TypeError, match="payload must be str"):
        writer("redis://localhost:1", FRAME, "s", payload=b"data")


def test_a_format_that_is_not_there_is_refused() -> None:
    for options in ({"payload": "data", "payload_format": "avro"}, {"payload_format": "msgpack"}):
        for writer in (write_blocking, write_async, sink, produce_frame):
            with pytest.raises(ValueError, match="payload_format"):
                writer("redis://localhost:1", FRAME, "s", **options)


def test_each_size_of_messagepack(any_server: Server, client: redis.Redis, stream: str) -> None:
    """What the library reads is what was written, by a frame and by a producer."""
    ends = [0, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63 - 1]
    rows: list[dict[str, Any]] = [{"n": n} for n in [*ends, *(-n - 1 for n in ends), -32, -33]]
    rows += [{"u": 2**64 - 1}, {"f": -0.5}, {"s": ""}, {"raw": b""}, {"l": []}]
    for size in [31, 32, 255, 256, 65_536]:
        rows += [{"s": "x" * size}, {"raw": b"\xff" * size}, {"l": [True] * size}]
    instants = ["1969-12-31T23:59:59.5", "2024-01-01T00:00:00", "2024-01-01T00:00:00.000001"]
    instants += ["2500-01-01T00:00:00", "9999-12-31T23:59:59.999999", "0001-01-01T00:00:00"]
    rows += [{"at": dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)} for text in instants]
    schema: dict[str, Any] = {
        "n": pl.Int64,
        "u": pl.UInt64,
        "f": pl.Float64,
        "s": pl.String,
        "raw": pl.Binary,
        "l": pl.List(pl.Boolean),
        "at": pl.Datetime("us", "UTC"),
    }
    frame = pl.DataFrame(rows, schema=schema)
    write_stream(any_server.url, frame, stream, **PACKED)
    produce_rows(any_server.url, pl.DataFrame(rows[:1], schema=schema), stream, **PACKED)
    with redfloe.StreamProducer(any_server.url, stream, **PACKED) as producer:
        for row in rows[1:]:
            producer.send(row)
    documents = [fields[b"data"] for fields in entries(client, stream)]
    assert [from_msgpack(document) for document in documents] == rows * 2
    assert_frame_equal(
        read_stream(any_server.url, stream, schema, **PACKED, **BARE), pl.concat([frame, frame])
    )


def test_positions_in_place_of_names(any_server: Server, client: redis.Redis, stream: str) -> None:
    for values in (["a-1", 19.5], ["b-7"], ["c-2", 1, "new"]):
        client.xadd(stream, {"data": to_msgpack(values)})
    options: dict[str, Any] = {**PACKED, "payload_fields": ["sku", "total"], **BARE}
    df = read_stream(any_server.url, stream, infer_schema=True, **options)
    assert df.schema == {"sku": pl.String, "total": pl.Float64}
    assert df.rows() == [("a-1", 19.5), ("b-7", None), ("c-2", 1.0)]
    df = read_stream(any_server.url, stream, df.schema, rescue_column="rest", **options)
    assert df["rest"].to_list() == [None, None, '{"[2]":"new"}']
    with pytest.raises(redfloe.DecodeError, match="is not a MessagePack map"):
        read_stream(any_server.url, stream, **PACKED)


def test_arrays_are_written_by_the_names_of_their_values(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    options: dict[str, Any] = {**PACKED, "payload_fields": ["sku", "more", "total", "tags"]}
    frame = pl.DataFrame(
        {"total": [1.5, None], "sku": ["a", "b"], "tags": [["x"], []]},
        schema={"total": pl.Float64, "sku": pl.String, "tags": pl.List(pl.String)},
    )
    write_stream(any_server.url, frame, stream, **options)
    with redfloe.StreamProducer(any_server.url, stream, **options) as producer:
        producer.send({"tags": ["y"], "sku": "c"})
        with pytest.raises(ValueError, match="'colour' is not one of payload_fields"):
            producer.send({"colour": "red"})
    documents = [from_msgpack(fields[b"data"]) for fields in entries(client, stream)]
    assert documents == [
        ["a", None, 1.5, ["x"]],
        ["b", None, None, []],
        ["c", None, None, ["y"]],
    ]
    df = read_stream(any_server.url, stream, frame.schema, **options, **BARE)
    assert_frame_equal(df.head(2), frame)
    with pytest.raises(ValueError, match='"colour" is not one of payload_fields'):
        write_stream(any_server.url, frame.with_columns(colour=1), stream, **options)
    with pytest.raises(ValueError, match="payload_fields needs payload_format"):
        write_stream(any_server.url, frame, stream, payload="data", payload_fields=["sku"])


def test_hostile_messagepack_does_not_fit(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    for document in (
        b"\x81\xa1n" + b"\x91" * 100_000 + b"\xc0",
        b"\x81" + b"\x81\xa1n" * 100_000 + b"\xc0",
        b"\x81\xa1n\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\x81\xa1n\xc6\xff\xff\xff\xff",
    ):
        client.xadd(stream, {"data": document})
    client.xadd(stream, {"data": to_msgpack({"n": 1})})
    df = read_stream(any_server.url, stream, {"n": pl.List(pl.Int64)}, on_error="null", **PACKED)
    assert df["n"].to_list() == [None] * 6
    assert redfloe.infer_schema(any_server.url, stream, **PACKED) == {"n": pl.Int64}
    with pytest.raises(redfloe.DecodeError, match=r"is not a MessagePack map.*entry ID"):
        read_stream(any_server.url, stream, **PACKED)
