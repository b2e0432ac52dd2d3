"""What a processor's table costs, once and in each commit; for `compare.py`, section ``tables``."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from support.server import Server

SIZES = (10_000, 1_000_000)
TOUCHED = 1_000
COMMITS = 50


def fill(server: Server, keys: int) -> None:
    """Write a table of that many keys."""
    with server.client() as client:
        client.flushall()
        for start in range(0, keys, 10_000):
            numbers = range(start, start + 10_000)
            rows = {f"sku-{n}": f'{{"left":{n},"name":"product number {n}"}}' for n in numbers}
            client.hset("table", mapping=rows)


def measure(server: Server, keys: int) -> dict[str, float]:
    """Give the milliseconds of a load, and those of a commit's parts."""
    from redfloe._processing.table import table_request
    from support.processing import load_table

    request = table_request("sku", {"left": pl.Int64, "name": pl.String})
    chosen = random.Random(7)  # the same keys in each round
    begun = time.perf_counter()
    table = load_table(server.url, b"table", request)
    spent = dict.fromkeys(("load", "look up", "upsert", "changes", "write", "commit"), 0.0)
    spent["load"] = (time.perf_counter() - begun) * 1000 * COMMITS
    with server.client() as client:
        for _ in range(COMMITS):
            skus = [f"sku-{number}" for number in chosen.sample(range(keys), TOUCHED)]
            times = [time.perf_counter()]
            found = table.lookup(skus)
            times.append(time.perf_counter())
            table.upsert(found.with_columns(pl.col("left") - 1))
            times.append(time.perf_counter())
            sets, _ = table.changes()
            times.append(time.perf_counter())
            client.hset("table", mapping=dict(sets))
            times.append(time.perf_counter())
            table.commit()
            times.append(time.perf_counter())
            names = [*spent][1:]
            for name, start, end in zip(names, times, times[1:], strict=False):
                spent[name] += (end - start) * 1000
    assert len(table) == keys
    return {name: total / COMMITS for name, total in spent.items()}


def rows(server: Server, rounds: int) -> list[tuple[str, ...]]:
    """Give a line for each part, with its median at each size."""
    spent: dict[int, list[dict[str, float]]] = {keys: [] for keys in SIZES}
    for keys in SIZES:
        fill(server, keys)
        for number in range(rounds):
            spent[keys].append(measure(server, keys))
            print(f"tables round {number + 1}: {keys:,} keys: {spent[keys][-1]}")
    lines = []
    for name in spent[SIZES[0]][0]:
        medians = [statistics.median(one[name] for one in spent[keys]) for keys in SIZES]
        lines.append((name, *(f"{milliseconds:.2f} ms" for milliseconds in medians)))
    return lines
