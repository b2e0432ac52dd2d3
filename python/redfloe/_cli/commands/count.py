"""``redfloe count``."""

from __future__ import annotations

import json as json_module

from redfloe._cli.options import End, Json, Start, Stream, Url, connect, missing


def count(
    stream: Stream, start: Start = "-", end: End = "+", url: Url = None, json: Json = False
) -> None:
    """Count the entries, of a range of IDs or times if asked."""
    import redfloe

    server = connect(url)
    if (start, end) == ("-", "+"):
        info = redfloe.stream_info(server, stream)
        if info.is_empty():
            raise missing(stream)
        number = info["length"].item()
    else:
        import polars as pl

        scan = redfloe.scan_stream(server, stream, {}, start, end, must_exist=True)
        number = scan.select(pl.len()).collect().item()
    print(json_module.dumps({"stream": str(stream), "count": number}) if json else number)
