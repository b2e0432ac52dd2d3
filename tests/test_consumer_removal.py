"""Consumers that `StreamConsumer` removes from its group: itself, and those long gone."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
import redis

from redfloe import AuthenticationError, StreamConsumer
from support.consumers import EAGER, SHY, World, all_rows
from support.groups import DRAIN, ME, deliver, pending
from support.secrets import PASSWORD, with_password
from support.server import Server
from support.streams import add_numbers
from support.timing import eventually

pytestmark = pytest.mark.timeout(20)

LEAVES: dict[str, Any] = {"remove_consumer": "on_close", **ME, **DRAIN}


def consumers(client: redis.Redis, stream: str) -> list[str]:
    """List the names of the group's consumers."""
    found: Any = client.xinfo_consumers(stream, "g")
    return sorted(one["name"].decode() for one in found)


def test_a_worker_removes_itself_at_its_clean_end(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 5)
    with world.consumer(server.url, stream, batch_size=2, **LEAVES) as consumer:
        assert all_rows(consumer) == [1, 2, 3, 4, 5]
        assert consumers(client, stream) == ["me"]
    assert consumers(client, stream) == []
    assert pending(client, stream) == []
    # It may come back.
    add_numbers(client, stream, 6, first=6)
    with world.consumer(server.url, stream, **LEAVES) as consumer:
        assert all_rows(consumer) == [6]
    assert consumers(client, stream) == []


def test_a_worker_with_pending_entries_stays(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(server.url, stream, **SHY, **LEAVES) as consumer:
        for batch in consumer:
            batch.halves()[0].leave()
    assert pending(client, stream, "me") == [1]
    with world.consumer(server.url, stream, **SHY, **LEAVES) as consumer:
        assert all_rows(consumer) == [1]
    assert consumers(client, stream) == []


def test_a_worker_that_fails_or_is_not_asked_stays(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)

    def fail() -> None:
        with world.consumer(any_server.url, stream, **LEAVES) as consumer:
            assert all_rows(consumer) == [1, 2, 3]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert consumers(client, stream) == ["me"]
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        assert all_rows(consumer) == []
    assert consumers(client, stream) == ["me"]
    # One whose group is gone has nothing to remove.
    with world.consumer(any_server.url, stream, ack="manual", **LEAVES):
        client.xgroup_destroy(stream, "g")


def test_a_worker_removes_those_that_are_long_gone(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 4)
    deliver(client, stream, 1, "empty")
    client.xack(stream, "g", "1-0")
    deliver(client, stream, 1, "busy")
    found: list[Any] = []

    def idle() -> bool:
        found[:] = client.xinfo_consumers(stream, "g")
        return all(one["idle"] >= 300 for one in found)

    eventually(idle)
    options: dict[str, Any] = {**SHY, **ME, **DRAIN}
    long = dt.timedelta(days=1)
    for limit, left in [(None, 3), (long, 3), (300, 2)]:
        deliver(client, stream, 1, "fresh")
        client.xack(stream, "g", "3-0")
        with world.consumer(
            server.url, stream, remove_idle_consumers_ms=limit, **options
        ) as consumer:
            all_rows(consumer)
        names = consumers(client, stream)
        assert len(set(names) - {"me"}) == left
    assert {"busy", "me"} <= set(names)
    assert "empty" not in names
    assert pending(client, stream, "busy") == [2]


def test_a_group_that_is_yet_to_be_created(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    options: dict[str, Any] = {"remove_idle_consumers_ms": 0, **LEAVES}
    with world.consumer(any_server.url, stream, **options) as consumer:
        assert all_rows(consumer) == [1, 2]
    assert consumers(client, stream) == []


def test_what_one_removes_another_may_still_claim(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """No entry goes with a consumer."""
    add_numbers(client, stream, 3)
    deliver(client, stream, 3, "gone")
    options: dict[str, Any] = {"remove_idle_consumers_ms": 0, **EAGER, **LEAVES}
    with world.consumer(any_server.url, stream, **options) as consumer:
        assert sorted(all_rows(consumer)) == [1, 2, 3]
    assert consumers(client, stream) == ["gone"]


def test_a_user_without_the_permission(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    client.execute_command(
        "ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", "~*", "+@all", "-eval"
    )
    url = with_password(any_server.url, user="clerk")
    try:
        consumer = world.consumer(url, stream, **LEAVES)
        with pytest.raises(AuthenticationError, match="eval"), consumer:
            assert all_rows(consumer) == [1]
    finally:
        client.execute_command("ACL", "DELUSER", "clerk")
    assert pending(client, stream) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({**ME, "remove_consumer": True}, ValueError),
        ({**ME, "remove_consumer": "always"}, ValueError),
        ({"remove_consumer": "on_close"}, ValueError),
        ({"remove_idle_consumers_ms": 5}, ValueError),
        ({**ME, "remove_idle_consumers_ms": -1}, ValueError),
        ({**ME, "remove_idle_consumers_ms": "1h"}, TypeError),
    ],
    ids=str,
)
def test_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="remove_"):
        StreamConsumer("redis://localhost", "s", **options)
