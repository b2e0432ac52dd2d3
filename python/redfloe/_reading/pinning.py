"""The range of IDs that all reads of a scan have in common, and what a filter leaves of it."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import polars as pl

from redfloe import _core
from redfloe._words import readable

if TYPE_CHECKING:
    from redfloe._arguments import Many, Request
    from redfloe._core import RedisConnection

Bounds: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
#: Those of a stream that is not read.
NOTHING: Bounds = ((1, 0), (0, 0))


def look_for_interrupt() -> None:
    """Raise KeyboardInterrupt if Polars has seen a Ctrl-C.

    The streaming engine calls a source off the main thread, and so does the in-memory one for a
    join. There Python's own check does nothing, while any operation of Polars raises.
    """
    pl.DataFrame({"any": [0]}).slice(0)


class Pinned(NamedTuple):
    """The range of IDs that all reads of a scan have in common."""

    bounds: Bounds | None
    newest: tuple[int, int]


def pin(url: RedisConnection, request: Request) -> Pinned | None:
    """Fix the range of IDs; the end is an entry's, even if the caller's is not reached yet."""
    bounds = _core.pin(url, request, look_for_interrupt)
    if bounds is None or request["end_id"] == "+":
        return None if bounds is None else Pinned(bounds, newest=bounds[1])
    everything = request | {"start_id": "-", "end_id": "+", "last": None}
    whole = _core.pin(url, everything, look_for_interrupt)
    if whole is None:
        return None
    return Pinned((bounds[0], min(bounds[1], whole[1])), newest=whole[1])


def narrow(request: Request, bounds: Bounds | None, predicate: pl.Expr | None) -> None:
    """Set the range of IDs: the pinned `bounds`, less what the predicate excludes."""
    if bounds is None:
        request["count"] = 0
        return
    request["last"] = None  # the bounds are those of the newest
    (first, last) = narrowed(request, [bounds], predicate)[0]
    if first > last:
        request["count"] = 0
    request["start_id"], request["end_id"] = "{}-{}".format(*first), "{}-{}".format(*last)


def narrowed(request: Request, ranges: list[Bounds], predicate: pl.Expr | None) -> list[Bounds]:
    """Give the ranges of IDs, less what the predicate excludes."""
    from redfloe._reading.pushdown import id_bounds

    if predicate is None:
        return ranges
    above, below = id_bounds(
        predicate,
        id_column=request["id_column"],
        timestamp_column=request["timestamp_column"],
        timestamp_dtype=request["timestamp_type"]["timestamp_dtype"],
    )
    if request["count"] is not None:
        # It is of the entries before the filter, from the first on.
        above = (0, 0)
        if request["many"] is not None:
            return ranges  # whose rows all count before those of the next stream
    return [(max(first, above), min(last, below)) for first, last in ranges]


class Ranges:
    """Up to where each of several streams is read, which all reads of a scan have in common."""

    def __init__(self, url: RedisConnection) -> None:
        self._url = url
        self._lock = Lock()
        self._known: dict[bytes, Bounds] = {}

    def of(self, request: Request, many: Many, wanted: list[bool]) -> list[Bounds]:
        """Give the range of each stream; an empty one of those that are not wanted."""
        streams = many["streams"]
        with self._lock:
            missing = [key for key, is_wanted in zip(streams, wanted, strict=True) if is_wanted]
            missing = [key for key in missing if key not in self._known]
            if missing:
                asked = request | {"many": many | {"streams": missing}, "count": None}
                pinned = _core.pin_streams(self._url, asked, look_for_interrupt)
                self._known.update(zip(missing, pinned, strict=True))
            known = [self._known.get(key, NOTHING) for key in streams]
        return [
            bounds if is_wanted else NOTHING
            for bounds, is_wanted in zip(known, wanted, strict=True)
        ]

    def __getstate__(self) -> tuple[RedisConnection, dict[bytes, Bounds]]:
        return self._url, self._known.copy()

    def __setstate__(self, state: tuple[RedisConnection, dict[bytes, Bounds]]) -> None:
        self._url, self._known = state
        self._lock = Lock()


def wanted(request: Request, many: Many, predicate: pl.Expr | None) -> list[bool]:
    """Say which of several streams can have rows that match."""
    from redfloe._reading.pruning import matching

    streams, column = many["streams"], request["stream_column"]
    # Rows that do not match count as well.
    is_counted = request["count"] is not None or request["last"] is not None
    if predicate is None or column is None or is_counted:
        return [True] * len(streams)
    return matching(predicate, column, [readable(key) for key in streams])
