"""An app beside a web service: FastAPI's lifespan, under uvicorn, with a restart under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe._local import free_port
from support.events import pending
from support.server import HOST, Server
from support.timing import SLACK

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

#: As the guide shows it.
SERVICE = """\
import asyncio
import os
from contextlib import asynccontextmanager

from fastapi import FastAPI
from pydantic import BaseModel

from redfloe.messages import App, AsyncProducer


class OrderPlaced(BaseModel):
    order_id: int


app = App(os.environ["REDIS_URL"], group="g", consumer="c", concurrency=4)
producer = AsyncProducer(app.producer("orders"))


@app.on("orders", OrderPlaced)
async def bill(event: OrderPlaced) -> None:
    await asyncio.sleep(0.002)
    with open(os.environ["HANDLED"], "a") as file:
        file.write(f"{event.order_id}\\n")


@asynccontextmanager
async def lifespan(api: FastAPI):
    async with app:
        yield
    await producer.close()


api = FastAPI(lifespan=lifespan)


@api.post("/orders/{order_id}")
async def place(order_id: int) -> str:
    return await producer.publish(OrderPlaced(order_id=order_id))


@api.get("/health")
def health() -> dict[str, bool]:
    return {"alive": app.health().alive, "ready": app.health().ready}
"""


@contextmanager
def serving(server: Server, directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the service; give its process, and its URL once it is ready."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "service:api", "--port", str(port), "--host", HOST],
        cwd=directory,
        env={
            **os.environ,
            "REDIS_URL": server.url,
            "HANDLED": str(directory / "handled"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    url = f"http://{HOST}:{port}"
    try:
        deadline = time.monotonic() + 10 * SLACK
        while True:
            try:
                if ask(f"{url}/health") == {"alive": True, "ready": True}:
                    break
            except OSError:
                assert process.poll() is None, process.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, url
    finally:
        process.kill()
        process.communicate()


def ask(url: str, method: str = "GET") -> Any:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=10 * SLACK) as answer:
        return json.loads(answer.read())


@pytest.mark.slow
def test_a_restart_under_load_loses_and_repeats_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    with serving(any_server, tmp_path) as (process, url):
        ids = [ask(f"{url}/orders/{number}", "POST") for number in range(1, 31)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10 * SLACK) in (0, -signal.SIGTERM)
    client.xadd("orders", {"_type": "OrderPlaced", "order_id": 31})
    handled = tmp_path / "handled"
    with serving(any_server, tmp_path) as (_, url):
        ids.append(ask(f"{url}/orders/32", "POST"))
        deadline = time.monotonic() + 10 * SLACK
        while len(handled.read_text().splitlines()) < 32:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    assert len({*ids}) == 31
    assert sorted(map(int, handled.read_text().splitlines())) == [*range(1, 33)]
    deadline = time.monotonic() + 10 * SLACK
    while pending(client, "orders", "g") and time.monotonic() < deadline:
        time.sleep(0.02)
