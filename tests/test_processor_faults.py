"""Crashes, lost replies, two of one name, and servers that fail: each batch is in once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis

import redfloe
from redfloe import (
    DataLossError,
    DecodeError,
    FencedError,
    NotDurableError,
    OutcomeUnknownError,
    RedisConnection,
    StreamProcessor,
    WrongTypeError,
)
from support.consumers import World, dead_ids, letters
from support.processes import hear, python
from support.processors import (
    DRAIN,
    LANE,
    STREAM,
    Driven,
    check,
    handler,
    outputs,
    processor,
    saved,
    work,
)
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, eventually, in_thread, later, within

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}

#: A process that works until the stream is drained. It dies where it is told to: at the n-th time
#: that it comes to a step.
WORKER = f"""
import random, signal, polars as pl
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.processors import processor, work
from support.consumers import World, dead_ids, letters

url, step, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
options = json.loads(sys.argv[4])
counts = {{}}

def at(name):
    counts[name] = counts.get(name, 0) + 1
    if (name, counts[name]) == (step, number):
        os.kill(os.getpid(), signal.SIGKILL)

with processor(url, **options) as p:
    at("entered")
    for tx in p:
        at("handed out")
        work(World(None), tx)
        at("worked")
        if random.random() < 0.5:
            tx.commit()
            at("committed")
    at("drained")
at("left")
print(json.dumps("done"), flush=True)
"""

STEPS = ("entered", "handed out", "worked", "committed", "drained", "left")


def drain(url: Any, **options: Any) -> None:
    with processor(url, **options) as made:
        for tx in made:
            work(SYNC, tx)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_at_a_step(
    any_server: Server, client: redis.Redis, step: str
) -> None:
    add_numbers(client, STREAM, 9)
    number = 1 if step in ("entered", "drained", "left", "committed") else 2
    options = json.dumps({"batch_size": 2})
    with python(WORKER, any_server.url, step, str(number), options) as process:
        assert process.wait(20 * SLACK) in (-signal.SIGKILL, 0)
    drain(any_server.url, takeover=True, batch_size=3)
    check(client, 9)


@pytest.mark.parametrize("seed", range(3))
def test_processes_that_are_killed_at_any_time(
    any_server: Server, client: redis.Redis, seed: int
) -> None:
    chance = random.Random(seed)
    total = 4_000
    add_numbers(client, STREAM, total)
    options = json.dumps({"batch_size": 10, "lease_ms": 50})
    for _ in range(3):
        with python(WORKER, any_server.url, "never", "0", options) as process:
            seen = client.hget(LANE, "commits")
            eventually(lambda: client.hget(LANE, "commits") != seen)  # noqa: B023
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.wait()
        assert client.hget(LANE, "position") != f"{total}-0".encode(), (
            "it was too slow to be killed"
        )
    drain(any_server.url, batch_size=1_000)
    check(client, total)


#: A process that dies with every batch that has a poisonous number.
POISONED = f"""
import polars as pl
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.processors import processor, work
from support.consumers import World, dead_ids, letters

with processor(sys.argv[1], **json.loads(sys.argv[2])) as p:
    for tx in p:
        if tx.frame["n"].is_in([3, 13]).any():
            os._exit(9)
        work(World(None), tx)
"""


@pytest.mark.slow
def test_an_entry_that_ends_the_process_is_put_aside(
    any_server: Server, client: redis.Redis
) -> None:
    """Whichever batch it is in: the batch is halved with each restart."""
    add_numbers(client, STREAM, 20)
    options = json.dumps(
        {"batch_size": 8, "dead_letter": "dead", "max_deliveries": 2, "takeover": True}
    )
    deaths = 0
    while True:
        with python(POISONED, any_server.url, options) as process:
            code = process.wait(20 * SLACK)
        if code == 0:
            break
        assert code == 9
        deaths += 1
        assert deaths < 15
    assert outputs(client) == [n for n in range(1, 21) if n not in (3, 13)]
    assert dead_ids(client) == ["3-0", "13-0"]
    [first, _] = letters(client)
    assert first[b"_dead_deliveries"] == b"2"
    assert b"max_deliveries" in first[b"_dead_reason"]


def test_an_exception_that_nobody_handles_is_put_aside(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    driven = Driven(world, processor(any_server.url, dead_letter="dead", max_deliveries=1))
    failures = 0
    for _ in range(10):
        try:
            with driven:
                for tx in driven:
                    assert 4 not in tx.frame["n"]
                    work(world, tx)
        except AssertionError:
            failures += 1
        else:
            break
    assert outputs(client) == [1, 2, 3, 5, 6]
    assert dead_ids(client) == ["4-0"]
    assert failures == 4  # 6, 3, 2 and 1 of them
    # Without a note of it nothing is halved.
    client.xadd(STREAM, {"n": 7})
    client.xadd(STREAM, {"n": 8})
    with driven:
        assert len(next(driven)) == 2


def test_two_processes_of_one_name(any_server: Server, client: redis.Redis) -> None:
    """The peer's two instances of one ID made 381 outputs of 200 entries."""
    add_numbers(client, STREAM, 200)
    options = json.dumps({"batch_size": 1})
    with (
        python(WORKER, any_server.url, "never", "0", options) as one,
        python(WORKER, any_server.url, "never", "0", options) as other,
    ):
        assert hear(one) == hear(other) == "done"
    check(client, 200)


def test_a_process_whose_lane_is_taken(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 3_000)
    options = json.dumps({"batch_size": 1})
    with python(WORKER, any_server.url, "never", "0", options) as process:
        eventually(lambda: outputs(client))
        drain(any_server.url, batch_size=1_000, takeover=True)
        _, err = process.communicate(timeout=20 * SLACK)
        assert "FencedError" in err
    check(client, 3_000)


def test_a_process_that_is_stopped_across_a_takeover(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 400)
    options = json.dumps({"batch_size": 1, "lease_ms": 50})
    with python(WORKER, any_server.url, "never", "0", options) as process:
        eventually(lambda: outputs(client))
        os.kill(process.pid, signal.SIGSTOP)
        # No takeover is needed: the lease expires.
        with within(5), processor(any_server.url, lease_ms=50) as made:
            for tx in made:
                work(SYNC, tx)
        check(client, 400)
        os.kill(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=20 * SLACK)
        assert "FencedError" in err
        assert process.returncode == 1
    check(client, 400)


@pytest.mark.parametrize("command", [b"EVALSHA", b"XRANGE"])
@pytest.mark.parametrize("fault", ["cut_after", "reset_after"])
def test_replies_that_are_lost(
    server: Server, client: redis.Redis, command: bytes, fault: str
) -> None:
    """Whichever it is: of acquiring, loading, a commit or the release."""
    add_numbers(client, STREAM, 6)
    drain(server.url, name="warm")  # scripts are loaded
    for skip in range(8):
        client.delete("{numbers}:out", LANE, f"{LANE}:state", f"{LANE}:table:totals")
        with Proxy(server.port) as proxy:
            hit = getattr(proxy, fault)(skip % 3, once_seen=command, skip=skip)
            drain(RedisConnection(proxy.url, **QUICK), batch_size=2)
        check(client, 6)
        if hit.hits == 0:
            assert skip > 2
            break


def test_a_commit_that_is_cut_at_any_byte(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)
    for size in range(0, 30, 3):
        client.delete("{numbers}:out", LANE, f"{LANE}:state", f"{LANE}:table:totals")
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(size, once_seen=b"EVALSHA", skip=3)
            drain(RedisConnection(proxy.url, **QUICK), batch_size=2)
        check(client, 4)


@pytest.mark.parametrize("is_in", [True, False])
def test_an_unknown_outcome_is_settled_by_the_next_batch(
    any_server: Server, client: redis.Redis, is_in: bool
) -> None:
    """Without retries nobody knows whether the commit is in; whoever acquires the lane does."""
    add_numbers(client, STREAM, 6)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, max_retries=0)
        with processor(url, batch_size=2) as made:
            work(SYNC, next(made))
            work(SYNC, next(made))
            if is_in:
                proxy.cut_after(0, once_seen=b"EVALSHA")
            else:
                proxy.lose(b"EVALSHA")
            for tx in made:
                work(SYNC, tx)
        assert made.stats.epoch == 2
    check(client, 6)


def test_a_refusal_after_an_attempt_that_was_lost(any_server: Server, client: redis.Redis) -> None:
    """That attempt may still come, and be taken for the next commit, which has its number."""
    add_numbers(client, STREAM, 2)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    with Proxy(any_server.port) as proxy:
        with processor(RedisConnection(proxy.url, **QUICK)) as made:
            tx = next(made)
            work(SYNC, tx)
            client.set("{numbers}:out", "no stream")
            proxy.lose(b"EVALSHA")
            with pytest.raises(WrongTypeError, match=r"holds a string.* may still be taken"):
                tx.commit()
            client.delete("{numbers}:out")
            work(SYNC, next(made))
        assert made.stats.epoch == 2
    check(client, 2)


def test_an_unknown_outcome_of_a_commit_that_is_waited_for(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 6)
    with Proxy(any_server.port) as proxy:
        with processor(RedisConnection(proxy.url, max_retries=0), batch_size=2) as made:
            tx = next(made)
            work(SYNC, tx)
            proxy.cut_after(0, once_seen=b"EVALSHA")
            with pytest.raises(OutcomeUnknownError):
                tx.commit()
            for tx in made:
                work(SYNC, tx)
    check(client, 6)


def test_a_server_that_is_away_for_a_while(own: Server) -> None:
    client = own.client()
    add_numbers(client, STREAM, 50)
    with processor(RedisConnection(own.url, **QUICK), batch_size=5) as made:
        for number, tx in enumerate(made):
            work(SYNC, tx)
            if number == 3:
                client.save()
                own.kill()
                with later(0.3, own.start):
                    time.sleep(0.1)
                    tx.commit()
    check(own.client(), 50)


def test_a_server_that_has_lost_commits(own: Server) -> None:
    """As after a failover to a replica that lagged: the processor goes on where the server is."""
    client = own.client()
    add_numbers(client, STREAM, 8)
    made = processor(RedisConnection(own.url, **QUICK), batch_size=2, on_data_loss="continue")
    with made:
        work(SYNC, next(made))
        tx = next(made)
        client.save()
        work(SYNC, tx)
        next(made)
        own.kill()
        own.start()
        work(SYNC, next(made))
        for tx in made:
            work(SYNC, tx)
    check(own.client(), 8)


def test_a_server_that_has_lost_who_has_the_lane(own: Server) -> None:
    """Nobody has superseded the processor, and it is not told so."""
    client = own.client()
    add_numbers(client, STREAM, 4)
    url = RedisConnection(own.url, **QUICK)
    with processor(url, batch_size=2) as made:
        work(SYNC, next(made))
    client.save()
    with processor(url, batch_size=2, on_data_loss="continue") as made:
        work(SYNC, next(made))
        own.kill()
        own.start()
        for tx in made:
            work(SYNC, tx)
    check(own.client(), 4)
    client = own.client()
    client.xadd(STREAM, {"n": 5})
    client.save()
    with pytest.raises(DataLossError, match="acquired its lane"), processor(url) as made:  # noqa: PT012
        next(made)
        own.kill()
        own.start()
        made.stop()


def test_a_server_that_has_lost_commits_raises_by_default(own: Server) -> None:
    client = own.client()
    add_numbers(client, STREAM, 8)
    made = processor(RedisConnection(own.url, **QUICK), batch_size=2)
    with pytest.raises(DataLossError, match="lost commits"), made:  # noqa: PT012
        next(made)
        tx = next(made)
        client.save()
        tx = next(made)
        own.kill()
        own.start()
        work(SYNC, tx)
        next(made)
    with made:
        assert next(made).frame["n"].to_list() == [3, 4]


def test_a_commit_that_is_not_durable(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 6)
    made = processor(any_server.url, batch_size=2, wait_replicas=1, wait_timeout_ms=10)
    with pytest.raises(NotDurableError, match="0 of 1 replicas"), made:  # noqa: PT012
        work(SYNC, next(made))
        next(made)
    check(client, 2)
    # The lane goes on for who takes that as it is.
    with made:
        for last in (4, 6):
            tx = next(made)
            work(SYNC, tx)
            with pytest.raises(NotDurableError):
                tx.commit()
            check(client, last)
    assert made.stats.epoch == 2


def test_durability_that_the_server_does_not_have(redis70: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 1)
    with (
        pytest.raises(redfloe.ResponseError, match=r"Redis 7\.2"),
        processor(redis70.url, wait_aof=True) as made,
    ):
        next(made)


def test_a_changed_class_of_the_state_says_so(any_server: Server, client: redis.Redis) -> None:
    """It killed the peer's thread in silence."""

    class Counter(redfloe.State):
        count: int = 0

    add_numbers(client, STREAM, 2)
    made, counter = processor(any_server.url), Counter()
    made.bind(counter)
    with made:
        for tx in made:
            counter.count += len(tx)

    class Changed(redfloe.State):
        counts: dict[str, int] = {}  # noqa: RUF012

    client.xadd(STREAM, {"n": 3})
    changed = processor(any_server.url)
    changed.bind(Changed(), "Counter")
    with pytest.raises(DecodeError, match="Counter"), changed:
        next(changed)
    ended = changed.start(print)
    with pytest.raises(DecodeError, match="Counter"):
        ended.result(5)
    assert client.hget(LANE, "position") == b"2-0"


def test_an_object_has_what_was_saved_though_no_batch_comes(
    any_server: Server, client: redis.Redis
) -> None:
    class Counter(redfloe.State):
        count: int = 0

    add_numbers(client, STREAM, 2)
    made, counter = processor(any_server.url), Counter()
    made.bind(counter)
    with made:
        for tx in made:
            counter.count += len(tx)
    again, other = processor(any_server.url), Counter()
    again.bind(other)
    again.run(print)
    assert other.count == 2


def test_an_object_is_as_it_was_saved_after_a_failure(
    any_server: Server, client: redis.Redis
) -> None:
    class Counter(redfloe.State):
        count: int = 0
        names: list[str] = []  # noqa: RUF012

    add_numbers(client, STREAM, 4)
    made, counter = processor(any_server.url, batch_size=2), Counter()
    made.bind(counter)
    with pytest.raises(ZeroDivisionError), made:  # noqa: PT012
        next(made)
        counter.count, counter.names = 2, ["a"]
        next(made)
        counter.count = 4
        counter.names.append("b")
        raise ZeroDivisionError
    assert (counter.count, counter.names) == (2, ["a"])
    other = Counter()
    again = processor(any_server.url, batch_size=2)
    again.bind(other)
    with pytest.raises(ValueError, match="already"):
        again.bind(Counter())
    with again:
        tx = next(again)
        assert (other.count, other.names) == (2, ["a"])
        assert tx.state.model(Counter) is other


def test_a_forked_child_refuses(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 2)
    with processor(any_server.url) as made:
        work(SYNC, next(made))
        child = os.fork()
        if child == 0:
            told = 1
            try:
                next(made)
            except FencedError:
                told = 0
            finally:
                os._exit(told)
        assert os.waitpid(child, 0)[1] == 0
    check(client, 2)


@pytest.mark.parametrize("waits_for", ["entries", "lane", "server"])
def test_ctrl_c_ends_it_within_a_second(
    any_server: Server, client: redis.Redis, waits_for: str
) -> None:
    add_numbers(client, STREAM, 1)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    with Proxy(any_server.port) as proxy, processor(any_server.url, name="n") as other:
        next(other)
        name = "n" if waits_for == "lane" else "m"
        made = processor(proxy.url, name=name, on_idle="wait", block_ms=0)
        with within(1.5), later(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)):
            with pytest.raises(KeyboardInterrupt), made:  # noqa: PT012
                if waits_for != "lane":
                    work(SYNC, next(made))
                if waits_for == "server":
                    proxy.stall_after(0, times=None)
                next(made)
        other.stop()
    assert outputs(client) == ([] if waits_for == "lane" else [1])


def test_another_thread_that_asks_for_the_next_batch(any_server: Server) -> None:
    made = processor(any_server.url, on_idle="wait")
    with made, in_thread(lambda: [*made]) as result:
        time.sleep(0.1)
        with pytest.raises(RuntimeError, match="another thread"):
            next(made)
        made.stop()
        assert result() == []


def test_what_the_log_says(own: Server, caplog: pytest.LogCaptureFixture) -> None:
    client = own.client()
    add_numbers(client, STREAM, 1)
    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    caplog.set_level("INFO", "redfloe")
    drain(own.url)
    said = {record.event: record.getMessage() for record in caplog.records}  # type: ignore[attr-defined]
    assert "epoch 1" in said["lane_acquired"]
    assert "allkeys-lru" in said["may_be_evicted"]
    client.config_set("maxmemory-policy", "volatile-lru")
    caplog.clear()
    drain(own.url)
    assert "may_be_evicted" not in {record.event for record in caplog.records}  # type: ignore[attr-defined]


def test_the_heartbeat_keeps_the_lane(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 2)
    with processor(any_server.url, lease_ms=100, batch_size=1) as made:
        work(SYNC, next(made))
        other = processor(any_server.url, lease_ms=100)
        with later(0.5, other.stop), other:
            assert [*other] == []
        for tx in made:
            work(SYNC, tx)
    check(client, 2)


def test_a_batch_id_stays_the_same_across_replays(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 3)
    driven = Driven(world, processor(any_server.url, batch_size=10))
    with pytest.raises(ZeroDivisionError), driven:  # noqa: PT012
        first = world.do(next(driven).batch_id)
        raise ZeroDivisionError
    add_numbers(client, STREAM, 9, first=4)
    smaller = Driven(world, processor(any_server.url, batch_size=2))
    with smaller:
        tx = next(smaller)
        assert tx.frame["n"].to_list() == [1, 2, 3]
        assert world.do(tx.batch_id) == first
        work(world, tx)
        tx = next(smaller)
        assert tx.frame["n"].to_list() == [4, 5]
        assert world.do(tx.batch_id) != first
        work(world, tx)
    check(client, 5)


def test_stats_of_one_that_was_not_entered(any_server: Server) -> None:
    stats = StreamProcessor(any_server.url, "s", name="n", schema=NUMBER, **DRAIN).stats
    assert (stats.commits, stats.entries, stats.epoch) == (0, 0, None)
    assert saved(any_server.client(), "n") == {}


@pytest.mark.parametrize("turns", range(3))
def test_a_commit_whose_task_is_cancelled_is_whole(
    any_server: Server, client: redis.Redis, world: World, turns: int
) -> None:
    """Its tables were as saved again before they were written, which lost rows."""

    async def cancelled() -> None:
        made = processor(any_server.url, batch_size=5)
        work: Any = handler(world)
        async with made:
            async for tx in made:
                await work(tx)
                committing = asyncio.ensure_future(tx.commit())
                for _ in range(turns):
                    await asyncio.sleep(0)
                committing.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await committing

    add_numbers(client, STREAM, 100)
    if world.runner is None:
        pytest.skip("nothing is cancelled there")
    world.runner.run(cancelled())
    processor(any_server.url).run(handler(World(None)))
    check(client, 100)
