"""The recipe for databases in `docs/guide/sinks.md`: each row once, whatever dies or stops."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import redis

from redfloe import RedisConnection, reset_processor
from support.consumers import World
from support.processes import hear, python
from support.processors import LANE, NAME, STREAM, Driven, outputs, processor
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, eventually

PAGE = Path(__file__).parents[1] / "docs/guide/sinks.md"
#: The page's function.
[RECIPE] = re.findall(r"(?ms)^```python\n(def add_once.*?)^```$", PAGE.read_text())
TABLES = (
    "CREATE TABLE IF NOT EXISTS numbers (n INTEGER)",
    "CREATE TABLE IF NOT EXISTS positions (name TEXT PRIMARY KEY, position TEXT)",
)

#: A process that dies, or stops, the n-th time that it comes to a step.
WORKER = (
    RECIPE
    + f"""
import signal, sqlite3
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.processors import processor

url, file, step, number, how, options = sys.argv[1:]
number, options = int(number), json.loads(options)
counts = {{}}

def at(name):
    counts[name] = counts.get(name, 0) + 1
    if (name, counts[name]) == (step, number):
        print(json.dumps(name), flush=True)
        os.kill(os.getpid(), getattr(signal, how))

database = sqlite3.connect(file, isolation_level=None, timeout=60)
with processor(url, **options) as made:
    for tx in made:
        at("handed out")
        tx.publish("{{numbers}}:out", tx.frame)
        batch_id = tx.batch_id
        at("named")
        def add():
            at("begun")
            rows = tx.frame.select("n").rows()
            database.executemany("INSERT INTO numbers VALUES (?)", rows[:1])
            at("half written")
            database.executemany("INSERT INTO numbers VALUES (?)", rows[1:])
            at("written")
        add_once(database, {NAME!r}, batch_id, add)
        at("in the database")
        tx.commit()
        at("committed")
print(json.dumps("done"), flush=True)
"""
)

STEPS = ("handed out", "named", "begun", "half written", "written", "in the database", "committed")


def add_once(database: Any, batch_id: str, frame: pl.DataFrame) -> None:
    namespace: dict[str, Any] = {}
    exec(RECIPE, namespace)
    rows = frame.select("n").rows()
    insert = "INSERT INTO numbers VALUES (?)"
    namespace["add_once"](database, NAME, batch_id, lambda: database.executemany(insert, rows))


def opened(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    for table in TABLES:
        database.execute(table)
    return database


def drain(url: Any, database: Any, world: World | None = None, **options: Any) -> None:
    world = world or World(None)
    with Driven(world, processor(url, **options)) as driven:
        for tx in driven:
            tx.publish("{numbers}:out", tx.frame)
            add_once(database, world.do(tx.batch_id), tx.frame)


def check(client: redis.Redis, database: Any, last: int) -> None:
    found = database.execute("SELECT n FROM numbers ORDER BY n").fetchall()
    assert [n for (n,) in found] == [*range(1, last + 1)] == outputs(client)
    assert database.execute("SELECT * FROM positions").fetchall() == [(NAME, f"{last}-0")]


def start(url: str, file: Path, step: tuple[str, int], how: str, **options: Any) -> Any:
    arguments = (str(file), step[0], str(step[1]), how, json.dumps({"batch_size": 2, **options}))
    return python(WORKER, url, *arguments)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_killed_at_a_step(
    any_server: Server, client: redis.Redis, tmp_path: Path, step: str
) -> None:
    add_numbers(client, STREAM, 7)
    database = opened(tmp_path / "sink.db")
    with start(any_server.url, tmp_path / "sink.db", (step, 2), "SIGKILL") as process:
        assert hear(process) == step
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    # What was planned stays one batch, whatever the next one's size is.
    drain(any_server.url, database, takeover=True, batch_size=1)
    check(client, database, 7)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_processes_that_are_killed_at_any_time(
    any_server: Server, client: redis.Redis, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)
    total = 2_000
    add_numbers(client, STREAM, total)
    database = opened(tmp_path / "sink.db")
    for size in (5, 10, 7):
        options: dict[str, Any] = {"batch_size": size, "lease_ms": 50}
        with start(any_server.url, tmp_path / "sink.db", ("", 0), "SIGKILL", **options) as process:
            commits = client.hget(LANE, "commits")
            eventually(lambda: client.hget(LANE, "commits") != commits)  # noqa: B023
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.wait()
        assert client.hget(LANE, "position") != f"{total}-0".encode(), "too slow to be killed"
    drain(any_server.url, database, batch_size=500)
    check(client, database, total)


@pytest.mark.parametrize("step", ["handed out", "named", "in the database"])
def test_a_process_that_was_superseded_writes_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path, step: str
) -> None:
    add_numbers(client, STREAM, 7)
    database = opened(tmp_path / "sink.db")
    with start(any_server.url, tmp_path / "sink.db", (step, 2), "SIGSTOP") as process:
        stopped(process, step)
        drain(any_server.url, database, takeover=True, batch_size=3)
        check(client, database, 7)
        os.kill(process.pid, signal.SIGCONT)
        _, err = process.communicate(timeout=20 * SLACK)
        assert "FencedError" in err or "the rows are up to 7-0, not 2-0" in err
    check(client, database, 7)


def test_a_process_that_was_superseded_and_is_quicker(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """It has the batch in the database before its successor, which has the same entries."""
    add_numbers(client, STREAM, 7)
    database = opened(tmp_path / "sink.db")
    with start(any_server.url, tmp_path / "sink.db", ("named", 2), "SIGSTOP") as process:
        stopped(process, "named")
        with processor(any_server.url, takeover=True, batch_size=10) as made:
            tx = next(made)
            batch_id = tx.batch_id
            os.kill(process.pid, signal.SIGCONT)
            _, err = process.communicate(timeout=20 * SLACK)
            assert "FencedError" in err
            found = database.execute("SELECT max(n) FROM numbers").fetchone()
            assert found == (4,) == (tx.frame["n"].max(),)
            add_once(database, batch_id, tx.frame)
            tx.publish("{numbers}:out", tx.frame)
            for tx in made:
                add_once(database, tx.batch_id, tx.frame)
                tx.publish("{numbers}:out", tx.frame)
    check(client, database, 7)


def stopped(process: subprocess.Popen[str], step: str) -> None:
    assert hear(process) == step
    assert os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT) is not None


def test_a_server_that_has_lost_commits(own: Server, tmp_path: Path, world: World) -> None:
    """Its batches would overlap those that are in the database."""
    client, database = own.client(), opened(tmp_path / "sink.db")
    add_numbers(client, STREAM, 4)
    url = RedisConnection(own.url, retry_base_delay=0.01, retry_max_delay=0.05)
    drain(url, database, world)
    client.save()
    add_numbers(client, STREAM, 8, first=5)
    drain(url, database, world)
    own.kill()
    own.start()
    client = own.client()
    add_numbers(client, STREAM, 6, first=5)
    with pytest.raises(RuntimeError, match="the rows are up to 8-0, not 4-0"):
        drain(url, database, world)
    assert client.hget(LANE, "position") == b"4-0"


def test_a_processor_that_was_reset(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    database = opened(tmp_path / "sink.db")
    add_numbers(client, STREAM, 4)
    drain(any_server.url, database, batch_size=3)
    reset_processor(any_server.url, STREAM, NAME, to="0", state="drop")
    with pytest.raises(RuntimeError, match="the rows are up to 4-0, not 0-0"):
        drain(any_server.url, database, batch_size=3)
    database.execute("DELETE FROM numbers")
    database.execute("DELETE FROM positions")
    client.delete("{numbers}:out")
    drain(any_server.url, database)
    check(client, database, 4)


def test_duckdb(any_server: Server, client: redis.Redis) -> None:
    database = duckdb.connect()
    for table in TABLES:
        database.execute(table)
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, batch_size=2)
    with pytest.raises(ZeroDivisionError), made:  # noqa: PT012
        tx = next(made)
        add_once(database, tx.batch_id, tx.frame)
        raise ZeroDivisionError
    drain(any_server.url, database, batch_size=3)
    check(client, database, 4)
    with pytest.raises(RuntimeError, match="the rows are up to 4-0, not 3-0"):
        add_once(database, "3-0_5-0", pl.DataFrame({"n": [5]}))
    check(client, database, 4)


@pytest.mark.parametrize("entries", [1, 4])
@pytest.mark.parametrize("when", ["after the ID", "in the next process"])
def test_a_batch_with_an_id_is_not_halved(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World, when: str, entries: int
) -> None:
    """It may be in the database as a whole: no entry of it goes to the dead letters."""
    add_numbers(client, STREAM, entries)
    database = opened(tmp_path / "sink.db")
    made = Driven(world, processor(any_server.url, dead_letter="{numbers}:dead"))

    def handle(tx: Any) -> Any:
        if when == "in the next process" and len(tx) == 4:  # before it asks for the ID
            raise ZeroDivisionError
        if world.runner is None:
            fail(tx, tx.batch_id)
            return None

        async def later() -> None:
            fail(tx, await tx.batch_id)

        return later()

    def fail(tx: Any, batch_id: str) -> None:
        add_once(database, batch_id, tx.frame)
        raise ZeroDivisionError

    if when == "in the next process":
        with pytest.raises(ZeroDivisionError), made:  # noqa: PT012
            world.do(next(made).batch_id)
            raise ZeroDivisionError
    is_part = when == "in the next process" and entries > 1
    expected = ValueError if is_part else ZeroDivisionError
    with pytest.raises(expected):
        made.run(handle, attempts=2, retry_base_delay=0)
    assert client.exists("{numbers}:dead") == 0
    assert client.hget(LANE, "position") == b"0-0"
    drain(any_server.url, database, world)
    check(client, database, entries)
