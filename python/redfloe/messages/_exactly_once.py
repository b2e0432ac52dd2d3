"""A stream's worker in an app that commits what handlers do with their messages, exactly once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from redfloe._consuming.handling import InEventLoop, is_done
from redfloe._errors import RedfloeError
from redfloe._processing.running import Face
from redfloe.messages._ending import LAST, LAST_TELL, abandon
from redfloe.messages._handling import with_traceback

if TYPE_CHECKING:
    from collections.abc import Callable

    from redfloe._consuming.retry import Retry
    from redfloe._processing.transaction import AsyncTransaction
    from redfloe.messages._health import Record
    from redfloe.messages._plan import StreamPlan
    from redfloe.messages._processor import PlanProcessor


class ExactlyOnceWorker:
    """Works on one stream, in an event loop, as one of the processors of a group.

    A batch's handlers are called one after the other, and what they do is committed together.
    """

    def __init__(
        self,
        plan: StreamPlan,
        processor: PlanProcessor,
        *,
        retry: Retry,
        grace: float,
        record: Record | None,
        on_ready: Callable[[], None],
    ) -> None:
        self.plan = plan
        self.source = processor
        self.is_ready = False
        self._retry = retry
        self._grace = grace
        self._record = record
        self._on_ready = on_ready
        self._stop = asyncio.Event()

    @property
    def in_hand(self) -> int:
        """How many messages are in hand."""
        return self.source.in_hand

    def begin_no_more(self) -> None:
        """Have no further batch handled; from any thread, before `stop`."""
        self.source.stop()

    def stop(self) -> None:
        """Finish and commit the batch in hand, and end; in the event loop."""
        self.source.stop()
        self._stop.set()

    async def run(self) -> None:
        """Work until the processor ends; raise what a handler or the server raises."""
        working = asyncio.create_task(self._work())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({working}, timeout=self._grace)
        finally:
            stopping.cancel()
            working.cancel()
            self.source.stop()
            await asyncio.wait({working}, timeout=LAST)
            if not working.done():
                self.source._processing.has_left = True
                abandon({working}, self.source._where)
                await self._leave()
        if working.done() and not working.cancelled():
            working.result()

    async def _leave(self) -> None:
        """Leave the processor to others, from below a handler that does not end."""
        with suppress(RedfloeError, TimeoutError):
            async with asyncio.timeout(LAST_TELL):
                await self.source.__aexit__(None, asyncio.CancelledError(), None)

    async def _work(self) -> None:
        processor = self.source
        inner = InEventLoop(processor._processing.handler, lambda: processor._stopped)
        async with processor:
            session = processor._awaiting()
            if not await session.wait(session.core.hold()):
                return  # stopped
            self.is_ready = True
            self._on_ready()
            face = _Face(inner, processor, self._record)
            is_done(await processor._handle_all(session, face, self._retry))


class _Face(Face["AsyncTransaction"]):
    """Counts what is in hand, and writes down what was committed, where somebody wants to know."""

    def __init__(
        self,
        inner: Any,
        processor: PlanProcessor,
        record: Record | None,
    ) -> None:
        super().__init__(inner)
        self._processor = processor
        self._record = record

    async def fail(self, part: AsyncTransaction, reason: str) -> bool:
        if part._failure is not None:
            reason = with_traceback(reason, part._failure)
        if self._record is not None and (called_with := self._processor._processing.last):
            called_with.put_aside(reason)
        return await super().fail(part, reason)

    async def _commit(self, part: AsyncTransaction) -> None:
        await super()._commit(part)
        self._processor.in_hand -= len(part)
        if self._record is not None and (called_with := self._processor._processing.last):
            called_with.write_down(self._record)
