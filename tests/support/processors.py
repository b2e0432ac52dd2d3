"""`StreamProcessor` in each of the worlds that it serves, and what must have come of its runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import TracebackType
from typing import Any, Self

import polars as pl
import redis

from redfloe import AsyncTransaction, StreamProcessor, Table
from redfloe._processing.values import decode
from support.consumers import World
from support.streams import NUMBER

STREAM = "numbers"
NAME = "sums"
LANE = f"{{{STREAM}}}:redfloe:{STREAM}:{NAME}"
#: For a loop that drains the stream.
DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 1}
TOTALS: dict[str, Any] = {"key": "parity", "schema": {"parity": pl.Int64, "total": pl.Int64}}


def processor(url: Any, stream: str = STREAM, **options: Any) -> StreamProcessor:
    """Make one of numbered entries, which drains the stream."""
    return StreamProcessor(url, stream, **{"name": NAME, "schema": NUMBER, **DRAIN, **options})


class Driven(Iterator[Any]):
    """A processor that is used with ``with`` and ``for`` whichever its world is."""

    def __init__(self, world: World, made: StreamProcessor) -> None:
        self.world = world
        self.processor = made

    def __enter__(self) -> Self:
        if self.world.runner is None:
            self.processor.__enter__()
        else:
            self.world.do(self.processor.__aenter__())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.world.runner is None:
            self.processor.__exit__(exc_type, exc, traceback)
        else:
            self.world.do(self.processor.__aexit__(exc_type, exc, traceback))

    def __next__(self) -> Any:
        if self.world.runner is None:
            return next(self.processor)

        async def step() -> AsyncTransaction | None:
            return await anext(self.processor, None)

        transaction = self.world.do(step())
        if transaction is None:
            raise StopIteration
        return transaction

    def run(self, handler: Callable[[Any], object], **options: Any) -> None:
        """Call the handler, or have it awaited."""
        if self.world.runner is None:
            self.processor.run(handler, **options)
            return

        async def awaited(transaction: AsyncTransaction) -> None:
            await asyncio.sleep(0)
            outcome = handler(transaction)
            if isinstance(outcome, Awaitable):
                await outcome

        self.world.do(self.processor.run_async(awaited, **options))


def work(world: World, tx: Any) -> None:
    """Do something with everything that a transaction has: `check` knows what must come of it."""
    _work(tx, world.do(tx.table("totals", **TOTALS)))


def handler(world: World) -> Callable[[Any], object]:
    """Give what does the same where it is called by `run` or `run_async`."""

    async def awaited(tx: AsyncTransaction) -> None:
        _work(tx, await tx.table("totals", **TOTALS))

    return (lambda tx: work(world, tx)) if world.runner is None else awaited


def _work(tx: Any, totals: Table) -> None:
    new = tx.frame.group_by(parity=pl.col("n") % 2).agg(pl.col("n").sum())
    old = totals.lookup(new["parity"])["total"].fill_null(0)
    totals.upsert(new.select("parity", total=pl.col("n") + old))
    tx.state["seen"] = tx.state.get("seen", 0) + len(tx)
    tx.publish("{numbers}:out", tx.frame.select("n", square=pl.col("n") ** 2))


def outputs(client: redis.Redis, stream: str = "{numbers}:out") -> list[int]:
    """List the numbers that were published, in order."""
    found: Any = client.xrange(stream)
    return [int(fields[b"n"]) for _, fields in found]


def saved(client: redis.Redis, name: str = NAME) -> dict[str, Any]:
    """Give the state as it was saved."""
    found: Any = client.hgetall(f"{{{STREAM}}}:redfloe:{STREAM}:{name}:state")
    return {field.decode(): decode(text)["value"] for field, text in found.items()}


def check(client: redis.Redis, last: int) -> None:
    """Compare all that `work` has left with what one run over the numbers up to `last` leaves."""
    numbers = range(1, last + 1)
    assert outputs(client) == [*numbers]
    assert saved(client) == {"seen": len(numbers)}
    found: Any = client.hgetall(f"{LANE}:table:totals")
    totals = {int(key): decode(row)["total"] for key, row in found.items()}
    assert totals == {
        parity: sum(n for n in numbers if n % 2 == parity) for parity in {n % 2 for n in numbers}
    }
