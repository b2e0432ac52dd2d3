"""Workers of a group that die, stop, and lose replies or each other's entries: each is in once."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time

import pytest
import redis

from redfloe import ClaimedError, FencedError, NoGroupError, RedisConnection
from support.consumers import World
from support.lanes import lane_key
from support.processes import hear, python
from support.processors import NAME, STREAM
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, eventually, within
from support.workers import (
    EAGER,
    OUT,
    QUICK,
    WORKER,
    check,
    claim,
    copy,
    drain,
    drive,
    finished,
    outputs,
    worker,
)


def test_the_outputs_of_two_instances(any_server: Server, client: redis.Redis) -> None:
    """The peer's two instances of one ID made 381 outputs of 200 messages."""
    add_numbers(client, STREAM, 200)
    options = json.dumps({"batch_size": 1, **EAGER})
    with (
        python(WORKER, any_server.url, "c1", options) as one,
        python(WORKER, any_server.url, "c2", options) as other,
    ):
        counts = [finished(one), finished(other)]
    check(client, 200)
    assert sum(counts) == 200


def test_two_instances_of_one_consumer(any_server: Server, client: redis.Redis) -> None:
    """One works, the other stands by, and finds nothing left."""
    add_numbers(client, STREAM, 200)
    options = json.dumps({"batch_size": 1, **EAGER})
    with (
        python(WORKER, any_server.url, "c1", options) as one,
        python(WORKER, any_server.url, "c1", options) as other,
    ):
        counts = [finished(one), finished(other)]
    assert sorted(counts) == [0, 200]
    check(client, 200)


def test_an_instance_whose_lane_is_taken(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    former, latter = (
        drive(world, any_server.url, batch_size=2, takeover=takes) for takes in (False, True)
    )
    with pytest.raises(FencedError, match="has acquired the lane"), former:  # noqa: PT012
        copy(next(former))
        tx = next(former)
        copy(tx)
        with latter:
            # What the former has in hand is pending to the consumer, which the latter is now.
            assert next(latter).frame["n"].to_list() == [3, 4]
            with pytest.raises(FencedError):
                world.do(tx.commit())
            assert outputs(client) == [1, 2]
        next(former)
    drain(any_server.url)
    # The latter has published nothing of that batch, and committed it.
    assert outputs(client) == [1, 2, 5, 6]


def test_a_group_that_is_gone(server: Server, client: redis.Redis, world: World) -> None:
    """What it knew of all that was committed is gone with it, so it is not created again."""
    add_numbers(client, STREAM, 4)
    driven = drive(world, server.url, batch_size=2)
    with pytest.raises(NoGroupError), driven:  # noqa: PT012
        copy(next(driven))
        tx = next(driven)
        copy(tx)
        client.xgroup_destroy(STREAM, "g")
        with pytest.raises(NoGroupError):
            world.do(tx.commit())
        assert outputs(client) == [1, 2]
        next(driven)
    with pytest.raises(NoGroupError, match="not created again; create it"), driven:
        next(driven)
    client.xgroup_create(STREAM, "g", "2-0")
    driven.run(copy)
    check(client, 4)


def test_workers_in_threads(any_server: Server, client: redis.Redis) -> None:
    total = 2_000
    add_numbers(client, STREAM, total)
    workers = [worker(any_server.url, f"c{number}", batch_size=7, **EAGER) for number in range(4)]
    for ended in [made.start(copy) for made in workers]:
        ended.result(20 * SLACK)
    check(client, total)
    assert sum(made.stats.entries for made in workers) == total


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_workers_that_are_killed_at_any_time(
    any_server: Server, client: redis.Redis, seed: int
) -> None:
    chance = random.Random(seed)
    total = 6_000
    add_numbers(client, STREAM, total)
    options = json.dumps({"batch_size": 1, "lease_ms": 50, **EAGER})
    killed = 0
    for _ in range(2):
        with (
            python(WORKER, any_server.url, "c1", options) as one,
            python(WORKER, any_server.url, "c2", options) as other,
        ):
            for process in chance.sample([one, other], 2):
                for _ in range(chance.randint(1, 20)):
                    hear(process)
                process.kill()
                process.wait()
                killed += 1
        assert len(outputs(client)) < total, "it was too slow to be killed"
    # Another claims what they have left, and reads the rest.
    with worker(any_server.url, "c3", on_idle="wait", batch_size=100, **EAGER) as made:
        for tx in made:
            copy(tx)
            tx.commit()
            if len(outputs(client)) == total:
                break
    assert killed == 4
    check(client, total)


def test_a_worker_that_is_stopped_beyond_claims(any_server: Server, client: redis.Redis) -> None:
    total = 300
    add_numbers(client, STREAM, total)
    options = {"batch_size": 5, "auto_extend": False, **EAGER}
    with python(WORKER, any_server.url, "c1", json.dumps(options)) as process:
        hear(process)
        eventually(lambda: outputs(client))
        os.kill(process.pid, signal.SIGSTOP)
        with within(10), worker(any_server.url, "c2", on_idle="wait", **EAGER) as made:
            for tx in made:
                copy(tx)
                tx.commit()
                if len(outputs(client)) == total:
                    break
        check(client, total)
        add_numbers(client, STREAM, total + 50, first=total + 1)
        os.kill(process.pid, signal.SIGCONT)
        # It goes on: its batch was refused, and nothing of it written.
        finished(process)
        assert process.wait(20 * SLACK) == 0
    check(client, total + 50)


def test_a_handler_that_takes_longer_than_claims_wait(
    any_server: Server, client: redis.Redis
) -> None:
    """Its entries are kept from others, as those of a consumer."""
    add_numbers(client, STREAM, 4)
    with worker(any_server.url, batch_size=4, **EAGER) as slow:
        copy(next(slow))
        with worker(any_server.url, "c2", block_ms=200, **EAGER) as other:
            assert [*other] == []
    check(client, 4)


@pytest.mark.parametrize("fault", ["cut_after", "reset_after"])
def test_replies_that_are_lost(server: Server, client: redis.Redis, fault: str) -> None:
    """Whichever it is: of acquiring, of a read, a commit or the release."""
    drain(server.url, name="warm")  # scripts are loaded
    client.delete(STREAM)
    lane = lane_key(STREAM, NAME, "g", "c1")
    for command in (b"EVALSHA", b"XREADGROUP"):
        for skip in range(6):
            client.delete(STREAM, OUT, lane)
            add_numbers(client, STREAM, 6)
            with Proxy(server.port) as proxy:
                hit = getattr(proxy, fault)(skip % 3, once_seen=command, skip=skip)
                drain(RedisConnection(proxy.url, **QUICK), batch_size=2)
            check(client, 6)
            if hit.hits == 0:
                assert skip > 2
                break


@pytest.mark.parametrize("is_in", [True, False])
def test_an_unknown_outcome_is_settled_by_what_is_pending(
    any_server: Server, client: redis.Redis, is_in: bool
) -> None:
    drain(any_server.url, name="warm")
    client.delete(STREAM)
    add_numbers(client, STREAM, 6)

    def lose(_: int) -> None:
        proxy.cut_all()
        proxy.clear()

    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, max_retries=0)
        with worker(url, batch_size=2) as made:
            copy(next(made))
            copy(next(made))
            if is_in:
                proxy.cut_after(0, once_seen=b"EVALSHA")
            else:
                proxy.replace_reply(b"", once_seen=b"EVALSHA")
                proxy.before(b"EVALSHA", lose)
            for tx in made:
                copy(tx)
        assert made.stats.epoch == 2
    check(client, 6)


def test_connections_that_are_cut_all_the_time(any_server: Server, client: redis.Redis) -> None:
    total = 1_000
    add_numbers(client, STREAM, total)
    chance = random.Random(1)
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, max_retries=1_000, **QUICK)
        workers = [worker(url, f"c{number}", batch_size=5, **EAGER) for number in range(3)]
        ended = [made.start(copy) for made in workers]
        while not all(one.done() for one in ended):
            time.sleep(chance.uniform(0.01, 0.05))
            proxy.cut_all()
        for one in ended:
            one.result()
    # What a lost reply of XREADGROUP had may be pending still.
    drain(any_server.url, "last", reclaim_min_idle_ms=0, reclaim_interval_ms=0)
    check(client, total)


def test_a_worker_that_waits_notices_that_it_is_fenced(
    any_server: Server, client: redis.Redis
) -> None:
    made = worker(any_server.url, on_idle="wait", block_ms=0, lease_ms=200)
    ended = made.start(copy)
    eventually(lambda: made.stats.epoch)
    with worker(any_server.url, takeover=True) as successor:
        assert [*successor] == []
    with pytest.raises(FencedError):
        ended.result(5 * SLACK)


def test_threads_of_one_consumer(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 100)
    made = [worker(any_server.url, batch_size=3) for _ in range(2)]
    threads = [threading.Thread(target=one.run, args=[copy]) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20 * SLACK)
    check(client, 100)


def test_entries_that_are_claimed_while_an_attempt_is_lost(
    any_server: Server, client: redis.Redis
) -> None:
    """That attempt may still come, and be taken for the next commit, which has its number."""
    add_numbers(client, STREAM, 3)
    drain(any_server.url, "warm")  # scripts are loaded
    add_numbers(client, STREAM, 6, first=4)
    with Proxy(any_server.port) as proxy:
        with worker(RedisConnection(proxy.url, **QUICK), reclaim_min_idle_ms=None) as made:
            tx = next(made)
            copy(tx)
            claim(client, 4)
            proxy.lose(b"EVALSHA")
            with pytest.raises(ClaimedError, match="1 of the entries to acknowledge"):
                tx.commit()
            tx = next(made)
            assert tx.frame["n"].to_list() == [5, 6]
            copy(tx)
        assert made.stats.epoch == 2
    assert outputs(client) == [1, 2, 3, 5, 6]
