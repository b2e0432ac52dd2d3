"""What goes wrong while a write is running, and that the error says exactly what is in."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    AuthenticationError,
    OutcomeUnknownError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    WriteError,
    write_stream,
)
from support.clients import quick
from support.proxy import Proxy, ScriptedServer
from support.secrets import with_password
from support.server import Server
from support.timing import later, within

ROWS = 6
FRAME = pl.DataFrame({"n": range(ROWS)})
OWN = FRAME.with_columns(id=pl.format("{}-0", pl.col("n") + 1))


def stored(client: redis.Redis, stream: str) -> list[int]:
    """Give the rows that the stream holds, and check that XLEN says the same."""
    found: Any = client.xrange(stream)
    assert client.xlen(stream) == len(found)
    return [int(fields[b"n"]) for _, fields in found]


def check(error: redfloe.RedfloeError, client: redis.Redis, stream: str) -> None:
    """Compare what an error says with what the stream holds."""
    assert isinstance(error, WriteError | OutcomeUnknownError)
    found: Any = client.xrange(stream)
    there = {entry_id.decode(): int(fields[b"n"]) for entry_id, fields in found}
    assert error.ids is not None
    said = {entry_id: row for row, entry_id in enumerate(error.ids) if entry_id is not None}
    assert error.rows_written == len(said)
    assert said.items() <= there.items()
    rest = there.keys() - said.keys()
    unknown = error.unknown if isinstance(error, OutcomeUnknownError) else range(0)
    assert {there[entry_id] for entry_id in rest} <= {*unknown}
    assert error.row not in said.values()


# Lost connections


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("skip", range(ROWS))
def test_a_lost_reply_leaves_no_duplicate(
    any_server: Server, client: redis.Redis, stream: str, skip: int, how: str, batch_size: int
) -> None:
    """After row `skip` was executed its answer is lost, in front of it or within it."""
    for size in (0, 1, 7):
        with Proxy(any_server.port) as proxy:
            arm = proxy.cut_after if how == "cut" else proxy.reset_after
            arm(size, once_seen=b"XADD", skip=skip)
            with pytest.raises(OutcomeUnknownError) as raised:
                write_stream(quick(proxy.url), FRAME, stream, batch_size=batch_size)
            assert proxy.connections == 1
        time.sleep(0.02)  # what the proxy had passed on is executed
        check(raised.value, client, stream)
        assert raised.value.rows_written <= skip
        assert raised.value.row == raised.value.unknown.start == raised.value.rows_written
        assert skip in raised.value.unknown
        client.delete(stream)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("how", ["cut", "reset"])
@pytest.mark.parametrize("skip", range(ROWS))
def test_rows_with_their_own_ids_are_resumed(
    any_server: Server, client: redis.Redis, stream: str, skip: int, how: str, batch_size: int
) -> None:
    for size in (0, 1, 7):
        with Proxy(any_server.port) as proxy:
            arm = proxy.cut_after if how == "cut" else proxy.reset_after
            arm(size, once_seen=b"XADD", skip=skip, times=2)
            written = write_stream(
                quick(proxy.url), OWN, stream, id_column="id", batch_size=batch_size
            )
        assert written.to_list() == OWN["id"].to_list()
        assert stored(client, stream) == [*range(ROWS)]
        client.delete(stream)


@pytest.mark.parametrize("skip", range(ROWS))
def test_a_producer_s_rows_are_sent_again(redis810: Server, stream: str, skip: int) -> None:
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        for size in (0, 5):
            # The first XADD only asks whether the server knows producers.
            proxy.cut_after(size, once_seen=b"XADD", skip=skip + 1)
            written = write_stream(quick(proxy.url), FRAME, stream, idempotent="me")
            assert stored(client, stream) == [*range(ROWS)]
            found: Any = client.xrange(stream)
            assert written.to_list() == [entry_id.decode() for entry_id, _ in found]
            client.delete(stream)


def test_a_producer_on_a_server_that_knows_none(
    redis70: Server, client: redis.Redis, stream: str
) -> None:
    write_stream(redis70.url, FRAME, stream, idempotent="me")
    assert stored(client, stream) == [*range(ROWS)]
    with Proxy(redis70.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=3)
        with pytest.raises(OutcomeUnknownError):
            write_stream(quick(proxy.url), FRAME, f"{stream}-2", idempotent="me")


def test_a_producer_has_no_more_rows_in_flight_than_are_recognised(
    redis810: Server, stream: str
) -> None:
    frame = pl.DataFrame({"n": range(1_000)})
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=500)
        write_stream(quick(proxy.url), frame, stream, idempotent="me")
        assert stored(client, stream) == [*range(1_000)]
        # The same producer, another write: nothing is taken for a row of before.
        write_stream(redis810.url, frame, stream, idempotent="me")
        assert client.xlen(stream) == 2_000


def test_timestamps_are_resumed_where_redfloe_numbers_them(redis62: Server, stream: str) -> None:
    frame = pl.DataFrame({"n": range(ROWS), "at": [5] * ROWS})
    with redis62.client() as client, Proxy(redis62.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=3)
        written = write_stream(quick(proxy.url), frame, stream, timestamp_column="at")
        assert written.to_list() == [f"5-{n}" for n in range(ROWS)]
        assert stored(client, stream) == [*range(ROWS)]


def test_a_row_that_came_through_late_is_recognised(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """A command that lay in the old connection is executed after the stream was asked."""

    def act(number: int) -> None:
        if number == 1:
            client.xdel(stream, "3-0")  # as if it was not there yet
        else:
            client.execute_command("XSETID", stream, "2-0")
            client.xadd(stream, {"n": 2}, id="3-0")

    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        proxy.before(b"XRANGE", act)
        written = write_stream(quick(proxy.url), OWN, stream, id_column="id", batch_size=1)
        assert proxy.count(b"XRANGE") == 2
    assert written.null_count() == 0
    assert stored(client, stream) == [*range(ROWS)]


def test_a_row_that_was_removed_meanwhile(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """It was in, or it was not: nobody knows."""
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        proxy.before(b"XRANGE", lambda _: client.xdel(stream, "3-0"))
        with pytest.raises(OutcomeUnknownError) as raised:
            write_stream(quick(proxy.url), OWN, stream, id_column="id", batch_size=1)
    assert raised.value.unknown == range(2, 3)
    assert stored(client, stream) == [0, 1]


def test_a_connection_that_cannot_be_had_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", lambda _: proxy.refuse(100))
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        with pytest.raises(OutcomeUnknownError) as raised:
            write_stream(quick(proxy.url), OWN, stream, id_column="id")
    time.sleep(0.02)
    check(raised.value, client, stream)


def test_no_server(stream: str) -> None:
    with pytest.raises(RedisConnectionError):
        write_stream(quick("redis://127.0.0.1:1", max_retries=1), FRAME, stream)


def test_a_connection_lost_before_the_first_row(any_server: Server, stream: str) -> None:
    with any_server.client() as client, Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"TYPE", times=2)
        write_stream(quick(proxy.url), FRAME, stream)
        assert stored(client, stream) == [*range(ROWS)]


def test_a_silent_server(any_server: Server, client: redis.Redis, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=2)
        connection = RedisConnection(proxy.url, response_timeout=0.2)
        with within(2), pytest.raises(OutcomeUnknownError, match="did not answer") as raised:
            write_stream(connection, FRAME, stream)
    check(raised.value, client, stream)
    assert raised.value.rows_written == 2
    assert raised.value.unknown == range(2, ROWS)
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"TYPE")
        with pytest.raises(RedisTimeoutError):
            write_stream(RedisConnection(proxy.url, response_timeout=0.2), FRAME, stream)


def test_a_silent_server_is_asked_for_rows_with_their_own_ids(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=2)
        connection = quick(proxy.url, response_timeout=0.2)
        written = write_stream(connection, OWN, stream, id_column="id")
    assert written.to_list() == OWN["id"].to_list()
    assert stored(client, stream) == [*range(ROWS)]


def test_a_frozen_server_wakes_up_while_it_is_asked(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """It takes the rows that were sent before, and refuses them when they are sent again."""
    thaw = threading.Timer(0.7, any_server.resume)

    def freeze(number: int) -> None:
        if number == 3:
            any_server.pause()
            thaw.start()

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", freeze)
        connection = quick(proxy.url, response_timeout=0.5)
        written = write_stream(connection, OWN, stream, id_column="id")
    thaw.join()
    assert written.to_list() == OWN["id"].to_list()
    assert stored(client, stream) == [*range(ROWS)]


def test_a_server_that_stays_silent(any_server: Server, client: redis.Redis, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XADD", skip=2)
        proxy.stall_after(0, once_seen=b"XRANGE", times=None)
        connection = quick(proxy.url, response_timeout=0.2)
        with within(3), pytest.raises(OutcomeUnknownError, match="did not answer") as raised:
            write_stream(connection, OWN, stream, id_column="id")
    check(raised.value, client, stream)
    assert raised.value.unknown == range(2, ROWS)


def test_a_silent_server_recognises_a_producer_s_rows(redis810: Server, stream: str) -> None:
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        # The first XADD only asks whether the server knows producers.
        proxy.stall_after(0, once_seen=b"XADD", skip=3)
        connection = quick(proxy.url, response_timeout=0.2)
        write_stream(connection, FRAME, stream, idempotent="me")
        assert stored(client, stream) == [*range(ROWS)]


def test_a_large_write_through_small_pieces(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    frame = pl.DataFrame({"n": range(5_000)})
    with Proxy(any_server.port) as proxy:
        proxy.trickle(3)
        written = write_stream(proxy.url, frame, stream, batch_size=700)
    assert written.n_unique() == 5_000
    assert stored(client, stream) == [*range(5_000)]


# Rows that the server refuses


def test_a_refused_row_in_the_middle(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Rows behind it were sent already: the error says which are in."""
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD", skip=2)
        with pytest.raises(WriteError, match="row 2 was refused, 5 of 6 rows are in") as raised:
            write_stream(proxy.url, FRAME, stream)
    check(raised.value, client, stream)
    assert raised.value.row == 2
    assert raised.value.code == "ERR"
    assert stored(client, stream) == [0, 1, 3, 4, 5]
    with Proxy(any_server.port) as proxy:
        client.delete(stream)
        proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD", skip=2)
        with pytest.raises(WriteError, match="2 of 6") as raised:
            write_stream(proxy.url, FRAME, stream, batch_size=1)
    assert raised.value.ids is not None
    rest = FRAME.filter(raised.value.ids.is_null())
    write_stream(any_server.url, rest, stream)
    assert stored(client, stream) == [*range(ROWS)]


def test_somebody_else_s_id_is_larger(any_server: Server, client: redis.Redis, stream: str) -> None:
    def overtake(number: int) -> None:
        if number == 4:
            client.xadd(stream, {"n": 99}, id="4-5")

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", overtake)
        with pytest.raises(WriteError, match="equal or smaller") as raised:
            write_stream(proxy.url, OWN, stream, id_column="id", batch_size=1)
    assert raised.value.row == 3
    assert raised.value.rows_written == 3
    assert stored(client, stream) == [0, 1, 2, 99]


@pytest.mark.parametrize(
    "reply", [b"-READONLY replica\r\n", b"-OOM full\r\n", b"-LOADING wait\r\n"]
)
def test_what_time_mends_is_waited_for(
    any_server: Server, client: redis.Redis, stream: str, reply: bytes
) -> None:
    with Proxy(any_server.port) as proxy:
        # Everything from row 2 on, and again.
        proxy.replace_reply(reply, once_seen=b"XADD", skip=2, times=2 * (ROWS - 2))
        write_stream(quick(proxy.url), FRAME, stream)
    assert stored(client, stream) == [*range(ROWS)]


def test_what_time_does_not_mend_in_time(any_server: Server, stream: str) -> None:
    with any_server.client() as client, Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-LOADING wait\r\n", once_seen=b"XADD", skip=2, times=None)
        with pytest.raises(WriteError, match=r"attempts: 4") as raised:
            write_stream(quick(proxy.url, max_retries=3), FRAME, stream)
        check(raised.value, client, stream)
        assert raised.value.code == "LOADING"
        assert raised.value.rows_written == raised.value.row == 2


@pytest.mark.parametrize("name", ["redis-7.0", "redis-8.10"])
def test_out_of_memory(name: str, stream: str) -> None:
    frame = pl.DataFrame({"n": range(3_000), "payload": "x" * 2_000})
    limits = ["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"]
    with Server(name, args=limits) as server, server.client() as client:
        with pytest.raises(WriteError, match="OOM") as raised:
            write_stream(quick(server.url, max_retries=2), frame, stream)
        client.config_set("maxmemory", "0")
        check(raised.value, client, stream)
        # The server may take a row again that comes behind one that it refused.
        assert 0 < raised.value.rows_written == client.xlen(stream) < 3_000


def test_a_replica(any_server: Server, stream: str) -> None:
    with Server(any_server.name, args=["--replicaof", "127.0.0.1", str(any_server.port)]) as server:
        with pytest.raises(WriteError, match="READONLY") as raised:
            write_stream(quick(server.url, max_retries=2), FRAME, stream)
    assert raised.value.rows_written == 0
    assert raised.value.row == 0
    assert raised.value.code == "READONLY"


def test_a_user_who_may_not_write(stream: str) -> None:
    users = {"reader": "on >secret ~* +@read"}
    with Server("redis-7.0", users=users) as server:
        url = server.url.replace("redis://", "redis://reader:secret@")
        with pytest.raises(AuthenticationError, match="NOPERM"):
            write_stream(url, FRAME, stream)


def test_a_user_who_may_only_write(stream: str) -> None:
    """What is asked beforehand is asked for nothing then."""
    with Server("redis-7.0", users={"writer": "on >secret ~* +xadd"}) as server:
        url = server.url.replace("redis://", "redis://writer:secret@")
        write_stream(url, OWN, stream, id_column="id")
        with server.client() as client:
            assert stored(client, stream) == [*range(ROWS)]
            client.set("text", "x")
        with pytest.raises(redfloe.WrongTypeError):
            write_stream(url, FRAME, "text")


def test_a_value_that_is_too_long(any_server: Server, stream: str) -> None:
    frame = pl.DataFrame({"n": [0, 1], "text": ["x", "y" * 2_000_000]})
    with Server("redis-7.0", args=["--proto-max-bulk-len", "1mb"]) as server:
        with pytest.raises(ValueError, match=r"2000000 bytes.*proto-max-bulk-len.*\(row: 1\)"):
            write_stream(server.url, frame, stream)
        with server.client() as client:
            assert not client.exists(stream)
            # Nested, it is known only when it is sent.
            nested = frame.with_columns(pl.col("text").reshape((2, 1)).arr.to_list())
            with pytest.raises((WriteError, OutcomeUnknownError)) as raised:
                write_stream(server.url, nested, stream, batch_size=1)
            check(raised.value, client, stream)
            assert stored(client, stream) == [0]
    # By default it is 512 MB.
    assert write_stream(any_server.url, frame, stream).null_count() == 0


# Interruptions


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


def test_a_producer_s_rows_that_cannot_be_sent_again_are_unknown(
    redis810: Server, stream: str
) -> None:
    """They were called absent once a first attempt to connect again had failed."""
    with Proxy(redis810.port) as proxy, redis810.client() as client:
        proxy.before(b"XADD", lambda _: proxy.refuse(100))
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        with pytest.raises(OutcomeUnknownError) as raised:
            write_stream(quick(proxy.url, max_retries=3), FRAME, stream, idempotent="me")
        time.sleep(0.02)
        check(raised.value, client, stream)
    assert raised.value.unknown == range(2, ROWS)


def test_questions_about_many_streams_take_one_round_trip(stream: str) -> None:
    """The server answers none of them before it has all."""
    keys = 300
    asked: Counter[bytes] = Counter()

    def answer(command: tuple[bytes, ...]) -> bytes:
        name = command[0].upper()
        asked[name] += 1
        if name in {b"TYPE", b"XINFO"}:
            reply = b"+none\r\n" if name == b"TYPE" else b"-ERR no such key\r\n"
            return b"" if asked[name] < keys else reply * keys
        return b"$%d\r\n%s\r\n" % (len(command[2]), command[2])

    frame = pl.DataFrame({"n": range(keys)}).with_columns(id=pl.format("{}-0", pl.col("n") + 1))
    with ScriptedServer(answer) as server, within(5):
        write_stream(server.url, frame, pl.format("s{}", "n"), id_column="id")
    assert asked == {b"TYPE": keys, b"XINFO": keys, b"XADD": keys}


def test_replies_are_told_from_what_the_server_pushes(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    push = b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"
    for atomic in (False, True):
        with Proxy(any_server.port) as proxy:
            proxy.replace_reply(push + b"$3\r\n5-5\r\n", once_seen=b"XADD", skip=1)
            if atomic:
                proxy.replace_reply(push + b"*1\r\n$3\r\n5-5\r\n", once_seen=b"EXEC")
            frame = FRAME.head(1) if atomic else FRAME
            ids = write_stream(proxy.url, frame, stream, atomic=atomic)
        assert "5-5" in ids.to_list()


# All or nothing


@pytest.mark.parametrize("own", [False, True])
def test_all_rows_at_once(server: Server, client: redis.Redis, stream: str, own: bool) -> None:
    frame, column = (OWN, "id") if own else (FRAME, None)
    with Proxy(server.port) as proxy:
        written = write_stream(proxy.url, frame, stream, id_column=column, atomic=True)
        assert proxy.count(b"EXEC") == 1
    found: Any = client.xrange(stream)
    assert written.to_list() == [entry_id.decode() for entry_id, _ in found]
    assert stored(client, stream) == [*range(ROWS)]


@pytest.mark.parametrize("skip", range(ROWS))
def test_a_row_that_is_refused_takes_all_with_it(
    any_server: Server, client: redis.Redis, stream: str, skip: int
) -> None:
    with Proxy(any_server.port) as proxy:
        # A command that is not queued has EXEC do nothing.
        proxy.before(b"XADD", lambda n: client.config_set("maxmemory", "1" if n > skip else "0"))
        with pytest.raises(WriteError, match=r"nothing is in.*OOM") as raised:
            write_stream(quick(proxy.url, max_retries=1), FRAME, stream, atomic=True)
    client.config_set("maxmemory", "0")
    assert raised.value.rows_written == 0
    assert not client.exists(stream)


def test_a_change_between_look_and_transaction(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def overtake(number: int) -> None:
        if number == 2:
            client.xadd(stream, {"n": 99}, id="3-0")

    with Proxy(any_server.port) as proxy:
        proxy.before(b"XADD", overtake)
        with pytest.raises(WriteError, match="1-0 does not come after 3-0"):
            write_stream(quick(proxy.url), OWN, stream, id_column="id", atomic=True)
    assert stored(client, stream) == [99]


@pytest.mark.parametrize("command", [b"MULTI", b"XADD", b"EXEC"])
def test_a_cut_within_a_transaction(
    any_server: Server, client: redis.Redis, stream: str, command: bytes
) -> None:
    for size in (0, 3):
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(size, once_seen=command, times=1)
            write_stream(quick(proxy.url), OWN, stream, id_column="id", atomic=True)
        assert stored(client, stream) == [*range(ROWS)]
        client.delete(stream)


def test_a_lost_answer_to_a_transaction(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"EXEC")
        with pytest.raises(OutcomeUnknownError, match="all rows are in or none") as raised:
            write_stream(quick(proxy.url), FRAME, stream, atomic=True)
    assert raised.value.unknown == range(ROWS)
    assert raised.value.rows_written == 0
    assert stored(client, stream) == [*range(ROWS)]


def test_a_producer_s_transaction(redis810: Server, stream: str) -> None:
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        proxy.cut_after(0, once_seen=b"EXEC")
        write_stream(quick(proxy.url), FRAME, stream, atomic=True, idempotent="me")
        assert stored(client, stream) == [*range(ROWS)]


@pytest.mark.parametrize("missing", ["multi", "exec", "watch"])
@pytest.mark.parametrize("name", ["redis-6.2", "redis-7.0", "redis-8.10", "valkey"])
def test_a_user_who_may_not_run_transactions(name: str, missing: str, stream: str) -> None:
    """Without MULTI the rows would be added one by one."""
    with Server(name, users={"writer": f"on >secret ~* +@all -{missing}"}) as server:
        url = server.url.replace("redis://", "redis://writer:secret@")
        with pytest.raises(AuthenticationError, match="NOPERM"):
            write_stream(url, OWN, stream, id_column="id", atomic=True)
        with server.client() as client:
            assert not client.exists(stream)
            # No connection with an open transaction was left for the next.
            write_stream(url, FRAME, stream)
            assert stored(client, stream) == [*range(ROWS)]


def test_no_watch_is_left_to_the_next_write(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def overtake(number: int) -> None:
        client.xadd(stream, {"n": 0}, id="999999999999999-0")

    with Proxy(any_server.port) as proxy:
        proxy.before(b"WATCH", overtake)
        with pytest.raises(WriteError, match="does not come after"):
            write_stream(proxy.url, OWN, stream, id_column="id", atomic=True)
        proxy.clear()
        client.xadd(stream, {"n": 0})  # what was watched changes
        keys = [f"{stream}:{n}" for n in range(3)]
        frame = pl.DataFrame({"key": keys, "n": [0, 1, 2]})
        assert redfloe.write_hashes(proxy.url, frame, key_column="key") == 3
    assert [client.hget(key, "n") for key in keys] == [b"0", b"1", b"2"]


def test_a_transaction_is_bounded(stream: str, any_server: Server) -> None:
    frame = pl.DataFrame({"text": pl.Series(["x" * 1_000_000]).new_from_index(0, 80)})
    with pytest.raises(ValueError, match="one transaction of at most"):
        write_stream(any_server.url, frame, stream, atomic=True)


def test_a_password_is_in_no_error(any_server: Server, stream: str) -> None:
    with pytest.raises(AuthenticationError) as raised:
        write_stream(with_password(any_server.url, user="stranger"), FRAME, stream)
    assert "hunter2" not in str(raised.value)
