"""Connections of tests, and what the server says of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from redfloe import RedisConnection

#: The end of a URL that chooses the protocol.
PROTOCOLS = pytest.mark.parametrize("query", ["", "?protocol=resp3"], ids=["resp2", "resp3"])


def quick(url: str, **options: Any) -> RedisConnection:
    """Give a connection that retries at once, which only the number of retries bounds."""
    return RedisConnection(url, **{"retry_base_delay": 0.001, "retry_max_delay": 0.01, **options})


def named(client: redis.Redis, name: str) -> int:
    """Count the server's connections of that client name."""
    return sum(one["name"] == name for one in client.client_list())


def is_waiting(client: redis.Redis, name: str) -> Callable[[], bool]:
    """Ask whether a connection of that name is in its XREAD or XREADGROUP."""

    def holds() -> bool:
        return any(
            one["name"] == name and one["cmd"].startswith("xread") and "b" in one["flags"]
            for one in client.client_list()
        )

    return holds
