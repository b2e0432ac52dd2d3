"""Positions in streams, for programs that keep their own progress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._checks import as_key, natural
from redfloe._errors import WrongTypeError
from redfloe._event_loop import completed
from redfloe._ids import entry_id
from redfloe._reading.shards import shards_of, shards_of_async

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redfloe._arguments import Streams
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike

#: The largest number in an entry ID.
_LARGEST = 2**64 - 1


def _keys(stream: Streams) -> list[bytes]:
    if isinstance(stream, str | bytes):
        return [as_key(stream, "stream")]
    return [as_key(key, "each of several streams") for key in stream]


def stream_offsets(
    url: str | RedisConnection, stream: Streams, at: EntryIdLike = "$"
) -> dict[str, str]:
    """Give the positions in streams from which a read would give the entries from `at` on.

    A position is the ID of the last entry before that, ``0-0`` where there is none: what has been
    read. The dict is JSON as it is, to be kept wherever a program keeps its progress. XREVRANGE
    (Redis 5.0), of many streams in one round trip.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams. Of a sharded stream the result has its
        shards.
    at : str, int, date or datetime, default "$"
        ``"$"`` is after the newest entries now, ``"-"`` before the oldest, and an ID or a time is
        that of the first entry wanted.

    Returns
    -------
    dict of str to str
        An ID for each stream.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> redfloe.stream_offsets(url, "events")
    {'events': '1704067200001-0'}
    >>> redfloe.stream_offsets(url, "events", "-")
    {'events': '0-0'}
    """
    url = _core.connect(url)
    keys = _keys(stream)
    start_id = entry_id(at, "at", round_up=True)
    try:
        return _named(keys, _core.stream_offsets(url, keys, start_id).wait())
    except WrongTypeError:
        keys = shards_of(url, stream)
        if not keys:
            raise
    return _named(keys, _core.stream_offsets(url, keys, start_id).wait())


async def stream_offsets_async(
    url: str | RedisConnection, stream: Streams, at: EntryIdLike = "$"
) -> dict[str, str]:
    """Give positions in streams: the asynchronous twin of `stream_offsets`.

    Parameters
    ----------
    url, stream, at
        As for `stream_offsets`.

    Returns
    -------
    dict of str to str
        As for `stream_offsets`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.stream_offsets_async(url, "events"))
    {'events': '1704067200001-0'}
    """
    url = _core.connect(url)
    keys = _keys(stream)
    start_id = entry_id(at, "at", round_up=True)
    try:
        return _named(keys, await completed(_core.stream_offsets(url, keys, start_id).start()))
    except WrongTypeError:
        keys = await shards_of_async(url, stream)
        if not keys:
            raise
    return _named(keys, await completed(_core.stream_offsets(url, keys, start_id).start()))


def _named(keys: list[bytes], offsets: list[str]) -> dict[str, str]:
    return {_name(key): offset for key, offset in zip(keys, offsets, strict=True)}


def _ends(
    offsets: Mapping[str, str], up_to: Mapping[str, str]
) -> tuple[list[bytes], list[str], list[str]]:
    keys = [name.encode() for name in up_to]
    return keys, [offset_in(offsets, key) for key in keys], list(up_to.values())


def advance_offsets(
    url: str | RedisConnection,
    offsets: Mapping[str, str],
    count: int,
    *,
    up_to: Mapping[str, str],
) -> dict[str, str]:
    """Give the positions `count` entries in all after `offsets`, and none beyond `up_to`.

    As many of each stream, and more of some where others have fewer. Redis has no index by rank:
    the server sends these entries, by XRANGE (Redis 5.0), and we skip them; that takes about as
    long as to read them into one column.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    offsets : mapping of str to str
        The positions from which to go on; a stream that is not among them begins at its oldest
        entry.
    count : int
        How many entries, of all streams together.
    up_to : mapping of str to str
        The positions to stop at, such as the newest entries', by `stream_offsets`.

    Returns
    -------
    dict of str to str
        An ID for each stream of `up_to`; equal to `up_to` where there are no more entries.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> end = redfloe.stream_offsets(url, "events")
    >>> redfloe.advance_offsets(url, {}, 1, up_to=end)
    {'events': '1704067200000-0'}
    """
    url = _core.connect(url)
    keys, after, ends = _ends(offsets, up_to)
    count = natural(count, "count")
    return _named(keys, _core.advance_offsets(url, keys, after, ends, count).wait())


async def advance_offsets_async(
    url: str | RedisConnection,
    offsets: Mapping[str, str],
    count: int,
    *,
    up_to: Mapping[str, str],
) -> dict[str, str]:
    """Give positions some entries later: the asynchronous twin of `advance_offsets`.

    Parameters
    ----------
    url, offsets, count, up_to
        As for `advance_offsets`.

    Returns
    -------
    dict of str to str
        As for `advance_offsets`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> end = redfloe.stream_offsets(url, "events")
    >>> asyncio.run(redfloe.advance_offsets_async(url, end, 5, up_to=end)) == end
    True
    """
    url = _core.connect(url)
    keys, after, ends = _ends(offsets, up_to)
    count = natural(count, "count")
    advancing = _core.advance_offsets(url, keys, after, ends, count).start()
    return _named(keys, await completed(advancing))


def check_offsets(
    url: RedisConnection, offsets: Mapping[str, str], *, are_entries: bool = True
) -> None:
    """Raise where entries after these positions may be lost: trimmed, or with the stream.

    Also where the server has lost the end of a stream, if the positions `are_entries` that have
    been read, rather than places between entries.
    """
    keys = [name.encode() for name in offsets]
    _core.check_offsets(url, keys, list(offsets.values()), are_entries).wait()


def offset_in(offsets: Mapping[str, str], key: bytes) -> str:
    """Give the position in a stream; the beginning where there is none, as of one that is new."""
    return offsets.get(_name(key), "0-0")


def _name(key: bytes) -> str:
    """Give a key as the name that it has in JSON."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        msg = f"offsets are JSON, in which the key {key!r} has no name: it is not UTF-8"
        raise ValueError(msg) from None


def as_pair(offset: str) -> tuple[int, int]:
    """Give an offset as the two numbers of an ID."""
    ms, _, seq = offset.partition("-")
    try:
        pair = int(ms), int(seq)
    except ValueError:
        pair = (-1, -1)
    if not all(0 <= number <= _LARGEST for number in pair):
        msg = f"an offset is an entry ID, ms-seq, not {offset!r}"
        raise ValueError(msg)
    return pair


def pair_after(offset: str) -> tuple[int, int]:
    """Give the ID after an offset."""
    ms, seq = as_pair(offset)
    if seq < _LARGEST:
        return ms, seq + 1
    return (ms + 1, 0) if ms < _LARGEST else (ms, seq)
