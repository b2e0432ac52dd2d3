"""Publishing: one message, with its entry ID, or many at the speed of a pipeline."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any, Self

from redfloe import _core
from redfloe._checks import Milliseconds, as_key
from redfloe._errors import RedfloeError
from redfloe._writing.async_producer import AsyncStreamProducer
from redfloe._writing.producer import StreamProducer
from redfloe.messages._codecs import CodecLike, codec_of
from redfloe.messages._kinds import type_name
from redfloe.messages._outgoing import Outgoing, Outlet, StreamOf
from redfloe.messages._schema_of import is_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta
    from types import TracebackType

    import polars as pl

    from redfloe._core import RedisConnection

#: How many messages become a frame.
_CHUNK = 10_000


class Producer:
    """Publishes messages to streams, from any thread.

    `publish` waits until its message is in, and gives the entry ID; `publish_many` sends many in
    pipelines (XADD, Redis 5.0). What the server refuses is raised by the call whose message it was,
    and by those of other threads whose messages were on their way after it, and are not in; later
    calls are not affected. Through an outage of the server it keeps trying, as
    `StreamProducer` says, unless the connection's `max_retries` bounds that.

    It is closed at the end of its ``with``; ``async with`` gives an `AsyncProducer`, of coroutines.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, mapping or callable, optional
        The stream's key; or a mapping of types, by name or model, to keys; or a function of the
        `Message` that gives one. Without it each call names its `stream`.
    codec : {"row", "json", "natricine"} or Codec, default "row"
        How a message is an entry.
    maxlen : int, optional
        Shorten the stream to about *n* entries with each message (MAXLEN).
    max_age : float or timedelta, optional
        Trim entries that are older, in seconds, by this machine's clock (MINID, Redis 6.2).
    approximate : bool, default True
        Whether *about* is meant, which is much cheaper for the server (``~``).
    idempotent : str or bytes, optional
        The name of this producer, for one process at a time: the server recognises messages that a
        lost connection had brought it already (XADD IDMP, Redis 8.6; no effect before).

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import Message, Producer
    >>> class OrderPlaced(BaseModel):
    ...     order_id: int
    >>> with Producer(url, "orders", maxlen=10_000) as producer:
    ...     entry_id = producer.publish(OrderPlaced(order_id=1), metadata={"via": "web"})
    ...     producer.publish_many([OrderPlaced(order_id=2), Message("note", {"text": "hi"})])
    2
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: StreamOf = None,
        *,
        codec: CodecLike = "row",
        maxlen: int | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        idempotent: str | bytes | None = None,
    ) -> None:
        self._connection = _core.connect(url)
        self._codec = codec_of(codec)
        self._outlet = Outlet(stream)
        self._options: dict[str, Any] = {
            "linger_ms": 0,  # whoever publishes one waits for it
            "maxlen": maxlen,
            "max_age": max_age,
            "approximate": approximate,
            "idempotent": idempotent,
        }
        self._lock = threading.Lock()
        self._closed = False
        self._producer: StreamProducer | None = self._make()
        #: Told what was published, with its entry ID where that is known.
        self._watch: Callable[[Outgoing, str | None], None] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection!r})"

    def publish(
        self,
        event: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        stream: str | bytes | None = None,
    ) -> str:
        """Publish a message, and wait until it is in.

        Parameters
        ----------
        event : model, Message or mapping
            An instance of a model, whose class names the type (or its `__message_type__`); a
            `Message`, which says its type itself; or a mapping, without a type.
        metadata : mapping, optional
            What is said about it, as JSON; goes before that of a `Message`.
        stream : str or bytes, optional
            The stream's key, where it is not the producer's.

        Returns
        -------
        str
            The entry ID.

        Raises
        ------
        ValueError, TypeError
            A value has no text, or would be read as another one, or as none: None in a field whose
            default is not None, a number in an ``int | str``, an empty text in a Literal, several
            flags. Or no stream is named.
        WriteError, OutcomeUnknownError
            It could not be written, or nobody knows; as for `StreamProducer.send`.
        """
        outgoing = self._outlet.outgoing(event, metadata, stream)
        fields = self._codec.fields(*outgoing[1:])
        producer = self._current()
        try:
            entry_id = producer._write(fields, stream=outgoing.stream)
        except RedfloeError:
            self._forget(producer)
            raise
        return self._published(outgoing, entry_id)

    def publish_many(
        self,
        events: Iterable[Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        stream: str | bytes | None = None,
    ) -> int:
        """Publish messages in pipelines, and wait until all are in; each stream keeps their order.

        Parameters
        ----------
        events, metadata, stream
            As for `publish`.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        ValueError, TypeError, WriteError, OutcomeUnknownError
            As for `publish`. Messages before may be in.
        """
        number = 0
        with self._using() as producer:
            for key, frame in self._frames(events, metadata, stream):
                producer.send_frame(frame, stream=key)
                number += frame.height
            producer.flush()
        return number

    def close(self, *, timeout_ms: Milliseconds | None = None) -> None:
        """Write what is left, and refuse further messages. Closing again does nothing.

        Parameters
        ----------
        timeout_ms : int or timedelta, optional
            As for `StreamProducer.close`.
        """
        producer = self._end()
        if producer is not None:
            producer.close(timeout_ms=timeout_ms)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        producer = self._end()
        if producer is not None:
            producer.__exit__(exc_type, exc, traceback)

    async def __aenter__(self) -> AsyncProducer:
        return AsyncProducer(self)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        producer = self._end()
        if producer is not None:
            await producer.__aexit__(exc_type, exc, traceback)

    # What is published, and where

    def _frames(
        self,
        events: Iterable[Any],
        metadata: Mapping[str, Any] | None,
        stream: str | bytes | None,
    ) -> Iterator[tuple[bytes, pl.DataFrame]]:
        """Give the entries in runs for one stream."""
        key = self._outlet.stream if stream is None else as_key(stream, "stream")
        remaining = iter(events)
        while chunk := [*islice(remaining, _CHUNK)]:
            model, *others = set(map(type, chunk))
            if isinstance(key, bytes) and not others and is_model(model):
                # All alike, so nothing has to be found out for each.
                count = len(chunk)
                columns = [type_name(model)] * count, chunk, [metadata or {}] * count
                yield key, self._frame(key, *columns)
                continue
            outgoing = (self._outlet.outgoing(event, metadata, stream) for event in chunk)
            for of_run, run in groupby(outgoing, key=lambda one: one.stream):
                _, types, payloads, given = zip(*run, strict=True)
                yield of_run, self._frame(of_run, types, payloads, given)

    def _frame(
        self,
        key: bytes,
        types: Sequence[str | None],
        payloads: Sequence[Any],
        metadata: Sequence[Mapping[str, Any]],
    ) -> pl.DataFrame:
        frame = self._codec.frame(types, payloads, metadata)
        if self._watch is not None:
            for one in zip(types, payloads, metadata, strict=True):
                self._watch(Outgoing(key, *one), None)
        return frame

    def _published(self, outgoing: Outgoing, entry_id: str | None) -> str:
        if self._watch is not None:
            self._watch(outgoing, entry_id)
        assert entry_id is not None, "there is no nomkstream"
        return entry_id

    # The core's producer, which takes no more once it has failed

    def _make(self) -> StreamProducer:
        return StreamProducer(self._connection, **self._options)

    @contextmanager
    def _using(self) -> Iterator[StreamProducer]:
        producer = self._current()
        try:
            yield producer
        except RedfloeError:
            self._forget(producer)
            raise

    def _forget(self, producer: StreamProducer) -> None:
        with self._lock:
            if self._producer is producer:
                self._producer = None

    def _current(self) -> StreamProducer:
        with self._lock:
            if self._closed:
                msg = "the producer is closed"
                raise ValueError(msg)
            if self._producer is None or self._producer._core.failure() is not None:
                self._producer = self._make()
            return self._producer

    def _end(self) -> StreamProducer | None:
        with self._lock:
            producer, self._producer, self._closed = self._producer, None, True
            return producer


class AsyncProducer:
    """A `Producer` for an event loop, which it never blocks.

    Made by the ``async with`` of a producer, or of one that is kept: ``AsyncProducer(producer)``.

    Parameters
    ----------
    producer : Producer
        The producer that it makes awaitable.

    Examples
    --------
    >>> import asyncio
    >>> from redfloe.messages import Message, Producer
    >>> async def main():
    ...     async with Producer(url, "users") as producer:
    ...         await producer.publish(Message("user.created", {"user_id": 123}))
    >>> asyncio.run(main())
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def __repr__(self) -> str:
        return f"Async{self._producer!r}"

    async def publish(
        self,
        event: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        stream: str | bytes | None = None,
    ) -> str:
        """Publish a message, and wait until it is in; as `Producer.publish`."""
        producer = self._producer
        outgoing = producer._outlet.outgoing(event, metadata, stream)
        fields = producer._codec.fields(*outgoing[1:])
        with producer._using() as core:
            sent = await AsyncStreamProducer(core).send(fields, stream=outgoing.stream)
            entry_id = await sent
        return producer._published(outgoing, entry_id)

    async def publish_many(
        self,
        events: Iterable[Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        stream: str | bytes | None = None,
    ) -> int:
        """Publish messages in pipelines, and wait until all are in; as `Producer.publish_many`."""
        producer = self._producer
        number = 0
        with producer._using() as core:
            in_loop = AsyncStreamProducer(core)
            for key, frame in producer._frames(events, metadata, stream):
                await in_loop.send_frame(frame, stream=key)
                number += frame.height
            await in_loop.flush()
        return number

    async def close(self, *, timeout_ms: Milliseconds | None = None) -> None:
        """Write what is left, and refuse further messages; as `Producer.close`."""
        producer = self._producer._end()
        if producer is not None:
            await AsyncStreamProducer(producer).close(timeout_ms=timeout_ms)
