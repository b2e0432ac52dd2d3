"""Consumer groups over more than 16 streams: hot ones get a connection of their own."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import redfloe
from redfloe import NoGroupError, RedisConnection, StreamConsumer
from support.cluster import Cluster
from support.consumers import SHY, World
from support.groups import ME, all_pending, pending
from support.loops import Follow, following
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Numbers, fill, pairs, rows_of, take_rows
from support.timing import SLACK, eventually, in_thread, later, meanwhile, within

pytestmark = pytest.mark.timeout(30)

QUIET = [f"quiet-{number:03}" for number in range(300)]
KEYS = [*QUIET, "hot"]
GROUP: dict[str, Any] = {**ME, **SHY, "create_group": True}


def blocked(client: redis.Redis, number: int) -> None:
    """Wait until that many clients wait for entries."""
    eventually(lambda: client.info("clients")["blocked_clients"] == number)


def heat(client: redis.Redis, batches: Any, *, first: int = 1, entries: int = 3) -> None:
    """Have the hot stream followed apart from the others."""
    for number in range(first, first + entries):
        with later(0.02 if number == 1 else 0, partial(fill, client, {"hot": [number]})):
            assert rows_of([frame_of(next(batches))]) == {"hot": [number]}


def frame_of(batch: Any) -> pl.DataFrame:
    return batch if isinstance(batch, pl.DataFrame) else batch.frame


def is_divided(client: redis.Redis) -> bool:
    """Tell whether the consumer waits with two connections."""
    return bool(client.info("clients")["blocked_clients"] == 2)


def work(world: World, url: str | RedisConnection, streams: Any, **options: Any) -> Any:
    return world.consumer(url, streams, **{**GROUP, **options})


def test_a_hot_stream_does_not_have_the_quiet_ones_asked_for(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    options: Any = {**ME, "create_group": True, "auto_ack": True}
    with following(follow, any_server.url, KEYS, NUMBER, **options) as batches:
        heat(client, batches)
        before = client.info("stats")["total_net_input_bytes"]
        for number in range(10, 210):
            fill(client, {"hot": [number]})
            assert rows_of([next(batches)]) == {"hot": [number]}
        sent = client.info("stats")["total_net_input_bytes"] - before
        # A request for all has 8 kB, also one that is sent when the wait of the former is over.
        assert sent < 200 * 800, f"{sent / 200:.0f} bytes for an entry"
        assert len(pending(client, "hot")) <= 1


def test_either_gives_its_entries_at_once(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    with work(world, any_server.url, KEYS, block_ms=0) as consumer:
        heat(client, consumer)
        for number in range(1, 4):
            fill(client, {QUIET[number]: [number]})
            with within(1):
                assert rows_of([next(consumer).frame]) == {QUIET[number]: [number]}
            fill(client, {"hot": [10 + number]})
            with within(1):
                assert rows_of([next(consumer).frame]) == {"hot": [10 + number]}
        assert consumer.stats.entries == 9


def test_a_batch_has_rows_of_both(any_server: Server, client: redis.Redis, world: World) -> None:
    with work(world, any_server.url, KEYS, batch_timeout_ms=500, batch_size=4) as consumer:
        with later(0.02, partial(fill, client, {"hot": [1, 2, 3, 4]})):
            assert rows_of([next(consumer).frame]) == {"hot": [1, 2, 3, 4]}
        with later(0.05, partial(fill, client, {"hot": [5, 6], QUIET[3]: [1], QUIET[4]: [1]})):
            assert rows_of([next(consumer).frame]) == {"hot": [5, 6], QUIET[3]: [1], QUIET[4]: [1]}


def test_columns_are_those_of_both(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    """Those that the quiet ones had before the hot one was read apart stay."""
    options: Any = {**ME, "create_group": True}
    with following(follow, any_server.url, KEYS, **options) as batches:
        with later(0.02, lambda: client.xadd(QUIET[0], {"a": 1})):
            assert {"a"} < {*next(batches).columns}
        for number in range(3):
            client.xadd("hot", {"b": number})
            assert {"a", "b"} < {*next(batches).columns}
        client.xadd(QUIET[1], {"c": 1})
        assert {"a", "b", "c"} < {*next(batches).columns}


def test_a_busy_stream_does_not_starve_the_quiet_ones(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    with (
        work(world, any_server.url, KEYS, batch_size=50) as consumer,
        any_server.client() as writer,
    ):
        heat(client, consumer)
        rows = iter(range(10, 10_000_000))

        def write() -> None:
            fill(writer, {"hot": [next(rows) for _ in range(200)]})

        with meanwhile(write):
            for number in range(5):
                fill(client, {QUIET[number]: [1]})
                for turn, batch in enumerate(consumer):
                    if QUIET[number] in batch.frame["_stream"]:
                        break
                    assert turn < 2_000, "the hot stream alone is read"


def test_what_is_in_hand_of_a_stream_that_changes_parts_is_acknowledged(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """By hand, in any order, and at the end: whichever reader the stream has by then."""
    with work(world, any_server.url, KEYS, ack="manual", batch_size=1) as consumer:
        with later(0.02, partial(fill, client, {"hot": [1]})):
            batches = [next(consumer)]
        for number in range(2, 6):
            fill(client, {"hot": [number]})
            batches.append(next(consumer))
        eventually(lambda: pending(client, "hot") == [1, 2, 3, 4, 5])
        for batch in (batches[3], batches[0], batches[1]):
            assert world.do(batch.ack()) == 1
        assert pending(client, "hot") == [3, 5]
    assert pending(client, "hot") == [3, 5]
    assert consumer.stats.acknowledged == 3


def test_what_a_hot_stream_s_batch_gives_back_comes_again(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    with work(world, any_server.url, KEYS, ack="manual", block_ms=0) as consumer:
        heat(client, consumer)
        fill(client, {"hot": [4]})
        world.do(next(consumer).nack(delay_ms=30))
        with within(2):
            again = next(consumer)
        assert (pairs(again.frame), again.delivery_counts.to_list()) == ([("hot", 4)], [2])
        fill(client, {QUIET[0]: [1]})
        world.do(next(consumer).nack(delay_ms=30))
        with within(2):
            assert pairs(next(consumer).frame) == [(QUIET[0], 1)]


def test_who_takes_long_over_a_batch_is_sent_nothing_meanwhile(
    any_server: Server, client: redis.Redis
) -> None:
    """What would be pending for who is busy is another worker's at once."""
    with StreamConsumer(any_server.url, KEYS, schema=NUMBER, **GROUP) as consumer:
        heat(client, consumer)
        fill(client, {"hot": [4]})
        assert len(next(consumer)) == 1
        blocked(client, 1)  # the quiet ones are waited for while the batch is in hand
        number = 5
        while client.info("clients")["blocked_clients"]:
            assert number < 40, "it is not one part again"
            time.sleep(0.6)
            fill(client, {"hot": [number]})
            assert rows_of([next(consumer).frame]) == {"hot": [number]}
            number += 1
        fill(client, {QUIET[7]: [1]})
        assert client.xreadgroup("g", "you", {QUIET[7]: ">"})
        # In no hurry any more: apart again.
        heat(client, consumer, first=100)
        blocked(client, 1)


def test_a_close_ends_both_waits(any_server: Server, client: redis.Redis) -> None:
    with StreamConsumer(any_server.url, KEYS, schema=NUMBER, **GROUP) as consumer:
        heat(client, consumer)
        with in_thread(lambda: next(consumer, None)) as result:
            eventually(partial(is_divided, client))
            consumer.stop()
            assert result() is None
    blocked(client, 0)
    assert all_pending(client, KEYS) == {}


def test_what_comes_for_the_quiet_ones_beside_a_last_batch_is_another_s_at_once(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """Nobody has seen it, so it counts as delivered no more than before."""
    options: Any = {**GROUP, "reclaim_min_idle_ms": 60_000}
    with world.consumer(any_server.url, KEYS, **options) as me:
        heat(client, me)
        fill(client, {"hot": [4]})
        assert pairs(next(me).frame) == [("hot", 4)]
        fill(client, {QUIET[3]: [1]})
        eventually(lambda: pending(client, QUIET[3], "me") == [1])
    options |= {"consumer": "you", "on_idle": "stop", "block_ms": 300}
    with world.consumer(any_server.url, KEYS, **options) as you:
        batch = next(you)
        assert (pairs(batch.frame), [*batch.delivery_counts]) == ([(QUIET[3], 1)], [1])
        assert list(you) == []
    assert all_pending(client, KEYS) == {}


def test_a_job_that_ends_when_there_is_nothing(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    numbers = list(range(1, 3_001))
    fill(client, {"hot": numbers, QUIET[0]: [1], QUIET[299]: [1]})
    options: Any = {"on_idle": "stop", "block_ms": 20, "batch_size": 100}
    with work(world, any_server.url, KEYS, **options) as consumer, within(5):
        got = rows_of(batch.frame for batch in consumer)
    assert got == {"hot": numbers, QUIET[0]: [1], QUIET[299]: [1]}
    assert all_pending(client, KEYS) == {}


def test_streams_of_a_pattern_come_and_go_beside_a_hot_one(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    fill(client, {f"ev:{number:02}": [1] for number in range(40)})
    options: Any = {"pattern": "ev:*", "discover_ms": 50}
    with (
        work(world, any_server.url, None, **options) as consumer,
        any_server.client() as writer,
    ):
        assert len(take_rows((batch.frame for batch in consumer), 40)) == 40
        for number in range(2, 5):
            fill(client, {"ev:00": [number]})
            assert rows_of([next(consumer).frame]) == {"ev:00": [number]}

        def write() -> None:
            writer.xadd("ev:00", {"n": 1})
            time.sleep(0.001)

        with meanwhile(write), within(5):
            fill(client, {"ev:new": [7]})
            assert any("ev:new" in batch.frame["_stream"] for batch in consumer)
        # The hot one goes; what comes under its name is another stream.
        client.delete("ev:00")
        for key in ("ev:01", "ev:00"):
            fill(client, {key: [3]})
            with within(5):
                assert any(key in batch.frame["_stream"] for batch in consumer)


def test_a_hot_stream_s_lost_group_is_an_error_that_names_it(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    with work(world, any_server.url, KEYS, block_ms=0) as consumer:
        heat(client, consumer)
        with (
            later(0.05, lambda: client.xgroup_destroy("hot", "g")),
            within(5),
            pytest.raises(NoGroupError, match="hot"),
        ):
            next(consumer)


def test_what_others_left_of_a_hot_stream_is_claimed(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    options: Any = {"reclaim_min_idle_ms": 50, "reclaim_interval_ms": 10}
    with work(world, any_server.url, KEYS, **options) as consumer:
        heat(client, consumer)
        client.xadd("hot", {"n": 9}, id="9-0")
        client.xadd(QUIET[5], {"n": 9}, id="9-0")
        for key in ("hot", QUIET[5]):
            client.xreadgroup("g", "you", {key: ">"})
        got = take_rows((batch.frame for batch in consumer), 2)
        assert got == {"hot": [9], QUIET[5]: [9]}


def test_what_is_in_hand_of_a_hot_stream_is_kept(any_server: Server, client: redis.Redis) -> None:
    options: Any = {**GROUP, "reclaim_min_idle_ms": 400, "ack": "manual"}
    with StreamConsumer(any_server.url, KEYS, schema=NUMBER, **options) as consumer:
        heat(client, consumer)
        end, most = time.monotonic() + 0.8, 0
        while time.monotonic() < end:
            found: Any = client.xpending_range("hot", "g", "-", "+", 1)
            most = max(most, found[0]["time_since_delivered"])
            time.sleep(0.02)
        assert most < 400 * SLACK


def test_a_forked_child_is_told_that_it_needs_a_reader_of_its_own(
    any_server: Server, client: redis.Redis
) -> None:
    """What the quiet ones' connection is sent is the parent's."""
    script = """
        import polars as pl
        url, *keys = sys.argv[1:]
        add = lambda number: redfloe.write_stream(url, pl.DataFrame({"n": [number]}), "hot")
        member = {"group": "g", "consumer": "me", "create_group": True, "auto_ack": True}
        add(1)
        batches = redfloe.iter_stream(url, keys, {"n": pl.Int64}, **member)
        heights = [next(batches).height]
        for number in (2, 3, 4):
            add(number)
            heights.append(next(batches).height)
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            add(5)
        try:
            heights.append(next(batches).height)
        except redfloe.RedisConnectionError as error:
            heights.append(str(error))
        print(json.dumps(heights), flush=True)
    """
    with python(script, any_server.url, *KEYS[-30:]) as process:
        assert "make another reader" in hear(process)[-1]
        assert hear(process) == [1] * 5
        process.communicate("\n")
        assert process.returncode == 0
    assert len(pending(client, "hot")) <= 1


@pytest.mark.xdist_group("cluster")
def test_each_slot_of_a_cluster_has_hot_streams_of_its_own(cluster: Cluster, world: World) -> None:
    tags = cluster.key_of_each()[:2]
    keys = [f"{{{tag}}}:{number:02}" for tag in tags for number in range(20)]
    hot = [f"{{{tag}}}:07" for tag in tags]
    for key in hot:  # connections that earlier tests have left to others, and read a group last
        cluster.client(key).client_kill_filter(_type="normal", skipme=True)
    with work(world, cluster.url, keys, block_ms=0) as consumer:
        for number in range(1, 6):
            with later(0.05 if number == 1 else 0, partial(cluster.fill, {hot[0]: [number]})):
                assert rows_of([next(consumer).frame]) == {hot[0]: [number]}
            cluster.fill({hot[1]: [number]})
            assert rows_of([next(consumer).frame]) == {hot[1]: [number]}
        cluster.fill({hot[1]: [6]})
        assert rows_of([next(consumer).frame]) == {hot[1]: [6]}
        for key in hot:
            clients = cluster.client(key).client_list()
            assert [one["cmd"] for one in clients].count("xreadgroup") == 2
        quiet = [f"{{{tag}}}:11" for tag in tags]
        cluster.fill({key: [1] for key in quiet})
        with within(2):
            assert take_rows((batch.frame for batch in consumer), 2) == {key: [1] for key in quiet}
    assert all_pending(cluster, keys) == {}


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 10**6),
    ack=st.sampled_from(["on_success", "manual"]),
    batch_size=st.sampled_from([1, 7, 60]),
    timeout=st.sampled_from([None, 5]),
    cuts=st.sampled_from([0, 30]),
    pause=st.sampled_from([0, 0.01]),
)
@pytest.mark.slow
def test_random_streams_lose_and_double_nothing(
    any_server: Server,
    client: redis.Redis,
    seed: int,
    ack: Any,
    batch_size: int,
    timeout: int | None,
    cuts: int,
    pause: float,
) -> None:
    """Streams become hot and cool off, while connections are lost and the caller pauses."""
    client.flushdb()
    chance = random.Random(seed)
    keys = [f"s{number:02}" for number in range(40)]
    added: Numbers = {}

    def write() -> None:
        with any_server.client() as writer:
            for number in range(1, 601):
                favourites = keys[number // 120 * 5 :][:3]
                key = chance.choice(favourites if chance.random() < 0.97 else keys)
                writer.xadd(key, {"n": number}, id=f"{number}-0")
                added.setdefault(key, []).append(number)

    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=50, retry_base_delay=0.001)
        options: Any = {"batch_size": batch_size, "batch_timeout_ms": timeout, "ack": ack, **GROUP}
        with StreamConsumer(connection, keys, schema=NUMBER, **options) as consumer:
            writer = threading.Thread(target=write)
            writer.start()
            got, counts = [], set[int]()
            for number, batch in enumerate(consumer):
                got.append(batch.frame)
                counts |= {*batch.delivery_counts}
                if ack == "manual":
                    batch.ack()
                if cuts and number % cuts == cuts - 1:
                    proxy.cut_all()
                if number % 40 == 20:
                    time.sleep(pause)
                if sum(map(len, got)) >= 600:
                    break
            writer.join()
    assert {key: sorted(numbers) for key, numbers in rows_of(got).items()} == added
    assert cuts or rows_of(got) == added
    assert counts == {1}
    assert all_pending(client, keys) == {}


def test_a_cancelled_wait_loses_and_doubles_nothing(
    any_server: Server, client: redis.Redis
) -> None:
    chance = random.Random(3)
    keys = [f"s{number:02}" for number in range(30)]
    added: Numbers = {}

    def write() -> None:
        for number in range(1, 2_000):
            key = keys[0] if chance.random() < 0.95 else chance.choice(keys)
            client.xadd(key, {"n": number}, id=f"{number}-0")
            added.setdefault(key, []).append(number)

    async def read() -> list[pl.DataFrame]:
        got: list[pl.DataFrame] = []
        options: Any = {**ME, "create_group": True, "block_ms": 0}
        async with redfloe.stream_batches(any_server.url, keys, NUMBER, **options) as batches:
            while sum(map(len, got)) < 1_999:
                try:
                    async with asyncio.timeout(chance.random() / 300):
                        got.append(await anext(batches))
                except TimeoutError:
                    pass
        return got

    writer = threading.Thread(target=write)
    writer.start()
    got = asyncio.run(read())
    writer.join()
    assert rows_of(got) == added
