"""Apps whose server refuses for a while to be told what has become of messages."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

import redfloe
from redfloe import RedisConnection
from redfloe.messages import App, Message, Producer
from support.events import OrderPlaced, orders, pending, until
from support.server import HOST, Server
from support.timing import within

#: What has a server refuse what, and what has it take that again.
REFUSALS = {
    "READONLY": (("REPLICAOF", HOST, "1"), ("REPLICAOF", "NO", "ONE")),
    "NOREPLICAS": (
        ("CONFIG", "SET", "min-replicas-to-write", "1"),
        ("CONFIG", "SET", "min-replicas-to-write", "0"),
    ),
    "OOM": (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
}
#: For how long, in seconds; the five retries of a bounded call take a quarter of that.
REFUSING = 0.4


@contextmanager
def refusing(client: redis.Redis, code: str) -> Iterator[None]:
    """Have the server refuse writes until the block ends."""
    begin, end = REFUSALS[code]
    client.execute_command(*begin)
    try:
        yield
    finally:
        client.execute_command(*end)


@pytest.mark.parametrize(
    ("settle", "code"),
    [
        *((settle, "READONLY") for settle in ("return", "ack", "nack", "fail", "extend")),
        ("return", "NOREPLICAS"),
        ("fail", "OOM"),
    ],
)
def test_what_a_server_refuses_to_be_told_is_told_later(
    any_server: Server, client: redis.Redis, stream: str, settle: str, code: str
) -> None:
    connection = RedisConnection(any_server.url, retry_base_delay=0.01, retry_max_delay=0.02)
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(3))
    app = App(connection, group="g", consumer="c", dead_letter="{stream}:dead")
    counts: list[tuple[int, int]] = []
    refuses, again = threading.Event(), asyncio.Event()

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced, message: Message) -> None:
        counts.append((event.order_id, message.delivery_count))
        if (event.order_id, message.delivery_count) != (2, 1):
            return
        refuses.set()
        await again.wait()
        match settle:
            case "ack":
                message.ack()
            case "nack":
                message.nack(delay=0)
            case "fail":
                message.fail("no")
            case "extend":
                message.extend()

    async def main() -> None:
        async with app:
            await until(refuses.is_set, app)
            with refusing(client, code):
                again.set()
                await asyncio.sleep(REFUSING)
            await until(lambda: app.health().in_hand == 0 and len(counts) >= 3, app)
            await until(lambda: pending(client, stream, "g") == 0, app)

    asyncio.run(main())
    assert sorted(counts) == [(1, 1), (2, 1), *([(2, 2)] if settle == "nack" else []), (3, 1)]
    letters = redfloe.read_dead_letters(any_server.url, f"{stream}:dead")
    assert letters.height == (settle == "fail")


def test_an_app_stops_while_it_is_refused(
    any_server: Server, client: redis.Redis, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redfloe.messages._worker.LAST_TELL", 0.3)
    with Producer(any_server.url, stream) as producer:
        producer.publish(OrderPlaced(order_id=1))
    app = App(any_server.url, group="g", consumer="c")
    app.on(stream, OrderPlaced)(lambda event: client.execute_command(*REFUSALS["READONLY"][0]))

    async def main() -> None:
        async with app:
            await until(lambda: app.health().in_hand == 1, app)
            await asyncio.sleep(0.2)

    try:
        with within(3):
            asyncio.run(main())
    finally:
        client.execute_command(*REFUSALS["READONLY"][1])
    assert pending(client, stream, "g") == 1  # it comes again
