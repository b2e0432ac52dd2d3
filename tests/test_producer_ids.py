"""What a producer's `send` gives: the entry's ID, once it is in; and entries for many streams."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import (
    OutcomeUnknownError,
    RedisConnectionError,
    SentEntry,
    StreamProducer,
    WrongTypeError,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import within
from support.writes import stored


def ids_of(client: redis.Redis, stream: str) -> list[str]:
    found: Any = client.xrange(stream)
    return [entry.decode() for entry, _ in found]


def test_send_gives_the_id(server: Server, client: redis.Redis, stream: str) -> None:
    with StreamProducer(server.url, stream, batch_size=7) as producer:
        sent = [producer.send({"n": n}) for n in range(20)]
        producer.send_frame(pl.DataFrame({"n": [20, 21]}))
        last = producer.send({"n": 22})
        ids = [one.result() for one in [*sent, last]]
        assert all(one.done() for one in sent)
        assert last.exception() is None
    stored_ids = ids_of(client, stream)
    assert ids == stored_ids[:20] + stored_ids[22:]
    assert last.result() == stored_ids[22]
    assert repr(last) == f"<SentEntry {stored_ids[22]}>"


def test_awaiting_gives_the_id(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def work() -> list[str | None]:
        async with StreamProducer(any_server.url, stream, batch_size=7) as producer:
            sent = [await producer.send({"n": n}) for n in range(20)]
            one = await (await producer.send({"n": 20}))
            return [*await asyncio.gather(*sent), one]

    assert runner.run(work()) == ids_of(client, stream)


def test_an_entry_that_lingers_is_waited_for(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    producer = StreamProducer(any_server.url, stream, linger_ms=300)
    sent = producer.send({"n": 1})
    assert not sent.done()
    assert repr(sent) == "<SentEntry pending>"
    with pytest.raises(TimeoutError, match=r"not in after 0\.05 s"):
        sent.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        sent.exception(timeout=0)
    assert [sent.result(timeout=10)] == ids_of(client, stream)
    producer.close()


def test_a_cancelled_wait_stops_nothing(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def work() -> str | None:
        async with StreamProducer(any_server.url, stream, linger_ms=200) as producer:
            sent = await producer.send({"n": 1})
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await sent
            return await sent

    assert [runner.run(work())] == ids_of(client, stream)


def test_without_its_stream_an_entry_has_no_id(redis70: Server, stream: str) -> None:
    with StreamProducer(redis70.url, stream, nomkstream=True) as producer:
        sent = producer.send({"n": 1})
        assert sent.result() is None
        assert sent.exception() is None


def test_what_is_refused_raises(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.set(stream, "x")
    producer = StreamProducer(any_server.url, stream)
    sent = producer.send({"n": 1})
    for _ in range(2):
        with pytest.raises(WrongTypeError):
            sent.result()
    assert isinstance(sent.exception(), WrongTypeError)
    assert repr(sent) == "<SentEntry failed>"
    with pytest.raises(WrongTypeError):
        producer.send({"n": 2})


def test_what_is_unknown_raises_and_what_was_in_before_has_its_id(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        producer = StreamProducer(quick(proxy.url), stream, linger_ms=0)
        first = producer.send({"n": 1})
        assert [first.result()] == ids_of(client, stream)
        proxy.cut_after(0, once_seen=b"XADD")
        second = producer.send({"n": 2})
        with pytest.raises((OutcomeUnknownError, RedisConnectionError)):
            second.result()
        # It is in all the same, and stays so.
        assert first.result() == ids_of(client, stream)[0]


@pytest.mark.parametrize("closed", [False, True])
def test_nobody_has_to_ask(
    any_server: Server, client: redis.Redis, stream: str, closed: bool
) -> None:
    producer = StreamProducer(any_server.url, stream)
    kept = [producer.send({"n": n}) for n in range(10)][3]
    if closed:
        producer.close()
    else:
        producer.flush()
    assert kept.result() == ids_of(client, stream)[3]


def test_one_producer_for_many_streams(server: Server, client: redis.Redis, stream: str) -> None:
    streams = [f"{stream}:{n}" for n in range(5)]
    with StreamProducer(server.url, stream, batch_size=30, maxlen=1_000) as producer:
        sent: list[tuple[str, SentEntry]] = []
        for n in range(200):
            key = streams[n % 5]
            sent.append((key, producer.send({"n": n}, stream=key.encode() if n % 2 else key)))
        producer.send({"n": -1})
        producer.send_frame(pl.DataFrame({"n": [200, 201]}), stream=streams[0])
        results = [(key, one.result()) for key, one in sent]
    assert producer.rows_written == 203
    assert stored(client, stream) == [-1]
    for at, key in enumerate(streams):
        rest = [200, 201] if at == 0 else []
        assert stored(client, key) == [*range(at, 200, 5), *rest]
        assert [entry for one, entry in results if one == key] == ids_of(client, key)[:40]


def test_a_producer_without_a_stream_of_its_own(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    calls: list[Callable[[StreamProducer], object]] = [
        lambda producer: producer.send({"n": 1}),
        lambda producer: producer.send_frame(pl.DataFrame({"n": [1]})),
    ]
    with StreamProducer(any_server.url) as producer:
        for call in calls:
            with pytest.raises(ValueError, match="name the stream"):
                call(producer)
        wrong: Any = 5
        with pytest.raises(TypeError, match="stream"):
            producer.send({"n": 1}, stream=wrong)
        producer.send({"n": 1}, stream=stream)

    async def work() -> None:
        async with StreamProducer(any_server.url) as producer:
            with pytest.raises(ValueError, match="name the stream"):
                await producer.send({"n": 1})
            await producer.send({"n": 2}, stream=stream)
            await producer.send_frame(pl.DataFrame({"n": [3]}), stream=stream)

    runner.run(work())
    assert stored(client, stream) == [1, 2, 3]


def test_a_key_of_another_type_fails_by_its_name(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    other = f"{stream}:other"
    client.set(other, "x")
    with pytest.raises(WrongTypeError, match=other):  # noqa: PT012 - whichever call is first
        with StreamProducer(any_server.url) as producer:
            producer.send({"n": 1}, stream=stream)
            producer.send({"n": 2}, stream=other)


def test_futures_do_not_outlive_a_fork(any_server: Server, stream: str) -> None:
    producer = StreamProducer(any_server.url, stream)
    sent = producer.send({"n": 1})
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sent.result()
        except RuntimeError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sent.result() is not None
    producer.close()


def test_a_producer_s_futures_hold_no_ids_that_nobody_wants(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """In a process of its own, whose peak is its own: 200,000 kept futures take 20 MB and more."""
    script = """if True:
        import resource, sys
        from redfloe import StreamProducer

        with StreamProducer(sys.argv[1], sys.argv[2], maxlen=100) as producer:
            for count in (50_000, 200_000):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                for n in range(count):
                    producer.send({"n": n})
                producer.flush()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", script, any_server.url, stream]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 4_000  # KiB


def test_waits_are_short(any_server: Server, client: redis.Redis, stream: str) -> None:
    with StreamProducer(any_server.url, stream, linger_ms=0) as producer, within(2):
        for n in range(100):
            producer.send({"n": n}).result()
