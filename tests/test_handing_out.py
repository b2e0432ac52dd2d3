"""A row is acknowledged only after its caller has had it in hand."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from redfloe import MemoryCheckpointStore, StreamConsumer, _core, _frame, iter_stream, read_stream
from support.consumers import World
from support.groups import deliver
from support.loops import Follow
from support.server import Server
from support.streams import NUMBER, add_numbers, numbers

#: What may happen while a frame is made: no memory, Ctrl-C, a name that no column can have.
RAISED = [MemoryError, KeyboardInterrupt, pl.exceptions.ComputeError]
raises = pytest.mark.parametrize("raised", RAISED)


def pending(client: redis.Redis, stream: str, group: str = "g") -> int:
    found: Any = client.xpending(stream, group)
    return int(found["pending"])


class Frames:
    """Makes frames; of what was read it may raise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._make = _frame._frame_of()
        self.raised: type[BaseException] | None = None
        monkeypatch.setattr(_frame, "_frame_of", lambda: self)

    def __call__(self, rows: _core.RecordBatch) -> pl.DataFrame:
        if self.raised is not None:
            msg = "no frame"
            raise self.raised(msg)
        return self._make(rows)

    @contextmanager
    def failing(self, raised: type[BaseException], *entries: str) -> Iterator[None]:
        """No frame can be made in this block, which raises and names these entries."""
        self.raised = raised
        try:
            with pytest.raises(raised, match="no frame") as info:
                yield
        finally:
            self.raised = None
        [note] = info.value.__notes__
        assert all(entry in note for entry in entries)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Frames:
    return Frames(monkeypatch)


@raises
def test_a_batch_without_a_frame_comes_again(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    follow: Follow,
    frames: Frames,
    raised: type[BaseException],
) -> None:
    add_numbers(client, stream, 10)
    options: dict[str, Any] = {"auto_ack": True, "batch_size": 5, "on_idle": "stop", "block_ms": 1}
    batches = follow(any_server.url, stream, NUMBER, group="g", consumer="c", **options)
    for _ in range(2):
        with frames.failing(raised, "1-0", "5-0", stream):
            next(batches)
        assert pending(client, stream) == 5
    assert_frame_equal(next(batches), numbers(5))
    with frames.failing(raised, "6-0", "10-0", stream):
        next(batches)
    assert pending(client, stream) == 5  # those before are acknowledged
    assert_frame_equal(next(batches), numbers(10).tail(5))
    assert list(batches) == []
    assert pending(client, stream) == 0


@raises
@pytest.mark.parametrize("success", [True, False])
def test_a_worker_that_has_no_frame_leaves_its_batch_pending(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    frames: Frames,
    raised: type[BaseException],
    success: bool,
) -> None:
    add_numbers(client, stream, 10)
    options: dict[str, Any] = {"batch_size": 5, "on_idle": "stop", "block_ms": 1}
    consumer = world.consumer(any_server.url, stream, group="g", consumer="c", **options)
    error = None if success else raised()
    with pytest.raises(raised) if error else nullcontext():
        with consumer:
            next(consumer)
            with frames.failing(raised, "6-0", "10-0", stream):
                next(consumer)
            if error is not None:
                raise error
    assert pending(client, stream) == 5
    again = world.consumer(any_server.url, stream, group="g", consumer="c", **options)
    with again:
        assert [len(batch) for batch in again] == [5]
    assert pending(client, stream) == 0


@pytest.mark.parametrize("success", [True, False])
@pytest.mark.parametrize("before", [0, 1])
def test_a_batch_that_nobody_took_was_not_delivered(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    frames: Frames,
    success: bool,
    before: int,
) -> None:
    add_numbers(client, stream, 3)
    if before:
        deliver(client, stream, consumer="c")
    options: dict[str, Any] = {"dead_letter": "dead", "max_deliveries": 3, "block_ms": 1}
    consumer = world.consumer(any_server.url, stream, group="g", consumer="c", **options)
    with nullcontext() if success else pytest.raises(ZeroDivisionError):
        with consumer:
            with frames.failing(MemoryError, "1-0", "3-0", stream):
                next(consumer)
            if not success:
                raise ZeroDivisionError
    found: Any = client.xpending_range(stream, "g", "-", "+", 10)
    assert [one["times_delivered"] for one in found] == [before] * 3


@raises
def test_a_checkpoint_does_not_pass_a_batch_without_a_frame(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    frames: Frames,
    raised: type[BaseException],
) -> None:
    add_numbers(client, stream, 10)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"batch_size": 5, "on_idle": "stop", "block_ms": 1}
    options |= {"checkpoint_store": store, "checkpoint_name": "here"}
    consumer = world.consumer(any_server.url, stream, **options)
    with consumer:
        next(consumer)
        with frames.failing(raised, "6-0", "10-0", stream):
            next(consumer)
        with frames.failing(raised, "6-0", "10-0", stream):
            next(consumer)
    assert store.load("here") == "5-0"


@raises
def test_read_stream_acknowledges_after_the_frame(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    frames: Frames,
    raised: type[BaseException],
) -> None:
    add_numbers(client, stream, 10)
    options: dict[str, Any] = {"group": "g", "consumer": "c", "auto_ack": True}
    with frames.failing(raised, "1-0", "10-0", stream):
        read_stream(any_server.url, stream, NUMBER, **options)
    assert pending(client, stream) == 10
    assert_frame_equal(
        read_stream(any_server.url, stream, NUMBER, start_id="0", **options), numbers(10)
    )
    assert pending(client, stream) == 0


@raises
def test_a_batch_without_a_frame_comes_again_to_other_threads(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    frames: Frames,
    raised: type[BaseException],
) -> None:
    add_numbers(client, stream, 4)
    batches = iter_stream(any_server.url, stream, NUMBER, "-", batch_size=2)
    with frames.failing(raised):
        next(batches)

    def work() -> pl.DataFrame:
        return next(batches)

    async def main() -> list[pl.DataFrame]:
        return [await asyncio.to_thread(work) for _ in range(2)]

    assert_frame_equal(pl.concat(asyncio.run(main())), numbers(4))


class InterruptError(Exception):
    pass


@pytest.mark.parametrize("kind", ["iter_stream", "StreamConsumer"])
@pytest.mark.slow
def test_interrupts_at_any_moment_lose_nothing(
    any_server: Server, client: redis.Redis, stream: str, kind: str
) -> None:
    """A signal's handler raises every millisecond or so; each row that is acknowledged was seen."""
    entries = 1500
    add_numbers(client, stream, entries)
    options: dict[str, Any] = {"batch_size": 2, "on_idle": "stop", "block_ms": 50}
    batches: Iterator[Any]
    if kind == "iter_stream":
        batches = iter_stream(
            any_server.url, stream, NUMBER, group="g", consumer="c", auto_ack=True, **options
        )
    else:
        batches = iter(StreamConsumer(any_server.url, stream, "g", "c", schema=NUMBER, **options))
    seen: set[int] = set()
    armed = False
    interrupts = 0

    def interrupt(*_: object) -> None:
        nonlocal armed, interrupts
        if armed:
            armed = False
            interrupts += 1
            raise InterruptError

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0011)
    try:
        batch: Any = None
        known: Any = None
        ended = False
        while not ended:
            try:
                armed = True
                # Only here is what comes in hand before a signal is handled.
                for batch in batches:  # noqa: B007
                    break
                else:
                    ended = True
                armed = False
            except InterruptError:
                pass
            if batch is not known:
                known = batch
                seen |= {*(batch if kind == "iter_stream" else batch.frame)["n"]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 10
    left: Any = client.xpending_range(stream, "g", "-", "+", entries)
    acknowledged = set(range(1, entries + 1)) - {
        int(one["message_id"].split(b"-")[0]) for one in left
    }
    assert acknowledged <= seen
    assert len(acknowledged) >= entries - 2
