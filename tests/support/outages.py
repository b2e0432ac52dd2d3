"""A server that is away for a while, which has the stream `s`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis

from support.server import Server
from support.timing import later

#: Seconds: the five retries of a bounded call take less than a tenth of that with `quick`.
OUTAGE = 0.5
#: Pauses between attempts that are longer than the test.
SLOW: dict[str, Any] = {"retry_base_delay": 30, "retry_max_delay": 60}


@contextmanager
def outage(server: Server, *entries: int) -> Iterator[None]:
    """Have the server down while the block begins; then it is back, and has these entries more."""
    client = server.client()
    client.save()
    server.kill()

    def back() -> None:
        server.start()
        add(server.client(), *entries)

    with later(OUTAGE, back):
        yield


@contextmanager
def silence(server: Server, *entries: int) -> Iterator[None]:
    """Have the server say nothing meanwhile, with its connections open."""
    server.pause()

    def back() -> None:
        server.resume()
        add(server.client(), *entries)

    with later(OUTAGE, back):
        yield


def add(client: redis.Redis, *entries: int) -> None:
    """Add an entry for each number."""
    for number in entries:
        client.xadd("s", {"n": number})
