"""What a peer of `StreamProcessor` got wrong when it was run as a user, where no other test does.

Of two processes of one name, outputs that were trimmed, entries that were trimmed before they were
read, attributes that changed, and threads that end in silence see test_processor.py,
test_processor_run.py and test_processor_faults.py; of pickles test_processor_state.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
import redis

from support.consumers import World
from support.lanes import step_of
from support.processors import STREAM, check, processor, work
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import within

SYNC = World(None)
ROWS: dict[str, Any] = {"key": "n", "schema": {"n": pl.Int64, "text": pl.String}}


@contextmanager
def sizes_of_commits(server: Server) -> Iterator[tuple[Proxy, list[int]]]:
    """Stand before a server, and note how many bytes each commit has."""
    with Proxy(server.port) as proxy:
        sizes: list[int] = []
        yield proxy, sizes
        commits = (command for command in proxy.commands if step_of(command) == "commit")
        sizes += [sum(map(len, command)) for command in commits]


def test_two_threads_of_one_name(any_server: Server, client: redis.Redis) -> None:
    """Two instances of one ID made 381 outputs of 200 entries."""
    add_numbers(client, STREAM, 200)
    both = [
        processor(any_server.url, batch_size=1, block_ms=50).start(lambda tx: work(SYNC, tx))
        for _ in range(2)
    ]
    assert [ended.result(20) for ended in both] == [None, None]
    check(client, 200)


@pytest.mark.parametrize("kind", ["state", "frame", "table"])
def test_state_is_not_written_whole(any_server: Server, client: redis.Redis, kind: str) -> None:
    """Ten megabytes were pickled and sent with each message, which took 93 ms."""
    add_numbers(client, STREAM, 1)
    rows = pl.DataFrame({"n": range(10_000), "text": ["x" * 1_000] * 10_000})
    with processor(any_server.url) as made:
        tx = next(made)
        match kind:
            case "state":
                tx.state["large"] = rows["text"].to_list()
            case "frame":
                # Bytes that cannot be compressed.
                tx.state["large"] = pl.DataFrame({"n": pl.int_range(1_250_000, eager=True).hash()})
            case "table":
                tx.table("rows", **ROWS).upsert(rows)
    add_numbers(client, STREAM, 21, first=2)
    with sizes_of_commits(any_server) as (proxy, sizes):
        with processor(proxy.url, batch_size=1) as made:
            tx = next(made)
            # It is read, and some of it is changed.
            if kind == "table":
                tx.table("rows", **ROWS).lookup([7])
            else:
                assert len(tx.state["large"]) >= 10_000
            tx.commit()
            with within(1):
                for tx in made:
                    tx.state["small"] = tx.state.get("small", 0) + 1
                    if kind == "table":
                        changed = pl.DataFrame({"n": [7], "text": [f"{tx.frame['n'][0]}"]})
                        tx.table("rows", **ROWS).upsert(changed)
    assert len(sizes) == 20
    assert max(sizes) < 2_000
