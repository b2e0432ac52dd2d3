"""A producer for an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe._checks import Milliseconds, optional_milliseconds
from redfloe._event_loop import completed, done, stopped
from redfloe._writing.sent import SentEntry

if TYPE_CHECKING:
    import polars as pl

    from redfloe._frame import ArrowStream
    from redfloe._writing.fields import Fields
    from redfloe._writing.producer import StreamProducer


class AsyncStreamProducer:
    """A `StreamProducer` for an event loop, which it never blocks; made by ``async with``.

    Cancelling a coroutine of it ends the wait at once. Only a cancelled `close` stops the producer,
    within a second, as does leaving the block by an exception.

    Parameters
    ----------
    producer : StreamProducer
        The producer that it makes awaitable.
    """

    def __init__(self, producer: StreamProducer) -> None:
        self._producer = producer

    def __repr__(self) -> str:
        return f"Async{self._producer!r}"

    @property
    def rows_written(self) -> int:
        """How many entries are in."""
        return self._producer.rows_written

    async def send(self, fields: Fields, *, stream: str | bytes | None = None) -> SentEntry:
        """Take an entry, as `StreamProducer.send`; awaits only while the buffer is full.

        What it gives is a future of the entry ID: ``await (await producer.send(...))`` waits until
        the entry is in.
        """
        producer = self._producer
        key, pairs = producer._key(stream), producer._pairs(fields)
        producer._check()
        while (sent := producer._core.send(key, pairs)) is None:
            await self._wait("room")
        return SentEntry(producer, sent)

    async def send_frame(
        self, df: pl.DataFrame | ArrowStream, *, stream: str | bytes | None = None
    ) -> None:
        """Take the rows of a frame, as `StreamProducer.send_frame`."""
        producer = self._producer
        key = producer._key(stream)
        frame = producer._frame(df, key)
        producer._check()
        while not producer._core.send_frame(key, frame):
            await self._wait("room")

    async def flush(self) -> None:
        """Write all that was sent so far, and wait until it is in."""
        await self._wait("flush")

    async def close(self, *, timeout_ms: Milliseconds | None = None) -> None:
        """Write what is left, and refuse further entries, as `StreamProducer.close`."""
        await self._close(optional_milliseconds(timeout_ms, "timeout_ms"), gives_up=True)

    async def _wait(self, what: str) -> None:
        await completed(self._producer._core.start_wait(what))
        self._producer._check()

    async def _close(self, limit_ms: int | None, *, gives_up: bool = False) -> None:
        import asyncio

        if self._producer._closed:
            return
        task = self._producer._core.start_close(limit_ms)
        try:
            await done(task)
        except asyncio.CancelledError as cancelled:
            task.stop()
            await stopped(task)
            self._producer._closed = True
            self._producer._explain_interrupt(cancelled)
            raise
        is_over = task.result()
        self._producer._closed = True
        self._producer._check(gave_up_after=limit_ms if is_over and gives_up else None)
