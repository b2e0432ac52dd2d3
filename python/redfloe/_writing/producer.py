"""Entries one by one, lingered into pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from redfloe import _beside, _core
from redfloe._checks import (
    Milliseconds,
    as_key,
    milliseconds,
    milliseconds_of_seconds,
    natural,
    optional_milliseconds,
    positive,
)
from redfloe._errors import OutcomeUnknownError, WriteError
from redfloe._reprs import target
from redfloe._write import error_of
from redfloe._write_arguments import make_request, make_write
from redfloe._writing.async_producer import AsyncStreamProducer
from redfloe._writing.fields import as_pairs
from redfloe._writing.sent import SentEntry

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta
    from types import TracebackType

    import polars as pl

    from redfloe._core import RedisConnection
    from redfloe._frame import ArrowStream
    from redfloe._ids import EntryIdLike
    from redfloe._options import PayloadCompression, PayloadFormat
    from redfloe._writing.fields import Fields

#: How long a producer whose block is left by an exception writes what is left.
_LAST_WRITES_MS = 1_000


class StreamProducer:
    """Adds entries to streams one by one, as they occur, for services.

    `send` takes an entry and returns at once, with a future of its ID; a background task writes
    what has come, in order, in pipelines (XADD, Redis 5.0). As a context manager it is closed at
    the end of the block, which writes what is left. ``async with`` gives an `AsyncStreamProducer`,
    of coroutines.

    An exception that leaves the block stays the one that is raised. Ctrl-C and a cancelled task
    stop the producer within a second: what it has not sent is not written. After any other
    exception it has a second to write what is left before it is stopped in the same way. If not all
    is in, the exception has a `WriteError` or `OutcomeUnknownError` as its ``__cause__``, or as a
    note where it has a cause already.

    Once the server has answered it keeps trying through an outage, and logs when one begins and
    ends; `send` then waits when `buffer_bytes` are held, until there is room again. A `max_retries`
    of the connection bounds that. What had been sent when the connection was lost, and has no
    answer, may be in: it is not sent again, unless `idempotent` has the server recognise it.

    What the server refuses, or what becomes unknown, is raised by the next call: `WriteError` or
    `OutcomeUnknownError` as for `write_stream`, with rows counted since the producer was made. A
    producer that failed takes no further entries, and drops those that it had not sent.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes, optional
        The key of the stream that `send` adds to where it names no other.
    linger_ms : int or timedelta, default 5
        How long an entry waits for others to be sent with.
    batch_size : int, default 1_000
        How many entries are sent without waiting for more.
    buffer_bytes : int, default 16 MiB
        How much is held before `send` waits for the server.
    maxlen, minid, approximate, limit, nomkstream, idempotent
        As for `write_stream`.
    payload : str, optional
        Write one field of this name that holds a JSON object of what is sent, as `write_stream`
        does; values may then be lists and dicts too.
    payload_format : {"json", "msgpack"}, ProtobufSchema or AvroSchema, default "json"
        How that object is written, as for `write_stream`. A datetime with a time zone is a
        MessagePack timestamp.
    payload_fields : sequence of str, optional
        With MessagePack: the names of an array's values, as for `write_stream`.
    payload_compression : {"zstd", "gzip"}, optional
        Compress each payload by itself.
    max_age : float or timedelta, optional
        Trim entries that are older, in seconds, by this machine's clock (MINID, Redis 6.2); about
        these, unless `approximate` is False.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> import redfloe
    >>> with redfloe.StreamProducer(url, "clicks", maxlen=100_000) as producer:
    ...     for user in ("ada", "bob"):
    ...         sent = producer.send({"user": user, "value": 1.5})
    >>> producer.rows_written
    2

    One producer serves many streams, and `SentEntry.result` gives the ID of an entry:

    >>> with redfloe.StreamProducer(url) as producer:
    ...     sent = producer.send({"user": "ada"}, stream="users")
    ...     also = producer.send({"user": "ada"}, stream="audit")
    ...     entry_id = sent.result()
    >>> redfloe.read_stream(url, "users")["_id"].to_list() == [entry_id]
    True
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: str | bytes | None = None,
        *,
        linger_ms: Milliseconds = 5,
        batch_size: int = 1_000,
        buffer_bytes: int = 16 * 1024 * 1024,
        maxlen: int | None = None,
        minid: EntryIdLike | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        limit: int | None = None,
        nomkstream: bool = False,
        idempotent: str | bytes | None = None,
        payload: str | None = None,
        payload_format: PayloadFormat = "json",
        payload_fields: Sequence[str] | None = None,
        payload_compression: PayloadCompression | None = None,
    ) -> None:
        self._connection = url = _core.connect(url)
        self._reported = False
        self._closed = False
        if max_age is not None and (maxlen is not None or minid is not None or limit is not None):
            msg = "max_age excludes maxlen, minid and limit"
            raise ValueError(msg)
        request = make_request(
            maxlen=maxlen,
            minid=minid,
            approximate=approximate,
            limit=limit,
            nomkstream=nomkstream,
            batch_size=batch_size,
            idempotent=idempotent,
            payload=payload,
            payload_format=payload_format,
            payload_fields=payload_fields,
            payload_compression=payload_compression,
        )
        self._payload, self._format, self._names = payload, payload_format, payload_fields
        self._compression = payload_compression
        request["beside"] = self._beside = [*_beside.FIELDS] if _beside.wanted else []
        request["stream"] = b"" if stream is None else as_key(stream, "stream")
        self._stream = None if stream is None else request["stream"]
        self._request = request
        self._core = _core.Producer(
            url,
            request,
            milliseconds(linger_ms, "linger_ms"),
            request["batch_size"],
            positive(buffer_bytes, "buffer_bytes") or 1,
            None if max_age is None else (_max_age(max_age), not approximate),
        )

    def __repr__(self) -> str:
        where = target(self._connection, self._stream)
        return f"{type(self).__name__}({where}, rows_written={self.rows_written})"

    @property
    def rows_written(self) -> int:
        """How many entries are in."""
        return self._core.rows_written

    def send(self, fields: Fields, *, stream: str | bytes | None = None) -> SentEntry:
        """Take an entry, to be written soon; waits only while the buffer is full.

        Ctrl-C ends the wait, and the entry is not taken; the producer goes on.

        Parameters
        ----------
        fields : mapping of str or bytes to value
            What the entry holds. Strings and bytes are written as they are; bool, int, float,
            Decimal, datetime, date and time as `read_stream` takes them; None is left out. With a
            `payload` lists and mappings too.
        stream : str or bytes, optional
            The stream's key, where it is not the producer's.

        Returns
        -------
        SentEntry
            A future: its ``result()``, and under asyncio ``await``, gives the entry ID once the
            entry is in. Nobody has to ask.

        Raises
        ------
        WriteError, OutcomeUnknownError
            What was sent before could not be written. Other errors as for `write_stream`.
        DataLossError
            A failover lost entries that the server had acknowledged.
        ValueError, TypeError
            There is no field, no stream, or a value that has no text; or the producer is closed.
        """
        key, pairs = self._key(stream), self._pairs(fields)
        self._check()
        while (sent := self._core.send(key, pairs)) is None:
            self._wait("room")
        return SentEntry(self, sent)

    def send_frame(
        self, df: pl.DataFrame | ArrowStream, *, stream: str | bytes | None = None
    ) -> None:
        """Take the rows of a frame, to be written in their place among what is sent.

        Parameters
        ----------
        df : pl.DataFrame, or an object with ``__arrow_c_stream__``
            The rows; as for `write_stream`, with IDs from the server.
        stream : str or bytes, optional
            The stream's key, where it is not the producer's.

        Raises
        ------
        WriteError, OutcomeUnknownError, SchemaError, ValueError, TypeError
            As for `send` and `write_stream`.
        """
        key = self._key(stream)
        frame = self._frame(df, key)
        self._check()
        while not self._core.send_frame(key, frame):
            self._wait("room")

    def flush(self) -> None:
        """Write all that was sent so far, and wait until it is in.

        Ctrl-C ends the wait, not the producer.

        Raises
        ------
        WriteError, OutcomeUnknownError
            It could not be written. Other errors as for `write_stream`.
        """
        self._wait("flush")

    def close(self, *, timeout_ms: Milliseconds | None = None) -> None:
        """Write what is left, and refuse further entries. Closing again does nothing.

        Ctrl-C stops the producer within a second. The `KeyboardInterrupt` has a `WriteError` or
        `OutcomeUnknownError` as its cause where not all is in.

        Parameters
        ----------
        timeout_ms : int or timedelta, optional
            Give up after this many milliseconds, or a second later where answers are outstanding.
            By default it waits until the server is back.

        Raises
        ------
        WriteError
            As for `flush`.
        OutcomeUnknownError
            As for `flush`; and when the time is over before all is in. Its `rows_written` are in;
            nobody knows whether those in `unknown` are, which may be empty; those after them are
            not: `row` is the first.
        """
        self._close(optional_milliseconds(timeout_ms, "timeout_ms"), gives_up=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
            return
        reported = self._reported
        try:
            if _is_interrupt(exc):
                self._core.stop()
            self._close(_LAST_WRITES_MS)
        except Exception as error:  # noqa: BLE001 - whatever it is, `exc` goes on
            if not reported:
                _explain(exc, error)

    async def __aenter__(self) -> AsyncStreamProducer:
        return AsyncStreamProducer(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        closing = AsyncStreamProducer(self)
        if exc is None:
            await closing.close()
            return
        reported = self._reported
        try:
            if isinstance(exc, GeneratorExit):
                # A coroutine that is being closed, as by the end of its loop, must not wait.
                self._core.end()
                return
            if _is_interrupt(exc):
                self._core.stop()
            await closing._close(_LAST_WRITES_MS)
        except Exception as error:  # noqa: BLE001 - whatever it is, `exc` goes on
            if not reported:
                _explain(exc, error)

    def _key(self, stream: str | bytes | None) -> bytes | None:
        """Give the key of a stream that is not the producer's own."""
        if stream is not None:
            return as_key(stream, "stream")
        if self._stream is None:
            msg = "name the stream: send(..., stream=...), or StreamProducer(url, stream)"
            raise ValueError(msg)
        return None

    def _write(self, fields: Fields, *, stream: str | bytes | None = None) -> str | None:
        """Take an entry, wait until it is in, and give its ID; as `send`, whatever it lingers.

        Where nothing else is to be written, its thread does that itself and wakes no other.
        """
        key, pairs = self._key(stream), self._pairs(fields)
        while (entry_id := self._core.write(key, pairs)) is None:
            self._check()
            self._wait("room")
        return entry_id[0]

    def _pairs(self, fields: Fields) -> list[tuple[bytes, bytes]]:
        if self._payload is None:
            return as_pairs(fields)
        from redfloe._payload import document

        text = document(fields, self._format, self._names)
        if self._compression is not None:
            text = _core.compress(text, self._compression)
        return [(self._payload.encode(), text)]

    def _frame(self, df: pl.DataFrame | ArrowStream, key: bytes | None) -> pl.DataFrame:
        return make_write(df, key or self._stream or b"").frame

    def _wait(self, what: str) -> None:
        self._core.wait(what)
        self._check()

    def _close(self, limit_ms: int | None, *, gives_up: bool = False) -> None:
        if self._closed:
            return
        is_over, interrupt = self._core.close(limit_ms)
        self._closed = True
        if interrupt is not None:
            self._explain_interrupt(interrupt)
            raise interrupt
        self._check(gave_up_after=limit_ms if is_over and gives_up else None)

    def _check(self, gave_up_after: int | None = None) -> None:
        error = self._failure()
        if error is not None and gave_up_after is not None:
            error = _given_up(error, gave_up_after)
        try:
            if error is not None:
                self._reported = True
                raise error
        finally:
            del error  # whose traceback holds this frame, and so the caller's

    def _explain_interrupt(self, interrupt: BaseException) -> None:
        error = self._failure()
        if error is not None and not self._reported:
            _explain(interrupt, error)

    def _failure(self) -> Exception | None:
        failure = self._core.failure()
        if failure is None:
            return None
        outcome, first_row, rows_before = failure
        return error_of(outcome, first_row=first_row, rows_before=rows_before)


def _given_up(error: Exception, after_ms: int) -> Exception:
    """Give what a producer raises that gave up after that time."""
    if not isinstance(error, WriteError):
        return error
    msg = f"the server did not take all within {after_ms} ms (timeout_ms): {error}"
    given_up = OutcomeUnknownError(msg, error.code)
    given_up.rows_written, given_up.row = error.rows_written, error.row
    given_up.ids, given_up.first_row = error.ids, error.first_row
    missing = error.rows_written if error.row is None else error.row
    given_up.unknown = range(missing, missing)
    return given_up


def _is_interrupt(exc: BaseException) -> bool:
    """Whether it is Ctrl-C or a cancel, whose sender waits for the end."""
    return not isinstance(exc, Exception | SystemExit | GeneratorExit)


def _explain(exc: BaseException, error: Exception) -> None:
    """Say with an exception what its producer did not write."""
    if exc.__cause__ is not None:
        exc.add_note(f"{type(error).__name__}: {error}")
        return
    # What `exc` was raised for stays in the traceback. The frames of `error` hold `exc`.
    error.__context__ = exc.__context__
    exc.__cause__ = error.with_traceback(None)


def _max_age(max_age: float | timedelta) -> int:
    return natural(milliseconds_of_seconds(max_age, "max_age"), "max_age")
