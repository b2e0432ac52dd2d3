"""Six processors over eight lanes in the fire: killed, frozen; masters that change places.

The fire burns for REDFLOE_TORTURE_SECONDS (75); REDFLOE_TORTURE_SEED repeats the chances of a run.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

import redfloe
from support.cluster import Cluster
from support.processes import hear, python
from support.sharded_processors import check, drain
from support.shards import TAGS

SECONDS = float(os.environ.get("REDFLOE_TORTURE_SECONDS", "75"))
SEED = int(os.environ.get("REDFLOE_TORTURE_SEED") or random.randrange(2**32))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(4 * SECONDS + 300)]

WORKERS = 6
#: Processes until it is killed; one that fails begins anew, as a supervisor would have it.
WORKER = f"""
import logging
import random
import sys
import time
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import redfloe
from support.sharded_processors import processor, work
logging.getLogger("redfloe").setLevel(logging.CRITICAL)
url, stream, out, seed = sys.argv[1:]
chance = random.Random(seed)
print(0, flush=True)
while True:
    size = chance.choice([3, 20, 100])
    made = processor(
        url, stream, on_idle="wait", block_ms=50, lease_ms=400, batch_size=size
    )
    try:
        with made:
            for tx in made:
                work(tx, out)
                if chance.random() < 0.2:
                    time.sleep(chance.uniform(0, 0.1))
    except redfloe.RedfloeError as error:
        print(type(error).__name__, error, file=sys.stderr, flush=True)
        time.sleep(chance.uniform(0, 0.2))
"""


def rows(chance: random.Random, first: int) -> pl.DataFrame:
    users = [f"user_{chance.randrange(997)}" for _ in range(100)]
    return pl.DataFrame({"user": users, "n": range(first, first + 100)})


def test_lanes_in_the_fire() -> None:
    chance, deaths = random.Random(SEED), Counter[int]()
    print(f"\nseed {SEED}")
    with Cluster("redis-7.0") as cluster, contextlib.ExitStack() as stack:
        stream, out, written = "events", "events:out", [rows(chance, 0)]
        redfloe.write_stream(cluster.url, written[0], stream, shards=8, shard_by="user")
        crew: list[subprocess.Popen[str]] = []

        def hire() -> subprocess.Popen[str]:
            arguments = (cluster.url, stream, out, str(chance.random()))
            process = stack.enter_context(python(WORKER, *arguments))
            hear(process)
            assert process.stderr is not None
            threading.Thread(target=list, args=(process.stderr,), daemon=True).start()
            return process

        crew += [hire() for _ in range(WORKERS)]
        ends, moves = time.monotonic() + SECONDS, 0
        while time.monotonic() < ends:
            written.append(rows(chance, 100 * len(written)))
            redfloe.write_stream(cluster.url, written[-1], stream)
            place = chance.randrange(WORKERS)
            match chance.random():
                case draw if draw < 0.25:
                    crew[place].kill()
                    crew[place].wait()
                    deaths[signal.SIGKILL] += 1
                    crew[place] = hire()
                case draw if draw < 0.5:
                    crew[place].send_signal(signal.SIGSTOP)
                    time.sleep(chance.uniform(0, 1.5))
                    crew[place].send_signal(signal.SIGCONT)
                    deaths[signal.SIGSTOP] += 1
                case draw if draw < 0.53:
                    cluster.fail_over(f"{stream}:{{{chance.choice(TAGS)}}}")
                    moves += 1
            time.sleep(chance.uniform(0, 0.2))
        for process in crew:
            process.kill()
            process.wait()
        drain(cluster.url, stream, out)
        check(cluster.url, stream, out, written)
        print(f"{100 * len(written)} entries, {dict(deaths)}, {moves} planned failovers")
        assert deaths[signal.SIGKILL] > 0
        assert moves > 0 or SECONDS < 60
