"""Small files that are written aside: in a directory, or below a prefix of an object store."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redfloe._files import as_os_error, make_directory, sync
from redfloe._lake.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What a crash may leave of a file that was being written, after its name.
_NEW = ".new"


class LocalFiles:
    """Files of a directory, which outlast a loss of power once they are there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        """List the files."""
        try:
            return [entry.name for entry in self._path.iterdir()]
        except FileNotFoundError:
            return []

    def get(self, name: str) -> bytes:
        """Give what a file has."""
        return (self._path / name).read_bytes()

    def put(self, name: str, content: bytes) -> None:
        """Have a file, whole."""
        aside = self._write(f"{name}{_NEW}", content)
        aside.rename(self._path / name)
        sync(self._path)

    def create(self, name: str, content: bytes) -> None:
        """Have a file, unless there is one."""
        aside = self._write(f"{name}.{uuid4().hex}{_NEW}", content)
        with suppress(FileExistsError):
            os.link(aside, self._path / name)
        aside.unlink(missing_ok=True)
        sync(self._path)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def _write(self, name: str, content: bytes) -> Path:
        make_directory(self._path)
        aside = self._path / name
        try:
            with as_os_error(aside):
                aside.write_bytes(content)
            sync(aside)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise
        return aside


class StoredFiles:
    """Objects below a prefix, each of which is there whole or not at all."""

    def __init__(self, url: str, storage_options: Mapping[str, Any]) -> None:
        self._bucket = Bucket(url, storage_options)

    def names(self) -> list[str]:
        """List the objects."""
        return self._bucket.keys()

    def get(self, name: str) -> bytes:
        """Give what an object has."""
        return self._bucket.get(name)

    def put(self, name: str, content: bytes) -> None:
        """Have an object."""
        self._bucket.put(name, content)

    def create(self, name: str, content: bytes) -> None:
        """Have an object, unless there is one."""
        self._bucket.create(name, content)

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        self._bucket.delete(name)


def files_at(
    place: str, folder: str, storage_options: Mapping[str, Any] | None
) -> LocalFiles | StoredFiles:
    """Give the files of a folder of a directory, or of an object store's prefix."""
    if "://" in place:
        return StoredFiles(f"{place.rstrip('/')}/{folder}", storage_options or {})
    return LocalFiles(Path(place, folder))
