"""The log: what the core records, as records of Python's logger `redfloe`."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    MemoryCheckpointStore,
    RedisConnection,
    StreamConsumer,
    iter_stream,
    read_stream,
    stream_batches,
)
from redfloe._log import EVENTS
from support.clients import quick
from support.consumers import World, rows
from support.groups import DRAIN, ME, deliver
from support.loops import LOOPS, PATIENCE
from support.proxy import Proxy
from support.secrets import PASSWORD, with_password
from support.server import HOST, Server
from support.streams import NUMBER, add, add_numbers
from support.timing import eventually, later, within


class Log:
    """What has been logged."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def of(self, name: str) -> list[Any]:
        return [one for one in self.records() if one.event == name]

    def records(self) -> list[Any]:
        return [record for record in self._caplog.records if record.name == "redfloe"]

    def clear(self) -> None:
        self._caplog.clear()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    redfloe._log.log_events()  # those of earlier tests
    with caplog.at_level(logging.DEBUG, "redfloe"):
        yield Log(caplog)


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_connections(any_server: Server, log: Log) -> None:
    connection = RedisConnection(any_server.url, client_name="log")
    read_stream(connection, "s")
    read_stream(connection, "s")
    [connected] = log.of("connected")
    assert connected.levelno == logging.DEBUG
    assert connected.address == f"{HOST}:{any_server.port}"
    assert 0 < connected.seconds < 5
    assert connected.getMessage().startswith(f"connected to {HOST}:{any_server.port} in 0.0")


def test_retries(any_server: Server, client: redis.Redis, stream: str, log: Log) -> None:
    add_numbers(client, stream, 1)
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XRANGE", times=2)
        read_stream(quick(proxy.url), stream)
        retries = log.of("retry")
        assert [retry.retry for retry in retries] == [1, 2]
        for retry in retries:
            assert retry.levelno == logging.INFO
            assert retry.error == "the server closed the connection"
            assert retry.address == f"{HOST}:{proxy.port}"
            assert 0 < retry.seconds < 0.1
    # A bounded call says how it ends.
    assert not log.of("outage_began")


def test_an_outage_is_logged_while_it_lasts(
    any_server: Server, client: redis.Redis, stream: str, log: Log
) -> None:
    """Its begin is not kept until the reader has something to give."""
    connection = RedisConnection(any_server.url, client_name=stream, retry_base_delay=0.2)
    batches = iter_stream(connection, stream, NUMBER, "-", block_ms=0)
    seen: list[bool] = []

    def kill() -> None:
        for one in client.client_list():
            if one["name"] == stream:
                client.client_kill_filter(_id=one["id"])

    def look() -> None:
        seen.append(bool(log.of("outage_began")) and not log.of("outage_ended"))

    with later(0.1, kill), later(0.22, look), later(1.0, lambda: add_numbers(client, stream, 1)):
        assert next(batches)["n"].to_list() == [1]
    assert seen == [True]
    [ended] = log.of("outage_ended")
    assert ended.failures == 1
    assert 0.15 < ended.seconds < 0.9


@pytest.mark.parametrize("loop", list(LOOPS))
def test_an_event_loop_logs_while_its_tasks_wait(
    any_server: Server, client: redis.Redis, stream: str, loop: str, log: Log
) -> None:
    async def work() -> None:
        batches = stream_batches(
            RedisConnection(any_server.url, client_name=stream), stream, NUMBER, "-", block_ms=0
        )
        async with batches:
            waiting = asyncio.ensure_future(anext(batches))
            await until(lambda: log.of("connected"))
            await asyncio.sleep(0.1)
            for one in client.client_list():
                if one["name"] == stream:
                    client.client_kill_filter(_id=one["id"])
            await until(lambda: log.of("outage_ended"))
            assert not waiting.done()
            waiting.cancel()

    with within(5), asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work())


def test_groups_and_streams_that_are_created(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        assert next(consumer, None) is None
    [created] = log.of("stream_created")
    assert created.levelno == logging.WARNING
    assert (created.stream, created.group, created.consumer) == (stream, "g", "me")
    assert "must_exist=True" in created.getMessage()
    [group] = log.of("group_created")
    assert (group.levelno, group.group, group.after) == (logging.INFO, "g", "0-0")
    log.clear()
    client.delete(stream)
    add_numbers(client, stream, 1)
    read_stream(any_server.url, stream, NUMBER, **ME)
    assert not log.of("stream_created")
    assert len(log.of("group_created")) == 1
    log.clear()
    with world.consumer(any_server.url, stream, **ME, **DRAIN) as consumer:
        assert next(consumer, None) is not None
    assert not log.of("group_created")


def test_groups_that_are_lost(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    add_numbers(client, stream, 3)
    with world.consumer(
        any_server.url, stream, on_group_lost="recreate", block_ms=20, **ME
    ) as consumer:
        assert rows(next(consumer)) == [1, 2, 3]
        client.xgroup_destroy(stream, "g")
        add_numbers(client, stream, 4, first=4)
        assert rows(next(consumer)) == [4]
    [lost] = log.of("group_lost")
    assert lost.levelno == logging.WARNING
    assert (lost.stream, lost.group, lost.consumer) == (stream, "g", "me")
    assert "NOGROUP" in lost.error
    assert [one.after for one in log.of("group_created")] == ["0-0", "3-0"]


def test_what_is_taken_over(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    add_numbers(client, stream, 3)
    deliver(client, stream, 2, consumer="dead")
    with world.consumer(any_server.url, stream, reclaim_min_idle_ms=0, **ME, **DRAIN) as consumer:
        assert sorted(number for batch in consumer for number in rows(batch)) == [1, 2, 3]
    reclaimed = log.of("reclaimed")
    assert sum(one.entries for one in reclaimed) == 2
    assert {(one.levelno, one.stream, one.consumer) for one in reclaimed} == {
        (logging.INFO, stream, "me")
    }


def test_dead_letters(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    client.xadd(stream, {"n": "x"}, id="1-0")
    client.xadd(stream, {"n": "2"}, id="2-0")
    dead = {"dead_letter": "dead", **ME, **DRAIN}
    with world.consumer(any_server.url, stream, **dead) as consumer:
        batch = next(consumer)
        world.do(batch.fail(batch.ids, "no"))
    spoilt, failed = log.of("dead_lettered")
    assert (spoilt.entry_id, spoilt.entries, spoilt.dead_letter) == ("1-0", 1, "dead")
    assert "does not fit" in spoilt.reason or "n" in spoilt.reason
    assert (failed.entry_id, failed.entries, failed.reason) == ("2-0", 1, "no")
    assert (failed.levelno, failed.stream, failed.group) == (logging.WARNING, stream, "g")


@pytest.mark.parametrize("auto_extend", [True, False])
def test_handlers_that_are_slow_are_logged_while_they_run(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    log: Log,
    auto_extend: bool,
) -> None:
    """Once for each batch. The thread, or the event loop, is busy with something else meanwhile."""
    add_numbers(client, stream, 251)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 100, "batch_size": 250, **ME, **DRAIN}
    with world.consumer(any_server.url, stream, auto_extend=auto_extend, **options) as consumer:
        next(consumer)
        eventually(lambda: bool(log.of("slow_handler")))
        time.sleep(0.25)
        next(consumer)
    [slow] = log.of("slow_handler")
    assert (slow.levelno, slow.stream, slow.group) == (logging.WARNING, stream, "g")
    assert (slow.consumer, slow.entries) == ("me", 250)
    assert 0.1 <= slow.seconds < 5
    assert not log.of("lease_expired")


def test_what_is_kept_no_more_is_logged(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    add_numbers(client, stream, 3)
    options: dict[str, Any] = {"reclaim_min_idle_ms": 60, "max_processing_ms": 120, **ME, **DRAIN}
    with world.consumer(any_server.url, stream, **options) as consumer:
        batch = next(consumer)
        world.do(batch.ack("2-0"))
        eventually(lambda: bool(log.of("lease_expired")))
        time.sleep(0.25)
        [expired] = log.of("lease_expired")
        assert (expired.levelno, expired.stream, expired.group) == (logging.WARNING, stream, "g")
        assert (expired.consumer, expired.entries) == ("me", 2)
        assert 0.12 <= expired.seconds < 5
        assert "max_processing_ms" in expired.getMessage()
        assert world.do(batch.extend()) == 2
        eventually(lambda: len(log.of("lease_expired")) == 2)
    assert [one.event for one in log.records() if one.event in SLOW] == [*SLOW, "lease_expired"]


#: What is told of a batch that takes long, in its order.
SLOW = ("slow_handler", "lease_expired")


@pytest.mark.parametrize("may_extend", [True, False])
def test_handlers_are_not_slow_where_anybody_may_claim_anything(
    redis70: Server, client: redis.Redis, stream: str, world: World, log: Log, may_extend: bool
) -> None:
    """Nor is a lease at its end for a user who may not extend any."""
    add_numbers(client, stream, 3)
    client.execute_command("ACL", "SETUSER", "clerk", "reset", "on", ">no", "~*", "+@all", "-eval")
    try:
        url = redis70.url.replace("redis://", "redis://clerk:no@")
        idle = 0 if may_extend else 50
        options: dict[str, Any] = {"reclaim_min_idle_ms": idle, **ME, **DRAIN}
        connection = redis70.url if may_extend else url
        with world.consumer(connection, stream, batch_size=1, **options) as consumer:
            next(consumer)
            time.sleep(0.1)
            if not may_extend:
                eventually(lambda: bool(log.of("slow_handler")))
                time.sleep(0.6)
            next(consumer)
    finally:
        client.execute_command("ACL", "DELUSER", "clerk")
    assert len(log.of("slow_handler")) == (0 if may_extend else 1)
    assert not log.of("lease_expired")


def test_handlers_that_fail(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    add_numbers(client, stream, 4)

    def handle(batch: Any) -> None:
        if 2 in batch.frame["n"].to_list():
            msg = "no 2"
            raise KeyError(msg)

    options: dict[str, Any] = {"dead_letter": "dead", **ME, **DRAIN}
    world.consumer(any_server.url, stream, **options).run(handle, retry_base_delay=0)
    [first] = log.of("handler_failed")
    again = log.of("handler_failed_again")
    assert (first.levelno, first.stream, first.group) == (logging.WARNING, stream, "g")
    assert (first.consumer, first.error) == ("me", "KeyError: 'no 2'")
    assert (first.entries, first.first_id, first.last_id) == (4, "1-0", "4-0")
    assert first.exc_info[0] is KeyError
    # Twice more with all, then with two, then with the one.
    assert [(one.entries, one.first_id) for one in again] == [
        *((4, "1-0"), (4, "1-0"), (2, "1-0"), (1, "2-0"))
    ]
    assert [one.failures for one in again] == [2, 3, 4, 5]
    assert {(one.levelno, one.exc_info) for one in again} == {(logging.INFO, None)}


def test_data_that_is_lost(
    any_server: Server, client: redis.Redis, stream: str, world: World, log: Log
) -> None:
    add_numbers(client, stream, 9, first=5)
    store = MemoryCheckpointStore()
    store.save("c", "2-0")
    options: dict[str, Any] = {"checkpoint_store": store, "checkpoint_name": "c"}
    with world.consumer(
        any_server.url, stream, on_data_loss="continue", **options, **DRAIN
    ) as consumer:
        next(consumer)
    [lost] = log.of("data_lost")
    assert (lost.levelno, lost.stream) == (logging.WARNING, stream)
    assert "trimmed past 2-0" in lost.error


def by_read(url: str, stream: str, schema: Any, **options: Any) -> None:
    read_stream(url, stream, schema, **options)


def by_scan(url: str, stream: str, schema: Any, **options: Any) -> None:
    redfloe.scan_stream(url, stream, schema, **options).collect()


def by_iterator(url: str, stream: str, schema: Any, **options: Any) -> None:
    for _ in iter_stream(url, stream, schema, start_id="-", **DRAIN, **options):
        pass


def by_worker(url: str, stream: str, schema: Any, **options: Any) -> None:
    with StreamConsumer(url, stream, schema=schema, **ME, **DRAIN, **options) as consumer:
        for _ in consumer:
            pass


MISSING_READERS = [by_read, by_scan, by_iterator, by_worker]
ORDER = {"user": "ada", "total": "1.5", "customer": "{}"}


@pytest.mark.parametrize("reader", MISSING_READERS)
@pytest.mark.parametrize(
    ("schema", "options", "entry", "missing", "hint"),
    [
        ({"usr": str, "n": int}, {}, ORDER, ["usr", "n"], "did you mean 'user'?"),
        ({"customer.id": str}, {}, ORDER, ["customer.id"], "a Struct: {'customer': {'id': ...}}"),
        ({"n": int}, {}, {"data": '{"n": 1}'}, ["n"], "pass payload='data'"),
        ({"n": int}, {"payload": "date"}, {"data": '{"n": 1}'}, ["date"], "mean 'data'?"),
        ({"totl": int}, {"payload": "data"}, {"data": '{"total": 1}'}, ["totl"], "'total'?"),
        ({"src": str, "m": int}, {"payload": "d"}, {"src": "x", "d": '{"z": 1}'}, ["m"], "null"),
    ],
)
def test_fields_that_no_entry_has(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    log: Log,
    reader: Callable[..., None],
    schema: dict[str, Any],
    options: dict[str, Any],
    entry: dict[str, str],
    missing: list[str],
    hint: str,
) -> None:
    add(client, stream, [(f"{n}-0", entry) for n in range(1, 4)])
    reader(any_server.url, stream, schema, **options)
    [event] = log.of("fields_missing")
    assert (event.levelno, event.stream) == (logging.WARNING, stream)
    assert (event.missing, event.entries) == (missing, 3)
    assert event.payload == options.get("payload")
    assert event.present[: len(entry)] == list(entry)
    assert hint in event.getMessage()


@pytest.mark.parametrize("reader", MISSING_READERS)
def test_a_field_that_a_hundred_entries_lack(
    any_server: Server, client: redis.Redis, stream: str, log: Log, reader: Callable[..., None]
) -> None:
    schema = {"user": str, "refund": float}
    add(client, stream, [(f"{n}-0", ORDER) for n in range(1, 100)])
    reader(any_server.url, stream, schema)
    assert log.of("fields_missing") == []
    add(client, stream, [(f"{n}-0", ORDER) for n in range(100, 301)])
    # In batches smaller than that, and once only.
    small = {} if reader in (by_read, by_scan) else {"batch_size": 40}
    reader(any_server.url, stream, schema, **small)
    [event] = log.of("fields_missing")
    assert event.missing == ["refund"]
    assert event.entries >= 100


def test_an_error_does_not_begin_the_watch_anew(
    any_server: Server, client: redis.Redis, stream: str, log: Log
) -> None:
    """The payload came before; what is missing is reported when there have been enough entries."""
    add(client, stream, [("1-0", {"data": '{"total": 1}'})])
    with Proxy(any_server.port) as proxy:
        url, schema = RedisConnection(proxy.url, max_retries=0), {"total": int, "refund": int}
        batches = iter_stream(url, stream, schema, payload="data", start_id="-")
        next(batches)
        proxy.cut_all()
        with pytest.raises(redfloe.RedisConnectionError):
            next(batches)
        add(client, stream, [("2-0", {"note": "no payload"})])
        assert next(batches)["_id"].to_list() == ["2-0"]
        assert log.of("fields_missing") == []
        add(client, stream, [(f"{n}-0", {"data": '{"total": 1}'}) for n in range(3, 120)])
        while not (missing := log.of("fields_missing")):
            next(batches)
        batches.close()
    assert missing[0].missing == ["refund"]


def test_fields_of_which_nothing_can_be_said(
    any_server: Server, client: redis.Redis, stream: str, log: Log
) -> None:
    url, wanted = any_server.url, {"usr": str}
    read_stream(url, stream, wanted)  # no entry
    add(client, stream, [(f"{n}-0", ORDER) for n in range(1, 201)])
    read_stream(url, stream)
    read_stream(url, stream, infer_schema=True, schema_overrides=wanted)
    read_stream(url, stream, {})
    # What was inferred was named by nobody; one of the wanted fields may be rare.
    add(client, stream, [("500-0", {"rare": "1"})])
    redfloe.scan_stream(url, stream).filter(pl.col("_id") == "3-0").collect()
    read_stream(url, stream, {"user": str, "rare": int})
    add(client, "nulls", [(f"{n}-0", {"data": '{"n": null, "m": 1}'}) for n in range(1, 201)])
    read_stream(url, "nulls", {"n": int, "m": int}, payload="data")
    assert log.of("fields_missing") == []


def test_the_latest_of_many_names(
    any_server: Server, client: redis.Redis, stream: str, log: Log
) -> None:
    add(client, stream, [("1-0", {f"f{n}": "" for n in range(30)} | {"price": "1"})])
    read_stream(any_server.url, stream, {"prise": float})
    [event] = log.of("fields_missing")
    assert event.present == [f"f{n}" for n in range(10)]
    assert "did you mean 'price'?" in event.getMessage()


def test_every_record_has_its_event_and_its_message(log: Log) -> None:
    fields = {
        **dict.fromkeys(("address", "error", "stream", "group", "consumer", "dead_letter"), "%s%d"),
        **dict.fromkeys(("entry_id", "first_id", "last_id", "reason", "after"), "x"),
        **dict.fromkeys(("master", "former", "processor", "position", "policy"), "x"),
        **{name: ["%s"] for name in ("missing", "present", "masters", "ignored")},
        **dict.fromkeys(("path", "section"), "x"),
        **dict.fromkeys(("payload", "hint"), "x"),
        **dict.fromkeys(("seconds",), 1.5),
        **dict.fromkeys(("retry", "failures", "entries", "events", "epoch"), 2),
    }
    for name, (level, _) in EVENTS.items():
        redfloe._log.log(name, fields)
        record = log.records()[-1]
        assert (record.event, record.levelno) == (name, level)
        assert "%(" not in record.getMessage()


@pytest.mark.parametrize(("number", "said"), [(1, "1 entry moved"), (2, "2 entries moved")])
def test_what_is_counted_is_named_in_its_number(log: Log, number: int, said: str) -> None:
    where = dict.fromkeys(("stream", "group", "dead_letter", "entry_id", "reason"), "x")
    redfloe._log.log("dead_lettered", {**where, "entries": number})
    record = log.records()[-1]
    assert said in record.getMessage()
    assert record.entries == number


def test_records_whose_attributes_the_program_has_already(log: Log) -> None:
    before = logging.getLogRecordFactory()

    def with_stream(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        record.stream = "the program's"
        return record

    logging.setLogRecordFactory(with_stream)
    try:
        redfloe._log.log("data_lost", {"stream": "s", "group": None, "error": "trimmed"})
    finally:
        logging.setLogRecordFactory(before)
    record: Any = log.records()[-1]
    assert record.getMessage() == "stream s: going on although trimmed"
    assert (record.stream, record.redfloe_stream) == ("the program's", "s")
    assert record.redfloe_event == "data_lost"


def test_a_password_is_in_no_record(any_server: Server, log: Log) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(f"-LOADING {PASSWORD}\r\n".encode(), once_seen=b"XRANGE")
        url = with_password(proxy.url, user="default")
        read_stream(quick(url), "s")
    assert log.of("retry")
    for record in log.records():
        assert PASSWORD not in record.getMessage() + repr(record.__dict__)


def test_a_handler_that_raises_ends_no_read(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    log: Log,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            raise LookupError("a filter of somebody's")

    logger, broken = logging.getLogger("redfloe"), Broken()
    logger.addFilter(broken)
    try:
        with StreamConsumer(any_server.url, stream, **ME, **DRAIN) as consumer:
            assert next(consumer, None) is None
    finally:
        logger.removeFilter(broken)
    assert "a filter of somebody's" in capsys.readouterr().err


def test_a_handler_may_use_redfloe(any_server: Server, stream: str, log: Log) -> None:
    class Reading(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            read_stream(any_server.url, stream)

    logger, reading = logging.getLogger("redfloe"), Reading()
    logger.addHandler(reading)
    try:
        with StreamConsumer(any_server.url, stream, **ME, **DRAIN) as consumer:
            assert next(consumer, None) is None
    finally:
        logger.removeHandler(reading)
    # Another thread of redfloe's may be the one that logs it.
    eventually(lambda: bool(log.of("stream_created")))


def test_ctrl_c_in_a_handler_is_raised(any_server: Server, stream: str, log: Log) -> None:
    class Interrupted(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signal.raise_signal(signal.SIGINT)

    logger, interrupted = logging.getLogger("redfloe"), Interrupted()
    logger.addHandler(interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(StreamConsumer(any_server.url, stream, **ME, **DRAIN))
    finally:
        logger.removeHandler(interrupted)


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=True
    )


def test_by_default_warnings_are_printed_and_nothing_else(any_server: Server, stream: str) -> None:
    code = """
import sys, logging, redfloe
assert "redfloe" not in logging.root.manager.loggerDict
with redfloe.StreamConsumer(sys.argv[1], sys.argv[2], "g", "me", on_idle="stop") as consumer:
    print(next(consumer, None))
logger = logging.getLogger("redfloe")
assert (logger.level, logger.handlers, logger.propagate) == (logging.NOTSET, [], True)
"""
    done = run(code, any_server.url, stream)
    assert done.stdout == "None\n"
    [line] = done.stderr.splitlines()
    assert line.startswith(f"stream {stream}, group g: both were created, the stream empty;")


def test_a_fork_logs_nothing_twice(any_server: Server, stream: str) -> None:
    code = """
import sys, os, logging, redfloe, redfloe._core
logging.basicConfig(level=logging.DEBUG, stream=sys.stdout, format="%(process)d %(event)s")
redfloe._core.take_events()
url = sys.argv[1]
connection = redfloe.RedisConnection(url, client_name="a")
redfloe.read_stream(connection, "s")
if os.fork() == 0:
    redfloe.read_stream(connection, "s")
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""
    done = run(code, any_server.url)
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["connected"] * 2
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == 2


def test_the_guide_lists_every_event() -> None:
    page = (Path(__file__).parent.parent / "docs/guide/logging.md").read_text("utf-8")
    for name, (level, _) in EVENTS.items():
        assert f"| `{name}` | {logging.getLevelName(level)} |" in page
