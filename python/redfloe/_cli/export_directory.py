"""An export into a directory of files, which goes on where it ended, whatever ended it.

The directory holds parts, which are never changed, and a state that says up to which entry they go.
A batch of entries becomes one part, or one for each partition. The state names them before they are
written, and counts them once they are all there. So whatever dies, the next run deletes the parts
of a batch that was not finished and writes it again: each entry is in one part, once.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import TYPE_CHECKING, Self

import polars as pl

from redfloe._cli.formats import Format
from redfloe._cli.texts import write
from redfloe._files import OWN_FOLDER, hive_folders, sync
from redfloe._lake.ranges import TIME_PARTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class ExportState:
    """Of which stream the parts are, and up to which entry."""

    stream: str
    format: str
    partition_by: list[str]
    payload: str | None
    #: Without the files of schemas, which may move.
    payload_format: str = "json"
    payload_compression: str | None = None
    start: str = "-"
    text: bool = False
    id_column: str = "_id"
    timestamp_column: str = "_ts"
    last_id: str | None = None
    #: What tells the last entry from another of the same ID; unknown to earlier versions.
    last_entry: str | None = None
    entries: int = 0
    #: The parts that are being written.
    unfinished: list[str] | None = None


class ExportDirectory:
    """The parts of an export, and its state."""

    def __init__(self, path: Path, state: ExportState, schema: pl.Schema) -> None:
        self._path = path
        self._schema = schema
        self.state = state

    @classmethod
    @contextmanager
    def opened(
        cls, path: Path, wanted: ExportState, infer: Callable[[], pl.Schema]
    ) -> Iterator[Self]:
        """Go on with an export, or begin one, whose schema is inferred once and for all.

        No other process may write into the directory meanwhile.

        Raises
        ------
        ValueError
            The directory holds another export, or files of somebody else's.
        BlockingIOError
            Another process exports into it.
        """
        own = path / OWN_FOLDER
        if not own.exists():
            if path.exists() and any(path.iterdir()):
                msg = f"{path} is not empty, and holds no export: give a directory of its own"
                raise ValueError(msg)
            own.mkdir(parents=True, exist_ok=True)
        with (own / "lock").open("w") as lock:
            try:
                flock(lock, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                msg = f"another process exports into {path}"
                raise BlockingIOError(msg) from None
            yield cls._open(path, wanted, infer)

    @classmethod
    def _open(cls, path: Path, wanted: ExportState, infer: Callable[[], pl.Schema]) -> Self:
        own = path / OWN_FOLDER
        if not (own / "state.json").exists():
            export = cls(path, wanted, infer())
            # A mistyped name leaves nothing behind.
            _partitions(wanted, export._schema)
            export._save_schema()
            export._save()
            return export
        state = ExportState(**json.loads((own / "state.json").read_text()))
        for name in (
            *("stream", "format", "partition_by", "start", "text"),
            *("payload", "payload_format", "payload_compression"),
            *("id_column", "timestamp_column"),
        ):
            there, given = getattr(state, name), getattr(wanted, name)
            if there != given:
                msg = f"{path} holds an export with {name} {there!r}, not {given!r}"
                raise ValueError(msg)
        export = cls(path, state, pl.Schema(pl.read_ipc_schema(own / "schema.arrow")))
        export._discard_unfinished()
        if state.last_id is None and not export._schema:
            # The stream was empty until now.
            export._schema = infer()
            export._save_schema()
        return export

    def _save_schema(self) -> None:
        frame = io.BytesIO()
        pl.DataFrame(schema=self._schema).write_ipc(frame)
        _replace(self._path / OWN_FOLDER / "schema.arrow", frame.getvalue())

    @property
    def schema(self) -> pl.Schema:
        """The fields of all parts."""
        return self._schema

    def is_last(self, frame: pl.DataFrame) -> bool:
        """Tell whether a frame ends with the entry that was written last, as far as is known."""
        return self.state.last_entry in (None, self._digest(frame))

    def _digest(self, frame: pl.DataFrame) -> str:
        fields = frame.select(self._schema.names()).row(-1)
        return hashlib.sha256(repr(fields).encode(errors="surrogatepass")).hexdigest()

    def add(self, frame: pl.DataFrame) -> None:
        """Write a batch, whose IDs are greater than those of all before."""
        ids = frame[self.state.id_column]
        first, last = str(ids[0]), str(ids[-1])
        parts = dict(self._parts(frame, f"{first}.{self.state.format}"))
        self.state.unfinished = [str(part) for part in parts]
        self._save()
        for part, rows in parts.items():
            path = self._path / part
            path.parent.mkdir(parents=True, exist_ok=True)
            write(rows, path, Format(self.state.format))
            sync(path)
            for folder in path.parents:  # a new file, and a new folder, is an entry of its folder
                sync(folder)
                if folder == self._path:
                    break
        self.state.unfinished = None
        self.state.last_id, self.state.last_entry = last, self._digest(frame)
        self.state.entries += frame.height
        self._save()

    def _parts(self, frame: pl.DataFrame, name: str) -> Iterator[tuple[Path, pl.DataFrame]]:
        keys = self.state.partition_by
        if not keys:
            yield Path(name), frame
            return
        for values, rows in (
            frame.with_columns(_partitions(self.state, self._schema))
            .partition_by(keys, as_dict=True, maintain_order=True)
            .items()
        ):
            folders = hive_folders(keys, values, "--partition-by")
            yield folders / name, rows.drop(keys)

    def _discard_unfinished(self) -> None:
        if self.state.unfinished is not None:
            for part in self.state.unfinished:
                (self._path / part).unlink(missing_ok=True)
            self.state.unfinished = None
            self._save()

    def _save(self) -> None:
        text = json.dumps(self.state.__dict__, indent=1)
        _replace(self._path / OWN_FOLDER / "state.json", text.encode())


def _partitions(state: ExportState, fields: pl.Schema) -> list[pl.Expr]:
    """Give the values of the partitions: those of fields, or a part of the entry's time."""
    made = []
    for key in state.partition_by:
        if key in fields:
            if fields[key].is_nested():
                msg = f"no folder can be named after the values of {key!r}, which are {fields[key]}"
                raise ValueError(msg)
            made.append(pl.col(key))
        elif key in TIME_PARTS:
            made.append(pl.col(state.timestamp_column).dt.strftime(TIME_PARTS[key]).alias(key))
        else:
            msg = (
                f"there is no column {key!r}, and no such part of the time: {', '.join(TIME_PARTS)}"
            )
            raise ValueError(msg)
    return made


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(path.name + ".new")
    new.write_bytes(content)
    sync(new)
    new.replace(path)
    sync(path.parent)
