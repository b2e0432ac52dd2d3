"""A processor beside what it is measured by; for `compare.py`, section ``process``.

``python benches/processor.py CONTENDER URL ENTRIES`` runs one contender, and prints its seconds. The
floor is a client that sends what a processor has sent, byte for byte, and drops what it is answered.
"""

from __future__ import annotations

import os
import re
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from support.server import Server

HERE = Path(__file__).resolve().parent
STREAM = "sales"
SCHEMA = {"sku": pl.String, "quantity": pl.Int64}
OUTPUT = "{sales}:left"
#: The rows of a batch, the keys of the table, and how many entries those get that go one by one.
BATCH = 10_000
KEYS = 10_000
SINGLE = 5_000
#: Its interpreter: `pip install atomic-redis-streams` in a virtual environment of its own.
CACHE = Path(os.environ.get("REDFLOE_CACHE") or "~/.cache/redfloe").expanduser()
PEER = Path(
    os.environ.get("REDFLOE_BENCH_PEER", CACHE / "peers" / "atomic-redis-streams" / "bin" / "python")
)

FLOOR = "floor (the same bytes on a socket, drops every reply)"
TABLE = "`StreamProcessor`, a table and an output for each row"
QUIET = "`StreamProcessor`, a table, no outputs"
LOOP = "`StreamConsumer`, at least once, no table, no outputs"
ONES = "`StreamProcessor`, batches of 1: a number of state, an output"
ATOMIC = "atomic-redis-streams: a number of state, an output"


# What is measured, each as a user would write it


def make(url: str, **options: Any) -> Any:
    import redfloe

    return redfloe.StreamProcessor(
        url,
        STREAM,
        **{"name": "bench", "schema": SCHEMA, "batch_size": BATCH, "on_idle": "stop", "block_ms": 1}
        | options,
    )


def sell(tx: Any, *, publishes: bool) -> None:
    """Keep what is left of each article; publish it for each sale."""
    stock = tx.table("stock", key="sku", schema={"left": pl.Int64})
    sold = tx.frame.group_by("sku").agg(pl.col("quantity").sum())
    left = stock.lookup(sold["sku"])["left"].fill_null(0)
    now = sold.select("sku", left=left - pl.col("quantity"))
    stock.upsert(now)
    if publishes:
        tx.publish(OUTPUT, tx.frame.select("sku", "quantity").join(now, on="sku", maintain_order="left"))


def with_outputs(url: str, entries: int) -> int:
    with make(url) as processor:
        for tx in processor:
            sell(tx, publishes=True)
    return int(processor.stats.entries)


def without_outputs(url: str, entries: int) -> int:
    with make(url) as processor:
        for tx in processor:
            sell(tx, publishes=False)
    return int(processor.stats.entries)


def one_by_one(url: str, entries: int) -> int:
    done = 0
    with make(url, batch_size=1) as processor:
        for tx in processor:
            [(sku, quantity)] = tx.frame.select("sku", "quantity").iter_rows()
            left = tx.state["stock"] = tx.state.get("stock", 0) - quantity
            tx.publish(OUTPUT, {"sku": sku, "left": left})
            done += 1
            if done == entries:
                break
    return done


def at_least_once(url: str, entries: int) -> int:
    import redfloe

    with redfloe.StreamConsumer(
        url,
        STREAM,
        "bench",
        "worker",
        schema=SCHEMA,
        batch_size=BATCH,
        on_idle="stop",
        block_ms=1,
        group_start_id="0",
    ) as consumer:
        for batch in consumer:
            batch.frame.group_by("sku").agg(pl.col("quantity").sum())
    return int(consumer.stats.entries)


CONTENDERS: dict[str, Callable[[str, int], int]] = {
    TABLE: with_outputs,
    QUIET: without_outputs,
    LOOP: at_least_once,
    ONES: one_by_one,
}


def main() -> None:
    """Run one of them, once its scripts and imports are loaded."""
    name, url, entries = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with make(url, name="warm", batch_size=10) as processor:
        sell(next(processor), publishes=False)
    started = time.perf_counter()
    done = CONTENDERS[name](url, entries)
    print(time.perf_counter() - started)
    assert done == entries, f"{done} instead of {entries}"


# The floor


class Recorder:
    """Stands before a server, and keeps what a client sends, in order, with the sizes of the replies.

    On each connection the client waits for a reply before it sends more: so nothing has to be parsed.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}"
        self._exchanges: list[tuple[bytearray, list[int]]] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def exchanges(self) -> list[tuple[bytes, int]]:
        """Give each page and script that was asked for, with the size of its reply."""
        return [
            (bytes(sent), sum(sizes))
            for sent, sizes in self._exchanges
            if re.match(rb"\*\d+\r\n\$\d+\r\n(XRANGE|EVALSHA)\r\n", sent)
        ]

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self._port))
        sizes: list[int] | None = None
        while True:
            for ready in select.select([client, server], [], [])[0]:
                if not (data := ready.recv(1 << 20)):
                    return
                if ready is client:
                    if sizes is None or sizes:
                        sent, sizes = bytearray(), []
                        self._exchanges.append((sent, sizes))
                    sent += data
                    server.sendall(data)
                else:
                    assert sizes is not None
                    sizes.append(len(data))
                    client.sendall(data)


def replay(port: int, exchanges: list[tuple[bytes, int]]) -> float:
    """Send it all again, the next before the reply to the one before has come; give the seconds."""
    buffer = bytearray(1 << 20)

    def drop(size: int) -> None:
        while size > 0:
            taken = server.recv_into(buffer, min(size, len(buffer)))
            assert taken > 0, "the server closed the connection"
            size -= taken

    with socket.create_connection(("127.0.0.1", port), timeout=30) as server:
        started = time.perf_counter()
        owed = 0
        for sent, size in exchanges:
            server.sendall(sent)
            drop(owed)
            owed = size
        drop(owed)
        return time.perf_counter() - started


# The comparison


def fill(client: redis.Redis, entries: int) -> None:
    """Add sales of all articles, in no order."""
    script = """
        for n = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
            redis.call('XADD', KEYS[1], '*', 'sku', string.format('sku-%05d', n * 7919 % ARGV[3]),
                'quantity', string.format('%d', n * 31 % 9 + 1))
        end
    """
    client.delete(STREAM)
    for first in range(0, entries, 100_000):
        client.eval(script, 1, STREAM, first, min(first + 100_000, entries), KEYS)


def run(name: str, url: str, entries: int) -> float:
    """Run a contender in a process of its own; give the seconds."""
    command = [sys.executable, str(HERE / "processor.py"), name, url, str(entries)]
    if name == ATOMIC:
        command = [str(PEER), str(HERE / "peer.py"), url, STREAM, str(entries)]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    return float(done)


def clear(client: redis.Redis) -> None:
    """Leave the input alone."""
    for key in client.scan_iter(count=1_000):
        if key != STREAM.encode():
            client.delete(key)
    for group in client.xinfo_groups(STREAM):
        client.xgroup_destroy(STREAM, group["name"])


def rows(server: Server, rounds: int, entries: int) -> Iterator[tuple[str, ...]]:
    """Give a line for each contender."""
    some = min(SINGLE, entries)
    names = {FLOOR: entries, TABLE: entries, QUIET: entries, LOOP: entries, ONES: some}
    if PEER.exists():
        names[ATOMIC] = some
    rates: dict[str, list[float]] = {name: [] for name in names}
    with server.client() as client:
        fill(client, entries)
        clear(client)
        recorder = Recorder(server.port)
        run(TABLE, server.url, entries)  # the scripts are loaded
        clear(client)
        run(TABLE, recorder.url, entries)
        outputs, table = client.xlen(OUTPUT), client.hgetall("{sales}:redfloe:sales:bench:table:stock")
        for number in range(rounds):
            for name, these in names.items():
                clear(client)
                if name == FLOOR:
                    seconds = replay(server.port, recorder.exchanges())
                    assert client.xlen(OUTPUT) == outputs == entries
                    assert client.hgetall("{sales}:redfloe:sales:bench:table:stock") == table
                else:
                    seconds = run(name, server.url, these)
                rates[name].append(these / seconds)
                print(f"process round {number + 1}: {name}: {these / seconds:,.0f}/s")
        clear(client)
        client.delete(STREAM)
    for name, mine in rates.items():
        cells = [f"{statistics.median(mine):,.0f}/s ({max(mine):,.0f}/s)"]
        for other in (FLOOR, LOOP, ATOMIC):
            ratios = [one / measure for one, measure in zip(mine, rates.get(other, []), strict=False)]
            # As everywhere: how many times the floor's time.
            ratios = [1 / ratio for ratio in ratios] if other == FLOOR else ratios
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        yield (name, *cells)
    if ATOMIC not in names:
        yield (f"{ATOMIC} (not installed)", "", "", "", "")


if __name__ == "__main__":
    os.environ["POLARS_MAX_THREADS"] = "2"
    main()
