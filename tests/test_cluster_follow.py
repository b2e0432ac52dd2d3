"""Following streams of several nodes of a cluster, and of several slots of a node."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

import redfloe
from redfloe import DataLossError, NoStreamError, RedisConnection, WrongTypeError, iter_stream
from support.cluster import Cluster, proxied
from support.faults import FAULTS, Fault, add_one
from support.groups import DRAIN
from support.streams import NUMBER, add, add_numbers, rows_of, take_rows
from support.timing import eventually, in_thread, later, within

if TYPE_CHECKING:
    from support.loops import Follow

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(60)]


def test_what_is_there_and_what_comes(
    cluster: Cluster, cluster_url: str | RedisConnection, follow: Follow
) -> None:
    keys = cluster.keys(7)
    for length, key in enumerate(keys):
        add_numbers(cluster.client(key), key, length * 100)
    batches = follow(cluster_url, [*keys, "late"], NUMBER, "-", block_ms=0, batch_size=70)
    whole = {key: [*range(1, length * 100 + 1)] for length, key in enumerate(keys) if length}
    assert take_rows(batches, 2_100) == whole
    for number, key in enumerate([*keys, "late"], 1_000):
        with later(0.02, partial(add, cluster.client(key), key, [(f"{number}-0", {"n": number})])):
            with within(2):
                assert take_rows(batches, 1) == {key: [number]}


def test_draining_ends(
    cluster: Cluster, cluster_url: str | RedisConnection, follow: Follow
) -> None:
    keys = cluster.keys(6)
    for key in keys:
        add_numbers(cluster.client(key), key, 1_000)
    drained = rows_of(follow(cluster_url, keys, NUMBER, "-", **DRAIN))
    assert drained == {key: [*range(1, 1_001)] for key in keys}
    assert sum(map(len, follow(cluster_url, keys, NUMBER, "-", count=1_500, **DRAIN))) == 1_500
    with within(5):
        assert list(follow(cluster_url, cluster.keys(3, "none"), NUMBER, "-", **DRAIN)) == []


def test_checkpoints_of_streams_of_all_nodes(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    """The store is the cluster itself, where each checkpoint has a slot of its own."""
    keys = cluster.keys(7)
    for key in keys:
        add_numbers(cluster.client(key), key, 20)
    store = redfloe.RedisCheckpointStore(cluster_url)
    options: dict[str, Any] = {"schema": NUMBER, "checkpoint_store": store, "batch_size": 30}
    for first in (1, 21):
        with redfloe.StreamConsumer(cluster_url, keys, **options, **DRAIN) as consumer:
            got = rows_of(batch.frame for batch in consumer)
        assert got == {key: [*range(first, first + 20)] for key in keys}
        assert {store.load(key) for key in keys} == {f"{first + 19}-0"}
        for key in keys:
            if first == 21:
                cluster.client(key).delete(key)
                add_numbers(cluster.client(key), key, 3)
            else:
                add_numbers(cluster.client(key), key, 40, first=21)
    with pytest.raises(DataLossError, match="40-0 has been read"):
        next(redfloe.StreamConsumer(cluster_url, keys, **options, **DRAIN))
    options["on_data_loss"] = "continue"
    with redfloe.StreamConsumer(cluster_url, keys, **options, **DRAIN) as consumer:
        assert rows_of(batch.frame for batch in consumer) == {key: [1, 2, 3] for key in keys}


def test_by_default_only_what_comes_after_the_call(cluster: Cluster) -> None:
    keys = cluster.keys(4)
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    with iter_stream(cluster.url, keys, NUMBER) as batches:
        for key in keys:
            add(cluster.client(key), key, [("9-0", {"n": 9})])
        assert take_rows(batches, 4) == {key: [9] for key in keys}


def test_a_pattern_and_inference(
    cluster: Cluster, cluster_url: str | RedisConnection, follow: Follow
) -> None:
    keys = cluster.keys(4)
    for key in keys[:3]:
        add_numbers(cluster.client(key), key, 3)
    options: Any = {"pattern": "stream-*", "discover_ms": 50, "infer_schema": True}
    batches = follow(cluster_url, start_id="-", **options)
    assert take_rows(batches, 9) == {key: [1, 2, 3] for key in keys[:3]}
    with later(0.1, lambda: add_numbers(cluster.client(keys[3]), keys[3], 2)):
        assert take_rows(batches, 2) == {keys[3]: [1, 2]}
    assert next(iter(follow(cluster_url, start_id="-", **options))).schema["n"] == pl.Int64


def test_errors_name_the_stream(
    cluster: Cluster, cluster_url: str | RedisConnection, follow: Follow
) -> None:
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 1)
    with pytest.raises(NoStreamError, match="stream: nope"):
        next(follow(cluster_url, [*keys, "nope"], NUMBER, "-", must_exist=True))
    cluster.client("text").set("text", "x")
    with pytest.raises(WrongTypeError, match="stream: text"):
        list(follow(cluster_url, [*keys, "text"], NUMBER, "-"))


def test_more_slots_than_connections_are_refused(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    keys = [f"stream-{number}" for number in range(400)]
    with pytest.raises(ValueError, match=r"at most 256 slots.*a common part in braces"):
        next(iter_stream(cluster_url, keys, NUMBER, "-"))
    tagged = [f"{{t}}:{number}" for number in range(400)]
    add_numbers(cluster.client(tagged[7]), tagged[7], 1)
    assert take_rows(iter_stream(cluster_url, tagged, NUMBER, "-"), 1) == {tagged[7]: [1]}


def test_hot_streams_and_their_slot_moves(cluster: Cluster) -> None:
    """Keys of one slot that is on its way are for a while on two nodes, which no XREAD reaches."""
    keys = [f"{{t}}:{number}" for number in range(20)]
    client = cluster.client(keys[0])
    for key in keys:
        add_numbers(client, key, 1)
    connection = RedisConnection(cluster.url, retry_max_delay=0.1, client_name="moves")
    with iter_stream(connection, keys, NUMBER, "-") as batches:
        assert take_rows(batches, 20) == {key: [1] for key in keys}
        for number in range(2, 30):
            add(client, keys[3], [(f"{number}-0", {"n": number})])
            assert take_rows(batches, 1) == {keys[3]: [number]}
        slot, target = cluster.slot(keys[0]), cluster.other(keys[0])
        cluster.begin_move(slot, target)
        for key in keys:
            cluster.move_key(key, target)
        cluster.end_move(slot, target)
        for key in keys[2:6]:
            add(cluster.client(key), key, [("100-0", {"n": 100})])
        assert take_rows(batches, 4) == {key: [100] for key in keys[2:6]}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_faults_lose_and_double_nothing(cluster: Cluster, fault: Fault) -> None:
    """Whatever happens to a node, its entries come, and those of the others meanwhile."""
    keys = cluster.key_of_each()
    key, others = keys[0], keys[1:]
    for one in keys:
        add_numbers(cluster.client(one), one, 3)
    connection = RedisConnection(cluster.url, retry_max_delay=0.5, client_name="waits")
    steps = fault(cluster, key)
    with iter_stream(connection, keys, NUMBER, "-", block_ms=200) as batches:
        assert take_rows(batches, 9) == {one: [1, 2, 3] for one in keys}
        last = 3
        for step in steps:
            last += 1
            with in_thread(partial(take_rows, batches, 3)) as outcome:
                time.sleep(0.1)  # it waits by now
                step()
                for one in (*others, key):
                    eventually(partial(add_one, cluster, one, last), seconds=20)
                assert outcome() == {one: [last] for one in keys}


def test_other_nodes_serve_while_one_hangs(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    for one in keys:
        add_numbers(cluster.client(one), one, 1)
    connection = RedisConnection(cluster.url, response_timeout=20, client_name="hangs")
    with iter_stream(connection, keys, NUMBER, "-") as batches:
        assert take_rows(batches, 3) == {one: [1] for one in keys}
        cluster.node(keys[0]).pause()
        try:
            with within(1):
                for one in keys[1:]:
                    add(cluster.client(one), one, [("2-0", {"n": 2})])
                assert take_rows(batches, 2) == {one: [2] for one in keys[1:]}
        finally:
            cluster.node(keys[0]).resume()


def test_other_nodes_serve_while_one_hangs_that_is_looked_after(cluster: Cluster) -> None:
    keys = cluster.keys(3)
    for one in keys:
        add_numbers(cluster.client(one), one, 1)
    connection = RedisConnection(cluster.url, response_timeout=20, client_name="looks")
    with iter_stream(connection, keys, NUMBER, "-") as batches:
        assert take_rows(batches, 3) == {one: [1] for one in keys}
        add(cluster.client(keys[0]), keys[0], [("2-0", {"n": 2})])
        assert take_rows(batches, 1) == {keys[0]: [2]}
        time.sleep(1.1)  # it is time to look whether the streams are what they were
        paused = cluster.node(keys[0])
        others = [one for one in keys if cluster.node(one) is not paused]
        paused.pause()
        try:
            with within(2):
                for one in others:
                    add(cluster.client(one), one, [("2-0", {"n": 2})])
                assert take_rows(batches, len(others)) == {one: [2] for one in others}
        finally:
            paused.resume()


def test_streams_are_looked_for_while_a_node_hangs(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    new = next(
        key
        for key in cluster.keys(9, "stream-new")
        if cluster.node(key).port == cluster.node(keys[1]).port
    )
    for one in keys:
        add_numbers(cluster.client(one), one, 1)
    connection = RedisConnection(cluster.url, response_timeout=20, client_name="discovers")
    options: Any = {"pattern": "stream-*", "discover_ms": 10, "block_ms": 0}
    with iter_stream(connection, schema=NUMBER, start_id="-", **options) as batches:
        assert take_rows(batches, 3) == {one: [1] for one in keys}
        hanging = cluster.node(keys[0])
        hanging.pause()
        try:
            with within(3):
                add(cluster.client(new), new, [("7-0", {"n": 7})])
                assert take_rows(batches, 1) == {new: [7]}
                add(cluster.client(keys[2]), keys[2], [("2-0", {"n": 2})])
                assert take_rows(batches, 1) == {keys[2]: [2]}
        finally:
            hanging.resume()
        # Its streams were not taken for gone, and begin nowhere anew.
        eventually(partial(add_one, cluster, keys[0], 5), seconds=20)
        assert take_rows(batches, 1) == {keys[0]: [5]}


def test_streams_of_a_node_with_many_keys_are_found(cluster: Cluster) -> None:
    """A node that answers is waited for, however long it takes with all its keys."""
    [key] = cluster.keys(1)
    node, new = cluster.client(key), f"stream-new:{{{key}}}"
    add_numbers(node, key, 1)
    node.mset({f"other-{number}:{{{key}}}": "" for number in range(20_000)})
    with (
        proxied(cluster) as (connection, proxies),
        iter_stream(connection, None, NUMBER, "-", pattern="stream*", discover_ms=10) as batches,
    ):
        assert take_rows(batches, 1) == {key: [1]}
        proxies[cluster.node(key).port].before(b"SCAN", lambda _: time.sleep(0.05))
        add(node, new, [("7-0", {"n": 7})])
        with within(8):
            assert take_rows(batches, 1) == {new: [7]}


def test_what_a_node_has_said_before_it_fell_silent_is_known(cluster: Cluster) -> None:
    [key] = cluster.keys(1)
    node = cluster.client(key)
    add_numbers(node, key, 1)
    node.mset({f"other-{number}:{{{key}}}": "" for number in range(5_000)})
    with (
        proxied(cluster, response_timeout=20) as (connection, proxies),
        iter_stream(connection, None, NUMBER, "-", pattern="stream*", discover_ms=10) as batches,
    ):
        assert take_rows(batches, 1) == {key: [1]}
        # The later pages of one search never come, nor does any of the next ones.
        fault = proxies[cluster.node(key).port].stall_after(
            0, once_seen=b"SCAN", skip=3, times=None
        )
        for number in range(200):
            add(node, f"stream-{number}:{{{key}}}", [("7-0", {"n": 7})])
        with within(8):
            assert [7] in take_rows(batches, 1).values()
        assert fault.hits >= 1


def test_a_stream_that_scan_misses_comes_once(cluster: Cluster) -> None:
    """It moves to a node that has been looked through from one that has not."""
    key = cluster.keys(1)[0]
    add_numbers(cluster.client(key), key, 3)
    source, target = cluster.node(key), cluster.other(key)
    with proxied(cluster) as (connection, proxies):
        moved = threading.Event()

        def move(_: int) -> None:
            if not moved.is_set():
                scans = proxies[target.port].count(b"SCAN")
                eventually(
                    lambda: proxies[target.port].count(b"SCAN") > scans or scans > 1, seconds=5
                )
                time.sleep(0.05)
                cluster.move(key)
                moved.set()

        options: Any = {"pattern": "stream-*", "discover_ms": 10}
        with iter_stream(connection, schema=NUMBER, start_id="-", **options) as batches:
            assert take_rows(batches, 3) == {key: [1, 2, 3]}
            proxies[source.port].before(b"SCAN", move)
            with in_thread(lambda: take_rows(batches, 1)) as outcome:
                assert moved.wait(10)
                time.sleep(0.3)  # it is looked for again
                add(cluster.client(key), key, [("4-0", {"n": 4})])
                assert outcome() == {key: [4]}


def test_a_slot_too_many_is_refused_whenever_it_is_met(cluster: Cluster) -> None:
    keys: dict[int, str] = {}
    for number in range(1_000):
        keys.setdefault(cluster.slot(f"stream-{number}"), f"stream-{number}")
        if len(keys) == 257:
            break
    *first, last = keys.values()
    for key in first:
        cluster.client(key).xadd(key, {"n": "1"}, id="1-0")
    options: Any = {"pattern": "stream-*", "discover_ms": 10}
    with iter_stream(cluster.url, schema=NUMBER, start_id="-", **options) as batches:
        assert len(take_rows(batches, 256)) == 256
        cluster.client(last).xadd(last, {"n": "1"}, id="1-0")
        for _ in range(2):
            with within(5), pytest.raises(ValueError, match="at most 256 slots"):
                next(batches)


def test_a_close_ends_all_waits(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    add_numbers(cluster.client(keys[0]), keys[0], 1)
    masters = [cluster.client(key) for key in keys]
    with redfloe.iter_stream(cluster.url, keys, NUMBER, "-", batch_timeout_ms=50) as batches:
        assert take_rows(batches, 1) == {keys[0]: [1]}
        eventually(
            lambda: all(one.info("clients")["blocked_clients"] for one in masters), seconds=5
        )
    eventually(
        lambda: not any(one.info("clients")["blocked_clients"] for one in masters), seconds=5
    )
