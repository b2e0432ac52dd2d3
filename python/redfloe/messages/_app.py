"""An app: routers at work on their streams, in one process."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from redfloe import _core
from redfloe._consuming.consumer import StreamConsumer
from redfloe._consuming.signals import StopSignals
from redfloe._processing.processor import StreamProcessor
from redfloe.messages._assembly import Assembly, by_place
from redfloe.messages._codecs import CodecLike, codec_of
from redfloe.messages._health import Drained, Health, Record
from redfloe.messages._names import WorkerName
from redfloe.messages._producer import Producer
from redfloe.messages._retry import Retry
from redfloe.messages._router import Handler, Router
from redfloe.messages._running import Stopping, drain_all, in_new_loop, log_end, run_all
from redfloe.messages._settings import Settings, checked, chosen, expanded
from redfloe.messages._threads import Threads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from redfloe._checks import Milliseconds
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe.messages._exactly_once import ExactlyOnceWorker
    from redfloe.messages._outgoing import StreamOf
    from redfloe.messages._plan import Middleware, StreamPlan
    from redfloe.messages._worker import StreamWorker


class App(Router):
    """Works on streams as a member of a consumer group: calls the handlers of its routers.

    Each message is handled at least once. It is acknowledged when all its handlers have returned,
    together with others; until then it stays pending, is kept from other workers while its handler
    runs, and is taken over by them if the process dies. `run` works until `stop` or SIGTERM.

    Parameters
    ----------
    settings : Settings, str or RedisConnection
        Where it works: settings, of which what is named here goes first; or the server alone.
    group : str, optional
        The consumer group; by default that of the settings. Others that work on the streams have
        groups of their own, and each group gets all messages.
    consumer : str, optional
        This worker's name in the group, which no other worker may have: an app of this process, or
        of one forked from the same, is refused to run meanwhile. ``{hostname}``, ``{pid}`` and
        ``{worker}``, the number that ``redfloe run`` has given it, are replaced, in `group` too. By
        default ``"{hostname}-{pid}"``, and the name goes when the worker ends.
    retry : Retry, optional
        What happens when a handler raises; by default it is called three times.
    dead_letter : str, optional
        The stream for messages that cannot be handled, where ``{stream}`` is the message's; in a
        Redis Cluster ``"{{stream}}:dead"`` is in the same slot. Without it what a handler raises at
        last is raised by the app.
    on_unknown : {"ack", "fail", "raise"}, default "ack"
        What to do with messages that no handler takes: acknowledge them, move them to the
        dead-letter stream, or raise `UnknownTypeError`.
    on_misfit : {"dead_letter", "raise"}, optional
        What to do with entries that are no events of their model: move them to the dead-letter
        stream, with what is wrong with them, or raise `MisfitError`. By default the former where
        there is one.
    concurrency : int, default 1
        How many handlers run at a time, of each stream. More than one give up the order of messages
        but for those of the same `key`.
    middleware : sequence of async functions, optional
        Each is called with a `Message` and `call_next`, and goes around every call of a handler of
        single messages, the first outermost; what it returns counts.
    codec : {"row", "json", "natricine", "faststream"} or Codec, default "row"
        How messages are entries.
    grace : float or timedelta, default 30
        How many seconds handlers that run have to return when the app is stopped. After that async
        ones are cancelled, and left to themselves where they go on. What is not done is given back
        at once; that of `exactly_once` handlers comes again when this worker's name does, or to
        others after `reclaim_min_idle_ms`.
    max_deliveries : int, optional
        How often a message is delivered before it goes to the dead-letter stream instead: for those
        that kill their workers. What comes again because a handler returned False counts too.
    batch_size : int, optional
        How many messages are asked for at a time, and so in one worker's hands; by default 100, and
        10,000 of streams with handlers of columns only.
    block_ms, create_group, group_start_id, reclaim_min_idle_ms, reclaim_interval_ms, \
max_processing_ms, on_group_lost, remove_idle_consumers_ms
        As for `StreamConsumer`.

    Raises
    ------
    ValueError, TypeError
        An argument cannot be right.

    Examples
    --------
    >>> from redfloe.messages import App, Message, Router
    >>> router = Router()
    >>> @router.on("events")
    ... def count(message: Message) -> None:
    ...     print(message.id, message.payload["action"])
    >>> app = App(url, group="counts", consumer="worker-1")
    >>> app.include(router)
    >>> drained = app.drain()
    1704067200000-0 click
    1704067200001-0 view
    """

    def __init__(
        self,
        settings: Settings | str | RedisConnection,
        *,
        group: str | None = None,
        consumer: str | None = None,
        retry: Retry | None = None,
        dead_letter: str | None = None,
        on_unknown: Literal["ack", "fail", "raise"] = "ack",
        on_misfit: Literal["dead_letter", "raise"] | None = None,
        concurrency: int = 1,
        middleware: Sequence[Middleware] = (),
        codec: CodecLike = "row",
        grace: float | timedelta = 30.0,
        max_deliveries: int | None = None,
        batch_size: int | None = None,
        block_ms: Milliseconds | None = None,
        create_group: bool = True,
        group_start_id: EntryIdLike = "0",
        reclaim_min_idle_ms: Milliseconds | None = 30_000,
        reclaim_interval_ms: Milliseconds = 30_000,
        max_processing_ms: Milliseconds | None = None,
        on_group_lost: Literal["raise", "recreate"] = "raise",
        remove_idle_consumers_ms: Milliseconds | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(settings, Settings):
            self._connection, settings = _core.connect(settings), Settings()
        else:
            self._connection = settings.connection
        self._settings = settings
        group = chosen(group, settings.consumer.group)
        if group is None:
            msg = "an app needs a group: App(..., group=...), CONSUMER_GROUP or consumer.group"
            raise ValueError(msg)
        name = chosen(consumer, settings.consumer.consumer)
        self._group = checked(group, "group")
        self._worker_name = WorkerName(chosen(name, "{hostname}-{pid}"))
        self._assembly = Assembly(
            self._connection,
            self._worker_name,
            retry=Retry() if retry is None else retry,
            dead_letter=dead_letter,
            on_unknown=on_unknown,
            on_misfit=on_misfit,
            concurrency=concurrency,
            middleware=middleware,
            codec=codec_of(codec),
            grace=grace.total_seconds() if isinstance(grace, timedelta) else grace,
            batch_size=chosen(batch_size, settings.consumer.count),
            options={
                "block_ms": chosen(block_ms, settings.consumer.block_ms, 1_000),
                "create_group": create_group,
                "group_start_id": group_start_id,
                "reclaim_min_idle_ms": reclaim_min_idle_ms,
                "reclaim_interval_ms": reclaim_interval_ms,
                "max_processing_ms": max_processing_ms,
                "max_deliveries": max_deliveries,
                "on_group_lost": on_group_lost,
                "remove_consumer": "on_close" if name is None else "never",
                "remove_idle_consumers_ms": remove_idle_consumers_ms,
            },
        )
        self._workers: list[StreamWorker | ExactlyOnceWorker] = []
        self._sources: dict[str, StreamConsumer | StreamProcessor] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = self._has_run = False
        # Of the event loop that it runs in, as they are made there.
        self._ready: asyncio.Event | None = None
        self._stopping: asyncio.Event | None = None
        self._error: BaseException | None = None
        self._record: Record | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        named = dict.fromkeys(handler.stream or self._settings.stream for handler in self.handlers)
        streams = ", ".join(map(str, named)) or "nothing"
        return f"<App {self.group!r} {self.consumer!r} on {streams}>"

    @property
    def group(self) -> str:
        """The consumer group."""
        return expanded(self._group, "group")

    @property
    def consumer(self) -> str:
        """The name of this worker in the group; another in each process, where it says so."""
        return str(self._worker_name)

    # What it works on

    def include(self, *routers: Router) -> None:
        """Have the handlers of routers called, those that they have now; as `Router.include`.

        Raises
        ------
        ValueError
            Handlers do not fit together: a stream has two codecs, or two models of one name; or a
            handler names no stream, and the settings do not either.
        RuntimeError
            The app is running.
        """
        before = len(self._handlers)
        super().include(*routers)
        try:
            self._plans()
        except BaseException:
            del self._handlers[before:]
            raise

    def _add(self, handlers: Sequence[Handler]) -> None:
        self._refuse_running()
        by_place([*self._handlers, *handlers], self._settings.stream, self._group)
        super()._add(handlers)

    def producer(
        self,
        stream: StreamOf = None,
        *,
        codec: CodecLike | None = None,
        maxlen: int | None = None,
        max_age: float | timedelta | None = None,
        approximate: bool = True,
        idempotent: str | bytes | None = None,
    ) -> Producer:
        """Give a producer on the app's server, with its codec, and what its settings say.

        Parameters
        ----------
        stream, codec, maxlen, max_age, approximate, idempotent
            As for `Producer`.
        """
        settings = self._settings.producer
        if stream is None:
            stream = settings.stream
        if maxlen is None and max_age is None:
            maxlen = settings.max_length
        producer = Producer(
            self._connection,
            stream,
            codec=self._assembly.codec if codec is None else codec,
            maxlen=maxlen,
            max_age=max_age,
            approximate=approximate,
            idempotent=idempotent,
        )
        producer._watch = self._published
        return producer

    @property
    def consumers(self) -> Mapping[str, StreamConsumer]:
        """The consumer of each stream, of the run that is going on or was last, for metrics.

        That of a group of a handler's own is called ``"{stream} ({group})"``.
        """
        return {k: one for k, one in self._sources.items() if isinstance(one, StreamConsumer)}

    @property
    def processors(self) -> Mapping[str, StreamProcessor]:
        """The processor of each stream whose handlers are `exactly_once`, as `consumers`."""
        return {k: one for k, one in self._sources.items() if isinstance(one, StreamProcessor)}

    # Running

    def run(self) -> None:
        """Work until `stop`, SIGTERM or Ctrl-C; in the main thread, or any without an event loop.

        Signals end it as `stop` does; a second Ctrl-C interrupts handlers that hang.

        Raises
        ------
        Exception
            What a handler raises, where its `retry` or the lack of a dead-letter stream says so.
        MisfitError, UnknownTypeError
            As `on_misfit` and `on_unknown` say.
        RedfloeError
            As a `StreamConsumer`.
        RuntimeError
            It is running, or an event loop is: await `run_async` there.
        """
        in_main = threading.current_thread() is threading.main_thread()
        in_new_loop(self.run_async(handle_signals=in_main))

    async def run_async(self, *, handle_signals: bool = False) -> None:
        """Work until `stop`, in an event loop of yours; cancelling it gives messages back at once.

        Parameters
        ----------
        handle_signals : bool, default False
            Whether SIGTERM and SIGINT stop it, as they stop `run`; in the main thread only.

        Raises
        ------
        Exception
            As `run`.
        """
        await self._run(handle_signals=handle_signals)

    async def start(self) -> None:
        """Join the groups, and work on beside what else the event loop does; `stop` ends it.

        Raises
        ------
        RuntimeError
            It is running.
        Exception
            As `run`, where that comes before the groups are joined: the server cannot be reached.
        """
        self._refuse_running()
        self._ready = asyncio.Event()
        self._task = asyncio.create_task(self._run(handle_signals=False))
        self._task.add_done_callback(self._log_end)
        ready = asyncio.create_task(self._ready.wait())
        try:
            await asyncio.wait({ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._task.cancel()
            raise
        finally:
            ready.cancel()
        if self._task.done():
            await self.stop()

    def stop(self) -> Stopping:
        """Finish what handlers are at, give back the rest, and end; from any thread.

        Handlers that run have `grace` to return. Nobody has to await what it gives; in the event
        loop that awaited `start` the end can be awaited, and raises what ended the app. Before its
        first run: that ends at once. A handler may call it, but must not await the end, which
        waits for the handler.
        """
        self._stopped = self._loop is not None or not self._has_run
        for worker in self._workers:
            worker.begin_no_more()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop_workers)
        return Stopping(self)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    def drain(self, *, timeout: float | None = 30.0) -> Drained:
        """Handle all messages, and those that its handlers publish, until nothing is left.

        What a handler gives back comes again after its delay. `stop` ends it early.

        Parameters
        ----------
        timeout : float or None, default 30
            How many seconds it may take; None for any number.

        Returns
        -------
        Drained
            What was handled, what the app's producers published, and what failed.

        Raises
        ------
        Exception
            As `run`.
        TimeoutError
            Messages are still not done, because a handler hangs, say, or always returns False.
        """
        return in_new_loop(self.drain_async(timeout=timeout))

    async def drain_async(self, *, timeout: float | None = 30.0) -> Drained:  # noqa: ASYNC109 - as of drain
        """Handle all messages, in an event loop; as `drain`."""
        record = Record()
        try:
            async with asyncio.timeout(timeout):
                with self._running() as stopping:
                    self._record = record
                    await drain_all(record, stopping, partial(self._work, on_idle="stop"))
        except TimeoutError as error:
            if self._error is not None:  # it is the handler's or the server's
                raise
            msg = f"after {timeout:g} s messages are still not done: {record.drained!r}"
            raise TimeoutError(msg) from error
        return record.drained

    def health(self) -> Health:
        """Say how the app is, for a health check; from any thread."""
        workers = self._workers
        return Health(
            alive=self._error is None,
            ready=bool(workers) and all(worker.is_ready for worker in workers),
            in_hand=sum(worker.in_hand for worker in workers),
            error=None if self._error is None else f"{type(self._error).__name__}: {self._error}",
            streams={stream: one.stats for stream, one in self.consumers.items()},
            processors={stream: one.stats for stream, one in self.processors.items()},
        )

    @contextmanager
    def _running(self) -> Iterator[asyncio.Event]:
        """Be running in this event loop; give what is set when the app is stopped."""
        with self._lock:
            self._refuse_running()
            self._loop, self._has_run = asyncio.get_running_loop(), True
        self._stopping, self._error = asyncio.Event(), None
        if self._stopped:
            self._stopping.set()
        try:
            yield self._stopping
        except Exception as error:
            self._error = error
            raise
        finally:
            self._loop, self._stopped, self._record = None, False, None

    async def _run(self, *, handle_signals: bool) -> None:
        with self._running():
            task = asyncio.current_task()
            signals = StopSignals.install(self.stop, task) if handle_signals else None
            try:
                await self._work(on_idle="wait")
            finally:
                if signals is not None:
                    signals.restore()
        if signals is not None and signals.cancelled:
            raise KeyboardInterrupt

    async def _work(self, *, on_idle: Literal["wait", "stop"]) -> None:
        threads = Threads(f"redfloe-{self.group}")
        try:
            plans = self._plans(threads)
            if not plans:
                msg = "the app has no handlers: include a router"
                raise ValueError(msg)
            self._workers = [
                self._assembly.worker(
                    plan,
                    on_idle,
                    threads=threads,
                    record=self._record,
                    on_ready=self._look_ready,
                )
                for plan in plans
            ]
            self._sources = {self._name(one.plan): one.source for one in self._workers}
            if self._stopped:
                self._stop_workers()
            with self._worker_name.held(self._connection, plans):
                await run_all(self._workers)
        finally:
            self._workers = []
            threads.close()

    def _name(self, plan: StreamPlan) -> str:
        return plan.stream if plan.group == self.group else f"{plan.stream} ({plan.group})"

    def _plans(self, threads: Threads | None = None) -> list[StreamPlan]:
        """Give what is done of each stream; which looks whether the handlers fit together."""
        handlers = by_place(self._handlers, self._settings.stream, self._group)
        return self._assembly.plans(handlers, threads or Threads("redfloe"))

    def _look_ready(self) -> None:
        if self._ready is not None and all(worker.is_ready for worker in self._workers):
            self._ready.set()

    def _log_end(self, task: asyncio.Task[None]) -> None:
        log_end(task, {"group": self.group, "consumer": self.consumer})

    def _stop_workers(self) -> None:
        if self._stopping is not None:
            self._stopping.set()
        for worker in self._workers:
            worker.stop()

    def _refuse_running(self) -> None:
        if self._loop is not None:
            msg = "the app is running already"
            raise RuntimeError(msg)

    def _published(self, outgoing: Any, entry_id: str | None) -> None:
        if self._record is not None:
            self._record.published(outgoing, entry_id)
