"""Workers with transactions that die in their handlers and in commits: each output is there once.

The places are chances of a seed, which the test's name has.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe import RedisConnection
from support.events import orders, pending, publish
from support.paying import app_of, check_counted, counting, numbers, paying, processor
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.steps import PLACES, strike
from support.timing import SLACK, eventually, meanwhile

#: What a worker that died has is claimed soon.
EAGER: dict[str, Any] = {"reclaim_min_idle_ms": 50, "reclaim_interval_ms": 20}
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}
#: So short that the next one need not wait for it.
LEASE = 120

_SUPPORT = f"""
sys.path.insert(0, {str(Path(__file__).parent)!r})
from support.paying import *

def tell(number):
    print(json.dumps(number), flush=True)

options = json.loads(sys.argv[2])
"""

#: A process that drains the stream, and says which messages its handler has had.
PROCESSOR = (
    _SUPPORT
    + """
Processor(sys.argv[1], "orders", counting(tell), name="p", **DRAIN, **options).run()
"""
)

#: An app that goes on until it is killed.
APP = (
    _SUPPORT
    + """
from redfloe.messages import Router

app = App(sys.argv[1], group="g", **options)
telling = Router()

@telling.on("orders", OrderPlaced, exactly_once=True)
async def say(event, tx):
    tell(event.order_id)

app.include(paying(kind=sys.argv[3], exactly_once=True), telling)
app.run()
"""
)


@pytest.mark.parametrize("place", [place for place in PLACES if "first" not in place])
def test_a_processor_that_is_killed_in_its_commit(any_server: Server, place: str) -> None:
    chance = random.Random(place)
    publish(any_server, *orders(9))
    processor(any_server, counting(), name="warm", start_id="$").run()  # scripts are loaded
    options = json.dumps({"batch_size": 2, "lease_ms": LEASE})
    with Proxy(any_server.port) as proxy:
        with python(PROCESSOR, proxy.url, options) as process:

            def kill() -> None:
                process.kill()
                process.wait()

            fault = strike(proxy, "commit", place, chance, kill)
            assert process.wait(20 * SLACK) < 0
        assert fault.hits == 1
    processor(any_server, counting(), batch_size=3).run()
    check_counted(any_server, 9)


def test_a_processor_that_is_killed_in_its_handlers(any_server: Server) -> None:
    chance = random.Random(1)
    publish(any_server, *orders(4_000))
    options = json.dumps({"batch_size": 20, "lease_ms": LEASE})
    with python(PROCESSOR, any_server.url, options) as process:
        for _ in range(chance.randint(1, 100)):
            hear(process)
        process.kill()
        process.wait()
    assert len(numbers(any_server)) < 4_000
    processor(any_server, counting()).run()
    check_counted(any_server, 4_000)


@pytest.mark.parametrize("place", ["in the second half", "after"])
def test_an_app_whose_commit_is_lost(any_server: Server, client: redis.Redis, place: str) -> None:
    """It is told apart from one that is in: what a drain says was published is in, once."""
    chance = random.Random(place)
    publish(any_server, *orders(9))
    app_of(any_server, paying(exactly_once=True), group="warm").drain()
    client.delete("paid")
    with Proxy(any_server.port) as proxy:
        fault = strike(proxy, "commit", place, chance)
        url = RedisConnection(proxy.url, **QUICK)
        app = app_of(any_server, paying(exactly_once=True), url=url, batch_size=2)
        drained = app.drain()
        assert fault.hits == 1
    assert numbers(any_server) == [*range(1, 10)]
    assert [one.event.order_id for one in drained.handled] == [*range(1, 10)]
    assert len(drained.published) == 9
    assert pending(client, "orders", "g") == 0


@pytest.mark.slow
def test_apps_that_are_killed_at_any_time(any_server: Server, client: redis.Redis) -> None:
    chance = random.Random(1)
    options = [json.dumps({"batch_size": 5, "consumer": name, **EAGER}) for name in ("c1", "c2")]
    published = 0

    def publish_ten() -> None:
        nonlocal published
        publish(any_server, *orders(published + 10, first=published + 1))
        published += 10
        time.sleep(0.005)

    with (
        python(APP, any_server.url, options[0], "sync") as first,
        python(APP, any_server.url, options[1], "async") as second,
        meanwhile(publish_ten),
    ):
        for process in chance.sample([first, second], 2):
            for _ in range(chance.randint(1, 60)):
                hear(process)
            process.kill()
            process.wait()
    # Another claims what they have left, and reads the rest.
    app = app_of(any_server, paying(exactly_once=True), consumer="last", **EAGER)

    def all_is_done() -> bool:
        app.drain()
        return not pending(client, "orders", "g") and len(numbers(any_server)) >= published

    eventually(all_is_done, seconds=10)
    assert Counter(numbers(any_server)) == Counter(range(1, published + 1))


def test_sigterm_ends_an_app_after_the_batch_in_hand(
    any_server: Server, client: redis.Redis
) -> None:
    publish(any_server, *orders(2_000))
    options = json.dumps({"batch_size": 5, "consumer": "c"})
    with python(APP, any_server.url, options, "both") as process:
        hear(process)
        process.terminate()
        process.communicate(timeout=20 * SLACK)
        assert process.returncode == 0
    done = numbers(any_server)[::2]
    assert done == [*range(1, len(done) + 1)]
    assert len(done) % 5 == 0
    assert 0 < len(done) < 2_000
    assert pending(client, "orders", "g") % 5 == 0
