"""What an app is made of: its options, checked, and the consumers and workers that follow them."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from redfloe._arguments import not_negative, one_of, optional_milliseconds, positive
from redfloe._consuming.consumer import StreamConsumer
from redfloe.messages._decode import Policy
from redfloe.messages._delivery import Limits
from redfloe.messages._plan import Middleware, StreamPlan
from redfloe.messages._worker import StreamWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from redfloe._core import RedisConnection
    from redfloe.messages._codecs import Codec
    from redfloe.messages._health import Record
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
        consumer: str,
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
        one_of(on_unknown, "on_unknown", "ack", "fail", "raise")
        on_misfit = on_misfit or ("raise" if dead_letter is None else "dead_letter")
        one_of(on_misfit, "on_misfit", "dead_letter", "raise")
        if dead_letter is None and (on_unknown == "fail" or on_misfit == "dead_letter"):
            msg = 'on_unknown="fail" and on_misfit="dead_letter" need a dead_letter stream'
            raise ValueError(msg)
        for one in middleware:
            _check_middleware(one)
        not_negative(grace, "grace")
        self._connection = connection
        self._consumer = consumer
        self._retry = retry
        self._dead_letter = dead_letter
        self._on_unknown: Literal["ack", "fail", "raise"] = on_unknown
        self._on_misfit: Literal["dead_letter", "raise"] = on_misfit
        self._concurrency = positive(concurrency, "concurrency") or 1
        self._middleware = tuple(middleware)
        self.codec = codec
        #: In seconds; whoever starts the app may have another.
        self.grace = grace
        self._batch_size = batch_size
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
            )
            for (stream, group), of_group in handlers.items()
        ]

    def consumer(self, plan: StreamPlan, on_idle: Literal["wait", "stop"]) -> StreamConsumer:
        """Give what reads a plan's messages."""
        options = {**self._options, **plan.options}
        if on_idle == "stop":
            options["block_ms"] = 1
        dead_letter = self._dead_letter
        consumer = StreamConsumer(
            self._connection,
            plan.stream,
            plan.group,
            self._consumer,
            ack="manual",
            batch_size=self._batch_size or (_FRAME if plan.is_typed else _BATCH),
            on_idle=on_idle,
            dead_letter=(
                None if dead_letter is None else dead_letter.replace("{stream}", plan.stream)
            ),
            on_error="dead_letter" if self._on_misfit == "dead_letter" else "raise",
            **options,
        )
        # What is optional may never come; a model says what must.
        consumer._request["expects_fields"] = False
        return consumer

    def worker(
        self,
        plan: StreamPlan,
        consumer: StreamConsumer,
        *,
        threads: Threads,
        record: Record | None,
        on_ready: Callable[[], None],
    ) -> StreamWorker:
        """Give what works on a plan's messages."""
        member = consumer._request["group"]
        lease = None if member is None else member["max_processing_ms"]
        return StreamWorker(
            plan,
            consumer,
            concurrency=self._concurrency,
            policy=Policy(self._on_unknown, self._on_misfit, record),
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


def _check_middleware(middleware: object) -> None:
    call = getattr(middleware, "__call__", None)  # noqa: B004 - whether it is async
    if not inspect.iscoroutinefunction(middleware) and not inspect.iscoroutinefunction(call):
        msg = f"middleware must be async, as {middleware!r} is not"
        raise TypeError(msg)
