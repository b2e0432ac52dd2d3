"""What text formats have no word for, as text: CSV and NDJSON know neither bytes nor infinities."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from redfloe._cli.formats import Format
from redfloe._cli.output import as_json, finite
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from polars.datatypes import DataTypeClass


def with_texts(frame: pl.DataFrame, kind: Format) -> pl.DataFrame:
    r"""Make bytes text in a format of text, with ``\xff`` for a byte that is not UTF-8.

    CSV has lists and structs as JSON.
    """
    if kind not in {Format.csv, Format.ndjson}:
        return frame
    return frame.with_columns(
        pl.Series(column.name, made, dtype=dtype)
        for column in frame.iter_columns()
        for made, dtype in _with_texts(column, kind)
    )


def _with_texts(column: pl.Series, kind: Format) -> Iterator[tuple[list[Any], Any]]:
    """Give the values and the dtype that take a column's place, if it needs others."""
    if kind is Format.csv and column.dtype.is_nested():
        values = map(_text_of, column.to_list())
        yield [None if value is None else as_json(value) for value in values], pl.String
    elif (dtype := _dtype_with_texts(column.dtype)) != column.dtype:
        yield [_text_of(value) for value in column.to_list()], dtype


def _dtype_with_texts(dtype: Any) -> Any:
    match dtype:
        case pl.List(inner=inner):
            return pl.List(_dtype_with_texts(inner))
        case pl.Array(inner=inner, size=size):
            return pl.Array(_dtype_with_texts(inner), size)
        case pl.Struct(fields=fields):
            return pl.Struct({field.name: _dtype_with_texts(field.dtype) for field in fields})
    return pl.String() if dtype == pl.Binary else dtype


def _text_of(value: Any) -> Any:
    match value:
        case bytes():
            return readable(value)
        case list():
            return [_text_of(one) for one in value]
        case dict():
            return {name: _text_of(one) for name, one in value.items()}
    return value


def schema_with_texts(schema: Mapping[str, Any], kind: Format) -> pl.Schema:
    """Give the schema of `with_texts`."""
    return with_texts(pl.DataFrame(schema=schema), kind).schema


def write_ndjson(frame: pl.DataFrame, file: BinaryIO) -> None:
    """Write a line for each row; NaN and infinities, for which JSON has no number, as text."""
    if not any(_holds_floats(dtype) for dtype in frame.dtypes) or not _has_infinite(frame):
        frame.write_ndjson(file)
        return
    lines = BytesIO()
    frame.write_ndjson(lines)
    for line, row in zip(lines.getvalue().splitlines(), frame.iter_rows(named=True), strict=True):
        if _is_finite(row):
            file.write(line + b"\n")
        else:
            text = json.dumps(finite(json.loads(line), row), ensure_ascii=False, allow_nan=False)
            file.write(text.encode() + b"\n")


def write(frame: pl.DataFrame, path: Path, kind: Format) -> None:
    """Write a file of rows."""
    frame = with_texts(frame, kind)
    match kind:
        case Format.parquet:
            frame.write_parquet(path)
        case Format.csv:
            frame.write_csv(path)
        case Format.ndjson:
            with path.open("wb") as file:
                write_ndjson(frame, file)
        case Format.arrow:
            frame.write_ipc(path)


def _holds_floats(dtype: pl.DataType | DataTypeClass) -> bool:
    match dtype:
        case pl.List(inner=inner) | pl.Array(inner=inner):
            return _holds_floats(inner)
        case pl.Struct(fields=fields):
            return any(_holds_floats(field.dtype) for field in fields)
    return dtype.is_float()


def _has_infinite(frame: pl.DataFrame) -> bool:
    flat = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    if len(flat) == sum(_holds_floats(dtype) for dtype in frame.dtypes):
        return not frame.select(pl.all_horizontal(pl.col(flat).is_finite().all())).item()
    return True  # in what is nested each row is looked at


def _is_finite(row: dict[str, Any]) -> bool:
    try:
        json.dumps(row, default=str, allow_nan=False)
    except ValueError:
        return False
    return True
