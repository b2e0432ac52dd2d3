"""Messages: published one by one and many at a time, and consumed.

``python benches/messages.py NAME URL`` runs one contender, in a process of its own, and prints how
many messages a second it has published or consumed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

    from support.server import Server

STREAM = "messages"
ONE_BY_ONE = 5_000
MANY = 100_000
#: How many a contender consumes that takes them one by one.
SOME = 10_000


class Event(BaseModel):
    """What is published."""

    user: str
    action: str
    amount: int
    score: float
    valid: bool


def events(count: int) -> list[Event]:
    """Make events."""
    return [
        Event(
            user=f"user_{number % 50_000:06}_name",
            action=("click", "view", "purchase")[number % 3],
            amount=number,
            score=number / 4,
            valid=number % 2 == 1,
        )
        for number in range(count)
    ]


# Publishing


def publish_one_by_one(url: str) -> float:
    from redfloe.messages import Producer

    chosen = events(ONE_BY_ONE)
    with Producer(url, STREAM) as producer:
        producer.publish(chosen[0])
        start = time.perf_counter()
        for event in chosen:
            producer.publish(event)
        return ONE_BY_ONE / (time.perf_counter() - start)


def xadd_one_by_one(url: str) -> float:
    client = redis.Redis.from_url(url)
    chosen = events(ONE_BY_ONE)
    client.xadd(STREAM, fields(chosen[0]))
    start = time.perf_counter()
    for event in chosen:
        client.xadd(STREAM, fields(event))
    return ONE_BY_ONE / (time.perf_counter() - start)


def publish_in_a_loop(url: str) -> float:
    from redfloe.messages import Producer

    async def main() -> float:
        chosen = events(ONE_BY_ONE)
        async with Producer(url, STREAM) as producer:
            await producer.publish(chosen[0])
            start = time.perf_counter()
            for event in chosen:
                await producer.publish(event)
            return ONE_BY_ONE / (time.perf_counter() - start)

    return asyncio.run(main())


def xadd_in_a_loop(url: str) -> float:
    async def main() -> float:
        client = redis.asyncio.Redis.from_url(url)
        chosen = events(ONE_BY_ONE)
        await client.xadd(STREAM, fields(chosen[0]))
        start = time.perf_counter()
        for event in chosen:
            await client.xadd(STREAM, fields(event))
        took = time.perf_counter() - start
        await client.aclose()
        return ONE_BY_ONE / took

    return asyncio.run(main())


def publish_many(url: str) -> float:
    from redfloe.messages import Producer

    chosen = events(MANY)
    with Producer(url, STREAM) as producer:
        producer.publish(chosen[0])
        start = time.perf_counter()
        producer.publish_many(chosen)
        return MANY / (time.perf_counter() - start)


def xadd_in_pipelines(url: str) -> float:
    client = redis.Redis.from_url(url)
    chosen = events(MANY)
    start = time.perf_counter()
    for first in range(0, MANY, 1_000):
        with client.pipeline(transaction=False) as pipeline:
            for event in chosen[first : first + 1_000]:
                pipeline.xadd(STREAM, fields(event))
            pipeline.execute()
    return MANY / (time.perf_counter() - start)


def fields(event: Event) -> Any:
    """Give the same fields that our rows have."""
    return {"_type": "Event", **event.model_dump(mode="json"), "valid": str(event.valid).lower()}


# Consuming


def handlers(url: str) -> float:
    from redfloe.messages import App

    app = App(url, group="handlers", on_misfit="raise", batch_size=1_000)
    seen = 0

    @app.on(STREAM, Event)
    async def handle(_event: Event) -> None:
        nonlocal seen
        seen += 1
        if seen == MANY:
            app.stop()

    start = time.perf_counter()
    app.run()
    return MANY / (time.perf_counter() - start)


def frames(url: str) -> float:
    from redfloe.messages import App

    app = App(url, group="frames", on_misfit="raise")
    seen = 0

    @app.on_batch(STREAM, Event)
    def load(frame: pl.DataFrame) -> None:
        nonlocal seen
        seen += frame.height
        if seen == MANY:
            app.stop()

    start = time.perf_counter()
    app.run()
    return MANY / (time.perf_counter() - start)


def natricine(url: str) -> float:
    """A subscriber as natricine's README shows it: ten at a time, acknowledged one by one."""

    async def main() -> float:
        client = redis.asyncio.Redis.from_url(url)
        await client.xgroup_create(STREAM, "natricine", id="0")
        seen = 0
        start = time.perf_counter()
        while seen < SOME:
            reply: Any = await client.xreadgroup(
                "natricine", "worker-1", {STREAM: ">"}, count=10, block=5_000
            )
            for _, entries in reply:
                for entry_id, entry in entries:
                    texts = {name.decode(): value.decode() for name, value in entry.items()}
                    await handle(Event.model_validate(texts))
                    await client.xack(STREAM, "natricine", entry_id)
                    seen += 1
        took = time.perf_counter() - start
        await client.aclose()
        return seen / took

    async def handle(_event: Event) -> None: ...

    return asyncio.run(main())


def faststream(url: str) -> float:
    """A subscriber of FastStream's, of messages that it has published."""
    import logging

    # It is not among our dependencies, and so has no types.
    faststream_redis: Any = importlib.import_module("faststream.redis")

    async def main() -> float:
        done = asyncio.Event()
        seen = 0
        broker = faststream_redis.RedisBroker(url, logger=None, log_level=logging.ERROR)

        async def handle(_event: Event) -> None:
            nonlocal seen
            seen += 1
            if seen == SOME:
                done.set()

        reading = faststream_redis.StreamSub(
            "faststream", group="g", consumer="worker-1", last_id=">"
        )
        broker.subscriber(stream=reading)(handle)
        await broker.connect()
        client = redis.asyncio.Redis.from_url(url)
        await client.xgroup_create("faststream", "g", id="0", mkstream=True)
        for event in events(SOME):
            await broker.publish(event, stream="faststream")
        start = time.perf_counter()
        await broker.start()
        await done.wait()
        took = time.perf_counter() - start
        await broker.stop()
        await client.aclose()
        return SOME / took

    return asyncio.run(main())


@dataclass(frozen=True)
class Contender:
    """Somebody who publishes or consumes, and against whom that is measured."""

    run: Callable[[str], float]
    against: str
    publishes: bool = False


_XADD, _AWAITED, _PIPELINES, _NATRICINE = (
    "redis-py `xadd`, one by one",
    "redis.asyncio `xadd`, one by one",
    "redis-py, pipelines of 1,000",
    "natricine's loop, done with redis-py",
)
CONTENDERS = {
    _XADD: Contender(xadd_one_by_one, _XADD, publishes=True),
    "redfloe `publish`, one by one": Contender(publish_one_by_one, _XADD, publishes=True),
    _AWAITED: Contender(xadd_in_a_loop, _AWAITED, publishes=True),
    "redfloe `publish` in an event loop": Contender(publish_in_a_loop, _AWAITED, publishes=True),
    _PIPELINES: Contender(xadd_in_pipelines, _PIPELINES, publishes=True),
    "redfloe `publish_many`, 100,000": Contender(publish_many, _PIPELINES, publishes=True),
    _NATRICINE: Contender(natricine, _NATRICINE),
    "redfloe, async handler of models": Contender(handlers, _NATRICINE),
    "redfloe, typed `on_batch`": Contender(frames, _NATRICINE),
}
if importlib.util.find_spec("faststream") is not None:
    CONTENDERS["FastStream, async handler of models"] = Contender(faststream, _NATRICINE)


def rows(
    server: Server, rounds: int, run: Callable[..., str]
) -> list[tuple[str, Contender, list[float]]]:
    """Let the contenders take turns; give what each does a second, in each round."""
    took: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name, contender in CONTENDERS.items():
            with server.client() as client:
                client.delete(STREAM, "faststream")
            if not contender.publishes:
                publish_many(server.url)
                with server.client() as client:
                    client.xtrim(STREAM, maxlen=MANY, approximate=False)
            took[name].append(float(run("messages.py", name, server.url, POLARS_MAX_THREADS="2")))
            print(f"messages round {number + 1}: {name}: {took[name][-1]:,.0f}/s")
    with server.client() as client:
        client.delete(STREAM, "faststream")
    return [(name, CONTENDERS[name], rates) for name, rates in took.items()]


if __name__ == "__main__":
    print(CONTENDERS[sys.argv[1]].run(sys.argv[2]))
