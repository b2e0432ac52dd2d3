"""Reading a stream into a DataFrame."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import polars as pl

from redfloe import _core
from redfloe._arguments import Request, Streams, make_group, make_request
from redfloe._checks import Milliseconds, as_ids, as_key
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._options import DEFAULTS, ReadOptions, complete, takes
from redfloe._progress import Bar, check_bar, shown_of, with_bar
from redfloe._reading.batches import AsyncBatches
from redfloe._reading.shards import over_shards, over_shards_async
from redfloe._schema import as_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike

#: Batches of a read with a bar, which moves some times a second.
_BATCH_SIZE = 50_000
_BATCH_BYTES = 64 * 1024 * 1024


@takes(ReadOptions)
def read_stream(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike | None = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    block_ms: Milliseconds | None = None,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    auto_ack: bool = False,
    create_group: bool = True,
    *,
    last: int | None = None,
    progress: bool = False,
    group_start_id: EntryIdLike = "0",
    noack: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.DataFrame:
    """Read the entries of a Redis stream into a typed DataFrame, one row per entry.

    Reads what the stream holds when the call starts, in pages of XRANGE (Redis 5.0), so that a read
    ends even while entries are added. A missing or empty stream gives an empty frame with the same
    columns.

    Parameters
    ----------
    url : str or RedisConnection
        ``redis://[user[:password]@]host[:port][/database]``, ``rediss://`` for TLS, or
        ``unix:///path``; a `RedisConnection` where timeouts, retries or certificates are to be set.
    stream : str, bytes, or several of them
        The stream's key; or the keys of several streams, each once, whose entries become one frame:
        `order` and `on_schema_mismatch` say how, and ``_stream`` where a row comes from. Lengths
        are asked first (XLEN), and what fits is requested together. With a group entries come as
        they are delivered. An empty list gives an empty frame; `read_streams` takes a pattern.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as columns of exactly these dtypes in this order; other fields are
        skipped unread. Python's types serve too, a dict for a Struct and a list of one for a List.
        Without it every field that occurs becomes a String column, in order of first appearance.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last entry ID, both inclusive: ``"ms-seq"``, ``"ms"``, ``"(ms-seq"`` for an
        exclusive bound, ``"-"`` for the oldest, ``"+"`` for the newest, ``"$"`` as a start for what
        comes after the newest. An int is milliseconds. A datetime, or its ISO 8601 text, means its
        time in milliseconds, in UTC where it is naive; a date for its whole day, in UTC, so
        that ``end_id="2024-01-31"`` includes that day.
    count : int, optional
        Read at most this many entries, the oldest first; of several streams the first of the result
        in its `order`.
    block_ms : int or timedelta, optional
        Where no entry is there, wait up to this many milliseconds for one (XREAD BLOCK); 0 waits
        without limit. Ctrl-C ends the wait.
    group : str or bytes, optional
        Read as a member of this consumer group (XREADGROUP, Redis 5.0): new entries, which the
        server then keeps as pending for `consumer` until they are acknowledged. `start_id` None,
        ``">"`` or the default mean new entries, ``"0"`` this consumer's own pending ones.
    consumer : str or bytes, optional
        The name of this member, required with a group. Keep it the same across restarts: what was
        pending for a name that never comes back stays pending.
    auto_ack : bool, default False
        Acknowledge the entries (XACK) once the frame is built, before it is returned; a crash or an
        exception before that leaves them pending. Where the connection is lost meanwhile, so that
        nobody knows whether the server received it, the frame is returned anyway, and its entries
        may come again. See `ack_entries`.
    create_group : bool, default True
        Create stream and group where they are missing (XGROUP CREATE MKSTREAM).
    last : int, optional
        Read only this many entries, the newest, in stream order: `last=100` gives the last hundred.
        Of several streams they are the last rows of the result in its `order`. Where they begin is
        found by XREVRANGE. Not with `count`, `block_ms` or a group.
    progress : bool, default False
        Show a bar, by tqdm (``pip install tqdm``): rows, rows a second, the size of the columns,
        and of one stream the share of the range of IDs. Not with `block_ms` or a group.
    group_start_id : str, int, date or datetime, default "0"
        Where a group that is created begins: after this ID, ``"ms-seq"`` or ``"ms"``; ``"0"``
        delivers all existing entries, ``"$"`` only those added later, and a datetime those from
        that time on.
    noack : bool, default False
        Have the server acknowledge what it sends (NOACK): entries on a connection that breaks are
        lost.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    pl.DataFrame
        One row per entry, in stream order; of several streams in the `order` that is asked for.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        The server cannot be reached, is silent, or refuses the user.
    WrongTypeError
        The key is not a stream.
    NoStreamError
        The stream does not exist, and `must_exist` is True.
    NoGroupError
        The group does not exist, and `create_group` is False; or it was deleted meanwhile.
    SchemaError
        A field has the name of a metadata column, or a dtype that has no text form.
    DecodeError
        A text does not fit its dtype, and `on_error` is "raise".
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> df = redfloe.read_stream(
    ...     url,
    ...     "events",
    ...     schema={"user_id": pl.String, "value": pl.Int64},
    ... )
    >>> df
    shape: (2, 4)
    ┌─────────────────┬───────────────┬─────────┬───────┐
    │ _id             ┆ _ts           ┆ user_id ┆ value │
    │ ---             ┆ ---           ┆ ---     ┆ ---   │
    │ str             ┆ i64           ┆ str     ┆ i64   │
    ╞═════════════════╪═══════════════╪═════════╪═══════╡
    │ 1704067200000-0 ┆ 1704067200000 ┆ user_1  ┆ 10    │
    │ 1704067200001-0 ┆ 1704067200001 ┆ user_2  ┆ null  │
    └─────────────────┴───────────────┴─────────┴───────┘
    """
    url = _core.connect(url)
    arguments = (
        *(stream, schema, start_id, end_id, group_start_id),
        *(count, last, block_ms, group, consumer, auto_ack, create_group, noack),
    )
    if progress is not False:
        request = _request(complete(options, read_stream), *arguments)
        check_bar(progress, is_bounded=group is None and block_ms is None)
        whole = _read_with_bar(url, request)
        if whole is not None:
            return whole
    return _read(url, _prepared(options, read_stream, *arguments))


class _Prepared(NamedTuple):
    """A request, and the same as the core has checked it."""

    request: Request
    checked: _core.PreparedRead


def _read(url: RedisConnection, prepared: _Prepared) -> pl.DataFrame:
    if prepared.request["group"] is not None:  # others look at shards in the core
        return over_shards(
            url,
            prepared.request,
            lambda request: _core.read_stream(url, _core.PreparedRead(request), of_batch),
        )
    return _core.read_stream(url, prepared.checked, of_batch)


async def _read_async(url: RedisConnection, prepared: _Prepared) -> pl.DataFrame:
    if prepared.request["group"] is not None:
        return await over_shards_async(
            url, prepared.request, lambda request: _checked_async(url, _core.PreparedRead(request))
        )
    return await _checked_async(url, prepared.checked)


async def _checked_async(url: RedisConnection, checked: _core.PreparedRead) -> pl.DataFrame:
    frame, rest = await completed(_core.start_read_stream(url, checked, of_batch))
    if rest is not None:
        await completed(rest.start())
    return frame


def _request(
    options: ReadOptions,
    stream: Streams,
    schema: SchemaLike | None,
    start_id: EntryIdLike | None,
    end_id: EntryIdLike,
    group_start_id: EntryIdLike,
    count: int | None,
    last: int | None,
    block_ms: Milliseconds | None,
    group: str | bytes | None,
    consumer: str | bytes | None,
    auto_ack: bool,
    create_group: bool,
    noack: bool,
) -> Request:
    """Check and normalise the arguments of `read_stream`."""
    members = make_group(
        group,
        consumer,
        auto_ack=auto_ack,
        create_group=create_group,
        group_start_id=group_start_id,
        noack=noack,
        start_id=start_id,
        own_pending="skip",
    )
    return make_request(
        stream,
        takes_several=True,
        schema=schema,
        start_id="-" if start_id is None else start_id,
        end_id=end_id,
        count=count,
        last=last,
        block_ms=block_ms,
        options=options,
        group=members,
    )


def _prepared(
    options: ReadOptions,
    function: Callable[..., object],
    stream: Any,
    schema: Any,
    start_id: Any,
    end_id: Any,
    group_start_id: Any,
    *others: Any,
) -> _Prepared:
    """Check the arguments of `read_stream`, once for calls with the same ones."""
    ids = start_id, end_id, group_start_id
    # What is no text may be equal and not the same, such as two datetimes of one hour in autumn.
    if not options and type(start_id) is type(end_id) is type(group_start_id) is str:
        if schema is not None:
            schema = as_schema(schema)
        try:
            return _remembered(stream, schema, *ids, *others)
        except TypeError:
            pass  # one that has no hash, or is refused, which the last line says
    request = _request(complete(options, function), stream, schema, *ids, *others)
    return _Prepared(request, _core.PreparedRead(request))


def _prepared_by_default(*arguments: Any) -> _Prepared:
    request = _request(DEFAULTS, *arguments)
    return _Prepared(request, _core.PreparedRead(request))


#: To check arguments takes longer than to read an entry.
_remembered = lru_cache(maxsize=256, typed=True)(_prepared_by_default)


def _read_with_bar(url: RedisConnection, request: Request) -> pl.DataFrame | None:
    """Read in batches, so that there is something to tell between them; None without an entry."""
    return over_shards(url, request, lambda asked: _of_batches(url, asked))


async def _read_with_bar_async(url: RedisConnection, request: Request) -> pl.DataFrame | None:
    """Do the same in an event loop."""
    return await over_shards_async(url, request, lambda asked: _of_batches_async(url, asked))


def _of_batches(url: RedisConnection, request: Request) -> pl.DataFrame | None:
    bounds = None
    if request["many"] is None and (bounds := _core.pin(url, request)) is None:
        return None
    reader = _core.BatchReader(url, _in_batches(request, bounds), follow=False)
    batches = with_bar(iter(reader.next_batch, None), _title(request), bounds)
    return _whole([of_batch(batch) for batch in batches])


async def _of_batches_async(url: RedisConnection, request: Request) -> pl.DataFrame | None:
    bounds = None
    if request["many"] is None:
        bounds = await completed(_core.start_pin(url, request))
        if bounds is None:
            return None
    reader = _core.AsyncBatchReader(url, _in_batches(request, bounds), follow=False)
    batches = AsyncBatches(reader)
    frames = []
    with Bar(_title(request)) as bar:
        while (offer := await batches.next(lambda batch: batch)) is not None:
            bar.add_batch(offer.value, bounds)
            frames.append(of_batch(offer.value))
            offer.accepted = True
    return _whole(frames)


def _title(request: Request) -> str:
    return f"read of {shown_of(request)}"


def _in_batches(
    request: Request, bounds: tuple[tuple[int, int], tuple[int, int]] | None
) -> Request:
    request = request.copy()
    if bounds is not None:
        request["start_id"], request["end_id"] = ("{}-{}".format(*bound) for bound in bounds)
        request["last"] = None
    request["batch_size"], request["batch_bytes"] = _BATCH_SIZE, _BATCH_BYTES
    return request


def _whole(frames: list[pl.DataFrame]) -> pl.DataFrame | None:
    if not frames:
        return None
    # A batch has every column of those before it, in the order of a whole read.
    return pl.concat(frames, how="diagonal", rechunk=True).select(frames[-1].columns)


async def read_stream_async(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike | None = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    block_ms: Milliseconds | None = None,
    group: str | bytes | None = None,
    consumer: str | bytes | None = None,
    auto_ack: bool = False,
    create_group: bool = True,
    *,
    last: int | None = None,
    progress: bool = False,
    group_start_id: EntryIdLike = "0",
    noack: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.DataFrame:
    """Read entries into a typed DataFrame: the asynchronous twin of `read_stream`.

    Where its task is cancelled, the connection is closed; entries of a group that were on their way
    stay pending.

    Parameters
    ----------
    url, stream, schema, start_id, end_id, count, block_ms, last, progress
        As for `read_stream`.
    group, consumer, auto_ack, create_group, group_start_id, noack
        As for `read_stream`.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    pl.DataFrame
        As for `read_stream`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.read_stream_async(url, "events", count=1))["action"].to_list()
    ['click']
    """
    url = _core.connect(url)
    arguments = (
        *(stream, schema, start_id, end_id, group_start_id),
        *(count, last, block_ms, group, consumer, auto_ack, create_group, noack),
    )
    if progress is not False:
        request = _request(complete(options, read_stream_async), *arguments)
        check_bar(progress, is_bounded=group is None and block_ms is None)
        whole = await _read_with_bar_async(url, request)
        if whole is not None:
            return whole
    return await _read_async(url, _prepared(options, read_stream_async, *arguments))


def ack_entries(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    entry_ids: Iterable[str] | pl.Series,
) -> int:
    """Acknowledge entries of a consumer group: they are done with, and no longer pending.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream, group : str or bytes
        The stream's key, and the group that the entries were read through.
    entry_ids : iterable of str, or pl.Series
        Their IDs, such as ``df["_id"]``. They are sent in commands of a thousand (XACK, Redis 5.0);
        without any nothing is sent.

    Returns
    -------
    int
        How many were pending. One that is not, or is unknown, is no error. After a lost connection
        the command is repeated, and what the lost one acknowledged is not counted.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError
        An ID is malformed; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> redfloe.ack_entries(url, "events", "billing", df["_id"])
    2
    """
    url = _core.connect(url)
    ids = as_ids(entry_ids)
    return _acknowledge(url, as_key(stream, "stream"), as_key(group, "group"), ids)


async def ack_entries_async(
    url: str | RedisConnection,
    stream: str | bytes,
    group: str | bytes,
    entry_ids: Iterable[str] | pl.Series,
) -> int:
    """Acknowledge entries of a consumer group: the asynchronous twin of `ack_entries`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, stream, group, entry_ids
        As for `ack_entries`.

    Returns
    -------
    int
        How many were pending, as for `ack_entries`.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `read_stream`.
    ValueError
        An ID is malformed; nothing has been sent.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> df = redfloe.read_stream(url, "events", group="billing", consumer="worker-1")
    >>> asyncio.run(redfloe.ack_entries_async(url, "events", "billing", df["_id"]))
    2
    """
    url = _core.connect(url)
    ids = as_ids(entry_ids)
    return await _acknowledge_async(url, as_key(stream, "stream"), as_key(group, "group"), ids)


def _acknowledge(url: RedisConnection, stream: bytes, group: bytes, ids: list[str]) -> int:
    return _core.ack_entries(url, stream, group, ids).wait()


async def _acknowledge_async(
    url: RedisConnection, stream: bytes, group: bytes, ids: list[str]
) -> int:
    return await completed(_core.ack_entries(url, stream, group, ids).start())


# Not as a decorator, with which type checkers take it for a plain function.
takes(ReadOptions)(read_stream_async)
