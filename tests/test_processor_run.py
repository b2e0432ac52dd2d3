"""Handlers of a processor: retries, poison entries, entry by entry, a thread in the background."""

from __future__ import annotations

import threading
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import FencedError
from support.consumers import World, dead_ids, letters
from support.processors import LANE, STREAM, Driven, check, handler, outputs, processor, work
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers, add_values
from support.timing import eventually, within

SYNC = World(None)
AT_ONCE: dict[str, Any] = {"retry_base_delay": 0}


class PoisonError(Exception):
    """What a handler raises."""


def drive(world: World, url: Any, **options: Any) -> Driven:
    return Driven(world, processor(url, **options))


def refusing(world: World, *numbers: int, calls: list[list[int]] | None = None) -> Any:
    """Give a handler that works, and raises after that where a batch has one of these numbers."""
    then: Any = handler(world)

    def check_numbers(tx: Any) -> None:
        found: list[int] = tx.frame["n"].to_list()
        if calls is not None:
            calls.append(found)
        if {*found} & {*numbers}:
            msg = f"{sorted({*found} & {*numbers})}"
            raise PoisonError(msg)

    def handle(tx: Any) -> None:
        then(tx)
        check_numbers(tx)

    async def awaited(tx: Any) -> None:
        await then(tx)
        check_numbers(tx)

    return handle if world.runner is None else awaited


def test_a_handler_that_fails_now_and_then(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """What it did before is not in: state and tables are as they were saved."""
    add_numbers(client, STREAM, 6)
    failures = iter([True, True, False, True, False, False])
    then = handler(world)

    def handle(tx: Any) -> Any:
        outcome = then(tx)
        if outcome is None and next(failures):
            raise PoisonError
        return outcome if outcome is None else awaited(outcome)

    async def awaited(outcome: Any) -> None:
        await outcome
        if next(failures):
            raise PoisonError

    drive(world, any_server.url, batch_size=2).run(handle, **AT_ONCE)
    check(client, 6)


def test_without_dead_letters_the_exception_is_raised(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    calls: list[list[int]] = []
    driven = drive(world, any_server.url, batch_size=2)
    with pytest.raises(PoisonError, match=r"\[3\]") as raised:
        driven.run(refusing(world, 3, calls=calls), **AT_ONCE, attempts=2)
    assert calls == [[1, 2], [3, 4], [3, 4]]
    assert "processor sums" in "".join(raised.value.__notes__)
    check(client, 2)
    assert client.hget(LANE, "owner") == b""


def test_a_poison_batch_is_bisected(any_server: Server, client: redis.Redis, world: World) -> None:
    add_numbers(client, STREAM, 20)
    calls: list[list[int]] = []
    driven = drive(world, any_server.url, batch_size=8, dead_letter="dead")
    driven.run(refusing(world, 3, 12, 13, calls=calls), **AT_ONCE, attempts=2)
    assert outputs(client) == [n for n in range(1, 21) if n not in (3, 12, 13)]
    assert dead_ids(client) == ["3-0", "12-0", "13-0"]
    assert [letter[b"_dead_reason"] for letter in letters(client)] == [
        b"PoisonError: [3]",
        b"PoisonError: [12]",
        b"PoisonError: [13]",
    ]
    assert letters(client)[0][b"_dead_deliveries"] == b"5"
    assert client.hget(LANE, "position") == b"20-0"
    assert driven.processor.stats.dead_lettered == 3
    # The parts that went well before are not called again.
    assert calls.count([1, 2]) == 1
    assert calls[:6] == [[*range(1, 9)]] * 2 + [[1, 2, 3, 4], [1, 2], [3, 4], [3]]


def test_a_dead_letter_is_in_the_commit_that_moves_the_position(
    any_server: Server, client: redis.Redis
) -> None:
    """Where that fails neither is in; where its reply is lost both are, once."""
    add_numbers(client, STREAM, 3)
    client.set("dead", "text")
    made = processor(any_server.url, dead_letter="dead")
    with pytest.raises(redfloe.WrongTypeError, match="dead"):
        made.run(refusing(SYNC, 2), **AT_ONCE)
    assert client.hget(LANE, "position") == b"1-0"
    client.delete("dead")
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"EVALSHA", skip=2)
        again = processor(
            redfloe.RedisConnection(proxy.url, retry_base_delay=0.01), dead_letter="dead"
        )
        again.run(refusing(SYNC, 2), **AT_ONCE)
    assert outputs(client) == [1, 3]
    assert dead_ids(client) == ["2-0"]


def test_exceptions_have_policies(any_server: Server, client: redis.Redis, world: World) -> None:
    add_numbers(client, STREAM, 4)
    calls: list[list[int]] = []
    policies: Any = {KeyError: "raise", PoisonError: "fail"}
    drive(world, any_server.url, batch_size=1, dead_letter="dead").run(
        refusing(world, 2, calls=calls), on_exception=policies
    )
    assert calls == [[1], [2], [3], [4]]
    assert dead_ids(client) == ["2-0"]

    def missing(tx: Any) -> None:
        raise KeyError

    client.xadd(STREAM, {"n": 5})
    with pytest.raises(KeyError):
        drive(world, any_server.url, dead_letter="dead").run(missing, on_exception=policies)
    assert client.hget(LANE, "position") == b"4-0"


def test_an_exception_after_its_own_commit_is_raised(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, STREAM, 4)

    def handle(tx: Any) -> None:
        work(SYNC, tx)
        tx.commit()
        raise PoisonError

    made = processor(any_server.url, batch_size=2, dead_letter="dead")
    for last in (2, 4):
        with pytest.raises(PoisonError):
            made.run(handle, **AT_ONCE)
        check(client, last)
    assert letters(client) == []


def test_a_handler_that_commits_itself(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)

    def handle(tx: Any) -> None:
        work(SYNC, tx)
        tx.commit()

    processor(any_server.url, batch_size=3).run(handle)
    check(client, 4)


def test_stop_in_a_pause_leaves_the_batch(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, batch_size=2)

    def handle(tx: Any) -> None:
        work(SYNC, tx)
        made.stop()
        raise PoisonError

    with within(2):
        made.run(handle, retry_base_delay=30)
    assert outputs(client) == []
    made.run(lambda tx: work(SYNC, tx))
    check(client, 4)


def test_handlers_that_cannot_be_right(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 1)
    made = processor(any_server.url)

    async def asynchronous(tx: Any) -> None: ...

    with pytest.raises(TypeError, match="run_async"):
        made.run(asynchronous)
    with pytest.raises(TypeError, match="run_async"):
        made.run(lambda tx: asynchronous(tx))  # noqa: PLW0108 - is not known to be async
    with pytest.raises(TypeError, match="each"):
        made.run()
    with pytest.raises(TypeError, match="callable"):
        made.run(7)  # type: ignore[arg-type]
    assert client.hget(LANE, "position") in (None, b"0-0")


def test_entry_by_entry(any_server: Server, client: redis.Redis, world: World) -> None:
    add_values(client, STREAM, ["1", "2", "3", "4"], field="n")
    driven = drive(world, any_server.url, batch_size=3, dead_letter="dead")

    def count(entry: dict[str, Any], tx: Any) -> None:
        tx.state["sum"] = tx.state.get("sum", 0) + entry["n"]
        tx.publish("{numbers}:out", {"n": entry["n"], "id": entry["_id"]})
        if entry["n"] == 3:
            raise PoisonError

    async def awaited(entry: dict[str, Any], tx: Any) -> None:
        count(entry, tx)

    decorated = count if world.runner is None else awaited
    assert driven.processor.each(decorated) is decorated
    if world.runner is None:
        driven.processor.run(**AT_ONCE)
    else:
        world.do(driven.processor.run_async(**AT_ONCE))
    assert outputs(client) == [1, 2, 4]
    assert client.hget(f"{LANE}:state", "sum") == b'{"format":1,"value":7}'
    assert dead_ids(client) == ["3-0"]


def test_a_thread_in_the_background(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 4)
    made = processor(any_server.url, on_idle="wait", block_ms=0)
    ended = made.start(lambda tx: work(SYNC, tx))
    eventually(lambda: made.stats.entries == 4)
    with pytest.raises(RuntimeError, match="entered already"):
        made.start(print)
    assert not ended.done()
    with within(2):
        made.stop()
        assert ended.result(5) is None
    check(client, 4)
    assert client.hget(LANE, "owner") == b""
    assert not any(thread.name == "redfloe-processor" for thread in threading.enumerate())


def test_a_thread_that_fails_says_so(
    any_server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """That of the peer ended in silence."""
    add_numbers(client, STREAM, 2)
    ended = processor(any_server.url).start(refusing(SYNC, 2), attempts=1)
    assert isinstance(ended.exception(5), PoisonError)
    [record] = [one for one in caplog.records if getattr(one, "event", "") == "processor_failed"]
    assert "PoisonError: [2]" in record.getMessage()
    assert record.exc_info is not None


def test_a_thread_that_is_fenced(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, STREAM, 2)
    options: dict[str, Any] = {"on_idle": "wait", "lease_ms": 100}
    ended = processor(any_server.url, **options).start(lambda tx: work(SYNC, tx))
    eventually(lambda: client.xlen("{numbers}:out") == 2)
    with processor(any_server.url, takeover=True) as other:
        assert [*other] == []
        # The heartbeat notices it while it waits.
        assert isinstance(ended.exception(5), FencedError)
    check(client, 2)


def test_the_log_of_a_handler_names_the_processor(
    any_server: Server, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    add_numbers(client, STREAM, 1)
    with pytest.raises(PoisonError):
        processor(any_server.url).run(refusing(SYNC, 1), attempts=2, **AT_ONCE)
    [record] = [one for one in caplog.records if getattr(one, "event", "") == "handler_failed"]
    assert record.getMessage().startswith("stream numbers, processor sums: the handler raised")


def test_frames_of_other_libraries(any_server: Server, client: redis.Redis) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    add_numbers(client, STREAM, 2)

    def handle(tx: Any) -> None:
        table = pyarrow.table(tx)
        tx.publish("{numbers}:out", table.select(["n"]))
        assert pl.DataFrame(tx)["n"].to_list() == [1, 2]

    processor(any_server.url).run(handle)
    assert outputs(client) == [1, 2]
