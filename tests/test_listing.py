"""All streams of a server, and their groups, as DataFrames."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    AuthenticationError,
    RedisConnection,
    RedisConnectionError,
    ResponseError,
    list_groups,
    list_streams,
)
from support.groups import deliver
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import within

STREAMS = {
    "stream": pl.String(),
    "length": pl.Int64(),
    "memory": pl.Int64(),
    "groups": pl.Int64(),
    "entries_added": pl.Int64(),
    "first_entry_id": pl.String(),
    "first_entry_time": pl.Datetime("ms", "UTC"),
    "last_entry_id": pl.String(),
    "last_entry_time": pl.Datetime("ms", "UTC"),
}
GROUPS = {
    "stream": pl.String(),
    "group": pl.String(),
    "consumers": pl.Int64(),
    "pending": pl.Int64(),
    "lag": pl.Int64(),
    "lag_time": pl.Duration("ms"),
    "last_delivered_id": pl.String(),
    "next_entry_id": pl.String(),
}


def test_streams(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    for name, count in (("b", 3), ("a", 9)):
        add_numbers(client, f"{stream}:{name}", count)
    client.set(f"{stream}:c", "no stream")
    client.xgroup_create(f"{stream}:empty", "g", mkstream=True)
    frame = list_streams(url, f"{stream}:*")
    assert frame.schema == STREAMS
    assert frame["stream"].to_list() == [f"{stream}:{name}" for name in ("a", "b", "empty")]
    assert frame["length"].to_list() == [9, 3, 0]
    assert frame["groups"].to_list() == [0, 0, 1]
    assert frame["last_entry_id"].to_list() == ["9-0", "3-0", None]
    assert frame["first_entry_time"][0] == dt.datetime(1970, 1, 1, 0, 0, 0, 1000, dt.UTC)
    assert frame["memory"].min() > 0  # type: ignore[operator] # a number, as the schema says
    known = None if server.name == "redis-6.2" else 9
    assert frame["entries_added"][0] == known
    nothing = list_streams(url, f"{stream}:no*")
    assert (nothing.height, nothing.schema) == (0, STREAMS)


def test_very_many_streams(any_server: Server, client: redis.Redis, stream: str) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(2_500):
        pipeline.xadd(f"{stream}:{number:04}", {"n": number}, id=f"{number + 1}-0")
    pipeline.execute()
    frame = list_streams(any_server.url, f"{stream}:*")
    assert frame["stream"].to_list() == [f"{stream}:{number:04}" for number in range(2_500)]
    assert frame["last_entry_id"].to_list() == [f"{number + 1}-0" for number in range(2_500)]
    groups = list_groups(any_server.url, f"{stream}:*")
    assert (groups.height, groups.schema) == (0, GROUPS)


def test_groups(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    now = int(time.time() * 1000)
    for ago in (60_000, 30_000, 10_000):
        client.xadd(stream, {"n": 1}, id=f"{now - ago}-0")
    client.xgroup_create(stream, "g", "0")
    client.xgroup_create(stream, "idle", "0")
    deliver(client, stream, 1)
    frame = list_groups(server.url + protocol, stream)
    assert frame.schema == GROUPS
    group, idle = frame.iter_rows(named=True)
    assert (group["stream"], group["group"]) == (stream, "g")
    assert (group["consumers"], group["pending"]) == (1, 1)
    assert group["lag"] == (None if server.name == "redis-6.2" else 2)
    assert group["next_entry_id"] == f"{now - 30_000}-0"
    assert group["lag_time"].total_seconds() == pytest.approx(30, abs=5)
    assert idle["lag_time"].total_seconds() == pytest.approx(60, abs=5)
    deliver(client, stream, 2)
    done = list_groups(server.url + protocol, stream).row(0, named=True)
    assert (done["lag_time"], done["next_entry_id"]) == (dt.timedelta(), None)
    client.xadd(stream, {"n": 1}, id=f"{now + 10**9}-0")  # of the future
    assert list_groups(server.url, stream)["lag_time"][0] == dt.timedelta()


def test_large_entries_take_no_memory_here(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The server sends the oldest and the newest with XINFO; here their ends are thrown away."""
    client.xadd(stream, {"n": b"x" * 50_000_000}, id="1-0")
    client.xgroup_create(stream, "g", "0")
    script = """if True:
        import resource, sys, redfloe
        redfloe.list_streams(sys.argv[1], "nothing")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        redfloe.list_streams(sys.argv[1], sys.argv[2])
        redfloe.list_groups(sys.argv[1], sys.argv[2])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", script, any_server.url, stream]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 10_000  # KiB
    assert list_streams(any_server.url, stream)["first_entry_id"].to_list() == ["1-0"]
    assert list_groups(any_server.url, stream)["next_entry_id"].to_list() == ["1-0"]


def test_long_names_come_whole(any_server: Server, client: redis.Redis, stream: str) -> None:
    name, group = f"{stream}{'n' * 3_000}", "g" * 3_000
    add_numbers(client, name, 1)
    client.xgroup_create(name, group, "0")
    assert list_streams(any_server.url)["stream"].to_list() == [name]
    assert list_groups(any_server.url).select("stream", "group").row(0) == (name, group)


def test_names_that_are_not_utf_8(any_server: Server, client: redis.Redis, stream: str) -> None:
    name = stream.encode() + b"\xff*"
    add_numbers(client, name, 1)
    client.xgroup_create(name, b"g\xfe", "0")
    pattern = stream.encode() + b"\xff\\*"
    assert list_streams(any_server.url, pattern)["stream"].to_list() == [f"{stream}\\xff*"]
    assert list_groups(any_server.url, pattern)["group"].to_list() == ["g\\xfe"]


def test_a_stream_that_is_gone_meanwhile(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, f"{stream}:a", 1)
    add_numbers(client, f"{stream}:b", 1)
    client.xgroup_create(f"{stream}:b", "g", "0")
    for listing in (list_streams, list_groups):
        client.xgroup_create(f"{stream}:a", "g", mkstream=True)
        with Proxy(any_server.port) as proxy:
            proxy.before(b"XINFO", lambda _: client.delete(f"{stream}:a"))
            frame = listing(proxy.url, f"{stream}:*")
        assert frame["stream"].to_list() == [f"{stream}:b"]


def test_permissions(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 1)
    client.xgroup_create(stream, "g", "0")
    rules: dict[str, Any] = {"enabled": True, "nopass": True, "keys": ["*"]}
    client.acl_setuser("lister", commands=["+scan", "+xinfo", "+xrange"], **rules)
    try:
        url = RedisConnection(any_server.url, username="lister", password="x")
        assert list_streams(url, stream)["memory"].to_list() == [None]
        assert list_groups(url, stream)["lag_time"][0] > dt.timedelta(days=1)
        client.acl_setuser("lister", commands=["-xinfo"], **rules)
        with pytest.raises(AuthenticationError):
            list_streams(url, stream)
    finally:
        client.acl_deluser("lister")


def test_nothing_comes_after_the_last_id_of_all(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    for name, after in (("a", "1-0"), ("b", f"{2**64 - 1}-{2**64 - 1}"), ("c", "0-0")):
        client.xgroup_create(stream, name, after)
    assert list_groups(any_server.url, stream)["next_entry_id"].to_list() == ["2-0", None, "1-0"]


@pytest.mark.parametrize("what", [b"command", b"subcommand"])
def test_servers_without_these_commands(
    any_server: Server, client: redis.Redis, stream: str, what: bytes
) -> None:
    """Managed ones rename them or leave them out."""
    add_numbers(client, stream, 1)
    client.xgroup_create(stream, "g", "0")
    with Proxy(any_server.port) as proxy:
        for command in (b"MEMORY", b"TIME"):
            refusal = b"-ERR unknown %s '%s', with args beginning with: \r\n" % (what, command)
            proxy.replace_reply(refusal, once_seen=command)
        assert list_streams(proxy.url, stream)["memory"].to_list() == [None]
        assert list_groups(proxy.url, stream)["lag_time"][0] > dt.timedelta(days=1)


def _scanned(cursor: bytes, *keys: str) -> bytes:
    """What SCAN is answered with."""
    words = b"".join(b"$%d\r\n%s\r\n" % (len(key), key.encode()) for key in keys)
    return b"*2\r\n%s\r\n*%d\r\n%s" % (cursor, len(keys), words)


@pytest.mark.parametrize("listing", [list_streams, list_groups])
def test_cursors_that_lead_nowhere(
    any_server: Server, client: redis.Redis, stream: str, listing: Any
) -> None:
    add_numbers(client, stream, 1)
    client.xgroup_create(stream, "g", "0")
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(_scanned(b"*0", stream), once_seen=b"SCAN")
        with pytest.raises(ResponseError, match="SCAN is no cursor"):
            listing(proxy.url)
        # Two in turn, for ever, always with the same key; the second time shows it.
        for number in range(10):
            proxy.replace_reply(_scanned(b"$1\r\n%d" % (number % 2 + 1), stream), once_seen=b"SCAN")
        with within(5), pytest.raises(ResponseError, match="SCAN's cursors repeat"):
            listing(proxy.url)
        assert proxy.count(b"SCAN") <= 5
        # A cursor may come again where new keys come with it.
        proxy.clear()
        replies = [(b"7", "no stream"), (b"7", "gone"), (b"7", stream), (b"0", stream)]
        for cursor, key in replies:
            proxy.replace_reply(_scanned(b"$1\r\n" + cursor, key), once_seen=b"SCAN")
        assert listing(proxy.url)["stream"].to_list() == [stream]
        assert proxy.count(b"SCAN") <= 9


def test_a_listing_whose_connections_are_lost_again_and_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Each scan begins anew, and gets as far as the one before."""
    add_numbers(client, stream, 1)
    with Proxy(any_server.port) as proxy:
        for _ in range(20):
            proxy.replace_reply(_scanned(b"$1\r\n7", stream), once_seen=b"SCAN")
            proxy.cut_after(0, once_seen=b"SCAN")
        url = RedisConnection(proxy.url, max_retries=3, retry_base_delay=0.01)
        with pytest.raises(RedisConnectionError, match="attempts: 4"):
            list_streams(url)
        assert proxy.count(b"SCAN") == 8


def test_arguments() -> None:
    nothing: Any = 5
    for listing in (redfloe.list_streams, redfloe.list_groups):
        with pytest.raises(TypeError, match="pattern must be str or bytes"):
            listing("redis://localhost", nothing)
