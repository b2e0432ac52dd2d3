"""No password in what an error shows: its text, and the local variables that a report adds."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest

import redfloe
from redfloe import RedisConnection, RedisConnectionError, ResponseError, read_stream
from support.proxy import Command, ScriptedServer
from support.secrets import PASSWORD, QUOTED, assert_discreet, raises_discreetly, with_password
from support.server import HOST

FRAME = pl.DataFrame({"key": ["a"], "n": [1]})
ME = ("g", "c")
STOCK = ("s", "p", "t")
COLUMNS = {"n": pl.Int64}
LAKE = TemporaryDirectory()
RESET: Any = {"to": "0", "state": "keep"}


def produce(url: Any) -> None:
    with redfloe.StreamProducer(url, "s") as producer:
        producer.send({"n": 1})


async def first_of(url: Any) -> pl.DataFrame:
    return await anext(redfloe.stream_batches(url, "s"))


#: A call of each public function that takes a `url`; `Any`, because some URLs are wrong on purpose.
CALLS: dict[str, Callable[[Any], object]] = {
    "RedisCheckpointStore": lambda url: redfloe.RedisCheckpointStore(url).load("s"),
    "StreamConsumer": lambda url: next(redfloe.StreamConsumer(url, "s", *ME)),
    "StreamProcessor": lambda url: redfloe.StreamProcessor(url, "s", name="n").run(print),
    "StreamProducer": produce,
    "split_stream": lambda url: redfloe.split_stream(url, "s", 2),
    "split_stream_async": lambda url: asyncio.run(redfloe.split_stream_async(url, "s", 2)),
    "stream_offsets": lambda url: redfloe.stream_offsets(url, "s"),
    "stream_offsets_async": lambda url: asyncio.run(redfloe.stream_offsets_async(url, "s")),
    "advance_offsets": lambda url: redfloe.advance_offsets(url, {}, 2, up_to={"s": "2-0"}),
    "advance_offsets_async": lambda url: asyncio.run(
        redfloe.advance_offsets_async(url, {}, 2, up_to={"s": "2-0"})
    ),
    "archive": lambda url: redfloe.archive(url, "s", to=LAKE.name),
    "archive_async": lambda url: asyncio.run(redfloe.archive_async(url, "s", to=LAKE.name)),
    "scan_archive_and_stream": lambda url: redfloe.scan_archive_and_stream(
        url, "s", to=LAKE.name
    ).collect(),
    "ack_entries": lambda url: redfloe.ack_entries(url, "s", "g", ["1-0"]),
    "ack_entries_async": lambda url: asyncio.run(redfloe.ack_entries_async(url, "s", "g", ["1-0"])),
    "claim_entries": lambda url: redfloe.claim_entries(url, "s", *ME, ["1-0"]),
    "create_stream": lambda url: redfloe.create_stream(url, "s"),
    "delete_entries": lambda url: redfloe.delete_entries(url, "s", ["1-0"]),
    "delete_processor": lambda url: redfloe.delete_processor(url, "s", "p"),
    "delete_stream": lambda url: redfloe.delete_stream(url, "s"),
    "claim_entries_async": lambda url: asyncio.run(
        redfloe.claim_entries_async(url, "s", *ME, ["1-0"])
    ),
    "consumer_info_async": lambda url: asyncio.run(redfloe.consumer_info_async(url, "s", "g")),
    "create_group_async": lambda url: asyncio.run(redfloe.create_group_async(url, "s", "g")),
    "create_stream_async": lambda url: asyncio.run(redfloe.create_stream_async(url, "s")),
    "delete_consumer_async": lambda url: asyncio.run(redfloe.delete_consumer_async(url, "s", *ME)),
    "delete_entries_async": lambda url: asyncio.run(
        redfloe.delete_entries_async(url, "s", ["1-0"])
    ),
    "delete_group_async": lambda url: asyncio.run(redfloe.delete_group_async(url, "s", "g")),
    "delete_processor_async": lambda url: asyncio.run(
        redfloe.delete_processor_async(url, "s", "p")
    ),
    "delete_stream_async": lambda url: asyncio.run(redfloe.delete_stream_async(url, "s")),
    "group_info_async": lambda url: asyncio.run(redfloe.group_info_async(url, "s")),
    "list_groups_async": lambda url: asyncio.run(redfloe.list_groups_async(url)),
    "list_streams_async": lambda url: asyncio.run(redfloe.list_streams_async(url)),
    "pending_entries_async": lambda url: asyncio.run(redfloe.pending_entries_async(url, "s", "g")),
    "stream_info_async": lambda url: asyncio.run(redfloe.stream_info_async(url, "s")),
    "trim_stream_async": lambda url: asyncio.run(redfloe.trim_stream_async(url, "s", maxlen=1)),
    "infer_schema_async": lambda url: asyncio.run(redfloe.infer_schema_async(url, "s")),
    "read_stream_async": lambda url: asyncio.run(redfloe.read_stream_async(url, "s")),
    "consumer_info": lambda url: redfloe.consumer_info(url, "s", "g"),
    "create_group": lambda url: redfloe.create_group(url, "s", "g"),
    "delete_consumer": lambda url: redfloe.delete_consumer(url, "s", *ME),
    "delete_group": lambda url: redfloe.delete_group(url, "s", "g"),
    "list_groups": redfloe.list_groups,
    "list_streams": redfloe.list_streams,
    "group_info": lambda url: redfloe.group_info(url, "s"),
    "infer_schema": lambda url: redfloe.infer_schema(url, "s"),
    "iter_stream": lambda url: next(redfloe.iter_stream(url, "s")),
    "pending_entries": lambda url: redfloe.pending_entries(url, "s", "g"),
    "processor_info": redfloe.processor_info,
    "processor_info_async": lambda url: asyncio.run(redfloe.processor_info_async(url)),
    "read_table": lambda url: redfloe.read_table(url, *STOCK, key="k", schema=COLUMNS),
    "read_table_async": lambda url: asyncio.run(
        redfloe.read_table_async(url, *STOCK, key="k", schema=COLUMNS)
    ),
    "reset_processor": lambda url: redfloe.reset_processor(url, "s", "p", **RESET),
    "reset_processor_async": lambda url: asyncio.run(
        redfloe.reset_processor_async(url, "s", "p", **RESET)
    ),
    "scan_table": lambda url: redfloe.scan_table(url, *STOCK, key="k", schema=COLUMNS).collect(),
    "read_dead_letters": lambda url: redfloe.read_dead_letters(url, "s"),
    "read_dead_letters_async": lambda url: asyncio.run(redfloe.read_dead_letters_async(url, "s")),
    "read_stream": lambda url: read_stream(url, "s"),
    "read_streams": redfloe.read_streams,
    "read_streams_async": lambda url: asyncio.run(redfloe.read_streams_async(url)),
    "scan_streams": lambda url: redfloe.scan_streams(url).collect(),
    "replay_dead_letters": lambda url: redfloe.replay_dead_letters(url, "s"),
    "replay_dead_letters_async": lambda url: asyncio.run(
        redfloe.replay_dead_letters_async(url, "s")
    ),
    "scan_stream": lambda url: redfloe.scan_stream(url, "s").collect(),
    "sink_stream": lambda url: redfloe.sink_stream(url, FRAME.lazy(), "s"),
    "stream_batches": lambda url: asyncio.run(first_of(url)),
    "stream_info": lambda url: redfloe.stream_info(url, "s"),
    "stream_reader": lambda url: pl.DataFrame(redfloe.stream_reader(url, "s")),
    "trim_stream": lambda url: redfloe.trim_stream(url, "s", maxlen=1),
    "write_hashes": lambda url: redfloe.write_hashes(url, FRAME, key_column="key"),
    "sink_stream_async": lambda url: asyncio.run(redfloe.sink_stream_async(url, FRAME.lazy(), "s")),
    "write_hashes_async": lambda url: asyncio.run(
        redfloe.write_hashes_async(url, FRAME, key_column="key")
    ),
    "write_stream": lambda url: redfloe.write_stream(url, FRAME, "s"),
    "write_stream_async": lambda url: asyncio.run(redfloe.write_stream_async(url, FRAME, "s")),
}

#: The same with an argument that is refused.
REFUSED: dict[str, Callable[[str], object]] = {
    "StreamConsumer": lambda url: redfloe.StreamConsumer(url, "s", *ME, batch_size=-1),
    "StreamProcessor": lambda url: redfloe.StreamProcessor(url, "s", name="n", lease_ms=-1),
    "StreamProducer": lambda url: redfloe.StreamProducer(url, "s", linger_ms=-1),
    "archive": lambda url: redfloe.archive(url, "s", to=LAKE.name, every="x"),
    "create_group": lambda url: redfloe.create_group(url, "s", "g", start_id="x"),
    "iter_stream": lambda url: redfloe.iter_stream(url, "s", count=-1),
    "pending_entries": lambda url: redfloe.pending_entries(url, "s", "g", count=-1),
    "processor_info": lambda url: redfloe.processor_info(url, "s", pattern="*"),
    "read_stream": lambda url: read_stream(url, "s", count=-1),
    "read_table": lambda url: redfloe.read_table(url, *STOCK, key=[], schema=COLUMNS),
    "reset_processor": lambda url: redfloe.reset_processor(url, "s", "p", **RESET | {"to": "x"}),
    "scan_stream": lambda url: redfloe.scan_stream(url, "s", count=-1),
    "sink_stream": lambda url: redfloe.sink_stream(url, FRAME.lazy(), "s", batch_size=-1),
    "stream_reader": lambda url: redfloe.stream_reader(url, "s", count=-1),
    "trim_stream": lambda url: redfloe.trim_stream(url, "s", maxlen=-1),
    "write_hashes": lambda url: redfloe.write_hashes(url, FRAME, key_column="none"),
    "write_stream": lambda url: redfloe.write_stream(url, FRAME, "s", batch_size=-1),
}


def test_each_function_that_takes_a_url_is_called_here() -> None:
    taking = {
        name
        for name in redfloe.__all__
        if callable(value := getattr(redfloe, name))
        and name != "RedisConnection"  # no frame of Python's
        and not (inspect.isclass(value) and issubclass(value, (Exception, dict)))
        and "url" in inspect.signature(value).parameters
    }
    assert taking == {*CALLS}


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_not_there(name: str) -> None:
    url = RedisConnection(with_password(f"redis://{HOST}:1"), max_retries=0)
    with pytest.raises(Exception, match="refused") as raised:
        CALLS[name](url)
    assert_discreet(raised.value)


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_is_not_there_by_its_url(name: str) -> None:
    """Only the text has the password in a local variable."""
    with ScriptedServer(lambda command: b"-NOPERM no\r\n") as server:
        with pytest.raises(Exception, match="NOPERM") as raised:
            CALLS[name](with_password(server.url))
    assert_discreet(raised.value)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", [str, bytes])
def test_a_url_that_is_refused(name: str, kind: type) -> None:
    url = f"redis://user:123?{PASSWORD}@{HOST}:1"
    with pytest.raises(ValueError if kind is str else TypeError, match=r"URL|url") as raised:
        CALLS[name](url if kind is str else url.encode())
    assert_discreet(raised.value)


@pytest.mark.parametrize("name", REFUSED)
def test_another_argument_that_is_refused(name: str) -> None:
    with pytest.raises((ValueError, TypeError)) as raised:
        REFUSED[name](with_password(f"redis://{HOST}:1"))
    assert_discreet(raised.value)


@pytest.mark.parametrize("query", ["", "?protocol=resp3"])
def test_a_server_that_quotes_the_login(query: str) -> None:
    def answer(command: Command) -> bytes:
        return b"-ERR what is " + b" ".join(command) + b"?\r\n"

    with ScriptedServer(answer) as server:
        with raises_discreetly(redfloe.AuthenticationError) as raised:
            read_stream(with_password(server.url) + query, "s")
    assert "AUTH" in str(raised.value)
    assert "***" in str(raised.value)


def test_a_server_that_quotes_the_password_later() -> None:
    def answer(command: Command) -> bytes:
        return b"+OK\r\n" if command[0] == b"AUTH" else b"-ERR not " + PASSWORD.encode() + b"\r\n"

    with ScriptedServer(answer) as server:
        with raises_discreetly(
            ResponseError,
        ) as raised:
            read_stream(with_password(server.url), "s")
    assert "not ***" in str(raised.value)


def test_a_short_password_leaves_a_server_s_words_readable() -> None:
    def answer(command: Command) -> bytes:
        no = b"-NOPERM User default has no permissions to run the 'xrange' command: 'x'\r\n"
        return b"+OK\r\n" if command[0] == b"AUTH" else no

    with ScriptedServer(answer) as server:
        with pytest.raises(redfloe.RedfloeError, match="the 'xrange' command") as raised:
            read_stream(f"redis://:x@{HOST}:{server.port}", "s")
    assert "command: '***'" in str(raised.value)


@pytest.mark.parametrize("name", ["write_stream", "write_hashes"])
def test_a_row_s_refusal_that_quotes_the_password(name: str) -> None:
    def answer(command: Command) -> bytes:
        match command[0]:
            case b"AUTH":
                return b"+OK\r\n"
            case b"TYPE":
                return b"+none\r\n"
        return b"-ERR not " + PASSWORD.encode() + b"\r\n"

    with ScriptedServer(answer) as server:
        with pytest.raises(redfloe.RedfloeError, match=r"not \*\*\*") as raised:
            CALLS[name](with_password(server.url))
    assert_discreet(raised.value)


def test_a_name_that_is_the_password_is_not_shown() -> None:
    """Some tools take what stands alone before the `@` for the password."""
    url = f"redis://{QUOTED}@{HOST}:1"
    with raises_discreetly(RedisConnectionError):
        read_stream(RedisConnection(url, max_retries=0), "s")
    assert repr(RedisConnection(url)) == f'RedisConnection("redis://***@{HOST}:1")'
