"""Python's arguments to the request that the core reads."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias, TypedDict

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from redfloe._errors import SchemaError

EntryIdLike: TypeAlias = str | datetime
SchemaLike: TypeAlias = (
    Mapping[str, DataType | DataTypeClass] | Sequence[tuple[str, DataType | DataTypeClass]]
)
NullValues: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]
OnError: TypeAlias = Literal["raise", "null"]


class Request(TypedDict):
    """What the core reads; `src/python/read.rs` has its twin."""

    stream: bytes
    start_id: str
    end_id: str
    count: int | None
    block_ms: int | None
    schema: pl.Schema | None
    infer_schema_length: int | None
    id_column: str | None
    timestamp_column: str | None
    sequence_column: str | None
    timestamp_type: pl.Schema
    rescue_column: str | None
    on_error: str
    null_values: list[str]
    null_values_by_field: dict[str, list[str]]

def make_request(
    stream: str | bytes,
    *,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    block_ms: int | None = None,
    include_id: bool = True,
    include_timestamp: bool = True,
    include_sequence: bool = False,
    id_column: str = "_id",
    timestamp_column: str = "_ts",
    sequence_column: str = "_seq",
    timestamp_dtype: DataType | DataTypeClass = pl.Int64,
    infer_schema_length: int | None = None,
    null_values: NullValues | None = None,
    on_error: OnError = "raise",
    rescue_column: str | None = None,
) -> Request:
    """Check and normalise what the reading functions have in common."""
    everywhere, by_field = _null_values(null_values)
    return Request(
        stream=_key(stream),
        start_id=_entry_id(start_id, "start_id", round_up=True),
        end_id=_entry_id(end_id, "end_id", round_up=False),
        count=count,
        block_ms=block_ms,
        schema=None if schema is None else _schema(schema),
        infer_schema_length=infer_schema_length,
        id_column=id_column if include_id else None,
        timestamp_column=timestamp_column if include_timestamp else None,
        sequence_column=sequence_column if include_sequence else None,
        timestamp_type=_schema({"timestamp_dtype": timestamp_dtype}),
        rescue_column=rescue_column,
        on_error=on_error,
        null_values=everywhere,
        null_values_by_field=by_field,
    )


def _key(stream: str | bytes) -> bytes:
    match stream:
        case str():
            return stream.encode()
        case bytes():
            return stream
    msg = f"stream must be str or bytes, not {type(stream).__name__}"
    raise TypeError(msg)


def _entry_id(value: EntryIdLike, parameter: str, *, round_up: bool) -> str:
    """Give the ID's text; a datetime stands for its millisecond, and is UTC where it is naive."""
    match value:
        case str():
            return value
        case datetime():
            aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
            # Not timestamp(), whose float is off by microseconds for dates far from the epoch.
            since_epoch = aware - datetime(1970, 1, 1, tzinfo=UTC)
            millis = since_epoch // timedelta(milliseconds=1)
            if round_up and since_epoch % timedelta(milliseconds=1):
                millis += 1
            if millis < 0:
                msg = f"{parameter} is before 1970, which no entry ID can be: {value}"
                raise ValueError(msg)
            return str(millis)
    msg = f"{parameter} must be str or datetime, not {type(value).__name__}"
    raise TypeError(msg)


def _schema(schema: SchemaLike) -> pl.Schema:
    """Give every dtype as an instance, in an object that exports itself to Arrow."""
    pairs = list(schema.items()) if isinstance(schema, Mapping) else [*schema]
    names = [name for name, _ in pairs]
    for name in names:
        if not isinstance(name, str):
            msg = f"the schema's field names must be str, not {type(name).__name__}"
            raise TypeError(msg)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"the schema names the field {twice[0]!r} twice"
        raise SchemaError(msg)
    try:
        return pl.Schema(pairs)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        msg = f"the schema cannot be read: {error}"
        raise SchemaError(msg) from error


def _null_values(values: NullValues | None) -> tuple[list[str], dict[str, list[str]]]:
    """Split into texts that are null everywhere and texts that are null in one field."""
    match values:
        case None:
            return [], {}
        case Mapping():
            return [], {name: _texts(texts) for name, texts in values.items()}
        case _:
            return _texts(values), {}


def _texts(values: str | Iterable[str]) -> list[str]:
    texts = [values] if isinstance(values, str) else list(values)
    for text in texts:
        if not isinstance(text, str):
            msg = f"null_values must be str, not {type(text).__name__}"
            raise TypeError(msg)
    return texts
