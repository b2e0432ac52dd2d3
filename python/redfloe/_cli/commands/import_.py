"""``redfloe import``."""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from redfloe._cli.formats import Format, format_of
from redfloe._cli.options import Json, Stream, Url, connect
from redfloe._cli.output import printable, say
from redfloe._words import counted

if TYPE_CHECKING:
    import polars as pl


def import_(
    path: Annotated[
        str,
        typer.Argument(
            help="A file, several ('events/*.parquet'), or - for standard input, which is held in "
            "memory.",
            show_default=False,
        ),
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
    from redfloe._progress import Bar

    kind = format or format_of(path)
    if kind is None:
        msg = f"{path} has no suffix that tells its format; give --format"
        raise typer.BadParameter(msg)
    server, source = connect(url), "standard input" if path == STDIN else path
    rows = 0
    with ExitStack() as stack:
        shown = sys.stderr.isatty() if progress is None else progress
        bar = stack.enter_context(Bar(printable(f"import into {stream}"))) if shown else None

        def count(added: int) -> None:
            nonlocal rows
            rows = added
            if bar is not None:
                bar.show(added)

        stack.push(lambda kind, *_: _say_how_far(kind, rows, stream))
        redfloe.sink_stream(
            server,
            _scan(path, kind),
            stream,
            timestamp_column=timestamp_column,
            id_column=id_column,
            maxlen=maxlen,
            payload=payload,
            on_empty_row="skip",
            progress=count,
        )
    if json:
        print(f'{{"imported": {rows}}}')
    else:
        say(f"{counted(rows, 'row', 'rows', ',')} of {source} added to {stream}")


STDIN = "-"


def _say_how_far(kind: type[BaseException] | None, rows: int, stream: str) -> None:
    if kind is not None and rows:
        say(f"{counted(rows, 'row', 'rows', ',')} or more are in {stream}")


def _scan(path: str, kind: Format) -> pl.LazyFrame:
    import polars as pl

    source = io.BytesIO(sys.stdin.buffer.read()) if path == STDIN else path
    match kind:
        case Format.parquet:
            return pl.scan_parquet(source)
        case Format.csv:
            return pl.scan_csv(source, try_parse_dates=True)
        case Format.ndjson:
            return pl.scan_ndjson(source)
        case Format.arrow:
            return pl.scan_ipc(source)
