"""Failovers under reads, group reads and writes, with a history check for each.

What was replicated is never lost; what was not may be, and then a read says so. Entries come twice
only through a group whose acknowledgements were not replicated.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import redfloe
from redfloe import (
    DataLossError,
    MemoryCheckpointStore,
    OutcomeUnknownError,
    RedisConnectionError,
    RedisTimeoutError,
    StreamProducer,
    WriteError,
    iter_stream,
    read_stream,
    write_stream,
)
from support.consumers import SHY, World, rows
from support.loops import Blocking, Follow
from support.sentinel import Deployment
from support.streams import NUMBER, add_numbers
from support.timing import eventually, later, within
from support.writes import stored

pytestmark = [pytest.mark.xdist_group("sentinel"), pytest.mark.timeout(30)]

DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 1}
ME: dict[str, Any] = {"group": "g", "consumer": "me"}
LAST = 5_000


@pytest.fixture(params=["sync", "asyncio"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A loop without await, and one event loop: a failover takes too long for all."""
    if request.param == "sync":
        yield World(None)
        return
    with asyncio.Runner() as runner:
        yield World(runner)


@pytest.fixture(params=["sync", "asyncio"])
def follow(request: pytest.FixtureRequest) -> Iterator[Follow]:
    if request.param == "sync":
        yield iter_stream
        return
    with asyncio.Runner() as runner:
        yield lambda *args, **options: Blocking(runner, *args, **options)


def fill(sentinels: Deployment, stream: str, last: int = LAST, first: int = 1) -> None:
    """Add numbered entries to the master and its replica."""
    with sentinels.master.client() as master:
        add_numbers(master, stream, last, first=first)
    sentinels.replicated()


def numbers_of(frames: Iterator[pl.DataFrame]) -> list[int]:
    return [n for frame in frames for n in frame["n"].to_list()]


# The master is killed


def test_a_read_outlives_the_master(sentinels: Deployment, stream: str, follow: Follow) -> None:
    fill(sentinels, stream)
    batches = follow(
        sentinels.connection(), stream, NUMBER, start_id="-", batch_size=1_000, **DRAIN
    )
    read = next(batches)["n"].to_list()
    sentinels.kill(sentinels.master)
    read += numbers_of(batches)
    assert read == [*range(1, LAST + 1)]


def test_an_arrow_stream_outlives_the_master(sentinels: Deployment, stream: str) -> None:
    fill(sentinels, stream)
    reader = redfloe.stream_reader(sentinels.connection(), stream, NUMBER, batch_size=1_000)
    batches = pa.RecordBatchReader.from_stream(reader)
    read = batches.read_next_batch()["n"].to_pylist()
    sentinels.kill(sentinels.master)
    for batch in batches:
        read += batch["n"].to_pylist()
    assert read == [*range(1, LAST + 1)]


def test_a_wait_outlives_the_master(sentinels: Deployment, stream: str) -> None:
    """A reader that never ends keeps trying; what comes afterwards comes."""
    fill(sentinels, stream, 10)
    connection = sentinels.connection(max_retries=None)
    reader = iter_stream(connection, stream, NUMBER, start_id="-", block_ms=0)
    assert next(reader).height == 10
    sentinels.lose()
    fill_alone(sentinels, stream, 11)
    assert next(reader)["n"].to_list() == [11]


def fill_alone(sentinels: Deployment, stream: str, first: int, last: int | None = None) -> None:
    """Add entries to a master that has no replica."""
    with sentinels.master.client() as master:
        add_numbers(master, stream, last or first, first=first)


def test_a_worker_outlives_the_master(sentinels: Deployment, stream: str, world: World) -> None:
    """What was acknowledged and replicated does not come again; the rest comes once or more."""
    fill(sentinels, stream)
    seen: Counter[int] = Counter()
    batches = 0
    before = 0
    with world.consumer(sentinels.connection(), stream, **ME, **DRAIN, batch_size=500) as consumer:
        for batch in consumer:
            seen.update(rows(batch))
            batches += 1
            if batches == 4:
                # Those of three batches are acknowledged, and the replica knows.
                sentinels.replicated()
                before = len(seen) - batch.frame.height
                sentinels.kill(sentinels.master)
    assert seen.keys() == {*range(1, LAST + 1)}
    assert all(count == 1 for n, count in seen.items() if n <= before)
    assert max(seen.values()) <= 2
    with sentinels.master.client() as client:
        assert client.xpending(stream, "g")["pending"] == 0


def own(first: int, last: int) -> pl.DataFrame:
    frame = pl.DataFrame({"n": range(first, last + 1)})
    return frame.with_columns(id=pl.format("{}-0", "n"))


def test_a_write_outlives_the_master(sentinels: Deployment, stream: str) -> None:
    """Rows with IDs: none twice, in order; if some of those acknowledged are lost, that is said."""
    last = 100_000
    master = sentinels.master
    alive = [master]

    def kill(rows: int) -> None:
        while alive and rows > 0:
            sentinels.kill(alive.pop())

    frame = own(1, last)
    options: dict[str, Any] = {"id_column": "id", "batch_size": 1_000, "progress": kill}
    try:
        ids = write_stream(sentinels.connection(), frame, stream, **options)
    except WriteError as error:
        # Of those acknowledged last the replica had not received some.
        assert "lost the end" in str(error)  # noqa: PT017
        assert error.ids is not None  # noqa: PT017
        ids = error.ids
    assert sentinels.master is not master
    with sentinels.master.client() as client:
        there = stored(client, stream)
    # No gap, and none that is said to be in and is not.
    assert there == [*range(1, len(there) + 1)]
    assert [f"{n}-0" for n in there] == ids.drop_nulls().to_list()


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "grown since"])
def test_a_write_says_which_of_its_rows_the_new_master_lacks(
    sentinels: Deployment, stream: str, grown: bool
) -> None:
    frame = own(1, 300_000)
    steps: list[Callable[[], object]] = [
        sentinels.cut_replication,
        lambda: None,  # more rows are acknowledged, and not replicated
        sentinels.lose,
        *([lambda: fill_alone(sentinels, stream, 300_001)] if grown else []),
    ]

    def progress(rows: int) -> None:
        if rows > 0 and steps:
            steps.pop(0)()
        if len(steps) == 1 and grown:
            steps.pop()()

    with pytest.raises(WriteError, match="lost the end") as raised:
        write_stream(
            sentinels.connection(), frame, stream, id_column="id", batch_size=500, progress=progress
        )
    with sentinels.master.client() as client:
        there = stored(client, stream)
    if grown:
        there.remove(300_001)
    assert raised.value.ids is not None
    assert raised.value.ids.drop_nulls().to_list() == [f"{n}-0" for n in there]
    assert raised.value.row == len(there)
    assert 0 < len(there) < 300_000


def test_a_producer_says_that_the_new_master_lacks_its_entries(
    sentinels: Deployment, stream: str
) -> None:
    producer = StreamProducer(sentinels.connection(), stream)
    producer.send({"n": 1})
    producer.flush()
    sentinels.replicated()
    sentinels.cut_replication()
    producer.send({"n": 2})
    producer.flush()
    sentinels.lose()
    producer.send({"n": 3})
    with pytest.raises(DataLossError, match="lost the end"):
        producer.close()
    with sentinels.master.client() as client:
        assert stored(client, stream) == [1]


def test_rows_without_ids_are_not_sent_twice(sentinels: Deployment, stream: str) -> None:
    """Nobody knows of some; those before are there, but for what was not replicated."""
    master = sentinels.master
    frame = pl.DataFrame({"n": range(300_000)})
    killers: list[threading.Thread] = []

    def kill(rows: int) -> None:
        # Beside the write, so that the server dies with rows that it has not answered.
        if rows > 0 and not killers:
            killers.append(threading.Thread(target=sentinels.kill, args=[master]))
            killers[0].start()

    before: list[pl.Series] = []

    def write() -> None:
        while not killers or killers[0].is_alive():  # until the killer had the processor
            ids = write_stream(connection, frame, stream, batch_size=1_000, progress=kill)
            before.append(ids)

    connection = sentinels.connection()
    with pytest.raises(OutcomeUnknownError) as raised:
        write()
    killers[0].join()
    sentinels.wait_for_another(master)
    with sentinels.master.client() as client:
        there = stored(client, stream)
    assert there == [n % frame.height for n in range(len(there))]
    assert len(there) <= len(before) * frame.height + raised.value.unknown.stop


def test_an_atomic_write_is_there_or_not(sentinels: Deployment, stream: str) -> None:
    master = sentinels.master
    batches = itertools.count()
    with later(0.1, lambda: sentinels.kill(master)):
        while sentinels.master is master:
            frame = pl.DataFrame({"n": range(500)}).with_columns(batch=next(batches))
            with contextlib.suppress(OutcomeUnknownError):
                write_stream(sentinels.connection(), frame, stream, atomic=True)
    with sentinels.master.client() as client:
        found: Any = client.xrange(stream)
    sizes = Counter(int(fields[b"batch"]) for _, fields in found)
    assert len(sizes) > 1
    assert {*sizes.values()} == {500}


def test_hashes_outlive_the_master(sentinels: Deployment) -> None:
    frame = pl.DataFrame({"key": [f"h{n}" for n in range(1_000)], "n": range(1_000)})
    redfloe.write_hashes(sentinels.connection(), frame, key_column="key")
    sentinels.replicated()
    former = sentinels.master
    sentinels.kill(former)
    again = frame.with_columns(pl.col("n") + 1)
    redfloe.write_hashes(sentinels.connection(), again, key_column="key")
    with sentinels.wait_for_another(former).client() as client:
        assert client.dbsize() == 1_000
        assert client.hget("h999", "n") == b"1000"


# Failovers that somebody asks for, under load


def test_a_failover_under_load(sentinels: Deployment, stream: str, world: World) -> None:
    """A producer and a worker at once: nothing that the new master has is missed, or torn."""
    connection = sentinels.connection(max_retries=None)
    ended = threading.Event()

    def produce() -> None:
        # It ends where an answer is lost, or what was acknowledged.
        with contextlib.suppress(OutcomeUnknownError, DataLossError, WriteError):
            with StreamProducer(connection, stream) as one:
                for n in itertools.count(1):
                    if ended.is_set():
                        break
                    one.send({"n": n, "same": n})
                    time.sleep(0.0005)

    producer = threading.Thread(target=produce, daemon=True)
    producer.start()
    seen: Counter[str] = Counter()
    former: list[Any] = []

    options: dict[str, Any] = {**ME, **SHY, "batch_size": 100, "block_ms": 200}
    schema = {"n": pl.Int64, "same": pl.Int64}
    with world.consumer(connection, stream, schema, on_idle="wait", **options) as consumer:

        def fail_over() -> None:
            try:
                former.append(sentinels.fail_over())
            finally:
                ended.set()
                producer.join()
                consumer.stop()

        with later(0.2, fail_over):
            for batch in consumer:
                frame = batch.frame
                assert frame["n"].to_list() == frame["same"].to_list()
                seen.update(frame["_id"].to_list())
    with world.consumer(connection, stream, schema, **ME, **DRAIN) as consumer:
        for batch in consumer:
            seen.update(batch.frame["_id"].to_list())
    assert sentinels.master is not former[0]
    with sentinels.master.client() as client:
        entries = client.xrange(stream)
        there = [entry_id.decode() for entry_id, _ in entries]
        assert client.xpending(stream, "g")["pending"] == 0
    assert {*there} <= seen.keys()
    numbers_sent = [fields[b"n"] for _, fields in entries]
    assert len(numbers_sent) == len({*numbers_sent})


# The old master comes back


@pytest.mark.slow
def test_a_former_master_that_comes_back_is_not_written_to(
    sentinels: Deployment, stream: str
) -> None:
    connection = sentinels.connection(client_name=stream)
    write_stream(connection, own(1, 10), stream, id_column="id")
    sentinels.replicated()
    former = sentinels.master
    sentinels.lose()
    write_stream(connection, own(11, 20), stream, id_column="id")
    sentinels.start(former)  # empty, and a master in its own eyes
    with former.client() as client:
        for n in itertools.count(21):
            write_stream(connection, own(n, n), stream, id_column="id")
            assert "cmdstat_xadd" not in client.info("commandstats") or client.role()[0] == b"slave"
            if client.role()[0] == b"slave":
                break
            time.sleep(0.01)
        eventually(lambda: client.info("replication")["master_link_status"] == "up", seconds=10)
        write_stream(connection, own(n + 1, n + 1), stream, id_column="id")
        sentinels.replicated()
        assert stored(client, stream) == [*range(1, n + 2)]


# The replica lags when the master is lost


@pytest.fixture
def lagging(sentinels: Deployment, stream: str) -> Deployment:
    """Entries 1 to 10 are replicated, 11 to 20 are not."""
    fill(sentinels, stream, 10)
    with sentinels.master.client() as master:
        master.xgroup_create(stream, "g", "0")
    sentinels.replicated()
    sentinels.cut_replication()
    with sentinels.master.client() as master:
        add_numbers(master, stream, 20, first=11)
    return sentinels


@pytest.mark.parametrize("grown", [False, True], ids=["shorter", "grown since"])
def test_a_reader_says_that_what_it_has_read_is_lost(
    lagging: Deployment, stream: str, follow: Follow, grown: bool
) -> None:
    reader = follow(lagging.connection(), stream, NUMBER, start_id="-", batch_size=5, block_ms=50)
    assert [n for _ in range(4) for n in next(reader)["n"]] == [*range(1, 21)]
    lagging.lose()
    if grown:
        fill_alone(lagging, stream, 31, 40)
    with pytest.raises(DataLossError, match="20-0") as raised:
        next(reader)
    assert ("40-0" if grown else "10-0") in str(raised.value)


def test_an_arrow_stream_says_that_its_end_is_lost(lagging: Deployment, stream: str) -> None:
    with lagging.master.client() as master:
        add_numbers(master, stream, 20_000, first=21)
    reader = redfloe.stream_reader(lagging.connection(), stream, NUMBER, batch_size=1_000)
    batches = pa.RecordBatchReader.from_stream(reader)
    batches.read_next_batch()
    lagging.lose()
    with pytest.raises(Exception, match=r"lost its end|lost the end"):
        for _ in batches:
            pass


def test_a_reader_that_has_read_no_further_goes_on(
    sentinels: Deployment, stream: str, follow: Follow
) -> None:
    fill(sentinels, stream, 10)
    reader = follow(sentinels.connection(), stream, NUMBER, start_id="-", block_ms=50)
    assert next(reader).height == 10
    sentinels.cut_replication()
    fill_alone(sentinels, stream, 11, 20)
    sentinels.lose()
    fill_alone(sentinels, stream, 31)
    assert next(reader)["n"].to_list() == [31]


@pytest.mark.parametrize("policy", ["raise", "continue"])
def test_a_checkpoint_beyond_the_new_end(
    lagging: Deployment, stream: str, world: World, policy: str
) -> None:
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, "on_data_loss": policy}
    connection = lagging.connection()
    with world.consumer(connection, stream, **options, **DRAIN) as consumer:
        assert [n for batch in consumer for n in rows(batch)] == [*range(1, 21)]
    lagging.lose()
    with world.consumer(connection, stream, **options, **DRAIN) as consumer:
        if policy == "raise":
            with pytest.raises(DataLossError, match="10-0"):
                next(consumer)
        else:
            assert [n for batch in consumer for n in rows(batch)] == [*range(1, 11)]


@pytest.mark.parametrize("policy", ["raise", "continue"])
def test_a_running_worker_beyond_the_new_end(
    lagging: Deployment, stream: str, world: World, policy: str
) -> None:
    store = MemoryCheckpointStore()
    store.save(stream, "1-0")
    options: dict[str, Any] = {"checkpoint_store": store, "on_data_loss": policy, "block_ms": 50}
    with world.consumer(lagging.connection(), stream, **options) as consumer:
        assert rows(next(consumer)) == [*range(2, 21)]
        lagging.lose()
        if policy == "raise":
            with pytest.raises(DataLossError, match="10-0"):
                next(consumer)
        else:
            # From the start: nobody knows whether it is the same stream.
            assert rows(next(consumer)) == [*range(1, 11)]
            fill_alone(lagging, stream, 11)
            assert rows(next(consumer)) == [11]


def test_a_group_s_worker_goes_on_where_the_new_master_s_group_is(
    lagging: Deployment, stream: str, world: World
) -> None:
    """Entries whose delivery was not replicated come again, but for those in hand."""
    options: dict[str, Any] = {**ME, **SHY, "batch_size": 5, "block_ms": 50}
    with world.consumer(lagging.connection(), stream, **options) as consumer:
        assert rows(next(consumer)) == [1, 2, 3, 4, 5]
        assert rows(next(consumer)) == [6, 7, 8, 9, 10]  # and 1 to 5 are acknowledged
        lagging.lose()
        fill_alone(lagging, stream, 31, 33)
        seen: list[int] = []
        while 33 not in seen:
            seen += rows(next(consumer))
        assert seen in ([1, 2, 3, 4, 5, 31, 32, 33], [*range(1, 11), 31, 32, 33])
    with lagging.master.client() as master:
        assert master.xpending(stream, "g")["pending"] == 0


def test_a_group_that_was_not_replicated(sentinels: Deployment, stream: str, world: World) -> None:
    fill(sentinels, stream, 10)
    sentinels.cut_replication()
    options: dict[str, Any] = {**ME, "batch_size": 5, "block_ms": 50}
    connection = sentinels.connection()
    with (
        world.consumer(connection, stream, **options) as strict,
        world.consumer(
            connection, stream, **{**options, "group": "h"}, on_group_lost="recreate"
        ) as lenient,
    ):
        assert rows(next(strict)) == rows(next(lenient)) == [1, 2, 3, 4, 5]
        sentinels.lose()
        assert rows(next(lenient)) == [6, 7, 8, 9, 10]
        with pytest.raises(redfloe.NoGroupError):
            next(strict)


def test_acknowledged_writes_that_were_not_replicated_are_lost(
    sentinels: Deployment, stream: str
) -> None:
    """As documented; min-replicas-to-write is the remedy, and then it is waited for."""
    connection = sentinels.connection()
    write_stream(connection, own(1, 10), stream, id_column="id")
    sentinels.replicated()
    sentinels.cut_replication()
    write_stream(connection, own(11, 20), stream, id_column="id")
    sentinels.lose()
    write_stream(connection, own(21, 30), stream, id_column="id")
    with sentinels.master.client() as master:
        assert stored(master, stream) == [*range(1, 11), *range(21, 31)]


def test_with_min_replicas_a_write_waits_for_the_new_master(
    sentinels: Deployment, stream: str
) -> None:
    for server in sentinels.servers:
        with server.client() as client:
            client.config_set("min-replicas-to-write", 1)
    sentinels.cut_replication()
    connection = sentinels.connection()
    former = sentinels.master

    def lose() -> None:
        sentinels.lose()
        with sentinels.master.client() as client:
            client.config_set("min-replicas-to-write", 0)

    with later(0.1, lose):
        write_stream(connection, own(1, 10), stream, id_column="id")
    assert sentinels.master is not former
    with sentinels.master.client() as client:
        assert stored(client, stream) == [*range(1, 11)]


# Sentinels that fail meanwhile


@pytest.mark.parametrize("fault", ["hangs", "is dead"])
def test_a_sentinel_fails_with_the_master(sentinels: Deployment, stream: str, fault: str) -> None:
    fill(sentinels, stream)
    reader = iter_stream(
        sentinels.connection(), stream, NUMBER, start_id="-", batch_size=1_000, **DRAIN
    )
    read = next(reader)["n"].to_list()
    master = sentinels.master
    # The one that was asked first, and would be again.
    one = sentinels.sentinels[0]
    if fault == "hangs":
        one.pause()
    else:
        one.kill()
    sentinels.kill(master)
    read += numbers_of(reader)
    assert read == [*range(1, LAST + 1)]


def test_all_sentinels_are_away_for_a_while(sentinels: Deployment, stream: str) -> None:
    """What has a connection does not need them; what needs one waits for them."""
    fill(sentinels, stream, 10)
    reader = iter_stream(sentinels.connection(), stream, NUMBER, start_id="-", block_ms=50)
    assert next(reader).height == 10
    master = sentinels.master
    for one in sentinels.sentinels:
        one.kill()
    with master.client() as client:
        add_numbers(client, stream, 11, first=11)
        assert next(reader)["n"].to_list() == [11]
        client.client_kill_filter(_type="normal", skipme=True)
        add_numbers(client, stream, 12, first=12)

    def start() -> None:
        one = sentinels.sentinels[0].start()
        one.monitor(master.port)

    with later(0.2, start):
        assert next(reader)["n"].to_list() == [12]


def test_a_bounded_call_gives_up_during_a_failover(sentinels: Deployment, stream: str) -> None:
    connection = sentinels.connection(max_retries=2, connect_timeout=1.0)
    write_stream(connection, own(1, 10), stream, id_column="id")
    sentinels.kill(sentinels.master)
    with within(2), pytest.raises((RedisConnectionError, RedisTimeoutError)) as raised:
        read_stream(connection, stream)
    assert "sentinels: " in str(raised.value)
