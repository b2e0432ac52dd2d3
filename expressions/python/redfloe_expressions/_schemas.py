"""Arguments for formats that have a schema, as the text that the plugin takes."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

#: A schema as JSON, as the values that `json.loads` makes of that, or the file that holds it.
AvroSchemaLike: TypeAlias = str | os.PathLike[str] | Mapping[str, object]
Framing: TypeAlias = Literal["none", "single-object", "confluent", "container"]


class PayloadSchemaOptions(TypedDict, total=False):
    """What payloads are by: of Protobuf the first two, of Avro the others."""

    #: A serialised ``FileDescriptorSet``, or the path of one.
    descriptor: bytes | str | os.PathLike[str]
    #: The message's full name.
    message: str
    #: What payloads are written by; several by the IDs of Confluent's header.
    schema: AvroSchemaLike | Mapping[int, AvroSchemaLike]
    #: Whose fields there are, whatever payloads are written by.
    reader_schema: AvroSchemaLike
    #: How payloads say of which schema they are.
    framing: Framing
    #: The ID in Confluent's header.
    schema_id: int


_PROTOBUF = {"descriptor", "message"}
_AVRO = {"schema", "reader_schema", "framing", "schema_id"}


def schema_text(payload_format: str, given: PayloadSchemaOptions) -> str | None:
    """Give them as the plugin wants them; None for a format without a schema."""
    allowed = {"protobuf": _PROTOBUF, "avro": _AVRO}.get(payload_format, set())
    for name in given:
        if name not in _PROTOBUF | _AVRO:
            msg = f"there is no argument {name!r}"
            raise TypeError(msg)
        if name not in allowed:
            msg = f"{name} has no meaning for payloads of {payload_format}"
            raise TypeError(msg)
    if payload_format == "protobuf":
        if given.keys() != _PROTOBUF:
            msg = "protobuf needs a descriptor and a message"
            raise TypeError(msg)
        descriptor = b64encode(_contents(given["descriptor"])).decode()
        return json.dumps({"protobuf": {"descriptor": descriptor, "message": given["message"]}})
    if payload_format == "avro":
        schema, reader = given.get("schema"), given.get("reader_schema")
        one, several = None, {}
        if isinstance(schema, Mapping) and not all(isinstance(key, str) for key in schema):
            several = {int(key): _json(text, "schema") for key, text in schema.items()}
        elif schema is not None:
            one = _json(schema, "schema")
        options = {
            "schema": one,
            "schemas": several,
            "reader_schema": None if reader is None else _json(reader, "reader_schema"),
            "framing": given.get("framing", "none"),
            "schema_id": given.get("schema_id"),
        }
        return json.dumps({"avro": options})
    return None


def _json(given: object, parameter: str) -> str:
    match given:
        case str() if given.lstrip()[:1] in {"{", "[", '"'}:
            return given
        case str() | os.PathLike():
            return Path(given).read_text(encoding="utf-8")
        case Mapping() | list():
            return json.dumps(given)
    msg = f"{parameter} must be an Avro schema or a path, not {type(given).__name__}"
    raise TypeError(msg)


def _contents(given: object) -> bytes:
    match given:
        case bytes():
            return given
        case str() | os.PathLike():
            return Path(given).read_bytes()
    msg = f"descriptor must be bytes or a path, not {type(given).__name__}"
    raise TypeError(msg)
