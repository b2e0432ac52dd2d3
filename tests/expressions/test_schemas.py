"""Payloads that have a schema, in a column."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import polars as pl
import pytest
from polars.exceptions import ComputeError

import redfloe_expressions as rfx
from support.expressions import RUNS
from support.protobuf import compiled

SOURCE = """
syntax = "proto3";
package shop;
enum State { OPEN = 0; PAID = 1; }
message Line { string sku = 1; int32 count = 2; }
message Order { int64 id = 1; State state = 2; repeated Line lines = 3; optional string note = 4; }
"""
DESCRIPTOR, SHOP = compiled(SOURCE)
ORDER: Any = {"descriptor": DESCRIPTOR, "message": "shop.Order"}
LINES = pl.List(pl.Struct({"sku": pl.String, "count": pl.Int32}))
SCHEMA: dict[str, Any] = {
    "id": pl.Int64,
    "state": pl.Enum(["OPEN", "PAID"]),
    "lines": LINES,
    "note": pl.String,
}
MESSAGES = [
    SHOP.Order(id=1, state=SHOP.PAID, lines=[SHOP.Line(sku="a", count=2)], note=""),
    SHOP.Order(),
]
ROWS = [
    {"id": 1, "state": "PAID", "lines": [{"sku": "a", "count": 2}], "note": ""},
    {"id": 0, "state": "OPEN", "lines": [], "note": None},
]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_protobuf_goes_both_ways(run: Any) -> None:
    payloads = [*(message.SerializeToString() for message in MESSAGES), None]
    df = pl.DataFrame({"data": payloads}, schema={"data": pl.Binary})
    query = df.lazy().select(rfx.decode("data", "protobuf", **ORDER))
    assert query.collect_schema() == {"data": pl.Struct(SCHEMA)}
    rows = run(query)
    assert rows["data"].to_list() == [*ROWS, None]
    written = rows.select(rfx.encode("data", "protobuf", **ORDER))["data"]
    assert [None if one is None else SHOP.Order.FromString(one) for one in written] == [
        *MESSAGES,
        None,
    ]
    typed = df.select(rfx.decode("data", "protobuf", {"state": pl.String}, **ORDER))
    assert typed["data"].to_list() == [{"state": "PAID"}, {"state": "OPEN"}, None]


def test_avro_goes_both_ways() -> None:
    fields = [{"name": "n", "type": "long"}, {"name": "t", "type": ["null", "string"]}]
    schema = {"type": "record", "name": "R", "fields": fields}
    rows: list[dict[str, Any]] = [{"n": 1, "t": "x"}, {"n": -2, "t": None}]
    payloads = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema(schema), row)
        payloads.append(out.getvalue())
    df = pl.DataFrame({"data": payloads})
    got = df.select(rfx.decode("data", "avro", schema=schema))
    assert got.schema == {"data": pl.Struct({"n": pl.Int64, "t": pl.String})}
    assert got["data"].to_list() == rows
    assert got.select(rfx.encode("data", "avro", schema=schema))["data"].to_list() == payloads
    by_id = [b"\x00" + (7).to_bytes(4, "big") + payload for payload in payloads]
    options: Any = {"schema": {7: schema}, "framing": "confluent"}
    got = pl.DataFrame({"data": by_id}).select(rfx.decode("data", "avro", **options))
    assert got["data"].to_list() == rows


def test_what_does_not_fit() -> None:
    df = pl.DataFrame({"data": [b"\x08\x01", b"\x08"]})
    with pytest.raises(ComputeError, match=r"is not a message shop\.Order.*row: 1"):
        df.select(rfx.decode("data", "protobuf", **ORDER))
    got = df.select(rfx.decode("data", "protobuf", {"id": pl.Int64}, on_error="null", **ORDER))
    assert got["data"].to_list() == [{"id": 1}, None]
    wrong = pl.DataFrame({"id": ["x"]}).select(rfx.encode(pl.struct("id"), "json"))
    assert wrong.height == 1
    with pytest.raises(ComputeError, match=r"id in shop\.Order"):
        pl.DataFrame({"id": ["x"]}).select(rfx.encode(pl.struct("id"), "protobuf", **ORDER))


def test_arguments_are_checked() -> None:
    calls: list[tuple[Any, dict[str, Any], str]] = [
        ("protobuf", {}, "needs a descriptor and a message"),
        ("json", ORDER, "descriptor has no meaning for payloads of json"),
        ("json", {}, "decode needs the dtype"),
        ("protobuf", {**ORDER, "payload_path": "$.lines"}, "needs the dtype"),
        ("protobuf", {**ORDER, "descriptr": b""}, "no argument 'descriptr'"),
        ("protobuf", {**ORDER, "descriptor": 1}, "must be bytes or a path"),
    ]
    for payload_format, options, error in calls:
        with pytest.raises(TypeError, match=error):
            rfx.decode("data", payload_format, **options)
    for options, error in [
        ({**ORDER, "message": "shop.None"}, "no message"),
        ({**ORDER, "descriptor": b"x"}, "FileDescriptorSet"),
    ]:
        with pytest.raises(ValueError, match=error):
            rfx.decode("data", "protobuf", **options)
    with pytest.raises(ValueError, match="need a schema"):
        rfx.decode("data", "avro")
    with pytest.raises(ValueError, match="framing must be"):
        rfx.decode("data", "avro", schema={"type": "record"}, framing="magic")  # type: ignore[arg-type]  # what is tested
