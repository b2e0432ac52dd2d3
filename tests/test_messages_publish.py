"""Publishing one by one: who waits for a message writes it, through whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from typing import Any

import pytest
import redis

from redfloe import OutcomeUnknownError
from redfloe.messages import AsyncProducer, Producer
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import in_thread, later, within
from support.writes import ids, stored


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def test_one_thread_needs_one_connection(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy, Producer(proxy.url, stream) as producer:
        for n in range(20):
            producer.publish({"n": n})
        assert proxy.connections == 1
        assert proxy.count(b"XADD") == 20
        # What is written in the background goes over another one, and what comes after it too: on
        # another connection the server is asked first what it has.
        producer.publish_many({"n": n} for n in range(3))
        connections, commands = proxy.connections, len(proxy.commands)
        for n in range(10):
            producer.publish({"n": n})
        assert (proxy.connections, len(proxy.commands)) == (connections, commands + 10)


def test_threads_that_publish_at_the_same_time_keep_their_order(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    per_thread = 60
    published: dict[int, list[str]] = {}

    with Producer(any_server.url, stream) as producer:

        def publish(number: int) -> None:
            published[number] = [
                producer.publish({"thread": number, "n": n}) for n in range(per_thread)
            ]

        async def publish_async(number: int) -> None:
            in_loop = AsyncProducer(producer)
            published[number] = [
                await in_loop.publish({"thread": number, "n": n}) for n in range(per_thread)
            ]

        threads = [threading.Thread(target=publish, args=(number,)) for number in range(3)]
        threads.append(threading.Thread(target=lambda: asyncio.run(publish_async(3))))
        for thread in threads:
            thread.start()
        producer.publish_many([{"thread": 4, "n": n} for n in range(per_thread)])
        for thread in threads:
            thread.join()
        # Alone again, until it is this thread that writes.
        published[5] = [producer.publish({"thread": 5, "n": n}) for n in range(per_thread)]

    found: Any = client.xrange(stream)
    of_thread: dict[int, list[tuple[str, int]]] = {}
    for entry_id, fields in found:
        came = of_thread.setdefault(int(fields[b"thread"]), [])
        came.append((entry_id.decode(), int(fields[b"n"])))
    assert len(of_thread) == 6
    for number, came in of_thread.items():
        assert [n for _, n in came] == [*range(per_thread)]
        assert number == 4 or [entry_id for entry_id, _ in came] == published[number]


def test_an_answer_that_is_lost_of_a_producer_with_a_name(redis810: Server, stream: str) -> None:
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=2, times=2)
        with Producer(quick(proxy.url), stream, idempotent="me") as producer:
            published = [producer.publish({"n": n}) for n in range(6)]
        assert stored(client, stream) == [*range(6)]
        assert ids(client, stream) == published


def test_an_answer_that_is_lost(any_server: Server, client: redis.Redis, stream: str) -> None:
    with Proxy(any_server.port) as proxy, Producer(quick(proxy.url), stream) as producer:
        producer.publish({"n": 0})
        proxy.cut_after(0, once_seen=b"XADD")
        with pytest.raises(OutcomeUnknownError) as raised:
            producer.publish({"n": 1})
        assert (raised.value.rows_written, raised.value.unknown) == (1, range(1, 2))
        producer.publish({"n": 2})  # begins anew
    assert stored(client, stream) == [0, 1, 2]


def test_a_server_that_is_away_is_waited_for(own: Server) -> None:
    with Producer(quick(own.url), "s") as producer:
        producer.publish({"n": 0})
        own.client().save()
        own.kill()
        with later(0.3, own.start):
            producer.publish({"n": 1})
        producer.publish({"n": 2})
    assert stored(own.client(), "s") == [0, 1, 2]


def test_ctrl_c_ends_the_wait_for_a_frozen_server(own: Server) -> None:
    """The message goes on its way without its caller, and once."""
    with Producer(own.url, "s") as producer:
        producer.publish({"n": 0})
        own.pause()
        try:
            with within(0.6), later(0.2, interrupt), pytest.raises(KeyboardInterrupt):
                producer.publish({"n": 1})
            with in_thread(lambda: producer.publish({"n": 2})) as published:
                time.sleep(0.1)
                own.resume()
                assert published() is not None
        finally:
            own.resume()
        producer.publish({"n": 3})
    assert stored(own.client(), "s") == [0, 1, 2, 3]


def test_ctrl_c_of_a_block_is_over_within_a_second_or_two(own: Server) -> None:
    with own.client() as client:
        client.xadd("s", {"n": 0})

    def publish() -> None:
        with Producer(own.url, "s") as producer:
            producer.publish({"n": 1})
            own.pause()
            producer.publish({"n": 2})

    try:
        with within(1.8), later(0.2, interrupt), pytest.raises(KeyboardInterrupt) as raised:
            publish()
    finally:
        own.resume()
    assert isinstance(raised.value.__cause__, OutcomeUnknownError)
    assert raised.value.__cause__.unknown == range(1, 2)


def test_a_signals_handler_publishes_while_its_thread_waits(own: Server) -> None:
    published: list[str] = []
    with Producer(own.url, "s") as producer:
        producer.publish({"n": 0})

        def handle(*_: object) -> None:
            own.resume()
            published.append(producer.publish({"n": 2}))

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            own.pause()
            with later(0.2, lambda: signal.raise_signal(signal.SIGUSR1)), within(3):
                first = producer.publish({"n": 1})
        finally:
            own.resume()
            signal.signal(signal.SIGUSR1, before)
    assert stored(own.client(), "s") == [0, 1, 2]
    assert first < published[0]


def test_closing_while_a_thread_publishes(own: Server) -> None:
    producer = Producer(own.url, "s")
    producer.publish({"n": 0})
    own.pause()
    try:
        with in_thread(lambda: producer.publish({"n": 1})) as published:
            time.sleep(0.1)
            with later(0.1, own.resume):
                producer.close()
            assert published() is not None
    finally:
        own.resume()
    assert stored(own.client(), "s") == [0, 1]
    with pytest.raises(ValueError, match="closed"):
        producer.publish({"n": 2})


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_while_a_thread_publishes(own: Server) -> None:
    with Producer(own.url, "s") as producer:
        producer.publish({"n": 0})
        own.pause()
        try:
            with in_thread(lambda: producer.publish({"n": 1})) as published:
                time.sleep(0.1)
                child = os.fork()
                if child == 0:
                    code = 1
                    try:
                        producer.publish({"n": "of the child"})
                    except RuntimeError:
                        code = 0
                    finally:
                        os._exit(code)
                with within(3):
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                own.resume()
                published()
        finally:
            own.resume()
        producer.publish({"n": 2})
    assert stored(own.client(), "s") == [0, 1, 2]
