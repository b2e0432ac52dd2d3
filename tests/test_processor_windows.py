"""Windows of a processor: kept in its state, closed once, on a quiet stream too."""

from __future__ import annotations

import contextlib
import json
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import DecodeError, ParquetSink, RedisConnection, read_table
from support.clicks import (
    LANE,
    NAME,
    OPEN,
    OUT,
    SCHEMA,
    STREAM,
    add,
    closed,
    count,
    processor,
)
from support.consumers import World
from support.processes import python
from support.processors import Driven
from support.proxy import Proxy
from support.server import Server
from support.steps import PLACES, strike
from support.timing import SLACK, eventually, within

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}


def test_windows_close_once_by_the_watermark(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    for seconds, who in [
        (1, "a"),
        (5, None),
        (59, "a"),
        (61, "b"),
        (75, "a"),
        (20, "a"),
        (131, "b"),
    ]:
        named: dict[Any, Any] = {} if who is None else {"who": who}
        client.xadd(STREAM, {"n": 2, "at": seconds * 1_000, **named})
    schema = {**SCHEMA, "at": pl.Int64}
    driven = Driven(world, processor(any_server.url, schema=schema, batch_size=2))
    seen = []
    with driven:
        for tx in driven:
            window = count(world, tx, time="at")
            seen.append((window.closed.height, window.late["n"].to_list(), len(window.open)))
    # The row at 20 s comes after 75 s, which has closed the first minute, in the same batch.
    assert seen == [(0, [], 2), (0, [], 3), (2, [2], 2), (2, [], 1)]
    assert closed(any_server.url) == [
        (0, None, 1, 2),
        (0, "a", 2, 4),
        (60, "a", 1, 2),
        (60, "b", 1, 2),
    ]
    # In the state is what is open, and nothing else; anybody may read it.
    columns = {"_lower_boundary": pl.Datetime("ms", "UTC"), "total:sum": pl.Int64()}
    key = ["_lower_boundary", "who"]
    table = read_table(any_server.url, STREAM, NAME, "window:minutes", key=key, schema=columns)
    assert table.select("who", "total:sum").rows() == [("b", 2)]
    assert client.hlen(OPEN) == 1


def test_a_failed_batch_leaves_windows_as_they_were(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add(client, 1)
    add(client, 100)
    driven = Driven(world, processor(any_server.url, batch_size=1))
    with driven:
        for tx in driven:
            count(world, tx)
            break
    tries = []

    def failing(tx: Any) -> None:
        window = count(SYNC, tx)
        tries.append((window.closed.rows(), window.open.rows()))
        assert len(tries) > 2

    processor(any_server.url).run(failing, retry_base_delay=0)
    assert len(tries) == 3
    assert tries[0] == tries[1] == tries[2]
    assert closed(any_server.url) == [(0, "a", 1, 1)]


@pytest.mark.parametrize("restarts", [False, True])
def test_windows_close_on_a_quiet_stream(
    any_server: Server, client: redis.Redis, world: World, restarts: bool
) -> None:
    """By the server's clock; also in a process that never had a batch."""
    add(client, 1)
    add(client, 70)
    options: dict[str, Any] = {"on_idle": "wait", "block_ms": 1_000}
    driven = Driven(world, processor(any_server.url, **options))
    with driven:
        tx = next(driven)
        count(world, tx, idle_close=30)
        if not restarts:
            with within(1):
                tx = next(driven)
            assert (len(tx), tx.frame.columns) == (0, ["_id", "_ts", "who", "n"])
            assert count(world, tx, idle_close=30).watermark.year > 2000
    if restarts:
        driven = Driven(world, processor(any_server.url, **options))
        with driven, within(1):
            assert count(world, next(driven), idle_close=30).closed.height == 1
    assert closed(any_server.url) == [(0, "a", 1, 1), (60, "a", 1, 1)]
    assert client.hget(LANE, "position") == b"70001-1"
    assert client.hlen(OPEN) == 0
    # The stream is read on from there.
    add(client, 2**33)
    with driven:
        assert len(next(driven)) == 1


def test_nothing_is_handed_out_without_entries_unless_something_is_due(
    any_server: Server, client: redis.Redis
) -> None:
    """A window that ends in the future is waited for, and without idle_close nobody waits."""
    ahead = int(time.time()) + 1_000
    add(client, ahead)
    handed = []
    made = processor(any_server.url, on_idle="wait", block_ms=10)

    def handle(tx: Any) -> None:
        handed.append(len(tx))
        count(SYNC, tx, idle_close=1)

    ended = made.start(handle)
    eventually(lambda: made.stats.commits == 1)
    calls = client.info("commandstats")["cmdstat_time"]["calls"]
    time.sleep(0.2)
    assert client.info("commandstats")["cmdstat_time"]["calls"] > calls
    made.stop()
    ended.result()
    assert handed == [1]


def test_a_handler_that_ignores_such_a_turn_is_not_called_all_the_time(
    any_server: Server, client: redis.Redis
) -> None:
    add(client, 1)
    turns = []

    def handle(tx: Any) -> None:
        if len(tx):
            count(SYNC, tx, idle_close=100)
        else:
            turns.append(time.monotonic())

    made = processor(any_server.url, on_idle="wait", block_ms=10)
    ended = made.start(handle)
    eventually(lambda: len(turns) == 3)
    made.stop()
    ended.result()
    assert turns[2] - turns[0] > 0.19


def test_an_exception_in_a_turn_without_entries_is_raised(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """There is no entry that could be put aside."""
    add(client, 1)

    class BadError(Exception):
        pass

    def handle(tx: Any) -> None:
        if not len(tx):
            raise BadError
        count(SYNC, tx, close_at_end=True)

    made = processor(any_server.url, dead_letter="{clicks}:dead")
    with pytest.raises(BadError):
        made.run(handle, attempts=2, retry_base_delay=0)
    assert client.exists("{clicks}:dead") == 0
    assert client.hlen(OPEN) == 1


@pytest.mark.parametrize("lateness", [None, "10s"])
def test_the_end_of_a_stream_closes_all(
    any_server: Server, client: redis.Redis, world: World, lateness: str | None
) -> None:
    for seconds in (1, 2, 70):
        add(client, seconds)
    options: dict[str, Any] = {"close_at_end": True, "lateness": lateness}
    driven = Driven(world, processor(any_server.url, batch_size=2))
    with driven:
        sizes = [(len(tx), count(world, tx, **options).closed.height)[0] for tx in driven]
    assert sizes == [2, 1, 0]
    assert closed(any_server.url) == [(0, "a", 2, 2), (60, "a", 1, 1)]
    with driven:
        assert list(driven) == []


def test_a_turn_without_entries_has_no_batch_id(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """It does not come again as it was; a sink of ours does without, and keeps each turn's rows."""
    for seconds in (1, 70):
        add(client, seconds)
    made = processor(any_server.url)
    sink = ParquetSink(made, tmp_path)
    turns = []

    def handle(tx: Any) -> None:
        if not len(tx):
            turns.append(tx)
            with pytest.raises(ValueError, match="has no batch_id"):
                _ = tx.batch_id
        window = tx.window("w", gap="1s", aggs={"n": pl.len()}, idle_close=1)
        other = tx.window("x", every="1s", aggs={"n": pl.len()}, close_at_end=True, lateness=None)
        sink.write(tx, window.closed)
        sink.write(tx, other.closed)

    made.run(handle)
    time.sleep(0.01)
    assert turns
    assert len(pl.read_parquet(tmp_path / "*.parquet")) == 4


def test_a_turn_of_a_stream_without_a_schema(any_server: Server, client: redis.Redis) -> None:
    add(client, 1)
    made = processor(any_server.url, schema=None)
    made.run(lambda tx: count(SYNC, tx, aggs={"clicks": pl.col("n").len()}, by="who"))
    found = []

    def handle(tx: Any) -> None:
        aggs = {"clicks": pl.col("n").len()}
        window = tx.window("minutes", every="1m", by="who", aggs=aggs, close_at_end=True)
        found.extend(window.closed.select("who", "clicks").rows())

    add(client, 2)
    made.run(handle)
    assert found == [("a", 2)]


def test_a_changed_window_is_refused_while_it_is_open(
    any_server: Server, client: redis.Redis
) -> None:
    add(client, 1)
    made = processor(any_server.url)
    made.run(lambda tx: count(SYNC, tx))
    add(client, 2)
    others: list[dict[str, Any]] = [{"every": "2m"}, {"by": ()}, {"aggs": {"clicks": pl.len()}}]
    for changed in others:
        with pytest.raises(ValueError, match=r"'minutes' has open windows .*another definition"):
            made.run(partial(count, SYNC, **changed), attempts=1)
    # What does not touch the windows may change; and once they are closed, everything.
    made.run(lambda tx: count(SYNC, tx, lateness="1h", close_at_end=True))
    assert closed(any_server.url) == [(0, "a", 2, 2)]
    add(client, 100)
    made.run(lambda tx: count(SYNC, tx, every=None, gap="5s", by=(), close_at_end=True))
    assert closed(any_server.url)[1:] == [(100, None, 1, 1)]


def test_windows_of_two_names_know_nothing_of_each_other(
    any_server: Server, client: redis.Redis
) -> None:
    for seconds in (1, 61, 130):
        add(client, seconds)
    found: dict[str, int] = {"a": 0, "b": 0}

    def handle(tx: Any) -> None:
        for name, every in (("a", "1m"), ("b", "1s")):
            window = tx.window(name, every=every, aggs={"n": pl.len()}, lateness=0)
            found[name] += window.closed.height
            with pytest.raises(ValueError, match="has had the rows of this transaction"):
                tx.window(name, every=every, aggs={"n": pl.len()}, lateness=0)
        some = tx.frame.filter(pl.col("_ts") > 100_000).with_columns(twice=pl.col("n") * 2)
        rest = tx.window("c", every="1m", aggs={"n": pl.col("twice").sum()}, rows=some)
        assert rest.open["n"].to_list() == [2]

    processor(any_server.url).run(handle)
    assert found == {"a": 2, "b": 2}


def test_what_windows_do_not_go_with(any_server: Server, client: redis.Redis) -> None:
    add(client, 1)
    with processor(any_server.url, group="g", consumer="c") as made:
        with pytest.raises(ValueError, match="with a group there are no windows"):
            count(SYNC, next(made))
    client.delete(STREAM)
    add(client, 1)
    made = processor(any_server.url)
    with made, pytest.raises(ValueError, match="those of windows"):
        next(made).table("window:minutes", key="action", schema={"n": pl.Int64})
    made.run(lambda tx: count(SYNC, tx))
    client.hset(f"{LANE}:state", "\0window:minutes", "{}")
    with pytest.raises(DecodeError, match="'minutes' is not what redfloe writes"):
        made.run(lambda tx: count(SYNC, tx))
    with processor(any_server.url, name="other") as made:
        tx = next(made)
    with pytest.raises(RuntimeError, match="has ended"):
        count(SYNC, tx)


#: A process that counts until the stream is drained.
WORKER = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.clicks import count, processor
from support.consumers import World

with processor(sys.argv[1], **json.loads(sys.argv[2])) as made:
    for tx in made:
        count(World(None), tx, close_at_end=True)
        time.sleep(float(sys.argv[3]))
"""
LEASE = 120
CLICKS = (1, 2, 61, 62, 125, 126, 500)
COUNTED = [(0, "a", 2, 2), (60, "a", 2, 2), (120, "a", 2, 2), (480, "a", 1, 1)]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("step", "is_killed"), [("commit", True), ("commit", False), ("load", False)]
)
def test_closed_windows_come_once_whatever_is_killed_and_lost(
    any_server: Server, client: redis.Redis, step: str, place: str, is_killed: bool
) -> None:
    for seconds in CLICKS:
        add(client, seconds)
    with processor(any_server.url, name="warm") as made:  # the server knows the scripts
        for tx in made:
            tx.state["x"] = 1
    chance = random.Random(f"{step} {place}")
    options = json.dumps({"batch_size": 2, "lease_ms": LEASE})
    with Proxy(any_server.port) as proxy:
        if is_killed:
            with python(WORKER, proxy.url, options, "0") as process:

                def kill() -> None:
                    process.kill()
                    process.wait()

                strike(proxy, step, place, chance, kill)
                process.wait(20 * SLACK)
        else:
            strike(proxy, step, place, chance)
            with processor(RedisConnection(proxy.url, **QUICK), batch_size=2) as made:
                for tx in made:
                    count(SYNC, tx, close_at_end=True)
    with processor(any_server.url, batch_size=3) as made:
        for tx in made:
            count(SYNC, tx, close_at_end=True)
    assert closed(any_server.url) == COUNTED
    assert client.exists(f"{OUT}:late", OPEN) == 0


@pytest.mark.parametrize("is_in", [True, False])
def test_a_turn_without_entries_whose_outcome_is_unknown(
    any_server: Server, client: redis.Redis, is_in: bool
) -> None:
    add(client, 1)
    processor(any_server.url, name="warm").run(lambda tx: None)
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, max_retries=0)
        with processor(url) as made:
            count(SYNC, next(made), close_at_end=True)
            tx = next(made)
            assert count(SYNC, tx, close_at_end=True).closed.height == 1
            if is_in:
                proxy.cut_after(0, once_seen=b"EVALSHA")
            else:
                proxy.lose(b"EVALSHA")
            # With the old connections closed, and without retries, the next wait may fail.
            with contextlib.suppress(redfloe.RedisConnectionError):
                for again in made:
                    count(SYNC, again, close_at_end=True)
    processor(any_server.url).run(lambda tx: count(SYNC, tx, close_at_end=True))
    assert closed(any_server.url) == [(0, "a", 1, 1)]


# Joins


def test_a_lookup_gives_rows_of_another_processors_table(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add(client, 1, "a")
    add(client, 2, None)
    add(client, 3, "zz")
    key: dict[str, Any] = {"key": ["who", "n"], "schema": {"n": pl.Int64, "name": pl.String}}
    with processor(any_server.url, name="names") as made:
        for tx in made:
            names = tx.table("names", **key)
            names.upsert(pl.DataFrame({"who": ["a", "b"], "n": [1, 2], "name": ["Ann", "Bo"]}))
    driven = Driven(world, processor(any_server.url))
    with driven:
        for tx in driven:
            where = (STREAM, "names", "names")
            found = world.do(tx.lookup(*where, tx.frame, **key))
            assert found.rows() == [("a", 1, "Ann"), (None, 1, None), ("zz", 1, None)]
            assert world.do(tx.lookup(*where, tx.frame.clear(), **key)).schema == found.schema
            none = world.do(tx.lookup(STREAM, "nobody", "t", ["x"], key="k", schema={"v": str}))
            assert none.rows() == [("x", None)]
    with pytest.raises(RuntimeError, match="has ended"):
        world.do(tx.lookup(*where, ["a"], key="who", schema={"name": str}))


def test_a_lookup_of_what_is_no_such_table(any_server: Server, client: redis.Redis) -> None:
    add(client, 1)
    table = redfloe.table_key(STREAM, "x", "t").decode()
    with processor(any_server.url) as made:
        tx = next(made)
        client.hset(table, "a", '{"v":"no number"}')
        with pytest.raises(DecodeError, match="v"):
            tx.lookup(STREAM, "x", "t", ["a"], key="k", schema={"v": pl.Int64})
        client.delete(table)
        client.set(table, "text")
        with pytest.raises(redfloe.WrongTypeError, match="other than a hash"):
            tx.lookup(STREAM, "x", "t", ["a"], key="k", schema={"v": pl.Int64})
        with pytest.raises(redfloe.SchemaError, match="not all Int64"):
            tx.lookup(STREAM, "x", "t", ["a"], key="k", schema={"k": pl.Int64, "v": pl.Int64})
