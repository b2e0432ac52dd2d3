"""What becomes of open windows with a batch, or with time alone: without IO and without a clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import polars as pl

from redfloe._processing.windows.assignment import assign, at, upper
from redfloe._processing.windows.definition import LOWER, NS_PER, TIME, UPPER, Definition

_CLUSTER = "\0cluster"
#: What there was before of a partial column.
_OLD = "\0old:"


class Open(Protocol):
    """The open windows: a frame with a key."""

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Give a row for each key, with nulls where there is none."""

    def frame(self) -> pl.DataFrame:
        """Give all of them."""

    def upsert(self, df: pl.DataFrame) -> None:
        """Write rows."""

    def delete(self, keys: pl.DataFrame) -> int:
        """Delete rows."""


@dataclass(frozen=True)
class Standing:
    """How far a window is, in units of its time's column: what is saved beside the open ones."""

    #: What ends by then is closed.
    watermark: int | None = None
    #: When the next of the open windows ends, or earlier.
    next_end: int | None = None


@dataclass(frozen=True)
class Turn:
    """What is known of the time where there are no rows because none has come."""

    #: The server's time, and for how long no entry has come, in milliseconds.
    now_ms: int
    quiet_ms: int
    #: Nothing comes any more.
    is_last: bool


@dataclass(frozen=True)
class Stepped:
    """What has come of a step."""

    standing: Standing
    #: Aggregates of the windows that are closed now.
    closed: pl.DataFrame
    #: Rows that no window has taken.
    late: pl.DataFrame


def step(
    definition: Definition, standing: Standing, rows: pl.DataFrame, open_: Open, turn: Turn | None
) -> Stepped:
    """Have windows take rows, and close those that end by the watermark."""
    assigned = assign(definition, rows, standing.watermark)
    watermark, next_end = assigned.watermark, standing.next_end
    if turn is not None:
        watermark = _later(watermark, _passed(definition, turn))
        if turn.is_last and definition.declared.close_at_end and next_end is not None:
            ends = open_.frame()[UPPER].cast(pl.Int64)
            watermark = _later(watermark, at(ends, pl.Series.max) if len(ends) else None)
    parts: list[pl.DataFrame] = []
    if assigned.rows is not None:
        stays = _merge(definition, partials_of(definition, assigned.rows), open_)
        if watermark is not None and not stays.is_empty() and _first_end(stays) <= watermark:
            is_over = stays[UPPER].cast(pl.Int64) <= watermark
            over, stays = stays.filter(is_over), stays.filter(~is_over)
            parts.append(over)
            # Those that were open before; a commit does not write the others at all.
            open_.delete(over.select(definition.key))
        if not stays.is_empty():
            open_.upsert(stays)
            first = _first_end(stays)
            next_end = first if next_end is None else min(first, next_end)
    if watermark is not None and next_end is not None and next_end <= watermark:
        kept = open_.frame()
        is_over = kept[UPPER].cast(pl.Int64) <= watermark
        if is_over.any():
            over = kept.filter(is_over)
            parts.append(over)
            open_.delete(over.select(definition.key))
            kept = kept.filter(~is_over)
        next_end = None if kept.is_empty() else _first_end(kept)
    closed = given(definition, pl.concat(parts)) if parts else definition.nothing
    return Stepped(Standing(watermark, next_end), closed, assigned.late)


def _passed(definition: Definition, turn: Turn) -> int | None:
    """Say how far time is without rows, by the server's clock."""
    declared = definition.declared
    if declared.idle_close is None or turn.quiet_ms < declared.idle_close:
        return None
    return (turn.now_ms * NS_PER["ms"] - (declared.lateness or 0)) // definition.ns


def partials_of(definition: Definition, rows: pl.DataFrame) -> pl.DataFrame:
    """Aggregate rows to partial rows, one for each key; sessions of a key are not merged yet."""
    gap = definition.declared.gap
    if definition.is_ordered or gap is not None:
        rows = rows.sort(TIME, maintain_order=True)
    columns = [*definition.key, UPPER, *definition.partials]
    new = [part.new.alias(part.name) for one in definition.aggregates for part in one.partials]
    if gap is None:
        made = rows.group_by(definition.key).agg(new)
        made = made.with_columns(upper(definition).alias(UPPER))
    else:
        made = (
            rows.with_columns(_cluster(definition))
            .group_by(*definition.by, _CLUSTER)
            .agg(pl.col(LOWER).first(), pl.col(UPPER).last(), *new)
        )
    return made.select(columns)


def _cluster(definition: Definition) -> pl.Expr:
    """Give sessions of each key numbers, of rows in the order in which they begin."""
    lower, upper = pl.col(LOWER), pl.col(UPPER).cum_max().shift(1)
    begins = (lower >= upper).fill_null(value=True).cum_sum()
    return (begins.over(definition.by) if definition.by else begins).alias(_CLUSTER)


def _merge(definition: Definition, new: pl.DataFrame, open_: Open) -> pl.DataFrame:
    """Merge partial rows with those of the open windows."""
    key = definition.key
    merged = [
        part.merged.alias(part.name) for one in definition.aggregates for part in one.partials
    ]
    if definition.declared.gap is None:
        old = open_.lookup(new.select(key)).select(new.columns)
        if old[UPPER].null_count() == len(old):
            return new
        if definition.adds:
            sums = [
                pl.coalesce(pl.col(name) + pl.col(_OLD + name), name).cast(dtype)
                for name, dtype in definition.partials.items()
            ]
            before = old.select(pl.col([*definition.partials]).name.prefix(_OLD))
            return new.hstack(before).select(*key, UPPER, *sums)
        both = pl.concat([old.filter(pl.col(UPPER).is_not_null()), new])
        return both.group_by(key).agg(pl.col(UPPER).first(), *merged)
    # Those of the same keys: which of them a session joins is not known before.
    old = open_.frame()
    if old.is_empty():
        return new
    if by := definition.by:
        old = old.join(new.select(by).unique(), on=by, how="semi", nulls_equal=True)
    together = pl.concat([old, new.select(old.columns)]).sort(LOWER, maintain_order=True)
    sessions = (
        together.with_columns(_cluster(definition))
        .group_by(*by, _CLUSTER)
        .agg(pl.col(LOWER).min(), pl.col(UPPER).max(), *merged)
    )
    # A session that has begun earlier, or joins two, has another key.
    open_.delete(old.select(key))
    return sessions.select(old.columns)


def _first_end(windows: pl.DataFrame) -> int:
    return at(windows[UPPER].cast(pl.Int64), pl.Series.min)


def _later(one: int | None, other: int | None) -> int | None:
    return max((time for time in (one, other) if time is not None), default=None)


def empty(definition: Definition) -> pl.DataFrame:
    """Give no partial rows."""
    return pl.DataFrame(schema={**definition.key_schema(), **definition.value_schema()})


def given(definition: Definition, windows: pl.DataFrame) -> pl.DataFrame:
    """Give windows with their aggregates, in an order that depends on nothing else."""
    made = windows.select(LOWER, UPPER, *definition.by, *definition.finals)
    return made.sort(LOWER, *definition.by, UPPER)
