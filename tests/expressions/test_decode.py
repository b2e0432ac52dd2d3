"""Payloads in a column, decoded by an expression: what it makes of them, wherever it is used."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from typing import Any

import msgpack
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.exceptions import ComputeError
from polars.testing import assert_frame_equal, assert_series_equal

import redfloe_expressions as rfx
from support.expressions import FRAME, ORDER, ROW, RUNS, SCHEMA, decoded

STRUCT = pl.Struct(SCHEMA)
ROWS = FRAME.to_struct("data")


def column(name: str) -> rfx.Expressions:
    """Give the column's namespace, which type checkers do not know."""
    namespace: rfx.Expressions = getattr(pl.col(name), "redfloe")  # noqa: B009 - see above
    return namespace


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("compression", [None, "zstd", "gzip"])
@pytest.mark.parametrize("payload_format", ["json", "msgpack"])
def test_what_is_encoded_is_decoded_again(
    payload_format: Any, compression: Any, run: Callable[[pl.LazyFrame], pl.DataFrame]
) -> None:
    options: Any = {"payload_compression": compression}
    data = column("data")
    encoded = ROWS.to_frame().lazy().select(data.encode(payload_format, **options))
    is_text = payload_format == "json" and compression is None
    assert encoded.collect_schema() == {"data": pl.String if is_text else pl.Binary}
    query = encoded.select(data.decode(payload_format, STRUCT, **options))
    assert query.collect_schema() == {"data": STRUCT}
    got = run(query)
    assert got.schema == {"data": STRUCT}
    assert_frame_equal(got.unnest("data"), FRAME)


def test_payloads_of_others_are_decoded() -> None:
    value = {"sku": "a-1", "qty": 2, "unknown": [1]}
    packed = pl.Series("data", [msgpack.packb(value), None, b""])
    by_place = pl.Series("place", [msgpack.packb(["a-1", 2]), msgpack.packb(["b-7"]), None])
    squeezed = pl.Series("zip", [gzip.compress(json.dumps({"after": value}).encode())] * 3)
    got = pl.select(packed, by_place, squeezed).select(
        rfx.decode("data", "msgpack", ORDER),
        column("place").decode("msgpack", ORDER, payload_fields=["sku", "qty"]),
        column("zip").decode(
            "json", pl.Schema({"qty": pl.Int8}), payload_compression="gzip", payload_path="$.after"
        ),
    )
    row = {"sku": "a-1", "qty": 2}
    assert got["data"].to_list() == [row, None, None]
    assert got["place"].to_list() == [row, {"sku": "b-7", "qty": None}, None]
    assert got["zip"].to_list() == [{"qty": 2}] * 3


# What does not fit


def test_a_misfit_raises_with_its_row() -> None:
    good = '{"qty": 1}'
    for bad, message in [
        ('{"qty": "x"}', r'DecodeError: "x" .*row: 3, field: qty, dtype: Int64'),
        ("[1]", r"DecodeError: .*row: 3, field: data"),
        ('{"qty": 1', r"DecodeError: .*row: 3, field: data"),
    ]:
        with pytest.raises(ComputeError, match=message):
            decoded([good, None, good, bad, bad])
    # Rows count through the column's chunks.
    chunks = pl.concat([pl.Series("data", [good] * 2), pl.Series("data", [good, '{"qty": []}'])])
    assert chunks.n_chunks() == 2
    with pytest.raises(ComputeError, match="row: 3"):
        chunks.to_frame().select(rfx.decode("data", "json", ORDER))


def test_a_misfit_is_null_where_that_is_asked_for() -> None:
    payloads = ['{"qty": "x", "sku": "a"}', "no JSON", '{"qty": 300}', None, "{}"]
    got = decoded(payloads, {"qty": pl.UInt8, "sku": str}, on_error="null")
    nothing = {"qty": None, "sku": None}
    assert got == [{"qty": None, "sku": "a"}, None, nothing, None, nothing]
    nested = pl.List(pl.Struct({"n": pl.Int8}))
    got = decoded(['{"a": [{"n": 1}, {"n": 999}, 7]}'], {"a": nested}, on_error="null")
    assert got == [{"a": [{"n": 1}, {"n": None}, None]}]


def test_what_does_not_fit_is_rescued_where_that_is_asked_for() -> None:
    got = decoded(['{"qty": "x", "more": true}', "no JSON"], {"qty": int}, rescue_column="rest")
    assert [json.loads(row.pop("rest")) for row in got] == [
        {"qty": "x", "more": "true"},
        {"data": "no JSON"},
    ]
    assert got == [{"qty": None}] * 2


def test_null_values_hold() -> None:
    payloads = ['{"sku": "-", "qty": "-"}', '{"sku": "n/a", "qty": 1}']
    assert decoded(payloads[:1], null_values="-") == [{"sku": None, "qty": None}]
    got = decoded(payloads, null_values={"qty": "-", "sku": ["n/a"]})
    assert got == [{"sku": "-", "qty": None}, {"sku": None, "qty": 1}]


def test_equal_expressions_are_equal() -> None:
    names = "abcdefgh"
    dtype, nulls = dict.fromkeys(names, pl.Int64), dict.fromkeys(names, "-")
    one, other = (rfx.decode("data", "json", dtype, null_values=nulls) for _ in range(2))
    assert one.meta.eq(other)


def test_a_bomb_is_a_misfit() -> None:
    bomb = pl.DataFrame({"data": [gzip.compress(b" " * 1_000_000 + b"{}")]})
    options: Any = {"payload_compression": "gzip", "payload_max_bytes": 100_000}
    with pytest.raises(ComputeError, match="payload_max_bytes=100000"):
        bomb.select(rfx.decode("data", "json", ORDER, **options))
    got = bomb.select(rfx.decode("data", "json", ORDER, on_error="null", **options))
    assert got["data"].to_list() == [None]


@settings(max_examples=100)
@given(st.lists(st.none() | st.binary(max_size=40) | st.binary(max_size=20).map(b"{".__add__)))
def test_any_bytes_are_decoded_or_null(payloads: list[bytes | None]) -> None:
    frame = pl.DataFrame({"data": pl.Series(payloads, dtype=pl.Binary)})
    for payload_format in ("json", "msgpack"):
        expression = rfx.decode("data", payload_format, STRUCT, on_error="null")
        got = frame.select(expression)["data"]
        assert (got.dtype, len(got)) == (STRUCT, len(payloads))
        got.to_list()


# Wherever an expression may be used


def test_columns_without_rows_and_without_values() -> None:
    for dtype in (pl.String, pl.Binary, pl.Null):
        for rows in ([], [None, None]):
            frame = pl.DataFrame({"data": pl.Series(rows, dtype=dtype)})
            got = frame.select(rfx.decode("data", "json", STRUCT))["data"]
            assert_series_equal(got, pl.Series("data", rows, STRUCT))


def test_slices_and_chunks_of_categories() -> None:
    dtype: dict[str, Any] = {"kind": pl.Categorical, "level": pl.Enum(["low", "high"])}
    texts = [f'{{"kind": "k{n}", "level": "{"low" if n % 2 else "high"}"}}' for n in range(20)]
    whole = pl.Series("data", texts)
    chunks = pl.concat([whole[:7], whole[7:8], whole[8:]], rechunk=False)
    for part in (chunks, whole, chunks[5:12], whole[3:4]):
        got = part.to_frame().select(rfx.decode("data", "json", dtype)).unnest("data")
        numbers = [int(row["kind"][1:]) for row in map(json.loads, part)]
        assert got["kind"].to_list() == [f"k{n}" for n in numbers]
        assert got["level"].to_list() == ["low" if n % 2 else "high" for n in numbers]
        back = got.select(rfx.encode(pl.struct("kind", "level"), "json")).to_series()
        assert [json.loads(text) for text in back] == [json.loads(text) for text in part]


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_in_every_context(run: Callable[[pl.LazyFrame], pl.DataFrame]) -> None:
    frame = pl.LazyFrame(
        {
            "key": [n % 3 for n in range(3000)],
            "data": [f'{{"sku": "s{n}", "qty": {n}}}' for n in range(3000)],
        }
    )
    order = column("data").decode("json", ORDER)
    qty = order.struct.field("qty")
    groups = frame.group_by("key").agg(qty.sum(), order.first().alias("first")).sort("key")
    assert groups.collect_schema() == {"key": pl.Int64, "qty": pl.Int64, "first": pl.Struct(ORDER)}
    assert run(groups).rows() == [
        (key, sum(range(key, 3000, 3)), {"sku": f"s{key}", "qty": key}) for key in range(3)
    ]
    over = run(frame.with_columns(most=qty.max().over("key")).filter(qty > 2995))
    assert over["most"].to_list() == [2999, 2997, 2998, 2999]
    when = pl.when(pl.col("key") == 0).then(order).otherwise(None)
    assert run(frame.select(when.is_null().sum())).item() == 2000


def test_a_literal_is_a_payload_too() -> None:
    got = pl.select(rfx.decode(pl.lit('{"qty": 3}'), "json", ORDER)).to_series().to_list()
    assert got == [{"sku": None, "qty": 3}]


def test_a_plan_may_be_sent_to_another_process() -> None:
    query = pl.LazyFrame({"data": ['{"qty": 3}']}).select(rfx.decode("data", "json", ORDER))
    again = pl.LazyFrame.deserialize(io.BytesIO(query.serialize()))
    assert_frame_equal(again.collect(), query.collect())


# What cannot be is refused before the query runs


def test_other_columns_are_refused_by_the_planner() -> None:
    numbers = pl.LazyFrame({"n": [1], "day": [None]}, schema={"n": pl.Int8, "day": pl.Date})
    for expression, message in [
        (rfx.decode("n", "json", ORDER), r"SchemaError: decode takes .*String or Binary; \"n\""),
        (rfx.encode("n", "json"), r"SchemaError: encode takes .*pl\.struct"),
        (rfx.entry_id("n"), "SchemaError: entry_id takes"),
    ]:
        with pytest.raises(ComputeError, match=message):
            numbers.select(expression).collect_schema()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("xml", ORDER), {}, 'payload_format must be "json"'),
        (("json", ORDER), {"payload_compression": "zip"}, "payload_compression must be"),
        (("json", ORDER), {"payload_path": "after"}, "payload_path must be"),
        (("json", ORDER), {"payload_fields": "after"}, "payload_fields must be a list"),
        (("json", ORDER), {"payload_max_bytes": -1}, "negative|overflow|can't convert"),
        (("json", ORDER), {"on_error": "ignore"}, "on_error must be"),
        (("json", ORDER), {"null_values": 1}, "null_values must be"),
        (("json", {"a": pl.Object}), {}, "a"),
        (("json", {"a": pl.Int8}), {"rescue_column": "a"}, "two|rescue_column"),
        (("json", [pl.Int8]), {}, "dtype must be a mapping"),
        ((b"json", ORDER), {}, "str"),
    ],
)
def test_wrong_arguments_are_refused_at_once(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError), match=message):
        rfx.decode("data", *arguments, **options)


def test_errors_say_what_the_dtype_is() -> None:
    for name in ("day", "instant", "level", "pair"):
        with pytest.raises(ComputeError, match=f"field: {name}"):
            decoded([json.dumps({name: {"no": 1}})], {name: SCHEMA[name]})
    assert ROW.keys() == SCHEMA.keys()
