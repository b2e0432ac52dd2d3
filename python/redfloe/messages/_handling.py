"""Calling handlers: the quick way, and what happens when they raise."""

from __future__ import annotations

import asyncio
import threading
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redfloe import _calling
from redfloe._consuming.handling import can_be_printed, log_failure, without_waiting
from redfloe._consuming.retry import Call as Attempt
from redfloe._consuming.retry import Failed, Raise, Wait
from redfloe.messages._calls import WrongHandlerError, check_result
from redfloe.messages._ending import is_cancelled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from redfloe._consuming.consumer import StreamConsumer
    from redfloe.messages._delivery import Item, Limits
    from redfloe.messages._frames import Part
    from redfloe.messages._plan import Call
    from redfloe.messages._threads import Threads

_AT_ONCE = timedelta(0)


class Handling:
    """Calls the handlers of items, in an event loop or in a thread, and settles the items."""

    def __init__(self, consumer: StreamConsumer, limits: Limits, threads: Threads) -> None:
        self._where: Mapping[str, str | None] = consumer._where
        self._limits = limits
        self._threads = threads
        self.stopping = False
        #: Whether the worker has ended, below a handler that has swallowed its cancel.
        self.has_left = False
        self._stop = threading.Event()
        self._stop_in_loop = asyncio.Event()

    def stop(self) -> None:
        """Begin no further call."""
        self.stopping = True
        self._stop.set()
        self._stop_in_loop.set()

    async def handle(self, item: Item | Part) -> None:
        """Call an item's handlers one after the other."""
        for call in item.calls:
            if is_cancelled():
                return
            try:
                result = await _calling.call_and_await(call, item)
            except Exception as error:  # noqa: BLE001 - the policy decides
                raised = error
            except asyncio.CancelledError as error:
                raised = foreign(error)
            else:
                if result is not False:
                    if self.has_left:
                        return
                    continue
                item.nack(None)
                return
            if not await self._failed(item, call, raised, in_thread=False):
                return
        item.done()

    def handle_in_thread(self, item: Item | Part) -> None:
        """Do so in a thread."""
        for call in item.calls:
            try:
                result = _calling.call_in_thread(call, item)
                if result is not None:
                    check_result(call.name, result)
            except Exception as error:  # noqa: BLE001 - the policy decides
                raised = error
            except asyncio.CancelledError as error:
                raised = raised_by(error)
            else:
                if result is not False:
                    continue
                item.nack(None)
                return
            if not without_waiting(self._failed(item, call, raised, in_thread=True)):
                return
        item.done()

    async def _failed(self, item: Any, call: Call, error: Exception, *, in_thread: bool) -> bool:
        """Do what the retry policy says of a first failure; say whether the call is done then."""
        if isinstance(error, WrongHandlerError):
            raise error
        steps = call.retry.steps(item, may_fail=self._limits.has_dead_letter)
        next(steps)
        raised: Exception | None = error
        failures = 0
        all_done = True
        while True:
            if raised is not None:
                failures += 1
                log_failure(item, raised, self._where, failures)
                if item.is_settled:
                    return False  # as the handler said before it raised
                last = raised
            try:
                step = steps.send(raised)
            except StopIteration:
                return all_done
            raised = None
            match step:
                case Attempt(part):
                    result, raised = await self._attempt(part, call, in_thread=in_thread)
                    if result is False:
                        part.nack(None)
                        all_done = False
                    elif raised is None and part is not item:
                        part.done()
                        all_done = False
                case Wait(seconds):
                    if await self._pause(seconds, in_thread=in_thread):
                        item.nack(_AT_ONCE)
                        return False
                case Raise(given):
                    with suppress(Exception):  # it is the handler's, and may take no notes
                        given.add_note(f"while handling {item!r} by {call.name}")
                    raise given
                case Failed(part, reason):
                    self._put_aside(part, reason, last)
                    all_done = False

    async def _attempt(
        self, part: Any, call: Call, *, in_thread: bool
    ) -> tuple[Any, Exception | None]:
        try:
            if in_thread:
                result = _calling.call_in_thread(call, part)
                check_result(call.name, result)
            else:
                result = await _calling.call_and_await(call, part)
        except Exception as error:  # noqa: BLE001 - the policy decides
            return None, error
        except asyncio.CancelledError as error:
            return None, raised_by(error) if in_thread else foreign(error)
        return result, None

    async def _pause(self, seconds: float, *, in_thread: bool) -> bool:
        """Wait that long, or until `stop`; say which."""
        if in_thread:
            return self._stop.wait(seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._stop_in_loop.wait()
        except TimeoutError:
            return self.stopping
        return True

    def _put_aside(self, part: Any, reason: str, error: Exception) -> None:
        reason = with_traceback(reason, error)
        part.fail(reason)


def foreign(cancelled: asyncio.CancelledError) -> Exception:
    """Give the failure of a handler that awaited what was cancelled; pass on a cancel of ours."""
    task = asyncio.current_task()
    if task is None or task.cancelling():
        raise cancelled
    return raised_by(cancelled)


def raised_by(cancelled: asyncio.CancelledError) -> Exception:
    """Give the failure of a handler that raises what would pass for a cancel of ours."""
    error = RuntimeError("the handler awaited something that was cancelled, or raised as much")
    return error.with_traceback(cancelled.__traceback__)


def with_traceback(reason: str, error: Exception) -> str:
    """Give why a message is put aside, and where the handler raised that."""
    if not can_be_printed(error):
        return reason
    trace = _from_handler(error.__traceback__)
    return reason + "\n\n" + "".join(traceback.format_exception(type(error), error, trace))


def _from_handler(trace: TracebackType | None) -> TracebackType | None:
    """Leave out our own frames, which come before the handler's."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS):
        trace = trace.tb_next
    return trace


_OURS = str(Path(__file__).parent.parent)
