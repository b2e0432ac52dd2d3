"""What an app is made of: its options, checked, and the consumers and workers that follow them."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from redfloe._checks import not_negative, optional_milliseconds, positive
from redfloe._consuming.consumer import StreamConsumer
from redfloe._schema import as_text
from redfloe.messages._decode import policy_of
from redfloe.messages._delivery import Limits
from redfloe.messages._exactly_once import ExactlyOnceWorker
from redfloe.messages._outgoing import Outlet
from redfloe.messages._plan import Middleware, StreamPlan, expect_no_fields
from redfloe.messages._processing import RAISED
from redfloe.messages._processor import PlanProcessor
from redfloe.messages._retry import check_retry
from redfloe.messages._settings import expanded
from redfloe.messages._worker import StreamWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from redfloe._core import RedisConnection
    from redfloe.messages._codecs import Codec
    from redfloe.messages._health import Record
    from redfloe.messages._names import WorkerName
    from redfloe.messages._retry import Retry
    from redfloe.messages._router import Handler
    from redfloe.messages._threads import Threads

#: How many messages a batch has where somebody takes them one by one, and as columns only.
_BATCH, _FRAME = 100, 10_000


class Assembly:
    """The options of an app, as `App` documents them, and what is made by them for each run."""

    def __init__(
        self,
        connection: RedisConnection,
        consumer: WorkerName,
        *,
        retry: Retry,
        dead_letter: str | None,
        on_unknown: Literal["ack", "fail", "raise"],
        on_misfit: Literal["dead_letter", "raise"] | None,
        concurrency: int,
        middleware: Sequence[Middleware],
        codec: Codec,
        grace: float,
        batch_size: int | None,
        options: dict[str, Any],
    ) -> None:
        for one in middleware:
            _check_middleware(one)
        not_negative(grace, "grace")
        check_retry(retry)
        if dead_letter is not None and not as_text(dead_letter, "dead_letter"):
            msg = "dead_letter is empty: name a stream, or leave it out"
            raise ValueError(msg)
        if (
            positive(options["max_deliveries"], "max_deliveries") is not None
            and dead_letter is None
        ):
            msg = "max_deliveries needs a dead_letter stream, for what was delivered too often"
            raise ValueError(msg)
        # Made for nothing else than to refuse now what each worker's would refuse.
        StreamConsumer(connection, "any", "any", "any", **{**options, "max_deliveries": None})
        self._connection = connection
        self._consumer_name = consumer
        self._retry = retry
        self._dead_letter = dead_letter
        self._policy = policy_of(on_unknown, on_misfit, has_dead_letter=dead_letter is not None)
        self._concurrency = positive(concurrency, "concurrency") or 1
        self._middleware = tuple(middleware)
        self.codec = codec
        #: In seconds; whoever starts the app may have another.
        self.grace = grace
        self._batch_size = positive(batch_size, "batch_size")
        self._options = options
        idle = optional_milliseconds(options["reclaim_min_idle_ms"], "reclaim_min_idle_ms")
        self._longest_delay = None if idle is None else timedelta(milliseconds=idle)

    def plans(
        self, handlers: Mapping[tuple[str, str], list[Handler]], threads: Threads
    ) -> list[StreamPlan]:
        """Give what is done of each stream by each group; refuse handlers that do not fit."""
        return [
            StreamPlan(
                stream,
                group,
                of_group,
                codec=self.codec,
                retry=self._retry,
                middleware=self._middleware,
                run_in_thread=threads.run,
                exactly_once=self._is_exactly_once(stream, of_group),
            )
            for (stream, group), of_group in handlers.items()
        ]

    def _is_exactly_once(self, stream: str, handlers: Sequence[Handler]) -> bool:
        """Say whether a stream's handlers commit with their messages; refuse what does not fit."""
        asked = {handler.exactly_once for handler in handlers}
        if len(asked) > 1:
            msg = (
                f"some handlers of the stream {stream!r} are exactly_once and others are not, and "
                "a message is acknowledged once: make all of them exactly_once, or give the others "
                "a group of their own, on(..., group=...)"
            )
            raise ValueError(msg)
        if True not in asked:
            return False
        if self._options["remove_consumer"] != "never":
            msg = (
                f"the handlers of the stream {stream!r} are exactly_once, for which a worker keeps "
                'its name when it starts again: App(..., consumer="{hostname}-{worker}")'
            )
            raise ValueError(msg)
        if self._options["on_group_lost"] != "raise":
            msg = (
                f"the handlers of the stream {stream!r} are exactly_once, and only its group knows "
                'what is committed: on_group_lost="recreate" would have all of it committed again'
            )
            raise ValueError(msg)
        return True

    def _source_options(self, plan: StreamPlan, on_idle: Literal["wait", "stop"]) -> dict[str, Any]:
        letters = self._dead_letter
        return {
            **self._options,
            **({"block_ms": 1} if on_idle == "stop" else {}),
            "on_idle": on_idle,
            "batch_size": self._batch_size or (_FRAME if plan.is_typed else _BATCH),
            "dead_letter": None if letters is None else letters.replace("{stream}", plan.stream),
        }

    def _consumer(self, plan: StreamPlan, on_idle: Literal["wait", "stop"]) -> StreamConsumer:
        """Give what reads a plan's messages."""
        consumer = StreamConsumer(
            self._connection,
            plan.stream,
            plan.group,
            str(self._consumer_name),
            ack="manual",
            on_error="dead_letter" if self._policy.on_misfit == "dead_letter" else "raise",
            **self._source_options(plan, on_idle),
            **plan.options,
        )
        expect_no_fields(consumer._request)
        return consumer

    def _processor(
        self, plan: StreamPlan, on_idle: Literal["wait", "stop"], threads: Threads
    ) -> PlanProcessor:
        """Give what reads a plan's messages, and commits what is done with them."""
        options = self._source_options(plan, on_idle)
        for name in ("on_group_lost", "remove_consumer", "remove_idle_consumers_ms"):
            del options[name]  # a commit must find its group and its consumer
        processor = PlanProcessor(
            self._connection,
            plan,
            self._policy,
            codec=self.codec,
            outlet=Outlet(None),
            threads=threads,
            name=plan.group,
            group=plan.group,
            consumer=str(self._consumer_name),
            **options,
        )
        # What a handler raises at last is put aside at once, as in the app's other groups.
        processor._failing = replace(processor._failing, counts_deliveries=False)
        return processor

    def worker(
        self,
        plan: StreamPlan,
        on_idle: Literal["wait", "stop"],
        *,
        threads: Threads,
        record: Record | None,
        on_ready: Callable[[], None],
    ) -> StreamWorker | ExactlyOnceWorker:
        """Give what works on a plan's messages."""
        if plan.exactly_once:
            return ExactlyOnceWorker(
                plan,
                self._processor(plan, on_idle, threads),
                retry=self._retry._steps(RAISED),
                grace=self.grace,
                record=record,
                on_ready=on_ready,
            )
        consumer = self._consumer(plan, on_idle)
        member = consumer._request["group"]
        lease = None if member is None else member["max_processing_ms"]
        return StreamWorker(
            plan,
            consumer,
            concurrency=self._concurrency,
            policy=replace(self._policy, record=record),
            limits=Limits(
                has_dead_letter=self._dead_letter is not None,
                longest_delay=self._longest_delay,
                lease=None if lease is None else lease / 1_000,
            ),
            grace=self.grace,
            threads=threads,
            record=record,
            on_ready=on_ready,
        )


def by_place(
    handlers: Iterable[Handler], stream: str | None, group: str
) -> dict[tuple[str, str], list[Handler]]:
    """Give the handlers of each stream and group, where an app's own are these.

    Raises
    ------
    ValueError
        A handler has no stream, or shares its messages with one that has them alone.
    """
    places: dict[tuple[str, str], list[Handler]] = {}
    for handler in handlers:
        place = handler.stream or stream, expanded(handler.group or group, "group")
        if place[0] is None:
            msg = (
                f"the handler {handler.name} names no stream, and neither do the settings: "
                "on(stream, ...), STREAM_NAME or consumer.stream"
            )
            raise ValueError(msg)
        others = places.setdefault((place[0], place[1]), [])
        others.append(handler)
        if len(others) > 1 and any(one.is_alone for one in others):
            msg = (
                f"{others[0].name} handles the stream {place[0]!r} in the group {place[1]!r}, as a "
                f"bus has it by one handler alone, and {handler.name} would handle it too"
            )
            raise ValueError(msg)
    return places


def _check_middleware(middleware: object) -> None:
    call = getattr(middleware, "__call__", None)  # noqa: B004 - whether it is async
    if not inspect.iscoroutinefunction(middleware) and not inspect.iscoroutinefunction(call):
        msg = f"middleware must be async, as {middleware!r} is not"
        raise TypeError(msg)
