"""Windows without a server: open ones in a frame, and plain models of what comes of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from redfloe._processing.windows.definition import Definition, declare, define
from redfloe._processing.windows.machine import Standing, Stepped, Turn, empty, step

#: Rows of the models: a time in seconds, a key and a value.
Row = tuple[int, str | None, int]
SCHEMA = pl.Schema({"at": pl.Datetime("ms", "UTC"), "key": pl.String(), "value": pl.Int64()})
#: What the models know of a window: its boundaries, key, number of rows, and sum of values.
Found = tuple[int, int, str | None, int, int]


class OpenFrame:
    """Open windows as a table keeps them."""

    def __init__(self, definition: Definition) -> None:
        self._key = definition.key
        self._rows = empty(definition)

    def lookup(self, keys: pl.DataFrame) -> pl.DataFrame:
        found = keys.join(
            self._rows, on=self._key, how="left", nulls_equal=True, maintain_order="left"
        )
        return found.select(self._rows.columns)

    def frame(self) -> pl.DataFrame:
        return self._rows

    def upsert(self, df: pl.DataFrame) -> None:
        self.delete(df.select(self._key))
        self._rows = pl.concat([self._rows, df.select(self._rows.columns)])

    def delete(self, keys: pl.DataFrame) -> int:
        before = len(self._rows)
        self._rows = self._rows.join(keys, on=self._key, how="anti", nulls_equal=True)
        return before - len(self._rows)


class Windowed:
    """A window, and what has come of it so far."""

    def __init__(self, schema: pl.Schema, **declared: Any) -> None:
        absent = ("every", "period", "gap", "idle_close", "lateness")
        options: dict[str, Any] = dict.fromkeys(absent)
        options |= {"by": (), "time": "at", "close_at_end": True} | declared
        self.definition = define(declare(**options), schema)
        self.open = OpenFrame(self.definition)
        self.standing = Standing()
        self.closed: list[pl.DataFrame] = []
        self.late: list[pl.DataFrame] = []

    def take(self, rows: pl.DataFrame, turn: Turn | None = None) -> Stepped:
        """Have it take rows."""
        stepped = step(self.definition, self.standing, rows, self.open, turn)
        self.standing = stepped.standing
        self.closed.append(stepped.closed)
        self.late.append(stepped.late)
        return stepped

    def take_all(self, rows: pl.DataFrame, sizes: Iterable[int]) -> Windowed:
        """Have it take rows in batches of these sizes, then the rest, and then end."""
        start = 0
        for size in [*sizes, len(rows)]:
            self.take(rows[start : start + size])
            start += size
        self.take(rows.clear(), Turn(0, 0, is_last=True))
        assert self.open.frame().is_empty()
        return self


def as_rows(rows: Sequence[Row]) -> pl.DataFrame:
    """Give rows of a model as a frame."""
    return pl.DataFrame(
        [(at * 1_000, key, value) for at, key, value in rows],
        {"at": pl.Int64, "key": pl.String, "value": pl.Int64},
        orient="row",
    ).cast({"at": SCHEMA["at"]})


def model(
    rows: Sequence[Row],
    *,
    every: int = 0,
    period: int = 0,
    gap: int = 0,
    lateness: int | None = None,
) -> tuple[list[Found], list[Row]]:
    """Look at row after row; give all windows, sorted, and the late rows. Times are in seconds."""
    open_: dict[tuple[int, int, str | None], list[int]] = {}
    closed: list[Found] = []
    late: list[Row] = []
    watermark: int | None = None

    def close(until: int | None) -> None:
        for lower, upper, key in [*open_]:
            if until is None or upper <= until:
                values = open_.pop((lower, upper, key))
                closed.append((lower, upper, key, len(values), sum(values)))

    for row in rows:
        at, key, value = row
        if gap:
            if watermark is not None and at < watermark:
                late.append(row)
            else:
                lower, upper, values = at, at + gap, [value]
                for known in [known for known in open_ if known[2] == key]:
                    if known[0] < upper and lower < known[1]:
                        lower, upper = min(lower, known[0]), max(upper, known[1])
                        values += open_.pop(known)
                open_[lower, upper, key] = values
        else:
            windows = [
                (start, start + period)
                for start in range(at // every * every, at - period, -every)
                if at < start + period
            ]
            taken = [one for one in windows if watermark is None or one[1] > watermark]
            for start, end in taken:
                open_.setdefault((start, end, key), []).append(value)
            if windows and not taken:
                late.append(row)
        if lateness is not None:
            watermark = max(at - lateness, watermark or at - lateness)
            close(watermark)
    close(None)
    return sorted(closed, key=repr), late
