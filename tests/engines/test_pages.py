"""The pages about engines run as they are shown, and so do the examples of their modules."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import ray
import redis
from pyspark.sql import SparkSession

from support.docstrings import add_events, docstrings, run_examples
from support.pages import ENGINES, page_id, run_page
from support.server import Server

EXAMPLES = list(docstrings(of_engines=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("test", EXAMPLES, ids=[test.name for test in EXAMPLES])
def test_examples_in_docstrings(
    test: doctest.DocTest,
    any_server: Server,
    client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    add_events(client)
    run_examples(test, any_server.url)


@pytest.mark.timeout(180)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")
@pytest.mark.usefixtures("server_program")
@pytest.mark.parametrize("page", ENGINES, ids=page_id)
def test_a_page(
    page: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    spark = request.getfixturevalue(ENGINES[page])
    # There is one of each in a process, which the page is given as well, and other tests need.
    monkeypatch.setattr(SparkSession, "stop", lambda self: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)
    try:
        run_page(page, "", {})
    finally:
        if isinstance(spark, SparkSession):
            spark.conf.unset("spark.sql.python.filterPushdown.enabled")
