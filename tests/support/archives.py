"""Archives of numbered entries, as anybody may read them at any time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import polars as pl

import redfloe
from support.consumers import World
from support.streams import NUMBER

#: Of calls that archive what is there, and return.
NOW: dict[str, Any] = {"until": "now", "block_ms": 20}
#: The first millisecond of 27 November 2026.
DAY = 1_795_737_600_000
HOUR = 3_600_000


def archive(url: Any, to: Path, stream: Any = "s", schema: Any = NUMBER, **options: Any) -> Any:
    """Archive what is there."""
    return redfloe.archive(url, stream, schema, to=to, **(NOW | options))


def archive_in(world: World, url: Any, to: Path, **options: Any) -> Any:
    """Do the same in one of the worlds."""
    if world.runner is None:
        return archive(url, to, **options)
    return world.do(redfloe.archive_async(url, "s", NUMBER, to=to, **(NOW | options)))


def files(path: Path) -> list[str]:
    """List the files that a reader's pattern finds, in the order of their IDs."""
    found = [file.relative_to(path).as_posix() for file in path.glob("**/*.parquet")]
    return sorted(found, key=lambda name: (_first(name.rpartition("/")[2]), name))


def _first(name: str) -> tuple[int, ...]:
    return tuple(map(int, name.partition("_")[0].split("-")))


def read(path: Path) -> pl.DataFrame:
    """Read all files; each has to be whole, and no entry is there twice."""
    parts = [pl.read_parquet(path / name, hive_partitioning=True) for name in files(path)]
    frame = (
        pl.concat(parts, how="diagonal_relaxed")
        if parts
        else pl.DataFrame(schema={"_id": pl.String})
    )
    keys = [column for column in ("_stream", "_id") if column in frame.columns]
    assert frame.select(keys).is_unique().all()
    return frame


def numbers(path: Path) -> list[int]:
    """Give the numbers of all entries, in the order of the files."""
    return [] if not files(path) else read(path)["n"].to_list()


async def cancelled(doing: Any, seconds: float) -> None:
    """Cancel something after a while."""
    task = asyncio.ensure_future(doing)
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
