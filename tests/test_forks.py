"""A child that was forked while other threads of its parent were using what it inherits."""

from __future__ import annotations

import sys
import threading

import pytest
import redis

from support.clients import is_waiting
from support.processes import finish, hear, python
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import eventually, within

#: A thread waits for an iterator, the main thread forks. In the child the iterator says so.
SCRIPT = """
import signal, threading, polars as pl
url = sys.argv[1]
connection = redfloe.RedisConnection(url, client_name="forks")

def run(job):
    with asyncio.Runner() as runner:
        return runner.run(job)

def outcome(act):
    try:
        return act()
    except Exception as error:
        return type(error).__name__

def anew():
    frames = redfloe.iter_stream(url, "other", start_id="-", on_idle="stop", block_ms=1)
    return [frame.height for frame in frames]

def fork(act):
    sys.stdin.readline()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs ends by that
        os.write(writing, json.dumps(act()).encode())
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    os.close(writing)
    with open(reading) as told:
        print(json.dumps([status, json.loads(told.read() or "null")]), flush=True)
"""

SYNC = """
batches = redfloe.iter_stream(connection, "s", block_ms=0)
threading.Thread(target=lambda: print(json.dumps(next(batches).height), flush=True)).start()

def child():
    global batches
    outcomes = [outcome(lambda: next(batches)), outcome(lambda: next(batches))]
    batches.close()
    del batches
    return [*outcomes, anew()]

fork(child)
"""

ASYNC = """
batches = redfloe.stream_batches(connection, "s", block_ms=0)
def wait():
    print(json.dumps(run(anext(batches)).height), flush=True)
threading.Thread(target=wait).start()

def child():
    global batches
    outcomes = [outcome(lambda: run(anext(batches))), outcome(lambda: run(anext(batches)))]
    run(batches.aclose())
    del batches
    return [*outcomes, anew()]

fork(child)
"""

WORKER = """
consumer = redfloe.StreamConsumer(connection, "s", "g", "c", block_ms=0)
def wait():
    print(json.dumps(len(next(consumer))), flush=True)
threading.Thread(target=wait).start()

def child():
    global consumer
    outcomes = [outcome(lambda: next(consumer)), outcome(lambda: consumer.stats)]
    consumer.stop()
    del consumer
    return [*outcomes, anew()]

fork(child)
"""


@pytest.mark.parametrize("script", [SYNC, ASYNC, WORKER], ids=["iter", "async", "worker"])
def test_what_another_thread_was_using_raises_in_the_child(
    any_server: Server, client: redis.Redis, script: str
) -> None:
    add_numbers(client, "other", 3)
    client.xgroup_create("s", "g", "0", mkstream=True)  # or the worker warns that it created both
    with python(SCRIPT + script, any_server.url) as process, within(20):
        eventually(is_waiting(client, "forks"), seconds=10)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        refused = "RedisConnectionError"
        assert hear(process) == [0, [refused, refused, [3]]]
        add_numbers(client, "s", 2)  # the parent's thread goes on
        assert hear(process) == 2
        finish(process)


def test_a_fork_in_a_signals_handler(any_server: Server, client: redis.Redis) -> None:
    """The child is in the middle of a call, whose socket is the parent's."""
    add_numbers(client, "other", 3)
    script = """
        parent = os.getpid()
        def handler(*_):
            global child
            child = os.fork()
            if child == 0:
                signal.alarm(20)
            else:
                print("true", flush=True)
        signal.signal(signal.SIGUSR1, handler)
        batches = redfloe.iter_stream(connection, "s", block_ms=0)
        try:
            print(json.dumps(next(batches).height), flush=True)
        except redfloe.RedisConnectionError as error:
            assert os.getpid() != parent
            os._exit(7 if "forked" in str(error) and anew() == [3] else 1)
        print(json.dumps(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])), flush=True)
        sys.stdin.readline()
    """
    script = SCRIPT + "\n".join(line.removeprefix("        ") for line in script.splitlines())
    with python(script, any_server.url) as process, within(20):
        eventually(is_waiting(client, "forks"), seconds=10)
        process.send_signal(10)  # SIGUSR1
        assert hear(process) is True
        add_numbers(client, "s", 2)
        assert hear(process) == 2
        assert hear(process) == 7
        finish(process)


#: A thread waits for an acknowledgement, whose reply is held, the main thread forks.
ACKNOWLEDGING = """
consumer = redfloe.StreamConsumer(connection, "s", "g", "c", ack="manual", block_ms=0)
batch = next(consumer)
threading.Thread(target=lambda: print(json.dumps(batch.ack()), flush=True)).start()

def child():
    outcomes = [
        outcome(lambda: consumer.stats),
        outcome(lambda: next(consumer)),
        outcome(batch.leave),
    ]
    consumer.stop()
    return [*outcomes, anew()]

fork(child)
"""


def test_what_another_thread_was_acknowledging_raises_in_the_child(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, "other", 3)
    add_numbers(client, "s", 2)
    held, let_go = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        held.set()
        let_go.wait(20)

    with (
        Proxy(any_server.port) as proxy,
        python(SCRIPT + ACKNOWLEDGING, proxy.url) as process,
        within(20),
    ):
        proxy.before(b"XACK", hold)
        assert held.wait(10)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        refused = "RedisConnectionError"
        assert hear(process) == [0, [refused, refused, refused, [3]]]
        let_go.set()
        assert hear(process) == 2
        finish(process)


#: A thread waits for a checkpoint, whose reply is held, the main thread forks. Stopping in the
#: child touches nothing that the parent's runtime waits for: its event counters stay as they are.
LOADING = """
store = redfloe.RedisCheckpointStore(connection)
consumer = redfloe.StreamConsumer(connection, "s", checkpoint_store=store, on_idle="stop")
loop = lambda: print(json.dumps(sum(len(batch) for batch in consumer)), flush=True)
threading.Thread(target=loop).start()

def events():
    counts = []
    for fd in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{fd}") as info:
                counts += [line for line in info if line.startswith("eventfd-count")]
        except OSError:
            pass  # it was that of the listing
    return counts

def child():
    before = events()
    consumer.stop()
    return [len(before) > 0, events() == before, anew()]

fork(child)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_does_not_wake_who_waits_in_its_parent(
    any_server: Server, client: redis.Redis
) -> None:
    add_numbers(client, "other", 3)
    add_numbers(client, "s", 2)
    held, let_go = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        held.set()
        let_go.wait(20)

    with (
        Proxy(any_server.port) as proxy,
        python(SCRIPT + LOADING, proxy.url) as process,
        within(20),
    ):
        proxy.before(b"GET", hold)
        assert held.wait(10)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert hear(process) == [0, [True, True, [3]]]
        let_go.set()
        assert hear(process) == 2
        finish(process)


#: A producer and Arrow streams that no thread is using, the main thread forks.
IDLE = """
producer = redfloe.StreamProducer(connection, "p")
producer.send({"n": 1})
producer.flush()
reader, used = (redfloe.stream_reader(connection, "other", {"n": pl.Int64}) for _ in range(2))
pl.DataFrame(used)

def child():
    return [
        outcome(lambda: producer.rows_written),
        outcome(lambda: producer.send({"n": 1})),
        outcome(lambda: pl.DataFrame(reader).height),
        outcome(lambda: pl.DataFrame(used).height),
    ]

print("true", flush=True)
fork(child)
"""


def test_what_is_idle_at_a_fork(any_server: Server, client: redis.Redis) -> None:
    add_numbers(client, "other", 3)
    with python(SCRIPT + IDLE, any_server.url) as process, within(20):
        assert hear(process) is True
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert hear(process) == [0, ["RuntimeError", "RuntimeError", 3, 3]]
        finish(process)
