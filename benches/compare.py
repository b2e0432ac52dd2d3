"""Measure redfloe against the floor and against its peers, side by side, in one run.

``make bench`` starts a server of its own, fills two streams, lets the contenders take turns for
some rounds, each read in a process of its own, and writes the tables in docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
sys.path.insert(0, str(ROOT / "tests"))

Schema = dict[str, Any]
EVENTS: Schema = {
    "user": pl.String,
    "action": pl.String,
    "amount": pl.Int64,
    "score": pl.Float64,
    "valid": pl.Boolean,
}


# The streams


@dataclass(frozen=True)
class Workload:
    """A stream to read, and what of it to read."""

    stream: str
    title: str
    schema: Schema
    entries: Callable[[], Iterator[tuple[str, dict[str, Any]]]]


def events() -> Iterator[tuple[str, dict[str, Any]]]:
    """1,000,000 entries of a string, a low-cardinality string, an integer, a float, a boolean."""
    actions = ("click", "view", "purchase")
    for number in range(1_000_000):
        fields = {
            "user": f"user_{number * 7919 % 50_000:06}_name",
            "action": actions[number % 3],
            "amount": number * 31 % 100_000,
            "score": number * 0.37,
            "valid": "true" if number % 2 else "false",
        }
        yield f"{1_704_067_200_000 + number}-0", fields


def flights() -> Iterator[tuple[str, dict[str, Any]]]:
    """The demo's flights, as the demo publishes them."""
    from redfloe._demo import load_flights

    for row in load_flights().drop("_ts").iter_rows(named=True):
        yield row.pop("_id"), {name: value for name, value in row.items() if value is not None}


def flight_schema() -> Schema:
    """The flights' dtypes."""
    from redfloe._demo import load_flights

    return dict(load_flights().drop("_id", "_ts").schema)


WORKLOADS = {
    "events": Workload("events", "1,000,000 entries of 5 fields", EVENTS, events),
    "flights": Workload("flights", "27,004 flights of 19 fields", flight_schema(), flights),
}


def fill(url: str, workload: Workload) -> None:
    """Publish a workload's entries."""
    import redis

    with redis.Redis.from_url(url) as client, client.pipeline(transaction=False) as pipeline:
        for number, (entry_id, fields) in enumerate(workload.entries()):
            pipeline.xadd(workload.stream, fields, id=entry_id)
            if number % 10_000 == 0:
                pipeline.execute()
        pipeline.execute()


# The contenders


def read_with_redfloe(url: str, workload: Workload) -> pl.DataFrame:
    """redfloe's `read_stream` with the full schema."""
    import redfloe

    return redfloe.read_stream(url, workload.stream, schema=workload.schema)


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
    casts = [
        pl.col(name) == "true" if dtype == pl.Boolean else pl.col(name).cast(dtype)
        for name, dtype in workload.schema.items()
        if dtype != pl.String
    ]
    timestamp = pl.col("_id").str.split("-").list.first().cast(pl.Int64).alias("_ts")
    return frame.with_columns(timestamp, *casts).select("_id", "_ts", *workload.schema)


def read_with_polars_redis(url: str, workload: Workload) -> pl.DataFrame:
    """polars-redis's `read_stream` with the full schema."""
    import polars_redis  # type: ignore[import-not-found]  # optional: compiles for minutes

    frame: pl.DataFrame = polars_redis.read_stream(url, workload.stream, schema=workload.schema)
    return frame


READERS: dict[str, Callable[[str, Workload], pl.DataFrame]] = {
    "redfloe `read_stream`": read_with_redfloe,
    "redis-py[hiredis] + Polars": read_with_redis_py,
    "polars-redis `read_stream`": read_with_polars_redis,
}
FLOOR = "floor (pages, drops every byte)"


@dataclass(frozen=True)
class Measurement:
    """One read: its wall time, and the memory it took beyond what the process had before."""

    seconds: float
    peak_bytes: int | None = None
    frame_bytes: int | None = None


def run_reader(name: str, url: str, workload: Workload) -> Measurement:
    """Read in a process of its own, so that its peak of memory is the reader's."""
    command = [
        sys.executable,
        __file__,
        "--worker",
        name,
        "--url",
        url,
        "--stream",
        workload.stream,
    ]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Measurement(**json.loads(output))


def run_floor(port: int, workload: Workload) -> Measurement:
    """Run examples/drain.rs."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    drain = target / "release" / "examples" / "drain"
    command = [str(drain), f"127.0.0.1:{port}", workload.stream]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Measurement(float(output.split()[2]))


def work(name: str, url: str, workload: Workload) -> None:
    """Read once, in the worker's process, and print the measurement."""
    read = READERS[name]
    # Imports, the connection and the allocator's first steps are not what is measured.
    os.environ["POLARS_MAX_THREADS"] = "2"
    warm_up = Workload("nothing", "", workload.schema, workload.entries)
    read(url, warm_up)
    before = resident_bytes()
    reset_peak()
    started = time.perf_counter()
    frame = read(url, workload)
    seconds = time.perf_counter() - started
    peak = peak_bytes() - before
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "frame_bytes": frame_bytes(frame)}))


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


# The comparison


def available() -> list[str]:
    """Name the readers that are installed."""
    needs = {"polars-redis `read_stream`": "polars_redis"}
    return [name for name in READERS if name not in needs or importlib.util.find_spec(needs[name])]


def compare(url: str, port: int, workload: Workload, rounds: int) -> str:
    """Let all take turns; give the table."""
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    for number in range(rounds):
        for name in [FLOOR, *available()]:
            measured = (
                run_floor(port, workload) if name == FLOOR else run_reader(name, url, workload)
            )
            seconds.setdefault(name, []).append(measured.seconds)
            latest[name] = measured
            print(f"{workload.stream} round {number + 1}: {name}: {measured.seconds:.3f} s")
    lines = [
        f"### {workload.title}",
        "",
        "| reader | wall, median (best) | ratio to the floor | peak memory | ratio to the frame |",
        "|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        # Each round's ratio is taken within the round: what slows the machine slows both.
        ratios = [mine / floor for mine, floor in zip(times, seconds[FLOOR], strict=True)]
        memory = "| |"
        peak, size = latest[name].peak_bytes, latest[name].frame_bytes
        if peak is not None and size is not None:
            memory = f"| {peak / 1e6:,.0f} MB | {peak / size:.2f} |"
        lines.append(
            f"| {name} | {statistics.median(times):.3f} s ({min(times):.3f} s) "
            f"| {statistics.median(ratios):.2f} {memory}"
        )
    return "\n".join(lines)


def describe_run(server: str, rounds: int) -> str:
    """Say where and how the tables were measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    ).stdout.strip()
    cpu = next(
        line.split(": ")[1]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return (
        f"`make bench` on {datetime.now(UTC):%Y-%m-%d}, commit {commit}: {rounds} rounds in turns; "
        f"{server} on loopback; Python {platform.python_version()}, Polars {pl.__version__}; "
        f"{os.cpu_count()} cores, {cpu}."
    )


def write_page(text: str) -> None:
    """Put the tables between their marks on the page."""
    begin, end = "<!-- compare.py writes from here -->", "<!-- to here -->"
    page = PAGE.read_text()
    head, rest = page.split(begin)
    PAGE.write_text(f"{head}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}")


def main() -> None:
    """Run as a worker, or as the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workload", choices=WORKLOADS, action="append")
    parser.add_argument("--no-page", action="store_true", help="print the tables only")
    parser.add_argument("--worker", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--stream", choices=WORKLOADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.worker, arguments.url, WORKLOADS[arguments.stream])
        return

    from support.server import Server

    subprocess.run(["cargo", "build", "--release", "--example", "drain"], check=True, cwd=ROOT)
    with Server("redis-7.0") as server:
        chosen = [WORKLOADS[name] for name in arguments.workload or WORKLOADS]
        tables = []
        for workload in chosen:
            fill(server.url, workload)
            tables.append(compare(server.url, server.port, workload, arguments.rounds))
        version = ".".join(map(str, server.version))
        text = "\n\n".join([describe_run(f"Redis {version}", arguments.rounds), *tables])
    print(f"\n{text}")
    if not arguments.no_page:
        write_page(text)


if __name__ == "__main__":
    main()
