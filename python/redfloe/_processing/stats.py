"""What a processor has done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from redfloe import _core


@dataclass(frozen=True)
class ProcessorStats:
    """What a `StreamProcessor` has done since it was entered.

    Attributes
    ----------
    commits : int
        Commits that are in.
    entries : int
        Entries up to which these commits go, those that were put aside included.
    dead_lettered : int
        Entries moved to the dead-letter stream.
    bytes : int
        What these commits wrote: outputs, and what has changed of tables and the state.
    commit_seconds : float
        How long these commits took, from the request to the answer.
    last_commit_seconds : float or None
        How long the last one took; None before the first.
    epoch : int or None
        How often the lane has been acquired, by whichever processor of this name; None before this
        one has it.
    position : str or None
        The entry ID up to which all is committed.
    """

    commits: int = 0
    entries: int = 0
    dead_lettered: int = 0
    bytes: int = 0
    commit_seconds: float = 0.0
    last_commit_seconds: float | None = None
    epoch: int | None = None
    position: str | None = None

    @classmethod
    def of(cls, stats: _core.ProcessorStats) -> Self:
        """Give what the core has counted."""
        return cls(
            commits=stats.commits,
            entries=stats.entries,
            dead_lettered=stats.dead_lettered,
            bytes=stats.bytes,
            commit_seconds=stats.commit_seconds,
            last_commit_seconds=stats.last_commit_seconds,
            epoch=stats.epoch,
            position=stats.position,
        )

    @classmethod
    def of_lanes(cls, lanes: list[_core.ProcessorStats]) -> Self:
        """Give the same of several lanes, which have no position in common."""
        lasts = [one.last_commit_seconds for one in lanes if one.last_commit_seconds is not None]
        return cls(
            commits=sum(one.commits for one in lanes),
            entries=sum(one.entries for one in lanes),
            dead_lettered=sum(one.dead_lettered for one in lanes),
            bytes=sum(one.bytes for one in lanes),
            commit_seconds=sum(one.commit_seconds for one in lanes),
            last_commit_seconds=max(lasts, default=None),
        )
