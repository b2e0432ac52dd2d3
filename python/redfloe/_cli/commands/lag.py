"""``redfloe lag``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from redfloe._cli import live
from redfloe._cli.live import View, clock
from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import show
from redfloe._cli.shards import pattern_of
from redfloe._words import counted

if TYPE_CHECKING:
    import polars as pl


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
    import redfloe

    server = connect(url)
    empty = f"no stream that matches {pattern!r} has a group"

    def look() -> pl.DataFrame:
        found = redfloe.list_groups(server, pattern_of(server, pattern)).sort(
            "lag_time", descending=True, maintain_order=True
        )
        return found.select("stream", "group", "lag", "lag_time", "pending", "consumers")

    def view() -> View:
        found = look()
        title = f"{pattern}  {counted(found.height, 'group', 'groups', ',')}  {clock()}"
        return View(found, title, empty)

    if watch:
        live.watch(view, interval=interval, json=json)
    else:
        show(look(), json=json, empty=empty)
