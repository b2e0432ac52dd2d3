"""Three processors of one name in the fire: killed, frozen, cut off; a server that restarts.

Each server is attacked for REDFLOE_TORTURE_SECONDS (75: five minutes for all four);
REDFLOE_TORTURE_SEED repeats the chances of a run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from support.lanes import STEPS, step_of
from support.processes import ENDS_WELL, hear, python
from support.proxy import Command, Proxy
from support.server import BINARIES, Server
from support.streams import add_numbers
from support.timing import eventually
from support.tortured import NAME, STREAM, Left, left, make, work

SECONDS = float(os.environ.get("REDFLOE_TORTURE_SECONDS", "75"))
SEED = int(os.environ.get("REDFLOE_TORTURE_SEED") or random.randrange(2**32))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(4 * SECONDS + 300)]

#: Milliseconds; whoever is frozen for longer is superseded.
LEASE = 400

#: Processes until it is told to end, in a loop, in an event loop, or by a handler. One that fails
#: begins anew, as a supervisor would have it.
WORKER = f"""{ENDS_WELL}
import random
logging.getLogger("redfloe").setLevel(logging.CRITICAL)
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
from support.tortured import make, work, work_async

url, kind, seed = sys.argv[1:]
chance = random.Random(seed)
connection = redfloe.RedisConnection(
    url, response_timeout=2, connect_timeout=1, max_retries=chance.choice([0, 2, 8]),
    retry_base_delay=0.02, retry_max_delay=0.2,
)

def loop(made):
    with made:
        for tx in made:
            work(tx)
            if chance.random() < 0.2:
                time.sleep(chance.uniform(0, 0.1))
            if chance.random() < 0.2:
                tx.commit()

async def loop_async(made):
    async with made:
        async for tx in made:
            await work_async(tx)
            if chance.random() < 0.2:
                await asyncio.sleep(chance.uniform(0, 0.1))

while True:
    made = make(
        connection, lease_ms={LEASE}, batch_size=chance.choice([3, 20, 100]), block_ms=50,
        takeover=chance.random() < 0.1, handle_signals=True,
    )
    try:
        if kind == "async":
            asyncio.run(loop_async(made))
        elif kind == "run":
            made.run(work)
        else:
            loop(made)
        break
    except redfloe.RedfloeError as error:
        print(json.dumps([type(error).__name__, str(error)]), file=sys.stderr, flush=True)
        time.sleep(chance.uniform(0, 0.2))
"""


class Crew:
    """Three processors of one name; one that dies is replaced."""

    KINDS = ("loop", "async", "run")

    def __init__(self, url: str, chance: random.Random) -> None:
        self._url, self._chance = url, chance
        self._stack = contextlib.ExitStack()
        self._alive: dict[str, subprocess.Popen[str]] = {}
        self._said: dict[subprocess.Popen[str], list[str]] = {}
        self._lock = threading.Lock()
        self.deaths: Counter[int] = Counter()

    def hire(self) -> None:
        """Replace those who died."""
        with self._lock:
            for kind in self.KINDS:
                process = self._alive.get(kind)
                if process is not None and process.poll() is None:
                    continue
                if process is not None:
                    self.deaths[process.returncode] += 1
                seed = str(self._chance.random())
                started = self._stack.enter_context(python(WORKER, self._url, kind, seed))
                self._alive[kind], self._said[started] = started, []
                threading.Thread(target=self._listen, args=(started,), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with contextlib.suppress(ValueError):  # it was closed
            self._said[process].extend(process.stderr)

    def signal(self, kind: str, number: signal.Signals) -> None:
        with self._lock:
            if self._alive[kind].poll() is None:
                self._alive[kind].send_signal(number)

    def said(self) -> list[str]:
        """Give what they complained of."""
        return [*itertools.chain.from_iterable(self._said.values())]

    def dismiss(self) -> None:
        for kind, process in self._alive.items():
            self.signal(kind, signal.SIGCONT)
            hear(process)  # it has begun
        for kind in self.KINDS:
            self.signal(kind, signal.SIGTERM)
        for process in self._alive.values():
            assert process.wait(timeout=30) == 0, self.said()[-5:]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def torment(
    chance: random.Random, server: Server, proxy: Proxy, crew: Crew, done: Counter[str]
) -> None:
    """Do one thing to somebody."""
    kind = chance.choice(crew.KINDS)
    what = chance.choices(
        ["kill", "freeze", "cut", "cut a request", "cut a reply", "kill at a step", "restart"],
        [2, 3, 2, 7, 7, 3, 0.5],
    )[0]
    done[what] += 1
    step = chance.choice([*STEPS, "commit", "commit", "commit"])

    def is_it(command: Command) -> bool:
        return step_of(command) == step

    match what:
        case "kill":
            crew.signal(kind, signal.SIGKILL)
        case "freeze":
            crew.signal(kind, signal.SIGSTOP)
            seconds = LEASE / 1_000 * chance.uniform(0.2, 3)
            threading.Timer(seconds, crew.signal, (kind, signal.SIGCONT)).start()
        case "cut":
            proxy.cut_all()
        case "cut a request":
            proxy.break_off(chance.uniform(0, 0.999), once_seen=is_it)
        case "cut a reply":
            proxy.cut_after(chance.choice([0, 0, chance.randrange(60)]), once_seen=is_it)
        case "kill at a step":

            def kill() -> None:
                crew.signal(kind, signal.SIGKILL)

            if chance.random() < 0.5:
                proxy.cut_after(0, once_seen=is_it, then=kill)
            else:
                proxy.break_off(chance.uniform(0, 0.999), once_seen=is_it, then=kill)
        case "restart":
            server.kill()
            server.start()


def undisturbed(server: Server, client: redis.Redis) -> Left:
    """Process it all once more, where nothing happens."""
    client.delete(*client.keys("{numbers}*"))
    with make(server.url, on_idle="stop", block_ms=1, batch_size=1_000) as made:
        for tx in made:
            work(tx)
    return left(client)


@pytest.mark.parametrize("name", list(BINARIES))
def test_processors_in_the_fire(name: str) -> None:
    """What they leave is what one that nothing happened to leaves."""
    chance = random.Random(f"{SEED} {name}")
    print(f"REDFLOE_TORTURE_SEED={SEED}")
    durable = ["--appendonly", "yes", "--appendfsync", "always"]
    done: Counter[str] = Counter()
    with (
        Server(name, args=durable) as server,
        Proxy(server.port) as proxy,
        Crew(proxy.url, chance) as crew,
    ):
        last = 0
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            client: redis.Redis = server.client()
            first, last = last + 1, last + chance.randrange(1, 300)
            add_numbers(client, STREAM, last, first=first)
            crew.hire()
            torment(chance, server, proxy, crew, done)
            time.sleep(chance.uniform(0, 0.3))
        proxy.clear()
        client = server.client()
        lane = f"{{{STREAM}}}:redfloe:{STREAM}:{NAME}"

        def is_done() -> bool:
            crew.hire()
            for kind in crew.KINDS:
                crew.signal(kind, signal.SIGCONT)
            time.sleep(0.1)
            return client.hget(lane, "position") == f"{last}-0".encode()

        eventually(is_done, seconds=SECONDS + 60)
        crew.dismiss()
        lanes: Any = client.hgetall(lane)
        found = left(client)
        expected = undisturbed(server, client)
    complaints = Counter(line.partition(",")[0] for line in crew.said() if line.startswith("["))
    print(f"{name}: {last} entries, {dict(done)}, deaths {dict(crew.deaths)}")
    print(f"{int(lanes[b'commits'])} commits in {int(lanes[b'epoch'])} epochs, {dict(complaints)}")
    print(*sorted({line for line in crew.said() if "ResponseError" in line})[:5], sep="")
    strange = [line for line in crew.said() if "DataLoss" in line or "Traceback" in line]
    assert not strange, strange[:20]
    assert set(crew.deaths) <= {-signal.SIGKILL}
    assert found == expected
    assert len(expected.outputs) + len(expected.letters) == last
