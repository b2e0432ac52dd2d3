"""``redfloe count``."""

from __future__ import annotations

import json as json_module

from redfloe._cli.options import End, Json, Start, Stream, Url, connect
from redfloe._cli.shards import streams_of


def count(
    stream: Stream, start: Start = "-", end: End = "+", url: Url = None, json: Json = False
) -> None:
    """Count the entries, of a range of IDs or times if asked."""
    import redfloe

    server = connect(url)
    if (start, end) == ("-", "+"):
        streams = streams_of(server, stream)
        number = sum(redfloe.stream_info(server, one)["length"].sum() for one in streams)
    else:
        import polars as pl

        scan = redfloe.scan_stream(server, stream, {}, start, end, must_exist=True)
        number = scan.select(pl.len()).collect().item()
    print(json_module.dumps({"stream": str(stream), "count": number}) if json else number)
