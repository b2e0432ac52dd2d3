"""A batch of a consumer, and what its consumer may do to its entries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import polars as pl

from redfloe._arguments import Milliseconds, optional_milliseconds, refuse_frame
from redfloe._event_loop import completed
from redfloe._schema import as_text
from redfloe._words import counted

if TYPE_CHECKING:
    from redfloe import _core
    from redfloe._arguments import Request
    from redfloe._consuming.position import Position
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

    def __init__(self, batch: _Rows, rows: slice) -> None:
        self._batch = batch
        self._chosen = rows

    def ids(self) -> list[str]:
        return self._batch._ids[self._chosen]

    def delivery_counts(self) -> list[int]:
        return self._batch._counts[self._chosen]

    def streams(self) -> list[int]:
        return self._batch._streams[self._chosen]


class _Rows:
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

    def _own(self, ids: Ids | None) -> Entries:
        """Give the entries of all rows, or of those that are named, which must be among them."""
        if ids is None:
            return self._all
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

    def _named(self, ids: Ids | None) -> Entries:
        """Give the entries that are named, by a caller who may have meant none."""
        if ids is None:
            msg = (
                "ids must be str, an iterable of str, or a Series, not None; pass the ids of the "
                "batch for all of its rows"
            )
            raise TypeError(msg)
        return self._own(ids)

    def _acknowledging(self, member: _core.Member, ids: Ids | None) -> _core.Operation[int]:
        """Give what acknowledges rows of a group's member; all of them need not be named."""
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


class Batch(_Rows):
    """A batch of `StreamConsumer`, in a loop.

    Attributes
    ----------
    frame : pl.DataFrame
        The entries, a row each, never empty.

    Examples
    --------
    >>> import redfloe
    >>> with redfloe.StreamConsumer(
    ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
    ... ) as consumer:
    ...     for batch in consumer:
    ...         print(len(batch), batch.ids.to_list(), batch.delivery_counts.to_list())
    2 ['1704067200000-0', '1704067200001-0'] [1, 1]
    """

    def __init__(
        self,
        frame: pl.DataFrame,
        rows: _core.RecordBatch | Part,
        source: Source,
        member: _core.Member | None,
        position: Position,
    ) -> None:
        super().__init__(frame, rows, source)
        self._member = member
        self._position = position

    def ack(self, ids: Ids | None = None) -> int:
        """Acknowledge rows now (XACK, Redis 5.0); without a group, move the checkpoint.

        The checkpoint does not go back, and does not pass a row that is still to be acknowledged.
        Without a group batches before this one are done with too. With ``ack="on_success"`` there
        is no need to call it: the rows that are left are acknowledged with the batch.

        Parameters
        ----------
        ids : str, iterable of str, pl.Series or pl.DataFrame, optional
            Which rows; by default all. Where the consumer has several streams, rows of the frame
            say which entries they are by their columns of IDs and streams, ``_id`` and ``_stream``;
            an ID alone must not be that of entries of two streams in this batch.

        Returns
        -------
        int
            How many were pending; the number of rows without a group.

        Raises
        ------
        ValueError
            An ID is not of this batch, or is that of entries of two streams. Nothing has been
            sent.
        RedisConnectionError, RedisTimeoutError, AuthenticationError
            As for `ack_entries`.

        Examples
        --------
        >>> import redfloe
        >>> with redfloe.StreamConsumer(
        ...     url, "events", "billing", "worker-1", ack="manual", on_idle="stop", block_ms=1
        ... ) as consumer:
        ...     for batch in consumer:
        ...         clicks = batch.frame.filter(action="click")
        ...         print(batch.ack(clicks["_id"]), "of", len(batch))
        1 of 2
        """
        if self._member is not None:
            number = self._acknowledging(self._member, ids).wait()
        else:
            number = self._done_without_group(ids)
        self._position.save()
        return number

    def _done_without_group(self, ids: Ids | None) -> int:
        """Be done with rows of which no server knows."""
        named = self._own(ids)
        self._position.acknowledged(*self._done(named))
        return named.number()

    def nack(
        self,
        ids: Ids | None = None,
        *,
        delay_ms: Milliseconds | None = None,
    ) -> int:
        """Give rows back: they are delivered again after a while, to this consumer or another.

        They stay pending under this consumer's name meanwhile, and their idle time starts again
        (XCLAIM in a script, Redis 5.0). After the delay this consumer asks for them before it waits
        for new entries. A consumer that ends earlier hands them over: others claim them after the
        delay. If it dies, others claim them after `reclaim_min_idle_ms`. A worker of the same name
        that starts earlier gets them at once.

        Parameters
        ----------
        ids : str, iterable of str, pl.Series or pl.DataFrame, optional
            Which rows, as for `ack`; by default all.
        delay_ms : int or timedelta, optional
            How many milliseconds to wait; 0 gives them back at once, to anybody. At most
            `reclaim_min_idle_ms`, after which others take them anyway. By default the wait doubles
            with each delivery of a row, from 100 ms to 30 s, so that a service which is down for a
            while does not use up `max_deliveries` at once.

        Returns
        -------
        int
            How many were still this consumer's.

        Raises
        ------
        ValueError
            Without a group, where an ID is not of this batch, and where `delay_ms` is negative or
            longer than `reclaim_min_idle_ms`. Nothing has been sent.
        TypeError
            `delay_ms` is neither an int nor a timedelta.

        Examples
        --------
        >>> import redfloe
        >>> with redfloe.StreamConsumer(
        ...     url, "events", "billing", "worker-1", on_idle="stop", block_ms=1
        ... ) as consumer:
        ...     for batch in consumer:
        ...         print(batch.ids.to_list(), batch.delivery_counts.to_list())
        ...         if batch.delivery_counts.max() == 1:
        ...             given_back = batch.nack("1704067200001-0")  # the rest is acknowledged
        ['1704067200000-0', '1704067200001-0'] [1, 1]
        ['1704067200001-0'] [2]
        """
        entries, streams = self._delivered(self._own(ids))
        delay = optional_milliseconds(delay_ms, "delay_ms")
        return _needed(self._member).nack(entries, delay, streams).wait()

    def fail(self, ids: Ids, reason: str) -> int:
        """Move rows to the dead-letter stream; the rest of the batch is untouched.

        Each goes in one step with its acknowledgement, with all its fields (a script of XRANGE,
        XADD and XACK, Redis 5.0).

        Parameters
        ----------
        ids : str, iterable of str, pl.Series or pl.DataFrame
            Which rows, as for `ack`.
        reason : str
            Why; the field ``_dead_reason`` of the dead letter, which holds 64 KiB of it at most.

        Returns
        -------
        int
            How many were moved: those that were still this consumer's. After a lost reply the
            newest 200 dead letters tell which the lost attempt moved.

        Raises
        ------
        ValueError
            Without a group or a dead-letter stream, and where an ID is not of this batch.
        TypeError
            `ids` or `reason` is None or no text. Nothing has been sent.
        WrongTypeError
            The dead-letter stream's key holds something else. The entries stay pending.
        """
        member = _needed(self._member)
        named = self._named(ids)
        return member.dead_letter(named.ids, as_text(reason, "reason"), named.streams).wait()

    def _putting_aside(self, reason: str) -> _core.Operation[bool]:
        """Give what moves all rows to the dead-letter stream, however long an outage lasts."""
        ids, streams = self._all
        return _needed(self._member).put_aside(ids, as_text(reason, "reason"), streams)

    def extend(self) -> int:
        """Keep the rows: their idle time starts again, so that nobody claims them (XCLAIM JUSTID).

        For work that takes longer than `max_processing_ms`, which starts again too, or with
        ``auto_extend=False`` longer than `reclaim_min_idle_ms`.

        Returns
        -------
        int
            How many are still this consumer's. Fewer than there are rows means that another has
            taken the rest, and processes them too.
        """
        return _needed(self._member).keep(*self._all).wait()

    def halves(self) -> tuple[Batch, Batch]:
        """Give the first half of the rows and the rest, each as a batch."""
        middle = len(self) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Batch:
        return Batch(
            self.frame[rows],
            Part(self, rows),
            self._source.part(rows),
            self._member,
            self._position,
        )

    def leave(self) -> None:
        """Let the rows stay pending when the batch is done with: they are delivered again later.

        Once they have been idle for `reclaim_min_idle_ms`; `nack` makes it sooner.
        """
        _needed(self._member).leave(*self._all)


class AsyncBatch(_Rows):
    """A batch of `StreamConsumer`, in an event loop: `Batch`, with what it does to be awaited.

    Attributes
    ----------
    frame : pl.DataFrame
        The entries, a row each, never empty.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> async def drain():
    ...     async with redfloe.StreamConsumer(
    ...         url, "events", "billing", "worker-1", ack="manual", on_idle="stop", block_ms=1
    ...     ) as consumer:
    ...         async for batch in consumer:
    ...             print(await batch.ack(), "acknowledged")
    >>> asyncio.run(drain())
    2 acknowledged
    """

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch.frame, batch._rows, batch._source)
        self._batch = batch

    async def ack(self, ids: Ids | None = None) -> int:
        """Acknowledge rows now; as `Batch.ack`."""
        member = self._batch._member
        if member is not None:
            number = await completed(self._acknowledging(member, ids).start())
        else:
            number = self._batch._done_without_group(ids)
        await self._batch._position.save_async()
        return number

    async def nack(
        self,
        ids: Ids | None = None,
        *,
        delay_ms: Milliseconds | None = None,
    ) -> int:
        """Give rows back, to be delivered again after a while; as `Batch.nack`."""
        member = self._member
        entries, streams = self._delivered(self._own(ids))
        delay = optional_milliseconds(delay_ms, "delay_ms")
        return await completed(member.nack(entries, delay, streams).start())

    async def fail(self, ids: Ids, reason: str) -> int:
        """Move rows to the dead-letter stream; as `Batch.fail`."""
        member, reason = self._member, as_text(reason, "reason")
        named = self._named(ids)
        return await completed(member.dead_letter(named.ids, reason, named.streams).start())

    async def extend(self) -> int:
        """Keep the rows; as `Batch.extend`."""
        return await completed(self._member.keep(*self._all).start())

    @property
    def _member(self) -> _core.Member:
        return _needed(self._batch._member)

    def halves(self) -> tuple[AsyncBatch, AsyncBatch]:
        """Give the first half of the rows and the rest; as `Batch.halves`."""
        first, rest = self._batch.halves()
        return AsyncBatch(first), AsyncBatch(rest)

    def leave(self) -> None:
        """Let the rows stay pending when the batch is done with; as `Batch.leave`."""
        self._batch.leave()

    def _patiently(self) -> AsyncBatch:
        """Give the same, all of whose operations outlast any outage that the reader does."""
        batch, member = self._batch, self._member.patient()
        return AsyncBatch(Batch(batch.frame, batch._rows, batch._source, member, batch._position))


def _needed(member: _core.Member | None) -> _core.Member:
    if member is None:
        msg = "only entries of a consumer group can be given back, kept or moved; pass a group"
        raise ValueError(msg)
    return member
