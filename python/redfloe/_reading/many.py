"""Reading the streams that a pattern matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from redfloe import _core
from redfloe._arguments import Request, make_request
from redfloe._checks import as_key
from redfloe._event_loop import completed
from redfloe._options import ReadOptions, complete, takes
from redfloe._progress import check_bar
from redfloe._reading import read
from redfloe._reading.scan import of_streams, scan_of
from redfloe._words import readable

if TYPE_CHECKING:
    import polars as pl

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike


@takes(ReadOptions)
def read_streams(
    url: str | RedisConnection,
    pattern: str | bytes = "*",
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    last: int | None = None,
    progress: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.DataFrame:
    """Read the entries of all streams whose keys match a pattern into one DataFrame.

    The streams are found by SCAN TYPE (Redis 6.0), which goes through all keys of the database, and
    are read in the order of their keys as a list of them is by `read_stream`: what is there when
    the call starts, by XLEN and XRANGE (Redis 5.0), of many streams in one round trip.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    pattern : str or bytes, default "*"
        As the server understands it: ``*`` stands for any text, ``?`` for one character, ``[ab]``
        for one of several, and a backslash goes before one of these that is meant itself.
        `read_stream` takes a list of keys.
    schema, start_id, end_id
        As for `read_stream`, for each of the streams.
    count, last : int, optional
        Read only the first, or the last, of the rows, as for `read_stream`.
    progress : bool, default False
        Show a bar, as `read_stream` does.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`. With `must_exist` a
        pattern that no stream matches raises `NoStreamError`.

    Returns
    -------
    pl.DataFrame
        One row per entry, with the stream's key as ``_stream``. Without any stream it is empty.

    Raises
    ------
    NoStreamError
        No stream matches, and `must_exist` is True.
    SchemaError
        The streams do not have the same fields, and `on_schema_mismatch` is "raise"; and as for
        `read_stream`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, DecodeError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> df = redfloe.read_streams(url, "ev*", order="id")
    >>> df.select("_id", "_stream", "action").rows()
    [('1704067200000-0', 'events', 'click'), ('1704067200001-0', 'events', 'view')]
    """
    url = _core.connect(url)
    taken = complete(options, read_streams)
    key, request = _begin(url, pattern, taken, schema, start_id, end_id, count, last, progress)
    found = _core.find_streams(url, key, request["must_exist"]).wait()
    request = of_streams(request, found)
    if progress and (whole := read._read_with_bar(url, request)) is not None:
        return whole
    return read._read(url, read._Prepared(request, _core.PreparedRead(request)))


async def read_streams_async(
    url: str | RedisConnection,
    pattern: str | bytes = "*",
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    last: int | None = None,
    progress: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.DataFrame:
    """Read all streams that match a pattern: the asynchronous twin of `read_streams`.

    Parameters
    ----------
    url, pattern, schema, start_id, end_id, count, last, progress
        As for `read_streams`.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    pl.DataFrame
        As for `read_streams`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.read_streams_async(url, "ev*"))["_stream"].to_list()
    ['events', 'events']
    """
    url = _core.connect(url)
    taken = complete(options, read_streams_async)
    key, request = _begin(url, pattern, taken, schema, start_id, end_id, count, last, progress)
    found = await completed(_core.find_streams(url, key, request["must_exist"]).start())
    request = of_streams(request, found)
    if progress and (whole := await read._read_with_bar_async(url, request)) is not None:
        return whole
    return await read._read_async(url, read._Prepared(request, _core.PreparedRead(request)))


@takes(ReadOptions)
def scan_streams(
    url: str | RedisConnection,
    pattern: str | bytes = "*",
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    last: int | None = None,
    progress: bool = False,
    **options: Unpack[ReadOptions],
) -> pl.LazyFrame:
    """Scan all streams whose keys match a pattern lazily, as `scan_stream` scans a list of them.

    A filter on the stream column (``==``, ``is_in``, ``starts_with`` and others that look at
    nothing else, together by ``&`` and ``|``) decides which streams are read before any is; what
    `scan_stream` says of other filters, of the selected columns and of ``head`` holds for each.

    The streams are found (SCAN TYPE, Redis 6.0) when the query is first planned without a schema,
    or first runs; later ones read the same streams. Each is read up to the entry that is the newest
    when a query first wants that stream.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    pattern : str or bytes, default "*"
        As for `read_streams`. `scan_stream` takes a list of keys.
    schema, start_id, end_id
        As for `scan_stream`, for each of the streams; the sample without a schema is of all.
    count, last : int, optional
        Scan only the first, or the last, of the rows, before any filter.
    progress : bool, default False
        Show a bar whenever the scan is read, as `scan_stream` does.
    **options : ReadOptions
        How entries become columns, by keyword: see `redfloe.ReadOptions`.

    Returns
    -------
    pl.LazyFrame
        Columns as those of `read_streams`.

    Raises
    ------
    SchemaError, ValueError, TypeError
        At once, where an argument cannot be right.
    NoStreamError, RedisConnectionError, RedisTimeoutError, AuthenticationError, DecodeError
        When the query runs, as for `scan_stream`.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> lf = redfloe.scan_streams(url, "ev*", schema={"action": pl.String})
    >>> lf.filter(pl.col("_stream") == "events").select("action").collect()["action"].to_list()
    ['click', 'view']
    """
    url = _core.connect(url)
    taken = complete(options, scan_streams)
    key, request = _begin(url, pattern, taken, schema, start_id, end_id, count, last, progress)
    detail = f"streams {readable(key)!r}"
    return scan_of(url, request, taken, progress=progress, detail=detail, pattern=key)


def _begin(
    url: RedisConnection,
    pattern: object,
    options: ReadOptions,
    schema: SchemaLike | None,
    start_id: EntryIdLike,
    end_id: EntryIdLike,
    count: int | None,
    last: int | None,
    progress: bool,
) -> tuple[bytes, Request]:
    """Check the arguments; give the pattern, and a request of no streams yet."""
    if not isinstance(pattern, str | bytes):
        kind = type(pattern).__name__
        msg = f"pattern must be str or bytes, not {kind}; read_stream and scan_stream take a list"
        raise TypeError(msg)
    key = as_key(pattern, "pattern")
    request = make_request(
        [],
        takes_several=True,
        schema=schema,
        start_id=start_id,
        end_id=end_id,
        count=count,
        last=last,
        options=options,
    )
    _core.empty_batch(request)  # so that what cannot be right raises before anything is sent
    check_bar(progress)
    _core.check_connection(url)
    return key, request


# Not as a decorator, with which type checkers take it for a plain function.
takes(ReadOptions)(read_streams_async)
