"""``redfloe groups``."""

from __future__ import annotations

from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import show
from redfloe._cli.shards import pattern_of


def groups(pattern: Pattern = "*", url: Url = None, json: Json = False) -> None:
    """List consumer groups: consumers, pending entries, their position."""
    import redfloe

    server = connect(url)
    found = redfloe.list_groups(server, pattern_of(server, pattern))
    columns = ["stream", "group", "consumers", "pending", "lag", "lag_time", "last_delivered_id"]
    show(found.select(columns), json=json, empty=f"no stream that matches {pattern!r} has a group")
