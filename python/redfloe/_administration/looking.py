"""The server's view of streams and groups."""

import polars as pl

from redfloe import _core
from redfloe._administration.arguments import make_pending_filter
from redfloe._checks import Milliseconds, as_key
from redfloe._core import RedisConnection
from redfloe._event_loop import completed
from redfloe._ids import EntryIdLike


def stream_info(url: str | RedisConnection, stream: str | bytes) -> pl.DataFrame:
    """Describe a stream, in one row (XINFO STREAM, Redis 5.0).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.

    Returns
    -------
    pl.DataFrame
        One row, or none where there is no such stream. What the server is too old to know is null.

        - ``length`` (Int64): how many entries it has
        - ``groups`` (Int64): how many consumer groups
        - ``radix_tree_keys``, ``radix_tree_nodes`` (Int64): the tree that holds the entries
        - ``last_generated_id`` (String): the greatest ID that it ever had
        - ``max_deleted_entry_id`` (String): the greatest ID that was deleted, ``"0-0"`` for none;
          Redis 7.0
        - ``entries_added`` (Int64): how many entries it ever had; Redis 7.0
        - ``first_entry_id``, ``last_entry_id`` (String): of the oldest and the newest entry; null
          where it is empty
        - ``first_entry_time``, ``last_entry_time`` (Datetime in milliseconds, UTC): the times in
          these IDs

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> info = redfloe.stream_info(url, "events")
    >>> info.select("length", "groups", "first_entry_id").row(0)
    (2, 0, '1704067200000-0')
    >>> info["last_entry_time"].item().isoformat()
    '2024-01-01T00:00:00.001000+00:00'
    """
    url = _core.connect(url)
    asking = _core.stream_info(url, as_key(stream, "stream"))
    return pl.DataFrame(asking.wait())


async def stream_info_async(url: str | RedisConnection, stream: str | bytes) -> pl.DataFrame:
    """Describe a stream: the asynchronous twin of `stream_info`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream
        As for `stream_info`.

    Returns
    -------
    pl.DataFrame
        As for `stream_info`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.stream_info_async(url, "events"))["length"].item()
    2
    """
    url = _core.connect(url)
    asking = _core.stream_info(url, as_key(stream, "stream"))
    columns = await completed(asking.start())
    return pl.DataFrame(columns)


def group_info(url: str | RedisConnection, stream: str | bytes) -> pl.DataFrame:
    r"""Describe the consumer groups of a stream, one a row (XINFO GROUPS, Redis 5.0).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.

    Returns
    -------
    pl.DataFrame
        One row a group, none where there is no such stream.

        - ``name`` (String): the group's; ``\xff`` stands for a byte that is not UTF-8
        - ``consumers`` (Int64): how many it has
        - ``pending`` (Int64): entries that were delivered and not acknowledged
        - ``last_delivered_id`` (String): new entries are those with greater IDs
        - ``entries_read`` (Int64): how many entries were delivered; null where the server cannot
          tell; Redis 7.0
        - ``lag`` (Int64): how many entries wait to be delivered; null where the server cannot tell,
          such as after entries were deleted; Redis 7.0

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1", count=1)
    >>> redfloe.group_info(url, "events").select("name", "pending", "lag").rows()
    [('billing', 1, 1)]
    """
    url = _core.connect(url)
    asking = _core.group_info(url, as_key(stream, "stream"))
    return pl.DataFrame(asking.wait())


async def group_info_async(url: str | RedisConnection, stream: str | bytes) -> pl.DataFrame:
    """Describe the groups of a stream: the asynchronous twin of `group_info`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream
        As for `group_info`.

    Returns
    -------
    pl.DataFrame
        As for `group_info`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.group_info_async(url, "events")).height
    0
    """
    url = _core.connect(url)
    asking = _core.group_info(url, as_key(stream, "stream"))
    columns = await completed(asking.start())
    return pl.DataFrame(columns)


def consumer_info(
    url: str | RedisConnection, stream: str | bytes, group: str | bytes
) -> pl.DataFrame:
    r"""Describe the consumers of a group, one a row (XINFO CONSUMERS, Redis 5.0).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key and the group's name.

    Returns
    -------
    pl.DataFrame
        One row a consumer.

        - ``name`` (String): the consumer's; ``\xff`` stands for a byte that is not UTF-8
        - ``pending`` (Int64): entries that it has not acknowledged
        - ``idle`` (Duration in milliseconds): since it last asked for entries
        - ``inactive`` (Duration in milliseconds): since it last got one; null where it never did,
          or the server is older than Redis 7.2

    Raises
    ------
    NoGroupError
        There is no such group, or no such stream.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> redfloe.consumer_info(url, "events", "billing").select("name", "pending").rows()
    [('worker-1', 2)]
    """
    url = _core.connect(url)
    asking = _core.consumer_info(url, as_key(stream, "stream"), as_key(group, "group"))
    return pl.DataFrame(asking.wait())


async def consumer_info_async(
    url: str | RedisConnection, stream: str | bytes, group: str | bytes
) -> pl.DataFrame:
    """Describe the consumers of a group: the asynchronous twin of `consumer_info`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group
        As for `consumer_info`.

    Returns
    -------
    pl.DataFrame
        As for `consumer_info`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> asyncio.run(redfloe.consumer_info_async(url, "events", "billing"))["name"].to_list()
    ['worker-1']
    """
    url = _core.connect(url)
    asking = _core.consumer_info(url, as_key(stream, "stream"), as_key(group, "group"))
    columns = await completed(asking.start())
    return pl.DataFrame(columns)


def pending_entries(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    *,
    consumer: str | bytes | None = None,
    min_idle_ms: Milliseconds | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
) -> pl.DataFrame:
    r"""List the entries of a group that were delivered and not acknowledged.

    They are listed in commands of ten thousand (XPENDING, Redis 5.0), in the order of their IDs, so
    that a long list does not keep other clients waiting. It is no snapshot: what is acknowledged or
    delivered meanwhile may be in it or not.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key and the group's name.
    consumer : str or bytes, optional
        Only this consumer's.
    min_idle_ms : int or timedelta, optional
        Only those that were last delivered at least this many milliseconds ago, and those that were
        given back. Servers before Redis 6.2 send all, and the others are left out here.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, both inclusive, as for `read_stream`.
    count : int, optional
        At most this many, those with the smallest IDs.

    Returns
    -------
    pl.DataFrame
        One row an entry, which may have been deleted from the stream meanwhile.

        - ``id`` (String): the entry's ID
        - ``consumer`` (String): whose it is; ``\xff`` stands for a byte that is not UTF-8; null
          where it was given back (XNACK, Redis 8.8) and is nobody's yet
        - ``idle`` (Duration in milliseconds): since it was last delivered; null where it was given
          back
        - ``delivery_count`` (Int64): how often it was delivered

    Raises
    ------
    NoGroupError
        There is no such group, or no such stream.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1", count=1)
    >>> pending = redfloe.pending_entries(url, "events", "billing")
    >>> pending.select("id", "consumer", "delivery_count").rows()
    [('1704067200000-0', 'worker-1', 1)]
    """
    url = _core.connect(url)
    wanted = make_pending_filter(
        consumer=consumer,
        min_idle_ms=min_idle_ms,
        start_id=start_id,
        end_id=end_id,
        count=count,
    )
    key, name = as_key(stream, "stream"), as_key(group, "group")
    asking = _core.pending_entries(url, key, name, **wanted)
    return pl.DataFrame(asking.wait())


async def pending_entries_async(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    *,
    consumer: str | bytes | None = None,
    min_idle_ms: Milliseconds | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
) -> pl.DataFrame:
    """List a group's pending entries: the asynchronous twin of `pending_entries`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group, consumer, min_idle_ms, start_id, end_id, count
        As for `pending_entries`.

    Returns
    -------
    pl.DataFrame
        As for `pending_entries`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1", count=1)
    >>> asyncio.run(redfloe.pending_entries_async(url, "events", "billing"))["id"].to_list()
    ['1704067200000-0']
    """
    url = _core.connect(url)
    wanted = make_pending_filter(
        consumer=consumer,
        min_idle_ms=min_idle_ms,
        start_id=start_id,
        end_id=end_id,
        count=count,
    )
    key, name = as_key(stream, "stream"), as_key(group, "group")
    asking = _core.pending_entries(url, key, name, **wanted)
    columns = await completed(asking.start())
    return pl.DataFrame(columns)
