"""Consumer groups over several streams: `StreamConsumer`, `iter_stream`, `read_stream`."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import redfloe
from redfloe import (
    NoGroupError,
    NoStreamError,
    RedisConnection,
    RedisTimeoutError,
    StreamConsumer,
    WrongTypeError,
)
from support.consumers import EAGER, SHY, World, letters
from support.groups import DRAIN, ME, all_pending, deliver, pending
from support.loops import Follow
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Numbers, fill, pairs, rows_of
from support.timing import SLACK, later, meanwhile, within

pytestmark = pytest.mark.timeout(20)

Row = tuple[str, int]


def work(world: World, server: Server | RedisConnection | str, streams: Any, **options: Any) -> Any:
    """Give the consumer that most tests use."""
    url = server.url if isinstance(server, Server) else server
    options = {**ME, **SHY, **DRAIN, **options}
    return world.consumer(url, streams, **options)


def test_all_streams_are_read_and_acknowledged(
    server: Server, client: redis.Redis, protocol: str, follow: Follow
) -> None:
    streams = {"a": [1, 2], "b": [2, 3, 4], "c": []}
    fill(client, streams)
    url, options = server.url + protocol, {**ME, **DRAIN, "auto_ack": True}
    assert rows_of(follow(url, list(streams), NUMBER, **options)) == {"a": [1, 2], "b": [2, 3, 4]}
    assert all_pending(client, streams) == {}
    fill(client, {"c": [5], "a": [9]})
    assert rows_of(follow(url, list(streams), NUMBER, **options)) == {"a": [9], "c": [5]}


def test_one_xreadgroup_waits_for_all(any_server: Server, world: World) -> None:
    streams = [f"s{number}" for number in range(50)]
    with Proxy(any_server.port) as proxy, any_server.client() as client:
        options: Any = {"on_idle": "wait", "block_ms": 5_000}
        with work(world, proxy.url, streams, **options) as consumer:
            fill(client, {"s7": [1]})
            batch = next(consumer)
            assert pairs(batch.frame) == [("s7", 1)]
            before = proxy.count(b"XREADGROUP")
            with later(0.2, lambda: fill(client, {"s3": [1], "s7": [2]})):
                got = pairs(next(consumer).frame)
                if len(got) < 2:
                    got += pairs(next(consumer).frame)
            assert sorted(got) == [("s3", 1), ("s7", 2)]
            # One that waits, and one or two more for what came together.
            assert proxy.count(b"XREADGROUP") - before <= 3


def test_own_pending_entries_of_all_come_first(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1, 2, 3], "b": [1, 2, 3], "c": [7]})
    for stream, count in ("a", 2), ("b", 1):
        client.xgroup_create(stream, "g", "0")
        client.xreadgroup("g", "me", {stream: ">"}, count=count)
    with work(world, any_server, ["a", "b", "c"]) as consumer:
        batches = [(batch.frame, batch.delivery_counts.to_list()) for batch in consumer]
    assert rows_of(frame for frame, _ in batches) == {"a": [1, 2, 3], "b": [1, 2, 3], "c": [7]}
    counts = {
        row: count
        for frame, counts in batches
        for row, count in zip(pairs(frame), counts, strict=True)
    }
    assert [row for row, count in counts.items() if count > 1] == [("a", 1), ("a", 2), ("b", 1)]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    streams=st.dictionaries(
        st.sampled_from("abcde"), st.lists(st.integers(1, 90), unique=True).map(sorted), min_size=1
    ),
    delivered=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 20)),
    batch_size=st.integers(1, 40),
    batch_bytes=st.sampled_from([1, 300, 10**6]),
    timeout=st.sampled_from([None, 1]),
    cuts=st.lists(st.integers(0, 2_000), max_size=3),
)
def test_each_entry_comes_once_whatever_is_lost(
    any_server: Server,
    client: redis.Redis,
    streams: Numbers,
    delivered: dict[str, int],
    batch_size: int,
    batch_bytes: int,
    timeout: int | None,
    cuts: list[int],
) -> None:
    """Pending before or new, in batches of any size, over connections that are lost half way."""
    client.flushdb()
    fill(client, streams)
    for stream, count in delivered.items():
        if streams.get(stream):
            client.xgroup_create(stream, "g", "0")
            client.xreadgroup("g", "me", {stream: ">"}, count=count)
    with Proxy(any_server.port) as proxy:
        for size in cuts:
            proxy.cut_after(size, once_seen=b"XREADGROUP", skip=size % 3)
        url = RedisConnection(proxy.url, retry_base_delay=0.001, retry_max_delay=0.01)
        options: Any = {
            "batch_size": batch_size,
            "batch_bytes": batch_bytes,
            "batch_timeout_ms": timeout,
        }
        with StreamConsumer(
            url, list(streams), schema=NUMBER, **ME, **SHY, **DRAIN, **options
        ) as consumer:
            batches = [(batch.frame, batch.delivery_counts) for batch in consumer]
    assert all(0 < len(frame) <= batch_size for frame, _ in batches)
    got = rows_of(frame for frame, _ in batches)
    whole = {stream: numbers for stream, numbers in streams.items() if numbers}
    # What a lost reply had comes after what had been queued.
    assert {stream: sorted(numbers) for stream, numbers in got.items()} == whole
    assert cuts or got == whole
    for frame, counts in batches:
        for (stream, number), count in zip(pairs(frame), counts, strict=True):
            was = streams[stream].index(number) < delivered.get(stream, 0)
            assert count == 1 + was, (stream, number)
    assert all_pending(client, streams) == {}
    assert consumer.stats.acknowledged == sum(map(len, whole.values()))


def test_an_acknowledgement_whose_answer_is_lost_counts(any_server: Server, world: World) -> None:
    streams = {"a": [1, 2], "b": [3]}
    with Proxy(any_server.port) as proxy, any_server.client() as client:
        fill(client, streams)
        # That of the end, which goes along with no read.
        fault = proxy.cut_after(0, once_seen=b"XACK")
        url = RedisConnection(proxy.url, retry_base_delay=0.001)
        with work(world, url, [*streams], ack="on_success", batch_timeout_ms=200) as consumer:
            assert len(next(consumer)) == 3
        assert fault.hits == 1
        assert all_pending(client, streams) == {}
    assert consumer.stats.acknowledged == 3


def test_a_silent_server_is_waited_for_once(any_server: Server, world: World) -> None:
    """Not for each of the streams whose rows are acknowledged."""
    streams = {f"s{number}": [1] for number in range(30)}
    with Proxy(any_server.port) as proxy, any_server.client() as client:
        fill(client, streams)
        url = RedisConnection(proxy.url, response_timeout=0.2, max_retries=0)
        options: Any = {"ack": "manual", "batch_timeout_ms": 200}
        with work(world, url, [*streams], **options) as consumer:
            batch = next(consumer)
            assert len(batch) == 30
            before = proxy.connections
            proxy.stall_after(0, once_seen=b"XACK", times=None)
            with pytest.raises(RedisTimeoutError, match="stream: s"):
                world.do(batch.ack())
            assert proxy.connections - before <= 2
            proxy.clear()
            # The server had taken it.
            assert world.do(batch.ack()) == 0
    assert all_pending(client, streams) == {}


@pytest.mark.parametrize("is_silent", [False, True])
def test_read_stream_acknowledges_all_streams_at_once(any_server: Server, is_silent: bool) -> None:
    streams = {f"s{number}": [1, 2] for number in range(30)}
    with Proxy(any_server.port) as proxy, any_server.client() as client:
        fill(client, streams)
        for stream in streams:
            client.xgroup_create(stream, "g", "0")
        if is_silent:
            proxy.stall_after(0, once_seen=b"XACK", times=None)
        url = RedisConnection(proxy.url, response_timeout=0.2, max_retries=0)
        options: Any = {"auto_ack": True, **ME}
        df = redfloe.read_stream(url, [*streams], NUMBER, **options)
        assert rows_of([df]) == streams
        assert proxy.round_trips < 10
        assert proxy.connections <= 3
        assert all_pending(client, streams) == {}


@pytest.mark.parametrize("streams", ["a", ["a", "b"]], ids=["one", "several"])
def test_what_was_fetched_in_advance_is_another_s_at_once(
    any_server: Server, client: redis.Redis, world: World, streams: Any
) -> None:
    """Where a worker ends: nobody has seen it, and it counts as delivered no more than before."""
    for number in range(1, 11):
        client.xadd("a", {"n": number, "text": "x" * 100_000}, id=f"{number}-0")
    client.xgroup_create("b", "g", "0", mkstream=True)
    options: Any = {"group": "g", "reclaim_min_idle_ms": 60_000, "on_idle": "stop", "block_ms": 500}
    options["schema"] = {"n": pl.Int64, "text": pl.String}
    with world.consumer(any_server.url, streams, consumer="me", batch_bytes=1, **options) as me:
        given = next(me).frame["n"].to_list()
        assert len(given) < len(pending(client, "a"))
    counts: dict[int, int] = {}
    with world.consumer(any_server.url, streams, consumer="you", **options) as you:
        for batch in you:
            counts.update(zip(batch.frame["n"], batch.delivery_counts, strict=True))
    assert counts == {number: 1 for number in range(1, 11) if number not in given}
    assert pending(client, "a") == []


def test_a_hot_stream_keeps_no_other_waiting(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """One of a hundred has entries without end; the others one now and then."""
    quiet = [f"quiet{number}" for number in range(99)]
    fill(client, {"hot": list(range(1, 20_001))})
    options: Any = {"batch_size": 100, "on_idle": "wait"}
    with work(world, any_server, ["hot", *quiet], **options) as consumer:
        next(consumer)
        fill(client, {stream: [1] for stream in quiet})
        seen: Counter[str] = Counter()
        for number, batch in enumerate(consumer):
            seen.update(batch.frame["_stream"])
            if len(seen) > len(quiet):
                break
            assert number < 40, f"{len(quiet) + 1 - len(seen)} still wait"


def test_a_hot_stream_keeps_no_other_from_being_found(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """One that matches the pattern, goes and comes again while another has entries without end."""
    fill(client, {"p1": list(range(1, 5_001)), "p2": [1]})
    options: Any = {"batch_size": 5, "create_group": True, "pattern": "p*", "discover_ms": 1}
    with work(world, any_server, None, **options) as consumer:
        seen: Counter[str] = Counter()
        while not seen["p2"]:
            seen.update(next(consumer).frame["_stream"])
        client.delete("p2")
        for _ in range(50):
            seen.update(next(consumer).frame["_stream"])
        client.xadd("p2", {"n": 2}, id="2-0")
        while seen["p2"] < 2:
            time.sleep(0.001)  # searching takes a while, too, beside reading
            seen.update(next(consumer).frame["_stream"])
        assert seen["p1"] < 5_000


def test_a_hot_stream_is_not_slowed_by_the_others(any_server: Server, client: redis.Redis) -> None:
    """It is asked alone as long as it has more, for a batch's worth at once."""
    quiet = [f"quiet{number}" for number in range(999)]
    fill(client, {"hot": list(range(1, 5_001))})
    with Proxy(any_server.port) as proxy:
        consumer = StreamConsumer(proxy.url, ["hot", *quiet], schema=NUMBER, **ME, **SHY, **DRAIN)
        with consumer:
            assert sum(len(batch) for batch in consumer) == 5_000
        reads = [command for command in proxy.commands if command[0] == b"XREADGROUP"]
    of_all = [command for command in reads if len(command) > 1_000]
    assert len(reads) < 100
    assert len(of_all) < 40


def test_a_stream_with_entries_is_waited_for_alone(any_server: Server) -> None:
    """Naming all streams costs the server time, so it is done now and then only."""
    streams = [f"s{number}" for number in range(2_000)]
    with Proxy(any_server.port) as proxy, any_server.client() as client:
        options: Any = {**ME, **SHY, "schema": NUMBER, "block_ms": 1_000}
        with StreamConsumer(proxy.url, streams, **options) as consumer:
            batches = iter(consumer)
            with later(0, lambda: fill(client, {"s7": [1]})):
                next(batches)
            before, begun = len(proxy.commands), time.monotonic()
            for number in range(2, 102):
                fill(client, {"s7": [number]})
                assert pairs(next(batches).frame) == [("s7", number)]
            took = time.monotonic() - begun
            # The others do not wait for long.
            fill(client, {"s9": [1], "s7": [102]})
            got = pairs(next(batches).frame)
            while ("s9", 1) not in got:
                got += pairs(next(batches).frame)
        reads = [one for one in proxy.commands[before:] if one[0] == b"XREADGROUP"]
    of_all = [one for one in reads if len(one) > 2_000]
    assert len(of_all) <= took / 0.02 + 10 < len(reads) + 10


def test_a_missing_group_is_an_error_that_names_its_stream(
    server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {"a": [1], "b": [1]})
    client.xgroup_create("a", "g", "0")
    with pytest.raises(NoGroupError, match="stream: b"):
        list(follow(server.url, ["a", "b"], NUMBER, **ME, **DRAIN, create_group=False))


def test_a_group_that_gets_lost_does_not_stop_the_rest(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1, 2], "b": [1, 2]})
    with work(world, any_server, ["a", "b"], on_group_lost="recreate", on_idle="wait") as consumer:
        assert rows_of([next(consumer).frame]) == {"a": [1, 2], "b": [1, 2]}
        client.xgroup_destroy("b", "g")
        fill(client, {"a": [3], "b": [3]})
        got: Numbers = {}
        while sum(map(len, got.values())) < 2:
            for stream, numbers in rows_of([next(consumer).frame]).items():
                got.setdefault(stream, []).extend(numbers)
        # Those of the batch that was in hand were done with, and do not come again.
        assert got == {"a": [3], "b": [3]}


def test_many_lost_groups_take_one_pause(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    streams = {f"s{number}": [1] for number in range(300)}
    fill(client, streams)
    options: Any = {"on_group_lost": "recreate", "block_ms": 500}
    with work(world, any_server, [*streams], **options) as consumer:
        assert len(next(consumer)) == 300
        pipeline = client.pipeline(transaction=False)
        for stream in streams:
            pipeline.xgroup_destroy(stream, "g")
        pipeline.execute()
        fill(client, {stream: [2] for stream in streams})
        with within(3):
            got: Numbers = {}
            while len(got) < 300:
                got.update(rows_of([next(consumer).frame]))
    assert got == {stream: [2] for stream in streams}


@pytest.mark.parametrize("start", ["0", "$"])
def test_a_stream_that_was_replaced_between_two_searches_is_a_new_one(
    server: Server, client: redis.Redis, world: World, start: str
) -> None:
    """Also where its entries have greater IDs, which Redis 7.0 tells from a lost group."""
    fill(client, {"p:1": [4], "p:2": [4]})
    options: Any = {"pattern": "p:*", "discover_ms": 60_000, "group_start_id": start}
    with work(world, server, None, block_ms=500, **options) as consumer:
        if start == "$":
            with later(0.1, lambda: fill(client, {"p:1": [5], "p:2": [5]})):
                assert sum(map(len, (next(consumer),))) >= 1
        else:
            assert len(next(consumer)) == 2
        client.delete("p:1")
        last = 3 if any(client.info("server")["redis_version"].startswith(v) for v in "56") else 9
        fill(client, {"p:1": [last]})
        got: list[Row] = []
        while ("p:1", last) not in got:
            got += pairs(next(consumer).frame)


def test_a_group_that_was_deleted_is_still_missed(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"p:1": [1], "p:2": [1]})
    options: Any = {"pattern": "p:*", "discover_ms": 60_000, "block_ms": 500}
    with work(world, any_server, None, **options) as consumer:
        assert len(next(consumer)) == 2
        client.xgroup_destroy("p:1", "g")
        fill(client, {"p:1": [2], "p:2": [2]})
        with pytest.raises(NoGroupError, match="stream: p:1"):
            list(consumer)


def test_rows_of_many_streams_are_acknowledged_in_few_round_trips(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    streams = {f"s{number}": [1, 2] for number in range(300)}
    fill(client, streams)
    with Proxy(any_server.port) as proxy:
        with work(world, proxy.url, [*streams], ack="manual", batch_size=600) as consumer:
            batch = next(consumer)
            assert len(batch) > 200
            before = proxy.round_trips
            assert world.do(batch.ack()) == len(batch)
            assert proxy.round_trips - before <= 3
            for rest in consumer:
                world.do(rest.ack())
    assert all_pending(client, streams) == {}


def test_acknowledging_many_streams_goes_on_where_one_fails(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1], "b": [1], "c": [1]})
    with work(world, any_server, ["a", "b", "c"], ack="manual") as consumer:
        batch = next(consumer)
        assert len(batch) == 3
        client.set("b", "no stream any more")
        with pytest.raises(WrongTypeError, match="stream: b"):
            world.do(batch.ack())
        assert all_pending(client, "ac") == {}
        client.delete("b")


def test_a_lost_group_raises_by_default(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1], "b": [1]})
    with work(world, any_server, ["a", "b"], on_idle="wait") as consumer:
        next(consumer)
        client.xgroup_destroy("b", "g")
        fill(client, {"a": [2]})
        with pytest.raises(NoGroupError, match="stream: b"):
            list(consumer)
    # What is not acknowledged comes again.
    with work(world, any_server, ["a", "b"]) as consumer:
        assert ("a", 2) in [row for batch in consumer for row in pairs(batch.frame)]


def test_a_pattern_takes_in_what_appears_and_leaves_out_what_vanishes(
    server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"ev:a": [1], "ev:b": [1], "other": [1]})
    options: Any = {"discover_ms": 20, "on_idle": "wait", "group_start_id": "$", "block_ms": 50}
    with work(world, server, None, pattern="ev:*", **options) as consumer:
        with later(0.05, lambda: fill(client, {"ev:b": [2]})):
            assert pairs(next(consumer).frame) == [("ev:b", 2)]
        client.delete("ev:b")
        with later(0.1, lambda: fill(client, {"ev:c": [1, 2]})):
            # All that it has was added since.
            assert pairs(next(consumer).frame) == [("ev:c", 1), ("ev:c", 2)]
        fill(client, {"ev:a": [2]})
        assert pairs(next(consumer).frame) == [("ev:a", 2)]
        assert not client.exists("ev:b")
        fill(client, {"ev:b": [1]})
        assert pairs(next(consumer).frame) == [("ev:b", 1)]
    assert all_pending(client, ["ev:a", "ev:b", "ev:c"]) == {}


def test_a_pattern_that_matches_nothing_yet(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    with work(world, any_server, None, pattern="no:*") as consumer:
        assert list(consumer) == []
    options: Any = {"discover_ms": 20, "on_idle": "wait", "block_ms": 50}
    with work(world, any_server, None, pattern="no:*", **options) as consumer:
        with later(0.1, lambda: fill(client, {"no:1": [1]})):
            assert pairs(next(consumer).frame) == [("no:1", 1)]
    with pytest.raises(NoStreamError, match='pattern "never'):
        with work(world, any_server, None, pattern="never:*", must_exist=True) as consumer:
            next(consumer)


def test_streams_without_a_group_are_left_out_of_a_pattern(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"ev:a": [1], "ev:b": [1]})
    client.xgroup_create("ev:a", "g", "0")
    options: Any = {"create_group": False, "discover_ms": 20, "on_idle": "wait", "block_ms": 20}
    with work(world, any_server, None, pattern="ev:*", **options) as consumer:
        assert pairs(next(consumer).frame) == [("ev:a", 1)]
        client.xgroup_create("ev:b", "g", "0")
        assert pairs(next(consumer).frame) == [("ev:b", 1)]


def test_the_dead_letters_are_none_of_the_streams(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"ev:a": [1], "ev:b": [2]})
    client.xadd("ev:b", {"n": "no number"}, id="3-0")
    client.xadd("ev:a", {"n": "none either"}, id="3-0")
    options: Any = {"discover_ms": 10, "dead_letter": "ev:dead"}
    with work(world, any_server, None, pattern="ev:*", **options) as consumer:
        assert rows_of(batch.frame for batch in consumer) == {"ev:a": [1], "ev:b": [2]}
    dead = {(one[b"_dead_stream"], one[b"_dead_id"]) for one in letters(client, "ev:dead")}
    assert dead == {(b"ev:a", b"3-0"), (b"ev:b", b"3-0")}
    assert all_pending(client, ["ev:a", "ev:b"]) == {}
    assert consumer.stats.dead_lettered == 2
    assert {key: one.dead_lettered for key, one in consumer.stats.streams.items()} == {
        "ev:a": 1,
        "ev:b": 1,
    }
    with pytest.raises(ValueError, match="the stream itself"):
        work(world, any_server, ["a", "dead"], dead_letter="dead")


def test_entries_of_one_id_are_told_apart(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1, 2, 3], "b": [1, 2], "c": [9]})
    options: Any = {"ack": "manual", "dead_letter": "dead", "batch_timeout_ms": 50, **EAGER}
    with work(world, any_server, ["a", "b", "c"], **options) as consumer:
        batch = next(consumer)
        assert len(batch) == 6
        with pytest.raises(ValueError, match="'1-0', which is an entry of more than one stream"):
            world.do(batch.ack("1-0"))
        with pytest.raises(ValueError, match="no entry of this batch"):
            world.do(batch.ack("7-0"))
        with pytest.raises(ValueError, match="without the column '_stream'"):
            world.do(batch.ack(batch.frame.select("_id")))
        of_a = batch.frame.filter(pl.col("_stream") == "a", pl.col("n") < 3)
        assert world.do(batch.ack(of_a)) == 2
        assert world.do(batch.ack(["9-0", "3-0"])) == 2
        assert all_pending(client, "abc") == {"b": [1, 2]}
        assert world.do(batch.extend()) == 2
        one = batch.frame.filter(pl.col("_stream") == "b", pl.col("n") == 1)
        assert world.do(batch.fail(one, "so")) == 1
        rest = batch.frame.filter(pl.col("_stream") == "b", pl.col("n") == 2)
        assert world.do(batch.nack(rest, delay_ms=0)) == 1
        again = next(consumer)
        assert (pairs(again.frame), again.delivery_counts.to_list()) == ([("b", 2)], [2])
        assert world.do(again.ack()) == 1
    assert [(one[b"_dead_stream"], one[b"n"]) for one in letters(client)] == [(b"b", b"1")]
    stats = consumer.stats
    assert (stats.acknowledged, stats.entries, stats.dead_lettered) == (5, 7, 1)
    assert {key: one.acknowledged for key, one in stats.streams.items()} == {"a": 3, "b": 1, "c": 1}


def test_what_others_left_is_claimed_by_stream(
    server: Server, client: redis.Redis, world: World
) -> None:
    streams = {"a": [1, 2, 3], "b": [1, 2], "c": [4], "d": []}
    fill(client, streams)
    for stream in "abc":
        client.xgroup_create(stream, "g", "0")
        client.xreadgroup("g", "gone", {stream: ">"})
    fill(client, {"d": [1]})
    with work(world, server, list(streams), **EAGER) as consumer:
        batches = [(batch.frame, batch.delivery_counts.to_list()) for batch in consumer]
    got = rows_of(frame for frame, _ in batches)
    assert {stream: sorted(numbers) for stream, numbers in got.items()} == {**streams, "d": [1]}
    for frame, counts in batches:
        # What was claimed is in batches of its own.
        assert len(set(counts)) == 1
        assert (counts[0] == 1) == (frame["_stream"].to_list() == ["d"])
    assert all_pending(client, streams) == {}
    assert consumer.stats.reclaimed == 6


def test_the_last_delivery_is_alone(any_server: Server, client: redis.Redis, world: World) -> None:
    """An entry that kills its worker takes no other along, of whichever stream."""
    fill(client, {"a": [1, 2], "b": [1, 2]})
    for stream in "ab":
        client.xgroup_create(stream, "g", "0")
        client.xreadgroup("g", "me", {stream: ">"})
    options: Any = {"max_deliveries": 2, "dead_letter": "dead", "batch_timeout_ms": 10}
    with work(world, any_server, ["a", "b"], **options) as consumer:
        batches = [pairs(batch.frame) for batch in consumer]
    assert sorted(batches) == [[("a", 1)], [("a", 2)], [("b", 1)], [("b", 2)]]


#: For workers whose entries come once, if they come.
ONCE: Any = {"max_deliveries": 1, "dead_letter": "dead"}


@pytest.mark.parametrize("by", ["list", "pattern"])
def test_with_one_delivery_each_entry_comes_alone(
    server: Server, client: redis.Redis, world: World, by: str
) -> None:
    """And no other has been sent by then: it would count as delivered."""
    streams = {"s:a": [1, 2, 3], "s:b": [1], "s:d": [4, 5]}
    fill(client, streams)
    everything = sorted((stream, n) for stream, numbers in streams.items() for n in numbers)
    key, options = ([*streams, "s:c"], ONCE) if by == "list" else (None, {"pattern": "s:*", **ONCE})
    got: list[Row] = []
    with work(world, server, key, **options) as consumer:
        for batch in consumer:
            [row] = pairs(batch.frame)
            got.append(row)
            assert all_pending(client, streams) == {row[0]: [row[1]]}
            assert batch.delivery_counts.to_list() == [1]
    assert sorted(got) == everything
    assert all_pending(client, streams) == {}
    assert not client.exists("dead")


def test_with_one_delivery_streams_take_turns(any_server: Server, client: redis.Redis) -> None:
    """Also those that get entries while one has them without end, which is not slowed by many."""
    streams: Numbers = {f"s{number}": [] for number in range(50)}
    fill(client, {**streams, "s7": list(range(1, 2_001))})
    came: list[Row] = []
    with StreamConsumer(any_server.url, [*streams], schema=NUMBER, **ME, **SHY, **ONCE) as consumer:
        begun = time.monotonic()
        for batch in consumer:
            came += pairs(batch.frame)
            if len(came) == 100:
                fill(client, {"s3": [1], "s9": [1]})
            if len(came) == 300:
                break
        took = time.monotonic() - begun
    late = [came.index((stream, 1)) for stream in ("s3", "s9")]
    assert max(late) < 250, late
    assert took < 1 * SLACK


def test_with_one_delivery_what_comes_is_waited_for(
    any_server: Server, client: redis.Redis
) -> None:
    """In one request for all, which others do not end, and that sends nothing."""
    options: Any = {"schema": NUMBER, **ME, **SHY, **ONCE, "group_start_id": "$"}
    fill(client, {"a": [1], "b": [1]})
    with StreamConsumer(any_server.url, ["a", "b"], **options) as consumer:
        with later(0.3, lambda: client.eval(TWO, 0)):
            before = commands(client)
            first = next(consumer)
            assert commands(client) - before < 20
        [row] = pairs(first.frame)
        assert all_pending(client, "ab") == {row[0]: [row[1]]}
        second = next(consumer)
        assert {*pairs(first.frame), *pairs(second.frame)} == {("a", 2), ("b", 2)}
        # Others take part, and the group is set back while it is waited for.
        with later(0.2, partial(take_one, client)), later(0.4, partial(set_back, client)):
            with within(5):
                got = [pairs(next(consumer).frame) for _ in range(2)]
    assert got == [[("a", 1)], [("a", 2)]]


#: Two entries at once, of two streams.
TWO = "redis.call('XADD', 'a', '2-0', 'n', '2'); redis.call('XADD', 'b', '2-0', 'n', '2')"


def commands(client: redis.Redis) -> int:
    stats: Any = client.info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xread", "xreadgroup")
    )


def take_one(client: redis.Redis) -> None:
    """Add an entry that another consumer is sent, most of the time."""
    pipeline = client.pipeline(transaction=True)
    pipeline.xadd("b", {"n": 3}, id="3-0")
    pipeline.xreadgroup("g", "other", {"b": ">"})
    pipeline.execute()


def set_back(client: redis.Redis) -> None:
    client.xgroup_setid("a", "g", "0")


def test_with_one_delivery_nothing_that_nobody_saw_is_a_dead_letter(
    any_server: Server, client: redis.Redis
) -> None:
    """Whenever the connection is lost: each entry comes once."""
    streams = {stream: list(range(1, 8)) for stream in "abc"}
    fill(client, streams)
    seen: Counter[Row] = Counter()
    with Proxy(any_server.port) as proxy:
        for cut in range(0, 2_000, 97):
            proxy.cut_after(cut % 300, once_seen=b"XREADGROUP", skip=cut % 7)
        url = RedisConnection(proxy.url, retry_base_delay=0.001, retry_max_delay=0.01)
        options: Any = {"schema": NUMBER, **ME, **SHY, **DRAIN, **ONCE}
        with StreamConsumer(url, [*streams], **options) as consumer:
            for batch in consumer:
                seen.update(pairs(batch.frame))
    everything = {(stream, n) for stream, numbers in streams.items() for n in numbers}
    assert set(seen) == everything
    assert set(seen.values()) == {1}
    assert not client.exists("dead")


def test_with_one_delivery_two_workers_share_streams(
    any_server: Server, client: redis.Redis
) -> None:
    streams = {f"s{number}": list(range(1, 31)) for number in range(4)}
    fill(client, streams)
    seen: Counter[Row] = Counter()

    def drain(name: str) -> None:
        options = {**ME, "consumer": name, **SHY, **DRAIN, **ONCE}
        with StreamConsumer(any_server.url, [*streams], schema=NUMBER, **options) as consumer:
            for batch in consumer:
                seen.update(pairs(batch.frame))

    with later(0, partial(drain, "one")):
        drain("two")
    assert seen == Counter((stream, n) for stream, numbers in streams.items() for n in numbers)
    assert all_pending(client, streams) == {}
    assert not client.exists("dead")


@pytest.mark.parametrize("denied", ["-xinfo", "-xinfo -eval -evalsha -script"])
def test_with_one_delivery_a_user_who_may_not_ask_for_groups(
    any_server: Server, client: redis.Redis, denied: str
) -> None:
    fill(client, {"a": [1, 2, 3], "b": [1]})
    for stream in "ab":
        client.xgroup_create(stream, "g", "0")
    deliver(client, "a", 1, consumer="other")
    rules: Any = ["+@all", *denied.split()]
    client.acl_setuser("blind", enabled=True, passwords=["+x"], keys=["*"], commands=rules)
    url = any_server.url.replace("redis://", "redis://blind:x@")
    try:
        with StreamConsumer(url, ["a", "b"], schema=NUMBER, **ME, **SHY, **ONCE) as consumer:
            got = [pairs(next(consumer).frame) for _ in range(3)]
            with later(0.2, partial(fill, client, {"b": [2]})), within(3):
                got.append(pairs(next(consumer).frame))
    finally:
        client.acl_deluser("blind")
    assert sorted(got) == [[("a", 2)], [("a", 3)], [("b", 1)], [("b", 2)]]


@pytest.mark.parametrize("options", [{}, ONCE], ids=["", "once"])
def test_a_stream_of_a_pattern_that_becomes_something_else_is_left_out(
    any_server: Server, client: redis.Redis, world: World, options: dict[str, Any]
) -> None:
    """As one that is deleted; and it is read again when it is a stream once more."""
    client.set("s:text", "x")
    fill(client, {"s:a": [1], "s:b": [1]})
    options = {"discover_ms": 60_000, "on_idle": "wait", "block_ms": 50, **options}
    with work(world, any_server, None, pattern="s:*", **options) as consumer:
        got: list[Row] = []
        while len(got) < 2:
            got += pairs(next(consumer).frame)
        assert sorted(got) == [("s:a", 1), ("s:b", 1)]
        # Also where its entry is still in hand.
        client.delete("s:b")
        client.set("s:b", "x")
        for number in range(2, 6):
            with later(0.05, partial(fill, client, {"s:a": [number]})), within(3):
                assert pairs(next(consumer).frame) == [("s:a", number)]
    assert all_pending(client, ["s:a"]) == {}


def test_what_became_something_else_is_read_again_once_it_is_a_stream(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"s:a": [1], "s:b": [1]})
    options: Any = {"discover_ms": 20, "on_idle": "wait", "block_ms": 50}
    with work(world, any_server, None, pattern="s:*", batch_timeout_ms=50, **options) as consumer:
        assert len(next(consumer).frame) == 2
        client.delete("s:b")
        client.set("s:b", "x")
        with later(0.1, partial(fill, client, {"s:a": [2]})):
            assert pairs(next(consumer).frame) == [("s:a", 2)]
        client.delete("s:b")
        fill(client, {"s:b": [1]})
        with within(3):
            assert pairs(next(consumer).frame) == [("s:b", 1)]


def test_what_is_in_hand_of_what_becomes_something_else_is_nobody_s(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """Its rows have nothing to acknowledge, as those of a deleted stream; the others do."""
    fill(client, {"s:a": [1], "s:b": [1]})
    with work(world, any_server, None, pattern="s:*", batch_timeout_ms=50) as consumer:
        assert len(pairs(next(consumer).frame)) == 2
        client.delete("s:b")
        client.set("s:b", "x")
    assert consumer.stats.acknowledged == 1
    assert all_pending(client, ["s:a"]) == {}


def test_a_lost_group_beside_a_stream_that_became_something_else(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"s:a": [1], "s:b": [1]})
    options: Any = {"discover_ms": 60_000, "on_idle": "wait", "on_group_lost": "recreate"}
    with work(world, any_server, None, pattern="s:*", **options) as consumer:
        got: list[Row] = []
        while len(got) < 2:
            got += pairs(next(consumer).frame)
        client.delete("s:b")
        client.set("s:b", "x")
        client.xgroup_destroy("s:a", "g")
        fill(client, {"s:a": [2]})
        with within(3):
            while ("s:a", 2) not in got:
                got += pairs(next(consumer).frame)


def test_one_entry_that_raises_is_alone_in_the_dead_letters_of_several_streams(
    server: Server, client: redis.Redis, world: World
) -> None:
    """Nothing of its stream or of others goes along when its worker raises again and again."""
    streams = {stream: list(range(1, 41)) for stream in "abc"}
    fill(client, streams)
    options: Any = {"batch_size": 50, "max_deliveries": 3, "dead_letter": "dead", **EAGER}
    done: list[Row] = []
    deliveries: list[int] = []
    for _ in range(5):
        try:
            with work(world, server, list(streams), **options) as consumer:
                for batch in consumer:
                    if ("b", 30) in pairs(batch.frame):
                        deliveries.append(len(batch))
                        raise ZeroDivisionError
                    done += pairs(batch.frame)
            break
        except ZeroDivisionError:
            pass
    assert deliveries[-1] == 1
    assert len(deliveries) == 3
    everything = {(stream, n) for stream, numbers in streams.items() for n in numbers}
    assert sorted(done) == sorted(everything - {("b", 30)})
    [letter] = letters(client)
    assert (letter[b"_dead_stream"], letter[b"n"]) == (b"b", b"30")
    assert letter[b"_dead_reason"] == b"delivered 3 times, of at most 3"
    assert all_pending(client, streams) == {}


KILLED = """
    import polars as pl
    options = dict(
        group="g", consumer="me", schema={"n": pl.Int64}, dead_letter="dead",
        max_deliveries=int(sys.argv[3]), on_idle="stop", block_ms=10, reclaim_min_idle_ms=0,
        reclaim_interval_ms=10,
    )
    with redfloe.StreamConsumer(sys.argv[1], sys.argv[2].split(","), **options) as consumer:
        for batch in consumer:
            if ("b", 7) in batch.frame.select("_stream", "n").rows():
                os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("most", [1, 3])
@pytest.mark.slow
def test_one_entry_that_ends_the_process_is_alone_in_the_dead_letters_of_several_streams(
    any_server: Server, client: redis.Redis, most: int
) -> None:
    streams = {stream: list(range(1, 60)) for stream in "abc"}
    fill(client, streams)
    exits = []
    for _ in range(most + 1):
        with python(KILLED, any_server.url, ",".join(streams), str(most)) as process:
            exits.append(process.wait(20))
    assert exits == [-9] * most + [0]
    assert [(one[b"_dead_stream"], one[b"n"]) for one in letters(client)] == [(b"b", b"7")]
    assert all_pending(client, streams) == {}


def test_a_handler_s_failures_are_by_stream(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1, 2, 3], "b": [1, 2, 3]})

    def handle(batch: Any) -> None:
        if ("b", 2) in pairs(batch.frame):
            raise RuntimeError("no")

    consumer = work(world, any_server, ["a", "b"], dead_letter="dead")
    consumer.run(handle, attempts=1)
    assert [(one[b"_dead_stream"], one[b"n"]) for one in letters(client)] == [(b"b", b"2")]
    assert all_pending(client, "ab") == {}
    assert consumer.stats.acknowledged == 5


def test_what_is_in_hand_is_kept_by_stream(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1], "b": [1]})
    options: Any = {"reclaim_min_idle_ms": 200, "batch_timeout_ms": 50}
    with work(world, any_server, ["a", "b"], **options) as consumer:
        assert len(next(consumer)) == 2
        end = time.monotonic() + 0.6
        most = {"a": 0, "b": 0}
        while time.monotonic() < end:
            for stream in "ab":
                found: Any = client.xpending_range(stream, "g", "-", "+", 1)
                most[stream] = max(most[stream], found[0]["time_since_delivered"])
            time.sleep(0.01)
        assert max(most.values()) < 200 * SLACK, most
        assert len(list(consumer)) == 0


def test_a_key_of_another_type_is_named(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {"a": [1]})
    client.set("b", "text")
    with pytest.raises(WrongTypeError, match="stream: b"):
        with work(world, any_server, ["a", "b"]) as consumer:
            list(consumer)


def test_read_stream_takes_what_is_there_of_all(
    server: Server, client: redis.Redis, runner: Any
) -> None:
    fill(client, {"a": [1, 2], "b": [3], "c": []})
    options: Any = {**ME, "auto_ack": True}
    df = redfloe.read_stream(server.url, ["a", "b", "c"], NUMBER, **options)
    assert rows_of([df]) == {"a": [1, 2], "b": [3]}
    assert all_pending(client, "abc") == {}
    fill(client, {"c": [1, 2, 3], "a": [5, 6]})
    reading = redfloe.read_stream_async(server.url, ["a", "b", "c"], NUMBER, count=3, **options)
    df = runner.run(reading)
    assert len(df) == 3
    assert all_pending(client, "abc") == {}
    rest = redfloe.read_stream(server.url, ["a", "b", "c"], NUMBER, **options)
    assert sorted(pairs(df) + pairs(rest)) == [("a", 5), ("a", 6), ("c", 1), ("c", 2), ("c", 3)]
    empty = redfloe.read_stream(server.url, ["a", "b"], NUMBER, **options)
    assert empty.columns == ["_id", "_ts", "_stream", "n"]
    assert len(empty) == 0
    with later(0.1, lambda: fill(client, {"b": [8]})):
        df = redfloe.read_stream(server.url, ["a", "b"], NUMBER, block_ms=5_000, **options)
    assert pairs(df) == [("b", 8)]


def test_read_stream_ends_though_entries_come_without_end(any_server: Server) -> None:
    with any_server.client() as client:
        fill(client, {"a": list(range(1, 3_000)), "b": [1]})
        script = client.register_script(
            "for i = 1, 500 do redis.call('XADD', KEYS[1], '*', 'n', i) end"
        )
        with meanwhile(lambda: script(keys=["a"])), within(5):
            df = redfloe.read_stream(any_server.url, ["a", "b"], NUMBER, **ME)
        assert len(df) >= 3_000


def test_count_is_of_all_and_exact(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    streams = {f"s{number}": [1, 2, 3] for number in range(7)}
    fill(client, streams)
    frames = list(follow(any_server.url, list(streams), NUMBER, count=5, **ME, **DRAIN))
    assert sum(map(len, frames)) == 5
    # Nothing more was delivered.
    assert sum(map(len, all_pending(client, streams).values())) == 5


def test_the_last_batch_of_a_count_is_acknowledged(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    streams = {f"s{number}": [1, 2, 3] for number in range(7)}
    fill(client, streams)
    options: dict[str, Any] = {"auto_ack": True, "batch_size": 4, **ME, **DRAIN}
    assert sum(map(len, follow(any_server.url, [*streams], NUMBER, count=15, **options))) == 15
    assert not any(all_pending(client, streams).values())


@pytest.mark.parametrize("collects", [{}, {"batch_timeout_ms": 50}])
def test_a_count_below_the_number_of_streams(
    any_server: Server, client: redis.Redis, follow: Follow, collects: dict[str, Any]
) -> None:
    """They are asked in turns; nothing has come once all had theirs."""
    streams = [f"s{number}" for number in range(7)]
    options: dict[str, Any] = {**ME, "count": 5, **DRAIN, "block_ms": 50, **collects}
    fill(client, {"s3": [1, 2], "s6": [1]})
    before = client.info("commandstats").get("cmdstat_xreadgroup", {"calls": 0})["calls"]
    with within(5):
        frames = [*follow(any_server.url, streams, NUMBER, **options)]
    assert rows_of(frames) == {"s3": [1, 2], "s6": [1]}
    assert client.info("commandstats")["cmdstat_xreadgroup"]["calls"] - before < 100
    fill(client, {stream: [3, 4] for stream in streams})
    assert sum(map(len, follow(any_server.url, streams, NUMBER, **options))) == 5


@pytest.mark.parametrize("count", [None, 3])
def test_a_read_waits_for_what_comes_late(
    any_server: Server, client: redis.Redis, count: int | None
) -> None:
    streams = [f"s{number}" for number in range(7)]
    options: dict[str, Any] = {**ME, "count": count, "block_ms": 20_000}
    with later(0.4, lambda: fill(client, {"s5": [7]})), within(8):
        df = redfloe.read_stream(any_server.url, streams, NUMBER, **options)
    assert rows_of([df]) == {"s5": [7]}
    with within(8):
        options["block_ms"] = 300
        assert redfloe.read_stream(any_server.url, streams, NUMBER, **options).is_empty()


def test_deliveries_are_counted_once(server: Server, client: redis.Redis) -> None:
    """Also where the server refuses the first of several requests in a pipeline (MAXSIZE)."""
    streams = {"a": [1, 2, 3], "b": [1, 2, 3], "c": [1, 2, 3]}
    fill(client, streams)
    for deliveries in (1, 2, 3):
        with StreamConsumer(server.url, [*streams], *ME.values(), ack="manual", **DRAIN) as one:
            assert sum(map(len, one)) == 9
        for stream in streams:
            listed = client.xpending_range(stream, "g", "-", "+", 10)
            assert {entry["times_delivered"] for entry in listed} == {deliveries}


def test_idle_consumers_of_a_pattern_are_removed(any_server: Server, client: redis.Redis) -> None:
    fill(client, {"a:1": [1], "a:2": [1]})
    for stream in ("a:1", "a:2"):
        client.xgroup_create(stream, "g", "0")
        client.xgroup_createconsumer(stream, "g", "old")
    time.sleep(0.05)
    options: dict[str, Any] = {"remove_idle_consumers_ms": 20, **DRAIN}
    with StreamConsumer(any_server.url, None, *ME.values(), pattern="a:*", **options) as consumer:
        assert sum(map(len, consumer)) == 2
    for stream in ("a:1", "a:2"):
        assert [one["name"] for one in client.xinfo_consumers(stream, "g")] == [b"me"]


def test_a_user_who_may_not_ask_for_groups(any_server: Server, client: redis.Redis) -> None:
    """What the server says of a lost group names it."""
    fill(client, {"a": [1], "b": [1]})
    client.acl_setuser(
        "blind", enabled=True, passwords=["+x"], keys=["*"], commands=["+@all", "-xinfo"]
    )
    url = any_server.url.replace("redis://", "redis://blind:x@")
    options: dict[str, Any] = {"on_group_lost": "recreate", "schema": NUMBER, **ME, **SHY}
    try:
        with StreamConsumer(url, ["a", "b"], **options) as consumer:
            assert rows_of([next(consumer).frame]) == {"a": [1], "b": [1]}
            client.xgroup_destroy("b", "g")
            fill(client, {"b": [2]})
            with within(3):
                assert 2 in rows_of([next(consumer).frame])["b"]
    finally:
        client.acl_deluser("blind")


def test_infer_schema(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    fill(client, {"a": [1], "b": [2]})
    options: Any = {**ME, **DRAIN, "infer_schema": True}
    frames = list(follow(any_server.url, ["a", "b"], **options))
    assert all(frame.schema["n"] == pl.Int64 for frame in frames)
    assert rows_of(frames) == {"a": [1], "b": [2]}


def test_without_a_group(any_server: Server, client: redis.Redis, world: World) -> None:
    fill(client, {"a": [1, 2], "b": [1]})
    options: Any = {"group": None, "consumer": None, "reclaim_min_idle_ms": 30_000}
    with work(world, any_server, ["a", "b"], **options) as consumer:
        got = [(pairs(batch.frame), world.do(batch.ack())) for batch in consumer]
    assert sorted(row for rows, _ in got for row in rows) == [("a", 1), ("a", 2), ("b", 1)]
    assert sum(number for _, number in got) == 3


def test_what_is_not_possible_is_refused_at_once(any_server: Server) -> None:
    url = any_server.url
    with pytest.raises(TypeError, match="either stream or pattern"):
        StreamConsumer(url, **ME)
    with pytest.raises(TypeError, match="either stream or pattern"):
        StreamConsumer(url, "a", pattern="b*", **ME)
    with pytest.raises(ValueError, match="'a' twice"):
        StreamConsumer(url, ["a", "a"], **ME)
    with pytest.raises(ValueError, match='order="id" has no meaning with a group'):
        redfloe.read_stream(url, ["a", "b"], order="id", **ME)
    with pytest.raises(ValueError, match=r'end_id must be "\+"'):
        StreamConsumer(url, ["a", "b"], end_id="5-0", **ME)


def test_its_repr_and_its_batches_name_the_streams(any_server: Server, client: redis.Redis) -> None:
    fill(client, {"a": [1], "b": [1]})
    consumer = StreamConsumer(any_server.url, ["a", "b"], **ME, **DRAIN, batch_timeout_ms=20)
    assert "streams=['a', 'b']" in repr(consumer)
    with consumer:
        assert repr(next(iter(consumer))) == "Batch(2 entries of 2 streams)"
    assert "pattern='a*'" in repr(StreamConsumer(any_server.url, pattern="a*", **ME))


WORKER = """
    consumer = redfloe.StreamConsumer(
        sys.argv[1], sys.argv[3].split(","), "g", sys.argv[2], schema={"n": redfloe_polars.Int64},
        reclaim_min_idle_ms=300, reclaim_interval_ms=50, batch_size=20, block_ms=20,
    )
    seen = 0
    with consumer:
        for batch in consumer:
            print(json.dumps(batch.frame.select("_stream", "n").rows()), flush=True)
            sys.stdin.readline()
"""


def goes_on(worker: subprocess.Popen[str]) -> None:
    """Tell it that its batch was heard: it acknowledges it, and has the next one."""
    assert worker.stdin is not None
    worker.stdin.write("\n")
    worker.stdin.flush()


def test_two_workers_share_streams_and_one_is_killed(
    any_server: Server, client: redis.Redis
) -> None:
    """Nothing is lost, and nothing comes twice but what the one that was killed had in hand."""
    streams = {f"s{number}": list(range(1, 120)) for number in range(6)}
    fill(client, streams)
    script = WORKER.replace("redfloe_polars", "__import__('polars')")
    names = ",".join(streams)
    seen: Counter[Row] = Counter()
    in_hand: list[Row] = []
    with python(script, any_server.url, "victim", names) as victim:
        for number in range(random.randint(2, 6)):
            if number:
                goes_on(victim)
            in_hand = [(stream, number) for stream, number in hear(victim)]
            seen.update(in_hand)
    with python(script, any_server.url, "heir", names) as heir:
        while len(seen) < 6 * 119:
            seen.update((stream, number) for stream, number in hear(heir))
            goes_on(heir)
    assert set(seen) == {(stream, n) for stream, numbers in streams.items() for n in numbers}
    assert {row for row, times in seen.items() if times > 1} <= set(in_hand)
