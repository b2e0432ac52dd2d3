"""Spark for tests, in their own process and in drivers that are killed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
from pyspark.sql import SparkSession
from pyspark.sql.streaming.query import StreamingQuery

import redfloe
from redfloe.spark import RedisStreamSource
from support.timing import SLACK

#: Two cores, where a task may fail, no web server, few partitions after a shuffle, and patience
#: where the machine is busy.
SETTINGS = {
    "spark.master": "local[2,3]",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.network.timeout": "300s",
    "spark.python.authenticate.socketTimeout": "120s",
    "spark.python.daemon.module": "support.spark_daemon",
    # What a JVM that lives for seconds compiles at its best is not worth the time.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
}


def start_spark(settings: Mapping[str, str] = MappingProxyType({})) -> SparkSession:
    """Start the process's Spark, with these settings beside those of tests.

    Its workers are of the same Python, with the same package.
    """
    paths = [Path(redfloe.__file__).parents[1], Path(__file__).parents[1]]
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = SparkSession.builder
    for name, value in {**SETTINGS, **settings}.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    session.dataSource.register(RedisStreamSource)
    return session


def copying(
    spark: SparkSession, url: str, sink_url: str, checkpoint: str, partitions: int = 2
) -> StreamingQuery:
    """Copy the numbers of the stream `in` that are there now to `out`, 3,000 in a batch."""
    source = spark.readStream.format("redis_stream").schema("n bigint")
    source = source.options(
        url=url, stream="in", startingOffsets="earliest", maxOffsetsPerTrigger="3000",
        partitions=partitions,
    )  # fmt: skip
    sink = source.load().writeStream.format("redis_stream").trigger(availableNow=True)
    return sink.options(url=sink_url, stream="out", checkpointLocation=checkpoint).start()


def finish(query: StreamingQuery) -> None:
    """Wait for the end of a query that has one."""
    try:
        assert query.awaitTermination(int(60 * SLACK))
    finally:
        query.stop()


def task_workers() -> list[psutil.Process]:
    """List the Python processes that carry out tasks of this process's Spark."""
    return [
        child
        for parent in psutil.Process().children(recursive=True)
        if _runs_tasks(parent)
        for child in parent.children()
        if _runs_tasks(child)
    ]


def _runs_tasks(process: psutil.Process) -> bool:
    try:
        return process.cmdline()[-1:] == ["pyspark.worker"]
    except psutil.NoSuchProcess:
        return False


def kill_all(driver: psutil.Process) -> None:
    """Kill a driver at once, with its JVM and its workers."""
    for process in [driver, *driver.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
