"""Streams of several nodes: reading and writing them at the same time, and a sharded one.

``python benches/nodes.py read|write "URL ..." STREAM...`` does so once and prints the seconds; with
several URLs each has one of the streams, and `shards` reads one sharded stream. The rest is for
`compare.py`, section ``nodes``.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import writers
from workloads import EVENTS, WORKLOADS, fill_with_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.cluster import Cluster
    from support.server import Server

#: Of each stream, of which each node has one.
ROWS = 500_000
#: Of the sharded stream, and how many shards share them evenly.
SHARDED_ROWS = 1_000_000
SHARDS = 8
DRAIN = "as many drain clients at once"
PIPE = "as many `redis-cli --pipe` at once"
ROOT = Path(__file__).resolve().parent.parent


def read(urls: list[str], streams: list[str]) -> float:
    """Read all streams, those of one URL in one call; give the seconds."""
    import redfloe

    def read_at(url: str, of_url: list[str]) -> int:
        return redfloe.read_stream(url, of_url, EVENTS).height

    jobs = [(urls[0], streams)] if len(urls) == 1 else [(u, [s]) for u, s in zip(urls, streams)]  # noqa: B905
    for url, of_url in jobs:
        redfloe.read_stream(url, of_url, EVENTS, count=10)
    started = time.perf_counter()
    with ThreadPoolExecutor(len(jobs)) as pool:
        heights = list(pool.map(lambda job: read_at(*job), jobs))
    seconds = time.perf_counter() - started
    assert sum(heights) == ROWS * len(streams)
    return seconds


def read_shards(urls: list[str], streams: list[str]) -> float:
    """Read a sharded stream by its name; give the seconds."""
    import redfloe

    (url,), (stream,) = urls, streams
    redfloe.read_stream(url, stream, EVENTS, count=10)
    started = time.perf_counter()
    height = redfloe.read_stream(url, stream, EVENTS).height
    seconds = time.perf_counter() - started
    assert height == SHARDED_ROWS
    return seconds


def write(urls: list[str], streams: list[str]) -> float:
    """Write the rows of all streams, those of one URL in one call; give the seconds."""
    import redfloe

    frame = writers.make_frame(ROWS)
    jobs: list[tuple[str, pl.DataFrame, str | pl.Expr]]
    if len(urls) > 1:
        jobs = [(url, frame, stream) for url, stream in zip(urls, streams, strict=True)]
    else:
        several = pl.concat([frame.with_columns(stream=pl.lit(stream)) for stream in streams])
        # Row by row to another node.
        order = pl.int_range(ROWS * len(streams)) % ROWS
        jobs = [(urls[0], several.sort(order, maintain_order=True), pl.col("stream"))]
    for url, rows, stream in jobs:
        redfloe.write_stream(url, rows.head(10), stream)
    started = time.perf_counter()
    with ThreadPoolExecutor(len(jobs)) as pool:
        written = list(pool.map(lambda job: redfloe.write_stream(*job).len(), jobs))
    seconds = time.perf_counter() - started
    assert sum(written) == ROWS * len(streams)
    return seconds


def at_once(commands: list[list[str]], inputs: list[Path] | None = None) -> float:
    """Run programs at the same time; give the seconds until the last has ended."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in inputs or []]
        started = time.perf_counter()
        running = [
            subprocess.Popen(
                command, stdin=files[index] if files else None, stdout=subprocess.DEVNULL
            )
            for index, command in enumerate(commands)
        ]
        assert not any(process.wait() for process in running)
        return time.perf_counter() - started


def own_process(what: str, urls: list[str], streams: list[str]) -> float:
    """Do it in a process of its own."""
    command = [sys.executable, __file__, what, " ".join(urls), *streams]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    output = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return float(output)


def compare(
    what: str, servers: list[Server], urls: list[str], streams: list[str], rounds: int
) -> list[tuple[str, ...]]:
    """Let the contenders take turns on servers of which each has one of the streams."""
    from support.server import BINARIES

    drain = drain_program()
    program = str(BINARIES[servers[0].name].with_name("redis-cli"))
    pairs = list(zip(servers, streams, strict=True))
    with tempfile.TemporaryDirectory() as directory:
        files = []
        for number, stream in enumerate(streams):
            folder = Path(directory) / str(number)
            folder.mkdir()
            files.append(writers.make_commands(folder, stream, ROWS))

        def clear() -> None:
            for server in servers:
                with server.client() as client:
                    client.flushall()

        def piped() -> float:
            clear()
            return at_once([[program, "-p", str(s.port), "--pipe"] for s in servers], files)

        def written() -> float:
            clear()
            return own_process("write", urls, streams)

        def drained() -> float:
            return at_once([[drain, f"127.0.0.1:{s.port}", stream] for s, stream in pairs])

        def fill() -> None:
            clear()
            for server, stream in pairs:
                events = WORKLOADS["events"]
                workload = type(events)(stream, "", ROWS, EVENTS, events.fill)
                with server.client() as client:
                    fill_with_events(client, workload)

        reading: dict[str, Callable[[], float]] = {
            DRAIN: drained,
            "redfloe `read_stream`": lambda: own_process("read", urls, streams),
        }
        writing: dict[str, Callable[[], float]] = {PIPE: piped, "redfloe `write_stream`": written}
        lines: list[tuple[str, ...]] = []
        for contenders in (writing, reading):
            if contenders is reading:
                fill()
            lines += in_turns(what, contenders, rounds)
        return lines


def in_turns(
    what: str, contenders: dict[str, Callable[[], float]], rounds: int
) -> list[tuple[str, ...]]:
    """Let the contenders take turns; give their lines of the table, of which the first is 1."""
    took: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, run in contenders.items():
            took[name].append(run())
            print(f"{what} round {number + 1}: {name}: {took[name][-1]:.3f} s")
    floor = next(iter(took.values()))
    lines: list[tuple[str, ...]] = []
    for name, mine in took.items():
        ratios = [one / other for one, other in zip(mine, floor, strict=True)]
        wall = f"{statistics.median(mine):.3f} s ({min(mine):.3f} s)"
        lines.append((what, name, wall, f"{statistics.median(ratios):.2f}"))
    return lines


@contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Start processes on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def compare_shards(what: str, cluster: Cluster, rounds: int) -> list[tuple[str, ...]]:
    """Compare the read of a sharded stream with a drain client for each of its shards."""
    import redfloe

    stream = "sharded"
    nothing = pl.DataFrame(schema=EVENTS)
    redfloe.write_stream(cluster.url, nothing, stream, shards=SHARDS, shard_by="user")
    shards = list(redfloe.stream_offsets(cluster.url, stream))
    for shard in shards:
        events = WORKLOADS["events"]
        workload = type(events)(shard, "", SHARDED_ROWS // SHARDS, EVENTS, events.fill)
        with cluster.client(shard) as client:
            fill_with_events(client, workload)
    drains = [[drain_program(), cluster.node(shard).address, shard] for shard in shards]
    return in_turns(
        what,
        {
            DRAIN: lambda: at_once(drains),
            "redfloe `read_stream`": lambda: own_process("shards", [cluster.url], [stream]),
        },
        rounds,
    )


def drain_program() -> str:
    """Give the path of examples/drain.rs, built."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return str(target / "release" / "examples" / "drain")


def rows(server: Server, rounds: int) -> list[tuple[str, ...]]:
    """Measure on two servers, and on a cluster of three nodes."""
    from support.cluster import Cluster
    from support.server import Server

    with Server(server.name) as one, Server(server.name) as other:
        lines = compare("two servers", [one, other], [one.url, other.url], ["a", "b"], rounds)
    with Cluster(server.name, replicas=False) as cluster:
        streams = cluster.key_of_each()
        nodes: list[Server] = [cluster.node(stream) for stream in streams]
        lines += compare("a cluster of three nodes", nodes, [cluster.url], streams, rounds)
        lines += compare_shards(f"{SHARDS} shards on a cluster of three nodes", cluster, rounds)
    # Where the nodes need all cores there are, whatever a client does slows them too.
    cores = sorted(os.sched_getaffinity(0))
    half = max(1, len(cores) // 2)
    with ExitStack() as stack:
        with on_cores(cores[:half]):
            cluster = stack.enter_context(Cluster(server.name, replicas=False))
        with on_cores(cores[-half:]):
            lines += compare_shards(
                "the same, nodes and clients on cores of their own", cluster, rounds
            )
    return lines


if __name__ == "__main__":
    os.environ["POLARS_MAX_THREADS"] = "2"
    do = {"read": read, "shards": read_shards, "write": write}[sys.argv[1]]
    print(do(sys.argv[2].split(), sys.argv[3:]))
