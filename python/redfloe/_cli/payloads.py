"""How the command line is told of payloads: their field, their format, their compression."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    import polars as pl

Payload = Annotated[
    str | None,
    typer.Option(
        "--payload",
        metavar="FIELD",
        help="The field that holds a document, whose keys become columns.",
        show_default=False,
    ),
]
PayloadFormat = Annotated[
    str,
    typer.Option(
        "--payload-format",
        metavar="FORMAT",
        help="What the document is: json, msgpack, msgpack:FIELD,FIELD (arrays), "
        "protobuf:FILE:MESSAGE (FILE is a descriptor set), avro:FILE, avro-single-object:FILE, "
        "avro-confluent:FILE:ID or avro-container.",
    ),
]


class Compression(StrEnum):
    """How payloads are compressed."""

    zstd = "zstd"
    gzip = "gzip"


PayloadCompression = Annotated[
    Compression | None,
    typer.Option("--payload-compression", help="How the document is compressed."),
]

_AVRO: dict[str, Literal["none", "single-object", "confluent", "container"]] = {
    "avro": "none",
    "avro-single-object": "single-object",
    "avro-confluent": "confluent",
    "avro-container": "container",
}


@dataclass(frozen=True)
class Payloads:
    """What was typed of payloads."""

    field: str | None
    format: str = "json"
    compression: Compression | None = None

    @property
    def kind(self) -> str:
        """Give the format without the names of files, which may move."""
        name, _, rest = self.format.partition(":")
        if name == "protobuf":
            return f"{name}:{rest.rpartition(':')[2]}"
        return name if name in _AVRO else self.format

    @cached_property
    def options(self) -> dict[str, Any]:
        """Give the options of a read or of a write.

        Raises
        ------
        typer.BadParameter
            There is no such format, its schema cannot be had, or there is no `--payload`.
        """
        if self.field is None:
            for option, given in (
                ("format", self.format != "json"),
                ("compression", self.compression),
            ):
                if given:
                    msg = "it needs --payload, the field that holds the document"
                    raise typer.BadParameter(msg, param_hint=f"--payload-{option}")
            return {"payload": None}
        compression = None if self.compression is None else self.compression.value
        try:
            form = self._format()
        except (ValueError, OSError) as error:
            raise typer.BadParameter(str(error), param_hint="--payload-format") from error
        return {"payload": self.field, "payload_compression": compression, **form}

    @property
    def schema(self) -> Mapping[str, pl.DataType]:
        """Give the columns whose dtypes the format's own schema tells."""
        return getattr(self.options.get("payload_format"), "schema", {})

    def _format(self) -> dict[str, Any]:
        from redfloe import AvroSchema, ProtobufSchema

        name, colon, rest = self.format.partition(":")
        match name:
            case "json" if not colon:
                return {"payload_format": name}
            case "msgpack":
                if colon and not rest:
                    msg = "give the names of the fields of an array: msgpack:id,name"
                    raise ValueError(msg)
                return {"payload_format": name, "payload_fields": rest.split(",") if rest else None}
            case "protobuf":
                file, _, message = rest.rpartition(":")
                if not (file and message):
                    msg = "give the descriptor set and the message: protobuf:shop.binpb:shop.Order"
                    raise ValueError(msg)
                return {"payload_format": ProtobufSchema(file, message)}
            case _ if framing := _AVRO.get(name):
                if not rest and framing != "container":
                    msg = f"give the file of the schema: {name}:order.avsc"
                    raise ValueError(msg)
                file, schema_id = _with_id(rest) if framing == "confluent" else (rest, None)
                schema = AvroSchema(file or None, framing=framing, schema_id=schema_id)
                return {"payload_format": schema}
        msg = f"{self.format!r} is none of json, msgpack, protobuf:FILE:MESSAGE, {', '.join(_AVRO)}"
        raise ValueError(msg)


def _with_id(given: str) -> tuple[str, int | None]:
    """Divide FILE:ID; without an ID the header is passed over, and nothing can be written."""
    file, _, schema_id = given.rpartition(":")
    return (file, int(schema_id)) if file and schema_id.isdecimal() else (given, None)
