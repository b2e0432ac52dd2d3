"""One rule for twins: a function that makes one call has one for event loops, named `_async`."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal, assert_series_equal

import redfloe
from support.server import Server
from support.streams import add_numbers

FUNCTIONS = {name for name in redfloe.__all__ if inspect.isroutine(getattr(redfloe, name))}
TWINS = {name for name in FUNCTIONS if name.endswith("_async")}
#: These make no call: what they return does, when it is used.
LATER = {
    *("iter_stream", "stream_batches", "scan_stream", "scan_streams", "stream_reader"),
    *("local_server", "scan_archive_and_stream", "scan_table", "table_key"),
}


def test_each_has_one() -> None:
    assert {name.removesuffix("_async") for name in TWINS} == FUNCTIONS - TWINS - LATER


@pytest.mark.parametrize("name", sorted(TWINS))
def test_they_take_the_same(name: str) -> None:
    twin = getattr(redfloe, name)
    assert inspect.iscoroutinefunction(twin)
    function = inspect.signature(getattr(redfloe, name.removesuffix("_async")))
    assert inspect.signature(twin).parameters == function.parameters
    assert inspect.signature(twin).return_annotation == function.return_annotation


CALLS: dict[str, tuple[Any, ...]] = {
    "infer_schema": (),
    "read_stream": (),
    "read_streams": (),
    "stream_info": (),
    "split_stream": (2,),
    "stream_offsets": (),
    "list_streams": (),
    "list_groups": (),
    "group_info": (),
    "consumer_info": ("g",),
    "pending_entries": ("g",),
    "create_stream": (),
    "create_group": ("g",),
    "delete_entries": (["3-0", "4-0"],),
    "claim_entries": ("g", "other", ["1-0", "2-0"]),
    "delete_group": ("g",),
    "delete_stream": (),
}


@pytest.mark.parametrize("name", CALLS)
def test_they_do_the_same(any_server: Server, client: redis.Redis, stream: str, name: str) -> None:
    results = []
    for call in (getattr(redfloe, name), getattr(redfloe, f"{name}_async")):
        client.delete(stream)
        add_numbers(client, stream, 5)
        redfloe.read_stream(any_server.url, stream, group="g", consumer="c", count=3)
        called = call(any_server.url, stream, *CALLS[name])
        results.append(asyncio.run(called) if inspect.iscoroutine(called) else called)
    result, twins = results
    if isinstance(result, pl.DataFrame):
        times = [column for column in ("idle", "inactive", "lag_time") if column in result.columns]
        assert_frame_equal(result.drop(times), twins.drop(times))
    elif isinstance(result, pl.Series):
        assert_series_equal(result, twins)
    else:
        assert (result, type(result)) == (twins, type(twins))


def written(client: redis.Redis) -> list[Any]:
    """Give the fields of all entries and hashes that there are."""
    found: list[Any] = []
    keys: Any = client.keys()
    for key in sorted(keys):
        entries: Any = client.xrange(key) if client.type(key) == b"stream" else None
        found += [client.hgetall(key)] if entries is None else [fields for _, fields in entries]
    return found


FRAME = pl.DataFrame({"key": ["a", "b"], "n": [1, None], "m": ["x", "y"]})
WRITES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "write_stream": ((FRAME, "s"), {}),
    "sink_stream": ((FRAME.lazy(), "s"), {"chunk_size": 1}),
    "write_hashes": ((FRAME,), {"key_column": "key", "key_prefix": "p:"}),
}


@pytest.mark.parametrize("name", WRITES)
def test_they_write_the_same(any_server: Server, client: redis.Redis, name: str) -> None:
    arguments, options = WRITES[name]
    result = getattr(redfloe, name)(any_server.url, *arguments, **options)
    there = written(client)
    client.flushall()
    twin = getattr(redfloe, f"{name}_async")
    twins = asyncio.run(twin(any_server.url, *arguments, **options))
    assert written(client) == there
    assert len(there) == 2
    if name == "write_stream":
        assert (len(twins), twins.dtype, twins.name) == (len(result), result.dtype, result.name)
    else:
        assert result == twins == 2
