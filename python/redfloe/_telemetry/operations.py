"""What is told of an operation: a span, how long it took, and how many entries it was about.

Names, kinds and attributes are those of OpenTelemetry's conventions for messaging systems:
https://opentelemetry.io/docs/specs/semconv/messaging/
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Self

from opentelemetry import context as contexts
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanKind, Status, StatusCode

from redfloe import _core
from redfloe._consuming.handling import can_be_printed
from redfloe._consuming.retry import reason_of
from redfloe._telemetry.carrying import links_of, with_context
from redfloe._telemetry.failures import CONTEXT, METRICS, SPAN_END, SPAN_START
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextvars import Token
    from types import TracebackType

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from redfloe._arguments import Request
    from redfloe._batch import AsyncBatch, Batch
    from redfloe._core import RedisConnection
    from redfloe._rows import Source
    from redfloe._write_arguments import Write

_SCHEMA = "https://opentelemetry.io/schemas/1.44.0"

#: Seconds, as the conventions advise.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_TYPE = "messaging.operation.type"

Attributes = dict[str, str | int]


class Telemetry:
    """Where spans and measurements go."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        *,
        trace_context: bool,
    ) -> None:
        version = _core.__version__
        self.carries = trace_context
        self.tracer = trace.get_tracer("redfloe", version, tracer_provider, _SCHEMA)
        meter = metrics.get_meter("redfloe", version, meter_provider, _SCHEMA)
        self.operation_duration = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Duration of messaging operation initiated by a producer or consumer client.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.process_duration = meter.create_histogram(
            "messaging.process.duration",
            "s",
            "Duration of processing operation.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self.sent = meter.create_counter(
            "messaging.client.sent.messages",
            "{message}",
            "Number of messages producer attempted to send to the broker.",
        )
        self.consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )


def at(connection: RedisConnection, stream: object, group: object = None) -> Attributes:
    """Give the attributes that say where; what cannot be told is left out."""
    attributes: Attributes = {"messaging.system": "redis"}
    for key, name in ("destination", stream), ("consumer.group", group):
        if isinstance(name, bytes | str):
            text = readable(name) if isinstance(name, bytes) else name
            attributes[f"messaging.{key}.name"] = text
    with suppress(ValueError, TypeError):  # no URL, which connecting reports
        address, port = _core.server_address(connection)
        attributes["server.address"] = address
        if port is not None:
            attributes["server.port"] = port
    return attributes


def of(connection: RedisConnection, request: Request) -> Attributes:
    """Give the same for what is read."""
    group = request["group"]
    stream = request["stream"] if request["many"] is None else None
    return at(connection, stream, None if group is None else group["group"])


class Operation:
    """An operation, from the entry of its block to its end."""

    name: ClassVar[str]
    operation_type: ClassVar[str]
    kind: SpanKind = SpanKind.CLIENT
    #: Whether what happens meanwhile is a part of it.
    is_current: ClassVar[bool] = False
    #: Whether it turns out at its end only that there was an operation at all.
    may_be_nothing: ClassVar[bool] = False

    def __init__(
        self,
        telemetry: Telemetry,
        attributes: Attributes,
        *,
        parent: Context | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        self.telemetry = telemetry
        self.attributes = attributes
        attributes["messaging.operation.name"] = self.name
        attributes[_TYPE] = self.operation_type
        self._parent, self._links = parent, links
        self._token: Token[Context] | None = None
        #: Of no span, until it has started.
        self.span: Span = trace.INVALID_SPAN
        self._context: Context | None = parent
        #: How many entries it was about, where that may be any number.
        self.entries: int | None = None
        #: What it came to, where that was not raised.
        self.error: BaseException | None = None

    def __enter__(self) -> Self:
        self._time, self._clock = time.time_ns(), time.perf_counter_ns()
        if not self.may_be_nothing:
            self._start_span()
        return self

    def _start_span(self) -> None:
        destination = self.attributes.get("messaging.destination.name")
        with SPAN_START:
            span = self.telemetry.tracer.start_span(
                self.name if destination is None else f"{self.name} {destination}",
                self._parent,
                self.kind,
                self.attributes,
                self._links,
                self._time,
            )
            self._context = trace.set_span_in_context(span, self._parent)
            self.span = span
            if self.is_current:
                self._token = contexts.attach(self._context)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._token is not None:
            with SPAN_END:
                contexts.detach(self._token)
        error = self.error if exc is None else exc
        self.error = None  # whose traceback may hold this
        nanoseconds = time.perf_counter_ns() - self._clock
        if self.may_be_nothing:
            if error is None and not self.entries:
                return
            self._start_span()
        failure = error if error is not None and self.is_failure(error) else None
        if failure is not None:
            self.attributes["error.type"] = type(failure).__qualname__
        with SPAN_END:
            self._describe(failure)
        with SPAN_END:
            self.span.end(self._time + nanoseconds)
        with METRICS:
            self.measure(nanoseconds / 1e9)

    def _describe(self, error: BaseException | None) -> None:
        if self.entries is not None:
            self.span.set_attribute("messaging.batch.message_count", self.entries)
        if error is None:
            return
        self.span.set_attribute("error.type", type(error).__qualname__)
        self.span.set_status(Status(StatusCode.ERROR, reason_of(error)))
        if can_be_printed(error):
            self.span.record_exception(error)

    def measure(self, seconds: float) -> None:
        """Record how long it took, and what else there is to be counted."""
        self.telemetry.operation_duration.record(seconds, self.attributes, self._context)

    @property
    def counted_by(self) -> Attributes:
        """The attributes of the metrics whose name says of which type the operation is."""
        return {key: value for key, value in self.attributes.items() if key != _TYPE}

    def arguments(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Give what the observed function is called with."""
        return given

    def came_to(self, result: Any) -> None:
        """Record what the observed function returned."""

    def is_failure(self, error: BaseException) -> bool:  # noqa: ARG002 - of some it depends
        """Say whether an operation that ended so has failed."""
        return True


class Receive(Operation):
    """A read, or the wait for a batch."""

    name = operation_type = "receive"

    def came_to(self, result: Any) -> None:
        """Count the rows, and link to where they come from."""
        rows = getattr(result, "value", result)  # of an offer
        self.entries = 0 if rows is None else len(rows)
        source: Source | None = getattr(rows, "_source", None)
        if source is not None:
            with CONTEXT:
                for link in links_of(source) if self.span.is_recording() else ():
                    self.span.add_link(link.context)

    def is_failure(self, error: BaseException) -> bool:
        """Let a wait be given up."""
        return isinstance(error, Exception)

    def measure(self, seconds: float) -> None:
        """Count what was delivered too."""
        with METRICS:
            super().measure(seconds)
        if self.entries:
            self.telemetry.consumed.add(self.entries, self.counted_by, self._context)


class Process(Operation):
    """A call of a handler."""

    name = operation_type = "process"
    kind = SpanKind.CONSUMER
    is_current = True

    def __init__(
        self, telemetry: Telemetry, source: Source, entries: int | None, *, is_alone: bool
    ) -> None:
        links: list[Link] = []
        parent = None
        with CONTEXT:
            links = links_of(source)
        if is_alone and links and not trace.get_current_span().get_span_context().is_valid:
            parent = trace.set_span_in_context(NonRecordingSpan(links[0].context))
        super().__init__(
            telemetry, of(source.connection, source.request), parent=parent, links=links
        )
        self.entries = entries

    def came_to(self, result: Exception | None) -> None:
        """Record what the handler raised."""
        self.error = result

    def measure(self, seconds: float) -> None:
        """Record it as processing."""
        self.telemetry.process_duration.record(seconds, self.counted_by, self._context)


class Handle(Process):
    """A call of a handler of messages, with one of them or with a number of them as columns."""

    def __init__(self, telemetry: Telemetry, source: Source, name: str, of: str | int) -> None:
        alone = isinstance(of, str)
        super().__init__(telemetry, source, None if isinstance(of, str) else of, is_alone=alone)
        #: Of the span only: metrics are of few series.
        self._details = {"code.function.name": name}
        if isinstance(of, str):
            self._details["messaging.message.id"] = of

    def came_to(self, result: Any) -> None:
        """Leave out what the handler returned: what it raises is raised."""

    def _describe(self, error: BaseException | None) -> None:
        for key, value in self._details.items():
            self.span.set_attribute(key, value)
        super()._describe(error)


class Settle(Operation):
    """What is done to entries that were received."""

    operation_type = "settle"

    def came_to(self, result: int) -> None:
        """Count the entries."""
        self.entries = result


class Acknowledge(Settle):
    """Entries are done with."""

    name = "ack"


class GiveBack(Settle):
    """Entries are to be delivered again."""

    name = "nack"


class PutAside(Settle):
    """Entries go to the dead-letter stream."""

    name = "dead_letter"


class PutAsideByLoop(PutAside):
    """The same, by `run`, which has no number but whether it was stopped."""

    def __init__(self, telemetry: Telemetry, batch: Batch | AsyncBatch) -> None:
        super().__init__(telemetry, of(batch._source.connection, batch._source.request))
        self._of_batch = len(batch)

    def came_to(self, result: int) -> None:
        """Count the entries."""
        self.entries = 0 if result else self._of_batch


class Finish(Acknowledge):
    """The end of a worker's block, which acknowledges the last batch, if one is left."""

    may_be_nothing = True

    def __init__(
        self,
        telemetry: Telemetry,
        attributes: Attributes,
        reader: _core.BatchReader | _core.AsyncBatchReader,
    ) -> None:
        super().__init__(telemetry, attributes)
        self._reader = reader
        self._before = reader.stats.acknowledged

    def came_to(self, result: int | None) -> None:  # noqa: ARG002 - the reader says more
        """Count the entries."""
        self.entries = self._reader.stats.acknowledged - self._before


class Send(Operation):
    """A write of a frame."""

    name = operation_type = "send"

    def __init__(
        self,
        telemetry: Telemetry,
        url: RedisConnection,
        write: Write,
        outcomes: list[_core.Outcome] | None,
    ) -> None:
        super().__init__(telemetry, at(url, write.request["stream"]))
        self._outcomes = outcomes
        if telemetry.carries:
            self.kind = SpanKind.PRODUCER

    def arguments(self, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Have the entries carry the context of this very span."""
        if not self.telemetry.carries:
            return given
        url, write, *others = given
        with CONTEXT:
            write = with_context(write, self.span)
        return url, write, *others

    def came_to(self, result: Any) -> None:
        """Take note of what became of the rows."""
        if self._outcomes is not None:
            outcome = self._outcomes[0]
            self.error = outcome.error
        else:
            outcome, interruption = result
            self.error = outcome.error if interruption is None else interruption
        self.entries = outcome.rows_written

    def measure(self, seconds: float) -> None:
        """Count what is in too."""
        with METRICS:
            super().measure(seconds)
        if self.entries:
            self.telemetry.sent.add(self.entries, self.counted_by, self._context)
