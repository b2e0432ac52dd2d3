"""What the page on security says of permissions: each function needs exactly what its row names."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
import redis

import redfloe
from redfloe.messages import App, Message
from support.server import HOST, Server

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "security.md"
N = {"n": pl.Int64}
FRAME = pl.DataFrame({"key": ["a", "b"], "n": [1, 2]})
ENTRIES = 700  # more than the first page has, so that a read asks where the stream ends
SHARDED = 2 * ENTRIES + 100  # of two shards, each with more than the first page has
ME = ("billing", "worker-1")
#: What the server says; where a script lacks a permission Redis 7.0 has the second.
NO_PERMISSION = "NOPERM|ACL failure in script|WRONGTYPE"
#: The last where nobody may ask whether the hash is a sharded stream's.
REFUSED = (redfloe.AuthenticationError, pl.exceptions.ComputeError, redfloe.WrongTypeError)


def consume(url: str, *, nack: bool = False, fail: bool = False, **options: Any) -> None:
    worker = redfloe.StreamConsumer(
        url, "events", *ME, schema=N, on_idle="stop", block_ms=10, batch_size=1000, **options
    )
    with worker as batches:
        for batch in batches:
            if fail:
                batch.fail(batch.ids[:1], "no")
            elif nack and 1 in batch.delivery_counts:
                batch.nack(delay_ms=0)


def process(url: str, **options: Any) -> None:
    def handle(tx: redfloe.Transaction) -> None:
        tx.publish("alerts", tx.frame.select("n"))
        if not options:
            table = tx.table("t", key="n", schema={"m": pl.Int64})
            table.lookup([1])
            table.upsert(tx.frame.select("n", m="n"))

    redfloe.StreamProcessor(
        url, "events", name="p", schema=N, on_idle="stop", block_ms=10, **options
    ).run(handle)


def produce(url: str) -> None:
    with redfloe.StreamProducer(url, "events") as producer:
        producer.send({"n": 1}).result()


def checkpoint(url: str) -> None:
    store = redfloe.RedisCheckpointStore(url)
    store.save("events", "1-0")
    assert store.load("events") == "1-0"


def follow(url: str, **options: Any) -> None:
    batches = redfloe.iter_stream(
        url, "events", N, on_idle="stop", block_ms=10, batch_size=1000, **options
    )
    assert sum(batch.height for batch in batches) in {0, ENTRIES}


def archive(url: str, **options: Any) -> None:
    shutil.rmtree("lake", ignore_errors=True)
    redfloe.archive(url, "events", N, to="lake", until="now", block_ms=10, **options)


def run_app(url: str) -> None:
    app = App(url, group="billing", consumer="worker-1")

    @app.on("events", types=None)
    def handle(message: Message) -> None: ...

    app.drain()


async def first_batch(url: str) -> None:
    async with redfloe.stream_batches(url, "events", N, start_id="-") as batches:
        await anext(batches)


def process_shards(url: str) -> None:
    def handle(tx: redfloe.Transaction) -> None:
        tx.publish("seen", tx.frame.select("n"), shard_by="n")
        tx.table("t", key="n", schema={"m": pl.Int64}).upsert(tx.frame.select("n", m="n"))
        tx.window("w", every="1h", by="n", aggs={"m": pl.len()}, lateness=None)

    redfloe.StreamProcessor(
        url, "hits", name="p", schema=N, on_idle="stop", block_ms=10, batch_size=700
    ).run(handle)


def consume_shards(url: str) -> None:
    with redfloe.StreamConsumer(url, "hits", *ME, on_idle="stop", block_ms=10) as worker:
        assert sum(len(batch) for batch in worker) == SHARDED


def write_with_ids(url: str) -> object:
    frame = pl.DataFrame({"id": ["9999-0"], "n": [1]})
    return redfloe.write_stream(url, frame, "events", id_column="id")


#: By the first cell of a row: what is called with the row's permissions.
CALLS: dict[str, Callable[[str], object]] = {
    "`read_stream`": lambda url: redfloe.read_stream(url, "events", N),
    "`read_stream(last=...)`, `infer_schema`": lambda url: redfloe.infer_schema(url, "events"),
    "`scan_stream`, `stream_reader`": lambda url: redfloe.scan_stream(url, "events", N).collect(),
    "`read_streams`, `scan_streams` by a pattern": lambda url: redfloe.read_streams(
        url, pattern="events", schema=N
    ),
    '`iter_stream`, `stream_batches` from `"-"` or an ID': lambda url: asyncio.run(
        first_batch(url)
    ),
    '`iter_stream`, `stream_batches` from `"$"`': lambda url: follow(url, start_id="$"),
    "`split_stream`": lambda url: redfloe.split_stream(url, "events", 2),
    "`stream_offsets`": lambda url: redfloe.stream_offsets(url, "events"),
    "`advance_offsets`": lambda url: redfloe.advance_offsets(
        url, {"events": "1-0"}, 2, up_to={"events": "9-0"}
    ),
    "`read_stream(group=...)`": lambda url: redfloe.read_stream(
        url, "events", N, group=ME[0], consumer=ME[1], count=10
    ),
    "`read_stream(group=..., auto_ack=True)`": lambda url: redfloe.read_stream(
        url, "events", N, group=ME[0], consumer=ME[1], count=10, auto_ack=True
    ),
    "`iter_stream(group=..., auto_ack=True)`": lambda url: follow(
        url, group=ME[0], consumer=ME[1], auto_ack=True
    ),
    "`ack_entries`": lambda url: redfloe.ack_entries(url, "events", "billing", ["1-0"]),
    "`claim_entries`": lambda url: redfloe.claim_entries(url, "events", *ME, ["1-0"]),
    "`StreamConsumer`": consume,
    "… with `reclaim_min_idle_ms=None`": lambda url: consume(url, reclaim_min_idle_ms=None),
    "… that calls `batch.nack`": lambda url: consume(url, nack=True),
    "… with a `dead_letter` stream": lambda url: consume(url, fail=True, dead_letter="events:dead"),
    '… with `remove_consumer="on_close"`': lambda url: consume(url, remove_consumer="on_close"),
    "`RedisCheckpointStore`": checkpoint,
    "an `App` of messages": run_app,
    "`write_stream`, `sink_stream`": lambda url: redfloe.write_stream(url, FRAME, "events"),
    "`write_stream(id_column=...)`": write_with_ids,
    "`write_stream(atomic=True)`": lambda url: redfloe.write_stream(
        url, FRAME, "events", atomic=True
    ),
    "`StreamProducer`, a `Producer` of messages": produce,
    "`write_hashes`": lambda url: redfloe.write_hashes(
        url, FRAME, key_column="key", key_prefix="user:"
    ),
    "`StreamProcessor`": process,
    "… with a `group`": lambda url: process(url, group=ME[0], consumer=ME[1]),
    "`read_table`, `scan_table`": lambda url: redfloe.read_table(
        url, "events", "p", "t", key="n", schema={"m": pl.Int64}
    ),
    "`read_stream` of one": lambda url: redfloe.read_stream(url, "hits", N),
    "`write_stream` to one": lambda url: redfloe.write_stream(url, FRAME, "hits"),
    "`write_stream(shards=...)`, which creates it": lambda url: redfloe.write_stream(
        url, FRAME, "new", shards=2, shard_by="n"
    ),
    "`StreamConsumer` of one": consume_shards,
    "`StreamProcessor` of one": process_shards,
    "`create_stream(shards=...)`": lambda url: redfloe.create_stream(
        url, "new", shards=2, shard_by="n"
    ),
    "`create_group` of one": lambda url: redfloe.create_group(url, "hits", "audit"),
    "`delete_group` of one": lambda url: redfloe.delete_group(url, "hits", "billing"),
    "`delete_stream` of one": lambda url: redfloe.delete_stream(url, "hits"),
    "`trim_stream(minid=...)` of one": lambda url: redfloe.trim_stream(
        url, "hits", minid="9999999999999", approximate=False
    ),
    "`processor_info`": lambda url: redfloe.processor_info(url, "events"),
    "`reset_processor`": lambda url: redfloe.reset_processor(
        url, "events", "p", to="0", state="keep"
    ),
    "`delete_processor`": lambda url: redfloe.delete_processor(url, "events", "p"),
    '`archive(until="now")`': archive,
    '`archive(until="now", trim_after=...)`': lambda url: archive(url, trim_after="1d"),
    "`scan_archive_and_stream`": lambda url: redfloe.scan_archive_and_stream(
        url, "events", to="lake"
    ).collect(),
    "`read_dead_letters`": lambda url: redfloe.read_dead_letters(url, "events:dead", N),
    "`replay_dead_letters`": lambda url: redfloe.replay_dead_letters(url, "events:dead"),
    "`stream_info`": lambda url: redfloe.stream_info(url, "events"),
    "`group_info`": lambda url: redfloe.group_info(url, "events"),
    "`consumer_info`": lambda url: redfloe.consumer_info(url, "events", "billing"),
    "`pending_entries`": lambda url: redfloe.pending_entries(url, "events", "billing"),
    "`list_streams`": lambda url: redfloe.list_streams(url, "events"),
    "`list_groups`": lambda url: redfloe.list_groups(url, "events"),
    "`create_stream`": lambda url: redfloe.create_stream(url, "new"),
    "`create_group`": lambda url: redfloe.create_group(url, "events", "audit"),
    "`delete_group`": lambda url: redfloe.delete_group(url, "events", "billing"),
    "`delete_consumer`": lambda url: redfloe.delete_consumer(url, "events", *ME),
    "`delete_entries`": lambda url: redfloe.delete_entries(url, "events", ["1-0"]),
    "`delete_stream`": lambda url: redfloe.delete_stream(url, "events"),
    "`trim_stream`": lambda url: redfloe.trim_stream(url, "events", maxlen=1),
}


class Row(NamedTuple):
    """What a row says."""

    needs: list[str]
    also: list[str]
    keys: list[str]


def rows() -> dict[str, Row]:
    """The rows of the page's tables with these columns."""
    found: dict[str, Row] = {}
    page = re.sub("</?code>", "`", PAGE.read_text())
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`"):
            names = [re.findall(r"`([^`]+)`", cell.replace("&#124;", "|")) for cell in cells[1:]]
            found[cells[0]] = Row(*names)
    return found


ROWS = rows()


@pytest.fixture(scope="module")
def filled() -> Iterator[Server]:
    """A server with the dumps of what the calls read."""
    with Server("redis-8.10") as server:
        yield server


class Users:
    """Makes users, and data for each call of theirs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client: redis.Redis = server.client(decode_responses=True)
        self.numbers = count()
        self._fill()
        self.dump = server.client().dump("events") or b""

    def _fill(self) -> None:
        self.client.flushall()
        with self.client.pipeline() as pipeline:
            for n in range(1, ENTRIES + 1):
                pipeline.xadd("events", {"n": n}, id=f"{n}-0")
            pipeline.execute()
        self.client.xgroup_create("events", "billing", id="0")

    def prepare(self, row: str) -> None:
        """Lay the data anew; no script is known."""
        self.client.flushall()
        self.client.restore("events", 0, self.dump)
        if "one" in row.split():
            frame = pl.DataFrame({"n": range(SHARDED)})
            redfloe.write_stream(self.server.url, frame, "hits", shards=2, shard_by="n")
            for shard in redfloe.stream_offsets(self.server.url, "hits"):
                self.client.xgroup_create(shard, "billing", id="0")
        if "dead_letters" in row:
            consume(self.server.url, fail=True, dead_letter="events:dead")
        if "claim" in row or "ack_entries" in row:
            self.client.xreadgroup(*ME, {"events": ">"}, count=1)
        if "_processor`" in row or "processor_info" in row or "table`" in row:
            process(self.server.url)
        if "scan_archive" in row:
            archive(self.server.url)
            self.client.xadd("events", {"n": 1})
        self.client.script_flush()

    def url(self, commands: list[str], keys: list[str]) -> str:
        """Make a user who may do that and nothing else."""
        name = f"user-{next(self.numbers)}"
        self.client.execute_command(
            *("ACL", "SETUSER", name, "reset", "on", ">secret", "-@all"),
            *(f"+{command}" for command in commands),
            *(f"~{key}" for key in keys),
        )
        return f"redis://{name}:secret@{HOST}:{self.server.port}"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # an archive is written there


@pytest.fixture(scope="module")
def users(filled: Server) -> Users:
    return Users(filled)


def test_each_row_is_tested() -> None:
    assert set(ROWS) == set(CALLS)


def test_each_function_has_a_row() -> None:
    named = set(re.findall(r"`(\w+)", " ".join(ROWS)))
    takes_url = {
        name.removesuffix("_async")
        for name in redfloe.__all__
        if callable(value := getattr(redfloe, name))
        and not isinstance(value, type)
        and name not in {"local_server", "table_key"}
    }
    assert takes_url <= named


READING = PAGE.read_text().partition("### Reading")[2].partition("### ")[0]


@pytest.mark.parametrize("row", [row for row in CALLS if f"| {row} |" in READING])
def test_functions_that_read_need_keys_for_reading_only(row: str, users: Users) -> None:
    users.prepare(row)
    needs, _, keys = ROWS[row]
    name = users.url(needs, []).partition("//")[2].partition(":")[0]
    users.client.execute_command("ACL", "SETUSER", name, *(f"%R~{key}" for key in keys))
    CALLS[row](f"redis://{name}:secret@{HOST}:{users.server.port}")


@pytest.mark.parametrize("row", CALLS)
def test_a_function_needs_what_its_row_says(row: str, users: Users) -> None:
    call, (needs, also, keys) = CALLS[row], ROWS[row]
    users.prepare(row)
    call(users.url(needs, keys))

    users.prepare(row)
    users.client.config_resetstat()
    call(users.url([*needs, *also], keys))
    sent = {name.removeprefix("cmdstat_") for name in users.client.info("commandstats")}
    own = {"auth", "info", "config|resetstat", "acl|setuser"}
    assert {name.partition("|")[0] for name in sent - own} <= {
        name.partition("|")[0] for name in (*needs, *also)
    }

    for left_out in needs:
        users.prepare(row)
        with pytest.raises(REFUSED, match=NO_PERMISSION):
            call(users.url([name for name in needs if name != left_out], keys))
    for left_out in keys:
        users.prepare(row)
        with pytest.raises(REFUSED, match=NO_PERMISSION):
            call(users.url([*needs, *also], [key for key in keys if key != left_out]))
