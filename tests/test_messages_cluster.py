"""Apps and producers of messages in a Redis Cluster."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import redfloe
from redfloe import RedisConnection
from redfloe.messages import (
    App,
    Message,
    Processor,
    Producer,
    Retry,
    Router,
    Transaction,
)
from support.cluster import Cluster
from support.events import OrderPaid, OrderPlaced, orders

pytestmark = pytest.mark.xdist_group("cluster")


def test_a_sharded_stream(cluster_url: str | RedisConnection, stream: str) -> None:
    """Its shards, and those of its dead letters, are on all nodes."""
    numbers = pl.DataFrame({"_type": "Order", "user": [f"u{n}" for n in range(60)], "n": range(60)})
    redfloe.write_stream(cluster_url, numbers, stream, shards=8, shard_by="user")
    app = App(cluster_url, group="g", dead_letter="{stream}:dead", retry=Retry(attempts=1))
    got: list[int] = []

    @app.on(stream)
    async def handle(message: Message) -> None:
        number = int(message.payload["n"])
        if number % 3 == 0:
            raise ValueError
        got.append(number)

    drained = app.drain()
    assert sorted(got) == [n for n in range(60) if n % 3]
    assert len({message.stream for message in drained.handled}) > 4
    letters = redfloe.read_dead_letters(cluster_url, f"{stream}:dead", {"n": pl.Int64})
    assert sorted(letters["n"]) == [n for n in range(60) if n % 3 == 0]


def test_streams_of_several_nodes(cluster_url: str | RedisConnection) -> None:
    """With braces around it a stream's name is the hash tag of its dead letters: one slot."""
    app = App(
        cluster_url,
        group="g",
        dead_letter="{{stream}}:dead",
        retry=Retry(attempts=1),
        concurrency=2,
    )
    streams = ["orders-a", "orders-b", "orders-c"]
    got: list[Any] = []

    def pay(event: OrderPlaced) -> None:
        if event.order_id == 2:
            raise ValueError
        producer.publish(OrderPaid(order_id=event.order_id), stream="paid")

    for stream in streams:
        app.on(stream, OrderPlaced)(pay)

    @app.on("paid", OrderPaid)
    async def paid(event: OrderPaid) -> None:
        got.append(event.order_id)

    with Producer(cluster_url) as producer:
        for stream in streams:
            producer.publish_many(orders(3), stream=stream)
        drained = app.drain()
    assert sorted(got) == [1, 1, 1, 3, 3, 3]
    assert len(drained.failed) == 3
    for stream in streams:
        dead = redfloe.read_dead_letters(cluster_url, f"{{{stream}}}:dead", {"order_id": int})
        assert dead["order_id"].to_list() == [2]
        assert redfloe.pending_entries(cluster_url, stream, "g").is_empty()


def test_dead_letters_of_another_slot_are_refused(cluster_url: str | RedisConnection) -> None:
    app = App(cluster_url, group="g", dead_letter="{stream}:dead")
    app.on("orders", OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="slot"):
        app.drain()


def test_handlers_that_are_exactly_once(cluster_url: str | RedisConnection) -> None:
    """What they publish is in the slot of their stream, as the dead letters are."""
    app = App(
        cluster_url,
        group="g",
        consumer="c",
        dead_letter="{{stream}}:dead",
        retry=Retry(attempts=1),
    )

    def pay(event: OrderPlaced, message: Message, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream=f"{{{message.stream}}}:paid")
        if event.order_id == 2:
            raise ValueError

    with Producer(cluster_url) as producer:
        for stream in ("orders-a", "orders-b", "orders-c"):
            producer.publish_many(orders(3), stream=stream)
            app.on(stream, OrderPlaced, exactly_once=True)(pay)
        drained = app.drain()
    assert len(drained.failed) == 3
    for stream in ("orders-a", "orders-b", "orders-c"):
        paid = redfloe.read_stream(cluster_url, f"{{{stream}}}:paid", {"order_id": int})
        assert paid["order_id"].to_list() == [1, 3]
        dead = redfloe.read_dead_letters(cluster_url, f"{{{stream}}}:dead", {"order_id": int})
        assert dead["order_id"].to_list() == [2]
        assert redfloe.pending_entries(cluster_url, stream, "g").is_empty()


def test_outputs_of_another_slot_are_refused(cluster: Cluster) -> None:
    """The handler is wrong, and no message goes to the dead letters for that."""
    app = App(cluster.url, group="g", consumer="c", dead_letter="{{stream}}:dead")

    @app.on("orders", OrderPlaced, exactly_once=True)
    def pay(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")

    router = Router()
    router.on("orders", OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="slot"):
        Processor(cluster.url, "orders", router, name="p", outputs={OrderPaid: "paid"})
    with Producer(cluster.url, "orders") as producer:
        producer.publish_many(orders(3))
    with pytest.raises(ValueError, match=r'name it "\{orders\}:paid", .* nothing has been written'):
        app.drain()
    assert redfloe.read_stream(cluster.url, "{orders}:dead").is_empty()
    assert redfloe.pending_entries(cluster.url, "orders", "g").height == 3
