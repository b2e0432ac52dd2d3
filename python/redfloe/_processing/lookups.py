"""Lookups in tables of other processors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redfloe import _core
from redfloe._checks import as_key
from redfloe._processing.reading import table_key
from redfloe._processing.table import Table, key_frame, sent
from redfloe._reading.shards import find_shards
from redfloe._words import readable

if TYPE_CHECKING:
    import polars as pl

    from redfloe._processing.base_transaction import BaseTransaction
    from redfloe._processing.session import Session
    from redfloe._processing.table import TableRequest


class Lookups:
    """The lookups of a session."""

    def __init__(self, session: Session[Any]) -> None:
        self._session = session
        #: The sharded streams of which there are tables.
        self._sharded: dict[bytes, _core.Shards] = {}

    async def lookup(
        self,
        transaction: BaseTransaction,
        where: tuple[str | bytes, str | bytes, str | bytes],
        keys: object,
        request: TableRequest,
    ) -> pl.DataFrame:
        """Look into a table of another processor, of a stream, by its name and the table's.

        Only where no row is found the server is asked whether the stream is a sharded one.
        """
        session = self._session
        session.check(transaction)
        wanted = key_frame(request["key"], keys)
        asked = sent(wanted, request["key"])
        connection, own = session.source.connection, session.source.request["stream"]
        stream, name, table = as_key(where[0], "stream"), *where[1:]

        async def found_in(stream: bytes) -> pl.DataFrame:
            key = table_key(stream, name, table)
            reading = _core.lookup_table(connection, own, key, request, asked)
            return Table(await session.wait(reading), request).lookup(wanted)

        if (shards := self._sharded.get(stream)) is None:
            found = await found_in(stream)
            values = found.drop(wanted.columns)
            if wanted.is_empty() or any(len(one) > one.null_count() for one in values):
                return found
            shards = await find_shards(connection, stream, session.wait)
            if shards is None:
                return found
            self._sharded[stream] = shards
        if session.shard is None or len(session.shard.shards.keys) != len(shards.keys):
            msg = (
                f"{readable(stream)!r} is a sharded stream, of whose tables each of the "
                f"{len(shards.keys)} lanes has a part: only a lane of as many can look into them; "
                f"or name a shard, such as {readable(shards.keys[0])}"
            )
            raise ValueError(msg)
        return await found_in(shards.keys[session.shard.number])
