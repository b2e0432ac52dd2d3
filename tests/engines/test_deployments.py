"""Ray Data and Daft read from and write to clusters, and servers that sentinels know."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import redfloe
from support.engines import Engine

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),  # of its own
    pytest.mark.timeout(120),  # the first starts Ray
]


@pytest.mark.parametrize("deployment", ["cluster", "sentinels"])
def test_streams_elsewhere(engine: Engine, deployment: str, request: pytest.FixtureRequest) -> None:
    url: Any = request.getfixturevalue(deployment).url
    streams = ["in", "b", "c", "d"]  # in a cluster of three nodes
    for stream in streams:
        redfloe.write_stream(url, pl.DataFrame({"n": range(1_000)}), stream)
    options: dict[str, Any] = {engine.parts: 3, "include_id": False, "include_timestamp": False}
    dataset = engine.module.read_stream(url, streams, {"n": pl.Int64}, **options)
    rows = engine.frame(dataset)
    for stream in streams:
        assert sorted(rows.filter(_stream=stream)["n"]) == [*range(1_000)]
    engine.module.write_stream(engine.of(rows.select("n")), url, "out")
    assert sorted(redfloe.read_stream(url, "out", {"n": int})["n"]) == sorted([*range(1_000)] * 4)
    redfloe.write_stream(url, pl.DataFrame({"n": range(1_000)}), "many", shards=8, shard_by="n")
    rows = engine.frame(engine.module.read_stream(url, "many", {"n": pl.Int64}, **options))
    assert sorted(rows["n"]) == [*range(1_000)]
