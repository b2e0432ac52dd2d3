"""Checkpoints: the stores, and a `StreamConsumer` that goes on where it had come to."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from redfloe import (
    CheckpointError,
    CheckpointStore,
    DataLossError,
    FileCheckpointStore,
    MemoryCheckpointStore,
    RedfloeError,
    RedisCheckpointStore,
    RedisConnection,
    RedisConnectionError,
    RedisTimeoutError,
    StreamConsumer,
)
from support.consumers import World, all_rows, rows
from support.groups import DRAIN, ME
from support.proxy import Proxy
from support.server import Server
from support.streams import add_numbers
from support.timing import SLACK, within

pytestmark = pytest.mark.timeout(20)


class Notebook:
    """A store of somebody's own, which remembers what was asked of it."""

    def __init__(self, checkpoint: Any = None) -> None:
        self.checkpoint = checkpoint
        self.loaded: list[str] = []
        self.saved: list[tuple[str, str]] = []

    def load(self, name: str) -> str | None:
        self.loaded.append(name)
        checkpoint: str | None = self.checkpoint
        return checkpoint

    def save(self, name: str, entry_id: str) -> None:
        self.saved.append((name, entry_id))
        self.checkpoint = entry_id


Stores = Callable[[], CheckpointStore]


@pytest.fixture(params=["memory", "file", "redis", "own"])
def stores(request: pytest.FixtureRequest, any_server: Server, tmp_path: Path) -> Stores:
    """Opens a store again, as the next run of a worker does."""
    match request.param:
        case "file":
            return lambda: FileCheckpointStore(tmp_path / "made" / "when needed")
        case "redis":
            return lambda: RedisCheckpointStore(any_server.url)
    store: CheckpointStore = MemoryCheckpointStore() if request.param == "memory" else Notebook()
    return lambda: store


# The stores


def test_a_store_keeps_a_checkpoint_for_each_name(stores: Stores) -> None:
    names = ["a", "b", "a/b", "../a", "a:b", "ä\n", "%61", " ", "A"]
    if isinstance(stores(), Notebook):
        pytest.skip("has one page")
    for number, name in enumerate(names):
        assert stores().load(name) is None
        stores().save(name, f"{number}-0")
        stores().save(name, f"{number}-1")
    for number, name in enumerate(names):
        assert stores().load(name) == f"{number}-1"


def test_stores_are_what_they_say(stores: Stores) -> None:
    assert isinstance(stores(), CheckpointStore)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"{}",
        b"1-0",
        b'"1-0"',
        b"\xff",
        b'{"name": "other", "entry_id": "1-0"}',
        b'{"name": "events"}',
        b'{"name": "events", "entry_id": 1}',
        b'{"name": "events", "entry_id": "1-0"',
        b"\x00" * 40,
    ],
)
def test_a_corrupt_file_is_an_error_and_never_a_missing_one(tmp_path: Path, content: bytes) -> None:
    store = FileCheckpointStore(tmp_path)
    store.save("events", "1-0")
    [path] = tmp_path.iterdir()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=path.name) as raised:
        store.load("events")
    assert isinstance(raised.value, RedfloeError)
    assert path.read_bytes() == content
    # It can be put right by saving another.
    store.save("events", "2-0")
    assert store.load("events") == "2-0"


def test_a_file_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash before the new file is in its place leaves the old one."""
    store = FileCheckpointStore(tmp_path)
    store.save("events", "1-0")
    [path] = tmp_path.iterdir()
    synced: list[int] = []

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", synced.append)
        patch.setattr(Path, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.save("events", "2-0")
    # It had been synced before it was to take the old one's place.
    assert synced
    assert FileCheckpointStore(tmp_path).load("events") == "1-0"
    # What is left over is not in the way, whole or not.
    for left_over in tmp_path.iterdir():
        if left_over != path:
            left_over.write_text("{")
    assert FileCheckpointStore(tmp_path).load("events") == "1-0"
    store.save("events", "3-0")
    assert FileCheckpointStore(tmp_path).load("events") == "3-0"
    assert [*tmp_path.iterdir()] == [path]
    assert json.loads(path.read_text("utf-8")) == {"name": "events", "entry_id": "3-0"}


#: Kills itself when it syncs what it has written, before that takes the old file's place.
KILLED = """
import os, signal, sys
import redfloe

os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
redfloe.FileCheckpointStore(sys.argv[1]).save("events", "2-0")
"""


def test_killed_processes_leave_the_old_checkpoint_and_no_litter(tmp_path: Path) -> None:
    store = FileCheckpointStore(tmp_path)
    store.save("events", "1-0")
    [path] = tmp_path.iterdir()
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
        assert killed.returncode == -signal.SIGKILL
        assert store.load("events") == "1-0"
        # Not one more each time that a worker is killed.
        assert len([*tmp_path.iterdir()]) == 2
    store.save("events", "3-0")
    assert [*tmp_path.iterdir()] == [path]
    assert store.load("events") == "3-0"


def test_savers_of_one_name_do_not_write_into_each_other_s_file(tmp_path: Path) -> None:
    ids = [f"{10**number}-0" for number in range(12)]
    done = threading.Event()

    def save() -> None:
        for entry_id in ids * 5:
            FileCheckpointStore(tmp_path).save("events", entry_id)

    def load() -> None:
        while not done.is_set():
            assert FileCheckpointStore(tmp_path).load("events") in {*ids, None}

    with ThreadPoolExecutor(5) as pool:
        saving = [pool.submit(save) for _ in range(4)]
        loading = pool.submit(load)
        for saver in saving:
            saver.result()
        done.set()
        loading.result()
    assert len([*tmp_path.iterdir()]) == 1


LONG_NAMES = ["x" * 246, "x" * 247, "x" * 300, "x" * 301, "x" * 300 + "y", "ä" * 200, "/" * 5_000]


def test_long_names(tmp_path: Path) -> None:
    store = FileCheckpointStore(tmp_path)
    for number, name in enumerate(LONG_NAMES):
        assert store.load(name) is None
        store.save(name, f"{number}-0")
    for number, name in enumerate(LONG_NAMES):
        assert store.load(name) == f"{number}-0"
    assert len([*tmp_path.iterdir()]) == len(LONG_NAMES)


def test_names_keep_the_files_that_they_have_had(tmp_path: Path) -> None:
    """A worker must not begin anew because redfloe has a new version."""
    names = {
        "events": "events.json",
        "": ".json",
        "a/b:c": "a%2Fb%3Ac.json",
        "\0": "%00.json",
        "\N{LATIN SMALL LETTER E WITH ACUTE}": "%C3%A9.json",
        "e\N{COMBINING ACUTE ACCENT}": "e%CC%81.json",  # another name, in any file system
        "x" * 240: "x" * 240 + ".json",
    }
    for number, (name, file) in enumerate(names.items()):
        content = {"name": name, "entry_id": f"{number}-0"}
        (tmp_path / file).write_text(json.dumps(content))
    for number, name in enumerate(names):
        assert FileCheckpointStore(tmp_path).load(name) == f"{number}-0"
        FileCheckpointStore(tmp_path).save(name, "9-0")
    assert {path.name for path in tmp_path.iterdir()} == {*names.values()}


def in_a_file(directory: Path) -> Path:
    (directory / "file").write_text("")
    return directory / "file"


def in_a_circle(directory: Path) -> Path:
    (directory / "circle").symlink_to("circle")
    return directory / "circle"


def with_a_directory_of_the_file_s_name(directory: Path) -> Path:
    (directory / "events.json").mkdir()
    return directory


@pytest.mark.parametrize("bad", [in_a_file, in_a_circle, with_a_directory_of_the_file_s_name])
def test_what_the_file_system_refuses_is_a_checkpoint_error(
    tmp_path: Path, bad: Callable[[Path], Path]
) -> None:
    store = FileCheckpointStore(bad(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"events\.json cannot be read: \w"):
        store.load("events")
    with pytest.raises(CheckpointError, match=r"events\.json cannot be written: \w") as raised:
        store.save("events", "1-0")
    assert isinstance(raised.value.__cause__, OSError)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_a_directory_that_is_another_user_s(tmp_path: Path, mode: int) -> None:
    store = FileCheckpointStore(tmp_path)
    tmp_path.chmod(mode)
    try:
        with pytest.raises(CheckpointError, match="cannot be written: Permission denied"):
            store.save("events", "1-0")
        if mode == 0:
            with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
                store.load("events")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system"
)
def test_a_full_disk(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount anything")
    try:
        store = FileCheckpointStore(tmp_path)
        store.save("events", "1-0")
        filler = tmp_path / "filler"
        filler.write_bytes(b"\0" * 4096)
        with pytest.raises(CheckpointError, match="No space left on device"):
            store.save("events", "2-0")
        assert {path.name for path in tmp_path.iterdir()} == {"events.json", "filler"}
        assert store.load("events") == "1-0"
        filler.unlink()
        store.save("events", "3-0")
        assert store.load("events") == "3-0"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


@pytest.mark.parametrize("name", ["\udcff", "a\ud800"])
def test_a_name_that_is_no_text(any_server: Server, tmp_path: Path, name: str) -> None:
    stores: list[Any] = [FileCheckpointStore(tmp_path), RedisCheckpointStore(any_server.url)]
    for store in stores:
        with pytest.raises(CheckpointError, match="surrogates"):
            store.load(name)
        with pytest.raises(CheckpointError, match="surrogates"):
            store.save(name, "1-0")
        with pytest.raises(TypeError, match="name must be str"):
            store.load(5)


async def load_async(name: str) -> str | None:
    pytest.fail("was run")


async def save_async(name: str, entry_id: str) -> None:
    pytest.fail("was run")


@pytest.mark.parametrize("method", ["load", "save"])
def test_a_store_whose_methods_are_async(
    any_server: Server, client: redis.Redis, stream: str, world: World, method: str
) -> None:
    """Nobody awaits them. They are refused at once, or when they are called."""
    add_numbers(client, stream, 3)
    store: Any = Notebook()
    refused = load_async if method == "load" else save_async
    setattr(store, method, refused)
    with pytest.raises(TypeError, match=rf"checkpoint_store\.{method} must not be async"):
        world.consumer(any_server.url, stream, checkpoint_store=store)

    def called(*arguments: Any) -> Any:
        return refused(*arguments)

    setattr(store, method, called)
    consumer = world.consumer(any_server.url, stream, checkpoint_store=store, **DRAIN)
    with pytest.raises(TypeError, match=rf"checkpoint_store\.{method} must not be async"):
        all_rows(consumer)
    gc.collect()  # a coroutine that was never awaited would warn, which is an error here


def test_a_redis_store_has_a_key_for_each_name(any_server: Server, client: redis.Redis) -> None:
    store = RedisCheckpointStore(RedisConnection(any_server.url), "mine:")
    store.save("events", "1-0")
    assert client.get("mine:events") == b"1-0"
    client.set("mine:events", b"\xff")
    with pytest.raises(CheckpointError, match="mine:events"):
        store.load("events")
    client.delete("mine:events")
    client.rpush("mine:events", "1-0")
    with pytest.raises(CheckpointError, match=r"mine:events.*delete it"):
        store.load("events")
    with pytest.raises(TypeError, match="key_prefix must be str"):
        RedisCheckpointStore(any_server.url, b"mine:")  # type: ignore[arg-type]  # is refused


def test_a_redis_store_without_a_server() -> None:
    store = RedisCheckpointStore(RedisConnection("redis://127.0.0.1:1", max_retries=0))
    with pytest.raises(RedisConnectionError):
        store.load("events")
    with pytest.raises(RedisConnectionError):
        store.save("events", "1-0")


# Without a group


def test_a_reader_goes_on_where_it_had_come_to(
    any_server: Server, client: redis.Redis, stream: str, world: World, stores: Stores
) -> None:
    add_numbers(client, stream, 10)
    with world.consumer(
        any_server.url, stream, batch_size=4, checkpoint_store=stores(), **DRAIN
    ) as consumer:
        assert all_rows(consumer) == [*range(1, 11)]
    assert stores().load(stream) == "10-0"
    add_numbers(client, stream, 12, first=11)
    again = world.consumer(
        any_server.url, stream, start_id="2-0", checkpoint_store=stores(), **DRAIN
    )
    assert all_rows(again) == [11, 12]
    assert stores().load(stream) == "12-0"


@pytest.mark.parametrize("how", ["exception", "break", "clean"])
def test_only_what_is_done_with_is_saved(
    any_server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    add_numbers(client, stream, 9)
    store = Notebook()
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 3, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)

    def process() -> None:
        with consumer:
            for batch in consumer:
                assert [entry_id for _, entry_id in store.saved] == [
                    f"{n}-0" for n in range(3, rows(batch)[0], 3)
                ]
                if rows(batch)[0] == 4:
                    if how == "exception":
                        raise ZeroDivisionError
                    if how == "break":
                        break

    if how == "exception":
        with pytest.raises(ZeroDivisionError):
            process()
    else:
        process()
    last = {"exception": "3-0", "break": "6-0", "clean": "9-0"}[how]
    assert store.saved[-1] == (stream, last)
    first = int(last.split("-")[0]) + 1
    again = world.consumer(any_server.url, stream, **options)
    assert all_rows(again) == [*range(first, 10)]
    assert store.loaded == [stream, stream]


def test_manual_acknowledgement_moves_the_checkpoint(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Without a group it says how far one has come: a batch before it is done with too."""
    add_numbers(client, stream, 6)
    store = Notebook()
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 2, "ack": "manual"}
    with world.consumer(any_server.url, stream, **options, **DRAIN) as consumer:
        first, second, third = next(consumer), next(consumer), next(consumer)
        assert world.do(second.ack()) == 2
        assert store.saved == [(stream, "4-0")]
        # It does not go back.
        assert world.do(first.ack()) == 2
        half, rest = third.halves()
        assert (world.do(half.ack()), world.do(rest.ack())) == (1, 1)
    assert store.saved == [(stream, "4-0"), (stream, "5-0"), (stream, "6-0")]


@pytest.mark.parametrize("group", [{}, ME])
def test_acknowledging_some_rows_moves_the_checkpoint_up_to_the_first_that_is_left(
    any_server: Server, client: redis.Redis, stream: str, world: World, group: dict[str, Any]
) -> None:
    add_numbers(client, stream, 8)
    store = Notebook()
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 4, "ack": "manual", **group}
    with world.consumer(any_server.url, stream, **options, **DRAIN) as consumer:
        first, second = next(consumer), next(consumer)
        came_to = []
        for batch, ids in [(first, ["2-0"]), (first, ["1-0"]), (first, ["4-0"]), (first, "3-0")]:
            assert world.do(batch.ack(ids)) == 1
            came_to.append(store.checkpoint)
        assert came_to == [None, "2-0", "2-0", "4-0"]
        assert world.do(second.ack(["8-0", "5-0"])) == 2
        assert store.checkpoint == "5-0"
    again = world.consumer(any_server.url, stream, **options, **DRAIN)
    assert all_rows(again) == ([6, 7] if group else [6, 7, 8])


@pytest.mark.parametrize("ack", ["manual", "on_success"])
def test_a_group_s_checkpoint_does_not_pass_what_is_not_done_with(
    any_server: Server, client: redis.Redis, stream: str, world: World, ack: str
) -> None:
    """A lost group begins there again, and what was pending would be lost with it."""
    add_numbers(client, stream, 8)
    store = Notebook()
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 2, **ME, **DRAIN}
    with world.consumer(any_server.url, stream, ack=ack, **options) as consumer:
        for batch in consumer:
            if rows(batch) == [3, 4]:
                batch.leave()
            elif ack == "manual":
                world.do(batch.ack())
    name = f"{stream}:g:me"
    assert store.saved == [(name, "2-0")]
    client.xgroup_destroy(stream, "g")
    with world.consumer(
        any_server.url, stream, on_group_lost="recreate", ack="manual", **options
    ) as again:
        batches = [next(again) for _ in range(3)]
        assert [rows(batch) for batch in batches] == [[3, 4], [5, 6], [7, 8]]
        # In whatever order they are done with.
        saved = []
        for batch in (batches[1], batches[0], batches[2]):
            world.do(batch.ack())
            saved.append(store.checkpoint)
    assert saved == ["2-0", "6-0", "8-0"]


def test_the_checkpoint_passes_what_comes_again_or_becomes_a_dead_letter(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 6)
    store = Notebook()
    options: dict[str, Any] = {"checkpoint_store": store, "batch_size": 2, **ME, **DRAIN}
    options |= {"max_deliveries": 2, "dead_letter": "dead"}
    saved = []
    with world.consumer(server.url, stream, **options) as consumer:
        for batch in consumer:
            saved.append((rows(batch), store.checkpoint))
            if 1 in rows(batch):
                world.do(batch.nack("1-0", delay_ms=0))
            if 4 in rows(batch):
                world.do(batch.fail("4-0", "bad"))
    # Entry 1 is given back in its turn, and becomes a dead letter after its last delivery.
    assert [row for row, _ in saved].count([1]) == 1
    assert store.checkpoint == "6-0"
    assert {checkpoint for row, checkpoint in saved if row != [5, 6]} == {None}
    assert client.xlen("dead") == 2


def test_the_name_of_a_checkpoint(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 2)
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, **DRAIN}
    assert all_rows(world.consumer(any_server.url, stream, **options)) == [1, 2]
    named = world.consumer(any_server.url, stream, checkpoint_name="other job", **options)
    assert all_rows(named) == [1, 2]
    assert (store.load(stream), store.load("other job")) == ("2-0", "2-0")
    # Names that are no text have one all the same.
    client.xadd(b"\xff\xfe", {"n": 1}, id="1-0")
    assert all_rows(world.consumer(any_server.url, b"\xff\xfe", **options)) == [1]
    assert store.load("%FF%FE") == "1-0"


def test_no_two_workers_share_the_name_of_a_checkpoint(
    any_server: Server, client: redis.Redis, world: World
) -> None:
    """A colon is usual in a key, and a key need not be text."""
    alone: list[Any] = ["a:b:c", "a:b", "a%3Ab%3Ac", "%", "%25", b"\xff", "\\xff", "%FF", "\ufffd"]
    store = MemoryCheckpointStore()
    options: dict[str, Any] = {"checkpoint_store": store, **DRAIN}
    for number, key in enumerate(alone, 1):
        add_numbers(client, key, number)
        assert all_rows(world.consumer(any_server.url, key, **options)) == [*range(1, number + 1)]
    # The usual ones are what one would guess.
    assert store.load("a:b") == "2-0"
    assert store.load("a:b:c") is None
    members = {
        ("a", "b", "c"): "a:b:c",
        ("a:b", "c", "d"): "a%3Ab:c:d",
        ("a", "b:c", "d"): "a:b%3Ac:d",
        ("a", "b", "c:d"): "a:b:c%3Ad",
    }
    for (key, group, name), checkpoint in members.items():
        client.delete(key)
        add_numbers(client, key, 1)
        consumer = world.consumer(any_server.url, key, group=group, consumer=name, **options)
        assert store.load(checkpoint) is None
        assert all_rows(consumer) == [1]
        assert store.load(checkpoint) == "1-0"


def test_a_stream_that_was_emptied_after_the_checkpoint(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 20)
    client.xtrim(stream, maxlen=0, approximate=False)
    options: dict[str, Any] = {"checkpoint_store": Notebook("8-0"), **DRAIN}
    with pytest.raises(DataLossError, match=r"past 8-0.* it is empty now.*20-0"):
        next(world.consumer(any_server.url, stream, **options))
    again = world.consumer(any_server.url, stream, on_data_loss="continue", **options)
    add_numbers(client, stream, 21, first=21)
    assert all_rows(again) == [21]


@pytest.mark.parametrize("member", [{}, ME], ids=["alone", "group"])
@pytest.mark.parametrize("checkpoint", ["", "x", "1-", "1-0-0", "99999999999999999999-0", b"1-0"])
def test_a_checkpoint_that_is_no_id(
    any_server: Server,
    client: redis.Redis,
    stream: str,
    world: World,
    member: dict[str, Any],
    checkpoint: Any,
) -> None:
    add_numbers(client, stream, 2)
    store = Notebook(checkpoint)
    options: dict[str, Any] = {"checkpoint_store": store, **member, **DRAIN}
    with pytest.raises(CheckpointError, match=stream):
        next(world.consumer(any_server.url, stream, **options))
    assert store.saved == []


def test_a_store_that_fails(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 4)

    class Broken(Notebook):
        full = True

        def save(self, name: str, entry_id: str) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().save(name, entry_id)

    options: dict[str, Any] = {"checkpoint_store": Broken(), "batch_size": 2, **DRAIN}
    consumer = world.consumer(any_server.url, stream, **options)
    assert rows(next(consumer)) == [1, 2]
    with pytest.raises(OSError, match="No space"):
        next(consumer)
    # It is tried again, and nothing is missing meanwhile.
    with pytest.raises(OSError, match="No space"):
        next(consumer)
    options["checkpoint_store"].full = False
    assert rows(next(consumer)) == [3, 4]
    assert options["checkpoint_store"].saved == [(stream, "2-0")]


@pytest.mark.parametrize("deleted", [False, True], ids=["trimmed", "xdel"])
def test_a_stream_that_was_trimmed_past_the_checkpoint(
    server: Server, client: redis.Redis, stream: str, world: World, deleted: bool
) -> None:
    add_numbers(client, stream, 20)
    options: dict[str, Any] = {"checkpoint_store": Notebook("5-0"), **DRAIN}
    if deleted:
        # Deleted at will: not the same as trimmed, but nothing tells the one from the other
        # where the front of the stream is gone.
        client.xdel(stream, *[f"{n}-0" for n in range(1, 9)])
    else:
        client.xtrim(stream, maxlen=12, approximate=False)
    with pytest.raises(DataLossError, match="5-0") as raised:
        next(world.consumer(server.url, stream, **options))
    assert "9-0" in str(raised.value) or "8-0" in str(raised.value)
    again = world.consumer(server.url, stream, on_data_loss="continue", **options)
    assert all_rows(again) == [*range(9, 21)]


def test_a_stream_that_was_trimmed_up_to_the_checkpoint(
    server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """Where the entry that was read last is still there nothing behind it was lost."""
    add_numbers(client, stream, 20)
    options: dict[str, Any] = {"checkpoint_store": Notebook("8-0"), **DRAIN}
    client.xtrim(stream, maxlen=13, approximate=False)
    assert all_rows(world.consumer(server.url, stream, **options)) == [*range(9, 21)]


def test_a_stream_that_was_trimmed_to_nothing(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 20)
    client.xtrim(stream, maxlen=0, approximate=False)
    done: dict[str, Any] = {"checkpoint_store": Notebook("20-0"), **DRAIN}
    assert all_rows(world.consumer(any_server.url, stream, **done)) == []
    behind: dict[str, Any] = {"checkpoint_store": Notebook("19-0"), **DRAIN}
    with pytest.raises(DataLossError, match="19-0"):
        next(world.consumer(any_server.url, stream, **behind))


@pytest.mark.parametrize("how", ["del", "flushall", "smaller"])
def test_a_stream_that_was_begun_anew(
    server: Server, client: redis.Redis, stream: str, world: World, how: str
) -> None:
    add_numbers(client, stream, 20)
    options: dict[str, Any] = {"checkpoint_store": Notebook("20-0"), **DRAIN}
    client.flushall() if how == "flushall" else client.delete(stream)
    add_numbers(client, stream, 5)
    with pytest.raises(DataLossError, match="20-0") as raised:
        next(world.consumer(server.url, stream, **options))
    assert "5-0" in str(raised.value)
    again = world.consumer(server.url, stream, on_data_loss="continue", **options)
    assert all_rows(again) == [1, 2, 3, 4, 5]


def test_the_loop_of_a_reader_sees_a_stream_begun_anew(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    add_numbers(client, stream, 10)
    consumer = world.consumer(any_server.url, stream, block_ms=100)
    assert len(next(consumer)) == 10
    client.delete(stream)
    add_numbers(client, stream, 5)
    with within(8), pytest.raises(DataLossError, match="10-0"):
        next(consumer)


def test_a_store_may_block_an_event_loop_thread(
    any_server: Server, client: redis.Redis, stream: str, world: World
) -> None:
    """A store that itself uses an event loop works: it is called in a thread."""
    if world.runner is None:
        pytest.skip("for event loops")
    add_numbers(client, stream, 2)

    class Looping(Notebook):
        def save(self, name: str, entry_id: str) -> None:
            asyncio.run(asyncio.sleep(0.01))
            super().save(name, entry_id)

    store = Looping()
    with world.consumer(any_server.url, stream, checkpoint_store=store, **DRAIN) as consumer:
        assert all_rows(consumer) == [1, 2]
    assert store.saved == [(stream, "2-0")]


@pytest.mark.parametrize("held", [b"GET", b"SET"])
def test_a_store_that_is_silent_holds_up_no_event_loop(
    any_server: Server, client: redis.Redis, stream: str, held: bytes
) -> None:
    """Neither a cancel nor the end of `asyncio.run`, which waits for threads."""
    add_numbers(client, stream, 2)

    async def drain(store: RedisCheckpointStore) -> None:
        options: Any = {**DRAIN, "checkpoint_store": store}
        async with StreamConsumer(any_server.url, stream, **options) as consumer:
            async for batch in consumer:
                assert len(batch) == 2

    async def main(url: str) -> None:
        async with asyncio.timeout(0.3 * SLACK):
            await drain(RedisCheckpointStore(url, f"checkpoint:{stream}:"))

    with Proxy(any_server.port) as proxy:
        proxy.stall_after(0, once_seen=held)
        with within(2), pytest.raises(TimeoutError) as caught:
            asyncio.run(main(proxy.url))
    assert not isinstance(caught.value, RedisTimeoutError)
