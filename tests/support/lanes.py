"""Lanes of processors as they are in Redis, put there by hand."""

from __future__ import annotations

import time
from typing import Any

import redis

from redfloe import table_key

Name = str | bytes

#: What a processor sends, in the order of its life.
STEPS = ("acquire", "load", "page", "commit", "renew", "release")


def step_of(command: tuple[bytes, ...]) -> str | None:
    """Say which of the steps a command is, by how many keys and arguments its script has."""
    match command[0].upper():
        case b"XRANGE":
            return "page"
        case b"EVAL" | b"EVALSHA":
            keys = int(command[2])
            arguments = command[3 + keys :]
            match keys, len(arguments):
                case 1, 2:
                    return "release"
                case 1, 5:
                    return "acquire" if arguments[2] in (b"0", b"1") else "renew"
                case 2, 4:
                    return "load"
            return "commit"
    return None


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
