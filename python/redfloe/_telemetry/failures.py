"""What OpenTelemetry raises, which must not become a failure of what is observed."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from redfloe._consuming.handling import can_be_printed
from redfloe._consuming.retry import reason_of

if TYPE_CHECKING:
    from types import TracebackType

_LOGGER = logging.getLogger("redfloe.telemetry")

#: The kinds that the log has had since `redfloe.telemetry.instrument`.
_told: set[tuple[str, type]] = set()


def forget() -> None:
    """Tell of each kind again."""
    _told.clear()


class Harmless:
    """A block of telemetry: what it raises goes to the log, once a kind, and no further.

    An interrupt, a cancellation and an exit belong to the observed call, and pass.
    """

    def __init__(self, part: str) -> None:
        self._part = part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(exc, Exception):
            return False
        with suppress(Exception):  # a handler of the log may be faulty too
            self._tell(exc)
        return True

    def _tell(self, error: Exception) -> None:
        kind = self._part, type(error)
        if kind in _told:
            return
        _told.add(kind)
        _LOGGER.warning(
            "telemetry failed at %s, and is left out there: %s; told once",
            self._part,
            reason_of(error),
            exc_info=error if can_be_printed(error) else None,
        )


SPAN_START = Harmless("the start of a span")
SPAN_END = Harmless("the end of a span")
METRICS = Harmless("the metrics")
CONTEXT = Harmless("the context of entries")
OPERATION = Harmless("an operation")
