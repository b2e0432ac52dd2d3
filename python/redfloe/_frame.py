"""Frames that are to be written, of whichever library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from redfloe import _core
from redfloe._errors import RedfloeError, SchemaError
from redfloe._schema import DTYPES, as_text, check_name

if TYPE_CHECKING:
    from polars.datatypes import DataType, DataTypeClass

#: Dtypes of a newer Polars.
_LACKING = [name for name in ("Float16", "Map") if not hasattr(pl, name)]


class ArrowStream(Protocol):
    """What has ``__arrow_c_stream__``."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


def as_frame(df: object) -> pl.DataFrame:
    """Give what speaks Arrow as a Polars frame, without a copy where that is possible."""
    match df:
        case pl.DataFrame():
            return df
        case pl.LazyFrame():
            msg = "df is a LazyFrame; write it with sink_stream, or collect it"
            raise TypeError(msg)
    pandas, pyarrow = (sys.modules.get(name) for name in ("pandas", "pyarrow"))
    if isinstance(df, pl.Series) or (pandas is not None and isinstance(df, pandas.Series)):
        msg = "df is a Series; call its .to_frame(), whose column has the field's name"
        raise TypeError(msg)
    if not hasattr(df, "__arrow_c_stream__"):
        msg = (
            "df must be a polars DataFrame, or another object with __arrow_c_stream__, not "
            f"{type(df).__name__}"
        )
        raise TypeError(msg)
    if pandas is not None and isinstance(df, pandas.DataFrame):
        stream = _pandas_stream(df)
    else:
        stream = df.__arrow_c_stream__()
    is_pyarrow = pyarrow is not None and isinstance(df, pyarrow.Table)
    zones, may_change = _core.check_arrow_stream(
        stream, narrow_decimals=is_pyarrow, lacking=_LACKING
    )
    for name, zone in zones:
        _check_zone(name, zone)
    if may_change:
        stream = _core.checked_arrow_stream(df if is_pyarrow else _Stream(stream))
    try:
        return pl.DataFrame(df if is_pyarrow else _Stream(stream))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError) as error:
        msg = f"Polars cannot take the frame as Arrow: {error}; cast its columns, or leave some out"
        raise SchemaError(msg) from error


class _Stream:
    """An Arrow stream that was asked for already."""

    def __init__(self, capsule: object) -> None:
        self._capsule = capsule

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._capsule


def _pandas_stream(df: Any) -> object:  # pandas is no dependency
    """Give a pandas frame with its index, unless that only counts the rows from 0."""
    pandas = sys.modules["pandas"]
    counts_rows = df.index.name is None and df.index.equals(pandas.RangeIndex(len(df)))
    try:
        # Left in place, any index but a RangeIndex would be a column of a name that pandas invents.
        return df.reset_index(drop=counts_rows).__arrow_c_stream__()
    except (ValueError, TypeError, NotImplementedError) as error:
        said = ", ".join(map(str, error.args))
        msg = f"pandas cannot give the frame as Arrow: {said}; cast the column or leave it out"
        raise SchemaError(msg) from error


def _check_zone(name: str, zone: str) -> None:
    try:
        pl.Series([0]).cast(pl.Datetime("us", zone))
    except pl.exceptions.PolarsError as error:
        msg = (
            f"the column {name!r} has the time zone {zone!r}, which Polars does not know; convert "
            "it to UTC, or to a zone of the IANA database"
        )
        raise SchemaError(msg) from error


def without_null_dtypes(frame: pl.DataFrame) -> pl.DataFrame:
    """Give columns without any value, which have the dtype Null, as text: Arrow's is no help."""
    dtypes = {name: (dtype, _without_null(dtype)) for name, dtype in frame.schema.items()}
    casts = [frame[name].cast(new) for name, (old, new) in dtypes.items() if old != new]
    return frame.with_columns(casts) if casts else frame


def _without_null(dtype: DataType | DataTypeClass) -> DataType | DataTypeClass:
    match dtype:
        case pl.Null():
            return pl.String()
        case pl.List():
            return pl.List(_without_null(dtype.inner))
        case pl.Array():
            return pl.Array(_without_null(dtype.inner), dtype.size)
        case pl.Struct():
            return pl.Struct({field.name: _without_null(field.dtype) for field in dtype.fields})
    return dtype


def field_names(
    frame: pl.DataFrame, fields: Sequence[str] | None, *, without: set[str]
) -> list[str]:
    """Name the columns that become fields, and refuse those that cannot."""
    if fields is None:
        names = [name for name in frame.columns if name not in without]
    elif isinstance(fields, str | bytes) or not isinstance(fields, Iterable):
        msg = "fields must be several names, such as [name]"
        raise TypeError(msg)
    else:
        names = known(frame, [as_text(name, "fields") for name in fields])
    if len({*names}) < len(names):
        msg = "fields names a column twice"
        raise SchemaError(msg)
    if not names:
        msg = "there is no column to write, and an entry needs a field"
        raise SchemaError(msg)
    schema = frame.schema  # made again each time: asked for in the loop, it is quadratic in columns
    for name in names:
        check_column(name, schema[name])
    return names


def check_column(name: str, dtype: DataType | DataTypeClass) -> None:
    """Refuse what cannot go to the core as Arrow."""
    check_name(name, "the columns' names")
    check_writable(name, dtype)


#: How deeply a value may be nested; no reader takes more.
DEEPEST = 128


def check_writable(name: str, dtype: DataType | DataTypeClass, depth: int = 1) -> None:
    """Refuse dtypes that have no text form here already: Polars cannot export all of them."""
    if depth > DEEPEST and dtype.is_nested():
        msg = f"the column {name[:40]!r} is nested more than {DEEPEST} levels deep, beyond reading"
        raise SchemaError(msg)
    if dtype.base_type() not in DTYPES | {pl.Null}:
        msg = (
            f"the column {name!r} has the dtype {dtype}, which has no text form; "
            "cast it or leave it out"
        )
        raise SchemaError(msg)
    match dtype:
        case pl.List() | pl.Array():
            check_writable(name, dtype.inner, depth + 1)
        case pl.Struct():
            for inner in dtype.fields:
                check_name(inner.name, f"the names inside the column {name!r}")
                check_writable(f"{name}.{inner.name}", inner.dtype, depth + 1)


def of_batch(rows: _core.RecordBatch, *more: _core.RecordBatch) -> pl.DataFrame:
    """Give rows that were read as a frame; those of several batches as its chunks."""
    try:
        frame = _frame_of()(rows)
        return pl.concat([frame, *map(_frame_of(), more)]) if more else frame
    except pl.exceptions.PanicException as panic:
        msg = f"Polars cannot take what was read as Arrow: {panic}; please report this"
        raise RedfloeError(msg) from panic


def _quickest() -> Callable[[_core.RecordBatch], pl.DataFrame]:
    """Give what ``pl.DataFrame`` does with a batch, without its search for what it was given.

    That takes as long as the import itself. Its parts are Polars' own business: where a version has
    others, a frame is made as anybody makes one.
    """
    parts: Any = pl.DataFrame, type(pl.Series()._s)
    try:
        wrap, import_batch = parts[0]._from_pydf, parts[1].from_arrow_c_array
        parts[1].struct_unnest  # noqa: B018  # whether there is one
    except AttributeError:
        return pl.DataFrame
    return lambda rows: wrap(import_batch(rows).struct_unnest())


#: To look once is enough.
_frame_of = cache(_quickest)


def known(frame: pl.DataFrame, names: list[str]) -> list[str]:
    columns = {*frame.columns}
    for name in names:
        if name not in columns:
            msg = f"there is no column {name!r}"
            raise SchemaError(msg)
    return names
