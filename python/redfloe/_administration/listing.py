"""All streams of a server, and their groups."""

import polars as pl

from redfloe import _core
from redfloe._checks import as_key
from redfloe._core import RedisConnection
from redfloe._event_loop import completed


def list_streams(url: str | RedisConnection, pattern: str | bytes = "*") -> pl.DataFrame:
    r"""List the streams of a server (SCAN TYPE, Redis 6.0; XINFO STREAM, MEMORY USAGE).

    SCAN goes through all keys of the database, in commands of a thousand. What is created or
    deleted meanwhile may be listed or not.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    pattern : str or bytes, default "*"
        Only those whose key matches, as the server understands it: ``*`` stands for any text, ``?``
        for one character, ``[ab]`` for one of several, and a backslash goes before one of these
        that is meant itself.

    Returns
    -------
    pl.DataFrame
        One row a stream, in the order of their keys. What the server is too old to know is null.

        - ``stream`` (String): its key; ``\xff`` stands for a byte that is not UTF-8
        - ``length`` (Int64): how many entries it has
        - ``memory`` (Int64): how many bytes it takes, estimated by the server from a sample; null
          where the user may not ask, or the server does not have the command
        - ``groups`` (Int64): how many consumer groups
        - ``entries_added`` (Int64): how many entries it ever had; Redis 7.0
        - ``first_entry_id``, ``last_entry_id`` (String): of the oldest and the newest entry; null
          where it is empty
        - ``first_entry_time``, ``last_entry_time`` (Datetime in milliseconds, UTC): the times in
          these IDs

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.list_streams(url, "ev*").select("stream", "length", "groups").rows()
    [('events', 2, 0)]
    """
    url = _core.connect(url)
    return pl.DataFrame(_core.list_streams(url, as_key(pattern, "pattern")).wait())


async def list_streams_async(
    url: str | RedisConnection, pattern: str | bytes = "*"
) -> pl.DataFrame:
    """List the streams of a server: the asynchronous twin of `list_streams`.

    Where its task is cancelled, what was begun goes on.

    Parameters
    ----------
    url, pattern
        As for `list_streams`.

    Returns
    -------
    pl.DataFrame
        As for `list_streams`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.list_streams_async(url))["stream"].to_list()
    ['events']
    """
    url = _core.connect(url)
    asking = _core.list_streams(url, as_key(pattern, "pattern"))
    columns = await completed(asking.start())
    return pl.DataFrame(columns)


def list_groups(url: str | RedisConnection, pattern: str | bytes = "*") -> pl.DataFrame:
    r"""List the consumer groups of a server's streams, and how far behind they are.

    A group's lag has two measures: the entries that wait to be delivered, which the server counts
    (XINFO GROUPS), and how long the oldest of them has waited, which the time in its ID tells
    (XRANGE COUNT 1, TIME). The second is always known.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    pattern : str or bytes, default "*"
        Only those of streams whose key matches, as for `list_streams`.

    Returns
    -------
    pl.DataFrame
        One row a group, in the order of the streams' keys.

        - ``stream``, ``group`` (String): their names; ``\xff`` stands for a byte that is not UTF-8
        - ``consumers`` (Int64): how many it has
        - ``pending`` (Int64): entries that were delivered and not acknowledged
        - ``lag`` (Int64): how many entries wait to be delivered; null where the server cannot tell,
          such as after entries were deleted; Redis 7.0
        - ``lag_time`` (Duration in milliseconds): how long the oldest of them has waited; zero
          where none does
        - ``last_delivered_id`` (String): new entries are those with greater IDs
        - ``next_entry_id`` (String): the oldest entry that waits; null where none does

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        As for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1", count=1)
    >>> redfloe.list_groups(url).select("stream", "group", "pending", "lag").rows()
    [('events', 'billing', 1, 1)]
    """
    url = _core.connect(url)
    return pl.DataFrame(_core.list_groups(url, as_key(pattern, "pattern")).wait())


async def list_groups_async(url: str | RedisConnection, pattern: str | bytes = "*") -> pl.DataFrame:
    """List the consumer groups of a server's streams: the asynchronous twin of `list_groups`.

    Where its task is cancelled, what was begun goes on.

    Parameters
    ----------
    url, pattern
        As for `list_groups`.

    Returns
    -------
    pl.DataFrame
        As for `list_groups`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1", count=1)
    >>> asyncio.run(redfloe.list_groups_async(url))["group"].to_list()
    ['billing']
    """
    url = _core.connect(url)
    asking = _core.list_groups(url, as_key(pattern, "pattern"))
    columns = await completed(asking.start())
    return pl.DataFrame(columns)
