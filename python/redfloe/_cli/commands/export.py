"""``redfloe export``."""

from __future__ import annotations

import json as json_module
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from redfloe._cli.formats import Format, format_of
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
    connect,
)
from redfloe._cli.output import say
from redfloe._cli.payloads import Payload, PayloadCompression, PayloadFormat, Payloads
from redfloe._cli.shards import streams_of
from redfloe._words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

    from redfloe import RedisConnection
    from redfloe._cli.export_directory import ExportDirectory


def export(
    stream: Stream,
    path: Annotated[
        str,
        typer.Argument(
            help="A file that ends in .parquet, .csv, .ndjson or .arrow, a directory, or - for "
            "standard output.",
            show_default=False,
        ),
    ],
    format: Annotated[  # noqa: A002 -- it is the option's name
        Format | None,
        typer.Option(
            "--format", "-f", help="By default the file's suffix; parquet in a directory."
        ),
    ] = None,
    partition_by: Annotated[
        list[str] | None,
        typer.Option(
            help="In a directory: a folder for each value of this column, or year, month, day or "
            "hour of the entry's time (UTC). May be given again."
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="In a directory: entries of a part at most.")
    ] = 500_000,
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
    strict: Annotated[
        bool,
        typer.Option(
            "--strict/--rescue",
            help="Stop at a value that does not fit its dtype, or keep it in --rescue-column.",
        ),
    ] = False,
    progress: Annotated[
        bool | None,
        typer.Option(help="Show a bar. By default on a terminal.", show_default=False),
    ] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Export a stream to a file, or into a directory that the next run goes on with.

    A file is there whole or not at all. A directory gets parts; after any interruption run it
    again: it goes on with the entries that came since, and each entry is in one part, once.
    """
    kind = _file_format(path, format, partition_by)
    server = connect(url)
    streams_of(server, stream)
    source = Source(
        server,
        stream,
        start,
        end,
        payloads=Payloads(payload, payload_format, payload_compression),
        text=text,
        names=Names(id_column, timestamp_column, rescue_column, max_columns),
        strict=strict,
        bar=_bar(progress),
    )
    if kind is None:
        kind = format or Format.parquet
        before, entries = to_directory(source, Path(path), kind, partition_by or [], batch_size)
    else:
        before, entries = 0, to_file(source, path, kind)
    if json and path != STDOUT:
        print(json_module.dumps({"exported": entries, "before": before, "path": path}))
    else:
        done = f", {before:,} were there" if before else ""
        where = "standard output" if path == STDOUT else path
        say(f"{counted(entries, 'entry', 'entries', ',')} of {stream} exported to {where}{done}")


@dataclass
class Source:
    """What is exported, and how it is read."""

    server: RedisConnection
    stream: str
    start: str
    end: str
    payloads: Payloads
    text: bool
    names: Names
    strict: bool
    bar: bool

    def schema(self) -> pl.Schema:
        """Infer the fields from ten thousand entries, the oldest and the newest."""
        import polars as pl

        import redfloe

        schema = redfloe.infer_schema(
            self.server,
            self.stream,
            infer_schema_length=10_000,
            **self.payloads.options,
            max_columns=self.names.max_columns,
        )
        if not self.text:
            return schema
        told = self.payloads.schema
        return pl.Schema({name: told.get(name, pl.String()) for name in schema})

    @property
    def options(self) -> dict[str, Any]:
        """Give the options of a read."""
        import polars as pl

        return {
            "timestamp_dtype": pl.Datetime,
            **self.payloads.options,
            "on_error": "raise" if self.strict else "null",
            "rescue_column": None if self.strict else self.names.rescued,
            **self.names.options,
        }


STDOUT = "-"


def _file_format(path: str, given: Format | None, partition_by: list[str] | None) -> Format | None:
    """Tell the format of the file that is wanted; None where it is a directory."""
    there = Path(path)
    if partition_by and not there.is_dir() and not path.endswith("/") and format_of(path):
        msg = (
            f"{path} is a file's name; partitions are folders: give a directory, {path}/ if need be"
        )
        raise typer.BadParameter(msg)
    if partition_by or there.is_dir() or path.endswith("/"):
        return None
    kind = given or format_of(path)
    if path != STDOUT and not there.exists() and not there.suffix:
        return None
    if kind is None:
        msg = f"{path} has no suffix that tells its format: give --format, or a / after a directory"
        raise typer.BadParameter(msg)
    if not there.parent.is_dir():
        msg = f"there is no directory {str(there.parent)!r}"
        raise FileNotFoundError(msg)
    return kind


@contextmanager
def _standard_output() -> Iterator[BinaryIO]:
    try:
        yield sys.stdout.buffer
    except OSError as error:
        if "os error 32" in str(error):  # of Polars, which says only that
            raise BrokenPipeError from error
        raise


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is whole, or what is no file, such as a pipe."""
    # /dev/stdout is a link, and nobody's to replace, also where standard output is a file.
    if path.exists() and (not path.is_file() or path.parent == Path("/dev")):
        with path.open("wb") as device:
            yield device
        return
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_file(source: Source, path: str, kind: Format) -> int:
    """Write one file, or standard output."""
    import redfloe
    from redfloe._cli.texts import schema_with_texts, with_texts, write_ndjson

    scan = redfloe.scan_stream(
        source.server,
        source.stream,
        source.schema(),
        source.start,
        source.end,
        progress=source.bar,
        **source.options,
    )
    rows = 0

    def count(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal rows
        rows += frame.height
        return with_texts(frame, kind)

    # Bytes are made text here: Polars panics over them in NDJSON.
    counted_scan = scan.map_batches(
        count, streamable=True, schema=schema_with_texts(scan.collect_schema(), kind)
    )
    # Opened here: after Ctrl-C the engine's threads may be about to create what was removed.
    opened = _standard_output() if path == STDOUT else _opened(Path(path))
    with opened as file:
        match kind:
            case Format.parquet:
                counted_scan.sink_parquet(file)
            case Format.csv:
                counted_scan.sink_csv(file)
            case Format.ndjson:
                for frame in counted_scan.collect_batches(maintain_order=True, lazy=True):
                    write_ndjson(frame, file)
            case Format.arrow:
                counted_scan.sink_ipc(file)
        file.flush()
    return rows


def to_directory(
    source: Source, path: Path, kind: Format, partition_by: list[str], batch_size: int
) -> tuple[int, int]:
    """Write further parts; gives the entries that were there, and those that came."""
    import redfloe
    from redfloe._cli.export_directory import ExportDirectory, ExportState
    from redfloe._progress import Bar, milliseconds_of

    wanted = ExportState(
        str(source.stream),
        kind.value,
        partition_by,
        source.payloads.field,
        payload_format=source.payloads.kind,
        payload_compression=source.payloads.options.get("payload_compression"),
        start=source.start,
        text=source.text,
        id_column=source.names.id,
        timestamp_column=source.names.timestamp,
    )
    newest = redfloe.stream_info(source.server, source.stream)["last_generated_id"].item()
    end = newest if source.end == "+" else source.end  # what comes meanwhile is for the next run
    with ExitStack() as stack:
        export = stack.enter_context(ExportDirectory.opened(path, wanted, source.schema))
        before, last = export.state.entries, export.state.last_id
        if last is not None and source.end == "+" and newest != last and _is_past(last, newest):
            msg = (
                f"{path} goes up to {last}, and {source.stream} only to {newest}: it was "
                "deleted and written again; export it into another directory"
            )
            raise ValueError(msg)
        if last is not None:
            _check_same(source, path, export, last)
            if _is_past(last, end):
                return before, 0
        bar = stack.enter_context(Bar(f"scan of {source.stream!r}")) if source.bar else None
        until = milliseconds_of(newest)
        batches = stack.enter_context(
            redfloe.iter_stream(
                source.server,
                source.stream,
                export.schema,
                start_id=source.start if last is None else f"({last}",
                end_id=end,
                batch_size=batch_size,
                batch_bytes=256 * 1024 * 1024,
                batch_timeout_ms=60_000,
                on_idle="stop",
                **source.options,
            )
        )
        for frame in batches:
            export.add(frame)
            if bar is not None:
                ids = frame[source.names.id]
                bar.add_range(frame, ids[0], ids[-1], until)
    return before, export.state.entries - before


def _check_same(source: Source, path: Path, export: ExportDirectory, last: str) -> None:
    """Refuse to go on with another stream, of another server say, that has the same name.

    The entry `last`, the last one exported, is to be there, unless it was deleted or trimmed since.

    Raises
    ------
    ValueError
        It is another one, or is not there although nothing has removed it.
    """
    import redfloe

    options = source.options | {"schema": export.schema, "on_error": "null"}
    with _without("fields_missing"):  # it is a look at one entry, which nobody asked for
        frame = redfloe.read_stream(
            source.server, source.stream, start_id=last, end_id=last, **options
        )
    if frame.height:
        is_same = export.is_last(frame)
    else:
        info = redfloe.stream_info(source.server, source.stream)
        first, deleted = info["first_entry_id"].item(), info["max_deleted_entry_id"].item()
        # Redis tells since 7.0 what was deleted; what comes before the first was trimmed.
        is_removed = deleted is None or _is_past(deleted, last)
        is_same = is_removed or first is None or _is_past(first, last)
    if not is_same:
        msg = (
            f"{path} goes up to the entry {last}, which {source.stream} does not have as it was "
            "exported: it is another stream, of another server perhaps; check --url, or export "
            "it into another directory"
        )
        raise ValueError(msg)


@contextmanager
def _without(event: str) -> Iterator[None]:
    """Keep an event out of the log."""
    import logging

    def keeps(record: logging.LogRecord) -> bool:
        return getattr(record, "event", None) != event

    logger = logging.getLogger("redfloe")
    logger.addFilter(keeps)
    try:
        yield
    finally:
        logger.removeFilter(keeps)


def _bar(progress: bool | None) -> bool:
    return sys.stderr.isatty() if progress is None else progress


def _is_past(last: str, end: str) -> bool:
    """Tell whether an entry ID has reached the end, where that is an ID too."""
    try:
        ids = [tuple(map(int, text.split("-"))) for text in (last, end)]
    except ValueError:
        return False
    return len(ids[1]) == 2 and ids[0] >= ids[1]
