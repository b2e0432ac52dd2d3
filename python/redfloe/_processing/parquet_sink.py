"""A directory of Parquet files, in which rows appear with a processor's commits."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import polars as pl

from redfloe._checks import one_of
from redfloe._errors import SchemaError
from redfloe._files import hive_folders
from redfloe._processing.sinks import Sink
from redfloe._processing.staging import Staging
from redfloe._schema import as_text

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from redfloe._processing.processor import StreamProcessor

_COMPRESSIONS = ("zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed")


class ParquetSink(Sink):
    """A directory of Parquet files that a `StreamProcessor` writes, each row exactly once.

    What `write` is given appears with the commit of the transaction, and not without it: it is
    written aside, the commit names it, and then its files are moved to their place. A crash at any
    instant, a commit whose reply was lost, or a second processor of the name leave no row twice,
    and none missing. Where a process dies after its commit and before its files are moved, the next
    processor of the name moves them, as soon as it has the lane. A handler does not have to give
    the same rows when a batch comes again.

    A batch's files are called ``<begin>_<end>.parquet``, after the positions between which it is.
    They are never changed, so readers may scan the directory at any time, by
    ``pl.scan_parquet("sales/**/*.parquet")``, and move or delete what they are done with. The
    folder ``_redfloe`` in it is the sink's own. All processors of the name have to see the same
    directory, which needs one file system with atomic renames and links: a disk, or NFS.

    Parameters
    ----------
    processor : StreamProcessor
        Whose batches are written. It settles what is left to do when it acquires its lane.
    path : str or path
        The directory. It is made if it is missing; one that holds other files is refused.
    partition_by : str or sequence of str, default ()
        Columns by whose values rows are divided into folders, ``day=2026-11-26``, as Hive does. The
        files do not have these columns; readers take them from the path.
    compression : {"zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"}, default "zstd"
        As for `polars.DataFrame.write_parquet`.

    Raises
    ------
    DataLossError
        From the processor's loop: the directory holds rows of entries that the processor is to read
        again, because the server has lost commits or it was reset; or it lacks the batch that was
        committed last. The message says what to do.
    ValueError
        At once, where the processor has a `group`: its batches do not come again as they were. From
        the processor's loop: the directory is another processor's, or holds other files.
    OSError
        From `write`, and from the loop before a commit, or once it is in: the files cannot be
        written, listed or moved.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> processor = redfloe.StreamProcessor(
    ...     url, "events", name="lake", on_idle="stop", block_ms=1
    ... )
    >>> sink = redfloe.ParquetSink(processor, "lake", partition_by="action")
    >>> with processor:
    ...     for tx in processor:
    ...         sink.write(tx, tx.frame)
    >>> found = pl.scan_parquet("lake/**/*.parquet", hive_partitioning=True)
    >>> found.select("action", "user_id").sort("action").collect().rows()
    [('click', 'user_1'), ('view', 'user_2')]
    """

    def __init__(
        self,
        processor: StreamProcessor,
        path: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        compression: Literal["zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed"] = "zstd",
    ) -> None:
        one_of(compression, "compression", *_COMPRESSIONS)
        keys = [partition_by] if isinstance(partition_by, str) else list(partition_by)
        self._partition_by = [as_text(key, "partition_by") for key in keys]
        self._path = Path(path)
        write = partial(pl.DataFrame.write_parquet, compression=compression)
        super().__init__(processor, Staging(self._path, processor._where), write)

    def __repr__(self) -> str:
        by = f", partition_by={self._partition_by}" if self._partition_by else ""
        return f"{type(self).__name__}({str(self._path)!r}{by})"

    def _parts(
        self,
        batch: str,  # noqa: ARG002 -- as a Delta table's
        frame: pl.DataFrame,
    ) -> list[tuple[Path, pl.DataFrame]]:
        """Divide rows into the folders of their partitions."""
        keys = self._partition_by
        if not keys:
            return [(Path(), frame)]
        for key in keys:
            if key not in frame.columns:
                msg = f"there is no column {key!r} to partition by; the frame has {frame.columns}"
                raise SchemaError(msg)
        if not set(frame.columns) - set(keys):
            msg = f"partition_by leaves no column for the files: the frame has {frame.columns}"
            raise ValueError(msg)
        parts = frame.partition_by(keys, as_dict=True, maintain_order=True, include_key=False)
        return [
            (hive_folders(keys, values, "partition_by"), rows) for values, rows in parts.items()
        ]
