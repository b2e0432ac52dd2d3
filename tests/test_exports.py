"""An export of one day: `StreamConsumer` with an `end_id`, and what its checkpoint says."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from redfloe import FileCheckpointStore, MemoryCheckpointStore, StreamConsumer
from support.consumers import World, all_rows, rows
from support.groups import ME
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import later, within

DAY = 24 * 60 * 60 * 1000


def test_an_export_of_one_day_ends_by_itself(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    first = 1_700_000_000_000
    for number, ms in enumerate((first, first + DAY - 1, first + DAY, first + 2 * DAY)):
        client.xadd(stream, {"n": number}, id=f"{ms}-0")
    store = MemoryCheckpointStore()
    start = datetime.fromtimestamp(first / 1000, UTC)
    end = datetime.fromtimestamp((first + DAY - 1) / 1000, UTC)
    with (
        within(2),
        world.consumer(
            any_server.url, stream, start_id=start, end_id=end, checkpoint_store=store
        ) as consumer,
    ):
        assert all_rows(consumer) == [0, 1]
    assert store.load(stream) == f"{first + DAY - 1}-0"


def test_its_checkpoint_says_exactly_what_has_been_handled(
    any_server: Server, client: redis.Redis, stream: str, world: World, tmp_path: Any
) -> None:
    add_numbers(client, stream, 20)
    store = FileCheckpointStore(tmp_path)
    options = {"end_id": "10-0", "batch_size": 3, "checkpoint_store": store}
    handled: list[int] = []

    class KilledError(Exception):
        pass

    def work() -> None:
        nonlocal handled
        with world.consumer(any_server.url, stream, **options) as consumer:
            handled += rows(next(consumer))
            next(consumer)  # in hand when it fails
            raise KilledError

    for times in range(2):
        with pytest.raises(KilledError):
            work()
        assert store.load(stream) == f"{3 * (times + 1)}-0"
        assert handled[-1] == 3 * (times + 1)
    with world.consumer(any_server.url, stream, **options) as consumer:
        handled += all_rows(consumer)
    assert handled == [*range(1, 11)]
    assert store.load(stream) == "10-0"
    # Run once more it is at its end, whatever has become of the stream since.
    client.xtrim(stream, minid="15-0", approximate=False)
    with world.consumer(any_server.url, stream, **options) as consumer:
        assert all_rows(consumer) == []
    assert store.load(stream) == "10-0"


def test_an_end_that_is_yet_to_come_is_waited_for(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    more = later(0.2, lambda: add_numbers(client, stream, 7, first=3))
    with (
        within(2),
        more,
        world.consumer(any_server.url, stream, end_id="5-0", block_ms=20) as consumer,
    ):
        assert all_rows(consumer) == [1, 2, 3, 4, 5]


def test_the_end_may_be_exclusive(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 5)
    with StreamConsumer(any_server.url, stream, schema=NUMBER, end_id="(3-0") as consumer:
        assert all_rows(consumer) == [1, 2]


def test_a_group_has_no_end() -> None:
    with pytest.raises(ValueError, match='on_idle="stop"'):
        StreamConsumer("redis://localhost", "s", end_id="5-0", **ME)
    StreamConsumer("redis://localhost", "s", end_id="+", **ME)
