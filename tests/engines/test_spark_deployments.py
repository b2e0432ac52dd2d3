"""Spark reads from and writes to clusters, and servers that sentinels know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

import redfloe
from support.cluster import Cluster
from support.spark import copying, finish


@pytest.mark.timeout(120)
@pytest.mark.parametrize("deployment", ["cluster", "sentinels"])
def test_streams_elsewhere(
    spark: SparkSession, deployment: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url: Any = request.getfixturevalue(deployment).url
    streams = ["in", "b", "c", "d"]  # in a cluster of three nodes
    for stream in streams:
        redfloe.write_stream(url, pl.DataFrame({"n": range(1_000)}), stream)
    read = spark.read.format("redis_stream").schema("_stream string, n bigint")
    read = read.options(url=url, stream=json.dumps(streams), partitions=3)
    sums = read.load().groupBy("_stream").agg(f.sum("n")).collect()
    assert sorted(sums) == [(stream, 499_500) for stream in sorted(streams)]
    finish(copying(spark, url, url, str(tmp_path)))
    assert sorted(redfloe.read_stream(url, "out", {"n": int})["n"]) == [*range(1_000)]


@pytest.mark.timeout(120)
def test_a_sharded_stream_is_read_by_its_name(
    spark: SparkSession, cluster: Cluster, tmp_path: Path
) -> None:
    """All at once, and as a query that goes on where its checkpoint is."""
    numbers = pl.DataFrame({"n": range(1_000)})
    redfloe.write_stream(cluster.url, numbers, "in", shards=8, shard_by="n")
    read = spark.read.format("redis_stream").schema("n bigint")
    rows = read.options(url=cluster.url, stream="in", partitions=3).load().collect()
    assert sorted(row.n for row in rows) == [*range(1_000)]
    finish(copying(spark, cluster.url, cluster.url, str(tmp_path)))
    redfloe.write_stream(cluster.url, numbers.with_columns(pl.col("n") + 1_000), "in")
    finish(copying(spark, cluster.url, cluster.url, str(tmp_path)))
    assert sorted(redfloe.read_stream(cluster.url, "out", {"n": int})["n"]) == [*range(2_000)]
