"""A Delta table, and how far it has come: rows and positions are written in one transaction.

A position is in the table's log as *application transactions*. These are numbers of 64 bits that
belong to a name; an ID has two, so a position has two names. Of two transactions at the same time
that set the same name Delta refuses one, so two processes never write the same rows.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe._errors import FencedError, SchemaError
from redfloe._files import as_os_error
from redfloe._lake.parquet import place_of
from redfloe._reading.offsets import as_pair

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping, Sequence

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


class DeltaTable:
    """A table in a directory or an object store, which there may not be yet."""

    def __init__(
        self,
        to: str | os.PathLike[str],
        partition_by: Sequence[str],
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        try:
            import deltalake
        except ImportError:
            msg = "Delta tables need deltalake: pip install 'redfloe[delta]'"
            raise ModuleNotFoundError(msg) from None
        self._delta = deltalake
        self.place = place_of(to)
        if odd := _ODD.search(self.place):
            msg = (
                f"{self.place} has {odd[0]!r} in its name: Polars does not find the files of a "
                "Delta table there; choose another place"
            )
            raise ValueError(msg)
        self._partition_by = [*partition_by]
        self.options = {key: str(value) for key, value in (storage_options or {}).items()}
        #: As delta-rs knows it; None where there is none yet.
        self.known: Any = None
        #: The table's columns.
        self.schema = pl.Schema()

    def look(self) -> bool:
        """Find out how the table is; say whether there is one.

        Raises
        ------
        ValueError
            It has other partitions.
        """
        if "://" not in self.place and Path(self.place).is_file():
            msg = f"{self.place} is a file"
            raise NotADirectoryError(msg)
        try:
            with as_os_error(self.place):
                self.known = self._delta.DeltaTable(self.place, storage_options=self.options)
        except (self._delta.exceptions.TableNotFoundError, FileNotFoundError):
            return False
        partitions = list(self.known.metadata().partition_columns)
        if partitions != self._partition_by:
            msg = f"{self.place} has the partitions {partitions}, and not {self._partition_by}"
            raise ValueError(msg)
        self.schema = pl.scan_delta(self.known).collect_schema()
        return True

    def position(self, name: str) -> str | None:
        """Give the position that the table has under a name."""
        numbers = [self.number(one) for one in _names(name)]
        return None if None in numbers else "{}-{}".format(*numbers)

    def number(self, name: str) -> int | None:
        """Give the number that the table has under a name."""
        return None if self.known is None else self.known.transaction_version(name)

    @staticmethod
    def stored(dtype: Any) -> Any:
        """Give the dtype that a dtype has once it is stored."""
        if isinstance(dtype, pl.Datetime):
            return pl.Datetime("us", None if dtype.time_zone is None else "UTC")
        if isinstance(dtype, pl.Array | pl.List):
            return pl.List(DeltaTable.stored(dtype.inner))
        if isinstance(dtype, pl.Struct):
            stored = DeltaTable.stored
            return pl.Struct([pl.Field(one.name, stored(one.dtype)) for one in dtype.fields])
        if dtype.base_type() in (pl.Time, pl.Duration, pl.Int128):
            msg = f"Delta has no {dtype}: read it as another dtype, pl.String for instance"
            raise SchemaError(msg)
        return _STORED.get(dtype.base_type(), dtype)

    def as_stored(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Give rows the dtypes that they have once they are stored.

        Raises
        ------
        SchemaError
            Delta has no such dtypes, or does not tell the columns apart.
        """
        frame = frame.cast(
            pl.Schema({name: self.stored(dtype) for name, dtype in frame.schema.items()})
        )
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
            if name not in frame.columns:
                continue
            dtype = frame.schema[name]
            if dtype.is_nested() or dtype == pl.Binary:
                msg = f"Delta has no partitions by {dtype}, as which {name!r} is read"
                raise SchemaError(msg)
        return frame

    def append(
        self,
        frame: pl.DataFrame,
        positions: Mapping[str, str],
        is_moved: Callable[[], bool],
        *,
        numbers: Mapping[str, int] | None = None,
    ) -> None:
        """Add rows, as they are stored, and set positions and numbers: all of it or nothing.

        Raises
        ------
        FencedError
            Where `is_moved`: another process has moved them, after the table was looked at.
        """
        named = (numbers or {}).items()
        transactions = [self._delta.Transaction(name, number) for name, number in named]
        for name, position in positions.items():
            for one, number in zip(_names(name), as_pair(position), strict=True):
                if number > _LARGEST:
                    msg = f"the ID {position} is larger than a table's numbers of 64 bits"
                    raise ValueError(msg)
                transactions.append(self._delta.Transaction(one, number))
        if self.known is None:
            self._create(frame, is_moved)
        for attempt in range(_ATTEMPTS):
            try:
                with as_os_error(self.place):
                    self._delta.write_deltalake(
                        self.known,
                        frame,
                        mode="append",
                        schema_mode="merge",
                        commit_properties=self._delta.CommitProperties(
                            app_transactions=transactions
                        ),
                    )
            except self._delta.exceptions.DeltaError as error:
                self.known.update_incremental()
                if is_moved():
                    raise FencedError(self._fenced) from error
                # Somebody else has changed the table, by a column for instance: not its rows.
                is_conflict = isinstance(error, self._delta.exceptions.CommitFailedError)
                if not is_conflict or attempt == _ATTEMPTS - 1:
                    raise
            else:
                self.schema = pl.Schema({**frame.schema, **self.schema})
                return

    def _create(self, frame: pl.DataFrame, is_moved: Callable[[], bool]) -> None:
        """Create an empty table, unless another process does; only appends can be in conflict."""
        try:
            with as_os_error(self.place):
                self._delta.write_deltalake(
                    self.place,
                    frame.clear(),
                    mode="ignore",
                    partition_by=self._partition_by or None,
                    storage_options=self.options or None,
                )
        except self._delta.exceptions.DeltaError as error:
            try:
                self.known = self._delta.DeltaTable(self.place, storage_options=self.options)
            except self._delta.exceptions.TableNotFoundError:
                raise error from None
        else:
            self.known = self._delta.DeltaTable(self.place, storage_options=self.options)
        if is_moved():
            raise FencedError(self._fenced)

    @property
    def _fenced(self) -> str:
        return f"another archiver writes to {self.place}"


def _names(name: str) -> tuple[str, str]:
    """Name the application transactions of a position: for its two numbers."""
    return f"{name}:ms", f"{name}:seq"
