"""A trace context in the fields of entries, as W3C Trace Context writes it."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from redfloe._beside import FIELDS
from redfloe._telemetry.failures import CONTEXT

if TYPE_CHECKING:
    from redfloe._rows import Source
    from redfloe._write_arguments import Write, WriteRequest

_PROPAGATOR = TraceContextTextMapPropagator()

#: How many links a span has at most, as the SDK has it by default.
_MOST_LINKS = 128

#: How long a field may be that is looked at, as for OpenTelemetry's propagator.
_LONGEST = {"traceparent": 512, "tracestate": 8192}

#: A member of a `tracestate`. The propagator would log a warning for each that is none.
_MEMBER = re.compile(
    r"[ \t]*(?:[a-z][_0-9a-z*/-]{0,255}|[a-z0-9][_0-9a-z*/-]{0,240}@[a-z][_0-9a-z*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e][ \t]*"
)
_MOST_MEMBERS = 32


def written(span: Span) -> dict[str, str]:
    """Give the fields that carry a span's context; none where nobody traces."""
    carrier: dict[str, str] = {}
    with CONTEXT:
        _PROPAGATOR.inject(carrier, trace.set_span_in_context(span))
    return carrier


def beside_pairs(pairs: list[tuple[bytes, bytes]], span: Span) -> list[tuple[bytes, bytes]]:
    """Add the fields to those of an entry, unless its caller gave it a context."""
    if not pairs or any(name == FIELDS[0].encode() for name, _ in pairs):
        return pairs
    return pairs + [(name.encode(), text.encode()) for name, text in written(span).items()]


def beside_columns(frame: pl.DataFrame, request: WriteRequest, span: Span) -> pl.DataFrame:
    """Add columns of the fields to a frame, unless its caller gave it such a one."""
    names = frame.columns if request["fields"] is None else request["fields"]
    if not names or any(name in frame.columns for name in FIELDS):
        return frame
    # A row without a value is refused, or left out, and stays one.
    has_value = pl.any_horizontal(pl.col(names).is_not_null())
    texts = request["null_text"], *map(request["null_text_by_field"].get, names)
    if request["payload"] is not None or any(text is not None for text in texts):
        has_value = pl.lit(value=True)
    return frame.with_columns(
        pl.when(has_value).then(pl.lit(text)).alias(name) for name, text in written(span).items()
    )


def with_context(write: Write, span: Span) -> Write:
    """Have a write's entries carry a span's context."""
    frame = beside_columns(write.frame, write.request, span)
    added = frame.columns[write.frame.width :]
    if not added:
        return write
    request = write.request.copy()
    request["beside"] = added
    if request["fields"] is not None:
        request["fields"] = [*request["fields"], *added]
    return replace(write, frame=frame, request=request)


def links_of(source: Source) -> list[Link]:
    """Give a link to each of the contexts that entries carried."""
    frame = source.beside
    if frame is None or FIELDS[0] not in frame.columns:
        return []
    frame = frame.drop_nulls(FIELDS[0]).unique(maintain_order=True)
    found: dict[tuple[int, int], Link] = {}
    for row in frame.iter_rows(named=True):
        context = _read(_text(row, "traceparent"), _text(row, "tracestate"))
        if context is not None:
            found.setdefault((context.trace_id, context.span_id), Link(context))
        if len(found) == _MOST_LINKS:
            break
    return [*found.values()]


def _text(row: dict[str, Any], name: str) -> str:
    """Give a part of a context, if it may be one: anybody may have written it."""
    value = row.get(name)
    if isinstance(value, bytes | str) and len(value) <= _LONGEST[name]:
        with suppress(UnicodeDecodeError):
            return value.decode("ascii") if isinstance(value, bytes) else value
    return ""


def _read(traceparent: str, tracestate: str) -> SpanContext | None:
    """Give the context that these fields are, if they are one."""
    members = [member for member in tracestate.split(",") if member.strip(" \t")]
    carrier = {"traceparent": traceparent}
    if len(members) <= _MOST_MEMBERS and all(map(_MEMBER.fullmatch, members)):
        carrier["tracestate"] = ",".join(members)
    context = trace.get_current_span(_PROPAGATOR.extract(carrier)).get_span_context()
    return context if context.is_valid else None
