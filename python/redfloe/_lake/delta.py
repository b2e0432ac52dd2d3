"""An archive as a Delta table, whose log says up to where it goes.

Each batch is one transaction: the rows of all its streams and partitions, and the position of each
stream as *application transactions* of the table's log. These are numbers of 64 bits that belong to
a name; an ID has two, so a stream has two names. Of two transactions at the same time that set the
same name Delta refuses one, so two archivers never write the same rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import polars as pl

from redfloe._errors import FencedError, SchemaError
from redfloe._files import OWN_FOLDER, as_os_error
from redfloe._lake.parquet import place_of, store_of
from redfloe._lake.ranges import TIME_PARTS, time_part
from redfloe._reading.offsets import as_pair
from redfloe._words import readable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from redfloe._lake.ranges import Range

#: Delta's integers have signs.
_STORED: dict[Any, Any] = {
    pl.UInt8: pl.Int16(),
    pl.UInt16: pl.Int32(),
    pl.UInt32: pl.Int64(),
    pl.UInt64: pl.Decimal(20, 0),
    pl.Categorical: pl.String(),
    pl.Enum: pl.String(),
}
_LARGEST = 2**63 - 1
#: What Polars cannot read a table by: it is quoted in URLs, or taken for a partition.
_ODD = re.compile(r"[^\w./~+,@:&()!$';-]|=", re.ASCII)
#: How often to commit, where others have changed the table meanwhile.
_ATTEMPTS = 3


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
        try:
            import deltalake
        except ImportError:
            msg = "Delta tables need deltalake: pip install 'redfloe[delta]'"
            raise ModuleNotFoundError(msg) from None
        self._delta = deltalake
        self._to = place_of(to)
        if odd := _ODD.search(self._to):
            msg = (
                f"{self._to} has {odd[0]!r} in its name: Polars does not find the files of a Delta "
                "table there; archive to another place"
            )
            raise ValueError(msg)
        self._streams = streams
        self._partition_by = [*partition_by]
        self._stream_column = stream_column
        self._id_column = id_column
        self._options = {key: str(value) for key, value in (storage_options or {}).items()}
        self._storage_options = storage_options
        self._table: Any = None
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
        if "://" not in self._to and Path(self._to).is_file():
            msg = f"{self._to} is a file"
            raise NotADirectoryError(msg)
        try:
            with as_os_error(self._to):
                self._table = self._delta.DeltaTable(self._to, storage_options=self._options)
        except (self._delta.exceptions.TableNotFoundError, FileNotFoundError):
            if self._is_of_files():
                msg = f'{self._to} is an archive of Parquet files: pass format="parquet"'
                raise ValueError(msg) from None
            return
        partitions = list(self._table.metadata().partition_columns)
        if partitions != self._partition_by:
            msg = f"{self._to} has the partitions {partitions}, and not {self._partition_by}"
            raise ValueError(msg)
        self.positions = self._positions()
        schema = pl.scan_delta(self._table).collect_schema()
        times = {*self._times}
        self.schema = pl.Schema({n: dtype for n, dtype in schema.items() if n not in times})
        several = self._stream_column is not None and self._stream_column in schema
        if several != (self._stream_column is not None):
            msg = f"{self._to} is the archive of one stream, or of several; that stays as it is"
            raise ValueError(msg)
        # One that has no rows was created by an archiver that has died since.
        if not self.positions and self._stream_column is None and self._table.file_uris():
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
        found = {}
        for stream in self._streams:
            numbers = [self._table.transaction_version(name) for name in _names(stream)]
            if None not in numbers:
                found[stream] = "{}-{}".format(*numbers)
        return found

    def close(self) -> None:
        """Do nothing."""

    @staticmethod
    def stored(dtype: Any) -> Any:
        """Give the dtype that a dtype has once it is stored."""
        if isinstance(dtype, pl.Datetime):
            return pl.Datetime("us", None if dtype.time_zone is None else "UTC")
        if isinstance(dtype, pl.Array | pl.List):
            return pl.List(DeltaArchive.stored(dtype.inner))
        if isinstance(dtype, pl.Struct):
            stored = DeltaArchive.stored
            return pl.Struct([pl.Field(one.name, stored(one.dtype)) for one in dtype.fields])
        if dtype.base_type() in (pl.Time, pl.Duration, pl.Int128):
            msg = f"Delta has no {dtype}: read it as another dtype, pl.String for instance"
            raise SchemaError(msg)
        return _STORED.get(dtype.base_type(), dtype)

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
        frames, transactions, positions = [], [], dict(self.positions)
        for stream, rows in batch:
            positions[stream] = rows[self._id_column][-1]
            for name, number in zip(_names(stream), as_pair(positions[stream]), strict=True):
                if number > _LARGEST:
                    entry = f"{positions[stream]} of {readable(stream)!r}"
                    msg = f"{entry} is larger than a table's numbers of 64 bits"
                    raise ValueError(msg)
                transactions.append(self._delta.Transaction(name, number))
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
        self._write(frame, transactions)
        self.positions = positions

    def _write(self, frame: pl.DataFrame, transactions: list[Any]) -> None:
        frame = frame.cast(
            pl.Schema({name: self.stored(dtype) for name, dtype in frame.schema.items()})
        )
        self._check_names(frame)
        if self._table is None:
            self._create(frame)
        before = self.positions
        for attempt in range(_ATTEMPTS):
            try:
                with as_os_error(self._to):
                    self._delta.write_deltalake(
                        self._table,
                        frame,
                        mode="append",
                        schema_mode="merge",
                        commit_properties=self._delta.CommitProperties(
                            app_transactions=transactions
                        ),
                    )
                return
            except self._delta.exceptions.DeltaError as error:
                self._table.update_incremental()
                if self._positions() != before:
                    raise FencedError(self._fenced) from error
                # Somebody else has changed the table, by a column for instance: not its rows.
                is_conflict = isinstance(error, self._delta.exceptions.CommitFailedError)
                if not is_conflict or attempt == _ATTEMPTS - 1:
                    raise

    def _check_names(self, frame: pl.DataFrame) -> None:
        """Refuse columns that Delta does not tell apart, and those that cannot be partitions."""
        names: dict[str, str] = {}
        for name in frame.columns:
            other = names.setdefault(name.lower(), name)
            if other != name:
                msg = (
                    f"Delta takes the fields {other!r} and {name!r} for one: give a schema of one "
                    'of them, with on_new_fields="rescue", or archive to Parquet'
                )
                raise SchemaError(msg)
        for name in self._partition_by:
            dtype = frame.schema[name]
            if dtype.is_nested() or dtype == pl.Binary:
                msg = f"Delta has no partitions by {dtype}, as which {name!r} is read"
                raise SchemaError(msg)

    def _create(self, frame: pl.DataFrame) -> None:
        """Create an empty table, unless another archiver does; only appends can be in conflict."""
        try:
            with as_os_error(self._to):
                self._delta.write_deltalake(
                    self._to,
                    frame.clear(),
                    mode="ignore",
                    partition_by=self._partition_by or None,
                    storage_options=self._options or None,
                )
        except self._delta.exceptions.DeltaError:
            if not self._delta.DeltaTable.is_deltatable(self._to, self._options or None):
                raise
        self._table = self._delta.DeltaTable(self._to, storage_options=self._options)
        if self._positions() != self.positions:
            raise FencedError(self._fenced)

    @property
    def _fenced(self) -> str:
        return f"another archiver writes to {self._to}"

    def scan(self, stream: bytes) -> pl.LazyFrame | None:
        """Scan what is archived of a stream, as of `look`; None where nothing is."""
        if stream not in self.positions:
            return None
        version, options = self._table.version(), self._options or None
        scan = pl.scan_delta(self._to, version=version, storage_options=options)
        if self._stream_column is not None:
            scan = scan.filter(pl.col(self._stream_column) == readable(stream))
        return scan

    def partitions(self) -> list[pl.Expr]:
        """Give the parts of the time of rows, as the table has them."""
        return [time_part(part, self._id_column) for part in self._times]


def _names(stream: bytes) -> tuple[str, str]:
    """Name the application transactions of a stream: for the two numbers of its position."""
    name = f"redfloe:{quote(stream, safe='')}"
    return f"{name}:ms", f"{name}:seq"
