"""``redfloe top``."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any

import typer

from redfloe._cli import live
from redfloe._cli.live import View, clock
from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import readable
from redfloe._cli.shards import pattern_of
from redfloe._words import counted

if TYPE_CHECKING:
    import polars as pl

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 20
_RATE, _BYTES = "entries_per_second", "bytes_per_second"


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

    def look() -> View:
        frame = activity.look(*_ask(server, pattern_of(server, pattern)))
        rate, size = (readable(name, frame[name].sum()) for name in (_RATE, _BYTES))
        streams = counted(frame.height, "stream", "streams", ",")
        title = f"{pattern}  {streams}  {rate} entries/s  {size}/s  {clock()}"
        return View(frame, title, f"no stream matches {pattern!r}")

    if json:  # without what nobody can tell yet
        look()
        time.sleep(interval)
    live.watch(look, interval=interval, count=count, json=json, without="history")


def _ask(server: Any, pattern: str) -> tuple[pl.DataFrame, pl.DataFrame, float]:
    import redfloe

    streams, groups = redfloe.list_streams(server, pattern), redfloe.list_groups(server, pattern)
    return streams, groups, time.monotonic()


class Activity:
    """What happens between two looks at the streams."""

    def __init__(self) -> None:
        self._before: dict[str, int] | None = None
        self._at = 0.0
        self._history: dict[str, deque[float]] = {}

    def look(self, streams: pl.DataFrame, groups: pl.DataFrame, now: float) -> pl.DataFrame:
        """Give a row for each stream: its rate since the last look, and the state of its groups.

        The first look knows no rates.
        """
        import polars as pl

        rates: list[float | None] = []
        histories, seen = [], {}
        for row in streams.iter_rows(named=True):
            # Before Redis 7.0 nobody counts what was added: the length tells while none is trimmed.
            added = row["entries_added"]
            total = row["length"] if added is None else added
            name = row["stream"]
            history = self._history.setdefault(name, deque(maxlen=_WIDTH))
            rate = None
            if self._before is not None and now > self._at:
                # A stream that was created again has fewer; a new one has only what came since.
                rate = max(0, total - self._before.get(name, 0)) / (now - self._at)
                history.append(rate)
            seen[name] = total
            rates.append(rate)
            histories.append(_sparkline(history))
        self._before, self._at = seen, now
        self._history = {name: self._history[name] for name in seen}
        behind = groups.group_by("stream").agg(
            pl.max("lag"), pl.max("lag_time"), pl.sum("pending"), pl.sum("consumers")
        )
        rate = pl.Series(_RATE, rates, pl.Float64)
        size = pl.when(pl.col("length") > 0).then(pl.col("memory") / pl.col("length"))
        return (
            streams.with_columns(rate, history=pl.Series(histories, dtype=pl.String))
            .join(behind, on="stream", how="left", maintain_order="left")
            .with_columns(bytes_per_second=size * pl.col(_RATE))
            .sort(_RATE, descending=True, nulls_last=True, maintain_order=True)
            .select(
                "stream",
                _RATE,
                _BYTES,
                "history",
                *("length", "lag", "lag_time", "pending", "consumers"),
            )
        )


def _sparkline(values: deque[float]) -> str:
    highest = max(values, default=0.0)
    steps = len(_BARS) - 1
    bars = (_BARS[round(value / highest * steps)] if highest else _BARS[0] for value in values)
    return "".join(bars).rjust(_WIDTH)  # so that nothing moves while it fills
