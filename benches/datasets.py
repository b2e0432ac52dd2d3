"""Ray Data, Daft and archives beside one process that reads the same entries."""

from __future__ import annotations

import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias

import redfloe

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads import Workload

    from support.server import Server

    Reader: TypeAlias = Callable[[Server, Workload], int]


def one_process(server: Server, workload: Workload) -> int:
    """Read all into a frame."""
    frame = redfloe.read_stream(server.url, workload.stream, workload.schema)
    return frame.height


def by_ray(server: Server, workload: Workload) -> int:
    """Have all in Ray's object store."""
    from redfloe import ray

    dataset = ray.read_stream(server.url, workload.stream, workload.schema)
    rows: int = dataset.materialize().count()
    return rows


def by_daft(server: Server, workload: Workload) -> int:
    """Have all in Daft's memory."""
    from redfloe import daft

    frame = daft.read_stream(server.url, workload.stream, workload.schema).collect()
    rows: int = frame.count_rows()
    return rows


def by_archive(format: Literal["parquet", "delta"]) -> Reader:  # noqa: A002 -- as `archive` says
    """Have all on the disk, in a new archive."""

    def read(server: Server, workload: Workload) -> int:
        with TemporaryDirectory() as lake:
            result = redfloe.archive(
                server.url,
                workload.stream,
                workload.schema,
                to=lake,
                format=format,
                until="now",
                block_ms=1,
            )
        return result.entries

    return read


ONE = "`redfloe.read_stream`, one process"
RAY: dict[str, Reader] = {ONE: one_process, "Ray Data, `redfloe.ray.read_stream`": by_ray}
DAFT: dict[str, Reader] = {ONE: one_process, "Daft, `redfloe.daft.read_stream`": by_daft}
ARCHIVE: dict[str, Reader] = {
    ONE: one_process,
    "`redfloe.archive` to Parquet": by_archive("parquet"),
    "`redfloe.archive` to Delta Lake": by_archive("delta"),
}


def read(reader: Reader, server: Server, workload: Workload) -> float:
    """Give how long it takes until all rows are there."""
    begin = time.monotonic()
    assert reader(server, workload) == workload.entries
    return time.monotonic() - begin
