"""Frames that tests write, and what a stream holds of them."""

from __future__ import annotations

from typing import Any

import polars as pl
import redis

import redfloe
from redfloe import OutcomeUnknownError, WriteError, read_stream
from support.versions import POLARS

ROWS = 6
FRAME = pl.DataFrame({"n": range(ROWS)})
OWN = FRAME.with_columns(id=pl.format("{}-0", pl.col("n") + 1))

#: What Polars generates for tests; it fails at Int128 in a Struct, so those are added by hand.
WRITABLE = [
    *(pl.String, pl.Binary, pl.Boolean, pl.Date, pl.Time, pl.Datetime, pl.Duration),
    *(pl.Int8, pl.Int16, pl.Int32, pl.Int64),
    *(pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64, pl.Float32, pl.Float64, pl.Decimal),
    *(pl.List, pl.Struct),
    # Polars 1.33 panics making Arrays of Decimals, and finds equal Arrays of Structs different.
    *((pl.Array,) if POLARS > (1, 33) else ()),
]


def entries(client: redis.Redis, stream: str) -> list[dict[bytes, bytes]]:
    """Give the fields of each entry."""
    found: Any = client.xrange(stream)
    return [fields for _, fields in found]


def ids(client: redis.Redis, stream: str) -> list[str]:
    """Give the IDs of the entries."""
    found: Any = client.xrange(stream)
    return [entry_id.decode() for entry_id, _ in found]


def read_back(url: str, stream: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Give what was written of a frame, without IDs."""
    return read_stream(url, stream, frame.schema, include_id=False, include_timestamp=False)


def stored(client: redis.Redis, stream: str) -> list[int]:
    """Give the rows that the stream holds, and check that XLEN says the same."""
    found: Any = client.xrange(stream)
    assert client.xlen(stream) == len(found)
    return [int(fields[b"n"]) for _, fields in found]


def check(error: redfloe.RedfloeError, client: redis.Redis, stream: str) -> None:
    """Compare what an error says with what the stream holds."""
    assert isinstance(error, WriteError | OutcomeUnknownError)
    found: Any = client.xrange(stream)
    there = {entry_id.decode(): int(fields[b"n"]) for entry_id, fields in found}
    assert error.ids is not None
    said = {entry_id: row for row, entry_id in enumerate(error.ids) if entry_id is not None}
    assert error.rows_written == len(said)
    assert said.items() <= there.items()
    rest = there.keys() - said.keys()
    unknown = error.unknown if isinstance(error, OutcomeUnknownError) else range(0)
    assert {there[entry_id] for entry_id in rest} <= {*unknown}
    assert error.row not in said.values()
