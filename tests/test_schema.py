"""Schemas are checked once: what is remembered must be what was asked for."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from redfloe import SchemaError
from redfloe._schema import as_schema

#: Dtypes that Polars calls equal although they are not the same.
EQUAL = [
    (pl.Datetime, pl.Datetime("ms", "UTC")),
    (pl.Duration, pl.Duration("ns")),
    (pl.Decimal, pl.Decimal(10, 2)),
    (pl.List(pl.Datetime), pl.List(pl.Datetime("ms"))),
    (pl.Struct({"at": pl.Datetime}), pl.Struct({"at": pl.Datetime("ns")})),
]


@pytest.mark.parametrize("pair", [*EQUAL, *(pair[::-1] for pair in EQUAL)])
def test_dtypes_that_are_equal_are_told_apart(pair: tuple[Any, Any]) -> None:
    for dtype in pair:
        assert as_schema({"x": dtype}) == pl.DataFrame(schema={"x": dtype}).schema


def test_a_schema_that_was_changed_is_another() -> None:
    schema: dict[str, Any] = {"x": pl.Int64}
    assert dict(as_schema(schema)) == {"x": pl.Int64}
    schema["x"] = pl.String
    assert dict(as_schema(schema)) == {"x": pl.String}
    schema["y"] = pl.Int8
    assert [*as_schema(schema)] == ["x", "y"]
    assert [*as_schema(dict(reversed(schema.items())))] == ["y", "x"]


def test_what_is_refused_is_refused_again() -> None:
    for _ in range(2):
        with pytest.raises(SchemaError, match="names the field 'x' twice"):
            as_schema([("x", pl.Int64), ("x", pl.String)])


def test_a_schema_is_not_checked_twice() -> None:
    assert as_schema({"x": pl.Int64}) is as_schema(pl.Schema({"x": pl.Int64()}))
    assert as_schema({"x": pl.Int64}) is as_schema({"x": pl.Int64})


def test_a_dict_inside_a_schema_that_was_changed_is_another() -> None:
    schema: dict[str, Any] = {"x": {"a": pl.Int64}, "y": [pl.Int8]}
    assert as_schema(schema) == {"x": pl.Struct({"a": pl.Int64}), "y": pl.List(pl.Int8)}
    schema["x"]["b"] = pl.String
    schema["y"][0] = pl.Int16
    changed = {"x": pl.Struct({"a": pl.Int64, "b": pl.String}), "y": pl.List(pl.Int16)}
    assert as_schema(schema) == changed


def test_dtypes_that_are_gone_are_not_taken_for_new_ones() -> None:
    units: list[Any] = ["ms", "us", "ns"]
    for unit in units * 100:  # where each is made, the last one's memory is free
        assert as_schema({"x": pl.Datetime(unit)}) == {"x": pl.Datetime(unit)}
