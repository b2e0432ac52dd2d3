"""Payloads that are compressed, and what they may become."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import redis
from polars.testing import assert_frame_equal

import redfloe
from redfloe import DecodeError, iter_stream, read_stream, sink_stream, write_stream
from support.consumers import dead_ids, letters
from support.groups import DRAIN, ME
from support.payloads import BARE, FORMATS, FRAME, PAYLOAD, SCHEMA
from support.server import Server
from support.versions import needs_batches
from support.writes import entries


def zstd(document: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(document))


def unzstd(compressed: bytes) -> bytes:
    with pa.CompressedInputStream(pa.BufferReader(compressed), "zstd") as stream:
        return bytes(stream.read())


Convert = Callable[[bytes], bytes]
COMPRESSIONS: dict[str, tuple[Convert, Convert]] = {
    "zstd": (zstd, unzstd),
    "gzip": (gzip.compress, gzip.decompress),
}


def compressed(name: str, **options: Any) -> dict[str, Any]:
    return {**PAYLOAD, "payload_compression": name, **options}


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize(("options", "write", "load"), FORMATS)
def test_what_others_compress_is_read_and_what_is_written_others_read(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    compression: str,
    options: dict[str, Any],
    write: Callable[[object], bytes],
    load: Callable[[bytes], Any],
) -> None:
    url, options = any_server.url, {**options, "payload_compression": compression}
    compress, decompress = COMPRESSIONS[compression]
    write_stream(url, FRAME, stream, **options)
    with redfloe.StreamProducer(url, stream, **options) as producer:
        for row in FRAME.iter_rows(named=True):
            producer.send(row)
    documents = [load(decompress(fields[b"data"])) for fields in entries(client, stream)]
    for row in documents:
        client.xadd(stream, {"data": compress(write(row))})
    df = read_stream(url, stream, SCHEMA, **options, **BARE)
    assert_frame_equal(df, pl.concat([FRAME] * 4))
    assert redfloe.infer_schema(url, stream, **options).keys() == SCHEMA.keys()


@needs_batches
def test_a_sink_and_a_worker(any_server: Server, client: redis.Redis, stream: str) -> None:
    options = compressed("gzip")
    sink_stream(any_server.url, FRAME.lazy(), stream, **options)
    client.xadd(stream, {"data": b'{"sku": "plain"}'})
    client.xadd(stream, {"data": gzip.compress(b'{"sku": "whole"}')[:-9]})
    client.xadd(stream, {"data": b""})
    with redfloe.StreamConsumer(
        any_server.url, stream, schema=SCHEMA, dead_letter="dead", **ME, **DRAIN, **options
    ) as consumer:
        frames = [batch.frame["sku"].to_list() for batch in consumer]
    assert [sku for frame in frames for sku in frame] == [*FRAME["sku"], None]
    assert len(dead_ids(client)) == 2
    reasons = {letter[b"_dead_reason"] for letter in letters(client)}
    assert all(b"is not gzip (field: data" in reason for reason in reasons)
    assert letters(client)[0][b"data"] == b'{"sku": "plain"}'


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_payload_may_not_become_larger_than_is_said(
    any_server: Server, client: redis.Redis, stream: str, compression: str
) -> None:
    compress, _ = COMPRESSIONS[compression]
    for size in (10, 1_000, 20_000_000):
        document = json.dumps({"n": size, "s": " " * size})
        client.xadd(stream, {"data": compress(document.encode())})
    url, schema = any_server.url, {"n": pl.Int64}
    options = compressed(compression, on_error="null", **BARE)
    assert read_stream(url, stream, schema, **options)["n"].to_list() == [10, 1_000, None]
    df = read_stream(url, stream, schema, payload_max_bytes=500, **options)
    assert df["n"].to_list() == [10, None, None]
    df = read_stream(url, stream, schema, payload_max_bytes=30_000_000, **options)
    assert df["n"].to_list() == [10, 1_000, 20_000_000]
    with pytest.raises(DecodeError, match=r"more than payload_max_bytes=16777216.*entry ID"):
        read_stream(url, stream, schema, **compressed(compression))
    assert redfloe.infer_schema(url, stream, **compressed(compression))["n"] == pl.Int64


def test_batches_are_bounded_by_what_payloads_become(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """A reply of a hundred kilobytes that becomes a hundred megabytes."""
    bomb = gzip.compress(json.dumps({"n": 1, "s": " " * 2_000_000}).encode())
    for _ in range(50):
        client.xadd(stream, {"data": bomb})
    batches = iter_stream(
        any_server.url,
        stream,
        {"n": pl.Int64, "s": pl.String},
        start_id="-",
        batch_bytes=9_000_000,
        **compressed("gzip"),
        **DRAIN,
    )
    heights = [batch.height for batch in batches]
    assert sum(heights) == 50
    assert max(heights) <= 6
    df = read_stream(any_server.url, stream, {"n": pl.Int64}, **compressed("gzip"))
    assert df["n"].sum() == 50
    with redfloe.StreamConsumer(
        any_server.url,
        stream,
        schema={"n": pl.Int64},
        batch_bytes=9_000_000,
        **ME,
        **DRAIN,
        **compressed("gzip"),
    ) as consumer:
        heights = [len(batch.frame) for batch in consumer]
    assert sum(heights) == 50
    assert max(heights) <= 6
