"""OpenTelemetry: spans and metrics of reads, writes, settlements and handlers.

Needs the extra ``otel``: ``pip install 'redfloe[otel]'``. That is the API of OpenTelemetry; the SDK
that your program sets up says where spans and metrics go. Until `instrument` is called nothing is
observed, and costs nothing.
"""

from __future__ import annotations

import inspect
from functools import partial, wraps
from threading import RLock
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Link, TracerProvider

from redfloe import _beside, _calling, _core
from redfloe._batch import AsyncBatch, Batch
from redfloe._consuming import dead_letters
from redfloe._consuming.handling import InEventLoop, InLoop
from redfloe._consuming.sessions import Sessions
from redfloe._reading import read, scan
from redfloe._reading.batches import AsyncBatchIterator, BatchIterator
from redfloe._telemetry.carrying import beside_columns, beside_pairs, links_of
from redfloe._telemetry.failures import CONTEXT, OPERATION, forget
from redfloe._telemetry.operations import (
    Acknowledge,
    Attributes,
    Finish,
    GiveBack,
    Handle,
    Operation,
    Process,
    PutAside,
    PutAsideByLoop,
    Receive,
    Send,
    Settle,
    Telemetry,
    at,
    of,
)
from redfloe._telemetry.producing import Create, Flush
from redfloe._writing import sending
from redfloe._writing.async_producer import AsyncStreamProducer
from redfloe._writing.producer import StreamProducer

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from redfloe._arguments import Request
    from redfloe._core import RedisConnection
    from redfloe._rows import Source
    from redfloe._write_arguments import Write

__all__ = ["instrument", "links", "uninstrument"]


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    trace_context: bool = False,
) -> None:
    """Observe all that redfloe does in this process, from now on.

    What a tracer, a meter or their processors and exporters raise changes no operation: the logger
    ``redfloe.telemetry`` has a warning, once a kind, and the rest goes on.

    Names and attributes are those of OpenTelemetry's conventions for messaging systems; the guide
    has a table of them. Called again, it starts again with its new arguments: nothing is observed
    twice.

    Parameters
    ----------
    tracer_provider : opentelemetry.trace.TracerProvider, optional
        Makes the tracer; by default the global one.
    meter_provider : opentelemetry.metrics.MeterProvider, optional
        Makes the meter; by default the global one.
    trace_context : bool, default False
        Have writers add the context of their span to each entry, as the fields ``traceparent`` and
        ``tracestate`` of W3C Trace Context, and each `StreamConsumer` and `StreamProcessor` that
        begins take them out again: its frames do not have them, and the spans of its handlers are
        linked to the spans that the entries come from.

    Raises
    ------
    TypeError
        A provider is none.

    Examples
    --------
    >>> import redfloe
    >>> from opentelemetry.sdk.trace import TracerProvider
    >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    >>> from redfloe import telemetry
    >>> exporter, provider = InMemorySpanExporter(), TracerProvider()
    >>> provider.add_span_processor(SimpleSpanProcessor(exporter))
    >>> telemetry.instrument(tracer_provider=provider)
    >>> df = redfloe.read_stream(url, "events")
    >>> telemetry.uninstrument()
    >>> for span in exporter.get_finished_spans():
    ...     print(span.name, span.attributes["messaging.batch.message_count"])
    receive events 2
    """
    providers: tuple[tuple[str, object, type], ...] = (
        ("tracer_provider", tracer_provider, TracerProvider),
        ("meter_provider", meter_provider, MeterProvider),
    )
    for name, provider, kind in providers:
        if provider is not None and not isinstance(provider, kind):
            msg = f"{name} must be a {kind.__name__}, not {type(provider).__name__}"
            raise TypeError(msg)
    made = Telemetry(tracer_provider, meter_provider, trace_context=bool(trace_context))
    with _LOCK:
        uninstrument()
        forget()
        for owner, name, replacement in _replacements(made):
            _ORIGINALS.append((owner, name, vars(owner)[name]))
            setattr(owner, name, replacement)
        _beside.wanted = made.carries


def uninstrument() -> None:
    """Observe nothing any more; what is under way is observed to its end. Does no harm twice.

    A `StreamConsumer` or `StreamProcessor` that has begun while `trace_context` was on still takes
    the fields out of its frames.
    """
    with _LOCK:
        _beside.wanted = False
        while _ORIGINALS:
            owner, name, original = _ORIGINALS.pop()
            setattr(owner, name, original)


def links(batch: Batch | AsyncBatch) -> list[Link]:
    """Give links to the spans that a batch's entries come from, for a span of your own.

    For a loop over a `StreamConsumer`; `StreamConsumer.run` makes a span for its handler.

    Parameters
    ----------
    batch : Batch or AsyncBatch
        Of a consumer that has begun after ``instrument(trace_context=True)``.

    Returns
    -------
    list of opentelemetry.trace.Link
        One for each span, 128 at most.

    Examples
    --------
    >>> import redfloe
    >>> from redfloe import telemetry
    >>> with redfloe.StreamConsumer(
    ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
    ... ) as consumer:
    ...     for batch in consumer:
    ...         print(telemetry.links(batch))  # nobody wrote a context
    []
    """
    return links_of(batch._source)


#: What was replaced, while it is: the owner, the name, and what was there before.
_ORIGINALS: list[tuple[Any, str, Any]] = []

_LOCK = RLock()


class _Point(NamedTuple):
    """Where an operation happens: a function or method, which each call looks up anew."""

    owner: Any
    name: str
    #: Given the telemetry and the arguments of a call, says what operation it is, if it is one.
    begin: Callable[..., Operation | None]


def _replacements(telemetry: Telemetry) -> list[tuple[Any, str, Any]]:
    """List what to replace by what."""
    found = [
        (point.owner, point.name, _observed(point, partial(point.begin, telemetry)))
        for point in _POINTS
    ]
    if telemetry.carries:
        found += [
            (StreamProducer, "_pairs", _carrying_pairs(StreamProducer._pairs)),
            (StreamProducer, "_frame", _carrying_frame(StreamProducer._frame)),
        ]
    return found


def _observed(point: _Point, begin: Callable[..., Operation | None]) -> Callable[..., Any]:
    """Give the same function, of which each call is an operation."""
    function: Callable[..., Any] = vars(point.owner)[point.name]
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def observed_async(*given: Any, **options: Any) -> Any:
            operation = None
            with OPERATION:
                operation = begin(*given, **options)
            if operation is None:
                return await function(*given, **options)
            with operation:
                result = await function(*operation.arguments(given), **options)
                with OPERATION:
                    operation.came_to(result)
            return result

        return observed_async

    @wraps(function)
    def observed(*given: Any, **options: Any) -> Any:
        operation = None
        with OPERATION:
            operation = begin(*given, **options)
        if operation is None:
            return function(*given, **options)
        with operation:
            result = function(*operation.arguments(given), **options)
            with OPERATION:
                operation.came_to(result)
        return result

    return observed


def _carrying_pairs(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def pairs(producer: StreamProducer, fields: object) -> list[tuple[bytes, bytes]]:
        given: list[tuple[bytes, bytes]] = function(producer, fields)
        with CONTEXT:
            return beside_pairs(given, trace.get_current_span())
        return given

    return pairs


def _carrying_frame(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def frame(producer: StreamProducer, df: object, key: bytes | None) -> pl.DataFrame:
        given: pl.DataFrame = function(producer, df, key)
        if producer._payload is not None and not producer._beside:
            return given  # it began without, and would put them into the documents
        with CONTEXT:
            return beside_columns(given, producer._request, trace.get_current_span())
        return given

    return frame


# What operation a call is


def _of_reader(
    telemetry: Telemetry, reader: BatchIterator | AsyncBatchIterator | Sessions
) -> Operation:
    return Receive(telemetry, of(reader._connection, reader._request))


def _of_scan(telemetry: Telemetry, source: scan._Scan, _reader: _core.BatchReader) -> Operation:
    return Receive(telemetry, of(source._url, source._request()))


def _of_read(telemetry: Telemetry, url: RedisConnection, prepared: read._Prepared) -> Operation:
    return Receive(telemetry, of(url, prepared.request))


def _of_request(telemetry: Telemetry, url: RedisConnection, request: Request) -> Operation:
    return Receive(telemetry, of(url, request))


def _of_write(
    telemetry: Telemetry, url: RedisConnection, write: Write, *others: object
) -> Operation:
    outcomes: Any = others[0] if isinstance(others[0], list) else None
    return Send(telemetry, url, write, outcomes)


def _of_entry(
    telemetry: Telemetry,
    producer: StreamProducer | AsyncStreamProducer,
    *_: object,
    stream: object = None,
    **__: object,
) -> Operation:
    return Create(telemetry, _inner(producer), stream)


def _of_flush(
    telemetry: Telemetry,
    producer: StreamProducer | AsyncStreamProducer,
    *_: object,
    **__: object,
) -> Operation | None:
    inner = _inner(producer)
    # One that has failed, and said so, sends no more.
    return None if inner._closed or inner._reported else Flush(telemetry, inner)


def _inner(producer: StreamProducer | AsyncStreamProducer) -> StreamProducer:
    return producer._producer if isinstance(producer, AsyncStreamProducer) else producer


def _of_handler(telemetry: Telemetry, face: Any, batch: Any) -> Operation | None:
    if getattr(face._handler, "observes_calls", False):
        return None
    source: Source = batch._source
    return Process(telemetry, source, len(batch), is_alone=source.request["batch_size"] == 1)


def _of_messages(telemetry: Telemetry, call: Any, item: Any) -> Operation:
    source: Source = item.batch.batch._source
    if hasattr(item, "rows"):
        return Handle(telemetry, source.part(item.rows), call.name, len(item))
    return Handle(telemetry, source.part([item.row]), call.name, item.id)


def _of_acknowledgement(
    telemetry: Telemetry, url: RedisConnection, stream: bytes, group: bytes, _ids: object
) -> Operation:
    return Acknowledge(telemetry, at(url, stream, group))


def _of_batch(
    settle: type[Settle], telemetry: Telemetry, batch: Batch | AsyncBatch, *_: object, **__: object
) -> Operation:
    return settle(telemetry, _where(batch))


def _where(batch: Batch | AsyncBatch) -> Attributes:
    return of(batch._source.connection, batch._source.request)


def _of_failed(
    telemetry: Telemetry, _face: object, batch: Batch | AsyncBatch, _reason: str
) -> Operation:
    return PutAsideByLoop(telemetry, batch)


def _of_end(
    telemetry: Telemetry,
    consumer: Sessions,
    reader: _core.BatchReader | _core.AsyncBatchReader,
    success: bool,
) -> Operation | None:
    if not success or consumer._request["group"] is None:
        return None
    return Finish(telemetry, of(consumer._connection, consumer._request), reader)


#: All of them, each beside its twin.
_POINTS = (
    _Point(read, "_read", _of_read),
    _Point(read, "_read_async", _of_read),
    _Point(read, "_read_with_bar", _of_request),
    _Point(read, "_read_with_bar_async", _of_request),
    _Point(dead_letters, "_read", _of_request),
    _Point(dead_letters, "_read_async", _of_request),
    _Point(scan._Scan, "_next", _of_scan),
    _Point(BatchIterator, "_offer", _of_reader),
    _Point(AsyncBatchIterator, "_offer", _of_reader),
    _Point(Sessions, "_offer", _of_reader),
    _Point(Sessions, "_offer_async", _of_reader),
    _Point(Sessions, "_finish", _of_end),
    _Point(Sessions, "_finish_async", _of_end),
    _Point(InLoop, "call", _of_handler),
    _Point(InEventLoop, "call", _of_handler),
    _Point(_calling, "call_and_await", _of_messages),
    _Point(_calling, "call_in_thread", _of_messages),
    _Point(InLoop, "fail", _of_failed),
    _Point(InEventLoop, "fail", _of_failed),
    *(
        _Point(batch, method, partial(_of_batch, settle))
        for method, settle in (("ack", Acknowledge), ("nack", GiveBack), ("fail", PutAside))
        for batch in (Batch, AsyncBatch)
    ),
    _Point(read, "_acknowledge", _of_acknowledgement),
    _Point(read, "_acknowledge_async", _of_acknowledgement),
    _Point(sending, "send", _of_write),
    _Point(sending, "send_async", _of_write),
    *(
        _Point(producer, method, _of_entry)
        for method in ("send", "send_frame")
        for producer in (StreamProducer, AsyncStreamProducer)
    ),
    _Point(StreamProducer, "_write", _of_entry),
    *(
        _Point(producer, method, _of_flush)
        for method in ("flush", "_close")
        for producer in (StreamProducer, AsyncStreamProducer)
    ),
)
