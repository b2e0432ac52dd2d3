"""Following a stream, batch by batch, in a loop or in an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Literal, Self, TypeVar, Unpack

import polars as pl

from redfloe import _core
from redfloe._arguments import (
    Milliseconds,
    Request,
    Streams,
    either,
    follow_pattern,
    make_group,
    make_request,
)
from redfloe._errors import WrongTypeError
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._options import DecodeOptions, ReadOptions, complete, takes
from redfloe._reading.shards import found_over_shards, found_over_shards_async
from redfloe._reprs import position, target

if TYPE_CHECKING:
    from types import TracebackType

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike

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


@takes(DecodeOptions)
def iter_stream(
    url: str | RedisConnection,
    stream: Streams | None = None,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike | None = None,
    end_id: EntryIdLike = "+",
    count: int | None = None,
    block_ms: Milliseconds = 1000,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    auto_ack: bool = False,
    create_group: bool = True,
    *,
    pattern: str | bytes | None = None,
    discover_ms: Milliseconds = 5_000,
    group_start_id: EntryIdLike = "0",
    noack: bool = False,
    batch_size: int = 100,
    batch_bytes: int = 64 * 1024 * 1024,
    batch_timeout_ms: Milliseconds | None = None,
    on_idle: Literal["wait", "stop"] = "wait",
    **options: Unpack[DecodeOptions],
) -> BatchIterator:
    """Follow a Redis stream: iterate over its entries in DataFrames, as they come.

    Each poll is an XREAD BLOCK (Redis 5.0) after the last entry that came, so an entry that is
    added between two polls is not missed. Without `start_id` the newest entry is looked up when
    `iter_stream` is called; what is added from then on is given. A connection that is lost is
    opened again, and reading goes on after the last entry. Where nothing else ends the iteration
    (`end_id`, `count`, `on_idle`, a `max_retries` of the connection), it keeps trying through an
    outage, once the server has answered, and logs when the outage begins and ends.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams: an XREAD waits for all, a batch may hold
        rows of several, and ``_stream`` names the stream of each. Each stream's entries come in
        order; one that has many does not keep the others waiting. Of more than 16, those that have
        entries all the time are followed on a second connection. A missing stream is waited for;
        with a group it is created, where `create_group` says so. A key that holds something else
        raises `WrongTypeError`, which names it.
    pattern : str or bytes, optional
        In place of `stream`: the streams whose keys match, as for `read_streams` (SCAN TYPE, Redis
        6.0). One that appears later is read from its first entry, or from a `start_id` that is one.
        With a group, a stream without one gets it where `create_group` is True, and is left out
        otherwise; that of a stream that appears later begins at its start where `group_start_id` is
        ``"$"``.
    discover_ms : int or timedelta, default 5000
        How often to look for streams that match the pattern, in milliseconds; less often where
        that would take more than a twentieth of the time.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `read_stream`. Without it a batch has every field that occurred
        so far, as String. `infer_schema` types those that are there when the first batch is read,
        which may be a single entry's.
    start_id : str, int, date or datetime, optional
        The first entry ID, inclusive: ``"-"`` reads all existing entries first, then new ones. By
        default, and with ``"$"``, only what comes after the newest entry.
    end_id : str, int, date or datetime, default "+"
        The last entry ID, inclusive; the iteration ends there, of several streams when all have
        come to it. ``"+"`` means no end.
    count : int, optional
        End after this many entries.
    block_ms : int or timedelta, default 1000
        How many milliseconds one poll waits for an entry; 0 waits without limit. Ctrl-C ends the
        wait.
    group, consumer : str or bytes, optional
        Read as this member of a consumer group (XREADGROUP, Redis 5.0), as for `read_stream`. First
        come this consumer's own pending entries, then new ones; `start_id` ``">"`` skips the
        pending ones, and ``"0"`` reads them alone. Pending entries that were deleted from the
        stream are acknowledged and not given.
    auto_ack : bool, default False
        Acknowledge a batch (XACK) when the next one is asked for, and the last one at the end.
        After ``break``, an exception or a crash the batch in hand stays pending, and comes first
        when this consumer reads again: each entry is given at least once.
    create_group, group_start_id, noack
        As for `read_stream`.
    batch_size : int, default 100
        The most rows of a batch.
    batch_bytes : int, default 64 MiB
        Closes a batch once its entries have taken this many bytes of the server's reply, or,
        without a schema, its columns times its rows at 16 bytes a cell; which bounds the memory of
        a batch whatever its entries are.
    batch_timeout_ms : int or timedelta, optional
        Collect until the batch is full or this many milliseconds have passed since its first entry
        came. By default a batch is returned at once, with the entries that there are.
    on_idle : {"wait", "stop"}, default "wait"
        What to do when a poll finds nothing: poll again without end, or end the iteration, so that
        a job can drain a stream and exit. ``"stop"`` also ends a batch that is being collected,
        before its `batch_timeout_ms`, when nothing has come for `block_ms`.
    **options : DecodeOptions
        How entries become columns, by keyword: see `redfloe.DecodeOptions`.

    Returns
    -------
    BatchIterator
        An iterator of DataFrames that are never empty, and a context manager.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        As for `read_stream`; the iterator may be asked again.
    NoStreamError
        At once: the stream does not exist, and `must_exist` is True.
    NoGroupError
        The group does not exist, or was deleted meanwhile.
    DataLossError
        Without a group: the stream was deleted and written again with smaller IDs than those read.
        Found when a poll has found nothing, and when it reconnects, by a user who may call XINFO
        STREAM. Or a failover or a restart has lost the entry that was read last.
    ValueError, TypeError, SchemaError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> schema = {"value": pl.Int64}
    >>> for frame in redfloe.iter_stream(
    ...     url, "events", schema, start_id="-", batch_size=1, on_idle="stop", block_ms=1
    ... ):
    ...     print(frame["_id"].item(), frame["value"].item())
    1704067200000-0 10
    1704067200001-0 None
    """
    url = _core.connect(url)
    request = _request(
        stream,
        schema,
        start_id,
        end_id,
        count,
        block_ms,
        group,
        consumer,
        pattern=pattern,
        discover_ms=discover_ms,
        auto_ack=auto_ack,
        create_group=create_group,
        group_start_id=group_start_id,
        noack=noack,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        batch_timeout_ms=batch_timeout_ms,
        on_idle=on_idle,
        options=complete(options, iter_stream),
    )
    batches = BatchIterator(_core.BatchReader(url, request, follow=True), url, request)
    if request["group"] is not None or request["start_id"] == "$" or request["must_exist"]:
        batches._start()
    return batches


@takes(DecodeOptions)
def stream_batches(
    url: str | RedisConnection,
    stream: Streams | None = None,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike | None = None,
    end_id: EntryIdLike = "+",
    count: int | None = None,
    block_ms: Milliseconds = 1000,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    auto_ack: bool = False,
    create_group: bool = True,
    *,
    pattern: str | bytes | None = None,
    discover_ms: Milliseconds = 5_000,
    group_start_id: EntryIdLike = "0",
    noack: bool = False,
    batch_size: int = 100,
    batch_bytes: int = 64 * 1024 * 1024,
    batch_timeout_ms: Milliseconds | None = None,
    on_idle: Literal["wait", "stop"] = "wait",
    **options: Unpack[DecodeOptions],
) -> AsyncBatchIterator:
    """Follow a Redis stream in an event loop: the asynchronous twin of `iter_stream`.

    Works under asyncio and uvloop. The reading is done by redfloe's own runtime: the event loop is
    woken when a batch is ready, and no thread waits. Cancelling the task that waits, by a timeout
    say, closes the connection and loses nothing: the same iterator goes on after the last batch
    that it gave, and so does a new one that starts at ``"(" + last_id``.

    Parameters
    ----------
    url, stream, schema, start_id, end_id, count, block_ms
        As for `iter_stream`. Without `start_id` the newest entry is looked up when the first batch
        is asked for, not when `stream_batches` is called.
    group, consumer, auto_ack, create_group, group_start_id, noack
        As for `iter_stream`. A batch that a cancelled task had asked for stays pending until it is
        given.
    pattern, discover_ms, batch_size, batch_bytes, batch_timeout_ms, on_idle
        As for `iter_stream`.
    **options : DecodeOptions
        How entries become columns, by keyword: see `redfloe.DecodeOptions`.

    Returns
    -------
    AsyncBatchIterator
        An asynchronous iterator of DataFrames that are never empty, and an async context manager.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        As for `iter_stream`.
    NoGroupError, DataLossError
        As for `iter_stream`.
    NoStreamError
        From the first batch: the stream does not exist, and `must_exist` is True.
    ValueError, TypeError, SchemaError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> async def drain():
    ...     async for frame in redfloe.stream_batches(
    ...         url, "events", start_id="-", on_idle="stop", block_ms=1
    ...     ):
    ...         print(frame.height, "entries")
    >>> asyncio.run(drain())
    2 entries
    """
    url = _core.connect(url)
    request = _request(
        stream,
        schema,
        start_id,
        end_id,
        count,
        block_ms,
        group,
        consumer,
        pattern=pattern,
        discover_ms=discover_ms,
        auto_ack=auto_ack,
        create_group=create_group,
        group_start_id=group_start_id,
        noack=noack,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        batch_timeout_ms=batch_timeout_ms,
        on_idle=on_idle,
        options=complete(options, stream_batches),
    )
    reader = _core.AsyncBatchReader(url, request, follow=True)
    return AsyncBatchIterator(reader, url, request)


def _request(
    stream: Streams | None,
    schema: SchemaLike | None,
    start_id: EntryIdLike | None,
    end_id: EntryIdLike,
    count: int | None,
    block_ms: Milliseconds,
    group: str | bytes | None,
    consumer: str | bytes | None,
    *,
    pattern: str | bytes | None,
    discover_ms: Milliseconds,
    auto_ack: bool,
    create_group: bool,
    group_start_id: EntryIdLike,
    noack: bool,
    batch_size: int,
    batch_bytes: int,
    batch_timeout_ms: Milliseconds | None,
    on_idle: Literal["wait", "stop"],
    options: ReadOptions,
) -> Request:
    """Check what `iter_stream` and `stream_batches` are asked for; `options` are complete."""
    members = make_group(
        group,
        consumer,
        auto_ack=auto_ack,
        create_group=create_group,
        group_start_id=group_start_id,
        noack=noack,
        start_id=start_id,
        own_pending="first",
    )
    if start_id is None:
        start_id = "$" if group is None else "-"
    request = make_request(
        either(stream, pattern),
        takes_several=True,
        schema=schema,
        start_id=start_id,
        end_id=end_id,
        count=count,
        block_ms=block_ms,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        batch_timeout_ms=batch_timeout_ms,
        on_idle=on_idle,
        group=members,
        options=options,
    )
    follow_pattern(request, pattern, discover_ms)
    return request
