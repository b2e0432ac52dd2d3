"""``redfloe lag``."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import console, fitting, print_json, show, table


def lag(
    pattern: Pattern = "*",
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Look again and again, until Ctrl-C.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two looks.", metavar="SECONDS")
    ] = 2.0,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show how far consumer groups are behind, in entries and in time.

    The time is how long the oldest entry that was not delivered has waited, by the time in its ID.
    Entries are "-" where the server cannot count them, such as after some were deleted.
    """
    import polars as pl

    import redfloe

    server = connect(url)

    def look() -> pl.DataFrame:
        found = redfloe.list_groups(server, pattern).sort(
            "lag_time", descending=True, maintain_order=True
        )
        return found.select("stream", "group", "lag", "lag_time", "pending", "consumers")

    if not watch:
        show(look(), json=json, empty=f"no stream that matches {pattern!r} has a group")
        return
    if json:
        while True:
            now = pl.lit(time.time()).alias("time")
            print_json(look().select(now, pl.all()))
            time.sleep(interval)
    from rich.live import Live

    screen = console()
    with Live(console=screen, auto_refresh=False) as live:
        while True:
            title = f"{pattern}  {time.strftime('%H:%M:%S')}"
            live.update(table(fitting(look(), screen.width), title=title), refresh=True)
            time.sleep(interval)
