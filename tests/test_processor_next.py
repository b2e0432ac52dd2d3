"""What a loop does before it has a batch: it loads, and notes, and may be stopped or cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
import redis

import redfloe
from redfloe import DataLossError, DecodeError, ParquetSink, State, table_key
from support.consumers import World
from support.lanes import step_of
from support.processors import LANE, NAME, STREAM, Driven, outputs, processor, work
from support.proxy import Command, Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import eventually, within

SYNC = World(None)


class Counter(State):
    count: int = 0


class Changed(State):
    counts: dict[str, int] = {}  # noqa: RUF012


def test_a_state_that_cannot_be_loaded_is_no_fault_of_an_entry(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """The entry was put aside, which nobody had tried."""
    options: dict[str, Any] = {"max_deliveries": 1, "dead_letter": "{numbers}:dead"}
    add_numbers(client, STREAM, 1)
    counter = Counter()
    driven = Driven(world, processor(any_server.url, **options))
    driven.processor.bind(counter)
    with driven:
        for tx in driven:
            counter.count += len(tx)
            work(world, tx)
    add_numbers(client, STREAM, 2, first=2)
    changed = Driven(world, processor(any_server.url, **options))
    changed.processor.bind(Changed(), "Counter")
    for _ in range(3):
        with pytest.raises(DecodeError), changed:
            next(changed)
    with driven:
        for tx in driven:
            work(world, tx)
    assert outputs(client) == [1, 2]
    assert client.exists("{numbers}:dead") == 0


@pytest.mark.parametrize("loads", ["the state", "what sinks have", "what is to be skipped"])
def test_stop_while_the_server_says_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path, loads: str
) -> None:
    """The loop went on until the server was back."""
    add_numbers(client, STREAM, 2)
    with pytest.raises(ZeroDivisionError), processor(any_server.url) as made:  # noqa: PT012
        assert next(made).batch_id
        raise ZeroDivisionError
    if loads == "what is to be skipped":
        client.xdel(STREAM, "1-0", "2-0")
    keys = {
        "the state": f"{LANE}:state".encode(),
        "what sinks have": table_key(STREAM, NAME, "\0sinks"),
    }

    def is_it(command: Command) -> bool:
        if loads == "what is to be skipped":
            return step_of(command) == "commit"
        return step_of(command) == "load" and keys[loads] in command

    with Proxy(any_server.port) as proxy:
        made = processor(proxy.url, on_idle="wait")
        if loads == "what sinks have":
            ParquetSink(made, tmp_path / "lake")
        stalled = proxy.stall_after(0, once_seen=is_it, times=None)
        ended = made.start(print)
        eventually(lambda: stalled.hits)
        with within(2):
            made.stop()
            assert ended.result(5) is None


def test_the_end_of_a_stream_is_looked_for_once(any_server: Server, client: redis.Redis) -> None:
    """Where the first wait is cancelled meanwhile, what came since was left out."""
    add_numbers(client, STREAM, 2)

    async def cancelled() -> list[int]:
        with Proxy(any_server.port) as proxy:
            made = processor(proxy.url, start_id="$", on_idle="wait")
            asked = proxy.stall_after(0, once_seen=b"INFO")
            async with made:
                waiting = asyncio.ensure_future(anext(made))
                await asyncio.to_thread(eventually, lambda: asked.hits)
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await waiting
                add_numbers(client, STREAM, 4, first=3)
                tx = await anext(made)
                numbers: list[int] = tx.frame["n"].to_list()
                return numbers

    assert asyncio.run(cancelled()) == [3, 4]


def test_a_loss_that_a_cancelled_commit_has_found_is_told(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """It counted as told, and the loop began again at the start without a word."""
    if world.runner is None:
        pytest.skip("nothing is cancelled there")
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, batch_size=2, on_idle="wait", lease_ms=60_000)

    def scripts() -> int:
        statistics: Any = client.info("commandstats")
        return sum(statistics[name]["calls"] for name in statistics if "eval" in name)

    async def cancelled() -> None:
        async with made:
            tx = await anext(made)
            tx.publish("{numbers}:out", tx.frame)
            client.delete(LANE)
            before = scripts()
            committing = asyncio.ensure_future(tx.commit())
            await asyncio.sleep(0)
            eventually(lambda: scripts() > before)
            time.sleep(0.02)  # noqa: ASYNC251 - the answer is there, and the event loop has not heard
            committing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await committing
            with pytest.raises(DataLossError, match="gone"):
                await anext(made)
            # Once is enough.
            assert (await anext(made)).frame["n"].to_list() == [1, 2]

    world.runner.run(cancelled())
    assert outputs(client) == []


def test_a_loss_that_a_cancelled_wait_has_found_is_told(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """It counted as told, though nobody waited for the next batch any more."""
    if world.runner is None:
        pytest.skip("nothing is cancelled there")
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, batch_size=2, on_idle="wait", lease_ms=90)

    async def cancelled() -> None:
        async with made:
            await (await anext(made)).commit()
            client.delete(LANE)
            await asyncio.sleep(0.3)  # its heartbeat has found out
            waiting = asyncio.ensure_future(anext(made))
            await asyncio.sleep(0)
            time.sleep(0.05)  # noqa: ASYNC251 - the answer is there, and the event loop has not heard
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            with pytest.raises(DataLossError, match="gone"):
                await anext(made)
            assert (await anext(made)).frame["n"].to_list() == [1, 2]

    world.runner.run(cancelled())


def test_a_batch_that_is_skipped_counts(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 3)
    driven = Driven(world, processor(any_server.url))
    with pytest.raises(ZeroDivisionError), driven:  # noqa: PT012
        world.do(next(driven).batch_id)
        raise ZeroDivisionError
    client.xdel(STREAM, "1-0", "2-0", "3-0")
    with driven:
        assert [*driven] == []
        stats = driven.processor.stats
        assert (stats.position, stats.commits, stats.entries) == ("3-0", 1, 0)
    assert redfloe.processor_info(any_server.url)["position"].item() == "3-0"
