"""Producers that are stopped: Ctrl-C, cancelled tasks, and exceptions of their block."""

from __future__ import annotations

import asyncio
import itertools
import signal
import socket
import time
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import (
    OutcomeUnknownError,
    RedisConnection,
    StreamProducer,
    WriteError,
    WrongTypeError,
)
from support.loops import LOOPS
from support.proxy import Proxy
from support.server import Server
from support.timing import eventually, later, within
from support.writes import stored


def produce_until_stopped(url: RedisConnection, stream: str, state: str) -> None:
    with StreamProducer(url, stream, linger_ms=0, buffer_bytes=100) as producer:
        producer.send({"n": 0})
        if state == "body":
            while True:
                time.sleep(0.01)
        elif state in ("flush", "connecting"):
            producer.flush()
        elif state == "full":
            for n in itertools.count(1):
                producer.send({"n": n})
        elif state == "frame":
            for _ in itertools.count():
                producer.send_frame(pl.DataFrame({"n": [1]}))


async def produce_until_cancelled(url: RedisConnection, stream: str, state: str) -> None:
    async with StreamProducer(url, stream, linger_ms=0, buffer_bytes=100) as producer:
        await producer.send({"n": 0})
        if state == "body":
            await asyncio.sleep(60)
        elif state in ("flush", "connecting"):
            await producer.flush()
        elif state == "full":
            for n in itertools.count(1):
                await producer.send({"n": n})
        elif state == "frame":
            for _ in itertools.count():
                await producer.send_frame(pl.DataFrame({"n": [1]}))


async def cancel_after(seconds: float, coroutine: Any) -> None:
    task = asyncio.create_task(coroutine)
    await asyncio.sleep(seconds)
    task.cancel()
    await task


def run(loop: str, coroutine: Any) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(coroutine)


def produce_and_raise(
    producer: StreamProducer, error: BaseException, cause: BaseException | None = None
) -> None:
    with producer:
        producer.send({"n": 1})
        raise error from cause


async def produce_and_raise_async(producer: StreamProducer, error: BaseException) -> None:
    async with producer as sending:
        await sending.send({"n": 2})
        raise error


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("how", ["signal", *LOOPS])
@pytest.mark.parametrize("state", ["body", "flush", "close", "full", "frame", "connecting"])
def test_a_stop_takes_a_second_at_most_in_every_state(
    any_server: Server, client: redis.Redis, stream: str, state: str, how: str
) -> None:
    with Proxy(any_server.port) as proxy, socket.create_server(("127.0.0.1", 0)) as silent:
        proxy.stall_after(0, once_seen=b"XADD", times=None)
        black_hole = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        connection = RedisConnection(
            black_hole if state == "connecting" else proxy.url,
            connect_timeout=10,
            response_timeout=10,
        )
        if how == "signal":
            with later(0.2, interrupt), within(1.5), pytest.raises(KeyboardInterrupt) as raised:
                produce_until_stopped(connection, stream, state)
            error = raised.value.__cause__
        else:
            producing = cancel_after(0.2, produce_until_cancelled(connection, stream, state))
            with within(1.5), pytest.raises(asyncio.CancelledError) as cancelled:
                run(how, producing)
            error = cancelled.value.__cause__
        in_flight = client.xlen(stream)
        time.sleep(0.05)
    assert client.xlen(stream) == in_flight
    if state == "connecting":
        assert type(error) is WriteError
        assert (error.rows_written, error.row, in_flight) == (0, 0, 0)
    else:
        assert isinstance(error, OutcomeUnknownError)
        assert (error.rows_written, error.unknown) == (0, range(in_flight))
        assert in_flight >= 1


@pytest.mark.parametrize("loop", LOOPS)
def test_a_timeout_in_an_event_loop(any_server: Server, stream: str, loop: str) -> None:
    async def produce() -> None:
        async with asyncio.timeout(0.1):
            await produce_until_cancelled(RedisConnection(proxy.url), stream, "body")

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", times=None)
        with within(1.4), pytest.raises(TimeoutError) as raised:
            run(loop, produce())
    assert type(raised.value) is TimeoutError


def test_a_stopped_producer_sends_no_more(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    interruption = KeyboardInterrupt()
    producer = StreamProducer(any_server.url, stream, linger_ms=60_000)
    with pytest.raises(KeyboardInterrupt) as raised:
        produce_and_raise(producer, interruption)
    assert raised.value is interruption
    error = interruption.__cause__
    assert isinstance(error, WriteError)
    assert (error.rows_written, error.row) == (0, 0)
    with pytest.raises(WriteError):
        producer.send({"n": 2})
    time.sleep(0.05)
    assert client.xlen(stream) == 0


def test_a_stop_when_all_is_in_has_no_cause(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def produce() -> None:
        with producer:
            producer.send({"n": 1})
            producer.flush()
            raise KeyboardInterrupt

    producer = StreamProducer(any_server.url, stream)
    with pytest.raises(KeyboardInterrupt) as raised:
        produce()
    assert raised.value.__cause__ is None
    with pytest.raises(ValueError, match="closed"):
        producer.send({"n": 2})
    assert stored(client, stream) == [1]


def test_a_signal_just_before_the_end_has_what_is_not_in_as_its_cause(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.set(stream, "no stream")
    with Proxy(any_server.port) as proxy:
        proxy.before(b"TYPE", lambda _: signal.raise_signal(signal.SIGINT))
        with (
            pytest.raises(KeyboardInterrupt) as raised,
            StreamProducer(proxy.url, stream, linger_ms=10_000) as producer,
        ):
            producer.send({"n": 0})
    assert isinstance(raised.value.__cause__, WrongTypeError)


@pytest.mark.parametrize("error", [KeyError("body"), SystemExit(3)])
def test_an_error_of_the_block_writes_what_was_sent(
    any_server: Server, client: redis.Redis, stream: str, error: BaseException
) -> None:
    producer = StreamProducer(any_server.url, stream, linger_ms=60_000)
    with pytest.raises(type(error)) as raised:
        produce_and_raise(producer, error)
    assert raised.value is error
    producer = StreamProducer(any_server.url, stream, linger_ms=60_000)
    with pytest.raises(type(error)):
        asyncio.run(produce_and_raise_async(producer, error))
    assert error.__cause__ is None
    assert stored(client, stream) == [1, 2]


def test_an_error_of_the_block_is_not_replaced(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def told() -> None:
        with producer:
            producer.send({"n": 1})
            producer.flush()

    client.set(stream, "x")
    with pytest.raises(KeyError) as raised:
        produce_and_raise(StreamProducer(any_server.url, stream), KeyError("body"))
    assert isinstance(raised.value.__cause__, WrongTypeError)
    producer = StreamProducer(any_server.url, stream)
    with pytest.raises(KeyError) as raised:
        asyncio.run(produce_and_raise_async(producer, KeyError("body")))
    assert isinstance(raised.value.__cause__, WrongTypeError)
    with pytest.raises(KeyError) as raised:
        produce_and_raise(StreamProducer(any_server.url, stream), KeyError(), LookupError())
    assert type(raised.value.__cause__) is LookupError
    assert raised.value.__notes__[0].startswith("WrongTypeError: ")
    producer = StreamProducer(any_server.url, stream)
    with pytest.raises(WrongTypeError) as refused:
        told()
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_an_error_of_the_block_waits_for_two_seconds_at_most(
    any_server: Server, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", times=None)
        with within(2.4), pytest.raises(KeyError) as raised:
            produce_and_raise(StreamProducer(proxy.url, stream), KeyError("body"))
    assert isinstance(raised.value.__cause__, OutcomeUnknownError)


@pytest.mark.parametrize("how", ["signal", *LOOPS])
def test_whoever_gives_up_waiting_stops_nothing(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    def produce(url: str) -> None:
        with StreamProducer(url, stream, linger_ms=0, buffer_bytes=100) as producer:
            producer.send({"n": 0})
            with later(0.1, interrupt), within(0.4), pytest.raises(KeyboardInterrupt):
                producer.flush()
            with later(0.1, interrupt), within(0.4), pytest.raises(KeyboardInterrupt):
                producer.send({"n": "x" * 100})
            producer.send({"n": 1})

    async def produce_async(url: str) -> None:
        async with StreamProducer(url, stream, linger_ms=0, buffer_bytes=100) as producer:
            await producer.send({"n": 0})
            with within(0.4), pytest.raises(asyncio.CancelledError):
                await cancel_after(0.1, producer.flush())
            with within(0.4), pytest.raises(asyncio.CancelledError):
                await cancel_after(0.1, producer.send({"n": "x" * 100}))
            await producer.send({"n": 1})

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", lambda number: time.sleep(0.8 if number == 1 else 0))
        if how == "signal":
            produce(proxy.url)
        else:
            run(how, produce_async(proxy.url))
    assert stored(client, stream) == [0, 1]


def test_a_coroutine_that_is_closed_leaves_the_writing_to_the_background(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    async def produce() -> None:
        async with StreamProducer(any_server.url, stream, linger_ms=60_000) as producer:
            await producer.send({"n": 1})
            await asyncio.sleep(0)

    coroutine = produce()
    coroutine.send(None)
    coroutine.close()
    eventually(lambda: stored(client, stream) == [1])
