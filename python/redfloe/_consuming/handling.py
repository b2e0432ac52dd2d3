"""A handler that is called with batches: one interpreter of `Retry`'s steps, and two faces.

The interpreter is a coroutine. In an event loop it is awaited; in a loop without one it is run by
`without_waiting`, because nothing that the face for that world does ever suspends it.
"""

from __future__ import annotations

import inspect
import time
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from redfloe._consuming.retry import Call, Divisible, Failed, Raise, Retry, Wait, reason_of
from redfloe._errors import NoGroupError
from redfloe._event_loop import completed
from redfloe._functions import is_async, unwrapped
from redfloe._log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import polars as pl

    from redfloe._batch import AsyncBatch, Batch

T = TypeVar("T")


class Handled(Divisible, Protocol):
    """Entries that a handler is called with."""

    @property
    def ids(self) -> pl.Series:
        """Their IDs."""


B = TypeVar("B", bound=Handled)
B_contra = TypeVar("B_contra", bound=Handled, contravariant=True)

#: How often a pause looks for `stop`, in seconds.
_LOOK = 0.05


@dataclass(frozen=True)
class Failing:
    """What becomes of an entry that fails alone."""

    has_dead_letter: bool
    #: Then it stays pending, and is delivered again, before it becomes a dead letter.
    counts_deliveries: bool
    #: A group that gets lost is created again, and brings the entry again.
    recreates: bool
    #: The stream, the group and the consumer, for the log.
    where: Mapping[str, str | None]


class Face(Protocol[B_contra]):
    """What the interpreter does in one of the worlds."""

    async def call(self, batch: B_contra) -> Exception | None:
        """Call the handler, and give what it raised."""

    async def pause(self, seconds: float) -> bool:
        """Wait that long, or until `stop` is called; say which."""

    async def fail(self, batch: B_contra, reason: str) -> bool:
        """Move the entries to the dead-letter stream; say whether `stop` came first."""

    def leave(self, batch: B_contra) -> None:
        """Have them delivered again."""


async def handle(batch: B, retry: Retry, face: Face[B], failing: Failing) -> bool | Raise:
    """Call the handler as `retry` says; say whether the batch is done with, rather than left.

    What is to be raised is given: a coroutine cannot raise a StopIteration.
    """
    steps = retry.steps(batch, may_fail=failing.has_dead_letter)
    raised: Exception | None = None
    failures = 0
    while True:
        try:
            step = steps.send(raised)
        except StopIteration:
            return True
        raised = None
        match step:
            case Call(part):
                raised = await face.call(part)
                if raised is not None:
                    failures += 1
                    log_failure(part, raised, failing.where, failures)
            case Wait(seconds):
                if await face.pause(seconds):
                    return False
            case Raise(error):
                with suppress(Exception):  # it is the handler's, and may take no notes
                    error.add_note(_while_handling(batch, failing.where))
                return step
            case Failed(part, _) if failing.counts_deliveries:
                face.leave(part)
            case Failed(part, reason):
                try:
                    if await face.fail(part, reason):
                        return False
                except NoGroupError:
                    if not failing.recreates:
                        raise


def log_failure(
    part: Handled, error: Exception, where: Mapping[str, str | None], failures: int
) -> None:
    """Log what a handler raised: as a warning with its traceback where a batch fails first."""
    ids = part.ids
    fields = {
        **where,
        "entries": len(ids),
        "first_id": ids[0] if len(ids) else None,
        "last_id": ids[-1] if len(ids) else None,
        "failures": failures,
        "error": reason_of(error),
    }
    if failures == 1:
        log("handler_failed", fields, error if can_be_printed(error) else None)
    else:
        log("handler_failed_again", fields)


def can_be_printed(error: BaseException) -> bool:
    """Tell whether a traceback is text that a log file takes: UTF-8 has no lone surrogates."""
    try:
        "".join(traceback.format_exception(error)).encode()
    except Exception:  # noqa: BLE001 - it is the handler's, and may do anything
        return False
    return True


def _while_handling(batch: Handled, where: Mapping[str, str | None]) -> str:
    names = ", ".join(f"{key} {name}" for key, name in where.items() if name is not None)
    return f"while handling {batch!r}: {names}"


class InLoop:
    """For a loop without an event loop."""

    def __init__(self, handler: Callable[[Batch], object], stopped: Callable[[], bool]) -> None:
        _check_handler(handler)
        if is_async(handler):
            msg = f"run does not await its handler, and {_named(handler)} is async; use run_async"
            raise TypeError(msg)
        self._handler = handler
        self._stopped = stopped

    async def call(self, batch: Batch) -> Exception | None:
        """Call the handler, and refuse what it should have been awaited for."""
        try:
            result = self._handler(batch)
        except Exception as error:  # noqa: BLE001 - the policy decides
            return error
        if inspect.isawaitable(result):
            if isinstance(result, Coroutine):
                result.close()  # which was never awaited, and would warn of it
            msg = (
                f"run does not await its handler, and {_named(self._handler)} returned something "
                "to be awaited; use run_async"
            )
            raise TypeError(msg)
        _check_result(self._handler, result)
        return None

    async def pause(self, seconds: float) -> bool:
        """Look for `stop` every now and then."""
        # Not an Event: a signal's handler that sets it may find its lock taken by this thread.
        end = time.monotonic() + seconds
        while not self._stopped() and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK))  # noqa: ASYNC251 - there is no event loop
        return self._stopped()

    async def fail(self, batch: Batch, reason: str) -> bool:
        """Move the entries, and wait for it."""
        return not batch._putting_aside(reason).wait()

    def leave(self, batch: Batch) -> None:
        """Leave them pending."""
        batch.leave()


class InEventLoop:
    """For an event loop."""

    def __init__(
        self, handler: Callable[[AsyncBatch], object], stopped: Callable[[], bool]
    ) -> None:
        _check_handler(handler)
        self._handler = handler
        self._stopped = stopped

    async def call(self, batch: AsyncBatch) -> Exception | None:
        """Call the handler and await what it returns."""
        try:
            result = self._handler(batch)
        except Exception as error:  # noqa: BLE001 - the policy decides
            return error
        _check_result(self._handler, result)
        if not inspect.isawaitable(result):
            msg = (
                f"run_async awaits its handler, and {_named(self._handler)} returned "
                f"{type(result).__name__}; make it an async function, or use run"
            )
            raise TypeError(msg)
        try:
            await result
        except Exception as error:  # noqa: BLE001 - the policy decides
            return error
        return None

    async def pause(self, seconds: float) -> bool:
        """Look for `stop` every now and then: it may come from any thread."""
        import asyncio

        end = time.monotonic() + seconds
        while not self._stopped() and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, _LOOK))
        return self._stopped()

    async def fail(self, batch: AsyncBatch, reason: str) -> bool:
        """Move the entries."""
        return not await completed(batch._batch._putting_aside(reason).start())

    def leave(self, batch: AsyncBatch) -> None:
        """Leave them pending."""
        batch.leave()


def is_done(end: bool | Raise) -> bool:
    """Say whether a batch is done with, or raise what `handle` gives."""
    if isinstance(end, Raise):
        raise end.error
    return end


def without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that nothing suspends."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    coroutine.close()
    msg = "something waited where there is no event loop; please report this"
    raise RuntimeError(msg)


def _check_handler(handler: Any) -> None:
    if not callable(handler):
        msg = f"handler must be callable, not {type(handler).__name__}"
        raise TypeError(msg)
    inner = unwrapped(handler)
    if inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner):
        msg = f"{_named(handler)} is a generator function, and a call does not run its body"
        raise TypeError(msg)


def _check_result(handler: object, result: object) -> None:
    """Refuse what a call has made and not run."""
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        msg = f"{_named(handler)} returned a generator, whose body has not run"
        raise TypeError(msg)


def _named(handler: Any) -> str:
    inner = unwrapped(handler)
    return f"the handler {getattr(inner, '__qualname__', type(inner).__qualname__)}"
