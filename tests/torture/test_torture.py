"""Minutes of fire, by `make torture`: killed, frozen and cut off workers, servers that restart.

Each server is attacked for REDFLOE_TORTURE_SECONDS (60); REDFLOE_TORTURE_SEED repeats the chances
of a run.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
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

pytestmark = [pytest.mark.torture, pytest.mark.timeout(8 * SECONDS + 400)]

#: The handler raises for these, each time.
RAISES = 997
#: These end the process that handles them, each time.
KILLS = 4_999
#: The first handler of each of these hangs.
HANGS = 6_007
#: Far more than the fire alone can make of an entry that is not poison.
MAX_DELIVERIES = 12
#: Seconds after which others take over what its worker does not keep.
IDLE = 1.5
#: Seconds after which others take over what its worker keeps and does not finish.
MOST = 3 * IDLE
#: Seconds without its worker, or without the server, that an entry is sure to outlast.
HELPLESS = 0.4

#: Notes when it begins and ends to process entries, and ends at a signal. Its name says what it is:
#: "async" or not, "slow" (takes longer than IDLE) or not, and "json" (reads the payload) or not.
WORKER = """
import signal, polars as pl

url, directory, name = sys.argv[1:]
RAISES, KILLS, HANGS, MAX_DELIVERIES, IDLE, MOST = CONSTANTS
log = os.open(f"{directory}/{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
pace = IDLE / 30 if "slow" in name else 0.0002
text = "inner" if "json" in name else "text"

def note(what, numbers):
    line = {"what": what, "at": time.monotonic(), "process": os.getpid(), "numbers": numbers}
    os.write(log, json.dumps(line).encode() + b"\\n")

def is_first(number):
    if number % HANGS:
        return False
    try:
        os.close(os.open(f"{directory}/{number}.hung", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True

def begin(batch):
    numbers = batch.frame["n"].to_list()
    assert batch.frame[text].to_list() == [f"entry {n}" for n in numbers]
    if any(n % KILLS == 0 for n in numbers):
        os.kill(os.getpid(), signal.SIGKILL)
    if any(n % RAISES == 0 for n in numbers):
        raise ValueError("poison")
    note("begin", numbers)
    if any([is_first(n) for n in numbers]):
        time.sleep(3 * MOST)
        note("hung", numbers)
        os._exit(3)
    return numbers

def handle(batch):
    numbers = begin(batch)
    time.sleep(pace * len(numbers))
    note("end", numbers)

async def handle_async(batch):
    numbers = begin(batch)
    await asyncio.sleep(pace * len(numbers))
    note("end", numbers)

while True:
    consumer = redfloe.StreamConsumer(
        redfloe.RedisConnection(url, max_retries=2, response_timeout=3, connect_timeout=2),
        "s", "g", name, schema={"n": pl.Int64, text: pl.String}, batch_size=50,
        payload="data" if "json" in name else None,
        batch_bytes=5_000, block_ms=100, reclaim_min_idle_ms=round(IDLE * 1_000),
        reclaim_interval_ms=200, max_processing_ms=round(MOST * 1_000),
        max_deliveries=MAX_DELIVERIES, dead_letter="dead", handle_signals=True,
    )
    try:
        if "async" in name:
            asyncio.run(consumer.run_async(handle_async, attempts=1))
        else:
            consumer.run(handle, attempts=1)
        break
    except redfloe.RedfloeError as error:
        print(json.dumps(repr(error)), file=sys.stderr, flush=True)
        time.sleep(0.1)
""".replace("CONSTANTS", repr((RAISES, KILLS, HANGS, MAX_DELIVERIES, IDLE, MOST)))

#: Sends each entry once, and notes what it knows of them: that they are in, or that they are not.
PRODUCER = """
import signal

url, directory, name = sys.argv[1:]
log = os.open(f"{directory}/{name}.made", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
ends = []
signal.signal(signal.SIGTERM, lambda *_: ends.append(True))

def note(what, start, end):
    line = {"what": what, "process": os.getpid(), "start": start, "end": end}
    os.write(log, json.dumps(line).encode() + b"\\n")

connection = redfloe.RedisConnection(url, response_timeout=3)
next_number = 0
while not ends:
    first = next_number
    try:
        with redfloe.StreamProducer(
            connection, "made", linger_ms=2, idempotent=name if "idempotent" in name else None
        ) as producer:
            while not ends:
                sent = next_number
                for _ in range(20):
                    producer.send({"process": os.getpid(), "n": next_number})
                    next_number += 1
                producer.flush()
                note("in", sent, next_number)
                time.sleep(0.02)
    except redfloe.OutcomeUnknownError as error:
        note("unknown", first + error.unknown.start, first + error.unknown.stop)
        note("in", min(sent, first + error.unknown.start), first + error.unknown.start)
        note("not in", first + error.unknown.stop, next_number)
    except redfloe.RedfloeError as error:
        print(json.dumps(repr(error)), file=sys.stderr, flush=True)
    time.sleep(0.1)
"""


@dataclass(frozen=True)
class Holding:
    """A worker had entries in hand."""

    worker: str
    begin: float
    end: float
    numbers: list[int]
    #: "end", "hung", or "dead" where it did not come to that.
    how: str

    @property
    def may_hang(self) -> bool:
        """Say whether its handler hangs, unless another's did with the same entries."""
        return any(number % HANGS == 0 for number in self.numbers)


@dataclass(frozen=True)
class Fault:
    """Somebody could do nothing for a while: a worker, or the server."""

    begin: float
    end: float
    worker: str | None = None


class Crew:
    """Workers and producers of fixed names; one that dies is replaced by another of its name."""

    WORKERS = ("sync", "sync-json", "async", "async-json", "slow-sync", "slow-async-json")
    NAMES = (*WORKERS, "producer", "idempotent-producer")

    def __init__(self, url: str, directory: Path) -> None:
        self._url, self._directory = url, directory
        self._stack = contextlib.ExitStack()
        self._alive: dict[str, subprocess.Popen[str]] = {}
        self._lock = threading.Lock()
        self.deaths: Counter[str] = Counter()
        self.kills: list[tuple[str, float]] = []
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
                script = WORKER if name in self.WORKERS else PRODUCER
                args = (self._url, str(self._directory), name)
                self._alive[name] = self._stack.enter_context(python(script, *args))

    def signal(self, name: str, number: signal.Signals) -> None:
        with self._lock:
            process = self._alive[name]
            if process.poll() is None:
                process.send_signal(number)
                if number == signal.SIGKILL:
                    self.kills.append((name, time.monotonic()))

    def dismiss(self) -> None:
        with self._lock:
            self.closing = True
            for process in self._alive.values():
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
            for process in self._alive.values():
                # One that hangs ends by itself.
                process.wait(timeout=30)

    def holdings(self) -> list[Holding]:
        """Give what the workers have noted; a line that a kill cut short never counts."""
        found = []
        for name in self.WORKERS:
            lines = [*_lines(self._directory / f"{name}.log")]
            for line, following in itertools.zip_longest(lines, lines[1:]):
                if line["what"] != "begin":
                    continue
                begin = line["at"]
                if following is not None and following["process"] == line["process"]:
                    end, how = following["at"], following["what"]
                    assert how != "begin", f"{name} is handed a batch while it has one"
                else:
                    kills = (at for killed, at in self.kills if killed == name and at >= begin)
                    end, how = next(kills, begin), "dead"
                found.append(Holding(name, begin, end, line["numbers"], how))
        return sorted(found, key=lambda holding: holding.begin)

    def processed(self) -> Counter[int]:
        """Count how often each number was processed."""
        done = (holding.numbers for holding in self.holdings() if holding.how == "end")
        return Counter(itertools.chain.from_iterable(done))

    def made(self) -> Iterator[dict[str, Any]]:
        """Give what the producers have noted."""
        for path in self._directory.glob("*.made"):
            yield from _lines(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text().splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            yield json.loads(line)


class Fire:
    """Does things to a server, to connections and to processes, and keeps a record."""

    def __init__(self, chance: random.Random, server: Server, proxy: Proxy, crew: Crew) -> None:
        self._chance, self._server, self._proxy, self._crew = chance, server, proxy, crew
        self.done: Counter[str] = Counter()
        self.faults: list[Fault] = []

    def torment(self) -> None:
        """Do one thing to somebody."""
        name = self._chance.choice(self._crew.NAMES)
        what = self._chance.choices(
            ["kill", "freeze", "cut", "cut a reply", "silence", "restart"], [3, 3, 5, 7, 0.7, 0.3]
        )[0]
        self.done[what] += 1
        begin = time.monotonic()
        match what:
            case "kill":
                self._crew.signal(name, signal.SIGKILL)
            case "freeze":
                seconds = self._chance.uniform(0.2, 4)
                self._crew.signal(name, signal.SIGSTOP)
                threading.Timer(seconds, self._crew.signal, (name, signal.SIGCONT)).start()
                self.faults.append(Fault(begin, begin + seconds, name))
            case "cut":
                self._proxy.cut_all()
            case "cut a reply":
                commands = [b"XREADGROUP", b"XACK", b"XPENDING", b"XCLAIM", b"EVAL", b"XADD"]
                command = self._chance.choice(commands)
                self._proxy.cut_after(self._chance.randrange(3_000), once_seen=command)
            case "silence":
                self._server.pause()
                time.sleep(self._chance.uniform(0.1, 1))
                self._server.resume()
                self.faults.append(Fault(begin, time.monotonic()))
            case "restart":
                self._server.kill()
                self._server.start()
                # Clients notice, and connect again after a pause.
                self.faults.append(Fault(begin, time.monotonic() + HELPLESS))

    def helpless(self, worker: str, begin: float, end: float) -> float:
        """Say how many seconds of these nobody could keep what that worker had in hand."""
        theirs = (fault for fault in self.faults if fault.worker in (worker, None))
        return sum(max(0, min(end, fault.end) - max(begin, fault.begin)) for fault in theirs)


def write(server: Server, numbers: list[int]) -> int:
    """Add entries, and say the last of their numbers."""
    texts = [f"entry {n}" for n in numbers]
    payloads = [json.dumps({"inner": text, "skipped": [{}]}) for text in texts]
    write_stream(server.url, pl.DataFrame({"n": numbers, "text": texts, "data": payloads}), "s")
    return numbers[-1]


def check_holdings(holdings: list[Holding], fire: Fire) -> str:
    """Nobody processes what another works on, but after a fault or a time that is over."""
    last: dict[int, Holding] = {}
    excused = 0
    for holding in holdings:
        for number in holding.numbers:
            before, last[number] = last.get(number), holding
            if before is None or before.worker == holding.worker or before.end <= holding.begin:
                continue
            # One that was killed while it hung could not note it any more.
            in_vain = before.how == "hung" or (before.how == "dead" and before.may_hang)
            hung_for = holding.begin - before.begin if in_vain else 0
            helpless = fire.helpless(before.worker, before.begin - IDLE, holding.begin)
            assert helpless > HELPLESS or hung_for > MOST - 0.1, (
                f"{number}: {holding.worker} takes over from {before.worker}, at {before.begin}: "
                f"{holding}, {before}"
            )
            excused += 1
    hung = sum(holding.how == "hung" for holding in holdings)
    return f"{excused} taken over in hand, {hung} hung"


def check_made(entries: list[tuple[bytes, dict[bytes, bytes]]], notes: list[dict[str, Any]]) -> str:
    """What a producer said is in the stream is there, once and in order."""
    made: defaultdict[int, list[int]] = defaultdict(list)
    for _, fields in entries:
        made[int(fields[b"process"])].append(int(fields[b"n"]))
    for process, sent in made.items():
        assert sent == sorted(set(sent)), f"{process}'s entries are twice, or out of order"
    counts: Counter[str] = Counter()
    for note in notes:
        numbers = range(note["start"], note["end"])
        counts[note["what"]] += len(numbers)
        there = set(made[note["process"]]).intersection(numbers)
        match note["what"]:
            case "in":
                assert len(there) == len(numbers), f"{note}, but {len(there)} are in"
            case "not in":
                assert not there, f"{note}, but {there} are in"
    assert counts["in"], "no producer has written anything"
    return f"{len(entries)} sent by producers, {dict(counts)}"


@pytest.mark.parametrize("name", list(BINARIES))
def test_workers_in_the_fire_lose_nothing(name: str, tmp_path: Path) -> None:
    """Each entry is processed, or is poison and a dead letter; nothing stays pending.

    Without a fault it is processed once, and by nobody else while somebody works on it.
    """
    chance = random.Random(f"{SEED} {name}")
    print(f"REDFLOE_TORTURE_SEED={SEED}")
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    with (
        Server(name, args=durable) as server,
        Proxy(server.port) as proxy,
        Crew(proxy.url, tmp_path) as crew,
    ):
        fire = Fire(chance, server, proxy, crew)
        numbers = itertools.count(1)
        last = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            last = write(server, [*itertools.islice(numbers, chance.randrange(1, 400))])
            crew.hire()
            fire.torment()
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
        calm: list[int] = []
        harmless = (n for n in numbers if n % RAISES and n % KILLS and n % HANGS)
        end = time.monotonic() + min(SECONDS, 8)
        while time.monotonic() < end:
            calm += itertools.islice(harmless, 200)
            write(server, calm[-200:])
            time.sleep(0.1)
            waiting: Any = client.xpending_range("s", "g", "-", "+", 1_000)
            assert {one["times_delivered"] for one in waiting} <= {1}, "keeping counts nothing"
        eventually(quiet, seconds=60)
        calm.append(write(server, [next(n for n in numbers if n % HANGS == 0)]))
        eventually(quiet, seconds=60)
        crew.dismiss()
        letters: Any = client.xrange("dead")
        made: Any = client.xrange("made")
    holdings, processed = crew.holdings(), crew.processed()
    dead = Counter(int(fields[b"n"]) for _, fields in letters)
    twice = sum(count > 1 for count in processed.values())
    print(f"{name}: {dict(fire.done)}, deaths {dict(crew.deaths)}")
    print(f"{len(processed)} entries in {len(holdings)} batches, {twice} twice, {len(dead)} dead")
    poison = {n for n in range(1, last + 1) if n % RAISES == 0 or n % KILLS == 0}
    # Workers die with what lies beside a poison, and of that the last delivery may be in the fire.
    beside = {n for n in dead if n not in poison and (n + 100) % KILLS < 200}
    assert set(dead) == poison | beside, "only the poison is a dead letter, and all of it"
    assert max(dead.values(), default=1) == 1, "each dead letter once"
    deliveries = {int(one[b"_dead_deliveries"]) for _, one in letters if int(one[b"n"]) in beside}
    assert deliveries <= {MAX_DELIVERIES}, "no sooner"
    everything = {*range(1, last + 1), *calm}
    assert set(processed) | beside == everything - poison, "everything else was processed"
    assert [n for n in calm if processed[n] > 1] == [], "once, where nothing happens"
    print(f"{len(beside)} dead beside a poison, {check_holdings(holdings, fire)}")
    print(check_made(made, [*crew.made()]))
    hung = holdings[-1].begin - next(one for one in holdings if calm[-1] in one.numbers).begin
    assert MOST - 0.1 < hung < 2 * MOST, "somebody else takes it when its time is over"
