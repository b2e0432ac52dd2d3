"""A processor that calls a handler: `run`, `run_async`, `each`, and a background thread."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import wraps
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from redfloe._consuming.handling import (
    Failing,
    InEventLoop,
    InLoop,
    handle,
    is_done,
    without_waiting,
)
from redfloe._consuming.retry import ExceptionPolicy, Raise, Retry, reason_of
from redfloe._errors import ClaimedError, FencedError
from redfloe._functions import is_async
from redfloe._log import log, log_live
from redfloe._processing.transaction import AsyncTransaction, Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future
    from threading import Thread

    from redfloe._processing.processor import StreamProcessor
    from redfloe._processing.session import Session

T = TypeVar("T", Transaction, AsyncTransaction)
H = TypeVar("H", bound="Callable[..., object]")


class BegunAnewError(Exception):
    """A part is not in, as far as is known: the loop goes on with what has not been committed."""


class Face(Generic[T]):
    """Calls a handler with parts of a batch, each of which is committed by itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    async def call(self, part: T) -> Exception | None:
        """Call the handler and commit, or give what it raised."""
        part._session.open(part)
        part._tried += 1
        error: Exception | None = await self._inner.call(part)
        is_lost = error is not None and part._session.shard is not None and part._session.is_fenced
        if is_lost:  # the lane is another's now, and the loop goes on with its others
            part._session.put_down()
        if part._session.current is not part:
            if is_lost or isinstance(error, ClaimedError):
                raise BegunAnewError from error
            if error is not None:
                raise error  # nothing of it can be tried again: it was committed
            return None
        if error is not None:
            part._again()
            part._session.put_down()
            if part._cannot_be_part is not None:
                raise part._cannot_be_part
            part._failure = error
            return error
        await self._commit(part)
        return None

    async def pause(self, seconds: float) -> bool:
        """Wait that long, or until `stop` is called; say which."""
        stopped: bool = await self._inner.pause(seconds)
        return stopped

    async def fail(self, part: T, reason: str) -> bool:
        """Commit nothing of the part but its dead letters."""
        if part._has_id and part._failure is not None:
            raise part._failure  # as where it would be halved
        part._session.open(part)
        part.fail(part.ids, reason)
        await self._commit(part)
        return False

    def leave(self, part: T) -> None:
        """Have them delivered again, by their group, which counts that."""
        part._session.core.leave(part._core)

    async def _commit(self, part: T) -> None:
        try:
            if not await part._session.commit(part, settles=True):
                raise BegunAnewError
        except FencedError as error:
            if part._session.shard is None:
                raise
            raise BegunAnewError from error


class RunsHandlers(AbstractContextManager[Any], AbstractAsyncContextManager[Any]):
    """What gives transactions, in a loop and in an event loop, runs handlers."""

    _failing: Failing
    _stopped: bool
    _handler: Callable[..., object] | None = None
    #: What is raised at once, whatever a handler's user says.
    _raised: ExceptionPolicy = MappingProxyType({})

    @abstractmethod
    def _blocking(self) -> Session[Transaction]:
        """Give the session of a loop."""

    @abstractmethod
    def _awaiting(self) -> Session[AsyncTransaction]:
        """Give the session of an event loop."""

    def run(
        self,
        handler: Callable[[Transaction], object] | None = None,
        *,
        attempts: int = 3,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 10.0,
        on_exception: ExceptionPolicy | None = None,
    ) -> None:
        """Call `handler` with each batch until the processor ends, and commit it where it returns.

        A batch whose handler raises is tried again, from the state and the tables that were saved,
        with pauses that grow exponentially and have jitter. After the last attempt, if there is a
        `dead_letter` stream, it is halved again and again, until the entries that fail are alone;
        the parts are committed one by one, in the order of the stream. An entry that fails alone
        goes to the dead-letter stream in the commit that moves the position past it. Without a
        dead-letter stream the exception is raised; also where the handler has asked for
        `Transaction.batch_id`, since something outside of Redis may have the batch as a whole.

        Parameters
        ----------
        handler : callable, optional
            Takes a `Transaction`; what it returns is ignored, but must not be awaitable. By default
            the one that `each` has decorated.
        attempts : int, default 3
            How often to call it with a batch.
        retry_base_delay, retry_max_delay : float
            The first pause between attempts, and the longest, in seconds.
        on_exception : mapping of exception class to {"retry", "fail", "raise"}, optional
            As for `StreamConsumer.run`.

        Raises
        ------
        Exception
            The handler's, where no dead-letter stream takes the entry or `on_exception` says so, or
            where it comes after the handler's own commit.
        TypeError
            The handler is async, or returned something to be awaited: use `run_async`.
        RedfloeError
            As the loop.

        Examples
        --------
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="copy", on_idle="stop", block_ms=1
        ... )
        >>> processor.run(lambda tx: tx.publish("copies", tx.frame))
        >>> redfloe.read_stream(url, "copies")["action"].to_list()
        ['click', 'view']
        """
        retry = self._retry(attempts, retry_base_delay, retry_max_delay, on_exception)
        inner = InLoop(self._chosen(handler), lambda: self._stopped)
        with self:
            session = self._blocking()
            face: Face[Transaction] = Face(inner)
            is_done(without_waiting(self._handle_all(session, face, retry)))

    async def run_async(
        self,
        handler: Callable[[AsyncTransaction], Awaitable[object]] | None = None,
        *,
        attempts: int = 3,
        retry_base_delay: float = 0.1,
        retry_max_delay: float = 10.0,
        on_exception: ExceptionPolicy | None = None,
    ) -> None:
        """Await `handler` with each batch until the processor ends: the asynchronous `run`.

        Parameters
        ----------
        handler : callable, optional
            Takes an `AsyncTransaction` and gives an awaitable.
        attempts, retry_base_delay, retry_max_delay, on_exception
            As for `run`.

        Raises
        ------
        Exception
            As `run`; a StopIteration is the cause of a RuntimeError: no coroutine raises one.
        TypeError
            The handler returned something that cannot be awaited: make it an async function, or use
            `run`.

        Examples
        --------
        >>> import asyncio
        >>> import redfloe
        >>> async def handle(tx):
        ...     tx.publish("copies", tx.frame)
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="copy", on_idle="stop", block_ms=1
        ... )
        >>> asyncio.run(processor.run_async(handle))
        >>> redfloe.read_stream(url, "copies")["action"].to_list()
        ['click', 'view']
        """
        retry = self._retry(attempts, retry_base_delay, retry_max_delay, on_exception)
        inner = InEventLoop(self._chosen(handler), lambda: self._stopped)
        async with self:
            session = self._awaiting()
            face: Face[AsyncTransaction] = Face(inner)
            is_done(await self._handle_all(session, face, retry))

    async def _handle_all(self, session: Session[T], face: Face[T], retry: Retry) -> bool | Raise:
        """Have all batches handled, until the processor ends; what is to be raised is given."""
        while (batch := await self._next(session)) is not None:
            try:
                done = await handle(batch, retry, face, self._failing)
            except BegunAnewError:
                continue
            if done is not True:  # stopped in a pause, or by an exception
                return done
        return True

    async def _next(self, session: Session[T]) -> T | None:
        """Give the next batch that a handler is called with, or None at the end."""
        return await session.next(opens=False)

    def _retry(
        self,
        attempts: int,
        base_delay: float,
        max_delay: float,
        on_exception: ExceptionPolicy | None,
    ) -> Retry:
        on = {**self._raised, **(on_exception or {})}
        return Retry(attempts, base_delay, max_delay, on)

    def each(self, handler: H) -> H:
        """Have `run`, `run_async` and `start` call a function with each entry: a decorator.

        It takes the entry, as a dict of the frame's columns, and the transaction of its batch, with
        which it is committed. It is called in the order of the stream. Where it raises, the batch
        is tried again, and halved, as `run` says: an entry that fails alone goes to the dead
        letters.

        Examples
        --------
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="counter", on_idle="stop", block_ms=1
        ... )
        >>> @processor.each
        ... def count(entry, tx):
        ...     tx.state[entry["action"]] = tx.state.get(entry["action"], 0) + 1
        ...     tx.publish("counts", {entry["action"]: tx.state[entry["action"]]})
        >>> processor.run()
        >>> redfloe.read_stream(url, "counts", include_timestamp=False, include_id=False).rows()
        [('1', None), (None, '1')]
        """
        call: Any = handler
        if is_async(handler):

            @wraps(call)
            async def each_awaited(tx: AsyncTransaction) -> None:
                for entry in tx.frame.iter_rows(named=True):
                    await call(entry, tx)

            self._handler = each_awaited
        else:

            @wraps(call)
            def each(tx: Transaction) -> None:
                for entry in tx.frame.iter_rows(named=True):
                    result = call(entry, tx)
                    if result is not None and hasattr(result, "__await__"):
                        msg = (
                            f"{call!r} returned something to be awaited; make it an async function"
                        )
                        raise TypeError(msg)

            self._handler = each
        return handler

    def start(
        self,
        handler: Callable[[Transaction], object] | None = None,
        **options: Any,
    ) -> Future[None]:
        """Have a thread in the background `run`; `stop` ends it.

        An exception that ends the thread is logged as ``processor_failed``, and the future has it.
        The thread does not keep the interpreter from exiting.

        Parameters
        ----------
        handler : callable, optional
            As for `run`.
        **options
            As for `run`.

        Returns
        -------
        concurrent.futures.Future
            How it ended: ``result()`` waits for that, and raises what it was ended by.

        Raises
        ------
        RuntimeError
            It runs already, or no thread can be started.

        Examples
        --------
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(url, "events", name="copy", block_ms=1)
        >>> ended = processor.start(lambda tx: tx.publish("copies", tx.frame))
        >>> while processor.stats.entries < 2:
        ...     pass
        >>> processor.stop()
        >>> ended.result()
        """
        import threading
        from concurrent.futures import Future

        chosen = self._chosen(handler)
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                try:
                    self.run(chosen, **options)
                finally:
                    self._keep_no_more(thread)  # where it was never entered
            except BaseException as error:  # noqa: BLE001 - whoever asks gets it
                log("processor_failed", {**self._failing.where, "error": reason_of(error)}, error)
                future.set_exception(error)
            else:
                future.set_result(None)

        thread = threading.Thread(target=work, name="redfloe-processor", daemon=True)
        self._keep_for(thread)
        log_live()
        try:
            thread.start()
        except BaseException:
            self._keep_no_more(thread)
            raise
        return future

    @abstractmethod
    def _keep_for(self, thread: Thread) -> None:
        """Refuse to be entered by any other than a thread, which is about to."""

    @abstractmethod
    def _keep_no_more(self, thread: Thread) -> None:
        """Do so no more, if it is kept for that thread."""

    def _chosen(self, handler: Callable[..., object] | None) -> Callable[..., object]:
        chosen = handler or self._handler
        if chosen is None:
            msg = "there is no handler: pass one, or decorate one with `each`"
            raise TypeError(msg)
        return chosen


class Loop(Iterator[Transaction], AsyncIterator[AsyncTransaction]):
    """A loop that ends when its processor is left, also if that is entered again then."""

    def __init__(self, processor: StreamProcessor, session: Session[Any]) -> None:
        self._processor = processor
        self._session = session

    def __next__(self) -> Transaction:
        if self._processor._session is not self._session:
            raise StopIteration
        return next(self._processor)

    async def __anext__(self) -> AsyncTransaction:
        if self._processor._session is not self._session:
            raise StopAsyncIteration
        return await anext(self._processor)
