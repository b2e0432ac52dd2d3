"""Dead letters: what they say, entries of any size, and those that cannot be moved."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from redfloe import (
    AuthenticationError,
    RedfloeError,
    RedisConnection,
    ResponseError,
    StreamConsumer,
    WrongTypeError,
)
from support.consumers import SHY, World, all_rows, dead_ids, letters, rows
from support.groups import DRAIN, ME, deliver, pending
from support.proxy import Proxy
from support.secrets import PASSWORD, with_password
from support.server import Server
from support.streams import NUMBER, add_numbers, add_raw

pytestmark = pytest.mark.timeout(20)

DEAD: dict[str, Any] = {"dead_letter": "dead"}


def parts_of(client: redis.Redis, stream: str) -> list[list[bytes]]:
    """List the names and values of entries, of which redis-py would make a dict."""
    found: Any = client.eval("return redis.call('XRANGE', KEYS[1], '-', '+')", 1, stream)
    return [parts for _, parts in found]


def add_wide(client: redis.Redis, stream: str, number: int, fields: int, n: object) -> list[bytes]:
    """Add an entry of many fields; give its names and values."""
    parts = [b"n", str(n).encode()]
    for field in range(1, fields):
        parts += [b"f%d" % field, b"v%d" % field]
    add_raw(client, stream, f"{number}-0", *parts)
    return parts


@pytest.mark.parametrize("fields", [3_950, 3_951, 4_000, 20_000])
def test_an_entry_of_very_many_fields_is_moved(
    server: Server, client: redis.Redis, stream: str, world: World, fields: int
) -> None:
    """Lua passes no more than 8,000 arguments on."""
    add_numbers(client, stream, 1)
    wide = add_wide(client, stream, 2, fields, "x")
    add_numbers(client, stream, 3, first=3)
    with world.consumer(server.url, stream, **DEAD, **ME, **DRAIN) as consumer:
        assert all_rows(consumer) == [1, 3]
    assert pending(client, stream) == []
    [parts] = parts_of(client, "dead")
    assert parts[: 2 * fields] == wide
    story = dict(zip(parts[2 * fields :: 2], parts[2 * fields + 1 :: 2], strict=True))
    assert story.pop(b"_dead_time").isdigit()
    assert story.pop(b"_dead_reason") == b'"x" is not an integer (field: n, dtype: Int64)'
    assert story == {
        b"_dead_stream": stream.encode(),
        b"_dead_id": b"2-0",
        b"_dead_group": b"g",
        b"_dead_consumer": b"me",
        b"_dead_deliveries": b"1",
    }
    assert consumer.stats.dead_lettered == 1


def test_wide_and_narrow_entries_are_moved_together(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    for number in range(1, 7):
        add_wide(client, stream, number, 5_000 if number % 2 else 2, number)
    with world.consumer(any_server.url, stream, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        assert world.do(batch.fail(["1-0", "2-0", "3-0", "5-0"], "why")) == 4
        assert world.do(batch.fail(["1-0", "2-0"], "again")) == 0
        assert pending(client, stream) == [4, 6]
    assert sorted(dead_ids(client)) == ["1-0", "2-0", "3-0", "5-0"]
    assert {letter[b"_dead_reason"] for letter in letters(client)} == {b"why"}
    assert consumer.stats.dead_lettered == 4


@pytest.mark.parametrize("skip", [0, 1])
@pytest.mark.parametrize("lost", [b"EVAL", b"EXEC"])
def test_a_wide_entry_whose_reply_is_lost_is_moved_once(
    any_server: Server, client: redis.Redis, stream: str, world: World, lost: bytes, skip: int
) -> None:
    add_wide(client, stream, 1, 4_500, 1)
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **DEAD, **ME, **DRAIN) as consumer:
            batch = next(consumer)
            proxy.cut_after(0, once_seen=lost, skip=skip)
            assert world.do(batch.fail("1-0", "why")) == 1
            assert consumer.stats.dead_lettered == 1
    assert dead_ids(client) == ["1-0"]
    assert pending(client, stream) == []


def test_a_repeated_move_counts_no_letter_of_before(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 4)
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **DEAD, **ME, **DRAIN) as consumer:
            batch = next(consumer)
            assert world.do(batch.fail("1-0", "why")) == 1
            time.sleep(0.3)
            proxy.cut_after(0, once_seen=b"EVAL")
            # Of these two were moved by the attempt whose reply is lost, and one before.
            assert world.do(batch.fail(["1-0", "2-0", "3-0"], "why")) == 2
            assert consumer.stats.dead_lettered == 3
    assert sorted(dead_ids(client)) == ["1-0", "2-0", "3-0"]


def test_moves_of_several_threads_are_counted_apart(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 40)
    with StreamConsumer(any_server.url, stream, schema=NUMBER, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        ids = batch.ids.to_list()
        with ThreadPoolExecutor(8) as pool:
            moved = [*pool.map(lambda one: batch.fail(one, "why"), ids)]
    assert moved == [1] * 40


def test_the_empty_half_of_one_row(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    with world.consumer(any_server.url, stream, ack="manual", **DEAD, **ME, **DRAIN) as consumer:
        empty, rest = next(consumer).halves()
        assert world.do(empty.ack()) == 0
        assert world.do(empty.nack()) == 0
        assert world.do(empty.extend()) == 0
        assert world.do(empty.fail(empty.ids, "why")) == 0
        empty.leave()
        assert pending(client, stream) == [1]
        assert world.do(rest.ack([])) == 0
        assert world.do(rest.ack()) == 1


def test_rows_that_are_to_be_moved_are_named(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    nobody: Any = None
    add_numbers(client, stream, 2)
    with world.consumer(any_server.url, stream, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        with pytest.raises(TypeError, match="not None"):
            world.do(batch.fail(nobody, "why"))
        assert pending(client, stream) == [1, 2]
    assert dead_ids(client) == []


def test_a_wide_entry_that_another_claims_meanwhile_stays_its_own(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """The dead letter is written before the script can see whose the entry is."""
    add_wide(client, stream, 1, 4_500, 1)
    client.xadd("dead", {"n": "before"})
    with Proxy(server.port) as proxy:
        proxy.before(b"MULTI", lambda _: client.xclaim(stream, "g", "other", 0, ["1-0"]))
        with world.consumer(proxy.url, stream, **SHY, **DEAD, **ME, **DRAIN) as consumer:
            assert world.do(next(consumer).fail("1-0", "why")) == 0
    assert pending(client, stream, "other") == [1]
    assert parts_of(client, "dead") == [[b"n", b"before"]]


def test_a_wide_entry_that_is_gone_is_not_moved(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_wide(client, stream, 1, 4_500, 1)
    with world.consumer(any_server.url, stream, **SHY, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        client.xdel(stream, "1-0")
        assert world.do(batch.fail("1-0", "why")) == 0
    assert not client.exists("dead")
    assert pending(client, stream) == []


def test_a_wide_entry_that_is_deleted_while_it_is_moved_stays_pending_no_longer(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The script has left it to its client, which finds that it is gone."""
    add_wide(client, stream, 1, 4_500, 1)
    deliver(client, stream)
    client.xclaim(stream, "g", "me", 0, ["1-0"], retrycount=3, justid=True)
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", lambda _: client.xdel(stream, "1-0"))
        options: dict[str, Any] = {**SHY, **DEAD, "max_deliveries": 3, **ME, **DRAIN}
        with StreamConsumer(proxy.url, stream, schema=NUMBER, **options) as consumer:
            assert list(consumer) == []
    assert (consumer.stats.dead_lettered, consumer.stats.deleted) == (0, 1)
    assert pending(client, stream) == []


@pytest.mark.parametrize("fields", [1, 4_500])
@pytest.mark.parametrize("trouble", ["type", "memory", "permission"])
def test_an_entry_that_cannot_be_moved_is_named_and_stays_pending(
    server: Server, client: redis.Redis, stream: str, world: World, trouble: str, fields: int
) -> None:
    for number in (1, 2, 3):
        add_wide(client, stream, number, fields, number)
    error: type[RedfloeError] = ResponseError
    url, match = server.url, "maxmemory"
    match trouble:
        case "type":
            client.set("dead", "x")
            error, match = WrongTypeError, "choose another dead_letter"
        case "permission":
            client.execute_command(
                "ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", "~*", "+@all", "-xack"
            )
            url = with_password(server.url, user="clerk")
            error, match = AuthenticationError, "XACK"
    connection = RedisConnection(url, max_retries=0)
    try:
        with world.consumer(connection, stream, **SHY, ack="manual", **DEAD, **ME, **DRAIN) as one:
            batch = next(one)
            assert rows(batch) == [1, 2, 3]
            if trouble == "memory":
                client.config_set("maxmemory", 1)
            for _ in range(2):
                with pytest.raises(error, match=match) as raised:
                    world.do(batch.fail(["2-0", "3-0"], "why"))
                assert "entry 2-0" in str(raised.value)
                assert "stays pending" in str(raised.value)
                assert PASSWORD not in str(raised.value)
            client.config_set("maxmemory", 0)
            assert pending(client, stream) == [1, 2, 3]
    finally:
        client.config_set("maxmemory", 0)
        client.execute_command("ACL", "DELUSER", "clerk")
    if trouble == "type":
        client.delete("dead")
    assert client.xlen("dead") == 0
    # Once it can be written the work goes on.
    with world.consumer(server.url, stream, **SHY, **DEAD, **ME, **DRAIN) as consumer:
        assert world.do(next(consumer).fail(["2-0", "3-0"], "why")) == 2
    assert dead_ids(client) == ["2-0", "3-0"]
    assert pending(client, stream) == []


@pytest.mark.parametrize("missing", ["multi", "exec"])
def test_a_wide_entry_is_not_moved_outside_a_transaction(
    server: Server, client: redis.Redis, stream: str, world: World, missing: str
) -> None:
    """Without MULTI its commands were executed one by one, and called a failure."""
    add_wide(client, stream, 1, 4_500, 1)
    client.execute_command(
        *("ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", "~*", "+@all", f"-{missing}")
    )
    try:
        url = with_password(server.url, user="clerk")
        with world.consumer(url, stream, **SHY, ack="manual", **DEAD, **ME, **DRAIN) as consumer:
            batch = next(consumer)
            with pytest.raises(AuthenticationError, match="entry 1-0"):
                world.do(batch.fail("1-0", "why"))
            assert not client.exists("dead")
            assert pending(client, stream) == [1]
    finally:
        client.execute_command("ACL", "DELUSER", "clerk")


def test_those_before_one_that_cannot_be_moved_are_moved(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 5)
    with world.consumer(any_server.url, stream, **SHY, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        # No ID is left after the third.
        last = 2**64 - 1
        client.xadd("dead", {"n": "x"}, id=f"{last}-{last - 2}")
        with pytest.raises(ResponseError, match="entry 3-0"):
            world.do(batch.fail(batch.ids, "why"))
    assert dead_ids_of_letters(client) == ["1-0", "2-0"]
    assert pending(client, stream) == [3, 4, 5]
    assert consumer.stats.dead_lettered == 2


def dead_ids_of_letters(client: redis.Redis) -> list[str]:
    return [letter[b"_dead_id"].decode() for letter in letters(client) if b"_dead_id" in letter]


@pytest.mark.parametrize("fields", [1, 4_500])
def test_a_dead_letter_counts_what_its_reason_says(
    server: Server, client: redis.Redis, stream: str, world: World, fields: int
) -> None:
    add_wide(client, stream, 1, fields, 1)
    for _ in range(3):
        deliver(client, stream)
        client.xreadgroup("g", "me", {stream: "0"})
    deliveries: Any = client.xpending_range(stream, "g", "-", "+", 1)
    most = deliveries[0]["times_delivered"] - 1
    options = {"max_deliveries": most, **DEAD, **ME, **DRAIN}
    assert all_rows(world.consumer(server.url, stream, **options)) == []
    [letter] = letters(client)
    count = int(letter[b"_dead_deliveries"])
    assert letter[b"_dead_reason"] == f"delivered {count} times, of at most {most}".encode()
    assert count == most + 1
