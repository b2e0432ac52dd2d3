"""Operations of producers, which take entries now and send them later."""

from __future__ import annotations

from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, ClassVar

from opentelemetry.trace import SpanKind

from redfloe._telemetry.failures import METRICS
from redfloe._telemetry.operations import Operation, Telemetry, at

if TYPE_CHECKING:
    from types import TracebackType

    from redfloe._writing.producer import StreamProducer


class _Counted:
    """How many of a producer's rows have been counted for whom."""

    def __init__(self, telemetry: Telemetry, rows: int) -> None:
        self.telemetry = telemetry
        self._rows = rows
        self._lock = Lock()

    def new(self, rows: int) -> int:
        """Count up to this number; give how many were not counted yet."""
        with self._lock:
            new = max(rows - self._rows, 0)
            self._rows += new
        return new


def _counted(telemetry: Telemetry, producer: StreamProducer) -> _Counted:
    known: _Counted | None = vars(producer).get("_counted")
    if known is not None and known.telemetry is telemetry:
        return known
    vars(producer)["_counted"] = known = _Counted(telemetry, producer.rows_written)
    return known


class _Producing(Operation):
    """An operation of a producer, after which entries may be in that were taken before."""

    #: Whether it is about these.
    is_send: ClassVar[bool] = False

    def __init__(
        self, telemetry: Telemetry, producer: StreamProducer, stream: object = None
    ) -> None:
        stream = producer._stream if stream is None else stream
        super().__init__(telemetry, at(producer._connection, stream))
        self._producer = producer
        self.rows = 0
        with suppress(RuntimeError):  # it is another process's, as the producer says itself
            _counted(telemetry, producer)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(RuntimeError):
            self.rows = _counted(self.telemetry, self._producer).new(self._producer.rows_written)
        if self.is_send:
            self.entries = self.rows
        super().__exit__(exc_type, exc, traceback)

    def measure(self, seconds: float) -> None:
        """Count what is in by now too."""
        with METRICS:
            super().measure(seconds)
        if self.rows:
            attributes = at(self._producer._connection, self._producer._stream)
            attributes["messaging.operation.name"] = "send"
            self.telemetry.sent.add(self.rows, attributes, self._context)


class Create(_Producing):
    """A producer takes an entry, or a frame of them."""

    name = operation_type = "create"
    kind = SpanKind.PRODUCER
    is_current = True


class Flush(_Producing):
    """A producer's caller waits until all is in."""

    name = operation_type = "send"
    is_send = True
    may_be_nothing = True
