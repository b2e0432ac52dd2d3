"""The server's view of streams and groups, and administration."""

from typing import Literal

import polars as pl

from redfloe import _core
from redfloe._arguments import Milliseconds, as_key, make_pending_filter, make_trim, one_of
from redfloe._core import RedisConnection
from redfloe._errors import ResponseError
from redfloe._ids import EntryIdLike, group_start


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
    return pl.DataFrame(_core.stream_info(url, as_key(stream, "stream")))


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
    return pl.DataFrame(_core.group_info(url, as_key(stream, "stream")))


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
    return pl.DataFrame(_core.consumer_info(url, as_key(stream, "stream"), as_key(group, "group")))


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
    return pl.DataFrame(_core.pending_entries(url, key, name, **wanted))


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

    Reads through a group create it too, unless they are told not to.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key and the group's name.
    start_id : str, int, date or datetime, default "0"
        Where it begins: behind this ID, ``"ms-seq"`` or ``"ms"``; ``"0"`` delivers all entries that
        there are, ``"$"`` those to come, and a datetime those from that time on.
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
    created = _core.create_group(url, key, name, start, bool(make_stream))
    if not created and if_exists == "fail":
        msg = f"the group {group!r} exists already (stream: {stream!r})"
        raise ResponseError(msg, "BUSYGROUP")
    return created


def delete_group(url: str | RedisConnection, stream: str | bytes, group: str | bytes) -> bool:
    """Delete a consumer group, with its consumers and what is pending (XGROUP DESTROY, Redis 5.0).

    Workers that read through it get a `NoGroupError`.

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
    return _core.delete_group(url, as_key(stream, "stream"), as_key(group, "group"))


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
    return _core.delete_consumer(url, key, name, as_key(consumer, "consumer"), discard)


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
        Delete only where a whole node of the server's tree can go, which is quick; some entries
        more are kept, and all of a short stream. False deletes exactly.
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
    return _core.trim_stream(url, as_key(stream, "stream"), **trim)
