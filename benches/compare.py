"""Measure redfloe against the floor and against its peers, side by side, in one run.

``make bench`` starts a server of its own, fills its streams, lets the contenders take turns for
some rounds, each in a process of its own, and writes the tables in docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import calls
import hot
import latency
import messages
import nodes
import processor
import tables
import writers
from page import describe_run, table, write_page
from readers import (
    BOUNDED,
    CONSUMERS,
    PAYLOAD_STREAMS,
    PAYLOADS,
    QUERIES,
    RECOVERING,
    SOME,
    SPREADING,
    Measurement,
    available,
)
from summary import ROOT
from workloads import SPREAD, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.server import Server

HERE = Path(__file__).resolve().parent
FLOOR = "floor (pages, drops every byte)"


def run(script: str, *arguments: str | int, **environment: str) -> str:
    """Run a script of this folder in a process of its own; give what it prints."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ).stdout


def run_reader(name: str, server: Server, workload: Workload) -> Measurement:
    """Read in a process of its own, so that its peak of memory is the reader's."""
    output = run("readers.py", name, server.url, workload.stream, POLARS_MAX_THREADS="2")
    return Measurement(**json.loads(output))


def run_floor(server: Server, workload: Workload, *of_group: str) -> Measurement:
    """Run examples/drain.rs: on the stream, or as the member of a group."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    drain = target / "release" / "examples" / "drain"
    command = [str(drain), f"127.0.0.1:{server.port}", workload.stream, *of_group]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Measurement(float(output.split()[2]))


def filled(server: Server, stream: str) -> Workload:
    """Give the workload, its stream filled."""
    workload = WORKLOADS[stream]
    with server.client() as client:
        if not client.exists(stream):
            workload.fill(client, workload)
        assert client.xlen(stream) == workload.entries
    return workload


# The tables


def reading(stream: str) -> Callable[[Server, int], str]:
    """Make the comparison of whole reads of a stream with the floor."""

    def compare(server: Server, rounds: int) -> str:
        workload = filled(server, stream)
        seconds: dict[str, list[float]] = {}
        latest: dict[str, Measurement] = {}
        for number in range(rounds):
            for name in [FLOOR, *available()]:
                measured = (
                    run_floor(server, workload)
                    if name == FLOOR
                    else run_reader(name, server, workload)
                )
                note(f"{stream} round {number + 1}: {name}", measured, seconds, latest)
        rows = []
        for name, times in seconds.items():
            memory = ("", "")
            peak, size = latest[name].peak_bytes, latest[name].frame_bytes
            if peak is not None and size is not None:
                memory = f"{peak / 1e6:,.0f} MB", f"{peak / size:.2f}"
            rows.append((name, *walls(times, seconds[FLOOR]), *memory))
        head = ("reader", "wall, median (best)", "ratio to the floor", "peak memory")
        return table(workload.title, (*head, "ratio to the frame"), rows)

    return compare


def querying(server: Server, rounds: int) -> str:
    """Compare queries of a part of a stream with the read of all of it."""
    workload = filled(server, "events")
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    for number in range(rounds):
        for name in QUERIES:
            measured = run_reader(name, server, workload)
            note(f"queries round {number + 1}: {name}", measured, seconds, latest)
    full = seconds[next(iter(QUERIES))]
    rows = [
        (name, *walls(times, full), f"{(latest[name].peak_bytes or 0) / 1e6:,.0f} MB")
        for name, times in seconds.items()
    ]
    head = ("query", "wall, median (best)", "ratio to `read_stream`", "peak memory")
    return table(f"Parts of {workload.title}", head, rows)


def spreading(server: Server, rounds: int) -> str:
    """Compare reads of many streams with that of one which has the same entries."""
    one, many = filled(server, "events"), WORKLOADS["spread"]
    with server.client() as client:
        if not client.exists(f"{many.stream}:00000"):
            many.fill(client, many)
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    measure = next(iter(SPREADING))
    for number in range(rounds):
        for name in SPREADING:
            measured = run_reader(name, server, one if name == measure else many)
            note(f"spread round {number + 1}: {name}", measured, seconds, latest)
    with server.client() as client:
        client.delete(*(f"{many.stream}:{number:05}" for number in range(SPREAD)))
    rows = [
        (name, *walls(times, seconds[measure]), f"{(latest[name].peak_bytes or 0) / 1e6:,.0f} MB")
        for name, times in seconds.items()
    ]
    head = ("read", "wall, median (best)", "ratio to one stream", "peak memory")
    return table(many.title, head, rows)


def unpacking(server: Server, rounds: int) -> str:
    """Compare reads of documents with that of the same values as flat fields."""
    streams = {name: filled(server, PAYLOAD_STREAMS.get(name, "documents")) for name in PAYLOADS}
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    measure = next(iter(PAYLOADS))
    for number in range(rounds):
        for name in PAYLOADS:
            measured = run_reader(name, server, streams[name])
            note(f"payloads round {number + 1}: {name}", measured, seconds, latest)
    rows = [
        (name, *walls(times, seconds[measure]), f"{(latest[name].peak_bytes or 0) / 1e6:,.0f} MB")
        for name, times in seconds.items()
    ]
    head = ("read", "wall, median (best)", "ratio to flat fields", "peak memory")
    return table("1,000,000 documents of 5 keys", head, rows)


def consuming(server: Server, rounds: int) -> str:
    """Compare reads through a group, acknowledged, with the floor of the same commands."""
    workload = filled(server, "events")
    floor = "floor (the same commands, drops every byte but the IDs)"
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    for number in range(rounds):
        for name in (floor, *CONSUMERS):
            if name == floor:
                group = f"floor-{number}"
                with server.client() as client:
                    client.xgroup_create(workload.stream, group, id="0")
                    measured = run_floor(server, workload, group, "10000")
                    client.xgroup_destroy(workload.stream, group)
            else:
                measured = run_reader(name, server, workload)
                if name == list(CONSUMERS)[-1]:
                    measured = Measurement(measured.seconds * workload.entries / SOME)
            note(f"groups round {number + 1}: {name}", measured, seconds, latest)
    rows = []
    for name, times in seconds.items():
        peak = latest[name].peak_bytes
        memory = "" if peak is None else f"{peak / 1e6:,.0f} MB"
        rows.append((name, *walls(times, seconds[floor]), memory))
    head = ("consumer", "wall, median (best)", "ratio to the floor", "peak memory")
    title = f"{workload.title}, through a group in batches of 10,000, acknowledged"
    return table(title, head, rows)


#: Delivers all entries to a worker that dies.
DELIVER = """
while true do
    local reply = redis.call(
        'XREADGROUP', 'GROUP', 'recover', 'worker', 'COUNT', 10000, 'STREAMS', KEYS[1], '>')
    if not reply or #reply == 0 then return end
end
"""


def recovering(server: Server, rounds: int) -> str:
    """Compare a worker that starts with everything pending with one that reads new entries."""
    workload = filled(server, "events")
    seconds: dict[str, list[float]] = {}
    latest: dict[str, Measurement] = {}
    fresh = next(iter(CONSUMERS))
    for number in range(rounds):
        for name in (fresh, *RECOVERING):
            with server.client() as client:
                if name != fresh:
                    client.xgroup_create(workload.stream, "recover", id="0")
                    client.eval(DELIVER, 1, workload.stream)
                measured = run_reader(name, server, workload)
                client.xgroup_destroy(workload.stream, "recover")
            note(f"pending round {number + 1}: {name}", measured, seconds, latest)
    rows = [(name, *walls(times, seconds[fresh])) for name, times in seconds.items()]
    head = ("consumer", "wall, median (best)", "ratio to new entries")
    return table(f"{workload.title}, all of them pending", head, rows)


def streaming(server: Server, rounds: int) -> str:
    """State the memory of reads of a stream that is larger than they are allowed to become."""
    del rounds  # minutes each, and it is the memory that counts
    workload = filled(server, "many")
    rows = []
    for name in BOUNDED:
        measured = run_reader(name, server, workload)
        note(f"many: {name}", measured, {}, {})
        peak = (measured.peak_bytes or 0) / 1e6
        rows.append((name, f"{measured.seconds:.1f} s", f"{peak:,.0f} MB"))
    with server.client() as client:
        client.delete(workload.stream)
    return table(workload.title, ("query", "wall", "peak memory"), rows)


def following(server: Server, rounds: int) -> str:
    """Compare how soon an entry is seen."""
    took: dict[str, list[tuple[float, float]]] = {}
    for number in range(rounds):
        for name in latency.FOLLOWERS:
            with server.client() as client:
                client.delete(latency.STREAM)
            writer = subprocess.Popen(
                [sys.executable, str(HERE / "latency.py"), "writer", str(server.port)]
            )
            microseconds = json.loads(run("latency.py", name, server.port))
            writer.wait()
            found = tuple(microseconds[int(len(microseconds) * part)] for part in (0.5, 0.99))
            took.setdefault(name, []).append((found[0], found[1]))
            print(f"latency round {number + 1}: {name}: {found[0]:.0f} us, {found[1]:.0f} us")
    rows = []
    for name, pairs in took.items():
        measure = took[latency.FOLLOWERS[name][1]]
        cells = []
        for part in (0, 1):
            mine, theirs = [pair[part] for pair in pairs], [pair[part] for pair in measure]
            ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
            cells += [f"{statistics.median(mine):.0f} µs", f"{statistics.median(ratios):.2f}"]
        rows.append((name, *cells))
    return table(
        f"From XADD to a reader that follows, at {latency.PER_SECOND:,} entries/s",
        ("follower", "p50", "ratio to redis-py", "p99", "ratio to redis-py"),
        rows,
    )


def writing(server: Server, rounds: int) -> str:
    """Compare writes of a frame with what the server can take."""
    found = writers.compare(server, rounds, run)
    measure = [one.seconds for one in found[writers.PIPE]]
    rows = []
    for name, measured in found.items():
        peak, size = measured[-1].peak_bytes, measured[-1].frame_bytes
        memory = ("", "")
        if peak is not None and size is not None:
            memory = f"{peak / 1e6:,.0f} MB", f"{size / 1e6:,.0f} MB"
        rows.append((name, *walls([one.seconds for one in measured], measure), *memory))
    head = ("writer", "wall, median (best)", "ratio to `redis-cli`", "peak memory", "the frame's")
    return table(f"Writing {writers.ROWS:,} rows of 5 fields", head, rows)


def calling(server: Server, rounds: int) -> str:
    """Compare small calls on a connection that is open, p50."""
    took: dict[str, list[float]] = {}
    for number in range(rounds):
        medians = json.loads(run("calls.py", server.url, calls.TURNS, POLARS_MAX_THREADS="2"))
        for name, microseconds in medians.items():
            took.setdefault(name, []).append(microseconds)
            print(f"calls round {number + 1}: {name}: {microseconds:.0f} us")
    rows = []
    for name, mine in took.items():
        theirs = took[calls.CALLS[name]]
        ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
        rows.append((name, f"{statistics.median(mine):.0f} µs", f"{statistics.median(ratios):.2f}"))
    return table("Small calls, on an open connection", ("call", "p50", "ratio to redis-py"), rows)


def heating(server: Server, rounds: int) -> str:
    """Compare what the server works while many streams are followed with what it does for one."""
    head = ("followed", "server, per second", "ratio to one", "without the entries themselves")
    title = f"{hot.STREAMS:,} streams followed, of which one gets {latency.PER_SECOND:,} entries/s"
    return table(title, head, hot.rows(server, rounds))


def scattering(server: Server, rounds: int) -> str:
    """Compare streams of several nodes with as many plain clients."""
    head = ("on", "what", "wall, median (best)", "ratio to the clients")
    title = f"Streams of several nodes at the same time, {nodes.ROWS:,} entries on each"
    title += f" ({nodes.SHARDED_ROWS:,} in all shards)"
    return table(title, head, nodes.rows(server, rounds))


def keeping(server: Server, rounds: int) -> str:
    """State what a table of a processor costs, by its size."""
    head = ("part", *(f"{keys:,} keys" for keys in tables.SIZES))
    title = f"A table of a processor: its load, and a commit of {tables.TOUCHED:,} rows"
    return table(title, head, tables.rows(server, rounds))


def processing(server: Server, rounds: int, entries: int = 1_000_000) -> str:
    """Compare a processor with a client that sends the same commands, and with a peer."""
    title = f"{entries:,} entries of 2 fields, exactly once, in batches of {processor.BATCH:,}"
    measures = ("time, ratio to the floor", "rate, ratio to at least once")
    more = ("to the peer", "to positions alone")
    head = ("processor", "entries/s, median (best)", *measures, *more)
    return table(title, head, processor.rows(server, rounds, entries))


def messaging(server: Server, rounds: int) -> str:
    """Compare publishing and handling messages with what others do one by one."""
    measured = messages.rows(server, rounds, run)
    rates = {name: of_rounds for name, _, of_rounds in measured}
    rows = []
    for name, contender, mine in measured:
        pairs = zip(mine, rates[contender.against], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        rows.append((name, f"{statistics.median(mine):,.0f}/s", f"{ratio:.2f}"))
    head = ("contender", "messages", "speed, ratio to redis-py's")
    return table("Messages: models of 5 fields", head, rows)


def importing(server: Server, rounds: int) -> str:
    """State what `import redfloe` costs beyond `import polars`."""
    del server
    script = (
        "import time, polars; start = time.perf_counter(); import redfloe; redfloe.read_stream; "
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", script]
    seconds = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(max(rounds, 5))
    ]
    cells = f"{1000 * statistics.median(seconds):.0f} ms", f"{1000 * min(seconds):.0f} ms"
    return table("Import", ("beyond `import polars`", "median", "best"), [("redfloe", *cells)])


SECTIONS: dict[str, Callable[[Server, int], str]] = {
    "events": reading("events"),
    "flights": reading("flights"),
    "queries": querying,
    "payload": unpacking,
    "groups": consuming,
    "spread": spreading,
    "pending": recovering,
    "many": streaming,
    "latency": following,
    "hot": heating,
    "nodes": scattering,
    "calls": calling,
    "write": writing,
    "tables": keeping,
    "messages": messaging,
    "process": processing,
    "import": importing,
}


# Writing them down


def note(
    what: str,
    measured: Measurement,
    seconds: dict[str, list[float]],
    latest: dict[str, Measurement],
) -> None:
    """Keep a measurement, and show that something happens."""
    name = what.partition(": ")[2]
    seconds.setdefault(name, []).append(measured.seconds)
    latest[name] = measured
    print(f"{what}: {measured.seconds:.3f} s")


def walls(times: list[float], measure: list[float]) -> tuple[str, str]:
    """Give the wall time, and its ratio to the measure's.

    Each round's ratio is taken within the round: what slows the machine slows both.
    """
    ratios = [mine / theirs for mine, theirs in zip(times, measure, strict=True)]
    wall = f"{statistics.median(times):.3f} s ({min(times):.3f} s)"
    return wall, f"{statistics.median(ratios):.2f}"


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--section", choices=SECTIONS, action="append")
    parser.add_argument("--entries", type=int, help="fewer for a quick look (process)")
    parser.add_argument("--no-page", action="store_true", help="print the tables only")
    arguments = parser.parse_args()

    sys.path.insert(0, str(ROOT / "tests"))
    from support.server import Server

    subprocess.run(["cargo", "build", "--release", "--example", "drain"], check=True, cwd=ROOT)
    with Server("redis-7.0") as server:
        chosen = arguments.section or list(SECTIONS)
        sections = {
            name: processing(server, arguments.rounds, arguments.entries)
            if name == "process" and arguments.entries
            else SECTIONS[name](server, arguments.rounds)
            for name in chosen
        }
        run = describe_run(server, arguments.rounds)
    print("\n\n".join(["", run, *sections.values()]))
    if not arguments.no_page:
        write_page(run, sections, SECTIONS)


if __name__ == "__main__":
    main()
