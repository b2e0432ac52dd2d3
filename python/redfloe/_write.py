"""Writing frames into streams."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeAlias, TypeVar

import polars as pl

from redfloe import _core
from redfloe._core import RedisConnection
from redfloe._errors import OutcomeUnknownError, WriteError
from redfloe._frame import ArrowStream
from redfloe._ids import EntryIdLike
from redfloe._options import PayloadCompression, PayloadFormat
from redfloe._progress import bar_or, check_progress, shown
from redfloe._write_arguments import NullTexts, make_write
from redfloe._writing import sending

Progress: TypeAlias = Callable[[int], object]
T = TypeVar("T")


def write_stream(
    url: str | RedisConnection,
    df: pl.DataFrame | ArrowStream,
    stream: str | bytes | pl.Expr,
    *,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    maxlen: int | None = None,
    minid: EntryIdLike | None = None,
    approximate: bool = True,
    limit: int | None = None,
    nomkstream: bool = False,
    batch_size: int = 10_000,
    fields: Sequence[str] | None = None,
    null_values: NullTexts | None = None,
    payload: str | None = None,
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    on_empty_row: Literal["raise", "skip"] = "raise",
    atomic: bool = False,
    idempotent: str | bytes | None = None,
    shards: int | None = None,
    shard_by: str | None = None,
    progress: Progress | bool | None = None,
) -> pl.Series:
    """Add the rows of a DataFrame to a Redis stream, one entry per row, in order.

    Each column is a field; a null is a field that the entry lacks. Values are written as the text
    that `read_stream` takes for their dtype, so that reading with the frame's schema gives the
    frame again. XADD (Redis 5.0) is pipelined, at most `batch_size` rows ahead of the replies.

    What can be refused is refused before the first XADD. After that an error says exactly which
    rows are in.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    df : pl.DataFrame, or an object with ``__arrow_c_stream__``
        The rows: a Polars DataFrame, pyarrow Table, DuckDB relation, pandas DataFrame. The index of
        the latter is written too, as by ``reset_index``, unless it only counts the rows.
    stream : str, bytes or pl.Expr
        The stream's key; or an expression that gives each row's, such as
        ``pl.format("events:{}", "region")``.
    id_column : str, optional
        Take the entry IDs from this String column: ``"ms-seq"``, ``"ms"`` for ``"ms-0"``, or
        ``"ms-*"``. They must increase. By default the server makes them.
    timestamp_column : str, optional
        Take the IDs' milliseconds from this Datetime column, or Int64 of milliseconds; they must
        not decrease. The server adds the sequence number (Redis 7.0; before that redfloe does).
    maxlen, minid : int; str, int, date or datetime, optional
        Shorten the stream with each entry that is added: to about *n* entries (MAXLEN), or to
        those from about this ID on (MINID, Redis 6.2).
    approximate : bool, default True
        Whether *about* is meant, which is much cheaper for the server (``~``).
    limit : int, optional
        Remove at most *n* entries at a time (LIMIT, Redis 6.2).
    nomkstream : bool, default False
        Add nothing to a stream that does not exist (NOMKSTREAM, Redis 6.2): the IDs are null then.
    batch_size : int, default 10_000
        How many rows may be in flight: sent, and not answered yet.
    fields : sequence of str, optional
        The columns to write, in this order. By default all but `id_column`, `timestamp_column`, and
        the metadata of a read: ``_id``, ``_ts`` and ``_seq``.
    null_values : str, or mapping of field to str, optional
        Text to write for a null, in all fields or in some. `read_stream` takes the same, and reads
        a value that equals it as null too: choose a text that no value has.
    payload : str, optional
        Write one field of this name that holds a JSON object, whose keys are the columns; a null is
        a key that it lacks. `read_stream` takes the same, and reads the frame again.
    payload_format : {"json", "msgpack"}, ProtobufSchema or AvroSchema, default "json"
        How that object is written: as JSON, as a MessagePack map, where Binary is bytes and a
        Datetime with a time zone is a timestamp, or as a Protobuf message or an Avro record, whose
        fields the columns are.
    payload_fields : sequence of str, optional
        With MessagePack: write an array in place of a map, of the values of these columns in their
        order, of which each that is null or missing is nil. They are all columns of the payload.
    payload_compression : {"zstd", "gzip"}, optional
        Compress each payload by itself.
    on_empty_row : {"raise", "skip"}, default "raise"
        What to do with a row of nulls only, which no entry can be: refuse the frame, or leave the
        row out; its ID is null then. With a `payload` such a row is an entry, of an empty object.
    atomic : bool, default False
        All rows or none, in one transaction (MULTI): nobody sees a part of them.
    idempotent : str or bytes, optional
        The name of this producer, for one writer at a time: the server recognises rows that a lost
        connection had brought it already, so that they can be sent again (XADD IDMP, Redis 8.6; no
        effect before). Rows with their own IDs do not need it.
    shards : int, optional
        Divide the rows among that many streams, up to 256, of which `stream` is the name they are
        read by: one may outgrow a server of a Redis Cluster. The first write creates it (a script
        of HSET, Redis 4.0); later ones find it, and need neither `shards` nor `shard_by`. See the
        guide's page "Sharded streams".
    shard_by : str, optional
        With `shards`: the column whose value says which shard a row goes to. Rows of one value stay
        in order.
    progress : callable or bool, optional
        Called with the number of rows that are in, about 20 times a second and at the end; True
        shows a bar of them, by tqdm (``pip install tqdm``).

    Returns
    -------
    pl.Series
        The entry ID of each row, as String, named ``_id``.

    Raises
    ------
    WriteError
        The server refused a row, or it has lost rows that it had acknowledged. `rows_written`,
        `row` and `ids` say which rows are in.
    OutcomeUnknownError
        Replies were lost, and nobody knows whether some rows are in: `unknown` says which.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        The server cannot be reached, is silent, or refuses the user; nothing is in.
    WrongTypeError
        A key is not a stream; nothing is in.
    SchemaError
        There is no column to write, or one has a dtype that has no text form; nothing is in.
    ValueError, TypeError
        An argument, or an ID or row of the frame, cannot be right; nothing is in.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> df = pl.DataFrame({"at": [5, 6], "user": ["ada", "bob"], "value": [1.5, None]})
    >>> ids = redfloe.write_stream(url, df, "clicks", timestamp_column="at")
    >>> ids.to_list()
    ['5-0', '6-0']
    >>> redfloe.read_stream(url, "clicks", {"user": pl.String, "value": pl.Float64}).rows()
    [('5-0', 5, 'ada', 1.5), ('6-0', 6, 'bob', None)]
    """
    url = _core.connect(url)
    check_progress(progress)
    write = make_write(
        df,
        stream,
        id_column=id_column,
        timestamp_column=timestamp_column,
        maxlen=maxlen,
        minid=minid,
        approximate=approximate,
        limit=limit,
        nomkstream=nomkstream,
        batch_size=batch_size,
        fields=fields,
        null_values=null_values,
        payload=payload,
        payload_format=payload_format,
        payload_fields=payload_fields,
        payload_compression=payload_compression,
        on_empty_row=on_empty_row,
        atomic=atomic,
        idempotent=idempotent,
        shards=shards,
        shard_by=shard_by,
    )
    title = f"write_stream to {shown(stream)}"
    with bar_or(progress, title, total=write.frame.height) as tell:
        return finished(
            lambda outcomes: sending.send(url, write, outcomes, tell),
            _ids,
            tell,
        )


async def write_stream_async(
    url: str | RedisConnection,
    df: pl.DataFrame | ArrowStream,
    stream: str | bytes | pl.Expr,
    *,
    id_column: str | None = None,
    timestamp_column: str | None = None,
    maxlen: int | None = None,
    minid: EntryIdLike | None = None,
    approximate: bool = True,
    limit: int | None = None,
    nomkstream: bool = False,
    batch_size: int = 10_000,
    fields: Sequence[str] | None = None,
    null_values: NullTexts | None = None,
    payload: str | None = None,
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    on_empty_row: Literal["raise", "skip"] = "raise",
    atomic: bool = False,
    idempotent: str | bytes | None = None,
    shards: int | None = None,
    shard_by: str | None = None,
    progress: Progress | bool | None = None,
) -> pl.Series:
    """Add the rows of a DataFrame to a Redis stream: the asynchronous twin of `write_stream`.

    The writing is done by redfloe's own runtime, and the event loop is told when it is done; no
    thread waits. Where the task is cancelled, no more rows are sent; what became of those in flight
    is known within a second, and the `CancelledError` then has a `WriteError` or
    `OutcomeUnknownError` as its cause. If all rows are in at that time, the `WriteError` says so:
    its `row` is None, and `ids` has no nulls.

    Parameters
    ----------
    url, df, stream, id_column, timestamp_column, maxlen, minid, approximate, limit, nomkstream
        As for `write_stream`.
    batch_size, fields, null_values
        As for `write_stream`.
    payload, payload_format, payload_fields, payload_compression, on_empty_row
        As for `write_stream`.
    atomic, idempotent
        As for `write_stream`.
    shards, shard_by
        As for `write_stream`.
    progress : callable or bool, optional
        As for `write_stream`; it is called in the event loop.

    Returns
    -------
    pl.Series
        The entry ID of each row, as String, named ``_id``.

    Raises
    ------
    WriteError, OutcomeUnknownError
        As for `write_stream`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `write_stream`.
    SchemaError, ValueError, TypeError
        As for `write_stream`.

    Examples
    --------
    >>> import asyncio
    >>> import polars as pl
    >>> import redfloe
    >>> df = pl.DataFrame({"user": ["ada", "bob"]})
    >>> len(asyncio.run(redfloe.write_stream_async(url, df, "clicks")))
    2
    """
    url = _core.connect(url)
    check_progress(progress)
    write = make_write(
        df,
        stream,
        id_column=id_column,
        timestamp_column=timestamp_column,
        maxlen=maxlen,
        minid=minid,
        approximate=approximate,
        limit=limit,
        nomkstream=nomkstream,
        batch_size=batch_size,
        fields=fields,
        null_values=null_values,
        payload=payload,
        payload_format=payload_format,
        payload_fields=payload_fields,
        payload_compression=payload_compression,
        on_empty_row=on_empty_row,
        atomic=atomic,
        idempotent=idempotent,
        shards=shards,
        shard_by=shard_by,
    )
    title = f"write_stream to {shown(stream)}"
    with bar_or(progress, title, total=write.frame.height) as tell:
        return await finished_async(sending.send_async(url, write, tell), _ids, tell)


def finished(
    write: Callable[[list[_core.Outcome]], None],
    result: Callable[[_core.Outcome], T],
    tell: Callable[[int], object] | None = None,
    *,
    with_ids: bool = True,
) -> T:
    """Run a write, and give what `result` makes of its outcome, or raise why it failed.

    At the end `tell` is called with the rows that are in.
    Whatever else is raised has as its cause what became of the rows. So `write` leaves the outcome
    in a list: as a function returns, the exception of a signal's handler may take the place of what
    it returns.
    """
    outcomes: list[_core.Outcome] = []
    try:
        write(outcomes)
        outcomes[0].reraise()
        error = error_of(outcomes[0], with_ids=with_ids)
        if error is None:
            if tell is not None:
                tell(outcomes[0].rows_written)
            return result(outcomes[0])
    except BaseException as raised:  # Ctrl-C, or what `progress` raises
        if not outcomes:
            raise  # nothing was sent
        raise raised from interruption(outcomes[0], with_ids=with_ids)
    try:
        raise error
    finally:
        del error  # whose traceback holds this frame, and so the caller's


async def finished_async(
    ending: Awaitable[tuple[_core.Outcome, BaseException | None]],
    result: Callable[[_core.Outcome], T],
    tell: Callable[[int], object] | None = None,
    *,
    with_ids: bool = True,
) -> T:
    """As `finished`, of what `ended` gives; `tell` is called with the rows that are in."""
    outcome, raised = await ending
    error = None
    try:
        if raised is not None:
            raise raised
        error = error_of(outcome, with_ids=with_ids)
        if error is not None:
            raise error
        if tell is not None:
            tell(outcome.rows_written)
    except BaseException as last:
        if last is error:
            raise
        raise last from interruption(outcome, with_ids=with_ids)
    finally:
        del error, raised  # whose tracebacks hold this frame, and so the caller's
    return result(outcome)


def error_of(
    outcome: _core.Outcome, *, with_ids: bool = True, first_row: int = 0, rows_before: int = 0
) -> Exception | None:
    """Give a new exception that says what became of the rows; others may have come before them."""
    error = outcome.error
    if isinstance(error, WriteError | OutcomeUnknownError):
        error.rows_written = rows_before + outcome.rows_written
        error.ids = _ids(outcome) if with_ids else None
        error.row = outcome.row
        error.first_row = first_row
    if isinstance(error, OutcomeUnknownError):
        error.unknown = range(*outcome.unknown)
    return error


def interruption(outcome: _core.Outcome, *, with_ids: bool = True) -> Exception:
    """Give the cause of what interrupted a write: which rows are in, also where all of them are."""
    error = error_of(outcome, with_ids=with_ids)
    if error is None:
        rows = outcome.rows_written
        all_in = "the only row is in" if rows == 1 else f"all {rows} rows are in"
        error = WriteError(f"{all_in}; the write was interrupted after the last")
        error.rows_written = rows
        error.ids = _ids(outcome) if with_ids else None
    return error


def _ids(outcome: _core.Outcome) -> pl.Series:
    return pl.Series(outcome, dtype=pl.String).alias("_id")
