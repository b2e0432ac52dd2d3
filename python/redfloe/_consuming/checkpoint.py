"""Stores that keep the position of a worker from run to run."""

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fcntl import LOCK_EX, flock
from hashlib import sha256
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import quote

from redfloe import _core
from redfloe._arguments import Request
from redfloe._core import RedisConnection, check_connection, connect
from redfloe._errors import CheckpointError, WrongTypeError
from redfloe._event_loop import completed
from redfloe._files import make_directory, sync
from redfloe._schema import as_text


@runtime_checkable
class CheckpointStore(Protocol):
    """What `StreamConsumer` needs of a store of checkpoints: any class with these two methods.

    A checkpoint is the ID of the last entry that a worker is done with, as it is with all that it
    was given before; with several streams there is one for each. `StreamConsumer` calls `load` once
    for each stream, when it starts, and `save` each time that a checkpoint has changed, or could
    not be saved the last time; under asyncio both in a thread, so they may block.

    Examples
    --------
    >>> import redfloe
    >>> class Notebook:
    ...     def __init__(self):
    ...         self.pages = {}
    ...
    ...     def load(self, name):
    ...         return self.pages.get(name)
    ...
    ...     def save(self, name, entry_id):
    ...         self.pages[name] = entry_id
    >>> isinstance(Notebook(), redfloe.CheckpointStore)
    True
    """

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is none yet."""

    def save(self, name: str, entry_id: str) -> None:
        """Keep the checkpoint; once this returns it must survive whatever the store promises."""


class MemoryCheckpointStore:
    """Checkpoints in memory, for tests and for workers that restart within one process.

    Examples
    --------
    >>> import redfloe
    >>> store = redfloe.MemoryCheckpointStore()
    >>> store.save("events", "1704067200000-0")
    >>> store.load("events")
    '1704067200000-0'
    """

    def __init__(self) -> None:
        self._checkpoints: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"MemoryCheckpointStore({self._checkpoints!r})"

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is none yet."""
        return self._checkpoints.get(name)

    def save(self, name: str, entry_id: str) -> None:
        """Keep the checkpoint for as long as the store lives."""
        self._checkpoints[name] = entry_id


class FileCheckpointStore:
    """Checkpoints in files, one for each name, replaced atomically and synced to the disk.

    A name may be any text. A process that is killed while it saves leaves the old checkpoint as it
    was, and at most one file ``*.new`` beside it, which the next `save` of that name takes up.

    Parameters
    ----------
    directory : str or path
        Where the files are; made by `save` if it is missing.

    Raises
    ------
    CheckpointError
        By `load`, where a file is there and does not hold a checkpoint, or cannot be read. It is
        never taken for a missing one: repair it, or delete it to start over. By `save`, where the
        file cannot be written, because the disk is full for instance; the old checkpoint stays.

    Examples
    --------
    >>> import redfloe
    >>> store = redfloe.FileCheckpointStore("checkpoints")
    >>> store.save("events", "1704067200000-0")
    >>> redfloe.FileCheckpointStore("checkpoints").load("events")
    '1704067200000-0'
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)

    def __repr__(self) -> str:
        return f"FileCheckpointStore({str(self._directory)!r})"

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is no file."""
        path = self._directory / _file_name(name)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            msg = f"{path} cannot be read: {error.strerror}"
            raise CheckpointError(msg) from error
        except ValueError as error:
            raise _corrupt(path) from error
        try:
            match json.loads(text):
                case {"name": str(found), "entry_id": str(entry_id)} if found == name:
                    return entry_id
        except json.JSONDecodeError as error:
            raise _corrupt(path) from error
        raise _corrupt(path)

    def save(self, name: str, entry_id: str) -> None:
        """Write the checkpoint to a file beside the old one, sync it, and put it in its place."""
        path = self._directory / _file_name(name)
        text = json.dumps({"name": name, "entry_id": entry_id})
        try:
            make_directory(self._directory)
            _replace(path, text.encode())
            sync(self._directory)
        except OSError as error:
            msg = f"{path} cannot be written: {error.strerror}"
            raise CheckpointError(msg) from error


#: Bytes that a name may have in most file systems, less those of ".new".
_LONGEST = 255 - 4


def _file_name(name: str) -> str:
    """Give the name's file; no two names have the same, but in a file system without case."""
    quoted = quote(_encoded(name), safe="") + ".json"
    if len(quoted) <= _LONGEST:
        return quoted
    # "+" is quoted in other names.
    return f"{quoted[:150]}+{sha256(name.encode()).hexdigest()}.json"


def _replace(path: Path, content: bytes) -> None:
    """Put a file of this content, synced, in the place of the one at the path."""
    beside = path.with_name(path.name + ".new")
    # The name is always the same, so that processes that are killed do not leave one file each.
    with _locked(beside) as file:
        try:
            file.truncate(0)  # what one that was killed has left
            while content:
                content = content[file.write(content) :]
            os.fsync(file)
            beside.replace(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise


def _locked(path: Path) -> io.FileIO:
    """Open a file that no other process or thread has open in this way."""
    while True:
        with ExitStack() as stack:
            file = stack.enter_context(io.FileIO(path, "a"))
            with suppress(OSError):  # of a file system without locks
                flock(file, LOCK_EX)
            # Who had the lock before has given the file its own name by now.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    stack.pop_all()
                    return file


def _corrupt(place: Path | str) -> CheckpointError:
    return CheckpointError(
        f"{place} does not hold a checkpoint; repair it, or delete it to start over"
    )


class RedisCheckpointStore:
    """Checkpoints in Redis, one string key each (GET and SET, Redis 1.0).

    Those of several streams are sent together, in a Redis Cluster by node.
    They live as long as the server keeps its data: a server without persistence forgets them
    together with its streams.

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`; not necessarily the stream's server.
    key_prefix : str, default "redfloe:checkpoint:"
        What the key of a checkpoint begins with, before its name.

    Raises
    ------
    CheckpointError
        By `load`, where the key holds something that is not text. It is never taken for a missing
        one: repair it, or delete it to start over. By both, where the name is no text.
    RedisConnectionError, RedisTimeoutError, AuthenticationError
        By `load` and `save`, as for `read_stream`.

    Examples
    --------
    >>> import redfloe
    >>> store = redfloe.RedisCheckpointStore(url)
    >>> store.save("events", "1704067200000-0")
    >>> redfloe.RedisCheckpointStore(url).load("events")
    '1704067200000-0'
    """

    def __init__(self, url: str | RedisConnection, key_prefix: str = "redfloe:checkpoint:") -> None:
        self._connection = url = connect(url)
        check_connection(url)
        self._key_prefix = as_text(key_prefix, "key_prefix")

    def __repr__(self) -> str:
        return f"RedisCheckpointStore({self._connection!r}, {self._key_prefix!r})"

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is no such key."""
        with self._telling_of(name):
            [value] = self._get([self._key(name)]).wait()
            return None if value is None else value.decode()

    async def load_async(self, name: str) -> str | None:
        """Give the checkpoint of that name; the asynchronous twin of `load`."""
        with self._telling_of(name):
            [value] = await completed(self._get([self._key(name)]).start())
            return None if value is None else value.decode()

    def load_many(self, names: Sequence[str]) -> list[str | None]:
        """Give the checkpoints of these names, in their order, in few round trips."""
        try:
            return self._texts(names, self._get(self._keys(names)).wait())
        except WrongTypeError:
            return [self.load(name) for name in names]  # which says of which

    async def load_many_async(self, names: Sequence[str]) -> list[str | None]:
        """Give the checkpoints of these names; the asynchronous twin of `load_many`."""
        try:
            return self._texts(names, await completed(self._get(self._keys(names)).start()))
        except WrongTypeError:
            return [await self.load_async(name) for name in names]

    def save(self, name: str, entry_id: str) -> None:
        """Set the key."""
        self.save_many({name: entry_id})

    async def save_async(self, name: str, entry_id: str) -> None:
        """Set the key; the asynchronous twin of `save`."""
        await self.save_many_async({name: entry_id})

    def save_many(self, checkpoints: Mapping[str, str]) -> None:
        """Set the keys of these names, in few round trips."""
        _check_saved(self._set(self._pairs(checkpoints)).wait())

    async def save_many_async(self, checkpoints: Mapping[str, str]) -> None:
        """Set the keys of these names; the asynchronous twin of `save_many`."""
        _check_saved(await completed(self._set(self._pairs(checkpoints)).start()))

    def _get(self, keys: list[bytes]) -> _core.Operation[list[bytes | None]]:
        return _core.get_values(self._connection, keys)

    def _set(self, pairs: list[tuple[bytes, bytes]]) -> _core.Operation[bool]:
        return _core.set_values(self._connection, pairs)

    def _texts(self, names: Sequence[str], values: list[bytes | None]) -> list[str | None]:
        texts: list[str | None] = []
        for name, value in zip(names, values, strict=True):
            with self._telling_of(name):
                texts.append(None if value is None else value.decode())
        return texts

    def _keys(self, names: Sequence[str]) -> list[bytes]:
        return [self._key(name) for name in names]

    def _pairs(self, checkpoints: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
        return [(self._key(name), entry_id.encode()) for name, entry_id in checkpoints.items()]

    @contextmanager
    def _telling_of(self, name: str) -> Iterator[None]:
        try:
            yield
        except (UnicodeDecodeError, WrongTypeError) as error:
            key = f"the key {self._key_prefix + name!r}"
            raise _corrupt(key) from error

    def _key(self, name: str) -> bytes:
        return _encoded(self._key_prefix + as_text(name, "name"))


class LoopStoppedError(Exception):
    """A loop was stopped before its checkpoint was saved."""


def _check_saved(saved: bool) -> None:
    if not saved:
        raise LoopStoppedError


class LoopCheckpoints(RedisCheckpointStore):
    """A store of checkpoints for one loop: as patient in an outage as the loop itself.

    Once it is stopped `load` gives None and `save` raises `LoopStoppedError`, but for
    what is quick.
    """

    def __init__(
        self, store: RedisCheckpointStore, reader: str | RedisConnection, request: Request
    ) -> None:
        super().__init__(store._connection, store._key_prefix)
        self._checkpoints = _core.Checkpoints(store._connection, reader, request)

    def _get(self, keys: list[bytes]) -> _core.Operation[list[bytes | None]]:
        return self._checkpoints.get(keys)

    def _set(self, pairs: list[tuple[bytes, bytes]]) -> _core.Operation[bool]:
        return self._checkpoints.set(pairs)

    def stop(self) -> None:
        """Give up soon what waits, now and from now on; from any thread."""
        self._checkpoints.stop()


def _encoded(name: str) -> bytes:
    try:
        return as_text(name, "name").encode()
    except UnicodeEncodeError as error:
        msg = f"the checkpoint's name {name!r} has lone surrogates, which are no text"
        raise CheckpointError(msg) from error
