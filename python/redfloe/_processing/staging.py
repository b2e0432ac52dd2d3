"""A directory of files that appear once a commit names them: files alone, without Redis.

A batch's files are written aside, into the folder ``_redfloe``, and then a list of where they
belong, ``<batch>.json``. The processor's commit names that batch; only then are its files moved to
where readers look for them, and the list becomes a marker, ``<batch>.done``, in the place of the
marker of the batch before. So the marker and what Redis names tell at any time what there is still
to do: to move the files of a commit whose process has died, or nothing; anything else means that
one of the two has gone back.

Everything may be done twice, at the same time, by a process that was superseded and does not know
it: whoever comes second finds nothing left to move. It never deletes what one of a later epoch has.
No folder is ever deleted, since readers that look for files by a pattern stumble over that.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING
from uuid import uuid4

from redfloe._errors import DataLossError
from redfloe._files import OWN_FOLDER, as_os_error, make_directory, sync

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    import polars as pl

#: The name of a batch: between which entries, in which epoch, and what no other has; then what it
#: is: a file, a list, a marker, or something of which a crash has left a part.
_OWN = re.compile(r"(\d+-\d+_\d+-\d+\.(\d+)-[0-9a-f]{32})(\.\d+\.part|\.json|\.done|\.new)")
#: What a crash has left of making the directory.
_LEFT = re.compile(r"[0-9a-f]{32}\.new")
#: A file for readers: the entry after which its batch begins, that with which it ends; and its
#: number, if the batch has several.
_FILE = re.compile(r"(\d+-\d+)_(\d+-\d+)(?:-\d+)?\.parquet")


def batch_name(range_: tuple[str, str], epoch: int) -> str:
    """Name a batch."""
    return f"{'_'.join(range_)}.{epoch}-{uuid4().hex}"


class Staging:
    """A processor's directory."""

    def __init__(self, path: Path, owner: dict[str, str | None]) -> None:
        self.path = path
        self._own = path / OWN_FOLDER
        self._owner = owner
        #: What the processor's table knows the directory by.
        self.name = ""

    def open(self) -> str:
        """Give what the directory is known by; one that is new becomes the processor's.

        Raises
        ------
        ValueError
            It is another processor's, or holds other files.
        """
        identity = self._own / "sink.json"
        if not identity.exists():
            for file in self._files():
                if not _FILE.fullmatch(file.name):
                    msg = f"{self.path} holds {file.name}: give the sink a directory of its own"
                    raise ValueError(msg)
            make_directory(self._own)
            self._make(identity)
        known = json.loads(identity.read_text())
        owner = {name: known.get(name) for name in self._owner}
        if owner != self._owner:
            msg = (
                f"{self.path} is the sink of the processor {owner['processor']!r} of the stream "
                f"{owner['stream']!r}, and this is {self._owner['processor']!r} of "
                f"{self._owner['stream']!r}: give each a directory of its own"
            )
            raise ValueError(msg)
        self.name = str(known["sink"])
        return self.name

    def _make(self, identity: Path) -> None:
        """Make the directory's identity, unless another process is quicker."""
        name = uuid4().hex
        aside = self._own / f"{name}.new"
        aside.write_text(json.dumps({"sink": name, **self._owner}, indent=1))
        sync(aside)
        with suppress(FileExistsError, FileNotFoundError):  # it has deleted this one, too
            os.link(aside, identity)
        aside.unlink(missing_ok=True)
        sync(self._own)

    def stage(
        self,
        batch: str,
        first: int,
        frames: Iterable[pl.DataFrame],
        write: Callable[[pl.DataFrame, Path], object],
    ) -> None:
        """Write files aside, with numbers from `first` on, all or none.

        They outlast a loss of power then.
        """
        written: list[Path] = []
        try:
            for number, frame in enumerate(frames, first):
                file = self._part(batch, number)
                written.append(file)
                with as_os_error(file):
                    write(frame, file)
                sync(file)
        except BaseException:
            with suppress(OSError):
                for file in written:
                    file.unlink(missing_ok=True)
            raise
        sync(self._own)

    def write_list(self, batch: str, targets: Mapping[int, Path]) -> None:
        """List where a batch's files belong, by their numbers; those without a place have none."""
        places = [targets.get(number) for number in range(max(targets) + 1)]
        new = self._own / f"{batch}.new"
        new.write_text(json.dumps([None if place is None else str(place) for place in places]))
        sync(new)
        new.rename(self._own / f"{batch}.json")
        sync(self._own)

    def _part(self, batch: str, number: int) -> Path:
        return self._own / f"{batch}.{number}.part"

    def publish(self, batch: str, before: str | None = None) -> None:
        """Move a batch's files to where readers look for them, after the batch `before`."""
        if before is not None:
            (self._own / f"{before}.done").unlink(missing_ok=True)
        listed = self._own / f"{batch}.json"
        try:
            targets = json.loads(listed.read_text())
        except FileNotFoundError:  # another process was quicker
            return
        folders = set()
        for number, name in enumerate(targets):
            if name is None:  # of a write that was given up
                self._part(batch, number).unlink(missing_ok=True)
                continue
            target = self.path / name
            make_directory(target.parent)
            try:
                self._part(batch, number).rename(target)
            except FileNotFoundError:  # another process was quicker, or this one before it died
                if listed.exists() and not target.exists():
                    raise
            folders.add(target.parent)
        for folder in folders:
            sync(folder)
        with suppress(FileNotFoundError):
            listed.rename(self._own / f"{batch}.done")
        sync(self._own)

    def settle(self, batch: str | None, epoch: int, position: str) -> None:
        """Have everything be as after the batch that was committed last.

        Raises
        ------
        DataLossError
            The directory holds, or lacks, other batches than Redis knows of; or the processor is to
            read entries again whose rows are there.
        """
        own = [entry.name for entry in self._own.iterdir()]
        found = [match for match in map(_OWN.fullmatch, own) if match is not None]
        markers = {match[1] for match in found if match[3] == ".done"}
        listed = {match[1] for match in found if match[3] == ".json"}
        if batch is None:
            is_ahead = bool(markers) or any(self._after(position))
        else:
            end = _id(batch_range(batch)[1])
            is_ahead = _id(position) < end or any(_id(batch_range(one)[1]) > end for one in markers)
            if not is_ahead and batch not in markers:
                if batch not in listed:
                    raise DataLossError(self._lacks(batch))
                self.publish(batch)
        if is_ahead:
            msg = (
                f"{self.path} holds rows of entries after {position}, where the processor is: the "
                "server has lost commits, or the processor was reset or deleted. These rows would "
                f"be written again: delete the folder {OWN_FOLDER} in it, and all files that begin "
                "there or later (they are called <begin>_<end>.parquet); or give the sink a new "
                "directory"
            )
            raise DataLossError(msg)
        for match in found:
            # One of a later epoch belongs to whoever has superseded this process.
            if match[1] != batch and int(match[2]) < epoch:
                (self._own / match[0]).unlink(missing_ok=True)
        for name in filter(_LEFT.fullmatch, own):
            (self._own / name).unlink(missing_ok=True)

    def discard(self, batch: str) -> None:
        """Delete what was written aside, as far as that is possible: the next to settle does it."""
        with suppress(OSError):
            for entry in self._own.iterdir():
                match = _OWN.fullmatch(entry.name)
                if match is not None and match[1] == batch:
                    entry.unlink(missing_ok=True)

    def _files(self) -> Iterator[Path]:
        """Give the files for readers, and those of strangers, as an export's are."""
        is_export = (self._own / "state.json").exists()
        for file in self.path.rglob("*"):
            if (is_export or self._own not in file.parents) and not file.is_dir():
                yield file

    def _after(self, position: str) -> Iterator[Path]:
        """Give the files that end after an entry."""
        for file in self._files():
            range_ = _FILE.fullmatch(file.name)
            if range_ is not None and _id(range_[2]) > _id(position):
                yield file

    def _lacks(self, batch: str) -> str:
        return (
            f"{self.path} lacks the rows of the batch that was committed last, "
            f"{'_'.join(batch_range(batch))}: they are in the directory of another machine, or "
            "were deleted. Restore the directory, or give the sink a new one"
        )


def _id(text: str) -> tuple[int, int]:
    ms, _, seq = text.partition("-")
    return int(ms), int(seq)


def batch_range(batch: str) -> tuple[str, str]:
    """Give the positions between which a batch is."""
    after, _, last = batch.partition(".")[0].partition("_")
    return after, last
