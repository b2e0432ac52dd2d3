"""Enums and Categoricals in frames that are put together from several pages, nodes and streams."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import iter_stream, read_stream, read_streams, scan_streams, stream_reader
from support.cluster import Cluster
from support.groups import DRAIN, ME
from support.server import Server
from support.streams import add

pytestmark = [pytest.mark.xdist_group("cluster"), pytest.mark.timeout(60)]

#: More than half of what the smallest keys tell apart, so that two dictionaries are too many.
NAMES = [f"name {number}, which is no short text" for number in range(200)]
ENUM = pl.Enum(NAMES)
SCHEMA: dict[str, Any] = {
    "e": ENUM,
    "l": pl.List(ENUM),
    "a": pl.Array(ENUM, 2),
    "s": pl.Struct({"e": ENUM, "n": pl.Int64()}),
}
ROWS = 1_200
ORDERS: Any = ["stream", "id"]


def fields(row: int) -> dict[str, str]:
    one, other = (NAMES[number % len(NAMES)] for number in (row, row * 7 + 1))
    return {
        "e": one,
        "l": json.dumps([one, other] * (row % 3)),
        "a": json.dumps([other, one]),
        "s": json.dumps({"e": other, "n": row}),
    }


def fill(client: redis.Redis, stream: str, first: int) -> None:
    add(client, stream, [(f"{row}-0", fields(row)) for row in range(first, ROWS, 3)])


def check(frame: pl.DataFrame) -> None:
    """Whether it has all rows, in whichever order, each with what was written."""
    frame = frame.sort("_ts")
    assert frame["_ts"].to_list() == [*range(1, ROWS)]
    assert frame.select(*SCHEMA).schema == pl.Schema(SCHEMA)
    expected = [fields(row) for row in range(1, ROWS)]
    assert frame["e"].to_list() == [row["e"] for row in expected]
    for name in "las":
        assert frame[name].to_list() == [json.loads(row[name]) for row in expected]


@pytest.fixture
def streams(client: redis.Redis) -> list[str]:
    names = ["s:a", "s:b", "s:c"]
    for first, name in enumerate(names, 1):
        fill(client, name, first)
    return names


def clustered(cluster: Cluster) -> list[str]:
    names = cluster.keys(3)
    for first, name in enumerate(names, 1):
        fill(cluster.client(name), name, first)
    return names


def check_all(url: Any, streams: list[str], order: Any) -> None:
    check(read_stream(url, streams, SCHEMA, order=order))
    for batch_size in (7, 400, 10_000):
        options: Any = {"order": order, "batch_size": batch_size}
        check(pl.DataFrame(stream_reader(url, streams, SCHEMA, **options)))
    last = read_stream(url, streams, SCHEMA, order=order, last=500)
    assert len(last) == 500
    assert last["e"].to_list() == [fields(row)["e"] for row in last["_ts"]]


@pytest.mark.parametrize("order", ORDERS)
def test_an_enum_of_several_streams(any_server: Server, streams: list[str], order: Any) -> None:
    check_all(any_server.url, streams, order)
    check(scan_streams(any_server.url, "s:*", SCHEMA, order=order).collect(engine="streaming"))


@pytest.mark.parametrize("order", ORDERS)
def test_an_enum_of_several_nodes(cluster: Cluster, order: Any) -> None:
    check_all(cluster.url, clustered(cluster), order)


@pytest.mark.parametrize("options", [{}, ME], ids=["follower", "group"])
def test_batches_of_several_slots(cluster: Cluster, options: dict[str, Any]) -> None:
    streams = clustered(cluster)
    options = {**options, **DRAIN, "batch_timeout_ms": 100, "batch_size": 500}
    start = None if "group" in options else "-"
    check(pl.concat(iter_stream(cluster.url, streams, SCHEMA, start, **options)))


@pytest.mark.parametrize("order", ORDERS)
def test_an_enum_that_some_pages_do_not_have(
    any_server: Server, client: redis.Redis, streams: list[str], order: Any
) -> None:
    """Its column is found, in each stream by itself."""
    add(client, "s:d", [(f"{row}-0", {"other": row}) for row in range(1, ROWS)])
    options: Any = {"schema_overrides": SCHEMA, "order": order}
    frame = read_streams(any_server.url, "s:*", **options)
    assert len(frame) == 2 * (ROWS - 1)
    check(frame.filter(pl.col("e").is_not_null()))
    reader = stream_reader(any_server.url, [*streams, "s:d"], batch_size=50, **options)
    check(pl.DataFrame(reader).filter(pl.col("e").is_not_null()))


@pytest.mark.parametrize("order", ORDERS)
def test_a_categorical_with_small_keys(any_server: Server, streams: list[str], order: Any) -> None:
    """Each page has met the categories in an order of its own."""
    small = pl.Categorical(pl.Categories(f"of {order}", physical=pl.UInt8))
    schema = {"e": small, "l": pl.List(small)}
    frame = read_stream(any_server.url, streams, schema, order=order)
    assert frame.schema["e"] == small
    frames = [frame, pl.DataFrame(stream_reader(any_server.url, streams, schema, order=order))]
    for one in frames:
        assert one["e"].to_list() == [fields(row)["e"] for row in one["_ts"]]
        assert one["l"].to_list() == [json.loads(fields(row)["l"]) for row in one["_ts"]]


def test_more_categories_than_small_keys_tell_apart(
    any_server: Server, client: redis.Redis
) -> None:
    for number, stream in enumerate("ab"):
        names = range(number * 150, number * 150 + 150)
        add(client, stream, [(f"{row}-0", {"e": f"{row}"}) for row in names if row])
    small = pl.Categorical(pl.Categories("too many", physical=pl.UInt8))
    with pytest.raises(redfloe.RedfloeError, match="categor"):
        read_stream(any_server.url, ["a", "b"], {"e": small}, order="id")
