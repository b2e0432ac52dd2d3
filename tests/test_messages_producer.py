"""Publishing messages: one, many, from threads and event loops, through faults."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest
import redis

import redfloe
from redfloe import RedfloeError
from redfloe.messages import (
    AsyncProducer,
    FastStreamCodec,
    JsonCodec,
    Message,
    NatricineCodec,
    Producer,
)
from support.events import OrderPaid, OrderPlaced, orders
from support.server import Server
from support.streams import add_numbers


def entries(client: redis.Redis, stream: str) -> list[tuple[str, dict[str, str]]]:
    """Give a stream's entries as texts."""
    found: Any = client.xrange(stream)
    return [
        (entry_id.decode(), {name.decode(): text.decode() for name, text in fields.items()})
        for entry_id, fields in found
    ]


def test_one_message_is_an_entry_and_its_id_comes_back(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Producer(any_server.url, stream) as producer:
        ids = [
            producer.publish(OrderPlaced(order_id=1), metadata={"via": "web", "n": 1}),
            producer.publish(Message("user.created", {"user_id": 123, "tags": ["a"], "no": None})),
            producer.publish({"plain": 1.5}),
            producer.publish(
                Message("order", OrderPlaced(order_id=2), {"a": 1}), metadata={"b": 2}
            ),
        ]
    assert entries(client, stream) == list(
        zip(
            ids,
            [
                {
                    "_type": "OrderPlaced",
                    "_metadata": '{"via": "web", "n": 1}',
                    "order_id": "1",
                    "total": "9.90",
                },
                {"_type": "user.created", "user_id": "123", "tags": '["a"]'},
                {"plain": "1.5"},
                {
                    "_type": "order",
                    "_metadata": '{"a": 1, "b": 2}',
                    "order_id": "2",
                    "total": "9.90",
                },
            ],
            strict=True,
        )
    )


def test_many_messages_are_the_entries_that_they_are_alone(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    given = [
        OrderPlaced(order_id=1),
        OrderPaid(order_id=1, by="card"),
        Message("user.created", {"user_id": 123, "nested": {"a": [1, None]}}),
        {"order_id": "a text", "raw": b"\xff"},
        OrderPaid(order_id=2),
    ]
    with Producer(any_server.url, stream) as producer:
        assert producer.publish_many(given, metadata={"k": "v"}) == 5
        assert producer.publish_many([]) == 0
    with Producer(any_server.url, "alone") as producer:
        for event in given:
            producer.publish(event, metadata={"k": "v"})
    many: Any = client.xrange(stream)
    alone: Any = client.xrange("alone")
    assert [fields for _, fields in many] == [fields for _, fields in alone]


def test_many_more_than_fit_in_a_frame_keep_their_order(any_server: Server, stream: str) -> None:
    with Producer(any_server.url, stream) as producer:
        assert producer.publish_many(iter(orders(25_000))) == 25_000
    frame = redfloe.read_stream(any_server.url, stream, {"order_id": int})
    assert frame["order_id"].to_list() == [*range(1, 25_001)]


@pytest.mark.parametrize(
    "to",
    [
        {OrderPlaced: "placed", "OrderPaid": b"paid"},
        lambda message: "placed" if message.type == "OrderPlaced" else "paid",
    ],
    ids=["mapping", "function"],
)
def test_the_type_says_which_stream(any_server: Server, client: redis.Redis, to: Any) -> None:
    with Producer(any_server.url, to) as producer:
        producer.publish(OrderPlaced(order_id=1))
        producer.publish_many([OrderPaid(order_id=1), OrderPlaced(order_id=2)])
        producer.publish(OrderPaid(order_id=2), stream="elsewhere")
        if isinstance(to, dict):
            with pytest.raises(ValueError, match="no stream for the type 'note'; add it, or name"):
                producer.publish(Message("note"))
    assert [client.xlen(key) for key in ("placed", "paid", "elsewhere")] == [2, 1, 1]
    with Producer(any_server.url) as producer, pytest.raises(ValueError, match="name the stream"):
        producer.publish(OrderPlaced(order_id=1))


def test_retention(any_server: Server, client: redis.Redis, stream: str) -> None:
    with Producer(any_server.url, stream, maxlen=2, approximate=False) as producer:
        producer.publish_many(orders(5))
        producer.publish(OrderPlaced(order_id=6))
    assert client.xlen(stream) == 2
    add_numbers(client, "aged", 500)
    with Producer(any_server.url, "aged", max_age=60) as producer:
        producer.publish(OrderPlaced(order_id=1))
    assert client.xlen("aged") <= 101  # whole nodes of a hundred are trimmed


def test_what_has_no_text_is_refused_and_the_producer_goes_on(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Producer(any_server.url, stream) as producer:
        for payload, wrong in (
            ({"a": object()}, "'a' has a object, for which there is no one text"),
            ({"_type": "x"}, "a field '_type', which is what entries and reads call metadata"),
            ({"_id": "1-0"}, "a field '_id'"),
        ):
            with pytest.raises((TypeError, ValueError), match=wrong):
                producer.publish(payload)
            with pytest.raises((TypeError, ValueError), match=wrong):
                producer.publish_many([payload])
        with pytest.raises(TypeError, match="no model: pass a pydantic model"):
            producer.publish(3)
        producer.publish(OrderPlaced(order_id=1))
    assert client.xlen(stream) == 1
    with pytest.raises(ValueError, match="the producer is closed"):
        producer.publish(OrderPlaced(order_id=2))


def test_what_the_server_refuses_fails_one_call(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.set("text", "x")
    with Producer(any_server.url, stream) as producer:
        for publish in (
            lambda: producer.publish(OrderPlaced(order_id=1), stream="text"),
            lambda: producer.publish_many(orders(3), stream="text"),
        ):
            with pytest.raises(RedfloeError, match="text"):
                publish()
            producer.publish(OrderPlaced(order_id=1))
    assert client.xlen(stream) == 2


def test_many_threads_share_a_producer(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    ids: list[str] = []
    with Producer(any_server.url, stream) as producer:

        def publish() -> None:
            ids.extend(producer.publish(order) for order in orders(50))

        threads = [threading.Thread(target=publish) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(ids) == sorted(entry_id for entry_id, _ in entries(client, stream))
    assert len(ids) == 400


def test_in_an_event_loop(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def main() -> list[str]:
        async with Producer(any_server.url, stream) as producer:
            ids = await asyncio.gather(*map(producer.publish, orders(20)))
            assert await producer.publish_many(orders(5)) == 5
            with pytest.raises(ValueError, match="name the stream"):
                await AsyncProducer(Producer(any_server.url)).publish({"a": 1})
        kept = AsyncProducer(Producer(any_server.url, stream))
        ids.append(await kept.publish({"a": 1}))
        await kept.close()
        with pytest.raises(ValueError, match="closed"):
            await kept.publish({"a": 1})
        return ids

    ids = runner.run(main())
    assert len({*ids}) == 21
    assert client.xlen(stream) == 26


def test_a_producer_outlives_its_server(own: Server, stream: str) -> None:
    connection = redfloe.RedisConnection(own.url, max_retries=1, retry_base_delay=0.01)
    with Producer(connection, stream) as producer:
        producer.publish(OrderPlaced(order_id=1))
        own.kill()
        with pytest.raises(RedfloeError):
            producer.publish(OrderPlaced(order_id=2))
        own.start()
        deadline = time.monotonic() + 10
        while True:
            try:
                producer.publish(OrderPlaced(order_id=3))
            except RedfloeError:
                assert time.monotonic() < deadline
            else:
                break
    frame = redfloe.read_stream(own.url, stream, {"order_id": int})
    assert 3 in frame["order_id"].to_list()


def test_idempotent_names_the_producer(redis810: Server, client: redis.Redis, stream: str) -> None:
    with Producer(redis810.url, stream, idempotent="me") as producer:
        producer.publish(OrderPlaced(order_id=1))
        producer.publish_many(orders(3))
    assert client.xlen(stream) == 4
    info: Any = client.execute_command("XINFO", "STREAM", stream)
    assert b"me" in str(info).encode() or "pids-tracked" in str(info)


def test_foreign_layouts_are_what_their_libraries_write(
    any_server: Server, client: redis.Redis
) -> None:
    with Producer(any_server.url, "quickstart", codec="json") as producer:
        producer.publish(Message("price.update", {"symbol": "AAPL", "price": 150.25}, {"s": "f"}))
    with Producer(
        any_server.url, "dtpyfw", codec=JsonCodec(type="name", payload="body", metadata=None)
    ) as producer:
        producer.publish_many([Message("user.created", {"user_id": 123})])
    assert [fields for _, fields in entries(client, "quickstart")] == [
        {
            "event_type": "price.update",
            "payload": '{"symbol":"AAPL","price":150.25}',
            "metadata": '{"s": "f"}',
        }
    ]
    assert [fields for _, fields in entries(client, "dtpyfw")] == [
        {"name": "user.created", "body": '{"user_id":123}'}
    ]
    with Producer(any_server.url, "natricine", codec=NatricineCodec()) as producer:
        producer.publish(OrderPlaced(order_id=1), metadata={"a": "b"})
        with pytest.raises(TypeError, match="metadata are texts, and 'a' is a int"):
            producer.publish(OrderPlaced(order_id=1), metadata={"a": 1})
    found: Any = client.xrange("natricine")
    fields = found[0][1]
    assert json.loads(fields[b"payload"]) == {"order_id": 1, "total": "9.90"}
    assert fields[b"metadata"] == b"\x81\xa1a\xa1b"
    assert len(fields[b"_natricine_message_uuid"]) == 36
    with Producer(any_server.url, "faststream", codec=FastStreamCodec()) as producer:
        with pytest.raises(TypeError, match="read only"):
            producer.publish(OrderPlaced(order_id=1))
    with pytest.raises(ValueError, match="codec must be one of 'row', 'json', 'natricine'"):
        Producer(any_server.url, codec="avro")  # type: ignore[arg-type]


def test_messages() -> None:
    message = Message("a", {"n": 1})
    assert message == Message("a", {"n": 1})
    assert message != Message("b", {"n": 1})
    assert (message.id, message.time, message.delivery_count) == (None, None, 0)
    assert repr(message) == "<Message 'a'>"
    for settle in (message.ack, message.nack, message.extend):
        with pytest.raises(RuntimeError, match="only a message that an app gave to a handler"):
            settle()
    with pytest.raises(TypeError, match="unhashable"):
        hash(message)
