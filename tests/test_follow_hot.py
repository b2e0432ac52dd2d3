"""Following more than 16 streams: hot ones get a connection of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from random import Random
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import DataLossError, RedisConnection
from support.loops import Follow, following
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import Numbers, add_numbers, fill, rows_of, take_rows
from support.timing import eventually, meanwhile, within

SCHEMA = {"n": pl.Int64()}
QUIET = [f"quiet-{number:03}" for number in range(500)]
KEYS = [*QUIET, "hot"]


def blocked(client: redis.Redis, number: int) -> None:
    """Wait until that many clients wait for entries."""
    eventually(lambda: client.info("clients")["blocked_clients"] == number)


def heat(client: redis.Redis, batches: Any, *, entries: int = 3) -> None:
    """Have the hot stream followed apart from the others."""
    for number in range(1, entries + 1):
        client.xadd("hot", {"n": number}, id=f"{number}-0")
        assert rows_of([next(batches)]) == {"hot": [number]}


def test_a_hot_stream_does_not_have_the_quiet_ones_asked_for(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    with following(follow, any_server.url, KEYS, SCHEMA, "-") as batches:
        heat(client, batches)
        before = client.info("stats")["total_net_input_bytes"]
        for number in range(10, 210):
            client.xadd("hot", {"n": number}, id=f"{number}-0")
            assert rows_of([next(batches)]) == {"hot": [number]}
        sent = client.info("stats")["total_net_input_bytes"] - before
        # A request for all has 15 kB, also one that is sent when the wait of the former is over.
        assert sent < 200 * 1_000, f"{sent / 200:.0f} bytes for an entry"


def test_either_gives_its_entries_at_once(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    with following(follow, any_server.url, KEYS, SCHEMA, "-", block_ms=0) as batches:
        heat(client, batches)
        for number in range(1, 4):
            client.xadd(QUIET[number], {"n": 1})
            with within(1):
                assert rows_of([next(batches)]) == {QUIET[number]: [1]}
            client.xadd("hot", {"n": 10 + number})
            with within(1):
                assert rows_of([next(batches)]) == {"hot": [10 + number]}


def test_a_batch_has_rows_of_both(any_server: Server, client: redis.Redis, follow: Follow) -> None:
    with following(
        follow, any_server.url, KEYS, SCHEMA, "-", batch_timeout_ms=500, batch_size=4
    ) as batches:
        for number in range(1, 5):
            client.xadd("hot", {"n": number}, id=f"{number}-0")
        assert rows_of([next(batches)]) == {"hot": [1, 2, 3, 4]}
        for key, number in (("hot", 5), (QUIET[3], 1), ("hot", 6), (QUIET[4], 1)):
            client.xadd(key, {"n": number}, id=f"{number}-0")
        assert rows_of([next(batches)]) == {"hot": [5, 6], QUIET[3]: [1], QUIET[4]: [1]}


def test_a_busy_stream_does_not_starve_the_quiet_ones(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    with (
        following(follow, any_server.url, KEYS, SCHEMA, "-", batch_size=50) as batches,
        any_server.client() as writer,
    ):
        heat(client, batches)
        rows = iter(range(10, 10_000_000))

        def write() -> None:
            fill(writer, {"hot": [next(rows) for _ in range(200)]})

        with meanwhile(write):
            for number in range(5):
                client.xadd(QUIET[number], {"n": number})
                for batch, frame in enumerate(batches):
                    if QUIET[number] in frame["_stream"]:
                        break
                    assert batch < 2_000, "the hot stream alone is read"


def test_a_backlog_keeps_no_quiet_stream_waiting(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    """Each entry is of another stream: those that had some lately may be with the hot one."""
    add_numbers(client, "hot", 90_000)
    keys = [*QUIET[:99], "hot"]
    new = iter(QUIET)
    with following(follow, any_server.url, keys, SCHEMA, "-", batch_size=100) as batches:
        waiting, since, waits = "", 0, []
        for batch, frame in enumerate(batches):
            if waiting and waiting in frame["_stream"]:
                waits.append(batch - since)
                waiting = ""
            if not waiting and batch % 25 == 0:
                waiting, since = next(new), batch
                client.xadd(waiting, {"n": 1})
            if batch == 850:
                break
            time.sleep(0.001)
    # A reply of the hot one's is ten batches.
    assert max([*waits, batch - since]) < 60, waits


@pytest.mark.slow
def test_random_streams_lose_and_double_nothing(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    """Streams become hot and cool off, while connections are lost."""
    random = Random(12)
    keys = [f"s{number:02}" for number in range(40)]
    added: Numbers = {}

    def write() -> None:
        for number in range(1, 4_000):
            favourites = keys[number // 800 * 5 :][:3]
            key = random.choice(favourites if random.random() < 0.97 else keys)
            client.xadd(key, {"n": number}, id=f"{number}-0")
            added.setdefault(key, []).append(number)

    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=50, retry_base_delay=0.001)
        options: Any = {"batch_size": 60, "block_ms": 700, "on_idle": "stop"}
        with following(follow, connection, keys, SCHEMA, "-", **options) as batches:
            writer = threading.Thread(target=write)
            writer.start()
            got = []
            for number, frame in enumerate(batches):
                got.append(frame)
                if number % 40 == 20:
                    proxy.cut_all()
            writer.join()
    assert rows_of(got) == added


def test_a_cancelled_wait_loses_and_doubles_nothing(
    any_server: Server, client: redis.Redis
) -> None:
    random = Random(3)
    keys = [f"s{number:02}" for number in range(30)]
    added: Numbers = {}

    def write() -> None:
        for number in range(1, 2_000):
            key = keys[0] if random.random() < 0.95 else random.choice(keys)
            client.xadd(key, {"n": number}, id=f"{number}-0")
            added.setdefault(key, []).append(number)

    async def read() -> list[pl.DataFrame]:
        got: list[pl.DataFrame] = []
        async with redfloe.stream_batches(any_server.url, keys, SCHEMA, "-", block_ms=0) as batches:
            while sum(map(len, got)) < 1_999:
                try:
                    async with asyncio.timeout(random.random() / 300):
                        got.append(await anext(batches))
                except TimeoutError:
                    pass
        return got

    writer = threading.Thread(target=write)
    writer.start()
    got = asyncio.run(read())
    writer.join()
    assert rows_of(got) == added


def test_a_quiet_stream_that_is_begun_anew_beside_a_hot_one(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    keys = [*QUIET[:20], "hot"]
    fill(client, {QUIET[5]: [10], QUIET[6]: [10]})
    with (
        following(follow, any_server.url, keys, SCHEMA, "-") as batches,
        any_server.client() as writer,
    ):
        take_rows(batches, 2)
        client.delete(QUIET[5])
        fill(client, {QUIET[5]: [3]})

        def write() -> None:
            writer.xadd("hot", {"n": 1})
            time.sleep(0.001)

        with (
            meanwhile(write),
            within(10),
            pytest.raises(DataLossError, match=rf"created again.*stream: {QUIET[5]}\b"),
        ):
            list(batches)


def test_a_new_stream_beside_a_hot_one(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    fill(client, {f"ev:{number:02}": [1] for number in range(40)})
    options: Any = {"pattern": "ev:*", "discover_ms": 100, "schema": SCHEMA}
    with (
        following(follow, any_server.url, start_id="2-0", **options) as batches,
        any_server.client() as writer,
    ):
        client.xadd("ev:00", {"n": 2})
        assert rows_of([next(batches)]) == {"ev:00": [2]}

        def write() -> None:
            writer.xadd("ev:00", {"n": 1})
            time.sleep(0.001)

        with meanwhile(write), within(5):
            client.xadd("ev:new", {"n": 7})
            assert any("ev:new" in frame["_stream"] for frame in batches)


def test_a_close_ends_both_waits(any_server: Server, client: redis.Redis) -> None:
    # With a timeout both connections go on waiting once the batch has its row.
    options: Any = {"batch_timeout_ms": 50}
    with redfloe.iter_stream(any_server.url, KEYS, SCHEMA, "-", **options) as batches:
        heat(client, batches)
        blocked(client, 2)
    blocked(client, 0)


@pytest.mark.parametrize("is_blocked", [False, True], ids=["half a reply", "both wait"])
def test_a_forked_child_follows_with_connections_of_its_own(
    any_server: Server, client: redis.Redis, *, is_blocked: bool
) -> None:
    script = """
        import polars as pl
        url, is_blocked, *keys = sys.argv[1:]
        add = lambda *numbers: redfloe.write_stream(url, pl.DataFrame({"n": numbers}), "hot")
        add(1, 2, 3)
        batches = redfloe.iter_stream(url, keys, {"n": pl.Int64}, "-", batch_size=1)
        heights = [next(batches).height]
        if is_blocked:
            heights += [next(batches).height for _ in range(2)]
            add(4)
            heights.append(next(batches).height)
        child = os.fork()
        if child and is_blocked:
            add(5, 6)
        heights += [next(batches).height for _ in range(2)]
        if child:
            os.waitpid(child, 0)
        print(json.dumps(heights), flush=True)
    """
    with python(script, any_server.url, "yes" if is_blocked else "", *KEYS[-30:]) as process:
        assert hear(process) == hear(process) == [1] * (6 if is_blocked else 3)
        process.communicate("\n")  # a log of connections that the child did not have
        assert process.returncode == 0
