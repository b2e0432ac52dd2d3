"""An app whose handlers commit with the acknowledgement of their messages, exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import polars as pl
import pytest
import redis
from prometheus_client import CollectorRegistry
from pydantic import BaseModel, field_validator

import redfloe
from redfloe import FencedError
from redfloe.messages import (
    App,
    Message,
    Producer,
    Retry,
    Router,
    Transaction,
)
from redfloe.metrics import WorkerCollector
from support.events import OrderPaid, OrderPlaced, orders, pending, publish, until
from support.paying import (
    DRAIN,
    app_of,
    dead,
    numbers,
    paying,
)
from support.server import Server
from support.timing import SLACK, within

KINDS = ("sync", "async", "both")


@pytest.mark.parametrize("kind", KINDS)
def test_an_app_publishes_and_acknowledges_in_one_step(
    any_server: Server, client: redis.Redis, kind: str
) -> None:
    publish(any_server, *orders(250))
    app = app_of(any_server, paying(kind=kind, exactly_once=True))
    drained = app.drain()
    times = 2 if kind == "both" else 1
    assert numbers(any_server) == [n for n in range(1, 251) for _ in range(times)]
    assert [one.event.order_id for one in drained.handled] == [*range(1, 251)]
    assert [one.payload.order_id for one in drained.published] == numbers(any_server)
    assert pending(client, "orders", "g") == 0
    assert app.consumers == {}
    assert app.processors["orders"].stats.commits == 0  # the second pass found nothing
    assert {*app.health().processors} == {"orders"}


def test_an_apps_poison_has_its_traceback(any_server: Server, client: redis.Redis) -> None:
    publish(any_server, *orders(4))
    app = app_of(
        any_server,
        paying(poison=3, exactly_once=True),
        dead_letter="{stream}:dead",
        max_deliveries=5,
    )
    drained = app.drain()
    assert numbers(any_server) == [1, 2, 4]
    assert dead(any_server) == [("3", "KeyError: 3")]
    ((message, reason),) = drained.failed
    assert message.event.order_id == 3
    first_frame = reason.partition("Traceback (most recent call last):\n")[2].splitlines()[0]
    assert "support/paying.py" in first_frame
    assert len(drained.handled) == len(drained.published) == 3
    assert pending(client, "orders", "g") == 0


def test_misfits_of_an_app(any_server: Server) -> None:
    publish(
        any_server, *orders(1), Message("OrderPlaced", {"order_id": "x"}), OrderPaid(order_id=7)
    )
    app = app_of(any_server, paying(exactly_once=True), dead_letter="{stream}:dead")
    drained = app.drain()
    assert [message.payload["order_id"] for message, _ in drained.failed] == ["x"]
    assert len(drained.handled) == 1
    assert numbers(any_server) == [1]


def test_state_is_refused_in_a_group(any_server: Server) -> None:
    """Not a dead letter is made of that."""
    publish(any_server, *orders(2))
    for ask in (
        lambda tx: tx.state,
        lambda tx: tx.table("t", key="k", schema={"v": pl.Int64}),
    ):
        app = app_of(any_server, dead_letter="{stream}:dead")
        app.on("orders", OrderPlaced, exactly_once=True)(lambda event, tx, ask=ask: ask(tx))
        with pytest.raises(ValueError, match="shares its stream with a group's other workers"):
            app.drain()
    assert dead(any_server) == []


def test_middleware_and_timeouts_go_around_handlers(any_server: Server) -> None:
    publish(any_server, *orders(2))
    around: list[Any] = []

    async def middleware(message: Message, call_next: Any) -> Any:
        around.append(message.event.order_id)
        return await call_next(message)

    app = app_of(any_server, middleware=[middleware], dead_letter="{stream}:dead")

    @app.on("orders", OrderPlaced, exactly_once=True, timeout=0.01)
    async def pay(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        if event.order_id == 2:
            await asyncio.sleep(10)

    app.drain()
    assert {*around} == {1, 2}
    assert numbers(any_server) == [1]
    assert dead(any_server) == [("2", "TimeoutError: ")]


def test_other_groups_and_streams_of_the_app_go_on(any_server: Server) -> None:
    publish(any_server, *orders(20))
    got: list[int] = []
    app = app_of(any_server, paying(exactly_once=True))

    @app.on("orders", OrderPlaced, group="audit")
    def audit(event: OrderPlaced) -> None:
        got.append(event.order_id)

    @app.on("paid", OrderPaid)
    async def paid(event: OrderPaid) -> None:
        got.append(event.order_id)

    app.drain()
    assert sorted(got) == sorted([*range(1, 21)] * 2)
    assert {*app.consumers} == {"orders (audit)", "paid"}
    assert {*app.processors} == {"orders"}


def test_workers_of_one_group_share_the_messages(any_server: Server, client: redis.Redis) -> None:
    apps = [
        app_of(any_server, paying(kind=kind, exactly_once=True), consumer=name, batch_size=7)
        for name, kind in (("c1", "sync"), ("c2", "async"))
    ]

    async def main() -> None:
        async with apps[0], apps[1]:
            assert all(app.health().ready for app in apps)
            async with Producer(any_server.url, "orders") as producer:
                for first in range(1, 301, 10):
                    await producer.publish_many(orders(first + 9, first=first))
            await until(lambda: client.xlen("paid") == 300)

    asyncio.run(main())
    assert sorted(numbers(any_server)) == [*range(1, 301)]
    assert pending(client, "orders", "g") == 0
    assert all(app.processors["orders"].stats.commits for app in apps)


def test_stop_finishes_the_batch_in_hand(
    any_server: Server, client: redis.Redis, runner: asyncio.Runner
) -> None:
    publish(any_server, *orders(40))
    app = app_of(any_server, batch_size=5)
    release = asyncio.Event()

    @app.on("orders", OrderPlaced, exactly_once=True)
    async def pay(event: OrderPlaced, tx: Transaction) -> None:
        await release.wait()
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")

    async def main() -> None:
        await app.start()
        await until(lambda: app.health().in_hand == 5, app)
        ending = app.stop()
        await asyncio.sleep(0.02)
        release.set()
        await ending

    runner.run(main())
    assert numbers(any_server) == [1, 2, 3, 4, 5]
    app.drain()
    assert numbers(any_server) == [*range(1, 41)]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_outlives_the_grace_commits_nothing(
    any_server: Server, client: redis.Redis, runner: asyncio.Runner, kind: str
) -> None:
    publish(any_server, *orders(2))
    app = app_of(any_server, grace=0.05)
    release, refused = threading.Event(), threading.Event()
    called: list[int] = []

    def publish_late(event: OrderPlaced, tx: Transaction) -> None:
        called.append(event.order_id)
        release.wait(10 * SLACK)
        try:
            tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        except RuntimeError:
            refused.set()

    async def wait(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        await asyncio.sleep(10 * SLACK)

    app.on("orders", OrderPlaced, exactly_once=True)(publish_late if kind == "sync" else wait)

    async def main() -> None:
        await app.start()
        await until(lambda: app.health().in_hand == 2, app)
        await app.stop()

    with within(5):
        runner.run(main())
    release.set()
    if kind == "sync":
        assert refused.wait(10 * SLACK)
    assert numbers(any_server) == []
    time.sleep(0.1)
    assert called in ([], [1]), "the other message is another worker's by now"
    (waiting,) = client.xinfo_consumers("orders", "g")
    assert (waiting["name"], waiting["pending"]) == (b"c", 2)
    app_of(any_server, paying(exactly_once=True)).drain()
    assert numbers(any_server) == [1, 2]


def test_health_counts_what_waits_for_its_next_attempt(
    any_server: Server, runner: asyncio.Runner
) -> None:
    publish(any_server, *orders(3))
    app = app_of(any_server, retry=Retry(attempts=2, base_delay=0.3))
    called: list[int] = []

    @app.on("orders", OrderPlaced, exactly_once=True)
    async def pay(event: OrderPlaced) -> None:
        called.append(event.order_id)
        if called == [1]:
            raise ValueError

    async def main() -> None:
        async with app:
            await until(lambda: called, app)
            for _ in range(10):
                assert app.health().in_hand == 3
                await asyncio.sleep(0.005)
            await until(lambda: app.processors["orders"].stats.commits, app)
            await until(lambda: app.health().in_hand == 0, app)

    runner.run(main())
    assert called == [1, 1, 2, 3]


def test_what_is_put_aside_is_decoded_once(any_server: Server) -> None:
    decoded: list[int] = []

    class Parcel(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def note(cls, n: int) -> int:
            decoded.append(n)
            return n

    publish(any_server, Message("Parcel", {"n": 1}), stream="parcels")
    app = app_of(any_server, dead_letter="{stream}:dead")

    @app.on("parcels", Parcel, exactly_once=True)
    def lose(event: Parcel, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.n), stream="paid")
        raise KeyError

    drained = app.drain()
    ((message, reason),) = drained.failed
    assert message.event == Parcel.model_construct(n=1)
    assert "KeyError" in reason
    assert (drained.handled, drained.published) == ([], [])
    assert decoded == [1]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_handler_that_raises_what_passes_for_a_cancel(any_server: Server, kind: str) -> None:
    publish(any_server, *orders(1))
    app = app_of(any_server, dead_letter="{stream}:dead")

    def pay(event: OrderPlaced) -> None:
        raise asyncio.CancelledError

    async def pay_async(event: OrderPlaced) -> None:
        pay(event)

    app.on("orders", OrderPlaced, exactly_once=True)(pay if kind == "sync" else pay_async)
    assert len(app.drain().failed) == 1


def test_a_drain_counts_a_message_once(any_server: Server) -> None:
    publish(any_server, *orders(3))
    router = paying(kind="both", exactly_once=True)
    rows: list[int] = []

    @router.on_batch("orders", OrderPlaced, exactly_once=True)
    def load(frame: pl.DataFrame) -> None:
        rows.append(frame.height)

    drained = app_of(any_server, router).drain()
    assert rows == [3]
    assert [one.event.order_id for one in drained.handled] == [1, 2, 3]
    assert len(drained.published) == 6


def test_apps_that_cannot_commit_are_refused(any_server: Server) -> None:
    router, mixed, plain = paying(exactly_once=True), Router(), Router()
    mixed.on("orders", OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="some handlers of the stream 'orders' are exactly_once"):
        app_of(any_server, router, mixed)
    with pytest.raises(ValueError, match="a worker keeps its name"):
        App(any_server.url, group="g").include(router)
    with pytest.raises(ValueError, match="would have all of it committed again"):
        app_of(any_server, router, on_group_lost="recreate")
    plain.on("orders", OrderPlaced)(lambda event, tx: None)
    with pytest.raises(ValueError, match="takes a transaction: register it by"):
        app_of(any_server, plain)
    own = Router()
    own.on("orders", OrderPlaced, group="own")(lambda event: None)
    app_of(any_server, router, own)


def test_an_app_of_the_same_name_stands_by(
    any_server: Server,
    client: redis.Redis,
    runner: asyncio.Runner,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "redfloe")
    publish(any_server, *orders(3))
    first, second = (app_of(any_server, paying(exactly_once=True)) for _ in range(2))

    async def main() -> None:
        async with first:
            await until(lambda: client.xlen("paid") == 3, first)
            standing_by = asyncio.create_task(second.run_async())
            await until(lambda: "standing by until it is left" in caplog.text, second)
            assert not second.health().ready
        await until(lambda: second.health().ready, second)
        await asyncio.to_thread(publish, any_server, *orders(6, first=4))
        await until(lambda: client.xlen("paid") == 6, second)
        second.stop()
        await standing_by

    runner.run(main())
    assert numbers(any_server) == [*range(1, 7)]


def test_an_app_that_is_fenced(any_server: Server, runner: asyncio.Runner) -> None:
    publish(any_server, *orders(2))
    options: dict[str, Any] = {"name": "g", "group": "g", "consumer": "c", **DRAIN}
    app = app_of(any_server)

    @app.on("orders", OrderPlaced, exactly_once=True)
    def pay(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(event, stream="never")
        if event.order_id == 2:
            return
        with redfloe.StreamProcessor(any_server.url, "orders", takeover=True, **options) as other:
            tx_of_other = next(other)
            tx_of_other.publish("paid", tx_of_other.frame)

    with pytest.raises(FencedError):
        runner.run(app.run_async())
    assert not app.health().alive
    assert numbers(any_server) == [1, 2]
    assert redfloe.read_stream(any_server.url, "never").is_empty()


def test_metrics_are_of_an_apps_processors(any_server: Server) -> None:
    publish(any_server, *orders(3))
    app = app_of(any_server)
    registry = CollectorRegistry()
    WorkerCollector(registry).watch(app)
    labels = {"stream": "orders", "processor": "g"}
    seen: list[float | None] = []

    @app.on("orders", OrderPlaced, exactly_once=True)
    def look(event: OrderPlaced) -> None:
        seen.append(registry.get_sample_value("redfloe_processor_commits_total", labels))
        app.stop()

    app.run()
    assert seen == [0, 0, 0]
    assert registry.get_sample_value("redfloe_processor_commits_total", labels) == 1
