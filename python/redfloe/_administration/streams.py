"""Creating, trimming and deleting streams."""

from collections.abc import Iterable

import polars as pl

from redfloe import _core
from redfloe._administration.arguments import make_trim
from redfloe._checks import as_ids, as_key
from redfloe._core import RedisConnection
from redfloe._event_loop import completed
from redfloe._ids import EntryIdLike
from redfloe._write_arguments import as_shards


def create_stream(
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    shards: int | None = None,
    shard_by: str | None = None,
) -> bool:
    """Create an empty stream, without a group (a script of XGROUP CREATE MKSTREAM, Redis 5.0).

    Writing to a stream creates it too; this is for readers that need it
    (``must_exist=True``) before anything is written.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    shards : int, optional
        Create a sharded stream of that many, as `write_stream` does: before the first worker, say,
        which would take a name that is not there for that of a plain stream.
    shard_by : str, optional
        With `shards`: the column, or field, by which it is divided.

    Returns
    -------
    bool
        Whether it was created; False where there is a stream already, which stays as it is. After a
        lost connection the command is repeated, and then finds the stream that the lost one made.

    Raises
    ------
    WrongTypeError
        The key holds something else, which is left alone.
    ValueError
        There is a sharded stream of other shards.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.create_stream(url, "orders")
    True
    >>> redfloe.stream_info(url, "orders")["length"].item()
    0
    >>> redfloe.create_stream(url, "hits", shards=8, shard_by="user_id")
    True
    """
    url = _core.connect(url)
    return _creating(url, stream, shards, shard_by).wait()


def _creating(
    url: RedisConnection, stream: str | bytes, shards: int | None, shard_by: str | None
) -> _core.Operation[bool]:
    key, divided = as_key(stream, "stream"), as_shards(shards, shard_by)
    if divided is None:
        return _core.create_stream(url, key)
    return _core.create_sharded_stream(url, key, *divided)


async def create_stream_async(
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    shards: int | None = None,
    shard_by: str | None = None,
) -> bool:
    """Create an empty stream: the asynchronous twin of `create_stream`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, shards, shard_by
        As for `create_stream`.

    Returns
    -------
    bool
        As for `create_stream`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.create_stream_async(url, "orders"))
    True
    """
    url = _core.connect(url)
    return await completed(_creating(url, stream, shards, shard_by).start())


def delete_stream(url: str | RedisConnection, stream: str | bytes) -> bool:
    """Delete a stream with its groups (a script of UNLINK, Redis 5.0).

    Nothing of another type is deleted. Workers that read through its groups get a `NoGroupError`.
    Of a sharded stream's name all shards are deleted, and then the name; what an error cuts off can
    be done again.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.

    Returns
    -------
    bool
        Whether there was one. After a lost connection the command is repeated, and then finds none
        where the lost one deleted it.

    Raises
    ------
    WrongTypeError
        The key holds something else, which is left alone.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.delete_stream(url, "events")
    True
    >>> redfloe.delete_stream(url, "events")
    False
    """
    url = _core.connect(url)
    asking = _core.delete_stream(url, as_key(stream, "stream"))
    return asking.wait()


async def delete_stream_async(url: str | RedisConnection, stream: str | bytes) -> bool:
    """Delete a stream with its groups: the asynchronous twin of `delete_stream`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream
        As for `delete_stream`.

    Returns
    -------
    bool
        As for `delete_stream`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.delete_stream_async(url, "events"))
    True
    """
    url = _core.connect(url)
    asking = _core.delete_stream(url, as_key(stream, "stream"))
    return await completed(asking.start())


def delete_entries(
    url: str | RedisConnection, stream: str | bytes, entry_ids: Iterable[str] | pl.Series
) -> int:
    """Delete entries of a stream by their IDs (XDEL, Redis 5.0).

    A group that was given such an entry keeps its ID in its pending list; a `StreamConsumer`
    acknowledges it when it comes across it.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    entry_ids : iterable of str, or pl.Series
        Their IDs, such as ``df["_id"]``. They are sent in commands of a thousand; without any
        nothing is sent.

    Returns
    -------
    int
        How many there were. After a lost connection the command is repeated, and what the lost one
        deleted is not counted.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError
        An ID is malformed; nothing has been sent.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events")
    >>> redfloe.delete_entries(url, "events", df.filter(pl.col("action") == "view")["_id"])
    1
    """
    url = _core.connect(url)
    asking = _core.delete_entries(url, as_key(stream, "stream"), as_ids(entry_ids))
    return asking.wait()


async def delete_entries_async(
    url: str | RedisConnection, stream: str | bytes, entry_ids: Iterable[str] | pl.Series
) -> int:
    """Delete entries by their IDs: the asynchronous twin of `delete_entries`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, entry_ids
        As for `delete_entries`.

    Returns
    -------
    int
        As for `delete_entries`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.delete_entries_async(url, "events", ["1704067200001-0"]))
    1
    """
    url = _core.connect(url)
    asking = _core.delete_entries(url, as_key(stream, "stream"), as_ids(entry_ids))
    return await completed(asking.start())


def trim_stream(
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    maxlen: int | None = None,
    minid: EntryIdLike | None = None,
    approximate: bool = True,
    limit: int | None = None,
) -> int:
    """Delete the oldest entries of a stream (XTRIM, Redis 5.0).

    Entries are deleted whether or not a group has read them, and whether or not they are pending.
    With `minid` a sharded stream's name stands for all its shards.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    maxlen : int, optional
        Keep this many entries, the newest.
    minid : str, int, date or datetime, optional
        Keep the entries from this ID on, ``"ms-seq"`` or ``"ms"``, or from this time on (Redis
        6.2). Either this or `maxlen` has to be given.
    approximate : bool, default True
        Delete only whole nodes of the server's tree, which is quick; it keeps some entries more
        than asked for, and all of a short stream. False deletes exactly.
    limit : int, optional
        Delete at most about this many entries, with `approximate` (Redis 6.2); 0 for no limit. By
        default the server has a limit of its own, a hundred nodes.

    Returns
    -------
    int
        How many entries were deleted; 0 where there is no such stream. After a lost connection the
        command is repeated, and what the lost one deleted is not counted.

    Raises
    ------
    ResponseError
        The server is too old for `minid` or `limit`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.trim_stream(url, "events", maxlen=1, approximate=False)
    1
    """
    url = _core.connect(url)
    trim = make_trim(maxlen=maxlen, minid=minid, approximate=approximate, limit=limit)
    asking = _core.trim_stream(url, as_key(stream, "stream"), **trim)
    return asking.wait()


async def trim_stream_async(
    url: str | RedisConnection,
    stream: str | bytes,
    *,
    maxlen: int | None = None,
    minid: EntryIdLike | None = None,
    approximate: bool = True,
    limit: int | None = None,
) -> int:
    """Delete the oldest entries of a stream: the asynchronous twin of `trim_stream`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, maxlen, minid, approximate, limit
        As for `trim_stream`.

    Returns
    -------
    int
        As for `trim_stream`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.trim_stream_async(url, "events", maxlen=1, approximate=False))
    1
    """
    url = _core.connect(url)
    trim = make_trim(maxlen=maxlen, minid=minid, approximate=approximate, limit=limit)
    asking = _core.trim_stream(url, as_key(stream, "stream"), **trim)
    return await completed(asking.start())
