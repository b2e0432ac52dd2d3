"""A frame of which most columns are in one JSON document of each entry."""

from __future__ import annotations

from typing import Any

import polars as pl

PAYLOAD: dict[str, Any] = {"payload": "data"}
BARE: dict[str, Any] = {"include_id": False, "include_timestamp": False}

SCHEMA: dict[str, Any] = {
    "src": pl.String,
    "sku": pl.String,
    "total": pl.Float64,
    "qty": pl.Int64,
    "tags": pl.List(pl.String),
    "ship": pl.Struct({"city": pl.String, "zip": pl.String}),
    "gift": pl.Boolean,
}
FRAME = pl.DataFrame(
    {
        "src": ["web"] * 3,
        "sku": ["a-1", "a-2", "b-7"],
        "total": [19.5, 3.0, 7.25],
        "qty": [2, 1, 4],
        "tags": [["new"], [], None],
        "ship": [{"city": "Köln", "zip": None}, None, {"city": "Ulm", "zip": "01234"}],
        "gift": [None, True, None],
    },
    schema=SCHEMA,
)
