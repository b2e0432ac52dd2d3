"""Streams of a pattern that go, or are others than before, while a worker reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from redfloe import StreamConsumer, WrongTypeError
from support.consumers import SHY, World, letters
from support.groups import DRAIN, ME, all_pending, deliver
from support.server import Server
from support.streams import NUMBER, fill, pairs
from support.timing import later

pytestmark = pytest.mark.timeout(20)


def replace(client: redis.Redis, stream: str, *ns: int) -> None:
    """Delete a stream and write it again, in one step."""
    pipeline = client.pipeline(transaction=True)
    pipeline.delete(stream)
    for n in ns:
        pipeline.xadd(stream, {"n": n}, id=f"{n}-0")
    pipeline.execute()


def unread(client: redis.Redis) -> None:
    """Leave it all to this worker."""


def by_another(client: redis.Redis) -> None:
    deliver(client, "s:b", consumer="other")
    client.xack("s:b", "g", "10-0", "11-0")


def at_the_end(client: redis.Redis) -> None:
    client.xgroup_create("s:b", "g", "$")


def trimmed(client: redis.Redis) -> None:
    client.xtrim("s:b", maxlen=0, approximate=False)


@pytest.mark.parametrize("most", [None, 1], ids=["any deliveries", "one delivery"])
@pytest.mark.parametrize("new", [[5], [11], [15], [15, 16, 17]], ids=str)
@pytest.mark.parametrize("before", [unread, by_another, at_the_end, trimmed])
def test_a_stream_that_takes_the_place_of_one_that_others_have_read(
    any_server: Server,
    client: redis.Redis,
    before: Callable[[redis.Redis], None],
    new: list[int],
    most: int | None,
) -> None:
    """Whoever has read it, and whatever the new one's IDs are."""
    fill(client, {"s:a": [10, 11], "s:b": [10, 11]})
    before(client)
    options: dict[str, Any] = {"pattern": "s:*", "discover_ms": 60_000, "block_ms": 300, **ME}
    options |= {"max_deliveries": most, "dead_letter": "dead"} if most else {}
    read = 4 if before is unread else 2
    with StreamConsumer(any_server.url, schema=NUMBER, **SHY, **options) as consumer:
        rows = 0
        while rows < read:
            rows += len(next(consumer))
        with later(0.1, lambda: replace(client, "s:b", *new)):
            got: list[tuple[str, int]] = []
            while len(got) < len(new):
                got += pairs(next(consumer).frame)
        assert got == [("s:b", n) for n in new]
        fill(client, {"s:a": [20], "s:b": [20]})
        got = []
        while len(got) < 2:
            got += pairs(next(consumer).frame)
        assert sorted(got) == [("s:a", 20), ("s:b", 20)]
    assert letters(client, "dead") == []


def deleted(client: redis.Redis) -> None:
    client.delete("s:b")


def of_another_type(client: redis.Redis) -> None:
    client.delete("s:b")
    client.set("s:b", 1)


def begun_anew(client: redis.Redis) -> None:
    replace(client, "s:b", 5)


@pytest.mark.parametrize("most", [None, 1, 3])
@pytest.mark.parametrize("change", [deleted, of_another_type, begun_anew])
def test_what_cannot_be_processed_of_a_stream_that_is_gone_is_left_out(
    any_server: Server,
    client: redis.Redis,
    world: World,
    change: Callable[[redis.Redis], None],
    most: int | None,
) -> None:
    """There is nothing to be moved to the dead letters; the other streams go on."""
    streams = ["s:a", "s:b", "s:c"]
    fill(client, {stream: [10, 11] for stream in streams})
    done: list[tuple[str, int]] = []

    def handle(rows: list[tuple[str, int]]) -> None:
        if any(stream == "s:b" and n > 5 for stream, n in rows):
            change(client)
            message = "boom"
            raise ValueError(message)
        done.extend(rows)

    async def handle_async(batch: Any) -> None:
        handle(pairs(batch.frame))

    options: dict[str, Any] = {"pattern": "s:*", "discover_ms": 200, "dead_letter": "dead"}
    options |= {"max_deliveries": most, "schema": NUMBER, "block_ms": 200, **ME, **SHY}
    consumer = StreamConsumer(any_server.url, on_idle="stop", **options)
    if world.runner is None:
        consumer.run(lambda batch: handle(pairs(batch.frame)), attempts=1)
    else:
        world.runner.run(consumer.run_async(handle_async, attempts=1))
    assert {(stream, n) for stream in ("s:a", "s:c") for n in (10, 11)} <= {
        *done,
        *((letter[b"_dead_stream"].decode(), int(letter[b"n"])) for letter in letters(client)),
    }
    assert all_pending(client, ["s:a", "s:c"]) == {}


@pytest.mark.parametrize("most", [None, 1, 3])
@pytest.mark.parametrize("change", [deleted, of_another_type, begun_anew])
def test_what_does_not_fit_in_a_stream_that_is_gone_is_left_out(
    any_server: Server,
    client: redis.Redis,
    change: Callable[[redis.Redis], None],
    most: int | None,
) -> None:
    fill(client, {"s:a": [10, 11], "s:c": [10, 11]})
    for n in (10, 11):
        client.xadd("s:b", {"n": "bad"}, id=f"{n}-0")
    options: dict[str, Any] = {"pattern": "s:*", "discover_ms": 200, "dead_letter": "dead"}
    options |= {"max_deliveries": most, "schema": NUMBER, "batch_size": 1, **ME, **SHY}
    options |= {"on_idle": "stop", "block_ms": 300}
    got: list[tuple[str, int]] = []
    with StreamConsumer(any_server.url, **options) as consumer:
        for batch in consumer:
            if not got:
                change(client)
            got += pairs(batch.frame)
    assert sorted(row for row in got if row[0] != "s:b") == [
        (stream, n) for stream in ("s:a", "s:c") for n in (10, 11)
    ]
    assert all_pending(client, ["s:a", "s:c"]) == {}


def test_a_source_that_is_no_stream_any_more_is_not_taken_for_the_dead_letters(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"s:b": [10]})
    options: dict[str, Any] = {"dead_letter": "dead", "ack": "manual", **ME, **SHY, **DRAIN}
    with world.consumer(any_server.url, "s:b", **options) as consumer:
        batch = next(consumer)
        of_another_type(client)
        with pytest.raises(WrongTypeError, match=r"stream .dead.: .s:b. is no stream any more"):
            world.do(batch.fail(["10-0"], "broken"))
