"""A frame of which most columns are in one document of each entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgpack
import polars as pl

PAYLOAD: dict[str, Any] = {"payload": "data"}
PACKED: dict[str, Any] = {**PAYLOAD, "payload_format": "msgpack"}
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


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


def to_msgpack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, datetime=True)
    return packed


def from_msgpack(document: bytes) -> Any:
    return msgpack.unpackb(document, timestamp=3)


#: The options of a format, and how the library that everybody uses writes and reads it.
FORMATS: list[tuple[dict[str, Any], Callable[[object], bytes], Callable[[bytes], Any]]] = [
    (PAYLOAD, to_json, json.loads),
    (PACKED, to_msgpack, from_msgpack),
]
