"""`on_group_lost="recreate"`: what a new group brings, and what of a stream written again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from redfloe import AsyncBatch, Batch, RedisConnection, StreamConsumer
from support.consumers import SHY, dead_ids
from support.groups import DRAIN, ME, pending
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import eventually, later

pytestmark = pytest.mark.timeout(20)

RECREATE: dict[str, Any] = {"on_group_lost": "recreate", **SHY, **ME}
#: What a worker can do with the first row of a batch other than be done with it.
UNDONE = pytest.mark.parametrize("how", ["nack", "leave", "in hand"])


def worker(server: Server, stream: str, how: str, **options: Any) -> StreamConsumer:
    options = {**DRAIN, **RECREATE, **({"ack": "manual"} if how == "in hand" else {}), **options}
    return StreamConsumer(server.url, stream, schema=NUMBER, **options)


def keep_back(batch: Batch, how: str) -> None:
    """Be done with all rows of a batch but the first."""
    if how == "nack":
        batch.nack(batch.ids[:1], delay_ms=5_000)
    elif how == "leave":
        (batch if len(batch) == 1 else batch.halves()[0]).leave()
    elif len(batch) > 1:
        batch.ack(batch.ids[1:])


@UNDONE
def test_a_stream_written_again_is_read_from_its_start_whatever_was_undone(
    server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    """The new entries are not those of the same IDs that were done with, or are in hand."""
    add_numbers(client, stream, 4)
    with worker(server, stream, how, batch_size=2) as consumer:
        keep_back(next(consumer), how)
        second = next(consumer)
        if how == "in hand":
            second.ack()
        client.delete(stream)
        add_numbers(client, stream, 3)
        came = []
        for batch in consumer:
            came += batch.frame["n"].to_list()
            assert set(batch.frame["n"]) <= set(pending(client, stream))
            if how == "in hand":
                batch.ack()
        assert came == [1, 2, 3]
    assert pending(client, stream) == []


@pytest.mark.parametrize("how", ["nack", "leave"])
@pytest.mark.slow
def test_what_was_given_back_survives_the_loss_of_two_groups(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    add_numbers(client, stream, 6)
    with worker(any_server, stream, how, batch_size=1) as consumer:
        assert next(consumer).ids.to_list() == ["1-0"]
        for _ in range(2):
            keep_back(next(consumer), how)
        assert next(consumer).ids.to_list() == ["4-0"]
        came = []
        for _ in range(3):
            client.xgroup_destroy(stream, "g")
            came += next(consumer).ids.to_list()
        came += [entry for batch in consumer for entry in batch.ids]
        assert came == ["2-0", "3-0", "5-0", "6-0"]
    assert pending(client, stream) == []


@pytest.mark.parametrize("deletes", [False, True])
def test_a_group_that_starts_later_still_does_when_it_is_lost(
    any_server: Server, client: redis.Redis, stream: str, deletes: bool
) -> None:
    """`group_start_id` is no position: the stream's end before it does not mean another stream."""
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"group_start_id": "100-0", "on_idle": "wait", "block_ms": 50}
    with worker(any_server, stream, "", **options) as consumer:

        def lose() -> None:
            client.xgroup_destroy(stream, "g")
            if deletes:
                client.delete(stream)
            add_numbers(client, stream, 5, first=4)

        def go_on() -> None:
            add_numbers(client, stream, 101, first=101)

        with later(0.2, lose), later(0.5, go_on):
            assert next(consumer).ids.to_list() == ["101-0"]


#: What a user may not ask: the last ID of a stream, and its newest entry either.
MAY_NOT_ASK = pytest.mark.parametrize("denied", [["-xinfo"], ["-xinfo", "-xrevrange"]])


@contextmanager
def limited(
    server: Server, client: redis.Redis, stream: str, denied: list[str], **options: Any
) -> Iterator[StreamConsumer]:
    rules: dict[str, Any] = {"enabled": True, "nopass": True, "keys": ["*"]}
    client.acl_setuser("limited", categories=["+@all"], commands=denied, **rules)
    try:
        url = RedisConnection(server.url, username="limited", password="x")
        options = {**DRAIN, **RECREATE, "batch_size": 2, **options}
        with StreamConsumer(url, stream, schema=NUMBER, **options) as consumer:
            yield consumer
    finally:
        client.acl_deluser("limited")


@MAY_NOT_ASK
@pytest.mark.parametrize("deletes", [False, True])
def test_who_may_not_ask_for_the_end_goes_on_in_the_same_stream(
    any_server: Server, client: redis.Redis, stream: str, denied: list[str], deletes: bool
) -> None:
    """What was done with does not come again, whether or not the newest entry was deleted."""
    add_numbers(client, stream, 4)
    with limited(any_server, client, stream, denied) as consumer:
        for _ in range(2):
            next(consumer)
        if deletes:
            client.xdel(stream, "4-0")
        else:
            add_numbers(client, stream, 6, first=5)
        client.xgroup_destroy(stream, "g")
        came = [entry for batch in consumer for entry in batch.ids]
    assert came == ([] if deletes else ["5-0", "6-0"])
    assert pending(client, stream) == []


@MAY_NOT_ASK
def test_who_may_not_ask_for_the_end_notices_that_the_stream_is_gone(
    any_server: Server, client: redis.Redis, stream: str, denied: list[str]
) -> None:
    """Its group begins at the start of the stream that takes the place of the one before."""
    add_numbers(client, stream, 4)
    wait: dict[str, Any] = {"on_idle": "wait", "block_ms": 20}
    with limited(any_server, client, stream, denied, **wait) as consumer:
        for _ in range(2):
            next(consumer)
        client.delete(stream)

        def write_again() -> None:
            eventually(lambda: client.exists(stream) == 1)  # with its group
            add_numbers(client, stream, 2)

        with later(0.0, write_again):
            assert next(consumer).ids.to_list()[0] == "1-0"


def test_a_batch_of_a_stream_that_was_replaced_is_acknowledged_late(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Its IDs are no position in the new stream, whose group may get lost too."""
    add_numbers(client, stream, 4)
    wait: dict[str, Any] = {"on_idle": "wait", "block_ms": 20}
    with worker(any_server, stream, "in hand", **wait) as consumer:
        late = next(consumer)
        client.delete(stream)
        add_numbers(client, stream, 2)
        batch = next(consumer)
        assert batch.ids.to_list() == ["1-0", "2-0"]
        batch.ack()
        late.ack(["3-0", "4-0"])
        client.xgroup_destroy(stream, "g")
        add_numbers(client, stream, 5, first=3)
        assert next(consumer).ids.to_list() == ["3-0", "4-0", "5-0"]


@pytest.mark.parametrize("is_async", [False, True])
def test_run_goes_on_where_the_group_is_lost_before_a_dead_letter(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    """Its entry comes again, and then becomes a dead letter, once."""
    add_numbers(client, stream, 3)
    calls: list[list[int]] = []

    def handle(batch: Batch | AsyncBatch) -> None:
        calls.append(batch.frame["n"].to_list())
        if len(calls) == 1:
            client.xgroup_destroy(stream, "g")
        if 2 in calls[-1]:
            raise ValueError

    async def handle_async(batch: AsyncBatch) -> None:
        handle(batch)

    consumer = worker(any_server, stream, "", dead_letter="dead")
    if is_async:
        asyncio.run(consumer.run_async(handle_async, attempts=1))
    else:
        consumer.run(handle, attempts=1)
    assert [call for call in calls if len(call) == 1] == [[1], [2], [3], [2]]
    assert dead_ids(client, "dead") == ["2-0"]
    assert pending(client, stream) == []


def test_what_could_not_become_a_dead_letter_of_a_lost_group_does_later(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """What does not fit is not done with where its group is lost before it is moved."""
    add_numbers(client, stream, 3)
    client.xadd(stream, {"n": "x"}, id="4-0")
    with Proxy(any_server.port) as proxy:
        lost: list[str] = []

        def lose(_: object) -> None:
            if not lost:
                lost.append("g")
                client.xgroup_destroy(stream, "g")

        proxy.before(b"EVAL", lose)
        options: dict[str, Any] = {**DRAIN, **RECREATE, "dead_letter": "dead"}
        with StreamConsumer(proxy.url, stream, schema=NUMBER, **options) as consumer:
            came = [batch.frame["n"].to_list() for batch in consumer]
    assert (lost, came) == (["g"], [[1, 2, 3]])
    assert dead_ids(client, "dead") == ["4-0"]
    assert pending(client, stream) == []
