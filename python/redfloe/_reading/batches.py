"""Batches of a stream that is followed, for a loop and for an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Self, TypeVar

import polars as pl

from redfloe import _core
from redfloe._errors import WrongTypeError
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._reading.shards import found_over_shards, found_over_shards_async
from redfloe._reprs import position, target

if TYPE_CHECKING:
    from types import TracebackType

    from redfloe._arguments import Request
    from redfloe._core import RedisConnection

T = TypeVar("T")


class BatchIterator(Iterator[pl.DataFrame]):
    """The batches of `iter_stream`: a DataFrame each, never empty.

    After an exception, Ctrl-C included, the next batch may be asked for again: it begins after the
    last one that was given. As a context manager, and by `close`, it gives its connection up at
    once rather than when it is garbage-collected. Threads may share it; each batch goes to one.
    """

    def __init__(
        self, reader: _core.BatchReader, connection: RedisConnection, request: Request
    ) -> None:
        self._reader: _core.BatchReader | None = reader
        self._connection = connection
        self._request = request
        self._ended_at = ""

    def __repr__(self) -> str:
        reader = self._reader
        so_far = f"{self._ended_at}, closed" if reader is None else position(reader)
        where = target(self._connection, self._request["stream"], self._request)
        return f"{type(self).__name__}({where}, {so_far})"

    def _offer(self) -> _core.Offer[pl.DataFrame] | None:
        reader = self._reader
        if reader is None:
            return None
        try:
            return reader.next_offer(of_batch)
        except WrongTypeError:
            if not self._begin_over_shards(reader):
                raise
        return self._offer()

    def _start(self) -> None:
        """Resolve what the reading starts with now, rather than with the first batch."""
        reader = self._reader
        if reader is None:
            return
        try:
            reader.start()
        except WrongTypeError:
            if not self._begin_over_shards(reader):
                raise
            self._start()

    def _begin_over_shards(self, reader: _core.BatchReader) -> bool:
        """Begin again where the stream turned out to be a sharded one, if it did."""
        if self._reader is reader:  # no other thread was quicker
            found = found_over_shards(self._connection, self._request)
            if found is None:
                return False
            self._request = found
            self._reader = _core.BatchReader(self._connection, found, follow=True)
        return True

    def __next__(self) -> pl.DataFrame:
        offer = self._offer()
        if offer is None:
            self.close()
            raise StopIteration
        frame = offer.value
        offer.accepted = True  # no call follows, after which a signal's handler could raise
        return frame

    def close(self) -> None:
        """End the iteration, also for a thread that waits for a batch; close the connection."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._ended_at = position(reader)
            reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncBatches:
    """Batches for an event loop, as the core has them."""

    def __init__(self, reader: _core.AsyncBatchReader) -> None:
        self._reader: _core.AsyncBatchReader | None = reader
        self._ahead: _core.Task[None] | None = None
        self._ended_at = ""

    def __repr__(self) -> str:
        reader = self._reader
        return f"{self._ended_at}, closed" if reader is None else position(reader)

    def ask_ahead(self) -> None:
        """Ask for the next batch, while the one before is worked on; `next` waits for it."""
        if self._reader is not None and self._ahead is None:
            self._ahead = self._reader.request()

    async def next(self, make: Callable[[_core.RecordBatch], T]) -> _core.Offer[T] | None:
        """Wait for the next batch, and offer what `make` makes of it; None at the end."""
        while self._reader is not None:
            asked, self._ahead = self._ahead, None
            if asked is not None:
                await completed(asked)
            ready = self._reader.offer(make)
            if ready is None:
                await completed(self._reader.request())
                continue
            return ready[0]
        return None

    def close(self) -> None:
        """End, also for a task that waits for a batch; give the connection up."""
        reader, self._reader = self._reader, None
        asked, self._ahead = self._ahead, None
        if asked is not None:
            asked.cancel()
        if reader is not None:
            self._ended_at = position(reader)
            reader.close()


class AsyncBatchIterator(AsyncIterator[pl.DataFrame]):
    """The batches of `stream_batches`: a DataFrame each, never empty.

    Waiting takes no thread, and may be cancelled at any time: the server sees the connection go,
    and no entry is lost or repeated by the next batch. After an exception the next batch may be
    asked for again. As an async context manager, and by `aclose`, it gives its connection up at
    once rather than when it is garbage-collected.
    """

    def __init__(
        self, reader: _core.AsyncBatchReader, connection: RedisConnection, request: Request
    ) -> None:
        self._batches = AsyncBatches(reader)
        self._connection = connection
        self._request = request

    def __repr__(self) -> str:
        where = target(self._connection, self._request["stream"], self._request)
        return f"{type(self).__name__}({where}, {self._batches!r})"

    async def _offer(self) -> _core.Offer[pl.DataFrame] | None:
        batches = self._batches
        try:
            return await batches.next(of_batch)
        except WrongTypeError:
            if not await self._begin_over_shards(batches):
                raise
        return await self._offer()

    async def _begin_over_shards(self, batches: AsyncBatches) -> bool:
        """Begin again where the stream turned out to be a sharded one, if it did."""
        found = await found_over_shards_async(self._connection, self._request)
        if self._batches is not batches:  # another task was quicker
            return True
        if found is None:
            return False
        self._request = found
        self._batches = AsyncBatches(_core.AsyncBatchReader(self._connection, found, follow=True))
        return True

    async def __anext__(self) -> pl.DataFrame:
        offer = await self._offer()
        if offer is None:
            await self.aclose()
            raise StopAsyncIteration
        frame = offer.value
        offer.accepted = True
        return frame

    async def aclose(self) -> None:
        """End the iteration, also for a task that waits for a batch; give the connection up."""
        self._batches.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
