"""A consumer that is entered and left, in a loop or in an event loop: each time is a session."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from redfloe import _core
from redfloe._batch import AsyncBatch, Batch
from redfloe._beside import take_out, with_fields
from redfloe._consuming.loop import Entered, Loop
from redfloe._consuming.signals import StopSignals
from redfloe._errors import RedfloeError, WrongTypeError
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._log import log_live
from redfloe._reading.batches import AsyncBatches
from redfloe._reading.shards import found_over_shards, found_over_shards_async
from redfloe._rows import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from redfloe._arguments import Request
    from redfloe._consuming.position import Position
    from redfloe._core import RedisConnection


class Sessions(Entered):
    """Opens a reader when it is entered, hands out its batches, and finishes when it is left."""

    def __init__(
        self,
        connection: RedisConnection,
        request: Request,
        position: Position,
        *,
        handle_signals: bool,
    ) -> None:
        self._connection = connection
        self._request = self._asked = request
        self._position = position
        self._handle_signals = handle_signals
        self._reader: _core.BatchReader | _core.AsyncBatchReader | None = None
        self._batches: AsyncBatches | None = None
        self._member: _core.Member | None = None
        self._open = False
        self._signals: StopSignals | None = None
        self._stopped = False
        self._started = time.monotonic()

    def stop(self) -> None:
        """End the loop before its next batch; from any thread."""
        self._stopped = True
        self._position.stop()
        if self._reader is not None:
            self._reader.stop()

    @property
    def _left(self) -> bool:
        """Whether it was left, and is to be entered again before it gives anything."""
        return self._sessions > 0 and not self._open

    def _follow(self) -> None:
        """Get the checkpoint's store ready for a loop."""
        self._position.follow(self._connection, self._request)
        if self._stopped:
            self._position.stop()

    def _begin(self, reader: _core.BatchReader | _core.AsyncBatchReader) -> None:
        self._reader = reader
        self._started = time.monotonic()
        self._member = reader.member
        self._position.begin(reader)
        self._sessions += 1
        self._open = True
        member = self._request["group"]
        if member is not None and member["reclaim_ms"] is not None:
            log_live()  # that a handler is slow, while it is
        if self._stopped:  # before there was anything to stop
            self.stop()

    def _end(self) -> None:
        """Be ready to be entered again."""
        self._stopped = False
        if self._signals is not None:
            self._signals.restore()
            self._signals = None

    def _batch(self, rows: _core.RecordBatch) -> Batch:
        frame, beside = take_out(of_batch(rows), self._asked)
        source = Source(self._connection, self._request, beside)
        return Batch(frame, rows, source, self._member, self._position)

    def _async_batch(self, rows: _core.RecordBatch) -> AsyncBatch:
        return AsyncBatch(self._batch(rows))

    def _put_down(self, batch: Batch) -> None:
        """Leave the batch in hand to the next run."""
        self._position.put_down()
        if batch._member is not None:
            batch.leave()

    # In a loop

    def _blocking(self) -> _core.BatchReader:
        if not self._open:
            self._follow()
            self._asked = with_fields(self._request)
            request = self._position.resumed(self._connection, self._asked)
            self._begin(_core.BatchReader(self._connection, request, follow=True))
        if not isinstance(self._reader, _core.BatchReader):
            msg = "this consumer is in use by an event loop; use async with and async for"
            raise RuntimeError(msg)
        return self._reader

    def __enter__(self) -> Self:
        self._blocking()
        if self._handle_signals:
            self._signals = StopSignals.install(self.stop)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._open:  # another thread has left it, or this one
            return
        success = exc is None
        reader = self._blocking()
        self._open = False
        try:
            try:
                self._finish(reader, success)
            except RedfloeError:
                # What could not be acknowledged is pending; the exception in flight says more.
                if success:
                    raise
            finally:
                reader.close()
            if success:
                self._position.done()
        finally:
            self._end()

    def _finish(self, reader: _core.BatchReader, success: bool) -> None:
        reader.finish(success)

    def __iter__(self) -> Iterator[Batch]:
        return Loop(self)

    def _offer(self) -> _core.Offer[Batch] | None:
        if self._left:
            return None
        reader = self._blocking()
        try:
            self._position.start(reader)
            self._position.done(in_loop=True)
            return reader.next_offer(self._batch)
        except WrongTypeError:
            found = found_over_shards(self._connection, self._request)
            if not self._begins_over(found, reader):
                raise
        return self._offer()

    def _begins_over(
        self, found: Request | None, reader: _core.BatchReader | _core.AsyncBatchReader
    ) -> bool:
        """Begin the session again where the stream turned out to be a sharded one, if it did."""
        if self._reader is not reader:  # another thread or task was quicker
            return True
        if found is None:
            return False
        self._request = found
        self._position.over_shards(found)
        self._open, self._batches = False, None
        self._sessions -= 1
        return True

    # In an event loop

    async def _awaiting(self) -> tuple[_core.AsyncBatchReader, AsyncBatches]:
        if not self._open:
            self._follow()
            asked = with_fields(self._request)
            request = await self._position.resumed_async(self._connection, asked)
            if not self._open:  # no other task was quicker
                self._asked = asked
                reader = _core.AsyncBatchReader(self._connection, request, follow=True)
                self._batches = AsyncBatches(reader)
                self._begin(reader)
        if self._batches is None or not isinstance(self._reader, _core.AsyncBatchReader):
            msg = "this consumer is in use by a loop without await; use with and for"
            raise RuntimeError(msg)
        return self._reader, self._batches

    async def __aenter__(self) -> Self:
        await self._awaiting()
        if self._handle_signals:
            import asyncio

            self._signals = StopSignals.install(self.stop, asyncio.current_task())
        return self

    async def _join(self) -> None:
        """Join the group now, rather than when the first batch is asked for."""
        if self._left:
            return
        reader, _ = await self._awaiting()
        try:
            await completed(reader.start())
        except WrongTypeError:
            found = await found_over_shards_async(self._connection, self._request)
            if not self._begins_over(found, reader):
                raise
            await self._join()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._open:
            return
        success = exc is None
        reader, batches = await self._awaiting()
        self._open = False
        try:
            try:
                await self._finish_async(reader, success)
            except RedfloeError:
                # What could not be acknowledged is pending; the exception in flight says more.
                if success:
                    raise
            finally:
                batches.close()
            if success and self._position.is_due():
                await self._position.save_async()
        finally:
            signals = self._signals
            self._end()
            if signals is not None and signals.cancelled:
                raise KeyboardInterrupt

    async def _finish_async(self, reader: _core.AsyncBatchReader, success: bool) -> None:
        await completed(reader.finish(success))

    def __aiter__(self) -> AsyncIterator[AsyncBatch]:
        return Loop(self)

    async def _offer_async(self) -> _core.Offer[AsyncBatch] | None:
        if self._left:
            return None
        reader, batches = await self._awaiting()
        try:
            await self._position.start_async(reader)
            if self._position.is_due():
                await self._position.save_async(in_loop=True)
            return await batches.next(self._async_batch)
        except WrongTypeError:
            found = await found_over_shards_async(self._connection, self._request)
            if not self._begins_over(found, reader):
                raise
        return await self._offer_async()

    def _ask_ahead(self) -> None:
        """Have the next batch made ready in an event loop, while the one before is worked on."""
        if self._batches is not None and not self._left:
            self._batches.ask_ahead()
