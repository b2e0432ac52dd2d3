"""A batch of a consumer, and what its consumer may do to its entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redfloe._checks import Milliseconds, optional_milliseconds
from redfloe._event_loop import completed
from redfloe._rows import BatchRows, Ids, Part, Source
from redfloe._schema import as_text

if TYPE_CHECKING:
    import polars as pl

    from redfloe import _core
    from redfloe._consuming.position import Position


class Batch(BatchRows):
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


class AsyncBatch(BatchRows):
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
