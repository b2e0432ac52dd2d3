"""Draining: what is waited for, what is counted, and how it ends early."""

from __future__ import annotations

import asyncio
import time

import polars as pl
import pytest
import redis

import redfloe
from redfloe.messages import App, Message, Retry
from support.events import OrderPlaced, orders, pending, publish
from support.server import Server
from support.timing import Stopwatch, later, within


@pytest.mark.parametrize("way", ["async", "sync", "columns"])
def test_a_drain_waits_for_what_a_slow_handler_gives_back(
    any_server: Server, client: redis.Redis, stream: str, way: str
) -> None:
    """The reader has found nothing more long before that."""
    publish(any_server, OrderPlaced(order_id=1), stream=stream)
    calls: list[float] = []
    app = App(any_server.url, group="g", consumer="c")

    def refuse() -> bool:
        calls.append(time.monotonic())
        return len(calls) > 2

    if way == "async":

        @app.on(stream, OrderPlaced)
        async def handle(event: OrderPlaced) -> bool:
            await asyncio.sleep(0.15)
            return refuse()

    elif way == "sync":

        @app.on(stream, OrderPlaced)
        def handle_in_thread(event: OrderPlaced) -> bool:
            time.sleep(0.15)
            return refuse()

    else:

        @app.on_batch(stream, OrderPlaced)
        def load(frame: pl.DataFrame) -> bool:
            time.sleep(0.15)
            return refuse()

    drained = app.drain()
    assert len(calls) == 3
    assert calls[2] - calls[1] >= 0.3  # it took its time, and the second pause is of 0.2 s
    assert len(drained.handled) == 1
    assert pending(client, stream, "g") == 0


def test_a_drain_keeps_to_a_handlers_delay(any_server: Server, stream: str) -> None:
    publish(any_server, OrderPlaced(order_id=1), stream=stream)
    app = App(any_server.url, group="g")

    @app.on(stream, OrderPlaced)
    async def handle(message: Message, event: OrderPlaced) -> None:
        await asyncio.sleep(0.1)
        if message.delivery_count == 1:
            message.nack(delay=0.5)

    watch = Stopwatch()
    assert len(app.drain().handled) == 1
    assert watch.seconds >= 0.7


def test_a_handler_may_stop_a_drain(any_server: Server, stream: str) -> None:
    publish(any_server, OrderPlaced(order_id=1), stream=stream)
    app = App(any_server.url, group="g")
    got: list[int] = []

    with app.producer(stream) as producer:

        @app.on(stream, OrderPlaced)
        def handle(event: OrderPlaced) -> None:
            time.sleep(0.02)  # the reader has ended, and each is another run's
            got.append(event.order_id)
            producer.publish(OrderPlaced(order_id=event.order_id + 1))  # without an end
            if event.order_id % 3 == 0:
                app.stop()

        with within(5):
            assert len(app.drain().handled) == 3
            assert len(app.drain().handled) == 3
    assert got == [1, 2, 3, 4, 5, 6]


def test_a_drain_that_waits_for_a_message_can_be_stopped(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, OrderPlaced(order_id=1), stream=stream)
    app = App(any_server.url, group="g", consumer="c")

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced, message: Message) -> None:
        await asyncio.sleep(0.1)
        message.nack(delay=30)

    with within(5), later(0.6, app.stop):
        assert app.drain().handled == []
    assert pending(client, stream, "g") == 1


def test_each_message_counts_once(any_server: Server, client: redis.Redis, stream: str) -> None:
    publish(any_server, *orders(6), stream=stream)
    app = App(any_server.url, group="g", dead_letter="{stream}:dead", retry=Retry(attempts=1))

    @app.on(stream, OrderPlaced)
    def settle(event: OrderPlaced, message: Message) -> None:
        match event.order_id:
            case 1:
                message.ack()
            case 2:
                message.ack()
                raise ValueError("too late")
            case 3:
                message.fail("no")
            case 4:
                raise ValueError("no")

    @app.on(stream, OrderPlaced)
    async def again(event: OrderPlaced) -> None: ...

    @app.on_batch(stream, OrderPlaced)
    def load(frame: pl.DataFrame) -> None: ...

    drained = app.drain()
    assert len({one.id for one in drained.handled}) == len(drained.handled) == 4
    assert sorted(reason.partition("\n")[0] for _, reason in drained.failed) == [
        "ValueError: no",
        "no",
    ]
    assert redfloe.read_dead_letters(any_server.url, f"{stream}:dead").height == 2
    assert pending(client, stream, "g") == 0


def test_an_app_starts_in_one_event_loop_after_another(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(2), stream=stream)
    app = App(any_server.url, group="g", consumer="c")
    got: list[int] = []
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))

    async def main() -> None:
        # Others of the loop have their turn first, so that the start has to wait.
        async with app:
            assert app.health().ready

    asyncio.run(main())
    asyncio.run(main())
    assert app.health().alive
