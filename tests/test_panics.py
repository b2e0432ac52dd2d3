"""A panic in the core is an exception that `except Exception` handles, wherever it happens.

What panics here is arrow-rs and Rust's `Vec`, on input that the package's functions refuse,
so the core is called directly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import redis

from redfloe import RedfloeError, RedisConnection, SchemaError, StreamConsumer, _core, write_stream
from redfloe._arguments import make_request
from redfloe._write_arguments import make_request as make_write_request
from support.server import Server

#: A column whose name is no UTF-8, on which arrow-rs panics.
UNREADABLE = pa.schema([pa.field(b"\xff", pa.int64())])

DRAIN: Any = {"on_idle": "stop", "block_ms": 1}


class Endless(Sequence[str]):
    """Says that it is longer than memory, so that Rust panics while it converts arguments."""

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: Any) -> Any:
        raise IndexError

    def __iter__(self) -> Iterator[str]:
        return iter(())


def test_a_panic_while_arguments_are_converted_is_an_exception(any_server: Server) -> None:
    server = _core.connect(any_server.url)
    with pytest.raises(Exception, match="capacity overflow") as raised:
        _core.ack_entries(server, b"s", b"g", Endless())  # type: ignore[arg-type]
    # Of this extension alone: that of Polars is as PyO3 has made it.
    assert type(raised.value).__name__ == "PanicException"
    assert not issubclass(pl.exceptions.PanicException, Exception)


def unreadable() -> Any:
    batches = pa.table([pa.array([1])], schema=UNREADABLE).to_batches()
    return pa.RecordBatchReader.from_batches(UNREADABLE, batches)


def read_schema(server: _core.RedisConnection) -> object:
    return _core.empty_batch({**make_request("s"), "schema": UNREADABLE})


def write_frame(server: _core.RedisConnection) -> None:
    _core.write_stream(server, unreadable(), {**make_write_request(), "stream": b"s"}, [])


@pytest.mark.parametrize("call", [read_schema, write_frame])
def test_a_panic_over_arrow_data_asks_to_be_reported(
    any_server: Server, client: redis.Redis, call: Callable[[_core.RedisConnection], object]
) -> None:
    with pytest.raises(RedfloeError, match="please report this"):
        call(_core.connect(any_server.url))
    assert not client.exists("s")


def test_a_name_that_is_no_utf_8_is_refused(any_server: Server) -> None:
    with pytest.raises(SchemaError, match="a name that is no valid UTF-8"):
        write_stream(any_server.url, unreadable(), "s")


def test_timeouts_beyond_the_clock_are_without_limit(any_server: Server) -> None:
    connection = RedisConnection(
        any_server.url, connect_timeout=1e19, response_timeout=1e19, retry_max_delay=1e19
    )
    write_stream(connection, pl.DataFrame({"n": [1]}), "s")

    async def drain() -> int:
        async with StreamConsumer(connection, "s", "g", "c", **DRAIN) as consumer:
            return sum([len(batch) async for batch in consumer])

    with StreamConsumer(connection, "s", "h", "c", **DRAIN) as consumer:
        assert sum(len(batch) for batch in consumer) == 1
    assert asyncio.run(drain()) == 1
