"""Names of workers: no two have the same one at the same time."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest
import redis

from redfloe.messages import App, CommandBus, EventBus, Producer
from support.events import OrderPlaced, orders
from support.processes import hear, python
from support.server import Server

FORKS = """\
from pydantic import BaseModel
from redfloe.messages import App

class OrderPlaced(BaseModel):
    order_id: int

app = App(sys.argv[1], group="g-{{pid}}" if {own_group} else "g", consumer={name!r}, batch_size=1)
handled = asyncio.Event()

@app.on(sys.argv[2], OrderPlaced)
async def handle(event: OrderPlaced) -> None:
    handled.set()
    await asyncio.sleep(60)  # so that there are messages for others, too

def work():
    async def main():
        try:
            await app.start()
        except RuntimeError as error:
            say("refused", str(error))
        else:
            await handled.wait()
            say("works", app.consumer)
        sys.stdin.readline()

    asyncio.run(main())

def say(*what):
    os.write(1, json.dumps([os.getpid(), app.group, *what]).encode() + b"\\n")

children = []
for _ in range(2):
    if (child := os.fork()) == 0:
        work()
        os._exit(0)
    children.append(child)
say("forked", *children)
sys.stdin.readline()
"""


def workers(server: Server, stream: str, name: str | None, *, own_group: bool = False) -> list[Any]:
    """Have two processes that were forked from one at work; give what they and that one say."""
    with Producer(server.url, stream) as producer:
        producer.publish_many(orders(20))
    script = FORKS.format(name=name, own_group=own_group)
    with python(script, server.url, stream) as process:
        return sorted(hear(process) for _ in range(3))


@pytest.mark.parametrize("name", [None, "worker-{pid}"])
def test_forked_workers_have_names_of_their_own(
    any_server: Server, client: redis.Redis, stream: str, name: str | None
) -> None:
    (_, _, _, *children), *works = workers(any_server, stream, name)
    assert [pid for pid, *_ in works] == children
    names = {
        (name or "{hostname}-{pid}").format(hostname=socket.gethostname(), pid=pid)
        for pid in children
    }
    assert {name for *_, name in works} == names
    assert {one["name"].decode() for one in client.xinfo_consumers(stream, "g")} == names


def test_a_group_of_each_process(any_server: Server, client: redis.Redis, stream: str) -> None:
    (_, _, _, *children), *_ = workers(any_server, stream, None, own_group=True)
    groups = {one["name"].decode() for one in client.xinfo_groups(stream)}
    assert groups == {f"g-{pid}" for pid in children}


def test_forked_workers_of_one_name_work_in_groups_of_their_own(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    (_, _, _, *children), *works = workers(any_server, stream, "worker-1", own_group=True)
    assert works == [[pid, f"g-{pid}", "works", "worker-1"] for pid in children]
    groups = {one["name"].decode() for one in client.xinfo_groups(stream)}
    assert groups == {f"g-{pid}" for pid in children}


def test_forked_workers_of_one_name_are_refused(any_server: Server, stream: str) -> None:
    """But for the first."""
    _, *told = workers(any_server, stream, "worker-1")
    (_, _, *works), (_, _, *refused) = sorted(told, key=lambda one: one[2], reverse=True)
    assert works == ["works", "worker-1"]
    assert refused[0] == "refused"
    assert refused[1].startswith(
        f"a process that was forked from the same one as this works on {stream!r} as the consumer "
        "'worker-1', and each would"
    )


def test_apps_of_one_name_in_a_process_are_refused(any_server: Server, stream: str) -> None:
    def app_of(**options: Any) -> App:
        app = App(any_server.url, **{"group": "g", **options})
        app.on(stream, OrderPlaced)(lambda event: None)
        return app

    async def main() -> None:
        for name in ("worker-1", None):
            first, second = app_of(consumer=name), app_of(consumer=name)
            async with first:
                with pytest.raises(RuntimeError, match=f"another app of this .* on '{stream}' as"):
                    await second.start()
                assert first.health().alive
                async with app_of(group="other", consumer=name), app_of(consumer="worker-2"):
                    pass
            async with second:  # the name is free again
                assert second.health().ready

    asyncio.run(main())


def test_names_that_cannot_be_are_refused_at_once(any_server: Server) -> None:
    wrong: list[dict[str, Any]] = [{"consumer": "{name}"}, {"group": "{name}"}]
    for options in wrong:
        with pytest.raises(
            ValueError, match=r"in which only \{hostname\}, \{pid\} and \{worker\} are"
        ):
            App(any_server.url, **{"group": "g", **options})
    app = App(any_server.url, group="{hostname}-g", consumer="{hostname}-{pid}")
    assert (app.group, app.consumer) == (
        f"{socket.gethostname()}-g",
        f"{socket.gethostname()}-{os.getpid()}",
    )
    with pytest.raises(ValueError, match=r"group is '\{name\}', in which only"):
        app.on("s", group="{name}")(lambda message: None)

    @EventBus(app).handler
    async def bill(event: OrderPlaced) -> None: ...

    @CommandBus(app).handler
    async def place(command: OrderPlaced) -> None: ...

    app.drain()
    assert {*app.consumers} == {
        f"event.OrderPlaced ({socket.gethostname()}-g.bill)",
        "command.OrderPlaced",
    }
