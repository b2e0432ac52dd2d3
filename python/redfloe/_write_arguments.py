"""Python's arguments to the write that the core does."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypedDict, Unpack

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from redfloe._arguments import (
    DTYPES,
    EntryIdLike,
    as_key,
    as_text,
    check_name,
    entry_id,
    natural,
    positive,
)
from redfloe._errors import SchemaError

NullTexts: TypeAlias = str | Mapping[str, str]

#: What a read calls the metadata of entries.
_METADATA = frozenset(("_id", "_ts", "_seq"))


class ArrowStream(Protocol):
    """What has ``__arrow_c_stream__``."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object: ...


class WriteRequest(TypedDict):
    """What the core writes and how; `src/python/write.rs` has its twin."""

    stream: bytes | None
    stream_column: str | None
    fields: list[str] | None
    id_column: str | None
    timestamp_column: str | None
    null_text: str | None
    null_text_by_field: dict[str, str]
    maxlen: int | None
    minid: str | None
    approximate: bool
    limit: int | None
    nomkstream: bool
    batch_size: int
    idmp_producer: bytes | None
    atomic: bool
    skip_empty: bool


@dataclass(frozen=True)
class Write:
    """A frame of what is to be written, and how."""

    frame: pl.DataFrame
    request: WriteRequest


class WriteOptions(TypedDict, total=False):
    """What the writing functions have in common; each means the same as in `write_stream`."""

    id_column: str | None
    timestamp_column: str | None
    maxlen: int | None
    minid: EntryIdLike | None
    approximate: bool
    limit: int | None
    nomkstream: bool
    batch_size: int
    null_values: NullTexts | None
    on_empty_row: Literal["raise", "skip"]
    atomic: bool
    idempotent: str | bytes | None


def make_write(
    df: object,
    stream: object,
    *,
    fields: Sequence[str] | None = None,
    **options: Unpack[WriteOptions],
) -> Write:
    """Check and normalise a frame, and how it is to be written."""
    frame = as_frame(df)
    request = make_request(**options)
    special = [
        name for name in (request["id_column"], request["timestamp_column"]) if name is not None
    ]
    names = field_names(frame, fields, without={*_METADATA, *special})
    columns = frame.select(_known(frame, [*dict.fromkeys([*names, *special])]))
    request["fields"] = names
    if isinstance(stream, pl.Expr):
        stream_column = _unused(columns)
        keys = frame.select(stream.cast(pl.String).alias(stream_column)).to_series()
        if keys.len() != frame.height:
            keys = keys.new_from_index(0, frame.height)  # an expression of literals only
        columns = columns.with_columns(keys)
        request["stream_column"] = stream_column
    else:
        request["stream"] = as_key(stream, "stream")
    return Write(columns, request)


def make_request(**options: Unpack[WriteOptions]) -> WriteRequest:
    """Check what says how to write, without stream and fields."""
    id_column, timestamp_column = options.get("id_column"), options.get("timestamp_column")
    maxlen, minid, limit = options.get("maxlen"), options.get("minid"), options.get("limit")
    approximate = options.get("approximate", True)
    idempotent = options.get("idempotent")
    on_empty_row = options.get("on_empty_row", "raise")
    if id_column is not None and timestamp_column is not None:
        msg = "id_column and timestamp_column exclude each other"
        raise ValueError(msg)
    if maxlen is not None and minid is not None:
        msg = "maxlen and minid exclude each other"
        raise ValueError(msg)
    if limit is not None and (not approximate or (maxlen is None and minid is None)):
        msg = "limit needs maxlen or minid, and approximate=True"
        raise ValueError(msg)
    if idempotent is not None and (id_column is not None or timestamp_column is not None):
        msg = "idempotent needs IDs that the server makes; rows with their own IDs do not need it"
        raise ValueError(msg)
    if on_empty_row not in {"raise", "skip"}:
        msg = f'on_empty_row must be "raise" or "skip", not {on_empty_row!r}'
        raise ValueError(msg)
    text, by_field = _null_texts(options.get("null_values"))
    return WriteRequest(
        stream=None,
        stream_column=None,
        fields=None,
        id_column=None if id_column is None else as_text(id_column, "id_column"),
        timestamp_column=(
            None if timestamp_column is None else as_text(timestamp_column, "timestamp_column")
        ),
        null_text=text,
        null_text_by_field=by_field,
        maxlen=None if maxlen is None else natural(maxlen, "maxlen"),
        minid=None if minid is None else entry_id(minid, "minid", round_up=True),
        approximate=bool(approximate),
        limit=None if limit is None else natural(limit, "limit"),
        nomkstream=bool(options.get("nomkstream", False)),
        batch_size=positive(options.get("batch_size", 10_000), "batch_size") or 1,
        idmp_producer=None if idempotent is None else as_key(idempotent, "idempotent"),
        atomic=bool(options.get("atomic", False)),
        skip_empty=on_empty_row == "skip",
    )


def as_frame(df: object) -> pl.DataFrame:
    """Give what speaks Arrow as a Polars frame, without a copy where that is possible."""
    match df:
        case pl.DataFrame():
            return df
        case pl.LazyFrame():
            msg = "df is a LazyFrame; write it with sink_stream, or collect it"
            raise TypeError(msg)
    if not hasattr(df, "__arrow_c_stream__"):
        msg = (
            "df must be a polars DataFrame, or another object with __arrow_c_stream__, not "
            f"{type(df).__name__}"
        )
        raise TypeError(msg)
    return pl.DataFrame(df)


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
        names = _known(frame, [as_text(name, "fields") for name in fields])
    if len({*names}) < len(names):
        msg = "fields names a column twice"
        raise SchemaError(msg)
    if not names:
        msg = "there is no column to write, and an entry needs a field"
        raise SchemaError(msg)
    schema = frame.schema  # made anew each time: asked for in the loop, it is quadratic in columns
    for name in names:
        check_name(name, "the columns' names")
        check_writable(name, schema[name])
    return names


def check_writable(name: str, dtype: DataType | DataTypeClass) -> None:
    """Refuse what no text stands for here already: Polars cannot export all of it."""
    if dtype.base_type() not in DTYPES | {pl.Null}:
        msg = (
            f"the column {name!r} has the dtype {dtype}, which no text stands for; "
            "cast it or leave it out"
        )
        raise SchemaError(msg)
    match dtype:
        case pl.List() | pl.Array():
            check_writable(name, dtype.inner)
        case pl.Struct():
            for inner in dtype.fields:
                check_writable(f"{name}.{inner.name}", inner.dtype)


def _known(frame: pl.DataFrame, names: list[str]) -> list[str]:
    columns = {*frame.columns}
    for name in names:
        if name not in columns:
            msg = f"there is no column {name!r}"
            raise SchemaError(msg)
    return names


def _unused(frame: pl.DataFrame) -> str:
    name = "_stream"
    while name in frame.columns:
        name += "_"
    return name


def _null_texts(values: object) -> tuple[str | None, dict[str, str]]:
    """Split into a text for every field and texts by field."""
    match values:
        case None:
            return None, {}
        case Mapping():
            return None, {
                as_text(name, "the fields of null_values"): as_text(text, "null_values")
                for name, text in values.items()
            }
    return as_text(values, "null_values"), {}
