"""``redfloe import``."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from redfloe._cli.formats import Format, format_of
from redfloe._cli.options import Json, Stream, Url, connect
from redfloe._cli.output import printable, say
from redfloe._cli.payloads import PayloadCompression, PayloadFormat, Payloads
from redfloe._words import counted


def import_(
    path: Annotated[
        str,
        typer.Argument(
            help="A file, several ('events/*.parquet'), a directory, such as export makes, or - "
            "for standard input, which is held in memory.",
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
        typer.Option(metavar="FIELD", help="Write a row as one document into this field."),
    ] = None,
    payload_format: PayloadFormat = "json",
    payload_compression: PayloadCompression = None,
    skip: Annotated[
        int, typer.Option(min=0, help="Leave out this many rows, which are in the stream already.")
    ] = 0,
    progress: Annotated[
        bool | None,
        typer.Option(help="Show a bar. By default on a terminal.", show_default=False),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Add the rows of files to a stream, in bounded memory.

    Values of CSV stay the texts that they are. In a directory, folders such as sku=A give values.
    """
    import redfloe
    from redfloe._cli.sources import STDIN, exported_fields, scan, with_times
    from redfloe._progress import Bar

    payloads = Payloads(payload, payload_format, payload_compression)
    kind = format or _format(path)
    server, source = connect(url), "standard input" if path == STDIN else path
    given = scan(path, kind, typed=payload is not None)
    if given is not None and timestamp_column is not None:
        given = with_times(given, timestamp_column)
    rows = 0
    with ExitStack() as stack:
        shown = sys.stderr.isatty() if progress is None else progress
        bar = stack.enter_context(Bar(printable(f"import into {stream}"))) if shown else None

        def count(added: int) -> None:
            nonlocal rows
            rows = added
            if bar is not None:
                bar.show(added)

        stack.push(lambda _, error, __: _say_how_far(error, rows, stream, skip))
        if given is not None:
            redfloe.sink_stream(
                server,
                given.slice(skip) if skip else given,
                stream,
                fields=exported_fields(path, given),
                timestamp_column=timestamp_column,
                id_column=id_column,
                maxlen=maxlen,
                **payloads.options,
                on_empty_row="skip",
                progress=count,
            )
    if json:
        print(f'{{"imported": {rows}}}')
    else:
        say(f"{counted(rows, 'row', 'rows', ',')} of {source} added to {stream}")


def _format(path: str) -> Format:
    from redfloe._cli.sources import format_of_directory

    kind = format_of_directory(Path(path)) if Path(path).is_dir() else format_of(path)
    if kind is None:
        lacks = "files of one format" if Path(path).is_dir() else "suffix that tells its format"
        msg = f"{path} has no {lacks}; give --format"
        raise typer.BadParameter(msg)
    return kind


def _say_how_far(error: BaseException | None, rows: int, stream: str, skip: int) -> None:
    """Say which rows are in, and how to go on after them."""
    from redfloe import OutcomeUnknownError, WriteError

    if error is None:
        return
    known = next(
        (
            one
            for one in (error, error.__cause__)
            if isinstance(one, WriteError | OutcomeUnknownError)
        ),
        None,
    )
    if known is None or known.row is None:
        if rows:
            say(f"{counted(rows, 'row', 'rows', ',')} or more are in {stream}")
        return
    are_in = counted(known.rows_written, "row is", "rows are", ",")
    if isinstance(known, OutcomeUnknownError) and known.unknown:
        first, last = known.unknown[0] + skip + 1, known.unknown[-1] + skip + 1
        say(
            f"{are_in} in {stream}; rows {first:,} to {last:,} may be: look with `redfloe tail`, "
            "and go on after the last that is with --skip"
        )
    else:
        say(f"{are_in} in {stream}; go on with --skip {known.row + skip}")
