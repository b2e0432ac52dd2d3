"""Drivers of Spark that are killed, and what a query shows of itself."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import redis
from pyspark.sql import SparkSession

import redfloe
from support.processes import python
from support.proxy import Proxy
from support.server import Server
from support.spark import copying, finish, kill_all
from support.streams import add_numbers
from support.timing import SLACK

DRIVER = f"""
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.spark import copying, start_spark
copying(start_spark(), *sys.argv[1:]).awaitTermination()
"""


@pytest.mark.timeout(200)
def test_two_drivers_killed(
    spark: SparkSession, any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """One in the middle of a commit, one between a commit and Spark's note of it."""
    add_numbers(client, "in", 5_000)
    for entries in (1_000, 3_000):
        with (
            Proxy(any_server.port) as proxy,
            python(DRIVER, any_server.url, proxy.url, str(tmp_path)) as driver,
        ):
            tree = psutil.Process(driver.pid)

            def kill(_: int, tree: psutil.Process = tree, entries: int = entries) -> None:
                if client.xlen("out") >= entries:
                    kill_all(tree)

            proxy.before(b"EVAL", kill)
            assert driver.wait(90 * SLACK) < 0, driver.communicate()[1][-5_000:]
        assert entries <= client.xlen("out") <= 3_000
        assert not [*(tmp_path / "commits").glob("[0-9]*")]
    finish(copying(spark, any_server.url, any_server.url, str(tmp_path)))
    written = redfloe.read_stream(any_server.url, "out", {"n": int})["n"]
    assert written.sort().to_list() == [*range(1, 5_001)]
