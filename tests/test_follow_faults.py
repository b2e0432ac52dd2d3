"""What goes wrong while a stream is followed: cancellation, lost connections, lost streams."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    DataLossError,
    DecodeError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    WrongTypeError,
    iter_stream,
    stream_batches,
)
from support.clients import PROTOCOLS, is_waiting, named, quick
from support.loops import LOOPS, Follow
from support.processes import finish, hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, numbers
from support.timing import SLACK, Stopwatch, eventually, later, meanwhile, within

pytestmark = pytest.mark.timeout(20)


def take(batches: Iterator[pl.DataFrame], rows: int) -> pl.DataFrame:
    """Ask for batches until there are so many rows, and not one more."""
    frames = [numbers(0)]
    while (height := sum(frame.height for frame in frames)) < rows:
        frames.append(next(batches))
        assert frames[-1].height > 0
    assert height == rows
    return pl.concat(frames)


class Writer:
    """Adds numbered entries, `1-0` and on, a few at a time."""

    def __init__(self, client: redis.Redis, stream: str, *, pause: float = 0.001) -> None:
        self.last = 0
        self._client, self._stream, self._pause = client, stream, pause

    def __call__(self) -> None:
        more = self.last % 5 + 1
        add_numbers(self._client, self._stream, self.last + more, first=self.last + 1)
        self.last += more
        time.sleep(self._pause)


# Cancellation


def test_a_cancelled_wait_s_connection_is_closed(
    server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    connection = RedisConnection(server.url, client_name="cancelled")

    async def main() -> None:
        batches = stream_batches(connection, stream, NUMBER, "-", block_ms=0)
        asking = asyncio.ensure_future(anext(batches))
        await asyncio.to_thread(eventually, is_waiting(client, "cancelled"))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(eventually, lambda: named(client, "cancelled") == 0, seconds=1)
        add_numbers(client, stream, 3)
        assert_frame_equal(await anext(batches), numbers(3))

    runner.run(main())


@PROTOCOLS
def test_timeouts_over_and_over_lose_nothing(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner, query: str
) -> None:
    async def main() -> list[pl.DataFrame]:
        batches = stream_batches(any_server.url + query, stream, NUMBER, "-", batch_size=7)
        frames: list[pl.DataFrame] = []
        while sum(frame.height for frame in frames) < 400:
            with contextlib.suppress(TimeoutError):
                frames.append(await asyncio.wait_for(anext(batches), 0.004))
        return frames

    with meanwhile(Writer(client, stream, pause=0.005)):
        df = pl.concat(runner.run(main()))
    assert_frame_equal(df, numbers(df.height))


@PROTOCOLS
def test_cancelled_at_random_moments(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner, query: str
) -> None:
    """The same iterator goes on where it was, and so does a new one after the last ID."""
    chance = random.Random(7)

    async def main() -> list[pl.DataFrame]:
        frames: list[pl.DataFrame] = []
        batches = None
        while sum(frame.height for frame in frames) < 1_000:
            if batches is None or chance.random() < 0.2:
                start = f"({frames[-1]['_id'][-1]}" if frames else "-"
                batches = stream_batches(
                    any_server.url + query, stream, NUMBER, start, batch_timeout_ms=2
                )
            asking = asyncio.ensure_future(anext(batches))
            await asyncio.wait([asking], timeout=chance.uniform(0, 0.02))
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                frames.append(await asking)
        return frames

    with meanwhile(Writer(client, stream)):
        df = pl.concat(runner.run(main()))
    assert_frame_equal(df, numbers(df.height))


def test_a_cancelled_task_leaves_the_batch_to_another(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    async def main() -> None:
        batches = stream_batches(any_server.url, stream, NUMBER, "-")
        first, second = (asyncio.ensure_future(anext(batches)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        await asyncio.sleep(0.1)
        add_numbers(client, stream, 3)
        assert_frame_equal(await asyncio.wait_for(second, 2 * SLACK), numbers(3))

    runner.run(main())


def test_whole_entries_in_hand_come_at_once_after_a_cancellation(
    any_server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    """A hundred entries are a whole page; the request for the next one is never answered."""
    add_numbers(client, stream, 100)

    async def main() -> None:
        with Proxy(any_server.port) as proxy:
            proxy.stall_after(0, once_seen=b"XREAD", skip=1)
            batches = stream_batches(proxy.url, stream, NUMBER, "-", batch_size=500, block_ms=0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(batches), 0.2)
            df = await asyncio.wait_for(anext(batches), 1 * SLACK)
            assert_frame_equal(df, numbers(100))

    runner.run(main())


# The consumer goes


@pytest.mark.parametrize("how", ["break", "exception", "close", "collected"])
def test_an_iterator_that_is_left_gives_its_connection_back(
    any_server: Server, client: redis.Redis, stream: str, how: str
) -> None:
    add_numbers(client, stream, 3_000)
    connection = RedisConnection(any_server.url, client_name="left")
    for _ in range(5 if how == "collected" else 20):
        batches = iter_stream(connection, stream, NUMBER, "-", batch_size=7)
        with contextlib.suppress(ZeroDivisionError):
            for frame in batches:
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
    del frame
    eventually(lambda: named(client, "left") <= 1, seconds=1)


def test_an_exception_of_the_consumer_loses_nothing(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 10)
    batches = follow(any_server.url, stream, NUMBER, "-", batch_size=4, count=10)
    frames = []
    with contextlib.suppress(ZeroDivisionError):
        for frame in batches:
            frames.append(frame)
            raise ZeroDivisionError
    assert_frame_equal(frames[0], numbers(4))
    assert_frame_equal(pl.concat([*frames, *batches]), numbers(10))


# Connections that are lost


@PROTOCOLS
def test_a_connection_lost_between_batches(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, query: str
) -> None:
    add_numbers(client, stream, 10)
    with Proxy(any_server.port) as proxy:
        batches = follow(quick(proxy.url + query), stream, NUMBER, "-", batch_size=4, count=20)
        frames = [next(batches)]
        proxy.cut_all()
        frames += [next(batches), next(batches)]
        proxy.cut_all()
        add_numbers(client, stream, 20, first=11)
        assert_frame_equal(pl.concat([*frames, *batches]), numbers(20))


@PROTOCOLS
@pytest.mark.parametrize("end", ["+", "300-0"])
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_connection_lost_within_a_reply(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    how: str,
    end: str,
    query: str,
) -> None:
    add_numbers(client, stream, 300)
    command = b"XREAD" if end == "+" else b"XRANGE"
    with Proxy(any_server.port) as proxy:
        for size in [*range(0, 60, 12), 1_234]:
            proxy.clear()
            for skip in (0, 1):
                method = proxy.cut_after if how == "cut" else proxy.reset_after
                method(size, once_seen=command, skip=skip)
            batches = follow(
                quick(proxy.url + query),
                stream,
                NUMBER,
                "-",
                end,
                batch_size=130,
                on_idle="stop",
                block_ms=1,
            )
            assert_frame_equal(pl.concat(batches), numbers(300))


def test_a_connection_lost_while_waiting(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    with Proxy(server.port) as proxy:
        batches = follow(quick(proxy.url), stream, NUMBER, "-", block_ms=0)
        with later(0.2, proxy.cut_all), later(0.3, lambda: add_numbers(client, stream, 3)):
            assert_frame_equal(next(batches), numbers(3))


def test_whole_entries_in_hand_come_at_once_after_a_loss(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    """A hundred entries are a whole page; the request for the next one loses its connection."""
    add_numbers(client, stream, 100)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XREAD", skip=1)
        batches = follow(quick(proxy.url), stream, NUMBER, "-", batch_size=500, block_ms=0)
        # Should it wait for more, then not for ever.
        with later(1.5, lambda: add_numbers(client, stream, 400, first=101)), within(1):
            assert_frame_equal(next(batches), numbers(100))


def test_a_server_that_restarts_with_its_data(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 5)
        batches = follow(server.url, "s", NUMBER, "-", block_ms=0, batch_size=3)
        assert_frame_equal(next(batches), numbers(3))
        server.restart()
        assert_frame_equal(next(batches), numbers(5, first=4))

        def act() -> None:
            server.restart()
            add_numbers(server.client(), "s", 9, first=6)

        with later(0.1, act):
            assert_frame_equal(take(batches, 3), numbers(8, first=6))


def test_a_server_that_restarts_without_its_data(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 5)
        batches = follow(server.url, "s", NUMBER, "-", block_ms=50)
        assert_frame_equal(next(batches), numbers(5))
        server.restart(persist=False)
        add_numbers(server.client(), "s", 3)
        with within(2), pytest.raises(DataLossError, match=r"3-0.*5-0"):
            next(batches)


def test_a_server_that_dies_and_later_comes_back(follow: Follow) -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 5)
        server.client().save()
        batches = follow(quick(server.url, max_retries=2), "s", NUMBER, "-", block_ms=50)
        assert_frame_equal(next(batches), numbers(5))
        server.kill()
        for _ in range(3):
            with within(2), pytest.raises(RedisConnectionError):
                next(batches)
        server.start()
        add_numbers(server.client(), "s", 7, first=6)
        assert_frame_equal(take(batches, 2), numbers(7, first=6))


def test_a_server_that_comes_up_late(follow: Follow) -> None:
    """The time to connect is that of each call, not of the iterator's life."""
    with Server("redis-6.2") as server:
        server.kill()
        connection = quick(server.url, connect_timeout=0.3)
        batches = follow(connection, "s", NUMBER, "-", block_ms=50)
        with pytest.raises(RedisConnectionError):
            next(batches)
        server.start()
        add_numbers(server.client(), "s", 3)
        time.sleep(0.4)
        assert_frame_equal(next(batches), numbers(3))


def test_an_iterator_that_is_asked_late_still_connects(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    connection = RedisConnection(any_server.url, connect_timeout=1.0, client_name="late")
    batches = follow(connection, stream, NUMBER, "-")
    time.sleep(1.2)
    assert_frame_equal(next(batches), numbers(3))


def test_each_call_has_its_retries(any_server: Server, stream: str, follow: Follow) -> None:
    """Also the one after a call that had used them up: nobody can make it spin."""
    with Proxy(any_server.port) as proxy:
        connection = quick(proxy.url, max_retries=3)
        batches = follow(connection, stream, NUMBER, "-", block_ms=10, on_idle="stop")
        proxy.refuse(1_000)
        for call in (1, 2, 3):
            with pytest.raises(RedisConnectionError):
                next(batches)
            assert proxy.connections == 4 * call


def test_a_server_that_refuses_is_not_pestered(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, max_retries=4, retry_base_delay=0.02)
        batches = follow(connection, stream, NUMBER, "-")
        assert_frame_equal(next(batches), numbers(3))
        proxy.refuse(1_000)
        proxy.cut_all()
        watch = Stopwatch()
        with pytest.raises(RedisConnectionError):
            next(batches)
        assert watch.seconds > 0.25  # 20, 40, 80 and 160 ms at least
        assert proxy.connections <= 6


def test_a_server_that_stops_within_a_reply(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(100, once_seen=b"XREAD")
        connection = RedisConnection(proxy.url, response_timeout=0.3, max_retries=0)
        batches = follow(connection, stream, NUMBER, "-", block_ms=100)
        with within(1), pytest.raises(RedisTimeoutError):
            next(batches)
        assert_frame_equal(next(batches), numbers(5))


def test_an_early_nil_makes_no_hot_loop(any_server: Server, stream: str, follow: Follow) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"*-1\r\n", once_seen=b"XREAD", times=None)
        batches = follow(proxy.url, stream, NUMBER, "-", block_ms=500, on_idle="stop")
        watch = Stopwatch()
        assert list(batches) == []
        assert 0.49 < watch.seconds < 1 * SLACK
        assert proxy.count(b"XREAD") < 40


@pytest.mark.parametrize("options", [{}, {"end_id": "9-0"}, {"batch_timeout_ms": 300}], ids=str)
def test_client_unblock_makes_no_hot_loop(
    server: Server, client: redis.Redis, stream: str, follow: Follow, options: dict[str, Any]
) -> None:
    add_numbers(client, stream, 1)

    def unblock() -> None:
        for one in client.client_list():
            if one["name"] == "unblocked":
                client.client_unblock(int(one["id"]))

    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, client_name="unblocked")
        batches = follow(connection, stream, NUMBER, "-", block_ms=0, **options)
        with later(0.5, lambda: add_numbers(client, stream, 2, first=2)), meanwhile(unblock):
            assert_frame_equal(take(batches, 2), numbers(2))
        assert sum(proxy.count(name) for name in (b"XREAD", b"XRANGE", b"XINFO")) < 120


# Streams that are lost


@pytest.mark.parametrize("flush", [False, True], ids=["del", "flushall"])
def test_a_stream_begun_anew_with_larger_ids(
    server: Server, client: redis.Redis, stream: str, follow: Follow, flush: bool
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(server.url, stream, NUMBER, "-", block_ms=20)
    assert_frame_equal(next(batches), numbers(5))

    def act() -> None:
        client.flushall() if flush else client.delete(stream)
        time.sleep(0.1)
        add_numbers(client, stream, 9, first=6)

    with later(0.1, act):
        assert_frame_equal(next(batches), numbers(9, first=6))


@pytest.mark.parametrize(
    ("start", "flush", "query"), [("-", True, ""), ("$", False, "?protocol=resp3")]
)
def test_a_stream_begun_anew_with_smaller_ids(
    server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    flush: bool,
    query: str,
    start: str,
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(server.url + query, stream, NUMBER, start, block_ms=20)
    if start == "-":
        assert_frame_equal(next(batches), numbers(5))

    def act() -> None:
        client.flushall() if flush else client.delete(stream)
        add_numbers(client, stream, 3)

    with later(0.1, act), within(2), pytest.raises(DataLossError) as raised:
        next(batches)
    for part in ("3-0", "5-0", stream):
        assert part in str(raised.value)
    # It is not forgotten.
    with within(2), pytest.raises(DataLossError):
        next(batches)


def test_a_stream_begun_anew_is_noticed_by_a_drain(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(any_server.url, stream, NUMBER, "-", block_ms=1, on_idle="stop", batch_size=5)
    assert_frame_equal(next(batches), numbers(5))
    client.delete(stream)
    add_numbers(client, stream, 3)
    with pytest.raises(DataLossError):
        next(batches)


def test_trimmed_and_deleted_entries_are_no_loss(
    server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add_numbers(client, stream, 5)
    batches = follow(server.url, stream, NUMBER, "-", block_ms=20)
    assert_frame_equal(next(batches), numbers(5))
    client.xdel(stream, "5-0", "4-0")
    client.xtrim(stream, 0, approximate=False)
    with later(0.2, lambda: add_numbers(client, stream, 7, first=6)):
        assert_frame_equal(next(batches), numbers(7, first=6))


@PROTOCOLS
def test_a_key_of_another_type(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow, query: str
) -> None:
    client.set(stream, "x")
    batches = follow(any_server.url + query, stream, NUMBER, "-", block_ms=20)
    for _ in range(2):
        with within(1), pytest.raises(WrongTypeError, match=stream):
            next(batches)
    client.delete(stream)
    add_numbers(client, stream, 3)
    assert_frame_equal(next(batches), numbers(3))

    def act() -> None:
        client.delete(stream)
        client.set(stream, "x")

    with later(0.1, act), within(2), pytest.raises(WrongTypeError):
        next(batches)


def test_a_key_of_another_type_where_the_newest_entry_is_looked_up(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.set(stream, "x")
    with pytest.raises(WrongTypeError):
        iter_stream(any_server.url, stream)


@pytest.mark.parametrize("batch_size", [1, 10, 100])
@PROTOCOLS
def test_an_entry_that_cannot_be_decoded(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    batch_size: int,
    query: str,
) -> None:
    """It is never skipped; what came before is not taken back, what comes behind waits."""
    add_numbers(client, stream, 20)
    client.xadd(stream, {"n": "x"}, id="21-0")
    add_numbers(client, stream, 400, first=22)
    batches = follow(any_server.url + query, stream, NUMBER, "-", batch_size=batch_size)
    assert_frame_equal(take(batches, 20), numbers(20))
    for _ in range(3):
        with pytest.raises(DecodeError, match="21-0"):
            next(batches)
    client.xdel(stream, "21-0")
    assert_frame_equal(next(batches), numbers(21 + batch_size, first=22))


def test_an_open_schema_keeps_its_columns_after_an_error(
    any_server: Server, client: redis.Redis, stream: str, follow: Follow
) -> None:
    add(client, stream, [("1-0", {"a": "1", "b": "2"})])
    with Proxy(any_server.port) as proxy:
        connection = quick(proxy.url, max_retries=0)
        batches = follow(connection, stream, None, "-", block_ms=50)
        assert next(batches).columns == ["_id", "_ts", "a", "b"]
        proxy.cut_all()
        with pytest.raises(RedisConnectionError):
            next(batches)
        add(client, stream, [("2-0", {"b": "3"})])
        frame = next(batches)
        assert frame.columns == ["_id", "_ts", "a", "b"]
        assert frame.row(0) == ("2-0", 2, None, "3")


# Processes


#: The event loop of a script's second argument.
MAKE_LOOP = """
import uvloop
make_loop = uvloop.new_event_loop if sys.argv[2] == "uvloop" else asyncio.new_event_loop
"""


@pytest.mark.parametrize("block_ms", [0, 60_000])
def test_ctrl_c_ends_a_wait_and_the_iterator_goes_on(
    any_server: Server, client: redis.Redis, block_ms: int
) -> None:
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        batches = redfloe.iter_stream(connection, "s", block_ms=int(sys.argv[2]))
        try:
            next(batches)
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        print(json.dumps(next(batches)["n"].to_list()), flush=True)
        sys.stdin.readline()
    """
    with python(script, any_server.url, str(block_ms)) as process:
        eventually(is_waiting(client, "ctrl-c"), seconds=8)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert hear(process) - sent < 0.5
        add_numbers(client, "s", 3)
        assert hear(process) == ["1", "2", "3"]
        finish(process)


@pytest.mark.parametrize("loop", LOOPS)
def test_ctrl_c_ends_an_event_loop(any_server: Server, client: redis.Redis, loop: str) -> None:
    script = MAKE_LOOP + textwrap.dedent("""
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        async def main():
            async for frame in redfloe.stream_batches(connection, "s", block_ms=0):
                pass
        try:
            with asyncio.Runner(loop_factory=make_loop) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
        sys.stdin.readline()
    """)
    with python(script, any_server.url, loop) as process:
        eventually(is_waiting(client, "ctrl-c"), seconds=8)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert hear(process) - sent < 0.5
        eventually(lambda: named(client, "ctrl-c") == 0, seconds=1)
        finish(process)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["closed", "dropped", "stopped"])
def test_a_loop_that_is_closed_early_makes_no_noise(
    any_server: Server, client: redis.Redis, loop: str, how: str
) -> None:
    """A wait may outlive its event loop; the entry then comes to nobody."""
    script = MAKE_LOOP + textwrap.dedent("""
        connection = redfloe.RedisConnection(sys.argv[1], client_name="early")
        how = sys.argv[3]
        loop = make_loop()
        batches = redfloe.stream_batches(connection, "s", block_ms=0)
        async def wait():
            async for frame in batches:
                pass
        if how == "closed":
            # The coroutine is driven by hand up to its wait, so that no task complains.
            async def main():
                waiting = wait()
                waiting.send(None)
                await asyncio.sleep(0.3)
                return waiting
            waiting = loop.run_until_complete(main())
        elif how == "dropped":
            async def main():
                waiting = wait()
                waiting.send(None)
                await asyncio.sleep(0.3)
                waiting.close()
            loop.run_until_complete(main())
        else:
            async def main():
                task = asyncio.ensure_future(wait())
                await asyncio.sleep(0.3)
                task.cancel()
            loop.run_until_complete(main())
        loop.close()
        print(0, flush=True)
        sys.stdin.readline()
    """)
    with python(script, any_server.url, loop, how) as process:
        assert hear(process) == 0
        add_numbers(client, "s", 3)
        time.sleep(0.1)
        finish(process)


def test_daemon_threads_that_wait_do_not_keep_the_process(
    any_server: Server, client: redis.Redis
) -> None:
    script = """
        def wait():
            connection = redfloe.RedisConnection(sys.argv[1], client_name="d")
            for frame in redfloe.iter_stream(connection, "s", block_ms=0):
                pass
        for _ in range(4):
            threading.Thread(target=wait, daemon=True).start()
        sys.stdin.readline()
        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(0.3)
        sys.modules["slow"] = type(sys)("slow")
        sys.modules["slow"].slow = Slow()  # goes last
    """
    with python(script, any_server.url) as process:
        eventually(lambda: named(client, "d") == 4, seconds=8)
        time.sleep(0.1)
        # They wake up while the interpreter is being taken down.
        with later(0.15, lambda: add_numbers(client, "s", 3)), within(5):
            finish(process)


@pytest.mark.parametrize("loop", LOOPS)
def test_daemon_threads_with_event_loops_do_not_keep_the_process(
    any_server: Server, client: redis.Redis, loop: str
) -> None:
    script = MAKE_LOOP + textwrap.dedent("""
        async def follow():
            connection = redfloe.RedisConnection(sys.argv[1], client_name="d")
            async for frame in redfloe.stream_batches(connection, "s", block_ms=0):
                pass
        for _ in range(4):
            run = lambda: make_loop().run_until_complete(follow())
            threading.Thread(target=run, daemon=True).start()
        sys.stdin.readline()
    """)
    with python(script, any_server.url, loop) as process:
        eventually(lambda: named(client, "d") == 4, seconds=8)
        time.sleep(0.1)
        with within(5):
            process.communicate("\n", timeout=8 * SLACK)
        assert process.returncode == 0


def test_a_forked_child_goes_on_and_so_does_its_parent(server: Server, client: redis.Redis) -> None:
    """Each has its own copy of the iterator; also what was still on its way is read again."""
    add_numbers(client, "s", 1_000)
    script = """
        batches = redfloe.iter_stream(sys.argv[1], "s", start_id="-", count=1000, batch_size=7)
        def rest():
            return [int(n) for frame in batches for n in frame["n"]]
        first = next(batches)
        expected = [*range(8, 1001)]
        child = os.fork()
        if child == 0:
            os._exit(0 if rest() == expected else 1)
        mine = rest()
        print(json.dumps([os.waitpid(child, 0)[1], mine == expected]), flush=True)
        sys.stdin.readline()
    """
    with python(script, server.url) as process:
        assert hear(process) == [0, True]
        finish(process)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_forked_child_goes_on_in_a_loop_of_its_own(
    any_server: Server, client: redis.Redis, loop: str
) -> None:
    add_numbers(client, "s", 1_000)
    script = MAKE_LOOP + textwrap.dedent("""
        batches = redfloe.stream_batches(sys.argv[1], "s", start_id="-", count=1000, batch_size=7)
        async def first():
            return await anext(batches)
        async def rest():
            return [int(n) async for frame in batches for n in frame["n"]]
        def run(job):
            with asyncio.Runner(loop_factory=make_loop) as runner:
                return runner.run(job)
        run(first())
        expected = [*range(8, 1001)]
        child = os.fork()
        if child == 0:
            os._exit(0 if run(rest()) == expected else 1)
        mine = run(rest())
        print(json.dumps([os.waitpid(child, 0)[1], mine == expected]), flush=True)
        sys.stdin.readline()
    """)
    with python(script, any_server.url, loop) as process:
        assert hear(process) == [0, True]
        finish(process)


def test_threads_that_wait_do_not_stop_others(any_server: Server, stream: str) -> None:
    steps = 0
    done = threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.is_set():
            steps += 1
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        assert list(iter_stream(any_server.url, stream, on_idle="stop", block_ms=400)) == []
    finally:
        done.set()
        thread.join()
    assert steps > 15
