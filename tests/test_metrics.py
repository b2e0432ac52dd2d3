"""Metrics for Prometheus, from outside and from inside."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import redis
import yaml
from prometheus_client import CollectorRegistry, generate_latest

import redfloe
from redfloe.metrics import StreamCollector, WorkerCollector
from support.groups import DRAIN, ME, deliver
from support.lanes import put_lane
from support.processes import finish, hear, python
from support.server import Server
from support.streams import add_numbers
from support.timing import within


def samples(collector: Any) -> dict[str, dict[tuple[str, ...], float]]:
    """Give the values of each metric by the values of its labels."""
    registry = CollectorRegistry()
    registry.register(collector)
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in registry.collect():
        found.setdefault(family.name, {})
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            labels = tuple(sample.labels.values())
            assert labels not in series, f"{sample.name}{labels} is there twice"
            series[labels] = sample.value
    return found


def test_streams_and_groups(server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    client.xgroup_create(stream, "far", "5")
    deliver(client, stream, 4)
    found = samples(StreamCollector(server.url, [stream], consumers=True))
    old = server.name == "redis-6.2"
    assert found["redis_up"] == {(): 1}
    assert found["redis_stream_length"] == {(stream,): 9}
    assert found["redis_stream_groups"] == {(stream,): 2}
    assert found["redis_stream_memory_bytes"][stream,] > 100
    assert found.get("redis_stream_entries_added_total", {}) == ({} if old else {(stream,): 9})
    assert found["redis_stream_group_messages_pending"] == {(stream, "g"): 4, (stream, "far"): 0}
    assert found["redis_stream_group_consumers"] == {(stream, "g"): 1, (stream, "far"): 0}
    # Where a group that begins in the middle stands, no server can tell in entries: absent, not 0.
    assert found["redis_stream_group_lag"] == ({} if old else {(stream, "g"): 5})
    assert found["redis_stream_group_lag_seconds"][stream, "far"] > 10**9
    assert found["redis_stream_group_consumer_messages_pending"] == {(stream, "g", "me"): 4}
    assert 0 <= found["redis_stream_group_consumer_idle_seconds"][stream, "g", "me"] < 60


def test_processors(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 9)
    client.xgroup_create(stream, "g", "0")
    batch: Any = {"entries": 40, "batch": 4, "took": 250, "committed": 1704067201000, "commits": 10}
    put_lane(client, stream, "p", position="4-0", owner="host", left_ms=60_000, **batch)
    put_lane(client, stream, "p", ("g", "c"))
    put_lane(client, f"{stream}:other", "p")
    found = samples(StreamCollector(any_server.url, [stream, stream + "*"], processors=True))
    own, member, other = (
        (stream, "p", "", ""),
        (stream, "p", "g", "c"),
        (f"{stream}:other", "p", "", ""),
    )
    assert found["redis_stream_processor_held"] == {own: 1, member: 0, other: 0}
    assert found["redis_stream_processor_lag"] == {own: 5, member: 9, other: 0}
    assert found["redis_stream_processor_lag_seconds"][own] > 10**9
    assert found["redis_stream_processor_commits_total"] == {own: 10, member: 0, other: 0}
    assert found["redis_stream_processor_entries_total"] == {own: 40}
    assert found["redis_stream_processor_batch_seconds"] == {own: 0.25}
    last = "redis_stream_processor_last_commit_timestamp_seconds"
    assert found[last] == {own: 1704067201}
    assert found["redis_stream_processor_epoch"][own] == 1
    without = samples(StreamCollector(any_server.url, [stream]))
    assert not any("processor" in name for name in without)


def test_consumers_are_left_out_by_default(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 1)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 1)
    found = samples(StreamCollector(any_server.url, [stream, "*"]))
    assert not any("consumer_" in name for name in found)
    assert found["redis_stream_length"][stream,] == 1  # once, though both patterns match


def test_a_server_that_is_not_there() -> None:
    collector = StreamCollector(redfloe.RedisConnection("redis://127.0.0.1:1", max_retries=0))
    assert samples(collector) == {"redis_up": {(): 0}}


def test_what_it_may_not_ask(
    any_server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.acl_setuser("blind", enabled=True, nopass=True, keys=["*"], commands=["+xinfo"])
    try:
        url = redfloe.RedisConnection(any_server.url, username="blind", password="x")
        assert samples(StreamCollector(url)) == {"redis_up": {(): 0}}
    finally:
        client.acl_deluser("blind")
    assert "no metrics of streams" in caplog.text
    with pytest.raises(ValueError, match="patterns must name at least one"):
        StreamCollector(any_server.url, [])


def test_one_pattern_and_a_name_that_is_not_utf_8(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 2)
    for group in (b"g", b"g\xff"):
        client.xgroup_create(stream, group, "0")
        client.xgroup_createconsumer(stream, group, "me")
    found = samples(StreamCollector(any_server.url, stream, consumers=True))
    assert found["redis_stream_length"] == {(stream,): 2}
    assert found["redis_stream_group_consumers"] == {(stream, "g"): 1, (stream, r"g\xff"): 1}
    assert found["redis_stream_group_consumer_messages_pending"] == {(stream, "g", "me"): 0}


FORK = """
import signal, threading
import polars as pl
from prometheus_client import CollectorRegistry, generate_latest
from redfloe.metrics import StreamCollector

url, stream = sys.argv[1:]
registry = CollectorRegistry()
registry.register(StreamCollector(url, [stream, stream + "*"], consumers=True))
before = generate_latest(registry)
frame = pl.DataFrame({"n": range(100_000)})
frame.group_by(pl.col("n") % 7).agg(pl.len()).sort("n")  # all threads of Polars have worked
child = os.fork()
if child == 0:
    signal.alarm(20)  # one that hangs ends by that
    same = generate_latest(registry).splitlines()[:5] == before.splitlines()[:5]
    os._exit(0 if same and b"redis_up 1" in generate_latest(registry) else 1)
print(json.dumps(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_was_forked_after_a_scrape(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 1)
    with python(FORK, any_server.url, stream) as process:
        assert hear(process) == 0
        finish(process)


def test_two_in_a_registry_are_refused(any_server: Server) -> None:
    registry = CollectorRegistry()
    collector = StreamCollector(any_server.url)
    registry.register(collector)
    for other in (collector, StreamCollector(any_server.url, ["x"])):
        with pytest.raises(ValueError, match=r"Duplicated timeseries.*redis_stream_length"):
            registry.register(other)
    WorkerCollector(registry)
    with pytest.raises(ValueError, match="the registry has a WorkerCollector already"):
        WorkerCollector(registry)


def test_several_servers(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)
    gone = redfloe.RedisConnection("redis://127.0.0.1:1", max_retries=0)
    collector = StreamCollector({"a": any_server.url, "b": gone}, [stream])
    found = samples(collector)
    assert found["redis_up"] == {("a",): 1, ("b",): 0}
    assert found["redis_stream_length"] == {("a", stream): 3}
    registry = CollectorRegistry()
    registry.register(collector)
    shown = generate_latest(registry).decode()
    assert f'redis_stream_length{{server="a",stream="{stream}"}} 3.0' in shown
    heads = [line for line in shown.splitlines() if line.startswith("# TYPE")]
    assert len({*heads}) == len(heads)
    with pytest.raises(ValueError, match="url must name at least one server"):
        StreamCollector({})


def test_a_server_that_hangs(any_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        with within(5):
            assert samples(StreamCollector(url, timeout=0.3)) == {"redis_up": {(): 0}}
    assert "did not answer everything in time" in caplog.text
    for timeout in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="timeout must be above 0 seconds"):
            StreamCollector(any_server.url, timeout=timeout)


def test_a_processor(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 25)
    registry = CollectorRegistry()
    metrics = WorkerCollector(registry)
    processor = redfloe.StreamProcessor(
        any_server.url, stream, name="p", batch_size=10, on_idle="stop", block_ms=1
    )
    metrics.watch(processor)
    labels = {"stream": stream, "processor": "p"}

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"redfloe_processor_{name}_total", labels)

    assert (value("commits"), value("entries")) == (0, 0)
    with processor:
        for _ in processor:
            pass
        assert (value("commits"), value("entries"), value("dead_lettered")) == (3, 25, 0)
    # Both collectors fit into one registry.
    registry.register(StreamCollector(any_server.url, [stream], processors=True))
    assert (
        registry.get_sample_value(
            "redis_stream_processor_entries_total", labels | {"group": "", "consumer": ""}
        )
        == 25
    )
    del processor
    gc.collect()
    assert value("commits") is None


def test_an_async_producer(any_server: Server, stream: str) -> None:
    registry = CollectorRegistry()
    metrics = WorkerCollector(registry)

    async def produce() -> float | None:
        async with redfloe.StreamProducer(any_server.url, stream) as producer:
            assert isinstance(producer, redfloe.AsyncStreamProducer)
            metrics.watch(producer)
            for number in range(3):
                await producer.send({"n": number})
        name = "redfloe_producer_rows_written_total"
        return registry.get_sample_value(name, {"stream": stream})

    assert asyncio.run(produce()) == 3


def test_nothing_to_tell(any_server: Server, stream: str) -> None:
    found = samples(StreamCollector(any_server.url, [stream]))
    assert found["redis_up"] == {(): 1}
    assert found["redis_stream_length"] == {}


def test_workers_and_producers(any_server: Server, client: redis.Redis, stream: str) -> None:
    registry = CollectorRegistry()
    metrics = WorkerCollector(registry)
    with redfloe.StreamProducer(any_server.url, stream) as producer:
        metrics.watch(producer)
        for number in range(5):
            producer.send({"n": number})
    worker = redfloe.StreamConsumer(any_server.url, stream, dead_letter="dead", **ME, **DRAIN)
    metrics.watch(worker)
    with worker:
        for batch in worker:
            batch.fail(batch.ids[:1], "no")
    labels = {"stream": stream, "group": "g", "consumer": "me"}
    for name, value in {
        "entries": 5,
        "batches": 1,
        "acknowledged": 4,
        "dead_lettered": 1,
        "reclaimed": 0,
    }.items():
        assert registry.get_sample_value(f"redfloe_consumer_{name}_total", labels) == value, name
    rows = registry.get_sample_value("redfloe_producer_rows_written_total", {"stream": stream})
    assert rows == 5
    assert b"redfloe_consumer_bytes_total" in generate_latest(registry)
    del worker, producer, batch
    gc.collect()
    assert registry.get_sample_value("redfloe_consumer_entries_total", labels) is None


def test_two_with_the_same_labels_are_one_series(any_server: Server, stream: str) -> None:
    registry = CollectorRegistry()
    metrics = WorkerCollector(registry)
    producers = [redfloe.StreamProducer(any_server.url, stream) for _ in range(2)]
    metrics.watch(*producers)
    for producer in producers:
        with producer:
            producer.send({"n": 1})
    labels = {"stream": stream}
    assert registry.get_sample_value("redfloe_producer_rows_written_total", labels) == 2
    for _ in range(2):
        worker = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
        metrics.watch(worker)
        worker.run(lambda batch: None)
        producers.append(worker)  # type: ignore[arg-type]  # to keep it
    where = {"stream": stream, "group": "g", "consumer": "me"}
    assert registry.get_sample_value("redfloe_consumer_acknowledged_total", where) == 2
    seen = [sample.labels for family in registry.collect() for sample in family.samples]
    names = [sample.name for family in registry.collect() for sample in family.samples]
    series = [(name, *labels.values()) for name, labels in zip(names, seen, strict=True)]
    assert len(series) == len(set(series))
    something: Any = 5
    with pytest.raises(TypeError, match="a int has no metrics"):
        metrics.watch(something)


def test_the_exporter(any_server: Server, client: redis.Redis, stream: str) -> None:
    add_numbers(client, stream, 3)
    client.xgroup_create(stream, "g", "0")
    deliver(client, stream, 2)
    process = subprocess.Popen(
        [sys.executable, "-m", "redfloe", "exporter", stream, "--port", "0", "--consumers"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "REDIS_URL": any_server.url},
    )
    with process:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.findall(r"http://\S+", line)[0]
        for length in (3, 4):
            text = urllib.request.urlopen(url, timeout=10).read().decode()
            assert f'redis_stream_length{{stream="{stream}"}} {length}.0' in text
            labels = f'consumer="me",group="g",stream="{stream}"'
            assert f"redis_stream_group_consumer_messages_pending{{{labels}}} 2.0" in text
            client.xadd(stream, {"n": 4})
        process.send_signal(signal.SIGINT)
        with within(5):
            assert process.wait() == 130
        assert process.stderr.read() == "redfloe: interrupted\n"


# The dashboard and the rules

MONITORING = Path(__file__).parents[1] / "docs" / "monitoring"


def queries() -> list[str]:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    found += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return [query.replace("$__rate_interval", "5m").replace("$stream", ".*") for query in found]


def named(expression: Any) -> set[str]:
    """Give the metrics that a parsed query names."""
    return set(re.findall(r"\b(?:redis|redfloe)_[a-z_]+", str(expression)))


def test_each_query_parses_and_names_metrics_that_there_are(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    add_numbers(client, stream, 3)
    registry = CollectorRegistry()
    put_lane(client, stream, "p", entries=3, batch=3, took=1, committed=1)
    collector = StreamCollector(any_server.url, [stream], consumers=True, processors=True)
    registry.register(collector)
    worker = redfloe.StreamConsumer(any_server.url, stream, **ME, **DRAIN)
    WorkerCollector(registry).watch(worker)
    worker.run(lambda _: None)
    exposed = set(re.findall(r"^(r[a-z_]+)[{ ]", generate_latest(registry).decode(), re.MULTILINE))
    assert len(queries()) > 10
    for query in queries():
        metrics = named(promql_parser.parse(query).prettify())
        assert metrics
        assert metrics <= exposed, query


def test_the_page_names_each_metric(any_server: Server, client: redis.Redis, stream: str) -> None:
    page = (MONITORING.parent / "guide" / "monitoring.md").read_text()
    add_numbers(client, stream, 1)
    registry = CollectorRegistry()
    WorkerCollector(registry)
    inside = [family.name for family in registry.collect()]
    everything = StreamCollector(any_server.url, [stream], consumers=True, processors=True)
    for name in [*samples(everything), *inside]:
        short = name.removesuffix("_total").removeprefix("redfloe_consumer")
        short = short.removeprefix("redfloe_processor")
        assert name.removesuffix("_total") in page or f"`{short}_total`" in page, name


PRODUCER_FORK = """
import signal
import redfloe
from prometheus_client import CollectorRegistry
from redfloe.metrics import WorkerCollector

url, stream = sys.argv[1:]
registry = CollectorRegistry()
metrics = WorkerCollector(registry)
producer = redfloe.StreamProducer(url, stream)
metrics.watch(producer)
producer.send({"a": 1})
producer.flush()
child = os.fork()
if child == 0:
    signal.alarm(20)
    try:
        os._exit(0 if list(registry.collect()) else 2)
    finally:
        os._exit(1)
print(json.dumps(os.waitpid(child, 0)[1]))
producer.close()
"""


def test_a_child_leaves_out_the_producers_of_its_parent(any_server: Server, stream: str) -> None:
    with python(PRODUCER_FORK, any_server.url, stream) as process:
        assert hear(process) == 0
        finish(process)


def test_more_are_watched_while_a_scrape_lists_them(any_server: Server, stream: str) -> None:
    """Without a pause, which no scrape may wait for."""
    metrics = WorkerCollector(CollectorRegistry())
    kept: list[redfloe.StreamProducer] = []

    def watch() -> None:
        for _ in range(3_000):
            kept.append(redfloe.StreamProducer(any_server.url, stream))
            metrics.watch(kept[-1])

    thread = threading.Thread(target=watch)
    thread.start()
    scrapes = 0
    while thread.is_alive():
        assert [*metrics.collect()]
        scrapes += 1
    thread.join()
    assert scrapes > 10
    assert len(kept) == 3_000
    for one in kept:
        one.close()


def test_a_scrape_with_a_thousand_open_files(any_server: Server, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limits[1] < 2_000:
        pytest.skip("may not open as many files")
    file = tmp_path / "x"
    file.touch()
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limits[0], 2_000), limits[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        for _ in range(1_100):
            stack.enter_context(file.open())
        assert samples(StreamCollector(any_server.url))["redis_up"] == {(): 1}
