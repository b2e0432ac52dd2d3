"""A processor of messages: what handlers publish and keep is in with their messages, once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import FencedError
from redfloe.messages import (
    App,
    Message,
    MisfitError,
    NotDoneError,
    Processor,
    Producer,
    Retry,
    Router,
    Transaction,
    UnknownTypeError,
)
from support.consumers import World
from support.events import OrderPaid, OrderPlaced, orders, pending, publish
from support.paying import (
    AT_ONCE,
    Total,
    app_of,
    dead,
    numbers,
    paying,
    processor,
    run,
    state,
)
from support.server import Server
from support.timing import SLACK, within


def test_outputs_and_state_are_in_with_the_messages(any_server: Server, world: World) -> None:
    publish(any_server, *orders(5))
    router = Router()

    @router.on("orders", OrderPlaced)
    def count(event: OrderPlaced, message: Message, tx: Transaction) -> None:
        tx.state["ids"] = [*tx.state.get("ids", []), event.order_id]
        total = Total(orders=len(tx.state["ids"]), ids=tx.state["ids"])
        tx.publish(total, metadata={"of": message.id})

    for _ in range(2):  # the second time there is nothing left
        run(world, processor(any_server, router, outputs={Total: "totals"}, batch_size=2))
    assert state(any_server) == {"ids": [1, 2, 3, 4, 5]}
    got: list[Any] = []
    app = App(any_server.url, group="g")

    @app.on("totals", Total)
    def look(event: Total, message: Message) -> None:
        got.append((event.orders, event.ids[-1], message.metadata["of"]))

    app.drain()
    ids = redfloe.read_stream(any_server.url, "orders")["_id"].to_list()[:5]
    assert got == [(n, n, entry_id) for n, entry_id in enumerate(ids, start=1)]


def test_async_handlers_and_others_share_a_transaction(any_server: Server, world: World) -> None:
    publish(any_server, *orders(3))
    threads: list[bool] = []
    router = Router()

    @router.on("orders", OrderPlaced)
    async def first(event: OrderPlaced, tx: Transaction) -> None:
        stock = await tx.table("stock", key="n", schema={"n": pl.Int64, "left": pl.Int64})
        stock.upsert(pl.DataFrame({"n": [event.order_id], "left": [9]}))
        tx.state["last"] = event.order_id

    @router.on("orders")
    def second(message: Message, tx: Transaction) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        stock = tx.table("stock", key="n", schema={"n": pl.Int64, "left": pl.Int64})
        number = int(message.payload["order_id"])
        left = stock.lookup(pl.Series("n", [number]))["left"].item()
        assert tx.state["last"] == number
        tx.publish({"left": left}, stream="left")

    made = processor(any_server, router)
    if world.runner is None:
        with pytest.raises(TypeError, match="first is async; use run_async"):
            made.run()
        return
    run(world, made)
    assert threads == [False] * 3
    assert redfloe.read_stream(any_server.url, "left")["left"].to_list() == ["9"] * 3


@pytest.mark.parametrize("of_group", [False, True])
def test_a_handler_looks_into_another_processors_table(
    any_server: Server, world: World, of_group: bool
) -> None:
    schema = {"n": pl.Int64, "left": pl.Int64}
    redfloe.write_stream(any_server.url, pl.DataFrame({"n": [1, 3], "left": [9, 7]}), "stock")
    stock = redfloe.StreamProcessor(
        any_server.url,
        "stock",
        name="s",
        schema=schema,
        on_idle="stop",
        block_ms=1,
    )
    stock.run(lambda tx: tx.table("t", key="n", schema=schema).upsert(tx.frame.select("n", "left")))
    publish(any_server, *orders(3))
    got: list[Any] = []
    router = Router()
    if world.runner is None:

        @router.on("orders", OrderPlaced)
        def look(event: OrderPlaced, tx: Transaction) -> None:
            got.extend(
                tx.lookup("stock", "s", "t", pl.Series([event.order_id]), key="n", schema=schema)[
                    "left"
                ]
            )

    else:

        @router.on("orders", OrderPlaced)
        async def look_async(event: OrderPlaced, tx: Transaction) -> None:
            found = await tx.lookup(
                "stock", "s", "t", pl.Series([event.order_id]), key="n", schema=schema
            )
            got.extend(found["left"])

    member = {"group": "g", "consumer": "c"} if of_group else {}
    run(world, processor(any_server, router, **member))
    assert got == [9, None, 7]


def test_a_lookup_that_can_never_be_ends_the_processor(any_server: Server, world: World) -> None:
    """Nothing goes to dead letters for it."""
    rows = pl.DataFrame({"n": [1, 2, 3]})
    redfloe.write_stream(any_server.url, rows, "stock", shards=2, shard_by="n")
    schema = {"n": pl.Int64, "left": pl.Int64}
    publish(any_server, *orders(3))
    router = Router()
    if world.runner is None:

        @router.on("orders", OrderPlaced)
        def look(event: OrderPlaced, tx: Transaction) -> None:
            tx.lookup("stock", "s", "t", pl.Series([event.order_id]), key="n", schema=schema)

    else:

        @router.on("orders", OrderPlaced)
        async def look_async(event: OrderPlaced, tx: Transaction) -> None:
            await tx.lookup("stock", "s", "t", pl.Series([event.order_id]), key="n", schema=schema)

    with pytest.raises(ValueError, match="a sharded stream, of whose tables"):
        run(world, processor(any_server, router, dead_letter="dead"))
    assert redfloe.stream_info(any_server.url, "dead").is_empty()


def test_handlers_that_are_not_async_leave_an_event_loop_alone(
    any_server: Server, runner: asyncio.Runner
) -> None:
    publish(any_server, *orders(2))
    ticks: list[None] = []
    router = Router()

    @router.on("orders", OrderPlaced)
    def wait(event: OrderPlaced, tx: Transaction) -> None:
        assert tx.table("t", key="k", schema={"v": pl.Int64}).frame().is_empty()
        before = len(ticks)
        while len(ticks) == before:
            threading.Event().wait(0.001)

    async def main() -> None:
        async def tick() -> None:
            while True:
                ticks.append(None)
                await asyncio.sleep(0.001)

        ticking = asyncio.create_task(tick())
        await processor(any_server, router).run_async()
        ticking.cancel()

    with within(10):
        runner.run(main())


def test_a_handler_that_raises_leaves_nothing_behind(any_server: Server, world: World) -> None:
    publish(any_server, *orders(3))
    calls: list[int] = []
    router = Router()

    @router.on("orders", OrderPlaced)
    def pay(event: OrderPlaced, tx: Transaction) -> None:
        calls.append(event.order_id)
        tx.state["seen"] = tx.state.get("seen", 0) + 1
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        if event.order_id == 3 and calls.count(3) < 3:
            raise KeyError(event.order_id)

    run(world, processor(any_server, router), retry_base_delay=0)
    assert calls == [1, 2, 3] * 3
    assert numbers(any_server) == [1, 2, 3]
    assert state(any_server) == {"seen": 3}


def test_poison_goes_to_the_dead_letters_in_its_commit(any_server: Server, world: World) -> None:
    publish(any_server, *orders(7))
    made = processor(any_server, paying(poison=5), dead_letter="orders:dead")
    run(world, made, **AT_ONCE)
    assert numbers(any_server) == [1, 2, 3, 4, 6, 7]
    assert dead(any_server) == [("5", "KeyError: 5")]


def test_without_dead_letters_what_a_handler_raises_is_raised(
    any_server: Server, world: World
) -> None:
    publish(any_server, *orders(3))
    with pytest.raises(KeyError) as raised:
        run(world, processor(any_server, paying(poison=2)), **AT_ONCE)
    assert "by paying.<locals>.pay" in raised.value.__notes__[0]
    assert numbers(any_server) == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_false_is_a_failure(any_server: Server, runner: asyncio.Runner, kind: str) -> None:
    """Nothing could be committed after a message that is not done."""
    publish(any_server, *orders(2))
    calls: list[int] = []
    router = Router()

    def refuse(event: OrderPlaced) -> bool:
        calls.append(event.order_id)
        return event.order_id != 2 or calls.count(2) > 2

    async def refuse_async(event: OrderPlaced) -> bool:
        return refuse(event)

    router.on("orders", OrderPlaced)(refuse if kind == "sync" else refuse_async)
    with pytest.raises(NotDoneError, match=r"refuse\w* returned False: <Message 'OrderPlaced'"):
        runner.run(processor(any_server, router).run_async(attempts=1))
    runner.run(processor(any_server, router).run_async(retry_base_delay=0))
    assert calls == [1, 2] * 3


def test_a_handler_may_put_its_message_aside(any_server: Server, world: World) -> None:
    publish(any_server, *orders(3))
    got: list[int] = []
    router = Router()

    @router.on("orders", OrderPlaced)
    def look(event: OrderPlaced, message: Message, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        if event.order_id == 2:
            message.fail("no such customer")

    router.on("orders", OrderPlaced)(lambda event: got.append(event.order_id))
    run(world, processor(any_server, router, dead_letter="orders:dead"))
    assert got == [1, 3]
    assert numbers(any_server) == [1, 2, 3]
    assert dead(any_server) == [("2", "no such customer")]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda message, tx: message.ack(), "acknowledged by the commit"),
        (lambda message, tx: message.nack(), "raise an exception"),
        (lambda message, tx: message.extend(), "kept from others until the commit"),
    ],
)
def test_what_a_commit_does_itself_is_refused(
    any_server: Server, call: Callable[[Message, Transaction], None], match: str
) -> None:
    """It is the handler that is wrong: no message goes to the dead letters for that."""
    publish(any_server, *orders(2))
    router = Router()
    router.on("orders")(call)
    with pytest.raises(ValueError, match=match):
        processor(any_server, router, dead_letter="orders:dead").run()
    assert dead(any_server) == []


def test_misfits_and_unknown_types(any_server: Server, client: redis.Redis) -> None:
    publish(
        any_server, *orders(1), OrderPaid(order_id=2), Message("OrderPlaced", {"order_id": "x"})
    )
    client.xadd("orders", {"_type": "OrderPlaced", "order_id": b"\xff"})
    publish(any_server, *orders(3, first=3))
    with pytest.raises(MisfitError, match="is no OrderPlaced: order_id"):
        processor(any_server, paying()).run()
    options: dict[str, Any] = {"dead_letter": "orders:dead"}
    with pytest.raises(MisfitError, match="such entries are put aside"):
        processor(any_server, paying(), on_misfit="raise", **options).run()
    with pytest.raises(UnknownTypeError, match="OrderPaid"):
        processor(any_server, paying(), on_unknown="raise", **options).run()
    assert numbers(any_server) == []
    assert dead(any_server) == []
    processor(any_server, paying(), on_unknown="fail", **options).run()
    assert numbers(any_server) == [1, 3]
    letters: Any = client.xrange("orders:dead")
    reasons = {fields[b"order_id"]: fields[b"_dead_reason"] for _, fields in letters}
    assert reasons.keys() == {b"2", b"x", b"\xff"}
    assert reasons[b"2"] == b"no handler takes this entry, which is of the type 'OrderPaid'"
    assert reasons[b"x"].startswith(b"the entry is no OrderPlaced: order_id")


@pytest.mark.parametrize("kind", ["processor", "app"])
def test_an_entry_that_cannot_be_read_is_a_misfit(
    any_server: Server, client: redis.Redis, world: World, kind: str
) -> None:
    client.xadd("orders", {"_type": "OrderPlaced", "order_id": b"\xff"}, id="1-1")
    told = "entry 1-1 of 'orders' cannot be read: .* is not UTF-8; with a dead_letter such"
    app = app_of(any_server, paying(exactly_once=True))
    with pytest.raises(MisfitError, match=told) as raised:
        app.drain() if kind == "app" else run(world, processor(any_server, paying()))
    assert isinstance(raised.value.__cause__, redfloe.DecodeError)


def test_what_a_handler_cannot_decode_is_its_own(any_server: Server, world: World) -> None:
    publish(any_server, *orders(1))
    router = Router()

    @router.on("orders", OrderPlaced)
    def read(event: OrderPlaced) -> None:
        raise redfloe.DecodeError(str(event.order_id))

    with pytest.raises(redfloe.DecodeError, match="1"):
        run(world, processor(any_server, router), **AT_ONCE)


def test_unknown_types_are_passed_over(any_server: Server) -> None:
    publish(any_server, OrderPaid(order_id=1), *orders(2, first=2))
    processor(any_server, paying()).run()
    processor(any_server, paying()).run()
    assert numbers(any_server) == [2]


def test_columns_have_a_transaction_too(any_server: Server, world: World) -> None:
    publish(any_server, *orders(2), Message("OrderPlaced", {}), *orders(4, first=4))
    router = Router()

    @router.on_batch("orders", OrderPlaced)
    def sum_up(frame: pl.DataFrame, tx: Transaction) -> None:
        ids = frame["order_id"].to_list()
        tx.state["orders"] = tx.state.get("orders", 0) + len(ids)
        tx.publish(Total(orders=tx.state["orders"], ids=ids), stream="totals")

    run(world, processor(any_server, router, dead_letter="orders:dead"))
    totals = redfloe.read_stream(any_server.url, "totals").select("orders", "ids").rows()
    assert totals == [("3", "[1,2,4]")]
    assert len(dead(any_server)) == 1


def test_other_layouts(any_server: Server) -> None:
    with Producer(any_server.url, "orders", codec="json") as producer:
        producer.publish_many(orders(2))
    processor(any_server, paying(), codec="json").run()
    paid = redfloe.read_stream(any_server.url, "paid")
    assert paid.select("event_type", "payload").rows() == [
        ("OrderPaid", '{"order_id":1,"by":null}'),
        ("OrderPaid", '{"order_id":2,"by":null}'),
    ]


def test_what_a_thread_keeps_of_a_transaction_is_refused(any_server: Server) -> None:
    publish(any_server, *orders(1))
    kept: list[Transaction] = []
    router = Router()
    router.on("orders")(lambda message, tx: kept.append(tx))
    processor(any_server, router).run()
    with pytest.raises(RuntimeError, match="this transaction has ended"):
        kept[0].publish(OrderPaid(order_id=1), stream="paid")
    with pytest.raises(RuntimeError, match="this transaction has ended"):
        _ = kept[0].state


def test_a_processor_that_is_fenced(any_server: Server) -> None:
    publish(any_server, *orders(2))
    router = Router()

    @router.on("orders", OrderPlaced)
    def pay(event: OrderPlaced, tx: Transaction) -> None:
        if event.order_id == 2:
            processor(any_server, paying(), takeover=True).run()
        tx.publish(OrderPaid(order_id=-event.order_id), stream="paid")

    with pytest.raises(FencedError):
        processor(any_server, router).run()
    assert numbers(any_server) == [1, 2]


def test_a_batch_that_cannot_be_published_is_refused(any_server: Server) -> None:
    publish(any_server, *orders(2))
    router = Router()

    @router.on("orders", OrderPlaced)
    def pay(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(event)

    with pytest.raises(ValueError, match="name the stream"):
        processor(any_server, router).run(**AT_ONCE)
    with pytest.raises(ValueError, match="no stream for the type 'OrderPlaced'"):
        processor(any_server, router, outputs={OrderPaid: "paid"}).run(**AT_ONCE)


def test_handlers_that_no_processor_can_call(any_server: Server) -> None:
    def make(*routers: Router, **options: Any) -> Processor:
        return Processor(any_server.url, "orders", *routers, name="p", **options)

    with pytest.raises(ValueError, match="pass one that has some"):
        make(Router())
    other, grouped, retried, plain = Router(), Router(), Router(), Router()
    other.on("other", OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="takes messages of 'other'"):
        make(other)
    grouped.on("orders", OrderPlaced, group="own")(lambda event: None)
    with pytest.raises(ValueError, match="has a group of its own"):
        make(grouped)
    retried.on("orders", OrderPlaced, retry=Retry())(lambda event: None)
    with pytest.raises(ValueError, match="has a retry of its own"):
        make(retried)
    plain.on("orders", OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="need a dead_letter"):
        make(plain, on_misfit="dead_letter")
    with pytest.raises(TypeError, match="schema"):
        make(plain, schema={"a": pl.Int64})
    with pytest.raises(TypeError, match="must take the event"):
        plain.on("orders", OrderPlaced)(lambda a, tx, b: None)


def test_processors_of_a_group_share_the_messages(any_server: Server, client: redis.Redis) -> None:
    publish(any_server, *orders(200))
    made = [
        processor(
            any_server,
            paying(poison=7),
            group="g",
            consumer=f"c{number}",
            batch_size=5,
            dead_letter="orders:dead",
            max_deliveries=2,
            reclaim_min_idle_ms=20,
            reclaim_interval_ms=5,
        )
        for number in range(2)
    ]
    for ended in [one.start(**AT_ONCE) for one in made]:
        ended.result(10 * SLACK)
    while pending(client, "orders", "g"):
        made[0].run(**AT_ONCE)
    assert sorted(numbers(any_server)) == [n for n in range(1, 201) if n != 7]
    ((number, _),) = dead(any_server)
    assert number == "7"


def test_an_object_that_is_bound_is_saved_with_the_messages(any_server: Server) -> None:
    class Counter(redfloe.State):
        orders: int = 0

        def count(self, event: OrderPlaced, tx: Transaction) -> None:
            self.orders += 1
            tx.publish(Total(orders=self.orders, ids=[event.order_id]), stream="totals")

    publish(any_server, *orders(3))
    for expected in (3, 4):
        counter, router = Counter(), Router()
        router.on("orders", OrderPlaced)(counter.count)
        made = processor(any_server, router)
        made.bind(counter)
        made.run()
        assert counter.orders == expected
        publish(any_server, *orders(1))
    totals = redfloe.read_stream(any_server.url, "totals")["orders"].to_list()
    assert totals == ["1", "2", "3", "4"]
