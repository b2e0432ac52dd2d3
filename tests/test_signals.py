"""Signals' handlers, finalizers and Ctrl-C, while the library waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    RedisConnection,
    StreamConsumer,
    ack_entries,
    infer_schema,
    iter_stream,
    read_stream,
    stream_batches,
    stream_info,
)
from support.loops import LOOPS
from support.proxy import HOST, Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import later, within


@contextmanager
def handled(act: Callable[[], object]) -> Iterator[None]:
    """Do something in a signal's handler, 0.2 s after the block has begun."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def drained(url: str, stream: str) -> list[int]:
    batches = iter_stream(url, stream, NUMBER, "-", on_idle="stop", block_ms=1)
    return [n for frame in batches for n in frame["n"]]


def waits(url: str) -> dict[str, Callable[[], object]]:
    """Each kind of wait, for a stream that is empty."""
    options: dict[str, Any] = {"on_idle": "stop", "block_ms": 500}
    return {
        "iter_stream": lambda: [*iter_stream(url, "empty", **options)],
        "StreamConsumer": lambda: StreamConsumer(url, "empty", "g", "c", **options).run(print),
        "read_stream": lambda: read_stream(url, "empty", block_ms=500),
    }


@pytest.mark.parametrize("wait", waits(""))
def test_a_handler_uses_other_iterators(
    any_server: Server, client: redis.Redis, stream: str, wait: str
) -> None:
    add_numbers(client, stream, 3)
    seen: list[object] = []
    dropped = [iter_stream(any_server.url, stream, NUMBER, "-")]
    next(dropped[0])

    async def drain() -> int:
        return len(await anext(stream_batches(any_server.url, stream, NUMBER, "-")))

    def use() -> None:
        dropped.clear()
        seen.append(drained(any_server.url, stream))
        seen.append(read_stream(any_server.url, stream, NUMBER).height)
        seen.append(asyncio.run(drain()))

    with handled(use), within(3):
        waits(any_server.url)[wait]()
    assert seen == [[1, 2, 3], 3, 3]


@pytest.mark.parametrize("wait", waits(""))
def test_a_finalizer_uses_other_iterators(
    any_server: Server, client: redis.Redis, stream: str, wait: str
) -> None:
    add_numbers(client, stream, 3)
    seen: list[list[int]] = []

    class Cycle:
        def __init__(self) -> None:
            self.me = self
            self.batches = iter_stream(any_server.url, stream, NUMBER, "-")
            next(self.batches)

        def __del__(self) -> None:
            seen.append(drained(any_server.url, stream))

    Cycle()
    with handled(gc.collect), within(3):
        waits(any_server.url)[wait]()
    assert seen == [[1, 2, 3]]


def test_a_handler_that_asks_the_iterator_that_waits(any_server: Server, stream: str) -> None:
    batches = iter_stream(any_server.url, stream, block_ms=0)
    with handled(lambda: next(batches)), within(3):
        with pytest.raises(RuntimeError, match="waits for this iterator already"):
            next(batches)


@pytest.mark.parametrize("method", ["close", "stop"])
def test_a_handler_ends_the_iterator_that_waits(
    any_server: Server, stream: str, method: str
) -> None:
    ended: Any
    if method == "close":
        ended = iter_stream(any_server.url, stream, block_ms=0)
    else:
        ended = StreamConsumer(any_server.url, stream, "g", "c", block_ms=0)
    with handled(getattr(ended, method)), within(3):
        assert list(ended) == []


# Ctrl-C and cancelling, wherever a call waits


@contextmanager
def black_hole() -> Iterator[int]:
    """A port that does not answer to SYN: its backlog is full."""
    with socket.socket() as listener, ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield listener.getsockname()[1]


@contextmanager
def silent() -> Iterator[int]:
    """A port whose owner accepts connections, and never says a word."""
    with socket.create_server((HOST, 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def closed() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        yield unused.getsockname()[1]


PATIENT: dict[str, Any] = {"connect_timeout": 100, "response_timeout": 20}
SLOW: dict[str, Any] = {"retry_base_delay": 30, "retry_max_delay": 60, "max_retries": 100}


@contextmanager
def connect(server: Server) -> Iterator[RedisConnection]:
    with black_hole() as port:
        yield RedisConnection(f"redis://{HOST}:{port}", **PATIENT)


@contextmanager
def login(server: Server) -> Iterator[RedisConnection]:
    with silent() as port:
        yield RedisConnection(f"redis://u:p@{HOST}:{port}?protocol=resp3", **PATIENT)


@contextmanager
def handshake(server: Server) -> Iterator[RedisConnection]:
    with silent() as port:
        yield RedisConnection(f"rediss://{HOST}:{port}", **PATIENT)


@contextmanager
def pause(server: Server) -> Iterator[RedisConnection]:
    with closed() as port:
        yield RedisConnection(f"redis://{HOST}:{port}", **PATIENT, **SLOW)


@contextmanager
def reply(server: Server) -> Iterator[RedisConnection]:
    with Proxy(server.port) as proxy:
        proxy.stall_after(3, times=None)
        yield RedisConnection(proxy.url, **PATIENT)


@contextmanager
def pause_after_a_reply(server: Server) -> Iterator[RedisConnection]:
    with Proxy(server.port) as proxy:
        proxy.cut_after(3, times=None)
        yield RedisConnection(proxy.url, **PATIENT, **SLOW)


STATES = [connect, login, handshake, pause, reply, pause_after_a_reply]
states = pytest.mark.parametrize("state", STATES)


def consume(url: RedisConnection) -> None:
    with StreamConsumer(url, "s", "g", "c") as consumer:
        for _ in consumer:
            pass


CALLS: dict[str, Callable[[RedisConnection], object]] = {
    "read_stream": lambda url: read_stream(url, "s"),
    "read_stream of a group": lambda url: read_stream(
        url, "s", group="g", consumer="c", auto_ack=True
    ),
    "infer_schema": lambda url: infer_schema(url, "s"),
    "iter_stream": lambda url: next(iter_stream(url, "s", start_id="-")),
    "StreamConsumer": consume,
    "ack_entries": lambda url: ack_entries(url, "s", "g", ["1-0"]),
    "stream_info": lambda url: stream_info(url, "s"),
    "write_stream": lambda url: redfloe.write_stream(url, pl.DataFrame({"a": [1]}), "out"),
}


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@states
@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c_ends_a_call_within_a_second(
    any_server: Server,
    client: redis.Redis,
    call: str,
    state: Callable[[Server], contextlib.AbstractContextManager[RedisConnection]],
) -> None:
    add_numbers(client, "s", 1)
    with state(any_server) as url, within(0.2 + 1):
        with pytest.raises(KeyboardInterrupt), later(0.2, interrupt):
            CALLS[call](url)


async def consume_async(url: RedisConnection) -> None:
    async with StreamConsumer(url, "s", "g", "c") as consumer:
        async for _ in consumer:
            pass


async def follow_async(url: RedisConnection) -> None:
    async for _ in stream_batches(url, "s", start_id="-"):
        pass


async def produce_async(url: RedisConnection) -> None:
    producer = redfloe.StreamProducer(url, "out")
    asynchronous = await producer.__aenter__()
    await asynchronous.send({"a": 1})
    await asynchronous.flush()


ASYNC_CALLS: dict[str, Callable[[RedisConnection], Awaitable[object]]] = {
    "stream_batches": follow_async,
    "StreamConsumer": consume_async,
    "StreamProducer": produce_async,
    "write_stream_async": lambda url: redfloe.write_stream_async(
        url, pl.DataFrame({"a": [1]}), "out"
    ),
    "write_hashes_async": lambda url: redfloe.write_hashes_async(
        url, pl.DataFrame({"k": ["h"], "a": [1]}), key_column="k"
    ),
    "sink_stream_async": lambda url: redfloe.sink_stream_async(
        url, pl.LazyFrame({"a": [1]}), "out"
    ),
}


@states
@pytest.mark.parametrize("call", ASYNC_CALLS)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_call_ends_within_a_second(
    any_server: Server,
    client: redis.Redis,
    call: str,
    loop: str,
    state: Callable[[Server], contextlib.AbstractContextManager[RedisConnection]],
) -> None:
    add_numbers(client, "s", 1)

    async def main(url: RedisConnection) -> None:
        async with asyncio.timeout(0.2):
            await ASYNC_CALLS[call](url)

    with state(any_server) as url, asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        with within(0.2 + 1), pytest.raises(TimeoutError):
            runner.run(main(url))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_worker_with_batches_to_acknowledge_ends_by_ctrl_c(
    any_server: Server, client: redis.Redis, asynchronous: bool
) -> None:
    """Its server has frozen; what it could not acknowledge is pending."""
    add_numbers(client, "s", 3)
    options: dict[str, Any] = {"batch_size": 1, "block_ms": 100}
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, **PATIENT)

        async def main() -> None:
            async with StreamConsumer(url, "s", "g", "c", **options) as consumer:
                await anext(consumer)
                proxy.stall_after(0, times=None)
                async with asyncio.timeout(0.2):
                    await anext(consumer)

        def work() -> None:
            with StreamConsumer(url, "s", "g", "c", **options) as consumer:
                next(consumer)
                proxy.stall_after(0, times=None)
                next(consumer)

        if asynchronous:
            with within(0.2 + 1), pytest.raises(TimeoutError):
                asyncio.run(main())
        else:
            with within(0.2 + 1), pytest.raises(KeyboardInterrupt), later(0.2, interrupt):
                work()
