"""Apps under fire: workers that are killed and stopped in the middle of handlers, servers too."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

import redfloe
from redfloe import RedfloeError
from redfloe.messages import Producer
from support.events import orders
from support.processes import ENDS_WELL, hear, python
from support.server import Server
from support.timing import eventually

SECONDS = float(os.environ.get("REDFLOE_TORTURE_SECONDS", "60"))
SEED = int(os.environ.get("REDFLOE_TORTURE_SEED") or random.randrange(2**32))

pytestmark = [pytest.mark.torture, pytest.mark.timeout(4 * SECONDS + 200)]

#: The handler raises for these, each time.
RAISES = 97

#: Notes what it has handled. Its name says whether its handler is async.
WORKER = (
    ENDS_WELL
    + """
import random
from pydantic import BaseModel
from redfloe.messages import App, Retry

class OrderPlaced(BaseModel):
    order_id: int

url, directory, name = sys.argv[1:]
log = os.open(f"{directory}/{name}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def work(event):
    if event.order_id % RAISES == 0:
        raise ValueError("poison")
    if random.random() < 0.01:
        raise RuntimeError("now and then")
    if random.random() < 0.01:
        return False
    os.write(log, f"{event.order_id}\\n".encode())

async def handle_async(event):
    await asyncio.sleep(0.004 * random.random())
    return work(event)

def handle(event):
    time.sleep(0.004 * random.random())
    return work(event)

while True:
    app = App(
        redfloe.RedisConnection(url, connect_timeout=2), group="g", consumer=name, concurrency=4,
        batch_size=20, dead_letter="{stream}:dead", retry=Retry(attempts=4, base_delay=0.001),
        reclaim_min_idle_ms=500, reclaim_interval_ms=50,
    )
    app.on("s", OrderPlaced)(handle_async if "async" in name else handle)
    try:
        app.run()
        break
    except redfloe.RedfloeError as error:
        print(json.dumps(repr(error)), file=sys.stderr, flush=True)
        time.sleep(0.1)
""".replace("RAISES", str(RAISES))
)

NAMES = ("async-1", "sync-1", "async-2")


def test_nothing_is_lost(tmp_path: Path) -> None:
    print("REDFLOE_TORTURE_SEED", SEED)
    chances = random.Random(SEED)
    with ExitStack() as stack:
        server = stack.enter_context(
            Server("redis-7.0", args=["--appendonly", "yes", "--appendfsync", "always"])
        )

        def start(name: str) -> subprocess.Popen[str]:
            return stack.enter_context(python(WORKER, server.url, str(tmp_path), name))

        workers = {name: start(name) for name in NAMES}
        producer = stack.enter_context(Producer(server.url, "s"))
        published, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            try:
                producer.publish_many(orders(published + 50, first=published + 1))
                published += 50
            except RedfloeError:
                continue  # it is not known, and they are published again
            time.sleep(0.05)
            what = chances.random()
            if what < 0.08:
                name = chances.choice(NAMES)
                workers[name].send_signal(signal.SIGKILL if what < 0.05 else signal.SIGTERM)
                workers[name].wait(60)
                workers[name] = start(name)
            elif what < 0.085:
                server.kill()
                server.start()

        def settled() -> bool:
            info = redfloe.group_info(server.url, "s").row(0, named=True)
            last = redfloe.stream_info(server.url, "s")["last_generated_id"].item()
            return bool(info["pending"] == 0 and info["last_delivered_id"] == last)

        eventually(settled, seconds=60)
        for worker in workers.values():
            hear(worker)  # it has begun
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0
        handled = Counter(
            int(line) for log in tmp_path.glob("*.log") for line in log.read_text().splitlines()
        )
        dead = redfloe.read_dead_letters(server.url, "s:dead", {"order_id": int})
    poison = {number for number in range(1, published + 1) if number % RAISES == 0}
    assert {*dead["order_id"]} >= poison
    assert {*handled} | {*dead["order_id"]} == {*range(1, published + 1)}
    assert not poison & {*handled}
    twice = sum(handled.values()) - len(handled)
    print(json.dumps({"published": published, "twice": twice, "dead": dead.height}))
