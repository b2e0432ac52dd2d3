"""Measure redfloe on engines, beside what one would do there without it.

``make bench-engines`` starts a server of its own, and writes each section's tables in
docs/performance.md. An engine's contenders share one instance of it, which is warm.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from page import describe_run, sections_on_page, table, write_page

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import datasets
import spark
from workloads import WORKLOADS, Workload

from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable

#: For a quick look there are fewer entries, and seconds.
Scale = argparse.Namespace


def filled(server: Server, scale: Scale) -> Workload:
    """Give the events, in the stream."""
    one = WORKLOADS["events"]
    workload = Workload(one.stream, one.title, scale.entries, one.schema, one.fill)
    with server.client() as client:
        client.flushall()
        workload.fill(client, workload)
    return workload


def compared(head: str, measure: str, took: dict[str, list[float]], title: str) -> str:
    """Lay out times, with the ratio of the measure's to each within its round."""
    rows = []
    for name, times in took.items():
        ratios = [theirs / mine for mine, theirs in zip(times, took[measure], strict=True)]
        wall = f"{statistics.median(times):.2f} s ({min(times):.2f} s)"
        rows.append((name, wall, f"{statistics.median(ratios):.1f}"))
    return table(title, (head, "wall, median (best)", "times as fast"), rows)


def spark_reading(server: Server, scale: Scale) -> str:
    """Compare Spark's bounded read with that of redis-py's rows."""
    workload = filled(server, scale)
    session = spark.start()
    took: dict[str, list[float]] = {name: [] for name in spark.READERS}
    for number in range(scale.rounds + 1):
        for name, times in took.items():
            seconds = spark.read(session, server, workload, name)
            print(f"spark round {number}: {name}: {seconds:.2f} s", flush=True)
            if number:  # the first warms the JVM and the workers
                times.append(seconds)
    return compared("read", next(iter(took)), took, f"Spark: {scale.entries:,} entries of 5 fields")


def spark_following(server: Server, scale: Scale) -> str:
    """State how far queries are behind a stream that grows at a fixed rate."""
    session = spark.start()
    rows = []
    for sink, name in (("noop", "to nowhere"), ("redis_stream", "to a stream, exactly once")):
        lag = spark.follow(session, server, scale.seconds, sink)
        print(f"spark {name}: {lag}", flush=True)
        shown = [f"{lag[key]:.1f} s" for key in ("median", "first", "second")]
        rows.append((name, f"{lag['rate']:,.0f}/s", *shown))
    head = ("query", "entries", "behind, median", "most, first half", "most, second half")
    title = f"Spark: {spark.PER_SECOND:,} entries/s for {scale.seconds:g} seconds"
    return table(title, head, rows)


def ray_reading(server: Server, scale: Scale) -> str:
    """Compare Ray's read with that of one process."""
    from support.engines import running_ray

    with running_ray():
        return _reading("Ray Data", datasets.RAY, server, scale)


def archiving(server: Server, scale: Scale) -> str:
    """Compare an archive of all entries with a read of them."""
    return _reading("Archive", datasets.ARCHIVE, server, scale)


def daft_reading(server: Server, scale: Scale) -> str:
    """Compare Daft's read with that of one process."""
    return _reading("Daft", datasets.DAFT, server, scale)


def _reading(engine: str, readers: dict[str, datasets.Reader], server: Server, scale: Scale) -> str:
    workload = filled(server, scale)
    took: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(scale.rounds + 1):
        for name, reader in readers.items():
            seconds = datasets.read(reader, server, workload)
            print(f"{engine} round {number}: {name}: {seconds:.2f} s", flush=True)
            if number:  # the first starts workers
                took[name].append(seconds)
    return compared("read", datasets.ONE, took, f"{engine}: {scale.entries:,} entries of 5 fields")


SECTIONS: dict[str, Callable[[Server, Scale], str]] = {
    "spark": spark_reading,
    "spark_follow": spark_following,
    "archive": archiving,
    # Before Ray is there, on which Daft would run.
    "daft": daft_reading,
    "ray": ray_reading,
}


def main() -> None:
    """Run the comparisons."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--entries", type=int, default=1_000_000, help="fewer for a quick look")
    parser.add_argument("--seconds", type=float, default=60.0, help="fewer for a quick look")
    parser.add_argument("--no-page", action="store_true", help="print the tables only")
    arguments = parser.parse_args()
    with Server("redis-7.0") as server:
        chosen = arguments.section or list(SECTIONS)
        sections = {name: SECTIONS[name](server, arguments) for name in chosen}
        run = describe_run(server, arguments.rounds, "bench-engines")
    print("\n\n".join(["", run, *sections.values()]))
    if not arguments.no_page:
        others = [name for name in sections_on_page() if name not in SECTIONS]
        write_page(run, sections, [*others, *SECTIONS])


if __name__ == "__main__":
    main()
