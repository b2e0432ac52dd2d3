"""Tasks of an event loop that share a transaction or are cancelled; threads that start at once."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import StreamProcessor, Table
from support.consumers import World
from support.loops import PATIENCE
from support.processors import DRAIN, NAME, STREAM, TOTALS, check, processor, work
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import eventually

SYNC = World(None)


def test_tasks_that_take_one_table_at_once(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """Each got one of its own, and what all but one had changed was lost."""
    if world.runner is None:
        pytest.skip("there is one task alone")
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, batch_size=2)

    async def several() -> None:
        async with made:
            async for tx in made:

                async def add(n: int, tx: Any = tx) -> Table:
                    table: Table = await tx.table("totals", **TOTALS)
                    table.upsert(pl.DataFrame({"parity": [n], "total": [n]}))
                    return table

                one, other = await asyncio.gather(*map(add, tx.frame["n"]))
                assert one is other

    world.runner.run(several())
    assert client.hlen("{numbers}:redfloe:numbers:sums:table:totals") == 4


def test_tasks_that_take_a_table_with_other_columns(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    if world.runner is None:
        pytest.skip("there is one task alone")
    add_numbers(client, STREAM, 1)
    made = processor(any_server.url)

    async def several() -> None:
        async with made:
            tx = await anext(made)
            other = tx.table("totals", key="parity", schema={"parity": pl.Int64, "sum": pl.Int64})
            with pytest.raises(ValueError, match="other columns before"):
                await asyncio.gather(tx.table("totals", **TOTALS), other)

    world.runner.run(several())


class Slow(StreamProcessor):
    """A thread of it is slow to begin."""

    gate = threading.Event()

    def run(self, *arguments: Any, **options: Any) -> None:
        assert self.gate.wait(PATIENCE)
        super().run(*arguments, **options)


def test_a_processor_starts_once(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)
    options: dict[str, Any] = {**DRAIN, "on_idle": "wait"}
    made = Slow(any_server.url, STREAM, name=NAME, schema=NUMBER, **options)
    ended = made.start(lambda tx: work(SYNC, tx))
    with pytest.raises(RuntimeError, match="entered already"):
        made.start(print)
    with pytest.raises(RuntimeError, match="entered already"), made:
        pass
    made.gate.set()
    eventually(lambda: made.stats.entries == 4)
    made.stop()
    assert ended.result(5) is None
    check(client, 4)


def test_of_threads_that_start_at_once_one_does(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)
    made, gate = processor(any_server.url, on_idle="wait"), threading.Barrier(4)
    told: list[Any] = []

    def start() -> None:
        gate.wait()
        try:
            told.append(made.start(lambda tx: work(SYNC, tx)))
        except RuntimeError as error:
            told.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [ended] = [one for one in told if not isinstance(one, RuntimeError)]
    eventually(lambda: made.stats.entries == 4)
    made.stop()
    assert ended.result(5) is None
    check(client, 4)


def test_one_that_could_not_start_may_be_started_again(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 2)
    made = processor(any_server.url)
    with pytest.raises(ValueError, match="attempts"):
        made.start(print, attempts=0).result(5)
    made.start(lambda tx: work(SYNC, tx)).result(5)
    check(client, 2)


def test_one_whose_thread_cannot_be_started_may_be_started_again(
    any_server: Server, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_numbers(client, STREAM, 2)
    made, start = processor(any_server.url), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "redfloe-processor":
            msg = "can't start new thread"
            raise RuntimeError(msg)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            made.start(print)
    made.start(lambda tx: work(SYNC, tx)).result(5)
    check(client, 2)
