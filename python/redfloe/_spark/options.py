"""The options of Spark's data source: texts, whose keys come in lower case."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from redfloe._core import RedisConnection
from redfloe._engines.writing import RowOptions
from redfloe._ids import entry_id
from redfloe._options import DecodeOptions
from redfloe._payload_schema import PayloadSchema, ProtobufSchema
from redfloe._reading.shards import shards_of
from redfloe._words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN = {
    name.lower(): name
    for name in (
        *("url", "settingsFile", "settingsEnv", "username", "password", "stream", "partitions"),
        *("startingOffsets", "endingOffsets", "maxOffsetsPerTrigger", "failOnDataLoss"),
        *("filterPushdown", "batchSize", "onError", "rescueColumn"),
        *("payload", "payloadPath", "payloadPrefix", "payloadFormat", "payloadCompression"),
        *("payloadFields", "payloadMaxBytes", "payloadDescriptor", "payloadMessage"),
        *("stagingExpiryMs", "onEmptyRow"),
    )
}
#: What `DataFrameReader.load` and Spark itself add.
_SPARKS = {"path", "checkpointlocation", "queryname"}

_DECODING = {
    "onError": "on_error",
    "rescueColumn": "rescue_column",
    "payload": "payload",
    "payloadPath": "payload_path",
    "payloadPrefix": "payload_prefix",
    "payloadFormat": "payload_format",
    "payloadCompression": "payload_compression",
}


def _payload_schema(texts: Mapping[str, str]) -> PayloadSchema | None:
    """Give what a payload is by, which must be said of some formats."""
    given = [texts.get(name) for name in ("payloadDescriptor", "payloadMessage")]
    if texts.get("payloadFormat") != "protobuf":
        if any(text is not None for text in given):
            msg = 'payloadDescriptor and payloadMessage need payloadFormat "protobuf"'
            raise ValueError(msg)
        return None
    descriptor, message = given
    if descriptor is None or message is None:
        msg = (
            'payloadFormat "protobuf" needs payloadDescriptor, the path of a FileDescriptorSet, '
            "and payloadMessage"
        )
        raise ValueError(msg)
    return ProtobufSchema(descriptor, message)


#: An ID as two numbers.
Id = tuple[int, int]

LARGEST = 2**64 - 1

#: As many digits as 64 bits have: of more `int` may refuse to make a number.
_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?", re.ASCII)


@dataclass(frozen=True)
class Options:
    """All of them, checked; what is shipped to workers."""

    url: RedisConnection
    #: The stream's key, or those of several.
    stream: str | list[str]
    _texts: dict[str, str] = field(repr=False)
    #: The schema of payloads. Its file is read on the driver, and is not needed on workers.
    _payload_schema: PayloadSchema | None = field(default=None, repr=False)

    @classmethod
    def of(cls, options: Mapping[str, str]) -> Options:
        """Check them. Messages quote no values that may be secrets."""
        texts = {key.lower(): value for key, value in options.items()}
        for key in texts:
            if key not in _KNOWN and key not in _SPARKS:
                known = [*_KNOWN.values()]
                msg = f"there is no option {key!r}" + did_you_mean(key, known, "; {}")
                raise ValueError(msg)
        texts = {_KNOWN[key]: text for key, text in texts.items() if key in _KNOWN}
        schema = _payload_schema(texts)
        return cls(_connection(texts), _streams(texts.get("stream")), texts, schema)

    def allow(self, *names: str) -> None:
        """Refuse all but these and what says where the server and the stream are."""
        where = {"url", "settingsFile", "settingsEnv", "username", "password", "stream"}
        self.refuse(*({*self._texts} - where - {*names}))

    def refuse(self, *names: str) -> None:
        """Refuse options that have no meaning for this read."""
        for name in names:
            if name in self._texts:
                msg = f"the option {name} has no meaning here"
                raise ValueError(msg)

    def text(self, name: str, default: str) -> str:
        """Give a text."""
        return self._texts.get(name, default)

    def number(self, name: str, default: int) -> int:
        """Give a number that is at least 1."""
        text = self._texts.get(name, str(default))
        if not (text.isascii() and text.isdigit() and int(text)):
            msg = f"the option {name} must be a number, at least 1, not {text!r}"
            raise ValueError(msg)
        return int(text)

    def flag(self, name: str, *, default: bool) -> bool:
        """Give what is true or false."""
        text = self._texts.get(name, str(default)).lower()
        if text not in {"true", "false"}:
            msg = f"the option {name} must be true or false, not {text!r}"
            raise ValueError(msg)
        return text == "true"

    def over_shards(self) -> Options:
        """Give the same of a sharded stream's shards."""
        shards = shards_of(self.url, self.stream)
        return replace(self, stream=[key.decode() for key in shards]) if shards else self

    @property
    def streams(self) -> list[str]:
        """The keys, of one stream too."""
        return [self.stream] if isinstance(self.stream, str) else self.stream

    @property
    def partitions(self) -> int:
        """At most so many."""
        return self.number("partitions", os.cpu_count() or 1)

    @property
    def decoding(self) -> DecodeOptions:
        """How entries become columns."""
        given: dict[str, object] = {
            ours: self._texts[name] for name, ours in _DECODING.items() if name in self._texts
        }
        if "payloadFields" in self._texts:
            given["payload_fields"] = [
                name.strip() for name in self._texts["payloadFields"].split(",")
            ]
        if "payloadMaxBytes" in self._texts:
            given["payload_max_bytes"] = self.number("payloadMaxBytes", 1)
        if self._payload_schema is not None:
            given["payload_format"] = self._payload_schema
        return DecodeOptions(**given)  # type: ignore[typeddict-item]  # its values are checked later

    @property
    def rows(self) -> RowOptions:
        """How rows become entries."""
        empty: Any = self._texts.get("onEmptyRow", "raise")
        return RowOptions(on_empty_row=empty)

    def position(self, name: str, default: str, *, is_start: bool) -> Position:
        """Give a place in the streams: that of their first or their last entry."""
        return Position.of(self._texts.get(name, default), name, self.streams, is_start=is_start)


@dataclass(frozen=True)
class Position:
    """A place in the streams: one of all, or an offset for each."""

    #: "earliest", "latest", or an entry's ID.
    at: str | Id | None
    offsets: dict[str, str] | None

    @classmethod
    def of(cls, text: str, name: str, streams: list[str], *, is_start: bool) -> Position:
        """Understand what an option says."""
        if text.lower() in {"earliest", "latest"}:
            return cls(text.lower(), None)
        if text.startswith("{"):
            return cls(None, _offsets(text, name, streams, is_start=is_start))
        ms, seq = id_in(entry_id(text, name, round_up=is_start)) or (None, None)
        if ms is None:
            msg = (
                f"the option {name} must be earliest, latest, an entry's ID or time, or offsets "
                f"as JSON, not {text!r}"
            )
            raise ValueError(msg)
        return cls((ms, (0 if is_start else LARGEST) if seq is None else seq), None)

    def bound(self) -> Id:
        """Give the first or the last ID of all streams; not where each has its own."""
        match self.at:
            case None | "earliest":
                return (0, 0)
            case (int(), int()):
                return self.at
        return (LARGEST, LARGEST)


def id_in(text: str) -> tuple[int, int | None] | None:
    """Give the numbers of an ID, of which the second may be missing; None of any other text."""
    found = _ID.fullmatch(text)
    if found is None:
        return None
    ms, seq = int(found[1]), None if found[2] is None else int(found[2])
    return (ms, seq) if max(ms, seq or 0) <= LARGEST else None


def as_text(entry: Id) -> str:
    """Give the text of an ID."""
    return f"{entry[0]}-{entry[1]}"


def id_before(entry: Id) -> Id:
    """Give the ID before, as a position from which on the entry is read."""
    ms, seq = entry
    if seq:
        return ms, seq - 1
    return (ms - 1, LARGEST) if ms else (0, 0)


def _offsets(text: str, name: str, streams: list[str], *, is_start: bool) -> dict[str, str]:
    try:
        offsets: dict[str, Any] = json.loads(text)
    except ValueError as error:
        msg = f"the option {name} is neither an ID nor JSON: {error}"
        raise ValueError(msg) from None
    for stream, offset in offsets.items():
        if stream not in streams:
            msg = f"the option {name} has an offset of {stream!r}, a stream that is not read"
            raise ValueError(msg + did_you_mean(stream, streams, "; {}"))
        if not isinstance(offset, str) or None in (id_in(offset) or [None]):
            msg = f"the option {name} must give an ID, ms-seq, for each stream, not {offset!r}"
            raise ValueError(msg)
    missing = [stream for stream in streams if stream not in offsets]
    if missing and not is_start:
        msg = f"the option {name} has no offset of {missing[0]!r}, up to which it is read"
        raise ValueError(msg)
    return offsets


def _connection(texts: Mapping[str, str]) -> RedisConnection:
    given = [name for name in ("url", "settingsFile", "settingsEnv") if name in texts]
    if len(given) > 1:
        msg = f"give one of the options {' and '.join(given)}"
        raise ValueError(msg)
    username, password = texts.get("username"), texts.get("password")
    if given != ["url"] and (username, password) != (None, None):
        msg = "the options username and password belong to url"
        raise ValueError(msg)
    match given:
        case ["url"]:
            return RedisConnection(texts["url"], username=username, password=password)
        case ["settingsFile"]:
            return RedisConnection.from_file(texts["settingsFile"])
    return RedisConnection.from_env(texts.get("settingsEnv", "REDIS_"))


def _streams(text: str | None) -> str | list[str]:
    if not text:
        msg = "the option stream is missing: a stream's key, or a JSON array of several"
        raise ValueError(msg)
    if not text.startswith("["):
        return text
    try:
        streams: Any = json.loads(text)
    except ValueError:
        return text  # a key that begins so
    if not streams or not all(isinstance(stream, str) for stream in streams):
        msg = f"the option stream must be a key, or a JSON array of keys, not {text!r}"
        raise ValueError(msg)
    return [*streams]
