"""A processor beside what it is measured by; for `compare.py`, section ``process``.

``python benches/processor.py CONTENDER URL STREAM`` runs one contender on all of a stream, and
prints its entries and seconds. The floor is a client that sends what a processor has sent, byte for
byte, and drops what it is answered.
"""

from __future__ import annotations

import contextlib
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
import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redfloe
    from support.server import Server

HERE = Path(__file__).resolve().parent
STREAM = "sales"
SCHEMA = {"sku": pl.String, "quantity": pl.Int64}
OUTPUT = "left"
#: The rows of a batch, and the keys of the table.
BATCH = 10_000
KEYS = 10_000
#: A stream of as many sales of fewer articles, for windows, and how many.
FEW_SKUS = "sales-of-few"
WINDOW_KEYS = 1_000
#: A stream for those that take entries one by one, and its length.
SHORT = "few-sales"
SINGLE = 5_000
#: Its interpreter, in a virtual environment of its own that `make peers` makes.
CACHE = Path(os.environ.get("REDFLOE_CACHE") or "~/.cache/redfloe").expanduser()
PEER = Path(
    os.environ.get(
        "REDFLOE_BENCH_PEER", CACHE / "peers" / "atomic-redis-streams" / "bin" / "python"
    )
)

FLOOR = "floor (the same bytes on a socket, drops every reply)"
TABLE = "`StreamProcessor`, a table and an output for each row"
QUIET = "`StreamProcessor`, a table, no outputs"
PLAIN = "`StreamProcessor`, positions alone"
WINDOWS = "`StreamProcessor`, windows of a minute, 1,000 keys"
LOOP = "`StreamConsumer`, at least once, no table, no outputs"
ONES = "`StreamProcessor`, batches of 1: a number of state, an output"
ATOMIC = "atomic-redis-streams: a number of state, an output"


# What is measured, each as a user would write it


def make(url: str, stream: str, **options: Any) -> redfloe.StreamProcessor:
    """Make a processor that drains a stream."""
    import redfloe

    drains: dict[str, Any] = {"batch_size": BATCH, "on_idle": "stop", "block_ms": 1}
    return redfloe.StreamProcessor(
        url, stream, **{"name": "bench", "schema": SCHEMA, **drains, **options}
    )


def sell(tx: redfloe.Transaction) -> pl.DataFrame:
    """Keep what is left of each article; give that for each sale."""
    stock = tx.table("stock", key="sku", schema={"left": pl.Int64})
    sold = tx.frame.group_by("sku").agg(pl.col("quantity").sum())
    left = stock.lookup(sold["sku"])["left"].fill_null(0)
    now = sold.select("sku", left=left - pl.col("quantity"))
    stock.upsert(now)
    return now


def with_outputs(url: str, stream: str) -> int:
    with make(url, stream) as processor:
        for tx in processor:
            sales = tx.frame.select("sku", "quantity")
            tx.publish(OUTPUT, sales.join(sell(tx), on="sku", maintain_order="left"))
    return processor.stats.entries


def without_outputs(url: str, stream: str) -> int:
    with make(url, stream) as processor:
        for tx in processor:
            sell(tx)
    return processor.stats.entries


def alone(url: str, stream: str) -> int:
    with make(url, stream) as processor:
        for _ in processor:
            pass
    return processor.stats.entries


def with_windows(url: str, stream: str) -> int:
    with make(url, stream) as processor:
        for tx in processor:
            aggs = {"sales": pl.len(), "sold": pl.col("quantity").sum()}
            tx.window("minutes", every="1m", by="sku", aggs=aggs)
    return processor.stats.entries


def one_by_one(url: str, stream: str) -> int:
    with make(url, stream, batch_size=1) as processor:
        for tx in processor:
            sale = tx.frame.row(0, named=True)
            left = tx.state["stock"] = tx.state.get("stock", 0) - sale["quantity"]
            tx.publish(OUTPUT, {"sku": sale["sku"], "left": left})
    return processor.stats.entries


def at_least_once(url: str, stream: str) -> int:
    import redfloe

    with redfloe.StreamConsumer(
        url,
        stream,
        "bench",
        "worker",
        schema=SCHEMA,
        batch_size=BATCH,
        on_idle="stop",
        block_ms=1,
    ) as consumer:
        for batch in consumer:
            batch.frame.group_by("sku").agg(pl.col("quantity").sum())
    return consumer.stats.entries


CONTENDERS: dict[str, Callable[[str, str], int]] = {
    TABLE: with_outputs,
    QUIET: without_outputs,
    PLAIN: alone,
    WINDOWS: with_windows,
    LOOP: at_least_once,
    ONES: one_by_one,
}


def main() -> None:
    """Run one of them, once imports are done and the server knows the scripts."""
    name, url, stream = sys.argv[1:]
    with make(url, stream, name="warm", batch_size=10) as processor:
        sell(next(processor))
    started = time.perf_counter()
    entries = CONTENDERS[name](url, stream)
    print(entries, time.perf_counter() - started)


# The floor


class Recorder:
    """Stands before a server; keeps what a client sends, in order, with the sizes of the replies.

    On each connection the client waits for a reply before it sends more, so nothing is parsed.
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


def fill(client: redis.Redis, stream: str, entries: int, keys: int = KEYS) -> None:
    """Add sales of all articles, in no order."""
    script = """
        for n = tonumber(ARGV[1]), tonumber(ARGV[2]) - 1 do
            redis.call('XADD', KEYS[1], '*', 'sku', string.format('sku-%05d', n * 7919 % ARGV[3]),
                'quantity', string.format('%d', n * 31 % 9 + 1))
        end
    """
    client.delete(stream)
    for first in range(0, entries, 100_000):
        client.eval(script, 1, stream, first, min(first + 100_000, entries), keys)


def clear(client: redis.Redis) -> None:
    """Leave the inputs alone."""
    for key in client.scan_iter(count=1_000):
        if key not in (STREAM.encode(), SHORT.encode(), FEW_SKUS.encode()):
            client.delete(key)
    with contextlib.suppress(redis.ResponseError):
        client.xgroup_destroy(STREAM, "bench")


def run(name: str, url: str, stream: str) -> float:
    """Run a contender in a process of its own; give its entries per second."""
    script = "peer.py" if name == ATOMIC else "processor.py"
    command = [str(PEER) if name == ATOMIC else sys.executable, str(HERE / script)]
    arguments = [url, stream, str(SINGLE)] if name == ATOMIC else [name, url, stream]
    environment = {**os.environ, "POLARS_MAX_THREADS": "2"}
    output = subprocess.run(
        [*command, *arguments], check=True, stdout=subprocess.PIPE, text=True, env=environment
    ).stdout
    entries, seconds = output.split()
    return int(entries) / float(seconds)


def rows(server: Server, rounds: int, entries: int) -> Iterator[tuple[str, ...]]:
    """Give a line for each contender."""
    from redfloe import table_key

    names = {FLOOR: STREAM, TABLE: STREAM, QUIET: STREAM, PLAIN: FEW_SKUS}
    names |= {WINDOWS: FEW_SKUS, LOOP: STREAM, ONES: SHORT}
    if PEER.exists():
        names[ATOMIC] = SHORT
    rates: dict[str, list[float]] = {name: [] for name in names}
    with server.client() as client:
        fill(client, STREAM, entries)
        fill(client, SHORT, SINGLE)
        fill(client, FEW_SKUS, entries, WINDOW_KEYS)
        clear(client)
        recorder = Recorder(server.port)
        run(TABLE, server.url, STREAM)  # the server knows the scripts
        clear(client)
        run(TABLE, recorder.url, STREAM)
        table = client.hgetall(table_key(STREAM, "bench", "stock"))
        for number in range(rounds):
            for name, stream in names.items():
                clear(client)
                if name == FLOOR:
                    rate = entries / replay(server.port, recorder.exchanges())
                    assert client.xlen(OUTPUT) == entries
                    assert client.hgetall(table_key(STREAM, "bench", "stock")) == table
                else:
                    rate = run(name, server.url, stream)
                rates[name].append(rate)
                print(f"process round {number + 1}: {name}: {rate:,.0f}/s", flush=True)
        clear(client)
        client.delete(STREAM, SHORT, FEW_SKUS)
    for name, mine in rates.items():
        cells = [f"{statistics.median(mine):,.0f}/s ({max(mine):,.0f}/s)"]
        for other in (FLOOR, LOOP, ATOMIC, PLAIN):
            pairs = zip(mine, rates.get(other, []), strict=False)
            # As everywhere: how many times the floor's time.
            ratios = [b / a if other == FLOOR else a / b for a, b in pairs]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        yield (name, *cells)
    if ATOMIC not in names:
        yield (f"{ATOMIC} (not installed: `make peers`)", "", "", "", "", "")


if __name__ == "__main__":
    os.environ["POLARS_MAX_THREADS"] = "2"
    main()
