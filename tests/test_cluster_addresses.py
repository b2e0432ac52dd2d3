"""Where the nodes of a cluster say that they are: names, TLS, and other addresses than those."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

import redfloe
from redfloe import RedisConnection, RedisConnectionError, RedisTimeoutError, read_stream
from support.certs import Certificates
from support.cluster import Cluster, proxied
from support.groups import ME
from support.server import HOST
from support.streams import NUMBER, add_numbers, numbers
from support.timing import within

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(30)]


def try_all(cluster: Cluster, url: str | RedisConnection) -> None:
    """Write to all nodes, read from them, and as a group."""
    keys = cluster.keys(4)
    frame = pl.DataFrame({"stream": keys * 10, "n": range(40)})
    assert redfloe.write_stream(url, frame, pl.col("stream")).null_count() == 0
    for index, key in enumerate(keys):
        df = read_stream(url, key, NUMBER, **ME, create_group=True, auto_ack=True)
        assert df["n"].to_list() == list(range(index, 40, 4))
    expected = [n for index in range(4) for n in range(index, 40, 4)]
    assert read_stream(url, keys, NUMBER)["n"].to_list() == expected
    assert redfloe.list_streams(url)["stream"].to_list() == sorted(keys)


class Noted:
    """An address map that changes nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        self.hosts: set[str] = set()
        self.ports: set[int] = set()

    def __call__(self, host: str, port: int) -> tuple[str, int]:
        self.hosts.add(host)
        self.ports.add(port)
        return host, port


def test_names_that_nodes_announce() -> None:
    """Hosts by name, wherever that leads; and where nodes give none, the one that we know."""
    with Cluster(replicas=False, args=["--cluster-announce-hostname", "localhost"]) as cluster:
        for preferred, host in (
            ("hostname", "localhost"),
            ("ip", HOST),
            ("unknown-endpoint", "localhost"),
        ):
            for node in cluster.nodes:
                node.command("CONFIG SET", "cluster-preferred-endpoint-type", preferred)
            port = cluster.nodes[1].port
            for scheme in ("redis", "redis+cluster"):
                for node in cluster.nodes:
                    node.command("FLUSHALL")
                noted = Noted()
                url = f"{scheme}://localhost:{port}"
                try_all(cluster, RedisConnection(url, address_map=noted))
                assert noted.hosts == {host}
                assert noted.ports == {node.port for node in cluster.nodes}


def test_a_name_that_is_to_be_announced_and_is_not_there() -> None:
    """The nodes say "?", which stands for nothing."""
    with Cluster(replicas=False, args=["--cluster-preferred-endpoint-type", "hostname"]) as cluster:
        nodes = cluster.nodes[0].command("CLUSTER SLOTS")
        assert nodes[0][2][0] == "?"
        for url in (cluster.nodes[0].url, cluster.url):
            for node in cluster.nodes:
                node.command("FLUSHALL")
            try_all(cluster, url)


def test_a_cluster_of_redis_6() -> None:
    """It does not know CLUSTER SHARDS."""
    with Cluster("redis-6.2", replicas=False) as cluster:
        for url in (cluster.nodes[0].url, cluster.url):
            for node in cluster.nodes:
                node.command("FLUSHALL")
            try_all(cluster, url)
        key = cluster.keys(1)[0]
        cluster.move(key)
        assert read_stream(cluster.url, key, NUMBER)["n"].to_list() == list(range(0, 40, 4))


def test_tls(certificates: Certificates) -> None:
    """The nodes know each other's TLS ports only where they use these themselves (tls-cluster)."""
    args = ["--tls-cluster", "yes", "--tls-replication", "yes"]
    with Cluster(replicas=False, args=args, tls=certificates.server) as cluster:
        for scheme, host in (("rediss", HOST), ("rediss+cluster", "localhost")):
            for node in cluster.nodes:
                node.command("FLUSHALL")
            url = f"{scheme}://{host}:{cluster.nodes[2].tls_port}"
            connection = RedisConnection(url, tls_ca=certificates.ca, client_name="tls")
            try_all(cluster, connection)
            for node in cluster.nodes:
                named = [c for c in node.client().client_list() if c["name"] == "tls"]
                assert named
                # The port that the client is connected to.
                assert {c["laddr"] for c in named} == {f"{HOST}:{node.tls_port}"}
            with pytest.raises(RedisConnectionError, match="certificate"):
                read_stream(RedisConnection(url, max_retries=0), cluster.keys(1)[0])


# Functions of addresses


class Shift:
    """A function that leads to proxies, and remembers what it was asked."""

    def __init__(self, ports: dict[int, int]) -> None:
        self.ports = ports
        self.asked: list[tuple[str, int, str]] = []

    def __call__(self, host: str, port: int) -> tuple[str, int]:
        self.asked.append((host, port, threading.current_thread().name))
        return "localhost", self.ports[port]


@contextmanager
def shifted(cluster: Cluster) -> Iterator[tuple[str, Shift, dict[int, Any]]]:
    with proxied(cluster) as (_, proxies):
        shift = Shift({port: proxy.port for port, proxy in proxies.items()})
        seed = next(iter(proxies.values())).url.replace("redis://", "redis+cluster://")
        yield seed, shift, proxies


def test_a_function_gives_addresses(cluster: Cluster) -> None:
    keys = cluster.key_of_each()
    for key in keys:
        add_numbers(cluster.client(key), key, 3)
    with shifted(cluster) as (url, shift, proxies):
        for seed in (url, url.replace("redis+cluster://", "redis://")):
            connection = RedisConnection(seed, address_map=shift)
            for key in keys:
                assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
                assert proxies[cluster.node(key).port].count(b"XRANGE") > 0
            df = asyncio.run(redfloe.read_stream_async(connection, keys, NUMBER))
            assert df.height == 9
        assert {(host, port) for host, port, _ in shift.asked} <= {
            (HOST, node.port) for node in cluster.nodes
        }
        # It is asked for a connection, not for a request.
        before = len(shift.asked)
        for key in keys:
            read_stream(connection, key, NUMBER)
        assert len(shift.asked) == before
        main = threading.main_thread().name
        assert main not in {thread for _, _, thread in shift.asked}


def test_a_function_is_asked_again_after_a_redirection(cluster: Cluster) -> None:
    key = cluster.keys(1)[0]
    add_numbers(cluster.client(key), key, 3)
    with shifted(cluster) as (url, shift, proxies):
        connection = RedisConnection(url, address_map=shift)
        assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
        cluster.move(key)
        assert_frame_equal(read_stream(connection, key, NUMBER), numbers(3))
        assert proxies[cluster.node(key).port].count(b"XRANGE") > 0


def same(host: str, port: int) -> tuple[str, int]:
    return host, port


def test_connections_with_functions_are_equal_where_the_functions_are(cluster: Cluster) -> None:
    connection = RedisConnection(cluster.url, address_map=same)
    assert connection == RedisConnection(cluster.url, address_map=same)
    assert connection != RedisConnection(cluster.url)
    assert connection != RedisConnection(cluster.url, address_map=lambda host, port: (host, port))
    assert pickle.loads(pickle.dumps(connection)) == connection
    assert hash(pickle.loads(pickle.dumps(connection))) == hash(connection)


@pytest.mark.parametrize(
    "given",
    [None, "localhost:1", ("localhost",), ("localhost", "1"), ("", 1), ("h", 0), ("h", True)],
)
def test_a_function_that_gives_no_address(cluster: Cluster, given: Any) -> None:
    wrong: Any = lambda host, port: given  # noqa: E731
    connection = RedisConnection(cluster.url, address_map=wrong)
    with within(3), pytest.raises(RedisConnectionError, match=r"must return \(host, port\), not"):
        read_stream(connection, "s")


def test_a_function_that_raises(cluster: Cluster) -> None:
    """It is asked again, as a server that refuses is tried again; what it raised is the cause."""
    calls = []

    def broken(host: str, port: int) -> tuple[str, int]:
        calls.append(port)
        raise LookupError(host)

    options: dict[str, Any] = {"max_retries": 2, "retry_base_delay": 0.01}
    connection = RedisConnection(cluster.url, address_map=broken, **options)
    with within(5), pytest.raises(RedisConnectionError, match="raised LookupError") as raised:
        read_stream(connection, "s")
    assert isinstance(raised.value.__cause__, LookupError)
    assert len(calls) >= 3


def test_a_function_that_hangs(cluster: Cluster) -> None:
    """It has `connect_timeout`, and holds nobody up who does not need it."""
    ends = threading.Event()

    def hangs(host: str, port: int) -> tuple[str, int]:
        ends.wait(20)
        return host, port

    options: dict[str, Any] = {"connect_timeout": 0.3, "max_retries": 0}
    connection = RedisConnection(cluster.url, address_map=hangs, **options)
    try:
        start = time.monotonic()
        with pytest.raises(RedisTimeoutError, match="address_map gave no address"):
            read_stream(connection, "s")
        assert time.monotonic() - start < 3
        other = RedisConnection(cluster.url, address_map=same)
        assert read_stream(other, "s").is_empty()
    finally:
        ends.set()


def test_what_cannot_be_an_address_map() -> None:
    async def awaited(host: str, port: int) -> tuple[str, int]:
        return host, port

    odd: Any
    for odd, why in (
        (awaited, "plain function"),
        (7, "mapping of host:port"),
        (["a:1"], "mapping"),
    ):
        with pytest.raises(TypeError, match=why):
            RedisConnection("redis://h", address_map=odd)
    with pytest.raises(ValueError, match="host:port"):
        RedisConnection("redis://h", address_map={"a": "b:1"})
