"""An archive as a Delta table, whose log says up to where it goes.

Each batch is one transaction: the rows of all its streams and partitions, and the position of each
stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from redfloe._errors import SchemaError
from redfloe._files import OWN_FOLDER
from redfloe._lake.delta_table import DeltaTable
from redfloe._lake.parquet import store_of
from redfloe._lake.ranges import TIME_PARTS, time_part
from redfloe._words import readable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from redfloe._lake.ranges import Range


class DeltaArchive:
    """What is archived of streams, as a Delta table."""

    def __init__(
        self,
        to: str | os.PathLike[str],
        streams: Sequence[bytes],
        partition_by: Sequence[str],
        *,
        stream_column: str | None,
        id_column: str,
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self._table = DeltaTable(to, partition_by, storage_options)
        self._to = self._table.place
        self._streams = streams
        self._partition_by = [*partition_by]
        self._stream_column = stream_column
        self._id_column = id_column
        self._storage_options = storage_options
        #: Up to where each stream is archived.
        self.positions: dict[bytes, str] = {}
        #: The table's columns, without those of partitions.
        self.schema = pl.Schema()

    def open(self) -> None:
        """Find out up to where the archive goes; nobody is kept from writing before it does.

        Raises
        ------
        ValueError
            The table has other partitions.
        """
        self.look()

    def look(self) -> None:
        """Find out up to where the archive goes."""
        if not self._table.look():
            if self._is_of_files():
                msg = f'{self._to} is an archive of Parquet files: pass format="parquet"'
                raise ValueError(msg)
            return
        self.positions = self._positions()
        schema, times = self._table.schema, {*self._times}
        self.schema = pl.Schema({n: dtype for n, dtype in schema.items() if n not in times})
        several = self._stream_column is not None and self._stream_column in schema
        if several != (self._stream_column is not None):
            msg = f"{self._to} is the archive of one stream, or of several; that stays as it is"
            raise ValueError(msg)
        # One that has no rows was created by an archiver that has died since.
        if not self.positions and self._stream_column is None and self._table.known.file_uris():
            msg = f"{self._to} is no archive of {readable(self._streams[0])!r}"
            raise ValueError(msg)

    def _is_of_files(self) -> bool:
        try:
            store = store_of(self._to, self._storage_options)
        except ModuleNotFoundError:
            return False  # without obstore, nothing here has archived files in an object store
        return store.has(OWN_FOLDER)

    @property
    def _times(self) -> list[str]:
        """Give the partitions that are parts of the time, and no fields."""
        return [part for part in self._partition_by if part in TIME_PARTS]

    def _positions(self) -> dict[bytes, str]:
        positions = ((stream, self._table.position(_name(stream))) for stream in self._streams)
        return {stream: position for stream, position in positions if position is not None}

    def close(self) -> None:
        """Do nothing."""

    @staticmethod
    def stored(dtype: Any) -> Any:
        """Give the dtype that a dtype has once it is stored."""
        return DeltaTable.stored(dtype)

    def claimed(self) -> Iterable[tuple[bytes, str, Range]]:
        """Give nothing: a transaction is in, or it is not."""
        return ()

    def add_claimed(self, stream: bytes, name: str, range_: Range, rows: pl.DataFrame) -> None:
        """Do nothing."""

    def add(self, batch: Iterable[tuple[bytes, pl.DataFrame]]) -> None:
        """Archive rows of streams, in the order of their IDs, each of which comes once.

        Raises
        ------
        FencedError
            Another archiver has written the entries after the position.
        """
        frames, ends = [], {}
        for stream, rows in batch:
            ends[stream] = rows[self._id_column][-1]
            if self._stream_column is not None:
                rows = rows.with_columns(pl.lit(readable(stream)).alias(self._stream_column))  # noqa: PLW2901
            frames.append(rows)
        frame = pl.concat(frames).with_columns(
            time_part(part, self._id_column) for part in self._times
        )
        for key in self._partition_by:
            if key not in frame.columns:
                msg = (
                    f"there is no field {key!r}, and no such part of the time "
                    f"({', '.join(TIME_PARTS)}) to partition by"
                )
                raise SchemaError(msg)
        before = self.positions
        self._table.append(
            self._table.as_stored(frame),
            {_name(stream): end for stream, end in ends.items()},
            lambda: self._positions() != before,
        )
        self.positions = {**before, **ends}

    def scan(self, stream: bytes) -> pl.LazyFrame | None:
        """Scan what is archived of a stream, as of `look`; None where nothing is."""
        if stream not in self.positions:
            return None
        version, options = self._table.known.version(), self._table.options or None
        scan = pl.scan_delta(self._to, version=version, storage_options=options)
        if self._stream_column is not None:
            scan = scan.filter(pl.col(self._stream_column) == readable(stream))
        return scan

    def partitions(self) -> list[pl.Expr]:
        """Give the parts of the time of rows, as the table has them."""
        return [time_part(part, self._id_column) for part in self._times]


def _name(stream: bytes) -> str:
    """Name the position of a stream in the table's log."""
    return f"redfloe:{quote(stream, safe='')}"
