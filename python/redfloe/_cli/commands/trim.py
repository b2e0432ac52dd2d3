"""``redfloe trim``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from redfloe._cli.options import Json, Stream, Url, Yes, bound, connect
from redfloe._cli.output import confirm, say
from redfloe._cli.shards import refuse_name, streams_of
from redfloe._words import counted


def trim(
    stream: Stream,
    maxlen: Annotated[
        int | None, typer.Option(min=0, help="Keep this many entries, the newest.")
    ] = None,
    minid: Annotated[
        str | None, typer.Option(help="Keep entries from this ID or time on.", callback=bound)
    ] = None,
    approximate: Annotated[
        bool,
        typer.Option(
            "--approximate/--exact",
            help="Let the server keep some more, which is much cheaper, or delete to the entry.",
        ),
    ] = True,
    yes: Yes = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Delete the oldest entries of a stream."""
    import redfloe

    if (maxlen is None) == (minid is None):
        msg = "give either --maxlen or --minid"
        raise typer.BadParameter(msg)
    server = connect(url)
    streams = streams_of(server, stream)
    if maxlen is not None and len(streams) > 1:
        refuse_name(stream, streams)
    length: Any = sum(redfloe.stream_info(server, one)["length"].sum() for one in streams)
    doomed = f"all but the newest {maxlen:,}" if maxlen is not None else f"those before {minid}"
    number = counted(length, "entry", "entries", ",")
    confirm(f"{stream} has {number}; delete {doomed}", yes=yes)
    deleted = redfloe.trim_stream(
        server, stream, maxlen=maxlen, minid=minid, approximate=approximate
    )
    if json:
        print(f'{{"deleted": {deleted}}}')
    else:
        say(f"{counted(deleted, 'entry', 'entries', ',')} of {stream} deleted")
