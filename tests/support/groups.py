"""Consumer groups, as the server sees them: each test's is called `g`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import redis

from support.cluster import Cluster
from support.streams import Numbers

#: The member that most tests read as.
ME: dict[str, Any] = {"group": "g", "consumer": "me"}
#: For a loop that ends.
DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 1}


def pending(client: redis.Redis, stream: str, consumer: str | None = None) -> list[int]:
    """List the numbers of the entries that are pending in the group."""
    found: Any = client.xpending_range(stream, "g", "-", "+", 100_000, consumername=consumer)
    return [int(one["message_id"].split(b"-")[0]) for one in found]


def all_pending(server: redis.Redis | Cluster, streams: Iterable[str]) -> Numbers:
    """List what is pending in the streams' groups, where something is."""
    found = {
        stream: pending(server.client(stream) if isinstance(server, Cluster) else server, stream)
        for stream in streams
    }
    return {stream: ns for stream, ns in found.items() if ns}


def deliver(
    client: redis.Redis, stream: str, count: int | None = None, consumer: str = "me"
) -> None:
    """Make the next entries pending for a consumer; creates the group where it is missing."""
    with contextlib.suppress(redis.ResponseError):  # the group is there
        client.xgroup_create(stream, "g", "0", mkstream=True)
    client.xreadgroup("g", consumer, {stream: ">"}, count=count)
