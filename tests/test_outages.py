"""Outages: readers that never end keep trying, whatever else ends keeps its bound."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest
import redis

from redfloe import (
    AuthenticationError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    StreamConsumer,
    iter_stream,
    read_stream,
    stream_batches,
)
from support.clients import quick
from support.consumers import World, rows
from support.loops import LOOPS, Follow
from support.outages import OUTAGE, SLOW, add, outage, silence
from support.proxy import Proxy
from support.server import HOST, Server
from support.streams import NUMBER
from support.timing import later, within

ME: dict[str, Any] = {"group": "g", "consumer": "me"}
ALONE: dict[str, Any] = {}
GROUPS = pytest.mark.parametrize("membership", [ALONE, ME], ids=["alone", "group"])


def logged(caplog: pytest.LogCaptureFixture) -> list[Any]:
    """Give the records, whose attributes are the events' fields."""
    return [record for record in caplog.records if record.name == "redfloe"]


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in logged(caplog)]


@pytest.mark.parametrize("away", [outage, silence])
@GROUPS
def test_a_reader_that_never_ends_keeps_trying(
    own: Server,
    follow: Follow,
    membership: dict[str, Any],
    away: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(own.client(), 1)
    connection = quick(own.url, response_timeout=0.1, connect_timeout=0.1)
    start = None if membership else "-"
    batches = follow(connection, "s", NUMBER, start, block_ms=20, **membership)
    assert next(batches)["n"].to_list() == [1]
    with away(own, 2):
        assert next(batches)["n"].to_list() == [2]
    assert names(caplog) == ["outage_began", "outage_ended"]
    began, ended = logged(caplog)
    assert began.levelno == ended.levelno == logging.WARNING
    for record in (began, ended):
        assert record.stream == "s"
        assert record.address == f"{HOST}:{own.port}"
        assert record.group == membership.get("group")
        assert record.consumer == membership.get("consumer")
    assert ended.failures > (6 if away is outage else 1)
    assert ended.seconds > OUTAGE / 4


@pytest.mark.parametrize("away", [outage, silence])
@GROUPS
def test_a_worker_keeps_trying(
    own: Server,
    world: World,
    membership: dict[str, Any],
    away: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    add(own.client(), 1)
    connection = quick(own.url, response_timeout=0.1, connect_timeout=0.1)
    with world.consumer(connection, "s", block_ms=20, **membership) as consumer:
        assert rows(next(consumer)) == [1]
        with away(own, 2):
            assert rows(next(consumer)) == [2]
    assert names(caplog) == ["outage_began", "outage_ended"]
    if membership:
        assert own.client().xpending("s", "g")["pending"] == 0


BOUNDED: dict[str, dict[str, Any]] = {
    "on_idle": {"on_idle": "stop"},
    "count": {"count": 10},
    "end_id": {"end_id": "9999999999999"},
    "max_retries": {},
}


@pytest.mark.parametrize("bound", list(BOUNDED))
@GROUPS
def test_whatever_ends_by_itself_keeps_its_bound(
    own: Server, follow: Follow, membership: dict[str, Any], bound: str
) -> None:
    if bound == "end_id" and membership:
        pytest.skip("a group has no end_id")
    add(own.client(), 1)
    retries = {"max_retries": 5} if bound == "max_retries" else {}
    start = None if membership else "-"
    batches = follow(
        quick(own.url, **retries),
        "s",
        NUMBER,
        start,
        block_ms=2_000,
        **membership,
        **BOUNDED[bound],
    )
    assert next(batches)["n"].to_list() == [1]
    own.kill()
    with within(0.5), pytest.raises(RedisConnectionError, match="attempts: 6"):
        next(batches)
    # Asked again it tries as often again.
    with within(0.5), pytest.raises(RedisConnectionError):
        next(batches)
    own.start()


@pytest.mark.parametrize("bound", ["on_idle", "end_id", "max_retries"])
@GROUPS
def test_a_worker_that_ends_by_itself_keeps_its_bound(
    own: Server, world: World, membership: dict[str, Any], bound: str
) -> None:
    if bound == "end_id" and membership:
        pytest.skip("a group has no end_id")
    add(own.client(), 1)
    connection = quick(own.url, **({"max_retries": 5} if bound == "max_retries" else {}))
    options = {"block_ms": 2_000, **membership, **BOUNDED[bound]}

    def work() -> None:
        with world.consumer(connection, "s", **options) as consumer:
            assert rows(next(consumer)) == [1]
            own.kill()
            with within(0.5):
                next(consumer)

    with pytest.raises(RedisConnectionError, match="attempts: 6"):
        work()


def test_a_call_keeps_its_bound(own: Server) -> None:
    connection = quick(own.url)
    assert read_stream(connection, "s").is_empty()
    own.kill()
    for block_ms in (None, 0):
        with within(1), pytest.raises(RedisConnectionError):
            read_stream(connection, "s", block_ms=block_ms)


@pytest.mark.parametrize("options", [ALONE, ME], ids=["alone", "group"])
def test_a_first_connection_has_the_connect_timeout(options: dict[str, Any]) -> None:
    connection = quick(f"redis://{HOST}:1", connect_timeout=0.3)
    with within(1), pytest.raises(RedisConnectionError):
        next(iter_stream(connection, "s", start_id=None if options else "-", **options))
    with within(1), pytest.raises(RedisConnectionError):
        next(StreamConsumer(connection, "s", **options))


@GROUPS
def test_who_is_refused_after_an_outage_fails_at_once(
    own: Server, follow: Follow, membership: dict[str, Any]
) -> None:
    add(own.client(), 1)
    start = None if membership else "-"
    connection = quick(own.url, client_name="me")
    batches = follow(connection, "s", NUMBER, start, block_ms=20, **membership)
    next(batches)
    with own.client() as client:
        client.config_set("requirepass", "secret")
        for one in client.client_list():
            if one["name"] == "me":
                client.client_kill_filter(_id=one["id"])
    with within(1), pytest.raises(AuthenticationError):
        next(batches)


@GROUPS
def test_the_same_request_that_fails_again_and_again_uses_up_the_retries(
    any_server: Server, client: redis.Redis, stream: str, membership: dict[str, Any]
) -> None:
    """Small questions between them, which succeed, do not start the retries over."""
    client.xadd(stream, {"n": 1})
    with Proxy(any_server.port) as proxy:
        connection = quick(proxy.url, max_retries=3)
        if membership:
            for _ in iter_stream(connection, stream, on_idle="stop", block_ms=1, **membership):
                pass  # they stay pending, and are listed before they are read
        command = b"XREADGROUP" if membership else b"XREAD"
        fault = proxy.replace_reply(b"-MISCONF no\r\n", once_seen=command, times=None)
        consumer = StreamConsumer(connection, stream, block_ms=20, **membership)
        with within(2), pytest.raises(ResponseError, match="MISCONF"):
            next(consumer)
        assert fault.hits == 4
        if membership:
            assert proxy.count(b"XPENDING") > 1


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


@GROUPS
def test_ctrl_c_ends_an_outage_within_a_second(own: Server, membership: dict[str, Any]) -> None:
    add(own.client(), 1)
    connection = RedisConnection(own.url, **SLOW)
    start = None if membership else "-"
    with iter_stream(connection, "s", NUMBER, start, block_ms=20, **membership) as batches:
        next(batches)
        down, stop = later(0.1, own.kill), later(0.4, interrupt)
        with within(1.4), down, stop, pytest.raises(KeyboardInterrupt):
            next(batches)
    own.start()
    add(own.client(), 2)

    def work() -> None:
        with StreamConsumer(connection, "s", schema=NUMBER, block_ms=20, **membership) as consumer:
            next(consumer)
            own.kill()
            next(consumer)

    with within(1.9), later(0.4, interrupt), pytest.raises(KeyboardInterrupt):
        work()


@pytest.mark.parametrize("loop", list(LOOPS))
@GROUPS
def test_a_cancelled_task_ends_an_outage_within_a_second(
    own: Server, loop: str, membership: dict[str, Any]
) -> None:
    add(own.client(), 1)
    connection = RedisConnection(own.url, **SLOW)
    start = None if membership else "-"

    async def work() -> None:
        batches = stream_batches(connection, "s", NUMBER, start, block_ms=20, **membership)
        other = {**membership, "group": "other"} if membership else {}
        async with batches, StreamConsumer(connection, "s", block_ms=20, **other) as consumer:
            await anext(batches)
            await anext(consumer)
            own.kill()
            for waiting in (anext(batches), anext(consumer)):
                with within(1), pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await waiting
            raise LookupError

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner, pytest.raises(LookupError):
        runner.run(work())


def test_a_worker_that_is_stopped_in_an_outage_gives_up(own: Server) -> None:
    add(own.client(), 1)

    def work() -> None:
        with StreamConsumer(quick(own.url), "s", schema=NUMBER, block_ms=20, **ME) as consumer:
            next(consumer)
            own.kill()
            with later(0.3, consumer.stop), within(1):
                next(consumer)

    with pytest.raises(RedisConnectionError, match="attempts: 6"):
        work()


def test_a_batch_s_own_calls_keep_their_bound(own: Server) -> None:
    add(own.client(), 1)

    def work() -> None:
        with StreamConsumer(quick(own.url), "s", block_ms=20, ack="manual", **ME) as consumer:
            batch = next(consumer)
            own.kill()
            with within(1):
                batch.ack()

    with pytest.raises(RedisConnectionError, match="attempts: 6"):
        work()


def test_a_timeout_is_raised_by_what_keeps_its_bound(own: Server) -> None:
    add(own.client(), 1)
    connection = quick(own.url, response_timeout=0.1, max_retries=5)
    batches = iter_stream(connection, "s", NUMBER, "-", block_ms=20)
    next(batches)
    own.pause()
    with within(1), pytest.raises(RedisTimeoutError):
        next(batches)
    own.resume()
