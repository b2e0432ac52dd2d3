"""Spark reads streams: bounded."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.types import DataType, LongType, MapType, StringType, StructField, StructType

import redfloe
from redfloe._spark.options import Options
from redfloe._spark.reading import BoundedReader
from support.certs import Certificates
from support.secrets import PASSWORD
from support.server import Server
from support.streams import add, add_numbers

NUMBERS = "_id string, _ts bigint, n bigint"


def load(
    spark: SparkSession, url: str, stream: str, schema: str | None = None, **options: Any
) -> DataFrame:
    reader = spark.read.format("redis_stream").option("url", url).option("stream", stream)
    reader = reader.options(**options)
    return (reader if schema is None else reader.schema(schema)).load()


def as_polars(frame: DataFrame) -> pl.DataFrame:
    return pl.DataFrame(frame.toArrow())


def test_a_read_is_that_of_read_stream(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1_000)
    read = load(spark, any_server.url, stream, NUMBERS, partitions=3, batchSize=100)
    assert read.rdd.getNumPartitions() == 3
    expected = redfloe.read_stream(any_server.url, stream, {"n": pl.Int64})
    assert_frame_equal(as_polars(read.orderBy("n")), expected)
    assert read.count() == 1_000


def test_payloads_by_a_descriptor(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    from google.protobuf import descriptor_pb2, source_context_pb2

    file = descriptor_pb2.FileDescriptorProto()
    source_context_pb2.DESCRIPTOR.CopyToProto(file)
    descriptor = tmp_path / "google.binpb"
    descriptor.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    message = source_context_pb2.SourceContext(file_name="a.proto")
    add(client, stream, [("1-0", {"data": message.SerializeToString()})])
    options = {"payload": "data", "payloadFormat": "protobuf"}
    named = {
        "payloadDescriptor": str(descriptor),
        "payloadMessage": type(message).DESCRIPTOR.full_name,
    }
    read = load(spark, any_server.url, stream, "file_name string", **options, **named)
    assert [row["file_name"] for row in read.collect()] == ["a.proto"]
    for given, error in [
        (options, "needs payloadDescriptor"),
        ({**named, "payload": "data"}, 'need payloadFormat "protobuf"'),
    ]:
        with pytest.raises(ValueError, match=error):
            Options.of({"url": any_server.url, "stream": stream, **given})


def test_all_types(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    entry: dict[str, str | bytes] = {
        "t": "é", "i": "-5", "f": "1.5", "b": "true", "d": "2024-01-31",
        "dt": "2024-01-31T12:30:00.123456Z", "dec": "12.34", "raw": b"\xff",
        "l": "[1,2]", "s": '{"x": "y", "z": null}',
    }  # fmt: skip
    add(client, stream, [("1-0", entry), ("2-0", {"other": "1"})])
    schema = (
        "_seq bigint, t string, i int, f double, b boolean, d date, dt timestamp, "
        "dec decimal(10, 2), raw binary, l array<int>, s struct<x: string, z: bigint>, "
        "_ts timestamp"
    )
    read = load(spark, any_server.url, stream, schema)
    first, second = read.orderBy("_ts").collect()
    assert (first["t"], first["i"], first["f"], first["b"]) == ("é", -5, 1.5, True)
    assert (str(first["d"]), str(first["dec"]), bytes(first["raw"])) == (
        "2024-01-31", "12.34", b"\xff"
    )  # fmt: skip
    assert first["dt"].isoformat() == "2024-01-31T12:30:00.123456"
    assert (first["l"], first["s"].asDict()) == ([1, 2], {"x": "y", "z": None})
    assert (second["t"], second["_seq"], second["_ts"].microsecond) == (None, 0, 2_000)


def test_an_inferred_schema(spark: SparkSession, any_server: Server, client: redis.Redis) -> None:
    add(client, "a", [("1-0", {"user": "x", "value": 1}), ("2-0", {"value": 2, "ok": "true"})])
    add(client, "b", [("3-0", {"user": "y"})])
    read = load(spark, any_server.url, "a")
    assert read.schema.simpleString() == (
        "struct<_id:string,_ts:timestamp,user:string,value:bigint,ok:boolean>"
    )
    assert read.agg(f.sum("value")).first() == (3,)
    read = load(spark, any_server.url, json.dumps(["a", "b"]))
    assert read.columns[:2] == ["_stream", "_id"]
    rows = read.orderBy("_stream", "_id").select("_stream", "user").collect()
    assert [tuple(row) for row in rows] == [
        ("a", "x"), ("a", None), ("b", "y"),
    ]  # fmt: skip


def test_offsets(spark: SparkSession, any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 100)

    def numbers(**options: Any) -> list[int]:
        read = load(spark, any_server.url, stream, "n bigint", partitions=2, **options)
        return [row.n for row in read.orderBy("n").collect()]

    assert numbers(startingOffsets="91") == [*range(91, 101)]
    assert numbers(startingOffsets="1970-01-01T00:00:00.095Z") == [*range(95, 101)]
    assert numbers(endingOffsets="3") == [1, 2, 3]
    positions = json.dumps({stream: "10-0"})
    assert numbers(startingOffsets=positions, endingOffsets="12-0") == [11, 12]
    assert numbers(startingOffsets="8", endingOffsets=positions) == [8, 9, 10]
    assert numbers(startingOffsets="200") == []


def test_filters_narrow_the_range(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1_000)
    spark.conf.set("spark.sql.python.filterPushdown.enabled", "true")
    try:
        for schema, low, high in (
            (NUMBERS, 400, 500),
            ("_id string, _ts timestamp, n bigint", datetime(1970, 1, 1, 0, 0, 0, 400_000, UTC),
             datetime(1970, 1, 1, 0, 0, 0, 500_000, UTC)),
        ):  # fmt: skip
            whole = load(spark, any_server.url, stream, schema, filterPushdown="true")
            read = whole.filter((f.col("_ts") > low) & (f.col("_ts") <= high))
            client.config_resetstat()
            assert read.agg(f.min("n"), f.max("n"), f.count("n")).first() == (401, 500, 100)
            # The task reads one page with these, and no more.
            assert client.info("stats")["total_net_output_bytes"] < 40_000
        assert whole.filter("_id = '7-0'").collect()[0].n == 7
        assert whole.filter("_id in ('7-0', '9-0')").count() == 2
        assert whole.filter("_id > '998'").count() == 2
        for text in ("99999999999999999999-0", "9" * 5_000 + "-0"):
            assert whole.filter(f"_id = '{text}'").count() == 0
    finally:
        spark.conf.unset("spark.sql.python.filterPushdown.enabled")


def test_settings_of_a_file_and_of_the_environment(
    spark: SparkSession,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are found by the driver, and shipped to the workers; a file may have more than a URL."""
    file = tmp_path / "redis.toml"
    with Server("redis-7.0", tls=certificates.server) as server, server.client() as client:
        file.write_text(f'[redis]\nurl = "{server.tls_url}"\ntls_ca = "{certificates.ca}"\n')
        add_numbers(client, "s", 3)
        reader = spark.read.format("redis_stream").schema("n int").option("stream", "s")
        reader = reader.option("settingsFile", str(file))
        assert reader.load().count() == 3
        writer = spark.range(1).write.format("redis_stream").mode("append")
        writer.options(settingsFile=str(file), stream="out").save()
        assert client.xlen("out") == 1
    with pytest.raises(Exception, match="one of the options url and settingsFile"):
        reader.options(url=server.url).load().count()
    # Spark's processes have the environment that there was when it started.
    url = "redis://elsewhere:7000"
    for prefix, options in (("REDIS_", {}), ("OTHER_", {"settingsEnv": "OTHER_"})):
        with monkeypatch.context() as environment:
            environment.setenv(f"{prefix}URL", url)
            found = Options.of({"stream": "s", **options})
        assert found.url == redfloe.RedisConnection(url)


def test_no_plan_has_the_password(
    spark: SparkSession, client: redis.Redis, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server("redis-7.0", password=PASSWORD) as server:
        with server.client() as own:
            add_numbers(own, stream, 3)
        url = server.url.replace(f":{PASSWORD}@", "")
        read = load(spark, url, stream, NUMBERS, password=PASSWORD)
        assert read.count() == 3
        read.explain(extended=True)
        plan = capsys.readouterr().out
        assert "redis_stream" in plan
        assert PASSWORD not in plan


def test_mistakes_say_what_to_do(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    for options, message in (
        ({"strem": "x"}, "strem"),
        ({"partitions": "0"}, "at least 1"),
        ({"startingOffsets": "latest"}, "cannot begin at the latest"),
        ({"maxOffsetsPerTrigger": "1"}, "no meaning"),
        ({"onError": "x"}, "on_error"),
    ):
        with pytest.raises(Exception, match=message):
            load(
                spark, any_server.url, **{"stream": stream, "schema": NUMBERS, **options}
            ).collect()
    with pytest.raises(Exception, match="_id must be string"):
        load(spark, any_server.url, stream, "_id bigint").collect()


def test_mistakes_that_need_no_spark(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 3)

    def read(kind: DataType | None = None, **options: str) -> None:
        given = Options.of({"url": any_server.url, "stream": "s", **options})
        column = StructField("x", kind or LongType(), nullable=kind is not None)
        reader = BoundedReader(given, StructType([column]))
        for part in reader.partitions():
            list(reader.read(part))

    both = json.dumps(["s", "b"])
    for options, message in (
        ({"startingOffsets": "$"}, "must be earliest, latest, an entry's ID or time"),
        ({"startingOffsets": "99999999999999999999"}, "must be earliest"),
        ({"endingOffsets": "-1"}, "must be earliest"),
        ({"startingOffsets": '{"typo": "1-0"}'}, "'typo', a stream that is not read"),
        ({"startingOffsets": '{"s": "5"}'}, "an ID, ms-seq"),
        ({"startingOffsets": '{"s": 5}'}, "an ID, ms-seq"),
        ({"stream": both, "endingOffsets": '{"s": "1-0"}'}, "no offset of 'b'"),
        ({}, "some entries have no x"),
    ):
        with pytest.raises(ValueError, match=message):
            read(**options)
    with pytest.raises(ValueError, match="x has the type map<string,bigint>: read it as string"):
        read(MapType(StringType(), LongType()))
