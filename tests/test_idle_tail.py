"""What a reader costs that follows a stream while nothing comes: entries may be of any size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from redfloe import DataLossError, iter_stream, write_stream
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import later, within

MEGABYTE = 1_000_000


def sent(client: redis.Redis) -> int:
    """Count the bytes that the server has sent so far."""
    stats: Any = client.info("stats")
    total: int = stats["total_net_output_bytes"]
    return total


@pytest.fixture
def large(client: redis.Redis, stream: str) -> str:
    """A stream of two entries of 5 MB."""
    for number in (1, 2):
        client.xadd(stream, {"n": b"1" * 5 * MEGABYTE}, id=f"{number}-0")
    return stream


@pytest.fixture
def reader_url(any_server: Server, client: redis.Redis) -> Iterator[str]:
    """The URL of a user who may not run scripts."""
    client.execute_command(
        "ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@all", "-@scripting"
    )
    yield any_server.url.replace("redis://", "redis://reader:secret@")
    client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.parametrize(
    ("server", "end_id"),
    [("redis-6.2", "+"), ("redis-7.0", "9-0"), ("redis-8.10", "+"), ("valkey", "9-0")],
    indirect=["server"],
)
def test_an_idle_tail_does_not_fetch_entries_to_look_after_its_stream(
    server: Server, client: redis.Redis, large: str, end_id: str
) -> None:
    options: dict[str, Any] = {"start_id": "$", "end_id": end_id, "block_ms": 200}
    tail = iter_stream(server.url, large, NUMBER, **options)
    before = sent(client)
    with later(2.5, lambda: client.xadd(large, {"n": 3}, id="3-0")), within(5):
        assert next(tail)["n"].to_list() == [3]
    assert sent(client) - before < MEGABYTE


def test_without_scripts_it_looks_the_more_seldom_the_more_it_costs(
    client: redis.Redis, large: str, reader_url: str
) -> None:
    tail = iter_stream(reader_url, large, NUMBER, start_id="$", block_ms=200)
    before = sent(client)
    with later(3, lambda: client.xadd(large, {"n": 3}, id="3-0")), within(6):
        assert next(tail)["n"].to_list() == [3]
    # XINFO STREAM once.
    assert 10 * MEGABYTE < sent(client) - before < 11 * MEGABYTE


def test_a_stream_begun_anew_is_found_with_and_without_scripts(
    any_server: Server, client: redis.Redis, stream: str, reader_url: str
) -> None:
    for url in (any_server.url, reader_url):
        add_numbers(client, stream, 9)
        tail = iter_stream(url, stream, NUMBER, start_id="-", block_ms=100)
        assert next(tail).height == 9
        client.delete(stream)
        add_numbers(client, stream, 2)
        with within(4), pytest.raises(DataLossError, match="9-0"):
            next(tail)
        client.delete(stream)


def test_a_user_who_may_run_neither_is_told_of_no_loss(
    any_server: Server, client: redis.Redis, stream: str, reader_url: str
) -> None:
    client.execute_command("ACL", "SETUSER", "reader", "-xinfo")
    add_numbers(client, stream, 2)
    with Proxy(any_server.port) as proxy:
        url = reader_url.replace(str(any_server.port), str(proxy.port))
        tail = iter_stream(url, stream, NUMBER, start_id="-", block_ms=100)
        assert next(tail).height == 2
        with later(1.5, lambda: add_numbers(client, stream, 3, first=3)):
            assert next(tail)["n"].to_list() == [3]
        # It is not asked at every poll for what it may not know.
        assert proxy.count(b"XINFO") <= 3
        assert proxy.count(b"EVAL") <= 1


def test_an_end_that_only_deleted_entries_reached_ends_the_iteration(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    tail = iter_stream(any_server.url, stream, NUMBER, start_id="-", end_id="5-0", block_ms=100)
    assert next(tail).height == 3

    def add_and_delete() -> None:
        add_numbers(client, stream, 5, first=4)
        client.xdel(stream, "4-0", "5-0")

    with later(0.2, add_and_delete), within(4):
        seen = [number for frame in tail for number in frame["n"]]
    # Whether it sees what is deleted at once is a matter of luck.
    assert seen in ([], [4], [4, 5])


def test_a_write_with_ids_of_a_stream_of_large_entries(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The question for the last ID has an answer of the size of two entries: 70 MB."""
    import polars as pl

    client.xadd(stream, {"n": b"1" * 35 * MEGABYTE}, id="1-0")
    client.xadd(stream, {"n": b"1" * 35 * MEGABYTE}, id="2-0")
    frame = pl.DataFrame({"id": ["3-0"], "n": [3]})
    start = time.monotonic()
    assert write_stream(any_server.url, frame, stream, id_column="id").to_list() == ["3-0"]
    assert time.monotonic() - start < 10
    client.delete(stream)
