"""`archive`: a stream to files or a table, continuously, each entry once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

from redfloe import _core
from redfloe._checks import Milliseconds, one_of, positive
from redfloe._consuming.handling import without_waiting
from redfloe._options import DecodeOptions, ReadOptions, complete, takes
from redfloe._reading.shards import shards_of, shards_of_async

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from redfloe._arguments import Streams
    from redfloe._core import RedisConnection
    from redfloe._ids import EntryIdLike
    from redfloe._lake.arguments import Span
    from redfloe._lake.job import Job, Target
    from redfloe._lake.result import ArchiveResult
    from redfloe._schema import SchemaLike

_COMPRESSIONS = ("zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed")


@takes(DecodeOptions)
def archive(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    *,
    to: str | os.PathLike[str],
    format: Literal["parquet", "delta"] = "parquet",  # noqa: A002 -- as Polars users say
    partition_by: str | Sequence[str] | None = "date",
    every: Span = "1m",
    max_rows: int = 1_000_000,
    max_bytes: int = 256 * 1024 * 1024,
    until: EntryIdLike | None = None,
    trim_after: Span | None = None,
    on_new_fields: Literal["add", "rescue", "raise", "ignore"] = "add",
    on_data_loss: Literal["raise", "continue"] = "raise",
    block_ms: Milliseconds = 1000,
    compression: Literal["zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"] = "zstd",
    storage_options: Mapping[str, Any] | None = None,
    **options: Unpack[DecodeOptions],
) -> ArchiveResult:
    """Archive streams to Parquet files or a Delta table, continuously, each entry exactly once.

    After any interruption call it again: it goes on where the archive ends. The files, or the
    table's transactions, say up to where that is. So a crash at any instant, a full disk or a lost
    connection leaves no entry twice, and none missing, and no reader sees half a file. It does not
    end by itself, unless there is an `until`; Ctrl-C, SIGTERM or a cancelled task end it, and what
    it had read for the next file is read again the next time. XREAD (Redis 5.0).

    Parameters
    ----------
    url : str or RedisConnection
        As for `read_stream`.
    stream : str, bytes, or several of them
        The stream's key, or those of several streams. Those of a list have folders of their own,
        ``_stream=orders``, or the column ``_stream`` of a Delta table. `list_streams` gives those
        that match a pattern.
    schema : mapping of str to polars dtype, or pl.Schema, optional
        The dtypes of the fields. Without it those of the archive, and String where it has none yet;
        `infer_schema` types them by a sample.
    start_id : str, int, date or datetime, default "-"
        The first entry ID, where nothing is archived yet; from the oldest entry on, by default.
    to : str or path
        A directory, which is made, or a URL such as ``s3://bucket/lake``, for Parquet with the
        extra ``objects``. An archive has a place of its own; the newest file of a stream has to
        stay there as it is.
    format : {"parquet", "delta"}, default "parquet"
        Parquet files, called ``<first ID>_<last ID>.parquet``; or a Delta table, with the extra
        ``delta``.
    partition_by : str, sequence of str, or None, default "date"
        Folders by parts of the entries' time (UTC): ``year``, ``month``, ``date`` (also called
        ``day``) or ``hour``, as Hive names them: ``date=2026-11-27``. With ``"delta"`` fields
        as well.
    every : str or timedelta, default "1m"
        How long to collect entries for a file, from the first one on: ``"30s"``, ``"1h"``.
    max_rows : int, default 1,000,000
        The most rows of a file.
    max_bytes : int, default 256 MiB
        The most bytes of a file's entries in the server's reply, about; which bounds memory.
    until : "now", str, int, date or datetime, optional
        Where to end: at what is the newest entry of each stream now, or once all streams are past
        this ID or time.
    trim_after : str or timedelta, optional
        After each file, trim entries from the streams that are archived and older than this,
        ``"7d"`` for instance, by this machine's clock (XTRIM MINID, Redis 6.2): whole nodes of the
        server's tree, so some are left. The last archived entry stays. Consumer groups are not
        asked: choose a time in which all of them have processed an entry.
    on_new_fields : {"add", "rescue", "raise", "ignore"}, default "add"
        What to do with a field that the archive does not have: add a column, String unless
        `schema_overrides` or `infer_schema` say more, which files before do not have; keep it in
        the `rescue_column`, by default ``_rescued``; raise `SchemaError`, with nothing lost; or
        leave it out.
    on_data_loss : {"raise", "continue"}, default "raise"
        What to do where the stream was trimmed past the end of the archive, or deleted and written
        again: raise `DataLossError`, or go on with the entries that are left.
    block_ms : int or timedelta, default 1000
        How many milliseconds one poll waits.
    compression : {"zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"}, default "zstd"
        Of Parquet files, as for `polars.DataFrame.write_parquet`.
    storage_options : mapping of str, optional
        For object stores, as Polars and delta-rs take them.
    **options : DecodeOptions
        How entries become columns, by keyword: see `redfloe.DecodeOptions`.

    Returns
    -------
    ArchiveResult
        How many entries, and up to where.

    Raises
    ------
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        As for `iter_stream`: without an `until` it waits for the server through an outage. What was
        archived before counts.
    FencedError
        Another archiver writes to the same place; it is the one that goes on.
    DataLossError
        See `on_data_loss`.
    SchemaError
        A field that the archive does not have, see `on_new_fields`, or that it has with another
        dtype, or that is called as the partitions are.
    ValueError, TypeError
        An argument cannot be right; or the place holds other files, or another stream's.
    OSError, ImportError
        The files cannot be written; a package is missing, which the message names.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> redfloe.archive(url, "events", {"value": pl.Int64}, to="lake", until="now", block_ms=1)
    ArchiveResult(entries=2, offsets={'events': '1704067200001-0'}, trimmed=0)
    >>> redfloe.archive(url, "events", to="lake", until="now", block_ms=1).entries
    0
    >>> lake = pl.scan_parquet("lake/**/*.parquet", hive_partitioning=True)
    >>> lake.select("action", "value", "date").collect().rows()
    [('click', 10, datetime.date(2024, 1, 1)), ('view', None, datetime.date(2024, 1, 1))]
    """
    url = _core.connect(url)
    make = partial(
        _job,
        url,
        schema=schema,
        start_id=start_id,
        to=to,
        format=format,
        partition_by=partition_by,
        every=every,
        max_rows=max_rows,
        max_bytes=max_bytes,
        until=until,
        trim_after=trim_after,
        on_new_fields=on_new_fields,
        on_data_loss=on_data_loss,
        block_ms=block_ms,
        compression=compression,
        storage_options=storage_options,
        options=complete(options, archive),
    )
    from redfloe._lake.job import Blocking

    job = make(stream)
    if shards := shards_of(url, stream):  # now, since the place of an archive depends on it
        options["must_exist"] = False  # the name is there, if not each shard
        job = make(shards, options=complete(options, archive))
    return without_waiting(job.run(Blocking()))


async def archive_async(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    start_id: EntryIdLike = "-",
    *,
    to: str | os.PathLike[str],
    format: Literal["parquet", "delta"] = "parquet",  # noqa: A002 -- as Polars users say
    partition_by: str | Sequence[str] | None = "date",
    every: Span = "1m",
    max_rows: int = 1_000_000,
    max_bytes: int = 256 * 1024 * 1024,
    until: EntryIdLike | None = None,
    trim_after: Span | None = None,
    on_new_fields: Literal["add", "rescue", "raise", "ignore"] = "add",
    on_data_loss: Literal["raise", "continue"] = "raise",
    block_ms: Milliseconds = 1000,
    compression: Literal["zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"] = "zstd",
    storage_options: Mapping[str, Any] | None = None,
    **options: Unpack[DecodeOptions],
) -> ArchiveResult:
    """Archive streams in an event loop: the asynchronous twin of `archive`.

    Files are written in a thread. A task that is cancelled lets the file in hand be finished, and
    ends.

    Parameters
    ----------
    url, stream, schema, start_id, to, format, partition_by, every, max_rows, max_bytes, until
        As for `archive`.
    trim_after, on_new_fields, on_data_loss, block_ms, compression, storage_options
        As for `archive`.
    **options : DecodeOptions
        How entries become columns, by keyword: see `redfloe.DecodeOptions`.

    Returns
    -------
    ArchiveResult
        As for `archive`, and with its errors.

    Examples
    --------
    >>> import asyncio
    >>> import redfloe
    >>> asyncio.run(
    ...     redfloe.archive_async(url, "events", to="lake", until="now", block_ms=1)
    ... ).entries
    2
    """
    url = _core.connect(url)
    make = partial(
        _job,
        url,
        schema=schema,
        start_id=start_id,
        to=to,
        format=format,
        partition_by=partition_by,
        every=every,
        max_rows=max_rows,
        max_bytes=max_bytes,
        until=until,
        trim_after=trim_after,
        on_new_fields=on_new_fields,
        on_data_loss=on_data_loss,
        block_ms=block_ms,
        compression=compression,
        storage_options=storage_options,
        options=complete(options, archive_async),
    )
    from redfloe._lake.job import InEventLoop

    job = make(stream)
    if shards := await shards_of_async(url, stream):
        options["must_exist"] = False  # the name is there, if not each shard
        job = make(shards, options=complete(options, archive_async))
    return await job.run(InEventLoop())


# Not as a decorator, with which type checkers take it for a plain function.
takes(DecodeOptions)(archive_async)


def _job(
    url: RedisConnection,
    stream: Streams,
    schema: SchemaLike | None,
    start_id: EntryIdLike,
    *,
    to: str | os.PathLike[str],
    format: str,  # noqa: A002
    partition_by: str | Sequence[str] | None,
    every: Span,
    max_rows: int,
    max_bytes: int,
    until: EntryIdLike | None,
    trim_after: Span | None,
    on_new_fields: str,
    on_data_loss: str,
    block_ms: Milliseconds,
    compression: str,
    storage_options: Mapping[str, Any] | None,
    options: ReadOptions,
) -> Job:
    """Check what `archive` is asked for; `options` are complete."""
    # Here and below, because few programs archive, and all import this.
    from redfloe._lake.arguments import keys_of, parts_of, span
    from redfloe._lake.columns import Columns
    from redfloe._lake.job import Job

    one_of(format, "format", "parquet", "delta")
    one_of(on_new_fields, "on_new_fields", "add", "rescue", "raise", "ignore")
    one_of(on_data_loss, "on_data_loss", "raise", "continue")
    one_of(compression, "compression", *_COMPRESSIONS)
    streams, is_of_several = keys_of(stream), not isinstance(stream, str | bytes)
    columns = Columns(
        schema, options, on_new_fields, parts_of(partition_by), is_of_several=is_of_several
    )
    job = Job(
        url,
        streams,
        is_of_several,
        target_of(
            to,
            streams,
            format=format,
            partition_by=partition_by,
            stream_column=options["stream_column"] if is_of_several else None,
            id_column=options["id_column"],
            compression=compression,
            storage_options=storage_options,
        ),
        columns,
        start_id,
        until,
        None if trim_after is None else span(trim_after, "trim_after"),
        on_data_loss == "raise",
        {
            "block_ms": block_ms,
            "batch_size": positive(max_rows, "max_rows"),
            "batch_bytes": positive(max_bytes, "max_bytes"),
            "batch_timeout_ms": span(every, "every"),
        },
    )
    job.check()
    return job


def target_of(
    to: str | os.PathLike[str],
    streams: list[bytes],
    *,
    format: str,  # noqa: A002
    partition_by: str | Sequence[str] | None,
    stream_column: str | None,
    id_column: str,
    compression: str,
    storage_options: Mapping[str, Any] | None,
) -> Target:
    """Give the place of an archive."""
    from redfloe._lake.arguments import parts_of
    from redfloe._lake.parquet import Layout, ParquetArchive, store_of

    parts = parts_of(partition_by)
    if format == "delta":
        from redfloe._lake.delta import DeltaArchive

        return DeltaArchive(
            to,
            streams,
            parts,
            stream_column=stream_column,
            id_column=id_column,
            storage_options=storage_options,
        )
    layout = Layout(stream_column, parts)
    ParquetArchive.check_parts(parts)
    return ParquetArchive(
        store_of(to, storage_options),
        streams,
        layout,
        id_column=id_column,
        compression=compression,
    )
