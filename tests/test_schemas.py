"""Schemas as they may be written: Polars dtypes, Python's types, dicts and lists of them."""

from __future__ import annotations

import datetime as dt
import enum
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import SchemaError, read_stream, scan_stream
from redfloe._schema import as_schema
from support.clients import quick
from support.server import Server
from support.streams import add


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("written", "dtype"),
    [
        (int, pl.Int64),
        (float, pl.Float64),
        (bool, pl.Boolean),
        (str, pl.String),
        (bytes, pl.Binary),
        (dt.date, pl.Date),
        (dt.datetime, pl.Datetime("us")),
        (dt.time, pl.Time),
        (dt.timedelta, pl.Duration("us")),
        (Colour, pl.Enum(["red", "blue"])),
        ([int], pl.List(pl.Int64)),
        (list[int], pl.List(pl.Int64)),
        ([pl.Int8], pl.List(pl.Int8)),
        ([[str]], pl.List(pl.List(pl.String))),
        (list[list[str]], pl.List(pl.List(pl.String))),
        ({"a": int}, pl.Struct({"a": pl.Int64})),
        (OrderedDict(a=pl.Int8, b=[float]), pl.Struct({"a": pl.Int8, "b": pl.List(pl.Float64)})),
        (pl.Schema({"a": pl.Int8}), pl.Struct({"a": pl.Int8})),
        (
            [{"sku": str, "sizes": [pl.Decimal(5, 1)], "at": {"x": float}}],
            pl.List(
                pl.Struct(
                    {
                        "sku": pl.String,
                        "sizes": pl.List(pl.Decimal(5, 1)),
                        "at": pl.Struct({"x": pl.Float64}),
                    }
                )
            ),
        ),
        (pl.List(int), pl.List(pl.Int64)),
    ],
    ids=str,
)
def test_what_stands_for_a_dtype(written: Any, dtype: Any) -> None:
    assert dict(as_schema({"x": written})) == {"x": dtype}
    assert dict(as_schema([("x", written)])) == {"x": dtype}


@pytest.mark.parametrize(
    ("written", "error", "match"),
    [
        (Decimal, SchemaError, r"'x' has the Python type Decimal.*pl\.Decimal\(10, 2\)"),
        (list, SchemaError, "type list"),
        (dict, SchemaError, "type dict"),
        (object, SchemaError, "type object"),
        (type(None), SchemaError, "type NoneType"),
        ([Decimal], SchemaError, "'x' has the Python type Decimal"),
        ({"a": {"b": dict}}, SchemaError, r"'x\.a\.b' has the Python type dict"),
        ([], TypeError, "list of 0 dtypes"),
        ([int, str], TypeError, "list of 2 dtypes"),
        ({"a": 5}, TypeError, r"'x\.a' must have a dtype"),
        ({5: int}, TypeError, "the names inside the field 'x' must be str"),
        ({"a\0": int}, SchemaError, "NUL"),
        ({"a": pl.Object}, SchemaError, r"'x\.a' has the dtype Object"),
        ("int", TypeError, "must have a dtype"),
        (dict[str, int], TypeError, "must have a dtype"),
        (int | None, TypeError, "must have a dtype"),
        ((int,), TypeError, "must have a dtype"),
    ],
    ids=str,
)
def test_what_has_no_one_meaning_is_refused(
    stream: str, written: Any, error: type[Exception], match: str
) -> None:
    for read in (read_stream, scan_stream):
        with pytest.raises(error, match=match):
            read(quick("redis://127.0.0.1:1"), stream, {"x": written})
        with pytest.raises(error, match=match):
            read(quick("redis://127.0.0.1:1"), stream, schema_overrides={"x": written})


def test_an_order_is_read_by_plain_python(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    order = {"user": "ada", "total": "19.5", "items": '[{"sku": "A-1", "n": 2}]', "colour": "red"}
    add(client, stream, [("1-0", order)])
    schema: dict[str, Any] = {
        "user": str,
        "total": float,
        "items": [{"sku": str, "n": int}],
        "colour": Colour,
    }
    df = read_stream(any_server.url, stream, schema, include_id=False, include_timestamp=False)
    assert df.rows() == [("ada", 19.5, [{"sku": "A-1", "n": 2}], "red")]
    lf = scan_stream(any_server.url, stream, schema_overrides={"total": float})
    assert lf.select("total").collect().item() == 19.5
