"""Structs as payloads, and entry IDs as Structs."""

from __future__ import annotations

import json
from typing import Any

import msgpack
import polars as pl
import pytest
from polars.exceptions import ComputeError
from polars.testing import assert_frame_equal

import redfloe_expressions as rfx
from support.expressions import FRAME, RUNS, SCHEMA


def test_payloads_are_what_others_read() -> None:
    frame = FRAME.select("text", "flag", "u64", "tags", "money")
    json_text, packed = frame.select(
        rfx.encode(pl.struct(pl.all()).alias("json"), "json"),
        rfx.encode(pl.struct(pl.all()).alias("msgpack"), "msgpack"),
    )
    first = {"text": FRAME["text"][0], "flag": True, "u64": 2**64 - 1, "tags": ["a", None, ""]}
    assert json.loads(json_text[0]) == {**first, "money": 19.5}
    assert msgpack.unpackb(packed[0]) == {**first, "money": "19.50"}
    assert (json_text[1], packed[1]) == ("{}", b"\x80")


def test_a_null_row_has_no_payload() -> None:
    rows = pl.Series("data", [{"n": 1}, None, {"n": None}], pl.Struct({"n": pl.Int8}))
    for column in (rows, rows[1:], pl.concat([rows, rows[1:]], rechunk=False), rows[:0]):
        got = column.to_frame().select(rfx.encode("data", "json")).to_series()
        texts = ['{"n":1}', None, "{}"]
        expected = texts + texts[1:] if len(column) == 5 else texts[3 - len(column) :]
        assert (got.name, got.to_list()) == ("data", expected)
        assert got.dtype == pl.String


def test_slices_are_encoded_as_they_are() -> None:
    rows = FRAME.to_struct("data")
    for part in (rows[1:], rows[2:], rows[:1], rows.gather([2, 1]), rows.shift(1)[1:]):
        frame = part.to_frame()
        packed = frame.select(rfx.encode("data", "msgpack"))
        got = packed.select(rfx.decode("data", "msgpack", SCHEMA))
        assert_frame_equal(got, frame)


def test_categories_without_values_are_encoded() -> None:
    column = pl.DataFrame({"kind": pl.Series([None, None], dtype=pl.Categorical)})
    got = column.select(rfx.encode(pl.struct("kind"), "json")).to_series()
    assert got.to_list() == ["{}", "{}"]


def test_columns_of_nulls_are_encoded() -> None:
    frame = pl.DataFrame({"a": [None, None], "b": [[None], []], "c": [{"x": None}, None]})
    got = frame.select(rfx.encode(pl.struct(pl.all()), "json")).to_series()
    assert got.to_list() == ['{"b":[null],"c":{"x":null}}', '{"b":[]}']


def test_what_has_no_form_is_refused_by_the_planner() -> None:
    if not hasattr(pl, "Float16"):
        pytest.skip("this Polars has no dtype that payloads do not have")
    odd = pl.LazyFrame({"n": [1]}).select(pl.struct(pl.col("n").cast(pl.Float16)).alias("data"))
    with pytest.raises(ComputeError, match="SchemaError"):
        odd.select(rfx.encode("data", "json")).collect_schema()


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_entry_ids_sort_as_redis_sorts_them(run: Any) -> None:
    ids = ["10-0", "9-10", None, "9-9", "18446744073709551615-18446744073709551615", "0-0"]
    frame = pl.LazyFrame({"_id": ids})
    parts = rfx.entry_id("_id")
    query = frame.with_columns(parts.alias("parts"))
    assert query.collect_schema()["parts"] == pl.Struct({"ms": pl.UInt64, "seq": pl.UInt64})
    got = run(query)
    assert got["parts"].to_list()[:3] == [{"ms": 10, "seq": 0}, {"ms": 9, "seq": 10}, None]
    ordered = run(frame.drop_nulls().sort(parts))["_id"].to_list()
    assert ordered == ["0-0", "9-9", "9-10", "10-0", ids[4]]


def test_what_is_no_entry_id_raises_with_its_row_or_is_null() -> None:
    frame = pl.DataFrame({"_id": ["1-0", "1-", "x", "1-18446744073709551616", None]})
    with pytest.raises(ComputeError, match=r'DecodeError: entry ID "1-" is malformed.*row: 1'):
        frame.select(rfx.entry_id("_id"))
    got = frame.select(rfx.entry_id("_id", on_error="null")).to_series().to_list()
    assert got == [{"ms": 1, "seq": 0}, None, None, None, None]
    with pytest.raises(ValueError, match="on_error must be"):
        rfx.entry_id("_id", on_error="skip")  # type: ignore[arg-type]  # it is wrong
