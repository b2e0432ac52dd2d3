"""Rows that wait: to be collected, to be handed out, to come again while the loop waits itself."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import RedisConnection, StreamConsumer, WrongTypeError
from support.consumers import World, all_rows, rows
from support.groups import DRAIN, ME, deliver, pending
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, Stopwatch, eventually, later, meanwhile

pytestmark = pytest.mark.timeout(20)

IDLE = round(200 * min(SLACK, 3))
#: A worker whose entries others may take over soon.
HASTY: dict[str, Any] = {"reclaim_min_idle_ms": IDLE, **ME}


def steal(client: redis.Redis, stream: str) -> list[int]:
    """Take over what has been idle for long enough, as another worker does."""
    found: Any = client.xautoclaim(stream, "g", "thief", IDLE, justid=True)
    return [int(entry.split(b"-")[0]) for entry in found]


# Collected rows, and rows that wait for their batch


def test_what_is_being_collected_is_not_taken_over(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """A batch is whole before others may have its first row."""
    taken: list[int] = []
    numbers = iter(range(1, 1_000))

    def add_and_steal() -> None:
        number = next(numbers)
        add_numbers(client, stream, number, first=number)
        time.sleep(0.02)
        taken.extend(steal(client, stream))

    options: dict[str, Any] = {"batch_timeout_ms": 20 * IDLE, "block_ms": 0, **HASTY}
    came: list[int] = []
    watch = Stopwatch()
    with world.consumer(server.url, stream, **options) as consumer, meanwhile(add_and_steal):
        while watch.seconds * 1_000 < 2.5 * IDLE:
            came.extend(rows(next(consumer)))
    assert taken == []
    assert came == list(range(1, len(came) + 1))
    assert watch.seconds * 1_000 < 5 * IDLE


def test_what_was_taken_over_during_an_outage_is_not_handed_out(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    taken: list[int] = []
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, retry_base_delay=0.02, retry_max_delay=0.02)
        options: dict[str, Any] = {"batch_timeout_ms": 20 * IDLE, "block_ms": 0, **HASTY}

        def steal_what_is_idle() -> bool:
            taken.extend(steal(client, stream))
            return bool(taken)

        def outage() -> None:
            eventually(lambda: pending(client, stream, "me") == [1, 2, 3])
            time.sleep(0.02)
            proxy.refuse(10_000)
            proxy.cut_all()
            client.xack(stream, "g", "3-0")
            eventually(steal_what_is_idle)
            add_numbers(client, stream, 5, first=4)
            proxy.clear()

        with (
            world.consumer(connection, stream, **options) as consumer,
            ThreadPoolExecutor(1) as pool,
        ):
            done = pool.submit(outage)
            came = rows(next(consumer))
            done.result()
    assert taken == [1, 2]
    assert came == [4, 5]


def test_what_waits_for_a_dead_letter_is_not_handed_out_when_others_have_it(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    for number in (1, 2, 3, 4):
        client.xadd(stream, {"n": "?" if number == 2 else number}, id=f"{number}-0")
    client.set("dead", "a text")
    with world.consumer(any_server.url, stream, dead_letter="dead", **HASTY, **DRAIN) as consumer:
        assert rows(next(consumer)) == [1]  # what comes before it does not wait
        with pytest.raises(WrongTypeError):
            next(consumer)
        time.sleep(IDLE * 0.9 / 1_000)
        client.xclaim(stream, "g", "thief", 0, ["2-0", "3-0"])
        client.delete("dead")
        assert all_rows(consumer) == [4]
    assert pending(client, stream) == [2, 3]
    assert client.exists("dead") == 0


def test_the_rest_of_a_page_is_not_handed_out_when_others_have_it(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    for number in range(1, 7):
        client.xadd(stream, {"n": number, "blob": "x" * 50_000}, id=f"{number}-0")
    schema = {"n": pl.Int64, "blob": pl.String}
    options: dict[str, Any] = {"batch_bytes": 120_000, "auto_extend": False, **HASTY}
    with world.consumer(server.url, stream, schema, **options, **DRAIN) as consumer:
        first = rows(next(consumer))
        # Redis 8.10 sends no more than a batch has room for.
        rest = [number for number in pending(client, stream) if number not in first]
        time.sleep(IDLE * 0.9 / 1_000)
        for number in rest[:1]:
            client.xclaim(stream, "g", "thief", 0, [f"{number}-0"])
        others = all_rows(consumer)
    assert first + rest[:1] + others == [1, 2, 3, 4, 5, 6]
    assert pending(client, stream) == rest[:1]


# Batches that are ready, and that nobody takes


async def abandon(consumer: StreamConsumer, is_ready: Callable[[], bool]) -> None:
    """Ask for a batch, and give the wait up once it is ready."""
    waiting = asyncio.ensure_future(anext(consumer))
    await asyncio.sleep(0.01)
    eventually(is_ready)  # the event loop is busy meanwhile
    time.sleep(0.05)  # noqa: ASYNC251
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("auto_extend", [True, False])
def test_what_nobody_took_is_not_handed_out_when_others_have_it(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    runner: asyncio.Runner,
    auto_extend: bool,
) -> None:
    options: dict[str, Any] = {"auto_extend": auto_extend, "block_ms": 0, **HASTY}
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **options)

    def is_ready() -> bool:
        if not client.exists(stream):
            return False
        if not client.xlen(stream):
            add_numbers(client, stream, 4)
        return pending(client, stream, "me") == [1, 2, 3, 4]

    async def work() -> tuple[list[int], list[int]]:
        async with consumer:
            await abandon(consumer, is_ready)
            assert (consumer.stats.batches, consumer.stats.entries) == (0, 0)
            assert consumer.stats.last_id is None
            await asyncio.sleep(IDLE / 1_000)
            assert client.xautoclaim(stream, "g", "thief", IDLE, count=2, justid=True)
            batch = await anext(consumer)
            assert (consumer.stats.batches, consumer.stats.entries) == (1, 2)
            return rows(batch), batch.delivery_counts.to_list()

    assert runner.run(work()) == ([3, 4], [1, 1])
    assert pending(client, stream) == [1, 2]


def test_what_nobody_took_of_a_stream_is_not_counted(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, block_ms=0)

    def is_ready() -> bool:
        if not client.exists(stream):
            add_numbers(client, stream, 4)
        return True

    async def work() -> list[int]:
        async with consumer:
            await abandon(consumer, is_ready)
            assert (consumer.stats.batches, consumer.stats.entries) == (0, 0)
            batch = await anext(consumer)
            assert (consumer.stats.batches, consumer.stats.entries) == (1, 4)
            return rows(batch)

    assert runner.run(work()) == [1, 2, 3, 4]


def test_an_event_loop_that_is_always_late_has_its_batches_in_the_end(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    """Each is too old when the loop gets to it."""
    add_numbers(client, stream, 2)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 60, "batch_size": 1, **ME, **DRAIN}

    async def be_busy() -> None:
        while True:
            time.sleep(0.08)  # noqa: ASYNC251
            await asyncio.sleep(0)

    async def work() -> list[int]:
        busy = asyncio.ensure_future(be_busy())
        try:
            async with (
                asyncio.timeout(5 * SLACK),
                StreamConsumer(any_server.url, stream, schema=NUMBER, **options) as consumer,
            ):
                return [number async for batch in consumer for number in rows(batch)]
        finally:
            busy.cancel()

    assert runner.run(work()) == [1, 2]
    assert pending(client, stream) == []


# Rows that are given back while the loop waits


@pytest.mark.parametrize("block_ms", [0, 3_000])
@pytest.mark.parametrize("delay_ms", [0, 100])
def test_what_is_given_back_while_the_loop_waits_comes_in_time(
    server: Server, client: redis.Redis, stream: str, block_ms: int, delay_ms: int
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {**ME, "ack": "manual", "block_ms": block_ms}
    with StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer:
        batch = next(consumer)
        with later(0.1, lambda: batch.nack("2-0", delay_ms=delay_ms)):
            watch = Stopwatch()
            again = next(consumer)
        assert 0.09 + delay_ms / 1_000 <= watch.seconds <= 0.4 * SLACK
        assert again.frame["n"].to_list() == [2]
        assert again.delivery_counts.to_list() == [2]


def test_what_a_task_gives_back_while_another_waits_comes_in_time(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1)

    async def work() -> tuple[float, list[int]]:
        options: dict[str, Any] = {**ME, "ack": "manual"}
        async with StreamConsumer(any_server.url, stream, schema=NUMBER, **options) as consumer:
            batch = await anext(consumer)
            watch = Stopwatch()
            again = asyncio.create_task(anext(consumer))
            await asyncio.sleep(0.05)
            await batch.nack(delay_ms=100)
            counts = (await again).delivery_counts.to_list()
            return watch.seconds, counts

    seconds, counts = asyncio.run(work())
    assert seconds <= 0.4 * SLACK
    assert counts == [2]


def test_a_wait_that_is_ended_loses_nothing(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """Entries come at any time, also as the request is given up that they answer."""
    options: dict[str, Any] = {**ME, "ack": "manual", "max_deliveries": 9, "dead_letter": "dead"}
    came: Counter[int] = Counter()
    numbers = iter(range(1, 151))

    def add() -> None:
        number = next(numbers, None)
        if number is not None:
            add_numbers(client, stream, number, first=number)
        time.sleep(0.007)

    def handle(batch: Any, again: list[int]) -> None:
        time.sleep(0.01)
        if again:
            batch.nack([f"{number}-0" for number in again], delay_ms=again[0] % 20)
        batch.ack([one for one in batch.ids if int(one.split("-")[0]) not in again])

    with (
        StreamConsumer(server.url, stream, schema=NUMBER, **options) as consumer,
        ThreadPoolExecutor(4) as pool,
        meanwhile(add),
    ):
        handlers = []
        while sum(came.values()) < 300:
            batch = next(consumer)
            came.update(batch.frame["n"].to_list())
            counts = zip(batch.frame["n"], batch.delivery_counts, strict=True)
            assert all(came[number] == count for number, count in counts)
            again = [number for number in batch.frame["n"] if came[number] == 1]
            handlers.append(pool.submit(handle, batch, again))
        for handler in handlers:
            handler.result()
    assert came == dict.fromkeys(range(1, 151), 2)
    assert pending(client, stream) == []
    assert client.exists("dead") == 0


# Pages that the server does not send


@contextmanager
def small_replies(client: redis.Redis) -> Iterator[None]:
    """Have the server cut connections on which more than a megabyte waits to be sent."""
    name = "client-output-buffer-limit"
    client.config_set(name, "normal 1000000 0 0")
    try:
        yield
    finally:
        client.config_set(name, "normal 0 0 0")


def work(connection: RedisConnection, stream: str) -> int:
    with StreamConsumer(connection, stream, **ME, **DRAIN) as consumer:
        return sum(len(batch) for batch in consumer)


READERS: dict[str, Callable[[RedisConnection, str], int]] = {
    "consumer": work,
    "group": lambda where, name: sum(
        frame.height for frame in redfloe.iter_stream(where, name, **ME, **DRAIN)
    ),
    "read-group": lambda where, name: redfloe.read_stream(where, name, **ME).height,
    "follow": lambda where, name: sum(
        frame.height for frame in redfloe.iter_stream(where, name, start_id="-", **DRAIN)
    ),
    "read": lambda where, name: redfloe.read_stream(where, name).height,
}


@pytest.mark.parametrize(
    ("reader", "is_pending"),
    [*((reader, False) for reader in READERS), ("consumer", True), ("group", True)],
)
def test_pages_shrink_until_they_come(
    server: Server, client: redis.Redis, stream: str, reader: str, is_pending: bool
) -> None:
    blob = "x" * 100_000
    for number in range(1, 41):
        client.xadd(stream, {"n": number, "blob": blob}, id=f"{number}-0")
    client.xgroup_create(stream, "g", "0")
    if is_pending:
        for _ in range(8):
            deliver(client, stream, 5)
    connection = RedisConnection(server.url, max_retries=3, retry_base_delay=0.01)
    with small_replies(client):
        assert READERS[reader](connection, stream) == 40


def test_a_group_that_cannot_be_read_is_not_asked_for_ever(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Side questions that succeed are no progress; the message names the attempts once."""
    client.xadd(stream, {"n": 1, "blob": "x" * 2_000_000}, id="1-0")
    deliver(client, stream, 1)
    connection = RedisConnection(any_server.url, max_retries=3, retry_base_delay=0.01)
    options: dict[str, Any] = {"max_deliveries": 100, "dead_letter": "dead", **ME, **DRAIN}
    with small_replies(client):
        before: Any = client.info("stats")
        with (
            pytest.raises(redfloe.RedisConnectionError, match="attempts: 4") as caught,
            StreamConsumer(connection, stream, **options) as consumer,
        ):
            next(consumer)
        after: Any = client.info("stats")
    assert str(caught.value).count("attempts") == 1
    assert after["total_commands_processed"] - before["total_commands_processed"] < 100
