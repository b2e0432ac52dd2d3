"""A batch of a consumer, and what its consumer may do to its entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

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

Ids: TypeAlias = str | Iterable[str] | pl.Series
Counts = Callable[[], list[int]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where rows come from, and what came beside their columns."""

    connection: RedisConnection
    request: Request
    beside: pl.DataFrame | None

    def part(self, rows: slice) -> Source:
        """Give the same of some of the rows."""
        return self if self.beside is None else replace(self, beside=self.beside[rows])


class _Rows:
    """Rows of one delivery, and which entries they are."""

    def __init__(
        self,
        frame: pl.DataFrame,
        ids: Callable[[], list[str]],
        counts: Counts,
        source: Source,
    ) -> None:
        self.frame = frame
        self._source = source
        # Many a consumer never looks at them, and text takes time.
        self._make_ids = ids
        self._make_counts = counts

    @cached_property
    def _ids(self) -> list[str]:
        return self._make_ids()

    @cached_property
    def _counts(self) -> list[int]:
        return self._make_counts()

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
        return f"{type(self).__name__}({counted(len(self), 'entry', 'entries')}{span})"

    def _repr_html_(self) -> str:
        """Show the frame in a notebook, as it shows itself there."""
        return f"<p>{self!r}</p>{self.frame._repr_html_()}"

    def _own(self, ids: Ids | None) -> list[str]:
        """Give the IDs of all rows, or of those that are named, which must be among them."""
        if ids is None:
            return self._ids
        refuse_frame(ids, "ids")
        named = [ids] if isinstance(ids, str) else [as_text(one, "ids") for one in ids]
        strangers = set(named) - set(self._ids)
        if strangers:
            msg = f"ids has {min(strangers)!r}, which is no entry of this batch"
            raise ValueError(msg)
        return named

    def _named(self, ids: Ids | None) -> list[str]:
        """Give the IDs that are named, by a caller who may have meant none."""
        if ids is None:
            msg = (
                "ids must be str, an iterable of str, or a Series, not None; pass the ids of the "
                "batch for all of its rows"
            )
            raise TypeError(msg)
        return self._own(ids)

    def _done(self, named: list[str]) -> tuple[list[str], list[str]]:
        """Say which rows of which are done with; the last represents them all."""
        if named is not self._ids or not named:
            return self._ids, named
        return self._ids[-1:], self._ids[-1:]

    def _delivered(self, ids: list[str]) -> list[tuple[str, int]]:
        """Say of these rows how often they have been delivered."""
        counts = dict(zip(self._ids, self.delivery_counts, strict=True))
        return [(entry_id, counts[entry_id]) for entry_id in ids]


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
        ids: Callable[[], list[str]],
        counts: Counts,
        source: Source,
        member: _core.Member | None,
        position: Position,
    ) -> None:
        super().__init__(frame, ids, counts, source)
        self._member = member
        self._position = position

    def ack(self, ids: Ids | None = None) -> int:
        """Acknowledge rows now (XACK, Redis 5.0); without a group, move the checkpoint.

        The checkpoint does not go back, and does not pass a row that is still to be acknowledged.
        Without a group batches before this one are done with too. With ``ack="on_success"`` there
        is no need to call it: the rows that are left are acknowledged with the batch.

        Parameters
        ----------
        ids : str, iterable of str, or pl.Series, optional
            Which rows; by default all.

        Returns
        -------
        int
            How many were pending; the number of rows without a group.

        Raises
        ------
        ValueError
            An ID is not of this batch. Nothing has been sent.
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
        named = self._own(ids)
        number = len(set(named))
        if self._member is not None:
            number = self._member.acknowledge(named).wait()
        self._position.acknowledged(*self._done(named))
        self._position.save()
        return number

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
        ids : str, iterable of str, or pl.Series, optional
            Which rows; by default all.
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
        entries = self._delivered(self._own(ids))
        delay = optional_milliseconds(delay_ms, "delay_ms")
        return _needed(self._member).nack(entries, delay).wait()

    def fail(self, ids: Ids, reason: str) -> int:
        """Move rows to the dead-letter stream; the rest of the batch is untouched.

        Each goes in one step with its acknowledgement, with all its fields (a script of XRANGE,
        XADD and XACK, Redis 5.0).

        Parameters
        ----------
        ids : str, iterable of str, or pl.Series
            Which rows.
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
        return member.dead_letter(self._named(ids), as_text(reason, "reason")).wait()

    def _putting_aside(self, reason: str) -> _core.Operation[bool]:
        """Give what moves all rows to the dead-letter stream, however long an outage lasts."""
        return _needed(self._member).put_aside(self._ids, as_text(reason, "reason"))

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
        return _needed(self._member).keep(self._ids).wait()

    def halves(self) -> tuple[Batch, Batch]:
        """Give the first half of the rows and the rest, each as a batch."""
        middle = len(self) // 2
        return self._part(slice(None, middle)), self._part(slice(middle, None))

    def _part(self, rows: slice) -> Batch:
        return Batch(
            self.frame[rows],
            lambda: self._ids[rows],
            lambda: self._counts[rows],
            self._source.part(rows),
            self._member,
            self._position,
        )

    def leave(self) -> None:
        """Let the rows stay pending when the batch is done with: they are delivered again later.

        Once they have been idle for `reclaim_min_idle_ms`; `nack` makes it sooner.
        """
        _needed(self._member).leave(self._ids)


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
        super().__init__(batch.frame, batch._make_ids, batch._make_counts, batch._source)
        self._batch = batch

    async def ack(self, ids: Ids | None = None) -> int:
        """Acknowledge rows now; as `Batch.ack`."""
        member, named = self._batch._member, self._own(ids)
        number = len(set(named))
        if member is not None:
            number = await completed(member.acknowledge(named).start())
        position = self._batch._position
        position.acknowledged(*self._done(named))
        await position.save_async()
        return number

    async def nack(
        self,
        ids: Ids | None = None,
        *,
        delay_ms: Milliseconds | None = None,
    ) -> int:
        """Give rows back, to be delivered again after a while; as `Batch.nack`."""
        member, entries = self._member, self._delivered(self._own(ids))
        delay = optional_milliseconds(delay_ms, "delay_ms")
        return await completed(member.nack(entries, delay).start())

    async def fail(self, ids: Ids, reason: str) -> int:
        """Move rows to the dead-letter stream; as `Batch.fail`."""
        reason = as_text(reason, "reason")
        return await completed(self._member.dead_letter(self._named(ids), reason).start())

    async def extend(self) -> int:
        """Keep the rows; as `Batch.extend`."""
        return await completed(self._member.keep(self._ids).start())

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


def _needed(member: _core.Member | None) -> _core.Member:
    if member is None:
        msg = "only entries of a consumer group can be given back, kept or moved; pass a group"
        raise ValueError(msg)
    return member
