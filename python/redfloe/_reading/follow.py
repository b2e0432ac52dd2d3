"""Following a stream, batch by batch, in a loop or in an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Unpack

from redfloe import _core
from redfloe._arguments import Request, Streams, either, follow_pattern, make_group, make_request
from redfloe._options import DecodeOptions, ReadOptions, complete, takes
from redfloe._reading.batches import AsyncBatchIterator, BatchIterator

if TYPE_CHECKING:
    from redfloe._checks import Milliseconds
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike


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
