"""Avro records as payloads: what fastavro writes is read, and the other way round."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import threading
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import fastavro
import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from redfloe import (
    AvroSchema,
    DecodeError,
    SchemaError,
    StreamConsumer,
    StreamProducer,
    infer_schema,
    read_stream,
    read_stream_async,
    scan_stream,
    stream_info_async,
    write_stream,
)
from support.consumers import SHY, dead_ids
from support.groups import DRAIN, ME, pending
from support.payloads import BARE
from support.server import Server
from support.streams import add


def logical(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "logicalType": name, **more}


LINE = {
    "type": "record",
    "name": "Line",
    "fields": [{"name": "sku", "type": "string"}, {"name": "count", "type": "int"}],
}
ORDER: dict[str, Any] = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": name, "type": kind}
        for name, kind in {
            "id": "long",
            "customer": "string",
            "total": "double",
            "ratio": "float",
            "ok": "boolean",
            "raw": "bytes",
            "note": ["null", "string"],
            "state": {"type": "enum", "name": "State", "symbols": ["OPEN", "PAID"]},
            "tags": {"type": "array", "items": "string"},
            "lines": {"type": "array", "items": LINE},
            "prices": {"type": "map", "values": "long"},
            "first": ["null", "Line"],
            "code": {"type": "fixed", "name": "Code", "size": 2},
            "day": logical("int", "date"),
            "at": logical("long", "timestamp-micros"),
            "local": logical("long", "local-timestamp-millis"),
            "clock": logical("long", "time-micros"),
            "price": logical("bytes", "decimal", precision=9, scale=2),
            "uuid": logical("string", "uuid"),
        }.items()
    ],
}
LINE_DTYPE = pl.Struct({"sku": pl.String, "count": pl.Int32})
SCHEMA: dict[str, Any] = {
    "id": pl.Int64,
    "customer": pl.String,
    "total": pl.Float64,
    "ratio": pl.Float32,
    "ok": pl.Boolean,
    "raw": pl.Binary,
    "note": pl.String,
    "state": pl.Enum(["OPEN", "PAID"]),
    "tags": pl.List(pl.String),
    "lines": pl.List(LINE_DTYPE),
    "prices": pl.List(pl.Struct({"key": pl.String, "value": pl.Int64})),
    "first": LINE_DTYPE,
    "code": pl.Binary,
    "day": pl.Date,
    "at": pl.Datetime("us", "UTC"),
    "local": pl.Datetime("ms"),
    "clock": pl.Time,
    "price": pl.Decimal(9, 2),
    "uuid": pl.String,
}
UUID_1 = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
#: A row, and what fastavro takes it for.
ROW: dict[str, Any] = {
    "id": -(2**63),
    "customer": "Köln",
    "total": 1.5,
    "ratio": 0.5,
    "ok": True,
    "raw": b"\x00\xff",
    "note": None,
    "state": "PAID",
    "tags": ["a", ""],
    "lines": [{"sku": "x", "count": -1}],
    "prices": [{"key": "a", "value": 1}],
    "first": {"sku": "y", "count": 2},
    "code": b"ab",
    "day": date(1969, 12, 31),
    "at": datetime(2024, 1, 1, 12, 0, 0, 1, tzinfo=UTC),
    "local": datetime(2024, 1, 1, 12),  # noqa: DTZ001 -- it has no zone
    "clock": time(23, 59, 59, 999_999),
    "price": Decimal("-1.20"),
    "uuid": UUID_1,
}
RECORD = {**ROW, "prices": {"a": 1}, "uuid": UUID(UUID_1)}
AVRO = AvroSchema(ORDER)
OPTIONS: dict[str, Any] = {"payload": "data", "payload_format": AVRO}


def to_avro(record: Any, schema: Any = ORDER) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), record)
    return out.getvalue()


def from_avro(payload: bytes, schema: Any = ORDER) -> Any:
    return fastavro.schemaless_reader(io.BytesIO(payload), fastavro.parse_schema(schema), None)


def put(client: redis.Redis, stream: str, *payloads: bytes) -> None:
    add(client, stream, [(f"{n}-0", {"data": payload}) for n, payload in enumerate(payloads, 1)])


def documents(client: redis.Redis, stream: str) -> list[bytes]:
    entries: Any = client.xrange(stream)
    return [fields[b"data"] for _, fields in entries]


def test_what_fastavro_writes_is_read_and_written_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    url = any_server.url
    assert dict(AVRO.schema) == SCHEMA
    assert dict(infer_schema(url, stream, **OPTIONS)) == SCHEMA
    put(client, stream, to_avro(RECORD))
    df = read_stream(url, stream, **OPTIONS, **BARE)
    assert dict(df.schema) == SCHEMA
    assert df.rows(named=True) == [ROW]
    for other in (
        read_stream(url, stream, SCHEMA, **OPTIONS, **BARE),
        scan_stream(url, stream, SCHEMA, **OPTIONS, **BARE).collect(),
        scan_stream(url, stream, **OPTIONS, **BARE).collect(),
        read_stream(url, stream, **ME, **OPTIONS, **BARE),
    ):
        assert_frame_equal(other, df)
    write_stream(url, df, f"{stream}-2", **OPTIONS)
    (document,) = documents(client, f"{stream}-2")
    assert from_avro(document) == RECORD
    small = AvroSchema(LINE)
    with StreamProducer(url, f"{stream}-3", payload="data", payload_format=small) as producer:
        producer.send({"sku": "x", "count": 1})
        with pytest.raises(ValueError, match="count"):
            producer.send({"sku": "x", "count": "many"})
    (document,) = documents(client, f"{stream}-3")
    assert from_avro(document, LINE) == {"sku": "x", "count": 1}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "n": st.integers(-(2**63), 2**63 - 1),
                "x": st.floats(allow_nan=False),
                "t": st.one_of(st.none(), st.text()),
                "b": st.binary(),
                "l": st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3), max_size=3),
            }
        ),
        min_size=1,
        max_size=5,
    )
)
def test_rows_go_round(
    any_server: Server, client: redis.Redis, stream: str, rows: list[dict[str, Any]]
) -> None:
    client.delete(stream, f"{stream}-2")
    inner = {"type": "array", "items": "int"}
    kinds = {"n": "long", "x": "double", "t": ["null", "string"], "b": "bytes"}
    types: dict[str, Any] = {**kinds, "l": {"type": "array", "items": inner}}
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    schema = {"type": "record", "name": "R", "fields": fields}
    options: dict[str, Any] = {"payload": "data", "payload_format": AvroSchema(schema)}
    put(client, stream, *(to_avro(row, schema) for row in rows))
    df = read_stream(any_server.url, stream, **options, **BARE)
    assert df.rows(named=True) == rows
    write_stream(any_server.url, df, f"{stream}-2", **options)
    assert [from_avro(one, schema) for one in documents(client, f"{stream}-2")] == rows


def test_one_value_that_does_not_fit_spoils_no_other(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def record(symbols: list[str], price: object) -> dict[str, Any]:
        kinds = {"n": "int", "e": {"type": "enum", "name": "E", "symbols": symbols}, "p": price}
        fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
        return {"type": "record", "name": "R", "fields": fields}

    price = logical("bytes", "decimal", precision=4, scale=2)
    writer = record(["A", "B"], "bytes")
    # The last price is the text of a decimal, and as a number has more digits than it may have.
    rows = [("A", b"\x04\xe2"), ("B", b"\x04\xe2"), ("A", b"12.5")]
    payloads = [
        to_avro({"n": n, "e": symbol, "p": raw}, writer) for n, (symbol, raw) in enumerate(rows)
    ]
    put(client, stream, *payloads)
    schema = AvroSchema(record(["A", "B"], price), reader_schema=record(["A"], price))
    options: dict[str, Any] = {"payload": "data", "payload_format": schema, **BARE}
    df = read_stream(any_server.url, stream, **options, on_error="null")
    price_of_a = Decimal("12.50")
    assert df.rows() == [(0, "A", price_of_a), (1, None, price_of_a), (2, "A", None)]
    for first, column in (("2-0", "e"), ("3-0", "p")):
        with pytest.raises(DecodeError) as raised:
            read_stream(any_server.url, stream, start_id=first, **options)
        assert (raised.value.entry_id, raised.value.field) == (first, column)


# Framings


def reading(*names: str) -> dict[str, Any]:
    fields = [{"name": name, "type": "long"} for name in names]
    return {"type": "record", "name": "Reading", "fields": fields}


def confluent(schema_id: int, payload: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + payload


def test_confluents_header_names_a_schema(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    schemas = {7: reading("a"), 8: reading("b", "a")}
    payloads = [
        confluent(7, to_avro({"a": 1}, schemas[7])),
        confluent(8, to_avro({"a": 2, "b": 3}, schemas[8])),
    ]
    put(client, stream, *payloads)
    asked: list[int] = []

    def look_up(schema_id: int) -> dict[str, Any] | None:
        asked.append(schema_id)
        return schemas.get(schema_id)

    reader = reading("a")
    both: list[Any] = [schemas, look_up]
    for known in both:
        by_id = AvroSchema(known, reader_schema=reader, framing="confluent")
        for _ in range(2):
            df = read_stream(any_server.url, stream, payload="data", payload_format=by_id)
            assert df["a"].to_list() == [1, 2]
    assert asked == [7, 8]
    put(client, f"{stream}-2", confluent(9, b"\x02"))
    for known in both:
        by_id = AvroSchema(known, reader_schema=reader, framing="confluent")
        options: dict[str, Any] = {"payload": "data", "payload_format": by_id}
        with pytest.raises(DecodeError, match="has the schema ID 9, which is not known"):
            read_stream(any_server.url, f"{stream}-2", **options)
        df = read_stream(any_server.url, f"{stream}-2", **options, on_error="null")
        assert df["a"].to_list() == [None]
    own = AvroSchema(schemas[7], framing="confluent", schema_id=7)
    options = {"payload": "data", "payload_format": own}
    df = read_stream(any_server.url, stream, **options, on_error="null")
    assert df["a"].to_list() == [1, None]
    write_stream(any_server.url, df.select("a").head(1), f"{stream}-3", **options)
    assert documents(client, f"{stream}-3") == payloads[:1]


def test_a_registry_that_is_away_spoils_nothing(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    url = any_server.url
    payload = to_avro({"a": 1}, reading("a"))
    put(client, stream, confluent(7, payload), confluent(8, payload))
    is_away = True

    def look_up(schema_id: int) -> dict[str, Any]:
        if schema_id == 8 and is_away:
            msg = "no route to the registry"
            raise ConnectionRefusedError(msg)
        return reading("a")

    by_id = AvroSchema(look_up, reader_schema=reading("a"), framing="confluent")
    options: dict[str, Any] = {"payload": "data", "payload_format": by_id, "on_error": "null"}
    with pytest.raises(SchemaError, match=r"of the ID 8: .*no route") as raised:
        read_stream(url, stream, **options)
    assert isinstance(raised.value.__cause__, ConnectionRefusedError)
    assert raised.value.entry_id == "2-0"
    with pytest.raises(SchemaError, match="no route"):
        infer_schema(url, stream, payload="data", payload_format=by_id)
    worker: dict[str, Any] = {"payload": "data", "payload_format": by_id, **DRAIN, **ME, **SHY}
    worker["dead_letter"] = f"{stream}-dead"
    rows: list[int] = []

    def work() -> None:
        with StreamConsumer(url, stream, **worker) as batches:
            for batch in batches:
                rows.extend(batch.frame["a"].to_list())

    with pytest.raises(SchemaError, match="no route"):
        work()
    assert (rows, pending(client, stream)) == ([1], [2])
    is_away = False
    work()
    assert (rows, client.exists(f"{stream}-dead")) == ([1, 1], 0)


def test_a_lookup_may_use_redfloe_and_holds_up_nobody_else(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    url = any_server.url
    put(client, stream, confluent(7, to_avro({"a": 1}, reading("a"))))
    schema = json.dumps(reading("a"))
    client.xadd(f"{stream}-schemas", {"schema": schema})

    def look_up(_: int) -> str:
        found: str = read_stream(url, f"{stream}-schemas")["schema"][0]
        return found

    def options() -> dict[str, Any]:
        by_id = AvroSchema(look_up, reader_schema=reading("a"), framing="confluent")
        return {"payload": "data", "payload_format": by_id}

    assert read_stream(url, stream, **options())["a"].to_list() == [1]
    df = asyncio.run(read_stream_async(url, stream, **options()))
    assert df["a"].to_list() == [1]

    others_went_on = threading.Event()
    asked = threading.Event()

    def wait(_: int) -> str:
        asked.set()
        assert others_went_on.wait(20)
        return schema

    async def run() -> pl.DataFrame:
        slow = AvroSchema(wait, reader_schema=reading("a"), framing="confluent")
        read = asyncio.create_task(
            read_stream_async(url, stream, payload="data", payload_format=slow)
        )
        assert await asyncio.to_thread(asked.wait, 20)
        await asyncio.gather(*(stream_info_async(url, stream) for _ in range(8)))
        others_went_on.set()
        return await read

    assert asyncio.run(run())["a"].to_list() == [1]


def test_single_object_and_containers(any_server: Server, client: redis.Redis, stream: str) -> None:
    schema = reading("a")
    out = io.BytesIO()
    fastavro.writer(out, schema, [{"a": 5}])
    put(client, stream, out.getvalue())
    container = AvroSchema(framing="container")
    df = read_stream(
        any_server.url, stream, {"a": pl.Int64}, payload="data", payload_format=container
    )
    assert df["a"].to_list() == [5]
    single = AvroSchema(schema, framing="single-object")
    options: dict[str, Any] = {"payload": "data", "payload_format": single}
    write_stream(any_server.url, df.select("a"), f"{stream}-2", **options)
    (document,) = documents(client, f"{stream}-2")
    canonical = fastavro.schema.to_parsing_canonical_form(schema)
    rabin = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
    assert document == b"\xc3\x01" + rabin + to_avro({"a": 5}, schema)
    assert read_stream(any_server.url, f"{stream}-2", **options)["a"].to_list() == [5]


# What does not fit


def test_what_is_no_record_spoils_its_row(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    good = to_avro({"sku": "x", "count": 1}, LINE)
    put(client, stream, good, b"\x02", good + b"\x00", b"\xff" * 12, good, b"")
    options: dict[str, Any] = {"payload": "data", "payload_format": AvroSchema(LINE)}
    with pytest.raises(DecodeError, match=r"Avro schema Line.*2-0"):
        read_stream(any_server.url, stream, **options)
    df = read_stream(any_server.url, stream, **options, on_error="null")
    assert df["count"].to_list() == [1, None, None, None, 1, None]
    dead = {"dead_letter": f"{stream}-dead", **DRAIN, **ME, **SHY}
    with StreamConsumer(any_server.url, stream, **options, **dead) as worker:
        # An empty payload is null, and fits.
        assert [batch.frame["count"].to_list() for batch in worker] == [[1, 1, None]]
    assert dead_ids(client, f"{stream}-dead") == ["2-0", "3-0", "4-0"]


@pytest.mark.parametrize(
    ("column", "error"),
    [
        ({"sku": ["x"]}, "count"),
        ({"sku": ["x"], "count": [2**31]}, r"count.*int"),
        ({"sku": ["x"], "count": [1], "colour": [1]}, "colour"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    any_server: Server, client: redis.Redis, stream: str, column: dict[str, Any], error: str
) -> None:
    options: dict[str, Any] = {"payload": "data", "payload_format": AvroSchema(LINE)}
    with pytest.raises(ValueError, match=error):
        write_stream(any_server.url, pl.DataFrame(column), stream, **options)
    assert client.exists(stream) == 0


def test_schemas_are_checked(tmp_path: Path) -> None:
    none: list[Any] = ["{}", "[1", {"type": "record"}]
    for schema in none:
        with pytest.raises(ValueError, match="Avro"):
            AvroSchema(schema)
    with pytest.raises(ValueError, match="need a schema"):
        AvroSchema()
    with pytest.raises(ValueError, match="less than 2"):
        AvroSchema({2**32: LINE}, framing="confluent")
    with pytest.raises(ValueError, match="framing must be"):
        AvroSchema(LINE, framing="magic")  # type: ignore[arg-type]  # that is what is tested
    with pytest.raises(FileNotFoundError):
        AvroSchema(tmp_path / "none.avsc")
    file = tmp_path / "line.avsc"
    file.write_text(json.dumps(LINE))
    for same in (AvroSchema(file), AvroSchema(str(file)), AvroSchema(json.dumps(LINE))):
        assert same == AvroSchema(LINE)
    several = AvroSchema({1: LINE}, reader_schema=LINE, framing="confluent")
    again = pickle.loads(pickle.dumps(several))
    assert again == several
    assert again.schema == several.schema == {"sku": pl.String, "count": pl.Int32}
