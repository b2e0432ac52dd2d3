"""Schemas of payloads whose bytes do not say what they are."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Self

from redfloe import _core
from redfloe._checks import one_of
from redfloe._frame import of_batch
from redfloe._schema import as_text

if TYPE_CHECKING:
    import polars as pl


class PayloadSchema(ABC):
    """What payloads of a format are by."""

    def __init__(self, compiled: _core.PayloadSchema) -> None:
        self._compiled = compiled

    @abstractmethod
    def _arguments(self) -> tuple[object, ...]:
        """Give what makes an equal one."""

    @property
    def schema(self) -> pl.Schema:
        """The columns that hold all that the payloads have: it serves as the `schema` of a read."""
        return of_batch(self._compiled.columns()).schema

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._arguments() == other._arguments()

    def __hash__(self) -> int:
        return hash((type(self), self._arguments()))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return type(self), self._arguments()


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

    def _arguments(self) -> tuple[bytes, str]:
        return self._descriptor, self._message

    def __repr__(self) -> str:
        return f"ProtobufSchema({self._message!r})"


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
