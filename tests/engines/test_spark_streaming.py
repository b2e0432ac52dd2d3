"""Spark reads streams: continuously."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import redis
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f
from pyspark.sql.streaming.query import StreamingQuery

from support.secrets import PASSWORD, QUOTED, with_password
from support.server import Server
from support.spark import finish
from support.streams import add, add_numbers
from support.timing import eventually

NUMBERS = "_id string, _ts timestamp, n bigint"


class Job:
    """A query that keeps each batch's numbers, and may be run again with its checkpoint."""

    def __init__(self, spark: SparkSession, url: str, stream: str, path: Path) -> None:
        self._spark, self._url, self._stream, self._path = spark, url, stream, path
        self.batches: dict[int, list[int]] = {}

    def run(self, **options: Any) -> StreamingQuery:
        source = self._spark.readStream.format("redis_stream").schema(NUMBERS)
        source = source.option("url", self._url).option("stream", self._stream)

        def keep(batch: DataFrame, number: int) -> None:
            self.batches[number] = sorted(row.n for row in batch.collect())

        return (
            source.options(**{"startingOffsets": "earliest", "partitions": "2", **options})
            .load()
            .writeStream.foreachBatch(keep)
            .option("checkpointLocation", str(self._path))
            .trigger(availableNow=True)
            .start()
        )

    def finish(self, **options: Any) -> list[int]:
        finish(self.run(**options))
        return sorted(n for batch in self.batches.values() for n in batch)


@pytest.fixture
def job(spark: SparkSession, any_server: Server, stream: str, tmp_path: Path) -> Job:
    return Job(spark, any_server.url, stream, tmp_path / "checkpoint")


def test_what_is_there_and_then_what_is_new(job: Job, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 1_000)
    assert job.finish(maxOffsetsPerTrigger="300") == [*range(1, 1_001)]
    assert [len(batch) for batch in job.batches.values()] == [300, 300, 300, 100]
    # From the checkpoint, without what was read.
    job.batches.clear()
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(1_001, 1_051)])
    assert job.finish() == [*range(1_001, 1_051)]


def test_a_stream_under_load(
    job: Job, any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Each entry is read once, though others are added all the time."""
    stop = threading.Event()
    added: list[int] = []

    def write() -> None:
        with any_server.client() as own:
            while not stop.wait(0.002):
                own.xadd(stream, {"n": len(added) + 1})
                added.append(len(added) + 1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        first = job.finish(maxOffsetsPerTrigger="500")
    finally:
        stop.set()
        thread.join()
    assert first == [*range(1, len(first) + 1)]
    assert job.finish() == added


def test_mistakes_in_a_query_are_what_it_fails_with(job: Job) -> None:
    """Spark 4.3 has an error of its own where a reader cannot be made."""
    for options, message in (
        ({"startingOffsets": '{"typo": "1-0"}'}, "ValueError: .*'typo', a stream that is not read"),
        ({"endingOffsets": "5"}, "ValueError: the option endingOffsets has no meaning here"),
    ):
        with pytest.raises(Exception, match=message) as raised:
            job.finish(**options)
        assert "UnboundLocalError" not in str(raised.value)


def test_trimmed_entries_fail_the_query(job: Job, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 10)
    assert job.finish() == [*range(1, 11)]
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(11, 21)])
    client.xtrim(stream, maxlen=5, approximate=False)
    with pytest.raises(Exception, match="trimmed past 10-0"):
        job.finish()
    assert job.finish(failOnDataLoss="false") == [*range(1, 11), *range(16, 21)]


def test_a_windowed_aggregation_with_a_watermark(
    spark: SparkSession, any_server: Server, client: redis.Redis, stream: str, tmp_path: Path
) -> None:
    add(client, stream, [(f"{ms}-0", {"n": 1}) for ms in range(1, 60_000, 100)])
    source = spark.readStream.format("redis_stream").schema(NUMBERS)
    source = source.option("url", any_server.url).option("stream", stream)
    source = source.options(startingOffsets="earliest", maxOffsetsPerTrigger="250")
    counts = (
        source.load()
        .withWatermark("_ts", "1 second")
        .groupBy(f.window("_ts", "10 seconds"))
        .agg(f.sum("n").alias("n"))
        .select(f.col("window.start").cast("long").alias("start"), "n")
    )
    found: list[tuple[int, int]] = []

    def keep(batch: DataFrame, number: int) -> None:
        found.extend((row.start, row.n) for row in batch.collect())

    query = (
        counts.writeStream.outputMode("append")
        .foreachBatch(keep)
        .option("checkpointLocation", str(tmp_path / "checkpoint"))
        .trigger(availableNow=True)
        .start()
    )
    finish(query)
    # The last window is still open.
    assert sorted(found) == [(start, 100) for start in (0, 10, 20, 30, 40)]


def test_a_query_that_goes_on_shows_no_password(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither in its plan nor its progress nor its checkpoint; and it reads what is new."""
    with Server("redis-7.0", password=PASSWORD) as server, server.client() as client:
        url = with_password(server.url.replace(f":{PASSWORD}@", ""))
        add_numbers(client, "in", 10)
        source = spark.readStream.format("redis_stream").schema("n bigint")
        read = source.options(url=url, stream="in").load()
        sink = read.writeStream.format("redis_stream")
        query = sink.options(url=url, stream="out", checkpointLocation=str(tmp_path)).start()
        try:
            eventually(lambda: query.lastProgress, seconds=30)
            add_numbers(client, "in", 20, first=11)
            eventually(lambda: client.xlen("out") == 10, seconds=30)
            eventually(lambda: any(one.numInputRows for one in query.recentProgress), seconds=30)
            query.explain(extended=True)
            shown = [one.json for one in query.recentProgress]
        finally:
            query.stop()
        shown += [str(query.status), repr(read), capsys.readouterr().out]
        bounded = spark.read.format("redis_stream").options(url=url, stream="in").load()
        shown += [*bounded.inputFiles(), repr(bounded)]
        shown += [path.read_text("latin1") for path in tmp_path.rglob("*") if path.is_file()]
        with pytest.raises(Exception, match="no meaning") as raised:
            spark.read.format("redis_stream").options(
                url=url, stream="in", maxOffsetsPerTrigger="1"
            ).load().count()
        shown.append(str(raised.value))
        assert '{"in":"20-0"}' in "".join(shown).replace("\\", "").replace(" ", "")
        for text in shown:
            assert PASSWORD not in text
            assert QUOTED not in text
