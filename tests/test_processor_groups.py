"""Processors that share a stream by a consumer group: each entry is in the outputs once."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    ClaimedError,
    FencedError,
    NoGroupError,
    RedisConnection,
    StreamProcessor,
    WrongTypeError,
)
from support.consumers import World, dead_ids, letters
from support.groups import pending
from support.lanes import lane_key
from support.processes import hear, python
from support.processors import NAME, STREAM, Driven, processor
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers, add_values
from support.timing import SLACK, eventually, within

OUT = "{numbers}:out"
SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}
#: What others leave pending is claimed soon.
EAGER: dict[str, Any] = {"reclaim_min_idle_ms": 50, "reclaim_interval_ms": 20}


def worker(url: Any, consumer: str = "c1", **options: Any) -> StreamProcessor:
    return processor(url, **{"group": "g", "consumer": consumer, **options})


def drive(world: World, url: Any, consumer: str = "c1", **options: Any) -> Driven:
    return Driven(world, worker(url, consumer, **options))


def copy(tx: Any) -> None:
    """Write a row for each row; both worlds have that."""
    tx.publish(OUT, tx.frame.select("n"))


def drain(url: Any, consumer: str = "c1", **options: Any) -> StreamProcessor:
    with worker(url, consumer, **options) as made:
        for tx in made:
            copy(tx)
    return made


def outputs(client: redis.Redis) -> list[int]:
    found: Any = client.xrange(OUT)
    return sorted(int(fields[b"n"]) for _, fields in found)


def check(client: redis.Redis, last: int) -> None:
    """Each number has one output, and none is pending."""
    assert Counter(outputs(client)) == Counter(range(1, last + 1))
    assert pending(client, STREAM) == []
    assert client.xinfo_groups(STREAM)[0]["last-delivered-id"] == f"{last}-0".encode()


def claim(client: redis.Redis, *numbers: int, consumer: str = "other") -> None:
    """Have another consumer claim entries."""
    client.xclaim(STREAM, "g", consumer, 0, [f"{n}-0" for n in numbers])


#: A process that works until the stream is drained, and says what it has begun.
WORKER = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_processor_groups import copy, worker

with worker(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])) as made:
    for tx in made:
        print(json.dumps(len(tx)), flush=True)
        copy(tx)
print(json.dumps("done"), flush=True)
"""


def finished(process: Any) -> int:
    """Wait until a process has drained the stream; say how many entries it had in hand."""
    number = 0
    while (said := hear(process)) != "done":
        number += said
    return number


@pytest.mark.parametrize("batch_size", [1, 3, 1_000])
def test_a_batch_and_its_acknowledgement_are_one_step(
    server: Server, client: redis.Redis, world: World, batch_size: int
) -> None:
    add_numbers(client, STREAM, 10)
    client.config_resetstat()
    driven = drive(world, server.url, batch_size=batch_size)
    commits = 0
    with driven:
        for tx in driven:
            assert outputs(client) == [*range(1, tx.frame["n"][0])]
            assert set(tx.frame["n"]) <= {*pending(client, STREAM, "c1")}
            copy(tx)
            commits += 1
    check(client, 10)
    stats = driven.processor.stats
    assert (stats.entries, stats.commits, stats.position) == (10, commits, None)
    # Once in the script, and once to ask whether it may: nothing is acknowledged again.
    assert client.info("commandstats")["cmdstat_xack"]["calls"] == 2 * commits
    assert repr(driven.processor).endswith(
        f"stream='numbers', group='g', consumer='c1', name='sums', epoch=1)"
    )
    # Another run finds nothing, and then what has come.
    with driven:
        assert [*driven] == []
    add_numbers(client, STREAM, 15, first=11)
    driven.run(copy)
    check(client, 15)


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


def test_what_another_claims_in_the_middle_of_a_batch(
    server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    driven = drive(world, server.url, batch_size=3, reclaim_min_idle_ms=None)
    with driven:
        tx = next(driven)
        copy(tx)
        claim(client, 2)
        with pytest.raises(ClaimedError, match="1 of the entries to acknowledge, 2-0 among them"):
            world.do(tx.commit())
        assert outputs(client) == []
        assert pending(client, STREAM) == [1, 2, 3]
        # What is still its own comes again.
        tx = next(driven)
        assert tx.frame["n"].to_list() == [1, 3]
        copy(tx)
        # A loop goes on.
        claim(client, 3)
        for tx in driven:
            copy(tx)
    assert outputs(client) == [1, 4, 5, 6]
    assert driven.processor.stats.epoch == 1
    drain(server.url, "other")
    check(client, 6)


def test_a_loop_logs_what_it_drops(
    any_server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add_numbers(client, STREAM, 3)
    with caplog.at_level(logging.INFO, "redfloe"), worker(any_server.url) as made:
        for number, tx in enumerate(made):
            copy(tx)
            if number == 0:
                claim(client, 1)
        records: list[Any] = caplog.records
    (dropped,) = (one for one in records if one.event == "batch_claimed")
    assert (dropped.entries, dropped.consumer, dropped.levelname) == (3, "c1", "WARNING")
    assert "nothing of a batch of 3 entries is written: 1 of the entries" in dropped.message
    (acquired,) = (one for one in records if one.event == "consumer_acquired")
    assert "the lane of c1 in the group g (epoch 1)" in acquired.message
    assert outputs(client) == [2, 3]


def test_the_end_tells_that_the_last_batch_was_claimed(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 3)
    driven = drive(world, any_server.url)
    with pytest.raises(ClaimedError), driven:  # noqa: PT012
        copy(next(driven))
        claim(client, 1)
    assert outputs(client) == []


@pytest.mark.parametrize("commits", [True, False])
def test_a_handler_whose_batch_is_claimed(
    any_server: Server, client: redis.Redis, world: World, commits: bool
) -> None:
    add_numbers(client, STREAM, 4)
    seen: list[list[int]] = []

    def handle(tx: Any) -> Any:
        seen.append(tx.frame["n"].to_list())
        copy(tx)
        if len(seen) == 1:
            claim(client, 1)
        return tx.commit() if commits else None

    async def awaited(tx: Any) -> None:
        if (committing := handle(tx)) is not None:
            await committing

    drive(world, any_server.url).run(handle if world.runner is None else awaited)
    assert seen == [[1, 2, 3, 4], [2, 3, 4]]
    assert outputs(client) == [2, 3, 4]


def test_an_output_of_another_type(server: Server, client: redis.Redis, world: World) -> None:
    add_numbers(client, STREAM, 4)
    client.set("{numbers}:text", "x")
    driven = drive(world, server.url, batch_size=2)
    with driven:
        tx = next(driven)
        copy(tx)
        tx.publish("{numbers}:text", tx.frame)
        with pytest.raises(WrongTypeError, match="holds a string"):
            world.do(tx.commit())
        assert outputs(client) == []
        assert pending(client, STREAM) == [1, 2]
        for tx in driven:  # it comes again
            copy(tx)
    check(client, 4)


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


def test_what_several_workers_cannot_have(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 1)
    driven = drive(world, any_server.url)
    with driven:
        tx = next(driven)
        for use in (
            lambda: world.do(tx.table("t", key="a", schema={"b": pl.Int64})),
            lambda: tx.state,
            lambda: world.do(tx.batch_id),
            lambda: driven.processor.bind(type("Counts", (redfloe.State,), {})()),
        ):
            with pytest.raises(ValueError, match=r"with a group .* leave out group="):
                use()
        copy(tx)
    check(client, 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 10_001}, "batches of 10000 entries at most"),
        ({"consumer": None}, "a group needs a consumer"),
        ({"group": None}, "consumer and max_deliveries need a group"),
        ({"group": None, "consumer": None, "max_deliveries": 2}, "need a group"),
        ({"max_deliveries": 2}, "max_deliveries needs a dead_letter"),
        ({"start_id": "5"}, "pass group_start_id"),
        ({"dead_letter": STREAM}, "the stream itself"),
        ({"reclaim_min_idle_ms": -1}, "reclaim_min_idle_ms"),
    ],
)
def test_arguments_that_cannot_be_right(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StreamProcessor(
            "redis://localhost:1",
            STREAM,
            **{"name": NAME, "group": "g", "consumer": "c", **options},
        )


def test_a_batch_of_the_most_entries(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 10_000)
    made = drain(any_server.url, batch_size=10_000)
    assert made.stats.commits == 1
    check(client, 10_000)


def test_workers_in_threads(any_server: Server, client: redis.Redis) -> None:
    total = 2_000
    add_numbers(client, STREAM, total)
    workers = [worker(any_server.url, f"c{number}", batch_size=7, **EAGER) for number in range(4)]
    for ended in [made.start(copy) for made in workers]:
        ended.result(20 * SLACK)
    check(client, total)
    assert sum(made.stats.entries for made in workers) == total


@pytest.mark.parametrize("seed", range(2))
def test_workers_that_are_killed_at_any_time(
    any_server: Server, client: redis.Redis, seed: int
) -> None:
    chance = random.Random(seed)
    total = 3_000
    add_numbers(client, STREAM, total)
    options = json.dumps({"batch_size": 10, "lease_ms": 50, **EAGER})
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
        workers = [
            worker(RedisConnection(proxy.url, **QUICK), f"c{number}", batch_size=5, **EAGER)
            for number in range(3)
        ]
        ended = [made.start(copy) for made in workers]
        while not all(one.done() for one in ended):
            time.sleep(chance.uniform(0.01, 0.05))
            proxy.cut_all()
        for one in ended:
            one.result()
    # What a lost reply of XREADGROUP had may be pending still.
    drain(any_server.url, "last", reclaim_min_idle_ms=0, reclaim_interval_ms=0)
    check(client, total)


def test_an_entry_that_fails_goes_to_the_dead_letters_in_the_commit(
    server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 8)
    client.config_resetstat()

    def handle(tx: Any) -> None:
        copy(tx)
        if 5 in tx.frame["n"]:
            msg = "five"
            raise ZeroDivisionError(msg)

    async def awaited(tx: Any) -> None:
        handle(tx)

    driven = drive(world, server.url, dead_letter="{numbers}:dead")
    driven.run(handle if world.runner is None else awaited, attempts=1)
    assert outputs(client) == [1, 2, 3, 4, 6, 7, 8]
    assert dead_ids(client, "{numbers}:dead") == ["5-0"]
    (letter,) = letters(client, "{numbers}:dead")
    assert (letter[b"_dead_group"], letter[b"_dead_consumer"]) == (b"g", b"c1")
    assert letter[b"_dead_deliveries"] == b"1"
    assert b"five" in letter[b"_dead_reason"]
    assert pending(client, STREAM) == []
    assert driven.processor.stats.dead_lettered == 1


def test_an_entry_that_is_delivered_too_often(any_server: Server, client: redis.Redis) -> None:
    """Where deliveries count it stays pending first, and does not keep others from their turn."""
    add_numbers(client, STREAM, 4)
    options = {"dead_letter": "{numbers}:dead", "max_deliveries": 2, **EAGER}
    made = worker(any_server.url, block_ms=200, **options)
    calls: list[list[int]] = []

    def handle(tx: Any) -> None:
        calls.append(tx.frame["n"].to_list())
        if 2 in tx.frame["n"]:
            raise ZeroDivisionError
        copy(tx)

    made.run(handle, attempts=1)
    assert outputs(client) == [1, 3, 4]
    assert calls[0] == [1, 2, 3, 4]
    assert calls[-1] == [2]
    assert dead_ids(client, "{numbers}:dead") == ["2-0"]
    assert letters(client, "{numbers}:dead")[0][b"_dead_deliveries"] == b"2"
    assert made.stats.dead_lettered == 1


def test_what_cannot_be_decoded_goes_to_the_dead_letters(
    any_server: Server, client: redis.Redis
) -> None:
    add_values(client, STREAM, ["1", "x", "3"], "n")
    made = drain(any_server.url, dead_letter="{numbers}:dead")
    assert outputs(client) == [1, 3]
    assert dead_ids(client, "{numbers}:dead") == ["2-0"]
    assert (made.stats.dead_lettered, made.stats.entries) == (1, 2)
    assert pending(client, STREAM) == []


def test_failed_entries_of_a_loop(any_server: Server, client: redis.Redis, world: World) -> None:
    add_numbers(client, STREAM, 3)
    driven = drive(world, any_server.url, dead_letter="{numbers}:dead")
    with driven:
        for tx in driven:
            tx.fail("2-0", "odd")
            tx.publish(OUT, tx.frame.filter(pl.col("n") != 2))
    assert (outputs(client), dead_ids(client, "{numbers}:dead")) == ([1, 3], ["2-0"])


def test_entry_by_entry(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 5)
    made = worker(any_server.url)

    @made.each
    def double(entry: dict[str, Any], tx: redfloe.Transaction) -> None:
        tx.publish(OUT, {"n": entry["n"]})

    made.run()
    check(client, 5)


def test_a_worker_that_waits_is_stopped(any_server: Server, client: redis.Redis) -> None:
    made = worker(any_server.url, on_idle="wait", block_ms=0)
    ended = made.start(copy)
    eventually(lambda: made.stats.epoch)
    add_numbers(client, STREAM, 2)
    eventually(lambda: made.stats.entries == 2)
    with within(2):
        made.stop()
        ended.result(5)
    assert client.hget(lane_key(STREAM, NAME, "g", "c1"), "owner") == b""
    check(client, 2)


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


def test_workers_are_seen(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 5)
    drain(any_server.url, "c1")
    drain(any_server.url, "c2")
    frame = redfloe.processor_info(any_server.url)
    assert frame.select("processor", "group", "consumer").rows() == [
        (NAME, "g", "c1"),
        (NAME, "g", "c2"),
    ]


def test_threads_of_one_consumer(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 100)
    made = [worker(any_server.url, batch_size=3) for _ in range(2)]
    threads = [threading.Thread(target=one.run, args=[copy]) for one in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20 * SLACK)
    check(client, 100)
