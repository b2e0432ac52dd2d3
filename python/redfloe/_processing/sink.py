"""Sinks outside of Redis: files that appear with a processor's commits."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, overload

import polars as pl

from redfloe._arguments import one_of
from redfloe._errors import SchemaError
from redfloe._event_loop import in_thread
from redfloe._files import hive_folders
from redfloe._frame import ArrowStream, as_frame
from redfloe._processing.staging import Staging, batch_name
from redfloe._processing.table import Table, table_request
from redfloe._schema import as_text

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from redfloe._processing.processor import StreamProcessor
    from redfloe._processing.session import Session
    from redfloe._processing.transaction import AsyncTransaction, BaseTransaction, Transaction

_COMPRESSIONS = ("zstd", "lz4", "snappy", "gzip", "brotli", "uncompressed")

#: The processor's table that has a row for each sink: the batch that was committed last. Names that
#: begin with a zero byte are redfloe's own.
_TABLE = "\0sinks"
_COLUMNS: dict[str, Any] = {"sink": pl.String, "batch": pl.String}


@dataclass
class _Staged:
    """What was written aside for the transaction in hand."""

    transaction: BaseTransaction
    batch: str
    #: The batch before.
    before: str | None
    #: How often there was something to write.
    writes: int = 0
    #: Where the files belong that the commit is to name.
    targets: list[Path] = field(default_factory=list)
    #: Files are written one after the other.
    lock: Lock = field(default_factory=Lock)


class ParquetSink:
    """A directory of Parquet files that a `StreamProcessor` writes, each row exactly once.

    What `write` is given appears with the commit of the transaction, and not without it: it is
    written aside, the commit names it, and then its files are moved to their place. A crash at any
    instant, a commit whose reply was lost, or a second processor of the name leave no row twice,
    and none missing. Where a process dies after its commit and before its files are moved, the next
    processor of the name moves them, as soon as it has the lane. A handler need not give the same
    rows when a batch comes again.

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
        From `write`, and from the loop once a commit is in: the files cannot be written or moved.

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
        self._write_parquet = partial(pl.DataFrame.write_parquet, compression=compression)
        self._staging = Staging(Path(path), processor._where)
        self._staged: _Staged | None = None
        processor._keep(self)

    def __repr__(self) -> str:
        by = f", partition_by={self._partition_by}" if self._partition_by else ""
        return f"{type(self).__name__}({str(self._staging.path)!r}{by})"

    @overload
    def write(self, tx: Transaction, df: pl.DataFrame | ArrowStream) -> None: ...
    @overload
    def write(self, tx: AsyncTransaction, df: pl.DataFrame | ArrowStream) -> Awaitable[None]: ...
    def write(self, tx: Any, df: pl.DataFrame | ArrowStream) -> Awaitable[None] | None:
        """Have rows be in the directory once the transaction is committed.

        They are written to the disk at once, aside. A transaction may write several times; each
        time makes a file, or one for each partition. Without a row nothing is written. That of an
        `AsyncTransaction` is to be awaited; a thread does the writing.

        Parameters
        ----------
        tx : Transaction or AsyncTransaction
            The one in hand, of the sink's processor.
        df : pl.DataFrame, or an object with ``__arrow_c_stream__``
            The rows.

        Raises
        ------
        ValueError
            The transaction is another processor's, or a value cannot be the name of a folder.
        SchemaError
            There is no such column to partition by.
        OSError, polars.exceptions.ComputeError
            The files cannot be written.
        FencedError
            Another processor of this name has the lane.
        RuntimeError
            The transaction has ended.

        Examples
        --------
        >>> import redfloe
        >>> processor = redfloe.StreamProcessor(
        ...     url, "events", name="lake", on_idle="stop", block_ms=1
        ... )
        >>> sink = redfloe.ParquetSink(processor, "lake")
        >>> processor.run(lambda tx: sink.write(tx, tx.frame))
        """
        session: Session[Any] = tx._session
        return session.resolve(session.sinks.write(self, tx, as_frame(df)))

    def _stage(self, staged: _Staged, name: str, frame: pl.DataFrame) -> None:
        """Write rows aside, for files of this name."""
        parts = [(folder / name, rows) for folder, rows in self._parts(frame)]
        with staged.lock:
            staged.targets = self._staging.stage(
                staged.batch, staged.targets, parts, self._write_parquet
            )

    def _parts(self, frame: pl.DataFrame) -> list[tuple[Path, pl.DataFrame]]:
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


class Sinks:
    """What the sinks of a processor do from the time that it is entered until it is left."""

    def __init__(self, session: Session[Any], sinks: list[ParquetSink]) -> None:
        self._session = session
        self._sinks = sinks
        #: Which are as Redis says, and the lane's epoch in which that was seen.
        self._settled: list[ParquetSink] = []
        self._epoch: int | None = None

    async def settle(self) -> None:
        """Have all directories be as after the last commit; the lane is held."""
        stats = self._session.core.stats
        epoch, position = stats.epoch, stats.position
        if epoch is None or position is None:
            return
        if epoch != self._epoch:
            self._settled, self._epoch = [], epoch
        todo = [sink for sink in self._sinks if sink not in self._settled]
        if not todo:
            return
        batches = await self._load()
        for sink in todo:
            try:
                await self._apart(partial(_settle, sink, batches, epoch, position))
            except Exception:
                # Whoever has superseded this one has changed the directory meanwhile.
                await self._load()
                raise
            self._settled.append(sink)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to settle, as long as the lane is not acquired anew."""
        return len(self._settled) == len(self._sinks)

    async def write(self, sink: ParquetSink, tx: BaseTransaction, frame: pl.DataFrame) -> None:
        """Write rows aside, and have the transaction's commit name them."""
        session = self._session
        session.check(tx)
        if sink not in self._sinks:
            msg = "the transaction is of another processor than the sink"
            raise ValueError(msg)
        if frame.is_empty():
            return
        await self.settle()  # a sink that was made after the processor was entered
        table = await session.table(tx, _TABLE, "sink", _COLUMNS, None, None)
        name = sink._staging.name
        staged = sink._staged
        if staged is None or staged.transaction is not tx:
            batch = batch_name(tx._core.range, tx._core.epoch)
            before = table.lookup([name])["batch"][0]
            staged = sink._staged = _Staged(tx, batch, before)
        number, staged.writes = staged.writes, staged.writes + 1
        file = "_".join(tx._core.range) + (f"-{number}" if number else "") + ".parquet"
        try:
            await self._apart(partial(sink._stage, staged, file, frame))
        except Exception:
            await self._load()  # whoever has superseded this one deletes what it writes
            raise
        session.check(tx)
        table.upsert(pl.DataFrame({"sink": [name], "batch": [staged.batch]}))

    async def publish(self) -> None:
        """Have readers see what the commit that is in has named."""
        for sink in self._sinks:
            staged, sink._staged = sink._staged, None
            if staged is None or not staged.targets:
                continue
            try:
                await self._apart(partial(sink._staging.publish, staged.batch, staged.before))
            except BaseException:
                self._settled.clear()
                raise

    def discard(self) -> None:
        """Delete what was written for a transaction that is not going to be committed."""
        for sink in self._sinks:
            staged, sink._staged = sink._staged, None
            if staged is not None:
                sink._staging.discard(staged.batch)

    def forget(self) -> None:
        """Leave what was written as it is: whether its commit is in has to be settled."""
        self._settled.clear()
        for sink in self._sinks:
            sink._staged = None

    async def _load(self) -> dict[str, str]:
        """Give the batches that were committed last; it fails for one who has lost the lane."""
        session = self._session
        request = table_request("sink", _COLUMNS, known={}, event_time=None, expire_after=None)
        core = await session.wait(session.core.load_table(_TABLE.encode(), request, None))
        return dict(Table(core, request).frame().select("sink", "batch").iter_rows())

    async def _apart(self, act: Callable[[], None]) -> None:
        """Use the disk, in a thread where there is an event loop."""
        if self._session.is_async:
            await in_thread(act)
        else:
            act()


def _settle(sink: ParquetSink, batches: dict[str, str], epoch: int, position: str) -> None:
    sink._staging.settle(batches.get(sink._staging.open()), epoch, position)
