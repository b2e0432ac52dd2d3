"""What goes wrong while a read is running, and input of unusual shape or size."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    DecodeError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    ResponseError,
    read_stream,
)
from support.clients import PROTOCOLS, is_waiting, quick
from support.processes import finish, hear, python
from support.proxy import Proxy, ScriptedServer
from support.secrets import QUOTED, raises_discreetly, with_password
from support.server import HOST, Server
from support.streams import NUMBER, add, add_numbers, numbers, page_sizes
from support.timing import SLACK, Stopwatch, eventually, later, within

MIXED = (
    ("1-0", {"n": "1", "name": "größe"}),
    ("1-1", {"n": "-22", "other": ""}),
    ("2-0", {"name": "x" * 40, "n": "333"}),
)
MIXED_SCHEMA = {"n": pl.Int64, "name": pl.String}
MIXED_FRAME = pl.DataFrame(
    {
        "_id": ["1-0", "1-1", "2-0"],
        "_ts": [1, 1, 2],
        "n": [1, -22, 333],
        "name": ["größe", None, "x" * 40],
    }
)


def arm(proxy: Proxy, how: str, size: int, command: bytes, skip: int = 0) -> None:
    method = proxy.cut_after if how == "cut" else proxy.reset_after
    method(size, once_seen=command, skip=skip)


# Connections that are lost


def reply_size(server: Server, *words: str) -> int:
    """Count the bytes of a command's reply, which are the same in both protocols."""
    with socket.create_connection((HOST, server.port), timeout=0.1) as connection:
        connection.sendall(" ".join(words).encode() + b"\r\n")
        size = 0
        with contextlib.suppress(TimeoutError):
            while data := connection.recv(65_536):
                size += len(data)
    return size


@PROTOCOLS
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_cut_after_every_byte_of_a_page(
    any_server: Server, client: redis.Redis, stream: str, how: str, query: str
) -> None:
    """With retries the frame is whole; without, it is an error, unless the page was whole."""
    add(client, stream, MIXED)
    page = reply_size(any_server, "XRANGE", stream, "-", "+")
    assert page > 100
    with Proxy(any_server.port) as proxy:
        patient, hasty = quick(proxy.url + query), quick(proxy.url + query, max_retries=0)
        for size in range(page):
            arm(proxy, how, size, b"XRANGE")
            assert_frame_equal(read_stream(patient, stream, MIXED_SCHEMA), MIXED_FRAME)
            arm(proxy, how, size, b"XRANGE")
            with pytest.raises(RedisConnectionError):
                read_stream(hasty, stream, MIXED_SCHEMA)
        arm(proxy, "cut", page, b"XRANGE")
        assert_frame_equal(read_stream(hasty, stream, MIXED_SCHEMA), MIXED_FRAME)


@PROTOCOLS
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_cut_after_every_byte_of_the_newest_entry(
    any_server: Server, client: redis.Redis, stream: str, how: str, query: str
) -> None:
    """That is what pins the end of the read."""
    add(client, stream, MIXED)
    reply = reply_size(any_server, "XREVRANGE", stream, "+", "-", "COUNT", "1")
    with Proxy(any_server.port) as proxy:
        patient, hasty = quick(proxy.url + query), quick(proxy.url + query, max_retries=0)
        for size in range(reply):
            arm(proxy, how, size, b"XREVRANGE")
            assert_frame_equal(read_stream(patient, stream, MIXED_SCHEMA), MIXED_FRAME)
            arm(proxy, how, size, b"XREVRANGE")
            with pytest.raises(RedisConnectionError):
                read_stream(hasty, stream, MIXED_SCHEMA)


@PROTOCOLS
@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_cut_within_the_second_page(
    any_server: Server, client: redis.Redis, stream: str, how: str, query: str
) -> None:
    with Proxy(any_server.port) as proxy:
        patient, hasty = quick(proxy.url + query), quick(proxy.url + query, max_retries=0)
        add_numbers(client, stream, 1)
        read_stream(patient, stream)
        [first] = page_sizes(proxy)
        entries = first + 99
        add_numbers(client, stream, entries, first=2)
        page = reply_size(any_server, "XRANGE", stream, f"{first + 1}-0", "+")
        assert page > 2_500
        for size in [*range(40), *range(40, page - 40, 133), *range(page - 40, page)]:
            arm(proxy, how, size, b"XRANGE", skip=1)
            assert_frame_equal(read_stream(patient, stream, NUMBER), numbers(entries))
            if size % 5 == 0:
                arm(proxy, how, size, b"XRANGE", skip=1)
                with pytest.raises(RedisConnectionError):
                    read_stream(hasty, stream, NUMBER)


@PROTOCOLS
def test_a_cut_after_every_byte_of_a_wait_s_reply(
    any_server: Server, client: redis.Redis, stream: str, query: str
) -> None:
    with Proxy(any_server.port) as proxy:
        patient = quick(proxy.url + query)
        for size in range(70):
            # The entry comes after the read has begun to wait, or just before.
            proxy.before(b"XREAD", lambda n: add(client, stream, MIXED) if n == 1 else None)
            arm(proxy, "cut", size, b"XREAD")
            df = read_stream(patient, stream, MIXED_SCHEMA, block_ms=5_000)
            assert_frame_equal(df, MIXED_FRAME)
            client.delete(stream)
            proxy.clear()
            proxy.commands.clear()


def test_a_cut_loses_no_entry_that_came_meanwhile(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The reply to a wait is lost, and while the client connects anew, more arrives."""
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XREAD", lambda n: add_numbers(client, stream, 10 * n, first=10 * n - 9))
        proxy.cut_after(0, once_seen=b"XREAD")
        df = read_stream(quick(proxy.url), stream, NUMBER, "$", block_ms=5_000)
    assert_frame_equal(df, numbers(20))


def test_cuts_all_the_time(any_server: Server, client: redis.Redis, stream: str) -> None:
    """Every reply is cut short; none comes twice. Retries start over as long as entries come."""
    add_numbers(client, stream, 5_000)
    with Proxy(any_server.port) as proxy:
        nothing = proxy.cut_after(20, once_seen=b"XRANGE", times=None)
        with pytest.raises(RedisConnectionError):
            read_stream(quick(proxy.url, max_retries=3), stream, NUMBER)
        assert nothing.hits == 4
        proxy.clear()
        some = proxy.cut_after(2_000, once_seen=b"XRANGE", times=None)
        df = read_stream(quick(proxy.url, max_retries=3), stream, NUMBER)
        assert some.hits > 50
    assert_frame_equal(df, numbers(5_000))


def test_a_server_that_sends_the_same_again_and_again_is_given_up() -> None:
    """What came before the connection was lost counts as progress only where it goes on."""
    cut = b"*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nn\r\n$1\r\n1\r\n*2\r\n"
    connections = 0

    def serve() -> None:
        nonlocal connections
        with contextlib.suppress(OSError):  # of the listener that is closed
            while True:
                client, _ = listener.accept()
                with client:
                    connections += 1
                    client.recv(65_536)
                    client.sendall(cut)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        url = f"redis://{HOST}:{listener.getsockname()[1]}"
        with within(5), pytest.raises(RedisConnectionError):
            read_stream(quick(url, max_retries=3), "s", NUMBER, end_id="9-0")
        assert connections == 4
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_count_and_order_survive_cuts(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 5_000)
    with Proxy(any_server.port) as proxy:
        for count in (1, 99, 100, 101, 1_234):
            for size in (1, 700, 16_000):
                proxy.cut_after(size, once_seen=b"XRANGE")
                proxy.cut_after(size, once_seen=b"XRANGE", skip=1)
                df = read_stream(quick(proxy.url), stream, NUMBER, "1001-0", count=count)
                assert_frame_equal(df, numbers(1000 + count, first=1001))
                proxy.clear()


@pytest.mark.parametrize("size", [0, 1, 10, 100, 171])
def test_a_server_that_stops_within_a_reply_runs_into_the_timeout(
    any_server: Server, client: redis.Redis, stream: str, size: int
) -> None:
    add(client, stream, MIXED)
    url = with_password(any_server.url, user="default")
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(
            url.replace(str(any_server.port), str(proxy.port)), response_timeout=0.3
        )
        fault = proxy.stall_after(size, once_seen=b"XRANGE")
        watch = Stopwatch()
        with raises_discreetly(RedisTimeoutError) as raised:
            read_stream(connection, stream)
        assert 0.29 < watch.seconds < 1.3 * SLACK
        assert fault.hits == proxy.count(b"XRANGE") == 1
        assert f"stream: {stream}" in str(raised.value)
        assert_frame_equal(read_stream(connection, stream, MIXED_SCHEMA), MIXED_FRAME)


def test_a_wait_whose_reply_never_comes_runs_into_the_timeout(
    any_server: Server, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=b"XREAD")
        watch = Stopwatch()
        with pytest.raises(RedisTimeoutError):
            read_stream(RedisConnection(proxy.url, response_timeout=0.3), stream, block_ms=200)
        assert 0.49 < watch.seconds < 1.5 * SLACK


@PROTOCOLS
def test_a_reply_in_single_bytes(
    any_server: Server, client: redis.Redis, stream: str, query: str
) -> None:
    """As long as something comes, the server is not silent."""
    add(client, stream, MIXED)
    with Proxy(any_server.port) as proxy:
        proxy.trickle(1, delay=0.002)
        watch = Stopwatch()
        df = read_stream(
            RedisConnection(proxy.url + query, response_timeout=0.25), stream, MIXED_SCHEMA
        )
        assert watch.seconds > 0.5
    assert_frame_equal(df, MIXED_FRAME)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1_000])
def test_replies_in_pieces(
    any_server: Server, client: redis.Redis, stream: str, chunk: int
) -> None:
    add_numbers(client, stream, 600)
    with Proxy(any_server.port) as proxy:
        proxy.trickle(chunk)
        assert_frame_equal(read_stream(proxy.url, stream, NUMBER), numbers(600))


def test_a_server_that_dies_within_a_read_and_comes_back() -> None:
    with Server("redis-6.2") as server, Proxy(server.port) as proxy:
        add_numbers(server.client(), "s", 60_000)
        server.client().save()
        timer = threading.Timer(0.5, server.start)

        def die(page: int) -> None:
            if page == 3:
                server.kill()
                timer.start()

        proxy.before(b"XRANGE", die)
        df = read_stream(proxy.url, "s", NUMBER)
        timer.join()
        assert proxy.count(b"XRANGE") > 3
    assert_frame_equal(df, numbers(60_000))


def test_a_server_that_dies_within_a_read_and_stays_away() -> None:
    with Server("redis-6.2", password=QUOTED) as server, Proxy(server.port) as proxy:
        add_numbers(server.client(), "s", 60_000)
        proxy.before(b"XRANGE", lambda page: server.kill() if page == 3 else None)
        url = with_password(proxy.url).replace(QUOTED, QUOTED.replace("%", "%25"))
        with within(3), raises_discreetly(RedisConnectionError) as raised:
            read_stream(RedisConnection(url, max_retries=3), "s")
    assert "attempts: 4" in str(raised.value)


def test_a_server_that_dies_within_a_wait_and_comes_back() -> None:
    with Server("redis-6.2") as server:

        def restart() -> None:
            server.kill()
            server.start()
            add_numbers(server.client(), "s", 3)

        with later(0.2, restart):
            df = read_stream(server.url, "s", NUMBER, block_ms=0)
    assert_frame_equal(df, numbers(3))


# Replies that are not RESP


def memory() -> tuple[int, int]:
    """Give the resident and the reserved bytes of this process."""
    info = psutil.Process().memory_info()
    return info.rss, info.vms


GARBAGE = {
    "http": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "noise": bytes(range(128, 256)) + b"\r\n",
    "line": b"\r\n",
    "nul": b"\x00\x00\r\n",
    "number": b":5\r\n",
    "text": b"+OK\r\n",
    "string": b"$5\r\nhello\r\n",
    "array of numbers": b"*2\r\n:1\r\n:2\r\n",
    "deep": b"*1\r\n" * 10_000 + b":1\r\n",
    "id": b"*1\r\n*2\r\n$3\r\n1_0\r\n*0\r\n",
    "no id": b"*1\r\n*2\r\n$1\r\nx\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "odd fields": b"*1\r\n*2\r\n$3\r\n1-0\r\n*1\r\n$1\r\na\r\n",
    "three": b"*1\r\n*3\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$1\r\nb\r\n:1\r\n",
    "no length": b"*\r\n",
    "negative length": b"*-2\r\n",
    "length of letters": b"$abc\r\n",
    "length beyond 64 bits": b"*99999999999999999999\r\n",
    "string beyond its length": b"*1\r\n*2\r\n$3\r\n1-0-0\r\n",
    "endless line": b"+" + b"x" * 200_000,
}


#: A stream called "1_0" without entries is a reply to XREAD.
STREAMS = {"id"}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (command, kind)
        for command in (b"XREVRANGE", b"XRANGE", b"XREAD")
        for kind in GARBAGE
        if command != b"XREAD" or kind not in STREAMS
    ],
)
def test_garbage_is_a_response_error(
    any_server: Server, client: redis.Redis, stream: str, command: bytes, kind: str
) -> None:
    reply = GARBAGE[kind]
    block_ms = 1_000
    if command != b"XREAD":
        add(client, stream, MIXED)
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(reply, once_seen=command, times=None)
        connection = RedisConnection(proxy.url, response_timeout=10)
        with within(3), pytest.raises(ResponseError) as raised:
            read_stream(connection, stream, block_ms=block_ms)
        assert fault.hits == 1
        assert raised.value.code is None
        assert len(str(raised.value)) < 500
        proxy.clear()
        # The connection was dropped with whatever was left in it.
        add(client, stream, [("9-9", {"n": "9"})])
        assert read_stream(connection, stream, NUMBER)["n"][-1] == 9


HUGE = {
    "array": b"*2147483647\r\n",
    "fields": b"*1\r\n*2\r\n$3\r\n1-0\r\n*2000000000\r\n",
    "string": b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$536870912\r\n",
    "larger string": b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\na\r\n$9223372036854775807\r\n",
    "larger array": b"*9223372036854775807\r\n",
    "name": b"*1\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$4294967296\r\n",
    "id": b"*1\r\n*2\r\n$4294967296\r\n",
    "push": b">4294967296\r\n",
    "attribute": b"|4294967296\r\n",
}


@pytest.mark.parametrize("reply", HUGE.values(), ids=HUGE.keys())
@pytest.mark.parametrize("schema", [None, NUMBER], ids=["open", "schema"])
def test_a_huge_length_reserves_nothing(reply: bytes, schema: dict[str, Any] | None) -> None:
    """The header only claims it; without the bytes it is the timeout, and no memory."""
    newest = b"*1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nn\r\n$1\r\n1\r\n"

    def answer(command: tuple[bytes, ...]) -> bytes:
        return newest if command[0] == b"XREVRANGE" else reply

    with ScriptedServer(answer) as server:
        connection = RedisConnection(server.url, response_timeout=0.1)
        read_stream(connection, "s", count=0)
        before = memory()
        with within(1), pytest.raises(RedisTimeoutError):
            read_stream(connection, "s", schema)
        rss, vms = (now - then for now, then in zip(memory(), before, strict=True))
    assert rss < 50_000_000
    assert vms < 500_000_000


# Ctrl-C, forks, threads


@pytest.mark.parametrize("block_ms", [0, 60_000])
@pytest.mark.parametrize("start", ["$", "-"])
def test_ctrl_c_ends_a_wait(
    any_server: Server, client: redis.Redis, block_ms: int, start: str
) -> None:
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        try:
            redfloe.read_stream(connection, "s", block_ms=int(sys.argv[2]), start_id=sys.argv[3])
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
            time.sleep(60)
    """
    with python(script, any_server.url, str(block_ms), start) as process:
        eventually(is_waiting(client, "ctrl-c"), seconds=20)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert hear(process) - sent < 0.5
        # The process lives on; its connection does not.
        eventually(lambda: all(one["name"] != "ctrl-c" for one in client.client_list()))
        assert process.poll() is None


def test_ctrl_c_ends_the_process(any_server: Server, client: redis.Redis) -> None:
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
        redfloe.read_stream(connection, "s", block_ms=0)
    """
    with python(script, any_server.url) as process:
        eventually(is_waiting(client, "ctrl-c"), seconds=20)
        watch = Stopwatch()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10 * SLACK)
        assert watch.seconds < 0.5 * SLACK
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert process.returncode in (-signal.SIGINT, 130)
        eventually(lambda: all(one["name"] != "ctrl-c" for one in client.client_list()))


def test_ctrl_c_ends_retries(any_server: Server) -> None:
    script = """
        connection = redfloe.RedisConnection(
            sys.argv[1], max_retries=100, retry_base_delay=30.0, retry_max_delay=60.0
        )
        try:
            redfloe.read_stream(connection, "s")
        except KeyboardInterrupt:
            print(time.monotonic(), flush=True)
    """
    with Proxy(any_server.port) as proxy:
        fault = proxy.replace_reply(b"-LOADING wait\r\n", times=None)
        with python(script, proxy.url) as process:
            eventually(lambda: fault.hits >= 1, seconds=20)
            time.sleep(0.1)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert hear(process) - sent < 0.5
            finish(process)


def test_a_forked_child_reads_and_leaves_the_parent_s_connection_alone(
    server: Server, client: redis.Redis
) -> None:
    add_numbers(client, "s", 3_000)
    script = """
        connection = redfloe.RedisConnection(sys.argv[1], client_name="parent")
        def read():
            return redfloe.read_stream(connection, "s", {"n": __import__("polars").Int64})
        first = read()
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                ok = all(read().equals(first) for _ in range(3))
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if read().equals(first) else 1)
                os._exit(0 if ok and os.waitpid(grandchild, 0)[1] == 0 else 1)
            children.append(child)
        between = read()  # while they do
        codes = [os.waitpid(child, 0)[1] for child in children]
        after = read()
        result = [codes, first.height, between.equals(first), after.equals(first)]
        print(json.dumps(result), flush=True)
        sys.stdin.readline()
    """
    with Proxy(server.port) as proxy, python(script, proxy.url) as process:
        assert hear(process) == [[0, 0, 0], 3_000, True, True]
        # One for the parent, one for each child and grandchild; the parent's is still the first,
        # and the only one left.
        assert proxy.connections == 7
        eventually(lambda: sum(one["name"] == "parent" for one in client.client_list()) == 1)
        finish(process)


def test_a_fork_while_another_thread_reads(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 20_000)
    script = """
        import threading
        stop = threading.Event()
        def read():
            return redfloe.read_stream(sys.argv[1], "s").height
        def reads():
            while not stop.is_set():
                assert read() == 20_000
        read()  # before there is a second thread: Polars, too, initialises on first use
        threads = [threading.Thread(target=reads) for _ in range(2)]
        for thread in threads:
            thread.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if read() == 20_000 else 1)
            codes.append(os.waitpid(child, 0)[1])
        stop.set()
        for thread in threads:
            thread.join()
        print(json.dumps([codes, read()]))
    """
    with python(script, any_server.url) as process:
        assert hear(process) == [[0] * 10, 20_000]
        finish(process)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(
    any_server: Server, client: redis.Redis, tmp_path: Path, method: str
) -> None:
    add_numbers(client, "s", 3_000)
    script = """
        import multiprocessing
        def read(part):
            df = redfloe.read_stream(sys.argv[1], "s", start_id=str(100 * part + 1), count=100)
            return [df.height, df["n"][0]]
        if __name__ == "__main__":
            read(0)  # before the children are there
            with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
                parts = pool.map(read, range(20), chunksize=1)
            print(json.dumps([parts, read(20)]))
    """
    expected = [[100, str(100 * part + 1)] for part in range(20)]
    with python(script, any_server.url, method, path=tmp_path / "pool.py") as process:
        assert hear(process) == [expected, [100, "2001"]]
        finish(process)


def test_eight_threads_at_once(server: Server, client: redis.Redis) -> None:
    for number in range(8):
        add_numbers(client, f"s{number}", 3_000 + number)
    connection = RedisConnection(server.url, client_name="threads")

    def read(task: int) -> None:
        number = task % 8
        df = read_stream(connection, f"s{number}", NUMBER)
        assert_frame_equal(df, numbers(3_000 + number))

    start = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=start.wait) as pool:
        list(pool.map(read, range(80)))
    assert 1 <= sum(one["name"] == "threads" for one in client.client_list()) <= 8


def test_eight_threads_wait_at_once(any_server: Server, client: redis.Redis, stream: str) -> None:
    with later(0.3, lambda: add_numbers(client, stream, 5)), ThreadPoolExecutor(8) as pool:
        frames = [
            pool.submit(read_stream, any_server.url, stream, NUMBER, block_ms=10_000)
            for _ in range(8)
        ]
        with within(2):
            for frame in frames:
                assert_frame_equal(frame.result(), numbers(5))


def test_other_threads_run_while_one_waits(any_server: Server, stream: str) -> None:
    steps = 0
    done = threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.is_set():
            steps += 1
            time.sleep(0.01)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        read_stream(any_server.url, stream, block_ms=600)
    finally:
        done.set()
        thread.join()
    assert steps > 20


def test_a_read_works_outside_the_main_thread(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    with ThreadPoolExecutor(1) as pool:
        df = pool.submit(read_stream, any_server.url, stream, NUMBER).result()
    assert_frame_equal(df, numbers(3))


def test_daemon_threads_that_wait_do_not_keep_the_process(
    any_server: Server, client: redis.Redis
) -> None:
    """Nor do they crash it when they wake up while the interpreter is being taken down."""
    script = """
        import threading
        def wait():
            connection = redfloe.RedisConnection(sys.argv[1], client_name="d")
            redfloe.read_stream(connection, "s", block_ms=0)
        for _ in range(4):
            threading.Thread(target=wait, daemon=True).start()
        sys.stdin.readline()
        class Slow:
            def __del__(self, sleep=time.sleep):
                sleep(0.3)
        sys.modules["slow"] = type(sys)("slow")
        sys.modules["slow"].slow = Slow()  # goes last
    """
    with python(script, any_server.url) as process:
        eventually(lambda: sum(one["name"] == "d" for one in client.client_list()) == 4, seconds=20)
        with within(5):
            finish(process)


# Unusual input


def test_a_value_of_100_mb(any_server: Server, client: redis.Redis, stream: str) -> None:
    value = os.urandom(1_000_000) * 100
    client.xadd(stream, {"before": "1", "value": value, "after": "2"}, id="1-0")
    schema = {"before": pl.Int8, "value": pl.Binary, "after": pl.Int8}
    df = read_stream(any_server.url, stream, schema)
    assert df["before"].to_list() == [1]
    assert df["after"].to_list() == [2]
    assert hashlib.sha256(df["value"][0]).digest() == hashlib.sha256(value).digest()
    # Skipped, it costs no memory.
    before, _ = memory()
    assert read_stream(any_server.url, stream, {"after": pl.Int8})["after"].to_list() == [2]
    after, _ = memory()
    assert after - before < 20_000_000
    client.delete(stream)


def test_a_large_value_among_small_ones(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1_000)
    client.xadd(stream, {"n": "0" * 20_000_000 + "5"}, id="1001-0")
    add_numbers(client, stream, 4_000, first=1002)
    df = read_stream(any_server.url, stream, NUMBER)
    expected = numbers(4_000).with_columns(
        pl.when(pl.col("_ts") == 1001).then(5).otherwise(pl.col("n")).cast(pl.Int64).alias("n")
    )
    assert_frame_equal(df, expected)


def test_repeated_reads_leave_no_memory_behind(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 10_000)

    def read(times: int) -> None:
        for _ in range(times):
            read_stream(any_server.url, stream)
            with pytest.raises(DecodeError):
                read_stream(any_server.url, stream, {"n": pl.Boolean})

    read(20)
    before, _ = memory()
    read(100)  # of half a megabyte each
    after, _ = memory()
    assert after - before < 20_000_000


@pytest.mark.parametrize("typed", [False, True])
def test_an_entry_of_10_000_fields(
    server: Server, client: redis.Redis, stream: str, typed: bool
) -> None:
    names = [f"field {n}" for n in range(10_000)]
    fields = {name: str(n) for n, name in enumerate(names)}
    add(client, stream, [("1-0", fields), ("2-0", {"field 5": "6"}), ("3-0", fields)])
    schema = dict.fromkeys(names, pl.Int64) if typed else None
    df = read_stream(server.url, stream, schema, max_columns=10_000)
    assert df.columns == ["_id", "_ts", *names]
    expected: list[int] | list[str] = [*range(10_000)] if typed else [*fields.values()]
    assert list(df.row(0)[2:]) == list(df.row(2)[2:]) == expected
    [only] = [value for value in df.row(1)[2:] if value is not None]
    assert only == (6 if typed else "6")


def test_a_field_that_first_occurs_after_100_000_entries(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 100_000)
    add(client, stream, [("100001-0", {"late": "x", "n": "100001"})])
    add_numbers(client, stream, 100_100, first=100_002)
    df = read_stream(any_server.url, stream)
    assert df.columns == ["_id", "_ts", "n", "late"]
    assert df.height == 100_100
    assert df["late"].null_count() == 100_099
    assert df["late"][100_000] == "x"
    assert_frame_equal(df.drop("late").cast({"n": pl.Int64}), numbers(100_100))
    schema = {"late": pl.String, "n": pl.Int64}
    assert read_stream(any_server.url, stream, schema)["late"][100_000] == "x"


def test_many_pages_of_entries_with_changing_fields(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    rows = [(f"{n}-0", {f"f{n % 7}": str(n), f"g{n // 500}": "x"}) for n in range(1, 3_000)]
    add(client, stream, rows)
    df = read_stream(any_server.url, stream)
    for n, row in enumerate(df.iter_rows(named=True), 1):
        present = {name: value for name, value in row.items() if value is not None}
        assert present == {"_id": f"{n}-0", "_ts": n, f"f{n % 7}": str(n), f"g{n // 500}": "x"}
    assert df.height == 2_999


def test_a_host_name_that_cannot_be() -> None:
    url = with_password("redis://" + "x" * 300 + ".invalid")
    # The system is asked in a thread, which may have to wait for its turn.
    with within(15), raises_discreetly(RedisConnectionError):
        read_stream(RedisConnection(url, connect_timeout=10), "s")


def test_a_port_where_something_else_listens() -> None:
    """A web server, say: it answers a command with an error of its own, and hangs up."""
    with ScriptedServer(lambda command: GARBAGE["http"]) as server:
        url = with_password(f"redis://{HOST}:{server.port}")
        with within(1), raises_discreetly(ResponseError) as raised:
            read_stream(url, "s")
    assert "is this a Redis server?" in str(raised.value)
