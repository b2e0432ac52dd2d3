"""Handlers: which messages they get, in which order, and what becomes of these."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis
from pydantic import BaseModel

import redfloe
from redfloe.messages import App, Message, Producer, Retry, Router, UnknownTypeError
from support.events import OrderPaid, OrderPlaced, orders, pending, publish, until
from support.server import Server
from support.timing import within

QUICK = Retry(attempts=3, base_delay=0.001)


def app_of(server: Server, **options: Any) -> App:
    return App(server.url, group="g", consumer="c", **{"retry": QUICK, **options})


def dead(server: Server, stream: str) -> pl.DataFrame:
    return redfloe.read_dead_letters(server.url, f"{stream}:dead")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("kind", ["async", "sync", "both"])
def test_each_message_is_handled_and_acknowledged_once(
    any_server: Server, client: redis.Redis, stream: str, kind: str, concurrency: int
) -> None:
    with Producer(any_server.url, stream) as producer:
        producer.publish_many(orders(1_000))
    got: list[int] = []
    app = app_of(any_server, concurrency=concurrency)

    if kind in ("async", "both"):

        @app.on(stream, OrderPlaced)
        async def handle(event: OrderPlaced) -> None:
            if event.order_id % 100 == 0:
                await asyncio.sleep(0)
            got.append(event.order_id)

    if kind in ("sync", "both"):

        @app.on(stream, OrderPlaced)
        def handle_in_thread(event: OrderPlaced) -> None:
            assert threading.current_thread() is not threading.main_thread()
            got.append(event.order_id)

    drained = app.drain()
    assert len(drained.handled) == 1_000
    times = 2 if kind == "both" else 1
    assert sorted(got) == sorted([*range(1, 1_001)] * times)
    if concurrency == 1 and times == 1:
        assert got == sorted(got)
    assert pending(client, stream, "g") == 0
    assert app.consumers[stream].stats.acknowledged == 0  # the second pass found nothing


def test_handlers_get_what_their_parameters_say(any_server: Server, stream: str) -> None:
    (entry_id,) = publish(any_server, OrderPlaced(order_id=1), stream=stream)
    app = app_of(any_server)
    got: dict[str, Any] = {}

    @app.on(stream, OrderPlaced)
    def event_first(event: OrderPlaced, message: Message) -> None:
        got["both"] = event, message

    @app.on(stream, OrderPlaced)
    def message_first(msg: Message, order: OrderPlaced) -> None:
        got["swapped"] = order, msg

    @app.on(stream, OrderPlaced)
    def only(message: Any, more: str = "default") -> None:
        got["message"] = message

    @app.on(stream, types=["OrderPlaced"])
    def anything(whatever) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        got["untyped"] = whatever

    @app.on(stream)
    def payload(event: dict[str, str]) -> None:
        got["payload"] = event

    class Handling:
        async def __call__(self, event: OrderPlaced) -> None:
            got["object"] = event

    app.on(stream, OrderPlaced)(Handling())
    app.on(stream, OrderPlaced)(lambda event: got.update(lambda_=event))
    app.on(stream, OrderPlaced)(lambda *args: got.update(args=args))
    app.drain()
    event, message = got["both"]
    assert event == OrderPlaced(order_id=1)
    assert got["swapped"] == (event, message)
    assert got["message"] is message
    assert got["untyped"] is message
    assert got["args"] == (event,)
    assert got["object"] is got["lambda_"] is message.event is event
    # With a model on the stream, that is what the event is.
    assert got["payload"] is event
    assert (message.id, message.stream, message.type) == (entry_id, stream, "OrderPlaced")
    assert message.payload == {"order_id": "1", "total": "9.90"}
    assert message.delivery_count == 1
    assert message.time is not None
    assert abs(message.time.timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda: None, "must take the event, the message, or both"),
        (lambda a, b, c: None, "must take the event, the message, or both"),
        (lambda a, b: None, "must take the event, the message, or both"),
        ("text", "handler must be callable, not str"),
    ],
)
def test_what_cannot_be_a_handler_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        Router().on("s", OrderPlaced)(function)


def test_arguments_that_exclude_each_other_are_refused() -> None:
    def handler(event: Any) -> None: ...

    def generator(event: Any) -> Any:
        yield event

    router = Router()
    with pytest.raises(TypeError, match="is a generator function"):
        router.on("s", OrderPlaced)(generator)
    with pytest.raises(ValueError, match="timeout needs an async handler"):
        router.on("s", OrderPlaced, timeout=1)(handler)
    with pytest.raises(ValueError, match="types name those of one model"):
        router.on("s", OrderPlaced, OrderPaid, types=["a"])(handler)
    with pytest.raises(TypeError, match="name the stream before the model"):
        router.on(OrderPlaced)(handler)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="on_batch needs the model"):
        router.on_batch("s")
    with pytest.raises(ValueError, match="policies"):
        Retry(on={ValueError: "explode"})  # type: ignore[dict-item]


def test_handlers_that_do_not_fit_together_are_refused(any_server: Server) -> None:
    class Other(BaseModel):
        __message_type__ = "OrderPlaced"

    def app() -> App:
        return app_of(any_server)

    first, second = Router(), Router()
    first.on("s", OrderPlaced)(lambda event: None)
    second.on("s", Other)(lambda event: None)
    with pytest.raises(ValueError, match="two models are called 'OrderPlaced' on the stream 's'"):
        app().include(first, second)
    second = Router()
    second.on("s", OrderPlaced, codec="json")(lambda event: None)
    second.on("s", OrderPaid, codec="natricine")(lambda event: None)
    with pytest.raises(ValueError, match="stream 's' name different codecs"):
        app().include(second)
    second = Router()
    second.on("s", OrderPlaced, key="order_id")(lambda event: None)
    second.on("s", OrderPlaced, key="total")(lambda event: None)
    with pytest.raises(ValueError, match="'OrderPlaced' on the stream 's' have different keys"):
        app().include(second)
    second = Router()
    second.on(None, OrderPlaced)(lambda event: None)
    with pytest.raises(ValueError, match="names no stream, and neither do the settings"):
        app().include(second)
    with pytest.raises(ValueError, match="has no handlers: include a router"):
        app().drain()


@pytest.mark.parametrize("columns", [False, True], ids=["single", "columns"])
def test_types_on_one_stream_are_told_apart(
    any_server: Server, client: redis.Redis, stream: str, columns: bool
) -> None:
    publish(
        any_server,
        OrderPlaced(order_id=1),
        OrderPaid(order_id=2, by="x"),
        Message("other", {"order_id": "not a number"}),
        OrderPlaced(order_id=3),
        stream=stream,
    )
    got: list[Any] = []
    app = app_of(any_server)
    if columns:
        app.on_batch(stream, OrderPlaced)(lambda frame: got.append(frame["order_id"].to_list()))
        app.on_batch(stream, OrderPaid)(lambda frame: got.append(frame["by"].to_list()))
        expected: list[Any] = [[1, 3], ["x"]]
    else:

        @app.on(stream, OrderPlaced, OrderPaid)
        async def either(event: OrderPlaced | OrderPaid) -> None:
            got.append(event)

        expected = [OrderPlaced(order_id=1), OrderPaid(order_id=2, by="x"), OrderPlaced(order_id=3)]
    app.drain()
    assert got == expected
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("policy", ["ack", "fail", "raise"])
@pytest.mark.parametrize("columns", [False, True], ids=["single", "columns"])
def test_unknown_types(
    any_server: Server, client: redis.Redis, stream: str, policy: Any, columns: bool
) -> None:
    first, other = OrderPlaced(order_id=2), Message("other", {"order_id": "x"})
    _, entry_id = publish(any_server, first, other, stream=stream)
    got: list[Any] = []
    app = app_of(any_server, on_unknown=policy, dead_letter="{stream}:dead")
    (app.on_batch if columns else app.on)(stream, OrderPlaced)(got.append)
    if policy == "raise":
        with pytest.raises(
            UnknownTypeError, match=f"{entry_id} of '{stream}', which is of the type"
        ):
            app.drain()
        assert len(got) == (0 if columns else 1)  # what came before is handled
        assert pending(client, stream, "g") == 2 - len(got)
        return
    app.drain()
    assert len(got) == 1
    assert pending(client, stream, "g") == 0
    reasons = dead(any_server, stream)["_dead_reason"].to_list() if policy == "fail" else []
    expected = ["no handler takes this entry, which is of the type 'other'"]
    assert reasons == (expected if policy == "fail" else [])


def test_an_entry_without_a_type_is_the_streams_only_model(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.xadd(stream, {"order_id": 1})
    got: list[Any] = []
    app = app_of(any_server)
    app.on(stream, OrderPlaced)(got.append)
    app.drain()
    assert got == [OrderPlaced(order_id=1)]
    client.xadd(stream, {"order_id": 1})
    app.on(stream, OrderPaid)(got.append)
    app.drain()
    assert len(got) == 1  # it may be either


def test_a_catch_all_gets_what_no_model_names(any_server: Server, stream: str) -> None:
    publish(any_server, Message("a", {"x": b"1"}), OrderPlaced(order_id=1), stream=stream)
    got: list[Any] = []
    app = app_of(any_server)
    app.on(stream)(lambda message: got.append((message.type, message.payload)))
    app.on(stream, OrderPlaced)(got.append)
    app.drain()
    assert got == [
        ("a", {"x": "1"}),
        ("OrderPlaced", {"order_id": "1", "total": "9.90"}),
        OrderPlaced(order_id=1),
    ]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_retries_then_a_dead_letter_with_reason_and_traceback(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    publish(any_server, *orders(3), stream=stream)
    calls: list[int] = []
    app = app_of(any_server, dead_letter="{stream}:dead")

    def bill(event: OrderPlaced) -> None:
        calls.append(event.order_id)
        if event.order_id == 2:
            raise RuntimeError("no funds")
        if calls.count(event.order_id) == 1:
            raise ValueError(event.order_id)

    async def bill_async(event: OrderPlaced) -> None:
        bill(event)

    if is_async:
        app.on(stream, OrderPlaced)(bill_async)
    else:
        app.on(stream, OrderPlaced)(bill)
    drained = app.drain()
    assert calls == [1, 1, 2, 2, 2, 3, 3]
    assert [message.event.order_id for message in drained.handled] == [1, 3]
    ((message, reason),) = drained.failed
    assert message.event == OrderPlaced(order_id=2)
    (told,) = dead(any_server, stream)["_dead_reason"]
    assert told == reason
    assert told.startswith("RuntimeError: no funds\n\nTraceback (most recent call last):")
    assert "in bill" in told
    assert "During handling" not in told
    assert "redfloe/messages" not in told
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_exceptions_by_policy(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    ids = publish(any_server, *orders(3), stream=stream)
    calls: list[int] = []
    retry = Retry(attempts=5, base_delay=0.001, on={KeyError: "fail", ZeroDivisionError: "raise"})
    app = app_of(any_server, dead_letter="{stream}:dead", retry=retry)

    def act(event: OrderPlaced) -> None:
        calls.append(event.order_id)
        if event.order_id == 1:
            raise KeyError(1)
        if event.order_id == 2:
            raise ZeroDivisionError

    async def act_async(event: OrderPlaced) -> None:
        act(event)

    app.on(stream, OrderPlaced)(act_async if is_async else act)
    with pytest.raises(ZeroDivisionError) as raised:
        app.drain()
    assert "while handling" in raised.value.__notes__[0]
    assert calls == [1, 2]
    assert dead(any_server, stream)["_dead_id"].to_list() == ids[:1]
    assert pending(client, stream, "g") == 2
    assert app.health().error == "ZeroDivisionError: "
    assert not app.health().alive


def test_without_a_dead_letter_stream_it_is_raised(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(1), stream=stream)
    app = app_of(any_server)
    app.on(stream, OrderPlaced)(lambda event: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        app.drain()
    with pytest.raises(ValueError, match="need a dead_letter stream"):
        app_of(any_server, on_unknown="fail")


def test_each_handler_has_a_retry_of_its_own(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(1), stream=stream)
    calls: list[str] = []
    app = app_of(any_server, dead_letter="{stream}:dead")

    @app.on(stream, OrderPlaced)
    def fine(event: OrderPlaced) -> None:
        calls.append("fine")

    @app.on(stream, OrderPlaced, retry=Retry(attempts=2, base_delay=0.001))
    def bad(event: OrderPlaced) -> None:
        calls.append("bad")
        raise ValueError

    @app.on(stream, OrderPlaced)
    def never(event: OrderPlaced) -> None:
        calls.append("never")

    app.drain()
    assert calls == ["fine", "bad", "bad"]


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_false_means_not_done(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    publish(any_server, *orders(2), stream=stream)
    counts: list[tuple[int, int]] = []
    app = app_of(any_server)

    def price(event: OrderPlaced, message: Message) -> bool:
        counts.append((event.order_id, message.delivery_count))
        return event.order_id == 1 or message.delivery_count == 3

    async def price_async(event: OrderPlaced, message: Message) -> bool:
        return price(event, message)

    app.on(stream, OrderPlaced)(price_async if is_async else price)
    drained = app.drain()
    assert counts == [(1, 1), (2, 1), (2, 2), (2, 3)]
    assert len(drained.handled) == 2
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_messages_are_settled_by_handlers(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    ids = publish(any_server, *orders(4), stream=stream)
    seen: list[tuple[int, int]] = []
    app = app_of(any_server, dead_letter="{stream}:dead")

    def settle(event: OrderPlaced, message: Message) -> None:
        seen.append((event.order_id, message.delivery_count))
        match event.order_id:
            case 1:
                message.ack()
                raise ValueError("too late")
            case 2 if message.delivery_count == 1:
                message.nack(delay=0.01)
            case 3:
                message.fail("no such customer")
                message.ack()  # the first word counts
            case 4:
                message.extend()
                with pytest.raises(ValueError, match="delay must not be negative and at most 30 s"):
                    message.nack(delay=31)

    async def settle_async(event: OrderPlaced, message: Message) -> None:
        settle(event, message)

    app.on(stream, OrderPlaced)(settle_async if is_async else settle)
    app.drain()
    assert sorted(seen) == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]
    letters = dead(any_server, stream)
    assert letters["_dead_id"].to_list() == [ids[2]]
    assert letters["_dead_reason"].to_list() == ["no such customer"]
    assert pending(client, stream, "g") == 0


def test_an_early_ack_is_told_while_the_handler_runs(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(1), stream=stream)
    app = app_of(any_server)
    told = []

    @app.on(stream, OrderPlaced)
    async def slow(message: Message, event: OrderPlaced) -> None:
        message.ack()
        await until(lambda: pending(client, stream, "g") == 0, app)
        told.append(event)

    app.drain()
    assert told


def test_what_is_done_is_told_while_others_run(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """One slow handler does not leave the rest of its batch to be done twice after a crash."""
    publish(any_server, *orders(10), stream=stream)
    app = app_of(any_server)
    told = []

    @app.on(stream, OrderPlaced)
    async def slow(event: OrderPlaced) -> None:
        if event.order_id == 10:
            await until(lambda: pending(client, stream, "g") == 1, app)
            told.append(event)

    app.drain()
    assert told


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_concurrency_is_bounded_and_used(any_server: Server, stream: str, is_async: bool) -> None:
    publish(any_server, *orders(12), stream=stream)
    running, most = 0, 0
    lock = threading.Lock()
    app = app_of(any_server, concurrency=4)

    def enter(by: int) -> None:
        nonlocal running, most
        with lock:
            running += by
            most = max(most, running)

    @app.on(stream, OrderPlaced)
    async def wait(event: OrderPlaced) -> None:
        enter(1)
        await asyncio.sleep(0.02)
        enter(-1)

    def wait_in_thread(event: OrderPlaced) -> None:
        enter(1)
        time.sleep(0.02)
        enter(-1)

    if not is_async:
        app = app_of(any_server, concurrency=4)
        app.on(stream, OrderPlaced)(wait_in_thread)
    app.drain()
    assert most == 4


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
@pytest.mark.parametrize("key", ["order_id", lambda message: message.event.order_id])
def test_a_key_keeps_its_order(any_server: Server, stream: str, is_async: bool, key: Any) -> None:
    class Step(BaseModel):
        order_id: int
        n: int

    with Producer(any_server.url, stream) as producer:
        producer.publish_many([Step(order_id=n % 7, n=n) for n in range(200)])
    got: dict[int, list[int]] = {}
    app = app_of(any_server, concurrency=4, batch_size=30)

    async def handle(event: Step) -> None:
        await asyncio.sleep(0.001 * (event.n % 3))
        got.setdefault(event.order_id, []).append(event.n)

    def handle_in_thread(event: Step) -> None:
        time.sleep(0.001 * (event.n % 3))
        got.setdefault(event.order_id, []).append(event.n)

    app.on(stream, Step, key=key)(handle if is_async else handle_in_thread)
    app.drain()
    assert sum(map(len, got.values())) == 200
    assert all(numbers == sorted(numbers) for numbers in got.values())


def test_a_slow_message_does_not_hold_up_the_next_batches(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(50), stream=stream)
    app = app_of(any_server, concurrency=2, batch_size=5)
    others: list[int] = []

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        if event.order_id == 1:
            await until(lambda: len(others) == 49, app)
        else:
            others.append(event.order_id)

    app.drain()
    assert pending(client, stream, "g") == 0


def test_a_slow_key_does_not_hold_up_the_others(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(60), stream=stream)
    app = app_of(any_server, concurrency=3, batch_size=6)
    others: list[int] = []
    slow: list[int] = []

    @app.on(stream, OrderPlaced, key=lambda message: message.event.order_id % 3)
    async def handle(event: OrderPlaced) -> None:
        if event.order_id % 3 == 0:
            await until(lambda: len(others) == 40, app)
            slow.append(event.order_id)
        else:
            others.append(event.order_id)

    app.drain()
    assert slow == [*range(3, 61, 3)]
    assert pending(client, stream, "g") == 0


def test_timeouts_are_failures(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(2), stream=stream)
    app = app_of(any_server, dead_letter="{stream}:dead", retry=Retry(attempts=1))

    @app.on(stream, OrderPlaced, timeout=0.05)
    async def slow(event: OrderPlaced) -> None:
        if event.order_id == 1:
            await asyncio.sleep(60)

    with within(5):
        drained = app.drain()
    assert [message.event.order_id for message in drained.handled] == [2]
    assert drained.failed[0][1].startswith("TimeoutError: ")


def test_what_a_handler_awaits_may_be_cancelled(any_server: Server, stream: str) -> None:
    """By others: then the handler has failed, and the app goes on."""
    publish(any_server, *orders(2), stream=stream)
    app = app_of(any_server, dead_letter="{stream}:dead")
    calls: list[int] = []

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        calls.append(event.order_id)
        if event.order_id == 1:
            other = asyncio.create_task(asyncio.sleep(60))
            asyncio.get_running_loop().call_soon(other.cancel)
            await other

    drained = app.drain()
    assert calls == [1, 1, 1, 2]
    assert drained.failed[0][1].startswith("RuntimeError: the handler awaited something that was")
    assert len(drained.handled) == 1


@pytest.mark.parametrize("way", ["threads", "beside async", "async"])
def test_a_handler_may_raise_what_passes_for_a_cancel(
    any_server: Server, client: redis.Redis, stream: str, way: str
) -> None:
    publish(any_server, *orders(3), stream=stream)
    app = app_of(any_server, dead_letter="{stream}:dead", retry=Retry(attempts=2, base_delay=0.001))
    calls: list[int] = []

    def handle(event: OrderPlaced) -> None:
        calls.append(event.order_id)
        if event.order_id == 2:
            raise asyncio.CancelledError

    async def handle_async(event: OrderPlaced) -> None:
        handle(event)

    async def beside(event: OrderPlaced) -> None: ...

    app.on(stream, OrderPlaced)(handle_async if way == "async" else handle)
    if way == "beside async":
        app.on(stream, OrderPlaced)(beside)
    drained = app.drain()
    assert calls == [1, 2, 2, 3]
    assert [message.event.order_id for message in drained.handled] == [1, 3]
    assert drained.failed[0][1].startswith("RuntimeError: the handler awaited something that was")
    assert pending(client, stream, "g") == 0


def test_an_exception_that_takes_no_notes(any_server: Server, stream: str) -> None:
    class BareError(Exception):
        def add_note(self, note: str) -> None:
            raise TypeError

    publish(any_server, *orders(1), stream=stream)
    app = app_of(any_server, retry=Retry(on={BareError: "raise"}))

    @app.on(stream, OrderPlaced)
    def handle(event: OrderPlaced) -> None:
        raise BareError

    with pytest.raises(BareError):
        app.drain()


@pytest.mark.parametrize("beside", [False, True], ids=["threads", "both"])
def test_threads_that_have_nothing_to_do_end(
    any_server: Server, stream: str, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr("redfloe.messages._threads.IDLE", 0.1)
    app = app_of(any_server, concurrency=5)
    together = threading.Barrier(5)
    done: list[int] = []

    def alive() -> int:
        return sum(thread.name.startswith("redfloe-g-") for thread in threading.enumerate())

    @app.on(stream, OrderPlaced)
    def handle(event: OrderPlaced) -> None:
        together.wait(10)
        done.append(event.order_id)

    if beside:

        @app.on(stream, OrderPaid)
        async def paid(event: OrderPaid) -> None: ...

    async def main() -> None:
        async with app, Producer(any_server.url, stream) as producer:
            for _ in range(2):
                await producer.publish_many(orders(5))
                await until(lambda: len(done) == 5, app)
                await until(lambda: alive() == 0, app)
                done.clear()

    asyncio.run(main())


def test_a_middleware_may_replace_the_event(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(1), stream=stream)
    got: list[Any] = []

    async def doubles(message: Message, call_next: Callable[[Message], Awaitable[Any]]) -> Any:
        message.event = OrderPlaced(order_id=2 * message.event.order_id)
        return await call_next(message)

    app = app_of(any_server, middleware=[doubles])
    app.on(stream, OrderPlaced)(got.append)
    app.drain()
    assert got == [OrderPlaced(order_id=2)]


@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize("kind", ["new", "payload", "other"])
def test_a_middleware_passes_on_the_message_that_it_was_given(
    any_server: Server, client: redis.Redis, stream: str, kind: str, exactly_once: bool
) -> None:
    """Another one is the middleware's fault: it ends the app, and no message is put aside."""
    publish(any_server, *orders(2), stream=stream)
    seen: list[Message] = []
    got: list[OrderPlaced] = []

    async def exchanges(message: Message, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        seen.append(message)
        given = {"new": Message("OrderPlaced", {"order_id": 3}), "payload": {"order_id": 3}}
        return await call_next(seen[0] if kind == "other" else given[kind])

    app = app_of(any_server, middleware=[exchanges], dead_letter="{stream}:dead")
    app.on(stream, OrderPlaced, exactly_once=exactly_once)(got.append)
    with pytest.raises(TypeError, match=r"must pass on .* <Message 'OrderPlaced' .*message\.event"):
        app.drain()
    assert len(got) == (kind == "other")
    assert client.exists(f"{stream}:dead") == 0


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_middleware_goes_around_handlers(any_server: Server, stream: str, is_async: bool) -> None:
    publish(any_server, *orders(3), stream=stream)
    log: list[str] = []
    user = contextvars.ContextVar[str]("user")

    class Tracing:
        async def __call__(
            self, message: Message, call_next: Callable[[Message], Awaitable[Any]]
        ) -> Any:
            user.set("ada")
            log.append(f"in {message.event.order_id}")
            try:
                return await call_next(message)
            finally:
                log.append(f"out {message.event.order_id}")

    async def skips(message: Message, call_next: Callable[[Message], Awaitable[Any]]) -> Any:
        return None if message.event.order_id == 2 else await call_next(message)

    app = app_of(any_server, middleware=[Tracing(), skips], dead_letter="{stream}:dead")

    async def handle(event: OrderPlaced) -> None:
        log.append(f"{user.get()} {event.order_id}")
        if event.order_id == 3:
            raise KeyError

    def handle_in_thread(event: OrderPlaced) -> None:
        log.append(f"{user.get()} {event.order_id}")
        if event.order_id == 3:
            raise KeyError

    app.on(stream, OrderPlaced, retry=Retry(attempts=1))(handle if is_async else handle_in_thread)
    drained = app.drain()
    assert log == ["in 1", "ada 1", "out 1", "in 2", "out 2", "in 3", "ada 3", "out 3"]
    assert len(drained.failed) == 1
    with pytest.raises(TypeError, match="middleware must be async"):
        app_of(any_server, middleware=[lambda message, call_next: None])


def test_a_batch_of_columns_is_halved_until_what_fails_is_alone(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    ids = publish(any_server, *orders(10), stream=stream)
    calls: list[list[int]] = []
    app = app_of(any_server, dead_letter="{stream}:dead", retry=Retry(attempts=2, base_delay=0.001))

    @app.on_batch(stream, OrderPlaced)
    def load(frame: pl.DataFrame) -> None:
        calls.append(frame["order_id"].to_list())
        if 7 in calls[-1]:
            raise ValueError("seven")

    drained = app.drain()
    assert calls[:2] == [[*range(1, 11)]] * 2
    assert calls[-1] == [8, 9, 10] or [7] in calls
    assert len(drained.handled) == 9
    letters = dead(any_server, stream)
    assert letters["_dead_id"].to_list() == [ids[6]]
    assert letters["_dead_reason"][0].startswith("ValueError: seven")
    assert pending(client, stream, "g") == 0


def test_a_row_is_acknowledged_when_all_its_handlers_are_done(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(4), stream=stream)
    app = app_of(any_server, concurrency=2)
    order: list[str] = []

    @app.on(stream, OrderPlaced)
    async def single(event: OrderPlaced) -> None:
        order.append("single")

    @app.on_batch(stream, OrderPlaced)
    async def columns(frame: pl.DataFrame) -> bool:
        await asyncio.sleep(0.15)  # until the server has been told what there is to tell
        assert pending(client, stream, "g") == 4
        order.append("columns")
        return order.count("columns") == 2

    app.drain()
    assert order.count("columns") == 2
    assert order.count("single") == 8  # all of them come again
    assert pending(client, stream, "g") == 0


@pytest.mark.parametrize("beside", [False, True], ids=["threads", "both"])
def test_a_sync_handler_that_returns_a_coroutine(
    any_server: Server, stream: str, beside: bool
) -> None:
    publish(any_server, *orders(1), stream=stream)

    async def inner(event: OrderPlaced) -> None: ...

    app = app_of(any_server, dead_letter="{stream}:dead")
    if beside:
        app.on(stream, OrderPlaced)(inner)

    def returns(event: OrderPlaced) -> object:
        return inner(event)

    app.on(stream, OrderPlaced)(returns)
    with pytest.raises(TypeError, match="is not async, and returned something to be awaited"):
        app.drain()


def test_handlers_of_json_payloads(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.xadd(
        stream,
        {"event_type": "OrderPlaced", "payload": '{"order_id": 1}', "metadata": '{"source": "x"}'},
    )
    client.xadd(stream, {"event_type": "OrderPlaced", "payload": "no JSON"})
    client.xadd(stream, {"event_type": "price.update", "payload": '{"price": 150.25}'})
    got: list[Any] = []
    app = app_of(any_server, codec="json", dead_letter="{stream}:dead")
    app.on(stream, OrderPlaced)(lambda event, message: got.append((event, message.metadata)))
    app.on(stream, types=["price.update"])(lambda message: got.append(message.payload))
    app.drain()
    assert got == [(OrderPlaced(order_id=1), {"source": "x"}), {"price": 150.25}]
    assert dead(any_server, stream)["_dead_reason"][0].startswith("the entry is no OrderPlaced: ")
    frames: list[pl.DataFrame] = []
    app = App(any_server.url, group="columns", codec="json", dead_letter="{stream}:dead")
    app.on_batch(stream, OrderPlaced)(frames.append)
    app.drain()
    assert [frame["order_id"].to_list() for frame in frames] == [[1]]


def test_natricines_messages(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.xadd(
        stream,
        {
            "_natricine_message_uuid": "0",
            "payload": '{"order_id": 1}',
            "metadata": b"\x82\xa1a\xa1b\xd9\x02cd\xda\x00\x01e",
        },
    )
    client.xadd(stream, {"_natricine_message_uuid": "0", "payload": '{"order_id": 2}'})
    got: list[Any] = []
    app = app_of(any_server, codec="natricine")
    app.on(stream, OrderPlaced)(
        lambda event, message: got.append((event.order_id, message.metadata))
    )
    app.drain()
    assert got == [(1, {"a": "b", "cd": "e"}), (2, {})]
    frames: list[pl.DataFrame] = []
    app = App(any_server.url, group="columns", codec="natricine")
    app.on_batch(stream, OrderPlaced)(frames.append)
    app.drain()
    assert frames[0]["order_id"].to_list() == [1, 2]


def test_faststreams_messages(any_server: Server, client: redis.Redis, stream: str) -> None:
    headers = b"\x00\x02" + b"".join(
        len(text).to_bytes(2, "big") + text
        for text in (b"content-type", b"application/json", b"correlation_id", b"c-1")
    )
    start = 18
    envelope = (
        b"\x89BIN\r\n\x1a\n"
        + (1).to_bytes(2, "big")
        + start.to_bytes(4, "big")
        + (start + len(headers)).to_bytes(4, "big")
        + headers
        + b'{"order_id": 1}'
    )
    client.xadd(stream, {"__data__": envelope})
    client.xadd(stream, {"__data__": '{"data": "{\\"order_id\\": 2}", "headers": {"a": "b"}}'})
    client.xadd(stream, {"__data__": '{"order_id": 3}'})
    got: list[Any] = []
    app = app_of(any_server, codec="faststream")
    app.on(stream, OrderPlaced)(
        lambda event, message: got.append((event.order_id, message.metadata))
    )
    app.drain()
    assert got == [
        (1, {"content-type": "application/json", "correlation_id": "c-1"}),
        (2, {"a": "b"}),
        (3, {}),
    ]


def test_work_goes_on_beside_the_event_loop(any_server: Server, stream: str) -> None:
    app = app_of(any_server)
    got: list[int] = []
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))

    async def main() -> None:
        async with app, Producer(any_server.url, stream) as producer:
            for order in orders(5):
                await producer.publish(order)
                await until(partial(got.__contains__, order.order_id), app)

    asyncio.run(main())
    assert got == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retry": 3}, "TypeError: retry must be a Retry, as in"),
        ({"max_deliveries": 3}, "ValueError: max_deliveries needs a dead_letter stream, for"),
        ({"max_deliveries": 0, "dead_letter": "d"}, "ValueError: max_deliveries must be at least"),
        ({"dead_letter": ""}, "ValueError: dead_letter is empty: name a stream"),
        ({"dead_letter": b"d"}, "TypeError: dead_letter must be str, not bytes"),
        ({"batch_size": 0}, "ValueError: batch_size must be at least 1"),
        ({"concurrency": -1}, "ValueError: concurrency must not be negative, but is -1"),
        ({"group": ""}, "ValueError: group is empty"),
        ({"group": b"g"}, "TypeError: group must be str, not bytes"),
        ({"consumer": ""}, "ValueError: consumer is empty"),
        ({"consumer": 5}, "TypeError: consumer must be str, not int"),
        ({"consumer": "{pid.x}"}, "ValueError: consumer is '{pid.x}', in which only {hostname}"),
        ({"on_group_lost": "ignore"}, 'ValueError: on_group_lost must be "raise" or "recreate"'),
        ({"block_ms": "x"}, "TypeError: block_ms must be int (milliseconds) or a timedelta, not"),
        ({"block_ms": -1}, "ValueError: block_ms must not be negative, but is -1"),
        ({"reclaim_interval_ms": None}, "TypeError: reclaim_interval_ms must be int (millis"),
        ({"max_processing_ms": 0.5}, "TypeError: max_processing_ms must be int (milliseconds)"),
        ({"remove_idle_consumers_ms": -1}, "ValueError: remove_idle_consumers_ms must not be neg"),
        ({"group_start_id": "x"}, 'ValueError: "x" is no place for a group to begin'),
        ({"grace": "x"}, "TypeError: grace must be a number of seconds, not str"),
        ({"grace": timedelta(-1)}, "ValueError: grace must not be negative"),
    ],
    ids=str,
)
def test_wrong_options_of_an_app_are_refused_at_once(options: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        App("redis://127.0.0.1:1", **{"group": "g", **options})
    assert f"{type(raised.value).__name__}: {raised.value}".startswith(told)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"stream": ""}, "ValueError: stream is empty"),
        ({"stream": b"s"}, "TypeError: stream must be str, not bytes"),
        ({"group": ""}, "ValueError: group is empty"),
        ({"types": []}, "ValueError: types is empty"),
        ({"retry": 3}, "TypeError: retry must be a Retry, as in"),
        ({"timeout": -1}, "ValueError: timeout must not be negative, but is -1"),
        ({"timeout": 0}, "ValueError: timeout must be more than 0 seconds"),
        ({"timeout": "x"}, "TypeError: timeout must be a number of seconds, not str"),
    ],
    ids=str,
)
def test_wrong_options_of_a_handler_are_refused_at_once(options: dict[str, Any], told: str) -> None:
    async def handle(message: Message) -> None: ...

    with pytest.raises((ValueError, TypeError)) as raised:
        Router().on(**{"stream": "stream", **options})(handle)
    assert f"{type(raised.value).__name__}: {raised.value}".startswith(told)


def test_a_parameter_by_keyword_only_is_refused() -> None:
    def handle(event: OrderPlaced, *, message: Message) -> None: ...

    with pytest.raises(TypeError, match="by keyword only"):
        Router().on("stream", OrderPlaced)(handle)
