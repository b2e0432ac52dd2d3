"""``redfloe table``."""

from __future__ import annotations

import json as json_module
from typing import Annotated, Any

import typer

from redfloe._cli.options import Json, Processor, Stream, TableName, Url, connect
from redfloe._cli.output import print_frame, say
from redfloe._cli.shards import shards_of
from redfloe._words import counted, readable

#: What a terminal shows of a table whose rows nobody has counted.
_SHOWN = 100


def table(
    stream: Stream,
    processor: Processor,
    name: TableName,
    count: Annotated[
        int | None,
        typer.Option(
            "--count",
            "-n",
            min=1,
            help="At most this many rows, by their keys. By default 100, and all with --json.",
            show_default=False,
        ),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the rows of a processor's table, by their keys.

    The key is in the column _key; one of several columns is a JSON array.
    """
    from redfloe import _core
    from redfloe._processing.reading import table_key

    key = table_key(stream, processor, name)
    # A page that comes twice brings a key again.
    server = connect(url)
    found = dict(_core.read_fields(server, key).wait())
    for shard in [] if found else shards_of(server, stream):
        found |= dict(_core.read_fields(server, table_key(shard, processor, name)).wait())
    found = dict(sorted(found.items()))
    shown = count if count or json else _SHOWN
    rows = [_row(*field) for field in [*found.items()][:shown]]
    if json:
        for row in rows:
            print(json_module.dumps(row, ensure_ascii=False))
    elif not rows:
        say(f"{processor} on {stream} has no table {str(name)!r}, or no row in it")
    else:
        import polars as pl

        print_frame(pl.DataFrame(rows, infer_schema_length=None, strict=False))
        if len(found) > len(rows):
            more = counted(len(found) - len(rows), "row", "rows", ",")
            say(f"{more} more; -n {len(found)} shows all")


def _row(key: bytes, text: bytes) -> dict[str, Any]:
    """Give a row with its key; what is no row of redfloe's as it is."""
    try:
        row = json_module.loads(text)
    except ValueError:
        row = readable(text)
    return {"_key": readable(key)} | (row if isinstance(row, dict) else {"_row": row})
