"""An archive and its stream as one: the past from files, the present from the server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

import polars as pl

from redfloe import _core
from redfloe._arguments import Streams, make_request
from redfloe._checks import one_of
from redfloe._errors import DataLossError
from redfloe._lake.archive import target_of
from redfloe._options import DecodeOptions, complete, takes
from redfloe._reading.read import read_stream
from redfloe._reading.scan import scan_of
from redfloe._words import readable

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from redfloe._core import RedisConnection
    from redfloe._lake.columns import Columns
    from redfloe._lake.job import Target
    from redfloe._schema import SchemaLike


@takes(DecodeOptions)
def scan_archive_and_stream(
    url: str | RedisConnection,
    stream: Streams,
    schema: SchemaLike | None = None,
    *,
    to: str | os.PathLike[str],
    format: Literal["parquet", "delta"] = "parquet",  # noqa: A002 -- as `archive` says
    partition_by: str | Sequence[str] | None = "date",
    on_new_fields: Literal["add", "rescue", "ignore"] = "add",
    storage_options: Mapping[str, Any] | None = None,
    **options: Unpack[DecodeOptions],
) -> pl.LazyFrame:
    """Scan an archive and what its stream holds beyond it, lazily, as one frame.

    Each entry comes once, whether or not it is archived yet: it is looked up at once up to where
    the archive goes, and the stream is read from there on. Filters and selections reach both: whole
    partitions and parts of files are left out, and the server is asked for what is wanted. What is
    archived after the call is read from the stream; call it again for a frame that may be used for
    long. Where the stream is trimmed past that position meanwhile, the query raises `DataLossError`
    instead of leaving a gap. XRANGE (Redis 5.0).

    Parameters
    ----------
    url, stream, schema
        As for `archive`. Of several streams one comes after the other.
    to, format, partition_by, on_new_fields, storage_options
        As for `archive`; a field that the archive does not have may be in the stream.
    **options : DecodeOptions
        How entries become columns, by keyword, as for `archive`: see `redfloe.DecodeOptions`.

    Returns
    -------
    pl.LazyFrame
        The columns of the archive, also those that only some files have, and the partitions, which
        the rows of the stream have as well; then fields that only the stream has, by a sample.

    Raises
    ------
    DataLossError
        When the query runs: entries after the archive's end were trimmed, or the server lost them.
        Polars may wrap it in its ``ComputeError``, whose message begins with that name.
    RedisConnectionError, RedisTimeoutError, AuthenticationError, WrongTypeError, DecodeError
        As for `scan_stream`.
    SchemaError, ValueError, TypeError, OSError, ImportError
        As for `archive`.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> schema = {"value": pl.Int64}
    >>> redfloe.archive(url, "events", schema, to="lake", until="now", block_ms=1).entries
    2
    >>> df = pl.DataFrame({"action": ["buy"], "value": [5]})
    >>> _ = redfloe.write_stream(url, df, "events")
    >>> both = redfloe.scan_archive_and_stream(url, "events", schema, to="lake")
    >>> both.select("action", "value").collect().rows()
    [('click', 10), ('view', None), ('buy', 5)]
    """
    url = _core.connect(url)
    from redfloe._lake.arguments import keys_of, parts_of
    from redfloe._lake.columns import Columns

    complete_options = complete(options, scan_archive_and_stream)
    one_of(format, "format", "parquet", "delta")
    one_of(on_new_fields, "on_new_fields", "add", "rescue", "ignore")
    streams, is_of_several = keys_of(stream), not isinstance(stream, str | bytes)
    parts = parts_of(partition_by)
    columns = Columns(schema, complete_options, on_new_fields, parts, is_of_several=is_of_several)
    target = target_of(
        to,
        streams,
        format=format,
        partition_by=partition_by,
        stream_column=complete_options["stream_column"] if is_of_several else None,
        id_column=complete_options["id_column"],
        compression="zstd",
        storage_options=storage_options,
    )
    _core.check_connection(url)
    target.look()
    oldest = _oldest(url, [key for key in streams if key not in target.positions])
    if oldest:
        target.look()  # what has been archived, and trimmed, before its oldest entry was looked up
    columns.begin(target.schema, target.stored)
    scans = []
    for key in streams:
        archived = target.scan(key)
        if archived is not None:
            scans.append(archived)
        scans.append(_beyond(url, key, target, columns, oldest.get(key)))
    return pl.concat(scans, how="diagonal")


def _oldest(url: RedisConnection, streams: Sequence[bytes]) -> dict[bytes, str]:
    """Give the oldest entry of each stream that has one."""
    found = {}
    for key in streams:
        ids = read_stream(url, key, {}, count=1, include_timestamp=False)["_id"]
        if len(ids) > 0:
            found[key] = ids[0]
    return found


def _beyond(
    url: RedisConnection, key: bytes, target: Target, columns: Columns, oldest: str | None
) -> pl.LazyFrame:
    """Scan what a stream holds beyond its archive, which has had this as its oldest entry."""
    position = target.positions.get(key)
    schema, options = columns.reading
    request = make_request(
        key,
        schema=schema or None,
        start_id="-" if position is None else f"({position}",
        options=options,
    )
    request["expects_fields"] = False  # some of these are the archive's, and not the caller's
    # Where nothing was archived, all is there as long as the oldest entry is.
    known = position or oldest
    check = None if known is None else partial(_check, url, key, known)
    detail = f"stream {readable(key)!r} after {position}"
    scan = scan_of(url, request, options, progress=False, detail=detail, check=check)
    # Filters reach the server all the same, but for those of columns that are changed here.
    changed = [
        pl.col(name).cast(stored)
        for name, dtype in scan.collect_schema().items()
        if (stored := target.stored(dtype)) != dtype
    ]
    return scan.with_columns(*changed, *target.partitions())


def _check(url: RedisConnection, key: bytes, position: str) -> None:
    """Raise where entries after a position may be gone."""
    try:
        _core.check_offsets(url, [key], [position], True).wait()
    except DataLossError as error:
        msg = (
            f"the scan was made to read {readable(key)!r} from {position} on; entries after that "
            "may be gone from the stream; call scan_archive_and_stream again, which finds what has "
            "been archived since"
        )
        raise DataLossError(msg) from error
