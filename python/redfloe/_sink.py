"""Writing queries into streams, batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal, Unpack

import polars as pl

from redfloe import _core
from redfloe._checks import positive
from redfloe._core import RedisConnection
from redfloe._errors import DataLossError, OutcomeUnknownError, RedfloeError, WriteError
from redfloe._event_loop import in_thread
from redfloe._ids import EntryIdLike
from redfloe._options import PayloadCompression, PayloadFormat
from redfloe._progress import bar_or, check_progress, shown
from redfloe._words import counted
from redfloe._write import Progress, error_of
from redfloe._write_arguments import NullTexts, Write, WriteOptions, make_write
from redfloe._writing import sending


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
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    on_empty_row: Literal["raise", "skip"] = "raise",
    idempotent: str | bytes | None = None,
    chunk_size: int = 50_000,
    progress: Progress | bool | None = None,
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
    batch_size, fields, null_values
        As for `write_stream`.
    payload, payload_format, payload_fields, payload_compression, on_empty_row
        As for `write_stream`.
    idempotent
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
    DataLossError
        A failover lost rows of an earlier chunk.
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
    check_progress(progress)
    sink = _Sink(
        lf,
        stream,
        chunk_size=chunk_size,
        fields=fields,
        id_column=id_column,
        timestamp_column=timestamp_column,
        maxlen=maxlen,
        minid=minid,
        approximate=approximate,
        limit=limit,
        nomkstream=nomkstream,
        batch_size=batch_size,
        null_values=null_values,
        payload=payload,
        payload_format=payload_format,
        payload_fields=payload_fields,
        payload_compression=payload_compression,
        on_empty_row=on_empty_row,
        idempotent=idempotent,
    )
    sink.check(lf.collect_schema())
    with (
        bar_or(progress, f"sink_stream to {shown(stream)}") as tell,
        sink.frames() as frames,
    ):
        try:
            for frame in frames:
                write = sink.write(frame)
                look = None if tell is None else _later(tell, sink.rows)
                outcomes: list[_core.Outcome] = []
                sending.send(url, write, outcomes, look)
                error = sink.settle(outcomes[0])
                try:
                    outcomes[0].reraise()
                    if error is not None:
                        raise error
                except BaseException as raised:
                    raise raised from None if raised is error else error
                finally:
                    del error  # whose traceback holds this frame, and so the caller's
                if tell is not None:
                    tell(sink.rows)
        except BaseException as raised:
            if sink.explains(raised):
                raise
            raise raised from sink.so_far(raised)
    return sink.rows


async def sink_stream_async(
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
    payload_format: PayloadFormat = "json",
    payload_fields: Sequence[str] | None = None,
    payload_compression: PayloadCompression | None = None,
    on_empty_row: Literal["raise", "skip"] = "raise",
    idempotent: str | bytes | None = None,
    chunk_size: int = 50_000,
    progress: Progress | bool | None = None,
) -> int:
    """Run a query and add its rows to a stream: the asynchronous twin of `sink_stream`.

    A thread of the event loop's executor waits for Polars' engine; the writing is done by redfloe's
    own runtime, as by `write_stream_async`. Where the task is cancelled, no more rows are sent;
    what became of those in flight is known within a second, and the `CancelledError` then has a
    `WriteError` or `OutcomeUnknownError` as its cause. Polars computes the chunk that it is at to
    its end, and the executor waits for that when it is shut down, as `asyncio.run` does at its end.

    Parameters
    ----------
    url, lf, stream, id_column, timestamp_column, maxlen, minid, approximate, limit, nomkstream
        As for `sink_stream`.
    batch_size, fields, null_values, payload, payload_format, payload_fields, payload_compression,
    on_empty_row
        As for `sink_stream`.
    idempotent, chunk_size
        As for `sink_stream`.
    progress : callable or bool, optional
        As for `sink_stream`; it is called in the event loop.

    Returns
    -------
    int
        How many rows are in.

    Raises
    ------
    WriteError, OutcomeUnknownError
        As for `sink_stream`.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
        As for `write_stream`.
    SchemaError, ValueError, TypeError
        As for `write_stream`.
    RuntimeError
        Polars is older than 1.34, which cannot give batches.

    Examples
    --------
    >>> import asyncio
    >>> import polars as pl
    >>> import redfloe
    >>> lf = pl.LazyFrame({"n": range(5)}).filter(pl.col("n") % 2 == 0)
    >>> asyncio.run(redfloe.sink_stream_async(url, lf, "even"))
    3
    """
    url = _core.connect(url)
    check_progress(progress)
    sink = _Sink(
        lf,
        stream,
        chunk_size=chunk_size,
        fields=fields,
        id_column=id_column,
        timestamp_column=timestamp_column,
        maxlen=maxlen,
        minid=minid,
        approximate=approximate,
        limit=limit,
        nomkstream=nomkstream,
        batch_size=batch_size,
        null_values=null_values,
        payload=payload,
        payload_format=payload_format,
        payload_fields=payload_fields,
        payload_compression=payload_compression,
        on_empty_row=on_empty_row,
        idempotent=idempotent,
    )
    sink.check(await in_thread(lf.collect_schema))
    with (
        bar_or(progress, f"sink_stream to {shown(stream)}") as tell,
        sink.frames() as frames,
    ):
        try:
            while (frame := await in_thread(lambda: next(frames, None))) is not None:
                write = sink.write(frame)
                look = None if tell is None else _later(tell, sink.rows)
                outcome, interrupt = await sending.send_async(url, write, look)
                error = sink.settle(outcome)
                try:
                    if interrupt is not None:
                        raise interrupt from error
                    if error is not None:
                        raise error
                finally:
                    del error, interrupt  # whose tracebacks hold this frame, and so the caller's
                if tell is not None:
                    tell(sink.rows)
        except BaseException as raised:
            if sink.explains(raised):
                raise
            raise raised from sink.so_far(raised)
    return sink.rows


class _Sink:
    """A query's chunks on their way into a stream, and how many of their rows are in."""

    def __init__(
        self,
        lf: object,
        stream: str | bytes | pl.Expr,
        *,
        chunk_size: int,
        fields: Sequence[str] | None,
        **options: Unpack[WriteOptions],
    ) -> None:
        if not isinstance(lf, pl.LazyFrame):
            msg = f"lf must be a polars LazyFrame, not {type(lf).__name__}"
            raise TypeError(msg)
        self._lf = lf
        self._chunk_size = positive(chunk_size, "chunk_size") or 1
        self._make = partial(make_write, stream=stream, fields=fields, **options)
        self._known_streams = _core.KnownStreams()
        self.rows = 0
        self._first_row = 0
        #: The rows of a chunk that was sent, and whose outcome was not seen.
        self._unseen = 0

    def check(self, schema: pl.Schema) -> None:
        """Refuse what can be refused before anything runs."""
        self._make(schema.to_frame())

    @contextmanager
    def frames(self) -> Iterator[Iterator[pl.DataFrame]]:
        """Run the query, and stop it where the block is left early."""
        if not hasattr(self._lf, "collect_batches"):
            msg = (
                "sink_stream needs Polars 1.34, whose streaming engine gives batches; collect the "
                "query and write it with write_stream"
            )
            raise RuntimeError(msg)
        batches = self._lf.collect_batches(
            chunk_size=self._chunk_size, maintain_order=True, lazy=True
        )
        try:
            yield iter(batches)
        finally:
            if hasattr(batches, "stop"):
                batches.stop()

    def write(self, frame: pl.DataFrame) -> Write:
        """Say how the next chunk is written."""
        write = self._make(frame)
        write.request["rows_before"] = self._first_row, self.rows
        write.request["known_streams"] = self._known_streams
        self._unseen = frame.height
        return write

    def settle(self, outcome: _core.Outcome) -> Exception | None:
        """Count the rows of a chunk that is in, or give the error that says which of them are."""
        error = error_of(outcome, first_row=self._first_row, rows_before=self.rows)
        if error is None:
            rows, first_row = self.rows + outcome.rows_written, self._first_row + self._unseen
            # Without a call between them, so that a signal finds all or none changed.
            self.rows, self._first_row, self._unseen = rows, first_row, 0
        return error

    def explains(self, raised: BaseException) -> bool:
        """Tell whether an exception says by itself, or by its cause, what is in."""
        says_rows = isinstance(raised, WriteError | OutcomeUnknownError)
        nothing = not self.rows and _is_refusal(raised)
        return says_rows or raised.__cause__ is not None or nothing

    def so_far(self, raised: BaseException) -> WriteError | OutcomeUnknownError:
        """Give the cause of what ended a query between chunks, or as one was being written."""
        unseen = 0 if _is_refusal(raised) else self._unseen
        error: WriteError | OutcomeUnknownError
        if isinstance(raised, DataLossError):
            were_in = counted(self.rows, "row that was", "rows that were")
            error = OutcomeUnknownError(
                f"of {were_in} in the latest are lost, and it is unknown how many"
            )
            error.unknown, error.row = range(self._first_row), 0
            error.first_row = self._first_row
            return error
        are_in = counted(self.rows, "row is", "rows are") + " in; the query ended early"
        if unseen:
            error = OutcomeUnknownError(
                f"at least {are_in}, and it is unknown whether the next "
                f"{counted(unseen, 'row is', 'rows are')} in"
            )
            error.unknown = range(self._first_row, self._first_row + unseen)
        else:
            error = WriteError(are_in)
        error.rows_written = self.rows
        error.row = error.first_row = self._first_row
        return error


def _is_refusal(raised: BaseException) -> bool:
    """Tell by its type whether nothing of its chunk was written."""
    return isinstance(raised, RedfloeError | ValueError | TypeError)


def _later(progress: Progress, rows_before: int) -> Progress:
    return lambda rows: progress(rows_before + rows)
