"""``redfloe import``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from redfloe._cli.formats import Format, format_of
from redfloe._cli.options import Json, Stream, Url, connect
from redfloe._cli.output import say
from redfloe._words import counted

if TYPE_CHECKING:
    import polars as pl


def import_(
    path: Annotated[
        str, typer.Argument(help="A file, or several: 'events/*.parquet'.", show_default=False)
    ],
    stream: Stream,
    format: Annotated[  # noqa: A002 -- it is the option's name
        Format | None, typer.Option("--format", "-f", help="By default by the file's suffix.")
    ] = None,
    timestamp_column: Annotated[
        str | None, typer.Option(help="The column with the times of the entries' IDs.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option(help="The column with the entries' IDs, which must grow.")
    ] = None,
    maxlen: Annotated[
        int | None, typer.Option(min=0, help="Trim the stream to about this many entries.")
    ] = None,
    payload: Annotated[
        str | None,
        typer.Option(metavar="FIELD", help="Write a row as one JSON document into this field."),
    ] = None,
    progress: Annotated[
        bool | None,
        typer.Option(help="Show a bar. By default on a terminal.", show_default=False),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Add the rows of files to a stream, in bounded memory."""
    import redfloe

    kind = format or format_of(path)
    if kind is None:
        msg = f"{path} has no suffix that tells its format; give --format"
        raise typer.BadParameter(msg)
    rows = redfloe.sink_stream(
        connect(url),
        _scan(path, kind),
        stream,
        timestamp_column=timestamp_column,
        id_column=id_column,
        maxlen=maxlen,
        payload=payload,
        on_empty_row="skip",
        progress=sys.stderr.isatty() if progress is None else progress,
    )
    if json:
        print(f'{{"imported": {rows}}}')
    else:
        say(f"{counted(rows, 'row', 'rows', ',')} of {path} added to {stream}")


def _scan(path: str, kind: Format) -> pl.LazyFrame:
    import polars as pl

    match kind:
        case Format.parquet:
            return pl.scan_parquet(path)
        case Format.csv:
            return pl.scan_csv(path, try_parse_dates=True)
        case Format.ndjson:
            return pl.scan_ndjson(path)
        case Format.arrow:
            return pl.scan_ipc(path)
