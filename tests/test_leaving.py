"""A consumer, or an iterator, that one thread or task leaves while another is in its loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from redfloe import MemoryCheckpointStore, RedisConnection, StreamConsumer, iter_stream
from support.clients import is_waiting
from support.consumers import World, all_rows, rows
from support.groups import DRAIN, ME, pending
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, eventually, within

pytestmark = pytest.mark.timeout(30)

#: The name that the connections of these tests have.
NAME = "leaving"


@pytest.fixture
def connection(any_server: Server) -> RedisConnection:
    return RedisConnection(any_server.url, client_name=NAME)


def is_gone(client: redis.Redis, stream: str) -> None:
    """Check that nobody has registered again, nor waits for entries."""
    assert client.xinfo_consumers(stream, "g") == []
    waits = is_waiting(client, NAME)
    eventually(lambda: not waits(), seconds=1)


@pytest.mark.parametrize("block_ms", [0, 100])
@pytest.mark.parametrize("how", ["for", "next", "run"])
def test_a_loop_that_another_thread_leaves_ends(
    client: redis.Redis, stream: str, connection: RedisConnection, block_ms: int, how: str
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"block_ms": block_ms, "remove_consumer": "on_close", **ME}
    consumer = StreamConsumer(connection, stream, schema=NUMBER, **options)

    def loop() -> list[int]:
        came: list[int] = []
        if how == "run":
            consumer.run(lambda batch: came.extend(rows(batch)))
        elif how == "for":
            came += all_rows(consumer)
        else:
            while (batch := next(consumer, None)) is not None:
                came += rows(batch)
            assert next(consumer, None) is None
        return came

    with ThreadPoolExecutor(1) as pool:
        consumer.__enter__()
        done = pool.submit(loop)
        eventually(is_waiting(client, NAME))
        with within(0.5):
            consumer.__exit__(None, None, None)
            assert done.result(5 * SLACK) == [1, 2, 3]
    assert (consumer.stats.batches, consumer.stats.acknowledged) == (1, 3)
    is_gone(client, stream)


@pytest.mark.parametrize("how", ["for", "anext", "run"])
def test_a_loop_that_another_task_leaves_ends(
    client: redis.Redis,
    stream: str,
    connection: RedisConnection,
    runner: asyncio.Runner,
    how: str,
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"block_ms": 0, "remove_consumer": "on_close", **ME}
    consumer: Any = StreamConsumer(connection, stream, schema=NUMBER, **options)
    came: list[int] = []

    async def handle(batch: Any) -> None:
        came.extend(rows(batch))

    async def loop() -> None:
        if how == "run":
            await consumer.run_async(handle)
        elif how == "for":
            async for batch in consumer:
                await handle(batch)
        else:
            while (batch := await anext(consumer, None)) is not None:
                await handle(batch)
            assert await anext(consumer, None) is None

    async def main() -> None:
        await consumer.__aenter__()
        looping = asyncio.ensure_future(loop())
        waits = is_waiting(client, NAME)
        async with asyncio.timeout(5 * SLACK):
            while not waits():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await consumer.__aexit__(None, None, None)
            await looping
            await consumer.__aexit__(None, None, None)

    runner.run(main())
    assert came == [1, 2, 3]
    assert (consumer.stats.batches, consumer.stats.acknowledged) == (1, 3)
    is_gone(client, stream)


@pytest.mark.parametrize("again", [False, True])
def test_a_loop_ends_that_is_in_its_body_when_it_is_left(
    any_server: Server, client: redis.Redis, stream: str, world: World, again: bool
) -> None:
    """Entered again, the consumer gives its batches to new loops."""
    add_numbers(client, stream, 4)
    options: dict[str, Any] = {"batch_size": 2, **ME, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)

    async def step(loop: Any) -> Any:
        return await anext(loop, None)

    def take(loop: Any) -> Any:
        return next(loop, None) if world.runner is None else world.do(step(loop))

    of = iter if world.runner is None else aiter
    loop = of(consumer.consumer)
    with consumer:
        assert rows(take(loop)) == [1, 2]
    assert consumer.stats.entries == 2
    if again:
        with consumer:
            assert take(loop) is None
            assert rows(take(of(consumer.consumer))) == [3, 4]
        assert pending(client, stream) == []
    assert take(loop) is None
    assert take(of(consumer.consumer)) is None
    assert consumer.stats.entries == 2


def test_a_consumer_may_be_left_twice(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, **ME, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)
    consumer.__exit__(None, None, None)  # before it was ever entered
    with consumer:
        assert all_rows(consumer) == [1, 2, 3]
    stats = consumer.stats
    client.xgroup_delconsumer(stream, "g", "me")
    for error in (None, ZeroDivisionError()):
        consumer.__exit__(None if error is None else type(error), error, None)
        assert consumer.stats.entries == stats.entries == 3
        assert consumer.stats.acknowledged == 3
    assert client.xinfo_consumers(stream, "g") == []
    assert store.load(f"{stream}:g:me") == "3-0"


def test_an_iterator_that_another_thread_closes_ends(
    client: redis.Redis, stream: str, connection: RedisConnection
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"auto_ack": True, "block_ms": 0, **ME}
    batches = iter_stream(connection, stream, NUMBER, **options)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [frame.height for frame in batches])
        eventually(is_waiting(client, NAME))
        batches.close()
        with within(0.5):
            assert done.result(5 * SLACK) == [3]
    client.xgroup_delconsumer(stream, "g", "me")
    assert next(batches, None) is None
    batches.close()
    is_gone(client, stream)
