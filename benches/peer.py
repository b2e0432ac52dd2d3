"""What atomic-redis-streams takes for some entries; run by an interpreter that has it.

``python benches/peer.py URL STREAM ENTRIES`` prints the entries and the seconds. It is GPL-3.0: it
is used here as its README shows, in an environment of its own, and nothing of redfloe needs it.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from atomic_redis_streams import (  # type: ignore[import-not-found]  # in its own environment only
    Persistable,
    PersistableAttribute,
    RedisStreamConsumer,
)


class Inventory(Persistable):  # type: ignore[misc]  # of a class that mypy does not see
    """One number of state, and an output for each entry: the last example of its README."""

    stock = PersistableAttribute(default=0)

    def __init__(self, entries: int) -> None:
        super().__init__()
        self._left = entries
        self.is_done = threading.Event()

    @property
    def unique_id(self) -> str:
        return "inventory"

    def handle(self, message: dict[str, Any], transaction: Any) -> None:
        self.stock -= int(message["quantity"])
        transaction.publish("peer:out", {"sku": message["sku"], "left": str(self.stock)})
        self._left -= 1
        if self._left == 0:
            self.is_done.set()


def main() -> None:
    """Process the first entries of a stream."""
    url, stream, entries = sys.argv[1:]
    handler = Inventory(int(entries))
    consumer = RedisStreamConsumer(
        stream=stream, consumer_id="bench", handler=handler, redis_url=url
    )
    started = time.perf_counter()
    consumer.start()
    assert handler.is_done.wait(600), "it stopped"
    print(entries, time.perf_counter() - started)
    consumer.stop()


if __name__ == "__main__":
    main()
