"""Redis Cluster: everything works from any node, whatever key is served where."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from random import Random
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import (
    RedisConnection,
    StreamConsumer,
    _core,
    delete_processor,
    processor_info,
    read_stream,
    read_table,
    reset_processor,
    scan_stream,
    table_key,
    write_stream,
)
from redfloe._processing.table import table_request
from support.cluster import Cluster, Node, proxied
from support.groups import DRAIN, ME, pending
from support.lanes import put_lane
from support.processes import finish, hear, python
from support.processing import load_state, load_table, read_hash
from support.proxy import Proxy
from support.running import Running
from support.server import HOST, Server
from support.streams import NUMBER, add_numbers, numbers
from support.timing import eventually, within

# One process of a test run starts the cluster.
pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]


# Reading


def test_a_read_finds_each_stream(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    for key in cluster.keys(6):
        add_numbers(cluster.client(key), key, 3)
        assert_frame_equal(read_stream(cluster_url, key, NUMBER), numbers(3))
        assert_frame_equal(scan_stream(cluster_url, key, NUMBER).collect(), numbers(3))
        assert redfloe.infer_schema(cluster_url, key) == pl.Schema(NUMBER)


def test_a_read_of_many_pages_waits_for_more(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    key = cluster.keys(2)[1]
    add_numbers(cluster.client(key), key, 30_000)
    assert_frame_equal(read_stream(cluster_url, key, NUMBER), numbers(30_000))
    df = read_stream(cluster_url, key, NUMBER, "30001", block_ms=20)
    assert df.is_empty()
    assert read_stream(cluster_url, key, NUMBER, last=2)["n"].to_list() == [29_999, 30_000]


def test_iterators_follow(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    for key in cluster.keys(3):
        add_numbers(cluster.client(key), key, 10)
        found = list(
            redfloe.iter_stream(
                cluster_url, key, NUMBER, "0", batch_size=4, on_idle="stop", block_ms=1
            )
        )
        assert_frame_equal(pl.concat(found), numbers(10))


def test_event_loops_follow(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 10)

    async def drain(key: str) -> pl.DataFrame:
        batches = redfloe.stream_batches(cluster_url, key, NUMBER, "0", on_idle="stop", block_ms=1)
        return pl.concat([batch async for batch in batches])

    async def all_of_them() -> list[pl.DataFrame]:
        return await asyncio.gather(*map(drain, keys))

    for df in asyncio.run(all_of_them()):
        assert_frame_equal(df, numbers(10))


# Groups


def test_groups_work(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    for key in cluster.keys(3):
        client = cluster.client(key)
        add_numbers(client, key, 5)
        df = read_stream(cluster_url, key, NUMBER, **ME, create_group=True, auto_ack=False)
        assert_frame_equal(df, numbers(5))
        assert pending(client, key) == [1, 2, 3, 4, 5]
        assert redfloe.ack_entries(cluster_url, key, "g", df["_id"]) == 5
        assert pending(client, key) == []


def test_workers_work(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    for key in cluster.keys(3):
        client = cluster.client(key)
        add_numbers(client, key, 5)
        with StreamConsumer(cluster_url, key, schema=NUMBER, **ME, **DRAIN) as consumer:
            for batch in consumer:
                assert batch.frame["n"].to_list() == [1, 2, 3, 4, 5]
                batch.ack()
        assert pending(client, key) == []


# Writing


def test_a_write_finds_each_stream(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    frame = pl.DataFrame({"n": range(1_000)})
    for key in cluster.keys(6):
        assert write_stream(cluster_url, frame, key).len() == 1_000
        df = read_stream(cluster_url, key, NUMBER, include_id=False, include_timestamp=False)
        assert_frame_equal(df, frame)


def test_a_write_in_one_step(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    frame = pl.DataFrame({"id": ["1-0", "2-0"], "n": [1, 2]})
    for key in cluster.keys(3):
        write_stream(cluster_url, frame, key, atomic=True, id_column="id")
        assert_frame_equal(read_stream(cluster_url, key, NUMBER), numbers(2))


# Administration


def test_streams_are_looked_after(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    for key in cluster.keys(3):
        add_numbers(cluster.client(key), key, 9)
        assert redfloe.create_group(cluster_url, key, "g")
        assert redfloe.stream_info(cluster_url, key)["length"].item() == 9
        assert redfloe.group_info(cluster_url, key)["name"].to_list() == ["g"]
        assert redfloe.trim_stream(cluster_url, key, maxlen=4, approximate=False) == 5
        assert redfloe.delete_group(cluster_url, key, "g")


# Several keys in one call


def test_rows_for_streams_of_several_nodes(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    keys = cluster.keys(7)
    frame = pl.DataFrame({"stream": keys * 500, "n": range(3_500)})
    ids = write_stream(cluster_url, frame, pl.col("stream"))
    assert ids.len() == 3_500
    assert ids.null_count() == 0
    for index, key in enumerate(keys):
        df = read_stream(cluster_url, key, NUMBER)
        assert df["n"].to_list() == list(range(index, 3_500, 7))
        assert df["_id"].to_list() == ids.to_list()[index::7]


def test_a_refused_row_among_those_of_several_nodes(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    """What is in is known exactly, whichever node it is on."""
    keys = cluster.keys(6)
    numbers_ = range(1, 601)
    frame = pl.DataFrame({"stream": keys * 100, "id": [f"{n}-0" for n in numbers_], "n": numbers_})
    # Only the write itself can tell: the ID of a row in the middle is too small.
    write_stream(cluster_url, pl.DataFrame({"id": ["303-0"], "n": [0]}), keys[2], id_column="id")
    with pytest.raises(redfloe.WriteError, match=r"does not come after 303-0"):
        write_stream(cluster_url, frame, pl.col("stream"), id_column="id")
    cluster.client("key").set("key", "text")
    with pytest.raises(redfloe.WrongTypeError):
        write_stream(cluster_url, frame.with_columns(stream=pl.lit("key")), pl.col("stream"))
    user = cluster.node(keys[3])
    user.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(redfloe.WriteError, match="OOM") as raised:
            write_stream(
                RedisConnection(cluster.url, max_retries=0), frame, pl.col("stream"), batch_size=50
            )
    finally:
        user.command("CONFIG", "SET", "maxmemory", 0)
    error = raised.value
    assert error.ids is not None
    there = {
        (key, entry): n
        for key in keys
        for entry, n in read_stream(cluster_url, key, NUMBER)
        .filter(pl.col("n") > 0)
        .select("_id", "n")
        .rows()
    }
    said = {
        (frame["stream"][row], entry): frame["n"][row]
        for row, entry in enumerate(error.ids)
        if entry is not None
    }
    assert said == there
    assert error.rows_written == len(said)
    assert error.row is not None
    assert error.ids[error.row] is None
    assert error.ids[: error.row].null_count() == 0


def test_one_step_needs_one_slot(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    frame = pl.DataFrame({"stream": cluster.keys(2), "n": [1, 2]})
    with pytest.raises(ValueError, match=r"streams of one slot, .*\{stream-1\}:orders"):
        write_stream(cluster_url, frame, pl.col("stream"), atomic=True)
    tagged = frame.with_columns(stream=pl.Series(["{a}:1", "{a}:2"]))
    assert write_stream(cluster_url, tagged, pl.col("stream"), atomic=True).null_count() == 0


def test_a_producer_for_several_nodes(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    keys = cluster.keys(6)
    with redfloe.StreamProducer(cluster_url, keys[0]) as producer:
        for n in range(3_000):
            producer.send({"n": n}, stream=keys[n % 6])
    for index, key in enumerate(keys):
        assert read_stream(cluster_url, key, NUMBER)["n"].to_list() == list(range(index, 3_000, 6))


@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_hashes_of_many_slots(
    cluster: Cluster, cluster_url: str | RedisConnection, if_exists: Any
) -> None:
    rows = 2_500
    frame = pl.DataFrame({"key": [f"h{n}" for n in range(rows)], "n": range(rows)})
    options = {"key_column": "key", "if_exists": if_exists, "ttl": 60}
    assert redfloe.write_hashes(cluster_url, frame, **options) == rows
    clients = {node.port: node.client() for node in cluster.masters}
    assert sum(client.dbsize() for client in clients.values()) == rows
    for n in (0, 1, 2, 3, 999, 1_000, 2_499):
        client = clients[cluster.node(f"h{n}").port]
        assert client.hget(f"h{n}", "n") == str(n).encode()
        assert client.pttl(f"h{n}") > 0
    if if_exists == "fail":
        with pytest.raises(redfloe.WriteError, match="exists already"):
            redfloe.write_hashes(cluster_url, frame, **options)


def test_hashes_are_written_to_all_nodes_at_the_same_time(cluster: Cluster) -> None:
    """Each waits until all have been asked."""
    rows = 600
    frame = pl.DataFrame({"key": [f"h{n}" for n in range(rows)], "n": range(rows)})
    barrier = threading.Barrier(3)

    def meet(number: int) -> None:
        if number == 1:
            barrier.wait(10)

    with proxied(cluster) as (connection, proxies):
        for node in cluster.masters:
            proxies[node.port].before(b"HSET", meet)
        assert redfloe.write_hashes(connection, frame, key_column="key", if_exists="merge") == rows
    assert not barrier.broken
    assert sum(node.client().dbsize() for node in cluster.masters) == rows


def test_hashes_that_some_nodes_refuse(cluster: Cluster) -> None:
    """The rows of the others are in, and the first that is not is named, whichever node has it."""
    rows = 300
    frame = pl.DataFrame({"key": [f"h{n}" for n in range(rows)], "n": range(rows)})
    refused = cluster.masters[:2]
    options: Any = {"key_column": "key", "if_exists": "merge"}
    for node in refused:
        node.command("CONFIG", "SET", "maxmemory", 1)
    try:
        with pytest.raises(redfloe.WriteError, match="OOM") as raised:
            redfloe.write_hashes(RedisConnection(cluster.url, max_retries=0), frame, **options)
    finally:
        for node in refused:
            node.command("CONFIG", "SET", "maxmemory", 0)
    error = raised.value
    missing = [n for n in range(rows) if cluster.node(f"h{n}") in refused]
    assert error.row == missing[0]
    assert error.rows_written == rows - len(missing)
    assert cluster.masters[2].client().dbsize() == rows - len(missing)
    assert redfloe.write_hashes(cluster.url, frame, **options) == rows


@pytest.mark.parametrize("if_exists", ["replace", "merge", "fail"])
def test_hashes_whose_answers_are_lost(cluster: Cluster, if_exists: Any) -> None:
    """They are written again where that changes nothing; else nobody knows of them."""
    rows = 900
    frame = pl.DataFrame({"key": [f"h{n}" for n in range(rows)], "n": range(rows)})
    options: Any = {"key_column": "key", "if_exists": if_exists}
    seen = {"replace": b"DEL", "merge": b"HSET", "fail": b"EVAL"}[if_exists]
    with proxied(cluster, retry_base_delay=0.01) as (connection, proxies):
        faults = [
            proxies[node.port].cut_after(0, once_seen=seen, skip=50) for node in cluster.masters[:2]
        ]
        if if_exists != "fail":
            assert redfloe.write_hashes(connection, frame, **options) == rows
        else:
            with pytest.raises(redfloe.OutcomeUnknownError) as raised:
                redfloe.write_hashes(connection, frame, **options)
            lost = [n for n in range(rows) if cluster.node(f"h{n}") in cluster.masters[:2]]
            unknown = raised.value.unknown
            assert unknown is not None
            assert raised.value.row is not None
            assert lost[0] <= raised.value.row <= unknown.start
            assert unknown.stop == lost[-1] + 1
            assert raised.value.rows_written >= rows - len(lost)
        assert [fault.hits for fault in faults] == [1, 1]
    present = sum(node.client().dbsize() for node in cluster.masters)
    assert present == rows if if_exists != "fail" else present >= rows - len(lost)


def test_streams_of_all_nodes_are_listed(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    keys = cluster.keys(8, "listed")
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
        redfloe.create_group(cluster_url, key, "g")
    assert redfloe.list_streams(cluster_url, "listed-*")["stream"].to_list() == sorted(keys)
    groups = redfloe.list_groups(cluster_url, "listed-*")
    assert groups["stream"].to_list() == sorted(keys)
    assert groups["lag"].to_list() == [3] * 8


# Dead letters


def test_dead_letters_share_the_slot_of_their_stream(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    for key in cluster.keys(2):
        dead = f"{{{key}}}:dead"
        cluster.client(key).xadd(key, {"n": "x"}, id="1-0")
        with StreamConsumer(
            cluster_url, key, schema=NUMBER, dead_letter=dead, **ME, **DRAIN
        ) as consumer:
            assert list(consumer) == []
        letters = redfloe.read_dead_letters(cluster_url, dead)
        assert letters["_dead_id"].to_list() == ["1-0"]
        assert redfloe.replay_dead_letters(cluster_url, dead).height == 1
        assert read_stream(cluster_url, key)["n"].to_list() == ["x", "x"]


def test_dead_letters_of_another_slot_are_refused(cluster: Cluster) -> None:
    options: dict[str, Any] = {**ME, **DRAIN, "schema": NUMBER, "dead_letter": "dead"}
    message = r"name it .*\{events\}:dead"
    with pytest.raises(ValueError, match=message):
        StreamConsumer(cluster.url, "events", **options)
    # Where the URL does not say that it is a cluster, the first batch does.
    url = cluster.nodes[1].url
    with (
        pytest.raises(ValueError, match=message),
        StreamConsumer(RedisConnection(url, client_name="new"), "events", **options) as consumer,
    ):
        next(consumer)


def test_checkpoints_have_their_own_slot(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    key = cluster.keys(2)[1]
    add_numbers(cluster.client(key), key, 10)
    store = redfloe.RedisCheckpointStore(cluster_url)
    options: dict[str, Any] = {"checkpoint_store": store, "checkpoint_name": "mine", **DRAIN}
    for first in (1, 6):
        given = []
        with StreamConsumer(
            cluster_url, key, schema=NUMBER, batch_size=5, start_id="0", **options
        ) as consumer:
            given = next(consumer).frame["n"].to_list()
        assert given == list(range(first, first + 5))


# Slots


def test_slots_are_those_of_the_server(cluster: Cluster) -> None:
    random = Random(7)
    letters = "ab{}{}é\0 "
    keys = ["", "{}", "{a", "a}{b}", "{a}{b}", "{{a}}", "{}{a}", "a{b}c"]
    keys += ["".join(random.choices(letters, k=random.randrange(12))) for _ in range(500)]
    pipeline = cluster.nodes[0].client().pipeline(transaction=False)
    for key in keys:
        pipeline.execute_command("CLUSTER", "KEYSLOT", key.encode())
    assert [_core.key_slot(key.encode()) for key in keys] == pipeline.execute()


# Where a cluster is not what it seems


def test_a_cluster_url_of_a_plain_server(any_server: Server, stream: str) -> None:
    url = any_server.url.replace("redis://", "redis+cluster://")
    with within(2), pytest.raises(redfloe.ResponseError, match="begins with redis://"):
        read_stream(url, stream)


def test_a_database_of_a_cluster(cluster: Cluster) -> None:
    with pytest.raises(ValueError, match="database 0"):
        RedisConnection(f"{cluster.url}/1")
    with pytest.raises(redfloe.ResponseError, match="not allowed in cluster mode"):
        read_stream(f"{cluster.nodes[0].url}/1", "s")


def test_one_node_is_enough_of_a_url(cluster: Cluster) -> None:
    """The others need not be there: a port that nobody listens on, and one that hangs."""
    key = cluster.keys(2)[1]
    add_numbers(cluster.client(key), key, 3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        live = cluster.nodes[2].address
        for dead in ("127.0.0.1:1", f"127.0.0.1:{silent.getsockname()[1]}"):
            # Which of them is asked first is up to redfloe.
            for url in (f"redis+cluster://{dead},{live}", f"redis+cluster://{live},{dead}"):
                with within(3):
                    assert_frame_equal(read_stream(url, key, NUMBER), numbers(3))


def test_other_addresses_than_those_announced(cluster: Cluster) -> None:
    """As behind NAT: the nodes are reached by proxies only."""
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    with ExitStack() as stack:
        proxies = {node.port: stack.enter_context(Proxy(node.port)) for node in cluster.nodes}
        address_map = {f"{HOST}:{port}": f"localhost:{p.port}" for port, p in proxies.items()}
        seed = proxies[cluster.node(keys[0]).port]
        for url in (seed.url, seed.url.replace("redis://", "redis+cluster://")):
            connection = RedisConnection(url, address_map=address_map)
            assert pickle.loads(pickle.dumps(connection)) == connection != RedisConnection(url)
            for key in keys:
                assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
        for key in keys:
            reads = [c for c in proxies[cluster.node(key).port].commands if c[0] == b"XRANGE"]
            assert reads
    with pytest.raises(ValueError, match="host:port"):
        RedisConnection(cluster.url, address_map={"a": "b:1"})


def test_a_replica_serves_reads_that_may_be_stale(cluster: Cluster) -> None:
    keys = cluster.keys(3)
    connection = RedisConnection(cluster.url, read_from="replica")
    assert pickle.loads(pickle.dumps(connection)) == connection != RedisConnection(cluster.url)
    for key in keys:
        write_stream(connection, pl.DataFrame({"id": ["1-0"], "n": [1]}), key, id_column="id")
        master, replica = cluster.node(key), cluster.replica(key)
        eventually(partial(has_all, replica, master), seconds=10)
        before = calls(master), calls(replica)
        assert_frame_equal(read_stream(connection, key, NUMBER), numbers(1))
        assert_frame_equal(scan_stream(connection, key, NUMBER).collect(), numbers(1))
        assert calls(master) == before[0]
        assert calls(replica) > before[1]
        # Groups are a master's.
        df = read_stream(connection, key, NUMBER, **ME, create_group=True, auto_ack=True)
        assert_frame_equal(df, numbers(1))


def test_a_replica_that_is_gone_is_replaced_by_its_master(cluster: Cluster) -> None:
    key = cluster.keys(1)[0]
    connection = RedisConnection(cluster.url, read_from="replica", client_name="gone")
    add_numbers(cluster.client(key), key, 3)
    replica = cluster.replica(key)
    replica.kill()
    assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))


def has_all(replica: Node, master: Node) -> bool:
    return offset(replica) == offset(master)


def offset(node: Node) -> int:
    info: dict[str, Any] = node.client().info("replication")
    return int(info["slave_repl_offset" if info["role"] == "slave" else "master_repl_offset"])


def calls(node: Node) -> int:
    """How many ranges a node has read."""
    stats: dict[str, Any] = node.client().info("commandstats")
    return sum(
        stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("xrange", "xrevrange")
    )


# Processes and threads


def test_threads_share_a_cluster(cluster: Cluster, cluster_url: str | RedisConnection) -> None:
    keys = cluster.keys(6)
    for key in keys:
        add_numbers(cluster.client(key), key, 100)
    with ThreadPoolExecutor(6) as pool:
        for df in pool.map(lambda key: read_stream(cluster_url, key, NUMBER), keys * 5):
            assert_frame_equal(df, numbers(100))


def test_a_forked_child_has_connections_of_its_own(cluster: Cluster) -> None:
    keys = cluster.keys(3)
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    script = """
        url, *keys = sys.argv[1:]
        for key in keys:
            redfloe.read_stream(url, key)
        child = os.fork()
        heights = [redfloe.read_stream(url, key).height for key in keys]
        print(json.dumps(heights), flush=True)
        if child:
            os.waitpid(child, 0)
    """
    with python(script, cluster.url, *keys) as process:
        assert hear(process) == hear(process) == [3, 3, 3]
        finish(process)


@pytest.mark.parametrize("name", ["redis-8.10", "valkey"])
def test_other_servers(clusters: Running[Cluster], name: str) -> None:
    cluster = clusters.get(name)
    keys = cluster.keys(3)
    frame = pl.DataFrame({"stream": keys * 10, "n": range(30)})
    write_stream(cluster.nodes[0].url, frame, pl.col("stream"))
    cluster.move(keys[0])
    cluster.fail_over(keys[1])
    for index, key in enumerate(keys):
        for url in (cluster.nodes[0].url, cluster.url):
            df = read_stream(
                url, key, NUMBER, **{**ME, "group": url}, create_group=True, auto_ack=True
            )
            assert df["n"].to_list() == list(range(index, 30, 3))
    assert redfloe.list_streams(cluster.url, "stream-*").height == 3


@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_several_streams_of_one_slot(cluster: Cluster, query: str) -> None:
    """By whichever URL no row is left out."""
    keys = ["{a}:1", "{a}:2"]
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    for url in (cluster.nodes[0].url, cluster.nodes[1].url, cluster.url):
        assert read_stream(url + query, keys, NUMBER)["n"].to_list() == [1, 2, 3, 1, 2, 3]
        followed = pl.concat(redfloe.iter_stream(url + query, keys, NUMBER, "0", **DRAIN))
        assert followed["n"].to_list() == [1, 2, 3, 1, 2, 3]


def test_a_group_reads_streams_of_one_slot(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    keys = ["{a}:1", "{a}:2"]
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    with StreamConsumer(cluster_url, keys, schema=NUMBER, **ME, **DRAIN) as consumer:
        assert sum(len(batch) for batch in consumer) == 6
    assert [pending(cluster.client(key), key) for key in keys] == [[], []]


def test_processors_are_found_on_all_nodes(
    cluster: Cluster, cluster_url: str | RedisConnection
) -> None:
    streams = sorted(cluster.keys(3, "stream"))
    for stream in streams:
        client = cluster.client(stream)
        add_numbers(client, stream, 5)
        put_lane(client, stream, "p", position="2-0", owner="host", left_ms=60_000)
        client.hset(table_key(stream, "p", "t"), mapping={"a": "{}", "b": "{}"})
    frame = processor_info(cluster_url)
    assert frame.select("stream", "lag", "held").rows() == [(name, 3, True) for name in streams]
    assert processor_info(cluster_url, streams[1])["stream"].to_list() == [streams[1]]
    for stream in streams:
        table = read_table(cluster_url, stream, "p", "t", key="k", schema={"n": pl.Int64})
        assert table.height == 2
        done = reset_processor(cluster_url, stream, "p", to="$", state="drop", takeover=True)
        assert done.select("position", "epoch", "rows_dropped").row(0) == ("5-0", 2, 2)
        assert delete_processor(cluster_url, stream, "p")
    assert processor_info(cluster_url).height == 0


@pytest.mark.parametrize("rows", [3, 20_000])
def test_tables_and_state_are_found_on_their_nodes(cluster: Cluster, rows: int) -> None:
    for key in cluster.keys(3, "table"):
        client = cluster.client(key)
        client.hset(key, mapping={f"k{n}": f'{{"n":{n}}}' for n in range(rows)})
        request = table_request("k", {"n": pl.Int64})
        table = load_table(cluster.url, key.encode(), request)
        frame = read_hash(cluster.url, key.encode(), key="k", schema={"n": pl.Int64})
        assert table.frame()["n"].sum() == frame["n"].sum() == sum(range(rows))
        assert len(load_state(cluster.url, key.encode())) == rows
