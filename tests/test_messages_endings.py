"""How an app ends with handlers that do not: nobody waits for them for ever."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress

import pytest
import redis

from redfloe.messages import App, Producer
from support.events import OrderPlaced, orders, pending, until
from support.server import Server
from support.timing import in_thread, within


@pytest.fixture(autouse=True)
def _hardly_any_last_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redfloe.messages._worker.LAST", 0.1)
    monkeypatch.setattr("redfloe.messages._exactly_once.LAST", 0.1)


class Swallowing:
    """Goes on whenever it is cancelled, until it is released."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.is_released = False
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        self.began.set()
        while not self.is_released:
            with suppress(BaseException):  # which is what is wrong with it
                await asyncio.sleep(0.02)


def swallowing_app(server: Server, stream: str, *, exactly_once: bool) -> tuple[App, Swallowing]:
    with Producer(server.url, stream) as producer:
        producer.publish_many(orders(3))
    app = App(server.url, group="g", consumer="c", grace=0.1)
    handler = Swallowing()

    @app.on(stream, OrderPlaced, exactly_once=exactly_once)
    async def handle(event: OrderPlaced) -> None:
        await handler()

    return app, handler


WAYS = pytest.mark.parametrize("exactly_once", [False, True], ids=["at_least_once", "exactly_once"])


@WAYS
def test_a_handler_that_swallows_its_cancel_does_not_keep_the_app(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    caplog: pytest.LogCaptureFixture,
    exactly_once: bool,
) -> None:
    app, handler = swallowing_app(any_server, stream, exactly_once=exactly_once)
    with within(5), caplog.at_level(logging.WARNING, "redfloe"):
        with in_thread(app.run) as ended:
            assert handler.began.wait(5)
            app.stop()
            ended()
    assert handler.calls == 1
    assert [one for one in caplog.records if getattr(one, "event", "") == "handler_left"]
    # Nothing is done, and who comes in its place gets all of it at once.
    assert pending(client, stream, "g") == 3
    got: list[int] = []
    other = App(any_server.url, group="g", consumer="c")
    other.on(stream, OrderPlaced, exactly_once=exactly_once)(
        lambda event: got.append(event.order_id)
    )
    with within(5):
        other.drain(timeout=5)
    assert got == [1, 2, 3]


@WAYS
def test_a_drain_ends_at_its_time_whatever_a_handler_swallows(
    any_server: Server, stream: str, exactly_once: bool
) -> None:
    app, handler = swallowing_app(any_server, stream, exactly_once=exactly_once)
    with within(5), pytest.raises(TimeoutError, match="still not done"):
        app.drain(timeout=1)
    assert handler.calls == 1


@WAYS
def test_an_event_loop_of_yours_goes_on_without_the_handler(
    any_server: Server, stream: str, exactly_once: bool
) -> None:
    app, handler = swallowing_app(any_server, stream, exactly_once=exactly_once)

    async def main() -> None:
        async with app:
            await until(handler.began.is_set, app)
        handler.is_released = True
        await asyncio.sleep(0.1)

    with within(5):
        asyncio.run(main())
    assert handler.calls == 1  # what comes after it is another worker's
