"""One Spark for all tests: to start the JVM takes as long as twenty of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

import redfloe
from redfloe.spark import RedisStreamSource

#: Two cores, no web server, few partitions after a shuffle, and patience where the machine is busy.
SETTINGS = {
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "2",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.session.timeZone": "UTC",
    "spark.network.timeout": "300s",
    "spark.python.authenticate.socketTimeout": "120s",
}


@pytest.fixture(scope="session")
def workers() -> None:
    """Have engines start the same Python for their workers, with the package that is tested."""
    package = str(Path(redfloe.__file__).parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="session")
def spark(workers: None) -> Iterator[SparkSession]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    builder = SparkSession.builder.master("local[2]").appName("redfloe")
    for name, value in SETTINGS.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    session.dataSource.register(RedisStreamSource)
    yield session
    session.stop()
