"""The pages about engines run as they are shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from support.pages import ENGINES, page_id, run_page


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("server_program")
@pytest.mark.parametrize("page", ENGINES, ids=page_id)
def test_a_page(
    page: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # There is one Spark in a process, which the page's builder gives as well, and other tests need.
    monkeypatch.setattr(SparkSession, "stop", lambda self: None)
    monkeypatch.chdir(tmp_path)
    try:
        run_page(page, "", {})
    finally:
        spark.conf.unset("spark.sql.python.filterPushdown.enabled")
