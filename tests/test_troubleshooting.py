"""Each error text on the page "Troubleshooting" is what a user in that situation gets."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import RedisConnection, StreamConsumer, StreamProcessor
from support.proxy import ScriptedServer
from support.server import HOST, Server

PAGE = Path(__file__).parents[1] / "docs" / "guide" / "troubleshooting.md"
N = {"n": pl.Int64}
FRAME = pl.DataFrame({"n": [1, 2]})
SHORT: Any = {"on_idle": "stop", "block_ms": 10}


class Case:
    """A server with the stream `events`, and ways to get into trouble."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.client: redis.Redis = server.client(decode_responses=True)
        self.client.flushall()
        for n in (1, 2):
            self.client.xadd("events", {"n": n}, id=f"{n}-0")
        self.client.xgroup_create("events", "g", id="0")
        self.client.acl_setuser(
            "clerk", enabled=True, passwords=["+right"], keys=["events"], commands=["+xrange"]
        )

    def at(self, url: str = "", **options: Any) -> RedisConnection:
        """The server, or another, without patience."""
        patience = {"max_retries": 0, "connect_timeout": 0.3}
        return RedisConnection(url or self.url, **patience | options)

    def clerk(self, password: str = "right") -> RedisConnection:
        return self.at(username="clerk", password=password)

    def silent(self) -> RedisConnection:
        self.client.client_pause(400)
        return self.at(response_timeout=0.1)


def read(url: Any, stream: str = "events", schema: Any = N, **options: Any) -> object:
    return redfloe.read_stream(url, stream, schema, **options)


def answer_as_a_web_server(case: Case) -> object:
    with ScriptedServer(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as web:
        return read(case.at(f"redis://{HOST}:{web.port}"))


def lose_the_answer(case: Case) -> object:
    with ScriptedServer(lambda sent: None if sent[0] == b"XADD" else b"+none\r\n") as server:
        url = case.at(f"redis://{HOST}:{server.port}", response_timeout=0.1)
        return redfloe.write_stream(url, FRAME, "events")


def follow_what_is_deleted(case: Case) -> object:
    batches = redfloe.iter_stream(case.url, "events", N, start_id="-", block_ms=10)
    next(batches)
    case.client.delete("events")
    case.client.xadd("events", {"n": 1}, id="0-1")
    return next(batches)


def go_on_after_a_trim(case: Case) -> None:
    store = redfloe.MemoryCheckpointStore()
    store.save("events", "0-5")
    case.client.xtrim("events", maxlen=1, approximate=False)
    StreamConsumer(case.url, "events", checkpoint_store=store, **SHORT).run(print)


def go_on_after_junk(case: Case) -> None:
    store = redfloe.MemoryCheckpointStore()
    store.save("events", "junk")
    StreamConsumer(case.url, "events", checkpoint_store=store, **SHORT).run(print)


def run_async_handler(case: Case) -> None:
    async def handle(batch: object) -> None: ...

    StreamConsumer(case.url, "events", "g", "c", **SHORT).run(handle)


def delete_a_consumer(case: Case) -> None:
    case.client.xreadgroup("g", "c", {"events": ">"}, count=1)
    redfloe.delete_consumer(case.url, "events", "g", "c")


def write_without_memory(case: Case) -> object:
    case.client.config_set("maxmemory", "1")
    try:
        return redfloe.write_stream(case.at(), FRAME, "events")
    finally:
        case.client.config_set("maxmemory", "0")


def processor(case: Case, **options: Any) -> StreamProcessor:
    return StreamProcessor(case.url, "events", name="p", schema=N, batch_size=1, **options, **SHORT)


def delete_one_that_runs(case: Case) -> None:
    with processor(case) as running:
        for _ in running:
            redfloe.delete_processor(case.url, "events", "p")


def be_taken_over(case: Case) -> None:
    with processor(case) as running:
        for _ in running:
            processor(case, takeover=True).run(lambda tx: None)


def free_port() -> int:
    with socket.socket() as found:
        found.bind((HOST, 0))
        port: int = found.getsockname()[1]
        return port


def compare_with_a_datetime(case: Case) -> object:
    after = pl.col("_ts") > datetime(2024, 1, 1)  # noqa: DTZ001  # as users write it
    return redfloe.scan_stream(case.url, "events", N).filter(after).collect()


def with_id(*ids: str) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "n": range(len(ids))})


def write_ids(case: Case, *ids: str) -> object:
    return redfloe.write_stream(case.url, with_id(*ids), "events", id_column="id")


def read_field(case: Case, name: str, value: str, schema: Any, **options: Any) -> object:
    case.client.xadd("odd", {name: value})
    return read(case.url, "odd", schema, **options)


#: How to get the error of a row, by its text.
PROVOKED: dict[str, Callable[[Case], object]] = {
    "the server cannot be reached: Connection refused": lambda case: read(
        case.at(f"redis://{HOST}:{free_port()}")
    ),
    "failed to lookup address information": lambda case: read(
        case.at("redis://no-such-host.invalid")
    ),
    "no connection within": lambda case: read(case.at(case.url.replace("redis", "rediss", 1))),
    "the URL is malformed; it begins with redis://": lambda _: read("localhost:6379"),
    "characters such as / ? # @ in a password are percent-encoded": lambda _: read(
        "redis://user:p@ss/word@host"
    ),
    "WRONGPASS invalid username-password pair": lambda case: read(case.clerk("wrong")),
    "NOPERM User": lambda case: redfloe.stream_info(case.clerk(), "events"),
    "NOPERM No permissions to access a key": lambda case: read(case.clerk(), "payroll"),
    "the server did not answer within": lambda case: read(case.silent()),
    "is this a Redis server?": answer_as_a_web_server,
    "the stream does not exist, and must_exist=True says that it must": lambda case: read(
        case.url, "evnets", must_exist=True
    ),
    "WRONGTYPE Operation against a key": lambda case: (
        case.client.set("text", "x"),
        read(case.url, "text"),
    ),
    'is not an integer; pass on_error="null"': lambda case: read_field(case, "n", "two", N),
    "has the name of a metadata column": lambda case: read_field(case, "_id", "7", None),
    "would be a column beyond max_columns": lambda case: read_field(
        case, "n", "7", None, max_columns=0
    ),
    "has no text form; read it as pl.String and convert it": lambda case: read(
        case.url, schema={"n": pl.Object}
    ),
    "Polars compares it with an integer in microseconds": compare_with_a_datetime,
    "the stream was deleted and created again, or the server lost its end": follow_what_is_deleted,
    "NOGROUP No such key": lambda case: read(
        case.url, group="none", consumer="c", create_group=False
    ),
    "was trimmed past": go_on_after_a_trim,
    "no entry ID": go_on_after_junk,
    'with a group end_id must be "+"': lambda case: StreamConsumer(
        case.url, "events", "g", "c", end_id="5-0"
    ),
    "run does not await its handler": run_async_handler,
    "would never be delivered again": delete_a_consumer,
    "does not come after": lambda case: write_ids(case, "1-0"),
    "sort the rows by it": lambda case: write_ids(case, "9-0", "8-0"),
    'would not be written: pass timestamp_column="_ts"': lambda case: redfloe.write_stream(
        case.url, pl.DataFrame({"_ts": [1], "n": [1]}), "events"
    ),
    "OOM command not allowed": write_without_memory,
    "nobody knows whether": lose_the_answer,
    "the processor is running": delete_one_that_runs,
    "there is no processor of that name on the stream": lambda case: redfloe.reset_processor(
        case.url, "events", "none", to="0", state="keep"
    ),
    "with a group there is no state": lambda case: processor(case, group="g", consumer="c").run(
        lambda tx: tx.state.get("total")
    ),
    "has acquired the lane of this processor": be_taken_over,
}


def rows() -> Iterator[str]:
    """The texts of the page's errors."""
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]:
        if "| error |" in section:
            yield from re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE)


def test_each_text_is_tested() -> None:
    assert list(rows()) == list(PROVOKED)


@pytest.mark.parametrize("text", PROVOKED)
def test_a_text_is_what_the_error_says(text: str, redis810: Server) -> None:
    case = Case(redis810)
    try:
        with pytest.raises(Exception, match=re.escape(text)):
            PROVOKED[text](case)
    finally:
        case.client.acl_deluser("clerk")
