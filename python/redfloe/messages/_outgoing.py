"""What is published: its type, its payload, what is said about it, and the stream that takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from redfloe._checks import as_key
from redfloe.messages._kinds import name_of_model, type_name
from redfloe.messages._message import Message

#: Where messages go: a stream, one for each type by its name or model, or what a function says.
StreamOf: TypeAlias = (
    str | bytes | Mapping[Any, str | bytes] | Callable[[Message], str | bytes] | None
)


class Outgoing(NamedTuple):
    """A message on its way."""

    stream: bytes
    type: str | None
    payload: Any
    metadata: Mapping[str, Any]


class Outlet:
    """Says where messages go that name no stream themselves."""

    def __init__(self, stream: StreamOf) -> None:
        self.stream: bytes | dict[str, bytes] | Callable[[Message], str | bytes] | None
        if isinstance(stream, Mapping):
            self.stream = {
                type_name(kind) if isinstance(kind, type) else str(kind): as_key(key, "stream")
                for kind, key in stream.items()
            }
        elif stream is None or callable(stream):
            self.stream = stream
        else:
            self.stream = as_key(stream, "stream")

    def outgoing(
        self, event: Any, metadata: Mapping[str, Any] | None, stream: str | bytes | None
    ) -> Outgoing:
        """Give an event, a `Message` or a mapping as what is published."""
        given = metadata or {}
        if isinstance(event, Message):
            payload, name = event.payload, event.type
            given = {**event.metadata, **given}
        else:
            payload, name = event, None
        if name is None:
            name = name_of_model(type(payload))
        if stream is not None:
            key = as_key(stream, "stream")
        elif isinstance(self.stream, bytes):
            key = self.stream
        else:
            key = self._key_of(event, name, payload, given)
        return Outgoing(key, name, payload, given)

    def _key_of(
        self, event: Any, name: str | None, payload: Any, metadata: Mapping[str, Any]
    ) -> bytes:
        if self.stream is None:
            msg = "name the stream: publish(..., stream=...), or a producer's stream"
            raise ValueError(msg)
        if callable(self.stream):
            message = event if isinstance(event, Message) else Message(name, payload, metadata)
            return as_key(self.stream(message), "what the function for the stream gives")
        assert isinstance(self.stream, dict)
        if name not in self.stream:
            msg = (
                f"the producer's mapping has no stream for the type {name!r}; add it, or name the "
                "stream: publish(..., stream=...)"
            )
            raise ValueError(msg)
        return self.stream[name]
