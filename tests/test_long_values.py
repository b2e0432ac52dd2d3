"""Values that the server would hang up on (proto-max-bulk-len) are refused beforehand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest

import redfloe
from redfloe import write_stream
from support.server import Server

#: Values of which the text is longer than a megabyte, though none in them is, with its length.
LONG: dict[str, tuple[pl.Series, int]] = {
    "list of texts": (pl.Series([["a"], ["b" * 400_000] * 3]), 1_200_010),
    "list of numbers": (pl.Series([[1], [7] * 600_000]), 1_200_001),
    "array": (
        pl.Series([["a", "b"], ["b" * 600_000] * 2], dtype=pl.Array(pl.String, 2)),
        1_200_007,
    ),
    "struct": (pl.Series([{"x": "a"}, {"x": "b" * 1_200_000}]), 1_200_008),
    "quotes": (pl.Series([["a"], ['"' * 600_000]]), 1_200_004),
    "control characters": (pl.Series([["a"], ["\x01" * 200_000]]), 1_200_004),
    "bytes": (pl.Series([[b"a"], [b"b" * 900_000]]), 1_200_004),
    "category": (pl.Series(["a", "b" * 1_200_000], dtype=pl.Categorical), 1_200_000),
    "category within": (
        pl.Series([["a"], ["b" * 1_200_000]], dtype=pl.List(pl.Categorical)),
        1_200_004,
    ),
}


@pytest.fixture(scope="module")
def strict_server() -> Iterator[Server]:
    """Start a server that hangs up on a megabyte."""
    with Server("redis-7.0", args=["--proto-max-bulk-len", "1mb"]) as server:
        yield server


def produce_frame(url: Any, frame: pl.DataFrame, **options: Any) -> None:
    with redfloe.StreamProducer(url, "s", **options) as producer:
        producer.send_frame(frame)


WRITERS: dict[str, Callable[..., object]] = {
    "write_stream": lambda url, frame, **options: write_stream(url, frame, "s", **options),
    "write_stream, atomic": lambda url, frame, **options: write_stream(
        url, frame, "s", atomic=True, **options
    ),
    "write_stream_async": lambda url, frame, **options: asyncio.run(
        redfloe.write_stream_async(url, frame, "s", **options)
    ),
    "sink_stream": lambda url, frame, **options: redfloe.sink_stream(
        url, frame.lazy(), "s", **options
    ),
    "StreamProducer": produce_frame,
}


@pytest.mark.parametrize("name", LONG)
def test_a_nested_value_that_is_too_long(strict_server: Server, name: str) -> None:
    values, length = LONG[name]
    frame = values.to_frame("v").insert_column(0, pl.Series("n", [0, 1]))
    match = rf"\"v\" has {length} bytes, more than the 1048576.*proto-max-bulk-len.*\(row: 1\)"
    with pytest.raises(ValueError, match=match):
        write_stream(strict_server.url, frame, "s")
    with strict_server.client() as client:
        assert not client.exists("s")
        assert write_stream(strict_server.url, frame.head(1), "s").len() == 1
        client.flushall()


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("payload", [None, "data"])
def test_each_writer_refuses_what_is_too_long(
    strict_server: Server, name: str, payload: str | None
) -> None:
    """A payload is too long though no value in it is."""
    text = ["a", "b" * 600_000]
    frame = pl.DataFrame({"n": [0, 1], "a": text, "b": text})
    frame = frame if payload else frame.select("n", ab=pl.concat_list("a", "b"))
    field, length = ("data", 1_200_021) if payload else ("ab", 1_200_007)
    with pytest.raises(ValueError, match=rf"\"{field}\" has {length} bytes.*\(row: 1\)"):
        WRITERS[name](strict_server.url, frame, payload=payload)
    with strict_server.client() as client:
        assert not client.exists("s")


def test_a_producer_s_payload_that_is_too_long(strict_server: Server) -> None:
    producer = redfloe.StreamProducer(strict_server.url, "s", payload="data", linger_ms=10_000)
    producer.send({"n": 1})
    row: dict[str, Any] = {"a": "b" * 600_000, "b": ["c" * 600_000]}
    producer.send(row)
    with pytest.raises(ValueError, match=r"\"data\" has 1200\d{3} bytes.*\(row: 1\)"):
        producer.flush()


def test_a_reason_that_is_too_long_for_a_dead_letter(strict_server: Server) -> None:
    """An exception may quote a document; its entry is put aside all the same."""
    with strict_server.client() as client:
        client.flushall()
        client.xadd("s", {"n": 1})
        with redfloe.StreamConsumer(
            strict_server.url, "s", "g", "c", dead_letter="dead", block_ms=100
        ) as consumer:
            batch = next(consumer)
            assert batch.fail(batch.ids, "é" * 1_000_000) == 1
        reason = redfloe.read_dead_letters(strict_server.url, "dead")["_dead_reason"].item()
        assert reason == "é" * 32_768 + "... (2000000 bytes)"
        client.flushall()
