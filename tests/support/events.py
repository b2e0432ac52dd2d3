"""Events that tests publish and handle, of each kind of model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

import redfloe
from redfloe.messages import App, Producer
from support.server import Server
from support.timing import SLACK


class OrderPlaced(BaseModel):
    order_id: int
    total: Decimal = Decimal("9.90")


class OrderPaid(BaseModel):
    order_id: int
    by: str | None = None


def orders(last: int, *, first: int = 1) -> list[OrderPlaced]:
    """Give orders of these numbers."""
    return [OrderPlaced(order_id=number) for number in range(first, last + 1)]


def publish(server: Server, *events: Any, stream: str = "orders") -> list[str]:
    """Publish events; give their IDs."""
    with Producer(server.url, stream) as producer:
        number = producer.publish_many(events)
    return redfloe.read_stream(server.url, stream, {}, last=number)["_id"].to_list()


async def until(happened: Callable[[], object], app: App | None = None) -> None:
    """Wait for something that an app does, while it is alive."""
    async with asyncio.timeout(10 * SLACK):
        while not happened():
            assert app is None or app.health().alive, app.health()
            await asyncio.sleep(0.005)


async def working(app: App, happened: Callable[[], object]) -> None:
    """Have an app work until something has happened."""
    async with app:
        await until(happened, app)


def work(app: App, happened: Callable[[], object]) -> None:
    """Do so in an event loop of its own."""
    asyncio.run(working(app, happened))


def pending(client: Any, stream: str, group: str) -> int:
    """Count the entries of a group that are delivered and not acknowledged."""
    found: int = client.xpending(stream, group)["pending"]
    return found
