"""The options of Spark's data source: texts, whose keys come in lower case."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redfloe._core import RedisConnection
from redfloe._ids import entry_id
from redfloe._options import DecodeOptions
from redfloe._words import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

_KNOWN = {
    name.lower(): name
    for name in (
        *("url", "settingsFile", "settingsEnv", "username", "password", "stream", "partitions"),
        *("startingOffsets", "endingOffsets", "maxOffsetsPerTrigger", "failOnDataLoss"),
        *("filterPushdown", "batchSize", "onError", "rescueColumn"),
        *("payload", "payloadPath", "payloadPrefix", "stagingExpiryMs"),
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
}

#: An ID as two numbers.
Id = tuple[int, int]

LARGEST = 2**64 - 1


@dataclass(frozen=True)
class Options:
    """All of them, checked; what is shipped to workers."""

    url: RedisConnection
    #: The stream's key, or those of several.
    stream: str | list[str]
    _texts: dict[str, str] = field(repr=False)

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
        return cls(_connection(texts), _streams(texts.get("stream")), texts)

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
        given = {ours: self._texts[name] for name, ours in _DECODING.items() if name in self._texts}
        return DecodeOptions(**given)  # type: ignore[typeddict-item]  # its values are checked later

    def position(self, name: str, default: str) -> Position:
        """Give a place in the streams."""
        return Position.of(self._texts.get(name, default), name)


@dataclass(frozen=True)
class Position:
    """A place in the streams: one of all, or an offset for each."""

    #: "earliest", "latest", or the ID or time of an entry.
    at: str | None
    offsets: dict[str, str] | None

    @classmethod
    def of(cls, text: str, name: str) -> Position:
        """Understand what an option says."""
        if text.lower() in {"earliest", "latest"}:
            return cls(text.lower(), None)
        if not text.startswith("{"):
            entry_id(text, name, round_up=True)
            return cls(text, None)
        try:
            offsets = json.loads(text)
        except ValueError as error:
            msg = f"the option {name} is neither an ID nor JSON: {error}"
            raise ValueError(msg) from None
        if not all(isinstance(offset, str) for offset in offsets.values()):
            msg = f"the option {name} must give an ID for each stream, as text"
            raise ValueError(msg)
        return cls(None, offsets)

    def bound(self, name: str, *, is_start: bool) -> Id:
        """Give the first or the last ID of all streams; not where each has its own."""
        match self.at:
            case None | "earliest":
                return (0, 0)
            case "latest":
                return (LARGEST, LARGEST)
        ms, _, seq = entry_id(self.at, name, round_up=is_start).partition("-")
        return int(ms), int(seq) if seq else 0 if is_start else LARGEST


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
