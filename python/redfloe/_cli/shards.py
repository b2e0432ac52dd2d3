"""Sharded streams: what a command is asked of the name it asks of the shards."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

from redfloe._cli.options import Name, missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import polars as pl

    from redfloe import RedisConnection

#: The column of the key of each entry's shard, called as no field is likely to be.
SHARD = "__redfloe_shard"
#: How often what has come to shards is looked for, in seconds.
_LOOK = 0.3


def streams_of(server: RedisConnection, stream: str) -> list[Any]:
    """Give the key of a stream that there is; of a sharded one the keys of its shards.

    Raises
    ------
    NoStreamError, WrongTypeError
        There is no such stream.
    """
    import redfloe

    try:
        if redfloe.stream_info(server, stream).is_empty():
            raise missing(stream)
    except redfloe.WrongTypeError:
        shards = shards_of(server, stream)
        if not shards:
            raise
        return shards
    return [stream]


def shards_of(server: RedisConnection, stream: str) -> list[Any]:
    """Give the keys of the shards, if it is the name of a sharded stream."""
    from redfloe._reading import shards

    return [*shards.shards_of(server, stream)]


def refuse_name(stream: str, shards_: list[Any]) -> None:
    """Refuse the name of a sharded stream before anything is asked or done."""
    from redfloe._reading import shards

    shards.refuse_name(stream, shards_)


def pattern_of(server: RedisConnection, pattern: Any) -> Any:
    """Give the pattern that the shards have, where a pattern is a sharded stream's name."""
    if pattern == "*" or not shards_of(server, pattern):
        return pattern
    if isinstance(pattern, Name):
        return Name(re.sub(rb"[*?\[\]\\]", rb"\\\g<0>", pattern) + b":{*}")
    return re.sub(r"[*?\[\]\\]", r"\\\g<0>", pattern) + ":{*}"


def up_to(frame: pl.DataFrame, offsets: Mapping[str, str], id_column: str) -> pl.DataFrame:
    """Leave out the entries after the offsets of their shards, and the column of these."""
    ids, shards = frame[id_column], frame[SHARD]
    kept = [
        _numbers(entry_id) <= _numbers(offsets.get(shard, "0-0"))
        for entry_id, shard in zip(ids, shards, strict=True)
    ]
    return frame.filter(kept).drop(SHARD) if kept else frame.drop(SHARD)


def _numbers(entry_id: str) -> tuple[int, ...]:
    return tuple(map(int, entry_id.split("-")))


def following(
    server: RedisConnection, stream: str, offsets: Mapping[str, str], options: dict[str, Any]
) -> Iterator[pl.DataFrame]:
    """Give what comes to the shards after these offsets, each entry once, without an end."""
    import redfloe

    while True:
        reached = redfloe.stream_offsets(server, stream)
        for part in redfloe.split_stream(server, stream, 1, after=offsets, up_to=reached):
            frame = part.read(**options, order="id", include_stream=False)
            if frame.height:
                yield frame
        offsets = reached
        time.sleep(_LOOK)
