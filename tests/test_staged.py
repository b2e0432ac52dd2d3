"""Rows that are written aside, and moved to a stream once: what Spark's sink commits by."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import RedisConnection, _core
from support.proxy import Proxy
from support.server import Server

#: A staging key, and how many rows were written to it.
Part = tuple[bytes, int]


class Sink:
    """A stream with its marker, and batches whose rows are written aside."""

    def __init__(self, url: str, stream: str) -> None:
        self.url = RedisConnection(url)
        self.stream = stream.encode()
        self.marker = _core.staged_key(self.stream, [b"query"])
        self._attempts = 0

    def write_aside(self, rows: list[int]) -> Part:
        self._attempts += 1
        key = _core.staged_key(self.stream, [b"query", str(self._attempts).encode()])
        _core.prepare_staging(self.url, key, 60_000).wait()
        redfloe.write_stream(self.url, pl.DataFrame({"n": rows}), key)
        return key, len(rows)

    def commit(self, batch: int, parts: list[Part], **options: Any) -> int:
        arguments = self.url, self.stream, self.marker, batch, parts
        return _core.commit_staged(*arguments, **options).wait()

    def numbers(self) -> list[int]:
        frame = redfloe.read_stream(self.url, self.stream, {"n": int}, include_timestamp=False)
        return frame["n"].to_list()


@pytest.fixture
def sink(server: Server, stream: str) -> Sink:
    return Sink(server.url, stream)


def test_a_batch_is_moved_once(sink: Sink, client: redis.Redis) -> None:
    parts = [sink.write_aside([*range(2_500)]), sink.write_aside([*range(2_500, 2_600)])]
    keys = [key for key, _ in parts]
    assert 0 < client.pttl(keys[0]) <= 60_000
    assert sink.commit(0, parts) == 2_600
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
    parts = [sink.write_aside([*range(1_500)]), sink.write_aside([*range(1_500, 3_000)])]
    sink.commit(0, parts, chunks=1)
    assert len(sink.numbers()) == 1_000
    assert client.pttl(parts[1][0]) == -1  # which expires no more
    again = [sink.write_aside([*range(3_000)][::-1])]
    assert sink.commit(0, again) == 3_000
    assert sink.numbers() == [*range(3_000)]
    assert len(client.keys()) == 2  # the stream and the marker


def test_large_rows_are_moved_a_megabyte_at_a_time(sink: Sink, client: redis.Redis) -> None:
    key, _ = sink.write_aside([])
    client.eval(
        "for n = 1, 40 do redis.call('XADD', KEYS[1], '*', 'n', n, 't', ARGV[1]) end",
        1, key, "x" * 100_000,
    )  # fmt: skip
    sink.commit(0, [(key, 40)], chunks=1)
    assert 5 <= len(sink.numbers()) <= 20
    assert sink.commit(0, []) == 40
    assert sink.numbers() == [*range(1, 41)]


def test_a_marker_that_nobody_will_ask_for_goes(sink: Sink, client: redis.Redis) -> None:
    assert sink.commit(0, [sink.write_aside([1, 2])], is_last=True) == 2
    assert len(client.keys()) == 1


def test_histories_of_crashes(any_server: Server, stream: str) -> None:
    """200 commits that are begun, broken off and repeated."""
    sink, rng, written = Sink(any_server.url, stream), random.Random(7), 0
    for batch in range(50):
        rows = [*range(written, written + rng.randrange(1, 1_300))]
        for attempt in range(4):
            cuts = sorted(rng.sample(range(len(rows) + 1), min(2, len(rows))))
            parts = [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]
            aside = [sink.write_aside(part) for part in parts if part]
            sink.commit(batch, aside, chunks=rng.randrange(4) if attempt < 3 else None)
        written += len(rows)
    assert sorted(sink.numbers()) == [*range(written)]


def test_drivers_that_commit_the_same_batch_at_the_same_time(
    any_server: Server, stream: str
) -> None:
    """As two with one checkpoint do, of which one was believed dead."""
    sink = Sink(any_server.url, stream)
    with ThreadPoolExecutor(3) as drivers:
        for batch in range(5):
            rows = [*range(batch * 2_500, batch * 2_500 + 2_500)]
            asides = [[sink.write_aside(rows[:cut]), sink.write_aside(rows[cut:])]
                      for cut in (1, 1_200, 2_499)]  # fmt: skip
            commits = [drivers.submit(sink.commit, batch, parts) for parts in asides]
            assert [commit.result() for commit in commits] == [2_500] * 3
    assert sorted(sink.numbers()) == [*range(12_500)]


@pytest.mark.parametrize("is_last", [False, True])
def test_replies_that_are_lost(
    any_server: Server, client: redis.Redis, stream: str, is_last: bool
) -> None:
    """Each script's in turn, and the one to what removes the marker."""
    sink, rows = Sink(any_server.url, stream), 0
    with Proxy(any_server.port) as proxy:
        near, sink.url = sink.url, RedisConnection(proxy.url, retry_base_delay=0.001)
        for lost in range(6):
            far, sink.url = sink.url, near
            parts = [sink.write_aside([*range(rows, rows + 1_500)])]
            rows, sink.url = rows + 1_500, far
            fault = proxy.cut_after(0, once_seen=_is_script, skip=lost)
            assert sink.commit(lost, parts, is_last=is_last) == 1_500
            assert fault.hits == (lost < (5 + is_last))
            proxy.clear()
    sink.url = near
    assert sink.numbers() == [*range(rows)]
    assert len(client.keys()) == (1 if is_last else 2)


def _is_script(command: tuple[bytes, ...]) -> bool:
    return command[0].upper() in {b"EVAL", b"EVALSHA", b"DEL", b"UNLINK"}


def test_rows_that_have_expired(sink: Sink, client: redis.Redis) -> None:
    key, rows = sink.write_aside([1, 2])
    client.delete(key)
    with pytest.raises(redfloe.ResponseError, match="expired"):
        sink.commit(0, [(key, rows)])
    # A task that goes on after that has written some of its rows only.
    redfloe.write_stream(sink.url, pl.DataFrame({"n": [2]}), key)
    with pytest.raises(redfloe.ResponseError, match="expired"):
        sink.commit(0, [(key, rows)])
    assert sink.numbers() == []


def test_a_chunk_that_the_server_refuses_half_way(sink: Sink, client: redis.Redis) -> None:
    """Scripts are not rolled back: what was moved before must not be moved again."""
    parts = [sink.write_aside([*range(10)])]
    # The stream's last ID leaves room for three entries.
    client.xadd(sink.stream, {"n": -1}, id=f"{2**64 - 1}-{2**64 - 4}")
    with pytest.raises(redfloe.ResponseError, match="exhausted"):
        sink.commit(0, parts)
    assert sink.numbers() == [-1, 0, 1, 2]
    client.rename(sink.stream, b"full")
    assert sink.commit(0, []) == 10
    assert sink.numbers() == [*range(3, 10)]


def test_a_sink_that_is_no_stream(sink: Sink, client: redis.Redis) -> None:
    client.set(sink.stream, "text")
    with pytest.raises(redfloe.WrongTypeError):
        sink.commit(0, [sink.write_aside([1])])
