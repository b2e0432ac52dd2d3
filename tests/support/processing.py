"""What a processor keeps, loaded as it loads it: through the lane that it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redfloe import _core
from redfloe._event_loop import completed
from redfloe._processing.state import ProcessorState
from redfloe._processing.table import Table, table_request

if TYPE_CHECKING:
    import polars as pl
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


def read_hash(url: str | RedisConnection, hash_key: bytes, **columns: Any) -> pl.DataFrame:
    """Read a table as anybody may, by the key of its hash."""
    request = table_request(**columns)
    return Table(_core.read_table(url, hash_key, request).wait(), request).frame()


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
