"""Spark writes streams: bounded, and continuously, each batch once."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import (
    ArrayType,
    DataType,
    LongType,
    MapType,
    StringType,
    StructField,
    StructType,
    VariantType,
    YearMonthIntervalType,
)

import redfloe
from redfloe._spark.options import Options
from redfloe._spark.writing import StreamWriter
from support.proxy import Proxy
from support.server import Server
from support.spark import copying, finish, task_workers
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


def test_a_batch_that_is_repeated_is_in_the_stream_once(
    spark: SparkSession, any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Spark loses its notes of the last batch, as where the driver dies between two of them.

    It repeats the batch in other partitions.
    """
    add_numbers(client, "in", 4_000)
    finish(copying(spark, any_server.url, any_server.url, str(tmp_path)))
    assert numbers(any_server.url, "out") == [*range(1, 4_001)]
    commits = tmp_path / "commits"
    assert [path.name for path in commits.glob("[0-9]*")] == ["0", "1"]
    (commits / "1").unlink()
    (commits / ".1.crc").unlink(missing_ok=True)
    finish(copying(spark, any_server.url, any_server.url, str(tmp_path), partitions=3))
    assert numbers(any_server.url, "out") == [*range(1, 4_001)]
    # Nothing is left but the streams and the query's marker.
    assert len(client.keys()) == 3


@pytest.mark.timeout(120)
def test_workers_killed_in_the_middle_of_a_batch(
    spark: SparkSession, any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Spark runs their tasks again, and what they had written aside is never seen."""
    add_numbers(client, "in", 4_000)
    killed: list[int] = []

    def kill(nth: int) -> None:
        if nth in (500, 4_500):
            for worker in task_workers():
                worker.kill()
                killed.append(worker.pid)

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", kill)
        finish(copying(spark, any_server.url, proxy.url, str(tmp_path)))
    assert len(killed) >= 2
    assert numbers(any_server.url, "out") == [*range(1, 4_001)]
    assert sum(client.pttl(key) > 0 for key in client.keys("*:spark:*")) >= 1


def test_without_the_name_of_the_batch_nothing_is_written(any_server: Server) -> None:
    """Another version of Spark may not tell it."""
    options = Options.of({"url": any_server.url, "stream": "out"})
    writer = StreamWriter(options, StructType([StructField("n", LongType())]))
    with pytest.raises(RuntimeError, match="foreachBatch"):
        writer.write(iter([]))


def test_mistakes_in_writes(spark: SparkSession, any_server: Server, tmp_path: Path) -> None:
    def write(frame: DataFrame, **options: str) -> None:
        writer = frame.write.format("redis_stream").mode("append")
        writer.options(**{"url": any_server.url, "stream": "out", **options}).save()

    with pytest.raises(Exception, match="no meaning"):
        write(spark.range(1), partitions="2")
    with pytest.raises(Exception, match="_ts is no field: drop"):
        write(spark.range(1).withColumnRenamed("id", "_ts"))
    complete = spark.readStream.format("rate").load().groupBy().count()
    sink = complete.writeStream.format("redis_stream").outputMode("complete")
    sink = sink.options(url=any_server.url, stream="out", checkpointLocation=str(tmp_path))
    with pytest.raises(Exception, match='use the mode "append"'):
        finish(sink.start())
    with pytest.raises(Exception, match="one stream"):
        write(spark.range(1), stream='["a", "b"]')
    wide = StructType([StructField(f"c{n}", LongType()) for n in range(3_501)])
    with pytest.raises(ValueError, match="3,500 fields"):
        StreamWriter(Options.of({"url": any_server.url, "stream": "out"}), wide)
    nested = ArrayType(StructType([StructField("m", MapType(StringType(), LongType()))]))
    kinds: list[DataType] = [VariantType(), YearMonthIntervalType(), nested]
    for kind in kinds:  # before anything is computed
        schema = StructType([StructField("c", kind)])
        with pytest.raises(ValueError, match=r"the column c has the type .*: write it"):
            StreamWriter(Options.of({"url": any_server.url, "stream": "out"}), schema)


def test_rows_without_a_value(spark: SparkSession, any_server: Server, stream: str) -> None:
    """One of them would fail a query for ever."""
    frame = spark.range(3).selectExpr("nullif(id, 1) as n")
    for empty in ("raise", "skip"):
        writer = frame.write.format("redis_stream").mode("append")
        writer = writer.options(url=any_server.url, stream=stream, onEmptyRow=empty)
        if empty == "raise":
            with pytest.raises(Exception, match="no field has a value"):
                writer.save()
        else:
            writer.save()
    assert numbers(any_server.url, stream) == [0, 2]
