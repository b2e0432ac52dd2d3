"""Entries one by one, lingered into pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Self, TypeAlias

from redfloe import _core
from redfloe._arguments import EntryIdLike, as_key, milliseconds, natural, positive
from redfloe._event_loop import completed
from redfloe._write import error_of
from redfloe._write_arguments import make_request, make_write

if TYPE_CHECKING:
    from types import TracebackType

    import polars as pl

    from redfloe._core import RedisConnection
    from redfloe._frame import ArrowStream

Value: TypeAlias = str | bytes | bool | int | float | Decimal | datetime | date | time | None
Fields: TypeAlias = Mapping[str, Value] | Mapping[bytes, Value]


class StreamProducer:
    """Adds entries to a stream as they come up, for services.

    `send` takes an entry and returns at once; a background task writes what has come, in order, in
    pipelines (XADD, Redis 5.0). As a context manager it is closed at the end of the block, which
    writes what is left. ``async with`` gives an `AsyncStreamProducer`, of coroutines.

    What the server refuses, or what becomes unknown, is raised by the next call: `WriteError` or
    `OutcomeUnknownError` as for `write_stream`, with rows counted since the producer was made. A
    producer that failed takes no more, and drops what it had not sent.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key.
    linger_ms : int, default 5
        How long an entry waits for others to be sent with.
    batch_size : int, default 1_000
        How many entries are sent without waiting for more.
    buffer_bytes : int, default 16 MiB
        How much is held before `send` waits for the server.
    maxlen, minid, approximate, limit, nomkstream, idempotent
        As for `write_stream`.
    max_age : float or timedelta, optional
        Trim entries that are older, in seconds, by this machine's clock (MINID, Redis 6.2).

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> import redfloe
    >>> with redfloe.StreamProducer(url, "clicks", maxlen=100_000) as producer:
    ...     for user in ("ada", "bob"):
    ...         producer.send({"user": user, "value": 1.5})
    >>> producer.rows_written
    2
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: str | bytes,
        *,
        linger_ms: int = 5,
        batch_size: int = 1_000,
        buffer_bytes: int = 16 * 1024 * 1024,
        maxlen: int | None = None,
        minid: EntryIdLike | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        limit: int | None = None,
        nomkstream: bool = False,
        idempotent: str | bytes | None = None,
    ) -> None:
        url = _core.connect(url)
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
        )
        request["stream"] = as_key(stream, "stream")
        self._stream = stream
        self._core = _core.Producer(
            url,
            request,
            natural(linger_ms, "linger_ms"),
            request["batch_size"],
            positive(buffer_bytes, "buffer_bytes") or 1,
            None if max_age is None else natural(milliseconds(max_age, "max_age"), "max_age"),
        )

    @property
    def rows_written(self) -> int:
        """How many entries are in."""
        return self._core.rows_written

    def send(self, fields: Fields) -> None:
        """Take an entry, to be written soon; waits only while the buffer is full.

        Parameters
        ----------
        fields : mapping of str or bytes to value
            What the entry holds. Strings and bytes are written as they are; bool, int, float,
            Decimal, datetime, date and time as `read_stream` takes them; None is left out.

        Raises
        ------
        WriteError, OutcomeUnknownError
            What was sent before could not be written. Other errors of `write_stream` likewise.
        ValueError, TypeError
            There is no field, or a value that has no text; or the producer is closed.
        """
        pairs = _pairs(fields)
        self._check()
        while not self._core.send(pairs):
            self._wait("room")

    def send_frame(self, df: pl.DataFrame | ArrowStream) -> None:
        """Take the rows of a frame, to be written in their place among what is sent.

        Parameters
        ----------
        df : pl.DataFrame, or an object with ``__arrow_c_stream__``
            The rows; as for `write_stream`, with IDs from the server.

        Raises
        ------
        WriteError, OutcomeUnknownError, SchemaError, ValueError, TypeError
            As for `send` and `write_stream`.
        """
        frame = _frame(df, self._stream)
        self._check()
        while not self._core.send_frame(frame):
            self._wait("room")

    def flush(self) -> None:
        """Write all that was sent so far, and wait until it is in.

        Raises
        ------
        WriteError, OutcomeUnknownError
            It could not be written. Other errors of `write_stream` likewise.
        """
        self._wait("flush")

    def close(self) -> None:
        """Write what is left, and take no more. Closing again does nothing.

        Raises
        ------
        WriteError, OutcomeUnknownError
            As for `flush`.
        """
        self._wait("close")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> AsyncStreamProducer:
        return AsyncStreamProducer(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await AsyncStreamProducer(self).close()

    def _wait(self, what: str) -> None:
        self._core.wait(what)
        self._check()

    def _check(self) -> None:
        failure = self._core.failure()
        if failure is not None:
            outcome, first_row, rows_before = failure
            error = error_of(outcome, first_row=first_row, rows_before=rows_before)
            if error is not None:
                raise error


class AsyncStreamProducer:
    """A `StreamProducer` for an event loop, which it never blocks; made by ``async with``.

    Parameters
    ----------
    producer : StreamProducer
        What it is the other face of.
    """

    def __init__(self, producer: StreamProducer) -> None:
        self._producer = producer

    @property
    def rows_written(self) -> int:
        """How many entries are in."""
        return self._producer.rows_written

    async def send(self, fields: Fields) -> None:
        """Take an entry, as `StreamProducer.send`; awaits only while the buffer is full."""
        pairs = _pairs(fields)
        self._producer._check()
        while not self._producer._core.send(pairs):
            await self._wait("room")

    async def send_frame(self, df: pl.DataFrame | ArrowStream) -> None:
        """Take the rows of a frame, as `StreamProducer.send_frame`."""
        frame = _frame(df, self._producer._stream)
        self._producer._check()
        while not self._producer._core.send_frame(frame):
            await self._wait("room")

    async def flush(self) -> None:
        """Write all that was sent so far, and wait until it is in."""
        await self._wait("flush")

    async def close(self) -> None:
        """Write what is left, and take no more."""
        await self._wait("close")

    async def _wait(self, what: str) -> None:
        await completed(self._producer._core.start_wait(what))
        self._producer._check()


def _frame(df: pl.DataFrame | ArrowStream, stream: str | bytes) -> pl.DataFrame:
    return make_write(df, as_key(stream, "stream")).frame


def _pairs(fields: object) -> list[tuple[bytes, bytes]]:
    if not isinstance(fields, Mapping):
        msg = f"fields must be a mapping of names to values, not {type(fields).__name__}"
        raise TypeError(msg)
    return [
        (as_key(name, "a field's name"), text)
        for name, value in fields.items()
        if (text := _text(name, value)) is not None
    ]


def _text(name: object, value: object) -> bytes | None:
    match value:
        case None:
            return None
        case str():
            return value.encode()
        case bytes():
            return value
        case bool():
            return b"true" if value else b"false"
        case int() | float():
            return repr(value).encode()
        case Decimal():
            return str(value).encode()
        case date() | time():
            return value.isoformat().encode()
    msg = (
        f"the field {name!r} has a {type(value).__name__}, for which there is no one text; make it "
        "a str, as by json.dumps"
    )
    raise TypeError(msg)
