"""What goes wrong while a group is read: lost connections, lost groups, workers that go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    AuthenticationError,
    NoGroupError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    WrongTypeError,
    ack_entries,
    iter_stream,
    read_stream,
    stream_batches,
)
from support.clients import PROTOCOLS, is_waiting, named, quick
from support.groups import DRAIN, ME, deliver, pending
from support.loops import Follow
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers, numbers
from support.timing import SLACK, Stopwatch, eventually, later, meanwhile, within

pytestmark = pytest.mark.timeout(20)


@contextmanager
def once_waiting(client: redis.Redis, name: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as a connection of that name waits, while the block runs."""

    def run() -> None:
        eventually(is_waiting(client, name))
        act()

    with later(0, run):
        yield


def take(batches: Iterator[pl.DataFrame], rows: int) -> list[int]:
    """Ask for batches until there are so many rows, and not one more."""
    taken: list[int] = []
    while len(taken) < rows:
        taken += next(batches)["n"].to_list()
    assert len(taken) == rows
    return taken


def drained(batches: Iterator[pl.DataFrame]) -> pl.DataFrame:
    """Put all batches together."""
    return pl.concat([numbers(0), *batches])


def cut(proxy: Proxy, how: str, size: int, command: bytes, skip: int) -> None:
    method = proxy.cut_after if how == "cut" else proxy.reset_after
    method(size, once_seen=command, skip=skip)


# Connections that are lost while something is read


@PROTOCOLS
@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("command", [b"XGROUP", b"XINFO", b"XREVRANGE", b"XREADGROUP", b"XACK"])
def test_a_read_gets_over_a_cut_anywhere(
    any_server: Server, client: redis.Redis, stream: str, how: str, command: bytes, query: str
) -> None:
    """A delivery whose reply was lost is read from the pending list; nothing comes twice."""
    with Proxy(any_server.port) as proxy:
        for size in [*range(0, 60, 6), 1_234]:
            for skip in (0, 1):
                client.delete(stream)
                add_numbers(client, stream, 350)
                proxy.clear()
                cut(proxy, how, size, command, skip)
                df = read_stream(quick(proxy.url + query), stream, NUMBER, auto_ack=True, **ME)
                assert_frame_equal(df, numbers(350))
                assert pending(client, stream) == []


@PROTOCOLS
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_read_of_pending_entries_gets_over_a_cut_anywhere(
    any_server: Server, client: redis.Redis, stream: str, how: str, query: str
) -> None:
    add_numbers(client, stream, 350)
    deliver(client, stream, 350)
    with Proxy(any_server.port) as proxy:
        for size in [*range(0, 60, 6), 1_234]:
            for skip in (0, 1):
                proxy.clear()
                cut(proxy, how, size, b"XREADGROUP", skip)
                df = read_stream(quick(proxy.url + query), stream, NUMBER, "0", **ME)
                assert_frame_equal(df, numbers(350))


@PROTOCOLS
@pytest.mark.parametrize("auto_ack", [False, True])
@pytest.mark.parametrize("command", [b"XGROUP", b"XREADGROUP", b"XACK"])
def test_an_iterator_gets_over_a_cut_anywhere(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    command: bytes,
    auto_ack: bool,
    query: str,
) -> None:
    options: dict[str, Any] = {"batch_size": 130, "auto_ack": auto_ack, **ME, **DRAIN}
    with Proxy(any_server.port) as proxy:
        for size in (0, 3, 20, 45, 1_234):
            client.delete(stream)
            add_numbers(client, stream, 300)
            deliver(client, stream, 20)
            proxy.clear()
            for skip in (0, 1, 2, 3):
                cut(proxy, "cut", size, command, skip)
            df = drained(follow(quick(proxy.url + query), stream, NUMBER, **options))
            assert_frame_equal(df, numbers(300))
            assert pending(client, stream) == ([] if auto_ack else [*range(1, 301)])


def test_connections_that_are_lost_at_random(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """However often, and with a writer and another consumer beside."""
    chance = random.Random(11)
    last = 0

    def write() -> None:
        nonlocal last
        if last < 1_500:
            last += add_numbers(client, stream, last + 20, first=last + 1)
        time.sleep(0.001)

    def work(url: str, make: Follow, name: str) -> list[int]:
        options: dict[str, Any] = {"batch_size": 13, "auto_ack": True, "block_ms": 300}
        connection = quick(url, max_retries=50)
        batches = make(
            connection, stream, NUMBER, group="g", consumer=name, on_idle="stop", **options
        )
        return [n for frame in batches for n in frame["n"]]

    with Proxy(server.port) as proxy, ThreadPoolExecutor(1) as pool:
        cuts = 0

        def cut_all() -> None:
            nonlocal cuts
            write()
            if last < 1_500 and chance.random() < 0.3:
                proxy.cut_all()
                cuts += 1

        with meanwhile(cut_all):
            other = pool.submit(work, proxy.url, iter_stream, "other")
            mine = work(proxy.url, follow, "me")
            shares = [mine, other.result()]
    assert cuts > 5
    assert sorted(n for share in shares for n in share) == [*range(1, last + 1)]
    assert pending(client, stream) == []


def test_a_reply_that_was_lost_comes_first_in_the_next_process(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """The server delivered, nobody received, and the worker starts anew."""
    add_numbers(client, stream, 9)
    with Proxy(server.port) as proxy:
        skip = server.refused_reads + 1
        proxy.cut_after(0, once_seen=b"XREADGROUP", skip=skip, times=None)
        batches = follow(quick(proxy.url, max_retries=0), stream, NUMBER, batch_size=4, **ME)
        with pytest.raises(RedisConnectionError):
            next(batches)
    assert pending(client, stream) == [1, 2, 3, 4]
    again = follow(server.url, stream, NUMBER, batch_size=6, **ME, **DRAIN)
    assert next(again)["n"].to_list() == [1, 2, 3, 4]
    assert next(again)["n"].to_list() == [5, 6, 7, 8, 9]


@pytest.mark.parametrize("start", [None, ">"])
def test_a_reply_that_was_lost_comes_first_in_the_same_iterator(
    server: Server, client: redis.Redis, stream: str, follow: Follow, start: str | None
) -> None:
    """Also with ">", which passes over what was pending before and not what was just lost."""
    add_numbers(client, stream, 12)
    deliver(client, stream, 2)
    with Proxy(server.port) as proxy:
        connection = quick(proxy.url, max_retries=0)
        batches = follow(connection, stream, NUMBER, start, batch_size=4, auto_ack=True, **ME)
        first = next(batches)["n"].to_list()
        assert first == ([1, 2] if start is None else [3, 4, 5, 6])
        proxy.cut_after(0, once_seen=b"XREADGROUP")
        with pytest.raises(RedisConnectionError):
            next(batches)
        assert take(batches, 12 - first[-1]) == [*range(first[-1] + 1, 13)]
    assert 2 not in pending(client, stream) or start == ">"


def test_noack_loses_what_was_on_its_way(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """As documented: at most once."""
    add_numbers(client, stream, 9)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XREADGROUP", skip=any_server.refused_reads + 1)
        options: dict[str, Any] = {"batch_size": 4, "noack": True, **ME, **DRAIN}
        batches = iter_stream(quick(proxy.url), stream, NUMBER, **options)
        assert drained(batches)["n"].to_list() == [5, 6, 7, 8, 9]


def test_a_connection_lost_while_waiting(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    with Proxy(server.port) as proxy:
        connection = quick(proxy.url, client_name="waits")
        batches = follow(connection, stream, NUMBER, block_ms=0, **ME)

        def act() -> None:
            proxy.cut_all()
            add_numbers(client, stream, 3)

        with once_waiting(client, "waits", act):
            assert next(batches)["n"][0] == 1


@pytest.mark.parametrize("block_ms", [None, 5_000])
def test_a_server_that_is_slower_than_the_block(
    any_server: Server, client: redis.Redis, stream: str, block_ms: int | None
) -> None:
    """What it delivers after the client has gone is pending, and comes first."""
    add_numbers(client, stream, 5)
    client.xgroup_create(stream, "g", "0")
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(20, once_seen=b"XREADGROUP")
        # The time that the server was given to wait comes on top.
        silence = 0.3 + (block_ms or 0) / 1_000
        connection = quick(proxy.url, response_timeout=0.3)
        with within(silence + 2), pytest.raises(RedisTimeoutError, match=stream):
            read_stream(connection, stream, NUMBER, block_ms=block_ms, **ME)
        assert pending(client, stream) == [1, 2, 3, 4, 5]
        assert_frame_equal(read_stream(connection, stream, NUMBER, "0", **ME), numbers(5))


def test_an_iterator_over_a_server_that_is_slower_than_the_block(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(20, once_seen=b"XREADGROUP", skip=1)
        connection = quick(proxy.url, response_timeout=0.3, max_retries=5)
        batches = follow(connection, stream, NUMBER, block_ms=100, **ME)
        with within(3), pytest.raises(RedisTimeoutError):
            next(batches)
        assert next(batches)["n"].to_list() == [1, 2, 3, 4, 5]


def test_a_frozen_server_that_wakes_up_late(client: redis.Redis, any_server: Server) -> None:
    add_numbers(client, "s", 5)
    any_server.pause()
    try:
        connection = quick(any_server.url, response_timeout=0.3, max_retries=0)
        with within(3), pytest.raises(RedisTimeoutError):
            read_stream(connection, "s", NUMBER, **ME)
    finally:
        any_server.resume()
    batches = iter_stream(any_server.url, "s", NUMBER, **ME, **DRAIN)
    assert_frame_equal(drained(batches), numbers(5))


# Acknowledgements that are lost


@PROTOCOLS
@pytest.mark.parametrize("size", [0, 1, 3])
def test_the_reply_to_an_acknowledgement_is_lost(
    server: Server, client: redis.Redis, stream: str, size: int, query: str
) -> None:
    """The command is repeated; what the lost one acknowledged does not count."""
    add_numbers(client, stream, 5)
    deliver(client, stream, 5)
    with Proxy(server.port) as proxy:
        proxy.cut_after(size, once_seen=b"XACK")
        assert ack_entries(quick(proxy.url + query), stream, "g", numbers(5)["_id"]) == 0
        assert proxy.count(b"XACK") == 2
    assert pending(client, stream) == []


def test_an_acknowledgement_is_cut_half_way_through_its_commands(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 2_500)
    deliver(client, stream, 2_500)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XACK", skip=1)
        assert ack_entries(quick(proxy.url), stream, "g", numbers(2_500)["_id"]) == 1_500
        assert proxy.count(b"XACK") == 4
    assert pending(client, stream) == []


def test_an_acknowledgement_that_fails_says_so(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 5)
    deliver(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XACK", times=None)
        connection = quick(proxy.url, max_retries=2)
        with pytest.raises(RedisConnectionError, match="attempts: 3"):
            ack_entries(connection, stream, "g", ["1-0"])
        assert proxy.count(b"XACK") == 3


@pytest.mark.parametrize("how", ["cut", "stall"])
def test_a_frame_is_not_lost_with_its_acknowledgement(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    """The server has acknowledged, and nobody can know: the rows must not go with the error."""
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        method = proxy.cut_after if how == "cut" else proxy.stall_after
        method(0, once_seen=b"XACK", times=None)
        connection = quick(proxy.url, max_retries=2, response_timeout=0.3)
        df = read_stream(connection, stream, NUMBER, auto_ack=True, **ME)
    assert_frame_equal(df, numbers(5))
    assert pending(client, stream) == []


def test_an_acknowledgement_that_is_refused_raises(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The server said no, so the entries are pending for certain."""
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-NOPERM no XACK for you\r\n", once_seen=b"XACK", times=None)
        with pytest.raises(AuthenticationError, match="NOPERM"):
            read_stream(proxy.url, stream, NUMBER, auto_ack=True, **ME)
        assert pending(client, stream) == [1, 2, 3, 4, 5]
        batches = iter_stream(proxy.url, stream, NUMBER, auto_ack=True, batch_size=3, **ME, **DRAIN)
        assert next(batches)["n"].to_list() == [1, 2, 3]
        for _ in range(2):
            with pytest.raises(AuthenticationError, match="NOPERM"):
                next(batches)
        proxy.clear()
        assert drained(batches)["n"].to_list() == [4, 5]
    assert pending(client, stream) == []


def test_an_iterator_s_acknowledgement_whose_reply_is_lost(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 9)
    with Proxy(server.port) as proxy:
        for skip in (0, 1, 2):
            proxy.cut_after(0, once_seen=b"XACK", skip=skip)
        options: dict[str, Any] = {"batch_size": 3, "auto_ack": True, **ME, **DRAIN}
        batches = follow(quick(proxy.url), stream, NUMBER, **options)
        assert_frame_equal(drained(batches), numbers(9))
    assert pending(client, stream) == []


def test_the_last_acknowledgement_is_tried_again_by_the_next_call(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        connection = quick(proxy.url, max_retries=1)
        batches = follow(connection, stream, NUMBER, count=3, auto_ack=True, **ME)
        assert_frame_equal(next(batches), numbers(3))
        proxy.refuse(1_000)
        proxy.cut_all()
        with pytest.raises(RedisConnectionError):
            next(batches)
        proxy.clear()
        assert pending(client, stream) == [1, 2, 3]
        assert list(batches) == []
    assert pending(client, stream) == []


# Groups and streams that are lost


def replace(client: redis.Redis, stream: str) -> None:
    """Put something else in the stream's place, in one step."""
    with client.pipeline() as transaction:
        transaction.delete(stream)
        transaction.set(stream, "x")
        transaction.execute()


LOSSES: dict[str, Callable[[redis.Redis, str], object]] = {
    "group": lambda client, stream: client.xgroup_destroy(stream, "g"),
    "stream": lambda client, stream: client.delete(stream),
    "flushall": lambda client, stream: client.flushall(),
    "other-type": replace,
}


@pytest.mark.parametrize("loss", LOSSES)
@PROTOCOLS
def test_a_group_that_is_lost_while_it_is_waited_for(
    server: Server, client: redis.Redis, stream: str, loss: str, query: str
) -> None:
    """Each time it is asked for: no loop polls a group that is gone."""
    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url + query, client_name="waits")
        # Some servers do not wake those who wait; the end of the wait then does.
        batches = iter_stream(connection, stream, NUMBER, block_ms=1_000, **ME)
        with once_waiting(client, "waits", lambda: LOSSES[loss](client, stream)):
            with within(4), pytest.raises((NoGroupError, WrongTypeError), match=stream) as raised:
                next(batches)
        expected = {"NOGROUP", "UNBLOCKED"} | ({"WRONGTYPE"} if loss == "other-type" else set())
        assert raised.value.code in expected
        for _ in range(5):
            with within(4), pytest.raises((NoGroupError, WrongTypeError), match=stream):
                next(batches)
        assert proxy.count(b"XREADGROUP") <= 10


@pytest.mark.parametrize("loss", ["group", "stream"])
@pytest.mark.slow
def test_a_read_whose_group_is_lost_while_it_waits(
    server: Server, client: redis.Redis, stream: str, loss: str
) -> None:
    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, client_name="waits")
        with once_waiting(client, "waits", lambda: LOSSES[loss](client, stream)):
            with within(8), pytest.raises((NoGroupError, WrongTypeError), match=stream):
                # Where the server does not wake it, the wait is looked after every five seconds.
                read_stream(connection, stream, NUMBER, block_ms=0, **ME)
        # The first finds no group, and has it created.
        assert proxy.count(b"XREADGROUP") <= 3


def test_an_event_loop_whose_group_is_lost(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    connection = RedisConnection(any_server.url, client_name="waits")
    batches = follow(connection, stream, NUMBER, block_ms=500, **ME)
    with once_waiting(client, "waits", lambda: client.xgroup_destroy(stream, "g")):
        with within(4), pytest.raises(NoGroupError, match=stream):
            next(batches)
    client.xgroup_create(stream, "g", "0")
    add_numbers(client, stream, 3)
    assert_frame_equal(next(batches), numbers(3))


def test_a_group_that_is_lost_between_two_batches(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 9)
    options: dict[str, Any] = {"batch_size": 3, "auto_ack": True}
    batches = follow(server.url, stream, NUMBER, **options, **ME)
    assert_frame_equal(next(batches), numbers(3))
    client.xgroup_destroy(stream, "g")
    for _ in range(2):
        with within(2), pytest.raises(NoGroupError):
            next(batches)


def test_a_server_that_restarts_with_its_data(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 9)
        options: dict[str, Any] = {"batch_size": 3, "auto_ack": True, "block_ms": 0}
        batches = follow(server.url, "s", NUMBER, **options, **ME)
        assert_frame_equal(next(batches), numbers(3))
        server.restart()
        assert_frame_equal(next(batches), numbers(6, first=4))
        server.restart()
        assert_frame_equal(next(batches), numbers(9, first=7))
        assert pending(server.client(), "s") == [7, 8, 9]


def test_a_server_that_restarts_without_its_data(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 5)
        connection = quick(server.url, max_retries=20)
        batches = follow(connection, "s", NUMBER, block_ms=50, auto_ack=True, **ME)
        assert_frame_equal(next(batches), numbers(5))
        server.restart(persist=False)
        for _ in range(2):
            with within(4), pytest.raises(NoGroupError):
                next(batches)


def test_a_server_that_dies_and_later_comes_back(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 5)
        connection = quick(server.url, max_retries=2)
        batches = follow(connection, "s", NUMBER, batch_size=3, auto_ack=True, **ME)
        assert_frame_equal(next(batches), numbers(3))
        server.client().save()
        server.kill()
        for _ in range(3):
            with within(2), pytest.raises(RedisConnectionError):
                next(batches)
        assert_cannot_acknowledge(connection)
        server.start()
        assert_frame_equal(next(batches), numbers(5, first=4))
        assert pending(server.client(), "s") == [4, 5]


def assert_cannot_acknowledge(connection: RedisConnection) -> None:
    with within(2), pytest.raises(RedisConnectionError):
        ack_entries(connection, "s", "g", ["1-0"])


def test_a_server_that_is_busy_loading(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 5)
    with Proxy(any_server.port) as proxy:
        loading = b"-LOADING Redis is loading the dataset in memory\r\n"
        for command in (b"XGROUP", b"XREADGROUP", b"XACK"):
            proxy.replace_reply(loading, once_seen=command, times=2)
        batches = iter_stream(quick(proxy.url), "s", NUMBER, auto_ack=True, **ME, **DRAIN)
        assert_frame_equal(drained(batches), numbers(5))
    assert pending(client, "s") == []


def test_an_early_nil_makes_no_hot_loop(any_server: Server, stream: str, follow: Follow) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"*-1\r\n", once_seen=b"XREADGROUP", times=None)
        options: dict[str, Any] = {"block_ms": 500, "on_idle": "stop"}
        watch = Stopwatch()
        assert list(follow(proxy.url, stream, NUMBER, **options, **ME)) == []
        assert 0.49 < watch.seconds < 3 * SLACK
        assert proxy.count(b"XREADGROUP") < 40


def test_client_unblock_makes_no_hot_loop(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    def unblock() -> None:
        for one in client.client_list():
            if one["name"] == "unblocked":
                client.client_unblock(int(one["id"]))

    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, client_name="unblocked")
        batches = follow(connection, stream, NUMBER, block_ms=0, **ME)
        with later(0.4, lambda: add_numbers(client, stream, 2)), meanwhile(unblock):
            assert take(batches, 2) == [1, 2]
        assert proxy.count(b"XREADGROUP") < 100


def test_a_server_that_refuses_is_not_pestered(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=4, retry_base_delay=0.02)
        batches = follow(connection, stream, NUMBER, auto_ack=True, **ME)
        assert_frame_equal(next(batches), numbers(3))
        proxy.refuse(1_000)
        proxy.cut_all()
        watch = Stopwatch()
        with pytest.raises(RedisConnectionError):
            next(batches)
        assert watch.seconds > 0.25  # 20, 40, 80 and 160 ms at least
        assert proxy.connections <= 6


def test_garbage_for_an_acknowledgement(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"+OK\r\n", once_seen=b"XACK", times=None)
        with pytest.raises(ResponseError, match="XACK"):
            ack_entries(proxy.url, stream, "g", ["1-0"])


# Workers that go


def test_a_cancelled_wait_s_connection_is_closed_and_nothing_is_lost(
    server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    connection = RedisConnection(server.url, client_name="cancelled")

    async def main() -> None:
        batches = stream_batches(connection, stream, NUMBER, block_ms=0, **ME)
        asking = asyncio.ensure_future(anext(batches))
        await asyncio.to_thread(eventually, is_waiting(client, "cancelled"))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(eventually, lambda: named(client, "cancelled") == 0)
        add_numbers(client, stream, 3)
        assert_frame_equal(await anext(batches), numbers(3))

    runner.run(main())


def test_a_delivery_that_a_cancelled_task_had_asked_for_is_not_lost(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    """The server has delivered, the reply stops half way, and the task is cancelled."""
    add_numbers(client, stream, 9)

    async def main(proxy: Proxy) -> list[int]:
        options: dict[str, Any] = {"batch_size": 4, "auto_ack": True}
        batches = stream_batches(proxy.url, stream, NUMBER, **options, **ME, **DRAIN)
        stall = proxy.stall_after(70, once_seen=b"XREADGROUP", skip=1)
        asking = asyncio.ensure_future(anext(batches))
        await asyncio.to_thread(eventually, lambda: stall.hits == 1)
        await asyncio.to_thread(eventually, lambda: len(pending(client, stream)) == 4)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        return [n async for frame in batches for n in frame["n"]]

    with Proxy(any_server.port) as proxy:
        assert runner.run(main(proxy)) == [*range(1, 10)]
    assert pending(client, stream) == []


@PROTOCOLS
def test_cancelled_at_random_moments(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner, query: str
) -> None:
    """The same iterator goes on where it was; each entry is given once and acknowledged."""
    chance = random.Random(7)
    last = 0

    def write() -> None:
        nonlocal last
        if last < 1_000:
            last += add_numbers(client, stream, last + 7, first=last + 1)
        time.sleep(0.002)

    async def main() -> list[int]:
        given: list[int] = []
        batches = stream_batches(
            any_server.url + query, stream, NUMBER, batch_timeout_ms=2, auto_ack=True, **ME
        )
        while last < 1_000 or len(given) < last:
            asking = asyncio.ensure_future(anext(batches))
            await asyncio.wait([asking], timeout=chance.uniform(0, 0.01))
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                given += (await asking)["n"].to_list()
        return given

    with meanwhile(write):
        assert runner.run(main()) == [*range(1, last + 1)]


def test_many_acknowledgements_are_cancelled_while_they_are_sent(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    """Half a megabyte of them, before the read: what that delivers must not be forgotten."""
    entries = add_numbers(client, stream, 40_000)
    chance = random.Random(3)

    async def main(url: str) -> list[int]:
        given: list[int] = []
        options: dict[str, Any] = {"batch_size": 20_000, "auto_ack": True, "count": entries}
        batches = stream_batches(url, stream, NUMBER, **options, **ME)
        while len(given) < entries:
            asking = asyncio.ensure_future(anext(batches))
            await asyncio.wait([asking], timeout=chance.uniform(0, 0.1))
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                given += (await asking)["n"].to_list()
        return given

    assert runner.run(main(any_server.url)) == [*range(1, entries + 1)]


@pytest.mark.parametrize("how", ["break", "exception", "close", "collected"])
def test_an_iterator_that_is_left_gives_its_connection_back(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    add_numbers(client, stream, 200)
    connection = RedisConnection(any_server.url, client_name="left")
    for turn in range(10):
        batches = iter_stream(connection, stream, NUMBER, batch_size=7, auto_ack=True, **ME)
        with contextlib.suppress(ZeroDivisionError):
            for frame in batches:
                # What was in hand the last time comes again.
                assert_frame_equal(frame, numbers(7))
                if how == "exception":
                    raise ZeroDivisionError
                break
        if how == "close":
            batches.close()
        elif how == "collected":
            cycle: list[Any] = [batches]
            cycle.append(cycle)
            del cycle
            del batches
            gc.collect()
        assert pending(client, stream) == [*range(1, 8)], turn
    del frame
    eventually(lambda: named(client, "left") <= 1)


def test_an_async_iterator_that_is_left_mid_read(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    connection = RedisConnection(any_server.url, client_name="left")

    async def main() -> None:
        for _ in range(5):
            async with stream_batches(connection, stream, block_ms=0, **ME) as batches:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(anext(batches), 0.02)

    runner.run(main())
    gc.collect()
    eventually(lambda: not is_waiting(client, "left")())
    add_numbers(client, stream, 3)
    df = read_stream(any_server.url, stream, NUMBER, **ME)
    assert_frame_equal(df, numbers(3))


def test_ctrl_c_ends_a_wait_and_the_iterator_goes_on(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, "s", 2)
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        batches = redfloe.iter_stream(
            connection, "s", group="g", consumer="me", auto_ack=True, block_ms=0
        )
        print(json.dumps(next(batches)["n"].to_list()), flush=True)
        try:
            next(batches)
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        print(json.dumps(next(batches)["n"].to_list()), flush=True)
        sys.stdin.readline()
    """
    with python(script, any_server.url) as process:
        assert hear(process) == ["1", "2"]
        eventually(is_waiting(client, "ctrl-c"), seconds=8)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert hear(process) - sent < 2
        assert pending(client, "s") == []
        add_numbers(client, "s", 3, first=3)
        assert hear(process) == ["3"]


def test_ctrl_c_ends_a_read_that_waits(any_server: Server, client: redis.Redis) -> None:
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        try:
            redfloe.read_stream(connection, "s", group="g", consumer="me", block_ms=0)
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        sys.stdin.readline()
    """
    with python(script, any_server.url) as process:
        eventually(is_waiting(client, "ctrl-c"), seconds=8)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert hear(process) - sent < 2
        eventually(lambda: named(client, "ctrl-c") == 0)
        add_numbers(client, "s", 3)
        assert pending(client, "s") == []


@pytest.mark.parametrize("moment", ["given", "asked"])
def test_a_killed_worker_s_entries_come_first_when_it_starts_again(
    server: Server, client: redis.Redis, moment: str
) -> None:
    """`given`: in the middle of its work. `asked`: after it had asked for the next batch."""
    add_numbers(client, "s", 9)
    script = """
        batches = redfloe.iter_stream(
            sys.argv[1], "s", group="g", consumer="me", auto_ack=True, batch_size=3, block_ms=0
        )
        print(json.dumps(next(batches)["n"].to_list()), flush=True)
        if sys.argv[2] == "asked":
            print(json.dumps(next(batches)["n"].to_list()), flush=True)
        sys.stdin.readline()
    """
    with python(script, server.url, moment) as process:
        assert hear(process) == ["1", "2", "3"]
        if moment == "asked":
            assert hear(process) == ["4", "5", "6"]
        process.kill()
        process.wait()
    first = 4 if moment == "asked" else 1
    assert pending(client, "s") == [*range(first, first + 3)]
    batches = iter_stream(server.url, "s", NUMBER, auto_ack=True, **ME, **DRAIN)
    assert_frame_equal(drained(batches), numbers(9, first=first))
    assert pending(client, "s") == []
