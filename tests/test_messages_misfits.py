"""Entries that are no events: each is a misfit, and none of them ends the app."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis
from pydantic import BaseModel, field_validator

import redfloe
from redfloe.messages import App, CommandBus, Message, MisfitError, Router
from support.events import OrderPlaced, pending
from support.server import Server
from support.streams import add as add_entries

DEEP = "[" * 200_000
#: The first ID whose time no Int64 holds.
LATE = f"{2**63}-0"


class Shift(BaseModel):
    n: int
    total: Decimal = Decimal(0)
    took: timedelta | None = None
    steps: list[int] | None = None
    more: dict[str, Any] | None = None


class Defaults(BaseModel):
    n: int = 7


GOOD = {"_type": "Shift", "n": "1"}

Register = Callable[[App, str, list[Any]], object]


def single(app: App, stream: str, got: list[Any]) -> None:
    app.on(stream, Shift)(lambda event: got.append(event.n))


def columns(app: App, stream: str, got: list[Any]) -> None:
    app.on_batch(stream, Shift)(lambda frame: got.extend(frame["n"].to_list()))


def both(app: App, stream: str, got: list[Any]) -> None:
    single(app, stream, [])
    columns(app, stream, got)


WAYS = [single, columns, both]


def add(client: redis.Redis, stream: str, *entries: Mapping[str, Any]) -> None:
    add_entries(client, stream, [("*", entry) for entry in entries])


def reasons(server: Server, stream: str) -> list[str]:
    letters = redfloe.read_dead_letters(server.url, f"{stream}:dead")
    found: list[str] = letters["_dead_reason"].to_list()
    return found


def drained(server: Server, stream: str, register: Register, **options: Any) -> list[Any]:
    """Have an app handle what is there; give what its handlers got."""
    got: list[Any] = []
    app = App(server.url, group="g", consumer="c", **{"dead_letter": "{stream}:dead", **options})
    register(app, stream, got)
    app.drain()
    return got


@pytest.mark.parametrize("register", WAYS)
@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"n": "2", "steps": DEEP}, "is no Shift: steps: "),
        ({"n": "2", "took": "9" * 20}, "is no Shift: took: "),
        ({"n": "2", "took": "9" * 5_000}, "is no Shift: took: "),
        ({"n": "x"}, "is no Shift: n: "),
        ({}, "is no Shift: n: Field required"),
    ],
    ids=["deep", "long", "longer", "text", "missing"],
)
def test_an_entry_that_does_not_fit_is_put_aside(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    register: Register,
    entry: dict[str, str],
    problem: str,
) -> None:
    add(client, stream, {"_type": "Shift", **entry}, GOOD)
    assert drained(any_server, stream, register) == [1]
    (reason,) = reasons(any_server, stream)
    assert reason.startswith(f"the entry {problem}")
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("register", [columns, both])
@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"n": "2", "total": "1e40"}, "total: "),
        ({"n": "2", "total": "0.00000000000001"}, "total: "),
        ({"n": str(2**63)}, "n: "),
        ({"n": "2", "steps": f"[1, {2**63}]"}, "steps: "),
    ],
    ids=["large", "small", "integer", "nested"],
)
def test_what_no_column_holds_is_put_aside_and_no_null(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    register: Register,
    entry: dict[str, str],
    problem: str,
) -> None:
    add(client, stream, {"_type": "Shift", **entry}, GOOD)
    assert drained(any_server, stream, register) == [1]
    (reason,) = reasons(any_server, stream)
    assert reason.startswith(f"the entry is no Shift: {problem}")
    assert "does not fit" in reason


@pytest.mark.parametrize("register", WAYS)
def test_an_entry_of_a_time_that_no_column_holds(
    any_server: Server, client: redis.Redis, stream: str, register: Register
) -> None:
    add_entries(client, stream, [("1-0", GOOD), (LATE, {**GOOD, "n": "2"})])
    got = drained(any_server, stream, register)
    if register is single:
        assert got == [1, 2]
    else:
        assert got == [1]
        (reason,) = reasons(any_server, stream)
        assert reason.startswith("the entry is no Shift: the time ")


def test_misfits_are_raised_where_that_is_chosen(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    unfit = {"_type": "Shift", "n": "2", "total": "1e40"}
    add_entries(client, stream, [("1-0", GOOD), ("2-0", unfit)])
    with pytest.raises(MisfitError, match=r"the entry 2-0 of .* total: 1E\+40 does not"):
        drained(any_server, stream, both, on_misfit="raise")


@pytest.mark.parametrize("codec", ["json", "faststream"])
def test_documents_that_are_nested_too_deep(
    any_server: Server, client: redis.Redis, stream: str, codec: Any
) -> None:
    field = {"json": "payload", "faststream": "__data__"}[codec]
    add(client, stream, {field: DEEP})
    add(client, stream, {field: '{"n": 1}'})

    def register(app: App, stream: str, got: list[Any]) -> None:
        app.on(stream)(lambda message: got.append(message.payload))

    assert drained(any_server, stream, register, codec=codec) == [{"n": 1}]
    assert reasons(any_server, stream) == [
        "the entry has a payload that is no JSON: it is nested too deep"
    ]


@pytest.mark.parametrize("codec", ["row", "json"])
def test_metadata_that_is_nested_too_deep_is_a_text(
    any_server: Server, client: redis.Redis, stream: str, codec: Any
) -> None:
    if codec == "row":
        add(client, stream, {**GOOD, "_metadata": DEEP})
    else:
        add(client, stream, {"event_type": "Shift", "payload": '{"n": 1}', "metadata": DEEP})

    def register(app: App, stream: str, got: list[Any]) -> None:
        app.on(stream, Shift)(lambda event, message: got.append(message.metadata))

    assert drained(any_server, stream, register, codec=codec) == [{"_metadata": DEEP}]


class Odd(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def _refuse(cls, n: int) -> int:
        if n == 2:
            raise OddError
        return n


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_a_validator_whose_exception_has_no_text(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    for n in "21":
        add(client, stream, {"_type": "Odd", "n": n})

    def register(app: App, stream: str, got: list[Any]) -> None:
        app.on(stream, Odd)(lambda event: got.append(event.n))

    assert drained(any_server, stream, register) == [1]
    assert reasons(any_server, stream) == [
        "the entry is no Odd: OddError: (its text raised RuntimeError)"
    ]


def test_a_reason_that_is_no_utf8(any_server: Server, client: redis.Redis, stream: str) -> None:
    add(client, stream, GOOD)

    def register(app: App, stream: str, got: list[Any]) -> None:
        @app.on(stream, Shift)
        def handle(message: Message) -> None:
            message.fail("\ud800 is no text")

    drained(any_server, stream, register)
    assert reasons(any_server, stream) == ["\\ud800 is no text"]


# Documents as columns


BROKEN = ["no JSON", "[1]", "3", "", "null", b"\xff", '{"n": ' + DEEP, None]


@pytest.mark.parametrize("model", [Defaults, Shift])
@pytest.mark.parametrize("codec", ["json", "natricine"])
def test_a_broken_document_is_no_event_of_defaults(
    any_server: Server, client: redis.Redis, stream: str, model: Any, codec: Any
) -> None:
    beside = {"event_type": model.__name__, "n": "5"}
    for document in BROKEN:
        add(client, stream, beside if document is None else {**beside, "payload": document})
    add(client, stream, {**beside, "payload": '{"n": 1}'})

    def register(app: App, stream: str, got: list[Any]) -> None:
        app.on_batch(stream, model)(lambda frame: got.extend(frame["n"].to_list()))

    assert drained(any_server, stream, register, codec=codec) == [1]
    assert len(reasons(any_server, stream)) == len(BROKEN)


def test_keys_of_a_document_that_are_called_as_fields(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    for document in ('{"n": 1, "event_type": 2, "payload": 3}', '{"n": "x", "payload": 3}'):
        add(client, stream, {"event_type": "Shift", "payload": document})
    assert drained(any_server, stream, columns, codec="json") == [1]
    assert reasons(any_server, stream) == ["the entry is no Shift: n: 'x' does not fit"]


# Keys


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        (lambda message: 1 // (message.event.n - 2), "ZeroDivisionError: "),
        (lambda message: [] if message.event.n == 2 else None, "TypeError: unhashable type"),
    ],
    ids=["raises", "unhashable"],
)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside columns"])
def test_a_message_whose_key_cannot_be_told_is_a_misfit(
    any_server: Server, client: redis.Redis, stream: str, key: Any, problem: str, beside: bool
) -> None:
    for n in "1234":
        add(client, stream, {"_type": "Shift", "n": n})
    frames: list[Any] = []

    def register(app: App, stream: str, got: list[Any]) -> None:
        app.on(stream, Shift, key=key)(lambda event: got.append(event.n))
        if beside:
            columns(app, stream, frames)

    assert sorted(drained(any_server, stream, register, concurrency=2)) == [1, 3, 4]
    assert frames == ([1, 3, 4] if beside else [])
    (reason,) = reasons(any_server, stream)
    assert reason.startswith(f"the entry has no key: {problem}")
    client.xgroup_destroy(stream, "g")
    with pytest.raises(MisfitError, match="has no key"):
        drained(any_server, stream, register, concurrency=2, on_misfit="raise")


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_a_handler_with_a_key_beside_one_of_columns(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    for n in range(20):
        add(client, stream, {"_type": "Shift", "n": n})
    frames: list[pl.DataFrame] = []

    def register(app: App, stream: str, got: list[Any]) -> None:
        def handle(event: Shift) -> None:
            got.append(event.n)

        async def handle_async(event: Shift) -> None:
            got.append(event.n)

        app.on(stream, Shift, key="n")(handle_async if is_async else handle)
        app.on_batch(stream, Shift)(frames.append)

    got = drained(any_server, stream, register, concurrency=3, batch_size=8)
    assert sorted(got) == [*range(20)]
    assert sorted(pl.concat(frames)["n"].to_list()) == [*range(20)]
    assert pending(client, stream, "g") == 0


def test_a_key_that_no_event_has_is_refused(any_server: Server) -> None:
    class Customer(BaseModel):
        id: int

    class Sale(BaseModel):
        customer: Customer

        @property
        def half(self) -> int:
            return self.customer.id // 2

    router = Router()
    for key in ("customer.id", "half", "customer"):
        router.on("s", Sale, key=key)(lambda event: None)
    router.on("s", types=["a"], key="anything")(lambda message: None)
    with pytest.raises(ValueError, match="key is 'typo', and Sale has no field 'typo'"):
        router.on("s", Sale, key="typo")(lambda event: None)
    with pytest.raises(ValueError, match="key is 'name', and Customer has no field 'name'"):
        router.on("s", Sale, key="customer.name")(lambda event: None)

    def handle(command: OrderPlaced) -> None: ...

    with pytest.raises(ValueError, match="OrderPlaced has no field 'typo'"):
        CommandBus(App(any_server.url, group="g")).handler(key="typo")(handle)


@pytest.mark.parametrize("exactly_once", [False, True], ids=["at_least_once", "exactly_once"])
def test_a_field_whose_name_is_no_text_is_a_misfit_without_a_model(
    any_server: Server, client: redis.Redis, stream: str, exactly_once: bool
) -> None:
    """Also where none of a batch's entries can be read."""
    got: list[Any] = []
    for entry in ({b"_type": b"Shift", b"caf\xe9": b"1"}, {"_type": "Shift", "n": "1"}):
        add_entries(client, stream, [("*", entry)])
        got += drained(
            any_server,
            stream,
            lambda app, stream, got: app.on(stream, exactly_once=exactly_once)(
                lambda message: got.append(message.payload)
            ),
        )
    assert got == [{"n": "1"}]
    (reason,) = reasons(any_server, stream)
    assert "is not UTF-8" in reason
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("exactly_once", [False, True], ids=["at_least_once", "exactly_once"])
def test_what_is_no_text_is_a_misfit_also_without_a_dead_letter_stream(
    any_server: Server, client: redis.Redis, stream: str, exactly_once: bool
) -> None:
    entry_id = client.xadd(stream, {b"_type": b"Shift", b"n": b"\xff"}).decode()  # type: ignore[union-attr]  # not async
    app = App(any_server.url, group="g", consumer="c")
    app.on(stream, Shift, exactly_once=exactly_once)(lambda event: None)
    with pytest.raises(MisfitError, match=rf"the entry {entry_id} of '{stream}'") as raised:
        app.drain()
    assert "on_error" not in str(raised.value)
    assert "dead_letter" in str(raised.value)
