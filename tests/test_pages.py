"""How much a reader asks for at once, where entries are of very different sizes."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import redis

from redfloe import iter_stream, read_stream
from support.groups import DRAIN, ME, deliver
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers

MEGABYTE = 1_000_000


@pytest.mark.parametrize("end_id", ["+", "90000-0"])
def test_giants_after_small_entries_are_not_all_asked_for_at_once(
    any_server: Server, client: redis.Redis, stream: str, end_id: str
) -> None:
    """The page that meets the first of them is given up, and the next ones are small."""
    add_numbers(client, stream, 5_000)
    for number in range(5_001, 5_031):
        client.xadd(stream, {"n": b"1" * MEGABYTE}, id=f"{number}-0")
    client.xadd(stream, {"n": "1"}, id="90000-0")
    with Proxy(any_server.port) as proxy:
        frames = iter_stream(
            proxy.url,
            stream,
            {"n": pl.String},
            start_id="-",
            end_id=end_id,
            batch_size=1_000,
            batch_bytes=2 * MEGABYTE,
            **DRAIN,
        )
        rows = 0
        while rows <= 5_000:
            rows += next(frames).height
        # The page that met them asked for as many as small ones had fitted.
        asked = len(proxy.commands)
        for frame in frames:
            assert frame["n"].str.len_bytes().sum() <= 4 * MEGABYTE
            rows += frame.height
        assert rows == 5_031
        pages = [command for command in proxy.commands[asked:] if b"COUNT" in command]
        counts = [int(command[command.index(b"COUNT") + 1]) for command in pages]
        assert len(counts) >= 10
        assert max(counts[:10]) <= 2


@pytest.mark.parametrize("server", ["redis-7.0", "redis-8.10"], indirect=True)
@pytest.mark.parametrize("what", ["a stream", "new entries", "own pending entries"])
def test_no_reply_is_larger_than_a_batch_and_one_entry(
    server: Server, client: redis.Redis, stream: str, what: str
) -> None:
    """Where the server can (Redis 8.10); the others are asked once and then as they can."""
    add_numbers(client, stream, 20_000)
    giants = [f"{number}-0" for number in range(20_001, 20_021)]
    for giant in giants:
        client.xadd(stream, {"n": b"1" * 2 * MEGABYTE}, id=giant)
    options: dict[str, Any] = {"batch_size": 100_000, "batch_bytes": 3 * MEGABYTE, **DRAIN}
    if what == "a stream":
        options |= {"start_id": "-"}
    else:
        options |= {"create_group": True, **ME}
    if what == "own pending entries":
        deliver(client, stream)
    with Proxy(server.port) as proxy:
        frames = list(iter_stream(proxy.url, stream, {"n": pl.String}, **options))
        assert sum(frame.height for frame in frames) == 20_020
        assert [row for frame in frames for row in frame["_id"]][-20:] == giants
        assert max(frame["n"].str.len_bytes().sum() for frame in frames) <= 5.3 * MEGABYTE
        limited = sum(b"MAXSIZE" in command for command in proxy.commands)
        if server.name == "redis-8.10":
            assert limited > 1
            assert proxy.largest_reply <= 5.3 * MEGABYTE
        else:
            assert limited == server.refused_reads


@pytest.mark.parametrize("refused", ["the end", "the page", "both", "both, twice"])
def test_a_read_whose_first_page_is_refused_ends_where_the_stream_ended(
    any_server: Server, client: redis.Redis, stream: str, refused: str
) -> None:
    """Its end is asked for with the first page, and again where that was not answered."""
    add_numbers(client, stream, 25_000)
    with Proxy(any_server.port) as proxy:
        times = 2 if refused == "both, twice" else 1
        if refused != "the page":
            proxy.replace_reply(b"-LOADING wait\r\n", once_seen=b"XREVRANGE", times=times)
        if refused != "the end":
            proxy.replace_reply(b"-LOADING wait\r\n", once_seen=b"XRANGE", times=times)
        # Whoever has a first page answered asks for those that follow of a stream that grows.
        proxy.before(b"XRANGE", lambda n: n <= times + 1 or client.xadd(stream, {"n": "0"}))
        rows = read_stream(proxy.url, stream, {"n": pl.Int64})["n"]
        assert rows.to_list() == list(range(1, 25_001))
