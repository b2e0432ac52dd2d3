"""Schemas of payloads whose bytes do not say what they are."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from redfloe import _core
from redfloe._checks import natural, one_of
from redfloe._frame import of_batch
from redfloe._schema import as_text

if TYPE_CHECKING:
    import polars as pl


class PayloadSchema(ABC):
    """What payloads of a format are by."""

    def __init__(self, compiled: _core.PayloadSchema) -> None:
        self._compiled = compiled

    @abstractmethod
    def _keywords(self) -> dict[str, Any]:
        """Give the arguments that make an equal one."""

    @property
    def schema(self) -> pl.Schema:
        """The columns that hold all that the payloads have: it serves as the `schema` of a read."""
        return of_batch(self._compiled.columns()).schema

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._keywords() == other._keywords()

    def __hash__(self) -> int:
        return hash(type(self))

    def __reduce__(self) -> tuple[Callable[[], Self], tuple[()]]:
        return partial(type(self), **self._keywords()), ()


class ProtobufSchema(PayloadSchema):
    """The messages that payloads are, for ``payload_format=``.

    Parameters
    ----------
    descriptor : bytes, str or path
        A serialised ``FileDescriptorSet`` of proto2 or proto3, with all that it imports, or the
        file that holds it. ``protoc --include_imports --descriptor_set_out=shop.binpb shop.proto``
        writes one; so does ``buf build -o shop.binpb``.
    message : str
        The message's full name, with its package: ``"shop.Order"``.

    Raises
    ------
    ValueError
        It is no descriptor set, or lacks the message or an import.
    FileNotFoundError
        There is no such file.

    Notes
    -----
    A field is null where it is not written and its absence can be told: it is ``optional``, of a
    ``oneof``, a message, or of proto2. Others have the value that stands for it, such as 0 or an
    empty list. A repeated field is a List, a message a Struct, an enum an Enum of its names, and a
    map a List of Structs of ``key`` and ``value``. A ``Timestamp`` is a Datetime of microseconds in
    UTC, a ``Duration`` a Duration, a wrapper its value or null. ``Struct``, ``Value`` and
    ``ListValue``, a message inside itself, and one without fields are String, which holds JSON.
    Each may be read as another dtype, as JSON's may: an enum as String, for example, which takes
    new names too.

    Fields that the message does not have are passed over, and so are extensions. A payload is
    refused that is nested more than 128 levels deep, or comes to more than `payload_max_bytes`.

    Examples
    --------
    Google's own files are compiled into its library; one of them has a message of one field:

    >>> import polars as pl
    >>> import redfloe
    >>> from google.protobuf import descriptor_pb2, source_context_pb2
    >>> file = descriptor_pb2.FileDescriptorProto()
    >>> _ = source_context_pb2.DESCRIPTOR.CopyToProto(file)
    >>> files = descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()
    >>> contexts = redfloe.ProtobufSchema(files, "google.protobuf.SourceContext")
    >>> dict(contexts.schema)
    {'file_name': String}
    >>> options = {"payload": "data", "payload_format": contexts}
    >>> df = pl.DataFrame({"file_name": ["shop.proto"]})
    >>> ids = redfloe.write_stream(url, df, "contexts", **options)
    >>> redfloe.read_stream(url, "contexts", **options)["file_name"].to_list()
    ['shop.proto']
    """

    def __init__(self, descriptor: bytes | str | os.PathLike[str], message: str) -> None:
        self._descriptor = _contents(descriptor, "descriptor")
        self._message = as_text(message, "message")
        super().__init__(_core.PayloadSchema.protobuf(self._descriptor, self._message))

    def _keywords(self) -> dict[str, Any]:
        return {"descriptor": self._descriptor, "message": self._message}

    def __repr__(self) -> str:
        return f"ProtobufSchema({self._message!r})"


#: A schema as JSON, as the values that `json.loads` makes of that, or the file that holds it.
AvroSchemaLike: TypeAlias = str | os.PathLike[str] | Mapping[str, object]

_FRAMINGS = ("none", "single-object", "confluent", "container")


class AvroSchema(PayloadSchema):
    """The Avro records that payloads are, for ``payload_format=``.

    Parameters
    ----------
    schema : schema, mapping of int to schema, or callable, optional
        The schema that payloads are written by: JSON, what `json.loads` makes of it, or the path of
        a file that holds it. Where a header says which one it is, several: a mapping of their IDs,
        or a function of an ID that gives its schema, such as one that asks a registry; None says
        that there is none, so that the payload does not fit. It is called from a thread of its own,
        and its answer is remembered, None for ten seconds. What it raises ends the read with a
        `SchemaError`, whose cause it is: the payload's entry is neither acknowledged nor moved to a
        dead letter, and can be read once the registry is back. With containers, which bring their
        schema with them, it is the one that names the columns, and may be missing.
    reader_schema : schema, optional
        The schema whose fields become columns, whatever schema a payload is written by: fields may
        have aliases, wider types, and defaults for what a payload lacks.
    framing : {"none", "single-object", "confluent", "container"}, default "none"
        How a payload says of which schema it is: not at all; by the header of the specification's
        single-object encoding; by the five bytes of Confluent's serializers, which have an ID; or
        as an object container file with one record, which can be read, but not written.
    schema_id : int, optional
        With one schema and Confluent's header: the ID that payloads must have, or do not fit. It
        is the ID that is written; without it the header is passed over.

    Raises
    ------
    ValueError
        It is no schema, the reader's schema cannot be read from it, or options do not go together.
    FileNotFoundError
        There is no such file.

    Notes
    -----
    A record is a Struct, an array a List, a map a List of Structs of ``key`` and ``value``, an enum
    an Enum of its symbols, ``fixed`` Binary. A union of ``null`` and a type is that type; of
    several types it is String, where these do not agree. Logical types are what they mean: Decimal,
    Date, Time, Datetime (``timestamp-*`` in UTC, ``local-timestamp-*`` without a zone), UUIDs as
    String. A record inside itself is String that holds JSON. Each may be read as another dtype, as
    JSON's may.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> order = {
    ...     "type": "record",
    ...     "name": "shop.Order",
    ...     "fields": [
    ...         {"name": "id", "type": "long"},
    ...         {"name": "note", "type": ["null", "string"]},
    ...     ],
    ... }
    >>> orders = redfloe.AvroSchema(order)
    >>> dict(orders.schema)
    {'id': Int64, 'note': String}
    >>> options = {"payload": "data", "payload_format": orders}
    >>> df = pl.DataFrame({"id": [1, 2], "note": ["first", None]})
    >>> ids = redfloe.write_stream(url, df, "shop:orders", **options)
    >>> redfloe.read_stream(url, "shop:orders", **options).select("id", "note").rows()
    [(1, 'first'), (2, None)]
    """

    def __init__(
        self,
        schema: AvroSchemaLike
        | Mapping[int, AvroSchemaLike]
        | Callable[[int], AvroSchemaLike | None]
        | None = None,
        *,
        reader_schema: AvroSchemaLike | None = None,
        framing: Literal["none", "single-object", "confluent", "container"] = "none",
        schema_id: int | None = None,
    ) -> None:
        one_of(framing, "framing", *_FRAMINGS)
        one: str | None = None
        several: dict[int, str] = {}
        lookup = schema if callable(schema) else None
        if isinstance(schema, Mapping) and not all(isinstance(key, str) for key in schema):
            several = {_id(key, "an ID"): _json(text, "schema") for key, text in schema.items()}
        elif schema is not None and lookup is None:
            one = _json(schema, "schema")
        reader = None if reader_schema is None else _json(reader_schema, "reader_schema")
        self._own: dict[str, Any] = {
            "schema": one or several or lookup,
            "reader_schema": reader,
            "framing": framing,
            "schema_id": None if schema_id is None else _id(schema_id, "schema_id"),
        }
        ask = None if lookup is None else partial(_ask, lookup)
        own_id = self._own["schema_id"]
        super().__init__(_core.PayloadSchema.avro(one, several, ask, reader, framing, own_id))

    def _keywords(self) -> dict[str, Any]:
        return self._own

    def __repr__(self) -> str:
        return f"AvroSchema(framing={self._own['framing']!r})"


def _ask(lookup: Callable[[int], AvroSchemaLike | None], schema_id: int) -> str | None:
    found = lookup(schema_id)
    return None if found is None else _json(found, f"the schema {schema_id}")


def _id(given: object, parameter: str) -> int:
    """Give the ID of a schema, which has four bytes in Confluent's header."""
    number = natural(given, parameter)
    if number >= 2**32:
        msg = f"{parameter} must be less than 2**32, but is {number}"
        raise ValueError(msg)
    return number


def _json(given: object, parameter: str) -> str:
    """Give a schema as JSON, which the core checks."""
    match given:
        case str() if given.lstrip()[:1] in {"{", "[", '"'}:
            return given
        case str() | os.PathLike():
            return Path(given).read_text(encoding="utf-8-sig")  # as some editors write it
        case Mapping() | list():
            return json.dumps(given)
    msg = f"{parameter} must be an Avro schema or a path, not {type(given).__name__}"
    raise TypeError(msg)


def _contents(given: object, parameter: str) -> bytes:
    """Give bytes, or what is in a file."""
    match given:
        case bytes():
            return given
        case str() | os.PathLike():
            return Path(given).read_bytes()
    msg = f"{parameter} must be bytes or a path, not {type(given).__name__}"
    raise TypeError(msg)


#: The formats that a name does not suffice for.
_NEED_SCHEMA = {
    "protobuf": 'redfloe.ProtobufSchema("shop.binpb", "shop.Order")',
    "avro": 'redfloe.AvroSchema("order.avsc")',
}


def check_format(payload_format: object, payload: object) -> str | PayloadSchema:
    """Give the format of a payload, which is none without one."""
    if payload is None and payload_format != "json":
        msg = "payload_format needs a payload, the field that holds the document"
        raise ValueError(msg)
    if isinstance(payload_format, PayloadSchema):
        return payload_format
    if isinstance(payload_format, str) and payload_format in _NEED_SCHEMA:
        schema = _NEED_SCHEMA[payload_format]
        msg = f"{payload_format} needs its schema; pass payload_format={schema}, say"
        raise ValueError(msg)
    one_of(payload_format, "payload_format", "json", "msgpack")
    return as_text(payload_format, "payload_format")
