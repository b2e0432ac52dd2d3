"""Processors that share a stream by a consumer group: each entry is in the outputs once."""

from __future__ import annotations

import logging
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import ClaimedError, StreamProcessor, WrongTypeError
from support.consumers import World, dead_ids, letters
from support.groups import pending
from support.lanes import lane_key
from support.processors import NAME, STREAM
from support.server import Server
from support.streams import add_numbers, add_values
from support.timing import eventually, within
from support.workers import (
    EAGER,
    OUT,
    check,
    claim,
    copy,
    drain,
    drive,
    outputs,
    worker,
)


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
        "stream='numbers', group='g', consumer='c1', name='sums', epoch=1)"
    )
    # Another run finds nothing, and then what has come.
    with driven:
        assert [*driven] == []
    add_numbers(client, STREAM, 15, first=11)
    driven.run(copy)
    check(client, 15)


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
            lambda: redfloe.ParquetSink(driven.processor, "lake"),
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
        ({"group": None}, "needs a group"),
        ({"group": None, "consumer": None, "max_deliveries": 2}, "needs a dead_letter"),
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


def test_workers_are_seen(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 5)
    drain(any_server.url, "c1")
    drain(any_server.url, "c2")
    frame = redfloe.processor_info(any_server.url)
    assert frame.select("processor", "group", "consumer").rows() == [
        (NAME, "g", "c1"),
        (NAME, "g", "c2"),
    ]
