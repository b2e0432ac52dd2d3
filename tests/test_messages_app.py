"""Apps: how they run, stop, start beside other work, and what they are told by settings."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

import redfloe
from redfloe.messages import App, Drained, Health, Message, Producer, Retry, Router, Settings
from redfloe.metrics import WorkerCollector
from support.events import OrderPaid, OrderPlaced, orders, pending, publish, until, work
from support.processes import hear, python
from support.server import Server
from support.timing import SLACK, later, within


def test_several_routers_and_streams(any_server: Server, client: redis.Redis) -> None:
    publish(any_server, *orders(3), stream="a")
    publish(any_server, OrderPaid(order_id=7), stream="b")
    got: list[Any] = []
    first, second, inner = Router(), Router(), Router()
    first.on("a", OrderPlaced)(got.append)

    @inner.on("b", OrderPaid)
    async def paid(event: OrderPaid) -> None:
        got.append(event)

    second.include(inner)
    app = App(any_server.url, group="{hostname}")
    app.include(first, second)
    assert isinstance(app.drain(), Drained)
    assert sorted(event.order_id for event in got) == [1, 2, 3, 7]
    assert [one["name"] for one in client.xinfo_groups("a")] == [socket.gethostname().encode()]
    # A worker of no name of its own leaves none behind.
    assert client.xinfo_consumers("a", socket.gethostname()) == []
    assert {*app.consumers} == {"a", "b"}


def test_a_drain_says_what_was_handled_published_and_failed(any_server: Server) -> None:
    publish(any_server, *orders(3))
    once = Retry(attempts=1)
    app = App(any_server.url, group="g", dead_letter="{stream}:dead", retry=once)
    producer = app.producer("paid")

    @app.on("orders", OrderPlaced)
    def pay(event: OrderPlaced) -> None:
        if event.order_id == 2:
            raise ValueError
        producer.publish(OrderPaid(order_id=event.order_id), metadata={"k": 1})

    @app.on("paid", OrderPaid)
    async def paid(event: OrderPaid) -> None:
        if event.order_id == 3:
            async with app.producer("notes") as notes:
                await notes.publish_many([Message("note", {"text": "x"})])

    drained = app.drain()
    producer.close()
    assert sorted((one.stream, one.event.order_id) for one in drained.handled) == [
        ("orders", 1),
        ("orders", 3),
        ("paid", 1),
        ("paid", 3),
    ]
    published = [(one.type, one.metadata) for one in drained.published]
    assert sorted(published, key=lambda one: str(one[0])) == [
        ("OrderPaid", {"k": 1}),
        ("OrderPaid", {"k": 1}),
        ("note", {}),
    ]
    assert [(one.event.order_id, why[:10]) for one, why in drained.failed] == [(2, "ValueError")]
    assert app.drain().handled == []


def test_start_stop_and_health(any_server: Server, stream: str, runner: asyncio.Runner) -> None:
    app = App(any_server.url, group="g")
    release = asyncio.Event()
    got: list[int] = []

    @app.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        await release.wait()
        got.append(event.order_id)

    async def main() -> None:
        assert app.health() == Health(True, False, 0, None, {})
        async with Producer(any_server.url, stream) as producer:
            await app.start()
            await until(lambda: app.health().ready, app)
            with pytest.raises(RuntimeError, match="the app is running already"):
                await app.run_async()
            with pytest.raises(RuntimeError, match="the app is running already"):
                app.include(Router())
            await producer.publish_many(orders(2))
            await until(lambda: app.health().in_hand == 2, app)
            release.set()
            await until(lambda: app.health().in_hand == 0, app)
            assert app.health().streams[stream].acknowledged == 2
            await app.stop()
            assert not app.health().ready
            assert app.health().alive
            # And again.
            await app.start()
            await producer.publish(OrderPlaced(order_id=3))
            await until(lambda: 3 in got, app)
            await app.stop()
            await app.stop()

    runner.run(main())
    assert got == [1, 2, 3]


def test_metrics_are_of_an_apps_consumers(any_server: Server, stream: str) -> None:
    publish(any_server, *orders(3), stream=stream)
    app = App(any_server.url, group="g", consumer="c")
    app.on(stream, OrderPlaced)(lambda event: None)
    registry = CollectorRegistry()
    WorkerCollector(registry).watch(app)

    def acknowledged() -> float | None:
        labels = {"stream": stream, "group": "g", "consumer": "c"}
        return registry.get_sample_value("redfloe_consumer_acknowledged_total", labels)

    assert acknowledged() is None
    work(app, lambda: app.health().streams[stream].acknowledged == 3)
    assert acknowledged() == 3


def test_what_ends_a_started_app_is_logged_and_raised_where_it_is_stopped(
    any_server: Server, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(any_server.url, group="g")
    app.on(stream, OrderPlaced)(lambda event: 1 / 0)
    publish(any_server, *orders(1), stream=stream)

    async def main() -> None:
        await app.start()
        await until(lambda: not app.health().alive)
        assert app.health().error == "ZeroDivisionError: division by zero"
        await app.stop()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    (record,) = [one for one in caplog.records if getattr(one, "event", "") == "app_failed"]
    assert "has ended, because: ZeroDivisionError: division by zero" in record.getMessage()


def test_start_joins_the_group_or_says_why_not(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    got: list[int] = []
    app = App(any_server.url, group="g", group_start_id="$")
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))

    async def main() -> None:
        async with app:
            assert app.health().ready
            assert client.xinfo_groups(stream)[0]["name"] == b"g"
            client.xadd(stream, {"order_id": 1})
            await until(lambda: got, app)
        elsewhere = redfloe.RedisConnection("redis://127.0.0.1:1", connect_timeout=0.1)
        unreachable = App(elsewhere, group="g")
        unreachable.on(stream, OrderPlaced)(lambda event: None)
        for _ in range(2):
            with pytest.raises(redfloe.RedisConnectionError):
                await unreachable.start()
            assert not unreachable.health().alive
        task = asyncio.create_task(app.start())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: app._loop is None)

    asyncio.run(main())


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_stop_finishes_what_runs_and_gives_back_the_rest(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    publish(any_server, *orders(20), stream=stream)
    began: list[int] = []
    ended: list[int] = []
    app = App(any_server.url, group="g", concurrency=2)

    @app.on(stream, OrderPlaced, key=None)
    async def handle(event: OrderPlaced) -> None:
        began.append(event.order_id)
        await asyncio.sleep(0.1)
        ended.append(event.order_id)

    if not is_async:
        app = App(any_server.url, group="g", concurrency=2)

        @app.on(stream, OrderPlaced)
        def handle_in_thread(event: OrderPlaced) -> None:
            began.append(event.order_id)
            time.sleep(0.1)
            ended.append(event.order_id)

    work(app, lambda: len(began) >= 2)
    assert sorted(ended) == sorted(began)
    assert len(ended) < 20
    assert pending(client, stream, "g") == 20 - len(ended)
    # Another one has them at once.
    others: list[int] = []
    another = App(any_server.url, group="g", consumer="other", reclaim_interval_ms=10)
    another.on(stream, OrderPlaced)(lambda event: others.append(event.order_id))
    work(another, lambda: len(others) == 20 - len(ended))
    assert sorted(ended + others) == [*range(1, 21)]


def test_what_takes_longer_than_the_grace_is_cancelled_and_given_back(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(2), stream=stream)
    app = App(any_server.url, group="g", grace=0.1, concurrency=2)
    began: list[int] = []
    cancelled: list[int] = []

    @app.on(stream, OrderPlaced)
    async def hangs(event: OrderPlaced) -> None:
        began.append(event.order_id)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(event.order_id)
            raise

    with within(5):
        work(app, lambda: len(began) == 2)
    assert sorted(cancelled) == [1, 2]
    assert pending(client, stream, "g") == 2


def test_a_thread_that_hangs_does_not_keep_the_app(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(2), stream=stream)
    app = App(any_server.url, group="g", grace=0.1)
    began, release = threading.Event(), threading.Event()

    @app.on(stream, OrderPlaced)
    def hangs(event: OrderPlaced) -> None:
        began.set()
        release.wait(60)

    try:
        with within(5):
            work(app, began.is_set)
        assert pending(client, stream, "g") == 2
    finally:
        release.set()


def test_a_cancelled_app_gives_back_what_it_has(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(2), stream=stream)
    app = App(any_server.url, group="g")
    began = asyncio.Event()

    @app.on(stream, OrderPlaced)
    async def hangs(event: OrderPlaced) -> None:
        began.set()
        await asyncio.sleep(60)

    async def main() -> None:
        task = asyncio.create_task(app.run_async())
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with within(5):
        asyncio.run(main())
    assert pending(client, stream, "g") == 2


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_a_handler_may_stop_its_app(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    publish(any_server, *orders(3), stream=stream)
    app = App(any_server.url, group="g")
    got: list[int] = []

    def handle(event: OrderPlaced) -> None:
        got.append(event.order_id)
        app.stop()

    async def handle_async(event: OrderPlaced) -> None:
        handle(event)

    app.on(stream, OrderPlaced)(handle_async if is_async else handle)
    with within(5):
        app.run()
    assert got == [1]
    assert pending(client, stream, "g") == 2


def test_stop_from_another_thread_ends_run(any_server: Server, stream: str) -> None:
    app = App(any_server.url, group="g")
    app.on(stream, OrderPlaced)(lambda event: None)
    with within(5), later(0.2, app.stop):
        app.run()
    thread = threading.Thread(target=app.run)
    thread.start()
    while not app.health().ready:
        time.sleep(0.01)
    app.stop()
    thread.join(10)
    assert not thread.is_alive()
    app.stop()  # changes nothing
    with within(5), later(0.2, app.stop):
        app.run()
    early = App(any_server.url, group="g")
    early.on(stream, OrderPlaced)(lambda event: None)
    early.stop()
    with within(5):
        early.run()

    async def inside() -> None:
        app.run()

    with pytest.raises(RuntimeError, match="await run_async or drain_async"):
        asyncio.run(inside())


WORKER = """
    from redfloe.messages import App, Retry
    from pydantic import BaseModel

    class OrderPlaced(BaseModel):
        order_id: int

    url, stream, kind, consumer, options = sys.argv[1:6]
    app = App(url, group="g", consumer=consumer, **json.loads(options))

    def handle(event):
        os.write(1, f"{event.order_id}\\n".encode())
        if kind == "kill":
            os.kill(os.getpid(), 9)
        time.sleep(0.01)

    async def handle_async(event):
        os.write(1, f"{event.order_id}\\n".encode())
        await asyncio.sleep(0.01)

    app.on(stream, OrderPlaced)(handle_async if kind == "async" else handle)
    app.run()
    print('"done"', flush=True)
"""


def numbers_until(process: Any, last: int) -> list[int]:
    numbers: list[int] = []
    while len(numbers) < last:
        numbers.append(hear(process))
    return numbers


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_under_load_loses_and_repeats_nothing(
    any_server: Server, client: redis.Redis, stream: str, kind: str, number: int
) -> None:
    publish(any_server, *orders(300), stream=stream)
    with python(WORKER, any_server.url, stream, kind, "c", '{"concurrency": 4}') as process:
        seen = numbers_until(process, 20)
        process.send_signal(number)
        while (said := hear(process)) != "done":
            seen.append(said)
        process.wait(10 * SLACK)
        assert process.returncode == 0
    assert len(seen) < 300
    got: list[int] = []
    app = App(any_server.url, group="g", consumer="c")
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))
    app.drain()
    assert sorted(seen + got) == [*range(1, 301)]


def test_a_worker_that_is_killed_in_a_handler_loses_nothing(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(20), stream=stream)
    with python(WORKER, any_server.url, stream, "kill", "victim", "{}") as process:
        assert hear(process) == 1
        process.wait(10 * SLACK)
        assert process.returncode == -signal.SIGKILL
    got: list[int] = []
    app = App(
        any_server.url, group="g", consumer="c", reclaim_min_idle_ms=50, reclaim_interval_ms=10
    )
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))
    work(app, lambda: len(got) == 20)
    assert sorted(got) == [*range(1, 21)]
    assert pending(client, stream, "g") == 0


def test_a_message_that_kills_its_workers_becomes_a_dead_letter(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    publish(any_server, *orders(1), stream=stream)
    options = '{"dead_letter": "dead", "max_deliveries": 2}'
    for _ in range(2):
        with python(WORKER, any_server.url, stream, "kill", "c", options) as process:
            assert hear(process) == 1
            process.wait(10 * SLACK)
    app = App(any_server.url, group="g", consumer="c", dead_letter="dead", max_deliveries=2)
    got: list[int] = []
    app.on(stream, OrderPlaced)(lambda event: got.append(event.order_id))
    app.drain()
    assert got == []
    assert len(redfloe.read_dead_letters(any_server.url, "dead")) == 1


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "sync"])
def test_a_handler_may_take_longer_than_its_lease(
    any_server: Server, client: redis.Redis, stream: str, is_async: bool
) -> None:
    publish(any_server, *orders(2), stream=stream)
    lease: dict[str, Any] = {"reclaim_min_idle_ms": 200, "reclaim_interval_ms": 20}
    slow = App(any_server.url, group="g", consumer="slow", **lease)
    eager = App(any_server.url, group="g", consumer="eager", **lease)
    calls: list[str] = []

    @slow.on(stream, OrderPlaced)
    async def handle(event: OrderPlaced) -> None:
        calls.append("slow")
        await asyncio.sleep(0.5)

    if not is_async:
        slow = App(any_server.url, group="g", consumer="slow", **lease)

        @slow.on(stream, OrderPlaced)
        def handle_in_thread(event: OrderPlaced) -> None:
            calls.append("slow")
            time.sleep(0.5)

    eager.on(stream, OrderPlaced)(lambda event: calls.append("eager"))

    async def main() -> None:
        async with slow:
            await until(lambda: calls, slow)
            async with eager:
                await until(lambda: pending(client, stream, "g") == 0, slow)

    asyncio.run(main())
    assert calls == ["slow", "slow"]


def test_settings_are_from_a_file_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, any_server: Server
) -> None:
    file = tmp_path / "redfloe.yaml"
    file.write_text(
        f"""
redis_streams:
  url: "{any_server.url}"

  producer:
    stream: "events"
    max_length: 10000

  consumer:
    group: "my-group"
    block_ms: 5000
    count: 10
"""
    )
    settings = Settings.load(file)
    assert settings.stream == "events"
    assert (settings.consumer.group, settings.consumer.count) == ("my-group", 10)
    assert settings.connection == redfloe.RedisConnection(any_server.url)
    app = App(settings)
    got: list[OrderPlaced] = []
    app.on(None, OrderPlaced)(got.append)
    with app.producer() as producer:
        producer.publish(OrderPlaced(order_id=1))
    app.drain()
    assert got == [OrderPlaced(order_id=1)]
    assert app.group == "my-group"
    assert app.consumer == f"{socket.gethostname()}-{os.getpid()}"

    monkeypatch.setenv("REDIS_URL", "redis://:secret@elsewhere:7000")
    monkeypatch.setenv("STREAM_NAME", "s")
    monkeypatch.setenv("CONSUMER_GROUP", "processors")
    monkeypatch.setenv("CONSUMER_NAME", "worker-{pid}")
    for settings in (Settings.load(file), Settings.load()):
        assert settings.connection == redfloe.RedisConnection("redis://:secret@elsewhere:7000")
        assert settings.stream == settings.producer.stream == "s"
        app = App(settings)
        assert (app.group, app.consumer) == ("processors", f"worker-{os.getpid()}")
        assert "secret" not in repr(settings) + repr(app) + str(settings)
    assert App(settings, group="named", consumer="c").group == "named"


def test_what_a_quickstarts_file_says_beyond_ours_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        """
redis_streams:
  url: "redis://:secret@h"
  max_retries: 5
  producer:
    stream: "events"
    max_length: 10000
    event_type: "price.update"
  consumer:
    group: "my-group"
    count: 10
    reclaim_enabled: true
    reclaim_interval_ms: 30000
    1: "one"
"""
    )
    settings = Settings.load(file)
    assert (settings.stream, settings.consumer.group) == ("events", "my-group")
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{file}: ignored, because they have no counterpart here: ['max_retries', "
        "'producer.event_type', 'consumer.reclaim_enabled', 'consumer.reclaim_interval_ms', "
        "'consumer.1'] of redis_streams"
    )
    assert vars(record)["event"] == "settings_ignored"


def test_settings_that_cannot_be_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "redfloe.yaml"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        Settings.load(file)
    file.write_text("other: {}")
    with pytest.raises(ValueError, match="has no section 'redis_streams'; name another"):
        Settings.load(file)
    file.write_text("redfloe: {url: 'redis://:secret@h', consumer: {gruop: g}}")
    with pytest.raises(ValidationError, match="gruop") as raised:
        Settings.load(file, section="redfloe")
    assert "secret" not in str(raised.value)
    assert raised.value.__notes__ == [f"the settings are from {file} and the environment"]
    file.write_text("redis_streams: {producer: events}")
    with pytest.raises(ValueError, match=r"\.yaml must hold names and values in 'producer'"):
        Settings.load(file)
    for name in ("stream", "group", "consumer"):
        file.write_text(f"redis_streams: {{consumer: {{{name}: ''}}}}")
        with pytest.raises(ValidationError, match=f"consumer.{name}"):
            Settings.load(file)
    with pytest.raises(ValueError, match="an app needs a group"):
        App("redis://localhost")
    with pytest.raises(ValueError, match=r"in which only \{hostname\}, \{pid\} and \{worker\} are"):
        App("redis://localhost", group="{user}")
    for options, wrong in (
        ({"on_unknown": "no"}, "on_unknown"),
        ({"on_misfit": "dead_letter"}, "need a dead_letter stream"),
        ({"concurrency": 0}, "concurrency"),
        ({"grace": -1}, "grace"),
    ):
        with pytest.raises(ValueError, match=wrong):
            App("redis://localhost", group="g", **options)


def test_importing_redfloe_leaves_messages_alone() -> None:
    script = "import sys; from redfloe import *; print(json.dumps([*sys.modules]))"
    with python(script) as process:
        modules = hear(process)
    assert not {"pydantic", "redfloe.messages", "yaml"} & {*modules}


def test_all_is_what_is_public_and_documented() -> None:
    import inspect

    from redfloe import messages

    public = {
        name
        for name in dir(messages)
        if not name.startswith("_") and not inspect.ismodule(getattr(messages, name))
    }
    assert public == {*messages.__all__}
    page = (Path(__file__).parents[1] / "docs/api/messages.md").read_text()
    for name in messages.__all__:
        assert f"::: redfloe.messages.{name}\n" in page
        assert (inspect.getdoc(getattr(messages, name)) or "").splitlines()[0].endswith(".")
