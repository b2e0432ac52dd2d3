"""Engines, started once for all tests: that takes as long as twenty of them."""

from __future__ import annotations

from collections.abc import Iterator

import daft
import pytest
from pyspark.sql import SparkSession

from support.buckets import bucket
from support.engines import ENGINES, Engine, running_ray
from support.pages import ENGINES as PAGES
from support.spark import start_spark


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have one process run all tests of Spark, and another those of the rest."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        needed = [*getattr(item, "fixturenames", [])]
        if "page" in parameters:
            needed.append(PAGES[parameters["page"]])
        item.add_marker(pytest.mark.xdist_group("spark" if "spark" in needed else "others"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = start_spark()
    yield session
    session.stop()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    with running_ray():
        yield


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What pages call ``s3://bucket``, as who has set up his machine for a store reaches it."""
    with bucket("bucket") as options:
        for name, value in options.items():
            monkeypatch.setenv(name.upper(), value)
        yield


@pytest.fixture(scope="session", autouse=True)
def _daft() -> None:
    """Have Daft not run on Ray, which it does where there is one in the process."""
    daft.set_runner_native()


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Ray Data and Daft."""
    if request.param == "ray":
        request.getfixturevalue("ray_cluster")
    return ENGINES[request.param]
