"""Files that outlast a loss of power, and folders that are named after values."""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Of redfloe's own, in a directory of files that it writes.
OWN_FOLDER = "_redfloe"

#: Hive's folder of rows that have no value.
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"

#: The longest name of a folder that file systems take, in bytes.
_LONGEST_NAME = 255

#: How Rust's libraries show an error of the operating system, whatever they raise it as.
_OS_ERROR = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")


@contextmanager
def as_os_error(path: Path | str) -> Iterator[None]:
    """Raise as OSError what Polars or delta-rs raise as something of theirs: a full disk, say."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        found = _OS_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found[1] or found[2])
        raise OSError(number, os.strerror(number), str(path)) from error


def sync(path: Path) -> None:
    """Have the disk keep a file's content, or a folder's names, through a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(directory: Path) -> None:
    """Make a directory and those it is in, so that they outlast a loss of power."""
    if not directory.is_dir():
        make_directory(directory.parent)
        directory.mkdir(exist_ok=True)
        sync(directory.parent)


def hive_folders(keys: Sequence[str], values: Sequence[Any], parameter: str) -> Path:
    """Give the folders of a partition, ``key=value/key=value``.

    Raises
    ------
    ValueError
        A value is too long for the name of a folder; the message names the parameter.
    """
    folders = [
        f"{quote(key, safe=' ')}={_folder(value)}" for key, value in zip(keys, values, strict=True)
    ]
    for key, value, folder in zip(keys, values, folders, strict=True):
        if len(folder.encode()) > _LONGEST_NAME:
            msg = (
                f"a value of {key!r} is too long for the name of a folder, "
                f"{str(value)[:40]!r}...; leave it out of {parameter}"
            )
            raise ValueError(msg)
    return Path(*folders)


def _folder(value: Any) -> str:
    """Give a value as a part of a path, as Hive does, of its own for each value."""
    if value is None:
        return NULL_FOLDER
    # Bytes as they are, not as Python writes them.
    text = str(value).lower() if isinstance(value, bool) else value
    folder = quote(text if isinstance(text, bytes) else str(text), safe=" ")
    return f"%5F{folder[1:]}" if folder == NULL_FOLDER else folder
