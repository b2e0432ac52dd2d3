"""Sharded streams: what a command is asked of the name it asks of the shards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from redfloe._cli.options import Name, missing

if TYPE_CHECKING:
    from redfloe import RedisConnection


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


def pattern_of(server: RedisConnection, pattern: Any) -> Any:
    """Give the pattern that the shards have, where a pattern is a sharded stream's name."""
    if pattern == "*" or not shards_of(server, pattern):
        return pattern
    if isinstance(pattern, Name):
        return Name(re.sub(rb"[*?\[\]\\]", rb"\\\g<0>", pattern) + b":{*}")
    return re.sub(r"[*?\[\]\\]", r"\\\g<0>", pattern) + ":{*}"
