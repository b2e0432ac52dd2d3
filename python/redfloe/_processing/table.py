"""A processor's tables: a hash for each, kept as a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import polars as pl

from redfloe import _core
from redfloe._checks import Milliseconds, milliseconds
from redfloe._errors import SchemaError
from redfloe._frame import ArrowStream, as_frame, of_batch
from redfloe._schema import Dtype, SchemaLike, as_schema, as_text

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Keys of a table: a column of them, or a frame with the columns of the key.
Keys: TypeAlias = pl.Series | pl.DataFrame | Sequence[object] | ArrowStream


class TableRequest(TypedDict):
    """The columns of a table; `src/python/table.rs` has its twin."""

    key: pl.Schema
    schema: pl.Schema
    event_time: str | None
    expire_after_ms: int | None
    #: Whether some columns of a key may be null, where others are not.
    null_keys: bool


def table_request(
    key: str | Sequence[str],
    schema: SchemaLike,
    *,
    known: Mapping[str, Dtype] | None = None,
    event_time: str | None = None,
    expire_after: Milliseconds | None = None,
    null_keys: bool = False,
) -> TableRequest:
    """Check and normalise what a table is made of.

    A key's dtype is that of `schema`, or of `known`, which are the columns of the input, or String.
    """
    names = _names(key)
    if not names or len({*names}) < len(names):
        msg = "key must name at least one column, and none twice"
        raise SchemaError(msg)
    if (event_time is None) != (expire_after is None):
        msg = "expire_after and event_time belong together: rows expire by that column's time"
        raise ValueError(msg)
    columns = as_schema(schema)
    dtypes = {**(known or {}), **columns}
    request = TableRequest(
        key=as_schema({name: dtypes.get(name, pl.String()) for name in names}, "key"),
        schema=as_schema({name: columns[name] for name in columns if name not in names}),
        event_time=None if event_time is None else as_text(event_time, "event_time"),
        expire_after_ms=None
        if expire_after is None
        else milliseconds(expire_after, "expire_after"),
        null_keys=null_keys,
    )
    _core.check_table(request)
    return request


def _names(key: object) -> list[str]:
    match key:
        case str():
            return [key]
        case Sequence() if not isinstance(key, bytes):
            return [as_text(name, "key") for name in key]
    msg = f"key must name a column, or several, not {type(key).__name__}"
    raise TypeError(msg)


class Table:
    """A table of a processor: rows by key, kept as a frame; what has changed goes with the commit.

    In Redis it is a hash with a field for each key and the rest of the row as JSON, so
    ``HGET table A-1`` gives ``{"left":7}``. A key of several columns is a JSON array,
    ``["A-1","berlin"]``. Values are written as in a payload: a null is a key that the JSON lacks,
    Binary is base64, NaN and the infinities are text, Decimals and integers are numbers with all
    their digits (some JSON readers round beyond 2^53). A row is written whole: what others have put
    into its JSON beside the table's columns stays until this table writes that row, and is then
    gone. A column that is new to the table is null in older rows.
    """

    def __init__(self, core: _core.Table, request: TableRequest) -> None:
        #: For the processor, at any time, and what it is made of.
        self.core, self.request = core, request
        #: Whether it may be used: a processor's only while a transaction is in hand.
        self.is_open = True
        self._key, self._values = request["key"], request["schema"]
        self._columns = {**self._key, **self._values}
        self._categories = {
            name: dtype for name, dtype in self._columns.items() if _is_category(dtype)
        }

    @property
    def _table(self) -> _core.Table:
        if not self.is_open:
            msg = "the transaction of this table has ended; take the table from the one in hand"
            raise RuntimeError(msg)
        return self.core

    def lookup(self, keys: Keys) -> pl.DataFrame:
        """Give a row for each key, in the order of the keys.

        Parameters
        ----------
        keys : pl.Series, sequence or pl.DataFrame
            The keys; for a key of several columns a frame that has them, among others. They may
            repeat.

        Returns
        -------
        pl.DataFrame
            The key, as it was asked for, and the table's columns, null where there is no such row.
            A null key has no row. `contains` tells a missing row from one of nulls.

        Raises
        ------
        SchemaError
            The keys have another dtype than the table's.
        """
        wanted = self._keys(keys)
        return wanted.hstack(self._given(self._table.lookup(self._sent(wanted))))

    def contains(self, keys: Keys) -> pl.Series:
        """Say for each key whether it has a row, as a Boolean Series in the order of the keys."""
        found = of_batch(self._table.contains(self._sent(self._keys(keys))))
        return found.to_series().rename("contains")

    def upsert(self, df: pl.DataFrame | ArrowStream) -> None:
        """Write rows: new keys are added, and rows of keys that exist are replaced as a whole.

        Parameters
        ----------
        df : pl.DataFrame, or an object with ``__arrow_c_stream__``
            All columns of the table, in any order; others are left out. Where a key occurs in
            several rows, the last counts.

        Raises
        ------
        SchemaError
            A column is missing, or has another dtype than the table's, or a value does not fit.
            Integers may be of another size.
        ValueError
            A key is null.
        """
        frame = as_frame(df)
        columns = [_cast(_column(frame, name), dtype) for name, dtype in self._columns.items()]
        self._table.upsert(self._sent(pl.DataFrame(columns)))

    def delete(self, keys: Keys) -> int:
        """Delete the rows of keys, and say how many there were.

        Raises
        ------
        SchemaError
            The keys have another dtype than the table's.
        ValueError
            A key is null.
        """
        return self._table.delete(self._sent(self._keys(keys)))

    def clear(self) -> None:
        """Delete all rows. The commit deletes field by field."""
        self._table.clear()

    def frame(self) -> pl.DataFrame:
        """Give all rows with their keys, in no particular order."""
        return self._given(self._table.frame())

    def __len__(self) -> int:
        return len(self._table)

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[object]:
        msg = "a table has no rows to iterate over; take its frame()"
        raise TypeError(msg)

    def __repr__(self) -> str:
        return f"Table(key={[*self._key]}, columns={[*self._values]}, rows={len(self.core)})"

    @property
    def schema(self) -> pl.Schema:
        """The columns of `frame`: those of the key, and then the others."""
        return pl.Schema(self._columns)

    def expire(self, watermark_ms: int | None = None) -> int:
        """Delete the rows that are too old, and say how many; what a commit does first.

        A row is too old once its `event_time` is more than `expire_after` before the watermark,
        which is the newest time that the table has seen, in whole milliseconds, or the one that is
        given where that is later.
        """
        return self._table.expire(watermark_ms)

    def newest_ms(self) -> int | None:
        """Give the newest `event_time` that the table has seen, of rows that are gone too.

        `ProcessorState.keep_newest` saves it with the commit, and whoever loads the table gives it
        back: so it does not depend on restarts when rows expire.
        """
        return self.core.newest_ms()

    def changes(self) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
        """Give what a commit writes: fields of the hash with their values, and those to delete."""
        return self.core.changes()

    def commit(self) -> None:
        """Take note that the changes are saved."""
        self.core.commit()

    def rollback(self) -> None:
        """Be as after the last commit."""
        self.core.rollback()

    def _keys(self, keys: object) -> pl.DataFrame:
        """Give keys as a frame of the key's columns, in the table's dtypes."""
        return key_frame(self._key, keys)

    def _sent(self, frame: pl.DataFrame) -> pl.DataFrame:
        return sent(frame, self._columns)

    def _given(self, rows: _core.RecordBatch) -> pl.DataFrame:
        frame = of_batch(rows)
        return frame.with_columns(
            frame[name].cast(dtype)
            for name, dtype in self._categories.items()
            if name in frame.columns
        )


def key_frame(key: Mapping[str, Dtype], keys: object) -> pl.DataFrame:
    """Give keys as a frame of the key's columns, in the table's dtypes."""
    if isinstance(keys, pl.Series) and keys.dtype == pl.Struct:
        keys = keys.struct.unnest()
    if isinstance(keys, pl.Series) or (
        isinstance(keys, Sequence) and not isinstance(keys, str | bytes)
    ):
        if len(key) > 1:
            msg = f"the key has the columns {[*key]}: pass a frame that has them"
            raise TypeError(msg)
        ((name, dtype),) = key.items()
        column = keys.alias(name) if isinstance(keys, pl.Series) else _series(name, keys, dtype)
        return pl.DataFrame({column.name: _cast(column, dtype)})
    if isinstance(keys, str | bytes | int):
        msg = f"keys must be several: pass [{keys!r}]"
        raise TypeError(msg)
    frame = as_frame(keys)
    return pl.DataFrame({name: _cast(_column(frame, name), dtype) for name, dtype in key.items()})


def sent(frame: pl.DataFrame, columns: Mapping[str, Dtype]) -> pl.DataFrame:
    """Give columns as the core keeps them: categories as text."""
    return frame.with_columns(
        frame[name].cast(pl.String)
        for name, dtype in columns.items()
        if _is_category(dtype) and name in frame.columns
    )


def _column(frame: pl.DataFrame, name: str) -> pl.Series:
    if name not in frame.columns:
        msg = f"there is no column {name!r}, which the table has; the frame has {frame.columns}"
        raise SchemaError(msg)
    return frame[name]


def _series(name: str, keys: Sequence[object], dtype: Dtype) -> pl.Series:
    try:
        # Of Python's values, so that "7" is no integer and 7 no text.
        made = pl.Series(name, keys, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        msg = f"the keys are not all {dtype}, the dtype of the table's {name!r}: {error}"
        raise SchemaError(msg) from error
    if dtype.is_temporal() or dtype.is_decimal():
        # Polars rounds them, and the key would be another's.
        for key, value in zip(keys, made, strict=True):
            if key is not None and not _is_same(key, value):
                msg = f"the key {key!r} is no {dtype}, the dtype of the table's {name!r}: cast it"
                raise SchemaError(msg)
    return made


def _is_same(key: object, value: object) -> bool:
    """Say whether a key is what Polars has made of it."""
    if key == value:
        return True
    if isinstance(key, datetime) and isinstance(value, datetime) and key.tzinfo is None:
        # Without a zone it is taken for UTC, or for the column's wall clock.
        return key.replace(tzinfo=UTC) == value or key == value.replace(tzinfo=None)
    return False


def _is_category(dtype: Dtype) -> bool:
    return dtype == pl.Categorical or isinstance(dtype, pl.Enum)


def _cast(column: pl.Series, dtype: Dtype) -> pl.Series:
    if column.dtype == dtype:
        return column
    if not _fits(column.dtype, dtype):
        msg = (
            f"the column {column.name!r} is {column.dtype}, and the table's is {dtype}; cast it, "
            "or change the table's schema"
        )
        raise SchemaError(msg)
    try:
        made = column.cast(dtype)
    except pl.exceptions.PolarsError as error:
        msg = f"the column {column.name!r} has values that are no {dtype}: {error}"
        raise SchemaError(msg) from error
    if column.dtype != pl.Null and not made.cast(column.dtype, strict=False).equals(column):
        # As integers of more digits than a float has.
        msg = f"the column {column.name!r} has values that {dtype} would round; cast it before"
        raise SchemaError(msg)
    return made


_UNITS = ("ms", "us", "ns")


def _fits(given: Dtype, wanted: Dtype) -> bool:
    """Say whether a cast loses nothing, or fails where it would."""
    if given in (pl.Null, wanted):
        return True
    match given, wanted:
        case (pl.List() | pl.Array(), pl.List()):
            return _fits(given.inner, wanted.inner)
        case (pl.Array(), pl.Array()):
            return given.size == wanted.size and _fits(given.inner, wanted.inner)
        case (pl.Struct(), pl.Struct()):
            return [field.name for field in given.fields] == [
                field.name for field in wanted.fields
            ] and all(
                _fits(one.dtype, other.dtype)
                for one, other in zip(given.fields, wanted.fields, strict=True)
            )
        case (pl.Datetime(), pl.Datetime()):
            return given.time_zone == wanted.time_zone and _is_finer(given, wanted)
        case (pl.Duration(), pl.Duration()):
            return _is_finer(given, wanted)
        case (pl.Decimal(), pl.Decimal()):
            return given.scale <= wanted.scale
    texts = (pl.String, pl.Categorical, pl.Enum)
    if given in texts:
        return wanted in texts
    if given.is_integer():
        return wanted.is_numeric()
    return given == pl.Float32 and wanted == pl.Float64


def _is_finer(given: pl.Datetime | pl.Duration, wanted: pl.Datetime | pl.Duration) -> bool:
    return _UNITS.index(wanted.time_unit) >= _UNITS.index(given.time_unit)
