"""Kills, and requests and replies that are lost, at each step of a processor's protocol.

The places are chances of a seed, which the test's name has.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe import RedisConnection
from support.consumers import World
from support.lanes import STEPS
from support.processes import python
from support.processors import LANE, STREAM, check, processor, work
from support.proxy import Proxy
from support.server import Server
from support.steps import PLACES, strike
from support.streams import add_numbers
from support.timing import SLACK

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}
ENTRIES = 9
#: So short that the heartbeat extends it within a batch.
LEASE = 120

#: A process that works until the stream is drained.
WORKER = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.consumers import World
from support.processors import processor, work

with processor(sys.argv[1], **json.loads(sys.argv[2])) as made:
    for tx in made:
        work(World(None), tx)
        time.sleep(float(sys.argv[3]))
"""


@pytest.fixture
def warm(any_server: Server, client: redis.Redis) -> Server:
    """A server that has the entries, and knows the scripts, so that EVALSHA is all that is sent."""
    add_numbers(client, STREAM, ENTRIES)
    with processor(any_server.url, name="warm", lease_ms=LEASE) as made:
        for _ in made:
            time.sleep(LEASE / 1_000)
    return any_server


@pytest.mark.parametrize("seed", range(1))
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("step", STEPS)
def test_a_connection_that_is_lost(
    warm: Server, client: redis.Redis, step: str, place: str, seed: int
) -> None:
    """The processor goes on, with the same result, as the same acquisition of the lane."""
    chance = random.Random(f"{step} {place} {seed}")
    with Proxy(warm.port) as proxy:
        fault = strike(proxy, step, place, chance)
        url = RedisConnection(proxy.url, **QUICK)
        with processor(url, batch_size=2, lease_ms=LEASE) as made:
            for tx in made:
                work(SYNC, tx)
                if step == "renew":
                    time.sleep(LEASE / 2_000)
        assert fault.hits == 1
    check(client, ENTRIES)
    assert client.hget(LANE, "epoch") == b"1"
    assert client.hget(LANE, "commits") == b"5"


@pytest.mark.parametrize(
    ("step", "place"),
    [
        (step, place)
        for step in STEPS
        for place in PLACES
        if step == "commit" or "half" not in place
    ],
)
def test_a_process_that_is_killed(warm: Server, client: redis.Redis, step: str, place: str) -> None:
    """Another goes on where it was, once the lease has expired."""
    chance = random.Random(f"{step} {place}")
    options = json.dumps({"batch_size": 2, "lease_ms": LEASE})
    pace = str(LEASE / 2_000 if step == "renew" else 0)
    with Proxy(warm.port) as proxy:
        with python(WORKER, proxy.url, options, pace) as process:

            def kill() -> None:
                process.kill()
                process.wait()

            fault = strike(proxy, step, place, chance, kill)
            assert process.wait(20 * SLACK) < 0
        assert fault.hits == 1
    with processor(warm.url, batch_size=3, block_ms=1) as made:
        for tx in made:
            work(SYNC, tx)
    check(client, ENTRIES)
