"""Spark's data source: a bounded read beside redis-py's rows, and streams at a fixed rate.

``python benches/spark.py PORT SECONDS`` adds entries at that rate, in a process of its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from workloads import Workload

    from support.server import Server

SCHEMA = "_id string, user string, action string, amount bigint, score double, valid boolean"
PER_SECOND = 20_000
#: How often the writer adds entries, and the lag is looked at.
TICK, LOOK = 0.02, 0.5
#: Of a JVM that reads a million rows.
SETTINGS = {
    "spark.driver.memory": "4g",
    "spark.driver.extraJavaOptions": "-XX:+UseParallelGC",
    "spark.ui.showConsoleProgress": "false",
}


def start() -> SparkSession:
    """Start Spark."""
    from support.spark import start_spark

    return start_spark(SETTINGS)


def by_source(spark: SparkSession, server: Server, workload: Workload) -> DataFrame:
    """Read by the data source."""
    source = spark.read.format("redis_stream").schema(SCHEMA)
    return source.options(url=server.url, stream=workload.stream).load()


def by_rows(spark: SparkSession, server: Server, workload: Workload) -> DataFrame:
    """Read by redis-py, and give its rows to Spark, as one does without a data source."""
    rows: list[tuple[Any, ...]] = []
    start = "-"
    with server.client(decode_responses=True) as client:
        while page := client.xrange(workload.stream, start, "+", count=10_000):
            rows += [
                (
                    entry,
                    fields["user"],
                    fields["action"],
                    int(fields["amount"]),
                    float(fields["score"]),
                    fields["valid"] == "true",
                )
                for entry, fields in page
            ]
            start = f"({page[-1][0]}"
    return spark.createDataFrame(rows, SCHEMA)


READERS = {
    "Spark, `createDataFrame` of redis-py[hiredis]'s rows": by_rows,
    "Spark, `redis_stream`": by_source,
}


def read(spark: SparkSession, server: Server, workload: Workload, name: str) -> float:
    """Give how long Spark takes to have all rows, and to do nothing with them."""
    begin = time.monotonic()
    frame = READERS[name](spark, server, workload)
    frame.write.format("noop").mode("overwrite").save()
    return time.monotonic() - begin


def write(port: int, seconds: float) -> None:
    """Add entries at a steady rate."""
    import redis

    client = redis.Redis(port=port)
    number, begin = 0, time.monotonic()
    while number < seconds * PER_SECOND:
        pipeline = client.pipeline(transaction=False)
        for _ in range(int(PER_SECOND * TICK)):
            fields: dict[Any, Any] = {"user": f"user_{number}", "action": "click", "amount": number}
            pipeline.xadd("live", fields)
            number += 1
        pipeline.execute()
        time.sleep(max(begin + number / PER_SECOND - time.monotonic(), 0))


def follow(spark: SparkSession, server: Server, seconds: float, sink: str) -> dict[str, float]:
    """Run a query while entries come at a steady rate; give how far it is behind, in seconds."""
    with server.client(decode_responses=True) as client, tempfile.TemporaryDirectory() as directory:
        client.flushall()
        source = spark.readStream.format("redis_stream")
        source = source.schema("user string, action string, amount bigint")
        source = source.options(url=server.url, stream="live", startingOffsets="earliest")
        writer = source.load().writeStream.format(sink)
        if sink == "redis_stream":
            writer = writer.options(url=server.url, stream="copy")
        query = writer.option("checkpointLocation", directory).start()
        command = [sys.executable, __file__, str(server.port), str(seconds)]
        behind: list[float] = []
        try:
            # The first batches start workers.
            client.xadd("live", {"user": "first"})
            while not any(one.numInputRows for one in query.recentProgress):
                time.sleep(0.1)
            with subprocess.Popen(command) as adding:
                while adding.poll() is None:
                    time.sleep(LOOK)
                    newest = client.xrevrange("live", count=1)[0][0]
                    assert query.lastProgress is not None
                    end = json.loads(str(query.lastProgress.sources[0].endOffset))["live"]
                    behind.append((_ms(newest) - _ms(end)) / 1000)
            assert adding.returncode == 0
            added = client.xlen("live")
            query.processAllAvailable()
            assert sink != "redis_stream" or client.xlen("copy") == added
        finally:
            query.stop()
        half = len(behind) // 2
        return {
            "rate": (added - 1) / seconds,
            "median": statistics.median(behind),
            "first": max(behind[:half]),
            "second": max(behind[half:]),
        }


def _ms(entry: str) -> int:
    return int(entry.partition("-")[0])


if __name__ == "__main__":
    write(int(sys.argv[1]), float(sys.argv[2]))
