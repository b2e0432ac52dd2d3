"""All rows or none: transactions."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    AuthenticationError,
    OutcomeUnknownError,
    WriteError,
    write_stream,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.writes import FRAME, OWN, ROWS, stored


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
