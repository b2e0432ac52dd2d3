"""Reads of several nodes of a cluster at once: pieces, forks, the log, and nodes that hang."""

from __future__ import annotations

import threading
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    RedisConnection,
    RedisTimeoutError,
    SchemaError,
    read_stream,
    read_streams,
    scan_stream,
)
from support.cluster import Cluster, paused, proxied
from support.processes import finish, hear, python
from support.streams import NUMBER, add, add_numbers
from support.timing import within

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]

ORDERS: Any = ["stream", "id"]


def test_a_large_read_copies_no_rows(cluster: Cluster) -> None:
    # 40,000 rows of each node are a chunk; those of the small streams between them are one.
    large, small = cluster.key_of_each(), cluster.keys(6)[3:]
    keys = [large[0], *small, *large[1:]]
    for number, key in enumerate(keys):
        lengths = 40_000 if key in large else 3
        cluster.client(key).eval(
            "for n = 1, ARGV[1] do redis.call('XADD', KEYS[1], n .. '-0', 'n', ARGV[2]) end",
            1,
            key,
            lengths,
            number,
        )
    df = read_stream(cluster.url, keys, NUMBER)
    assert df.n_chunks() == 4
    assert df["_stream"].rle().struct.field("value").to_list() == keys
    assert df["_stream"].rle().struct.field("len").to_list() == [40_000, 3, 3, 3, 40_000, 40_000]
    assert df["n"].rle().struct.field("value").to_list() == [*range(6)]
    assert df["_ts"].to_list() == [
        t for n in df["_stream"].rle().struct.field("len") for t in range(1, n + 1)
    ]
    by_id = read_stream(cluster.url, keys, NUMBER, order="id")
    order = pl.col("_stream").replace_strict(keys, range(6), return_dtype=pl.Int64)
    assert_frame_equal(by_id, df.sort("_ts", order))
    lf = scan_stream(cluster.url, keys, NUMBER)
    assert_frame_equal(lf.collect(), df)


def test_wide_streams_of_which_each_has_other_fields(cluster: Cluster) -> None:
    # By ID each row is a run of its own.
    keys = cluster.keys(8)
    for place, key in enumerate(keys):
        names = [f"f{place}_{n}" for n in range(100)]
        rows = [(f"{ms}-0", dict.fromkeys(names, str(ms))) for ms in range(1, 21)]
        add(cluster.client(key), key, rows)
    whole = read_stream(cluster.url, keys)
    assert whole.shape == (160, 803)
    by_id = read_stream(cluster.url, keys, order="id")
    assert by_id["_stream"].to_list() == keys * 20
    assert by_id.columns == whole.columns
    order = pl.col("_stream").replace_strict(keys, range(8), return_dtype=pl.Int64)
    assert_frame_equal(by_id, whole.sort("_ts", order))
    with pytest.raises(SchemaError, match=r"and .* has not"):
        read_stream(cluster.url, keys, order="id", on_schema_mismatch="raise")


@pytest.mark.parametrize("order", ORDERS)
def test_a_fork_while_nodes_are_read(cluster: Cluster, order: Any) -> None:
    """The child reads the rest on connections of its own, and the parent reads on."""
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 60)
    script = """
        import pyarrow as pa
        url, order, *keys = sys.argv[1:]
        reader = redfloe.stream_reader(url, keys, {"n": int}, order=order, batch_size=7)
        batches = iter(pa.RecordBatchReader.from_stream(reader))
        numbers = next(batches)["n"].to_pylist()
        child = os.fork()
        numbers += [n for batch in batches for n in batch["n"].to_pylist()]
        print(json.dumps(numbers), flush=True)
        del batches, reader
        if child:
            assert os.waitpid(child, 0)[1] == 0
    """
    with python(script, cluster.url, order, *keys) as process, within(10):
        ns = [*range(1, 61)]
        whole = ns * 3 if order == "stream" else [n for n in ns for _ in keys]
        assert hear(process) == hear(process) == whole
        finish(process)


def missing(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [r for r in caplog.records if getattr(r, "event", None) == "fields_missing"]


@pytest.mark.parametrize("order", ORDERS)
def test_fields_that_no_node_has(
    cluster: Cluster, caplog: pytest.LogCaptureFixture, order: Any
) -> None:
    keys = cluster.key_of_each()
    schema = {"n": pl.Int64, "rare": pl.Int64, "note": pl.String}
    options: Any = {"order": order}
    for key in keys:
        add_numbers(cluster.client(key), key, 150)
    with caplog.at_level("DEBUG", "redfloe"):
        read_stream(cluster.url, keys, schema, **options)
        [event] = missing(caplog)
        assert (event.missing, event.present, event.entries) == (["rare", "note"], ["n"], 450)
        caplog.clear()
        # In batches, and once.
        assert scan_stream(cluster.url, keys, schema, **options).collect().height == 450
        [event] = missing(caplog)
        assert event.missing == ["rare", "note"]
        caplog.clear()
        # One entry of one node has it, and comes last.
        add(cluster.client(keys[2]), keys[2], [("900-0", {"rare": "1"})])
        read_stream(cluster.url, keys, {"n": pl.Int64, "rare": pl.Int64}, **options)
        # Nothing is known of what has no entries, nor of few.
        read_stream(cluster.url, cluster.keys(3, "none"), schema, **options)
        read_stream(cluster.url, keys, schema, count=2, **options)
        assert missing(caplog) == []


def test_a_node_that_hangs_while_streams_are_looked_for(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    for key in keys:
        add_numbers(cluster.client(key), key, 1)
    short = RedisConnection(cluster.url, response_timeout=0.5, client_name="short")
    assert read_streams(short, pattern="stream-*").height == 3
    node = cluster.node(keys[1])
    with paused(node), within(2):
        with pytest.raises(RedisTimeoutError, match=f"address: 127.0.0.1:{node.port}"):
            read_streams(short, pattern="stream-*")


def test_nodes_are_looked_through_at_the_same_time(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    for key in keys:
        add_numbers(cluster.client(key), key, 1)
    with proxied(cluster) as (connection, proxies):
        assert redfloe.list_streams(connection).height == 3
        together = threading.Barrier(3)
        for key in keys:
            proxies[cluster.node(key).port].before(b"SCAN", lambda _: together.wait(5))
        assert redfloe.list_streams(connection).height == 3
        assert not together.broken


def test_fields_that_one_node_alone_has_are_not_missed(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = cluster.keys(2)
    add(cluster.client(first), first, [("1-0", {"a": "1"})])
    add(cluster.client(second), second, [("2-0", {"b": "2"})])
    with caplog.at_level("DEBUG", "redfloe"):
        df = read_stream(cluster.url, [first, second], {"a": pl.Int8, "b": pl.Int8})
    assert df["b"].to_list() == [None, 2]
    assert missing(caplog) == []
