"""What a processor keeps, loaded as it loads it: through the lane that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe import _core
from redfloe._event_loop import completed
from redfloe._processing.state import ProcessorState
from redfloe._processing.table import Table

if TYPE_CHECKING:
    import redis

    from redfloe import RedisConnection
    from redfloe._processing.table import TableRequest


def _lane(key: bytes) -> tuple[bytes, bytes]:
    """Name a lane in the slot of a hash."""
    return key, b"tests"


def load_table(
    url: str | RedisConnection, key: bytes, request: TableRequest, newest_ms: int | None = None
) -> Table:
    loading = _core.load_table_for_test(url, _lane(key), key, request, newest_ms)
    return Table(loading.wait(), request)


async def load_table_async(url: str | RedisConnection, key: bytes, request: TableRequest) -> Table:
    loading = _core.load_table_for_test(url, _lane(key), key, request, None)
    return Table(await completed(loading.start()), request)


def load_state(url: str | RedisConnection, key: bytes) -> ProcessorState:
    return ProcessorState(_core.load_state_for_test(url, _lane(key), key).wait())


def save(client: redis.Redis, table: Table) -> tuple[int, int]:
    """Do what a commit does; say how many fields were set and deleted."""
    table.expire()
    sets, deletes = table.changes()
    if sets:
        client.hset("table", mapping=dict(sets))
    if deletes:
        client.hdel("table", *deletes)
    table.commit()
    return len(sets), len(deletes)
