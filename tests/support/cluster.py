"""A Redis Cluster of real servers: three masters and three replicas, that tests may break."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import redis

from redfloe import RedisConnection, _local
from support.certs import Identity
from support.proxy import Proxy
from support.server import HOST, Server
from support.streams import Numbers, fill
from support.timing import SLACK, eventually

MASTERS = 3
SLOTS = 16_384
#: After how long without an answer the others take a node for dead.
NODE_TIMEOUT_MS = 1_000


class Node(Server):
    """One server of a cluster."""

    def __init__(self, name: str, args: Sequence[str] = (), tls: Identity | None = None) -> None:
        self._bus_port = 0 if name == "redis-6.2" else _local.free_port()
        own = ["--cluster-port", str(self._bus_port)] if self._bus_port else []
        super().__init__(
            name,
            tls=tls,
            args=[
                *["--cluster-enabled", "yes", *own, *args],
                *["--cluster-node-timeout", str(NODE_TIMEOUT_MS)],
                *["--cluster-allow-replica-migration", "no"],
                *["--cluster-replica-validity-factor", "0"],
                *["--repl-diskless-sync-delay", "0", "--repl-timeout", "5"],
            ],
        )
        self.id = ""
        self._own: redis.Redis | None = None
        self.is_paused = False

    @property
    def bus_port(self) -> int:
        return self._bus_port or self.port + 10_000

    def command(self, *words: str | bytes | int) -> Any:
        """Run a command on this node itself."""
        first, *rest = words
        # redis-py makes something else of replies to commands that it knows by two words.
        client = self._own or self.client(decode_responses=True)
        self._own = client
        return client.execute_command(*str(first).split(), *rest)

    def start(self) -> Self:
        attempts = 20 if self._directory is None else 1
        while True:
            try:
                return super().start()
            except RuntimeError:
                attempts -= 1
                if attempts == 0:
                    raise
            # Somebody has taken the port of the bus meanwhile; or, with Redis 6.2, it is too high.
            # Nobody knows it yet.
            if self._bus_port:
                taken, self._bus_port = str(self._bus_port), _local.free_port()
                self._args = [str(self._bus_port) if w == taken else w for w in self._args]

    def stop(self) -> None:
        super().stop()
        self._own = None

    def info(self) -> dict[str, str]:
        """What CLUSTER INFO says."""
        lines = str(self.command("CLUSTER INFO")).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def knows(self, other: Node) -> bool:
        """Whether it has heard of another."""
        return other.id in str(self.command("CLUSTER NODES"))

    @property
    def role(self) -> Any:
        """What ROLE says."""
        return self.command("ROLE")

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def pause(self) -> None:
        super().pause()
        self.is_paused = True

    def resume(self) -> None:
        super().resume()
        self.is_paused = False

    def kill(self) -> None:
        super().kill()
        self.is_paused = False


class Cluster:
    """Three masters, and as many replicas or none. Who is what may change: ask."""

    def __init__(
        self,
        name: str = "redis-7.0",
        *,
        replicas: bool = True,
        args: Sequence[str] = (),
        tls: Identity | None = None,
    ) -> None:
        self.name = name
        self._replicas = MASTERS if replicas else 0
        self.nodes = [Node(name, args, tls) for _ in range(MASTERS + self._replicas)]
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """All nodes."""
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def __enter__(self) -> Self:
        with ExitStack() as stack, ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, self.nodes))
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._stack.close()

    def _join(self) -> None:
        first, *others = self.nodes
        for epoch, node in enumerate(self.nodes, 1):
            node.command("CLUSTER SET-CONFIG-EPOCH", epoch)
            node.id = node.command("CLUSTER MYID")
        for index, node in enumerate(self.nodes[:MASTERS]):
            slots = range(index * SLOTS // MASTERS, (index + 1) * SLOTS // MASTERS)
            node.command("CLUSTER ADDSLOTS", *slots)
        for node in others:
            first.command("CLUSTER MEET", HOST, node.port, node.bus_port)
        number = len(self.nodes)
        eventually(
            lambda: all(int(node.info()["cluster_known_nodes"]) == number for node in self.nodes),
            seconds=10,
        )
        for master, replica in zip(self.nodes, self.nodes[MASTERS:], strict=False):
            eventually(partial(replica.knows, master), seconds=10)
            replica.command("CLUSTER REPLICATE", master.id)
        self.until_well()

    def until_well(self, seconds: float = 20.0) -> None:
        """Wait until all nodes agree, and each master has its replica."""

        def is_well() -> bool:
            try:
                roles = [node.role for node in self.nodes]
                states = [node.info()["cluster_state"] for node in self.nodes]
                views = [self._view(node) for node in self.nodes]
            except redis.RedisError:
                return False
            masters = [role for role in roles if role[0] == "master"]
            linked = [role for role in roles if role[0] == "slave" and role[3] == "connected"]
            return (
                (len(masters), len(linked)) == (MASTERS, self._replicas)
                and set(states) == {"ok"}
                and all(len(role[2]) == self._replicas // MASTERS for role in masters)
                and all(view == views[0] for view in views)
            )

        eventually(is_well, seconds=seconds)

    def views(self) -> list[str]:
        """Who is who by each node that answers."""
        found = []
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError):
                found.append(f"{node.address}\n{node.command('CLUSTER NODES')}")
        return found

    @staticmethod
    def _view(node: Node) -> Any:
        """Who serves what, and follows whom, by this node; and that nobody seems to be gone."""
        lines = [line.split() for line in str(node.command("CLUSTER NODES")).splitlines()]
        fields = [
            (line[0], line[2].replace("myself,", ""), line[3], line[7], line[8:]) for line in lines
        ]
        moving = [
            (i, f, m, s, [r for r in ranges if "[" not in r]) for i, f, m, s, ranges in fields
        ]
        return sorted(map(str, moving))

    def heal(self) -> None:
        """Be whole and empty, as at the start, but for who is master and who has which slots."""
        for node in self.nodes:
            if node._process is None:
                node.start()
            if node.is_paused:
                node.resume()
        # An election takes up to four seconds. What has not come right by then does not.
        self.until_well(20 / SLACK)
        for node in self.masters:
            for open_slot in [w for w in str(node.command("CLUSTER NODES")).split() if "-" in w]:
                if open_slot.startswith("["):
                    slot = open_slot[1:].split("-")[0]
                    node.command("CLUSTER SETSLOT", slot, "STABLE")
            node.command("FLUSHALL")
            node.command("SCRIPT FLUSH")
            # A replica that takes over at once is empty, too.
            node.command("WAIT", self._replicas // MASTERS, 2_000)

    @property
    def masters(self) -> list[Node]:
        return [node for node in self.nodes if node._process and node.role[0] == "master"]

    def node(self, key: str | bytes) -> Node:
        """The master that serves a key."""
        return self.master_of(self.slot(key))

    def slot(self, key: str | bytes) -> int:
        node = next(node for node in self.nodes if node._process and not node.is_paused)
        return int(node.command("CLUSTER KEYSLOT", key))

    def master_of(self, slot: int) -> Node:
        for asked in self.nodes:
            if asked._process is None or asked.is_paused:
                continue
            for first, last, master, *_ in asked.command("CLUSTER SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == master[1])
        message = f"nobody serves slot {slot}"
        raise AssertionError(message)

    def replica(self, key: str | bytes) -> Node:
        """The replica of the master that serves a key."""
        port = self.node(key).port
        return next(n for n in self.nodes if n.role[0] == "slave" and n.role[2] == port)

    def client(self, key: str | bytes) -> redis.Redis:
        """A client of the master that serves a key."""
        return self.node(key).client()

    def fill(self, streams: Numbers) -> None:
        """Add numbered entries to each stream, wherever its key is served."""
        for stream, ns in streams.items():
            fill(self.client(stream), {stream: ns})

    def keys(self, count: int, name: str = "stream") -> list[str]:
        """Keys, of which no two in a row are served by the same master."""
        found: list[str] = []
        number = 0
        ranges = [
            (first, last, master[1])
            for first, last, master, *_ in self.nodes[0].command("CLUSTER SLOTS")
        ]

        def port(key: str) -> int:
            slot = self.slot(key)
            return next(int(p) for first, last, p in ranges if first <= slot <= last)

        before = None
        while len(found) < count:
            number += 1
            key = f"{name}-{number}"
            if (at := port(key)) != before:
                found.append(key)
                before = at
        return found

    def key_of_each(self) -> list[str]:
        """A key for each of the masters."""
        keys = {self.node(key).port: key for key in self.keys(30)}
        assert len(keys) == MASTERS
        return list(keys.values())

    # Moving slots

    def begin_move(self, slot: int, target: Node) -> None:
        """From now on keys of the slot may be moved; those that are not there are asked for."""
        source = self.master_of(slot)
        target.command("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.command("CLUSTER SETSLOT", slot, "MIGRATING", target.id)

    def move_key(self, key: str, target: Node) -> None:
        source = self.node(key)
        assert source.command("MIGRATE", HOST, target.port, key, 0, 5_000) == "OK"

    def end_move(self, slot: int, target: Node) -> None:
        """The slot is the target's."""
        others = [node for node in self.masters if node is not target]
        for node in (target, *others):
            node.command("CLUSTER SETSLOT", slot, "NODE", target.id)

    def move(self, key: str) -> None:
        """Move a key's slot to another master, with nothing else in it."""
        slot, target = self.slot(key), self.other(key)
        self.begin_move(slot, target)
        self.move_key(key, target)
        self.end_move(slot, target)

    def other(self, key: str | bytes) -> Node:
        """A master that does not serve the key."""
        owner = self.node(key)
        return next(node for node in self.masters if node is not owner)

    def fail_over(self, key: str, *how: str) -> None:
        """Have the replica take the master's place (CLUSTER FAILOVER), and wait for it."""
        replica = self.replica(key)
        watch = time.monotonic()
        while replica.role[0] != "master":
            # A server gives it up after 5 s, and whoever wants it has to say so again.
            replica.command("CLUSTER FAILOVER", *how)
            with contextlib.suppress(AssertionError):
                eventually(lambda: replica.role[0] == "master", seconds=6 / SLACK)
            assert time.monotonic() - watch < 20 * SLACK, "no failover"


@contextmanager
def proxied(cluster: Cluster, **options: Any) -> Iterator[tuple[RedisConnection, dict[int, Proxy]]]:
    """Lead a client to each node by a proxy, which is known by the node's port."""
    with ExitStack() as stack:
        proxies = {node.port: stack.enter_context(Proxy(node.port)) for node in cluster.nodes}
        address_map = {f"{HOST}:{port}": f"{HOST}:{p.port}" for port, p in proxies.items()}
        # Not a replica, of which a test may change the replies.
        seed = proxies[cluster.masters[0].port]
        url = seed.url.replace("redis://", "redis+cluster://")
        yield RedisConnection(url, address_map=address_map, **options), proxies


@contextmanager
def paused(node: Node) -> Iterator[None]:
    """Have a node hang while the block runs."""
    node.pause()
    try:
        yield
    finally:
        node.resume()
