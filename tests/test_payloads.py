"""A JSON document in one field: its keys are columns in every reader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    DecodeError,
    SchemaError,
    infer_schema,
    iter_stream,
    read_stream,
    scan_stream,
    stream_batches,
    stream_reader,
)
from support.consumers import SHY, World, dead_ids, letters
from support.groups import DRAIN, ME, pending
from support.payloads import BARE, FORMATS, FRAME, PACKED, PAYLOAD, SCHEMA, to_json
from support.server import Server
from support.streams import add

#: As web shops write them, by plain redis-py.
ORDERS: list[dict[str, Any]] = [
    {"sku": "a-1", "total": 19.5, "qty": 2.0, "tags": ["new"], "ship": {"city": "Köln"}},
    {"sku": "a-2", "total": 3, "qty": 1, "tags": [], "ship": None, "gift": True},
    {"sku": "b-7", "total": 7.25, "qty": 4, "ship": {"city": "Ulm", "zip": "01234"}},
]


def add_orders(
    client: redis.Redis, stream: str, write: Callable[[object], bytes] = to_json
) -> None:
    for n, order in enumerate(ORDERS, 1):
        add(client, stream, [(f"{n}-0", {"src": "web", "data": write(order)})])


# Every reader


def read(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    return read_stream(url, stream, schema, **options)


def read_through_a_group(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    return read_stream(url, stream, schema, **ME, **options)


def scan(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    return scan_stream(url, stream, schema, **options).collect()


def arrow(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    return pl.DataFrame(stream_reader(url, stream, schema, **options))


def follow_blocking(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    return pl.concat(iter_stream(url, stream, schema, start_id="-", **DRAIN, **options))


def follow_async(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    async def collect() -> pl.DataFrame:
        batches = stream_batches(url, stream, schema, start_id="-", **DRAIN, **options)
        return pl.concat([batch async for batch in batches])

    return asyncio.run(collect())


def work(url: Any, stream: str, schema: Any, **options: Any) -> pl.DataFrame:
    with redfloe.StreamConsumer(url, stream, schema=schema, **ME, **DRAIN, **options) as consumer:
        return pl.concat([batch.frame for batch in consumer])


Reader = Callable[..., pl.DataFrame]
READERS: list[Reader] = [
    read,
    read_through_a_group,
    scan,
    arrow,
    follow_blocking,
    follow_async,
    work,
]


@pytest.mark.parametrize(("options", "write", "_"), FORMATS)
@pytest.mark.parametrize("reader", READERS)
def test_keys_are_columns(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    reader: Reader,
    options: dict[str, Any],
    write: Callable[[object], bytes],
    _: object,
) -> None:
    add_orders(client, stream, write)
    assert_frame_equal(reader(any_server.url, stream, SCHEMA, **options, **BARE), FRAME)


@pytest.mark.parametrize("reader", READERS)
def test_a_path_and_a_prefix(
    any_server: Server, client: redis.Redis, stream: str, reader: Reader
) -> None:
    """As change events have them."""
    changes = [
        {"op": "c", "before": None, "after": {"id": 1, "src": "db"}},
        {"op": "d", "before": {"id": 1}, "after": None},
    ]
    add(
        client,
        stream,
        [(f"{n}-0", {"src": "cdc", "data": json.dumps(one)}) for n, one in enumerate(changes, 1)],
    )
    schema = {"src": pl.String, "after_id": pl.Int64, "after_src": pl.String}
    options = {"payload_path": "$.after", "payload_prefix": "after_"}
    df = reader(any_server.url, stream, schema, **PAYLOAD, **options, **BARE)
    assert df.rows() == [("cdc", 1, "db"), ("cdc", None, None)]


def test_without_a_schema_every_key_is_text(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_orders(client, stream)
    df = read_stream(any_server.url, stream, **PAYLOAD, **BARE)
    assert df.columns == ["src", "sku", "total", "qty", "tags", "ship", "gift"]
    assert set(df.dtypes) == {pl.String()}
    assert df.row(0)[2:6] == ("19.5", "2.0", '["new"]', '{"city": "K\\u00f6ln"}')
    lazy = scan_stream(any_server.url, stream, **PAYLOAD, **BARE).collect()
    assert_frame_equal(lazy, df)


def test_a_scan_reads_the_keys_that_a_query_needs(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """What it does not need cannot fail."""
    add(client, stream, [("1-0", {"data": '{"a":1,"b":"x","c":2}'})])
    lf = scan_stream(any_server.url, stream, dict.fromkeys("abc", pl.Int64), **PAYLOAD)
    assert lf.filter(pl.col("a") == 1).select("c").collect()["c"].to_list() == [2]
    with pytest.raises(
        (DecodeError, pl.exceptions.ComputeError), match=r"not an integer.*field: b"
    ):
        lf.collect()
    add(client, stream, [("2-0", {"data": "no document"})])
    lf = scan_stream(any_server.url, stream, dict.fromkeys("abc", pl.Int64), **PAYLOAD)
    assert lf.select(pl.len()).collect().item() == 2
    with pytest.raises((DecodeError, pl.exceptions.ComputeError), match="is not a JSON object"):
        lf.select("a").collect()


# Inference


def test_infer_schema_sees_dtypes_and_nesting(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_orders(client, stream)
    add(
        client,
        stream,
        [
            ("9-0", {"data": '{"at":"2024-01-31T12:00:00Z","zip":"01234","n":"5","day":null}'}),
            ("9-1", {"data": "no document"}),
            (
                "9-2",
                {"data": '{"lines":[{"sku":"x","n":1},{"n":2.5}],"mixed":1,"day":"2024-01-31"}'},
            ),
            ("9-3", {"data": '{"mixed":[1]}'}),
        ],
    )
    schema = infer_schema(any_server.url, stream, **PAYLOAD)
    assert dict(schema) == {
        **SCHEMA,
        "qty": pl.Float64,
        "at": pl.Datetime("us", "UTC"),
        "zip": pl.String,
        "n": pl.String,
        "day": pl.Date,
        "lines": pl.List(pl.Struct({"sku": pl.String, "n": pl.Float64})),
        "mixed": pl.String,
    }
    options = {**PAYLOAD, "on_error": "null"}
    df = read_stream(any_server.url, stream, schema, **options)
    typed = read_stream(any_server.url, stream, infer_schema=True, **options)
    assert_frame_equal(typed, df)
    lazy = scan_stream(any_server.url, stream, infer_schema=True, **options).collect()
    assert_frame_equal(lazy, df)
    assert df["lines"].to_list()[5] == [{"sku": "x", "n": 1.0}, {"sku": None, "n": 2.5}]


def test_infer_schema_follows_path_prefix_and_null_values(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    document = '{"after":{"id":1,"n":"n/a","m":2}}'
    add(client, stream, [("1-0", {"id": "x", "data": document}), ("2-0", {"m": "text"})])
    schema = infer_schema(
        any_server.url,
        stream,
        payload_path="$.after",
        payload_prefix="p_",
        null_values={"p_n": "n/a"},
        **PAYLOAD,
    )
    assert dict(schema) == {
        "id": pl.String,
        "p_id": pl.Int64,
        "p_n": pl.String,
        "p_m": pl.Int64,
        "m": pl.String,
    }
    # A name that fields and keys share, and of several dtypes.
    schema = infer_schema(any_server.url, stream, payload_path="$.after", **PAYLOAD)
    assert dict(schema) == {
        "id": pl.String,
        "n": pl.String,
        "m": pl.String,
    }
    with pytest.raises(SchemaError, match="max_columns=2"):
        infer_schema(any_server.url, stream, payload_path="$.after", max_columns=2, **PAYLOAD)


@pytest.mark.parametrize("reader", READERS)
def test_overrides_and_inference_hold_for_keys(
    any_server: Server, client: redis.Redis, stream: str, reader: Reader
) -> None:
    add_orders(client, stream)
    overrides = {"qty": pl.Int64, "total": pl.Decimal(10, 2), "by": pl.Binary}
    options: dict[str, Any] = {"schema_overrides": overrides, **PAYLOAD, **BARE}
    df = reader(any_server.url, stream, None, infer_schema=True, **options)
    assert {name: dtype for name, dtype in df.schema.items() if name not in overrides} == {
        name: dtype for name, dtype in SCHEMA.items() if name not in overrides
    }
    assert {name: df.schema[name] for name in overrides} == overrides
    assert df["qty"].to_list() == [2, 1, 4]


def test_overrides_hold_for_keys_without_inference(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_orders(client, stream)
    options: dict[str, Any] = {"schema_overrides": {"qty": pl.Int64}, **PAYLOAD}
    df = read_stream(any_server.url, stream, **options)
    assert df.schema["qty"] == pl.Int64
    assert df.schema["total"] == pl.String
    assert df["qty"].to_list() == [2, 1, 4]
    assert infer_schema(any_server.url, stream, **options)["qty"] == pl.Int64


# What does not fit


def test_misfits_are_those_of_fields(any_server: Server, client: redis.Redis, stream: str) -> None:
    schema = {"n": pl.Int64, "s": pl.String}
    texts = ['{"n":1,"s":"a"}', '{"n":"x","s":"b","t":[1]}', "[1]", '{"n":4.0,"s":null}']
    add(client, stream, [(f"{n}-0", {"data": text}) for n, text in enumerate(texts, 1)])
    url, options = any_server.url, PAYLOAD | BARE
    with pytest.raises(
        DecodeError, match=f"entry ID: 2-0, field: n, dtype: Int64, stream: {stream}"
    ):
        read_stream(url, stream, schema, **options)
    df = read_stream(url, stream, schema, on_error="null", **options)
    assert df.rows() == [(1, "a"), (None, "b"), (None, None), (4, None)]
    df = read_stream(url, stream, schema, rescue_column="rest", **options)
    assert df["rest"].to_list() == [None, '{"n":"x","t":"[1]"}', '{"data":"[1]"}', None]
    nulls = {"n": ["x"], "data": "[1]"}
    df = read_stream(url, stream, schema, null_values=nulls, **options)
    assert df.rows() == [(1, "a"), (None, "b"), (None, None), (4, None)]


#: The parts of an order of which one does not fit.
SPOILT: dict[str, Any] = {
    "items": [{"sku": "A", "price": 1.5}, {"sku": "B", "price": "n/a"}, {"sku": "C", "price": 2}],
    "cust": {"id": "u1", "age": "old", "address": "Ulm"},
    "size": [1, "two"],
}
SPOILT_SCHEMA: dict[str, Any] = {
    "items": [{"sku": str, "price": pl.Decimal(10, 2)}],
    "cust": {"id": str, "age": int, "address": {"city": str}},
    "size": pl.Array(pl.Int8, 2),
}
MENDED = (
    [
        {"sku": "A", "price": Decimal("1.50")},
        {"sku": "B", "price": None},
        {"sku": "C", "price": Decimal("2.00")},
    ],
    {"id": "u1", "age": None, "address": None},
    [1, None],
)
MISFITS = {
    "items[1].price": "n/a",
    "cust.age": "old",
    "cust.address": "Ulm",
    "size[1]": "two",
}


def add_spoilt(client: redis.Redis, stream: str, *, payload: bool) -> dict[str, Any]:
    """Add an order as a document, or as fields of JSON; give the options to read it."""
    fields = {name: json.dumps(value) for name, value in SPOILT.items()}
    add(client, stream, [("1-0", {"data": json.dumps(SPOILT)} if payload else fields)])
    return {**BARE, **(PAYLOAD if payload else {})}


@pytest.mark.parametrize("payload", [False, True])
@pytest.mark.parametrize("policy", [{"on_error": "null"}, {"rescue_column": "rest"}])
@pytest.mark.parametrize("reader", READERS)
def test_only_the_value_inside_that_does_not_fit_is_null(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    reader: Reader,
    policy: dict[str, Any],
    payload: bool,
) -> None:
    options = add_spoilt(client, stream, payload=payload)
    row = reader(any_server.url, stream, SPOILT_SCHEMA, **policy, **options).to_dicts()[0]
    assert json.loads(row.pop("rest", "null")) == (MISFITS if "rest" in policy.values() else None)
    assert tuple(row.values()) == MENDED


@pytest.mark.parametrize("payload", [False, True])
def test_a_worker_and_its_dead_letters_null_the_value_alone(
    world: World, any_server: Server, client: redis.Redis, stream: str, payload: bool
) -> None:
    options = add_spoilt(client, stream, payload=payload)
    consumer = world.consumer(
        any_server.url, stream, SPOILT_SCHEMA, rescue_column="rest", **options, **ME, **DRAIN
    )
    with consumer:
        [batch] = [batch.frame for batch in consumer]
    assert json.loads(batch["rest"][0]) == MISFITS
    with world.consumer(
        any_server.url,
        stream,
        SPOILT_SCHEMA,
        dead_letter="dead",
        group="other",
        consumer="c",
        **options,
        **DRAIN,
    ) as consumer:
        assert list(consumer) == []
    assert letters(client)[0][b"_dead_reason"].decode() == (
        '"n/a" at items[1].price is not a decimal (field: items[1].price, dtype: Decimal(10, 2))'
    )
    dead = redfloe.read_dead_letters(
        any_server.url, "dead", SPOILT_SCHEMA, rescue_column="rest", **options
    )
    assert tuple(dead.select(*SPOILT_SCHEMA).to_dicts()[0].values()) == MENDED
    assert json.loads(dead["rest"][0]) == MISFITS


def test_an_error_locates_the_value_inside(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    options = add_spoilt(client, stream, payload=True)
    with pytest.raises(
        DecodeError, match=r'^"n/a" at items\[1\]\.price is not a decimal; '
    ) as raised:
        read_stream(any_server.url, stream, SPOILT_SCHEMA, **options)
    assert "dtype: Decimal(10, 2)" in str(raised.value)
    assert raised.value.field == "items[1].price"


def test_a_worker_moves_poison_payloads_to_the_dead_letters(
    world: World, any_server: Server, client: redis.Redis, stream: str
) -> None:
    poison = ['{"n":2,"broken', '{"n":"x"}', '{"_id":"5-0","n":1}', "5"]
    good = ['{"n":0}', '{"n":6}']
    texts = [good[0], *poison[:2], good[1], *poison[2:]]
    add(
        client,
        stream,
        [(f"{n}-0", {"src": "web", "data": text}) for n, text in enumerate(texts, 1)],
    )
    consumer = world.consumer(
        any_server.url, stream, {"n": pl.Int64}, dead_letter="dead", **PAYLOAD, **ME, **DRAIN, **SHY
    )
    with consumer:
        seen = [n for batch in consumer for n in batch.frame["n"]]
    # With a schema a key that has a metadata column's name is nobody's.
    assert seen == [0, 6, 1]
    assert dead_ids(client) == ["2-0", "3-0", "6-0"]
    assert [letter[b"data"].decode() for letter in letters(client)] == [*poison[:2], poison[3]]
    assert b"is not a JSON object" in letters(client)[0][b"_dead_reason"]
    assert b"is not an integer" in letters(client)[1][b"_dead_reason"]
    assert pending(client, stream) == []


def test_a_worker_without_a_schema_moves_clashes_to_the_dead_letters(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    texts = ['{"n":1}', '{"_id":"5-0"}', '{"src":"me"}', '{"n":4}']
    add(
        client,
        stream,
        [(f"{n}-0", {"src": "web", "data": text}) for n, text in enumerate(texts, 1)],
    )
    df = work(any_server.url, stream, None, dead_letter="dead", **PAYLOAD, **BARE, id_column="_id")
    assert df["n"].to_list() == ["1", None, "4"]
    assert dead_ids(client) == ["3-0"]
    # What to do is the errors' to say: a reason is there to be counted.
    assert letters(client)[0][b"_dead_reason"] == (
        b'the entry has both a field and a key of its payload for the column "src" (field: src)'
    )


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"payload": b"data"}, TypeError, "payload must be str"),
    ({"payload": "data", "payload_path": "after"}, ValueError, r"such as \$.after"),
    ({"payload": "data", "payload_path": "$[0]"}, ValueError, "a path of keys"),
    ({"payload": "data", "payload_path": None}, TypeError, "payload_path must be str"),
    ({"payload": "data", "payload_prefix": "a\0"}, SchemaError, "NUL"),
    ({"payload_path": "$.after"}, ValueError, "need a payload"),
    ({"payload_prefix": "p_"}, ValueError, "need a payload"),
    ({"payload": "data", "payload_format": "yaml"}, ValueError, 'must be "json" or "msgpack"'),
    ({"payload_format": "msgpack"}, ValueError, "payload_format needs a payload"),
    ({"payload": "data", "payload_fields": ["a"]}, ValueError, "payload_fields needs payload_f"),
    ({"payload": "data", "payload_compression": "lz4"}, ValueError, 'must be "zstd" or "gzip"'),
    ({"payload_compression": "zstd"}, ValueError, "payload_compression needs a payload"),
    ({"payload": "data", "payload_max_bytes": -1}, ValueError, "payload_max_bytes"),
    ({**PACKED, "payload_fields": "a"}, TypeError, "must be several names, not str"),
    ({**PACKED, "payload_fields": ["a", "a"]}, ValueError, "names 'a' twice"),
]


@pytest.mark.parametrize(("options", "error", "reason"), WRONG)
@pytest.mark.parametrize("reader", [infer_schema, *READERS])
def test_arguments_that_cannot_be_right(
    reader: Any, options: dict[str, Any], error: type[Exception], reason: str
) -> None:
    """Nothing is sent."""
    schema = () if reader is infer_schema else ({"n": pl.Int64},)
    with pytest.raises(error, match=reason):
        reader("redis://localhost:1", "s", *schema, **options)
