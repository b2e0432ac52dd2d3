"""Processing a stream exactly once: outputs, tables, state and position are committed together."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from functools import partial
from threading import Lock, current_thread
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack
from weakref import WeakMethod

from redfloe import _core
from redfloe._arguments import Request, make_request
from redfloe._beside import with_fields
from redfloe._checks import Milliseconds, one_of
from redfloe._consuming.arguments import decoding_errors, start_of
from redfloe._consuming.handling import Failing
from redfloe._consuming.signals import StopSignals
from redfloe._core import RedisConnection, check_connection, connect
from redfloe._options import ColumnOptions, complete, takes
from redfloe._processing.arguments import make_arguments, make_member, where
from redfloe._processing.running import Loop, RunsHandlers
from redfloe._processing.session import (
    Session,
    at_once,
    check_bound,
    in_event_loop,
    refuse_of_group,
    without_waiting,
)
from redfloe._processing.sharding import (
    find_shards,
    is_sharded,
    look_weakly,
    make_lanes,
    refuse_with_lanes,
)
from redfloe._processing.stats import ProcessorStats
from redfloe._processing.transaction import AsyncTransaction, Transaction
from redfloe._reprs import target
from redfloe._rows import Source

if TYPE_CHECKING:
    from threading import Thread
    from types import TracebackType

    from redfloe._ids import EntryIdLike
    from redfloe._processing.lanes import Lanes
    from redfloe._processing.sinks import Sink
    from redfloe._schema import SchemaLike


@takes(ColumnOptions)
class StreamProcessor(RunsHandlers, Iterable[Transaction], AsyncIterable[AsyncTransaction]):
    """Process a Redis stream exactly once, batch by batch.

    Each batch comes with its transaction. What it publishes, what it changes in tables and in the
    state, and the position after it are written in one step: by a script (EVALSHA) that does all of
    it, once, or nothing. So a crash at any instant, a lost reply, or two processors of one name
    leave the outputs of one undisturbed run.

    A name has one processor at a time. It holds a *lane*, a hash beside the stream; others of the
    name stand by until the lane is released or its lease expires. Then the next one continues
    after the last commit, and every commit of the former one raises `FencedError`.

    Of a sharded stream each shard has a lane, with a state and tables of its own. Processes of one
    name share the lanes among them: see the guide's page "Sharded streams".

    With a `group` several processors of the name share the stream, one for each `consumer`: see
    below.

    A batch is committed once the loop asks for the next one, at the end of the ``with`` where no
    exception leaves it, or by `Transaction.commit`. After an exception nothing of it is in, and it
    comes again with the next ``with``.

    Use it with ``with`` and ``for``, or with ``async with`` and ``async for``. It may be entered
    again after it was left. It keeps trying through an outage of the server, once that
    has answered, unless the connection has a `max_retries`.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str or bytes
        The stream's key. State, position and outputs share its slot in a Redis Cluster.
    name : str or bytes
        The processor's name, under which its state and position are kept.
    group, consumer : str or bytes, optional
        Share the stream with other workers, by a consumer group (XREADGROUP, Redis 5.0), as
        `StreamConsumer` does. A batch is what the group gives to this consumer, or what it claims
        from another that has died, and the commit acknowledges its entries in the same step: if one
        of them is not pending to this consumer any more, the whole commit is refused, and nothing
        is written (`ClaimedError`). A loop goes on with the next batch then. There is no
        state and no table, only outputs: workers would overwrite each other's. Each consumer has a
        lane of its own; its name should be the same when the worker starts again.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `read_stream`.
    start_id : str, int, date or datetime, default "-"
        Where a processor of a new name begins: the first entry ID, inclusive, or ``"$"`` for what
        is added later. With a group only ``"-"``: where it begins is `group_start_id`.
    batch_size : int, default 1000
        The most rows of a batch, and so of a commit. A commit keeps the server busy: about 2 ms
        for each 1,000 rows that are published, and with a group, where it is 10,000 at most, 1 to
        3 ms more for each 1,000 entries, which it looks for in the list of what is pending.
    batch_bytes : int, default 64 MiB
        Closes a batch once its entries have taken that many bytes of the server's reply.
    block_ms : int or timedelta, default 1000
        How many milliseconds one poll waits for an entry; 0 waits without limit. Ctrl-C and `stop`
        end the wait.
    on_idle : {"wait", "stop"}, default "wait"
        What to do when a poll finds nothing: poll again, or end, so that a job can drain a stream.
    outputs : iterable of str or bytes, default ()
        Streams that it is going to publish to: in a Redis Cluster those in another slot are refused
        at once, rather than by `Transaction.publish`.
    dead_letter : str or bytes, optional
        The stream that takes entries which cannot be decoded, or failed (`Transaction.fail`), in
        the same commit. In a Redis Cluster it must be in the slot of `stream`.
    max_deliveries : int, optional
        With a group as for `StreamConsumer`. Without one how often an entry is handed out alone,
        and not committed, before it goes to the dead-letter stream: one that ends the process
        itself, or a loop whose exceptions nobody handles. A batch that was handed out and not
        committed when the next processor comes is halved, until such an entry is alone. By default
        entries are handed out until they are committed; without a group `run` puts
        those aside whose handler raises, in any case.
    lease_ms : int or timedelta, default 3000
        For how long others wait for a processor that says nothing. Commits and a heartbeat in the
        background extend the lease. Safety does not depend on it.
    takeover : bool, default False
        Take the lane at once from the process that has it, which is fenced.
    wait_replicas : int, default 0
        How many replicas must have a commit before it counts (WAIT, Redis 3.0). Without it, a
        commit that no replica has is lost with its master.
    wait_aof : bool, default False
        Whether the master must have written it to disk (WAITAOF, Redis 7.2).
    wait_aof_replicas : int, default 0
        How many replicas must have written it to disk (WAITAOF).
    wait_timeout_ms : int or timedelta, default 5000
        How long that may take. `NotDurableError` then says that the commit is in Redis, but not yet
        safe.
    max_commit_bytes : int, default 64 MiB
        The size that a commit may have. A larger one is refused before anything is sent.
    on_data_loss : {"raise", "continue"}, default "raise"
        What to do where entries were trimmed before they were read, the stream was deleted and
        written again, or the server has lost commits in a failover: raise `DataLossError`, or go on
        with what is there, with the state that belongs to it.
    on_error : {"raise", "null", "dead_letter"}, optional
        What to do with a text that does not fit its dtype: raise `DecodeError`, make it null, or
        move its entry to the dead-letter stream with the commit of its batch. By default the last
        where there is one, else the first.
    create_group, group_start_id, reclaim_min_idle_ms, reclaim_interval_ms
        With a group, as for `StreamConsumer`. A group that is lost after a consumer's first commit
        is not created again by it: `NoGroupError` says so, since it alone knew what was committed.
        A consumer of a new name does create it again, at `group_start_id`.
    auto_extend, max_processing_ms
        With a group, as for `StreamConsumer`.
    handle_signals : bool, default False
        Within ``with`` have SIGTERM and SIGINT call `stop`, as for `StreamConsumer`. In the main
        thread only.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        From the loop, as for `read_stream`, and as `Transaction.commit`.
    FencedError
        From the loop: another processor of this name, or with a group of this name and consumer,
        has acquired the lane. Stop.
    ClaimedError
        With a group, from the end of the ``with`` and from `Transaction.commit`: nothing of the
        batch is in, since another consumer has claimed some of it. Go on.
    NoGroupError
        From the loop: the group does not exist, or is gone.
    DataLossError
        From the loop: see `on_data_loss`.
    NotDurableError
        From the loop: a commit is in, but not known to be where it has to be.
    ValueError, TypeError, SchemaError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> with redfloe.StreamProcessor(
    ...     url,
    ...     "events",
    ...     name="totals",
    ...     schema={"user_id": pl.String, "value": pl.Int64},
    ...     on_idle="stop",
    ...     block_ms=1,
    ... ) as processor:
    ...     for tx in processor:
    ...         totals = tx.table("totals", key="user_id", schema={"total": pl.Int64})
    ...         new = tx.frame.group_by("user_id").agg(pl.col("value").sum())
    ...         old = totals.lookup(new["user_id"])["total"].fill_null(0)
    ...         totals.upsert(new.select("user_id", total=pl.col("value") + old))
    ...         tx.state["seen"] = tx.state.get("seen", 0) + len(tx)
    ...         tx.publish("alerts", tx.frame.filter(pl.col("value") > 10))
    >>> processor.stats.entries
    2
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: str | bytes,
        *,
        name: str | bytes,
        group: str | bytes | None = None,
        consumer: str | bytes | None = None,
        schema: SchemaLike | None = None,
        start_id: EntryIdLike = "-",
        batch_size: int = 1000,
        batch_bytes: int = 64 * 1024 * 1024,
        block_ms: Milliseconds = 1000,
        on_idle: Literal["wait", "stop"] = "wait",
        outputs: Iterable[str | bytes] = (),
        dead_letter: str | bytes | None = None,
        lease_ms: Milliseconds = 3_000,
        takeover: bool = False,
        wait_replicas: int = 0,
        wait_aof: bool = False,
        wait_aof_replicas: int = 0,
        wait_timeout_ms: Milliseconds = 5_000,
        max_commit_bytes: int = 64 * 1024 * 1024,
        on_data_loss: Literal["raise", "continue"] = "raise",
        on_error: Literal["raise", "null", "dead_letter"] | None = None,
        create_group: bool = True,
        group_start_id: EntryIdLike = "0",
        reclaim_min_idle_ms: Milliseconds | None = 30_000,
        reclaim_interval_ms: Milliseconds = 30_000,
        auto_extend: bool = True,
        max_processing_ms: Milliseconds | None = None,
        max_deliveries: int | None = None,
        handle_signals: bool = False,
        **options: Unpack[ColumnOptions],
    ) -> None:
        url = connect(url)
        one_of(on_data_loss, "on_data_loss", "raise", "continue")
        errors = decoding_errors(on_error, has_dead_letter=dead_letter is not None)
        member = make_member(
            group,
            consumer,
            create_group=create_group,
            group_start_id=group_start_id,
            reclaim_min_idle_ms=reclaim_min_idle_ms,
            reclaim_interval_ms=reclaim_interval_ms,
            auto_extend=auto_extend,
            max_processing_ms=max_processing_ms,
            max_deliveries=max_deliveries,
            dead_letter=dead_letter,
        )
        request: Request = make_request(
            stream,
            schema=schema,
            start_id=start_of(start_id, member),
            group=member,
            block_ms=block_ms,
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            on_idle=on_idle,
            options=complete(options, StreamProcessor),
        )
        request["on_error"] = errors
        arguments = make_arguments(
            name,
            request["stream"],
            outputs=outputs,
            dead_letter=dead_letter,
            max_deliveries=None if member is not None else max_deliveries,
            lease_ms=lease_ms,
            takeover=takeover,
            wait_replicas=wait_replicas,
            wait_aof=wait_aof,
            wait_aof_replicas=wait_aof_replicas,
            wait_timeout_ms=wait_timeout_ms,
            max_commit_bytes=max_commit_bytes,
            on_data_loss=on_data_loss,
        )
        _core.empty_batch(request)  # the schema and the options are checked there
        check_connection(url)
        #: Of the name itself, which has no dead letters where it is a sharded stream's.
        self._of_name = arguments
        try:
            _core.check_processor(url, request, arguments)
        except ValueError:
            if dead_letter is None or not is_sharded(url, request["stream"]):
                raise
            self._of_name = arguments | {"dead_letter": None, "max_deliveries": None}
            _core.check_processor(url, request, self._of_name)
        self._connection = url
        self._request = request
        self._arguments = arguments
        self._where = where(request, arguments)
        self._failing = Failing(
            dead_letter is not None,
            member is not None and max_deliveries is not None,
            False,
            self._where,
        )
        self._bound: list[tuple[object, str | None]] = []
        self._sinks: list[Sink] = []
        self._handle_signals = handle_signals
        self._session: Session[Any] | None = None
        #: The thread that is about to enter it; and two threads do so one after the other.
        self._kept_for: Thread | None = None
        self._entering = Lock()
        self._core: _core.Processor | None = None
        self._signals: StopSignals | None = None
        self._stopped = False

    def __repr__(self) -> str:
        shown = target(self._connection, self._request["stream"], self._request)
        so_far = "not started"
        if self._core is not None and (stats := self._core.stats).epoch is not None:
            so_far = f"epoch={stats.epoch}"
            if stats.position is not None:
                so_far += f", position={stats.position!r}"
        return f"{type(self).__name__}({shown}, name={self._where['processor']!r}, {so_far})"

    def stop(self) -> None:
        """End the loop before its next batch, which is not waited for; from any thread.

        The batch in hand is finished and committed first. Before the loop begins: it ends at once.
        """
        self._stopped = True
        if self._session is not None:
            self._session.stop()

    @property
    def stats(self) -> ProcessorStats:
        """What the processor has done since it was entered."""
        if self._session is not None and self._session.lanes is not None:
            return ProcessorStats.of_lanes(self._session.lanes.stats())
        return ProcessorStats() if self._core is None else ProcessorStats.of(self._core.stats)

    def bind(self, model: object, name: str | None = None) -> None:
        """Keep an object in the state: its attributes are loaded, and saved with each commit.

        It has its attributes once the first batch is there. After a batch that failed they are as
        they were saved, or as they were when it was bound.

        Parameters
        ----------
        model : object
            A `State`, a dataclass or a pydantic model.
        name : str, optional
            Its name in the state; by default that of its class.

        Raises
        ------
        TypeError
            It is another kind of object.
        ValueError
            Another one has the name already.
        DecodeError
            From the loop: what was saved does not fit its class, and no `migrate` says what becomes
            of it.

        Examples
        --------
        >>> import redfloe
        >>> class Counter(redfloe.State):
        ...     count: int = 0
        >>> counter = Counter()
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="counter", on_idle="stop", block_ms=1
        ... )
        >>> processor.bind(counter)
        >>> with processor:
        ...     for tx in processor:
        ...         counter.count += len(tx)
        >>> counter.count
        2
        """
        if self._request["group"] is not None:
            refuse_of_group("no objects are bound")
        check_bound(model, name, self._bound)
        if self._session is not None:
            self._session.bind(model, name)
        self._bound.append((model, name))

    def _keep(self, sink: Sink) -> None:
        """Settle a sink whenever the lane is acquired."""
        if self._request["group"] is not None:
            refuse_of_group("no batch comes again as it was, by which a sink would know it")
        self._sinks.append(sink)

    # In a loop

    def _enter(self, wait: Any, make: Any) -> None:
        with self._entering:
            if self._kept_for is not current_thread():
                self._refuse_entered()
            self._make_session(wait, make)
            self._kept_for = None

    def _make_session(self, wait: Any, make: Any) -> None:
        asked = with_fields(self._request)
        core = _core.Processor(self._connection, asked, self._of_name)
        has_dead_letter = self._arguments["dead_letter"] is not None
        known = dict(self._request["schema"] or {})
        session: Session[Any] = Session(
            core,
            wait,
            make,
            source=Source(self._connection, asked, None),
            known=known,
            has_dead_letter=has_dead_letter,
            is_of_group=self._request["group"] is not None,
            sinks=self._sinks,
            # Who keeps a transaction keeps its session, and with it not the processor.
            look=partial(look_weakly, WeakMethod(self._look), core, wait, make),
        )
        for model, name in self._bound:
            session.bind(model, name)
        self._session, self._core = session, core
        if self._stopped:  # before there was anything to stop
            session.stop()

    async def _look(self, core: _core.Processor, wait: Any, make: Any) -> Lanes[Any] | None:
        """Give the lanes, where the stream turns out to be a sharded one."""
        arguments = self._arguments
        shards = await find_shards(core, wait)
        if shards is None:
            return None
        refuse_with_lanes(
            {
                "group": self._request["group"],
                "sinks": self._sinks,
                "objects that are bound": self._bound,
                "takeover": arguments["takeover"],
                "outputs": arguments["outputs"],
            }
        )
        if arguments["dead_letter"] is not None:
            await find_shards(core, wait, arguments["dead_letter"])
        asked = with_fields(self._request)
        return make_lanes(self._connection, asked, arguments, shards, wait, make)

    def _keep_for(self, thread: Thread) -> None:
        with self._entering:
            self._refuse_entered()
            self._kept_for = thread

    def _keep_no_more(self, thread: Thread) -> None:
        with self._entering:
            if self._kept_for is thread:
                self._kept_for = None

    def _refuse_entered(self) -> None:
        if self._session is not None or self._kept_for is not None:
            msg = "the processor is entered already; make another one for another loop"
            raise RuntimeError(msg)

    def _blocking(self) -> Session[Transaction]:
        return self._of(at_once, "async with and async for")

    def _awaiting(self) -> Session[AsyncTransaction]:
        return self._of(in_event_loop, "with and for")

    def _of(self, wait: object, others: str) -> Session[Any]:
        session = self._session
        if session is None:
            msg = "the processor is not entered: loop over it within `with processor:`"
            raise RuntimeError(msg)
        if session.wait is not wait:
            msg = f"this processor is in use by the other kind of loop; use {others}"
            raise RuntimeError(msg)
        return session

    def __enter__(self) -> Self:
        self._enter(at_once, Transaction)
        if self._handle_signals:
            self._signals = StopSignals.install(self.stop)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is None:  # another thread has left it
            return
        session = self._blocking()
        try:
            without_waiting(session.finish(success=exc is None))
        finally:
            self._leave()

    def __next__(self) -> Transaction:
        transaction = without_waiting(self._blocking().next())
        if transaction is None:
            raise StopIteration
        return transaction

    def __iter__(self) -> Iterator[Transaction]:
        return Loop(self, self._blocking())

    def _leave(self) -> None:
        """Be ready to be entered again."""
        self._session = None
        self._stopped = False
        if self._signals is not None:
            self._signals.restore()
            self._signals = None

    # In an event loop

    async def __aenter__(self) -> Self:
        self._enter(in_event_loop, AsyncTransaction)
        if self._handle_signals:
            import asyncio

            self._signals = StopSignals.install(self.stop, asyncio.current_task())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is None:
            return
        session = self._awaiting()
        signals = self._signals
        try:
            await session.finish(success=exc is None)
        finally:
            self._leave()
            if signals is not None and signals.cancelled:
                raise KeyboardInterrupt

    async def __anext__(self) -> AsyncTransaction:
        transaction = await self._awaiting().next()
        if transaction is None:
            raise StopAsyncIteration
        return transaction

    def __aiter__(self) -> AsyncIterator[AsyncTransaction]:
        return Loop(self, self._awaiting())
