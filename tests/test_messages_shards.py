"""Apps of messages take the name of a sharded stream, whose shards have entries of the same ID."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
import redis
from pydantic import BaseModel

import redfloe
from redfloe.messages import App, Message, Retry
from support.server import Server

USERS = 10


class Hit(BaseModel):
    user: str
    n: int


@pytest.fixture
def hits(any_server: Server, stream: str) -> str:
    """Give a sharded stream of forty events."""
    return published(any_server, stream, 40)


def published(server: Server, stream: str, number: int) -> str:
    users = [f"user-{n % USERS}" for n in range(number)]
    frame = pl.DataFrame({"_type": ["Hit"] * number, "user": users, "n": range(number)})
    # In one step, so that entries of several shards have one ID.
    redfloe.write_stream(server.url, frame, stream, shards=4, shard_by="user")
    return stream


def still_pending(client: redis.Redis, stream: str) -> int:
    keys: Any = client.keys(f"{stream}:{{*")
    return sum(int(client.xpending(key, "g")["pending"]) for key in keys)


@pytest.mark.parametrize("way", ["async", "sync", "columns"])
def test_each_event_is_handled_and_acknowledged(
    any_server: Server, client: redis.Redis, hits: str, way: str
) -> None:
    app = App(any_server.url, group="g", consumer="c", batch_size=16)
    got: list[int] = []
    if way == "async":

        @app.on(hits, Hit)
        async def handle(event: Hit) -> None:
            await asyncio.sleep(0)
            got.append(event.n)

    elif way == "sync":

        @app.on(hits, Hit)
        def handle_in_thread(event: Hit) -> None:
            got.append(event.n)

    else:

        @app.on_batch(hits, Hit)
        def load(frame: pl.DataFrame) -> None:
            got.extend(frame["n"])

    drained = app.drain()
    assert sorted(got) == [*range(40)]
    entries = {(message.stream, message.id) for message in drained.handled}
    assert len(entries) == 40 > len({entry_id for _, entry_id in entries})
    assert still_pending(client, hits) == 0
    published(any_server, hits, 8)  # and again, as its shards are known
    app.drain()
    assert len(got) == 48


def test_what_becomes_of_each_event_is_its_own(
    any_server: Server, client: redis.Redis, hits: str
) -> None:
    """One of another shard has its ID, and another end."""
    dead = f"{hits}:dead"
    app = App(any_server.url, group="g", consumer="c", dead_letter=dead, retry=Retry(attempts=1))
    calls: dict[int, int] = defaultdict(int)

    @app.on(hits, Hit)
    async def handle(message: Message, event: Hit) -> None:
        calls[event.n] += 1
        match event.n % 4:
            case 1:
                message.ack()
            case 2 if message.delivery_count == 1:
                message.nack(delay=0)
            case 3:
                message.fail(f"no {event.n}")

    drained = app.drain()
    letters = redfloe.read_dead_letters(any_server.url, dead, {"n": pl.Int64})
    assert sorted(letters["n"]) == [n for n in range(40) if n % 4 == 3]
    assert letters["_dead_reason"].to_list() == [f"no {n}" for n in letters["n"]]
    assert calls == {n: 2 if n % 4 == 2 else 1 for n in range(40)}
    assert sorted(message.event.n for message in drained.handled) == [
        n for n in range(40) if n % 4 != 3
    ]
    assert still_pending(client, hits) == 0


def test_events_of_a_user_stay_in_order_and_apps_share_the_shards(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    hits = published(any_server, stream, 400)
    got: list[tuple[str, str, int]] = []

    def run(name: str) -> None:
        app = App(any_server.url, group="g", consumer=name, batch_size=10, concurrency=4)

        @app.on(hits, Hit, key="user")
        async def handle(event: Hit) -> None:
            await asyncio.sleep(0.001)
            got.append((name, event.user, event.n))

        app.drain()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ["a", "b"]))
    assert sorted(n for _, _, n in got) == [*range(400)]
    for name in ("a", "b"):
        of_one = defaultdict(list)
        for who, user, n in got:
            if who == name:
                of_one[user].append(n)
        assert all(numbers == sorted(numbers) for numbers in of_one.values())
    assert still_pending(client, hits) == 0


def test_handlers_with_a_transaction_are_for_a_processor(any_server: Server, hits: str) -> None:
    app = App(any_server.url, group="g", consumer="totals")
    app.on(hits, Hit, exactly_once=True)(lambda event: None)
    with pytest.raises(ValueError, match="group cannot be used with a sharded stream"):
        app.drain()


def test_what_is_neither_is_still_refused(any_server: Server, client: redis.Redis) -> None:
    client.hset("plain", mapping={"a": "b"})
    app = App(any_server.url, group="g")
    app.on("plain", Hit)(lambda event: None)
    with pytest.raises(redfloe.WrongTypeError):
        app.drain()
