"""Archives of streams on a cluster's nodes, and on a server that sentinels know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from redfloe import scan_archive_and_stream, write_stream
from support.archives import archive
from support.cluster import Cluster
from support.sentinel import Deployment
from support.streams import NUMBER, add_numbers


def numbers(url: Any, to: Path, streams: list[str]) -> dict[str, list[int]]:
    """Give what the archive and the streams have, and see that each entry comes once."""
    frame = scan_archive_and_stream(url, streams, NUMBER, to=to).collect()
    return {stream: frame.filter(_stream=stream)["n"].to_list() for stream in streams}


def test_streams_of_several_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Also once another node serves one of them."""
    keys = cluster.key_of_each()
    for key in keys:
        add_numbers(cluster.client(key), key, 20)
    assert archive(cluster.url, tmp_path, keys, max_rows=15).entries == 60
    cluster.fail_over(keys[0])
    more = pl.DataFrame({"id": [f"{n}-0" for n in range(21, 31)], "n": range(21, 31)})
    for key in keys:
        write_stream(cluster.url, more, key, id_column="id")
    assert numbers(cluster.url, tmp_path, keys) == {key: [*range(1, 31)] for key in keys}
    result = archive(cluster.url, tmp_path, keys, trim_after="1s")
    assert result.entries == 30
    assert numbers(cluster.url, tmp_path, keys) == {key: [*range(1, 31)] for key in keys}


def test_a_server_that_sentinels_know(sentinels: Deployment, tmp_path: Path) -> None:
    add_numbers(sentinels.master.client(), "s", 20)
    assert archive(sentinels.url, tmp_path, "s").entries == 20
    sentinels.replicated()
    sentinels.fail_over()
    add_numbers(sentinels.master.client(), "s", 30, first=21)
    assert archive(sentinels.url, tmp_path, "s").entries == 10
    frame = scan_archive_and_stream(sentinels.url, "s", NUMBER, to=tmp_path).collect()
    assert frame["n"].to_list() == [*range(1, 31)]
