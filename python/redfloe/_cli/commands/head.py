"""``redfloe head``."""

from __future__ import annotations

from typing import Annotated

import typer

from redfloe._cli.options import (
    End,
    Json,
    Payload,
    Start,
    Stream,
    Text,
    Url,
    columns,
    connect,
    existing,
    rescued,
)
from redfloe._cli.output import print_frame, print_json


def head(
    stream: Stream,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many entries.")] = 10,
    start: Start = "-",
    end: End = "+",
    payload: Payload = None,
    text: Text = False,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the oldest entries as a table."""
    import redfloe

    with existing(stream):
        frame = redfloe.read_stream(
            connect(url),
            stream,
            start_id=start,
            end_id=end,
            count=count,
            must_exist=True,
            **columns(payload, rows=count, text=text),
        )
    frame = rescued(frame)
    print_json(frame) if json else print_frame(frame)
