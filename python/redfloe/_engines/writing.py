"""A write by an engine: its tasks write rows aside, and a commit moves them to the stream, once."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

import polars as pl

from redfloe import _core
from redfloe._administration.streams import delete_stream
from redfloe._checks import as_key, positive
from redfloe._frame import as_frame, known
from redfloe._reading.read import read_stream
from redfloe._schema import as_text
from redfloe._write import write_stream
from redfloe._write_arguments import NullTexts, make_request

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from redfloe._core import RedisConnection
    from redfloe._frame import ArrowStream
    from redfloe._options import PayloadCompression, PayloadFormat

DAY_MS = 24 * 60 * 60 * 1000
#: Scripts move the rows, and what Lua passes to a command has a limit.
MOST_FIELDS = 3_500
#: As the server writes IDs.
_WHOLE_ID = r"^(0|[1-9]\d*)-(0|[1-9]\d*)$"


class RowOptions(TypedDict, total=False):
    """What says how rows become entries; each means the same as in `redfloe.write_stream`."""

    fields: Sequence[str] | None
    null_values: NullTexts | None
    payload: str | None
    payload_format: PayloadFormat
    payload_fields: Sequence[str]
    payload_compression: PayloadCompression | None
    on_empty_row: Literal["raise", "skip"]


class Aside(NamedTuple):
    """What a task has written, and where."""

    key: bytes
    rows: int


class StagedWrite:
    """All rows of a job, or none, each once. It can be pickled, with the password."""

    def __init__(
        self,
        url: str | RedisConnection,
        stream: str | bytes,
        job: str | None,
        staging_ms: int,
        options: RowOptions,
    ) -> None:
        self._url = _core.connect(url)
        self._stream = as_key(stream, "stream")
        if job == "":
            msg = "job is empty: all jobs without a name would be one; leave it out, or name it"
            raise ValueError(msg)
        self._is_named = job is not None
        self._job = uuid.uuid4().hex if job is None else as_text(job, "job")
        self._staging_ms = positive(staging_ms, "staging_ms") or DAY_MS
        check_options(options)
        self._options = options

    def write(self, tables: Iterable[ArrowStream]) -> Aside | None:
        """Write what a task has aside; None without a row."""
        # Each attempt of a task has a key of its own: what one that failed has left expires.
        key, rows = self._key("aside", uuid.uuid4().hex), 0
        for table in tables:
            frame = as_frame(table)
            if frame.is_empty():
                continue
            self._check_fields(frame)
            _core.prepare_staging(self._url, key, self._staging_ms).wait()
            rows += write_stream(self._url, frame, key, **self._options).count()
        return Aside(key, rows) if rows else None

    def commit(self, written: Iterable[Aside | None]) -> int:
        """Move all to the stream, unless a job of this name did; say how many entries it added."""
        parts = [(aside.key, aside.rows) for aside in written if aside is not None]
        if not parts:
            return 0
        # Nobody can ask for a job without a name again.
        committing = _core.commit_staged(
            self._url, self._stream, self._key(), 0, parts, is_last=not self._is_named
        )
        rows = committing.wait()
        if self._is_named:
            for key, _ in parts:  # which are gone, unless the rows are an earlier run's
                delete_stream(self._url, key)
        return rows

    def _check_fields(self, frame: pl.DataFrame) -> None:
        fields = self._options.get("fields")
        number = frame.width if fields is None else len(fields)
        if number > MOST_FIELDS and self._options.get("payload") is None:
            msg = f"an entry may have {MOST_FIELDS:,} fields here, not {number:,}: try a payload"
            raise ValueError(msg)

    def _key(self, *parts: str) -> bytes:
        named = [b"job", self._job.encode(), *(part.encode() for part in parts)]
        return _core.staged_key(self._stream, named)


def write_with_ids(
    url: str | RedisConnection,
    stream: str | bytes,
    id_column: str,
    tables: Iterable[ArrowStream],
    options: RowOptions,
) -> int:
    """Write rows whose IDs are in a column, in order, and leave out those that are in already."""
    url, key = _core.connect(url), as_key(stream, "stream")
    check_options(options)
    rows = 0
    for table in tables:
        frame = as_frame(table)
        if frame.is_empty():
            continue
        [name] = known(frame, [as_text(id_column, "id_column")])
        _check_ids(frame[name])
        there = _ids_between(url, key, frame[name][0], frame[name][-1])
        missing = frame.filter(~pl.col(name).is_in(there.implode()))
        if not missing.is_empty():
            rows += write_stream(url, missing, key, id_column=name, **options).count()
    return rows


def _check_ids(ids: pl.Series) -> None:
    """Refuse what would be another text when it is read: such rows would be taken for missing."""
    if ids.dtype != pl.String:
        return  # which the write refuses
    odd = ids.filter(~ids.str.contains(_WHOLE_ID))
    if not odd.is_empty():
        msg = f'{odd[0][:100]!r} is no whole entry ID; write "ms-seq", without leading zeros'
        raise ValueError(msg)


def _ids_between(url: RedisConnection, key: bytes, first: object, last: object) -> pl.Series:
    if not isinstance(first, str) or not isinstance(last, str):
        return pl.Series([], dtype=pl.String)  # which the write refuses
    between = read_stream(url, key, {}, first, last, include_timestamp=False)
    return between["_id"]


def check_options(options: RowOptions) -> None:
    """Refuse now what each task would refuse."""
    unknown = options.keys() - RowOptions.__annotations__.keys()
    if unknown:
        msg = f"write_stream() got an unexpected keyword argument {min(unknown)!r}"
        raise TypeError(msg)
    rows: Any = {name: value for name, value in options.items() if name != "fields"}
    make_request(**rows)
