"""``redfloe groups``."""

from __future__ import annotations

from redfloe._cli.options import Json, Pattern, Url, connect
from redfloe._cli.output import show


def groups(pattern: Pattern = "*", url: Url = None, json: Json = False) -> None:
    """List consumer groups: consumers, pending entries, their position."""
    import redfloe

    found = redfloe.list_groups(connect(url), pattern)
    columns = ["stream", "group", "consumers", "pending", "lag", "lag_time", "last_delivered_id"]
    show(found.select(columns), json=json, empty=f"no stream that matches {pattern!r} has a group")
