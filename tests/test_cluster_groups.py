"""Consumer groups over streams of several nodes of a cluster, and of several slots of a node."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import redfloe
from redfloe import NoGroupError, RedisConnection, StreamConsumer, WrongTypeError
from support.cluster import Cluster, paused, proxied
from support.consumers import SHY, World
from support.faults import FAULTS, Fault, add_one, killing, patient
from support.groups import DRAIN, ME, all_pending, deliver, pending
from support.streams import NUMBER, Numbers, add_numbers, pairs, rows_of, take_rows
from support.timing import SLACK, eventually, in_thread, later, meanwhile, within

if TYPE_CHECKING:
    from support.loops import Follow

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(60)]


def create(cluster: Cluster, streams: Iterable[str]) -> None:
    for stream in streams:
        cluster.client(stream).xgroup_create(stream, "g", "0", mkstream=True)


def work(world: World, url: Any, streams: Any, **options: Any) -> Any:
    """Give the consumer that most tests use."""
    return world.consumer(url, streams, **{**ME, **SHY, **DRAIN, **options})


def take(consumer: Any, rows: int) -> Numbers:
    """Take batches until they have that many rows; give those by stream."""
    return take_rows((batch.frame for batch in consumer), rows)


@pytest.mark.parametrize("ack", ["manual", "on_success"])
def test_all_streams_are_read_and_acknowledged(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World, ack: Any
) -> None:
    streams = {key: [*range(1, 40 * at + 1)] for at, key in enumerate(cluster.keys(7))}
    cluster.fill(streams)
    with work(world, cluster_url, [*streams], ack=ack, batch_size=50) as consumer:
        got = []
        for batch in consumer:
            got.append(batch.frame)
            if ack == "manual":
                assert world.do(batch.ack()) == batch.frame.height
    assert rows_of(got) == {key: numbers for key, numbers in streams.items() if numbers}
    assert all_pending(cluster, streams) == {}
    stats = consumer.stats
    assert stats.acknowledged == stats.entries == sum(map(len, streams.values()))
    assert {key: one.entries for key, one in stats.streams.items()} == {
        key: len(numbers) for key, numbers in streams.items()
    }


def test_what_comes_is_given_at_once_and_together(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    keys = cluster.keys(7)
    with StreamConsumer(cluster_url, keys, schema=NUMBER, block_ms=0, **ME, **SHY) as consumer:
        for number, key in enumerate(keys, 1):
            with later(0.02, partial(cluster.fill, {key: [number]})), within(2):
                assert take(consumer, 1) == {key: [number]}


def test_batches_collect_rows_of_all_nodes(cluster: Cluster) -> None:
    keys = cluster.keys(7)
    options: dict[str, Any] = {"batch_timeout_ms": round(300 * SLACK), **ME, **SHY}
    with StreamConsumer(cluster.url, keys, schema=NUMBER, block_ms=0, **options) as consumer:
        with later(0.05, partial(cluster.fill, {key: [1] for key in keys})):
            assert rows_of([next(consumer).frame]) == {key: [1] for key in keys}
        cluster.fill({key: [2, 3] for key in keys})
        assert rows_of([next(consumer).frame]) == {key: [2, 3] for key in keys}


def test_batches_are_bounded(cluster: Cluster) -> None:
    streams = {key: [*range(1, 31)] for key in cluster.keys(6)}
    cluster.fill(streams)
    options: dict[str, Any] = {"batch_size": 7, "auto_ack": True, **ME, **DRAIN}
    for timeout in (None, 1):
        options.update(group=f"g{timeout}", batch_timeout_ms=timeout)
        frames = list(redfloe.iter_stream(cluster.url, [*streams], NUMBER, **options))
        assert rows_of(frames) == streams
        assert max(map(len, frames)) <= 7


def test_columns_are_those_of_any_node(cluster: Cluster, follow: Follow) -> None:
    keys = cluster.key_of_each()
    for name, key in zip("abc", keys, strict=True):
        cluster.client(key).xadd(key, {name: name, "n": 1}, id="1-0")
    frames = list(follow(cluster.url, keys, batch_timeout_ms=20, **ME, **DRAIN))
    df = pl.concat(frames, how="diagonal")
    assert sorted(df.columns) == ["_id", "_stream", "_ts", "a", "b", "c", "n"]
    assert sorted(df.select("a", "b", "c", "n").rows(), key=str) == [
        ("a", None, None, "1"),
        (None, "b", None, "1"),
        (None, None, "c", "1"),
    ]
    frames = list(follow(cluster.url, keys, infer_schema=True, **{**ME, "group": "h"}, **DRAIN))
    assert {frame.schema["n"] for frame in frames} == {pl.Int64()}
    assert len({tuple(frame.columns) for frame in frames}) == 1


def test_own_pending_entries_come_first(cluster: Cluster, world: World) -> None:
    keys = cluster.keys(5)
    streams = {key: [1, 2, 3] for key in keys}
    cluster.fill(streams)
    create(cluster, keys)
    for key in keys[:3]:
        deliver(cluster.client(key), key, 2)
    with work(world, cluster.url, keys) as consumer:
        batches = [(batch.frame, batch.delivery_counts.to_list()) for batch in consumer]
    assert rows_of(frame for frame, _ in batches) == streams
    again = [
        row
        for frame, counts in batches
        for row, count in zip(pairs(frame), counts, strict=True)
        if count > 1
    ]
    assert sorted(again) == sorted((key, number) for key in keys[:3] for number in (1, 2))
    assert all_pending(cluster, keys) == {}


def test_what_others_left_is_claimed(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    keys = cluster.keys(5)
    streams = {key: [1, 2, 3] for key in keys}
    cluster.fill(streams)
    create(cluster, keys)
    for key in keys:
        deliver(cluster.client(key), key, 2, "gone")
    time.sleep(0.05)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 30, "reclaim_interval_ms": 0, "block_ms": 100}
    with work(world, cluster_url, keys, **options) as consumer:
        frames = [batch.frame for batch in consumer]
    assert {key: sorted(rows) for key, rows in rows_of(frames).items()} == streams
    assert consumer.stats.reclaimed == 10
    assert all_pending(cluster, keys) == {}


@pytest.mark.parametrize("start", [None, "0"])
def test_read_stream(
    cluster: Cluster, cluster_url: str | RedisConnection, start: str | None
) -> None:
    keys = cluster.keys(7)
    streams = {key: [*range(1, 6)] for key in keys}
    cluster.fill(streams)
    create(cluster, keys)
    if start:
        for key in keys:
            deliver(cluster.client(key), key)
    options: dict[str, Any] = {**ME, "start_id": start, "auto_ack": True}
    if start is None:
        some = redfloe.read_stream(cluster_url, keys, NUMBER, count=11, **options)
        assert some.height == 11
        lengths = [cluster.client(key).xinfo_groups(key)[0] for key in keys]
        assert sum(one["entries-read"] or 0 for one in lengths) == 11
        rest = redfloe.read_stream(cluster_url, keys, NUMBER, **options)
        got = rows_of([some, rest])
    else:
        got = rows_of([redfloe.read_stream(cluster_url, keys, NUMBER, **options)])
    assert got == streams
    assert all_pending(cluster, keys) == {}


@pytest.mark.parametrize("count", [None, 3])
def test_read_stream_waits_for_what_comes_late(cluster: Cluster, count: int | None) -> None:
    keys = cluster.keys(7)
    options: dict[str, Any] = {**ME, "count": count, "create_group": True, "block_ms": 20_000}
    with later(0.4, partial(cluster.fill, {keys[3]: [7]})), within(8):
        df = redfloe.read_stream(cluster.url, keys, NUMBER, **options)
    assert rows_of([df]) == {keys[3]: [7]}
    with within(8):
        options["block_ms"] = 300
        assert redfloe.read_stream(cluster.url, keys, NUMBER, **options).is_empty()


def test_read_stream_of_more_slots_than_are_followed(cluster: Cluster) -> None:
    keys = [f"stream-{number}" for number in range(400)]
    options: dict[str, Any] = {**ME, "create_group": True}
    cluster.fill({key: [1] for key in keys[::10]})
    df = redfloe.read_stream(cluster.url, keys, NUMBER, **options)
    assert rows_of([df]) == {key: [1] for key in keys[::10]}
    with pytest.raises(ValueError, match=r"at most 256 slots.*a common part in braces"):
        next(redfloe.iter_stream(cluster.url, keys, NUMBER, **ME))


@pytest.mark.parametrize("collects", [{}, {"batch_timeout_ms": 50}])
@pytest.mark.parametrize("count", [2, 5, 17])
def test_a_count_is_exact(
    cluster: Cluster, follow: Follow, count: int, collects: dict[str, Any]
) -> None:
    keys = cluster.keys(7)
    options: dict[str, Any] = {**ME, "count": count, **DRAIN, "block_ms": 50, **collects}
    cluster.fill({keys[2]: [1]})
    with within(5):
        first = follow(cluster.url, keys, NUMBER, auto_ack=True, **options)
        assert rows_of(first) == {keys[2]: [1]}
    cluster.fill({key: [2, 3, 4] for key in keys})
    frames = list(follow(cluster.url, keys, NUMBER, **options))
    assert sum(map(len, frames)) == count
    # Nothing more was delivered.
    assert sum(map(len, all_pending(cluster, keys).values())) == count


def test_the_last_batch_of_a_count_is_acknowledged(cluster: Cluster, follow: Follow) -> None:
    keys = cluster.keys(7)
    cluster.fill({key: [1, 2, 3] for key in keys})
    options: dict[str, Any] = {"auto_ack": True, "batch_size": 4, **ME, **DRAIN}
    assert sum(map(len, follow(cluster.url, keys, NUMBER, count=15, **options))) == 15
    assert not any(all_pending(cluster, keys).values())


def test_each_stream_has_its_group_also_where_a_count_leaves_it_no_entry(cluster: Cluster) -> None:
    keys = cluster.keys(6)
    cluster.fill({keys[0]: [1]})
    options: dict[str, Any] = {"group_start_id": "$", **ME}
    redfloe.read_stream(cluster.url, keys, NUMBER, count=1, **options)
    cluster.fill({key: [5] for key in keys})
    df = redfloe.read_stream(cluster.url, keys, NUMBER, **options)
    assert sorted(df["_stream"]) == sorted(keys)


def test_a_hot_stream_keeps_no_other_waiting(cluster: Cluster) -> None:
    keys = cluster.keys(9)
    hot, quiet = keys[0], keys[1:]
    add_numbers(cluster.client(hot), hot, 20_000)
    options: dict[str, Any] = {"batch_size": 100, **ME, **DRAIN}
    with StreamConsumer(cluster.url, keys, schema=NUMBER, **options, **SHY) as consumer:
        for number in range(1, 6):
            cluster.fill({key: [number] for key in quiet})
            came: set[str] = set()
            batches = 0
            while not came.issuperset(quiet):
                came.update(next(consumer).frame["_stream"])
                batches += 1
            assert batches <= 3 * len(keys)


def test_a_lost_group_does_not_stop_the_others(cluster: Cluster, world: World) -> None:
    keys = cluster.keys(5)
    cluster.fill({key: [1] for key in keys})
    with work(world, cluster.url, keys, on_group_lost="recreate", block_ms=500) as consumer:
        assert take(consumer, 5) == {key: [1] for key in keys}
        cluster.client(keys[1]).xgroup_destroy(keys[1], "g")
        cluster.client(keys[2]).delete(keys[2])
        cluster.fill({key: [2] for key in keys})
        assert take(consumer, 5) == {key: [2] for key in keys}


def test_errors_name_the_stream(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    keys = cluster.keys(5)
    create(cluster, keys[1:])
    with pytest.raises(NoGroupError, match=f"stream: {keys[0]}"):
        with work(world, cluster_url, keys, create_group=False) as consumer:
            list(consumer)
    cluster.client("text").set("text", "no stream")
    with pytest.raises(WrongTypeError, match="stream: text"):
        with work(world, cluster_url, [*keys, "text"]) as consumer:
            list(consumer)


def test_a_pattern_takes_in_what_appears_wherever_it_is(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    keys = cluster.keys(6, "p")
    cluster.fill({key: [1] for key in keys[:2]})
    options: dict[str, Any] = {"pattern": "p*", "discover_ms": 50, "block_ms": 1_000}
    with work(world, cluster_url, None, **options) as consumer:
        assert take(consumer, 2) == {key: [1] for key in keys[:2]}
        cluster.fill({key: [1] for key in keys[2:]})
        with within(3):
            assert take(consumer, 4) == {key: [1] for key in keys[2:]}
        cluster.client(keys[0]).delete(keys[0])
        cluster.fill({key: [2] for key in keys[1:]})
        with within(3):
            assert take(consumer, 5) == {key: [2] for key in keys[1:]}
    assert set(consumer.stats.streams) == set(keys)


def test_dead_letters_share_the_slot(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    keys = cluster.keys(3)
    with pytest.raises(ValueError, match=r"shares the slot of its stream.*for example"):
        with work(world, cluster_url, keys, dead_letter=f"{{{keys[0]}}}:dead") as consumer:
            next(consumer)
    cluster.fill({key: [1] for key in keys})
    options: dict[str, Any] = {"pattern": "stream*", "dead_letter": f"{{{keys[0]}}}:dead"}
    with pytest.raises(ValueError, match=r"shares the slot of its stream"):
        with work(world, cluster_url, None, **options) as consumer:
            next(consumer)


def test_with_one_delivery_each_entry_comes_alone(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    """The dead letters share the slot of all streams, also of those that match a pattern."""
    streams = {f"{{t}}:{name}": [1, 2, 3] for name in "abc"}
    cluster.fill(streams)
    options: Any = {"pattern": "{t}:*", "max_deliveries": 1, "dead_letter": "{t}:dead"}
    got = []
    with work(world, cluster_url, None, **options) as consumer:
        for batch in consumer:
            [row] = pairs(batch.frame)
            got.append(row)
            assert all_pending(cluster, streams) == {row[0]: [row[1]]}
    assert sorted(got) == [(stream, n) for stream, numbers in streams.items() for n in numbers]


def test_a_handler_s_failures_are_by_stream(cluster: Cluster, world: World) -> None:
    """What is given back comes again, and the others go on meanwhile."""
    keys = cluster.key_of_each()
    cluster.fill({key: [1, 2] for key in keys})
    seen: Counter[tuple[str, int]] = Counter()

    def handle(batch: Any) -> None:
        rows = pairs(batch.frame)
        seen.update(rows)
        if (keys[0], 2) in rows and seen[keys[0], 2] == 1:
            raise RuntimeError("no")

    consumer = work(world, cluster.url, keys, block_ms=200)
    consumer.run(handle, attempts=2)
    assert set(seen) == {(key, number) for key in keys for number in (1, 2)}
    assert all_pending(cluster, keys) == {}


def test_nacked_entries_come_again(cluster: Cluster, world: World) -> None:
    keys = cluster.key_of_each()
    cluster.fill({key: [1, 2] for key in keys})
    with work(world, cluster.url, keys, ack="manual", block_ms=300) as consumer:
        seen: list[tuple[str, int]] = []
        for batch in consumer:
            rows = pairs(batch.frame)
            new = [row for row in rows if row not in seen]
            seen += rows
            world.do(batch.nack(delay_ms=50) if len(new) == len(rows) else batch.ack())
    assert sorted(seen) == sorted((key, number) for key in keys for number in (1, 1, 2, 2))
    assert all_pending(cluster, keys) == {}


def test_what_is_in_hand_is_kept(cluster: Cluster, world: World) -> None:
    keys = cluster.key_of_each()
    cluster.fill({key: [1] for key in keys})
    options: Any = {"reclaim_min_idle_ms": 400, "ack": "manual", "block_ms": 200}
    with work(world, cluster.url, keys, **options) as consumer:
        assert take(consumer, 3) == {key: [1] for key in keys}
        end = time.monotonic() + 0.8
        most = dict.fromkeys(keys, 0)
        while time.monotonic() < end:
            for key in keys:
                found: Any = cluster.client(key).xpending_range(key, "g", "-", "+", 1)
                most[key] = max(most[key], found[0]["time_since_delivered"])
            time.sleep(0.02)
        assert max(most.values()) < 400 * SLACK, most
        assert len(list(consumer)) == 0


def test_what_came_while_the_caller_was_busy_may_be_another_s(cluster: Cluster) -> None:
    """A part goes on waiting while a batch of another is in hand: what it gets grows old."""
    first, second = cluster.key_of_each()[:2]
    mine: dict[str, Any] = {"reclaim_min_idle_ms": 300, "reclaim_interval_ms": 60_000}
    other: dict[str, Any] = {"reclaim_min_idle_ms": 300, "reclaim_interval_ms": 10}
    options: dict[str, Any] = {"schema": NUMBER, "group": "g", "block_ms": 0}
    with StreamConsumer(cluster.url, [first, second], consumer="me", **options, **mine) as me:
        with later(0.3, partial(cluster.fill, {first: [1]})):
            assert take(me, 1) == {first: [1]}
        assert cluster.client(second).info("clients")["blocked_clients"]
        cluster.fill({second: [2]})
        eventually(lambda: pending(cluster.client(second), second, "me") == [2], seconds=10)
        with StreamConsumer(cluster.url, second, consumer="you", **options, **other) as you:
            assert next(you).frame["n"].to_list() == [2]
            cluster.fill({second: [3]})
            assert take(me, 1) == {second: [3]}


def test_a_slow_node_has_its_turn_where_the_caller_is_slow(cluster: Cluster) -> None:
    """What it is asked is given up each time, as it may be another consumer's by then."""
    quick, slow = cluster.key_of_each()[:2]
    cluster.fill({quick: [*range(1, 200)], slow: [1]})
    options: dict[str, Any] = {"reclaim_min_idle_ms": 2_000, "reclaim_interval_ms": 60_000}
    options.update(batch_size=1, **ME)
    with proxied(cluster) as (connection, proxies):
        proxies[cluster.node(slow).port].trickle(10**6, delay=0.01)
        with StreamConsumer(connection, [quick, slow], schema=NUMBER, **options) as consumer:
            for number, batch in enumerate(consumer):
                if batch.frame["_stream"].item() == slow:
                    break
                time.sleep(0.4)
                assert number < 12
        proxies[cluster.node(slow).port].trickle(0)


def test_nodes_are_asked_where_a_part_that_asks_them_does_not_go_on(cluster: Cluster) -> None:
    """A part waits for the answer while a batch of another is in hand."""
    first, second = cluster.key_of_each()[:2]
    cluster.fill({first: [1], second: [1]})
    options: dict[str, Any] = {"block_ms": 0, "ack": "manual", **ME, **SHY}
    with (
        proxied(cluster, response_timeout=40) as (connection, proxies),
        StreamConsumer(connection, [first, second], schema=NUMBER, **options) as consumer,
    ):
        take(consumer, 2)
        stalls = [proxy.stall_after(0, once_seen=b"CLUSTER") for proxy in proxies.values()]

        def act() -> None:
            proxies[cluster.node(first).port].cut_all()
            eventually(lambda: any(stall.hits for stall in stalls))
            for proxy in proxies.values():
                proxy.clear()
            cluster.fill({second: [2]})

        with later(0.2, act):
            batch = next(consumer)
        assert pairs(batch.frame) == [(second, 2)]
        with within(5):
            assert batch.ack() == 1
        cluster.fill({first: [2]})
        assert take(consumer, 1) == {first: [2]}


def test_a_close_ends_all_waits(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    masters = [cluster.client(key) for key in keys]
    with StreamConsumer(cluster.url, keys, schema=NUMBER, block_ms=0, **ME, **SHY) as consumer:
        with later(0.3, partial(cluster.fill, {keys[0]: [1]})):
            assert take(consumer, 1) == {keys[0]: [1]}
        eventually(
            lambda: all(one.info("clients")["blocked_clients"] for one in masters[1:]), seconds=5
        )
    eventually(
        lambda: not any(one.info("clients")["blocked_clients"] for one in masters), seconds=5
    )
    assert all_pending(cluster, keys) == {}


def test_a_stop_ends_a_wait(cluster: Cluster, world: World) -> None:
    keys = cluster.key_of_each()
    consumer = work(world, cluster.url, keys, on_idle="wait", block_ms=0)
    with later(0.3, consumer.stop), within(3):
        consumer.run(lambda batch: None)


# Faults


@pytest.mark.parametrize("ack", ["manual", "on_success"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_lose_and_double_nothing(cluster: Cluster, fault: Fault, ack: Any) -> None:
    """Whatever happens to a node, its entries come, and those of the others meanwhile."""
    keys = cluster.key_of_each()
    key = keys[0]
    for one in keys:
        add_numbers(cluster.client(one), one, 1_000)
    steps = fault(cluster, key)
    given: list[tuple[str, int]] = []
    options: dict[str, Any] = {"batch_size": 100, "ack": ack, **SHY, **DRAIN, "block_ms": 300}
    with StreamConsumer(patient(cluster), keys, schema=NUMBER, **ME, **options) as consumer:
        for batch in consumer:
            given += pairs(batch.frame)
            if ack == "manual":
                batch.ack()
            if steps and len(given) > 300:
                steps.pop(0)()
    assert not steps
    expected = {(one, number) for one in keys for number in range(1, 1_001)}
    assert set(given) == expected
    twice = [row for row, count in Counter(given).items() if count > 1]
    # A master that dies takes acknowledgements with it that its replica has not got.
    assert fault is killing or not twice
    assert {one for one, _ in twice} <= {key}
    assert all_pending(cluster, keys) == {}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_faults_while_all_wait(cluster: Cluster, fault: Fault) -> None:
    keys = cluster.key_of_each()
    key, others = keys[0], keys[1:]
    cluster.fill({one: [1, 2, 3] for one in keys})
    connection = RedisConnection(cluster.url, retry_max_delay=0.5, client_name="group-waits")
    steps = fault(cluster, key)
    options: dict[str, Any] = {"block_ms": 200, "reclaim_min_idle_ms": 60_000, **ME}
    with StreamConsumer(connection, keys, schema=NUMBER, **options) as consumer:
        assert take(consumer, 9) == {one: [1, 2, 3] for one in keys}
        last = 3
        for step in steps:
            last += 1
            with in_thread(partial(take, consumer, 3)) as outcome:
                time.sleep(0.1)  # it waits by now
                step()
                for one in (*others, key):
                    eventually(partial(add_one, cluster, one, last), seconds=20)
                assert outcome() == {one: [last] for one in keys}
    assert all_pending(cluster, keys) == {}


@pytest.mark.parametrize("seed", range(3))
def test_histories_while_slots_move(cluster: Cluster, seed: int) -> None:
    """Two workers, streams that share slots and do not, and slots that move all the time."""
    random_ = random.Random(seed)
    keys = [*cluster.keys(5), "{t}:1", "{t}:2", "{t}:3"]
    for key in keys:
        add_numbers(cluster.client(key), key, 200)
    moved = iter(random_.choices(keys, k=1_000))

    def move() -> None:
        key = next(moved)
        slot, target = cluster.slot(key), cluster.other(key)
        cluster.begin_move(slot, target)
        for one in keys:
            if cluster.slot(one) == slot:
                cluster.move_key(one, target)
        cluster.end_move(slot, target)
        time.sleep(0.05)

    given: Counter[tuple[str, int]] = Counter()
    options: dict[str, Any] = {"schema": NUMBER, "group": "g", **SHY, **DRAIN, "block_ms": 700}
    with meanwhile(move):
        with (
            StreamConsumer(patient(cluster), keys, consumer="a", batch_size=30, **options) as one,
            StreamConsumer(patient(cluster), keys, consumer="b", batch_size=9, **options) as two,
        ):
            for number in range(1_000):
                batch = next(random_.choice([one, two]), None)
                if batch is None:
                    break
                given.update(pairs(batch.frame))
                if number < 20:
                    key = random_.choice(keys)
                    eventually(partial(add_one, cluster, key, 1_000 + number), seconds=20)
            for rest in (one, two):
                for batch in rest:
                    given.update(pairs(batch.frame))
    length = {key: cluster.client(key).xlen(key) for key in keys}
    assert Counter(key for key, _ in given) == length
    assert set(given.values()) == {1}
    assert all_pending(cluster, keys) == {}


@pytest.mark.parametrize("options", [{}, {"reclaim_min_idle_ms": 1_000}, {"pattern": "stream*"}])
def test_other_nodes_serve_while_one_hangs(cluster: Cluster, options: dict[str, Any]) -> None:
    keys = cluster.key_of_each()
    cluster.fill({key: [1] for key in keys})
    connection = RedisConnection(
        cluster.url, response_timeout=20, client_name=f"hangs-{len(str(options))}"
    )
    streams = None if "pattern" in options else keys
    more: dict[str, Any] = {**SHY, "block_ms": 0, **ME, **options}
    if "pattern" in options:
        more["discover_ms"] = 100
    hanging = cluster.node(keys[0])
    with StreamConsumer(connection, streams, schema=NUMBER, **more) as consumer:
        assert take(consumer, 3) == {key: [1] for key in keys}
        with paused(hanging):
            time.sleep(0.2)  # a search for streams hangs, too
            for number in range(2, 6):
                with within(1):
                    cluster.fill({key: [number] for key in keys[1:]})
                    assert take(consumer, 2) == {key: [number] for key in keys[1:]}
        cluster.fill({keys[0]: [9]})
        assert take(consumer, 1) == {keys[0]: [9]}
    assert all_pending(cluster, keys) == {}


def test_leases_of_others_hold_while_a_node_hangs(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    cluster.fill({key: [1] for key in keys})
    connection = RedisConnection(cluster.url, response_timeout=20, client_name="lease-hangs")
    options: dict[str, Any] = {"reclaim_min_idle_ms": 200, "ack": "manual", **ME}
    with StreamConsumer(connection, keys, schema=NUMBER, **options) as consumer:
        assert take(consumer, 3) == {key: [1] for key in keys}
        time.sleep(0.2)  # they are kept by now, which takes a connection each
        with paused(cluster.node(keys[0])):
            end = time.monotonic() + 0.9
            while time.monotonic() < end:
                for key in keys[1:]:
                    found: Any = cluster.client(key).xpending_range(key, "g", "-", "+", 1)
                    assert found[0]["time_since_delivered"] < 600
                time.sleep(0.02)


def test_a_processor_of_a_group(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    """Its lane, its outputs and its dead letters are in the slot of the stream."""
    # A client of the node that serves the stream learns of the cluster when it commits.
    stream = next(key for key in cluster.keys(2) if cluster.node(key) is not cluster.nodes[0])
    cluster.fill({stream: [*range(1, 8)]})
    out, dead = f"{{{stream}}}:out", f"{{{stream}}}:dead"
    options = {**ME, **DRAIN, "name": "copy", "schema": NUMBER, "batch_size": 3}
    other = "{elsewhere}"
    made = redfloe.StreamProcessor(cluster_url, stream, outputs=[out], dead_letter=dead, **options)
    with made:
        for tx in made:
            if 5 in tx.frame["n"]:
                tx.fail("5-0", "five")
            tx.publish(out, tx.frame.filter(pl.col("n") != 5))
            with pytest.raises(ValueError, match="does not share"):
                tx.publish(other, tx.frame)
    client = cluster.client(stream)
    entries: Any = client.xrange(out)
    assert [int(fields[b"n"]) for _, fields in entries] == [1, 2, 3, 4, 6, 7]
    assert client.xlen(dead) == 1
    assert pending(client, stream) == []
    assert redfloe.processor_info(cluster_url)["group"].to_list() == ["g"]
