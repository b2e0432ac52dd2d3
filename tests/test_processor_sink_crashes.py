"""Parquet sinks of processors whose process dies, is stopped, or is superseded: each row once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

from support.consumers import World
from support.lakes import check, drain, lake, read, work
from support.processes import hear, python
from support.processors import LANE, STREAM, processor
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, eventually

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}

#: A process that dies, or stops, the n-th time that it comes to a step.
WORKER = f"""
import signal
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from redfloe._processing.staging import Staging
from support.consumers import World
from support.lakes import lake, work

url, path, step, number, how, options = sys.argv[1:]
path, number, options = Path(path), int(number), json.loads(options)
counts = {{}}

def at(name):
    counts[name] = counts.get(name, 0) + 1
    if (name, counts[name]) == (step, number):
        print(json.dumps(name), flush=True)
        os.kill(os.getpid(), getattr(signal, how))

rename, settle = Path.rename, Staging.settle

def moving(self, target):
    at("moving")
    return rename(self, target)

def settling(self, *arguments):
    at("settling")
    settle(self, *arguments)
    at("settled")

Path.rename, Staging.settle = moving, settling
if "max_retries" in options:
    url = redfloe.RedisConnection(url, max_retries=options.pop("max_retries"))
made, sink = lake(url, path, **options)
write = sink._write_parquet

def writing(frame, file):
    at("writing")
    write(frame, file)
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2])
    at("torn")
    file.write_bytes(content)

sink._write_parquet = writing
with made:
    for tx in made:
        at("before write")
        work(World(None), sink, tx)
        at("written aside")
        try:
            tx.commit()
        except redfloe.OutcomeUnknownError:
            os.kill(os.getpid(), signal.SIGKILL)
        at("committed")
at("left")
print(json.dumps("done"), flush=True)
"""

#: Each batch has two files, so "moving" comes four times in each: the list gets its name, which is
#: still before the commit; then the files, and the marker. After the last batch there is nothing
#: left to read.
STEPS = [
    ("settling", 1),
    ("settled", 1),
    ("before write", 2),
    ("writing", 3),
    ("torn", 3),
    ("writing", 4),
    ("torn", 4),
    ("written aside", 2),
    ("moving", 5),
    ("moving", 6),
    ("moving", 7),
    ("moving", 8),
    ("committed", 2),
    ("moving", 14),
    ("moving", 15),
    ("moving", 16),
    ("left", 1),
]


def start(url: str, path: Path, step: tuple[str, int], how: str, **options: Any) -> Any:
    arguments = (str(path), step[0], str(step[1]), how, json.dumps({"batch_size": 2, **options}))
    return python(WORKER, url, *arguments)


def hear_stop(process: subprocess.Popen[str], step: str) -> None:
    """Wait until it has stopped at the step."""
    assert hear(process) == step
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT) is not None


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]} {step[1]}")
def test_a_process_that_is_killed_at_a_step(
    any_server: Server, client: redis.Redis, tmp_path: Path, step: tuple[str, int]
) -> None:
    add_numbers(client, STREAM, 8)
    path = tmp_path / "lake"
    with start(any_server.url, path, step, "SIGKILL") as process:
        assert hear(process) == step[0]
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    before = read(path).rows() if path.exists() else []
    drain(any_server.url, path, takeover=True, batch_size=3)
    check(client, path, 8)
    # What readers have seen stays as it was.
    assert set(before) <= set(read(path).rows())


def test_a_process_that_is_killed_when_the_reply_to_its_commit_is_lost(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 4)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    path = tmp_path / "lake"
    with Proxy(any_server.port) as proxy:
        options: dict[str, Any] = {"max_retries": 0, "lease_ms": 60_000}
        with start(proxy.url, path, ("written aside", 1), "SIGSTOP", **options) as process:
            hear_stop(process, "written aside")
            proxy.cut_after(0, once_seen=b"EVALSHA")
            os.kill(process.pid, signal.SIGCONT)
            assert process.wait(20 * SLACK) == -signal.SIGKILL
    assert client.hget(LANE, "position") == b"2-0"
    assert read(path).is_empty()
    drain(any_server.url, path, takeover=True)
    check(client, path, 4)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_processes_that_are_killed_at_any_time(
    any_server: Server, client: redis.Redis, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    total = 2_000
    add_numbers(client, STREAM, total)
    path, seen = tmp_path / "lake", 0
    for _ in range(3):
        options: dict[str, Any] = {"batch_size": 10, "lease_ms": 50}
        with start(any_server.url, path, ("never", 0), "SIGKILL", **options) as process:
            commits = client.hget(LANE, "commits")
            eventually(lambda: client.hget(LANE, "commits") != commits)  # noqa: B023
            end = time.monotonic() + chance.uniform(0, 0.05)
            while time.monotonic() < end:
                # As readers see it meanwhile.
                if seen:
                    pl.scan_parquet(path / "**/*.parquet").select("n").collect()
                height = read(path).height
                assert height >= seen
                seen = height
            process.kill()
            process.wait()
        assert client.hget(LANE, "position") != f"{total}-0".encode(), "too slow to be killed"
    drain(any_server.url, path, batch_size=1_000)
    check(client, path, total)


@pytest.mark.parametrize(
    "step",
    [
        *(("before write", 2), ("writing", 4), ("torn", 4), ("written aside", 2)),
        *(("moving", 5), ("moving", 6), ("moving", 7), ("moving", 8)),
    ],
    ids=lambda step: f"{step[0]} {step[1]}",
)
def test_a_process_that_was_superseded_changes_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path, step: tuple[str, int]
) -> None:
    """Its handler gives other rows for the same batch than that of its successor."""
    add_numbers(client, STREAM, 8)
    path = tmp_path / "lake"
    with start(any_server.url, path, step, "SIGSTOP") as process:
        hear_stop(process, step[0])
        drain(any_server.url, path, takeover=True, batch_size=3)
        check(client, path, 8)
        os.kill(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=20 * SLACK)
        assert "FencedError" in err
    drain(any_server.url, path)  # which clears away what it left
    check(client, path, 8)


@pytest.mark.parametrize("commits", [True, False])
def test_one_that_was_superseded_while_it_settles(
    any_server: Server, client: redis.Redis, tmp_path: Path, commits: bool
) -> None:
    """It must not take its successor's files for what a crash left."""
    add_numbers(client, STREAM, 4)
    path = tmp_path / "lake"
    drain(any_server.url, path)
    add_numbers(client, STREAM, 8, first=5)
    with start(any_server.url, path, ("settling", 1), "SIGSTOP") as process:
        hear_stop(process, "settling")
        made, sink = lake(any_server.url, path, takeover=True, batch_size=2)
        with made:
            work(SYNC, sink, next(made))
            if commits:
                work(SYNC, sink, next(made))
            os.kill(process.pid, signal.SIGCONT)
            _, err = process.communicate(timeout=20 * SLACK)
            assert "FencedError" in err
            for tx in made:
                work(SYNC, sink, tx)
    check(client, path, 8)


def test_two_processes_of_one_name(any_server: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, STREAM, 40)
    path = tmp_path / "lake"
    with (
        start(any_server.url, path, ("never", 0), "SIGKILL") as one,
        start(any_server.url, path, ("never", 0), "SIGKILL") as other,
    ):
        assert hear(one) == hear(other) == "done"
    check(client, path, 40)


def test_a_standby_moves_what_was_committed_although_no_entry_comes(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 4)
    path = tmp_path / "lake"
    with start(any_server.url, path, ("moving", 6), "SIGKILL", lease_ms=100) as process:
        assert hear(process) == "moving"
    assert read(path)["n"].to_list() == [1, 2]
    made, sink = lake(any_server.url, path, on_idle="wait", lease_ms=100)
    ended = made.start(lambda tx: work(SYNC, sink, tx))
    eventually(lambda: read(path).height == 4)
    made.stop()
    ended.result(10 * SLACK)
    check(client, path, 4)
