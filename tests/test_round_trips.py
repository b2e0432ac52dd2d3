"""How often a small call waits for the server, and what it says to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    AuthenticationError,
    NoGroupError,
    RedisTimeoutError,
    StreamProducer,
    WriteError,
    WrongTypeError,
    read_stream,
    write_stream,
)
from support.clients import quick
from support.groups import ME, deliver, pending
from support.proxy import Proxy
from support.server import HOST, Server
from support.streams import NUMBER, add_numbers, numbers


def names(proxy: Proxy) -> list[str]:
    """List the commands that went through the proxy."""
    return [command[0].decode() for command in proxy.commands]


def adds_one(client: redis.Redis, stream: str) -> Callable[[int], None]:
    """Make what adds the next number, once the server has done what was sent before."""
    lock = threading.Lock()

    def add(_: int) -> None:
        with lock:
            time.sleep(0.05)
            number = client.xlen(stream) + 1
            client.xadd(stream, {"n": number}, id=f"{number}-0")

    return add


# XRANGE


@pytest.mark.parametrize(
    ("options", "rows", "commands"),
    [
        ({"count": 1}, 1, ["XRANGE"]),
        ({"count": 99}, 99, ["XRANGE"]),
        ({"count": 100}, 99, ["XRANGE"]),
        ({"count": 101}, 99, ["XREVRANGE", "XRANGE"]),
        ({}, 99, ["XREVRANGE", "XRANGE"]),
        ({"start_id": "50-0"}, 50, ["XREVRANGE", "XRANGE"]),
        ({"end_id": "50-0"}, 50, ["XRANGE"]),
        ({"end_id": "50-0", "count": 7}, 7, ["XRANGE"]),
        ({"count": 0}, 0, []),
    ],
    ids=str,
)
def test_a_read_that_fits_a_page(
    server: Server,
    client: redis.Redis,
    stream: str,
    protocol: str,
    options: dict[str, Any],
    rows: int,
    commands: list[str],
) -> None:
    first = 50 if "start_id" in options else 1
    add_numbers(client, stream, 99)
    with Proxy(server.port) as proxy:
        url = proxy.url + protocol
        read_stream(url, stream, NUMBER, count=1)
        proxy.commands.clear()
        before = proxy.round_trips
        df = read_stream(url, stream, NUMBER, **options)
        assert_frame_equal(df, numbers(first + rows - 1, first=first))
        assert names(proxy) == commands
        assert proxy.round_trips - before == min(len(commands), 1)
        assert proxy.connections == 1


def test_a_missing_stream_takes_one_round_trip(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        assert_frame_equal(read_stream(proxy.url, stream, NUMBER), numbers(0))
        assert proxy.round_trips == 1


def test_what_is_added_while_the_first_page_comes_is_not_read(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The end was asked for first, in the same round trip."""
    add_numbers(client, stream, 1_000)
    with Proxy(any_server.port) as proxy:
        proxy.before(b"XRANGE", adds_one(client, stream))
        assert_frame_equal(read_stream(proxy.url, stream, NUMBER), numbers(1_000))
        assert proxy.count(b"XREVRANGE") == 1


@pytest.mark.parametrize("lost", [b"XREVRANGE", b"XRANGE"])
def test_a_first_page_that_is_lost_is_asked_for_again(
    server: Server, client: redis.Redis, stream: str, protocol: str, lost: bytes
) -> None:
    """The end that was told already stays, or is asked for again."""
    add_numbers(client, stream, 1_000)
    with Proxy(server.port) as proxy:
        proxy.cut_after(40, once_seen=lost)
        proxy.before(b"XRANGE", adds_one(client, stream))
        df = read_stream(quick(proxy.url + protocol), stream, NUMBER)
        assert proxy.count(b"XREVRANGE") == (2 if lost == b"XREVRANGE" else 1)
    assert_frame_equal(df, numbers(df.height))
    assert df.height in range(1_000, 1_003)


def test_a_wrong_type_leaves_the_connection_as_it_is(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    client.set(stream, "x")
    with Proxy(any_server.port) as proxy:
        for options in ({}, {"count": 1}, ME):
            with pytest.raises(WrongTypeError, match=stream):
                read_stream(proxy.url, stream, NUMBER, **options)
        assert proxy.connections == 1


def test_who_may_not_ask_for_the_newest_entry_reads_what_fits_a_page(stream: str) -> None:
    rules = {"reader": "on >pw ~* +xrange +xreadgroup +xack"}
    with Server("redis-7.0", users=rules) as server, server.client() as client:
        add_numbers(client, stream, 100)
        client.xgroup_create(stream, "g", "0")
        url = f"redis://reader:pw@{HOST}:{server.port}"
        assert_frame_equal(read_stream(url, stream, NUMBER, count=100), numbers(100))
        with pytest.raises(AuthenticationError, match="xrevrange"):
            read_stream(url, stream, NUMBER)
        client.xdel(stream, "100-0")
        assert_frame_equal(read_stream(url, stream, NUMBER), numbers(99))
        assert_frame_equal(read_stream(url, stream, NUMBER, auto_ack=True, **ME), numbers(99))


# XREADGROUP


def test_a_group_read_is_one_round_trip_and_its_acknowledgement_another(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 150)
    client.xgroup_create(stream, "g", "0")
    with Proxy(server.port) as proxy:
        url = proxy.url + protocol
        read_stream(url, stream, count=1)
        proxy.commands.clear()
        before = proxy.round_trips
        df = read_stream(url, stream, NUMBER, count=100, auto_ack=True, **ME)
        assert_frame_equal(df, numbers(100))
        assert names(proxy) == ["XREADGROUP", "XACK"]
        assert proxy.round_trips - before == 2
        proxy.commands.clear()
        df = read_stream(url, stream, NUMBER, auto_ack=True, **ME)
        assert_frame_equal(df, numbers(150, first=101))
        assert names(proxy) == ["XREVRANGE", "XREADGROUP", "XACK"]
        assert proxy.round_trips - before == 4
        assert_frame_equal(read_stream(url, stream, NUMBER, **ME), numbers(0))
        assert proxy.round_trips - before == 5
        assert proxy.connections == 1
    assert pending(client, stream) == []


@pytest.mark.parametrize("start", ["0", "$", "3-0"])
@pytest.mark.parametrize("is_there", [True, False], ids=["stream", "no stream"])
def test_a_group_is_created_only_where_a_read_finds_none(
    server: Server, client: redis.Redis, stream: str, start: str, is_there: bool
) -> None:
    last = add_numbers(client, stream, 5) if is_there else 0
    after = {"0": 0, "$": last, "3-0": 3}[start]
    with Proxy(server.port) as proxy:
        df = read_stream(proxy.url, stream, NUMBER, count=100, group_start_id=start, **ME)
        assert_frame_equal(df, numbers(last, first=min(after, last) + 1))
        added = last + 1 if is_there else after + 1
        client.xadd(stream, {"n": added}, id=f"{added}-0")
        # Where "$" is, is asked for in between; and MKSTREAM is the second attempt.
        sent = [name for name in names(proxy) if name in {"XREADGROUP", "XGROUP"}]
        attempts = 1 if is_there else 2
        assert sent == ["XREADGROUP", *["XGROUP"] * attempts, "XREADGROUP"]
        proxy.commands.clear()
        df = read_stream(proxy.url, stream, NUMBER, count=100, group_start_id=start, **ME)
        assert_frame_equal(df, numbers(added, first=added))
        assert names(proxy) == ["XREADGROUP"]


def test_a_group_that_is_not_to_be_created(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        with pytest.raises(NoGroupError, match="'g'"):
            read_stream(proxy.url, stream, NUMBER, create_group=False, **ME)
        assert "XGROUP" not in names(proxy)
    assert not client.exists(stream)


@pytest.mark.parametrize("size", [0, 60], ids=["nothing", "a part"])
@pytest.mark.parametrize("older", [0, 4], ids=["nothing pending", "older ones pending"])
def test_the_answer_that_was_lost_comes_and_older_pending_entries_do_not(
    server: Server, client: redis.Redis, stream: str, protocol: str, size: int, older: int
) -> None:
    """Nobody has asked before how far the group was."""
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    if older:
        deliver(client, stream, older)
        # What was delivered in these very milliseconds could not be told from what was lost.
        client.xclaim(stream, "g", "me", 0, [f"{older}-0"], idle=50, justid=True)
    with Proxy(server.port) as proxy:
        proxy.cut_after(size, once_seen=b"XREADGROUP")
        df = read_stream(quick(proxy.url + protocol), stream, NUMBER, **ME)
    assert_frame_equal(df, numbers(9, first=older + 1))
    assert pending(client, stream) == [*range(1, 10)]


def test_a_lost_answer_of_a_user_who_may_not_list(stream: str) -> None:
    """Without the list this consumer's pending entries all come: none is lost."""
    rules = {"reader": "on >pw ~* +xreadgroup +xrevrange"}
    with Server("redis-7.0", users=rules) as server, server.client() as client:
        add_numbers(client, stream, 5)
        deliver(client, stream, 2)
        with Proxy(server.port) as proxy:
            proxy.cut_after(0, once_seen=b"XREADGROUP")
            url = f"redis://reader:pw@{HOST}:{proxy.port}"
            assert_frame_equal(read_stream(quick(url), stream, NUMBER, **ME), numbers(5))


def test_a_group_read_under_load_ends(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 1_000)
    client.xgroup_create(stream, "g", "0")
    with Proxy(any_server.port) as proxy:
        more = 1_000

        def add(_: int) -> None:
            nonlocal more
            time.sleep(0.05)  # the server has told the newest entry
            add_numbers(client, stream, more + 10_000, first=more + 1)
            more += 10_000

        proxy.before(b"XREADGROUP", add)
        df = read_stream(proxy.url, stream, NUMBER, **ME)
        assert_frame_equal(df, numbers(df.height))
        assert 1_000 <= df.height < 11_000


# XADD


ROWS = pl.DataFrame({"n": range(1, 101)})


@pytest.mark.parametrize("rows", [1, 100])
def test_a_write_to_one_stream_is_one_round_trip(
    server: Server, client: redis.Redis, stream: str, protocol: str, rows: int
) -> None:
    with Proxy(server.port) as proxy:
        url = proxy.url + protocol
        read_stream(url, stream, count=1)
        before = proxy.round_trips
        ids = write_stream(url, ROWS.head(rows), stream)
        assert proxy.round_trips - before == 1
        assert names(proxy)[-rows:] == ["XADD"] * rows
        assert "TYPE" not in names(proxy)
        assert proxy.connections == 1
    there: Any = client.xrange(stream)
    assert [entry.decode() for entry, _ in there] == ids.to_list()


def test_a_connection_that_was_silent_is_asked_before_rows_are_risked(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with Proxy(any_server.port) as proxy:
        connection = quick(proxy.url, response_timeout=0.2)
        write_stream(connection, ROWS, stream)
        assert names(proxy)[0] == "TYPE"  # neither has a new one said anything
        proxy.commands.clear()
        time.sleep(1.1)
        proxy.stall_after(0)  # as if a router had forgotten the connection
        with pytest.raises(RedisTimeoutError):
            write_stream(connection, ROWS, stream)
        assert names(proxy) == ["TYPE"]
        assert len(write_stream(connection, ROWS, stream)) == 100
    assert client.xlen(stream) == 200


def test_a_connection_that_the_server_closed_costs_no_row(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """Nobody has looked at it since it was used."""
    for _ in range(20):
        write_stream(any_server.url, ROWS, stream)
        client.client_kill_filter(_type="normal", skipme=True)
    assert client.xlen(stream) == 2_000


@pytest.mark.parametrize("rows", [1, 100])
def test_a_key_of_another_type_refuses_all_rows(
    server: Server, client: redis.Redis, stream: str, rows: int
) -> None:
    client.rpush(stream, "x")
    with Proxy(server.port) as proxy:
        read_stream(proxy.url, "nothing", count=1)
        proxy.commands.clear()
        with pytest.raises(WrongTypeError, match="holds a list, not a stream; nothing is in"):
            write_stream(proxy.url, ROWS.head(rows), stream)
        # What is no stream may be the name of a sharded one.
        assert names(proxy) == [*["XADD"] * rows, "TYPE", "HGETALL"]
    assert client.lrange(stream, 0, -1) == [b"x"]


def test_a_key_that_becomes_another_type_refuses_the_rest(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    def replace(number: int) -> None:
        if number == 51:
            time.sleep(0.05)  # the server has done what was sent before
            client.rename(stream, f"{stream}-before")
            client.set(stream, "x")

    with Proxy(any_server.port) as proxy:
        read_stream(proxy.url, stream, count=1)
        proxy.before(b"XADD", replace)
        with pytest.raises(WriteError, match="row 50 was refused, 50 of 100 rows are in") as raised:
            write_stream(proxy.url, ROWS, stream)
        assert "TYPE" not in names(proxy)
    error = raised.value
    assert (error.row, error.rows_written) == (50, 50)
    assert error.ids is not None
    there: Any = client.xrange(f"{stream}-before")
    assert error.ids.to_list() == [*(entry.decode() for entry, _ in there), *[None] * 50]


def test_who_may_only_add(stream: str) -> None:
    with Server("redis-7.0", users={"writer": "on >pw ~* +xadd"}) as server:
        with server.client() as client:
            url = f"redis://writer:pw@{HOST}:{server.port}"
            assert len(write_stream(url, ROWS, stream)) == 100
            client.set("text", "x")
            with pytest.raises(WrongTypeError, match="WRONGTYPE"):
                write_stream(url, ROWS, "text")
            client.acl_setuser("writer", enabled=True, commands=["-xadd"])
            with pytest.raises(AuthenticationError, match="xadd"):
                write_stream(url, ROWS, stream)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"id_column": "id"}, {"TYPE": 1, "XINFO": 1}),
        ({"atomic": True}, {"TYPE": 2}),
        ({"stream": pl.format("s{}", "n")}, {"TYPE": 100}),
    ],
    ids=["ids", "atomic", "streams"],
)
def test_what_may_be_in_in_part_is_asked_for_before(
    any_server: Server, client: redis.Redis, options: dict[str, Any], asked: dict[str, int]
) -> None:
    frame = ROWS.with_columns(id=pl.format("{}-0", "n"))
    with Proxy(any_server.port) as proxy:
        write_stream(proxy.url, frame, **{"stream": "s", **options})
        sent = names(proxy)
    assert {name: sent.count(name) for name in ("TYPE", "XINFO") if name in sent} == asked
    assert sent.index("TYPE") < sent.index("XADD")


# A producer


STREAMS = ["s1", "s2", "s3"]


def send(producer: StreamProducer, streams: list[str]) -> list[str | None]:
    """Send an entry to each stream, in one pipeline; give their IDs."""
    sent = [producer.send({"n": 1}, stream=stream) for stream in streams]
    producer.flush()
    return [entry.result() for entry in sent]


def test_a_producer_asks_for_the_type_of_a_stream_once(
    server: Server, client: redis.Redis, protocol: str
) -> None:
    with Proxy(server.port) as proxy:
        with StreamProducer(proxy.url + protocol, linger_ms=10_000) as producer:
            send(producer, STREAMS)
            assert names(proxy)[-6:] == [*["TYPE"] * 3, *["XADD"] * 3]
            proxy.commands.clear()
            for _ in range(3):
                before = proxy.round_trips
                send(producer, STREAMS)
                assert proxy.round_trips - before == 1
            assert names(proxy) == ["XADD"] * 9
            proxy.commands.clear()
            send(producer, [*STREAMS, "s4"])
            assert names(proxy) == ["TYPE", *["XADD"] * 4]
            assert proxy.connections == 1
    assert [client.xlen(stream) for stream in [*STREAMS, "s4"]] == [5, 5, 5, 1]


def test_a_producer_whose_connection_was_silent_asks_before_it_risks_entries(
    any_server: Server, client: redis.Redis
) -> None:
    with Proxy(any_server.port) as proxy:
        with StreamProducer(proxy.url, linger_ms=10_000) as producer:
            send(producer, STREAMS)
            proxy.commands.clear()
            time.sleep(1.1)
            send(producer, STREAMS)
            assert names(proxy) == ["TYPE", *["XADD"] * 3]


@pytest.mark.parametrize("at", range(3))
def test_a_producer_s_first_entry_for_a_key_of_another_type_refuses_its_pipeline(
    any_server: Server, client: redis.Redis, at: int
) -> None:
    """Also that of other streams: which is why it asks."""
    client.set(STREAMS[at], "x")
    producer = StreamProducer(any_server.url, linger_ms=10_000)
    with pytest.raises(WrongTypeError, match="holds a string, not a stream; nothing is in"):
        send(producer, STREAMS)
    assert client.keys("s*") == [STREAMS[at].encode()]


def test_a_stream_that_becomes_another_type_refuses_its_entry_alone(
    any_server: Server, client: redis.Redis
) -> None:
    producer = StreamProducer(any_server.url, linger_ms=10_000)
    send(producer, STREAMS)
    client.delete("s2")
    client.set("s2", "x")
    sent = [producer.send({"n": 2}, stream=stream) for stream in STREAMS]
    with pytest.raises(WriteError, match="row 4 was refused, 5 of 6 rows are in") as raised:
        producer.flush()
    error = raised.value
    assert (error.row, error.first_row, error.rows_written, error.code) == (4, 3, 5, "WRONGTYPE")
    last: list[Any] = [client.xrevrange(stream, count=1) for stream in ("s1", "s3")]
    there = [entries[0][0].decode() for entries in last]
    assert error.ids is not None
    assert error.ids.to_list() == [there[0], None, there[1]]
    assert [sent[0].result(), sent[2].result()] == there
    with pytest.raises(WriteError):
        sent[1].result()
