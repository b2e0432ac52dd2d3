"""A master, a replica and three sentinels, which tests may break; healed before each test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from redfloe import RedisConnection, _local
from support.server import BINARIES, HOST, Server, require
from support.timing import SLACK, eventually

MASTER = "mymaster"

#: What makes a failover quick: a second or two, instead of a minute. The first sentinel is to
#: notice before the others, so that they vote for it: where two begin at once a vote may be split,
#: and the next is twice the timeout later.
SETTINGS = {"down-after-milliseconds": "800", "failover-timeout": "2000"}
FIRST = {"down-after-milliseconds": "400", "quorum": "1"}

#: How often sentinels do things, in milliseconds (SENTINEL DEBUG, Redis 7.0). One that was paused
#: for two seconds, or had no processor, would else do nothing for thirty.
PERIODS = {
    "INFO-PERIOD": 100,
    # A replica is promoted only if its INFO is no older than five of these, and while its master is
    # down it is asked for that once a second.
    "PING-PERIOD": 300,
    "ASK-PERIOD": 100,
    # Four times this is what the leader of a failover has until the others undo its promotion.
    "PUBLISH-PERIOD": 500,
    "ELECTION-TIMEOUT": 2_000,
    "MIN-LINK-RECONNECT-PERIOD": 500,
    "TILT-TRIGGER": 60_000,
    "TILT-PERIOD": 100,
}

_ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.ResponseError)


class Sentinel:
    """One sentinel; its port survives a restart."""

    def __init__(self, name: str, config: Sequence[str] = ()) -> None:
        self.name = name
        self.port = 0
        self.is_paused = False
        self._config = [*config]
        self._directory = Path(tempfile.mkdtemp(prefix="redfloe-sentinel-"))
        self._process: _local.ServerProcess | None = None
        self._clients: list[redis.Redis] = []

    @property
    def pid(self) -> int:
        assert self._process is not None, "the sentinel is not running"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> Self:
        if self.port == 0:
            require(self.name)
            self._process, self.port = _local.start_on_free_port(self._command, self._directory)
        else:
            self._process = _local.ServerProcess(self._command(self.port), self._directory)
            self._process.wait_until_ready((HOST, self.port))
        return self

    def _command(self, port: int) -> list[str | Path]:
        file = self._directory / "sentinel.conf"
        lines = [f"bind {HOST}", f"port {port}", f"dir {self._directory}", *self._config]
        file.write_text("\n".join(lines) + "\n")
        return [BINARIES[self.name], file, "--sentinel"]

    def client(self, **options: Any) -> redis.Redis:
        client = redis.Redis(HOST, self.port, socket_timeout=5, decode_responses=True, **options)
        self._clients.append(client)
        return client

    def ask(self, *words: str | int, **options: Any) -> Any:
        """Send SENTINEL with these words; the answer as it comes."""
        with self.client(**options) as client:
            answer: Any = client.execute_command("SENTINEL " + str(words[0]), *words[1:])
            return answer

    def master_port(self) -> int | None:
        address = self.ask("GET-MASTER-ADDR-BY-NAME", MASTER)
        return None if address is None else int(address[1])

    def monitor(self, port: int, **settings: str) -> None:
        """Watch this master alone."""
        self.forget()
        self.ask("MONITOR", MASTER, HOST, port, 2)
        for setting, value in {**SETTINGS, **settings}.items():
            self.ask("SET", MASTER, setting, value)

    def forget(self) -> None:
        """Know no master any more."""
        with contextlib.suppress(redis.ResponseError):
            self.ask("REMOVE", MASTER)

    def pause(self) -> None:
        """Have it hang: it accepts connections, and says nothing."""
        self.is_paused = True
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        self.is_paused = False
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self.is_paused = False
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


class Deployment:
    """A master, its replica and their sentinels.

    Use `heal` before each test. `master` is whichever of the two servers is it at present.
    """

    def __init__(self, name: str = "redis-7.0") -> None:
        self.name = name
        arguments = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        self.servers = [Server(name, args=arguments) for _ in range(2)]
        self.sentinels = [Sentinel(name) for _ in range(3)]
        self._running = {*self.servers}

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                server.start()
            for sentinel in self.sentinels:
                sentinel.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for server in self.servers:
            server.stop()

    def views(self) -> list[str]:
        """What each sentinel that answers knows."""
        found = []
        for sentinel in self.sentinels:
            with contextlib.suppress(*_ERRORS):
                found.append(f"{HOST}:{sentinel.port}\n{sentinel.ask('MASTERS')}")
        return found

    @property
    def url(self) -> str:
        return self.url_of(*self.sentinels)

    @staticmethod
    def url_of(*sentinels: Any, master: str = MASTER) -> str:
        """Give the URL that names these sentinels, or whatever else has a port."""
        hosts = ",".join(f"{HOST}:{one.port}" for one in sentinels)
        return f"redis+sentinel://{hosts}/{master}"

    def connection(self, **options: Any) -> RedisConnection:
        """Give a connection that rides out a failover."""
        settings: dict[str, Any] = {"max_retries": 200, "connect_timeout": 20.0 * SLACK}
        settings |= {"retry_base_delay": 0.02, "retry_max_delay": 0.1}
        return RedisConnection(self.url, **{**settings, **options})

    @property
    def master(self) -> Server:
        """The server that the sentinels that run agree on."""
        running = (one for one in self.sentinels if one.is_running and not one.is_paused)
        port = next(running).master_port()
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> Server:
        port = self.master.port
        return next(server for server in self.servers if server.port != port)

    # What tests do to it.

    def kill(self, server: Server) -> None:
        """Crash a server: SIGKILL."""
        self._running.discard(server)
        server.kill()

    def start(self, server: Server) -> None:
        """Start it again, without its data, as the master that it believes to be."""
        server.start()
        self._running.add(server)

    def fail_over(self) -> Server:
        """Have the two change places; return the former master when they have."""
        former = self.master
        for _ in range(50):
            try:
                self.sentinels[0].ask("FAILOVER", MASTER)
                break
            except redis.ResponseError:  # NOGOODSLAVE, or one is under way
                time.sleep(0.1)
        self.wait_for_another(former)
        with former.client() as client:
            eventually(lambda: client.role()[0] == b"slave", seconds=20)
        return former

    def wait_for_another(self, former: Server) -> Server:
        """Wait until all sentinels that run name another master."""
        running = [one for one in self.sentinels if one.is_running and not one.is_paused]
        eventually(lambda: all(one.master_port() != former.port for one in running), seconds=40)
        return self.master

    def replicated(self) -> None:
        """Wait until the replica has all that the master has."""
        # Not WAIT, which is about what its own client has written.
        with self.master.client() as master, self.replica.client() as replica:
            written = master.info("replication")["master_repl_offset"]
            eventually(lambda: replica.info("replication")["master_repl_offset"] >= written)

    def cut_replication(self) -> None:
        """Have the replica miss whatever is written from now on."""
        with self.master.client() as master:
            master.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
            master.execute_command("CLIENT", "KILL", "TYPE", "replica")
            eventually(lambda: master.info("replication")["connected_slaves"] == 0)

    def lose(self) -> Server:
        """Crash the master, whose latest writes the replica lacks; return the new one."""
        former = self.master
        self.kill(former)
        return self.wait_for_another(former)

    # Before each test.

    def heal(self) -> None:
        """Bring everything back: two servers without data, and three sentinels that agree."""
        for sentinel in self.sentinels:
            if not sentinel.is_running:
                sentinel.start()
            sentinel.resume()
        for server in self.servers:
            if server in self._running:
                server.resume()
        if not self._is_well():
            self._set_up()
        with self.master.client() as master:
            master.flushall()
            master.script_flush()
        self.replicated()

    def _set_up(self) -> None:
        for sentinel in self.sentinels:
            sentinel.forget()
        first, second = self.servers
        for server in self.servers:
            if server not in self._running:
                self.start(server)
            with server.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "allcommands")
                client.config_set("min-replicas-to-write", 0)
        with first.client() as master, second.client() as replica:
            master.replicaof("NO", "ONE")
            master.flushall()
            replica.replicaof(HOST, first.port)
            # As sentinels do.
            replica.client_kill_filter(_type="normal", skipme=True)
            eventually(
                lambda: replica.info("replication")["master_link_status"] == "up", seconds=10
            )
        for sentinel in self.sentinels:
            with contextlib.suppress(redis.ResponseError):  # before Redis 7.0
                sentinel.ask("DEBUG", *[word for pair in PERIODS.items() for word in pair])
            sentinel.monitor(first.port, **(FIRST if sentinel is self.sentinels[0] else {}))
        eventually(self._is_well, seconds=20)

    def _is_well(self) -> bool:
        """Whether everybody agrees on everybody."""
        if self._running != {*self.servers}:
            return False
        try:
            ports = {one.master_port() for one in self.sentinels}
            if len(ports) != 1 or ports == {None}:
                return False
            known = [self._known(one) for one in self.sentinels]
            with self.master.client() as master, self.replica.client() as replica:
                role: Mapping[str, Any] = master.info("replication")
                link: Mapping[str, Any] = replica.info("replication")
                rules = (
                    master.execute_command("ACL", "LIST"),
                    replica.execute_command("ACL", "LIST"),
                )
        except _ERRORS:
            return False
        return (
            all(
                one == {"flags": "master", "num-slaves": "1", "num-other-sentinels": "2"}
                for one in known
            )
            and (role["role"], link["role"]) == ("master", "slave")
            and link["master_port"] == self.master.port
            and link["master_link_status"] == "up"
            and b"-psync" not in b"".join(b"".join(one) for one in rules)
        )

    def _known(self, sentinel: Sentinel) -> dict[str, str]:
        words: Any = sentinel.ask("MASTER", MASTER)
        if not isinstance(words, dict):
            words = dict(zip(words[::2], words[1::2], strict=True))
        return {name: str(words[name]) for name in ("flags", "num-slaves", "num-other-sentinels")}
