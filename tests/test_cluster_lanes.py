"""Processors of a sharded stream in a cluster: each lane is where its shard is."""

from __future__ import annotations

import polars as pl
import pytest

import redfloe
from redfloe import RedisConnection
from support.cluster import Cluster
from support.sharded_processors import drain, processor, totals
from support.shards import SCHEMA, TAGS, frame

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(60)]


def test_exactly_once_between_sharded_streams(
    cluster: Cluster, cluster_url: str | RedisConnection, stream: str
) -> None:
    out, dead = f"{stream}:out", f"{stream}:dead"
    odd = pl.DataFrame({"user": ["user_1", "user_2"], "n": ["x", "y"]})
    redfloe.write_stream(cluster_url, frame(), stream, shards=8, shard_by="user")
    redfloe.write_stream(cluster_url, odd, stream)
    drain(cluster_url, stream, out, dead_letter=dead)
    letters = redfloe.read_dead_letters(cluster_url, dead)
    assert sorted(letters["n"]) == ["x", "y"]
    nodes = {cluster.node(f"{out}:{{{tag}}}").port for tag in TAGS}
    assert len(nodes) == 3
    in_shards = [cluster.client(key).xlen(key) for key in [f"{out}:{{{tag}}}" for tag in TAGS]]
    assert sum(in_shards) == 500
    rows = redfloe.read_stream(cluster_url, out, SCHEMA)
    assert rows.select("user", "n").sort("n").equals(frame())
    wanted = frame().group_by("user").agg(pl.col("n").sum()).sort("user")
    assert totals(cluster_url, stream).equals(wanted)


def test_an_output_by_another_column_is_refused(cluster: Cluster, stream: str) -> None:
    redfloe.write_stream(cluster.url, frame(), stream, shards=8, shard_by="user")
    with processor(cluster.url, stream) as made:
        tx = next(made)
        with pytest.raises(ValueError, match="slot"):
            tx.publish("out", tx.frame, shard_by="n")
