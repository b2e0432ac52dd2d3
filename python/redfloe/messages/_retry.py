"""How often a handler is called with a message that it fails with."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from redfloe._consuming.retry import ExceptionPolicy
from redfloe._consuming.retry import Retry as Steps

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_retry(retry: object) -> None:
    """Refuse a number, say."""
    if retry is not None and not isinstance(retry, Retry):
        msg = f"retry must be a Retry, as in Retry(attempts=3), not {retry!r}"
        raise TypeError(msg)


@dataclass(frozen=True)
class Retry:
    """How often to call a handler that raises, and what to do with single exceptions.

    Attributes
    ----------
    attempts : int, default 3
        How often to call it with a message.
    base_delay, max_delay : float
        The first pause between attempts and the longest, in seconds; pauses grow exponentially and
        have jitter.
    on : mapping of exception class to {"retry", "fail", "raise"}
        What to do with single exceptions and their subclasses: try again, send the message to the
        dead-letter stream at once, or raise it from the app. The first class that fits counts; by
        default each `Exception` is tried again.

    Examples
    --------
    >>> from redfloe.messages import Retry
    >>> Retry(attempts=5, on={ValueError: "fail"}).attempts
    5
    """

    attempts: int = 3
    base_delay: float = 0.1
    max_delay: float = 10.0
    on: ExceptionPolicy = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._steps()  # which checks what it is given

    def _steps(self, before: ExceptionPolicy = MappingProxyType({})) -> Steps:
        on: Mapping[type[Exception], object] = {**before, **self.on}
        return Steps(self.attempts, self.base_delay, self.max_delay, on)  # type: ignore[arg-type]  # it looks
