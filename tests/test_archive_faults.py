"""Archivers that are killed, at each step and at any time, while others read: each entry once."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Self

import pytest
import redis

import redfloe
from redfloe._lake.folder import Folder
from support.archives import DAY, HOUR, archive, files, numbers, read
from support.outages import outage
from support.processes import hear, python
from support.server import Server
from support.streams import NUMBER, add, add_numbers
from support.timing import SLACK

#: Each file has these, in this order; a process dies the n-th time that it comes to one.
STEPS = ["writing", "torn", "syncing", "making", "moving", "moved"]
WORKER = """
import signal
from pathlib import Path
import polars as pl
from redfloe._lake import folder

url, path, step, number = sys.argv[1:]
counts = {}

def at(name):
    counts[name] = counts.get(name, 0) + 1
    if (name, counts[name]) == (step, int(number)):
        os.kill(os.getpid(), signal.SIGKILL)

def before(name, act, and_then=None):
    def acting(*arguments, **options):
        at(name)
        done = act(*arguments, **options)
        if and_then:
            at(and_then)
        return done
    return acting

write = pl.DataFrame.write_parquet

def writing(frame, file, **options):
    at("writing")
    write(frame, file, **options)
    content = file.read_bytes()
    file.write_bytes(content[:len(content) // 2])
    at("torn")
    file.write_bytes(content)

pl.DataFrame.write_parquet = writing
folder.sync = before("syncing", folder.sync)
folder.make_directory = before("making", folder.make_directory)
Path.rename = before("moving", Path.rename, and_then="moved")
redfloe.archive(
    url, "s", {"n": pl.Int64}, to=path, max_rows=3, until="now", block_ms=20, partition_by="hour"
)
print(json.dumps("done"), flush=True)
"""


def start(url: str, path: Path, step: str = "", number: int = 0) -> Any:
    return python(WORKER, url, str(path), step, str(number))


def fill(client: redis.Redis) -> None:
    """Ten entries of two hours; a batch of three has two files."""
    ids = [f"{DAY + n * HOUR // 5}-0" for n in range(10)]
    add(client, "s", ((entry, {"n": n}) for n, entry in enumerate(ids)))


@pytest.mark.parametrize("step", STEPS)
def test_one_that_is_killed_at_a_step(
    any_server: Server, client: redis.Redis, tmp_path: Path, step: str
) -> None:
    """Of the third file, the second of its batch."""
    fill(client)
    number = 3
    # Each file is synced, and then its folder; the directory's own is made first.
    times = {"syncing": 2 * number - 1, "making": number + 1}.get(step, number)
    with start(any_server.url, tmp_path, step, times) as process:
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    whole = number - (step != "moved")
    before = files(tmp_path)
    assert len(before) == whole
    assert numbers(tmp_path) == [*range(10)][: len(numbers(tmp_path))]
    archive(any_server.url, tmp_path, max_rows=4, partition_by="hour")
    assert numbers(tmp_path) == [*range(10)]
    # What readers have seen stays as it was, and nothing is left over.
    assert files(tmp_path)[:whole] == before
    assert [entry.name for entry in (tmp_path / "_redfloe").iterdir()] == ["lock"]


class Reader:
    """Reads all there is again and again: whole files, no entry twice, none missing before one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.failure: BaseException | None = None
        self.reads = 0

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                found = numbers(self._path)
                assert found == [*range(1, len(found) + 1)]
                self.reads += 1
        except BaseException as error:  # noqa: BLE001 -- the test's thread raises it
            self.failure = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure


ENDLESS = """
import polars as pl
redfloe.archive(
    sys.argv[1], "s", {"n": pl.Int64}, to=sys.argv[2], every="2ms", block_ms=20, max_rows=7
)
"""


def test_one_that_is_killed_at_any_time(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Also while it starts, and by SIGTERM and Ctrl-C, which leave the file in hand out."""
    chance = random.Random(15)
    path, last = tmp_path / "lake", 0
    with Reader(path) as reader:
        for number in range(3):
            command = (ENDLESS, any_server.url, str(path))
            with python(*command) as process:
                begun = len(files(path))
                ends = time.monotonic() + 10 * SLACK
                while len(files(path)) < begun + 3 and time.monotonic() < ends:
                    last += add_numbers(client, "s", last + 5, first=last + 1)
                    time.sleep(0.002)
                time.sleep(chance.uniform(0, 0.02))
                how = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT][number]
                process.send_signal(how)
                assert process.wait(10 * SLACK) != 0
    assert reader.reads > 0
    archive(any_server.url, path)
    assert numbers(path) == [*range(1, last + 1)]


def test_one_that_is_stopped_keeps_others_away(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """And lets them in when it is gone, whatever ended it."""
    add_numbers(client, "s", 3)
    with python(ENDLESS, any_server.url, str(tmp_path)) as process:
        _wait_for_files(process, tmp_path)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(redfloe.FencedError, match="another archiver"):
            archive(any_server.url, tmp_path)
        process.kill()
        process.wait()
        add_numbers(client, "s", 5, first=4)
        assert archive(any_server.url, tmp_path).entries == 2


def _wait_for_files(process: subprocess.Popen[str], path: Path) -> None:
    ends = time.monotonic() + 10 * SLACK
    while not files(path):
        assert process.poll() is None
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.mark.parametrize("step", ["write", "sync", "rename"])
def test_a_disk_that_fails(
    any_server: Server,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    add_numbers(client, "s", 9)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    commit = Folder.commit

    def commit_or_fail(self: Folder, stream: bytes, after: str, name: str, write: Any) -> None:
        if name.endswith("/4-0_6-0.parquet"):
            if step == "write":
                write = full
            elif step == "sync":
                monkeypatch.setattr("redfloe._lake.folder.sync", full)
            else:
                monkeypatch.setattr(Path, "rename", full)
        commit(self, stream, after, name, write)

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "commit", commit_or_fail)
        with pytest.raises(OSError, match="No space left"):
            archive(any_server.url, tmp_path, max_rows=3)
        monkeypatch.undo()
    assert numbers(tmp_path) == [1, 2, 3]
    assert [entry.name for entry in (tmp_path / "_redfloe").iterdir()] == ["lock"]
    assert archive(any_server.url, tmp_path).entries == 6
    assert numbers(tmp_path) == [*range(1, 10)]


TELLING = """
import polars as pl
from redfloe._lake.folder import Folder

commit = Folder.commit

def committing(*arguments):
    commit(*arguments)
    print(json.dumps(arguments[3]), flush=True)
    sys.stdin.readline()

Folder.commit = committing
url = redfloe.RedisConnection(sys.argv[1], retry_base_delay=0.005, retry_max_delay=0.02)
options = {"to": sys.argv[2], "every": "1ms", "trim_after": "1h"}
if sys.argv[3] == "sync":
    redfloe.archive(url, "s", {"n": pl.Int64}, **options)
else:
    asyncio.run(redfloe.archive_async(url, "s", {"n": pl.Int64}, **options))
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_server_that_is_away_after_a_file(own: Server, tmp_path: Path, kind: str) -> None:
    """Longer than the retries of bounded calls take: an archive waits for it, as readers do."""
    add_numbers(own.client(), "s", 3)
    with python(TELLING, own.url, str(tmp_path), kind) as process:
        assert hear(process) == "date=1970-01-01/1-0_3-0.parquet"
        assert process.stdin is not None
        with outage(own, 4):
            process.stdin.write("\n")
            process.stdin.flush()
            hear(process)
    assert numbers(tmp_path) == [1, 2, 3, 4]


def test_a_lost_connection_and_a_restarted_archiver(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    with python(ENDLESS, any_server.url, str(tmp_path)) as process:
        for last in range(5, 105, 5):
            add_numbers(client, "s", last, first=last - 4)
            client.client_kill_filter(_type="normal", skipme=True)
        ends = time.monotonic() + 10 * SLACK
        while len(numbers(tmp_path)) < 100:
            assert process.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.01)
    assert numbers(tmp_path) == [*range(1, 101)]
    assert archive(any_server.url, tmp_path, schema=NUMBER).entries == 0
    assert read(tmp_path).height == 100
