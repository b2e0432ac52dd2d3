"""Where a worker that reads without a group had come to, kept from run to run."""

import json
import os
from pathlib import Path
from typing import Protocol, runtime_checkable
from urllib.parse import quote

from redfloe import _core
from redfloe._core import RedisConnection
from redfloe._errors import CheckpointError


@runtime_checkable
class CheckpointStore(Protocol):
    """What `StreamConsumer` needs of a store of checkpoints: any class with these two methods.

    A checkpoint is the ID of the last entry that a worker is done with. `StreamConsumer` calls
    `load` once, when it starts, and `save` each time that it is done with a batch; under asyncio
    both in a thread, so they may block.

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

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is none yet."""
        return self._checkpoints.get(name)

    def save(self, name: str, entry_id: str) -> None:
        """Keep the checkpoint for as long as the store lives."""
        self._checkpoints[name] = entry_id


class FileCheckpointStore:
    """Checkpoints in files, one for each name, replaced atomically and synced to the disk.

    Parameters
    ----------
    directory : str or path
        Where the files are; made if it is missing.

    Raises
    ------
    CheckpointError
        By `load`, where a file is there and does not hold a checkpoint. It is never taken for a
        missing one: repair it, or delete it to begin anew.

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
        path = self._path(name)
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
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
        path = self._path(name)
        beside = path.with_name(f"{path.name}.{os.getpid()}.new")
        self._directory.mkdir(parents=True, exist_ok=True)
        with beside.open("w", encoding="utf-8") as file:
            json.dump({"name": name, "entry_id": entry_id}, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        # The new name has to reach the disk as well.
        directory = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _path(self, name: str) -> Path:
        return self._directory / f"{quote(name, safe='')}.json"


def _corrupt(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} does not hold a checkpoint; repair it, or delete it to begin anew"
    )


class RedisCheckpointStore:
    """Checkpoints in Redis, one string key each (GET and SET, Redis 1.0).

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
        By `load`, where the key holds something that is not text.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError
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
        self._connection = RedisConnection(url) if isinstance(url, str) else url
        self._key_prefix = key_prefix

    def __repr__(self) -> str:
        return f"RedisCheckpointStore({self._connection!r}, {self._key_prefix!r})"

    def load(self, name: str) -> str | None:
        """Give the checkpoint of that name, or None where there is no such key."""
        value = _core.get_value(self._connection, self._key(name))
        try:
            return None if value is None else value.decode()
        except UnicodeDecodeError as error:
            msg = f"the key {self._key_prefix + name!r} does not hold a checkpoint"
            raise CheckpointError(msg) from error

    def save(self, name: str, entry_id: str) -> None:
        """Set the key."""
        _core.set_value(self._connection, self._key(name), entry_id.encode())

    def _key(self, name: str) -> bytes:
        return (self._key_prefix + name).encode()
