"""Python's arguments to the write that the core does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict, Unpack

import polars as pl

from redfloe import _core
from redfloe._arguments import check_compression, check_field_names
from redfloe._checks import as_key, natural, one_of, positive
from redfloe._errors import SchemaError
from redfloe._frame import as_frame, check_column, field_names, known, without_null_dtypes
from redfloe._ids import EntryIdLike, entry_id
from redfloe._options import PayloadCompression, PayloadFormat
from redfloe._payload_schema import PayloadSchema, check_format
from redfloe._schema import as_text
from redfloe._words import counted, did_you_mean

NullTexts: TypeAlias = str | Mapping[str, str]

#: What a read calls the metadata of entries.
_METADATA = frozenset(("_id", "_ts", "_seq"))


class WriteRequest(TypedDict):
    """What the core writes and how; `src/python/write.rs` has its twin."""

    stream: bytes | None
    stream_column: str | None
    #: Over how many shards, and the field by which entries are divided.
    shards: tuple[int, str] | None
    fields: list[str] | None
    id_column: str | None
    timestamp_column: str | None
    null_text: str | None
    null_text_by_field: dict[str, str]
    payload: str | None
    payload_format: str | PayloadSchema
    #: The names of an array's values.
    payload_fields: list[str]
    payload_compression: str | None
    #: Columns that are fields of their own beside a payload.
    beside: list[str]
    maxlen: int | None
    minid: str | None
    approximate: bool
    limit: int | None
    nomkstream: bool
    batch_size: int
    idmp_producer: bytes | None
    atomic: bool
    skip_empty: bool
    #: Rows that this write continues, and how many of them are in.
    rows_before: tuple[int, int]
    #: What writes that this one continues know of the streams.
    known_streams: _core.KnownStreams | None


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
    payload: str | None
    payload_format: PayloadFormat
    payload_fields: Sequence[str] | None
    payload_compression: PayloadCompression | None
    on_empty_row: Literal["raise", "skip"]
    atomic: bool
    idempotent: str | bytes | None
    shards: int | None
    shard_by: str | None


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
    if fields is None:
        _check_left_out(frame, special)
    names = field_names(frame, fields, without={*_METADATA, *special})
    for name in known(frame, special):
        check_column(name, frame.schema[name])
    # By name, and not by an expression: `^a$` and `*` are names here, and no patterns.
    columns = without_null_dtypes(frame[known(frame, [*dict.fromkeys([*names, *special])])])
    request["fields"] = names
    if isinstance(stream, pl.Expr):
        stream_column = _unused(columns)
        keys = _keys(frame, stream.cast(pl.String).alias(stream_column))
        columns = columns.with_columns(keys)
        request["stream_column"] = stream_column
    else:
        request["stream"] = as_key(stream, "stream")
    _check_shards(request, columns)
    return Write(columns, request)


def _check_shards(request: WriteRequest, columns: pl.DataFrame) -> None:
    if request["shards"] is None:
        return
    shards, by = request["shards"]
    if request["stream"] is None:
        msg = "shards needs the name of one stream, not an expression for each row's"
        raise ValueError(msg)
    if by not in columns.columns:
        msg = f"shard_by names {by!r}, which is none of the columns that are written"
        raise SchemaError(msg + did_you_mean(by, columns.columns))
    _core.Shards(request["stream"], shards, by)  # refuses what cannot be


def as_shards(shards: object, by: object) -> tuple[int, str] | None:
    if (shards is None) != (by is None):
        msg = (
            "shards and shard_by go together: how many shards the stream has, and the column that "
            "says which one a row goes to"
        )
        raise TypeError(msg)
    return None if shards is None else (natural(shards, "shards"), as_text(by, "shard_by"))


def _check_left_out(frame: pl.DataFrame, special: list[str]) -> None:
    """Refuse to leave out, without a word, what its caller may want to be written.

    A frame with `_id` is one that was read, and what it says of its entries is no field of theirs.
    One with `_ts` alone was made of such a frame, by a `group_by_dynamic`, say.
    """
    columns = frame.columns
    if "_ts" in columns and "_id" not in columns and "_ts" not in special:
        msg = (
            "the column '_ts' would not be written: pass timestamp_column=\"_ts\" to make IDs of "
            "it, name it in fields, rename it to make it a field, or drop it"
        )
        raise SchemaError(msg)
    letters = [name for name in columns if name.startswith("_dead_")]
    if letters:
        msg = (
            f"the column {letters[0]!r} tells of a dead letter: replay_dead_letters puts dead "
            "letters back into their streams; to write these rows as new entries drop the columns "
            "that begin with _dead_, or name the others in fields"
        )
        raise SchemaError(msg)


def make_request(**options: Unpack[WriteOptions]) -> WriteRequest:
    """Check what says how to write, without stream and fields."""
    id_column, timestamp_column = options.get("id_column"), options.get("timestamp_column")
    maxlen, minid, limit = options.get("maxlen"), options.get("minid"), options.get("limit")
    approximate = options.get("approximate", True)
    idempotent = options.get("idempotent")
    payload = options.get("payload")
    payload_compression = check_compression(options.get("payload_compression"), payload)
    payload_format = check_format(options.get("payload_format", "json"), payload)
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
    if idempotent in ("", b""):
        msg = "idempotent must not be empty: it names this producer to the server"
        raise ValueError(msg)
    one_of(on_empty_row, "on_empty_row", "raise", "skip")
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
        payload=None if payload is None else as_text(payload, "payload"),
        payload_format=payload_format,
        payload_fields=check_field_names(options.get("payload_fields"), payload_format),
        payload_compression=payload_compression,
        beside=[],
        maxlen=None if maxlen is None else natural(maxlen, "maxlen"),
        minid=None if minid is None else entry_id(minid, "minid", round_up=True),
        approximate=bool(approximate),
        limit=None if limit is None else natural(limit, "limit"),
        nomkstream=bool(options.get("nomkstream", False)),
        batch_size=positive(options.get("batch_size", 10_000), "batch_size") or 1,
        idmp_producer=None if idempotent is None else as_key(idempotent, "idempotent"),
        atomic=bool(options.get("atomic", False)),
        skip_empty=on_empty_row == "skip",
        rows_before=(0, 0),
        shards=as_shards(options.get("shards"), options.get("shard_by")),
        known_streams=None,
    )


def _keys(frame: pl.DataFrame, stream: pl.Expr) -> pl.Series:
    """Give each row's stream; what has one value for the whole frame, as a literal, is for all."""
    given = frame.select(stream).to_series()
    try:
        keys = frame.with_columns(stream).to_series(-1)  # which repeats a literal, and no column
    except pl.exceptions.PolarsError as error:
        msg = (
            f"the expression for the stream gives {counted(given.len(), 'key', 'keys')} for "
            f"{counted(frame.height, 'row', 'rows')}; it "
            "must give each row's, so use fill_null rather than drop_nulls, say"
        )
        raise ValueError(msg) from error
    return keys


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
