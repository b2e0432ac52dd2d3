"""A cluster of which one node refuses or lags: what is said of the others' rows, what is read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import OutcomeUnknownError, WriteError, read_stream, write_stream
from support.cluster import Cluster, Node, proxied
from support.consumers import SHY
from support.groups import DRAIN, ME, all_pending
from support.running import Running
from support.server import HOST
from support.streams import NUMBER, add_numbers, numbers
from support.timing import eventually

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]


@contextmanager
def writer(cluster: Cluster, node: Node, *keys: str) -> Iterator[str]:
    """Give the URL of a user who may write these keys alone at this node, all keys at others."""
    try:
        for one in cluster.nodes:
            allowed = [f"~{key}" for key in keys] if one is node else ["~*"]
            one.command("ACL SETUSER", "writer", "on", ">secret", *allowed, "+@all")
        yield cluster.url.replace("redis+cluster://", "redis+cluster://writer:secret@")
    finally:
        for one in cluster.nodes:
            one.command("ACL DELUSER", "writer")


@pytest.mark.parametrize("if_exists", ["replace", "merge"])
def test_the_first_missing_row_of_hashes(cluster: Cluster, if_exists: Any) -> None:
    """One node refuses all but its first row; rows of nodes that were not reached may be before."""
    keys = cluster.keys(30, "hash")
    frame = pl.DataFrame({"key": keys, "n": range(30)})
    for node in cluster.masters:
        first, second, *_ = [row for row, key in enumerate(keys) if cluster.node(key) is node]
        with writer(cluster, node, keys[first]) as url, pytest.raises(WriteError) as raised:
            redfloe.write_hashes(url, frame, key_column="key", if_exists=if_exists)
        present = [bool(cluster.client(key).exists(key)) for key in keys]
        assert raised.value.row == present.index(False) <= second
        assert raised.value.rows_written == sum(present)
        for one in cluster.masters:
            one.command("FLUSHALL")


def test_rows_of_a_part_that_halts_may_be_in(clusters: Running[Cluster]) -> None:
    """Its replies were lost, and before it could send them again another part had failed."""
    cluster = clusters.get("redis-8.10")
    lost, refused = cluster.keys(2)
    frame = pl.DataFrame({"stream": [lost, refused] * 10, "n": range(20)})
    patient: dict[str, Any] = {"retry_base_delay": 0.5, "retry_max_delay": 0.5}
    with proxied(cluster, client_name="halts", **patient) as (connection, proxies):
        fault = proxies[cluster.node(lost).port].cut_after(0, once_seen=b"XADD")
        refusing = proxies[cluster.node(refused).port]
        refusing.before(b"XADD", lambda _: eventually(lambda: fault.hits, seconds=10))
        refusing.replace_reply(b"-NOPERM this user may not\r\n", once_seen=b"XADD", times=None)
        with pytest.raises(OutcomeUnknownError, match="NOPERM") as raised:
            write_stream(connection, frame, pl.col("stream"), idempotent="me")
    error = raised.value
    # The proxy may have been cut before the last of them.
    assert cluster.client(lost).xlen(lost) > 0
    assert {*range(0, 20, 2)} <= {*error.unknown}
    assert (error.row, error.rows_written) == (0, 0)


@pytest.mark.parametrize("reply", ["LOADING it loads", "MASTERDOWN its master is gone"])
def test_a_replica_that_cannot_serve_is_replaced_by_its_master(
    cluster: Cluster, reply: str
) -> None:
    key = cluster.keys(1)[0]
    add_numbers(cluster.client(key), key, 3)
    with proxied(cluster, client_name=reply[:4], read_from="replica") as (connection, proxies):
        fault = proxies[cluster.replica(key).port].replace_reply(
            f"-{reply}\r\n".encode(), once_seen=b"XRANGE", times=None
        )
        assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
        assert fault.hits == 1


def test_a_replica_that_lags_has_lost_nothing(cluster: Cluster) -> None:
    """A read that another node began goes on with the master."""
    key = cluster.keys(1)[0]
    master, replica = cluster.node(key), cluster.replica(key)
    try:
        master.command("ACL SETUSER", "default", "-psync", "-sync")
        master.command("CLIENT KILL", "TYPE", "replica")
        eventually(lambda: replica.role[3] != "connected", seconds=10)
        add_numbers(cluster.client(key), key, 50_000)
        with proxied(cluster, client_name="lags", read_from="replica") as (connection, proxies):
            proxies[replica.port].replace_reply(b"-LOADING it loads\r\n", times=None)
            reader = redfloe.stream_reader(connection, key, NUMBER, batch_size=1_000)
            batches = pa.RecordBatchReader.from_stream(reader)
            found = [batches.read_next_batch()]
            proxies[replica.port].clear()
            time.sleep(1.2)  # the replica is left out for a second
            proxies[master.port].cut_all()
            found += [*batches]
            assert proxies[replica.port].count(b"XINFO") > 0
    finally:
        master.command("ACL SETUSER", "default", "allcommands")
    assert pl.concat(pl.DataFrame(batch) for batch in found)["n"].to_list() == [*range(1, 50_001)]


def test_the_first_acknowledgement_of_a_process_reaches_the_nodes_that_answer(
    cluster: Cluster,
) -> None:
    """Whoever acknowledges has not heard yet that its server is a node of a cluster."""
    keys = cluster.keys(12)
    cluster.fill({key: [1, 2] for key in keys})
    seed, hanging = cluster.masters[0], cluster.masters[1]
    answering = [key for key in keys if cluster.node(key) is not hanging]
    quick: dict[str, Any] = {"response_timeout": 0.5, "connect_timeout": 0.5, "max_retries": 0}
    options: dict[str, Any] = {"ack": "manual", "schema": NUMBER, **ME, **SHY, **DRAIN}
    with proxied(cluster) as (_, proxies):
        address_map = {f"{HOST}:{port}": f"{HOST}:{proxy.port}" for port, proxy in proxies.items()}
        connection = redfloe.RedisConnection(
            proxies[seed.port].url, address_map=address_map, **quick
        )
        with redfloe.StreamConsumer(connection, keys, **options) as consumer:
            batches = [*consumer]
            assert sum(map(len, batches)) == 24
            assert all_pending(cluster, answering).keys() == {*answering}
            stall = proxies[hanging.port].stall_after(0, times=None)
            failed = 0
            for batch in batches:
                try:
                    batch.ack()
                except redfloe.RedisTimeoutError:
                    failed += 1
            assert failed > 0
            assert stall.hits > 0
            assert all_pending(cluster, answering) == {}
            proxies[hanging.port].clear()
