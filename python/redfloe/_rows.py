"""Rows of one delivery, and which entries they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import polars as pl

from redfloe._checks import refuse_frame
from redfloe._schema import as_text
from redfloe._words import counted

if TYPE_CHECKING:
    from redfloe import _core
    from redfloe._arguments import Request
    from redfloe._core import RedisConnection

Ids: TypeAlias = str | Iterable[str] | pl.Series | pl.DataFrame


class Entries(NamedTuple):
    """Entries of a batch, as the core knows them."""

    ids: list[str]
    #: The numbers of their streams; none where the consumer has one stream.
    streams: list[int]

    def number(self) -> int:
        """Count them, each once."""
        return len(set(zip(self.ids, self.streams or self.ids, strict=True)))


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from, and what came beside their columns."""

    connection: RedisConnection
    request: Request
    beside: pl.DataFrame | None

    def part(self, rows: slice | Sequence[int]) -> Source:
        """Give the same of some of the rows."""
        return self if self.beside is None else replace(self, beside=self.beside[rows])


class Part:
    """Some rows of a batch, which say of themselves what the core says of all."""

    def __init__(self, batch: BatchRows, rows: slice) -> None:
        self._batch = batch
        self._chosen = rows

    def ids(self) -> list[str]:
        return self._batch._ids[self._chosen]

    def delivery_counts(self) -> list[int]:
        return self._batch._counts[self._chosen]

    def streams(self) -> list[int]:
        return self._batch._streams[self._chosen]


class BatchRows:
    """Rows of one delivery, and which entries they are."""

    def __init__(
        self,
        frame: pl.DataFrame,
        rows: _core.RecordBatch | Part,
        source: Source,
    ) -> None:
        self.frame = frame
        self._source = source
        self._rows = rows

    # Many a consumer never looks at them, and text takes time.

    @cached_property
    def _ids(self) -> list[str]:
        return self._rows.ids()

    @cached_property
    def _streams(self) -> list[int]:
        many = self._source.request["many"] is not None
        return self._rows.streams() if many else []

    @property
    def _all(self) -> Entries:
        return Entries(self._ids, self._streams)

    @cached_property
    def _counts(self) -> list[int]:
        return self._rows.delivery_counts()

    @cached_property
    def ids(self) -> pl.Series:
        """The entry ID of each row, as String, whether or not the frame has such a column."""
        return pl.Series("_id", self._ids, dtype=pl.String)

    @cached_property
    def delivery_counts(self) -> pl.Series:
        """How often each row has been delivered, this time included, as UInt64; 1 without a group.

        A delivery whose reply was lost on the way does not count.
        """
        counts = self._counts or [1] * len(self._ids)
        return pl.Series("delivery_count", counts, dtype=pl.UInt64)

    def __len__(self) -> int:
        return self.frame.height

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the frame to any library that speaks Arrow's PyCapsule interface."""
        return self.frame.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        span = f", {self._ids[0]} to {self._ids[-1]}" if len(self) else ""
        if streams := set(self._streams):
            span = f" of {counted(len(streams), 'stream', 'streams')}"
        return f"{type(self).__name__}({counted(len(self), 'entry', 'entries')}{span})"

    def _repr_html_(self) -> str:
        """Show the frame in a notebook, as it shows itself there."""
        return f"<p>{self!r}</p>{self.frame._repr_html_()}"

    def _entries(self, rows: Sequence[int]) -> Entries:
        """Give the entries of some rows, in place of their IDs, which several streams may have."""
        ids, streams = self._all
        return Entries([ids[row] for row in rows], [streams[row] for row in rows if streams])

    def _own(self, ids: Ids | Entries | None) -> Entries:
        """Give the entries of all rows, or of those that are named, which must be among them."""
        if ids is None:
            return self._all
        if isinstance(ids, Entries):
            return ids
        if self._source.request["many"] is not None:
            return self._of_streams(ids)
        refuse_frame(ids, "ids")
        named = [ids] if isinstance(ids, str) else [as_text(one, "ids") for one in ids]
        self._refuse_strangers(set(named) - set(self._ids))
        return Entries(named, [])

    def _of_streams(self, ids: Ids) -> Entries:
        """Give the entries that are named where one ID may be that of several."""
        if isinstance(ids, pl.DataFrame | pl.LazyFrame):
            return self._of_frame(ids)
        rows: dict[str, list[int]] = {}
        for row, entry_id in enumerate(self._ids):
            rows.setdefault(entry_id, []).append(row)
        named = [ids] if isinstance(ids, str) else [as_text(one, "ids") for one in ids]
        self._refuse_strangers(set(named) - set(rows))
        twice = next((entry_id for entry_id in named if len(rows[entry_id]) > 1), None)
        if twice is not None:
            msg = (
                f"ids has {twice!r}, which is an entry of more than one stream of this batch: pass "
                "the rows, as a frame with the columns of the IDs and of the streams"
            )
            raise ValueError(msg)
        return Entries(named, [self._streams[rows[entry_id][0]] for entry_id in named])

    def _of_frame(self, frame: pl.DataFrame | pl.LazyFrame) -> Entries:
        request = self._source.request
        names = [request["id_column"], request["stream_column"]]
        wanted = [name for name in names if name is not None]
        if isinstance(frame, pl.LazyFrame) or len(wanted) < len(names):
            msg = (
                "ids must be IDs where the batch has no column of the IDs or of the streams"
                if isinstance(frame, pl.DataFrame)
                else "ids must be IDs or a DataFrame, not a LazyFrame; collect it"
            )
            raise TypeError(msg)
        missing = [name for name in wanted if name not in frame.columns]
        if missing:
            msg = f"ids is a frame without the column {missing[0]!r}, which says which entries"
            raise ValueError(msg)
        own = zip(self.frame.select(wanted).iter_rows(), self._ids, self._streams, strict=True)
        known = {row: (entry_id, stream) for row, entry_id, stream in own}
        named = list(frame.select(wanted).iter_rows())
        self._refuse_strangers({entry_id for entry_id, stream in set(named) - set(known)})
        chosen = [known[row] for row in named]
        return Entries([entry_id for entry_id, _ in chosen], [stream for _, stream in chosen])

    @staticmethod
    def _refuse_strangers(strangers: set[str]) -> None:
        if strangers:
            msg = f"ids has {min(strangers)!r}, which is no entry of this batch"
            raise ValueError(msg)

    def _named(self, ids: Ids | Entries | None) -> Entries:
        """Give the entries that are named, by a caller who may have meant none."""
        if ids is None:
            msg = (
                "ids must be str, an iterable of str, or a Series, not None; pass the ids of the "
                "batch for all of its rows"
            )
            raise TypeError(msg)
        return self._own(ids)

    def _acknowledging(
        self, member: _core.Member, ids: Ids | Entries | None
    ) -> _core.Operation[int]:
        """Give what acknowledges rows in the group; for all of them no ID is made text."""
        if ids is None and not isinstance(self._rows, Part):
            return member.acknowledge_all(self._rows)
        return member.acknowledge(*self._own(ids))

    def _done(self, named: Entries) -> tuple[Entries, Entries]:
        """Say which rows of which are done with; a stream's last represents all of its rows."""
        if named.ids is not self._ids or not named.ids:
            return self._all, named
        lasts = dict(zip(self._streams, self._ids, strict=True)) if self._streams else {}
        last = Entries(list(lasts.values()) or self._ids[-1:], list(lasts))
        return last, last

    def _delivered(self, named: Entries) -> tuple[list[tuple[str, int]], list[int]]:
        """Say of these rows how often they have been delivered, and of which streams they are."""
        streams = self._streams or [0] * len(self._ids)
        counts = dict(zip(zip(self._ids, streams, strict=True), self.delivery_counts, strict=True))
        of_named = named.streams or [0] * len(named.ids)
        delivered = [
            (entry_id, counts[entry_id, stream])
            for entry_id, stream in zip(named.ids, of_named, strict=True)
        ]
        return delivered, named.streams
