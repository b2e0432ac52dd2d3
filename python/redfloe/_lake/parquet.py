"""An archive of Parquet files, whose names and footers say up to where it goes."""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import unquote

import polars as pl

from redfloe._errors import SchemaError
from redfloe._files import NULL_FOLDER, hive_folders
from redfloe._lake.bucket import Bucket
from redfloe._lake.folder import Folder
from redfloe._lake.ranges import PART_DTYPES, TIME_PARTS, Range, cut, time_part
from redfloe._reading.offsets import as_pair
from redfloe._words import readable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Store: TypeAlias = Folder | Bucket

#: What a footer's entry is called that says which stream the file is of.
_METADATA = "redfloe"


class File(NamedTuple):
    """A file of an archive."""

    name: str
    range: Range


def store_of(to: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Store:
    """Give the place of an archive's files."""
    if "://" in (place := place_of(to)):
        return Bucket(place, storage_options or {})
    return Folder(Path(place))


def place_of(to: str | os.PathLike[str]) -> str:
    """Give the URL of an object store, or the path of a directory, wherever the process goes.

    Raises
    ------
    ValueError, TypeError
        It is neither.
    """
    given: Any = to
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str):
        msg = f"to must be a path or a URL, not {type(to).__name__}"
        raise TypeError(msg)
    if not text:
        msg = 'to is empty: it is a directory, or a URL such as "s3://bucket/lake"'
        raise ValueError(msg)
    if text.startswith("file://"):
        from urllib.request import url2pathname

        text = url2pathname(text.removeprefix("file://"))
    return text if "://" in text else str(Path(text).absolute())


class Layout(NamedTuple):
    """In which folders the files are: those of a stream, where there are several, and of a time."""

    stream_column: str | None
    parts: tuple[str, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Give the names of the folders' values."""
        stream = () if self.stream_column is None else (self.stream_column,)
        return (*stream, *self.parts)


class ParquetArchive:
    """What is archived of streams, as Parquet files."""

    def __init__(
        self,
        store: Store,
        streams: Sequence[bytes],
        layout: Layout,
        *,
        id_column: str = "_id",
        compression: str = "zstd",
    ) -> None:
        self._store = store
        self._streams = streams
        self._layout = layout
        for stream in streams if layout.stream_column is not None else ():
            self._stream_folder(stream)  # which may be too long
        self._id_column = id_column
        self._compression = compression
        self._files: dict[bytes, list[File]] = {}
        #: Up to where each stream is archived.
        self.positions: dict[bytes, str] = {}
        #: The columns of the newest files.
        self.schema = pl.Schema()

    @staticmethod
    def check_parts(parts: Sequence[str]) -> None:
        """Refuse partitions that are no ranges of IDs: a rename is one file's."""
        for part in parts:
            if part not in TIME_PARTS:
                msg = (
                    f"partition_by takes {', '.join(TIME_PARTS)} for Parquet, not {part!r}: a file "
                    'is a commit, and has a range of entries; use format="delta", or a '
                    "StreamProcessor with a ParquetSink, which divide batches by any column"
                )
                raise ValueError(msg)

    def open(self) -> None:
        """Find out up to where the archive goes, and keep others from writing.

        Raises
        ------
        ValueError
            The files are another archive's, or not of one.
        FencedError
            Another archiver writes there.
        """
        self._store.open()
        self.look()

    def look(self) -> None:
        """Find out up to where the archive goes."""
        before = _listed(self._store, self._layout, self._streams)
        # A listing may miss a file that is put while it goes on, and have one that was put later:
        # whatever is older than what the first has, the second has.
        listed = _listed(self._store, self._layout, self._streams)
        if not listed and self._store.has("_delta_log"):
            msg = f'{self._store} is a Delta table: pass format="delta"'
            raise ValueError(msg)
        self._files = {
            stream: [
                file
                for file in listed.get(stream, files)
                if as_pair(file.range.last) <= as_pair(files[-1].range.last)
            ]
            for stream, files in before.items()
        }
        for stream, files in self._files.items():
            newest = files[-1]
            self.positions[stream] = newest.range.last
            self._check_stream(stream, newest)
            schema = pl.scan_parquet(self._source(newest), **self._options).collect_schema()
            for name, dtype in schema.items():
                if self.schema.setdefault(name, dtype) != dtype:
                    msg = (
                        f"{self._store} has {name!r} as {dtype} and as {self.schema[name]}, of "
                        "different streams; archive them apart"
                    )
                    raise SchemaError(msg)

    def _check_stream(self, stream: bytes, file: File) -> None:
        source = self._source(file)
        try:
            footer = pl.read_parquet_metadata(source, **self._store.storage_options)
        except pl.exceptions.ComputeError as error:
            msg = f"{source} is no whole Parquet file: delete it, or have it restored"
            raise ValueError(msg) from error
        metadata = footer.get(_METADATA)
        known = None if metadata is None else json.loads(metadata)["stream"]
        if known != readable(stream):
            what = "of no archive" if known is None else f"of the stream {known!r}"
            msg = f"{source} is {what}: give the archive of {readable(stream)!r} a place of its own"
            raise ValueError(msg)

    def _source(self, file: File) -> str:
        return self._store.source(file.name)

    @property
    def _options(self) -> dict[str, Any]:
        return {"hive_partitioning": False, "glob": False, **self._store.storage_options}

    def close(self) -> None:
        """Let another one write."""
        self._store.close()

    @staticmethod
    def stored(dtype: Any) -> Any:
        """Give the dtype that a dtype has once it is stored."""
        return dtype

    def claimed(self) -> Iterable[tuple[bytes, str, Range]]:
        """Give the files that somebody was to write and has not, of a stream and with a name."""
        for stream in self._streams:
            name = self._store.claimed(stream, self._position(stream))
            if name is not None:
                range_, _ = _parsed(self._store, self._layout, name)
                yield stream, name, range_

    def _position(self, stream: bytes) -> str:
        return self.positions.get(stream, "0-0")

    def add_claimed(self, stream: bytes, name: str, range_: Range, rows: pl.DataFrame) -> None:
        """Write such a file, with the rows that there are in its range."""
        self._commit(stream, name, range_, rows)

    def add(self, batch: Iterable[tuple[bytes, pl.DataFrame]]) -> None:
        """Archive rows of streams, in the order of their IDs, each of which comes once.

        Each file is a commit of its own; where an error or a crash comes between two, those that
        are there count.
        """
        for stream, frame in batch:
            for values, rows in cut(frame, self._layout.parts, self._id_column):
                ids = rows[self._id_column]
                range_ = Range(ids[0], ids[-1])
                folders = hive_folders(self._layout.parts, values, "partition_by")
                name = (self._stream_folder(stream) / folders / range_.file).as_posix()
                self._commit(stream, name, range_, rows)

    def _stream_folder(self, stream: bytes) -> Path:
        """Give the folder of a stream, where there are several: named as its column is for all."""
        column = self._layout.stream_column
        if column is None:
            return Path()
        if readable(stream) == NULL_FOLDER:
            msg = f"{NULL_FOLDER!r} is Hive's name for no value: archive that stream by itself"
            raise ValueError(msg)
        return hive_folders((column,), (readable(stream),), "the list of streams")

    def _commit(self, stream: bytes, name: str, range_: Range, rows: pl.DataFrame) -> None:
        metadata = json.dumps({"stream": readable(stream), **range_._asdict()})
        write = partial(self._write, rows, {_METADATA: metadata})
        if not self._store.commit(stream, self._position(stream), name, write):
            # One who was quicker has the same rows, if they are of the same stream.
            self._check_stream(stream, File(name, range_))
        self.positions[stream] = range_.last

    def _write(self, rows: pl.DataFrame, metadata: dict[str, str], file: Path | IO[bytes]) -> None:
        rows.write_parquet(file, compression=self._compression, metadata=metadata)  # type: ignore[arg-type]  # it is checked

    # For readers

    def scan(self, stream: bytes) -> pl.LazyFrame | None:
        """Scan what is archived of a stream, as of `look`; None where nothing is."""
        files = self._files.get(stream)
        if files is None:
            return None
        newest = pl.scan_parquet(self._source(files[-1]), **self._options).collect_schema()
        hive: dict[str, Any] = dict.fromkeys(self._layout.keys, pl.String())
        hive |= {name: dtype for name, dtype in PART_DTYPES.items() if name in hive}
        # Polars takes the folders that the archive is in for partitions, too.
        by_folders = bool(hive) and "=" not in str(self._store)
        scan = pl.scan_parquet(
            [self._source(file) for file in files],
            schema=newest,
            hive_schema=hive if by_folders else None,
            missing_columns="insert",
            **(self._options | {"hive_partitioning": by_folders}),
        )
        if by_folders:
            return scan
        column = self._layout.stream_column
        of_stream = [] if column is None else [pl.lit(readable(stream)).alias(column)]
        return scan.with_columns(*of_stream, *self.partitions())

    def partitions(self) -> list[pl.Expr]:
        """Give the partitions of rows, as those of the files are read."""
        parts = self._layout.parts
        return [time_part(part, self._id_column, PART_DTYPES.get(part)) for part in parts]


def _listed(store: Store, layout: Layout, streams: Sequence[bytes]) -> dict[bytes, list[File]]:
    """List the files of streams, in the order of their IDs."""
    found: dict[bytes, list[File]] = {}
    by_name = {readable(stream): stream for stream in streams}
    for name in store.names():
        range_, of_stream = _parsed(store, layout, name)
        stream = streams[0] if of_stream is None else by_name.get(of_stream)
        if stream is not None:
            found.setdefault(stream, []).append(File(name, range_))
    for files in found.values():
        files.sort(key=lambda file: as_pair(file.range.first))
        for before, after in pairwise(files):
            if as_pair(before.range.last) >= as_pair(after.range.first):
                msg = (
                    f"{store} has entries twice, in {before.name} and {after.name}: delete one of "
                    "them, or the files that one was made of"
                )
                raise ValueError(msg)
    return found


def _parsed(store: Store, layout: Layout, name: str) -> tuple[Range, str | None]:
    """Give a file's range, and the name of its stream where there are several."""
    *folders, last = name.split("/")
    range_ = Range.of_file(last)
    if range_ is None:
        msg = f"{store} holds {name}, no file of an archive: give the archive a place of its own"
        raise ValueError(msg)
    keys = tuple(unquote(folder.partition("=")[0]) for folder in folders)
    if keys != layout.keys:
        msg = (
            f"{store} holds {name}, with folders by {list(keys)}, and not by "
            f"{list(layout.keys)}: an archive keeps its partition_by, and is of one stream, "
            "or of several"
        )
        raise ValueError(msg)
    is_of_several = layout.stream_column is not None
    return range_, unquote(folders[0].partition("=")[2]) if is_of_several else None
