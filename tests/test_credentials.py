"""`credentials=`: a function that is asked whenever a connection is opened."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import AuthenticationError, RedisConnection, RedisTimeoutError, read_stream
from support.processes import finish, hear, python
from support.server import HOST, Server
from support.streams import NUMBER, add_numbers
from support.timing import eventually, within

USER = "rotating"


class Tokens:
    """Tokens of one user, each of which is valid until the next is made."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.given = 0
        self.rotate()

    def rotate(self) -> None:
        self.token = f"token-{os.urandom(4).hex()}"
        self.client.acl_setuser(
            USER,
            enabled=True,
            passwords=[f"+{self.token}"],
            reset_passwords=True,
            keys=["*"],
            categories=["+@all"],
        )

    def get_credentials(self) -> tuple[str, str]:
        self.given += 1
        return USER, self.token

    def drop_connections(self) -> None:
        """Close what was logged in with an old token, as managed services do."""
        for one in self.client.client_list():
            if one["user"] == USER:
                self.client.client_kill_filter(_id=one["id"])


@pytest.fixture
def tokens(client: redis.Redis) -> Iterator[Tokens]:
    yield Tokens(client)
    client.acl_deluser(USER)


def test_they_are_asked_for_each_connection(
    any_server: Server, client: redis.Redis, stream: str, tokens: Tokens
) -> None:
    add_numbers(client, stream, 3)
    connection = RedisConnection(any_server.url, credentials=tokens.get_credentials)
    for _ in range(3):
        assert read_stream(connection, stream, NUMBER).height == 3
    assert tokens.given == 1  # the pool kept the connection
    tokens.rotate()
    tokens.drop_connections()
    assert read_stream(connection, stream, NUMBER).height == 3
    assert tokens.given == 2


def test_an_iterator_reconnects_with_new_ones(
    any_server: Server, client: redis.Redis, stream: str, tokens: Tokens
) -> None:
    connection = RedisConnection(any_server.url, credentials=tokens, retry_base_delay=0.01)
    batches = redfloe.iter_stream(connection, stream, NUMBER, start_id="0", block_ms=50)
    for total in (1, 2, 3):
        add_numbers(client, stream, total, first=total)
        assert next(batches)["n"].to_list() == [total]
        tokens.rotate()
        tokens.drop_connections()
    batches.close()
    assert tokens.given >= 3


def test_in_an_event_loop(
    any_server: Server, client: redis.Redis, stream: str, tokens: Tokens
) -> None:
    """The function may block: it holds up no loop."""
    waiting, release = threading.Event(), threading.Event()

    def slow() -> tuple[str, str]:
        waiting.set()
        assert release.wait(10)
        return tokens.get_credentials()

    async def main() -> list[str]:
        connection = RedisConnection(any_server.url, credentials=slow)
        frame = pl.DataFrame({"n": [1]})
        write = asyncio.create_task(redfloe.write_stream_async(connection, frame, stream))
        await asyncio.to_thread(waiting.wait)
        release.set()
        return (await write).to_list()

    assert len(asyncio.run(main())) == client.xlen(stream) == 1


def test_equal_functions_share_a_pool(
    any_server: Server, client: redis.Redis, stream: str, tokens: Tokens
) -> None:
    first = RedisConnection(any_server.url, credentials=tokens.get_credentials)
    second = RedisConnection(any_server.url, credentials=tokens.get_credentials)
    assert first == second
    assert hash(first) == hash(second)
    assert first != RedisConnection(any_server.url, credentials=lambda: "x")
    assert first != RedisConnection(any_server.url)
    for connection in (first, second):
        read_stream(connection, stream, NUMBER)
    assert tokens.given == 1


def test_a_function_goes_with_its_connections() -> None:
    from weakref import ref

    class Function:
        def __call__(self) -> str:
            return "x"

    function = Function()
    seen = ref(function)
    # Another connection of the same function, and a call that makes the thread watch.
    connections = [RedisConnection("redis://127.0.0.1:1", credentials=function) for _ in range(2)]
    with pytest.raises(redfloe.RedisConnectionError):
        read_stream(
            RedisConnection("redis://127.0.0.1:1", credentials=lambda: "x", max_retries=0), "s"
        )
    del function, connections[0]
    assert seen() is not None
    connections.clear()
    eventually(lambda: seen() is None)


def test_what_a_function_may_return(redis70: Server) -> None:
    with Server("redis-7.0", password="secret") as server:
        url = f"redis://{HOST}:{server.port}"
        for given in ["secret", ("secret",), (None, "secret"), ("default", "secret")]:
            connection = RedisConnection(url, credentials=partial(returning, given), max_retries=0)
            assert read_stream(connection, "s").height == 0
        with pytest.raises(AuthenticationError, match="WRONGPASS"):
            read_stream(RedisConnection(url, credentials=lambda: "wrong"), "s")


@pytest.mark.parametrize("given", [None, 5, b"secret", (), ("a", "b", "c"), ("user", None)])
def test_what_a_function_may_not_return(any_server: Server, given: Any) -> None:
    connection = RedisConnection(any_server.url, credentials=lambda: given)
    with within(1), pytest.raises(AuthenticationError, match=f"not {type(given).__name__} "):
        read_stream(connection, "s")


def test_a_function_that_raises_is_asked_again(
    any_server: Server, stream: str, tokens: Tokens
) -> None:
    failures = [OSError("token t0k3n is gone"), KeyError("x")]

    def unsteady() -> tuple[str, str]:
        if failures:
            raise failures.pop()
        return tokens.get_credentials()

    connection = RedisConnection(any_server.url, credentials=unsteady, retry_base_delay=0.01)
    assert read_stream(connection, stream).height == 0
    assert not failures


def test_what_a_function_raises_is_the_cause(any_server: Server) -> None:
    failure = OSError("token t0k3n is gone")

    def failing() -> str:
        raise failure

    connection = RedisConnection(any_server.url, credentials=failing, max_retries=0)
    with pytest.raises(AuthenticationError, match="raised OSError") as caught:
        read_stream(connection, "s")
    assert caught.value.__cause__ is failure
    assert "t0k3n" not in str(caught.value)


def test_a_function_that_hangs(any_server: Server) -> None:
    end = threading.Event()
    connection = RedisConnection(
        any_server.url, credentials=partial(returning_late, end), connect_timeout=0.2, max_retries=0
    )
    with within(1), pytest.raises(RedisTimeoutError, match=r"credentials.*connect_timeout"):
        read_stream(connection, "s")
    # It holds up nobody else.
    with pytest.raises(AuthenticationError, match="not int"):
        read_stream(RedisConnection(any_server.url, credentials=partial(returning, 1)), "s")
    end.set()


@pytest.mark.parametrize(
    ("credentials", "error"),
    [(5, TypeError), ("secret", TypeError), (asyncio.sleep, TypeError)],
)
def test_what_is_no_function(credentials: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^credentials must be"):
        RedisConnection("redis://h", credentials=credentials)


@pytest.mark.parametrize("url", ["redis://:hunter2@h", "redis://user@h", "unix:///s?pass=hunter2"])
def test_a_login_in_the_url_as_well(url: str) -> None:
    with pytest.raises(ValueError, match="login is given once") as caught:
        RedisConnection(url, credentials=lambda: "x")
    assert "hunter2" not in str(caught.value)


def test_a_password_that_the_server_quotes_is_struck_out(
    any_server: Server, client: redis.Redis, stream: str, tokens: Tokens
) -> None:
    connection = RedisConnection(any_server.url, credentials=tokens)
    assert tokens.token not in repr(connection)
    with pytest.raises(redfloe.NoGroupError) as caught:
        # The server's error names the group, which is called like the token.
        redfloe.read_stream(
            connection, stream, group=tokens.token, consumer="c", create_group=False
        )
    assert tokens.token not in str(caught.value)


FORK = """
import polars as pl
connection = redfloe.RedisConnection(sys.argv[1], credentials=lambda: ("default", "x"))
print(json.dumps(redfloe.read_stream(connection, "s").height), flush=True)
child = os.fork()
if child == 0:
    print(json.dumps(redfloe.read_stream(connection, "s").height), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(json.dumps("end"), flush=True)
"""


def test_a_forked_child_asks_anew(any_server: Server) -> None:
    with python(FORK, any_server.url) as process:
        assert [hear(process) for _ in range(3)] == [0, 0, "end"]
        finish(process)


def test_pickled(any_server: Server, stream: str, tokens: Tokens) -> None:
    connection = RedisConnection(any_server.url, credentials=password_of_nobody, max_retries=0)
    assert pickle.loads(pickle.dumps(connection)) == connection


def password_of_nobody() -> str:
    return "x"


def returning_late(end: threading.Event) -> str:
    end.wait(30)
    return "x"


def returning(value: Any) -> Any:
    return value


def test_a_function_that_hangs_is_called_once_at_a_time(any_server: Server) -> None:
    end, calls = threading.Event(), [0]

    def hanging() -> str:
        calls[0] += 1
        end.wait(10)
        return "x"

    connection = RedisConnection(
        any_server.url, credentials=hanging, connect_timeout=0.05, max_retries=0
    )
    threads = threading.active_count()
    for _ in range(5):
        with pytest.raises(RedisTimeoutError):
            read_stream(connection, "s")
    assert calls == [1]
    assert threading.active_count() <= threads + 2  # and the one that watches
    end.set()
    # Who asked in vain is not waited for; who asks now is answered.
    with pytest.raises(AuthenticationError):
        read_stream(RedisConnection(any_server.url, credentials=hanging, connect_timeout=5), "s")
    assert calls[0] <= 3


def test_who_asks_while_a_call_runs_gets_the_answer_of_the_next(
    redis70: Server, stream: str, tokens: Tokens
) -> None:
    calls: list[float] = []

    def slow() -> tuple[str, str]:
        calls.append(time.monotonic())
        time.sleep(0.2)
        return tokens.get_credentials()

    connection = RedisConnection(redis70.url, credentials=slow)
    with within(1.5), ThreadPoolExecutor(8) as pool:
        readings = [pool.submit(read_stream, connection, stream)]
        eventually(lambda: bool(calls))
        readings += [pool.submit(read_stream, connection, stream) for _ in range(7)]
        assert [reading.result().height for reading in readings] == [0] * 8
    assert len(calls) == 2


@pytest.mark.parametrize(
    "given", ["h\ud800unter2", ("user", "h\ud800unter2"), ("\ud800", "hunter2")]
)
def test_a_lone_surrogate_is_refused_at_once(
    any_server: Server, capfd: pytest.CaptureFixture[str], given: Any
) -> None:
    connection = RedisConnection(any_server.url, credentials=lambda: given)
    with within(1), pytest.raises(AuthenticationError, match="lone surrogate") as caught:
        read_stream(connection, "s")
    assert "unter2" not in "".join(traceback.format_exception(caught.value))
    assert not capfd.readouterr().err


def test_an_object_with_an_async_call_is_refused() -> None:
    class Asynchronous:
        async def __call__(self) -> str:
            return "x"

    wrong: Any = Asynchronous()
    with pytest.raises(TypeError, match=r"^credentials must be a plain function"):
        RedisConnection("redis://h", credentials=wrong)
