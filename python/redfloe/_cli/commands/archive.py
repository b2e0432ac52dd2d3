"""``redfloe archive``."""

from __future__ import annotations

import json as json_module
from enum import StrEnum
from typing import Annotated, Any

import typer

from redfloe._cli.options import (
    IdColumn,
    Json,
    MaxColumns,
    Names,
    RescueColumn,
    Start,
    Text,
    TimestampColumn,
    Url,
    connect,
    several,
)
from redfloe._cli.output import say
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads
from redfloe._cli.shards import streams_of
from redfloe._words import counted


class Kind(StrEnum):
    """What an archive is made of."""

    parquet = "parquet"
    delta = "delta"


class NewFields(StrEnum):
    """What becomes of a field that an archive does not have."""

    add = "add"
    rescue = "rescue"
    refuse = "raise"
    ignore = "ignore"


class DataLoss(StrEnum):
    """What to do where entries are gone."""

    refuse = "raise"
    skip = "continue"


def archive(
    streams: Annotated[
        list[str],
        typer.Argument(
            metavar="STREAM...",
            help="The stream's key, or several, each of which has a folder of its own then.",
            show_default=False,
            callback=several,
        ),
    ],
    to: Annotated[
        str,
        typer.Argument(help="A directory, or a URL such as s3://bucket/lake.", show_default=False),
    ],
    format: Annotated[  # noqa: A002 -- it is the option's name
        Kind, typer.Option("--format", "-f", help="Files, or a Delta table.")
    ] = Kind.parquet,
    partition_by: Annotated[
        list[str] | None,
        typer.Option(
            help="Folders by year, month, date, day or hour of the entry's time (UTC); or none. "
            "May be given again.",
            show_default="date",
        ),
    ] = None,
    every: Annotated[
        str, typer.Option(help="How long to collect entries for a file: 30s, 5m, 1h.")
    ] = "1m",
    max_rows: Annotated[int, typer.Option(min=1, help="The most rows of a file.")] = 1_000_000,
    until: Annotated[
        str | None,
        typer.Option(
            help="Where to end: now, an ID, or a time.", show_default="never, before Ctrl-C"
        ),
    ] = None,
    trim_after: Annotated[
        str | None,
        typer.Option(
            help="Trim entries that are archived and this old, such as 7d, from the stream.",
            show_default="never",
        ),
    ] = None,
    on_new_fields: Annotated[
        NewFields, typer.Option(help="What to do with a field that the archive does not have.")
    ] = NewFields.add,
    on_data_loss: Annotated[
        DataLoss,
        typer.Option(help="Whether to go on where the stream was trimmed past the archive."),
    ] = DataLoss.refuse,
    start: Start = "-",
    payload: Payload = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    text: Text = False,
    id_column: IdColumn = "_id",
    timestamp_column: TimestampColumn = "_ts",
    rescue_column: RescueColumn = "_rescued",
    max_columns: MaxColumns = 5_000,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--rescue",
            help="Stop at a value that does not fit its dtype, or keep it in --rescue-column.",
        ),
    ] = False,
    storage_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="For object stores, such as aws_region=eu-central-1. May be given again.",
        ),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Archive streams to Parquet files or a Delta table, each entry once, until Ctrl-C.

    After any interruption run it again: it goes on where the archive ends. Values are typed as ten
    thousand entries say when it is begun.
    """
    import redfloe

    server, payloads = connect(url), Payloads(payload, payload_format, payload_compression)
    if until is not None:  # others wait for it
        for stream in streams:
            streams_of(server, stream)
    options = Names(id_column, timestamp_column, rescue_column, max_columns).options
    wanted: Any = streams if len(streams) > 1 else streams[0]
    shown = ", ".join(map(str, streams))
    if until is None and not json:
        say(f"archiving {shown} to {to}; Ctrl-C ends it")
    result = redfloe.archive(
        server,
        wanted,
        start_id=start,
        to=to,
        format=format.value,
        partition_by=None if partition_by == ["none"] else partition_by or "date",
        every=every,
        max_rows=max_rows,
        until=until,
        trim_after=trim_after,
        on_new_fields=on_new_fields.value,
        on_data_loss=on_data_loss.value,
        storage_options=_options(storage_option or []),
        infer_schema=not text,
        infer_schema_length=10_000,
        **payloads.options,
        rescue_column=None if strict else rescue_column,
        **options,
    )
    if json:
        print(json_module.dumps({**vars(result), "to": to}))
        return
    trimmed = f", {counted(result.trimmed, 'entry', 'entries', ',')} trimmed"
    say(
        f"{counted(result.entries, 'entry', 'entries', ',')} of {shown} archived to {to}"
        f"{trimmed if trim_after else ''}"
    )


def _options(given: list[str]) -> dict[str, str]:
    options = {}
    for one in given:
        key, equals, value = one.partition("=")
        if not equals:
            msg = f"{one!r} is no KEY=VALUE"
            raise typer.BadParameter(msg, param_hint="--storage-option")
        options[key] = value
    return options
