"""Models as schemas, and their events as rows that anybody reads."""

from __future__ import annotations

import dataclasses
import math
import typing
import uuid
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal

import polars as pl
import pydantic
import pydantic.dataclasses
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from pydantic import BaseModel, ConfigDict, Field

import redfloe
from redfloe import SchemaError
from redfloe.messages import App, Message, MisfitError, Producer, schema_of
from support.events import OrderPlaced
from support.server import Server


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


class Line(BaseModel):
    item: str
    price: Decimal
    at: datetime | None = None


class Everything(BaseModel):
    """A field of each type that has a dtype, and some that have none."""

    flag: bool
    number: int
    real: float
    text: str
    raw: bytes
    money: Decimal
    exact: Annotated[Decimal, Field(max_digits=10, decimal_places=2)]
    naive: datetime
    aware: pydantic.AwareDatetime
    day: date
    clock: time
    span: timedelta
    colour: Colour
    level: Level
    size: Literal["s", "m"]
    key: uuid.UUID
    line: Line
    lines: list[Line]
    tags: set[str]
    pairs: tuple[int, ...]
    maybe: int | None = None
    anything: dict[str, int] = Field(default_factory=dict)
    either: int | str = "0"


EVERYTHING = Everything(
    flag=True,
    number=-5,
    real=0.1,
    text="ü\n",
    raw=b"\xff\0",
    money=Decimal("9.90"),
    exact=Decimal("1.25"),
    naive=datetime(2024, 1, 2, 3, 4, 5, 678),  # noqa: DTZ001
    aware=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
    day=date(2024, 1, 2),
    clock=time(3, 4, 5),
    span=timedelta(days=-1, microseconds=3),
    colour=Colour.BLUE,
    level=Level.LOW,
    size="m",
    key=uuid.UUID(int=7),
    line=Line(item="a", price=Decimal("0.5")),
    lines=[Line(item="b", price=Decimal(2), at=datetime(2024, 1, 1))],  # noqa: DTZ001
    tags={"x"},
    pairs=(1, 2),
    anything={"a": 1},
    either="x",
)

SCHEMA: dict[str, Any] = {
    "flag": pl.Boolean,
    "number": pl.Int64,
    "real": pl.Float64,
    "text": pl.String,
    "raw": pl.Binary,
    "money": pl.Decimal(38, 9),
    "exact": pl.Decimal(10, 2),
    "naive": pl.Datetime("us"),
    "aware": pl.Datetime("us", "UTC"),
    "day": pl.Date,
    "clock": pl.Time,
    "span": pl.Duration("us"),
    "colour": pl.Enum(["red", "blue"]),
    "level": pl.Int64,
    "size": pl.Enum(["s", "m"]),
    "key": pl.String,
    "line": pl.Struct({"item": pl.String, "price": pl.Decimal(38, 9), "at": pl.Datetime("us")}),
    "lines": pl.List(
        pl.Struct({"item": pl.String, "price": pl.Decimal(38, 9), "at": pl.Datetime("us")})
    ),
    "tags": pl.List(pl.String),
    "pairs": pl.List(pl.Int64),
    "maybe": pl.Int64,
    "anything": pl.String,
    "either": pl.String,
}

#: What a row of it holds.
ROW = {
    **{name: getattr(EVERYTHING, name) for name in SCHEMA},
    "colour": "blue",
    "key": str(EVERYTHING.key),
    "line": {"item": "a", "price": Decimal("0.5"), "at": None},
    "lines": [{"item": "b", "price": Decimal(2), "at": datetime(2024, 1, 1)}],  # noqa: DTZ001
    "tags": ["x"],
    "pairs": [1, 2],
    "anything": '{"a":1}',
    "either": "x",
}


def test_schema_of_gives_each_field_a_dtype() -> None:
    assert schema_of(Everything) == pl.Schema(SCHEMA)


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_event_is_a_row(any_server: Server, stream: str, many: bool) -> None:
    with Producer(any_server.url, stream) as producer:
        if many:
            assert producer.publish_many([EVERYTHING, EVERYTHING]) == 2
        else:
            producer.publish(EVERYTHING)
    frame = redfloe.read_stream(any_server.url, stream, schema_of(Everything))
    assert frame.drop("_id", "_ts").row(0, named=True) == ROW
    texts = redfloe.read_stream(any_server.url, stream, {"_type": pl.String})
    assert texts["_type"].unique().to_list() == ["Everything"]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_event_comes_back_as_it_was(any_server: Server, stream: str, many: bool) -> None:
    with Producer(any_server.url, stream) as producer:
        if many:
            producer.publish_many([EVERYTHING])
        else:
            producer.publish(EVERYTHING)
    assert handled(any_server, stream, Everything) == [EVERYTHING]


def test_what_write_stream_writes_are_events(any_server: Server, stream: str) -> None:
    frame = pl.DataFrame([ROW], schema=SCHEMA)
    redfloe.write_stream(any_server.url, frame, stream)
    assert handled(any_server, stream, Everything) == [EVERYTHING]


@pytest.mark.parametrize("mixed", [False, True], ids=["columns only", "both"])
def test_a_handler_of_columns_gets_what_read_stream_gives(
    any_server: Server, stream: str, mixed: bool
) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish_many([EVERYTHING, EVERYTHING])
    app = App(any_server.url, group="g")
    frames: list[pl.DataFrame] = []
    events: list[Everything] = []
    app.on_batch(stream, Everything)(frames.append)
    if mixed:
        app.on(stream, Everything)(events.append)
    app.drain()
    expected = redfloe.read_stream(any_server.url, stream, schema_of(Everything))
    assert_frame_equal(pl.concat(frames), expected)
    assert events == ([EVERYTHING, EVERYTHING] if mixed else [])


def handled(server: Server, stream: str, model: Any, **options: Any) -> list[Any]:
    """Give what a handler gets of all that is there."""
    events: list[Any] = []
    app = App(server.url, group=f"of {model.__name__}", **options)
    app.on(stream, model)(events.append)
    app.drain()
    return events


class Random(BaseModel):
    """Fields whose texts have corners."""

    text: str
    raw: bytes
    number: int
    real: float
    money: Decimal
    at: datetime
    clock: time
    span: timedelta
    maybe: str | None = None
    names: list[str | None] = Field(default_factory=list)


RANDOM = st.builds(
    Random,
    text=st.text(),
    raw=st.binary(),
    number=st.integers(),
    real=st.floats(allow_nan=False),
    money=st.decimals(allow_nan=False, allow_infinity=False),
    at=st.datetimes(timezones=st.none() | st.just(UTC) | st.just(timezone(timedelta(hours=5.5)))),
    clock=st.times(),
    span=st.timedeltas(),
    maybe=st.none() | st.text(),
    names=st.lists(st.none() | st.text()),
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(RANDOM, min_size=1, max_size=30))
@pytest.mark.slow
def test_random_events_come_back_as_they_were(any_server: Server, events: list[Random]) -> None:
    with any_server.client() as client:
        client.delete("random")
    with Producer(any_server.url, "random") as producer:
        producer.publish_many(events)
        producer.publish(events[0])
    assert handled(any_server, "random", Random) == [*events, events[0]]


@dataclasses.dataclass
class Made:
    n: int
    line: Line | None = None
    names: list[str] = dataclasses.field(default_factory=list)


def test_dataclasses(any_server: Server, stream: str) -> None:
    made = [Made(1), Made(2, Line(item="a", price=Decimal(1)), ["x"])]
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(made)
        producer.publish(made[1])
    assert handled(any_server, stream, Made) == [*made, made[1]]


def test_msgspec_structs(any_server: Server, stream: str) -> None:
    msgspec = pytest.importorskip("msgspec")
    inner = msgspec.defstruct("Inner", [("a", int)])
    struct = msgspec.defstruct(
        "Struct", [("n", int), ("inner", inner), ("at", datetime | None, None)], eq=True
    )
    made = [struct(1, inner(2)), struct(2, inner(3), datetime(2024, 1, 1, tzinfo=UTC))]
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(made)
        producer.publish(made[1])
    assert handled(any_server, stream, struct) == [*made, made[1]]
    simple = {
        name: value
        for name, value in dict(EVERYTHING).items()
        if name not in ("line", "lines", "exact", "naive", "aware", "either")
    }
    hints = typing.get_type_hints(Everything)
    every = msgspec.defstruct("Every", [(name, hints[name]) for name in simple])
    with Producer(any_server.url, "every") as producer:
        producer.publish(every(**simple))
        producer.publish_many([every(**simple)])
    assert handled(any_server, "every", every) == [every(**simple)] * 2
    misfit = Message("Struct", {"n": "x", "inner": "{}"})
    with Producer(any_server.url, stream) as producer:
        producer.publish(misfit)
    with pytest.raises(MisfitError, match="is no Struct: ValidationError"):
        handled(any_server, stream, struct)


class Older(BaseModel):
    __message_type__ = "Event"
    n: int
    dropped: str


class Newer(BaseModel):
    __message_type__ = "Event"
    n: int
    added: int = 5
    more: list[int] = Field(default_factory=lambda: [1])
    nullable: str | None


@pytest.mark.parametrize("columns", [False, True], ids=["single", "columns"])
def test_models_that_have_changed_read_older_events(
    any_server: Server, stream: str, columns: bool
) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish(Older(n=1, dropped="x"))
        producer.publish(Newer(n=2, added=6, nullable="y"))
    if not columns:
        assert handled(any_server, stream, Newer) == [
            Newer(n=1, nullable=None),
            Newer(n=2, added=6, nullable="y"),
        ]
        return
    frames: list[pl.DataFrame] = []
    app = App(any_server.url, group="g")
    app.on_batch(stream, Newer)(frames.append)
    app.drain()
    assert frames[0].drop("_id", "_ts").rows() == [(1, 5, [1], None), (2, 6, [1], "y")]


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_none_that_would_be_read_as_the_default_is_refused(
    any_server: Server, stream: str, many: bool
) -> None:
    class Note(BaseModel):
        text: str | None = "nothing"

    with Producer(any_server.url, stream) as producer:
        with pytest.raises(ValueError, match=r"Note\.text is None.*make None the default"):
            producer.publish_many([Note(text=None)]) if many else producer.publish(Note(text=None))
        producer.publish(Note(text="x"))
    assert redfloe.read_stream(any_server.url, stream)["text"].to_list() == ["x"]


def test_aliases_and_serializers_are_the_models(any_server: Server, stream: str) -> None:
    class Odd(BaseModel):
        model_config = ConfigDict(strict=True)
        n: int = Field(alias="number")
        upper: str

        @pydantic.field_serializer("upper")
        def _upper(self, value: str) -> str:
            return value.upper()

    with Producer(any_server.url, stream) as producer:
        producer.publish(Odd(number=1, upper="a"))
        producer.publish_many([Odd(number=2, upper="b")])
    frame = redfloe.read_stream(any_server.url, stream, schema_of(Odd))
    assert frame.select("number", "upper").rows() == [(1, "A"), (2, "B")]
    assert [event.n for event in handled(any_server, stream, Odd)] == [1, 2]


def test_fields_that_entries_cannot_have_are_refused() -> None:
    class Reserved(BaseModel):
        when: str = Field(alias="_ts")

    class Two(BaseModel):
        n: int = Field(validation_alias="a", serialization_alias="b")

    with pytest.raises(SchemaError, match="a field '_ts', which is what"):
        schema_of(Reserved)
    with pytest.raises(SchemaError, match="read as 'a' and written as 'b'; give it one alias"):
        schema_of(Two)
    with pytest.raises(TypeError, match="'int' is no model: pass a pydantic model"):
        schema_of(int)


MISFITS = [
    ({"order_id": "one"}, "order_id: "),
    ({"total": "1"}, "order_id: Field required"),
    ({"order_id": "1", "total": "much"}, "total: "),
]


@pytest.mark.parametrize("columns", [False, True], ids=["single", "columns"])
def test_misfits_go_to_the_dead_letters_with_what_is_wrong(
    any_server: Server, stream: str, columns: bool
) -> None:
    with Producer(any_server.url, stream) as producer:
        for fields, _ in MISFITS:
            producer.publish(Message("OrderPlaced", fields))
        producer.publish(OrderPlaced(order_id=4))
    got: list[Any] = []
    app = App(any_server.url, group="g", dead_letter="{stream}:dead")
    if columns:
        app.on_batch(stream, OrderPlaced)(lambda frame: got.extend(frame["order_id"]))
    else:
        app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))
    drained = app.drain()
    assert got == [4]
    assert (len(drained.handled), len(drained.failed)) == (1, 3)
    dead = redfloe.read_dead_letters(any_server.url, f"{stream}:dead")
    reasons = dict(zip(dead["order_id"], dead["_dead_reason"], strict=True))
    for fields, reason in MISFITS:
        assert reason in reasons[fields.get("order_id")]
        assert "is no OrderPlaced" in reasons[fields.get("order_id")]
    assert redfloe.pending_entries(any_server.url, stream, "g").is_empty()


@pytest.mark.parametrize("columns", [False, True], ids=["single", "columns"])
def test_misfits_are_raised_where_that_is_chosen(
    any_server: Server, stream: str, columns: bool
) -> None:
    with Producer(any_server.url, stream) as producer:
        entry_id = producer.publish(Message("OrderPlaced", {"order_id": "one"}))
    app = App(any_server.url, group="g", consumer="c")
    (app.on_batch if columns else app.on)(stream, OrderPlaced)(lambda event: None)
    with pytest.raises(MisfitError, match=f"the entry {entry_id} of '{stream}' is no OrderPlaced"):
        app.drain()
    assert redfloe.pending_entries(any_server.url, stream, "g")["id"].to_list() == [entry_id]


class Ratio(Enum):
    HALF = 0.5
    WHOLE = 1.0


class Tagged(BaseModel):
    number: Literal[1, 2]
    mixed: Literal["a", 3, True, None] = None  # noqa: PYI061 - both spellings count
    ratio: Ratio
    reals: list[float]


def test_values_that_are_no_texts_come_back(any_server: Server, stream: str) -> None:
    given = [
        Tagged(number=2, mixed=mixed, ratio=Ratio.HALF, reals=[math.inf, -0.0])
        for mixed in ("a", 3, True, None)
    ]
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(given)
        producer.publish(given[1])
    assert handled(any_server, stream, Tagged) == [*given, given[1]]
    assert schema_of(Tagged)["number"] == pl.Int64


@pydantic.dataclasses.dataclass
class Checked:
    n: int = Field(gt=0)
    text: str = Field(default="x")


def test_dataclasses_of_pydantic(any_server: Server, stream: str) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish(Checked(n=1))
        producer.publish(Message("Checked", {"n": 2}))
        producer.publish(Message("Checked", {"n": 0}))
    with pytest.raises(MisfitError, match="n: Input should be greater than 0"):
        handled(any_server, stream, Checked)
    frames: list[pl.DataFrame] = []
    app = App(any_server.url, group="columns")
    app.on_batch(stream, Checked)(frames.append)
    app.drain()
    assert frames[0].drop("_id", "_ts").rows() == [(1, "x"), (2, "x"), (0, "x")]


def test_what_a_model_keeps_to_itself_is_not_written(any_server: Server, stream: str) -> None:
    class Login(BaseModel):
        user: str
        password: str = Field(default="", exclude=True)

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        n: int

    class Secret(BaseModel):
        token: pydantic.SecretStr

    with Producer(any_server.url, stream) as producer:
        producer.publish(Login(user="ada", password="hunter2"))
        producer.publish_many([Login(user="bob", password="hunter2")])
        for publish in (producer.publish, lambda event: producer.publish_many([event])):
            with pytest.raises(
                ValueError, match=r"fields that its model does not declare.* 'more'"
            ):
                publish(Open.model_validate({"n": 1, "more": 2}))
        with pytest.raises(SchemaError, match="'token' is a SecretStr, which would be written as"):
            producer.publish(Secret(token=pydantic.SecretStr("x")))
        with pytest.raises(TypeError, match="is no model"):
            producer.publish(pydantic.RootModel[int](1))
        producer.publish(Open(n=1))
    assert "hunter2" not in str(redfloe.read_stream(any_server.url, stream).rows())
    frame = redfloe.read_stream(any_server.url, stream, schema_of(Login))
    assert frame["user"].to_list() == ["ada", "bob", None]
