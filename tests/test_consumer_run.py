"""`StreamConsumer.run` and its end: retries, `stop`, signals, cancellation."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

from redfloe import MemoryCheckpointStore, RedisConnection, RedisTimeoutError, StreamConsumer
from support.consumers import EAGER, SHY, World, all_rows, dead_ids, letters, rows
from support.groups import DRAIN, ME, pending
from support.loops import LOOPS
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK, Stopwatch, eventually, later, within

pytestmark = pytest.mark.timeout(30)

DEAD: dict[str, Any] = {"dead_letter": "dead"}
#: Retries that take no time.
QUICK: dict[str, Any] = {"retry_base_delay": 0.0}
#: A pause that no test waits for.
SLOW: dict[str, Any] = {"retry_base_delay": 60.0, "retry_max_delay": 60.0}


class Handler:
    """Remembers what it was called with; raises where some entries are in the batch."""

    def __init__(self, *bad: int, error: type[Exception] = ZeroDivisionError) -> None:
        self.bad = {*bad}
        self.error = error
        self.calls: list[list[int]] = []
        self.done: list[int] = []

    def __call__(self, batch: Any) -> None:
        self.calls.append(rows(batch))
        bad = self.bad & {*rows(batch)}
        if bad:
            raise self.error(f"bad {min(bad)}")
        self.done += rows(batch)


def blocked(client: redis.Redis) -> int:
    """How many clients the server has waiting."""
    number: int = client.info("clients")["blocked_clients"]
    return number


# Retries


def test_run_acknowledges_each_batch(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 7)
    handler = Handler()
    consumer = world.consumer(server.url, stream, batch_size=3, **ME, **DRAIN)
    consumer.run(handler)
    assert handler.calls == [[1, 2, 3], [4, 5, 6], [7]]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 7


def test_a_handler_is_tried_again_with_pauses(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    calls: list[float] = []

    def handle(_: Any) -> None:
        calls.append(time.monotonic())
        if len(calls) < 3:
            raise ZeroDivisionError

    world.consumer(any_server.url, stream, **ME, **DRAIN).run(handle, retry_base_delay=0.1)
    assert len(calls) == 3
    # With half of the pause as jitter.
    assert calls[1] - calls[0] >= 0.05
    assert calls[2] - calls[1] >= 0.1
    assert pending(client, stream) == []


def test_only_the_bad_entries_of_a_batch_fail(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 40)
    handler = Handler(5, 11, 17)
    options: dict[str, Any] = {"batch_size": 16, **DEAD, **ME, **DRAIN}
    consumer = world.consumer(server.url, stream, **options)
    consumer.run(handler, attempts=2, **QUICK)
    assert handler.done == [n for n in range(1, 41) if n not in handler.bad]
    assert dead_ids(client) == ["5-0", "11-0", "17-0"]
    assert letters(client)[0][b"_dead_reason"] == b"ZeroDivisionError: bad 5"
    assert pending(client, stream) == []
    assert (consumer.stats.dead_lettered, consumer.stats.acknowledged) == (3, 37)


class Untold(Exception):  # noqa: N818 - it is one of the handler's
    """Its text cannot be made."""

    def __str__(self) -> str:
        raise LookupError


class NoText(Exception):  # noqa: N818
    def __str__(self) -> str:
        text: Any = 5
        return text  # type: ignore[no-any-return] # on purpose


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("\ud800 \0"), b"ValueError: \\ud800 \0"),
        (Untold(), b"Untold: (its text raised LookupError)"),
        (NoText(), b"NoText: (its text raised TypeError)"),
    ],
)
def test_whatever_an_exception_says_only_its_entry_fails(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    error: Exception,
    reason: bytes,
) -> None:
    add_numbers(client, stream, 5)
    done: list[int] = []

    def handle(batch: Any) -> None:
        if 3 in rows(batch):
            raise error
        done.extend(rows(batch))

    consumer = world.consumer(any_server.url, stream, **{**DEAD, **ME, **DRAIN})
    consumer.run(handle, attempts=1, **QUICK)
    assert done == [1, 2, 4, 5]
    assert [letter[b"_dead_reason"] for letter in letters(client)] == [reason]
    assert pending(client, stream) == []


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_without_a_dead_letter_stream_the_exception_is_raised(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 9)
    handler = Handler(5)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"batch_size": 3, "checkpoint_store": store, **member, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)
    with pytest.raises(ZeroDivisionError, match="bad 5") as raised:
        consumer.run(handler, **QUICK)
    [note] = raised.value.__notes__
    assert "4-0" in note
    assert f"stream {stream}" in note
    assert ("group g" in note) is bool(member)
    assert handler.calls == [[1, 2, 3]] + [[4, 5, 6]] * 3
    if member:
        assert pending(client, stream) == [4, 5, 6]
    # Once it is mended it goes on there.
    handler = Handler()
    consumer.run(handler)
    assert handler.done == [4, 5, 6, 7, 8, 9]


def test_policies_by_exception(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 6)
    policies: Any = {KeyError: "fail", LookupError: "raise", ValueError: "retry"}
    options: dict[str, Any] = {"batch_size": 2, **DEAD, **ME, **DRAIN}

    handler = Handler(1, error=KeyError)
    world.consumer(any_server.url, stream, **options).run(handler, on_exception=policies, **SLOW)
    # Without a pause, which would be a minute.
    assert handler.calls == [[1, 2], [1], [2], [3, 4], [5, 6]]
    assert dead_ids(client) == ["1-0"]

    add_numbers(client, stream, 8, first=7)
    handler = Handler(8, error=IndexError)
    with pytest.raises(IndexError):
        world.consumer(any_server.url, stream, **options).run(handler, on_exception=policies)
    assert handler.calls == [[7, 8]]
    assert pending(client, stream) == [7, 8]

    handler = Handler(8, error=ValueError)
    consumer = world.consumer(any_server.url, stream, **options)
    consumer.run(handler, attempts=2, on_exception=policies, **QUICK)
    assert handler.calls == [[7, 8], [7, 8], [7], [8]]
    assert dead_ids(client) == ["1-0", "8-0"]


def test_with_max_deliveries_a_failed_entry_is_delivered_so_often(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 8)
    handler = Handler(5)
    options: dict[str, Any] = {"batch_size": 4, "max_deliveries": 3, **DEAD, **EAGER, **ME}
    # The claims come within the poll.
    consumer = world.consumer(server.url, stream, on_idle="stop", block_ms=300, **options)
    consumer.run(handler, attempts=1)
    assert handler.done == [1, 2, 3, 4, 6, 7, 8] or sorted(handler.done) == [1, 2, 3, 4, 6, 7, 8]
    assert sum(5 in call for call in handler.calls if len(call) == 1) == 3
    [letter] = letters(client)
    assert letter[b"_dead_reason"] == b"delivered 3 times, of at most 3"
    assert pending(client, stream) == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"retry_base_delay": -1}, ValueError),
        ({"retry_max_delay": -1}, ValueError),
        ({"on_exception": {ValueError: "x"}}, ValueError),
        ({"on_exception": {5: "retry"}}, TypeError),
    ],
    ids=str,
)
def test_bad_arguments_raise_at_once(
    world: World, options: dict[str, Any], error: type[Exception]
) -> None:
    """Before there is a connection, which this address would refuse."""
    consumer = world.consumer("redis://127.0.0.1:1", "s", **ME)
    with pytest.raises(error):
        consumer.run(Handler(), **options)


@pytest.mark.parametrize("policy", [None, {StopIteration: "raise"}])
def test_a_stop_iteration_of_the_handler_is_an_exception_like_any_other(
    any_server: Server, client: redis.Redis, stream: str, policy: Any
) -> None:
    add_numbers(client, stream, 2)

    def handler(batch: Any) -> None:
        raise StopIteration("nothing left")

    consumer = StreamConsumer(any_server.url, stream, **ME, **DRAIN)
    with pytest.raises(StopIteration, match="nothing left"):
        consumer.run(handler, attempts=1, on_exception=policy)
    assert pending(client, stream) == [1, 2]

    async def started(batch: Any) -> None:
        raise StopIteration("nothing left")

    # No coroutine raises one: Python makes it a RuntimeError, whose cause it is.
    with pytest.raises(RuntimeError) as raised:
        asyncio.run(consumer.run_async(started, attempts=1))
    assert isinstance(raised.value.__cause__, StopIteration)


# Handlers of the other world


async def awaited(_: Any) -> None:
    pytest.fail("was run")


def generated(_: Any) -> Iterator[None]:
    yield pytest.fail("was run")


async def generated_async(_: Any) -> AsyncIterator[None]:
    yield pytest.fail("was run")


class Called:
    """An object whose call gives a coroutine, and a method that does."""

    async def __call__(self, _: Any) -> None:
        pytest.fail("was run")

    async def method(self, _: Any) -> None:
        pytest.fail("was run")


def decorated(batch: Any) -> Any:
    return awaited(batch)


ASYNC_HANDLERS = {
    "function": awaited,
    "partial": functools.partial(awaited),
    "object": Called(),
    "partial of an object": functools.partial(Called()),
    "method": Called().method,
    "partial of a partial": functools.partial(functools.partial(Called().method)),
}
GENERATORS = {"generator": generated, "async generator": functools.partial(generated_async)}


@pytest.mark.parametrize("handler", ASYNC_HANDLERS.values(), ids=list(ASYNC_HANDLERS))
def test_run_refuses_an_async_handler_before_it_reads(handler: Any) -> None:
    """Before there is a connection, which this address would refuse."""
    consumer = StreamConsumer("redis://127.0.0.1:1", "s", **ME)
    with pytest.raises(TypeError, match="use run_async"):
        consumer.run(handler)


@pytest.mark.parametrize("handler", [*GENERATORS.values(), 5], ids=[*GENERATORS, "no callable"])
def test_no_handler_whose_body_a_call_does_not_run(handler: Any) -> None:
    consumer = StreamConsumer("redis://127.0.0.1:1", "s", **ME)
    with pytest.raises(TypeError, match="handler"):
        consumer.run(handler)
    with pytest.raises(TypeError, match="handler"):
        asyncio.run(consumer.run_async(handler))


class Lazy:
    """Something to be awaited that is no coroutine."""

    def __await__(self) -> Iterator[Any]:
        yield pytest.fail("was run")


RESULTS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "coroutine": (decorated, "counted returned something.*use run_async"),
    "awaitable": (lambda _: Lazy(), "use run_async"),
    "generator": (generated, "has not run"),
    "async generator": (generated_async, "has not run"),
}


@pytest.mark.parametrize(("handler", "message"), RESULTS.values(), ids=list(RESULTS))
def test_a_result_to_be_awaited_leaves_the_batch_pending(
    any_server: Server, client: redis.Redis, stream: str, handler: Any, message: str
) -> None:
    """It is no failure of the entries: nothing is retried, halved or dead-lettered."""
    add_numbers(client, stream, 4)
    calls: list[list[int]] = []

    def counted(batch: Any) -> Any:
        calls.append(rows(batch))
        return handler(batch)

    options: dict[str, Any] = {"max_deliveries": 2, "batch_size": 2, **DEAD, **ME, **DRAIN}
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **options)
    with pytest.raises(TypeError, match=message):
        consumer.run(counted, on_exception={TypeError: "fail"}, **QUICK)
    assert calls == [[1, 2]]
    assert pending(client, stream) == [1, 2]
    assert letters(client) == []
    gc.collect()  # a coroutine that was never awaited would warn, which is an error here


@pytest.mark.parametrize("result", [None, 5, "done"])
@pytest.mark.parametrize("loop", LOOPS.values(), ids=list(LOOPS))
def test_a_result_that_is_not_to_be_awaited_leaves_the_batch_pending(
    any_server: Server, client: redis.Redis, stream: str, loop: Any, result: Any
) -> None:
    add_numbers(client, stream, 4)
    calls: list[list[int]] = []

    def handle(batch: Any) -> Any:
        calls.append(rows(batch))
        return result

    options: dict[str, Any] = {"max_deliveries": 2, "batch_size": 2, **DEAD, **ME, **DRAIN}
    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **options)
    with (
        asyncio.Runner(loop_factory=loop) as runner,
        pytest.raises(TypeError, match=f"returned {type(result).__name__}.*or use run$"),
    ):
        runner.run(consumer.run_async(handle, on_exception={TypeError: "fail"}, **QUICK))
    assert calls == [[1, 2]]
    assert pending(client, stream) == [1, 2]
    assert letters(client) == []


def test_run_async_takes_whatever_gives_an_awaitable(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    handled: list[list[int]] = []

    async def handle(batch: Any) -> None:
        handled.append(rows(batch))

    handlers: list[Any] = [
        handle,
        functools.partial(handle),
        lambda batch: asyncio.ensure_future(handle(batch)),
    ]
    for number, handler in enumerate(handlers):
        consumer = StreamConsumer(
            any_server.url, stream, f"g{number}", "me", schema=NUMBER, **DRAIN
        )
        asyncio.run(consumer.run_async(handler))
        assert consumer.stats.acknowledged == 3
    assert handled == [[1, 2, 3]] * 3


def test_a_type_error_of_the_handler_s_own_is_tried_again(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 3)
    handler = Handler(2, error=TypeError)
    consumer = world.consumer(any_server.url, stream, **DEAD, **ME, **DRAIN)
    consumer.run(handler, attempts=2, **QUICK)
    assert handler.done == [1, 3]
    assert dead_ids(client) == ["2-0"]


# Stop


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_stop_from_the_handler_finishes_the_batch(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 9)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"batch_size": 3, "checkpoint_store": store, **member}
    consumer = world.consumer(any_server.url, stream, block_ms=0, **options)
    handled: list[int] = []

    def handle(batch: Any) -> None:
        handled.extend(rows(batch))
        if 4 in rows(batch):
            consumer.stop()

    consumer.run(handle)
    assert handled == [1, 2, 3, 4, 5, 6]
    if member:
        assert pending(client, stream) == []
        assert consumer.stats.acknowledged == 6
    # It may start again.
    with consumer, later(0.05, lambda: add_numbers(client, stream, 10, first=10)):
        assert rows(next(consumer)) == [7, 8, 9]
        assert rows(next(consumer)) == [10]


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
def test_stop_from_another_thread_ends_a_wait(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 3)
    consumer = world.consumer(any_server.url, stream, block_ms=0, **SHY, **member)

    def when_it_waits() -> None:
        eventually(lambda: blocked(client) > 0)
        consumer.stop()

    watch = Stopwatch()
    handler = Handler()
    with later(0, when_it_waits):
        consumer.run(handler)
    assert watch.seconds < 5 * SLACK
    assert handler.done == [1, 2, 3]
    if member:
        assert pending(client, stream) == []
    eventually(lambda: blocked(client) == 0)


def test_stop_from_another_task(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)

    async def main() -> list[int]:
        consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, block_ms=0, **ME)
        handled: list[int] = []

        async def handle(batch: Any) -> None:
            handled.extend(rows(batch))

        async with asyncio.timeout(10 * SLACK), asyncio.TaskGroup() as group:
            group.create_task(consumer.run_async(handle))
            while not blocked(client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            consumer.stop()
        return handled

    for loop in LOOPS.values():
        with asyncio.Runner(loop_factory=loop) as runner:
            client.delete(stream)
            add_numbers(client, stream, 3)
            assert runner.run(main()) == [1, 2, 3]
            assert pending(client, stream) == []


def test_a_stop_before_the_loop_is_not_lost(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Such as one that comes while the thread which runs the loop is yet to start."""
    add_numbers(client, stream, 3)
    consumer = world.consumer(any_server.url, stream, block_ms=0, **ME)
    consumer.stop()
    handler = Handler()
    consumer.run(handler)
    assert handler.done == []
    consumer.stop()
    assert all_rows(consumer) == []


@pytest.mark.parametrize("member", [{}, {**ME, **DEAD}], ids=["alone", "group"])
def test_stop_in_a_pause_leaves_the_batch_as_it_was(
    any_server: Server, client: redis.Redis, stream: str, world: World, member: dict[str, Any]
) -> None:
    add_numbers(client, stream, 6)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"batch_size": 3, "checkpoint_store": store, **member}
    consumer = world.consumer(any_server.url, stream, block_ms=0, **options)
    handler = Handler(4)

    def when_it_pauses() -> None:
        eventually(lambda: len(handler.calls) == 2)
        consumer.stop()

    with within(8), later(0, when_it_pauses):
        consumer.run(handler, **SLOW)
    assert handler.calls == [[1, 2, 3], [4, 5, 6]]
    if member:
        assert pending(client, stream) == [4, 5, 6]
        assert letters(client) == []
    assert store.load(f"{stream}:g:me" if member else stream) == "3-0"


@pytest.mark.parametrize("how", ["silent", "gone"])
def test_a_stop_takes_one_response_timeout_where_the_server_does_not_answer(
    any_server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    """Not one for the end of the loop and another for that of the `with`, nor all retries."""
    add_numbers(client, stream, 4)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, response_timeout=1.5, max_retries=1_000)
        consumer = world.consumer(connection, stream, batch_size=2, **ME)

        def work() -> None:
            with consumer:
                assert rows(next(consumer)) == [1, 2]
                if how == "silent":
                    proxy.stall_after(0, once_seen=b"XACK", times=None)
                else:
                    proxy.stop()
                consumer.stop()
                next(consumer)

        watch = Stopwatch()
        with pytest.raises(RedisTimeoutError, match=r"1\.5s"):
            work()
        assert watch.seconds < 2.2 + 0.1 * SLACK
    consumer = world.consumer(any_server.url, stream, **ME, **DRAIN)
    # Whether or not the acknowledgement arrived, nothing is lost.
    assert all_rows(consumer) in ([1, 2, 3, 4], [3, 4])


def test_what_is_raised_in_the_handler_that_is_no_exception_passes(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)

    def handle(_: Any) -> None:
        raise KeyboardInterrupt

    consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, **DEAD, **ME)
    with pytest.raises(KeyboardInterrupt):
        consumer.run(handle)
    assert pending(client, stream) == [1, 2, 3]


@pytest.mark.parametrize("loop", LOOPS.values(), ids=list(LOOPS))
@pytest.mark.parametrize("where", ["wait", "handler", "pause"])
def test_cancellation(
    any_server: Server, client: redis.Redis, stream: str, loop: Any, where: str
) -> None:
    add_numbers(client, stream, 3)

    async def main() -> None:
        consumer = StreamConsumer(any_server.url, stream, schema=NUMBER, block_ms=0, **DEAD, **ME)
        entered = asyncio.Event()

        async def handle(_: Any) -> None:
            entered.set()
            if where == "handler":
                await asyncio.sleep(60)
            if where == "pause":
                raise ZeroDivisionError

        task = asyncio.create_task(consumer.run_async(handle, **SLOW))
        async with asyncio.timeout(10 * SLACK):
            await entered.wait()
            while where == "wait" and not blocked(client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert pending(client, stream) == ([] if where == "wait" else [1, 2, 3])
    assert not client.exists("dead")


# Signals


PROGRAM = """
import asyncio, signal, sys, time
import polars as pl
import uvloop
import redfloe

url, stream, world, where = sys.argv[1:]
numbers = signal.SIGTERM, signal.SIGINT

def before(*_):
    print("theirs", flush=True)

def say(batch):
    print("batch", *batch.frame["n"], flush=True)

consumer = redfloe.StreamConsumer(
    url, stream, "g", "me", schema={"n": pl.Int64}, block_ms=0, batch_size=2, handle_signals=True
)

def handle(batch):
    say(batch)
    if where == "handler" and 1 in batch.frame["n"]:
        end = time.monotonic() + 10
        while not consumer._stopped and time.monotonic() < end:
            time.sleep(0.01)

    while where == "hang":
        time.sleep(0.01)
        tell()
    if where == "slow":
        time.sleep(0.01)
        while not consumer._stopped:
            time.sleep(0.01)
        tell()
        time.sleep(0.5)

told = []

def tell():
    if consumer._stopped and not told:
        print("stopping", flush=True)
        told.append(True)

async def handle_async(batch):
    say(batch)
    while where == "block":  # the event loop
        time.sleep(0.01)
        tell()
    while where == "hang":
        await asyncio.sleep(0.01)
        tell()
    if where == "slow":
        while not consumer._stopped:
            await asyncio.sleep(0.01)
        tell()
        await asyncio.sleep(0.5)
    if where == "handler" and 1 in batch.frame["n"]:
        for _ in range(1_000):
            if consumer._stopped:
                break
            await asyncio.sleep(0.01)

async def main():
    during = [signal.getsignal(number) for number in numbers]
    await consumer.run_async(handle_async)
    print("restored", [signal.getsignal(number) for number in numbers] == during, flush=True)

signal.signal(signal.SIGTERM, before)
if world == "sync":
    during = [signal.getsignal(number) for number in numbers]
    consumer.run(handle)
    print("restored", [signal.getsignal(number) for number in numbers] == during, flush=True)
elif world == "asyncio":
    asyncio.run(main())
else:
    uvloop.run(main())
print("acknowledged", consumer.stats.acknowledged, flush=True)
"""


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@pytest.mark.parametrize("world", ["sync", "asyncio", "uvloop"])
@pytest.mark.parametrize("where", ["handler", "wait"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_the_loop(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: str,
    where: str,
    number: signal.Signals,
) -> None:
    add_numbers(client, stream, 4)
    with program(any_server.url, stream, world, where) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "batch 1 2\n"
        if where == "wait":
            assert process.stdout.readline() == "batch 3 4\n"
            eventually(lambda: blocked(client) > 0)
        process.send_signal(number)
        rest, _ = process.communicate(timeout=15 * SLACK)
    handled = 2 if where == "handler" else 4
    assert rest == f"restored True\nacknowledged {handled}\n"
    assert process.returncode == 0
    assert pending(client, stream) == []


INTERRUPTED = -signal.SIGINT


@pytest.mark.parametrize(
    ("world", "where", "numbers"),
    [
        ("sync", "hang", [signal.SIGINT, signal.SIGINT]),
        ("sync", "hang", [signal.SIGTERM, signal.SIGINT]),
        ("asyncio", "hang", [signal.SIGINT, signal.SIGINT]),
        ("asyncio", "hang", [signal.SIGTERM, signal.SIGINT]),
        ("uvloop", "hang", [signal.SIGINT, signal.SIGINT]),
        # Nothing can be cancelled in an event loop that is blocked.
        ("asyncio", "block", [signal.SIGINT, signal.SIGINT, signal.SIGINT]),
    ],
    ids=str,
)
def test_a_second_ctrl_c_interrupts_a_handler_that_hangs(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: str,
    where: str,
    numbers: list[signal.Signals],
) -> None:
    add_numbers(client, stream, 4)
    with program(any_server.url, stream, world, where) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "batch 1 2\n"
        first, *others = numbers
        process.send_signal(first)
        assert process.stdout.readline() == "stopping\n"
        assert process.poll() is None
        for number in others:
            # A signal that is sent before the one before has been handled merges with it.
            process.send_signal(number)
            time.sleep(0.1)
        with within(5):
            rest, _ = process.communicate(timeout=15 * SLACK)
    assert rest == ""
    assert process.returncode == INTERRUPTED
    # The handler was not done with its batch.
    assert pending(client, stream) == [1, 2]


@pytest.mark.parametrize("world", ["sync", "asyncio", "uvloop"])
def test_a_second_ctrl_c_interrupts_an_end_that_hangs(
    any_server: Server, client: redis.Redis, stream: str, world: str
) -> None:
    """The server does not answer the last acknowledgement."""
    add_numbers(client, stream, 2)
    with Proxy(any_server.port) as proxy, program(proxy.url, stream, world, "handler") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "batch 1 2\n"
        proxy.stall_after(0, once_seen=b"XACK", times=None)
        process.send_signal(signal.SIGINT)
        eventually(lambda: proxy.count(b"XACK") > 0)
        process.send_signal(signal.SIGINT)
        with within(3):
            process.wait(timeout=15 * SLACK)
        assert process.returncode == INTERRUPTED


@pytest.mark.parametrize("world", ["sync", "asyncio", "uvloop"])
def test_a_second_sigterm_lets_the_handler_finish(
    any_server: Server, client: redis.Redis, stream: str, world: str
) -> None:
    """Process groups and supervisors send it more than once."""
    add_numbers(client, stream, 4)
    with program(any_server.url, stream, world, "slow") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "batch 1 2\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopping\n"
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=15 * SLACK)
    assert rest == "restored True\nacknowledged 2\n"
    assert process.returncode == 0
    assert pending(client, stream) == []


def test_signals_are_for_the_main_thread(any_server: Server, stream: str) -> None:
    consumer = StreamConsumer(any_server.url, stream, handle_signals=True, **ME, **DRAIN)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            consumer.run(Handler())
        except ValueError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert len(raised) == 1
