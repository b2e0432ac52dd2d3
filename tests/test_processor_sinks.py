"""Parquet sinks of processors: what appears when, and what is refused."""

from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import redis

import redfloe
from redfloe import (
    DataLossError,
    FencedError,
    OutcomeUnknownError,
    ParquetSink,
    RedisConnection,
    SchemaError,
)
from redfloe._processing.staging import Staging
from support.consumers import World
from support.disks import largest_file
from support.lakes import OUT, check, drain, lake, read, rows, work
from support.loops import PATIENCE
from support.processors import LANE, NAME, STREAM, Driven, processor
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers

SYNC = World(None)
QUICK: dict[str, Any] = {"retry_base_delay": 0.01, "retry_max_delay": 0.05}


@pytest.mark.parametrize("retries", [0, 5])
def test_a_commit_whose_reply_is_lost(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World, retries: int
) -> None:
    add_numbers(client, STREAM, 8)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    path = tmp_path / "lake"
    with Proxy(any_server.port) as proxy:
        url = RedisConnection(proxy.url, **QUICK | {"max_retries": retries})
        made, sink = lake(url, path, batch_size=2)
        with Driven(world, made) as driven:
            for number, tx in enumerate(driven):
                work(world, sink, tx)
                if number == 1:
                    proxy.cut_after(0, once_seen=b"EVALSHA")
        assert made.stats.epoch == (1 if retries else 2)
    check(client, path, 8)


def test_an_unknown_outcome_before_the_processor_is_left(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 2)
    processor(any_server.url, name="warm").run(lambda tx: None)  # scripts are loaded
    path = tmp_path / "lake"
    with Proxy(any_server.port) as proxy:
        made, sink = lake(RedisConnection(proxy.url, max_retries=0), path)
        with made:
            tx = next(made)
            work(SYNC, sink, tx)
            proxy.cut_after(0, once_seen=b"EVALSHA")
            with pytest.raises(OutcomeUnknownError):
                tx.commit()
    assert read(path).is_empty()
    drain(any_server.url, path)
    check(client, path, 2)


def test_several_writes_failures_and_rows_of_none(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, STREAM, 6)
    made = processor(any_server.url, batch_size=2)
    sink = ParquetSink(made, tmp_path / "lake", compression="lz4")
    with pytest.raises(ZeroDivisionError), Driven(world, made) as driven:  # noqa: PT012
        world.do(sink.write(next(driven), pl.DataFrame({"n": [0]})))
        raise ZeroDivisionError
    assert [*(tmp_path / "lake").iterdir()] == [tmp_path / "lake" / "_redfloe"]
    assert len([*(tmp_path / "lake/_redfloe").iterdir()]) == 1
    with Driven(world, made) as driven:
        for tx in driven:
            for row in tx.frame.iter_slices(1):
                world.do(sink.write(tx, row.filter(pl.col("n") != 3)))
            world.do(tx.commit())
            with pytest.raises(RuntimeError, match="has ended"):
                world.do(sink.write(tx, tx.frame))
    files = {
        file.name: pl.read_parquet(file)["n"].to_list()
        for file in (tmp_path / "lake").glob("*.parquet")
    }
    assert files == {
        "0-0_2-0.parquet": [1],
        "0-0_2-0-1.parquet": [2],
        "2-0_4-0.parquet": [4],
        "4-0_6-0.parquet": [5],
        "4-0_6-0-1.parquet": [6],
    }


def test_an_entry_that_fails_goes_to_the_dead_letters_and_not_to_the_directory(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, STREAM, 8)
    made, sink = lake(any_server.url, tmp_path / "lake", dead_letter="{numbers}:dead")

    def handle(tx: Any) -> Any:
        writing = sink.write(tx, rows(tx))
        if world.runner is None:
            fail(tx)
            return None

        async def later() -> None:
            await writing
            fail(tx)

        return later()

    def fail(tx: Any) -> None:
        if 5 in tx.frame["n"]:
            raise ZeroDivisionError

    Driven(world, made).run(handle, attempts=1)
    assert read(tmp_path / "lake")["n"].to_list() == [1, 2, 3, 4, 6, 7, 8]
    assert client.xlen("{numbers}:dead") == 1
    assert len([*(tmp_path / "lake/_redfloe").iterdir()]) == 2


def test_files_that_cannot_be_moved_are_moved_later(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    """The commit is in already."""
    add_numbers(client, STREAM, 6)
    path = tmp_path / "lake"
    made, sink = lake(any_server.url, path, batch_size=2)
    with Driven(world, made) as driven:
        work(world, sink, next(driven))
        world.do(driven.processor._session.current.commit())  # type: ignore[union-attr]
        (path / "parity=0").rename(tmp_path / "kept")
        (path / "parity=0").touch()  # where a folder should be
        tx = next(driven)
        work(world, sink, tx)
        with pytest.raises(OSError, match="parity=0"):
            world.do(tx.commit())
        assert client.hget(LANE, "position") == b"4-0"
        (path / "parity=0").unlink()
        (tmp_path / "kept").rename(path / "parity=0")
        for tx in driven:
            work(world, sink, tx)
    check(client, path, 6)


def test_a_write_that_fails_leaves_nothing(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 2)
    path = tmp_path / "lake"
    made, sink = lake(any_server.url, path)
    with made:
        tx = next(made)
        frame = rows(tx)
        write, calls = sink._write_parquet, []

        def fail_once(frame: pl.DataFrame, file: Path) -> None:
            calls.append(file)
            write(frame, file)
            if len(calls) == 2:
                msg = "no space left on device"
                raise OSError(msg)

        sink._write_parquet = fail_once
        with pytest.raises(OSError, match="no space"):
            sink.write(tx, frame)
        assert len(calls) == 2
        sink.write(tx, frame)
        tx.publish(OUT, frame)
    assert read(path)["n"].to_list() == [1, 2]
    assert len([*path.glob("**/*.parquet")]) == 2


def test_a_disk_that_is_full(redis70: Server, client: redis.Redis, tmp_path: Path) -> None:
    add_numbers(client, STREAM, 2)
    made, sink = lake(redis70.url, tmp_path / "lake")
    with made:
        tx = next(made)
        with largest_file(100), pytest.raises(OSError, match="File too large"):
            sink.write(tx, rows(tx))
    assert [*tmp_path.glob("**/*.parquet")] == []


def test_a_sink_that_is_made_later_and_a_second_one(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 4)
    made, sink = lake(any_server.url, tmp_path / "lake", batch_size=2)
    with made:
        work(SYNC, sink, next(made))
        tx = next(made)
        work(SYNC, sink, tx)
        second = ParquetSink(made, tmp_path / "second")
        second.write(tx, tx.frame)
    check(client, tmp_path / "lake", 4)
    assert pl.read_parquet(tmp_path / "second/2-0_4-0.parquet")["n"].to_list() == [3, 4]
    assert repr(sink) == f"ParquetSink('{tmp_path}/lake', partition_by=['parity'])"
    assert repr(second) == f"ParquetSink('{tmp_path}/second')"


def test_readers_may_take_files_away(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "lake"
    add_numbers(client, STREAM, 4)
    drain(any_server.url, path)
    shutil.rmtree(path / "parity=0")
    add_numbers(client, STREAM, 8, first=5)
    drain(any_server.url, path)
    assert read(path)["n"].to_list() == [1, 3, 5, 6, 7, 8]


def test_a_server_that_has_lost_commits(own: Server, tmp_path: Path) -> None:
    """The message says what to do, and that is enough."""
    client, path = own.client(), tmp_path / "lake"
    add_numbers(client, STREAM, 8)
    made, sink = lake(RedisConnection(own.url, **QUICK), path, batch_size=2)
    with made:
        work(SYNC, sink, next(made))
        work(SYNC, sink, next(made))
        next(made)
        client.save()
        for tx in made:
            work(SYNC, sink, tx)
    own.kill()
    own.start()
    with pytest.raises(DataLossError, match=r"after 4-0, where .*delete the folder _redfloe in it"):
        drain(own.url, path)
    shutil.rmtree(path / "_redfloe")
    with pytest.raises(DataLossError, match="entries after 4-0"):
        drain(own.url, path)
    for file in path.glob("*/*.parquet"):
        if int(file.name.partition("-")[0]) >= 4:
            file.unlink()
    shutil.rmtree(path / "_redfloe")
    drain(own.url, path)
    check(own.client(), path, 8)


@pytest.mark.parametrize("state", ["keep", "drop"])
def test_a_processor_that_was_reset(
    any_server: Server, client: redis.Redis, tmp_path: Path, state: Any
) -> None:
    path = tmp_path / "lake"
    add_numbers(client, STREAM, 4)
    drain(any_server.url, path)
    redfloe.reset_processor(any_server.url, STREAM, NAME, to="0", state=state)
    client.delete(OUT)
    with pytest.raises(DataLossError, match="was reset"):
        drain(any_server.url, path)
    assert client.exists(OUT) == 0
    shutil.rmtree(path)
    drain(any_server.url, path)
    check(client, path, 4)


def test_the_directory_of_another_machine(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    """Or one that was restored from a backup: what was committed is not there."""
    path = tmp_path / "lake"
    add_numbers(client, STREAM, 4)
    drain(any_server.url, path)
    shutil.copytree(path, tmp_path / "backup")
    add_numbers(client, STREAM, 6, first=5)
    drain(any_server.url, path)
    with pytest.raises(DataLossError, match=r"lacks the rows .* 4-0_6-0"):
        drain(any_server.url, tmp_path / "backup")


def test_directories_of_others_are_refused(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "lake"
    add_numbers(client, STREAM, 4)
    drain(any_server.url, path)
    with pytest.raises(ValueError, match="sink of the processor 'sums' of the stream 'numbers'"):
        drain(any_server.url, path, name="other")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.parquet").touch()
    with pytest.raises(ValueError, match=r"holds mine\.parquet: give the sink a directory"):
        drain(any_server.url, tmp_path / "full")
    (tmp_path / "export" / "_redfloe").mkdir(parents=True)
    (tmp_path / "export" / "_redfloe" / "state.json").touch()
    with pytest.raises(ValueError, match=r"holds state\.json"):
        drain(any_server.url, tmp_path / "export")
    with pytest.raises(FileExistsError):
        drain(any_server.url, path / "_redfloe" / "sink.json", name="file")


def test_what_cannot_be_right_is_refused(
    any_server: Server, client: redis.Redis, tmp_path: Path
) -> None:
    add_numbers(client, STREAM, 2)
    made, sink = lake(any_server.url, tmp_path / "lake")
    other, _ = lake(any_server.url, tmp_path / "other", name="other")
    with pytest.raises(ValueError, match="compression"):
        ParquetSink(made, tmp_path, compression="zip")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="partition_by"):
        ParquetSink(made, tmp_path, partition_by=[1])  # type: ignore[list-item]
    with made, other:
        tx, foreign = next(made), next(other)
        with pytest.raises(ValueError, match="another processor"):
            sink.write(foreign, tx.frame)
        with pytest.raises(TypeError, match="LazyFrame"):
            sink.write(tx, tx.frame.lazy())  # type: ignore[call-overload]
        with pytest.raises(SchemaError, match="no column 'parity'"):
            sink.write(tx, tx.frame)
        with pytest.raises(ValueError, match="no column for the files"):
            sink.write(tx, pl.DataFrame({"parity": [1]}))
        with pytest.raises(ValueError, match="too long for the name of a folder"):
            sink.write(tx, pl.DataFrame({"parity": ["x" * 300], "n": [1]}))
        sink.write(tx, pl.DataFrame({"parity": [None, "a/b", ""], "n": [1, 2, 3]}))
    found = pl.read_parquet(tmp_path / "lake/**/*.parquet", hive_partitioning=True).sort("n")
    assert found["parity"].to_list()[:2] == [None, "a/b"]
    assert not [*(tmp_path / "other").glob("*.parquet")]


def test_two_processes_that_open_a_new_directory_at_once(tmp_path: Path) -> None:
    owner: dict[str, str | None] = {"stream": "s", "processor": "p"}
    one, other = Staging(tmp_path / "lake", owner), Staging(tmp_path / "lake", owner)
    name = one.open()
    other._make(tmp_path / "lake/_redfloe/sink.json")  # it saw none before
    assert other.open() == name == one.open()
    assert [entry.name for entry in (tmp_path / "lake/_redfloe").iterdir()] == ["sink.json"]


def test_a_fenced_commit_is_in_neither(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    add_numbers(client, STREAM, 4)
    path = tmp_path / "lake"
    made, sink = lake(any_server.url, path)
    with pytest.raises(FencedError), Driven(world, made) as driven:  # noqa: PT012
        tx = next(driven)
        work(world, sink, tx)
        drain(any_server.url, path, takeover=True)
        world.do(tx.commit())
    drain(any_server.url, path)
    check(client, path, 4)


class Held:
    """Calls of something that wait until they may go on; the first ones, or those that come."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.has_begun = threading.Event()
        self.may_go_on = threading.Event()
        self.ended = threading.Event()

    def __call__(self, *arguments: Any) -> Any:
        self.has_begun.set()
        assert self.may_go_on.wait(PATIENCE)
        try:
            return self.act(*arguments)
        finally:
            self.ended.set()


async def cancel_within(doing: Any, held: Held) -> None:
    """Cancel something once it has come to what is held."""
    task = asyncio.ensure_future(doing)
    assert await asyncio.to_thread(held.has_begun.wait, PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leaves", ["by an error", "by cancellation"])
def test_files_of_a_commit_that_is_in_are_not_deleted(
    any_server: Server,
    client: redis.Redis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    leaves: str,
) -> None:
    """Where the first of two directories fails, the second one's files were."""
    add_numbers(client, STREAM, 2)

    def make() -> tuple[redfloe.StreamProcessor, list[ParquetSink]]:
        made = processor(any_server.url)
        return made, [ParquetSink(made, tmp_path / name) for name in ("first", "second")]

    async def left() -> None:
        made, sinks = make()
        held = Held(sinks[0]._staging.publish)
        async with made:
            tx = await anext(made)
            for sink in sinks:
                await sink.write(tx, tx.frame)
            if leaves == "by an error":
                (tmp_path / "first/0-0_2-0.parquet").mkdir()
                with pytest.raises(OSError, match="0-0_2-0"):
                    await tx.commit()
                (tmp_path / "first/0-0_2-0.parquet").rmdir()
            else:
                monkeypatch.setattr(sinks[0]._staging, "publish", held)
                await cancel_within(tx.commit(), held)
                held.may_go_on.set()
        assert not [*(tmp_path / "second").glob("*.parquet")]

    asyncio.run(left())
    assert client.hget(LANE, "position") == b"2-0"
    made, _ = make()
    made.run(print)  # which settles what was left
    for name in ("first", "second"):
        assert pl.read_parquet(tmp_path / name / "*.parquet")["n"].to_list() == [1, 2]


@pytest.mark.parametrize("again", [True, False])
def test_a_write_that_is_cancelled_is_not_in_the_directory(
    any_server: Server, client: redis.Redis, tmp_path: Path, again: bool
) -> None:
    """It was, and no commit had named it."""
    add_numbers(client, STREAM, 4)
    path = tmp_path / "lake"

    async def cancelled() -> None:
        made = processor(any_server.url, batch_size=2)
        sink = ParquetSink(made, path)
        write = sink._write_parquet
        async with made:
            tx = await anext(made)
            sink._write_parquet = held = Held(write)
            await cancel_within(sink.write(tx, tx.frame), held)
            sink._write_parquet = write
            held.may_go_on.set()
            if again:
                await sink.write(tx, tx.frame)
            assert await asyncio.to_thread(held.ended.wait, PATIENCE)
            tx = await anext(made)
            await sink.write(tx, tx.frame)

    asyncio.run(cancelled())
    made = processor(any_server.url)
    ParquetSink(made, path)
    made.run(print)
    found = pl.concat(map(pl.read_parquet, sorted(path.glob("*.parquet"))))["n"].to_list()
    assert found == ([1, 2, 3, 4] if again else [3, 4])
    assert len([*(path / "_redfloe").iterdir()]) == 2


def test_writes_of_several_tasks(
    any_server: Server, client: redis.Redis, tmp_path: Path, world: World
) -> None:
    """Each had taken a table of its own, and the directory named one batch of two."""
    if world.runner is None:
        pytest.skip("nothing is done at once there")
    add_numbers(client, STREAM, 2)
    made = processor(any_server.url)
    sinks = [ParquetSink(made, tmp_path / name) for name in ("first", "second")]

    async def several() -> None:
        async with made:
            tx = await anext(made)
            writes = [sink.write(tx, tx.frame[row]) for sink in sinks for row in (0, 1)]
            await asyncio.gather(*writes)

    world.runner.run(several())
    again = processor(any_server.url)
    for name in ("first", "second"):
        ParquetSink(again, tmp_path / name)
    again.run(print)
    for name in ("first", "second"):
        found = pl.read_parquet(tmp_path / name / "*.parquet")["n"].sort().to_list()
        assert found == [1, 2]
