"""Which windows rows are in, and which rows are late for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from redfloe._processing.windows.definition import LOWER, TIME, UPPER, Definition

if TYPE_CHECKING:
    from collections.abc import Callable

#: The times that can be counted with, a window's length before and after them too: Polars panics
#: beyond its calendar. They are the years 500 to 9500, and of nanoseconds 1823 to 2116.
_CALENDAR = {
    "ms": (-46_388_678_400_000, 237_644_064_000_000),
    "us": (-46_388_678_400_000_000, 237_644_064_000_000_000),
    "ns": (-(2**62), 2**62),
}
#: How far the watermark was before a row.
_BEFORE = "\0before"
#: Which row it is.
_ROW = "\0row"


@dataclass(frozen=True)
class Assigned:
    """Rows, each once for each of its windows."""

    #: With the columns `LOWER` and `TIME`, and for sessions `UPPER`; None where there is none.
    rows: pl.DataFrame | None
    #: Those that no window takes, as they were.
    late: pl.DataFrame
    #: How far time has come with them, in units of the time's column.
    watermark: int | None


def assign(definition: Definition, rows: pl.DataFrame, watermark: int | None) -> Assigned:
    """Give rows their windows.

    A row is late for a window that ended before what the rows before it, and batches before them,
    have moved the watermark to: so it does not matter how a stream is divided into batches. With
    sessions, which have no end before, it is late if it is before that itself. Rows without a time,
    or with one that has no place in a calendar, count as late, and move nothing.
    """
    declared = definition.declared
    time = rows[declared.time].cast(definition.boundary).alias(TIME)
    timed = pl.DataFrame({TIME: time, **{name: rows[name] for name in definition.rows}})
    times = time.cast(pl.Int64)
    first, last = _CALENDAR[definition.boundary.time_unit]
    least, most = at(times, pl.Series.min), at(times, pl.Series.max)
    late: list[pl.DataFrame] = []
    if time.null_count() or not first <= least <= most <= last:
        is_time = times.is_between(first, last).fill_null(value=False)
        late.append(rows.filter(~is_time))
        rows, timed = rows.filter(is_time), timed.filter(is_time)
        times = times.filter(is_time)
    if timed.is_empty():
        return Assigned(None, _together(late, rows), watermark)
    lateness = None if declared.lateness is None else declared.lateness // definition.ns
    after = watermark
    if lateness is not None:
        newest = at(times, pl.Series.max) - lateness
        after = newest if watermark is None else max(watermark, newest)
    # In their order rows are late for what was before them alone.
    is_sorted = times.is_sorted()
    oldest = times[0] if is_sorted else at(times, pl.Series.min)
    furthest = watermark if is_sorted else after
    if furthest is None or oldest >= furthest:
        return Assigned(_of_windows(timed, definition), _together(late, rows), after)
    before = pl.lit(watermark, pl.Int64)
    if lateness is not None:
        seen = pl.col(TIME).cast(pl.Int64).cum_max().shift(1) - lateness
        before = pl.max_horizontal(seen, before)
    # Nothing is before everything.
    before = before.fill_null(-(2**63)).cast(definition.boundary)
    timed = timed.with_columns(before.alias(_BEFORE)).with_row_index(_ROW)
    assigned = _of_windows(timed, definition).with_columns(upper(definition).alias(UPPER))
    is_taken = pl.col(UPPER) > pl.col(_BEFORE)
    if declared.gap is not None:
        is_taken = pl.col(TIME) >= pl.col(_BEFORE)
    taken = assigned.filter(is_taken)
    # Of a row that is in no window, as with a period shorter than every, nobody asks that.
    lost = assigned.select(_ROW).unique().join(taken.select(_ROW), on=_ROW, how="anti")
    late.append(rows[lost[_ROW].sort()])
    return Assigned(taken, _together(late, rows), after)


def _together(late: list[pl.DataFrame], rows: pl.DataFrame) -> pl.DataFrame:
    return pl.concat(late) if late else rows.clear()


def at(times: pl.Series, pick: Callable[[pl.Series], object], default: int = 0) -> int:
    """Give one of some integers, or what there is where all are null."""
    time = pick(times)
    return time if isinstance(time, int) else default


def upper(definition: Definition) -> pl.Expr:
    """Give the end of a window by its beginning."""
    every, period = definition.declared.every, definition.declared.period
    if every is None or period is None:
        return pl.col(UPPER)
    end = pl.col(LOWER).dt.offset_by(period.text)
    if every != period or definition.boundary.time_zone in (None, "UTC") or every.ns == 0:
        return end
    # Hours are those of the zone's clock: where it is changed, the next window begins sooner or
    # later.
    begins = end.dt.truncate(every.text)
    after_it = end.dt.offset_by(every.text).dt.truncate(every.text)
    return pl.when(begins > pl.col(LOWER)).then(begins).otherwise(after_it)


def _of_windows(timed: pl.DataFrame, definition: Definition) -> pl.DataFrame:
    """Give rows that have a time, once for each window that they are in."""
    declared, dtype = definition.declared, definition.boundary
    every = declared.every
    if every is None:
        gap = (declared.gap or 0) // definition.ns
        end = (pl.col(TIME).cast(pl.Int64) + gap).cast(dtype)
        return timed.with_columns(pl.col(TIME).alias(LOWER), end.alias(UPPER))
    first = timed.with_columns(pl.col(TIME).dt.truncate(every.text).alias(LOWER))
    if every == declared.period:
        return first
    shifted = [
        first.with_columns(pl.col(LOWER).dt.offset_by(every.times(-number)))
        for number in range(definition.hops)
    ]
    return pl.concat(shifted).filter(pl.col(TIME) < upper(definition))
