"""What is kept of a call that failed: nothing, once its exception is gone."""

from __future__ import annotations

import asyncio
import gc
import signal
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import OutcomeUnknownError, RedisConnection, StreamProducer
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import later

FRAME = pl.DataFrame({"key": ["a", "b"], "n": [1, 2]})
Write = Callable[[Any, str], object]


class Local:
    """What a caller's frame holds."""


def refused_by(write: Callable[[], object], kind: type[BaseException]) -> weakref.ref[Local]:
    """Call what raises; give a reference to what the frame of its caller held."""
    local = Local()
    with pytest.raises(kind) as raised:
        write()
    assert raised.traceback[0].frame.f_locals["local"] is local
    return weakref.ref(local)


def is_kept(local: weakref.ref[Local]) -> bool:
    gc.collect()
    return local() is not None


def in_loop(call: Callable[[], Awaitable[object]]) -> object:
    async def awaited() -> object:
        return await call()

    return asyncio.run(awaited())


def produce(url: Any, stream: str) -> None:
    with StreamProducer(url, stream) as producer:
        producer.send({"n": 1})


async def produce_async(url: Any, stream: str) -> None:
    async with StreamProducer(url, stream) as producer:
        await producer.send({"n": 1})


WRITES: dict[str, Write] = {
    "write_stream": lambda url, key: redfloe.write_stream(url, FRAME, key),
    "write_stream, atomic": lambda url, key: redfloe.write_stream(url, FRAME, key, atomic=True),
    "write_stream_async": lambda url, key: in_loop(
        lambda: redfloe.write_stream_async(url, FRAME, key)
    ),
    "sink_stream": lambda url, key: redfloe.sink_stream(url, FRAME.lazy(), key),
    "write_hashes": lambda url, key: redfloe.write_hashes(
        url, FRAME, key_column="key", key_prefix=key
    ),
    "sink_stream_async": lambda url, key: in_loop(
        lambda: redfloe.sink_stream_async(url, FRAME.lazy(), key)
    ),
    "write_hashes_async": lambda url, key: in_loop(
        lambda: redfloe.write_hashes_async(url, FRAME, key_column="key", key_prefix=key)
    ),
    "StreamProducer": produce,
    "AsyncStreamProducer": lambda url, key: in_loop(lambda: produce_async(url, key)),
}


@pytest.mark.parametrize("name", WRITES)
def test_of_a_write_without_a_server(name: str, stream: str) -> None:
    url = RedisConnection("redis://127.0.0.1:1", connect_timeout=0.05, max_retries=0)
    local = refused_by(lambda: WRITES[name](url, stream), redfloe.RedisConnectionError)
    assert not is_kept(local)


@pytest.mark.parametrize("name", WRITES)
def test_of_a_write_that_is_refused(
    any_server: Server, client: redis.Redis, stream: str, name: str
) -> None:
    for key in (stream, f"{stream}a", f"{stream}b"):
        client.set(key, "no stream and no hash")
    local = refused_by(lambda: WRITES[name](any_server.url, stream), redfloe.WrongTypeError)
    assert not is_kept(local)


@pytest.mark.parametrize("name", WRITES)
def test_of_a_write_whose_answers_are_lost(any_server: Server, stream: str, name: str) -> None:
    with Proxy(any_server.port) as proxy:
        hashes = name.startswith("write_hashes")
        command = b"EXEC" if hashes or name == "write_stream, atomic" else b"XADD"
        # The first EXEC of hashes only asks whether the user may.
        proxy.cut_after(0, once_seen=command, times=None, skip=int(hashes))
        url = quick(proxy.url, max_retries=0)
        local = refused_by(lambda: WRITES[name](url, stream), OutcomeUnknownError)
    assert not is_kept(local)


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("write", [redfloe.write_stream, redfloe.sink_stream])
def test_of_a_write_whose_progress_raises(
    any_server: Server, stream: str, write: Any, slow: bool
) -> None:
    frame = FRAME.lazy() if write is redfloe.sink_stream else FRAME

    def progress(rows: int) -> None:
        raise LookupError(rows)

    with Proxy(any_server.port) as proxy:
        if slow:  # so that it is called in the middle
            proxy.before(b"XADD", lambda number: time.sleep(0.2))
        url = proxy.url
        local = refused_by(lambda: write(url, frame, stream, progress=progress), LookupError)
    assert not is_kept(local)


@pytest.mark.parametrize("name", ["write_stream", "sink_stream", "write_hashes", "StreamProducer"])
def test_of_a_write_that_a_signal_stops(any_server: Server, stream: str, name: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"EXEC" if name == "write_hashes" else b"XADD")
        interrupt = later(0.1, lambda: signal.raise_signal(signal.SIGINT))
        with interrupt:
            local = refused_by(lambda: WRITES[name](proxy.url, stream), KeyboardInterrupt)
    assert not is_kept(local)


def test_a_frame_goes_without_the_garbage_collector(any_server: Server, stream: str) -> None:
    # Else a service that goes on while its server is down keeps frames for as long as Python likes.
    url = RedisConnection("redis://127.0.0.1:1", connect_timeout=0.05, max_retries=0)
    gc.collect()
    gc.disable()
    try:
        for write in (redfloe.write_stream, redfloe.sink_stream):
            local = _failing(write, url, stream)
            assert local() is None, write
    finally:
        gc.enable()


def _failing(write: Any, url: RedisConnection, stream: str) -> weakref.ref[Local]:
    local = Local()
    try:
        write(url, FRAME.lazy() if write is redfloe.sink_stream else FRAME, stream)
    except redfloe.RedisConnectionError:
        return weakref.ref(local)
    raise AssertionError
