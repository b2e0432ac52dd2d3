"""Fields that carry a trace context beside what a program writes and reads.

`redfloe.telemetry` wants them. A worker then reads them beside what it was asked for, and takes
them out of its frames again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from redfloe._arguments import Request

#: As W3C Trace Context calls them.
FIELDS = ("traceparent", "tracestate")

#: Whether what begins now is to write and read them.
wanted = False


def with_fields(request: Request) -> Request:
    """Ask for the fields too, but for those that the caller names as well."""
    if not wanted:
        return request
    schema, overrides = request["schema"], request["schema_overrides"] or pl.Schema()
    metadata = (
        *(request["id_column"], request["timestamp_column"], request["sequence_column"]),
        *(request["stream_column"], request["rescue_column"]),
    )
    beside = [name for name in FIELDS if name not in {*metadata, *(schema or ()), *overrides}]
    # As bytes, whatever they hold is taken.
    more = dict.fromkeys(beside, pl.Binary())
    request = request.copy()
    request["beside"] = beside
    if schema is None:
        request["schema_overrides"] = pl.Schema({**overrides, **more})
    else:
        request["schema"] = pl.Schema({**schema, **more})
    return request


def take_out(frame: pl.DataFrame, request: Request) -> tuple[pl.DataFrame, pl.DataFrame | None]:
    """Give what was asked for, and the fields, where there are any."""
    if not request["beside"] and not wanted:
        return frame, None
    schema = frame.schema
    found = [name for name in FIELDS if schema.get(name) in (pl.String(), pl.Binary())]
    return frame.drop(request["beside"]), frame.select(found) if found else None
