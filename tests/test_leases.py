"""What a slow handler has in hand is kept from other workers while it runs, and no longer."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import StreamConsumer
from support.consumers import World, all_rows, rows
from support.groups import DRAIN, ME, pending
from support.processes import python
from support.proxy import Proxy
from support.secrets import PASSWORD, with_password
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, eventually

pytestmark = pytest.mark.timeout(30)

#: Long enough that a loaded machine, which may stand still for half of it, still keeps in time.
IDLE = round(min(200 * SLACK, 600))
#: Another worker, which takes over whatever has been idle for so long.
THIEF: dict[str, Any] = {
    "group": "g",
    "consumer": "thief",
    "reclaim_min_idle_ms": IDLE,
    "reclaim_interval_ms": 0,
    **DRAIN,
}
#: A worker whose entries are kept.
KEEPS: dict[str, Any] = {"reclaim_min_idle_ms": IDLE, **ME}


def steal(url: str, stream: str) -> list[int]:
    return all_rows(StreamConsumer(url, stream, schema=NUMBER, auto_extend=False, **THIEF))


def idle_times(client: redis.Redis, stream: str) -> dict[str, int]:
    found: Any = client.xpending_range(stream, "g", "-", "+", 10_000)
    return {one["message_id"].decode(): one["time_since_delivered"] for one in found}


def never_idle(client: redis.Redis, stream: str, ids: list[str], for_ms: float) -> None:
    """Look for so long whether entries could be taken over."""
    end = time.monotonic() + for_ms / 1_000
    while time.monotonic() < end:
        times = idle_times(client, stream)
        assert max(times[entry] for entry in ids) < IDLE
        time.sleep(0.005)


def test_nobody_takes_over_what_a_slow_handler_has_in_hand(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """The event loop, or the thread, is blocked meanwhile."""
    add_numbers(client, stream, 250)
    with world.consumer(server.url, stream, **KEEPS, **DRAIN) as consumer:
        for batch in consumer:
            never_idle(client, stream, batch.ids.to_list(), 3 * IDLE)
            assert steal(server.url, stream) == []
    found: Any = client.xpending(stream, "g")
    assert found["pending"] == 0
    assert consumer.stats.acknowledged == 250


def test_counts_stay_as_they_are(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(server.url, stream, **KEEPS, ack="manual", **DRAIN) as consumer:
        batch = next(consumer)
        time.sleep(1.5 * IDLE / 1_000)
        found: Any = client.xpending_range(stream, "g", "-", "+", 10)
        assert [one["times_delivered"] for one in found] == [1, 1, 1]
        assert max(idle_times(client, stream).values()) < IDLE
        assert batch.delivery_counts.to_list() == [1, 1, 1]


def test_without_it_others_take_over(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    options = {**KEEPS, "auto_extend": False}
    with world.consumer(any_server.url, stream, **options, **DRAIN) as consumer:
        next(consumer)
        eventually(lambda: min(idle_times(client, stream).values()) >= IDLE)
        assert steal(any_server.url, stream) == [1, 2, 3]


def test_a_handler_that_hangs_loses_its_entries_in_the_end(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    options = {"max_processing_ms": timedelta(milliseconds=3 * IDLE), **KEEPS}
    with world.consumer(any_server.url, stream, **options, **DRAIN) as consumer:
        start = time.monotonic()
        next(consumer)
        never_idle(client, stream, ["1-0", "2-0", "3-0"], 2 * IDLE)
        eventually(lambda: min(idle_times(client, stream).values()) >= IDLE)
        assert (time.monotonic() - start) * 1_000 >= 3 * IDLE - 20
        assert steal(any_server.url, stream) == [1, 2, 3]


def test_extend_starts_the_time_again(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    options = {"max_processing_ms": 2 * IDLE, **KEEPS}
    with world.consumer(any_server.url, stream, **options, **DRAIN) as consumer:
        batch = next(consumer)
        for _ in range(3):
            never_idle(client, stream, ["1-0", "2-0", "3-0"], IDLE)
            assert world.do(batch.extend()) == 3


def test_what_another_has_taken_over_stays_its_own(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 4)
    with world.consumer(any_server.url, stream, **KEEPS, **DRAIN) as consumer:
        batch = next(consumer)
        client.xclaim(stream, "g", "other", 0, ["2-0", "3-0"])
        time.sleep(1.2 * IDLE / 1_000)
        assert pending(client, stream, "other") == [2, 3]
        times = idle_times(client, stream)
        assert min(times["2-0"], times["3-0"]) >= IDLE
        assert max(times["1-0"], times["4-0"]) < IDLE
        assert world.do(batch.extend()) == 2
        assert pending(client, stream, "other") == [2, 3]


def test_only_what_is_in_hand_is_kept(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """What was acknowledged, given back, failed or left is not."""
    add_numbers(client, stream, 6)
    options: dict[str, Any] = {"dead_letter": "dead", "ack": "manual", **KEEPS}
    with world.consumer(any_server.url, stream, batch_size=4, **options, **DRAIN) as consumer:
        first, second = next(consumer), next(consumer)
        assert (rows(first), rows(second)) == ([1, 2, 3, 4], [5, 6])
        part, rest = first.halves()
        world.do(first.ack("1-0"))
        world.do(first.nack("2-0"))
        world.do(first.fail("3-0", "why"))
        assert (rows(part), rows(rest)) == ([1, 2], [3, 4])
        assert pending(client, stream) == [2, 4, 5, 6]
        never_idle(client, stream, ["4-0", "5-0", "6-0"], 1.2 * IDLE)
        assert idle_times(client, stream)["2-0"] >= IDLE
        _, last = second.halves()
        last.leave()
        time.sleep(1.2 * IDLE / 1_000)
        times = idle_times(client, stream)
        assert times["6-0"] >= IDLE
        assert max(times["4-0"], times["5-0"]) < IDLE


def test_what_is_given_back_at_once_may_be_taken_at_once(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Its idle time is not set back by a script that was under way."""
    add_numbers(client, stream, 3)
    going, go = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        if not going.is_set():
            going.set()
            go.wait(10 * SLACK)

    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **KEEPS, ack="manual", **DRAIN) as consumer:
            batch = next(consumer)
            proxy.before(b"EVAL", hold)
            assert going.wait(10 * SLACK)
            threading.Timer(0.05, go.set).start()
            assert world.do(batch.nack("2-0", delay_ms=0)) == 1
            assert idle_times(client, stream)["2-0"] > 10 * IDLE
            time.sleep(IDLE / 1_000)
            assert idle_times(client, stream)["2-0"] > 10 * IDLE


@pytest.mark.parametrize("how", ["end", "exception", "stop", "del"])
def test_it_ends_with_the_reading(
    any_server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    add_numbers(client, stream, 3)

    def work() -> None:
        with world.consumer(any_server.url, stream, **KEEPS, ack="manual", **DRAIN) as consumer:
            next(consumer)
            if how == "stop":
                # The batch in hand is finished first.
                consumer.stop()
                never_idle(client, stream, ["1-0", "2-0", "3-0"], 1.2 * IDLE)
            if how == "exception":
                raise ZeroDivisionError

    if how == "del":
        consumer = world.consumer(any_server.url, stream, **KEEPS, ack="manual", **DRAIN)
        next(consumer)
        del consumer
    elif how == "exception":
        with pytest.raises(ZeroDivisionError):
            work()
    else:
        work()
    assert pending(client, stream) == [1, 2, 3]
    time.sleep(1.2 * IDLE / 1_000)
    assert steal(any_server.url, stream) == [1, 2, 3]


WORKER = """
import sys, time, redfloe
url, stream, idle = sys.argv[1], sys.argv[2], int(sys.argv[3])
with redfloe.StreamConsumer(
    url, stream, "g", "me", reclaim_min_idle_ms=idle, handle_signals=True
) as consumer:
    for batch in consumer:
        print(len(batch), flush=True)
        for _ in range(300):  # rather than once: signals come in between
            time.sleep(0.01)
            if consumer._stopped:
                print("stopping", flush=True)
                time.sleep(1.5 * idle / 1000)
                break
"""


def test_a_killed_worker_s_entries_are_free_when_they_have_been_idle(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    with python(WORKER, any_server.url, stream, str(IDLE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "3\n"
        never_idle(client, stream, ["1-0", "2-0", "3-0"], 1.5 * IDLE)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    killed = time.monotonic()
    eventually(lambda: min(idle_times(client, stream).values()) >= IDLE)
    assert (time.monotonic() - killed) * 1_000 <= IDLE * 1.5 + 50 * SLACK
    assert steal(any_server.url, stream) == [1, 2, 3]


def test_a_signal_lets_the_batch_in_hand_be_finished(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    with python(WORKER, any_server.url, stream, str(IDLE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "3\n"
        os.kill(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "stopping\n"
        never_idle(client, stream, ["1-0", "2-0", "3-0"], IDLE)
        assert process.wait() == 0
    assert pending(client, stream) == []


def test_an_outage_costs_no_more_than_the_time_that_it_lasts(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **KEEPS, **DRAIN) as consumer:
            next(consumer)
            proxy.cut_after(0, once_seen=b"EVAL")  # the first of them
            never_idle(client, stream, ["1-0", "2-0", "3-0"], 2 * IDLE)
        assert proxy.count(b"EVAL") > 2


def test_a_user_who_may_not_extend_works_as_before(
    redis70: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    client.execute_command(
        "ACL", "SETUSER", "clerk", "reset", "on", f">{PASSWORD}", "~*", "+@all", "-eval"
    )
    try:
        url = with_password(redis70.url, user="clerk")
        with world.consumer(url, stream, **KEEPS, **DRAIN) as consumer:
            for batch in consumer:
                assert rows(batch) == [1, 2, 3]
                time.sleep(IDLE / 1_000)
    finally:
        client.execute_command("ACL", "DELUSER", "clerk")
    assert pending(client, stream) == []


def test_quick_handlers_cost_nothing(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 200)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 30_000, "batch_size": 10, **ME}
    with Proxy(any_server.port) as proxy:
        assert len(all_rows(world.consumer(proxy.url, stream, **options, **DRAIN))) == 200
        assert proxy.count(b"EVAL") == 0


def test_entries_that_others_may_take_at_once_cost_no_more(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """They cannot be kept by asking more and more often: a hundred times a second is enough."""
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 2, "max_processing_ms": 60_000, **ME}
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, **options, **DRAIN) as consumer:
            start = time.monotonic()
            next(consumer)
            time.sleep(0.4)
            sent, seconds = proxy.count(b"EVAL"), time.monotonic() - start
    assert 0 < sent <= seconds / 0.010 + 2


def test_a_worker_in_a_forked_child_keeps_what_it_has(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The parent's thread that does so is not there."""
    add_numbers(client, stream, 2)
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, batch_size=1, **KEEPS, **DRAIN)
    with consumer:
        assert rows(next(consumer)) == [1]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                other = {**KEEPS, "consumer": "child"}
                with StreamConsumer(
                    any_server.url, stream, schema=NUMBER, **other, **DRAIN
                ) as worker:
                    assert rows(next(worker)) == [2]
                    time.sleep(2 * IDLE / 1_000)
                code = 0
            finally:
                os._exit(code)
        eventually(lambda: len(idle_times(client, stream)) == 2)
        never_idle(client, stream, ["1-0", "2-0"], 1.5 * IDLE)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pending(client, stream) == []


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_processing_ms": 1, "auto_extend": False}, "needs auto_extend=True"),
        ({"max_processing_ms": 1, "reclaim_min_idle_ms": None}, "needs reclaim_min_idle_ms"),
        ({"max_processing_ms": 29_999}, r"pending for reclaim_min_idle_ms \(30000\)"),
        ({"max_processing_ms": -1}, "max_processing_ms"),
    ],
)
def test_arguments_that_cannot_be_right(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        redfloe.StreamConsumer("redis://127.0.0.1:1", "s", *ME.values(), **options)


def test_large_batches_that_wait_for_their_handler_come_again_if_others_may_have_them(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """The rest of a reply that `batch_bytes` cuts is pending while the first part is handled."""
    # A batch may exceed its bytes by 256 KiB, which is less than two of these entries.
    for number in range(1, 7):
        client.xadd(stream, {"n": number, "blob": "x" * 200_000}, id=f"{number}-0")
    schema = {"n": pl.Int64, "blob": pl.String}
    options: dict[str, Any] = {"batch_bytes": 300_000, **KEEPS}
    with world.consumer(any_server.url, stream, schema, **options, **DRAIN) as consumer:
        first = rows(next(consumer))
        assert first[0] == 1
        rest = [number for number in pending(client, stream) if number not in first]
        eventually(lambda: min(idle_times(client, stream)[f"{n}-0"] for n in rest) >= IDLE)
        taken = steal(any_server.url, stream)
        assert taken == [number for number in range(1, 7) if number not in first]
        assert all_rows(consumer) == []
    assert pending(client, stream) == []
