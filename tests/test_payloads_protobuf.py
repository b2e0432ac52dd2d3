"""Protobuf messages as payloads: what Google's library writes is read, and the other way round."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    DecodeError,
    ProtobufSchema,
    infer_schema,
    read_stream,
    scan_stream,
    write_stream,
)
from support.consumers import SHY, dead_ids
from support.groups import DRAIN, ME
from support.payloads import BARE
from support.protobuf import compiled
from support.server import Server
from support.streams import add

SOURCE = """
syntax = "proto3";
package shop;
import "google/protobuf/duration.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

enum State { UNKNOWN = 0; OPEN = 1; PAID = 2; }

message Line { string sku = 1; int32 count = 2; }

message Order {
  int64 id = 1;
  string customer = 2;
  double total = 3;
  optional string note = 4;
  State state = 5;
  repeated string tags = 6;
  repeated sint32 counts = 7;
  repeated fixed64 sums = 8 [packed = false];
  repeated State states = 9;
  Line first = 10;
  repeated Line lines = 11;
  map<string, int64> prices = 12;
  map<int32, Line> by_number = 13;
  oneof way { string card = 14; int64 cash = 15; Line goods = 16; }
  google.protobuf.Timestamp at = 17;
  google.protobuf.Duration took = 18;
  google.protobuf.Int64Value limit = 19;
  google.protobuf.StringValue nick = 20;
  google.protobuf.Struct extra = 21;
  google.protobuf.Value any = 22;
  google.protobuf.ListValue list = 23;
  bool ok = 24;
  bytes raw = 25;
  float ratio = 26;
  uint32 u32 = 27;
  uint64 u64 = 28;
  sint64 s64 = 29;
  fixed32 f32 = 30;
  sfixed32 sf32 = 31;
  sfixed64 sf64 = 32;
  Order parent = 33;
}
"""
DESCRIPTOR, SHOP = compiled(SOURCE)
ORDER = ProtobufSchema(DESCRIPTOR, "shop.Order")
OPTIONS: dict[str, Any] = {"payload": "data", "payload_format": ORDER}
LINE = pl.Struct({"sku": pl.String, "count": pl.Int32})
STATE = pl.Enum(["UNKNOWN", "OPEN", "PAID"])
SCHEMA: dict[str, Any] = {
    "id": pl.Int64,
    "customer": pl.String,
    "total": pl.Float64,
    "note": pl.String,
    "state": STATE,
    "tags": pl.List(pl.String),
    "counts": pl.List(pl.Int32),
    "sums": pl.List(pl.UInt64),
    "states": pl.List(STATE),
    "first": LINE,
    "lines": pl.List(LINE),
    "prices": pl.List(pl.Struct({"key": pl.String, "value": pl.Int64})),
    "by_number": pl.List(pl.Struct({"key": pl.Int32, "value": LINE})),
    "card": pl.String,
    "cash": pl.Int64,
    "goods": LINE,
    "at": pl.Datetime("us", "UTC"),
    "took": pl.Duration("us"),
    "limit": pl.Int64,
    "nick": pl.String,
    "extra": pl.String,
    "any": pl.String,
    "list": pl.String,
    "ok": pl.Boolean,
    "raw": pl.Binary,
    "ratio": pl.Float32,
    "u32": pl.UInt32,
    "u64": pl.UInt64,
    "s64": pl.Int64,
    "f32": pl.UInt32,
    "sf32": pl.Int32,
    "sf64": pl.Int64,
    "parent": pl.String,
}


def full() -> Any:
    order = SHOP.Order(
        id=-5,
        customer="Köln",
        total=1.5,
        note="",
        state=SHOP.PAID,
        tags=["a", ""],
        counts=[1, -1, 2**31 - 1, -(2**31)],
        sums=[0, 2**64 - 1],
        states=[SHOP.OPEN, SHOP.UNKNOWN],
        first=SHOP.Line(sku="x", count=-3),
        lines=[SHOP.Line(), SHOP.Line(sku="y", count=2)],
        prices={"a": 1, "": -2},
        by_number={7: SHOP.Line(sku="seven"), -1: SHOP.Line()},
        cash=0,
        ok=True,
        raw=b"\x00\xff",
        ratio=0.1,
        u32=2**32 - 1,
        u64=2**64 - 1,
        s64=-(2**63),
        f32=2**32 - 1,
        sf32=-(2**31),
        sf64=2**63 - 1,
    )
    order.at.FromDatetime(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC))
    order.took.FromTimedelta(timedelta(seconds=-90, microseconds=-5))
    order.limit.value = 0
    order.nick.value = "ada"
    order.extra.update({"a": 1.5, "b": [True, None, "x"]})
    order.any.string_value = "text"
    order.list.extend([1, "b"])
    order.parent.id = 9
    return order


#: The same as rows.
FULL: dict[str, Any] = {
    "id": -5,
    "customer": "Köln",
    "total": 1.5,
    "note": "",
    "state": "PAID",
    "tags": ["a", ""],
    "counts": [1, -1, 2**31 - 1, -(2**31)],
    "sums": [0, 2**64 - 1],
    "states": ["OPEN", "UNKNOWN"],
    "first": {"sku": "x", "count": -3},
    "lines": [{"sku": "", "count": 0}, {"sku": "y", "count": 2}],
    "prices": [{"key": "a", "value": 1}, {"key": "", "value": -2}],
    "by_number": [
        {"key": 7, "value": {"sku": "seven", "count": 0}},
        {"key": -1, "value": {"sku": "", "count": 0}},
    ],
    "card": None,
    "cash": 0,
    "goods": None,
    "at": datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    "took": timedelta(seconds=-90, microseconds=-5),
    "limit": 0,
    "nick": "ada",
    "any": "text",
    "ok": True,
    "raw": b"\x00\xff",
    "u32": 2**32 - 1,
    "u64": 2**64 - 1,
    "s64": -(2**63),
    "f32": 2**32 - 1,
    "sf32": -(2**31),
    "sf64": 2**63 - 1,
}
#: What an empty message is: what has no presence has a value.
EMPTY: dict[str, Any] = {
    **dict.fromkeys(SCHEMA),
    "id": 0,
    "customer": "",
    "total": 0.0,
    "state": "UNKNOWN",
    "ok": False,
    "raw": b"",
    **{name: [] for name, dtype in SCHEMA.items() if isinstance(dtype, pl.List)},
    **dict.fromkeys(["ratio", "u32", "u64", "s64", "f32", "sf32", "sf64"], 0),
}


def put(client: redis.Redis, stream: str, *payloads: bytes) -> None:
    add(client, stream, [(f"{n}-0", {"data": payload}) for n, payload in enumerate(payloads, 1)])


def xrange(client: redis.Redis, stream: str) -> Any:
    return client.xrange(stream)


def sorted_maps(row: dict[str, Any]) -> dict[str, Any]:
    """A map has no order."""
    maps = {name: sorted(row[name], key=lambda entry: entry["key"]) for name in MAPS if row[name]}
    return {**row, **maps}


MAPS = ("prices", "by_number")


def test_the_descriptor_tells_the_dtypes(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    assert dict(ORDER.schema) == SCHEMA
    assert dict(infer_schema(any_server.url, stream, **OPTIONS)) == SCHEMA
    put(client, stream, full().SerializeToString())
    assert dict(infer_schema(any_server.url, stream, **OPTIONS)) == SCHEMA


def test_what_the_reference_library_writes_is_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    put(client, stream, full().SerializeToString(), b"")
    df = read_stream(any_server.url, stream, **OPTIONS, **BARE)
    assert dict(df.schema) == SCHEMA
    row = sorted_maps(df.row(0, named=True))
    assert {name: row[name] for name in FULL} == sorted_maps(FULL)
    assert math.isclose(row["ratio"], 0.1, rel_tol=1e-6)
    assert json.loads(row["extra"]) == {"a": 1.5, "b": [True, None, "x"]}
    assert row["list"] == '[1.0,"b"]'
    assert '"id":9' in row["parent"]
    assert df.row(1, named=True) == EMPTY
    for typed in (
        read_stream(any_server.url, stream, SCHEMA, **OPTIONS, **BARE),
        scan_stream(any_server.url, stream, SCHEMA, **OPTIONS, **BARE).collect(),
        scan_stream(any_server.url, stream, infer_schema=True, **OPTIONS, **BARE).collect(),
        scan_stream(any_server.url, stream, **OPTIONS, **BARE).collect(),
        pl.DataFrame(redfloe.stream_reader(any_server.url, stream, **OPTIONS, **BARE)),
        read_stream(any_server.url, stream, **ME, **OPTIONS, **BARE),
        asyncio.run(redfloe.read_stream_async(any_server.url, stream, **OPTIONS, **BARE)),
    ):
        assert_frame_equal(typed, df)


def test_what_is_written_the_reference_library_reads(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    put(client, stream, full().SerializeToString(), b"")
    df = read_stream(any_server.url, stream, **OPTIONS, **BARE).drop("any", "parent")
    assert write_stream(any_server.url, df, f"{stream}-2", **OPTIONS).len() == 2
    written = xrange(client, f"{stream}-2")
    first, second = (SHOP.Order.FromString(fields[b"data"]) for _, fields in written)
    expected = full()
    expected.ClearField("any")
    expected.ClearField("parent")
    assert first == expected
    assert second == SHOP.Order()
    with redfloe.StreamProducer(any_server.url, f"{stream}-3", **OPTIONS) as producer:
        producer.send({"id": 1, "lines": [{"sku": "x"}], "at": datetime(2024, 1, 1, tzinfo=UTC)})
        with pytest.raises(ValueError, match=r"id in shop\.Order is \"x\", which is no int64"):
            producer.send({"id": "x"})
    ((_, fields),) = xrange(client, f"{stream}-3")
    sent = SHOP.Order.FromString(fields[b"data"])
    assert (sent.id, sent.lines[0].sku, sent.at.seconds) == (1, "x", 1_704_067_200)


OPTIONS_OF_ORDERS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-(2**63), 2**63 - 1),
        "customer": st.text(),
        "total": st.floats(allow_nan=False),
        "note": st.text(),
        "state": st.integers(0, 2),
        "tags": st.lists(st.text(), max_size=3),
        "counts": st.lists(st.integers(-(2**31), 2**31 - 1)),
        "sums": st.lists(st.integers(0, 2**64 - 1), max_size=3),
        "raw": st.binary(),
        "prices": st.dictionaries(st.text(), st.integers(-(2**63), 2**63 - 1), max_size=3),
        "card": st.text(),
        "s64": st.integers(-(2**63), 2**63 - 1),
    },
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(OPTIONS_OF_ORDERS, min_size=1, max_size=5))
def test_rows_go_round(
    any_server: Server, client: redis.Redis, stream: str, rows: list[dict[str, Any]]
) -> None:
    client.delete(stream, f"{stream}-2")
    messages = [SHOP.Order(**row) for row in rows]
    put(client, stream, *(message.SerializeToString() for message in messages))
    df = read_stream(any_server.url, stream, **OPTIONS, **BARE)
    for found, row in zip(df.iter_rows(named=True), rows, strict=True):
        given = {**EMPTY, **row, "prices": [*row.get("prices", {}).items()]}
        given["state"] = ["UNKNOWN", "OPEN", "PAID"][row.get("state", 0)]
        found["prices"] = [(entry["key"], entry["value"]) for entry in found["prices"]]
        given["prices"].sort()
        found["prices"].sort()
        assert found == given
    write_stream(any_server.url, df, f"{stream}-2", **OPTIONS)
    written = xrange(client, f"{stream}-2")
    assert [SHOP.Order.FromString(fields[b"data"]) for _, fields in written] == messages


# What does not fit


def test_what_is_no_message_spoils_its_row(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    good = SHOP.Order(id=7).SerializeToString()
    put(client, stream, good, b"\x08", good, b"\x0a\xff\xff\xff\xff\x0f", b"\x0b", b"\x00\x00")
    with pytest.raises(DecodeError, match=r"is not a message shop\.Order.*2-0"):
        read_stream(any_server.url, stream, **OPTIONS)
    schema = {"id": pl.Int64}
    df = read_stream(any_server.url, stream, schema, **OPTIONS, on_error="null")
    assert df["id"].to_list() == [7, None, 7, None, None, None]
    df = read_stream(any_server.url, stream, schema, **OPTIONS, rescue_column="rest")
    assert df["rest"].str.contains('{"data":', literal=True).to_list() == [
        *[False, True, False, True, True, True]
    ]
    dead = {"dead_letter": f"{stream}-dead", **DRAIN, **ME, **SHY}
    with redfloe.StreamConsumer(any_server.url, stream, schema=schema, **OPTIONS, **dead) as worker:
        assert [batch.frame["id"].to_list() for batch in worker] == [[7, 7]]
    assert dead_ids(client, f"{stream}-dead") == ["2-0", "4-0", "5-0", "6-0"]


def test_one_misfit_spoils_one_value(any_server: Server, client: redis.Redis, stream: str) -> None:
    """A name that the reader's enum lacks, text that is no UTF-8, a number beyond its dtype."""
    put(client, stream, b"\x08\x05\x28\x63\x12\x01\xff")
    schema: dict[str, Any] = {"id": pl.Int8, "state": STATE, "customer": pl.String}
    with pytest.raises(DecodeError, match=r"field: (customer|state)"):
        read_stream(any_server.url, stream, schema, **OPTIONS)
    df = read_stream(any_server.url, stream, schema, **OPTIONS, on_error="null", **BARE)
    assert df.rows() == [(5, None, None)]
    overrides = {"state": pl.String, "customer": pl.Binary}
    df = read_stream(any_server.url, stream, schema_overrides=overrides, **OPTIONS)
    assert df.select("state", "customer").rows() == [("99", b"\xff")]


def test_a_path_leads_to_a_message_inside(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    put(client, stream, full().SerializeToString(), b"")
    options: dict[str, Any] = {**OPTIONS, "payload_path": "$.first", "payload_prefix": "line_"}
    df = read_stream(any_server.url, stream, **options, **BARE)
    assert df.schema == {"line_sku": pl.String, "line_count": pl.Int32}
    assert df.rows() == [("x", -3), (None, None)]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("$.frist", r'"frist".*in \$ by.*whose records are first, goods'),
        ("$.first.nope", r'"nope".*in \$\.first by.*which has no records'),
        ("$.id", r'"id", which is no record'),
        ("$.lines", r'"lines", which is no record'),
    ],
)
def test_a_path_to_what_no_message_has_is_refused(any_server: Server, path: str, said: str) -> None:
    options: dict[str, Any] = {**OPTIONS, "payload_path": path}
    for schema in (None, {"sku": pl.String}):
        with pytest.raises(ValueError, match=said):
            read_stream(any_server.url, "none", schema, **options)
        with pytest.raises(ValueError, match=said):
            scan_stream(any_server.url, "none", schema, **options).collect()


def test_a_path_may_lead_into_a_document(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Of which the descriptor says no more."""
    order = SHOP.Order()
    order.extra.update({"a": {"b": 1}})
    put(client, stream, order.SerializeToString())
    options: dict[str, Any] = {**OPTIONS, "payload_path": "$.extra.a"}
    assert read_stream(any_server.url, stream, {"b": pl.Int64}, **options, **BARE).rows() == [(1,)]


def test_pieces_of_a_message_are_one(any_server: Server, client: redis.Redis, stream: str) -> None:
    """What is concatenated is merged, as the format has it."""
    parts = [
        SHOP.Order(id=1, first=SHOP.Line(sku="a"), tags=["x"], card="c", counts=[1]),
        SHOP.Order(id=2, first=SHOP.Line(count=3), tags=["y"], cash=4, counts=[2]),
    ]
    whole = b"".join(part.SerializeToString() for part in parts)
    put(client, stream, whole)
    expected = SHOP.Order.FromString(whole)
    row = read_stream(any_server.url, stream, **OPTIONS).row(0, named=True)
    assert (row["id"], row["first"]) == (2, {"sku": "a", "count": 3})
    assert row["tags"] == list(expected.tags) == ["x", "y"]
    assert row["counts"] == list(expected.counts)
    assert (row["card"], row["cash"]) == (None, 4)
    assert expected.WhichOneof("way") == "cash"


OLD = """
syntax = "proto2";
package old;
message Old {
  required int32 id = 1;
  optional int32 size = 2 [default = 5];
  optional group Part = 3 { optional string name = 1; repeated int32 counts = 2; }
  repeated int32 plain = 4;
  extensions 100 to 200;
}
extend Old { optional string more = 100; }
message Empty {}
message Node { optional Node left = 1; optional Empty nothing = 2; }
"""


def test_proto2(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Groups; what is not written is null, defaults or not; extensions are passed over."""
    descriptor, old = compiled(OLD)
    message = old.Old(id=3, part=old.Old.Part(name="p", counts=[1, 2]), plain=[4, 5])
    message.Extensions[old.more] = "more"
    put(client, stream, message.SerializeToString())
    options: dict[str, Any] = {
        "payload": "data",
        "payload_format": ProtobufSchema(descriptor, "old.Old"),
    }
    df = read_stream(any_server.url, stream, **options, **BARE)
    part = {"name": "p", "counts": [1, 2]}
    assert df.rows(named=True) == [{"id": 3, "size": None, "part": part, "plain": [4, 5]}]
    write_stream(any_server.url, df, f"{stream}-2", **options)
    ((_, fields),) = xrange(client, f"{stream}-2")
    with pytest.raises(ValueError, match=r"id in old\.Old is missing or null, and is required"):
        write_stream(any_server.url, df.drop("id"), f"{stream}-2", **options)
    message.ClearExtension(old.more)
    assert old.Old.FromString(fields[b"data"]) == message
    node = ProtobufSchema(descriptor, "old.Node")
    assert dict(node.schema) == {"left": pl.String, "nothing": pl.String}


def test_hostile_messages(any_server: Server, client: redis.Redis, stream: str) -> None:
    deep = b""
    for _ in range(200):
        size = len(deep)
        length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
        deep = b"\x8a\x02" + length + deep  # parent
    # Each of these four bytes becomes a struct of two names.
    wide = b"\x5a\x00" * 200_000
    put(client, stream, deep, wide, b"\x3a\x7f", b"\x3b" * 10_000)
    options: dict[str, Any] = {
        **OPTIONS,
        "on_error": "null",
        "payload_max_bytes": 1_000_000,
        **BARE,
    }
    df = read_stream(any_server.url, stream, {"lines": SCHEMA["lines"]}, **options)
    assert df["lines"].to_list()[1] is None
    for number, reason in [
        (1, "128 levels"),
        (2, "payload_max_bytes=1000000"),
        (3, "not a message"),
    ]:
        one: dict[str, Any] = {"start_id": f"{number}-0", "count": 1}
        with pytest.raises(DecodeError, match=reason):
            read_stream(any_server.url, stream, **OPTIONS, payload_max_bytes=1_000_000, **one)


# Arguments


def test_editions_and_broken_descriptors_are_refused() -> None:
    """Of which the library that reads descriptors knows nothing, or panics at."""
    descriptor, _ = compiled('edition = "2023"; package new; message New { int32 id = 1; }')
    with pytest.raises(ValueError, match=r"of an edition.*only proto2 and proto3"):
        ProtobufSchema(descriptor, "new.New")
    for at in range(0, len(DESCRIPTOR), 7):
        broken = DESCRIPTOR[:at] + bytes([DESCRIPTOR[at] ^ 1]) + DESCRIPTOR[at + 1 :]
        with contextlib.suppress(ValueError):
            ProtobufSchema(broken, "shop.Order")


def test_messages_inside_one_another_end_as_text() -> None:
    """A chain of thousands would exhaust the stack."""
    chain = [f"message M{n} {{ M{n + 1} x = 1; }}" for n in range(3_000)]
    source = f"""syntax = "proto3"; package c; {"".join(chain)} message M3000 {{ int32 x = 1; }}"""
    dtype: Any = ProtobufSchema(compiled(source)[0], "c.M0").schema["x"]
    depth = 0
    while isinstance(dtype, pl.Struct):
        dtype = dtype.fields[0].dtype
        depth += 1
    assert (depth, dtype) == (63, pl.String())


def test_the_first_name_of_a_number_is_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    descriptor, names = compiled(
        """syntax = "proto3"; package n;
        enum E { option allow_alias = true; A = 0; B = 0; C = 1; D = 1; }
        message M { E e = 1; float f = 2; double d = 3; }"""
    )
    put(client, stream, names.M(e=names.D).SerializeToString(), b"")
    options: dict[str, Any] = {
        "payload": "data",
        "payload_format": ProtobufSchema(descriptor, "n.M"),
    }
    df = read_stream(any_server.url, stream, **options)
    assert df["e"].to_list() == ["C", "A"]
    assert df["e"].dtype == pl.Enum(["A", "C"])
    lossy: list[dict[str, Any]] = [{"f": [1e300]}, {"f": [2**24 + 1]}, {"d": [2**53 + 1]}]
    for column in (*lossy, {"e": ["E"]}):
        with pytest.raises(ValueError, match=r"in n\.M is"):
            write_stream(any_server.url, pl.DataFrame(column), stream, **options)


def test_schemas_are_checked(tmp_path: Path) -> None:
    for descriptor, message, error in [
        (b"no set", "shop.Order", "is not a FileDescriptorSet"),
        (
            DESCRIPTOR,
            "shop.Nothing",
            r"no message \"shop.Nothing\"; it has shop\.Line, shop\.Order",
        ),
    ]:
        with pytest.raises(ValueError, match=error):
            ProtobufSchema(descriptor, message)
    with pytest.raises(FileNotFoundError):
        ProtobufSchema(tmp_path / "none.binpb", "shop.Order")
    with pytest.raises(TypeError, match="must be bytes or a path, not int"):
        ProtobufSchema(1, "shop.Order")  # type: ignore[arg-type]  # that is what is tested
    (tmp_path / "shop.binpb").write_bytes(DESCRIPTOR)
    again = ProtobufSchema(str(tmp_path / "shop.binpb"), "shop.Order")
    assert again == ORDER
    assert hash(again) == hash(ORDER)
    assert repr(again) == "ProtobufSchema('shop.Order')"
    assert pickle.loads(pickle.dumps(again)).schema == ORDER.schema


def test_the_format_needs_its_schema(any_server: Server, stream: str) -> None:
    with pytest.raises(ValueError, match=r"protobuf needs its schema.*ProtobufSchema"):
        read_stream(any_server.url, stream, payload="data", payload_format="protobuf")  # type: ignore[arg-type]  # as above
    with pytest.raises(ValueError, match="payload_format needs a payload"):
        read_stream(any_server.url, stream, payload_format=ORDER)


@pytest.mark.parametrize(
    ("column", "error"),
    [
        ({"colour": ["x"]}, r"row: 0.*colour|colour.*no field of shop\.Order"),
        ({"u32": [-1]}, r"u32 in shop\.Order is \"-1\", which is no uint32"),
        ({"state": ["SOLD"]}, r"state in shop\.Order is \"SOLD\", which is no name of the enum"),
        ({"lines": [[{"sku": "x", "count": "y"}]]}, r"lines\[0\]\.count in shop\.Order"),
        ({"tags": [["a", None]]}, r"tags\[1\] in shop\.Order is null"),
        ({"at": [datetime(2024, 1, 1)]}, "a Datetime with a time zone is one"),  # noqa: DTZ001
        ({"extra": ["[]"]}, "is not a JSON object"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    any_server: Server, client: redis.Redis, stream: str, column: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValueError, match=error):
        write_stream(any_server.url, pl.DataFrame(column), stream, **OPTIONS)
    assert client.exists(stream) == 0


def test_a_field_may_have_the_name_of_a_metadata_column(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    descriptor, module = compiled(
        'syntax = "proto3"; package meta; message Row { int32 _id = 1; int32 _stream = 2; }'
    )
    options: Any = {"payload": "data", "payload_format": ProtobufSchema(descriptor, "meta.Row")}
    put(client, stream, module.Row(_id=7).SerializeToString())
    schema = infer_schema(any_server.url, stream, **options)
    assert dict(schema) == {"_id": pl.Int32, "_stream": pl.Int32}
    assert infer_schema(any_server.url, [stream, f"{stream}-2"], **options) == schema
    df = read_stream(any_server.url, stream, schema, **options, **BARE)
    assert df.rows() == [(7, 0)]
