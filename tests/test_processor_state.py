"""A processor's state: JSON and Arrow in a hash, of which only what has changed is written."""

from __future__ import annotations

import enum
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import polars as pl
import pydantic
import pytest
import redis

from redfloe import DecodeError, SchemaError, WrongTypeError
from redfloe._processing.models import State
from redfloe._processing.state import ProcessorState
from support.processing import load_state
from support.server import Server


def load(server: Server, query: str = "") -> ProcessorState:
    return load_state(server.url + query, b"state")


def save(client: redis.Redis, state: ProcessorState) -> list[str]:
    """Do what a commit does; name what was written."""
    sets, deletes = state.changes()
    if sets:
        client.hset("state", mapping=dict(sets))
    if deletes:
        client.hdel("state", *deletes)
    state.commit()
    return sorted([name.decode() for name, _ in sets] + [f"-{name.decode()}" for name in deletes])


def field_of(client: redis.Redis, name: str) -> bytes:
    value: Any = client.hget("state", name)
    assert isinstance(value, bytes)
    return value


def saved(state: ProcessorState) -> ProcessorState:
    """Give the state as another process finds it."""
    return ProcessorState([*((n.encode(), v) for n, v in state._saved.items())])


def commit(state: ProcessorState) -> ProcessorState:
    state.changes()
    state.commit()
    return saved(state)


def test_state_is_a_dict_that_is_there_the_next_time(
    server: Server, client: redis.Redis, protocol: str
) -> None:
    state = load(server, protocol)
    assert (len(state), [*state], state.get("seen", 0)) == (0, [], 0)
    state["seen"] = state.get("seen", 0) + 5
    state["by: shop é"] = {"a": [1, 2]}
    assert save(client, state) == ["by: shop é", "seen"]
    assert client.hget("state", "seen") == b'{"format":1,"value":5}'
    again = load(server, protocol)
    assert dict(again) == {"seen": 5, "by: shop é": {"a": [1, 2]}}
    assert repr(again) == "ProcessorState('seen', 'by: shop é')"
    # What was only looked at is not written.
    assert save(client, again) == []
    again["seen"] += 1
    assert save(client, again) == ["seen"]
    del again["by: shop é"]
    assert "by: shop é" not in again
    with pytest.raises(KeyError):
        del again["by: shop é"]
    with pytest.raises(KeyError):
        again["by: shop é"]
    assert save(client, again) == ["-by: shop é"]
    assert client.hkeys("state") == [b"seen"]


VALUES: list[Any] = [
    None, True, 0, -1, 2**63, 10**300, 0.1, -0.0, 5e-324, float("inf"), float("-inf"),
    "", 'é"\\\n\0', b"", b"\x00\xff", [], {}, (), set(), frozenset(), [1, [2, {"a": None}]],
    {"a": {"b": []}}, {1: "int", "1": "text", None: 0, (1, 2): 3, 1.5: 4}, {"$date": "a trap"},
    {"$dict": 1, "b": 2}, {"": 1}, (1, (2,)), {"a"}, {1, 2, 3}, frozenset({b"x"}),
    datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC), datetime(2024, 1, 1), # noqa: DTZ001
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3))),
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    date(2024, 2, 29), time(1, 2, 3, 4), timedelta(days=-1, microseconds=1),
    Decimal("1.50"), Decimal("-Infinity"), Decimal("1E+50"), UUID(int=7),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_values_come_back_as_what_they_were(value: Any) -> None:
    state = ProcessorState()
    state["x"], state["within"] = value, {"a": [value]}
    again = commit(state)
    back = again["x"]
    assert (back, type(back), repr(back)) == (value, type(value), repr(value))
    assert repr(again["within"]) == repr({"a": [value]})
    assert again.changes() == ([], [])
    # And any client reads it as JSON.
    json.loads(again._saved["x"], parse_constant=pytest.fail)


def test_nan_comes_back() -> None:
    state = ProcessorState()
    state["x"] = float("nan")
    again = commit(state)
    assert again["x"] != again["x"]  # NaN
    assert again.changes() == ([], [])


def test_a_datetime_keeps_its_zone_and_fold() -> None:
    state = ProcessorState()
    late = datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    state["late"] = late
    back = commit(state)["late"]
    assert (back.tzinfo, back.fold, back.utcoffset()) == (late.tzinfo, 1, timedelta(hours=1))


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (object(), TypeError, "object cannot be state"),
        ([{"a": object()}], TypeError, "object cannot be state"),
        (Color.RED, TypeError, "Color is an Enum.*store its .value"),
        ({"a": Level.LOW}, TypeError, "Level is an Enum"),
        (Text("a"), TypeError, "Text cannot be state"),
        (lambda: 1, TypeError, "function cannot be state"),
        (pl.Series([1]), TypeError, "Series; make it a DataFrame"),
        ([pl.DataFrame()], TypeError, "DataFrame"),
        pytest.param(10**5000, ValueError, "4300", id="many digits"),
        ("\ud800", ValueError, "surrogates"),
    ],
)
def test_what_would_not_come_back_is_refused(
    value: Any, error: type[Exception], match: str
) -> None:
    state = ProcessorState()
    state["good"], state["bad name"] = 1, value
    with pytest.raises(error, match=f"'bad name' cannot be saved: .*{match}"):
        state.changes()
    state["bad name"] = None
    assert len(state.changes()[0]) == 2


def test_a_value_within_itself_is_refused() -> None:
    state = ProcessorState()
    state["x"] = value = []  # type: ignore[var-annotated]  # of itself
    value.append(value)
    with pytest.raises(ValueError, match="'x' is nested too deeply, or within itself"):
        state.changes()


def test_a_name_is_text() -> None:
    with pytest.raises(TypeError, match="must be str"):
        ProcessorState()[1] = 1  # type: ignore[index]  # what is tested
    with pytest.raises(DecodeError, match="no text"):
        ProcessorState([(b"\xff", b"{}")])
    with pytest.raises(ValueError, match="zero byte"):
        ProcessorState()["\0newest:stock"] = 1
    with pytest.raises(DecodeError, match=r"newest:stock.*is b'\{\}', and no time"):
        ProcessorState([(b"\0newest:stock", b"{}")])


def test_a_read_that_fails_changes_nothing() -> None:
    state = ProcessorState()
    state["customer"], state["broken"] = customer(), 1
    state = commit(state)
    state._saved["broken"] = b"{"
    for name in ("customer", "broken"):
        with pytest.raises((SchemaError, DecodeError)):
            state[name]
    assert state.changes() == ([], [])


def test_what_cannot_be_read_is_cleared() -> None:
    state = ProcessorState()
    state["customer"], state["a"] = customer(), 1
    state = commit(state)
    state.clear()
    assert dict(state) == {}
    assert sorted(state.changes()[1]) == [b"a", b"customer"]
    state.rollback()
    assert len(state) == 2


def test_changes_in_place_are_noticed(any_server: Server, client: redis.Redis) -> None:
    state = load(any_server)
    state["counts"], state["list"], state["other"] = {"a": 1}, [], 1
    save(client, state)
    state["counts"]["a"] += 1
    state["counts"]["b"] = 1
    state["list"].append("x")
    assert state["other"] == 1
    assert save(client, state) == ["counts", "list"]
    assert dict(load(any_server)) == {"counts": {"a": 2, "b": 1}, "list": ["x"], "other": 1}
    # There and back is no change.
    state["counts"]["b"] += 1
    state["counts"]["b"] -= 1
    assert save(client, state) == []


def test_a_rollback_gives_back_what_was_saved() -> None:
    state = ProcessorState()
    state["a"], state["b"] = [1], 1
    state = commit(state)
    state["a"].append(2)
    state["new"] = 1
    del state["b"]
    state.changes()
    state.rollback()
    assert dict(state) == {"a": [1], "b": 1}
    assert state.changes() == ([], [])


def frame() -> pl.DataFrame:
    return pl.DataFrame(
        {"k": ["a", "b"], "n": [1.5, None], "c": ["x", "y"], "d": [Decimal("1.5"), None]},
        schema_overrides={"c": pl.Enum(["x", "y"]), "d": pl.Decimal(10, 2)},
    )


def test_frames_are_arrow(any_server: Server, client: redis.Redis) -> None:
    state = load(any_server)
    state["frame"] = frame()
    save(client, state)
    header, _, body = field_of(client, "frame").partition(b"\n")
    assert json.loads(header) == {"format": 1, "frame": "arrow"}
    assert body.startswith(b"ARROW1")
    state = load(any_server)
    back = state["frame"]
    assert back.equals(frame())
    assert back.schema == frame().schema
    assert save(client, state) == []
    # The same rows, made anew, are no change; others are, also where they are changed in place.
    state["frame"] = frame()
    assert save(client, state) == []
    state["frame"].extend(frame())
    assert save(client, state) == ["frame"]
    state["frame"][0, "k"] = "changed"
    assert save(client, state) == ["frame"]
    state["frame"] = state["frame"].with_columns(pl.col("n").cast(pl.Float32))
    assert save(client, state) == ["frame"]
    assert load(any_server)["frame"].equals(state["frame"])
    state["frame"] = 1
    assert save(client, state) == ["frame"]
    state["frame"] = state["frame"]
    assert save(client, state) == []


def test_a_frame_is_compressed() -> None:
    state = ProcessorState()
    state["x"] = pl.DataFrame({"a": [0] * 100_000})
    state.changes()
    assert len(state._pending["x"] or b"") < 20_000


@dataclass
class Address:
    city: str
    zip: str | None = None


@dataclass
class Customer:
    name: str
    color: Color = Color.RED
    address: Address | None = None
    others: list[Address] = field(default_factory=list)
    by_level: dict[Level, tuple[int, ...]] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    at: datetime | None = None
    weight: float = 0.0
    tags: set[str] = field(default_factory=set)
    derived: int = field(default=0, init=False)


def customer() -> Customer:
    made = Customer(
        "ada",
        address=Address("Ulm"),
        others=[Address("Bonn", "1")],
        by_level={Level.LOW: (1, 2)},
        at=datetime(2024, 1, 1, tzinfo=UTC),
        weight=2.5,
        tags={"x"},
    )
    made.derived = 7
    return made


def test_a_dataclass_comes_back_as_one(any_server: Server, client: redis.Redis) -> None:
    state = load(any_server)
    state["customer"] = customer()
    save(client, state)
    assert json.loads(field_of(client, "customer"))["model"] == "Customer"
    state = load(any_server)
    back = state.model(Customer, "customer")
    assert back == customer()
    assert (back.derived, back.color, type(next(iter(back.by_level)))) == (7, Color.RED, Level)
    assert state["customer"] is back
    assert save(client, state) == []
    back.others.append(Address("Kiel"))
    assert save(client, state) == []  # nobody has taken it from the state in this transaction
    assert state.model(Customer, "customer") is back
    assert save(client, state) == ["customer"]


def test_a_model_needs_its_class() -> None:
    state = ProcessorState()
    state["customer"] = customer()
    state = commit(state)
    with pytest.raises(SchemaError, match=r"is a Customer: take it by tx.state.model\(Customer, "):
        state["customer"]
    state.model(Customer, "customer")
    with pytest.raises(TypeError, match="is a Customer, not a Address"):
        state.model(Address, "customer")
    with pytest.raises(TypeError, match="neither a dataclass"):
        state.model(dict)
    with pytest.raises(TypeError, match="city"):
        state.model(Address)


class OrderCounter(State):
    count: int = 0
    by_shop: dict[str, int] = {}  # noqa: RUF012  # each object has a copy


def test_state_with_declared_attributes(any_server: Server, client: redis.Redis) -> None:
    state = load(any_server)
    counter = state.model(OrderCounter)
    assert counter == OrderCounter(count=0, by_shop={})
    counter.count += 1
    counter.by_shop["a"] = 1
    assert OrderCounter().by_shop == {}
    assert save(client, state) == ["OrderCounter"]
    assert json.loads(field_of(client, "OrderCounter")) == {
        "format": 1,
        "model": "OrderCounter",
        "version": 1,
        "value": {"count": 1, "by_shop": {"a": 1}},
    }
    assert load(any_server).model(OrderCounter) == OrderCounter(count=1, by_shop={"a": 1})


def test_what_its_own_class_would_not_take_again_is_refused() -> None:
    """It was saved, and then nobody could load it."""

    class Odd(State):
        count: int = 0

    state = ProcessorState()
    odd = state.model(Odd)
    odd.count = "seven"  # type: ignore[assignment]  # what is tested
    with pytest.raises(ValueError, match=r"'Odd' cannot be saved: Odd would not take .*count"):
        state.changes()
    odd.count = 7
    assert state.changes()[0] != []
    state.commit()
    # One that is kept is looked at as well.
    state = ProcessorState()
    state.bind(odd)
    odd.count = None  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Odd would not take"):
        state.changes()


def test_version_is_no_attribute() -> None:
    with pytest.raises(TypeError, match="write version = 2, without a type"):

        class Odd(State):
            version: int = 2  # type: ignore[misc]  # what is tested


class Order(pydantic.BaseModel):
    version: ClassVar[int] = 1
    sku: str
    at: datetime
    price: Decimal = Decimal(0)
    color: Color = Color.RED
    address: Address | None = None
    raw: bytes = b""


def test_a_pydantic_model_comes_back_as_one() -> None:
    state = ProcessorState()
    order = Order(
        sku="a", at=datetime(2024, 1, 1, tzinfo=UTC), price=Decimal("1.50"),
        address=Address("Ulm"), raw=b"\xff",
    )  # fmt: skip
    state["order"] = order
    state = commit(state)
    assert state.model(Order, "order") == order
    assert state.changes() == ([], [])
    state.rollback()
    state._saved["order"] = state._saved["order"].replace(b'"sku":"a"', b'"sku":[]')
    with pytest.raises(DecodeError, match=r"(?s)'order' cannot be read: it does not fit.*sku"):
        state.model(Order, "order")


def test_an_object_is_bound(any_server: Server, client: redis.Redis) -> None:
    state, counter = load(any_server), OrderCounter(count=3)
    state.bind(counter)
    counter.count += 1
    state.rollback()
    assert (counter.count, state["OrderCounter"]) == (3, counter)
    counter.count += 1
    assert save(client, state) == ["OrderCounter"]
    assert save(client, state) == []
    # It is saved without being taken from the state, and put back in place.
    counter.by_shop["a"] = 1
    state.rollback()
    assert counter == OrderCounter(count=4)
    counter.count += 1
    assert save(client, state) == ["OrderCounter"]
    with pytest.raises(ValueError, match="kept by an object"):
        state["OrderCounter"] = 1
    with pytest.raises(ValueError, match="kept by an object"):
        del state["OrderCounter"]
    other = OrderCounter(count=-1)
    state = load(any_server)
    state.bind(other)
    assert other.count == 5
    assert save(client, state) == []
    with pytest.raises(TypeError, match="neither"):
        state.bind({})


def test_a_name_is_bound_to_one_object() -> None:
    state = ProcessorState()
    first, taken = OrderCounter(1), state.model(OrderCounter, "taken")
    state.bind(first)
    state.bind(first)
    with pytest.raises(ValueError, match="'OrderCounter' is another OrderCounter already"):
        state.bind(OrderCounter(2))
    with pytest.raises(ValueError, match="'taken' is another OrderCounter already"):
        state.bind(OrderCounter(2), "taken")
    taken.count = 3
    state.bind(taken, "taken")
    assert taken.count == 3
    # One that was deleted is not read again.
    state = commit(state)
    del state["taken"]
    state.bind(other := OrderCounter(4), "taken")
    assert other.count == 4
    assert commit(state).model(OrderCounter, "taken").count == 4


def tampered(directory: Path) -> Iterator[bytes]:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (directory.joinpath("ran").touch, ())

    yield pickle.dumps(Evil())
    yield from (
        b"", b"5", b"null", b"{", b"\xff", b"{}", b'{"format":1}', b'{"format":2,"value":1}',
        b'{"format":1,"value":{"$class":"os.system"}}', b'{"format":1,"value":{"$decimal":"x"}}',
        b'{"format":1,"value":{"$datetime":["2024-01-01","../../etc/passwd"]}}',
        b'{"format":1,"value":{"$datetime":["2024-01-01T00:00:00Z","No/Where"]}}',
        b'{"format":1,"value":{"$set":[[]]}}', b'{"format":1,"value":{"$bytes":"*"}}',
        b'{"format":1,"value":{"$microseconds":1e400}}', b'{"format":1,"value":{"$float":"x"}}',
        b'{"format":1,"value":{"$dict":[1]}}', b'{"format":1,"value":' + b"[" * 100_000,
        b'{"format":1,"frame":"arrow"}', b'{"format":1,"frame":"arrow"}\n',
        b'{"format":1,"frame":"arrow"}\nARROW1\0\0\xff\xff', b'{"format":1,"frame":"pickle"}\nx',
        b'{"format":1,"model":"Counter","version":1,"value":[]}',
    )  # fmt: skip
    whole = ProcessorState()
    whole["x"] = frame()
    text = commit(whole)._saved["x"]
    yield from (text[: len(text) // 2], text[:-9] + b"\xff" * 9)


def test_bytes_from_the_server_are_never_executed(tmp_path: Path) -> None:
    """State of a peer of ours is a pickle, which runs what it says."""
    for value in tampered(tmp_path):
        state = ProcessorState([(b"x", value)])
        with pytest.raises((DecodeError, SchemaError), match="the state 'x'"):
            state["x"]
        with pytest.raises(DecodeError, match="the state 'x'"):
            state.model(OrderCounter, "x")
        state["x"] = 1
        assert state.changes()[0] == [(b"x", b'{"format":1,"value":1}')]
    assert not tmp_path.joinpath("ran").exists()


def test_the_key_of_something_else(any_server: Server, client: redis.Redis) -> None:
    client.set("state", "x")
    with pytest.raises(WrongTypeError, match='"state" holds a string, and a processor needs'):
        load(any_server)


def test_state_may_be_large(any_server: Server, client: redis.Redis) -> None:
    state = load(any_server)
    state["large"], state["small"] = "x" * 10_000_000, 1
    save(client, state)
    state = load(any_server)
    state["small"] += 1
    assert save(client, state) == ["small"]
    assert len(state["large"]) == 10_000_000
