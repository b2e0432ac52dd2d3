"""Archives in an object store: puts instead of renames, and claims instead of a lock."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import obstore
import polars as pl
import pytest
import redis

import redfloe
from redfloe import FencedError, scan_archive_and_stream
from redfloe._lake.bucket import Bucket
from support.archives import NOW
from support.buckets import BUCKET, bucket
from support.processes import python
from support.server import Server
from support.streams import NUMBER, add_numbers
from support.timing import SLACK


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, str]]:
    with bucket() as options:
        yield options


@pytest.fixture
def to() -> str:
    """A prefix of the test's own."""
    return f"s3://{BUCKET}/{uuid4().hex} lake"


def archive(url: Any, to: str, options: dict[str, str], stream: Any = "s", **others: Any) -> Any:
    return redfloe.archive(url, stream, NUMBER, to=to, storage_options=options, **(NOW | others))


def names(to: str, options: dict[str, str]) -> list[str]:
    return sorted(Bucket(to, options).names())


def numbers(to: str, options: dict[str, str]) -> list[int]:
    frame = pl.scan_parquet(
        f"{to}/**/*.parquet", hive_partitioning=True, storage_options=options
    ).collect()
    assert frame["_id"].is_unique().all()
    return sorted(frame["n"].to_list())


def test_it_goes_on_where_it_ended(
    any_server: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    add_numbers(client, "s", 7)
    result = archive(any_server.url, to, options, max_rows=3)
    assert result == redfloe.ArchiveResult(7, {"s": "7-0"}, 0)
    assert names(to, options) == [
        "date=1970-01-01/1-0_3-0.parquet",
        "date=1970-01-01/4-0_6-0.parquet",
        "date=1970-01-01/7-0_7-0.parquet",
    ]
    add_numbers(client, "s", 9, first=8)
    again = redfloe.archive_async(any_server.url, "s", to=to, storage_options=options, **NOW)
    assert asyncio.run(again).entries == 2
    assert numbers(to, options) == [*range(1, 10)]
    add_numbers(client, "s", 12, first=10)
    both = scan_archive_and_stream(any_server.url, "s", NUMBER, to=to, storage_options=options)
    assert both.filter(pl.col("n") > 2).select("n").collect()["n"].to_list() == [*range(3, 13)]


def test_several_streams(
    any_server: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    streams = ["a/b", "c d"]
    for stream in streams:
        add_numbers(client, stream, 3)
        assert archive(any_server.url, to, options, streams).entries == 3
    scan = scan_archive_and_stream(any_server.url, streams, NUMBER, to=to, storage_options=options)
    rows = scan.select("_stream", "n").collect().rows()
    assert rows == [(stream, n) for stream in streams for n in (1, 2, 3)]


#: A process that dies before its n-th put; each file has two, a claim and itself.
WORKER = """
import signal
import obstore, polars as pl

url, to, options, number = sys.argv[1:]
put, count = obstore.put, 0

def putting(*arguments, **others):
    global count
    count += 1
    if count == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return put(*arguments, **others)

obstore.put = putting
redfloe.archive(
    url, "s", {"n": pl.Int64}, to=to, storage_options=json.loads(options), max_rows=3,
    until="now", block_ms=20,
)
"""


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_one_that_is_killed_before_a_put(
    any_server: Server, client: redis.Redis, options: dict[str, str], to: str, number: int
) -> None:
    add_numbers(client, "s", 10)
    command = (WORKER, any_server.url, to, json.dumps(options), str(number))
    with python(*command) as process:
        assert process.wait(20 * SLACK) == -signal.SIGKILL
    before = names(to, options)
    assert len(before) == (number - 1) // 2
    archive(any_server.url, to, options, max_rows=4)
    assert numbers(to, options) == [*range(1, 11)]
    # What was claimed is as it was to be, and what readers have seen stays.
    claimed = ["1-0_3-0", "4-0_6-0", "7-0_9-0"][: number // 2]
    assert set(before) <= set(names(to, options))
    assert {f"date=1970-01-01/{name}.parquet" for name in claimed} <= set(names(to, options))


def test_one_that_comes_late_writes_nothing(
    any_server: Server,
    client: redis.Redis,
    options: dict[str, str],
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was stopped just before its claim, and others have gone on."""
    add_numbers(client, "s", 5)
    put, others = obstore.put, threading.local()

    def late(*arguments: Any, **keywords: Any) -> Any:
        if not getattr(others, "are_here", False):
            others.are_here = True
            add_numbers(client, "s", 9, first=6)
            archive(any_server.url, to, options, max_rows=2)
            client.xtrim("s", minid="9-0", approximate=False)
        return put(*arguments, **keywords)

    monkeypatch.setattr(obstore, "put", late)
    with pytest.raises(FencedError, match="another archiver writes to s3://"):
        archive(any_server.url, to, options)
    assert numbers(to, options) == [*range(1, 10)]


def test_one_that_comes_late_with_its_file(
    any_server: Server,
    client: redis.Redis,
    options: dict[str, str],
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has claimed it; another one has finished it, and gone on."""
    add_numbers(client, "s", 5)
    put, puts = obstore.put, []

    def late(store: Any, name: str, *arguments: Any, **keywords: Any) -> Any:
        puts.append(name)
        if len(puts) == 2:
            add_numbers(client, "s", 9, first=6)
            archive(any_server.url, to, options)
        return put(store, name, *arguments, **keywords)

    monkeypatch.setattr(obstore, "put", late)
    archive(any_server.url, to, options, until="5-0")
    assert names(to, options) == [
        "date=1970-01-01/1-0_5-0.parquet",
        "date=1970-01-01/6-0_9-0.parquet",
    ]
    assert numbers(to, options) == [*range(1, 10)]


def test_two_at_once(
    any_server: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    """One goes on, whichever it is; the other ends, or writes the very same files."""
    fenced = []

    def run() -> None:
        for _ in range(20):
            try:
                archive(any_server.url, to, options, until="200-0", every="10ms")
            except FencedError as error:
                fenced.append(error)
            else:
                return

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for last in range(10, 210, 10):
        add_numbers(client, "s", last, first=last - 9)
        threads[0].join(0.02)
    for thread in threads:
        thread.join(30 * SLACK)
    assert numbers(to, options) == [*range(1, 201)]


def test_entries_that_are_gone_when_their_file_is_finished(
    any_server: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    """The file is there all the same, so that the next one has a position to go on from."""
    add_numbers(client, "s", 6)
    archive(any_server.url, to, options, until="2-0", every="1ms")
    store = Bucket(to, options)
    claim = b'{"file": "date=1970-01-01/3-0_4-0.parquet"}'
    assert store.create(store._claim(b"s", "2-0"), claim)
    client.xdel("s", "3-0", "4-0")
    archive(any_server.url, to, options)
    assert numbers(to, options) == [1, 2, 5, 6]
    assert names(to, options)[1] == "date=1970-01-01/3-0_4-0.parquet"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'redfloe\[objects\]'"):
        archive("redis://127.0.0.1:1", "s3://bucket/lake", {})


def test_two_streams_in_one_place_at_once(
    any_server: Server,
    client: redis.Redis,
    options: dict[str, str],
    to: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files have the names of their entries, which both have."""
    add_numbers(client, "a", 3)
    add_numbers(client, "b", 3)
    commit = Bucket.commit

    def after_another(*arguments: Any) -> bool:
        monkeypatch.setattr(Bucket, "commit", commit)
        archive(any_server.url, to, options, "b")
        return commit(*arguments)

    monkeypatch.setattr(Bucket, "commit", after_another)
    with pytest.raises(ValueError, match="is of the stream 'b': give the archive of 'a' a place"):
        archive(any_server.url, to, options, "a")
    assert numbers(to, options) == [1, 2, 3]


@pytest.mark.parametrize("name", ["a b", "50%", "%41", "a?b#c", "[x]*", "ü☃", "{x}", "date=1/n=7"])
def test_a_place_with_an_odd_name(
    redis70: Server, client: redis.Redis, options: dict[str, str], to: str, name: str
) -> None:
    """It is the same to obstore, which writes, and to Polars, which reads."""
    to = f"{to}/{name}"
    add_numbers(client, "s", 3)
    archive(redis70.url, to, options)
    add_numbers(client, "s", 5, first=4)
    assert archive(redis70.url, to, options, until="4-0", every="1ms").entries == 1
    both = scan_archive_and_stream(redis70.url, "s", NUMBER, to=to, storage_options=options)
    found = both.collect()
    assert found["n"].to_list() == [1, 2, 3, 4, 5]
    assert found.columns == ["_id", "_ts", "n", "date"]


def test_streams_with_odd_names(
    redis70: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    streams: list[Any] = ["..", ".", "", "a b", "a%2Fb", "ü☃", b"\xff", "*", "x/y", "_redfloe"]
    for last in (1, 2):
        for stream in streams:
            client.xadd(stream, {"n": last}, id=f"{last}-0")
        assert archive(redis70.url, to, options, streams).entries == len(streams)
    both = scan_archive_and_stream(redis70.url, streams, NUMBER, to=to, storage_options=options)
    names = [stream if isinstance(stream, str) else "\\xff" for stream in streams]
    assert both.collect()["_stream"].to_list() == [name for name in names for _ in (1, 2)]


@pytest.mark.parametrize("stream", ["..", "", "x" * 2000])
def test_one_stream_with_an_odd_name(
    redis70: Server, client: redis.Redis, options: dict[str, str], to: str, stream: str
) -> None:
    """Whose name is in the claims, and no folder's."""
    for last in (2, 4):
        add_numbers(client, stream, last, first=last - 1)
        assert archive(redis70.url, to, options, stream).entries == 2
    assert numbers(to, options) == [1, 2, 3, 4]


def test_files_that_readers_leave_out(
    redis70: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    add_numbers(client, "s", 3)
    archive(redis70.url, to, options)
    store = Bucket(to, options)
    for name in (".x.parquet", "_temporary/0/x.parquet", "date=1970-01-01/_x.parquet", "_SUCCESS"):
        assert store.create(name, b"")
    assert archive(redis70.url, to, options).entries == 0


@pytest.mark.parametrize(
    "changed", [{"partition_by": "hour"}, {"stream": ["s"]}, {"format": "delta"}], ids=str
)
@pytest.mark.parametrize("is_only_claimed", [True, False])
def test_another_layout(
    redis70: Server,
    client: redis.Redis,
    options: dict[str, str],
    to: str,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    is_only_claimed: bool,
) -> None:
    """Also where the archiver has died between its first claim and its first file."""
    to = to.replace(" ", "-")
    add_numbers(client, "s", 3)
    put = Bucket.create

    def then_die(self: Bucket, name: str, content: bytes) -> bool:
        if name.endswith(".parquet"):
            raise KeyboardInterrupt
        return put(self, name, content)

    if is_only_claimed:
        monkeypatch.setattr(Bucket, "create", then_die)
        with pytest.raises(KeyboardInterrupt):
            archive(redis70.url, to, options)
        monkeypatch.setattr(Bucket, "create", put)
    else:
        archive(redis70.url, to, options)
    before = names(to, options)
    with pytest.raises(ValueError, match=r"with folders by \['date'\], and not by|pass format="):
        archive(redis70.url, to, options, **changed)
    assert names(to, options) == before
    archive(redis70.url, to, options)
    assert numbers(to, options) == [1, 2, 3]


def test_where_a_table_is(
    redis70: Server, client: redis.Redis, options: dict[str, str], to: str
) -> None:
    """One that has no rows yet."""
    add_numbers(client, "s", 3)
    assert Bucket(to, options).create("_delta_log/00000000000000000000.json", b"{}")
    with pytest.raises(ValueError, match='is a Delta table: pass format="delta"'):
        archive(redis70.url, to, options)
    assert names(to, options) == []
