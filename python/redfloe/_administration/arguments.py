"""Arguments of the functions that look and trim."""

from typing import TypedDict

from redfloe._checks import Milliseconds, as_key, optional, optional_milliseconds
from redfloe._ids import EntryIdLike, entry_id


class PendingFilter(TypedDict):
    """Which pending entries to list; the arguments of `_core.pending_entries`."""

    consumer: bytes | None
    min_idle_ms: int
    start_id: str
    end_id: str
    count: int | None


def make_pending_filter(
    *,
    consumer: str | bytes | None,
    min_idle_ms: Milliseconds | None,
    start_id: EntryIdLike,
    end_id: EntryIdLike,
    count: int | None,
) -> PendingFilter:
    """Check and normalise which pending entries are wanted."""
    return PendingFilter(
        consumer=None if consumer is None else as_key(consumer, "consumer"),
        min_idle_ms=optional_milliseconds(min_idle_ms, "min_idle_ms") or 0,
        start_id=entry_id(start_id, "start_id", round_up=True),
        end_id=entry_id(end_id, "end_id", round_up=False),
        count=optional(count, "count"),
    )


class Trim(TypedDict):
    """What to trim a stream to; the arguments of `_core.trim_stream`."""

    maxlen: int | None
    minid: str | None
    approximate: bool
    limit: int | None


def make_trim(
    *, maxlen: int | None, minid: EntryIdLike | None, approximate: bool, limit: int | None
) -> Trim:
    """Check and normalise how a stream is to be trimmed."""
    if (maxlen is None) == (minid is None):
        msg = "give either maxlen or minid"
        raise ValueError(msg)
    if limit is not None and not approximate:
        msg = "limit needs approximate=True: an exact trim deletes all that it has to"
        raise ValueError(msg)
    return Trim(
        maxlen=optional(maxlen, "maxlen"),
        minid=None if minid is None else entry_id(minid, "minid", round_up=True),
        approximate=bool(approximate),
        limit=optional(limit, "limit"),
    )
