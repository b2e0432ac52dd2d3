"""The contenders, each as a competent user would write it, and what one of them takes.

``python benches/readers.py NAME URL STREAM`` reads once and prints the measurement as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from formats import (
    paged,
    read_and_decode_records,
    read_and_parse,
    read_messages,
    read_records,
)
from workloads import FIRST_EVENT, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def read_with_redfloe(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `read_stream` with the full schema."""
    import redfloe

    return redfloe.read_stream(url, workload.stream, schema=workload.schema)


def read_spread(url: str, workload: Workload) -> pl.DataFrame:
    """All of many streams."""
    import redfloe

    return redfloe.read_streams(url, f"{workload.stream}:*", schema=workload.schema)


def read_spread_by_id(url: str, workload: Workload) -> pl.DataFrame:
    """The same, merged."""
    import redfloe

    pattern = f"{workload.stream}:*"
    return redfloe.read_streams(url, pattern, schema=workload.schema, order="id")


def read_payload(url: str, workload: Workload) -> pl.DataFrame:
    """Documents whose keys are columns."""
    import redfloe

    return redfloe.read_stream(url, workload.stream, schema=workload.schema, payload="data")


def read_one_key(url: str, workload: Workload) -> pl.DataFrame:
    """One key of them; the others are skipped."""
    import redfloe

    schema = {"amount": workload.schema["amount"]}
    return redfloe.read_stream(url, workload.stream, schema=schema, payload="data")


def read_and_decode(url: str, workload: Workload) -> pl.DataFrame:
    """Documents as text, which Polars decodes."""
    import redfloe

    frame = redfloe.read_stream(url, workload.stream, schema={"data": pl.String})
    document = pl.col("data").str.json_decode(pl.Struct(workload.schema))
    return frame.with_columns(document).unnest("data")


def read_packed(url: str, workload: Workload) -> pl.DataFrame:
    """MessagePack maps whose keys are columns."""
    import redfloe

    return redfloe.read_stream(
        url, workload.stream, schema=workload.schema, payload="data", payload_format="msgpack"
    )


def read_and_unpack(url: str, workload: Workload) -> pl.DataFrame:
    """The same by redis-py and msgpack, whose dicts become a frame."""
    import msgpack

    return paged(url, workload, msgpack.unpackb)


def read_with_redis_py(url: str, workload: Workload) -> pl.DataFrame:
    """redis-py with hiredis, paged, into lists by column, into a frame that Polars casts."""
    import redis

    ids: list[str] = []
    columns: dict[str, list[str | None]] = {name: [] for name in workload.schema}
    pairs = list(columns.items())
    start = "-"
    with redis.Redis.from_url(url, decode_responses=True) as client:
        while page := client.xrange(workload.stream, min=start, count=10_000):
            for entry_id, fields in page:
                ids.append(entry_id)
                for name, values in pairs:
                    values.append(fields.get(name))
            start = f"({ids[-1]}"
    frame = pl.DataFrame(
        {"_id": ids, **columns}, schema=dict.fromkeys(["_id", *columns], pl.String)
    )
    return frame.with_columns(casts_of(workload)).select("_id", "_ts", *workload.schema)


def casts_of(workload: Workload) -> list[pl.Expr]:
    """Turn text into the workload's dtypes, and IDs into timestamps."""
    casts = [
        pl.col(name) == "true" if dtype == pl.Boolean else pl.col(name).cast(dtype)
        for name, dtype in workload.schema.items()
        if dtype != pl.String
    ]
    return [pl.col("_id").str.split("-").list.first().cast(pl.Int64).alias("_ts"), *casts]


def read_with_polars_redis(url: str, workload: Workload) -> pl.DataFrame:
    """polars-redis's `read_stream` with the full schema."""
    import polars_redis  # type: ignore[import-not-found]  # optional: compiles for minutes

    frame: pl.DataFrame = polars_redis.read_stream(url, workload.stream, schema=workload.schema)
    return frame


def scan(url: str, workload: Workload) -> pl.LazyFrame:
    """redfloe's lazy frame."""
    import redfloe

    return redfloe.scan_stream(url, workload.stream, schema=workload.schema)


def scan_all(url: str, workload: Workload) -> pl.DataFrame:
    return scan(url, workload).collect()


def scan_one_field(url: str, workload: Workload) -> pl.DataFrame:
    return scan(url, workload).select(next(iter(workload.schema))).collect()


def scan_one_percent(url: str, workload: Workload) -> pl.DataFrame:
    middle = FIRST_EVENT + workload.entries // 2
    kept = pl.col("_ts").is_between(middle, middle + workload.entries // 100, closed="left")
    return scan(url, workload).filter(kept).collect()


def scan_group_by(url: str, workload: Workload) -> pl.DataFrame:
    sums = pl.col("amount").sum(), pl.col("score").mean(), pl.len()
    return scan(url, workload).group_by("action").agg(*sums).collect(engine="streaming")


def iterate(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `iter_stream` from the first entry to the last; each batch is dropped."""
    import redfloe

    frame = pl.DataFrame()
    for frame in redfloe.iter_stream(  # noqa: B007 - the last one is returned
        url,
        workload.stream,
        schema=workload.schema,
        start_id="-",
        count=workload.entries,
        batch_size=10_000,
        on_idle="stop",
        block_ms=1,
    ):
        pass
    return frame


def copy(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `sink_stream` of its lazy frame, into a stream that is kept short."""
    import redfloe

    rows = redfloe.sink_stream(url, scan(url, workload).drop("_id", "_ts"), "copy", maxlen=100_000)
    return pl.DataFrame({"rows": [rows]})


@contextmanager
def group_of_its_own(url: str, stream: str) -> Iterator[str]:
    """A consumer group that has read nothing yet, for one run."""
    import redis

    name = f"bench-{os.getpid()}-{time.monotonic_ns()}"
    with redis.Redis.from_url(url) as client:
        client.xgroup_create(stream, name, id="0", mkstream=True)
        yield name
        client.xgroup_destroy(stream, name)


def consume(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `StreamConsumer`, each batch acknowledged with the next request."""
    import redfloe

    frame = pl.DataFrame(schema=workload.schema)
    with (
        group_of_its_own(url, workload.stream) as group,
        redfloe.StreamConsumer(
            url,
            workload.stream,
            group,
            "worker",
            schema=workload.schema,
            batch_size=10_000,
            on_idle="stop",
            block_ms=1,
        ) as consumer,
    ):
        for batch in consumer:
            frame = batch.frame
    return frame


def recover(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `StreamConsumer`, on what was delivered once to an earlier worker of its name."""
    import redfloe

    frame = pl.DataFrame(schema=workload.schema)
    with redfloe.StreamConsumer(
        url,
        workload.stream,
        "recover",
        "worker",
        schema=workload.schema,
        batch_size=10_000,
        max_deliveries=3,
        dead_letter="dead",
        on_idle="stop",
        block_ms=1,
    ) as consumer:
        for batch in consumer:
            frame = batch.frame
    assert consumer.stats.entries == workload.entries
    return frame


def consume_with_redis_py(url: str, workload: Workload) -> pl.DataFrame:
    """redis-py with hiredis: XREADGROUP, a frame that Polars casts, XACK."""
    import redis

    frame = pl.DataFrame()
    with (
        group_of_its_own(url, workload.stream) as group,
        redis.Redis.from_url(url, decode_responses=True) as client,
    ):
        while reply := client.xreadgroup(group, "worker", {workload.stream: ">"}, count=10_000):
            [(_, entries)] = reply.items() if isinstance(reply, dict) else reply
            if isinstance(reply, dict):
                [entries] = entries
            columns = {
                name: [fields.get(name) for _, fields in entries] for name in workload.schema
            }
            ids = [entry_id for entry_id, _ in entries]
            texts = pl.DataFrame(
                {"_id": ids, **columns}, schema=dict.fromkeys(["_id", *columns], pl.String)
            )
            frame = texts.with_columns(casts_of(workload))
            client.xack(workload.stream, group, *ids)
    return frame


#: Entries of a run that is too slow for all of them.
SOME = 20_000


def consume_one_by_one(url: str, workload: Workload) -> pl.DataFrame:
    """redis-py as message frameworks use it: ten at a time, a dict and an XACK for each."""
    import redis

    left = min(SOME, workload.entries)
    with (
        group_of_its_own(url, workload.stream) as group,
        redis.Redis.from_url(url, decode_responses=True) as client,
    ):
        while left > 0:
            reply = client.xreadgroup(group, "worker", {workload.stream: ">"}, count=10)
            [(_, entries)] = reply.items() if isinstance(reply, dict) else reply
            if isinstance(reply, dict):
                [entries] = entries
            for entry_id, _ in entries:
                client.xack(workload.stream, group, entry_id)
            left -= len(entries)
    return pl.DataFrame()


READERS: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "redfloe `read_stream`": read_with_redfloe,
    "redis-py[hiredis] + Polars": read_with_redis_py,
    "polars-redis `read_stream`": read_with_polars_redis,
}
QUERIES: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "`read_stream`": read_with_redfloe,
    "`scan_stream`, everything": scan_all,
    "`scan_stream`, one of the five fields": scan_one_field,
    "`scan_stream`, the 1 % of the entries that a filter of `_ts` keeps": scan_one_percent,
    "`scan_stream`, group-by in the streaming engine": scan_group_by,
    "`iter_stream`, batches of 10,000": iterate,
}
#: The first reads one stream, the others the same entries in many.
SPREADING: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "`read_stream`, one stream": read_with_redfloe,
    "`read_streams`": read_spread,
    '`read_streams`, `order="id"`': read_spread_by_id,
}
#: The first reads the flat fields that the others are measured by.
PAYLOADS: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "flat fields": read_with_redfloe,
    '`payload="data"`': read_payload,
    '`payload="data"`, one of the five keys': read_one_key,
    "text, then Polars' `str.json_decode`": read_and_decode,
    '`payload_format="msgpack"`': read_packed,
    "redis-py[hiredis], `msgpack.unpackb`, then a frame": read_and_unpack,
    "`payload_format=ProtobufSchema(...)`": read_messages,
    "redis-py[hiredis], `protobuf`, then a frame": read_and_parse,
    "`payload_format=AvroSchema(...)`": read_records,
    "redis-py[hiredis], `fastavro`, then a frame": read_and_decode_records,
}
#: The streams that they read, where it is not the documents.
PAYLOAD_STREAMS = {
    "flat fields": "events",
    '`payload_format="msgpack"`': "packed",
    "redis-py[hiredis], `msgpack.unpackb`, then a frame": "packed",
    "`payload_format=ProtobufSchema(...)`": "messages",
    "redis-py[hiredis], `protobuf`, then a frame": "messages",
    "`payload_format=AvroSchema(...)`": "records",
    "redis-py[hiredis], `fastavro`, then a frame": "records",
}
CONSUMERS: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "redfloe `StreamConsumer`": consume,
    "redis-py[hiredis] + Polars, XACK by batch": consume_with_redis_py,
    "redis-py[hiredis], a dict and an XACK for each": consume_one_by_one,
}
RECOVERING: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "redfloe `StreamConsumer`, all pending after one delivery, `max_deliveries=3`": recover,
}
WRITERS: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "`sink_stream` of `scan_stream`, into another stream": copy,
}
#: What must not need more memory for a larger stream.
BOUNDED = (*list(QUERIES)[-2:], next(iter(CONSUMERS)), *WRITERS)


def available() -> list[str]:
    """Name the readers that are installed."""
    needs = {"polars-redis `read_stream`": "polars_redis"}
    return [name for name in READERS if name not in needs or importlib.util.find_spec(needs[name])]


@dataclass(frozen=True)
class Measurement:
    """One read: its wall time, and the memory it took beyond what the process had before."""

    seconds: float
    peak_bytes: int | None = None
    frame_bytes: int | None = None


def measure(name: str, url: str, workload: Workload) -> Measurement:
    """Read once. Imports, the connection and the allocator's first steps are not measured."""
    read = (READERS | QUERIES | SPREADING | PAYLOADS | CONSUMERS | RECOVERING | WRITERS)[name]
    nothing = Workload("nothing", "", 0, workload.schema, workload.fill)
    read(url, nothing)
    before = resident_bytes()
    reset_peak()
    started = time.perf_counter()
    frame = read(url, workload)
    seconds = time.perf_counter() - started
    return Measurement(seconds, peak_bytes() - before, frame_bytes(frame))


def resident_bytes() -> int:
    """Give the memory that the process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def reset_peak() -> None:
    """Let the kernel's record of the peak begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """Give the highest memory since `reset_peak`."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def frame_bytes(frame: pl.DataFrame) -> int:
    """Give a frame's size in memory; `estimated_size` leaves out the views of strings."""
    strings = sum(dtype == pl.String for dtype in frame.dtypes)
    short = sum(
        int(frame[name].str.len_bytes().filter(frame[name].str.len_bytes() <= 12).sum())
        for name, dtype in frame.schema.items()
        if dtype == pl.String
    )
    # A view has 16 bytes and holds up to 12 of text itself; longer text lies in a buffer.
    return int(frame.estimated_size()) - short + 16 * strings * frame.height


if __name__ == "__main__":
    os.environ["POLARS_MAX_THREADS"] = "2"
    name, url, stream = sys.argv[1:]
    print(json.dumps(asdict(measure(name, url, WORKLOADS[stream]))))
