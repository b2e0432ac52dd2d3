"""`StreamConsumer`: which batches a loop gives, when they are acknowledged, and what they can do.

Reclaim, dead letters and lost groups are in test_consumer_reclaim.py, checkpoints in
test_checkpoints.py, `run` and `stop` in test_consumer_run.py.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import time
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    AsyncBatch,
    AuthenticationError,
    Batch,
    MemoryCheckpointStore,
    NoGroupError,
    RedisConnection,
    SchemaError,
    StreamConsumer,
    WrongTypeError,
)
from support.consumers import EAGER, SHY, World, all_rows, rows
from support.groups import DRAIN, ME, pending
from support.proxy import Proxy
from support.secrets import PASSWORD, QUOTED, raises_discreetly, with_password
from support.server import Server
from support.streams import NUMBER, add_numbers, numbers
from support.timing import SLACK, Stopwatch, eventually, later, within

pytestmark = pytest.mark.timeout(20)


# Which batches come


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
@pytest.mark.parametrize("enter", [True, False])
def test_a_loop_gives_each_entry_once(
    server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    member: dict[str, Any],
    enter: bool,
) -> None:
    add_numbers(client, stream, 10)
    consumer = world.consumer(server.url, stream, batch_size=4, **member, **DRAIN)
    if enter:
        with consumer:
            batches = [batch.frame for batch in consumer]
    else:
        batches = [batch.frame for batch in consumer]
    assert [batch.height for batch in batches] == [4, 4, 2]
    assert_frame_equal(pl.concat(batches), numbers(10))
    assert consumer.stats.entries == 10
    if member:
        assert pending(client, stream) == []


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_a_loop_waits_for_what_is_to_come(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    consumer = world.consumer(any_server.url, stream, block_ms=0, **member)
    with consumer, later(0.1, lambda: add_numbers(client, stream, 3)):
        assert rows(next(consumer))[0] == 1


@pytest.mark.parametrize(
    ("start", "first"),
    [("-", 1), ("4-0", 4), (dt.datetime.fromtimestamp(0.004, dt.UTC), 4)],
    ids=str,
)
def test_start_id(
    any_server: Server, client: redis.Redis, stream: str, world: World, start: Any, first: int
) -> None:
    add_numbers(client, stream, 10)
    consumer = world.consumer(any_server.url, stream, start_id=start, **DRAIN)
    assert all_rows(consumer) == [*range(first, 11)]


def test_start_id_of_what_is_yet_to_come(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 10)
    consumer = world.consumer(any_server.url, stream, start_id="$", block_ms=0)
    with later(0.2, lambda: add_numbers(client, stream, 11, first=11)):
        assert rows(next(consumer)) == [11]


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_batch_bytes_close_a_batch(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    for number in range(1, 9):
        client.xadd(stream, {"n": number, "text": "x" * 1_000_000}, id=f"{number}-0")
    consumer = world.consumer(any_server.url, stream, batch_bytes=1_500_000, **member, **DRAIN)
    sizes = [len(batch) for batch in consumer]
    assert sum(sizes) == 8
    assert max(sizes) <= 2


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_batch_timeout_collects(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 2)
    watch = Stopwatch()
    consumer = world.consumer(any_server.url, stream, batch_timeout_ms=400, batch_size=5, **member)
    with consumer, later(0.1, lambda: add_numbers(client, stream, 3, first=3)):
        assert rows(next(consumer)) == [1, 2, 3]
        assert watch.seconds >= 0.4
        # Full before the time is over.
        add_numbers(client, stream, 8, first=4)
        with within(0.35):
            assert rows(next(consumer)) == [4, 5, 6, 7, 8]


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_on_idle_stop_ends_after_an_empty_poll(
    any_server: Server, stream: str, world: World, member: dict[str, Any]
) -> None:
    watch = Stopwatch()
    consumer = world.consumer(any_server.url, stream, on_idle="stop", block_ms=200, **member)
    assert list(consumer) == []
    assert 0.2 <= watch.seconds < 2 * SLACK
    assert list(consumer) == []


def test_options_of_columns_and_values(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    client.xadd(stream, {"n": "-", "more": "x"}, id="7-3")
    consumer = world.consumer(
        any_server.url,
        stream,
        include_sequence=True,
        id_column="id",
        timestamp_column="at",
        sequence_column="seq",
        timestamp_dtype=pl.Datetime("ms", "UTC"),
        null_values="-",
        rescue_column="rest",
        **ME,
        **DRAIN,
    )
    [batch] = consumer
    assert batch.frame.columns == ["id", "at", "seq", "n", "rest"]
    at = dt.datetime.fromtimestamp(0.007, dt.UTC)
    assert batch.frame.row(0) == ("7-3", at, 3, None, '{"more":"x"}')


def test_without_a_schema_fields_are_text(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    [batch] = world.consumer(any_server.url, stream, None, **ME, **DRAIN)
    assert batch.frame.schema == {"_id": pl.String, "_ts": pl.Int64, "n": pl.String}


def test_a_frame_without_ids_is_acknowledged_all_the_same(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    options = {"include_id": False, "include_timestamp": False}
    with world.consumer(any_server.url, stream, **options, **ME, **DRAIN) as consumer:
        [batch] = consumer
        assert batch.frame.columns == ["n"]
        assert batch.ids.to_list() == ["1-0", "2-0"]
    assert pending(client, stream) == []


# Acknowledgement


def test_a_batch_is_acknowledged_when_the_next_one_is_asked_for(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 7)
    seen = []
    with world.consumer(server.url, stream, batch_size=3, **ME, **DRAIN) as consumer:
        for batch in consumer:
            seen.append(rows(batch))
            assert pending(client, stream) == seen[-1]
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 7


@pytest.mark.parametrize("reclaim", [SHY, {}], ids=["shy", "reclaim"])
def test_acknowledgements_go_along_with_the_next_read(
    any_server: Server, client: redis.Redis, stream: str, world: World, reclaim: dict[str, Any]
) -> None:
    add_numbers(client, stream, 5_000)
    with Proxy(any_server.port) as proxy:
        options: dict[str, Any] = {"batch_size": 2_500, **reclaim, **ME, **DRAIN}
        with world.consumer(proxy.url, stream, **options) as consumer:
            assert all_rows(consumer) == [*range(1, 5_001)]
        names = [command[0] for command in proxy.commands]
    assert pending(client, stream) == []
    # A thousand IDs a command: the first batch's right before the read that they go with.
    assert names.count(b"XACK") == 6
    first = names.index(b"XACK")
    assert names[first : first + 4] == [b"XACK"] * 3 + [b"XREADGROUP"]
    if reclaim:
        # Two batches, the own pending list, the end, and one look for what others left.
        assert names.count(b"XREADGROUP") <= 6


def test_the_last_batch_is_acknowledged_at_a_clean_end(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Also where the loop was left by `break`, which is no failure within ``with``."""
    add_numbers(client, stream, 6)
    with world.consumer(any_server.url, stream, batch_size=3, **ME, **DRAIN) as consumer:
        for batch in consumer:
            assert rows(batch) == [1, 2, 3]
            break
        assert pending(client, stream) == [1, 2, 3]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 3


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_after_an_exception_the_batch_in_hand_comes_again(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 9)
    options = {"checkpoint_store": MemoryCheckpointStore(), **member, **DRAIN}
    consumer = world.consumer(any_server.url, stream, batch_size=3, **options)

    def process() -> None:
        with consumer:
            for batch in consumer:
                if rows(batch)[0] == 4:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        process()
    if member:
        assert pending(client, stream) == [4, 5, 6]
        assert consumer.stats.acknowledged == 3
    with consumer:
        again = [(rows(batch), batch.delivery_counts.to_list()) for batch in consumer]
    if member:
        assert again[0] == ([4, 5, 6], [2, 2, 2])
        assert pending(client, stream) == []
    assert [row for batch, _ in again for row in batch] == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("how", ["break", "exception"])
def test_without_with_the_batch_in_hand_stays_pending(
    any_server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    add_numbers(client, stream, 9)
    consumer = world.consumer(any_server.url, stream, batch_size=3, **ME, **DRAIN)
    try:
        for batch in consumer:
            if rows(batch)[0] == 4:
                if how == "exception":
                    raise ZeroDivisionError
                break
    except ZeroDivisionError:
        pass
    del consumer
    assert pending(client, stream) == [4, 5, 6]
    again = world.consumer(any_server.url, stream, batch_size=3, **ME, **DRAIN)
    assert all_rows(again) == [4, 5, 6, 7, 8, 9]


def test_manual_acknowledgement(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 7)
    options: dict[str, Any] = {"batch_size": 2, "ack": "manual", **ME, **DRAIN}
    with world.consumer(server.url, stream, **options) as consumer:
        for batch in consumer:
            if rows(batch)[0] != 3:
                assert world.do(batch.ack()) == len(batch)
                assert world.do(batch.ack()) == 0
    assert pending(client, stream) == [3, 4]
    assert consumer.stats.acknowledged == 5


@pytest.mark.parametrize("ack", ["manual", "on_success"])
def test_some_rows_of_a_batch_are_acknowledged(
    any_server: Server, client: redis.Redis, stream: str, world: World, ack: str
) -> None:
    add_numbers(client, stream, 5)
    with world.consumer(any_server.url, stream, ack=ack, **SHY, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        with pytest.raises(ValueError, match="6-0"):
            world.do(batch.ack(["1-0", "6-0"]))
        assert pending(client, stream) == [1, 2, 3, 4, 5]
        assert world.do(batch.ack(pl.Series(["1-0", "4-0"]))) == 2
        assert world.do(batch.ack("4-0")) == 0
        assert world.do(batch.ack([])) == 0
        assert pending(client, stream) == [2, 3, 5]
        assert consumer.stats.acknowledged == 2
    assert pending(client, stream) == ([2, 3, 5] if ack == "manual" else [])
    assert consumer.stats.acknowledged == (2 if ack == "manual" else 5)


def test_a_batch_that_is_acknowledged_early_counts_once(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        with world.consumer(proxy.url, stream, batch_size=3, **ME, **DRAIN) as consumer:
            for batch in consumer:
                assert world.do(batch.ack()) == len(batch)
        assert proxy.count(b"XACK") == 2
    assert consumer.stats.acknowledged == 5
    assert pending(client, stream) == []


# What a batch is


def test_a_batch_describes_itself(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    [batch] = world.consumer(any_server.url, stream, **ME, **DRAIN)
    kind = Batch if world.runner is None else AsyncBatch
    assert isinstance(batch, kind)
    assert len(batch) == 3
    assert_frame_equal(batch.frame, numbers(3))
    assert_frame_equal(batch.ids.to_frame(), numbers(3).select("_id"))
    counts = pl.DataFrame({"delivery_count": [1, 1, 1]}, schema={"delivery_count": pl.UInt64})
    assert_frame_equal(batch.delivery_counts.to_frame(), counts)
    assert repr(batch) == f"{kind.__name__}(3 entries, 1-0 to 3-0)"
    table = pa.table(batch)
    assert table.column("n").to_pylist() == [1, 2, 3]
    assert_frame_equal(pl.DataFrame(batch), numbers(3))


def test_a_batch_without_a_group_has_no_member(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    [batch] = world.consumer(any_server.url, stream, **DRAIN)
    assert batch.delivery_counts.to_list() == [1, 1, 1]
    assert (world.do(batch.ack("2-0")), world.do(batch.ack())) == (1, 3)
    for act in (batch.nack, batch.extend, batch.leave, lambda: batch.fail(batch.ids, "no")):
        with pytest.raises(ValueError, match="group"):
            world.do(act())


def test_halves(any_server: Server, client: redis.Redis, stream: str, world: World) -> None:
    add_numbers(client, stream, 5)
    options = {"ack": "manual", **ME, **DRAIN}
    with world.consumer(any_server.url, stream, **options) as consumer:
        [batch] = consumer
        first, rest = batch.halves()
        assert (type(first), type(rest)) == (type(batch), type(batch))
        assert (rows(first), rows(rest)) == ([1, 2], [3, 4, 5])
        assert rest.ids.to_list() == ["3-0", "4-0", "5-0"]
        assert rest.delivery_counts.to_list() == [1, 1, 1]
        assert world.do(rest.ack()) == 3
    assert pending(client, stream) == [1, 2]


def test_leave_keeps_rows_pending(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 6)
    with world.consumer(any_server.url, stream, batch_size=3, **SHY, **ME, **DRAIN) as consumer:
        for batch in consumer:
            first, _ = batch.halves()
            first.leave()
    assert pending(client, stream) == [1, 4]
    assert consumer.stats.acknowledged == 4
    # They come first when it starts again, and are acknowledged then.
    with consumer:
        assert all_rows(consumer) == [1, 4]
    assert pending(client, stream) == []


def test_extend_keeps_rows_from_being_claimed(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 120)
    idle = 300
    thief: dict[str, Any] = {"reclaim_min_idle_ms": idle, "reclaim_interval_ms": 0}
    with world.consumer(server.url, stream, **SHY, **ME, **DRAIN) as consumer:
        batch = next(consumer)

        def idle_for() -> int:
            found: Any = client.xpending_range(stream, "g", "-", "+", 1)
            waited: int = found[0]["time_since_delivered"]
            return waited

        eventually(lambda: idle_for() >= idle)
        extended = time.monotonic()
        assert world.do(batch.extend()) == 120
        taken: list[int] = []

        def steal() -> list[int]:
            taken.extend(
                all_rows(
                    world.consumer(server.url, stream, group="g", consumer="b", **thief, **DRAIN)
                )
            )
            return taken

        if steal():  # on a machine so busy that they were old again
            assert time.monotonic() - extended >= idle / 1_000
        # Without it they are taken, though not all need be old enough in the same millisecond.
        eventually(lambda: len(steal()) >= 120)
        assert sorted(taken) == list(range(1, 121))
        assert world.do(batch.extend()) == 0
    assert pending(client, stream) == []


@pytest.mark.parametrize("ids", ["9-0", ["1-0", "9-0"], pl.Series(["9-0"])], ids=str)
def test_an_id_of_another_batch(
    any_server: Server, client: redis.Redis, stream: str, world: World, ids: Any
) -> None:
    add_numbers(client, stream, 3)
    consumer = world.consumer(any_server.url, stream, dead_letter="dead", **ME, **DRAIN)
    batch = next(consumer)
    with pytest.raises(ValueError, match="9-0"):
        world.do(batch.nack(ids))
    with pytest.raises(ValueError, match="9-0"):
        world.do(batch.fail(ids, "why"))
    with pytest.raises(TypeError):
        world.do(batch.nack([1]))
    with pytest.raises(TypeError):
        world.do(batch.fail(batch.ids, 5))
    assert pending(client, stream) == [1, 2, 3]
    assert not client.exists("dead")


# Arguments


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"group": "g"}, ValueError),
        ({"consumer": "c"}, ValueError),
        ({**ME, "group": 5}, TypeError),
        ({**ME, "consumer": 5}, TypeError),
        ({"stream": 5}, TypeError),
        ({"url": 5}, TypeError),
        ({"url": "http://localhost"}, ValueError),
        ({"schema": {"n": pl.Object}}, SchemaError),
        ({"schema": {"_id": pl.String}}, SchemaError),
        ({"start_id": "x"}, ValueError),
        ({"start_id": 5.0}, TypeError),
        ({"batch_size": 0}, ValueError),
        ({"batch_size": "1"}, TypeError),
        ({"batch_bytes": 0}, ValueError),
        ({"block_ms": -1}, ValueError),
        ({"batch_timeout_ms": -1}, ValueError),
        ({"on_idle": "x"}, ValueError),
        ({"ack": "x"}, ValueError),
        ({"ack": True}, ValueError),
        ({**ME, "start_id": "$"}, ValueError),
        ({"start_id": pd.NaT}, ValueError),
        ({**ME, "start_id": 5}, ValueError),
        ({**ME, "group_start_id": "x"}, ValueError),
        ({**ME, "group_start_id": 5.0}, TypeError),
        ({**ME, "reclaim_min_idle_ms": -1}, ValueError),
        ({**ME, "reclaim_min_idle_ms": "1"}, TypeError),
        ({**ME, "reclaim_interval_ms": -1}, ValueError),
        ({**ME, "dead_letter": 5}, TypeError),
        ({**ME, "dead_letter": "s"}, ValueError),
        ({**ME, "dead_letter": b"s"}, ValueError),
        ({**ME, "dead_letter": "d", "max_deliveries": 0}, ValueError),
        ({**ME, "dead_letter": "d", "max_deliveries": "1"}, TypeError),
        ({**ME, "max_deliveries": 3}, ValueError),
        ({"dead_letter": "d"}, ValueError),
        ({"dead_letter": "d", "max_deliveries": 3}, ValueError),
        ({**ME, "on_error": "dead_letter"}, ValueError),
        ({"on_error": "dead_letter"}, ValueError),
        ({"on_error": "x"}, ValueError),
        ({"on_error": "reject"}, ValueError),
        ({**ME, "on_group_lost": "x"}, ValueError),
        ({"on_data_loss": "x"}, ValueError),
        ({"checkpoint_store": 5}, TypeError),
        ({"checkpoint_store": {}}, TypeError),
        ({"checkpoint_name": 5}, TypeError),
        ({"id_column": "_ts"}, SchemaError),
        ({"timestamp_dtype": pl.Float64}, SchemaError),
        ({"null_values": 5}, TypeError),
        ({"rescue_column": 5}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_raise_at_once(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        StreamConsumer(**{"url": "redis://127.0.0.1:1", "stream": "s", **options})
    assert not isinstance(raised.value, redfloe.RedisConnectionError)


def test_the_longest_idle_time_has_no_longer_lease(any_server: Server, stream: str) -> None:
    with StreamConsumer(
        any_server.url, stream, schema=NUMBER, reclaim_min_idle_ms=2**62, **ME, **DRAIN
    ) as consumer:
        assert next(iter(consumer), None) is None


def test_the_constructor_sends_nothing(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        StreamConsumer(proxy.url, stream, schema=NUMBER, dead_letter="d", max_deliveries=2, **ME)
        assert proxy.connections == 0


def test_the_twins_of_batch_and_run_agree() -> None:
    def parameters(function: Any) -> list[str]:
        return [*inspect.signature(function).parameters]

    assert parameters(StreamConsumer.run) == parameters(StreamConsumer.run_async)
    for name in ("ack", "nack", "fail", "extend", "halves", "leave"):
        assert parameters(getattr(Batch, name)) == parameters(getattr(AsyncBatch, name))


# Errors


def test_a_missing_group(server: Server, client: redis.Redis, stream: str, world: World) -> None:
    options = {"create_group": False, **ME, **DRAIN}
    for exists in (False, True):
        if exists:
            add_numbers(client, stream, 3)
        with pytest.raises(NoGroupError, match=stream):
            next(world.consumer(server.url, stream, **options))
    client.xgroup_create(stream, "g", "0")
    assert all_rows(world.consumer(server.url, stream, **options)) == [1, 2, 3]


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_a_key_of_another_type(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    client.set(stream, "x")
    with pytest.raises(WrongTypeError, match=stream):
        next(world.consumer(any_server.url, stream, **member, **DRAIN))


def test_group_start_id(any_server: Server, client: redis.Redis, stream: str, world: World) -> None:
    add_numbers(client, stream, 5)
    consumer = world.consumer(any_server.url, stream, group_start_id="3-0", **ME, **DRAIN)
    assert all_rows(consumer) == [4, 5]


def test_one_world_at_a_time(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **ME, **DRAIN)

    async def step() -> AsyncBatch:
        return await anext(consumer)

    with consumer, pytest.raises(RuntimeError, match="without await"):
        asyncio.run(step())

    async def enter() -> list[int]:
        async with consumer:
            with pytest.raises(RuntimeError, match="event loop"):
                next(consumer)
            return rows(await anext(consumer))

    # In turns it may be used in both.
    assert asyncio.run(enter()) == [1, 2, 3]
    assert pending(client, stream) == []


def test_no_password_shows(any_server: Server, stream: str, world: World) -> None:
    url = with_password(any_server.url)
    consumer = world.consumer(url, stream, **ME, **DRAIN)
    store = redfloe.RedisCheckpointStore(url)
    for shown in (repr(consumer.consumer), repr(store), str(vars(consumer.consumer))):
        assert PASSWORD not in shown
        assert QUOTED not in shown
    with raises_discreetly(AuthenticationError):
        next(consumer)
    with raises_discreetly(AuthenticationError):
        store.load("x")


# Stats


def test_stats(server: Server, client: redis.Redis, stream: str, world: World) -> None:
    add_numbers(client, stream, 10)
    options: dict[str, Any] = {"on_idle": "stop", "block_ms": 200, **EAGER, **ME}
    consumer = world.consumer(server.url, stream, batch_size=4, **options)
    before = consumer.stats
    assert (before.batches, before.entries, before.bytes, before.acknowledged) == (0, 0, 0, 0)
    assert (before.last_id, before.lag, before.entries_per_second) == (None, None, 0.0)
    with consumer:
        next(consumer)
        next(consumer)
        stats = consumer.stats
        assert (stats.batches, stats.entries, stats.acknowledged) == (2, 8, 4)
        assert stats.last_id == "8-0"
        assert stats.bytes > 8 * 20
        assert stats.entries_per_second > 0
        assert all_rows(consumer) == [9, 10]
    stats = consumer.stats
    assert (stats.batches, stats.entries, stats.acknowledged) == (3, 10, 10)
    assert (stats.reclaimed, stats.dead_lettered, stats.deleted) == (0, 0, 0)
    assert stats.lag == (None if server.name == "redis-6.2" else 0)


def test_lag_is_what_the_group_has_still_to_deliver(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 10)
    options: dict[str, Any] = {"batch_size": 4, **ME}
    with world.consumer(server.url, stream, block_ms=0, **options) as consumer:
        next(consumer)
        # It has looked for claims before new entries.
        assert consumer.stats.lag == (None if server.name == "redis-6.2" else 10)


def test_stats_of_a_reader_without_a_group(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 10)
    with world.consumer(any_server.url, stream, batch_size=4, **DRAIN) as consumer:
        assert all_rows(consumer) == [*range(1, 11)]
    stats = consumer.stats
    assert (stats.batches, stats.entries, stats.last_id) == (3, 10, "10-0")
    assert (stats.acknowledged, stats.lag) == (0, None)


def test_a_connection_serves_a_consumer(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    connection = RedisConnection(any_server.url)
    assert all_rows(world.consumer(connection, stream, **ME, **DRAIN)) == [1, 2, 3]


@pytest.mark.parametrize("ack", ["on_success", "manual"])
def test_what_others_have_acknowledged_does_not_count(
    any_server: Server, client: redis.Redis, world: World, stream: str, ack: Any
) -> None:
    add_numbers(client, stream, 4)
    with world.consumer(
        any_server.url, stream, ack=ack, on_idle="stop", block_ms=20, group="g", consumer="me"
    ) as consumer:
        batch = next(consumer)
        client.xack(stream, "g", *batch.ids.to_list()[:3])
        if ack == "manual":
            assert world.do(batch.ack()) == 1
        assert next(consumer, None) is None
    assert consumer.stats.acknowledged == 1
