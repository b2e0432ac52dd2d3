"""Real servers for the tests: each on a free port, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import redis

from redfloe import _local
from support.certs import Identity

HOST = "127.0.0.1"
CACHE = Path(os.environ.get("REDFLOE_CACHE") or "~/.cache/redfloe").expanduser()

#: The server programs by the name that `scripts/fetch_servers.py` gives them.
BINARIES = {
    name: CACHE / "servers" / name / "bin" / program
    for name, program in (
        ("redis-6.2", "redis-server"),
        ("redis-7.0", "redis-server"),
        ("redis-8.10", "redis-server"),
        ("valkey", "valkey-server"),
    )
}


def require(name: str) -> Path:
    """Return the server's program; if there is none skip the test, or under CI fail it."""
    if not BINARIES[name].exists():
        why = f"no {name} here: run `make servers`"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    return BINARIES[name]


class Server:
    """A server that tests may prepare, break and restart. Its ports survive a restart.

    Parameters
    ----------
    name
        One of `BINARIES`.
    args
        Further command-line arguments, such as ``["--lua-time-limit", "10"]``.
    password
        What the default user must give.
    users
        ACL rules by user name, such as ``{"reader": "on >secret ~* +@read"}``.
    tls
        The certificate that the server presents, on a second port (redis-7.0 and valkey only).
    tls_clients
        Whether it asks clients for one: "no", "optional" or "yes". They are checked against the
        authority that signed the server's.
    """

    def __init__(
        self,
        name: str,
        *,
        args: Sequence[str] = (),
        password: str | None = None,
        users: Mapping[str, str] | None = None,
        tls: Identity | None = None,
        tls_clients: str = "no",
    ) -> None:
        self.name = name
        self.password = password
        self.port = 0
        self.tls_port = 0
        self._args = [*args]
        if password is not None:
            self._args += ["--requirepass", password]
        for user, rules in (users or {}).items():
            self._args += ["--user", user, *rules.split()]
        self._tls = tls
        if tls is not None:
            self._args += ["--tls-cert-file", str(tls.cert), "--tls-key-file", str(tls.key)]
            self._args += ["--tls-ca-cert-file", str(tls.ca), "--tls-auth-clients", tls_clients]
        self._directory: Path | None = None
        self._process: _local.ServerProcess | None = None
        self._clients: list[redis.Redis] = []
        #: How many of a client's reads are refused, as they have MAXSIZE (Redis 8.10): the first.
        self.refused_reads = 0 if name == "redis-8.10" else 1

    @property
    def directory(self) -> Path:
        """Where the server keeps its files and its socket."""
        assert self._directory is not None, "the server was never started"
        return self._directory

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def url(self) -> str:
        user = "" if self.password is None else f":{self.password}@"
        return f"redis://{user}{HOST}:{self.port}"

    @property
    def tls_url(self) -> str:
        assert self._tls is not None, "the server was started without TLS"
        return self.url.replace("redis://", "rediss://").replace(
            f":{self.port}", f":{self.tls_port}"
        )

    @property
    def socket(self) -> Path:
        """The path of the Unix socket, which every server has."""
        return self.directory / "redis.sock"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def version(self) -> tuple[int, ...]:
        """The server's own version; a Valkey's is Valkey's."""
        with self.client() as client:
            info: dict[str, str] = client.info("server")
        version = info.get("valkey_version", info["redis_version"])
        return tuple(int(part) for part in version.split("."))

    def client(self, **options: Any) -> redis.Redis:
        """Return a redis-py client, to prepare and inspect data; closed when the server stops."""
        options = {"password": self.password, **options}
        client = redis.Redis(host=HOST, port=self.port, **options)
        self._clients.append(client)
        return client

    def start(self) -> Self:
        """Start, on the same ports as before if there was a before, and wait for an answer."""
        assert self._process is None, "the server is running already"
        if self._directory is None:
            require(self.name)
            self._directory = Path(tempfile.mkdtemp(prefix="redfloe-test-"))
            try:
                self._process, self.port = _local.start_on_free_port(self._command, self._directory)
            except BaseException:
                self.stop()
                raise
        else:
            self._process = _local.ServerProcess(self._command(self.port), self.directory)
            try:
                self._process.wait_until_ready((HOST, self.port))
            except BaseException:
                self.kill()
                raise
        return self

    def stop(self) -> None:
        """Stop at once, dropping the data and the directory; later the server may start anew."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """Crash the server: SIGKILL, whatever it was doing, also when paused."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()

    def restart(self, *, persist: bool = True) -> None:
        """Stop and start on the same ports, with the data of before or with none."""
        if persist:
            self.client().save()
        else:
            (self.directory / "dump.rdb").unlink(missing_ok=True)
        self.kill()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<Server {self.name} on port {self.port}>"

    def _command(self, port: int) -> list[str | Path]:
        options = ["--bind", HOST, "--port", str(port), "--unixsocket", str(self.socket)]
        options += ["--dir", str(self.directory), "--save", "", "--appendonly", "no"]
        if self._tls is not None:
            self.tls_port = self.tls_port or _local.free_port()
            options += ["--tls-port", str(self.tls_port)]
        return [BINARIES[self.name], *options, *self._args]
