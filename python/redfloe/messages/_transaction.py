"""The transaction of a handler: what it publishes and keeps is committed with its message."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from redfloe._errors import RedfloeError
from redfloe._processing.transaction import AsyncTransaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    import polars as pl

    from redfloe._checks import Milliseconds
    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.state import ProcessorState
    from redfloe._processing.table import Keys
    from redfloe._schema import SchemaLike
    from redfloe.messages._codecs import Codec
    from redfloe.messages._outgoing import Outgoing, Outlet


class CannotCommitError(ValueError):
    """A handler asks for what no transaction of its processor has: no retry mends it."""


def _final(error: ValueError) -> ValueError:
    """Give the error that ends the processor, unless it is one of the data."""
    return error if isinstance(error, RedfloeError) else CannotCommitError(str(error))


async def _looked_up(asked: Callable[[], Awaitable[pl.DataFrame]]) -> pl.DataFrame:
    try:
        return await asked()
    except ValueError as error:
        raise _final(error) from error


class Outputs:
    """How what handlers publish becomes entries, and where these may be."""

    def __init__(self, outlet: Outlet, codec: Codec, check: Callable[[bytes], None]) -> None:
        self.outlet = outlet
        self.codec = codec
        self._check = check
        self._checked: set[bytes] = set()

    def check(self, stream: bytes) -> None:
        """Refuse a stream that no commit of the processor could write to."""
        if stream in self._checked:
            return
        try:
            self._check(stream)
        except ValueError as error:
            raise CannotCommitError(str(error)) from None
        if len(self._checked) < _MOST_STREAMS:
            self._checked.add(stream)


#: How many streams are remembered.
_MOST_STREAMS = 10_000


class Transaction:
    """What a handler's message is committed with, exactly once: a parameter called ``tx``.

    What is published, what changes of the state and of tables, and that the message is done with
    are written in one step, together with what belongs to other messages of the batch. Nothing is
    sent before; where a handler raises, nothing of its message is in.

    Examples
    --------
    >>> from pydantic import BaseModel
    >>> from redfloe.messages import Processor, Router, Transaction
    >>> class Event(BaseModel):
    ...     action: str
    >>> class Counted(BaseModel):
    ...     action: str
    ...     times: int
    >>> router = Router()
    >>> @router.on("events", Event)
    ... def count(event: Event, tx: Transaction) -> None:
    ...     times = tx.state.get(event.action, 0) + 1
    ...     tx.state[event.action] = times
    ...     tx.publish(Counted(action=event.action, times=times), stream="counts")
    >>> Processor(url, "events", router, name="counting", on_idle="stop", block_ms=1).run()
    >>> import redfloe
    >>> redfloe.read_stream(url, "counts").select("action", "times").rows()
    [('click', '1'), ('view', '1')]
    """

    def __init__(
        self,
        batch: BaseTransaction,
        outputs: Outputs,
        published: list[Outgoing],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        self._batch = batch
        self._outputs = outputs
        self._published = published
        self._loop = loop

    def __repr__(self) -> str:
        return f"<Transaction of {self._batch!r}>"

    @property
    def state(self) -> ProcessorState:
        """The processor's state, a dict that is saved with the commit: see `ProcessorState`.

        Raises
        ------
        ValueError
            The processor is one of a group's workers, which have no state. It ends then.
        """
        self._refuse_of_group("no state")
        return self._batch.state

    def publish(
        self,
        event: Any,
        *,
        metadata: Mapping[str, Any] | None = None,
        stream: str | bytes | None = None,
        maxlen: int | None = None,
        approximate: bool = True,
    ) -> None:
        """Have the commit add a message to a stream (XADD, Redis 5.0), as `Producer.publish` would.

        Parameters
        ----------
        event, metadata
            As for `Producer.publish`.
        stream : str or bytes, optional
            The stream's key; by default what the processor's `outputs` say of the event's type. In
            a Redis Cluster it shares the slot of the handler's stream: ``"{orders}:paid"`` does
            that of ``"orders"``.
        maxlen : int, optional
            Have the commit shorten the stream to about *n* entries, after all was added (XTRIM).
        approximate : bool, default True
            Whether *about* is meant, which is much cheaper for the server (``~``).

        Raises
        ------
        ValueError, TypeError
            As for `Producer.publish`. Or the stream is in another slot of the cluster, and nothing
            has been sent: then the processor ends.
        RuntimeError
            The transaction has ended.
        """
        outgoing = self._outputs.outlet.outgoing(event, metadata, stream)
        self._outputs.check(outgoing.stream)
        fields = self._outputs.codec.fields(*outgoing[1:])
        self._batch.publish(outgoing.stream, fields, maxlen=maxlen, approximate=approximate)
        self._published.append(outgoing)

    def table(
        self,
        name: str | bytes,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
        event_time: str | None = None,
        expire_after: Milliseconds | None = None,
    ) -> Any:
        """Give one of the processor's tables: see `redfloe.Transaction.table`.

        An async handler awaits it: ``await tx.table(...)``.

        Parameters
        ----------
        name, key, schema, event_time, expire_after
            As for `redfloe.Transaction.table`.

        Returns
        -------
        Table
            The table, or in an async handler what is awaited for it.

        Raises
        ------
        ValueError
            The processor is one of a group's workers, which have no tables. It ends then.
        """
        self._refuse_of_group("no tables")
        batch: Any = self._batch
        return self._waited_for(
            batch.table(
                name, key=key, schema=schema, event_time=event_time, expire_after=expire_after
            )
        )

    def lookup(
        self,
        stream: str | bytes,
        name: str | bytes,
        table: str | bytes,
        keys: Keys,
        *,
        key: str | Sequence[str],
        schema: SchemaLike,
    ) -> Any:
        """Look up rows of another processor's table: see `redfloe.Transaction.lookup`.

        An async handler awaits it: ``await tx.lookup(...)``.

        Parameters
        ----------
        stream, name, table, keys, key, schema
            As for `redfloe.Transaction.lookup`.

        Returns
        -------
        pl.DataFrame
            A row for each key, or in an async handler what is awaited for it.

        Raises
        ------
        ValueError
            There can be no such lookup, as for `redfloe.Transaction.lookup`. The processor ends.
        """
        batch: Any = self._batch
        asked = partial(batch.lookup, stream, name, table, keys, key=key, schema=schema)
        if isinstance(batch, AsyncTransaction):
            return self._waited_for(_looked_up(asked))
        try:
            return asked()
        except ValueError as error:
            raise _final(error) from error

    def _waited_for(self, made: Any) -> Any:
        """Give what was asked for; to a thread, which waits for what the event loop does, too."""
        if (
            isinstance(self._batch, AsyncTransaction)
            and self._loop is not None
            and asyncio._get_running_loop() is None
        ):
            return asyncio.run_coroutine_threadsafe(made, self._loop).result()
        return made

    def _refuse_of_group(self, what: str) -> None:
        if self._batch._session.is_of_group:
            msg = (
                f"a handler that shares its stream with a group's other workers has {what}: each "
                "would overwrite what the others have written. Publish, and have a Processor "
                "without a group keep the totals"
            )
            raise CannotCommitError(msg)
