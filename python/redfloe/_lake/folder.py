"""An archive's files in a directory: written aside, and moved to their place.

A file is written into the folder ``_redfloe``, under a name that readers who look for ``*.parquet``
do not see, synced, and renamed: the rename is the commit, and the file's name says which entries
are in. What a crash leaves is a file that nobody sees, which the next archiver deletes.
"""

from __future__ import annotations

import os
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from redfloe._errors import FencedError
from redfloe._files import OWN_FOLDER, as_os_error, make_directory, sync
from redfloe._lake.ranges import is_hidden

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What is written aside.
_ASIDE = ".part"


class Folder:
    """A directory of files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = path / OWN_FOLDER
        #: What Polars needs to read a file.
        self.storage_options: dict[str, Any] = {}
        self._lock: IO[str] | None = None

    def __str__(self) -> str:
        return str(self.path)

    def open(self) -> None:
        """Be the only one who writes, until `close` or the end of the process, however it ends.

        Raises
        ------
        FencedError
            Another archiver writes there.
        """
        make_directory(self._own)
        lock = (self._own / "lock").open("w")
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            lock.close()
            msg = f"another archiver writes to {self}"
            raise FencedError(msg) from None
        except BaseException:
            lock.close()
            raise
        self._lock = lock
        for entry in self._own.iterdir():
            if entry.suffix == _ASIDE:
                entry.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another one write."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def names(self) -> Iterator[str]:
        """List the files that readers see, by their paths in the directory."""
        # A folder may be a link to where there is more room.
        for folder, folders, files in os.walk(self.path, onerror=_unless_gone, followlinks=True):
            folders[:] = [name for name in folders if not is_hidden(name)]
            for file in files:
                if file.endswith(".parquet") and not is_hidden(file):
                    yield Path(folder, file).relative_to(self.path).as_posix()

    def has(self, folder: str) -> bool:
        """Say whether there is a folder of this name."""
        return (self.path / folder).is_dir()

    def source(self, name: str) -> str:
        """Give what Polars reads a file by."""
        return str(self.path / name)

    def claimed(self, stream: bytes, after: str) -> str | None:  # noqa: ARG002 -- as Bucket's
        """Give no name: what was not renamed is not there."""
        return None

    def commit(
        self,
        stream: bytes,  # noqa: ARG002 -- as Bucket's
        after: str,  # noqa: ARG002
        name: str,
        write: Callable[[Path], object],
    ) -> bool:
        """Have readers see a file, whole; say that it was not there."""
        target = self.path / name
        aside = self._own / f"{target.stem}{_ASIDE}"
        try:
            with as_os_error(aside):
                write(aside)
            sync(aside)
            make_directory(target.parent)
            aside.rename(target)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        sync(target.parent)
        return True


def _unless_gone(error: OSError) -> None:
    """Raise where a folder cannot be looked into, whose files are there all the same."""
    if not isinstance(error, FileNotFoundError):
        raise error
