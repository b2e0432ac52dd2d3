"""What a notebook or a debugger shows of readers, writers and stores."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest

import redfloe
from support.server import Server

FRAME = pl.DataFrame({"id": ["1-0", "2-0", "3-0"], "value": [1, 2, 3]})


@pytest.fixture
def url(any_server: Server, stream: str) -> str:
    redfloe.write_stream(any_server.url, FRAME, stream, id_column="id")
    return any_server.url


def test_an_iterator_says_what_it_reads_and_how_far(url: str, stream: str) -> None:
    batches = redfloe.iter_stream(
        url, stream, start_id="-", batch_size=2, on_idle="stop", block_ms=1
    )
    where = f"BatchIterator(RedisConnection(\"{url}\"), stream='{stream}', "
    assert repr(batches) == f"{where}entries=0)"
    next(batches)
    assert repr(batches) == f"{where}entries=2, last_id='2-0')"
    assert len(list(batches)) == 1
    assert repr(batches) == f"{where}entries=3, last_id='3-0', closed)"


def test_an_asynchronous_iterator_does_too(url: str, stream: str) -> None:
    where = f"AsyncBatchIterator(RedisConnection(\"{url}\"), stream='{stream}', "

    async def read() -> None:
        batches = redfloe.stream_batches(url, stream, group="g", consumer="w", block_ms=1)
        group = "group='g', consumer='w', "
        assert repr(batches) == f"{where}{group}entries=0)"
        await anext(batches)
        assert repr(batches) == f"{where}{group}entries=3, last_id='3-0')"
        await batches.aclose()
        assert repr(batches) == f"{where}{group}entries=3, last_id='3-0', closed)"

    asyncio.run(read())


def test_a_worker_does_too(url: str, stream: str) -> None:
    consumer = redfloe.StreamConsumer(url, stream, "g", "w", on_idle="stop", block_ms=1)
    where = (
        f"StreamConsumer(RedisConnection(\"{url}\"), stream='{stream}', group='g', consumer='w', "
    )
    assert repr(consumer) == f"{where}not started)"
    with consumer:
        for _ in consumer:
            assert repr(consumer) == f"{where}entries=3, last_id='3-0')"
    assert repr(consumer) == f"{where}entries=3, last_id='3-0')"


def test_a_notebook_shows_the_frame_of_a_batch(url: str, stream: str) -> None:
    with redfloe.StreamConsumer(url, stream, "g", "w", on_idle="stop", block_ms=1) as consumer:
        [html] = [batch._repr_html_() for batch in consumer]
    assert "Batch(3 entries, 1-0 to 3-0)" in html
    assert "<table" in html


def test_a_producer_says_how_much_is_in(any_server: Server) -> None:
    url = any_server.url
    with redfloe.StreamProducer(url, b"bytes:\xff") as producer:
        producer.send({"value": 1})
        producer.flush()
        where = f"(RedisConnection(\"{url}\"), stream=b'bytes:\\xff', rows_written=1)"
        assert repr(producer) == f"StreamProducer{where}"

    with redfloe.StreamProducer(url) as producer:  # for many streams
        assert repr(producer) == f'StreamProducer(RedisConnection("{url}"), rows_written=0)'

    async def write() -> str:
        async with redfloe.StreamProducer(url, b"bytes:\xff") as producer:
            await producer.send({"value": 1})
            await producer.flush()
            return repr(producer)

    assert asyncio.run(write()) == f"AsyncStreamProducer{where}"


def test_a_store_says_where_it_keeps_checkpoints(tmp_path: Path) -> None:
    memory = redfloe.MemoryCheckpointStore()
    memory.save("events", "1-0")
    assert repr(memory) == "MemoryCheckpointStore({'events': '1-0'})"
    assert str(tmp_path) in repr(redfloe.FileCheckpointStore(tmp_path))


def test_no_password_is_shown() -> None:
    url = "redis://app:s3cret@localhost:1"
    for shown in (
        redfloe.iter_stream(url, "events", start_id="-"),
        redfloe.stream_batches(url, "events"),
        redfloe.StreamConsumer(url, "events", "g", "w"),
        redfloe.RedisCheckpointStore(url),
        redfloe.StreamProducer(url, "events"),
    ):
        assert "redis://app:***@localhost:1" in repr(shown)
        assert "s3cret" not in repr(shown)


def test_a_processor_and_its_transaction_do_too(url: str, stream: str) -> None:
    processor = redfloe.StreamProcessor(url, stream, name="p", on_idle="stop", block_ms=1)
    where = f"StreamProcessor(RedisConnection(\"{url}\"), stream='{stream}', name='p'"
    assert repr(processor) == f"{where}, not started)"
    with processor:
        tx = next(processor)
        assert repr(tx) == "Transaction(3 entries, up to 3-0)"
        tx.commit()
        assert repr(processor) == f"{where}, epoch=1, position='3-0')"
    assert repr(processor) == f"{where}, epoch=1, position='3-0')"
