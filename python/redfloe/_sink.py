"""Writing queries into streams, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import polars as pl

from redfloe import _core
from redfloe._arguments import positive
from redfloe._core import RedisConnection
from redfloe._errors import OutcomeUnknownError, RedfloeError, WriteError
from redfloe._ids import EntryIdLike
from redfloe._progress import bar_or, check_progress, shown
from redfloe._write import error_of
from redfloe._write_arguments import NullTexts, Write, make_write


def sink_stream(
    url: str | RedisConnection,
    lf: pl.LazyFrame,
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
    on_empty_row: Literal["raise", "skip"] = "raise",
    idempotent: str | bytes | None = None,
    chunk_size: int = 50_000,
    progress: Callable[[int], object] | bool | None = None,
) -> int:
    """Run a query and add its rows to a Redis stream as they come, in bounded memory.

    Polars' streaming engine gives `chunk_size` rows at a time, in order, and computes the next ones
    while these are written; it waits where Redis is slower. Each chunk is written as by
    `write_stream`: what cannot be an entry refuses its chunk, after those before it are in.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    lf : pl.LazyFrame
        The query.
    stream, id_column, timestamp_column, maxlen, minid, approximate, limit, nomkstream
        As for `write_stream`.
    batch_size, fields, null_values, payload, on_empty_row, idempotent
        As for `write_stream`.
    chunk_size : int, default 50_000
        How many rows the engine gives at a time.
    progress : callable or bool, optional
        Called with the number of rows that are in, about 20 times a second and after each chunk;
        True shows a bar of them, by tqdm (``pip install tqdm``).

    Returns
    -------
    int
        How many rows are in. Their IDs would take as much memory as there are rows.

    Raises
    ------
    WriteError, OutcomeUnknownError
        As for `write_stream`; rows are counted over all chunks, and `ids` are those of the last
        chunk, which begins with the row `first_row`. Whatever else ends the query once rows are in
        (Ctrl-C, an exception of `progress` or of the query, a chunk that is refused) has one of
        these as its `__cause__`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `write_stream`.
    SchemaError, ValueError, TypeError
        As for `write_stream`.
    RuntimeError
        Polars is older than 1.34, which cannot give batches.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> lf = pl.LazyFrame({"n": range(5)}).filter(pl.col("n") % 2 == 0)
    >>> redfloe.sink_stream(url, lf, "even")
    3
    """
    url = _core.connect(url)
    _check(lf)
    check_progress(progress)

    def make(frame: pl.DataFrame) -> Write:
        return make_write(
            frame,
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
            on_empty_row=on_empty_row,
            atomic=False,
            idempotent=idempotent,
        )

    make(lf.collect_schema().to_frame())  # refuses what can be refused before anything runs
    first_row = rows = 0
    unseen = 0  # the rows of a chunk that was sent, and whose outcome was not seen
    with (
        bar_or(progress, f"sink_stream to {shown(stream)}") as tell,
        _batches(lf, positive(chunk_size, "chunk_size") or 1) as frames,
    ):
        try:
            for frame in frames:
                write = make(frame)
                look = None if tell is None else _later(tell, rows)
                unseen = frame.height
                write.request["rows_before"] = first_row, rows
                outcomes: list[_core.Outcome] = []
                _core.write_stream(url, write.frame, write.request, outcomes, look)
                outcome = outcomes[0]
                error = error_of(outcome, first_row=first_row, rows_before=rows)
                if error is None:
                    # One statement without a call, so that a signal finds all or none changed.
                    rows, first_row, unseen = rows + outcome.rows_written, first_row + unseen, 0
                try:
                    outcome.reraise()
                    if error is not None:
                        raise error
                except BaseException as raised:
                    raise raised from None if raised is error else error
                finally:
                    del error  # whose traceback holds this frame, and so the caller's
                if tell is not None:
                    tell(rows)
        except BaseException as raised:
            # By its type a refusal tells that nothing of its chunk was written.
            says_rows = isinstance(raised, WriteError | OutcomeUnknownError)
            is_refusal = isinstance(raised, RedfloeError | ValueError | TypeError)
            if says_rows or raised.__cause__ is not None or (not rows and is_refusal):
                raise
            raise raised from _so_far(rows, first_row, 0 if is_refusal else unseen)
    return rows


def _check(lf: object) -> None:
    if not isinstance(lf, pl.LazyFrame):
        msg = f"lf must be a polars LazyFrame, not {type(lf).__name__}"
        raise TypeError(msg)


def _so_far(rows: int, row: int, unseen: int) -> WriteError | OutcomeUnknownError:
    """Give the cause of what ended a query between its chunks, or as one was being written."""
    error: WriteError | OutcomeUnknownError
    if unseen:
        error = OutcomeUnknownError(
            f"at least {rows} rows are in; the query ended early, and whether the {unseen} rows "
            "after them are in is unknown"
        )
        error.unknown = range(row, row + unseen)
    else:
        error = WriteError(f"{rows} rows are in; the query ended early")
    error.rows_written = rows
    error.row = error.first_row = row
    return error


def _later(progress: Callable[[int], object], rows_before: int) -> Callable[[int], object]:
    return lambda rows: progress(rows_before + rows)


@contextmanager
def _batches(lf: pl.LazyFrame, chunk_size: int) -> Iterator[Iterator[pl.DataFrame]]:
    """Run the query, and stop it where the block is left early."""
    if not hasattr(lf, "collect_batches"):
        msg = (
            "sink_stream needs Polars 1.34, whose streaming engine gives batches; collect the "
            "query and write it with write_stream"
        )
        raise RuntimeError(msg)
    batches = lf.collect_batches(chunk_size=chunk_size, maintain_order=True, lazy=True)
    try:
        yield iter(batches)
    finally:
        if hasattr(batches, "stop"):
            batches.stop()
