"""Handlers of orders that commit what they do with their messages, and what must come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import polars as pl
from pydantic import BaseModel

import redfloe
from redfloe.messages import (
    App,
    Message,
    Processor,
    Retry,
    Router,
    Transaction,
)
from support.consumers import World
from support.events import OrderPaid, OrderPlaced, publish
from support.server import Server

DRAIN: dict[str, Any] = {"on_idle": "stop", "block_ms": 1}
AT_ONCE: dict[str, Any] = {"attempts": 1}


class Total(BaseModel):
    orders: int
    ids: list[int]


def numbers(server: Server, stream: str = "paid") -> list[int]:
    return redfloe.read_stream(server.url, stream, {"order_id": pl.Int64})["order_id"].to_list()


def dead(server: Server, stream: str = "orders:dead") -> list[tuple[str, str]]:
    """Give the IDs and the reasons of dead letters, each without its traceback."""
    letters = redfloe.read_dead_letters(server.url, stream, {"order_id": pl.String})
    return [
        (number, reason.partition("\n")[0])
        for number, reason in letters.select("order_id", "_dead_reason").rows()
    ]


def paying(poison: int | None = None, kind: str = "sync", **options: Any) -> Router:
    """Give a router whose handler counts orders, and publishes one that is paid for each."""
    router = Router()

    def pay(event: OrderPlaced, tx: Transaction) -> None:
        tx.publish(OrderPaid(order_id=event.order_id), stream="paid")
        if event.order_id == poison:
            raise KeyError(poison)

    async def pay_async(event: OrderPlaced, tx: Transaction) -> None:
        await asyncio.sleep(0)
        pay(event, tx)

    if kind in ("sync", "both"):
        router.on("orders", OrderPlaced, **options)(pay)
    if kind in ("async", "both"):
        router.on("orders", OrderPlaced, **options)(pay_async)
    return router


def processor(server: Server, router: Router, **options: Any) -> Processor:
    return Processor(server.url, "orders", router, **{"name": "p", **DRAIN, **options})


def app_of(server: Server, *routers: Router, **options: Any) -> App:
    given: dict[str, Any] = {"group": "g", "consumer": "c", "retry": Retry(attempts=1), **options}
    app = App(given.pop("url", server.url), **given)
    app.include(*routers)
    return app


def run(world: World, made: Processor, **options: Any) -> None:
    if world.runner is None:
        made.run(**options)
    else:
        world.do(made.run_async(**options))


def state(server: Server) -> dict[str, Any]:
    """Give what a processor of the name has in its state."""
    found: dict[str, Any] = {}
    with redfloe.StreamProcessor(server.url, "orders", name="p", start_id="$", **DRAIN) as made:
        publish(server, Message("last", {"n": 1}))
        for tx in made:
            found = dict(tx.state)
    return found


def counting(told: Callable[[int], object] = lambda number: None) -> Router:
    """Give a router whose handler publishes which order it is of those that it has had."""
    router = Router()

    @router.on("orders", OrderPlaced)
    def count(event: OrderPlaced, tx: Transaction) -> None:
        tx.state["seen"] = tx.state.get("seen", 0) + 1
        tx.publish(OrderPaid(order_id=event.order_id, by=str(tx.state["seen"])), stream="paid")
        told(event.order_id)

    return router


def check_counted(server: Server, last: int) -> None:
    """Each order is paid once, as the one that it is."""
    schema = {"order_id": pl.Int64, "by": pl.Int64}
    paid = redfloe.read_stream(server.url, "paid", schema).select("order_id", "by").rows()
    assert paid == [(number, number) for number in range(1, last + 1)]
