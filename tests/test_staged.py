"""Rows that are written aside, and moved to a stream once: what Spark's sink commits by."""

from __future__ import annotations

import random

import polars as pl
import pytest
import redis

import redfloe
from redfloe import RedisConnection, _core
from support.server import Server


class Sink:
    """A stream with its marker, and batches whose rows are written aside."""

    def __init__(self, url: str, stream: str) -> None:
        self._url = RedisConnection(url)
        self._stream = stream.encode()
        self.marker = _core.staged_key(self._stream, [b"query"])
        self._attempts = 0

    def write_aside(self, rows: list[int]) -> bytes:
        self._attempts += 1
        key = _core.staged_key(self._stream, [b"query", str(self._attempts).encode()])
        _core.prepare_staging(self._url, key, 60_000).wait()
        redfloe.write_stream(self._url, pl.DataFrame({"n": rows}), key)
        return key

    def commit(self, batch: int, keys: list[bytes], chunks: int | None = None) -> int:
        arguments = self._url, self._stream, self.marker, batch, keys, chunks
        return _core.commit_staged(*arguments).wait()

    def numbers(self) -> list[int]:
        return redfloe.read_stream(self._url, self._stream, {"n": int})["n"].to_list()


@pytest.fixture
def sink(server: Server, stream: str) -> Sink:
    return Sink(server.url, stream)


def test_a_batch_is_moved_once(sink: Sink, client: redis.Redis) -> None:
    keys = [sink.write_aside([*range(2_500)]), sink.write_aside([*range(2_500, 2_600)])]
    assert 0 < client.pttl(keys[0]) <= 60_000
    assert sink.commit(0, keys) == 2_600
    assert sink.numbers() == [*range(2_600)]
    assert client.exists(*keys) == 0
    again = sink.write_aside([1, 2, 3])
    assert sink.commit(0, [again]) == 2_600
    assert sink.numbers() == [*range(2_600)]
    assert sink.commit(1, [sink.write_aside([2_600])]) == 1
    assert sink.commit(2, []) == 0
    assert sink.commit(1, []) == 0  # of an earlier batch nothing is known any more
    assert sink.numbers() == [*range(2_601)]


def test_half_a_commit_is_finished_with_its_own_rows(sink: Sink, client: redis.Redis) -> None:
    """The batch comes again in other partitions, and in another order."""
    keys = [sink.write_aside([*range(1_500)]), sink.write_aside([*range(1_500, 3_000)])]
    sink.commit(0, keys, chunks=1)
    assert len(sink.numbers()) == 1_000
    assert client.pttl(keys[1]) == -1  # which expires no more
    again = [sink.write_aside([*range(3_000)][::-1])]
    assert sink.commit(0, again) == 3_000
    assert sink.numbers() == [*range(3_000)]


def test_histories_of_crashes(any_server: Server, stream: str) -> None:
    """200 commits that are begun, broken off and repeated."""
    sink, rng, written = Sink(any_server.url, stream), random.Random(7), 0
    for batch in range(50):
        rows = [*range(written, written + rng.randrange(1, 2_500))]
        for attempt in range(4):
            cuts = sorted(rng.sample(range(len(rows) + 1), min(2, len(rows))))
            parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
            keys = [sink.write_aside(part) for part in parts if part]
            sink.commit(batch, keys, chunks=rng.randrange(4) if attempt < 3 else None)
        written += len(rows)
    assert sorted(sink.numbers()) == [*range(written)]


def test_rows_that_have_expired(sink: Sink, client: redis.Redis) -> None:
    key = sink.write_aside([1])
    client.delete(key)
    with pytest.raises(redfloe.ResponseError, match="expired"):
        sink.commit(0, [key])
    assert sink.numbers() == []


def test_a_sink_that_is_no_stream(sink: Sink, client: redis.Redis, stream: str) -> None:
    client.set(stream, "text")
    with pytest.raises(redfloe.WrongTypeError):
        sink.commit(0, [sink.write_aside([1])])
