"""Processors as others see them: their lanes, and resetting them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import polars as pl

from redfloe import _core
from redfloe._checks import as_key, one_of
from redfloe._errors import NoProcessorError
from redfloe._event_loop import completed
from redfloe._ids import EntryIdLike, group_start
from redfloe._reading.shards import refuse_name, shards_of, shards_of_async

if TYPE_CHECKING:
    from redfloe._core import Operation, RecordBatch, RedisConnection

_Reset = tuple[str, str, int, int, list[tuple[str, int]]]


def processor_info(
    url: str | RedisConnection,
    stream: str | bytes | None = None,
    *,
    pattern: str | bytes | None = None,
    name: str | bytes | None = None,
) -> pl.DataFrame:
    r"""Look at processors: who runs them, how far they are, and how far behind.

    A processor has a *lane* for each input stream, or for each consumer of a group, which is a hash
    in Redis. They are found by SCAN TYPE (Redis 6.0), which goes through all keys of the database
    in commands of a thousand; in a cluster on all masters at the same time, or on the one that
    serves `stream`. HMGET, TIME, XRANGE COUNT 1 and XINFO GROUPS tell the rest.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes, optional
        Only lanes on this input stream; of a sharded stream those on its shards.
    pattern : str or bytes, optional
        Only lanes on streams whose key matches, as for `list_streams`. Not with `stream`.
    name : str or bytes, optional
        Only those of the processor of this name.

    Returns
    -------
    pl.DataFrame
        One row for each lane, in the order of stream, processor, group and consumer.

        - ``stream``, ``processor`` (String): their names; ``\xff`` stands for a byte that is not
          UTF-8
        - ``group``, ``consumer`` (String): where entries are acknowledged in a group; else null
        - ``held`` (Boolean): whether somebody has the lane, and its lease has not expired by the
          server's clock
        - ``owner`` (String): who has it, or had it last without leaving it, as ``host:process``;
          null where it was left at a clean end
        - ``lease_left`` (Duration in milliseconds): how long the lease lasts unless it is extended;
          null where the lane is not held
        - ``epoch`` (Int64): how often the lane was acquired; who has a lower one is fenced
        - ``position`` (String): up to which entry all is committed; null for a group's consumer
        - ``planned_end`` (String): the entry that the next batch ends with, where a sink outside of
          Redis has to see the same batch again
        - ``lag`` (Int64): how many entries wait: those after the position, or those that the group
          has still to deliver. Exact; null where there are more than 10,000 on both sides of the
          position, which would take long to count, or the server cannot tell
        - ``lag_time`` (Duration in milliseconds): how long the oldest of them has waited; zero
          where none does
        - ``next_entry_id`` (String): that entry
        - ``commits`` (Int64): how many there were
        - ``entries`` (Int64): how many entries they had; null before the first that said so
        - ``batch_entries`` (Int64), ``batch_time`` (Duration in milliseconds): how many entries the
          last batch had, and how long it took from the frame to the commit
        - ``acquired_at``, ``committed_at`` (Datetime in milliseconds, UTC): when the lane was
          acquired, and when its last commit was, by the server's clock

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> schema = {"user_id": pl.String, "value": pl.Int64}
    >>> with redfloe.StreamProcessor(
    ...     url, "events", name="totals", schema=schema, on_idle="stop", block_ms=1
    ... ) as processor:
    ...     for tx in processor:
    ...         tx.state["seen"] = tx.state.get("seen", 0) + tx.frame.height
    >>> redfloe.processor_info(url, "events").select("processor", "held", "lag", "commits").rows()
    [('totals', False, 0, 1)]
    """
    url = _core.connect(url)
    found = pl.DataFrame(_looking(url, stream, pattern, name).wait())
    shards = shards_of(url, stream) if found.is_empty() else []
    lanes = [pl.DataFrame(_looking(url, shard, None, name).wait()) for shard in shards]
    return pl.concat([found, *lanes])


async def processor_info_async(
    url: str | RedisConnection,
    stream: str | bytes | None = None,
    *,
    pattern: str | bytes | None = None,
    name: str | bytes | None = None,
) -> pl.DataFrame:
    """Look at processors: the asynchronous twin of `processor_info`.

    Where its task is cancelled, what was begun goes on.

    Parameters
    ----------
    url, stream, pattern, name
        As for `processor_info`.

    Returns
    -------
    pl.DataFrame
        As for `processor_info`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.processor_info_async(url)).height
    0
    """
    url = _core.connect(url)
    columns = await completed(_looking(url, stream, pattern, name).start())
    found = pl.DataFrame(columns)
    shards = await shards_of_async(url, stream) if found.is_empty() else []
    lanes = [await completed(_looking(url, shard, None, name).start()) for shard in shards]
    return pl.concat([found, *map(pl.DataFrame, lanes)])


def _looking(
    url: RedisConnection,
    stream: str | bytes | None,
    pattern: str | bytes | None,
    name: str | bytes | None,
) -> Operation[RecordBatch]:
    if stream is not None and pattern is not None:
        msg = "give either stream or pattern"
        raise ValueError(msg)
    return _core.processor_info(
        url,
        None if stream is None else as_key(stream, "stream"),
        None if pattern is None else as_key(pattern, "pattern"),
        None if name is None else as_key(name, "name"),
    )


def reset_processor(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    *,
    to: EntryIdLike,
    state: Literal["keep", "drop"],
    takeover: bool = False,
) -> pl.DataFrame:
    """Move a processor to another position, with its state or without it.

    One script does it all at once (HLEN, UNLINK, HSET), so no processor ever sees a part of it. The
    lane is acquired before, and its epoch incremented: a process that had it gets a `FencedError`
    and writes nothing from then on. With ``state="drop"`` the processor's tables are found by SCAN
    TYPE (Redis 6.0), which goes through all keys of the node.

    Outputs that were published stay: a processor that reads entries again publishes again. The
    consumers of a group have no position, and so nothing to reset.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, name : str or bytes
        The input stream's key, and the processor's name.
    to : str, int, date or datetime
        Where it goes on, as for `create_group`: after this ID, ``"ms-seq"`` or ``"ms"``; ``"0"``
        reads all entries again, ``"$"`` only those added later, and a datetime those from that time
        on.
    state : {"keep", "drop"}
        What happens to its state and its tables: "keep" leaves both as they are, which counts
        entries that are read again twice; "drop" deletes both.
    takeover : bool, default False
        Do it also while the processor runs, which is fenced. If it starts again by itself, as under
        a supervisor, it goes on at the new position.

    Returns
    -------
    pl.DataFrame
        One row that says what was done.

        - ``previous_position``, ``position`` (String): up to which entry all was committed, and
          after which the processor goes on
        - ``epoch`` (Int64): all with a lower one are fenced
        - ``state_dropped`` (Int64): how many values of the state are gone
        - ``tables_dropped`` (List of String): the tables that are gone
        - ``rows_dropped`` (Int64): how many rows these had

        After a lost connection the script is repeated, and what the lost one deleted is not
        counted.

    Raises
    ------
    NoProcessorError
        There is no processor of that name on the stream.
    ProcessorRunningError
        Somebody has the lane, and `takeover` is False. Nothing is changed.
    FencedError
        Another has acquired the lane meanwhile. Nothing is changed.
    WrongTypeError
        A key of the processor holds something else. Nothing is changed.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> schema = {"user_id": pl.String, "value": pl.Int64}
    >>> with redfloe.StreamProcessor(
    ...     url, "events", name="totals", schema=schema, on_idle="stop", block_ms=1
    ... ) as processor:
    ...     for tx in processor:
    ...         tx.state["seen"] = tx.state.get("seen", 0) + tx.frame.height
    >>> done = redfloe.reset_processor(url, "events", "totals", to="0", state="drop")
    >>> done.select("previous_position", "position", "epoch", "state_dropped").row(0)
    ('1704067200001-0', '0-0', 2, 1)
    """
    url = _core.connect(url)
    asking = _resetting(url, stream, name, to, state, takeover)
    try:
        return _of_reset(asking.wait())
    except NoProcessorError as error:
        refuse_name(stream, shards_of(url, stream), error)
        raise


async def reset_processor_async(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    *,
    to: EntryIdLike,
    state: Literal["keep", "drop"],
    takeover: bool = False,
) -> pl.DataFrame:
    """Move a processor to another position: the asynchronous twin of `reset_processor`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, name, to, state, takeover
        As for `reset_processor`.

    Returns
    -------
    pl.DataFrame
        As for `reset_processor`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> resetting = redfloe.reset_processor_async(url, "events", "counts", to="$", state="keep")
    >>> try:
    ...     asyncio.run(resetting)
    ... except redfloe.NoProcessorError:
    ...     print("no such processor")
    no such processor
    """
    url = _core.connect(url)
    asking = _resetting(url, stream, name, to, state, takeover)
    try:
        return _of_reset(await completed(asking.start()))
    except NoProcessorError as error:
        refuse_name(stream, await shards_of_async(url, stream), error)
        raise


def _resetting(
    url: RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    to: EntryIdLike,
    state: str,
    takeover: bool,
) -> Operation[_Reset]:
    one_of(state, "state", "keep", "drop")
    key, own = as_key(stream, "stream"), as_key(name, "name")
    return _core.reset_processor(
        url, key, own, group_start(to, "to"), state == "drop", bool(takeover)
    )


def _of_reset(reset: _Reset) -> pl.DataFrame:
    previous, position, epoch, state, tables = reset
    return pl.DataFrame(
        {
            "previous_position": [previous],
            "position": [position],
            "epoch": [epoch],
            "state_dropped": [state],
            "tables_dropped": [[table for table, _ in tables]],
            "rows_dropped": [sum(rows for _, rows in tables)],
        },
        schema={
            "previous_position": pl.String,
            "position": pl.String,
            "epoch": pl.Int64,
            "state_dropped": pl.Int64,
            "tables_dropped": pl.List(pl.String),
            "rows_dropped": pl.Int64,
        },
    )


def delete_processor(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    *,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    takeover: bool = False,
) -> bool:
    """Delete a processor: its position, its state and its tables (a script of UNLINK).

    All of its lanes are acquired before: a process that had one gets a `FencedError` and writes
    nothing from then on. A processor of that name that starts later is a new one. Its outputs and
    the input stream stay, and so do a group and what is pending in it. The keys are found by SCAN
    TYPE (Redis 6.0), which goes through all keys of the node.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, name : str or bytes
        The input stream's key, and the processor's name.
    group : str or bytes, optional
        Only the lanes of this group's consumers, such as those of workers that are gone for good.
    consumer : str or bytes, optional
        Only that of this consumer; needs `group`.
    takeover : bool, default False
        Delete it also while it runs. One that starts again by itself begins at the start of the
        stream.

    Returns
    -------
    bool
        Whether there was anything. After a lost connection the script is repeated.

    Raises
    ------
    ProcessorRunningError
        Somebody has one of the lanes, and `takeover` is False. Nothing is deleted.
    FencedError, WrongTypeError
        As for `reset_processor`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.delete_processor(url, "events", "counts")
    False
    """
    url = _core.connect(url)
    is_deleted = _deleting(url, stream, name, group, consumer, takeover).wait()
    if not is_deleted:
        refuse_name(stream, shards_of(url, stream))
    return is_deleted


async def delete_processor_async(
    url: str | RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    *,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    takeover: bool = False,
) -> bool:
    """Delete a processor: the asynchronous twin of `delete_processor`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, name, group, consumer, takeover
        As for `delete_processor`.

    Returns
    -------
    bool
        As for `delete_processor`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.delete_processor_async(url, "events", "counts"))
    False
    """
    url = _core.connect(url)
    asking = _deleting(url, stream, name, group, consumer, takeover)
    is_deleted = await completed(asking.start())
    if not is_deleted:
        refuse_name(stream, await shards_of_async(url, stream))
    return is_deleted


def _deleting(
    url: RedisConnection,
    stream: str | bytes,
    name: str | bytes,
    group: str | bytes | None,
    consumer: str | bytes | None,
    takeover: bool,
) -> Operation[bool]:
    if consumer is not None and group is None:
        msg = "consumer needs group: it is one of a group's"
        raise ValueError(msg)
    return _core.delete_processor(
        url,
        as_key(stream, "stream"),
        as_key(name, "name"),
        None if group is None else as_key(group, "group"),
        None if consumer is None else as_key(consumer, "consumer"),
        bool(takeover),
    )
