"""Outages while a loop saves checkpoints and moves dead letters."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from redfloe import (
    RedisCheckpointStore,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    StreamConsumer,
    StreamProducer,
    iter_stream,
)
from support.clients import quick
from support.consumers import World, dead_ids, rows
from support.loops import LOOPS, Follow
from support.outages import SLOW, add, outage, silence
from support.proxy import Proxy
from support.server import HOST, Server
from support.streams import NUMBER
from support.timing import SLACK, later, within

ME: dict[str, Any] = {"group": "g", "consumer": "me"}
AWAY = pytest.mark.parametrize("away", [outage, silence])


def oldest(server: Server) -> str:
    found: Any = server.client().xrange("s", count=1)
    return str(found[0][0].decode())


def newest(server: Server) -> str:
    found: Any = server.client().xrevrange("s", count=1)
    return str(found[0][0].decode())


@AWAY
def test_a_checkpoint_is_saved_when_the_server_is_back(
    own: Server, world: World, away: Callable[..., Any]
) -> None:
    add(own.client(), 1, 2)
    connection = quick(own.url, response_timeout=0.1, connect_timeout=0.1)
    store = RedisCheckpointStore(connection)
    with world.consumer(
        connection, "s", batch_size=1, block_ms=20, checkpoint_store=store
    ) as consumer:
        assert rows(next(consumer)) == [1]
        with away(own, 3):  # the loop saves that the first is done with
            assert rows(next(consumer)) == [2]
            assert rows(next(consumer)) == [3]
    assert store.load("s") == newest(own)


def test_a_checkpoint_is_loaded_when_the_server_answers_again(own: Server, world: World) -> None:
    add(own.client(), 1, 2)
    first = oldest(own)
    RedisCheckpointStore(own.url).save("s", first)
    with Proxy(own.port) as proxy:
        proxy.stall_after(0, once_seen=b"GET", times=2)
        store = RedisCheckpointStore(quick(proxy.url, response_timeout=0.1))
        with world.consumer(own.url, "s", block_ms=20, checkpoint_store=store) as consumer:
            assert rows(next(consumer)) == [2]


@pytest.mark.parametrize("streams", ["s", ["s", "t"]], ids=["one", "several"])
def test_stop_while_a_checkpoint_is_loaded_does_not_replace_it(
    own: Server, world: World, streams: Any
) -> None:
    add(own.client(), 1, 2)
    first = oldest(own)
    RedisCheckpointStore(own.url).save("s", first)
    with Proxy(own.port) as proxy:
        proxy.stall_after(0, once_seen=b"GET")
        store = RedisCheckpointStore(RedisConnection(proxy.url, **SLOW))
        options: Any = {"start_id": "$", "block_ms": 20, "checkpoint_store": store}
        consumer = world.consumer(own.url, streams, **options)
        with later(0.1, consumer.stop), within(3), consumer:
            assert next(consumer, None) is None
        assert proxy.count(b"GET") >= 1
    assert RedisCheckpointStore(own.url).load("s") == first


@pytest.mark.parametrize("bounded", ["reader", "store", "on_idle"])
def test_a_checkpoint_of_what_is_bounded_is_bounded(
    own: Server, world: World, bounded: str
) -> None:
    add(own.client(), 1, 2)
    store = RedisCheckpointStore(
        quick(own.url, **({"max_retries": 5} if bounded == "store" else {}))
    )
    connection = quick(own.url, **({"max_retries": 5} if bounded == "reader" else {}))
    idle: Any = {"on_idle": "stop"} if bounded == "on_idle" else {}

    def work() -> None:
        with world.consumer(
            connection, "s", batch_size=1, block_ms=20, checkpoint_store=store, **idle
        ) as consumer:
            next(consumer)
            own.kill()
            with within(0.5), pytest.raises(RedisConnectionError, match="attempts: 6") as raised:
                next(consumer)
            raise raised.value

    with pytest.raises(RedisConnectionError, match="attempts: 6"):
        work()


@AWAY
def test_a_handler_s_dead_letter_is_moved_when_the_server_is_back(
    own: Server, world: World, away: Callable[..., Any]
) -> None:
    add(own.client(), 1)
    poison = oldest(own)
    connection = quick(own.url, response_timeout=0.1, connect_timeout=0.1)
    consumer = world.consumer(connection, "s", block_ms=20, dead_letter="dead", **ME)
    seen: list[int] = []

    def handle(batch: Any) -> None:
        seen.extend(rows(batch))
        if seen == [1]:
            stack.enter_context(away(own, 2))
            raise ValueError
        consumer.stop()

    with ExitStack() as stack:
        consumer.run(handle, attempts=1)
    assert seen == [1, 2]
    assert dead_ids(own.client()) == [poison]
    assert consumer.stats.dead_lettered == 1
    assert own.client().xpending("s", "g")["pending"] == 0


def fail_in_an_outage(own: Server, end: Callable[[], object]) -> Callable[[Any], None]:
    """Give a handler that fails while the server is away; the end comes a little later."""

    def handle(batch: Any) -> None:
        own.kill()
        threading.Timer(0.3, end).start()
        raise ValueError

    return handle


def test_stop_ends_the_wait_for_a_dead_letter_s_move(own: Server, world: World) -> None:
    """The entry stays pending, and nothing else is left to do."""
    add(own.client(), 1)
    connection = RedisConnection(own.url, response_timeout=0.2, **SLOW)
    consumer = world.consumer(connection, "s", block_ms=20, dead_letter="dead", **ME)
    with within(1.8):
        consumer.run(fail_in_an_outage(own, consumer.stop), attempts=1)
    assert consumer.stats.dead_lettered == 0


def test_ctrl_c_ends_the_waits_of_a_loop(own: Server) -> None:
    add(own.client(), 1)
    connection = RedisConnection(own.url, **SLOW)

    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    failing = StreamConsumer(connection, "s", block_ms=20, dead_letter="dead", **ME)
    with within(1.3), pytest.raises(KeyboardInterrupt):
        failing.run(fail_in_an_outage(own, interrupt), attempts=1)
    own.start()
    add(own.client(), 1, 2)
    store = RedisCheckpointStore(connection)

    def save() -> None:
        with StreamConsumer(
            connection, "s", batch_size=1, block_ms=20, checkpoint_store=store
        ) as saving:
            next(saving)
            own.kill()
            next(saving)

    with within(1.9), later(0.4, interrupt), pytest.raises(KeyboardInterrupt):
        save()


@pytest.mark.parametrize("loop", list(LOOPS))
def test_a_cancelled_task_ends_the_waits_of_a_loop(own: Server, loop: str) -> None:
    add(own.client(), 1, 2)
    connection = RedisConnection(own.url, **SLOW)
    store = RedisCheckpointStore(connection)

    async def fail(batch: Any) -> None:
        own.kill()
        raise ValueError

    async def work() -> None:
        failing = StreamConsumer(connection, "s", block_ms=20, dead_letter="dead", **ME)
        with within(1.5), pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4 * SLACK):
                await failing.run_async(fail, attempts=1)
        own.start()
        add(own.client(), 1, 2)
        saving = StreamConsumer(connection, "s", batch_size=1, block_ms=20, checkpoint_store=store)

        async def save() -> None:
            async with asyncio.timeout(0.6 * SLACK), saving:
                await anext(saving)
                own.kill()
                await anext(saving)

        with within(1.5), pytest.raises(TimeoutError):
            await save()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())


def test_stop_ends_the_wait_for_a_checkpoint_s_save(own: Server, world: World) -> None:
    """Where the store's server alone is away the loop ends, and its end saves."""
    with Server("redis-7.0") as other:
        add(own.client(), 1, 2)
        store = RedisCheckpointStore(RedisConnection(other.url, response_timeout=0.2, **SLOW))
        with world.consumer(
            own.url, "s", batch_size=1, block_ms=20, checkpoint_store=store
        ) as consumer:
            next(consumer)
            other.kill()
            with within(1.2), later(0.2, consumer.stop):
                assert next(consumer, None) is None
            other.start()
        assert store.load("s") == oldest(own)


@contextmanager
def accepting(*, closes: bool) -> Iterator[str]:
    """Give the URL of a port where something accepts connections and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    accepted.append(connection)
                    if closes:
                        connection.close()
            except OSError:
                pass  # the listener was shut

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"redis://{HOST}:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


@pytest.mark.parametrize("closes", [False, True], ids=["silent", "closing"])
@pytest.mark.parametrize("options", [{}, {"must_exist": True}, ME], ids=["", "must_exist", "group"])
def test_what_only_accepts_connections_is_no_server(
    follow: Follow, caplog: pytest.LogCaptureFixture, closes: bool, options: dict[str, Any]
) -> None:
    with accepting(closes=closes) as url:
        connection = quick(url, connect_timeout=0.3, response_timeout=5)
        with within(1), pytest.raises((RedisConnectionError, RedisTimeoutError)):
            next(follow(connection, "s", block_ms=0, **options))
    assert not [one for one in caplog.records if getattr(one, "event", "").startswith("outage")]


@pytest.mark.parametrize("closes", [False, True], ids=["silent", "closing"])
def test_what_only_accepts_connections_takes_no_entries(world: World, closes: bool) -> None:
    with accepting(closes=closes) as url:
        connection = quick(url, connect_timeout=0.3, response_timeout=5)
        with within(1), pytest.raises((RedisConnectionError, RedisTimeoutError)):
            with world.consumer(connection, "s", **ME) as consumer:
                next(consumer)
        store = RedisCheckpointStore(connection)
        with within(1), pytest.raises((RedisConnectionError, RedisTimeoutError)):
            with world.consumer(connection, "s", checkpoint_store=store) as consumer:
                next(consumer)
        producer = StreamProducer(connection, "s")
        sent = producer.send({"n": 1})
        with within(1), pytest.raises((RedisConnectionError, RedisTimeoutError)):
            sent.result()


def test_no_outage_begins_before_the_server_has_answered(caplog: pytest.LogCaptureFixture) -> None:
    connection = quick(f"redis://{HOST}:1", connect_timeout=0.3)
    with within(1), pytest.raises(RedisConnectionError):
        next(iter_stream(connection, "s", NUMBER, "-"))
    assert [one.event for one in caplog.records if hasattr(one, "event")] == []
