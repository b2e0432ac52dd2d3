"""Spark writes streams: bounded, and continuously, each batch once."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

import redfloe
from support.server import Server
from support.streams import add_numbers


def numbers(url: str, stream: str) -> list[int]:
    return sorted(redfloe.read_stream(url, stream, {"n": int})["n"])


def test_a_bounded_write(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = spark.range(2_500).selectExpr("id as n", "cast(id as string) as text").repartition(3)
    frame.write.format("redis_stream").options(url=any_server.url, stream=stream).mode(
        "append"
    ).save()
    schema = {"n": int, "text": str}
    written = redfloe.read_stream(any_server.url, stream, schema).sort("n")
    assert written["n"].to_list() == [*range(2_500)]
    assert written["text"].to_list() == [str(n) for n in range(2_500)]


def test_a_bounded_write_that_fails_writes_nothing(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = spark.range(100, numPartitions=2).selectExpr("if(id = 99, raise_error('no'), id) as n")
    with pytest.raises(Exception, match="no"):
        frame.write.format("redis_stream").options(url=any_server.url, stream=stream).mode(
            "append"
        ).save()
    assert client.exists(stream) == 0
    with pytest.raises(Exception, match="append"):
        frame.write.format("redis_stream").options(url=any_server.url, stream=stream).mode(
            "overwrite"
        ).save()


class Copy:
    """A query that copies a stream, and may be run again with its checkpoint."""

    def __init__(self, spark: SparkSession, url: str, path: Path) -> None:
        self._spark, self._url, self._path = spark, url, path

    def start(self) -> StreamingQuery:
        source = self._spark.readStream.format("redis_stream").schema("n bigint")
        source = source.options(
            url=self._url, stream="in", startingOffsets="earliest", maxOffsetsPerTrigger="1500"
        )
        sink = source.load().writeStream.format("redis_stream").trigger(availableNow=True)
        return sink.options(url=self._url, stream="out", checkpointLocation=str(self._path)).start()

    def run(self) -> None:
        query = self.start()
        try:
            assert query.awaitTermination(100)
        finally:
            query.stop()


@pytest.mark.timeout(200)
def test_a_batch_that_is_repeated_is_in_the_stream_once(
    spark: SparkSession, any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Spark loses its notes of the last batch, as where the driver dies between two of them."""
    add_numbers(client, "in", 3_000)
    copy = Copy(spark, any_server.url, tmp_path)
    copy.run()
    assert numbers(any_server.url, "out") == [*range(1, 3_001)]
    commits = tmp_path / "commits"
    last = max(int(path.name) for path in commits.iterdir() if path.name.isdigit())
    (commits / str(last)).unlink()
    (commits / f".{last}.crc").unlink(missing_ok=True)
    copy.run()
    assert numbers(any_server.url, "out") == [*range(1, 3_001)]
