"""Those who write the same million rows, each as a competent user would.

``python benches/writers.py NAME URL`` writes once and prints the measurement as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
from readers import Measurement, frame_bytes, peak_bytes, reset_peak, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.server import Server

STREAM = "written"
ROWS = 1_000_000
PIPE = "`redis-cli --pipe`, the same XADDs from a file"
_ACTIONS = pl.Series(["click", "view", "purchase"])


def make_frame(rows: int) -> pl.DataFrame:
    """Make rows like the events that the readers read."""
    n = pl.int_range(rows)
    user = pl.format("user_{}_name", (n * 7919 % 50_000).cast(pl.String).str.zfill(6))
    return pl.select(
        user=user,
        action=pl.lit(_ACTIONS).gather(n % 3),
        amount=n * 31 % 100_000,
        score=n * 37 / 100,
        valid=n % 2 == 1,
    )


def write_with_redfloe(url: str, frame: pl.DataFrame) -> None:
    """redfloe's `write_stream`."""
    import redfloe

    ids = redfloe.write_stream(url, frame, STREAM)
    assert ids.null_count() == 0


def write_with_redis_py(url: str, frame: pl.DataFrame) -> None:
    """redis-py with hiredis, pipelines of 10,000 without MULTI."""
    import redis

    with redis.Redis.from_url(url) as client:
        for part in frame.with_columns(pl.col("valid").cast(pl.String)).iter_slices(10_000):
            pipeline = client.pipeline(transaction=False)
            for row in part.iter_rows(named=True):
                pipeline.xadd(STREAM, row)
            pipeline.execute()


#: Polars gives back at once what it no longer needs. Otherwise what making the frame has left over
#: would go while the frame is written, and its going would hide what the write takes.
EXACT_MEMORY = {"_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0"}

WRITERS: dict[str, Callable[[str, pl.DataFrame], None]] = {
    "redfloe `write_stream`": write_with_redfloe,
    "redis-py[hiredis], pipelined": write_with_redis_py,
}


def make_commands(directory: Path, stream: str = STREAM, rows: int = ROWS) -> Path:
    """Write the rows as commands into a file, in the protocol, as redfloe sends them."""
    path = directory / "commands"
    frame = make_frame(rows)
    names = [name.encode() for name in frame.columns]
    texts = frame.with_columns(pl.all().cast(pl.String))
    head = b"*13\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in (b"XADD", stream.encode()))
    head += b"$1\r\n*\r\n"
    fields = [b"$%d\r\n%s\r\n" % (len(name), name) for name in names]
    with path.open("wb") as file:
        for row in texts.iter_rows():
            values = zip(fields, (text.encode() for text in row), strict=True)
            file.write(head + b"".join(b"%s$%d\r\n%s\r\n" % (f, len(v), v) for f, v in values))
    return path


def pipe(program: Path, server: Server, commands: Path) -> float:
    """Feed the commands to redis-cli; give the seconds."""
    started = time.perf_counter()
    with commands.open("rb") as file:
        subprocess.run(
            [program, "-p", str(server.port), "--pipe"],
            stdin=file,
            stdout=subprocess.DEVNULL,
            check=True,
        )
    return time.perf_counter() - started


def measure(name: str, url: str) -> Measurement:
    """Write once. Imports, the connection and the allocator's first steps are not measured."""
    write = WRITERS[name]
    frame = make_frame(ROWS)
    write(url, frame.head(10))
    before = resident_bytes()
    reset_peak()
    started = time.perf_counter()
    write(url, frame)
    seconds = time.perf_counter() - started
    return Measurement(seconds, peak_bytes() - before, frame_bytes(frame))


def compare(server: Server, rounds: int, run: Callable[..., str]) -> dict[str, list[Measurement]]:
    """Let all take turns, each time on an empty server."""
    found: dict[str, list[Measurement]] = {}
    # The program that came with the server, or any other.
    from support.server import BINARIES

    program = BINARIES[server.name].with_name("redis-cli")
    with tempfile.TemporaryDirectory() as directory, server.client() as client:
        commands = make_commands(Path(directory))
        for number in range(rounds):
            for name in (PIPE, *WRITERS):
                client.flushall()
                if name == PIPE:
                    measured = Measurement(pipe(program, server, commands))
                else:
                    output = run(
                        "writers.py", name, server.url, POLARS_MAX_THREADS="2", **EXACT_MEMORY
                    )
                    measured = Measurement(**json.loads(output))
                assert client.xlen(STREAM) in {ROWS, ROWS + 10}
                found.setdefault(name, []).append(measured)
                print(f"write round {number + 1}: {name}: {measured.seconds:.3f} s")
        client.flushall()
    return found


if __name__ == "__main__":
    os.environ["POLARS_MAX_THREADS"] = "2"
    name, url = sys.argv[1:]
    print(json.dumps(asdict(measure(name, url))))
