"""Checkpoints of a `StreamConsumer` that reads several streams: one for each."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe import (
    CheckpointError,
    CheckpointStore,
    DataLossError,
    FileCheckpointStore,
    MemoryCheckpointStore,
    RedisCheckpointStore,
    StreamConsumer,
)
from support.consumers import Driven, World
from support.groups import DRAIN, ME
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Numbers, add_numbers, pairs, rows_of
from support.timing import later, within

pytestmark = pytest.mark.timeout(30)


class Recorder(MemoryCheckpointStore):
    """A store that remembers what was saved, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: list[tuple[str, str]] = []

    def save(self, name: str, entry_id: str) -> None:
        self.saved.append((name, entry_id))
        super().save(name, entry_id)


def work(world: World, server: Server, streams: list[str] | None = None, **options: Any) -> Driven:
    consumer = StreamConsumer(server.url, streams, schema=NUMBER, **{**DRAIN, **options})
    return Driven(world, consumer)


def drained(consumer: Driven) -> Numbers:
    with consumer:
        return rows_of(batch.frame for batch in consumer)


@pytest.fixture(params=["memory", "file", "redis"])
def store(request: pytest.FixtureRequest, any_server: Server, tmp_path: Path) -> CheckpointStore:
    match request.param:
        case "file":
            return FileCheckpointStore(tmp_path)
        case "redis":
            return RedisCheckpointStore(any_server.url)
    return MemoryCheckpointStore()


def test_each_stream_goes_on_where_it_had_come_to(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore
) -> None:
    for number, stream in enumerate("abc", 1):
        add_numbers(client, stream, number * 10)
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 7}
    first = drained(work(world, any_server, ["a", "b", "c"], **options))
    assert first == {"a": [*range(1, 11)], "b": [*range(1, 21)], "c": [*range(1, 31)]}
    assert [store.load(stream) for stream in "abc"] == ["10-0", "20-0", "30-0"]
    assert drained(work(world, any_server, ["a", "b", "c"], **options)) == {}
    add_numbers(client, "a", 12, first=11)
    add_numbers(client, "c", 31, first=31)
    assert drained(work(world, any_server, ["c", "b", "a"], **options)) == {
        "a": [11, 12],
        "c": [31],
    }


@pytest.mark.parametrize("how", ["exception", "break", "clean"])
def test_only_what_is_done_with_is_saved(
    any_server: Server, client: redis.Redis, world: World, how: str
) -> None:
    """And of that only what has changed: a batch of one stream saves one checkpoint."""
    store = Recorder()
    options: dict[str, Any] = {"checkpoint_store": store, "block_ms": 200}
    consumer = work(world, any_server, ["a", "b"], **options)

    def process() -> None:
        with consumer:
            for turn, stream in enumerate("abab", 1):
                add_numbers(client, stream, turn, first=turn)
                assert pairs(next(consumer).frame) == [(stream, turn)]
                assert len(store.saved) == turn - 1
            if how == "exception":
                raise ZeroDivisionError
            if how == "clean":
                assert list(consumer) == []

    if how == "exception":
        with pytest.raises(ZeroDivisionError):
            process()
    else:
        process()
    saved = [("a", "1-0"), ("b", "2-0"), ("a", "3-0"), ("b", "4-0")]
    assert store.saved == (saved[:3] if how == "exception" else saved)


def test_rows_that_are_acknowledged_by_hand(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    store = Recorder()
    options: dict[str, Any] = {"checkpoint_store": store, "ack": "manual", "block_ms": 200}
    with work(world, any_server, ["a", "b"], **options) as consumer:
        add_numbers(client, "a", 1)
        first = next(consumer)
        for stream in "ab":
            add_numbers(client, stream, 4, first=2)
        second = next(consumer)
        while len(second) < 6:
            second = next(consumer)  # nothing is acknowledged, whatever it was cut into
        frame = second.frame
        # Those of one stream say nothing of those of the other.
        world.do(second.ack(frame.filter(_stream="b", n=2)))
        # Whoever is done with rows of a batch is done with the batches before it.
        assert dict(store.saved) == {"a": "1-0", "b": "2-0"}
        world.do(second.ack(frame.filter(_stream="b", n=4)))
        assert dict(store.saved) == {"a": "1-0", "b": "2-0"}
        world.do(second.ack())
        assert dict(store.saved) == {"a": "4-0", "b": "4-0"}
        world.do(first.ack())
        assert dict(store.saved) == {"a": "4-0", "b": "4-0"}


def test_from_one_stream_to_several_and_back(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 3)
    options: dict[str, Any] = {"checkpoint_store": store, **DRAIN}
    with world.consumer(any_server.url, "a", **options) as consumer:
        assert sum(len(batch) for batch in consumer) == 3
    # One that is added to the list begins where it would without a checkpoint.
    assert drained(work(world, any_server, ["a", "b"], **options)) == {"b": [1, 2, 3]}
    add_numbers(client, "a", 4, first=4)
    add_numbers(client, "b", 4, first=4)
    # One that is left out keeps its own, and goes on there when it is put back.
    assert drained(work(world, any_server, ["a"], **options)) == {"a": [4]}
    assert drained(work(world, any_server, ["a", "b"], **options)) == {"b": [4]}
    with world.consumer(any_server.url, "b", **options) as consumer:
        assert list(consumer) == []


def test_the_names_of_checkpoints(any_server: Server, client: redis.Redis, world: World) -> None:
    store = Recorder()
    keys = ["a", "a:b", "%", "a:b:c"]
    for key in keys:
        add_numbers(client, key, 1)
    work_on = {"checkpoint_store": store}
    drained(work(world, any_server, keys, **work_on))
    assert {name for name, _ in store.saved} == {"a", "a:b", "%25", "a%3Ab%3Ac"}
    store.saved.clear()
    drained(work(world, any_server, keys, checkpoint_name="job", **work_on))
    assert {name for name, _ in store.saved} == {
        "job:a",
        "job:a%3Ab",
        "job:%25",
        "job:a%3Ab%3Ac",
    }
    store.saved.clear()
    drained(work(world, any_server, keys[:2], **work_on, **ME))
    assert {name for name, _ in store.saved} == {"a:g:me", "a%3Ab:g:me"}


# A pattern


@pytest.mark.parametrize("start_id", ["-", "$"])
def test_streams_that_appear_while_nobody_follows_are_read_from_their_start(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore, start_id: str
) -> None:
    add_numbers(client, "s:old", 3)
    add_numbers(client, "s:quiet", 3)
    options: dict[str, Any] = {"checkpoint_store": store, "start_id": start_id, "block_ms": 300}
    old = [] if start_id == "$" else [1, 2, 3]
    with work(world, any_server, pattern="s:*", **options) as consumer:
        with later(0.1, lambda: add_numbers(client, "s:old", 5, first=4)):
            got = rows_of(batch.frame for batch in consumer)
    assert got.pop("s:quiet", []) == old
    assert got == {"s:old": [*old, 4, 5]}
    # Down.
    add_numbers(client, "s:new", 4)
    add_numbers(client, "s:quiet", 4, first=4)
    got = drained(work(world, any_server, pattern="s:*", **options))
    assert got == {"s:new": [1, 2, 3, 4], "s:quiet": [4]}
    assert drained(work(world, any_server, pattern="s:*", **options)) == {}


def test_a_pattern_without_streams_has_begun_all_the_same(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore
) -> None:
    options: dict[str, Any] = {"checkpoint_store": store, "start_id": "$", "pattern": "s:*"}
    for name in (None, "mine"):
        assert drained(work(world, any_server, checkpoint_name=name, **options)) == {}
    add_numbers(client, "s:new", 2)
    for name in (None, "mine"):
        again = work(world, any_server, checkpoint_name=name, **options)
        assert drained(again) == {"s:new": [1, 2]}


def test_streams_of_a_list_that_begin_now(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore
) -> None:
    """What was added while nobody followed comes, also to those that had nothing before."""
    add_numbers(client, "a", 3)
    options: dict[str, Any] = {"checkpoint_store": store, "start_id": "$"}
    assert drained(work(world, any_server, ["a", "b"], **options)) == {}
    for stream in "abc":
        add_numbers(client, stream, 5, first=4)
    # One that is new in the list begins now.
    got = drained(work(world, any_server, ["a", "b", "c"], **options))
    assert got == {"a": [4, 5], "b": [4, 5]}


def test_one_stream_that_begins_now(
    any_server: Server, client: redis.Redis, world: World, store: CheckpointStore
) -> None:
    """Nothing is lost that came after the first run had begun, and that it did not see."""
    options: dict[str, Any] = {"checkpoint_store": store, "start_id": "$", **DRAIN}
    for stream in ("empty", "full"):
        if stream == "full":
            add_numbers(client, stream, 3)
        with world.consumer(any_server.url, stream, **options) as consumer:
            assert list(consumer) == []
        add_numbers(client, stream, 5, first=4)
        with world.consumer(any_server.url, stream, **options) as consumer:
            assert [n for batch in consumer for n in batch.frame["n"]] == [4, 5]


def test_stop_does_not_wait_for_where_the_reading_begins(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, "a", 3)
    with Proxy(any_server.port) as proxy:
        options: dict[str, Any] = {
            "checkpoint_store": MemoryCheckpointStore(),
            "start_id": "$",
            "on_idle": "wait",
        }
        consumer = Driven(world, StreamConsumer(proxy.url, ["a", "b"], schema=NUMBER, **options))
        proxy.stall_after(0, once_seen=b"XREVRANGE")
        with later(0.2, consumer.stop), within(4):
            assert list(consumer) == []


# What is lost


@pytest.mark.parametrize("pattern", [False, True])
def test_a_stream_that_was_begun_anew(
    any_server: Server, client: redis.Redis, world: World, pattern: bool
) -> None:
    for stream in ("s:a", "s:b"):
        add_numbers(client, stream, 20)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store}
    options |= {"pattern": "s:*"} if pattern else {"streams": ["s:a", "s:b"]}
    drained(work(world, any_server, **options))
    client.delete("s:b")
    add_numbers(client, "s:b", 5)
    with pytest.raises(DataLossError, match=r"20-0 has been read.*s:b"):
        next(work(world, any_server, **options))
    again = work(world, any_server, on_data_loss="continue", **options)
    assert drained(again) == {"s:b": [1, 2, 3, 4, 5]}
    assert (store.load("s:a"), store.load("s:b")) == ("20-0", "5-0")
    # It is the new one's checkpoint: what comes next is not taken for what the old one had.
    add_numbers(client, "s:b", 30, first=6)
    assert drained(work(world, any_server, **options)) == {"s:b": [*range(6, 31)]}


def test_a_stream_that_is_begun_anew_while_it_is_followed(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 20)
    for policy in ("raise", "continue"):
        store = MemoryCheckpointStore()
        options: dict[str, Any] = {"checkpoint_store": store, "on_data_loss": policy}
        options |= {"on_idle": "wait", "block_ms": 100}
        with work(world, any_server, ["a", "b"], **options) as consumer:
            seen = 0
            while seen < 40:
                seen += len(next(consumer))
            client.delete("b")
            add_numbers(client, "b", 5)
            if policy == "raise":
                with within(8), pytest.raises(DataLossError, match="20-0"):
                    next(consumer)
            else:
                with within(8):
                    assert pairs(next(consumer).frame) == [("b", n) for n in range(1, 6)]
        assert store.load("b") == ("20-0" if policy == "raise" else "5-0")
        add_numbers(client, "b", 20, first=6)


def test_a_stream_of_a_pattern_that_was_deleted_and_came_again(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """A worker that dies with its first entries in hand skips none, whatever their IDs."""
    for stream in ("s:a", "s:b"):
        add_numbers(client, stream, 5)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, "pattern": "s:*"}
    waiting: dict[str, Any] = {"on_idle": "wait", "block_ms": 50, "discover_ms": 10}

    def follow() -> None:
        with work(world, any_server, **options, **waiting) as consumer:
            seen = 0
            while seen < 10:
                seen += len(next(consumer))
            client.delete("s:a")
            for number in range(6, 60):
                time.sleep(0.02)
                add_numbers(client, "s:b", number, first=number)
                next(consumer)
                if store.load("s:a") == "0-0":
                    break
            add_numbers(client, "s:a", 9)
            while "s:a" not in rows_of([next(consumer).frame]):
                pass
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        follow()
    assert drained(work(world, any_server, **options))["s:a"] == [*range(1, 10)]


def test_one_stream_that_is_begun_anew_while_it_is_followed(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Its checkpoint is of the new stream, whose entries up to the old one's are not skipped."""
    add_numbers(client, stream, 20)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, "on_data_loss": "continue"}
    with world.consumer(any_server.url, stream, block_ms=100, **options) as consumer:
        assert len(next(consumer)) == 20
        client.delete(stream)
        add_numbers(client, stream, 5)
        assert len(next(consumer)) == 5
    assert store.load(stream) == "5-0"


@pytest.mark.parametrize("left", [12, 0])
def test_a_stream_that_was_trimmed_past_its_checkpoint(
    any_server: Server, client: redis.Redis, world: World, left: int
) -> None:
    store = MemoryCheckpointStore()
    for stream in "abc":
        add_numbers(client, stream, 20)
    store.save("a", "5-0")
    store.save("b", "8-0")
    store.save("c", "20-0")
    client.xtrim("a", maxlen=left, approximate=False)
    client.xtrim("b", maxlen=13, approximate=False)
    client.xtrim("c", maxlen=0, approximate=False)
    options: dict[str, Any] = {"checkpoint_store": store}
    with pytest.raises(DataLossError, match=r"trimmed past 5-0.*\ba\b"):
        next(work(world, any_server, ["c", "b", "a"], **options))
    again = work(world, any_server, ["c", "b", "a"], on_data_loss="continue", **options)
    rest = {"b": [*range(9, 21)], "a": [*range(21 - left, 21)]}
    assert drained(again) == {stream: rows for stream, rows in rest.items() if rows}


def test_a_checkpoint_that_is_none_is_named(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, "a", 1)
    store = MemoryCheckpointStore()
    store.save("a", "1-0")
    store.save("b", "one")
    with pytest.raises(CheckpointError, match="checkpoint 'b' is 'one'"):
        next(work(world, any_server, ["a", "b"], checkpoint_store=store))
    in_redis = RedisCheckpointStore(any_server.url)
    in_redis.save("a", "1-0")
    for spoil in (
        lambda: client.rpush("redfloe:checkpoint:b", "1-0"),
        lambda: client.set("redfloe:checkpoint:b", b"\xff"),
    ):
        client.delete("redfloe:checkpoint:b")
        spoil()
        with pytest.raises(CheckpointError, match="redfloe:checkpoint:b"):
            next(work(world, any_server, ["a", "b"], checkpoint_store=in_redis))


# Groups


def test_lost_groups_begin_at_the_checkpoints_of_their_streams(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, "on_group_lost": "recreate", **ME}
    add_numbers(client, "a", 6)
    add_numbers(client, "b", 3)
    first = drained(work(world, any_server, ["a", "b"], batch_size=2, **options))
    assert first == {"a": [1, 2, 3, 4, 5, 6], "b": [1, 2, 3]}
    assert (store.load("a:g:me"), store.load("b:g:me")) == ("6-0", "3-0")
    for stream in "ab":
        client.xgroup_destroy(stream, "g")
        add_numbers(client, stream, 8, first=7)
    again = drained(work(world, any_server, ["a", "b"], create_group=False, **options))
    assert again == {"a": [7, 8], "b": [7, 8]}


def test_a_group_s_checkpoints_do_not_pass_what_is_pending(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    store = Recorder()
    for stream in "ab":
        add_numbers(client, stream, 4)
    options: dict[str, Any] = {"checkpoint_store": store, "ack": "manual", **ME}
    with work(world, any_server, ["a", "b"], batch_timeout_ms=50, **options) as consumer:
        batch = next(consumer)
        assert len(batch) == 8
        world.do(batch.ack(batch.frame.filter(_stream="a")))
        world.do(batch.ack(batch.frame.filter(_stream="b", n=3)))
        assert store.saved == [("a:g:me", "4-0")]
        world.do(batch.ack(batch.frame.filter(_stream="b", n=1)))
        assert store.saved[1:] == [("b:g:me", "1-0")]


# Many


def test_ten_thousand_streams_take_few_round_trips(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    keys = [f"s{number}" for number in range(10_000)]
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        pipeline.xadd(key, {"n": 1}, id="1-0")
    pipeline.execute()
    with Proxy(any_server.port) as proxy:
        store = RedisCheckpointStore(proxy.url)
        options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 20_000}
        with within(10):
            assert len(drained(work(world, any_server, keys, **options))) == 10_000
        assert (proxy.count(b"GET"), proxy.count(b"SET")) == (10_000, 10_000)
        add_numbers(client, "s5", 2, first=2)
        with within(10):
            assert drained(work(world, any_server, keys, **options)) == {"s5": [2]}
        # Only what has moved is saved.
        assert proxy.count(b"SET") == 10_001
        assert store.load("s5") == "2-0"


WORKER = """
    import polars as pl

    consumer = redfloe.StreamConsumer(
        sys.argv[1], sys.argv[2].split(","), schema={"n": pl.Int64}, batch_size=9, block_ms=20,
        checkpoint_store=redfloe.RedisCheckpointStore(sys.argv[1]),
    )
    with consumer:
        for batch in consumer:
            print(json.dumps(batch.frame.select("_stream", "n").rows()), flush=True)
            sys.stdin.readline()
"""


def test_a_worker_that_is_killed_at_any_time(any_server: Server, client: redis.Redis) -> None:
    """Nothing is lost, and only the batch in hand comes twice."""
    streams = {f"s{number}": 40 for number in range(5)}
    for stream, last in streams.items():
        add_numbers(client, stream, last)
    store = RedisCheckpointStore(any_server.url)
    seen: dict[str, int] = dict.fromkeys(streams, 0)
    runs = 0
    while seen != streams:
        runs += 1
        with python(WORKER, any_server.url, ",".join(streams)) as worker:
            assert worker.stdin is not None
            for _ in range(random.randint(1, 8) if runs < 5 else 100):
                for stream, number in hear(worker):
                    # No gap, ever; and back no more than what the last one had in hand.
                    assert seen[stream] - 9 < number <= seen[stream] + 1
                    seen[stream] = max(seen[stream], number)
                if seen == streams:
                    break
                worker.stdin.write("\n")
                worker.stdin.flush()
            time.sleep(random.uniform(0, 0.01))  # while it saves what it is done with
        for stream, last in seen.items():
            checkpoint = store.load(stream) or "0-0"
            assert int(checkpoint.split("-")[0]) <= last
    assert runs > 1
