"""`StreamConsumer` in each of the worlds that it serves: a loop, asyncio, uvloop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import redis

from redfloe import AsyncBatch, Batch, ConsumerStats, StreamConsumer
from support.loops import PATIENCE
from support.streams import NUMBER

#: For a loop that takes over at once what others have left pending.
EAGER: dict[str, Any] = {"reclaim_min_idle_ms": 0, "reclaim_interval_ms": 0}
#: For one that takes nothing over.
SHY: dict[str, Any] = {"reclaim_min_idle_ms": None}


class World:
    """Drives consumers from a thread, which waits for what is to be awaited."""

    def __init__(self, runner: asyncio.Runner | None) -> None:
        self.runner = runner

    def do(self, outcome: Any) -> Any:
        """Give what a method gives, or what it gives when it is awaited."""
        if self.runner is None or not inspect.isawaitable(outcome):
            return outcome

        async def wait() -> Any:
            async with asyncio.timeout(PATIENCE):  # pytest-timeout does not end a wait in uvloop
                return await outcome

        return self.runner.run(wait())

    def consumer(
        self, url: Any, stream: str | bytes | list[str], schema: Any = NUMBER, **options: Any
    ) -> Driven:
        return Driven(self, StreamConsumer(url, stream, schema=schema, **options))


class Driven(Iterator[Any]):
    """A consumer that is used with ``with`` and ``for`` whichever its world is."""

    def __init__(self, world: World, consumer: StreamConsumer) -> None:
        self.world = world
        self.consumer = consumer

    @property
    def stats(self) -> ConsumerStats:
        return self.consumer.stats

    def stop(self) -> None:
        self.consumer.stop()

    def __enter__(self) -> Self:
        if self.world.runner is None:
            self.consumer.__enter__()
        else:
            self.world.do(self.consumer.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.world.runner is None:
            self.consumer.__exit__(exc_type, exc, traceback)
        else:
            self.world.do(self.consumer.__aexit__(exc_type, exc, traceback))

    def __next__(self) -> Any:
        if self.world.runner is None:
            return next(self.consumer)

        async def step() -> AsyncBatch | None:
            return await anext(self.consumer, None)

        batch = self.world.do(step())
        if batch is None:
            raise StopIteration
        return batch

    def run(self, handler: Callable[[Any], object], **options: Any) -> None:
        """Call the handler, or have it awaited."""
        if self.world.runner is None:
            self.consumer.run(handler, **options)
            return

        async def awaited(batch: AsyncBatch) -> None:
            await asyncio.sleep(0)
            outcome = handler(batch)
            if isinstance(outcome, Awaitable):
                await outcome

        self.world.do(self.consumer.run_async(awaited, **options))


def rows(batch: Batch | AsyncBatch) -> list[int]:
    """List the numbers of a batch's entries."""
    numbers: list[int] = batch.frame["n"].to_list()
    return numbers


def all_rows(batches: Iterable[Any]) -> list[int]:
    """List the numbers of all batches' entries."""
    return [number for batch in batches for number in rows(batch)]


def letters(client: redis.Redis, stream: str = "dead") -> list[dict[bytes, bytes]]:
    """List the dead letters, in order."""
    found: Any = client.xrange(stream)
    return [fields for _, fields in found]


def dead_ids(client: redis.Redis, stream: str = "dead") -> list[str]:
    """List the IDs that the dead letters had."""
    return [letter[b"_dead_id"].decode() for letter in letters(client, stream)]
