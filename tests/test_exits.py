"""The interpreter may end at any moment: whatever replies come then, nobody calls into it."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

import redfloe
from support.processes import hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK

RUNS = 5


@pytest.mark.timeout(120)
@pytest.mark.slow
def test_many_scripts_that_write_and_end(any_server: Server, stream: str) -> None:
    """As users write them: the interpreter is finalized as soon as the reply is there.

    One of four aborted once; that none of 40 does by chance has a probability of 1 in 100,000.
    """
    script = (
        "import asyncio, sys, polars as pl, redfloe\n"
        "asyncio.run(redfloe.write_stream_async(*sys.argv[1:2], pl.DataFrame({'a': [1, 2]}), 's'))"
    )

    def run(_: int) -> int:
        return subprocess.call([sys.executable, "-c", script, any_server.url])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        assert [*pool.map(run, range(40))] == [0] * 40


#: A processor's loop, and what is done in it.
PROCESSING = """
async with redfloe.StreamProcessor(url, 's', name=name, dead_letter='dead') as processor:
    async for tx in processor:
        WORK
"""

#: For each coroutine function: the command whose reply is held, and how it comes to wait for that.
HELD: dict[str, tuple[bytes, str]] = {
    "write_stream_async": (
        b"XADD",
        "await redfloe.write_stream_async(url, pl.DataFrame({'a': [1, 2]}), 'out')",
    ),
    "write_hashes_async": (
        b"HSET",
        """
        await redfloe.write_hashes_async(
            url, pl.DataFrame({'k': [name], 'a': [1]}), key_column='k', if_exists='merge'
        )
        """,
    ),
    "sink_stream_async": (
        b"XADD",
        "await redfloe.sink_stream_async(url, pl.LazyFrame({'a': [1, 2]}), 'out')",
    ),
    "split_stream_async": (
        b"XREVRANGE",
        "await redfloe.split_stream_async(url, 's', 2)",
    ),
    "stream_offsets_async": (b"XREVRANGE", "await redfloe.stream_offsets_async(url, 's')"),
    "advance_offsets_async": (
        b"XRANGE",
        "await redfloe.advance_offsets_async(url, {}, 2, up_to={'s': '2-0'})",
    ),
    "archive_async": (
        b"XREAD",
        """
        import tempfile
        with tempfile.TemporaryDirectory() as lake:
            await redfloe.archive_async(url, 's', to=lake)
        """,
    ),
    "ack_entries_async": (b"XACK", "await redfloe.ack_entries_async(url, 's', 'g', ['1-0'])"),
    "read_dead_letters_async": (b"XRANGE", "await redfloe.read_dead_letters_async(url, 's')"),
    "replay_dead_letters_async": (
        b"EVAL",
        """
        redfloe.write_stream(url, pl.DataFrame({'a': [1]}), 'dead')
        await redfloe.replay_dead_letters_async(url, 'dead')
        """,
    ),
    "claim_entries_async": (
        b"XCLAIM",
        "await redfloe.claim_entries_async(url, 's', 'g', 'c', ['1-0'])",
    ),
    "consumer_info_async": (b"XINFO", "await redfloe.consumer_info_async(url, 's', 'g')"),
    "create_group_async": (b"XGROUP", "await redfloe.create_group_async(url, 's', 'g')"),
    "create_stream_async": (b"EVAL", "await redfloe.create_stream_async(url, 'new')"),
    "delete_consumer_async": (
        b"EVAL",
        "await redfloe.delete_consumer_async(url, 's', 'g', 'nobody')",
    ),
    "delete_entries_async": (b"XDEL", "await redfloe.delete_entries_async(url, 's', ['9-9'])"),
    "delete_group_async": (b"XGROUP", "await redfloe.delete_group_async(url, 's', 'nobody')"),
    "delete_processor_async": (b"SCAN", "await redfloe.delete_processor_async(url, 's', 'p')"),
    "processor_info_async": (b"SCAN", "await redfloe.processor_info_async(url)"),
    "read_table_async": (
        b"HLEN",
        """
        await redfloe.read_table_async(
            url, 's', 'p', 't', key='k', schema={'n': pl.Int64}
        )
        """,
    ),
    "reset_processor_async": (
        b"EXISTS",
        """
        try:
            await redfloe.reset_processor_async(url, 's', 'p', to='0', state='keep')
        except redfloe.NoProcessorError:
            pass
        """,
    ),
    "delete_stream_async": (b"EVAL", "await redfloe.delete_stream_async(url, 'none')"),
    "group_info_async": (b"XINFO", "await redfloe.group_info_async(url, 's')"),
    "list_groups_async": (b"SCAN", "await redfloe.list_groups_async(url)"),
    "list_streams_async": (b"SCAN", "await redfloe.list_streams_async(url)"),
    "pending_entries_async": (b"XPENDING", "await redfloe.pending_entries_async(url, 's', 'g')"),
    "stream_info_async": (b"XINFO", "await redfloe.stream_info_async(url, 's')"),
    "trim_stream_async": (b"XTRIM", "await redfloe.trim_stream_async(url, 's', maxlen=1_000)"),
    "infer_schema_async": (b"XRANGE", "await redfloe.infer_schema_async(url, 's')"),
    "read_stream_async": (b"XRANGE", "await redfloe.read_stream_async(url, 's')"),
    "read_streams_async": (b"XRANGE", "await redfloe.read_streams_async(url, 's')"),
    "RedisCheckpointStore.load_async": (
        b"GET",
        "await redfloe.RedisCheckpointStore(url).load_async('s')",
    ),
    "RedisCheckpointStore.save_async": (
        b"SET",
        "await redfloe.RedisCheckpointStore(url).save_async('s', '1-0')",
    ),
    "RedisCheckpointStore.load_many_async": (
        b"GET",
        "await redfloe.RedisCheckpointStore(url).load_many_async(['s', 't'])",
    ),
    "RedisCheckpointStore.save_many_async": (
        b"SET",
        "await redfloe.RedisCheckpointStore(url).save_many_async({'s': '1-0', 't': '1-0'})",
    ),
    "AsyncBatch.ack": (b"XACK", "await batch.ack()"),
    "AsyncBatch.nack": (b"EVAL", "await batch.nack()"),
    "AsyncBatch.fail": (b"EVAL", "await batch.fail(batch.ids, 'why')"),
    "AsyncBatch.extend": (b"EVAL", "await batch.extend()"),
    "AsyncBatchIterator.__anext__": (
        b"XREAD",
        "await anext(redfloe.stream_batches(url, 's', start_id='-'))",
    ),
    "AsyncBatchIterator.__aenter__": (
        b"XREAD",
        """
        async with redfloe.stream_batches(url, 's', start_id='-') as batches:
            await anext(batches)
        """,
    ),
    "AsyncBatchIterator.__aexit__": (
        b"XREAD",
        """
        async with redfloe.stream_batches(url, 's', start_id='-') as batches:
            waiting = asyncio.ensure_future(anext(batches, None))
            await asyncio.sleep(0.2)
        """,
    ),
    "AsyncBatchIterator.aclose": (
        b"XREAD",
        """
        batches = redfloe.stream_batches(url, 's', start_id='-')
        waiting = asyncio.ensure_future(anext(batches, None))
        await asyncio.sleep(0.2)
        await batches.aclose()
        """,
    ),
    "AsyncStreamProducer.send": (
        b"XADD",
        """
        async with redfloe.StreamProducer(url, 'out', buffer_bytes=1, linger_ms=0) as producer:
            for n in range(3):
                await producer.send({'n': n})
        """,
    ),
    "AsyncStreamProducer.send_frame": (
        b"XADD",
        """
        async with redfloe.StreamProducer(url, 'out', buffer_bytes=1, linger_ms=0) as producer:
            for n in range(3):
                await producer.send_frame(pl.DataFrame({'n': [n]}))
        """,
    ),
    "AsyncStreamProducer.flush": (
        b"XADD",
        """
        async with redfloe.StreamProducer(url, 'out') as producer:
            await producer.send({'n': 1})
            await producer.flush()
        """,
    ),
    "AsyncStreamProducer.close": (
        b"XADD",
        """
        async with redfloe.StreamProducer(url, 'out') as producer:
            await producer.send({'n': 1})
            await producer.close()
        """,
    ),
    "StreamProducer.__aenter__": (
        b"XADD",
        """
        producer = redfloe.StreamProducer(url, 'out')
        entered = await producer.__aenter__()
        await entered.send({'n': 1})
        await entered.flush()
        """,
    ),
    "StreamProducer.__aexit__": (
        b"XADD",
        """
        async with redfloe.StreamProducer(url, 'out') as producer:
            await producer.send({'n': 1})
        """,
    ),
    "StreamConsumer.__aenter__": (
        b"XREADGROUP",
        """
        async with consumer:
            await anext(consumer)
        """,
    ),
    "StreamConsumer.__anext__": (b"XREADGROUP", "await anext(consumer)"),
    "StreamConsumer.__aexit__": (
        b"XACK",
        """
        async with redfloe.StreamConsumer(url, 's', 'g', name, batch_size=1) as consumer:
            await anext(consumer)
        """,
    ),
    "StreamProcessor.__aenter__": (b"EVALSHA", PROCESSING.replace("WORK", "pass")),
    "StreamProcessor.__aexit__": (b"EVALSHA", PROCESSING.replace("WORK", "pass")),
    "StreamProcessor.__anext__": (b"XRANGE", PROCESSING.replace("WORK", "pass")),
    "StreamProcessor.run_async": (
        b"XRANGE",
        """
        async def handle(tx):
            pass
        await redfloe.StreamProcessor(url, 's', name=name).run_async(handle)
        """,
    ),
    "AsyncTransaction.table": (
        b"EVALSHA",
        PROCESSING.replace("WORK", "await tx.table('t', key='a', schema={'b': str})"),
    ),
    "AsyncTransaction.window": (
        b"EVALSHA",
        PROCESSING.replace("WORK", "await tx.window('w', every='1m', aggs={'n': pl.len()})"),
    ),
    "AsyncTransaction.lookup": (
        b"HMGET",
        PROCESSING.replace(
            "WORK", "await tx.lookup('s', 'x', 't', ['k'], key='k', schema={'v': str})"
        ),
    ),
    # The time of the dead letters is asked for first.
    "AsyncTransaction.commit": (
        b"TIME",
        PROCESSING.replace("WORK", "tx.fail(tx.ids, 'x'); await tx.commit()"),
    ),
    "StreamConsumer.run_async": (
        b"XREADGROUP",
        """
        async def handle(batch):
            pass
        await consumer.run_async(handle)
        """,
    ),
}

#: The interpreter ends after the coroutine's task was cancelled, or while it waits.
SCRIPT = """
import asyncio, os, sys, time
import polars as pl
import uvloop
import redfloe

class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(0.3)

async def wait(url, name):
    consumer = redfloe.StreamConsumer(
        url, 's', 'g', name, ack='manual', batch_size=1, dead_letter='dead'
    )
    SETUP
BODY

async def main(url, name, ended):
    waiting = asyncio.ensure_future(wait(url, name))
    loop = asyncio.get_running_loop()
    ending = loop.create_future()
    loop.add_reader(ended, lambda: ending.done() or ending.set_result(None))
    await ending

# Whoever calls a loop from another thread is in the middle of that when the interpreter ends.
class Asyncio(asyncio.SelectorEventLoop):
    def call_soon_threadsafe(self, *args, **options):
        time.sleep(0.1)
        return super(type(self), self).call_soon_threadsafe(*args, **options)

class Uvloop(uvloop.Loop):
    call_soon_threadsafe = Asyncio.call_soon_threadsafe

url, runs = sys.argv[1], int(sys.argv[2])
ended, end = os.pipe()
children = []
for n in range(runs):
    children.append(os.fork())
    if children[-1] == 0:
        os.close(end)
        sys.modules["slow"] = type(sys)("slow")
        sys.modules["slow"].slow = Slow()  # goes last
        if n % 2 == 0:
            with asyncio.Runner(loop_factory=Asyncio) as runner:
                runner.run(main(url, f"c{n}", ended))
        else:
            Uvloop().run_until_complete(main(url, f"c{n}", ended))
        sys.exit()
sys.stdin.readline()
os.close(end)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
"""


@pytest.mark.parametrize("function", HELD)
def test_the_interpreter_ends_while_a_reply_is_held(
    any_server: Server, client: redis.Redis, function: str
) -> None:
    add_numbers(client, "s", RUNS)
    client.xgroup_create("s", "g", "0")
    command, body = HELD[function]
    setup = "batch = await anext(consumer)" if function.startswith("AsyncBatch.") else "pass"
    body = textwrap.indent(textwrap.dedent(body), "    ")
    script = SCRIPT.replace("SETUP", setup).replace("BODY", body)
    let_go = threading.Event()
    held = threading.Semaphore(0)

    def hold(_: int) -> None:
        held.release()
        let_go.wait(30)

    with Proxy(any_server.port) as proxy:
        for name in {command, b"EVALSHA" if command == b"EVAL" else command}:
            proxy.before(name, hold)
        with python(script, proxy.url, str(RUNS)) as process:
            for _ in range(RUNS):
                assert held.acquire(timeout=10 * SLACK)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            let_go.set()  # so that replies come while the interpreters end
            assert hear(process) == [0] * RUNS
        let_go.set()


def coroutine_functions() -> Iterator[str]:
    """All of the public API."""
    for name in redfloe.__all__:
        public = getattr(redfloe, name)
        if inspect.iscoroutinefunction(public):
            yield name
        elif inspect.isclass(public) and public.__module__.startswith("redfloe"):
            for attribute, value in inspect.getmembers_static(public):
                if not (attribute.startswith("_") and not attribute.startswith("__")) and (
                    inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
                ):
                    yield f"{name}.{attribute}"


def test_each_coroutine_function_is_among_them() -> None:
    assert sorted(coroutine_functions()) == sorted(HELD)
