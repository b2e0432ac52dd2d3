"""Values that would be read as others, or not at all: they are refused when they are published."""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from typing import Any, Literal

import msgspec
import pydantic
import pydantic.dataclasses
import pytest
import redis
from pydantic import BaseModel

from redfloe import SchemaError
from redfloe.messages import App, Producer, schema_of
from support.server import Server


class Name(enum.StrEnum):
    ADA = "ada"
    NONE = ""


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Named(BaseModel):
    v: Name = Name.ADA


class Said(BaseModel):
    v: Literal["", "a"] | None = None


@dataclasses.dataclass
class Data:
    v: Name = Name.ADA


class Struct(msgspec.Struct):
    v: Literal["", "a"] = "a"


class Texts(BaseModel):
    v: str | list[str]


class Either(BaseModel):
    v: int | str


class Parsed(BaseModel):
    v: pydantic.Json[list[int]]


class Coded(BaseModel):
    v: pydantic.Base64Bytes


class Allowed(BaseModel):
    v: Right


class Array(msgspec.Struct, array_like=True):
    a: int
    b: int


class Raw(msgspec.Struct):
    v: msgspec.Raw


class Number(BaseModel):
    v: int | float


@pytest.mark.parametrize(
    "event",
    [
        Named(v=Name.NONE),
        Said(v=""),
        Data(v=Name.NONE),
        Struct(v=""),
        Texts(v='["a"]'),
        Either(v=1),
        Parsed(v="[1]"),  # type: ignore[arg-type]  # which is what it takes
        Coded(v=base64.b64encode(b"x")),
        Allowed(v=Right.READ | Right.WRITE),
        Array(1, 2),
        Raw(msgspec.Raw(b"[1]")),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_would_be_read_as_another_is_refused(
    any_server: Server, client: redis.Redis, stream: str, event: Any
) -> None:
    with Producer(any_server.url, stream) as producer:
        with pytest.raises(ValueError, match=r"would (not )?be read"):
            producer.publish(event)
        with pytest.raises(ValueError, match=r"would (not )?be read"):
            producer.publish_many([event])
    assert client.xlen(stream) == 0


@pytest.mark.parametrize("codec", ["row", "json"])
@pytest.mark.parametrize(
    "event",
    [
        Named(),
        Said(v="a"),
        Said(),
        Data(),
        Struct(),
        Texts(v="a"),
        Texts(v=["a"]),
        Either(v="x"),
        Allowed(v=Right.READ),
        Number(v=1.5),
        Number(v=2),
    ],
    ids=repr,
)
def test_other_values_of_such_types_are_read_as_they_were(
    any_server: Server, stream: str, event: Any, codec: Literal["row", "json"]
) -> None:
    with Producer(any_server.url, stream, codec=codec) as producer:
        producer.publish(event)
        producer.publish_many([event, event])
    got: list[Any] = []
    app = App(any_server.url, group="g", codec=codec)
    app.on(stream, type(event))(got.append)
    app.drain()
    assert got == [event] * 3


def test_documents_say_more_than_texts(any_server: Server, stream: str) -> None:
    events = [Named(v=Name.NONE), Texts(v='["a"]'), Either(v=1), Array(1, 2)]
    got: list[Any] = []
    app = App(any_server.url, group="g", codec="json")
    for event in events:
        app.on(stream, type(event))(got.append)
    with app.producer(stream) as producer:
        producer.publish_many(events)
        with pytest.raises(ValueError, match="would not be read again"):
            producer.publish(Number(v=math.nan))
    app.drain()
    assert got == events


@pytest.mark.parametrize("decorate", [dataclasses.dataclass, pydantic.dataclasses.dataclass])
def test_a_field_that_no_reader_can_set_is_refused(decorate: Any) -> None:
    @decorate
    class Derived:
        a: int
        b: int = dataclasses.field(init=False, default=3)

    with pytest.raises(SchemaError, match="'b' of Derived is a field"):
        schema_of(Derived)
