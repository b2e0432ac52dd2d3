"""What following many streams costs the server, one of which has entries all the time.

``python benches/hot.py PORT STREAMS [GROUP]`` follows that many streams until the hot one has its
last entry, perhaps through a consumer group; the rest is for `compare.py`, section ``hot``.
``PYTHONPATH=tests python benches/hot.py`` is one round of it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import latency
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from support.server import Server

STREAMS = 10_000
SECONDS = 8
ENTRIES = SECONDS * latency.PER_SECOND
#: How many streams a contender follows, through which group, and with whom it is compared. No
#: stream measures what the entries themselves cost.
CONTENDERS = {
    "nobody follows": (0, "", "the hot stream alone"),
    "the hot stream alone": (1, "", "the hot stream alone"),
    f"{STREAMS:,} streams": (STREAMS, "", "the hot stream alone"),
    "by a group, the hot stream alone": (1, "g", "by a group, the hot stream alone"),
    f"by a group, {STREAMS:,} streams": (STREAMS, "g", "by a group, the hot stream alone"),
}


def follow(port: int, streams: int, group: str) -> None:
    """Follow as many streams, the hot one among them."""
    import redfloe

    keys = [f"quiet:{number:05}" for number in range(streams - 1)] + ["hot"]
    options: dict[str, Any] = {"start_id": "-"}
    if group:
        options = {"group": group, "consumer": "c", "create_group": True}
    came = 0
    url = f"redis://localhost:{port}"
    for frame in redfloe.iter_stream(url, keys, {"n": pl.Int64}, **options):
        came += frame.filter(pl.col("_stream") == "hot").height
        if came == ENTRIES:
            break


@contextmanager
def following(server: Server, streams: int, group: str) -> Iterator[Callable[[], object]]:
    """Give what waits for the end, once the follower waits for entries."""
    if not streams:
        yield lambda: None
        return
    command = [sys.executable, __file__, str(server.port), str(streams), group]
    with subprocess.Popen(command) as process, server.client() as client:
        while not client.info("clients")["blocked_clients"]:
            assert process.poll() is None, "the follower has ended"
            time.sleep(0.1)
        yield process.wait


def used(client: redis.Redis) -> float:
    """Give the seconds that the server has worked."""
    info = client.info("cpu")
    return float(info["used_cpu_user"] + info["used_cpu_sys"])


def measure(server: Server, streams: int, group: str) -> float:
    """Give the seconds that the server works while entries are added to the hot stream."""
    with server.client() as client:
        client.flushall()
        with following(server, streams, group) as wait:
            before, due = used(client), time.monotonic()
            for number in range(ENTRIES):
                client.xadd("hot", {"n": number})
                due += 1 / latency.PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
            wait()
            return used(client) - before


def rows(server: Server, rounds: int) -> list[tuple[str, ...]]:
    """Let the contenders take turns."""
    spent: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name, (streams, group, _) in CONTENDERS.items():
            spent[name].append(measure(server, streams, group))
            print(f"hot round {number + 1}: {name}: {spent[name][-1]:.3f} s")
    nobody = spent["nobody follows"]
    lines: list[tuple[str, ...]] = []
    for name, mine in spent.items():
        alone = spent[CONTENDERS[name][2]]
        ratio = statistics.median(one / other for one, other in zip(mine, alone, strict=True))
        pairs = zip(mine, alone, nobody, strict=True)
        net = statistics.median((one - none) / (other - none) for one, other, none in pairs)
        cells = f"{1000 * statistics.median(mine) / SECONDS:.0f} ms", f"{ratio:.2f}", f"{net:.2f}"
        lines.append((name, *cells))
    return lines


def main() -> None:
    """Follow, or measure once."""
    if len(sys.argv) > 1:
        port, streams, *group = sys.argv[1:]
        follow(int(port), int(streams), *group or [""])
        return
    from support.server import Server

    with Server("redis-7.0") as server:
        for line in rows(server, 1):
            print(*line, sep=" | ")


if __name__ == "__main__":
    main()
