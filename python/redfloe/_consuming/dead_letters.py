"""Dead letters: what a worker has put aside, as a frame, and back into its stream."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias, Unpack

import polars as pl

from redfloe import _core
from redfloe._arguments import Request, make_request
from redfloe._checks import as_key, repr_of
from redfloe._event_loop import completed
from redfloe._frame import of_batch
from redfloe._options import ColumnOptions, ReadOptions, complete, takes
from redfloe._reading.batches import AsyncBatches
from redfloe._schema import SchemaLike, as_text
from redfloe._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike

Replayed: TypeAlias = tuple[list[tuple[str, str | None]], Exception | None]

#: What a dead letter says beside the fields of its entry.
_STORY = pl.Schema(
    {
        "_dead_stream": pl.String(),
        "_dead_id": pl.String(),
        "_dead_group": pl.String(),
        "_dead_consumer": pl.String(),
        "_dead_deliveries": pl.Int64(),
        "_dead_reason": pl.String(),
        "_dead_time": pl.Datetime("ms", "UTC"),
    }
)


@takes(ColumnOptions)
def read_dead_letters(
    url: str | RedisConnection,
    dead_letter: str | bytes,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    on_error: Literal["null", "raise"] = "null",
    **options: Unpack[ColumnOptions],
) -> pl.DataFrame:
    """Read what a `StreamConsumer` has put aside, one row a dead letter (XRANGE, Redis 5.0).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    dead_letter : str or bytes
        The key of the dead-letter stream, as for `StreamConsumer`.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields of the stream that the letters are from, as for `read_stream`. Without it every
        field that occurs becomes a String column.
    start_id, end_id : str, int, date or datetime, default "-" and "+"
        The first and last dead letter, both inclusive, as for `read_stream`: their own IDs, whose
        milliseconds say when they were put aside.
    count : int, optional
        Read at most this many, the oldest first.
    on_error : {"null", "raise"}, default "null"
        What to do with text that does not fit its dtype, which may be why its entry was put aside:
        make it null, or raise `DecodeError`. A `rescue_column` keeps it.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Returns
    -------
    pl.DataFrame
        The dead letter's ID as ``_id``, the fields of its entry, and after them

        - ``_dead_stream``, ``_dead_id`` (String): the entry's stream and its ID there
        - ``_dead_group``, ``_dead_consumer`` (String): who put it aside
        - ``_dead_deliveries`` (Int64): how often it had been delivered
        - ``_dead_reason`` (String): why
        - ``_dead_time`` (Datetime in milliseconds, UTC): when

        They are null for an entry that is no dead letter. A missing stream gives an empty frame.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, SchemaError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import redfloe
    >>> with redfloe.StreamConsumer(
    ...     url,
    ...     "events",
    ...     "billing",
    ...     "worker-1",
    ...     dead_letter="events:dead",
    ...     on_idle="stop",
    ...     block_ms=1,
    ... ) as consumer:
    ...     for batch in consumer:
    ...         failed = batch.fail("1704067200001-0", "no value")
    >>> dead = redfloe.read_dead_letters(url, "events:dead")
    >>> dead.select("user_id", "_dead_id", "_dead_reason", "_dead_deliveries").rows()
    [('user_2', '1704067200001-0', 'no value', 1)]
    """
    url = _core.connect(url)
    every = complete(options, read_dead_letters)
    request = _request(dead_letter, schema, start_id, end_id, count, on_error, every)
    return _read(url, request)


async def read_dead_letters_async(
    url: str | RedisConnection,
    dead_letter: str | bytes,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    on_error: Literal["null", "raise"] = "null",
    **options: Unpack[ColumnOptions],
) -> pl.DataFrame:
    """Read what a `StreamConsumer` has put aside: the asynchronous twin of `read_dead_letters`.

    Parameters
    ----------
    url, dead_letter, schema, start_id, end_id, count, on_error
        As for `read_dead_letters`.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Returns
    -------
    pl.DataFrame
        As `read_dead_letters`.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, SchemaError
        As for `read_stream`.
    ValueError, TypeError
        An argument cannot be right; nothing has been sent.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.read_dead_letters_async(url, "events:dead")).height
    0
    """
    url = _core.connect(url)
    every = complete(options, read_dead_letters_async)
    request = _request(dead_letter, schema, start_id, end_id, count, on_error, every)
    return await _read_async(url, request)


@takes(ColumnOptions)
def replay_dead_letters(
    url: str | RedisConnection,
    dead_letter: str | bytes,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    ids: str | Iterable[str] | pl.Series | None = None,
    where: pl.Expr | None = None,
    **options: Unpack[ColumnOptions],
) -> pl.DataFrame:
    """Move dead letters back into the streams they are from, as new entries, each exactly once.

    The new entry has the fields of the old one, a new ID, and comes last in its stream, so that
    every group of that stream gets it, not only the one that put it aside. In one step with it the
    dead letter is deleted (a script of XRANGE, XADD and XDEL, Redis 5.0; for an entry of more than
    about 3,900 fields a transaction): whatever fails, and however often this is called, nothing is
    replayed twice, and nothing is lost.

    Parameters
    ----------
    url, dead_letter, schema, start_id, end_id, count
        As for `read_dead_letters`: which dead letters to look at.
    ids : str, iterable of str, or pl.Series, optional
        Replay only those with these IDs, of the column ``_id``. Those that are gone are no error.
    where : pl.Expr, optional
        Replay only those for which this holds, as `pl.DataFrame.filter` takes it, over the frame
        that `read_dead_letters` gives.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Returns
    -------
    pl.DataFrame
        What was replayed, as `read_dead_letters` gives it, and ``_replayed_id`` (String): the ID of
        the new entry, whatever field of that name the old one has. Where a connection was lost, so
        that nobody knows the new ID, it is null: the letter was replayed by the command whose
        answer was lost.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, ResponseError
        A dead letter could not be replayed, and stays where it is; the message names it. A note of
        the exception says how many had been replayed before. Call it again for the others.
    ValueError, TypeError
        An entry is no dead letter of a `StreamConsumer`; or an argument cannot be right, and then
        nothing has been sent.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> with redfloe.StreamConsumer(
    ...     url,
    ...     "events",
    ...     "billing",
    ...     "worker-1",
    ...     dead_letter="events:dead",
    ...     on_idle="stop",
    ...     block_ms=1,
    ... ) as consumer:
    ...     for batch in consumer:
    ...         failed = batch.fail("1704067200001-0", "the service was down")
    >>> replayed = redfloe.replay_dead_letters(
    ...     url, "events:dead", where=pl.col("_dead_reason").str.contains("down")
    ... )
    >>> replayed.select("user_id", "_dead_id").rows()
    [('user_2', '1704067200001-0')]
    >>> redfloe.read_stream(url, "events")["user_id"].to_list()
    ['user_1', 'user_2', 'user_2']
    """
    url = _core.connect(url)
    every = complete(options, replay_dead_letters)
    named = _named(ids, where)
    request = _replay_request(dead_letter, schema, start_id, end_id, count, every)
    letters, chosen = _chosen(_read(url, request), request, named, where)
    outcome = _core.replay_dead_letters(url, request["stream"], chosen).wait()
    return _finish(letters, request, outcome)


async def replay_dead_letters_async(
    url: str | RedisConnection,
    dead_letter: str | bytes,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    *,
    ids: str | Iterable[str] | pl.Series | None = None,
    where: pl.Expr | None = None,
    **options: Unpack[ColumnOptions],
) -> pl.DataFrame:
    """Move dead letters back into their streams: the asynchronous twin of `replay_dead_letters`.

    If its task is cancelled, an operation that has begun is still carried out.

    Parameters
    ----------
    url, dead_letter, schema, start_id, end_id, count, ids, where
        As for `replay_dead_letters`.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Returns
    -------
    pl.DataFrame
        As `replay_dead_letters`.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, ResponseError
        As for `replay_dead_letters`.
    ValueError, TypeError
        As for `replay_dead_letters`.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(redfloe.replay_dead_letters_async(url, "events:dead")).height
    0
    """
    url = _core.connect(url)
    every = complete(options, replay_dead_letters_async)
    named = _named(ids, where)
    request = _replay_request(dead_letter, schema, start_id, end_id, count, every)
    letters, chosen = _chosen(await _read_async(url, request), request, named, where)
    outcome = await completed(_core.replay_dead_letters(url, request["stream"], chosen).start())
    return _finish(letters, request, outcome)


# Not as a decorator: what is decorated is no coroutine function for stubtest.
takes(ColumnOptions)(read_dead_letters_async)
takes(ColumnOptions)(replay_dead_letters_async)


def _request(
    dead_letter: str | bytes,
    schema: SchemaLike | None,
    start_id: EntryIdLike,
    end_id: EntryIdLike,
    count: int | None,
    on_error: Literal["null", "raise"],
    options: ReadOptions,
    *,
    with_ids: bool = False,
) -> Request:
    """Ask for the fields of a schema and for what a dead letter says beside them."""
    # Not in place: they may be everybody's defaults.
    include_id = options["include_id"] or with_ids
    options = {**options, "on_error": on_error, "include_id": include_id}
    key = as_key(dead_letter, "dead_letter")
    request = make_request(
        key, schema=schema, start_id=start_id, end_id=end_id, count=count, options=options
    )
    fields = request["schema"]
    if fields is not None:
        request["schema"] = pl.Schema({**fields, **_STORY})
    return request


def _replay_request(
    dead_letter: str | bytes,
    schema: SchemaLike | None,
    start_id: EntryIdLike,
    end_id: EntryIdLike,
    count: int | None,
    options: ReadOptions,
) -> Request:
    """Ask for dead letters with their IDs, whose replayed ones get a column too."""
    for parameter in ("id_column", "timestamp_column", "sequence_column", "rescue_column"):
        if options[parameter] == "_replayed_id":
            msg = f"{parameter} must not be '_replayed_id', which the IDs of the new entries have"
            raise ValueError(msg)
    return _request(dead_letter, schema, start_id, end_id, count, "null", options, with_ids=True)


def _read(url: RedisConnection, request: Request) -> pl.DataFrame:
    reader = _core.BatchReader(url, request, follow=False)
    return _typed([of_batch(rows) for rows in iter(reader.next_batch, None)], request)


async def _read_async(url: RedisConnection, request: Request) -> pl.DataFrame:
    batches = AsyncBatches(_core.AsyncBatchReader(url, request, follow=False))
    frames = []
    while (offer := await batches.next(of_batch)) is not None:
        frames.append(offer.value)
        offer.accepted = True
    return _typed(frames, request)


def _typed(frames: list[pl.DataFrame], request: Request) -> pl.DataFrame:
    """Give the rows with what dead letters say typed, and last."""
    # One holds all, unless another would raise.
    frame = frames[0] if frames else of_batch(_core.empty_batch(request))
    if request["schema"] is not None:
        return frame
    texts = frame.select(pl.col(name) for name in _STORY if name in frame.columns)
    story = [
        (texts[name] if name in texts.columns else pl.Series(name, [None] * frame.height))
        .cast(pl.Int64 if dtype.is_temporal() else dtype, strict=False)
        .cast(dtype)
        .alias(name)
        for name, dtype in _STORY.items()
    ]
    return frame.drop(texts.columns).with_columns(story)


def _named(ids: str | Iterable[str] | pl.Series | None, where: object) -> list[str] | None:
    """Check what says which letters to replay; give the IDs."""
    if where is not None and not isinstance(where, pl.Expr):
        msg = f"where must be a Polars expression, not {type(where).__name__}; IDs go to ids"
        raise TypeError(msg)
    if ids is None:
        return None
    named = [ids] if isinstance(ids, str) else [as_text(one, "ids") for one in ids]
    for one in named:
        if not re.fullmatch(r"[0-9]+-[0-9]+", one):
            msg = f"ids has {repr_of(one)}, which is no entry ID"
            raise ValueError(msg)
    return named


def _chosen(
    letters: pl.DataFrame, request: Request, named: list[str] | None, where: pl.Expr | None
) -> tuple[pl.DataFrame, list[str]]:
    """Give the letters that are to be replayed, and their IDs."""
    column = _id_column(request)
    if where is not None:
        letters = letters.filter(where)
    if named is not None:
        letters = letters.filter(pl.col(column).is_in(named))
    return letters, letters[column].to_list()


def _finish(letters: pl.DataFrame, request: Request, outcome: Replayed) -> pl.DataFrame:
    """Give what was replayed, or raise what came after it."""
    replayed, error = outcome
    if error is not None:
        error.add_note(
            f"{counted(len(replayed), 'dead letter was', 'dead letters were')} replayed before"
        )
        raise error
    column = _id_column(request)
    entries = pl.DataFrame(
        replayed, schema={column: pl.String, "_replayed_id": pl.String}, orient="row"
    )
    # An entry's own field of that name is not taken for the ID.
    letters = letters.drop("_replayed_id", strict=False)
    return letters.join(entries, on=column, how="inner", maintain_order="left")


def _id_column(request: Request) -> str:
    column = request["id_column"]
    assert column is not None  # it was asked for
    return column
