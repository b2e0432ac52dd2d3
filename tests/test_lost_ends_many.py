"""Of several streams, and of bounded reads: whether the server has lost what they had."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
import redis

from redfloe import DataLossError, MemoryCheckpointStore, stream_reader
from support.consumers import World
from support.loops import Follow
from support.proxy import Proxy
from support.server import Server
from support.streams import NUMBER, Command, Numbers, add_numbers, pairs, reconnecting
from support.timing import later, within

#: What a server has that starts with older data of the streams `s` and `t`, and goes on.
OLDER: list[Command] = [
    ("DEL", "s", "t"),
    *[("XADD", stream, f"{n}-0", "n", n) for stream in "st" for n in (1, 2, 12)],
]
SEVERAL: dict[str, dict[str, Any]] = {
    "list": {"stream": ["s", "t"]},
    "pattern": {"stream": None, "pattern": "[st]"},
    "end": {"stream": ["s", "t"], "end_id": "99-0"},
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_what_several_streams_lost_shows_when_their_reader_reconnects(
    any_server: Server, client: redis.Redis, follow: Follow, kind: str
) -> None:
    for stream in "st":
        add_numbers(client, stream, 10)
    batches = follow(any_server.url, schema=NUMBER, start_id="-", block_ms=300, **SEVERAL[kind])
    rows = 0
    while rows < 20:
        rows += next(batches).height
    reconnecting(client, *OLDER)
    with within(5), pytest.raises(DataLossError, match=r"10-0 has been read and is gone.*: [st]\b"):
        next(batches)


def test_of_several_streams_one_may_have_lost_its_end(
    server: Server, client: redis.Redis, world: World
) -> None:
    """The others go on, as does this one, where that is the policy."""
    for stream in "st":
        add_numbers(client, stream, 10)
    options: dict[str, Any] = {"on_data_loss": "continue", "block_ms": 300}
    options["checkpoint_store"] = MemoryCheckpointStore()
    with world.consumer(server.url, ["s", "t"], schema=NUMBER, **options) as consumer:
        rows = 0
        while rows < 20:
            rows += len(next(consumer))
        # What was trimmed or deleted, or is not there at all, is no loss.
        reconnecting(client, ("XDEL", "s", "10-0"), ("DEL", "t"))
        add_numbers(client, "s", 12, first=12)
        assert pairs(next(consumer).frame) == [("s", 12)]
        add_numbers(client, "t", 12, first=11)
        assert pairs(next(consumer).frame) == [("t", 11), ("t", 12)]
        older: list[Command] = [("DEL", "s", "t"), ("XADD", "s", "1-0", "n", 1)]
        older += [("XADD", "t", f"{n}-0", "n", n) for n in (1, 2, 5)]
        reconnecting(client, *older, ("XADD", "s", "13-0", "n", 13))
        got: Numbers = {"s": [], "t": []}
        while not (got["s"] and got["t"]):
            for stream, n in pairs(next(consumer).frame):
                got[stream].append(n)
        # A stream that ends before what was read is another, which is read from its start.
        assert got["t"] == [1, 2, 5]
        assert got["s"] == [13]


@pytest.mark.parametrize("kind", ["one", *SEVERAL])
def test_what_was_lost_shows_when_a_worker_with_a_checkpoint_starts_again(
    any_server: Server, client: redis.Redis, world: World, kind: str
) -> None:
    for stream in "st":
        add_numbers(client, stream, 10)
    options: dict[str, Any] = {"checkpoint_store": MemoryCheckpointStore(), "on_idle": "stop"}
    options |= {"block_ms": 50, "start_id": "-", "schema": NUMBER}
    options |= {"stream": "s"} if kind == "one" else SEVERAL[kind]

    def rows(**more: Any) -> int:
        with world.consumer(any_server.url, **options, **more) as consumer:
            return sum(len(batch) for batch in consumer)

    assert rows() == (10 if kind == "one" else 20)
    assert rows() == 0
    reconnecting(client, *OLDER)
    with pytest.raises(DataLossError, match="10-0 has been read and is gone"):
        rows()
    assert rows(on_data_loss="continue") == (1 if kind == "one" else 2)
    assert rows() == 0


@pytest.mark.parametrize("kind", ["one", *SEVERAL])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_stream_that_was_only_created_again_is_like_one_that_is_not_there(
    any_server: Server, client: redis.Redis, kind: str, restarted: bool, world: World
) -> None:
    """A group is created with its stream; what comes then is read, unless it has smaller IDs."""
    for stream in "st":
        add_numbers(client, stream, 10)
    options: dict[str, Any] = {"checkpoint_store": MemoryCheckpointStore(), "start_id": "-"}
    options |= {"block_ms": 50, "schema": NUMBER}
    options |= {"stream": "s"} if kind == "one" else SEVERAL[kind]
    created: list[Command] = [("DEL", "s")]
    created.append(("XGROUP", "CREATE", "s", "g", "$", "MKSTREAM"))
    with world.consumer(any_server.url, **options) as consumer:
        rows = 0
        while rows < (10 if kind == "one" else 20):
            rows += len(next(consumer))
        if not restarted:
            reconnecting(client, *created)
            with later(1.3, lambda: add_numbers(client, "s", 12, first=11)):
                assert next(consumer).frame["n"].to_list() == [11, 12]
    if restarted:
        reconnecting(client, *created)
        with world.consumer(any_server.url, **options) as consumer:
            with later(0.3, lambda: add_numbers(client, "s", 12, first=11)):
                assert next(consumer).frame["n"].to_list() == [11, 12]


#: How a bounded read takes the streams.
BOUNDED: dict[str, dict[str, Any]] = {
    "one": {"stream": "s"},
    "one to an end": {"stream": "s", "end_id": "60000-0"},
    "list": {"stream": ["s", "t"]},
    "by ID": {"stream": ["s", "t"], "order": "id"},
    "the last ones": {"stream": ["s", "t"], "last": 90_000},
}


@pytest.mark.parametrize("kind", BOUNDED)
@pytest.mark.parametrize("lost", ["all", "the end", "grown", "another one's end", "another one"])
def test_a_bounded_read_is_not_cut_short_by_what_a_server_has_lost(
    any_server: Server, client: redis.Redis, kind: str, lost: str
) -> None:
    """Neither where the streams that lost their ends have not been begun."""
    if lost.startswith("another") and kind.startswith("one"):
        pytest.skip("of several")
    for stream in "st":
        add_numbers(client, stream, 50_000)
    with Proxy(any_server.port) as proxy:
        reader = stream_reader(proxy.url, schema=NUMBER, batch_size=1_000, **BOUNDED[kind])
        batches = pa.RecordBatchReader.from_stream(reader)
        batches.read_next_batch()
        for stream in "t" if lost.startswith("another") else "st":
            client.delete(stream)
            if lost not in ("all", "another one"):
                add_numbers(client, stream, 30_000)
            if lost == "grown":
                add_numbers(client, stream, 55_001, first=55_000)
        proxy.cut_all()
        what = "does not exist" if lost in ("all", "another one") else "lost the end"
        # It is pyarrow's error, or ours.
        with pytest.raises(Exception, match=f"DataLossError.*{what}.*50000-0"):
            assert [*batches] == []
