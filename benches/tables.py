"""What a processor's table costs, once and in each commit; for `compare.py`, section ``tables``."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    import redis

    import redfloe
    from support.server import Server

SIZES = (10_000, 1_000_000)
TOUCHED = 1_000
COMMITS = 50
STREAM = "sales"
NAME = "bench"
TABLE = "stock"
PARTS = ("load", "look up", "upsert", "commit")


def make(url: str) -> redfloe.StreamProcessor:
    """Make a processor that drains the stream."""
    import redfloe

    options: dict[str, Any] = {"batch_size": TOUCHED, "on_idle": "stop", "block_ms": 1}
    return redfloe.StreamProcessor(url, STREAM, name=NAME, schema={"sku": pl.String}, **options)


def fill(server: Server, client: redis.Redis, keys: int) -> None:
    """Write a table of that many keys."""
    from redfloe import table_key

    client.flushall()
    # What a processor keeps is there only once it has had a commit.
    client.xadd(STREAM, {"sku": "sku-0"})
    make(server.url).run(len)
    for start in range(0, keys, 10_000):
        numbers = range(start, start + 10_000)
        rows: dict[Any, Any] = {
            f"sku-{n}": f'{{"left":{n},"name":"product number {n}"}}' for n in numbers
        }
        client.hset(table_key(STREAM, NAME, TABLE), mapping=rows)


def sell(client: redis.Redis, keys: int) -> None:
    """Add sales, of other keys in each batch."""
    chosen = random.Random(7)  # the same in each round
    with client.pipeline(transaction=False) as pipeline:
        for _ in range(COMMITS):
            for number in chosen.sample(range(keys), TOUCHED):
                pipeline.xadd(STREAM, {"sku": f"sku-{number}"})
        pipeline.execute()


def measure(server: Server, client: redis.Redis, keys: int) -> dict[str, float]:
    """Give the milliseconds of a load, and those of a commit's parts."""
    from redfloe import table_key

    sell(client, keys)
    spent = dict.fromkeys(PARTS, 0.0)
    with make(server.url) as processor:
        for tx in processor:
            times = [time.perf_counter()]
            table = tx.table(TABLE, key="sku", schema={"left": pl.Int64, "name": pl.String})
            times.append(time.perf_counter())
            found = table.lookup(tx.frame["sku"])
            times.append(time.perf_counter())
            table.upsert(found.with_columns(pl.col("left") - 1))
            times.append(time.perf_counter())
            tx.commit()
            times.append(time.perf_counter())
            for part, start, end in zip(PARTS, times, times[1:], strict=False):
                spent[part] += (end - start) * 1000
    assert processor.stats.commits == COMMITS
    assert client.hlen(table_key(STREAM, NAME, TABLE)) == keys
    return {part: total / (1 if part == "load" else COMMITS) for part, total in spent.items()}


def rows(server: Server, rounds: int) -> list[tuple[str, ...]]:
    """Give a line for each part, with its median at each size."""
    spent: dict[int, list[dict[str, float]]] = {keys: [] for keys in SIZES}
    for keys in SIZES:
        with server.client() as client:
            fill(server, client, keys)
            for number in range(rounds):
                spent[keys].append(measure(server, client, keys))
                print(f"tables round {number + 1}: {keys:,} keys: {spent[keys][-1]}")
    lines = []
    for part in PARTS:
        medians = [statistics.median(one[part] for one in spent[keys]) for keys in SIZES]
        lines.append((part, *(f"{milliseconds:.2f} ms" for milliseconds in medians)))
    return lines
