"""Sharded streams in a cluster: shards on all nodes, read, worked on and written by one name."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import RedisConnection
from support.cluster import Cluster
from support.consumers import World
from support.shards import SCHEMA, TAGS, frame, without_ids

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]


def keys_of(stream: str) -> list[str]:
    return [f"{stream}:{{{tag}}}" for tag in TAGS]


def test_shards_are_spread_over_the_nodes(cluster: Cluster, stream: str) -> None:
    for shards in (3, 6, 8):
        nodes = Counter(cluster.node(key).port for key in keys_of(stream)[:shards])
        assert sorted(nodes.values()) == {3: [1, 1, 1], 6: [2, 2, 2], 8: [2, 3, 3]}[shards]


def test_writes_and_reads_by_the_name(cluster_url: str | RedisConnection, stream: str) -> None:
    shards: Any = {"shards": 8, "shard_by": "user"}
    redfloe.write_stream(cluster_url, frame(), stream, **shards)
    redfloe.write_stream(cluster_url, frame(), stream)
    found = redfloe.read_stream(cluster_url, stream, SCHEMA, include_stream=True)
    assert found["_stream"].unique().sort().to_list() == sorted(keys_of(stream))
    assert found.group_by("user").agg(pl.col("_stream").n_unique())["_stream"].max() == 1
    assert_frame_equal(without_ids(found.unique(["user", "n"])), frame())
    merged = redfloe.scan_stream(cluster_url, stream, SCHEMA, order="id").collect()
    assert merged.height == 1_000
    parts = redfloe.split_stream(cluster_url, stream, 3)
    assert sum(part.read(SCHEMA).height for part in parts) == 1_000


def test_what_is_done_to_all_shards(cluster_url: str | RedisConnection, stream: str) -> None:
    redfloe.write_stream(cluster_url, frame(), stream, shards=8, shard_by="user")
    assert redfloe.create_group(cluster_url, stream, "g")
    listed = redfloe.list_groups(cluster_url, f"{stream}:{{*}}")
    assert listed["stream"].sort().to_list() == sorted(keys_of(stream))
    assert redfloe.trim_stream(cluster_url, stream, minid="9999999999999", approximate=False) == 500
    assert redfloe.delete_stream(cluster_url, stream)
    assert redfloe.list_streams(cluster_url, f"{stream}*").is_empty()
    assert not redfloe.delete_stream(cluster_url, stream)


def test_one_transaction_has_one_slot(cluster: Cluster, stream: str) -> None:
    with pytest.raises(ValueError, match="atomic"):
        redfloe.write_stream(cluster.url, frame(), stream, shards=8, shard_by="user", atomic=True)


def test_a_worker_and_its_dead_letters(
    cluster_url: str | RedisConnection, cluster: Cluster, stream: str, world: World
) -> None:
    odd = pl.DataFrame({"user": [f"user_{n}" for n in range(41)], "n": ["x"] * 41})
    redfloe.write_stream(cluster_url, frame(), stream, shards=8, shard_by="user")
    redfloe.write_stream(cluster_url, odd, stream)
    dead = f"{stream}:dead"
    options: Any = {"group": "g", "consumer": "c", "on_idle": "stop", "block_ms": 1}
    worker = world.consumer(cluster_url, stream, SCHEMA, dead_letter=dead, **options)
    with worker:
        rows = pl.concat([batch.frame for batch in worker])
    assert_frame_equal(without_ids(rows), frame())
    letters = redfloe.read_dead_letters(cluster_url, dead)
    assert sorted(letters["user"]) == sorted(odd["user"])
    in_shards = [cluster.client(key).xlen(key) for key in keys_of(dead)]
    assert sum(in_shards) == 41
    assert [letters.filter(_dead_stream=key).height for key in keys_of(stream)] == in_shards


def test_a_dead_letter_stream_of_another_slot_is_still_refused(
    cluster: Cluster, stream: str
) -> None:
    with pytest.raises(ValueError, match="shares the slot"):
        redfloe.StreamConsumer(
            cluster.url, stream, group="g", consumer="c", dead_letter=f"{stream}:dead"
        )
