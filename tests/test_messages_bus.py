"""Buses: one handler for each command, all handlers for each event, and their streams."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any, cast

import pytest
import redis
from pydantic import BaseModel

import redfloe
from redfloe.messages import (
    App,
    CommandBus,
    EventBus,
    Marshaler,
    Message,
    Retry,
    Router,
    Transaction,
)
from support.events import OrderPaid, OrderPlaced, orders, until
from support.server import Server


class CreateUser(BaseModel):
    name: str


@dataclass
class RenameUser:
    name: str
    to: str


def test_a_command_is_handled_once_by_its_handler(any_server: Server, client: redis.Redis) -> None:
    app = App(any_server.url, group="users")
    bus = CommandBus(app)
    got: list[Any] = []

    @bus.handler
    async def create(command: CreateUser) -> None:
        got.append(command)

    @bus.handler(retry=Retry(attempts=2, base_delay=0))
    def rename(message: Message, command: RenameUser) -> None:
        got.append((command, message.metadata))
        if got.count(got[-1]) == 1:
            raise OSError

    with bus:
        first = bus.send(CreateUser(name="Ann"))
        asyncio.run(bus.send_async(RenameUser("Ann", "Eve"), metadata={"by": "x"}))
        drained = app.drain()
    renamed = (RenameUser("Ann", "Eve"), {"by": "x"})
    assert sorted(got, key=str) == sorted([CreateUser(name="Ann"), renamed, renamed], key=str)
    assert len(drained.handled) == 2
    entries: Any = client.xrange("command.CreateUser")
    assert entries == [(first.encode(), {b"_type": b"CreateUser", b"name": b"Ann"})]
    assert client.xinfo_groups("command.RenameUser")[0]["name"] == b"users"


def test_handlers_of_buses_commit_with_their_messages(
    any_server: Server, client: redis.Redis
) -> None:
    app = App(any_server.url, group="g", consumer="c", retry=Retry(attempts=1), dead_letter="dead")
    commands, events = CommandBus(app), EventBus(app)
    got: list[str] = []

    @commands.handler(exactly_once=True)
    async def create(command: CreateUser, tx: Transaction) -> None:
        renamed = RenameUser("?", command.name)
        tx.publish(renamed, stream=events.stream(RenameUser))
        if command.name == "Eve":
            raise KeyError

    @events.handler(exactly_once=True)
    def note(event: RenameUser, tx: Transaction) -> None:
        tx.publish(CreateUser(name=event.to), stream="noted")

    @events.handler
    def beside(event: RenameUser) -> None:
        got.append(event.to)

    with commands, events:
        for name in ("Ann", "Eve", "Bob"):
            commands.send(CreateUser(name=name))
        drained = app.drain()
    assert got == ["Ann", "Bob"]
    assert redfloe.read_stream(any_server.url, "noted")["name"].to_list() == got
    assert len(drained.failed) == 1
    assert {*app.processors} == {"command.CreateUser", "event.RenameUser (g.note)"}
    with pytest.raises(ValueError, match="group is empty"):
        events.handler(group="")(note)


def test_a_second_handler_of_a_command_is_refused(any_server: Server) -> None:
    app = App(any_server.url, group="users")
    bus = CommandBus(app)

    @bus.handler
    async def create(command: CreateUser) -> None: ...

    def again(command: RenameUser | CreateUser) -> None: ...

    wrong = r"the command 'CreateUser' has a handler already, .*create"
    for second in (bus, CommandBus(app)):
        with pytest.raises(ValueError, match=wrong):
            second.handler(again)
    assert len(app.handlers) == 1  # nor one for the other of its commands
    CommandBus(app, prefix="other.").handler(again)
    assert [one.stream for one in app.handlers[1:]] == ["other.RenameUser", "other.CreateUser"]


def test_nobody_shares_a_stream_with_the_handler_of_a_bus(any_server: Server) -> None:
    stream, second = "command.CreateUser", r"create handles the stream 'command.CreateUser' in the"

    def app_with_bus() -> App:
        app = App(any_server.url, group="users")

        @CommandBus(app).handler
        async def create(command: CreateUser) -> None: ...

        return app

    for group in (None, "users"):
        router, outer = Router(), Router()
        router.on("notes")(lambda message: None)
        router.on(stream, CreateUser, group=group)(lambda command: None)
        outer.include(router)
        app = app_with_bus()
        with pytest.raises(ValueError, match=second):
            app.include(outer)
        assert len(app.handlers) == 1  # of the router's none
        with pytest.raises(ValueError, match=second):
            app.on(stream, group=group)(lambda message: None)
        app.on(stream, group="audit")(lambda message: None)  # which has them all
        # Whoever comes first.
        app = App(any_server.url, group="users")
        app.include(router)
        with pytest.raises(ValueError, match="the command 'CreateUser' has a handler already"):

            @CommandBus(app).handler
            async def create(command: CreateUser) -> None: ...

    app = App(any_server.url, group="users")

    @EventBus(app).handler
    async def welcome(event: CreateUser) -> None: ...

    with pytest.raises(ValueError, match=r"in the group 'users\.welcome'"):
        app.on("event.CreateUser", group="users.welcome")(lambda message: None)


def test_what_cannot_be_included_leaves_an_app_as_it_was(any_server: Server) -> None:
    app = App(any_server.url, group="users")
    router = Router()
    router.on("s", CreateUser, codec="json")(lambda event: None)
    router.on("s", RenameUser, codec="natricine")(lambda event: None)
    with pytest.raises(ValueError, match="name different codecs"):
        app.include(router)
    assert app.handlers == ()


def test_all_handlers_get_an_event_each_in_a_group_of_its_own(
    any_server: Server, client: redis.Redis
) -> None:
    app = App(any_server.url, group="shop", retry=Retry(attempts=1), dead_letter="{stream}:dead")
    bus = EventBus(app)
    got: list[tuple[str, int]] = []

    @bus.handler
    async def bill(event: OrderPlaced | OrderPaid) -> None:
        got.append(("bill", event.order_id))

    @bus.handler
    def ship(event: OrderPlaced) -> None:
        got.append(("ship", event.order_id))
        if event.order_id == 2:
            raise OSError

    @bus.handler(group="elsewhere")
    def count(event: OrderPlaced) -> None:
        got.append(("count", event.order_id))

    with bus:
        assert bus.publish_many(orders(3)) == 3
        bus.publish(OrderPaid(order_id=4))
        drained = app.drain()
    everywhere = [(name, n) for name in ("bill", "count", "ship") for n in (1, 2, 3)]
    assert sorted(got) == sorted([*everywhere, ("bill", 4)])
    # What fails in one of them is done in the others.
    assert [one.event.order_id for one, _ in drained.failed] == [2]
    assert len(drained.handled) == 9
    names = {one["name"].decode() for one in client.xinfo_groups("event.OrderPlaced")}
    assert names == {"shop.bill", "shop.ship", "elsewhere"}
    assert {*app.consumers} == {
        "event.OrderPlaced (shop.bill)",
        "event.OrderPaid (shop.bill)",
        "event.OrderPlaced (shop.ship)",
        "event.OrderPlaced (elsewhere)",
    }


def test_handlers_of_one_event_share_no_group(any_server: Server) -> None:
    bus = EventBus(App(any_server.url, group="g"))

    @bus.handler
    def handle(event: OrderPlaced) -> None: ...

    with pytest.raises(ValueError, match=r"handles 'OrderPlaced' in the group 'g\.handle' already"):
        bus.handler(handle)
    bus.handler(group="g2")(handle)


def test_services_get_all_events_and_their_workers_share_them(any_server: Server) -> None:
    """As natricine's TestConsumerGroups has it."""
    got: dict[str, list[int]] = {"billing": [], "shipping": []}

    def app(group: str, consumer: str) -> App:
        app = App(any_server.url, group=group, consumer=consumer, batch_size=5)

        @EventBus(app).handler
        async def handle(event: OrderPlaced) -> None:
            got[group].append(event.order_id)
            await asyncio.sleep(0)

        return app

    async def main() -> None:
        publishing = EventBus(any_server.url)
        async with (
            app("billing", "1"),
            app("billing", "2"),
            app("shipping", "1"),
            publishing,
        ):
            assert await publishing.publish_many_async(orders(50)) == 50
            assert await publishing.publish_async(OrderPlaced(order_id=51))
            await until(lambda: all(len(one) == 51 for one in got.values()))

    asyncio.run(main())
    assert all(sorted(one) == [*range(1, 52)] for one in got.values())


def test_buses_read_and_write_natricines_streams(any_server: Server, client: redis.Redis) -> None:
    # As natricine's RedisStreamPublisher writes it.
    fields: dict[Any, Any] = {
        "_natricine_message_uuid": "u",
        "payload": '{"name":"Ann"}',
        "metadata": b"\x80",
    }
    client.xadd("command.CreateUser", fields)
    app = App(any_server.url, group="commands", consumer="worker-1")
    got: list[str] = []
    with CommandBus(app, marshaler="natricine") as bus:

        @bus.handler
        async def create(command: CreateUser) -> None:
            got.append(command.name)

        bus.send(CreateUser(name="Eve"))
        app.drain()
    assert got == ["Ann", "Eve"]
    entries: Any = client.xrange("command.CreateUser")
    ours = entries[1][1]
    assert json.loads(ours[b"payload"]) == {"name": "Eve"}
    assert b"_natricine_message_uuid" in ours


def test_a_marshaler_names_types_and_so_streams(any_server: Server, client: redis.Redis) -> None:
    app = App(any_server.url, group="g")
    marshaler = Marshaler("json", name=lambda model: f"v1.{model.__name__.lower()}")
    got: list[Any] = []
    with EventBus(app, prefix="", marshaler=marshaler) as bus:

        @bus.handler
        def handle(message: Message, event: CreateUser) -> None:
            got.append((message.type, event))

        bus.publish(CreateUser(name="Ann"))
        bus.publish(Message("v1.createuser", {"name": "Eve"}))
        app.drain()
    assert got == [("v1.createuser", CreateUser(name=name)) for name in ("Ann", "Eve")]
    assert client.xlen("v1.createuser") == 2


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda bus: bus.handler(lambda event: None), "annotate the parameter of"),
        (lambda bus: bus.handler(len), "annotate the parameter of 'len'"),
        (lambda bus: bus.send({"name": "Ann"}), "an instance of a model, or a Message with a type"),
        (lambda bus: bus.send(Message(payload={})), "or a Message with a type"),
        (
            lambda bus: Marshaler(name=lambda model: cast(str, 1)).name(OrderPlaced),
            "name gives must be str",
        ),
    ],
)
def test_what_a_bus_does_not_take(any_server: Server, attempt: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        attempt(CommandBus(App(any_server.url, group="g")))


def test_a_bus_without_an_app_only_sends(any_server: Server, client: redis.Redis) -> None:
    def handle(command: CreateUser) -> None: ...

    with CommandBus(any_server.url, maxlen=1, approximate=False) as bus:
        with pytest.raises(ValueError, match=r"with handlers needs an app: CommandBus\(app\)"):
            bus.handler(handle)
        for _ in range(2):
            bus.send(CreateUser(name="Ann"))
    assert client.xlen("command.CreateUser") == 1
    with pytest.raises(ValueError, match="closed"):
        bus.send(CreateUser(name="Ann"))
