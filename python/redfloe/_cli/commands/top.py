"""``redfloe top``."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import console, fitting, print_json, table

if TYPE_CHECKING:
    import polars as pl

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 20


def top(
    pattern: Pattern = "*",
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks.", metavar="SECONDS")
    ] = 1.0,
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=1, help="End after this many looks.")
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Watch streams live: entries and bytes a second, lag, pending entries, consumers.

    Bytes are an estimate, by the mean size of the entries that are there. The busiest stream comes
    first.
    """
    server = connect(url)
    activity = Activity()
    activity.look(*_ask(server, pattern))
    if json:
        while count is None or count > 0:
            time.sleep(interval)
            print_json(activity.look(*_ask(server, pattern)).drop("history"))
            count = None if count is None else count - 1
        return
    from rich.live import Live

    screen = console()
    with Live(console=screen, auto_refresh=False, screen=screen.is_terminal) as live:
        while count is None or count > 0:
            time.sleep(interval)
            frame = activity.look(*_ask(server, pattern))
            room = max(1, screen.height - 6) if screen.is_terminal else frame.height
            clock = time.strftime("%H:%M:%S")
            left_out = f", {frame.height - room} more" if frame.height > room else ""
            title = f"{pattern}  every {interval:g} s  {clock}{left_out}"
            live.update(table(fitting(frame.head(room), screen.width), title=title), refresh=True)
            count = None if count is None else count - 1


def _ask(server: Any, pattern: str) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    import redfloe

    streams, groups = redfloe.list_streams(server, pattern), redfloe.list_groups(server, pattern)
    return streams, groups, time.monotonic()


class Activity:
    """What happens between two looks at the streams."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, float]] = {}
        self._history: dict[str, deque[float]] = {}

    def look(self, streams: pl.DataFrame, groups: pl.DataFrame, now: float) -> pl.DataFrame:
        """Give a row for each stream: its rate since the last look, and the state of its groups."""
        import polars as pl

        rates, histories, seen = [], [], {}
        for row in streams.iter_rows(named=True):
            # Before Redis 7.0 nobody counts what was added: the length tells while none is trimmed.
            added = row["entries_added"]
            total = row["length"] if added is None else added
            name = row["stream"]
            earlier, at = self._before.get(name, (total, now))
            # A stream that was begun anew has fewer.
            rate = max(0, total - earlier) / (now - at) if now > at else 0.0
            history = self._history.setdefault(name, deque(maxlen=_WIDTH))
            if name in self._before:
                history.append(rate)
            seen[name] = (total, now)
            rates.append(rate)
            histories.append(_sparkline(history))
        self._before = seen
        self._history = {name: self._history[name] for name in seen}
        behind = groups.group_by("stream").agg(
            pl.max("lag"), pl.max("lag_time"), pl.sum("pending"), pl.sum("consumers")
        )
        rate = pl.Series("entries_per_second", rates, pl.Float64)
        size = pl.when(pl.col("length") > 0).then(pl.col("memory") / pl.col("length"))
        return (
            streams.with_columns(rate, history=pl.Series(histories, dtype=pl.String))
            .join(behind, on="stream", how="left", maintain_order="left")
            .with_columns(bytes_per_second=size * pl.col("entries_per_second"))
            .sort("entries_per_second", descending=True, maintain_order=True)
            .select(
                "stream",
                "entries_per_second",
                "bytes_per_second",
                "history",
                *("length", "lag", "lag_time", "pending", "consumers"),
            )
        )


def _sparkline(values: deque[float]) -> str:
    highest = max(values, default=0.0)
    if highest <= 0:
        return _BARS[0] * len(values)
    steps = len(_BARS) - 1
    return "".join(_BARS[round(value / highest * steps)] for value in values)
