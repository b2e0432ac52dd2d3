"""Processors in a cluster: all that is theirs is in the slot of the stream, wherever that goes."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import redfloe
from redfloe import RedisConnection
from support.cluster import Cluster
from support.consumers import World, dead_ids
from support.faults import Step, failover, killing, patient, restart
from support.processors import STREAM, TOTALS, Driven, check, handler, outputs, processor, work
from support.streams import add_numbers
from support.timing import in_thread

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(60)]

SYNC = World(None)


def test_a_stream_is_processed_once(
    cluster: Cluster, cluster_url: str | RedisConnection, world: World
) -> None:
    client = cluster.client(STREAM)
    add_numbers(client, STREAM, 20)
    Driven(world, processor(cluster_url, batch_size=3)).run(handler(world))
    check(client, 20)


def test_outputs_share_the_slot(cluster: Cluster) -> None:
    """What is in another is refused before anything is sent, with a name that would do."""
    client = cluster.client(STREAM)
    add_numbers(client, STREAM, 2)
    for options in ({"outputs": ["{numbers}:a", "alerts"]}, {"dead_letter": "alerts"}):
        with pytest.raises(ValueError, match=r'name it "{numbers}:alerts"'):
            processor(cluster.url, **options)
    made = processor(cluster.url, outputs=["{numbers}:out"], dead_letter="{numbers}:dead")
    with made:
        tx = next(made)
        for rows in (tx.frame, {"n": 1}):
            with pytest.raises(
                ValueError, match=r'name it "{numbers}:alerts".*nothing has been written'
            ):
                tx.publish("alerts", rows)
        tx.fail(tx.ids[0], "x")
        tx.publish("{numbers}:out", tx.frame.tail(1))
    assert outputs(client) == [2]
    assert dead_ids(client, "{numbers}:dead") == ["1-0"]


def test_keys_of_several_slots_where_no_cluster_is_known(cluster: Cluster) -> None:
    """The node that serves the stream is a server like others, until a key is not its own."""
    add_numbers(cluster.client(STREAM), STREAM, 2)
    made = processor(RedisConnection(cluster.node(STREAM).url, client_name="of-one-node"))

    def publish() -> None:
        with made:
            tx = next(made)
            tx.publish("alerts", tx.frame)

    with pytest.raises(ValueError, match=r'name it "{numbers}:alerts".*nothing has been written'):
        publish()
    with made:
        tx = next(made)
        assert tx.frame.height == 2
        with pytest.raises(ValueError, match="does not share that of"):
            tx.lookup("more", "sums", "totals", [0, 1], key="parity", schema=TOTALS["schema"])


def test_a_lookup_is_of_a_table_in_the_slot(cluster: Cluster, world: World) -> None:
    add_numbers(cluster.client(STREAM), STREAM, 2)
    add_numbers(cluster.client(STREAM), "{numbers}:more", 2)
    key: dict[str, Any] = {"key": "parity", "schema": TOTALS["schema"]}
    Driven(world, processor(cluster.url, "{numbers}:more")).run(handler(world))
    driven = Driven(world, processor(cluster.url))
    with driven:
        tx = next(driven)
        # Also a turn without entries commits to the slot's server.
        window = {"every": "1m", "aggs": {"n": pl.len()}, "close_at_end": True}
        world.do(tx.window("w", **window))
        found = world.do(tx.lookup("{numbers}:more", "sums", "totals", [0, 1], **key))
        assert found.rows() == [(0, 2), (1, 1)]
        with pytest.raises(
            ValueError, match=r'does not share that of "numbers"; .*{numbers}:other'
        ):
            world.do(tx.lookup("another", "sums", "totals", [0, 1], **key))
        assert world.do(next(driven).window("w", **window)).closed["n"].to_list() == [2]


def test_a_cluster_that_is_known_by_one_node_only(cluster: Cluster) -> None:
    client = cluster.client(STREAM)
    add_numbers(client, STREAM, 2)
    url = RedisConnection(cluster.node(STREAM).url, client_name="processor")
    with pytest.raises((ValueError, redfloe.RedfloeError)), processor(url) as made:  # noqa: PT012
        next(made).publish("alerts", {"n": 1})
        next(made)
    assert client.hget(f"{{{STREAM}}}:redfloe:{STREAM}:sums", "position") == b"0-0"


def migration(cluster: Cluster, key: str) -> list[Step]:
    """The steps by which a slot moves to another node with all of its keys."""
    slot, target = cluster.slot(key), cluster.other(key)
    source = cluster.node(key)

    def move_some(number: int) -> None:
        for name in source.command("CLUSTER GETKEYSINSLOT", slot, number):
            cluster.move_key(name, target)

    return [
        lambda: cluster.begin_move(slot, target),
        lambda: move_some(2),
        lambda: move_some(100),
        lambda: cluster.end_move(slot, target),
    ]


@pytest.mark.parametrize("fault", [migration, killing, failover, restart])
def test_faults_lose_and_double_nothing(cluster: Cluster, fault: Any) -> None:
    add_numbers(cluster.client(STREAM), STREAM, 60)
    made = processor(patient(cluster), batch_size=1, on_data_loss="continue", lease_ms=30_000)

    def process() -> None:
        with made:
            for tx in made:
                work(SYNC, tx)

    with made:
        for _ in range(5):
            work(SYNC, next(made))
    with in_thread(process) as ended:
        for step in fault(cluster, STREAM):
            step()
        ended()
    # A server that was restarted may have lost the last commits, with the position.
    process()
    check(cluster.client(STREAM), 60)
