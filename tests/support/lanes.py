"""Lanes of processors as they are in Redis, put there by hand."""

from __future__ import annotations

import time
from typing import Any

import redis

from redfloe import table_key

Name = str | bytes


def lane_key(stream: Name, name: Name, group: Name | None = None, consumer: Name = "") -> bytes:
    """Give the key of a lane, by that of a table."""
    prefix = table_key(stream, name, "").removesuffix(b":table:")
    if group is None:
        return prefix
    parts = [table_key("s", "p", part).partition(b":table:")[2] for part in (group, consumer)]
    return b":".join([prefix, b"group", *parts])


def put_lane(
    client: redis.Redis,
    stream: Name,
    name: Name,
    group: tuple[Name, Name] | None = None,
    *,
    position: str = "0-0",
    owner: str = "",
    left_ms: int = 0,
    **more: str | int,
) -> bytes:
    """Write a lane, held by `owner` for that long."""
    key = lane_key(stream, name, *(group or ()))
    fields: dict[Any, Any] = {
        "owner": owner and f"{owner}:1:0123456789abcdef",
        "epoch": 1,
        "until": int(time.time() * 1000) + left_ms,
        "lease": 60_000,
        "position": position,
        "commits": 0,
        "acquired": 1704067200000,
    }
    client.hset(key, mapping=fields | more)
    return key
