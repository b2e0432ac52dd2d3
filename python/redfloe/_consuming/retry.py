"""What becomes of a batch whose handler raises. Says what to do, and does nothing itself."""

import random
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, Self, TypeAlias, TypeVar

from redfloe._checks import not_negative, one_of, positive

ExceptionPolicy: TypeAlias = Mapping[type[Exception], Literal["retry", "fail", "raise"]]


class Divisible(Protocol):
    """A batch that can be halved."""

    def __len__(self) -> int: ...
    def halves(self) -> tuple[Self, Self]:
        """Give the first rows and the rest."""


B = TypeVar("B", bound=Divisible)


@dataclass(frozen=True)
class Call(Generic[B]):
    """Call the handler; then send the exception that it raised, or None."""

    batch: B


@dataclass(frozen=True)
class Wait:
    """Wait before the next attempt."""

    seconds: float


@dataclass(frozen=True)
class Failed(Generic[B]):
    """One entry cannot be processed."""

    batch: B
    reason: str


@dataclass(frozen=True)
class Raise:
    """Give up: the exception is the caller's. No generator can raise a StopIteration itself."""

    error: Exception


class Retry:
    """Attempts, pauses, and what to do with which exception."""

    def __init__(
        self,
        attempts: int,
        base_delay: float,
        max_delay: float,
        on_exception: ExceptionPolicy | None,
    ) -> None:
        self._attempts = positive(attempts, "attempts") or 1
        not_negative(base_delay, "retry_base_delay")
        not_negative(max_delay, "retry_max_delay")
        self._base_delay = base_delay
        self._max_delay = max_delay
        self._on_exception = dict(on_exception or {})
        for kind, policy in self._on_exception.items():
            _check_class(kind)
            one_of(policy, "on_exception's policies", "retry", "fail", "raise")

    def steps(
        self, batch: B, *, may_fail: bool
    ) -> Generator[Call[B] | Wait | Failed[B] | Raise, Exception | None, None]:
        """Say step by step what to do with a batch.

        After its last attempt it is halved until the entries that fail are alone; where nothing may
        fail it gives the exception up instead, and ends there.
        """
        parts, attempts = [batch], self._attempts
        while parts:
            part = parts.pop()
            for attempt in range(attempts):
                error = yield Call(part)
                if error is None:
                    break
                policy = self._policy(error)
                if policy == "raise":
                    yield Raise(error)
                if policy == "retry" and attempt + 1 < attempts:
                    yield Wait(self._delay(attempt))
                    continue
                # What has no entry has none to put aside.
                if not may_fail or len(part) == 0:
                    yield Raise(error)
                if len(part) == 1:
                    yield Failed(part, reason_of(error))
                else:
                    parts += reversed(part.halves())
                break
            attempts = 1  # the whole had them all

    def _policy(self, error: Exception) -> Literal["retry", "fail", "raise"]:
        for kind, policy in self._on_exception.items():
            if isinstance(error, kind):
                return policy
        return "retry"

    def _delay(self, attempt: int) -> float:
        """Grow exponentially, with jitter, so that workers which failed together part."""
        longest = min(self._max_delay, self._base_delay * 2.0 ** min(attempt, 1_000))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311


def reason_of(error: BaseException) -> str:
    """Say what was raised, whatever its text is: its entry must be put aside all the same."""
    try:
        text = str(error)
    except Exception as other:  # noqa: BLE001 - it is the handler's, and may do anything
        text = f"(its text raised {type(other).__name__})"
    # UTF-8 has no lone surrogates.
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def _check_class(kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        msg = f"on_exception must name subclasses of Exception, not {kind!r}"
        raise TypeError(msg)
