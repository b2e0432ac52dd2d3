"""``redfloe head``."""

from __future__ import annotations

from typing import Annotated

import typer

from redfloe._cli.options import (
    End,
    IdColumn,
    Json,
    MaxColumns,
    Names,
    RescueColumn,
    Start,
    Stream,
    Text,
    TimestampColumn,
    Url,
    columns,
    connect,
    existing,
)
from redfloe._cli.output import print_frame, print_json
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads


def head(
    stream: Stream,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many entries.")] = 10,
    start: Start = "-",
    end: End = "+",
    payload: Payload = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    text: Text = False,
    id_column: IdColumn = "_id",
    timestamp_column: TimestampColumn = "_ts",
    rescue_column: RescueColumn = "_rescued",
    max_columns: MaxColumns = 5_000,
    url: Url = None,
    json: Json = False,
) -> None:
    """Show the oldest entries as a table."""
    import redfloe

    names = Names(id_column, timestamp_column, rescue_column, max_columns)
    payloads = Payloads(payload, payload_format, payload_compression)
    with existing(stream):
        frame = redfloe.read_stream(
            connect(url),
            stream,
            start_id=start,
            end_id=end,
            count=count,
            must_exist=True,
            order="id",
            **columns(payloads, rows=count, text=text, names=names),
        )
    frame = names.without_empty(frame)
    print_json(frame) if json else print_frame(frame)
