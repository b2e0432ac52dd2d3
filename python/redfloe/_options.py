"""Options that several functions take: declared, documented and checked once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter, cleandoc, signature
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar, cast

import polars as pl

from redfloe._words import did_you_mean

if TYPE_CHECKING:
    from polars.datatypes import DataType, DataTypeClass

    from redfloe._payload_schema import PayloadSchema
    from redfloe._schema import SchemaLike

#: How a payload is written.
PayloadFormat: TypeAlias = "Literal['json', 'msgpack'] | PayloadSchema"
PayloadCompression: TypeAlias = Literal["zstd", "gzip"]

#: What a compressed payload may become.
MAX_BYTES = 16 * 1024 * 1024

NullValues: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]

F = TypeVar("F", bound=Callable[..., object])


class ColumnOptions(TypedDict, total=False):
    r"""The options, all by keyword, of every reader: how entries become columns, and what must be.

    A function of yours that passes them on declares them by ``**options:
    Unpack[redfloe.ColumnOptions]``, and type checkers and editors know their names and types.

    Attributes
    ----------
    include_id, include_timestamp, include_sequence : bool, default True, True and False
        Whether to give the entry ID as ``_id`` (String), its milliseconds as ``_ts`` (Int64) and
        its sequence number as ``_seq`` (UInt64), in this order before the fields.
    include_stream : bool, optional
        Whether to give the stream's key as ``_stream`` (String), after these columns; ``\xff``
        stands for a byte that is not UTF-8. By default where there are several streams.
    id_column, timestamp_column, sequence_column, stream_column : str
        Other names for these columns: "_id", "_ts", "_seq" and "_stream" by default.
    timestamp_dtype : polars dtype, default Int64
        ``pl.Datetime`` gives the milliseconds as a datetime, ``pl.Datetime("ms", "UTC")``; another
        unit and time zone may be named. A filter or a join by time needs it: Polars compares a
        datetime with an Int64 column in microseconds, and a date in days, so that no row matches.
        `scan_stream` raises where it sees such microseconds in a filter; it cannot see a date, nor
        what is compared in a frame that has been read.
    schema_overrides : mapping of str to polars dtype, optional
        Without a schema: the dtypes of some fields, which are String otherwise, or inferred. A
        field of these that does not occur has a column of nulls, after the others.
    infer_schema : bool, default False
        Without a schema: type the fields by what a sample of the entries says, as
        `redfloe.infer_schema` does. With a group the sample is of the whole stream; nothing is
        delivered for it, and the user needs the permission to run XRANGE and XREVRANGE.
    infer_schema_length : int or None, default 100
        How many entries the sample has: one half the oldest, the other the newest; the oldest alone
        where a `count` limits the read to them. None takes all.
    null_values : str, sequence of str, or mapping of field to these, optional
        Texts that mean null. Empty text is null for every dtype but String and Binary.
    rescue_column : str, optional
        Adds a String column of this name that keeps what did not fit, unknown fields and all values
        of repeated fields included, as one JSON object a row; no value raises then. What did not
        fit inside a List, Array or Struct has its path for a name: ``"items[1].price"``.
    max_columns : int, default 5000
        Without a schema: the most fields that become columns, where a name of more than 100 bytes
        counts as one for each 100 bytes. Beyond that the read raises `SchemaError`, or, with a
        `rescue_column`, keeps further fields there.
    payload : str, optional
        The field that holds a JSON object, in streams whose producers write one document per entry.
        Its keys become columns in place of that field, and all these options apply to them as to
        fields; see the guide's page on JSON payloads.
    payload_format : {"json", "msgpack"}, ProtobufSchema or AvroSchema, default "json"
        How the payload is written: as JSON, as a MessagePack map, or as a Protobuf message or an
        Avro record, whose fields then have the dtypes that their schema says; see the guide's page
        on payload formats.
    payload_fields : sequence of str, optional
        With MessagePack: the names of the values where a payload is an array in place of a map, in
        their order. Values at its end may be missing; further ones have no name, and no column.
    payload_compression : {"zstd", "gzip"}, optional
        How each payload is compressed, by itself.
    payload_max_bytes : int, default 16 MiB
        How many bytes a payload may have once it is decompressed, or a Protobuf message or Avro
        record once its fields have names. One that has more does not fit.
    payload_path : str, default "$"
        The path in the document to the object whose keys become columns: ``"$.after"``,
        ``"$.a.b"``, or ``'$["a key"]'``. An entry without it has nulls; where the format has a
        schema, a path to what that does not have is refused.
    payload_prefix : str, default ""
        Comes before each key in the name of its column, so that ``id`` of the document is not taken
        for the field ``id`` of the entry; `schema` and `null_values` then have these names.
    must_exist : bool, default False
        Raise `NoStreamError` where the stream does not exist when the reading starts (TYPE, Redis
        1.0), as where its name is mistyped, instead of giving no rows, waiting for it, or creating
        it with its group.
    """

    include_id: bool
    include_timestamp: bool
    include_sequence: bool
    include_stream: bool | None
    id_column: str
    timestamp_column: str
    sequence_column: str
    stream_column: str
    timestamp_dtype: DataType | DataTypeClass
    schema_overrides: SchemaLike | None
    infer_schema: bool
    infer_schema_length: int | None
    null_values: NullValues | None
    rescue_column: str | None
    max_columns: int
    payload: str | None
    payload_path: str
    payload_prefix: str
    payload_format: PayloadFormat
    payload_fields: Sequence[str] | None
    payload_compression: PayloadCompression | None
    payload_max_bytes: int
    must_exist: bool


class DecodeOptions(ColumnOptions, total=False):
    """The options, all by keyword, that the reading functions share: `ColumnOptions` and these.

    A function of yours that passes them on declares them by ``**options:
    Unpack[redfloe.DecodeOptions]``.

    Attributes
    ----------
    on_error : {"raise", "null"}, default "raise"
        What to do with text that does not fit its dtype: raise `DecodeError`, or make it null;
        inside a List, Array or Struct only the value that does not fit.
    """

    on_error: Literal["raise", "null"]


class ReadOptions(DecodeOptions, total=False):
    """The options, all by keyword, of bounded reads: `DecodeOptions` and these.

    They say how several streams become one result, and have no effect where there is one. A
    function of yours that passes them on declares them by ``**options:
    Unpack[redfloe.ReadOptions]``.

    Attributes
    ----------
    order : {"stream", "id"}, default "stream"
        The rows of several streams come stream after stream, as these are listed, or merged by
        entry ID. Entries of different streams that have the same ID come as their streams are
        listed.
    on_schema_mismatch : {"union", "raise"}, default "union"
        Where several streams do not have the same fields and no schema says which to read: a
        column for each field of any stream, null where a stream lacks it; or `SchemaError`, which
        names two streams and the field. With `infer_schema` it is also raised for a field that has
        different dtypes in the samples.
    """

    order: Literal["stream", "id"]
    on_schema_mismatch: Literal["union", "raise"]


_EVERY = ReadOptions(
    include_id=True,
    include_timestamp=True,
    include_sequence=False,
    include_stream=None,
    id_column="_id",
    timestamp_column="_ts",
    sequence_column="_seq",
    stream_column="_stream",
    timestamp_dtype=pl.Int64,
    schema_overrides=None,
    infer_schema=False,
    infer_schema_length=100,
    null_values=None,
    rescue_column=None,
    max_columns=5_000,
    payload=None,
    payload_path="$",
    payload_prefix="",
    payload_format="json",
    payload_fields=None,
    payload_compression=None,
    payload_max_bytes=MAX_BYTES,
    must_exist=False,
    on_error="raise",
    order="stream",
    on_schema_mismatch="union",
)
#: Read-only, because all calls that leave their options as they are share it.
DEFAULTS = cast("ReadOptions", MappingProxyType(_EVERY))


def takes(options: Any) -> Callable[[F], F]:
    """List the options of a function that takes them as ``**options``, or of a class's `__init__`.

    In its signature, and in its docstring in place of the paragraph ``**options``, so that `help`
    and completion at run time show each. `scripts/griffe_numpydoc.py` does the same for the
    documentation site.
    """
    annotations: dict[str, Any] = options.__annotations__
    defaults: Mapping[str, object] = DEFAULTS

    def decorate(function: F) -> F:
        taking: Any = vars(function)["__init__"] if isinstance(function, type) else function
        declared = signature(taking)
        named = [p for p in declared.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        named += [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=defaults[name],
                # Its text, which names what it is made of and does not spell it out.
                annotation=getattr(annotation, "__forward_arg__", annotation),
            )
            for name, annotation in annotations.items()
        ]
        taking.__signature__ = declared.replace(parameters=named)
        if function.__doc__ is not None:  # which `python -OO` leaves out
            paragraphs = "".join(text for name, text in _PARAGRAPHS.items() if name in annotations)
            doc = cleandoc(function.__doc__)
            function.__doc__ = _VAR_KEYWORD.sub(lambda _: paragraphs, doc)
        return function

    return decorate


def complete(options: ColumnOptions, function: Callable[..., object]) -> ReadOptions:
    """Refuse what `function` does not take, and add the defaults of what is missing."""
    if not options:
        return DEFAULTS
    known = signature(function).parameters
    for name in options:
        if name not in known:
            raise TypeError(_unexpected(name, function.__name__, known))
    return {**DEFAULTS, **options}


def _unexpected(name: str, function: str, known: Iterable[str]) -> str:
    hint = did_you_mean(name, known) or f"see help(redfloe.{function})"
    return f"{function}() got an unexpected keyword argument {name!r}; {hint}"


def _paragraphs(options: type) -> dict[str, str]:
    """Give what the docstring says of the options, by the first that a paragraph is about."""
    attributes = cleandoc(options.__doc__ or "").partition("----------\n")[2] + "\n"
    return {found[1]: found[0] for found in _PARAGRAPH.finditer(attributes)}


#: A paragraph of a docstring's list of parameters or attributes.
_PARAGRAPH = re.compile(r"^(\w+).*\n(?: +.*\n)+", re.MULTILINE)
_VAR_KEYWORD = re.compile(r"^\*\*options .*\n(?: +.*\n)+", re.MULTILINE)
_PARAGRAPHS = _paragraphs(ColumnOptions) | _paragraphs(DecodeOptions) | _paragraphs(ReadOptions)
