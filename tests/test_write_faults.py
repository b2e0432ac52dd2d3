"""What goes wrong while a write is running, and that the error says exactly what is in."""

from __future__ import annotations

import threading
import time
from collections import Counter
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
from support.timing import within
from support.writes import FRAME, OWN, ROWS, check, stored

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
        elif number == 2:  # the question whether the row before is still there
            client.execute_command("XSETID", stream, "2-0")
            client.xadd(stream, {"n": 2}, id="3-0")

    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        proxy.before(b"XRANGE", act)
        written = write_stream(quick(proxy.url), OWN, stream, id_column="id", batch_size=1)
        assert proxy.count(b"XRANGE") == 3
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


@pytest.mark.slow
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


def test_a_connection_is_lost_after_a_row_was_refused(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Rows with IDs are looked for, from the one that was refused on."""

    def cut(number: int) -> None:
        if number == ROWS:
            proxy.cut_all()

    with Proxy(any_server.port) as proxy:
        refused = proxy.replace_reply(b"-READONLY\r\n", once_seen=b"XADD", skip=2, times=ROWS - 2)
        proxy.before(b"XADD", cut)
        write_stream(quick(proxy.url), OWN, stream, id_column="id")
        assert refused.hits == ROWS - 2
        assert stored(client, stream) == [*range(ROWS)]
        # Where one after it is in, it cannot come in its place any more.
        proxy.clear()
        client.delete(stream)
        proxy.replace_reply(b"-READONLY\r\n", once_seen=b"XADD", skip=2)
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        with pytest.raises(OutcomeUnknownError, match="sent after") as raised:
            write_stream(quick(proxy.url), OWN, stream, id_column="id")
    assert raised.value.unknown.start == 2
    assert stored(client, stream)[:3] == [0, 1, 3]


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
    # By default it is 512 MB.
    assert write_stream(any_server.url, frame, stream).null_count() == 0


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


@pytest.mark.parametrize("answer", [b"-NOPERM no\r\n", b"-READONLY no\r\n"])
def test_a_row_that_is_refused_when_it_is_sent_again_may_be_in(
    redis810: Server, stream: str, answer: bytes
) -> None:
    """It was called absent, though the connection that was lost had brought it."""
    with Proxy(redis810.port) as proxy, redis810.client() as client:
        # The first XADD only asks whether the server knows producers.
        proxy.cut_after(0, once_seen=b"XADD", skip=2)
        proxy.replace_reply(answer, once_seen=b"XADD", skip=ROWS, times=None)
        with pytest.raises(OutcomeUnknownError) as raised:
            write_stream(quick(proxy.url, max_retries=3), FRAME, stream, idempotent="me")
        check(raised.value, client, stream)
    assert raised.value.unknown == range(raised.value.rows_written, ROWS)


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


def test_a_password_is_in_no_error(any_server: Server, stream: str) -> None:
    with pytest.raises(AuthenticationError) as raised:
        write_stream(with_password(any_server.url, user="stranger"), FRAME, stream)
    assert "hunter2" not in str(raised.value)
