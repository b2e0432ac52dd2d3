"""Processors of a sharded stream: a lane for each shard, shared by their leases."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import redfloe
from redfloe import FencedError, StreamProcessor
from support.consumers import World
from support.processes import hear, python
from support.processors import Driven
from support.server import Server
from support.sharded_processors import TABLE, check, drain, held, processor, totals, work
from support.shards import SCHEMA, TAGS, frame
from support.timing import eventually, later, within

MORE = frame().with_columns(pl.col("n") + 500)


@pytest.fixture
def events(any_server: Server, stream: str) -> str:
    redfloe.write_stream(any_server.url, frame(), stream, shards=8, shard_by="user")
    return stream


def start(made: StreamProcessor, out: str) -> threading.Thread:
    def run() -> None:
        with made:
            for tx in made:
                work(tx, out)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_one_processor_has_all_lanes(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"
    assert drain(url, events, out).stats.entries == 0  # it was left
    check(url, events, out, [frame()])
    drain(url, events, out)
    redfloe.write_stream(url, MORE, events)
    drain(url, events, out)
    check(url, events, out, [frame(), MORE])
    info = redfloe.processor_info(url, pattern=f"{events}:*")
    assert info.height == 8
    assert redfloe.processor_info(url, events).equals(info)
    assert asyncio.run(redfloe.processor_info_async(url, events)).equals(info)


def test_in_an_event_loop(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"

    async def drained() -> int:
        async with processor(url, events) as made:
            async for tx in made:
                table = await tx.table("totals", key="user", schema={"n": pl.Int64})
                new = tx.frame.group_by("user").agg(pl.col("n").sum())
                old = table.lookup(new["user"])["n"].fill_null(0)
                table.upsert(new.with_columns(pl.col("n") + old))
                tx.publish(out, tx.frame.select("user", "n"), shard_by="user")
            return made.stats.entries

    assert asyncio.run(drained()) == 500
    check(url, events, out, [frame()])
    reading = redfloe.read_table_async(
        url, events, "totals", "totals", key="user", schema={"n": pl.Int64}
    )
    assert asyncio.run(reading).height == 41


def test_several_share_the_lanes(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"
    made = [processor(url, events, on_idle="wait", block_ms=50) for _ in range(3)]
    threads = [start(made[0], out)]
    eventually(lambda: held(made) == [8, 0, 0])
    threads.append(start(made[1], out))
    eventually(lambda: held(made) == [4, 4, 0])
    threads.append(start(made[2], out))
    eventually(lambda: sorted(held(made)) == [2, 3, 3])
    redfloe.write_stream(url, MORE, events)
    wanted = pl.concat([frame(), MORE]).group_by("user").agg(pl.col("n").sum()).sort("user")
    eventually(lambda: totals(url, events).equals(wanted))
    made[0].stop()
    threads[0].join(5)
    eventually(lambda: held(made)[1:] == [4, 4])
    for one in made:
        one.stop()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    check(url, events, out, [frame(), MORE])


WORKER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from support.sharded_processors import processor, work
url, stream, out = sys.argv[1:]
made = processor(url, stream, on_idle="wait", block_ms=50, batch_size=5)
def handle(tx):
    work(tx, out)
    print(1, flush=True)
made.run(handle)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_what_a_dead_one_had_is_taken_over(any_server: Server, events: str, how: int) -> None:
    url, out = any_server.url, f"{events}:out"
    with python(WORKER, str(Path(__file__).parent), url, events, out) as process:
        for _ in range(10):
            hear(process)
        os.kill(process.pid, how)
        drain(url, events, out)
        check(url, events, out, [frame()])
        if how == signal.SIGSTOP:
            # It finds its lanes taken, and what it had in hand is in once.
            os.kill(process.pid, signal.SIGCONT)
            redfloe.write_stream(url, MORE, events)
            wanted = pl.concat([frame(), MORE]).group_by("user").agg(pl.col("n").sum()).sort("user")
            eventually(lambda: totals(url, events).equals(wanted))
            check(url, events, out, [frame(), MORE])
        process.kill()


def test_handlers_failures_and_dead_letters(any_server: Server, events: str) -> None:
    url, dead, seen = any_server.url, f"{events}:dead", []
    redfloe.write_stream(url, pl.DataFrame({"user": ["user_1", "user_9"], "n": ["x", "y"]}), events)

    def handle(tx: Any) -> None:
        if 7 in tx.frame["n"]:
            msg = "seven"
            raise ValueError(msg)
        seen.extend(tx.frame["n"].to_list())
        tx.state["n"] = 1

    made = processor(url, events, dead_letter=dead)
    made.run(handle, attempts=1)
    assert sorted(seen) == [n for n in range(500) if n != 7]
    assert sorted(redfloe.read_dead_letters(url, dead)["n"]) == ["7", "x", "y"]


def test_an_exception_leaves_nothing_of_the_batch(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"

    def fail() -> None:
        with processor(url, events) as made:
            work(next(made), out)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    drain(url, events, out)
    check(url, events, out, [frame()])


def test_windows_are_those_of_each_lane(any_server: Server, events: str) -> None:
    rows = []
    with processor(any_server.url, events) as made:
        for tx in made:
            window = tx.window("w", every="1h", by="user", aggs={"n": pl.len()}, close_at_end=True)
            rows.append(window.closed)
    by_user = pl.concat(rows).group_by("user").agg(pl.col("n").sum()).sort("user")
    assert by_user["n"].to_list() == frame().group_by("user").len().sort("user")["len"].to_list()


def test_a_lane_looks_into_the_tables_of_its_shard(any_server: Server, events: str) -> None:
    url, found, where = any_server.url, [], (events, "totals", "totals")
    drain(url, events, f"{events}:out")

    def look(tx: Any) -> None:
        found.append(tx.lookup(*where, tx.frame["user"], **TABLE))

    with processor(url, f"{events}:out", lease_ms=3_000) as made:
        for tx in made:
            look(tx)
    assert pl.concat(found).unique().sort("user").equals(totals(url, events))
    redfloe.write_stream(url, frame(), f"{events}:2", shards=2, shard_by="user")
    redfloe.write_stream(url, frame(), f"{events}:plain")
    for other in (f"{events}:2", f"{events}:plain"):
        with processor(url, other) as made:
            tx = next(made)
            with pytest.raises(ValueError, match=r"name a shard, such as .*\{0-dnh\}"):
                look(tx)


def test_the_stream_may_become_a_sharded_one(any_server: Server, stream: str, world: World) -> None:
    """It is not there yet when a processor starts."""
    url, out = any_server.url, f"{stream}:out"
    driven = Driven(world, processor(url, stream, on_idle="wait", block_ms=20))
    seen = 0
    options: Any = {"shards": 8, "shard_by": "user"}
    with driven, later(0.2, lambda: redfloe.write_stream(url, frame(), stream, **options)):
        for tx in driven:
            tx.publish(out, tx.frame.select("user", "n"), shard_by="user")
            seen += len(tx)
            if seen == 500:
                driven.processor.stop()
    assert redfloe.read_stream(url, out, SCHEMA).select("user", "n").sort("n").equals(frame())


def test_what_would_be_in_several_lanes_is_refused(any_server: Server, events: str) -> None:
    url = any_server.url
    with processor(url, events) as made:
        tx = next(made)
        for use in (
            lambda: tx.table("t", key="n", schema={"user": pl.String}),
            lambda: tx.window("w", every="1h", by="n", aggs={"c": pl.len()}),
        ):
            with pytest.raises(ValueError, match="user"):
                use()
        with pytest.raises(ValueError, match="maxlen"):
            tx.publish("out", tx.frame, shard_by="user", maxlen=5)
        assert ":" in tx.batch_id
    with pytest.raises(ValueError, match="takeover"), processor(url, events, takeover=True) as made:
        next(made)
    redfloe.write_stream(url, frame(), f"{events}:plain")
    with processor(url, f"{events}:plain") as made:
        tx = next(made)
        with pytest.raises(ValueError, match="sharded"):
            tx.publish("out", tx.frame, shard_by="user")


def test_a_processor_may_be_entered_again_and_stopped(any_server: Server, events: str) -> None:
    made = processor(any_server.url, events, on_idle="wait", block_ms=50)
    with made:
        first = next(made)
        assert first.frame.height == 20
    made.stop()
    with made:
        assert list(made) == []
    with made:
        assert len(next(made)) > 0


def test_a_forked_child_refuses(any_server: Server, events: str) -> None:
    """And says nothing in the parent's name."""
    url, out = any_server.url, f"{events}:out"
    made = processor(url, events)
    with made:
        work(next(made), out)
        for use in (lambda: next(made), lambda: made.__exit__(None, None, None)):
            child = os.fork()
            if child == 0:
                told = 1
                try:
                    use()
                except FencedError as error:
                    told = int("forked" not in str(error))
                finally:
                    os._exit(told)
            assert os.waitpid(child, 0)[1] == 0
        for tx in made:
            work(tx, out)
    check(url, events, out, [frame()])


def test_the_end_does_not_wait_for_a_server_that_is_gone(own: Server) -> None:
    redfloe.write_stream(own.url, frame(), "events", shards=8, shard_by="user")
    made = processor(own.url, "events")
    made.__enter__()
    assert len(next(made)) > 0
    own.stop()
    with within(3):
        made.__exit__(KeyError, KeyError(), None)


@pytest.mark.parametrize("when", ["before the commit", "before the work", "in a commit", "caught"])
def test_a_lane_that_another_has_taken_is_left(any_server: Server, events: str, when: str) -> None:
    """Its batch is the other's; the loop goes on with the others, and takes it again."""
    url, out = any_server.url, f"{events}:out"
    stolen: list[str] = []

    def steal(tx: Any) -> None:
        if not stolen:
            stolen.extend(f"{events}:{{{t}}}" for t in TAGS if t.startswith(tx.batch_id[:1]))
            thief = StreamProcessor(url, stolen[0], name="totals", schema=SCHEMA, takeover=True)
            with contextlib.suppress(KeyError), thief:
                next(thief)
                raise KeyError  # it commits nothing

    def handle(tx: Any) -> None:
        if when in {"before the work", "caught"}:
            steal(tx)
        work(tx, out)
        steal(tx)
        if when == "in a commit" and tx.ids.len():
            tx.commit()

    made = processor(url, events)
    if when in {"before the commit", "caught"}:
        with made:
            for tx in made:
                with contextlib.suppress(*([FencedError] if when == "caught" else [])):
                    handle(tx)
    else:
        made.run(handle)
    assert len(stolen) == 1
    check(url, events, out, [frame()])


@pytest.mark.parametrize("error", [FencedError, KeyError])
def test_a_handlers_own_error_is_none_of_the_lane(
    any_server: Server, events: str, error: type[Exception]
) -> None:
    """A FencedError of another processor, say, does not have the batch tried for ever."""
    seen = []

    def handle(tx: Any) -> None:
        seen.append(len(tx))
        assert len(seen) < 10
        msg = "of another"
        raise error(msg)

    with pytest.raises(error, match="of another"):
        processor(any_server.url, events).run(handle, attempts=2, retry_base_delay=0)
    assert seen == [20, 20]


@pytest.mark.parametrize("lease_ms", [10, 2**40, 2**62])
def test_leases_of_any_length(any_server: Server, events: str, lease_ms: int) -> None:
    out = f"{events}:out"
    drain(any_server.url, events, out, lease_ms=lease_ms)
    check(any_server.url, events, out, [frame()])


def test_stop_ends_the_wait_for_a_server_that_is_gone(own: Server) -> None:
    redfloe.write_stream(own.url, frame(), "events", shards=8, shard_by="user")
    made = processor(own.url, "events", on_idle="wait", block_ms=50)
    thread = start(made, "out")
    eventually(lambda: held([made]) == [8])
    eventually(lambda: made.stats.entries == 500)
    own.stop()
    time.sleep(0.5)  # it has noticed, and waits
    with within(3):
        made.stop()
        thread.join(10)
    assert not thread.is_alive()


def test_a_task_that_is_cancelled_leaves_the_lanes(any_server: Server, events: str) -> None:
    url, out = any_server.url, f"{events}:out"

    async def cancelled() -> None:
        async with processor(url, events, on_idle="wait", block_ms=1_000) as made:
            async for tx in made:
                tx.publish(out, tx.frame.select("user", "n"), shard_by="user")

    async def run() -> None:
        for seconds in (0.05, 0.2, 0.5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(cancelled(), seconds)
        # They were left at once, and not when the leases expired.
        made = processor(url, events)
        async with made:
            async for tx in made:  # what a slow machine leaves
                assert held([made]) == [8]
                tx.publish(out, tx.frame.select("user", "n"), shard_by="user")

    asyncio.run(run())
    assert redfloe.read_stream(url, out, SCHEMA).select("user", "n").sort("n").equals(frame())


def test_a_group_is_refused(any_server: Server, events: str) -> None:
    made = processor(any_server.url, events, group="g", consumer="c")
    with pytest.raises(ValueError, match="group cannot be used with a sharded stream"), made:
        next(made)
