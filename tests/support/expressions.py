"""Frames of many dtypes, and what runs an expression on them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import polars as pl

import redfloe_expressions as rfx

#: Each dtype that payloads have.
SCHEMA: dict[str, Any] = {
    "text": pl.String,
    "bytes": pl.Binary,
    "flag": pl.Boolean,
    "i8": pl.Int8,
    "i64": pl.Int64,
    "i128": pl.Int128,
    "u64": pl.UInt64,
    "f32": pl.Float32,
    "f64": pl.Float64,
    "money": pl.Decimal(18, 2),
    "day": pl.Date,
    "clock": pl.Time,
    "local": pl.Datetime("ms"),
    "instant": pl.Datetime("us", "UTC"),
    "taken": pl.Duration("us"),
    "kind": pl.Categorical(),
    "level": pl.Enum(["low", "high"]),
    "tags": pl.List(pl.String),
    "pair": pl.Array(pl.Int16, 2),
    "nested": pl.Struct(
        {
            "levels": pl.List(pl.Enum(["low", "high"])),
            "deep": pl.List(pl.Struct({"big": pl.Int128, "cost": pl.Decimal(10, 1)})),
        }
    ),
}
ROW: dict[str, Any] = {
    "text": "Köln, a text that is not in its view",
    "bytes": b"\x00\xff",
    "flag": True,
    "i8": -128,
    "i64": 2**62,
    "i128": -(10**37),
    "u64": 2**64 - 1,
    "f32": 0.5,
    "f64": 0.1,
    "money": Decimal("19.50"),
    "day": date(2024, 2, 29),
    "clock": time(23, 59, 59, 999_999),
    "local": datetime(2024, 1, 1, 12, 0, 0, 5000),  # noqa: DTZ001 - without a zone
    "instant": datetime(2024, 1, 1, 12, 0, 0, 7, tzinfo=UTC),
    "taken": timedelta(seconds=-1.5),
    "kind": "web",
    "level": "high",
    "tags": ["a", None, ""],
    "pair": [1, None],
    "nested": {"levels": ["low", None], "deep": [{"big": 10**37, "cost": Decimal("0.5")}, None]},
}
OTHER: dict[str, Any] = {**ROW, "text": "", "kind": "app", "tags": [], "nested": None}
FRAME = pl.DataFrame([ROW, dict.fromkeys(ROW), OTHER], schema=SCHEMA)

#: How expressions are run.
RUNS: dict[str, Callable[[pl.LazyFrame], pl.DataFrame]] = {
    "in memory": lambda frame: frame.collect(),
    "streaming": lambda frame: frame.collect(engine="streaming"),
}

ORDER = {"sku": pl.String, "qty": pl.Int64}


def decoded(payloads: list[Any], dtype: Any = ORDER, **options: Any) -> list[Any]:
    """Give what JSON payloads become."""
    column = pl.Series("data", payloads, pl.String)
    expression = rfx.decode("data", "json", dtype, **options)
    return column.to_frame().select(expression)["data"].to_list()
