"""Writes that are stopped: Ctrl-C, cancelled tasks, and what the exception says is in."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    OutcomeUnknownError,
    RedisConnection,
    WriteError,
    _core,
    write_stream,
)
from support.proxy import Proxy
from support.server import Server
from support.timing import later, within
from support.writes import FRAME, OWN, ROWS, check

INTERRUPTED = """
    import sys
    import polars as pl
    import redfloe

    frame = pl.DataFrame({"n": range(2_000_000)})
    try:
        print("ready", flush=True)
        redfloe.write_stream(sys.argv[1], frame, sys.argv[2])
    except KeyboardInterrupt as interrupt:
        error = interrupt.__cause__
        assert isinstance(error, redfloe.WriteError), repr(error)
        assert error.ids.null_count() == frame.height - error.rows_written
        print(error.rows_written, error.row)
"""


def test_ctrl_c_halfway(any_server: Server, client: redis.Redis, stream: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), any_server.url, stream],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    while client.xlen(stream) < 1_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    with within(5):
        output, _ = process.communicate()
    rows, row = map(int, output.split())
    assert rows == row == client.xlen(stream) < 2_000_000


def test_ctrl_c_while_the_server_is_silent(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=1)
        with later(0.3, lambda: signal.raise_signal(signal.SIGINT)), within(3):
            with pytest.raises(KeyboardInterrupt) as raised:
                write_stream(proxy.url, FRAME, stream)
    assert isinstance(raised.value.__cause__, OutcomeUnknownError)
    assert raised.value.__cause__.rows_written == 1


def test_progress_that_raises_stops_the_write(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"n": range(1_000_000)})

    def stop(rows: int) -> None:
        if rows > 0:
            raise LookupError(rows)

    with pytest.raises(LookupError) as raised:
        write_stream(any_server.url, frame, stream, progress=stop)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.rows_written == client.xlen(stream)


def test_a_cancelled_task(any_server: Server, client: redis.Redis, stream: str) -> None:
    frame = pl.DataFrame({"n": range(1_000_000)})

    async def write() -> BaseException | None:
        task = asyncio.create_task(redfloe.write_stream_async(any_server.url, frame, stream))
        while client.xlen(stream) < 1_000:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        return raised.value.__cause__

    error = asyncio.run(write())
    assert isinstance(error, WriteError)
    assert error.rows_written == client.xlen(stream) < 1_000_000


def test_a_timeout_in_an_event_loop(any_server: Server, stream: str) -> None:
    async def write() -> None:
        async with asyncio.timeout(0.2):
            await redfloe.write_stream_async(proxy.url, FRAME, stream)

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=1)
        with within(3), pytest.raises(TimeoutError):
            asyncio.run(write())


def test_what_is_not_sent_is_not_in(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Rows are encoded ahead; an error points at the first that is not in, not past those."""
    frame = pl.DataFrame({"v": ["x" * 1_000] * 60_000})

    def stop(rows: int) -> None:
        if rows > 0:
            raise LookupError

    with Proxy(any_server.port) as proxy, pytest.raises(LookupError) as raised:
        write_stream(proxy.url, frame, stream, batch_size=60_000, progress=stop)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.ids is not None
    assert error.row == error.ids.is_null().arg_max() == error.rows_written
    assert 0 < error.rows_written == client.xlen(stream) < 60_000


Arm = Callable[[Proxy], object]


def cut_for_good(proxy: Proxy) -> None:
    proxy.before(b"XADD", lambda _: proxy.refuse(10**6))
    proxy.cut_after(0, once_seen=b"XADD", skip=2)


#: Where a write can be when it is stopped: what is armed, the arguments, and what is in then.
STATES: dict[str, tuple[Arm, dict[str, Any], type[Exception], range]] = {
    "preflight": (lambda proxy: proxy.stall_after(0, once_seen=b"TYPE"), {}, WriteError, range(0)),
    "connecting again and again": (lambda proxy: proxy.refuse(10**6), {}, WriteError, range(0)),
    "opening a transaction": (
        lambda proxy: proxy.stall_after(0, once_seen=b"MULTI"),
        {"atomic": True},
        WriteError,
        range(0),
    ),
    "waiting for replies": (
        lambda proxy: proxy.stall_after(0, once_seen=b"XADD", skip=2),
        {},
        OutcomeUnknownError,
        range(2, ROWS),
    ),
    "waiting for a transaction": (
        lambda proxy: proxy.stall_after(0, once_seen=b"EXEC"),
        {"atomic": True},
        OutcomeUnknownError,
        range(ROWS),
    ),
    "retrying a row that was refused": (
        lambda proxy: proxy.replace_reply(b"-LOADING\r\n", once_seen=b"XADD", skip=2, times=None),
        {},
        WriteError,
        range(0),
    ),
    "asking what is in": (
        lambda proxy: (
            proxy.cut_after(0, once_seen=b"XADD", skip=2),
            proxy.stall_after(0, once_seen=b"XRANGE", times=None),
        ),
        {"id_column": "id"},
        OutcomeUnknownError,
        range(2, ROWS),
    ),
    "asking whether a transaction is in": (
        lambda proxy: (
            proxy.cut_after(0, once_seen=b"EXEC"),
            proxy.stall_after(0, once_seen=b"XRANGE", times=None),
        ),
        {"id_column": "id", "atomic": True},
        OutcomeUnknownError,
        range(ROWS),
    ),
    "connecting again after a lost reply": (
        cut_for_good,
        {"id_column": "id"},
        OutcomeUnknownError,
        range(2, ROWS),
    ),
}


@pytest.mark.parametrize("how", ["signal", "cancel"])
@pytest.mark.parametrize("state", STATES)
def test_a_stop_takes_a_second_at_most_in_every_state(
    any_server: Server, client: redis.Redis, stream: str, state: str, how: str
) -> None:
    arm, arguments, kind, unknown = STATES[state]
    frame = OWN if "id_column" in arguments else FRAME
    options: dict[str, Any] = {"connect_timeout": 30, "max_retries": 10**6, "retry_max_delay": 60}

    async def cancelled() -> None:
        task = asyncio.create_task(
            redfloe.write_stream_async(connection, frame, stream, **arguments)
        )
        await asyncio.sleep(0.3)
        task.cancel()
        await task

    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, **options)
        arm(proxy)
        if how == "signal":
            with later(0.3, lambda: signal.raise_signal(signal.SIGINT)), within(1.6):
                with pytest.raises(KeyboardInterrupt) as raised:
                    write_stream(connection, frame, stream, **arguments)
            error = raised.value.__cause__
        else:
            with within(1.6), pytest.raises(asyncio.CancelledError) as stopped:
                asyncio.run(cancelled())
            error = stopped.value.__cause__
        time.sleep(0.02)
    assert type(error) is kind
    assert isinstance(error, redfloe.RedfloeError)
    check(error, client, stream)
    assert error.unknown == unknown if isinstance(error, OutcomeUnknownError) else not unknown


@pytest.mark.parametrize("how", ["signal", "cancel"])
@pytest.mark.parametrize("atomic", [False, True])
def test_a_stop_that_comes_when_all_rows_are_in_says_so(
    any_server: Server, client: redis.Redis, stream: str, how: str, atomic: bool
) -> None:
    async def cancelled() -> None:
        writing = redfloe.write_stream_async(proxy.url, FRAME, stream, atomic=atomic)
        task = asyncio.create_task(writing)
        await asyncio.to_thread(sent.wait)
        task.cancel()
        await task

    def hold(number: int) -> None:
        sent.set()
        time.sleep(0.3)

    def interrupt_once_sent() -> None:
        sent.wait()
        signal.raise_signal(signal.SIGINT)

    sent = threading.Event()
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", lambda number: hold(number) if number == ROWS else None)
        if how == "signal":
            interrupt = threading.Thread(target=interrupt_once_sent)
            interrupt.start()
            with pytest.raises(KeyboardInterrupt) as raised:
                write_stream(proxy.url, FRAME, stream, atomic=atomic)
            interrupt.join()
            error = raised.value.__cause__
        else:
            with pytest.raises(asyncio.CancelledError) as stopped:
                asyncio.run(cancelled())
            error = stopped.value.__cause__
    assert isinstance(error, WriteError)
    assert str(error).startswith(f"all {ROWS} rows are in")
    assert error.row is None
    assert error.ids is not None
    assert error.ids.null_count() == 0
    check(error, client, stream)


Call = Callable[[str, str], object]

WRITES: dict[str, Call] = {
    "write": lambda url, stream: write_stream(url, FRAME, stream),
    "atomic": lambda url, stream: write_stream(url, FRAME, stream, atomic=True),
    "sink": lambda url, stream: redfloe.sink_stream(url, FRAME.lazy(), stream),
    "hashes": lambda url, stream: redfloe.write_hashes(
        url,
        FRAME.with_columns(key=pl.format("{}", "n")),
        key_column="key",
        key_prefix=f"{stream}:",
    ),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_signal_just_before_the_end_has_the_rows_as_its_cause(
    any_server: Server, stream: str, write: Call
) -> None:
    last = ROWS if write is not WRITES["hashes"] else 1

    def interrupt(number: int) -> None:
        if number == last:
            signal.raise_signal(signal.SIGINT)

    with Proxy(any_server.port) as proxy:
        proxy.before(b"HSET" if write is WRITES["hashes"] else b"XADD", interrupt)
        with pytest.raises(KeyboardInterrupt) as raised:
            write(proxy.url, stream)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.rows_written == ROWS


@pytest.mark.parametrize("name", ["write", "atomic", "hashes"])
def test_a_signal_as_the_core_returns_has_the_rows_as_its_cause(
    any_server: Server, stream: str, name: str
) -> None:
    """Python may handle it after the core's last look, in place of what the core returns."""

    def interrupt(frame: FrameType, event: str, called: object) -> None:
        if event == "c_return" and called in (_core.write_stream, _core.write_hashes):
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt) as raised:
            WRITES[name](any_server.url, stream)
    finally:
        sys.setprofile(None)
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.rows_written == ROWS


@pytest.mark.parametrize("name", ["write", "atomic", "hashes", "sink"])
def test_a_second_ctrl_c_says_that_nobody_knows(any_server: Server, stream: str, name: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"EXEC" if name == "atomic" else b"XADD")
        proxy.stall_after(0, once_seen=b"HSET")
        interrupt = lambda: signal.raise_signal(signal.SIGINT)  # noqa: E731
        with later(0.3, interrupt), later(0.5, interrupt), within(1):
            with pytest.raises(KeyboardInterrupt) as raised:
                WRITES[name](proxy.url, stream)
    error = raised.value.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert (error.rows_written, error.unknown) == (0, range(ROWS))


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("produces", [False, True])
def test_a_task_that_is_cancelled_again_keeps_its_cause(
    any_server: Server, stream: str, times: int, produces: bool
) -> None:
    async def write() -> None:
        if not produces:
            await redfloe.write_stream_async(proxy.url, FRAME, stream)
            return
        async with redfloe.StreamProducer(proxy.url, stream) as producer:
            await producer.send({"n": 1})

    async def cancelled() -> None:
        task = asyncio.create_task(write())
        while not proxy.count(b"XADD"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.02)
        await task

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD")
        with within(1.6), pytest.raises(asyncio.CancelledError) as raised:
            asyncio.run(cancelled())
    error = raised.value.__cause__
    assert isinstance(error, OutcomeUnknownError)
    assert error.unknown == range(1 if produces else ROWS)


def test_progress_that_raises_at_the_end(any_server: Server, stream: str) -> None:
    def progress(rows: int) -> None:
        raise LookupError

    with pytest.raises(LookupError) as raised:
        write_stream(any_server.url, FRAME, stream, progress=progress)
    assert isinstance(raised.value.__cause__, WriteError)
    assert raised.value.__cause__.rows_written == ROWS
