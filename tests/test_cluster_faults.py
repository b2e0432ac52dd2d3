"""What goes wrong in a cluster: nothing is lost, and twice comes only what is documented to."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    RedisConnection,
    RedisTimeoutError,
    ResponseError,
    StreamConsumer,
    StreamProducer,
    WriteError,
    iter_stream,
    read_stream,
    write_hashes,
    write_stream,
)
from support.cluster import Cluster, Node, paused, proxied
from support.faults import (
    FAULTS,
    Fault,
    Step,
    add_one,
    failover,
    killing,
    migration,
    patient,
    replicated,
)
from support.groups import ME, pending
from support.streams import NUMBER, add_numbers, numbers
from support.timing import eventually, in_thread, within

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(40)]

DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 300}


@pytest.fixture
def key(cluster: Cluster) -> str:
    return cluster.keys(1)[0]


# Reads


@pytest.mark.parametrize("fault", FAULTS)
def test_a_read_in_pages(cluster: Cluster, key: str, fault: Fault) -> None:
    add_numbers(cluster.client(key), key, 5_000)
    steps = fault(cluster, key)
    found = []
    for batch in iter_stream(patient(cluster), key, NUMBER, "0", batch_size=500, **DRAIN):
        found.append(batch)
        if steps:
            steps.pop(0)()
    assert not steps
    assert_frame_equal(pl.concat(found), numbers(5_000))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_one_shot_read(cluster: Cluster, key: str, fault: Fault) -> None:
    add_numbers(cluster.client(key), key, 100_000)
    url = patient(cluster)
    for step in fault(cluster, key):
        with in_thread(lambda: read_stream(url, key, NUMBER)) as outcome:
            step()
            assert_frame_equal(outcome(), numbers(100_000))
        # The client's map is an old one now.
        assert_frame_equal(read_stream(url, key, NUMBER), numbers(100_000))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tail_that_waits(cluster: Cluster, key: str, fault: Fault) -> None:
    add_numbers(cluster.client(key), key, 3)
    url = RedisConnection(cluster.url, retry_max_delay=0.5, client_name="waits")
    steps = fault(cluster, key)
    batches = iter_stream(url, key, NUMBER, "0", block_ms=200)
    assert_frame_equal(next(batches), numbers(3))
    last = 3
    for step in steps:
        with in_thread(lambda: next(batches)) as outcome:
            time.sleep(0.1)  # it waits by now
            step()
            eventually(partial(add_one, cluster, key, last + 1), seconds=20)
            assert_frame_equal(outcome(), numbers(last + 1, first=last + 1))
        last += 1


def of_nodes(cluster: Cluster, length: int) -> tuple[list[str], pl.DataFrame]:
    """Streams of that many entries, on all nodes, and the frame that a read of them gives."""
    keys = cluster.keys(6)
    for key in keys:
        add_numbers(cluster.client(key), key, length)
    frames = [numbers(length).insert_column(2, pl.lit(key).alias("_stream")) for key in keys]
    return keys, pl.concat(frames)


@pytest.mark.parametrize("order", ["stream", "id"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_read_of_streams_of_several_nodes(cluster: Cluster, fault: Fault, order: Any) -> None:
    """At once, and in batches: whatever happens to one of them, each entry comes once, in order."""
    length = 20_000
    keys, whole = of_nodes(cluster, length)
    if order == "id":
        whole = whole.sort("n", maintain_order=True)
    url = patient(cluster)
    steps = fault(cluster, keys[1])
    reader = pa.RecordBatchReader.from_stream(
        redfloe.stream_reader(url, keys, NUMBER, order=order, batch_size=2_000)
    )
    found = [pl.DataFrame(reader.read_next_batch())]
    for step in steps:
        with in_thread(lambda: read_stream(url, keys, NUMBER, order=order)) as outcome:
            step()
            assert_frame_equal(outcome(), whole)
        found.append(pl.DataFrame(reader.read_next_batch()))
        # The client's map is an old one now.
        assert_frame_equal(read_stream(url, keys, NUMBER, order=order), whole)
    found += [pl.DataFrame(batch) for batch in reader]
    assert_frame_equal(pl.concat(found), whole)


def test_many_streams_while_slots_move(cluster: Cluster) -> None:
    """Slots go to and fro, with some streams each, and a read finds every one of them."""
    keys = [f"{{{number % 20}}}:{number}" for number in range(200)]
    clients = {tag: cluster.client(f"{{{tag}}}") for tag in range(20)}
    for number, key in enumerate(keys):
        add_numbers(clients[number % 20], key, 100)
    frames = [numbers(100).insert_column(2, pl.lit(key).alias("_stream")) for key in keys]
    whole = pl.concat(frames)
    url, moves = patient(cluster), 0
    moving = threading.Event()

    def move() -> int:
        nonlocal moves
        try:
            for tag in range(8):
                slot, target = cluster.slot(f"{{{tag}}}"), cluster.other(f"{{{tag}}}")
                cluster.begin_move(slot, target)
                for key in keys[tag::20]:
                    cluster.move_key(key, target)
                    moves += 1
                cluster.end_move(slot, target)
        finally:
            moving.set()
        return moves

    with in_thread(move) as outcome:
        reads = 0
        while not moving.is_set():
            for order in ("stream", "id"):
                df = read_stream(url, keys, NUMBER, order=order)
                assert_frame_equal(df.sort("_stream", "n"), whole.sort("_stream", "n"))
                reads += 1
        assert outcome() == 80
    assert reads >= 2
    assert_frame_equal(read_stream(url, keys, NUMBER), whole)


# Groups


@pytest.mark.parametrize("ack", ["manual", "on_success"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker(cluster: Cluster, key: str, fault: Fault, ack: Any) -> None:
    add_numbers(cluster.client(key), key, 2_000)
    steps = fault(cluster, key)
    given: list[int] = []
    options: dict[str, Any] = {"reclaim_min_idle_ms": None, **DRAIN}
    with StreamConsumer(
        patient(cluster), key, schema=NUMBER, batch_size=100, ack=ack, **ME, **options
    ) as consumer:
        for batch in consumer:
            given += batch.frame["n"].to_list()
            if ack == "manual":
                batch.ack()
            if steps:
                steps.pop(0)()
    assert not steps
    assert sorted(set(given)) == list(range(1, 2_001))
    if fault is not killing:
        # A master that dies takes acknowledgements with it that its replica has not got.
        assert len(given) == 2_000
    assert pending(cluster.client(key), key) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_group_read(cluster: Cluster, key: str, fault: Fault) -> None:
    add_numbers(cluster.client(key), key, 500)
    url = patient(cluster)
    options: dict[str, Any] = {**ME, "create_group": True, "auto_ack": True, "count": 100}
    found = [read_stream(url, key, NUMBER, **options)]
    for step in fault(cluster, key):
        step()
        found.append(read_stream(url, key, NUMBER, **options))
    while (df := read_stream(url, key, NUMBER, **options)).height:
        found.append(df)
    assert_frame_equal(pl.concat(found).unique("_id", maintain_order=True), numbers(500))


def test_dead_letters_while_the_slot_moves(cluster: Cluster, key: str) -> None:
    """Half way the two streams are on two nodes, and no script reaches both: it waits."""
    dead = f"{{{key}}}:dead"
    client = cluster.client(key)
    add_numbers(client, key, 300)
    client.xadd(dead, {"n": 0}, id="0-1")
    slot, target = cluster.slot(key), cluster.other(key)

    def half_way() -> None:
        cluster.move_key(key, target)
        threading.Timer(0.5, finish).start()

    def finish() -> None:
        cluster.move_key(dead, target)
        cluster.end_move(slot, target)

    steps: list[Step] = [lambda: cluster.begin_move(slot, target), half_way]
    options: dict[str, Any] = {"dead_letter": dead, "reclaim_min_idle_ms": None, **DRAIN}
    with StreamConsumer(
        patient(cluster), key, schema=NUMBER, batch_size=50, **ME, **options
    ) as consumer:
        for batch in consumer:
            if steps:
                steps.pop(0)()
            batch.fail(batch.ids, "no good")
    letters = redfloe.read_dead_letters(cluster.url, dead, start_id="1")
    assert letters["_dead_id"].to_list() == [f"{n}-0" for n in range(1, 301)]
    assert pending(cluster.client(key), key) == []


# Writes


def written(cluster: Cluster, key: str) -> list[int]:
    return read_stream(patient(cluster), key, NUMBER)["n"].to_list()


@pytest.mark.parametrize("own_ids", [False, True], ids=["server IDs", "own IDs"])
@pytest.mark.parametrize("fault", [migration, failover])
def test_a_write(cluster: Cluster, key: str, fault: Fault, own_ids: bool) -> None:
    rows = 60_000
    frame = pl.DataFrame({"id": [f"{n}-1" for n in range(rows)], "n": range(rows)})
    ids_of = "id" if own_ids else None
    if not own_ids:
        frame = frame.drop("id")
    steps = fault(cluster, key)
    url = patient(cluster)
    with in_thread(
        lambda: write_stream(url, frame, key, batch_size=500, id_column=ids_of)
    ) as outcome:
        for number, step in enumerate(steps, 1):
            eventually(partial(has, cluster, key, number * rows // 20), seconds=10)
            step()
        ids = outcome()
    assert ids.null_count() == 0
    df = read_stream(url, key, NUMBER)
    assert df["n"].to_list() == list(range(rows))
    assert df["_id"].to_list() == ids.to_list()


def has(cluster: Cluster, key: str, entries: int) -> bool:
    """Whether there are so many entries, whoever has them."""
    info = redfloe.stream_info(patient(cluster, client_name="looks"), key)
    return bool(info["length"].sum() >= entries)


def test_a_write_whose_master_dies(cluster: Cluster, key: str) -> None:
    """What the replica had not got is lost, as Redis documents, and nothing else."""
    rows = 60_000
    frame = pl.DataFrame({"id": [f"{n}-1" for n in range(rows)], "n": range(rows)})
    url = patient(cluster)
    with in_thread(
        lambda: write_stream(url, frame, key, id_column="id", batch_size=500)
    ) as outcome:
        eventually(partial(has, cluster, key, rows // 10), seconds=10)
        cluster.node(key).kill()
        try:
            ids = outcome()
        except WriteError as error:
            # Rows that were acknowledged are lost.
            assert error.ids is not None  # noqa: PT017
            ids = error.ids
    there = written(cluster, key)
    assert there == sorted(set(there))
    said = [row for row, entry in enumerate(ids) if entry is not None]
    # No gap where the master died.
    assert said == there == [*range(len(there))]


@contextmanager
def lagging(node: Node) -> Iterator[None]:
    """Have the replica of a master miss whatever is written from now on."""
    node.command("ACL", "SETUSER", "default", "-psync", "-sync")
    try:
        node.command("CLIENT", "KILL", "TYPE", "replica")
        yield
    finally:
        node.command("ACL", "SETUSER", "default", "allcommands")


@pytest.mark.parametrize("several", [False, True], ids=["one stream", "several"])
def test_a_write_says_which_of_its_rows_the_new_master_lacks(
    cluster: Cluster, several: bool
) -> None:
    """The former master, which is alive, leads to the new one."""
    keys = cluster.keys(6) if several else cluster.keys(1)
    count = len(keys)
    rows = 300_000
    frame = pl.DataFrame({"stream": keys * (rows // count), "n": range(rows)})
    frame = frame.with_columns(id=pl.format("{}-1", "n"))
    master, replica = cluster.node(keys[0]), cluster.replica(keys[0])

    def take_over() -> None:
        replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
        eventually(lambda: master.role[0] == "slave", seconds=10)

    with ExitStack() as stack:
        steps = [lambda: stack.enter_context(lagging(master)), lambda: None, take_over]

        def progress(written: int) -> None:
            if written > 0 and steps:
                steps.pop(0)()

        with pytest.raises(WriteError, match="lost the end") as raised:
            write_stream(
                patient(cluster),
                frame,
                pl.col("stream"),
                fields=["n"],
                id_column="id",
                batch_size=200,
                progress=progress,
            )
    ids = raised.value.ids
    assert ids is not None
    said = frame.with_columns(id=ids).filter(pl.col("id").is_not_null())
    for index, key in enumerate(keys):
        there = written(cluster, key)
        assert said.filter(stream=key)["n"].to_list() == there
        assert there == list(range(index, len(there) * count, count))
    assert raised.value.rows_written == said.height


def test_a_write_says_what_else_the_cluster_lacks(cluster: Cluster) -> None:
    """Also of a stream to which nothing more is written when another one's loss is noticed."""
    first, other = cluster.keys(2)
    rows = 300_000
    frame = pl.DataFrame({"stream": [other] * 10 + [first] * rows, "n": range(rows + 10)})
    frame = frame.with_columns(id=pl.format("{}-1", "n"))

    def take_over(key: str) -> None:
        master, replica = masters[key], replicas[key]
        replica.command("CLUSTER", "FAILOVER", "TAKEOVER")
        eventually(lambda: master.role[0] == "slave", seconds=10)

    masters = {key: cluster.node(key) for key in (first, other)}
    replicas = {key: cluster.replica(key) for key in (first, other)}
    with ExitStack() as stack:
        stack.enter_context(lagging(masters[other]))
        steps = [
            lambda: stack.enter_context(lagging(masters[first])),
            lambda: take_over(other),
            lambda: take_over(first),
        ]

        def progress(written: int) -> None:
            if written > 10 and steps:
                steps.pop(0)()

        with pytest.raises(WriteError, match="lost the end") as raised:
            write_stream(
                patient(cluster),
                frame,
                pl.col("stream"),
                fields=["n"],
                id_column="id",
                batch_size=200,
                progress=progress,
            )
    assert raised.value.ids is not None
    said = frame.with_columns(id=raised.value.ids).filter(pl.col("id").is_not_null())
    for key in (first, other):
        assert said.filter(stream=key)["n"].to_list() == written(cluster, key)
    assert written(cluster, other) == []
    assert raised.value.rows_written == said.height


@pytest.mark.parametrize("fault", [migration, failover])
def test_a_producer(cluster: Cluster, key: str, fault: Fault) -> None:
    steps = fault(cluster, key)
    with StreamProducer(patient(cluster), key, linger_ms=5) as producer:
        for n in range(3_000):
            producer.send({"n": n})
            if n % 500 == 250 and steps:
                producer.flush()
                steps.pop(0)()
    assert not steps
    assert written(cluster, key) == list(range(3_000))


def test_a_write_in_one_step(cluster: Cluster, key: str) -> None:
    """WATCH, MULTI and EXEC follow the slot, also with ASKING."""
    add_numbers(cluster.client(key), key, 1)
    last = 1
    url = patient(cluster)
    for step in migration(cluster, key):
        step()
        for _ in range(2):
            frame = pl.DataFrame(
                {"id": [f"{last + 1}-0", f"{last + 2}-0"], "n": [last + 1, last + 2]}
            )
            write_stream(url, frame, key, id_column="id", atomic=True)
            last += 2
    assert_frame_equal(read_stream(url, key, NUMBER), numbers(last))


def test_rows_for_many_streams_while_slots_move(cluster: Cluster) -> None:
    keys = cluster.keys(12)
    rows = 48_000
    frame = pl.DataFrame({"stream": keys * (rows // 12), "n": range(rows)})
    url = patient(cluster)
    with in_thread(lambda: write_stream(url, frame, pl.col("stream"), batch_size=200)) as outcome:
        for number, key in enumerate(keys[:4], 1):
            eventually(partial(has, cluster, key, number * rows // 12 // 10), seconds=10)
            for step in migration(cluster, key):
                step()
                time.sleep(0.02)
        ids = outcome()
    assert ids.null_count() == 0
    for index, key in enumerate(keys):
        df = read_stream(url, key, NUMBER)
        assert df["n"].to_list() == list(range(index, rows, 12)), key
        assert df["_id"].to_list() == ids.to_list()[index::12]


@pytest.mark.parametrize("entry", ["any node", "one node"])
@pytest.mark.parametrize("is_cut", [False, True], ids=["whole", "cut"])
@pytest.mark.slow
def test_rows_for_two_streams_of_a_slot_that_is_half_moved(
    cluster: Cluster, is_cut: bool, entry: str
) -> None:
    """Each is asked about, and written to, where it is; also what a lost connection has brought."""
    keys, rows = ["{tag}a", "{tag}b"], 100_000
    slot, target = cluster.slot(keys[0]), cluster.other(keys[0])
    frame = pl.DataFrame({"stream": keys * (rows // 2), "n": range(rows)})
    frame = frame.with_columns(id=pl.format("{}-1", "n"))
    with proxied(cluster, max_retries=20, retry_base_delay=0.05) as (url, proxies):
        proxy = proxies[cluster.node(keys[0]).port]
        server = url if entry == "any node" else RedisConnection(proxy.url)
        steps = [
            lambda: cluster.begin_move(slot, target),
            lambda: cluster.move_key(keys[0], target),
            *([proxy.cut_all] if is_cut else []),
        ]

        def progress(written: int) -> None:
            while written > 0 and steps:
                steps.pop(0)()

        options: dict[str, Any] = {"fields": ["n"], "id_column": "id", "batch_size": 500}
        ids = write_stream(server, frame, pl.col("stream"), progress=progress, **options)
    assert not steps
    assert ids.to_list() == frame["id"].to_list()
    # The other must not be there already.
    cluster.move_key(keys[1], target)
    cluster.end_move(slot, target)
    for index, key in enumerate(keys):
        assert written(cluster, key) == list(range(index, rows, 2))


@pytest.mark.parametrize("if_exists", ["replace", "merge"])
def test_hashes_while_slots_move(cluster: Cluster, if_exists: Any) -> None:
    rows = 20_000
    frame = pl.DataFrame({"key": [f"{{{n % 50}}}{n}" for n in range(rows)], "n": range(rows)})
    url = patient(cluster)
    with in_thread(
        lambda: write_hashes(url, frame, key_column="key", if_exists=if_exists)
    ) as outcome:
        for tag in range(4):
            slot, target = cluster.slot(f"{{{tag}}}"), cluster.other(f"{{{tag}}}")
            cluster.begin_move(slot, target)
            time.sleep(0.05)
            source = cluster.master_of(slot)
            while names := source.command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                source.command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *names)
            cluster.end_move(slot, target)
        assert outcome() == rows
    assert sum(int(node.client().dbsize()) for node in cluster.masters) == rows
    for tag in range(4):
        client = cluster.client(f"{{{tag}}}")
        for n in range(tag, rows, 50):
            assert client.hget(f"{{{tag}}}{n}", "n") == str(n).encode()


def test_rows_of_one_hash_stay_in_order_while_its_slot_moves(cluster: Cluster) -> None:
    """Neither key is there yet, so the node that takes over is asked for each row."""
    keys = ["{move}1", "{move}2"]
    slot, target = cluster.slot(keys[0]), cluster.other(keys[0])
    cluster.begin_move(slot, target)
    try:
        for last in range(300, 310):
            frame = pl.DataFrame({"key": keys * last, "n": range(2 * last)})
            write_hashes(patient(cluster), frame, key_column="key", if_exists="merge")
            # They are asked for there as a migration would: each by ASKING.
            connection = target.client()
            got = []
            for key in keys:
                connection.execute_command("ASKING")
                got.append(int(connection.hget(key, "n") or -1))
            assert got == [2 * last - 2, 2 * last - 1]
    finally:
        cluster.end_move(slot, target)


# Nodes


def test_a_node_that_hangs(cluster: Cluster, key: str) -> None:
    """A bounded call gives up after its timeout; what is patient goes on with the replica."""
    add_numbers(cluster.client(key), key, 3)
    replicated(cluster, key)
    short = RedisConnection(cluster.url, response_timeout=0.5, connect_timeout=2)
    assert_frame_equal(read_stream(short, key, NUMBER), numbers(3))
    tail = iter_stream(short, key, NUMBER, "0", block_ms=100)
    assert_frame_equal(next(tail), numbers(3))
    node = cluster.node(key)
    with paused(node):
        with within(2), pytest.raises(RedisTimeoutError):
            read_stream(short, key, NUMBER)
        with in_thread(lambda: next(tail)) as outcome:
            eventually(lambda: cluster.node(key) is not node, seconds=15)
            time.sleep(0.3)  # until all nodes know
            assert_frame_equal(read_stream(short, key, NUMBER), numbers(3))
            eventually(lambda: add_one(cluster, key, 4), seconds=15)
            assert_frame_equal(outcome(), numbers(4, first=4))


def test_other_nodes_serve_while_one_hangs(cluster: Cluster) -> None:
    first, second = cluster.keys(2)
    add_numbers(cluster.client(second), second, 3)
    with paused(cluster.node(first)), within(3):
        fresh = RedisConnection(cluster.url, client_name="fresh")
        assert_frame_equal(read_stream(fresh, second, NUMBER), numbers(3))


def test_a_node_that_was_not_asked_before_is_waited_for(cluster: Cluster, key: str) -> None:
    """`connect_timeout` limits the first connection of all, not that to each node."""
    other = cluster.keys(2)[cluster.node(cluster.keys(2)[0]) is cluster.node(key)]
    for one in (key, other):
        add_numbers(cluster.client(one), one, 3)
    replicated(cluster, key)
    connection = RedisConnection(
        cluster.url, connect_timeout=0.3, max_retries=100, retry_max_delay=0.2, client_name="new"
    )
    assert_frame_equal(read_stream(connection, other, NUMBER), numbers(3))
    for step in killing(cluster, key):
        step()
        assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
        assert_frame_equal(
            read_stream(connection, [key, other], NUMBER).head(3).drop("_stream"), numbers(3)
        )


def test_a_slot_that_nobody_serves(cluster: Cluster, key: str) -> None:
    """CLUSTERDOWN is waited for."""
    slot, owner = cluster.slot(key), cluster.node(key)
    add_numbers(cluster.client("{x}"), "{x}", 1)
    for node in cluster.masters:
        node.command("CLUSTER", "DELSLOTS", slot)
    try:
        with within(3), pytest.raises(ResponseError, match="CLUSTERDOWN") as raised:
            read_stream(RedisConnection(cluster.url, max_retries=2), key)
        assert raised.value.code == "CLUSTERDOWN"
        with in_thread(lambda: read_stream(patient(cluster), key, NUMBER)) as outcome:
            time.sleep(0.2)
            owner.command("CLUSTER", "ADDSLOTS", slot)
            assert outcome().is_empty()
    finally:
        if owner.info()["cluster_slots_assigned"] != "16384":
            owner.command("CLUSTER", "ADDSLOTS", slot)


def test_nodes_that_disagree(cluster: Cluster, key: str) -> None:
    """Each names the other: that is not followed for ever, nor without pauses."""
    slot, owner, other = cluster.slot(key), cluster.node(key), cluster.other(key)
    owner.command("CLUSTER", "SETSLOT", slot, "NODE", other.id)
    try:
        before = moved(owner) + moved(other)
        with within(4), pytest.raises(ResponseError, match="MOVED"):
            read_stream(RedisConnection(owner.url, max_retries=3), key)
        # Each attempt is of two commands.
        assert 8 <= moved(owner) + moved(other) - before <= 30
    finally:
        for node in cluster.masters:
            node.command("CLUSTER", "SETSLOT", slot, "NODE", owner.id)


def moved(node: Node) -> int:
    stats: dict[str, Any] = node.client().info("errorstats")
    return int(stats.get("errorstat_MOVED", {"count": 0})["count"])


@pytest.mark.parametrize("fault", [migration, killing, failover])
def test_an_old_map(cluster: Cluster, fault: Fault) -> None:
    """It is put right once, however many calls find out at the same time."""
    keys = cluster.keys(6)
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
        replicated(cluster, key)
    url = patient(cluster, client_name=f"old-{fault.__name__}")
    read_all(url, keys)
    for step in fault(cluster, keys[0]):
        step()
    if fault is killing:
        eventually(lambda: cluster.node(keys[0])._process is not None, seconds=15)
    before = asked(cluster)
    with (
        in_thread(lambda: read_all(url, keys)) as one,
        in_thread(lambda: read_all(url, keys)) as two,
    ):
        one()
        two()
    assert asked(cluster) - before <= 4
    read_all(url, keys)


def read_all(url: RedisConnection, keys: Sequence[str]) -> bool:
    for key in keys:
        assert_frame_equal(read_stream(url, key, NUMBER), numbers(3))
    return True


def asked(cluster: Cluster) -> int:
    """How often nodes were asked who serves what."""
    total = 0
    for node in cluster.nodes:
        if node._process is not None:
            stats: dict[str, Any] = node.client().info("commandstats")
            total += int(stats.get("cmdstat_cluster|shards", {"calls": 0})["calls"])
    return total
