"""Streams of several nodes of a cluster in one read: as those of one server, and in parallel."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    DecodeError,
    NoStreamError,
    RedisConnection,
    RedisConnectionError,
    SchemaError,
    WrongTypeError,
    infer_schema,
    read_stream,
    read_streams,
    scan_stream,
    stream_reader,
)
from support.cluster import Cluster, Node, proxied
from support.running import Running
from support.streams import NUMBER, Numbers, add, add_numbers, expected
from support.timing import eventually, later, within

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]

ORDERS: Any = ["stream", "id"]


def frames_of(reader: Any) -> Iterator[pl.DataFrame]:
    """Take an Arrow stream batch by batch."""
    for batch in pa.RecordBatchReader.from_stream(reader):
        yield pl.DataFrame(batch)


@pytest.fixture
def streams(cluster: Cluster) -> Numbers:
    """Streams of which no two in a row are on one node; some are short, some share IDs."""
    lengths = [3, 1, 40, 7, 300, 2, 11]
    return {
        key: [*range(1 + index % 2, 1 + index % 2 + length)]
        for index, (key, length) in enumerate(zip(cluster.keys(len(lengths)), lengths, strict=True))
    }


@pytest.mark.parametrize("order", ORDERS)
def test_rows_come_in_order_from_wherever_they_are(
    cluster: Cluster, cluster_url: str | RedisConnection, streams: Numbers, order: Any
) -> None:
    cluster.fill(streams)
    keys = [*streams, "none"]
    df = read_stream(cluster_url, keys, NUMBER, order=order)
    assert_frame_equal(df, expected(streams, order))
    reversed_ = dict(reversed(streams.items()))
    assert_frame_equal(
        read_stream(cluster_url, list(reversed_), NUMBER, order=order), expected(reversed_, order)
    )
    lf = scan_stream(cluster_url, keys, NUMBER, order=order)
    assert_frame_equal(lf.collect(), expected(streams, order))
    some = list(streams)[1:4]
    assert_frame_equal(
        lf.filter(pl.col("_stream").is_in(some)).collect(),
        expected(streams, order).filter(pl.col("_stream").is_in(some)),
    )
    found = dict(sorted(streams.items()))
    assert_frame_equal(
        read_streams(cluster_url, order=order), read_stream(cluster_url, list(found), order=order)
    )
    df = asyncio.run(redfloe.read_stream_async(cluster_url, keys, NUMBER, order=order))
    assert_frame_equal(df, expected(streams, order))
    assert infer_schema(cluster_url, keys) == pl.Schema(NUMBER)
    df = read_stream(cluster_url, keys, infer_schema=True, order=order)
    assert_frame_equal(df, expected(streams, order))


@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), order=st.sampled_from(ORDERS))
def test_batches_of_every_size_are_those_of_plain_reads(
    cluster: Cluster, streams: Numbers, data: st.DataObject, order: Any
) -> None:
    numbers = st.lists(st.integers(1, 60), max_size=40, unique=True).map(sorted)
    given_ = {key: data.draw(numbers) for key in streams}
    for node in cluster.masters:
        node.command("FLUSHALL")
    cluster.fill(given_)
    first, last = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 60))
    count = data.draw(st.none() | st.integers(0, 100))
    newest = None if count is not None else data.draw(st.none() | st.integers(0, 100))
    options: Any = {"order": order, "start_id": first, "end_id": last}
    options |= {"count": count} if newest is None else {"last": newest}
    whole = expected(
        {key: [n for n in ns if first <= n <= last] for key, ns in given_.items()}, order
    )
    whole = whole.head(count) if count is not None else whole
    whole = whole.tail(newest) if newest is not None else whole
    assert_frame_equal(read_stream(cluster.url, list(given_), NUMBER, **options), whole)
    batch_size = data.draw(st.integers(1, 50))
    batch_bytes = data.draw(st.sampled_from([1, 200, 10**6]))
    reader = stream_reader(
        cluster.url,
        list(given_),
        NUMBER,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        **options,
    )
    frames = list(frames_of(reader))
    assert max(map(len, frames), default=0) <= batch_size
    assert_frame_equal(pl.concat([whole.clear(), *frames]), whole)


@pytest.mark.parametrize("order", ORDERS)
def test_columns_are_those_of_any_stream_in_the_order_of_rows(cluster: Cluster, order: Any) -> None:
    keys = cluster.keys(4)
    fields: list[dict[str, str]] = [
        {"b": "1", "a": "2"},
        {"c": "3"},
        {"a": "4", "e": ""},
        {"d": "5"},
    ]
    for number, (key, entry) in enumerate(zip(keys, fields, strict=True), 1):
        add(cluster.client(key), key, [(f"{number}-0", entry)])
    options: Any = {"order": order, "include_id": False, "include_timestamp": False}
    df = read_stream(cluster.url, keys, **options)
    assert df.columns == ["_stream", "b", "a", "c", "e", "d"]
    assert df.rows() == [
        (keys[0], "1", "2", None, None, None),
        (keys[1], None, None, "3", None, None),
        (keys[2], None, "4", None, "", None),
        (keys[3], None, None, None, None, "5"),
    ]
    df = read_stream(
        cluster.url, keys, **options, null_values={"c": "3"}, schema_overrides={"z": pl.Int8}
    )
    assert sorted(df.columns) == ["_stream", "a", "b", "c", "d", "e", "z"]
    assert df.columns[-1] == "z"
    df = read_stream(
        cluster.url, keys, {"a": pl.Int64}, rescue_column="_rescued", order=order, progress=True
    )
    assert df.columns == ["_id", "_ts", "_stream", "a", "_rescued"]
    assert df["_rescued"].to_list() == ['{"b":"1"}', '{"c":"3"}', '{"e":""}', '{"d":"5"}']
    with pytest.raises(SchemaError, match=r'has the field "[abcde]", and ".*" has not'):
        read_stream(cluster.url, keys, on_schema_mismatch="raise", order=order)
    with pytest.raises(SchemaError, match="max_columns=4"):
        read_stream(cluster.url, keys, max_columns=4, order=order)
    assert infer_schema(cluster.url, keys).names() == ["b", "a", "c", "e", "d"]


@pytest.mark.parametrize("order", ORDERS)
def test_errors_name_the_stream(cluster: Cluster, streams: Numbers, order: Any) -> None:
    cluster.fill(streams)
    url, keys = cluster.url, list(streams)
    with pytest.raises(NoStreamError, match="stream: nope"):
        read_stream(url, [*keys, "nope"], must_exist=True, order=order)
    add(cluster.client(keys[3]), keys[3], [("9000-0", {"n": "nine"})])
    with pytest.raises(DecodeError, match=rf"entry ID: 9000-0.*stream: {keys[3]}\b"):
        read_stream(url, keys, NUMBER, order=order)
    with pytest.raises(pa.ArrowInvalid, match=rf"DecodeError.*stream: {keys[3]}\b"):
        list(frames_of(stream_reader(url, keys, NUMBER, order=order, batch_size=10)))
    # What is not wanted is not met.
    wanted = sum(map(len, list(streams.values())[:4])) if order == "stream" else 5
    df = read_stream(url, keys, NUMBER, order=order, count=wanted)
    assert_frame_equal(df, expected(streams, order).head(wanted))
    cluster.client("text").set("text", "x")
    with pytest.raises(WrongTypeError, match="stream: text"):
        read_stream(url, [*keys, "text"], NUMBER, order=order)


def test_rows_before_an_entry_that_does_not_fit_are_given(cluster: Cluster) -> None:
    """Also those of other nodes, up to the place of that entry and no further."""
    keys = cluster.keys(6)
    for key in keys:
        add_numbers(cluster.client(key), key, 5)
    add(cluster.client(keys[3]), keys[3], [("9-0", {"n": "nine"})])
    found: list[pl.DataFrame] = []
    reader = stream_reader(cluster.url, keys, NUMBER, batch_size=7)
    with pytest.raises(pa.ArrowInvalid, match="9-0"):
        found.extend(frames_of(reader))
    assert_frame_equal(pl.concat(found), expected({key: [1, 2, 3, 4, 5] for key in keys[:4]}))


@pytest.mark.parametrize("order", ORDERS)
def test_waits_for_the_first_entry_of_any(
    cluster: Cluster, cluster_url: str | RedisConnection, streams: Numbers, order: Any
) -> None:
    cluster.fill(streams)
    keys = list(streams)
    last = keys[4]
    with later(0.2, lambda: add(cluster.client(last), last, [("9000-0", {"n": 9000})])):
        df = read_stream(cluster_url, keys, NUMBER, start_id="$", block_ms=10_000, order=order)
    assert_frame_equal(df, expected({last: [9000]}))
    start = time.monotonic()
    assert read_stream(
        cluster_url, keys, NUMBER, start_id="9001", block_ms=150, order=order
    ).is_empty()
    assert time.monotonic() - start >= 0.15


@pytest.mark.parametrize("order", ORDERS)
def test_the_nodes_read_at_the_same_time(cluster: Cluster, order: Any) -> None:
    """Each waits until all have been asked."""
    keys = cluster.key_of_each()
    for key in keys:
        add_numbers(cluster.client(key), key, 100)
    with proxied(cluster) as (connection, proxies):
        barrier = threading.Barrier(3)
        met: list[int] = []

        def meet(number: int) -> None:
            if number == 1:
                met.append(barrier.wait(10))

        for key in keys:
            proxies[cluster.node(key).port].before(b"XRANGE", meet)
        df = read_stream(connection, keys, NUMBER, order=order)
    assert sorted(met) == [0, 1, 2]
    assert_frame_equal(df, expected({key: [*range(1, 101)] for key in keys}, order))


@pytest.mark.parametrize("order", ORDERS)
def test_a_node_is_ahead_by_few_pages(cluster: Cluster, order: Any) -> None:
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 40_000)
    with proxied(cluster) as (connection, proxies):
        reader = pa.RecordBatchReader.from_stream(
            stream_reader(connection, keys, NUMBER, batch_size=1_000, order=order)
        )
        first = pl.DataFrame(reader.read_next_batch())
        time.sleep(0.3)
        for proxy in proxies.values():
            counts = [int(c[-1]) for c in proxy.commands if c[0] == b"XRANGE"]
            assert sum(counts) <= 15_000, counts
        whole = pl.concat([first, *(pl.DataFrame(batch) for batch in reader)])
    assert (
        whole.group_by("_stream")
        .agg(pl.len(), pl.col("n").max(), pl.col("n").n_unique().alias("u"))[["len", "n", "u"]]
        .rows()
        == [(40_000, 40_000, 40_000)] * 3
    )
    assert whole["n"].is_sorted() == (order == "id")


def test_many_streams_of_one_slot_and_of_many(cluster: Cluster) -> None:
    keys = [f"{{{number % 40}}}:{number}" for number in range(400)]
    nodes = {f"{{{tag}}}": cluster.client(f"{{{tag}}}") for tag in range(40)}
    for number, key in enumerate(keys):
        add(nodes[f"{{{number % 40}}}"], key, [(f"{n}-0", {"n": n}) for n in (1, number + 2)])
    with proxied(cluster) as (connection, proxies):
        for order in ORDERS:
            read_stream(connection, keys, NUMBER, order=order)
            for proxy in proxies.values():
                proxy.commands.clear()
            before = sum(proxy.round_trips for proxy in proxies.values())
            df = read_stream(connection, keys, NUMBER, order=order)
            streams = {key: [1, number + 2] for number, key in enumerate(keys)}
            assert_frame_equal(df, expected(streams, order))
            assert sum(proxy.round_trips for proxy in proxies.values()) - before <= 60
            assert sum(proxy.count(b"XRANGE") for proxy in proxies.values()) == 400


@pytest.mark.parametrize("order", ORDERS)
def test_a_slot_that_has_moved_costs_few_questions(
    cluster: Cluster, streams: Numbers, order: Any
) -> None:
    cluster.fill(streams)
    keys = list(streams)
    connection = RedisConnection(cluster.url, client_name="moved")
    read_stream(connection, keys, NUMBER, order=order)
    before = redirections(cluster)
    cluster.move(keys[2])
    for _ in range(3):
        df = read_stream(connection, keys, NUMBER, order=order)
        assert_frame_equal(df, expected(streams, order))
    assert 1 <= redirections(cluster) - before <= 3


def redirections(cluster: Cluster) -> int:
    total = 0
    for node in cluster.masters:
        stats: dict[str, Any] = node.client().info("errorstats")
        total += int(stats.get("errorstat_MOVED", {"count": 0})["count"])
    return total


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.slow
def test_a_node_that_cannot_be_reached_is_said(cluster: Cluster, order: Any) -> None:
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 50_000)
    options: Any = {"max_retries": 1, "connect_timeout": 1.0, "retry_base_delay": 0.01}
    with proxied(cluster, **options) as (connection, proxies):
        proxy = proxies[cluster.node(keys[1]).port]
        proxy.cut_after(1_000, once_seen=b"XRANGE", skip=1, times=1_000)
        with within(5), pytest.raises(RedisConnectionError):
            read_stream(connection, keys, NUMBER, order=order)
        found: list[pl.DataFrame] = []
        reader = stream_reader(connection, keys, NUMBER, order=order, batch_size=5_000)
        with within(5), pytest.raises(pa.ArrowException):
            found.extend(frames_of(reader))
    whole = expected({key: [*range(1, 50_001)] for key in keys}, order)
    df = pl.concat([whole.clear(), *found])
    assert_frame_equal(df, whole.head(len(df)))


@pytest.mark.parametrize("order", ORDERS)
def test_lost_connections_lose_and_double_nothing(
    cluster: Cluster, streams: Numbers, order: Any
) -> None:
    cluster.fill(streams)
    long = list(streams)[4]
    add_numbers(cluster.client(long), long, 30_000, first=streams[long][-1] + 1)
    streams[long] = [*range(streams[long][0], 30_001)]
    options: Any = {"max_retries": 50, "retry_base_delay": 0.001}
    with proxied(cluster, **options) as (connection, proxies):
        for skip, size in ((0, 0), (1, 100), (2, 30_000)):
            faults = [
                proxy.cut_after(size, once_seen=b"XRANGE", skip=skip, times=2)
                for proxy in proxies.values()
            ]
            df = read_stream(connection, list(streams), NUMBER, order=order)
            assert_frame_equal(df, expected(streams, order))
            assert sum(fault.hits for fault in faults) > 0


@pytest.mark.parametrize("order", ORDERS)
def test_replicas_serve_reads_of_streams_of_several_nodes(
    cluster: Cluster, streams: Numbers, order: Any
) -> None:
    cluster.fill(streams)
    keys = list(streams)
    for key in keys:
        eventually(partial(has_all, cluster.replica(key), cluster.node(key)), seconds=10)
    connection = RedisConnection(cluster.url, read_from="replica")
    before = {node.port: calls(node) for node in cluster.nodes}
    for _ in range(2):
        df = read_stream(connection, keys, NUMBER, order=order, last=200)
        assert_frame_equal(df, expected(streams, order).tail(200))
        df = scan_stream(connection, keys, NUMBER, order=order).collect()
        assert_frame_equal(df, expected(streams, order))
    for key in keys:
        master, replica = cluster.node(key), cluster.replica(key)
        assert calls(master) == before[master.port]
        assert calls(replica) > before[replica.port]


def has_all(replica: Node, master: Node) -> bool:
    return offset(replica) == offset(master)


def offset(node: Node) -> int:
    info: dict[str, Any] = node.client().info("replication")
    return int(info["slave_repl_offset" if info["role"] == "slave" else "master_repl_offset"])


def calls(node: Node) -> int:
    """How many ranges a node has read, and lengths."""
    stats: dict[str, Any] = node.client().info("commandstats")
    names = ("xrange", "xrevrange", "xlen")
    return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in names)


@pytest.mark.parametrize("name", ["redis-8.10", "valkey"])
def test_other_servers(clusters: Running[Cluster], name: str) -> None:
    cluster = clusters.get(name)
    streams = {key: [*range(1, 20 + index)] for index, key in enumerate(cluster.keys(5))}
    cluster.fill(streams)
    for order in ORDERS:
        for url in (cluster.nodes[1].url, cluster.url):
            df = read_stream(url, list(streams), NUMBER, order=order)
            assert_frame_equal(df, expected(streams, order))
