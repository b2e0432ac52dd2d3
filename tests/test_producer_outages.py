"""`StreamProducer` in an outage: it keeps trying, and waits where it has no more room."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
import redis

from redfloe import (
    OutcomeUnknownError,
    RedisConnection,
    RedisConnectionError,
    StreamProducer,
    WriteError,
)
from support.clients import quick
from support.loops import LOOPS
from support.proxy import Proxy
from support.server import HOST, Server
from support.timing import Stopwatch, later, within
from support.writes import stored

#: Seconds: the five retries of a bounded call take less than a tenth of that with `quick`.
OUTAGE = 0.5


def down(server: Server) -> Any:
    """Stop it, and have it back after a while."""
    server.client().save()
    server.kill()
    return later(OUTAGE, server.start)


def names(caplog: pytest.LogCaptureFixture) -> list[str]:
    records: list[Any] = [one for one in caplog.records if one.name == "redfloe"]
    return [record.event for record in records]


def test_it_keeps_trying_and_waits_for_room(own: Server, caplog: pytest.LogCaptureFixture) -> None:
    watch = Stopwatch()
    with StreamProducer(quick(own.url), "s", linger_ms=0, buffer_bytes=200) as producer:
        producer.send({"n": 0})
        producer.flush()
        with down(own):
            watch = Stopwatch()
            for n in range(1, 50):
                producer.send({"n": n})
            assert watch.seconds > OUTAGE / 2  # it had no room
            producer.flush()
    assert stored(own.client(), "s") == [*range(50)]
    assert names(caplog) == ["outage_began", "outage_ended"]
    [began, ended] = caplog.records
    assert began.stream == ended.stream == "s"  # type: ignore[attr-defined]


@pytest.mark.parametrize("loop", list(LOOPS))
def test_in_an_event_loop(own: Server, loop: str, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with StreamProducer(quick(own.url), "s", linger_ms=0, buffer_bytes=200) as producer:
            await producer.send({"n": 0})
            await producer.flush()
            with down(own):
                for n in range(1, 50):
                    await producer.send({"n": n})
                assert names(caplog)[:1] == ["outage_began"]
                await producer.flush()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())
    assert stored(own.client(), "s") == [*range(50)]
    assert names(caplog) == ["outage_began", "outage_ended"]


def test_a_server_without_memory_is_waited_for(own: Server) -> None:
    with own.client() as client, StreamProducer(quick(own.url), "s", linger_ms=0) as producer:
        producer.send({"n": 0})
        producer.flush()
        client.config_set("maxmemory", "1")
        producer.send({"n": 1})
        with later(OUTAGE, lambda: client.config_set("maxmemory", "0")):
            producer.flush()
    assert stored(own.client(), "s") == [0, 1]


def test_max_retries_bounds_it(own: Server) -> None:
    producer = StreamProducer(quick(own.url, max_retries=5), "s", linger_ms=0)
    producer.send({"n": 0})
    producer.flush()
    own.kill()
    producer.send({"n": 1})
    with within(1), pytest.raises(RedisConnectionError, match="attempts: 6"):
        producer.flush()


def test_a_first_connection_has_the_connect_timeout() -> None:
    producer = StreamProducer(quick(f"redis://{HOST}:1", connect_timeout=0.3), "s")
    producer.send({"n": 0})
    with within(1), pytest.raises(RedisConnectionError):
        producer.flush()


@pytest.mark.parametrize("world", ["sync", *LOOPS])
def test_closing_gives_up_in_time(own: Server, world: str) -> None:
    producer = StreamProducer(quick(own.url), "s", linger_ms=0)
    for n in range(3):
        producer.send({"n": n})
    producer.flush()
    own.client().save()
    own.kill()
    for n in range(3, 10):
        producer.send({"n": n})

    async def close_async() -> None:
        async with producer as sending:
            await sending.close(timeout_ms=200)

    def close() -> None:
        if world == "sync":
            producer.close(timeout_ms=200)
        else:
            with asyncio.Runner(loop_factory=LOOPS[world]) as runner:
                runner.run(close_async())

    watch = Stopwatch()
    with within(1), pytest.raises(OutcomeUnknownError, match="within 200 ms") as raised:
        close()
    assert watch.seconds > 0.19
    assert raised.value.rows_written == 3
    # Nothing was sent of which nobody knows: the first that is not in is known.
    assert (raised.value.unknown, raised.value.row) == (range(3, 3), 3)
    own.start()
    assert stored(own.client(), "s") == [0, 1, 2]


def test_closing_says_what_was_sent_and_not_answered(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        producer = StreamProducer(quick(proxy.url), stream, linger_ms=0)
        producer.send({"n": 0})
        producer.flush()
        proxy.stall_after(0, once_seen=b"XADD", times=None)
        producer.send({"n": 1})
        with within(1.6), pytest.raises(OutcomeUnknownError) as raised:
            producer.close(timeout_ms=100)
        assert (raised.value.rows_written, raised.value.unknown) == (1, range(1, 2))


def test_closing_in_time_raises_nothing(own: Server) -> None:
    producer = StreamProducer(quick(own.url), "s", linger_ms=0)
    producer.send({"n": 0})
    producer.flush()
    with down(own):
        producer.send({"n": 1})
        producer.close(timeout_ms=10_000)
    producer.close(timeout_ms=0)
    assert stored(own.client(), "s") == [0, 1]


def test_what_ends_it_otherwise_is_raised_as_it_is(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD")
        producer = StreamProducer(proxy.url, stream)
        producer.send({"n": 0})
        with pytest.raises(WriteError, match="ERR no"):
            producer.close(timeout_ms=5_000)


@pytest.mark.parametrize("timeout_ms", [-1, 1.5, "1"])
def test_a_timeout_is_checked(any_server: Server, stream: str, timeout_ms: Any) -> None:
    with StreamProducer(any_server.url, stream) as producer:
        with pytest.raises((ValueError, TypeError), match="timeout_ms"):
            producer.close(timeout_ms=timeout_ms)
        producer.send({"n": 0})


def test_ctrl_c_ends_it_within_a_second(own: Server) -> None:
    connection = RedisConnection(own.url, retry_base_delay=30, retry_max_delay=60)

    def work() -> None:
        with StreamProducer(connection, "s", linger_ms=0, buffer_bytes=100) as producer:
            producer.send({"n": 0})
            producer.flush()
            own.kill()
            for n in range(100):
                producer.send({"n": n})

    interrupt = later(0.3, lambda: signal.raise_signal(signal.SIGINT))
    with within(1.8), interrupt, pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert isinstance(raised.value.__cause__, WriteError)


@pytest.mark.parametrize("world", ["sync", *LOOPS])
def test_closing_again_does_nothing_after_it_gave_up(own: Server, world: str) -> None:
    producer = StreamProducer(quick(own.url), "s", linger_ms=0)
    producer.send({"n": 0}).result()
    own.kill()
    producer.send({"n": 1})
    if world == "sync":
        with producer:
            with pytest.raises(OutcomeUnknownError):
                producer.close(timeout_ms=50)
            producer.close(timeout_ms=50)
            producer.close()
        return

    async def work() -> None:
        async with producer as sending:
            with pytest.raises(OutcomeUnknownError):
                await sending.close(timeout_ms=50)
            await sending.close(timeout_ms=50)
            await sending.close()

    with asyncio.Runner(loop_factory=LOOPS[world]) as runner:
        runner.run(work())
