"""A worker that calls a handler: `run` and `run_async` over a consumer's loops."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterable, Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any

from redfloe._batch import AsyncBatch, Batch
from redfloe._consuming.handling import (
    Failing,
    InEventLoop,
    InLoop,
    handle,
    is_done,
    without_waiting,
)
from redfloe._consuming.retry import ExceptionPolicy, Retry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class RunsHandlers(
    AbstractContextManager[Any],
    Iterable[Batch],
    AbstractAsyncContextManager[Any],
    AsyncIterable[AsyncBatch],
):
    """What can be entered and iterated over, in a loop and in an event loop, runs handlers."""

    _failing: Failing
    _stopped: bool

    @abstractmethod
    def _put_down(self, batch: Batch) -> None:
        """Leave the batch in hand to the next run."""

    def run(
        self,
        handler: Callable[[Batch], object],
        *,
        attempts: int = 3,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 10.0,
        on_exception: ExceptionPolicy | None = None,
    ) -> None:
        """Call `handler` with each batch until the consumer ends, and retry where it raises.

        A batch whose handler raises is tried again, with pauses that grow exponentially and have
        jitter. After the last attempt it is halved again and again, until the entries that fail are
        alone: the handler may see an entry several times, so make the work idempotent. An entry
        that fails alone goes to the dead-letter stream; with `max_deliveries` it first stays
        pending, until it has been delivered that often. Without a dead-letter stream the exception
        is raised. `stop` in a pause leaves the batch pending.

        Parameters
        ----------
        handler : callable
            Takes a `Batch`; what it returns is ignored, but must not be awaitable.
        attempts : int, default 3
            How often to call it with a batch.
        retry_base_delay, retry_max_delay : float
            The first pause between attempts, and the longest, in seconds.
        on_exception : mapping of exception class to {"retry", "fail", "raise"}, optional
            What to do with single exceptions and their subclasses: try again, fail at once, or give
            up: raise it from `run`, the batch pending. The first class that fits counts; by default
            each `Exception` is tried again.

        Raises
        ------
        Exception
            The handler's, where no dead-letter stream takes the entry or `on_exception` says so.
        TypeError
            At once, where the handler is async: use `run_async`. Later, where it returned something
            to be awaited, or a generator: nothing is retried, and its batch stays pending.
        RedfloeError
            As the loop.

        Examples
        --------
        >>> import redfloe
        >>> consumer = redfloe.StreamConsumer(
        ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
        ... )
        >>> consumer.run(lambda batch: print(batch.frame["action"].to_list()))
        ['click', 'view']
        """
        retry = Retry(attempts, retry_base_delay, retry_max_delay, on_exception)
        face = InLoop(handler, lambda: self._stopped)
        with self:
            for batch in self:
                if not is_done(without_waiting(handle(batch, retry, face, self._failing))):
                    self._put_down(batch)

    async def run_async(
        self,
        handler: Callable[[AsyncBatch], Awaitable[object]],
        *,
        attempts: int = 3,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 10.0,
        on_exception: ExceptionPolicy | None = None,
    ) -> None:
        """Await `handler` with each batch until the consumer ends: the asynchronous `run`.

        Parameters
        ----------
        handler : callable
            Takes an `AsyncBatch` and gives an awaitable.
        attempts, retry_base_delay, retry_max_delay, on_exception
            As for `run`.

        Raises
        ------
        Exception
            As `run`; a StopIteration is the cause of a RuntimeError: no coroutine raises one.
        TypeError
            The handler returned something that cannot be awaited: make it an async function, or use
            `run`. Nothing is retried, and its batch stays pending.

        Examples
        --------
        >>> import asyncio
        >>> import redfloe
        >>> async def handle(batch):
        ...     print(batch.frame["action"].to_list())
        >>> consumer = redfloe.StreamConsumer(
        ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
        ... )
        >>> asyncio.run(consumer.run_async(handle))
        ['click', 'view']
        """
        retry = Retry(attempts, retry_base_delay, retry_max_delay, on_exception)
        face = InEventLoop(handler, lambda: self._stopped)
        async with self:
            async for batch in self:
                if not is_done(await handle(batch, retry, face, self._failing)):
                    self._put_down(batch._batch)
