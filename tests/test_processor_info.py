"""Processors as others see them: their lanes, reset, deleted."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    AuthenticationError,
    FencedError,
    NoProcessorError,
    ProcessorRunningError,
    RedisConnection,
    WrongTypeError,
    delete_processor,
    processor_info,
    reset_processor,
    table_key,
)
from support.groups import deliver
from support.lanes import lane_key, put_lane
from support.processing import load_state
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers

SCHEMA = {
    "stream": pl.String(),
    "processor": pl.String(),
    "group": pl.String(),
    "consumer": pl.String(),
    "held": pl.Boolean(),
    "owner": pl.String(),
    "lease_left": pl.Duration("ms"),
    "epoch": pl.Int64(),
    "position": pl.String(),
    "planned_end": pl.String(),
    "lag": pl.Int64(),
    "lag_time": pl.Duration("ms"),
    "next_entry_id": pl.String(),
    "commits": pl.Int64(),
    "entries": pl.Int64(),
    "batch_entries": pl.Int64(),
    "batch_time": pl.Duration("ms"),
    "acquired_at": pl.Datetime("ms", "UTC"),
    "committed_at": pl.Datetime("ms", "UTC"),
}


def test_lanes(server: Server, client: redis.Redis, protocol: str) -> None:
    url = server.url + protocol
    assert (processor_info(url).height, processor_info(url).schema) == (0, SCHEMA)
    now = int(time.time() * 1000)
    for ago in (60_000, 30_000, 10_000):
        client.xadd("sales", {"n": 1}, id=f"{now - ago}-0")
    client.xgroup_create("sales", "g", "0")
    deliver(client, "sales", 1)
    batch: Any = {"entries": 9, "batch": 3, "took": 1500, "committed": 1704067201000}
    put_lane(
        client, "sales", "inventory", position=f"{now - 60_000}-0", owner="host", left_ms=30_000,
        epoch=4, commits=2, planned="7-0", **batch,
    )  # fmt: skip
    put_lane(client, "sales", "fraud", position=f"{now - 10_000}-0", owner="host", left_ms=-1)
    put_lane(client, "sales", "fraud", ("g", "c-1"))
    put_lane(client, "other", "fraud")
    client.hset("{sales}:redfloe:sales:inventory:state", "epoch", "1")
    client.hset("{sales}:redfloe:sales:no lane", "a", "b")
    client.set("{sales}:redfloe:sales:text", "x")
    frame = processor_info(url)
    assert frame.schema == SCHEMA
    other, fraud, member, inventory = frame.iter_rows(named=True)
    lease = inventory.pop("lease_left").total_seconds()
    assert lease == pytest.approx(30, abs=5)
    assert inventory.pop("lag_time").total_seconds() == pytest.approx(30, abs=5)
    assert inventory == {
        "stream": "sales",
        "processor": "inventory",
        "group": None,
        "consumer": None,
        "held": True,
        "owner": "host:1",
        "epoch": 4,
        "position": f"{now - 60_000}-0",
        "planned_end": "7-0",
        "lag": 2,
        "next_entry_id": f"{now - 30_000}-0",
        "commits": 2,
        "entries": 9,
        "batch_entries": 3,
        "batch_time": dt.timedelta(seconds=1.5),
        "acquired_at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        "committed_at": dt.datetime(2024, 1, 1, 0, 0, 1, tzinfo=dt.UTC),
    }
    # Its lease has expired: nobody has told that it ended.
    assert (fraud["held"], fraud["owner"], fraud["lease_left"]) == (False, "host:1", None)
    assert (fraud["lag"], fraud["lag_time"], fraud["next_entry_id"]) == (0, dt.timedelta(), None)
    assert (fraud["entries"], fraud["batch_time"], fraud["committed_at"]) == (None, None, None)
    assert (member["group"], member["consumer"], member["position"]) == ("g", "c-1", None)
    assert member["lag"] == (None if server.name == "redis-6.2" else 2)
    assert member["lag_time"].total_seconds() == pytest.approx(30, abs=5)
    assert (other["stream"], other["owner"], other["lag"]) == ("other", None, 0)


def test_some_of_them(any_server: Server, client: redis.Redis) -> None:
    url = any_server.url
    for stream in ("a:1", "a:2", "b", "a[1"):
        for name in ("x", "y*", "y"):
            put_lane(client, stream, name)

    def found(*args: Any, **options: Any) -> list[tuple[str, str]]:
        frame = processor_info(url, *args, **options)
        in_loop = asyncio.run(redfloe.processor_info_async(url, *args, **options))
        assert in_loop.select("stream", "processor").equals(frame.select("stream", "processor"))
        return frame.select("stream", "processor").rows()

    assert len(found()) == 12
    assert found("b") == [("b", "x"), ("b", "y"), ("b", "y*")]
    assert found("a[1", name="y") == [("a[1", "y")]
    assert found(name="y*") == [(stream, "y*") for stream in ("a:1", "a:2", "a[1", "b")]
    assert found(pattern="a:*", name="x") == [("a:1", "x"), ("a:2", "x")]
    assert found(pattern="a:[^1]", name="x") == [("a:2", "x")]
    assert found(pattern="a\\[?", name="x") == [("a[1", "x")]
    assert found(pattern="c*") == found("c") == []


@pytest.mark.parametrize("stream", ["a}b", "a{}{b", "{t}:s", "{}", "%:{é}", b"\xff}", "a*[b]?"])
def test_odd_names(any_server: Server, client: redis.Redis, stream: str | bytes) -> None:
    name, table = b"n:%\xfe{", "t:*%"
    put_lane(client, stream, name, position="1-0")
    put_lane(client, stream, name + b"x")
    add_numbers(client, stream, 3)
    for key in (table_key(stream, name, table), table_key(stream, name + b"x", table)):
        client.hset(key, "k", '{"n":1}')
    readable = stream.decode(errors="backslashreplace") if isinstance(stream, bytes) else stream
    for frame in (processor_info(any_server.url), processor_info(any_server.url, stream)):
        assert frame["stream"].to_list() == [readable, readable]
        assert frame["processor"].to_list() == ["n:%\\xfe{", "n:%\\xfe{x"]
        assert frame["lag"].to_list() == [2, 3]
    read = redfloe.read_table(any_server.url, stream, name, table, key="k", schema={"n": pl.Int64})
    assert read.rows() == [("k", 1)]
    done = reset_processor(any_server.url, stream, name, to="2", state="drop").row(0, named=True)
    assert (done["previous_position"], done["position"]) == ("1-0", "2-0")
    assert (done["tables_dropped"], done["rows_dropped"]) == ([table], 1)
    assert delete_processor(any_server.url, stream, name)
    assert processor_info(any_server.url)["processor"].to_list() == ["n:%\\xfe{x"]
    assert client.exists(table_key(stream, name + b"x", table))


def test_many_lanes(any_server: Server, client: redis.Redis) -> None:
    pipeline = client.pipeline(transaction=False)
    for number in range(700):
        add_numbers(pipeline, f"s{number:03}", 1)
        put_lane(pipeline, f"s{number:03}", "p")
    pipeline.execute()
    frame = processor_info(any_server.url)
    assert frame["stream"].to_list() == [f"s{number:03}" for number in range(700)]
    assert frame["lag"].to_list() == [1] * 700


LAST = f"{2**64 - 1}-{2**64 - 1}"


def test_how_many_entries_wait(server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 25_000)
    add_numbers(client, "short", 3)
    client.xtrim("short", maxlen=2, approximate=False)
    client.xadd("end", {"n": 1}, id="5-0")
    client.xadd("end", {"n": 1}, id=LAST)
    expected = {
        ("s", "0-0"): 25_000,
        ("s", "12500-0"): None,  # in the middle of a long one it is not counted
        ("s", "3000-0"): 22_000,
        ("s", "20000-0"): 5_000,
        ("s", "25000-0"): 0,
        ("s", "25000-1"): 0,
        ("short", "1-0"): 2,
        ("short", "2-0"): 1,
        ("end", "5-0"): 1,
        ("end", "4-0"): 2,
        ("end", LAST): 0,
        ("nowhere", "1-0"): 0,
    }
    for stream, position in expected:
        put_lane(client, stream, position, position=position)
    frame = processor_info(server.url)
    rows = frame.select("stream", "position", "lag").rows()
    assert {(stream, position): lag for stream, position, lag in rows} == expected


def test_large_entries_are_counted_one_by_one(any_server: Server, client: redis.Redis) -> None:
    """A script that takes many of them at once would fill the server's memory."""
    pipeline = client.pipeline(transaction=False)
    for number in range(1, 61):
        pipeline.xadd("s", {"n": b"x" * 1_000_000}, id=f"{number}-0")
    pipeline.execute()
    put_lane(client, "s", "p", position="20-0")
    client.config_resetstat()
    assert processor_info(any_server.url)["lag"].to_list() == [40]
    assert client.info("stats")["total_net_output_bytes"] < 3_000_000


def test_who_may_ask_what(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "s", 9)
    put_lane(client, "s", "p", position="4-0")
    rules: dict[str, Any] = {"enabled": True, "nopass": True, "keys": ["*"]}
    try:
        client.acl_setuser("looker", commands=["+scan", "+hmget", "+xrange"], **rules)
        url = RedisConnection(any_server.url, username="looker", password="x")
        row = processor_info(url).row(0, named=True)
        assert (row["lag"], row["next_entry_id"]) == (None, "5-0")
        with pytest.raises(AuthenticationError):
            reset_processor(url, "s", "p", to="0", state="drop")
        client.hset(table_key("s", "p", "t"), "k", "{}")
        before = client.hgetall(lane_key("s", "p"))
        commands = ["+@all", "-unlink"]
        client.acl_setuser("looker", reset=True, commands=commands, **rules)
        with pytest.raises(AuthenticationError):
            reset_processor(url, "s", "p", to="0", state="drop")
        assert client.exists(table_key("s", "p", "t"))
        assert client.hget(lane_key("s", "p"), "position") == before[b"position"]
        assert reset_processor(url, "s", "p", to="0", state="keep")["position"].item() == "0-0"
    finally:
        client.acl_deluser("looker")


def in_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **options: asyncio.run(function(*args, **options))


@pytest.mark.parametrize(
    "reset", [reset_processor, in_loop(redfloe.reset_processor_async)], ids=["sync", "async"]
)
def test_a_reset(
    server: Server, client: redis.Redis, protocol: str, reset: Callable[..., pl.DataFrame]
) -> None:
    url = server.url + protocol
    add_numbers(client, "s", 9)
    key = put_lane(client, "s", "p", position="7-0", commits=5, planned="8-0")
    neighbour = put_lane(client, "s", "p2", position="7-0")
    state = "{s}:redfloe:s:p:state"
    client.hset(state, mapping={"a": "1", "\0newest:t": "5"})
    client.hset(table_key("s", "p", "t"), mapping={f"k{n}": "{}" for n in range(30)})
    client.hset(table_key("s", "p", "u"), "k", "{}")
    client.hset(table_key("s", "p2", "t"), "k", "{}")
    kept = reset(url, "s", "p", to="3", state="keep")
    assert kept.schema == {
        "previous_position": pl.String(),
        "position": pl.String(),
        "epoch": pl.Int64(),
        "state_dropped": pl.Int64(),
        "tables_dropped": pl.List(pl.String),
        "rows_dropped": pl.Int64(),
    }
    assert kept.row(0) == ("7-0", "3-0", 2, 0, [], 0)
    lane = client.hgetall(key)
    assert (lane[b"position"], lane[b"planned"], lane[b"owner"]) == (b"3-0", b"", b"")
    assert lane[b"commits"] == b"5"
    assert client.hlen(state) == 2
    dropped = reset(url, "s", "p", to="0", state="drop").row(0)
    assert dropped == ("3-0", "0-0", 3, 2, ["t", "u"], 31)
    assert not client.exists(state, table_key("s", "p", "t"), table_key("s", "p", "u"))
    assert client.hget(neighbour, "position") == b"7-0"
    assert client.exists(table_key("s", "p2", "t"))
    assert reset(url, "s", "p", to="$", state="keep")["position"].item() == "9-0"
    at = dt.datetime(1970, 1, 1, 0, 0, 0, 5_000, dt.UTC)
    assert reset(url, "s", "p", to=at, state="keep")["position"].item() == f"4-{2**64 - 1}"
    assert processor_info(url, "s", name="p")["lag"].item() == 5
    # What was deleted last counts for the end of a stream, and an empty one has none.
    client.xdel("s", "9-0")
    assert reset(url, "s", "p", to="$", state="keep")["position"].item() == "9-0"
    client.delete("s")
    assert reset(url, "s", "p", to="$", state="keep")["position"].item() == "0-0"


@pytest.mark.parametrize(
    ("field", "value"),
    [("epoch", "x"), ("epoch", "-1"), ("epoch", "9" * 19), ("commits", "x"), ("position", "x-1")],
)
def test_a_lane_that_is_damaged(
    any_server: Server, client: redis.Redis, field: str, value: str
) -> None:
    """Somebody has written to it: no processor works with it, and a reset mends it."""
    url = any_server.url
    options: dict[str, Any] = {"name": "p", "on_idle": "stop", "block_ms": 1}
    client.xadd("s", {"n": 1})
    with redfloe.StreamProcessor(url, "s", **options) as made:
        made.stop()
        key = put_lane(client, "s", "p")
        client.hset(key, field, value)
    with (
        pytest.raises(redfloe.DataLossError, match=f"the {field} .{value[:5]}.*reset_processor"),
        redfloe.StreamProcessor(url, "s", **options) as made,
    ):
        next(made)
    assert client.hget(key, field) == value.encode()
    if field == "epoch":
        client.hset(key, mapping={"until": "x", "lease": "y", "owner": "host:1:0"})
    done = reset_processor(url, "s", "p", to="0", state="keep")
    assert done["position"].item() == "0-0"
    with redfloe.StreamProcessor(url, "s", **options) as made:
        assert next(made).frame.height == 1
    client.hset(key, field, value)
    assert delete_processor(url, "s", "p", takeover=True)
    assert processor_info(url).height == 0


def test_a_lane_that_is_damaged_while_it_is_held(any_server: Server, client: redis.Redis) -> None:
    client.xadd("s", {"n": 1})
    with (  # noqa: PT012
        pytest.raises(redfloe.DataLossError, match=r"the epoch .x., which no processor writes"),
        redfloe.StreamProcessor(any_server.url, "s", name="p") as made,
    ):
        next(made)
        client.hset(lane_key("s", "p"), "epoch", "x")
        made.stop()


def test_what_is_not_there(any_server: Server, client: redis.Redis) -> None:
    url = any_server.url
    for to in ("0", "$"):
        with pytest.raises(NoProcessorError, match=r"no processor.*stream: s, processor: p"):
            reset_processor(url, "s", "p", to=to, state="drop")
    assert not delete_processor(url, "s", "p")
    assert client.keys() == []
    # A lane that was evicted leaves these.
    for left in (b"{s}:redfloe:s:p:state", table_key("s", "p", "t")):
        client.hset(left, "k", "{}")
        reset_processor(url, "s", "p", to="0", state="drop")
        assert client.keys() == [lane_key("s", "p")]
        assert delete_processor(url, "s", "p")
        client.hset(left, "k", "{}")
        assert delete_processor(url, "s", "p")
        assert client.keys() == []


def test_one_that_runs(any_server: Server, client: redis.Redis) -> None:
    url = any_server.url
    key = put_lane(client, "s", "p", position="7-0", owner="host", left_ms=30_000)
    client.hset(table_key("s", "p", "t"), "k", "{}")
    before = client.hgetall(key)
    with pytest.raises(ProcessorRunningError, match=r"host:1 has its lane \(epoch 1\)"):
        reset_processor(url, "s", "p", to="0", state="drop")
    with pytest.raises(ProcessorRunningError, match=r"set takeover.*processor: p"):
        delete_processor(url, "s", "p")
    assert client.hgetall(key) == before
    assert client.exists(table_key("s", "p", "t"))
    done = reset_processor(url, "s", "p", to="0", state="drop", takeover=True)
    assert done["epoch"].item() == 2
    # It does not keep the lane: whoever starts next has it at once.
    assert len(load_state(url, b"{s}:redfloe:s:p:state")) == 0
    assert not processor_info(url, name="p")["held"].item()


def test_another_owner_comes_meanwhile(any_server: Server, client: redis.Redis) -> None:
    key = put_lane(client, "s", "p", position="7-0")
    client.hset(table_key("s", "p", "t"), "k", "{}")
    with Proxy(any_server.port) as proxy:
        proxy.before(b"SCAN", lambda _: client.hset(key, mapping={"owner": "other", "epoch": 9}))
        with pytest.raises(FencedError):
            reset_processor(proxy.url, "s", "p", to="0", state="drop")
    assert client.hmget(key, "position", "owner", "epoch") == [b"7-0", b"other", b"9"]
    assert client.exists(table_key("s", "p", "t"))


def test_members_of_a_group(any_server: Server, client: redis.Redis) -> None:
    url = any_server.url
    for group, consumer in (("g", "a"), ("g", "b"), ("h", "a"), ("g", "odd %")):
        put_lane(client, "s", "p", (group, consumer))
    put_lane(client, "s", "p")

    def left() -> list[tuple[str, str]]:
        return processor_info(url).select("group", "consumer").rows()

    assert len(left()) == 5
    assert delete_processor(url, "s", "p", group="g", consumer="a")
    assert not delete_processor(url, "s", "p", group="g", consumer="a")
    assert left() == [(None, None), ("g", "b"), ("g", "odd %"), ("h", "a")]
    put_lane(client, "s", "p", ("g", "b"), owner="host", left_ms=30_000)
    with pytest.raises(ProcessorRunningError):
        delete_processor(url, "s", "p", group="g")
    assert len(left()) == 4  # all or none
    assert delete_processor(url, "s", "p", group="g", takeover=True)
    assert left() == [(None, None), ("h", "a")]
    deleting = redfloe.delete_processor_async(url, "s", "p")
    assert asyncio.run(deleting)
    assert left() == []


@pytest.mark.parametrize("wrong", ["lane", "state", "stream"])
def test_keys_of_another_type(any_server: Server, client: redis.Redis, wrong: str) -> None:
    if wrong != "lane":
        put_lane(client, "s", "p", position="7-0")
    keys: Any = {"lane": lane_key("s", "p"), "state": "{s}:redfloe:s:p:state", "stream": "s"}
    client.set(keys[wrong], "x")
    with pytest.raises(WrongTypeError, match="holds a string"):
        reset_processor(any_server.url, "s", "p", to="$", state="drop")
    assert client.get(keys[wrong]) == b"x"
    if wrong != "lane":
        assert client.hget(lane_key("s", "p"), "position") == b"7-0"
        assert processor_info(any_server.url)["held"].to_list() == [False]


def test_arguments() -> None:
    url, wrong = "redis://127.0.0.1:1", "nothing"
    any_state: Any = wrong
    with pytest.raises(ValueError, match='state must be "keep" or "drop"'):
        reset_processor(url, "s", "p", to="0", state=any_state)
    with pytest.raises(ValueError, match="nothing"):
        reset_processor(url, "s", "p", to=wrong, state="keep")
    with pytest.raises(ValueError, match="either stream or pattern"):
        processor_info(url, "s", pattern="*")
    with pytest.raises(ValueError, match="consumer needs group"):
        delete_processor(url, "s", "p", consumer="c")
    with pytest.raises(ValueError, match="has a name"):
        reset_processor(url, "s", "", to="0", state="keep")


def test_what_is_gone_meanwhile(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "a", 5)
    for stream in ("a", "b"):
        put_lane(client, stream, "p", position="2-0")
    with Proxy(any_server.port) as proxy:
        proxy.before(b"HMGET", lambda _: client.delete(lane_key("b", "p")))
        proxy.before(b"EVAL", lambda _: client.delete("a"))
        frame = processor_info(proxy.url)
    assert frame.select("stream", "next_entry_id", "lag").rows() == [("a", "3-0", 0)]
    client.set("a", "no stream any more")
    assert processor_info(any_server.url).select("stream", "lag").rows() == [("a", 0)]


def test_connections_that_are_lost(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "a", 5)
    put_lane(client, "a", "p", position="2-0")
    client.hset(table_key("a", "p", "t"), "k", "{}")
    for command in (b"SCAN", b"HMGET", b"XRANGE", b"EVAL"):
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(0, once_seen=command)
            assert processor_info(proxy.url)["lag"].to_list() == [3]
            assert proxy.count(command) >= 2
    for command in (b"EXISTS", b"SCAN", b"EVALSHA"):
        with Proxy(any_server.port) as proxy:
            proxy.cut_after(0, once_seen=command)
            done = reset_processor(proxy.url, "a", "p", to="1", state="drop")
            assert done["position"].item() == "1-0"
            assert proxy.count(command) >= 2
