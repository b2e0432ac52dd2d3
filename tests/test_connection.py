"""How a server is reached: URLs, login, TLS, timeouts, the pool, retries."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    AuthenticationError,
    NoGroupError,
    RedfloeError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    WriteError,
    WrongTypeError,
    ack_entries,
    iter_stream,
    read_stream,
    trim_stream,
    write_hashes,
    write_stream,
)
from support.certs import Certificates, Identity, self_signed
from support.clients import PROTOCOLS, is_waiting, quick
from support.proxy import Command, Proxy, ScriptedServer
from support.secrets import PASSWORD, QUOTED, assert_discreet, raises_discreetly, with_password
from support.server import HOST, Server
from support.streams import NUMBER, add_numbers, numbers
from support.timing import SLACK, Stopwatch, eventually, later, within


def once(url: str, **options: Any) -> RedisConnection:
    """Give a connection that gives up at the first fault."""
    return RedisConnection(url, max_retries=0, **options)


def named(client: redis.Redis, name: str) -> list[dict[str, str]]:
    """List the server's connections of that client name."""
    return [one for one in client.client_list() if one["name"] == name]


# What a RedisConnection is


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://localhost", "redis://localhost:6379"),
        ("redis://localhost:7000/3", "redis://localhost:7000/3"),
        ("redis://[::1]:7000", "redis://[::1]:7000"),
        (f"redis://:{QUOTED}@h", "redis://:***@h:6379"),
        (f"redis://app:{QUOTED}@h:1/2?protocol=resp3", "redis://app:***@h:1/2?protocol=resp3"),
        (f"rediss://app:{QUOTED}@h", "rediss://app:***@h:6379"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        (
            f"redis+unix:///run/r.sock?db=1&user=u&pass={QUOTED}",
            "unix:///run/r.sock?db=1&user=u&pass=***",
        ),
    ],
)
def test_repr_shows_no_password(url: str, shown: str) -> None:
    connection = RedisConnection(url)
    assert repr(connection) == str(connection) == f'RedisConnection("{shown}")'


def test_equal_options_make_equal_connections() -> None:
    url = with_password("redis://h:1")
    assert RedisConnection(url) == RedisConnection(url, max_retries=None, connect_timeout=5)
    assert hash(RedisConnection(url)) == hash(RedisConnection(url))
    others = [
        RedisConnection("redis://h:1"),
        RedisConnection(url + "/1"),
        RedisConnection(url, max_retries=4),
        # Which bounds readers that never end, too.
        RedisConnection(url, max_retries=5),
        RedisConnection(url, retry_base_delay=0.2),
        RedisConnection(url, retry_max_delay=1),
        RedisConnection(url, connect_timeout=1),
        RedisConnection(url, response_timeout=1),
        RedisConnection(url, client_name="a"),
        RedisConnection("rediss://h:1"),
        RedisConnection("rediss://h:1", tls_ca="ca.pem"),
    ]
    assert RedisConnection(url) not in others
    assert len({*others}) == len(others)
    assert RedisConnection(url) != url


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        RedisConnection("redis://h", 3)  # type: ignore[call-arg]  # wrong on purpose


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "localhost:6379",
        f"http://:{QUOTED}@h",
        f"postgres://:{QUOTED}@h",
        f"redis://:{QUOTED}@",
        f"redis://:{QUOTED}@h:port",
        f"redis://:{QUOTED}@h:99999",
        f"redis://:{QUOTED}@[::1",
        f"redis://:{QUOTED}@h/x",
        f"redis://:{QUOTED}@h/-1",
        f"redis://:{QUOTED}@h/99999999999999999999",
        f"redis://:{QUOTED}@h?timeout=5",
        f"redis://:{QUOTED}@h?protocol=resp9",
        f"rediss://:{QUOTED}@h#insecure",
        f"redis://user:123?{PASSWORD}@h:6379/0",
        f"redis://user:123#{PASSWORD}@h:6379/0",
        f"redis://user:123/{PASSWORD}@h:6379/0",
        f"redis://user:123?protocol={PASSWORD}@h:6379/0",
        f"unix:///r.sock?pass=a&{PASSWORD}",
        f"redis://:{PASSWORD}@h",  # "/" and "@" are not encoded
    ],
)
def test_a_malformed_url_is_refused_without_being_quoted(url: str) -> None:
    with raises_discreetly(ValueError) as raised:
        RedisConnection(url)
    assert "URL" in str(raised.value)
    with raises_discreetly(ValueError):
        read_stream(url, "s")


def test_the_known_schemes_are_named() -> None:
    with pytest.raises(ValueError, match=r"rediss://.*unix://"):
        RedisConnection("kafka://h")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_retries": -1}, ValueError),
        ({"max_retries": 2**40}, ValueError),
        ({"max_retries": 2**64}, ValueError),
        ({"connect_timeout": 10**400}, ValueError),
        ({"response_timeout": 10**400}, ValueError),
        ({"retry_base_delay": 10**400}, ValueError),
        ({"retry_max_delay": -(10**400)}, ValueError),
        ({"max_retries": 1.5}, TypeError),
        ({"max_retries": True}, TypeError),
        ({"retry_base_delay": False}, TypeError),
        ({"retry_max_delay": True}, TypeError),
        ({"connect_timeout": True}, TypeError),
        ({"response_timeout": True}, TypeError),
        ({"retry_base_delay": -1}, ValueError),
        ({"retry_base_delay": "1"}, TypeError),
        ({"retry_max_delay": float("nan")}, ValueError),
        ({"connect_timeout": 0}, ValueError),
        ({"connect_timeout": -1}, ValueError),
        ({"connect_timeout": float("inf")}, ValueError),
        ({"connect_timeout": None}, TypeError),
        ({"response_timeout": 0}, ValueError),
        ({"response_timeout": float("nan")}, ValueError),
        ({"client_name": "two words"}, ValueError),
        ({"client_name": "line\nbreak"}, ValueError),
        ({"client_name": 5}, TypeError),
        ({"tls_ca": "ca.pem"}, ValueError),
        ({"timeout": 5}, TypeError),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with raises_discreetly(error):
        RedisConnection(with_password("redis://h"), **options)


@pytest.mark.parametrize("options", [{"tls_cert": "c.pem"}, {"tls_key": "k.pem"}], ids=str)
def test_a_client_certificate_needs_its_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need each other"):
        RedisConnection("rediss://h", **options)


# Servers that are not there


def test_a_host_that_does_not_resolve() -> None:
    url = with_password("redis://nowhere.invalid")
    with within(2), raises_discreetly(RedisConnectionError) as raised:
        read_stream(RedisConnection(url, connect_timeout=1), "s")
    assert "nowhere.invalid:6379" in str(raised.value)


@pytest.mark.parametrize("max_retries", [0, 5, 1_000])
def test_a_closed_port(max_retries: int) -> None:
    with socket.socket() as taken:  # bound, so nobody else's, and nobody listens
        taken.bind((HOST, 0))
        url = with_password(f"redis://{HOST}:{taken.getsockname()[1]}")
        connection = RedisConnection(url, max_retries=max_retries, connect_timeout=0.7)
        with within(1.7), raises_discreetly(RedisConnectionError) as raised:
            read_stream(connection, "s")
    assert "refused" in str(raised.value)
    # 0, 100, 300 ms, each with jitter of up to as much again
    attempts = re.search(r"attempts: (\d+)", str(raised.value))
    assert (int(attempts[1]) if attempts else 1) in ((1,) if max_retries == 0 else (2, 3, 4))


def test_a_missing_socket_file(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock?pass={QUOTED}"
    with within(2), raises_discreetly(RedisConnectionError) as raised:
        read_stream(RedisConnection(url, connect_timeout=1), "s")
    assert "none.sock" in str(raised.value)


def test_a_host_that_does_not_answer() -> None:
    # Once the queue of connections that wait to be accepted is full, the kernel answers no more.
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        url = with_password(f"redis://{HOST}:{address[1]}")
        watch = Stopwatch()
        with raises_discreetly(RedisTimeoutError) as raised:
            read_stream(RedisConnection(url, connect_timeout=0.5), "s")
        assert 0.45 < watch.seconds < 1.5 * SLACK
        assert "connect_timeout" in str(raised.value)
        for one in waiting:
            one.close()


@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_a_server_that_does_not_answer_the_login(query: str) -> None:
    def answer(command: Command) -> bytes:
        return b""

    with ScriptedServer(answer) as server:
        connection = RedisConnection(with_password(server.url) + query, connect_timeout=0.5)
        with within(1.5), raises_discreetly(RedisTimeoutError):
            read_stream(connection, "s")
        assert server.connections == 1


def test_retries_and_a_slow_login_share_the_connect_timeout(any_server: Server) -> None:
    url = with_password(any_server.url, user="default")
    with Proxy(any_server.port) as proxy:
        proxy.refuse(1)
        proxy.stall_after(0, once_seen=b"AUTH", times=None)
        url = url.replace(str(any_server.port), str(proxy.port))
        # A pause of 0.8 to 1.6 s, and then what is left of the two.
        connection = RedisConnection(url, connect_timeout=2, retry_base_delay=0.8)
        with within(2.5), raises_discreetly(RedisTimeoutError):
            read_stream(connection, "s")
        assert proxy.connections == 2


def test_a_paused_server_runs_into_the_response_timeout(any_server: Server) -> None:
    connection = RedisConnection(any_server.url, response_timeout=0.4, connect_timeout=5)
    read_stream(connection, "s")
    any_server.pause()
    try:
        watch = Stopwatch()
        with pytest.raises(RedisTimeoutError, match="stream: s"):
            read_stream(connection, "s")
        assert 0.35 < watch.seconds < 1.4 * SLACK
    finally:
        any_server.resume()
    assert read_stream(connection, "s").is_empty()


# Login


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server with a password, and users with permissions."""
    users = {
        "reader": f"on >{PASSWORD} ~open* +@read",
        "outsider": f"on >{PASSWORD} ~open* -@all +ping",
        "free": "on nopass ~open* +@read",
        "disabled": f"off >{PASSWORD} ~* +@all",
    }
    with Server("redis-7.0", password=PASSWORD, users=users) as server:
        add_numbers(server.client(), "open", 3)
        add_numbers(server.client(), "closed", 3)
        yield server


def guarded_url(server: Server, user: str, password: str | None, query: str = "") -> str:
    login = user if password is None else f"{user}:{password}"
    return f"redis://{login}@{HOST}:{server.port}{query}"


@PROTOCOLS
@pytest.mark.parametrize("user", ["", "default", "reader"])
def test_the_right_password(guarded: Server, user: str, query: str) -> None:
    df = read_stream(guarded_url(guarded, user, QUOTED, query), "open", NUMBER)
    assert_frame_equal(df, numbers(3))


@PROTOCOLS
def test_a_user_that_needs_no_password(guarded: Server, query: str) -> None:
    assert_frame_equal(
        read_stream(guarded_url(guarded, "free", None, query), "open", NUMBER), numbers(3)
    )


@PROTOCOLS
@pytest.mark.parametrize(
    ("user", "password", "code"),
    [
        ("", "wrong", "WRONGPASS"),
        ("", QUOTED + "x", "WRONGPASS"),
        ("reader", "wrong", "WRONGPASS"),
        ("reader", None, "WRONGPASS"),
        ("nobody", QUOTED, "WRONGPASS"),
        ("disabled", QUOTED, "WRONGPASS"),
    ],
)
def test_a_wrong_password(
    guarded: Server, user: str, password: str | None, query: str, code: str
) -> None:
    with within(1), raises_discreetly(AuthenticationError) as raised:
        read_stream(guarded_url(guarded, user, password, query), "open")
    assert raised.value.code == code
    assert f"{HOST}:{guarded.port}" in str(raised.value)


@PROTOCOLS
def test_a_password_is_needed(guarded: Server, query: str) -> None:
    with within(1), pytest.raises(AuthenticationError) as raised:
        read_stream(f"redis://{HOST}:{guarded.port}{query}", "open")
    assert raised.value.code == "NOAUTH"


@pytest.mark.parametrize("user", ["", "default"])
def test_a_password_that_the_server_does_not_ask_for(server: Server, user: str) -> None:
    connection = with_password(server.url, user=user)
    if user:
        assert read_stream(connection, "s").is_empty()
    else:
        with raises_discreetly(AuthenticationError):
            read_stream(connection, "s")


@pytest.mark.parametrize(("user", "stream"), [("reader", "closed"), ("outsider", "open")])
@pytest.mark.parametrize("block_ms", [None, 0])
def test_a_user_without_the_permission(
    guarded: Server, user: str, stream: str, block_ms: int | None
) -> None:
    url = guarded_url(guarded, user, QUOTED)
    with within(1), raises_discreetly(AuthenticationError) as raised:
        read_stream(url, stream, block_ms=block_ms)
    assert raised.value.code == "NOPERM"
    assert f"stream: {stream}" in str(raised.value)


@pytest.mark.parametrize("name", ["redis-6.2", "redis-8.10"])
@pytest.mark.parametrize(
    ("command", "query", "error"),
    [("AUTH", "", AuthenticationError), ("HELLO", "?protocol=resp3", ResponseError)],
)
def test_a_server_that_does_not_know_the_login_quotes_it_and_we_do_not(
    name: str, command: str, query: str, error: type[RedfloeError]
) -> None:
    with Server(name, args=["--rename-command", command, ""]) as server:
        with raises_discreetly(error) as raised:
            read_stream(with_password(server.url) + query, "s")
    assert f"unknown command '{command}'" in str(raised.value).replace("`", "'")


def test_a_login_is_not_tried_again(guarded: Server) -> None:
    with Proxy(guarded.port) as proxy:
        with raises_discreetly(AuthenticationError):
            read_stream(quick(f"redis://:wrong@{HOST}:{proxy.port}"), "open")
        assert proxy.count(b"AUTH") == proxy.connections == 1


def test_a_lost_login_is_tried_again(guarded: Server) -> None:
    with Proxy(guarded.port) as proxy:
        for size in range(6):  # of the five bytes "+OK\r\n"
            proxy.cut_after(size, once_seen=b"AUTH")
        url = with_password(proxy.url)
        assert_frame_equal(read_stream(quick(url, max_retries=6), "open", NUMBER), numbers(3))
        assert proxy.connections == 7


# Databases, sockets, names


@pytest.mark.parametrize("database", [0, 3])
def test_the_database_number(server: Server, stream: str, database: int) -> None:
    add_numbers(server.client(db=database), stream, 3)
    with_database = f"{server.url}/{database}"
    assert_frame_equal(read_stream(with_database, stream, NUMBER), numbers(3))
    assert read_stream(f"{server.url}/{3 - database}", stream).is_empty()
    assert_frame_equal(read_stream(f"{server.unix_url}?db={database}", stream, NUMBER), numbers(3))


@pytest.mark.parametrize("number", [99, 2**31, 2**62])
def test_a_wrong_database_number(server: Server, number: int) -> None:
    url = with_password(server.url, user="default")
    with within(1), raises_discreetly(ResponseError) as raised:
        read_stream(f"{url}/{number}", "s")
    assert raised.value.code == "ERR"


@pytest.mark.parametrize("scheme", ["unix", "redis+unix"])
def test_a_unix_socket(server: Server, client: redis.Redis, stream: str, scheme: str) -> None:
    add_numbers(client, stream, 3)
    url = server.unix_url.replace("unix", scheme, 1)
    for query in ("", "?protocol=resp3"):
        assert_frame_equal(read_stream(url + query, stream, NUMBER), numbers(3))


def test_a_login_over_a_unix_socket(guarded: Server) -> None:
    url = f"{guarded.unix_url}?user=reader&pass={QUOTED}"
    assert_frame_equal(read_stream(url, "open", NUMBER), numbers(3))
    with raises_discreetly(AuthenticationError):
        read_stream(f"{guarded.unix_url}?user=reader&pass=wrong", "open")


@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_the_client_name(server: Server, client: redis.Redis, query: str) -> None:
    name = f"reports:7{query}"
    read_stream(RedisConnection(server.url + query, client_name=name), "s")
    [one] = named(client, name)
    assert one.get("resp", "2") == ("3" if query and "resp" in one else "2")


@pytest.fixture
def clerk(any_server: Server, client: redis.Redis) -> Iterator[str]:
    """The URL of a user who may neither name a connection nor choose a database."""
    user = ("clerk", "reset", "on", ">secret", "~*", "+@all", "-client", "-select")
    client.execute_command("ACL", "SETUSER", *user)
    yield f"redis://clerk:secret@127.0.0.1:{any_server.port}"
    client.execute_command("ACL", "DELUSER", "clerk")


@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_who_may_not_name_a_connection_goes_without(
    clerk: str, client: redis.Redis, stream: str, query: str
) -> None:
    add_numbers(client, stream, 3)
    connection = RedisConnection(clerk + query, client_name="clerk")
    assert_frame_equal(read_stream(connection, stream, NUMBER), numbers(3))
    assert not named(client, "clerk")


def test_a_refusal_at_login_is_not_taken_for_that_of_a_transaction(clerk: str) -> None:
    frame = pl.DataFrame({"key": ["a"], "n": [1]})
    with pytest.raises(AuthenticationError, match="select") as raised:
        write_hashes(f"{clerk}/1", frame, key_column="key")
    assert "MULTI" not in str(raised.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_host_name(any_server: Server, client: redis.Redis, stream: str, host: str) -> None:
    add_numbers(client, stream, 3)
    assert_frame_equal(read_stream(f"redis://{host}:{any_server.port}", stream, NUMBER), numbers(3))


# TLS


@pytest.fixture(scope="module", params=["redis-7.0", "valkey"])
def tls_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Server]:
    """A server with TLS that asks for no client certificate."""
    with Server(request.param, tls=certificates.server) as server:
        add_numbers(server.client(), "s", 3_000)
        yield server


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_tls_with_an_authority_of_our_own(
    tls_server: Server, certificates: Certificates, host: str, query: str
) -> None:
    url = tls_server.tls_url.replace(HOST, host) + query
    connection = RedisConnection(url, tls_ca=certificates.ca)
    assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3_000))
    assert_frame_equal(read_stream(connection, "s", NUMBER, block_ms=10), numbers(3_000))


def test_tls_connections_are_pooled(tls_server: Server, certificates: Certificates) -> None:
    connection = RedisConnection(
        tls_server.tls_url, tls_ca=str(certificates.ca), client_name="tls-pool"
    )
    for _ in range(3):
        read_stream(connection, "s")
    assert len(named(tls_server.client(), "tls-pool")) == 1


def test_a_tls_connection_that_is_lost_is_replaced(certificates: Certificates) -> None:
    with Server("redis-7.0", tls=certificates.server) as server:
        add_numbers(server.client(), "s", 3)
        connection = RedisConnection(server.tls_url, tls_ca=certificates.ca)
        with (
            later(0.3, server.restart),
            later(0.8, lambda: add_numbers(server.client(), "s", 4, first=4)),
        ):
            df = read_stream(connection, "s", NUMBER, "$", block_ms=0)
        assert_frame_equal(df, numbers(4, first=4))
        # One that waits in the pool is not even tried.
        server.restart()
        hasty = once(server.tls_url, tls_ca=certificates.ca)
        assert_frame_equal(read_stream(hasty, "s", NUMBER, "4"), numbers(4, first=4))
        server.restart()
        assert_frame_equal(read_stream(hasty, "s", NUMBER, "4"), numbers(4, first=4))


def test_tls_with_an_unknown_authority(tls_server: Server, certificates: Certificates) -> None:
    url = with_password(tls_server.tls_url)
    trusting: list[dict[str, Any]] = [{}, {"tls_ca": certificates.stranger.ca}]
    for options in trusting:
        with within(1), raises_discreetly(RedisConnectionError) as raised:
            read_stream(RedisConnection(url, **options), "s")
        assert "UnknownIssuer" in str(raised.value)
        assert "attempts" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "why"), [("expired", "expired"), ("wrong_host", "not valid for name")]
)
def test_tls_with_a_bad_certificate(certificates: Certificates, name: str, why: str) -> None:
    identity: Identity = getattr(certificates, name)
    with Server("redis-7.0", tls=identity) as server:
        connection = RedisConnection(with_password(server.tls_url), tls_ca=certificates.ca)
        with within(1), raises_discreetly(RedisConnectionError) as raised:
            read_stream(connection, "s")
    assert why in str(raised.value)
    assert "attempts" not in str(raised.value)


@pytest.fixture(scope="module")
def strict_server(certificates: Certificates) -> Iterator[Server]:
    """A server that wants a client certificate of its own authority."""
    with Server("redis-7.0", tls=certificates.server, tls_clients="yes") as server:
        add_numbers(server.client(), "s", 3)
        yield server


def test_tls_with_a_client_certificate(strict_server: Server, certificates: Certificates) -> None:
    mine = certificates.client
    connection = RedisConnection(
        strict_server.tls_url, tls_ca=certificates.ca, tls_cert=mine.cert, tls_key=str(mine.key)
    )
    assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3))


@pytest.mark.parametrize("which", [None, "stranger"])
@pytest.mark.parametrize("login", [False, True])
def test_tls_without_the_client_certificate_that_is_wanted(
    strict_server: Server, certificates: Certificates, which: str | None, login: bool
) -> None:
    options: dict[str, Any] = {}
    if which is not None:
        identity: Identity = getattr(certificates, which)
        options = {"tls_cert": identity.cert, "tls_key": identity.key}
    url = with_password(strict_server.tls_url, "default") if login else strict_server.tls_url
    connection = RedisConnection(url, tls_ca=certificates.ca, **options)
    with within(2), raises_discreetly(RedisConnectionError) as raised:
        read_stream(connection, "s")
    assert "TLS" in str(raised.value)


@pytest.mark.parametrize("is_ca", [True, False])
def test_tls_with_a_certificate_that_is_its_own_authority(is_ca: bool, tmp_path: Path) -> None:
    """As `openssl req -x509` makes it; exactly that one is trusted."""
    own = self_signed(tmp_path, "own", "localhost", is_ca=is_ca)
    twin = self_signed(tmp_path, "twin", "localhost", is_ca=is_ca)
    with Server("redis-7.0", tls=own) as server:
        add_numbers(server.client(), "s", 3)
        url = server.tls_url.replace(HOST, "localhost")
        df = read_stream(RedisConnection(url, tls_ca=own.cert), "s", NUMBER)
        assert_frame_equal(df, numbers(3))
        for connection in (
            RedisConnection(url, tls_ca=twin.cert),
            RedisConnection(url),
            RedisConnection(server.tls_url, tls_ca=own.cert),  # the certificate is for a name
        ):
            with within(2), pytest.raises(RedisConnectionError, match="TLS"):
                read_stream(connection, "s")


@pytest.mark.parametrize("is_ca", [True, False])
def test_tls_with_an_own_certificate_that_expired(is_ca: bool, tmp_path: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    expired = self_signed(tmp_path, "expired", "localhost", is_ca=is_ca, until=yesterday)
    with Server("redis-7.0", tls=expired) as server:
        url = server.tls_url.replace(HOST, "localhost")
        with within(2), pytest.raises(RedisConnectionError, match=r"TLS.*expired"):
            read_stream(RedisConnection(url, tls_ca=expired.cert), "s")


def test_tls_files_that_are_renewed_are_read_again(
    certificates: Certificates, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"

    def renew(authority: Path | None) -> None:
        content = b"" if authority is None else authority.read_bytes()
        ca.write_bytes(content)
        server.client().client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.05)

    with Server("redis-7.0", tls=certificates.server) as server:
        ca.write_bytes(certificates.stranger.ca.read_bytes())
        connection = quick(server.tls_url, tls_ca=ca)
        with pytest.raises(RedisConnectionError, match="TLS"):
            read_stream(connection, "s")
        # Half written, the second time: what was read before is used.
        for authority in (certificates.ca, None):
            renew(authority)
            assert read_stream(connection, "s").is_empty()
        renew(certificates.stranger.ca)
        with pytest.raises(RedisConnectionError, match="TLS"):
            read_stream(connection, "s")


def test_tls_files_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    mine = certificates.client
    unusable: list[tuple[dict[str, Any], str]] = [
        ({"tls_ca": tmp_path / "none.pem"}, "tls_ca"),
        ({"tls_ca": empty}, "tls_ca"),
        ({"tls_ca": mine.key}, "tls_ca"),
        ({"tls_cert": mine.cert, "tls_key": empty}, "tls_key"),
        ({"tls_cert": empty, "tls_key": mine.key}, "tls_cert"),
        ({"tls_cert": mine.cert, "tls_key": certificates.server.key}, "tls_key"),
    ]
    for options, parameter in unusable:
        connection = RedisConnection(
            with_password("rediss://127.0.0.1:1"),
            **options,
        )
        with within(1), raises_discreetly(ValueError) as raised:
            read_stream(connection, "s")
        assert parameter in str(raised.value)


def test_tls_at_a_port_without_it(any_server: Server) -> None:
    # It waits for the end of what looks to it like the beginning of a command.
    url = with_password(any_server.url).replace("redis://", "rediss://")
    with within(1.5), raises_discreetly(RedisTimeoutError):
        read_stream(RedisConnection(url, connect_timeout=0.5), "s")


def test_no_tls_at_a_port_with_it(tls_server: Server) -> None:
    url = tls_server.tls_url.replace("rediss://", "redis://")
    connection = quick(url, connect_timeout=2, response_timeout=1)
    with within(3), pytest.raises((RedisConnectionError, ResponseError)):
        read_stream(connection, "s")


# The pool


def test_connections_are_reused(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3_000)
    with Proxy(any_server.port) as proxy:
        for _ in range(5):
            read_stream(proxy.url, stream)
            read_stream(RedisConnection(proxy.url), stream)  # equal options, the same pool
        assert proxy.connections == 1
        read_stream(RedisConnection(proxy.url, max_retries=1), stream)
        assert proxy.connections == 2


def test_a_connection_whose_reply_was_an_error_is_reused_or_closed_but_never_confused(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    client.set("text", "x")
    for _ in range(3):
        with pytest.raises(WrongTypeError):
            read_stream(any_server.url, "text")
        assert_frame_equal(read_stream(any_server.url, stream, NUMBER), numbers(3))


def test_idle_connections_are_few(any_server: Server, client: redis.Redis) -> None:
    connection = RedisConnection(any_server.url, client_name="many")
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda _: read_stream(connection, "s", block_ms=300), range(20)))
    eventually(lambda: len(named(client, "many")) <= 8)
    assert named(client, "many")


def test_clients_that_nobody_uses_are_few(any_server: Server, client: redis.Redis) -> None:
    """Tokens that rotate make another client each time."""
    before = len(client.client_list())
    held = RedisConnection(any_server.url, client_name="held")
    batches = iter_stream(held, "s", NUMBER, block_ms=10, on_idle="stop")
    assert list(batches) == []
    for number in range(100):
        read_stream(RedisConnection(any_server.url, client_name=f"c{number}"), "s")
    eventually(lambda: len(client.client_list()) - before <= 35)
    # The latest is still there.
    [latest] = named(client, "c99")
    read_stream(RedisConnection(any_server.url, client_name="c99"), "s")
    assert [one["id"] for one in named(client, "c99")] == [latest["id"]]


def fill_pool(connection: RedisConnection, proxy: Proxy) -> None:
    """Have it hold eight idle connections."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: read_stream(connection, "none", block_ms=200), range(8)))
    assert proxy.connections >= 8


@pytest.mark.parametrize("read", [True, False], ids=["group", "write"])
def test_pooled_connections_to_a_server_that_was_demoted_are_dropped_together(
    any_server: Server, read: bool
) -> None:
    """A failover behind one address: the old master lives on as a replica."""
    with Server(any_server.name) as old, Server(any_server.name) as new, Proxy(old.port) as proxy:
        connection = quick(proxy.url, max_retries=1)
        fill_pool(connection, proxy)
        add_numbers(new.client(), "s", 3)
        before = proxy.connections
        proxy.redirect(new.port)
        old.client().replicaof(HOST, new.port)
        with within(2):
            if read:
                me: dict[str, Any] = {"group": "g", "consumer": "c"}
                assert_frame_equal(read_stream(connection, "s", NUMBER, **me), numbers(3))
            else:
                write_stream(connection, pl.DataFrame({"n": [4]}), "s")
        assert new.client().xlen("s") == 3 if read else 4
        assert proxy.connections == before + 1


def test_pooled_connections_that_went_silent_are_dropped_together(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, response_timeout=0.3)
        fill_pool(connection, proxy)
        before = proxy.connections
        proxy.stall_after(0, once_seen=b"XREVRANGE")
        with pytest.raises(RedisTimeoutError):
            read_stream(connection, "s")
        assert read_stream(connection, "s").is_empty()
        assert proxy.connections == before + 1


def test_what_a_server_pushes_is_no_reply(any_server: Server, client: redis.Redis) -> None:
    """RESP3 lets it send something else, and attributes, before any reply."""
    add_numbers(client, "s", 3)
    aside = b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n|1\r\n+ttl\r\n:3\r\n"
    with Proxy(any_server.port) as proxy:
        url = proxy.url + "?protocol=resp3"
        proxy.replace_reply(aside + b"%1\r\n+proto\r\n:3\r\n", once_seen=b"HELLO")
        proxy.replace_reply(aside + b":2\r\n", once_seen=b"XACK")
        proxy.replace_reply(aside + b"-WRONGTYPE no\r\n", once_seen=b"XTRIM")
        assert ack_entries(url, "s", "g", ["1-0"]) == 2
        with pytest.raises(WrongTypeError):
            trim_stream(url, "s", maxlen=0)
        # The replies that come next are its own.
        assert_frame_equal(read_stream(proxy.url + "?protocol=resp3", "s", NUMBER), numbers(3))


class InterruptedForTestError(Exception):
    """What the test's signal handler raises."""


@pytest.fixture
def interrupting() -> Iterator[None]:
    """Let SIGUSR1 raise in the main thread, as SIGINT does."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise InterruptedForTestError

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("interrupting")
def test_a_cancelled_read_s_connection_is_closed(any_server: Server, client: redis.Redis) -> None:
    connection = RedisConnection(any_server.url, client_name="cancelled")
    read_stream(connection, "s")
    [before] = named(client, "cancelled")
    with later(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)):
        with within(0.7), pytest.raises(InterruptedForTestError):
            read_stream(connection, "s", block_ms=0)
    eventually(lambda: not named(client, "cancelled"))
    add_numbers(client, "s", 3)
    assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3))
    [after] = named(client, "cancelled")
    assert after["id"] != before["id"]


def test_a_signal_whose_handler_returns_does_not_end_a_read(
    any_server: Server, client: redis.Redis
) -> None:
    seen = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.set())
    try:
        with later(0.2, lambda: os.kill(os.getpid(), signal.SIGUSR1)):
            with later(0.5, lambda: add_numbers(client, "s", 3)):
                df = read_stream(any_server.url, "s", NUMBER, block_ms=0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen.is_set()
    assert_frame_equal(df, numbers(3))


def test_a_failed_read_s_connection_is_closed(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3_000)
    client.xadd(stream, {"n": "x"}, id="3001-0")
    add_numbers(client, stream, 9_000, first=3002)
    with Proxy(any_server.port) as proxy:
        # Raised while the next page is on its way.
        for _ in range(3):
            with pytest.raises(RedfloeError, match="3001-0"):
                read_stream(proxy.url, stream, NUMBER)
            assert_frame_equal(read_stream(proxy.url, stream, NUMBER, count=9), numbers(9))


def test_a_connection_that_timed_out_is_not_reused(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, response_timeout=0.2)
        proxy.stall_after(5, once_seen=b"XRANGE")
        with pytest.raises(RedisTimeoutError):
            read_stream(connection, stream)
        assert_frame_equal(read_stream(connection, stream, NUMBER), numbers(3))
        assert proxy.connections == 2


def test_a_pooled_connection_that_the_server_closed_is_replaced() -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 3)
        for connection in (once(server.url), RedisConnection(server.url)):
            assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3))
        server.restart()
        for connection in (once(server.url), RedisConnection(server.url)):
            assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3))
        server.client().client_kill_filter(_type="normal", skipme=True)
        time.sleep(0.05)
        for connection in (once(server.url), RedisConnection(server.url)):
            assert_frame_equal(read_stream(connection, "s", NUMBER), numbers(3))


# Retries

TRANSIENT = [
    *["LOADING", "BUSY", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS"],
    *["MISCONF", "OOM", "UNBLOCKED force unblock", "ERR max number of clients reached"],
    "EXECABORT Transaction discarded because of: LOADING",
    "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -BUSY",
]
#: The transient errors after which the same connection can be used again.
WAITED_FOR = ["LOADING", "BUSY", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "OOM"]
LASTING = {
    "ERR": ResponseError,
    "MOVED": ResponseError,
    "ASK": ResponseError,
    "CROSSSLOT": ResponseError,
    "NOSCRIPT": ResponseError,
    "BUSYGROUP": ResponseError,
    "NEWCODE": ResponseError,
    "NOGROUP": NoGroupError,
    "NOPERM": AuthenticationError,
    "NOAUTH": AuthenticationError,
    "WRONGTYPE": WrongTypeError,
    "EXECABORT": ResponseError,
}
#: Not XREVRANGE, which goes along with the first page: what it says matters only beyond that.
COMMANDS = [b"XRANGE"]


@pytest.mark.parametrize("code", TRANSIENT)
@pytest.mark.parametrize("command", [*COMMANDS, b"XREAD"])
def test_transient_errors_are_tried_again_with_growing_pauses(
    any_server: Server, client: redis.Redis, stream: str, code: str, command: bytes
) -> None:
    start = "-"
    if command == b"XREAD":
        start = "$"
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(f"-{code} try later\r\n".encode(), once_seen=command, times=2)
        if command == b"XREAD":
            proxy.before(b"XREAD", lambda n: n == 3 and add_numbers(client, stream, 4, first=4))
        watch = Stopwatch()
        df = read_stream(
            RedisConnection(proxy.url, retry_base_delay=0.05), stream, NUMBER, start, block_ms=5_000
        )
        assert fault.hits == 2
        assert 0.15 <= watch.seconds < 1.3 * SLACK  # 50 and 100 ms, each up to twice as long
    assert_frame_equal(df, numbers(4, first=4) if command == b"XREAD" else numbers(3))


@pytest.mark.parametrize("code", LASTING)
@pytest.mark.parametrize("command", COMMANDS)
def test_lasting_errors_are_not_tried_again(
    any_server: Server, client: redis.Redis, stream: str, code: str, command: bytes
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(f"-{code} no\r\n".encode(), once_seen=command, times=None)
        with within(2), pytest.raises(LASTING[code], match=f"{code} no") as raised:
            read_stream(RedisConnection(proxy.url), stream)
        assert raised.value.code == code
        assert fault.hits == 1


@pytest.mark.parametrize("code", WAITED_FOR)
def test_a_transient_error_leaves_the_connection(any_server: Server, code: str) -> None:
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(f"-{code} wait\r\n".encode(), once_seen=b"XRANGE", times=2)
        assert read_stream(quick(proxy.url), "s").is_empty()
        assert fault.hits == 2
        assert proxy.connections == 1


@pytest.mark.parametrize("code", ["READONLY", "MASTERDOWN", "UNBLOCKED force unblock"])
def test_an_error_that_says_so_brings_another_connection(any_server: Server, code: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(f"-{code} x\r\n".encode(), once_seen=b"XRANGE", times=2)
        assert read_stream(quick(proxy.url), "s").is_empty()
        assert proxy.connections == 3


@pytest.mark.parametrize("code", LASTING)
def test_a_lasting_error_leaves_the_connection(any_server: Server, code: str) -> None:
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(f"-{code} no\r\n".encode(), once_seen=b"XRANGE", times=3)
        for _ in range(3):
            with pytest.raises(LASTING[code]):
                read_stream(proxy.url, "s")
        assert read_stream(proxy.url, "s").is_empty()
        assert fault.hits == 3
        assert proxy.connections == 1


@pytest.mark.parametrize("max_retries", [0, 1, 3])
@pytest.mark.parametrize("command", COMMANDS)
def test_retries_are_counted(
    any_server: Server, client: redis.Redis, stream: str, command: bytes, max_retries: int
) -> None:
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(b"-LOADING wait\r\n", once_seen=command, times=None)
        with pytest.raises(ResponseError, match="LOADING wait") as raised:
            read_stream(quick(proxy.url, max_retries=max_retries), stream)
        assert raised.value.code == "LOADING"
        assert fault.hits == max_retries + 1
        told = f"attempts: {max_retries + 1}" in str(raised.value)
        assert told is (max_retries > 0)


def test_progress_starts_the_count_anew(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 40_000)
    with Proxy(any_server.port) as proxy:
        # Each page but the first fails once, with a single retry allowed.
        for page in range(4):
            proxy.replace_reply(b"-LOADING wait\r\n", once_seen=b"XRANGE", skip=page + 1)
        df = read_stream(quick(proxy.url, max_retries=1), stream, NUMBER)
        assert proxy.count(b"XRANGE") > 5
    assert_frame_equal(df, numbers(40_000))


def test_pauses_may_be_zero(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(b"-BUSY wait\r\n", once_seen=b"XRANGE", times=5)
        connection = RedisConnection(proxy.url, retry_base_delay=0, retry_max_delay=0)
        assert read_stream(connection, "s").is_empty()
        assert fault.hits == 5


def test_no_pause_is_longer_than_its_limit(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-BUSY wait\r\n", once_seen=b"XRANGE", times=3)
        connection = RedisConnection(proxy.url, retry_base_delay=60, retry_max_delay=0.1)
        with within(1.5):
            assert read_stream(connection, "s").is_empty()


def test_a_server_that_hangs_up_each_time_is_not_pestered() -> None:
    with ScriptedServer(lambda command: None) as server:
        watch = Stopwatch()
        with raises_discreetly(RedisConnectionError) as raised:
            read_stream(RedisConnection(server.url, retry_base_delay=0.02), "s", block_ms=0)
        # Pauses of 20, 40, 80, 160 and 320 ms at least.
        assert watch.seconds > 0.6
        assert server.connections == len(server.commands) == 6
    assert "attempts: 6" in str(raised.value)


def test_a_server_that_cannot_block_is_not_pestered(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"*-1\r\n", once_seen=b"XREAD", times=None)
        watch = Stopwatch()
        assert read_stream(proxy.url, "s", block_ms=500).is_empty()
        assert 0.49 < watch.seconds < 1.5 * SLACK
        assert proxy.count(b"XREAD") < 40


def test_a_wait_that_loses_its_connection_waits_only_for_the_rest(any_server: Server) -> None:
    with Proxy(any_server.port) as proxy:
        watch = Stopwatch()
        with later(0.7, proxy.cut_all):
            assert read_stream(quick(proxy.url), "s", block_ms=1_000).is_empty()
        assert 0.99 < watch.seconds < 1.5 * SLACK
        assert proxy.connections == 2


def test_a_busy_server_is_waited_for(any_server: Server) -> None:
    with Server(any_server.name, args=["--lua-time-limit", "10"]) as server:
        add_numbers(server.client(), "s", 3)

        def hang() -> None:
            with pytest.raises(redis.ResponseError, match="killed"):
                server.client().eval("while true do end", 0)

        script = threading.Thread(target=hang)
        script.start()
        time.sleep(0.1)
        try:
            with pytest.raises(ResponseError) as raised:
                read_stream(once(server.url), "s")
            assert raised.value.code == "BUSY"
            with later(0.3, server.client().script_kill):
                assert_frame_equal(read_stream(server.url, "s", NUMBER), numbers(3))
        finally:
            script.join()


def test_a_replica_without_its_master_is_waited_for(any_server: Server) -> None:
    with Server(any_server.name, args=["--replica-serve-stale-data", "no"]) as server:
        add_numbers(server.client(), "s", 3)
        server.client().replicaof(HOST, "1")
        with pytest.raises(ResponseError) as raised:
            read_stream(once(server.url), "s")
        assert raised.value.code == "MASTERDOWN"
        with later(0.3, lambda: server.client().replicaof("NO", "ONE")):
            assert_frame_equal(read_stream(server.url, "s", NUMBER), numbers(3))


@pytest.mark.parametrize("group", [None, "g"])
def test_a_server_that_is_demoted_while_it_is_waited_for(
    server: Server, client: redis.Redis, stream: str, group: str | None
) -> None:
    """It says UNBLOCKED, which is no word about the group or the stream."""
    connection = quick(server.url, client_name="demoted", max_retries=1_000)
    options: dict[str, Any] = {"group": group, "consumer": group} if group else {}
    batches = iter_stream(connection, stream, NUMBER, "$" if group is None else None, **options)

    def demote() -> None:
        eventually(is_waiting(client, "demoted"))
        client.replicaof(HOST, "1")
        time.sleep(0.1)
        client.replicaof("NO", "ONE")
        add_numbers(client, stream, 3)

    try:
        with later(0, demote), within(3):
            assert_frame_equal(next(batches), numbers(3))
    finally:
        client.replicaof("NO", "ONE")


def test_a_server_with_too_many_connections_is_waited_for(any_server: Server) -> None:
    with Server(any_server.name, args=["--maxclients", "3"]) as server:
        others = [server.client() for _ in range(3)]
        for one in others:
            one.ping()
        with pytest.raises(ResponseError, match="max number of clients"):
            read_stream(once(server.url), "s")
        with later(0.3, others[0].close):
            assert read_stream(server.url, "s").is_empty()
        for one in others:
            one.close()


def test_a_server_that_lacks_replicas_is_waited_for(any_server: Server) -> None:
    with Server(any_server.name, args=["--min-replicas-to-write", "1"]) as server:
        frame = pl.DataFrame({"a": [1]})
        with pytest.raises(WriteError, match="NOREPLICAS") as raised:
            write_stream(once(server.url), frame, "s")
        assert raised.value.code == "NOREPLICAS"
        client = server.client()
        with later(0.3, lambda: client.config_set("min-replicas-to-write", 0)):
            assert len(write_stream(server.url, frame, "s")) == 1
        assert client.xlen("s") == 1


def test_a_server_without_memory_is_waited_for(any_server: Server) -> None:
    """Creating a group is a write, too."""
    with Server(any_server.name) as server:
        client = server.client()
        add_numbers(client, "s", 3)
        client.config_set("maxmemory", 1)
        me: dict[str, Any] = {"group": "g", "consumer": "c"}
        with pytest.raises(ResponseError) as raised:
            read_stream(once(server.url), "s", NUMBER, **me)
        assert raised.value.code == "OOM"
        with later(0.3, lambda: client.config_set("maxmemory", 0)):
            assert_frame_equal(read_stream(server.url, "s", NUMBER, **me), numbers(3))


def test_a_server_that_comes_back_within_the_connect_timeout() -> None:
    with Server("redis-6.2") as server:
        add_numbers(server.client(), "s", 3)
        server.client().save()
        server.kill()
        with later(0.5, server.start):
            assert_frame_equal(read_stream(server.url, "s", NUMBER), numbers(3))


def test_a_discreet_error_is_recognised() -> None:
    """The helper that looks for the password finds it."""
    for text in (PASSWORD, QUOTED, PASSWORD[:6]):
        with pytest.raises(AssertionError):
            assert_discreet(ValueError(text))
    assert_discreet(ValueError("nothing"))


def test_a_frame_outlives_its_connection(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 3)
    with Proxy(any_server.port) as proxy:
        df = read_stream(proxy.url, "s", NUMBER)
    assert df["n"].sum() == 6
    assert_frame_equal(df.with_columns(pl.col("n") + 0), numbers(3))
