"""Entries that are lost before Spark has read them, at the reader's level: it needs no Spark."""

from __future__ import annotations

import logging

import pytest
import redis
from pyspark.sql.datasource import InputPartition
from pyspark.sql.streaming.datasource import ReadAllAvailable, ReadMaxRows
from pyspark.sql.types import LongType, StructField, StructType

import redfloe
from redfloe._spark.options import Options
from redfloe._spark.streaming import StreamReader
from support.server import Server
from support.streams import add, add_numbers

NUMBERS = StructType([StructField("n", LongType())])


class Query:
    """A query without Spark, which asks for what Spark would."""

    def __init__(self, server: Server, stream: str, *, fails: bool) -> None:
        options = {"url": server.url, "stream": stream, "partitions": "2"}
        options |= {"startingOffsets": "earliest", "failOnDataLoss": str(fails)}
        self.reader = StreamReader(Options.of(options), NUMBERS)
        self.at = self.reader.initialOffset()
        self.parts: list[InputPartition] = []

    def plan(self, most: int | None = None) -> None:
        limit = ReadAllAvailable() if most is None else ReadMaxRows(most)
        end = self.reader.latestOffset(self.at, limit)
        self.parts = [*self.reader.partitions(self.at, end)]
        self.at = end

    def read(self) -> list[int]:
        batches = [batch for part in self.parts for batch in self.reader.read(part)]
        return [n for batch in batches for n in batch.column("n").to_pylist()]

    def next(self, most: int | None = None) -> list[int]:
        self.plan(most)
        return self.read()


@pytest.mark.parametrize("seen", [0, 10])
def test_trimmed_between_planning_and_reading(
    server: Server,
    client: redis.Redis,
    stream: str,
    seen: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also in a query's first batch, before which nothing was read."""
    add_numbers(client, stream, 100)
    strict, lenient = (Query(server, stream, fails=fails) for fails in (True, False))
    for query in (strict, lenient):
        assert seen == 0 or query.next(seen) == [*range(1, seen + 1)]
        query.plan()
    assert strict.read() == [*range(seen + 1, 101)]
    client.xtrim(stream, maxlen=40, approximate=False)
    with pytest.raises(redfloe.DataLossError, match=r"trimmed past .*failOnDataLoss=false"):
        strict.read()
    with caplog.at_level(logging.WARNING, "redfloe"):
        assert lenient.read() == [*range(61, 101)]
    assert "may be lost: the stream was trimmed past" in caplog.text
    # The next batch is whole.
    add(client, stream, [("101-0", {"n": 101})])
    assert strict.next() == lenient.next() == [101]


def test_a_query_that_begins_where_there_is_no_entry(
    server: Server, client: redis.Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As batches of large streams are cut: nothing is lost there."""
    add(client, stream, [(f"{7 * n}-3", {"n": n}) for n in range(1, 101)])
    query = Query(server, stream, fails=True)
    query.at = {stream: "40-1"}
    assert query.next() == [*range(6, 101)]
    assert not caplog.text


def test_what_was_read_may_be_trimmed(
    server: Server, client: redis.Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_numbers(client, stream, 100)
    query = Query(server, stream, fails=True)
    assert query.next(50) == [*range(1, 51)]
    query.plan()
    client.xtrim(stream, minid="50-0", approximate=False)
    assert query.read() == [*range(51, 101)]
    assert not caplog.text


def test_a_planned_batch_whose_stream_is_gone(
    server: Server, client: redis.Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Before it is read, and before it is planned again by a driver that was restarted."""
    for fails in (True, False):
        add_numbers(client, stream, 10)
        query = Query(server, stream, fails=fails)
        start = query.at
        query.plan()
        client.delete(stream)
        if fails:
            with pytest.raises(redfloe.DataLossError, match="does not exist any more"):
                query.read()
            with pytest.raises(redfloe.DataLossError, match="does not exist any more"):
                query.reader.partitions(start, query.at)
        else:
            assert query.read() == []
            assert query.reader.partitions(start, query.at) == []
            assert "does not exist any more" in caplog.text


def test_a_planned_first_batch_that_was_trimmed(
    server: Server, client: redis.Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A driver that was restarted plans it again."""
    add_numbers(client, stream, 10)
    strict, lenient = (Query(server, stream, fails=fails) for fails in (True, False))
    start = strict.at
    strict.plan()
    add(client, stream, [(f"{number}-0", {"n": number}) for number in range(11, 21)])
    client.xtrim(stream, maxlen=5, approximate=False)
    with pytest.raises(redfloe.DataLossError, match="trimmed past 10-0: it begins at 16-0"):
        strict.reader.partitions(start, strict.at)
    assert lenient.reader.partitions(start, strict.at) == []
    assert "trimmed past 10-0" in caplog.text


@pytest.mark.parametrize("most", [None, 2])
def test_a_stream_that_was_begun_anew(
    server: Server, client: redis.Redis, stream: str, most: int | None
) -> None:
    """With smaller IDs: they would never come after what was read."""
    add_numbers(client, stream, 10)
    strict, lenient = (Query(server, stream, fails=fails) for fails in (True, False))
    assert strict.next() == lenient.next() == [*range(1, 11)]
    client.delete(stream)
    assert strict.next() == lenient.next() == []
    add_numbers(client, stream, 3)
    with pytest.raises(redfloe.DataLossError, match="created again"):
        strict.next(most)
    assert lenient.next(most) == [1, 2, 3][:most]
    assert lenient.next() == [1, 2, 3][most or 3 :]
    add(client, stream, [("4-0", {"n": 4})])
    assert lenient.next() == [4]


def test_a_deleted_newest_entry_is_no_loss(
    server: Server, client: redis.Redis, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_numbers(client, stream, 10)
    query = Query(server, stream, fails=True)
    assert query.next() == [*range(1, 11)]
    client.xdel(stream, "10-0")
    assert query.next() == []
    add(client, stream, [("11-0", {"n": 11})])
    assert query.next() == [11]
    assert not caplog.text
