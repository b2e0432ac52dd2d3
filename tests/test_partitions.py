"""Reads cut into partitions, and positions in streams."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterable

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import RedisConnection, StreamPartition, split_stream
from redfloe._reading.offsets import check_offsets
from support.cluster import Cluster
from support.proxy import Proxy
from support.secrets import PASSWORD, with_password
from support.sentinel import Deployment
from support.server import Server
from support.streams import NUMBER, add, add_numbers


def read(partitions: Iterable[StreamPartition]) -> pl.DataFrame:
    return pl.concat([partition.read(NUMBER) for partition in partitions])


def add_bursts(client: redis.Redis, stream: str) -> None:
    """Add 3,000 entries a minute apart, and 12,000 in one millisecond amid them."""
    burst = [(f"60000000-{number}", {"n": number}) for number in range(12_000)]
    sparse = [(f"{number * 60_000 + 1}-0", {"n": number}) for number in range(3_000)]
    add(client, stream, sorted([*sparse, *burst], key=lambda e: [*map(int, e[0].split("-"))]))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_partitions_are_the_stream(
    any_server: Server, client: redis.Redis, stream: str, n: int
) -> None:
    add_numbers(client, stream, 1_000)
    partitions = split_stream(any_server.url, stream, n)
    assert len(partitions) == n
    assert_frame_equal(read(partitions), redfloe.read_stream(any_server.url, stream, NUMBER))
    heights = [partition.read(NUMBER).height for partition in partitions]
    assert max(heights) - min(heights) <= 1
    assert [partition.rows for partition in partitions] == pytest.approx(heights, abs=1)


def test_a_stream_that_is_too_large_to_be_counted(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """Of 15,000 entries a sample is taken, and what it misses shows."""
    add_bursts(client, stream)
    partitions = split_stream(server.url, stream, 5)
    heights = [partition.read(NUMBER).height for partition in partitions]
    assert sum(heights) == 15_000
    assert max(heights) <= 1.2 * 3_000, heights
    add_numbers(client, "even", 15_000)
    heights = [part.read(NUMBER).height for part in split_stream(server.url, "even", 5)]
    assert (sum(heights), max(heights) <= 1.2 * 3_000) == (15_000, True), heights


def test_the_end_is_frozen_and_reads_are_repeatable(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100)
    partitions = split_stream(any_server.url, stream, 3)
    whole = read(partitions)
    client.xadd(stream, {"n": 101}, id="101-0")
    assert_frame_equal(read(partitions), whole)
    batches = [batch for part in partitions for batch in part.read_batches(NUMBER, batch_size=10)]
    assert_frame_equal(pl.concat(batches), whole)
    assert max(batch.height for batch in batches) == 10
    assert_frame_equal(pl.concat(pl.DataFrame(part.reader(NUMBER)) for part in partitions), whole)


def test_bounds(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 100)
    partitions = split_stream(any_server.url, stream, 4, start_id="11", end_id=90)
    assert read(partitions)["n"].to_list() == [*range(11, 91)]
    assert len(partitions) == 4
    assert split_stream(any_server.url, stream, 4, start_id="200") == []
    assert split_stream(any_server.url, "missing", 4) == []
    with pytest.raises(redfloe.NoStreamError):
        split_stream(any_server.url, "missing", 4, must_exist=True)
    with pytest.raises(ValueError, match="n must be at least 1"):
        split_stream(any_server.url, stream, 0)


def test_several_streams(any_server: Server, client: redis.Redis) -> None:
    sizes = {"a": 10, "b": 300, "c": 0, "d": 90}
    for name, size in sizes.items():
        add_numbers(client, name, size)
    partitions = split_stream(any_server.url, [*sizes], 4)
    assert [partition.rows for partition in partitions] == [100] * 4
    assert [[*partition.ranges] for partition in partitions] == [
        ["a", "b"],
        ["b"],
        ["b"],
        ["b", "d"],
    ]
    assert_frame_equal(read(partitions), redfloe.read_stream(any_server.url, [*sizes], NUMBER))


def test_in_a_cluster(cluster: Cluster) -> None:
    names = ["a", "b", "c"]
    for name in names:
        redfloe.write_stream(cluster.url, pl.DataFrame({"n": range(1, 101)}), name)
    partitions = split_stream(cluster.url, names, 2)
    assert [partition.read(NUMBER).height for partition in partitions] == [150, 150]
    end = redfloe.stream_offsets(cluster.url, names)
    ahead = redfloe.advance_offsets(cluster.url, {}, 90, up_to=end)
    partitions = split_stream(cluster.url, names, 2, after={}, up_to=ahead)
    assert read(partitions)["n"].to_list() == [*range(1, 31)] * 3


def test_by_sentinels(sentinels: Deployment) -> None:
    redfloe.write_stream(sentinels.url, pl.DataFrame({"n": range(1, 101)}), "s")
    assert read(split_stream(sentinels.url, "s", 3))["n"].to_list() == [*range(1, 101)]


SCRIPT = """
import pickle, sys
partition = pickle.loads(sys.stdin.buffer.read())
print(partition.read({"n": int})["n"].to_list())
"""


def test_another_process_reads_one(server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 10)
    partitions = split_stream(server.url, stream, 2)
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        command, input=pickle.dumps(partitions[1]), capture_output=True, check=False
    )
    assert done.stdout.decode().strip() == "[6, 7, 8, 9, 10]", done.stderr.decode()


def test_no_repr_has_the_password() -> None:
    partition = StreamPartition(
        {"s": ("1-0", "2-0")}, 2, RedisConnection(with_password("redis://localhost:1")), [], False
    )
    assert PASSWORD not in repr(partition)
    assert "'s': 1-0..2-0" in repr(partition)


def test_offsets(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 100)
    url = any_server.url
    end = redfloe.stream_offsets(url, [stream, "missing"])
    assert end == {stream: "100-0", "missing": "0-0"}
    assert redfloe.stream_offsets(url, stream, "-") == {stream: "0-0"}
    assert redfloe.stream_offsets(url, stream, "51") == {stream: "50-0"}
    assert redfloe.stream_offsets(url, stream, 1_000) == {stream: "100-0"}
    ahead = redfloe.advance_offsets(url, {stream: "50-0"}, 7, up_to=end)
    assert ahead == {stream: "57-0", "missing": "0-0"}
    assert redfloe.advance_offsets(url, ahead, 1_000, up_to=end) == end
    assert redfloe.advance_offsets(url, end, 10, up_to=end) == end
    partitions = split_stream(url, stream, 2, after={stream: "50-0"}, up_to=ahead)
    assert read(partitions)["n"].to_list() == [*range(51, 58)]
    with pytest.raises(ValueError, match="malformed"):
        redfloe.advance_offsets(url, {stream: "x"}, 1, up_to=end)
    with pytest.raises(ValueError, match="an offset is an entry ID"):
        split_stream(url, stream, 2, after={stream: f"{2**64}-0"}, up_to=end)
    assert len(split_stream(url, stream, 10**12)) <= client.xlen(stream)


def test_entries_ahead_are_of_all_streams(any_server: Server, client: redis.Redis) -> None:
    for name, size in {"a": 3, "b": 100, "c": 100}.items():
        add_numbers(client, name, size)
    end = redfloe.stream_offsets(any_server.url, ["a", "b", "c"])
    ahead = redfloe.advance_offsets(any_server.url, {}, 31, up_to=end)
    assert ahead["a"] == "3-0"
    assert sum(int(offset.split("-")[0]) for offset in ahead.values()) == 31
    # An older end than the position: nothing is given back.
    assert redfloe.advance_offsets(any_server.url, {"b": "50-0"}, 5, up_to={"b": "9-0"}) == {
        "b": "50-0"
    }


def test_lost_entries_show(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 100)
    url = RedisConnection(any_server.url)
    check_offsets(url, {stream: "50-0", "missing": "0-0"})
    client.xtrim(stream, maxlen=10, approximate=False)
    check_offsets(url, {stream: "95-0"})
    with pytest.raises(redfloe.DataLossError, match="trimmed past 50-0"):
        check_offsets(url, {stream: "50-0"})


def test_lost_entries_of_many_streams_are_looked_up_together(
    redis70: Server, client: redis.Redis
) -> None:
    """However many there are; the error is of the first that has lost some."""
    streams = [f"s{number}" for number in range(40)]
    for stream in streams:
        add_numbers(client, stream, 9)
    offsets = dict.fromkeys(streams, "3-0")
    with Proxy(redis70.port) as proxy:
        url = RedisConnection(proxy.url)
        check_offsets(url, offsets)
        before = proxy.round_trips
        check_offsets(url, offsets)
        assert proxy.round_trips - before <= 3
        for stream in ("s30", "s20"):
            client.xtrim(stream, minid="5-0", approximate=False)
        with pytest.raises(redfloe.DataLossError, match=r"trimmed past 3-0.*stream: s20\)"):
            check_offsets(url, offsets)
