"""Creating and deleting groups, their consumers, and claiming what is pending for these."""

from collections.abc import Iterable
from typing import Literal

import polars as pl

from redfloe import _core
from redfloe._checks import Milliseconds, as_ids, as_key, milliseconds, one_of
from redfloe._core import RedisConnection
from redfloe._errors import ResponseError
from redfloe._event_loop import completed
from redfloe._ids import EntryIdLike, group_start


def create_group(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    *,
    start_id: EntryIdLike = "0",
    make_stream: bool = True,
    if_exists: Literal["ignore", "fail"] = "ignore",
) -> bool:
    """Create a consumer group (XGROUP CREATE, Redis 5.0).

    Reads through a group create it too, unless they are told not to. A sharded stream's name stands
    for all its shards, each of which gets the group.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key and the group's name.
    start_id : str, int, date or datetime, default "0"
        Where it begins: after this ID, ``"ms-seq"`` or ``"ms"``; ``"0"`` delivers all entries that
        there are, ``"$"`` only those added later, and a datetime those from that time on.
    make_stream : bool, default True
        Create the stream where it is missing (MKSTREAM).
    if_exists : {"ignore", "fail"}, default "ignore"
        What to do where there is a group of that name: leave it as it is, or raise.

    Returns
    -------
    bool
        Whether the group was created. After a lost connection the command is repeated, and then
        finds the group that the lost one created.

    Raises
    ------
    ResponseError
        There is such a group and `if_exists` is "fail" (the code is ``"BUSYGROUP"``); there is no
        such stream and `make_stream` is False.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.create_group(url, "events", "billing", start_id="$")
    True
    >>> redfloe.create_group(url, "events", "billing")
    False
    """
    url = _core.connect(url)
    one_of(if_exists, "if_exists", "ignore", "fail")
    key, name = as_key(stream, "stream"), as_key(group, "group")
    start = group_start(start_id, "start_id")
    asking = _core.create_group(url, key, name, start, bool(make_stream))
    return _created(asking.wait(), stream, group, if_exists)


async def create_group_async(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    *,
    start_id: EntryIdLike = "0",
    make_stream: bool = True,
    if_exists: Literal["ignore", "fail"] = "ignore",
) -> bool:
    """Create a consumer group: the asynchronous twin of `create_group`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group, start_id, make_stream, if_exists
        As for `create_group`.

    Returns
    -------
    bool
        As for `create_group`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.create_group_async(url, "events", "billing"))
    True
    """
    url = _core.connect(url)
    one_of(if_exists, "if_exists", "ignore", "fail")
    key, name = as_key(stream, "stream"), as_key(group, "group")
    start = group_start(start_id, "start_id")
    asking = _core.create_group(url, key, name, start, bool(make_stream))
    return _created(await completed(asking.start()), stream, group, if_exists)


def _created(
    created: bool,
    stream: str | bytes,
    group: str | bytes,
    if_exists: str,
) -> bool:
    if not created and if_exists == "fail":
        msg = f"the group {group!r} exists already (stream: {stream!r})"
        raise ResponseError(msg, "BUSYGROUP")
    return created


def delete_group(url: str | RedisConnection, stream: str | bytes, group: str | bytes) -> bool:
    """Delete a consumer group, with its consumers and what is pending (XGROUP DESTROY, Redis 5.0).

    Workers that read through it get a `NoGroupError`. A sharded stream's name stands for all its
    shards.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key and the group's name.

    Returns
    -------
    bool
        Whether there was one. After a lost connection the command is repeated, and then finds none
        where the lost one deleted it.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.create_group(url, "events", "billing")
    True
    >>> redfloe.delete_group(url, "events", "billing")
    True
    >>> redfloe.delete_group(url, "events", "billing")
    False
    """
    url = _core.connect(url)
    asking = _core.delete_group(url, as_key(stream, "stream"), as_key(group, "group"))
    return asking.wait()


async def delete_group_async(
    url: str | RedisConnection, stream: str | bytes, group: str | bytes
) -> bool:
    """Delete a consumer group: the asynchronous twin of `delete_group`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group
        As for `delete_group`.

    Returns
    -------
    bool
        As for `delete_group`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.delete_group_async(url, "events", "billing"))
    False
    """
    url = _core.connect(url)
    asking = _core.delete_group(url, as_key(stream, "stream"), as_key(group, "group"))
    return await completed(asking.start())


def delete_consumer(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    consumer: str | bytes,
    *,
    if_pending: Literal["fail", "discard"] = "fail",
) -> int:
    """Delete a consumer from its group (XGROUP DELCONSUMER, Redis 5.0).

    What is pending for a consumer goes with it, so by default one that has anything pending is not
    deleted; that is found out in the same step (a script). A consumer that asks for entries again
    is created again.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group, consumer : str or bytes
        The stream's key, the group's and the consumer's name.
    if_pending : {"fail", "discard"}, default "fail"
        What to do where entries are pending for it: raise, or delete them from the pending list
        too. No consumer is given those entries again; look at `pending_entries` first.

    Returns
    -------
    int
        How many entries were pending for it and are gone with it: 0 but for "discard". 0 also where
        there is no such consumer. After a lost connection the command is repeated, and what the
        lost one deleted is not counted.

    Raises
    ------
    PendingEntriesError
        Entries are pending for it, and `if_pending` is "fail". Nothing is deleted.
    NoGroupError
        There is no such group, or no such stream.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> try:
    ...     redfloe.delete_consumer(url, "events", "billing", "worker-1")
    ... except redfloe.PendingEntriesError:
    ...     print(redfloe.ack_entries(url, "events", "billing", df["_id"]), "acknowledged")
    2 acknowledged
    >>> redfloe.delete_consumer(url, "events", "billing", "worker-1")
    0
    """
    url = _core.connect(url)
    one_of(if_pending, "if_pending", "fail", "discard")
    key, name = as_key(stream, "stream"), as_key(group, "group")
    discard = if_pending == "discard"
    asking = _core.delete_consumer(url, key, name, as_key(consumer, "consumer"), discard)
    return asking.wait()


async def delete_consumer_async(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    consumer: str | bytes,
    *,
    if_pending: Literal["fail", "discard"] = "fail",
) -> int:
    """Delete a consumer from its group: the asynchronous twin of `delete_consumer`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group, consumer, if_pending
        As for `delete_consumer`.

    Returns
    -------
    int
        As for `delete_consumer`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> redfloe.create_group(url, "events", "billing")
    True
    >>> asyncio.run(redfloe.delete_consumer_async(url, "events", "billing", "worker-1"))
    0
    """
    url = _core.connect(url)
    one_of(if_pending, "if_pending", "fail", "discard")
    key, name = as_key(stream, "stream"), as_key(group, "group")
    discard = if_pending == "discard"
    asking = _core.delete_consumer(url, key, name, as_key(consumer, "consumer"), discard)
    return await completed(asking.start())


def claim_entries(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    consumer: str | bytes,
    entry_ids: Iterable[str] | pl.Series,
    *,
    min_idle_ms: Milliseconds = 0,
) -> pl.Series:
    """Make pending entries those of another consumer (XCLAIM JUSTID, Redis 5.0).

    It is no delivery: their delivery counts stay. The consumer gets them when it reads its own
    pending entries, as workers and iterators do when they start, or `read_stream` with
    ``start_id="0"``. A `StreamConsumer` takes over by itself what others leave pending for long.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group, consumer : str or bytes
        The stream's key, the group's name, and that of the consumer they are to belong to, which is
        created where it is missing.
    entry_ids : iterable of str, or pl.Series
        Their IDs, such as ``pending_entries(...)["id"]``.
    min_idle_ms : int or timedelta, default 0
        Only those that were last delivered at least this many milliseconds ago, so that nothing is
        taken from a consumer that is at work on it.

    Returns
    -------
    pl.Series
        The IDs (String) of those that are the consumer's now. The others are not pending, were
        delivered too recently, or have been deleted from the stream (Redis 7.0).

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
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> redfloe.claim_entries(url, "events", "billing", "worker-2", df["_id"].head(1)).to_list()
    ['1704067200000-0']
    >>> redfloe.read_stream(
    ...     url, "events", group="billing", consumer="worker-2", start_id="0"
    ... ).height
    1
    """
    url = _core.connect(url)
    key, name, ids = as_key(stream, "stream"), as_key(group, "group"), as_ids(entry_ids)
    idle = milliseconds(min_idle_ms, "min_idle_ms")
    asking = _core.claim_entries(url, key, name, as_key(consumer, "consumer"), ids, idle)
    return pl.Series("_id", asking.wait(), pl.String)


async def claim_entries_async(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    consumer: str | bytes,
    entry_ids: Iterable[str] | pl.Series,
    *,
    min_idle_ms: Milliseconds = 0,
) -> pl.Series:
    """Make pending entries another consumer's: the asynchronous twin of `claim_entries`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group, consumer, entry_ids, min_idle_ms
        As for `claim_entries`.

    Returns
    -------
    pl.Series
        As for `claim_entries`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> claiming = redfloe.claim_entries_async(url, "events", "billing", "worker-2", df["_id"])
    >>> asyncio.run(claiming).len()
    2
    """
    url = _core.connect(url)
    key, name, ids = as_key(stream, "stream"), as_key(group, "group"), as_ids(entry_ids)
    idle = milliseconds(min_idle_ms, "min_idle_ms")
    asking = _core.claim_entries(url, key, name, as_key(consumer, "consumer"), ids, idle)
    claimed = await completed(asking.start())
    return pl.Series("_id", claimed, pl.String)
