"""OpenTelemetry: what is observed, in whichever world, and contexts that entries carry."""

from __future__ import annotations

import asyncio
import inspect
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
import redis
from opentelemetry import trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from pydantic import BaseModel

import redfloe
from redfloe import telemetry
from redfloe.messages import App, Message, Processor, Producer, Retry, Router, Transaction
from support.consumers import World
from support.groups import DRAIN, ME, deliver
from support.processes import finish, hear, python
from support.proxy import Proxy
from support.secrets import PASSWORD, QUOTED, with_password
from support.server import HOST, Server
from support.streams import NUMBER, add, add_numbers

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
FRAME = pl.DataFrame({"n": [1, 2, 3]})


class Told:
    """What an SDK was told."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])

    def instrument(self, *, trace_context: bool = False) -> None:
        telemetry.instrument(
            tracer_provider=self.tracers, meter_provider=self.meters, trace_context=trace_context
        )

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """List the spans that have ended, or those of an operation."""
        found = self.exporter.get_finished_spans()
        return [span for span in found if name in (None, span.name.partition(" ")[0])]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def metrics(self) -> dict[str, Any]:
        """Give all metrics by their names."""
        data = self.reader.get_metrics_data()
        resources = [] if data is None else data.resource_metrics
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str, operation: str) -> list[Any]:
        """List the points of a metric that are about an operation."""
        metric = self.metrics().get(f"messaging.{name}")
        points = [] if metric is None else metric.data.data_points
        key = "messaging.operation.name"
        return [point for point in points if point.attributes[key] == operation]

    def counted(self, name: str, operation: str) -> int:
        return sum(point.value for point in self.points(name, operation))

    def errors(self, operation: str) -> dict[str, int]:
        """Count by their kind the operations that failed."""
        points = self.points("client.operation.duration", operation)
        points += self.points("process.duration", operation)
        kind = "error.type"
        return {str(one.attributes[kind]): one.count for one in points if kind in one.attributes}

    def everything(self) -> str:
        """Give all that was told, as text."""
        data = self.reader.get_metrics_data()
        metrics = "" if data is None else data.to_json()
        return metrics + "".join(str(span.to_json()) for span in self.spans())


@pytest.fixture
def told() -> Iterator[Told]:
    told = Told()
    told.instrument()
    yield told
    telemetry.uninstrument()
    told.tracers.shutdown()
    told.meters.shutdown()


@pytest.fixture
def carried(told: Told) -> Told:
    """With contexts in entries."""
    told.instrument(trace_context=True)
    return told


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def whose(span: ReadableSpan) -> tuple[int, int]:
    """Give the identity of a span."""
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def do(outcome: Any) -> Any:
    return asyncio.run(outcome) if inspect.iscoroutine(outcome) else outcome


def twin(name: str, is_async: bool) -> Any:
    return getattr(redfloe, f"{name}_async" if is_async else name)


TWINS = pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])


# What is observed


@TWINS
def test_a_read(
    any_server: Server, client: redis.Redis, stream: str, told: Told, is_async: bool
) -> None:
    add_numbers(client, stream, 5)
    do(twin("read_stream", is_async)(any_server.url, stream, count=3, **ME))
    span = told.one("receive")
    where = {
        "messaging.system": "redis",
        "messaging.destination.name": stream,
        "messaging.consumer.group.name": "g",
        "messaging.operation.name": "receive",
        "server.address": HOST,
        "server.port": any_server.port,
    }
    typed = {**where, "messaging.operation.type": "receive"}
    assert attributes(span) == {**typed, "messaging.batch.message_count": 3}
    assert (span.name, span.kind) == (f"receive {stream}", SpanKind.CLIENT)
    assert span.status.status_code is StatusCode.UNSET
    (point,) = told.points("client.operation.duration", "receive")
    assert (dict(point.attributes), point.count) == (typed, 1)
    assert point.explicit_bounds == BUCKETS
    assert span.start_time is not None
    assert span.end_time is not None
    assert point.sum == pytest.approx((span.end_time - span.start_time) / 1e9, abs=1e-6)
    (point,) = told.points("client.consumed.messages", "receive")
    assert (dict(point.attributes), point.value) == (where, 3)
    units = {name: metric.unit for name, metric in told.metrics().items()}
    assert units["messaging.client.operation.duration"] == "s"
    assert units["messaging.client.consumed.messages"] == "{message}"


@TWINS
def test_a_write(any_server: Server, stream: str, told: Told, is_async: bool) -> None:
    do(twin("write_stream", is_async)(any_server.url, FRAME, stream))
    do(twin("sink_stream", is_async)(any_server.url, FRAME.lazy(), stream))
    for span in told.spans():
        assert (span.name, span.kind) == (f"send {stream}", SpanKind.CLIENT)
        assert attributes(span)["messaging.operation.type"] == "send"
        assert attributes(span)["messaging.batch.message_count"] == 3
    assert len(told.spans()) == 2
    assert told.counted("client.sent.messages", "send") == 6
    (point,) = told.points("client.operation.duration", "send")
    assert (point.count, point.explicit_bounds) == (2, BUCKETS)
    # Nothing of it is in the stream unless somebody asks for that.
    assert redfloe.read_stream(any_server.url, stream).columns == ["_id", "_ts", "n"]


@TWINS
def test_a_bar_changes_nothing_of_what_is_told(
    any_server: Server, client: redis.Redis, stream: str, told: Told, is_async: bool
) -> None:
    pytest.importorskip("tqdm")
    add_numbers(client, stream, 5)
    keyed = FRAME.with_columns(key=pl.format(stream + ":{}", "n"))

    def all_of_it(progress: bool) -> list[Any]:
        do(twin("read_stream", is_async)(any_server.url, stream, progress=progress))
        redfloe.scan_stream(any_server.url, stream, progress=progress).collect()
        do(twin("write_stream", is_async)(any_server.url, FRAME, "to", progress=progress))
        do(twin("sink_stream", is_async)(any_server.url, FRAME.lazy(), "to", progress=progress))
        options: Any = {"key_column": "key", "progress": progress}
        do(twin("write_hashes", is_async)(any_server.url, keyed, **options))
        spans = [(span.name, span.kind, attributes(span)) for span in told.spans()]
        told.exporter.clear()
        return spans

    without = all_of_it(False)
    assert all_of_it(True) == without
    counts = [one["messaging.batch.message_count"] for *_, one in without]
    assert [count for count in counts if count > 0] == [5, 5, 3, 3]
    assert told.counted("client.consumed.messages", "receive") == 20
    assert told.counted("client.sent.messages", "send") == 12


@TWINS
def test_a_read_of_several_streams(
    any_server: Server, client: redis.Redis, stream: str, told: Told, is_async: bool
) -> None:
    for number in range(3):
        add_numbers(client, f"{stream}-{number}", 2)
    do(twin("read_streams", is_async)(any_server.url, f"{stream}-*"))
    do(twin("read_streams", is_async)(any_server.url, f"{stream}-*", order="id"))
    do(twin("read_stream", is_async)(any_server.url, [f"{stream}-0", f"{stream}-1"], count=3))
    *whole, some = told.spans()
    for span in whole:
        assert span.name == "receive"
        assert attributes(span)["messaging.batch.message_count"] == 6
    assert attributes(some)["messaging.batch.message_count"] == 3
    assert "messaging.destination.name" not in attributes(some)


def test_rows_for_several_streams(any_server: Server, stream: str, told: Told) -> None:
    keys = pl.format(stream + "-{}", pl.col("n"))
    redfloe.write_stream(any_server.url, FRAME, keys)
    span = told.one("send")
    assert span.name == "send"
    assert "messaging.destination.name" not in attributes(span)


def drained(follow: Any) -> int:
    async def heights() -> int:
        return sum([frame.height async for frame in follow])

    if hasattr(follow, "__anext__"):
        return asyncio.run(heights())
    return sum(frame.height for frame in follow)


@pytest.mark.parametrize("name", ["iter_stream", "stream_batches"])
def test_an_iterator(
    any_server: Server, client: redis.Redis, stream: str, told: Told, name: str
) -> None:
    add_numbers(client, stream, 5)
    call = getattr(redfloe, name)
    assert drained(call(any_server.url, stream, start_id="-", batch_size=2, **DRAIN)) == 5
    counts = [attributes(span)["messaging.batch.message_count"] for span in told.spans("receive")]
    assert counts == [2, 2, 1, 0]
    assert told.counted("client.consumed.messages", "receive") == 5


def test_scans_and_dead_letters(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 5)
    assert redfloe.scan_stream(any_server.url, stream).collect().height == 5
    redfloe.read_dead_letters(any_server.url, stream)
    asyncio.run(redfloe.read_dead_letters_async(any_server.url, stream))
    assert told.counted("client.consumed.messages", "receive") == 15


@TWINS
def test_acknowledging(
    any_server: Server, client: redis.Redis, stream: str, told: Told, is_async: bool
) -> None:
    add_numbers(client, stream, 3)
    deliver(client, stream)
    do(twin("ack_entries", is_async)(any_server.url, stream, "g", ["1-0", "3-0"]))
    span = told.one("ack")
    assert (span.name, span.kind) == (f"ack {stream}", SpanKind.CLIENT)
    assert attributes(span)["messaging.operation.type"] == "settle"
    assert attributes(span)["messaging.consumer.group.name"] == "g"
    assert attributes(span)["messaging.batch.message_count"] == 2
    assert told.points("client.operation.duration", "ack")[0].count == 1


def test_a_worker_in_a_loop_of_its_own(
    world: World, any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 4)
    with world.consumer(
        any_server.url, stream, dead_letter="dead", batch_size=4, **ME, **DRAIN
    ) as consumer:
        batch = next(consumer)
        assert world.do(batch.ack("1-0")) == 1
        assert world.do(batch.nack("2-0", delay_ms=30_000)) == 1
        assert world.do(batch.fail(["3-0"], "no")) == 1
    counts = {
        span.name.split()[0]: attributes(span)["messaging.batch.message_count"]
        for span in told.spans()[1:4]
    }
    assert counts == {"ack": 1, "nack": 1, "dead_letter": 1}
    # The end of the block acknowledges the rest.
    last = told.spans()[-1]
    assert (last.name, attributes(last)["messaging.batch.message_count"]) == (f"ack {stream}", 1)
    for operation in ("nack", "dead_letter"):
        (point,) = told.points("client.operation.duration", operation)
        assert point.attributes["messaging.operation.type"] == "settle"
    assert not told.spans("process")


def test_a_handler(
    world: World, any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 3)
    tracer = told.tracers.get_tracer("the handler's")

    def handle(batch: Any) -> None:
        with tracer.start_as_current_span("work"):
            pass

    world.consumer(any_server.url, stream, **ME, **DRAIN).run(handle)
    span, work = told.one("process"), told.one("work")
    assert span.kind is SpanKind.CONSUMER
    assert attributes(span)["messaging.batch.message_count"] == 3
    assert attributes(span)["messaging.consumer.group.name"] == "g"
    assert work.parent is not None
    assert (work.parent.trace_id, work.parent.span_id) == whose(span)
    (point,) = told.points("process.duration", "process")
    assert (point.count, point.explicit_bounds) == (1, BUCKETS)
    assert "messaging.operation.type" not in point.attributes
    assert not told.points("client.operation.duration", "process")
    assert told.metrics()["messaging.process.duration"].unit == "s"
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_a_handler_that_raises(
    world: World, any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 2)

    def handle(batch: Any) -> None:
        if 1 in batch.frame["n"].to_list():
            raise KeyError("no such \udc80 thing")

    consumer = world.consumer(any_server.url, stream, dead_letter="dead", **ME, **DRAIN)
    consumer.run(handle, attempts=1)
    spans = told.spans("process")
    sizes = [attributes(span)["messaging.batch.message_count"] for span in spans]
    assert sizes == [2, 1, 1]
    for span in spans[:2]:
        assert attributes(span)["error.type"] == "KeyError"
        assert span.status.status_code is StatusCode.ERROR
        assert "thing" in (span.status.description or "")
        (span.status.description or "").encode()  # an exporter has to write it
    assert "error.type" not in attributes(spans[2])
    assert told.errors("process") == {"KeyError": 2}
    assert attributes(told.one("dead_letter"))["messaging.batch.message_count"] == 1


def test_an_error_has_its_event(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 1)

    def handle(batch: redfloe.Batch) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN).run(handle, attempts=1)
    (event,) = told.one("process").events
    assert event.name == "exception"
    assert dict(event.attributes or {})["exception.type"] == "OSError"


async def awaited(make: Callable[[], Any]) -> Any:
    return await make()


def produce(url: Any, key: str) -> None:
    with redfloe.StreamProducer(url, key) as producer:
        producer.send({"n": 1})
        producer.flush()


async def produce_async(url: Any, key: str) -> None:
    async with redfloe.StreamProducer(url, key) as producer:
        await producer.send({"n": 1})
        await producer.flush()


GONE = redfloe.RedisConnection("redis://127.0.0.1:1", max_retries=0)
CALLS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "read_stream": ("receive", redfloe.read_stream),
    "read_stream_async": ("receive", redfloe.read_stream_async),
    "iter_stream": ("receive", lambda url, key: next(redfloe.iter_stream(url, key, start_id="-"))),
    "stream_batches": (
        "receive",
        lambda url, key: awaited(lambda: anext(redfloe.stream_batches(url, key, start_id="-"))),
    ),
    "StreamConsumer": ("receive", lambda url, key: next(redfloe.StreamConsumer(url, key, **ME))),
    "ack_entries": ("ack", lambda url, key: redfloe.ack_entries(url, key, "g", ["1-0"])),
    "ack_entries_async": (
        "ack",
        lambda url, key: redfloe.ack_entries_async(url, key, "g", ["1-0"]),
    ),
    "write_stream": ("send", lambda url, key: redfloe.write_stream(url, FRAME, key)),
    "write_stream_async": ("send", lambda url, key: redfloe.write_stream_async(url, FRAME, key)),
    "sink_stream": ("send", lambda url, key: redfloe.sink_stream(url, FRAME.lazy(), key)),
    "sink_stream_async": (
        "send",
        lambda url, key: redfloe.sink_stream_async(url, FRAME.lazy(), key),
    ),
    "StreamProducer": ("send", produce),
    "AsyncStreamProducer": ("send", produce_async),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("fault", ["gone", "type"])
def test_the_type_of_an_error(
    any_server: Server, client: redis.Redis, stream: str, told: Told, name: str, fault: str
) -> None:
    client.set(stream, "no stream")
    operation, call = CALLS[name]
    with pytest.raises(redfloe.RedfloeError) as raised:
        do(call(GONE if fault == "gone" else any_server.url, stream))
    kind = type(raised.value).__name__
    assert kind in {"RedisConnectionError", "WrongTypeError", "WriteError"}
    span = told.spans(operation)[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)["error.type"] == kind
    assert span.events
    assert told.errors(operation) == {kind: 1}
    assert attributes(span)["server.port"] == (1 if fault == "gone" else any_server.port)
    assert not told.counted("client.sent.messages", "send")


def test_a_write_that_fails_in_the_middle(any_server: Server, stream: str, told: Told) -> None:
    """What is in is counted, with the kind of the error."""
    ids = pl.DataFrame({"id": ["5-1", "6-1"], "n": [1, 2]})
    with Proxy(any_server.port) as proxy:
        url = redfloe.RedisConnection(proxy.url, max_retries=0)
        proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD", skip=1)
        with pytest.raises(redfloe.WriteError):
            redfloe.write_stream(url, ids, stream, id_column="id")
    (point,) = told.points("client.sent.messages", "send")
    assert (point.value, point.attributes["error.type"]) == (1, "WriteError")


def test_no_password_and_nothing_of_which_there_are_many(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 2)
    with pytest.raises(redfloe.RedfloeError):
        redfloe.read_stream(with_password(any_server.url, "user"), stream)
    consumer = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
    consumer.run(lambda batch: batch.ack())
    redfloe.write_stream(any_server.url, FRAME, stream)
    everything = told.everything()
    assert "AuthenticationError" in everything
    assert PASSWORD not in everything
    assert QUOTED not in everything
    assert PASSWORD not in json.dumps(everything)
    keys = {
        key
        for metric in told.metrics().values()
        for point in metric.data.data_points
        for key in point.attributes
    }
    assert keys == {
        "error.type",
        "messaging.consumer.group.name",
        "messaging.destination.name",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.system",
        "server.address",
        "server.port",
    }


def test_a_unix_socket(tmp_path: Any, told: Told) -> None:
    path = tmp_path / "no.sock"
    connection = redfloe.RedisConnection(f"unix://{path}", max_retries=0)
    with pytest.raises(redfloe.RedfloeError):
        redfloe.read_stream(connection, "s")
    span = told.one("receive")
    assert attributes(span)["server.address"] == str(path)
    assert "server.port" not in attributes(span)


# Producers


@TWINS
def test_a_producer(any_server: Server, stream: str, told: Told, is_async: bool) -> None:
    url = any_server.url

    def use() -> None:
        with redfloe.StreamProducer(url, stream) as producer:
            producer.send({"n": 1})
            producer.send_frame(FRAME)
            producer.flush()
            producer.flush()
            producer.send({"n": 5}, stream=f"{stream}-other")

    async def use_async() -> None:
        async with redfloe.StreamProducer(url, stream) as producer:
            await producer.send({"n": 1})
            await producer.send_frame(FRAME)
            await producer.flush()
            await producer.flush()
            await producer.send({"n": 5}, stream=f"{stream}-other")

    asyncio.run(use_async()) if is_async else use()
    created = told.spans("create")
    assert [span.name for span in created] == [*2 * [f"create {stream}"], f"create {stream}-other"]
    assert {span.kind for span in created} == {SpanKind.PRODUCER}
    # Neither a flush of nothing nor the end of one that was closed is an operation.
    sent = [attributes(span)["messaging.batch.message_count"] for span in told.spans("send")]
    assert (sum(sent), len(sent)) == (5, 2)
    assert told.counted("client.sent.messages", "send") == 5
    (point, _) = told.points("client.operation.duration", "create")
    assert point.attributes["messaging.operation.type"] == "create"


def test_arguments_by_name_and_wrong_ones(any_server: Server, stream: str, told: Told) -> None:
    with redfloe.StreamProducer(any_server.url, stream) as producer:
        producer.send(fields={"n": 1})
        producer.send_frame(df=FRAME, stream=f"{stream}-other")
        send: Any = producer.send
        with pytest.raises(TypeError, match=r"send\(\) missing 1 required positional argument"):
            send()
        with pytest.raises(TypeError, match="fields must be a mapping"):
            send(5)
    consumer = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
    consumer.run(lambda batch: batch.ack(ids=batch.ids))
    assert told.counted("client.sent.messages", "send") == 4
    assert told.errors("create") == {"TypeError": 2}


class Interrupting(SpanProcessor):
    """Ctrl-C when an operation ends."""

    def __init__(self) -> None:
        self.left = 0

    def on_end(self, span: ReadableSpan) -> None:
        if self.left:
            self.left -= 1
            raise KeyboardInterrupt


def test_an_interrupt_at_the_end_of_an_operation_loses_nothing(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    interrupting = Interrupting()
    told.tracers.add_span_processor(interrupting)
    add_numbers(client, stream, 4)
    for group in ({}, ME):
        options: dict[str, Any] = {"batch_size": 2, **group, **DRAIN}
        worker = redfloe.StreamConsumer(any_server.url, stream, schema=NUMBER, **options)
        with worker:
            interrupting.left = 1
            with pytest.raises(KeyboardInterrupt):
                next(worker)
            assert [batch.frame["n"].to_list() for batch in worker] == [[1, 2], [3, 4]]
    batches = redfloe.iter_stream(any_server.url, stream, NUMBER, start_id="-", **DRAIN)
    interrupting.left = 1
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert next(batches)["n"].to_list() == [1, 2, 3, 4]
    interrupting.left = 1
    with pytest.raises(KeyboardInterrupt) as raised:
        redfloe.write_stream(any_server.url, FRAME, stream)
    assert isinstance(raised.value.__cause__, redfloe.WriteError)
    assert raised.value.__cause__.rows_written == 3


def test_threads(any_server: Server, stream: str, told: Told) -> None:
    with redfloe.StreamProducer(any_server.url, stream, linger_ms=0, batch_size=1) as producer:

        def work() -> None:
            for number in range(100):
                producer.send({"n": number})
                if number % 10 == 0:
                    producer.flush()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert told.counted("client.sent.messages", "send") == 400
    batches = redfloe.iter_stream(any_server.url, stream, start_id="-", batch_size=7, **DRAIN)
    found: list[int] = []
    readers = [
        threading.Thread(target=lambda: found.extend(frame.height for frame in batches))
        for _ in range(4)
    ]
    for thread in readers:
        thread.start()
    for thread in readers:
        thread.join()
    assert told.counted("client.consumed.messages", "receive") == sum(found) == 400


def test_a_wait_that_is_given_up_is_no_failure(any_server: Server, stream: str, told: Told) -> None:
    async def wait() -> None:
        batches = redfloe.stream_batches(any_server.url, stream, block_ms=0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(batches)

    asyncio.run(wait())
    span = told.one("receive")
    assert span.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(span)
    assert not told.errors("receive")


def test_a_handler_that_is_cancelled(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    add_numbers(client, stream, 1)

    async def run() -> None:
        begun = asyncio.Event()

        async def handle(batch: redfloe.AsyncBatch) -> None:
            begun.set()
            await asyncio.sleep(60)

        consumer = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
        running = asyncio.create_task(consumer.run_async(handle))
        await begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert trace.get_current_span() is trace.INVALID_SPAN

    asyncio.run(run())
    assert attributes(told.one("process"))["error.type"] == "CancelledError"
    assert told.errors("process") == {"CancelledError": 1}


# Contexts in entries

WRITERS: dict[str, Callable[..., Any]] = {}


def writer(function: Callable[..., Any]) -> Callable[..., Any]:
    WRITERS[function.__name__] = function
    return function


@writer
def a_frame(url: str, key: str, payload: str | None) -> Any:
    return redfloe.write_stream(url, FRAME, key, payload=payload)


@writer
def a_frame_async(url: str, key: str, payload: str | None) -> Any:
    return redfloe.write_stream_async(url, FRAME, key, payload=payload)


@writer
def some_fields(url: str, key: str, payload: str | None) -> Any:
    frame = FRAME.with_columns(m=pl.lit("no"), at=pl.lit(7, pl.Int64))
    options: dict[str, Any] = {"fields": ["n"], "timestamp_column": "at", "payload": payload}
    return redfloe.write_stream(url, frame, key, **options)


@writer
def a_query(url: str, key: str, payload: str | None) -> Any:
    return redfloe.sink_stream(url, FRAME.lazy(), key, payload=payload)


@writer
def by_keys(url: str, key: str, payload: str | None) -> Any:
    return redfloe.write_stream(url, FRAME, pl.lit(key), payload=payload)


@writer
def entries(url: str, key: str, payload: str | None) -> None:
    with redfloe.StreamProducer(url, key, payload=payload) as producer:
        for n in FRAME["n"]:
            producer.send({"n": n})


@writer
def a_producers_frame(url: str, key: str, payload: str | None) -> None:
    with redfloe.StreamProducer(url, key, payload=payload) as producer:
        producer.send_frame(FRAME)


@writer
async def entries_async(url: str, key: str, payload: str | None) -> None:
    async with redfloe.StreamProducer(url, key, payload=payload) as producer:
        for n in FRAME["n"]:
            await producer.send({"n": n})


@writer
async def a_producers_frame_async(url: str, key: str, payload: str | None) -> None:
    async with redfloe.StreamProducer(url, key, payload=payload) as producer:
        await producer.send_frame(FRAME)


@pytest.mark.parametrize("payload", [None, "data"], ids=["fields", "payload"])
@pytest.mark.parametrize("schema", [NUMBER, None], ids=["schema", "open"])
@pytest.mark.parametrize("name", WRITERS)
def test_from_a_producer_to_a_worker(
    any_server: Server, stream: str, carried: Told, name: str, schema: Any, payload: str | None
) -> None:
    do(WRITERS[name](any_server.url, stream, payload))
    frames = []
    consumer = redfloe.StreamConsumer(
        any_server.url, stream, schema=schema, payload=payload, **ME, **DRAIN
    )
    consumer.run(lambda batch: frames.append(batch.frame))
    (frame,) = frames
    assert frame.columns == ["_id", "_ts", "n"]
    assert frame["n"].cast(pl.Int64).to_list() == [1, 2, 3]
    origins = [whose(span) for span in carried.spans() if span.kind is SpanKind.PRODUCER]
    assert origins
    for operation in ("process", "receive"):
        span = carried.spans(operation)[0]
        assert sorted(linked(span)) == sorted(origins)
        assert span.parent is None
    # Who reads without a handler sees fields like any others; what was written is as it was.
    plain = redfloe.read_stream(any_server.url, stream)
    assert plain["traceparent"].null_count() == 0
    if payload is not None:
        assert plain["data"].to_list() == ['{"n":1}', '{"n":2}', '{"n":3}']


def test_in_event_loops_and_without_a_group(
    world: World, any_server: Server, stream: str, carried: Told
) -> None:
    redfloe.write_stream(any_server.url, FRAME, stream)
    world.consumer(any_server.url, stream, **DRAIN).run(lambda batch: None)
    assert linked(carried.one("process")) == [whose(carried.one("send"))]


def test_parts_of_a_batch_are_linked_to_their_own(
    any_server: Server, stream: str, carried: Told
) -> None:
    entries(any_server.url, stream, None)

    def handle(batch: redfloe.Batch) -> None:
        if len(batch) > 1:
            raise ValueError

    consumer = redfloe.StreamConsumer(any_server.url, stream, dead_letter="dead", **ME, **DRAIN)
    consumer.run(handle, attempts=1)
    origins = [whose(span) for span in carried.spans("create")]
    spans = carried.spans("process")
    assert [linked(span) for span in spans if len(span.links) == 1] == [[one] for one in origins]
    assert linked(spans[0]) == origins


def test_single_entries_are_children(any_server: Server, stream: str, carried: Told) -> None:
    entries(any_server.url, stream, None)

    def run() -> None:
        consumer = redfloe.StreamConsumer(any_server.url, stream, batch_size=1, **DRAIN)
        consumer.run(lambda batch: None)

    run()
    for span, origin in zip(carried.spans("process"), carried.spans("create"), strict=True):
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == whose(origin)
        assert linked(span) == [whose(origin)]
    carried.exporter.clear()
    tracer = carried.tracers.get_tracer("ours")
    with tracer.start_as_current_span("around") as around:
        run()
    for span in carried.spans("process"):
        assert span.parent == around.get_span_context()
        assert len(span.links) == 1


class Parcel(BaseModel):
    n: int


def messages_app(server: Server) -> App:
    retry = Retry(attempts=2, base_delay=0)
    return App(server.url, group="g", dead_letter="{stream}:dead", retry=retry)


@pytest.mark.parametrize("way", ["async", "threads", "both"])
def test_handlers_of_messages(any_server: Server, stream: str, carried: Told, way: str) -> None:
    with Producer(any_server.url, stream) as producer:
        for n in range(3):
            producer.publish(Parcel(n=n))
    app = messages_app(any_server)
    tracer = carried.tracers.get_tracer("the handler's")

    def act(event: Parcel) -> None:
        with tracer.start_as_current_span("work"):
            pass
        if event.n == 1:
            raise KeyError

    async def act_async(event: Parcel) -> None:
        act(event)

    async def beside(message: Message) -> None: ...

    app.on(stream, Parcel)(act_async if way == "async" else act)
    if way == "both":
        app.on(stream, types=["other"])(beside)
    drained = app.drain()
    assert [message.payload for message in drained.handled] == [{"n": "0"}, {"n": "2"}]
    spans, origins = carried.spans("process"), carried.spans("create")
    told = [0, 1, 1, 2]  # which is called once more
    ids = [message.id for message in (drained.handled[0], drained.failed[0][0], drained.handled[1])]
    for span, n, work in zip(spans, told, carried.spans("work"), strict=True):
        assert span.name == f"process {stream}"
        assert span.kind is SpanKind.CONSUMER
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == whose(origins[n])
        assert linked(span) == [whose(origins[n])]
        assert work.parent is not None
        assert (work.parent.trace_id, work.parent.span_id) == whose(span)
        found = attributes(span)
        assert found["messaging.message.id"] == ids[n]
        assert found["code.function.name"].endswith("act_async" if way == "async" else "act")
        assert found["messaging.consumer.group.name"] == "g"
        assert found.get("error.type") == ("KeyError" if n == 1 else None)
        assert "messaging.batch.message_count" not in found
    points = carried.points("process.duration", "process")
    assert sum(point.count for point in points) == 4
    assert all("messaging.message.id" not in point.attributes for point in points)
    assert carried.errors("process") == {"KeyError": 2}
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside single"])
def test_handlers_of_messages_as_columns(
    any_server: Server, stream: str, carried: Told, beside: bool
) -> None:
    with Producer(any_server.url, stream) as producer:
        for n in range(3):
            producer.publish(Parcel(n=n))
    app = messages_app(any_server)

    @app.on_batch(stream, Parcel)
    def load(frame: pl.DataFrame) -> None:
        if 1 in frame["n"].to_list():
            raise KeyError

    if beside:
        app.on(stream, Parcel)(lambda event: None)
    app.drain()
    origins = [whose(span) for span in carried.spans("create")]
    spans = [
        span for span in carried.spans("process") if "messaging.message.id" not in attributes(span)
    ]
    sizes = [attributes(span)["messaging.batch.message_count"] for span in spans]
    assert sizes == [3, 3, 1, 2, 1, 1]
    assert linked(spans[0]) == origins
    assert [linked(span) for span in spans if len(span.links) == 1] == [[one] for one in origins]
    assert all(span.parent is None for span in spans)
    assert len(carried.spans("process")) - len(spans) == (3 if beside else 0)


def test_handlers_of_messages_that_say_nothing_of_a_trace(
    any_server: Server, client: redis.Redis, stream: str, told: Told
) -> None:
    client.xadd(stream, {"_type": "Parcel", "n": 1, "traceparent": "nonsense"})
    app = messages_app(any_server)
    app.on(stream, Parcel)(lambda event: None)
    app.drain()
    span = told.one("process")
    assert span.parent is None
    assert not span.links
    telemetry.uninstrument()
    client.xadd(stream, {"_type": "Parcel", "n": 1})
    assert len(app.drain().handled) == 1
    assert len(told.spans("process")) == 1


@pytest.mark.parametrize("way", ["threads", "async", "both", "processor"])
def test_handlers_of_messages_that_commit(
    any_server: Server, stream: str, carried: Told, way: str
) -> None:
    """They have the spans that others have, and no more."""
    with Producer(any_server.url, stream) as producer:
        for n in range(2):
            producer.publish(Parcel(n=n))
    router = Router()
    got: list[int] = []

    def act(event: Parcel, tx: Transaction) -> None:
        with carried.tracers.get_tracer("the handler's").start_as_current_span("work"):
            got.append(event.n)
        if event.n == 1:
            raise KeyError

    async def act_async(event: Parcel, tx: Transaction) -> None:
        act(event, tx)

    async def beside(message: Message) -> None: ...

    router.on(stream, Parcel, exactly_once=True)(act_async if way == "async" else act)
    if way == "both":
        router.on(stream, types=["other"], exactly_once=True)(beside)
    if way == "processor":
        options: dict[str, Any] = {"name": "g", "dead_letter": "dead", **DRAIN}
        Processor(any_server.url, stream, router, **options).run(attempts=1)
    else:
        retry = Retry(attempts=1)
        app = App(any_server.url, group="g", consumer="c", retry=retry, dead_letter="dead")
        app.include(router)
        app.drain()
    assert got == [0, 1, 0, 1]  # both, and then each alone
    spans, origins = carried.spans("process"), carried.spans("create")
    ids = redfloe.read_stream(any_server.url, stream)["_id"]
    for span, n, work in zip(spans, got, carried.spans("work"), strict=True):
        assert (span.name, span.kind) == (f"process {stream}", SpanKind.CONSUMER)
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == whose(origins[n])
        assert linked(span) == [whose(origins[n])]
        assert work.parent is not None
        assert (work.parent.trace_id, work.parent.span_id) == whose(span)
        found = attributes(span)
        assert found["messaging.message.id"] == ids[n]
        assert found["code.function.name"].endswith("act_async" if way == "async" else "act")
        assert found.get("messaging.consumer.group.name") == (None if way == "processor" else "g")
        assert found.get("error.type") == ("KeyError" if n == 1 else None)
    assert carried.errors("process") == {"KeyError": 2}


def test_the_handler_of_a_processor(
    world: World, any_server: Server, stream: str, carried: Told
) -> None:
    entries(any_server.url, stream, None)
    frames: list[pl.DataFrame] = []

    def handle(tx: Any) -> None:
        frames.append(tx.frame)
        if len(tx) > 1:
            raise ValueError

    async def handle_async(tx: Any) -> None:
        handle(tx)

    options: dict[str, Any] = {"name": "p", "dead_letter": "dead", "schema": NUMBER, **DRAIN}
    processor = redfloe.StreamProcessor(any_server.url, stream, **options)
    if world.runner is None:
        processor.run(handle, attempts=1)
    else:
        world.do(processor.run_async(handle_async, attempts=1))
    assert {tuple(frame.columns) for frame in frames} == {("_id", "_ts", "n")}
    origins = [whose(span) for span in carried.spans("create")]
    spans = carried.spans("process")
    assert linked(spans[0]) == origins
    assert [linked(span) for span in spans if len(span.links) == 1] == [[one] for one in origins]
    sizes = [attributes(span)["messaging.batch.message_count"] for span in spans]
    assert sizes == [frame.height for frame in frames]
    assert carried.errors("process") == {"ValueError": 2}


def test_small_batches_of_a_processor_are_linked_to_their_own(
    any_server: Server, stream: str, carried: Told
) -> None:
    entries(any_server.url, stream, None)
    options: dict[str, Any] = {"name": "p", "batch_size": 1, **DRAIN}
    redfloe.StreamProcessor(any_server.url, stream, **options).run(lambda tx: None)
    for span, origin in zip(carried.spans("process"), carried.spans("create"), strict=True):
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == whose(origin)
        assert linked(span) == [whose(origin)]


def test_a_loop_of_ones_own(world: World, any_server: Server, stream: str, carried: Told) -> None:
    redfloe.write_stream(any_server.url, FRAME, stream)
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        batch = next(consumer)
        (link,) = telemetry.links(batch)
        (half, _) = batch.halves()
        assert len(telemetry.links(half)) == 1
    origin = carried.one("send")
    assert (link.context.trace_id, link.context.span_id) == whose(origin)


def test_what_others_wrote_breaks_nothing(
    any_server: Server, client: redis.Redis, stream: str, carried: Told, caplog: Any
) -> None:
    good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    texts: list[Any] = [
        *("", "nonsense", b"\xff\xfe\x00", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"),
        *("00-" + "é" * 32, "x" * 100_000, "ff" + good[2:], good + "-more", 5),
    ]
    add(client, stream, [(f"{n}-0", {"n": 1, "traceparent": t}) for n, t in enumerate(texts, 1)])
    states: list[Any] = [b"\xff", "=,=,==", "a=" + "b" * 10_000, "a=1," * 40, "a=1,a=2", "vendor=1"]
    add(
        client,
        stream,
        [
            (f"10{n}-0", {"n": 1, "traceparent": good, "tracestate": s})
            for n, s in enumerate(states)
        ],
    )
    seen = []
    consumer = redfloe.StreamConsumer(any_server.url, stream, schema=NUMBER, **ME, **DRAIN)
    consumer.run(lambda batch: seen.append(batch.frame))
    assert seen[0].columns == ["_id", "_ts", "n"]
    assert seen[0].height == len(texts) + len(states)
    assert linked(carried.one("process")) == [(int(good[3:35], 16), int(good[36:52], 16))]
    # An open schema takes them as bytes too.
    consumer = redfloe.StreamConsumer(any_server.url, stream, **DRAIN)
    consumer.run(lambda batch: seen.append(batch.frame))
    assert seen[1].columns == ["_id", "_ts", "n"]
    assert not caplog.text


@pytest.mark.parametrize("dead_letter", [None, "dead"])
def test_a_payload_with_such_a_key(
    any_server: Server, client: redis.Redis, stream: str, carried: Told, dead_letter: str | None
) -> None:
    document = json.dumps({"n": 1, "traceparent": ["what", "ever"]})
    add(
        client,
        stream,
        [("1-0", {"data": document}), ("2-0", {"data": document, "traceparent": "x"})],
    )
    seen = []
    consumer = redfloe.StreamConsumer(
        any_server.url,
        stream,
        schema=NUMBER,
        payload="data",
        dead_letter=dead_letter,
        **ME,
        **DRAIN,
    )
    consumer.run(lambda batch: seen.extend(batch.frame.rows()))
    assert seen == [("1-0", 1, 1), ("2-0", 2, 1)]


def test_many_contexts(any_server: Server, client: redis.Redis, stream: str, carried: Told) -> None:
    def text(n: int) -> str:
        return f"00-{n:032x}-{n:016x}-01"

    add(client, stream, [(f"{n}-0", {"traceparent": text(n), "n": n}) for n in range(1, 500)])
    redfloe.StreamConsumer(any_server.url, stream, **DRAIN).run(lambda batch: None)
    assert linked(carried.one("process")) == [(n, n) for n in range(1, 129)]


def test_whoever_names_the_field_has_it(
    any_server: Server, client: redis.Redis, stream: str, carried: Told
) -> None:
    redfloe.write_stream(any_server.url, FRAME, stream)
    schema = {"n": pl.Int64, "traceparent": pl.String}
    for options in ({"schema": schema}, {"schema_overrides": {"traceparent": pl.String}}):
        given: dict[str, Any] = {**options, **DRAIN}
        frames: list[pl.DataFrame] = []

        def handle(batch: redfloe.Batch, frames: list[pl.DataFrame] = frames) -> None:
            frames.append(batch.frame)

        redfloe.StreamConsumer(any_server.url, stream, **given).run(handle)
        assert frames[0].columns == ["_id", "_ts", "n", "traceparent"]
        assert frames[0]["traceparent"].str.starts_with("00-").all()
        assert linked(carried.spans("process")[-1]) == [whose(carried.one("send"))]


def test_a_context_of_the_callers_own_is_kept(
    any_server: Server, client: redis.Redis, stream: str, carried: Told
) -> None:
    own = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    redfloe.write_stream(any_server.url, FRAME.with_columns(traceparent=pl.lit(own)), stream)
    with redfloe.StreamProducer(any_server.url, stream) as producer:
        producer.send({"n": 4, "traceparent": own})
    assert redfloe.read_stream(any_server.url, stream)["traceparent"].unique().to_list() == [own]


@pytest.mark.parametrize("null_values", [None, "null", {"n": "null"}])
def test_a_row_without_a_value_stays_one(
    any_server: Server, client: redis.Redis, stream: str, carried: Told, null_values: Any
) -> None:
    frame = pl.DataFrame({"n": [1, None], "m": ["a", None]})
    skipping = redfloe.write_stream(
        any_server.url, frame, stream, on_empty_row="skip", null_values=null_values
    )
    expected = 1 if null_values is None else 2
    assert len(skipping.drop_nulls()) == client.xlen(stream) == expected
    if null_values is None:
        with pytest.raises(ValueError, match="no field has a value"):
            redfloe.write_stream(any_server.url, frame, stream)
        with redfloe.StreamProducer(any_server.url, stream) as producer:
            with pytest.raises(ValueError, match="no field has a value"):
                producer.send({"n": None})


def test_nobody_misses_the_fields(
    any_server: Server, client: redis.Redis, stream: str, carried: Told, caplog: Any
) -> None:
    add_numbers(client, stream, 200)
    redfloe.StreamConsumer(any_server.url, stream, schema=NUMBER, **DRAIN).run(lambda batch: None)
    assert not caplog.text
    wrong = {"m": pl.Int64}
    redfloe.StreamConsumer(any_server.url, stream, schema=wrong, **DRAIN).run(lambda batch: None)
    assert "had ['m']" in caplog.text


def test_rescued_fields_are_as_without(
    any_server: Server, client: redis.Redis, stream: str, carried: Told
) -> None:
    frame = FRAME.with_columns(m=pl.lit("x"))
    redfloe.write_stream(any_server.url, frame, stream)
    seen: list[pl.DataFrame] = []
    options: dict[str, Any] = {"schema": NUMBER, "rescue_column": "_rescued", **DRAIN}
    redfloe.StreamConsumer(any_server.url, stream, **options).run(
        lambda batch: seen.append(batch.frame)
    )
    assert seen[0]["_rescued"].to_list() == 3 * ['{"m":"x"}']


# Turning it on and off


def test_twice_is_once(any_server: Server, stream: str, told: Told) -> None:
    told.instrument()
    told.instrument()
    redfloe.write_stream(any_server.url, FRAME, stream)
    assert len(told.spans()) == 1
    assert told.counted("client.sent.messages", "send") == 3
    other = Told()
    other.instrument()
    redfloe.write_stream(any_server.url, FRAME, stream)
    assert len(told.spans()) == len(other.spans()) == 1


def test_afterwards_all_is_as_before(any_server: Server, stream: str) -> None:
    def seams() -> list[object]:
        return [vars(point.owner)[point.name] for point in telemetry._POINTS]

    before = [*seams(), *map(vars(redfloe.StreamProducer).get, ("_pairs", "_frame"))]
    told = Told()
    told.instrument(trace_context=True)
    assert not {*map(id, seams())} & {*map(id, before)}
    telemetry.uninstrument()
    telemetry.uninstrument()
    assert [*seams(), *map(vars(redfloe.StreamProducer).get, ("_pairs", "_frame"))] == before
    redfloe.write_stream(any_server.url, FRAME, stream)
    assert redfloe.read_stream(any_server.url, stream).columns == ["_id", "_ts", "n"]
    assert not told.spans()
    assert not told.metrics()


def test_a_worker_that_outlives_it(any_server: Server, stream: str, carried: Told) -> None:
    redfloe.write_stream(any_server.url, FRAME, stream)
    with redfloe.StreamConsumer(any_server.url, stream, batch_size=1, **ME, **DRAIN) as consumer:
        assert next(consumer).frame.columns == ["_id", "_ts", "n"]
        telemetry.uninstrument()
        assert [batch.frame.columns for batch in consumer] == 2 * [["_id", "_ts", "n"]]


def test_a_producer_that_began_before_it(any_server: Server, stream: str, told: Told) -> None:
    """Its frames' contexts would be in the documents."""
    with redfloe.StreamProducer(any_server.url, stream, payload="data") as producer:
        producer.send({"n": 0})
        producer.flush()
        told.instrument(trace_context=True)
        producer.send_frame(FRAME)
        producer.send({"n": 4})
    frame = redfloe.read_stream(any_server.url, stream)
    assert frame["data"].to_list() == [f'{{"n":{n}}}' for n in range(5)]
    assert frame["traceparent"].is_null().to_list() == [True, True, True, True, False]


def test_without_an_sdk(any_server: Server, stream: str) -> None:
    """The API alone makes no spans: then there is no context, and nothing is written."""
    telemetry.instrument(trace_context=True)
    try:
        redfloe.write_stream(any_server.url, FRAME, stream)
        with redfloe.StreamProducer(any_server.url, stream) as producer:
            producer.send({"n": 4})
        consumer = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
        consumer.run(lambda batch: None)
        assert redfloe.read_stream(any_server.url, stream).columns == ["_id", "_ts", "n"]
    finally:
        telemetry.uninstrument()


def test_what_is_no_provider_is_refused() -> None:
    something: Any = 5
    with pytest.raises(TypeError, match="tracer_provider must be a TracerProvider, not int"):
        telemetry.instrument(tracer_provider=something)
    with pytest.raises(TypeError, match="meter_provider must be a MeterProvider, not int"):
        telemetry.instrument(meter_provider=something)


# Telemetry that fails


class Faulty(SpanProcessor):
    """Raises at the start of each span, or at its end."""

    def __init__(self, at: str) -> None:
        self.at, self.calls = at, 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self.at == "start":
            self.fail()

    def on_end(self, span: ReadableSpan) -> None:
        if self.at == "end":
            self.fail()

    def fail(self, *_: object, **__: object) -> Any:
        self.calls += 1
        msg = "boom"
        raise RuntimeError(msg)


class FaultySampler(Sampler):
    def __init__(self, faulty: Faulty) -> None:
        self.faulty = faulty

    def should_sample(self, *given: Any, **options: Any) -> Any:
        return self.faulty.fail()

    def get_description(self) -> str:
        return "faulty"


def faulty_telemetry(at: str, monkeypatch: pytest.MonkeyPatch) -> Faulty:
    """Instrument with telemetry that fails there."""
    faulty = Faulty(at)
    tracers, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    match at:
        case "start" | "end":
            tracers.add_span_processor(faulty)
        case "sampler":
            tracers = TracerProvider(sampler=FaultySampler(faulty))
        case "inject":
            monkeypatch.setattr(TraceContextTextMapPropagator, "inject", faulty.fail)
        case "extract":
            monkeypatch.setattr(TraceContextTextMapPropagator, "extract", faulty.fail)
        case "span":
            monkeypatch.setattr(SDKSpan, "set_attribute", faulty.fail)
        case "meter":
            monkeypatch.setattr(Histogram, "record", faulty.fail)
            monkeypatch.setattr(Counter, "add", faulty.fail)
    telemetry.instrument(tracer_provider=tracers, meter_provider=meters, trace_context=True)
    return faulty


@pytest.mark.parametrize("at", ["start", "end", "sampler", "inject", "extract", "span", "meter"])
@TWINS
def test_telemetry_that_fails_changes_nothing(
    any_server: Server,
    stream: str,
    is_async: bool,
    at: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    faulty = faulty_telemetry(at, monkeypatch)
    dead = f"{stream}-dead"
    try:
        for _ in range(2):
            do(twin("write_stream", is_async)(any_server.url, FRAME, stream))
            do(WRITERS["entries_async" if is_async else "entries"](any_server.url, stream, None))
        assert do(twin("read_stream", is_async)(any_server.url, stream)).height == 12
        handled: list[int] = []

        def handle(batch: Any) -> None:
            handled.append(len(batch))
            if len(handled) == 1:
                raise ValueError

        async def handle_async(batch: Any) -> None:
            handle(batch)

        consumer = redfloe.StreamConsumer(
            any_server.url, stream, dead_letter=dead, batch_size=4, **ME, **DRAIN
        )
        if is_async:
            asyncio.run(consumer.run_async(handle_async))
        else:
            consumer.run(handle)
    finally:
        telemetry.uninstrument()
    assert faulty.calls > 5
    group = redfloe.group_info(any_server.url, stream)
    assert group.select("pending").item() == 0
    assert consumer.stats.entries == 12
    assert sum(handled) >= 12
    assert trace.get_current_span() is trace.INVALID_SPAN
    told = [one for one in caplog.records if one.name == "redfloe.telemetry"]
    assert 1 <= len(told) <= 3
    assert len({one.getMessage() for one in told}) == len(told)
    assert all("RuntimeError: boom" in one.getMessage() for one in told)


FORK = """
import polars as pl
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redfloe import telemetry

exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
telemetry.instrument(tracer_provider=provider)
redfloe.write_stream(sys.argv[1], pl.DataFrame({"n": [1]}), "s")
producer = redfloe.StreamProducer(sys.argv[1], "s")
producer.send({"n": 2})
producer.flush()
if child := os.fork():
    os.waitpid(child, 0)
    producer.close()
    sys.stdin.readline()
else:
    exporter.clear()
    redfloe.read_stream(sys.argv[1], "s")
    try:
        producer.send({"n": 3})
    except RuntimeError as error:
        print(json.dumps([span.name for span in exporter.get_finished_spans()]), flush=True)
    os._exit(0)
"""


def test_a_forked_child(any_server: Server, client: redis.Redis) -> None:
    with python(FORK, any_server.url) as process:
        assert hear(process) == ["receive s", "create s"]
        finish(process)


def test_whoever_does_not_ask_imports_nothing(any_server: Server, stream: str) -> None:
    script = """
import polars as pl
redfloe.write_stream(sys.argv[1], pl.DataFrame({"n": [1]}), sys.argv[2])
redfloe.read_stream(sys.argv[1], sys.argv[2])
with redfloe.StreamConsumer(sys.argv[1], sys.argv[2], on_idle="stop", block_ms=1) as consumer:
    for batch in consumer:
        pass
print(json.dumps([name for name in sys.modules if "opentelemetry" in name or "telemetry" in name]))
"""
    with python(script, any_server.url, stream) as process:
        assert hear(process) == []
        finish(process)
