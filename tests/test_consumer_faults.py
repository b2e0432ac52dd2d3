"""What goes wrong while a `StreamConsumer` works: it must lose nothing, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import redis
import uvloop

from redfloe import (
    MemoryCheckpointStore,
    NoGroupError,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    StreamConsumer,
    WrongTypeError,
)
from support.clients import is_waiting, named, quick
from support.groups import deliver, pending
from support.processes import hear, python
from support.proxy import Proxy
from support.server import BINARIES, Server
from support.streams import NUMBER, add, add_numbers
from support.timing import SLACK, eventually, later, meanwhile, within

if TYPE_CHECKING:
    from conftest import Servers

pytestmark = pytest.mark.timeout(30)


#: For a loop that ends, and takes over nothing.
DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 1, "reclaim_min_idle_ms": None}

Given = list[list[int]]


def working(url: str | RedisConnection, stream: str, **options: Any) -> StreamConsumer:
    """Give the consumer that most tests use."""
    return StreamConsumer(
        url, stream, **{"group": "g", "consumer": "me", "schema": NUMBER, **options}
    )


Drain = Callable[[StreamConsumer], Given]


def is_manual(consumer: StreamConsumer) -> bool:
    """Say whether it leaves acknowledging to the loop."""
    group = consumer._request["group"]
    return group is not None and not group["auto_ack"]


def drained(consumer: StreamConsumer) -> Given:
    """Loop to the end; acknowledge where the consumer does not."""
    given = []
    with consumer:
        for batch in consumer:
            given.append(batch.frame["n"].to_list())
            if is_manual(consumer):
                batch.ack()
    return given


async def drained_async(consumer: StreamConsumer) -> Given:
    given = []
    async with consumer, asyncio.timeout(20 * SLACK):
        async for batch in consumer:
            given.append(batch.frame["n"].to_list())
            if is_manual(consumer):
                await batch.ack()
    return given


@pytest.fixture(params=["sync", "async"])
def drain(request: pytest.FixtureRequest) -> Drain:
    """Loop to the end, in either world."""
    if request.param == "sync":
        return drained
    return lambda consumer: asyncio.run(drained_async(consumer))


def flat(given: Given) -> list[int]:
    return [n for batch in given for n in batch]


def dead(client: redis.Redis, stream: str) -> list[int]:
    """List the numbers of the dead letters."""
    letters: Any = client.xrange(f"{stream}:dead")
    return [int(fields[b"_dead_id"].split(b"-")[0]) for _, fields in letters]


def age(client: redis.Redis, stream: str, numbers: range | list[int], consumer: str) -> None:
    """Make entries look as if they had been pending for a long time."""
    ids: list[Any] = [f"{n}-0" for n in numbers]
    client.xclaim(stream, "g", consumer, 0, ids, idle=3_600_000, justid=True)


def wear(client: redis.Redis, stream: str, number: int, consumer: str, times: int) -> None:
    """Make an entry look as if it had been delivered so often, long ago."""
    options: dict[str, Any] = {"idle": 3_600_000, "retrycount": times, "justid": True}
    client.xclaim(stream, "g", consumer, 0, [f"{number}-0"], **options)


def stopping(consumer: StreamConsumer, act: Callable[[], object]) -> Callable[[], None]:
    """Do something, and then stop the consumer, also where it failed."""

    def run() -> None:
        try:
            act()
        finally:
            consumer.stop()

    return run


@contextmanager
def once_waiting(client: redis.Redis, name: str, act: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as a connection of that name waits, while the block runs."""

    def run() -> None:
        eventually(is_waiting(client, name))
        act()

    with later(0, run):
        yield


# Workers that are killed

#: How long an entry is a worker's before others may take it.
MIN_IDLE = 0.4

#: Writes what it does to a file of its own; waits to be killed at the moment that it is told.
WORKER = """
url, path, name, ack, moment, pause = sys.argv[1:]
log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def note(what, ids, counts=()):
    line = {"at": time.monotonic(), "what": what, "ids": list(ids), "counts": list(counts)}
    os.write(log, json.dumps(line).encode() + b"\\n")

def reach(here):
    if here == moment:
        print(json.dumps(here), flush=True)
        sys.stdin.readline()

consumer = redfloe.StreamConsumer(
    url, "s", "g", name, batch_size=7, block_ms=20, ack=ack,
    reclaim_min_idle_ms=400, reclaim_interval_ms=50, handle_signals=True,
)
with consumer:
    before = []
    note("asks", [])
    for batch in consumer:
        if before:
            note("acknowledged", before)
        ids = batch.ids.to_list()
        note("batch", ids, batch.delivery_counts)
        reach("delivered")
        for number, entry_id in enumerate(ids):
            if number == len(ids) // 2:
                reach("processing")
            time.sleep(float(pause))
            note("processed", [entry_id])
        reach("processed")
        if ack == "manual":
            batch.ack()
            note("acknowledged", ids)
        else:
            before = ids
        reach("acknowledged")
        note("asks", [])
if before:
    note("acknowledged", before)
"""


@dataclass(frozen=True)
class HandedOut:
    """An entry that a worker was given."""

    asked: float
    came: float
    count: int


def check_history(paths: list[Path], entries: int) -> None:
    """Prove that nothing was lost, and that each repetition is one that at-least-once allows."""
    handed_out: dict[str, list[HandedOut]] = defaultdict(list)
    acknowledged: dict[str, float] = {}
    processed: set[str] = set()
    for path in paths:
        asked = 0.0
        newest = 0
        todo: list[str] = []
        for line in path.read_text().splitlines():
            step = json.loads(line)
            ids: list[str] = step["ids"]
            match step["what"]:
                case "asks":
                    asked = step["at"]
                case "batch":
                    numbers = [int(one.split("-")[0]) for one in ids]
                    assert numbers == sorted(set(numbers)), "order within a delivery"
                    new = [n for n, count in zip(numbers, step["counts"], strict=True) if count < 2]
                    assert all(n > newest for n in new), "order of new entries"
                    newest = max([newest, *new])
                    for entry_id, count in zip(ids, step["counts"], strict=True):
                        handed_out[entry_id].append(HandedOut(asked, step["at"], count))
                    todo = [*ids]
                case "processed":
                    assert ids == [todo.pop(0)]
                    processed.update(ids)
                case "acknowledged":
                    assert not todo, "acknowledged before it was processed"
                    for entry_id in ids:
                        at = min(step["at"], acknowledged.get(entry_id, step["at"]))
                        acknowledged[entry_id] = at
    assert processed == {f"{n}-0" for n in range(1, entries + 1)}, "nothing is lost"
    for entry_id, times in handed_out.items():
        times.sort(key=lambda one: one.came)
        for before, after in itertools.pairwise(times):
            # Each was delivered between the asking and the coming.
            assert after.came - before.asked >= MIN_IDLE, "taken from a worker that had its time"
            assert after.count > before.count
            assert acknowledged.get(entry_id, after.asked) >= after.asked, "came after its end"


class Crew:
    """Workers of one group, each in a process with a log."""

    def __init__(self, url: str, directory: Path, ack: str) -> None:
        self._url, self._directory, self._ack = url, directory, ack
        self._stack = contextlib.ExitStack()
        self.logs: list[Path] = []
        self.alive: list[subprocess.Popen[str]] = []

    def hire(self, moment: str = "", pause: float = 0.0) -> subprocess.Popen[str]:
        name = f"worker-{len(self.logs)}"
        path = self._directory / f"{name}.log"
        path.touch()
        args = (self._url, str(path), name, self._ack, moment, str(pause))
        process = self._stack.enter_context(python(WORKER, *args))
        self.logs.append(path)
        self.alive.append(process)
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        self.alive.remove(process)
        process.kill()
        process.wait()

    def is_at_work(self) -> bool:
        """Whether all have come so far that they heed signals."""
        return all(path.stat().st_size > 0 for path in self.logs)

    def repeated(self) -> list[str]:
        """List the entries that were given again."""
        lines = [json.loads(line) for path in self.logs for line in path.read_text().splitlines()]
        batches = [
            zip(line["ids"], line["counts"], strict=True)
            for line in lines
            if line["what"] == "batch"
        ]
        return [entry_id for batch in batches for entry_id, count in batch if count > 1]

    def dismiss(self) -> None:
        """Let those who live finish what they do."""
        for process in self.alive:
            process.send_signal(signal.SIGTERM)
        for process in self.alive:
            errors = process.communicate(timeout=10 * SLACK)[1]
            assert process.returncode == 0, errors

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def all_done(client: redis.Redis, entries: int) -> Callable[[], bool]:
    """Ask whether every entry has been delivered and none is pending."""

    def holds() -> bool:
        groups: Any = client.xinfo_groups("s")
        [group] = groups
        done: bool = group["last-delivered-id"] == f"{entries}-0".encode()
        return done and not group["pending"]

    return holds


@pytest.mark.parametrize("ack", ["on_success", "manual"])
@pytest.mark.parametrize("moment", ["delivered", "processing", "processed", "acknowledged"])
def test_a_killed_worker_s_entries_are_taken_over_by_two_others(
    any_server: Server, client: redis.Redis, tmp_path: Path, moment: str, ack: str
) -> None:
    entries = 0

    def write() -> None:
        nonlocal entries
        if entries < 5_000:
            entries += add_numbers(client, "s", entries + 20, first=entries + 1)
        time.sleep(0.01)

    with Crew(any_server.url, tmp_path, ack) as crew:
        for _ in range(2):
            crew.hire()
        eventually(crew.is_at_work, seconds=15)
        victim = crew.hire(moment)
        with meanwhile(write):
            assert hear(victim) == moment
            crew.kill(victim)
        eventually(all_done(client, entries), seconds=15)
        crew.dismiss()
        check_history(crew.logs, entries)
        again = crew.repeated()
    # On success it is acknowledged when the next is asked for.
    assert again or (ack, moment) == ("manual", "acknowledged")


@pytest.mark.parametrize(("seed", "name"), [*enumerate([*BINARIES, *BINARIES])])
def test_workers_that_are_killed_at_random(
    servers: Servers, tmp_path: Path, seed: int, name: str
) -> None:
    """And replaced, by others of other names, while entries are added."""
    chance = random.Random(seed)
    server = servers.get(name)
    client = server.client()
    with Crew(server.url, tmp_path, chance.choice(["on_success", "manual"])) as crew:
        add_numbers(client, "s", 100)
        for _ in range(3):
            crew.hire(pause=0.002)
        last = 100
        for _ in range(2):
            eventually(crew.is_at_work, seconds=15)
            stamp = time.monotonic() + chance.uniform(0, 0.1)
            while time.monotonic() < stamp:
                last += add_numbers(client, "s", last + 5, first=last + 1)
                time.sleep(0.005)
            crew.kill(chance.choice(crew.alive))
            crew.hire(pause=0.002)
        eventually(crew.is_at_work, seconds=15)
        eventually(all_done(client, last), seconds=15)
        crew.dismiss()
        check_history(crew.logs, last)


# Connections that are lost

#: How a server hands over what is another's: by XAUTOCLAIM, or XPENDING and XCLAIM.
UNKNOWN = b"-ERR unknown command 'XAUTOCLAIM'\r\n"

COMMANDS = [
    b"XGROUP",
    b"XREADGROUP",
    b"XAUTOCLAIM",
    b"XPENDING",
    b"XCLAIM",
    b"XRANGE",
    b"XINFO",
    b"XACK",
    b"EVAL",
]


def prepare(client: redis.Redis, stream: str) -> tuple[list[int], list[int]]:
    """Make a stream with work of every kind; say what is to be given, and to be a dead letter.

    1 to 5 are pending for me, 6 to 12 for a worker that is gone, and of these 7 was deleted and 9
    has been delivered too often. 21 does not fit the schema.
    """
    client.delete(stream, f"{stream}:dead")
    add_numbers(client, stream, 20)
    add(client, stream, [("21-0", {"n": "x"})])
    add_numbers(client, stream, 30, first=22)
    deliver(client, stream, 5)
    deliver(client, stream, 7, "gone")
    age(client, stream, range(6, 13), "gone")
    wear(client, stream, 9, "gone", 50)
    client.xdel(stream, "7-0")
    return [n for n in range(1, 31) if n not in (7, 9, 21)], [9, 21]


@pytest.fixture
def punctual(client: redis.Redis) -> Iterator[None]:
    """The server ends a wait when its time is over, not up to 100 ms later."""
    client.config_set("hz", 500)
    yield
    client.config_set("hz", 10)


def cuts(proxy: Proxy, sizes: list[int], *, listed: bool = False) -> Iterator[str]:
    """Lose the connection within the reply to each command that is sent, one after the other."""
    for number, command in enumerate(COMMANDS):
        for size in sizes:
            for skip in range(4):
                proxy.clear()
                if listed:
                    proxy.replace_reply(UNKNOWN, once_seen=b"XAUTOCLAIM", times=None)
                method = proxy.reset_after if number % 2 else proxy.cut_after
                fault = method(size, once_seen=command, skip=skip)
                yield f"{command!r}, {size} bytes, after {skip}"
                if fault.hits == 0:
                    break


@pytest.mark.parametrize("ack", ["on_success", "manual"])
@pytest.mark.parametrize("claims", ["as it can", "listed"])
@pytest.mark.usefixtures("punctual")
def test_a_connection_that_is_cut_anywhere(
    server: Server, client: redis.Redis, stream: str, claims: str, ack: str
) -> None:
    """New entries, own pending ones, claims, acknowledgements and dead letters: each comes once."""
    expected, letters = prepare(client, stream)
    options: dict[str, Any] = {
        "batch_size": 8,
        "on_idle": "stop",
        "block_ms": 1,
        "ack": ack,
        "max_deliveries": 50,
        "dead_letter": f"{stream}:dead",
    }
    if ack == "manual":
        # What was claimed for nobody, as the reply was lost, has to be claimed again.
        options |= {"block_ms": 60, "reclaim_min_idle_ms": 20, "reclaim_interval_ms": 10}
    with Proxy(server.port) as proxy:
        for where in cuts(proxy, [20], listed=claims == "listed"):
            prepare(client, stream)
            given = drained(working(quick(proxy.url), stream, **options))
            assert sorted(flat(given)) == expected, where
            assert all(batch == sorted(batch) for batch in given), where
            assert sorted(dead(client, stream)) == letters, where
            assert pending(client, stream) == [], where


@pytest.mark.usefixtures("punctual")
def test_an_event_loop_s_connection_is_cut_anywhere(
    server: Server, client: redis.Redis, stream: str
) -> None:
    options = {"on_idle": "stop", "max_deliveries": 50, "dead_letter": f"{stream}:dead"}
    with Proxy(server.port) as proxy, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for where in cuts(proxy, [0]):
            expected, letters = prepare(client, stream)
            consumer = working(quick(proxy.url), stream, batch_size=8, block_ms=1, **options)
            given = runner.run(drained_async(consumer))
            assert sorted(flat(given)) == expected, where
            assert sorted(dead(client, stream)) == letters, where
            assert pending(client, stream) == [], where


def test_the_reply_to_each_acknowledgement_is_lost(
    server: Server, client: redis.Redis, stream: str, drain: Drain
) -> None:
    add_numbers(client, stream, 12)
    with Proxy(server.port) as proxy:
        for skip in range(0, 8, 2):
            proxy.cut_after(0, once_seen=b"XACK", skip=skip)
        consumer = working(quick(proxy.url), stream, batch_size=3, **DRAIN)
        given = drain(consumer)
    assert flat(given) == [*range(1, 13)]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 12


def test_the_reply_to_an_explicit_acknowledgement_is_lost(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """It is repeated, and returns what the last one did; the worker's statistics count both."""
    add_numbers(client, stream, 3)
    with (
        Proxy(any_server.port) as proxy,
        working(quick(proxy.url), stream, ack="manual", **DRAIN) as consumer,
    ):
        batch = next(consumer)
        proxy.cut_after(0, once_seen=b"XACK")
        assert batch.ack() == 0
        assert proxy.count(b"XACK") == 2
        assert consumer.stats.acknowledged == 3
    assert pending(client, stream) == []


def test_the_reply_to_the_acknowledgement_at_the_end_is_lost(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """It goes without a read, and counts all the same."""
    add_numbers(client, stream, 3)
    with Proxy(any_server.port) as proxy:
        with working(quick(proxy.url), stream, **DRAIN) as consumer:
            next(consumer)
            proxy.cut_after(0, once_seen=b"XACK")
        assert proxy.count(b"XACK") == 2
    assert consumer.stats.acknowledged == 3


@pytest.mark.parametrize("deed", ["nack", "fail", "extend"])
def test_the_reply_to_what_a_handler_does_is_lost(
    server: Server, client: redis.Redis, stream: str, deed: str
) -> None:
    add_numbers(client, stream, 3)
    options = {**DRAIN, "dead_letter": f"{stream}:dead"}
    with Proxy(server.port) as proxy:
        with working(quick(proxy.url), stream, **options) as consumer:
            batch = next(consumer)
            proxy.cut_after(0, once_seen=b"EVAL")
            match deed:
                case "nack":
                    batch.nack(["2-0"])
                case "fail":
                    assert batch.fail(["2-0"], "why") == 1
                    # What went there before the lost attempt does not count.
                    assert batch.fail(["2-0"], "why") == 0
                    assert consumer.stats.dead_lettered == 1
                case _:
                    assert batch.extend() == 3
            assert proxy.count(b"EVAL") == (3 if deed == "fail" else 2)
            # What was given back comes again, once.
            again = [number for batch in consumer for number in batch.frame["n"]]
            assert again == ([2] if deed == "nack" else [])
    assert dead(client, stream) == ([2] if deed == "fail" else [])
    assert pending(client, stream) == []


def test_a_dead_letter_whose_reply_is_lost_is_never_handed_out(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """The server has moved it, the consumer cannot know, and goes on after the error."""
    add_numbers(client, stream, 5)
    deliver(client, stream, 5, "gone")
    age(client, stream, range(1, 6), "gone")
    wear(client, stream, 2, "gone", 3)
    wear(client, stream, 4, "gone", 3)
    with Proxy(server.port) as proxy:
        consumer = working(
            quick(proxy.url, max_retries=0),
            stream,
            on_idle="stop",
            block_ms=1,
            max_deliveries=3,
            dead_letter=f"{stream}:dead",
        )
        with consumer:
            proxy.cut_after(0, once_seen=b"EVAL")
            with pytest.raises(RedisConnectionError):
                next(consumer)
            assert [batch.frame["n"].to_list() for batch in consumer] == [[1, 3, 5]]
    assert sorted(dead(client, stream)) == [2, 4]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 3


def test_rows_before_a_dead_letter_whose_reply_is_lost_are_kept(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """An error that is no answer comes instead of the rows, and they come with the next call."""
    add_numbers(client, stream, 2)
    add(client, stream, [("3-0", {"n": "x"}), ("4-0", {"n": "4"})])
    with Proxy(any_server.port) as proxy:
        consumer = working(
            quick(proxy.url, max_retries=0), stream, dead_letter=f"{stream}:dead", **DRAIN
        )
        with consumer:
            proxy.cut_after(0, once_seen=b"EVAL")
            with pytest.raises(RedisConnectionError):
                next(consumer)
            assert [batch.frame["n"].to_list() for batch in consumer] == [[1, 2, 4]]
    assert dead(client, stream) == [3]
    assert pending(client, stream) == []
    assert consumer.stats.acknowledged == 3


def test_a_dead_letter_that_cannot_be_written_stays_pending(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """The rows before it come; then each call tries again, and the rows after it are kept."""
    add_numbers(client, stream, 2)
    add(client, stream, [("3-0", {"n": "x"}), ("4-0", {"n": "4"})])
    client.set(f"{stream}:dead", "no stream")
    with working(any_server.url, stream, dead_letter=f"{stream}:dead", **DRAIN) as consumer:
        assert next(consumer).frame["n"].to_list() == [1, 2]
        for _ in range(3):
            with pytest.raises(WrongTypeError, match="3-0"):
                next(consumer)
            assert pending(client, stream) == [3, 4]
        client.delete(f"{stream}:dead")
        assert [batch.frame["n"].to_list() for batch in consumer] == [[4]]
    assert dead(client, stream) == [3]
    assert pending(client, stream) == []


def test_a_worker_that_waits_for_memory_gives_the_rows_before_a_dead_letter(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """It goes on trying to write the letter when the next rows are asked for."""
    add_numbers(client, stream, 2)
    add(client, stream, [("3-0", {"n": "x"}), ("4-0", {"n": "4"})])
    client.xgroup_create(stream, "g", "0")
    client.config_set("maxmemory", "1mb")
    try:
        with working(any_server.url, stream, dead_letter="dead", block_ms=50) as consumer:
            assert next(consumer).frame["n"].to_list() == [1, 2]
            written: list[int] = []

            def lift() -> None:
                written.append(client.exists("dead"))
                client.config_set("maxmemory", 0)

            with later(0.3, lift):
                assert next(consumer).frame["n"].to_list() == [4]
    finally:
        client.config_set("maxmemory", 0)
    assert written == [0]
    assert client.xlen("dead") == 1


# Replies that come late or never


@pytest.mark.parametrize("what", ["new", "claims"])
def test_a_server_that_is_slower_than_the_block(
    server: Server, client: redis.Redis, stream: str, what: str
) -> None:
    """What it delivers after the client has given up is pending, and comes with the next call."""
    add_numbers(client, stream, 5)
    if what == "claims":
        deliver(client, stream, 5, "gone")
        age(client, stream, range(1, 6), "gone")
    with Proxy(server.port) as proxy:
        options: dict[str, Any] = {"on_idle": "stop", "block_ms": 50}
        if what == "new":
            options["reclaim_min_idle_ms"] = None
        consumer = working(quick(proxy.url, response_timeout=0.3), stream, **options)
        command = b"XAUTOCLAIM" if what == "claims" else b"XREADGROUP"
        stall = proxy.stall_after(20, once_seen=command)
        with consumer:
            with within(5), pytest.raises(RedisTimeoutError):
                next(consumer)
            assert stall.hits == 1
            assert pending(client, stream, "me") == [1, 2, 3, 4, 5]
            assert [batch.frame["n"].to_list() for batch in consumer] == [[1, 2, 3, 4, 5]]
    assert pending(client, stream) == []


def test_a_delivery_whose_reply_never_came_is_first_in_the_next_process(
    server: Server, client: redis.Redis, stream: str, drain: Drain
) -> None:
    add_numbers(client, stream, 9)
    with Proxy(server.port) as proxy:
        skip = server.refused_reads
        proxy.cut_after(0, once_seen=b"XREADGROUP", skip=skip, times=None)
        with pytest.raises(RedisConnectionError):
            drain(working(quick(proxy.url, max_retries=0), stream, batch_size=4, **DRAIN))
    assert pending(client, stream) == [1, 2, 3, 4]
    given = drain(working(server.url, stream, batch_size=6, **DRAIN))
    assert given[0] == [1, 2, 3, 4]
    assert flat(given) == [*range(1, 10)]


# Groups, streams and data that are lost

LOSSES: dict[str, Callable[[redis.Redis, str], object]] = {
    "group": lambda client, stream: client.xgroup_destroy(stream, "g"),
    "stream": lambda client, stream: client.delete(stream),
    "flushall": lambda client, stream: client.flushall(),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_that_is_lost_while_it_is_waited_for_is_an_error(
    server: Server, client: redis.Redis, stream: str, loss: str
) -> None:
    """Each time: no loop polls a group that is gone."""
    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, client_name="waits")
        # Some servers do not wake those who wait; the end of the wait then does.
        with working(connection, stream, block_ms=1_000, consumer="me") as consumer:
            with once_waiting(client, "waits", lambda: LOSSES[loss](client, stream)):
                with within(4), pytest.raises(NoGroupError, match=stream) as raised:
                    next(consumer)
            assert raised.value.code in {"NOGROUP", "UNBLOCKED"}
            for _ in range(5):
                with within(4), pytest.raises(NoGroupError, match=stream):
                    next(consumer)
            # Before the wait: own pending entries, and claims by the newest command.
            assert proxy.count(b"XREADGROUP") <= 12


@pytest.mark.parametrize("loss", LOSSES)
def test_a_group_that_is_lost_while_it_is_waited_for_is_created_again(
    server: Server, client: redis.Redis, stream: str, drain: Drain, loss: str
) -> None:
    """Where this worker stood: what it has acknowledged does not come again."""
    add_numbers(client, stream, 5)
    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, client_name="waits")
        consumer = working(connection, stream, block_ms=500, on_group_lost="recreate", batch_size=5)

        def lose() -> None:
            LOSSES[loss](client, stream)
            eventually(lambda: bool(client.exists(stream)) and client.xinfo_groups(stream) != [])
            add_numbers(client, stream, 8, first=6)
            eventually(lambda: consumer.stats.last_id == "8-0")

        with once_waiting(client, "waits", stopping(consumer, lose)):
            assert flat(drain(consumer)) == [*range(1, 9)]
        assert proxy.count(b"XREADGROUP") <= 16
    assert pending(client, stream) == []


def test_a_group_that_is_deleted_again_and_again_makes_no_hot_loop(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """It is created again with pauses that grow, and in the end it is an error."""
    add_numbers(client, stream, 3)
    with Proxy(server.port) as proxy:
        connection = RedisConnection(proxy.url, retry_base_delay=0.05, max_retries=3)
        with working(connection, stream, on_group_lost="recreate", **DRAIN) as consumer:
            assert len(next(consumer)) == 3
            proxy.before(b"XREADGROUP", lambda _: client.xgroup_destroy(stream, "g"))
            with within(5), pytest.raises(NoGroupError, match="attempts: 4"):
                next(consumer)
            proxy.clear()
            add_numbers(client, stream, 5, first=4)
            assert next(consumer).frame["n"].to_list() == [4, 5]
        assert proxy.count(b"XREADGROUP") <= 12
    assert pending(client, stream) == []


@pytest.mark.parametrize("policy", ["raise", "recreate"])
@pytest.mark.parametrize("command", [b"XPENDING", b"EVAL"])
def test_a_group_that_is_lost_before_a_batch_is_made_ready(
    server: Server, client: redis.Redis, stream: str, command: bytes, policy: str
) -> None:
    """As deliveries are counted or dead letters moved: nobody is stuck."""
    add_numbers(client, stream, 4)
    deliver(client, stream, 4)
    wear(client, stream, 2, "me", 3)
    with Proxy(server.port) as proxy:
        consumer = working(
            quick(proxy.url),
            stream,
            on_group_lost=policy,
            max_deliveries=3,
            dead_letter=f"{stream}:dead",
            **DRAIN,
        )
        proxy.before(command, lambda n: client.xgroup_destroy(stream, "g") if n == 1 else None)
        with consumer:
            if policy == "raise":
                for _ in range(2):
                    with pytest.raises(NoGroupError):
                        next(consumer)
            else:
                assert {1, 3, 4} <= set(next(consumer).frame["n"])
                add_numbers(client, stream, 6, first=5)
                assert flat([batch.frame["n"].to_list() for batch in consumer])[-2:] == [5, 6]


def test_flushall_and_a_stream_begun_anew(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """With smaller IDs than those that were read, of which what was done says nothing."""
    add_numbers(client, stream, 9, first=5)
    options = {**DRAIN, "on_idle": "wait", "block_ms": 20}
    store = MemoryCheckpointStore()
    consumer = working(
        quick(any_server.url),
        stream,
        on_group_lost="recreate",
        checkpoint_store=store,
        batch_size=5,
        **options,
    )
    with consumer:
        assert next(consumer).frame["n"].to_list() == [5, 6, 7, 8, 9]

        def lose() -> None:
            eventually(lambda: pending(client, stream) == [])
            client.flushall()
            add_numbers(client, stream, 3)

        with later(0, lose):
            assert next(consumer).frame["n"].to_list() == [1, 2, 3]
    assert pending(client, stream) == []


def test_a_stream_that_is_begun_anew_while_its_group_is_created_again(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    """There was no stream when its end was asked for: what comes before the group is of another."""
    add_numbers(client, stream, 9, first=5)
    with Proxy(any_server.port) as proxy:
        options = {**DRAIN, "on_idle": "wait", "block_ms": 20}
        with working(quick(proxy.url), stream, on_group_lost="recreate", **options) as consumer:
            assert next(consumer).frame["n"].to_list() == [5, 6, 7, 8, 9]
            lost, created = (proxy.count(name) + 1 for name in (b"XREADGROUP", b"XGROUP"))
            proxy.before(b"XREADGROUP", lambda n: client.delete(stream) if n == lost else None)
            proxy.before(b"XGROUP", lambda n: add_numbers(client, stream, 3) if n == created else 0)
            with within(10):
                assert next(consumer).frame["n"].to_list() == [1, 2, 3]


@pytest.mark.parametrize("store", [True, False])
def test_a_group_that_is_lost_between_two_runs(
    any_server: Server, client: redis.Redis, stream: str, store: bool
) -> None:
    """The checkpoint says where the earlier one stood; without one it is the start again."""
    add_numbers(client, stream, 6)
    options = {**DRAIN, "checkpoint_store": MemoryCheckpointStore() if store else None}
    assert flat(drained(working(any_server.url, stream, **options))) == [*range(1, 7)]
    add_numbers(client, stream, 8, first=7)
    with Proxy(any_server.port) as proxy:
        proxy.before(
            b"XREADGROUP", lambda n: client.xgroup_destroy(stream, "g") if n == 1 else None
        )
        consumer = working(quick(proxy.url), stream, on_group_lost="recreate", **options)
        assert flat(drained(consumer)) == ([7, 8] if store else [*range(1, 9)])


# Servers that go


@pytest.mark.parametrize("name", ["redis-6.2", "redis-8.10"])
def test_a_server_that_restarts_with_its_data(name: str, drain: Drain) -> None:
    """Its data of before, that is: what was acknowledged since comes again, nothing is lost."""
    with Server(name) as server:
        client = server.client()
        add_numbers(client, "s", 9)
        consumer = working(
            quick(server.url, max_retries=500), "s", batch_size=3, block_ms=100, on_idle="wait"
        )

        def restart() -> None:
            eventually(lambda: consumer.stats.entries == 9 and pending(client, "s") == [])
            server.restart()
            add_numbers(client, "s", 12, first=10)
            eventually(lambda: consumer.stats.entries == 12)

        with later(0, stopping(consumer, restart)):
            assert flat(drain(consumer)) == [*range(1, 13)]
        assert pending(client, "s") == []


@pytest.mark.parametrize("policy", ["raise", "recreate"])
def test_a_server_that_restarts_without_its_data(policy: str, drain: Drain) -> None:
    with Server("redis-6.2") as server:
        client = server.client()
        add_numbers(client, "s", 5)
        consumer = working(
            quick(server.url, max_retries=500), "s", block_ms=100, on_group_lost=policy
        )

        def restart() -> None:
            eventually(lambda: consumer.stats.entries == 5 and pending(client, "s") == [])
            server.restart(persist=False)
            if policy == "recreate":
                eventually(lambda: bool(client.exists("s")))
                add_numbers(client, "s", 3)
                eventually(lambda: consumer.stats.entries == 8)

        # The error comes of itself.
        act = restart if policy == "raise" else stopping(consumer, restart)
        with later(0, act):
            if policy == "raise":
                with pytest.raises(NoGroupError):
                    drain(consumer)
            else:
                assert flat(drain(consumer)) == [1, 2, 3, 4, 5, 1, 2, 3]


@pytest.mark.parametrize("name", ["redis-7.0", "valkey"])
def test_a_replica_that_is_promoted(name: str, drain: Drain) -> None:
    """The consumer's address then leads to the replica; what it had acknowledged stays so."""
    # It need not wait for more replicas before it sends its data.
    args = ["--repl-diskless-sync-delay", "0"]
    with Server(name, args=args) as primary, Server(name) as replica:
        client, other = primary.client(), replica.client()
        add_numbers(client, "s", 6)
        other.replicaof("127.0.0.1", str(primary.port))
        with Proxy(primary.port) as proxy:
            consumer = working(quick(proxy.url, max_retries=500), "s", batch_size=3, block_ms=50)

            def fail_over() -> None:
                eventually(lambda: consumer.stats.entries == 6 and pending(client, "s") == [])
                client.xreadgroup("g", "gone", {"s": ">"})
                eventually(
                    lambda: (
                        bool(other.exists("s"))
                        and bool(other.xinfo_groups("s"))
                        and all_done(other, 6)()
                    ),
                    seconds=15,
                )
                primary.kill()
                # As a failover of sentinels would: a replica refuses to be written to at first.
                proxy._target = ("127.0.0.1", replica.port)
                proxy.cut_all()
                eventually(lambda: proxy.count(b"XREADGROUP") > 0)
                other.replicaof("NO", "ONE")
                add_numbers(other, "s", 9, first=7)
                eventually(lambda: consumer.stats.entries == 9)

            with later(0, stopping(consumer, fail_over)):
                assert flat(drain(consumer)) == [*range(1, 10)]
        assert pending(other, "s") == []


def test_a_server_that_dies_in_the_middle_of_the_work(drain: Drain) -> None:
    """The error comes from the loop; a consumer that starts again gets what was in hand."""
    with Server("redis-6.2") as server:
        client = server.client()
        add_numbers(client, "s", 9)
        with working(quick(server.url, max_retries=2), "s", batch_size=3) as consumer:
            assert next(consumer).frame["n"].to_list() == [1, 2, 3]
            client.save()
            server.kill()
            for _ in range(2):
                with within(3), pytest.raises(RedisConnectionError):
                    next(consumer)
            server.start()
            # The batch in hand was done with; that is still to be said.
            assert next(consumer).frame["n"].to_list() == [4, 5, 6]
            assert pending(client, "s") == [4, 5, 6]


# Entries that are no more


@pytest.mark.parametrize("claims", ["as it can", "listed"])
def test_pending_entries_that_were_trimmed(
    server: Server, client: redis.Redis, stream: str, drain: Drain, claims: str
) -> None:
    """They are acknowledged and counted, and never given; all of them, in own and others' lists."""
    add_numbers(client, stream, 60)
    deliver(client, stream, 10)
    deliver(client, stream, 40, "gone")
    age(client, stream, range(11, 51), "gone")
    client.xdel(stream, "45-0", "50-0")
    client.xtrim(stream, minid="31-0", approximate=False)
    with Proxy(server.port) as proxy:
        if claims == "listed":
            proxy.replace_reply(UNKNOWN, once_seen=b"XAUTOCLAIM", times=None)
        consumer = working(
            quick(proxy.url), stream, batch_size=8, on_idle="stop", block_ms=1, max_deliveries=None
        )
        given = drain(consumer)
    expected = [n for n in range(31, 61) if n not in (45, 50)]
    assert sorted(flat(given)) == expected
    assert pending(client, stream) == []
    assert consumer.stats.deleted == 32
    assert consumer.stats.acknowledged == len(expected)


def test_an_entry_that_is_deleted_while_it_is_moved(
    server: Server, client: redis.Redis, stream: str
) -> None:
    """There is nothing to be moved any more, and it must not stay pending."""
    add_numbers(client, stream, 2)
    with working(server.url, stream, dead_letter=f"{stream}:dead", **DRAIN) as consumer:
        batch = next(consumer)
        client.xdel(stream, "2-0")
        assert batch.fail(["2-0"], "why") == 0
    assert pending(client, stream) == []
    assert dead(client, stream) == []


# Several of a kind


def test_two_workers_of_the_same_name(server: Server, client: redis.Redis, stream: str) -> None:
    """A mistake, which costs repetitions: each may be given what the other has in hand."""
    add_numbers(client, stream, 400)

    def work(_: int) -> Given:
        return drained(working(server.url, stream, batch_size=7, **{**DRAIN, "block_ms": 50}))

    with ThreadPoolExecutor(2) as pool:
        shares = [*pool.map(work, range(2))]
    assert {n for given in shares for n in flat(given)} == {*range(1, 401)}
    assert all(batch == sorted(set(batch)) for given in shares for batch in given)
    assert pending(client, stream) == []


def test_reclaimers_at_the_same_time(server: Server, client: redis.Redis, stream: str) -> None:
    """Each entry has one new owner."""
    add_numbers(client, stream, 300)
    deliver(client, stream, 300, "gone")
    age(client, stream, range(1, 301), "gone")
    together = threading.Barrier(3)

    def work(name: str) -> Given:
        consumer = working(
            server.url, stream, consumer=name, batch_size=9, on_idle="stop", block_ms=20
        )
        together.wait()
        return drained(consumer)

    with ThreadPoolExecutor(3) as pool:
        shares = [*pool.map(work, ["a", "b", "c"])]
    assert sorted(n for given in shares for n in flat(given)) == [*range(1, 301)]
    assert pending(client, stream) == []


@pytest.mark.parametrize("interval", [0, 5, 60])
def test_claims_that_are_looked_for_all_the_time(
    server: Server, client: redis.Redis, stream: str, interval: int
) -> None:
    """New entries come all the same, a drain ends, and the server is not pestered."""
    add_numbers(client, stream, 20)
    options: dict[str, Any] = {"batch_size": 7, "on_idle": "stop", "block_ms": 200}
    with Proxy(server.port) as proxy:
        consumer = working(proxy.url, stream, reclaim_interval_ms=interval, **options)
        with within(5):
            assert flat(drained(consumer)) == [*range(1, 21)]
        assert len(proxy.commands) < 200
    assert pending(client, stream) == []


# A clock that jumps back


def crc64(data: bytes) -> int:
    """The checksum of a DUMP (CRC-64/REDIS)."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x95AC9329AC4BC9B5 if crc & 1 else 0)
    return crc


def put_off(client: redis.Redis, stream: str, consumer: str, numbers: list[int], ms: int) -> None:
    """Have entries been delivered `ms` milliseconds from now, as after the clock jumped back.

    XCLAIM refuses such a time, so it is written to the stream's DUMP.
    """
    seconds, micros = client.time()
    now = seconds * 1_000 + micros // 1_000
    mark = now - 5_555_555
    ids: list[Any] = [f"{n}-0" for n in numbers]
    client.xclaim(stream, "g", consumer, 0, ids, time=mark, justid=True)
    dump: Any = client.dump(stream)
    body = dump[:-8].replace(mark.to_bytes(8, "little"), (now + ms).to_bytes(8, "little"))
    assert body != dump[:-8]
    client.restore(stream, 0, body + crc64(body).to_bytes(8, "little"), replace=True)


def test_a_clock_that_jumped_back(server: Server, client: redis.Redis, stream: str) -> None:
    """Entries that were delivered in the future are not claimed before they are due; others are."""
    add_numbers(client, stream, 9)
    deliver(client, stream, 6, "gone")
    put_off(client, stream, "gone", [2, 3], 3_600_000)
    put_off(client, stream, "gone", [5], 700)
    age(client, stream, [1, 4, 6], "gone")
    expected = [1, 4, 5, 6, 7, 8, 9]
    options = {"block_ms": 20, "reclaim_min_idle_ms": 300, "reclaim_interval_ms": 20}
    given: list[int] = []
    with working(server.url, stream, **options) as consumer, within(10):
        while len(given) < len(expected):
            given += next(consumer).frame["n"].to_list()
    assert sorted(given) == expected
    assert given[-1] == 5
    assert pending(client, stream) == [2, 3]


# Workers that are interrupted


def test_a_cancelled_wait_s_connection_is_closed_and_nothing_is_lost(
    server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner
) -> None:
    connection = RedisConnection(server.url, client_name="cancelled")

    async def main() -> None:
        async with working(connection, stream, block_ms=0) as consumer:
            asking = asyncio.ensure_future(anext(consumer))
            await asyncio.to_thread(eventually, is_waiting(client, "cancelled"))
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await asyncio.to_thread(eventually, lambda: not is_waiting(client, "cancelled")())
            add_numbers(client, stream, 3)
            assert (await anext(consumer)).frame["n"].to_list() == [1, 2, 3]

    runner.run(main())
    assert pending(client, stream) == []


@pytest.mark.parametrize("ack", ["on_success", "manual"])
def test_cancelled_at_random_moments(
    server: Server, client: redis.Redis, stream: str, runner: asyncio.Runner, ack: str
) -> None:
    """In the middle of reads, claims, counts and dead letters; each entry ends in one place."""
    chance = random.Random(5)
    add_numbers(client, stream, 400)
    deliver(client, stream, 100, "gone")
    age(client, stream, range(1, 101), "gone")
    for number in range(3, 100, 10):
        wear(client, stream, number, "gone", 1_000)
    given: list[int] = []

    async def main() -> None:
        consumer = working(
            server.url,
            stream,
            ack=ack,
            batch_size=7,
            block_ms=20,
            reclaim_min_idle_ms=30 if ack == "manual" else 60_000,
            reclaim_interval_ms=1,
            max_deliveries=1_000,
            dead_letter=f"{stream}:dead",
        )
        async with consumer, asyncio.timeout(20 * SLACK):
            while len(set(given)) < 390 or client.xlen(f"{stream}:dead") < 10:
                asking = asyncio.ensure_future(anext(consumer))
                await asyncio.wait([asking], timeout=chance.uniform(0, 0.006))
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    batch = await asking
                    given.extend(batch.frame["n"].to_list())
                    if ack == "manual":
                        await batch.ack()

    runner.run(main())
    letters = [*range(3, 100, 10)]
    assert sorted(given) == [n for n in range(1, 401) if n not in letters]
    assert sorted(dead(client, stream)) == letters
    assert pending(client, stream) == []


@pytest.mark.parametrize("how", ["break", "exception", "cancel"])
@pytest.mark.parametrize("world", ["sync", "async"])
def test_a_loop_that_is_left(
    any_server: Server, client: redis.Redis, stream: str, world: str, how: str
) -> None:
    """After an exception the batch in hand stays pending; no connection is left behind."""
    add_numbers(client, stream, 9)
    connection = RedisConnection(any_server.url, client_name="put-down")
    consumer = working(connection, stream, batch_size=3, reclaim_min_idle_ms=None)
    error: type[BaseException] = asyncio.CancelledError if how == "cancel" else ZeroDivisionError

    def leave(turns: int) -> bool:
        if turns < 2:
            return False
        if how == "break":
            return True
        raise error

    def loop() -> None:
        with consumer:
            for turns, _ in enumerate(consumer, 1):
                if leave(turns):
                    break

    async def aloop() -> None:
        turns = 0
        async with consumer:
            async for _ in consumer:
                turns += 1
                if leave(turns):
                    break

    with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
        if world == "sync":
            loop()
        else:
            asyncio.run(aloop())
    assert pending(client, stream) == ([] if how == "break" else [4, 5, 6])
    eventually(lambda: named(client, "put-down") <= 2)
    assert not is_waiting(client, "put-down")()
    again = working(any_server.url, stream, **DRAIN)
    assert flat(drained(again)) == [*range(7 if how == "break" else 4, 10)]


@pytest.mark.parametrize("world", ["sync", "async"])
def test_an_exception_of_the_handler(
    any_server: Server, client: redis.Redis, stream: str, world: str
) -> None:
    add_numbers(client, stream, 9)
    consumer = working(any_server.url, stream, batch_size=3, **DRAIN)

    def handle(batch: Any) -> None:
        if 5 in batch.frame["n"]:
            raise ZeroDivisionError

    async def handle_async(batch: Any) -> None:
        handle(batch)

    def work() -> None:
        retries: dict[str, Any] = {"attempts": 2, "retry_base_delay": 0.001}
        if world == "sync":
            consumer.run(handle, **retries)
        else:
            asyncio.run(consumer.run_async(handle_async, **retries))

    with pytest.raises(ZeroDivisionError):
        work()
    assert pending(client, stream) == [4, 5, 6]


INTERRUPTED = """
connection = redfloe.RedisConnection(sys.argv[1], client_name="ctrl-c")
consumer = redfloe.StreamConsumer(connection, "s", "g", "me", block_ms=0)

async def work():
    async with consumer:
        async for batch in consumer:
            print(json.dumps(batch.frame["n"].to_list()), flush=True)

try:
    if sys.argv[2] == "sync":
        with consumer:
            for batch in consumer:
                print(json.dumps(batch.frame["n"].to_list()), flush=True)
    else:
        asyncio.run(work())
except KeyboardInterrupt:
    print(json.dumps("interrupted"), flush=True)
"""


@pytest.mark.parametrize("world", ["sync", "async"])
def test_ctrl_c_while_it_waits(any_server: Server, client: redis.Redis, world: str) -> None:
    """What was done with is acknowledged, and the process ends at once."""
    add_numbers(client, "s", 2)
    with python(INTERRUPTED, any_server.url, world) as process:
        assert hear(process) == ["1", "2"]
        eventually(is_waiting(client, "ctrl-c"), seconds=8)
        process.send_signal(signal.SIGINT)
        with within(3):
            assert hear(process) == "interrupted"
            process.wait()
    assert pending(client, "s") == []
    add_numbers(client, "s", 5, first=3)
    assert flat(drained(working(any_server.url, "s", **DRAIN))) == [3, 4, 5]


@pytest.mark.parametrize("world", ["sync", "async"])
def test_ctrl_c_while_a_batch_is_in_hand(
    any_server: Server, client: redis.Redis, world: str
) -> None:
    """It was not done with, so it stays pending and comes again."""
    add_numbers(client, "s", 2)
    script = INTERRUPTED.replace(
        "flush=True)\n\ntry", "flush=True)\n            await asyncio.sleep(60)\n\ntry"
    ).replace("flush=True)\n    else", "flush=True)\n                time.sleep(60)\n    else")
    with python(script, any_server.url, world) as process:
        assert hear(process) == ["1", "2"]
        process.send_signal(signal.SIGINT)
        with within(3):
            assert hear(process) == "interrupted"
            process.wait()
    assert pending(client, "s") == [1, 2]
    assert flat(drained(working(any_server.url, "s", **DRAIN))) == [1, 2]


# A handler that takes longer than others wait


@pytest.mark.parametrize("extends", [True, False])
def test_a_handler_that_is_slower_than_the_reclaim(
    server: Server, client: redis.Redis, stream: str, extends: bool
) -> None:
    """Its entries are processed twice, unless it says now and then that it is at work."""
    add_numbers(client, stream, 3)
    idle = 400
    with working(server.url, stream, consumer="slow", reclaim_min_idle_ms=None) as slow:
        batch = next(slow)
        other = working(
            server.url,
            stream,
            consumer="other",
            block_ms=20,
            reclaim_min_idle_ms=idle,
            reclaim_interval_ms=20,
        )
        taken: list[list[int]] = []

        def watch() -> None:
            with other:
                taken.extend(one.frame["n"].to_list() for one in other)

        with ThreadPoolExecutor(1) as pool:
            watching = pool.submit(watch)
            try:
                if extends:
                    # Longer than they may be idle, and more often than that.
                    until = time.monotonic() + 2 * idle / 1_000
                    while time.monotonic() < until:
                        assert batch.extend() == 3
                        time.sleep(0.02)
                    assert taken == []
                else:
                    eventually(lambda: taken == [[1, 2, 3]])
                    assert batch.extend() == 0
                batch.ack()
            finally:
                other.stop()
            watching.result()
    assert pending(client, stream) == []


# Memory


def test_memory_stays_flat(redis70: Server) -> None:
    """The process does not grow while it drains some hundred thousand entries."""
    entries = 300_000
    with redis70.client() as client:
        for first in range(1, entries, 50_000):
            add_numbers(client, "s", first + 49_999, first=first)
    script = """
        def resident():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

        consumer = redfloe.StreamConsumer(
            sys.argv[1], "s", "g", "me", batch_size=1_000, on_idle="stop", block_ms=1
        )
        with consumer:
            for number, batch in enumerate(consumer):
                if number == 100:
                    early = resident()
                late = resident()
        print(json.dumps([consumer.stats.acknowledged, late - early]))
    """
    with python(script, redis70.url) as process:
        acknowledged, grown = hear(process)
    assert acknowledged == entries
    assert grown < 8 * 1024 * 1024, f"{grown / 1024 / 1024:.1f} MiB"
