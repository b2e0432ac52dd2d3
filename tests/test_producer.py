"""Entries that are sent one by one."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
import redis

from redfloe import (
    OutcomeUnknownError,
    RedisConnectionError,
    SchemaError,
    StreamProducer,
    WriteError,
    WrongTypeError,
)
from support.clients import quick
from support.proxy import Proxy
from support.server import Server
from support.timing import eventually, within
from support.writes import stored


def test_entries_are_written_in_order(server: Server, client: redis.Redis, stream: str) -> None:
    with StreamProducer(server.url, stream, batch_size=7) as producer:
        for n in range(100):
            producer.send({"n": n})
        producer.send_frame(pl.DataFrame({"n": range(100, 200)}))
        for n in range(200, 210):
            producer.send({b"n": str(n)})
    assert stored(client, stream) == [*range(210)]
    assert producer.rows_written == 210


def test_values_and_their_text(any_server: Server, client: redis.Redis, stream: str) -> None:
    values: dict[str, Any] = {
        "text": "größe",
        "bytes": b"\xff",
        "bool": True,
        "int": 2**70,
        "float": 0.1,
        "decimal": Decimal("1.50"),
        "datetime": dt.datetime(2024, 1, 2, 3, tzinfo=dt.UTC),
        "date": dt.date(2024, 1, 2),
        "time": dt.time(1, 2),
        "none": None,
    }
    with StreamProducer(any_server.url, stream) as producer:
        producer.send(values)
        bad: Any
        for bad in ({"x": []}, {"x": dt.timedelta(1)}, {1: "x"}):
            with pytest.raises(TypeError):
                producer.send(bad)
        with pytest.raises(ValueError, match="no field"):
            producer.send({"x": None})
    found: Any = client.xrange(stream)
    [(_, fields)] = found
    assert fields == {
        b"text": "größe".encode(),
        b"bytes": b"\xff",
        b"bool": b"true",
        b"int": str(2**70).encode(),
        b"float": b"0.1",
        b"decimal": b"1.50",
        b"datetime": b"2024-01-02T03:00:00+00:00",
        b"date": b"2024-01-02",
        b"time": b"01:02:00",
    }


def test_small_sends_linger(any_server: Server, client: redis.Redis, stream: str) -> None:
    producer = StreamProducer(any_server.url, stream, linger_ms=200, batch_size=3)
    producer.send({"n": 0})
    time.sleep(0.05)
    assert client.xlen(stream) == 0
    eventually(lambda: client.xlen(stream) == 1)
    for n in range(3):
        producer.send({"n": n})
    with within(0.19):
        eventually(lambda: client.xlen(stream) == 4)  # a full batch does not wait
    producer.send({"n": 4})
    with within(0.19):
        producer.flush()
    assert client.xlen(stream) == 5
    producer.close()
    producer.close()
    with pytest.raises(ValueError, match="closed"):
        producer.send({"n": 5})


def test_the_stream_is_kept_short(server: Server, client: redis.Redis, stream: str) -> None:
    client.xadd(stream, {"n": 0}, id="1-0")
    with StreamProducer(server.url, stream, max_age=3600, approximate=False) as producer:
        producer.send({"n": 1})
    assert stored(client, stream) == [1]
    with StreamProducer(server.url, stream, maxlen=2, approximate=False) as producer:
        for n in range(10):
            producer.send({"n": n})
    assert stored(client, stream) == [8, 9]
    with pytest.raises(ValueError, match="max_age"):
        StreamProducer(server.url, stream, max_age=1, maxlen=1)
    for age in (float("inf"), float("nan"), -1, dt.timedelta(seconds=-1), 10**400):
        with pytest.raises(ValueError, match="max_age must"):
            StreamProducer(server.url, stream, max_age=age)


def test_what_is_no_mapping_is_refused(any_server: Server, stream: str) -> None:
    fields: Any
    with StreamProducer(any_server.url, stream) as producer:
        for fields in ([("a", 1)], "a", None):
            with pytest.raises(TypeError, match="fields must be a mapping of names to values"):
                producer.send(fields)


def test_sends_wait_while_the_buffer_is_full(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    with StreamProducer(any_server.url, stream, buffer_bytes=1_000, linger_ms=0) as producer:
        for n in range(2_000):
            producer.send({"n": n})
    assert stored(client, stream) == [*range(2_000)]


def test_a_frame_that_cannot_be_written(any_server: Server, stream: str) -> None:
    with StreamProducer(any_server.url, stream) as producer:
        with pytest.raises(SchemaError):
            producer.send_frame(pl.DataFrame())
        with pytest.raises(ValueError, match="row: 0"):
            producer.send_frame(pl.DataFrame({"n": pl.Series([None], dtype=pl.Int8)}))
        producer.send({"n": 1})
    assert producer.rows_written == 1


def test_a_refused_entry(any_server: Server, client: redis.Redis, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.replace_reply(b"-ERR no\r\n", once_seen=b"XADD", skip=5)
        producer = StreamProducer(proxy.url, stream, batch_size=3, linger_ms=1_000)
        for n in range(3):
            producer.send({"n": n})
        producer.flush()
        for n in range(3, 6):
            producer.send({"n": n})
        with pytest.raises(WriteError, match="ERR no") as raised:
            producer.flush()
        assert str(raised.value).startswith("row 5 was refused, 5 of 6 rows are in: ")
        assert (raised.value.rows_written, raised.value.row, raised.value.first_row) == (5, 5, 3)
        assert raised.value.ids is not None
        assert raised.value.ids.is_null().to_list() == [False, False, True]
        with pytest.raises(WriteError):
            producer.send({"n": 6})
        with pytest.raises(WriteError):
            producer.close()
    assert stored(client, stream) == [0, 1, 2, 3, 4]


def test_a_stopped_producer_counts_all_rows(any_server: Server, stream: str) -> None:
    producer = StreamProducer(any_server.url, stream, linger_ms=10_000)
    producer.send({"n": 0})
    producer.flush()
    for n in range(3):
        producer.send({"n": n})
    producer._core.stop()
    with pytest.raises(WriteError) as raised:
        producer.close()
    assert (raised.value.rows_written, raised.value.row) == (1, 1)
    assert str(raised.value).startswith("1 of 4 rows is in: ")


def test_a_value_that_is_too_long(stream: str) -> None:
    with Server("redis-7.0", args=["--proto-max-bulk-len", "1mb"]) as server:
        producer = StreamProducer(server.url, stream, linger_ms=10_000)
        producer.send({"n": 1})
        producer.flush()
        producer.send({"n": "2", "text": "x" * 2_000_000})
        match = r"\"text\" has 2000000 bytes.*proto-max-bulk-len.*\(row: 1\)"
        with pytest.raises(ValueError, match=match):
            producer.flush()
        with server.client() as client:
            assert stored(client, stream) == [1]


def test_a_lost_answer(any_server: Server, stream: str) -> None:
    with Proxy(any_server.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=1)
        producer = StreamProducer(quick(proxy.url), stream)
        producer.send({"n": 0})
        producer.flush()
        producer.send({"n": 1})
        with pytest.raises(OutcomeUnknownError) as raised:
            producer.flush()
    assert raised.value.rows_written == 1
    assert raised.value.unknown == range(1, 2)
    assert str(raised.value).startswith("the answer for row 1 was lost")


def test_a_lost_answer_of_a_producer_that_is_known(redis810: Server, stream: str) -> None:
    with redis810.client() as client, Proxy(redis810.port) as proxy:
        proxy.cut_after(0, once_seen=b"XADD", skip=5)
        with StreamProducer(quick(proxy.url), stream, idempotent="me", linger_ms=50) as producer:
            for n in range(20):
                producer.send({"n": n})
        assert stored(client, stream) == [*range(20)]


def test_a_key_of_another_type(any_server: Server, client: redis.Redis, stream: str) -> None:
    client.set(stream, "x")
    producer = StreamProducer(any_server.url, stream)
    producer.send({"n": 1})
    with pytest.raises(WrongTypeError):
        producer.close()


def test_no_server(stream: str) -> None:
    producer = StreamProducer(quick("redis://127.0.0.1:1", max_retries=1), stream)
    producer.send({"n": 1})
    with pytest.raises(RedisConnectionError):
        producer.flush()


def test_in_an_event_loop(any_server: Server, client: redis.Redis, stream: str) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    async def produce() -> None:
        ticking = asyncio.create_task(tick())
        async with StreamProducer(any_server.url, stream, buffer_bytes=2_000) as producer:
            for n in range(3_000):
                await producer.send({"n": n})
            await producer.send_frame(pl.DataFrame({"n": [3_000]}))
            await producer.flush()
            assert producer.rows_written == 3_001
        ticking.cancel()

    asyncio.run(produce())
    assert stored(client, stream) == [*range(3_001)]
    assert ticks > 3


def test_an_error_in_an_event_loop(any_server: Server, client: redis.Redis, stream: str) -> None:
    async def produce() -> None:
        async with StreamProducer(any_server.url, stream) as producer:
            await producer.send({"n": 1})

    client.set(stream, "x")
    with pytest.raises(WrongTypeError):
        asyncio.run(produce())


def test_a_producer_that_is_dropped_writes_what_it_has(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    producer = StreamProducer(any_server.url, stream, linger_ms=60_000)
    producer.send({"n": 1})
    del producer
    eventually(lambda: stored(client, stream) == [1])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_no_worker(any_server: Server, stream: str) -> None:
    with StreamProducer(any_server.url, stream) as producer:
        child = os.fork()
        if child == 0:
            try:
                producer.send({"n": 1})
            except RuntimeError:
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("name", ["redis70", "redis810"])
def test_flushes_of_an_idempotent_producer_share_a_connection(
    request: pytest.FixtureRequest, stream: str, name: str
) -> None:
    """What the server does not know is asked for without provoking an error at each flush."""
    server: Server = request.getfixturevalue(name)

    def errors(client: redis.Redis) -> int:
        stats: Any = client.info("errorstats")
        return sum(one["count"] for one in stats.values())

    with server.client() as client, Proxy(server.port) as proxy:
        before = errors(client)
        with StreamProducer(proxy.url, stream, linger_ms=0, idempotent="me") as producer:
            for number in range(20):
                producer.send({"n": number})
                producer.flush()
        assert proxy.connections == 1
        # "no such key", as long as there is no stream.
        assert errors(client) - before <= 1
        assert client.xlen(stream) == 20


def test_a_refusal_after_rows_are_in_counts_them(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    other = f"{stream}:other"
    client.set(other, "x")
    for send in ("send", "send_frame"):
        producer = StreamProducer(any_server.url, stream)
        for n in range(5):
            producer.send({"n": n})
        producer.flush()
        entry: Any = {"n": 9} if send == "send" else pl.DataFrame({"n": [9]})
        getattr(producer, send)(entry, stream=other)
        with pytest.raises(
            WriteError, match=r"^5 of 6 rows are in, none from row 5 on: .*string"
        ) as e:
            producer.flush()
        assert "nothing" not in str(e.value)
        assert (e.value.rows_written, e.value.row, e.value.code) == (5, 5, "WRONGTYPE")
        assert producer.rows_written == 5


def test_a_refusal_after_rows_are_in_counts_them_in_an_event_loop(
    any_server: Server, client: redis.Redis, stream: str
) -> None:
    other = f"{stream}:other"
    client.set(other, "x")

    async def produce() -> None:
        async with StreamProducer(any_server.url, stream) as producer:
            await (await producer.send({"n": 0}))
            await (await producer.send({"n": 1}, stream=other))

    with pytest.raises(WriteError, match=r"^1 of 2 rows is in") as caught:
        asyncio.run(produce())
    assert (caught.value.rows_written, caught.value.row) == (1, 1)
