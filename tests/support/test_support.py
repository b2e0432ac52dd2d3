"""The tools must do what the tests rely on."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from support.certs import Certificates
from support.proxy import Proxy, ScriptedServer
from support.running import Running
from support.server import Server

VERSIONS = {"redis-6.2": (6, 2), "redis-7.0": (7, 0), "redis-8.10": (8, 10), "valkey": (8,)}

ONCE = Retry(NoBackoff(), 0)


def through(proxy: Proxy) -> redis.Redis:
    """Return a client that gives up at the first fault."""
    return redis.Redis(port=proxy.port, socket_timeout=0.5, retry=ONCE, protocol=2)


def test_versions(server: Server) -> None:
    expected = VERSIONS[server.name]
    assert server.version[: len(expected)] == expected


def test_streams_are_fresh(server: Server, client: redis.Redis, stream: str) -> None:
    assert client.dbsize() == 0
    client.xadd(stream, {"a": 1})
    assert client.xlen(stream) == 1


def test_unix_socket(any_server: Server) -> None:
    with redis.Redis(unix_socket_path=str(any_server.socket)) as client:
        assert client.ping()


def test_password_and_users() -> None:
    with Server("redis-6.2", password="secret", users={"reader": "on >pw ~r* +@read"}) as server:
        assert server.client().ping()
        with pytest.raises(redis.AuthenticationError):
            server.client(password=None, retry=ONCE).ping()
        reader = server.client(username="reader", password="pw")
        assert reader.xrange("r") == []
        with pytest.raises(redis.exceptions.NoPermissionError):
            reader.xadd("r", {"a": 1})


@pytest.mark.parametrize("name", ["redis-7.0", "valkey"])
def test_tls(name: str, certificates: Certificates) -> None:
    with Server(name, tls=certificates.server, tls_clients="yes") as server:
        options = {"ssl_ca_certs": certificates.ca, "ssl_check_hostname": True}
        mine = {"ssl_certfile": certificates.client.cert, "ssl_keyfile": certificates.client.key}
        with redis.Redis.from_url(server.tls_url, **options, **mine) as client:
            assert client.ping()
        with redis.Redis.from_url(server.tls_url, **options) as client:
            with pytest.raises(redis.ConnectionError):
                client.ping()


@pytest.mark.parametrize("name", ["expired", "wrong_host", "stranger"])
def test_bad_certificates(name: str, redis70: Server, certificates: Certificates) -> None:
    with Server(redis70.name, tls=getattr(certificates, name)) as server:
        options = {"ssl_ca_certs": certificates.ca, "ssl_check_hostname": True}
        with redis.Redis.from_url(server.tls_url, **options) as client:
            with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
                client.ping()


def test_restart() -> None:
    with Server("redis-6.2") as server:
        port = server.port
        server.client().set("a", 1)
        server.restart(persist=True)
        assert server.client().get("a") == b"1"
        server.restart(persist=False)
        assert server.client().get("a") is None
        assert server.port == port
        server.kill()
        with pytest.raises(redis.ConnectionError):
            server.client(retry=ONCE).ping()
        server.start()
        assert server.client().ping()


def test_pause(any_server: Server) -> None:
    any_server.pause()
    try:
        with pytest.raises(redis.TimeoutError):
            any_server.client(socket_timeout=0.1, retry=ONCE).ping()
    finally:
        any_server.resume()
    assert any_server.client().ping()


def test_proxy_forwards_and_counts(server: Server, stream: str) -> None:
    with Proxy(server.port) as proxy, through(proxy) as client:
        pipeline = client.pipeline(transaction=False)
        for value in range(100):
            pipeline.xadd(stream, {"v": value})
        assert len(pipeline.execute()) == 100
        assert len(client.xrange(stream)) == 100
        assert client.xread({stream: "$"}, block=50) == []
        assert proxy.count(b"XADD") == 100
        assert proxy.connections == 1


def test_proxy_forwards_resp3(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy, redis.Redis(port=proxy.port, protocol=3) as client:
        client.xadd(stream, {"v": 1})
        assert client.xinfo_stream(stream)["length"] == 1
        assert client.config_get("maxmemory") == {"maxmemory": "0"}
        assert proxy.count(b"HELLO") == 1


def raw_reply(port: int, request: bytes, *, until: int) -> bytes:
    """Send the request and read until the end, or so many bytes, or 0.2 s of silence."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=0.2) as connection:
        connection.sendall(request)
        while len(got) < until and (chunk := connection.recv(until - len(got))):
            got += chunk
    return got


@pytest.mark.parametrize("size", range(12))
def test_proxy_cuts(any_server: Server, size: int) -> None:
    with Proxy(any_server.port) as proxy:
        fault = proxy.cut_after(size, once_seen=b"echo")
        request = b"PING\r\nECHO hello\r\nPING\r\n"
        assert raw_reply(proxy.port, request, until=99) == b"+PONG\r\n$5\r\nhello\r\n"[: 7 + size]
        assert fault.hits == 1
        full = b"+PONG\r\n$5\r\nhello\r\n+PONG\r\n"
        assert raw_reply(proxy.port, request, until=len(full)) == full
        assert proxy.connections == 2


def test_proxy_cuts_only_the_third(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        proxy.cut_after(0, once_seen=b"INCRBY", skip=2)
        assert [client.incr("n"), client.incr("n")] == [1, 2]
        with pytest.raises(redis.ConnectionError):
            client.incr("n")
        assert client.get("n") == b"3"  # executed: only the reply was lost


def test_proxy_resets(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.reset_after(3, once_seen=b"PING")
        with pytest.raises(ConnectionResetError):
            raw_reply(proxy.port, b"PING\r\n", until=99)


def test_proxy_stalls(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(3)
        assert raw_reply(proxy.port, b"PING\r\n", until=3) == b"+PO"
        proxy.stall_after(3)
        with pytest.raises(TimeoutError):
            raw_reply(proxy.port, b"PING\r\n", until=4)


def test_proxy_replaces(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        client.ping()
        proxy.replace_reply(b"-LOADING wait\r\n", once_seen=b"SET", times=2)
        for _ in range(2):
            with pytest.raises(redis.exceptions.BusyLoadingError):
                client.set("a", 1)
        assert client.get("a") is None
        client.set("a", 1)
        assert client.get("a") == b"1"


def test_proxy_acts_before_a_command_goes_on(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        proxy.before(b"get", lambda n: any_server.client().set("a", n))
        assert [client.get("a"), client.get("b"), client.get("a")] == [b"1", None, b"3"]
        proxy.clear()
        assert client.get("a") == b"3"


def test_proxy_trickles(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        proxy.trickle(1, delay=0.001)
        start = time.monotonic()
        assert client.echo("x" * 50) == b"x" * 50
        assert time.monotonic() - start > 0.05


def test_proxy_refuses(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        proxy.refuse(1)
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert client.ping()
        assert proxy.connections == 2


def test_proxy_of_a_dead_server() -> None:
    with Server("redis-6.2") as server, Proxy(server.port) as proxy, through(proxy) as client:
        assert client.ping()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        server.start()
        assert client.ping()


def test_scripted_server() -> None:
    def answer(command: tuple[bytes, ...]) -> bytes | None:
        return b"+PONG\r\n" if command[0] == b"PING" else None

    with ScriptedServer(answer) as server:
        assert raw_reply(server.port, b"PING\r\n", until=7) == b"+PONG\r\n"
        assert raw_reply(server.port, b"GARBAGE\r\n", until=7) == b""
        assert server.commands == [(b"PING",), (b"GARBAGE",)]
        assert server.connections == 2


def test_what_is_sent_at_once_is_one_round_trip(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy, through(proxy) as client:
        client.ping()
        before = proxy.round_trips
        client.ping()
        client.ping()
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(100):
                pipeline.ping()
            pipeline.execute()
        assert proxy.round_trips - before == 3


class Fragile:
    """What is healed as long as it is well; each is told of in `log`."""

    log: list[str]
    well: bool

    def __init__(self, name: str) -> None:
        self.log.append("new")

    def heal(self) -> None:
        if not self.well:
            raise redis.ConnectionError("broken")

    def views(self) -> list[str]:
        return ["seen by one"]

    def stop(self) -> None:
        self.log.append("stopped")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.log.append("left")


def test_servers_that_were_broken_for_good_are_replaced_once(
    any_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    Fragile.log, Fragile.well = [], True
    with ExitStack() as stack:
        running = Running(stack, Fragile)
        first = running.get(any_server.name)
        assert running.get(any_server.name) is first
        assert Fragile.log == ["new"]
        Fragile.well = False
        with pytest.raises(redis.ConnectionError, match="broken"):
            running.get(any_server.name)
        assert Fragile.log == ["new", "stopped", "new"]
        assert capsys.readouterr().err == "a new Fragile, for broken:\nseen by one\n"
        Fragile.well = True
        assert running.get(any_server.name) is not first
        assert Fragile.log == ["new", "stopped", "new"]
    assert Fragile.log[3:] == ["left", "left"]
