"""Python's arguments to the request that the core reads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict

import polars as pl

from redfloe._checks import (
    LARGEST,
    Milliseconds,
    as_key,
    milliseconds,
    natural,
    one_of,
    optional,
    optional_milliseconds,
    positive,
    refuse_frame,
)
from redfloe._ids import EntryIdLike, entry_id, group_start
from redfloe._options import DEFAULTS, DecodeOptions, NullValues, ReadOptions
from redfloe._payload_schema import PayloadSchema, check_format
from redfloe._schema import SchemaLike, as_schema, as_text, check_name, timestamp_schema
from redfloe._words import did_you_mean, readable

#: One stream's key, or several.
Streams: TypeAlias = str | bytes | Iterable[str | bytes]


class Group(TypedDict):
    """How to read through a consumer group; the twin of `Group` in `src/python/request.rs`."""

    group: bytes
    consumer: bytes
    create_at: str | None
    own_pending: str
    auto_ack: bool
    noack: bool
    reclaim_ms: tuple[int, int] | None
    max_processing_ms: int | None
    dead_letter: bytes | None
    max_deliveries: int | None
    recreate: bool
    count_deliveries: bool
    remove_on_close: bool
    remove_idle_ms: int | None
    #: The streams are shards, and so are those of dead letters.
    by_shard: bool


class Many(TypedDict):
    """Several streams, and how they become one result; the twin of `Many` in `request.rs`."""

    streams: list[bytes]
    order: str
    on_schema_mismatch: str
    compare_dtypes: bool
    pattern: tuple[bytes, int] | None
    ranges: list[tuple[tuple[int, int], tuple[int, int]]] | None


class PayloadArguments(TypedDict):
    """A field that holds a document; the twin of `PayloadArguments` in `read.rs`."""

    field: str
    path: str
    prefix: str
    format: str | PayloadSchema
    #: The names of an array's values.
    fields: list[str]
    compression: str | None
    max_bytes: int


class Decoding(TypedDict):
    """How entries become columns; a part of `Request`."""

    schema_overrides: pl.Schema | None
    infer_schema_length: int | None
    id_column: str | None
    timestamp_column: str | None
    sequence_column: str | None
    stream_column: str | None
    timestamp_type: pl.Schema
    rescue_column: str | None
    max_columns: int
    payload: PayloadArguments | None
    on_error: str
    null_values: list[str]
    null_values_by_field: dict[str, list[str]]
    must_exist: bool


class Request(Decoding):
    """What the core reads; `src/python/request.rs` has its twin."""

    stream: bytes
    many: Many | None
    start_id: str
    end_id: str
    count: int | None
    last: int | None
    block_ms: int | None
    schema: pl.Schema | None
    batch_size: int | None
    batch_bytes: int | None
    batch_timeout_ms: int | None
    on_idle: str
    group: Group | None
    #: Up to where an earlier run had come, by the keys of streams.
    resume_after: dict[bytes, str]
    has_begun: bool
    continue_after_loss: bool
    expects_fields: bool
    #: Fields that are read beside those that were asked for: see `_beside`.
    beside: list[str]
    #: How the shards of the stream become one result, where it is a sharded one.
    order: str
    on_schema_mismatch: str


def make_request(
    stream: Streams,
    *,
    takes_several: bool = False,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    end_id: EntryIdLike = "+",
    count: int | None = None,
    last: int | None = None,
    block_ms: Milliseconds | None = None,
    batch_size: int | None = None,
    batch_bytes: int | None = None,
    batch_timeout_ms: Milliseconds | None = None,
    on_idle: Literal["wait", "stop"] = "wait",
    group: Group | None = None,
    continue_after_loss: bool = False,
    options: ReadOptions = DEFAULTS,
) -> Request:
    """Check and normalise what the reading functions have in common; `options` are complete."""
    many = _as_many(stream, options) if takes_several else None
    if many is not None and group is not None:
        _check_many_with_group(many)
    infer_schema = options["infer_schema"]
    if infer_schema and schema is not None:
        msg = "infer_schema=True needs schema=None: a schema leaves nothing to infer"
        raise ValueError(msg)
    overrides = options["schema_overrides"]
    if overrides is not None and schema is not None:
        msg = "schema_overrides needs schema=None: change the dtypes in the schema itself"
        raise ValueError(msg)
    names = None if schema is None else as_schema(schema)
    if names is not None:
        _check_null_values(names, options)
    if last is not None:
        others = {"group": group, "count": count, "block_ms": block_ms}
        for name, value in others.items():
            if value is not None:
                msg = f"last reads the newest entries, and cannot be combined with {name}"
                raise ValueError(msg)
    if group is not None:
        _check_with_group(start_id, end_id)
        start_id = "-"
    decoding = _by_default() if options is DEFAULTS else _decoding(options)
    if many is not None and options["include_stream"] is None:
        stream_column = check_name(options["stream_column"], "stream_column")
        decoding = decoding | {"stream_column": stream_column}
    return {
        "stream": as_key(stream, "stream") if many is None else b"",
        "many": many,
        "start_id": entry_id(start_id, "start_id", round_up=True),
        "end_id": entry_id(end_id, "end_id", round_up=False),
        "count": optional(count, "count"),
        "last": optional(last, "last"),
        "block_ms": optional_milliseconds(block_ms, "block_ms"),
        "schema": names,
        "batch_size": positive(batch_size, "batch_size"),
        "batch_bytes": positive(batch_bytes, "batch_bytes"),
        "batch_timeout_ms": optional_milliseconds(batch_timeout_ms, "batch_timeout_ms"),
        "on_idle": as_text(on_idle, "on_idle"),
        "group": group,
        "resume_after": {},
        "has_begun": False,
        "continue_after_loss": continue_after_loss,
        "expects_fields": True,
        "beside": [],
        "order": options["order"],
        "on_schema_mismatch": options["on_schema_mismatch"],
        **decoding,
    }


def _as_many(streams: Streams, options: ReadOptions) -> Many | None:
    """Give several streams as the core wants them; None for one stream's key."""
    one_of(options["order"], "order", "stream", "id")
    one_of(options["on_schema_mismatch"], "on_schema_mismatch", "union", "raise")
    if isinstance(streams, str | bytes) or not isinstance(streams, Iterable):
        return None
    refuse_frame(streams, "stream", "keys", "stream")
    keys = [as_key(key, "each of several streams") for key in streams]
    if len(set(keys)) < len(keys):
        twice = next(key for number, key in enumerate(keys) if key in keys[:number])
        msg = f"stream names {readable(twice)!r} twice"
        raise ValueError(msg)
    return Many(
        streams=keys,
        order=options["order"],
        on_schema_mismatch=options["on_schema_mismatch"],
        compare_dtypes=True,
        pattern=None,
        ranges=None,
    )


def _decoding(options: DecodeOptions) -> Decoding:
    """Check and normalise how entries become columns."""
    overrides = options["schema_overrides"]
    everywhere, by_field = _null_values(options["null_values"])
    id_column = check_name(options["id_column"], "id_column")
    timestamp_column = check_name(options["timestamp_column"], "timestamp_column")
    sequence_column = check_name(options["sequence_column"], "sequence_column")
    stream_column = check_name(options["stream_column"], "stream_column")
    rescue_column = options["rescue_column"]
    sample = optional(options["infer_schema_length"], "infer_schema_length")
    sample = LARGEST if sample is None else sample
    return Decoding(
        schema_overrides=None if overrides is None else as_schema(overrides, "schema_overrides"),
        infer_schema_length=sample if options["infer_schema"] else None,
        id_column=id_column if options["include_id"] else None,
        timestamp_column=timestamp_column if options["include_timestamp"] else None,
        sequence_column=sequence_column if options["include_sequence"] else None,
        stream_column=stream_column if options["include_stream"] else None,
        timestamp_type=timestamp_schema(options["timestamp_dtype"]),
        rescue_column=None if rescue_column is None else check_name(rescue_column, "rescue_column"),
        max_columns=natural(options["max_columns"], "max_columns"),
        payload=_payload(options),
        on_error=as_text(options["on_error"], "on_error"),
        null_values=everywhere,
        null_values_by_field=by_field,
        must_exist=bool(options["must_exist"]),
    )


def _by_default() -> Decoding:
    """Remember what most calls leave as it is."""
    # By hand: to stubtest what functools.cache gives has another signature.
    if not _DEFAULT:
        _DEFAULT.append(_decoding(DEFAULTS))
    return _DEFAULT[0]


_DEFAULT: list[Decoding] = []


def make_group(
    group: str | bytes | None,
    consumer: str | bytes | None,
    *,
    auto_ack: bool,
    create_group: bool,
    group_start_id: EntryIdLike,
    noack: bool,
    start_id: EntryIdLike | None,
    own_pending: Literal["skip", "first"],
) -> Group | None:
    """Check what belongs to a consumer group; None without one.

    `own_pending` says what becomes of the consumer's pending entries where `start_id` does not.
    """
    if group is None:
        if consumer is not None or auto_ack or noack:
            msg = "consumer, auto_ack and noack need a group"
            raise ValueError(msg)
        return None
    if consumer is None:
        msg = "a group needs a consumer: a name that stays the same when the worker starts again"
        raise ValueError(msg)
    at = group_start(group_start_id, "group_start_id")
    return Group(
        group=as_key(group, "group"),
        consumer=as_key(consumer, "consumer"),
        create_at=at if create_group else None,
        own_pending=own_pending_of(start_id, own_pending),
        auto_ack=bool(auto_ack),
        noack=bool(noack),
        reclaim_ms=None,
        max_processing_ms=None,
        dead_letter=None,
        max_deliveries=None,
        recreate=False,
        count_deliveries=False,
        remove_on_close=False,
        remove_idle_ms=None,
        by_shard=False,
    )


def own_pending_of(
    start_id: EntryIdLike | None, default: Literal["skip", "first"]
) -> Literal["skip", "first", "only"]:
    """Say what a start means to a group, where only these have a meaning."""
    if isinstance(start_id, int) and not isinstance(start_id, bool):
        start_id = str(start_id)
    match start_id:
        case None | "-":
            return default
        case ">":
            return "skip"
        case "0" | "0-0":
            return "only"
    msg = (
        'with a group start_id must be None or ">" for new entries, or "0" for this consumer\'s '
        f"pending ones, not {start_id!r}"
    )
    raise ValueError(msg)


def _check_many_with_group(many: Many) -> None:
    for name, value, default in (
        ("order", many["order"], "stream"),
        ("on_schema_mismatch", many["on_schema_mismatch"], "union"),
    ):
        if value != default:
            msg = (
                f'{name}="{value}" has no meaning with a group, whose entries come as they are '
                "delivered"
            )
            raise ValueError(msg)


def _check_with_group(start_id: EntryIdLike, end_id: EntryIdLike) -> None:
    own_pending_of(start_id, "skip")
    if end_id != "+":
        msg = (
            'with a group end_id must be "+", because the group decides what is delivered; '
            'on_idle="stop" ends when nothing is left'
        )
        raise ValueError(msg)


def follow_pattern(
    request: Request,
    pattern: str | bytes | None,
    discover_ms: Milliseconds,
) -> None:
    """Have a request for no stream follow those that match; check what is said of several."""
    every = milliseconds(discover_ms, "discover_ms")
    if pattern is not None and request["many"] is not None:
        request["many"]["pattern"] = as_key(pattern, "pattern"), every


def either(stream: Streams | None, pattern: str | bytes | None) -> Streams:
    """Give the stream or streams that are named; none where there is a pattern."""
    if (stream is None) == (pattern is None):
        msg = "give either stream or pattern"
        raise TypeError(msg)
    return [] if stream is None else stream


def check_compression(compression: object, payload: object) -> str | None:
    """Give how a payload is compressed, which it may be where there is one."""
    if compression is None:
        return None
    one_of(compression, "payload_compression", "zstd", "gzip")
    if payload is None:
        msg = "payload_compression needs a payload, the field that is compressed"
        raise ValueError(msg)
    return as_text(compression, "payload_compression")


def _payload(options: DecodeOptions) -> PayloadArguments | None:
    """Give the payload's field, and how its keys become columns."""
    path = as_text(options["payload_path"], "payload_path")
    prefix = check_name(options["payload_prefix"], "payload_prefix")
    payload = options["payload"]
    payload_format = check_format(options["payload_format"], payload)
    compression = check_compression(options["payload_compression"], payload)
    names = check_field_names(options["payload_fields"], payload_format)
    if payload is not None:
        return PayloadArguments(
            field=as_text(payload, "payload"),
            path=path,
            prefix=prefix,
            format=payload_format,
            fields=names,
            compression=compression,
            max_bytes=natural(options["payload_max_bytes"], "payload_max_bytes"),
        )
    if (path, prefix) != ("$", ""):
        msg = "payload_path and payload_prefix need a payload, the field that holds JSON"
        raise ValueError(msg)
    return None


def check_field_names(given: object, payload_format: object) -> list[str]:
    """Give the names of the values of a MessagePack array; none where payloads are maps."""
    if given is None:
        return []
    if payload_format != "msgpack":
        msg = 'payload_fields needs payload_format="msgpack"'
        raise ValueError(msg)
    if isinstance(given, str) or not isinstance(given, Sequence):
        msg = f"payload_fields must be several names, not {type(given).__name__}"
        raise TypeError(msg)
    names = [check_name(name, "payload_fields") for name in given]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        msg = f"payload_fields names {twice!r} twice"
        raise ValueError(msg)
    return names


def _null_values(values: NullValues | None) -> tuple[list[str], dict[str, list[str]]]:
    """Split into texts that are null everywhere and texts that are null in one field."""
    match values:
        case None:
            return [], {}
        case Mapping():
            return [], {
                as_text(name, "the fields of null_values"): _texts(texts)
                for name, texts in values.items()
            }
        case _:
            return _texts(values), {}


def _check_null_values(schema: pl.Schema, options: DecodeOptions) -> None:
    """Refuse texts for fields that are not read."""
    values = options["null_values"]
    if not isinstance(values, Mapping):
        return
    known = [*schema, *filter(None, [options["payload"]])]
    unknown = [name for name in values if name not in known]
    if unknown:
        shown = ", ".join(repr(name) + did_you_mean(name, known, " ({})") for name in unknown)
        msg = f"null_values names {shown}, which the schema does not name"
        raise ValueError(msg)


def _texts(values: object) -> list[str]:
    if isinstance(values, Iterable) and not isinstance(values, str):
        return [as_text(text, "null_values") for text in values]
    return [as_text(values, "null_values")]
