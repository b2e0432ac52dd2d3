"""The user's own document: its snippets run as they are, after another import.

`data/002-polars-redis-streams.md` is the document that redfloe was asked for with. It describes
another package's functions, which redfloe takes over.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import redis

from support.server import Server
from support.streams import add
from support.timing import eventually, later, meanwhile

DOCUMENT = Path(__file__).parent / "data" / "002-polars-redis-streams.md"
FIRST = 1704067200000
READ = {"_id": pl.String, "_ts": pl.Int64, "user_id": pl.String, "action": pl.String}


class Snippet(NamedTuple):
    """A block of Python, and the heading above it."""

    heading: str
    line: int
    code: str


def snippets() -> list[Snippet]:
    text = DOCUMENT.read_text()
    found = []
    for block in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        headings = re.findall(r"^#+ (.*)$", text[: block.start()], re.MULTILINE)
        line = text.count("\n", 0, block.start(1))
        found.append(Snippet(headings[-1], line, block[1]))
    return found


SNIPPETS = {snippet.heading: snippet for snippet in snippets()}


class Run:
    """The names that snippets use, and what they did with them."""

    def __init__(self, server: Server, client: redis.Redis) -> None:
        self._server = server
        self._client = client
        self._next = FIRST + 100
        self.frames: list[pl.DataFrame] = []

    def write(self) -> None:
        """Add an entry, as somebody does while a snippet waits."""
        fields: dict[Any, Any] = {"user_id": "user_new", "action": "click", "value": 500}
        self._client.xadd("events", fields, id=f"{self._next}-0")
        self._next += 1

    def measure(self) -> None:
        """Add a sensor's value, as somebody does while a snippet waits."""
        fields: dict[Any, Any] = {"sensor_id": "north", "value": 1.5}
        self._client.xadd("metrics", fields)

    def process(self, frame: pl.DataFrame) -> None:
        self.frames.append(frame)

    def process_batch(self, frame: pl.DataFrame) -> None:
        """Stop an endless loop after its second batch, as its caller may."""
        self.frames.append(frame)
        if len(self.frames) == 2:
            raise StopIteration

    def sensor(self) -> Any:
        """Give the aggregates of the sensor."""
        return self._client.hgetall("sensor:stats:north")

    def stop_when_stored(self) -> None:
        """Stop an endless loop, as a user does with Ctrl-C, once it has stored something."""
        eventually(lambda: bool(self.sensor()))
        signal.raise_signal(signal.SIGINT)

    def pending(self) -> int:
        """Count what the group of the document has not acknowledged."""
        pending: Any = self._client.xpending("events", "analytics")
        return int(pending["pending"])

    async def process_async(self, frame: pl.DataFrame) -> None:
        self.frames.append(frame)

    def names(self) -> dict[str, Any]:
        """Give what the document takes for granted."""
        turns = iter([False, False, True])

        def log_error(error: Exception) -> None:
            raise error

        return {
            "__name__": "__main__",
            "pl": pl,
            "redis": __import__("redfloe"),
            "url": self._server.url,
            "process": self.process,
            "process_batch": self.process_batch,
            "process_async": self.process_async,
            "log_error": log_error,
            "should_stop": lambda: next(turns),
        }

    def run(self, snippet: Snippet) -> dict[str, Any]:
        code = snippet.code.replace("import polars_redis as redis", "import redfloe as redis")
        code = code.replace('"redis://localhost"', repr(self._server.url))
        names = self.names()
        # Empty lines before it, so that a traceback names the document's line.
        with suppress(StopIteration):
            exec(compile("\n" * snippet.line + code, str(DOCUMENT), "exec"), names)
        return names


@pytest.fixture
def run(server: Server, client: redis.Redis) -> Run:
    actions = ("click", "view", "purchase", "leave")
    entries: Iterator[tuple[str, dict[str, Any]]] = (
        (
            f"{FIRST + number}-0",
            {
                "user_id": f"user_{number + 1}",
                "action": actions[number % 4],
                "value": 10 * (number + 1),
            },
        )
        for number in range(100)
    )
    add(client, "events", entries)
    return Run(server, client)


Check = Callable[[Run, dict[str, Any]], None]


def reads_stream_entries(run: Run, names: dict[str, Any]) -> None:
    df = names["df"]
    assert df.shape == (100, 5)  # as the document shows
    assert df.schema == READ | {"value": pl.Int64}
    assert df["_id"].to_list()[:2] == ["1704067200000-0", "1704067200001-0"]
    assert df["user_id"].to_list()[:2] == ["user_1", "user_2"]
    assert df["value"].to_list()[:2] == [10, 20]


def parses_entry_ids(run: Run, names: dict[str, Any]) -> None:
    df = names["df"]
    assert df.columns == ["_id", "_ts", "_seq", "user_id", "action", "value"]
    assert df.row(0)[:3] == ("1704067200000-0", FIRST, 0)


def reads_with_a_limit(run: Run, names: dict[str, Any]) -> None:
    assert names["df"].height == 100


def reads_a_range(run: Run, names: dict[str, Any]) -> None:
    df = names["df"]
    assert df.height == 100
    assert df["_ts"].is_sorted()


def reads_blocking(run: Run, names: dict[str, Any]) -> None:
    df = names["df"]
    assert df.height >= 1
    assert df["user_id"].unique().to_list() == ["user_new"]


def iterates(run: Run, names: dict[str, Any]) -> None:
    assert names["batch_df"]["user_id"].unique().to_list() == ["user_new"]
    assert names["summary"].columns == ["action", "len"]


def iterates_asynchronously(run: Run, names: dict[str, Any]) -> None:
    assert len(run.frames) == 3
    ids = pl.concat(run.frames)["_ts"].to_list()
    # Every one that was added since the first, in order.
    assert ids == list(range(ids[0], ids[0] + len(ids)))


def scans(run: Run, names: dict[str, Any]) -> None:
    assert isinstance(names["lf"], pl.LazyFrame)
    means = dict(names["result"].iter_rows())
    assert means == {
        "click": pytest.approx(sum(range(130, 1000, 40)) / 22),
        "view": pytest.approx(sum(range(140, 1000, 40)) / 22),
        "purchase": pytest.approx(sum(range(110, 1000, 40)) / 23),
        "leave": pytest.approx(sum(range(120, 1001, 40)) / 23),
    }


def reads_as_a_group(run: Run, names: dict[str, Any]) -> None:
    assert names["df"].height == 100
    assert run.pending() == 0  # auto_ack=True


def acknowledges(run: Run, names: dict[str, Any]) -> None:
    assert [frame.height for frame in run.frames] == [100]
    assert len(names["entry_ids"]) == 100
    assert run.pending() == 0


def shares(run: Run, names: dict[str, Any]) -> None:
    # "Each worker receives different entries": here the first takes all of the 100 that there are.
    assert names["df1"].height == 100
    assert names["df2"].is_empty()
    assert run.pending() == 0


def iterates_as_a_group(run: Run, names: dict[str, Any]) -> None:
    assert [frame.height for frame in run.frames] == [100, 1]
    # The batch before the one in hand is acknowledged.
    assert run.pending() == 1


def stores_aggregates(run: Run, names: dict[str, Any]) -> None:
    assert run.sensor() == {b"avg": b"1.5", b"max": b"1.5", b"count": b"1"}


CHECKS: dict[str, Check] = {
    "Reading Stream Entries": reads_stream_entries,
    "Entry ID Parsing": parses_entry_ids,
    "Reading with Count Limit": reads_with_a_limit,
    "Reading an ID Range": reads_a_range,
    "Blocking Reads": reads_blocking,
    "Synchronous Iterator": iterates,
    "Async Iterator": iterates_asynchronously,
    "Lazy Scanning": scans,
    "Basic Consumer Group Usage": reads_as_a_group,
    "Manual Acknowledgment": acknowledges,
    "Multiple Consumers": shares,
    "With Consumer Group": iterates_as_a_group,
    "Real-Time Analytics Example": stores_aggregates,
}


def test_no_snippet_is_left_out() -> None:
    assert len(SNIPPETS) == len(snippets())  # no heading has two
    assert CHECKS.keys() == SNIPPETS.keys()


@pytest.mark.parametrize("heading", CHECKS)
def test_a_snippet_runs(run: Run, heading: str) -> None:
    code = SNIPPETS[heading].code
    waits = "block_ms" in code or "timeout_ms" in code
    if heading == "With Consumer Group":
        with later(0.3, run.write):
            names = run.run(SNIPPETS[heading])
    elif heading == "Real-Time Analytics Example":
        run.measure()
        with later(0, run.stop_when_stored), pytest.raises(KeyboardInterrupt):
            run.run(SNIPPETS[heading])
        names = {}
    else:
        with meanwhile(run.write) if waits else nullcontext():
            names = run.run(SNIPPETS[heading])
    CHECKS[heading](run, names)
