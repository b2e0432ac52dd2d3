"""Processors that share a stream of numbers by the group `g`, and what must have come of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import redis

from redfloe import StreamProcessor
from support.consumers import World
from support.groups import pending
from support.processes import hear
from support.processors import STREAM, Driven, processor

OUT = "{numbers}:out"
SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}
#: What others leave pending is claimed soon.
EAGER: dict[str, Any] = {"reclaim_min_idle_ms": 50, "reclaim_interval_ms": 20}


def worker(url: Any, consumer: str = "c1", **options: Any) -> StreamProcessor:
    return processor(url, **{"group": "g", "consumer": consumer, **options})


def drive(world: World, url: Any, consumer: str = "c1", **options: Any) -> Driven:
    return Driven(world, worker(url, consumer, **options))


def copy(tx: Any) -> None:
    """Write a row for each row; both worlds have that."""
    tx.publish(OUT, tx.frame.select("n"))


def drain(url: Any, consumer: str = "c1", **options: Any) -> StreamProcessor:
    with worker(url, consumer, **options) as made:
        for tx in made:
            copy(tx)
    return made


def outputs(client: redis.Redis) -> list[int]:
    found: Any = client.xrange(OUT)
    return sorted(int(fields[b"n"]) for _, fields in found)


def check(client: redis.Redis, last: int) -> None:
    """Each number has one output, and none is pending."""
    assert Counter(outputs(client)) == Counter(range(1, last + 1))
    assert pending(client, STREAM) == []
    assert client.xinfo_groups(STREAM)[0]["last-delivered-id"] == f"{last}-0".encode()


def claim(client: redis.Redis, *numbers: int, consumer: str = "other") -> None:
    """Have another consumer claim entries."""
    client.xclaim(STREAM, "g", consumer, 0, [f"{n}-0" for n in numbers])


#: A process that works until the stream is drained, and says what it has begun.
WORKER = f"""
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from support.workers import copy, worker

with worker(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3])) as made:
    for tx in made:
        print(json.dumps(len(tx)), flush=True)
        copy(tx)
print(json.dumps("done"), flush=True)
"""


def finished(process: Any) -> int:
    """Wait until a process has drained the stream; say how many entries it had in hand."""
    number = 0
    while (said := hear(process)) != "done":
        number += said
    return number
