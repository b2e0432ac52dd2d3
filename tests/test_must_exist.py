"""`must_exist`: a mistyped name is an error for every reader, and creates nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from redfloe import (
    AuthenticationError,
    NoStreamError,
    WrongTypeError,
    infer_schema,
    iter_stream,
    read_stream,
    scan_stream,
    stream_reader,
)
from support.consumers import World, rows
from support.groups import DRAIN, ME
from support.loops import Follow
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers

Read = Callable[..., Any]

READERS: dict[str, Read] = {
    "read": lambda url, stream: read_stream(url, stream, NUMBER, must_exist=True),
    "read inferring": lambda url, stream: read_stream(
        url, stream, infer_schema=True, must_exist=True
    ),
    "read waiting": lambda url, stream: read_stream(
        url, stream, NUMBER, block_ms=0, must_exist=True
    ),
    "read in a group": lambda url, stream: read_stream(url, stream, NUMBER, must_exist=True, **ME),
    # At once, with redfloe's own error: Polars and Arrow would wrap it.
    "scan": lambda url, stream: scan_stream(url, stream, NUMBER, must_exist=True),
    "scan without a schema": lambda url, stream: scan_stream(url, stream, must_exist=True),
    "Arrow": lambda url, stream: stream_reader(url, stream, NUMBER, must_exist=True),
    "infer": lambda url, stream: infer_schema(url, stream, must_exist=True),
    # At the call, before anything is asked for.
    "iterate": lambda url, stream: iter_stream(url, stream, NUMBER, must_exist=True),
    "iterate from the start": lambda url, stream: iter_stream(
        url, stream, NUMBER, "-", must_exist=True
    ),
    "iterate in a group": lambda url, stream: iter_stream(
        url, stream, NUMBER, must_exist=True, **ME
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_stream_raises(
    server: Server, client: redis.Redis, stream: str, reader: str
) -> None:
    with pytest.raises(NoStreamError, match=f"stream: {stream}"):
        READERS[reader](server.url, stream)
    assert isinstance(NoStreamError("x"), LookupError)
    assert not client.exists(stream)


@pytest.mark.parametrize("reader", READERS)
def test_an_empty_stream_is_one(
    any_server: Server, client: redis.Redis, stream: str, reader: str
) -> None:
    if reader == "read waiting":
        pytest.skip("waits without limit")
    client.xgroup_create(stream, "g", "0", mkstream=True)
    READERS[reader](any_server.url, stream)


@pytest.mark.parametrize("membership", [{}, ME], ids=["alone", "group"])
def test_readers_that_follow(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    membership: dict[str, Any],
) -> None:
    options = {**membership, **DRAIN, "must_exist": True}
    start = None if membership else "-"
    with pytest.raises(NoStreamError):
        next(follow(any_server.url, stream, NUMBER, start, **options))
    assert not client.exists(stream)
    add_numbers(client, stream, 2)
    assert next(follow(any_server.url, stream, NUMBER, start, **options))["n"].to_list() == [1, 2]


@pytest.mark.parametrize("membership", [{}, ME], ids=["alone", "group"])
def test_workers(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    membership: dict[str, Any],
) -> None:
    options = {**membership, **DRAIN, "must_exist": True}
    with (
        pytest.raises(NoStreamError, match=stream),
        world.consumer(any_server.url, stream, **options) as consumer,
    ):
        next(consumer)
    assert not client.exists(stream)
    add_numbers(client, stream, 2)
    with world.consumer(any_server.url, stream, **options) as consumer:
        assert rows(next(consumer)) == [1, 2]


def test_a_stream_that_goes_between_the_question_and_the_group_is_not_created(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1)
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XGROUP", lambda _: client.delete(stream))
        with pytest.raises(NoStreamError):
            read_stream(proxy.url, stream, NUMBER, must_exist=True, **ME)
    assert not client.exists(stream)


def test_a_lost_group_is_created_again_with_its_stream(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """By `on_group_lost`: `must_exist` is about the start, where a name may be mistyped."""
    add_numbers(client, stream, 1)
    with world.consumer(
        any_server.url, stream, must_exist=True, on_group_lost="recreate", block_ms=20, **ME
    ) as consumer:
        assert rows(next(consumer)) == [1]
        client.delete(stream)
        add_numbers(client, stream, 7, first=7)
        assert rows(next(consumer)) == [7]


def test_another_type_is_still_a_wrong_type(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.set(stream, "x")
    with pytest.raises(WrongTypeError):
        read_stream(any_server.url, stream, must_exist=True)


def test_who_may_not_ask_is_told_so(redis70: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 1)
    client.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        reset=True,
        commands=["+xrange", "+xrevrange"],
    )
    url = f"redis://reader:secret@127.0.0.1:{redis70.port}"
    assert read_stream(url, stream, NUMBER).height == 1
    with pytest.raises(AuthenticationError, match="type"):
        read_stream(url, stream, NUMBER, must_exist=True)


def test_it_costs_nothing_where_it_is_not_asked_for(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1)
    with Proxy(any_server.port) as proxy:
        read_stream(proxy.url, stream, NUMBER)
        assert proxy.count(b"TYPE") == 0
        read_stream(proxy.url, stream, NUMBER, must_exist=True)
        assert proxy.count(b"TYPE") == 1
        scan_stream(proxy.url, stream, NUMBER, must_exist=True).collect()
        assert proxy.count(b"TYPE") == 2
