"""What `StreamConsumer` takes over from others, what it gives up, and groups that are lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from redfloe import (
    CheckpointStore,
    DecodeError,
    MemoryCheckpointStore,
    NoGroupError,
    StreamConsumer,
    WrongTypeError,
)
from support.consumers import EAGER, SHY, World, all_rows, dead_ids, letters, rows
from support.groups import DRAIN, ME, deliver, pending
from support.proxy import Proxy
from support.server import BINARIES, Server
from support.streams import NUMBER, add_numbers, add_raw
from support.timing import eventually, later, within

pytestmark = pytest.mark.timeout(20)

#: For entries that cannot be processed.
DEAD: dict[str, Any] = {"dead_letter": "dead"}


@pytest.fixture(scope="module")
def without_autoclaim() -> Iterator[Server]:
    """A server on which claims take XPENDING and XCLAIM, as before Redis 6.2."""
    with Server("redis-7.0", args=["--rename-command", "XAUTOCLAIM", ""]) as server:
        yield server


@pytest.fixture(params=[*BINARIES, "no-xautoclaim"])
def claiming(request: pytest.FixtureRequest) -> Server:
    """A server of each way to claim, empty."""
    if request.param != "no-xautoclaim":
        server: Server = request.getfixturevalue("servers").get(request.param)
        return server
    bare: Server = request.getfixturevalue("without_autoclaim")
    with bare.client() as client:
        client.flushall()
    return bare


def idle_for(client: redis.Redis, stream: str) -> int:
    """How many milliseconds the entry that has been pending for the shortest time has."""
    found: Any = client.xpending_range(stream, "g", "-", "+", 10_000)
    shortest: int = min(one["time_since_delivered"] for one in found)
    return shortest


# Reclaim


def test_what_others_left_pending_is_taken_over(
    claiming: Server, stream: str, world: World
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 25)
    deliver(client, stream, 10, consumer="other")
    deliver(client, stream, 10, "third")
    came: dict[int, int] = {}
    with world.consumer(claiming.url, stream, batch_size=4, **EAGER, **ME, **DRAIN) as consumer:
        for batch in consumer:
            assert batch.frame["n"].is_sorted()
            for number, count in zip(rows(batch), batch.delivery_counts, strict=True):
                assert number not in came
                came[number] = count
    assert came == {n: 2 if n <= 20 else 1 for n in range(1, 26)}
    assert pending(client, stream) == []
    assert consumer.stats.reclaimed == 20


def test_new_entries_come_in_turns_with_claimed_ones(
    claiming: Server, stream: str, world: World
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 100)
    deliver(client, stream, 50, consumer="other")
    with world.consumer(claiming.url, stream, batch_size=5, **EAGER, **ME, **DRAIN) as consumer:
        batches = [rows(batch) for batch in consumer]
    assert sorted(row for batch in batches for row in batch) == [*range(1, 101)]
    first_new = next(index for index, batch in enumerate(batches) if batch[-1] > 50)
    assert first_new <= 2


def test_a_handler_that_is_alive_keeps_its_entries(
    claiming: Server, stream: str, world: World
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 10)
    deliver(client, stream, 5, consumer="other")
    options = {"reclaim_min_idle_ms": 60_000, "reclaim_interval_ms": 0, **ME, **DRAIN}
    with world.consumer(claiming.url, stream, **options) as consumer:
        assert all_rows(consumer) == [6, 7, 8, 9, 10]
    assert pending(client, stream) == [1, 2, 3, 4, 5]
    assert pending(client, stream, "other") == [1, 2, 3, 4, 5]


def test_min_idle_is_respected(claiming: Server, stream: str, world: World) -> None:
    client = claiming.client()
    add_numbers(client, stream, 6)
    deliver(client, stream, 3, consumer="other")
    eventually(lambda: idle_for(client, stream) >= 400)
    deliver(client, stream, 3, consumer="other")
    options: dict[str, Any] = {"reclaim_min_idle_ms": 400, "reclaim_interval_ms": 20, **ME}
    asked = time.monotonic()
    with world.consumer(claiming.url, stream, block_ms=0, **options) as consumer:
        assert rows(next(consumer)) == [1, 2, 3]
        # The others once it is their time, without anything new to wake the consumer.
        assert rows(next(consumer)) == [4, 5, 6]
        assert time.monotonic() - asked >= 0.35


def test_without_reclaim_others_keep_theirs(server: Server, stream: str, world: World) -> None:
    client = server.client()
    add_numbers(client, stream, 10)
    deliver(client, stream, 5, consumer="other")
    with Proxy(server.port) as proxy:
        with world.consumer(proxy.url, stream, **SHY, **ME, **DRAIN) as consumer:
            assert all_rows(consumer) == [6, 7, 8, 9, 10]
        assert not proxy.count(b"XAUTOCLAIM") + proxy.count(b"XCLAIM")
    assert pending(client, stream) == [1, 2, 3, 4, 5]


def test_two_reclaimers_give_an_entry_one_owner(claiming: Server, stream: str) -> None:
    client = claiming.client()
    add_numbers(client, stream, 2_000)
    deliver(client, stream, consumer="other")
    eventually(lambda: idle_for(client, stream) >= 200)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 200, "ack": "manual", "batch_size": 50}

    def consume(name: str) -> list[int]:
        consumer = StreamConsumer(
            claiming.url, stream, "g", name, schema=NUMBER, **options, **DRAIN
        )
        with consumer:
            return all_rows(consumer)

    with ThreadPoolExecutor(2) as pool:
        shares = [*pool.map(consume, ["a", "b"])]
    # Whoever is stalled for the idle time may lose what it had.
    owned = {*pending(client, stream, "a")}, {*pending(client, stream, "b")}
    assert owned[0] | owned[1] == {*range(1, 2_001)}
    assert sorted({*shares[0], *shares[1]}) == [*range(1, 2_001)]
    found: Any = client.xpending_range(stream, "g", "-", "+", 2_000)
    given = len(shares[0]) + len(shares[1])
    assert sum(one["times_delivered"] - 1 for one in found) == given


@pytest.mark.parametrize("mine", [False, True], ids=["others", "own"])
def test_deleted_pending_entries_are_acknowledged_and_never_given(
    claiming: Server, stream: str, world: World, mine: bool
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 30)
    deliver(client, stream, 20, "me" if mine else "other")
    client.xdel(stream, *[f"{n}-0" for n in range(1, 21, 2)])
    options: dict[str, Any] = {"batch_size": 7, **EAGER, **ME}
    with world.consumer(claiming.url, stream, block_ms=100, on_idle="stop", **options) as consumer:
        came = all_rows(consumer)
    assert sorted(came) == [*range(2, 21, 2), *range(21, 31)]
    assert consumer.stats.deleted == 10
    assert consumer.stats.entries == 20
    assert pending(client, stream) == []


def test_trimmed_pending_entries(claiming: Server, stream: str, world: World) -> None:
    client = claiming.client()
    add_numbers(client, stream, 2_500)
    deliver(client, stream, consumer="other")
    client.xtrim(stream, maxlen=5, approximate=False)
    options: dict[str, Any] = {"batch_size": 500, "block_ms": 200, "on_idle": "stop", **EAGER, **ME}
    came: list[int] = []
    deleted = 0

    def cleaned_up() -> bool:
        """One consumer may have had no time for all before it was idle for long enough."""
        nonlocal deleted
        with world.consumer(claiming.url, stream, **options) as consumer:
            came.extend(all_rows(consumer))
        deleted += consumer.stats.deleted
        return pending(client, stream) == []

    eventually(cleaned_up, seconds=20)
    assert came == [2_496, 2_497, 2_498, 2_499, 2_500]
    assert deleted == 2_495


def test_what_is_given_back_in_the_middle_of_a_pass_comes_soon(
    claiming: Server, stream: str, world: World
) -> None:
    """And not with the pass after the next interval."""
    client = claiming.client()
    add_numbers(client, stream, 20)
    deliver(client, stream, consumer="other")
    options: dict[str, Any] = {"reclaim_min_idle_ms": 0, "batch_size": 3, **ME}
    came: list[int] = []
    with world.consumer(claiming.url, stream, block_ms=0, **options) as consumer, within(8):
        for batch in consumer:
            if 1 in rows(batch) and 1 not in came:
                assert world.do(batch.nack("1-0")) == 1
            came += rows(batch)
            if came.count(1) == 2 and {*came} == {*range(1, 21)}:
                break
    assert came.count(2) == 1
    assert pending(client, stream) == []


def test_claims_are_looked_for_once_in_an_interval(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Also while each read brings as many entries as it may."""
    add_numbers(client, stream, 2_000)
    with Proxy(server.port) as proxy:
        with world.consumer(proxy.url, stream, batch_size=100, **ME, **DRAIN) as consumer:
            assert all_rows(consumer) == [*range(1, 2_001)]
        assert proxy.count(b"XAUTOCLAIM") == 1
        assert proxy.count(b"XPENDING") <= 1


# Dead letters


def test_a_cursor_that_stands_still_ends_the_pass(
    redis70: Server, stream: str, world: World
) -> None:
    with Proxy(redis70.port) as proxy:
        proxy.replace_reply(b"*3\r\n$3\r\n5-0\r\n*0\r\n*0\r\n", once_seen=b"XAUTOCLAIM", times=None)
        consumer = world.consumer(proxy.url, stream, **ME, **DRAIN, reclaim_min_idle_ms=0)
        assert all_rows(consumer) == []
        assert proxy.count(b"XAUTOCLAIM") == 2


def test_a_dead_letter_has_the_original_fields_and_its_story(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 1)
    original = [b"n", b"2", b"raw", b"\xff\x00\r\n", b"n", b"22", b"\xfe", b"", b"", b"x"]
    add_raw(client, stream, "2-7", *original)
    add_numbers(client, stream, 3, first=3)
    before = int(client.time()[0])
    with world.consumer(server.url, stream, batch_size=10, **DEAD, **ME, **DRAIN) as consumer:
        for batch in consumer:
            assert world.do(batch.fail("2-7", "no such user")) == 1
            # It is gone from the batch, as far as the server is concerned.
            assert world.do(batch.fail("2-7", "again")) == 0
            assert pending(client, stream) == [1, 3]
    assert pending(client, stream) == []
    stats = consumer.stats
    assert (stats.dead_lettered, stats.acknowledged) == (1, 2)
    # redis-py would make a dict of the fields.
    found: Any = client.eval("return redis.call('XRANGE', 'dead', '-', '+')", 0)
    [[_, parts]] = found
    assert parts[:10] == original
    story = dict(zip(parts[10::2], parts[11::2], strict=True))
    assert before * 1_000 <= int(story.pop(b"_dead_time")) <= (time.time() + 1) * 1_000
    assert story == {
        b"_dead_stream": stream.encode(),
        b"_dead_id": b"2-7",
        b"_dead_group": b"g",
        b"_dead_consumer": b"me",
        b"_dead_deliveries": b"1",
        b"_dead_reason": b"no such user",
    }


def test_fail_takes_what_names_entries(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 250)
    with world.consumer(any_server.url, stream, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        bad = batch.frame.filter(batch.frame["n"] % 2 == 0)
        assert world.do(batch.fail(bad["_id"], "even")) == 125
        assert world.do(batch.fail(["1-0", "3-0"], "odd")) == 2
        assert world.do(batch.fail([], "none")) == 0
    assert len(letters(client)) == 127
    assert pending(client, stream) == []


def test_only_what_is_still_this_consumers_is_failed(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(any_server.url, stream, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        client.xclaim(stream, "g", "other", 0, ["2-0"])
        client.xdel(stream, "3-0")
        assert world.do(batch.fail(batch.ids, "all")) == 1
        assert dead_ids(client) == ["1-0"]
        assert pending(client, stream) == [2]


def test_a_dead_letter_stream_of_another_type(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    client.set("dead", "x")
    add_numbers(client, stream, 3)
    with world.consumer(server.url, stream, **SHY, **DEAD, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        with pytest.raises(WrongTypeError, match="dead-letter"):
            world.do(batch.fail("2-0", "why"))
        assert pending(client, stream) == [1, 2, 3]
    # Whoever catches it does not lose the entry.
    assert pending(client, stream) == [2]


def test_no_dead_letter_stream(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    consumer = world.consumer(any_server.url, stream, **ME, **DRAIN)
    batch = next(consumer)
    with pytest.raises(ValueError, match="dead_letter"):
        world.do(batch.fail("2-0", "why"))
    assert pending(client, stream) == [1, 2, 3]


@pytest.mark.parametrize("most", [1, 3])
def test_a_poison_entry_is_delivered_exactly_so_often(
    claiming: Server, stream: str, world: World, most: int
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 20)
    seen: list[tuple[int, int]] = []
    done: list[int] = []
    options: dict[str, Any] = {"batch_size": 1, "max_deliveries": most, **DEAD, **EAGER}
    for life in range(most + 2):
        if life == most - 1:
            add_numbers(client, stream, 25, first=21)
        consumer = world.consumer(
            claiming.url, stream, group="g", consumer=f"worker-{life}", **options, **DRAIN
        )
        try:
            with consumer:
                for batch in consumer:
                    [number] = rows(batch)
                    if number == 7:
                        seen.append((number, batch.delivery_counts[0]))
                        raise ZeroDivisionError
                    done.append(number)
        except ZeroDivisionError:
            pass
    assert seen == [(7, count) for count in range(1, most + 1)]
    assert sorted(done) == [n for n in range(1, 26) if n != 7]
    assert pending(client, stream) == []
    [letter] = letters(client)
    assert letter[b"n"] == b"7"
    assert letter[b"_dead_id"] == b"7-0"
    times = "1 time" if most == 1 else f"{most} times"
    assert letter[b"_dead_reason"] == f"delivered {times}, of at most {most}".encode()


def test_ten_poison_entries_do_not_starve_the_rest(
    claiming: Server, stream: str, world: World
) -> None:
    client = claiming.client()
    add_numbers(client, stream, 200)
    poison = {*range(1, 20, 2)}
    done: list[int] = []
    options: dict[str, Any] = {"batch_size": 2, "max_deliveries": 3, **DEAD, **EAGER, **ME}
    with world.consumer(claiming.url, stream, **options, **DRAIN) as consumer:
        for batch in consumer:
            bad = [f"{n}-0" for n in rows(batch) if n in poison]
            done += [n for n in rows(batch) if n not in poison]
            if bad:
                world.do(batch.nack(bad))
    assert sorted(done) == [n for n in range(1, 201) if n not in poison]
    assert sorted(dead_ids(client)) == sorted(f"{n}-0" for n in poison)
    reasons = {letter[b"_dead_reason"] for letter in letters(client)}
    assert reasons == {b"delivered 3 times, of at most 3"}
    assert pending(client, stream) == []
    assert consumer.stats.dead_lettered == 10


def test_a_poison_entry_stays_pending_where_it_cannot_be_moved(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    client.set("dead", "x")
    add_numbers(client, stream, 3)
    deliver(client, stream, consumer="other")
    options: dict[str, Any] = {"max_deliveries": 1, **DEAD, **EAGER, **ME, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)
    for _ in range(2):
        with pytest.raises(WrongTypeError, match="dead-letter"):
            next(consumer)
        assert pending(client, stream) == [1, 2, 3]
    client.delete("dead")
    assert list(consumer) == []
    assert dead_ids(client) == ["1-0", "2-0", "3-0"]
    assert pending(client, stream) == []


# Entries that cannot be decoded


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_undecodable_entries_go_to_the_dead_letters(
    server: Server, client: redis.Redis, stream: str, world: World, batch_size: int
) -> None:
    for number in range(1, 13):
        client.xadd(stream, {"n": "x" if number % 4 == 1 else number}, id=f"{number}-0")
    options: dict[str, Any] = {"batch_size": batch_size, **DEAD, **ME, **DRAIN}
    with world.consumer(server.url, stream, **options) as consumer:
        assert all_rows(consumer) == [n for n in range(1, 13) if n % 4 != 1]
    assert dead_ids(client) == ["1-0", "5-0", "9-0"]
    for letter in letters(client):
        assert letter[b"n"] == b"x"
        assert b"Int64" in letter[b"_dead_reason"] or b"i64" in letter[b"_dead_reason"].lower()
    assert pending(client, stream) == []
    assert consumer.stats.dead_lettered == 3


def test_undecodable_entries_that_others_left(claiming: Server, stream: str, world: World) -> None:
    client = claiming.client()
    for number in range(1, 7):
        client.xadd(stream, {"n": "x" if number % 2 else number}, id=f"{number}-0")
    deliver(client, stream, consumer="other")
    with world.consumer(claiming.url, stream, **DEAD, **EAGER, **ME, **DRAIN) as consumer:
        assert all_rows(consumer) == [2, 4, 6]
    assert dead_ids(client) == ["1-0", "3-0", "5-0"]
    assert pending(client, stream) == []


def test_on_error_raise(any_server: Server, client: redis.Redis, stream: str, world: World) -> None:
    add_numbers(client, stream, 2)
    client.xadd(stream, {"n": "x"}, id="3-0")
    options: dict[str, Any] = {"batch_size": 2, "on_error": "raise", **DEAD, **ME, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)
    assert rows(next(consumer)) == [1, 2]
    for _ in range(2):
        with pytest.raises(DecodeError, match="3-0"):
            next(consumer)
        assert pending(client, stream) == [3]
    assert not client.exists("dead")


def test_on_error_null(any_server: Server, client: redis.Redis, stream: str, world: World) -> None:
    client.xadd(stream, {"n": "x"}, id="1-0")
    options: dict[str, Any] = {"on_error": "null", **DEAD, **ME, **DRAIN}
    [batch] = world.consumer(any_server.url, stream, **options)
    assert batch.frame["n"].to_list() == [None]
    assert not client.exists("dead")


# Lost groups


LOSSES = pytest.mark.parametrize("how", ["destroy", "del", "flushall"])


def lose(client: redis.Redis, stream: str, how: str) -> None:
    match how:
        case "destroy":
            client.xgroup_destroy(stream, "g")
        case "del":
            client.delete(stream)
        case _:
            client.flushall()


@LOSSES
def test_a_lost_group_raises(
    server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    add_numbers(client, stream, 3)
    consumer = world.consumer(server.url, stream, block_ms=0, **ME)
    assert rows(next(consumer)) == [1, 2, 3]
    lose(client, stream, how)
    with within(5), pytest.raises(NoGroupError, match=stream):
        next(consumer)


@LOSSES
@pytest.mark.slow
def test_a_group_lost_while_its_consumer_waits_raises(
    server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    # Redis 6.2 does not wake those who wait for a key that is deleted: they look again in time.
    late = server.name == "redis-6.2" and how != "destroy"
    if late and world.runner is not None:
        pytest.skip("takes its time, whichever the world is")
    client.xgroup_create(stream, "g", "0", mkstream=True)
    with Proxy(server.port) as proxy:
        consumer = world.consumer(proxy.url, stream, block_ms=0, **SHY, **ME)

        def when_it_waits() -> None:
            eventually(lambda: client.info("clients")["blocked_clients"] > 0)
            lose(client, stream, how)

        with (
            within(9 if late else 4),
            later(0, when_it_waits),
            pytest.raises(NoGroupError, match=stream),
        ):
            next(consumer)
        assert proxy.count(b"XREADGROUP") <= 6


@LOSSES
@pytest.mark.parametrize("waits", [False, True])
def test_a_lost_group_is_created_where_its_consumer_stood(
    server: Server, client: redis.Redis, stream: str, world: World, how: str, waits: bool
) -> None:
    add_numbers(client, stream, 6)
    options: dict[str, Any] = {"on_group_lost": "recreate", "batch_size": 2, **SHY, **ME}
    consumer = world.consumer(server.url, stream, block_ms=0, **options)
    assert [rows(next(consumer)) for _ in range(3)] == [[1, 2], [3, 4], [5, 6]]

    def lose_and_add() -> None:
        if waits:
            eventually(lambda: client.info("clients")["blocked_clients"] > 0)
        lose(client, stream, how)
        # With IDs as a writer would give them, or behind the old ones.
        add_numbers(client, stream, 8, first=7)

    if waits:
        with later(0, lose_and_add):
            assert rows(next(consumer)) == [7, 8]
    else:
        lose_and_add()
        # The batch that was in hand is done with, though it could not be acknowledged.
        assert rows(next(consumer)) == [7, 8]


def test_a_lost_group_of_a_new_stream_begins_at_its_start(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """IDs may be smaller than before where a stream is created again."""
    add_numbers(client, stream, 200, first=101)
    options: dict[str, Any] = {"on_group_lost": "recreate", "batch_size": 50, **SHY, **ME}
    consumer = world.consumer(any_server.url, stream, **options)
    with consumer:
        next(consumer)
        next(consumer)
        client.delete(stream)
        add_numbers(client, stream, 5)
        assert rows(next(consumer)) == [1, 2, 3, 4, 5]
        # Nor does what was done before count when it is lost again.
        client.xgroup_destroy(stream, "g")
        add_numbers(client, stream, 400, first=6)
        assert rows(next(consumer)) == [*range(6, 56)]


@pytest.mark.parametrize("create_group", [False, True])
def test_a_checkpoint_says_where_a_lost_group_stood(
    server: Server, client: redis.Redis, stream: str, world: World, create_group: bool
) -> None:
    store: CheckpointStore = MemoryCheckpointStore()
    add_numbers(client, stream, 6)
    options: dict[str, Any] = {"on_group_lost": "recreate", "checkpoint_store": store}
    with world.consumer(server.url, stream, batch_size=3, **options, **ME, **DRAIN) as consumer:
        assert all_rows(consumer) == [1, 2, 3, 4, 5, 6]
    assert store.load(f"{stream}:g:me") == "6-0"
    # The group is lost while no worker runs.
    client.xgroup_destroy(stream, "g")
    add_numbers(client, stream, 8, first=7)
    again = world.consumer(server.url, stream, create_group=create_group, **options, **ME, **DRAIN)
    assert all_rows(again) == [7, 8]


def test_without_a_checkpoint_a_group_is_created_as_at_first(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 6)
    options: dict[str, Any] = {"on_group_lost": "recreate", "group_start_id": "2-0"}
    consumer = world.consumer(server.url, stream, block_ms=0, **SHY, **options, **ME)
    assert rows(next(consumer)) == [3, 4, 5, 6]
    # Nothing is done with where the loop was left.
    consumer = world.consumer(server.url, stream, block_ms=0, **SHY, **options, **ME)
    client.xgroup_destroy(stream, "g")
    assert rows(next(consumer)) == [3, 4, 5, 6]


def test_a_group_that_is_lost_again_and_again_makes_no_hot_loop(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XREADGROUP", lambda _: client.delete(stream))
        options: dict[str, Any] = {"on_group_lost": "recreate", **SHY, **ME}
        consumer = world.consumer(proxy.url, stream, block_ms=500, **options)
        with later(1.0, consumer.stop):
            assert list(consumer) == []
        assert 2 <= proxy.count(b"XREADGROUP") <= 25
