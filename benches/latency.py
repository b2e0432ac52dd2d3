"""How long an entry takes from XADD to a reader that follows its stream.

``python benches/latency.py NAME PORT`` follows the stream and prints the microseconds, sorted, as
JSON; the ``writer`` adds entries at a steady rate, each with the time at which it was sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable

STREAM = "latency"
ENTRIES = 4_000
PER_SECOND = 1_000
SCHEMA = {
    "sent": pl.Int64,
    "user": pl.String,
    "action": pl.String,
    "amount": pl.Int64,
    "score": pl.Float64,
}


def write(port: int) -> None:
    """Add entries at a steady rate."""
    import redis

    client = redis.Redis(port=port)
    due = time.monotonic() + 0.5
    for number in range(ENTRIES):
        while (wait := due - time.monotonic()) > 0:
            if wait > 0.0002:
                time.sleep(wait - 0.0001)
        due += 1 / PER_SECOND
        fields: dict[Any, Any] = {
            "sent": time.monotonic_ns(),
            "user": f"user_{number}",
            "action": "click",
            "amount": number,
            "score": number * 0.5,
        }
        client.xadd(STREAM, fields)


def since(sent: list[int]) -> list[float]:
    now = time.monotonic_ns()
    return [(now - moment) / 1000 for moment in sent]


def redis_py(port: int) -> list[float]:
    """A bare loop around redis-py's XREAD: no frame, only its dicts."""
    import redis

    client = redis.Redis(port=port, decode_responses=True)
    last = "0-0"
    took: list[float] = []
    while len(took) < ENTRIES:
        reply: Any = client.xread({STREAM: last}, block=1000, count=100)
        for _, entries in reply:
            took += since([int(fields["sent"]) for _, fields in entries])
            last = entries[-1][0]
    return took


def redis_py_async(port: int) -> list[float]:
    """The same loop in asyncio."""
    import redis.asyncio

    async def follow() -> list[float]:
        client = redis.asyncio.Redis(port=port, decode_responses=True)
        last = "0-0"
        took: list[float] = []
        while len(took) < ENTRIES:
            reply: Any = await client.xread({STREAM: last}, block=1000, count=100)
            for _, entries in reply:
                took += since([int(fields["sent"]) for _, fields in entries])
                last = entries[-1][0]
        await client.aclose()
        return took

    return asyncio.run(follow())


def iter_stream(port: int) -> list[float]:
    """redfloe's iterator, to the frame."""
    import redfloe

    took: list[float] = []
    url = f"redis://127.0.0.1:{port}"
    for frame in redfloe.iter_stream(url, STREAM, SCHEMA, start_id="-", count=ENTRIES):
        took += since(frame["sent"].to_list())
    return took


def stream_consumer(port: int) -> list[float]:
    """redfloe's worker in a group, each batch acknowledged with the next request."""
    import redfloe

    took: list[float] = []
    url = f"redis://127.0.0.1:{port}"
    with redfloe.StreamConsumer(url, STREAM, "group", "worker", schema=SCHEMA) as consumer:
        for batch in consumer:
            took += since(batch.frame["sent"].to_list())
            if len(took) >= ENTRIES:
                consumer.stop()
    return took


def stream_batches(port: int) -> list[float]:
    """redfloe's asynchronous iterator, to the frame."""
    import redfloe

    async def follow() -> list[float]:
        took: list[float] = []
        url = f"redis://127.0.0.1:{port}"
        batches = redfloe.stream_batches(url, STREAM, SCHEMA, start_id="-", count=ENTRIES)
        async for frame in batches:
            took += since(frame["sent"].to_list())
        return took

    return asyncio.run(follow())


#: Who follows, and whose loop is the measure.
FOLLOWERS: dict[str, tuple[Callable[[int], list[float]], str]] = {
    "redis-py XREAD loop": (redis_py, "redis-py XREAD loop"),
    "redfloe `iter_stream`": (iter_stream, "redis-py XREAD loop"),
    "redfloe `StreamConsumer`": (stream_consumer, "redis-py XREAD loop"),
    "redis-py XREAD loop, asyncio": (redis_py_async, "redis-py XREAD loop, asyncio"),
    "redfloe `stream_batches`": (stream_batches, "redis-py XREAD loop, asyncio"),
}


if __name__ == "__main__":
    name, port = sys.argv[1:]
    if name == "writer":
        write(int(port))
    else:
        follow, _ = FOLLOWERS[name]
        print(json.dumps(sorted(follow(int(port)))))
