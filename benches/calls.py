"""How long one small call takes on a connection that is open already.

``python benches/calls.py URL TURNS`` has all contenders take turns of a few calls, in one process,
and prints the median of each in microseconds as JSON.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import polars as pl
from workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

STREAM = "calls"
GROUP = "calls-group"
WORKLOAD = WORKLOADS["events"]
SCHEMA = pl.Schema(WORKLOAD.schema)
FIELDS = ["user", "action", "amount", "score", "valid"]
ENTRIES = 5_000
ROWS = 100
#: How many turns each has in a round, and how many calls in each turn.
TURNS = 20
IN_A_ROW = ENTRIES // ROWS - 1

#: By title of the table's row: who is measured, and whose call is the measure.
CALLS = {
    "redis-py[hiredis] `xrange(count=1)`": "redis-py[hiredis] `xrange(count=1)`",
    "redfloe `read_stream(count=1)`": "redis-py[hiredis] `xrange(count=1)`",
    "redis-py[hiredis] `xrange(count=100)` + `pl.DataFrame`": (
        "redis-py[hiredis] `xrange(count=100)` + `pl.DataFrame`"
    ),
    "redfloe `read_stream(count=100)`": "redis-py[hiredis] `xrange(count=100)` + `pl.DataFrame`",
    "redis-py[hiredis] `xreadgroup(count=100)`, `xack` + `pl.DataFrame`": (
        "redis-py[hiredis] `xreadgroup(count=100)`, `xack` + `pl.DataFrame`"
    ),
    "redfloe `read_stream(count=100, group=..., auto_ack=True)`": (
        "redis-py[hiredis] `xreadgroup(count=100)`, `xack` + `pl.DataFrame`"
    ),
    "redis-py[hiredis] pipeline of 100 XADDs": "redis-py[hiredis] pipeline of 100 XADDs",
    "redfloe `write_stream` of 100 rows": "redis-py[hiredis] pipeline of 100 XADDs",
}


def frame_of(entries: list[tuple[str, dict[str, str]]]) -> pl.DataFrame:
    """Make a frame of redis-py's entries, all of it text, which takes the least time."""
    return pl.DataFrame([{"_id": entry_id, **fields} for entry_id, fields in entries])


def contenders(url: str, client: redis.Redis) -> dict[str, Callable[[], Any]]:
    """Give each call, as a competent user would write it."""
    import redfloe

    untyped: Any = client

    def read_by_redis_py() -> pl.DataFrame:
        return frame_of(untyped.xrange(STREAM, count=ROWS))

    def consume_by_redis_py() -> pl.DataFrame:
        [[_, entries]] = untyped.xreadgroup(f"{GROUP}-py", "one", {STREAM: ">"}, count=ROWS)
        frame = frame_of(entries)
        untyped.xack(STREAM, f"{GROUP}-py", *frame["_id"])
        return frame

    written = redfloe.read_stream(url, STREAM, SCHEMA, count=ROWS).select(FIELDS)
    texts: list[Any] = [
        dict(zip(FIELDS, row, strict=True)) for row in written.cast(pl.String).iter_rows()
    ]

    def write_by_redis_py() -> list[str]:
        pipeline = untyped.pipeline(transaction=False)
        for row in texts:
            pipeline.xadd("calls-written-py", row)
        ids: list[str] = pipeline.execute()
        return ids

    calls: list[Callable[[], Any]] = [
        lambda: untyped.xrange(STREAM, count=1),
        lambda: redfloe.read_stream(url, STREAM, SCHEMA, count=1),
        read_by_redis_py,
        lambda: redfloe.read_stream(url, STREAM, SCHEMA, count=ROWS),
        consume_by_redis_py,
        lambda: redfloe.read_stream(
            url, STREAM, SCHEMA, count=ROWS, group=GROUP, consumer="one", auto_ack=True
        ),
        write_by_redis_py,
        lambda: redfloe.write_stream(url, written, "calls-written"),
    ]
    return dict(zip(CALLS, calls, strict=True))


def rewind(client: redis.Redis) -> None:
    """Let the groups begin anew, and forget what was written."""
    for group in (GROUP, f"{GROUP}-py"):
        client.xgroup_destroy(STREAM, group)
        client.xgroup_create(STREAM, group, id="0")
    client.delete("calls-written", "calls-written-py")


def measure(url: str, turns: int) -> dict[str, float]:
    """Give the median of each call in microseconds."""
    import redis

    with redis.Redis.from_url(url, decode_responses=True) as client:
        client.delete(STREAM)
        with client.pipeline(transaction=False) as pipeline:
            for n in range(ENTRIES):
                valid = "true" if n % 2 else "false"
                fields: dict[Any, Any] = {
                    "user": f"user_{n:06}_name",
                    "action": ("click", "view", "purchase")[n % 3],
                    "amount": n * 31,
                    "score": n * 0.5,
                    "valid": valid,
                }
                pipeline.xadd(STREAM, fields, id=f"{1_704_067_200_000 + n}-0")
            pipeline.execute()
        calls = contenders(url, client)
        took: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(turns):
            rewind(client)
            for name, call in calls.items():
                call()  # what another has left in the processor's caches is no part of it
                for _ in range(IN_A_ROW):
                    start = time.perf_counter_ns()
                    call()
                    took[name].append((time.perf_counter_ns() - start) / 1000)
        client.delete(STREAM, "calls-written", "calls-written-py")
    return {name: statistics.median(times) for name, times in took.items()}


if __name__ == "__main__":
    url, turns = sys.argv[1:]
    print(json.dumps(measure(url, int(turns))))
