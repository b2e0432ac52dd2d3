"""A long-running worker on a stream: alone, or as a member of a consumer group."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal, Unpack

from redfloe import _core
from redfloe._arguments import Request, Streams, either, follow_pattern, make_request
from redfloe._checks import Milliseconds, one_of
from redfloe._consuming import arguments
from redfloe._consuming.handling import Failing
from redfloe._consuming.names import CheckpointNames
from redfloe._consuming.position import Position
from redfloe._consuming.running import RunsHandlers
from redfloe._consuming.sessions import Sessions
from redfloe._consuming.stats import ConsumerStats
from redfloe._core import RedisConnection, check_connection, connect
from redfloe._errors import RedfloeError
from redfloe._options import ColumnOptions, complete, takes
from redfloe._reading.shards import found_over_shards
from redfloe._reprs import position, target

if TYPE_CHECKING:
    from redfloe._consuming.checkpoint import CheckpointStore
    from redfloe._ids import EntryIdLike
    from redfloe._schema import SchemaLike


@takes(ColumnOptions)
class StreamConsumer(Sessions, RunsHandlers):
    """Process a Redis stream, batch by batch, in a worker that may run for months.

    As a member of a consumer group (XREADGROUP, Redis 5.0) it shares the stream with other workers.
    An entry is acknowledged when its batch has been processed; what a dead worker has left pending
    is taken over by the others. Each entry is processed at least once. Without a group it reads the
    whole stream (XREAD), and a checkpoint store keeps its position.

    Use it with ``with`` and ``for``, or with ``async with`` and ``async for`` under
    asyncio or uvloop, where waiting takes no thread. It may be entered again once it was left, and
    starts again then. A loop ends when the ``with`` around it does, in whichever thread or task;
    one that waits for a batch ends at once.

    With ``on_idle="wait"``, and neither an `end_id` nor a `max_retries` of the connection, it keeps
    trying through an outage of the server, once the server has answered, and logs when the outage
    begins and ends.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams, each of which has a group of this name: one
        XREADGROUP asks for all. A batch may hold rows of several, and ``_stream`` names the stream
        of each; acknowledgement, claims, dead letters and delivery counts are by stream. One with
        many entries does not keep the others waiting. In a Redis Cluster they may have up to 256
        slots.
    pattern : str or bytes, optional
        In place of `stream`: the streams whose keys match (SCAN TYPE, Redis 6.0), also those that
        appear later; but not `dead_letter`. One that vanishes is left out. Without `create_group`
        those that have no group are, too.
    discover_ms : int or timedelta, default 5000
        How often to look for streams that match, as for `iter_stream`.
    group, consumer : str or bytes, optional
        The consumer group, and this worker's name in it, which should be the same when the worker
        starts again: its own pending entries come first then.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The fields to read, as for `read_stream`.
    start_id : str, int, date or datetime, default "-"
        Without a group and without a checkpoint: the first entry ID, inclusive, or ``"$"`` for what
        is added later. With a group only ``"-"``: where a new group begins is `group_start_id`.
    end_id : str or datetime, default "+"
        Without a group: the last entry ID, inclusive. The loop ends there, once each stream has
        a later entry; its checkpoint then is the last entry up to there that was handled. With a
        group only ``"+"``, no end: use ``on_idle="stop"``.
    batch_size : int, default 1000
        The most rows of a batch.
    batch_bytes : int, default 64 MiB
        Closes a batch once its entries have taken that many bytes of the server's reply.
    block_ms : int or timedelta, default 1000
        How many milliseconds one poll waits for an entry; 0 waits without limit. Ctrl-C and `stop`
        end the wait.
    batch_timeout_ms : int or timedelta, optional
        Collect until the batch is full or that long has passed since its first entry came; with a
        group half of `reclaim_min_idle_ms` at most, so that nobody takes over what is being
        collected. By default a batch is returned at once, with the entries that there are.
    on_idle : {"wait", "stop"}, default "wait"
        What to do when a poll finds nothing: poll again, or end, so that a job can drain a stream.
        ``"stop"`` also ends a batch that is being collected, before its `batch_timeout_ms`, when
        nothing has come for `block_ms`.
    ack : {"on_success", "manual"}, default "on_success"
        When a batch is acknowledged: once the loop asks for the next one, together with that
        request, and at the end of the ``with`` where no exception leaves it. After an exception the
        batch stays pending. With ``"manual"`` by `Batch.ack` alone. Without a group the checkpoint
        moves in the same way.
    create_group : bool, default True
        Create stream and group where they are missing (XGROUP CREATE MKSTREAM).
    group_start_id : str, int, date or datetime, default "0"
        Where a group that is created begins: after this ID; ``"$"`` after the newest entry, or at
        the start of a stream that appears later.
    reclaim_min_idle_ms : int, timedelta or None, default 30000
        Take over entries that have been pending for that many milliseconds (XAUTOCLAIM in Redis
        6.2, else XPENDING and XCLAIM). They come in batches of their own that alternate with
        new entries; their `Batch.delivery_counts` are greater than 1. None: never.
    reclaim_interval_ms : int or timedelta, default 30000
        How often to look for such entries; no more often than every 10 ms.
    auto_extend : bool, default True
        Keep other workers from taking over what this one has in hand while its handler runs. A
        background task sets the idle time of these entries back before `reclaim_min_idle_ms` is
        over (a script of XPENDING and XCLAIM JUSTID, Redis 5.0), until they are acknowledged, given
        back, failed or left, or the process dies. Entries that another worker has taken over all
        the same, because the server could not be reached for that long, stay with that worker.
        Delivery counts do not change. Not where `reclaim_min_idle_ms` is None or 0.
    max_processing_ms : int or timedelta, optional
        How long `auto_extend` keeps entries at most, so that a handler that hangs does not hold
        them without end: after that others may take them over. By default ten times
        `reclaim_min_idle_ms`. `Batch.extend` makes it start again.
    max_deliveries : int, optional
        How often an entry is delivered before it goes to the dead-letter stream instead. Its last
        delivery is a batch of one, so that it takes no other entry along. With 1 each entry is
        asked for alone.
    dead_letter : str or bytes, optional
        The stream that takes entries which are delivered too often, cannot be decoded, or failed
        (`Batch.fail`). In a Redis Cluster it must be in the slot of `stream`.
    on_group_lost : {"raise", "recreate"}, default "raise"
        What to do when the group is gone, by XGROUP DESTROY, FLUSHALL or a failover: raise
        `NoGroupError`, or create it again at this worker's position, by what it has acknowledged or
        the checkpoint store.
    remove_consumer : {"never", "on_close"}, default "never"
        Remove this consumer from its group at the end of the ``with`` where no exception leaves it
        and nothing is pending for it: for names that come and go with their processes, such as
        those of pods. In one step with finding that out (a script of XPENDING and XGROUP
        DELCONSUMER, Redis 5.0).
    remove_idle_consumers_ms : int or timedelta, optional
        When it starts, remove other consumers of the group that have not asked for entries for this
        many milliseconds and have none pending, such as those of killed processes. By default none.
    checkpoint_store : CheckpointStore, optional
        Keeps the ID of the last entry that is done with, together with all entries before it; of
        each stream, where there are several. With ``start_id="$"`` it also keeps where the reading
        began, so that another run misses nothing.
    checkpoint_name : str, optional
        What the checkpoint is called in the store; by default after the stream, and the group and
        consumer where there is one: ``"stream:group:consumer"``, so that no two workers share a
        name. With several streams, that of each is called ``"checkpoint_name:stream"``.
    on_data_loss : {"raise", "continue"}, default "raise"
        Without a group: what to do where the stream was trimmed past the checkpoint, or the server
        has lost the entries that were read last, after a failover to a replica that lagged: raise
        `DataLossError`, or go on with the entries that are left. A stream that ends before the
        position is then read from its start.
    on_error : {"raise", "null", "dead_letter"}, optional
        What to do with a text that does not fit its dtype: raise `DecodeError` (the entry stays
        pending, and in the way), make it null, or move its entry to the dead-letter stream. By
        default the last where there is one, else the first.
    handle_signals : bool, default False
        Within ``with`` have SIGTERM and SIGINT call `stop`, so that the batch in hand is finished.
        A SIGINT after that, a second Ctrl-C, interrupts a handler that hangs: by
        `KeyboardInterrupt`, under asyncio by cancelling the task that entered the ``async with``
        and, if that has no effect, by `KeyboardInterrupt` with the next. Its batch stays pending. A
        second SIGTERM changes nothing. In the main thread only.
    **options : ColumnOptions
        How entries become columns, by keyword: see `redfloe.ColumnOptions`.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        From the loop, as for `read_stream`; it may be entered again.
    NoStreamError
        From the loop: the stream does not exist, and `must_exist` is True.
    NoGroupError
        The group does not exist, or is gone and is not to be created again.
    DataLossError
        Without a group: the stream was trimmed past the checkpoint, deleted and written again, or
        lost its end in a failover.
    CheckpointError
        The store holds something else under the checkpoint's name.
    ValueError, TypeError, SchemaError
        At once, where an argument cannot be right.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> with redfloe.StreamConsumer(
    ...     url,
    ...     "events",
    ...     group="billing",
    ...     consumer="worker-1",
    ...     schema={"user_id": pl.String, "value": pl.Int64},
    ...     dead_letter="events:dead",
    ...     max_deliveries=3,
    ...     on_idle="stop",
    ...     block_ms=1,
    ... ) as consumer:
    ...     for batch in consumer:
    ...         print(batch.frame["user_id"].to_list())
    ['user_1', 'user_2']
    >>> consumer.stats.acknowledged
    2
    """

    def __init__(
        self,
        url: str | RedisConnection,
        stream: Streams | None = None,
        group: str | bytes | None = None,
        consumer: str | bytes | None = None,
        *,
        pattern: str | bytes | None = None,
        discover_ms: Milliseconds = 5_000,
        schema: SchemaLike | None = None,
        start_id: EntryIdLike = "-",
        end_id: EntryIdLike = "+",
        batch_size: int = 1000,
        batch_bytes: int = 64 * 1024 * 1024,
        block_ms: Milliseconds = 1000,
        batch_timeout_ms: Milliseconds | None = None,
        on_idle: Literal["wait", "stop"] = "wait",
        ack: Literal["on_success", "manual"] = "on_success",
        create_group: bool = True,
        group_start_id: EntryIdLike = "0",
        reclaim_min_idle_ms: Milliseconds | None = 30_000,
        reclaim_interval_ms: Milliseconds = 30_000,
        auto_extend: bool = True,
        max_processing_ms: Milliseconds | None = None,
        max_deliveries: int | None = None,
        dead_letter: str | bytes | None = None,
        on_group_lost: Literal["raise", "recreate"] = "raise",
        remove_consumer: Literal["never", "on_close"] = "never",
        remove_idle_consumers_ms: Milliseconds | None = None,
        checkpoint_store: CheckpointStore | None = None,
        checkpoint_name: str | None = None,
        on_data_loss: Literal["raise", "continue"] = "raise",
        on_error: Literal["raise", "null", "dead_letter"] | None = None,
        handle_signals: bool = False,
        **options: Unpack[ColumnOptions],
    ) -> None:
        url = connect(url)
        one_of(on_data_loss, "on_data_loss", "raise", "continue")
        errors = arguments.decoding_errors(on_error, has_dead_letter=dead_letter is not None)
        streams = arguments.keys_of(either(stream, pattern))
        member = arguments.make_worker_group(
            group,
            consumer,
            streams=streams if isinstance(streams, list) else [streams],
            ack=ack,
            create_group=create_group,
            group_start_id=group_start_id,
            reclaim_min_idle_ms=reclaim_min_idle_ms,
            reclaim_interval_ms=reclaim_interval_ms,
            auto_extend=auto_extend,
            max_processing_ms=max_processing_ms,
            max_deliveries=max_deliveries,
            dead_letter=dead_letter,
            on_group_lost=on_group_lost,
            remove_consumer=remove_consumer,
            remove_idle_consumers_ms=remove_idle_consumers_ms,
        )
        request: Request = make_request(
            streams,
            takes_several=True,
            schema=schema,
            start_id=arguments.start_of(start_id, member),
            end_id=end_id,
            block_ms=block_ms,
            batch_size=batch_size,
            batch_bytes=batch_bytes,
            batch_timeout_ms=batch_timeout_ms,
            on_idle=on_idle,
            group=member,
            continue_after_loss=on_data_loss == "continue",
            options=complete(options, StreamConsumer),
        )
        follow_pattern(request, pattern, discover_ms)
        request["on_error"] = errors
        _core.empty_batch(request)  # the schema and the options are checked there
        check_connection(url)
        if member is not None and member["dead_letter"] is not None:
            try:
                for key in streams if isinstance(streams, list) else [streams]:
                    _core.check_dead_letter(url, key, member["dead_letter"])
            except ValueError:
                # Those of a sharded stream are in the shards' slots.
                try:
                    found = found_over_shards(url, request)
                except RedfloeError:  # which the loop would raise
                    found = None
                if found is None:
                    raise
                request = found
        names = CheckpointNames(checkpoint_name, request)
        super().__init__(
            url,
            request,
            Position(checkpoint_store, names, follows=ack == "on_success"),
            handle_signals=handle_signals,
        )
        self._where = arguments.where(request)
        self._failing = Failing(
            dead_letter is not None,
            max_deliveries is not None,
            on_group_lost == "recreate",
            self._where,
        )

    def __repr__(self) -> str:
        where = target(self._connection, self._request["stream"], self._request)
        reader = self._reader
        so_far = "not started" if reader is None else position(reader)
        return f"{type(self).__name__}({where}, {so_far})"

    def stop(self) -> None:
        """End the loop before its next batch, which is not waited for; from any thread.

        The batch in hand is finished and acknowledged first. What the server had sent meanwhile
        stays pending, and comes first when this consumer starts again. If the server does not
        answer, the end takes one `response_timeout` in all, and raises. Before the loop begins: it
        ends at once.
        """
        super().stop()

    @property
    def stats(self) -> ConsumerStats:
        """What the consumer has done since it started."""
        if self._reader is None:
            return ConsumerStats(0, 0, 0, 0, 0, 0, 0, None, 0.0, None)
        by_stream = self._reader.stats_by_stream()
        return ConsumerStats.of(self._reader.stats, time.monotonic() - self._started, by_stream)
