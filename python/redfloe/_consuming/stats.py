"""What a worker has done."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redfloe import _core


@dataclass(frozen=True)
class ConsumerStats:
    """What a `StreamConsumer` has done since it started.

    Attributes
    ----------
    batches, entries, bytes : int
        Handed out; the bytes are those of the server's replies.
    acknowledged : int
        Entries that this consumer has acknowledged, dead letters not included; not those that
        others had acknowledged before it did. Of those whose XACK was repeated, because its answer
        was lost, all count.
    reclaimed : int
        Entries taken over from other consumers, or from this one's own past.
    dead_lettered : int
        Entries moved to the dead-letter stream.
    deleted : int
        Pending entries that had been deleted from the stream when they were to be handed out or
        moved to the dead-letter stream; they are acknowledged.
    last_id : str or None
        The greatest entry ID handed out.
    entries_per_second : float
        Entries handed out, by the time since the consumer started.
    lag : int or None
        How many entries the group had still to deliver when the consumer last looked: each time
        that it has looked for entries to reclaim, or waited for new ones in vain. None before it
        has looked, and on servers before Redis 7.0. Of several streams the sum of those that are
        known.
    streams : mapping of str to ConsumerStats
        The same for each of several streams, by their keys, without `bytes`; empty where the
        consumer has one stream, or no group.
    """

    batches: int
    entries: int
    bytes: int
    acknowledged: int
    reclaimed: int
    dead_lettered: int
    deleted: int
    last_id: str | None
    entries_per_second: float
    lag: int | None
    streams: Mapping[str, ConsumerStats] = field(default_factory=dict, hash=False)

    @classmethod
    def of(
        cls,
        stats: _core.Stats,
        seconds: float,
        by_stream: Iterable[tuple[str, _core.Stats]] = (),
    ) -> Self:
        """Give what a reader has done in that time."""
        return cls(
            batches=stats.batches,
            entries=stats.entries,
            bytes=stats.bytes,
            acknowledged=stats.acknowledged,
            reclaimed=stats.reclaimed,
            dead_lettered=stats.dead_lettered,
            deleted=stats.deleted,
            last_id=stats.last_id,
            entries_per_second=stats.entries / max(seconds, 1e-9),
            lag=stats.lag,
            streams={stream: cls.of(part, seconds) for stream, part in by_stream},
        )
