"""The server's view as DataFrames, and administration."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import partial
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import (
    AuthenticationError,
    NoGroupError,
    PendingEntriesError,
    RedisConnection,
    RedisConnectionError,
    ResponseError,
    WrongTypeError,
    claim_entries,
    consumer_info,
    create_group,
    create_stream,
    delete_consumer,
    delete_entries,
    delete_group,
    delete_stream,
    group_info,
    pending_entries,
    read_stream,
    stream_info,
    trim_stream,
)
from support.proxy import Proxy
from support.secrets import PASSWORD, raises_discreetly, with_password
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import within

pytestmark = pytest.mark.timeout(15)

STREAM_SCHEMA = {
    "length": pl.Int64(),
    "groups": pl.Int64(),
    "radix_tree_keys": pl.Int64(),
    "radix_tree_nodes": pl.Int64(),
    "last_generated_id": pl.String(),
    "max_deleted_entry_id": pl.String(),
    "entries_added": pl.Int64(),
    "first_entry_id": pl.String(),
    "first_entry_time": pl.Datetime("ms", "UTC"),
    "last_entry_id": pl.String(),
    "last_entry_time": pl.Datetime("ms", "UTC"),
}
GROUP_SCHEMA = {
    "name": pl.String(),
    "consumers": pl.Int64(),
    "pending": pl.Int64(),
    "last_delivered_id": pl.String(),
    "entries_read": pl.Int64(),
    "lag": pl.Int64(),
}
CONSUMER_SCHEMA = {
    "name": pl.String(),
    "pending": pl.Int64(),
    "idle": pl.Duration("ms"),
    "inactive": pl.Duration("ms"),
}
PENDING_SCHEMA = {
    "id": pl.String(),
    "consumer": pl.String(),
    "idle": pl.Duration("ms"),
    "delivery_count": pl.Int64(),
}


def deliver(client: redis.Redis, stream: str, count: int, consumer: str = "me") -> None:
    """Make the next entries pending for a consumer of the group `g`, which is there."""
    client.xreadgroup("g", consumer, {stream: ">"}, count=count)


def since_7_0(server: Server) -> bool:
    return server.name != "redis-6.2"


# Streams


def test_stream_info(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    first, last = 1704067200000, 1704067201234
    add(client, stream, [(f"{first}-0", {"x": 1}), (f"{first}-1", {"x": 2})])
    add(client, stream, [(f"{last}-7", {"x": 3}), (f"{last}-8", {"x": 4})])
    client.xdel(stream, f"{last}-8")
    client.xgroup_create(stream, "g")
    df = stream_info(server.url + protocol, stream)
    assert df.schema == STREAM_SCHEMA
    [row] = df.rows(named=True)
    assert row["radix_tree_keys"] >= 1
    assert row["radix_tree_nodes"] >= 1
    del row["radix_tree_keys"], row["radix_tree_nodes"]
    assert row == {
        "length": 3,
        "groups": 1,
        "last_generated_id": f"{last}-8",
        "max_deleted_entry_id": f"{last}-8" if since_7_0(server) else None,
        "entries_added": 4 if since_7_0(server) else None,
        "first_entry_id": f"{first}-0",
        "first_entry_time": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "last_entry_id": f"{last}-7",
        "last_entry_time": dt.datetime(2024, 1, 1, 0, 0, 1, 234_000, tzinfo=dt.UTC),
    }


def test_stream_info_of_nothing(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    df = stream_info(server.url + protocol, stream)
    assert_frame_equal(df, pl.DataFrame(schema=STREAM_SCHEMA))
    client.xgroup_create(stream, "g", mkstream=True)
    row = stream_info(server.url + protocol, stream).row(0, named=True)
    assert row["length"] == 0
    assert row["groups"] == 1
    assert row["last_generated_id"] == "0-0"
    assert row["first_entry_id"] is None
    assert row["last_entry_time"] is None


def test_stream_info_of_ids_that_are_no_times(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    largest = f"{2**64 - 1}-{2**64 - 1}"
    add(client, stream, [("0-1", {"x": 1}), (largest, {"x": 1})])
    row = stream_info(any_server.url, stream).row(0, named=True)
    assert row["first_entry_time"] == dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    assert row["last_entry_id"] == largest
    assert row["last_entry_time"] is None


# Groups and consumers


def test_group_info(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    client.xgroup_create(stream, "h", "0")
    deliver(client, stream, 3, "a")
    deliver(client, stream, 1, "b")
    client.xack(stream, "g", "1-0")
    df = group_info(server.url + protocol, stream)
    new = since_7_0(server)
    expected = pl.DataFrame(
        [
            ("g", 2, 3, "4-0", 4 if new else None, 5 if new else None),
            # Of a group that has not read anything some servers say 0 entries, and some nothing.
            ("h", 0, 0, "0-0", df["entries_read"][1], 9 if new else None),
        ],
        schema=GROUP_SCHEMA,
        orient="row",
    )
    assert_frame_equal(df, expected)
    assert df["entries_read"][1] in (0, None)


def test_lag_is_null_where_the_server_cannot_tell(
    server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "3")
    row = group_info(server.url, stream).row(0, named=True)
    assert row["last_delivered_id"] == "3-0"
    assert row["entries_read"] is None
    assert row["lag"] is None


def test_group_info_of_nothing(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    empty = pl.DataFrame(schema=GROUP_SCHEMA)
    assert_frame_equal(group_info(server.url + protocol, stream), empty)
    add_numbers(client, stream, 1)
    assert_frame_equal(group_info(server.url + protocol, stream), empty)


def test_consumer_info(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    url = server.url + protocol
    assert_frame_equal(consumer_info(url, stream, "g"), pl.DataFrame(schema=CONSUMER_SCHEMA))
    deliver(client, stream, 3, "a")
    client.xgroup_createconsumer(stream, "g", "b")
    df = consumer_info(url, stream, "g")
    assert df.schema == CONSUMER_SCHEMA
    assert df.select("name", "pending").rows() == [("a", 3), ("b", 0)]
    limit = dt.timedelta(seconds=5)
    assert df.select((pl.col("idle") >= dt.timedelta(0)) & (pl.col("idle") < limit))["idle"].all()
    # Since Redis 7.2 it is known who never got an entry.
    known = server.name in ("redis-8.10", "valkey")
    assert df["inactive"].is_null().to_list() == [not known, True]


def test_names_that_are_not_utf_8(server: Server, client: redis.Redis, protocol: str) -> None:
    stream, group, consumer = b"s\xff", b"g\xfe\0", b"c\x80\xc3\xa9"
    add_numbers(client, stream, 3)
    url = server.url + protocol
    assert create_group(url, stream, group) is True
    names: dict[str, Any] = {"group": group, "consumer": consumer}
    assert read_stream(url, stream, **names).height == 3
    assert group_info(url, stream)["name"].to_list() == ["g\\xfe\0"]
    assert consumer_info(url, stream, group)["name"].to_list() == ["c\\x80é"]
    df = pending_entries(url, stream, group, consumer=consumer)
    assert df["consumer"].to_list() == ["c\\x80é"] * 3
    assert delete_consumer(url, stream, group, consumer, if_pending="discard") == 3
    assert delete_group(url, stream, group) is True


# Pending entries


def test_pending_entries(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    url = server.url + protocol
    df = pending_entries(url, stream, "g")
    assert_frame_equal(df, pl.DataFrame(schema=PENDING_SCHEMA))
    deliver(client, stream, 2, "a")
    deliver(client, stream, 2, "b")
    client.xclaim(stream, "g", "b", 0, ["2-0"])
    client.xdel(stream, "1-0")
    df = pending_entries(url, stream, "g")
    assert df.schema == PENDING_SCHEMA
    assert df.drop("idle").rows() == [
        ("1-0", "a", 1),
        ("2-0", "b", 2),
        ("3-0", "b", 1),
        ("4-0", "b", 1),
    ]
    assert df.select(pl.col("idle").is_between(dt.timedelta(0), dt.timedelta(seconds=5)))[
        "idle"
    ].all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 2, 3, 4, 5]),
        ({"consumer": "a"}, [1, 2, 3]),
        ({"consumer": b"b"}, [4, 5]),
        ({"consumer": "nobody"}, []),
        ({"count": 0}, []),
        ({"count": 2}, [1, 2]),
        ({"count": 5}, [1, 2, 3, 4, 5]),
        ({"count": 9}, [1, 2, 3, 4, 5]),
        ({"start_id": "2-0"}, [2, 3, 4, 5]),
        ({"start_id": "2", "end_id": "4"}, [2, 3, 4]),
        ({"start_id": "(2-0", "end_id": "(4-0"}, [3]),
        ({"start_id": "4-0", "end_id": "2-0"}, []),
        ({"start_id": dt.datetime.fromtimestamp(0.004, dt.UTC)}, [4, 5]),
        ({"end_id": "$"}, [1, 2, 3, 4, 5]),
        ({"start_id": "2-0", "consumer": "a", "count": 1}, [2]),
    ],
    ids=str,
)
def test_which_pending_entries(
    server: Server, client: redis.Redis, stream: str, options: dict[str, Any], expected: list[int]
) -> None:
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 3, "a")
    deliver(client, stream, 2, "b")
    df = pending_entries(server.url, stream, "g", **options)
    assert df["id"].to_list() == [f"{n}-0" for n in expected]


@pytest.mark.parametrize("emulated", [False, True])
@pytest.mark.parametrize("consumer", [None, "me"])
def test_pending_entries_by_idle_time(
    server: Server, client: redis.Redis, stream: str, emulated: bool, consumer: str | None
) -> None:
    """Before Redis 6.2 the server does not know IDLE and says that the syntax is wrong."""
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 6)
    client.xclaim(stream, "g", "me", 0, ["2-0", "3-0", "5-0"], idle=60_000)
    with Proxy(server.port) as proxy:
        if emulated:
            proxy.replace_reply(b"-ERR syntax error\r\n", once_seen=b"XPENDING")
        old = pending_entries(proxy.url, stream, "g", min_idle_ms=30_000, consumer=consumer)
        assert old["id"].to_list() == ["2-0", "3-0", "5-0"]
        assert (old["idle"] >= dt.timedelta(seconds=60)).all()
        df = pending_entries(proxy.url, stream, "g", min_idle_ms=30_000, count=2)
        assert df["id"].to_list() == ["2-0", "3-0"]
        df = pending_entries(proxy.url, stream, "g", min_idle_ms=10**15)
        assert_frame_equal(df, pl.DataFrame(schema=PENDING_SCHEMA))


def test_entries_that_were_given_back_are_nobody_s(
    redis810: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 3)
    # redis-py leaves its types out.
    client.execute_command("XNACK", stream, "g", "FAIL", "IDS", 1, "2-0")
    df = pending_entries(redis810.url + protocol, stream, "g")
    assert df["consumer"].to_list() == ["me", None, "me"]
    assert df["idle"].is_null().to_list() == [False, True, False]
    # They may be had at once, so they count as idle.
    df = pending_entries(redis810.url + protocol, stream, "g", min_idle_ms=60_000)
    assert df["id"].to_list() == ["2-0"]


def test_an_emulated_count_is_exact(any_server: Server, client: redis.Redis, stream: str) -> None:
    """A command's entries may all be too young; those that are wanted come in later ones."""
    entries = add_numbers(client, stream, 400)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, entries)
    old = [f"{n}-0" for n in range(7, entries, 7)]
    client.xclaim(stream, "g", "me", 0, (*old,), idle=60_000)  # type: ignore[arg-type]  # a pair, says redis-py
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-ERR syntax error\r\n", once_seen=b"XPENDING")
        df = pending_entries(proxy.url, stream, "g", min_idle_ms=30_000, count=20)
        assert df["id"].to_list() == old[:20]


@pytest.mark.parametrize("count", [None, 9_999, 10_000, 10_001, 20_000, 25_000, 25_001])
def test_many_pending_entries_come_in_bounded_commands(
    any_server: Server, client: redis.Redis, stream: str, count: int | None
) -> None:
    entries = add_numbers(client, stream, 25_000)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, entries)
    expected = min(entries, entries if count is None else count)
    with Proxy(any_server.port) as proxy:
        df = pending_entries(proxy.url, stream, "g", count=count)
        assert df["id"].to_list() == [f"{n}-0" for n in range(1, expected + 1)]
        sizes = [int(command[-1]) for command in proxy.commands if command[0] == b"XPENDING"]
    assert max(sizes) <= 10_000
    assert len(sizes) <= 3


def test_pending_entries_get_over_a_lost_connection(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    entries = add_numbers(client, stream, 25_000)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, entries)
    with Proxy(any_server.port) as proxy:
        for skip, size in ((0, 0), (1, 5_000), (2, 70)):
            proxy.cut_after(size, once_seen=b"XPENDING", skip=skip)
        connection = RedisConnection(proxy.url, retry_base_delay=0.001)
        assert pending_entries(connection, stream, "g").height == entries


# Administration


@pytest.mark.parametrize(
    ("start", "lag"),
    [
        ("0", 9),
        ("$", 0),
        ("4-0", 5),
        ("4", 5),
        (dt.datetime.fromtimestamp(0.004, dt.UTC), 6),
        (dt.datetime.fromtimestamp(0, dt.UTC), 9),
    ],
    ids=str,
)
def test_create_group_begins_where_it_is_told(
    server: Server, client: redis.Redis, stream: str, start: str | dt.datetime, lag: int
) -> None:
    add_numbers(client, stream, 9)
    assert create_group(server.url, stream, "g", start_id=start) is True
    df = read_stream(server.url, stream, group="g", consumer="c", create_group=False)
    assert df.height == lag


def test_create_group_of_one_that_exists(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    url = server.url + protocol
    assert create_group(url, stream, "g", if_exists="fail") is True
    assert client.xlen(stream) == 0
    add_numbers(client, stream, 3)
    assert create_group(url, stream, "g", start_id="$") is False
    with pytest.raises(ResponseError, match=f"'g' exists.*{stream}") as raised:
        create_group(url, stream, "g", if_exists="fail")
    assert raised.value.code == "BUSYGROUP"
    # It is as it was.
    assert group_info(url, stream)["last_delivered_id"].to_list() == ["0-0"]


def test_create_group_without_a_stream(server: Server, client: redis.Redis, stream: str) -> None:
    with pytest.raises(ResponseError, match=stream):
        create_group(server.url, stream, "g", make_stream=False)
    assert not client.exists(stream)
    add_numbers(client, stream, 1)
    assert create_group(server.url, stream, "g", make_stream=False) is True


def test_delete_group(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    assert delete_group(url, stream, "g") is False
    add_numbers(client, stream, 3)
    assert delete_group(url, stream, "g") is False
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 2)
    assert delete_group(url, stream, "g") is True
    assert group_info(url, stream).height == 0
    assert client.xlen(stream) == 3


def test_delete_consumer(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 3, "a")
    deliver(client, stream, 2, "b")
    assert delete_consumer(url, stream, "g", "nobody") == 0
    for _ in range(2):
        with pytest.raises(PendingEntriesError, match='consumer "a"') as raised:
            delete_consumer(url, stream, "g", "a")
        assert "3 entries are pending" in str(raised.value)
        assert stream in str(raised.value)
    assert pending_entries(url, stream, "g").height == 5
    # Of the group's entries only the consumer's own count.
    client.xack(stream, "g", "1-0", "2-0", "3-0")
    assert delete_consumer(url, stream, "g", "a") == 0
    assert consumer_info(url, stream, "g")["name"].to_list() == ["b"]
    client.xack(stream, "g", "4-0", "5-0")
    assert delete_consumer(url, stream, "g", "b") == 0
    assert consumer_info(url, stream, "g").height == 0


def test_delete_consumer_with_what_is_pending(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    url = server.url + protocol
    add_numbers(client, stream, 6)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 3, "a")
    deliver(client, stream, 2, "b")
    assert delete_consumer(url, stream, "g", "nobody", if_pending="discard") == 0
    assert delete_consumer(url, stream, "g", "a", if_pending="discard") == 3
    assert delete_consumer(url, stream, "g", "a", if_pending="discard") == 0
    assert pending_entries(url, stream, "g")["id"].to_list() == ["4-0", "5-0"]


def test_stream_info_does_not_mind_large_entries(
    any_server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    """The server ships the first and the last whole, more than a small reply may have."""
    client.xadd(stream, {"n": 1}, id="1-0")
    client.xadd(stream, {"n": "x" * 70_000_000}, id="2-0")
    row = stream_info(any_server.url + protocol, stream).row(0, named=True)
    assert (row["length"], row["first_entry_id"], row["last_entry_id"]) == (2, "1-0", "2-0")
    client.delete(stream)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"maxlen": 4}, [7, 8, 9, 10]),
        ({"maxlen": 0}, []),
        ({"maxlen": 10}, [*range(1, 11)]),
        ({"maxlen": 10**30}, [*range(1, 11)]),
        ({"minid": "8-0"}, [8, 9, 10]),
        ({"minid": "8"}, [8, 9, 10]),
        ({"minid": "8-1"}, [9, 10]),
        ({"minid": dt.datetime.fromtimestamp(0.009, dt.UTC)}, [9, 10]),
        ({"minid": dt.datetime.fromtimestamp(0.008_5, dt.UTC)}, [9, 10]),
        ({"minid": "99-0"}, []),
    ],
    ids=str,
)
def test_trim_stream_exactly(
    server: Server, client: redis.Redis, stream: str, options: dict[str, Any], kept: list[int]
) -> None:
    add_numbers(client, stream, 10)
    removed = trim_stream(server.url, stream, approximate=False, **options)
    assert removed == 10 - len(kept)
    assert read_stream(server.url, stream, NUMBER)["n"].to_list() == kept


def test_trim_stream_approximately(
    server: Server, client: redis.Redis, stream: str, protocol: str
) -> None:
    url = server.url + protocol
    add_numbers(client, stream, 5_000)
    assert trim_stream(url, stream, maxlen=4_990) == 0
    removed = trim_stream(url, stream, maxlen=1_000)
    assert 3_500 <= removed <= 4_000
    assert client.xlen(stream) == 5_000 - removed
    left = 5_000 - removed
    assert trim_stream(url, stream, minid="4500-0", limit=100) == 100
    assert client.xlen(stream) == left - 100
    assert trim_stream(url, stream, maxlen=0, limit=0) > 0


def test_trim_stream_of_nothing(server: Server, client: redis.Redis, stream: str) -> None:
    assert trim_stream(server.url, stream, maxlen=0) == 0
    assert trim_stream(server.url, stream, minid="5", approximate=False) == 0
    assert not client.exists(stream)


def test_create_stream(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    assert create_stream(url, stream) is True
    assert client.xlen(stream) == 0
    assert client.xinfo_groups(stream) == []
    add_numbers(client, stream, 3)
    assert create_stream(url, stream) is False
    assert client.xlen(stream) == 3


def test_delete_stream(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    assert delete_stream(url, stream) is False
    add_numbers(client, stream, 3)
    create_group(url, stream, "g")
    assert delete_stream(url, stream) is True
    assert not client.exists(stream)


def test_delete_entries(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url = server.url + protocol
    assert delete_entries(url, stream, ["1-0"]) == 0
    add_numbers(client, stream, 3_000)
    frame = read_stream(url, stream, NUMBER)
    assert delete_entries(url, stream, frame.filter(pl.col("n") > 500)["_id"]) == 2_500
    assert delete_entries(url, stream, ["1-0", "1-0", "9999-0"]) == 1
    assert delete_entries(url, stream, []) == 0
    assert read_stream(url, stream, NUMBER)["n"].to_list() == [*range(2, 501)]


def test_claim_entries(server: Server, client: redis.Redis, stream: str, protocol: str) -> None:
    url, count = server.url + protocol, 2_500
    add_numbers(client, stream, count)
    frame = read_stream(url, stream, NUMBER, group="g", consumer="one")
    # Too recently delivered, not pending, deleted.
    assert claim_entries(url, stream, "g", "two", frame["_id"], min_idle_ms=60_000).len() == 0
    assert claim_entries(url, stream, "g", "two", ["9999-0"]).len() == 0
    client.xdel(stream, "1-0")
    claimed = claim_entries(url, stream, "g", "two", frame["_id"])
    assert claimed.dtype == pl.String
    # Redis 6.2 does not look whether an entry is there.
    first = 1 if server.name == "redis-6.2" else 2
    assert claimed.to_list() == [f"{n}-0" for n in range(first, count + 1)]
    # It was no delivery.
    assert pending_entries(url, stream, "g", consumer="two")["delivery_count"].max() == 1
    taken = read_stream(url, stream, NUMBER, group="g", consumer="two", start_id="0")
    assert taken.height == count - 1


@pytest.mark.parametrize("call", [delete_entries, partial(claim_entries, group="g", consumer="c")])
def test_one_id_is_not_several(call: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="entry_ids must be several IDs"):
        call("redis://127.0.0.1:1", "s", entry_ids="1-0")
    with pytest.raises(ValueError, match="malformed"):
        call("redis://127.0.0.1:1", "s", entry_ids=["one"])


def test_a_lost_connection_is_no_failure(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The command is repeated, and finds that the lost one has done it."""
    add_numbers(client, stream, 10)
    with Proxy(any_server.port) as proxy:
        connection = RedisConnection(proxy.url, retry_base_delay=0.001)
        proxy.cut_after(0, once_seen=b"XGROUP")
        assert create_group(connection, stream, "g") is False
        proxy.cut_after(0, once_seen=b"XGROUP")
        assert delete_group(connection, stream, "g") is False
        proxy.cut_after(0, once_seen=b"XTRIM")
        assert trim_stream(connection, stream, maxlen=1, approximate=False) == 0
        for _ in range(3):
            proxy.cut_after(3, once_seen=b"XINFO")
        assert stream_info(connection, stream)["length"].to_list() == [1]
        assert group_info(connection, stream).height == 0


# Errors

Call = Callable[[str | RedisConnection, str], object]

CALLS: dict[str, Call] = {
    "stream_info": stream_info,
    "group_info": group_info,
    "consumer_info": lambda url, stream: consumer_info(url, stream, "g"),
    "pending_entries": lambda url, stream: pending_entries(url, stream, "g"),
    "create_group": lambda url, stream: create_group(url, stream, "g"),
    "delete_group": lambda url, stream: delete_group(url, stream, "g"),
    "delete_consumer": lambda url, stream: delete_consumer(url, stream, "g", "c"),
    "trim_stream": lambda url, stream: trim_stream(url, stream, maxlen=5),
    "create_stream": create_stream,
    "delete_stream": delete_stream,
    "delete_entries": lambda url, stream: delete_entries(url, stream, ["1-0"]),
    "claim_entries": lambda url, stream: claim_entries(url, stream, "g", "c", ["1-0"]),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_key_of_another_type(
    server: Server, client: redis.Redis, stream: str, protocol: str, call: str
) -> None:
    client.set(stream, "x")
    with within(2), pytest.raises(WrongTypeError, match=stream) as raised:
        CALLS[call](server.url + protocol, stream)
    assert raised.value.code == "WRONGTYPE"


@pytest.mark.parametrize(
    "call", ["consumer_info", "pending_entries", "delete_consumer", "claim_entries"]
)
@pytest.mark.parametrize("exists", [False, True], ids=["no-stream", "no-group"])
def test_a_missing_group(
    server: Server, client: redis.Redis, stream: str, protocol: str, call: str, exists: bool
) -> None:
    if exists:
        add_numbers(client, stream, 3)
    with within(2), pytest.raises(NoGroupError, match=stream):
        CALLS[call](server.url + protocol, stream)
    assert client.exists(stream) == exists


@pytest.mark.parametrize("call", CALLS)
def test_a_user_without_the_right(servers: Any, call: str) -> None:
    server: Server = servers.get("redis-7.0")
    with server.client() as client:
        client.acl_setuser(
            "guest", enabled=True, passwords=[f"+{PASSWORD}"], keys="*", commands=["+ping"]
        )
        try:
            with raises_discreetly(AuthenticationError) as raised:
                CALLS[call](with_password(server.url, user="guest"), "s")
            assert raised.value.code == "NOPERM"
            assert "stream: s" in str(raised.value)
        finally:
            client.acl_deluser("guest")


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_cannot_be_reached(call: str) -> None:
    connection = RedisConnection(with_password("redis://127.0.0.1:1"), max_retries=0)
    with within(2), raises_discreetly(RedisConnectionError) as raised:
        CALLS[call](connection, "clicks")
    assert "stream: clicks" in str(raised.value)


@pytest.mark.parametrize("call", CALLS)
def test_garbage_is_refused(any_server: Server, stream: str, call: str) -> None:
    """Whatever a server sends instead, nothing panics."""
    with Proxy(any_server.port) as proxy:
        for garbage in (b"$3\r\nabc\r\n", b":-5\r\n", b"*1\r\n:1\r\n", b"*2\r\n$1\r\na\r\n*-1\r\n"):
            for command in (
                b"XINFO",
                b"XPENDING",
                b"XGROUP",
                b"XTRIM",
                b"XDEL",
                b"XCLAIM",
                b"EVAL",
            ):
                proxy.clear()
                proxy.replace_reply(garbage, once_seen=command)
            try:
                frame = CALLS[call](RedisConnection(proxy.url, max_retries=0), stream)
            except (ResponseError, NoGroupError):
                pass
            else:
                assert isinstance(frame, pl.DataFrame | bool | int)


def test_a_list_without_an_end_is_refused(any_server: Server, stream: str) -> None:
    """A server that gives the same page again and again is not asked again and again."""
    entry = b"*4\r\n$3\r\n1-0\r\n$1\r\na\r\n:5\r\n:1\r\n"
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"*10000\r\n" + 10_000 * entry, once_seen=b"XPENDING", times=None)
        with pytest.raises(ResponseError, match="XPENDING"):
            pending_entries(proxy.url, stream, "g")
        assert proxy.count(b"XPENDING") == 2


@pytest.mark.parametrize(
    ("function", "options", "error"),
    [
        (stream_info, {"stream": 5}, TypeError),
        (stream_info, {"url": 5}, TypeError),
        (stream_info, {"url": "http://h"}, ValueError),
        (group_info, {"stream": None}, TypeError),
        (consumer_info, {"group": 5}, TypeError),
        (pending_entries, {"group": 5}, TypeError),
        (pending_entries, {"consumer": 5}, TypeError),
        (pending_entries, {"min_idle_ms": -1}, ValueError),
        (pending_entries, {"min_idle_ms": 1.5}, TypeError),
        (pending_entries, {"count": -1}, ValueError),
        (pending_entries, {"start_id": "x"}, ValueError),
        (pending_entries, {"start_id": "$"}, ValueError),
        (pending_entries, {"end_id": 5.0}, TypeError),
        (create_group, {"start_id": "-"}, ValueError),
        (create_group, {"start_id": ">"}, ValueError),
        (create_group, {"start_id": 5.0}, TypeError),
        (create_group, {"if_exists": "x"}, ValueError),
        (create_group, {"if_exists": pl.DataFrame({"a": [1]})}, ValueError),
        (create_group, {"group": 5}, TypeError),
        (delete_group, {"group": 5}, TypeError),
        (delete_consumer, {"consumer": None}, TypeError),
        (delete_consumer, {"consumer": "c", "if_pending": "keep"}, ValueError),
        (delete_consumer, {"consumer": "c", "if_pending": pl.DataFrame({"a": [1]})}, ValueError),
        (trim_stream, {}, ValueError),
        (trim_stream, {"maxlen": 1, "minid": "1"}, ValueError),
        (trim_stream, {"maxlen": -1}, ValueError),
        (trim_stream, {"maxlen": "1"}, TypeError),
        (trim_stream, {"minid": "-"}, ValueError),
        (trim_stream, {"minid": "+"}, ValueError),
        (trim_stream, {"minid": "(5-0"}, ValueError),
        (trim_stream, {"minid": 5.0}, TypeError),
        (trim_stream, {"maxlen": 1, "approximate": False, "limit": 5}, ValueError),
        (trim_stream, {"maxlen": 1, "limit": -1}, ValueError),
    ],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
def test_bad_arguments_raise_before_anything_is_sent(
    function: Callable[..., object], options: dict[str, Any], error: type[Exception]
) -> None:
    """This address would refuse a connection."""
    arguments: dict[str, Any] = {"url": "redis://127.0.0.1:1", "stream": "s"}
    if function not in (stream_info, group_info, trim_stream):
        arguments["group"] = "g"
    with pytest.raises(error) as raised:
        function(**arguments | options)
    assert not isinstance(raised.value, RedisConnectionError)


def test_a_group_is_seen_through_a_whole_life(server: Server, client: redis.Redis) -> None:
    """What the guide shows, against what the server's own commands say."""
    url = server.url
    assert create_group(url, "life", "g") is True
    add_numbers(client, "life", 10)
    frame = read_stream(url, "life", group="g", consumer="w", count=6)
    assert pending_entries(url, "life", "g")["id"].to_list() == frame["_id"].to_list()
    assert trim_stream(url, "life", maxlen=5, approximate=False) == 5
    assert stream_info(url, "life")["length"].item() == 5
    # Reading them acknowledges those that are gone.
    assert read_stream(url, "life", start_id="0", group="g", consumer="w").height == 1
    assert pending_entries(url, "life", "g")["id"].to_list() == ["6-0"]
    assert delete_consumer(url, "life", "g", "w", if_pending="discard") == 1
    assert group_info(url, "life").row(0, named=True)["consumers"] == 0
    assert delete_group(url, "life", "g") is True


def test_an_entry_that_is_named_twice_is_claimed_once(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    first, second = "1-0", "2-0"
    client.xadd(stream, {"n": 1}, id=first)
    client.xadd(stream, {"n": 2}, id=second)
    create_group(any_server.url, stream, "g", start_id="0")
    client.xreadgroup("g", "one", {stream: ">"})
    claimed = claim_entries(any_server.url, stream, "g", "two", [second, first, second, first])
    assert claimed.to_list() == [second, first]
