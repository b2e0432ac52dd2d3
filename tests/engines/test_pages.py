"""The pages about engines run as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from pyspark.sql import SparkSession

from support.pages import ENGINES, page_id, run_page


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
