"""What happens to a cluster, step by step, and clients that outlast it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl

from redfloe import RedfloeError, RedisConnection, write_stream
from support.cluster import Cluster

Step = Callable[[], object]


def migration(cluster: Cluster, key: str) -> list[Step]:
    """The steps by which a slot moves to another node."""
    slot, target = cluster.slot(key), cluster.other(key)
    return [
        lambda: cluster.begin_move(slot, target),
        lambda: cluster.move_key(key, target),
        lambda: cluster.end_move(slot, target),
    ]


def replicated(cluster: Cluster, key: str) -> None:
    assert cluster.client(key).wait(1, 5_000) == 1


def killing(cluster: Cluster, key: str) -> list[Step]:
    """The master dies, and its replica takes its place."""

    def act() -> None:
        replicated(cluster, key)
        cluster.node(key).kill()

    return [act]


def failover(cluster: Cluster, key: str) -> list[Step]:
    return [lambda: cluster.fail_over(key)]


def restart(cluster: Cluster, key: str) -> list[Step]:
    """All nodes at once, with their data."""

    def act() -> None:
        for node in cluster.nodes:
            node.command("SAVE")
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start()

    return [act]


Fault = Callable[[Cluster, str], list[Step]]
FAULTS = [migration, killing, failover, restart]


def patient(cluster: Cluster, **options: Any) -> RedisConnection:
    """Retries for longer than it takes until a replica is promoted."""
    retries: dict[str, Any] = {"max_retries": 20, "retry_base_delay": 0.05, "retry_max_delay": 0.5}
    return RedisConnection(cluster.url, **{**retries, **options})


def add_one(cluster: Cluster, key: str, number: int) -> bool:
    """Add an entry by whoever serves the key; says whether that worked."""
    try:
        write_stream(
            cluster.url, pl.DataFrame({"id": [f"{number}-0"], "n": [number]}), key, id_column="id"
        )
    except RedfloeError as error:
        return "does not come after" in str(error)
    return True
