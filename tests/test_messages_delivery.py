"""What anybody may expect of messages: that they arrive, once or more, in order, through faults."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from functools import partial
from typing import Any

import pytest
import redis

import redfloe
from redfloe import RedfloeError, RedisConnection
from redfloe.messages import App, Message, Producer
from support.events import OrderPlaced, orders, pending, until, work
from support.server import Server
from support.timing import within


def test_messages_arrive_as_they_were_published_in_order(any_server: Server, stream: str) -> None:
    given = [
        Message("note", {"text": f"ü{n}" * (n % 50 or 20_000)}, {"n": n, "list": [n]})
        for n in range(1, 301)
    ]
    got: list[tuple[Any, Any, Any]] = []
    app = App(any_server.url, group="g")

    @app.on(stream)
    async def take(message: Message) -> None:
        got.append((message.type, message.payload, message.metadata))

    with Producer(any_server.url, stream) as producer:
        producer.publish_many(given[:200])
        for message in given[200:]:
            producer.publish(message)
    work(app, lambda: len(got) == 300)
    assert got == [(message.type, message.payload, message.metadata) for message in given]


def test_the_workers_of_a_group_share_its_messages(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    got: Counter[int] = Counter()
    by: Counter[str] = Counter()
    apps = []
    for name in ("a", "b", "c", "d"):
        app = App(any_server.url, group="g", consumer=name, batch_size=5)

        def take(event: OrderPlaced, message: Message, name: str = name) -> None:
            time.sleep(0.0005)
            got[event.order_id] += 1
            by[name] += 1

        app.on(stream, OrderPlaced)(take)
        apps.append(app)

    async def main() -> None:
        async with apps[0], apps[1], apps[2], apps[3]:
            async with Producer(any_server.url, stream) as producer:
                await producer.publish_many(orders(400))
            await until(lambda: len(got) == 400)

    asyncio.run(main())
    assert {*got.values()} == {1}
    assert len(by) == 4
    assert pending(client, stream, "g") == 0


def test_each_group_has_all_messages(any_server: Server, stream: str) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(100))
    got: dict[str, list[int]] = {"first": [], "second": []}
    for group, numbers in got.items():
        app = App(any_server.url, group=group)
        app.on(stream, OrderPlaced)(lambda event, numbers=numbers: numbers.append(event.order_id))
        app.drain()
    assert got["first"] == got["second"] == [*range(1, 101)]


def test_what_is_given_back_comes_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(60))
    refused: set[int] = set()
    done: list[int] = []
    app = App(any_server.url, group="g", concurrency=3)

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced, message: Message) -> None:
        if event.order_id not in refused:
            refused.add(event.order_id)
            assert message.delivery_count == 1
            message.nack(delay=0)
        else:
            assert message.delivery_count == 2
            done.append(event.order_id)

    app.drain()
    assert sorted(done) == [*range(1, 61)]
    assert pending(client, stream, "g") == 0


def test_a_worker_goes_on_where_another_has_stopped(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(100))
    got: list[int] = []
    while len(got) < 100:
        app = App(any_server.url, group="g", consumer="c", batch_size=10)
        goal = len(got) + 15

        @app.on(stream, OrderPlaced)
        async def handle(event: OrderPlaced) -> None:
            await asyncio.sleep(0)
            got.append(event.order_id)

        work(app, partial(lambda goal: len(got) >= goal, min(goal, 100)))
    assert Counter(got) == Counter(range(1, 101))
    assert pending(client, stream, "g") == 0


def test_an_app_may_be_stopped_by_many_at_once(any_server: Server, stream: str) -> None:
    for _ in range(5):
        app = App(any_server.url, group="g")
        app.on(stream, OrderPlaced)(lambda event: None)
        thread = threading.Thread(target=app.run)
        thread.start()
        stoppers = [threading.Thread(target=app.stop) for _ in range(10)]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        while thread.is_alive():  # one that had not begun yet
            app.stop()
            thread.join(0.05)


def test_connections_that_are_killed_lose_nothing(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    got: list[int] = []
    app = App(any_server.url, group="g", reclaim_min_idle_ms=100, reclaim_interval_ms=20)
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))

    async def main() -> None:
        async with app, Producer(any_server.url, stream) as producer:
            for first in range(1, 501, 100):
                await producer.publish_many(orders(first + 99, first=first))
                await until(lambda: got, app)
                client.client_kill_filter(_type="normal", skipme=True)
            await until(lambda: len({*got}) == 500, app)
            await until(lambda: pending(client, stream, "g") == 0, app)

    asyncio.run(main())
    assert {*got} == {*range(1, 501)}


@pytest.mark.timeout(120)
def test_ten_thousand_messages_over_two_restarts(stream: str) -> None:
    with Server("redis-7.0", args=["--appendonly", "yes", "--appendfsync", "always"]) as server:
        connection = RedisConnection(server.url, retry_base_delay=0.01, retry_max_delay=0.1)
        got: Counter[int] = Counter()
        app = App(connection, group="g", consumer="c", reclaim_min_idle_ms=500, concurrency=4)

        @app.on(stream, OrderPlaced)
        async def handle(event: OrderPlaced) -> None:
            await asyncio.sleep(0)
            got[event.order_id] += 1

        async def publish() -> None:
            async with Producer(connection, stream) as producer:
                for first in range(1, 10_001, 100):
                    while True:
                        try:
                            await producer.publish_many(orders(first + 99, first=first))
                            break
                        except RedfloeError:  # unknown: they are published again
                            await asyncio.sleep(0.02)

        async def main() -> None:
            async with app:
                publishing = asyncio.create_task(publish())
                for handled in (2_000, 5_000):
                    await until(partial(lambda handled: len(got) >= handled, handled), app)
                    server.kill()
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(server.start)
                await publishing
                await until(lambda: len(got) == 10_000, app)
                await until(lambda: app.health().in_hand == 0, app)

        asyncio.run(main())
        assert {*got} == {*range(1, 10_001)}
        with server.client() as client:
            assert pending(client, stream, "g") == 0
            # What was handled twice was published twice, or was not acknowledged at a crash.
            twice = sum(number - 1 for number in got.values())
            assert twice <= 1_000


def test_a_queue_keeps_its_lease_while_it_advances(any_server: Server, stream: str) -> None:
    """Handlers are quick, but the last of a batch waits for longer than a lease lasts."""
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(12))
    lease: dict[str, Any] = {
        "reclaim_min_idle_ms": 200,
        "reclaim_interval_ms": 20,
        "max_processing_ms": 400,
    }
    calls: Counter[int] = Counter()
    slow = App(any_server.url, group="g", consumer="slow", **lease)
    eager = App(any_server.url, group="g", consumer="eager", **lease)

    @slow.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        calls[event.order_id] += 1
        await asyncio.sleep(0.1)

    @eager.on(stream, OrderPlaced)
    async def handle_too(event: OrderPlaced) -> None:
        calls[event.order_id] += 1

    async def main() -> None:
        async with slow:
            await until(lambda: calls, slow)
            async with eager:
                await until(lambda: len(calls) == 12, slow)
                await until(lambda: slow.health().in_hand == 0, slow)

    asyncio.run(main())
    assert {*calls.values()} == {1}
    assert eager.consumers[stream].stats.entries == 0


def test_a_drain_that_does_not_end_says_so(any_server: Server, stream: str) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish(OrderPlaced(order_id=1))
    app = App(any_server.url, group="g")
    app.on(stream, OrderPlaced)(lambda event: False)
    with within(5), pytest.raises(TimeoutError, match=r"after 0\.3 s messages are still not done"):
        app.drain(timeout=0.3)
    assert redfloe.pending_entries(any_server.url, stream, "g").height == 1
