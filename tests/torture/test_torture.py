"""Minutes of fire, by `make torture`: killed, frozen and cut off workers, servers that restart.

Each server is attacked for REDFLOE_TORTURE_SECONDS (60); REDFLOE_TORTURE_SEED repeats the chances
of a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import polars as pl
import pytest
import redis

from redfloe import write_stream
from support.processes import python
from support.proxy import Proxy
from support.server import BINARIES, Server
from support.timing import eventually

SECONDS = float(os.environ.get("REDFLOE_TORTURE_SECONDS", "60"))
SEED = int(os.environ.get("REDFLOE_TORTURE_SEED") or random.randrange(2**32))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(8 * SECONDS + 300)]

#: The handler raises for these, each time.
RAISES = 997
#: These end the process that handles them, each time.
KILLS = 4_999
#: Far more than the fire alone can make of an entry that is not poison.
MAX_DELIVERIES = 12

#: Notes each entry that it has processed, and ends at a signal. `world` is "sync" or "async".
WORKER = """
import signal, polars as pl

url, path, name, world = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
poison = {"raises": 997, "kills": 4_999}

def handle(batch):
    numbers = batch.frame["n"].to_list()
    assert batch.frame["text"].to_list() == [f"entry {n}" for n in numbers]
    if any(n % poison["kills"] == 0 for n in numbers):
        os.kill(os.getpid(), signal.SIGKILL)
    if any(n % poison["raises"] == 0 for n in numbers):
        raise ValueError("poison")
    time.sleep(0.0002 * len(numbers))
    os.write(log, json.dumps(numbers).encode() + b"\\n")

async def handle_async(batch):
    handle(batch)
    await asyncio.sleep(0)

while True:
    consumer = redfloe.StreamConsumer(
        redfloe.RedisConnection(url, max_retries=2, response_timeout=3, connect_timeout=2),
        "s", "g", name, schema={"n": pl.Int64, "text": pl.String}, batch_size=50,
        batch_bytes=3_000, block_ms=100, reclaim_min_idle_ms=1_500, reclaim_interval_ms=200,
        max_deliveries=12, dead_letter="dead", handle_signals=True,
    )
    try:
        if world == "sync":
            consumer.run(handle, attempts=1)
        else:
            asyncio.run(consumer.run_async(handle_async, attempts=1))
        break
    except redfloe.RedfloeError as error:
        print(json.dumps(repr(error)), file=sys.stderr, flush=True)
        time.sleep(0.1)
"""


class Crew:
    """Workers of fixed names; one that dies is replaced by another of its name."""

    NAMES = ("sync-1", "sync-2", "async-1", "async-2")

    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory
        self._stack = contextlib.ExitStack()
        self._alive: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self.deaths: Counter[str] = Counter()
        self.closing = False

    def hire(self) -> None:
        """Replace those who died."""
        with self._lock:
            for name in self.NAMES:
                process = self._alive.get(name)
                if self.closing or (process is not None and process.poll() is None):
                    continue
                if process is not None:
                    self.deaths[str(process.returncode)] += 1
                args = (self._url, str(self._directory / f"{name}.log"), name, name.split("-")[0])
                self._alive[name] = self._stack.enter_context(python(WORKER, *args))

    def signal(self, name: str, number: signal.Signals) -> None:
        with self._lock:
            process = self._alive[name]
            if process.poll() is None:
                process.send_signal(number)

    def dismiss(self) -> None:
        with self._lock:
            self.closing = True
            for process in self._alive.values():
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            for process in self._alive.values():
                process.wait(timeout=30)

    def processed(self) -> Counter[int]:
        """Count how often each number was processed; a line that a kill cut short never counts."""
        numbers: Counter[int] = Counter()
        for path in self._directory.glob("*.log"):
            for line in path.read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):
                    numbers.update(json.loads(line))
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def torment(chance: random.Random, server: Server, proxy: Proxy, crew: Crew) -> str:
    """Do one thing to somebody, and say what."""
    name = chance.choice(crew.NAMES)
    what = chance.choices(
        ["kill", "freeze", "cut", "cut a reply", "silence", "restart"], [4, 3, 4, 6, 1, 0.5]
    )[0]
    match what:
        case "kill":
            crew.signal(name, signal.SIGKILL)
        case "freeze":
            crew.signal(name, signal.SIGSTOP)
            threading.Timer(chance.uniform(0.2, 4), crew.signal, (name, signal.SIGCONT)).start()
        case "cut":
            proxy.cut_all()
        case "cut a reply":
            command = chance.choice([b"XREADGROUP", b"XACK", b"XPENDING", b"XCLAIM", b"EVAL"])
            proxy.cut_after(chance.randrange(3_000), once_seen=command)
        case "silence":
            server.pause()
            time.sleep(chance.uniform(0.1, 1))
            server.resume()
        case "restart":
            server.kill()
            server.start()
    return what


@pytest.mark.parametrize("name", list(BINARIES))
def test_workers_in_the_fire_lose_nothing(name: str, tmp_path: Path) -> None:
    """Each entry is processed, or is poison and a dead letter; nothing stays pending."""
    chance = random.Random(f"{SEED} {name}")
    print(f"REDFLOE_TORTURE_SEED={SEED}")
    done: Counter[str] = Counter()
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    with (
        Server(name, args=durable) as server,
        Proxy(server.port) as proxy,
        Crew(proxy.url, tmp_path) as crew,
    ):
        last = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            numbers = range(last + 1, last + chance.randrange(2, 400))
            frame = pl.DataFrame({"n": numbers, "text": [f"entry {n}" for n in numbers]})
            write_stream(server.url, frame, "s")
            last = numbers[-1]
            crew.hire()
            done[torment(chance, server, proxy, crew)] += 1
            time.sleep(chance.uniform(0, 0.3))
        proxy.clear()
        client: redis.Redis = server.client()

        def quiet() -> bool:
            crew.hire()
            for worker in crew.NAMES:
                crew.signal(worker, signal.SIGCONT)
            time.sleep(0.2)
            groups: Any = client.xinfo_groups("s")
            newest: Any = client.xrevrange("s", count=1)
            [group] = groups
            return not group["pending"] and group["last-delivered-id"] == newest[0][0]

        # A poison that kills costs a worker each time, and its successor's start.
        eventually(quiet, seconds=4 * SECONDS + 120)
        crew.dismiss()
        processed = crew.processed()
        letters: Any = client.xrange("dead")
    dead = Counter(int(fields[b"n"]) for _, fields in letters)
    print(f"{name}: {last} entries, {dict(done)}, deaths {dict(crew.deaths)}, {len(dead)} letters")
    poison = {n for n in range(1, last + 1) if n % RAISES == 0 or n % KILLS == 0}
    assert set(dead) == poison, "only the poison is a dead letter, and all of it"
    assert max(dead.values(), default=1) == 1, "each dead letter once"
    assert set(processed) == set(range(1, last + 1)) - poison, "everything else was processed"
