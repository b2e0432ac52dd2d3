"""Frames into hashes."""

from __future__ import annotations

import asyncio
import datetime as dt
import signal
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import (
    AuthenticationError,
    OutcomeUnknownError,
    SchemaError,
    WriteError,
    WrongTypeError,
    write_hashes,
    write_hashes_async,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import SLACK, later, within

FRAME = pl.DataFrame({"key": ["a", "b", "c"], "mean": [1.5, None, 3.0], "count": [1, 2, None]})
EXPECTED = [
    {b"mean": b"1.5", b"count": b"1"},
    {b"count": b"2"},
    {b"mean": b"3.0"},
]


def in_loop(*args: Any, **options: Any) -> int:
    return asyncio.run(write_hashes_async(*args, **options))


Write = Callable[..., int]
writers = pytest.mark.parametrize("write", [write_hashes, in_loop])


def hashes(client: redis.Redis, *keys: str) -> list[Any]:
    return [client.hgetall(key) for key in keys]


@writers
@pytest.mark.parametrize("batch_size", [1, 2, 1_000])
@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_rows_become_hashes(
    server: Server, client: redis.Redis, if_exists: Any, batch_size: int, write: Write
) -> None:
    written = write(
        server.url,
        FRAME,
        key_column="key",
        key_prefix="p:",
        if_exists=if_exists,
        batch_size=batch_size,
    )
    assert written == 3
    assert hashes(client, "p:a", "p:b", "p:c") == EXPECTED
    assert client.ttl("p:a") == -1


def test_a_hash_that_exists_is_replaced(any_server: Server, client: redis.Redis) -> None:
    client.hset("b", mapping={"mean": "old", "other": "x"})
    client.expire("b", 100)
    write_hashes(any_server.url, FRAME, key_column="key")
    assert hashes(client, "b") == EXPECTED[1:2]
    assert client.ttl("b") == -1


def test_a_hash_that_exists_is_merged(any_server: Server, client: redis.Redis) -> None:
    client.hset("b", mapping={"mean": "old", "other": "x"})
    client.expire("b", 100)
    write_hashes(any_server.url, FRAME, key_column="key", if_exists="merge")
    assert hashes(client, "b") == [{b"other": b"x", b"count": b"2"}]
    assert client.ttl("b") > 0


@writers
def test_a_hash_that_exists_is_refused(
    any_server: Server, client: redis.Redis, write: Write
) -> None:
    client.hset("b", "other", "x")
    with pytest.raises(WriteError, match=r"exists already; nothing.*row: 1, key: b"):
        write(any_server.url, FRAME, key_column="key", if_exists="fail")
    assert [*client.keys()] == [b"b"]


@writers
def test_a_hash_that_appears_meanwhile_is_refused(
    any_server: Server, client: redis.Redis, write: Write
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.before(b"EVAL", lambda n: n == 2 and client.hset("b", "other", "x"))
        with pytest.raises(WriteError, match="row 1 was not written, 2 of 3") as raised:
            write(proxy.url, FRAME, key_column="key", if_exists="fail")
    assert (raised.value.row, raised.value.rows_written) == (1, 2)
    assert hashes(client, "b") == [{b"other": b"x"}]


@writers
@pytest.mark.parametrize("ttl", [100, 100.0, dt.timedelta(seconds=100)])
@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_hashes_expire(
    any_server: Server, client: redis.Redis, if_exists: Any, ttl: Any, write: Write
) -> None:
    write(any_server.url, FRAME, key_column="key", ttl=ttl, if_exists=if_exists)
    assert all(99 <= client.ttl(key) <= 100 for key in "abc")
    assert hashes(client, *"abc") == EXPECTED


def test_a_row_of_nulls_is_no_hash(any_server: Server, client: redis.Redis) -> None:
    client.hset("a", "x", "1")
    frame = pl.DataFrame({"key": ["a"], "x": pl.Series([None], dtype=pl.Int8)})
    write_hashes(any_server.url, frame, key_column="key", ttl=5)
    assert not client.exists("a")


def test_keys_of_any_dtype(any_server: Server, client: redis.Redis) -> None:
    for keys, expected in (([1, 2], b"1"), ([b"\xff", b"b"], b"\xff")):
        frame = pl.DataFrame({"key": keys, "x": [1, 2]})
        write_hashes(any_server.url, frame, key_column="key", fields=["x"])
        assert client.hgetall(expected) == {b"x": b"1"}


@writers
@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_a_key_of_another_type(
    any_server: Server, client: redis.Redis, if_exists: Any, write: Write
) -> None:
    client.set("c", "x")
    with pytest.raises(WrongTypeError, match=r"holds a string.*row: 2, key: c"):
        write(any_server.url, FRAME, key_column="key", if_exists=if_exists)
    assert client.get("c") == b"x"
    assert not client.exists("a")


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"key_column": "x"}, SchemaError, "no column 'x'"),
    ({"ttl": 0}, ValueError, "ttl"),
    ({"ttl": "1"}, TypeError, "ttl"),
    ({"ttl": True}, TypeError, "ttl"),
    ({"ttl": float("inf")}, ValueError, "ttl must be a number of seconds, not inf"),
    ({"ttl": float("nan")}, ValueError, "ttl must be a number of seconds, not nan"),
    ({"ttl": 1e18}, ValueError, r"ttl must be a number of seconds, not 1e\+18"),
    ({"ttl": 10**400}, ValueError, "ttl must be a number of seconds"),
    ({"if_exists": FRAME}, ValueError, '"replace", "merge" or "fail", not shape'),
    ({"if_exists": "drop"}, ValueError, "if_exists"),
    ({"key_column": "mean"}, ValueError, r"key is null.*row: 1"),
    ({"fields": []}, SchemaError, "no column"),
]


@writers
@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_arguments_that_cannot_be(
    arguments: dict[str, Any], error: type[Exception], message: str, write: Write
) -> None:
    with pytest.raises(error, match=message):
        write("redis://127.0.0.1:1", FRAME, **{"key_column": "key", **arguments})


@writers
def test_a_key_that_occurs_twice(any_server: Server, client: redis.Redis, write: Write) -> None:
    frame = pl.DataFrame({"key": ["a", "a"], "x": [1, 2]})
    for if_exists in ("replace", "fail"):
        with pytest.raises(ValueError, match="'a' occurs in several rows"):
            write(any_server.url, frame, key_column="key", if_exists=if_exists)
    write(any_server.url, frame, key_column="key", if_exists="merge")
    assert hashes(client, "a") == [{b"x": b"2"}]


@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_a_text_that_is_too_long(if_exists: Any) -> None:
    long = "y" * 2_000_000
    with Server("redis-7.0", args=["--proto-max-bulk-len", "1mb"]) as server:
        for key, text in (("b", long), (long, "y")):
            frame = pl.DataFrame({"key": ["a", key], "text": ["x", text]})
            match = r"2000000 bytes.*proto-max-bulk-len.*\(row: 1\)"
            with pytest.raises(ValueError, match=match):
                write_hashes(server.url, frame, key_column="key", if_exists=if_exists)
        # As JSON, with quotes and brackets; and with each control character as six.
        frame = pl.DataFrame({"key": ["a", "b"], "nested": [["x"], ["y", "\x01" * 200_000]]})
        match = r"\"nested\" has 1200008 bytes.*proto-max-bulk-len.*\(row: 1\)"
        with pytest.raises(ValueError, match=match):
            write_hashes(server.url, frame, key_column="key", if_exists=if_exists)
        with server.client() as client:
            assert client.dbsize() == 0
        assert write_hashes(server.url, frame.head(1), key_column="key", if_exists=if_exists) == 1


@writers
def test_an_empty_frame(any_server: Server, write: Write) -> None:
    assert write(any_server.url, FRAME.clear(), key_column="key") == 0


@pytest.mark.parametrize("command", [b"MULTI", b"DEL", b"HSET", b"EXEC"])
@pytest.mark.parametrize("skip", range(3))
def test_a_lost_connection(
    any_server: Server, client: redis.Redis, command: bytes, skip: int
) -> None:
    for if_exists in ("replace", "merge"):
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(1, once_seen=command, skip=skip)
            write_hashes(
                quick(proxy.url),
                FRAME,
                key_column="key",
                if_exists=if_exists,
                batch_size=2,
            )
        assert hashes(client, *"abc") == EXPECTED
        client.flushall()


@writers
def test_a_lost_answer_of_a_write_that_must_not_repeat(
    any_server: Server, client: redis.Redis, write: Write
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"EVAL", skip=2)
        with pytest.raises(OutcomeUnknownError) as raised:
            write(proxy.url, FRAME, key_column="key", if_exists="fail", batch_size=2)
    assert raised.value.rows_written == 2
    assert raised.value.unknown == range(2, 3)


@writers
def test_what_time_mends_is_waited_for(
    any_server: Server, client: redis.Redis, write: Write
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-OOM full\r\n", once_seen=b"EVAL", skip=1, times=2)
        write(quick(proxy.url), FRAME, key_column="key", if_exists="fail")
    assert hashes(client, *"abc") == EXPECTED
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-OOM full\r\n", once_seen=b"EVAL", skip=1, times=None)
        client.flushall()
        with pytest.raises(WriteError, match="attempts: 3") as raised:
            write(quick(proxy.url, max_retries=2), FRAME, key_column="key", if_exists="fail")
    assert (raised.value.row, raised.value.rows_written, raised.value.code) == (1, 1, "OOM")


def test_a_merge_keeps_the_time_of_a_hash_whose_old_fields_all_go(
    any_server: Server, client: redis.Redis
) -> None:
    client.hset("b", "mean", "1")
    client.expire("b", 100)
    write_hashes(any_server.url, FRAME, key_column="key", if_exists="merge")
    assert hashes(client, *"abc") == EXPECTED
    assert 0 < client.ttl("b") <= 100


@writers
def test_a_transaction_that_was_not_executed_is_no_success(
    any_server: Server, client: redis.Redis, write: Write
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"*-1\r\n", once_seen=b"EXEC", skip=3)
        with pytest.raises(WriteError, match="did not execute") as raised:
            write(proxy.url, FRAME, key_column="key")
    assert (raised.value.rows_written, raised.value.row) == (2, 2)


@pytest.mark.parametrize("missing", ["multi", "exec"])
@pytest.mark.parametrize("name", ["redis-6.2", "redis-7.0", "redis-8.10", "valkey"])
def test_a_user_who_may_not_run_transactions(name: str, missing: str) -> None:
    """Without MULTI others would see a hash that lacks its fields."""
    with Server(name, users={"writer": f"on >secret ~* +@all -{missing}"}) as server:
        url = server.url.replace("redis://", "redis://writer:secret@")
        with server.client() as client:
            client.hset("a", "mean", "old")
            with pytest.raises(AuthenticationError, match="nothing has been written"):
                write_hashes(url, FRAME, key_column="key")
            assert hashes(client, *"abc") == [{b"mean": b"old"}, {}, {}]
            # One command is a step of its own.
            write_hashes(url, FRAME.drop_nulls(), key_column="key", if_exists="merge")
            write_hashes(url, FRAME[1:], key_column="key", if_exists="fail")
            assert hashes(client, *"abc") == EXPECTED


def test_a_hash_that_cannot_be_given_its_time(any_server: Server) -> None:
    with Server("redis-7.0", users={"writer": "on >secret ~* +@all -pexpire"}) as server:
        url = server.url.replace("redis://", "redis://writer:secret@")
        for if_exists in ("fail", "replace", "merge"):
            # In a script the server has no code for it.
            with pytest.raises((AuthenticationError, WriteError)):
                write_hashes(url, FRAME, key_column="key", if_exists=if_exists, ttl=10)
            with server.client() as client:
                assert hashes(client, *"abc") == [{}, {}, {}]


@writers
@pytest.mark.parametrize("if_exists", ["replace", "merge"])
def test_answers_that_are_lost_for_good(
    any_server: Server, client: redis.Redis, if_exists: Any, write: Write
) -> None:
    # One EXEC more is that of the question whether there may be one.
    command, skip = (b"HSET", 1) if if_exists == "merge" else (b"EXEC", 2)
    with Proxy(any_server.port) as proxy:
        proxy.before(command, lambda _: proxy.refuse(100))
        proxy.cut_after(0, once_seen=command, skip=skip)
        frame = FRAME.select("key", mean=pl.lit(1.5))
        with pytest.raises(OutcomeUnknownError) as raised:
            write(quick(proxy.url), frame, key_column="key", if_exists=if_exists)
    assert raised.value.rows_written == raised.value.row == 1
    assert raised.value.unknown == range(1, 3)


def test_a_row_that_is_refused_when_it_is_sent_again_may_be_in(
    any_server: Server, client: redis.Redis
) -> None:
    """It was called absent, though the connection that was lost had brought it."""
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"HSET", skip=1)
        proxy.replace_reply(b"-NOPERM no\r\n", once_seen=b"HSET", skip=2, times=None)
        frame = FRAME.select("key", mean=pl.lit(1.5))
        with pytest.raises(OutcomeUnknownError) as raised:
            write_hashes(quick(proxy.url), frame, key_column="key", if_exists="merge")
    assert client.exists("b")
    assert raised.value.unknown == range(raised.value.rows_written, 3)


@pytest.mark.parametrize(
    ("command", "kind"),
    [(b"TYPE", WriteError), (b"MULTI", WriteError), (b"HSET", OutcomeUnknownError)],
)
def test_a_signal_ends_it_within_a_second(
    any_server: Server, client: redis.Redis, command: bytes, kind: type[Exception]
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=command)
        with later(0.3, lambda: signal.raise_signal(signal.SIGINT)), within(1.6):
            with pytest.raises(KeyboardInterrupt) as raised:
                write_hashes(proxy.url, FRAME, key_column="key")
    error = raised.value.__cause__
    assert type(error) is kind
    assert isinstance(error, WriteError | OutcomeUnknownError)
    assert error.rows_written == error.row == 0


@pytest.mark.parametrize(
    ("command", "kind"),
    [(b"TYPE", WriteError), (b"MULTI", WriteError), (b"HSET", OutcomeUnknownError)],
)
@pytest.mark.parametrize("progress", [None, lambda rows: None])
def test_a_cancelled_task_ends_within_a_second(
    any_server: Server, command: bytes, kind: type[Exception], progress: Any
) -> None:
    async def cancelled() -> None:
        async with asyncio.timeout(0.3 * SLACK):
            await write_hashes_async(proxy.url, FRAME, key_column="key", progress=progress)

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=command)
        with within(1.6), pytest.raises(TimeoutError) as raised:
            asyncio.run(cancelled())
    assert raised.value.__cause__ is not None
    error = raised.value.__cause__.__cause__
    assert type(error) is kind
    assert isinstance(error, WriteError | OutcomeUnknownError)
    assert error.rows_written == error.row == 0


def test_a_cancelled_task_says_which_rows_are_in(any_server: Server, client: redis.Redis) -> None:
    frame = pl.DataFrame({"key": range(300), "n": range(300)})

    async def cancelled() -> None:
        write = write_hashes_async(proxy.url, frame, key_column="key", batch_size=100)
        task = asyncio.create_task(write)
        while client.dbsize() < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        task.cancel()
        await task

    with Proxy(any_server.port) as proxy:
        proxy.before(b"HSET", lambda number: time.sleep(0.002 if number > 100 else 0))
        with pytest.raises(asyncio.CancelledError) as raised:
            asyncio.run(cancelled())
    error = raised.value.__cause__
    assert isinstance(error, WriteError)
    assert error.rows_written == error.row == client.dbsize()
    assert error.ids is None
    assert 100 <= error.rows_written < 300


@writers
def test_a_lazy_frame_is_to_be_collected(any_server: Server, write: Write) -> None:
    """`sink_stream`, which other writers name here, writes no hashes."""
    lazy: Any = pl.LazyFrame({"k": ["a"], "n": [1]})
    with pytest.raises(TypeError, match="collect it") as caught:
        write(any_server.url, lazy, key_column="k")
    assert "sink_stream" not in str(caught.value)
