"""A Delta table, in which rows appear with a processor's commits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from redfloe._processing.sinks import Sink
from redfloe._schema import as_text

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from redfloe._processing.delta_staging import DeltaStaging
    from redfloe._processing.processor import StreamProcessor


class DeltaSink(Sink):
    """A Delta table that a `StreamProcessor` writes, each row exactly once.

    What `write` is given appears with the commit of the transaction, and not without it: it is
    written aside, the commit names it, and then it is added to the table, in one transaction of
    Delta's that also moves the processor's position in the table's log (an *application
    transaction*). A crash at any instant, a commit whose reply was lost, or a second processor of
    the name leave no row twice, and none missing. Where a process dies after its commit and before
    the rows are in the table, the next processor of the name adds them, as soon as it has the lane.
    A handler does not have to give the same rows when a batch comes again.

    The table may be in a directory or in an object store. Others may write to it too, among them
    other processors, and compact or vacuum it. The folder ``_redfloe`` in it is the sink's own.
    Columns that the table does not have are added to it; the others get the table's dtypes.

    Needs the extra ``delta``; with an object store ``objects``, too.

    Parameters
    ----------
    processor : StreamProcessor
        Whose batches are written. It settles what is left to do when it acquires its lane.
    to : str or path
        The table's directory, or a URL such as ``s3://bucket/sales``. It is created with the first
        row, if it is missing.
    partition_by : str or sequence of str, default ()
        The columns that it is divided by. A table that is there has to have the same.
    storage_options : dict, optional
        How an object store is reached, as for `polars.scan_delta`.

    Raises
    ------
    DataLossError
        From the processor's loop: the table has rows of entries that the processor is to read
        again, because the server has lost commits or it was reset; or it lacks the batch that was
        committed last. The message says what to do.
    ModuleNotFoundError
        At once, without the extras.
    ValueError
        At once, where the processor has a `group`: its batches do not come again as they were.
        From the processor's loop: the table has other partitions.
    OSError, deltalake.exceptions.DeltaError
        From `write`, and from the loop before a commit, or once it is in: the table cannot be read
        or written.

    Examples
    --------
    >>> import polars as pl
    >>> import redfloe
    >>> processor = redfloe.StreamProcessor(
    ...     url, "events", name="lake", on_idle="stop", block_ms=1
    ... )
    >>> sink = redfloe.DeltaSink(processor, "sales", partition_by="action")
    >>> with processor:
    ...     for tx in processor:
    ...         sink.write(tx, tx.frame)
    >>> pl.read_delta("sales").select("action", "user_id").sort("action").rows()
    [('click', 'user_1'), ('view', 'user_2')]
    """

    _staging: DeltaStaging

    def __init__(
        self,
        processor: StreamProcessor,
        to: str | os.PathLike[str],
        *,
        partition_by: str | Sequence[str] = (),
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        from redfloe._processing.delta_staging import DeltaStaging

        keys = [partition_by] if isinstance(partition_by, str) else list(partition_by)
        self._partition_by = [as_text(key, "partition_by") for key in keys]
        staging = DeltaStaging(to, self._partition_by, storage_options, processor._where)
        super().__init__(processor, staging, pl.DataFrame.write_parquet)

    def __repr__(self) -> str:
        by = f", partition_by={self._partition_by}" if self._partition_by else ""
        return f"{type(self).__name__}({self._staging.place!r}{by})"

    def _parts(self, batch: str, frame: pl.DataFrame) -> list[tuple[Path, pl.DataFrame]]:
        """Give the rows as the table has them; Delta divides them."""
        return [(Path(), self._staging.fit(batch, frame))]
