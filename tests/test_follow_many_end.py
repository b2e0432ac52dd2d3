"""Following several streams up to an end: it is over when all have come to it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import AuthenticationError, MemoryCheckpointStore, iter_stream
from support.consumers import World, all_rows
from support.groups import DRAIN
from support.loops import Follow
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add, add_numbers, rows_of
from support.timing import later, within

pytestmark = pytest.mark.timeout(30)

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("end", ["9-0", "(10-0", "9", EPOCH + dt.timedelta(milliseconds=9)])
@pytest.mark.parametrize("batch_size", [1, 4, 1_000])
def test_what_is_there_up_to_the_end(
    any_server: Server,
    client: redis.Redis,
    protocol: str,
    follow: Follow,
    end: Any,
    batch_size: int,
) -> None:
    last = {"a": 20, "b": 11, "c": 10}
    if end == "9-0":
        last |= {"d": 9}  # nothing can come up to there, as nothing can after it
    for stream, number in last.items():
        add_numbers(client, stream, number)
    url = any_server.url + protocol
    batches = follow(url, [*last], NUMBER, "-", end, batch_size=batch_size, block_ms=5_000)
    with within(3):
        assert rows_of(batches) == {stream: [*range(1, 10)] for stream in last}


def test_it_waits_for_the_last_that_has_not_come_to_the_end(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    add_numbers(client, "a", 20)
    batches = follow(any_server.url, ["a", "late"], NUMBER, "-", "5-5", block_ms=50)
    assert rows_of([next(batches)]) == {"a": [1, 2, 3, 4, 5]}
    with later(0.1, lambda: add_numbers(client, "late", 4, first=4)):
        assert rows_of([next(batches)]) == {"late": [4]}
    # An entry after the end tells that there is nothing to come, and is not given.
    with later(0.1, lambda: add_numbers(client, "late", 6, first=6)), within(1):
        assert list(batches) == []


def test_streams_whose_entries_up_to_the_end_and_after_it_are_deleted(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    """The streams' own record tells that they have been there."""
    for stream in "abc":
        add_numbers(client, stream, 8)
    client.xdel("a", "5-0", "6-0", "7-0", "8-0")
    client.xtrim("b", maxlen=0, approximate=False)
    with within(6):
        assert rows_of(follow(any_server.url, ["a", "b", "c"], NUMBER, "-", "5-0")) == {
            "a": [1, 2, 3, 4],
            "c": [1, 2, 3, 4, 5],
        }


@pytest.mark.parametrize(
    ("start", "end"), [("5-0", "4-0"), ("-", "-"), ("$", "3-0"), ("-", "(0-1")]
)
def test_ends_before_anything(
    any_server: Server, client: redis.Redis, follow: Follow, start: str, end: str
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 8)
    with within(1):
        assert list(follow(any_server.url, ["a", "b"], NUMBER, start, end)) == []


def test_count_on_idle_and_collecting(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 8)
    both: Any = (any_server.url, ["a", "b"], NUMBER, "-", "5-0")
    with within(2):
        assert sum(map(len, follow(*both, count=7))) == 7
        [frame] = follow(*both, batch_timeout_ms=10_000)
        assert len(frame) == 10
        missing: Any = (any_server.url, ["a", "none"], NUMBER, "-", "5-0")
        assert rows_of(follow(*missing, **DRAIN)) == {"a": [1, 2, 3, 4, 5]}


def test_entries_after_the_end_are_not_even_looked_at(
    any_server: Server, client: redis.Redis, protocol: str, follow: Follow
) -> None:
    """Whether they fit, which fields they have, and how large they are."""
    for stream in "ab":
        add_numbers(client, stream, 2)
        add(client, stream, [("3-0", {"n": "three", "other": "x" * 300_000}), ("4-0", {"n": "4"})])
    url = any_server.url + protocol
    assert rows_of(follow(url, ["a", "b"], NUMBER, "-", "2-0")) == {"a": [1, 2], "b": [1, 2]}
    with Proxy(any_server.port) as proxy:
        proxy.trickle(1_000)
        frame = pl.concat(follow(proxy.url + protocol, ["a", "b"], None, "-", "2-0"))
    assert frame.columns == ["_id", "_ts", "_stream", "n"]
    assert len(frame) == 4


def test_a_pattern_ends_with_the_streams_that_there_are(
    any_server: Server, client: redis.Redis, follow: Follow
) -> None:
    for stream in ("s:a", "s:b"):
        add_numbers(client, stream, 8)
    options: Any = {"pattern": "s:*", "discover_ms": 20, "block_ms": 20}
    with within(2):
        got = rows_of(follow(any_server.url, None, NUMBER, "-", "5-0", **options))
    assert got == {"s:a": [1, 2, 3, 4, 5], "s:b": [1, 2, 3, 4, 5]}
    add_numbers(client, "s:c", 3)
    batches = follow(any_server.url, None, NUMBER, "-", "5-0", **options)
    while "s:c" not in rows_of([next(batches)]):
        pass
    # One that vanishes is not waited for.
    with later(0.1, lambda: client.delete("s:c")), within(3):
        assert "s:c" not in rows_of(batches)


def test_an_export_of_several_streams_with_checkpoints(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    store = MemoryCheckpointStore()
    for stream in "ab":
        add_numbers(client, stream, 20)
    options: dict[str, Any] = {"end_id": "10-0", "batch_size": 3, "checkpoint_store": store}
    with world.consumer(any_server.url, ["a", "b"], **options) as consumer:
        assert sorted(all_rows(consumer)) == sorted([*range(1, 11)] * 2)
    assert (store.load("a"), store.load("b")) == ("10-0", "10-0")
    with within(1), world.consumer(any_server.url, ["a", "b"], **options) as consumer:
        assert all_rows(consumer) == []
    # What becomes of the streams afterwards is nothing to it.
    client.xtrim("a", maxlen=5, approximate=False)
    client.delete("b")
    add_numbers(client, "b", 3)
    with within(1), world.consumer(any_server.url, ["a", "b"], **options) as consumer:
        assert all_rows(consumer) == []


def test_a_stream_that_has_come_to_the_end_may_be_begun_anew(
    any_server: Server, client: redis.Redis
) -> None:
    """Nobody looks after it while others are waited for."""
    add_numbers(client, "a", 5)
    with iter_stream(any_server.url, ["a", "late"], NUMBER, "-", "5-0", block_ms=50) as batches:
        assert rows_of([next(batches)]) == {"a": [1, 2, 3, 4, 5]}
        client.delete("a")
        add_numbers(client, "a", 3)
        with later(1.3, lambda: add_numbers(client, "late", 5, first=5)):
            assert rows_of(batches) == {"late": [5]}


def test_after_an_error_the_end_is_still_the_end(
    any_server: Server, client: redis.Redis, protocol: str, follow: Follow
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 20)
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-NOPERM not now\r\n", once_seen=b"XREAD")
        batches = follow(proxy.url + protocol, ["a", "b"], NUMBER, "-", "5-0")
        with pytest.raises(AuthenticationError, match="not now"):
            next(batches)
        assert rows_of(batches) == {"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]}


def test_inference_where_all_entries_are_after_the_end(
    any_server: Server, client: redis.Redis, protocol: str, follow: Follow
) -> None:
    for stream in "ab":
        add_numbers(client, stream, 20, first=8)
    with Proxy(any_server.port) as proxy, within(2):
        url = proxy.url + protocol
        assert list(follow(url, ["a", "b"], None, "-", "5-0", infer_schema=True)) == []
        assert proxy.count(b"XREAD") <= 3
